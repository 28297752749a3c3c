package tracer

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/ebpf"
	"whosefd/tracer/event"
	"whosefd/tracer/inferior"
	"whosefd/tracer/inject"
	"whosefd/tracer/ptrace"
)

// dependentNames are the beginnings of names that depend on who resolves them, but
// for relative ones, or may do so by an unusual spelling.
var dependentNames = []string{"/proc/self", "/proc/thread-self", "/dev/fd", "/dev/std",
	"//", "/./", "/../", "/proc//", "/proc/.", "/dev//", "/dev/."}

// summonedGuard is a guard whose threads run freely. Programs in the kernel make
// a thread stop behind a call whose name may belong to an inferior, before it runs
// on; there the call is undone and made again, and that one the guard leads.
type summonedGuard struct {
	*guard
	engine  *ebpf.Engine
	records *stopless // nil: only what is looked at is told
	// mu is held while the recorder is used: the records are taken on another
	// goroutine, those from before a stop at that stop.
	mu      sync.Mutex
	done    chan struct{}
	reader  sync.WaitGroup
	failure error // of the reader
	// awaited are the signals of the programs that are still to come, of threads
	// whose stop for another one was used.
	awaited map[event.TID]unix.Signal
	names   map[string]bool // beginnings that were added
	// right are libraries whose names lead the debugger to the same file; lists are those of
	// the inferiors whose names were added.
	right       map[rightName]bool
	lists       map[event.PID][]event.LinkMap
	known       bool                 // all names that count are added
	changes     uint64               // that were dealt with, of [ebpf.Summons]
	others      map[event.TID]uint32 // calls with names that each thread had made then
	foreignTold bool
	told        uint64 // calls at which no thread could be stopped, as far as said
}

// rightName is a library's name, and the file that it leads to.
type rightName struct {
	name     event.Text
	dev, ino uint64
}

func newSummonedGuard(g *guard, engine *ebpf.Engine) *summonedGuard {
	s := &summonedGuard{guard: g, engine: engine, done: make(chan struct{}), awaited: map[event.TID]unix.Signal{}, names: map[string]bool{},
		right: map[rightName]bool{}, lists: map[event.PID][]event.LinkMap{}, others: map[event.TID]uint32{}, changes: ^uint64(0)}
	s.fds.off = true // not each close is seen
	return s
}

// begin makes the programs look at the debugger, before it is let go; end ends
// that. Stop ends the loop.
func (s *summonedGuard) begin(recorded bool, stop func()) error {
	// Other names than these are added when an inferior is met for whom they
	// lead elsewhere.
	beginnings := append(slices.Clone(dependentNames), "/proc/"+strconv.Itoa(int(s.debugger))+"/")
	for _, chosen := range s.inferiors.cores.standIns {
		beginnings = append(beginnings, string(chosen.Name)+"\x00")
	}
	for _, beginning := range beginnings {
		if err := s.addName(beginning); err != nil {
			return err
		}
	}
	if recorded {
		s.records = newStopless(s.recorder, s.engine)
	}
	if err := s.engine.Guard(s.debugger, recorded); err != nil {
		return err
	}
	s.reader.Go(func() {
		tick := time.NewTicker(pollEvery)
		defer tick.Stop()
		for {
			select {
			case <-s.done:
				return
			case <-tick.C:
			}
			if s.failure = s.look(); s.failure != nil {
				stop()
				return
			}
		}
	})
	return nil
}

func (s *summonedGuard) end() error {
	s.tellForeign()
	s.engine.Unwatch(s.debugger)
	for name := range s.names {
		s.engine.RemoveName(s.debugger, name)
	}
	close(s.done)
	s.reader.Wait()
	if s.failure != nil {
		return s.failure
	}
	return s.look()
}

// maxNames bounds the names of one debugger.
const maxNames = 1 << 12

// addName makes the debugger stop behind calls with names that begin so.
func (s *summonedGuard) addName(beginning string) error {
	if s.names[beginning] {
		return nil
	}
	s.names[beginning] = true
	return s.engine.AddName(s.debugger, beginning)
}

