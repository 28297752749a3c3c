// Package tracer is the live system: it gathers evidence about a debugger by
// ptrace(2) and proc(5), as events. Linux only. It concludes nothing.
package tracer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/tracer/cpu"
	"whosefd/tracer/decode"
	"whosefd/tracer/doctor"
	"whosefd/tracer/ebpf"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
	"whosefd/tracer/ptrace"
)

// TraceOptions say what is traced. Either PID or Command is set.
type TraceOptions struct {
	View *procview.View
	Tool string // name and version, for the session line
	PID  event.PID
	// Started is when PID started, as [procview.View.StartTime] had it when it
	// was chosen: another process may have the number by now. 0: not known.
	Started uint64
	// Engine is how the calls are seen. Fallback, if set, is told why ptrace is
	// used for [EngineAuto], once the process is followed.
	Engine   Engine
	Fallback func(why error)
	// Asked are the names of calls that are of more interest than others, if any are.
	Asked []string
	// Path is the program to launch, looked up already, with Argv and Env.
	Path string
	Argv []string
	Env  []string
	// Inferiors are the subjects, where the user named them; else they are
	// whoever the debugger traces.
	Inferiors []event.PID
	// For ends the trace after that time; 0 does not.
	For time.Duration
	// Keeper takes what is needed to give CPU masks back if this process is
	// killed: see [cpu.Keeper]. Without one, threads run where they like.
	Keeper io.Writer
	// CPU is where the followed threads run meanwhile, if there is a Keeper; by
	// default, where the process ran last.
	CPU event.Opt[int]
	// Attached is called once the process is followed.
	Attached func()
	// Emit takes each event as it happens, on the tracer's thread: while it
	// runs, a thread of the debugger is stopped. An error ends the trace.
	Emit func(event.Event) error

	engine  *ebpf.Engine // of somebody who has loaded it already
	without error        // why there is none for [EngineAuto]
}

// InternalError is a panic of ours, to be reported with its stack.
type InternalError = ptrace.InternalError

// AsError is deferred, and makes a panic an [InternalError].
func AsError(err *error) {
	if p := recover(); p != nil {
		*err = errors.Join(*err, ptrace.NewInternalError(p))
	}
}

// Outcome says how a trace ended.
type Outcome struct {
	PID event.PID
	ptrace.Result
}

// Trace follows the file system calls of a process until it ends, the context
// is done, the time is over, or Emit fails, and then lets it go. The last
// events are what the process was doing at that moment, if it lives, as
// [Snapshot] has it without backtraces.
//
// Errors of the attach say why and what to do, and wrap the cause.
func Trace(ctx context.Context, o TraceOptions) (Outcome, error) {
	var out Outcome
	err := ptrace.OnTracerThread(func() (err error) {
		out, err = follow(ctx, o, nil)
		return err
	})
	return out, err
}

// Engine is a way to see system calls.
type Engine int

// The engines.
const (
	EnginePtrace Engine = iota // stops at each call
	EngineEBPF                 // programs in the kernel
	EngineAuto                 // those where the kernel and the user's rights allow them
)

// follow is Trace, and Guard where g is given, on the tracer's thread.
func follow(ctx context.Context, o TraceOptions, g *GuardOptions) (out Outcome, err error) {
	calls, err := decode.ForArch(Arch)
	if err != nil {
		return out, err
	}
	if err := cpu.Usable(o.CPU); err != nil {
		return out, err
	}
	if _, err := o.View.PIDs(); err != nil {
		return out, err // nobody could say what its descriptors are
	}
	engine, err := engineFor(&o, calls, g.needs())
	if err != nil {
		return out, err
	}
	if engine != nil {
		if o.engine == nil {
			defer func() { err = errors.Join(err, engine.Close()) }()
		}
		if g == nil {
			return traceStopless(ctx, o, calls, engine)
		}
		o.Keeper = nil // threads run where they like
	}
	return watch(ctx, o, calls, g, engine)
}

