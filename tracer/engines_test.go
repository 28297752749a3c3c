package tracer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"whosefd/samples/scene"
	"whosefd/tracer/decode"
	"whosefd/tracer/ebpf"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// manyCalls is a program whose calls are the same each time: names, descriptors
// and memory of all sorts, in threads, before and behind an exec, and with a
// child, whose calls are nobody's business.
const manyCalls = `
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
static void *in_thread(void *arg) {
	char b[10];
	int fd = open(arg, O_RDONLY);
	if (read(fd, b, sizeof b) < 0) exit(9);
	close(fd);
	return 0;
}
int main(int argc, char **argv) {
	char *dir = argv[1], b[8192], name[300];
	struct stat st;
	struct statx stx;
	if (argc > 2 && !strcmp(argv[2], "wait")) {
		puts("ready"); fflush(stdout);
		if (read(0, b, 1) != 1) return 8;
	}
	if (chdir(dir)) return 1;
	int fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0640);
	if (write(fd, "\177ELF, or what begins so", 20) != 20) return 2;
	lseek(fd, 0, SEEK_SET);
	if (read(fd, b, 16) != 16) return 3;
	pread(fd, b, 4, 2);
	struct iovec v[3] = { { b, 2 }, { b + 100, 3 }, { b + 200, 50 } };
	lseek(fd, 0, SEEK_SET);
	readv(fd, v, 3);
	preadv(fd, v, 2, 1);
	int mem = open("/proc/self/mem", O_RDONLY);
	pread(mem, b, 300, (off_t)b);
	preadv(mem, v, 3, (off_t)b);
	struct iovec far[2] = { { dir, 4 }, { name, 4 } };
	process_vm_readv(getpid(), v, 3, far, 2, 0);
	close(mem);
	fstat(fd, &st);
	stat("file", &st);
	lstat("/proc/self/fd", &st);
	fstatat(fd, "", &st, AT_EMPTY_PATH);
	statx(AT_FDCWD, "file", 0, STATX_ALL, &stx);
	access("nothing", R_OK);
	open("nothing", O_RDONLY);
	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	readlink(name, b, sizeof b);
	int again = open(name, O_RDONLY | O_CLOEXEC);
	void *p = mmap(0, 4096, PROT_READ, MAP_PRIVATE, again, 0);
	munmap(p, 4096);
	dup2(again, 70);
	dup3(again, 71, O_CLOEXEC);
	fcntl(again, F_DUPFD, 80);
	fcntl(again, F_DUPFD_CLOEXEC, 90);
	fcntl(again, F_GETFD);
	int pipes[2], pair[2];
	if (pipe(pipes) || socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return 4;
	write(pipes[1], "abc", 3);
	read(pipes[0], b, 3);
	read(500, b, 3);
	read(fd, (void *)1, 3);
	open((void *)1, O_RDONLY);
	int ep = epoll_create1(0), ev = eventfd(7, 0), mfd = memfd_create("library", MFD_CLOEXEC);
	write(mfd, "\177ELF", 4);
	lseek(mfd, 0, SEEK_SET);
	read(mfd, b, 4);
	read(ev, b, 8);
	close(ep);
	rename("file", "renamed");
	read(fd, b, 1);
	unlink("renamed");
	read(fd, b, 1);
	int fd2 = open("/proc/thread-self/comm", O_RDONLY), d = open("/dev", O_RDONLY | O_DIRECTORY), null = openat(d, "null", O_RDWR);
	read(fd2, b, 10);
	write(null, b, 3);
	int path = open(dir, O_PATH), ns = open("/proc/self/ns/mnt", O_RDONLY);
	fstat(ns, &st);
	fstat(path, &st);
	memset(b, 'd', 250); b[250] = 0;
	for (int i = 0; i < 14; i++) { mkdir(b, 0700); if (chdir(b)) return 5; }
	int deep = open(".", O_RDONLY | O_DIRECTORY);
	fstat(deep, &st);
	close_range(72, 89, 0);
	close(fd);
	pthread_t t;
	pthread_create(&t, 0, in_thread, "/dev/zero");
	pthread_join(t, 0);
	pid_t child = fork();
	if (!child) { open("/child", O_RDONLY); _exit(0); }
	waitpid(child, 0, 0);
	chdir(dir);
	close(open("/dev/full", O_RDONLY));
	if (argc > 3) return 0;
	execl(argv[0], argv[0], dir, "exec", "again", (char *)0);
	return 6;
}`

