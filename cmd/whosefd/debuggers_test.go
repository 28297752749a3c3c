package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"whosefd/analyze"
	"whosefd/samples/scene"
	"whosefd/tracer/event"
)

// tracerOf gives the process that traces another.
func tracerOf(t *testing.T, pid int) int {
	t.Helper()
	tid, err := strconv.Atoi(statusLine(t, pid, "TracerPid"))
	if err != nil || tid == 0 {
		t.Fatalf("tracer of pid %d: %d, %v", pid, tid, err)
	}
	return tid
}

// one gives the only finding, of that name and confidence.
func one(t *testing.T, d *analyze.Diagnosis, effect analyze.Effect, confidence analyze.Confidence, name string) {
	t.Helper()
	if len(d.Findings) != 1 {
		t.Fatalf("%d findings, risks %+v: %s", len(d.Findings), d.Risks, d.Summary)
	}
	if f := d.Findings[0]; f.Rule != analyze.RuleSelfFD || f.Effect != effect || f.Confidence != confidence || string(f.Name) != name {
		t.Errorf("%s, %s, %s, %q: %s", f.Rule, f.Effect, f.Confidence, f.Name, d.Summary)
	}
}

// With a gdbserver, and no sysroot of its own, gdb has the server open the
// libraries: the finding is the server's.
func TestServerOpens(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "gdbserver", "ptrace", "root")
	record := filepath.Join(t.TempDir(), "record")
	server := startWhosefd(t, "trace", "--findings-exit", "-o", record, "--", "gdbserver", "--once", "localhost:0",
		filepath.Join(scene.Build(t), "from_memory"), "--fd", "30", "--wait")
	var port []string
	eventually(t, "the server listens", func() bool {
		port = regexp.MustCompile(`Listening on port (\d+)`).FindStringSubmatch(server.stderr.String())
		return port != nil
	})
	gdb := scene.StartGDB(t, scene.GDB{})
	gdb.Expect(scene.Prompt)
	gdb.Command("target remote localhost:" + port[1])
	gdb.Send("continue")
	eventually(t, "the program waits", func() bool { return strings.Contains(server.stdout.String(), "ready ") })
	inferior, err := strconv.Atoi(regexp.MustCompile(`ready (\d+)`).FindStringSubmatch(server.stdout.String())[1])
	if err != nil {
		t.Fatal(err)
	}
	gdb.Interrupt()
	gdb.Expect(scene.Prompt)
	if shown := gdb.Command("info sharedlibrary"); !regexp.MustCompile(`No +/proc/self/fd/30\r`).MatchString(shown) {
		t.Errorf("info sharedlibrary:\n%s", shown)
	}
	d, code := diagnosis(t, strconv.Itoa(tracerOf(t, inferior)))
	if code != exitFindings {
		t.Errorf("explain of the server: exit code %d", code)
	}
	one(t, d, analyze.Failed, analyze.Possible, "/proc/self/fd/30") // that it opened it was not seen
	if d, code = diagnosis(t, strconv.Itoa(gdb.PID)); code != exitNothing || len(d.Inferiors) != 1 || int(d.Inferiors[0].PID) != inferior {
		t.Errorf("explain of gdb: exit code %d, inferiors %v: %s", code, d.Inferiors, d.Summary)
	}
	gdb.Command("kill")
	if code := server.wait(t); code != exitFindings {
		t.Errorf("trace: exit code %d\n%s", code, server.stderr.String())
	}
	d, _ = diagnosis(t, record)
	one(t, d, analyze.Failed, analyze.Certain, "/proc/self/fd/30")
}

