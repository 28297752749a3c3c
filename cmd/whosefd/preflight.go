package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"whosefd/analyze"
	"whosefd/analyze/report"
	"whosefd/tracer"
	"whosefd/tracer/event"
	"whosefd/tracer/sysroot"
)

// sysrootMade is what --sysroot did, as JSON.
type sysrootMade struct {
	Dir     event.Text `json:"dir"`
	Command event.Text `json:"command"`
	// Running is what to type in the gdb that has the process already.
	Running event.Text      `json:"running,omitempty"`
	Entries []sysroot.Entry `json:"entries,omitempty"`
	// Core: it is for a core file.
	Core bool `json:"core,omitempty"`
}

// preflightJSON is a preflight as JSON.
type preflightJSON struct {
	*analyze.Preflight
	Sysroot *sysrootMade `json:"sysroot,omitempty"`
}

func (a *app) preflight() *cobra.Command {
	var (
		t       target
		format  string
		sysroot string
		core    corePreflight
	)
	cmd := &cobra.Command{
		Use:   "preflight INFERIOR | --core FILE [PROGRAM]",
		Short: "Before a debugger is attached: which library names of a process would mislead it",
		Long: `Looks at a process that is not being debugged yet, without stopping it, and says
which of its library names a debugger would take for other files, what would
happen then, and what to do. With --sysroot it makes a folder of links with which
plain gdb finds the right files.

With --core it looks at a core file in the same way, before gdb is started on it.
The libraries that a core names and that no process has any more are given by
--with NAME=FILE: each must have the build id that the core tells.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "text" && format != "json" {
				if err := without(cmd, "is told of as text or json, and --format "+format+" has the names only", "sysroot"); err != nil {
					return err
				}
			}
			core.format, core.sysroot = format, sysroot
			if core.core != "" {
				if len(t.pids) > 0 {
					return errors.New("--core is for a core file, --pid for a process: give one of them")
				}
				if len(args) > 0 {
					core.program = args[0]
				}
				return a.preflightCore(cmd.Context(), &core)
			}
			if len(core.files.with) > 0 || core.files.force {
				return errors.New("--with and --force are for a core file (--core FILE)")
			}
			if len(args) == 0 && len(t.pids) == 0 {
				return fmt.Errorf("which process? Give its pid, or its name where that is unique")
			}
			pid, err := t.find(a, args)
			if err != nil {
				return err
			}
			events, err := tracer.Preflight(a.view, tool(), pid)
			if err != nil {
				return err
			}
			p := analyze.New(events...).Preflight()
			var made *sysrootMade
			if sysroot != "" {
				if made, err = a.makeSysroot(cmd.Context(), sysroot, pid); err != nil {
					return err
				}
				p.Remedies = slices.DeleteFunc(p.Remedies, func(r analyze.Remedy) bool { return r.Kind == "links" })
			}
			return a.showPreflight(p, made, format)
		},
	}
	t.flag(a, cmd)
	cmd.Flags().Lookup("pid").Usage = "the process: its pid, or its name where that is unique"
	formatFlag(cmd, &format, "text", "json", "jsonl", "table", "markdown", "csv")
	cmd.Flags().StringVar(&sysroot, "sysroot", "", "make this folder of links, for gdb's `set sysroot`")
	cmd.Flags().StringVar(&core.core, "core", "", "look at this core file; the argument is the program")
	core.files.flags(cmd, "NAME=FILE: this is the library that the core calls NAME")
	return cmd
}

// showPreflight says what was found, and what was made; the error has the exit code.
func (a *app) showPreflight(p *analyze.Preflight, made *sysrootMade, format string) (err error) {
	if f := report.Format(format); f == report.FormatJSON {
		err = report.JSON(a.out, preflightJSON{p, made})
	} else if f != report.FormatText {
		if err = report.Prospects(a.out, p, f, a.style(a.out)); err == nil {
			for _, what := range p.Missing {
				a.say("%s", what) // nothing is called fine that could not be seen
			}
		}
	} else if err = report.Preflight(a.out, p, a.style(a.out)); err == nil && made != nil {
		err = a.tellSysroot(made)
	}
	switch {
	case err != nil:
		return err
	case p.Found():
		return exit{code: exitFindings}
	case p.Verdict == analyze.VerdictUnknown:
		return exit{code: exitTrouble}
	}
	return nil
}

func (a *app) makeSysroot(ctx context.Context, dir string, pid event.PID) (*sysrootMade, error) {
	abs, made, err := sysrootAt(ctx, dir, func(ctx context.Context, abs string) (*sysroot.Made, error) {
		return tracer.MakeSysroot(ctx, a.view, abs, pid)
	})
	if err != nil {
		return nil, err
	}
	command := "gdb"
	if made.Relative {
		command += fmt.Sprintf(" -cd /proc/%d/cwd", pid)
	}
	command += fmt.Sprintf(" -iex %s -p %d", analyze.Quote("set sysroot "+abs), pid)
	m := &sysrootMade{Dir: event.Text(abs), Entries: made.Entries, Command: event.Text(command)}
	if st, err := a.view.Status(pid, event.TID(pid)); err == nil && st.TracerPid != 0 && !made.Relative {
		m.Running = event.Text("set sysroot " + abs)
	}
	return m, nil
}

// sysrootAt makes a sysroot, until a signal.
func sysrootAt(ctx context.Context, dir string, make func(context.Context, string) (*sysroot.Made, error)) (abs string, made *sysroot.Made, err error) {
	if abs, err = filepath.Abs(dir); err != nil {
		return "", nil, fmt.Errorf("--sysroot: %w", err)
	}
	if report.Clean(abs) != abs || strings.TrimSpace(abs) != abs {
		return "", nil, fmt.Errorf("--sysroot %q: gdb cannot be told this name: take one without control characters, and without blanks at its end", dir)
	}
	ctx, caught := untilSignal(ctx, false)
	made, err = make(ctx, abs)
	if sig, ok := caught().(syscall.Signal); ok && errors.Is(err, context.Canceled) {
		return "", nil, exit{code: exitTrouble, signal: sig}
	}
	if err != nil {
		return "", nil, fmt.Errorf("--sysroot: %w", err)
	}
	return abs, made, nil
}

func (a *app) tellSysroot(made *sysrootMade) error {
	var b strings.Builder
	say := func(format string, args ...any) { b.WriteString(report.Clean(fmt.Sprintf(format, args...)) + "\n") }
	b.WriteString("\n")
	if made.Core {
		say("Made %s, a folder of links in which gdb finds the core's libraries. Start gdb with:", made.Dir)
	} else if made.Running != "" {
		say("Made %s, a folder of links to what the process sees. In the gdb that has the process now, type:", made.Dir)
		say("  %s", made.Running)
		say("When that one has let it go, start gdb with:")
	} else {
		say("Made %s, a folder of links to what the process sees. Start gdb with:", made.Dir)
	}
	say("  %s", made.Command)
	for _, e := range made.Entries {
		text := "leads to " + string(e.To)
		switch {
		case e.Copied:
			text = "is a copy of what is mapped, to which no path leads any more"
		case e.Error != "":
			text = "is not right: " + e.Error
		}
		say("- %s there %s.", e.Name, text)
	}
	if made.Core {
		say("To remove it:")
	} else {
		say("It serves for as long as the process runs. To remove it:")
	}
	say("  rm -r %s", analyze.Quote(string(made.Dir)))
	say("That removes the links, and not what they lead to. Do not give rm a link in it with a slash at its end: rm would follow that one.")
	_, err := io.WriteString(a.out, b.String())
	return err
}
