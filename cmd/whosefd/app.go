package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"whosefd/analyze/report"
	"whosefd/tracer/procview"
)

// app is what the commands get from outside.
type app struct {
	in       io.Reader
	out, err io.Writer
	getenv   func(string) string
	view     *procview.View
	// terminal gives the width of a terminal, 0 for anything else.
	terminal func(any) int

	// height gives that, in lines.
	height func(any) int

	noPager bool // --no-pager

	color string // --color
	quiet bool   // --quiet: no notes on standard error
}

// say prints a line of ours to standard error.
func (a *app) say(format string, args ...any) {
	_ = report.Prose(a.err, "whosefd: "+report.Clean(fmt.Sprintf(format, args...)), report.Style{Width: a.terminal(a.err)}) // nobody could be told
}

// note is say, unless --quiet leaves such lines out.
func (a *app) note(format string, args ...any) {
	if !a.quiet {
		a.say(format, args...)
	}
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "whosefd",
		Short: "Whose file descriptor is it? Explains why a debugger hangs or shows wrong symbols",
		Long: `whosefd looks at a running debugger and finds names, such as /proc/self/fd/4, that
the debugger opened in its own process although they belong to the program that
it debugs. It explains the root cause, with proof.

If gdb hangs now, run:  whosefd explain

Exit codes: 0 nothing wrong found, 1 findings, 2 could not look.`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := notEmpty(cmd); err != nil {
				return err
			}
			if f := cmd.Flags().Lookup("json"); f != nil && f.Changed && cmd.Flags().Changed("format") && cmd.Flags().Lookup("format").Value.String() != "json" {
				return errors.New("--json is --format json: give one of them")
			}
			return oneOf("--color", a.color, "auto", "always", "never")
		},
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.PersistentFlags().StringVar(&a.color, "color", "auto", "color the output: auto, always or never (also: NO_COLOR, FORCE_COLOR)")
	complete(root, "color", "auto", "always", "never")
	root.PersistentFlags().BoolVarP(&a.quiet, "quiet", "q", false, "leave notes on standard error out")
	root.PersistentFlags().BoolVar(&a.noPager, "no-pager", false, "show long output without PAGER")
	root.Flags().BoolP("version", "V", false, "print the version")
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(help())
	root.SetUsageTemplate(wrapped.Replace(root.UsageTemplate()))
	root.SetHelpTemplate(wrapped.Replace(root.HelpTemplate()))
	root.AddCommand(a.explain(), a.ps(), a.trace(), a.table(), a.report(), a.repair(), a.guard(), a.gdb(), a.preflight(), a.watch(), a.top(), a.gdbPlugin(), a.doctor(), a.man())
	root.Example = examples[root.Name()]
	for _, cmd := range root.Commands() {
		cmd.Example = examples[cmd.Name()]
		cmd.SuggestFor = otherNames[cmd.Name()]
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Value.Type() == "duration" {
				f.Value = &duration{Value: f.Value}
			}
			if k := f.Value.Type(); k != "bool" && k != "count" && !strings.HasSuffix(k, "Slice") && !strings.HasSuffix(k, "Array") {
				f.Value = &once{Value: f.Value}
			}
		})
	}
	return root
}

// duration is the value of a flag that is a time; a number without a unit is of
// seconds, as in sleep(1) and timeout(1).
type duration struct{ pflag.Value }

func (d *duration) Set(s string) error {
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		s += "s"
	}
	return d.Value.Set(s)
}

func init() {
	cobra.AddTemplateFunc("flagUsages", func(flags *pflag.FlagSet) string {
		return flags.FlagUsagesWrapped(terminalWidth(os.Stdout))
	})
	cobra.AddTemplateFunc("filled", func(first, text string) string {
		return filled(first, text, terminalWidth(os.Stdout))
	})
}

// wrapped makes help and usage fit the terminal's width.
var wrapped = strings.NewReplacer(".LocalFlags.FlagUsages", "flagUsages .LocalFlags", ".InheritedFlags.FlagUsages", "flagUsages .InheritedFlags",
	`  {{rpad .Name .NamePadding }} {{.Short}}`, `{{filled (printf "  %s " (rpad .Name .NamePadding)) .Short}}`,
	"{{. | trimTrailingWhitespaces}}", `{{trimTrailingWhitespaces . | filled ""}}`)

// filled fills the lines of each paragraph behind what is first, up to a width.
func filled(first, text string, width int) string {
	if width > 0 {
		text = lineEnd.ReplaceAllString(text, "$1 $2")
	}
	var b strings.Builder
	_ = report.Hang(&b, first, text, report.Style{Width: width}) // a Builder takes all
	return strings.TrimSuffix(b.String(), "\n")
}

