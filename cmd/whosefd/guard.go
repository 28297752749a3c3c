package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"whosefd/analyze"
	"whosefd/analyze/report"
	"whosefd/tracer"
	"whosefd/tracer/event"
)

func (a *app) guard() *cobra.Command {
	var (
		f       follow
		files   standIns
		verbose bool
	)
	cmd := &cobra.Command{
		Use:   "guard [PID | NAME | [--] gdb ARGS…]",
		Short: "Run or join a debugger so that the bug never bites",
		Long: `Follows a debugger, and leads each file system call with a name that belongs to
its inferior, and would lead the debugger elsewhere, to the file that the
inferior has mapped. The debugger does not see the difference. Everything else
is left alone. A debugger that hangs already is repaired first.

The library that a name of a core file meant is left nowhere: its opens fail, as
those of a file that is not there, unless --with names a file for it.

Of a launched debugger the terminal and the exit code are its own; nothing is
printed unless --verbose asks for it. Ending guard leaves the debugger running.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := f.options(a, cmd)
			if err != nil {
				return err
			}
			g := tracer.GuardOptions{TraceOptions: o, Record: f.output != "" || f.findingsExit}
			if o.PID == 0 && !verbose {
				g.Fallback = nil // the terminal is the debugger's
			}
			if g.StandIns, err = files.list(a); err != nil {
				return err
			}
			if o.PID != 0 {
				if err := without(cmd, "is for a launched command", "findings-exit"); err != nil {
					return err
				}
				if err := f.consent(a, o.PID, args); err != nil {
					return err
				}
				plan, d, err := a.plan(o.PID, subjects{pids: o.Inferiors}, analyze.PlanOptions{StandIns: g.StandIns})
				switch {
				case err == nil:
					g.Plan = plan
				case d == nil:
					return err
				case !errors.Is(err, analyze.ErrHealthy):
					a.say("not repaired, only guarded: %v", err)
				}
				a.sayShutOut(d)
				g.Attached = func() { a.say("guarding %s (pid %d) until it ends or Ctrl-C", d.Debugger.Comm, o.PID) }
			}
			return a.runGuard(cmd.Context(), &f, g, verbose)
		},
	}
	f.flags(a, cmd)
	files.flags(cmd, "NAME=FILE: lead this name of a core file to FILE, if that is the same library")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "print each call that is led elsewhere, on standard error")
	return cmd
}

// sayShutOut says where a guard cannot help: the opens are made by a copy of the debugger, which fails
// before it comes to them.
func (a *app) sayShutOut(d *analyze.Diagnosis) {
	for i := range d.Findings {
		if f := &d.Findings[i]; f.ShutOut() {
			a.say("guard cannot help with the files of pid %d: the debugger may not enter its mount namespace (setns: EPERM), and has no symbols. "+
				"whosefd preflight %d --sysroot DIR makes a folder with which gdb finds them", f.Owner, f.Owner)
		}
	}
}

func (a *app) runGuard(ctx context.Context, f *follow, g tracer.GuardOptions, verbose bool) error {
	rec, err := a.newRecorder(f.output)
	if err != nil {
		return err
	}
	rows := report.NewLive(a.err, a.style(a.err))
	an := analyze.New()
	led := 0
	g.Emit = func(ev event.Event) error {
		mark := an.Add(ev)
		if call, ok := ev.(*event.Syscall); ok && call.Rewritten != nil {
			led++
			if verbose {
				if err := rows.Add(call, mark); err != nil {
					return fmt.Errorf("print: %w", err)
				}
			}
		}
		return rec.write(ev)
	}
	var nowhere []string // said when the terminal is ours again
	g.Nowhere = func(name event.Text, why error) {
		text := fmt.Sprintf("%s was led to no file: %v", name, why)
		if g.PID != 0 {
			a.say("%s", text)
		} else {
			nowhere = append(nowhere, text)
		}
	}
	served := ""
	g.Served = func(_, server event.PID) {
		served = fmt.Sprintf("%s (pid %d) traces the inferior for it, and opens the names where the debugger asks it for files (of gdb: set sysroot target:): then guard that, "+
			"by whosefd guard -p %d, or started as whosefd guard -- %[1]s …", a.view.Comm(server), server, server)
	}
	g.Failed = func(reason string) { a.say("guard: %s", reason) }
	attached, tell := false, g.Attached
	g.Attached = func() {
		attached = true
		if tell != nil {
			tell()
		}
	}
	ctx, signalled := untilSignal(ctx, g.PID == 0)
	done := f.keeper(&g.TraceOptions)
	out, err := tracer.Guard(ctx, g)
	done(err)
	sig := signalled()
	if led == 0 && served != "" {
		nowhere = append(nowhere, served)
	}
	for _, text := range nowhere {
		a.say("%s", text)
	}
	if err = errors.Join(err, rows.Flush(), rec.end(attached)); err != nil {
		return err
	}
	if g.PID != 0 {
		switch {
		case led == 0:
			a.say("no call had to be led elsewhere")
		case led == 1:
			a.say("1 call was led to the inferior's file")
		default:
			a.say("%d calls were led to the inferior's files", led)
		}
		return nil
	}
	d := an.Diagnosis()
	a.sayShutOut(d)
	return f.outcome(&g.TraceOptions, out, sig, d)
}

// runsOn is for how long a debugger that runs may be on its way back to a read:
// a busy machine may not let it.
const runsOn = 2 * time.Second

// plan diagnoses a debugger and plans a repair of it. The diagnosis is nil only
// if the process could not be looked at. Backtraces, for which the debugger is
// stopped, are taken where nothing else tells which of two names was opened. One
// that just runs, perhaps for a signal that reached it in its hang, is looked at
// again for a moment.
func (a *app) plan(pid event.PID, named subjects, o analyze.PlanOptions) (*event.Plan, *analyze.Diagnosis, error) {
	stacks := false
	for begun := time.Now(); ; {
		d, err := a.diagnose(pid, named, stacks)
		if err != nil {
			return nil, nil, err
		}
		p, err := analyze.PlanRepair(d, o)
		switch {
		case !stacks && errors.Is(err, analyze.ErrNotProved):
			stacks = true
		case errors.Is(err, analyze.ErrHealthy) && d.Debugger != nil && d.Debugger.State == "running" && time.Since(begun) < runsOn:
			time.Sleep(5 * time.Millisecond)
		default:
			return p, d, err
		}
	}
}

// subjects are what a debugger looks at, given by the user: processes and core files.
type subjects struct {
	pids  []event.PID
	cores []string
}

// diagnose takes a snapshot, with backtraces or without; named are inferiors that
// the user gave.
func (a *app) diagnose(pid event.PID, named subjects, stacks bool) (*analyze.Diagnosis, error) {
	events, err := tracer.Snapshot(pid, tracer.SnapshotOptions{View: a.view, Tool: tool(), Inferiors: named.pids, Cores: named.cores, Stacks: stacks})
	if err != nil {
		return nil, err
	}
	return analyze.New(events...).Diagnosis(), nil
}
