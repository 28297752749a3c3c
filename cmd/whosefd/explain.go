package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

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
		cores      []string
		debuginfod bool
		rules      bool
		rf         redactFlags
	)
	cmd := &cobra.Command{
		Use:   "explain [PID | NAME | FILE…]",
		Short: "Say why a debugger hangs or has the wrong symbols, with proof",
		Long: `Looks at a running debugger once, and explains what it is blocked in and which
library names it resolved in its own process although they belong to its
inferior. The debugger is stopped for a moment to take its backtrace, and then
goes on as before. Without an argument, the one debugger that is blocked in a
read is meant; several are explained one after the other.

A FILE is a recording made with -o, or a log of strace; of strace -ff give the
prefix, or all files. Of a core file it says what a debugger would make of its
library names, as preflight --core does.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if rules {
				if err := without(cmd, "means nothing with --rules, which looks at nothing", "pid", "output", "redact", "redact-also", "inferior", "core", "debuginfod"); err != nil {
					return err
				}
				return a.showRules(args, format)
			}
			an := analyze.New()
			if output != "" {
				if err := checkOutput(output); err != nil {
					return err
				}
			}
			if len(args) == 1 && len(t.pids) == 0 {
				if err := a.packedCore(args[0], false); err != nil {
					return err
				}
			}
			if len(args) == 1 && len(t.pids) == 0 && isCore(args[0]) {
				if err := liveOnly(cmd, "output", "inferior", "core", "debuginfod"); err != nil {
					return err
				}
				if rf.on || len(rf.also) > 0 {
					return errors.New("--redact is for a debugger and for evidence in a file, and not for a core file")
				}
				return a.preflightCore(cmd.Context(), &corePreflight{core: args[0], format: format})
			}
			if files, ok := a.inputs(&t, args); ok {
				if err := rf.liveOnly(cmd); err != nil {
					return err
				}
				from, err := a.files(files, &rf, false)
				if err != nil {
					return err
				}
				if err := a.explained(from, output, an); err != nil {
					return err
				}
			} else {
				pids, err := t.several(a, args)
				if err != nil {
					return err
				} else if len(pids) > 1 && output == "" && format == "text" {
					return a.explainEach(pids, func(one string) ([]event.Event, error) {
						events, err := a.evidence(&target{}, []string{one}, inferiors, cores, debuginfod)
						return rf.events(a, events), err
					})
				}
				events, err := a.evidence(&t, args, inferiors, cores, debuginfod)
				if err != nil {
					return err
				}
				events = rf.events(a, events)
				if output != "" {
					if err := a.record(output, events); err != nil {
						return err
					}
				}
				for _, ev := range events {
					an.Add(ev)
				}
			}
			d := an.Diagnosis()
			show := func(w io.Writer) error { return a.showDiagnosis(w, d, format) }
			var err error
			if isStdout(output) {
				err = show(a.err)
			} else {
				err = a.paged(show)
			}
			if err != nil {
				return err
			}
			return findingsExit(d)
		},
	}
	t.flag(a, cmd)
	formatFlag(cmd, &format, "text", "json")
	cmd.Flags().StringVarP(&output, "output", "o", "", "write the evidence to this file too, to be explained elsewhere; of a file, with --redact")
	rf.flags(cmd)
	cmd.Flags().BoolVar(&rules, "rules", false, "list the causes and effects that a finding can have, and look at nothing")
	cmd.Flags().StringSliceVar(&inferiors, "inferior", nil, "a process that the debugger looks at, where it is not its tracer")
	cmd.Flags().StringSliceVar(&cores, "core", nil, "a core file that the debugger looks at, where that is not seen")
	cmd.Flags().BoolVar(&debuginfod, "debuginfod", a.getenv("DEBUGINFOD_URLS") != "", "ask the servers in DEBUGINFOD_URLS for names of functions")
	return cmd
}

// explainEach explains several debuggers, one after the other. One that could not be
// looked at is told, and does not keep the others from being looked at.
func (a *app) explainEach(pids []event.PID, evidence func(string) ([]event.Event, error)) error {
	var all []*analyze.Diagnosis
	code := exitNothing
	for _, pid := range pids {
		events, err := evidence(strconv.Itoa(int(pid)))
		if err != nil {
			a.say("%v", err)
			code = exitTrouble
			continue
		}
		all = append(all, analyze.New(events...).Diagnosis())
	}
	err := a.paged(func(w io.Writer) error {
		for i, d := range all {
			if i > 0 {
				if _, err := fmt.Fprintln(w); err != nil {
					return err
				}
			}
			if err := report.Text(w, d, a.style(w)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return worst(code, all)
}

// worst is the exit code of several results: findings, else whether something could not be
// looked at.
func worst(code int, all []*analyze.Diagnosis) error {
	for _, d := range all {
		if len(d.Findings) > 0 {
			code = exitFindings
			break
		} else if d.Verdict == analyze.VerdictUnknown {
			code = exitTrouble
		}
	}
	if code == exitNothing {
		return nil
	}
	return exit{code: code}
}

// explained adds evidence to an analysis, and writes it to a file if one is named.
func (a *app) explained(from *evidenceFile, output string, an *analyze.Analysis) error {
	rec, err := a.newRecorder(output)
	if err != nil {
		return err
	}
	var failed error
	_, err = from.read(func(ev event.Event) {
		an.Add(ev)
		if failed == nil {
			failed = rec.write(ev)
		}
	})
	err = errors.Join(err, failed)
	return errors.Join(err, rec.end(err == nil))
}

// liveOnly refuses flags that mean nothing where the evidence is in a file: to write it
// anew makes sense only where that changes it.
func (f *redactFlags) liveOnly(cmd *cobra.Command) error {
	if f.on || len(f.also) > 0 {
		return liveOnly(cmd, "inferior", "core", "debuginfod")
	}
	return liveOnly(cmd, "output", "inferior", "core", "debuginfod")
}

// liveOnly refuses flags that mean nothing where the evidence is in a file.
func liveOnly(cmd *cobra.Command, flags ...string) error {
	return without(cmd, "is for a running debugger: the evidence is in a file already", flags...)
}

// without refuses flags that would be ignored, and says why.
func without(cmd *cobra.Command, why string, flags ...string) error {
	for _, name := range flags {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s %s", name, why)
		}
	}
	return nil
}

// evidence takes a snapshot of the debugger that is meant.
func (a *app) evidence(t *target, args, inferiors, cores []string, debuginfod bool) ([]event.Event, error) {
	pid, err := t.find(a, args)
	if err != nil {
		return nil, err
	}
	for _, core := range cores {
		if _, err := os.Stat(core); err != nil {
			return nil, fmt.Errorf("--core: %w", err)
		}
	}
	named, err := a.subjectsOf(inferiors)
	if err != nil {
		return nil, err
	}
	return tracer.Snapshot(pid, tracer.SnapshotOptions{View: a.view, Tool: tool(), Inferiors: named, Cores: cores,
		Stacks: true, Debuginfod: debuginfod})
}

// subjectsOf looks up what --inferior names.
func (a *app) subjectsOf(inferiors []string) ([]event.PID, error) {
	pids, err := a.processes(inferiors)
	if err != nil {
		err = fmt.Errorf("--inferior: %w", err)
	}
	return pids, err
}

// processes looks several up, by their numbers or names.
func (a *app) processes(given []string) ([]event.PID, error) {
	var pids []event.PID
	for _, s := range given {
		pid, err := a.process(s)
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

func (a *app) showDiagnosis(w io.Writer, d *analyze.Diagnosis, format string) error {
	if format == "json" {
		return report.JSON(w, d)
	}
	return report.Text(w, d, a.style(w))
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
	if d.Verdict == analyze.VerdictUnknown {
		return exit{code: exitTrouble}
	}
	return nil
}