// With set sysroot, gdb opens the libraries of a gdbserver's inferior itself,
// and hangs as without a server. Whose inferior it is, its connection tells.
func TestServerClient(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "gdbserver", "ptrace", "root")
	program := filepath.Join(scene.Build(t), "from_memory")
	for name, start := range map[string]func(gdb *scene.Session){
		"by TCP": func(gdb *scene.Session) {
			server := scene.Start(t, scene.Command{Path: "gdbserver", Args: []string{"--once", "localhost:0", program}})
			gdb.Command("target remote localhost:" + server.ExpectErr(`Listening on port (\d+)`)[1])
		},
		"by a pipe": func(gdb *scene.Session) { gdb.Command("target remote | gdbserver --once - " + program) },
	} {
		t.Run(name, func(t *testing.T) {
			gdb := scene.StartGDB(t, scene.GDB{Args: []string{program}})
			gdb.Expect(scene.Prompt)
			gdb.Command("set sysroot /")
			gdb.Command("break foo")
			start(gdb)
			gdb.Send("continue")
			gdb.WaitBlocked(scene.Patience)
			d, code := diagnosis(t, strconv.Itoa(gdb.PID))
			if code != exitFindings || len(d.Inferiors) != 1 {
				t.Fatalf("exit code %d, inferiors %v: %s", code, d.Inferiors, d.Summary)
			}
			hungOn(t, d, gdb.PID, int(d.Inferiors[0].PID), "/proc/self/fd/4")
			r := startWhosefd(t, "repair", strconv.Itoa(gdb.PID))
			r.repaired(t)
			gdb.Expect(stopAtFoo)
			gdb.Send("continue")
			gdb.Expect("exited normally")
			noTrouble(t, gdb)

			gdb = guarded(t, scene.GDB{Args: []string{program}})
			gdb.Expect(scene.Prompt)
			gdb.Command("set sysroot /")
			gdb.Command("break foo")
			start(gdb)
			gdb.Send("continue")
			gdb.Expect(stopAtFoo)
			goesOn(t, gdb, "/proc/self/fd/4", 1)
		})
	}
}

// A profiler: it traces nobody, reads a library's name out of the memory of the
// process that it looks at, and opens it, with a pipe of its own as 3 and 4.
const profiler = `
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
	int own[2];
	char mem[64], name[256] = "", head[4];
	if (argc < 3 || pipe2(own, O_CLOEXEC)) return 1;
	snprintf(mem, sizeof mem, "/proc/%s/mem", argv[1]);
	int from = open(mem, O_RDONLY | O_CLOEXEC);
	unsigned long at = strtoul(argv[2], 0, 0);
	for (size_t n = 0; n + 8 < sizeof name && strlen(name) == n; n += 8)
		if (pread(from, name + n, 8, at + n) != 8) return 2;
	int library = open(name, O_RDONLY | O_CLOEXEC);
#ifdef NUMBER
	library = fcntl(library, F_DUPFD_CLOEXEC, NUMBER);
#endif
	if (library < 0 || read(library, head, sizeof head) != sizeof head) return 3;
	printf("%s is %s\n", name, memcmp(head, "\177ELF", 4) ? "something else" : "a library");
	return 0;
}
`

// children gives the processes that a process has started.
func children(t *testing.T, pid int) (all []int) {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		b, _ := os.ReadFile(list) // none, if the thread has ended
		for _, word := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(word); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

// nameAt gives the address of a library's name in a process's memory.
func nameAt(t *testing.T, pid int, name string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "evidence")
	whosefd(t, "explain", "--inferior", strconv.Itoa(pid), "-o", file, strconv.Itoa(os.Getpid()))
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for dec := event.NewReader(f); ; {
		ev, err := dec.Next()
		if err == io.EOF {
			t.Fatalf("pid %d has not loaded %s", pid, name)
		}
		if err != nil {
			t.Fatal(err)
		}
		if lm, ok := ev.(*event.LinkMap); ok && string(lm.Name) == name && int(lm.PID) == pid {
			return fmt.Sprintf("%#x", uint64(lm.NameAddr))
		}
	}
}

// limit sets how many descriptors a process may have.
func limit(t *testing.T, pid, n int) {
	t.Helper()
	if out, err := exec.Command("prlimit", "--pid", strconv.Itoa(pid), fmt.Sprintf("--nofile=%d:", n)).CombinedOutput(); err != nil {
		t.Fatalf("prlimit: %v: %s", err, out)
	}
}

