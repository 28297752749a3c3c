package words

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"whosefd/analyze/rules"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Remedy is something to do. Command is empty where there is nothing to type.
type Remedy struct {
	Kind    string     `json:"kind"`
	Command event.Text `json:"command,omitempty"`
	Text    event.Text `json:"text"`
}

// advice is a row of the table of remedies.
type advice struct {
	kind    string
	rules   []rules.Rule
	effects []rules.Effect // none: all
	// when is a further condition; nil is none.
	when    func(s *speaker, f *rules.Finding) bool
	command func(s *speaker, f *rules.Finding) string // nil: nothing to type
	text    func(s *speaker, f *rules.Finding) string
}

func say(text string) func(*speaker, *rules.Finding) string {
	return func(*speaker, *rules.Finding) string { return text }
}

// waitRules are those of waits that cannot end.
var waitRules = []rules.Rule{rules.RuleSelfWait, rules.RuleStoppedInferior, rules.RuleMutualWait, rules.RuleInferiorDeadlock}

// advices is the place for everything that can be done about a finding, in the
// order in which it is shown.
var advices = []advice{
	{
		kind: "repair", effects: []rules.Effect{rules.Hang, rules.StolenInput},
		when:    func(s *speaker, f *rules.Finding) bool { return !s.Ended && f.Repairable() == nil },
		command: func(s *speaker, f *rules.Finding) string { return fmt.Sprintf("whosefd repair %d", f.Opened.PID) },
		text: func(s *speaker, f *rules.Finding) string {
			return fmt.Sprintf("gives the session back now: puts %s behind descriptor %d, so that the read goes on with the right file.", f.Intended.Reachable, f.Opened.FD.Val)
		},
	},
	{
		kind: "repair", effects: []rules.Effect{rules.Hang, rules.StolenInput},
		when: func(s *speaker, f *rules.Finding) bool { return !s.Ended && s.isCore(f.Owner) && f.Releasable() == nil },
		command: func(s *speaker, f *rules.Finding) string {
			return fmt.Sprintf("whosefd repair --with FILE %d", f.Opened.PID)
		},
		text: func(s *speaker, f *rules.Finding) string {
			return fmt.Sprintf("gives the session back now, with the symbols, if you have the library%s: FILE, behind descriptor %d.", s.buildID(f), f.Opened.FD.Val)
		},
	},
	{
		kind: "release", effects: []rules.Effect{rules.Hang, rules.StolenInput},
		when: func(s *speaker, f *rules.Finding) bool {
			return !s.Ended && f.Repairable() != nil && f.Releasable() == nil
		},
		command: func(s *speaker, f *rules.Finding) string {
			return fmt.Sprintf("whosefd repair --release %d", f.Opened.PID)
		},
		text: func(_ *speaker, f *rules.Finding) string {
			if len(f.Way) > 0 {
				return "ends the read as at the end of a file."
			}
			return "gives the session back now, without the symbols of this library: the read ends as at the end of a file."
		},
	},
	{
		kind: "explain", effects: []rules.Effect{rules.Hang, rules.StolenInput},
		when:    func(s *speaker, f *rules.Finding) bool { return s.Log && !s.Ended && s.Debugger.PID > 0 && f.TID > 0 },
		command: func(s *speaker, f *rules.Finding) string { return fmt.Sprintf("whosefd explain %d", f.Opened.PID) },
		text:    say("if it still hangs: shows what a log cannot, the file that is meant and who holds the pipe. whosefd repair then gives the session back."),
	},
	{
		kind: "inferior",
		when: func(s *speaker, f *rules.Finding) bool {
			if len(f.Way) > 0 {
				if _, reads := f.Feed(); !reads {
					return false
				}
			}
			return s.Snapshot && f.TID > 0 && f.Owner == 0 && len(s.Inferiors) == 0
		},
		command: func(s *speaker, f *rules.Finding) string {
			return fmt.Sprintf("whosefd explain --inferior PID %d", f.Opened.PID)
		},
		text: say("if it looks at a process that it does not trace: where that is named, it is known which file is meant, and whosefd repair --inferior PID gives the session back."),
	},
	{
		kind: "writer", effects: []rules.Effect{rules.Hang},
		when: func(_ *speaker, f *rules.Finding) bool {
			return f.TID > 0 && f.Opened.Kind == event.FIFO && !f.Opened.FD.Known && f.Opened.Link != ""
		},
		command: func(s *speaker, f *rules.Finding) string {
			return fmt.Sprintf(": > %s", Quote(fmt.Sprintf("/proc/%d/root%s", f.Opened.PID, f.Opened.Link)))
		},
		text: say("gives the session back now, without the symbols of this library: the open ends when somebody opens the FIFO for writing, and the read at once, as at the end of a file."),
	},
	{
		kind: "feed", rules: waitRules,
		when: func(_ *speaker, f *rules.Finding) bool { _, ok := f.Feed(); return ok },
		command: func(_ *speaker, f *rules.Finding) string {
			e, _ := f.Feed()
			return fmt.Sprintf("echo >/proc/%d/fd/%d", e.PID, e.FD.Val)
		},
		text: say("writes an empty line into the pipe: the read ends, and the process goes on with that, whatever it makes of it."),
	},
	{
		kind: "drain", rules: waitRules,
		when: func(_ *speaker, f *rules.Finding) bool { _, ok := f.Drain(); return ok },
		command: func(_ *speaker, f *rules.Finding) string {
			e, _ := f.Drain()
			return fmt.Sprintf("cat /proc/%d/fd/%d >output.txt", e.PID, e.FD.Val)
		},
		text: func(_ *speaker, f *rules.Finding) string {
			e, _ := f.Drain()
			return fmt.Sprintf("reads the pipe in the place of %s, so that %s can go on; nobody is killed. What is read is lost to %s, and stays in the file.",
				e.Comm, process(f.Way[0].Comm, f.Way[0].PID), e.Comm)
		},
	},
	{
		kind: "interrupt", rules: []rules.Rule{rules.RuleSelfWait},
		when: func(s *speaker, f *rules.Finding) bool {
			w := f.Way[0]
			return s.Debugger.SIGINT == "caught" && w.PID == s.Debugger.PID && w.Meant != nil && w.Meant.Op == event.AwaitFutex
		},
		command: func(_ *speaker, f *rules.Finding) string { return fmt.Sprintf("kill -INT %d", f.Way[0].PID) },
		text:    say("is what Ctrl-C does: a program that looks for it while it waits for a lock, as Python does, gives up waiting."),
	},
	{
		kind: "interrupt", rules: []rules.Rule{rules.RuleInferiorDeadlock},
		command: func(_ *speaker, f *rules.Finding) string { return fmt.Sprintf("kill -INT %d", f.Way[0].PID) },
		text: say("is what Ctrl-C in the debugger does: it stops the thread and gives the prompt back. Then \"set scheduler-locking off\" and \"continue\" let the other " +
			"threads run too, so that the lock is released and the function comes to its end; what it returns is lost."),
	},
	{
		kind: "type", rules: []rules.Rule{rules.RuleMutualWait},
		when: func(s *speaker, f *rules.Finding) bool { return f.TakesCommands() },
		command: func(_ *speaker, f *rules.Finding) string {
			return fmt.Sprintf("echo quit >/proc/%d/fd/0", f.Way[0].PID)
		},
		text: say("gives the debugger the command in the place of its front end: it ends in good order, and so does the front end's wait. Any other command can be given so."),
	},
	{
		kind: "abort", rules: []rules.Rule{rules.RuleStoppedInferior},
		when: func(_ *speaker, f *rules.Finding) bool { _, ok := f.Connection(); return ok },
		command: func(_ *speaker, f *rules.Finding) string {
			n, _ := f.Connection()
			return fmt.Sprintf("mountpoint -q /sys/fs/fuse/connections || mount -t fusectl none /sys/fs/fuse/connections; echo 1 >/sys/fs/fuse/connections/%d/abort", n)
		},
		text: say("(as root) ends the wait with an error, and the debugger goes on; the mount is lost to everybody, and its server ends as after an unmount."),
	},
	{
		kind: "kill", rules: waitRules,
		when: func(_ *speaker, f *rules.Finding) bool {
			return f.Rule != rules.RuleInferiorDeadlock && f.Way[0].PID > 0
		},
		command: func(_ *speaker, f *rules.Finding) string { return fmt.Sprintf("kill -KILL %d", f.Way[0].PID) },
		text: func(s *speaker, f *rules.Finding) string {
			if f.Rule == rules.RuleStoppedInferior {
				return "the last resort: the session is lost. The program goes on if the debugger was attached to it; one that the debugger has started is killed with it."
			}
			return fmt.Sprintf("the last resort: what %s has not saved is lost.", process(f.Way[0].Comm, f.Way[0].PID))
		},
	},
	{
		kind: "gdb-plugin", rules: []rules.Rule{rules.RuleSelfFD, rules.RuleSelfLink, rules.RuleRelative},
		when:    func(s *speaker, f *rules.Finding) bool { return s.gdb() && !s.Plugin && !f.Entered && f.Script == "" },
		command: func(*speaker, *rules.Finding) string { return "whosefd gdb-plugin --install" },
		text: func(s *speaker, f *rules.Finding) string {
			text := "once, for every gdb that is started from then on: a plug-in with which it opens the inferior's files by such names."
			if s.isCore(f.Owner) {
				text = "once, for every gdb that is started from then on: a plug-in with which such names in a core lead to nothing, or to the file that \"set whosefd file\" names."
			}
			return text
		},
	},
	{
		kind: "gdb-plugin", rules: []rules.Rule{rules.RuleSelfFD, rules.RuleSelfLink, rules.RuleRelative},
		when: func(s *speaker, f *rules.Finding) bool { return s.Plugin && f.Script == "" },
		text: say("The gdb has whosefd's plug-in, which did not lead this name: \"info whosefd\" inside it says why."),
	},
	{
		kind: "script", rules: []rules.Rule{rules.RuleSelfFD, rules.RuleSelfLink},
		when: func(_ *speaker, f *rules.Finding) bool { return f.Script != "" },
		text: say("In the script, open what the inferior means: \"/proc/PID/fd/N\" with the number of the process that is debugged (in gdb's Python gdb.selected_inferior().pid), " +
			"or \"/proc/PID/root\" and the name."),
	},
	{
		kind: "guard", rules: []rules.Rule{rules.RuleSelfFD, rules.RuleSelfLink, rules.RuleRelative, rules.RuleMountNS},
		when: func(_ *speaker, f *rules.Finding) bool { return !f.Entered && f.Arch == "" }, // the copy of the debugger is not followed
		command: func(s *speaker, f *rules.Finding) string {
			if s.isCore(f.Owner) {
				return fmt.Sprintf("whosefd guard --with %s=FILE -- %s", Quote(string(f.Name)), s.commandLine())
			}
			return "whosefd guard -- " + s.commandLine()
		},
		text: func(s *speaker, f *rules.Finding) string {
			if s.isCore(f.Owner) {
				return "runs the debugger so that it cannot happen again: each such open is led to FILE; without --with, it fails, and there are no symbols of this library."
			}
			return "runs the debugger so that it cannot happen again: each such open is led to the inferior's file."
		},
	},
	{
		kind: "links", when: func(s *speaker, f *rules.Finding) bool {
			return s.isCore(f.Owner) && strings.HasPrefix(string(f.Name), "/")
		},
		command: func(s *speaker, f *rules.Finding) string {
			return fmt.Sprintf("whosefd preflight --core %s --sysroot DIR --with %s=FILE", Quote(string(s.Inferiors[f.Owner].Core.Link)), Quote(string(f.Name)))
		},
		text: func(s *speaker, f *rules.Finding) string {
			return fmt.Sprintf("makes a folder with which plain gdb shows the core with symbols, if you have the library%s, and says how to start gdb.", s.buildID(f))
		},
	},
	{
		kind: "symfs", when: func(_ *speaker, f *rules.Finding) bool { return f.MapText },
		command: func(s *speaker, f *rules.Finding) string {
			return fmt.Sprintf("whosefd preflight %s --sysroot DIR", pidOf(f))
		},
		text: say("while the program runs: makes a folder in which such texts lead to the files, for tools that look below one (perf report --symfs DIR)."),
	},
	{
		kind: "guard", when: func(_ *speaker, f *rules.Finding) bool { return f.MapText },
		command: func(s *speaker, f *rules.Finding) string {
			return fmt.Sprintf("whosefd guard --inferior %s -- %s", pidOf(f), s.commandLine())
		},
		text: say("while the program runs: runs the tool so that such a text leads it to the file that is mapped."),
	},
	{
		kind: "exe", when: func(_ *speaker, f *rules.Finding) bool { return f.Program && !f.ShutOut() },
		command: func(s *speaker, f *rules.Finding) string {
			id := f.Owner
			if inf := s.Inferiors[f.Owner]; inf != nil && inf.LivingTID != 0 {
				id = event.PID(inf.LivingTID)
			}
			return fmt.Sprintf("gdb /proc/%d/exe -p %d", id, id)
		},
		text: func(s *speaker, f *rules.Finding) string {
			return fmt.Sprintf("starts gdb with the program itself, whatever its path was. In a gdb that has the process already, type: file /proc/%d/exe", f.Owner)
		},
	},
	{
		kind: "program", rules: []rules.Rule{rules.RuleSelfFD}, when: ofProcess,
		text: say("In the program, load the library by a name that means the same to everybody: " +
			"dlopen(\"/proc/<getpid()>/fd/N\") instead of \"/proc/self/fd/N\". It does not help once the program has closed the descriptor, " +
			"nor in another pid namespace than the debugger's, unless that enters the program's mount namespace, as gdb does."),
	},
	{
		kind: "program", rules: []rules.Rule{rules.RuleSelfLink}, when: ofProcess,
		text: say("In the program, load the library by a name that means the same to everybody: " +
			"\"/proc/<getpid()>/…\" instead of \"/proc/self/…\". It does not help if the debugger is in another pid namespace."),
	},
	{
		kind: "program", rules: []rules.Rule{rules.RuleRelative},
		text: say("In the program, load the library by its absolute path."),
	},
	{
		kind: "chdir", rules: []rules.Rule{rules.RuleRelative},
		when: func(_ *speaker, f *rules.Finding) bool { return f.Owner > 0 },
		command: func(s *speaker, f *rules.Finding) string {
			if inf := s.Inferiors[f.Owner]; inf != nil && inf.Cwd != "" {
				return "cd " + Quote(string(inf.Cwd))
			}
			return ""
		},
		text: say("Start the debugger in the directory in which the program runs, or go there inside the debugger."),
	},
	{
		kind: "sysroot", rules: []rules.Rule{rules.RuleSelfFD, rules.RuleSelfLink, rules.RuleMountNS},
		when: func(_ *speaker, f *rules.Finding) bool {
			return f.Owner > 0 && (!f.Program || f.ShutOut()) && (f.Rule == rules.RuleMountNS || f.Effect == rules.WrongFile || f.Effect == rules.Failed) // gdb takes commands
		},
		command: func(s *speaker, f *rules.Finding) string {
			return fmt.Sprintf("whosefd preflight %d --sysroot sysroot-%d", f.Owner, f.Owner)
		},
		text: func(s *speaker, f *rules.Finding) string {
			if d := decode.DebuggerOf(&s.Debugger); d != nil && d.Sysroot == "" {
				return "makes a folder in which gdb finds the files that the program sees, and prints how to start gdb with it."
			}
			return "makes a folder in which gdb finds the files that the program sees, and prints what to type: also for the gdb that is running."
		},
	},
	{
		kind: "namespace", rules: []rules.Rule{rules.RulePIDNS},
		when: func(_ *speaker, f *rules.Finding) bool { return f.Owner > 0 },
		command: func(s *speaker, f *rules.Finding) string {
			return fmt.Sprintf("nsenter -t %d -p -m gdb", f.Owner)
		},
		text: say("runs a debugger inside the program's namespaces, where the process number is right; it must be installed there."),
	},
	{
		kind: "restart", rules: []rules.Rule{rules.RuleReplacedFile}, when: ofProcess,
		text: say("Restart the program, so that it maps the file that is there now, or put the old file back. " +
			"A program that unpacks a library, loads and deletes it should delete it later."),
	},
}

