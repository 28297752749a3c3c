package tracer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"whosefd/tracer/doctor"
	"whosefd/tracer/event"
	"whosefd/tracer/inferior"
	"whosefd/tracer/procview"
	"whosefd/tracer/sysroot"
)

// Preflight looks at a process before a debugger does: its descriptors, its
// loaded objects, and what their names lead to. In the place of the debugger
// stands this process, since a debugger started in its stead would have its
// directory, root and namespaces. The process is not stopped.
//
// The error says why it could not be looked at, and wraps [os.ErrNotExist],
// [os.ErrPermission], [doctor.ErrRefused] or one of package inferior that says
// why it has no list of loaded objects. A static program is no error, and
// neither is a list that is not complete: the evidence says so.
func Preflight(v *procview.View, tool string, pid event.PID) ([]event.Event, error) {
	s := &snapshot{SnapshotOptions: SnapshotOptions{View: v, Tool: tool}, pid: event.PID(os.Getpid()), start: time.Now()}
	stand, err := v.Process(s.pid)
	if err != nil {
		return nil, fmt.Errorf("look at this process: %w", err)
	}
	s.add(newSession(tool, "preflight", s.start, &stand))
	maps, err := libraries(v, pid)
	if err != nil && !errors.Is(err, inferior.ErrStatic) {
		return nil, err
	}
	inf, err := inferior.Describe(v, pid)
	if err != nil {
		return nil, err
	}
	inf.State, _ = v.State(pid, event.TID(pid)) // "" if it has just ended
	inf.Tracer = tracerOf(v, inf.TracerTID)
	s.inferior(&inf, maps)
	if inf.State == "D" && s.sleepsOn(pid) {
		s.waits(pid)
	}
	s.add(&event.End{T: s.now(), Reason: "snapshot"})
	if err := procview.Scarce(); err != nil {
		return nil, fmt.Errorf("look at pid %d: %w", pid, err)
	}
	return s.events, nil
}

// sleepsOn says whether a process stays in the state D, in which an attach waits for it: for a file
// system, or for its child (vfork(2)).
func (s *snapshot) sleepsOn(pid event.PID) bool {
	for until := time.Now().Add(passes); time.Now().Before(until); time.Sleep(passes / 20) {
		if now, err := s.View.State(pid, event.TID(pid)); err != nil || now != "D" {
			return false
		}
	}
	return true
}

// passes is how long a disk may take.
const passes = 200 * time.Millisecond

// PreflightCore is [Preflight] for a core file.
func PreflightCore(v *procview.View, tool string, core *inferior.Core) ([]event.Event, error) {
	s := &snapshot{SnapshotOptions: SnapshotOptions{View: v, Tool: tool}, pid: event.PID(os.Getpid()), start: time.Now()}
	stand, err := v.Process(s.pid)
	if err != nil {
		return nil, fmt.Errorf("look at this process: %w", err)
	}
	s.add(newSession(tool, "preflight", s.start, &stand))
	s.core(core)
	s.add(&event.End{T: s.now(), Reason: "snapshot"})
	return s.events, nil
}

// ReadCore reads a core file and its program, "" where that is not given: both are names in our own
// context. The error wraps [memory.ErrNoCore] if it is no core.
func ReadCore(v *procview.View, core, program string) (*inferior.Core, error) {
	f, err := v.OpenNamed(core)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var given *procview.Large
	if program != "" {
		if given, err = v.OpenNamed(program); err != nil {
			return nil, err
		}
		defer given.Close()
	}
	return inferior.ReadCore(v, f, 1, event.PID(os.Getpid()), given)
}

// MakeSysroot makes a folder in which gdb finds the files that a process sees: see
// [sysroot.Make].
func MakeSysroot(ctx context.Context, v *procview.View, dir string, pid event.PID) (*sysroot.Made, error) {
	maps, err := libraries(v, pid)
	if err != nil && !errors.Is(err, inferior.ErrStatic) {
		return nil, err
	}
	return sysroot.Make(ctx, v, dir, pid, maps)
}

// libraries reads the list of a process; the error says what sort of process it
// is that has none.
func libraries(v *procview.View, pid event.PID) ([]event.LinkMap, error) {
	if err := doctor.RefuseLook(v, event.PID(os.Getpid()), pid); err != nil {
		return nil, lookedAt(err)
	}
	maps, err := inferior.LinkMaps(v, pid)
	if errors.Is(err, os.ErrPermission) {
		return nil, lookedAt(doctor.ExplainAttach(v, pid, err))
	}
	return maps, err
}

// lookedAt makes the error of an attach that of a look.
func lookedAt(err error) error {
	var why *doctor.AttachError
	if errors.As(err, &why) {
		why.Op = "look at"
	}
	return err
}

// tracerOf gives the process that a thread belongs to; nil for no thread, or
// one that has ended.
func tracerOf(v *procview.View, tid event.TID) *event.Tracer {
	if tid == 0 {
		return nil
	}
	pid, err := v.TGID(tid)
	if err != nil {
		return nil
	}
	st, err := v.Status(pid, event.TID(pid))
	if err != nil {
		return nil
	}
	return &event.Tracer{PID: pid, Comm: st.Name}
}
