package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"whosefd/analyze"
	"whosefd/samples/scene"
)

// waitRules are those that the tests of this file bring about.
var waitRules = []analyze.Rule{analyze.RuleSelfWait, analyze.RuleStoppedInferior, analyze.RuleMutualWait, analyze.RuleInferiorDeadlock}

// deadlock is a diagnosis with the rule, exit code 1, and a circle with these processes.
func deadlock(t *testing.T, rule analyze.Rule, pid int, others ...int) *analyze.Diagnosis {
	t.Helper()
	var d *analyze.Diagnosis
	defer func() {
		if t.Failed() && d != nil {
			t.Logf("said: %s: %s", d.Verdict, d.Summary)
		}
	}()
	eventually(t, string(rule), func() bool {
		var code int
		d, code = diagnosis(t, strconv.Itoa(pid))
		return code == 1 && d.Verdict == "hang" && len(d.Findings) == 1 && d.Findings[0].Rule == rule
	})
	f := d.Findings[0]
	if f.Confidence != analyze.Certain {
		t.Errorf("confidence %s:\n%v", f.Confidence, f.Evidence)
	}
	for _, other := range others { // where a circle begins is a matter of whom one asks about
		if _, code := diagnosis(t, strconv.Itoa(other)); code == exitTrouble {
			t.Errorf("explain of pid %d: exit code %d", other, code)
		}
	}
	for _, want := range append(others, pid) {
		if len(f.Cycle) > 0 && !slices.ContainsFunc(f.Cycle, func(th analyze.ThreadID) bool { return int(th.PID) == want }) {
			t.Errorf("pid %d is not in the circle %v", want, f.Cycle)
		}
	}
	if len(d.Waits) == 0 || int(d.Waits[0].PID) != pid || !d.Waits[0].Stuck || d.Waits[0].Text == "" {
		t.Errorf("waits: %+v", d.Waits)
	}
	var rows []analyze.PSRow
	out, stderr, code := whosefd(t, "ps", "--format", "json", strconv.Itoa(pid))
	if err := json.Unmarshal([]byte(out), &rows); err != nil || code != 1 || len(rows) != 1 {
		t.Fatalf("ps: exit code %d: %v\n%s%s", code, err, out, stderr)
	}
	if !told(rows[0], rule, string(d.Waits[0].Text)) {
		t.Errorf("ps: %s\nexplain: %s", out, d.Waits[0].Text)
	}
	return d
}

// told says whether a row of ps has a thread with the rule, and says of it what explain does.
func told(row analyze.PSRow, rule analyze.Rule, text string) bool {
	for _, th := range row.Threads {
		if th.Rule == rule && th.Waits != "" && strings.HasPrefix(text, string(th.Waits)) {
			return true
		}
	}
	return false
}

// remedy runs what the finding says, and fails if it says nothing of that kind.
func remedy(t *testing.T, d *analyze.Diagnosis, kind string) {
	t.Helper()
	for _, r := range d.Findings[0].Remedies {
		if r.Kind == kind {
			if own, ok := strings.CutPrefix(string(r.Command), "whosefd "); ok {
				if out, stderr, code := whosefd(t, strings.Fields(own)...); code != 0 {
					t.Fatalf("%s: exit code %d\n%s%s", r.Command, code, out, stderr)
				}
				return
			}
			cmd := exec.CommandContext(t.Context(), "bash", "-c", string(r.Command))
			cmd.Dir = t.TempDir()
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", r.Command, err, out)
			}
			return
		}
	}
	t.Fatalf("no remedy %q in %+v", kind, d.Findings[0].Remedies)
}

func cProgram(t *testing.T, source string) string {
	t.Helper()
	return scene.Compile(t, t.TempDir(), "prog.c", source, "gcc", "-g", "-O0", "-w", "-pthread")
}

// asleepIn says whether the first thread of a process sleeps in a call, proc_pid_syscall(5).
func asleepIn(t *testing.T, pid, call int) bool {
	t.Helper()
	return strings.HasPrefix(procFile(t, pid, "syscall"), strconv.Itoa(call)+" ") && strings.HasPrefix(statusLine(t, pid, "State"), "S")
}

