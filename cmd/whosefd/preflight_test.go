package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"whosefd/analyze"
	"whosefd/samples/scene"
)

// loaded starts from_memory and waits until it has its library.
func loaded(t *testing.T, args ...string) *scene.Process {
	t.Helper()
	p := scene.StartSample(t, "from_memory", append(args, "--wait")...)
	p.WaitReady()
	return p
}

// foresight is what preflight says, by its contract.
type foresight struct {
	Schema, Verdict, Summary string
	Libraries                int
	Names                    []prospect
	Remedies                 []struct{ Kind, Command string }
	Sysroot                  *struct {
		Dir, Command string
		Entries      []struct {
			Name, To, Error string
			Copied          bool
		}
	}
}

type prospect struct {
	Rule, Name, Effect, Confidence, Text string
	Intended                             struct {
		PID  int
		Kind string
	}
	Others []struct{ Debugger, Effect string }
}

func preflight(t *testing.T, want int, args ...string) foresight {
	t.Helper()
	out, stderr, code := whosefd(t, append([]string{"preflight", "--format", "json"}, args...)...)
	if code != want {
		t.Fatalf("exit code %d, want %d: %s%s", code, want, out, stderr)
	}
	var f foresight
	if err := json.Unmarshal([]byte(out), &f); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return f
}