// comparable is what two engines must say of a call alike: all but the time,
// numbers that the kernel gives anew, and addresses.
func comparable(calls []*event.Syscall, dir string) []string {
	var all []string
	tids := map[event.TID]int{}
	for _, c := range calls {
		if _, ok := tids[c.TID]; !ok {
			tids[c.TID] = len(tids)
		}
		target := ""
		if c.Target != nil {
			link := strings.ReplaceAll(string(c.Target.Link), dir, "DIR")
			if i := strings.IndexByte(link, '['); i >= 0 && c.Target.Kind != event.AnonInode { // pipe:[4798]
				link = link[:i]
			}
			link = strings.ReplaceAll(link, fmt.Sprintf("/proc/%d/", c.PID), "/proc/PID/")
			link = strings.ReplaceAll(link, fmt.Sprintf("/task/%d/", c.TID), "/task/TID/")
			target = fmt.Sprintf("%s %s %s dev %d", c.Target.Kind, link, c.Target.Error, c.Target.Dev)
		}
		data := len(c.Data)
		offset := c.Offset.Or(-1)
		if offset > 1<<32 {
			offset = 1 << 32
		}
		ret := c.Ret.Or(-99)
		if ret > 1<<32 {
			ret = 1 << 32
		}
		all = append(all, fmt.Sprintf("%d %s %q %v dir %d fd %d new %d first %d last %d cloexec %v %s mode %o count %d offset %d data %d = %d %s unfinished %v resumed %v: %s, %d",
			tids[c.TID], c.Name, strings.ReplaceAll(string(c.Path), dir, "DIR"), c.PathTruncated, c.DirFD.Or(-1), c.FD.Or(-1), c.NewFD.Or(-1), c.FirstFD.Or(0), c.LastFD.Or(0),
			c.CloseOnExec, c.Flags, c.Mode.Or(0), c.Count.Or(0), offset, data, ret, c.Errno, c.Unfinished, c.Resumed, target, len(c.Counterpart)))
	}
	return all
}

// Both engines say the same of each call, launched and attached.
func TestEnginesAgree(t *testing.T) {
	scene.Require(t, "ptrace")
	requireEBPF(t)
	bin := compile(t, manyCalls, "-Wno-unused-result", "-Wno-nonnull")
	dirs := t
	var launchedCalls, attached [2][]string
	for i, e := range []string{"ptrace", "ebpf"} {
		t.Run(e, func(t *testing.T) {
			var c collector
			dir := dirs.TempDir() // a path as long as the other's
			if out := traceCommand(t, &c, bin, dir); out.Code != 0 {
				t.Fatalf("exit code %d", out.Code)
			}
			launchedCalls[i] = comparable(c.calls(), dir)

			dir = dirs.TempDir()
			var a collector
			attached[i] = comparable(attachedCalls(t, &a, bin, dir), dir)
			for _, ev := range a.events {
				// Whether it read a core file cannot be seen of a program that has ended, which may be so here.
				if lost, ok := ev.(*event.Lost); ok && !strings.Contains(lost.Reason, "whether it read a core file") {
					t.Errorf("lost: %+v", lost)
				}
			}
		})
	}
	agree(t, "launched", launchedCalls[0], launchedCalls[1])
	agree(t, "attached", attached[0], attached[1])
	if len(attached[0]) < 120 {
		t.Errorf("only %d calls", len(attached[0]))
	}
	if slices.ContainsFunc(launchedCalls[1], func(s string) bool { return strings.Contains(s, `"/child"`) }) {
		t.Error("a call of the child")
	}
}

