package tracer

import (
	"fmt"
	"slices"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/inferior"
	"whosefd/tracer/procview"
)

// inferiors knows the processes that a debugger traces while it is watched.
// Looking through all of /proc for them is done once: from then on, each has
// been named in a ptrace(2) call of the debugger, and the list is made anew only
// after such a call.
type inferiors struct {
	view     *procview.View
	debugger event.PID
	// named are those that the user gave; then nobody is searched for. Started
	// is when each was first seen to have started: a number may be used again.
	named   []event.PID
	started map[event.PID]uint64
	now     func() event.Micros
	emit    func(event.Event)

	// unwatched: the debugger's ptrace(2) calls that let an inferior run are not
	// seen, and the debugger does not wait for us. Traces are those that it is known
	// to have traced at the time of the call that is told.
	unwatched bool
	traces    []event.PID
	late      map[event.PID]bool // those that had ended when they were to be looked at, as said

	searched bool
	known    bool
	pids     []event.PID
	// called are the threads that the debugger's ptrace(2) calls were about,
	// each with its process, 0 before that was looked up.
	called map[event.TID]event.PID
	// served are traced by a server of the debugger; they are searched for again
	// from that time on, for absolute names (true) and others.
	served     []event.PID
	server     func(inferior event.PID) // if set, it is told of one that is served
	serveAgain map[bool]event.Micros
	// maps are the loaded objects of inferiors, as of the last ptrace(2) call
	// and, where the debugger makes none, of mapsAt.
	maps   map[event.PID][]event.LinkMap
	mapsAt event.Micros
	// recent is the inferior whose memory the debugger read last: of two that
	// have a library of the same name, it is the one that is meant.
	recent event.PID
	// via is the link that a thread has read as the first step of resolving a name
	// (/proc/self, /proc/thread-self, /dev/fd), if it has only read other links since. The
	// names that it reads meanwhile come from a name that begins like that.
	via map[event.TID]string
	// kept are the files that names were led to, the latest last.
	kept []keptFile
	// told are the inferiors and the list entries that were emitted; early those of
	// the first that had no list yet then: they are emitted again.
	toldPID map[event.PID]bool
	early   map[event.PID]bool
	toldMap map[entry]bool
	cores   cores
	toldExe map[event.Text]bool
}

func newInferiors(v *procview.View, debugger event.PID, named []event.PID, now func() event.Micros, emit func(event.Event)) *inferiors {
	return &inferiors{view: v, debugger: debugger, named: named, started: map[event.PID]uint64{}, now: now, emit: emit,
		called: map[event.TID]event.PID{}, serveAgain: map[bool]event.Micros{}, maps: map[event.PID][]event.LinkMap{},
		via: map[event.TID]string{}, toldPID: map[event.PID]bool{}, early: map[event.PID]bool{}, toldMap: map[entry]bool{},
		toldExe: map[event.Text]bool{}, late: map[event.PID]bool{}, cores: cores{view: v, debugger: debugger, told: map[int]bool{}, complained: map[event.Text]bool{}}}
}

// searchAgain makes the next look search all of /proc: the debugger may have got
// an inferior, and its calls do not say which.
func (in *inferiors) searchAgain() { in.known, in.searched = false, false }

// entry is a link_map entry; a list entry may be freed and made anew at the
// same address for another library.
type entry struct {
	pid  event.PID
	addr event.Hex
	name event.Text
}

// forget makes the next look search again: the debugger makes a ptrace(2) call
// about a thread.
func (in *inferiors) forget(about event.TID) {
	in.known = false
	clear(in.maps)
	if _, ok := in.called[about]; !ok && about > 0 {
		in.called[about] = 0
	}
}

// lookAgain is for how long what was learned of an inferior holds that the
// debugger does not trace itself: none of its calls says that the inferior runs.
const lookAgain event.Micros = 20_000

// loaded gives the objects that an inferior has loaded now. It can change only
// while the inferior runs, and for that the debugger makes a ptrace(2) call, if
// it is the tracer. If not, the list is read again for every name that may be
// one of it.
func (in *inferiors) loaded(pid event.PID, asked decode.Name) []event.LinkMap {
	if (in.unwatched || !slices.Contains(in.pids, pid)) && (asked.Kind != decode.Absolute || in.now() > in.mapsAt+lookAgain) {
		clear(in.maps)
		in.mapsAt = in.now()
	}
	maps, ok := in.maps[pid]
	if !ok {
		maps, _ = inferior.LinkMaps(in.view, pid) // none, if they cannot be read
		in.maps[pid] = maps
	}
	return maps
}

// byRecency gives the inferiors, the one that was read last first.
func (in *inferiors) byRecency(asked decode.Name) []event.PID {
	pids := slices.Clone(in.current(asked))
	if i := slices.Index(pids, in.recent); i > 0 {
		pids[0], pids[i] = pids[i], pids[0]
	}
	return pids
}

// sawRead notes whose memory the debugger reads.
func (in *inferiors) sawRead(ev *event.Syscall) {
	if ev.OfPID != 0 {
		in.recent = ev.OfPID
		return
	}
	if ev.Target == nil || ev.Target.Kind != event.Procfs || !ofProcess(string(ev.Target.Link)) {
		return
	}
	if name := decode.ClassifyName(string(ev.Target.Link)); name.Kind == decode.PIDPath {
		in.recent = name.PID
	}
}