// watch follows by ptrace, and guards where g is given: with an engine it stops
// the debugger only where that says so.
func watch(ctx context.Context, o TraceOptions, calls *decode.Table, g *GuardOptions, engine *ebpf.Engine) (out Outcome, err error) {
	t := &session{o: o, start: time.Now(), loop: &ptrace.Loop{Kernel: ptrace.Linux{}, TGID: o.View.TGID}}
	t.stop = t.loop.Stop // on the loop's own thread: seen before the next wait
	t.loop.ListTasks = t.liveThreads
	pid := o.PID
	if pid == 0 {
		if pid, err = ptrace.Launch(o.Path, o.Argv, o.Env); err != nil {
			return Outcome{}, doctor.ExplainLaunch(o.View, err)
		}
		t.loop.OnGroupStop = stopToo
	} else if err := doctor.Refuse(o.View, event.PID(os.Getpid()), pid); err != nil {
		return Outcome{}, err
	}
	in := newInferiors(o.View, pid, o.Inferiors, t.now, t.emit)
	rec := newRecorder(o.View, calls, t.start, pid, in, t.emit)
	defer rec.close()
	defer in.close()
	rec.cpu = cpu.New(o.View, pid, o.CPU, o.Keeper)
	t.loop.Handler = rec
	var summoned *summonedGuard
	if g != nil {
		rec.namesOnly = !g.Record
		in.cores.standIns, in.cores.nowhere = g.StandIns, g.Nowhere
		in.server = g.server(in)
		handler := newGuard(rec, g, t.loop.Stop)
		t.loop.Handler = handler
		if engine != nil {
			summoned = newSummonedGuard(handler, engine)
			t.loop.Handler, t.loop.Summoned, t.loop.Execed = summoned, summoned.summoned, summoned.execed
		}
	}
	stop, err := t.stopper(ctx)
	if err != nil {
		return Outcome{}, err
	}
	defer stop()

	endReading := func() error { return nil }
	t.opening(pid)
	if summoned != nil {
		if err := summoned.begin(g.Record, t.stop); err != nil {
			return out, err
		}
		endReading = sync.OnceValue(summoned.end)
		defer func() { _ = endReading() }()
	}
	if o.PID == 0 {
		err = t.loop.Adopt(pid)
	} else if err = t.loop.Attach(pid); err != nil {
		err = doctor.ExplainAttach(o.View, pid, err)
	} else if now, unknown := o.View.StartTime(event.TID(pid)); o.Started != 0 && unknown == nil && now != o.Started {
		err = errors.Join(fmt.Errorf("attach to pid %d: %w: the process that had this number has ended, and another one has it now", pid, unix.ESRCH), t.loop.DetachAll())
	}
	if err != nil {
		return Outcome{}, err
	}
	if o.PID != 0 {
		in.cores.look() // it may have closed them for a while when it asks for a name
	}
	if o.without != nil && o.Fallback != nil {
		o.Fallback(o.without)
	}
	if o.Attached != nil {
		o.Attached()
	}
	if g != nil && g.started != nil {
		g.started(pid)
	}
	out.PID = pid
	out.Result, err = t.loop.Run()
	stop()
	err = errors.Join(err, endReading())
	t.closing(ctx, pid, out.Result, rec.count, err)
	return out, errors.Join(t.emitErr, err)
}

// session is one run of the loop.
type session struct {
	o       TraceOptions
	start   time.Time
	loop    *ptrace.Loop
	stop    func() // ends it soon
	emitErr error
}

func (t *session) now() event.Micros { return event.Micros(time.Since(t.start).Microseconds()) }

// emit passes an event on; the first error ends the trace.
func (t *session) emit(ev event.Event) {
	if t.emitErr != nil {
		return
	}
	t.emitErr = errPanicked // if it does, it is not called again
	if t.emitErr = t.o.Emit(ev); t.emitErr != nil {
		t.stop()
	}
}

var errPanicked = errors.New("the one who takes the events has failed")

// liveThreads gives the threads that can be seized: a leader that has ended
// before its other threads stays as a zombie.
func (t *session) liveThreads(pid event.PID) ([]event.TID, error) {
	tids, err := t.o.View.Threads(pid)
	if err != nil {
		return nil, err
	}
	live := tids[:0]
	for _, tid := range tids {
		if state, err := t.o.View.State(pid, tid); err == nil && state != "Z" && state != "X" {
			live = append(live, tid)
		}
	}
	return live, nil
}

// stopper ends the loop when the context is done or the time is over. The
// function that it gives ends the watching; it may be called twice.
func (t *session) stopper(ctx context.Context) (func(), error) {
	waker, err := ptrace.NewWaker()
	if err != nil {
		return nil, err
	}
	cancel := context.CancelFunc(func() {})
	if t.o.For > 0 {
		ctx, cancel = context.WithTimeout(ctx, t.o.For)
	}
	t.stop = func() {
		t.loop.Stop()
		go waker.Wake()
	}
	unwatch := context.AfterFunc(ctx, t.stop)
	return func() { waker.Done(); unwatch(); cancel() }, nil
}

// opening emits the session line and the descriptors that are there already.
func (t *session) opening(pid event.PID) {
	proc, err := t.o.View.Process(pid)
	if err != nil {
		proc = event.Process{PID: pid}
	}
	t.emit(newSession(t.o.Tool, "trace", t.start, &proc))
	fds, err := t.o.View.Descriptors(pid)
	if err != nil {
		t.emit(&event.Lost{T: t.now(), Reason: fmt.Sprintf("descriptors at the start: %v", err)})
	}
	for i := range fds {
		t.emit(&fds[i])
	}
}

// closing emits what the process is doing now and the end line.
func (t *session) closing(ctx context.Context, pid event.PID, res ptrace.Result, calls int64, err error) {
	end := &event.End{Calls: calls}
	switch {
	case res.Ended && res.Signal != 0:
		end.Reason, end.Signal = "killed", decode.Signal(int(res.Signal))
	case res.Ended:
		end.Reason, end.Exit = "exited", event.Some(res.Code)
	case err != nil:
		end.Reason = "error"
	case ctx.Err() != nil:
		end.Reason = "interrupted"
	default:
		end.Reason = "duration"
	}
	if !res.Ended && t.emitErr == nil {
		s := &snapshot{SnapshotOptions: SnapshotOptions{View: t.o.View, Inferiors: t.o.Inferiors}, pid: pid, start: t.start}
		if s.threads() == nil {
			_ = s.descriptors(pid)      // what is missing is in the evidence
			s.Stacks = s.waitsForPipe() // one that does not hang is not stopped again
			s.closer(s.related())
		}
		for _, ev := range s.events {
			t.emit(ev)
		}
	}
	if err := procview.Scarce(); err != nil {
		t.emit(&event.Lost{T: t.now(), Reason: err.Error()})
	}
	end.T = t.now()
	t.emit(end)
}

// stopToo stops this process when the program that it launched was stopped by
// the terminal, so that the shell sees its job stopped. The SIGCONT that the
// shell sends goes to both.
func stopToo(unix.Signal) { _ = unix.Kill(os.Getpid(), unix.SIGSTOP) }
