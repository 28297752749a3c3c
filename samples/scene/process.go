package scene

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"
)

// Process is a program without a terminal, whose output is kept.
type Process struct {
	PID int

	t        TB
	cmd      *exec.Cmd
	mark     string
	out, err *transcript
	done     chan struct{} // closed when it has ended and is reaped
}

// Command is a program that Start starts.
type Command struct {
	Path string // of the program, or a name on the PATH
	Args []string
	Env  []string // NAME=VALUE, beside this process's environment
	Dir  string   // "" is this process's working directory
}

// StartSample starts one of the samples.
func StartSample(t TB, name string, args ...string) *Process {
	t.Helper()
	return Start(t, Command{Path: filepath.Join(Build(t), name), Args: args})
}

// Start starts a program with /dev/null as its input. At the test's end it and
// all that it has started are killed.
func Start(t TB, c Command) *Process {
	t.Helper()
	mark, err := newMark()
	if err != nil {
		t.Fatalf("start %s: %v", c.Path, err)
	}
	p := &Process{
		t:    t,
		cmd:  exec.Command(c.Path, c.Args...),
		mark: mark,
		out:  newTranscript(),
		err:  newTranscript(),
		done: make(chan struct{}),
	}
	p.cmd.Env = append(without(os.Environ(), markName), c.Env...)
	p.cmd.Env = append(p.cmd.Env, mark)
	p.cmd.Dir = c.Dir
	p.cmd.Stdout = p.out
	p.cmd.Stderr = p.err
	// A child that lives on may hold the pipes open for longer.
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", c.Path, err)
	}
	p.PID = p.cmd.Process.Pid
	go func() {
		// The state that it leaves in cmd says all that the error says.
		_ = p.cmd.Wait()
		p.out.end()
		p.err.end()
		close(p.done)
	}()
	t.Cleanup(func() {
		if err := p.end(); err != nil {
			t.Errorf("end %s (pid %d): %v", c.Path, p.PID, err)
		}
	})
	return p
}

// Out is all that the process has written to its standard output.
func (p *Process) Out() string { return p.out.String() }

// Err is all that the process has written to its standard error.
func (p *Process) Err() string { return p.err.String() }

// Expect waits until the standard output, behind what was expected before,
// matches the regular expression, and returns the match and its groups.
func (p *Process) Expect(pattern string) []string {
	p.t.Helper()
	return p.expect(p.out, pattern)
}

// ExpectErr is Expect for the standard error.
func (p *Process) ExpectErr(pattern string) []string {
	p.t.Helper()
	return p.expect(p.err, pattern)
}

func (p *Process) expect(from *transcript, pattern string) []string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	_, match, err := from.await(ctx, regexp.MustCompile(pattern))
	if err != nil {
		p.t.Fatalf("%s (pid %d): %v\nstdout: %s\nstderr: %s", p.cmd.Path, p.PID, err, p.Out(), p.Err())
	}
	return match
}

// WaitReady waits until a sample says "ready PID", as each does that waits for a
// debugger or for clients, and returns that pid.
func (p *Process) WaitReady() int {
	p.t.Helper()
	pid, err := strconv.Atoi(p.Expect(`(?m)^ready (\d+)$`)[1])
	if err != nil {
		p.t.Fatalf("%s (pid %d): %v", p.cmd.Path, p.PID, err)
	}
	return pid
}

// Wait waits until the process has ended and returns its exit code; for one
// that a signal has killed, 128 and the signal's number, as a shell has it.
func (p *Process) Wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(Patience):
		p.t.Fatalf("%s (pid %d) does not end\nstdout: %s\nstderr: %s", p.cmd.Path, p.PID, p.Out(), p.Err())
	}
	return exitCode(p.cmd.ProcessState)
}

// Signal sends a signal; one that comes after the process's end does nothing.
func (p *Process) Signal(signal os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatalf("send %v to %s (pid %d): %v", signal, p.cmd.Path, p.PID, err)
	}
}

// Kill ends the process and all that it has started.
func (p *Process) Kill() {
	p.t.Helper()
	if err := p.end(); err != nil {
		p.t.Fatalf("kill %s (pid %d): %v", p.cmd.Path, p.PID, err)
	}
}

func (p *Process) end() error {
	return endProcess(p.cmd, p.mark, p.done)
}

// endProcess kills a program and all that carries its mark, and waits for it.
func endProcess(cmd *exec.Cmd, mark string, done <-chan struct{}) error {
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if err := killMarked(mark); err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-time.After(Patience):
		return errors.New("it is killed, but does not end")
	}
}

func exitCode(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}
