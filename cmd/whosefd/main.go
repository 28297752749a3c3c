// Command whosefd says whose file descriptor it is when a debugger hangs, or
// shows the wrong symbols: it looks at a running gdb, finds the names that gdb
// resolved in its own process although they belong to the program it debugs,
// and explains what happened, with proof.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"whosefd/analyze/report"
	"whosefd/tracer"
	"whosefd/tracer/cpu"
	"whosefd/tracer/procview"
)

// version is set by the linker.
var version = "dev"

// Exit codes, as diff(1) has them.
const (
	exitNothing  = 0 // nothing wrong found
	exitFindings = 1
	exitTrouble  = 2 // could not look
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == cpu.KeeperArg {
		cpu.Keep(os.Stdin)
		return
	}
	if len(os.Args) == 2 && os.Args[1] == procview.AskerArg {
		procview.AnswerAsker()
		return
	}
	if len(os.Args) == 3 && os.Args[1] == besideStarterArg {
		if err := startBeside(os.Args[2]); err != nil {
			os.Exit(exitTrouble)
		}
		return
	}
	if err := enoughDescriptors(); err != nil {
		fmt.Fprintln(os.Stderr, "whosefd:", err)
		os.Exit(exitTrouble)
	}
	view := procview.New("/proc")
	view.Asker = procview.NewAsker()
	a := &app{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		getenv:   os.Getenv,
		view:     view,
		terminal: terminalWidth,
		height:   terminalHeight,
	}
	args := os.Args[1:]
	switch {
	case len(args) == 2 && args[0] == besideArg:
		a.guardFromBeside(args[1])
		return
	case filepath.Base(os.Args[0]) == gdbName:
		args = append([]string{"gdb"}, args...)
	}
	os.Exit(a.run(context.Background(), args))
}

// atLeast is how many descriptors must be free: enough for the Go runtime's
// poller, which ends the program with a dump if it gets none, and for files.
const atLeast = 8

// enoughDescriptors fails with one clear line where the limit of open files
// (getrlimit(2), RLIMIT_NOFILE) leaves no room to work in.
func enoughDescriptors() error {
	var got []int
	release := func() {
		for _, fd := range got {
			_ = syscall.Close(fd) // opened to read nothing
		}
		got = nil
	}
	defer release()
	for range atLeast {
		fd, err := syscall.Open(os.DevNull, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w: whosefd needs at least %d free descriptors (ulimit -n)", os.DevNull, err, atLeast)
		}
		got = append(got, fd)
	}
	// The poller is made with the first pipe, while there is room.
	release()
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	return errors.Join(r.Close(), w.Close())
}

// terminalWidth is the width of the terminal that f is, in columns; 0 if it is none.
func terminalWidth(f any) int {
	file, ok := f.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return 0
	}
	width, _, err := term.GetSize(int(file.Fd()))
	if err != nil || width <= 0 {
		return 80
	}
	return width
}

// terminalHeight is the height of the terminal that f is, in lines; 0 if it is none.
func terminalHeight(f any) int {
	file, ok := f.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return 0
	}
	_, height, err := term.GetSize(int(file.Fd()))
	if err != nil {
		return 0
	}
	return height
}

// exit ends a command with a code; the message was printed already, or there
// is none.
type exit struct {
	code int
	// signal is what killed the launched program, for us to end in the same way.
	signal syscall.Signal
}

func (e exit) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// run parses the arguments, runs the command and gives the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) &&
		slices.ContainsFunc(args, func(s string) bool { return report.Clean(s) != s }) {
		return exitNothing // nothing of ours completes that, and cobra would print it as it stands
	}
	root.SetArgs(asked(args))
	err := func() (err error) {
		defer tracer.AsError(&err)
		return root.ExecuteContext(ctx)
	}()
	var e exit
	var internal *tracer.InternalError
	switch {
	case err == nil:
		return exitNothing
	case errors.As(err, &internal):
		a.reportable(err, internal)
		return exitTrouble
	case errors.As(err, &e):
		if e.signal != 0 {
			dieBy(e.signal)
		}
		return e.code
	default:
		a.say("%s", misplaced(args, oneLine(err.Error())))
		return exitTrouble
	}
}

// oneLine puts what cobra suggests for a command that is not known into its line, and
// errors that came together too, each once: of a full disk each writer has the same.
func oneLine(text string) string {
	what, names, found := strings.Cut(text, "\n\nDid you mean this?\n\t")
	if !found {
		var once []string
		for line := range strings.SplitSeq(text, "\n") {
			if !slices.Contains(once, line) {
				once = append(once, line)
			}
		}
		return strings.Join(once, "; ")
	}
	return what + "; did you mean " + strings.Join(strings.Fields(names), " or ") + "?"
}

// reportable prints an error that is a mistake of ours: a line that says so, and
// what a report of it needs.
func (a *app) reportable(err error, internal *tracer.InternalError) {
	a.say("%v: this is a mistake in whosefd; please report it, with what follows", err)
	fmt.Fprintf(a.err, "%s, %s, %s\n", report.Clean(tool()), runtime.Version(), runtime.GOARCH)
	for line := range strings.Lines(string(internal.Stack)) {
		fmt.Fprintln(a.err, report.Clean(strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\t", "    ")))
	}
}
