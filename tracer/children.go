package tracer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
	"whosefd/tracer/ptrace"
)

// lookForChildren is how often a launched command's children are looked for: a
// debugger takes longer than that to read its own libraries.
const lookForChildren = 2 * time.Millisecond

// guardChildren guards the debuggers that a launched command starts, if that is none
// itself: "timeout 20 gdb …", a shell, sudo. Each is joined as soon as it is seen. The
// function that it gives ends that, and lets them go.
func guardChildren(ctx context.Context, o *GuardOptions, command event.PID) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() {
		seen := map[event.PID]bool{command: true} // it is followed through its own exec
		for ctx.Err() == nil {
			for _, pid := range debuggersBelow(o.View, command) {
				if !seen[pid] {
					seen[pid] = true
					all.Go(func() { o.guardChild(ctx, pid) })
				}
			}
			time.Sleep(lookForChildren)
		}
	})
	return func() { cancel(); all.Wait() }
}

// debuggersBelow gives the known debuggers among a process and its descendants. Those of a
// debugger are not looked at: they are its inferiors, which look like itself between its
// fork(2) and their exec.
func debuggersBelow(v *procview.View, pid event.PID) (found []event.PID) {
	if st, err := v.Status(pid, event.TID(pid)); err == nil {
		if d := v.Debugger(pid, st.Name); d != nil && d.Tracer {
			return []event.PID{pid}
		}
	}
	children, _ := v.Children(pid) // none, if it has ended
	for _, child := range children {
		found = append(found, debuggersBelow(v, child)...)
	}
	return found
}

// guardChild guards a debugger that the launched command has started.
func (o *GuardOptions) guardChild(ctx context.Context, pid event.PID) {
	child := *o
	child.PID, child.Path, child.Argv, child.Env = pid, "", nil, nil
	child.Started, _ = o.View.StartTime(event.TID(pid))
	child.Keeper, child.For, child.Attached = nil, 0, nil
	child.Engine = EnginePtrace // it must be there at once
	child.Emit = func(ev event.Event) error {
		// The record is about the command; of its children it has what was led.
		if call, ok := ev.(*event.Syscall); ok && call.Rewritten != nil {
			return o.Emit(ev)
		}
		return nil
	}
	err := ptrace.OnTracerThread(func() error {
		_, err := follow(ctx, child.TraceOptions, &child)
		return err
	})
	if err != nil && ctx.Err() == nil && o.Failed != nil {
		o.Failed(fmt.Sprintf("pid %d, which this command has started, is not guarded: %v; guard it where it is started: … whosefd guard -- gdb …", pid, err))
	}
}

// withChildren makes a guard of a launched command that is no debugger one of the
// debuggers that it starts, too. Emit, Nowhere and Failed are then called from several
// threads, one at a time.
func (o *GuardOptions) withChildren(ctx context.Context) func() {
	end := func() {} // until it is started; it may never be
	if o.PID != 0 || decode.DebuggerNamed(o.Path) != nil {
		return end
	}
	var mu sync.Mutex
	emit, failed, nowhere := o.Emit, o.Failed, o.Nowhere
	o.Emit = func(ev event.Event) error {
		mu.Lock()
		defer mu.Unlock()
		return emit(ev)
	}
	if failed != nil {
		o.Failed = func(reason string) {
			mu.Lock()
			defer mu.Unlock()
			failed(reason)
		}
	}
	if nowhere != nil {
		o.Nowhere = func(name event.Text, why error) {
			mu.Lock()
			defer mu.Unlock()
			nowhere(name, why)
		}
	}
	shared := *o
	o.started = func(pid event.PID) { end = guardChildren(ctx, &shared, pid) }
	return func() { end() }
}
