package main

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"whosefd/analyze"
	"whosefd/analyze/report"
	"whosefd/tracer"
	"whosefd/tracer/event"
)

// sysrootMade is what --sysroot did, as JSON.
type sysrootMade struct {
	Dir     string                `json:"dir"`
	Command event.Text            `json:"command"`
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
				if made, err = a.makeSysroot(sysroot, pid); err != nil {
					return fmt.Errorf("--sysroot: %w", err)
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
			if err == nil && p.Found() {
				err = exit{code: exitFindings}
			}
			return err
		},
	}
	t.flag(cmd)
	cmd.Flags().Lookup("pid").Usage = "the process: its pid, or its name where that is unique"
	formatFlag(cmd, &format, "text", "json")
	cmd.Flags().StringVar(&sysroot, "sysroot", "", "make this folder of links, for gdb's `set sysroot`")
	return cmd
}

func (a *app) makeSysroot(dir string, pid event.PID) (*sysrootMade, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	entries, err := tracer.Sysroot(a.view, dir, pid)
	if err != nil {
		return nil, err
	}
	return &sysrootMade{Dir: dir, Entries: entries,
		Command: event.Text(fmt.Sprintf("gdb -iex %s -p %d", analyze.Quote("set sysroot "+dir), pid))}, nil
}

func (a *app) tellSysroot(made *sysrootMade) error {
	say := func(format string, args ...any) error {
		_, err := fmt.Fprintln(a.out, report.Clean(fmt.Sprintf(format, args...)))
		return err
	}
	if err := say("\nMade %s, a folder of links to what the process sees. Start gdb with:", made.Dir); err != nil {
		return err
	}
	if err := say("  %s", made.Command); err != nil {
		return err
	}
	for _, e := range made.Entries {
		text := "leads to " + string(e.To)
		switch {
		case e.Copied:
			text = "is a copy of what is mapped, since its descriptor is closed"
		case e.Error != "":
			text = "is missing: " + e.Error
		}
		if err := say("- %s there %s.", e.Name, text); err != nil {
			return err
		}
	}
	return say("It serves for as long as the process runs. To remove it: rm -r %s (the links are removed, not what they lead to).", analyze.Quote(made.Dir))
}
