package tracer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"whosefd/samples/scene"
	"whosefd/tracer/decode"
	"whosefd/tracer/ebpf"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// compile builds a C program of a test.
func compile(t *testing.T, source string, flags ...string) string {
	t.Helper()
	return scene.Compile(t, t.TempDir(), "prog.c", source, append([]string{"gcc", "-O1", "-pthread"}, flags...)...)
}

// collector gathers the events of a trace.
type collector struct {
	mu     sync.Mutex
	events []event.Event
	on     func(event.Event)
}

func (c *collector) emit(ev event.Event) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, ev)
	if c.on != nil {
		c.on(ev)
	}
	return nil
}

func (c *collector) calls() []*event.Syscall {
	c.mu.Lock()
	defer c.mu.Unlock()
	var calls []*event.Syscall
	for _, ev := range c.events {
		if call, ok := ev.(*event.Syscall); ok {
			calls = append(calls, call)
		}
	}
	return calls
}

func (c *collector) last() event.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.events[len(c.events)-1]
}

// bothEngines runs a test with each engine.
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

// engineOf is the one with which [bothEngines] runs a test.
func engineOf(t *testing.T) Engine {
	if slices.Contains(strings.Split(t.Name(), "/"), "ebpf") {
		return EngineEBPF
	}
	return EnginePtrace
}

// traceCommand launches a program under the tracer. Its output goes to the test's.
func traceCommand(t *testing.T, c *collector, argv ...string) Outcome {
	t.Helper()
	path, err := exec.LookPath(argv[0])
	if err != nil {
		t.Fatal(err)
	}
	out, err := Trace(t.Context(), TraceOptions{Engine: engineOf(t), View: procview.New("/proc"), Tool: "test", Path: path, Argv: argv,
		Env: os.Environ(), Emit: c.emit})
	if err != nil {
		t.Fatalf("trace %v: %v", argv, err)
	}
	return out
}

// start runs a program of a test and gives a reader of what it prints.
func start(t *testing.T, bin string, args ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	return startWith(t, nil, bin, args...)
}

// startWith is start with a standard input.
func startWith(t *testing.T, in io.Reader, bin string, args ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(bin, args...)
	cmd.Stdin = in
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd, bufio.NewReader(pipe)
}

var straceLine = regexp.MustCompile(`^(openat|read|close)\((.*)\) += (-?\d+)(?: (E[A-Z]+))?`)

// TestSameAsStrace holds the calls against what strace says of the same program.
func TestSameAsStrace(t *testing.T) { bothEngines(t, testSameAsStrace) }

