package rules

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"whosefd/tracer/event"
)

// Reasons for which there is no plan; errors of [PlanRepair] wrap one.
var (
	ErrHealthy     = errors.New("nothing to repair: no read of a wrong file is going on")
	ErrNotProved   = errors.New("the evidence does not prove that the debugger opened the wrong file")
	ErrUnreachable = errors.New("the inferior's file cannot be opened now")
	ErrArch        = errors.New("the debugger is a 32-bit program, in which whosefd makes no calls")
)

// Releasable says why the read may not be ended; nil if it may. That needs no proof of
// which name was opened, where it is certain that the read has no end.
func (f *Finding) Releasable() error {
	switch {
	case f.TID == 0 || !f.Opened.FD.Known || f.Effect != Hang && f.Effect != StolenInput:
		return ErrHealthy
	case f.Arch != "":
		return ErrArch
	case len(f.Way) > 0 && !f.readsItself():
		return fmt.Errorf("%w: it does not read from what it has opened by a name", ErrHealthy)
	case !f.Opened.Identified() || f.Identity != Certain && !(f.Endless && f.Reopened):
		return fmt.Errorf("%w: %s is %s, not certain", ErrNotProved, f.Name, f.Identity)
	case slices.Contains(f.Opened.SameAsFD, f.Opened.FD.Val):
		return fmt.Errorf("%w: descriptor %d is the debugger's own", ErrNotProved, f.Opened.FD.Val)
	}
	return nil
}

// readsItself says whether a thread waits for data from a pipe that only its own
// process can write to, and that it has opened by a name: the descriptor that it made
// the pipe with is not replaced.
func (f *Finding) readsItself() bool {
	_, ok := f.Feed()
	return ok && !isSet(f.Way[0].Syscall) && f.Reopened
}

// Repairable says why the right file may not be put in place; nil if it may.
func (f *Finding) Repairable() error { return f.repairable(nil, &PlanOptions{}) }

// repairable is Repairable where the user may have said which of several libraries it is.
func (f *Finding) repairable(all []*Finding, o *PlanOptions) error {
	if err := f.Releasable(); err != nil {
		return err
	}
	if len(f.Way) > 0 {
		return fmt.Errorf("%w: no name of an inferior explains the read; --release ends it", ErrUnreachable)
	}
	if f.Owner < event.NoPID && (f.Intended == nil || f.Intended.Reachable == "") {
		return fmt.Errorf("%w: %s is the name of a library of a core file, which no process has any more; --with FILE puts a file of yours there, "+
			"--release ends the read without it", ErrUnreachable, f.Name)
	}
	rivals, names, owners := f.rivals(all)
	switch {
	case f.Identity == Certain, o.Library != "" && rivals == 1:
	case len(names) > 1:
		return fmt.Errorf("%w: it can be any of %s; --library NAME says which, --release ends the read without a file", ErrNotProved, strings.Join(names, ", "))
	case len(owners) > 1:
		return fmt.Errorf("%w: %s can be that of process %s; --library %[2]s --inferior PID says whose, --release ends the read without a file",
			ErrNotProved, f.Name, strings.Join(owners, " or "))
	default:
		return fmt.Errorf("%w: %s is %s, not certain; --release ends the read without a file", ErrNotProved, f.Name, f.Identity)
	}
	if f.Intended == nil || f.Intended.Reachable == "" || !f.Intended.Identified() {
		return fmt.Errorf("%w: the file that %s stands for has no descriptor left; it can be reached through map_files only, "+
			"by a debugger that runs as root; --release ends the read without it", ErrUnreachable, f.Name)
	}
	if f.Intended.Path() == "" {
		return fmt.Errorf("%w: the file that %s stands for can be reached from here as %s, but not where the debugger is; "+
			"--release ends the read without it", ErrUnreachable, f.Name, f.Intended.Reachable)
	}
	if f.Intended.Denied {
		return fmt.Errorf("%w: the file that %s stands for is left as %s only, which this debugger may not open "+
			"(CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE); --release ends the read without it", ErrUnreachable, f.Name, f.Intended.Path())
	}
	return nil
}

// rivals counts the findings that explain the same read, and gives their names and the inferiors
// that have them.
func (f *Finding) rivals(all []*Finding) (n int, names, owners []string) {
	for _, o := range all {
		if o.TID != f.TID || o.Opened.FD != f.Opened.FD {
			continue
		}
		n++
		if !slices.Contains(names, string(o.Name)) {
			names = append(names, string(o.Name))
		}
		if owner := strconv.Itoa(int(o.Owner)); !slices.Contains(owners, owner) {
			owners = append(owners, owner)
		}
	}
	return n, names, owners
}

// PlanOptions say what is planned.
type PlanOptions struct {
	// Release: the read only ends, as at the end of a file, and the debugger is left.
	Release bool
	// Detach: the debugger is left at once, without a guard.
	Detach bool
	// StandIns are files of the user's choice, for libraries of a core.
	StandIns []event.StandIn
	// Library is the name of the library that the debugger hangs on, as its user says, and Inferiors
	// are whose it may be: where several could be it. Empty: only what is proved counts.
	Library   event.Text
	Inferiors []event.PID
}

