package words

import (
	"cmp"
	"fmt"

	"whosefd/analyze/rules"
	"whosefd/analyze/state"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Schema is the version of the diagnosis as JSON.
const Schema = "whosefd.diagnosis/v1"

// The verdicts beside the effects.
const (
	VerdictBlocked = "blocked" // for a reason that is no finding
	VerdictOK      = "ok"
	// VerdictUnknown says that nothing wrong was found, but not everything could be
	// looked at.
	VerdictUnknown = "unknown"
)

// Diagnosis is what the evidence says. As JSON its field names are a contract.
type Diagnosis struct {
	Schema string `json:"schema"`
	// Verdict is the worst effect found, else "blocked" or "ok"; "unknown" where nothing was found and
	// the list of an inferior's libraries could not be read.
	Verdict string `json:"verdict"`
	// Summary is one plain sentence.
	Summary   event.Text `json:"summary"`
	Debugger  *Debugger  `json:"debugger,omitempty"`
	Inferiors []Process  `json:"inferiors"`
	// Findings are the violations of the invariant, worst first.
	Findings []Finding `json:"findings"`
	// Risks are names that lead the debugger to another file than the one
	// meant, where nothing says that it has opened them.
	Risks []Risk  `json:"risks,omitempty"`
	Stack []Stack `json:"stack,omitempty"`
	// Waits are those of the blocked threads, the one that matters first, and of those
	// who could end them, in the order in which they are reached.
	Waits []Wait `json:"waits"`
	// Chain leads from the thread that matters to who could end its wait, and so on.
	Chain []Link `json:"-"`
	// Missing says what the evidence lacks.
	Missing []event.Text `json:"missing,omitempty"`
}

// Process is an inferior.
type Process struct {
	PID  event.PID  `json:"pid,omitzero"` // absent for a core file
	Comm event.Text `json:"comm,omitempty"`
	Exe  event.Text `json:"exe,omitempty"`
	// Core is the core file that stands in the place of a process.
	Core *event.Core `json:"core,omitempty"`
}

// Name names an inferior: "prog (pid 2162)", "prog (core file /tmp/core)".
func (p *Process) Name() string {
	if p.Core != nil {
		return cmp.Or(string(p.Comm), "a process") + inBrackets("core file "+string(p.Core.Link))
	}
	return process(p.Comm, p.PID)
}

// Debugger is the process that was watched, and what the thread that matters
// is doing: the one that suffers the worst finding, else the first one.
type Debugger struct {
	PID  event.PID  `json:"pid,omitempty"` // absent where a strace log does not tell it
	TID  event.TID  `json:"tid,omitempty"`
	Comm event.Text `json:"comm,omitempty"`
	Exe  event.Text `json:"exe,omitempty"`
	// State is "blocked", "running", "stopped" (job control), "traced"
	// (stopped by a tracer), "ended"; absent where it is not known.
	State   string              `json:"state,omitempty"`
	Syscall string              `json:"syscall,omitempty"`
	FD      event.Opt[event.FD] `json:"fd,omitzero"`
	// Waits says what for, if the thread is blocked for a normal reason.
	Waits event.Text `json:"waits,omitempty"`
	// Plugin says that it is a gdb that has whosefd's plug-in.
	Plugin bool `json:"plugin,omitempty"`
}

// Finding is a finding of the rules in words.
type Finding struct {
	rules.Finding
	Evidence []Evidence `json:"evidence"`
	Cause    event.Text `json:"cause"` // the root cause, in a few plain sentences
	Remedies []Remedy   `json:"remedies,omitempty"`
	// Chain is who waits for whom, of a wait that cannot end.
	Chain []Link `json:"-"`
}

// Risk is a name that would lead the debugger to a wrong file.
type Risk struct {
	Rule     rules.Rule      `json:"rule"`
	Effect   rules.Effect    `json:"effect"` // what opening it would bring
	Name     event.Text      `json:"name"`
	Opened   rules.Opened    `json:"opened"`
	Intended *rules.Intended `json:"intended,omitempty"`
	Text     event.Text      `json:"text"`
}

// Stack is the backtrace of one thread of the debugger.
type Stack = state.Stack

// Found says whether there are findings: the exit code depends on it.
func (d *Diagnosis) Found() bool { return len(d.Findings) > 0 }

// MarkOf gives the mark of a call that a finding is about: the open, and the read
// that does not end.
func MarkOf(ev event.Event, found []Finding) rules.Mark {
	c, ok := ev.(*event.Syscall)
	if !ok {
		return rules.Mark{}
	}
	row, ok := decode.ByName(c.Name)
	for i := range found {
		f := &found[i]
		if ok && (row.Class == decode.ClassOpen && c.Path == f.Name ||
			row.Class == decode.ClassRead && c.Unfinished && c.FD.Known && c.FD == f.Opened.FD) {
			return rules.Mark{Rule: f.Rule, Effect: f.Effect}
		}
	}
	return rules.Mark{}
}

// Diagnose puts a result into words.
func Diagnose(r *rules.Result) *Diagnosis {
	s := &speaker{r.Parties}
	d := &Diagnosis{Schema: Schema, Verdict: VerdictOK, Inferiors: s.inferiors(), Findings: []Finding{}, Stack: r.Stacks}
	for i := range r.Findings {
		f := &r.Findings[i]
		d.Findings = append(d.Findings, Finding{Finding: *f, Evidence: s.evidence(f), Cause: event.Text(s.cause(f)), Remedies: s.remedies(f),
			Chain: s.chain(f.Way, len(f.Cycle))})
	}
	for i := range r.Risks {
		if s.Plugin {
			break // which leads the names that gdb has not opened yet
		}
		f := &r.Risks[i]
		d.Risks = append(d.Risks, Risk{Rule: f.Rule, Effect: f.Effect, Name: f.Name, Opened: f.Opened, Intended: f.Intended, Text: event.Text(s.risk(f))})
	}
	for _, g := range r.Missing {
		d.Missing = append(d.Missing, event.Text(s.gap(g)))
	}
	if len(r.Findings) > 0 {
		d.Verdict = string(r.Findings[0].Effect)
	}
	d.Waits, d.Chain = s.waiting(r), s.chain(r.Chain(), 0)
	if !s.Watched {
		d.Summary = "There is no debugger in this evidence."
		return d
	}
	d.Debugger = s.present(r)
	if d.Debugger.Waits != "" && d.Verdict == VerdictOK {
		d.Verdict = VerdictBlocked
	}
	if len(r.Findings) == 0 && r.Checked.Unlisted > 0 {
		d.Verdict = VerdictUnknown
	}
	d.Summary = event.Text(s.summary(d, r))
	if s.Debugger.PID == event.NoPID {
		d.forgetPID()
	}
	return d
}

// present says what the debugger is doing.
func (s *speaker) present(r *rules.Result) *Debugger {
	g := &Debugger{PID: s.Debugger.PID, Comm: s.Debugger.Comm, Exe: s.Debugger.Exe, Plugin: s.Plugin}
	if t := r.Main; t != nil {
		g.TID, g.State, g.Syscall, g.FD = t.TID, t.Doing, t.Syscall, t.FD
	}
	if s.Killed != "" && r.Main != nil || r.Main == nil && s.Ended {
		g.State = "ended"
	} else if r.Main != nil {
		g.Waits = event.Text(s.waits(r.Main.Wait))
	}
	return g
}

func (s *speaker) inferiors() []Process {
	all := []Process{}
	for _, inf := range s.InOrder() {
		all = append(all, Process{PID: inf.PID, Comm: inf.Comm, Exe: inf.Exe, Core: inf.Core})
	}
	return all
}

// gap says what the evidence lacks.
func (s *speaker) gap(g rules.Gap) string {
	switch g.Kind {
	case rules.GapEvents:
		if g.Count > 0 {
			return fmt.Sprintf("%s lost: %s", count(g.Count, "event"), g.Reason)
		}
		return g.Reason
	case rules.GapLibraries:
		return fmt.Sprintf("the libraries of %s: %s", s.who(g.Owner), g.Reason)
	case rules.GapName:
		return fmt.Sprintf("what %s leads to in %s: %s", g.Name, s.debugger(), lookupError(g.Reason))
	case rules.GapMoreNames:
		return "the same of " + count(g.Count, "more name")
	case rules.GapMemory:
		return count(g.Count, "older fact") + " did not fit into the bounded memory of the analysis"
	}
	return "more findings: " + count(g.Count, "lesser one")
}

// lookupError says in words why a name could not be looked up.
func lookupError(errno string) string {
	switch errno {
	case "ETIMEDOUT":
		return "the file system does not answer (ETIMEDOUT)"
	case "EACCES", "EPERM":
		return "this user may not look there (" + errno + ")"
	case "EXDEV":
		return "/proc there belongs to another pid namespace (EXDEV)"
	}
	return errno
}

// forgetPID leaves out the number of a debugger that a log does not name.
func (d *Diagnosis) forgetPID() {
	d.Debugger.PID, d.Debugger.TID = 0, 0
	for i := range d.Findings {
		d.Findings[i].Opened.PID, d.Findings[i].TID = 0, 0
	}
	for i := range d.Risks {
		d.Risks[i].Opened.PID = 0
	}
	for i := range d.Stack {
		d.Stack[i].TID = max(0, d.Stack[i].TID)
	}
}

// PSRow is a debugger in the table of debuggers.
type PSRow struct {
	PID       event.PID  `json:"pid"`
	Comm      event.Text `json:"comm,omitempty"`
	Inferiors []Process  `json:"inferiors"`
	Threads   []PSThread `json:"threads"`
	// Plugin says that it is a gdb that has whosefd's plug-in.
	Plugin bool `json:"plugin,omitempty"`
	// Mark is the worst finding, zero for none; Confidence is that of it.
	Rule       rules.Rule       `json:"rule,omitempty"`
	Effect     rules.Effect     `json:"effect,omitempty"`
	Confidence rules.Confidence `json:"confidence,omitempty"`
	// Error says why it could not be looked at.
	Error event.Text `json:"error,omitempty"`
}

// PSThread is what a thread of a debugger is doing.
type PSThread struct {
	TID     event.TID           `json:"tid"`
	Comm    event.Text          `json:"comm,omitempty"`
	State   string              `json:"state,omitempty"`
	Syscall string              `json:"syscall,omitempty"`
	FD      event.Opt[event.FD] `json:"fd,omitzero"`
	Target  *event.Target       `json:"target,omitempty"`
	Waits   event.Text          `json:"waits,omitempty"`
	Rule    rules.Rule          `json:"rule,omitempty"`
	Effect  rules.Effect        `json:"effect,omitempty"`
}

// PS gives the row of the debugger that a result is about.
func PS(r *rules.Result) PSRow {
	s := &speaker{r.Parties}
	row := PSRow{PID: s.Debugger.PID, Comm: s.Debugger.Comm, Inferiors: s.inferiors(), Threads: []PSThread{}, Plugin: s.Plugin}
	if len(r.Findings) > 0 {
		f := &r.Findings[0]
		row.Rule, row.Effect, row.Confidence = f.Rule, f.Effect, f.Confidence
	}
	for _, b := range r.Threads {
		t := PSThread{TID: b.TID, Comm: b.Comm, State: b.Doing, Syscall: b.Syscall, FD: b.FD, Target: b.Target}
		wait := b.Wait
		if b.Finding != nil {
			t.Rule, t.Effect = b.Finding.Rule, b.Finding.Effect
			if len(b.Finding.Way) > 0 {
				wait = b.Finding.Way[0]
			}
		}
		if wait != nil { // without since when: it would tell threads apart that wait for the same
			t.Waits = event.Text(s.waitsFor(wait))
			if wait.Syscall != t.Syscall { // it was looked at twice
				t.Syscall, t.FD, t.Target = wait.Syscall, event.Opt[event.FD]{}, nil
			}
		}
		row.Threads = append(row.Threads, t)
	}
	return row
}
