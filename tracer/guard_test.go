package tracer

import (
	"testing"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
)

// Guard leads a call elsewhere only if the call can change nothing.
func TestLeadable(t *testing.T) {
	table, err := decode.ForArch(Arch)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		call  string
		flags uint64
		want  bool
	}{
		{"openat", unix.O_RDONLY | unix.O_CLOEXEC, true},
		{"openat", unix.O_PATH, true},
		{"openat", unix.O_RDONLY | unix.O_TRUNC, false},
		{"openat", unix.O_RDONLY | unix.O_CREAT, false},
		{"openat", unix.O_WRONLY, false},
		{"openat", unix.O_RDWR | unix.O_CLOEXEC, false},
		{"openat", unix.O_RDWR | unix.O_TMPFILE, false},
		{"openat2", unix.O_WRONLY, false},
		{"creat", 0, false},
		{"newfstatat", 0, true},
		{"faccessat", 0, true},
		{"readlinkat", 0, true},
		{"read", 0, false},
		{"execve", 0, false},
	} {
		row, ok := decode.ByName(tc.call)
		if !ok {
			t.Fatalf("%s is not decoded", tc.call)
		}
		flags := ""
		if row.Class == decode.ClassOpen && tc.call != "creat" {
			flags = table.OpenFlags(tc.flags)
		}
		if got := leadable(row, flags); got != tc.want {
			t.Errorf("%s %q: %v, want %v", tc.call, flags, got, tc.want)
		}
	}
}
