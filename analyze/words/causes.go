package words

import (
	"cmp"
	"fmt"
	"strings"

	"whosefd/analyze/rules"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// cause says in a few sentences why the two files differ, and what follows.
func (s *speaker) cause(f *rules.Finding) string {
	return sentences(s.why(f) + " " + s.whatFollows(f))
}

func (s *speaker) why(f *rules.Finding) string {
	me, inferior := s.debugger(), "the inferior"
	if f.Owner != 0 {
		inferior = s.short(f.Owner)
	}
	n, name := decode.ClassifyName(string(cmp.Or(f.Through, f.Name))), nameOf(f)
	say := fmt.Sprintf
	switch f.Rule {
	case rules.RuleSelfWait, rules.RuleMutualWait, rules.RuleStoppedInferior, rules.RuleInferiorDeadlock:
		return s.whyStuck(f)
	case rules.RuleSelfFD:
		if f.Script != "" {
			return say("A %s script that %s runs opened %s. Such a name means: descriptor %d of whoever resolves it, and that is %[2]s, in whose process the script runs.",
				f.Script, me, name, n.FD)
		}
		if f.Owner == 0 {
			return say("%s opened %s. Such a name means: descriptor %d of whoever resolves it. Whose name it is, is not in the evidence.", me, name, n.FD)
		}
		if s.isCore(f.Owner) {
			return say("%s had loaded a library by the name %s. Such a name means: descriptor %d of whoever resolves it. %s reads the name from the core file "+
				"and opens it as it stands, so the kernel answers with descriptor %d of %s.", inferior, name, n.FD, me, n.FD, me)
		}
		if f.Entered {
			return say("%s loaded a library by the name %s. Such a name means: descriptor %d of whoever resolves it. %s has it opened by a copy of itself, "+
				"which enters the mount namespace of %s for that.", inferior, name, n.FD, me, inferior)
		}
		return say("%s loaded a library by the name %s. Such a name means: descriptor %d of whoever resolves it. %s reads the name from the memory of %s "+
			"and opens it as it stands, so the kernel answers with descriptor %d of %s.", inferior, name, n.FD, me, inferior, n.FD, me)
	case rules.RuleSelfLink:
		return say("%s loaded a library by the name %s. /proc/self is whoever resolves it. %s reads the name from the memory of %s and opens it as it stands, "+
			"so that it gets its own.", inferior, name, me, inferior)
	case rules.RuleRelative:
		where := "not that of the debugger"
		if inf := s.Inferiors[f.Owner]; inf != nil && inf.Cwd != "" && s.Debugger.Cwd != "" {
			where = say("%s, that of %s %s", inf.Cwd, me, s.Debugger.Cwd)
		}
		return say("%s loaded a library by the relative name %s, which starts at the current directory. That of %s is %s.", inferior, f.Name, inferior, where)
	case rules.RuleMountNS:
		if f.ShutOut() {
			return say("%s has other mounts than %s, as in a container. %s opens its files inside that mount namespace, and may not enter it (EPERM), as in a rootless container.", inferior, me, me)
		}
		return say("%s has another root or other mounts than %s, as in a container, so one absolute name leads the two to different files.", inferior, me)
	case rules.RulePIDNS:
		return say("The name has the process number %d. %s lives in another pid namespace than %s, where that number means another process.", n.PID, inferior, me)
	case rules.RuleReplacedFile:
		if f.Program {
			return say("The program that %s runs has no such path: it was started from memory (fexecve of a memfd), or its file was deleted or replaced since. "+
				"%s asks the kernel for the path, and opens what it gets.", inferior, me)
		}
		if f.MapText {
			return say("%s is no path, but the text that the kernel shows of a mapping of %s: of a file in memory (memfd), or of one that was deleted since. %s takes it for a path.",
				f.Name, inferior, me)
		}
		if s.isCore(f.Owner) {
			return say("The file that %s had mapped as %s is not what the name leads to here: it was replaced or deleted since, or the core is of another machine.", inferior, f.Name)
		}
		return say("The file that %s has mapped as %s is no longer what the name leads to: it was replaced, deleted or closed after it had been loaded.", inferior, f.Name)
	}
	return ""
}

// nameOf is a name, and where links in it lead a debugger.
func nameOf(f *rules.Finding) string {
	return string(f.Name) + that(string(f.Through), " (by its links: %s)")
}

// whatFollows says what the debugger makes of the file.
func (s *speaker) whatFollows(f *rules.Finding) string {
	me, file := s.debugger(), describe(f.Opened.Target)
	say := fmt.Sprintf
	switch f.Effect {
	case rules.Hang:
		switch {
		case len(f.Way) > 0:
			return "So nothing moves any more."
		case waitsInOpen(f):
			return say("That is a FIFO, %s, that nobody has open for writing: %s waits in the open until somebody has.", f.Opened.Link, me)
		case f.Script != "" && f.Opened.Kind == event.Pipe && f.OwnPipe:
			return say("That is a pipe that %s made for itself. The script reads, and waits for bytes that only %[1]s could write.", me)
		case f.Opened.Kind == event.Pipe && f.OwnPipe:
			return say("That is a pipe that %s made for itself. It expects a library there, reads, and waits for bytes that only it could write.", me)
		case f.Opened.Kind == event.Pipe || f.Opened.Kind == event.FIFO:
			return say("That is a pipe. %s expects a library there, reads, and waits for bytes.", me)
		}
		return say("That is %s: %s expects a library there, and waits for bytes.", file, me)
	case rules.StolenInput:
		return say("That is %s. %s expects a library there, and reads what somebody typed or wrote for another purpose.", file, me)
	case rules.WrongFile:
		return say("That is another file, %s, which %s takes for the library: its symbols are missing or wrong.", file, me)
	}
	if f.Program && f.Effect == rules.Failed {
		return say("There it finds %s: it has no symbols of the program, and so does not find its list of libraries.", file)
	}
	if f.Opened.Error != "" {
		return say("There it finds %s, and has no symbols for this library.", file)
	}
	return say("That is %s, which is no library: %s has no symbols for it.", file, me)
}

// waitsInOpen says whether the open itself hangs.
func waitsInOpen(f *rules.Finding) bool { return f.Opened.Kind == event.FIFO && !f.Opened.FD.Known }

// risk says what a name could do that has not been opened, as far as is known.
func (s *speaker) risk(f *rules.Finding) string {
	meant := event.Target{Kind: event.Unknown}
	if f.Intended != nil {
		meant = f.Intended.Target
	}
	text := fmt.Sprintf("%s, a library of %s, leads %s to %s and not to %s.", f.Name, s.who(f.Owner), s.debugger(), describe(f.Opened.Target), describe(meant))
	switch f.Effect {
	case rules.Hang:
		text += " Opening it would hang."
	case rules.StolenInput:
		text += " Opening it would take input that is meant for somebody else."
	}
	return text
}

// summary is the diagnosis in one sentence, or two.
func (s *speaker) summary(d *Diagnosis, r *rules.Result) string {
	who := s.who(s.Debugger.PID)
	if len(r.Findings) == 0 {
		return s.nothing(d, r, who)
	}
	f := &r.Findings[0]
	if len(f.Way) > 0 {
		return s.stuckSummary(f, len(r.Findings)-1)
	}
	owner := ""
	if f.Owner != 0 {
		owner = s.who(f.Owner)
	} else if len(s.Inferiors) == 1 {
		for pid := range s.Inferiors {
			owner = s.who(pid)
		}
	}
	more := moreFindings(len(r.Findings) - 1)
	if (f.Confidence == rules.Possible || f.Hypothetical) && f.TID == 0 {
		waits := ""
		if d.Debugger.Waits != "" {
			waits = ", which now " + string(d.Debugger.Waits) + ","
		}
		return fmt.Sprintf("%s%s probably has no symbols, or wrong ones, for %s of %s, since there the name leads to %s.%s",
			who, waits, f.Name, cmp.Or(owner, "an inferior"), describe(f.Opened.Target), more)
	}
	context := ", a name that belongs to " + owner + ", in its own process"
	if owner == "" {
		context = ", a name whose owner is not in the evidence, in its own process"
	}
	if f.MapText {
		context = ", the text of a mapping of " + cmp.Or(owner, "an inferior") + ", as if it were a path"
	} else if f.Program {
		context = ", as the program of " + cmp.Or(owner, "an inferior")
	} else if f.Rule == rules.RuleReplacedFile {
		context = ", the name of a library of " + cmp.Or(owner, "an inferior")
	}
	if s.Killed != "" && f.TID != 0 {
		more += " It was killed in this (" + s.Killed + ")."
	}
	if f.Script != "" {
		who = "a " + f.Script + " script in " + who
	}
	return fmt.Sprintf("%s opened %s%s, %s.%s", who, f.Name, context, outcome(f), more)
}

// moreFindings says how many there are beside the worst.
func moreFindings(n int) string {
	switch n {
	case 0:
		return ""
	case 1:
		return " There is 1 more finding."
	}
	return fmt.Sprintf(" There are %d more findings.", n)
}

// outcome is what came of it, as the end of the sentence.
func outcome(f *rules.Finding) string {
	got := describe(f.Opened.Target)
	switch f.Effect {
	case rules.Hang:
		own := f.Opened.Kind == event.Pipe && len(f.Opened.SameAsFD) > 0
		switch {
		case waitsInOpen(f):
			return "found " + got + ", and waits in the open until somebody opens it for writing"
		case own && f.Confidence == rules.Certain:
			return "got its own pipe, and waits forever for data that only it could write"
		case own:
			return "got its own pipe, and waits for data that, as far as could be seen, only it could write"
		}
		return "got " + got + ", and waits for data from it"
	case rules.StolenInput:
		return "got " + got + ", and takes input that is meant for somebody else"
	case rules.WrongFile:
		return "got " + got + ", another file, and reads it as that library: its symbols are missing or wrong"
	}
	if f.Program && f.Effect == rules.Failed {
		return "got " + cmp.Or(f.Opened.Error, got) + ", and has no symbols of the program, nor of its libraries"
	}
	if f.Opened.Error != "" {
		return "got " + f.Opened.Error + ", and has no symbols for that library"
	}
	return "got " + got + ", which is no library, and has no symbols for it"
}

// nothing is the summary where nothing was found.
func (s *speaker) nothing(d *Diagnosis, r *rules.Result, who string) string {
	g := d.Debugger
	opened := who + " opened no name that leads it to another file than the inferior has mapped"
	if len(s.Inferiors) == 0 {
		opened = who + " has no inferior whose names it could have opened"
	}
	switch {
	case r.Turns() > 0:
		return strings.TrimSpace(who + " " + s.turns(r.Turns()) + ". " + capital(s.checked(r)))
	case g.Waits != "":
		return s.calm(r, who)
	case g.State == "running":
		if cpu := s.computes(r); cpu != "" {
			if len(s.Inferiors) == 0 {
				return who + " " + cpu + "."
			}
			return who + " " + cpu + ". " + opened + "."
		}
		return opened + ", and is running."
	case g.State == "ended":
		return opened + ", and has ended."
	case g.State == "stopped":
		return opened + "; it is stopped by job control (fg lets it go on)."
	case g.State == "traced":
		if t := s.Debugger.Tracer; t != nil {
			return fmt.Sprintf("%s; at that moment it was stopped by %s (pid %d), which traces it.", opened, t.Comm, t.PID)
		}
		return opened + "; it is stopped by somebody who traces it."
	}
	return opened + "."
}
