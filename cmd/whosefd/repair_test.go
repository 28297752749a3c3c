package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"whosefd/samples/scene"
	"whosefd/tracer"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// stopAtFoo is where gdb stops if it has read the file that the inferior has
// mapped.
const stopAtFoo = `foo \(x=21\) at [^\n]*lib\.c:1\r\n[^\n]*\r\n\(gdb\) $`

// trouble is what gdb says of a library that it could not read, or read wrongly.
var trouble = regexp.MustCompile(`(?i)warning:[^\r\n]*|Can't read[^\r\n]*|not in executable format[^\r\n]*|Could not load[^\r\n]*`)

// tooWide is what a gdbserver says that does not know all registers of its processor:
// gdb 13 on one with AMX, whoever runs it.
const tooWide = "ptrace(regsets_store_inferior_registers): Bad address"

// noTrouble fails the test if gdb has complained about a library.
func noTrouble(t *testing.T, gdb *scene.Session) {
	t.Helper()
	for _, line := range trouble.FindAllString(gdb.Output(), -1) {
		if !strings.Contains(line, "File transfers from remote targets") && !strings.Contains(line, tooWide) && !strings.Contains(line, "are in different PID namespaces") {
			t.Errorf("gdb says %q", line)
		}
	}
}

// goesOn checks that gdb, stopped in foo, has the library's symbols, that its
// backtrace is whole, and that the program runs to its end. lib is a regular
// expression for the library's name.
func goesOn(t *testing.T, gdb *scene.Session, lib string, copies int) {
	t.Helper()
	if shown := gdb.Command("info sharedlibrary"); !regexp.MustCompile(`Yes[ ]+` + lib + `\r`).MatchString(shown) {
		t.Errorf("info sharedlibrary:\n%s", shown)
	}
	if shown := gdb.Command("bt"); !regexp.MustCompile(`#0 [^\n]*foo \(x=21\)[^\n]*\n#1 [^\n]* main \(`).MatchString(shown) {
		t.Errorf("bt:\n%s", shown)
	}
	for range copies - 1 {
		gdb.Send("continue")
		gdb.Expect(stopAtFoo)
	}
	gdb.Send("continue")
	gdb.Expect(`exited normally`)
	gdb.Expect(scene.Prompt)
	noTrouble(t, gdb)
}

// way is one in which the sample loads its library.
type way struct {
	name   string
	args   []string
	attach bool
	lib    string
	copies int
	long   bool // only without -short
}

// waysToHang are the ways that make gdb hang.
func waysToHang() []way {
	ws := []way{
		{name: "fd 4"},
		{name: "thread-self", args: []string{"--name", "thread-self"}, lib: "/proc/thread-self/fd/4"},
		{name: "dev-fd", args: []string{"--name", "dev-fd"}, lib: "/dev/fd/4"},
		{name: "by a thread", args: []string{"--thread"}},
		{name: "O_TMPFILE", args: []string{"--tmpfile"}},
		{name: "three libraries", args: []string{"--copies", "3"}, copies: 3},
		{name: "attached", attach: true},
		{name: "attached, closed", attach: true, args: []string{"--after", "close"}},
		{name: "attached, reused", attach: true, args: []string{"--after", "reuse"}},
		{name: "attached, three libraries", attach: true, args: []string{"--copies", "3"}, copies: 3, long: true},
		{name: "attached, thread-self by a thread", attach: true, args: []string{"--thread", "--name", "thread-self"}, lib: "/proc/thread-self/fd/4", long: true},
	}
	for _, fd := range []string{"3", "5", "6", "7", "8", "9"} {
		ws = append(ws, way{name: "fd " + fd, args: []string{"--fd", fd}, lib: "/proc/self/fd/" + fd, long: fd != "3" && fd != "9"})
	}
	for i := range ws {
		if ws[i].lib == "" {
			ws[i].lib = "/proc/self/fd/4"
		}
		ws[i].copies = max(ws[i].copies, 1)
	}
	return ws
}

func (w *way) hang(t *testing.T) *scene.Session {
	t.Helper()
	if w.attach {
		gdb, _ := scene.HangAttached(t, w.args...)
		return gdb
	}
	return scene.Hang(t, w.args...)
}

