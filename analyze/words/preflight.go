package words

import (
	"cmp"
	"fmt"
	"slices"

	"whosefd/analyze/rules"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// PreflightSchema is the version of a preflight as JSON.
const PreflightSchema = "whosefd.preflight/v1"

// Preflight says which library names of a process would resolve wrongly in a
// debugger that is started now, beside it.
type Preflight struct {
	Schema string `json:"schema"`
	// Verdict is the worst effect to be expected in gdb; "ok"; or "unknown" where
	// nothing was found and not all could be looked at.
	Verdict string     `json:"verdict"`
	Summary event.Text `json:"summary"`
	// Inferior is the process that was looked at.
	Inferior Process `json:"inferior"`
	// Libraries is how many it has loaded.
	Libraries int        `json:"libraries"`
	Names     []Prospect `json:"names"`
	Remedies  []Remedy   `json:"remedies,omitempty"`
	// Notes are what is as it should be, but may surprise.
	Notes   []event.Text `json:"notes,omitempty"`
	Missing []event.Text `json:"missing,omitempty"`
}

// Prospect is a name that would resolve wrongly.
type Prospect struct {
	Rule rules.Rule `json:"rule"`
	Name event.Text `json:"name"`
	// Effect is what gdb would suffer, as far as that can be told before.
	Effect     rules.Effect     `json:"effect"`
	Confidence rules.Confidence `json:"confidence"`
	Text       event.Text       `json:"text"`
	Intended   *rules.Intended  `json:"intended"`
	// Others are the other debuggers of which it is known what they would suffer.
	Others []rules.Other `json:"others,omitempty"`
}

// Found says whether there are such names: the exit code depends on it.
func (p *Preflight) Found() bool { return len(p.Names) > 0 }

// Foretell puts a foresight into words.
func Foretell(f *rules.Foresight) *Preflight {
	p := &Preflight{Schema: PreflightSchema, Verdict: VerdictOK, Names: []Prospect{}, Libraries: f.Libraries}
	if f.Inferior == nil {
		p.Summary = "There is no process in the evidence."
		return p
	}
	s := &speaker{f.Parties}
	inf := f.Inferior
	p.Inferior = Process{PID: inf.PID, Comm: inf.Comm, Exe: inf.Exe, Core: inf.Core}
	for i := range f.Names {
		n := &f.Names[i]
		p.Names = append(p.Names, Prospect{Rule: n.Rule, Name: n.Name, Effect: n.Effect, Confidence: n.Confidence,
			Text: event.Text(s.prospect(n)), Intended: n.Intended, Others: n.Others})
	}
	p.Remedies = s.beforeAttach(f)
	p.Notes, p.Missing = s.notes(f), s.unchecked(f)
	s.preflightVerdict(p, f)
	return p
}

// prospect says why a name goes wrong.
func (s *speaker) prospect(n *rules.Prospect) string {
	meant := event.Target{Kind: event.Unknown}
	if n.Intended != nil {
		meant = n.Intended.Target
	}
	means := fmt.Sprintf("%s means descriptor %d of whoever opens it. The program means %s; ", nameOf(&n.Finding), n.FD, describe(meant))
	there := describe(n.Opened.Target)
	if n.Effect == rules.Hang && n.Opened.Error == "" {
		there += ". It waits there for whoever writes; if somebody does, that is taken from whom it is meant for"
	}
	if n.Program && n.Why != rules.WhyMayNotEnter {
		return fmt.Sprintf("%s is what the kernel says of the program's file. A debugger that attaches takes it for a path, and would find %s: "+
			"no symbols of the program, and none of its libraries.", n.Name, there)
	}
	switch n.Why {
	case rules.WhyMayNotEnter:
		text := fmt.Sprintf("gdb opens %s inside the program's mount namespace, as every absolute name. "+
			"That may only root (CAP_SYS_ADMIN in setns(2)): it would have no symbols.", n.Name)
		if n.Confidence == rules.Possible {
			text += " gdb 18 enters the program's user namespace first, and finds the file if that namespace is its user's own; gdb 16 does not."
		}
		return text
	case rules.WhyNoSelf:
		return means + "gdb opens it inside the program's mount namespace, where /proc does not show gdb: it would find nothing."
	case rules.WhyOwnFD:
		return means + "gdb has " + ownFD(n.Own) + "."
	case rules.WhyNotMapped:
		return fmt.Sprintf("%s is not the file any more that the program has mapped, %s: there a debugger would find %s.", n.Name, describe(meant), there)
	}
	return fmt.Sprintf("%s means %s to the program; a debugger that is started where whosefd was would find %s.", nameOf(&n.Finding), describe(meant), there)
}

// ownFD says what gdb has behind a descriptor of its own.
func ownFD(own *decode.OwnFD) string {
	switch {
	case own == nil:
		return "most likely nothing: it would have no symbols of the library"
	case own.Kind == event.TTY:
		return "its terminal, or whatever its input comes from: it would read from there, and find no library"
	case own.Kind == event.Pipe && own.Certain:
		return "most likely a pipe that it has made for itself: it would wait for ever, deaf to Ctrl-C"
	case own.Kind == event.Pipe:
		return "a pipe of its own, on which it would hang, or the program's memory, in which it would find no library"
	}
	return "the program, ld.so or the program's memory: it would take the wrong file, or find no library in it"
}

// notes are what state the process is in, and what may surprise.
func (s *speaker) notes(f *rules.Foresight) []event.Text {
	var notes []event.Text
	note := func(format string, args ...any) { notes = append(notes, event.Text(fmt.Sprintf(format, args...))) }
	switch t := f.Inferior.Tracer; {
	case t != nil:
		note("%s (pid %d) traces it already, and a process has one tracer only: no other debugger can attach now. What that one has opened says: whosefd explain %d.", t.Comm, t.PID, t.PID)
	case f.Inferior.TracerTID != 0:
		note("Thread %d traces it already, and a process has one tracer only: no other debugger can attach now.", f.Inferior.TracerTID)
	case f.Inferior.State == "T":
		note("It is stopped, by a signal such as Ctrl-Z sends. A debugger can attach all the same.")
	}
	if f.Asleep != nil {
		note("It %s, in a state in which no signal but SIGKILL reaches it (D): a debugger that attaches now waits for that.", s.waits(f.Asleep))
	}
	if tid := f.Inferior.LivingTID; tid != 0 {
		note("Its first thread has ended. gdb cannot attach by the number of the process, but by that of another thread: gdb -p %d.", tid)
	}
	mean := "mean"
	if f.Inside == 1 {
		mean = "means"
	}
	if f.Inside > 0 {
		note("%s of %s %s another file outside of its mount namespace. gdb and gdbserver enter that by themselves, and find the right one; lldb does not.",
			count(int64(f.Inside), "library name"), s.who(f.Inferior.Owner()), mean)
	}
	return notes
}

// maxUnasked bounds how many names are listed that could not be checked.
const maxUnasked = 10

func (s *speaker) unchecked(f *rules.Foresight) []event.Text {
	var missing []event.Text
	miss := func(format string, args ...any) { missing = append(missing, event.Text(fmt.Sprintf(format, args...))) }
	if f.Inferior.LinkMapError != "" && !f.Inferior.Static {
		miss("the list of its libraries is not complete: %s", f.Inferior.LinkMapError)
	}
	if f.Inferior.Static {
		miss("libraries that it may have loaded by itself: it is a static program, and has no list of them")
	}
	for i, g := range f.Unknown {
		if i == maxUnasked {
			miss("%s more", count(int64(len(f.Unknown)-i), "name"))
			break
		}
		why := "it could not be looked up (" + g.Reason + ")"
		switch g.Reason {
		case "":
			why = "it was not looked up"
		case "ETIMEDOUT":
			why = "its file system does not answer"
		case rules.NoBuildID:
			why = "the core does not hold the build id of the library that it had"
		}
		miss("what a debugger would make of %s: %s", g.Name, why)
	}
	return missing
}

func (s *speaker) preflightVerdict(p *Preflight, f *rules.Foresight) {
	who := s.who(f.Inferior.Owner())
	libraries := count(int64(p.Libraries), "library")
	say := func(format string, args ...any) { p.Summary = event.Text(fmt.Sprintf(format, args...)) }
	switch {
	case len(p.Names) > 0:
		worst := p.Names[0]
		p.Verdict = string(worst.Effect)
		what := map[rules.Effect]string{rules.Hang: "hang", rules.StolenInput: "read somebody's input", rules.WrongFile: "take a wrong file",
			rules.Failed: "have no symbols of it"}[worst.Effect]
		where := "to another file"
		switch {
		case !slices.ContainsFunc(p.Names, func(n Prospect) bool { return n.Rule != rules.RuleSelfFD && n.Rule != rules.RuleSelfLink }):
			where = "to a file of its own"
		case worst.Effect == rules.Failed: // and so is every other
			where = "to no library"
		}
		say("%s of the %s of %s would lead a debugger %s. On %s, gdb would %s.", count(int64(len(p.Names)), "name"), libraries, who, where, worst.Name, what)
	case f.Asleep != nil && len(p.Missing) == 0:
		p.Verdict = VerdictUnknown
		say("A debugger that attaches to %s now would wait: that process %s. The names of its %s would lead a debugger to the right files.", who, s.waits(f.Asleep), libraries)
	case f.Inferior.TracerTID != 0 && len(p.Missing) == 0:
		p.Verdict = VerdictUnknown
		say("No debugger can attach to %s now, since it is traced already. Later it would find the right file for each of the %s.", who, libraries)
	case f.Inferior.Static:
		p.Verdict = VerdictUnknown
		say("%s is a static program, and has no list of libraries: what it may have loaded could not be seen.", who)
	case len(p.Missing) > 0:
		p.Verdict = VerdictUnknown
		say("Nothing wrong was found in the %s of %s, but not all could be looked at.", libraries, who)
	case p.Libraries == 0:
		say("%s has loaded no libraries whose names could mislead a debugger.", who)
	default:
		say("A debugger would find the right file for each of the %s of %s.", libraries, who)
	}
}

// beforeAttach is what can be done before a debugger is attached; first what helps
// at once.
func (s *speaker) beforeAttach(f *rules.Foresight) []Remedy {
	var all []Remedy
	add := func(r Remedy) {
		if !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	traced, pid := f.Inferior.TracerTID != 0, f.Inferior.PID
	for i := range f.Names {
		n := &f.Names[i]
		relative := decode.ClassifyName(string(n.Name)).Kind == decode.Relative
		switch {
		case traced && f.Inferior.Tracer != nil:
			add(Remedy{"explain", event.Text(fmt.Sprintf("whosefd explain %d", f.Inferior.Tracer.PID)),
				"says what the debugger that has it now has opened, and what to do."})
		case traced:
		case f.Inferior.Core != nil: // the remedies of the finding
		case !relative:
			add(Remedy{"links", event.Text(fmt.Sprintf("whosefd preflight %d --sysroot DIR", pid)),
				"makes a folder of links with which plain gdb finds the right files, without whosefd beside it, and says how to start gdb."})
		case n.Here:
			add(Remedy{"chdir", event.Text(fmt.Sprintf("gdb -cd /proc/%d/cwd -p %d", pid, pid)),
				"starts plain gdb in the directory in which the program is, where its relative names mean the same."})
		}
		for _, r := range s.remedies(&n.Finding) {
			switch r.Kind {
			case "repair", "release", "chdir", "sysroot": // of a session; or above
			case "guard", "gdb-plugin":
				if !traced {
					add(r)
				}
			default:
				add(r)
			}
		}
	}
	order := []string{"explain", "gdb-plugin", "guard", "links", "chdir"}
	at := func(r Remedy) int {
		if i := slices.Index(order, r.Kind); i >= 0 {
			return i
		}
		return len(order)
	}
	slices.SortStableFunc(all, func(x, y Remedy) int { return cmp.Compare(at(x), at(y)) })
	return all
}
