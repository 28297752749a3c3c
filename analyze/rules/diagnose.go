package rules

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"whosefd/analyze/state"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// maxFindings bounds the findings of a result; the worst stay.
const maxFindings = 256

// Result is everything that the rules conclude.
type Result struct {
	Parties
	// Findings are the violations, worst first; Risks are names that lead the
	// debugger to another file, where nothing says that it has opened them.
	Findings, Risks []Finding
	Threads         []Thread // of the debugger, in order
	// Main is the thread that matters: the one that suffers the worst finding, else
	// the first one; nil where none is known.
	Main    *Thread
	Missing []Gap
	Checked Checked
	Stacks  []state.Stack // that of Main first
	// Waits is what is waited for: by the debugger, then by those who could end that.
	Waits []*Wait
	// running are the threads that do not wait.
	running map[event.TID]*event.Wait
}

// Parties are the processes that it is about, and what sort of evidence there is.
type Parties struct {
	Debugger  event.Process
	Inferiors map[event.PID]*event.Inferior // by owner, as the state has them
	// Preflight: the debugger is one that is not started yet. Snapshot: it was
	// looked at once.
	Preflight, Snapshot bool
	// Log: it is a log of strace; Untimed: one without times.
	Log, Untimed bool
	// Watched: there is a debugger at all.
	Watched bool
	Ended   bool
	Killed  string // the signal that ended it
	// Plugin: it is a gdb that has whosefd's plug-in.
	Plugin bool
}

func parties(s *state.State) Parties {
	plugin := false
	for _, d := range s.Descriptors(s.Debugger.PID) {
		plugin = plugin || d.Target.Kind == event.Memfd && strings.HasPrefix(string(d.Target.Link), decode.PluginMark)
	}
	return Parties{
		Plugin:   plugin,
		Debugger: s.Debugger, Inferiors: s.Inferiors, Preflight: s.Source == "preflight", Snapshot: s.Source == "snapshot", Log: s.Source == "strace", Untimed: s.Untimed(),
		Watched: s.Debugger.PID != 0 && (s.Debugger.PID != event.NoPID || s.Watched), Ended: s.Ended, Killed: s.Killed,
	}
}

// InOrder gives the inferiors, in the order of their numbers.
func (p *Parties) InOrder() []*event.Inferior {
	all := slices.Collect(maps.Values(p.Inferiors))
	slices.SortFunc(all, func(x, y *event.Inferior) int { return cmp.Compare(x.Owner(), y.Owner()) })
	return all
}

// Thread is a thread of the debugger.
type Thread struct {
	*event.Blocked
	// Doing is one of [Doing]: "stopped" is by job control, "traced" by a tracer; empty
	// where it is not known.
	Doing string
	// Finding is what it suffers, nil for nothing; then Wait says what a blocked
	// one waits for, as far as that is known.
	Finding *Finding
	Wait    *Wait
}

// Diagnose applies the rules to what is known so far. It may be called at any
// time, and again later.
func Diagnose(s *state.State) *Result {
	v := look(s)
	r := &Result{Parties: parties(s)}
	opened, done := v.openedWrongly()
	names := v.misleading(done)
	reading := v.readWrongly(names, opened)
	for _, suspect := range slices.Concat(opened, reading, v.heldWrongly(names, reading)) {
		f := v.finding(&suspect)
		if suspect.hypothetical && !v.presumed(&suspect, f.Effect) {
			r.Risks = append(r.Risks, f)
		} else {
			r.Findings = append(r.Findings, f)
		}
	}
	graph, waits := v.waitsOf()
	r.Waits, r.running = waits, map[event.TID]*event.Wait{}
	for _, w := range graph.waits {
		if w.State == "R" || w.Turns.Known {
			r.running[w.TID] = w
		}
	}
	r.Findings = append(r.Findings, v.stuck(graph, waits, r.Findings)...)
	slices.SortStableFunc(r.Findings, func(x, y Finding) int {
		return cmp.Or(y.Effect.Severity()-x.Effect.Severity(), y.Confidence.Level()-x.Confidence.Level(),
			int(x.TID)-int(y.TID), cmp.Compare(x.Name, y.Name), cmp.Compare(x.intendedPID(), y.intendedPID()))
	})
	r.Missing = v.missing()
	if n := len(r.Findings) - maxFindings; n > 0 {
		r.Findings = r.Findings[:maxFindings]
		r.Missing = append(r.Missing, Gap{Kind: GapFindings, Count: int64(n)})
	}
	r.Checked = v.checked()
	r.findThreads(v)
	r.Stacks = v.stacks(r.Main)
	return r
}

// Checked is how much was compared: the names that lead the debugger to the files that are meant.
type Checked struct {
	Libraries, Programs int
	// Unsure counts names that could not be compared; Unlisted inferiors whose list of libraries
	// could not be read to its end.
	Unsure, Unlisted int
}

