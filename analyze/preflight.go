package analyze

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// VerdictUnknown says that nothing wrong was found, but not everything could be
// looked at.
const VerdictUnknown = "unknown"

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
	Rule Rule       `json:"rule"`
	Name event.Text `json:"name"`
	// Effect is what gdb would suffer, as far as that can be told before.
	Effect     Effect     `json:"effect"`
	Confidence Confidence `json:"confidence"`
	Text       event.Text `json:"text"`
	Intended   *Intended  `json:"intended"`
	// Others are the other debuggers of which it is known what they would suffer.
	Others []Other `json:"others,omitempty"`
}

// Other is what another debugger than gdb would suffer.
type Other struct {
	Debugger   string     `json:"debugger"`
	Effect     Effect     `json:"effect"`
	Confidence Confidence `json:"confidence"`
}

// Found says whether there are such names: the exit code depends on it.
func (p *Preflight) Found() bool { return len(p.Names) > 0 }

// likely is what gdb has behind descriptors of its own when it reads a library:
// seen with gdb 13.1 on a terminal. One descriptor that it inherits
// shifts the numbers from 3 on by one.
type likely struct {
	last   event.FD
	effect Effect
	sure   Confidence
	what   string
}

var likelies = []likely{
	{2, StolenInput, Likely, "its terminal, or whatever its input comes from: it would read from there, and find no library"},
	{12, Hang, Likely, "most likely a pipe that it has made for itself: it would wait for ever, deaf to Ctrl-C"},
	{13, Hang, Possible, "a pipe of its own, on which it would hang, or the program's memory, in which it would find no library"},
	{16, WrongFile, Possible, "the program, ld.so or the program's memory: it would take the wrong file, or find no library in it"},
}

// inGDB is what gdb would suffer from opening its own descriptor fd.
func inGDB(fd event.FD) likely {
	for _, l := range likelies {
		if fd <= l.last {
			return l
		}
	}
	return likely{effect: Failed, sure: Likely, what: "most likely nothing: it would have no symbols of the library"}
}

// others is what was seen with gdbserver 13.1, lldb 14 and Delve 1.27; where a
// debugger is missing, nobody has tried. gdbserver has wrong files behind some of
// its descriptors from 3 to 8, but never hung: it reads with pread(2). lldb had no
// symbols in any case.
func others(rule Rule, n decode.Name, here event.Target) []Other {
	gdbserver := Other{"gdbserver", Failed, Likely}
	lldb := Other{"lldb", Failed, Likely}
	switch rule {
	case RuleSelfFD:
		if n.FD >= 3 && n.FD <= 8 {
			gdbserver = Other{"gdbserver", WrongFile, Possible}
		}
		if n.FD < 3 {
			return []Other{gdbserver, lldb}
		}
		return []Other{gdbserver, lldb, {"dlv", Failed, Possible}}
	case RuleRelative, RuleReplacedFile:
		if here.Error == "ENOENT" {
			return []Other{gdbserver, lldb}
		}
	}
	return nil
}

// Preflight draws the conclusions for the one process in the evidence.
func (a *Analyzer) Preflight() *Preflight {
	p := &Preflight{Schema: PreflightSchema, Verdict: VerdictOK, Names: []Prospect{}}
	pids := a.inferiorPIDs()
	if len(pids) == 0 {
		p.Summary = "There is no process in the evidence."
		return p
	}
	pid := pids[0]
	inf := a.inferiors[pid]
	p.Inferior = Process{PID: pid, Comm: inf.Comm, Exe: inf.Exe}
	a.preflightState(p, inf)
	var inside int        // names that are right only in the process's mount namespace
	var unknown []unasked // names that could not be checked
	for _, key := range a.mapKeys() {
		lm := a.maps[key]
		if lm.PID != pid || !isLibrary(lm) {
			continue
		}
		p.Libraries++
		f := a.foresee(lm)
		switch f.outcome {
		case goesInside:
			inside++
		case notKnown:
			unknown = append(unknown, unasked{lm.Name, f.why})
		case goesWrong:
			p.Names = append(p.Names, Prospect{Rule: f.Rule, Name: f.Name, Effect: f.Effect, Confidence: f.Confidence,
				Text: event.Text(f.why), Intended: f.Intended, Others: others(f.Rule, decode.ClassifyName(string(lm.Name)), f.Opened.Target)})
			a.addRemedies(p, inf, &f.Finding, lm)
		}
	}
	slices.SortStableFunc(p.Names, func(x, y Prospect) int { return y.Effect.severity() - x.Effect.severity() })
	sortRemedies(p.Remedies)
	a.preflightNotes(p, inf, inside, unknown)
	a.preflightVerdict(p, inf)
	return p
}

