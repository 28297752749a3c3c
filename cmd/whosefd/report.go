package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"whosefd/analyze"
	"whosefd/analyze/report"
	"whosefd/tracer/event"
)

// reportFlags say what a report is like.
type reportFlags struct {
	format, output string
	which          []string
	calls          int
}

func (a *app) report() *cobra.Command {
	var (
		t          target
		f          reportFlags
		fl         filterFlags
		rf         redactFlags
		inferiors  []string
		debuginfod bool
	)
	cmd := &cobra.Command{
		Use:   "report [PID | NAME | FILE…] -o FILE",
		Short: "Write a report to hand on: a page, or text for a bug tracker",
		Long: `Writes what explain finds, with the evidence, so that it can be handed to
somebody else: the verdict, a picture of the two processes, the calls around the
finding, the backtrace, the tables, and what to do. The page is one file that
needs no network. As markdown it is a bug report to be pasted into a tracker.

A FILE is a recording made with trace -o or explain -o, or a log of strace; "-" is
standard input.
With a process, or without an argument, the running debugger is looked at, as
explain does; such a report has no list of calls.`,
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("format") && !cmd.Flags().Changed("json") {
				var err error
				if f.format, err = formatOf(f.output); err != nil {
					return err
				}
			}
			if f.format == "json" {
				if err := without(cmd, "means nothing with --format json, which has no calls; whosefd table --format json has", slices.Concat(choosing, []string{"calls"})...); err != nil {
					return err
				}
			}
			return f.check(a)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := fl.filter()
			if err != nil {
				return err
			}
			an := analyze.New()
			filter.Rows = -1 // calls are the excerpt's
			if f.format == "csv" {
				filter.Closed = f.calls
			}
			c := &report.Case{Excerpt: analyze.NewExcerpt(f.calls), Tables: an.Tables(filter), Descriptors: an.Descriptors, Tool: tool()}
			c.Excerpt.Filter = filter
			add := func(ev event.Event) {
				mark := an.Add(ev)
				c.Tables.Add(ev, mark)
				c.Excerpt.Add(ev, mark)
			}
			if files, ok := a.inputs(&t, args); ok {
				if err := liveOnly(cmd, "inferior", "debuginfod"); err != nil {
					return err
				}
				from, err := a.files(files, &rf, false)
				if err != nil {
					return err
				}
				counts, err := from.read(add)
				if err != nil {
					return err
				}
				addCounts(c.Tables, counts)
			} else {
				if err := without(cmd, "is for a recording: of a running debugger there are no calls", slices.Concat(choosingCalls, []string{"calls"})...); err != nil {
					return err
				}
				events, err := a.evidence(&t, args, inferiors, nil, debuginfod)
				if err != nil {
					return err
				}
				for _, ev := range rf.events(a, events) {
					add(ev)
				}
			}
			a.sayIfNone(c.Tables, &filter)
			c.Diagnosis = an.Diagnosis()
			if err := f.write(a, c); err != nil {
				return err
			}
			if f.format == "csv" {
				chosen, _ := c.Tables.Chosen()
				kept := int64(len(c.Excerpt.Calls()))
				a.sayLeftOut("%d of %d calls", "calls", f.which, "calls", kept, chosen-kept)
				closed, merged := c.Tables.Closed()
				a.sayLeftOut("the latest %d of %d closed descriptors, the others as a sum", "calls", f.which, "fds", closed, merged)
			}
			a.noteTables(f.format, f.which)
			return findingsExit(c.Diagnosis)
		},
	}
	t.flag(a, cmd)
	fl.flags(cmd)
	rf.flags(cmd)
	formatFlag(cmd, &f.format, "html", "markdown", "text", "csv", "json")
	cmd.Flags().StringVarP(&f.output, "output", "o", "", "write to this file; it is made for its owner only")
	cmd.Flags().StringSliceVar(&f.which, "show", nil, "of csv, which tables: calls, summary, fds (default: all)")
	complete(cmd, "show", "calls", "summary", "fds")
	cmd.Flags().IntVar(&f.calls, "calls", analyze.DefaultExcerpt, "keep at most this many calls: the first, the last, and those around what was found")
	cmd.Flags().StringSliceVar(&inferiors, "inferior", nil, "a process that the debugger looks at, where it is not its tracer")
	cmd.Flags().BoolVar(&debuginfod, "debuginfod", a.getenv("DEBUGINFOD_URLS") != "", "ask the servers in DEBUGINFOD_URLS for names of functions")
	return cmd
}

// check looks at what can be seen to be wrong before any work is done.
func (f *reportFlags) check(a *app) error {
	if _, err := tableNames(f.which); err != nil {
		return err
	}
	switch {
	case len(f.which) > 0 && f.format != "csv":
		return errors.New("--show is for --format csv")
	case f.calls < 0:
		return fmt.Errorf("--calls %d: below zero", f.calls)
	case (f.output == "" || isStdout(f.output)) && f.format == "html" && a.terminal(a.out) > 0:
		return errors.New("a page is no good on a terminal: give -o FILE, or --format text")
	case f.output == "":
		return nil
	}
	return checkOutput(f.output)
}

// formatOf is the format that a file's name asks for.
func formatOf(name string) (string, error) {
	if isStdout(name) {
		return "html", nil
	}
	switch ext := strings.ToLower(filepath.Ext(name)); ext {
	case "", ".html", ".htm":
		return "html", nil
	case ".md", ".markdown":
		return "markdown", nil
	case ".csv":
		return "csv", nil
	case ".txt":
		return "text", nil
	case ".json":
		return "json", nil
	default:
		return "", fmt.Errorf("-o %s: no report ends in %s: .html, .md, .txt, .csv and .json do; or say --format", name, ext)
	}
}

// write writes the report where it is to go.
func (f *reportFlags) write(a *app, c *report.Case) error {
	if f.output == "" || isStdout(f.output) {
		return a.paged(func(w io.Writer) error { return f.render(w, c, a.style(w)) })
	}
	var buf bytes.Buffer
	if err := f.render(&buf, c, report.Style{}); err != nil {
		return err
	}
	return replaceOutput(f.output, buf.Bytes())
}

func (f *reportFlags) render(w io.Writer, c *report.Case, st report.Style) error {
	switch f.format {
	case "markdown":
		return report.Markdown(w, c)
	case "text":
		return report.CaseText(w, c, st)
	case "json":
		return report.JSON(w, c.Diagnosis)
	case "csv":
		return report.CaseCSV(w, c, f.which)
	}
	return report.HTML(w, c)
}