// repaired waits until a repair that stays says what it did.
func (r *running) repaired(t *testing.T) string {
	t.Helper()
	eventually(t, "repair says what it did", func() bool {
		select {
		case <-r.done:
			t.Fatalf("repair ended: exit code %d\n%s%s", r.ProcessState.ExitCode(), r.stdout.String(), r.stderr.String())
		default:
		}
		return strings.Contains(r.stdout.String(), "Ctrl-C ends that")
	})
	out := r.stdout.String()
	if !strings.Contains(out, "Repaired: descriptor ") || !strings.Contains(out, "the read that hung has returned") {
		t.Errorf("repair says %q", out)
	}
	return out
}

func TestRepair(t *testing.T) {
	t.Parallel()
	for _, w := range waysToHang() {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			if w.long && testing.Short() {
				t.Skip("a long test")
			}
			scene.Require(t, "gdb", "ptrace", "root")
			gdb := w.hang(t)
			r := startWhosefd(t, "repair", strconv.Itoa(gdb.PID))
			r.repaired(t)
			if w.attach {
				gdb.Expect(scene.Prompt)
				gdb.Command("break foo")
				gdb.Command("set var whosefd_wait = 0")
				gdb.Send("continue")
			}
			gdb.Expect(stopAtFoo)
			goesOn(t, gdb, w.lib, w.copies)
			gdb.Send("quit 7")
			if code := gdb.Wait(); code != 7 {
				t.Errorf("gdb's exit code is %d", code)
			}
			if code := r.wait(t); code != exitNothing {
				t.Errorf("exit code %d: %s%s", code, r.stdout.String(), r.stderr.String())
			}
		})
	}
}

// table is what each descriptor of a process leads to, with its flags.
func table(t *testing.T, pid int) map[int]string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/", pid)
	entries, err := os.ReadDir(dir + "fd")
	if err != nil {
		t.Fatal(err)
	}
	fds := map[int]string{}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		link, err := os.Readlink(dir + "fd/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		info := procFile(t, pid, "fdinfo/"+e.Name())
		flags := ""
		for line := range strings.Lines(info) {
			if strings.HasPrefix(line, "flags:") {
				flags = strings.Fields(line)[1]
			}
		}
		fds[n] = link + " " + flags
	}
	return fds
}

// signalState is a process's mask and dispositions.
func signalState(t *testing.T, pid int) string {
	t.Helper()
	return statusLine(t, pid, "SigBlk") + " " + statusLine(t, pid, "SigCgt") + " " + statusLine(t, pid, "SigIgn") + " " + statusLine(t, pid, "SigPnd")
}

