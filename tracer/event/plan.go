package event

import (
	"fmt"
	"strconv"
	"strings"
)

// StepKind is what a step of a repair is for.
type StepKind string

// The steps.
const (
	StepAttach  StepKind = "attach"  // stop the thread, keeping the read that it is in
	StepOpen    StepKind = "open"    // open a file in the debugger
	StepUnblock StepKind = "unblock" // take O_NONBLOCK from it
	StepFlags   StepKind = "flags"   // ask whether the descriptor is closed on exec
	StepKeep    StepKind = "keep"    // duplicate the wrong file, for the undo
	StepReplace StepKind = "replace" // put the opened file onto the descriptor
	StepClose   StepKind = "close"   // close a temporary descriptor
	StepResume  StepKind = "resume"  // let the thread go: the kernel makes the read again
	StepGuard   StepKind = "guard"   // stay, and lead each later open of the name to the right file
	StepDetach  StepKind = "detach"
)

// Plan is a repair: steps that are carried out in order, those of one thread
// after those of another. When one fails, those that were done in its thread are
// undone, the last one first.
type Plan struct {
	PID     PID    `json:"pid"`
	Release bool   `json:"release"` // the read only ends; there will be no symbols
	Steps   []Step `json:"steps"`
}

// Step is one step of a repair. The fields below UndoCall are its arguments,
// those that it needs.
type Step struct {
	Kind StepKind `json:"kind"`
	Text Text     `json:"text"`           // what it does, for a person
	Undo Text     `json:"undo,omitempty"` // what takes it back; "" where nothing has to be

	PID PID `json:"pid,omitempty"`
	TID TID `json:"tid,omitempty"`
	// Call is the system call that is made in the thread, UndoCall the one that takes it back.
	Call     *PlannedCall `json:"call,omitempty"`
	UndoCall *PlannedCall `json:"undo_call,omitempty"`

	// Path and Flags are those of an open; Expect is the file that it must
	// give, or that the descriptor of an attach must mean, else the repair ends
	// there. Expect has no identity for a file that is known by its name alone.
	Path   Text    `json:"path,omitempty"`
	Flags  string  `json:"flags,omitempty"`
	Expect *Target `json:"expect,omitempty"`
	// FD is the descriptor to replace, which must still be Replaces.
	FD       Opt[FD] `json:"fd,omitzero"`
	Replaces *Target `json:"replaces,omitempty"`
	// Name is the library name of an inferior that a guard watches for.
	Name Text `json:"name,omitempty"`
}

// PlannedCall is a system call to be made. An argument is an absolute path, a
// number, names of constants with | between them, or $ and the [Result] of an
// earlier call.
type PlannedCall struct {
	Name string `json:"name"`
	Args []Text `json:"args"`
	// Result is what later calls know its result by; "" if none needs it.
	Result Result `json:"result,omitempty"`
}

// Result is the name of a planned call's result.
type Result string

// The results.
const (
	ResultOpened Result = "opened" // the descriptor of the right file
	ResultKept   Result = "kept"   // the spare descriptor of the wrong file
	// ResultCloexec is O_CLOEXEC where the descriptor was closed on exec, else 0.
	ResultCloexec Result = "cloexec"
)

// Arg is the argument that stands for a result.
func (r Result) Arg() Text { return Text("$" + string(r)) }

// String is the call as strace writes it.
func (c PlannedCall) String() string {
	args := make([]string, len(c.Args))
	for i, a := range c.Args {
		args[i] = string(a)
		if strings.HasPrefix(args[i], "/") {
			args[i] = strconv.Quote(args[i])
		}
	}
	s := c.Name + "(" + strings.Join(args, ", ") + ")"
	if c.Result != "" {
		s += " = " + string(c.Result.Arg())
	}
	return s
}

// StandIn is a file of the user's choice for a library that no process has any more: that of a core.
type StandIn struct {
	Name Text   // of the library; "": of each that hangs
	Path Text   // absolute, for the debugger too
	File Target // with its build id
	// Force takes it also if the core has no build id to compare.
	Force bool
}

// Serves says why the file may not stand for a library of which the core has this
// build id, "" for none; nil if it may.
func (s *StandIn) Serves(buildID string) error {
	switch {
	case buildID == "" && !s.Force:
		return fmt.Errorf("the core does not hold the build id of the library, so that nothing tells whether %s is the same: --force takes it", s.Path)
	case buildID == "" || buildID == s.File.BuildID:
		return nil
	case s.File.BuildID == "":
		return fmt.Errorf("%s is another library: it has no build id, and the core says %s", s.Path, buildID)
	}
	return fmt.Errorf("%s is another library: it has the build id %s, and the core says %s", s.Path, s.File.BuildID, buildID)
}
