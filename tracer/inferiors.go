package tracer

import (
	"path"
	"slices"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/inferior"
	"whosefd/tracer/procview"
)

// inferiors knows the processes that a debugger traces while it is watched.
// The list is made anew only when the debugger has made a ptrace(2) call since,
// since looking through all of /proc for every open would be slow.
type inferiors struct {
	view     *procview.View
	debugger event.PID
	// named are those that the user gave; then nobody is searched for.
	named []event.PID
	now   func() event.Micros
	emit  func(event.Event)

	known bool
	pids  []event.PID
	// maps are the loaded objects of inferiors, as of the last ptrace(2) call.
	maps map[event.PID][]event.LinkMap
	// recent is the inferior whose memory the debugger read last: of two that
	// have a library of the same name, it is the one that is meant.
	recent event.PID
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

// forget makes the next look search again.
func (in *inferiors) forget() {
	in.known = false
	clear(in.maps)
}

// loaded gives the objects that an inferior has loaded now. It can change only
// while the inferior runs, and for that the debugger makes a ptrace(2) call.
func (in *inferiors) loaded(pid event.PID) []event.LinkMap {
	maps, ok := in.maps[pid]
	if !ok {
		maps, _ = inferior.LinkMaps(in.view, pid) // none, if they cannot be read
		in.maps[pid] = maps
	}
	return maps
}

// byRecency gives the inferiors, the one that was read last first.
func (in *inferiors) byRecency() []event.PID {
	pids := slices.Clone(in.list())
	if i := slices.Index(pids, in.recent); i > 0 {
		pids[0], pids[i] = pids[i], pids[0]
	}
	return pids
}

// sawRead notes whose memory the debugger reads.
func (in *inferiors) sawRead(ev *event.Syscall) {
	if ev.Target == nil || ev.Target.Kind != event.Procfs {
		return
	}
	if name := decode.ClassifyName(string(ev.Target.Link)); name.Kind == decode.PIDPath {
		in.recent = name.PID
	}
}

// means says whether the debugger means the library name by the name of a call:
// it is that name, or the same descriptor of the debugger by another spelling,
// or the name made absolute from the debugger's directory.
func (in *inferiors) means(ev *event.Syscall, library event.Text) bool {
	if library == "" {
		return false
	}
	if ev.Path == library {
		return true
	}
	asked, loaded := decode.ClassifyName(string(ev.Path)), decode.ClassifyName(string(library))
	if asked.Derived || loaded.Derived {
		return false
	}
	switch loaded.Kind {
	case decode.SelfFD:
		return asked.Kind == decode.SelfFD && asked.FD == loaded.FD ||
			asked.Kind == decode.PIDFD && asked.PID == in.debugger && asked.FD == loaded.FD
	case decode.Relative:
		proc, err := in.view.Process(in.debugger)
		return err == nil && asked.Kind == decode.Absolute && path.Clean(string(ev.Path)) == path.Join(string(proc.Cwd), string(library))
	}
	return false
}

// list gives the inferiors of this moment.
func (in *inferiors) list() []event.PID {
	if in.named != nil {
		return in.named
	}
	if in.known && !slices.ContainsFunc(in.pids, func(pid event.PID) bool { return !in.stillTraced(pid) }) {
		return in.pids
	}
	// A process that could not be looked at is no inferior that we could say
	// anything of.
	in.pids, _ = in.view.Tracees(in.debugger)
	in.known = true
	return in.pids
}

func (in *inferiors) stillTraced(pid event.PID) bool {
	tracer, err := in.view.TracerOf(pid)
	if err != nil || tracer == 0 {
		return false
	}
	tgid, err := in.view.TGID(tracer)
	return err == nil && tgid == in.debugger
}

// counterparts says what a name leads to in each inferior, if that depends on
// who resolves it.
func (in *inferiors) counterparts(_ event.TID, ev *event.Syscall) []event.Counterpart {
	name := decode.ClassifyName(string(ev.Path))
	switch {
	case name.Kind == decode.Empty, name.Kind == decode.Absolute, name.Derived:
		return nil
	case name.Kind == decode.Relative && ev.DirFD.Known:
		return nil // the descriptor says where, and it is the debugger's own
	}
	var cs []event.Counterpart
	for _, pid := range in.list() {
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
			lm := &maps[i]
			key := entry{lm.PID, lm.Addr, lm.Name}
			if lm.Name != ev.Path || in.toldMap[key] {
				continue
			}
			in.toldMap[key] = true
			inferior.Complete(in.view, lm, in.debugger)
			lm.T = in.now()
			in.emit(lm)
		}
	}
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
// debugger elsewhere. It is false for every name that no inferior has loaded.
func (in *inferiors) rightFile(tid event.TID, ev *event.Syscall) (name string, target event.Target, ok bool) {
	for _, pid := range in.byRecency() {
		for _, lm := range in.loaded(pid) {
			if !in.means(ev, lm.Name) || lm.Mapped == nil {
				continue
			}
			inferior.Complete(in.view, &lm, in.debugger)
			want := mappedFile(&lm)
			here := in.view.Resolve(in.debugger, tid, string(ev.Path))
			if here.Same(want) || here.Same(*lm.Mapped) {
				return "", event.Target{}, false // right as it is
			}
			for _, candidate := range lm.Reachable {
				if got := in.view.Resolve(in.debugger, tid, string(candidate)); got.Same(want) {
					return string(candidate), got, true
				}
			}
		}
	}
	return "", event.Target{}, false
}

// mappedFile is the identity of the mapped file as stat(2) would have it.
func mappedFile(lm *event.LinkMap) event.Target {
	if lm.MappedStat != nil {
		return *lm.MappedStat
	}
	return *lm.Mapped
}
