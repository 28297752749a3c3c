package analyze

import (
	"fmt"
	"slices"
	"strings"

	"whosefd/tracer/event"
)

// advice is a row of the table of remedies.
type advice struct {
	kind    string
	rules   []Rule
	effects []Effect // none: all
	// when is a further condition; nil is none.
	when    func(f *Finding) bool
	command func(a *Analyzer, f *Finding) string // nil: nothing to type
	text    func(a *Analyzer, f *Finding) string
}

func say(text string) func(*Analyzer, *Finding) string {
	return func(*Analyzer, *Finding) string { return text }
}

// advices is the place for everything that can be done about a finding, in the
// order in which it is shown.
var advices = []advice{
	{
		kind: "repair", effects: []Effect{Hang, StolenInput},
		when:    func(f *Finding) bool { return f.repairable() == nil },
		command: func(a *Analyzer, f *Finding) string { return fmt.Sprintf("whosefd repair %d", f.Opened.PID) },
		text: func(a *Analyzer, f *Finding) string {
			return fmt.Sprintf("gives the session back now: puts %s behind descriptor %d, so that the read goes on with the right file.", f.Intended.Reachable, f.Opened.FD.Val)
		},
	},
	{
		kind: "release", effects: []Effect{Hang, StolenInput},
		when:    func(f *Finding) bool { return f.repairable() != nil && f.releasable() == nil },
		command: func(a *Analyzer, f *Finding) string { return fmt.Sprintf("whosefd repair --release %d", f.Opened.PID) },
		text:    say("gives the session back now, without the symbols of this library: the read ends as at the end of a file."),
	},
	{
		kind: "explain", effects: []Effect{Hang, StolenInput},
		when:    func(f *Finding) bool { return f.log && f.TID > 0 },
		command: func(a *Analyzer, f *Finding) string { return fmt.Sprintf("whosefd explain %d", f.Opened.PID) },
		text:    say("if it still hangs: shows what a log cannot, the file that is meant and who holds the pipe. whosefd repair then gives the session back."),
	},
	{
		kind: "writer", effects: []Effect{Hang},
		when: func(f *Finding) bool {
			return f.TID > 0 && f.Opened.Kind == event.FIFO && !f.Opened.FD.Known && f.Opened.Link != ""
		},
		command: func(a *Analyzer, f *Finding) string {
			return fmt.Sprintf(": > %s", Quote(fmt.Sprintf("/proc/%d/root%s", f.Opened.PID, f.Opened.Link)))
		},
		text: say("gives the session back now, without the symbols of this library: the open ends when somebody opens the FIFO for writing, and the read at once, as at the end of a file."),
	},
	{
		kind: "guard", rules: []Rule{RuleSelfFD, RuleSelfLink, RuleRelative, RuleMountNS},
		when:    func(f *Finding) bool { return !f.entered && f.arch == "" }, // the copy of the debugger is not followed
		command: func(a *Analyzer, f *Finding) string { return "whosefd guard -- " + a.commandLine() },
		text:    say("runs the debugger so that it cannot happen again: each such open is led to the inferior's file."),
	},
	{
		kind: "program", rules: []Rule{RuleSelfFD},
		text: say("In the program, load the library by a name that means the same to everybody: " +
			"dlopen(\"/proc/<getpid()>/fd/N\") instead of \"/proc/self/fd/N\". It does not help once the program has closed the descriptor, " +
			"nor in another pid namespace than the debugger's, unless that enters the program's mount namespace, as gdb does."),
	},
	{
		kind: "program", rules: []Rule{RuleSelfLink},
		text: say("In the program, load the library by a name that means the same to everybody: " +
			"\"/proc/<getpid()>/…\" instead of \"/proc/self/…\". It does not help if the debugger is in another pid namespace."),
	},
	{
		kind: "program", rules: []Rule{RuleRelative},
		text: say("In the program, load the library by its absolute path."),
	},
	{
		kind: "chdir", rules: []Rule{RuleRelative},
		when: func(f *Finding) bool { return f.whose() != 0 },
		command: func(a *Analyzer, f *Finding) string {
			if inf := a.inferiors[f.whose()]; inf != nil && inf.Cwd != "" {
				return "cd " + Quote(string(inf.Cwd))
			}
			return ""
		},
		text: say("Start the debugger in the directory in which the program runs, or go there inside the debugger."),
	},
	{
		kind: "sysroot", rules: []Rule{RuleSelfFD, RuleSelfLink, RuleMountNS},
		when: func(f *Finding) bool {
			return f.whose() != 0 && (f.Rule == RuleMountNS || f.Effect == WrongFile || f.Effect == Failed) // gdb takes commands
		},
		command: func(a *Analyzer, f *Finding) string {
			return fmt.Sprintf("whosefd preflight %d --sysroot sysroot-%d", f.whose(), f.whose())
		},
		text: say("makes a folder in which gdb finds the files that the program sees, and prints what to type: also for the gdb that is running."),
	},
	{
		kind: "namespace", rules: []Rule{RulePIDNS},
		when: func(f *Finding) bool { return f.whose() != 0 },
		command: func(a *Analyzer, f *Finding) string {
			return fmt.Sprintf("nsenter -t %d -p -m gdb", f.whose())
		},
		text: say("runs a debugger inside the program's namespaces, where the process number is right; it must be installed there."),
	},
	{
		kind: "restart", rules: []Rule{RuleReplacedFile},
		text: say("Restart the program, so that it maps the file that is there now, or put the old file back. " +
			"A program that unpacks a library, loads and deletes it should delete it later."),
	},
}

// remedies gives what applies to a finding.
func (a *Analyzer) remedies(f *Finding) []Remedy {
	var apply []Remedy
	for _, ad := range advices {
		if ad.rules != nil && !slices.Contains(ad.rules, f.Rule) || ad.effects != nil && !slices.Contains(ad.effects, f.Effect) ||
			ad.when != nil && !ad.when(f) {
			continue
		}
		r := Remedy{Kind: ad.kind, Text: event.Text(ad.text(a, f))}
		if ad.command != nil {
			r.Command = event.Text(ad.command(a, f))
		}
		apply = append(apply, r)
	}
	return apply
}

// commandLine is how the debugger was started, fit for a shell.
func (a *Analyzer) commandLine() string {
	if pids := a.inferiorPIDs(); a.preflight && len(pids) > 0 {
		return fmt.Sprintf("gdb -p %d", pids[0])
	}
	if len(a.debugger.Cmdline) == 0 || len(a.debugger.Cmdline) > 32 {
		return "gdb ARGS…"
	}
	words := make([]string, len(a.debugger.Cmdline))
	for i, w := range a.debugger.Cmdline {
		words[i] = Quote(string(w))
	}
	return strings.Join(words, " ")
}

// Quote makes a word of a POSIX shell.
func Quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./=:,+@%", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
