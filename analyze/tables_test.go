package analyze

import (
	"fmt"
	"runtime"
	"slices"
	"testing"

	"whosefd/analyze/tables"
	"whosefd/tracer/event"
)

func tabled(f Filter, evs ...event.Event) *Tables {
	a := New()
	t := a.Tables(f)
	for _, ev := range evs {
		t.Add(ev, a.Add(ev))
	}
	return t
}

func resumed(c *event.Syscall, ret, us int64) *event.Syscall {
	c.Unfinished, c.Resumed, c.Ret, c.DurUS = false, true, event.Some(ret), event.Some(us)
	return c
}

func closeFD(t event.Micros, n event.FD, target event.Target) *event.Syscall {
	c := call(t, "close")
	c.FD, c.Ret, c.DurUS, c.Target = event.Some(n), event.Some[int64](0), event.Some[int64](1), &target
	return c
}

func TestResumedIsNotCountedTwice(t *testing.T) {
	tables := tabled(Filter{}, gdbSession("trace"), readFrom(100, 16, ownPipe, stuck), resumed(readFrom(100, 16, ownPipe, 0), 12, 5000))
	want := SummaryRow{Name: "read", Calls: 1, TotalUS: 5000, MaxUS: 5000}
	if got := tables.Summary(); len(got) != 1 || got[0] != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	fds := tables.Descriptors()
	if len(fds) != 1 || fds[0].Reads != 1 || fds[0].Bytes != 12 || fds[0].Waiting || fds[0].ReadUS != 5000 {
		t.Errorf("%+v", fds)
	}
	if rows, _ := tables.Calls(); len(rows) != 2 {
		t.Errorf("%d rows: both halves are shown", len(rows))
	}
}

func TestDescriptorLife(t *testing.T) {
	second := openAt(3000, "/lib/other.so", 16, &otherLib)
	dup := call(4000, "dup3")
	dup.FD, dup.NewFD, dup.Ret, dup.Target = event.Some[event.FD](16), event.Some[event.FD](20), event.Some[int64](20), &otherLib
	gathered := tabled(Filter{}, gdbSession("trace"), fd(gdbPID, 3, "r", ownPipe), fd(infPID, 0, "rw", libc),
		openAt(1000, "/lib/libc.so", 16, &libc), readFrom(1500, 16, libc, 100), readFrom(1600, 16, libc, 50), closeFD(2000, 16, libc),
		second, dup, readFrom(5000, 3, ownPipe, stuck), &event.End{T: 9000, Reason: "duration"})
	type row struct {
		fd            event.FD
		name          event.Text
		opened        event.Micros
		closed        event.Micros
		reads, bytes  int64
		readUS        int64
		waiting, gone bool
		whose         tables.Whose
	}
	want := []row{
		{3, "", -1, -1, 1, 0, 4000, true, false, tables.WhoseDebugger},
		{16, "/lib/libc.so", 1015, 2001, 2, 150, 14, false, false, tables.WhoseInferior},
		{16, "/lib/other.so", 3015, -1, 0, 0, 0, false, false, tables.WhoseDebugger},
		{20, "/lib/other.so", 4000, -1, 0, 0, 0, false, false, tables.WhoseDebugger},
	}
	got := gathered.Descriptors()
	if len(got) != len(want) {
		t.Fatalf("%d rows: %+v", len(got), got)
	}
	for i, r := range got {
		g := row{r.FD, r.Name, r.Opened.Or(-1), r.Closed.Or(-1), r.Reads, r.Bytes, r.ReadUS, r.Waiting, r.Gone, r.Whose}
		if g != want[i] {
			t.Errorf("row %d:\n got %+v\nwant %+v", i, g, want[i])
		}
	}
}