// --detach leaves at once. gdb is stopped by job control meanwhile, so that it is
// seen just as the repair leaves it: nothing has changed but the one descriptor,
// and it is in the same call.
func TestRepairDetach(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	gdb := scene.Hang(t)
	fd := gdb.WaitBlocked(scene.Patience)
	if err := syscall.Kill(gdb.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped := func() bool { return strings.HasPrefix(statusLine(t, gdb.PID, "State"), "T (stopped)") }
	eventually(t, "gdb is stopped", stopped)
	want, call, signals, affinity := table(t, gdb.PID), procFile(t, gdb.PID, "syscall"), signalState(t, gdb.PID), statusLine(t, gdb.PID, "Cpus_allowed")
	out, stderr, code := whosefd(t, "repair", "--detach", strconv.Itoa(gdb.PID))
	if code != exitNothing || !strings.Contains(out, "Repaired: descriptor "+strconv.Itoa(fd)) || !strings.Contains(out, "opens the name again") {
		t.Errorf("exit code %d: %s%s", code, out, stderr)
	}
	untraced(t, gdb.PID)
	eventually(t, "gdb is stopped again", stopped)
	want[fd] = "/memfd:libfunction (deleted) " + strings.Fields(want[fd])[1]
	if now := table(t, gdb.PID); !maps.Equal(now, want) {
		t.Errorf("descriptors %v, want %v", now, want)
	}
	if now := procFile(t, gdb.PID, "syscall"); now != call {
		t.Errorf("it is in %s, was in %s", now, call)
	}
	if now := signalState(t, gdb.PID); now != signals {
		t.Errorf("signals %s, were %s", now, signals)
	}
	if now := statusLine(t, gdb.PID, "Cpus_allowed"); now != affinity {
		t.Errorf("CPUs %s, were %s", now, affinity)
	}
	if err := syscall.Kill(gdb.PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	gdb.Expect(stopAtFoo)
	if shown := gdb.Command("info sharedlibrary"); !regexp.MustCompile(`Yes +/proc/self/fd/4`).MatchString(shown) {
		t.Errorf("info sharedlibrary:\n%s", shown)
	}
}

// A debugger that hangs again at the next library is repaired in the same run. Where two names lead
// to the two ends of one pipe, the stream by which it reads tells.
func TestRepairDetachNext(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		hang func(*testing.T) *scene.Session
		n    int // libraries, at least
	}{
		"attached": {func(t *testing.T) *scene.Session { gdb, _ := scene.HangAttached(t, "--copies", "3"); return gdb }, 3},
		"launched": {func(t *testing.T) *scene.Session { return scene.Hang(t, "--copies", "7") }, 6}, // on 10 it has the terminal's end, or none
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scene.Require(t, "gdb", "ptrace", "root")
			gdb := tc.hang(t)
			out, stderr, code := whosefd(t, "repair", "--detach", "--format", "json", strconv.Itoa(gdb.PID))
			var res repairResult
			if err := json.Unmarshal([]byte(out), &res); err != nil || code != exitNothing || len(res.Threads) < tc.n {
				t.Errorf("exit code %d, %v: %s%s", code, err, out, stderr)
			}
			for _, th := range res.Threads {
				if !th.Done {
					t.Errorf("thread %+v", th)
				}
			}
			gdb.Expect(scene.Prompt)
			if shown := gdb.Command("print 6 * 7"); !strings.Contains(shown, "= 42") {
				t.Errorf("print shows %q", shown)
			}
			untraced(t, gdb.PID)
		})
	}
}

// Two libraries on the two ends of one of gdb's pipes: it opens them in the order of the list, and
// which of them it reads is certain without a look at its backtrace.
func TestTwoLibrariesOnOnePipe(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	gdb, _ := scene.HangAttached(t, "--fd", "5", "--copies", "2")
	for _, step := range []struct {
		name string
		code int // of repair: it hangs on the next one, or not
	}{{"/proc/self/fd/5", exitFindings}, {"/proc/self/fd/6", exitNothing}} {
		gdb.WaitBlocked(scene.Patience)
		d, _ := diagnosis(t, strconv.Itoa(gdb.PID))
		if len(d.Findings) != 1 || string(d.Findings[0].Name) != step.name || d.Findings[0].Identity != "certain" {
			t.Fatalf("not certain that it is %s: %+v", step.name, d.Findings)
		}
		if out, stderr, code := whosefd(t, "repair", "--library", step.name, "--detach", strconv.Itoa(gdb.PID)); code != step.code {
			t.Fatalf("exit code %d: %s%s", code, out, stderr)
		}
	}
	gdb.Expect(scene.Prompt)
	if shown := gdb.Command("info sharedlibrary"); strings.Count(shown, "/proc/self/fd/") != 2 {
		t.Errorf("info sharedlibrary:\n%s", shown)
	}
}

// Where the inferior's file has no descriptor any more and map_files is not
// permitted, nothing is done but what --release asks for.
func TestRepairUnreachable(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root", "setpriv")
	as := []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"}
	p := scene.Start(t, scene.Command{Path: as[0], Args: append(as[1:], filepath.Join(scene.Build(t), "from_memory"), "--after", "close", "--wait")})
	p.WaitReady()
	gdb := scene.StartGDB(t, scene.GDB{Launcher: as, Args: []string{"-p", strconv.Itoa(p.PID)}})
	gdb.WaitBlocked(scene.Patience)
	call := procFile(t, gdb.PID, "syscall")
	pid := strconv.Itoa(gdb.PID)
	// Root can reach the file, but it is gdb that would have to open it.
	for who, run := range map[string]func(*testing.T, ...string) (string, string, int){"nobody": asNobody, "root": whosefd} {
		for _, args := range [][]string{{"repair", pid}, {"repair", "--dry-run", pid}} {
			out, stderr, code := run(t, args...)
			if code != exitTrouble || out != "" || !strings.Contains(stderr, "--release") || strings.Count(stderr, "\n") != 1 {
				t.Errorf("%s, %v: exit code %d: %q %q", who, args, code, out, stderr)
			}
			untraced(t, gdb.PID)
			eventually(t, "the same call", func() bool { return procFile(t, gdb.PID, "syscall") == call })
		}
	}
	out, stderr, code := asNobody(t, "repair", "--release", pid)
	if code != exitNothing || !strings.Contains(out, "an empty file now") {
		t.Errorf("exit code %d: %q %q", code, out, stderr)
	}
	gdb.Expect(scene.Prompt)
}

