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
)

// sysrootMade is what --sysroot did, as JSON.
type sysrootMade struct {
	Dir     event.Text `json:"dir"`
	Command event.Text `json:"command"`
	// Running is what to type in the gdb that has the process already.
	Running event.Text            `json:"running,omitempty"`
	Entries []tracer.SysrootEntry `json:"entries,omitempty"`
}

func (a *app) preflight() *cobra.Command {
	var (
		t       target
		format  string
		sysroot string
	)
	cmd := &cobra.Command{
		Use:   "preflight INFERIOR",
		Short: "Before a debugger is attached: which library names of a process would mislead it",
		Long: `Looks at a process that is not being debugged yet, without stopping it, and says
which of its library names a debugger would take for other files, what would
happen then, and what to do. With --sysroot it makes a folder of links with which
plain gdb finds the right files.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && t.pid == "" {
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
			an := analyze.New()
			for _, ev := range events {
				an.Add(ev)
			}
			p := an.Preflight()
			var made *sysrootMade
			if sysroot != "" {
				if made, err = a.makeSysroot(cmd.Context(), sysroot, pid); err != nil {
					return err
				}
				p.Remedies = slices.DeleteFunc(p.Remedies, func(r analyze.Remedy) bool { return r.Kind == "links" })
			}
			if format == "json" {
				err = report.JSON(a.out, struct {
					*analyze.Preflight
					Sysroot *sysrootMade `json:"sysroot,omitempty"`
				}{p, made})
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
		},
	}
	t.flag(cmd)
	cmd.Flags().Lookup("pid").Usage = "the process: its pid, or its name where that is unique"
	formatFlag(cmd, &format, "text", "json")
	cmd.Flags().StringVar(&sysroot, "sysroot", "", "make this folder of links, for gdb's `set sysroot`")
	return cmd
}

func (a *app) makeSysroot(ctx context.Context, dir string, pid event.PID) (*sysrootMade, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("--sysroot: %w", err)
	}
	if report.Clean(abs) != abs || strings.TrimSpace(abs) != abs {
		return nil, fmt.Errorf("--sysroot %q: gdb cannot be told this name: take one without control characters, and without blanks at its end", dir)
	}
	ctx, caught := untilSignal(ctx, false)
	made, err := tracer.MakeSysroot(ctx, a.view, abs, pid)
	if sig, ok := caught().(syscall.Signal); ok && errors.Is(err, context.Canceled) {
		return nil, exit{code: exitTrouble, signal: sig}
	}
	if err != nil {
		return nil, fmt.Errorf("--sysroot: %w", err)
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

func (a *app) tellSysroot(made *sysrootMade) error {
	var b strings.Builder
	say := func(format string, args ...any) { b.WriteString(report.Clean(fmt.Sprintf(format, args...)) + "\n") }
	b.WriteString("\n")
	if made.Running != "" {
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
	say("It serves for as long as the process runs. To remove it:")
	say("  rm -r %s", analyze.Quote(string(made.Dir)))
	say("That removes the links, and not what they lead to. Do not give rm a link in it with a slash at its end: rm would follow that one.")
	_, err := io.WriteString(a.out, b.String())
	return err
}
