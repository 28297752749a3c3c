package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"whosefd/analyze"
	"whosefd/analyze/report"
	"whosefd/tracer"
	"whosefd/tracer/doctor"
	"whosefd/tracer/event"
)

func (a *app) ps() *cobra.Command {
	var (
		t      target
		format string
		waits  bool
	)
	cmd := &cobra.Command{
		Use:   "ps [PID…]",
		Short: "List the debuggers of this machine, and what each is blocked in",
		Long: `Lists every process that traces another, or is known as a debugger: its
inferiors, what each thread is blocked in and on which file, and a mark on the
suspicious. Nothing is stopped or attached to. With a PID or name, only that one.
With --all-waits, what any processes wait for, who could end that, what those wait
for, and so on. Exit code 2 says that nothing was found, and that one could not be
looked at.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if waits && cmd.Flags().Changed("format") && !slices.Contains(waitsFormats, format) {
				return fmt.Errorf("--all-waits with --format %s: not one of %s", format, strings.Join(waitsFormats, ", "))
			}
			only, err := a.processes(slices.Concat(t.pids, args))
			if err != nil {
				return err
			}
			if waits {
				return a.waits(only, format)
			}
			rows, err := a.debuggers(only)
			if err != nil {
				return err
			}
			if len(rows) == 0 && format == "table" {
				return report.Prose(a.out, "No debugger is running here that this user may look at.", a.style(a.out))
			}
			if err := a.paged(func(w io.Writer) error { return report.PS(w, rows, report.Format(format), a.style(w)) }); err != nil {
				return err
			}
			code := exitNothing
			for _, row := range rows {
				if row.Effect != "" {
					code = exitFindings
				} else if row.Error != "" && code == exitNothing {
					code = exitTrouble
				}
			}
			if code != exitNothing {
				return exit{code: code}
			}
			return nil
		},
	}
	t.flag(a, cmd)
	cmd.Flags().BoolVar(&waits, "all-waits", false, "show who waits for whom, of any processes, as "+strings.Join(waitsFormats, ", "))
	formatFlag(cmd, &format, "table", "text", "json", "jsonl", "markdown", "csv")
	return cmd
}

// waitsFormats are those of who waits for whom, which is no table.
var waitsFormats = []string{"text", "json", "jsonl"}

// waits shows what processes wait for.
func (a *app) waits(pids []event.PID, format string) error {
	if len(pids) == 0 {
		return errors.New("--all-waits needs the number or the name of a process")
	}
	var all []*analyze.Diagnosis
	found := false
	for _, pid := range pids {
		events, err := tracer.Snapshot(pid, tracer.SnapshotOptions{View: a.view, Tool: tool()})
		if err != nil {
			return err
		}
		d := analyze.New(events...).Diagnosis()
		all = append(all, d)
		found = found || d.Found()
	}
	if err := a.paged(func(w io.Writer) error { return report.Waits(w, all, report.Format(format), a.style(w)) }); err != nil {
		return err
	}
	if found {
		return exit{code: exitFindings}
	}
	return nil
}

// debuggers looks at all debuggers of the machine, or at certain processes only.
func (a *app) debuggers(pids []event.PID) (rows []analyze.PSRow, err error) {
	err = a.eachDebugger(pids, func(row analyze.PSRow, _ *analyze.Analysis) { rows = append(rows, row) })
	return rows, err
}

// eachDebugger gives each of them with what is known of it, or with nil and an error in
// its row.
func (a *app) eachDebugger(pids []event.PID, each func(analyze.PSRow, *analyze.Analysis)) error {
	if len(pids) == 0 {
		var err error
		if pids, err = tracer.Debuggers(a.view); err != nil {
			return err
		}
	}
	for _, pid := range pids {
		events, err := tracer.Snapshot(pid, tracer.SnapshotOptions{View: a.view, Tool: tool()})
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, doctor.ErrRefused) {
			continue // it ended meanwhile
		}
		if err != nil {
			each(analyze.PSRow{PID: pid, Error: event.Text(err.Error())}, nil)
			continue
		}
		an := analyze.New(events...)
		each(an.PS(), an)
	}
	return nil
}
