package analyze

import (
	"errors"
	"fmt"
	"slices"

	"whosefd/tracer/event"
)

// StepKind is what a step of a repair does.
type StepKind string

// The steps.
const (
	StepAttach  StepKind = "attach"  // stop the thread, keeping the read that it is in
	StepOpen    StepKind = "open"    // open a file in the debugger
	StepRetake  StepKind = "retake"  // replace what the read has taken from the wrong file already
	StepReplace StepKind = "replace" // dup3(2) it onto the descriptor
	StepClose   StepKind = "close"   // close the temporary descriptor
	StepResume  StepKind = "resume"  // let the thread go: the kernel makes the read again
	StepGuard   StepKind = "guard"   // stay, and lead each later open of the name to the right file
	StepDetach  StepKind = "detach"
)

// Step is one step of a repair, as data. The fields below Undo are its
// arguments, those that it needs.
type Step struct {
	Kind StepKind   `json:"kind"`
	Text event.Text `json:"text"`           // what it does, for a person
	Undo event.Text `json:"undo,omitempty"` // what takes it back; "" where nothing has to be

	PID event.PID `json:"pid,omitempty"`
	TID event.TID `json:"tid,omitempty"`
	// Path and Flags are those of an open; Expect is the file that it must
	// give, else the repair ends there. Expect has no identity for a file that
	// is known by its name alone.
	Path   event.Text    `json:"path,omitempty"`
	Flags  string        `json:"flags,omitempty"`
	Expect *event.Target `json:"expect,omitempty"`
	// FD is the descriptor to replace, which must still be Replaces.
	// KeepCloexec: close-on-exec is to be as it was.
	FD          event.Opt[event.FD] `json:"fd,omitzero"`
	Replaces    *event.Target       `json:"replaces,omitempty"`
	KeepCloexec bool                `json:"keep_cloexec,omitempty"`
	// Name is the library name of an inferior that a guard watches for.
	Name event.Text `json:"name,omitempty"`
}

// Plan is a repair: steps to carry out in order, one after another for each
// thread that hangs.
type Plan struct {
	PID     event.PID `json:"pid"`
	Release bool      `json:"release"` // the read only ends; there will be no symbols
	Steps   []Step    `json:"steps"`
}

// Reasons for which there is no plan; errors of [PlanRepair] wrap one.
var (
	ErrHealthy     = errors.New("nothing to repair: no read of a wrong file is going on")
	ErrNotProved   = errors.New("the evidence does not prove that the debugger opened the wrong file")
	ErrUnreachable = errors.New("the inferior's file cannot be opened now")
	ErrArch        = errors.New("the debugger is a 32-bit program, in which whosefd makes no calls")
)

// releasable says why the read may not be ended; nil if it may.
func (f *Finding) releasable() error {
	switch {
	case f.TID == 0 || !f.Opened.FD.Known || f.Effect != Hang && f.Effect != StolenInput:
		return ErrHealthy
	case f.arch != "":
		return ErrArch
	case f.Identity != Certain || !f.Opened.Identified():
		return fmt.Errorf("%w: %s is %s, not certain", ErrNotProved, f.Name, f.Identity)
	case slices.Contains(f.Opened.SameAsFD, f.Opened.FD.Val):
		return fmt.Errorf("%w: descriptor %d is the debugger's own", ErrNotProved, f.Opened.FD.Val)
	}
	return nil
}

// repairable says why the right file may not be put in place; nil if it may.
func (f *Finding) repairable() error {
	if err := f.releasable(); err != nil {
		return err
	}
	if f.Intended == nil || f.Intended.Reachable == "" || !f.Intended.Identified() {
		return fmt.Errorf("%w: the file that %s stands for has no descriptor left; it can be reached through map_files only, "+
			"by a debugger that runs as root; --release ends the read without it", ErrUnreachable, f.Name)
	}
	if f.Intended.path() == "" {
		return fmt.Errorf("%w: the file that %s stands for can be reached from here as %s, but not where the debugger is; "+
			"--release ends the read without it", ErrUnreachable, f.Name, f.Intended.Reachable)
	}
	if f.Intended.denied {
		return fmt.Errorf("%w: the file that %s stands for is left as %s only, which this debugger may not open "+
			"(CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE); --release ends the read without it", ErrUnreachable, f.Name, f.Intended.path())
	}
	return nil
}

