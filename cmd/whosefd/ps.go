package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"whosefd/analyze"
	"whosefd/analyze/report"
	"whosefd/tracer"
	"whosefd/tracer/doctor"
	"whosefd/tracer/event"
)

func (a *app) ps() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "List the debuggers of this machine, and what each is blocked in",
		Long: `Lists every process that traces another, or is known as a debugger: its
inferiors, what each thread is blocked in and on which file, and a mark on the
suspicious. Nothing is stopped or attached to.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rows, err := a.debuggers()
			if err != nil {
				return err
			}
			if len(rows) == 0 && format == "table" {
				_, err := fmt.Fprintln(a.out, "No debugger is running here that this user may look at.")
				return err
			}
			if err := report.PS(a.out, rows, report.Format(format), a.style(a.out)); err != nil {
				return err
			}
			for _, row := range rows {
				if row.Effect != "" {
					return exit{code: exitFindings}
				}
			}
			return nil
		},
	}
	formatFlag(cmd, &format, "table", "text", "json", "markdown", "csv")
	return cmd
}

func (a *app) debuggers() ([]analyze.PSRow, error) {
	pids, err := tracer.Debuggers(a.view)
	if err != nil {
		return nil, err
	}
	var rows []analyze.PSRow
	for _, pid := range pids {
		events, err := tracer.Snapshot(pid, tracer.SnapshotOptions{View: a.view, Tool: tool()})
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, doctor.ErrRefused) {
			continue // it ended meanwhile
		}
		if err != nil {
			rows = append(rows, analyze.PSRow{PID: pid, Error: event.Text(err.Error())})
			continue
		}
		an := analyze.New()
		for _, ev := range events {
			an.Add(ev)
		}
		rows = append(rows, an.PS())
	}
	return rows, nil
}
