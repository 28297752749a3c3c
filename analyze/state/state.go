// Package state is what is known after some events: it reduces them to processes,
// descriptor tables, lists of libraries, opens and who made them, calls that have
// not ended, and what was read of other processes' memory. It concludes nothing;
// the rules, the tables and the live rows ask it.
//
// Its memory is bounded. What falls out is counted.
package state

import (
	"cmp"
	"path"
	"slices"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// The bounds. MaxProcesses and MaxThreads hold for each collection.
const (
	MaxProcesses   = 1024
	MaxThreads     = 4096
	maxLinkMaps    = 1 << 14
	maxDescriptors = 1 << 16 // open ones, of all processes together
	maxFiles       = 1 << 14 // of inferiors
	maxOtherOpens  = 2048    // of names that mean the same to everybody, or are of no interest so far
	maxDependent   = 1024    // of context-dependent names
	maxStacks      = 64
	maxLost        = 32
)

// State is the reduction of the events so far. It keeps no reference to them. Its
// fields are there to be read; it is not safe for concurrent use.
type State struct {
	// Debugger is the process that is watched; its PID is 0 as long as none is
	// known. Source is that of the evidence, as in [event.Session].
	Debugger event.Process
	Source   string
	// Watched: a call of the debugger, or an inferior of it, was seen.
	Watched bool

	// Inferiors are by owner, as [event.Inferior.Owner] gives it.
	Inferiors map[event.PID]*event.Inferior
	// Blocked is what a thread was found doing, Pending the call from which it has
	// not come back.
	Blocked map[event.TID]*event.Blocked
	Pending map[event.TID]*event.Syscall
	Stacks  map[event.TID]Stack

	// Last is the time of the latest event, or the end of the latest call.
	Last  event.Micros
	Ended bool
	// Killed is the signal that ended the debugger; "a signal" where it is not known.
	Killed string
	Lost   []event.Lost
	// Dropped counts facts that were not kept for lack of room.
	Dropped int64
	// Refused counts descriptors for which there was no room.
	Refused int64

	// OnClose is told each descriptor that is closed.
	OnClose func(*Descriptor)

	maps    map[mapKey]*event.LinkMap
	byName  map[event.Text][]*event.LinkMap
	tables  map[event.PID]*Table[*Descriptor]
	open    int // descriptors
	listing listing
	relist  bool // the debugger's descriptors that come next replace its table
	foreign map[fileID]bool

	waits  []*event.Wait
	search *event.Search

	dependent, other openLog
	memory           memoryReads
}

// listing is how far a trace is with the descriptors that were there before.
type listing uint8

const (
	unlisted listing = iota
	going
	complete // whatever else appears was made later
)

type fileID struct{ dev, ino uint64 }

// mapKey is an entry of a link_map. The loader may free an entry and make
// another one at the same address: the later one counts.
type mapKey struct {
	owner event.PID
	addr  event.Hex
}

// Stack is the backtrace of one thread of the debugger, innermost frame first.
type Stack struct {
	TID       event.TID     `json:"tid"`
	Frames    []event.Frame `json:"frames"`
	Call      string        `json:"call,omitempty"`  // taken in this call, before the present one
	Error     string        `json:"error,omitempty"` // why it ends early
	StoppedUS int64         `json:"stopped_us,omitempty"`
}

// New gives the state before any event.
func New() *State {
	return &State{
		Inferiors: map[event.PID]*event.Inferior{}, Blocked: map[event.TID]*event.Blocked{}, Pending: map[event.TID]*event.Syscall{},
		Stacks: map[event.TID]Stack{}, maps: map[mapKey]*event.LinkMap{}, byName: map[event.Text][]*event.LinkMap{},
		tables: map[event.PID]*Table[*Descriptor]{}, foreign: map[fileID]bool{},
		dependent: openLog{limit: maxDependent}, other: openLog{limit: maxOtherOpens},
	}
}

// Add takes the next event.
func (s *State) Add(ev event.Event) {
	switch ev := ev.(type) {
	case *event.Session:
		s.Source = ev.Source
		if ev.Debugger != nil {
			s.Debugger = CloneProcess(*ev.Debugger)
		}
	case *event.Syscall:
		s.Last = max(s.Last, s.EndOf(ev))
		s.call(ev)
	case *event.Descriptor:
		s.listed(ev)
	case *event.Inferior:
		if room(s, s.Inferiors, ev.Owner(), MaxProcesses) {
			c := *ev
			c.Process = CloneProcess(ev.Process)
			s.Inferiors[ev.Owner()] = &c
			s.Watched = true
		}
	case *event.LinkMap:
		s.linkMap(ev)
	case *event.Blocked:
		if s.Debugger.PID == 0 {
			s.Debugger.PID = ev.PID
		}
		if room(s, s.Blocked, ev.TID, MaxThreads) {
			s.Blocked[ev.TID] = cloneBlocked(ev)
			s.relist = s.relist || ev.PID == s.Debugger.PID
		}
	case *event.Wait:
		s.wait(ev)
	case *event.Search:
		c := *ev
		c.Unseen, c.Notes = slices.Clone(ev.Unseen), slices.Clone(ev.Notes)
		s.search = &c
	case *event.Stack:
		if room(s, s.Stacks, ev.TID, maxStacks) {
			s.Stacks[ev.TID] = Stack{TID: ev.TID, Frames: slices.Clone(ev.Frames), Call: ev.Call, Error: ev.Error, StoppedUS: ev.StoppedUS}
		}
	case *event.Lost:
		same := func(l event.Lost) bool { return l.Count == ev.Count && l.Reason == ev.Reason }
		switch {
		case len(s.Lost) >= maxLost:
			s.Dropped++
		case !slices.ContainsFunc(s.Lost, same):
			s.Lost = append(s.Lost, *ev)
		}
	case *event.End:
		s.Last = max(s.Last, ev.T)
		s.Ended = ev.Exit.Known || ev.Reason == "killed"
		if s.Killed = ev.Signal; s.Ended && !ev.Exit.Known && s.Killed == "" {
			s.Killed = "a signal" // a log without its last line
		}
	}
}

// wait takes what a thread waits for. The records of one look follow each other; a
// later look replaces an earlier one.
func (s *State) wait(ev *event.Wait) {
	if s.search != nil {
		s.waits, s.search = nil, nil
	}
	if len(s.waits) >= MaxThreads {
		s.Dropped++
		return
	}
	c := *ev
	c.On = slices.Clone(ev.On)
	for i := range c.On {
		c.On[i].Target, c.On[i].Enders = CloneTarget(c.On[i].Target), slices.Clone(c.On[i].Enders)
	}
	s.waits = append(s.waits, &c)
}

// Waits gives what threads were found waiting for, in the order in which they were
// reached, and how far the search for enders went, nil where there was none.
func (s *State) Waits() ([]*event.Wait, *event.Search) { return s.waits, s.search }

// room says whether there is room for a key, and counts what has none.
func room[K comparable, V any](s *State, m map[K]V, key K, limit int) bool {
	if _, known := m[key]; known || len(m) < limit {
		return true
	}
	s.Dropped++
	return false
}

// call takes a system call.
func (s *State) call(ev *event.Syscall) {
	if s.Debugger.PID == 0 {
		s.Debugger.PID = ev.PID
	}
	if s.listing == going {
		s.listing = complete
	}
	for i := range ev.Counterpart {
		s.noteForeign(&ev.Counterpart[i].Target)
	}
	delete(s.Blocked, ev.TID) // it went on since
	if decode.RestartsNamed(ev.Errno) {
		// A signal interrupted it. What the program sees of that, if it lives, is another
		// call, or EINTR.
		c := *ev
		c.Unfinished, c.Errno, c.Ret = true, "", event.Opt[int64]{}
		ev = &c
	}
	if s.waits != nil {
		s.waits, s.search = nil, nil
	}
	before := s.Pending[ev.TID]
	completes := before != nil && Completes(before.Name, ev)
	if ev.Unfinished {
		if room(s, s.Pending, ev.TID, MaxThreads) {
			c := *ev
			c.Target, c.Data = CloneTarget(ev.Target), nil
			c.Counterpart = slices.Clone(ev.Counterpart)
			s.Pending[ev.TID] = &c
		}
	} else if before != nil {
		delete(s.Pending, ev.TID)
	}
	row, ok := decode.ByName(ev.Name)
	if !ok {
		row = &notDecoded
	}
	var opened *Open
	if ev.PID == s.Debugger.PID {
		s.Watched = true
		s.memory.add(ev)
		switch {
		case row.Change == decode.DropsOnExec && ev.Ret.Is(0) && ev.Path != "":
			s.becomes(string(ev.Path))
		case row.Class == decode.ClassOpen:
			opened = s.noteOpen(ev)
		case row.Class == decode.ClassStat && ev.Errno != "" && decode.MapText(string(ev.Path)):
			s.noteOpen(ev) // perf opens no file that is not there
		}
	}
	s.edit(ev, opened)
	if ev.FD.Known {
		s.use(ev, row, completes)
	}
}

// becomes takes that the debugger runs another program now (execve(2)), as a script
// does that ends with exec gdb.
func (s *State) becomes(program string) {
	comm, d := decode.Comm(program), &s.Debugger
	if d.Comm == comm {
		return // as the session said it, or anew
	}
	d.Comm, d.Exe, d.Cmdline, d.SIGINT = comm, "", nil, ""
	if path.IsAbs(program) {
		d.Exe = event.Text(program)
	}
}

var notDecoded decode.Call

// Completes says whether a call is the end of one of that name, which was
// reported unfinished.
func Completes(before string, ev *event.Syscall) bool {
	return !ev.Unfinished && ev.Resumed && before == ev.Name
}

// EndOf is when a call ended. A log may tell how long calls took (strace -T) and
// not when they were.
func (s *State) EndOf(ev *event.Syscall) event.Micros {
	if s.Source == "strace" && ev.T == 0 {
		return 0
	}
	return ev.T + event.Micros(ev.DurUS.Or(0))
}

// Untimed says that the evidence is a log without times.
func (s *State) Untimed() bool { return s.Source == "strace" && s.Last == 0 }

func (s *State) linkMap(ev *event.LinkMap) {
	key := mapKey{ev.Owner(), ev.Addr}
	if !room(s, s.maps, key, maxLinkMaps) {
		return
	}
	lm := *ev
	lm.Mapped, lm.MappedStat = CloneTarget(ev.Mapped), CloneTarget(ev.MappedStat)
	lm.Reachable, lm.Resolves = slices.Clone(ev.Reachable), slices.Clone(ev.Resolves)
	if old := s.maps[key]; old != nil {
		s.byName[old.Name] = slices.DeleteFunc(s.byName[old.Name], func(o *event.LinkMap) bool { return o == old })
		if len(s.byName[old.Name]) == 0 {
			delete(s.byName, old.Name)
		}
	}
	s.maps[key] = &lm
	s.byName[lm.Name] = append(s.byName[lm.Name], &lm)
	for _, t := range []*event.Target{lm.Mapped, lm.MappedStat} {
		if t != nil {
			s.noteForeign(t)
		}
	}
}

// LinkMaps gives the entries of all lists of libraries, in order.
func (s *State) LinkMaps() []*event.LinkMap {
	all := make([]*event.LinkMap, 0, len(s.maps))
	for _, lm := range s.maps {
		all = append(all, lm)
	}
	slices.SortFunc(all, func(x, y *event.LinkMap) int {
		return cmp.Or(cmp.Compare(x.Owner(), y.Owner()), x.Namespace-y.Namespace, x.Index-y.Index, cmp.Compare(x.Addr, y.Addr))
	})
	return all
}

// Named gives the entries that have a name.
func (s *State) Named(name event.Text) []*event.LinkMap { return s.byName[name] }

// ListKnown says whether an inferior's list of libraries is known.
func (s *State) ListKnown(owner event.PID) bool {
	if inf := s.Inferiors[owner]; inf == nil || inf.LinkMapError != "" || inf.Libraries == 0 {
		return false
	}
	for key := range s.maps {
		if key.owner == owner {
			return true
		}
	}
	return false
}

// InferiorPIDs are the inferiors, in order.
func (s *State) InferiorPIDs() []event.PID {
	pids := make([]event.PID, 0, len(s.Inferiors))
	for pid := range s.Inferiors {
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	return pids
}

// Threads gives what the debugger's threads are doing, in order; from calls that
// have not ended where nobody looked.
func (s *State) Threads() []*event.Blocked {
	var all []*event.Blocked
	again := map[event.TID]bool{}
	for tid, b := range s.Blocked {
		// The end of a trace interrupts a call, and the thread begins it again
		// by itself: a look at that moment finds it running.
		if again[tid] = b.Syscall == "" && s.Pending[tid] != nil; again[tid] {
			continue
		}
		if s.Debugger.PID == 0 || b.PID == s.Debugger.PID {
			all = append(all, b)
		}
	}
	for tid, ev := range s.Pending {
		if s.Blocked[tid] != nil && !again[tid] || s.Ended && s.Killed == "" {
			continue
		}
		b := &event.Blocked{T: ev.T, PID: ev.PID, TID: tid, Syscall: ev.Name, FD: ev.FD, Target: ev.Target, Path: ev.Path}
		if b.Target == nil && b.FD.Known {
			if d := s.Descriptor(ev.PID, b.FD.Val); d != nil && d.Known() {
				b.Target = CloneTarget(&d.Target)
			}
		}
		all = append(all, b)
	}
	slices.SortFunc(all, func(x, y *event.Blocked) int { return cmp.Compare(x.TID, y.TID) })
	return all
}

// Foreground gives the process, the debugger or an inferior, in whose process
// group the debugger's terminal has its foreground.
func (s *State) Foreground() (event.PID, bool) {
	if !s.Debugger.TTYPGRP.Known {
		return 0, false
	}
	fg := s.Debugger.TTYPGRP.Val
	for _, pid := range s.InferiorPIDs() {
		if inf := s.Inferiors[pid]; inf.PGRP.Is(fg) && !s.Debugger.PGRP.Is(fg) {
			return pid, true
		}
	}
	if s.Debugger.PGRP.Is(fg) {
		return s.Debugger.PID, true
	}
	return 0, false
}

// CloneTarget and CloneProcess copy what an event refers to.
func CloneTarget(t *event.Target) *event.Target {
	if t == nil {
		return nil
	}
	c := *t
	return &c
}

// CloneProcess copies a process with its command line.
func CloneProcess(p event.Process) event.Process {
	p.Cmdline = slices.Clone(p.Cmdline)
	return p
}

func cloneBlocked(b *event.Blocked) *event.Blocked {
	c := *b
	c.Args, c.Holders, c.Unseen = slices.Clone(b.Args), slices.Clone(b.Holders), slices.Clone(b.Unseen)
	c.Target = CloneTarget(b.Target)
	return &c
}
