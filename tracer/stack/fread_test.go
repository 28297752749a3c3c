package stack

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// freadC waits in a read of 64 bytes, in the way that its first argument names,
// of which its second argument tells how many come. They come one by one.
const freadC = `
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
static char fixed[64];
int main(int argc, char **argv) {
	const char *way = argv[1];
	int n = atoi(argv[2]), p[2], left;
	char onstack[64], *to = onstack;
	pipe(p);
	FILE *f = fdopen(p[0], "r");
	size_t size = 1, count = 64;
	if (!strcmp(way, "heap")) to = malloc(64);
	if (!strcmp(way, "static")) to = fixed;
	if (!strcmp(way, "shared")) to = mmap(0, 64, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!strcmp(way, "items")) size = 16, count = 4;
	if (!strcmp(way, "large")) to = malloc(count = 1 << 16);
	if (!strcmp(way, "small")) setvbuf(f, malloc(100), _IOFBF, 100);
	if (!strcmp(way, "leftover")) { write(p[1], "0123456789", 10); fread(to, 1, 5, f); }
	if (!fork()) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (int i = 0; i < n; i++) {
			write(p[1], "+-*/" + i % 4, 1);
			do ioctl(p[1], FIONREAD, &left); while (left > 0 && !sched_yield());
		}
		printf("%p %d\n", to, p[0]);
		fflush(stdout);
		pause();
	}
	if (!strcmp(way, "read")) { for (size_t had = 0; had < 64; had += read(p[0], to + had, 64 - had)) ; }
	else if (!strcmp(way, "fgets")) fgets(to, 64, f);
	else if (!strcmp(way, "getc")) while (getc(f) != EOF) ;
	else if (!strcmp(way, "unlocked")) fread_unlocked(to, size, count, f);
	else fread(to, size, count, f);
	return 0;
}
`

// What an fread has got already is found by following its own code, and nothing
// is said of any other read.
func TestFread(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("amd64 only")
	}
	prog := build(t, "gcc", freadC, "-O1")
	for _, tc := range []struct {
		way  string
		came uint64
		err  error
	}{
		{"stack", 0, nil},
		{"stack", 1, nil},
		{"stack", 2, nil},
		{"stack", 63, nil},
		{"heap", 3, nil},
		{"static", 1, nil},
		{"items", 5, nil},
		{"small", 1, nil},
		{"unlocked", 2, nil},
		{"shared", 1, ErrNotFollowed},   // not its own memory
		{"leftover", 0, ErrNotFollowed}, // has come by way of an earlier read
		{"large", 1, ErrNoFread},        // past the buffer
		{"read", 1, ErrNoFread},
		{"fgets", 1, ErrNoFread},
		{"getc", 1, ErrNoFread},
	} {
		t.Run(fmt.Sprintf("%s %d", tc.way, tc.came), func(t *testing.T) {
			pid, to, r := startFread(t, prog, tc.way, tc.came)
			got, err := Fread(procview.New("/proc"), look(t, pid), r)
			if !errors.Is(err, tc.err) || (err != nil) != (tc.err != nil) {
				t.Fatalf("%+v, %v; want %v", got, err, tc.err)
			}
			if want := (Taken{Addr: to, Bytes: tc.came, Of: 64}); err == nil && got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
	}
}

// startFread runs freadC until all has come and been read, and gives where it
// reads to and the call that it waits in.
func startFread(t *testing.T, prog, way string, came uint64) (pid event.PID, to uint64, r Read) {
	t.Helper()
	cmd := exec.Command(prog, way, fmt.Sprint(came))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	pid = event.PID(cmd.Process.Pid)
	if _, err := fmt.Fscanf(out, "%v %v\n", &to, &r.FD); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		awaitRead(t, int(pid))
		var nr, fd uint64
		line := run(t, "cat", fmt.Sprintf("/proc/%d/syscall", pid))
		if n, _ := fmt.Sscanf(line, "%v %v %v %v", &nr, &fd, &r.Buf, &r.Size); n == 4 && event.FD(fd) == r.FD {
			return pid, to, r
		}
	}
	t.Fatal("it does not read")
	return
}
