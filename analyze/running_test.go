package analyze

import (
	"testing"

	"whosefd/analyze/state"
	"whosefd/tracer/event"
)

// A look at a thread that has just been let go finds it running: the call that
// it had not come back from counts.
func TestRunningAgain(t *testing.T) {
	s := traced(openAt(1205000, "/proc/self/fd/4", 16, &ownPipe), readFrom(1206000, 16, ownPipe, stuck),
		&event.Blocked{PID: gdbPID, TID: gdbPID, Comm: "gdb", State: "R"}, fromMemory(), fromMemoryLib())
	d := analyzed(s).Diagnosis()
	if d.Verdict != "hang" || len(d.Findings) != 1 || d.Findings[0].TID != gdbPID || d.Debugger.State != "blocked" {
		t.Errorf("%s: %+v", d.Summary, d.Debugger)
	}
	d = analyzed(s.change(func(ev event.Event) event.Event {
		if c, ok := ev.(*event.Syscall); ok && c.Name == "read" {
			return readFrom(1206000, 16, ownPipe, 1)
		}
		return ev
	})).Diagnosis()
	if d.Verdict == "hang" || d.Debugger.State != "running" {
		t.Errorf("after the read: %s: %+v", d.Summary, d.Debugger)
	}
}

// What is read behind an lseek is not how the file begins.
func TestBegins(t *testing.T) {
	seek := call(1205500, "lseek")
	seek.FD, seek.Ret, seek.Target = event.Some[event.FD](16), event.Some[int64](4096), &otherLib
	read := readFrom(1206000, 16, otherLib, 64)
	read.Data = []byte("not the beginning")
	for _, tc := range []struct {
		calls []event.Event
		want  state.Head
	}{
		{one(read), state.HeadOther},
		{one(seek, read), state.HeadUnknown},
	} {
		a := analyzed(traced(openAt(1205000, "/proc/self/fd/15", 16, &otherLib), tc.calls...))
		if got := a.state.Opens()[0].Head; got != tc.want {
			t.Errorf("%d calls: %d, want %d", len(tc.calls), got, tc.want)
		}
	}
}
