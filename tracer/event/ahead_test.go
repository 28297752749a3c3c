package event

import (
	"errors"
	"io"
	"testing"
)

func TestAhead(t *testing.T) {
	broken := errors.New("broken")
	for _, tc := range []struct {
		name        string
		events, use int // use is after how many the loop ends
		err         error
	}{
		{"empty", 0, 10, io.EOF},
		{"less than a batch", 10, 1000, io.EOF},
		{"whole batches", 2 * aheadBatch, 10000, io.EOF},
		{"an error behind some", 3*aheadBatch + 1, 10000, broken},
		{"ended early", 100 * aheadBatch, 5, io.EOF},
		{"ended at a batch's end", 100 * aheadBatch, aheadBatch, io.EOF},
	} {
		t.Run(tc.name, func(t *testing.T) {
			made, inNext := 0, false
			next := func() (Event, error) {
				inNext = true
				defer func() { inNext = false }()
				if made == tc.events {
					return nil, tc.err
				}
				made++
				return &Syscall{T: Micros(made)}, nil
			}
			got := 0
			var err error
			for ev, e := range Ahead(next) {
				if err = e; err != nil {
					continue // nothing may follow
				}
				got++
				if call, ok := ev.(*Syscall); !ok || call.T != Micros(got) {
					t.Fatalf("event %d is %+v", got, ev)
				}
				if got == tc.use {
					break
				}
			}
			if want := min(tc.events, tc.use); got != want {
				t.Errorf("%d events, want %d", got, want)
			}
			if tc.use > tc.events && !errors.Is(err, tc.err) {
				t.Errorf("error %v, want %v", err, tc.err)
			}
			if inNext { // also what the race detector looks for
				t.Error("next is still called")
			}
		})
	}
}
