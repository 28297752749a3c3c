package analyze

import (
	"testing"

	"whosefd/tracer/event"
)

// What a file does to a debugger depends on how that reads libraries.
func TestExpected(t *testing.T) {
	for _, tc := range []struct {
		comm event.Text
		kind event.Kind
		want Effect
	}{
		{"gdb", event.Pipe, Hang},
		{"gdbserver", event.Pipe, Hang},
		{"lldb", event.Pipe, Failed},
		{"lldb-14", event.TTY, Failed},
		{"dlv", event.Pipe, Failed},
		{"dlv", event.Regular, WrongFile},
		{"lldb", event.FIFO, Hang}, // already in the open
		{"profiler", event.TTY, StolenInput},
		{"profiler", event.Socket, Failed},
	} {
		a := New()
		a.debugger.Comm = tc.comm
		if got := a.expected(event.Target{Kind: tc.kind}); got != tc.want {
			t.Errorf("%s, %s: %s, not %s", tc.comm, tc.kind, got, tc.want)
		}
	}
}

// A name that would mislead counts as a finding only of a program that opens
// such names itself.
func TestPresumed(t *testing.T) {
	for _, tc := range []struct {
		comm   event.Text
		tracer event.TID // of the inferior; the debugger is 10
		want   bool
	}{
		{"gdb", 10, true},
		{"gdb", 11, false}, // a gdbserver traces for it, and opens for it
		{"gdbserver", 10, true},
		{"lldb", 11, true},
		{"lldb-server-14.", 10, false},
		{"dlv", 12, true}, // any thread of it
		{"gdb", 0, false}, // named by the user
		{"profiler", 10, false},
	} {
		a := New()
		a.debugger = event.Process{PID: 10, Comm: tc.comm}
		a.inferiors[20] = &event.Inferior{Process: event.Process{PID: 20}, TracerTID: tc.tracer}
		s := &suspect{meant: meant{pid: 20}}
		if got := a.presumed(s, Finding{Rule: RuleSelfFD, Effect: Failed}); got != tc.want {
			t.Errorf("%s, inferior traced by %d: %v", tc.comm, tc.tracer, got)
		}
	}
}