func TestPreflight(t *testing.T) {
	t.Parallel()
	scene.Require(t, "ptrace")
	lib := filepath.Join(t.TempDir(), "lib.so")
	b, err := os.ReadFile(filepath.Join(scene.Build(t), "lib.so"))
	if err == nil {
		err = os.WriteFile(lib, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/proc/self/fd/4", link); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, rule, effect string
		args               []string
		then               func(pid int)
	}{
		{name: "its terminal", rule: "self-fd", effect: "stolen-input", args: []string{"--fd", "0"}},
		{name: "a pipe", rule: "self-fd", effect: "hang", args: []string{"--fd", "3"}},
		{name: "a pipe, by a thread", rule: "self-fd", effect: "hang", args: []string{"--fd", "9", "--name", "thread-self", "--thread"}},
		{name: "dev-fd", rule: "self-fd", effect: "hang", args: []string{"--fd", "5", "--name", "dev-fd"}},
		{name: "a file", rule: "self-fd", effect: "wrong-file", args: []string{"--fd", "15"}},
		{name: "a link to it", rule: "self-fd", effect: "hang", args: []string{"--fd", "4", "--name", link}},
		{name: "a descriptor by way of the root", rule: "self-fd", effect: "hang", args: []string{"--fd", "4", "--name", "/proc/self/root/proc/self/fd/{fd}"}},
		{name: "another thread's", rule: "self-fd", effect: "error", args: []string{"--fd", "4", "--name", "/proc/self/task/{tid}/fd/{fd}"}},
		{name: "nothing", rule: "self-fd", effect: "error", args: []string{"--fd", "40"}},
		{name: "closed", rule: "self-fd", effect: "hang", args: []string{"--after", "close"}},
		{name: "deleted", rule: "replaced-file", effect: "error", args: []string{"--name", lib},
			then: func(int) { _ = os.Remove(lib) }},
		{name: "relative", rule: "relative-path", effect: "error", args: []string{"--name", "relative"}},
		{name: "right", args: []string{"--name", "pid"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := loaded(t, tc.args...)
			if tc.then != nil {
				tc.then(p.PID)
			}
			pid := strconv.Itoa(p.PID)
			if tc.rule == "" {
				if f := preflight(t, exitNothing, pid); f.Verdict != "ok" || len(f.Names) > 0 || f.Libraries < 3 {
					t.Errorf("%+v", f)
				}
				return
			}
			f := preflight(t, exitFindings, pid)
			if f.Schema != "whosefd.preflight/v1" || f.Verdict != tc.effect || len(f.Names) != 1 {
				t.Fatalf("%+v", f)
			}
			n := f.Names[0]
			if n.Rule != tc.rule || n.Effect != tc.effect || n.Intended.PID != p.PID || n.Text == "" || len(f.Remedies) == 0 {
				t.Errorf("%+v", f)
			}
			if tc.rule == "self-fd" && (f.Remedies[0].Command != "whosefd gdb-plugin --install" || f.Remedies[1].Command != "whosefd guard -- gdb -p "+pid || n.Intended.Kind != "memfd") {
				t.Errorf("%+v", f)
			}
			untraced(t, p.PID)
		})
	}
}

// Each cause is foretold, with the effect that a real gdb then has: what that is,
// TestCauses sees on the same processes.
func TestPreflightForetells(t *testing.T) {
	t.Parallel()
	scene.Require(t, "ptrace", "root")
	for _, c := range causes {
		for _, e := range []analyze.Effect{analyze.Hang, analyze.StolenInput, analyze.WrongFile, analyze.Failed} {
			if c.rule == analyze.RuleSelfFD && e == analyze.WrongFile {
				continue // by a descriptor that gdb inherits, which nobody can know before
			}
			t.Run(string(c.rule)+"/"+string(e), func(t *testing.T) {
				t.Parallel()
				m := c.set(t, e)
				args := slices.Concat(m.gdb.Launcher, []string{binary(t), "preflight", "--format", "json", strconv.Itoa(m.inferior)})
				cmd := exec.Command(args[0], args[1:]...)
				cmd.Dir = m.gdb.Dir
				out, err := cmd.Output()
				var f foresight
				if e := json.Unmarshal(out, &f); e != nil || cmd.ProcessState.ExitCode() != exitFindings {
					t.Fatalf("%v, %v: %s", err, e, out)
				}
				for _, n := range f.Names {
					if n.Name != m.lib {
						continue
					}
					if c.rule != analyze.RuleSelfFD && e == analyze.StolenInput { // a FIFO; who will write to it cannot be known
						if n.Confidence != "likely" || !strings.Contains(n.Text, "if somebody does") {
							t.Errorf("%+v", n)
						}
						e = analyze.Hang
					}
					if n.Rule != string(c.rule) || n.Effect != string(e) || n.Intended.PID != m.inferior {
						t.Errorf("%+v, want %s, %s", n, c.rule, e)
					}
					return
				}
				t.Errorf("%s is not among %+v", m.lib, f.Names)
			})
		}
	}
}

// In other namespaces than its own, gdb gets what it can enter.
func TestPreflightNamespaces(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root", "unshare", "setpriv")
	bin := scene.Build(t)
	fromMemory, fromFile := filepath.Join(bin, "from_memory"), filepath.Join(bin, "from_file")
	tmpfs := func(dir string) string { return "mount -t tmpfs none " + dir + " && cp " + bin + "/lib.so " + dir }
	for _, tc := range []struct {
		name, rule, effect string // "" where gdb finds the right file
		symbols            bool   // what gdb really has
		start              func(t *testing.T, dir string) (pid int, as []string)
	}{
		{"mounts", "", "", true, func(t *testing.T, dir string) (int, []string) {
			return mounted(t, tmpfs(dir), fromFile, "--lib", dir+"/lib.so", "--wait"), nil
		}},
		{"a number of its pid namespace", "", "", true, func(t *testing.T, dir string) (int, []string) {
			return contained(t, ":", fromMemory, "--cure", "--wait"), nil
		}},
		{"self where gdb is not seen", "self-fd", "error", false, func(t *testing.T, dir string) (int, []string) {
			return contained(t, ":", fromMemory, "--wait"), nil
		}},
		{"deleted inside", "replaced-file", "error", false, func(t *testing.T, dir string) (int, []string) {
			pid := mounted(t, tmpfs(dir), fromFile, "--lib", dir+"/lib.so", "--wait")
			if err := os.Remove(fmt.Sprintf("/proc/%d/root%s/lib.so", pid, dir)); err != nil {
				t.Fatal(err)
			}
			return pid, nil
		}},
		{"not permitted to enter", "mount-namespace", "error", false, func(t *testing.T, dir string) (int, []string) {
			return ofNobody(t, dir)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			pid, as := tc.start(t, dir)
			f := foreseenBy(t, as, pid)
			switch {
			case tc.rule == "":
				if f.Verdict != "ok" || len(f.Names) != 0 {
					t.Errorf("%+v", f)
				}
			case f.Verdict != tc.effect || !slices.ContainsFunc(f.Names, func(p prospect) bool { return p.Rule == tc.rule && p.Effect == tc.effect }):
				t.Errorf("%+v, want %s, %s", f, tc.rule, tc.effect)
			}
			symbols := tc.symbols || as != nil && entersAs(t, as, pid)
			gdb := scene.StartGDB(t, scene.GDB{Launcher: as, Dir: "/", Args: []string{"-p", strconv.Itoa(pid)}})
			gdb.Expect(scene.Prompt)
			if out := gdb.Command("info line foo"); strings.Contains(out, `Line 1 of "lib.c"`) != symbols {
				t.Errorf("gdb says %s", out)
			}
		})
	}
}

// asUserNobody is a launcher that becomes somebody without rights.
var asUserNobody = []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"}

// ofNobody starts a process of an ordinary user in a mount namespace of its own,
// which that user may make in a user namespace.
func ofNobody(t *testing.T, dir string) (pid int, as []string) {
	t.Helper()
	scene.Require(t, "setpriv", "unshare", "user namespaces")
	// The samples may be where only root can look.
	public := scene.Public(t, filepath.Join(scene.Build(t), "from_file"), filepath.Join(scene.Build(t), "lib.so"))
	own := slices.Concat(asUserNobody, []string{"unshare", "--user", "--map-root-user", "--mount"})
	p := scene.Start(t, scene.Command{Path: own[0], Dir: "/", Args: append(own[1:], "sh", "-c",
		`mount -t tmpfs none /mnt && cp "$0/lib.so" /mnt && exec "$0/from_file" --lib /mnt/lib.so --wait`, public)})
	return p.WaitReady(), asUserNobody
}

// entersAs says whether gdb, started by a launcher, finds the files of such a process: from
// version 18 on it enters user namespaces.
func entersAs(t *testing.T, as []string, pid int) bool {
	t.Helper()
	all := append(slices.Clone(as), "gdb", "-q", "-nx", "-batch", "-p", strconv.Itoa(pid), "-ex", "info line foo")
	cmd := exec.Command(all[0], all[1:]...)
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput() // an older gdb fails, since it has no symbols
	if !strings.Contains(string(out), "detached]") {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.Contains(string(out), `Line 1 of "lib.c"`)
}

// foreseenBy is what preflight says, run behind a launcher, whatever its exit code.
func foreseenBy(t *testing.T, launcher []string, pid int, args ...string) (f foresight) {
	t.Helper()
	all := slices.Concat(launcher, []string{binary(t), "preflight", "--format", "json", strconv.Itoa(pid)}, args)
	cmd := exec.Command(all[0], all[1:]...)
	cmd.Dir = "/"
	out, err := cmd.Output()
	if e := json.Unmarshal(out, &f); e != nil {
		t.Fatalf("%v, %v: %s", err, e, out)
	}
	if code, want := cmd.ProcessState.ExitCode(), map[bool]int{true: exitNothing, false: exitFindings}[f.Verdict == "ok"]; code != want {
		t.Errorf("exit code %d, want %d: %s", code, want, out)
	}
	return f
}

// What state a process is in is said in a line, and is no obstacle where it is none
// to a debugger.
func TestPreflightStates(t *testing.T) {
	t.Parallel()
	scene.Require(t, "ptrace", "strace", "gcc")
	text := func(t *testing.T, pid, want int) string {
		t.Helper()
		out, stderr, code := whosefd(t, "preflight", strconv.Itoa(pid))
		if code != want || want == exitTrouble && !strings.HasPrefix(out, "unknown: ") && (out != "" || strings.Count(stderr, "\n") != 1) {
			t.Errorf("exit code %d, want %d: %s%s", code, want, out, stderr)
		}
		return out + stderr
	}
	expect := func(t *testing.T, got, want string) {
		t.Helper()
		if !strings.Contains(strings.Join(strings.Fields(got), " "), want) {
			t.Errorf("%s, want %q", got, want)
		}
	}
	t.Run("stopped", func(t *testing.T) {
		p := loaded(t, "--name", "pid")
		p.Signal(syscall.SIGSTOP)
		eventually(t, "stopped", func() bool { return statusLine(t, p.PID, "State")[0] == 'T' })
		expect(t, text(t, p.PID, exitNothing), "It is stopped")
		if state := statusLine(t, p.PID, "State"); state[0] != 'T' {
			t.Errorf("now it is %s", state)
		}
	})
	t.Run("traced", func(t *testing.T) {
		p := loaded(t)
		strace := scene.Start(t, scene.Command{Path: "strace", Args: []string{"-o", "/dev/null", "-p", strconv.Itoa(p.PID)}})
		eventually(t, "traced", func() bool { return statusLine(t, p.PID, "TracerPid") != "0" })
		out := text(t, p.PID, exitFindings)
		expect(t, out, fmt.Sprintf("strace (pid %d) traces it already", strace.PID))
		expect(t, out, fmt.Sprintf("whosefd explain %d", strace.PID))
		if strings.Contains(out, "gdb -p") || strings.Contains(out, "--sysroot") {
			t.Errorf("nothing can attach to it: %s", out)
		}
	})
	t.Run("waits for its child", func(t *testing.T) {
		p := vforks(t)
		eventually(t, "it waits for its child", func() bool { return statusLine(t, p.PID, "State")[0] == 'D' })
		out := text(t, p.PID, exitTrouble)
		expect(t, out, "now would wait: that process waits for vforks (pid ")
		expect(t, out, "(vfork)")
	})
	t.Run("zombie", func(t *testing.T) {
		pid := sleeping(t)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a zombie", func() bool { return statusLine(t, pid, "State")[0] == 'Z' })
		expect(t, text(t, pid, exitTrouble), "look at sleep")
	})
	t.Run("not yet loaded", func(t *testing.T) {
		expect(t, text(t, atExec(t), exitTrouble), "the dynamic loader has not run yet")
	})
	for _, bits := range []string{"64", "32"} {
		t.Run("static "+bits, func(t *testing.T) {
			p := scene.Start(t, scene.Command{Path: sleeper(t, bits)})
			eventually(t, "it sleeps", func() bool { return statusLine(t, p.PID, "State")[0] == 'S' })
			out := text(t, p.PID, exitTrouble)
			expect(t, out, "is a static program")
			dir := filepath.Join(t.TempDir(), "sysroot")
			if f := preflight(t, exitTrouble, "--sysroot", dir, strconv.Itoa(p.PID)); f.Sysroot == nil {
				t.Errorf("%+v", f)
			}
		})
	}
}

// vforks starts a program that waits for its child to run another program, which that never does.
func vforks(t *testing.T) *scene.Process {
	t.Helper()
	scene.Require(t, "gcc")
	return scene.Start(t, scene.Command{Path: scene.Compile(t, t.TempDir(), "vforks.c",
		"#include <unistd.h>\nint main(void) { if (!vfork()) { sleep(600); _exit(0); } return 0; }\n", "gcc", "-w")})
}

// sleeper makes a static program that only sleeps.
func sleeper(t *testing.T, bits string) string {
	t.Helper()
	scene.Require(t, "amd64", "as", "ld")
	if bits == "32" {
		scene.Require(t, "32-bit programs")
	}
	pause := map[string]string{"64": "mov $34, %eax; syscall", "32": "mov $29, %eax; int $0x80"}[bits] // asm/unistd_64.h, _32.h
	dir := t.TempDir()
	object := scene.Compile(t, dir, "sleeper.s", ".globl _start\n_start: "+pause+"\njmp _start\n", "as", "--"+bits)
	program := object + ".linked"
	scene.Run(t, "ld", "-m", map[string]string{"64": "elf_x86_64", "32": "elf_i386"}[bits], "-o", program, object)
	return program
}

// atExec starts a program and leaves it stopped before its first instruction,
// with no tracer.
func atExec(t *testing.T) int {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command("sleep", "300")
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(cmd.Process.Pid, &status, 0, nil); err != nil || !status.Stopped() {
		t.Fatalf("%v, %v", status, err)
	}
	if _, _, errno := syscall.Syscall6(syscall.SYS_PTRACE, syscall.PTRACE_DETACH, uintptr(cmd.Process.Pid), 0, uintptr(syscall.SIGSTOP), 0, 0); errno != 0 {
		t.Fatal(errno)
	}
	eventually(t, "stopped", func() bool { return statusLine(t, cmd.Process.Pid, "State")[0] == 'T' })
	return cmd.Process.Pid
}

// Nothing is asked of ptrace(2): the process is not even stopped for a moment.
func TestPreflightTouchesNothing(t *testing.T) {
	t.Parallel()
	scene.Require(t, "strace", "ptrace")
	p := loaded(t)
	for _, more := range [][]string{nil, {"--sysroot", filepath.Join(t.TempDir(), "sysroot")}} {
		log := filepath.Join(t.TempDir(), "log")
		args := append([]string{"-f", "-e", "trace=ptrace,kill,tkill,tgkill,pidfd_send_signal,process_vm_writev", "-o", log, binary(t), "preflight", strconv.Itoa(p.PID)}, more...)
		var ee *exec.ExitError
		if err := exec.Command("strace", args...).Run(); !errors.As(err, &ee) || ee.ExitCode() != exitFindings {
			t.Fatal(err)
		}
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if pid := strconv.Itoa(p.PID); regexp.MustCompile(`ptrace\(|writev\(|pidfd_send|kill\(` + pid + `\b`).Match(b) {
			t.Errorf("%s", b)
		}
		if !strings.Contains(string(b), "exited with 1") {
			t.Errorf("strace saw nothing: %s", b)
		}
		untraced(t, p.PID)
	}
}

// gdb with the folder of links has the right symbols, without whosefd.
func TestPreflightSysroot(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	bin := scene.Build(t)
	fromMemory := func(args ...string) func(*testing.T, string) int {
		return func(t *testing.T, _ string) int { return loaded(t, args...).PID }
	}
	fromFile := func(t *testing.T, dir string, args ...string) int {
		return scene.Start(t, scene.Command{Path: filepath.Join(bin, "from_file"), Args: append(args, "--wait"), Dir: dir}).WaitReady()
	}
	remove := func(t *testing.T, name string) {
		t.Helper()
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		start  func(t *testing.T, dir string) (pid int)
		copied int
		linked int // beside what its name leads to
	}{
		"a pipe":             {fromMemory("--fd", "3"), 0, 0},
		"the memory":         {fromMemory("--fd", "14"), 0, 0},
		"nothing":            {fromMemory("--fd", "20"), 0, 0},
		"three":              {fromMemory("--fd", "4", "--copies", "3"), 0, 0},
		"dev-fd":             {fromMemory("--fd", "15", "--name", "dev-fd"), 0, 0},
		"thread-self":        {fromMemory("--name", "thread-self"), 0, 0},
		"a thread's number":  {fromMemory("--name", "/proc/{tid}/fd/{fd}", "--thread", "--threads", "2"), 0, 1}, // which has ended
		"its number":         {fromMemory("--name", "pid"), 0, 0},
		"closed":             {fromMemory("--after", "close"), 1, 0},
		"reused":             {fromMemory("--fd", "6", "--after", "reuse"), 1, 0},
		"relative":           {fromMemory("--name", "relative"), 0, 0},
		"the terminal":       {fromMemory("--fd", "0"), 0, 0},
		"a name of its own":  {fromMemory("--name", "/proc/self/./fd//{fd}"), 0, 0},
		"the folder of all":  {fromMemory("--name", "/proc/self/root/proc/self/fd/{fd}"), 0, 1},
		"a closed directory": {fromMemory("--fd", "7", "--name", "/proc/self/task/../fd/{fd}", "--after", "close"), 1, 0},
		"mount namespace": {func(t *testing.T, dir string) int {
			return mounted(t, "mount -t tmpfs none "+dir, filepath.Join(bin, "from_memory"), "--fd", "5", "--wait")
		}, 0, 0},
		"container": {func(t *testing.T, dir string) int {
			return contained(t, ":", filepath.Join(bin, "from_memory"), "--fd", "5", "--wait")
		}, 0, 0},
		"deleted": {func(t *testing.T, dir string) int {
			lib := filepath.Join(dir, "a b", "c\nd\x1b[31m", "lib.so")
			if err := os.MkdirAll(filepath.Dir(lib), 0o755); err != nil {
				t.Fatal(err)
			}
			scene.Copy(t, filepath.Join(bin, "lib.so"), lib)
			pid := fromFile(t, dir, "--lib", lib)
			if err := os.RemoveAll(filepath.Join(dir, "a b")); err != nil {
				t.Fatal(err)
			}
			return pid
		}, 1, 0},
		"replaced": {func(t *testing.T, dir string) int {
			lib := filepath.Join(dir, "lib.so")
			scene.Copy(t, filepath.Join(bin, "lib.so"), lib)
			pid := fromFile(t, dir, "--lib", lib)
			remove(t, lib)
			scene.Copy(t, otherLibrary(t), lib)
			return pid
		}, 1, 0},
		"deleted, held": {func(t *testing.T, dir string) int { // by its other name
			lib := filepath.Join(dir, "lib.so")
			scene.Copy(t, filepath.Join(bin, "lib.so"), lib)
			p := loaded(t, "--lib", lib, "--name", lib) // which keeps it open
			remove(t, lib)
			return p.PID
		}, 0, 1},
		"relative, in another directory": {func(t *testing.T, dir string) int {
			scene.Copy(t, filepath.Join(bin, "lib.so"), filepath.Join(dir, "lib.so"))
			return fromFile(t, dir, "--lib", "./lib.so")
		}, 0, 0},
		"root directory": {func(t *testing.T, dir string) int {
			root := newRoot(t)
			if err := errors.Join(os.Mkdir(filepath.Join(root, "real"), 0o755), os.Symlink("/real", filepath.Join(root, "app"))); err != nil {
				t.Fatal(err)
			}
			scene.Copy(t, filepath.Join(bin, "lib.so"), filepath.Join(root, "real", "lib.so"))
			return scene.Start(t, scene.Command{Path: "chroot", Args: []string{root, "/from_file", "--lib", "/app/lib.so", "--wait"}}).WaitReady()
		}, 0, 2},
		"the program deleted": {func(t *testing.T, dir string) int {
			program := filepath.Join(dir, "program")
			scene.Copy(t, filepath.Join(bin, "from_file"), program)
			p := scene.Start(t, scene.Command{Path: program, Args: []string{"--lib", filepath.Join(bin, "lib.so"), "--wait"}})
			pid := p.WaitReady()
			remove(t, program)
			return pid
		}, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pid := tc.start(t, t.TempDir())
			dir := filepath.Join(t.TempDir(), "it's a \"folder\" \\ $HOME é")
			f := foreseenBy(t, nil, pid, "--sysroot", dir)
			copied := 0
			for _, e := range f.Sysroot.Entries {
				if e.Error != "" || (e.To == "") != e.Copied {
					t.Errorf("%+v", e)
				}
				if e.Copied {
					copied++
				}
			}
			if copied != tc.copied || len(f.Sysroot.Entries) != tc.copied+tc.linked {
				t.Errorf("%+v, want %d copies and %d links", f.Sysroot.Entries, tc.copied, tc.linked)
			}
			onlyLinks(t, dir, copied)
			// What the process mounts later must be seen too.
			if to, err := os.Readlink(dir + "/usr"); name == "mount namespace" && !strings.HasPrefix(to, fmt.Sprintf("/proc/%d/root/", pid)) {
				t.Errorf("/usr is %q, %v", to, err)
			}
			gdb := scene.StartGDB(t, scene.GDB{Dir: "/", Args: wordsOf(t, f.Sysroot.Command)[1:]})
			gdb.Expect(scene.Prompt)
			for _, c := range [][2]string{{"info line foo", `Line 1 of "lib.c"`}, {"info line main", `.c" starts at`}} {
				if out := gdb.Command(c[0]); !strings.Contains(out, c[1]) {
					t.Errorf("%s: %s\n%s", c[0], out, gdb.Command("info sharedlibrary"))
				}
			}
			gdb.Send("detach")
			gdb.Send("quit")
			gdb.Wait()
			if out, err := exec.Command("rm", "-r", dir+"/").CombinedOutput(); err != nil {
				t.Errorf("rm -r: %v: %s", err, out)
			}
			untraced(t, pid)
		})
	}
}

// wordsOf gives what a shell makes of a command.
func wordsOf(t *testing.T, command string) []string {
	t.Helper()
	out, err := exec.Command("sh", "-c", "set -- "+command+`; printf '%s\0' "$@"`).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
}

// onlyLinks checks that a sysroot has nothing in it but links, folders of its
// own file system and so many copies, and is for its owner alone.
func onlyLinks(t *testing.T, dir string, copies int) {
	t.Helper()
	top, err := os.Lstat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if top.Mode().Perm() != 0o700 {
		t.Errorf("%s has mode %v", dir, top.Mode())
	}
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		if st.Sys().(*syscall.Stat_t).Dev != top.Sys().(*syscall.Stat_t).Dev {
			t.Errorf("%s is of another file system", path)
		}
		switch {
		case st.Mode()&fs.ModeSymlink != 0:
		case st.IsDir() && st.Mode().Perm() == 0o700:
		case st.Mode().IsRegular() && st.Mode().Perm() == 0o600:
			copies--
		default:
			t.Errorf("%s: %v", path, st.Mode())
		}
		return nil
	})
	if err != nil || copies != 0 {
		t.Errorf("%v, %d copies less than expected", err, copies)
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), ".whosefd-*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A name that leaves the folder is told, and not followed.
func TestPreflightSysrootHostile(t *testing.T) {
	t.Parallel()
	scene.Require(t, "ptrace", "root")
	for _, name := range []string{"/../../../../../../../../proc/self/fd/{fd}", "/proc/../../../../../../../../proc/self/fd/{fd}"} {
		p := loaded(t, "--name", name)
		parent := t.TempDir()
		f := preflight(t, exitFindings, "--sysroot", filepath.Join(parent, "x"), strconv.Itoa(p.PID))
		if len(f.Sysroot.Entries) != 1 || !strings.Contains(f.Sysroot.Entries[0].Error, "leave the folder") {
			t.Errorf("%s: %+v", name, f.Sysroot.Entries)
		}
		onlyLinks(t, filepath.Join(parent, "x"), 0)
		if to, err := os.Readlink(filepath.Join(parent, "x", "proc", "self")); err != nil || to != fmt.Sprintf("/proc/%d", p.PID) {
			t.Errorf("the way of others was touched: %q, %v", to, err)
		}
		if entries, err := os.ReadDir(parent); err != nil || len(entries) != 1 {
			t.Errorf("%v, %v", entries, err)
		}
	}
	// A longer name than a file can have, deleted: no place can be made.
	deep := t.TempDir() + strings.Repeat("/"+strings.Repeat("x", 200), 12)
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	scene.Copy(t, filepath.Join(scene.Build(t), "lib.so"), deep+"/lib.so")
	p := scene.StartSample(t, "from_file", "--lib", deep+"/lib.so", "--wait")
	p.WaitReady()
	if err := os.Remove(deep + "/lib.so"); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "x")
	if f := preflight(t, exitFindings, "--sysroot", dir, strconv.Itoa(p.PID)); len(f.Sysroot.Entries) != 1 || !f.Sysroot.Entries[0].Copied {
		t.Errorf("%+v", f.Sysroot.Entries)
	}
	if out, err := exec.Command("rm", "-r", dir).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// As an ordinary user: what is open can be linked, what is closed cannot be