// ofProcess says whether a link leads below /proc/PID.
func ofProcess(link string) bool {
	return strings.HasPrefix(link, "/proc/") && len(link) > 6 && link[6] >= '1' && link[6] <= '9'
}

// processOf gives the process of a thread that the debugger names in a call; 0
// where it is not known.
func (in *inferiors) processOf(tid event.TID) event.PID {
	pid := event.PID(tid)
	if tid <= 0 || slices.Contains(in.pids, pid) || slices.Contains(in.named, pid) {
		return max(pid, 0)
	}
	if pid := in.called[tid]; pid != 0 {
		return pid
	}
	pid, err := in.view.TGID(tid)
	if err != nil {
		return 0
	}
	if _, ok := in.called[tid]; ok {
		in.called[tid] = pid
	}
	return pid
}

// list gives the inferiors of this moment.
func (in *inferiors) list(asked decode.Name) []event.PID {
	if in.named == nil && in.known && slices.ContainsFunc(in.pids, func(pid event.PID) bool { return !in.stillTraced(pid) }) {
		in.known = false // it has ended
	}
	return in.current(asked)
}

// current gives the inferiors as of the debugger's last ptrace(2) call: one
// that has ended since may be among them.
func (in *inferiors) current(asked decode.Name) []event.PID {
	if in.named != nil {
		return slices.DeleteFunc(slices.Clone(in.named), in.isAnother)
	}
	traced := in.traced()
	for _, pid := range in.traces {
		if !slices.Contains(traced, pid) {
			traced = append(slices.Clone(traced), pid)
		}
	}
	if len(traced) > 0 {
		return traced
	}
	in.serve(asked)
	return in.served
}

// any says whether there is an inferior, as far as is known without a search.
func (in *inferiors) any() bool {
	return len(in.named) > 0 || len(in.served) > 0 || len(in.traced()) > 0
}

// isAnother says whether a process that the user named has ended, and another
// one has its number.
func (in *inferiors) isAnother(pid event.PID) bool {
	now, err := in.view.StartTime(event.TID(pid))
	if err != nil {
		return false // it has just ended: what it had may still be told
	}
	first, ok := in.started[pid]
	if !ok {
		in.started[pid] = now
	}
	return ok && now != first
}

// serve searches again for the inferiors that a server traces, for the sake of a
// name. A name that means a descriptor of whoever opens it is worth it each
// time, and is rare; for others it may take a part of the time only.
func (in *inferiors) serve(asked decode.Name) {
	begin := in.now()
	switch asked.Kind {
	case decode.SelfFD, decode.SelfLink:
	default:
		if begin < in.serveAgain[asked.Kind == decode.Absolute] {
			return
		}
	}
	in.served = inferior.Served(in.view, in.debugger)
	if len(in.served) > 0 && in.server != nil {
		in.server(in.served[0])
	}
	end := in.now()
	in.serveAgain[false] = end + 4*(end-begin)
	in.serveAgain[true] = end + max(lookAgain, 50*(end-begin))
}

// traced gives those that the debugger traces itself.
func (in *inferiors) traced() []event.PID {
	if in.known {
		return in.pids
	}
	in.known = true
	if !in.searched {
		in.searched = true
		// A process that could not be looked at is no inferior that we could
		// say anything of.
		in.pids, _ = in.view.Tracees(in.debugger)
		for _, pid := range in.pids {
			in.called[event.TID(pid)] = pid
		}
		return in.pids
	}
	in.pids = nil
	for tid, pid := range in.called {
		if pid == 0 {
			var err error
			if pid, err = in.view.TGID(tid); err != nil {
				delete(in.called, tid)
				continue
			}
			in.called[tid] = pid
		}
		switch {
		case slices.Contains(in.pids, pid):
		case in.stillTraced(pid) || event.TID(pid) != tid && in.stillTraced(event.PID(tid)):
			in.pids = append(in.pids, pid)
		default:
			delete(in.called, tid)
		}
	}
	slices.Sort(in.pids)
	return in.pids
}

// stillTraced says whether the debugger traces a thread, given by its id or, for
// the main one, its process's.
func (in *inferiors) stillTraced(pid event.PID) bool {
	tracer, err := in.view.TracerOf(pid)
	if err != nil || tracer == 0 {
		return false
	}
	if tracer == event.TID(in.debugger) {
		return true
	}
	tgid, err := in.view.TGID(tracer)
	return err == nil && tgid == in.debugger
}

