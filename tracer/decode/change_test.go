package decode

import (
	"math"
	"testing"

	"whosefd/tracer/event"
)

func TestEdit(t *testing.T) {
	fd := event.Some[event.FD]
	known := event.Some[bool]
	for _, tc := range []struct {
		what string
		call event.Syscall
		want Edit
	}{
		{"open", event.Syscall{Name: "openat", Flags: "O_RDONLY|O_CLOEXEC", Ret: event.Some[int64](7)},
			Edit{Made: fd(7), CloseOnExec: known(true)}},
		{"creat", event.Syscall{Name: "creat", Ret: event.Some[int64](7)}, Edit{Made: fd(7), CloseOnExec: known(false)}},
		{"socket, whose flags are not decoded", event.Syscall{Name: "socket", Ret: event.Some[int64](7)}, Edit{Made: fd(7)}},
		{"failed", event.Syscall{Name: "openat", Ret: event.Some[int64](-1), Errno: "ENOENT"}, Edit{}},
		{"not returned", event.Syscall{Name: "dup2", FD: fd(3), NewFD: fd(4), Unfinished: true}, Edit{}},
		{"close", event.Syscall{Name: "close", FD: fd(0), Ret: event.Some[int64](0)}, Edit{Close: Range{0, 1}}},
		{"close that reports an error of the file", event.Syscall{Name: "close", FD: fd(3), Errno: "EIO"}, Edit{Close: Range{3, 4}}},
		{"close of nothing", event.Syscall{Name: "close", FD: fd(3), Errno: "EBADF"}, Edit{}},
		{"close_range", event.Syscall{Name: "close_range", FirstFD: event.Some[uint32](3), LastFD: event.Some[uint32](math.MaxUint32)},
			Edit{Close: Range{3, math.MaxInt32}}},
		{"close_range of one", event.Syscall{Name: "close_range", FirstFD: event.Some[uint32](0), LastFD: event.Some[uint32](0)}, Edit{Close: Range{0, 1}}},
		{"close_range that marks", event.Syscall{Name: "close_range", Flags: "CLOSE_RANGE_CLOEXEC", FirstFD: event.Some[uint32](3), LastFD: event.Some[uint32](5)},
			Edit{Mark: Range{3, 6}, CloseOnExec: known(true)}},
		{"close_range without its range", event.Syscall{Name: "close_range"}, Edit{}},
		{"dup", event.Syscall{Name: "dup", FD: fd(3), Ret: event.Some[int64](4)}, Edit{Made: fd(4), From: fd(3), CloseOnExec: known(false)}},
		{"dup2", event.Syscall{Name: "dup2", FD: fd(3), NewFD: fd(9), Ret: event.Some[int64](9)}, Edit{Made: fd(9), From: fd(3), CloseOnExec: known(false)}},
		{"dup2 onto itself", event.Syscall{Name: "dup2", FD: fd(3), NewFD: fd(3), Ret: event.Some[int64](3)}, Edit{}},
		{"dup3", event.Syscall{Name: "dup3", FD: fd(3), NewFD: fd(9), Flags: "O_CLOEXEC", Ret: event.Some[int64](9)},
			Edit{Made: fd(9), From: fd(3), CloseOnExec: known(true)}},
		{"F_DUPFD", event.Syscall{Name: "fcntl", FD: fd(3), Flags: "F_DUPFD", Ret: event.Some[int64](10)}, Edit{Made: fd(10), From: fd(3), CloseOnExec: known(false)}},
		{"F_DUPFD_CLOEXEC", event.Syscall{Name: "fcntl", FD: fd(3), Flags: "F_DUPFD_CLOEXEC", Ret: event.Some[int64](10)},
			Edit{Made: fd(10), From: fd(3), CloseOnExec: known(true)}},
		{"F_DUPFD_QUERY", event.Syscall{Name: "fcntl", FD: fd(3), Flags: "F_DUPFD_QUERY", Ret: event.Some[int64](1)}, Edit{}},
		{"F_SETFD", event.Syscall{Name: "fcntl", FD: fd(3), Flags: "F_SETFD", CloseOnExec: known(true)}, Edit{Mark: Range{3, 4}, CloseOnExec: known(true)}},
		{"F_GETFL", event.Syscall{Name: "fcntl", FD: fd(3), Flags: "F_GETFL", Ret: event.Some[int64](2)}, Edit{}},
		{"execve", event.Syscall{Name: "execve", Ret: event.Some[int64](0)}, Edit{Exec: true}},
		{"pipe2", event.Syscall{Name: "pipe2"}, Edit{}},
		{"recvmsg", event.Syscall{Name: "recvmsg", FD: fd(3), Ret: event.Some[int64](1)}, Edit{}},
		{"read", event.Syscall{Name: "read", FD: fd(3), Ret: event.Some[int64](1)}, Edit{}},
		{"not decoded", event.Syscall{Name: "getpid", Ret: event.Some[int64](1)}, Edit{}},
	} {
		if got := EditOf(&tc.call); got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.what, got, tc.want)
		}
	}
}

// At the entry of a call it is known which numbers it may take away.
func TestEditAtEntry(t *testing.T) {
	dup2, _ := ByName("dup2")
	call := event.Syscall{Name: "dup2", FD: event.Some[event.FD](3), NewFD: event.Some[event.FD](9)}
	if e := dup2.Edit(&call); !e.Made.Is(9) {
		t.Errorf("dup2: %+v", e)
	}
	fcntl, _ := ByName("fcntl")
	for args, want := range map[[6]uint64]event.Opt[bool]{
		{3, 2, 1}: event.Some(true), {3, 2, 0}: event.Some(false), {3, 1, 1}: {},
	} {
		if got := fcntl.SetsCloseOnExec(args); got != want {
			t.Errorf("fcntl %v: %+v", args, got)
		}
	}
}
