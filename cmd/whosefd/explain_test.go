package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"whosefd/analyze"
	"whosefd/samples/scene"
	"whosefd/tracer/event"
)

// hungOn checks a diagnosis of a gdb that hangs on a name of its inferior.
func hungOn(t *testing.T, d *analyze.Diagnosis, gdb, inferior int, name string) *analyze.Finding {
	t.Helper()
	if d.Verdict != "hang" || len(d.Findings) == 0 {
		t.Fatalf("verdict %q with %d findings: %s", d.Verdict, len(d.Findings), d.Summary)
	}
	f := &d.Findings[0]
	if f.Rule != analyze.RuleSelfFD || f.Effect != analyze.Hang || string(f.Name) != name {
		t.Fatalf("finding %s, %s, %q", f.Rule, f.Effect, f.Name)
	}
	if f.Confidence != analyze.Certain {
		t.Errorf("confidence %s; evidence: %+v, missing %v", f.Confidence, f.Evidence, d.Missing)
	}
	// What the kernel says the thread is blocked in.
	var call []string
	eventually(t, "the read", func() bool {
		call = strings.Fields(procFile(t, gdb, "syscall"))
		return len(call) > 1
	})
	fd, err := strconv.ParseInt(call[1], 0, 32)
	if err != nil || !f.Opened.FD.Is(event.FD(fd)) || !d.Debugger.FD.Is(event.FD(fd)) {
		t.Errorf("descriptor %+v, the kernel says %s (%v)", f.Opened.FD, call[1], err)
	}
	if int(d.Debugger.PID) != gdb || d.Debugger.State != "blocked" || d.Debugger.Syscall != "read" {
		t.Errorf("debugger %+v", d.Debugger)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(fmt.Sprintf("/proc/%d/fd/%d", gdb, fd), &st); err != nil {
		t.Fatal(err)
	}
	if f.Opened.Ino != st.Ino || f.Opened.Dev != st.Dev || f.Opened.Kind != event.Pipe {
		t.Errorf("opened %+v, stat says %d:%d", f.Opened, st.Dev, st.Ino)
	}
	if f.Intended == nil || int(f.Intended.PID) != inferior || f.Intended.Reachable == "" {
		t.Fatalf("intended %+v", f.Intended)
	}
	if err := syscall.Stat(string(f.Intended.Reachable), &st); err != nil || st.Ino != f.Intended.Ino || st.Dev != f.Intended.Dev {
		t.Errorf("%s is %d:%d (%v), not %+v", f.Intended.Reachable, st.Dev, st.Ino, err, f.Intended)
	}
	b, err := os.ReadFile(string(f.Intended.Reachable))
	if err != nil || !strings.HasPrefix(string(b), "\x7fELF") {
		t.Errorf("%s is not the library: %v", f.Intended.Reachable, err)
	}
	return f
}

// Every way in which the sample makes a real gdb hang.
func TestExplainHang(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		args   []string
		attach bool
		lib    string
		kind   event.Kind
		gone   bool // the inferior's descriptor does not lead to the library any more
	}{
		{name: "fd 3", args: []string{"--fd", "3"}, lib: "/proc/self/fd/3", kind: event.Memfd},
		{name: "fd 4", lib: "/proc/self/fd/4", kind: event.Memfd},
		{name: "fd 5", args: []string{"--fd", "5"}, lib: "/proc/self/fd/5", kind: event.Memfd},
		{name: "fd 6", args: []string{"--fd", "6"}, lib: "/proc/self/fd/6", kind: event.Memfd},
		{name: "fd 7", args: []string{"--fd", "7"}, lib: "/proc/self/fd/7", kind: event.Memfd},
		{name: "fd 8", args: []string{"--fd", "8"}, lib: "/proc/self/fd/8", kind: event.Memfd},
		{name: "fd 9", args: []string{"--fd", "9"}, lib: "/proc/self/fd/9", kind: event.Memfd},
		{name: "thread-self", args: []string{"--name", "thread-self"}, lib: "/proc/thread-self/fd/4", kind: event.Memfd},
		{name: "dev-fd", args: []string{"--name", "dev-fd"}, lib: "/dev/fd/4", kind: event.Memfd},
		{name: "by a thread", args: []string{"--thread"}, lib: "/proc/self/fd/4", kind: event.Memfd},
		{name: "msync", args: []string{"--msync"}, lib: "/proc/self/fd/4", kind: event.Memfd},
		{name: "O_TMPFILE", args: []string{"--tmpfile"}, lib: "/proc/self/fd/4", kind: event.Regular},
		{name: "hostile memfd name", args: []string{"--memfd-name", "a \x1b[31mb\nc\xff<i>"}, lib: "/proc/self/fd/4", kind: event.Memfd},
		{name: "three libraries", args: []string{"--copies", "3"}, lib: "/proc/self/fd/4", kind: event.Memfd},
		{name: "attached", attach: true, lib: "/proc/self/fd/4", kind: event.Memfd},
		{name: "attached, closed", attach: true, args: []string{"--after", "close"}, lib: "/proc/self/fd/4", kind: event.Memfd, gone: true},
		{name: "attached, reused", attach: true, args: []string{"--after", "reuse"}, lib: "/proc/self/fd/4", kind: event.Memfd, gone: true},
		{name: "attached, thread-self by a thread", attach: true, args: []string{"--thread", "--name", "thread-self"}, lib: "/proc/thread-self/fd/4", kind: event.Memfd},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			scene.Require(t, "gdb", "ptrace", "root")
			var gdb *scene.Session
			if tc.attach {
				gdb, _ = scene.HangAttached(t, tc.args...)
			} else {
				gdb = scene.Hang(t, tc.args...)
			}
			inferior := gdb.Inferior()
			before := procFile(t, gdb.PID, "syscall")
			signals := statusLine(t, gdb.PID, "SigCgt") + statusLine(t, gdb.PID, "SigBlk") + statusLine(t, gdb.PID, "SigPnd")
			d, code := diagnosis(t, strconv.Itoa(gdb.PID))
			if code != exitFindings {
				t.Errorf("exit code %d", code)
			}
			f := hungOn(t, d, gdb.PID, inferior, tc.lib)
			if f.Intended.Kind != tc.kind {
				t.Errorf("intended is a %s, want %s", f.Intended.Kind, tc.kind)
			}
			if f.Intended.FD.Known == tc.gone {
				t.Errorf("the inferior's descriptor: %+v", f.Intended.FD)
			}
			n, err := strconv.Atoi(tc.lib[strings.LastIndexByte(tc.lib, '/')+1:])
			if err != nil || !slices.Contains(f.Opened.SameAsFD, event.FD(n)) {
				t.Errorf("the same as %v, want %d among them", f.Opened.SameAsFD, n)
			}
			checkStack(t, d, tc.lib)
			untraced(t, gdb.PID)
			eventually(t, "the same call", func() bool { return procFile(t, gdb.PID, "syscall") == before })
			if now := statusLine(t, gdb.PID, "SigCgt") + statusLine(t, gdb.PID, "SigBlk") + statusLine(t, gdb.PID, "SigPnd"); now != signals {
				t.Errorf("signals %s, before %s", now, signals)
			}
			checkText(t, gdb.PID)
		})
	}
}

