package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"whosefd/analyze"
	"whosefd/analyze/report"
	"whosefd/tracer"
	"whosefd/tracer/event"
)

func (a *app) explain() *cobra.Command {
	var (
		t          target
		format     string
		output     string
		inferiors  []string
		debuginfod bool
		rules      bool
	)
	cmd := &cobra.Command{
		Use:   "explain [PID | NAME | FILE…]",
		Short: "Say why a debugger hangs or has the wrong symbols, with proof",
		Long: `Looks at a running debugger once, and explains what it is blocked in and which
library names it resolved in its own process although they belong to its
inferior. The debugger is stopped for a moment to take its backtrace, and then
goes on as before. Without an argument, the one debugger that is blocked in a
read is meant. A FILE is a recording made with -o, or a log of strace; of
strace -ff give the prefix, or all files.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if rules {
				return a.showRules(args, format)
			}
			an := analyze.New()
			if output != "" {
				if err := checkOutput(output); err != nil {
					return err
				}
			}
			if len(args) > 0 && t.pid == "" && isInput(args[0]) {
				if err := liveOnly(cmd, "output", "inferior", "debuginfod"); err != nil {
					return err
				}
				if _, err := a.readSource(args, func(ev event.Event) { an.Add(ev) }); err != nil {
					return err
				}
			} else {
				if err := cobra.MaximumNArgs(1)(cmd, args); err != nil {
					return err
				}
				events, err := a.evidence(&t, args, inferiors, debuginfod)
				if err != nil {
					return err
				}
				if output != "" {
					if err := record(output, events); err != nil {
						return err
					}
				}
				for _, ev := range events {
					an.Add(ev)
				}
			}
			d := an.Diagnosis()
			if err := a.showDiagnosis(d, format); err != nil {
				return err
			}
			return findingsExit(d)
		},
	}
	t.flag(cmd)
	formatFlag(cmd, &format, "text", "json")
	cmd.Flags().StringVarP(&output, "output", "o", "", "write the evidence to this file too, to be explained elsewhere")
	cmd.Flags().BoolVar(&rules, "rules", false, "list the causes and effects that a finding can have, and look at nothing")
	cmd.Flags().StringSliceVar(&inferiors, "inferior", nil, "a process that the debugger looks at, where it is not its tracer")
	cmd.Flags().BoolVar(&debuginfod, "debuginfod", a.getenv("DEBUGINFOD_URLS") != "", "ask the servers in DEBUGINFOD_URLS for names of functions")
	return cmd
}

// liveOnly refuses flags that mean nothing where the evidence is in a file.
func liveOnly(cmd *cobra.Command, flags ...string) error {
	for _, name := range flags {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s is for a running debugger: the evidence is in a file already", name)
		}
	}
	return nil
}

// evidence takes a snapshot of the debugger that is meant.
func (a *app) evidence(t *target, args, inferiors []string, debuginfod bool) ([]event.Event, error) {
	pid, err := t.find(a, args)
	if err != nil {
		return nil, err
	}
	named, err := a.processes(inferiors)
	if err != nil {
		return nil, err
	}
	return tracer.Snapshot(pid, tracer.SnapshotOptions{View: a.view, Tool: tool(), Inferiors: named,
		Stacks: true, Debuginfod: debuginfod})
}

func (a *app) processes(given []string) ([]event.PID, error) {
	var pids []event.PID
	for _, s := range given {
		pid, err := a.process(s)
		if err != nil {
			return nil, fmt.Errorf("--inferior: %w", err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

func (a *app) showDiagnosis(d *analyze.Diagnosis, format string) error {
	if format == "json" {
		return report.JSON(a.out, d)
	}
	return report.Text(a.out, d, a.style(a.out))
}

func (a *app) showRules(args []string, format string) error {
	switch {
	case len(args) > 0:
		return errors.New("--rules looks at nothing: leave the argument out")
	case format == "json":
		return report.JSON(a.out, analyze.AllRules())
	}
	return report.Rules(a.out, analyze.AllRules(), a.style(a.out))
}

func findingsExit(d *analyze.Diagnosis) error {
	if len(d.Findings) > 0 {
		return exit{code: exitFindings}
	}
	return nil
}
