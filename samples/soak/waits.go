package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"whosefd/samples/scene"
)

// Rounds that look at what explain says of waits: of deadlocks, once they are
// there, and of sessions in which all is well, at any moment of their life. The
// plan's ending is the name of the scene.

// deadlocks are scenes by the rule that explain must give, each with several ways to
// bring it about. They give the process to explain when it is there.
var deadlocks = map[string][]func(*round) int{
	"stopped-inferior":  {lockOfInferior, readerStopped},
	"mutual-wait":       {frontEndWaits, eachOther},
	"inferior-deadlock": {callNeedsLock},
	"self-wait":         {ownPipe, ownFullPipe, ownLock, crosswise, gdbsQueue},
}

// healthy are sessions that live on while they are looked at, and then end.
var healthy = map[string]func(*round, func(pid int)){
	"terminal": healthyTerminal,
	"non-stop": healthyNonStop,
	"MI":       healthyMI,
	"remote":   healthyRemote,
	"Python":   healthyPython,
}

// deadlocked brings a deadlock about and explains it a few times.
func (r *round) deadlocked() {
	ways := deadlocks[r.ending]
	pid := ways[rand.IntN(len(ways))](r)
	for range 3 {
		time.Sleep(rand.N(200 * time.Millisecond))
		code, d, said := r.explained(pid)
		r.ends = strconv.Itoa(code)
		wrong := ""
		if code != 1 || d.Verdict != "hang" || len(d.Findings) != 1 || d.Findings[0].Rule != r.ending || d.Findings[0].Confidence != "certain" {
			wrong = fmt.Sprintf("exit code %d for pid %d: %s", code, pid, said)
		}
		r.held(toldDeadlock, wrong)
	}
}

// healthily has a session go its way, and explains it meanwhile.
func (r *round) healthily() {
	done := make(chan struct{})
	var looking sync.WaitGroup
	defer looking.Wait()
	defer close(done)
	healthy[r.ending](r, func(pid int) {
		looking.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(rand.N(150 * time.Millisecond)):
				}
				code, d, said := r.explained(pid)
				r.ends = strconv.Itoa(code)
				wrong := ""
				if code == 2 && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
					return
				}
				if code == 1 || len(d.Findings) > 0 || d.Verdict == "hang" { // 2: it is just starting or ending
					wrong = fmt.Sprintf("exit code %d for pid %d: %s", code, pid, said)
				}
				r.held(calm, wrong)
			}
		})
	})
}

// diagnosis is what is looked at of explain's JSON.
type diagnosis struct {
	Verdict  string
	Findings []struct{ Rule, Confidence string }
}

func (r *round) explained(pid int) (code int, d diagnosis, said string) {
	cmd := exec.Command(r.s.whosefd, "explain", "--format", "json", strconv.Itoa(pid))
	cmd.Env = scene.Environ(r.t)
	var out, says bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &says
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return -1, d, err.Error()
	}
	_ = json.Unmarshal(out.Bytes(), &d) // nothing is there if it could not look
	return cmd.ProcessState.ExitCode(), d, says.String() + out.String()
}

// asleep says in which call the first thread of a process sleeps, and how often it has
// done so; false if it runs.
func asleep(pid int) (call int, switches string, ok bool) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	line, err := os.ReadFile(dir + "syscall")
	status, err2 := os.ReadFile(dir + "status")
	if err != nil || err2 != nil || !strings.HasPrefix(field(string(status), "State"), "S") {
		return 0, "", false
	}
	number, _, _ := strings.Cut(string(line), " ")
	call, err = strconv.Atoi(number)
	return call, field(string(status), "voluntary_ctxt_switches") + " " + field(string(status), "nonvoluntary_ctxt_switches"), err == nil
}

// rests waits until a process sleeps in a call, any one if it is -1, and has not run for
// a while.
func (r *round) rests(pid, call int) {
	const while = 200 * time.Millisecond
	last, since := "", time.Now()
	scene.Eventually(r.t, fmt.Sprintf("pid %d sleeps in call %d", pid, call), func() bool {
		in, switches, ok := asleep(pid)
		if !ok || call >= 0 && in != call || switches != last {
			last, since = switches, time.Now()
			return false
		}
		return time.Since(since) > while
	})
}

func (r *round) python(code string) *scene.Process {
	return scene.Start(r.t, scene.Command{Path: "python3", Args: []string{"-c", code}})
}

func (r *round) number(match []string) int {
	n, err := strconv.Atoi(match[1])
	if err != nil {
		r.t.Fatalf("%v", err)
	}
	return n
}

func (r *round) attach(pid int, args ...string) *scene.Session {
	gdb := scene.StartGDB(r.t, scene.GDB{Args: append([]string{"-p", strconv.Itoa(pid)}, args...)})
	gdb.Expect(scene.Prompt)
	return gdb
}

