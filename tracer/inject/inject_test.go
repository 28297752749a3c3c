package inject

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/ptrace"
)

// blocked is a program that waits in a call, then says how that ended and what
// its callee-saved state and signals were.
const blocked = `
#define _GNU_SOURCE
#include <errno.h>
#include <fenv.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
static volatile sig_atomic_t got;
static void on(int s) { got += s; }
int main(int argc, char **argv) {
	struct sigaction sa = { .sa_handler = on, .sa_flags = SA_RESTART };
	sigaction(SIGUSR1, &sa, 0);
	static char own[65536];
	stack_t before = { .ss_sp = own, .ss_size = sizeof own }, after;
	sigset_t blocks, now;
	sigaltstack(&before, 0);
	sigemptyset(&blocks);
	sigaddset(&blocks, SIGUSR2);
	sigprocmask(SIG_SETMASK, &blocks, 0);
	fesetround(FE_UPWARD);
	int p[2];
	char buf[64] = "";
	if (pipe(p)) return 1;
	printf("ready %d\n", p[0]);
	fflush(stdout);
	long n = -9;
	errno = 0;
	if (argc > 1 && !strcmp(argv[1], "poll")) {
		struct pollfd f = { .fd = p[0], .events = POLLIN };
		n = poll(&f, 1, 700);
	} else if (argc > 1) {
		int e = epoll_create1(0);
		struct epoll_event ev = { .events = EPOLLIN };
		epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev);
		n = epoll_wait(e, &ev, 1, 700);
	} else {
		n = read(p[0], buf, sizeof buf - 1);
	}
	if (fegetround() != FE_UPWARD) printf("another rounding ");
	if (sigaltstack(0, &after) || after.ss_sp != own || after.ss_flags) printf("another stack ");
	if (sigprocmask(SIG_SETMASK, 0, &now) || !sigismember(&now, SIGUSR2) || sigismember(&now, SIGUSR1)) printf("another mask ");
	printf("n=%ld errno=%d got=%d buf=%s\n", n, errno, (int)got, buf);
	return 0;
}
`

type program struct {
	*exec.Cmd
	out *bufio.Reader
	fd  int
}

// build compiles the program, for all tests once.
var build = sync.OnceValues(func() (bin string, err error) {
	src := filepath.Join(folder, "blocked.c")
	if err := os.WriteFile(src, []byte(blocked), 0o600); err != nil {
		return "", err
	}
	bin = filepath.Join(folder, "blocked")
	if out, err := exec.Command("gcc", "-O1", "-o", bin, src, "-lm").CombinedOutput(); err != nil {
		return "", fmt.Errorf("gcc: %w\n%s", err, out)
	}
	return bin, nil
})

// folder is where it lies.
var folder string

func TestMain(m *testing.M) {
	var err error
	if folder, err = os.MkdirTemp("", "whosefd-inject-"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(folder)
	os.Exit(code)
}

// late writes into the pipe that the program reads, by the end of its own that it
// holds, and gives what it then says.
func (p *program) late(t *testing.T) string {
	t.Helper()
	w, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", p.Process.Pid, p.fd+1), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.WriteString("late")
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(p.out)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(rest))
}

func start(t *testing.T, args ...string) *program {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{Cmd: exec.Command(bin, args...)}
	pipe, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Process.Kill(); _ = p.Wait() })
	p.out = bufio.NewReader(pipe)
	line, err := p.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(line, "ready %d", &p.fd); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", p.Process.Pid))
		if err == nil && len(b) > 0 && b[0] != 'r' && b[0] != '-' {
			return p
		}
		if time.Now().After(deadline) {
			t.Fatalf("never blocked: %s %v", b, err)
		}
	}
}

// inside stops the program in the call nr, runs f and lets it go.
func (p *program) inside(t *testing.T, nr, arg0 uint64, f func(*Thread) error) error {
	t.Helper()
	tid := event.TID(p.Process.Pid)
	return ptrace.OnTracerThread(func() error {
		var m Linux
		if err := m.Seize(tid, ptrace.Options); err != nil {
			return err
		}
		if err := m.Interrupt(tid); err != nil {
			return err
		}
		stop, err := ptrace.AwaitStop(m, tid, within)
		if err != nil {
			return err
		}
		th, err := Begin(m, tid, stop.Signal, ptrace.Call{Nr: nr, Args: [6]uint64{arg0}})
		if err != nil {
			return errors.Join(err, m.Detach(tid, 0))
		}
		err = f(th)
		return errors.Join(err, th.End(), m.Detach(tid, 0))
	})
}