func gone(pid int) bool { return syscall.Kill(pid, 0) != nil }

const pauses = "#include <unistd.h>\nint main(void) { for (;;) pause(); }"

// A crash handler reads what gdb writes about its own process, which gdb has stopped.
func TestReaderStopped(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace")
	prog := scene.Start(t, scene.Command{Path: cProgram(t, `
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>
static void deep(int n) { volatile char pad[64]; pad[0] = 0; if (n) { deep(n - 1); pad[0] = 1; return; }
	static char cmd[256], line[4096];
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
	snprintf(cmd, sizeof cmd, "exec gdb -q -nx -batch -iex 'set debuginfod enabled off' -p %d -ex 'bt' 2>&1", (int)getpid());
	FILE *f = popen(cmd, "r");
	sleep(1);
	while (fgets(line, sizeof line, f)) fputs(line, stderr);
	puts("read"); fflush(stdout); pclose(f); _exit(0);
}
int main(void) { deep(5000); return 0; }`)})
	gdb := 0
	eventually(t, "gdb attaches", func() bool {
		if gone(prog.PID) {
			t.Fatalf("the program has ended:\n%s", prog.Err())
		}
		gdb, _ = strconv.Atoi(statusLine(t, prog.PID, "TracerPid"))
		return gdb != 0
	})
	d := deadlock(t, analyze.RuleStoppedInferior, gdb, prog.PID)
	if d.Waits[0].For != "reader" {
		t.Errorf("for %q", d.Waits[0].For)
	}
	remedy(t, d, "drain")
	prog.Expect("read")
	eventually(t, "gdb ends", func() bool { return gone(gdb) })
}

// gdb wants a lock of a file that its stopped inferior holds.
func TestLockOfInferior(t *testing.T) {
	t.Parallel()
	lock := filepath.Join(t.TempDir(), "lock")
	prog := scene.Start(t, scene.Command{Path: cProgram(t, `
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	struct flock l = { .l_type = F_WRLCK };
	int fd = open(argv[1], O_RDWR|O_CREAT, 0600);
	if (argc > 2) fcntl(fd, F_SETLK, &l); else flock(fd, LOCK_EX);
	puts("locked"); fflush(stdout);
	for (;;) pause();
}`), Args: []string{lock}})
	prog.Expect("locked")
	for _, call := range []string{"flock", "lockf"} {
		if call == "lockf" {
			prog = scene.Start(t, scene.Command{Path: cProgram(t, `
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	struct flock l = { .l_type = F_WRLCK };
	fcntl(open(argv[1], O_RDWR|O_CREAT, 0600), F_SETLK, &l);
	puts("locked"); fflush(stdout);
	for (;;) pause();
}`), Args: []string{lock + "2"}})
			prog.Expect("locked")
			lock += "2"
		}
		gdb := scene.StartGDB(t, scene.GDB{Args: []string{"-p", strconv.Itoa(prog.PID)}})
		gdb.Expect(scene.Prompt)
		gdb.Send("python import fcntl; f = open('" + lock + "', 'w'); fcntl." + call + "(f, fcntl.LOCK_EX)")
		d := deadlock(t, analyze.RuleStoppedInferior, gdb.PID, prog.PID)
		if d.Waits[0].For != "lock" {
			t.Errorf("for %q", d.Waits[0].For)
		}
		remedy(t, d, "kill")
		eventually(t, "the program goes on", func() bool { return statusLine(t, prog.PID, "TracerPid") == "0" })
		eventually(t, "the program goes on", func() bool { return strings.HasPrefix(statusLine(t, prog.PID, "State"), "S") })
	}
}

