// Package waits says what blocked threads wait for, and who could end that: a
// search from process to process. It reads /proc, the memory of those processes
// and, for sockets, what the kernel answers to sock_diag(7). It stops nobody.
//
// It gathers facts. Whether a wait can end is concluded from them elsewhere.
package waits

import (
	"fmt"
	"iter"
	"maps"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/memory"
	"whosefd/tracer/procview"
)

// Options bound a search. Zero values are the defaults.
type Options struct {
	// Calls are those of the machine.
	Calls *decode.Table
	// Tracing says who traces whom; nil: it is looked up.
	Tracing procview.Tracing
	// Index looks through all descriptor tables; it is called when the first ender
	// must be found.
	Index func() (*procview.Index, error)
	// Start is what the times of the events count from.
	Start time.Time
	// Processes, Threads (of one process) and Depth bound how far the search goes,
	// Within how long.
	Processes, Threads, Depth int
	Within                    time.Duration
}

const (
	maxProcesses = 200
	maxThreads   = 1000
	maxDepth     = 32
	within       = 2 * time.Second
	// sample is for how long a thread that runs is watched.
	sample = 20 * time.Millisecond
)

// Search gives the waits of the threads of some processes, then of those who could
// end these, and so on, in the order in which they are reached; and last how far
// it went. A process that has ended or may not be looked at has no waits.
func Search(v *procview.View, pids []event.PID, o Options) []event.Event {
	s := newSearch(v, o)
	for _, pid := range pids {
		s.reach(pid, 0)
	}
	for len(s.queue) > 0 && s.found.Cut == "" {
		next := s.queue[0]
		s.queue = s.queue[1:]
		s.process(next)
	}
	s.lookAgain()
	return s.events()
}

type search struct {
	Options
	v        *procview.View
	deadline time.Time

	queue []reached
	known map[event.PID]bool
	waits []*looked
	found event.Search
	index *procview.Index // made when the first ender must be found
	mem   reader
	nets  map[uint64]*sockets // by network namespace; 0: not known
	// namespaces have a process of each network namespace; nil: not looked for yet.
	namespaces map[uint64]event.PID
	comms      map[event.PID]event.Text
	locks      []procview.Lock
}

// reached is a process that is to be looked at, and how far from the first.
type reached struct {
	pid   event.PID
	depth int
}

// looked is a wait, and by what is seen whether the thread has run since.
type looked struct {
	event.Wait
	switches uint64
	stat     procview.Stat
	at       time.Time
	asked    bool                           // the first thread of a process that was asked for
	files    map[event.FD]procview.OpenFile // of such a one that ran
}

func newSearch(v *procview.View, o Options) *search {
	o.Processes, o.Threads, o.Depth = orElse(o.Processes, maxProcesses), orElse(o.Threads, maxThreads), orElse(o.Depth, maxDepth)
	o.Within = orElse(o.Within, within)
	if o.Index == nil {
		o.Index = v.Index
	}
	if o.Start.IsZero() {
		o.Start = time.Now()
	}
	s := &search{Options: o, v: v, deadline: time.Now().Add(o.Within), known: map[event.PID]bool{}, mem: reader{v: v},
		nets: map[uint64]*sockets{}, comms: map[event.PID]event.Text{}}
	s.found.Nested = v.Nested()
	return s
}

func orElse[T int | time.Duration](n, def T) T {
	if n == 0 {
		return def
	}
	return n
}

func (s *search) now() event.Micros { return event.Micros(time.Since(s.Start).Microseconds()) }

// reach notes that a process is to be looked at.
func (s *search) reach(pid event.PID, depth int) {
	if pid <= 0 || s.known[pid] {
		return
	}
	s.known[pid] = true
	s.queue = append(s.queue, reached{pid, depth})
}