// A gdb that is stopped by job control is repaired all the same, and stays
// stopped until it is continued.
func TestRepairStopped(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	gdb := scene.Hang(t)
	if err := syscall.Kill(gdb.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r := startWhosefd(t, "repair", strconv.Itoa(gdb.PID))
	eventually(t, "repair says what it did", func() bool { return strings.Contains(r.stdout.String(), "Ctrl-C ends that") })
	if strings.Contains(gdb.Output(), "foo (x=21)") {
		t.Error("gdb ran on")
	}
	if err := syscall.Kill(gdb.PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	gdb.Expect(stopAtFoo)
	goesOn(t, gdb, "/proc/self/fd/4", 1)
}

// eventPipe is the number of one end of the pipe with which gdb wakes itself, in
// which there is a byte when it runs a program.
func eventPipe(t *testing.T) int {
	t.Helper()
	const end = 12 // of gdb 13.1 that to write to, of 16.3 and 18.1 that to read from
	gdb := scene.Hang(t, "--fd", strconv.Itoa(end))
	defer gdb.Kill()
	stuck, fds := gdb.WaitBlocked(scene.Patience), table(t, gdb.PID)
	link, _, _ := strings.Cut(fds[end], " ")
	for n, leads := range fds {
		if n != end && n != stuck && strings.HasPrefix(leads, link+" ") {
			return n
		}
	}
	t.Fatalf("descriptor %d is no pipe of its own: %v", end, fds)
	return 0
}

// hasRead is how many bytes a process has read since it began.
func hasRead(t *testing.T, pid int) (n int) {
	t.Helper()
	if _, err := fmt.Sscanf(procFile(t, pid, "io"), "rchar: %d", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// symbolsAgain checks that repair has said how a gdb reads a library again of
// which it had read bytes of the wrong file first, and does that.
func symbolsAgain(t *testing.T, gdb *scene.Session, out string) {
	t.Helper()
	if !strings.Contains(out, "nosharedlibrary") {
		t.Errorf("repair says %q", out)
	}
	if shown := gdb.Command("info sharedlibrary"); !regexp.MustCompile(`No +/proc/self/fd/`).MatchString(shown) {
		t.Errorf("before: info sharedlibrary:\n%s", shown)
	}
	gdb.Command("nosharedlibrary")
	gdb.Command("sharedlibrary")
	if shown := gdb.Command("info sharedlibrary"); !regexp.MustCompile(`Yes +/proc/self/fd/`).MatchString(shown) {
		t.Errorf("after: info sharedlibrary:\n%s", shown)
	}
	gdb.Command("break foo")
	gdb.Command("set var whosefd_wait = 0")
	gdb.Send("continue")
	gdb.Expect(stopAtFoo)
}

// Bytes of the wrong file that gdb has read before it hung stay in its buffer, and
// the library comes late by that much: gdb refuses it. It reads it again, and right,
// when it is told to.
func TestRepairHadRead(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	gdb := scene.Hang(t, "--fd", strconv.Itoa(eventPipe(t)), "--wait")
	r := startWhosefd(t, "repair", strconv.Itoa(gdb.PID))
	out := r.repaired(t)
	gdb.Expect("ready [0-9]+")
	gdb.Interrupt()
	gdb.Expect(scene.Prompt)
	symbolsAgain(t, gdb, out)
}

// The same where the library's number is that of gdb's terminal, and the user
// types while gdb hangs.
func TestRepairTyped(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	gdb, _ := scene.Attach(t, "--fd", "0")
	hangs := func() bool {
		call := procFile(t, gdb.PID, "syscall")
		return strings.HasPrefix(call, "0 0x") && !strings.HasPrefix(call, "0 0x0 ")
	}
	eventually(t, "gdb hangs", hangs)
	for _, line := range []string{"print 1", "quit"} {
		before := hasRead(t, gdb.PID)
		gdb.Send(line)
		eventually(t, "it reads the line", func() bool { return hasRead(t, gdb.PID) >= before+len(line)+1 })
	}
	eventually(t, "gdb hangs again", hangs) // it reads on
	r := startWhosefd(t, "repair", strconv.Itoa(gdb.PID))
	out := r.repaired(t)
	gdb.Expect(scene.Prompt)
	symbolsAgain(t, gdb, out)
}

// --release ends the read; gdb goes on without the library.
func TestRepairRelease(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	gdb, _ := scene.HangAttached(t)
	out, stderr, code := whosefd(t, "repair", "--release", strconv.Itoa(gdb.PID))
	if code != exitNothing || !strings.Contains(out, "an empty file now") {
		t.Errorf("exit code %d: %s%s", code, out, stderr)
	}
	gdb.Expect(scene.Prompt)
	if shown := gdb.Command("print 6 * 7"); !strings.Contains(shown, "$1 = 42") {
		t.Errorf("print shows %q", shown)
	}
	if shown := gdb.Command("info sharedlibrary"); strings.Contains(shown, "Yes         /proc/self/fd") {
		t.Errorf("info sharedlibrary:\n%s", shown)
	}
	untraced(t, gdb.PID)
}

// A record on standard output has nothing else in it.
func TestRepairRecordOnStdout(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	out, stderr, code := whosefd(t, "repair", "--detach", "-o", "-", strconv.Itoa(scene.Hang(t).PID))
	if code == exitTrouble || !strings.Contains(stderr, "Repaired: ") || !strings.Contains(out, `{"type":"end"`) {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, `{"type":`) || !json.Valid([]byte(line)) {
			t.Errorf("in the record: %q", line)
		}
	}
}

// Where two names lead to the two ends of one pipe and both stand on the stack,
// it cannot be told which one hangs. Then that is what is said at the end.
func TestRepairReleaseHangs(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	gdb := scene.Hang(t, "--fd", "4", "--copies", "4")
	pid := strconv.Itoa(gdb.PID)
	out, stderr, code := whosefd(t, "repair", "--release", pid)
	if _, hangs := tracer.BlockedInRead(procview.New("/proc"), event.PID(gdb.PID)); hangs {
		if code != exitFindings || !strings.Contains(out, "Left, and it hangs") {
			t.Errorf("it hangs, and exit code %d: %s%s", code, out, stderr)
		}
	} else if code != exitNothing || strings.Contains(out, "hangs:") {
		t.Errorf("it does not hang, and exit code %d: %s%s", code, out, stderr)
	}
}

// A dry run prints the plan and changes nothing; and the other formats parse.
// All on one gdb, which the last step repairs.
func TestRepairPlan(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	gdb := scene.Hang(t)
	pid := strconv.Itoa(gdb.PID)
	fd := gdb.WaitBlocked(scene.Patience)
	call, fds, signals := procFile(t, gdb.PID, "syscall"), table(t, gdb.PID), signalState(t, gdb.PID)
	unchanged := func(what string) {
		t.Helper()
		untraced(t, gdb.PID)
		eventually(t, what+": the same call", func() bool { return procFile(t, gdb.PID, "syscall") == call })
		if now := table(t, gdb.PID); !maps.Equal(now, fds) {
			t.Errorf("%s: descriptors %v, were %v", what, now, fds)
		}
		if now := signalState(t, gdb.PID); now != signals {
			t.Errorf("%s: signals %s, were %s", what, now, signals)
		}
	}
	out, stderr, code := whosefd(t, "repair", "--dry-run", pid)
	if code != exitNothing || !strings.Contains(out, "nothing was changed") || !strings.Contains(out, fmt.Sprintf("make descriptor %d mean", fd)) && !strings.Contains(out, fmt.Sprintf("Make descriptor %d mean", fd)) {
		t.Errorf("exit code %d: %s%s", code, out, stderr)
	}
	unchanged("dry run")
	text := out
	out, _, code = whosefd(t, "repair", "--dry-run", "--format", "json", pid)
	var res repairResult
	if err := json.Unmarshal([]byte(out), &res); err != nil || code != exitNothing || !res.DryRun || int(res.Plan.PID) != gdb.PID ||
		!slices.ContainsFunc(res.Plan.Steps, func(s event.Step) bool { return s.Kind == event.StepReplace }) {
		t.Errorf("exit code %d, %v: %s", code, err, out)
	}
	unchanged("dry run as JSON")
	for _, s := range res.Plan.Steps {
		if s.Call != nil && !strings.Contains(text, "     "+s.Call.String()+"\n") {
			t.Errorf("the text does not have %s", s.Call)
		}
	}
	if out, stderr, code := asNobody(t, "repair", pid); code != exitTrouble || out != "" || strings.Count(stderr, "\n") != 1 {
		t.Errorf("an ordinary user: exit code %d, %q %q", code, out, stderr)
	}
	unchanged("an ordinary user")
	out, stderr, code = whosefd(t, "repair", "--detach", "--format", "json", pid)
	res = repairResult{}
	if err := json.Unmarshal([]byte(out), &res); err != nil || code != exitNothing || len(res.Threads) != 1 || !res.Threads[0].Done || res.Threads[0].ChangedUS <= 0 {
		t.Errorf("exit code %d, %v: %s%s", code, err, out, stderr)
	}
	gdb.Expect(stopAtFoo)
	// It is healthy now, as long as it does not open the name again.
	out, _, code = whosefd(t, "repair", pid)
	if code != exitNothing || !strings.HasPrefix(out, "Nothing to repair in pid "+pid+", and nothing was changed.") {
		t.Errorf("a repaired gdb: exit code %d, %q", code, out)
	}
	untraced(t, gdb.PID)
	if out, _, code := whosefd(t, "repair", "--format", "json", pid); code != exitNothing || !json.Valid([]byte(out)) {
		t.Errorf("a repaired gdb: exit code %d, %q", code, out)
	}
}

// A gdb with nothing wrong is left as it is.
func TestRepairHealthy(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	gdb := scene.Debug(t, "from_memory", "--cure")
	gdb.Expect(stopAtFoo)
	pid := strconv.Itoa(gdb.PID)
	eventually(t, "gdb waits for its user", func() bool { return strings.HasPrefix(statusLine(t, gdb.PID, "State"), "S") })
	call, fds := procFile(t, gdb.PID, "syscall"), table(t, gdb.PID)
	for _, args := range [][]string{{"repair", pid}, {"repair", "--release", pid}, {"repair", "--dry-run", pid}, {"repair", "--detach", pid}} {
		out, stderr, code := whosefd(t, args...)
		if code != exitNothing || stderr != "" || !strings.HasPrefix(out, "Nothing to repair in pid "+pid) {
			t.Errorf("%v: exit code %d: %q %q", args, code, out, stderr)
		}
	}
	untraced(t, gdb.PID)
	if now := procFile(t, gdb.PID, "syscall"); now != call {
		t.Errorf("it is in %s, was in %s", now, call)
	}
	if now := table(t, gdb.PID); !maps.Equal(now, fds) {
		t.Errorf("descriptors %v, were %v", now, fds)
	}
	gdb.Send("continue")
	gdb.Expect("exited normally")
}

// Signals in the middle of a repair neither break it nor get lost.
func TestRepairSignals(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	gdb := scene.Hang(t)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			for _, sig := range []syscall.Signal{syscall.SIGWINCH, syscall.SIGCHLD} {
				_ = syscall.Kill(gdb.PID, sig)
			}
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
			}
		}
	}()
	r := startWhosefd(t, "repair", strconv.Itoa(gdb.PID))
	eventually(t, "it is repaired", func() bool {
		return strings.Contains(r.stdout.String(), "Repaired: descriptor ") || strings.Contains(r.stderr.String(), "whosefd:")
	})
	close(stop)
	<-stopped
	if errs := r.stderr.String(); errs != "" {
		t.Fatalf("stderr: %s", errs)
	}
	gdb.Expect(`foo \(x=21\) at [^\n]*lib\.c:1`)
	// Each SIGWINCH has made readline draw its line again; past all that:
	gdb.Send("echo past-the-storm\\n")
	gdb.Expect(`\npast-the-storm`)
	gdb.Expect(scene.Prompt)
	goesOn(t, gdb, "/proc/self/fd/4", 1)
}

