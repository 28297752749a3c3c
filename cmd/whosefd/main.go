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
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"whosefd/analyze/report"
	"whosefd/tracer"
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
	if len(os.Args) == 2 && os.Args[1] == tracer.KeeperArg {
		tracer.KeepAffinity(os.Stdin)
		return
	}
	if len(os.Args) == 2 && os.Args[1] == procview.AskerArg {
		procview.AnswerAsker()
		return
	}
	view := procview.New("/proc")
	view.Asker = procview.NewAsker()
	a := &app{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		getenv:   os.Getenv,
		view:     view,
		terminal: terminalWidth,
	}
	os.Exit(a.run(context.Background(), os.Args[1:]))
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
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var e exit
	switch {
	case err == nil:
		return exitNothing
	case errors.As(err, &e):
		if e.signal != 0 {
			dieBy(e.signal)
		}
		return e.code
	default:
		fmt.Fprintf(a.err, "whosefd: %s\n", report.Clean(err.Error()))
		return exitTrouble
	}
}
