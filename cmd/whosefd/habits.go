package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"whosefd/tracer"
)

// straceFlags are flags of strace(1) for what a trace does in any case, by letter.
// A note says what is different, if anything is.
var straceFlags = map[string]string{
	"f": "all threads are followed; processes that it starts are not: they stay its own to trace",
	"t": "times are counted from the start of the trace, whose date is in the record (-o)",
	"r": "times are counted from the start of the trace",
	"T": "",
	"y": "",
}

// elsewhere are flags of strace that mean something else or nothing here: what to
// use instead.
var elsewhere = map[string]string{
	"a": "columns are aligned by themselves",
	"b": "a process that runs another program is followed on",
	"C": "calls and summary are both printed anyway",
	"D": "whosefd is the tracer, and a launched command its child",
	"i": "use explain, which has a backtrace",
	"k": "use explain, which has a backtrace",
	"n": "numbers of calls are not shown",
	"S": "the summary is in the order of time spent",
	"u": "run whosefd as that user: sudo -u USER whosefd trace …",
	"w": "the summary's times are wall clock times anyway",
	"x": "what is not printable is escaped anyway",
}

// straceHabits adds the flags of strace that may be left out.
func (a *app) straceHabits(cmd *cobra.Command) {
	for letter := range straceFlags {
		cmd.Flags().CountP("strace-"+letter, letter, "")
	}
	cmd.Flags().IntP("strace-s", "s", 0, "")
	for _, letter := range "ftrTys" {
		_ = cmd.Flags().MarkHidden("strace-" + string(letter)) // it is there
	}
}

// noteHabits says what is different about such flags.
func (a *app) noteHabits(cmd *cobra.Command) {
	for _, letter := range "ftr" {
		if cmd.Flags().Changed("strace-" + string(letter)) {
			a.note("-%c: %s", letter, straceFlags[string(letter)])
		}
	}
	if cmd.Flags().Changed("strace-s") {
		a.note("-s: names are never cut, and data is not printed")
	}
}

var unknownLetter = regexp.MustCompile(`^unknown shorthand flag: '(.)' in `)

// flagError adds to what is said about a flag of strace that a trace does not have
// what there is instead.
func flagError(cmd *cobra.Command, err error) error {
	if m := unknownLetter.FindStringSubmatch(err.Error()); m != nil && cmd.Flags().Lookup("strace-f") != nil && elsewhere[m[1]] != "" {
		return fmt.Errorf("%w: strace's -%s is not needed or not there: %s", err, m[1], elsewhere[m[1]])
	}
	return err
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
