package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"whosefd/samples/scene"
)

// Whatever is wrong with the arguments gets one line, and exit code 2.
func TestUsage(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	garbage, empty, other := write("garbage", "hello\nworld\n"), write("empty", ""), write("other", `{"type":"end","reason":"x"}`+"\n")
	target := write("target", "mine")
	link, fifo := filepath.Join(dir, "link"), filepath.Join(dir, "fifo")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	self := strconv.Itoa(os.Getpid())
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"explain", "0"}, "not a process id"},
		{[]string{"explain", "99999999999999"}, "not a process id"},
		{[]string{"explain", strconv.Itoa(gone.Process.Pid)}, "no such process"},
		{[]string{"explain", "-p", "-1"}, "not a process id"},
		{[]string{"explain", "nobody-is-called-so"}, "no process is named"},
		{[]string{"explain", "-p", "1", "2"}, "once"},
		{[]string{"explain", "1", "2"}, "arg"},
		{[]string{"explain", "--format", "yaml", "1"}, "not one of"},
		{[]string{"explain", "--color", "pink", "1"}, "not one of"},
		{[]string{"explain", "--nonsense"}, "unknown flag"},
		{[]string{"explain", garbage}, "line 1"},
		{[]string{"explain", empty}, "empty"},
		{[]string{"explain", other}, "session"},
		{[]string{"explain", dir + "/"}, "directory"},
		{[]string{"explain", filepath.Join(dir, "none")}, "no such file"},
		{[]string{"explain", "-o", filepath.Join(dir, "x"), garbage}, "-o"},
		{[]string{"table"}, "arg"},
		{[]string{"table", garbage}, "line 1"},
		{[]string{"table", "--show", "all", other}, "not one of"},
		{[]string{"table", "--call", "opne", other}, "no call of that name"},
		{[]string{"trace", "--"}, "no command"},
		{[]string{"trace", "--", "no-such-program-here"}, "not found"},
		{[]string{"trace", "-p", self, "--", "true"}, "not both"},
		{[]string{"trace", "-p", self, "--for", "soon"}, "invalid"},
		{[]string{"trace", "-o", link, "--", "true"}, "symbolic link"},
		{[]string{"trace", "-o", dir, "--", "true"}, "directory"},
		{[]string{"trace", "-o", filepath.Join(dir, "no", "file"), "--", "true"}, "no such file"},
		{[]string{"trace", "-o", fifo, "--", "true"}, "fifo"},
		{[]string{"repair", strconv.Itoa(gone.Process.Pid)}, "no such process"},
		{[]string{"guard", "--inferior", "x", "-p", self}, "--inferior"},
		{[]string{"frobnicate"}, "unknown command"},
	} {
		out, stderr, code := whosefd(t, tc.args...)
		if code != exitTrouble || out != "" || strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "whosefd: ") || !strings.Contains(stderr, tc.want) {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q; want %q", tc.args, code, out, stderr, tc.want)
		}
	}
	if b, err := os.ReadFile(target); err != nil || string(b) != "mine" {
		t.Errorf("the link's target was written to: %q, %v", b, err)
	}
}

func TestTraceCommand(t *testing.T) {
	scene.Require(t, "ptrace")
	t.Run("exit code, and whose output is whose", func(t *testing.T) {
		out, stderr, code := whosefd(t, "trace", "--", "sh", "-c", "echo mine; cat /dev/null; exit 7")
		if code != 7 || out != "mine\n" || !strings.Contains(stderr, "openat") {
			t.Errorf("exit code %d, %q, %q", code, out, stderr)
		}
	})
	t.Run("killed", func(t *testing.T) {
		r := startWhosefd(t, "trace", "--", "sh", "-c", "kill -USR1 $$")
		r.wait(t)
		if ws, ok := r.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGUSR1 {
			t.Errorf("ended by %v", r.ProcessState)
		}
	})
	t.Run("findings exit", func(t *testing.T) {
		if _, stderr, code := whosefd(t, "trace", "--findings-exit", "--", "sh", "-c", "exit 7"); code != exitNothing {
			t.Errorf("exit code %d\n%s", code, stderr)
		}
	})
	t.Run("with -o only the summary is printed", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "rec")
		_, stderr, code := whosefd(t, "trace", "-o", file, "--", "cat", "/dev/null")
		if code != 0 || strings.Contains(stderr, "/dev/null O_RDONLY") && !strings.Contains(stderr, "Descriptors") {
			t.Errorf("exit code %d, %q", code, stderr)
		}
		out, _, code := whosefd(t, "table", "--format", "json", file)
		if code != 0 || !json.Valid([]byte(out)) || !strings.Contains(out, `"/dev/null"`) {
			t.Errorf("exit code %d, %s", code, out)
		}
	})
}

// Each way to end a trace leaves the process as it was.
func TestTraceEnds(t *testing.T) {
	scene.Require(t, "ptrace")
	sleeper := func(t *testing.T) *exec.Cmd {
		t.Helper()
		cmd := exec.Command("sleep", "300")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd
	}
	for name, sig := range map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "QUIT": syscall.SIGQUIT, "KILL": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			cmd := sleeper(t)
			r := startWhosefd(t, "trace", "-p", strconv.Itoa(cmd.Process.Pid))
			eventually(t, "traced", func() bool { return statusLine(t, cmd.Process.Pid, "TracerPid") != "0" })
			if err := r.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if code := r.wait(t); sig != syscall.SIGKILL && code != 0 {
				t.Errorf("exit code %d: %s", code, r.stderr.String())
			}
			untraced(t, cmd.Process.Pid)
			eventually(t, "asleep", func() bool { return strings.HasPrefix(statusLine(t, cmd.Process.Pid, "State"), "S") })
		})
	}
	t.Run("--for", func(t *testing.T) {
		cmd := sleeper(t)
		if _, stderr, code := whosefd(t, "trace", "--for", "50ms", "-p", strconv.Itoa(cmd.Process.Pid)); code != 0 {
			t.Errorf("exit code %d: %s", code, stderr)
		}
		untraced(t, cmd.Process.Pid)
	})
	t.Run("a full disk", func(t *testing.T) {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer full.Close()
		busy := exec.Command("sh", "-c", "while :; do cat /dev/null; : </dev/null; done")
		if err := busy.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = busy.Process.Kill(); _ = busy.Wait() }()
		cmd := exec.Command(binary(t), "trace", "-p", strconv.Itoa(busy.Process.Pid))
		cmd.Stdout = full
		out, _ := cmd.StderrPipe()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 300)
		n, _ := out.Read(b)
		_ = cmd.Wait()
		if cmd.ProcessState.ExitCode() != exitTrouble || !strings.Contains(string(b[:n]), "no space left") {
			t.Errorf("exit code %d, %q", cmd.ProcessState.ExitCode(), b[:n])
		}
		untraced(t, busy.Process.Pid)
	})
}

func TestDoctor(t *testing.T) {
	scene.Require(t, "ptrace")
	out, _, code := whosefd(t, "doctor", "--format", "json")
	var checks []struct {
		Name string
		OK   bool
	}
	if err := json.Unmarshal([]byte(out), &checks); err != nil || code != exitNothing || len(checks) < 8 {
		t.Errorf("exit code %d, %v\n%s", code, err, out)
	}
}