// A call of the program's function needs a lock that a stopped thread holds.
func TestCallNeedsLock(t *testing.T) {
	t.Parallel()
	prog := scene.Start(t, scene.Command{Path: cProgram(t, `
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int stop;
int bump(void) { pthread_mutex_lock(&lock); int n = 42; pthread_mutex_unlock(&lock); return n; }
static void *holder(void *x) { pthread_mutex_lock(&lock); puts("held"); fflush(stdout); while (!stop) usleep(1000); pthread_mutex_unlock(&lock); for (;;) pause(); }
int main(void) { pthread_t t; pthread_create(&t, 0, holder, 0); for (;;) pause(); }`)})
	prog.Expect("held")
	gdb := scene.StartGDB(t, scene.GDB{Args: []string{"-p", strconv.Itoa(prog.PID)}})
	gdb.Expect(scene.Prompt)
	gdb.Command("set scheduler-locking on")
	gdb.Command("set var stop = 1")
	gdb.Send("print bump()")
	d := deadlock(t, analyze.RuleInferiorDeadlock, gdb.PID, prog.PID)
	if d.Waits[0].For != "inferior" {
		t.Errorf("for %q", d.Waits[0].For)
	}
	remedy(t, d, "interrupt")
	gdb.Expect(scene.Prompt)
	gdb.Command("set scheduler-locking off")
	gdb.Command("continue") // ends when the function is done
	if out := gdb.Command("info threads"); strings.Contains(out, "futex_wait") {
		t.Errorf("still locked:\n%s", out)
	}
}

// A front end waits for gdb to end, and gdb for a command.
func TestFrontEndWaits(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace")
	front := scene.Start(t, scene.Command{Path: "python3", Args: []string{"-c", `
import subprocess
p = subprocess.Popen(["gdb", "-q", "-nx", "-i=mi"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
print("pid", p.pid, flush=True)
p.wait()
print("ended", flush=True)`}})
	gdb, err := strconv.Atoi(front.Expect(`pid (\d+)`)[1])
	if err != nil {
		t.Fatal(err)
	}
	d := deadlock(t, analyze.RuleMutualWait, gdb)
	remedy(t, d, "type")
	front.Expect("ended")
}

// A front end waits for gdb to end, and does not read what gdb writes.
func TestFrontEndDoesNotRead(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb")
	front := scene.Start(t, scene.Command{Path: "python3", Args: []string{"-c", `
import subprocess
p = subprocess.Popen(["gdb", "-q", "-nx", "-batch", "-ex", "python print('x' * 300000)"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
print("pid", p.pid, flush=True)
p.wait()
print("ended", flush=True)`}})
	gdb, err := strconv.Atoi(front.Expect(`pid (\d+)`)[1])
	if err != nil {
		t.Fatal(err)
	}
	d := deadlock(t, analyze.RuleMutualWait, gdb)
	remedy(t, d, "drain")
	front.Expect("ended")
}

// Any process can be explained.
func TestDeadlockWithoutDebugger(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code string
		call int // that it is blocked in
		kind string
		rule analyze.Rule
	}{
		"own pipe":           {"import os; r, w = os.pipe(); os.read(r, 1)", syscall.SYS_READ, "feed", analyze.RuleSelfWait},
		"own pipe by a name": {"import os; r, w = os.pipe(); os.read(os.open('/dev/fd/%d' % r, os.O_RDONLY), 1)", syscall.SYS_READ, "release", analyze.RuleSelfWait},
		"own full pipe":      {"import os; r, w = os.pipe(); os.write(w, bytes(1 << 20))", syscall.SYS_WRITE, "drain", analyze.RuleSelfWait},
		"all of a message": {"import socket; a, b = socket.socketpair(); a.send(bytes(9)); b.recv(10, socket.MSG_WAITALL)", syscall.SYS_RECVFROM,
			"kill", analyze.RuleSelfWait},
		"lock": {"import threading; l = threading.Lock(); l.acquire(); l.acquire()", syscall.SYS_FUTEX, "interrupt", analyze.RuleSelfWait},
		"two locks": {`
import threading
a, b, both = threading.Lock(), threading.Lock(), threading.Barrier(2)
def f(x, y):
  with x:
    both.wait()
    with y: pass
for p in (a, b), (b, a): threading.Thread(target=f, args=p).start()`, syscall.SYS_FUTEX, "kill", analyze.RuleSelfWait},
		"two processes": {`
import os, socket
a, b = socket.socketpair()
if os.fork() == 0:
  a.close(); b.recv(1); os._exit(0)
b.close(); a.recv(1)`, syscall.SYS_RECVFROM, "kill", analyze.RuleMutualWait},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := scene.Start(t, scene.Command{Path: "python3", Args: []string{"-c", c.code}})
			// A write that begins when explain stops the thread for its backtrace ends by that.
			eventually(t, "it is in its call", func() bool { return asleepIn(t, p.PID, c.call) })
			d := deadlock(t, c.rule, p.PID)
			if gone(p.PID) {
				t.Fatal("it has ended by being looked at")
			}
			remedyInBackground := c.kind == "drain"
			if remedyInBackground {
				drain := exec.Command("bash", "-c", string(d.Findings[0].Remedies[0].Command))
				drain.Dir = t.TempDir()
				go func() { _ = drain.Run() }() // it ends with the process
			} else {
				remedy(t, d, c.kind)
			}
			eventually(t, "it ends", func() bool { return gone(p.PID) })
		})
	}
}

