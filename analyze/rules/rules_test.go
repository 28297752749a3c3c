package rules

import (
	"testing"

	"whosefd/analyze/state"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

const (
	gdbPID = 2158
	infPID = 2162
)

var (
	ownPipe = event.Target{Kind: event.Pipe, Link: "pipe:[4798]", Dev: 15, Ino: 4798}
	memfd   = event.Target{Kind: event.Memfd, Link: "/memfd:libfunction (deleted)", Dev: 1, Ino: 1026}
	memfd2  = event.Target{Kind: event.Memfd, Link: "/memfd:second (deleted)", Dev: 1, Ino: 1027}
	libc    = event.Target{Kind: event.Regular, Link: "/usr/lib/libc.so.6", Dev: 0x801, Ino: 77}
	gone    = event.Target{Kind: event.Unknown, Error: "ENOENT"}
)

func TestCompare(t *testing.T) {
	lm := func(mapped, stat *event.Target) meant {
		return meant{pid: infPID, lm: &event.LinkMap{PID: infPID, Mapped: mapped, MappedStat: stat}}
	}
	file := func(link event.Text, dev, ino uint64) event.Target {
		return event.Target{Kind: event.Regular, Link: link, Dev: dev, Ino: ino}
	}
	maps, stat := file("/a/lib.so", 31, 5), file("/a/lib.so", 47, 5)
	for _, tc := range []struct {
		name string
		m    meant
		t    event.Target
		want relation
		sure Confidence
	}{
		{"the device of stat", lm(&maps, &stat), file("", 47, 5), same, Certain},
		{"the device of maps", lm(&maps, &stat), file("", 31, 5), same, Certain},
		{"another inode, stat known", lm(&maps, &stat), file("/a/lib.so", 47, 6), different, Certain},
		{"same inode on another device, only maps known", lm(&maps, nil), file("/b/lib.so", 47, 5), unsure, Possible},
		{"another inode on the same device", lm(&maps, nil), file("/b/lib.so", 31, 6), different, Certain},
		{"all differs but the path", lm(&maps, nil), file("/a/lib.so", 47, 6), unsure, Possible},
		{"all differs", lm(&maps, nil), file("/b/lib.so", 47, 6), different, Likely},
		{"a pipe is never mapped", lm(&maps, nil), ownPipe, different, Certain},
		{"a pipe without identity", lm(&maps, nil), event.Target{Kind: event.Pipe, Link: "pipe:[1]"}, different, Certain},
		{"nothing there", lm(&maps, nil), gone, different, Certain},
		{"a file without identity", lm(&maps, nil), event.Target{Kind: event.Regular, Link: "/a/lib.so"}, unsure, Possible},
		{"nothing mapped that is known", lm(&event.Target{Kind: event.Unknown}, nil), libc, unsure, Possible},
		{"two memfds", lm(&memfd, nil), memfd2, different, Certain},
		{"a memfd seen as regular", lm(&memfd, nil), file("/memfd:x", 1, 1026), same, Certain},
		{"hint, same", meant{hint: &libc}, libc, same, Likely},
		{"hint, other", meant{hint: &memfd}, ownPipe, different, Likely},
		{"hint without identity", meant{hint: &event.Target{Kind: event.Unknown, Error: "EACCES"}}, ownPipe, unsure, Possible},
		{"no hint", meant{}, ownPipe, unsure, Possible},
	} {
		if got, sure := tc.m.compare(tc.t); got != tc.want || sure != tc.sure {
			t.Errorf("%s: %d %s, want %d %s", tc.name, got, sure, tc.want, tc.sure)
		}
	}
}

func TestCause(t *testing.T) {
	s := state.New()
	here := map[string]uint64{"mnt": 100, "pid": 200}
	s.Add(&event.Session{Debugger: &event.Process{PID: gdbPID, Cwd: "/home", Namespaces: here}})
	s.Add(&event.Inferior{Process: event.Process{PID: infPID, Cwd: "/home", Namespaces: here}})
	s.Add(&event.Inferior{Process: event.Process{PID: 3000, Cwd: "/srv", Namespaces: map[string]uint64{"mnt": 101, "pid": 201}}})
	chroot := meant{pid: infPID, lm: &event.LinkMap{PID: infPID, Mapped: &libc, Resolves: []event.Resolution{{PID: infPID, Target: libc}, {PID: gdbPID, Target: gone}}}}
	for _, tc := range []struct {
		name event.Text
		m    meant
		want Rule
	}{
		{"/proc/self/fd/4", meant{pid: infPID}, RuleSelfFD},
		{"/proc//self/./fd/4", meant{pid: infPID}, RuleSelfFD},
		{"/proc/thread-self/fd/4", meant{pid: infPID}, RuleSelfFD},
		{"/dev/fd/4", meant{pid: infPID}, RuleSelfFD},
		{"/dev/stdin", meant{pid: infPID}, RuleSelfFD},
		{"/proc/2158/fd/4", meant{pid: infPID}, RuleSelfFD},
		{"/proc/self/exe", meant{pid: infPID}, RuleSelfLink},
		{"/proc/self/map_files/1-2", meant{pid: infPID}, RuleSelfLink},
		{"lib.so", meant{pid: 3000}, RuleRelative},
		{"lib.so", meant{pid: infPID}, RuleReplacedFile}, // one current directory
		{"lib.so", meant{pid: 99}, RuleRelative},
		{"/app/lib.so", meant{pid: 3000}, RuleMountNS},
		{"/app/lib.so", chroot, RuleMountNS},
		{"/app/lib.so", meant{pid: infPID}, RuleReplacedFile},
		{"/proc/7/fd/4", meant{pid: 3000}, RulePIDNS},
		{"/proc/7/exe", meant{pid: 3000}, RulePIDNS},
		{"/proc/2162/fd/4", meant{pid: infPID}, RuleReplacedFile}, // closed since
	} {
		if got := cause(s, tc.name, tc.m); got != tc.want {
			t.Errorf("%s of %d: %s, want %s", tc.name, tc.m.pid, got, tc.want)
		}
	}
}

// What a file does to a debugger depends on how that reads libraries.
func TestExpected(t *testing.T) {
	for _, tc := range []struct {
		comm event.Text
		kind event.Kind
		want Effect
	}{
		{"gdb", event.Pipe, Hang},
		{"gdbserver", event.Pipe, Failed}, // pread(2), as lldb
		{"lldb", event.Pipe, Failed},
		{"lldb-14", event.TTY, Failed},
		{"dlv", event.Pipe, Failed},
		{"dlv", event.Regular, WrongFile},
		{"lldb", event.FIFO, Hang}, // already in the open
		{"profiler", event.TTY, StolenInput},
		{"profiler", event.Socket, Failed},
	} {
		if got := expectedIn(decode.DebuggerNamed(string(tc.comm)), event.Target{Kind: tc.kind}); got != tc.want {
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
		s := state.New()
		s.Debugger = event.Process{PID: 10, Comm: tc.comm}
		s.Inferiors[20] = &event.Inferior{Process: event.Process{PID: 20}, TracerTID: tc.tracer}
		if got := look(s).presumed(&suspect{meant: meant{pid: 20}}, Failed); got != tc.want {
			t.Errorf("%s, inferior traced by %d: %v", tc.comm, tc.tracer, got)
		}
	}
}
