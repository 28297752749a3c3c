package waits_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"whosefd/samples/scene"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
	"whosefd/tracer/waits"
)

// interpreter is the program itself: python3 may be a script that chooses one.
var interpreter = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output()
	return strings.TrimSpace(string(out)), err
})

// python runs a program that ends with the test; $D is a folder of its own.
func python(t *testing.T, code string) event.PID {
	t.Helper()
	python, err := interpreter()
	if err != nil {
		t.Fatal(err)
	}
	return start(t, exec.Command(python, "-c", strings.ReplaceAll(code, "$D", t.TempDir())))
}

// start starts a command in a process group of its own, which is killed at the end.
func start(t *testing.T, cmd *exec.Cmd) event.PID {
	t.Helper()
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	return event.PID(cmd.Process.Pid)
}

// compile builds a C program.
func compile(t *testing.T, source string) string {
	t.Helper()
	return scene.Compile(t, t.TempDir(), "prog.c", source, "gcc", "-g", "-O0", "-w", "-pthread")
}

// patience is more than any of the programs needs to get where it waits.
const patience = 30 * time.Second

// graph is what a search gave.
type graph struct {
	waits  []*event.Wait
	search *event.Search
}

func look(t *testing.T, pids ...event.PID) graph {
	t.Helper()
	calls, err := decode.ForArch(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	var g graph
	for _, ev := range waits.Search(procview.New("/proc"), pids, waits.Options{Calls: calls}) {
		switch ev := ev.(type) {
		case *event.Wait:
			g.waits = append(g.waits, ev)
		case *event.Search:
			g.search = ev
		}
	}
	return g
}

// until looks again and again until the graph is as it must become.
func until(t *testing.T, pid event.PID, ok func(graph) bool) graph {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		g := look(t, pid)
		if ok(g) {
			return g
		}
		if time.Now().After(deadline) {
			var b strings.Builder
			for _, w := range g.waits {
				line, _ := json.Marshal(w)
				fmt.Fprintf(&b, "%s\n", line)
			}
			line, _ := json.Marshal(g.search)
			t.Fatalf("not reached; the last look:\n%s%s", b.String(), line)
		}
	}
}

// on gives what a process's threads wait for with that operation.
func (g graph) on(pid event.PID, op event.AwaitOp) []event.Awaited {
	var all []event.Awaited
	for _, w := range g.waits {
		for _, on := range w.On {
			if w.PID == pid && on.Op == op {
				all = append(all, on)
			}
		}
	}
	return all
}

// ended says whether a process waits for an operation that these can end, and
// nobody else.
func (g graph) ended(pid event.PID, op event.AwaitOp, outside event.Outside, how ...event.EnderHow) bool {
	return slices.ContainsFunc(g.on(pid, op), func(on event.Awaited) bool {
		var got []event.EnderHow
		for _, e := range on.Enders {
			got = append(got, e.How)
		}
		return on.Outside == outside && slices.Equal(got, how)
	})
}

const child = "import os,time,sys,socket,select,signal,threading,fcntl,subprocess,ctypes\nc=ctypes.CDLL(None)\n"

