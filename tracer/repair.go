package tracer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/inject"
	"whosefd/tracer/ptrace"
)

// ThreadRepair is the part of a plan that is carried out in one thread, and
// what came of it.
type ThreadRepair struct {
	TID   event.TID
	FD    event.FD // the descriptor that it waits for data from
	steps []event.Step

	// Done says that all steps were done; else Err says why not, and those that
	// were done have been undone.
	Done bool
	Err  error
	// Changed is for how long the thread's registers were not its own.
	Changed time.Duration
	// Read is how much the read that hung has returned, bytes; it is known once
	// that is seen.
	Read event.Opt[int64]
}

// threadRepairs are the parts of a plan, in its order.
func threadRepairs(p *event.Plan) []*ThreadRepair {
	var all []*ThreadRepair
	for _, s := range p.Steps {
		if s.TID == 0 {
			continue // of the whole process
		}
		if s.Kind == event.StepAttach {
			all = append(all, &ThreadRepair{TID: s.TID, FD: s.FD.Val})
		}
		if i := len(all) - 1; i >= 0 && all[i].TID == s.TID {
			all[i].steps = append(all[i].steps, s)
		}
	}
	return all
}

// carryOut does the steps in the thread, which was just stopped in a call, and
// goes on by the loop.
func (r *ThreadRepair) carryOut(g *guard, t *ptrace.Thread, in *ptrace.Call) {
	r.Err = func() (err error) {
		if in == nil {
			return fmt.Errorf("thread %d: %w", t.TID, inject.ErrNotInCall)
		}
		row, ok := g.calls.Call(in.Nr)
		if !ok || row.Class != decode.ClassRead || event.FD(decode.Int32(in.Args[0])) != r.FD {
			return fmt.Errorf("thread %d: %w", t.TID, inject.ErrNotInCall)
		}
		target := func(fd event.FD) event.Target { return g.view.Target(t.PID, fd) }
		if want := r.steps[0].Expect; want != nil && !target(r.FD).Same(*want) {
			return fmt.Errorf("fd %d of pid %d is no longer %s", r.FD, t.PID, want.Link)
		}
		th, err := inject.Begin(g.m, t.TID, t.Deliver, *in)
		if err != nil {
			return err
		}
		t.Deliver = 0
		defer func() {
			err = errors.Join(err, th.End())
			r.Changed = th.Changed
		}()
		return (&plannedCalls{caller: th, pid: t.PID, calls: g.calls, target: target, results: map[event.Result]int64{}}).all(r.steps)
	}()
	r.Done = r.Err == nil
}

// caller makes system calls in a thread, as [inject.Thread] does.
type caller interface {
	Call(nr uint64, args ...uint64) (int64, error)
	CallPath(nr uint64, path string, place int, args ...uint64) (int64, error)
}

// plannedCalls makes the calls of a plan.
type plannedCalls struct {
	caller
	pid     event.PID
	calls   *decode.Table
	target  func(event.FD) event.Target // what a descriptor of the debugger leads to now
	results map[event.Result]int64
}

// all makes the calls of the steps. If one fails, it undoes those before it.
func (c *plannedCalls) all(steps []event.Step) error {
	for i := range steps {
		s := &steps[i]
		if s.Call == nil {
			continue
		}
		done := steps[:i]
		err := c.call(s.Call)
		if err == nil && s.Kind == event.StepOpen && !c.expected(s) {
			done = steps[:i+1]
			err = errors.New("it is not the file that was meant")
		}
		if err == nil {
			continue
		}
		err = fmt.Errorf("%s in pid %d: %w", s.Call, c.pid, err)
		for _, s := range slices.Backward(done) {
			if s.UndoCall == nil {
				continue
			}
			// What was to be closed may be closed already.
			if undoErr := c.call(s.UndoCall); undoErr != nil && !errors.Is(undoErr, unix.EBADF) {
				err = errors.Join(err, fmt.Errorf("undo: %s in pid %d: %w", s.UndoCall, c.pid, undoErr))
			}
		}
		return err
	}
	return nil
}

// expected says whether an open has given the file that was meant.
func (c *plannedCalls) expected(s *event.Step) bool {
	if s.Expect == nil {
		return true
	}
	opened := c.target(event.FD(c.results[s.Call.Result]))
	return opened.Kind == s.Expect.Kind && (!s.Expect.Identified() || opened.Same(*s.Expect))
}

// call makes a call of a plan.
func (c *plannedCalls) call(p *event.PlannedCall) error {
	nr, ok := c.calls.Number(p.Name)
	if !ok {
		return unix.ENOSYS
	}
	args, path, place := make([]uint64, len(p.Args)), "", -1
	for i, arg := range p.Args {
		if strings.HasPrefix(string(arg), "/") {
			path, place = string(arg), i
			continue
		}
		v, err := c.value(string(arg))
		if err != nil {
			return err
		}
		args[i] = uint64(v)
	}
	var ret int64
	var err error
	if place >= 0 {
		ret, err = c.CallPath(nr, path, place, args...)
	} else {
		ret, err = c.Call(nr, args...)
	}
	if err != nil {
		return err
	}
	if p.Result == event.ResultCloexec { // FD_CLOEXEC as dup3(2) wants it
		if ret &= unix.FD_CLOEXEC; ret != 0 {
			ret = unix.O_CLOEXEC
		}
	}
	if p.Result != "" {
		c.results[p.Result] = ret
	}
	return nil
}