func testSameAsStrace(t *testing.T) {
	scene.Require(t, "strace", "ls")
	log := filepath.Join(t.TempDir(), "log")
	dir := "/usr/share"
	argv := []string{"ls", "-lR", dir}
	devNull, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer devNull.Close()
	if out, err := exec.Command("sh", "-c", `exec strace -o "$0" -s 0 -e trace=openat,read,close "$@" >/dev/null`, log, "ls", "-lR", dir).CombinedOutput(); err != nil {
		t.Fatalf("strace: %v\n%s", err, out)
	}
	fd, err := unix.Dup(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Dup3(int(devNull.Fd()), 1, 0); err != nil {
		t.Fatal(err)
	}
	var c collector
	outcome := traceCommand(t, &c, argv...)
	if err := unix.Dup3(fd, 1, 0); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd)
	if !outcome.Ended || outcome.Code != 0 {
		t.Fatalf("outcome %+v", outcome)
	}
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(b)) {
		m := straceLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		name, args := m[1], m[2]
		switch name {
		case "openat":
			f := strings.Split(args, ", ")
			args = strings.Trim(f[1], `"`) + " " + f[2]
		case "read":
			args = args[:strings.Index(args, ",")] + args[strings.LastIndex(args, ","):]
		}
		want = append(want, fmt.Sprintf("%s(%s) = %s %s", name, args, m[3], m[4]))
	}
	var got []string
	for _, ev := range c.calls() {
		var args string
		switch ev.Name {
		case "openat":
			args = string(ev.Path) + " " + ev.Flags
		case "read":
			args = fmt.Sprintf("%d, %d", ev.FD.Val, ev.Count.Val)
		case "close":
			args = fmt.Sprint(ev.FD.Val)
		default:
			continue
		}
		got = append(got, fmt.Sprintf("%s(%s) = %d %s", ev.Name, args, ev.Ret.Val, ev.Errno))
	}
	if len(want) < 100 {
		t.Fatalf("strace saw only %d calls", len(want))
	}
	for i := range min(len(want), len(got)) {
		// strace shortens names to -s bytes only for data, not for paths.
		if got[i] != want[i] {
			t.Fatalf("call %d of %d:\n got %s\nwant %s", i, len(want), got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d calls, strace saw %d", len(got), len(want))
	}
}

func TestExitCodeAndSignal(t *testing.T) { bothEngines(t, testExitCodeAndSignal) }

func testExitCodeAndSignal(t *testing.T) {
	var c collector
	if out := traceCommand(t, &c, "sh", "-c", "exit 7"); !out.Ended || out.Code != 7 {
		t.Errorf("outcome %+v, want exit code 7", out)
	}
	if end, ok := c.last().(*event.End); !ok || !end.Exit.Is(7) || end.Reason != "exited" {
		t.Errorf("last event %+v", c.last())
	}
	var k collector
	if out := traceCommand(t, &k, "sh", "-c", "kill -TERM $$"); out.Signal != unix.SIGTERM {
		t.Errorf("outcome %+v, want SIGTERM", out)
	}
	if end, ok := k.last().(*event.End); !ok || end.Signal != "SIGTERM" || end.Reason != "killed" {
		t.Errorf("last event %+v", k.last())
	}
}

const storm = `
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static volatile sig_atomic_t signals;
static void on(int s) { (void)s; signals++; }
static void *work(void *arg) {
	char buf[64];
	int fd = open("/dev/zero", O_RDONLY);
	if (read(fd, buf, sizeof buf) != sizeof buf) exit(9);
	close(fd);
	pthread_kill(*(pthread_t *)arg, SIGUSR1);
	return 0;
}
static char *self;
static void *exec_again(void *arg) {
	char left[16];
	snprintf(left, sizeof left, "%d", *(int *)arg - 1);
	execl(self, self, left, (char *)0);
	return 0;
}
int main(int argc, char **argv) {
	self = argv[0];
	int left = argc > 1 ? atoi(argv[1]) : 3;
	struct sigaction sa = { .sa_handler = on, .sa_flags = SA_RESTART };
	sigaction(SIGUSR1, &sa, 0);
	pthread_t me = pthread_self();
	for (int i = 0; i < 200; i++) {
		pthread_t t[4];
		for (int j = 0; j < 4; j++) if (pthread_create(&t[j], 0, work, &me)) return 8;
		for (int j = 0; j < 4; j++) pthread_join(t[j], 0);
		if (i % 40 == 0) {
			pid_t p = i % 80 ? vfork() : fork();
			if (!p) _exit(5);
			int st;
			waitpid(p, &st, 0);
			if (WEXITSTATUS(st) != 5) return 7;
		}
	}
	if (!signals) return 6;
	if (left) {
		pthread_t t;
		pthread_create(&t, 0, exec_again, &left);
		pthread_join(t, 0);
		return 4;
	}
	printf("done\n");
	return 42;
}`

// Threads that start and end all the time, signals, forks, and execs from a
// thread that is not the leader: the program comes to its right end, and every
// open that it made is there.
func TestStorm(t *testing.T) { bothEngines(t, testStorm) }

func testStorm(t *testing.T) {
	bin := compile(t, storm)
	var c collector
	out := traceCommand(t, &c, bin)
	if !out.Ended || out.Code != 42 {
		t.Fatalf("outcome %+v, want exit code 42", out)
	}
	opens, execs := 0, 0
	for _, ev := range c.calls() {
		if ev.Name == "openat" && ev.Path == "/dev/zero" {
			opens++
			if ev.Target == nil || ev.Target.Kind != event.CharDev {
				t.Fatalf("open of /dev/zero: target %+v", ev.Target)
			}
		}
		if ev.Name == "execve" && ev.Errno == "" && !ev.Unfinished {
			execs++
		}
	}
	if want := 4 * 200 * 4; opens != want {
		t.Errorf("%d opens, want %d", opens, want)
	}
	if execs != 3 {
		t.Errorf("%d execs, want 3", execs)
	}
}

// To attach and detach again and again does not disturb the program. (make soak does it
// for hours.)
func TestAttachDetachCycles(t *testing.T) { bothEngines(t, testAttachDetachCycles) }

func testAttachDetachCycles(t *testing.T) {
	cycles := 100
	if engineOf(t) == EngineEBPF {
		cycles = 20 // in each the kernel verifies the programs
	}
	bin := compile(t, `
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#ifdef __aarch64__
#define SEES_EINTR 1 /* see interruptedCall */
#else
#define SEES_EINTR 0
#endif
static void *waits(void *arg) {
	(void)arg;
	int e = epoll_create1(0);
	struct epoll_event ev;
	for (;;) if (epoll_wait(e, &ev, 1, 20) < 0 && !(SEES_EINTR && errno == EINTR)) { printf("epoll_wait: %s\n", strerror(errno)); fflush(stdout); _exit(3); }
}
int main(void) {
	pthread_t t;
	pthread_create(&t, 0, waits, 0);
	char c, buf[100];
	fcntl(0, F_SETFL, O_NONBLOCK);
	printf("ready\n"); fflush(stdout);
	for (long n = 0;; n++) {
		int fd = open("/dev/zero", O_RDONLY);
		if (fd < 0 || read(fd, buf, 100) != 100) { printf("bad read: %s\n", strerror(errno)); return 2; }
		close(fd);
		if (read(0, &c, 1) == 1) { printf("right end\n"); return 0; }
	}
}`)
	cmd := exec.Command(bin)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	outPipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	out := bufio.NewReader(outPipe)
	if line, err := out.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%q %v", line, err)
	}
	seen := 0
	for i := range cycles {
		var c collector
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		c.on = func(ev event.Event) {
			if ev.Type() == "syscall" {
				if calls++; calls > 5 {
					cancel()
				}
			}
		}
		_, err := Trace(ctx, TraceOptions{Engine: engineOf(t), View: procview.New("/proc"), PID: event.PID(cmd.Process.Pid), Emit: c.emit})
		cancel()
		if err != nil {
			_ = in.Close()
			_ = cmd.Process.Kill()
			said, _ := io.ReadAll(out)
			t.Fatalf("cycle %d: %v; the program said %q, and ended by %v", i, err, said, cmd.Wait())
		}
		seen += len(c.calls())
	}
	if seen < 5*cycles {
		t.Errorf("%d calls seen in %d cycles", seen, cycles)
	}
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(out)
	if err != nil || string(rest) != "right end\n" {
		t.Errorf("the program said %q, %v", rest, err)
	}
}

