package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"whosefd/tracer"
	"whosefd/tracer/event"
)

// gdbName is the name by which this program is `whosefd gdb`.
const gdbName = "whosefd-gdb"

func (a *app) gdb() *cobra.Command {
	return &cobra.Command{
		Use:   "gdb [ARGS…]",
		Short: "Run gdb, guarded: for an alias, and as the debugger of an IDE",
		Long: `Is gdb, with all of its arguments, terminal, signals and exit code: this process
becomes gdb, once another one, beside it, guards it as ` + "`whosefd guard`" + ` does. So whoever ends
it ends gdb. If it cannot be guarded, that is said, and gdb runs without.

An IDE that wants the path of a debugger gets that of whosefd-gdb, which is this
command. Another gdb than the one in PATH is named in WHOSEFD_GDB.`,
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := a.gdbPath()
			if err != nil {
				return err
			}
			if err := guardBeside(); err != nil {
				a.say("gdb is not guarded: %v", err)
			}
			return fmt.Errorf("run %s: %w", path, syscall.Exec(path, append([]string{path}, args...), os.Environ()))
		},
	}
}

// gdbPath looks the debugger up, and never finds this program under its name.
func (a *app) gdbPath() (string, error) {
	if named := a.getenv("WHOSEFD_GDB"); named != "" {
		path, err := exec.LookPath(named)
		if err != nil {
			return "", fmt.Errorf("WHOSEFD_GDB: %w", err)
		}
		return path, nil
	}
	self, _ := os.Stat("/proc/self/exe") // where there is no /proc, gdb runs all the same
	for _, dir := range filepath.SplitList(a.getenv("PATH")) {
		path, err := exec.LookPath(filepath.Join(dir, "gdb"))
		if st, statErr := os.Stat(path); err == nil && statErr == nil && !os.SameFile(st, self) {
			return filepath.Abs(path)
		}
	}
	return "", errors.New("gdb is not found in PATH: install it, or name one in WHOSEFD_GDB")
}

// A guard that stands beside its debugger is started by a process that ends at once:
// a child of the debugger's that it has not made would surprise it.
const (
	besideStarterArg = "guard-beside-starter"
	besideArg        = "guard-beside"
	besideAnswerFD   = 3 // where it says that it follows, or why not
	besideFollows    = "follows"
)

// guardBeside has this process guarded, whatever it becomes.
func guardBeside() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	forbid, err := tracer.AllowAnyTracer()
	if err != nil {
		return err
	}
	defer forbid()
	starter := exec.Command("/proc/self/exe", besideStarterArg, strconv.Itoa(os.Getpid()))
	starter.ExtraFiles = []*os.File{w}
	if err := starter.Run(); err != nil {
		return err
	}
	_ = w.Close() // the guard's end is what is read to the end
	answer, err := io.ReadAll(r)
	if err == nil && string(answer) != besideFollows {
		err = errors.New(string(answer))
	}
	return err
}

// startBeside starts the guard in a session of its own, where no key reaches it, with
// none of the descriptors that are the debugger's.
func startBeside(pid string) error {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range fds {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= besideAnswerFD {
			syscall.CloseOnExec(fd)
		}
	}
	guard := exec.Command("/proc/self/exe", besideArg, pid)
	guard.ExtraFiles = []*os.File{os.NewFile(besideAnswerFD, "answer")}
	guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return guard.Start()
}

// guardFromBeside guards a process until it ends.
func (a *app) guardFromBeside(pid string) {
	answer := os.NewFile(besideAnswerFD, "answer")
	syscall.CloseOnExec(besideAnswerFD)
	say := func(text string) {
		_, _ = io.WriteString(answer, text) // if nobody reads, nobody is guarded
		_ = answer.Close()
	}
	n, err := strconv.ParseInt(pid, 10, 32)
	if err != nil {
		say(err.Error())
		return
	}
	o := tracer.GuardOptions{TraceOptions: tracer.TraceOptions{View: a.view, Tool: tool(), PID: event.PID(n),
		Emit: func(event.Event) error { return nil }, Attached: func() { say(besideFollows) }}}
	ctx, signalled := untilSignal(context.Background(), true)
	defer signalled()
	f := follow{cpu: "auto"}
	done := f.keeper(&o.TraceOptions)
	err = func() (err error) {
		defer tracer.AsError(&err)
		_, err = tracer.Guard(ctx, o)
		return err
	}()
	done(err)
	if err != nil {
		say(err.Error()) // nobody listens any more if it comes late
	}
}
