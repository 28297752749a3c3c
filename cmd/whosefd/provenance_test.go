package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"whosefd/analyze"
	"whosefd/samples/scene"
)

// tracing starts a trace of a running process that is recorded, and gives the
// function that ends it.
func tracing(t *testing.T, pid int, file string) (end func()) {
	t.Helper()
	r := startWhosefd(t, "trace", "--engine", "ptrace", "-p", strconv.Itoa(pid), "-o", file)
	eventually(t, "the trace has begun", func() bool { return tracerThread(t, r, pid) != 0 })
	return func() {
		t.Helper()
		if err := r.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		if code := r.wait(t); code == exitTrouble {
			t.Fatalf("trace: %s%s", r.stdout.String(), r.stderr.String())
		}
	}
}

// tracerThread is the thread of a whosefd that traces pid; 0 for none.
func tracerThread(t *testing.T, r *running, pid int) int {
	t.Helper()
	tid, err := strconv.Atoi(statusLine(t, pid, "TracerPid"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", r.Process.Pid, tid)); err != nil {
		return 0
	}
	return tid
}

// evidenceOf gives the sentences of one kind.
func evidenceOf(f *analyze.Finding, kind string) []string {
	var texts []string
	for _, e := range f.Evidence {
		if e.Kind == kind {
			texts = append(texts, string(e.Text))
		}
	}
	return texts
}

// Each way to read another process's memory is followed to the name's place in
// the inferior.
func TestProvenance(t *testing.T) {
	t.Parallel()
	scene.Require(t, "ptrace", "root")
	for _, tc := range []struct {
		name string
		args []string
	}{
		{"pread", nil},
		{"pread in one piece", []string{"--piece", "4096"}},
		{"pread of single bytes", []string{"--piece", "1"}},
		{"seek and read", []string{"--by", "seek"}},
		{"preadv", []string{"--by", "preadv"}},
		{"process_vm_readv", []string{"--by", "vm"}},
		{"process_vm_readv in one piece", []string{"--by", "vm", "--piece", "200"}},
		{"PTRACE_PEEKDATA", []string{"--by", "peek"}},
		{"PTRACE_PEEKTEXT", []string{"--by", "text"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := scene.StartSample(t, "from_memory", "--fd", "30", "--wait")
			inferior := p.WaitReady()
			debugger := scene.StartSample(t, "small_debugger", append(tc.args, "--wait", strconv.Itoa(inferior))...)
			debugger.WaitReady()
			file := filepath.Join(t.TempDir(), "trace.jsonl")
			end := tracing(t, debugger.PID, file)
			debugger.Signal(syscall.SIGUSR1)
			debugger.Expect(`(?m)^done$`)
			end()
			d, _ := diagnosis(t, file)
			if len(d.Findings) != 1 || d.Findings[0].Rule != analyze.RuleSelfFD || d.Findings[0].Effect != analyze.Failed {
				t.Fatalf("verdict %s, %d findings: %s", d.Verdict, len(d.Findings), d.Summary)
			}
			f := &d.Findings[0]
			says := evidenceOf(f, "provenance")
			want := regexp.MustCompile(fmt.Sprintf(`^small_debugger read this name out of the memory of from_memory \(pid %d\), at (0x[0-9a-f]+), `+
				`the name in entry \d+ of its list of libraries, [0-9.]+ (µs|ms) before it opened it\.$`, inferior))
			if len(says) != 1 || !want.MatchString(says[0]) {
				t.Fatalf("provenance %q", says)
			}
			// What lies at that address in the inferior is the name.
			at, err := strconv.ParseInt(want.FindStringSubmatch(says[0])[1], 0, 64)
			if err != nil {
				t.Fatal(err)
			}
			mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", inferior))
			if err != nil {
				t.Fatal(err)
			}
			defer mem.Close()
			b := make([]byte, len(f.Name)+1)
			if _, err := mem.ReadAt(b, at); err != nil || string(b) != string(f.Name)+"\x00" {
				t.Errorf("at %#x is %q (%v)", at, b, err)
			}
			if table, _, code := whosefd(t, "table", file); code != exitNothing || !strings.Contains(table, string(f.Name)) {
				t.Errorf("table: exit code %d\n%s", code, table)
			}
		})
	}
}

// gdbserver opens the name in its own process, and reads it as gdb does.
func TestProvenanceGDBServer(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdbserver", "gdb", "ptrace", "root")
	p := scene.StartSample(t, "from_memory", "--fd", "60", "--wait")
	inferior := p.WaitReady()
	server := scene.Start(t, scene.Command{Path: "gdbserver", Args: []string{"--once", "--attach", "localhost:0", strconv.Itoa(inferior)}})
	port := server.ExpectErr(`Listening on port (\d+)`)[1]
	file := filepath.Join(t.TempDir(), "trace.jsonl")
	end := tracing(t, server.PID, file)
	gdb := scene.StartGDB(t, scene.GDB{Args: []string{"-iex", "set debug-file-directory /nonexistent"}})
	gdb.Expect(scene.Prompt)
	gdb.Command("target remote localhost:" + port)
	end()
	d, _ := diagnosis(t, file)
	if len(d.Findings) != 1 || d.Findings[0].Rule != analyze.RuleSelfFD || d.Findings[0].Effect != analyze.Failed || d.Debugger.Comm != "gdbserver" {
		t.Fatalf("%+v: %s, %+v", d.Debugger, d.Summary, d.Findings)
	}
	want := fmt.Sprintf("gdbserver read this name out of the memory of from_memory (pid %d), at 0x", inferior)
	if says := evidenceOf(&d.Findings[0], "provenance"); len(says) != 1 || !strings.HasPrefix(says[0], want) || !strings.Contains(says[0], "the name in entry ") {
		t.Errorf("provenance %q", says)
	}
}