// A number that another process has by now is not attached to.
func TestAnotherProcess(t *testing.T) { bothEngines(t, testAnotherProcess) }

func testAnotherProcess(t *testing.T) {
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	v, pid := procview.New("/proc"), event.PID(cmd.Process.Pid)
	started, err := v.StartTime(event.TID(pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []uint64{started - 1, started} {
		c := &collector{}
		ctx, cancel := context.WithCancel(t.Context())
		_, err := Trace(ctx, TraceOptions{Engine: engineOf(t), View: v, PID: pid, Started: wrong, Attached: cancel, Emit: c.emit})
		cancel()
		if (err != nil) != (wrong != started) || err != nil && !strings.Contains(err.Error(), "another one has it now") {
			t.Errorf("started at %d, expected %d: %v", started, wrong, err)
		}
		if tracer, err := v.TracerOf(pid); err != nil || tracer != 0 {
			t.Errorf("traced by %d, %v", tracer, err)
		}
	}
}

// A call that was going on at the attach, and still is at the end, is shown
// once, as unfinished, and is still the same call afterwards.
func TestUnfinished(t *testing.T) { bothEngines(t, testUnfinished) }

func testUnfinished(t *testing.T) {
	bin := compile(t, `
#include <stdio.h>
#include <unistd.h>
int main(void) {
	int p[2];
	char c;
	if (pipe(p)) return 1;
	printf("%d\n", p[0]); fflush(stdout);
	return read(p[0], &c, 1) == 1;
}`)
	cmd, out := start(t, bin)
	line, _ := out.ReadString('\n')
	fd := event.FD(0)
	if _, err := fmt.Sscan(line, &fd); err != nil {
		t.Fatal(err)
	}
	syscallFile := fmt.Sprintf("/proc/%d/syscall", cmd.Process.Pid)
	waitFor(t, func() bool { b, _ := os.ReadFile(syscallFile); return strings.HasPrefix(string(b), readNumber(t)+" ") })
	before, _ := os.ReadFile(syscallFile)
	var c collector
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	c.on = func(ev event.Event) {
		if _, ok := ev.(*event.Syscall); ok {
			stop()
		}
	}
	if _, err := Trace(ctx, TraceOptions{Engine: engineOf(t), View: procview.New("/proc"), Tool: "test", PID: event.PID(cmd.Process.Pid), Emit: c.emit}); err != nil {
		t.Fatal(err)
	}
	calls := c.calls()
	if len(calls) != 1 {
		t.Fatalf("%d calls: %+v", len(calls), calls)
	}
	ev := calls[0]
	if ev.Name != "read" || !ev.Unfinished || !ev.FD.Is(fd) || !ev.Count.Is(1) || ev.Ret.Known || ev.Target == nil || ev.Target.Kind != event.Pipe {
		t.Errorf("got %+v", ev)
	}
	if !slices.ContainsFunc(c.events, func(e event.Event) bool {
		b, ok := e.(*event.Blocked)
		return ok && b.Syscall == "read" && b.FD.Is(fd) && len(b.Holders) == 2
	}) {
		t.Error("no blocked event with both holders of the pipe")
	}
	waitFor(t, func() bool { b, _ := os.ReadFile(syscallFile); return string(b) == string(before) })
	if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid)); !strings.Contains(string(b), "TracerPid:\t0\n") {
		t.Errorf("still traced:\n%s", b)
	}
}

