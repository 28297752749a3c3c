package tracer

import (
	"errors"
	"fmt"
	"os"
	"time"

	"whosefd/tracer/doctor"
	"whosefd/tracer/event"
	"whosefd/tracer/inferior"
	"whosefd/tracer/procview"
)

// Preflight looks at a process before a debugger does: its descriptors, its
// loaded objects, and what their names lead to. In the place of the debugger
// stands this process, since a debugger started in its stead would have its
// directory, root and namespaces. The process is not stopped.
//
// The error says why it could not be looked at, and wraps [os.ErrNotExist],
// [os.ErrPermission] or one of package inferior that says why it has no list of
// loaded objects.
func Preflight(v *procview.View, tool string, pid event.PID) ([]event.Event, error) {
	s := &snapshot{SnapshotOptions: SnapshotOptions{View: v, Tool: tool}, pid: event.PID(os.Getpid()), start: time.Now()}
	stand, err := v.Process(s.pid)
	if err != nil {
		return nil, fmt.Errorf("look at this process: %w", err)
	}
	s.add(newSession(tool, "preflight", s.start, &stand))
	maps, err := inferior.LinkMaps(v, pid)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return nil, doctor.ExplainAttach(v, pid, err)
		}
		return nil, err
	}
	inf, err := inferior.Describe(v, pid)
	if err != nil {
		return nil, err
	}
	s.inferior(&inf, maps)
	s.add(&event.End{T: s.now(), Reason: "snapshot"})
	return s.events, nil
}