// checkStack checks the backtrace: the read at its top, main at its end, and
// the name on the stack between.
func checkStack(t *testing.T, d *analyze.Diagnosis, lib string) {
	t.Helper()
	if len(d.Stack) != 1 || len(d.Stack[0].Frames) < 10 {
		t.Fatalf("stack %+v", d.Stack)
	}
	frames := d.Stack[0].Frames
	if !strings.Contains(string(frames[0].Module), "libc") {
		t.Errorf("frame 0: %+v", frames[0])
	}
	held := false
	for _, f := range frames {
		for _, s := range f.Strings {
			held = held || string(s.Text) == lib
		}
	}
	if !held {
		t.Error("the name is not found on the stack")
	}
	if d.Stack[0].Error != "" {
		t.Errorf("the backtrace ended early: %s", d.Stack[0].Error)
	}
}

var controls = regexp.MustCompile("[\x00-\x09\x0b-\x1f\x7f]")

// checkText checks that what a person reads is clean.
func checkText(t *testing.T, pid int) {
	t.Helper()
	out, _, _ := whosefd(t, "explain", strconv.Itoa(pid))
	if bad := controls.FindString(out); bad != "" || !strings.Contains(out, "Root cause") {
		t.Errorf("text with %q:\n%s", bad, out)
	}
}

