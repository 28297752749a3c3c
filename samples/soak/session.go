package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"whosefd/samples/scene"
)

// start starts gdb on a program with threads that loads a library from memory
// by a name that every debugger understands, and stops it at its beginning.
func (s *soak) start(t scene.TB, launcher ...string) *scene.Session {
	gdb := scene.StartGDB(t, scene.GDB{Launcher: launcher,
		Args: []string{"--args", filepath.Join(s.samples, "from_memory"), "--cure", "--threads", "3", "--wait"}})
	gdb.Expect(scene.Prompt)
	gdb.Command("break main")
	gdb.Command("run")
	return gdb
}

// works has gdb do what people do.
func works(gdb *scene.Session) {
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
	gdb.Command("handle SIGCHLD stop print")
	gdb.Command("set scheduler-locking on") // so that this thread gets the signal
	gdb.Command("python import os, signal; os.kill(gdb.selected_inferior().pid, signal.SIGCHLD)")
	gdb.Send("stepi")
	gdb.Expect("received signal SIGCHLD")
	gdb.Expect(scene.Prompt)
	gdb.Command("set scheduler-locking off")
	gdb.Command("handle SIGCHLD nostop noprint")
}

// goesOn has gdb go on from there to its end, after whosefd has left.
func goesOn(gdb *scene.Session) {
	gdb.Command(`python for i in range(20): gdb.execute("stepi", to_string=True)`)
	gdb.Command("info breakpoints")
	gdb.Command("delete")
	gdb.Send("continue")
	gdb.Expect("exited normally")
	time.Sleep(50 * time.Millisecond) // gdb 13 may have shown its prompt before that
	gdb.Send("quit 7")
	gdb.Wait()
}

var (
	numbers = regexp.MustCompile(`0x[0-9a-f]+|\b\d{3,}\b`)
	// At which of its waits the program was interrupted is by chance.
	waiting = regexp.MustCompile(`(?s)received signal SIGINT.*?\(gdb\) `)
	// Which thread is told of first is by chance too, and so is their order.
	news = regexp.MustCompile(`(?m)^\[(New Thread|Thread|Switching to Thread)[^\n]*\n`)
	list = regexp.MustCompile(`(?s)  Id   Target Id.*?\(gdb\) `)
	// In between, SIGCHLD may come at another instruction.
	signalled = regexp.MustCompile(`(?s)received signal SIGCHLD.*?\(gdb\) `)
)

// plain is a transcript without what differs from run to run.
func plain(transcript string) string {
	text := strings.ReplaceAll(transcript, "\r", "")
	// How gdb tells of the threads' ends is by chance, even without us.
	text, _, _ = strings.Cut(text, "foo(21) = 42\n")
	text = waiting.ReplaceAllString(text, "received signal SIGINT\n(gdb) ")
	text = signalled.ReplaceAllString(text, "received signal SIGCHLD\n(gdb) ")
	text = list.ReplaceAllStringFunc(text, func(l string) string { return fmt.Sprintf("%d threads\n(gdb) ", strings.Count(l, "Thread")) })
	return numbers.ReplaceAllString(news.ReplaceAllString(text, ""), "N")
}

// difference shows where two transcripts part.
func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	at := 0
	for at < len(w) && at < len(g) && w[at] == g[at] {
		at++
	}
	around := func(lines []string) string {
		return strings.Join(lines[max(0, min(at, len(lines))-3):min(at+5, len(lines))], "\n    ")
	}
	return fmt.Sprintf("from line %d on it is\n    %s\n  and not\n    %s", at+1, around(g), around(w))
}

// known makes the transcript and the state that a watched session must have.
func (s *soak) known(t scene.TB) {
	gdb := s.start(t)
	works(gdb)
	s.expected.state = look(t, gdb).general(gdb.PID)
	goesOn(gdb)
	s.expected.transcript = plain(gdb.Output())
}

// finished holds a session that worked against the one that nobody watched.
func (r *round) finished(gdb *scene.Session, inferior int) {
	r.compare(r.s.expected.state, look(r.t, gdb).general(gdb.PID))
	r.alone(gdb, inferior)
	goesOn(gdb)
	wrong := ""
	if got := plain(gdb.Output()); got != r.s.expected.transcript {
		wrong = difference(r.s.expected.transcript, got)
	}
	r.held(right, wrong)
}

// alone says whether gdb is the inferior's tracer.
func (r *round) alone(gdb *scene.Session, inferior int) {
	wrong := ""
	if tracer := tracerOf(inferior); tracer != gdb.PID {
		wrong = fmt.Sprintf("pid %d is traced by %d, not by gdb (pid %d)", inferior, tracer, gdb.PID)
	}
	r.held(oneTracer, wrong)
}

// working: whosefd joins a gdb that works, and is ended meanwhile.
func (r *round) working() {
	gdb := r.s.start(r.t)
	inferior := gdb.Inferior()
	done := make(chan struct{})
	w := r.watch(gdb.PID)
	go func() { defer close(done); w.end(gdb.PID) }()
	works(gdb)
	<-done
	r.finished(gdb, inferior)
}

// behindArg makes this program run a command as a shell does, stay behind it, and
// say nothing of how it has ended.
const behindArg = "__behind"

// stayBehind is that.
func stayBehind(argv []string) {
	signal.Notify(make(chan os.Signal, 1), os.Interrupt, syscall.SIGQUIT) // the keyboard's are for the command
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	_ = cmd.Run()
	time.Sleep(time.Hour) // killed with the session
}

