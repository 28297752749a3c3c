package ptrace

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
)

// Launch starts a program that has not run an instruction yet and is seized,
// in a stop: give it to [Loop.Adopt]. It shares our terminal, process group,
// standard descriptors and environment. Path is looked up already. Call it on
// the thread that traces.
//
// The kernel offers no seize before execve(2). So the child asks to be traced
// (PTRACE_TRACEME), which stops it after the exec; it is let go with a SIGSTOP,
// seized in its group-stop, and continued.
func Launch(path string, argv, env []string) (event.PID, error) {
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Env:   env,
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		return 0, &os.PathError{Op: "run", Path: path, Err: err}
	}
	if err := seizeLaunched(pid); err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = unix.Wait4(pid, nil, unix.WALL, nil)
		return 0, fmt.Errorf("run %s (pid %d): %w", path, pid, err)
	}
	return event.PID(pid), nil
}

func seizeLaunched(pid int) error {
	k, tid := Linux{}, event.TID(pid)
	await := func(options int, what string, ok func(unix.WaitStatus) bool) error {
		var ws unix.WaitStatus
		for {
			_, err := unix.Wait4(pid, &ws, options, nil)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return fmt.Errorf("wait for %s: %w", what, err)
			}
			if !ok(ws) {
				return fmt.Errorf("wait for %s: got status %#x", what, int(ws))
			}
			return nil
		}
	}
	stoppedBy := func(sig unix.Signal) func(unix.WaitStatus) bool {
		return func(ws unix.WaitStatus) bool { return ws.Stopped() && ws.StopSignal() == sig }
	}
	if err := await(unix.WALL, "the exec", stoppedBy(unix.SIGTRAP)); err != nil {
		return err
	}
	if err := k.Detach(tid, unix.SIGSTOP); err != nil {
		return fmt.Errorf("let go after the exec: %w", err)
	}
	if err := await(unix.WALL|unix.WUNTRACED, "its stop", stoppedBy(unix.SIGSTOP)); err != nil {
		return err
	}
	if err := k.Seize(tid, Options); err != nil {
		return fmt.Errorf("seize: %w", err)
	}
	if err := await(unix.WALL, "the seized stop", func(ws unix.WaitStatus) bool { return Classify(ws).Kind == GroupStop }); err != nil {
		return err
	}
	// The SIGCONT ends the group-stop; the tracee learns of it by a trap, and
	// then gets the signal itself, which means nothing to a new program but is
	// swallowed all the same.
	if err := unix.Kill(pid, unix.SIGCONT); err != nil {
		return fmt.Errorf("continue: %w", err)
	}
	if err := k.Resume(tid, Freely, 0); err != nil {
		return fmt.Errorf("continue: %w", err)
	}
	for {
		var stop Stop
		err := await(unix.WALL, "the SIGCONT", func(ws unix.WaitStatus) bool {
			stop = Classify(ws)
			return stop.Kind == TrapStop || stop.Kind == SignalStop
		})
		if err != nil {
			return err
		}
		if stop.Kind == SignalStop && stop.Signal == unix.SIGCONT {
			return nil
		}
		if err := k.Resume(tid, Freely, passOn(stop)); err != nil {
			return fmt.Errorf("continue: %w", err)
		}
	}
}
