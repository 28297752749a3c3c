package main

import (
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"whosefd/analyze"
	"whosefd/samples/scene"
)

// An inferior of 32 bits has another layout of its list of libraries, and of its
// auxiliary vector.
func TestInferiorOf32Bits(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	program := filepath.Join(scene.Build32(t), "from_memory")
	toPrompt := func(gdb *scene.Session) {
		gdb.Expect(scene.Prompt)
		gdb.Command("break foo")
	}
	for _, attach := range []bool{false, true} {
		t.Run(map[bool]string{false: "launched", true: "attached"}[attach], func(t *testing.T) {
			var gdb *scene.Session
			if attach {
				p := scene.StartSample(t, "m32/from_memory", "--fd", "5", "--wait")
				p.WaitReady()
				gdb = scene.StartGDB(t, scene.GDB{Args: []string{"-p", strconv.Itoa(p.PID)}})
			} else {
				gdb = scene.StartGDB(t, scene.GDB{Args: []string{"--args", program, "--fd", "5"}})
				toPrompt(gdb)
				gdb.Send("run")
			}
			gdb.WaitBlocked(scene.Patience)
			d, _ := diagnosis(t, strconv.Itoa(gdb.PID))
			hungOn(t, d, gdb.PID, gdb.Inferior(), "/proc/self/fd/5")
			r := startWhosefd(t, "repair", strconv.Itoa(gdb.PID))
			r.repaired(t)
			if attach {
				toPrompt(gdb)
				gdb.Command("set var whosefd_wait = 0")
				gdb.Send("continue")
			}
			gdb.Expect(stopAtFoo)
			goesOn(t, gdb, "/proc/self/fd/5", 1)
		})
	}
	t.Run("guarded", func(t *testing.T) {
		gdb := guarded(t, scene.GDB{Args: []string{"--args", program, "--fd", "15"}})
		toPrompt(gdb)
		gdb.Send("run")
		gdb.Expect(stopAtFoo)
		goesOn(t, gdb, "/proc/self/fd/15", 1)
	})
}

// A debugger of 32 bits makes other calls by the same numbers. It is explained,
// but no call is made in it.
func TestDebuggerOf32Bits(t *testing.T) {
	t.Parallel()
	scene.Require(t, "ptrace", "root")
	bin := scene.Build32(t)
	inferior := scene.StartSample(t, "m32/from_memory", "--wait").WaitReady()
	// What a program waits in is said by the right name.
	if out, _, _ := whosefd(t, "explain", strconv.Itoa(inferior)); !regexp.MustCompile(`in (clock_)?nanosleep(_time64)?[,)]`).MatchString(out) {
		t.Errorf("the inferior:\n%s", out)
	}
	debugger := scene.Start(t, scene.Command{Path: "sh", Args: []string{"-c", `mkfifo "$0" && exec 4<>"$0" "$@"`, filepath.Join(t.TempDir(), "fifo"),
		filepath.Join(bin, "small_debugger"), "--wait", "--by", "peek", strconv.Itoa(inferior)}})
	debugger.WaitReady()
	pid := strconv.Itoa(debugger.PID)
	guard := startWhosefd(t, "guard", "-p", pid)
	eventually(t, "guarded", func() bool { return strings.Contains(guard.stderr.String(), "guarding") })
	debugger.Signal(syscall.SIGUSR1)
	eventually(t, "it hangs", func() bool { return strings.HasPrefix(procFile(t, debugger.PID, "syscall"), "3 ") })
	if err := guard.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	guard.wait(t)
	if said := guard.stderr.String(); !strings.Contains(said, "not guarded") {
		t.Errorf("guard says %q", said)
	}
	call := procFile(t, debugger.PID, "syscall")
	d, _ := diagnosis(t, pid)
	if d.Verdict != "hang" || len(d.Findings) != 1 || d.Findings[0].Rule != analyze.RuleSelfFD || d.Findings[0].Effect != analyze.Hang {
		t.Fatalf("verdict %s, %d findings: %s", d.Verdict, len(d.Findings), d.Summary)
	}
	for _, r := range d.Findings[0].Remedies {
		if r.Kind == "repair" || r.Kind == "release" || r.Kind == "guard" {
			t.Errorf("advises %s", r.Command)
		}
	}
	for _, flag := range []string{"--detach", "--release"} {
		if _, stderr, code := whosefd(t, "repair", flag, pid); code != exitTrouble || !strings.Contains(stderr, "32-bit") {
			t.Errorf("repair %s: exit code %d, %s", flag, code, stderr)
		}
	}
	untraced(t, debugger.PID)
	if now := procFile(t, debugger.PID, "syscall"); now != call {
		t.Errorf("it is in %s, was in %s", now, call)
	}
}
