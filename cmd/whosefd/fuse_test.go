package main

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"whosefd/samples/scene"
)

// soon is far more than any command needs where nothing answers.
const soon = 20 * time.Second

// endsSoon waits for the tool, and fails the test if it does not end: a process
// that waits for a silent file system cannot be killed, and its parent waits for
// it in vain.
func (r *running) endsSoon(t *testing.T) (stdout, stderr string, code int) {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(soon):
		t.Fatalf("whosefd %v does not end\n%s%s", r.Args[1:], r.stdout.String(), r.stderr.String())
	}
	return r.stdout.String(), r.stderr.String(), r.ProcessState.ExitCode()
}

// A file system that never answers holds nothing of ours up, wherever the
// debugger or its inferior have files of it: program, library, working
// directory, descriptor, and when the debugger itself waits for it.
func TestNothingWaitsForFUSE(t *testing.T) {
	scene.Require(t, "ptrace", "root", "fuse", "gdb")
	bin := scene.Build(t)
	fs := scene.MountFUSE(t, filepath.Join(bin, "lib.so"), filepath.Join(bin, "from_file"))
	lib := fs.Path("lib.so")
	sample := func() *scene.Process {
		p := scene.Start(t, fs.Command(fs.Path("from_file"), "--lib", lib, "--wait"))
		p.WaitReady()
		return p
	}
	inferior, other := sample(), sample()
	gdb := fs.StartGDB(t, scene.GDB{Args: []string{"-p", strconv.Itoa(inferior.PID)}})
	gdb.Expect(scene.Prompt)
	t.Cleanup(fs.Close)
	fs.Hang()
	pid, program := strconv.Itoa(gdb.PID), strconv.Itoa(other.PID)
	rec := filepath.Join(t.TempDir(), "rec")
	asks := func() bool {
		return slices.ContainsFunc(fs.Asked(), func(s string) bool { return strings.HasSuffix(s, " by "+pid) })
	}
	type run struct {
		args   []string
		code   int    // -1: it depends on who else hangs on this machine
		out    string // has this
		sticks bool   // the debugger cannot be stopped, which is said
	}
	missing := "what " + lib + " leads to in gdb: the file system does not answer"
	check := func(runs ...run) {
		t.Helper()
		for _, want := range runs {
			out, stderr, code := startWhosefd(t, want.args...).endsSoon(t)
			if want.sticks && !strings.Contains(stderr, "did not stop") || code != want.code && want.code >= 0 || !strings.Contains(out, want.out) {
				t.Errorf("%v: exit code %d\n%s%s", want.args, code, out, stderr)
			}
		}
	}
	check(run{args: []string{"explain", pid}, out: missing},
		run{args: []string{"explain", program}, out: "from_file"},
		run{args: []string{"preflight", program, "--sysroot", filepath.Join(t.TempDir(), "root")}, code: exitTrouble, out: "the file system does not answer"},
		run{args: []string{"ps"}, code: -1, out: pid},
		run{args: []string{"repair", "--dry-run", pid}, out: "Nothing to repair"},
		run{args: []string{"trace", "--engine", "ptrace", "--for", "100ms", "-p", pid, "-o", rec}, out: missing})
	guard := startWhosefd(t, "guard", "-p", pid)
	eventually(t, "guarded", func() bool { return strings.Contains(guard.stderr.String(), "guarding") })
	if asks() {
		t.Fatalf("gdb itself asks already: %v", fs.Asked())
	}
	// Now the debugger waits too.
	gdb.Send("file " + lib)
	eventually(t, "gdb asks", asks)
	if err := guard.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := guard.endsSoon(t); code != exitTrouble || !strings.Contains(stderr, "did not stop") {
		t.Errorf("guard: exit code %d\n%s", code, stderr)
	}
	check(run{args: []string{"explain", pid}, out: "not stopped"},
		run{args: []string{"trace", "--engine", "ptrace", "--for", "100ms", "-p", pid, "-o", rec}, code: exitTrouble, sticks: true})
	t.Logf("asked: %v", fs.Asked())
}

// Names that lie in a file that never answers are not waited for, although the
// program that uses them waits.
func TestNamesInFUSE(t *testing.T) {
	scene.Require(t, "ptrace", "root", "fuse", "gcc")
	dir := t.TempDir()
	program := scene.Compile(t, dir, "a.c", `
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	char *names = mmap(0, 1 << 20, PROT_READ, MAP_PRIVATE, open(argv[argc - 1], O_RDONLY), 0);
	printf("ready %d\n", getpid());
	fflush(stdout);
	while (access(argv[1], F_OK) != 0)
		usleep(10000);
	return open(names + (1 << 19), O_RDONLY);
}
`, "gcc")
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	fs := scene.MountFUSE(t, big)
	start := filepath.Join(dir, "start")
	p := scene.Start(t, fs.Command(program, start, fs.Path("big")))
	p.WaitReady()
	t.Cleanup(fs.Close)
	fs.Hang()
	r := startWhosefd(t, "trace", "--engine", "ptrace", "-p", strconv.Itoa(p.PID))
	eventually(t, "rows", func() bool { return strings.Contains(r.stdout.String(), "access") })
	if err := os.WriteFile(start, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// It waits for the page itself once we have let it go on: in D if somebody else has
	// asked for that page already.
	eventually(t, "the program waits", func() bool {
		state := statusLine(t, p.PID, "State")
		return strings.HasPrefix(state, "D") || strings.HasPrefix(state, "S") && strings.HasPrefix(procFile(t, p.PID, "syscall"), strconv.Itoa(syscall.SYS_OPENAT)+" ")
	})
	if err := r.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := r.endsSoon(t); code != exitTrouble || !strings.Contains(stderr, "did not stop") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
}
