package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"whosefd/tracer"
)

// straceFlag is a flag of strace(1) that does nothing here.
type straceFlag struct {
	letter, long string
	// without says that it may be left out: a trace does that in any case, or it is about
	// what a trace does not print. A note says what is different, if anything is.
	without bool
	says    string
}

// straceFlags are those flags; the ones that mean the same here are flags of ours, and
// straceNames has the others that ours have other names for.
var straceFlags = []straceFlag{
	{"f", "follow-forks", true, "all threads are followed; processes that it starts are not: they stay its own to trace"},
	{"t", "absolute-timestamps", true, "times are counted from the start of the trace, whose date is in the record (-o)"},
	{"r", "relative-timestamps", true, "times are counted from the start of the trace"},
	{"T", "syscall-times", true, ""},
	{"y", "decode-fds", true, ""},
	{"Y", "decode-pids", true, ""},
	{"v", "no-abbrev", true, "names are never cut, and structures are not printed"},
	{"s", "string-limit", true, "names are never cut, and data is not printed"},
	{"C", "summary", true, ""},
	{"w", "summary-wall-clock", true, ""},

	{"", "abbrev", false, "structures are not printed"},
	{"a", "columns", false, "columns are aligned by themselves"},
	{"A", "output-append-mode", false, "a record is of one trace; give each a file of its own"},
	{"b", "detach-on", false, "a process that runs another program is followed on"},
	{"D", "daemonize", false, "whosefd is the tracer, and a launched command its child"},
	{"", "fault", false, "whosefd changes nothing in what it traces"},
	{"i", "instruction-pointer", false, "use explain, which has a backtrace"},
	{"", "inject", false, "whosefd changes nothing in what it traces"},
	{"I", "interruptible", false, "Ctrl-C ends a trace; a launched command gets it too"},
	{"k", "stack-traces", false, "use explain, which has a backtrace"},
	{"", "kvm", false, "calls are traced, nothing else"},
	{"n", "syscall-number", false, "numbers of calls are not shown"},
	{"O", "summary-syscall-overhead", false, "times are as they were measured"},
	{"", "output-separately", false, "all threads are in one record"},
	{"", "raw", false, "arguments are printed decoded"},
	{"", "read", false, "data is not printed"},
	{"", "seccomp-bpf", false, "--engine ebpf is faster still"},
	{"", "signal", false, "signals are not shown"},
	{"", "status", false, "use -Z for calls that failed, or --filter 'errno == \"\"' for those that did not"},
	{"", "strings-in-hex", false, "what is not printable is escaped anyway"},
	{"z", "successful-only", false, "use --filter 'errno == \"\" && !unfinished'"},
	{"S", "summary-sort-by", false, "the summary is in the order of time spent"},
	{"U", "summary-columns", false, "the summary has all columns"},
	{"", "tips", false, "see --help"},
	{"u", "user", false, "run whosefd as that user: sudo -u USER whosefd trace …"},
	{"", "verbose", false, "structures are not printed"},
	{"", "write", false, "data is not printed"},
	{"x", "", false, "what is not printable is escaped anyway"},
	{"X", "const-print-style", false, "flags are printed by their names"},
}

// straceNames are the names of strace for flags of ours.
var straceNames = map[string]string{"attach": "pid", "failed-only": "failed", "trace": "call", "trace-path": "path"}

// straceAnyway are the values of strace's -e NAME=… that ask for what a trace does anyway, or
// for less of what it does not print.
var straceAnyway = []string{"abbrev", "decode-fds", "decode-fd", "decode-pids", "quiet", "q", "raw", "signal=none", "signal=!all", "s=none", "verbose", "v", "x"}

// straceHabits adds the flags of strace that may be left out, and its names for ours.
func (a *app) straceHabits(cmd *cobra.Command) {
	for _, f := range straceFlags {
		if f.without {
			cmd.Flags().VarPF(new(anyValue), f.long, f.letter, "").Hidden = true
			if f.long != "string-limit" {
				cmd.Flags().Lookup(f.long).NoOptDefVal = "true"
			}
		}
	}
	before := cmd.Flags().GetNormalizeFunc()
	cmd.Flags().SetNormalizeFunc(func(fs *pflag.FlagSet, name string) pflag.NormalizedName {
		if ours, ok := straceNames[name]; ok {
			name = ours
		}
		return before(fs, name)
	})
}

