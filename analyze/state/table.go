package state

import (
	"iter"
	"maps"
	"slices"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Table is the descriptor table of one process, with something for each
// descriptor. It is the same for everybody who follows a table through calls:
// what a call does to it stands in [decode.Change], and [Table.Apply] does that.
// The zero Table is empty.
type Table[T any] struct{ slots map[event.FD]slot[T] }

type slot[T any] struct {
	val     T
	cloexec event.Opt[bool]
}

// Len is the number of descriptors.
func (t *Table[T]) Len() int { return len(t.slots) }

// Get gives what is held for a descriptor; false where there is none.
func (t *Table[T]) Get(fd event.FD) (T, bool) {
	s, ok := t.slots[fd]
	return s.val, ok
}

// Set holds something for a descriptor. What is known of its close-on-exec flag
// stays, where cloexec does not tell.
func (t *Table[T]) Set(fd event.FD, val T, cloexec event.Opt[bool]) {
	if !cloexec.Known {
		cloexec = t.slots[fd].cloexec
	}
	if t.slots == nil {
		t.slots = map[event.FD]slot[T]{}
	}
	t.slots[fd] = slot[T]{val, cloexec}
}

// Drop takes a descriptor away, and gives what was held for it.
func (t *Table[T]) Drop(fd event.FD) (T, bool) {
	val, ok := t.Get(fd)
	delete(t.slots, fd)
	return val, ok
}

// All goes through the descriptors, in order. They may be dropped meanwhile.
func (t *Table[T]) All() iter.Seq2[event.FD, T] {
	return func(yield func(event.FD, T) bool) {
		for _, fd := range slices.Sorted(maps.Keys(t.slots)) {
			if val, ok := t.Get(fd); ok && !yield(fd, val) {
				return
			}
		}
	}
}

// Copy is the table of a child, which has its own from then on (fork(2)).
func (t *Table[T]) Copy() Table[T] { return Table[T]{maps.Clone(t.slots)} }

// Apply does what a call does to the table. For each descriptor that goes it
// tells drop, and for a new one it asks make what to hold: nothing if that gives
// false. Make gets what is held for the descriptor that is copied, false where
// there is none.
func (t *Table[T]) Apply(e decode.Edit, make func(from T, copied bool) (T, bool), drop func(event.FD, T)) {
	gone := func(fd event.FD) {
		if v, ok := t.Drop(fd); ok && drop != nil {
			drop(fd, v)
		}
	}
	switch {
	case e.Close.End == e.Close.First+1: // close(2): almost always
		gone(e.Close.First)
	case e.Close != decode.Range{}, e.Mark != decode.Range{}, e.Exec:
		for fd := range t.All() {
			switch {
			case e.Close.Has(fd), e.Exec && t.slots[fd].cloexec.Is(true):
				gone(fd)
			case e.Mark.Has(fd):
				t.slots[fd] = slot[T]{t.slots[fd].val, e.CloseOnExec}
			}
		}
	}
	if !e.Made.Known {
		return
	}
	var from T
	copied := false
	if e.From.Known {
		from, copied = t.Get(e.From.Val)
	}
	gone(e.Made.Val)
	if v, ok := make(from, copied); ok {
		t.Set(e.Made.Val, v, e.CloseOnExec)
	}
}