// unasked is a name of which it is not known what a debugger would make of it.
type unasked struct {
	name event.Text
	why  string
}

// preflightState notes what state the process is in.
func (a *Analyzer) preflightState(p *Preflight, inf *event.Inferior) {
	note := func(format string, args ...any) { p.Notes = append(p.Notes, event.Text(fmt.Sprintf(format, args...))) }
	switch t := inf.Tracer; {
	case t != nil:
		note("%s (pid %d) traces it already, and a process has one tracer only: no other debugger can attach now. What that one has opened says: whosefd explain %d.", t.Comm, t.PID, t.PID)
	case inf.TracerTID != 0:
		note("Thread %d traces it already, and a process has one tracer only: no other debugger can attach now.", inf.TracerTID)
	case inf.State == "T":
		note("It is stopped, by a signal such as Ctrl-Z sends. A debugger can attach all the same.")
	}
}

func (a *Analyzer) preflightNotes(p *Preflight, inf *event.Inferior, inside int, unknown []unasked) {
	who := a.who(inf.PID)
	if inside > 0 {
		names := "library names"
		mean := "mean"
		if inside == 1 {
			names, mean = "library name", "means"
		}
		p.Notes = append(p.Notes, event.Text(fmt.Sprintf("%d %s of %s %s another file outside of its mount namespace. "+
			"gdb and gdbserver enter that by themselves, and find the right one; lldb does not.", inside, names, who, mean)))
	}
	if inf.LinkMapError != "" && !inf.Static {
		p.Missing = append(p.Missing, event.Text("the list of its libraries is not complete: "+inf.LinkMapError))
	}
	for i, u := range unknown {
		if i == maxUnasked {
			p.Missing = append(p.Missing, event.Text(fmt.Sprintf("%s more", count(int64(len(unknown)-i), "name"))))
			break
		}
		p.Missing = append(p.Missing, event.Text(fmt.Sprintf("what a debugger would make of %s: %s", u.name, u.why)))
	}
}

// maxUnasked bounds how many names are listed that could not be checked.
const maxUnasked = 10

func (a *Analyzer) preflightVerdict(p *Preflight, inf *event.Inferior) {
	who := a.who(p.Inferior.PID)
	libraries := plainCount(p.Libraries, "library", "libraries")
	switch {
	case len(p.Names) > 0:
	case len(p.Missing) > 0:
		p.Verdict = VerdictUnknown
		p.Summary = event.Text(fmt.Sprintf("Nothing wrong was found in the %s of %s, but not all could be looked at.", libraries, who))
		return
	case inf.Static:
		p.Summary = event.Text(fmt.Sprintf("%s is a static program: it has no libraries whose names could mislead a debugger.", who))
		return
	case p.Libraries == 0:
		p.Summary = event.Text(fmt.Sprintf("%s has loaded no libraries whose names could mislead a debugger.", who))
		return
	default:
		p.Summary = event.Text(fmt.Sprintf("A debugger would find the right file for each of the %s of %s.", libraries, who))
		return
	}
	worst := p.Names[0]
	p.Verdict = string(worst.Effect)
	what := map[Effect]string{Hang: "hang", StolenInput: "read somebody's input", WrongFile: "take a wrong file",
		Failed: "have no symbols of it"}[worst.Effect]
	where := "to another file"
	switch {
	case !slices.ContainsFunc(p.Names, func(n Prospect) bool { return n.Rule != RuleSelfFD && n.Rule != RuleSelfLink }):
		where = "to a file of its own"
	case worst.Effect == Failed: // and so is every other
		where = "to no library"
	}
	p.Summary = event.Text(fmt.Sprintf("%s of the %s of %s would lead a debugger %s. On %s, gdb would %s.",
		plainCount(len(p.Names), "name", "names"), libraries, who, where, worst.Name, what))
}