// What close_range and exec close is closed for the tables, and for the analysis.
func TestDescriptorsClosedTogether(t *testing.T) {
	closeRange := call(3000, "close_range")
	closeRange.FirstFD, closeRange.LastFD, closeRange.Ret = event.Some[uint32](17), event.Some[uint32](1<<32-1), event.Some[int64](0)
	exec := call(3000, "execve")
	exec.Ret = event.Some[int64](0)
	kept := call(2500, "fcntl")
	kept.FD, kept.Flags, kept.CloseOnExec, kept.Ret = event.Some[event.FD](18), "F_SETFD", event.Some(false), event.Some[int64](0)
	for name, tc := range map[string]struct {
		calls []event.Event
		want  string
	}{
		"close_range": {one(closeRange), "[16 true 17 false 18 false]"},
		"exec":        {one(kept, exec), "[16 false 17 false 18 true]"},
	} {
		a := New()
		gathered := a.Tables(Filter{})
		for _, ev := range append([]event.Event{gdbSession("trace"), openAt(1000, "/lib/a.so", 16, &libc), openAt(1100, "/lib/b.so", 17, &otherLib),
			openAt(1200, "/lib/c.so", 18, &newLib)}, tc.calls...) {
			gathered.Add(ev, a.Add(ev))
		}
		var got []string
		for _, r := range gathered.Descriptors() {
			open := slices.ContainsFunc(a.Descriptors(gdbPID), func(d event.Descriptor) bool { return d.FD == r.FD })
			if open == r.Closed.Known {
				t.Errorf("%s: descriptor %d: the table says %+v", name, r.FD, r.Closed)
			}
			got = append(got, fmt.Sprint(r.FD, " ", open))
		}
		if fmt.Sprint(got) != tc.want {
			t.Errorf("%s: %v, want %s", name, got, tc.want)
		}
	}
}

// A new listing at the end of a trace tells what was closed unseen.
func TestDescriptorGoneUnseen(t *testing.T) {
	tables := tabled(Filter{}, gdbSession("trace"), fd(gdbPID, 3, "r", ownPipe), fd(gdbPID, 4, "w", ownPipe), fd(gdbPID, 5, "r", libc),
		poll("poll"), fd(gdbPID, 3, "r", ownPipe), fd(gdbPID, 5, "r", otherLib))
	var got []string
	for _, r := range tables.Descriptors() {
		got = append(got, fmt.Sprintf("%d %s %v", r.FD, r.Target.Link, r.Gone))
	}
	want := "[3 pipe:[4798] false 4 pipe:[4798] true 5 /usr/lib/libc.so.6 true 5 /usr/lib/ld.so false]"
	if fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}

// What a trace has not seen made was there before, or made by a call that is
// not in it: the one is known from the first listing.
func TestDescriptorMadeUnseen(t *testing.T) {
	made := fd(gdbPID, 6, "w", ownPipe)
	made.T, made.Call = 700, "pipe2"
	for source, want := range map[string]string{
		"trace":  "[3 before 16 before 16 25 16 unseen 20 unseen]",
		"strace": "[3 before 6 700 16 before 16 before 16 25 20 before]",
	} {
		evs := []event.Event{gdbSession(source), fd(gdbPID, 3, "r", ownPipe), fd(gdbPID, 16, "r", otherLib), closeFD(5, 16, otherLib),
			openAt(10, "/lib/libc.so", 16, &libc), closeFD(500, 16, libc), readFrom(600, 16, ownPipe, 5), readFrom(800, 20, ownPipe, 5)}
		if source == "strace" {
			evs = append(evs, made)
		}
		var got []string
		for _, r := range tabled(Filter{}, evs...).Descriptors() {
			opened := "before"
			if r.Unseen {
				opened = "unseen"
			} else if r.Opened.Known {
				opened = fmt.Sprint(int64(r.Opened.Val))
			}
			got = append(got, fmt.Sprint(r.FD, " ", opened))
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%s: %v, want %s", source, got, want)
		}
	}
}

