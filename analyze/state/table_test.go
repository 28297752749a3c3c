package state

import (
	"maps"
	"math"
	"slices"
	"testing"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// follow applies calls to a table of names.
func follow(t *Table[string], calls ...event.Syscall) (dropped []string) {
	for _, call := range calls {
		t.Apply(decode.EditOf(&call), func(from string, copied bool) (string, bool) {
			if copied {
				return from, true
			}
			return string(call.Path), true
		}, func(_ event.FD, name string) { dropped = append(dropped, name) })
	}
	return dropped
}

func TestTableFollowsCalls(t *testing.T) {
	fd, ret := event.Some[event.FD], event.Some[int64]
	open := func(n int64, name event.Text, flags string) event.Syscall {
		return event.Syscall{Name: "openat", Path: name, Flags: flags, Ret: ret(n)}
	}
	dup2 := func(from, to event.FD) event.Syscall {
		return event.Syscall{Name: "dup2", FD: fd(from), NewFD: fd(to), Ret: ret(int64(to))}
	}
	setFD := func(n event.FD, on bool) event.Syscall {
		return event.Syscall{Name: "fcntl", FD: fd(n), Flags: "F_SETFD", CloseOnExec: event.Some(on), Ret: ret(0)}
	}
	closeRange := func(first, last uint32, flags string) event.Syscall {
		return event.Syscall{Name: "close_range", FirstFD: event.Some(first), LastFD: event.Some(last), Flags: flags, Ret: ret(0)}
	}
	exec := event.Syscall{Name: "execve", Ret: ret(0)}
	opens := []event.Syscall{open(3, "a", ""), open(4, "b", "O_CLOEXEC"), open(5, "c", ""), open(2000, "far", "")}

	for what, tc := range map[string]struct {
		calls   []event.Syscall
		want    map[event.FD]string
		dropped []string
	}{
		"exec closes what is close-on-exec": {
			[]event.Syscall{exec}, map[event.FD]string{3: "a", 5: "c", 2000: "far"}, []string{"b"}},
		"dup2 takes the flag away": {
			[]event.Syscall{dup2(4, 3), exec}, map[event.FD]string{3: "b", 5: "c", 2000: "far"}, []string{"a", "b"}},
		"dup2 onto itself changes nothing": {
			[]event.Syscall{dup2(4, 4), exec}, map[event.FD]string{3: "a", 5: "c", 2000: "far"}, []string{"b"}},
		"F_SETFD": {
			[]event.Syscall{setFD(4, false), setFD(5, true), exec}, map[event.FD]string{3: "a", 4: "b", 2000: "far"}, []string{"c"}},
		"close_range": {
			[]event.Syscall{closeRange(4, math.MaxUint32, "")}, map[event.FD]string{3: "a"}, []string{"b", "c", "far"}},
		"close_range that marks": {
			[]event.Syscall{closeRange(5, 5000, "CLOSE_RANGE_CLOEXEC"), exec}, map[event.FD]string{3: "a"}, []string{"b", "c", "far"}},
		"a number that is used again unseen": {
			[]event.Syscall{open(3, "new", "")}, map[event.FD]string{3: "new", 4: "b", 5: "c", 2000: "far"}, []string{"a"}},
		"close": {
			[]event.Syscall{{Name: "close", FD: fd(2000), Ret: ret(0)}}, map[event.FD]string{3: "a", 4: "b", 5: "c"}, []string{"far"}},
	} {
		var table Table[string]
		dropped := follow(&table, append(opens[:len(opens):len(opens)], tc.calls...)...)
		if got := maps.Collect(table.All()); !maps.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", what, got, tc.want)
		}
		if !slices.Equal(dropped, tc.dropped) {
			t.Errorf("%s: dropped %v, want %v", what, dropped, tc.dropped)
		}
		if table.Len() != len(tc.want) {
			t.Errorf("%s: %d descriptors", what, table.Len())
		}
	}
}

func TestTableCopy(t *testing.T) {
	var table Table[string]
	table.Set(3, "a", event.Opt[bool]{})
	table.Set(2000, "far", event.Opt[bool]{})
	child := table.Copy()
	child.Drop(3)
	child.Drop(2000)
	if table.Len() != 2 || child.Len() != 0 {
		t.Errorf("%d and %d descriptors", table.Len(), child.Len())
	}
}