// process looks at all threads of a process.
func (s *search) process(p reached) {
	switch {
	case len(s.known)-len(s.queue) > s.Processes:
		s.found.Cut = fmt.Sprintf("after %d processes", s.Processes)
		return
	case p.depth > s.Depth:
		s.found.Cut = fmt.Sprintf("after %d steps", s.Depth)
		return
	case time.Now().After(s.deadline):
		s.found.Cut = fmt.Sprintf("after %v", s.Within)
		return
	}
	tids, err := s.v.Threads(p.pid)
	if err != nil {
		return
	}
	defer s.mem.close()
	for i, tid := range tids {
		if i == s.Threads {
			s.found.Cut = fmt.Sprintf("after %d threads of pid %d", s.Threads, p.pid)
			return
		}
		w := s.thread(p.pid, tid, tids)
		if w == nil {
			continue
		}
		w.asked = p.depth == 0 && event.PID(tid) == p.pid
		if w.asked && w.State == "R" {
			w.files = s.v.OpenFiles(p.pid)
		}
		s.waits = append(s.waits, w)
		for _, on := range w.On {
			for _, e := range on.Enders {
				s.reach(e.PID, p.depth+1)
			}
		}
	}
}

// thread looks at one thread; nil if it has ended. tids are all of its process.
func (s *search) thread(pid event.PID, tid event.TID, tids []event.TID) *looked {
	status, err := s.v.Status(pid, tid)
	if err != nil {
		return nil
	}
	b, err := s.v.Blocked(pid, tid, s.Calls)
	if err != nil {
		return nil
	}
	w := &looked{switches: status.Switches, at: time.Now(), Wait: event.Wait{T: s.now(), PID: pid, TID: tid, Comm: b.Comm, State: b.State,
		Wchan: b.Wchan, Syscall: b.Syscall, BlocksInt: status.Signal(int(unix.SIGINT)) == "blocked"}}
	if stat, err := s.v.Stat(pid, tid); err == nil {
		w.stat = stat
		w.PGRP = event.Some(stat.PGRP)
		if stat.TPGID > 0 {
			w.TTYPGRP = event.Some(stat.TPGID)
		}
	}
	if status.TracerPid != 0 {
		w.Tracer = &event.Tracer{PID: event.PID(status.TracerPid)}
		if tgid, err := s.v.TGID(status.TracerPid); err == nil {
			w.Tracer.PID = tgid
		}
		w.Tracer.Comm = s.comm(w.Tracer.PID)
	}
	switch b.State {
	case "R":
		w.CPUUS = s.v.Runtime(pid, tid)
		return w
	case "Z", "X":
		return w
	}
	w.IdleUS = s.v.Idle(pid, tid)
	switch b.State {
	case "T", "t":
		s.stopped(w, status.TracerPid)
	default:
		s.call(w, &b, tids)
	}
	return w
}

// stopped says who could let a stopped thread go on.
func (s *search) stopped(w *looked, tracer event.TID) {
	w.StopSignal = decode.Signal(s.v.StopCode(w.PID, w.TID) & 0x7f)
	if w.State == "t" && w.Tracer != nil {
		w.On = []event.Awaited{{Op: event.AwaitTracer, Enders: []event.Ender{
			{PID: w.Tracer.PID, Comm: w.Tracer.Comm, TID: tracer, How: event.HowTracer}}}}
		return
	}
	w.On = []event.Awaited{{Op: event.AwaitCont, Outside: event.OutsideAnybody}}
}

// lookAgain notes which threads have run since they were looked at, so that what
// is left is known to have been so at one moment; and how busy those are that ran.
func (s *search) lookAgain() {
	runs := false
	before := map[*looked][2]uint64{}
	for _, w := range s.waits {
		if w.State == "R" {
			runs = true
		} else if status, err := s.v.Status(w.PID, w.TID); err != nil {
			w.Moved = w.State != "Z" && w.State != "X"
		} else {
			// A thread that was woken and has not slept again has as many switches as before.
			w.Moved = status.Switches != w.switches || status.State != w.State
		}
		if w.asked && (w.State == "R" || w.Moved) && len(s.traceesOf(w.PID)) > 0 {
			before[w] = s.switches(w)
		}
	}
	if runs || len(before) > 0 {
		time.Sleep(sample)
	}
	for _, w := range s.waits {
		if w.State == "R" {
			s.busy(w)
		}
		if was, ok := before[w]; ok {
			now := s.switches(w)
			if n := min(now[0]-was[0], now[1]-was[1]); n > 0 && now[1] >= was[1] {
				w.Turns = event.Some(int64(n))
			}
		}
	}
}

