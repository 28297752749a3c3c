package analyze

import (
	"strings"
	"testing"

	"whosefd/tracer/event"
)

// nameRead is a read of a name out of the inferior's memory, as a log of strace
// has it.
func nameRead(name string) *event.Syscall {
	return &event.Syscall{PID: gdbPID, TID: gdbPID, Name: "pread64", FD: event.Some[event.FD](14), Offset: event.Some[int64](0x5000),
		Ret: event.Some(int64(len(name) + 1)), Target: &event.Target{Kind: event.Procfs, Link: "/proc/2162/task/2162/mem"}, Data: []byte(name + "\x00")}
}

func opens(name string, link event.Text, errno string) *event.Syscall {
	ev := &event.Syscall{PID: gdbPID, TID: gdbPID, Name: "openat", Path: event.Text(name), Flags: "O_RDONLY|O_CLOEXEC", Ret: event.Some[int64](16)}
	if errno != "" {
		ev.Ret.Val, ev.Errno = -1, errno
	} else {
		ev.Target = &event.Target{Kind: event.Regular, Link: link}
	}
	return ev
}

func logOf(evs ...event.Event) *Diagnosis {
	a := New()
	a.Add(&event.Session{Source: "strace", Debugger: &event.Process{PID: gdbPID, Comm: "gdb"}})
	for _, ev := range evs {
		a.Add(ev)
	}
	return a.Diagnosis()
}

// What a log shows of a name that was read from the inferior's memory, without
// any inode: only what cannot be right is a finding.
func TestLogWithoutInodes(t *testing.T) {
	read16 := &event.Syscall{PID: gdbPID, TID: gdbPID, Name: "read", FD: event.Some[event.FD](16), Ret: event.Some[int64](832),
		Target: &event.Target{Kind: event.Regular, Link: "/lib/ld.so"}}
	for _, tc := range []struct {
		name string
		evs  []event.Event
		want string // rule, effect, confidence
	}{
		{"a descriptor of its own, a regular file", []event.Event{nameRead("/proc/self/fd/15"), opens("/proc/self/fd/15", "/lib/ld.so", ""), read16}, "self-fd wrong-file likely"},
		{"no such descriptor", []event.Event{nameRead("/proc/self/fd/60"), opens("/proc/self/fd/60", "", "ENOENT")}, "self-fd error likely"},
		{"absolute", []event.Event{nameRead("/lib/libc.so.6"), opens("/lib/libc.so.6", "/lib/libc.so.6", "")}, ""},
		{"relative, there", []event.Event{nameRead("./lib.so"), opens("./lib.so", "/w/lib.so", "")}, ""},
		{"relative, not there", []event.Event{nameRead("./lib.so"), opens("./lib.so", "", "ENOENT")}, "relative-path error possible"},
		{"relative, found on a path", []event.Event{nameRead("./lib.so"), opens("./lib.so", "", "ENOENT"), opens("/opt/lib.so", "/opt/lib.so", "")}, ""},
		{"the inferior's own number", []event.Event{nameRead("/proc/2162/fd/4"), opens("/proc/2162/fd/4", "/memfd:x (deleted)", "")}, ""},
		{"another number", []event.Event{&event.Inferior{Process: event.Process{PID: 2162}}, nameRead("/proc/7/fd/4"), opens("/proc/7/fd/4", "/lib/ld.so", ""), read16}, "pid-namespace wrong-file likely"},
		{"not from its memory", []event.Event{opens("/proc/self/fd/15", "/lib/ld.so", ""), read16}, ""},
		{"of a child, with -f", []event.Event{nameRead("/proc/self/fd/15"), child(opens("/proc/self/fd/15", "/lib/ld.so", "")), child(read16)}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := logOf(tc.evs...)
			got := ""
			for _, f := range d.Findings {
				got += strings.Join([]string{string(f.Rule), string(f.Effect), string(f.Confidence)}, " ")
			}
			if got != tc.want {
				t.Errorf("%q, want %q: %s", got, tc.want, d.Summary)
			}
			for _, f := range d.Findings {
				for _, e := range f.Evidence {
					if strings.Contains(string(e.Text), "0.000000") || strings.Contains(string(e.Text), "µs") {
						t.Errorf("a time that the log does not have: %s", e.Text)
					}
				}
			}
		})
	}
}