// chosen says whether a finding is what the user says that it is.
func (o *PlanOptions) chosen(f *Finding) bool {
	return o.Library == f.Name && (len(o.Inferiors) == 0 || slices.Contains(o.Inferiors, f.Owner))
}

// with gives the finding with the file that stands in for its library.
func (f *Finding) with(files []event.StandIn) (*Finding, error) {
	var refused error
	for i := range files {
		s := &files[i]
		if f.Owner >= event.NoPID || f.Intended == nil || s.Name != "" && s.Name != f.Name {
			continue
		}
		if refused = s.Serves(f.Intended.BuildID); refused != nil {
			continue
		}
		c, in := *f, *f.Intended
		in.Target, in.Reachable = s.File, s.Path
		c.Intended = &in
		return &c, nil
	}
	return f, refused
}

// PlanRepair plans how to un-hang a debugger and to put the inferior's file
// behind the descriptor that it reads. It fails with the reason unless the
// identities of both files are proved. Package words adds the sentences.
func PlanRepair(debugger event.PID, findings []*Finding, o PlanOptions) (*event.Plan, error) {
	if debugger == 0 {
		return nil, ErrHealthy
	}
	if o.Library != "" {
		findings = slices.DeleteFunc(slices.Clone(findings), func(f *Finding) bool { return !o.chosen(f) })
		if len(findings) == 0 {
			return nil, fmt.Errorf("repair of pid %d: %w: no read that is going on can be of %s", debugger, ErrNotProved, o.Library)
		}
	}
	allowed := func(f *Finding) error { return f.repairable(findings, &o) }
	if o.Release {
		allowed = (*Finding).Releasable
	}
	p := &event.Plan{PID: debugger, Release: o.Release}
	var guards []event.Step
	refused := ErrHealthy
	done := map[event.FD]bool{}
	for _, f := range findings {
		f, err := f.with(o.StandIns)
		if err == nil {
			err = allowed(f)
		}
		if err != nil {
			if errors.Is(refused, ErrHealthy) {
				refused = err
			}
			continue
		}
		if !done[f.Opened.FD.Val] {
			done[f.Opened.FD.Val] = true
			p.Steps = append(p.Steps, inThread(p, f)...)
		}
		guards = append(guards, guardStep(p, f))
	}
	switch {
	case len(p.Steps) == 0:
		return nil, fmt.Errorf("repair of pid %d: %w", p.PID, refused)
	case o.Release, o.Detach:
		p.Steps = append(p.Steps, event.Step{Kind: event.StepDetach, PID: p.PID})
	default:
		p.Steps = append(p.Steps, guards...)
	}
	return p, nil
}

// inThread are the steps in the thread that hangs.
func inThread(p *event.Plan, f *Finding) []event.Step {
	path, expect := event.Text("/dev/null"), event.Target{Kind: event.CharDev, Link: "/dev/null"}
	if !p.Release {
		path, expect = f.Intended.Path(), f.Intended.Target
	}
	call := func(result event.Result, name string, args ...event.Text) *event.PlannedCall {
		return &event.PlannedCall{Name: name, Args: args, Result: result}
	}
	fd, wrong := f.Opened.FD, f.Opened.Target
	number := event.Text(strconv.Itoa(int(fd.Val)))
	opened, kept, cloexec := event.ResultOpened.Arg(), event.ResultKept.Arg(), event.ResultCloexec.Arg()
	// O_NONBLOCK and O_NOCTTY: if the path is not what it should be, the open
	// neither waits nor takes a terminal.
	const flags = "O_RDONLY|O_CLOEXEC|O_NOCTTY|O_NONBLOCK"
	steps := []event.Step{
		{Kind: event.StepAttach, FD: fd, Expect: &wrong},
		{Kind: event.StepOpen, Path: path, Flags: flags, Expect: &expect,
			Call: call(event.ResultOpened, "openat", "AT_FDCWD", path, flags), UndoCall: call("", "close", opened)},
		{Kind: event.StepUnblock, Call: call("", "fcntl", opened, "F_SETFL", "0")},
		{Kind: event.StepFlags, FD: fd, Call: call(event.ResultCloexec, "fcntl", number, "F_GETFD")},
		{Kind: event.StepKeep, FD: fd, Call: call(event.ResultKept, "fcntl", number, "F_DUPFD_CLOEXEC", "0"), UndoCall: call("", "close", kept)},
		{Kind: event.StepReplace, FD: fd, Replaces: &wrong,
			Call: call("", "dup3", opened, number, cloexec), UndoCall: call("", "dup3", kept, number, cloexec)},
		{Kind: event.StepClose, Call: call("", "close", opened)},
		{Kind: event.StepClose, Call: call("", "close", kept)},
		{Kind: event.StepResume},
	}
	for i := range steps {
		steps[i].PID, steps[i].TID = p.PID, f.TID
	}
	return steps
}

// guardStep is for a name that the debugger will open again.
func guardStep(p *event.Plan, f *Finding) event.Step {
	if p.Release {
		return event.Step{}
	}
	target := f.Intended.Target
	return event.Step{Kind: event.StepGuard, PID: p.PID, Name: f.Name, Path: f.Intended.Path(), Expect: &target}
}
