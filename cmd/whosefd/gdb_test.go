package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"whosefd/samples/scene"
)

// wrapper gives the program that an IDE is told of.
func wrapper(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), gdbName)
	if err := os.Symlink(binary(t), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// The guard beside gdb is as good as the one around it.
func TestGDBWrapper(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace")
	c := cure{start: func(t *testing.T, g scene.GDB) *scene.Session {
		g.Path = wrapper(t)
		return scene.StartGDB(t, g)
	}}
	gdb := c.run(t, "from_memory")
	gdb.Expect(stopAtFoo)
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", gdb.Launcher)); err != nil || filepath.Base(exe) != "gdb" {
		t.Errorf("the process that was started is %s (%v)", exe, err)
	}
	guard, err := strconv.Atoi(statusLine(t, gdb.Launcher, "TracerPid"))
	if err != nil || guard == 0 {
		t.Fatalf("its guard is %d (%v)", guard, err)
	}
	if parent := statusLine(t, guard, "PPid"); parent == strconv.Itoa(gdb.Launcher) || parent == strconv.Itoa(os.Getpid()) {
		t.Errorf("the guard is a child of pid %s", parent)
	}
	goesOn(t, gdb, "/proc/self/fd/4", 1)
	gdb.Send("quit 7")
	if code := gdb.Wait(); code != 7 {
		t.Errorf("the exit code is %d", code)
	}
	eventually(t, "the guard has ended", func() bool { return syscall.Kill(guard, 0) != nil })
}

// What ends the process that a front end started ends gdb, and its program.
func TestGDBWrapperKilled(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace")
	program := filepath.Join(scene.Build(t), "from_memory")
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		cmd := exec.Command(wrapper(t), "-i=mi", "-q", "-nx", "--args", program, "--wait", "--timeout", "60")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out := &scene.Buffer{}
		cmd.Stdout = out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(in, "-exec-run\n"); err != nil {
			t.Fatal(err)
		}
		// Not before: a gdb that is killed while it tries what ptrace can do leaves the process with
		// which it tries, which is then traced by init.
		var ready []string
		eventually(t, "the program runs", func() bool {
			ready = regexp.MustCompile(`ready (\d+)\n`).FindStringSubmatch(out.String())
			return ready != nil
		})
		inferior, _ := strconv.Atoi(ready[1])
		guard, _ := strconv.Atoi(statusLine(t, cmd.Process.Pid, "TracerPid"))
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		_ = in.Close()
		_ = cmd.Wait() // how it ended is gdb's matter
		for _, pid := range []int{guard, inferior} {
			eventually(t, fmt.Sprintf("%v: pid %d has ended", sig, pid), func() bool {
				b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
				return pid > 0 && (err != nil || strings.Contains(string(b), ") Z "))
			})
		}
	}
}

// Everything but the guard is gdb's, also where it cannot be guarded.
func TestGDBWrapperPasses(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb")
	own, err := exec.Command("gdb", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if out, stderr, code := whosefd(t, "gdb", "--version"); code != 0 || out != string(own) {
		t.Errorf("exit code %d, %q, %q", code, out, stderr)
	}
	if _, stderr, code := whosefd(t, "gdb", "-nx", "-batch", "-ex", "quit 7"); code != 7 {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	if out, _, code := whosefd(t, "help", "gdb"); code != 0 || !strings.Contains(out, gdbName) {
		t.Errorf("exit code %d, %q", code, out)
	}
	// A gdb in PATH that is this program is not run again and again.
	dir := t.TempDir()
	if err := os.Symlink(binary(t), filepath.Join(dir, "gdb")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary(t), "gdb", "--version")
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	if out, err := cmd.Output(); err != nil || string(out) != string(own) {
		t.Errorf("%v, %q", err, out)
	}
	cmd = exec.Command(binary(t), "gdb")
	cmd.Env = append(os.Environ(), "WHOSEFD_GDB=no-such-gdb")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "WHOSEFD_GDB") {
		t.Errorf("%v, %q", err, out)
	}
}