// How long calls took (strace -T) does not say when they were.
func TestDurationsAreNoTimes(t *testing.T) {
	tables := tabled(Filter{}, gdbSession("strace"), openAt(0, "/lib/libc.so", 16, &libc), readFrom(0, 16, libc, 50), closeFD(0, 16, libc),
		readFrom(0, 3, ownPipe, stuck))
	if !tables.Untimed() {
		t.Error("the log has no times")
	}
	for _, r := range tables.Descriptors() {
		if r.Opened.Or(0) != 0 || r.Closed.Or(0) != 0 || r.Waiting && r.ReadUS != 0 {
			t.Errorf("%+v", r)
		}
	}
}

func TestFilter(t *testing.T) {
	marked := Mark{Rule: RuleSelfFD, Effect: Hang}
	open := openAt(1, "/proc/self/fd/4", 16, &ownPipe)
	read := readFrom(2, 16, ownPipe, 3)
	read.TID = 7
	for _, tc := range []struct {
		f          Filter
		open, read bool
	}{
		{Filter{}, true, true},
		{Filter{Calls: []string{"read", "pread64"}}, false, true},
		{Filter{Paths: []string{"self/fd"}}, true, false},
		{Filter{Paths: []string{"pipe:"}}, true, true},
		{Filter{Paths: []string{"/proc/*/fd/?"}}, true, false},
		{Filter{Paths: []string{"/proc/*"}}, true, false}, // across slashes
		{Filter{Paths: []string{"proc/*"}}, false, false}, // a glob is the whole name
		{Filter{Paths: []string{"["}}, true, true},        // no glob: a part of pipe:[4798]
		{Filter{FDs: []event.FD{16}}, true, true},
		{Filter{FDs: []event.FD{4}}, false, false},
		{Filter{TIDs: []event.TID{7}}, false, true},
		{Filter{Findings: true}, true, false},
		{Filter{Calls: []string{"openat"}, TIDs: []event.TID{7}}, false, false},
	} {
		if o, r := tc.f.Match(open, marked), tc.f.Match(read, Mark{}); o != tc.open || r != tc.read {
			t.Errorf("%+v: %v, %v", tc.f, o, r)
		}
	}
	tables := tabled(Filter{Findings: true}, scenes()["trace-hang"]...)
	if rows, _ := tables.Calls(); len(rows) != 2 {
		t.Errorf("findings only: %d rows", len(rows))
	}
	if fds := tables.Descriptors(); len(fds) != 1 || fds[0].Name != "/proc/self/fd/4" || !fds[0].Waiting {
		t.Errorf("findings only: %+v", fds)
	}
}

func TestMarks(t *testing.T) {
	a := New()
	var got []string
	for _, ev := range scenes()["trace-hang"] {
		if m := a.Add(ev); m != (Mark{}) {
			got = append(got, fmt.Sprintf("%s: %s %s", ev.(*event.Syscall).Name, m.Rule, m.Effect))
		}
	}
	if want := "[openat: self-fd hang read: self-fd hang]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
	for _, quiet := range []string{"trace-derived", "trace-own-self", "trace-guarded"} {
		a := New()
		for _, ev := range scenes()[quiet] {
			if m := a.Add(ev); m != (Mark{}) {
				t.Errorf("%s: %+v has mark %+v", quiet, ev, m)
			}
		}
	}
}

// churn feeds n calls that open, read and close files under ever new names.
func churn(a *Analysis, t *Tables, from, n int) {
	for i := from; i < from+n; i++ {
		now := event.Micros(i * 100)
		file := event.Target{Kind: event.Regular, Link: event.Text(fmt.Sprintf("/tmp/f%d", i)), Dev: 1, Ino: uint64(i + 1)}
		name := file.Link
		if i%3 == 0 {
			name = event.Text(fmt.Sprintf("/proc/self/fd/%d", i))
		}
		number := event.FD(20 + i%5000)
		open := openAt(now, name, int64(number), &file)
		open.TID = event.TID(i % 100_000)
		for _, ev := range []*event.Syscall{means(open, infPID, 4, memfd), readFrom(now+10, number, file, 10), closeFD(now+20, number, file)} {
			if i%7 == 0 && ev.Name == "close" {
				continue
			}
			t.Add(ev, a.Add(ev))
		}
		unended := readFrom(now+30, number, file, stuck)
		unended.TID = event.TID(i)
		t.Add(unended, a.Add(unended))
		lost := &event.Lost{Reason: fmt.Sprintf("reason %d", i)}
		t.Add(lost, a.Add(lost))
		lm := library(infPID, i, name, file, file, file)
		t.Add(lm, a.Add(lm))
	}
}

