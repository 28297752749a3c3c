package ptrace

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
)

// Thread is one traced thread.
type Thread struct {
	TID event.TID
	PID event.PID // its thread group
	// InCall says that Call was entered and its exit has not been seen.
	InCall bool
	Call   Call
	// WantExit is for the handler to set in Enter: whether it wants Exit for
	// this call. The loop sets it to true before each Enter.
	WantExit bool
	// Deliver is the signal that it gets when it goes on. A handler that has
	// run the thread itself, and taken care of the signal, sets it to 0.
	Deliver unix.Signal
	// Data is the handler's own.
	Data any

	began     bool // its first stop was seen
	followed  bool // through its next call, where threads run freely
	listening bool // in a group-stop
	stopped   bool // in a stop from which it was not yet let go
}

// Handler is told what the threads do. During each call the thread is stopped.
type Handler interface {
	// Begin: the first stop of a thread. In is the call that it was in the
	// middle of when we attached, nil if none.
	Begin(t *Thread, in *Call)
	// Enter: t.Call is about to be made. Arch is AUDIT_ARCH_* of the call.
	Enter(t *Thread, arch uint32)
	// Exit: t.Call has ended with ret; failed: ret is a negative errno.
	Exit(t *Thread, ret int64, failed bool)
	// Leave: t is about to be detached, alive.
	Leave(t *Thread)
	// Gone: the thread ended; it can't be looked at any more.
	Gone(t *Thread)
}

// Options are the ptrace options of each seize: syscall stops that can be told
// from a SIGTRAP, new threads followed, exec reported. Never EXITKILL.
const Options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEEXEC

// Loop follows the threads of one process through their system calls. It is
// used on one locked thread; only Stop may be called from elsewhere.
type Loop struct {
	// Kernel, Handler and TGID are needed; the others may be left out.
	Kernel  Kernel
	Handler Handler
	// TGID gives the process that a thread belongs to.
	TGID func(event.TID) (event.PID, error)
	// ListTasks gives the threads of a process.
	ListTasks func(event.PID) ([]event.TID, error)
	// Summoned, if set, makes the threads run freely from stop to stop, without
	// one at each call. It is asked about each signal that a thread is about to
	// get. Ours: somebody has sent it to stop the thread behind a call, and it is
	// dropped. Follow: the thread's next call goes to the Handler.
	Summoned func(t *Thread, sig unix.Signal) (ours, follow bool)
	// Execed, if set, is called when the process runs another program.
	Execed func()
	// OnGroupStop is called when every thread of the process has stopped
	// for a job-control signal.
	OnGroupStop func(unix.Signal)
	// Sleep waits between polls while detaching; time.Sleep if nil.
	Sleep func(time.Duration)

	pid     event.PID
	threads map[event.TID]*Thread
	stopped atomic.Bool
	result  Result
	info    SyscallInfo
	turn    int      // stops since all threads had theirs
	pending []waited // for sweep
}

// waited is what a wait said.
type waited struct {
	tid  event.TID
	stop Stop
}

// Result says how the traced process ended, if it did.
type Result struct {
	Ended  bool
	Code   int         // exit code
	Signal unix.Signal // not 0: it was killed
}

// ErrStuck says that threads did not stop to be let go in time: they sleep
// where nothing can wake them (state D). They are let go when the tracer's
// thread ends.
var ErrStuck = errors.New("some threads did not stop")

// Stop makes Run detach and return. It may be called from any goroutine, and
// needs a [Waker] beside it if Run may be blocked.
func (l *Loop) Stop() { l.stopped.Store(true) }

// Attach seizes every thread of pid, those that start meanwhile too. If it
// fails, nothing stays attached.
func (l *Loop) Attach(pid event.PID) error {
	l.pid = pid
	l.threads = map[event.TID]*Thread{}
	err := l.attach(pid)
	if err != nil && len(l.threads) > 0 {
		err = errors.Join(err, l.DetachAll())
	}
	return err
}

