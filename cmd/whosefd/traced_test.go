package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"whosefd/samples/scene"
	"whosefd/tracer/event"
)

// What explain cannot see of a debugger that is guarded, it says with the guard's
// name.
func TestExplainGuarded(t *testing.T) {
	scene.Require(t, "gdb", "ptrace", "root")
	gdb := scene.StartGDB(t, scene.GDB{Args: []string{filepath.Join(scene.Build(t), "from_memory")}})
	gdb.Expect(scene.Prompt)
	r := startWhosefd(t, "guard", "-p", strconv.Itoa(gdb.PID))
	eventually(t, "it guards", func() bool { return strings.Contains(r.stderr.String(), "until it ends or Ctrl-C") })
	guard := fmt.Sprintf("traced by %s (pid %d)", filepath.Base(r.Path), r.Process.Pid)
	if out, stderr, _ := whosefd(t, "explain", strconv.Itoa(gdb.PID)); !strings.Contains(out, guard) {
		t.Errorf("not %q: %s%s", guard, out, stderr)
	}
	gdb.Send("quit")
	gdb.Wait()
	r.wait(t)
}

// An inferior that is met before its dynamic loader has run is described again
// when that has. With stops: this one has ended by the time that another engine's records are read.
func TestTraceEarly(t *testing.T) {
	scene.Require(t, "gdb", "ptrace")
	file := filepath.Join(t.TempDir(), "t.jsonl")
	program := filepath.Join(scene.Build(t), "from_memory")
	if _, stderr, code := whosefd(t, "trace", "--engine", "ptrace", "-o", file, "--", "gdb", "-q", "-nx", "-batch", "-ex", "run", "--args", program, "--cure"); code != exitNothing {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var last *event.Inferior
	r := event.NewReader(f)
	for ev, err := r.Next(); err == nil; ev, err = r.Next() {
		if inf, ok := ev.(*event.Inferior); ok {
			last = inf
		}
	}
	if last == nil || last.LinkMapError != "" || last.Libraries == 0 {
		t.Errorf("the last that is said of the inferior: %+v", last)
	}
}