// anyValue is the value of a flag of which only matters that it was given.
type anyValue string

func (v *anyValue) String() string     { return string(*v) }
func (v *anyValue) Set(s string) error { *v = anyValue(s); return nil }
func (v *anyValue) Type() string       { return "anySlice" } // may be given several times

// noteHabits says what is different about such flags.
func (a *app) noteHabits(cmd *cobra.Command) {
	for _, f := range straceFlags {
		if f.without && f.says != "" && cmd.Flags().Changed(f.long) {
			a.note("-%s: %s", f.letter, f.says)
		}
	}
}

var unknownFlag = regexp.MustCompile(`^unknown (?:shorthand flag: '(.)' in |flag: --([^= ]+))`)

// flagError adds to what is said about a flag of strace that a trace does not have
// what there is instead.
func flagError(cmd *cobra.Command, err error) error {
	m := unknownFlag.FindStringSubmatch(err.Error())
	if m == nil || cmd.Flags().Lookup("follow-forks") == nil {
		return err
	}
	for _, f := range straceFlags {
		if m[1] != "" && f.letter == m[1] || m[2] != "" && f.long == m[2] {
			return fmt.Errorf("%w: that of strace is not needed or not there: %s", err, f.says)
		}
	}
	return err
}

// qualifierError says what there is instead of strace's -e what=….
func qualifierError(what string) error {
	for _, f := range straceFlags {
		if len(what) > 0 && f.long != "" && (f.long == what || f.letter == "" && f.long[:1] == what) {
			return fmt.Errorf("strace's -e %s= is not needed or not there: %s", what, f.says)
		}
	}
	return fmt.Errorf("calls can be chosen, nothing else (strace's -e %s= has no counterpart)", what)
}

// otherNames are what other tools call commands of ours, or what is asked for.
var otherNames = map[string][]string{
	"explain":   {"backtrace", "bt", "diagnose", "hang", "stack", "where", "why"},
	"ps":        {"list", "lsof", "status"},
	"trace":     {"attach", "log", "record", "run", "start", "truss"},
	"table":     {"print", "script", "show", "stat", "summary"},
	"report":    {"html"},
	"repair":    {"fix", "interrupt", "kill"},
	"guard":     {"launch", "protect"},
	"top":       {"htop", "tui"},
	"doctor":    {"check"},
	"preflight": {"core"},
	"watch":     {"daemon", "monitor"},
}

// misplaced adds to an error about the arguments what is meant by flags that stand
// before the command, as those of strace do.
func misplaced(args []string, text string) string {
	if len(args) == 0 || !strings.HasPrefix(args[0], "-") || !strings.HasPrefix(text, "unknown ") {
		return text
	}
	return text + "; a command goes before its flags, such as: whosefd trace " + strings.Join(args, " ")
}

// completeProcesses offers the pids of the debuggers that run here.
func (a *app) completeProcesses(cmd *cobra.Command, flag string) {
	offer := func(*cobra.Command, []string, string) (pids []string, _ cobra.ShellCompDirective) {
		debuggers, _ := tracer.Debuggers(a.view) // without them nothing is offered
		for _, pid := range debuggers {
			name := ""
			if p, err := a.view.Process(pid); err == nil {
				name = "\t" + strings.Join(strings.Fields(string(p.Comm)), " ")
			}
			pids = append(pids, strconv.Itoa(int(pid))+name)
		}
		return pids, cobra.ShellCompDirectiveNoFileComp
	}
	if flag == "" {
		cmd.ValidArgsFunction = func(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			pids, _ := offer(c, args, typed)
			return pids, cobra.ShellCompDirectiveDefault
		}
	} else if err := cmd.RegisterFlagCompletionFunc(flag, offer); err != nil {
		panic(err) // the flag is not there: a mistake in the program
	}
}
