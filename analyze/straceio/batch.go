package straceio

import "whosefd/tracer/event"

// batch is a handful of events on their way from the goroutine that parses to
// the one that asks for them.
type batch struct {
	items []event.Event
	calls [batchCalls]event.Syscall
	used  int
	bytes []byte // of the events' Data
	err   error  // the last batch: io.EOF, or why the reading ended
}

// batchCalls is the number of calls of a batch: so many that waking up the other
// goroutine costs nothing. With 256 reading takes twice as long; 16384 leave the
// CPU's cache.
const batchCalls = 4096

// reset empties it. That is for the goroutine that has looked at the events: the
// one that parses has more to do.
func (b *batch) reset() {
	clear(b.calls[:min(b.used+1, len(b.calls))]) // the next slot may have been touched
	clear(b.items)
	b.items, b.used, b.bytes, b.err = b.items[:0], 0, b.bytes[:0], nil
}

func (b *batch) full() bool { return b.used == len(b.calls) || len(b.items) >= 2*batchCalls }

// slot gives an event to be filled. Until it is committed, the next slot is the
// same one. There is room for one more as long as the batch is not full, which
// is looked at between lines.
func (p *parser) slot() *event.Syscall {
	ev := &p.out.calls[p.out.used]
	if p.touched {
		*ev = event.Syscall{}
	}
	p.touched = true
	return ev
}

func (p *parser) commit(ev *event.Syscall) {
	p.touched = false
	p.out.used++
	p.emitted++
	p.out.items = append(p.out.items, ev)
}

func (p *parser) emit(ev event.Event) { p.out.items = append(p.out.items, ev) }

// arena gives room for n bytes that live as long as the batch.
func (p *parser) arena(n int) []byte {
	b := p.out.bytes
	if cap(b)-len(b) < n {
		b = make([]byte, 0, max(4096, 2*cap(b), n))
	}
	p.out.bytes = b[:len(b)+n]
	return b[len(b) : len(b) : len(b)+n]
}

// data gives what an escaped text means, at most maxData bytes of it.
func (p *parser) data(text []byte) []byte {
	b := unescape(p.arena(len(text)), text)
	return b[:min(len(b), maxData)]
}