// counterparts says what a name leads to in each inferior, if that depends on
// who resolves it.
func (in *inferiors) counterparts(ev *event.Syscall) []event.Counterpart {
	name := decode.ClassifyName(string(ev.Path))
	switch {
	case name.Kind == decode.Empty, name.Kind == decode.Absolute, name.Derived:
		return nil
	case name.Kind == decode.PIDPath && name.Unmappable():
		return nil // a debugger asks for its inferior's at every step
	case name.Kind == decode.Relative && ev.DirFD.Known:
		return nil // the descriptor says where, and it is the debugger's own
	}
	var cs []event.Counterpart
	for _, pid := range in.list(name) {
		c := event.Counterpart{PID: pid, Target: in.view.Resolve(pid, event.TID(pid), string(ev.Path))}
		if in.tooLate(pid) {
			continue // nothing leads anywhere any more
		}
		if name.Kind == decode.SelfFD {
			c.FD = event.Some(name.FD)
		}
		cs = append(cs, c)
	}
	return cs
}

// tooLate says whether an inferior has ended while its debugger went on, and emits that
// once.
func (in *inferiors) tooLate(pid event.PID) bool {
	if !in.unwatched {
		return false
	}
	if state, err := in.view.State(pid, in.view.Living(pid)); err == nil && state != "Z" && state != "X" {
		return false
	}
	if !in.late[pid] {
		in.late[pid] = true
		in.emit(&event.Lost{T: in.now(), Reason: fmt.Sprintf("pid %d had ended before it was looked at: what names mean to it was not seen", pid)})
	}
	return true
}

// describe emits the inferiors and their list entries that bear the name of a
// call whose counterpart is another file than it reached, once each.
func (in *inferiors) describe(ev *event.Syscall) {
	for _, c := range ev.Counterpart {
		if ev.Target != nil && ev.Target.Same(c.Target) {
			continue
		}
		if !in.toldPID[c.PID] {
			in.toldPID[c.PID] = true
			in.tellProcess(c.PID)
		}
		maps, err := inferior.LinkMaps(in.view, c.PID)
		if err != nil {
			continue // said by tellProcess
		}
		for i := range maps {
			if maps[i].Name == ev.Path {
				in.tell(&maps[i])
			}
		}
	}
}

// describeOpened emits the list entry of which the debugger has just opened the
// name, or has failed to, and has not got the file that is mapped: later, the
// inferior may be gone.
func (in *inferiors) describeOpened(ev *event.Syscall) {
	if ev.Path == "" {
		return
	}
	asked := decode.ClassifyName(string(ev.Path))
	if asked.Unmappable() {
		return // a debugger opens its inferior's at every step
	}
	in.describeOfCore(ev)
	for _, pid := range in.current(asked) {
		text := decode.MapText(string(ev.Path)) // the kernel's for a program, or a mapping
		if text {
			in.tellProgram(pid, ev.Path)
		}
		maps := in.loaded(pid, asked)
		if len(maps) == 0 && in.tooLate(pid) {
			continue
		}
		if len(maps) > 0 && in.early[pid] {
			in.tellProcess(pid)
		}
		for _, lm := range maps {
			if lm.Mapped == nil || lm.Name != ev.Path && !(text && lm.Mapped.Link == ev.Path) ||
				ev.Target != nil && (ev.Target.Same(inferior.Identity(&lm)) || ev.Target.Same(*lm.Mapped)) {
				continue
			}
			in.tell(&lm)
		}
	}
}

// describeShutOut emits the whole list of an inferior in whose mount namespace the debugger opens
// files, and which it may not enter: those opens, by a copy of the debugger, are not seen. What is seen is
// that it asks which namespace that is.
func (in *inferiors) describeShutOut(ev *event.Syscall) {
	name := decode.ClassifyName(string(ev.Path))
	if name.Kind != decode.PIDPath || name.Link != "ns/mnt" || name.PID == in.debugger || !slices.Contains(in.current(name), name.PID) {
		return
	}
	me, err := in.view.Process(in.debugger)
	if err != nil || !me.SetNS.Is(false) || in.view.Namespace(name.PID, "mnt") == me.Namespaces["mnt"] {
		return
	}
	for _, lm := range in.loaded(name.PID, name) {
		if lm.Name != "" && lm.Mapped != nil {
			in.tell(&lm)
		}
	}
}

// tell emits a list entry, and before it its process, once each.
func (in *inferiors) tell(lm *event.LinkMap) {
	if !in.toldPID[lm.PID] || in.early[lm.PID] {
		in.toldPID[lm.PID] = true
		in.tellProcess(lm.PID)
	}
	key := entry{lm.PID, lm.Addr, lm.Name}
	if in.toldMap[key] {
		return
	}
	in.toldMap[key] = true
	told := *lm
	inferior.Complete(in.view, &told, in.debugger)
	told.T = in.now()
	in.emit(&told)
}

// tellProgram emits a process of whose program the kernel tells this text.
func (in *inferiors) tellProgram(pid event.PID, text event.Text) {
	if proc, err := in.view.Process(pid); err == nil && proc.Exe == text && !in.toldExe[text] {
		in.toldExe[text] = true
		in.tellProcess(pid)
	}
}

func (in *inferiors) tellProcess(pid event.PID) {
	inf, err := inferior.Describe(in.view, pid)
	if err != nil {
		return // it has ended
	}
	in.early[pid] = inf.Libraries == 0 && inf.LinkMapError != "" && !inf.Static
	inf.T = in.now()
	inferior.CompleteProgram(in.view, &inf, in.debugger)
	in.emit(&inf)
}