func (l *Loop) attach(pid event.PID) (err error) {
	defer AsError(&err)
	tasks, err := l.ListTasks(pid)
	if err != nil {
		return fmt.Errorf("attach to pid %d: %w", pid, err)
	}
	// A thread made by one that was not yet seized is found by the next look;
	// one made by a seized thread comes by itself.
	for found := true; found; {
		found = false
		for _, tid := range tasks {
			if l.threads[tid] != nil {
				continue
			}
			switch err := l.Kernel.Seize(tid, Options); {
			case err == nil:
				l.threads[tid] = &Thread{TID: tid, PID: pid}
				found = true
				if err := l.Kernel.Interrupt(tid); err != nil && !errors.Is(err, unix.ESRCH) {
					return fmt.Errorf("interrupt thread %d: %w", tid, err)
				}
			case errors.Is(err, unix.ESRCH): // it ended meanwhile
			case errors.Is(err, unix.EPERM) && len(l.threads) > 0 && l.isOurs(tid):
			default:
				return fmt.Errorf("attach to thread %d of pid %d: %w", tid, pid, err)
			}
		}
		if found {
			if tasks, err = l.ListTasks(pid); err != nil {
				break // it is ending; the loop will be told
			}
		}
	}
	if len(l.threads) == 0 {
		return fmt.Errorf("attach to pid %d: %w", pid, unix.ESRCH)
	}
	return nil
}

// isOurs says whether a thread that refuses to be seized came to us by itself,
// as the child of a seized one, or is ending. It is known by waiting for it.
func (l *Loop) isOurs(tid event.TID) bool {
	_, err := l.TGID(tid)
	if err != nil {
		return true // gone
	}
	l.poll(func() bool { return l.threads[tid] != nil }, 100*time.Millisecond)
	return l.threads[tid] != nil
}

// Adopt takes over a process with one thread that is already this thread's
// tracee, seized, and in a stop, and lets it go on.
func (l *Loop) Adopt(pid event.PID) error {
	l.pid = pid
	t := &Thread{TID: event.TID(pid), PID: pid, began: true}
	l.threads = map[event.TID]*Thread{t.TID: t}
	t.stopped = true
	if err := safely(func() { l.Handler.Begin(t, nil) }); err != nil {
		return errors.Join(err, l.DetachAll())
	}
	if err := l.Kernel.Resume(t.TID, l.how(t), 0); err != nil {
		return fmt.Errorf("resume pid %d: %w", pid, err)
	}
	t.stopped = false
	return nil
}

// safely makes a panic of f an error.
func safely(f func()) (err error) {
	defer AsError(&err)
	f()
	return nil
}

// Run follows the threads until the process ends, Stop is called, or ptrace
// fails; in the last two cases it detaches. A panic of the handler is a failure
// too, an [InternalError].
func (l *Loop) Run() (Result, error) {
	err := l.run()
	if err != nil || l.stopped.Load() && len(l.threads) > 0 {
		err = errors.Join(err, l.DetachAll())
	}
	return l.result, err
}

