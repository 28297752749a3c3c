package event

import "iter"

const (
	// aheadBatch is how many events are handed over at once: enough that the
	// hand-over costs nothing, few enough that they stay in the CPU's cache.
	aheadBatch = 256
	// aheadBatches is how many batches may wait.
	aheadBatches = 4
)

// Ahead gives what next gives, up to and with its first error, and calls next on
// another goroutine, so that events are read while others are looked at. When
// the loop over it ends, next is not called any more.
func Ahead(next func() (Event, error)) iter.Seq2[Event, error] {
	type batch struct {
		events []Event
		err    error
	}
	return func(yield func(Event, error) bool) {
		full, stop := make(chan batch, aheadBatches), make(chan struct{})
		go func() {
			defer close(full)
			for {
				b := batch{events: make([]Event, 0, aheadBatch)}
				for len(b.events) < aheadBatch && b.err == nil {
					var ev Event
					if ev, b.err = next(); b.err == nil {
						b.events = append(b.events, ev)
					}
				}
				select {
				case full <- b:
				case <-stop:
					return
				}
				if b.err != nil {
					return
				}
			}
		}()
		defer func() {
			close(stop)
			for range full { // until next is not in use any more
			}
		}()
		for b := range full {
			for _, ev := range b.events {
				if !yield(ev, nil) {
					return
				}
			}
			if b.err != nil {
				yield(nil, b.err)
				return
			}
		}
	}
}
