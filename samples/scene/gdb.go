package scene

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/creack/pty"
)

// GDB says how to start gdb.
type GDB struct {
	Path string   // "" is gdb on the PATH
	Args []string // behind the scene's own, which are -nx -q and settings (see settings)
	Env  []string // NAME=VALUE, beside the scene's environment
	Dir  string   // "" is this process's working directory

	// Launcher is a command and its arguments, behind which gdb's own command
	// line follows, as with strace.
	Launcher []string
}

// settings keep gdb from asking questions and from stopping at a full screen.
var settings = []string{
	"-iex", "set pagination off",
	"-iex", "set confirm off",
	"-iex", "set breakpoint pending on",
}

// Session is a gdb on a terminal of its own, of whose session it is the leader,
// so that it has job control and Ctrl-C reaches it.
type Session struct {
	PID      int // gdb's
	Launcher int // the launcher's pid; gdb's own without one

	t    TB
	cmd  *exec.Cmd
	mark string
	tty  *os.File // the master side
	out  *transcript
	done chan struct{} // closed when the program on the terminal is reaped

	drained chan struct{} // closed when all that the terminal has shown is in out
}

// Prompt matches gdb's prompt where nothing has been written behind it.
const Prompt = `\(gdb\) $`

// StartGDB starts gdb and does not wait for its prompt, which need not come: a
// gdb that attaches may hang before. At the test's end gdb and all that it has
// started are killed; a process that it has attached to is not.
func StartGDB(t TB, g GDB) *Session {
	t.Helper()
	if g.Path == "" {
		g.Path = "gdb"
	}
	Require(t, g.Path, "ptrace")
	mark, err := newMark()
	if err != nil {
		t.Fatalf("start %s: %v", g.Path, err)
	}
	line := slices.Concat(g.Launcher, []string{g.Path, "-nx", "-q"}, settings, g.Args)
	s := &Session{
		t:    t,
		cmd:  exec.Command(line[0], line[1:]...),
		mark: mark,
		out:  newTranscript(),
		done: make(chan struct{}),

		drained: make(chan struct{}),
	}
	// A dumb terminal gets plain text. LINES and COLUMNS would override the
	// terminal's size, debuginfod would go to the network, and with another
	// shell than sh gdb would start its inferiors through that.
	env := without(os.Environ(), markName, "LINES", "COLUMNS", "DEBUGINFOD_URLS", "HISTFILE")
	env = append(env, "TERM=dumb", "LC_ALL=C", "SHELL=/bin/sh", "GDBHISTFILE=")
	s.cmd.Env = append(append(env, g.Env...), mark)
	s.cmd.Dir = g.Dir
	s.tty, err = pty.StartWithSize(s.cmd, &pty.Winsize{Rows: 50, Cols: 200})
	if err != nil {
		t.Fatalf("start %s on a terminal: %v", strings.Join(line, " "), err)
	}
	s.Launcher = s.cmd.Process.Pid
	go s.drain()
	go func() {
		// The state that it leaves in cmd says all that the error says.
		_ = s.cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(func() {
		if err := s.end(); err != nil {
			t.Errorf("end %s (pid %d): %v", g.Path, s.PID, err)
		}
	})
	if s.PID, err = s.find(g); err != nil {
		t.Fatalf("%v\n%s", err, s.Output())
	}
	return s
}

// drain reads the terminal to its end, which comes (as EIO, see tty_ioctl(4))
// when nobody has the slave side open any more, or when it is closed here.
func (s *Session) drain() {
	defer close(s.drained)
	defer s.out.end()
	buf := make([]byte, 4096)
	for {
		n, err := s.tty.Read(buf)
		if _, werr := s.out.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// find returns gdb's pid: that of the program on the terminal or, behind a
// launcher, of the marked process that runs gdb and is the oldest that does.
func (s *Session) find(g GDB) (int, error) {
	if len(g.Launcher) == 0 {
		return s.Launcher, nil
	}
	comm := filepath.Base(g.Path)
	comm = comm[:min(len(comm), 15)] // TASK_COMM_LEN of linux/sched.h, less the NUL
	deadline := time.Now().Add(Patience)
	for time.Now().Before(deadline) {
		// Numbers rise until they wrap, so the first is the oldest, and not
		// some child that gdb has forked and that is about to exec.
		for _, pid := range marked(s.mark) {
			name, err := os.ReadFile(procPath(pid, "comm"))
			if err == nil && strings.TrimSuffix(string(name), "\n") == comm {
				return pid, nil
			}
		}
		select {
		case <-s.done:
			return 0, fmt.Errorf("%s ended without having started %s", g.Launcher[0], g.Path)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return 0, fmt.Errorf("%s has not started %s", g.Launcher[0], g.Path)
}

// Output is all that the terminal has shown, typed lines too.
func (s *Session) Output() string { return s.out.String() }

// Send types a line.
func (s *Session) Send(line string) {
	s.t.Helper()
	s.write(line + "\n")
}

// Interrupt types Ctrl-C.
func (s *Session) Interrupt() {
	s.t.Helper()
	s.write("\x03")
}

func (s *Session) write(text string) {
	s.t.Helper()
	if _, err := s.tty.WriteString(text); err != nil {
		s.t.Fatalf("type %q to gdb (pid %d): %v\n%s", text, s.PID, err, s.Output())
	}
}

// Expect waits until the terminal shows, behind what was expected before, a match
// of the regular expression. It returns the text up to the match's end. Typed
// lines are shown too, and lines end in \r\n.
func (s *Session) Expect(pattern string) string {
	s.t.Helper()
	return s.ExpectWithin(Patience, pattern)
}

// ExpectWithin is Expect with another patience.
func (s *Session) ExpectWithin(patience time.Duration, pattern string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	text, err := s.Await(ctx, pattern)
	if err != nil {
		s.t.Fatalf("gdb (pid %d): %v\n%s", s.PID, err, s.Output())
	}
	return text
}

// Await is Expect for those who go on if nothing comes.
func (s *Session) Await(ctx context.Context, pattern string) (string, error) {
	text, _, err := s.out.await(ctx, regexp.MustCompile(pattern))
	return text, err
}

// Command types a line at the prompt and returns what is shown up to the next
// prompt, the typed line first.
func (s *Session) Command(line string) string {
	s.t.Helper()
	s.Send(line)
	return s.Expect(Prompt)
}

// WaitBlocked waits until gdb hangs, that is until its main thread sleeps in a
// read of a pipe and stays there, and returns the descriptor that it reads.
func (s *Session) WaitBlocked(patience time.Duration) int {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	fd, err := s.AwaitBlocked(ctx)
	if err != nil {
		s.t.Fatalf("gdb (pid %d): %v\n%s", s.PID, err, s.Output())
	}
	return fd
}

// AwaitBlocked is WaitBlocked for those who go on if it does not hang.
func (s *Session) AwaitBlocked(ctx context.Context) (int, error) {
	var before sleepingRead
	for {
		read, ok, err := readIn(s.PID)
		switch {
		case errors.Is(err, os.ErrPermission):
			return 0, fmt.Errorf("see whether it hangs: %w", err)
		case err != nil || !ok || !strings.HasPrefix(read.link, "pipe:"):
			// An error is a process or descriptor that is just going: if the
			// process has gone, done says so.
			before = sleepingRead{}
		case read == before:
			return read.fd, nil
		default:
			before = read
		}
		select {
		case <-s.done:
			return 0, errors.New("it has ended, and did not hang")
		case <-ctx.Done():
			call, err := os.ReadFile(procPath(s.PID, "syscall"))
			if err != nil {
				return 0, fmt.Errorf("it does not hang: %w", err)
			}
			return 0, fmt.Errorf("it does not hang in a read of a pipe, but is in: %s", call)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Inferior is the process that gdb traces; the test fails unless there is one
// and only one.
func (s *Session) Inferior() int {
	s.t.Helper()
	pids, err := tracees(s.PID)
	if err != nil {
		s.t.Fatalf("find the inferior of gdb (pid %d): %v", s.PID, err)
	}
	if len(pids) != 1 {
		s.t.Fatalf("gdb (pid %d) traces %v, not one process\n%s", s.PID, pids, s.Output())
	}
	return pids[0]
}

// Wait waits until gdb (or its launcher) has ended, and all that it has written is
// in Output. It returns the exit code, as Process.Wait has it.
func (s *Session) Wait() int {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(Patience):
		s.t.Fatalf("gdb (pid %d) does not end\n%s", s.PID, s.Output())
	}
	// While something that it has started has the terminal, that does not end.
	if len(marked(s.mark)) == 0 {
		select {
		case <-s.drained:
		case <-time.After(Patience):
			s.t.Fatalf("the terminal of gdb (pid %d) does not end\n%s", s.PID, s.Output())
		}
	}
	return exitCode(s.cmd.ProcessState)
}

// Kill ends gdb and all that it has started.
func (s *Session) Kill() {
	s.t.Helper()
	if err := s.end(); err != nil {
		s.t.Fatalf("kill gdb (pid %d): %v", s.PID, err)
	}
}

func (s *Session) end() error {
	err := endProcess(s.cmd, s.mark, s.done)
	if cerr := s.tty.Close(); cerr != nil && !errors.Is(cerr, os.ErrClosed) {
		err = errors.Join(err, cerr)
	}
	return err
}

// Debug starts gdb on a sample, sets a breakpoint in foo, which no library that
// is loaded yet has, and types run.
func Debug(t TB, sample string, args ...string) *Session {
	t.Helper()
	program := filepath.Join(Build(t), sample)
	s := StartGDB(t, GDB{Args: append([]string{"--args", program}, args...)})
	s.Expect(Prompt)
	s.Command("break foo")
	s.Send("run")
	return s
}

// Attach starts from_memory, which waits after its dlopen, and then a gdb that
// attaches to it.
func Attach(t TB, args ...string) (*Session, *Process) {
	t.Helper()
	p := StartSample(t, "from_memory", append(slices.Clone(args), "--wait")...)
	p.WaitReady()
	return StartGDB(t, GDB{Args: []string{"-p", strconv.Itoa(p.PID)}}), p
}

// Hang is Debug of from_memory with these options, and waits until gdb hangs.
func Hang(t TB, args ...string) *Session {
	t.Helper()
	s := Debug(t, "from_memory", args...)
	s.WaitBlocked(Patience)
	return s
}

// HangAttached is Attach with these options, and waits until gdb hangs.
func HangAttached(t TB, args ...string) (*Session, *Process) {
	t.Helper()
	s, p := Attach(t, args...)
	s.WaitBlocked(Patience)
	return s, p
}