func (l *Loop) run() (err error) {
	defer AsError(&err)
	for len(l.threads) > 0 {
		if l.stopped.Load() {
			return nil
		}
		tid, ws, err := l.Kernel.Wait(0, true)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			l.dropAll()
			return nil
		case err != nil:
			return fmt.Errorf("wait for pid %d: %w", l.pid, err)
		}
		if err := l.handle(tid, Classify(ws)); err != nil {
			return err
		}
		if l.turn++; l.turn >= sweepEvery && len(l.threads) > 1 {
			l.turn = 0
			if err := l.sweep(); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweepEvery is after how many stops every thread gets its turn. A wait gives
// the first stopped thread of the kernel's list: busy ones that stand at its
// beginning, and stop again at once, would keep all others stopped for ever.
const sweepEvery = 64

// sweep deals with the stop of every thread that is in one, before any of them
// can stop again.
func (l *Loop) sweep() error {
	l.pending = l.pending[:0]
	for range len(l.threads) {
		tid, ws, err := l.Kernel.Wait(0, false)
		if err != nil || tid == 0 {
			break // an error will be seen by the next wait too
		}
		s := Classify(ws)
		switch s.Kind {
		case Exited, Killed:
			l.ended(tid, s)
			continue
		case ExecStop:
			// The thread that had this id before has ended, and with it its stop.
			l.pending = slices.DeleteFunc(l.pending, func(p waited) bool { return p.tid == tid })
		}
		if t := l.threads[tid]; t != nil {
			t.stopped, t.Deliver = true, passOn(s) // should one before it fail
		}
		l.pending = append(l.pending, waited{tid, s})
	}
	for _, p := range l.pending {
		if err := l.handle(p.tid, p.stop); err != nil {
			return err
		}
	}
	return nil
}

// gone says whether err only means that the thread has died or is dying; then
// its end will be reported, and is dealt with there.
func gone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// handle deals with one stop and lets the thread go on.
func (l *Loop) handle(tid event.TID, s Stop) error {
	if s.Kind == Exited || s.Kind == Killed {
		l.ended(tid, s)
		return nil
	}
	t := l.threads[tid]
	if t == nil {
		if t = l.newThread(tid); t == nil {
			return gone(l.Kernel.Detach(tid, passOn(s)))
		}
	}
	t.listening, t.stopped, t.Deliver = false, true, passOn(s)
	if !t.began && s.Kind != ExecStop {
		t.began = true
		in, err := l.Kernel.Interrupted(tid)
		if err != nil {
			return gone(err)
		}
		l.Handler.Begin(t, in)
	}
	switch s.Kind {
	case SyscallStop:
		if err := l.syscallStop(t); err != nil {
			return gone(err)
		}
		t.followed = t.followed && t.InCall
	case SignalStop:
		if l.Summoned != nil {
			if ours, follow := l.Summoned(t, s.Signal); ours {
				t.Deliver, t.followed = 0, follow
			}
		}
	case GroupStop:
		t.listening = true
	case CloneStop:
		// The new thread reports its own first stop, before or after this.
		if msg, err := l.Kernel.EventMsg(tid); err == nil && l.threads[event.TID(msg)] == nil {
			l.newThread(event.TID(msg))
		}
	case ExecStop:
		if t = l.exec(tid); t == nil {
			return gone(l.Kernel.Detach(tid, 0))
		}
		if l.Execed != nil {
			l.Execed()
		}
	}
	if err := l.Kernel.Resume(tid, l.how(t), t.Deliver); err != nil {
		return gone(fmt.Errorf("resume thread %d after a %s: %w", tid, s.Kind, err))
	}
	t.stopped = false
	if t.listening && l.OnGroupStop != nil && l.allListening() {
		l.OnGroupStop(s.Signal)
	}
	return nil
}

// how says to which stop a thread goes on.
func (l *Loop) how(t *Thread) How {
	switch {
	case t.listening:
		return Listen
	case l.Summoned != nil && !t.followed:
		return Freely
	}
	return ToSyscall
}

// passOn is the signal that a thread must still get if it is let go in this stop.
func passOn(s Stop) unix.Signal {
	if s.Kind == SignalStop {
		return s.Signal
	}
	return 0
}

func (l *Loop) allListening() bool {
	for _, t := range l.threads {
		if !t.listening {
			return false
		}
	}
	return true
}

// newThread takes up a thread that came by PTRACE_O_TRACECLONE; nil for one of
// another process, which clone(2) makes when its exit signal is not SIGCHLD.
// A process that the debugger makes must stay the debugger's to trace.
func (l *Loop) newThread(tid event.TID) *Thread {
	pid, err := l.TGID(tid)
	if err != nil || pid != l.pid {
		return nil
	}
	t := &Thread{TID: tid, PID: pid}
	l.threads[tid] = t
	return t
}

func (l *Loop) syscallStop(t *Thread) error {
	if t.InCall && !t.WantExit {
		t.InCall = false // the stop after an entry is its exit: no need to ask
		return nil
	}
	if err := l.Kernel.SyscallInfo(t.TID, &l.info); err != nil {
		return fmt.Errorf("system call of thread %d: %w", t.TID, err)
	}
	switch l.info.Op {
	case OpEntry:
		t.InCall, t.WantExit = true, true
		t.Call.Nr, t.Call.Args = l.info.Nr, l.info.Args
		l.Handler.Enter(t, l.info.Arch)
	case OpExit:
		if t.InCall {
			t.InCall = false
			l.Handler.Exit(t, l.info.Ret, l.info.Failed)
		}
	}
	return nil
}

// exec sorts out the threads after execve(2): all but one are gone, and that
// one has the process's id now, whatever it was before.
func (l *Loop) exec(tid event.TID) *Thread {
	former := tid
	if msg, err := l.Kernel.EventMsg(tid); err == nil {
		former = event.TID(msg)
	}
	t := l.threads[former]
	for id, other := range l.threads {
		if other != t {
			delete(l.threads, id)
			l.Handler.Gone(other)
		}
	}
	if t == nil {
		if t = l.newThread(tid); t == nil {
			return nil
		}
	} else if former != tid {
		delete(l.threads, former)
		t.TID = tid
		l.threads[tid] = t
	}
	if !t.began {
		t.began = true
		l.Handler.Begin(t, nil)
	}
	return t
}

func (l *Loop) ended(tid event.TID, s Stop) {
	// The leader's end is reported last and is the process's.
	if tid == event.TID(l.pid) {
		l.result = Result{Ended: true, Code: s.Code, Signal: s.Signal}
		l.dropAll()
		return
	}
	if t := l.threads[tid]; t != nil {
		delete(l.threads, tid)
		l.Handler.Gone(t)
	}
}

func (l *Loop) dropAll() {
	for id, t := range l.threads {
		delete(l.threads, id)
		l.Handler.Gone(t)
	}
}

// detachWithin is how long a thread may take to stop before it is given up.
const detachWithin = 2 * time.Second

// DetachAll lets every thread go as it would be without us: pending signals are
// delivered, group-stops stay. It returns what went wrong, [ErrStuck] among it.
func (l *Loop) DetachAll() error {
	var errs []error
	for tid, t := range l.threads {
		if err := l.beginDetach(tid, t); err != nil {
			errs = append(errs, err)
		}
	}
	l.stopped.Store(true)
	l.pollWith(func() bool { return len(l.threads) == 0 }, detachWithin, func(tid event.TID, s Stop) (err error) {
		defer AsError(&err)
		if s.Kind == Exited || s.Kind == Killed {
			l.ended(tid, s)
			return nil
		}
		if s.Kind == CloneStop {
			// Its child is ours too: wait for it as well.
			if msg, err := l.Kernel.EventMsg(tid); err == nil && l.threads[event.TID(msg)] == nil {
				l.newThread(event.TID(msg))
			}
		}
		if s.Kind == ExecStop {
			l.exec(tid)
		}
		return l.detach(tid, passOn(s))
	}, &errs)
	if len(l.threads) > 0 {
		errs = append(errs, fmt.Errorf("detach from pid %d: %w: %d of them", l.pid, ErrStuck, len(l.threads)))
	}
	return errors.Join(errs...)
}

// beginDetach lets go of a thread that is stopped, and interrupts one that runs.
func (l *Loop) beginDetach(tid event.TID, t *Thread) (err error) {
	defer AsError(&err)
	if t.stopped {
		return l.detach(tid, t.Deliver)
	}
	if err := gone(l.Kernel.Interrupt(tid)); err != nil {
		return fmt.Errorf("interrupt thread %d: %w", tid, err)
	}
	return nil
}

// hideInterrupt keeps the interrupt that stopped a thread, or may just have been
// on its way, from being seen as EINTR.
func (l *Loop) hideInterrupt(tid event.TID) error {
	if err := l.Kernel.SyscallInfo(tid, &l.info); err != nil {
		return fmt.Errorf("system call of thread %d: %w", tid, err)
	}
	if l.info.Op == OpEntry {
		return l.Kernel.Redo(tid)
	}
	_, err := l.Kernel.Interrupted(tid)
	return err
}

// detach lets go of a stopped thread with a signal, whatever the handler does.
func (l *Loop) detach(tid event.TID, sig unix.Signal) (left error) {
	t := l.threads[tid]
	if t != nil {
		if err := l.hideInterrupt(tid); err != nil {
			return gone(err)
		}
		left = safely(func() { l.Handler.Leave(t) })
		delete(l.threads, tid)
	}
	if err := gone(l.Kernel.Detach(tid, sig)); err != nil {
		return errors.Join(left, fmt.Errorf("detach from thread %d: %w", tid, err))
	}
	return left
}

// poll handles stops without blocking until done or the time is over.
func (l *Loop) poll(done func() bool, within time.Duration) {
	l.pollWith(done, within, l.handle, nil)
}

func (l *Loop) pollWith(done func() bool, within time.Duration, handle func(event.TID, Stop) error, errs *[]error) {
	sleep := l.Sleep
	if sleep == nil {
		sleep = time.Sleep
	}
	pause := 20 * time.Microsecond
	for waited := time.Duration(0); !done() && waited < within; {
		tid, ws, err := l.Kernel.Wait(0, false)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ECHILD):
			l.dropAll()
			return
		case err != nil:
			if errs != nil {
				*errs = append(*errs, fmt.Errorf("wait for pid %d: %w", l.pid, err))
			}
			return
		case tid == 0:
			sleep(pause)
			waited += pause
			pause = min(2*pause, 5*time.Millisecond)
		default:
			pause = 20 * time.Microsecond
			if err := handle(tid, Classify(ws)); err != nil && errs != nil {
				*errs = append(*errs, err)
			}
		}
	}
}
