package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"whosefd/samples/scene"
)

// noticed waits for a line of watch's file that is as asked for.
func noticed(t *testing.T, file, what string, is func(notice) bool) {
	t.Helper()
	eventually(t, what, func() bool {
		b, _ := os.ReadFile(file)
		for line := range strings.Lines(string(b)) {
			var n notice
			if strings.HasSuffix(line, "\n") {
				if err := json.Unmarshal([]byte(line), &n); err != nil {
					t.Fatalf("%q: %v", line, err)
				}
				if n.Schema != noticeSchema || n.Time.IsZero() {
					t.Fatalf("%q", line)
				}
				if is(n) {
					return true
				}
			}
		}
		return false
	})
}

// watching starts watch.
func watching(t *testing.T, args ...string) (r *running, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "watch.jsonl")
	return startWhosefd(t, append([]string{"watch", "-o", file}, args...)...), file
}

// A gdb that starts under watch, and hangs, is told of; it is not attached to.
func TestWatchHang(t *testing.T) { bothEngines(t, testWatchHang) }

func testWatchHang(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	hooked := filepath.Join(t.TempDir(), "hooked")
	r, file := watching(t, "--exec", `test "$WHOSEFD_KIND" = finding && cat >>`+hooked)
	gdb := scene.Hang(t)
	noticed(t, file, "the hang", func(n notice) bool {
		return int(n.PID) == gdb.PID && n.Kind == "finding" && n.Finding.Effect == "hang" && n.Finding.Rule == "self-fd" && n.Comm == "gdb"
	})
	untraced(t, gdb.PID)
	eventually(t, "the command has run", func() bool {
		b, _ := os.ReadFile(hooked)
		return strings.Contains(string(b), `"pid":`+strconv.Itoa(gdb.PID)+`,`)
	})
	if err := r.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := r.wait(t); code != exitFindings {
		t.Errorf("exit code %d: %s", code, r.stderr.String())
	}
	who := "  gdb (pid " + strconv.Itoa(gdb.PID) + ") "
	if out := r.stdout.String(); !strings.Contains(out, who) || strings.Contains(out, ":"+who[1:]) || strings.Contains(out, "is watched") {
		t.Errorf("printed:\n%s", out)
	}
}

// JSON lines on standard output have nothing else between them.
func TestWatchOnStdout(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	r := startWhosefd(t, "watch", "-o", "-", "-v", "--exec", "echo was hooked")
	gdb := scene.Hang(t)
	eventually(t, "the hang is told, and the command has run", func() bool {
		return strings.Contains(r.stdout.String(), `"kind":"finding","pid":`+strconv.Itoa(gdb.PID)+`,`) && strings.Contains(r.stderr.String(), "was hooked")
	})
	if err := r.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	r.wait(t)
	for line := range strings.Lines(r.stdout.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("between the JSON lines: %q", line)
		}
	}
}

// A name that is opened and closed at once is seen by the programs in the kernel. What it means to the
// program is asked of that, which must not have ended by then.
func TestWatchNames(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	requireEBPF(t)
	_, file := watching(t, "--engine", "ebpf")
	gdb := scene.StartGDB(t, scene.GDB{Args: []string{"--args", filepath.Join(scene.Build(t), "from_memory"), "--fd", "60", "--wait"}})
	gdb.Expect(scene.Prompt)
	noticed(t, file, "gdb is watched", func(n notice) bool { return int(n.PID) == gdb.PID && n.Kind == "began" })
	gdb.Send("run")
	noticed(t, file, "the name", func(n notice) bool {
		return int(n.PID) == gdb.PID && n.Kind == "finding" && n.Finding.Rule == "self-fd" && n.Finding.Name == "/proc/self/fd/60"
	})
	untraced(t, gdb.PID)
}

// A wait that is nobody's fault is told of when it has lasted.
func TestWatchWait(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	_, file := watching(t, "--after", "1500ms")
	gdb := scene.StartGDB(t, scene.GDB{})
	gdb.Expect(scene.Prompt)
	gdb.Send(`python open("` + fifo + `").read()`)
	noticed(t, file, "the wait", func(n notice) bool {
		return int(n.PID) == gdb.PID && n.Kind == "wait" && n.Wait.For == "open" && n.Wait.SinceUS.Val >= 1_500_000
	})
}

var users atomic.Int32

func init() { users.Store(54_300) }

// Each gdb that starts is guarded, and runs on when watch ends.
func TestWatchGuard(t *testing.T) { bothEngines(t, testWatchGuard) }

func testWatchGuard(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root", "setpriv")
	// A user of its own: others' debuggers are not to be guarded.
	user := strconv.Itoa(int(users.Add(1)))
	r, file := watching(t, "--guard", "--user", user)
	gdb := scene.StartGDB(t, scene.GDB{Launcher: []string{"setpriv", "--reuid", user, "--regid", user, "--clear-groups"}, Dir: "/",
		Args: []string{filepath.Join(public(t), "from_memory")}})
	gdb.Expect(scene.Prompt)
	eventually(t, "it is guarded", func() bool { return statusLine(t, gdb.PID, "TracerPid") != "0" })
	gdb.Command("break foo")
	gdb.Send("run")
	gdb.Expect(stopAtFoo)
	noticed(t, file, "a call was led", func(n notice) bool {
		return int(n.PID) == gdb.PID && n.Kind == "led" && n.Call.Path == "/proc/self/fd/4"
	})
	if err := r.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.wait(t)
	untraced(t, gdb.PID)
	if shown := gdb.Command("print x * 2"); !strings.Contains(shown, "= 42") {
		t.Errorf("print shows %q", shown)
	}
}