// TestCalls has a process in each call, and what it waits for.
func TestCalls(t *testing.T) {
	for _, c := range []struct {
		name, code string
		op         event.AwaitOp
		outside    event.Outside
		how        []event.EnderHow
	}{
		{"read from its own pipe", "r,w=os.pipe(); os.read(r,1)", event.AwaitRead, "", []event.EnderHow{event.HowWriter}},
		{"write to a full pipe", "r,w=os.pipe(); os.write(w,bytes(1<<20))", event.AwaitWrite, "", []event.EnderHow{event.HowReader}},
		{"poll", "r,w=os.pipe(); p=select.poll(); p.register(r,select.POLLIN); p.poll()", event.AwaitRead, "", []event.EnderHow{event.HowWriter}},
		{"select", "r,w=os.pipe(); os.set_blocking(w,False)\ntry:\n while os.write(w,bytes(4096)): pass\nexcept BlockingIOError: pass\nselect.select([],[w],[])", event.AwaitWrite, "", []event.EnderHow{event.HowReader}},
		{"epoll", "r,w=os.pipe(); e=select.epoll(); e.register(r,select.EPOLLIN); e.poll()", event.AwaitRead, "", []event.EnderHow{event.HowWriter}},
		{"nested epoll", "r,w=os.pipe(); e=select.epoll(); e.register(r,select.EPOLLIN); f=select.epoll(); f.register(e,1); f.poll()", event.AwaitRead, "", []event.EnderHow{event.HowWriter}},
		{"pselect", "r,w=os.pipe(); s=(ctypes.c_ulong*16)(1<<r); c.pselect(r+1,s,None,None,None,None)", event.AwaitRead, "", []event.EnderHow{event.HowWriter}},
		{"eventfd", "e=c.eventfd(0,0); os.read(e,8)", event.AwaitRead, "", []event.EnderHow{event.HowWriter}},
		{"timer", "time.sleep(1000)", event.AwaitTimer, event.OutsideTimer, nil},
		{"select of nothing, for a time", "select.select([],[],[],1000)", event.AwaitTimer, event.OutsideTimer, nil},
		{"poll of nothing that is open, for a time", "p=select.poll(); v=(ctypes.c_int*2)(-1,1); c.poll(v,1,1000000)", event.AwaitTimer, event.OutsideTimer, nil},
		{"epoll of nothing, for a time", "select.epoll().poll(1000)", event.AwaitTimer, event.OutsideTimer, nil},
		{"select of nothing", "select.select([],[],[])", event.AwaitSignal, event.OutsideAnybody, nil},
		{"pause", "signal.pause()", event.AwaitSignal, event.OutsideAnybody, nil},
		{"sigwait", "signal.pthread_sigmask(0,[10]); signal.sigwait([10])", event.AwaitSignal, event.OutsideAnybody, nil},
		{"child", "p=subprocess.Popen(['sleep','1000']); p.wait()", event.AwaitChild, "", []event.EnderHow{event.HowChild}},
		{"any child", "p=subprocess.Popen(['sleep','1000']); os.wait()", event.AwaitChild, "", []event.EnderHow{event.HowChild}},
		{"waitid", "p=subprocess.Popen(['sleep','1000']); os.waitid(os.P_PID,p.pid,os.WEXITED)", event.AwaitChild, "", []event.EnderHow{event.HowChild}},
		{"pidfd", "p=subprocess.Popen(['sleep','1000']); f=c.syscall(434,p.pid,0); select.select([f],[],[])", event.AwaitChild, "", []event.EnderHow{event.HowChild}},
		{"the program itself holds its output", "p=subprocess.Popen(['sleep','1000'],stdout=subprocess.PIPE); p.stdout.read()", event.AwaitRead, "", []event.EnderHow{event.HowWriter}},
		{"flock", "f=open('$D/l','w'); fcntl.flock(f,2); g=open('$D/l','w'); fcntl.flock(g,2)", event.AwaitLock, "", []event.EnderHow{event.HowOwner}},
		{"posix lock", "f=open('$D/l','w'); fcntl.lockf(f,2)\nif os.fork()==0: fcntl.lockf(f,2)\nos.wait()", event.AwaitChild, "", []event.EnderHow{event.HowChild}},
		{"fifo", "os.mkfifo('$D/f'); open('$D/f')", event.AwaitOpen, event.OutsideAnybody, nil},
		{"fifo that is held", "os.mkfifo('$D/f'); f=os.open('$D/f',os.O_RDWR); os.read(f,1)", event.AwaitRead, event.OutsideAnybody, []event.EnderHow{event.HowWriter}},
		{"lock of one thread", "l=threading.Lock(); l.acquire(); l.acquire()", event.AwaitFutex, "", nil},
		{"join", "t=threading.Thread(target=time.sleep,args=(1000,)); t.start(); t.join()", event.AwaitFutex, "", []event.EnderHow{event.HowThread}},
		{"socket pair", "a,b=socket.socketpair(); a.recv(1)", event.AwaitRead, "", []event.EnderHow{event.HowPeer}},
		{"unix accept", "s=socket.socket(socket.AF_UNIX); s.bind('$D/s'); s.listen(); s.accept()", event.AwaitAccept, event.OutsideAnybody, nil},
		{"unix, not accepted", "s=socket.socket(socket.AF_UNIX); s.bind('$D/s'); s.listen(); d=socket.socket(socket.AF_UNIX); d.connect('$D/s'); d.recv(1)", event.AwaitRead, "", []event.EnderHow{event.HowListener}},
		{"unix connect", "s=socket.socket(socket.AF_UNIX); s.bind('$D/s'); s.listen(0)\nk=[]\nwhile 1:\n d=socket.socket(socket.AF_UNIX); d.connect('$D/s'); k.append(d)", event.AwaitConnect, "", []event.EnderHow{event.HowListener}},
		{"unix datagrams", "s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM); s.bind('$D/s'); s.recv(1)", event.AwaitRead, event.OutsideAnybody, nil},
		{"tcp", "s=socket.socket(); s.bind(('127.0.0.1',0)); s.listen(); d=socket.create_connection(s.getsockname()); e,_=s.accept(); d.recv(1)", event.AwaitRead, "", []event.EnderHow{event.HowPeer}},
		{"tcp, not accepted", "s=socket.socket(); s.bind(('127.0.0.1',0)); s.listen(); d=socket.create_connection(s.getsockname()); d.recv(1)", event.AwaitRead, "", []event.EnderHow{event.HowListener}},
		{"tcp, full", "s=socket.socket(); s.bind(('127.0.0.1',0)); s.listen(); d=socket.create_connection(s.getsockname()); e,_=s.accept(); d.sendall(bytes(1<<26))", event.AwaitWrite, "", []event.EnderHow{event.HowPeer}},
		{"udp", "s=socket.socket(type=socket.SOCK_DGRAM); s.bind(('127.0.0.1',0)); s.recv(1)", event.AwaitRead, event.OutsideAnybody, nil},
		{"udp, connected", "s=socket.socket(type=socket.SOCK_DGRAM); s.bind(('127.0.0.1',0)); d=socket.socket(type=socket.SOCK_DGRAM); d.bind(('127.0.0.1',0)); s.connect(d.getsockname()); d.connect(s.getsockname()); s.recv(1)", event.AwaitRead, "", []event.EnderHow{event.HowPeer}},
		{"terminal", "m,s=os.openpty(); os.read(s,1)", event.AwaitRead, "", []event.EnderHow{event.HowTerminal}},
		{"terminal's master", "m,s=os.openpty(); os.read(m,1)", event.AwaitRead, "", []event.EnderHow{event.HowTerminal}},
		{"full terminal", "m,s=os.openpty(); os.write(s,bytes(1<<20))", event.AwaitWrite, "", []event.EnderHow{event.HowTerminal}},
		{"message queue", "q=c.msgget(0,0o1600); b=ctypes.create_string_buffer(99); c.msgrcv(q,b,9,0,0)", event.AwaitQueue, event.OutsideAnybody, nil},
		{"semaphore", "q=c.semget(0,1,0o1600); b=(ctypes.c_short*3)(0,-1,0); c.semop(q,b,1)", event.AwaitSem, event.OutsideAnybody, nil},
		{"posix queue", "n=b'/whosefd-test-%d'%os.getpid(); q=c.mq_open(n,0o102,0o600,None); c.mq_unlink(n); b=ctypes.create_string_buffer(9000); c.mq_receive(q,b,9000,None)", event.AwaitQueue, event.OutsideAnybody, []event.EnderHow{event.HowWriter}},
		{"job control", "os.kill(os.getpid(),signal.SIGSTOP)", event.AwaitCont, event.OutsideAnybody, nil},
		{"inotify", "f=c.inotify_init(); os.read(f,1)", event.AwaitRead, event.OutsideAnybody, nil},
		{"timerfd", "f=c.timerfd_create(0,0); v=(ctypes.c_long*4)(0,0,1000,0); c.timerfd_settime(f,0,v,None); os.read(f,8)", event.AwaitTimer, event.OutsideTimer, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pid := python(t, child+c.code)
			g := until(t, pid, func(g graph) bool { return g.ended(pid, c.op, c.outside, c.how...) })
			if g.search == nil || g.search.Cut != "" {
				t.Errorf("the search: %+v", g.search)
			}
		})
	}
}

