package tracer

import (
	"slices"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// debuggerNames are programs that trace others: they count as debuggers even
// while they trace nobody.
var debuggerNames = map[string]bool{
	"gdb": true, "gdbserver": true, "gdb-multiarch": true, "lldb": true, "lldb-server": true, "dlv": true, "rr": true,
}

// isDebugger knows a program by its comm (proc_pid_comm(5), 15 bytes), which may
// end in a version and be cut off in that: lldb-14, lldb-server-14.
func isDebugger(comm event.Text) bool {
	return debuggerNames[strings.TrimRight(string(comm), "-.0123456789")]
}

// Debuggers gives the processes of this machine that trace others, or are
// known as debuggers, in order. A tracer that is only a thread id in another
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
		if isDebugger(st.Name) {
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