func lockOfInferior(r *round) int {
	lock := filepath.Join(r.s.dir, fmt.Sprintf("lock-%d", rand.Uint64()))
	prog := r.python(`import fcntl, signal; f = open("` + lock + `", "w"); fcntl.flock(f, fcntl.LOCK_EX); print("locked", flush=True); signal.pause()`)
	prog.Expect("locked")
	gdb := r.attach(prog.PID)
	gdb.Send(`python import fcntl; f = open("` + lock + `", "w"); fcntl.flock(f, fcntl.LOCK_EX)`)
	r.rests(gdb.PID, syscall.SYS_FLOCK)
	return gdb.PID
}

// readerStopped is a program that reads the output of the gdb that debugs it.
func readerStopped(r *round) int {
	prog := r.python(`
import ctypes, os, subprocess
ctypes.CDLL(None).prctl(0x59616d61, -1, 0, 0, 0)
p = subprocess.Popen(["gdb", "-q", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-p", str(os.getpid()), "-ex", "python print('x' * 300000)"],
  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
print("pid", p.pid, flush=True)
p.stdout.read()`)
	gdb := r.number(prog.Expect(`pid (\d+)`))
	r.rests(gdb, syscall.SYS_WRITE)
	return gdb
}

func frontEndWaits(r *round) int {
	front := r.python(`
import subprocess
p = subprocess.Popen(["gdb", "-q", "-nx", "-i=mi"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
for line in p.stdout:
  if line.startswith(b"(gdb)"): break
print("pid", p.pid, flush=True)
p.wait()`)
	gdb := r.number(front.Expect(`pid (\d+)`))
	r.rests(gdb, -1) // in poll, or ppoll where there is no other
	r.rests(front.PID, syscall.SYS_WAIT4)
	return gdb
}

func eachOther(r *round) int {
	p := r.python(`
import os, socket
a, b = socket.socketpair()
pid = os.fork()
if pid == 0:
  a.close(); b.recv(1); os._exit(0)
b.close(); print("pid", pid, flush=True); a.recv(1)`)
	r.rests(r.number(p.Expect(`pid (\d+)`)), syscall.SYS_RECVFROM)
	r.rests(p.PID, syscall.SYS_RECVFROM)
	return p.PID
}

func callNeedsLock(r *round) int {
	prog := scene.Start(r.t, scene.Command{Path: r.s.holder})
	prog.Expect("held")
	gdb := r.attach(prog.PID)
	gdb.Command("set scheduler-locking on")
	gdb.Send("print bump()")
	r.rests(prog.PID, syscall.SYS_FUTEX)
	r.rests(gdb.PID, -1)
	return gdb.PID
}

// holder has a thread that holds the lock which bump takes.
const holder = `
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
int bump(void) { pthread_mutex_lock(&lock); pthread_mutex_unlock(&lock); return 42; }
static void *hold(void *x) { pthread_mutex_lock(&lock); puts("held"); fflush(stdout); for (;;) pause(); return x; }
int main(void) { pthread_t t; pthread_create(&t, 0, hold, 0); for (;;) pause(); }
`

func (r *round) restsAlone(call int, code string) int {
	p := r.python(code)
	r.rests(p.PID, call)
	return p.PID
}

func ownPipe(r *round) int {
	return r.restsAlone(syscall.SYS_READ, "import os; r, w = os.pipe(); os.read(r, 1)")
}

func ownFullPipe(r *round) int {
	return r.restsAlone(syscall.SYS_WRITE, "import os; r, w = os.pipe(); os.write(w, bytes(1 << 20))")
}

func ownLock(r *round) int {
	return r.restsAlone(syscall.SYS_FUTEX, "import threading; l = threading.Lock(); l.acquire(); print('locks', flush=True); l.acquire()")
}

func crosswise(r *round) int {
	p := r.python(`
import threading
a, b, both = threading.Lock(), threading.Lock(), threading.Barrier(3)
def f(x, y):
  with x:
    both.wait()
    with y: pass
for p in (a, b), (b, a): threading.Thread(target=f, args=p).start()
both.wait(); print("locked", flush=True)`)
	p.Expect("locked")
	r.rests(p.PID, syscall.SYS_FUTEX)
	return p.PID
}

func gdbsQueue(r *round) int {
	gdb := scene.StartGDB(r.t, scene.GDB{})
	gdb.Expect(scene.Prompt)
	gdb.Send("python import queue; queue.Queue().get()")
	r.rests(gdb.PID, syscall.SYS_FUTEX)
	return gdb.PID
}

