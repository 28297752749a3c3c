package tracer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/ebpf"
	"whosefd/tracer/event"
	"whosefd/tracer/inject"
	"whosefd/tracer/ptrace"
)

// GuardOptions say what is guarded, and what is repaired first.
type GuardOptions struct {
	TraceOptions
	// Record says that all of the debugger's calls are events, not only those
	// with names.
	Record bool
	// Plan, if set, is carried out first, in the threads that hang.
	Plan *event.Plan
	// StandIns are files for libraries of which no process has the right one any more.
	StandIns []event.StandIn
	// Nowhere, if set, is told once for each name why its calls are led to no file, on
	// the tracer's thread.
	Nowhere func(name event.Text, why error)
	// Served, if set, is told of an inferior that a server of the debugger traces, and of
	// that server, once, on the tracer's thread.
	Served func(inferior, server event.PID)
	// Failed, if set, is told why a call was not led to the right file. It is
	// called on the tracer's thread.
	Failed func(reason string)

	repairs []*ThreadRepair
	// repaired, if set, is called on the tracer's thread when all of repairs were
	// seen; leave lets all threads go then.
	repaired func()
	leave    bool
	// started, if set, is called with a launched command's pid.
	started func(event.PID)
}

// Guard follows a debugger as [Trace] does, and leads every call with a name that
// belongs to an inferior to the inferior's file.
func Guard(ctx context.Context, o GuardOptions) (Outcome, error) {
	if o.Plan != nil {
		o.repairs = threadRepairs(o.Plan)
	}
	defer o.withChildren(ctx)()
	var out Outcome
	err := ptrace.OnTracerThread(func() (err error) {
		out, err = follow(ctx, o.TraceOptions, &o)
		return err
	})
	if o.Plan != nil {
		for _, r := range o.repairs {
			if r.Err != nil {
				err = errors.Join(err, fmt.Errorf("repair: %w", r.Err))
			}
		}
	}
	return out, err
}

// needs says which calls must be seen; nil: all.
func (o *GuardOptions) needs() func(*decode.Call) bool {
	if o == nil || o.Record {
		return nil
	}
	return ebpf.Guarded
}

// server gives what tells [GuardOptions.Served].
func (o *GuardOptions) server(in *inferiors) func(event.PID) {
	if o.Served == nil {
		return nil
	}
	return func(inferior event.PID) {
		tracer, err := in.view.TracerOf(inferior)
		if err != nil || tracer == 0 {
			return
		}
		if server, err := in.view.TGID(tracer); err == nil {
			in.server = nil
			o.Served(inferior, server)
		}
	}
}

// guard is a recorder that leads each call with a name that belongs to an
// inferior to the inferior's file: the argument is replaced at the entry, and
// put back at the exit, so that the debugger never sees the difference.
type guard struct {
	*recorder
	m inject.Machine
	// repairs are carried out when their threads are first seen; repaired is
	// called after the last.
	repairs  map[event.TID]*ThreadRepair
	repaired func()
	failed   func(reason string)
}

// rewritten is what must be put back when the call has returned.
type rewritten struct {
	arg     int
	value   uint64
	restore func() error
	rewrite event.Rewrite
}

// newGuard makes the handler for a guard; stop ends the loop.
func newGuard(r *recorder, o *GuardOptions, stop func()) *guard {
	g := &guard{recorder: r, m: inject.Linux{}, repairs: map[event.TID]*ThreadRepair{}, failed: func(string) {}}
	if o.Failed != nil {
		g.failed = o.Failed
	}
	for _, r := range o.repairs {
		g.repairs[r.TID] = r
	}
	g.repaired = func() {
		if o.repaired != nil {
			o.repaired()
		}
		if o.leave {
			stop()
		}
	}
	return g
}

