package analyze

import "whosefd/tracer/event"

// fdTables hold something for each descriptor of each process.
type fdTables[T any] struct {
	of    map[event.PID]*fdTable[T]
	last  *fdTable[T] // the one that was asked for last, of pid
	pid   event.PID
	count int // descriptors, of all processes
}

// fdTable is that of one process. Almost all calls are about small numbers: those
// are found without a map.
type fdTable[T any] struct {
	small [128]*T
	rest  map[event.FD]*T
	count int
}

// maxEmpty bounds the tables that are kept for processes without descriptors.
const maxEmpty = 64

// table gives that of a process; nil where it has none.
func (t *fdTables[T]) table(pid event.PID) *fdTable[T] {
	if t.last == nil || pid != t.pid {
		found := t.of[pid]
		if found == nil {
			return nil
		}
		t.last, t.pid = found, pid
	}
	return t.last
}

// get gives what is held for a descriptor, or nil.
func (t *fdTables[T]) get(pid event.PID, fd event.FD) *T {
	table := t.table(pid)
	switch {
	case table == nil:
		return nil
	case uint32(fd) < uint32(len(table.small)):
		return table.small[fd]
	}
	return table.rest[fd]
}

// set holds something for a descriptor; nil takes it away.
func (t *fdTables[T]) set(pid event.PID, fd event.FD, v *T) {
	table := t.table(pid)
	if table == nil {
		if v == nil {
			return
		}
		table = &fdTable[T]{}
		if t.of == nil {
			t.of = map[event.PID]*fdTable[T]{}
		}
		t.of[pid] = table
	}
	was := t.get(pid, fd)
	switch {
	case uint32(fd) < uint32(len(table.small)):
		table.small[fd] = v
	case v == nil:
		delete(table.rest, fd)
	default:
		if table.rest == nil {
			table.rest = map[event.FD]*T{}
		}
		table.rest[fd] = v
	}
	change := 0
	if was == nil && v != nil {
		change = 1
	} else if was != nil && v == nil {
		change = -1
	}
	table.count += change
	t.count += change
	if table.count == 0 && len(t.of) > maxEmpty {
		delete(t.of, pid)
		t.last = nil
	}
}

// all goes through the descriptors of a process, in no order.
func (t *fdTables[T]) all(pid event.PID) func(yield func(event.FD, *T) bool) {
	return func(yield func(event.FD, *T) bool) {
		table := t.of[pid]
		if table == nil {
			return
		}
		for fd, v := range &table.small {
			if v != nil && !yield(event.FD(fd), v) {
				return
			}
		}
		for fd, v := range table.rest {
			if !yield(fd, v) {
				return
			}
		}
	}
}
