package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"whosefd/samples/scene"
)

// signals are the endings that are one.
var signals = map[string]syscall.Signal{"SIGINT": syscall.SIGINT, "SIGTERM": syscall.SIGTERM, "SIGHUP": syscall.SIGHUP,
	"SIGQUIT": syscall.SIGQUIT, "SIGKILL": syscall.SIGKILL, atWork: syscall.SIGKILL, atStop: syscall.SIGKILL}

// watcher is a whosefd that looks at a gdb.
type watcher struct {
	r      *round
	cmd    *exec.Cmd
	dir    string
	exe    string
	stdout *os.File
	stderr scene.Buffer
	ended  chan struct{}
}

// ownProgram is a link to whosefd by which its processes are known from those of
// other rounds, and a folder for its files.
func (r *round) ownProgram() (dir, exe string) {
	dir, err := os.MkdirTemp(r.s.dir, "round-")
	if err != nil {
		r.t.Fatalf("%v", err)
	}
	r.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	exe = filepath.Join(dir, "whosefd")
	if err := os.Link(r.s.whosefd, exe); err != nil {
		r.t.Fatalf("%v", err)
	}
	return dir, exe
}

// watch starts whosefd on a gdb.
func (r *round) watch(pid int) *watcher {
	w := &watcher{r: r, ended: make(chan struct{})}
	w.dir, w.exe = r.ownProgram()
	argv := []string{w.exe, r.command}
	if r.command == "trace" || r.command == "guard" {
		argv = append(argv, "--engine", r.engine, "-p")
	}
	argv = append(argv, strconv.Itoa(pid))
	wrap := func(script string) { argv = append([]string{"sh", "-c", script, "sh"}, argv...) }
	switch r.ending {
	case "full disk":
		disk := filepath.Join(w.dir, "disk")
		if err := os.Mkdir(disk, 0o700); err != nil {
			r.t.Fatalf("%v", err)
		}
		argv = append(argv, "-o", filepath.Join(disk, "record"))
		wrap(`mount -t tmpfs -o size=64k none ` + disk + ` && exec "$@"`)
		argv = append([]string{"unshare", "-m"}, argv...)
	case "few descriptors":
		wrap(`ulimit -n ` + strconv.Itoa(6+int(r.delay.Microseconds())%14) + ` && exec "$@"`)
	}
	w.cmd = exec.Command(argv[0], argv[1:]...)
	w.cmd.Env = scene.Environ(r.t)
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	w.cmd.Stderr = &w.stderr
	w.cmd.WaitDelay = time.Second
	out, in, err := os.Pipe()
	if err != nil {
		r.t.Fatalf("%v", err)
	}
	w.stdout, w.cmd.Stdout = out, in
	err = w.cmd.Start()
	_ = in.Close()
	if err != nil {
		r.t.Fatalf("%v", err)
	}
	go func() { _ = w.cmd.Wait(); close(w.ended) }() // the state that it leaves in cmd says all
	go func() {                                      // what is printed is read, up to the ending
		buf := make([]byte, 4096)
		for {
			if _, err := out.Read(buf); err != nil {
				return
			}
		}
	}()
	r.t.Cleanup(func() {
		_ = w.cmd.Process.Kill()
		<-w.ended
		_ = w.stdout.Close()
	})
	return w
}

// said waits until standard error has a text, or the end; false for that.
func (w *watcher) said(text string) bool {
	for deadline := time.Now().Add(scene.Patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if strings.Contains(w.stderr.String(), text) {
			return true
		}
		select {
		case <-w.ended:
			return false
		default:
		}
	}
	return false
}

func (w *watcher) hasEnded() bool {
	select {
	case <-w.ended:
		return true
	default:
		return false
	}
}

