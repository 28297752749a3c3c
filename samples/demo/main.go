// Command demo shows what whosefd does, on a real gdb: it makes one hang on
// the program of the article, looks at it, explains it, repairs it, and reaches
// the breakpoint. Everything that it starts, it ends.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"whosefd/samples/scene"
)

func main() {
	whosefd := flag.String("whosefd", "bin/whosefd", "the program to show")
	flag.Parse()
	path, err := filepath.Abs(*whosefd)
	if err == nil {
		err = scene.Play(os.Stderr, func(t scene.TB) { (&demo{t: t, whosefd: path, w: os.Stdout}).play() })
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

type demo struct {
	t       scene.TB
	whosefd string
	w       io.Writer
}

func (d *demo) play() {
	d.title("gdb debugs a program that loads a library from memory: dlopen(\"/proc/self/fd/4\")")
	gdb := scene.Hang(d.t)
	d.show(gdb.Output())
	d.note("It hangs. It answers to nothing, not even to Ctrl-C.")

	d.title("Which debugger is it?")
	d.run(1, "ps")
	d.title("Why?")
	d.run(1, "explain", strconv.Itoa(gdb.PID))
	d.title("What would a repair do?")
	d.run(0, "repair", "--dry-run", strconv.Itoa(gdb.PID))

	d.title("Do it")
	repair := exec.Command(d.whosefd, "repair", strconv.Itoa(gdb.PID))
	repair.Stdout, repair.Stderr = d.w, d.w
	d.note("$ whosefd repair %d", gdb.PID)
	if err := repair.Start(); err != nil {
		d.t.Fatalf("%v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- repair.Wait() }()
	defer func() { _ = repair.Process.Kill() }()
	before := len(gdb.Output())
	gdb.Expect(`Breakpoint 1, foo \(x=21\)`)
	gdb.Command("bt")
	gdb.Command("info sharedlibrary")
	gdb.Command("continue")
	time.Sleep(500 * time.Millisecond) // for the last words of repair
	d.title("And gdb, which nobody killed, goes on:")
	d.show(gdb.Output()[before:])
	if err := repair.Process.Signal(syscall.SIGINT); err != nil {
		d.t.Fatalf("end repair: %v", err)
	}
	select {
	case err := <-ended:
		if err != nil {
			d.t.Fatalf("repair: %v", err)
		}
	case <-time.After(10 * time.Second):
		d.t.Fatalf("repair did not end")
	}
	d.record(gdb.PID)
	gdb.Send("quit")
	gdb.Wait()

	d.title("The same from the start under guard: it never hangs")
	guarded := exec.Command(d.whosefd, "guard", "--", "gdb", "-nx", "-q", "-batch",
		"-ex", "set breakpoint pending on", "-ex", "break foo", "-ex", "run", "-ex", "bt", "-ex", "continue",
		filepath.Join(scene.Build(d.t), "from_memory"))
	d.note("$ whosefd guard -- gdb … from_memory")
	out, err := guarded.CombinedOutput()
	d.show(string(out))
	if err != nil || !bytes.Contains(out, []byte("foo (x=21)")) {
		d.t.Fatalf("guard: the breakpoint was not reached: %v", err)
	}
	d.note("Done. Everything that was started has ended.")
}

// record shows the log and the tables on the gdb that runs now.
func (d *demo) record(pid int) {
	dir, err := os.MkdirTemp("", "whosefd-demo-")
	if err != nil {
		d.t.Fatalf("%v", err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "gdb.jsonl")
	d.title("What gdb did at the start of a hang, recorded and shown as tables")
	cmd := exec.Command(d.whosefd, "trace", "-o", file, "--for", "4s", "--", "gdb", "-nx", "-q", "-batch",
		"-ex", "run", filepath.Join(scene.Build(d.t), "from_memory"))
	cmd.Env = append(os.Environ(), "DEBUGINFOD_URLS=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	d.note("$ whosefd trace -o gdb.jsonl --for 4s -- gdb -batch -ex run from_memory")
	err = cmd.Run() // not with its output in a pipe: the gdb, which hangs still, holds that open
	defer func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }()
	if _, statErr := os.Stat(file); statErr != nil {
		d.t.Fatalf("trace: %v", err)
	}
	d.run(0, "table", "--path", "/proc/self/fd/4", "--show", "calls", file)
	d.run(1, "table", "--show", "fds", "--findings", file)
	d.run(0, "table", "--show", "summary", file)
}

func (d *demo) title(text string) {
	fmt.Fprintf(d.w, "\n━━━ %s\n\n", text)
}

func (d *demo) note(format string, args ...any) { fmt.Fprintf(d.w, format+"\n", args...) }

func (d *demo) show(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintf(d.w, "    %s\n", strings.TrimRight(line, "\r\n"))
	}
}

// run shows a command of whosefd and what it prints.
func (d *demo) run(want int, args ...string) {
	d.note("$ whosefd %s", strings.Join(args, " "))
	cmd := exec.Command(d.whosefd, args...)
	out, err := cmd.CombinedOutput()
	d.show(string(out))
	if code := cmd.ProcessState.ExitCode(); code != want {
		d.t.Fatalf("whosefd %s: exit code %d, want %d: %v", args[0], code, want, err)
	}
}
