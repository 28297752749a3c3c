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

// fromMemory starts a program out of a memfd, by fexecve(3).
func fromMemory(t *testing.T) *scene.Process {
	t.Helper()
	scene.Require(t, "gcc")
	dir := t.TempDir()
	build := func(name, source string) string {
		out := filepath.Join(dir, name)
		if err := os.WriteFile(out+".c", []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
		if b, err := exec.Command("gcc", "-g", "-w", "-o", out, out+".c").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, b)
		}
		return out
	}
	stub := build("stub", `#include <stdio.h>
#include <unistd.h>
int deep(int n) { return n ? deep(n - 1) + 1 : (int)getppid(); }
int main(void) { printf("ready %d\n", (int)getpid()); fflush(stdout); for (;;) { deep(3); usleep(1000); } }
`)
	client := build("client", `#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
extern char **environ;
int main(int argc, char **argv)
{
	char buf[65536], *args[] = { "stub", 0 }; ssize_t n;
	int in = open(argv[1], O_RDONLY), fd = memfd_create("stub", MFD_CLOEXEC);
	while ((n = read(in, buf, sizeof buf)) > 0) write(fd, buf, n);
	fexecve(fd, args, environ);
	return 1;
}
`)
	p := scene.Start(t, scene.Command{Path: client, Args: []string{stub}})
	p.WaitReady()
	return p
}

func programFinding(d *analyze.Diagnosis) *analyze.Finding {
	if i := slices.IndexFunc(d.Findings, func(f analyze.Finding) bool { return f.Program }); i >= 0 {
		return &d.Findings[i]
	}
	return nil
}

// The program itself is checked as its libraries are.
func TestProgramFromMemory(t *testing.T) {
	p := fromMemory(t)
	pid := strconv.Itoa(p.PID)
	const name = "/memfd:stub (deleted)"
	remedy := "gdb /proc/" + pid + "/exe -p " + pid
	out, stderr, code := whosefd(t, "preflight", pid)
	if code != 1 || !strings.HasPrefix(out, "error: 1 name ") || !strings.Contains(out, name) || !strings.Contains(out, remedy) {
		t.Errorf("preflight: exit code %d\n%s%s", code, out, stderr)
	}
	gdb := scene.StartGDB(t, scene.GDB{Args: []string{"-p", pid}})
	gdb.Expect(scene.Prompt)
	recording := filepath.Join(t.TempDir(), "look.jsonl")
	for _, args := range [][]string{{"-o", recording, strconv.Itoa(gdb.PID)}, {recording}} {
		d, code := diagnosis(t, args...)
		f := programFinding(d)
		if code != 1 || f == nil || f.Effect != "error" || f.Confidence != "likely" || string(f.Name) != name || f.Intended == nil || int(f.Intended.PID) != p.PID ||
			!slices.ContainsFunc(f.Remedies, func(r analyze.Remedy) bool { return string(r.Command) == remedy }) {
			t.Errorf("%q: exit code %d: %+v", args, code, d)
		}
	}
	// What it says helps.
	gdb.Command("file /proc/" + pid + "/exe")
	if symbol := gdb.Command("info symbol deep"); !strings.Contains(symbol, "deep in section .text") {
		t.Errorf("with the program: %s", symbol)
	}
	d, code := diagnosis(t, strconv.Itoa(gdb.PID))
	if f := programFinding(d); code != 0 || f != nil {
		t.Errorf("cured: exit code %d: %+v", code, d)
	}
}

// Seen from the start, it is certain.
func TestProgramFromMemoryTraced(t *testing.T) {
	scene.Require(t, "gdb", "ptrace")
	p := fromMemory(t)
	recording := filepath.Join(t.TempDir(), "rec.jsonl")
	if _, stderr, code := whosefd(t, "trace", "-o", recording, "--", "gdb", "-nx", "-batch", "-p", strconv.Itoa(p.PID)); code != 0 {
		t.Fatalf("trace: exit code %d, %s", code, stderr)
	}
	d, code := diagnosis(t, recording)
	if f := programFinding(d); code != 1 || f == nil || f.Confidence != "certain" {
		t.Errorf("exit code %d: %+v", code, d)
	}
}

