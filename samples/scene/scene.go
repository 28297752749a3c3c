// Package scene sets up what whosefd looks at: it builds the sample programs,
// starts them, starts a real gdb on a terminal of its own and waits until it
// hangs. Tests use it, and the demo through Play.
//
// Whatever a scene starts ends with it, also what its processes have started
// themselves: each carries a mark in its environment, by which it is found
// again. If the test process itself is killed, a watchdog does the clearing up.
package scene

import (
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"
)

// Patience is how long a scene waits for something that should happen soon,
// before it gives up and fails. It only costs time where something is broken.
const Patience = 60 * time.Second

// TB is what a scene needs of a test. A testing.TB is one; Play makes another.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	Cleanup(func())
}

// Play runs f outside of any test. What f logs goes to w. Play returns when f
// has ended, or has called Fatalf or Skipf, and its cleanups have run; the error
// is what was reported to Errorf, Fatalf or Skipf first. A panic of f goes on in
// the caller, after the cleanups.
func Play(w io.Writer, f func(TB)) error {
	p := &play{w: w}
	var panicked any
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer p.clear()
		defer func() { panicked = recover() }()
		f(p)
	}()
	<-done
	if panicked != nil {
		panic(panicked)
	}
	return p.err
}

type play struct {
	w io.Writer

	mu       sync.Mutex
	err      error
	cleanups []func()
}

func (p *play) Helper() {}

func (p *play) Logf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Nobody is left to be told when the log cannot be written.
	_, _ = fmt.Fprintf(p.w, format+"\n", args...)
}

func (p *play) Errorf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
}

func (p *play) Fatalf(format string, args ...any) {
	p.Errorf(format, args...)
	runtime.Goexit()
}

func (p *play) Skipf(format string, args ...any) { p.Fatalf(format, args...) }

func (p *play) Cleanup(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cleanups = append(p.cleanups, f)
}

// clear runs the cleanups, the last one first, each even if another one ends
// the goroutine.
func (p *play) clear() {
	p.mu.Lock()
	n := len(p.cleanups)
	if n == 0 {
		p.mu.Unlock()
		return
	}
	f := p.cleanups[n-1]
	p.cleanups = p.cleanups[:n-1]
	p.mu.Unlock()
	defer p.clear()
	f()
}