// PlanRepair plans how to un-hang a debugger and to put the inferior's file
// behind the descriptor that it reads. It fails with the reason unless the
// identities of both files are proved.
func PlanRepair(d *Diagnosis) (*Plan, error) { return plan(d, (*Finding).repairable, false) }

// PlanRelease plans only how to end the read, as at the end of a file.
func PlanRelease(d *Diagnosis) (*Plan, error) { return plan(d, (*Finding).releasable, true) }

func plan(d *Diagnosis, allowed func(*Finding) error, release bool) (*Plan, error) {
	if d.Debugger == nil {
		return nil, ErrHealthy
	}
	p := &Plan{PID: d.Debugger.PID, Release: release}
	refused := ErrHealthy
	done := map[event.FD]bool{}
	for i := range d.Findings {
		f := &d.Findings[i]
		if err := allowed(f); err != nil {
			if errors.Is(refused, ErrHealthy) {
				refused = err
			}
			continue
		}
		if done[f.Opened.FD.Val] {
			continue
		}
		done[f.Opened.FD.Val] = true
		p.Steps = append(p.Steps, p.steps(f)...)
	}
	if len(p.Steps) == 0 {
		return nil, fmt.Errorf("repair of pid %d: %w", p.PID, refused)
	}
	if !release {
		p.Steps = append(p.Steps, p.guards(d, done)...)
	} else {
		p.Steps = append(p.Steps, Step{Kind: StepDetach, PID: p.PID, Text: "Leave. Each later open of the name will hang again."})
	}
	return p, nil
}

func (p *Plan) steps(f *Finding) []Step {
	path, expect := event.Text("/dev/null"), event.Target{Kind: event.CharDev, Link: "/dev/null"}
	what := "which ends every read at once"
	if !p.Release {
		path, expect, what = f.Intended.path(), f.Intended.Target, "the file that the inferior has mapped"
	}
	fd := f.Opened.FD.Val
	text := func(format string, args ...any) event.Text { return event.Text(fmt.Sprintf(format, args...)) }
	wrong := f.Opened.Target
	steps := []Step{
		{Kind: StepAttach, PID: p.PID, TID: f.TID, Text: text("Stop thread %d in its read of descriptor %d.", f.TID, fd), Undo: "Let it go: the read starts again."},
		{Kind: StepOpen, PID: p.PID, TID: f.TID, Path: path, Flags: "O_RDONLY|O_CLOEXEC", Expect: &expect,
			Text: text("In the debugger, open %s, %s.", path, what), Undo: "Close it."},
	}
	if !p.Release {
		steps = append(steps, Step{Kind: StepRetake, PID: p.PID, TID: f.TID,
			Text: "If it has taken bytes of the wrong file before it hung, and is proved to be in glibc's fread: read the file's first bytes into their place. " +
				"That is known when it is stopped.",
			Undo: "Put those bytes back, if the next step fails."})
	}
	return append(steps, []Step{
		{Kind: StepReplace, PID: p.PID, TID: f.TID, FD: event.Some(fd), Replaces: &wrong, KeepCloexec: true,
			Text: text("Make descriptor %d mean that file instead of %s.", fd, describe(wrong)),
			Undo: text("Open %s in the debugger, and make descriptor %d mean that again.", f.Name, fd)},
		{Kind: StepClose, PID: p.PID, TID: f.TID, Text: "Close the descriptor that the open gave.", Undo: ""},
		{Kind: StepResume, PID: p.PID, TID: f.TID, Text: text("Let thread %d go: the kernel makes the read again, now from the right place.", f.TID)},
	}...)
}

// guards are the names that the debugger will open again.
func (p *Plan) guards(d *Diagnosis, done map[event.FD]bool) []Step {
	var steps []Step
	for i := range d.Findings {
		f := &d.Findings[i]
		if !f.Opened.FD.Known || !done[f.Opened.FD.Val] || f.repairable() != nil {
			continue
		}
		target := f.Intended.Target
		steps = append(steps, Step{Kind: StepGuard, PID: p.PID, Name: f.Name, Path: f.Intended.path(), Expect: &target,
			Text: event.Text(fmt.Sprintf("Stay, and lead each later open of %s to %s.", f.Name, f.Intended.path())),
			Undo: "Leave. The debugger opens the name again when it needs the file the next time, and gets the wrong one."})
	}
	return steps
}
