package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manSections stand in each manual page, before SEE ALSO.
const manSections = `.SH EXIT STATUS
.TP
0
Nothing wrong was found.
.TP
1
There are findings.
.TP
2
whosefd could not look: wrong usage, no such process, not permitted, broken input.
.PP
trace, guard and gdb pass on the exit status of the command that they run, unless
\-\-findings\-exit is given.
.SH ENVIRONMENT
.TP
NO_COLOR, FORCE_COLOR, TERM
Whether output is colored, unless \-\-color says so.
.TP
PAGER, LESS
What long output on a terminal is shown in, unless \-\-no\-pager is given; less if it is not set.
.TP
DEBUGINFOD_URLS
Servers that are asked for the names of functions in a backtrace.
.TP
WHOSEFD_GDB
The gdb that whosefd gdb runs, in the place of the first in PATH.
.SH FILES
.TP
/proc
All that is known of a running process is read below it.
.TP
whosefd.py in the folder that gdb \-\-configuration calls system\-gdbinit\-dir
The plug\-in for gdb, installed for the whole machine; gdb loads it each time that it starts.
.TP
whosefd\-watch.service
A unit of systemd that runs whosefd watch, in packages; it is not enabled.
`

// man writes the manual pages, for installation.
func (a *app) man() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the manual pages into a folder",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			if named, _, err := root.Find(args); err == nil && named != root {
				return fmt.Errorf("man writes all pages into a folder; of this command: whosefd help %s", args[0])
			}
			if _, err := os.ReadDir(args[0]); err != nil {
				return fmt.Errorf("manual pages: %w", err)
			}
			for _, c := range append(manCommands(root), root) {
				if err := os.WriteFile(filepath.Join(args[0], manName(c)+".1"), []byte(manPage(c)), 0o644); err != nil {
					return fmt.Errorf("manual pages: %w", err)
				}
			}
			return nil
		},
	}
}

// manCommands are those that have a page, beside the root.
func manCommands(root *cobra.Command) []*cobra.Command {
	return slices.DeleteFunc(slices.Clone(root.Commands()), func(c *cobra.Command) bool { return !c.IsAvailableCommand() || c.Name() == "completion" })
}

func manName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// manPage is the page of a command in the macros of man(7).
func manPage(c *cobra.Command) string {
	c.InitDefaultHelpFlag()
	var b strings.Builder
	put := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	put(".TH %q 1 \"\" %q %q\n", strings.ToUpper(manName(c)), tool(), "whosefd")
	put(".SH NAME\n%s \\- %s\n", roff(manName(c)), roff(c.Short))
	put(".SH SYNOPSIS\n.B %s\n", roff(c.UseLine()))
	put(".SH DESCRIPTION\n")
	for i, paragraph := range strings.Split(c.Long, "\n\n") {
		if i > 0 {
			put(".PP\n")
		}
		put("%s\n", roff(paragraph))
	}
	if c == c.Root() {
		put(".SH COMMANDS\n")
		for _, sub := range manCommands(c) {
			put(".TP\n.BR %s (1)\n%s\n", roff(manName(sub)), roff(sub.Short))
		}
	}
	for _, set := range []struct {
		title string
		flags *pflag.FlagSet
	}{{"OPTIONS", c.NonInheritedFlags()}, {"OPTIONS OF ALL COMMANDS", c.InheritedFlags()}} {
		title := ".SH " + set.title + "\n"
		set.flags.VisitAll(func(f *pflag.Flag) {
			if f.Hidden {
				return
			}
			put("%s.TP\n.B %s\n%s\n", title, roff(flagNames(f)), roff(flagUsage(f)))
			title = ""
		})
	}
	if c.Example != "" {
		put(".SH EXAMPLES\n.nf\n%s\n.fi\n", roff(c.Example))
	}
	b.WriteString(manSections)
	var also []string
	for _, other := range append(manCommands(c.Root()), c.Root()) {
		if other != c {
			also = append(also, ".BR "+roff(manName(other))+" (1)")
		}
	}
	put(".SH SEE ALSO\n%s,\n.BR gdb (1),\n.BR strace (1),\n.BR ptrace (2)\n", strings.Join(also, ",\n"))
	return b.String()
}

// flagNames are those of a flag with its value: "-o, --output FILE".
func flagNames(f *pflag.Flag) string {
	s := "--" + f.Name
	if f.Shorthand != "" {
		s = "-" + f.Shorthand + ", " + s
	}
	switch f.Value.Type() {
	case "bool", "count":
		return s
	case "int", "intSlice", "float64":
		return s + " N"
	case "duration":
		return s + " TIME"
	}
	return s + " VALUE"
}

func flagUsage(f *pflag.Flag) string {
	usage := f.Usage
	if !slices.Contains([]string{"", "false", "0", "0s", "[]"}, f.DefValue) {
		usage += " (" + f.DefValue + " if it is not given)"
	}
	return usage
}

// roff escapes a text, whose lines stay lines, for groff(7) too, which takes no UTF-8.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	var b strings.Builder
	for _, r := range strings.Join(lines, "\n") {
		if r < 0x80 {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\[u%04X]`, r)
		}
	}
	return b.String()
}