// attachedCalls traces a program from the moment at which it waits for its input.
func attachedCalls(t *testing.T, c *collector, bin, dir string) []*event.Syscall {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	cmd, out := startWith(t, r, bin, dir, "wait")
	if line, err := out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	pid := event.PID(cmd.Process.Pid)
	waitFor(t, func() bool {
		b, _ := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "syscall"))
		return strings.HasPrefix(string(b), readNumber(t)+" 0x0 ")
	})
	var once bool
	c.on = func(ev event.Event) {
		if call, ok := ev.(*event.Syscall); ok && call.Unfinished && !once {
			once = true
			_, _ = w.Write([]byte("x"))
		}
	}
	if _, err := Trace(t.Context(), TraceOptions{Engine: engineOf(t), View: procview.New("/proc"), PID: pid, Emit: c.emit}); err != nil {
		t.Fatal(err)
	}
	return c.calls()
}

// What the room for records does not hold is said to be lost, with its count; calls
// that nobody asked for are the first to be left out.
func TestSmallBuffer(t *testing.T) {
	scene.Require(t, "ptrace")
	requireEBPF(t)
	bin := compile(t, `
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
int main(int argc, char **argv) {
	struct stat st;
	char b;
	int fd = open("/dev/zero", O_RDONLY), go = open(argv[1], O_RDONLY); /* where we are held up */
	for (int i = 0; i < 2000; i++) { lseek(fd, 0, SEEK_SET); fstat(fd, &st); if (read(fd, &b, 1) != 1) return 1; if (dup2(fd, 9) != 9) return 2; }
	int done = open(argv[2], O_WRONLY);
	return write(done, "x", 1) != 1 || close(done) || go < 0;
}`)
	calls, err := decode.ForArch(Arch)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		asked []string
	}{
		{"all", nil},
		{"asked for", []string{"openat"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := TraceOptions{Engine: EngineEBPF, Asked: c.asked}
			engine, err := ebpf.Load(calls, ebpf.Options{Ring: 64 << 10, Spared: o.spares})
			if err != nil {
				t.Fatal(err)
			}
			defer engine.Close()
			done := filepath.Join(t.TempDir(), "done")
			if err := unix.Mkfifo(done, 0o600); err != nil {
				t.Fatal(err)
			}
			counts, lost := map[string]int{}, map[string]int64{}
			held := false
			o.engine, o.View = engine, procview.New("/proc")
			o.Path, o.Argv, o.Env = bin, []string{bin, "/dev/null", done}, os.Environ()
			o.Emit = func(ev event.Event) error {
				switch ev := ev.(type) {
				case *event.Lost:
					lost[ev.Reason] += ev.Count
				case *event.Syscall:
					if ev.Path == "/dev/null" && !held {
						held = true // until all that follows has been made
						if _, err := os.ReadFile(done); err != nil {
							return err
						}
					}
					if held {
						counts[ev.Name]++
					}
				}
				return nil
			}
			if out, err := Trace(t.Context(), o); err != nil || out.Code != 0 {
				t.Fatalf("%+v, %v", out, err)
			}
			seen := counts["lseek"] + counts["fstat"] + counts["newfstatat"] + counts["read"] + counts["dup2"] + counts["dup3"]
			var gone int64
			for _, n := range lost {
				gone += n
			}
			// What comes after the loop is lost too, perhaps: two opens, two writes or closes, the end.
			if total := int64(seen) + gone; total < 8000 || total > 8010 || len(lost) != 2 {
				t.Errorf("%d calls seen, lost: %v", seen, lost)
			}
			if seeks, dups := counts["lseek"], counts["dup2"]+counts["dup3"]; dups <= seeks || c.asked != nil && dups <= 2*counts["read"] || c.asked == nil && counts["read"] <= seeks {
				t.Errorf("seen: %v", counts)
			}
		})
	}
}