// Test32Bit has the calls of a 32-bit program, whose numbers and structures are others. The
// raw ones are those of programs that were built for times of 32 or of 64 bits.
func Test32Bit(t *testing.T) {
	scene.Require(t, "gcc -m32", "32-bit programs")
	prog := scene.Compile(t, t.TempDir(), "prog.c", `
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static void *hold(void *x) { pthread_mutex_lock(&m); for (;;) pause(); }
int main(int argc, char **argv)
{
	int p[2], s[2], e;
	static char big[1 << 20];
	long long wide[] = {1000, 0};
	long narrow[] = {1000, 0};
	pthread_t t;
	struct pollfd f[2];
	fd_set set;
	pipe(p);
	dup2(p[0], 40);
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	FD_ZERO(&set); FD_SET(40, &set);
	f[0].fd = -1; f[1].fd = p[0]; f[1].events = POLLIN;
#define CASE(name) else if (!strcmp(argv[1], name))
	if (0);
	CASE("read") read(p[0], big, 1);
	CASE("write") write(p[1], big, sizeof big);
	CASE("poll") poll(f, 2, -1);
	CASE("poll for 1000 s") poll(f, 2, 1000000);
	CASE("ppoll for 1000 s") ppoll(f, 2, (void *)narrow, 0);
	CASE("ppoll for 1000 s, wide") syscall(414, f, 2, wide, 0, 0);
	CASE("select") select(41, &set, 0, 0, 0);
	CASE("select for 1000 s") syscall(SYS__newselect, 41, &set, 0, 0, narrow);
	CASE("pselect for 1000 s, wide") syscall(413, 41, &set, 0, 0, wide, 0);
	CASE("epoll") { e = epoll_create1(0); struct epoll_event v = {EPOLLIN}; epoll_ctl(e, EPOLL_CTL_ADD, p[0], &v); epoll_wait(e, &v, 1, -1); }
	CASE("sleep 1000 s") sleep(1000);
	CASE("sleep 1000 s, narrow") syscall(SYS_nanosleep, narrow, 0);
	CASE("recv") recv(s[0], big, 1, 0);
	CASE("send") send(s[0], big, sizeof big, 0);
	CASE("recvmsg") { struct msghdr h = {0}; struct iovec v = {big, 1}; h.msg_iov = &v; h.msg_iovlen = 1; recvmsg(s[0], &h, 0); }
	CASE("recvfrom itself") syscall(371, s[0], big, 1, 0, 0, 0);
	CASE("accept") { e = socket(AF_UNIX, SOCK_STREAM, 0); struct sockaddr_un a = {AF_UNIX}; strcpy(a.sun_path, argv[2]); bind(e, (void *)&a, sizeof a); listen(e, 1); accept(e, 0, 0); }
	CASE("child") { if (!fork()) for (;;) pause(); wait(0); }
	CASE("flock") { flock(open(argv[2], O_RDWR | O_CREAT, 0600), LOCK_EX); flock(open(argv[2], O_RDWR), LOCK_EX); }
	CASE("fifo") { mkfifo(argv[2], 0600); open(argv[2], O_RDONLY); }
	CASE("mutex") { pthread_mutex_lock(&m); pthread_mutex_lock(&m); }
	CASE("mutex of a thread") { pthread_create(&t, 0, hold, 0); usleep(300000); pthread_mutex_lock(&m); }
	CASE("join") { pthread_create(&t, 0, hold, 0); pthread_join(t, 0); }
	CASE("semaphore") { struct sembuf b = {0, -1}; semop(semget(IPC_PRIVATE, 1, 01600), &b, 1); }
	CASE("message") msgrcv(msgget(IPC_PRIVATE, 01600), big, 9, 0, 0);
	CASE("pause") pause();
	puts("ended");
	return 1;
}`, "gcc", "-m32", "-g", "-O0", "-w", "-pthread")
	for _, c := range []struct {
		name    string
		op      event.AwaitOp
		outside event.Outside
		how     []event.EnderHow
	}{
		{"read", event.AwaitRead, "", []event.EnderHow{event.HowWriter}},
		{"write", event.AwaitWrite, "", []event.EnderHow{event.HowReader}},
		{"poll", event.AwaitRead, "", []event.EnderHow{event.HowWriter}},
		{"poll for 1000 s", event.AwaitRead, "", []event.EnderHow{event.HowWriter}},
		{"ppoll for 1000 s", event.AwaitRead, "", []event.EnderHow{event.HowWriter}},
		{"ppoll for 1000 s, wide", event.AwaitRead, "", []event.EnderHow{event.HowWriter}},
		{"select", event.AwaitRead, "", []event.EnderHow{event.HowWriter}},
		{"select for 1000 s", event.AwaitRead, "", []event.EnderHow{event.HowWriter}},
		{"pselect for 1000 s, wide", event.AwaitRead, "", []event.EnderHow{event.HowWriter}},
		{"epoll", event.AwaitRead, "", []event.EnderHow{event.HowWriter}},
		{"sleep 1000 s", event.AwaitTimer, event.OutsideTimer, nil},
		{"sleep 1000 s, narrow", event.AwaitTimer, event.OutsideTimer, nil},
		{"recv", event.AwaitRead, "", []event.EnderHow{event.HowPeer}},
		{"send", event.AwaitWrite, "", []event.EnderHow{event.HowPeer}},
		{"recvmsg", event.AwaitRead, "", []event.EnderHow{event.HowPeer}},
		{"recvfrom itself", event.AwaitRead, "", []event.EnderHow{event.HowPeer}},
		{"accept", event.AwaitAccept, event.OutsideAnybody, nil},
		{"child", event.AwaitChild, "", []event.EnderHow{event.HowChild}},
		{"flock", event.AwaitLock, "", []event.EnderHow{event.HowOwner}},
		{"fifo", event.AwaitOpen, event.OutsideAnybody, nil},
		{"mutex", event.AwaitFutex, "", []event.EnderHow{event.HowOwner}},
		{"mutex of a thread", event.AwaitFutex, "", []event.EnderHow{event.HowOwner}},
		{"join", event.AwaitThread, "", []event.EnderHow{event.HowOwner}},
		{"semaphore", event.AwaitSem, event.OutsideAnybody, nil},
		{"message", event.AwaitQueue, event.OutsideAnybody, nil},
		{"pause", event.AwaitSignal, event.OutsideAnybody, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pid := start(t, exec.Command(prog, c.name, filepath.Join(t.TempDir(), "file")))
			until(t, pid, func(g graph) bool {
				timeout := g.waits[0].TimeoutUS
				ends := strings.Contains(c.name, "1000 s")
				return g.ended(pid, c.op, c.outside, c.how...) && timeout.Known == ends && (!ends || timeout.Val > 9e8 && timeout.Val <= 1e9)
			})
		})
	}
}

