package ptrace

import (
	"bufio"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"whosefd/samples/scene"
	"whosefd/tracer/event"
)

// A tracer that ends while its tracee is in the stop before a signal does not take
// that signal away.
func TestSignalOutlivesTracer(t *testing.T) {
	scene.Require(t, "ptrace")
	cmd := exec.Command("sh", "-c", `trap 'echo got; exit 0' USR1; echo ready; while :; do sleep 0.05; done`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	said := bufio.NewScanner(out)
	if !said.Scan() || said.Text() != "ready" {
		t.Fatalf("it says %q", said.Text())
	}
	tid := event.TID(cmd.Process.Pid)
	if err := OnTracerThread(func() error { // which ends with the function
		k := Linux{}
		if err := k.Seize(tid, Options); err != nil {
			return err
		}
		if err := unix.Kill(int(tid), unix.SIGUSR1); err != nil {
			return err
		}
		for {
			stopped, ws, err := k.Wait(0, true)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return err
			}
			if s := Classify(ws); stopped == tid && s.Kind == SignalStop && s.Signal == unix.SIGUSR1 {
				return nil
			} else if err := k.Resume(stopped, Freely, passOn(s)); err != nil { // the end of a sleep
				return err
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	if !said.Scan() || said.Text() != "got" {
		t.Errorf("it says %q, %v", said.Text(), said.Err())
	}
}
