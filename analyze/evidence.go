package analyze

import (
	"fmt"
	"slices"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// finding makes the finding of a suspect: cause, effect, and the facts.
func (a *Analyzer) finding(s *suspect) Finding {
	effect, sure := a.effect(s)
	f := Finding{
		Rule: a.cause(s.name, s.meant), Effect: effect, Name: s.name,
		Identity:   weakest(s.proof, s.different),
		Confidence: weakest(s.proof, s.different, sure),
		Opened:     a.openedFile(s),
		Intended:   a.intendedFile(s),
		entered:    s.entered,
		log:        a.source == "strace" && !a.ended && a.debugger.PID > 0,
	}
	if s.blocked != nil {
		f.TID, f.arch = s.blocked.TID, s.blocked.Arch
	}
	if f.Intended == nil {
		f.Inferior = s.meant.pid
	}
	f.Evidence = a.evidence(s, &f)
	f.Cause = a.explainCause(s, &f)
	f.Remedies = a.remedies(&f)
	return f
}

func (a *Analyzer) openedFile(s *suspect) Opened {
	o := Opened{PID: a.debugger.PID, FD: s.fd, Target: s.opened}
	for _, fd := range a.descriptors(a.debugger.PID, s.opened) {
		if !s.fd.Is(fd) {
			o.SameAsFD = append(o.SameAsFD, fd)
		}
	}
	return o
}

// intendedFile is nil where the inferior's side is not known.
func (a *Analyzer) intendedFile(s *suspect) *Intended {
	t := s.meant.target()
	if s.meant.pid == 0 || s.meant.lm == nil && s.meant.hint == nil {
		return nil
	}
	in := &Intended{PID: s.meant.pid, Target: t}
	n := decode.ClassifyName(string(s.name))
	if n.Kind == decode.SelfFD || n.Kind == decode.PIDFD {
		if h := s.meant.hint; h != nil {
			if rel, _ := s.meant.compare(*h); rel == same {
				in.FD = event.Some(n.FD)
				if in.Link == "" {
					in.Link = h.Link
				}
				if h.Kind == event.Memfd {
					in.Kind = event.Memfd
				}
			}
		} else if d := a.fds.get(s.meant.pid, n.FD); d != nil {
			if rel, _ := s.meant.compare(d.target); rel == same {
				in.FD = event.Some(n.FD)
			}
		}
	}
	if s.meant.lm != nil && len(s.meant.lm.Reachable) > 0 {
		in.Reachable, in.DebuggerPath = s.meant.lm.Reachable[0], s.meant.lm.DebuggerPath
		in.denied = strings.Contains(string(in.path()), "/map_files/") && a.debugger.MapFiles.Is(false)
	}
	return in
}

// facts collects evidence.
type facts []Evidence

func (f *facts) add(kind, format string, args ...any) {
	*f = append(*f, Evidence{kind, event.Text(fmt.Sprintf(format, args...))})
}

func (a *Analyzer) evidence(s *suspect, f *Finding) []Evidence {
	var ev facts
	a.evidenceOfOpening(&ev, s, f)
	if s.blocked != nil && isRead(s.blocked.Syscall) && (s.opened.Kind == event.Pipe || s.opened.Kind == event.FIFO) {
		a.evidenceOfWriters(&ev, s.blocked)
	}
	a.evidenceOfOrigin(&ev, s)
	a.evidenceOfIntent(&ev, s, f)
	if s.blocked != nil {
		if why := a.signals(s.blocked); why != "" {
			ev.add("signals", "%s", why)
		}
		a.evidenceOfStack(&ev, s)
	}
	return append(ev, s.notes...)
}

func (a *Analyzer) evidenceOfOpening(ev *facts, s *suspect, f *Finding) {
	me := a.short(a.debugger.PID)
	if b := s.blocked; b != nil {
		where := ""
		if b.Wchan != "" && b.Wchan != "0" {
			where = fmt.Sprintf(", in the kernel's %s", b.Wchan)
		}
		is := "is blocked"
		if a.killed != "" {
			is, where = "was blocked", ", when it was killed by "+a.killed
		}
		on := fmt.Sprintf("on descriptor %d", b.FD.Val)
		if isOpen(b.Syscall) {
			on = fmt.Sprintf("of %s", s.name)
		}
		ev.add("blocked", "%s %s in %s %s%s.", a.threadOf(b.TID), is, b.Syscall, on, where)
	}
	if o := s.open; o != nil {
		again := ""
		if o.count > 1 {
			again = fmt.Sprintf(", %d times", o.count)
		}
		switch {
		case o.errno == unfinished:
			ev.add("opened", "%s called %s of %s, which has not returned.", a.actor(o.last, o.tid), o.call, s.name)
		case o.errno != "":
			ev.add("opened", "%s called %s of %s%s, which failed with %s.", a.actor(o.last, o.tid), o.call, s.name, again, o.errno)
		default:
			ev.add("opened", "%s called %s of %s%s, and got descriptor %d, %s%s.", a.actor(o.last, o.tid), o.call,
				s.name, again, o.fd.Val, describe(s.opened), inBrackets(identity(s.opened)))
			a.evidenceOfReads(ev, o)
		}
	}
	switch fds := f.Opened.SameAsFD; {
	case s.fd.Known && len(fds) > 0:
		ev.add("same-file", "Descriptor %d is %s, the same file%s as %s's own %s %s.", s.fd.Val, describe(s.opened), inBrackets(identity(s.opened)), me,
			plural(fds, "descriptor"), list(fds))
	case s.fd.Known && s.open == nil:
		ev.add("same-file", "Descriptor %d is %s%s.", s.fd.Val, describe(s.opened), inBrackets(identity(s.opened)))
	case s.would:
		ev.add("not-opened", "No descriptor of %s shows that it opened this name. It is what %s does with each library that it sees, so it is to be presumed.", me, me)
	}
}

func (a *Analyzer) evidenceOfReads(ev *facts, o *opened) {
	me := a.short(a.debugger.PID)
	switch {
	case o.bytes > 0:
		begins := ""
		if o.head == headOther {
			begins = " It does not begin as a library does (ELF)."
		}
		ev.add("read", "%s then read %s from it in %s.%s", capital(me), count(o.bytes, "byte"), count(o.reads, "call"), begins)
	case o.reads > 0:
		ev.add("read", "%s then read from it, and got no byte.", capital(me))
	case o.readErrno != "":
		ev.add("read", "Reading from it failed with %s.", o.readErrno)
	case o.mapped:
		ev.add("read", "%s then mapped it into its memory.", capital(me))
	}
}

func (a *Analyzer) evidenceOfWriters(ev *facts, b *event.Blocked) {
	me := a.short(a.debugger.PID)
	w := a.writers(b)
	if !w.searched {
		if own := a.ownWriters(b); len(own) > 0 {
			ev.add("pipe-holders", "%s itself holds a write end of this pipe (%s %s).", capital(me), plural(own, "descriptor"), list(own))
		}
		ev.add("not-seen", "Who else holds this pipe open is not in the evidence.")
		return
	}
	searched := ""
	if b.Searched > 0 {
		searched = fmt.Sprintf(" The descriptors of %s were looked at.", count(int64(b.Searched), "process"))
	}
	switch {
	case len(w.others) > 0:
		names := make([]string, 0, len(w.others))
		for _, h := range w.others[:min(len(w.others), 8)] {
			names = append(names, fmt.Sprintf("%s (pid %d, descriptor %d)", h.Comm, h.PID, h.FD))
		}
		ev.add("pipe-holders", "This pipe can be written to by %s: what %s reads is meant for somebody else.%s", list(names), me, searched)
	case len(w.own) == 0:
		ev.add("pipe-holders", "Nobody holds a write end of this pipe.%s", searched)
	case w.doubt:
		ev.add("pipe-holders", "Of the processes that could be looked at, only %s itself holds a write end of this pipe (%s %s).%s",
			me, plural(w.own, "descriptor"), list(w.own), searched)
	default:
		ev.add("pipe-holders", "Only %s itself holds a write end of this pipe (%s %s): nobody else can write to it or close it, so the read can never end.%s",
			me, plural(w.own, "descriptor"), list(w.own), searched)
	}
	if len(b.Unseen) > 0 {
		names := make([]string, 0, 8)
		for _, u := range b.Unseen[:min(len(b.Unseen), 5)] {
			names = append(names, fmt.Sprintf("%s (pid %d: %s)", u.Comm, u.PID, u.Error))
		}
		if more := len(b.Unseen) - len(names); more > 0 {
			names = append(names, fmt.Sprintf("%d more", more))
		}
		end := "One of these could hold the pipe; run as root to be certain."
		if !w.doubt {
			end = fmt.Sprintf("But %s made the pipe for itself (its descriptors are close-on-exec) and is younger than these: they cannot have inherited it.", me)
		}
		ev.add("not-seen", "Not looked at, since this user may not: %s. %s", list(names), end)
	}
}

func (a *Analyzer) evidenceOfOrigin(ev *facts, s *suspect) {
	me := a.short(a.debugger.PID)
	if o := s.from; o != nil {
		where, whom := "", "the inferior"
		if o.pid != 0 {
			whom = string(a.who(o.pid))
		}
		if lm := s.meant.lm; lm != nil && lm.PID == o.pid && lm.NameAddr == o.addr {
			where = fmt.Sprintf(", the name in entry %d of its list of libraries", lm.Index)
		}
		ev.add("provenance", "%s read this name out of the memory of %s, at %s%s%s%s.", capital(me), whom, o.addr, where, o.shown(), a.before(o.ago))
		if s.meant.lm == nil && o.entry != 0 {
			ev.add("link_map", "Before that it read the entry of the list of libraries (link_map) of %s at %s, which points to this name, for an object loaded at %s: it belongs to that process.",
				whom, o.entry, o.loaded)
		}
	}
	if lm := s.meant.lm; lm != nil {
		ev.add("link_map", "The name %s stands in entry %d of the list of libraries (link_map) of %s, at %s, for an object loaded at %s: it belongs to that process.",
			lm.Name, lm.Index, a.who(lm.PID), lm.Addr, lm.LoadAddr)
	}
}

func (a *Analyzer) evidenceOfIntent(ev *facts, s *suspect, f *Finding) {
	me := a.short(a.debugger.PID)
	in := f.Intended
	if in == nil {
		ev.add("not-seen", "What the inferior means by this name is not in the evidence.")
		return
	}
	them := a.who(in.PID)
	if s.meant.hint != nil {
		hint := *s.meant.hint
		ev.add("resolves", "In %s the name leads to %s; in %s to %s.", me, describe(s.opened), them, describe(hint))
	}
	lm := s.meant.lm
	if lm == nil {
		return
	}
	closed := ""
	if n := decode.ClassifyName(string(s.name)); (n.Kind == decode.SelfFD || n.Kind == decode.PIDFD) && !in.FD.Known && s.meant.hint != nil {
		closed = fmt.Sprintf(" Its descriptor %d is no longer that file: it was closed", n.FD)
		if s.meant.hint.Error == "" {
			closed += " and its number used again"
		}
		closed += "."
	}
	reach := " No path is known by which it can be opened now; for a file without a descriptor that takes root (map_files)."
	if in.Reachable != "" {
		reach = fmt.Sprintf(" The same file can be opened now as %s.", in.Reachable)
	}
	mapped := ""
	if lm.MapStart != 0 {
		mapped = fmt.Sprintf(" at %s-%s", lm.MapStart, strings.TrimPrefix(lm.MapEnd.String(), "0x"))
	}
	ev.add("intended", "What %s has mapped%s for it is %s (%s).%s%s", them, mapped, describe(in.Target), identity(in.Target), closed, reach)
	if s.different != Certain {
		ev.add("not-seen", "Device numbers of memory maps and of files do not always agree, and only the maps could be read: that the two files differ is not proved.")
	}
}

func (a *Analyzer) evidenceOfStack(ev *facts, s *suspect) {
	at := a.frames(s.blocked.TID, s.name)
	if len(at) == 0 {
		return
	}
	names := make([]string, 0, len(at))
	for _, i := range at[:min(len(at), 6)] {
		name := fmt.Sprintf("#%d", i)
		if fn := a.stacks[s.blocked.TID].Frames[i].Function; fn != "" {
			name += " (" + fn + ")"
		}
		names = append(names, name)
	}
	ev.add("stack", "On the stack of thread %d the text %s is held by %s %s.", s.blocked.TID, s.name, plural(at, "frame"), list(names))
}

// explainCause says in a few sentences why the two differ.
func (a *Analyzer) explainCause(s *suspect, f *Finding) event.Text {
	me := a.short(a.debugger.PID)
	them := "the inferior"
	if s.meant.pid != 0 {
		them = a.short(s.meant.pid)
	}
	n := decode.ClassifyName(string(s.name))
	var why string
	switch f.Rule {
	case RuleSelfFD:
		why = fmt.Sprintf("%s loaded a library by the name %s. Such a name means: descriptor %d of whoever resolves it. %s reads the name from the memory of %s "+
			"and opens it as it stands, so the kernel answers with descriptor %d of %s.", them, s.name, n.FD, me, them, n.FD, me)
		if s.entered {
			why = fmt.Sprintf("%s loaded a library by the name %s. Such a name means: descriptor %d of whoever resolves it. %s has it opened by a copy of itself, "+
				"which enters the mount namespace of %s for that.", them, s.name, n.FD, me, them)
		}
	case RuleSelfLink:
		why = fmt.Sprintf("%s loaded a library by the name %s. /proc/self is whoever resolves it. %s reads the name from the memory of %s and opens it as it stands, "+
			"so that it gets its own.", them, s.name, me, them)
	case RuleRelative:
		why = fmt.Sprintf("%s loaded a library by the relative name %s, which starts at the current directory. That of %s is %s.",
			them, s.name, them, a.directories(s.meant.pid))
	case RuleMountNS:
		why = fmt.Sprintf("%s has another root or other mounts than %s, as in a container, so one absolute name leads the two to different files.", them, me)
	case RulePIDNS:
		why = fmt.Sprintf("The name has the process number %d. %s lives in another pid namespace than %s, where that number means another process.", n.PID, them, me)
	case RuleReplacedFile:
		why = fmt.Sprintf("The file that %s has mapped as %s is no longer what the name leads to: it was replaced, deleted or closed after it had been loaded.", them, s.name)
	}
	return event.Text(sentences(why + " " + a.explainEffect(s, f, me, them)))
}

func (a *Analyzer) directories(pid event.PID) string {
	inf := a.inferiors[pid]
	if inf == nil || inf.Cwd == "" || a.debugger.Cwd == "" {
		return "not that of the debugger"
	}
	return fmt.Sprintf("%s, that of %s %s", inf.Cwd, a.short(a.debugger.PID), a.debugger.Cwd)
}

func (a *Analyzer) explainEffect(s *suspect, f *Finding, me, them string) string {
	switch f.Effect {
	case Hang:
		switch {
		case s.opened.Kind == event.FIFO && !s.fd.Known:
			return fmt.Sprintf("That is a FIFO, %s, that nobody has open for writing: %s waits in the open until somebody has.", s.opened.Link, me)
		case s.opened.Kind == event.Pipe && a.ownPipe(s.opened):
			return fmt.Sprintf("That is a pipe that %s made for itself. It expects a library there, reads, and waits for bytes that only it could write.", me)
		case s.opened.Kind == event.Pipe || s.opened.Kind == event.FIFO:
			return fmt.Sprintf("That is a pipe. %s expects a library there, reads, and waits for bytes.", me)
		}
		return fmt.Sprintf("That is %s: %s expects a library there, and waits for bytes.", describe(s.opened), me)
	case StolenInput:
		return fmt.Sprintf("That is %s. %s expects a library there, and reads what somebody typed or wrote for another purpose.", describe(s.opened), me)
	case WrongFile:
		return fmt.Sprintf("That is another file, %s, which %s takes for the library: its symbols are missing or wrong.", describe(s.opened), me)
	}
	if s.opened.Error != "" {
		return fmt.Sprintf("There it finds %s, and has no symbols for this library.", describe(s.opened))
	}
	return fmt.Sprintf("That is %s, which is no library: %s has no symbols for it.", describe(s.opened), me)
}

// risk is what a name could do that has not been opened, as far as is known.
func (a *Analyzer) risk(s *suspect, f Finding) Risk {
	r := Risk{Rule: f.Rule, Effect: f.Effect, Name: f.Name, Opened: f.Opened, Intended: f.Intended}
	text := fmt.Sprintf("%s, a library of %s, leads %s to %s and not to %s.", s.name, a.who(s.meant.pid), a.short(a.debugger.PID),
		describe(s.opened), describe(s.meant.target()))
	switch f.Effect {
	case Hang:
		text += " Opening it would hang."
	case StolenInput:
		text += " Opening it would take input that is meant for somebody else."
	}
	r.Text = event.Text(text)
	return r
}

// verdict fills in verdict, summary and what the debugger is doing.
func (a *Analyzer) verdict(d *Diagnosis, threads []*event.Blocked) {
	var b *event.Blocked
	if len(threads) > 0 {
		b = threads[0]
		for _, t := range threads {
			if int(t.TID) == int(t.PID) { // the first thread
				b = t
			}
		}
	}
	d.Verdict = VerdictOK
	if len(d.Findings) > 0 {
		f := &d.Findings[0]
		d.Verdict = string(f.Effect)
		for _, t := range threads {
			if f.TID != 0 && t.TID == f.TID {
				b = t
			}
		}
	}
	if a.debugger.PID == 0 || a.debugger.PID == event.NoPID && !a.watched {
		d.Summary = "There is no debugger in this evidence."
		return
	}
	g := &Debugger{PID: a.debugger.PID, Comm: a.debugger.Comm, Exe: a.debugger.Exe}
	d.Debugger = g
	if b != nil {
		g.TID, g.State, g.Syscall, g.FD = b.TID, state(b), b.Syscall, b.FD
		if a.killed != "" {
			g.State = "ended"
		}
		if g.State == "blocked" && !slices.ContainsFunc(d.Findings, func(f Finding) bool { return f.TID == b.TID }) {
			g.Waits = a.waits(b)
			if d.Verdict == VerdictOK {
				d.Verdict = VerdictBlocked
			}
		}
	} else if a.ended {
		g.State = "ended"
	}
	d.Summary = event.Text(a.summary(d))
}

func (a *Analyzer) summary(d *Diagnosis) string {
	who := string(a.who(a.debugger.PID))
	if len(d.Findings) == 0 {
		return a.nothing(d, who)
	}
	f := &d.Findings[0]
	owner := "an inferior"
	if f.Intended != nil {
		owner = string(a.who(f.Intended.PID))
	} else if f.Inferior != 0 {
		owner = string(a.who(f.Inferior))
	} else if len(d.Inferiors) == 1 {
		owner = string(a.who(d.Inferiors[0].PID))
	}
	context := ", a name that belongs to " + owner + ", in its own process"
	if f.Rule == RuleReplacedFile {
		context = ", the name of a library of " + owner
	}
	more := ""
	if n := len(d.Findings) - 1; n > 0 {
		more = " There " + map[bool]string{true: "is ", false: "are "}[n == 1] + count(int64(n), "more finding") + "."
	}
	if f.Confidence == Possible && f.TID == 0 {
		waits := ""
		if d.Debugger != nil && d.Debugger.Waits != "" {
			waits = ", which now " + string(d.Debugger.Waits) + ","
		}
		return fmt.Sprintf("%s%s probably has no symbols, or wrong ones, for %s of %s, since there the name leads to %s.%s",
			who, waits, f.Name, owner, describe(f.Opened.Target), more)
	}
	if a.killed != "" && f.TID != 0 {
		more += " It was killed in this (" + a.killed + ")."
	}
	opened := fmt.Sprintf("%s opened %s%s, ", who, f.Name, context)
	return opened + a.outcome(f) + "." + more
}

// outcome is what came of it, as the end of the sentence.
func (a *Analyzer) outcome(f *Finding) string {
	got := describe(f.Opened.Target)
	switch f.Effect {
	case Hang:
		if f.Opened.Kind == event.FIFO && !f.Opened.FD.Known {
			return "found " + got + ", and waits in the open until somebody opens it for writing"
		}
		own := len(f.Opened.SameAsFD) > 0
		switch {
		case f.Opened.Kind == event.Pipe && own && f.Confidence == Certain:
			return "got its own pipe, and waits forever for data that only it could write"
		case f.Opened.Kind == event.Pipe && own:
			return "got its own pipe, and waits for data that, as far as could be seen, only it could write"
		}
		return "got " + got + ", and waits for data from it"
	case StolenInput:
		return "got " + got + ", and takes input that is meant for somebody else"
	case WrongFile:
		return "got " + got + ", another file, and reads it as that library: its symbols are missing or wrong"
	}
	if f.Opened.Error != "" {
		return "got " + f.Opened.Error + ", and has no symbols for that library"
	}
	return "got " + got + ", which is no library, and has no symbols for it"
}

// waitsForItself says whether a thread reads from a pipe that nobody else is
// known to write to.
func (a *Analyzer) waitsForItself(tid event.TID) bool {
	b := a.blocked[tid]
	if b == nil || !isRead(b.Syscall) || b.Target == nil {
		return false
	}
	w := a.writers(b)
	return len(w.own) > 0 && len(w.others) == 0
}

// nothing is the sentence where nothing was found.
func (a *Analyzer) nothing(d *Diagnosis, who string) string {
	s := who + " opened no name that leads it to another file than the inferior has mapped"
	if len(d.Inferiors) == 0 {
		s = who + " has no inferior whose names it could have opened"
	}
	g := d.Debugger
	switch {
	case g.Waits != "" && len(d.Inferiors) == 0 && a.waitsForItself(g.TID):
		return fmt.Sprintf("%s %s. No inferior of it is known: if it looks at a process that it does not trace, name that (--inferior PID).", who, g.Waits)
	case g.Waits != "":
		return fmt.Sprintf("%s %s; nothing is wrong with the files it has opened.", who, g.Waits)
	case g.State == "running":
		return s + ", and is running."
	case g.State == "ended":
		return s + ", and has ended."
	case g.State == "stopped":
		return s + "; it is stopped by job control (fg lets it go on)."
	case g.State == "traced":
		return s + "; it is stopped by somebody who traces it."
	}
	return s + "."
}
