package tracer

import (
	"slices"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// Debuggers gives the processes of this machine that trace others, or are
// known as programs that do, in order. A tracer that is only a thread id in another
// process's status is found by its process. Processes that may not be looked
// at are left out.
func Debuggers(v *procview.View) ([]event.PID, error) {
	pids, err := v.PIDs()
	if err != nil {
		return nil, err
	}
	found := map[event.PID]bool{}
	for _, pid := range pids {
		st, err := v.Status(pid, event.TID(pid))
		if err != nil {
			continue
		}
		if d := v.Debugger(pid, st.Name); d != nil && d.Tracer {
			found[pid] = true
		}
		if st.TracerPid == 0 {
			continue
		}
		if tgid, err := v.TGID(st.TracerPid); err == nil {
			found[tgid] = true
		}
	}
	var list []event.PID
	for pid := range found {
		list = append(list, pid)
	}
	slices.Sort(list)
	return list, procview.Scarce()
}

// BlockedInRead gives the thread of a process that waits for data from a
// descriptor other than a terminal; false if none does, or none may be looked at.
func BlockedInRead(v *procview.View, pid event.PID) (event.Blocked, bool) {
	calls, err := decode.ForArch(Arch)
	if err != nil {
		return event.Blocked{}, false
	}
	tids, err := v.Threads(pid)
	if err != nil {
		return event.Blocked{}, false
	}
	for _, tid := range tids {
		b, err := v.Blocked(pid, tid, calls)
		if err == nil && inRead(&b) && b.Target.Kind != event.TTY {
			return b, true
		}
	}
	return event.Blocked{}, false
}