// A program that does nothing but calls makes more of them than can be read of, in
// much more than the buffer has room for. It is held back, and none is lost.
func TestFlood(t *testing.T) {
	scene.Require(t, "ptrace")
	requireEBPF(t)
	const calls = 200_000
	bin := compile(t, `
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
	char b;
	int fd = open("/dev/zero", O_RDONLY);
	for (int i = 0; i < atoi(argv[1]); i++) if (read(fd, &b, 1) != 1) return 1;
	return 0;
}`)
	reads := 0
	out, err := Trace(t.Context(), TraceOptions{Engine: EngineEBPF, View: procview.New("/proc"), Path: bin, Argv: []string{bin, strconv.Itoa(calls)}, Env: os.Environ(),
		Emit: func(ev event.Event) error {
			switch ev := ev.(type) {
			case *event.Lost:
				t.Errorf("lost: %d: %s", ev.Count, ev.Reason)
			case *event.Syscall:
				if ev.Name == "read" {
					reads++
				}
			}
			return nil
		}})
	if err != nil || out.Code != 0 || reads < calls {
		t.Errorf("%+v, %v: %d reads seen", out, err, reads)
	}
}

// An inferior has ended before its counterpart could be looked up: that is said, and
// nothing guessed. Of one that lives, though it is let go, the counterpart is there.
func TestEndedInferior(t *testing.T) {
	scene.Require(t, "ptrace")
	requireEBPF(t)
	bin := compile(t, `
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv) {
	int status, held = open(argv[1], O_RDONLY); /* where the tracer is held up */
	pid_t child = fork();
	if (!child) {
		if (dup2(open("/dev/zero", O_RDONLY), 44) != 44) _exit(3);
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		alarm(60);
		for (;;) pause();
	}
	if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) return 1;
	open("/proc/self/fd/44", O_RDONLY);
	if (strcmp(argv[3], "lives")) { kill(child, SIGKILL); waitpid(child, &status, 0); }
	else ptrace(PTRACE_DETACH, child, 0, 0);
	int done = open(argv[2], O_WRONLY);
	return write(done, "x", 1) != 1 || close(done) || held < 0 ? 2 : 0;
}`)
	for _, ends := range []bool{true, false} {
		done := filepath.Join(t.TempDir(), "done")
		if err := unix.Mkfifo(done, 0o600); err != nil {
			t.Fatal(err)
		}
		var c collector
		held := false
		c.on = func(ev event.Event) {
			if call, ok := ev.(*event.Syscall); ok && call.Path == "/dev/null" && !held {
				held = true // until the inferior has ended
				_, _ = os.ReadFile(done)
			}
		}
		how := map[bool]string{true: "ends", false: "lives"}[ends]
		out, err := Trace(t.Context(), TraceOptions{Engine: EngineEBPF, View: procview.New("/proc"), Path: bin, Argv: []string{bin, "/dev/null", done, how}, Env: os.Environ(), Emit: c.emit})
		if err != nil || out.Code != 0 {
			t.Fatalf("%s: %+v, %v", how, out, err)
		}
		i := slices.IndexFunc(c.calls(), func(call *event.Syscall) bool { return call.Path == "/proc/self/fd/44" })
		if i < 0 || !held {
			t.Fatalf("%s: no such call among %d", how, len(c.calls()))
		}
		counterparts := c.calls()[i].Counterpart
		for _, c := range counterparts {
			_ = unix.Kill(int(c.PID), unix.SIGKILL)
		}
		late := slices.ContainsFunc(c.events, func(ev event.Event) bool {
			lost, ok := ev.(*event.Lost)
			return ok && strings.Contains(lost.Reason, "had ended before it was looked at")
		})
		if ends && (len(counterparts) != 0 || !late) || !ends && (late || len(counterparts) != 1 || counterparts[0].Link != "/dev/zero") {
			t.Errorf("%s: %+v, late: %v", how, counterparts, late)
		}
	}
}

func agree(t *testing.T, what string, ptrace, ebpf []string) {
	t.Helper()
	for i := range min(len(ptrace), len(ebpf)) {
		if ptrace[i] != ebpf[i] {
			t.Errorf("%s, call %d of %d:\nptrace %s\n  ebpf %s", what, i, len(ptrace), ptrace[i], ebpf[i])
		}
	}
	if len(ptrace) != len(ebpf) {
		t.Errorf("%s: ptrace saw %d calls, ebpf %d", what, len(ptrace), len(ebpf))
	}
}
