package analyze

import (
	"testing"

	"whosefd/tracer/event"
)

// BenchmarkAdd is the cost of an event: an open, a read and a close in turn.
func BenchmarkAdd(b *testing.B) {
	a := New()
	tables := a.Tables(Filter{})
	evs := []event.Event{openAt(1, "/lib/libc.so", 16, &libc), readFrom(2, 16, libc, 100), closeFD(3, 16, libc)}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		ev := evs[i%len(evs)]
		tables.Add(ev, a.Add(ev))
	}
}