// switches counts how often a thread has run, and those that its process traces.
func (s *search) switches(w *looked) (n [2]uint64) {
	if status, err := s.v.Status(w.PID, w.TID); err == nil {
		n[0] = status.Switches
	}
	for _, pid := range s.traceesOf(w.PID) {
		tids, _ := s.v.Threads(pid) // none, if it has ended
		for _, tid := range tids {
			if status, err := s.v.Status(pid, tid); err == nil {
				n[1] += status.Switches
			}
		}
	}
	return n
}

// busy measures a thread that ran, and says which file it reads: one whose offset has moved,
// else it may be the largest that it has open: a debugger that reads symbols has that of
// the program, and has mapped parts of it.
func (s *search) busy(w *looked) {
	now := s.v.Runtime(w.PID, w.TID)
	if !now.Known || !w.CPUUS.Known {
		return
	}
	w.BusyUS, w.SampledUS = event.Some(now.Val-w.CPUUS.Val), event.Some(time.Since(w.at).Microseconds())
	w.Moved = w.BusyUS.Val == 0
	if !w.asked {
		return
	}
	on := event.Awaited{Op: event.AwaitCPU}
	files := s.v.OpenFiles(w.PID)
	for _, fd := range slices.Sorted(maps.Keys(files)) {
		f := files[fd]
		was, there := w.files[fd]
		moved := there && was.Target.Same(f.Target) && was.Pos != f.Pos
		if moved && on.Access == "" || moved == (on.Access != "") && f.Size > on.Size.Val {
			on.FD, on.Target, on.Size = event.Some(fd), &f.Target, event.Some(f.Size)
			if moved {
				on.Access = "r"
			}
		}
	}
	if on.Target != nil {
		w.On = []event.Awaited{on}
	}
}

func (s *search) events() []event.Event {
	var list []event.Event
	for _, w := range s.waits {
		list = append(list, &w.Wait)
	}
	if s.index != nil {
		s.found.Searched, s.found.Unseen = s.index.Searched, s.index.Unseen
	}
	s.found.T = s.now()
	return append(list, &s.found)
}

func (s *search) comm(pid event.PID) event.Text {
	comm, ok := s.comms[pid]
	if !ok {
		comm = s.v.Comm(pid)
		s.comms[pid] = comm
	}
	return comm
}

func (s *search) note(err error) {
	if text := err.Error(); !slices.Contains(s.found.Notes, text) && len(s.found.Notes) < 16 {
		s.found.Notes = append(s.found.Notes, text)
	}
}

// holders gives who has a file open, both ends of it.
func (s *search) holders(find func(*procview.Index) []event.Holder) []event.Holder {
	if s.index == nil {
		ix, err := s.Index()
		if err != nil {
			s.note(err)
			return nil
		}
		s.index = ix
	}
	return find(s.index)
}

// doubt says whether somebody who could not be looked at may have a file too that
// these have.
func (s *search) doubt(holders []event.Holder) bool {
	return s.index == nil || slices.ContainsFunc(s.index.Unseen, func(u event.Unseen) bool { return !s.older(u, holders) })
}

// older says whether a process is older than a file that others hold, and has it
// neither made nor inherited. A descriptor that goes when another program is executed
// came after the holder began its own: the file was made by the holder, or by one that
// it was forked from and that ran the same program. And a file that a process and its
// descendants have, and that its parent has not, was made by that process.
func (s *search) older(than event.Unseen, holders []event.Holder) bool {
	unseen, err := s.v.StartTime(event.TID(than.PID))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(holders, func(h event.Holder) bool {
		start, err := s.v.StartTime(event.TID(h.PID))
		return err == nil && unseen < start && h.Comm != than.Comm && (h.CloseOnExec.Is(true) || s.maker(h.PID, than.PID, holders))
	})
}

