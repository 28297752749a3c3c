package scene

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

// Terminal is the state of gdb's terminal: its settings (termios(3)) and who is in
// the foreground, gdb or another process group.
func (s *Session) Terminal() string {
	s.t.Helper()
	var settings syscall.Termios
	var group int32
	for request, to := range map[uintptr]unsafe.Pointer{syscall.TCGETS: unsafe.Pointer(&settings), syscall.TIOCGPGRP: unsafe.Pointer(&group)} {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, s.tty.Fd(), request, uintptr(to)); errno != 0 {
			s.t.Fatalf("terminal of gdb (pid %d): %v", s.PID, errno)
		}
	}
	own, err := syscall.Getpgid(s.PID)
	if err != nil {
		s.t.Fatalf("process group of gdb (pid %d): %v", s.PID, err)
	}
	front := "another group"
	if own == int(group) {
		front = "gdb"
	}
	return fmt.Sprintf("%+v, %s in the foreground", settings, front)
}

// Environ is the environment of this process with a mark of its own; what
// carries it is killed at the test's end, and if this process is killed.
func Environ(t TB) []string {
	t.Helper()
	mark, err := newMark()
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := killMarked(mark); err != nil {
			t.Errorf("%v", err)
		}
	})
	return append(without(os.Environ(), markName), mark)
}
