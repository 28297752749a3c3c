package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"whosefd/analyze"
	"whosefd/samples/scene"
	"whosefd/tracer/event"
)

// storm makes calls that can be counted, and says at its end how many they were.
// Each is an open of the name /mark, which is not there.
const storm = `
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static atomic_int marks, handled, stop;
static void mark(void) { marks++; if (open("/mark", O_RDONLY) >= 0 || errno != ENOENT) abort(); }
static void die(const char *what) { perror(what); exit(99); }

static void *once(void *x) { mark(); return x; }
static void threads(int n) {
	enum { batch = 20 };
	pthread_t t[batch];
	for (int i = 0; i < n; i += batch) {
		for (int j = 0; j < batch; j++) if (pthread_create(&t[j], 0, once, 0)) die("pthread_create");
		for (int j = 0; j < batch; j++) pthread_join(t[j], 0);
	}
}
static void forks(int n) {
	for (int i = 0; i < n; i++) {
		pid_t p = i % 2 ? fork() : vfork();
		if (p < 0) die("fork");
		if (p == 0) { syscall(SYS_openat, AT_FDCWD, "/mark", O_RDONLY); _exit(7); } /* of another process: not counted */
		int status;
		if (waitpid(p, &status, 0) != p || !WIFEXITED(status) || WEXITSTATUS(status) != 7) die("waitpid");
		mark();
	}
}
static void *idle(void *x) { while (!stop) mark(); return x; }
static char **again;
static void *replace(void *x) {
	mark();
	fprintf(stderr, "marks %d\n", (int)marks);
	execv("/proc/self/exe", again);
	die("execv");
	return x;
}
static void on_signal(int s) { int e = errno; (void)s; handled++; mark(); errno = e; }
static void *target(void *x) { while (!stop) { mark(); usleep(100); } return x; }
static void signals(int n) {
	enum { count = 20 };
	pthread_t t[count];
	struct sigaction a = { .sa_handler = on_signal };
	sigaction(SIGUSR1, &a, 0);
	for (int j = 0; j < count; j++) if (pthread_create(&t[j], 0, target, 0)) die("pthread_create");
	int sent = 0;
	for (int i = 0; i < n; i++)
		for (int j = 0; j < count; j++) { /* one at a time: equal signals that are pending count as one */
			int before = handled;
			if (pthread_kill(t[j], SIGUSR1)) die("pthread_kill");
			sent++;
			while (handled == before) usleep(10);
		}
	stop = 1;
	for (int j = 0; j < count; j++) pthread_join(t[j], 0);
	if (handled != sent) die("signals are lost");
}
static void names(void) {
	char name[4200];
	memset(name, 'n', sizeof name);
	for (int i = 0; i < 4200; i += 200) name[i] = '/';
	name[4095] = 0; open(name, O_RDONLY);
	name[4095] = 'n'; name[4096] = 0; open(name, O_RDONLY);
	open("/\xff\xfe\x80 \xc3(", O_RDONLY);
	open("/new\nline\033[31m", O_RDONLY);
	open("", O_RDONLY);
	open((char *)1, O_RDONLY);
}
int main(int argc, char **argv) {
	int n = argc > 2 ? atoi(argv[2]) : 0;
	switch (argv[1][0]) {
	case 't': threads(n); break;
	case 'f': forks(n); break;
	case 's': signals(n); break;
	case 'n': names(); break;
	case 'e': /* n times: exec in a thread that is not the first, while others work */
		if (n > 0) {
			char left[16];
			snprintf(left, sizeof left, "%d", n - 1);
			again = (char *[]){ argv[0], "e", left, 0 };
			pthread_t t[4];
			/* These must be counted before the exec ends them: they make none. */
			for (int i = 0; i < 3; i++) pthread_create(&t[i], 0, (void *(*)(void *))pause, 0);
			pthread_create(&t[3], 0, replace, 0);
			pause();
		}
		mark();
		break;
	}
	fprintf(stderr, "marks %d\n", (int)marks);
	return 3;
}
`

