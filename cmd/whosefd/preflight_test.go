package main

import (
	"encoding/json"
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
	Names                    []struct {
		Rule, Name, Effect, Confidence, Text string
		Intended                             struct {
			PID  int
			Kind string
		}
	}
	Remedies []struct{ Kind, Command string }
	Sysroot  *struct {
		Dir, Command string
		Entries      []struct {
			Name, To, Error string
			Copied          bool
		}
	}
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
	scene.Require(t, "ptrace")
	lib := filepath.Join(t.TempDir(), "lib.so")
	b, err := os.ReadFile(filepath.Join(scene.Build(t), "lib.so"))
	if err == nil {
		err = os.WriteFile(lib, b, 0o600)
	}
	if err != nil {
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
			if tc.rule == "self-fd" && (f.Remedies[0].Command != "whosefd guard -- gdb -p "+pid || n.Intended.Kind != "memfd") {
				t.Errorf("%+v", f)
			}
			untraced(t, p.PID)
		})
	}
}

// Nothing is asked of ptrace(2): the process is not even stopped for a moment.
func TestPreflightTouchesNothing(t *testing.T) {
	scene.Require(t, "strace", "ptrace")
	p := loaded(t)
	log := filepath.Join(t.TempDir(), "log")
	err := exec.Command("strace", "-f", "-e", "trace=ptrace,kill,tkill,tgkill,process_vm_writev", "-o", log,
		binary(t), "preflight", strconv.Itoa(p.PID)).Run()
	if code := err.(*exec.ExitError).ExitCode(); code != exitFindings {
		t.Fatal(err)
	}
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "ptrace(") || strings.Contains(string(b), "writev(") || strings.Contains(string(b), "kill("+strconv.Itoa(p.PID)) {
		t.Errorf("%s", b)
	}
	if !strings.Contains(string(b), "exited with 1") {
		t.Errorf("strace saw nothing: %s", b)
	}
}

// gdb with the folder of links has the right symbols, without whosefd.
func TestPreflightSysroot(t *testing.T) {
	scene.Require(t, "gdb", "ptrace", "root")
	for name, tc := range map[string]struct {
		args   []string
		copied bool
		start  func(t *testing.T, args ...string) int
	}{
		"a pipe":      {args: []string{"--fd", "4"}},
		"dev-fd":      {args: []string{"--fd", "15", "--name", "dev-fd"}},
		"thread-self": {args: []string{"--name", "thread-self"}},
		"closed":      {args: []string{"--after", "close"}, copied: true},
		"reused":      {args: []string{"--fd", "6", "--after", "reuse"}, copied: true},
		"mount namespace": {args: []string{"--fd", "5"}, start: func(t *testing.T, args ...string) int {
			args = append([]string{"-m", filepath.Join(scene.Build(t), "from_memory"), "--wait"}, args...)
			return scene.Start(t, scene.Command{Path: "unshare", Args: args}).WaitReady()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			start := tc.start
			if start == nil {
				start = func(t *testing.T, args ...string) int { return loaded(t, args...).PID }
			}
			pid := start(t, tc.args...)
			dir := filepath.Join(t.TempDir(), "it's a folder")
			f := preflight(t, exitFindings, "--sysroot", dir, strconv.Itoa(pid))
			if f.Sysroot == nil || (len(f.Sysroot.Entries) == 1 && f.Sysroot.Entries[0].Copied) != tc.copied {
				t.Fatalf("%+v", f.Sysroot)
			}
			gdb := scene.StartGDB(t, scene.GDB{Args: []string{"-iex", "set sysroot " + dir, "-p", strconv.Itoa(pid)}})
			gdb.Expect(scene.Prompt)
			if out := gdb.Command("info line foo"); !strings.Contains(out, `Line 1 of "lib.c"`) {
				t.Errorf("%s\n%s", out, gdb.Command("info sharedlibrary"))
			}
			gdb.Send("detach")
			gdb.Send("quit")
			gdb.Wait()
			// The command that is printed is one for a shell.
			shown, err := exec.Command("sh", "-c", "set -- "+f.Sysroot.Command+`; printf '%s\n' "$@"`).Output()
			if want := "gdb\n-iex\nset sysroot " + dir + "\n-p\n" + strconv.Itoa(pid) + "\n"; err != nil || string(shown) != want {
				t.Errorf("%q, want %q, %v", shown, want, err)
			}
			if err := exec.Command("rm", "-r", dir).Run(); err != nil {
				t.Errorf("rm -r: %v", err)
			}
			if err := syscall.Kill(pid, 0); err != nil {
				t.Errorf("the program is gone: %v", err)
			}
		})
	}
}

// What cannot be made leaves nothing behind, and nothing that was there is touched.
func TestPreflightSysrootRefused(t *testing.T) {
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
		out, stderr, code := tc.who(t, tc.args...)
		if code != exitTrouble || out != "" || strings.Count(stderr, "\n") != 1 || !regexp.MustCompile(tc.want).MatchString(stderr) {
			t.Errorf("%v: exit code %d, %q %q", tc.args, code, out, stderr)
		}
	}
}
