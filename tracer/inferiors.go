package tracer

import (
	"path"
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

	searched bool
	known    bool
	pids     []event.PID
	// called are the threads that the debugger's ptrace(2) calls were about,
	// each with its process, 0 before that was looked up.
	called map[event.TID]event.PID
	// served are traced by a server of the debugger; they are searched for again
	// from that time on, for absolute names (true) and others.
	served     []event.PID
	serveAgain map[bool]event.Micros
	// maps are the loaded objects of inferiors, as of the last ptrace(2) call
	// and, where the debugger makes none, of mapsAt.
	maps   map[event.PID][]event.LinkMap
	mapsAt event.Micros
	// recent is the inferior whose memory the debugger read last: of two that
	// have a library of the same name, it is the one that is meant.
	recent event.PID
	// viaSelf are the threads that have read the link /proc/self as a step of
	// resolving a name, and since then only other links. The names that they
	// read meanwhile come from that one.
	viaSelf map[event.TID]bool
	// told are the inferiors and the list entries that were emitted.
	toldPID map[event.PID]bool
	toldMap map[entry]bool
}

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
	if !slices.Contains(in.pids, pid) && (asked.Kind != decode.Absolute || in.now() > in.mapsAt+lookAgain) {
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
	if ev.Target == nil || ev.Target.Kind != event.Procfs {
		return
	}
	if name := decode.ClassifyName(string(ev.Target.Link)); name.Kind == decode.PIDPath {
		in.recent = name.PID
	}
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

// sawPath notes how far a thread is in resolving a name link by link, as
// realpath(3) does.
func (in *inferiors) sawPath(ev *event.Syscall) {
	switch {
	case ev.Name != "readlink" && ev.Name != "readlinkat":
		delete(in.viaSelf, ev.TID)
	case ev.Path == "/proc/self" || ev.Path == "/proc/thread-self":
		in.viaSelf[ev.TID] = true
	}
}

// means says whether the debugger means the library name by the name of a call:
// it is that name, or another spelling of the same descriptor of the debugger,
// or the name made absolute from the debugger's directory. A name with the
// debugger's own pid is the library's only if it was made from /proc/self just
// now: else the debugger asks for a descriptor of its own.
func (in *inferiors) means(ev *event.Syscall, asked decode.Name, library event.Text) bool {
	if library == "" {
		return false
	}
	if ev.Path == library {
		return true
	}
	if asked.Kind == decode.Absolute && library[0] == '/' {
		return false // most names: no need to look closer
	}
	loaded := decode.ClassifyName(string(library))
	if asked.Derived || loaded.Derived || asked.Root != loaded.Root {
		return false
	}
	own := in.viaSelf[ev.TID] && asked.PID == in.debugger
	switch loaded.Kind {
	case decode.SelfFD:
		return (asked.Kind == decode.SelfFD || asked.Kind == decode.PIDFD && own) && asked.FD == loaded.FD && asked.Rest == loaded.Rest
	case decode.SelfLink:
		return (asked.Kind == decode.SelfLink || asked.Kind == decode.PIDPath && own) && asked.Link == loaded.Link
	case decode.Relative:
		if asked.Kind != decode.Absolute || path.Base(string(ev.Path)) != path.Base(string(library)) {
			return false
		}
		proc, err := in.view.Process(in.debugger)
		return err == nil && path.Clean(string(ev.Path)) == path.Join(string(proc.Cwd), string(library))
	}
	return false
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
	if traced := in.traced(); len(traced) > 0 {
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
		if name.Kind == decode.SelfFD {
			c.FD = event.Some(name.FD)
		}
		cs = append(cs, c)
	}
	return cs
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
	for _, pid := range in.current(asked) {
		for _, lm := range in.loaded(pid, asked) {
			if lm.Name != ev.Path || lm.Mapped == nil ||
				ev.Target != nil && (ev.Target.Same(inferior.Identity(&lm)) || ev.Target.Same(*lm.Mapped)) {
				continue
			}
			in.tell(&lm)
		}
	}
}

// tell emits a list entry, and before it its process, once each.
func (in *inferiors) tell(lm *event.LinkMap) {
	if !in.toldPID[lm.PID] {
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

func (in *inferiors) tellProcess(pid event.PID) {
	inf, err := inferior.Describe(in.view, pid)
	if err != nil {
		return // it has ended
	}
	inf.T = in.now()
	in.emit(&inf)
}

// rightFile gives a path by which the debugger reaches the file that an
// inferior has mapped under the name of a call, where the name leads the
// debugger elsewhere because it is the debugger that resolves it. It is false
// for every name that no inferior has loaded, and for a file that was replaced:
// its name leads the inferior elsewhere just the same.
func (in *inferiors) rightFile(tid event.TID, ev *event.Syscall) (name string, target event.Target, ok bool) {
	in.sawPath(ev)
	if ev.DirFD.Known && (ev.Path == "" || ev.Path[0] != '/') {
		return "", event.Target{}, false // below a directory of the debugger's choice
	}
	asked := decode.ClassifyName(string(ev.Path))
	if asked.Unmappable() {
		return "", event.Target{}, false
	}
	for _, pid := range in.byRecency(asked) {
		for _, lm := range in.loaded(pid, asked) {
			if lm.Mapped == nil || !in.means(ev, asked, lm.Name) {
				continue
			}
			want := inferior.Identity(&lm)
			here := in.view.Resolve(in.debugger, tid, string(ev.Path))
			if here.Same(want) || here.Same(*lm.Mapped) {
				return "", event.Target{}, false // right as it is
			}
			if decode.ClassifyName(string(lm.Name)).Kind == decode.Absolute &&
				!in.view.Resolve(pid, event.TID(pid), string(lm.Name)).Same(want) {
				continue
			}
			inferior.Complete(in.view, &lm, in.debugger)
			for _, path := range inferior.DebuggerPaths(in.view, &lm, in.debugger, tid) {
				if in.mayOpen(string(path)) {
					return string(path), in.view.Resolve(in.debugger, tid, string(path)), true
				}
			}
		}
	}
	return "", event.Target{}, false
}

// mayOpen says whether the debugger itself, and not only we, may open a path by
// which an inferior's file is reached.
func (in *inferiors) mayOpen(path string) bool {
	if !strings.Contains(path, "/map_files/") {
		return true // it traces the inferior, and so may open its descriptors
	}
	proc, err := in.view.Process(in.debugger)
	return err == nil && proc.MapFiles.Is(true)
}