func TestMemoryIsBounded(t *testing.T) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	a := New()
	tables := a.Tables(Filter{})
	churn(a, tables, 0, 60_000)
	before := heap()
	churn(a, tables, 60_000, 120_000)
	after := heap()
	if after > before+before/5+1<<20 {
		t.Errorf("after 3 times as many calls: %d bytes, before %d", after, before)
	}
	d := a.Diagnosis()
	if len(d.Missing) == 0 {
		t.Error("facts were dropped, and the diagnosis does not say so")
	}
	if len(d.Findings) > 256 {
		t.Errorf("%d findings", len(d.Findings))
	}
	if rows, cut := tables.Calls(); len(rows) != DefaultRows || cut == 0 {
		t.Errorf("%d rows, %d cut", len(rows), cut)
	}
	if last := tables.Descriptors(); last[len(last)-1].Count == 0 {
		t.Error("closed descriptors were merged, and no row says so")
	}
	runtime.KeepAlive(a)
}

func TestTablesRows(t *testing.T) {
	for rows, want := range map[int][]event.Micros{3: {8, 9, 10}, 100: {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, -1: nil} {
		tables := New().Tables(Filter{Rows: rows})
		for i := 1; i <= 10; i++ {
			target := event.Target{Kind: event.Regular, Ino: uint64(i)}
			tables.Add(&event.Syscall{T: event.Micros(i), Name: "read", FD: event.Some[event.FD](3), Target: &target}, Mark{})
			target.Ino = 0 // it belongs to the caller
		}
		calls, cut := tables.Calls()
		var got []event.Micros
		for _, c := range calls {
			got = append(got, c.Call.T)
			if c.Call.Target == nil || c.Call.Target.Ino != uint64(c.Call.T) {
				t.Errorf("%d rows: call %d has target %+v", rows, c.Call.T, c.Call.Target)
			}
		}
		if !slices.Equal(got, want) || cut != int64(10-len(want)) {
			t.Errorf("%d rows: %v, %d cut", rows, got, cut)
		}
	}
}

// 5,000 opens of one file are one row, with all the calls of their loop; what is different
// is not in it, nor in any other format than those for people.
func TestCallsFold(t *testing.T) {
	evs := []event.Event{gdbSession("trace")}
	for i := range event.Micros(5000) {
		evs = append(evs, openAt(i*10, "/lib/libc.so", 16, &libc), readFrom(i*10+2, 16, libc, 100), closeFD(i*10+4, 16, libc))
	}
	evs = append(evs, openAt(60_000, "/lib/libc.so", 17, &libc), readFrom(60_002, 17, libc, stuck), readFrom(60_003, 17, libc, stuck))
	rows, cut := tabled(Filter{Fold: true}, evs...).Calls()
	got := ""
	for _, r := range rows {
		got += fmt.Sprintf("%s %d ×%d %d; ", r.Call.Name, r.Call.T, r.Count, r.Call.DurUS.Val)
	}
	if want := "openat 0 ×5000 75000; read 2 ×5000 35000; close 4 ×5000 5000; openat 60000 ×1 15; read 60002 ×1 0; read 60003 ×1 0; "; got != want || cut != 0 {
		t.Errorf("%d cut, %s", cut, got)
	}
	if rows, cut := tabled(Filter{}, evs...).Calls(); len(rows) != DefaultRows || cut != 15003-DefaultRows {
		t.Errorf("not folded: %d rows, %d cut", len(rows), cut)
	}
	if _, cut := tabled(Filter{Fold: true, Rows: 2}, evs...).Calls(); cut != 15001 {
		t.Errorf("%d cut, want all but 2", cut)
	}
}