// Enter implements [ptrace.Handler].
func (g *guard) Enter(t *ptrace.Thread, arch uint32) {
	known := g.foreign
	g.recorder.Enter(t, arch)
	if arch != nativeAudit {
		if !known {
			g.notGuarded(t.TID)
		}
		return
	}
	c := g.callOf(t)
	if !c.active || c.ev.Path == "" || c.ev.PathTruncated || !leadable(c.row, c.ev.Flags) {
		return
	}
	path, target, ok := g.inferiors.rightFile(t.TID, &c.ev)
	if !ok {
		return
	}
	if err := g.lead(t, c, path, target); err != nil {
		reason := fmt.Sprintf("%s of %s was not led to the right file: %v", c.ev.Name, c.ev.Path, err)
		g.emit(&event.Lost{T: g.now(), TID: t.TID, Reason: reason})
		g.failed(reason)
	}
}

func (g *guard) notGuarded(tid event.TID) {
	g.failed(fmt.Sprintf("thread %d makes the calls of a 32-bit program: they are not guarded", tid))
}

// leadable says whether a call only looks at a file, with its flags by name. An
// open that can write, make or empty a file is never led to the inferior's:
// nothing of ours may change that.
func leadable(row *decode.Call, flags string) bool {
	switch row.Class {
	case decode.ClassOpen:
		reads := strings.HasPrefix(flags, "O_RDONLY") || strings.HasPrefix(flags, "O_PATH")
		return row.PathArg() >= 0 && reads && !strings.Contains(flags, "O_CREAT") && !strings.Contains(flags, "O_TRUNC") &&
			!strings.Contains(flags, "O_TMPFILE")
	case decode.ClassStat, decode.ClassAccess, decode.ClassLink:
		return row.PathArg() >= 0
	}
	return false
}

// lead puts path in the place of the name that the stopped call was given.
func (g *guard) lead(t *ptrace.Thread, c *call, path string, target event.Target) error {
	regs, err := g.m.Registers(t.TID)
	if err != nil {
		return fmt.Errorf("registers of thread %d: %w", t.TID, err)
	}
	addr, restore, err := inject.Scratch(g.m, t.TID, ptrace.SP(regs), append([]byte(path), 0))
	if err != nil {
		return err
	}
	arg := c.row.PathArg()
	ptrace.SetArg(regs, arg, addr)
	if err := g.m.SetRegisters(t.TID, regs); err != nil {
		return errors.Join(fmt.Errorf("set registers of thread %d: %w", t.TID, err), restore())
	}
	c.led = &rewritten{arg: arg, value: c.args[arg], restore: restore,
		rewrite: event.Rewrite{Path: event.Text(path), Target: target}}
	c.ev.Rewritten = &c.led.rewrite
	return nil
}

// putBack undoes what lead did, for a stopped thread.
func (g *guard) putBack(t *ptrace.Thread, c *call) {
	led := c.led
	if led == nil {
		return
	}
	c.led = nil
	regs, err := g.m.Registers(t.TID)
	if err == nil {
		ptrace.SetArg(regs, led.arg, led.value)
		err = g.m.SetRegisters(t.TID, regs)
	}
	if err = errors.Join(err, led.restore()); err != nil && !errors.Is(err, unix.ESRCH) {
		g.emit(&event.Lost{T: g.now(), TID: t.TID, Reason: fmt.Sprintf("an argument was not put back: %v", err)})
	}
}

// Exit implements [ptrace.Handler].
func (g *guard) Exit(t *ptrace.Thread, ret int64, failed bool) {
	g.putBack(t, g.callOf(t))
	g.recorder.Exit(t, ret, failed)
}

// Leave implements [ptrace.Handler].
func (g *guard) Leave(t *ptrace.Thread) {
	g.putBack(t, g.callOf(t))
	g.recorder.Leave(t)
}

// Gone implements [ptrace.Handler].
func (g *guard) Gone(t *ptrace.Thread) {
	g.callOf(t).led = nil // its memory is gone with it
	g.recorder.Gone(t)
}

// Begin implements [ptrace.Handler].
func (g *guard) Begin(t *ptrace.Thread, in *ptrace.Call) {
	g.recorder.Begin(t, in)
	r := g.repairs[t.TID]
	if r == nil {
		return
	}
	r.carryOut(g, t, in)
	if r.Done {
		// What the read that goes on reads from now.
		g.callOf(t).ev.Target = g.fds.fresh(r.FD)
	}
	delete(g.repairs, t.TID)
	if len(g.repairs) == 0 {
		g.repaired()
	}
}
