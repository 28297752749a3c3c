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

// AwaitStop waits for the thread's next stop, busily at first, since an
// interrupted thread mostly stops within microseconds.
func AwaitStop(k Kernel, tid event.TID, within time.Duration) (Stop, error) {
	deadline := time.Now().Add(within)
	for spins := 0; ; spins++ {
		got, ws, err := k.Wait(false)
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
		case got != 0:
			// A thread that the seized one has just made.
			if err := gone(k.Detach(got, passOn(Classify(ws)))); err != nil {
				return Stop{}, fmt.Errorf("detach from thread %d: %w", got, err)
			}
			continue
		}
		if time.Now().After(deadline) {
			return Stop{}, fmt.Errorf("thread %d: %w within %v", tid, ErrNoStop, within)
		}
		if spins > 20 {
			time.Sleep(50 * time.Microsecond)
		}
	}
}
