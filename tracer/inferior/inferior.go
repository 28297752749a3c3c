package inferior

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// Find gives the processes that a debugger traces, of all that are traced.
func Find(v *procview.View, debugger event.PID, all procview.Tracing) ([]event.Inferior, error) {
	own, err := v.Threads(debugger)
	if err != nil {
		return nil, err
	}
	pids := all.By(own)
	if len(pids) == 0 {
		pids = Served(v, debugger)
	}
	var found []event.Inferior
	for _, pid := range pids {
		if inf, err := Describe(v, pid); err == nil {
			found = append(found, inf)
		}
	}
	return found, nil
}

// Describe says what a process is, how many objects it has loaded, and why the
// list of them cannot be read, or not to its end. It fails only if the process
// is gone.
func Describe(v *procview.View, pid event.PID) (inf event.Inferior, err error) {
	// Of a process that runs another program meanwhile, as the shell does by which gdb
	// starts its inferior, one half would be of the one and one of the other.
	for range 4 {
		if inf, err = describe(v, pid); err != nil || inf.ExeTarget == nil || inf.ExeTarget.Link == inf.Exe {
			return inf, err
		}
	}
	inf.ExeTarget = nil
	return inf, nil
}

func describe(v *procview.View, pid event.PID) (event.Inferior, error) {
	proc, err := v.Process(pid)
	if err != nil {
		return event.Inferior{}, fmt.Errorf("look at pid %d: %w", pid, err)
	}
	inf := event.Inferior{Process: proc}
	inf.TracerTID = tracer(v, pid)
	if exe, err := v.Exe(pid); err == nil {
		inf.ExeTarget = &exe
	}
	if tid := v.Living(pid); tid != event.TID(pid) {
		inf.LivingTID = tid
	}
	entries, _, err := list(v, pid)
	inf.Libraries = len(entries)
	if err != nil {
		inf.LinkMapError = err.Error()
		inf.Static, inf.Early = errors.Is(err, ErrStatic), errors.Is(err, ErrEarly)
	}
	return inf, nil
}

// CompleteProgram fills in what the text of /proc/PID/exe leads to in the debugger and in
// the inferior.
func CompleteProgram(v *procview.View, inf *event.Inferior, debugger event.PID) {
	if inf.ExeTarget == nil || inf.Exe == "" || inf.PID == 0 {
		return
	}
	inf.ExeResolves = nil
	for _, pid := range []event.PID{debugger, inf.PID} {
		inf.ExeResolves = append(inf.ExeResolves, resolution(v, pid, inf.Exe))
	}
}

// resolution is what a name leads to when a process resolves it.
func resolution(v *procview.View, pid event.PID, name event.Text) event.Resolution {
	r := event.Resolution{PID: pid}
	var through string
	r.Target, through = v.ResolveThrough(pid, v.Living(pid), string(name))
	if through != "" && decode.ClassifyName(through).Kind != decode.ClassifyName(string(name)).Kind {
		r.Through = event.Text(through)
	}
	return r
}

// tracer gives the thread that traces a process, or the first of its threads
// that is traced; 0 if none is.
func tracer(v *procview.View, pid event.PID) event.TID {
	if tid, err := v.TracerOf(pid); err == nil && tid != 0 {
		return tid
	}
	tids, _ := v.Threads(pid) // none, if it has ended
	for _, tid := range tids {
		if st, err := v.Status(pid, tid); err == nil && st.TracerPid != 0 {
			return st.TracerPid
		}
	}
	return 0
}

// Complete fills in what the name of an object leads to in the debugger (0 for
// none) and in the inferior, and under which paths the mapped file can be opened
// now, each checked to be that very file.
func Complete(v *procview.View, lm *event.LinkMap, debugger event.PID) {
	if lm.Name == "" || lm.Mapped == nil {
		return // the program itself, or the vdso, which has no file
	}
	lm.Resolves, lm.DebuggerPath = nil, event.Opt[event.Text]{}
	for _, pid := range []event.PID{debugger, lm.PID} {
		if pid != 0 {
			lm.Resolves = append(lm.Resolves, resolution(v, pid, lm.Name))
		}
	}
	lm.Reachable = reachable(v, lm)
	if debugger == 0 || len(lm.Reachable) == 0 || isMapped(lm, lm.Resolves[0].Target) {
		return
	}
	switch paths := DebuggerPaths(v, lm, debugger, event.TID(debugger)); {
	case len(paths) == 0:
		lm.DebuggerPath = event.Some[event.Text]("")
	case paths[0] != lm.Reachable[0]:
		lm.DebuggerPath = event.Some(paths[0])
	}
}

