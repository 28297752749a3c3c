package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"whosefd/samples/scene"
)

// start starts gdb on a program with threads that loads a library from memory
// by a name that every debugger understands, and stops it at its beginning.
func (s *soak) start(t scene.TB) *scene.Session {
	gdb := scene.StartGDB(t, scene.GDB{Args: []string{"--args", filepath.Join(s.samples, "from_memory"), "--cure", "--threads", "3", "--wait"}})
	gdb.Expect(scene.Prompt)
	gdb.Command("break main")
	gdb.Command("run")
	return gdb
}

// works has gdb do what people do, from there to its end.
func (s *soak) works(gdb *scene.Session) {
	gdb.Command("break foo")
	gdb.Send("continue")
	gdb.Expect(`ready \d+`)
	time.Sleep(50 * time.Millisecond) // until gdb waits for it again
	gdb.Interrupt()
	gdb.Expect("received signal SIGINT")
	gdb.Expect(scene.Prompt)
	gdb.Command("set var whosefd_wait = 0")
	gdb.Command("continue")
	gdb.Command("bt")
	gdb.Command("info threads")
	gdb.Command(`python for i in range(150): gdb.execute("stepi", to_string=True)`)
	gdb.Command("info symbol $pc")
	gdb.Command("delete")
	gdb.Send("continue")
	gdb.Expect("exited normally")
	time.Sleep(50 * time.Millisecond) // gdb 13 may have shown its prompt before that
	gdb.Send("quit")
	gdb.Wait()
}

var (
	numbers = regexp.MustCompile(`0x[0-9a-f]+|\b\d{3,}\b`)
	// At which of its waits the program was interrupted is by chance.
	waiting = regexp.MustCompile(`(?s)received signal SIGINT.*?\(gdb\) `)
	// Which thread is told of first is by chance too, and so is their order.
	news = regexp.MustCompile(`(?m)^\[(New Thread|Thread|Switching to Thread)[^\n]*\n`)
	list = regexp.MustCompile(`(?s)  Id   Target Id.*?\(gdb\) `)
)

// plain is a transcript without what differs from run to run.
func plain(transcript string) string {
	text := strings.ReplaceAll(transcript, "\r", "")
	// How gdb tells of the threads' ends is by chance, even without us.
	text, _, _ = strings.Cut(text, "foo(21) = 42\n")
	text = waiting.ReplaceAllString(text, "received signal SIGINT\n(gdb) ")
	text = list.ReplaceAllStringFunc(text, func(l string) string { return fmt.Sprintf("%d threads\n(gdb) ", strings.Count(l, "Thread")) })
	return numbers.ReplaceAllString(news.ReplaceAllString(text, ""), "N")
}

// working watches a gdb that works, ends whosefd, and compares.
func (s *soak) working(t scene.TB, p plan) {
	gdb := s.start(t)
	done := make(chan string, 1)
	go func() { done <- s.watch(p, gdb.PID) }()
	s.works(gdb)
	if trouble := <-done; trouble != "" {
		t.Fatalf("%s", trouble)
	}
	if got := plain(gdb.Output()); got != s.expected {
		t.Fatalf("the transcript is another:\n%s\n--- and not:\n%s", got, s.expected)
	}
}

// hanging ends whosefd while gdb hangs, or is just being given back, and sees to
// it that gdb can be given back all the same.
func (s *soak) hanging(t scene.TB, p plan) (again bool) {
	gdb := scene.Hang(t, "--fd", strconv.Itoa(p.fd))
	was := state(t, gdb.PID)
	if trouble := s.watch(p, gdb.PID); trouble != "" {
		t.Fatalf("%s", trouble)
	}
	left(t, gdb.PID, was)
	reached := regexp.MustCompile(`foo \(x=21\) at [^\n]*lib\.c:1`)
	for deadline := time.Now().Add(30 * time.Second); !reached.MatchString(gdb.Output()); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("gdb was not given back:\n%s", gdb.Output())
		}
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		_, err := gdb.AwaitBlocked(ctx)
		cancel()
		if err != nil {
			continue // it does not hang
		}
		again = true
		// It stays as a guard, since gdb opens the name again later.
		repair := exec.Command(s.whosefd, "repair", strconv.Itoa(gdb.PID))
		var said bytes.Buffer
		repair.Stdout, repair.Stderr = &said, &said
		if err := repair.Start(); err != nil {
			t.Fatalf("repair: %v", err)
		}
		ended := make(chan error, 1)
		go func() { ended <- repair.Wait() }()
		t.Cleanup(func() { _ = repair.Process.Kill(); <-ended })
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("repair: %v\n%s", err, said.String())
		case <-time.After(500 * time.Millisecond):
		}
	}
	gdb.Send("delete")
	gdb.Send("continue")
	gdb.Expect("exited normally")
	return again && p.command == "repair" || again && p.command == "guard"
}

