package main

import (
	"fmt"

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
	formatFlag(cmd, &format, "text", "json")
	return cmd
}

func (a *app) showChecks(checks []doctor.Check, format string) error {
	if format == "json" {
		return report.JSON(a.out, checks)
	}
	for _, c := range checks {
		state := "ok  "
		switch {
		case !c.OK && c.Needed:
			state = "FAIL"
		case !c.OK:
			state = "less"
		}
		if _, err := fmt.Fprintf(a.out, "%s  %-15s %s\n", state, report.Clean(c.Name), report.Clean(c.Detail)); err != nil {
			return err
		}
		if c.Remedy != "" {
			if _, err := fmt.Fprintf(a.out, "      %-15s do: %s\n", "", report.Clean(c.Remedy)); err != nil {
				return err
			}
		}
	}
	return nil
}
