package analyze

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// PreflightSchema is the version of a preflight as JSON.
const PreflightSchema = "whosefd.preflight/v1"

// Preflight says which library names of a process would resolve wrongly in a
// debugger that is started now, beside it.
type Preflight struct {
	Schema string `json:"schema"`
	// Verdict is the worst effect to be expected in gdb, or "ok".
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
}

// Found says whether there are such names: the exit code depends on it.
func (p *Preflight) Found() bool { return len(p.Names) > 0 }

// likely is what gdb has behind descriptors of its own when it reads a library:
// seen with gdb 13.1 to 18.1 on a terminal. One descriptor that it inherits
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
	mounts := 0
	remedies := map[Remedy]bool{}
	for _, key := range a.mapKeys() {
		lm := a.maps[key]
		if lm.PID != pid || !isLibrary(lm) {
			continue
		}
		p.Libraries++
		f, text, ok := a.prospect(lm)
		if !ok {
			continue
		}
		if f.Rule == RuleMountNS {
			mounts++
			continue
		}
		p.Names = append(p.Names, Prospect{Rule: f.Rule, Name: f.Name, Effect: f.Effect, Confidence: f.Confidence,
			Text: event.Text(text), Intended: f.Intended})
		for _, r := range append(a.sysrootRemedy(&f), a.remedies(&f)...) {
			if !remedies[r] && r.Kind != "repair" && r.Kind != "release" {
				remedies[r] = true
				p.Remedies = append(p.Remedies, r)
			}
		}
	}
	slices.SortStableFunc(p.Names, func(x, y Prospect) int { return y.Effect.severity() - x.Effect.severity() })
	order := []string{"guard", "links"}
	slices.SortStableFunc(p.Remedies, func(x, y Remedy) int {
		at := func(r Remedy) int {
			if i := slices.Index(order, r.Kind); i >= 0 {
				return i
			}
			return len(order)
		}
		return cmp.Compare(at(x), at(y))
	})
	if mounts > 0 {
		p.Notes = append(p.Notes, event.Text(fmt.Sprintf("%s of %s mean other files outside of its mount namespace or root directory. "+
			"gdb enters the mount namespace by itself, for which it must run as root; else start it inside, or with -iex 'set sysroot /proc/%d/root'.",
			count(int64(mounts), "library name"), a.who(pid), pid)))
	}
	if inf.LinkMapError != "" {
		p.Missing = append(p.Missing, event.Text("the list of its libraries is not complete: "+inf.LinkMapError))
	}
	a.preflightVerdict(p)
	return p
}

func (a *Analyzer) preflightVerdict(p *Preflight) {
	who := a.who(p.Inferior.PID)
	if len(p.Names) == 0 {
		p.Summary = event.Text(fmt.Sprintf("A debugger would find the right file for each of the %s of %s.",
			plainCount(p.Libraries, "library", "libraries"), who))
		return
	}
	worst := p.Names[0]
	p.Verdict = string(worst.Effect)
	what := map[Effect]string{Hang: "hang", StolenInput: "read somebody's input", WrongFile: "take a wrong file",
		Failed: "have no symbols of it"}[worst.Effect]
	p.Summary = event.Text(fmt.Sprintf("%s of the %s of %s would lead a debugger to a file of its own. On %s, gdb would %s.",
		plainCount(len(p.Names), "name", "names"), plainCount(p.Libraries, "library", "libraries"), who, worst.Name, what))
	if worst.Rule != RuleSelfFD && worst.Rule != RuleSelfLink {
		p.Summary = event.Text(fmt.Sprintf("%s of the %s of %s would lead a debugger to another file. On %s, gdb would %s.",
			plainCount(len(p.Names), "name", "names"), plainCount(p.Libraries, "library", "libraries"), who, worst.Name, what))
	}
}

func plainCount(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// prospect says what a debugger would make of a library's name; false if it
// would find the right file, or if that is not known.
func (a *Analyzer) prospect(lm *event.LinkMap) (f Finding, text string, ok bool) {
	n := decode.ClassifyName(string(lm.Name))
	if n.Derived {
		return f, "", false
	}
	m := a.meantBy(lm)
	s := suspect{name: lm.Name, meant: m, would: true, proof: Certain, different: Certain}
	if n.Kind == decode.SelfFD {
		// What this process has there says nothing about a debugger.
		l := inGDB(n.FD)
		f = a.finding(&s)
		f.Effect, f.Confidence = l.effect, l.sure
		return f, fmt.Sprintf("%s means descriptor %d of whoever opens it. The program means %s; gdb has %s.",
			lm.Name, n.FD, describe(m.target()), l.what), true
	}
	here, known := a.inDebugger(lm)
	if !known {
		return f, "", false
	}
	rel, sure := m.compare(here)
	if n.Kind == decode.SelfLink && rel == same && !strings.HasPrefix(n.Link, "cwd") && !strings.HasPrefix(n.Link, "root") {
		rel, sure = different, Likely // a debugger is another program than this one
	}
	if rel != different {
		return f, "", false
	}
	s.opened, s.different = here, sure
	f = a.finding(&s)
	f.Effect, f.Confidence = expected(here), sure
	return f, fmt.Sprintf("%s means %s to the program; a debugger that is started where whosefd was would find %s.",
		lm.Name, describe(m.target()), describe(here)), true
}

// sysrootRemedy is the folder of links that [Preflight] can have made.
func (a *Analyzer) sysrootRemedy(f *Finding) []Remedy {
	if f.Rule == RuleRelative || f.Rule == RuleReplacedFile {
		return nil
	}
	return []Remedy{{Kind: "links", Command: event.Text(fmt.Sprintf("whosefd preflight %d --sysroot DIR", f.Intended.PID)),
		Text: "makes a folder of links with which plain gdb finds the right files, without whosefd beside it, and says how to start gdb."}}
}