// readNumber is the number of read(2), as /proc/PID/syscall has it.
func readNumber(t *testing.T) string {
	t.Helper()
	calls, err := decode.ForArch(Arch)
	if err != nil {
		t.Fatal(err)
	}
	nr, _ := calls.Number("read")
	return strconv.FormatUint(nr, 10)
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	scene.Eventually(t, "what is waited for", ok)
}

// switches counts how often a thread has begun to wait (voluntary_ctxt_switches in
// proc_pid_status(5)).
func switches(t *testing.T, pid int) (n int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\nvoluntary_ctxt_switches:")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A read that was going on at the attach and then ends gives its result in a
// second event; stop and continue work meanwhile; children are not followed.
func TestResumedAndGroupStop(t *testing.T) { bothEngines(t, testResumedAndGroupStop) }

func testResumedAndGroupStop(t *testing.T) {
	bin := compile(t, `
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void) {
	char c;
	printf("ready\n"); fflush(stdout);
	if (read(0, &c, 1) != 1) return 2;
	pid_t p = fork();
	if (!p) { char b[200]; FILE *f = fopen("/proc/self/status", "r"); while (fgets(b, sizeof b, f)) fputs(b, stdout); fflush(stdout); _exit(0); }
	int st;
	waitpid(p, &st, 0);
	return 33;
}`)
	cmd := exec.Command(bin)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stdout strings.Builder
	cmd.Stdout = &stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	pid := cmd.Process.Pid
	waitFor(t, func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
		return strings.HasPrefix(string(b), readNumber(t)+" 0x0 ")
	})
	var c collector
	state := func() string {
		s, _ := procview.New("/proc").State(event.PID(pid), event.TID(pid))
		return s
	}
	var out Outcome
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		out, err = Trace(t.Context(), TraceOptions{Engine: engineOf(t), View: procview.New("/proc"), PID: event.PID(pid), Emit: c.emit})
	}()
	waitFor(t, func() bool { return len(c.calls()) > 0 })
	waitFor(t, func() bool { return state() == "S" }) // in its read again
	before := switches(t, pid)
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stops := 2 // for the signal, and then with its group
	if engineOf(t) == EngineEBPF {
		stops = 1
	}
	waitFor(t, func() bool { return switches(t, pid) >= before+stops && (state() == "t" || state() == "T") })
	if err := unix.Kill(pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	<-ended
	if err != nil || !out.Ended {
		t.Fatalf("outcome %+v, %v", out, err)
	}
	_ = cmd.Wait()
	if !strings.Contains(stdout.String(), "TracerPid:\t0\n") {
		t.Errorf("the child was traced:\n%s", stdout.String())
	}
	var reads []*event.Syscall
	for _, ev := range c.calls() {
		if ev.Name == "read" && ev.FD.Is(0) {
			reads = append(reads, ev)
		}
	}
	// The SIGSTOP interrupts the read, and the kernel makes it again.
	if len(reads) != 3 || !reads[0].Unfinished || !reads[1].Resumed || reads[1].Errno != "ERESTARTSYS" || !reads[2].Ret.Is(1) {
		for _, r := range reads {
			t.Logf("%+v", r)
		}
		t.Error("want an unfinished read, and then the same with its result")
	}
}