func plainCount(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// outcome is what a debugger would make of a name.
type outcome int

const (
	_ outcome = iota // goes right
	// goesInside: right, but only since gdb enters the process's mount namespace.
	goesInside
	goesWrong
	notKnown
)

// foreseen is what gdb would make of a library's name. The finding is there
// only for one that goes wrong; why says what happens, or why that is not known.
type foreseen struct {
	outcome
	Finding
	why string
}

// foresee says what gdb would make of a library's name.
func (a *Analyzer) foresee(lm *event.LinkMap) foreseen {
	n := decode.ClassifyName(string(lm.Name))
	if n.Derived {
		return foreseen{}
	}
	inf := a.inferiors[lm.PID].Process
	s := suspect{name: lm.Name, meant: a.meantBy(lm), would: true, proof: Certain, different: Certain}
	switch inside := otherNamespace(a.debugger, inf, "mnt") && n.Kind != decode.Relative; {
	case inside && !a.mayEnter():
		s.entered, s.opened = true, event.Target{Kind: event.Unknown, Error: "EPERM"}
		return a.wrong(&s, Failed, Likely, fmt.Sprintf("gdb opens %s inside the program's mount namespace, as every absolute name. "+
			"That may only root (CAP_SYS_ADMIN in setns(2)): it would have no symbols.", lm.Name))
	case n.Kind == decode.SelfFD && inside && otherNamespace(a.debugger, inf, "pid"):
		s.entered, s.opened = true, event.Target{Kind: event.Unknown, Error: "ENOENT"}
		return a.wrong(&s, Failed, Likely, fmt.Sprintf("%s means descriptor %d of whoever opens it. The program means %s; "+
			"gdb opens it inside the program's mount namespace, where /proc does not show gdb: it would find nothing.",
			lm.Name, n.FD, describe(s.meant.target())))
	case n.Kind == decode.SelfFD:
		// What this process has there says nothing about a debugger.
		l := inGDB(n.FD)
		s.entered = inside
		return a.wrong(&s, l.effect, l.sure, fmt.Sprintf("%s means descriptor %d of whoever opens it. The program means %s; gdb has %s.",
			lm.Name, n.FD, describe(s.meant.target()), l.what))
	case inside && n.Kind != decode.SelfLink:
		return a.foreseeInside(lm, &s)
	}
	return a.foreseeHere(lm, &s, n)
}

// mayEnter says whether a debugger that is started now may enter another mount
// namespace, which takes CAP_SYS_ADMIN (setns(2)).
func (a *Analyzer) mayEnter() bool {
	return !a.debugger.UID.Known || a.debugger.UID.Is(0) || a.debugger.MapFiles.Is(true)
}

// foreseeInside is for a name that gdb opens in the process's mount namespace,
// where it means to gdb what it means to the process.
func (a *Analyzer) foreseeInside(lm *event.LinkMap, s *suspect) foreseen {
	there, known := resolution(lm, lm.PID)
	if !known || !tells(there) {
		return foreseen{outcome: notKnown, why: couldNot(there, known)}
	}
	if rel, sure := s.meant.compare(there); rel == different {
		s.entered, s.opened, s.different = true, there, sure
		f := a.wrong(s, expected(there), forecast(there, sure), fmt.Sprintf("%s is not the file any more that the program has mapped, %s: "+
			"there a debugger would find %s.%s", lm.Name, describe(s.meant.target()), describe(there), ifWritten(there)))
		f.Rule = RuleReplacedFile
		return f
	}
	if here, known := a.inDebugger(lm); known {
		if rel, _ := s.meant.compare(here); rel == different {
			return foreseen{outcome: goesInside}
		}
	}
	return foreseen{}
}

// foreseeHere is for a name that gdb opens where it is itself.
func (a *Analyzer) foreseeHere(lm *event.LinkMap, s *suspect, n decode.Name) foreseen {
	here, known := a.inDebugger(lm)
	if !known {
		_, tried := resolution(lm, a.debugger.PID)
		return foreseen{outcome: notKnown, why: couldNot(here, tried)}
	}
	rel, sure := s.meant.compare(here)
	if n.Kind == decode.SelfLink && rel == same && !strings.HasPrefix(n.Link, "cwd") && !strings.HasPrefix(n.Link, "root") {
		rel, sure = different, Likely // a debugger is another program than this one
	}
	if rel != different {
		return foreseen{}
	}
	s.opened, s.different = here, sure
	return a.wrong(s, expected(here), forecast(here, sure), fmt.Sprintf("%s means %s to the program; a debugger that is started where whosefd was would find %s.%s",
		lm.Name, describe(s.meant.target()), describe(here), ifWritten(here)))
}

// forecast is how sure the effect of opening a file is, which differs from the
// right one as surely as given. Where there is nothing, there are no symbols; what
// is in a file, or will be written to a FIFO, nobody has looked at.
func forecast(t event.Target, different Confidence) Confidence {
	if t.Error != "" {
		return different
	}
	return weakest(different, Likely)
}

func ifWritten(t event.Target) string {
	if expected(t) != Hang {
		return ""
	}
	return " It waits there for whoever writes; if somebody does, that is taken from whom it is meant for."
}

// tells says whether a resolution says what the name leads to, be it nothing.
func tells(t event.Target) bool {
	switch t.Error {
	case "", "ENOENT", "ENOTDIR", "ELOOP", "ENXIO", "ENODEV", "ENAMETOOLONG":
		return true
	}
	return false
}

func couldNot(t event.Target, tried bool) string {
	switch {
	case !tried:
		return "it was not looked up"
	case t.Error == "ETIMEDOUT":
		return "its file system does not answer"
	}
	return "it could not be looked up (" + t.Error + ")"
}

// wrong makes the finding of a name that goes wrong.
func (a *Analyzer) wrong(s *suspect, effect Effect, sure Confidence, why string) foreseen {
	f := a.finding(s)
	f.Effect, f.Confidence = effect, sure
	return foreseen{goesWrong, f, why}
}

// addRemedies adds what can be done before a debugger is attached.
func (a *Analyzer) addRemedies(p *Preflight, inf *event.Inferior, f *Finding, lm *event.LinkMap) {
	traced := inf.TracerTID != 0
	add := func(r Remedy) {
		if !slices.Contains(p.Remedies, r) {
			p.Remedies = append(p.Remedies, r)
		}
	}
	if traced && inf.Tracer != nil {
		add(Remedy{Kind: "explain", Command: event.Text(fmt.Sprintf("whosefd explain %d", inf.Tracer.PID)),
			Text: "says what the debugger that has it now has opened, and what to do."})
	}
	if !traced {
		for _, r := range a.aroundGDB(lm) {
			add(r)
		}
	}
	for _, r := range a.remedies(f) {
		switch r.Kind {
		case "repair", "release", "chdir", "sysroot": // of a session; or in aroundGDB
		case "guard":
			if !traced {
				add(r)
			}
		default:
			add(r)
		}
	}
}

// aroundGDB are ways to start plain gdb so that it finds the right file.
func (a *Analyzer) aroundGDB(lm *event.LinkMap) []Remedy {
	if decode.ClassifyName(string(lm.Name)).Kind != decode.Relative {
		return []Remedy{{Kind: "links", Command: event.Text(fmt.Sprintf("whosefd preflight %d --sysroot DIR", lm.PID)),
			Text: "makes a folder of links with which plain gdb finds the right files, without whosefd beside it, and says how to start gdb."}}
	}
	m := a.meantBy(lm)
	if t, known := resolution(lm, lm.PID); known {
		if rel, _ := m.compare(t); rel == same {
			return []Remedy{{Kind: "chdir", Command: event.Text(fmt.Sprintf("gdb -cd /proc/%d/cwd -p %d", lm.PID, lm.PID)),
				Text: "starts plain gdb in the directory in which the program is, where its relative names mean the same."}}
		}
	}
	return nil
}

// sortRemedies puts first what helps at once.
func sortRemedies(all []Remedy) {
	order := []string{"explain", "guard", "links", "chdir"}
	slices.SortStableFunc(all, func(x, y Remedy) int {
		at := func(r Remedy) int {
			if i := slices.Index(order, r.Kind); i >= 0 {
				return i
			}
			return len(order)
		}
		return cmp.Compare(at(x), at(y))
	})
}