// wholeRecording gives the events of a recording, and fails the test if it is not
// whole or says that something is lost.
func wholeRecording(t *testing.T, file string) (calls []*event.Syscall) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var end *event.End
	for r := event.NewReader(f); ; {
		ev, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch ev := ev.(type) {
		case *event.Syscall:
			calls = append(calls, ev)
		case *event.Lost:
			t.Errorf("lost: %s", ev.Reason)
		case *event.End:
			end = ev
		}
	}
	if end == nil || end.Calls != int64(len(calls)) {
		t.Errorf("%d calls, the end says %+v", len(calls), end)
	}
	return calls
}

// No event is lost, however fast threads and processes come and go, and the
// program gets every signal, child and exit code that it would have.
func TestStorms(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gcc", "ptrace")
	program := source(t, "storm.c", storm, "gcc", "-O", "-pthread")
	for name, args := range map[string][]string{
		"threads": {"t", "3000"},
		"forks":   {"f", "600"},
		"exec":    {"e", "30"},
		"signals": {"s", "30"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			record := filepath.Join(t.TempDir(), "record")
			_, stderr, code := whosefd(t, append([]string{"trace", "-o", record, "--", program}, args...)...)
			if code != 3 {
				t.Fatalf("exit code %d\n%s", code, stderr)
			}
			want := 0
			for _, m := range regexp.MustCompile(`(?m)^marks (\d+)$`).FindAllStringSubmatch(stderr, -1) {
				n, err := strconv.Atoi(m[1])
				if err != nil {
					t.Fatal(err)
				}
				want += n
			}
			got := 0
			for _, c := range wholeRecording(t, record) {
				if c.Path == "/mark" && c.Errno == "ENOENT" && !c.Unfinished {
					got++
				}
			}
			if want == 0 || got != want {
				t.Errorf("%d opens are in the recording, the program made %d\n%s", got, want, stderr)
			}
		})
	}
}

