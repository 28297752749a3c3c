package main

import (
	"github.com/spf13/cobra"

	"whosefd/analyze/report"
	"whosefd/tracer/doctor"
)

func (a *app) doctor() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say whether this user can trace here, and what to do where not",
		Long: `Checks what whosefd needs: the kernel, ptrace (by trying it on a small program of
its own), Yama, capabilities, seccomp, containers. Exit code 1 says that
something that is needed is missing.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			checks := doctor.Run(a.view, a.getenv)
			if err := a.showChecks(checks, format); err != nil {
				return err
			}
			for _, c := range checks {
				if !c.OK && c.Needed {
					return exit{code: exitFindings}
				}
			}
			return nil
		},
	}
	formatFlag(cmd, &format, "text", "json", "jsonl", "table", "markdown", "csv")
	return cmd
}

func (a *app) showChecks(checks []doctor.Check, format string) error {
	rows := make([]report.Check, len(checks))
	for i, c := range checks {
		rows[i] = report.Check(c)
	}
	return report.Checks(a.out, rows, report.Format(format), a.style(a.out))
}