// gdb says whether the debugger is gdb, or will be.
func (s *speaker) gdb() bool { return s.Preflight || decode.DebuggerOf(&s.Debugger).Is("gdb") }

// pidOf is the inferior's number, to be typed.
func pidOf(f *rules.Finding) string {
	if f.Owner <= 0 {
		return "PID"
	}
	return strconv.Itoa(int(f.Owner))
}

// ofProcess says that the name is that of a library of a process, not of a core file.
func ofProcess(s *speaker, f *rules.Finding) bool {
	return !s.isCore(f.Owner) && !f.Program && !f.MapText
}

// buildID tells the library that is meant from others.
func (s *speaker) buildID(f *rules.Finding) string {
	if f.Intended == nil || f.Intended.BuildID == "" {
		return ""
	}
	return inBrackets("build id " + f.Intended.BuildID)
}

// remedies gives what applies to a finding.
func (s *speaker) remedies(f *rules.Finding) []Remedy {
	var apply []Remedy
	for _, ad := range advices {
		if ad.rules != nil && !slices.Contains(ad.rules, f.Rule) || ad.effects != nil && !slices.Contains(ad.effects, f.Effect) ||
			ad.when != nil && !ad.when(s, f) {
			continue
		}
		r := Remedy{Kind: ad.kind, Text: event.Text(ad.text(s, f))}
		if ad.command != nil {
			r.Command = event.Text(ad.command(s, f))
		}
		apply = append(apply, r)
	}
	return apply
}

// commandLine is how the debugger was started, fit for a shell.
func (s *speaker) commandLine() string {
	if all := s.InOrder(); s.Preflight && len(all) > 0 && all[0].Core != nil {
		return "gdb " + cmp.Or(Quote(string(all[0].Exe)), "PROGRAM") + " " + Quote(string(all[0].Core.Link))
	} else if s.Preflight && len(all) > 0 {
		return fmt.Sprintf("%s %d", decode.DebuggerNamed("gdb").Attach, cmp.Or(int(all[0].LivingTID), int(all[0].PID)))
	}
	if len(s.Debugger.Cmdline) == 0 || len(s.Debugger.Cmdline) > 32 {
		return "gdb ARGS…"
	}
	return CommandLine(s.Debugger.Cmdline)
}
