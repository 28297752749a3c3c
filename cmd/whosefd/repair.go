package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"whosefd/analyze"
	"whosefd/analyze/report"
	"whosefd/tracer"
	"whosefd/tracer/event"
)

// repairSchema is the version of what repair did as JSON.
const repairSchema = "whosefd.repair/v1"

// repairResult is what repair did, or with DryRun would do.
type repairResult struct {
	Schema string `json:"schema"`
	// Plan is null where there was nothing to repair.
	Plan    *event.Plan `json:"plan" jsonschema:"nullable"`
	DryRun  bool        `json:"dry_run,omitempty"`
	Threads []repaired  `json:"threads,omitempty"`
	// Now is what the debugger did after it.
	Now string `json:"now,omitempty"`
	// Hangs: it hangs again, at another library, and that was not repaired.
	Hangs bool `json:"hangs,omitempty"`
}

type repaired struct {
	TID       event.TID `json:"tid"`
	FD        event.FD  `json:"fd"`
	Done      bool      `json:"done"`
	ChangedUS int64     `json:"changed_us"` // for how long the registers were not its own
	ReadBytes *int64    `json:"read_bytes,omitempty"`
	Error     string    `json:"error,omitempty"`
}

type repairCmd struct {
	a       *app
	t       target
	format  string
	output  string
	release bool
	detach  bool
	dryRun  bool
	library string

	files     standIns
	standIns  []event.StandIn
	cores     []string
	inferiors []string
	named     subjects
	started   uint64 // when the debugger started

	attached bool
	text     io.Writer // what is said goes there
}

