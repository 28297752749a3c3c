package procview

import (
	"bytes"
	"strconv"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
)

// StartTime is when a thread started, in clock ticks since boot: together with
// the id it tells a thread from a later one with the same id. /proc has a folder
// of each thread by its number, though it lists those of processes only.
func (v *View) StartTime(tid event.TID) (uint64, error) {
	st, err := v.Stat(event.PID(tid), tid)
	return st.Start, err
}

// Idle is for how long a thread has not run, microseconds: the kernel's clock of
// when it ran last (se.exec_start in /proc/PID/sched), against that of our own
// thread. It is absent where the kernel was built without CONFIG_SCHED_DEBUG, and
// not exact: time that interrupts took is left out of that clock.
func (v *View) Idle(pid event.PID, tid event.TID) event.Opt[int64] {
	if !v.facts().ours {
		return event.Opt[int64]{}
	}
	then, err := v.read(int(pid), "task/"+strconv.Itoa(int(tid))+"/sched")
	if err != nil {
		return event.Opt[int64]{}
	}
	now, err := readAt(unix.AT_FDCWD, v.Mount+"/thread-self/sched", nil, maxProcFile)
	if err != nil {
		return event.Opt[int64]{}
	}
	from, ok := execStart(then)
	to, ok2 := execStart(now)
	if !ok || !ok2 {
		return event.Opt[int64]{}
	}
	return event.Some(max(0, to-from))
}

// Runtime is the CPU time that a thread has used, microseconds (the first number of
// schedstat, Documentation/scheduler/sched-stats.rst); absent where it is not counted.
func (v *View) Runtime(pid event.PID, tid event.TID) event.Opt[int64] {
	b, err := v.read(int(pid), "task/"+strconv.Itoa(int(tid))+"/schedstat")
	ns, _, _ := bytes.Cut(b, []byte(" "))
	n, err2 := strconv.ParseInt(string(ns), 10, 64)
	if err != nil || err2 != nil || n == 0 {
		return event.Opt[int64]{}
	}
	return event.Some(n / 1000)
}

// execStart reads the line of se.exec_start, in microseconds.
func execStart(sched []byte) (int64, bool) {
	_, rest, ok := bytes.Cut(sched, []byte("se.exec_start"))
	_, rest, ok2 := bytes.Cut(rest, []byte(":"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	ms, err := strconv.ParseFloat(string(bytes.TrimSpace(line)), 64)
	return int64(ms * 1000), ok && ok2 && err == nil
}

// StopCode is for a process that job control has stopped the signal that did it,
// and for a ptrace stop that its tracer has not asked for yet that of the stop, with
// the event from bit 8 on. 0: not told, by older kernels.
func (v *View) StopCode(pid event.PID, tid event.TID) int {
	if own, err := v.Stat(event.PID(tid), tid); err == nil && own.Code != 0 {
		return own.Code
	}
	b, err := v.read(int(pid), "stat") // of the whole process, unlike the one of a thread
	if err != nil {
		return 0
	}
	st, _ := ParseStat(b)
	return st.Code
}
