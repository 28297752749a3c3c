package ptrace

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
)

// ErrNoStop says that a thread did not stop in time: it sleeps where nothing
// can wake it (state D), or its process is being killed.
var ErrNoStop = errors.New("the thread did not stop")

// Peek stops one thread, calls look while it is stopped, and lets it go on as
// if nothing had been: a call that it was in goes on. It says for how long the
// thread was stopped. Look must be quick and must not change the thread. Call
// it by [OnTracerThread].
func Peek(k Kernel, tid event.TID, within time.Duration, look func() error) (time.Duration, error) {
	if err := k.Seize(tid, Options); err != nil {
		return 0, fmt.Errorf("attach to thread %d: %w", tid, err)
	}
	began := time.Now()
	if err := k.Interrupt(tid); err != nil {
		return 0, fmt.Errorf("interrupt thread %d: %w", tid, err)
	}
	stop, err := AwaitStop(k, tid, within)
	if err != nil {
		return time.Since(began), err
	}
	lookErr := look()
	if _, err := k.Interrupted(tid); err != nil {
		lookErr = errors.Join(lookErr, fmt.Errorf("registers of thread %d: %w", tid, err))
	}
	err = gone(k.Detach(tid, passOn(stop)))
	took := time.Since(began)
	if err != nil {
		err = fmt.Errorf("detach from thread %d: %w", tid, err)
	}
	return took, errors.Join(lookErr, err)
}

// spin is for how long a stop is waited for busily: a thread that is interrupted,
// or makes a call that does not block, mostly stops within microseconds, and
// the wake-up from a sleep takes longer than that.
const spin = 500 * time.Microsecond

// AwaitStop waits for a thread's next stop. Other tracees are not waited for. Time for
// which we did not run does not count: the thread did not run either, perhaps.
func AwaitStop(k Kernel, tid event.TID, within time.Duration) (Stop, error) {
	const pause, most = 50 * time.Microsecond, 5 * time.Millisecond
	for before, waited := time.Now(), time.Duration(0); ; {
		got, ws, err := k.Wait(tid, false)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			return Stop{}, fmt.Errorf("thread %d: %w", tid, unix.ESRCH)
		case err != nil:
			return Stop{}, fmt.Errorf("wait for thread %d: %w", tid, err)
		case got == tid:
			s := Classify(ws)
			if s.Kind == Exited || s.Kind == Killed {
				return s, fmt.Errorf("thread %d ended: %w", tid, unix.ESRCH)
			}
			return s, nil
		}
		if waited > within {
			return Stop{}, fmt.Errorf("thread %d: %w within %v", tid, ErrNoStop, within)
		}
		now := time.Now()
		waited += min(now.Sub(before), most)
		if before = now; waited > spin {
			time.Sleep(pause)
		}
	}
}