// TestCalmWaits has debuggers and others that wait for what can come: no finding, and
// what is said of them.
func TestCalmWaits(t *testing.T) {
	t.Parallel()
	attach := func(t *testing.T, commands ...string) *scene.Session {
		prog := scene.Start(t, scene.Command{Path: cProgram(t, pauses)})
		s := scene.StartGDB(t, scene.GDB{Args: []string{"-p", strconv.Itoa(prog.PID)}})
		s.Expect(scene.Prompt)
		for _, c := range commands {
			s.Send(c)
		}
		return s
	}
	for name, c := range map[string]struct {
		start func(t *testing.T) int
		want  string // for
		text  string // part of the summary
	}{
		"prompt":   {func(t *testing.T) int { return attach(t).PID }, "user", "at its prompt"},
		"continue": {func(t *testing.T) int { return attach(t, "continue").PID }, "inferior", "is not at its prompt"},
		"continue, without a terminal": {func(t *testing.T) int {
			prog := scene.Start(t, scene.Command{Path: cProgram(t, pauses)})
			return scene.Start(t, scene.Command{Path: "setsid", Args: []string{"gdb", "-q", "-nx", "-batch", "-p", strconv.Itoa(prog.PID), "-ex", "continue"}}).PID
		}, "inferior", "; kill -INT "},
		"continue &": {func(t *testing.T) int { return attach(t, "continue &").PID }, "user", "at its prompt"},
		"shell":      {func(t *testing.T) int { return attach(t, "shell sleep 1000").PID }, "child", "and not for its inferior"},
		"python subprocess": {func(t *testing.T) int {
			return attach(t, `python import subprocess; subprocess.run(["sleep", "1000"], capture_output=True)`).PID
		}, "writer", "sleep"},
		"a shell's child at the terminal": {func(t *testing.T) int {
			return attach(t, "shell (head -n 1; true); true").PID
		}, "child", ") waits for input at the terminal."},
		"input": {func(t *testing.T) int { return attach(t, `python input("name? ")`).PID }, "user", ""},
		"mi": {func(t *testing.T) int {
			p := scene.Start(t, scene.Command{Path: "python3", Args: []string{"-c", `
import subprocess, time
p = subprocess.Popen(["gdb", "-q", "-nx", "-i=mi"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
print("pid", p.pid, flush=True)
while True: time.sleep(1)`}})
			pid, _ := strconv.Atoi(p.Expect(`pid (\d+)`)[1])
			return pid
		}, "user", "next command"},
		"fifo": {func(t *testing.T) int {
			fifo := filepath.Join(t.TempDir(), "fifo")
			if err := syscall.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			return scene.StartGDB(t, scene.GDB{Args: []string{"-ex", "core-file " + fifo}}).PID
		}, "open", "a FIFO that nobody has open for writing"},
		"fifo, for writing": {func(t *testing.T) int {
			fifo := filepath.Join(t.TempDir(), "fifo")
			if err := syscall.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			return scene.StartGDB(t, scene.GDB{Args: []string{"-ex", `python open("` + fifo + `", "w")`}}).PID
		}, "open", "When somebody opens it to read: for example cat "},
		"silent stub": {func(t *testing.T) int {
			stub := scene.Start(t, scene.Command{Path: "python3", Args: []string{"-c", `
import socket, time
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen()
print("port", s.getsockname()[1], flush=True)
c = s.accept()
while True: time.sleep(1)`}})
			port := stub.Expect(`port (\d+)`)[1]
			return scene.StartGDB(t, scene.GDB{Args: []string{"-ex", "set remotetimeout 300", "-ex", "target remote 127.0.0.1:" + port}}).PID
		}, "peer", "python"},
		"a job of its own in the foreground": {func(t *testing.T) int {
			return scene.StartGDB(t, scene.GDB{Args: []string{"-ex", "run", "--args", "bash", "-c", "set -m; sleep 1000; true"}}).PID
		}, "inferior", "Ctrl-C does not stop it, as the terminal's foreground is another process group, "},
		"a lock of its own": {func(t *testing.T) int {
			prog := cProgram(t, `#include <pthread.h>
int main(void) { pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER; pthread_mutex_lock(&m); return pthread_mutex_lock(&m); }`)
			return scene.StartGDB(t, scene.GDB{Args: []string{"-ex", "run", prog}}).PID
		}, "inferior", "Nothing that the program does, as nobody can end its own wait; Ctrl-C stops it."},
		"nobody listens": {func(t *testing.T) int { // and it tries again and again
			return scene.StartGDB(t, scene.GDB{Args: []string{"-ex", "set tcp connect-timeout unlimited", "-ex", "target remote 127.0.0.1:9"}}).PID
		}, "timer", "sleeps, and is not at its prompt (in "},
		"gdbserver": {func(t *testing.T) int {
			server := scene.Start(t, scene.Command{Path: "gdbserver", Args: []string{"--once", "127.0.0.1:0", cProgram(t, pauses)}})
			port := server.ExpectErr(`Listening on port (\d+)`)[1]
			return scene.StartGDB(t, scene.GDB{Args: []string{"-ex", "target remote 127.0.0.1:" + port, "-ex", "continue"}}).PID
		}, "inferior", "by gdbserver"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "gdbserver" {
				scene.Require(t, "gdbserver")
			}
			pid := c.start(t)
			var d *analyze.Diagnosis
			eventually(t, "the wait", func() bool {
				var code int
				if d, code = diagnosis(t, strconv.Itoa(pid)); code != 0 {
					t.Fatalf("exit code %d: %s", code, d.Summary)
				}
				return d.Verdict == "blocked" && len(d.Waits) > 0 && string(d.Waits[0].For) == c.want && strings.Contains(string(d.Summary), c.text)
			})
		})
	}
}

