package rules

import (
	"cmp"
	"slices"
	"strings"

	"whosefd/analyze/state"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Foresight is what would become of the library names of one process in a debugger
// that is started now, beside it.
type Foresight struct {
	Parties
	Inferior  *event.Inferior // nil where there is none
	Libraries int
	// Names are those that go wrong, worst first; Inside counts those that go right
	// only since gdb enters the process's mount namespace; Unknown could not be
	// checked, for the Reason.
	Names   []Prospect
	Inside  int
	Unknown []Gap
	// Asleep is what the process waits for in a state that no signal ends: an attach waits for that.
	Asleep *Wait
}

// Prospect is a name that goes wrong in gdb.
type Prospect struct {
	Finding
	Why Why
	// FD is the descriptor that the name means, and Own what gdb has behind its own
	// of that number; nil: nothing.
	FD  event.FD
	Own *decode.OwnFD
	// Others are the other debuggers of which it is known what they would suffer.
	Others []Other
	// Here: the process itself reaches by the name what it has mapped.
	Here bool
}

// Other is what another debugger than gdb would suffer.
type Other struct {
	Debugger   string     `json:"debugger"`
	Effect     Effect     `json:"effect"`
	Confidence Confidence `json:"confidence"`
}

// Why says where gdb goes wrong.
type Why int

// The reasons.
const (
	WhyMayNotEnter Why = iota // it opens the name in the mount namespace, which it may not enter
	WhyNoSelf                 // there, /proc does not show it
	WhyOwnFD                  // it has a descriptor of that number
	WhyNotMapped              // there, the name leads to another file than the one mapped
	WhyElsewhere              // where it is itself, the name leads to another file
)

// Foresee draws the conclusions for the one process in the evidence.
func Foresee(s *state.State) *Foresight {
	v := look(s)
	f := &Foresight{Parties: parties(s)}
	pids := v.InferiorPIDs()
	if len(pids) == 0 {
		return f
	}
	f.Inferior = v.Inferiors[pids[0]]
	for _, lm := range v.objects() {
		if lm.Owner() != pids[0] || !isLibrary(lm) {
			continue
		}
		if lm.Index != programIndex {
			f.Libraries++
		}
		if n, _ := nameOf(v.State, lm.Name, lm); !n.Derived {
			v.foresee(f, lm, n)
		}
	}
	_, waits := v.waitsOf()
	if i := slices.IndexFunc(waits, func(w *Wait) bool { return w.PID == pids[0] && w.State == "D" }); i >= 0 {
		f.Asleep = waits[i]
	}
	slices.SortStableFunc(f.Names, func(x, y Prospect) int { return cmp.Compare(y.Effect.Severity(), x.Effect.Severity()) })
	return f
}

// foresee says what gdb would make of a library's name.
func (v *view) foresee(f *Foresight, lm *event.LinkMap, n decode.Name) {
	inf := &v.Inferiors[lm.Owner()].Process
	s := suspect{name: lm.Name, meant: meantBy(lm), hypothetical: true, proof: Certain, different: Certain}
	wrong := func(why Why, effect Effect, sure Confidence) *Prospect {
		p := Prospect{Finding: v.finding(&s), Why: why, FD: n.FD}
		p.Effect, p.Confidence = effect, sure
		if t, known := resolution(lm, lm.Owner()); known {
			rel, _ := s.meant.compare(t)
			p.Here = rel == same
		}
		if why == WhyNotMapped {
			p.Rule = RuleReplacedFile
		}
		p.Others = others(p.Rule, n, p.Opened.Target)
		f.Names = append(f.Names, p)
		return &f.Names[len(f.Names)-1]
	}
	nothing := func(errno string) {
		s.entered, s.opened = true, event.Target{Kind: event.Unknown, Error: errno}
	}
	unknown := func(t event.Target, tried bool) {
		g := Gap{Kind: GapName, Name: lm.Name, Reason: t.Error}
		if !tried {
			g.Reason = ""
		}
		f.Unknown = append(f.Unknown, g)
	}
	switch inside := otherNamespace(&v.Debugger, inf, "mnt") && n.Kind != decode.Relative; {
	case inside && !v.mayEnter():
		nothing("EPERM")
		sure := Likely
		if otherNamespace(&v.Debugger, inf, "user") {
			sure = Possible // gdb 18 enters that first, where it is its user's own
		}
		wrong(WhyMayNotEnter, Failed, sure)
	case n.Kind == decode.SelfFD && inside && otherNamespace(&v.Debugger, inf, "pid"):
		nothing("ENOENT")
		wrong(WhyNoSelf, Failed, Likely)
	case n.Kind == decode.SelfFD && n.TID != 0:
		s.opened = event.Target{Kind: event.Unknown, Error: "ENOENT"} // no debugger has a thread of that number
		wrong(WhyElsewhere, Failed, Likely)
	case n.Kind == decode.SelfFD:
		// What this process has there says nothing about a debugger.
		s.entered = inside
		own, effect, sure := ownFD(decode.DebuggerNamed("gdb"), n.FD)
		wrong(WhyOwnFD, effect, sure).Own = own
	case inside && n.Kind != decode.SelfLink:
		// There it means to gdb what it means to the process.
		there, tried := resolution(lm, lm.Owner())
		if !tried || !tells(there) {
			unknown(there, tried)
			return
		}
		if rel, sure := s.meant.compare(there); rel == different {
			s.entered, s.opened, s.different = true, there, sure
			wrong(WhyNotMapped, expected(there), forecast(there, sure))
		} else if here, known := v.inDebugger(lm); known {
			if rel, _ := s.meant.compare(here); rel == different {
				f.Inside++
			}
		}
	default:
		here, known := v.inDebugger(lm)
		if !known {
			_, tried := resolution(lm, v.Debugger.PID)
			unknown(here, tried)
			return
		}
		rel, sure := s.meant.compare(here)
		if lm.Core != 0 && rel == unsure {
			f.Unknown = append(f.Unknown, Gap{Kind: GapName, Name: lm.Name, Reason: NoBuildID})
			return
		}
		if n.Kind == decode.SelfLink && rel == same && !strings.HasPrefix(n.Link, "cwd") && !strings.HasPrefix(n.Link, "root") {
			rel, sure = different, Likely // a debugger is another program than this one
		}
		if rel == different {
			s.opened, s.different = here, sure
			wrong(WhyElsewhere, expected(here), forecast(here, sure))
		}
	}
}

// NoBuildID is the reason of a gap: a core's file and the one on disk can't be compared.
const NoBuildID = "no build id"

// mayEnter says whether a debugger that is started now may enter another mount
// namespace, which takes CAP_SYS_ADMIN (setns(2)).
func (v *view) mayEnter() bool {
	if v.Debugger.SetNS.Known {
		return v.Debugger.SetNS.Val
	}
	return !v.Debugger.UID.Known || v.Debugger.UID.Is(0) || v.Debugger.MapFiles.Is(true)
}

// ownFD is what a debugger would suffer from opening its own descriptor; nil: it has none.
func ownFD(d *decode.Debugger, fd event.FD) (*decode.OwnFD, Effect, Confidence) {
	for _, own := range d.Own {
		switch {
		case fd > own.Last:
		case own.Certain:
			return &own, expectedIn(d, event.Target{Kind: own.Kind}), Likely
		default:
			return &own, expectedIn(d, event.Target{Kind: own.Kind}), Possible
		}
	}
	return nil, Failed, Likely
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

// others is what other debuggers than gdb would suffer, of those with which such names
// were tried.
func others(rule Rule, n decode.Name, here event.Target) (all []Other) {
	if n.TID != 0 {
		return nil // none was tried with another thread's descriptor
	}
	for i := range decode.Debuggers {
		d := &decode.Debuggers[i]
		switch {
		case rule == RuleSelfFD && d.Tried == decode.TriedAll:
			_, effect, sure := ownFD(d, n.FD)
			all = append(all, Other{d.Name, effect, sure})
		case rule == RuleSelfFD && d.Tried == decode.TriedDescriptors && n.FD > 2:
			all = append(all, Other{d.Name, Failed, Possible})
		case (rule == RuleRelative || rule == RuleReplacedFile) && d.Tried == decode.TriedAll && here.Error == "ENOENT":
			all = append(all, Other{d.Name, Failed, Likely})
		}
	}
	return all
}
