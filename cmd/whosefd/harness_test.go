package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"whosefd/analyze"
	"whosefd/samples/scene"
	"whosefd/tracer/ebpf"
)

// built is the program under test, built once.
var built struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// binary is the path of the tool. Anybody can run it. The environment may name one
// that was built before, where there is no Go.
func binary(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("WHOSEFD"); path != "" {
		return path
	}
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "whosefd-test-"); built.err != nil {
			return
		}
		if built.err = os.Chmod(built.dir, 0o755); built.err != nil {
			return
		}
		var out []byte
		if out, built.err = exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(built.dir, "whosefd"), ".").CombinedOutput(); built.err != nil {
			built.err = fmt.Errorf("%w\n%s", built.err, out)
		}
	})
	if built.err != nil {
		t.Fatalf("build: %v", built.err)
	}
	return filepath.Join(built.dir, "whosefd")
}

// bothEngines runs a test with each engine by which calls are seen.
func bothEngines(t *testing.T, test func(*testing.T)) {
	t.Run("ptrace", test)
	t.Run("ebpf", func(t *testing.T) {
		requireEBPF(t)
		test(t)
	})
}

func requireEBPF(t *testing.T) {
	t.Helper()
	if err := ebpf.Probe(); err != nil {
		scene.Skip(t, "eBPF", err)
	}
}

// engine gives the flag for a test that [bothEngines] runs.
func engine(t *testing.T) []string {
	for _, name := range strings.Split(t.Name(), "/")[1:] {
		if name == "ptrace" || name == "ebpf" {
			return []string{"--engine", name}
		}
	}
	return nil
}

// command is how the tool is run, with the test's engine.
func command(t *testing.T, args ...string) []string {
	t.Helper()
	if len(args) > 0 && (args[0] == "trace" || args[0] == "guard" || args[0] == "watch") {
		args = slices.Insert(slices.Clone(args), 1, engine(t)...)
	}
	return append([]string{binary(t)}, args...)
}

// running is a whosefd that goes on while the test does.
type running struct {
	*exec.Cmd
	stdout, stderr scene.Buffer
	done           chan struct{}
}

// startWhosefd starts the tool; it is killed at the end of the test if it still
// runs.
func startWhosefd(t *testing.T, args ...string) *running {
	t.Helper()
	args = command(t, args...)
	r := &running{Cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{})}
	r.Stdout, r.Stderr = &r.stdout, &r.stderr
	r.WaitDelay = time.Second // what it launched may hold the pipes open
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = r.Cmd.Wait(); close(r.done) }()
	t.Cleanup(func() {
		_ = r.Process.Kill()
		<-r.done
	})
	return r
}

// wait gives the exit code; the test fails if it does not end.
func (r *running) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(scene.Patience):
		t.Fatalf("whosefd %v does not end\n%s%s", r.Args[1:], r.stdout.String(), r.stderr.String())
	}
	return r.ProcessState.ExitCode()
}

// whosefd runs the tool to its end.
func whosefd(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	r := startWhosefd(t, args...)
	code = r.wait(t)
	return r.stdout.String(), r.stderr.String(), code
}

// diagnosis runs explain and gives what it found.
func diagnosis(t *testing.T, args ...string) (*analyze.Diagnosis, int) {
	t.Helper()
	out, stderr, code := whosefd(t, append([]string{"explain", "--format", "json"}, args...)...)
	var d analyze.Diagnosis
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		t.Fatalf("explain %v: exit code %d: %v\n%s%s", args, code, err, out, stderr)
	}
	return &d, code
}

// eventually fails the test if ok does not come about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	scene.Eventually(t, what, ok)
}

// procFile reads a file of /proc/PID.
func procFile(t *testing.T, pid int, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// statusLine is a line of /proc/PID/status.
func statusLine(t *testing.T, pid int, key string) string {
	t.Helper()
	for line := range strings.Lines(procFile(t, pid, "status")) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(rest)
		}
	}
	t.Fatalf("pid %d: no %s in its status", pid, key)
	return ""
}

// untraced fails the test if a process is traced, or not alive.
func untraced(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("pid %d: %v", pid, err)
	}
	eventually(t, fmt.Sprintf("pid %d is not traced", pid), func() bool { return statusLine(t, pid, "TracerPid") == "0" })
}

// asNobody runs the tool as an ordinary user.
func asNobody(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	scene.Require(t, "root")
	ctx, cancel := context.WithTimeout(t.Context(), scene.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(t), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Dir = "/"
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}