// However the repair that stays as a guard is ended, gdb runs on and answers.
func TestRepairEnds(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			gdb := scene.Hang(t)
			affinity := statusLine(t, gdb.PID, "Cpus_allowed")
			r := startWhosefd(t, "repair", strconv.Itoa(gdb.PID))
			r.repaired(t)
			gdb.Expect(stopAtFoo)
			if err := r.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if code := r.wait(t); sig != syscall.SIGKILL && code != exitNothing {
				t.Errorf("exit code %d: %s", code, r.stderr.String())
			}
			untraced(t, gdb.PID)
			eventually(t, "its own CPUs", func() bool { return statusLine(t, gdb.PID, "Cpus_allowed") == affinity })
			if shown := gdb.Command("print x * 2"); !strings.Contains(shown, "$1 = 42") {
				t.Errorf("print shows %q", shown)
			}
			if shown := gdb.Command("bt"); !strings.Contains(shown, "foo (x=21)") {
				t.Errorf("bt shows %q", shown)
			}
		})
	}
}

// The story of the article: the executor that a manager has spawned for a
// client's function waits; gdb attaches and hangs; it is explained and
// repaired; a breakpoint in the shipped function is hit; the client gets its
// result.
func TestStory(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	service := scene.RFaaS(t, "--wait", "--clients", "1")
	gdb := scene.StartGDB(t, scene.GDB{Args: []string{"-p", strconv.Itoa(service.Executor)}})
	gdb.WaitBlocked(scene.Patience)
	d, _ := diagnosis(t, strconv.Itoa(gdb.PID))
	f := hungOn(t, d, gdb.PID, service.Executor, string(d.Findings[0].Name))
	r := startWhosefd(t, "repair", strconv.Itoa(gdb.PID))
	r.repaired(t)
	gdb.Expect(scene.Prompt)
	if shown := gdb.Command("break foo"); !regexp.MustCompile(`Breakpoint 1 at 0x[0-9a-f]+: file [^\n]*lib\.c, line 1\.`).MatchString(shown) {
		t.Errorf("break shows %q", shown)
	}
	gdb.Command("set var executor_wait = 0")
	gdb.Send("continue")
	gdb.Expect(stopAtFoo)
	if shown := gdb.Command("info sharedlibrary"); !regexp.MustCompile(`Yes +` + regexp.QuoteMeta(string(f.Name)) + `\r`).MatchString(shown) {
		t.Errorf("info sharedlibrary:\n%s", shown)
	}
	gdb.Send("continue")
	gdb.Expect("exited normally")
	noTrouble(t, gdb)
	if code := service.Client.Wait(); code != 0 || service.Client.Out() != "foo(21) = 42\n" {
		t.Errorf("the client: exit code %d, %q %q", code, service.Client.Out(), service.Client.Err())
	}
	if code := service.Manager.Wait(); code != 0 {
		t.Errorf("the manager: exit code %d, %s", code, service.Manager.Err())
	}
	gdb.Expect(scene.Prompt)
	gdb.Send("quit")
	gdb.Wait()
	if code := r.wait(t); code != exitNothing {
		t.Errorf("repair: exit code %d, %s", code, r.stderr.String())
	}
}

// Ended before it came to anything, repair says so, and gdb hangs as before.
func TestRepairEndedBefore(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	// Not a child of this process, whose waiting for it would meet its stops.
	gdb := scene.StartGDB(t, scene.GDB{Launcher: behind, Args: []string{filepath.Join(scene.Build(t), "from_memory")}})
	gdb.Expect(scene.Prompt)
	gdb.Send("run")
	gdb.WaitBlocked(scene.Patience)
	fds := table(t, gdb.PID)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	a := &app{in: os.Stdin, out: &stdout, err: &stderr, getenv: os.Getenv, view: procview.New("/proc"), terminal: func(any) int { return 0 }}
	if code := a.run(ctx, []string{"repair", strconv.Itoa(gdb.PID)}); code != exitTrouble || !strings.Contains(stderr.String(), "ended before anything was changed") {
		t.Errorf("exit code %d: %s%s", code, stdout.String(), stderr.String())
	}
	untraced(t, gdb.PID)
	if now := table(t, gdb.PID); !maps.Equal(now, fds) {
		t.Errorf("descriptors %v, were %v", now, fds)
	}
	gdb.WaitBlocked(scene.Patience)
}