// Names of any length and of any bytes come out of a recording as they were.
func TestExtremeNames(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gcc", "ptrace")
	program := source(t, "storm.c", storm, "gcc", "-O", "-pthread")
	record := filepath.Join(t.TempDir(), "record")
	if _, stderr, code := whosefd(t, "trace", "-o", record, "--", program, "n"); code != 3 {
		t.Fatalf("exit code %d\n%s", code, stderr)
	}
	var got []string
	for _, c := range wholeRecording(t, record) {
		got = append(got, fmt.Sprintf("%s %v %s", string(c.Path), c.PathTruncated, c.Errno))
	}
	long := []byte(strings.Repeat("n", 4200))
	for i := 0; i < len(long); i += 200 {
		long[i] = '/'
	}
	for _, want := range []string{
		string(long[:4095]) + " false ENOENT",
		string(long[:4096]) + " true ENAMETOOLONG",
		"/\xff\xfe\x80 \xc3( false ENOENT",
		"/new\nline\x1b[31m false ENOENT",
		" false ENOENT",
		" false EFAULT",
	} {
		n := 0
		for _, g := range got {
			if g == want {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d times in the recording: %.80q", n, want)
		}
	}
}

// heap is a debugger of extreme size.
const heap = `
#define _GNU_SOURCE
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
static int own[2];
static void wait_here(void) { char c; printf("ready %d\n", getpid()); fflush(stdout); if (read(own[0], &c, 1)) abort(); }
static volatile int sink;
__attribute__((noinline)) static void deep(int n) { if (n == 0) wait_here(); else deep(n - 1); sink++; }
static void *thread(void *x) { deep(1000000); return x; }
int main(int argc, char **argv) {
	if (pipe2(own, O_CLOEXEC)) return 1;
	switch (argv[1][0]) {
	case 'i': /* 100 inferiors */
		for (int i = 0; i < 100; i++)
			if (fork() == 0) { prctl(PR_SET_PDEATHSIG, SIGKILL); ptrace(PTRACE_TRACEME, 0, 0, 0); raise(SIGSTOP); pause(); }
		for (int i = 0; i < 100; i++) waitpid(-1, 0, __WALL); /* they have stopped */
		wait_here();
	case 'd': { /* 50,000 descriptors, or as many as it may have */
		struct rlimit l;
		getrlimit(RLIMIT_NOFILE, &l);
		l.rlim_cur = l.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &l)) return 2;
		for (int n = 0; n >= 0 && n < 50000; ) n = dup(0);
		wait_here();
	}
	case 'l': { /* 5,000 more entries in the list of libraries */
		struct link_map *last = _r_debug.r_map;
		while (last->l_next) last = last->l_next;
		for (int i = 0; i < 5000; i++) {
			struct link_map *m = calloc(1, 4096);
			char *name;
			if (asprintf(&name, "/opt/libraries/lib%d.so", i) < 0) return 3;
			m->l_name = name; m->l_addr = last->l_addr; m->l_ld = last->l_ld; m->l_prev = last;
			last->l_next = m;
			last = m;
		}
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		wait_here();
	}
	case 's': { /* a stack of a million frames */
		pthread_t t;
		pthread_attr_t a;
		pthread_attr_init(&a);
		if (pthread_attr_setstacksize(&a, 200 << 20) || pthread_create(&t, &a, thread, 0)) return 4;
		pthread_join(t, 0);
	}
	}
	return 5;
}
`

// Whatever its size, explain looks at a debugger within bounds, and says what it
// has left out.
func TestExtremeSizes(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gcc", "ptrace", "root")
	program := source(t, "heap.c", heap, "gcc", "-g", "-O1", "-fno-optimize-sibling-calls", "-pthread")
	explain := func(t *testing.T, what string, args ...string) *analyze.Diagnosis {
		p := scene.Start(t, scene.Command{Path: program, Args: []string{what}})
		p.WaitReady()
		d, code := diagnosis(t, append(args, strconv.Itoa(p.PID))...)
		if code == exitTrouble || d.Debugger == nil || int(d.Debugger.PID) != p.PID {
			t.Fatalf("exit code %d: %+v", code, d)
		}
		return d
	}
	t.Run("100 inferiors", func(t *testing.T) {
		d := explain(t, "i") // it waits for what only itself, and they, could write
		if len(d.Inferiors) != 100 || len(d.Missing) != 0 || len(d.Findings) != 1 || d.Findings[0].Rule != analyze.RuleSelfWait {
			t.Errorf("%d inferiors, missing %v, %d findings", len(d.Inferiors), d.Missing, len(d.Findings))
		}
	})
	t.Run("50,000 descriptors", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "evidence")
		d := explain(t, "d", "-o", file)
		if len(d.Missing) != 0 || d.Debugger.Syscall != "read" {
			t.Errorf("missing %v, %+v", d.Missing, d.Debugger)
		}
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(file)
		if n := strings.Count(string(b), `"type":"fd"`); err != nil || n < int(min(50000, limit.Max)) {
			t.Errorf("%d descriptors are in the evidence: %v", n, err)
		}
	})
	t.Run("5,000 libraries", func(t *testing.T) {
		p := scene.Start(t, scene.Command{Path: program, Args: []string{"l"}})
		d, _ := diagnosis(t, "--inferior", strconv.Itoa(p.WaitReady()), strconv.Itoa(os.Getpid()))
		// All 5,000 names lead nowhere, and are not what is mapped.
		if n := len(d.Findings) + len(d.Risks); len(d.Inferiors) == 0 || n < 200 {
			t.Errorf("%d findings and risks, inferiors %v, missing %v", n, d.Inferiors, d.Missing)
		}
	})
	t.Run("a million frames", func(t *testing.T) {
		d := explain(t, "s")
		var stack analyze.Stack
		for _, s := range d.Stack {
			if len(s.Frames) > len(stack.Frames) {
				stack = s
			}
		}
		if len(stack.Frames) < 50 || len(stack.Frames) > 10000 || stack.Error == "" {
			t.Errorf("%d frames, error %q", len(stack.Frames), stack.Error)
		}
	})
}