func (v *view) checked() (c Checked) {
	for _, inf := range v.Inferiors {
		if inf.LinkMapError != "" && !inf.Static && !inf.Early {
			c.Unlisted++
		}
	}
	for _, lm := range v.objects() {
		if !isLibrary(lm) {
			continue
		}
		t, known := v.inDebugger(lm)
		m := meantBy(lm)
		switch rel, _ := m.compare(t); {
		case v.shutOut(lm) && !v.holds(m):
			// a finding
		case known && rel == different && !v.holds(m) && !v.byEntering(&suspect{name: lm.Name, meant: m}):
			// a finding, or a risk
		case (!known || rel == unsure) && !v.byEntering(&suspect{name: lm.Name, meant: m}):
			c.Unsure++
		case lm.Index == programIndex:
			c.Programs++
		default:
			c.Libraries++
		}
	}
	return c
}

func (f *Finding) intendedPID() event.PID {
	if f.Intended == nil {
		return 0
	}
	return f.Intended.PID
}

// findThreads says what each thread does, and which one matters.
func (r *Result) findThreads(v *view) {
	r.Threads = make([]Thread, len(v.threads))
	for i, b := range v.threads {
		t := &r.Threads[i]
		t.Blocked, t.Doing = b, Doing[b.State]
		if b.State == "" && b.Syscall != "" {
			t.Doing = "blocked"
		}
		if f := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.TID == b.TID }); f >= 0 {
			t.Finding = &r.Findings[f]
		} else if t.Doing != "running" && t.Doing != "ended" {
			t.Wait = r.waitOf(b.TID)
		}
		if r.Main == nil || int(b.TID) == int(b.PID) {
			r.Main = t
		}
	}
	if len(r.Findings) > 0 && r.Findings[0].TID != 0 {
		for i := range r.Threads {
			if r.Threads[i].TID == r.Findings[0].TID {
				r.Main = &r.Threads[i]
			}
		}
	}
}

// waitOf is what a thread waits for; nil where that is not known.
func (r *Result) waitOf(tid event.TID) *Wait {
	if i := slices.IndexFunc(r.Waits, func(w *Wait) bool { return w.TID == tid }); i >= 0 {
		return r.Waits[i]
	}
	return nil
}

// Doing has a word for each state letter of proc_pid_stat(5).
var Doing = map[string]string{"R": "running", "S": "blocked", "D": "blocked", "I": "blocked", "T": "stopped", "t": "traced", "Z": "ended", "X": "ended"}

func (v *view) stacks(main *Thread) []state.Stack {
	var all []state.Stack
	for _, st := range v.Stacks {
		all = append(all, st)
	}
	slices.SortFunc(all, func(x, y state.Stack) int {
		first := func(st state.Stack) int {
			if main != nil && main.TID == st.TID {
				return 0
			}
			return 1
		}
		return cmp.Or(first(x)-first(y), cmp.Compare(x.TID, y.TID))
	})
	return all
}

// Gap is something that the evidence lacks.
type Gap struct {
	Kind  GapKind
	Owner event.PID  // the inferior that it is about
	Name  event.Text // the library that it is about
	// Reason is the tracer's, or an errno.
	Reason string
	Count  int64
}

// GapKind says what is lacking.
type GapKind int

// The kinds of gaps.
const (
	GapEvents    GapKind = iota // Count events, or some, for Reason
	GapLibraries                // Owner's list of libraries, for Reason
	GapName                     // what Name leads to in the debugger: Reason
	GapMoreNames                // the same of Count more
	GapMemory                   // Count older facts had no room
	GapFindings                 // Count lesser findings had no room
)

// maxUnresolved is how many names are told of that could not be looked up.
const maxUnresolved = 5

// missing says what the evidence lacks.
func (v *view) missing() []Gap {
	var all []Gap
	for _, l := range v.Lost {
		all = append(all, Gap{Kind: GapEvents, Count: l.Count, Reason: l.Reason})
	}
	for _, pid := range v.InferiorPIDs() {
		if inf := v.Inferiors[pid]; inf.LinkMapError != "" {
			all = append(all, Gap{Kind: GapLibraries, Owner: pid, Reason: inf.LinkMapError})
		}
	}
	n, seen := 0, map[event.Text]bool{}
	for _, lm := range v.LinkMaps() {
		t, known := resolution(lm, v.Debugger.PID)
		if _, looked := v.inDebugger(lm); !known || looked || !isLibrary(lm) || seen[lm.Name] {
			continue
		}
		seen[lm.Name] = true
		if n++; n <= maxUnresolved {
			all = append(all, Gap{Kind: GapName, Name: lm.Name, Reason: t.Error})
		}
	}
	if n > maxUnresolved {
		all = append(all, Gap{Kind: GapMoreNames, Count: int64(n - maxUnresolved)})
	}
	if v.Dropped > 0 {
		all = append(all, Gap{Kind: GapMemory, Count: v.Dropped})
	}
	return all
}
