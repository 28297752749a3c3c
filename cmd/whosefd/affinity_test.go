package main

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"whosefd/samples/scene"
)

// allowed is the list of CPUs on which a process may run.
func allowed(t *testing.T, pid int) string {
	t.Helper()
	return statusLine(t, pid, "Cpus_allowed_list")
}

// The CPU mask is ours only while it cannot be seen.
func TestAffinity(t *testing.T) {
	scene.Require(t, "ptrace", "a second CPU")
	whole := allowed(t, os.Getpid())
	t.Run("a child does not inherit it", func(t *testing.T) {
		out, _, _ := whosefd(t, "trace", "--engine", "ptrace", "--", "sh", "-c", "grep Cpus_allowed_list /proc/self/status; nproc; taskset -p $$")
		if n := strconv.Itoa(runtime.NumCPU()); !strings.Contains(out, "\t"+whole+"\n"+n+"\n") {
			t.Errorf("want %s and %s:\n%s", whole, n, out)
		}
	})
	t.Run("the program does not see it", func(t *testing.T) {
		if out, _, _ := whosefd(t, "trace", "--engine", "ptrace", "--", "nproc"); strings.TrimSpace(out) != strconv.Itoa(runtime.NumCPU()) {
			t.Errorf("nproc: %s", out)
		}
	})
	for name, sig := range map[string]syscall.Signal{"INT": syscall.SIGINT, "KILL": syscall.SIGKILL} {
		t.Run("back after SIG"+name, func(t *testing.T) {
			cmd := exec.Command("sleep", "300")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
			r := startWhosefd(t, "trace", "--engine", "ptrace", "-p", strconv.Itoa(cmd.Process.Pid))
			eventually(t, "on one CPU", func() bool { return allowed(t, cmd.Process.Pid) != whole })
			if err := r.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			r.wait(t)
			eventually(t, "its own mask back", func() bool { return allowed(t, cmd.Process.Pid) == whole })
			untraced(t, cmd.Process.Pid)
		})
	}
	t.Run("only threads that gain by it", func(t *testing.T) {
		p := scene.StartSample(t, "paces")
		busy, computing := p.Expect(`busy (\d+)`)[1], p.Expect(`computing (\d+)`)[1]
		list := func(tid string) string { // /proc has threads too, by their ids
			n, err := strconv.Atoi(tid)
			if err != nil {
				t.Fatal(err)
			}
			return allowed(t, n)
		}
		r := startWhosefd(t, "trace", "--engine", "ptrace", "-p", strconv.Itoa(p.PID))
		eventually(t, "the busy thread on one CPU", func() bool { return list(busy) != whole })
		for range 50 { // many calls of the other one
			if now := list(computing); now != whole {
				t.Fatalf("the thread that computes runs on %s of %s", now, whole)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err := r.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		r.wait(t)
		if now := list(busy); now != whole {
			t.Errorf("left on %s of %s", now, whole)
		}
	})
	t.Run("on the CPU that was asked for", func(t *testing.T) {
		p := scene.StartSample(t, "paces")
		p.Expect(`computing (\d+)`)
		r := startWhosefd(t, "trace", "--engine", "ptrace", "--cpu", "1", "-p", strconv.Itoa(p.PID))
		eventually(t, "on CPU 1", func() bool { return allowed(t, p.PID) == "1" })
		if err := r.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		r.wait(t)
		if _, stderr, code := whosefd(t, "trace", "--engine", "ptrace", "--cpu", "1000", "--", "true"); code != exitTrouble || !strings.Contains(stderr, "CPU 1000") {
			t.Errorf("CPU 1000: exit code %d, %q", code, stderr)
		}
	})
	t.Run("off", func(t *testing.T) {
		cmd := exec.Command("cat")
		in, err := cmd.StdinPipe() // which nobody writes to
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		r := startWhosefd(t, "trace", "--engine", "ptrace", "--cpu", "off", "-p", strconv.Itoa(cmd.Process.Pid))
		eventually(t, "traced", func() bool { return statusLine(t, cmd.Process.Pid, "TracerPid") != "0" })
		eventually(t, "seen", func() bool { return strings.Contains(r.stdout.String(), "unfinished") })
		if now := allowed(t, cmd.Process.Pid); now != whole {
			t.Errorf("runs on %s of %s", now, whole)
		}
	})
}