// look tells what has happened since the last stop.
func (s *summonedGuard) look() (err error) {
	defer AsError(&err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catchUp()
	s.tellForeign()
	s.tellUnstoppable()
	return nil
}

// catchUp takes the records of what has happened up to now.
func (s *summonedGuard) catchUp() {
	if s.records != nil {
		s.records.drain()
		s.records.tellLost()
	}
}

// changed deals with what the debugger has done since its last stop: it may have other
// inferiors, and they other libraries. Until that is done the debugger stops behind
// each call with a name.
func (s *summonedGuard) changed(changes uint64) {
	if changes == s.changes {
		return
	}
	in := s.inferiors
	if changes>>ebpf.Brought != s.changes>>ebpf.Brought || len(in.pids) == 0 {
		in.searchAgain()
		clear(s.right)
		clear(s.lists)
	}
	in.known = false
	clear(in.maps)
	s.changes = changes
	all := decode.ClassifyName("/proc/self/fd/0")
	s.known = len(s.names) < maxNames
	for _, pid := range in.list(all) {
		s.known = s.nameLibraries(pid) && s.known && slices.Contains(in.pids, pid) && s.stopped(pid)
	}
	if s.known && len(in.pids) == 0 {
		s.known = in.named == nil && len(inferior.Servers(s.view, s.debugger)) == 0
	}
	if s.known {
		if err := s.engine.Looked(s.debugger, changes); err != nil {
			s.failed(err.Error())
		}
	}
}

// concerned says whether a name of a call may be one that was added, now that the latest
// ones are.
func (s *summonedGuard) concerned(tid event.TID, why ebpf.Summons) bool {
	row, ok := s.calls.Call(uint64(why.Nr))
	if !ok || row.PathArg() < 0 {
		return false
	}
	if !s.known {
		return true
	}
	name, cut := s.readPath(tid, why.Args[row.PathArg()])
	n := decode.ClassifyName(string(name))
	if cut || n.Kind == decode.PIDFD || decode.MapText(string(name)) {
		return true
	}
	for beginning := range s.names {
		if strings.HasPrefix(string(name)+"\x00", beginning) {
			return true
		}
	}
	return false
}

// stopped says whether the debugger keeps all threads of an inferior stopped: what it
// has loaded does not change then.
func (s *summonedGuard) stopped(pid event.PID) bool {
	tids, err := s.view.Threads(pid)
	if err != nil {
		return true // it has ended
	}
	for _, tid := range tids {
		if state, err := s.view.State(pid, tid); err == nil && state != "t" && state != "Z" && state != "X" {
			return false
		}
	}
	return true
}

// nameLibraries adds the names by which an inferior's libraries may be meant, but for
// those that lead the debugger to the same files. It is false where that is not known.
func (s *summonedGuard) nameLibraries(pid event.PID) bool {
	entries, err := inferior.Entries(s.view, pid)
	if err != nil && !errors.Is(err, inferior.ErrEarly) && !errors.Is(err, inferior.ErrStatic) {
		return false
	}
	same := func(a, b event.LinkMap) bool {
		return a.Addr == b.Addr && a.Name == b.Name && a.LoadAddr == b.LoadAddr && a.Dynamic == b.Dynamic
	}
	if list, ok := s.lists[pid]; ok && slices.EqualFunc(entries, list, same) {
		return true
	}
	debugger, err := s.view.Process(s.debugger)
	if err != nil {
		return true // it has ended
	}
	process, err := s.view.Process(pid)
	if err != nil {
		return true
	}
	add := func(name string) bool {
		err := s.addName(name)
		if err != nil {
			s.failed(err.Error())
		}
		return err == nil
	}
	root := s.view.Resolve(s.debugger, event.TID(s.debugger), "/")
	if process.Namespaces["mnt"] != debugger.Namespaces["mnt"] || process.Namespaces["pid"] != debugger.Namespaces["pid"] ||
		!root.Same(s.view.Resolve(pid, event.TID(pid), "/")) {
		// Any absolute name may be one of its libraries'; what a debugger looks at all the time is none.
		free := "/proc/" + strconv.Itoa(int(pid)) + "/task/"
		if !s.names[free] {
			s.names[free] = true
			if err := s.engine.FreeName(s.debugger, free); err != nil {
				s.failed(err.Error())
			}
		}
		return add("/")
	}
	s.lists[pid] = entries
	if len(entries) == 0 {
		return true
	}
	maps, err := inferior.LinkMaps(s.view, pid)
	if err != nil {
		delete(s.lists, pid)
		return false
	}
	s.inferiors.maps[pid] = maps
	for i := range maps {
		lm := &maps[i]
		if lm.Name == "" || lm.Mapped == nil {
			continue
		}
		switch n := decode.ClassifyName(string(lm.Name)); {
		case n.Kind == decode.Absolute:
			id := inferior.Identity(lm)
			key := rightName{lm.Name, id.Dev, id.Ino}
			if s.right[key] || s.names[string(lm.Name)+"\x00"] {
				continue
			}
			if s.view.Resolve(s.debugger, event.TID(s.debugger), string(lm.Name)).Same(id) {
				s.right[key] = true
				continue
			}
		case n.Kind == decode.Relative:
			// What the debugger makes of it.
			if !add(path.Join(string(debugger.Cwd), string(lm.Name))+"\x00") || !add(string(debugger.Cwd)+"/"+string(lm.Name)+"\x00") {
				return false
			}
		case n.Root != "" && !add(n.Root+"/"):
			return false
		}
		if !add(string(lm.Name) + "\x00") {
			return false
		}
	}
	return true
}

// summoned implements [ptrace.Loop.Summoned]. A signal from elsewhere may come
// first: the thread still stands behind its call then, and later no more.
func (s *summonedGuard) summoned(t *ptrace.Thread, sig unix.Signal) (ours, follow bool) {
	why, ok := s.engine.Summoned(t.TID)
	if !ok {
		ours = s.awaited[t.TID] == sig
		if ours {
			delete(s.awaited, t.TID)
		}
		return ours, false
	}
	if ours = sig == unix.Signal(why.Signal); !ours {
		s.awaited[t.TID] = unix.Signal(why.Signal)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catchUp()
	s.changed(why.Changes)
	if why.Recent != 0 {
		s.inferiors.recent = s.inferiors.processOf(event.TID(why.Recent))
	}
	if s.others[t.TID] != why.Others {
		// It has used another name since.
		delete(s.inferiors.via, t.TID)
		s.others[t.TID] = why.Others
	}
	if s.records == nil && !s.concerned(t.TID, why) {
		return ours, false
	}
	restarts := why.Ret < 0 && decode.Restarts(int(-why.Ret))
	t.Call = ptrace.Call{Nr: uint64(why.Nr), Args: why.Args}
	c := s.callOf(t)
	if s.records != nil {
		s.at = s.records.since(why.Entry)
		defer func() { s.at = event.Opt[event.Micros]{} }()
	}
	if !s.decodeEntry(t, c, t.Call.Nr, t.Call.Args) {
		return ours, false
	}
	if c.ev.Path != "" && !c.ev.PathTruncated && leadable(c.row, c.ev.Flags) {
		if _, _, lead := s.inferiors.rightFile(t.TID, &c.ev); lead {
			err := s.makeAgain(t, c, why.Ret)
			if err == nil {
				return ours, true
			}
			s.failed(fmt.Sprintf("%s of %s was not led to the right file: %v", c.ev.Name, c.ev.Path, err))
		}
	}
	if restarts {
		// It waits, in an open of a FIFO perhaps, and our signal has ended that;
		// the kernel makes it again, and must not be disturbed then.
		c.active = false
		return ours, s.engine.Lead(t.TID) == nil
	}
	if s.records != nil {
		s.at = s.records.since(why.Entry + why.Dur)
	}
	s.recorder.Exit(t, why.Ret, why.Ret < 0 && why.Ret >= -4095)
	return ours, false
}

// makeAgain undoes a call, and lets the thread make it once more.
func (s *summonedGuard) makeAgain(t *ptrace.Thread, c *call, ret int64) (err error) {
	if err := s.engine.Lead(t.TID); err != nil {
		return err
	}
	defer func() {
		c.active = false // the entry that follows tells of it
		if err != nil {
			s.engine.Led(t.TID)
		}
	}()
	th, err := inject.Behind(s.m, t.TID)
	if err != nil {
		return err
	}
	if c.row.MakesFD(t.Call.Args) && ret >= 0 {
		nr, _ := s.calls.Number("close")
		if _, err := th.Call(nr, uint64(ret)); err != nil {
			return errors.Join(fmt.Errorf("close descriptor %d: %w", ret, err), th.End())
		}
	}
	return th.Again(t.Call.Nr, t.Call.Args)
}

// Begin implements [ptrace.Handler].
func (s *summonedGuard) Begin(t *ptrace.Thread, in *ptrace.Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catchUp()
	s.guard.Begin(t, in)
	if s.records != nil {
		s.records.thread(t.PID, t.TID).Data = t.Data // what is pending is so for both
	}
}

// execed implements [ptrace.Loop.Execed].
func (s *summonedGuard) execed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.openMemory()
}

// Enter implements [ptrace.Handler].
func (s *summonedGuard) Enter(t *ptrace.Thread, arch uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.guard.Enter(t, arch)
}

// Exit implements [ptrace.Handler].
func (s *summonedGuard) Exit(t *ptrace.Thread, ret int64, failed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.engine.Led(t.TID)
	s.guard.Exit(t, ret, failed)
}

// Leave implements [ptrace.Handler].
func (s *summonedGuard) Leave(t *ptrace.Thread) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tellForeign()
	s.engine.Unwatch(s.debugger) // no signal for a thread that is let go
	s.engine.Led(t.TID)
	s.catchUp()
	s.guard.Leave(t)
}

// Gone implements [ptrace.Handler].
func (s *summonedGuard) Gone(t *ptrace.Thread) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.engine.Led(t.TID)
	delete(s.awaited, t.TID)
	delete(s.others, t.TID)
	s.catchUp()
	s.guard.Gone(t)
	if s.records != nil {
		delete(s.records.threads, t.TID)
	}
}

// tellForeign says, once, that there are calls that are not guarded.
func (s *summonedGuard) tellForeign() {
	if !s.foreignTold && s.engine.Foreign(s.debugger) {
		s.foreignTold = true
		s.sayForeign(event.TID(s.debugger))
		s.notGuarded(event.TID(s.debugger))
	}
}

// tellUnstoppable says that threads could not be stopped.
func (s *summonedGuard) tellUnstoppable() {
	if n := s.engine.Unstoppable(); n > s.told {
		s.failed(fmt.Sprintf("%d calls were not looked at: their threads block all signals that could stop them", n-s.told))
		s.told = n
	}
}