// TestTimeout has calls that end by themselves.
func TestTimeout(t *testing.T) {
	for _, c := range []struct {
		name, code string
		exact      bool
	}{
		{"poll", "r,w=os.pipe(); p=select.poll(); p.register(r); p.poll(1e6)", true},
		{"select", "r,w=os.pipe(); select.select([r],[],[],1000)", true},
		{"sleep", "c.sleep(1000)", true},
		{"epoll", "r,w=os.pipe(); e=select.epoll(); e.register(r); e.poll(1000)", true},
		{"a point of time", "l=threading.Lock(); l.acquire(); l.acquire(timeout=1000)", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pid := python(t, child+c.code)
			until(t, pid, func(g graph) bool {
				got := g.waits[0].TimeoutUS
				return got.Known && (got.Val == 1e9 || !c.exact && got.Val > 9e8 && got.Val < 1e9)
			})
		})
	}
}

// TestCircle follows the enders until it closes.
func TestCircle(t *testing.T) {
	pid := python(t, child+`
a,b=socket.socketpair()
if os.fork()==0:
  a.close(); b.recv(1); os._exit(0)
b.close(); a.recv(1)`)
	g := until(t, pid, func(g graph) bool {
		return len(g.waits) == 2 && !g.waits[0].Moved && !g.waits[1].Moved && g.ended(pid, event.AwaitRead, "", event.HowPeer) &&
			g.ended(g.waits[1].PID, event.AwaitRead, "", event.HowPeer)
	})
	if e := g.on(g.waits[1].PID, event.AwaitRead)[0].Enders[0]; e.PID != pid || e.Comm != "python3" {
		t.Errorf("the other waits for %+v", e)
	}
}