// Where a step of a repair fails, that is said, and the debugger waits as before.
func TestRepairFails(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gcc", "ptrace", "root", "prlimit")
	subject := scene.StartSample(t, "from_memory", "--wait")
	pid := strconv.Itoa(subject.WaitReady())
	addr := nameAt(t, subject.PID, "/proc/self/fd/4")
	p := scene.Start(t, scene.Command{Path: source(t, "profiler.c", profiler, "gcc", "-O", "-DNUMBER=20"), Args: []string{pid, addr}})
	eventually(t, "the profiler hangs", func() bool { return strings.HasPrefix(procFile(t, p.PID, "syscall"), "0 0x14 ") })
	before := table(t, p.PID)
	// A descriptor beyond the limit cannot be replaced.
	limit(t, p.PID, 20)
	out, stderr, code := whosefd(t, "repair", "--detach", "--inferior", pid, strconv.Itoa(p.PID))
	if now := table(t, p.PID); code != exitTrouble || !strings.Contains(stderr, "dup3($opened, 20, ") || !maps.Equal(now, before) {
		t.Errorf("exit code %d, descriptors %v, were %v: %s%s", code, now, before, out, stderr)
	}
	limit(t, p.PID, 100)
	if out, stderr, code = whosefd(t, "repair", "--inferior", pid, strconv.Itoa(p.PID)); code != exitNothing {
		t.Errorf("exit code %d: %s%s", code, out, stderr)
	}
	p.Expect("^/proc/self/fd/4 is a library\n")
}

// A program that traces nobody is told whom it looks at.
func TestNamedInferior(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gcc", "ptrace", "root")
	bin := source(t, "profiler.c", profiler, "gcc", "-O")
	subject := scene.StartSample(t, "from_memory", "--wait")
	pid := strconv.Itoa(subject.WaitReady())
	addr := nameAt(t, subject.PID, "/proc/self/fd/4")
	hang := func() *scene.Process {
		p := scene.Start(t, scene.Command{Path: bin, Args: []string{pid, addr}})
		eventually(t, "the profiler hangs", func() bool { return strings.HasPrefix(procFile(t, p.PID, "syscall"), "0 0x6 ") })
		return p
	}

	p := hang()
	d, code := diagnosis(t, "--inferior", pid, strconv.Itoa(p.PID))
	if code != exitFindings {
		t.Errorf("explain: exit code %d", code)
	}
	hungOn(t, d, p.PID, subject.PID, "/proc/self/fd/4")
	// The name is in the memory that its stack refers to; whose it is must be told.
	d, code = diagnosis(t, strconv.Itoa(p.PID))
	if code != exitFindings || len(d.Findings) != 1 || d.Findings[0].Intended != nil ||
		!slices.ContainsFunc(d.Findings[0].Remedies, func(r analyze.Remedy) bool { return strings.Contains(string(r.Command), "--inferior PID") }) {
		t.Errorf("explain, the inferior not named: exit code %d: %s", code, d.Summary)
	}
	r := startWhosefd(t, "repair", "--inferior", pid, strconv.Itoa(p.PID))
	p.Expect("^/proc/self/fd/4 is a library\n")
	if code := r.wait(t); code != exitNothing {
		t.Errorf("repair: exit code %d: %s%s", code, r.stdout.String(), r.stderr.String())
	}

	p = hang()
	r = startWhosefd(t, "guard", "--inferior", pid, "-p", strconv.Itoa(p.PID))
	p.Expect("^/proc/self/fd/4 is a library\n")
	if code := r.wait(t); code != exitNothing {
		t.Errorf("guard -p: exit code %d: %s%s", code, r.stdout.String(), r.stderr.String())
	}

	if out, errs, code := whosefd(t, "guard", "--inferior", pid, "--", bin, pid, addr); code != 0 || out != "/proc/self/fd/4 is a library\n" {
		t.Errorf("guard: exit code %d: %q, %s", code, out, errs)
	}

	record := filepath.Join(t.TempDir(), "record")
	r = startWhosefd(t, "trace", "--inferior", pid, "-o", record, "--", bin, pid, addr)
	eventually(t, "the traced profiler hangs", func() bool {
		return slices.ContainsFunc(children(t, r.Process.Pid), func(child int) bool {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", child))
			return err == nil && strings.HasPrefix(string(b), "0 0x6 ")
		})
	})
	for _, child := range children(t, r.Process.Pid) {
		t.Cleanup(func() { _ = syscall.Kill(child, syscall.SIGKILL) }) // it runs on
	}
	if err := r.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.wait(t)
	d, code = diagnosis(t, record)
	if code != exitFindings {
		t.Fatalf("explain of the recording: exit code %d: %s", code, d.Summary)
	}
	f := d.Findings[0]
	if f.Rule != analyze.RuleSelfFD || f.Effect != analyze.Hang || f.Confidence != analyze.Certain {
		t.Errorf("%s, %s, %s: %s", f.Rule, f.Effect, f.Confidence, d.Summary)
	}
	b, err := json.Marshal(f.Evidence)
	if err != nil || !strings.Contains(string(b), "provenance") {
		t.Errorf("evidence %s, %v", b, err)
	}
}

