package state

import (
	"testing"

	"whosefd/tracer/event"
)

const (
	gdb   event.PID = 10
	child event.PID = 20
)

var (
	lib   = event.Target{Kind: event.Regular, Link: "/lib/a.so", Dev: 1, Ino: 5}
	other = event.Target{Kind: event.Regular, Link: "/lib/b.so", Dev: 1, Ino: 6}
)

func after(events ...event.Event) *State {
	s := New()
	s.Add(&event.Session{Source: "trace", Debugger: &event.Process{PID: gdb}})
	for _, ev := range events {
		s.Add(ev)
	}
	return s
}

func opening(pid event.PID, fd int64, target event.Target) *event.Syscall {
	return &event.Syscall{PID: pid, TID: event.TID(pid), Name: "openat", Path: target.Link, Flags: "O_RDONLY|O_CLOEXEC", Ret: event.Some(fd), Target: &target}
}

func working(pid event.PID, name string, fd event.FD, ret int64) *event.Syscall {
	return &event.Syscall{PID: pid, TID: event.TID(pid), Name: name, FD: event.Some(fd), Ret: event.Some(ret)}
}

func TestDuplicateKeepsWhoMadeIt(t *testing.T) {
	s := after(opening(gdb, 16, lib), working(gdb, "dup", 16, 17), working(gdb, "close", 16, 0))
	d := s.Descriptor(gdb, 17)
	if d == nil || d.Open == nil || d.Open.Name != lib.Link || d.Open.Live != 1 || d.Access != "r" || !d.Target.Same(lib) {
		t.Fatalf("%+v", d)
	}
	if s.Descriptor(gdb, 16) != nil {
		t.Error("descriptor 16 was closed")
	}
	s.Add(working(gdb, "read", 17, 8))
	if d.Open.Bytes != 8 {
		t.Errorf("a read of the duplicate is not one of what was opened: %+v", d.Open)
	}
}

// A process that the debugger forked has a table of its own, but makes none of the
// debugger's opens.
func TestOtherProcessesCalls(t *testing.T) {
	s := after(opening(gdb, 16, lib), opening(child, 16, other))
	if d := s.Descriptor(child, 16); d == nil || !d.Target.Same(other) || d.Open != nil {
		t.Errorf("%+v", d)
	}
	if d := s.Descriptor(gdb, 16); !d.Target.Same(lib) {
		t.Errorf("%+v", d)
	}
	if all := s.Opens(); len(all) != 1 {
		t.Errorf("%d opens", len(all))
	}
}

// What a new listing does not have is not open, and what it has as another file has
// become that unseen.
func TestNewListing(t *testing.T) {
	var gone []event.FD
	s := after(opening(gdb, 16, lib), opening(gdb, 17, lib), opening(gdb, 18, lib))
	s.OnClose = func(d *Descriptor) { gone = append(gone, d.FD) }
	s.Add(&event.Blocked{PID: gdb, TID: event.TID(gdb), Syscall: "poll"})
	s.Add(&event.Descriptor{PID: gdb, FD: 16, Access: "r", Target: lib})
	s.Add(&event.Descriptor{PID: gdb, FD: 18, Access: "r", Target: other})
	if same := s.ForFile(gdb, lib); len(same) != 1 || same[0] != 16 {
		t.Errorf("descriptors of the library: %v", same)
	}
	if len(gone) != 1 || gone[0] != 18 {
		t.Errorf("gone: %v", gone)
	}
	if o := s.Opens()[0]; o.Live != 2 { // 17 may still be open: a listing is not of one moment
		t.Errorf("%d descriptors of the open are left", o.Live)
	}
}

func TestPending(t *testing.T) {
	begun := working(gdb, "read", 16, 0)
	begun.Unfinished, begun.Ret = true, event.Opt[int64]{}
	s := after(opening(gdb, 16, lib), begun)
	if all := s.Threads(); len(all) != 1 || all[0].Syscall != "read" || !all[0].Target.Same(lib) {
		t.Fatalf("%+v", all)
	}
	ended := working(gdb, "read", 16, 7)
	ended.Resumed = true
	s.Add(ended)
	if d := s.Descriptor(gdb, 16); len(s.Threads()) != 0 || d.Reads != 1 || d.Bytes != 7 {
		t.Errorf("%+v", d)
	}
}

// A script that ends with exec gdb is gdb from then on. What the session says of a
// program that was launched is not lost at its own execve(2).
func TestExecOfAnotherProgram(t *testing.T) {
	exec := func(pid event.PID, path event.Text, ret int64) *event.Syscall {
		return &event.Syscall{PID: pid, TID: event.TID(pid), Name: "execve", Path: path, Ret: event.Some(ret)}
	}
	s := New()
	sh := &event.Process{PID: gdb, Comm: "start.sh", Exe: "/usr/bin/dash", SIGINT: "caught", Cmdline: []event.Text{"sh", "start.sh"}}
	s.Add(&event.Session{Source: "trace", Debugger: sh})
	for _, ev := range []event.Event{exec(gdb, "/home/me/start.sh", 0), exec(gdb, "/usr/local/bin/gdb", -1), exec(child, "/usr/bin/gdb", 0)} {
		s.Add(ev)
		if s.Debugger.Exe != "/usr/bin/dash" || s.Debugger.SIGINT != "caught" {
			t.Errorf("%+v", s.Debugger)
		}
	}
	s.Add(exec(gdb, "/usr/bin/gdb", 0))
	if d := s.Debugger; d.Comm != "gdb" || d.Exe != "/usr/bin/gdb" || d.SIGINT != "" || d.Cmdline != nil {
		t.Errorf("%+v", d)
	}
	s.Add(exec(gdb, "./gdb-with-a-long-name", 0))
	if d := s.Debugger; d.Comm != "gdb-with-a-long" || d.Exe != "" {
		t.Errorf("%+v", d)
	}
}