// TestOtherNetwork has the two sides of a connection in two network namespaces, and
// sockets of another namespace than that of their process.
func TestOtherNetwork(t *testing.T) {
	scene.Require(t, "root", "network namespaces")
	const begin = child + `
new=lambda: c.unshare(0x40000000) and sys.exit('unshare')
def sh(s): subprocess.run(s, shell=True, check=True)
r,w=os.pipe(); v,u=os.pipe()
new()
pid=os.fork()
if pid==0:
  new(); os.write(w,b'1'); os.read(v,1)
  sh('ip addr add 10.1.1.2/24 dev v1; ip link set v1 up'); s=socket.socket(); s.bind(('10.1.1.2',0)); s.listen()
  os.write(w,s.getsockname()[1].to_bytes(2,'big')); os.close(w); os.close(r); os.close(u); os.close(v)
  %s
os.read(r,1); sh('ip link add v0 type veth peer name v1; ip link set v1 netns %%d; ip addr add 10.1.1.1/24 dev v0; ip link set v0 up'%%pid); os.write(u,b'1')
port=int.from_bytes(os.read(r,2),'big'); os.close(w); os.close(r); os.close(u); os.close(v)
d=socket.create_connection(('10.1.1.2',port))
d.recv(1)`
	t.Run("circle", func(t *testing.T) {
		t.Parallel()
		pid := python(t, fmt.Sprintf(begin, "e,_=s.accept(); s.close(); e.recv(1)"))
		until(t, pid, func(g graph) bool {
			if !g.ended(pid, event.AwaitRead, "", event.HowPeer) {
				return false
			}
			other := g.on(pid, event.AwaitRead)[0].Enders[0].PID
			return other != pid && g.ended(other, event.AwaitRead, "", event.HowPeer) && g.on(other, event.AwaitRead)[0].Enders[0].PID == pid
		})
	})
	t.Run("not accepted", func(t *testing.T) {
		t.Parallel()
		pid := python(t, fmt.Sprintf(begin, "signal.pause()"))
		until(t, pid, func(g graph) bool { return g.ended(pid, event.AwaitRead, "", event.HowListener) })
	})
	t.Run("a listener of the same port", func(t *testing.T) { // is not where the connection goes
		t.Parallel()
		pid := python(t, strings.Replace(fmt.Sprintf(begin, "e,_=s.accept(); s.close(); e.recv(1)"), "d=socket.create", "l=socket.create_server(('',port)); d=socket.create", 1))
		until(t, pid, func(g graph) bool { return g.ended(pid, event.AwaitRead, "", event.HowPeer) })
		pid = python(t, child+`
c.unshare(0x40000000); subprocess.run('ip link add v0 type veth peer name v1; ip addr add 10.1.1.1/24 dev v0; ip link set v0 up; ip link set v1 up; ip neigh add 10.1.1.2 lladdr 02:00:00:00:00:01 dev v0', shell=True)
l=socket.create_server(('',7)); socket.create_connection(('10.1.1.2',7))`)
		until(t, pid, func(g graph) bool { return g.ended(pid, event.AwaitConnect, event.OutsideHost) })
	})
	t.Run("a socket from elsewhere", func(t *testing.T) {
		t.Parallel()
		pid := python(t, child+"a,b=socket.socketpair()\nif os.fork()==0:\n a.close(); b.recv(1)\nb.close(); c.unshare(0x40000000); a.recv(1)")
		until(t, pid, func(g graph) bool { return g.ended(pid, event.AwaitRead, "", event.HowPeer) })
	})
}