func TestReplaceDescriptor(t *testing.T) {
	p := start(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("right"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := p.inside(t, unix.SYS_READ, uint64(p.fd), func(th *Thread) error {
		at := int64(-100)
		fd, err := th.CallPath(unix.SYS_OPENAT, file, 1, uint64(at), 0, unix.O_RDONLY|unix.O_CLOEXEC)
		if err != nil {
			return fmt.Errorf("openat: %w", err)
		}
		// A signal in the middle must not be lost.
		if err := unix.Kill(p.Process.Pid, unix.SIGUSR1); err != nil {
			return err
		}
		if _, err := th.Call(unix.SYS_DUP3, uint64(fd), uint64(p.fd), unix.O_CLOEXEC); err != nil {
			return fmt.Errorf("dup3: %w", err)
		}
		if _, err := th.Call(unix.SYS_CLOSE, uint64(fd)); err != nil {
			return fmt.Errorf("close: %w", err)
		}
		if _, err := th.Call(unix.SYS_CLOSE, 999); !errors.Is(err, unix.EBADF) {
			return fmt.Errorf("close of a bad descriptor: %v, want EBADF", err)
		}
		if pid, err := th.Call(unix.SYS_GETPID); err != nil || pid != int64(p.Process.Pid) {
			return fmt.Errorf("getpid: %d, %v", pid, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(p.out)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(string(rest)), "n=5 errno=0 got=10 buf=right"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A call that the kernel restarts by other means, and one that reports EINTR
// for any interrupt, are not disturbed: both run to their time-out.
func TestOtherCallsGoOn(t *testing.T) {
	calls, err := decode.ForArch(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	// What the C library makes of it depends on the architecture.
	for name, made := range map[string][]string{"poll": {"poll", "ppoll"}, "epoll": {"epoll_wait", "epoll_pwait"}} {
		t.Run(name, func(t *testing.T) {
			if name == "epoll" && runtime.GOARCH == "arm64" {
				t.Skip("it ends with EINTR, and its first argument is lost")
			}
			p := start(t, name)
			nr, ok := calls.Number(made[0])
			if !ok {
				nr, _ = calls.Number(made[1])
			}
			arg0 := uint64(0)
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", p.Process.Pid))
			if err != nil {
				t.Fatal(err)
			}
			var got uint64
			if _, err := fmt.Sscanf(string(b), "%d %v", &got, &arg0); err != nil || got != nr {
				t.Fatalf("in call %s: %v", b, err)
			}
			err = p.inside(t, nr, arg0, func(th *Thread) error {
				_, err := th.Call(unix.SYS_GETPID)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			rest, _ := io.ReadAll(p.out)
			if got, want := strings.TrimSpace(string(rest)), "n=0 errno=0 got=0 buf="; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestNotInThatCall(t *testing.T) {
	p := start(t)
	err := p.inside(t, unix.SYS_READ, uint64(p.fd)+1, func(*Thread) error { return errors.New("must not run") })
	if !errors.Is(err, ErrNotInCall) {
		t.Errorf("got %v, want ErrNotInCall", err)
	}
	if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid)); !strings.Contains(string(b), "TracerPid:\t0") {
		t.Errorf("still traced:\n%s", b)
	}
}

// A call that does not end in time is broken off, and the thread goes on with
// its own.
func TestCallThatBlocks(t *testing.T) {
	p := start(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	err := p.inside(t, unix.SYS_READ, uint64(p.fd), func(th *Thread) error {
		at := int64(-100)
		if _, err := th.CallPath(unix.SYS_OPENAT, fifo, 1, uint64(at), 0, unix.O_RDONLY); !errors.Is(err, ptrace.ErrNoStop) {
			return fmt.Errorf("open of a FIFO that nobody writes: %v, want ErrNoStop", err)
		}
		if _, err := th.Call(unix.SYS_GETPID); !errors.Is(err, ptrace.ErrNoStop) {
			return fmt.Errorf("another call: %v, want ErrNoStop", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// It is in its read again.
	if got, want := p.late(t), "n=4 errno=0 got=0 buf=late"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