// healthyTerminal is what people do at a terminal; the transcript must be as if nobody
// had looked.
func healthyTerminal(r *round, look func(pid int)) {
	gdb := r.s.start(r.t)
	look(gdb.PID)
	works(gdb)
	time.Sleep(rand.N(300 * time.Millisecond)) // at its prompt
	r.alone(gdb, gdb.Inferior())
	goesOn(gdb)
}

func healthyNonStop(r *round, look func(pid int)) {
	gdb := scene.StartGDB(r.t, scene.GDB{Args: []string{"-iex", "set non-stop on", "--args", filepath.Join(r.s.samples, "from_memory"), "--cure", "--threads", "3", "--wait"}})
	look(gdb.PID)
	gdb.Expect(scene.Prompt)
	gdb.Command("break main")
	gdb.Send("run")
	gdb.Expect("Breakpoint 1, ")
	for range 3 {
		gdb.Send("continue -a &")
		time.Sleep(rand.N(300 * time.Millisecond))
		gdb.Send("interrupt -a")
		time.Sleep(rand.N(300 * time.Millisecond))
		gdb.Send("info threads")
	}
	gdb.Send("kill")
	gdb.Send("quit")
	gdb.Wait()
}

// healthyMI is a front end that reads all that gdb says, and waits for its end at last.
func healthyMI(r *round, look func(pid int)) {
	front := r.python(`
import random, subprocess, time
p = subprocess.Popen(["gdb", "-q", "-nx", "-i=mi", "--args", "` + filepath.Join(r.s.samples, "from_memory") + `", "--cure", "--threads", "3", "--wait"],
  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
print("pid", p.pid, flush=True)
def until(what):
  for line in p.stdout:
    if line.startswith(what): return
def say(command, answer="^"):
  p.stdin.write(command + "\n"); p.stdin.flush()
  until(answer)
say("-gdb-set mi-async on")
say("-break-insert main")
say("-exec-run", "*stopped")
for i in range(10):
  say("-exec-next-instruction", "*stopped")
  time.sleep(random.random() / 10)
say("-thread-info")
say("-stack-list-frames")
say("-exec-continue", "*running")
time.sleep(random.random() / 2)
say("-exec-interrupt --all", "*stopped")
p.stdin.write("-gdb-exit\n"); p.stdin.flush()
p.stdout.read()
p.wait()
print("ended", flush=True)`)
	pid := r.number(front.Expect(`pid (\d+)`))
	look(pid)
	look(front.PID)
	front.Expect("ended")
}

func healthyRemote(r *round, look func(pid int)) {
	server := scene.Start(r.t, scene.Command{Path: "gdbserver", Args: []string{"--once", "127.0.0.1:0", filepath.Join(r.s.samples, "from_memory"), "--cure", "--threads", "3", "--wait"}})
	port := server.ExpectErr(`Listening on port (\d+)`)[1]
	gdb := scene.StartGDB(r.t, scene.GDB{Args: []string{"-ex", "target remote 127.0.0.1:" + port, filepath.Join(r.s.samples, "from_memory")}})
	look(gdb.PID)
	look(server.PID)
	gdb.Expect("Remote debugging using")
	gdb.Expect(scene.Prompt)
	gdb.Command("break main")
	gdb.Command("continue")
	gdb.Command(`python for i in range(50): gdb.execute("stepi", to_string=True)`)
	for range 3 {
		gdb.Send("continue")
		gdb.Expect("Continuing")
		time.Sleep(50*time.Millisecond + rand.N(300*time.Millisecond))
		gdb.Interrupt()
		gdb.Expect("received signal SIGINT")
		gdb.Expect(scene.Prompt)
	}
	gdb.Command("kill")
	gdb.Send("quit")
	gdb.Wait()
}

func healthyPython(r *round, look func(pid int)) {
	gdb := scene.StartGDB(r.t, scene.GDB{Args: []string{filepath.Join(r.s.samples, "from_memory")}})
	look(gdb.PID)
	gdb.Expect(scene.Prompt)
	for _, code := range []string{
		`import subprocess; subprocess.run(["sleep", "0.3"])`,
		`subprocess.run(["sh", "-c", "yes | head -c 3000000"], capture_output=True)`,
		`import threading, queue, time; q = queue.Queue(); t = threading.Thread(target=lambda: (time.sleep(0.3), q.put(1))); t.start(); q.get(); t.join()`,
		`import socket; a, b = socket.socketpair(); t = threading.Thread(target=lambda: (time.sleep(0.2), a.send(b"x"))); t.start(); b.recv(1); t.join()`,
		`l = threading.Lock(); l.acquire(); threading.Timer(0.2, l.release).start(); l.acquire()`,
		`sum(range(3000000))`,
		`gdb.execute("info functions", to_string=True)`,
	} {
		gdb.Command("python " + code)
	}
	gdb.Command("shell sleep 0.2")
	gdb.Send("quit")
	gdb.Wait()
}
