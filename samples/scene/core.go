package scene

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// CoreKinds are the ways in which Core makes a core file.
var CoreKinds = []string{"kernel", "gcore"}

// Core makes a core file of a process, as a file of this name. "kernel" is what the kernel
// writes at its end by SIGSEGV: then the process has to have been started in an empty folder
// (core(5)), which is searched. "gcore" is gdb's snapshot of it; gdb must not read its libraries
// for that, or would hang. The process is killed in either case.
func Core(t TB, pid int, kind, core string) {
	t.Helper()
	if kind == "gcore" {
		Require(t, "gdb", "ptrace")
		out, err := exec.Command("gdb", "-nx", "-q", "-batch", "-iex", "set auto-solib-add off", "-iex", "set sysroot /nonexistent",
			"-p", strconv.Itoa(pid), "-ex", "generate-core-file "+core, "-ex", "kill").CombinedOutput()
		if _, serr := os.Stat(core); err != nil || serr != nil {
			t.Fatalf("gdb makes a core of pid %d: %v\n%s", pid, err, out)
		}
		return
	}
	Require(t, "core files")
	dir, err := os.Readlink(procPath(pid, "cwd"))
	if err != nil {
		t.Fatalf("where the core of pid %d will be: %v", pid, err)
	}
	id := strconv.Itoa(pid)
	for _, args := range [][]string{{"prlimit", "--core=unlimited", "--pid", id}, {"kill", "-SEGV", id}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	for deadline := time.Now().Add(Patience); alive(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("pid %d does not end by SIGSEGV", pid)
		}
	}
	found, err := filepath.Glob(filepath.Join(dir, "core*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("core files of pid %d in %s: %q, %v", pid, dir, found, err)
	}
	if out, err := exec.Command("mv", found[0], core).CombinedOutput(); err != nil {
		t.Fatalf("take the core file: %v: %s", err, out)
	}
}

// alive says whether a process runs, or is still writing its core.
func alive(pid int) bool {
	status, err := os.ReadFile(procPath(pid, "status"))
	return err == nil && !strings.HasPrefix(statusField(status, "State"), "Z")
}
