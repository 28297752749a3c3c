package analyze

import (
	"testing"

	"whosefd/tracer/event"
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
	a := analyzed(hung())
	container := fromMemory()
	container.PID, container.Namespaces, container.Cwd = 3000, map[string]uint64{"mnt": 101, "pid": 201}, "/srv"
	a.Add(container)
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
		if got := a.cause(tc.name, tc.m); got != tc.want {
			t.Errorf("%s of %d: %s, want %s", tc.name, tc.m.pid, got, tc.want)
		}
	}
}

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
		want  head
	}{
		{one(read), headOther},
		{one(seek, read), headUnknown},
	} {
		a := analyzed(traced(openAt(1205000, "/proc/self/fd/15", 16, &otherLib), tc.calls...))
		if got := a.opens()[0].head; got != tc.want {
			t.Errorf("%d calls: %d, want %d", len(tc.calls), got, tc.want)
		}
	}
}
