package tracer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"whosefd/samples/scene"
	"whosefd/tracer/cpu"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
	"whosefd/tracer/ptrace"
)

// checked is a program that says if a call of its own goes wrong, or its CPU
// mask or registers are not its own.
const checked = `
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static void *work(void *end) {
	char buf[100];
	while (!__atomic_load_n((int *)end, __ATOMIC_RELAXED)) {
		int fd = open("/dev/zero", O_RDONLY);
		if (fd < 0 || read(fd, buf, 100) != 100 || close(fd)) { printf("%s\n", strerror(errno)); fflush(stdout); _exit(2); }
	}
	return 0;
}
int main(void) {
	pthread_t t[3];
	int end = 0;
	char c;
	cpu_set_t before, after;
	sched_getaffinity(0, sizeof before, &before);
	for (int i = 0; i < 3; i++) pthread_create(&t[i], 0, work, &end);
	printf("ready\n"); fflush(stdout);
	long n = read(0, &c, 1);
	__atomic_store_n(&end, 1, __ATOMIC_RELAXED);
	for (int i = 0; i < 3; i++) {
		pthread_getaffinity_np(t[i], sizeof after, &after);
		if (!CPU_EQUAL(&before, &after)) printf("another mask\n");
		pthread_join(t[i], 0);
	}
	printf("read %ld\n", n);
	return 0;
}`

// keeperHere runs the keeper in this process.
func keeperHere() (io.Writer, func()) {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() { cpu.Keep(r); close(done) }()
	return w, func() { _ = w.Close(); <-done }
}

// Whoever takes the events panics: the program runs on as if nothing had been.
func TestPanicOfEmit(t *testing.T) {
	bin := compile(t, checked)
	for _, at := range []int{1, 2, 20, 200, 1000} {
		for _, always := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d %v", at, always), func(t *testing.T) {
				in, out, cmd := talking(t, bin)
				keeper, keep := keeperHere()
				n := 0
				_, err := Trace(t.Context(), TraceOptions{View: procview.New("/proc"), PID: event.PID(cmd), Keeper: keeper,
					Emit: func(event.Event) error {
						if n++; n == at || always && n > at {
							panic("injected")
						}
						return nil
					}})
				keep()
				var internal *InternalError
				if !errors.As(err, &internal) || internal.Error() != "internal error: injected" || !strings.Contains(string(internal.Stack), "panic_test.go") {
					t.Errorf("error %v", err)
				}
				if tracer, err := procview.New("/proc").TracerOf(event.PID(cmd)); err != nil || tracer != 0 {
					t.Errorf("traced by %d, %v", tracer, err)
				}
				if _, err := in.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if rest, err := io.ReadAll(out); err != nil || string(rest) != "read 1\n" {
					t.Errorf("the program said %q, %v", rest, err)
				}
			})
		}
	}
}

// talking starts a program whose first line is "ready".
func talking(t *testing.T, bin string) (io.Writer, *bufio.Reader, int) {
	t.Helper()
	cmd := exec.Command(bin)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	out := bufio.NewReader(pipe)
	if line, err := out.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%q %v", line, err)
	}
	return in, out, cmd.Process.Pid
}

// explosive is a guard that panics when it has led a call elsewhere, and again
// when it is told to leave.
type explosive struct {
	*guard
	left int
	led  bool
}

func (e *explosive) Enter(t *ptrace.Thread, arch uint32) {
	e.guard.Enter(t, arch)
	if e.callOf(t).led == nil {
		return
	}
	if e.left--; e.left < 0 {
		e.led = true
		panic("injected")
	}
}

func (e *explosive) Leave(t *ptrace.Thread) {
	e.guard.Leave(t)
	panic("injected")
}

// A panic while a call is led elsewhere: the call is made as the debugger meant it.
func TestPanicWhileLed(t *testing.T) {
	scene.Require(t, "ptrace")
	opened := func(watch func(pid int)) string {
		p := scene.StartSample(t, "from_memory", "--fd", "60", "--wait")
		inferior := p.WaitReady()
		// Not a child of this process, whose waiting for it would meet its stops.
		d := scene.Start(t, scene.Command{Path: "sh", Args: []string{"-c", `"$@"; true`, "sh",
			filepath.Join(scene.Build(t), "small_debugger"), "--wait", strconv.Itoa(inferior)}})
		pid := d.WaitReady()
		ended := make(chan struct{})
		if watch == nil {
			close(ended)
		} else {
			go func() { defer close(ended); watch(pid) }()
			waitFor(t, func() bool {
				tracer, err := procview.New("/proc").TracerOf(event.PID(pid))
				return err == nil && tracer != 0
			})
		}
		if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ended:
		case <-time.After(scene.Patience):
			t.Fatal("the guard did not end")
		}
		d.Expect(`/proc/self/fd/60[^\n]*\n`)
		return regexp.MustCompile(`\d{3,}`).ReplaceAllString(d.Out(), "N")
	}
	want := opened(nil)
	for _, panics := range []bool{false, true} {
		var e *explosive
		got := opened(func(pid int) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err := ptrace.OnTracerThread(func() error {
				view := procview.New("/proc")
				calls, err := decode.ForArch(Arch)
				if err != nil {
					return err
				}
				s := &session{o: TraceOptions{View: view, Emit: func(event.Event) error { return nil }}, start: time.Now(),
					loop: &ptrace.Loop{Kernel: ptrace.Linux{}, TGID: view.TGID}}
				s.loop.ListTasks = s.liveThreads
				in := newInferiors(view, event.PID(pid), nil, s.now, s.emit)
				rec := newRecorder(view, calls, s.start, event.PID(pid), in, s.emit)
				defer rec.close()
				rec.cpu = cpu.New(view, event.PID(pid), event.Opt[int]{}, nil)
				e = &explosive{guard: newGuard(rec, &GuardOptions{}, s.loop.Stop), left: 1 << 30}
				if panics {
					e.left = 0
				}
				s.loop.Handler = e
				stop, err := s.stopper(ctx)
				if err != nil {
					return err
				}
				defer stop()
				if err := s.loop.Attach(event.PID(pid)); err != nil {
					return err
				}
				_, err = s.loop.Run()
				return err
			})
			if err == nil || !strings.Contains(err.Error(), "internal error: injected") {
				t.Errorf("error %v", err)
			}
			if tracer, err := procview.New("/proc").TracerOf(event.PID(pid)); err != nil || tracer != 0 {
				t.Errorf("traced by %d, %v", tracer, err)
			}
		})
		if e.led != panics {
			t.Fatalf("a call was led elsewhere: %v", e.led)
		}
		if (got == want) != panics {
			t.Errorf("with a panic: %v: it says\n%s, and alone\n%s", panics, got, want)
		}
	}
}