// A file that was replaced since, while gdb has the old one open, is no finding; a gdb that attaches later
// takes the new one.
func TestProgramReplaced(t *testing.T) {
	scene.Require(t, "gcc")
	dir := t.TempDir()
	program := filepath.Join(dir, "prog")
	build := func(text string) {
		source := "#include <stdio.h>\n#include <unistd.h>\nint main(void) { printf(\"ready %d\\n\", (int)getpid()); fflush(stdout); for (;;) pause(); }\n/*" + text + "*/int " + text + ";\n"
		if err := os.WriteFile(program+".c", []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
		if b, err := exec.Command("gcc", "-g", "-o", program+".new", program+".c").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, b)
		}
		if err := os.Rename(program+".new", program); err != nil {
			t.Fatal(err)
		}
	}
	build("before")
	p := scene.Start(t, scene.Command{Path: program})
	p.WaitReady()
	early := scene.StartGDB(t, scene.GDB{Args: []string{"-p", strconv.Itoa(p.PID)}})
	early.Expect(scene.Prompt)
	build("after")
	if d, code := diagnosis(t, strconv.Itoa(early.PID)); code != 0 || programFinding(d) != nil {
		t.Errorf("with the old file open: exit code %d: %+v", code, d)
	}
	early.Command("detach")
	early.Kill()
	out, stderr, code := whosefd(t, "preflight", strconv.Itoa(p.PID))
	if code != 1 || !strings.Contains(out, program+" (deleted)") {
		t.Errorf("preflight: exit code %d\n%s%s", code, out, stderr)
	}
}

// A rootless container: gdb may not enter its mount namespace, and finds none of its files.
func TestShutOut(t *testing.T) {
	pid, as := ofNobody(t, "")
	enters := entersAs(t, as, pid)
	gdb := scene.StartGDB(t, scene.GDB{Launcher: as, Dir: "/", Args: []string{"-p", strconv.Itoa(pid)}})
	gdb.Expect(scene.Prompt)
	d, code := diagnosis(t, strconv.Itoa(gdb.PID))
	if enters {
		if code != 0 {
			t.Errorf("of a gdb that finds the files: exit code %d: %+v", code, d)
		}
		return
	}
	if code != 1 || len(d.Findings) != 1 {
		t.Fatalf("exit code %d: %+v", code, d)
	}
	f := &d.Findings[0]
	sysroot := func(r analyze.Remedy) bool { return strings.Contains(string(r.Command), "--sysroot") }
	if f.Rule != "mount-namespace" || f.Effect != "error" || f.Opened.Error != "EPERM" || !evidence(f, "shut-out", "CAP_SYS_ADMIN") || !slices.ContainsFunc(f.Remedies, sysroot) {
		t.Errorf("%+v", f)
	}
	if slices.ContainsFunc(f.Remedies, func(r analyze.Remedy) bool { return r.Kind == "guard" }) {
		t.Errorf("guard is offered: %+v", f.Remedies)
	}
	gdb.Command("detach")
	gdb.Kill()
	// The folder cures it.
	dir := filepath.Join("/tmp", "whosefd-shut-out-"+strconv.Itoa(pid))
	made := exec.Command(as[0], append(slices.Clone(as[1:]), binary(t), "preflight", strconv.Itoa(pid), "--sysroot", dir)...)
	made.Dir = "/"
	out, _ := made.CombinedOutput()
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if made.ProcessState.ExitCode() != 1 {
		t.Fatalf("preflight --sysroot: %s", out)
	}
	cured := scene.StartGDB(t, scene.GDB{Launcher: as, Dir: "/", Args: []string{"-iex", "set sysroot " + dir, "-p", strconv.Itoa(pid)}})
	cured.Expect(scene.Prompt)
	if symbol := cured.Command("info symbol foo"); !strings.Contains(symbol, "foo in section .text") {
		t.Errorf("with the folder: %s", symbol)
	}
	if d, code := diagnosis(t, strconv.Itoa(cured.PID)); code != 0 {
		t.Errorf("cured: exit code %d: %+v", code, d)
	}
	cured.Command("detach")
}
