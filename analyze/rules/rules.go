// Package rules draws conclusions from a state. It has no sentences: a conclusion
// is a [Finding], with the facts that prove it, and package words says it.
//
// There is one invariant so far: the file that a debugger opens for a library must
// be the file that the inferior has mapped. It is checked by identity
// (invariant.go). Who is compared with what is found in opened.go, for opens that
// were seen, and in unseen.go, for a debugger that was looked at later. What
// violates it gets a cause (causes.go), an effect (effects.go), and its facts
// (proof.go, and facts.go, which gathers them).
package rules

import (
	"whosefd/tracer/event"
)

// Rule is the cause of a finding: why debugger and inferior mean different
// files by one name. [causes] tells them apart.
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

// Severity orders effects; the worst is the verdict.
func (e Effect) Severity() int {
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

// Level orders them.
func (c Confidence) Level() int {
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
		if c.Level() < first.Level() {
			first = c
		}
	}
	return first
}

// Finding is one violation of the invariant. The fields with names for JSON are
// part of the contract of a diagnosis.
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
	// Inferior is the process that the name belongs to, where Intended is not known.
	Inferior event.PID `json:"inferior,omitempty"`

	// Cycle are the threads that wait for each other, of a wait that cannot end; empty
	// where nobody is left who could end it.
	Cycle []ThreadID `json:"cycle,omitempty"`
	// Program: it is the name of the program itself, not of a library.
	Program bool `json:"program,omitempty"`
	// MapText: it is no name that the inferior uses, but the text that the kernel shows of the mapping.
	MapText bool `json:"-"`
	// Through is the name below /proc/self to which links in Name lead the debugger.
	Through event.Text `json:"-"`

	Facts []Fact `json:"-"`
	// Way leads from the thread to the circle and through it, or to the wait that
	// nobody can end.
	Way []*Wait `json:"-"`
	// Reopened: the process has the pipe that it reads by more than the one reading
	// descriptor that pipe(2) makes, so that it has opened it by a name.
	Reopened bool `json:"-"`
	// Endless: it is certain that nobody but the process itself could end the read.
	Endless bool `json:"-"`
	// Hypothetical: nothing says that the debugger has opened the name.
	Hypothetical bool `json:"-"`
	// Script is the language of the script by which the debugger reads or opens; empty: it is the debugger
	// itself, as far as is known.
	Script string `json:"-"`
	// Entered: a copy of the debugger resolves the name, in the inferior's mount
	// namespace.
	Entered bool `json:"-"`
	// Owner is the inferior that the name belongs to: its PID, or [event.CorePID]; 0
	// where it is not known.
	Owner event.PID `json:"-"`
	// OwnPipe: what was opened is a pipe that the debugger has made for itself.
	OwnPipe bool `json:"-"`
	// Arch is that of the debugger's calls where it is not the machine's.
	Arch string `json:"-"`
}

// ShutOut says that the debugger may not enter the mount namespace in which it opens the name.
func (f *Finding) ShutOut() bool { return f.Entered && f.Opened.Error == "EPERM" }

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
	PID event.PID           `json:"pid,omitzero"` // or [event.CorePID], which is not written down
	FD  event.Opt[event.FD] `json:"fd,omitzero"`
	event.Target
	// Reachable is a path under which it can be opened now, checked by
	// identity.
	Reachable event.Text `json:"reachable,omitempty"`
	// DebuggerPath is such a path for the debugger, where that is another one;
	// empty: there is none.
	DebuggerPath event.Opt[event.Text] `json:"debugger_path,omitzero"`
	// Denied: the debugger itself may not open that path.
	Denied bool `json:"-"`
}

// Path is where the debugger itself can open it; empty: nowhere.
func (in *Intended) Path() event.Text { return in.DebuggerPath.Or(in.Reachable) }

// Mark is what to show beside the row of a call. The zero Mark is nothing.
type Mark struct {
	Rule   Rule
	Effect Effect // what it leads to, as far as that is known by then
}
