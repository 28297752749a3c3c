package main

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"whosefd/samples/scene"
	"whosefd/tracer/procview"
)

// brittle is an output that panics at a write.
type brittle struct {
	bytes.Buffer
	left int
}

func (b *brittle) Write(p []byte) (int, error) {
	if b.left--; b.left < 0 {
		panic("injected\x1b[31m\nhere")
	}
	return b.Buffer.Write(p)
}

// A mistake of ours, wherever it happens, ends in one line that says so, what a
// report needs, and exit code 2; and the traced process runs on.
func TestInternalError(t *testing.T) {
	t.Parallel()
	scene.Require(t, "ptrace")
	cmd := exec.Command("sh", "-c", "while :; do : </dev/null; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	pid := strconv.Itoa(cmd.Process.Pid)
	for _, args := range [][]string{
		{"trace", "--cpu", "off", "--for", "2s", pid},                                  // in its first row, on the tracer's thread
		{"trace", "--cpu", "off", "--for", "50ms", "-o", t.TempDir() + "/record", pid}, // in its table
		{"explain", pid}, {"doctor"}, {"preflight", pid},
	} {
		var stderr bytes.Buffer
		a := &app{in: os.Stdin, out: &brittle{}, err: &stderr, getenv: os.Getenv, view: procview.New("/proc"), terminal: func(any) int { return 0 }}
		code := a.run(t.Context(), args)
		first, rest, _ := strings.Cut(stderr.String(), "\n")
		if code != exitTrouble || !strings.HasPrefix(first, `whosefd: internal error: injected`) || strings.Contains(stderr.String(), "\x1b") ||
			!regexp.MustCompile(`(?m)^whosefd \S+, go1\S+, \w+$`).MatchString(rest) || !strings.Contains(rest, "internal_test.go:") {
			t.Errorf("%v: exit code %d:\n%s", args, code, stderr.String())
		}
		untraced(t, cmd.Process.Pid)
	}
}

// Without descriptors there is one line and exit code 2, not a dump of the Go
// runtime.
func TestFewDescriptors(t *testing.T) {
	t.Parallel()
	for _, n := range []string{"4", "6", "8", "9", "10", "11", "12"} {
		cmd := exec.Command("sh", "-c", `ulimit -n "$0" && exec "$@"`, n, binary(t), "explain", strconv.Itoa(os.Getpid()))
		out, err := cmd.CombinedOutput()
		code := cmd.ProcessState.ExitCode()
		if lines := strings.Count(string(out), "\n"); code == exitTrouble && lines != 1 || code > exitTrouble || strings.Contains(string(out), "goroutine") {
			t.Errorf("with %s descriptors: %v:\n%s", n, err, out)
		}
		if n == "8" && (code != exitTrouble || !strings.Contains(string(out), "descriptors (ulimit -n)")) {
			t.Errorf("with %s descriptors: %v:\n%s", n, err, out)
		}
	}
}

// Where descriptors run out in the middle of a look, nothing is said to be all right.
func TestDescriptorsRunOut(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace")
	gdb := scene.Hang(t)
	for n := 11; n <= 26; n++ {
		cmd := exec.Command("sh", "-c", `ulimit -n "$0" && exec "$@"`, strconv.Itoa(n), binary(t), "explain", strconv.Itoa(gdb.PID))
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != exitFindings && code != exitTrouble {
			t.Errorf("with %d descriptors: %v:\n%s", n, err, out)
		}
	}
	// All at once, at any moment.
	for delay := range 30 {
		cmd := exec.Command(binary(t), "explain", strconv.Itoa(gdb.PID))
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(delay) * 700 * time.Microsecond)
		none := syscall.Rlimit{}
		// It may have ended already.
		_, _, _ = syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(cmd.Process.Pid), syscall.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&none)), 0, 0, 0)
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code == exitNothing {
			t.Errorf("none after %d × 0.7 ms: exit code %d:\n%s", delay, code, out.String())
		}
	}
}
