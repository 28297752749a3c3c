package analyze

import (
	"fmt"
	"testing"

	"whosefd/tracer/event"
)

func TestExcerpt(t *testing.T) {
	for _, tc := range []struct {
		limit, total int
		of           []int // calls of interest
		want         int   // rows kept
	}{
		{limit: 0, total: 50, want: 0},
		{limit: -3, total: 50, want: 0},
		{limit: 1, total: 50, want: 1},
		{limit: 7, total: 50, of: []int{20}, want: 7},
		{limit: 1000, total: 0, want: 0},
		{limit: 1000, total: 999, want: 999},
		{limit: 1000, total: 1000, want: 1000},
		{limit: 1000, total: 1001, want: 1000},
		{limit: 1000, total: 20_000, want: 1000},
		{limit: 1000, total: 20_000, of: []int{5000}, want: 1000},
		{limit: 1000, total: 20_000, of: []int{5000, 5010, 9000, 19_999}, want: 1000},
		{limit: 1000, total: 20_000, of: []int{1, 20_000}, want: 1000},
	} {
		t.Run(fmt.Sprint(tc.limit, tc.total, tc.of), func(t *testing.T) {
			marked := map[int]bool{}
			for _, n := range tc.of {
				marked[n] = true
			}
			e := NewExcerpt(tc.limit)
			for n := 1; n <= tc.total; n++ {
				mark := Mark{}
				if marked[n] {
					mark = Mark{Rule: RuleSelfFD, Effect: Hang}
				}
				ev := call(event.Micros(n), "read")
				ev.Target = &event.Target{Kind: event.Regular, Ino: uint64(n)}
				e.Add(ev, mark)
				ev.T, ev.Target.Ino = 0, 0 // it is somebody else's
			}
			rows := e.Calls()
			if len(rows) != tc.want || e.Total != int64(tc.total) {
				t.Fatalf("%d rows of %d, want %d", len(rows), e.Total, tc.want)
			}
			kept := map[int]bool{}
			for i, r := range rows {
				if int64(r.Call.T) != r.Number || r.Call.Target.Ino != uint64(r.Number) || i > 0 && r.Number <= rows[i-1].Number {
					t.Fatalf("row %d: call %d at %d", i, r.Number, r.Call.T)
				}
				kept[int(r.Number)] = true
			}
			if tc.limit < 100 {
				return
			}
			for n := 1; n <= min(tc.total, tc.limit/10); n++ {
				if !kept[n] || !kept[tc.total+1-n] {
					t.Fatalf("%d of the first, or of the last, is not kept", n)
				}
			}
			for _, n := range tc.of {
				for i := max(1, n-tc.limit/20); i <= min(tc.total, n+tc.limit/20); i++ {
					if !kept[i] {
						t.Fatalf("call %d near %d is not kept", i, n)
					}
				}
			}
		})
	}
}

// What becomes a finding only later is kept too.
func TestExcerptOfInterest(t *testing.T) {
	e := NewExcerpt(1000)
	e.Add(openAt(1, "/proc/self/fd/60", 0, nil), Mark{})
	for range 3000 {
		e.Add(call(2, "read"), Mark{})
	}
	e.Add(openAt(3, "/proc/self/fd/4", 16, &ownPipe), Mark{})
	for range 3000 {
		e.Add(call(4, "read"), Mark{})
	}
	names := map[event.Text]bool{}
	for _, r := range e.Calls() {
		names[r.Call.Path] = true
	}
	if !names["/proc/self/fd/4"] || !names["/proc/self/fd/60"] {
		t.Errorf("kept: %v", names)
	}
}

func TestExcerptOfEvidence(t *testing.T) {
	e := NewExcerpt(10)
	e.Add(&event.Session{Kernel: "6.1", Debugger: &event.Process{PID: gdbPID, Comm: "gdb", Cmdline: []event.Text{"gdb"}}}, Mark{})
	for _, pid := range []event.PID{9, 3, 9, 7} {
		e.Add(&event.Inferior{Process: event.Process{PID: pid}}, Mark{})
	}
	e.Add(&event.End{T: 5, Reason: "exited"}, Mark{})
	infs := e.Inferiors()
	if len(infs) != 3 || infs[0].PID != 3 || infs[2].PID != 9 || e.End == nil || e.End.Reason != "exited" || e.Session.Debugger.Comm != "gdb" {
		t.Errorf("%+v %+v %+v", infs, e.End, e.Session)
	}
}

func TestDescriptors(t *testing.T) {
	a := New()
	for _, ev := range []event.Event{gdbSession("snapshot"), fd(gdbPID, 16, "r", ownPipe), fd(gdbPID, 3, "r", ownPipe), fd(infPID, 0, "rw", libc)} {
		a.Add(ev)
	}
	got := a.Descriptors(gdbPID)
	if len(got) != 2 || got[0].FD != 3 || got[1].FD != 16 || got[0].Access != "r" || !got[1].Target.Same(ownPipe) {
		t.Errorf("%+v", got)
	}
	if len(a.Descriptors(1)) != 0 {
		t.Error("descriptors of nobody")
	}
}
