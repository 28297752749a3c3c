// Package cpu runs a tracer and its busy tracees on one CPU, and gives the
// tracees their own masks back, whatever happens.
package cpu

import (
	"encoding/hex"
	"fmt"
	"io"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// Affinity runs busy traced threads and the tracer on one CPU while they are
// attached. At each stop one of them waits for the other, so they never run at
// the same time, and waking up the other CPU is most of what a stop costs. A
// thread that mostly computes runs where it likes: see [Affinity.Pace].
//
// Every thread has its own mask back before it is let go, and whenever somebody
// could see or inherit ours: while it makes a process or a thread, and while a
// mask is read or set. If this process is killed, the keeper puts the masks
// back.
type Affinity struct {
	view   *procview.View
	cpu    int
	own    map[event.TID]unix.CPUSet // the threads' own masks
	keeper io.Writer                 // nil: nothing is changed
}

// Usable says whether this process may run on a CPU that was asked for.
func Usable(asked event.Opt[int]) error {
	var mine unix.CPUSet
	if !asked.Known {
		return nil
	}
	if err := unix.SchedGetaffinity(0, &mine); err != nil {
		return fmt.Errorf("CPU %d: %w", asked.Val, err)
	}
	if !mine.IsSet(asked.Val) {
		return fmt.Errorf("CPU %d is not one that this process may use", asked.Val)
	}
	return nil
}

// New keeps threads on a CPU: the one that was asked for, or the one
// that the process ran on last. It does nothing without a keeper, or where that
// CPU is not among our own.
func New(v *procview.View, pid event.PID, asked event.Opt[int], keeper io.Writer) *Affinity {
	a := &Affinity{view: v, own: map[event.TID]unix.CPUSet{}}
	cpu := asked.Val
	var err error
	if !asked.Known {
		var st procview.Stat
		st, err = v.Stat(pid, event.TID(pid))
		cpu = st.LastCPU
	}
	var mine unix.CPUSet
	if err != nil || keeper == nil || unix.SchedGetaffinity(0, &mine) != nil || !mine.IsSet(cpu) || mine.Count() < 2 {
		return a
	}
	var only unix.CPUSet
	only.Set(cpu)
	if unix.SchedSetaffinity(0, &only) == nil { // the tracer's thread, which ends with the trace
		a.cpu, a.keeper = cpu, keeper
	}
	return a
}

const (
	// PaceEvery is after how many calls of a thread its pace is looked at.
	PaceEvery = 32
	// A thread that makes calls more often than busyPace is kept on the CPU, and
	// one that makes them less often than idlePace is not: what a stop costs is
	// then little beside what the thread does in between, and a debugger's
	// threads that compute, such as those that index debug info, must be able
	// to do so at once.
	busyPace = 300 * time.Microsecond
	idlePace = 600 * time.Microsecond
)

// Pace is told how long a stopped thread took for its last calls.
func (a *Affinity) Pace(tid event.TID, calls int, took time.Duration) {
	_, kept := a.own[tid]
	switch each := took / time.Duration(calls); {
	case !kept && each < busyPace:
		a.Pin(tid)
	case kept && each > idlePace:
		a.Free(tid)
	}
}

// Pin keeps a stopped thread on the CPU, unless it may not run there.
func (a *Affinity) Pin(tid event.TID) {
	if a.keeper == nil {
		return
	}
	var own, only unix.CPUSet
	if unix.SchedGetaffinity(int(tid), &own) != nil || !own.IsSet(a.cpu) {
		return
	}
	start, err := a.view.StartTime(tid)
	if err != nil {
		return
	}
	// The keeper knows before it happens: then there is no moment at which
	// nobody could put it back.
	if _, err := fmt.Fprintf(a.keeper, "%d %d %s\n", tid, start, hex.EncodeToString(maskBytes(&own))); err != nil {
		a.keeper = nil
		return
	}
	only.Set(a.cpu)
	if unix.SchedSetaffinity(int(tid), &only) == nil {
		a.own[tid] = own
	}
}

// Free gives a thread its own mask back, and says whether it had another.
func (a *Affinity) Free(tid event.TID) bool {
	own, ok := a.own[tid]
	if !ok {
		return false
	}
	delete(a.own, tid)
	_ = unix.SchedSetaffinity(int(tid), &own) // it is gone, or the mask is empty in its cpuset by now
	return true
}

// Renamed follows a thread that has another id now.
func (a *Affinity) Renamed(former, tid event.TID) {
	if _, ok := a.own[former]; !ok {
		return
	}
	own := a.own[former]
	delete(a.own, former)
	_ = unix.SchedSetaffinity(int(tid), &own)
	a.Pin(tid)
}

// Gone forgets a thread that has ended.
func (a *Affinity) Gone(tid event.TID) { delete(a.own, tid) }

// Exposing are the calls during which a mask can be seen, inherited or set. The
// last two may be about another thread, by their first argument, if that is not 0.
var Exposing = []string{"fork", "vfork", "clone", "clone3", "sched_getaffinity", "sched_setaffinity"}

func maskBytes(set *unix.CPUSet) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(set)), unsafe.Sizeof(*set))
}
