package procview

import (
	"bytes"
	"fmt"
	"strconv"

	"whosefd/tracer/event"
)

// StartTime is when a thread started, in clock ticks since boot: together with
// the id it tells a thread from a later one with the same id.
func (v *View) StartTime(tid event.TID) (uint64, error) { return v.statNumber(tid, 22) }

// LastCPU is the processor that a process's first thread ran on last.
func (v *View) LastCPU(pid event.PID) (int, error) {
	n, err := v.statNumber(event.TID(pid), 39)
	return int(n), err
}

// statNumber reads a field of proc_pid_stat(5), numbered as there.
func (v *View) statNumber(tid event.TID, field int) (uint64, error) {
	b, err := v.read(int(tid), "task/"+strconv.Itoa(int(tid))+"/stat")
	if err != nil {
		// A thread that is not a leader has no folder of its own in the list
		// of processes, but it can be named there all the same.
		b, err = v.read(int(tid), "stat")
	}
	if err != nil {
		return 0, fmt.Errorf("stat of thread %d: %w", tid, err)
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // f[0] is field 3
	if len(f) <= field-3 {
		return 0, fmt.Errorf("stat of thread %d: no field %d", tid, field)
	}
	n, err := strconv.ParseUint(string(f[field-3]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("stat of thread %d: field %d: %w", tid, field, err)
	}
	return n, nil
}
