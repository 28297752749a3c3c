package main

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"whosefd/samples/scene"
)

// onTerminal is a whosefd on a terminal of its own.
type onTerminal struct {
	cmd  *exec.Cmd
	tty  *os.File // the master side
	out  scene.Buffer
	done chan struct{}
}

func startOnTerminal(t *testing.T, env []string, args ...string) *onTerminal {
	t.Helper()
	o := &onTerminal{cmd: exec.Command(binary(t), args...), done: make(chan struct{})}
	o.cmd.Env = append(scene.Environ(t), append([]string{"TERM=xterm-256color", "NO_COLOR=", "FORCE_COLOR=", "PAGER="}, env...)...)
	var err error
	if o.tty, err = pty.StartWithSize(o.cmd, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for b := make([]byte, 4096); ; {
			n, err := o.tty.Read(b)
			_, _ = o.out.Write(b[:n]) // a buffer takes all
			if err != nil {
				return
			}
		}
	}()
	go func() { _ = o.cmd.Wait(); close(o.done) }()
	t.Cleanup(func() {
		_ = o.cmd.Process.Kill()
		<-o.done
		_ = o.tty.Close()
		<-drained
	})
	return o
}

func (o *onTerminal) press(t *testing.T, keys string) {
	t.Helper()
	if _, err := o.tty.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

// shows waits until the terminal has been sent a text, since the last time.
func (o *onTerminal) shows(t *testing.T, text string) {
	t.Helper()
	scene.Eventually(t, "the screen has "+text, func() bool { return strings.Contains(o.out.String(), text) })
}

func (o *onTerminal) ends(t *testing.T) int {
	t.Helper()
	select {
	case <-o.done:
	case <-time.After(scene.Patience):
		t.Fatal("it does not end")
	}
	return o.cmd.ProcessState.ExitCode()
}

// The live view attaches when it is asked to, and only then, and however it ends the
// debugger is as it was.
func TestTop(t *testing.T) {
	t.Parallel()
	gdb := scene.Hang(t, "--fd", "7")
	top := startOnTerminal(t, nil, "top", "-d", "0.2", strconv.Itoa(gdb.PID))
	top.shows(t, "self-fd:")
	top.press(t, "\r")
	top.shows(t, "/proc/self/fd/7")
	alone := func() bool { return statusLine(t, gdb.PID, "TracerPid") == "0" }
	attached := func() bool { return !alone() }
	if attached() {
		t.Error("traced")
	}
	top.press(t, "ty")
	scene.Eventually(t, "attached", attached)
	top.press(t, "t")
	scene.Eventually(t, "let go", alone)
	top.press(t, "ty")
	scene.Eventually(t, "attached again", attached)
	top.press(t, "\x03")
	if code := top.ends(t); code != exitFindings {
		t.Errorf("exit code %d", code)
	}
	if !alone() {
		t.Error("left traced")
	}
	gdb.WaitBlocked(scene.Patience)
	if out := top.out.String(); !strings.Contains(out, "\x1b[?1049h") || !strings.Contains(out[strings.LastIndex(out, "\x1b[?1049h"):], "\x1b[?1049l") {
		t.Error("the terminal is left on the other screen")
	}
}

func TestTopOfARecording(t *testing.T) {
	t.Parallel()
	file := "../../analyze/testdata/trace-hang.jsonl"
	top := startOnTerminal(t, []string{"NO_COLOR=1"}, "top", file)
	top.shows(t, "/proc/self/fd/4")
	top.press(t, "3")
	top.shows(t, "pipe:[4798]")
	if err := pty.Setsize(top.tty, &pty.Winsize{Rows: 10, Cols: 40}); err != nil {
		t.Fatal(err)
	}
	top.press(t, "?")
	top.shows(t, "htop")
	top.press(t, "qq")
	if code := top.ends(t); code != exitFindings {
		t.Errorf("exit code %d", code)
	}
	if m := regexp.MustCompile(`\x1b\[[0-9;]*m`).FindString(top.out.String()); strings.Trim(m, "\x1b[m") != "" {
		t.Errorf("colors in spite of NO_COLOR: %q", m)
	}
}

// A signal ends it, as a key does.
func TestTopIsTerminated(t *testing.T) {
	t.Parallel()
	gdb := scene.Hang(t)
	top := startOnTerminal(t, nil, "top", "--trace", "-p", strconv.Itoa(gdb.PID))
	scene.Eventually(t, "attached", func() bool { return statusLine(t, gdb.PID, "TracerPid") != "0" })
	if err := top.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	top.ends(t)
	if tracer := statusLine(t, gdb.PID, "TracerPid"); tracer != "0" {
		t.Errorf("left traced by %s", tracer)
	}
}

func TestTopRefuses(t *testing.T) {
	t.Parallel()
	if _, stderr, code := whosefd(t, "top"); code != exitTrouble || !strings.Contains(stderr, "terminal") {
		t.Errorf("%d %s", code, stderr)
	}
	for _, args := range [][]string{{"top", "-d", "0"}, {"top", "--trace"}, {"top", "nosuchprocess"}, {"top", "-d", "1", "../../analyze/testdata/hang.jsonl"}} {
		top := startOnTerminal(t, nil, args...)
		if code := top.ends(t); code != exitTrouble {
			t.Errorf("%v: exit code %d\n%s", args, code, top.out.String())
		}
	}
	dumb := startOnTerminal(t, []string{"TERM=dumb"}, "top")
	if code := dumb.ends(t); code != exitTrouble || strings.Contains(dumb.out.String(), "\x1b") {
		t.Errorf("%d %q", code, dumb.out.String())
	}
}