// The executor of a service loads what a client sent; gdb attaches to it.
func TestExplainExecutor(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	service := scene.RFaaS(t, "--wait")
	gdb := scene.StartGDB(t, scene.GDB{Args: []string{"-p", strconv.Itoa(service.Executor)}})
	gdb.WaitBlocked(scene.Patience)
	d, _ := diagnosis(t, strconv.Itoa(gdb.PID))
	hungOn(t, d, gdb.PID, service.Executor, string(d.Findings[0].Name))
}

// What a healthy gdb does is no finding, and it does not notice the look.
func TestExplainHealthy(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace")
	healthy := func(t *testing.T, gdb *scene.Session) *analyze.Diagnosis {
		t.Helper()
		before := ""
		eventually(t, "gdb has come to rest", func() bool {
			last := before
			before = procFile(t, gdb.PID, "syscall")
			return before == last && before != "running\n"
		})
		d, code := diagnosis(t, strconv.Itoa(gdb.PID))
		if code != exitNothing || len(d.Findings) != 0 || d.Verdict != analyze.VerdictBlocked && d.Verdict != analyze.VerdictOK {
			t.Errorf("exit code %d, verdict %s: %s, %+v", code, d.Verdict, d.Summary, d.Findings)
		}
		untraced(t, gdb.PID)
		eventually(t, "the same call as "+before, func() bool { return procFile(t, gdb.PID, "syscall") == before })
		return d
	}
	t.Run("at a breakpoint", func(t *testing.T) {
		gdb := scene.Debug(t, "from_file")
		gdb.Expect(`Breakpoint 1, foo[^\n]*\n[^\n]*\n` + scene.Prompt)
		for range 5 {
			if d := healthy(t, gdb); !strings.Contains(string(d.Summary), "waits for") {
				t.Errorf("summary: %s", d.Summary)
			}
		}
		gdb.Send("continue")
		gdb.Expect("exited normally")
	})
	t.Run("waiting for its inferior", func(t *testing.T) {
		gdb := scene.Debug(t, "from_memory", "--cure", "--wait")
		gdb.Expect(`ready \d+`)
		healthy(t, gdb)
		gdb.Interrupt()
		gdb.Expect(`SIGINT`)
		healthy(t, gdb)
	})
	t.Run("the cure", func(t *testing.T) {
		gdb := scene.Debug(t, "from_memory", "--cure")
		gdb.Expect(`Breakpoint 1, foo \(x=21\)[^\n]*\n[^\n]*\n` + scene.Prompt)
		healthy(t, gdb)
	})
	t.Run("no inferior", func(t *testing.T) {
		gdb := scene.StartGDB(t, scene.GDB{})
		gdb.Expect(scene.Prompt)
		healthy(t, gdb)
	})
}