// lineEnd is an end of a line within a paragraph.
var lineEnd = regexp.MustCompile(`(\S)\n(\S)`)

// once is the value of a flag that may be given once: of two, one would be lost.
type once struct {
	pflag.Value
	given *string
}

func (o *once) Set(s string) error {
	if o.given != nil && *o.given != s {
		return fmt.Errorf("it was given as %q before, and has one value", *o.given)
	}
	o.given = &s
	return o.Value.Set(s)
}

// asked are the arguments with the command that they mean where they name none: a
// process or a file is explained, and -V and version are --version.
func asked(args []string) []string {
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "--color":
			i++
		case arg == "-q", arg == "--quiet", arg == "--json", strings.HasPrefix(arg, "--color="):
		case arg == "-v", arg == "version":
			return []string{"--version"}
		case arg == "--pid", strings.HasPrefix(arg, "--pid="), strings.HasPrefix(arg, "-p"),
			strings.TrimLeft(arg, "0123456789") == "" && arg != "", strings.ContainsAny(arg, "./") && isSource(arg):
			return append([]string{"explain"}, args...)
		default:
			return args
		}
	}
	return args
}

// notEmpty refuses a flag whose value is an empty text: a variable of a script
// that is not set, most likely, and to go on as if the flag had not been given
// would be to look at another process, or to lose the record.
func notEmpty(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if v := f.Value.String(); err == nil && (v == "" || v == "[]") {
			err = fmt.Errorf("--%s: its value is empty", f.Name)
		}
	})
	return err
}

// style is how text for w looks.
func (a *app) style(w io.Writer) report.Style {
	if p, ok := w.(*pages); ok {
		w = p.to
	}
	width := a.terminal(w)
	forced := a.getenv("FORCE_COLOR")
	color := a.color == "always" || a.color == "auto" && a.getenv("NO_COLOR") == "" &&
		(forced != "" && forced != "0" || forced == "" && width > 0 && a.getenv("TERM") != "dumb")
	return report.Style{Width: width, Color: color}
}

// help is the command; cobra's own takes every word for a command.
func help() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about any command",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || about == nil || len(rest) > 0 {
				return fmt.Errorf("help: there is no command %q", strings.Join(args, " "))
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
			if about, _, err := cmd.Root().Find(args); err == nil {
				for _, c := range about.Commands() {
					if c.IsAvailableCommand() {
						names = append(names, c.Name())
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// formatFlag adds --format to a command, with the first as its default.
func formatFlag(cmd *cobra.Command, to *string, formats ...string) {
	cmd.Flags().StringVar(to, "format", formats[0], "output format: "+strings.Join(formats, ", "))
	complete(cmd, "format", formats...)
	json := slices.Contains(formats, "json") && cmd.Flags().Bool("json", false, "--format json") != nil
	before := cmd.PreRunE
	cmd.PreRunE = func(c *cobra.Command, args []string) error {
		if json && c.Flags().Changed("json") {
			*to = "json"
		}
		if before != nil {
			if err := before(c, args); err != nil {
				return err
			}
		}
		return oneOf("--format", *to, formats...)
	}
}

// complete offers values for a flag to the shell.
func complete(cmd *cobra.Command, flag string, values ...string) {
	offer := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values, cobra.ShellCompDirectiveNoFileComp
	}
	if err := cmd.RegisterFlagCompletionFunc(flag, offer); err != nil {
		panic(err) // the flag is not there: a mistake in the program
	}
}

// completeList offers values for a flag that takes several, with commas between them,
// the first of which may begin with "!".
func completeList(cmd *cobra.Command, flag string, values func() []string) {
	offer := func(_ *cobra.Command, _ []string, typed string) (offered []string, _ cobra.ShellCompDirective) {
		before := typed[:strings.LastIndexByte(typed, ',')+1]
		if before == "" && strings.HasPrefix(typed, "!") {
			before = "!"
		}
		for _, v := range values() {
			if strings.HasPrefix(before+v, typed) {
				offered = append(offered, before+v)
			}
		}
		return offered, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
	if err := cmd.RegisterFlagCompletionFunc(flag, offer); err != nil {
		panic(err) // the flag is not there: a mistake in the program
	}
}

func oneOf(flag, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("%s %q: not one of %s", flag, value, strings.Join(allowed, ", "))
}

// tool is the name in recordings.
func tool() string { return "whosefd " + version }

// isFile says whether an argument names a file rather than a process.
func isFile(arg string) bool {
	if strings.ContainsRune(arg, '/') {
		return true
	}
	st, err := os.Stat(arg)
	return err == nil && !st.IsDir()
}