// DebuggerPaths gives those of lm.Reachable that a thread of the debugger
// reaches, each checked there, as the debugger has to write them: in another pid
// namespace the inferior has another number.
func DebuggerPaths(v *procview.View, lm *event.LinkMap, debugger event.PID, tid event.TID) []event.Text {
	ids := []int{int(lm.PID)}
	living := v.Living(lm.PID)
	ids[0] = int(living)
	if st, err := v.Status(lm.PID, living); err == nil && len(st.NSpid) > 0 {
		ids = st.NSpid
	}
	var paths []event.Text
	for _, path := range lm.Reachable {
		inside, ok := strings.CutPrefix(string(path), v.Folder(lm.PID)+"/")
		if !ok {
			continue
		}
		for _, id := range ids {
			there := "/proc/" + strconv.Itoa(id) + "/" + inside
			if isMapped(lm, v.Resolve(debugger, tid, there)) {
				paths = append(paths, event.Text(there))
				break
			}
		}
	}
	return paths
}

// reachable tries, in this order: the descriptor that the name tells of; the
// path of the mapping below the inferior's root; if neither is the file, every
// descriptor of the inferior; and the mapping itself, for which the kernel asks
// for a capability.
func reachable(v *procview.View, lm *event.LinkMap) []event.Text {
	var paths []event.Text
	add := func(path string, t event.Target) {
		if isMapped(lm, t) && !slices.Contains(paths, event.Text(path)) {
			paths = append(paths, event.Text(path))
		}
	}
	dir := v.Folder(lm.PID)
	fdPath := func(fd event.FD) string { return dir + "/fd/" + strconv.Itoa(int(fd)) }
	if name := decode.ClassifyName(string(lm.Name)); (name.Kind == decode.SelfFD || name.Kind == decode.PIDFD) && !name.Derived {
		add(fdPath(name.FD), v.Target(lm.PID, name.FD))
	}
	if inside, ok := insideRoot(v, lm); ok {
		add(dir+"/root"+inside, v.Resolve(lm.PID, event.TID(lm.PID), inside))
	}
	if len(paths) == 0 {
		fds, _ := v.Descriptors(lm.PID) // none, where that is not permitted
		for _, d := range fds {
			add(fdPath(d.FD), d.Target)
		}
	}
	if lm.MappedStat != nil {
		add(fmt.Sprintf("%s/map_files/%x-%x", dir, uint64(lm.MapStart), uint64(lm.MapEnd)), *lm.MappedStat)
	}
	return paths
}

// insideRoot gives the path of the mapped file as the inferior knows it. The
// kernel shows paths in maps as whoever reads them knows them, so those of a
// process in a chroot have its root before them. The text " (deleted)" stays:
// a file may be called that, and a deleted one is not found.
func insideRoot(v *procview.View, lm *event.LinkMap) (string, bool) {
	path := string(lm.Mapped.Link)
	if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "/memfd:") {
		return "", false
	}
	if root, err := os.Readlink(v.Folder(lm.PID) + "/root"); err == nil && root != "/" {
		if inside, ok := strings.CutPrefix(path, root+"/"); ok {
			return "/" + inside, true
		}
	}
	return path, true
}

// Identity is that of the mapped file; Mapped must be there. What stat(2) says
// of the mapping counts, since the device in maps is another on some file
// systems.
func Identity(lm *event.LinkMap) event.Target {
	if lm.MappedStat != nil {
		return *lm.MappedStat
	}
	return *lm.Mapped
}

func isMapped(lm *event.LinkMap, t event.Target) bool { return t.Same(Identity(lm)) }
