package procview

import (
	"os"
	"sync/atomic"
	"time"
)

const (
	// patience is how long a look may take that depends on a file system or on
	// foreign memory, either of which may never answer.
	patience = 500 * time.Millisecond
	// maxStuck bounds how many looks may hang at a time: each holds a thread.
	maxStuck = 128
)

// stuck counts the looks that have not come back in time, nor since.
var stuck atomic.Int32

// Within runs look and gives its result, or [os.ErrDeadlineExceeded] if there is
// none after d. The look then goes on alone until whatever it waits for answers,
// so it must not write to anything that is shared. While very many hang, no other
// is begun.
func Within[T any](d time.Duration, look func() (T, error)) (T, error) {
	type result struct {
		got T
		err error
	}
	late := result{err: os.ErrDeadlineExceeded}
	if stuck.Load() >= maxStuck {
		return late.got, late.err
	}
	const running, given, abandoned = 0, 1, 2
	var state atomic.Int32
	results := make(chan result, 1)
	go func() {
		got, err := look()
		results <- result{got, err}
		if !state.CompareAndSwap(running, given) {
			stuck.Add(-1)
		}
	}()
	r := late
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case r = <-results:
	case <-timer.C:
		stuck.Add(1)
		if !state.CompareAndSwap(running, abandoned) {
			stuck.Add(-1)
			r = <-results // it came at the last moment
		}
	}
	return r.got, r.err
}
