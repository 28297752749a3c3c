package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"whosefd/analyze"
	"whosefd/analyze/report"
	"whosefd/tracer"
	"whosefd/tracer/event"
)

// repairResult is what repair did, as JSON.
type repairResult struct {
	Plan    *analyze.Plan `json:"plan"`
	DryRun  bool          `json:"dry_run,omitempty"`
	Threads []repaired    `json:"threads,omitempty"`
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
	// TakenBytes are those that it had taken from the wrong file, and that were
	// replaced; TakenUnknown says why it is not known whether there were any.
	TakenBytes   uint64 `json:"taken_bytes,omitempty"`
	TakenUnknown string `json:"taken_unknown,omitempty"`
	Error        string `json:"error,omitempty"`
}

type repairCmd struct {
	a       *app
	t       target
	format  string
	output  string
	release bool
	detach  bool
	dryRun  bool

	inferiors []string
	named     []event.PID // the processes that those are
	started   uint64      // when the debugger started

	attached bool
}

func (a *app) repair() *cobra.Command {
	r := &repairCmd{a: a}
	cmd := &cobra.Command{
		Use:   "repair [PID | NAME]",
		Short: "Give a hung debugger back, with the symbols of the library it could not read",
		Long: `Un-hangs a debugger that waits for a wrong descriptor: opens the inferior's file
inside the debugger, puts it behind that descriptor, and lets the read go on.
Nothing is killed. It is done only where identity proves both ends.

Then it stays as a guard, until the debugger ends or Ctrl-C, since gdb opens the
name again later. With --detach it leaves at once: when gdb opens the name the
next time, which may be at once, it reads the wrong file again. It then has no
symbols of this library, or incomplete ones, or hangs again.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return r.run(cmd.Context(), args) },
	}
	r.t.flag(cmd)
	formatFlag(cmd, &r.format, "text", "json")
	cmd.Flags().StringSliceVar(&r.inferiors, "inferior", nil, "a process that the debugger looks at, where it is not its tracer")
	cmd.Flags().BoolVar(&r.dryRun, "dry-run", false, "print the plan, change nothing")
	cmd.Flags().BoolVar(&r.release, "release", false, "only end the read, as at the end of a file: no symbols of this library")
	cmd.Flags().BoolVar(&r.detach, "detach", false, "leave at once, instead of staying as a guard")
	cmd.Flags().StringVarP(&r.output, "output", "o", "", "record what happens to this file, as JSON lines")
	return cmd
}

func (r *repairCmd) run(ctx context.Context, args []string) error {
	if r.output != "" {
		if err := checkOutput(r.output); err != nil {
			return err
		}
	}
	pid, err := r.t.find(r.a, args)
	if err != nil {
		return err
	}
	r.started, _ = r.a.view.StartTime(event.TID(pid)) // the attach will tell
	if r.named, err = r.a.processes(r.inferiors); err != nil {
		return err
	}
	plan, d, err := r.a.plan(pid, r.named, r.planner())
	if errors.Is(err, analyze.ErrHealthy) {
		return r.healthy(pid, d)
	}
	if err != nil {
		return err
	}
	if r.dryRun {
		return r.showPlan(plan)
	}
	rec, err := newRecorder(r.output)
	if err != nil {
		return err
	}
	err = r.carryOut(ctx, pid, plan, rec)
	return errors.Join(err, rec.end(r.attached))
}

// planner makes the plan that was asked for.
func (r *repairCmd) planner() func(*analyze.Diagnosis) (*analyze.Plan, error) {
	if r.release {
		return analyze.PlanRelease
	}
	return analyze.PlanRepair
}

// healthy changes nothing and says so.
func (r *repairCmd) healthy(pid event.PID, d *analyze.Diagnosis) error {
	if r.format == "json" {
		return r.json(repairResult{Now: string(d.Summary)})
	}
	_, err := fmt.Fprintf(r.a.out, "Nothing to repair in pid %d, and nothing was changed. %s\n", pid, report.Clean(string(d.Summary)))
	return err
}

func (r *repairCmd) json(res repairResult) error { return report.JSON(r.a.out, res) }

func (r *repairCmd) showPlan(p *analyze.Plan) error {
	if r.format == "json" {
		return r.json(repairResult{Plan: p, DryRun: true})
	}
	if _, err := fmt.Fprintf(r.a.out, "This would be done to pid %d; nothing was changed:\n", p.PID); err != nil {
		return err
	}
	for i, s := range p.Steps {
		if s.Kind == analyze.StepGuard && r.detach {
			continue
		}
		if _, err := fmt.Fprintf(r.a.out, "%3d. %s\n", i+1, report.Clean(string(s.Text))); err != nil {
			return err
		}
		if s.Undo != "" {
			if _, err := fmt.Fprintf(r.a.out, "     undo: %s\n", report.Clean(string(s.Undo))); err != nil {
				return err
			}
		}
	}
	return nil
}

const (
	// settles is how long a repaired debugger is given to leave the read.
	settles = 3 * time.Second
	// maxRounds bounds how many libraries one run repairs without staying.
	maxRounds = 64
)

func (r *repairCmd) carryOut(ctx context.Context, pid event.PID, plan *analyze.Plan, rec *recorder) error {
	stay := !r.leaves()
	ctx, signalled := untilSignal(ctx, false)
	defer signalled()
	res := &repairResult{Plan: plan}
	for round := 1; ; round++ {
		tasks := stuck(plan)
		reads := &ended{of: map[event.TID]int64{}}
		reported := make(chan error, 1)
		guarding, leave := context.WithCancel(ctx)
		seen := make(chan struct{})
		g := tracer.GuardOptions{Stuck: tasks, Stay: stay, TraceOptions: tracer.TraceOptions{View: r.a.view, Tool: tool(), PID: pid, Started: r.started, Inferiors: r.named,
			Emit: func(ev event.Event) error { reads.see(ev); return rec.write(ev) }}}
		// A thread that has ended since the diagnosis will never be seen.
		g.Attached = func() {
			r.attached = true
			go func() {
				select {
				case <-seen:
				case <-time.After(settles):
					leave()
				}
			}()
		}
		g.Repaired = func() {
			close(seen)
			if !stay {
				return
			}
			// The loop goes on in this thread's place; the report must not wait for it.
			go func() {
				err := func() (err error) {
					defer tracer.AsError(&err) // a panic here would kill the guard too
					return r.report(ctx, pid, res, tasks, reads, true)
				}()
				if err != nil {
					leave() // it did not come to what there is to guard
				}
				reported <- err
			}()
		}
		_, err := tracer.Guard(guarding, g)
		leave()
		if err != nil {
			return err
		}
		select {
		case <-seen:
		default:
			if ctx.Err() != nil {
				return fmt.Errorf("repair of pid %d: ended before anything was changed", pid)
			}
			return fmt.Errorf("repair of pid %d: the thread that hung has ended", pid)
		}
		if stay {
			if err = <-reported; err == nil && r.format == "text" {
				r.a.say("no longer guarding pid %d", pid)
			}
			return err
		}
		next := r.hungAgain(ctx, pid)
		last := next == nil || round == maxRounds || ctx.Err() != nil
		if err := r.report(ctx, pid, res, tasks, reads, last); err != nil || last {
			return err
		}
		plan = next
	}
}

// hungAgain waits for the debugger to settle, and gives the plan for its next
// hang, nil if there is none.
func (r *repairCmd) hungAgain(ctx context.Context, pid event.PID) *analyze.Plan {
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		if _, ok := tracer.BlockedInRead(r.a.view, pid); !ok {
			continue
		}
		if plan, _, err := r.a.plan(pid, r.named, r.planner()); err == nil {
			return plan
		}
	}
	return nil
}

// ended notes the reads that were stuck and have returned.
type ended struct {
	mu sync.Mutex
	of map[event.TID]int64
}

func (e *ended) see(ev event.Event) {
	if call, ok := ev.(*event.Syscall); ok && call.Resumed && call.Ret.Known && call.Errno == "" {
		e.mu.Lock()
		e.of[call.TID] = call.Ret.Val
		e.mu.Unlock()
	}
}

func (e *ended) get(tid event.TID) (int64, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, ok := e.of[tid]
	return n, ok
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

// taken says what became of what the thread had taken from the wrong file.
func (t *repaired) taken() string {
	switch {
	case t.TakenUnknown != "":
		return " Whether it had taken bytes of the wrong file before is not known: " +
			"if gdb has no symbols of the library now, nosharedlibrary and then sharedlibrary read it again."
	case t.TakenBytes == 1:
		return " A byte of the wrong file that it had taken before is the right file's too."
	case t.TakenBytes > 1:
		return fmt.Sprintf(" The %d bytes of the wrong file that it had taken before are the right file's too.", t.TakenBytes)
	}
	return ""
}

// report waits until the debugger has left the read, and says what was done
// and, if it is the last, what the debugger does now. JSON comes all at the last.
func (r *repairCmd) report(ctx context.Context, pid event.PID, res *repairResult, tasks []*tracer.Stuck, reads *ended, last bool) error {
	var failed error
	for deadline := time.Now().Add(settles); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		left := true
		for _, t := range tasks {
			if b, ok := tracer.BlockedInRead(r.a.view, pid); ok && t.Done && b.TID == t.TID && b.FD.Is(t.FD) {
				left = false
			}
		}
		if left {
			break
		}
	}
	if last {
		time.Sleep(200 * time.Millisecond) // for what it does next
	}
	before := len(res.Threads)
	for _, t := range tasks {
		one := repaired{TID: t.TID, FD: t.FD, Done: t.Done, ChangedUS: t.Changed.Microseconds()}
		if n, ok := reads.get(t.TID); ok {
			one.ReadBytes = &n
		}
		one.TakenBytes = t.Taken
		if t.Untold != nil {
			one.TakenUnknown = t.Untold.Error()
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
		line += "." + t.taken()
		if _, err := fmt.Fprintf(r.a.out, "%s The thread's registers were changed for %d µs.\n", line, t.ChangedUS); err != nil {
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
		end = "Staying as a guard, since the debugger opens that name again later. Ctrl-C ends that; the debugger runs on."
	}
	_, err := fmt.Fprintf(r.a.out, "Now: %s\n%s\n", report.Clean(res.Now), end)
	if err != nil {
		return err
	}
	return r.code(res)
}
