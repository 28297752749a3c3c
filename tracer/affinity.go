package tracer

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
	"whosefd/tracer/procview"
	"whosefd/tracer/ptrace"
)

// affinity runs busy traced threads and the tracer on one CPU while they are
// attached. At each stop one of them waits for the other, so they never run at
// the same time, and waking up the other CPU is most of what a stop costs. A
// thread that mostly computes runs where it likes: see keepPace.
//
// Every thread has its own mask back before it is let go, and whenever somebody
// could see or inherit ours: while it makes a process or a thread, and while a
// mask is read or set. If this process is killed, the keeper puts the masks
// back.
type affinity struct {
	view   *procview.View
	cpu    int
	own    map[event.TID]unix.CPUSet // the threads' own masks
	keeper io.Writer                 // nil: nothing is changed
}

// usable says whether this process may run on a CPU that was asked for.
func usable(asked event.Opt[int]) error {
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

// newAffinity keeps threads on a CPU: the one that was asked for, or the one
// that the process ran on last. It does nothing without a keeper, or where that
// CPU is not among our own.
func newAffinity(v *procview.View, pid event.PID, asked event.Opt[int], keeper io.Writer) *affinity {
	a := &affinity{view: v, own: map[event.TID]unix.CPUSet{}}
	cpu, err := asked.Val, error(nil)
	if !asked.Known {
		cpu, err = v.LastCPU(pid)
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
	// paceEvery is after how many calls of a thread its pace is looked at.
	paceEvery = 32
	// A thread that makes calls more often than busyPace is kept on the CPU, and
	// one that makes them less often than idlePace is not: what a stop costs is
	// then little beside what the thread does in between, and a debugger's
	// threads that compute, such as those that index debug info, must be able
	// to do so at once.
	busyPace = 300 * time.Microsecond
	idlePace = 600 * time.Microsecond
)

// keepPace is told how long a stopped thread took for its last calls.
func (a *affinity) keepPace(tid event.TID, calls int, took time.Duration) {
	_, kept := a.own[tid]
	switch each := took / time.Duration(calls); {
	case !kept && each < busyPace:
		a.pin(tid)
	case kept && each > idlePace:
		a.free(tid)
	}
}

// pin keeps a stopped thread on the CPU, unless it may not run there.
func (a *affinity) pin(tid event.TID) {
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

// free gives a thread its own mask back, and says whether it had another.
func (a *affinity) free(tid event.TID) bool {
	own, ok := a.own[tid]
	if !ok {
		return false
	}
	delete(a.own, tid)
	_ = unix.SchedSetaffinity(int(tid), &own) // it is gone, or the mask is empty in its cpuset by now
	return true
}

// renamed follows a thread that has another id now.
func (a *affinity) renamed(former, tid event.TID) {
	if _, ok := a.own[former]; !ok {
		return
	}
	own := a.own[former]
	delete(a.own, former)
	_ = unix.SchedSetaffinity(int(tid), &own)
	a.pin(tid)
}

// gone forgets a thread that has ended.
func (a *affinity) gone(tid event.TID) { delete(a.own, tid) }

// exposes are the calls during which a mask can be seen, inherited or set.
var exposes = []string{"fork", "vfork", "clone", "clone3", "sched_getaffinity", "sched_setaffinity"}

// concerned is the thread whose mask such a call is about.
func concerned(t *ptrace.Thread, name string) event.TID {
	if tid := event.TID(int32(uint32(t.Call.Args[0]))); strings.HasPrefix(name, "sched_") && tid != 0 {
		return tid
	}
	return t.TID
}

func maskBytes(set *unix.CPUSet) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(set)), unsafe.Sizeof(*set))
}

// KeepAffinity is the keeper: it reads what pin writes, and when the writer is
// gone without having said "done", puts the masks back. It runs in a process of
// its own, in a session of its own, so that no key on a terminal reaches it.
func KeepAffinity(r io.Reader) {
	type owned struct {
		tid   event.TID
		start uint64
		mask  unix.CPUSet
	}
	masks := map[event.TID]owned{}
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		if sc.Text() == "done" {
			return
		}
		var o owned
		var text string
		if _, err := fmt.Sscanf(sc.Text(), "%d %d %s", &o.tid, &o.start, &text); err != nil {
			continue
		}
		b, err := hex.DecodeString(text)
		if err != nil || copy(maskBytes(&o.mask), b) != len(b) {
			continue
		}
		masks[o.tid] = o
	}
	view := procview.New("/proc")
	for _, o := range masks {
		if start, err := view.StartTime(o.tid); err == nil && start == o.start { // not another thread by now
			_ = unix.SchedSetaffinity(int(o.tid), &o.mask)
		}
	}
}

// StartKeeper starts the keeper as a process: this program, which must call
// [KeepAffinity] on its standard input when its only argument is KeeperArg.
func StartKeeper() (*Keeper, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		_ = w.Close()
		return nil, err
	}
	defer null.Close()
	p, err := os.StartProcess("/proc/self/exe", []string{"whosefd", KeeperArg}, &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: []*os.File{r, null, null}, Sys: &unix.SysProcAttr{Setsid: true}})
	if err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("start the keeper of CPU masks: %w", err)
	}
	return &Keeper{w, p}, nil
}

// KeeperArg is the argument that makes this program the keeper.
const KeeperArg = "__keep-affinity"

// Keeper is a keeper that runs; what is written to it goes to [KeepAffinity].
type Keeper struct {
	w *os.File
	p *os.Process
}

func (k *Keeper) Write(b []byte) (int, error) { return k.w.Write(b) }

// End ends the keeper, and returns when it has done its work: none if all masks
// are back, else it puts them back first.
func (k *Keeper) End(allBack bool) (err error) {
	if allBack {
		_, err = io.WriteString(k.w, "done\n")
	}
	err = errors.Join(err, k.w.Close())
	_, waitErr := k.p.Wait()
	return errors.Join(err, waitErr)
}