// planConstants are those that plans use.
var planConstants = map[string]int64{
	"AT_FDCWD": unix.AT_FDCWD, "O_RDONLY": unix.O_RDONLY, "O_CLOEXEC": unix.O_CLOEXEC, "O_NOCTTY": unix.O_NOCTTY, "O_NONBLOCK": unix.O_NONBLOCK,
	"F_GETFD": unix.F_GETFD, "F_SETFL": unix.F_SETFL, "F_DUPFD_CLOEXEC": unix.F_DUPFD_CLOEXEC,
}

func (c *plannedCalls) value(arg string) (v int64, err error) {
	if name, ok := strings.CutPrefix(arg, "$"); ok {
		if v, ok = c.results[event.Result(name)]; !ok {
			return 0, fmt.Errorf("%s is not known yet", arg)
		}
		return v, nil
	}
	for word := range strings.SplitSeq(arg, "|") {
		part, ok := planConstants[word]
		if !ok {
			if part, err = strconv.ParseInt(word, 0, 64); err != nil {
				return 0, fmt.Errorf("%q is no argument of a call", word)
			}
		}
		v |= part
	}
	return v, nil
}

// RepairOptions say what is repaired, and what follows.
type RepairOptions struct {
	TraceOptions // of the debugger, given by its PID
	Plan         *event.Plan
	// StandIns are as in [GuardOptions].
	StandIns []event.StandIn
	// Stay guards the debugger from then on, until it ends or the context is done.
	Stay bool
	// Report is told what came of a plan, when the debugger has had the time to
	// leave the reads that hung; last says that nothing more is repaired. While
	// the debugger is guarded, it is not called on the tracer's thread. An error
	// ends the repair.
	Report func(threads []*ThreadRepair, last bool) error
	// Next gives the plan for another hang, nil if there is none. It is asked
	// for a second after each plan, unless the debugger is guarded.
	Next func() *event.Plan
}

const (
	// settles is how long a repaired debugger is given to leave the read.
	settles = 3 * time.Second
	// maxRounds bounds how many libraries one run repairs without staying.
	maxRounds = 64
)

// Repair carries out a plan, and those for the hangs that follow.
func Repair(ctx context.Context, o RepairOptions) error {
	for round := 1; ; round++ {
		threads := threadRepairs(o.Plan)
		if err := o.round(ctx, threads); err != nil || o.Stay {
			return err
		}
		next := o.next(ctx)
		last := next == nil || round == maxRounds || ctx.Err() != nil
		o.settle(ctx, threads, last)
		if err := o.Report(threads, last); err != nil || last {
			return err
		}
		o.Plan = next
	}
}

// round carries out a plan. It returns when the debugger is let go.
func (o *RepairOptions) round(ctx context.Context, threads []*ThreadRepair) error {
	ended := fmt.Errorf("repair of pid %d: ended before anything was changed", o.PID)
	if ctx.Err() != nil {
		return ended // the loop might hear of it too late
	}
	guarding, leave := context.WithCancel(ctx)
	defer leave()
	g := GuardOptions{TraceOptions: o.TraceOptions, StandIns: o.StandIns, repairs: threads, leave: !o.Stay}
	reads := &endedReads{of: map[event.TID]int64{}}
	g.Emit = func(ev event.Event) error { reads.see(ev); return o.Emit(ev) }
	seen := make(chan struct{})
	g.Attached = func() {
		if o.Attached != nil {
			o.Attached()
		}
		// A thread that has ended since the diagnosis will never be seen.
		time.AfterFunc(settles, func() {
			select {
			case <-seen:
			default:
				leave()
			}
		})
	}
	reported := make(chan error, 1)
	g.repaired = func() {
		close(seen)
		if !o.Stay {
			return
		}
		// The loop goes on in this thread's place; the report must not wait for it.
		go func() {
			err := func() (err error) {
				defer AsError(&err) // a panic here would kill the guard too
				o.settle(ctx, threads, true)
				reads.tell(threads)
				return o.Report(threads, true)
			}()
			if err != nil {
				leave() // it did not come to what there is to guard
			}
			reported <- err
		}()
	}
	if _, err := Guard(guarding, g); err != nil {
		return err
	}
	select {
	case <-seen:
	default:
		if ctx.Err() != nil {
			return ended
		}
		return fmt.Errorf("repair of pid %d: the thread that hung has ended", o.PID)
	}
	if o.Stay {
		return <-reported
	}
	reads.tell(threads)
	return nil
}

// next waits for the debugger to settle, and gives the plan for its next hang.
func (o *RepairOptions) next(ctx context.Context) *event.Plan {
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		if _, ok := BlockedInRead(o.View, o.PID); !ok {
			continue
		}
		if plan := o.Next(); plan != nil {
			return plan
		}
	}
	return nil
}

// settle waits until the debugger has left the reads that hung, and if it is the
// last, for what it does next.
func (o *RepairOptions) settle(ctx context.Context, threads []*ThreadRepair, last bool) {
	for deadline := time.Now().Add(settles); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		b, blocked := BlockedInRead(o.View, o.PID)
		if !blocked || !slices.ContainsFunc(threads, func(t *ThreadRepair) bool { return t.Done && b.TID == t.TID && b.FD.Is(t.FD) }) {
			break
		}
	}
	if last {
		time.Sleep(200 * time.Millisecond)
	}
}

// endedReads notes what the reads that hung have returned.
type endedReads struct {
	mu sync.Mutex
	of map[event.TID]int64
}

func (e *endedReads) see(ev event.Event) {
	if call, ok := ev.(*event.Syscall); ok && call.Resumed && call.Ret.Known && call.Errno == "" {
		e.mu.Lock()
		e.of[call.TID] = call.Ret.Val
		e.mu.Unlock()
	}
}

func (e *endedReads) tell(threads []*ThreadRepair) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range threads {
		if n, ok := e.of[t.TID]; ok {
			t.Read = event.Some(n)
		}
	}
}