// TestMutex has the owner that glibc writes into a mutex: another thread, the
// thread itself, one that is gone, and for the kinds of mutexes.
func TestMutex(t *testing.T) {
	prog := compile(t, `
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>
static pthread_mutex_t *m;
static void *hold(void *x) { pthread_mutex_lock(m); if (x) return 0; for (;;) pause(); }
static void *nothing(void *x) { for (;;) pause(); }
int main(int argc, char **argv)
{
	pthread_t t;
	pthread_mutexattr_t a;
	pthread_mutexattr_init(&a);
	m = mmap(0, 4096, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS, -1, 0);
	if (strstr(argv[1], "pi")) pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
	if (strstr(argv[1], "robust")) pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	if (strstr(argv[1], "shared")) pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	if (strstr(argv[1], "recursive")) pthread_mutexattr_settype(&a, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(m, &a);
	if (strstr(argv[1], "self")) pthread_mutex_lock(m);
	else if (strstr(argv[1], "fork")) { if (!fork()) { hold(0); } usleep(300000); }
	else if (strstr(argv[1], "join")) { pthread_create(&t, 0, nothing, 0); pthread_join(t, 0); }
	else { pthread_create(&t, 0, hold, strstr(argv[1], "gone")); usleep(300000); }
	pthread_mutex_lock(m);
	return 0;
}`)
	for kind, want := range map[string]string{"normal": "thread", "recursive": "thread", "pi": "thread", "robust": "thread", "self": "itself",
		"gone": "nobody", "shared": "thread", "shared-fork": "child", "shared-fork-robust": "child", "shared-fork-pi": "child", "join": "joined"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			pid := start(t, exec.Command(prog, kind))
			until(t, pid, func(g graph) bool {
				if want == "joined" {
					return g.ended(pid, event.AwaitThread, "", event.HowOwner)
				}
				ons := g.on(pid, event.AwaitFutex)
				if len(ons) != 1 {
					return false
				}
				if want == "nobody" {
					return len(ons[0].Enders) == 0 && ons[0].Outside == "" && ons[0].ID.Known
				}
				if len(ons[0].Enders) != 1 {
					return false
				}
				e := ons[0].Enders[0]
				switch want {
				case "thread":
					return e.PID == pid && e.TID != 0 && e.TID != event.TID(pid)
				case "itself":
					return e.PID == pid && e.TID == event.TID(pid)
				}
				return e.PID != pid && e.TID == event.TID(e.PID)
			})
		})
	}
}

