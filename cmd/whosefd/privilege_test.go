package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"whosefd/analyze"
	"whosefd/samples/scene"
)

// place is where a debugger runs, and how the tool comes to it.
type place struct {
	name string
	// launcher starts gdb there.
	launcher []string
	// enter starts the tool there, beside the gdb of that pid.
	enter func(gdb int) []string
	// needs are programs and rights.
	needs []string
	// inner: it has other pids there.
	inner bool
}

// places are those of ordinary users and of containers, made by hand.
func places() []place {
	nobody := []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}
	target := func(args ...string) func(int) []string {
		return func(gdb int) []string {
			return append([]string{"nsenter", "--target=" + strconv.Itoa(gdb)}, args...)
		}
	}
	return []place{
		{name: "an ordinary user", launcher: nobody, enter: func(int) []string { return nobody }, needs: []string{"setpriv"}},
		{name: "a user namespace", launcher: append(slices.Clone(nobody), "unshare", "--user", "--map-root-user"),
			enter: target("--user"), needs: []string{"setpriv", "unshare", "nsenter", "user namespaces"}},
		{name: "a mount namespace", launcher: []string{"unshare", "--mount", "sh", "-c", `mount -t tmpfs none /mnt && exec "$@"`, "sh"},
			enter: target("--mount"), needs: []string{"unshare", "nsenter", "mount namespaces"}},
		{name: "a pid namespace", launcher: []string{"unshare", "--mount", "--pid", "--fork", "--mount-proc"},
			enter: target("--mount", "--pid"), needs: []string{"unshare", "nsenter", "pid namespaces"}, inner: true},
		{name: "a rootless container", launcher: append(slices.Clone(nobody), "unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "--uts", "--ipc", "--net"),
			enter: target("--user", "--mount", "--pid", "--uts", "--ipc", "--net"), needs: []string{"setpriv", "unshare", "nsenter", "rootless containers"}, inner: true},
	}
}

// public is a folder that everybody can read, with the samples in it.
func public(t *testing.T) string {
	t.Helper()
	bin := scene.Build(t)
	return scene.Public(t, filepath.Join(bin, "from_memory"), filepath.Join(bin, "lib.so"))
}

