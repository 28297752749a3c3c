package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"whosefd/analyze"
	"whosefd/analyze/report"
	"whosefd/tracer"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// follow is what trace and guard have in common: whom to follow, and where the
// record goes.
type follow struct {
	target
	output       string
	cpu          string
	inferiors    []string
	findingsExit bool
}

func (f *follow) flags(cmd *cobra.Command) {
	f.flag(cmd)
	cmd.Flags().StringVarP(&f.output, "output", "o", "", "record to this file, as JSON lines")
	cmd.Flags().StringSliceVar(&f.inferiors, "inferior", nil, "a process that the debugger looks at, where it is not its tracer")
	cmd.Flags().BoolVar(&f.findingsExit, "findings-exit", false, "of a launched command: exit with 0 or 1 for findings, not with its own code")
	cmd.Flags().StringVar(&f.cpu, "cpu", "auto", "auto: keep busy threads on one CPU meanwhile, which is faster; N: on this one; off: leave them where they are")
	complete(cmd, "cpu", "auto", "off")
	cmd.Flags().SetInterspersed(false)
}

// options fills in whom to follow. The arguments behind "--" are a command;
// one before it is a process.
func (f *follow) options(a *app, cmd *cobra.Command, args []string) (o tracer.TraceOptions, err error) {
	o = tracer.TraceOptions{View: a.view, Tool: tool()}
	if n, err := strconv.ParseUint(f.cpu, 10, 16); err == nil {
		o.CPU = event.Some(int(n))
	} else if f.cpu != "auto" && f.cpu != "off" {
		return o, fmt.Errorf("--cpu %q: not auto, off, or the number of a CPU", f.cpu)
	}
	if o.Inferiors, err = a.processes(f.inferiors); err != nil {
		return o, err
	}
	if dash := cmd.ArgsLenAtDash(); dash == 0 && len(args) > 0 {
		if f.pid != "" {
			return o, errors.New("give a process or a command, not both")
		}
		o.Argv, o.Env = args, os.Environ()
		if o.Path, err = exec.LookPath(args[0]); err != nil {
			return o, fmt.Errorf("run %s: %w", args[0], errors.Unwrap(err))
		}
		return o, nil
	} else if dash == 0 {
		return o, errors.New("no command behind --")
	} else if len(args) > 1 {
		return o, fmt.Errorf("%d arguments: give one process, or -- and a command", len(args))
	}
	if o.PID, err = f.find(a, args); err == nil {
		o.Started, _ = a.view.StartTime(event.TID(o.PID)) // the attach will tell
	}
	return o, err
}

// outcome is the exit code for how a trace ended.
func (f *follow) outcome(o *tracer.TraceOptions, out tracer.Outcome, sig os.Signal, d *analyze.Diagnosis) error {
	if o.PID != 0 || f.findingsExit {
		if len(d.Findings) == 0 {
			if err := procview.Scarce(); err != nil {
				return err // "nothing found" would say too much
			}
		}
		return findingsExit(d)
	}
	if s, ok := sig.(syscall.Signal); ok && !out.Ended {
		return exit{code: 128 + int(s)} // the command runs on without us
	}
	if out.Signal != 0 {
		return exit{code: 128 + int(out.Signal), signal: out.Signal}
	}
	if out.Code != 0 {
		return exit{code: out.Code}
	}
	return nil
}

// keeper starts what gives the CPU masks back if we are killed, unless masks
// are to be left alone. The function that it gives ends it, and is told how the
// trace ended.
func (f *follow) keeper(o *tracer.TraceOptions) func(error) {
	if f.cpu == "off" {
		return func(error) {}
	}
	k, err := tracer.StartKeeper()
	if err != nil {
		return func(error) {} // slower, and all right
	}
	o.Keeper = k
	return func(err error) { _ = k.End(err == nil) }
}

func (a *app) trace() *cobra.Command {
	var (
		f    follow
		fl   filterFlags
		live bool
		last time.Duration
	)
	cmd := &cobra.Command{
		Use:   "trace [-p PID | -- COMMAND ARGS…]",
		Short: "Log a debugger's file system calls, with what each descriptor really is",
		Long: `Follows the file system calls of a process, all its threads, until it ends,
Ctrl-C, or --for. It prints the calls as they happen, then the tables and what
was found. With -o the record goes to a file, and only the summary and the
findings are printed.

Processes that the debugger starts are not followed: they stay its own to trace.
What is said about a launched command goes to standard error, and its exit code
is passed on.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := fl.filter()
			if err != nil {
				return err
			}
			o, err := f.options(a, cmd, args)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("for") && last <= 0 {
				return fmt.Errorf("--for %v: not a time to wait", last)
			}
			o.For = last
			w := a.out
			if o.PID == 0 {
				w = a.err
			}
			return a.runTrace(cmd.Context(), &f, o, filter, w, live || f.output == "")
		},
	}
	f.flags(cmd)
	fl.flags(cmd)
	cmd.Flags().BoolVar(&live, "live", false, "print the calls as they happen, with -o too")
	cmd.Flags().DurationVar(&last, "for", 0, "end the trace after this time, such as 5s")
	return cmd
}

func (a *app) runTrace(ctx context.Context, f *follow, o tracer.TraceOptions, filter analyze.Filter, w io.Writer, live bool) error {
	rec, err := newRecorder(f.output)
	if err != nil {
		return err
	}
	style := a.style(w)
	rows := report.NewLive(w, style)
	an, tables := analyze.New(), analyze.NewTables(filter)
	o.Emit = func(ev event.Event) error {
		mark := an.Add(ev)
		tables.Add(ev, mark)
		if call, ok := ev.(*event.Syscall); ok && live && filter.Match(call, mark) {
			if err := rows.Add(call, mark); err != nil {
				return fmt.Errorf("print: %w", err)
			}
		}
		return rec.write(ev)
	}
	attached := false
	o.Attached = func() { attached = true }
	ctx, signalled := untilSignal(ctx, o.PID == 0)
	done := f.keeper(&o)
	out, err := tracer.Trace(ctx, o)
	done(err)
	sig := signalled()
	if err = errors.Join(err, rec.end(attached)); err != nil {
		return err
	}
	d := an.Diagnosis()
	for _, show := range []func(io.Writer, *analyze.Tables, report.Format, report.Style) error{report.Summary, report.Descriptors} {
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
		if err := show(w, tables, report.FormatTable, style); err != nil {
			return err
		}
	}
	if len(d.Findings) > 0 || !out.Ended {
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
		if err := report.Text(w, d, style); err != nil {
			return err
		}
	}
	return f.outcome(&o, out, sig, d)
}
