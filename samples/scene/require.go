package scene

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// Require skips the test unless all that it needs is there: "ptrace" is the
// permission to trace a process that this one has started, "root" is user 0,
// "fuse" is the right to serve a FUSE file system, "gcc -m32" a compiler for
// 32-bit programs that run here, anything else a program on the PATH. With
// WHOSEFD_REQUIRE=1 in the environment the test fails instead, so that nothing is
// skipped unnoticed.
func Require(t TB, what ...string) {
	t.Helper()
	for _, w := range what {
		if err := lacks(w); err != nil {
			if os.Getenv("WHOSEFD_REQUIRE") == "1" {
				t.Fatalf("WHOSEFD_REQUIRE=1, but %v", err)
			}
			t.Skipf("%v", err)
		}
	}
}

func lacks(what string) error {
	switch what {
	case "ptrace":
		return tryPtrace()
	case "root":
		if uid := os.Geteuid(); uid != 0 {
			return fmt.Errorf("this needs root, and runs as user %d", uid)
		}
		return nil
	case "fuse":
		return tryFUSE()
	case "gcc -m32":
		return tryM32()
	default:
		_, err := exec.LookPath(what)
		return err
	}
}

// tryPtrace attaches to a child and detaches again. A container's seccomp
// filter, or Yama's kernel.yama.ptrace_scope of 2 or 3, can forbid it.
var tryPtrace = sync.OnceValue(func() (err error) {
	// All calls on a tracee must come from the thread that attached.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("try ptrace: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("try ptrace: %w", err)
	}
	defer func() {
		in.Close()
		// Killed, since it may be stopped: where the attach met the end of its
		// exec, both SIGSTOP and SIGTRAP were pending, and the second one comes
		// after the detach. How it ends says nothing here.
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if err := syscall.PtraceAttach(cmd.Process.Pid); err != nil {
		return fmt.Errorf("ptrace is not permitted: attach to a child: %w", err)
	}
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(cmd.Process.Pid, &status, syscall.WALL, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("try ptrace: wait for the child's stop: %w", err)
		}
		break
	}
	if err := syscall.PtraceDetach(cmd.Process.Pid); err != nil {
		return fmt.Errorf("try ptrace: detach from a child: %w", err)
	}
	return nil
})