// within runs the tool behind a launcher.
func within(t *testing.T, launcher []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	line := slices.Concat(launcher, []string{binary(t)}, args)
	ctx, cancel := context.WithTimeout(t.Context(), scene.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Dir = "/"
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// innerPID is a process's number in its own pid namespace.
func innerPID(t *testing.T, pid int) int {
	t.Helper()
	all := strings.Fields(statusLine(t, pid, "NSpid"))
	n, err := strconv.Atoi(all[len(all)-1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// What works, works in each place: from inside, with the pids of there, and
// for root from outside.
func TestPlaces(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	dir := public(t)
	for _, pl := range places() {
		t.Run(pl.name, func(t *testing.T) {
			t.Parallel()
			scene.Require(t, pl.needs...)
			gdb := scene.StartGDB(t, scene.GDB{Launcher: pl.launcher, Dir: "/", Args: []string{"--args", filepath.Join(dir, "from_memory")}})
			gdb.Expect(scene.Prompt)
			gdb.Command("break foo")
			gdb.Send("run")
			gdb.WaitBlocked(scene.Patience)
			inferior := gdb.Inferior()
			looks := map[string]struct {
				enter         []string
				gdb, inferior int
			}{
				"inside":  {pl.enter(gdb.PID), gdb.PID, inferior},
				"outside": {nil, gdb.PID, inferior},
			}
			if pl.inner {
				looks["inside"] = struct {
					enter         []string
					gdb, inferior int
				}{pl.enter(gdb.PID), innerPID(t, gdb.PID), innerPID(t, inferior)}
			}
			for from, look := range looks {
				pid := strconv.Itoa(look.gdb)
				out, stderr, code := within(t, look.enter, "explain", "--format", "json", pid)
				var d analyze.Diagnosis
				if err := json.Unmarshal([]byte(out), &d); err != nil || code != exitFindings || len(d.Findings) == 0 {
					t.Fatalf("%s: explain: exit code %d, %v\n%s%s", from, code, err, out, stderr)
				}
				f := d.Findings[0]
				if f.Rule != analyze.RuleSelfFD || f.Effect != analyze.Hang || f.Intended == nil || int(f.Intended.PID) != look.inferior || f.Identity != analyze.Certain {
					t.Errorf("%s: %+v", from, f)
				}
				if want := fmt.Sprintf("/proc/%d/fd/4", look.inferior); f.Intended != nil && string(f.Intended.Reachable) != want {
					t.Errorf("%s: reachable as %s, want %s", from, f.Intended.Reachable, want)
				}
				if len(d.Stack) != 1 || len(d.Stack[0].Frames) < 10 {
					t.Errorf("%s: stack %+v", from, d.Stack)
				}
				// Who else could hold the pipe is known to those who see everybody.
				unseen := slices.ContainsFunc(f.Evidence, func(e analyze.Evidence) bool {
					return e.Kind == "not-seen" && strings.Contains(string(e.Text), "run as root to be certain")
				})
				if (f.Confidence == analyze.Certain) == unseen {
					t.Errorf("%s: %s, evidence %+v", from, f.Confidence, f.Evidence)
				}
				if out, stderr, code := within(t, look.enter, "ps"); code != exitFindings || !strings.Contains(out, pid) {
					t.Errorf("%s: ps: exit code %d\n%s%s", from, code, out, stderr)
				}
				// On a busy machine gdb may not have come back to its read when it
				// is looked at, at the end.
				eventually(t, from+": trace finds it", func() bool {
					out, stderr, code := within(t, look.enter, "trace", "--for", "50ms", "-p", pid)
					if code == exitTrouble {
						t.Fatalf("%s: trace: %s%s", from, out, stderr)
					}
					return code == exitFindings && strings.Contains(out, "self-fd")
				})
				if out, stderr, code := within(t, look.enter, "repair", "--dry-run", pid); code != 0 || !strings.Contains(out, fmt.Sprintf("/proc/%d/fd/4", innerPID(t, inferior))) {
					t.Errorf("%s: repair --dry-run: exit code %d\n%s%s", from, code, out, stderr)
				}
				if out, stderr, code := within(t, look.enter, "doctor"); code == exitTrouble || stderr != "" {
					t.Errorf("%s: doctor: exit code %d\n%s%s", from, code, out, stderr)
				}
			}
			untraced(t, gdb.PID)
			if pl.inner {
				// From outside, where the inferior has another number than the
				// debugger knows; and what it opens later is led to the file too.
				r := startWhosefd(t, "guard", "-v", "-p", strconv.Itoa(gdb.PID))
				gdb.Expect(stopAtFoo)
				noTrouble(t, gdb)
				// It is told when gdb has gone on.
				to := fmt.Sprintf("/proc/%d/fd/4", innerPID(t, inferior))
				eventually(t, "a call was led to "+to, func() bool { return strings.Contains(r.stderr.String(), to) })
				return
			}
			look := looks["inside"]
			if out, stderr, code := within(t, look.enter, "repair", "--detach", strconv.Itoa(look.gdb)); code != 0 {
				t.Fatalf("repair: exit code %d\n%s%s", code, out, stderr)
			}
			gdb.Expect(stopAtFoo)
		})
	}
}

// A debugger that is guarded in such a place does not hang.
func TestPlacesGuarded(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	dir := public(t)
	for _, pl := range places() {
		if pl.name != "an ordinary user" && pl.name != "a rootless container" {
			continue // that container is all of the others together
		}
		t.Run(pl.name, func(t *testing.T) {
			t.Parallel()
			scene.Require(t, pl.needs...)
			gdb := scene.StartGDB(t, scene.GDB{Launcher: slices.Concat(pl.launcher, []string{binary(t), "guard", "--"}), Dir: "/",
				Args: []string{"--args", filepath.Join(dir, "from_memory")}})
			gdb.Expect(scene.Prompt)
			gdb.Command("break foo")
			gdb.Send("run")
			gdb.Expect(stopAtFoo)
			gdb.Send("quit 3")
			// unshare(1) does not pass the code of a gdb on that has an inferior.
			if code := gdb.Wait(); code != 3 && !pl.inner {
				t.Errorf("the exit code is %d", code)
			}
		})
	}
}

// A process of one's own that does not want to be looked at is left alone, and
// what would be needed is said.
func TestNotDumpable(t *testing.T) {
	t.Parallel()
	scene.Require(t, "ptrace", "root", "gcc", "setpriv")
	dir := public(t)
	program := scene.Compile(t, dir, "a.c", "#include <stdio.h>\n#include <sys/prctl.h>\n#include <unistd.h>\n"+
		"int main(void) { prctl(PR_SET_DUMPABLE, 0); printf(\"ready %d\\n\", getpid()); fflush(stdout); return pause(); }\n", "gcc")
	p := scene.Start(t, scene.Command{Path: "setpriv", Args: []string{"--reuid=65534", "--regid=65534", "--clear-groups", program}, Dir: "/"})
	pid := strconv.Itoa(p.WaitReady())
	for _, args := range [][]string{{"explain", pid}, {"trace", "-p", pid}, {"repair", pid}, {"guard", "-p", pid}, {"preflight", pid}} {
		out, stderr, code := asNobody(t, args...)
		if code != exitTrouble || out != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "PR_SET_DUMPABLE") {
			t.Errorf("%v: exit code %d\n%s%s", args, code, out, stderr)
		}
	}
	if _, stderr, code := whosefd(t, "explain", pid); code != 0 {
		t.Errorf("as root: exit code %d\n%s", code, stderr)
	}
	if err := syscall.Kill(p.PID, 0); err != nil {
		t.Error(err)
	}
}

// What is written can be read by its owner only, whatever the umask.
func TestWrittenFilesArePrivate(t *testing.T) {
	scene.Require(t, "ptrace")
	dir, pid := t.TempDir(), strconv.Itoa(sleeping(t))
	defer syscall.Umask(syscall.Umask(0))
	for i, args := range [][]string{{"explain", pid}, {"trace", "--for", "10ms", "-p", pid}, {"trace", "--", "true"}, {"guard", "--", "true"}, {"report", pid}} {
		name := filepath.Join(dir, strconv.Itoa(i))
		if _, stderr, code := whosefd(t, slices.Concat(args[:1], []string{"-o", name}, args[1:])...); code != 0 {
			t.Errorf("%v: exit code %d\n%s", args, code, stderr)
		}
		if st, err := os.Stat(name); err != nil || st.Mode() != 0o600 || st.Size() == 0 {
			t.Errorf("%v: %+v, %v", args, st, err)
		}
	}
}

// Where Yama does not let an ordinary user attach, nothing is called healthy that
// could not be looked at, and what can be done is said. The scope is the machine's:
// it is not changed for a test.
func TestYama(t *testing.T) {
	t.Parallel()
	scene.Require(t, "root", "setpriv", "restrictions by Yama (1, 2)")
	b, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	if err != nil {
		t.Fatal(err)
	}
	scope := strings.TrimSpace(string(b))
	dir := public(t)
	user := []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"}
	refused := func(args ...string) {
		t.Helper()
		_, stderr, code := within(t, user, args...)
		if code != exitTrouble || !strings.Contains(stderr, "kernel.yama.ptrace_scope = "+scope) || !strings.Contains(stderr, "run with sudo") || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: exit code %d: %q", args, code, stderr)
		}
	}
	if scope == "2" {
		refused("trace", "--", "true")
		refused("guard", "--", "true")
		return
	}
	scene.Require(t, "gdb", "ptrace")
	gdb := scene.StartGDB(t, scene.GDB{Launcher: user, Dir: "/", Args: []string{"--args", filepath.Join(dir, "from_memory")}})
	gdb.Expect(scene.Prompt)
	gdb.Command("break foo")
	gdb.Send("run")
	gdb.WaitBlocked(scene.Patience)
	pid := strconv.Itoa(gdb.PID)
	for _, args := range [][]string{{"explain", pid}, {"report", pid, "-o", "-"}, {"repair", pid}, {"repair", "--dry-run", pid}, {"guard", "-p", pid}, {"trace", "-p", pid}, {"preflight", pid}} {
		refused(args...)
	}
	if out, stderr, _ := within(t, user, "ps", "--format", "json"); !strings.Contains(out, "kernel.yama.ptrace_scope") {
		t.Errorf("ps: %s%s", out, stderr)
	}
	out, stderr, code := within(t, user, "guard", "--", "gdb", "-nx", "-q", "-batch", "-iex", "set breakpoint pending on",
		"-ex", "break foo", "-ex", "run", filepath.Join(dir, "from_memory"))
	if code != 0 || !strings.Contains(out, "foo (x=21) at lib.c:1") {
		t.Errorf("guard: exit code %d: %s%s", code, out, stderr)
	}
}

// What cannot be begun is said, with exit code 2, and nothing is run.
func TestNotBegun(t *testing.T) {
	t.Parallel()
	none := []string{"unshare", "--mount", "sh", "-c", `umount -l /proc && exec "$@"`, "sh"}
	for _, c := range []struct {
		name     string
		launcher []string
		needs    []string
		args     []string
		says     string
	}{
		{"a command guarded without the right", []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}, []string{"setpriv"},
			[]string{"guard", "--engine", "ebpf", "--", "/bin/echo", "run"}, "this user may not load programs"},
		{"a command guarded without /proc", none, []string{"unshare", "mount namespaces"}, []string{"guard", "--", "/bin/echo", "run"}, "no process is to be seen at /proc"},
		{"a command traced without /proc", none, []string{"unshare", "mount namespaces"}, []string{"trace", "--", "/bin/echo", "run"}, "no process is to be seen at /proc"},
		{"ps without /proc", none, []string{"unshare", "mount namespaces"}, []string{"ps"}, "no process is to be seen at /proc"},
		{"explain without /proc", none, []string{"unshare", "mount namespaces"}, []string{"explain", "1"}, "no process is to be seen at /proc"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			scene.Require(t, c.needs...)
			stdout, stderr, code := within(t, c.launcher, c.args...)
			if code != 2 || stdout != "" || !strings.Contains(stderr, c.says) || strings.Contains(stderr, "goroutine") {
				t.Errorf("exit code %d\n%.500s%.500s", code, stdout, stderr)
			}
		})
	}
}
