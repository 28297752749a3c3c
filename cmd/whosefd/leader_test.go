package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"whosefd/analyze"
	"whosefd/samples/scene"
)

// leaderless starts a program whose first thread ends, after it has loaded a library from a memfd
// on a descriptor; another thread goes on. It gives a thread that lives.
func leaderless(t *testing.T, fd, name string) (p *scene.Process, tid int) {
	t.Helper()
	scene.Require(t, "gcc")
	program := filepath.Join(t.TempDir(), "leaderless")
	source := `#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
static int (*foo)(int);
static void *go_on(void *arg)
{
	pthread_join(*(pthread_t *)arg, NULL);
	printf("ready %ld\n", syscall(SYS_gettid));
	fflush(stdout);
	for (;;) { usleep(1000); foo(21); }
}
int main(int argc, char **argv)
{
	static pthread_t self; pthread_t other; char buf[65536], name[64]; ssize_t n;
	int lib = open(argv[1], O_RDONLY), fd = memfd_create("plugin", 0);
	while ((n = read(lib, buf, sizeof buf)) > 0) write(fd, buf, n);
	if (fd != atoi(argv[2])) dup2(fd, atoi(argv[2]));
	snprintf(name, sizeof name, argv[3], atoi(argv[2]));
	void *h = dlopen(name, RTLD_NOW);
	if (!h) { puts(dlerror()); return 1; }
	foo = (int (*)(int))dlsym(h, "foo");
	self = pthread_self();
	pthread_create(&other, NULL, go_on, &self);
	pthread_exit(NULL);
}
`
	if err := os.WriteFile(program+".c", []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := exec.Command("gcc", "-g", "-w", "-pthread", "-o", program, program+".c").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	p = scene.Start(t, scene.Command{Path: program, Args: []string{lib(t), fd, name}})
	tid = p.WaitReady()
	eventually(t, "the first thread has ended", func() bool { return strings.HasPrefix(statusLine(t, p.PID, "State"), "Z") })
	return p, tid
}

// A process whose first thread has ended is looked at through another one: explained, repaired,
// guarded and looked at before, by its own number and by that of the thread.
func TestLeaderless(t *testing.T) {
	scene.Require(t, "root") // map_files
	p, tid := leaderless(t, "4", "/proc/self/fd/%d")
	for _, id := range []int{p.PID, tid} {
		out, stderr, code := whosefd(t, "preflight", strconv.Itoa(id))
		if code != 1 || !strings.HasPrefix(out, "hang: 1 name ") || !strings.Contains(out, "gdb -p "+strconv.Itoa(tid)) {
			t.Errorf("preflight %d: exit code %d\n%s%s", id, code, out, stderr)
		}
	}
	gdb := scene.StartGDB(t, scene.GDB{Args: []string{"-p", strconv.Itoa(tid)}})
	gdb.WaitBlocked(scene.Patience)
	d, code := diagnosis(t, strconv.Itoa(gdb.PID))
	if code != 1 || d.Verdict != "hang" || len(d.Findings) != 1 {
		t.Fatalf("exit code %d: %+v", code, d)
	}
	f := &d.Findings[0]
	if f.Rule != "self-fd" || f.Confidence != "certain" || f.Intended == nil || int(f.Intended.PID) != p.PID || !f.Intended.FD.Is(4) {
		t.Errorf("%+v, %+v", f, f.Intended)
	}
	if !slices.ContainsFunc(f.Evidence, func(e analyze.Evidence) bool {
		return e.Kind == "resolves" && strings.HasSuffix(string(e.Text), "to nothing (ENOENT) any more: its first thread has ended, and /proc/self shows the descriptors of that one.")
	}) {
		t.Errorf("%+v", f.Evidence)
	}
	fixed := startWhosefd(t, "repair", strconv.Itoa(gdb.PID))
	gdb.Expect(scene.Prompt)
	if symbol := gdb.Command("info symbol foo"); !strings.Contains(symbol, "foo in section .text of /proc/self/fd/4") {
		t.Errorf("repaired: %s\n%s", symbol, fixed.stderr.String())
	}
	gdb.Command("detach")
	gdb.Send("quit")
	gdb.Wait()
	if code := fixed.wait(t); code != 0 {
		t.Errorf("repair: exit code %d, %s", code, fixed.stderr.String())
	}
	untraced(t, tid)
}

func TestGuardLeaderless(t *testing.T) {
	for fd, form := range map[string]string{"3": "/proc/self/fd/%d", "13": "/proc/thread-self/fd/%d", "0": "/dev/fd/%d"} {
		_, tid := leaderless(t, fd, form)
		name := strings.Replace(form, "%d", fd, 1)
		gdb := scene.StartGDB(t, scene.GDB{Launcher: []string{binary(t), "guard", "--"}, Args: []string{"-p", strconv.Itoa(tid)}})
		gdb.Expect(scene.Prompt)
		if symbol := gdb.Command("info symbol foo"); !strings.Contains(symbol, "foo in section .text of "+name) {
			t.Errorf("%s: %s", name, symbol)
		}
		gdb.Command("detach")
	}
}