// watch runs whosefd on gdb and ends it as planned. It says what was wrong.
func (s *soak) watch(p plan, pid int) (trouble string) {
	argv := []string{s.whosefd, p.command}
	if p.command == "trace" || p.command == "guard" {
		argv = append(argv, "-p")
	}
	argv = append(argv, strconv.Itoa(pid))
	dir, err := os.MkdirTemp("", "whosefd-soak-")
	if err != nil {
		return err.Error()
	}
	defer os.RemoveAll(dir)
	wrap := func(script string) {
		argv = append([]string{"sh", "-c", script, "sh"}, argv...)
	}
	switch p.ending {
	case "full disk":
		argv = append(argv, "-o", filepath.Join(dir, "record"))
		wrap(`mount -t tmpfs -o size=64k none ` + dir + ` && exec "$@"`)
		argv = append([]string{"unshare", "-m"}, argv...)
	case "no descriptors":
		wrap(`ulimit -n ` + strconv.Itoa(5+int(p.delay.Milliseconds())%12) + ` && exec "$@"`)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.WaitDelay = time.Second
	r, w, err := os.Pipe()
	if err != nil {
		return err.Error()
	}
	defer r.Close()
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		return err.Error()
	}
	_ = w.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	go func() { // what is printed is read, up to the moment
		buf := make([]byte, 4096)
		for {
			if _, err := r.Read(buf); err != nil {
				return
			}
		}
	}()
	time.Sleep(p.delay)
	signals := map[string]syscall.Signal{"SIGINT": syscall.SIGINT, "SIGTERM": syscall.SIGTERM, "SIGHUP": syscall.SIGHUP,
		"SIGQUIT": syscall.SIGQUIT, "SIGKILL": syscall.SIGKILL}
	sig, isSignal := signals[p.ending]
	if p.ending == "closed pipe" {
		_ = r.Close()
	}
	if isSignal {
		_ = cmd.Process.Signal(sig) // it may have ended already
	}
	// What has not ended by its ending in a while, such as a guard that has
	// nothing to print, is asked to.
	for i, ask := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		select {
		case <-ended:
			return judge(p, cmd, stderr.String(), pid)
		case <-time.After(time.Duration(2+8*i) * time.Second):
			if i == 1 || isSignal {
				trouble = fmt.Sprintf("whosefd did not end by %s: %s", p.ending, stderr.String())
			}
			_ = cmd.Process.Signal(ask)
		}
	}
	<-ended
	return trouble
}

// judge looks at how whosefd ended.
func judge(p plan, cmd *exec.Cmd, stderr string, pid int) string {
	for _, word := range []string{"panic", "internal error", "goroutine "} {
		if strings.Contains(stderr, word) && p.ending != "SIGQUIT" { // at which a Go program shows its goroutines
			return "whosefd: " + stderr
		}
	}
	if st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && st.Signaled() && p.ending != st.Signal().String() &&
		p.ending != "SIGKILL" && st.Signal() != syscall.SIGHUP && st.Signal() != syscall.SIGQUIT && st.Signal() != syscall.SIGPIPE &&
		st.Signal() != syscall.SIGINT && st.Signal() != syscall.SIGTERM {
		return fmt.Sprintf("whosefd was killed by %v: %s", st.Signal(), stderr)
	}
	for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return "" // gdb has ended meanwhile
		}
		if strings.Contains(string(status), "\nTracerPid:\t0\n") {
			return ""
		}
		if time.Now().After(deadline) {
			tracer := field(string(status), "TracerPid")
			by, _ := os.ReadFile("/proc/" + tracer + "/cmdline")
			return fmt.Sprintf("gdb is still traced, by pid %s (%q); whosefd had pid %d and said: %s", tracer, by, cmd.Process.Pid, stderr)
		}
	}
}

// field is a line of proc_pid_status(5).
func field(status, name string) string {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// attributes are lines of proc_pid_status(5) that whosefd must leave as they are.
var attributes = []string{"SigBlk", "SigIgn", "SigCgt", "Cpus_allowed_list", "NoNewPrivs", "Seccomp"}

// state is what may not change in a process: of each thread, its attributes, and
// of the process, its descriptors' numbers.
func state(t scene.TB, pid int) map[string]string {
	all := map[string]string{}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", pid, task.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatalf("%v", err)
		}
		for _, a := range attributes {
			all[task.Name()+" "+a] = field(string(b), a)
		}
	}
	return all
}

// left fails the round if a process is not as it was.
func left(t scene.TB, pid int, was map[string]string) {
	// The keeper needs a moment, where whosefd was killed.
	var wrong string
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		wrong = ""
		now := state(t, pid)
		for k, v := range was {
			if got, there := now[k]; there && got != v {
				wrong = fmt.Sprintf("%s was %s and is %s", k, v, got)
			}
		}
		if wrong == "" {
			return
		}
	}
	t.Fatalf("%s", wrong)
}
