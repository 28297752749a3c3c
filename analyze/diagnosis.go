// Package analyze turns evidence into a diagnosis. It is a pure function of
// the events of [whosefd/tracer/event]: it looks at no process and no file, so
// a live debugger, a recording and a log of another tool are explained by the
// same code, on every system.
//
// There is one invariant: the file that a debugger opens for a library must be
// the file that the inferior has mapped. It is checked by identity; what
// violates it then gets a cause ([Rule]) and an effect ([Effect]).
package analyze

import "whosefd/tracer/event"

// Schema is the version of the diagnosis as JSON.
const Schema = "whosefd.diagnosis/v1"

// Rule is the cause of a finding: why debugger and inferior mean different
// files by one name.
type Rule string

// The rules.
const (
	RuleSelfFD       Rule = "self-fd"         // a descriptor of whoever resolves the name
	RuleSelfLink     Rule = "self-link"       // any other link below /proc/self
	RuleRelative     Rule = "relative-path"   // starts at the current directory
	RuleMountNS      Rule = "mount-namespace" // another root, or other mounts
	RulePIDNS        Rule = "pid-namespace"   // the process number means another process
	RuleReplacedFile Rule = "replaced-file"   // what the name leads to has been replaced or deleted
)

// Effect is what the debugger suffers.
type Effect string

// The effects of findings.
const (
	Hang        Effect = "hang"         // a blocking read that cannot end
	StolenInput Effect = "stolen-input" // reads what somebody else is meant to read
	WrongFile   Effect = "wrong-file"   // another file, read without complaint
	Failed      Effect = "error"        // nothing that can be read as a library
)

// The verdicts beside the effects.
const (
	VerdictBlocked = "blocked" // for a reason that is no finding
	VerdictOK      = "ok"
)

// severity orders effects; the worst is the verdict.
func (e Effect) severity() int {
	switch e {
	case Hang:
		return 4
	case StolenInput:
		return 3
	case WrongFile:
		return 2
	case Failed:
		return 1
	}
	return 0
}

// Confidence says how well a finding is founded.
type Confidence string

// The levels of confidence.
const (
	Certain  Confidence = "certain" // identities prove it
	Likely   Confidence = "likely"
	Possible Confidence = "possible"
)

func (c Confidence) level() int {
	switch c {
	case Certain:
		return 3
	case Likely:
		return 2
	}
	return 1
}

// weakest gives the lowest of several: a chain of reasons is as good as its
// weakest link.
func weakest(first Confidence, more ...Confidence) Confidence {
	for _, c := range more {
		if c.level() < first.level() {
			first = c
		}
	}
	return first
}

// Diagnosis is what the evidence says. As JSON its field names are a contract.
type Diagnosis struct {
	Schema string `json:"schema"`
	// Verdict is the worst effect found, else "blocked" or "ok".
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
	// Missing says what the evidence lacks.
	Missing []event.Text `json:"missing,omitempty"`
}

// Process is an inferior.
type Process struct {
	PID  event.PID  `json:"pid"`
	Comm event.Text `json:"comm,omitempty"`
	Exe  event.Text `json:"exe,omitempty"`
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
}

// Finding is one violation of the invariant.
type Finding struct {
	Rule       Rule       `json:"rule"`
	Effect     Effect     `json:"effect"`
	Confidence Confidence `json:"confidence"`
	// Identity is the confidence that the two files are what Opened and
	// Intended say, whatever follows from it: a repair depends on this one.
	Identity Confidence `json:"identity"`
	Name     event.Text `json:"name"`
	// TID is the thread that is blocked on it now.
	TID      event.TID `json:"tid,omitempty"`
	Opened   Opened    `json:"opened"`
	Intended *Intended `json:"intended,omitempty"`
	// Inferior is whose name it is, where Intended is not known.
	Inferior event.PID  `json:"inferior,omitempty"`
	Evidence []Evidence `json:"evidence"`
	Cause    event.Text `json:"cause"` // the root cause, in a few plain sentences
	Remedies []Remedy   `json:"remedies,omitempty"`

	log bool // from a log, in which the debugger had not ended
	// entered: a copy of the debugger resolves the name, in the inferior's
	// mount namespace.
	entered bool
	// arch is that of the debugger's calls where it is not the machine's.
	arch string
}

// whose is the inferior whose name it is; 0 where that is not known.
func (f *Finding) whose() event.PID {
	if f.Intended != nil {
		return f.Intended.PID
	}
	return f.Inferior
}

// Opened is what the debugger got. FD is absent where it is not open, or not
// known to be. Error is the errno name where it got nothing.
type Opened struct {
	PID event.PID           `json:"pid,omitempty"`
	FD  event.Opt[event.FD] `json:"fd,omitzero"`
	// SameAsFD are the other descriptors of the debugger for the same file.
	SameAsFD []event.FD `json:"same_as_fd,omitempty"`
	event.Target
}

// Intended is the file that the inferior means. FD is absent where the
// inferior has no such descriptor for it now.
type Intended struct {
	PID event.PID           `json:"pid"`
	FD  event.Opt[event.FD] `json:"fd,omitzero"`
	event.Target
	// Reachable is a path under which it can be opened now, checked by
	// identity.
	Reachable event.Text `json:"reachable,omitempty"`
	// DebuggerPath is such a path for the debugger, where that is another one;
	// empty: there is none.
	DebuggerPath event.Opt[event.Text] `json:"debugger_path,omitzero"`
	// denied: the debugger itself may not open that path.
	denied bool
}

// path is where the debugger itself can open it; empty: nowhere.
func (in *Intended) path() event.Text { return in.DebuggerPath.Or(in.Reachable) }

// Evidence is one fact, as a plain sentence. The kinds: blocked, same-file,
// pipe-holders, opened, read, provenance, link_map, resolves, intended,
// signals, stack, ambiguous, not-seen, not-opened.
type Evidence struct {
	Kind string     `json:"kind"`
	Text event.Text `json:"text"`
}

// Remedy is something to do. Command is empty where there is nothing to type.
type Remedy struct {
	Kind    string     `json:"kind"`
	Command event.Text `json:"command,omitempty"`
	Text    event.Text `json:"text"`
}

// Risk is a name that would lead the debugger to a wrong file.
type Risk struct {
	Rule     Rule       `json:"rule"`
	Effect   Effect     `json:"effect"` // what opening it would bring
	Name     event.Text `json:"name"`
	Opened   Opened     `json:"opened"`
	Intended *Intended  `json:"intended,omitempty"`
	Text     event.Text `json:"text"`
}

// Stack is the backtrace of one thread of the debugger, innermost frame first.
type Stack struct {
	TID       event.TID     `json:"tid"`
	Frames    []event.Frame `json:"frames"`
	Call      string        `json:"call,omitempty"`  // taken in this call, before the present one
	Error     string        `json:"error,omitempty"` // why it ends early
	StoppedUS int64         `json:"stopped_us,omitempty"`
}

// Found says whether there are findings: the exit code depends on it.
func (d *Diagnosis) Found() bool { return len(d.Findings) > 0 }