// end ends it as planned, after the delay, and judges how it ended.
func (w *watcher) end(gdb int) {
	// A trace without stops attaches to nobody.
	for began := time.Now(); w.r.ending == atWork && tracerOf(gdb) == 0 && !w.hasEnded() && time.Since(began) < time.Second; {
		runtime.Gosched()
	}
	select {
	case <-w.ended:
	case <-time.After(w.r.delay):
	}
	if w.r.ending == atStop {
		awaitStop(gdb)
	}
	pid := w.cmd.Process.Pid
	sig, isSignal := signals[w.r.ending]
	switch w.r.ending {
	case "closed pipe":
		_ = w.stdout.Close()
	case "no descriptors":
		limit(pid, syscall.RLIMIT_NOFILE, 0)
	case "no memory":
		limit(pid, syscall.RLIMIT_AS, 0)
	}
	if isSignal {
		_ = w.cmd.Process.Signal(sig) // it may have ended already
	}
	asked := ""
	hasEnded := func(within time.Duration) bool {
		select {
		case <-w.ended:
			return true
		case <-time.After(within):
			return false
		}
	}
	// What does not end by its ending, such as a guard that prints nothing, is asked to.
	if !isSignal && !hasEnded(time.Second) {
		_ = w.cmd.Process.Signal(syscall.SIGTERM)
	}
	if !hasEnded(scene.Patience) {
		asked = fmt.Sprintf("it did not end by %s: %s", w.r.ending, w.stderr.String())
		_ = w.cmd.Process.Kill()
	}
	select {
	case <-w.ended:
	case <-time.After(scene.Patience):
		w.r.t.Fatalf("whosefd (pid %d) is killed and does not end", pid)
	}
	w.r.held(codes, asked+w.badEnd())
	w.r.held(untraced, within(func() string {
		if tracer := tracerOf(gdb); tracer > 0 {
			by, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", tracer))
			return fmt.Sprintf("gdb is traced by pid %d (%q); whosefd had pid %d and said: %s", tracer, by, pid, w.stderr.String())
		}
		return ""
	}))
	w.r.held(leftovers, within(func() string {
		if pids := running(w.exe); len(pids) > 0 {
			return fmt.Sprintf("processes %v run whosefd", pids)
		}
		return ""
	}))
}

// within asks until the answer is "".
func within(ask func() string) (answer string) {
	for deadline := time.Now().Add(scene.Patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if answer = ask(); answer == "" {
			return ""
		}
	}
	return answer
}

// awaitStop waits until a process is in a stop of its tracer, but not for long.
func awaitStop(pid int) {
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); runtime.Gosched() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil || strings.HasPrefix(field(string(b), "State"), "t") {
			return
		}
	}
}

// parent is the parent of a process; 0 for none.
func parent(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(field(string(b), "PPid"))
	if err != nil {
		return 0
	}
	return n
}

// limit sets a limit of a process that runs (prlimit(2)).
func limit(pid, resource int, value uint64) {
	to := syscall.Rlimit{Cur: value, Max: value}
	// It may have ended already.
	_, _, _ = syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(pid), uintptr(resource), uintptr(unsafe.Pointer(&to)), 0, 0, 0)
}

// badEnd says what is wrong in how it ended.
func (w *watcher) badEnd() string {
	stderr := w.stderr.String()
	status, ok := w.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		return "no wait status"
	}
	// The Go runtime's own words, where it cannot go on, and for SIGQUIT before
	// or after whosefd takes it.
	dumps := w.r.ending == "SIGQUIT" || w.r.ending == "no memory"
	if (strings.Contains(stderr, "goroutine ") || strings.Contains(stderr, "internal error")) && !dumps {
		return "it says: " + stderr
	}
	if status.Signaled() {
		w.r.ends = status.Signal().String()
		switch sig := status.Signal(); {
		case sig == signals[w.r.ending], sig == syscall.SIGPIPE && w.r.ending == "closed pipe", sig == syscall.SIGTERM, dumps && sig == syscall.SIGABRT:
		default:
			return fmt.Sprintf("it was killed by %v: %s", sig, stderr)
		}
		return ""
	}
	w.r.ends = strconv.Itoa(status.ExitStatus())
	switch status.ExitStatus() {
	case 0, 1:
	case 2:
		if stderr == "" {
			return "exit code 2 and not a word"
		}
		// Asked to end, it ends well, save where there was nothing to look at.
		_, isSignal := signals[w.r.ending]
		if isSignal && !dumps && !strings.Contains(stderr, "has ended") && !strings.Contains(stderr, "ended before") && !strings.Contains(stderr, "no longer in that call") {
			return "exit code 2: " + stderr
		}
	default:
		return fmt.Sprintf("exit code %d: %s", status.ExitStatus(), stderr)
	}
	return ""
}
