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
		verbose bool
	)
	cmd := &cobra.Command{
		Use:   "guard [-p PID | -- gdb ARGS…]",
		Short: "Run or join a debugger so that the bug never bites",
		Long: `Follows a debugger, and leads each file system call with a name that belongs to
its inferior, and would lead the debugger elsewhere, to the file that the
inferior has mapped. The debugger does not see the difference. Everything else
is left alone. A debugger that hangs already is repaired first.

Of a launched debugger the terminal and the exit code are its own; nothing is
printed unless --verbose asks for it. Ending guard leaves the debugger running.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := f.options(a, cmd, args)
			if err != nil {
				return err
			}
			g := tracer.GuardOptions{TraceOptions: o, Stay: true}
			if o.PID != 0 {
				plan, d, err := a.plan(o.PID, o.Inferiors, analyze.PlanRepair)
				switch {
				case err == nil:
					g.Stuck = stuck(plan)
				case d == nil:
					return err
				case !errors.Is(err, analyze.ErrHealthy):
					a.say("not repaired, only guarded: %v", err)
				}
				g.Attached = func() { a.say("guarding %s (pid %d) until it ends or Ctrl-C", d.Debugger.Comm, o.PID) }
			}
			return a.runGuard(cmd.Context(), &f, g, verbose)
		},
	}
	f.flags(cmd)
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "print each call that is led elsewhere, on standard error")
	return cmd
}

// say prints a line of ours to standard error.
func (a *app) say(format string, args ...any) {
	fmt.Fprintf(a.err, "whosefd: %s\n", report.Clean(fmt.Sprintf(format, args...)))
}

func (a *app) runGuard(ctx context.Context, f *follow, g tracer.GuardOptions, verbose bool) error {
	rec, err := newRecorder(f.output)
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
	if err = errors.Join(err, rec.end(attached)); err != nil {
		return err
	}
	for _, s := range g.Stuck {
		if s.Err != nil {
			return fmt.Errorf("repair: %w", s.Err)
		}
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
	return f.outcome(&g.TraceOptions, out, sig, an.Diagnosis())
}

// plan diagnoses a debugger and plans a repair of it. The diagnosis is nil only
// if the process could not be looked at. Backtraces, for which the debugger is
// stopped, are taken where nothing else tells which of two names was opened. One
// that just runs, perhaps for a signal that reached it in its hang, is looked at
// again for a moment.
func (a *app) plan(pid event.PID, named []event.PID, planner func(*analyze.Diagnosis) (*analyze.Plan, error)) (*analyze.Plan, *analyze.Diagnosis, error) {
	stacks := false
	for try := 0; ; try++ {
		d, err := a.diagnose(pid, named, stacks)
		if err != nil {
			return nil, nil, err
		}
		p, err := planner(d)
		switch {
		case !stacks && errors.Is(err, analyze.ErrNotProved):
			stacks = true
		case errors.Is(err, analyze.ErrHealthy) && d.Debugger != nil && d.Debugger.State == "running" && try < 20:
			time.Sleep(5 * time.Millisecond)
		default:
			return p, d, err
		}
	}
}

// diagnose takes a snapshot, with backtraces or without; named are inferiors that
// the user gave.
func (a *app) diagnose(pid event.PID, named []event.PID, stacks bool) (*analyze.Diagnosis, error) {
	events, err := tracer.Snapshot(pid, tracer.SnapshotOptions{View: a.view, Tool: tool(), Inferiors: named, Stacks: stacks})
	if err != nil {
		return nil, err
	}
	an := analyze.New()
	for _, ev := range events {
		an.Add(ev)
	}
	return an.Diagnosis(), nil
}

// stuck makes the tracer's task out of a plan.
func stuck(p *analyze.Plan) []*tracer.Stuck {
	var tasks []*tracer.Stuck
	byTID := map[event.TID]*tracer.Stuck{}
	for _, s := range p.Steps {
		switch s.Kind {
		case analyze.StepAttach:
			t := &tracer.Stuck{TID: s.TID}
			byTID[s.TID] = t
			tasks = append(tasks, t)
		case analyze.StepOpen:
			byTID[s.TID].Path, byTID[s.TID].Right = string(s.Path), *s.Expect
		case analyze.StepRetake:
			byTID[s.TID].Retake = true
		case analyze.StepReplace:
			byTID[s.TID].FD, byTID[s.TID].Wrong = s.FD.Val, *s.Replaces
		}
	}
	return tasks
}