// optional skips a test of a debugger that is not installed everywhere, in CI
// neither: what it shows is in docs/DEBUGGERS.md.
func optional(t *testing.T, program string) {
	t.Helper()
	scene.Optional(t, program)
	scene.Require(t, "gcc", "ptrace", "root")
}

// lldb opens the libraries itself, and an lldb-server traces for it.
func TestLLDB(t *testing.T) {
	t.Parallel()
	optional(t, "lldb")
	program := filepath.Join(scene.Build(t), "from_memory")
	script := []string{"lldb", "--no-lldbinit", "--batch", program, "-o", "breakpoint set -n foo", "-o", "run --fd 30",
		"-o", "thread backtrace", "-o", "kill"}
	record := filepath.Join(t.TempDir(), "record")
	// lldb ends within milliseconds of the open: who has stopped it at each call has the time to look.
	whosefd(t, append([]string{"trace", "--engine", "ptrace", "-o", record, "--"}, script...)...)
	d, _ := diagnosis(t, record)
	one(t, d, analyze.Failed, analyze.Certain, "/proc/self/fd/30")
	out, _, code := whosefd(t, append([]string{"guard", "--"}, script...)...)
	if code != 0 || !strings.Contains(out, "foo(x=21) at lib.c:1") {
		t.Errorf("guarded: exit code %d\n%s", code, out)
	}
}

// A Go program whose C library loads lib.so from memory, on a descriptor.
const cgoProgram = `package main

/*
#cgo LDFLAGS: -ldl
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
static int load(const char *path, int number) {
	char data[65536], name[64];
	ssize_t n;
	int from = open(path, O_RDONLY), to = memfd_create("libfunction", 0);
	while ((n = read(from, data, sizeof data)) > 0)
		if (write(to, data, n) != n) return 0;
	close(from);
	dup2(to, number);
	close(to);
	snprintf(name, sizeof name, "/proc/self/fd/%d", number);
	return dlopen(name, RTLD_NOW) != 0;
}
*/
import "C"

import "os"

func loaded() {}

func main() {
	if C.load(C.CString(os.Args[1]), 30) != 0 {
		loaded()
	}
}
`

func TestDelve(t *testing.T) {
	t.Parallel()
	optional(t, "dlv")
	program := source(t, "main.go", cgoProgram, "env", "CGO_ENABLED=1", "go", "build", "-gcflags=all=-N -l")
	script := filepath.Join(t.TempDir(), "script")
	// The second stop, for which Delve reads the list of libraries.
	if err := os.WriteFile(script, []byte("break main.loaded\ncontinue\nnext\nlibraries\nexit\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lib := filepath.Join(scene.Build(t), "lib.so")
	dlv := []string{"dlv", "exec", "--check-go-version=false", "--allow-non-terminal-interactive", "--init", script, program, "--", lib}
	record := filepath.Join(t.TempDir(), "record")
	out, errs, _ := whosefd(t, append([]string{"trace", "-o", record, "--"}, dlv...)...)
	if !strings.Contains(out, "/proc/self/fd/30: no such file") {
		t.Errorf("Delve says\n%s%s", out, errs)
	}
	d, _ := diagnosis(t, record)
	one(t, d, analyze.Failed, analyze.Certain, "/proc/self/fd/30")
	if out, errs, code := whosefd(t, append([]string{"guard", "--"}, dlv...)...); code != 0 || !strings.Contains(out, "/proc/self/fd/30") || strings.Contains(out, "Load error") {
		t.Errorf("guarded: exit code %d\n%s%s", code, out, errs)
	}
}