func child(ev *event.Syscall) *event.Syscall {
	c := *ev
	c.PID, c.TID = 3000, 3000
	return &c
}

// A later look tells the kind of what was opened.
func TestLogKindIsLearned(t *testing.T) {
	unknown := &event.Target{Kind: event.Unknown, Link: "/lib/ld.so"}
	open := opens("/proc/self/fd/15", "/lib/ld.so", "")
	open.Target = unknown
	read := &event.Syscall{PID: gdbPID, TID: gdbPID, Name: "read", FD: event.Some[event.FD](16), Ret: event.Some[int64](832), Target: unknown}
	d := logOf(nameRead("/proc/self/fd/15"), open, fd(gdbPID, 16, "", event.Target{Kind: event.Regular, Link: "/lib/ld.so", Dev: 1, Ino: 2}), read)
	if len(d.Findings) != 1 || d.Findings[0].Effect != WrongFile || d.Findings[0].Opened.Ino != 2 {
		t.Errorf("%+v", d.Findings)
	}
}

// A debugger whose number is not in the log is not given one.
func TestLogWithoutNumber(t *testing.T) {
	a := New()
	a.Add(&event.Session{Source: "strace", Debugger: &event.Process{PID: event.NoPID}})
	for _, ev := range []*event.Syscall{nameRead("/proc/self/fd/4"), opens("/proc/self/fd/4", "", ""), {Name: "read", FD: event.Some[event.FD](16), Unfinished: true}} {
		ev.PID, ev.TID = event.NoPID, event.TID(event.NoPID)
		if ev.Target != nil && ev.Target.Kind == event.Regular {
			ev.Target = &event.Target{Kind: event.Pipe, Ino: 7, Link: "pipe:[7]"}
		}
		a.Add(ev)
	}
	d := a.Diagnosis()
	if d.Verdict != "hang" || len(d.Findings) != 1 || d.Debugger.PID != 0 || d.Debugger.State != "blocked" {
		t.Fatalf("%s: %+v", d.Verdict, d.Debugger)
	}
	f := d.Findings[0]
	if f.Opened.PID != 0 || f.TID != 0 || strings.Contains(string(d.Summary), "-1") || !strings.HasPrefix(string(d.Summary), "the debugger opened /proc/self/fd/4, ") {
		t.Errorf("%+v: %s", f, d.Summary)
	}
	for _, e := range f.Evidence {
		if strings.Contains(string(e.Text), "-1") || strings.HasPrefix(string(e.Text), "the ") {
			t.Errorf("%s", e.Text)
		}
	}
}

// Of a name read in pieces that the log has cut short, half is enough.
func TestLogWithPiecesOfNames(t *testing.T) {
	piece := func(offset int64, text string, n int64) *event.Syscall {
		ev := nameRead("")
		ev.Offset, ev.Ret, ev.Data = event.Some(offset), event.Some(n), []byte(text)
		return ev
	}
	for _, tc := range []struct {
		name   string
		pieces []event.Event
		want   string
	}{
		{"whole", []event.Event{piece(0x5000, "/proc/se", 8), piece(0x5008, "lf/fd/4\x00", 8)}, "at 0x5000, before"},
		{"half", []event.Event{piece(0x5000, "/pro", 8), piece(0x5008, "lf/f", 8)}, "at 0x5000 (of its 16 bytes the log shows 8), before"},
		{"behind another", []event.Event{piece(0x4ff0, "x\x00", 16), piece(0x5000, "/proc/se", 8), piece(0x5008, "lf/f", 8)}, "at 0x5000 (of its 16 bytes the log shows 12), before"},
		{"too little", []event.Event{piece(0x5000, "/pr", 8), piece(0x5008, "lf/", 8)}, ""},
		{"another text", []event.Event{piece(0x5000, "/pro", 8), piece(0x5008, "LF/F", 8)}, ""},
		{"the end of another", []event.Event{piece(0x4ff8, "//////./", 8), piece(0x5000, "/proc/se", 8), piece(0x5008, "lf/fd/4\x00", 8)}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := logOf(append(tc.pieces, opens("/proc/self/fd/4", "", "ENXIO"))...)
			got := ""
			for _, f := range d.Findings {
				for _, e := range f.Evidence {
					if e.Kind == "provenance" {
						got = string(e.Text)
					}
				}
			}
			if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}