// Each way to end a trace leaves the program running and untraced.
func TestEmitErrorAndCancel(t *testing.T) { bothEngines(t, testEmitErrorAndCancel) }

func testEmitErrorAndCancel(t *testing.T) {
	for _, how := range []string{"emit", "cancel"} {
		t.Run(how, func(t *testing.T) {
			cmd, _ := start(t, "sleep", "60")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			fail := fmt.Errorf("disk full")
			_, err := Trace(ctx, TraceOptions{Engine: engineOf(t), View: procview.New("/proc"), PID: event.PID(cmd.Process.Pid), Emit: func(ev event.Event) error {
				if ev.Type() != "fd" {
					return nil
				}
				if how == "emit" {
					return fail
				}
				cancel()
				return nil
			}})
			if how == "emit" && !errors.Is(err, fail) || how == "cancel" && err != nil {
				t.Errorf("error %v", err)
			}
			tracer, err := procview.New("/proc").TracerOf(event.PID(cmd.Process.Pid))
			if err != nil || tracer != 0 {
				t.Errorf("traced by %d, %v", tracer, err)
			}
		})
	}
}

// What stat(2) said of a file is the word; a link is taken from what was known where nothing else was.
func TestStatTarget(t *testing.T) {
	st := decode.Stat{Mode: 0o100644, Dev: 1, Ino: 2}
	for name, c := range map[string]struct {
		known *event.Target
		want  event.Target
	}{
		"nothing known":                  {nil, event.Target{Kind: event.Regular, Dev: 1, Ino: 2}},
		"the same":                       {&event.Target{Kind: event.Memfd, Link: "/memfd:x (deleted)", Dev: 1, Ino: 2}, event.Target{Kind: event.Memfd, Link: "/memfd:x (deleted)", Dev: 1, Ino: 2}},
		"another":                        {&event.Target{Kind: event.Regular, Link: "/other", Dev: 1, Ino: 3}, event.Target{Kind: event.Regular, Dev: 1, Ino: 2}},
		"gone before it could be looked": {&event.Target{Kind: event.Regular, Link: "/lib.so", Error: "ENOENT"}, event.Target{Kind: event.Regular, Link: "/lib.so", Dev: 1, Ino: 2}},
	} {
		if got := statTarget(c.known, st); !reflect.DeepEqual(*got, c.want) {
			t.Errorf("%s: %+v, not %+v", name, *got, c.want)
		}
	}
}