// TestDeafInferior has an inferior that blocks SIGINT, as one does that waits for its
// signals by sigwait(3): Ctrl-C stops nothing, and what is said to stop it does.
func TestDeafInferior(t *testing.T) {
	t.Parallel()
	prog := cProgram(t, `#include <signal.h>
#include <unistd.h>
int main(void) { sigset_t s; sigemptyset(&s); sigaddset(&s, SIGINT); sigprocmask(SIG_BLOCK, &s, 0); for (;;) pause(); }`)
	gdb := scene.StartGDB(t, scene.GDB{Args: []string{"-ex", "run", prog}})
	said := func() bool {
		d, _ := diagnosis(t, strconv.Itoa(gdb.PID))
		return len(d.Waits) > 0 && d.Waits[0].For == "inferior" && strings.Contains(string(d.Summary), "Ctrl-C does not stop it: kill -STOP "+strconv.Itoa(gdb.Inferior())+" does")
	}
	eventually(t, "it runs", said)
	gdb.Interrupt()
	if err := syscall.Kill(gdb.Inferior(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	gdb.Expect("received signal SIGSTOP")
	gdb.Expect(scene.Prompt)
	gdb.Send("signal 0")
	eventually(t, "it runs again", said)
	if out := gdb.Output(); strings.Contains(out, "signal SIGINT") {
		t.Errorf("Ctrl-C has stopped it:\n%s", out)
	}
}

// TestWaitsInWords has programs wait, and what is said of that and of its end.
func TestWaitsInWords(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code string
		says []string
	}{
		"a time-out": {"r,w=os.pipe(); select.select([r],[],[],1000)",
			[]string{", which returns after 1000.0 s at most)", "What ends it: The call returns by itself, after 1000.0 s at most."}},
		"a point of time": {"v=(ctypes.c_long*2)(int(time.monotonic())+1000,0); c.clock_nanosleep(1,1,v,None)",
			[]string{"sleeps (in clock_nanosleep, which returns after 9"}},
		"nothing but a time-out": {"select.select([],[],[],1000)", []string{"sleeps (in ", "after 1000.0 s at most"}},
		"an eventfd": {"e=c.eventfd(0,0); threading.Thread(target=time.sleep,args=(1000,)).start(); os.read(e,8)",
			[]string{"waits for another thread of its own, on descriptor 3, anon_inode:[eventfd]"}},
		"inotify":     {"f=c.inotify_init(); os.read(f,1)", []string{"What ends it: A change of a file or folder that it watches."}},
		"two writers": {"r,w=os.pipe(); p=subprocess.Popen(['sleep','1000'],stdout=w); os.read(r,1)", []string{"What ends it: When sleep (pid "}},
		"the end of a thread, beside idle ones": {"import concurrent.futures as f\nx=f.ThreadPoolExecutor(3); [x.submit(time.sleep,0.01) for i in range(3)]\n" +
			"t=threading.Thread(target=time.sleep,args=(1000,)); t.start(); t.join()", []string{"waits for another thread of its own (", "sleeps (in "}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := scene.Start(t, scene.Command{Path: "python3", Args: []string{"-c",
				"import ctypes,os,select,subprocess,threading,time\nc=ctypes.CDLL(None)\n" + c.code}})
			eventually(t, "the wait", func() bool {
				out, _, _ := whosefd(t, "explain", strconv.Itoa(p.PID))
				return !slices.ContainsFunc(c.says, func(part string) bool { return !strings.Contains(out, part) })
			})
		})
	}
}