// The evidence explains the same elsewhere.
func TestExplainFile(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	gdb := scene.Hang(t)
	file := filepath.Join(t.TempDir(), "evidence.jsonl")
	live, _, code := whosefd(t, "explain", "--format", "json", "-o", file, strconv.Itoa(gdb.PID))
	if code != exitFindings {
		t.Fatalf("exit code %d", code)
	}
	again, _, code := whosefd(t, "explain", "--format", "json", file)
	if code != exitFindings || again != live {
		t.Errorf("exit code %d; live:\n%s\nfrom the file:\n%s", code, live, again)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, mode %v, want only its owner to read it", err, st.Mode())
	}
	// Cut off in the middle of a line: what is there counts.
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "cut.jsonl")
	if err := os.WriteFile(cut, b[:len(b)-10], 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := whosefd(t, "explain", cut)
	if code != exitFindings || !strings.Contains(stderr, "cut off") {
		t.Errorf("cut off: exit code %d, %q", code, stderr)
	}
	for _, format := range []string{"table", "text", "json", "markdown"} {
		out, stderr, code := whosefd(t, "table", "--format", format, file)
		if code != exitNothing || out == "" || stderr != "" {
			t.Errorf("table --format %s: exit code %d, %q %q", format, code, out, stderr)
		}
		if format == "json" && !json.Valid([]byte(out)) {
			t.Errorf("not JSON: %s", out)
		}
	}
}

// The whole of a hang, followed from the start.
func TestTraceHang(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	file := filepath.Join(t.TempDir(), "trace.jsonl")
	gdb := scene.StartGDB(t, scene.GDB{
		Launcher: []string{binary(t), "trace", "-o", file, "--"},
		Args:     []string{"-ex", "run", filepath.Join(scene.Build(t), "from_memory")},
	})
	gdb.WaitBlocked(scene.Patience)
	if err := syscall.Kill(gdb.Launcher, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an end line", func() bool {
		b, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(b), `{"type":"end"`)
	})
	untraced(t, gdb.PID)
	d, code := diagnosis(t, file)
	if code != exitFindings {
		t.Errorf("exit code %d", code)
	}
	f := hungOn(t, d, gdb.PID, gdb.Inferior(), "/proc/self/fd/4")
	if !slices.ContainsFunc(f.Evidence, func(e analyze.Evidence) bool { return e.Kind == "provenance" }) {
		t.Errorf("no proof that the name was read from the inferior: %+v", f.Evidence)
	}
	if len(d.Findings) != 1 {
		t.Errorf("%d findings of one hang", len(d.Findings))
	}
	if len(d.Stack) != 1 || int(d.Stack[0].TID) != gdb.PID || len(d.Stack[0].Frames) < 20 || len(evidenceOf(f, "stack")) == 0 {
		t.Errorf("backtrace %+v", d.Stack)
	}
	calls, _, _ := whosefd(t, "table", "--format", "csv", "--show", "calls", "--path", "/proc/self/fd/4", file)
	if !strings.Contains(calls, "openat") || !strings.Contains(calls, "memfd:libfunction") {
		t.Errorf("calls:\n%s", calls)
	}
}

func TestPS(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	gdb := scene.Hang(t)
	out, _, code := whosefd(t, "ps", "--format", "json")
	var rows []analyze.PSRow
	if err := json.Unmarshal([]byte(out), &rows); err != nil || code != exitFindings {
		t.Fatalf("exit code %d, %v\n%s", code, err, out)
	}
	i := slices.IndexFunc(rows, func(r analyze.PSRow) bool { return int(r.PID) == gdb.PID })
	if i < 0 || rows[i].Effect != analyze.Hang || len(rows[i].Inferiors) != 1 || len(rows[i].Threads) == 0 {
		t.Errorf("row %d of\n%s", i, out)
	}
}

// An ordinary user is told why not, and what to do.
func TestExplainNotPermitted(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	gdb := scene.Hang(t)
	for _, cmd := range []string{"explain", "trace", "repair", "guard"} {
		args := []string{cmd, "-p", strconv.Itoa(gdb.PID)}
		out, stderr, code := asNobody(t, args...)
		if code != exitTrouble || out != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "root") {
			t.Errorf("%v: exit code %d, %q, %q", args, code, out, stderr)
		}
	}
	untraced(t, gdb.PID)
}