// TestShared has a semaphore in memory of two processes.
func TestShared(t *testing.T) {
	pid := start(t, exec.Command(compile(t, `
#include <semaphore.h>
#include <unistd.h>
#include <sys/mman.h>
int main(void)
{
	sem_t *s = mmap(0, 4096, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS, -1, 0);
	sem_init(s, 1, 0);
	if (!fork()) for (;;) pause();
	return sem_wait(s);
}`)))
	until(t, pid, func(g graph) bool { return g.ended(pid, event.AwaitFutex, "", event.HowMapping) })
}

// TestVfork has a parent that is kept by its child.
func TestVfork(t *testing.T) {
	pid := start(t, exec.Command(compile(t, `
#include <unistd.h>
int main(void) { if (!vfork()) for (;;) pause(); return 0; }`)))
	until(t, pid, func(g graph) bool { return g.ended(pid, event.AwaitVfork, "", event.HowChild) })
}

// TestOFDLock has a lock that belongs to an open file, which a child has inherited.
func TestOFDLock(t *testing.T) {
	pid := start(t, exec.Command(compile(t, `
#define _GNU_SOURCE
#include <fcntl.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	struct flock l = { .l_type = F_WRLCK };
	int a = open(argv[1], O_RDWR|O_CREAT, 0600), b = open(argv[1], O_RDWR);
	fcntl(a, F_OFD_SETLK, &l);
	if (!fork()) for (;;) pause();
	close(a);
	return fcntl(b, F_OFD_SETLKW, &l);
}`), filepath.Join(t.TempDir(), "lock")))
	until(t, pid, func(g graph) bool {
		return g.ended(pid, event.AwaitLock, "", event.HowOwner) && g.on(pid, event.AwaitLock)[0].Enders[0].PID != pid
	})
}

// TestRestarted has a call that the kernel goes on with under another name.
func TestRestarted(t *testing.T) {
	pid := python(t, child+"r,w=os.pipe(); p=select.poll(); p.register(r,select.POLLIN); p.poll()")
	waiting := func(g graph) bool { return g.ended(pid, event.AwaitRead, "", event.HowWriter) }
	until(t, pid, waiting)
	_ = syscall.Kill(int(pid), syscall.SIGSTOP)
	until(t, pid, func(g graph) bool {
		return g.ended(pid, event.AwaitCont, event.OutsideAnybody) && g.waits[0].StopSignal == "SIGSTOP"
	})
	_ = syscall.Kill(int(pid), syscall.SIGCONT)
	until(t, pid, waiting)
}

// TestMoved says that a thread has run between the two looks, if it has.
func TestMoved(t *testing.T) {
	pid := python(t, child+"while 1: time.sleep(0.0001)")
	until(t, pid, func(g graph) bool { return g.waits[0].Moved })
	pid = python(t, child+"signal.pause()")
	until(t, pid, func(g graph) bool { return g.ended(pid, event.AwaitSignal, event.OutsideAnybody) && !g.waits[0].Moved })
}

// TestWoken has a thread that is woken between the two looks, and has not slept again.
func TestWoken(t *testing.T) {
	python, err := interpreter()
	if err != nil {
		t.Fatal(err)
	}
	calls, err := decode.ForArch(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "-c", "import os; os.read(0, 1)\nwhile 1: pass")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	pid := start(t, cmd)
	until(t, pid, func(g graph) bool { return g.ended(pid, event.AwaitRead, "", event.HowWriter) && !g.waits[0].Moved })
	v := procview.New("/proc")
	index := func() (*procview.Index, error) { // it has been looked at
		_, err := in.Write([]byte{1})
		scene.Eventually(t, "it runs", func() bool { state, _ := v.State(pid, event.TID(pid)); return state == "R" })
		return &procview.Index{}, err
	}
	w, ok := waits.Search(v, []event.PID{pid}, waits.Options{Calls: calls, Index: index})[0].(*event.Wait)
	if !ok || w.State != "S" || !w.Moved {
		t.Errorf("%+v", w)
	}
}

// TestBusy measures a thread that computes.
func TestBusy(t *testing.T) {
	pid := python(t, "while 1: pass")
	until(t, pid, func(g graph) bool {
		w := g.waits[0]
		return w.State == "R" && !w.Moved && w.BusyUS.Val > 0 && w.SampledUS.Val > 0 && w.CPUUS.Known
	})
	const files = child + "a=open('$D/a','w+'); a.truncate(1<<40); b=os.open('$D/b',os.O_RDWR|os.O_CREAT); os.truncate(b,1<<30)\n"
	for code, want := range map[string]struct{ access, name string }{
		"while 1: pass":         {"", "/a"}, // the largest
		"while 1: os.read(b,1)": {"r", "/b"},
	} {
		pid := python(t, files+code)
		until(t, pid, func(g graph) bool {
			w := g.waits[0]
			if w.State != "R" || len(w.On) != 1 {
				return false
			}
			on := w.On[0]
			return on.Op == event.AwaitCPU && on.Access == want.access && strings.HasSuffix(string(on.Target.Link), want.name)
		})
	}
}

