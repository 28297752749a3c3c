package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"

	"whosefd/analyze"
	"whosefd/analyze/screen"
	"whosefd/tracer"
	"whosefd/tracer/event"
)

func (a *app) top() *cobra.Command {
	var (
		t      target
		delay  float64
		follow bool
	)
	cmd := &cobra.Command{
		Use:   "top [PID | NAME | FILE…]",
		Short: "Show live, on a full screen, what every debugger waits for",
		Long: `Shows the threads of every debugger of this machine, or of one process, and what
each waits for and on whom, the suspicious first. Enter opens a line into its
evidence. Keys are those of top and htop; ? lists them.

Nothing is attached to or stopped, unless you ask for it: t (or --trace) follows
the calls of a debugger, as whosefd trace does, until t is pressed again.

Of a FILE, a recording or a log of strace, it shows the evidence, and the calls
and descriptors to scroll and search in.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.terminal(a.out) == 0 || a.getenv("TERM") == "dumb" || a.getenv("TERM") == "" {
				return errors.New("top needs a terminal that can move its cursor; whosefd ps prints the same once")
			}
			if delay < 0.1 || delay > 3600 {
				return fmt.Errorf("--delay %v: not from 0.1 to 3600 seconds", delay)
			}
			s := screen.Source{Style: a.style(a.out), Delay: time.Duration(delay * float64(time.Second))}
			if files, ok := a.inputs(&t, args); ok {
				if err := liveOnly(cmd, "delay", "trace"); err != nil {
					return err
				}
				return a.scroll(cmd.Context(), s, files)
			}
			only, err := a.processes(slices.Concat(t.pids, args))
			if err != nil {
				return err
			}
			if follow {
				if len(only) != 1 {
					return errors.New("--trace needs one process: its number or its name")
				}
				s.FollowFirst = only[0]
			}
			s.Look = func() ([]screen.Debugger, error) { return a.looks(only) }
			s.Follow = func(pid event.PID) *screen.Record { return a.following(cmd.Context(), pid) }
			return a.show(cmd.Context(), s)
		},
	}
	t.flag(a, cmd)
	cmd.Flags().Float64VarP(&delay, "delay", "d", 2, "seconds from one look to the next")
	cmd.Flags().BoolVarP(&follow, "trace", "t", false, "attach to the one process, and follow its calls from the start")
	return cmd
}

// scrolled is how many calls of a recording can be scrolled in, the newest.
const scrolled = 100_000

// followedCalls is how many calls of a trace can be scrolled in, the newest.
const followedCalls = 10_000

// scroll shows a recording.
func (a *app) scroll(ctx context.Context, s screen.Source, files []string) error {
	an := analyze.New()
	tables := an.Tables(analyze.Filter{Rows: scrolled})
	counts, err := a.readSource(files, func(ev event.Event) { tables.Add(ev, an.Add(ev)) })
	if err != nil {
		return err
	}
	addCounts(tables, counts)
	s.Name = files[0]
	if s.Name == "-" {
		s.Name = "standard input"
	}
	d := an.Diagnosis()
	s.Record = &screen.Record{Tables: tables, Diagnose: func() *analyze.Diagnosis { return d }, Over: true}
	return a.show(ctx, s)
}

// following attaches to a process and traces it, until it is stopped.
func (a *app) following(ctx context.Context, pid event.PID) *screen.Record {
	ctx, cancel := context.WithCancel(ctx)
	an := analyze.New()
	r := &screen.Record{Tables: an.Tables(analyze.Filter{Rows: followedCalls}), Diagnose: an.Diagnosis}
	o := tracer.TraceOptions{View: a.view, Tool: tool(), PID: pid, Engine: tracer.EnginePtrace, Emit: func(ev event.Event) error {
		r.Lock()
		defer r.Unlock()
		r.Tables.Add(ev, an.Add(ev))
		return nil
	}}
	done := make(chan struct{})
	r.Stop = func() { cancel(); <-done }
	go func() {
		defer close(done)
		f := follow{cpu: "auto"}
		ended := f.keeper(&o)
		err := func() (err error) {
			defer tracer.AsError(&err)
			_, err = tracer.Trace(ctx, o)
			return err
		}()
		ended(err)
		r.Lock()
		defer r.Unlock()
		r.Over, r.Err = true, err
	}()
	return r
}

// show runs the screen until its user, or a signal, ends it.
func (a *app) show(ctx context.Context, s screen.Source) error {
	ctx, signalled := untilSignal(ctx, false)
	defer signalled()
	m := screen.New(s)
	o := []tea.ProgramOption{tea.WithContext(ctx), tea.WithoutSignalHandler(), tea.WithFPS(20), tea.WithOutput(a.out)}
	_, err := tea.NewProgram(m, o...).Run()
	m.Stop() // whatever has ended it
	switch sig := signalled(); {
	case err != nil && !(errors.Is(err, tea.ErrProgramKilled) && sig != nil):
		return fmt.Errorf("the screen: %w", err)
	case m.Err() != nil:
		return m.Err()
	case m.Found():
		return exit{code: exitFindings}
	}
	return nil
}

// looks are a look at all debuggers, or certain processes.
func (a *app) looks(only []event.PID) (all []screen.Debugger, err error) {
	err = a.eachDebugger(only, func(row analyze.PSRow, an *analyze.Analysis) {
		d := screen.Debugger{Row: row}
		if an != nil {
			d.Diagnosis = an.Diagnosis()
		}
		if row.PID != event.PID(os.Getpid()) {
			all = append(all, d)
		}
	})
	return all, err
}