// copied, and that is said.
func TestPreflightSysrootOrdinary(t *testing.T) {
	t.Parallel()
	scene.Require(t, "ptrace", "root", "setpriv")
	bin := public(t)
	if err := errors.Join(os.Mkdir(bin+"/theirs", 0o700), os.Chown(bin+"/theirs", 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	for after, want := range map[string]string{"keep": "", "close": "operation not permitted; root may"} {
		own := slices.Concat(asUserNobody, []string{bin + "/from_memory", "--after", after, "--wait"})
		p := scene.Start(t, scene.Command{Path: own[0], Args: own[1:], Dir: "/"})
		p.WaitReady()
		f := foreseenBy(t, asUserNobody, p.PID, "--sysroot", bin+"/theirs/"+after)
		switch {
		case want == "" && len(f.Sysroot.Entries) == 0:
		case len(f.Sysroot.Entries) == 1 && want != "" && strings.Contains(f.Sysroot.Entries[0].Error, want):
		default:
			t.Errorf("%s: %+v", after, f.Sysroot.Entries)
		}
	}
}

// What cannot be made leaves nothing behind, and nothing that was there is touched.
func TestPreflightSysrootRefused(t *testing.T) {
	t.Parallel()
	scene.Require(t, "ptrace")
	p := loaded(t)
	pid := strconv.Itoa(p.PID)
	full, target := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "mine"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{full, link, filepath.Join(full, "mine"), "/nowhere/at/all"} {
		out, stderr, code := whosefd(t, "preflight", pid, "--sysroot", dir)
		if code != exitTrouble || out != "" || strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "whosefd: --sysroot: ") {
			t.Errorf("%s: exit code %d, %q %q", dir, code, out, stderr)
		}
	}
	if b, err := os.ReadFile(filepath.Join(full, "mine")); string(b) != "precious" {
		t.Errorf("%q, %v", b, err)
	}
	for _, dir := range []string{full, target} {
		if entries, _ := os.ReadDir(dir); len(entries) > 1 {
			t.Errorf("%s: %v", dir, entries)
		}
	}
	// Empty, and already there, is all right.
	if _, stderr, code := whosefd(t, "preflight", pid, "--sysroot", target); code != exitFindings {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	st, err := os.Stat(target)
	if err != nil || !st.IsDir() {
		t.Fatal(err)
	}
}

func TestPreflightTrouble(t *testing.T) {
	t.Parallel()
	scene.Require(t, "ptrace", "root")
	p := loaded(t)
	for _, tc := range []struct {
		who  func(*testing.T, ...string) (string, string, int)
		args []string
		want string
	}{
		{whosefd, []string{"preflight"}, "which process"},
		{whosefd, []string{"preflight", "2"}, "kernel thread"},
		{whosefd, []string{"preflight", "0"}, "not a process id"},
		{whosefd, []string{"preflight", "999999999"}, "no such process"},
		{whosefd, []string{"preflight", "no-such-name-anywhere"}, "no process is named"},
		{asNobody, []string{"preflight", strconv.Itoa(p.PID)}, "permi"},
	} {
		if comm, _ := os.ReadFile("/proc/2/comm"); tc.want == "kernel thread" && string(comm) != "kthreadd\n" {
			continue // in a PID namespace there is none
		}
		out, stderr, code := tc.who(t, tc.args...)
		if code != exitTrouble || out != "" || strings.Count(stderr, "\n") != 1 || !regexp.MustCompile(tc.want).MatchString(stderr) {
			t.Errorf("%v: exit code %d, %q %q", tc.args, code, out, stderr)
		}
	}
}

// A library in a file system that never answers is not waited for, and what it is
// cannot be known.
func TestPreflightFUSE(t *testing.T) {
	scene.Require(t, "ptrace", "root", "fuse")
	bin := scene.Build(t)
	served := scene.MountFUSE(t, filepath.Join(bin, "lib.so"))
	p := scene.StartSample(t, "from_file", "--lib", served.Path("lib.so"), "--wait")
	p.WaitReady()
	t.Cleanup(served.Close)
	served.Hang()
	pid, dir := strconv.Itoa(p.PID), t.TempDir()
	out, stderr, code := startWhosefd(t, "preflight", pid).endsSoon(t)
	if code != exitTrouble || !strings.HasPrefix(out, "unknown: ") || !strings.Contains(strings.Join(strings.Fields(out), " "), "its file system does not answer") {
		t.Errorf("exit code %d: %s%s", code, out, stderr)
	}
	out, stderr, _ = startWhosefd(t, "preflight", pid, "--sysroot", dir+"/x").endsSoon(t)
	if !strings.Contains(out, served.Path("lib.so")+" there is not right") {
		t.Errorf("%s%s", out, stderr)
	}
	onlyLinks(t, dir+"/x", 0)
}

// A gdb that runs already, and has the wrong file, gets the right one by the
// folder that explain advises.
func TestPreflightSysrootRunning(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	gdb, p := scene.Attach(t, "--fd", "14")
	gdb.Expect(scene.Prompt)
	d, _ := diagnosis(t, strconv.Itoa(gdb.PID))
	dir := filepath.Join(t.TempDir(), "root")
	advised := fmt.Sprintf("whosefd preflight %d --sysroot sysroot-%[1]d", p.PID)
	if len(d.Findings) != 1 || !slices.ContainsFunc(d.Findings[0].Remedies, func(r analyze.Remedy) bool { return string(r.Command) == advised }) {
		t.Fatalf("%s: %+v", d.Summary, d.Findings)
	}
	out, _, code := whosefd(t, "preflight", strconv.Itoa(p.PID), "--sysroot", dir)
	if code != exitFindings || !strings.Contains(out, "\n  set sysroot "+dir+"\n") {
		t.Fatalf("exit code %d\n%s", code, out)
	}
	gdb.Command("set sysroot " + dir)
	gdb.Command("break foo")
	gdb.Command("set var whosefd_wait = 0")
	gdb.Send("continue")
	gdb.Expect(stopAtFoo)
}