// Of a gdb that debugs a gdb each is looked at by itself.
func TestNested(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	outer := scene.StartGDB(t, scene.GDB{Args: []string{"--args", "gdb", "-nx", "-q", "-iex", "set pagination off", "-iex", "set breakpoint pending on",
		"-ex", "break foo", "-ex", "run", "--args", filepath.Join(scene.Build(t), "from_memory")}})
	outer.Expect(scene.Prompt)
	outer.Command("set follow-fork-mode parent")
	outer.Command("handle SIGCHLD nostop noprint pass")
	outer.Send("run")
	outer.Expect("Breakpoint 1 .foo. pending")
	var inner int
	eventually(t, "the inner gdb hangs", func() bool {
		for _, pid := range children(t, outer.PID) {
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid)); err == nil && strings.HasPrefix(string(b), "0 0x") &&
				statusLine(t, pid, "TracerPid") == strconv.Itoa(outer.PID) {
				if link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, hex(strings.Fields(string(b))[1]))); err == nil && strings.HasPrefix(link, "pipe:") {
					inner = pid
					return true
				}
			}
		}
		return false
	})
	d, code := diagnosis(t, strconv.Itoa(inner))
	if code != exitFindings || d.Verdict != "hang" || len(d.Inferiors) != 1 || d.Findings[0].Confidence != analyze.Certain {
		t.Errorf("inner: exit code %d, %s, inferiors %v, missing %v", code, d.Summary, d.Inferiors, d.Missing)
	}
	if d, code = diagnosis(t, strconv.Itoa(outer.PID)); code != exitNothing || len(d.Inferiors) != 1 || int(d.Inferiors[0].PID) != inner {
		t.Errorf("outer: exit code %d, %s, inferiors %v", code, d.Summary, d.Inferiors)
	}
	// The outer one traces the inner: nobody else can.
	if _, stderr, code := whosefd(t, "repair", strconv.Itoa(inner)); code != exitTrouble || !strings.Contains(stderr, strconv.Itoa(outer.PID)) {
		t.Errorf("repair of the inner: exit code %d: %s", code, stderr)
	}
	if len(d.Stack) == 0 || len(d.Stack[0].Frames) < 3 {
		t.Errorf("stack of the outer: %+v", d.Stack)
	}
}

func hex(s string) int64 {
	n, _ := strconv.ParseInt(s, 0, 64)
	return n
}

// However few files whosefd may open, it works or says that they are too few. Where they are too few
// for eBPF's programs only, it takes ptrace.
func TestFewDescriptorsForEBPF(t *testing.T) {
	t.Parallel()
	requireEBPF(t)
	instead := 0
	for limit := 8; limit <= 64; limit += 4 {
		works := map[string]bool{}
		for _, engine := range []string{"ebpf", "auto"} {
			cmd := exec.Command("sh", "-c", "ulimit -n "+strconv.Itoa(limit)+`; exec "$0" trace -q --engine `+engine+` true`, binary(t))
			out, err := cmd.CombinedOutput()
			works[engine] = err == nil
			if err != nil && (cmd.ProcessState.ExitCode() != exitTrouble || !regexp.MustCompile(`ulimit -|too many open files`).Match(out)) {
				t.Errorf("%s, ulimit -n %d: %v\n%s", engine, limit, err, out)
			}
		}
		if works["auto"] && !works["ebpf"] {
			instead++
		}
		if limit == 64 && !works["ebpf"] || works["ebpf"] && !works["auto"] {
			t.Errorf("ulimit -n %d: %v", limit, works)
		}
	}
	if instead == 0 {
		t.Error("ptrace was never taken instead")
	}
}

// A program that has ended, and that nobody has collected yet, is not meant by its
// name: the command of that name is.
func TestEndedIsNotMeant(t *testing.T) {
	t.Parallel()
	const name = "short-of-life"
	program := filepath.Join(t.TempDir(), name)
	scene.Copy(t, "/bin/true", program)
	ended := exec.Command(program)
	if err := ended.Start(); err != nil {
		t.Fatal(err)
	}
	defer ended.Wait()
	eventually(t, "a zombie", func() bool { return strings.HasPrefix(statusLine(t, ended.Process.Pid, "State"), "Z") })
	cmd := exec.Command(binary(t), "trace", name)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(program))
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "ok: "+name) {
		t.Errorf("%v\n%s", err, out)
	}
	if _, stderr, code := whosefd(t, "explain", name); code != exitTrouble || !strings.Contains(stderr, "which has ended") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
}
