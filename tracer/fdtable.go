package tracer

import (
	"encoding/binary"
	"maps"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/memory"
	"whosefd/tracer/procview"
	"whosefd/tracer/ptrace"
)

// fdTable remembers what the descriptors of a process lead to, so that /proc is
// asked once for each descriptor and not on every call. It stays right because
// every call that drops a descriptor or replaces it is seen, at its entry and
// at its exit; no other gives a number that is in use a new meaning. Only the
// text of the link may have become old: a file can be renamed or removed.
//
// Where the table can change unseen it is not kept: a process that shares it
// (clone(2) with CLONE_FILES), a thread with a table of its own (unshare(2)),
// and io_uring(7), which closes and opens without system calls.
type fdTable struct {
	targets map[event.FD]*event.Target
	// unread are regular files that were opened by name, and of which the
	// beginning has not been read.
	unread map[event.FD]bool
	off    bool
	// ask says what a descriptor is now.
	ask func(event.FD) event.Target
}

// maxTargets bounds the table; a process with more open descriptors is asked
// for the others each time.
const maxTargets = 1 << 16

func newFDTable(v *procview.View, pid event.PID) *fdTable {
	ask := func(fd event.FD) event.Target { return v.Target(pid, fd) }
	return &fdTable{ask: ask, targets: map[event.FD]*event.Target{}, unread: map[event.FD]bool{}}
}

// look gives what a descriptor leads to. The result is shared: it must not be
// changed.
func (f *fdTable) look(fd event.FD) *event.Target {
	if t := f.targets[fd]; t != nil && !f.off {
		return t
	}
	return f.fresh(fd)
}

// fresh asks /proc, for a descriptor that was just made.
func (f *fdTable) fresh(fd event.FD) *event.Target {
	t := f.ask(fd)
	if !f.off && t.Error == "" && len(f.targets) < maxTargets {
		f.targets[fd] = &t
	}
	return &t
}

// made notes a descriptor that a call has just made, and whether it is awaited to
// be read.
func (f *fdTable) made(fd event.FD, t *event.Target, awaited bool) {
	delete(f.unread, fd)
	if awaited && (t.Kind == event.Regular || t.Kind == event.Memfd) && len(f.unread) < maxUnread {
		f.unread[fd] = true
	}
}

// maxUnread bounds how many files are awaited to be read; of more than that, the
// beginning is not known.
const maxUnread = 1 << 12

// forget drops what a call is about to change, or has changed. It is called at
// the entry, since the call may take effect at any time after that, and at the
// exit, since another thread may have asked in between.
func (f *fdTable) forget(e decode.Edit) {
	gone := func(fd event.FD) bool { return e.Close.Has(fd) || e.Made.Is(fd) }
	switch {
	case e.Exec:
		clear(f.targets)
		clear(f.unread)
	case e.Close.End > e.Close.First+1:
		maps.DeleteFunc(f.targets, func(fd event.FD, _ *event.Target) bool { return gone(fd) })
		maps.DeleteFunc(f.unread, func(fd event.FD, _ bool) bool { return gone(fd) })
	default:
		for _, fd := range []event.FD{e.Close.First, e.Made.Val} {
			if gone(fd) {
				delete(f.targets, fd)
				delete(f.unread, fd)
			}
		}
	}
}

// watch looks at the calls that change how the table is shared.
func (f *fdTable) watch(t *ptrace.Thread, name string) {
	flags := t.Call.Args[0]
	switch name {
	case "clone3":
		var b [8]byte // struct clone_args begins with the flags (linux/sched.h)
		if _, err := memory.Thread(t.TID).ReadMemory(b[:], t.Call.Args[0]); err != nil {
			return
		}
		flags = binary.LittleEndian.Uint64(b[:])
	case "clone":
	case "unshare":
		f.off = f.off || flags&unix.CLONE_FILES != 0
		return
	case "io_uring_setup":
		f.off = true
		return
	default:
		return
	}
	f.off = f.off || flags&unix.CLONE_FILES != 0 && flags&unix.CLONE_THREAD == 0
}