// TestBounds cuts the search, and says so.
func TestBounds(t *testing.T) {
	pid := python(t, child+"for i in range(6):\n if os.fork(): os.wait(); break\nsignal.pause()")
	until(t, pid, func(g graph) bool { return len(g.waits) == 7 })
	calls, err := decode.ForArch(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []waits.Options{{Processes: 3}, {Depth: 2}, {Within: 1}} {
		o.Calls = calls
		events := waits.Search(procview.New("/proc"), []event.PID{pid}, o)
		last, ok := events[len(events)-1].(*event.Search)
		if !ok || last.Cut == "" || len(events) > 4 {
			t.Errorf("%+v: %d events, %+v", o, len(events), last)
		}
	}
}

// TestForeignTerminal tells the terminal of the user from one that something else is
// connected to, as gdb's "target remote /dev/ttyS0" has it.
func TestForeignTerminal(t *testing.T) {
	pid := python(t, child+"m,s=os.openpty(); os.dup2(s,0); m2,s2=os.openpty(); select.select([0,s2],[],[])")
	until(t, pid, func(g graph) bool {
		on := g.on(pid, event.AwaitRead)
		return len(on) == 2 && !on[0].Foreign && on[1].Foreign
	})
}

// TestFrozen has a program whose cgroup is frozen: it sleeps in the call that it was in.
func TestFrozen(t *testing.T) {
	pid := python(t, child+"r,w=os.pipe(); os.read(r,1)")
	until(t, pid, func(g graph) bool { return g.ended(pid, event.AwaitRead, "", event.HowWriter) })
	cgroup := freeze(t, pid)
	until(t, pid, func(g graph) bool {
		return g.ended(pid, event.AwaitThaw, event.OutsideAnybody) && string(g.on(pid, event.AwaitThaw)[0].Path) == cgroup
	})
}

// freeze puts a process into a cgroup of its own that is frozen until the end of the
// test (cgroups(7)), and gives its path.
func freeze(t *testing.T, pid event.PID) string {
	t.Helper()
	name := fmt.Sprintf("/whosefd-test-%d", pid)
	var failed error
	for _, kind := range []struct{ root, file, frozen, thawed string }{
		{"/sys/fs/cgroup", "cgroup.freeze", "1", "0"},
		{"/sys/fs/cgroup/freezer", "freezer.state", "FROZEN", "THAWED"},
	} {
		dir := kind.root + name
		if failed = os.Mkdir(dir, 0o755); failed != nil {
			continue
		}
		remove := func() bool { return os.Remove(dir) == nil }
		if _, failed = os.Stat(filepath.Join(dir, kind.file)); failed != nil { // no cgroup
			remove()
			continue
		}
		put := func(file, text string) error { return os.WriteFile(filepath.Join(dir, file), []byte(text), 0) }
		t.Cleanup(func() {
			_ = put(kind.file, kind.thawed)
			_ = syscall.Kill(int(pid), syscall.SIGKILL)
			scene.Eventually(t, "the cgroup is empty", remove)
		})
		if failed = put("cgroup.procs", strconv.Itoa(int(pid))); failed != nil {
			break
		}
		if err := put(kind.file, kind.frozen); err != nil {
			t.Fatal(err)
		}
		return name
	}
	scene.Skip(t, "a cgroup of its own", failed)
	return ""
}

// TestSupervised has a call that another process must allow: seccomp_unotify(2).
func TestSupervised(t *testing.T) {
	parent := start(t, exec.Command(compile(t, `
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void) {
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	struct sock_filter f[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
	struct sock_fprog p = {sizeof f / sizeof *f, f};
	int fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &p);
	if (fd < 0)
		return 1;
	if (fork() == 0) {
		close(fd);
		syscall(SYS_getppid);
		_exit(0);
	}
	for (;;)
		pause();
}`)))
	var asks event.PID
	scene.Eventually(t, "the child is there", func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		asks = event.PID(n)
		return err == nil
	})
	until(t, asks, func(g graph) bool {
		on := g.on(asks, event.AwaitPermit)
		return len(on) == 1 && slices.ContainsFunc(on[0].Enders, func(e event.Ender) bool { return e.PID == parent })
	})
}