// launched: whosefd has started the gdb, which works, and is ended meanwhile.
func (r *round) launched() {
	dir, exe := r.ownProgram()
	self, err := os.Executable()
	if err != nil {
		r.t.Fatalf("%v", err)
	}
	gdb := r.s.start(r.t, self, behindArg, exe, r.command, "--engine", r.engine, "-o", filepath.Join(dir, "record"), "--")
	inferior := gdb.Inferior()
	done := make(chan struct{})
	go func() {
		defer close(done)
		time.Sleep(r.delay)
		if r.ending == atStop {
			awaitStop(gdb.PID)
		}
		if pid := parent(gdb.PID); slices.Contains(running(exe), pid) {
			_ = syscall.Kill(pid, signals[r.ending])
		}
		r.held(untraced, within(func() string {
			if tracer := tracerOf(gdb.PID); tracer > 0 {
				return fmt.Sprintf("gdb is traced by pid %d", tracer)
			}
			return ""
		}))
		r.held(leftovers, within(func() string {
			if pids := running(exe); len(pids) > 0 {
				return fmt.Sprintf("processes %v run whosefd", pids)
			}
			return ""
		}))
	}()
	works(gdb)
	<-done
	r.compare(r.s.expected.state, look(r.t, gdb).general(gdb.PID))
	r.alone(gdb, inferior)
	gdb.Command(`python for i in range(20): gdb.execute("stepi", to_string=True)`)
	gdb.Command("info breakpoints")
	gdb.Command("delete")
	gdb.Send("continue")
	gdb.Expect("exited normally")
	wrong := ""
	if got := plain(gdb.Output()); got != r.s.expected.transcript {
		wrong = difference(r.s.expected.transcript, got)
	}
	r.held(right, wrong)
}

// hanging: whosefd is ended while gdb hangs, or is just being given back. It must
// be possible to give it back all the same.
func (r *round) hanging() {
	gdb := scene.Hang(r.t, "--fd", strconv.Itoa(r.fd))
	inferior := gdb.Inferior()
	was := look(r.t, gdb)
	w := r.watch(gdb.PID)
	w.end(gdb.PID)
	if wrong := ""; r.command == "explain" || r.command == "trace" {
		if r.ends == "0" {
			wrong = "exit code 0: " + w.stderr.String()
		}
		r.held(honest, wrong)
	}
	is := look(r.t, gdb)
	if r.command == "repair" || r.command == "guard" {
		was.fds, is.fds = nil, nil // gdb has gone on, perhaps
		was.signals, is.signals = nil, nil
		was.terminal, is.terminal = "", ""
	}
	r.compare(was, is)
	r.alone(gdb, inferior)
	r.toTheEnd(gdb)
}

// led: guard has joined before there is an inferior, and is ended while gdb
// starts it and opens its library.
func (r *round) led() {
	gdb := scene.StartGDB(r.t, scene.GDB{Args: []string{"--args", filepath.Join(r.s.samples, "from_memory"), "--fd", strconv.Itoa(r.fd)}})
	gdb.Expect(scene.Prompt)
	gdb.Command("break foo")
	was := look(r.t, gdb)
	w := r.watch(gdb.PID)
	w.said("until it ends or Ctrl-C")
	gdb.Send("run")
	w.end(gdb.PID)
	now := look(r.t, gdb)
	r.held(cpuMasks, differs(was.cpus, now.cpus, false))
	r.held(others, differs(was.rest, now.rest, false))
	r.toTheEnd(gdb)
}

var reached = regexp.MustCompile(`foo \(x=21\) at [^\n]*lib\.c:1`)

// toTheEnd repairs gdb if it hangs, and has it go on to the program's end.
func (r *round) toTheEnd(gdb *scene.Session) {
	var repair <-chan string // runs already, and stays as a guard
	for deadline := time.Now().Add(scene.Patience); !reached.MatchString(gdb.Output()); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.held(givenBack, "gdb shows:\n"+gdb.Output())
			return
		}
		if repair != nil {
			select {
			case says := <-repair:
				r.held(givenBack, says)
				return
			default:
				continue
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		_, err := gdb.AwaitBlocked(ctx)
		cancel()
		if err != nil {
			continue // it does not hang
		}
		r.again = r.command == "repair" || r.command == "guard"
		repair = r.repair(gdb)
	}
	spare := 0
	for _, link := range look(r.t, gdb).fds {
		if strings.HasPrefix(link, "/memfd:") {
			spare++
		}
	}
	r.spare = spare > 1
	gdb.Expect(`foo \(x=21\)`)
	gdb.Expect(scene.Prompt)
	gdb.Command("bt")
	gdb.Command("delete")
	gdb.Send("continue")
	gdb.Expect("exited normally")
	r.held(givenBack, "")
}

// repair runs repair, which stays as a guard until the round's end. What comes out
// of the channel is how it has ended before.
func (r *round) repair(gdb *scene.Session) <-chan string {
	repair := exec.Command(r.s.whosefd, "repair", strconv.Itoa(gdb.PID))
	repair.Env = scene.Environ(r.t)
	var said bytes.Buffer
	repair.Stdout, repair.Stderr = &said, &said
	if err := repair.Start(); err != nil {
		r.t.Fatalf("repair: %v", err)
	}
	says, ended := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(ended)
		_ = repair.Wait()
		says <- fmt.Sprintf("repair: %v\n%s", repair.ProcessState, said.String())
	}()
	r.t.Cleanup(func() { _ = repair.Process.Kill(); <-ended })
	return says
}