// maker says whether all holders of a file descend from one of them, whose parent is
// not the unseen process and has not the file.
func (s *search) maker(pid, unseen event.PID, holders []event.Holder) bool {
	parent := s.parent(pid)
	return parent > 0 && parent != unseen && !slices.ContainsFunc(holders, func(h event.Holder) bool {
		at := h.PID
		for range maxDepth {
			if at == pid || at <= 1 {
				break
			}
			at = s.parent(at)
		}
		return h.PID == parent || at != pid
	})
}

func (s *search) parent(pid event.PID) event.PID {
	status, err := s.v.Status(pid, event.TID(pid))
	if err != nil {
		return 0
	}
	return status.PPid
}

// traceesOf gives whom a process traces.
func (s *search) traceesOf(pid event.PID) []event.PID {
	if s.Tracing == nil {
		var err error
		if s.Tracing, err = s.v.Tracing(); err != nil {
			s.Tracing = procview.Tracing{}
			s.note(err)
		}
	}
	tids, _ := s.v.Threads(pid) // none, if it has ended
	return s.Tracing.By(tids)
}

// socketsOf gives the sockets of the network namespace that a process is in.
func (s *search) socketsOf(pid event.PID) *sockets {
	return s.socketsIn(s.v.Namespace(pid, "net"), pid)
}

func (s *search) socketsIn(ns uint64, pid event.PID) *sockets {
	t, ok := s.nets[ns]
	if !ok {
		var err error
		if t, err = listSockets(s.v, pid); err != nil {
			s.note(err)
		}
		s.nets[ns] = t
	}
	return t
}

// maxNets bounds how many network namespaces are asked.
const maxNets = 256

// otherSockets gives the sockets of each network namespace that some process is in, but
// for one.
func (s *search) otherSockets(but *sockets) iter.Seq[*sockets] {
	if s.namespaces == nil {
		s.namespaces = map[uint64]event.PID{}
		pids, err := s.v.PIDs()
		if err != nil {
			s.note(err)
		}
		for _, pid := range pids {
			if ns := s.v.Namespace(pid, "net"); ns != 0 && s.namespaces[ns] == 0 && len(s.namespaces) < maxNets {
				s.namespaces[ns] = pid
			}
		}
	}
	return func(yield func(*sockets) bool) {
		for _, ns := range slices.Sorted(maps.Keys(s.namespaces)) {
			if time.Now().After(s.deadline) {
				return
			}
			if t := s.socketsIn(ns, s.namespaces[ns]); t != but && !yield(t) {
				return
			}
		}
	}
}

// reader reads the memory of one process at a time.
type reader struct {
	v   *procview.View
	pid event.PID
	m   *memory.Process
}

func (r *reader) close() {
	_ = r.m.Close()
	r.m, r.pid = nil, 0
}

// of gives the memory of a process.
func (r *reader) of(pid event.PID) memory.Reader {
	if r.pid != pid {
		r.close()
		r.pid = pid
		if maps, err := r.v.Maps(pid); err == nil {
			if m, err := memory.Open(r.v, pid, maps); err == nil {
				r.m = m
			}
		}
	}
	if r.m == nil {
		return nothing{}
	}
	return r.m
}

// nothing is memory that may not be read.
type nothing struct{}

func (nothing) ReadMemory([]byte, uint64) (int, error) { return 0, os.ErrPermission }

// read gives n bytes of a process's memory; nil if they are not all there.
func (r *reader) read(pid event.PID, addr uint64, n int) []byte {
	if addr == 0 || n <= 0 {
		return nil
	}
	b, err := memory.Bytes(r.of(pid), addr, n)
	if err != nil {
		return nil
	}
	return b
}