// TestSmallSteps has debuggers that step their inferior for ever, and what is said to end it.
func TestSmallSteps(t *testing.T) {
	t.Parallel()
	prog := cProgram(t, "volatile int n; void f(void) { n++; } int main(void) { for (;;) f(); }")
	for name, commands := range map[string][]string{
		"condition":  {"break f if n == -1", "run"},
		"watchpoint": {"set can-use-hw-watchpoints 0", "start", "watch n if n == -1", "continue"},
		"next":       {"start", "next"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gdb := scene.StartGDB(t, scene.GDB{Args: []string{prog}})
			gdb.Expect(scene.Prompt)
			for _, c := range commands[:len(commands)-1] {
				gdb.Command(c)
			}
			gdb.Send(commands[len(commands)-1])
			eventually(t, "small steps", func() bool {
				d, code := diagnosis(t, strconv.Itoa(gdb.PID))
				if code == exitFindings {
					t.Fatalf("exit code %d: %s", code, d.Summary)
				}
				return strings.Contains(string(d.Summary), "in small steps")
			})
			gdb.Interrupt()
			gdb.Expect(scene.Prompt)
		})
	}
}

// TestJobControl has a debugger in the background that touches its terminal.
func TestJobControl(t *testing.T) {
	t.Parallel()
	shell := scene.Start(t, scene.Command{Path: "python3", Args: []string{"-c", `
import os, pty, signal, sys, time
pid, master = pty.fork()
if pid == 0:
  child = os.fork()
  if child == 0:
    os.setpgid(0, 0)
    os.execvp("gdb", ["gdb", "-q", "-nx"])
  while True: time.sleep(1)
print("ready", pid, flush=True)
while True:
  try: os.read(master, 4096)
  except OSError: time.sleep(1)`}})
	leader, _ := strconv.Atoi(shell.Expect(`ready (\d+)`)[1])
	gdb := 0
	eventually(t, "gdb is stopped", func() bool {
		b, _ := os.ReadFile("/proc/" + strconv.Itoa(leader) + "/task/" + strconv.Itoa(leader) + "/children")
		gdb, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		return gdb != 0 && strings.HasPrefix(statusLine(t, gdb, "State"), "T")
	})
	d, code := diagnosis(t, strconv.Itoa(gdb))
	if code != 0 || d.Waits[0].For != "job-control" || !strings.Contains(string(d.Summary), "fg") {
		t.Errorf("exit code %d, for %q: %s", code, d.Waits[0].For, d.Summary)
	}
}