func (a *app) repair() *cobra.Command {
	r := &repairCmd{a: a, files: standIns{nameless: true}}
	cmd := &cobra.Command{
		Use:   "repair [PID | NAME]",
		Short: "Give a hung debugger back, with the symbols of the library it could not read",
		Long: `Un-hangs a debugger that waits for a wrong descriptor: opens the inferior's file
inside the debugger, puts it behind that descriptor, and lets the read go on.
Nothing is killed. It is done only where identity proves both ends.

Then it stays as a guard, until the debugger ends or Ctrl-C, since gdb opens the
name again later. With --detach it leaves at once: when gdb opens the name the
next time, which may be at once, it reads the wrong file again. It then has no
symbols of this library, or incomplete ones, or hangs again.

Of a library of a core file no process has the right file any more: --with names
one, which must have the build id that the core tells.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if r.dryRun {
				if err := without(cmd, "means nothing with --dry-run, which does nothing that could be recorded", "output"); err != nil {
					return err
				}
			}
			if r.release {
				if err := without(cmd, "means nothing with --release, which puts no file anywhere", "with", "force"); err != nil {
					return err
				}
			}
			return r.run(cmd.Context(), args)
		},
	}
	r.t.flag(a, cmd)
	formatFlag(cmd, &r.format, "text", "json")
	cmd.Flags().StringSliceVar(&r.inferiors, "inferior", nil, "a process that the debugger looks at, where it is not its tracer")
	cmd.Flags().StringSliceVar(&r.cores, "core", nil, "a core file that the debugger looks at, where that is not seen")
	r.files.flags(cmd, "FILE, or NAME=FILE: put FILE where the debugger hangs on a library of a core file, if it is the same library")
	cmd.Flags().StringVar(&r.library, "library", "", "the name of the library that it hangs on, where several could be it and you know which")
	cmd.Flags().BoolVar(&r.dryRun, "dry-run", false, "print the plan, change nothing")
	cmd.Flags().BoolVar(&r.release, "release", false, "only end the read, as at the end of a file: no symbols of this library")
	cmd.Flags().BoolVar(&r.detach, "detach", false, "leave at once, instead of staying as a guard")
	cmd.Flags().StringVarP(&r.output, "output", "o", "", "record what happens to this file, as JSON lines; - is standard output, and what is said goes to standard error")
	return cmd
}

func (r *repairCmd) run(ctx context.Context, args []string) error {
	if r.output != "" {
		if err := checkOutput(r.output); err != nil {
			return err
		}
	}
	r.text = r.a.out
	if isStdout(r.output) { // which has the record
		r.text = r.a.err
	}
	pid, err := r.t.find(r.a, args)
	if err != nil {
		return err
	}
	if !r.dryRun {
		if err := r.t.consent(r.a, pid, args); err != nil {
			return err
		}
	}
	r.started, _ = r.a.view.StartTime(event.TID(pid)) // the attach will tell
	r.named.cores = r.cores
	if r.named.pids, err = r.a.subjectsOf(r.inferiors); err != nil {
		return err
	}
	if r.standIns, err = r.files.list(r.a); err != nil {
		return err
	}
	plan, d, err := r.a.plan(pid, r.named, r.options())
	if errors.Is(err, analyze.ErrHealthy) {
		return r.healthy(pid, d)
	}
	if err != nil {
		return err
	}
	if r.dryRun {
		return r.showPlan(plan)
	}
	rec, err := r.a.newRecorder(r.output)
	if err != nil {
		return err
	}
	err = r.carryOut(ctx, pid, plan, rec)
	return errors.Join(err, rec.end(r.attached))
}

// options say what plan was asked for.
func (r *repairCmd) options() analyze.PlanOptions {
	return analyze.PlanOptions{Release: r.release, Detach: r.detach, StandIns: r.standIns, Library: event.Text(r.library), Inferiors: r.named.pids}
}

// healthy changes nothing and says so.
func (r *repairCmd) healthy(pid event.PID, d *analyze.Diagnosis) error {
	if r.format == "json" {
		return r.json(repairResult{Now: string(d.Summary)})
	}
	return r.print("Nothing to repair in pid %d, and nothing was changed. %s\n", pid, report.Clean(string(d.Summary)))
}

// print writes a text; its lines fit the terminal.
func (r *repairCmd) print(format string, args ...any) error {
	return report.Prose(r.text, fmt.Sprintf(format, args...), r.a.style(r.text))
}

func (r *repairCmd) json(res repairResult) error {
	res.Schema = repairSchema
	return report.JSON(r.text, res)
}

func (r *repairCmd) showPlan(p *event.Plan) error {
	if r.format == "json" {
		return r.json(repairResult{Plan: p, DryRun: true})
	}
	lines := fmt.Sprintf("This would be done to pid %d; nothing was changed:\n", p.PID)
	for i, s := range p.Steps {
		lines += fmt.Sprintf("%3d. %s\n", i+1, report.Clean(string(s.Text)))
		if s.Call != nil {
			lines += fmt.Sprintf("     %s\n", report.Clean(s.Call.String()))
		}
		if s.Undo != "" {
			lines += fmt.Sprintf("     undo: %s\n", report.Clean(string(s.Undo)))
		}
		if s.UndoCall != nil {
			lines += fmt.Sprintf("           %s\n", report.Clean(s.UndoCall.String()))
		}
	}
	return r.print("%s", lines)
}

func (r *repairCmd) carryOut(ctx context.Context, pid event.PID, plan *event.Plan, rec *recorder) error {
	ctx, signalled := untilSignal(ctx, false)
	defer signalled()
	res := &repairResult{Plan: plan}
	stay := !r.leaves()
	err := tracer.Repair(ctx, tracer.RepairOptions{
		TraceOptions: tracer.TraceOptions{View: r.a.view, Tool: tool(), PID: pid, Started: r.started, Inferiors: r.named.pids,
			Emit: rec.write, Attached: func() { r.attached = true }},
		Plan:     plan,
		StandIns: r.standIns,
		Stay:     stay,
		Report:   func(threads []*tracer.ThreadRepair, last bool) error { return r.report(pid, res, threads, last) },
		Next: func() *event.Plan {
			next, _, err := r.a.plan(pid, r.named, r.options())
			if err != nil {
				return nil
			}
			return next
		},
	})
	if err == nil && stay && r.format == "text" {
		r.a.say("no longer guarding pid %d", pid)
	}
	return err
}

// leaves says that the debugger is not guarded after the repair.
func (r *repairCmd) leaves() bool { return r.detach || r.release }

// code is the exit code where the debugger was left hanging nevertheless.
func (r *repairCmd) code(res *repairResult) error {
	if res.Hangs && r.leaves() {
		return exit{code: exitFindings}
	}
	return nil
}

const hasEnded = "the debugger has ended"

// now says what the debugger does. We follow it, so at some moments it is
// stopped by us; another moment says more.
func (r *repairCmd) now(pid event.PID) (what string, hangs bool) {
	for try := 0; ; try++ {
		d, err := r.a.diagnose(pid, r.named, false)
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			return err.Error(), false
		}
		if err != nil {
			return hasEnded, false
		}
		if d.Debugger.State != "traced" && d.Debugger.State != "running" || try == 20 {
			return string(d.Summary), d.Verdict == string(analyze.Hang)
		}
		time.Sleep(25 * time.Millisecond)
	}
}

// report says what was done and, if it is the last, what the debugger does now.
// JSON comes all at the last.
func (r *repairCmd) report(pid event.PID, res *repairResult, threads []*tracer.ThreadRepair, last bool) error {
	var failed error
	before := len(res.Threads)
	for _, t := range threads {
		one := repaired{TID: t.TID, FD: t.FD, Done: t.Done, ChangedUS: t.Changed.Microseconds()}
		if t.Read.Known {
			one.ReadBytes = &t.Read.Val
		}
		if t.Err != nil {
			one.Error = t.Err.Error()
			failed = errors.Join(failed, fmt.Errorf("repair of thread %d: %w", t.TID, t.Err))
		}
		res.Threads = append(res.Threads, one)
	}
	last = last || failed != nil
	if last {
		res.Now, res.Hangs = r.now(pid)
	}
	if r.format == "json" {
		if last {
			if err := errors.Join(r.json(*res), failed); err != nil {
				return err
			}
			return r.code(res)
		}
		return nil
	}
	for _, t := range res.Threads[before:] {
		if !t.Done {
			continue
		}
		what := "the inferior's file"
		if r.release {
			what = "an empty file"
		}
		line := fmt.Sprintf("Repaired: descriptor %d of pid %d is %s now", t.FD, pid, what)
		if t.ReadBytes != nil {
			line += fmt.Sprintf(", and the read that hung has returned %d bytes", *t.ReadBytes)
		}
		if err := r.print("%s. The thread's registers were changed for %d µs.\n", line, t.ChangedUS); err != nil {
			return errors.Join(err, failed)
		}
	}
	if failed != nil || !last {
		return failed
	}
	end := "Left. Whenever the debugger opens the name again, it gets the wrong file again: it misses symbols of the library, or hangs. " +
		"Run repair again then, or without --detach, or use guard."
	if r.release {
		end = "Left. The debugger goes on without symbols of the library. If it opens the name again, it hangs again."
	}
	switch {
	case res.Now == hasEnded:
		end = "There is nothing left to guard."
	case res.Hangs && r.leaves():
		end = fmt.Sprintf("Left, and it hangs: whosefd explain %d says why.", pid)
	case !r.leaves():
		end = "If gdb has no symbols of the library now, it had read bytes of the wrong file before it hung: " +
			"nosharedlibrary and then sharedlibrary, while the program is stopped, read it again.\n" +
			"Staying as a guard, since the debugger opens that name again later. Ctrl-C ends that; the debugger runs on."
	}
	if err := r.print("Now: %s\n%s\n", report.Clean(res.Now), end); err != nil {
		return err
	}
	return r.code(res)
}
