package inferior

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// Find gives the processes that a debugger traces.
func Find(v *procview.View, debugger event.PID) ([]event.Inferior, error) {
	pids, err := v.Tracees(debugger)
	if err != nil {
		return nil, err
	}
	var found []event.Inferior
	for _, pid := range pids {
		if inf, err := Describe(v, pid); err == nil {
			found = append(found, inf)
		}
	}
	return found, nil
}

// Describe says what a process is, and whether its loaded objects can be read.
// It fails only if the process is gone.
func Describe(v *procview.View, pid event.PID) (event.Inferior, error) {
	proc, err := v.Process(pid)
	if err != nil {
		return event.Inferior{}, fmt.Errorf("look at pid %d: %w", pid, err)
	}
	inf := event.Inferior{Process: proc}
	inf.TracerTID, _ = v.TracerOf(pid) // 0 if only other threads are traced
	maps, err := LinkMaps(v, pid)
	inf.Libraries = len(maps)
	if err != nil {
		inf.LinkMapError = err.Error()
	}
	return inf, nil
}

// Complete fills in what the name of an object leads to in the debugger and in
// the inferior, and under which paths the mapped file can be opened now, each
// checked to be that very file.
func Complete(v *procview.View, lm *event.LinkMap, debugger event.PID) {
	if lm.Name == "" || lm.Mapped == nil {
		return // the program itself, or the vdso, which has no file
	}
	lm.Resolves = nil
	for _, pid := range []event.PID{debugger, lm.PID} {
		lm.Resolves = append(lm.Resolves, event.Resolution{PID: pid, Target: v.Resolve(pid, event.TID(pid), string(lm.Name))})
	}
	lm.Reachable = reachable(v, lm)
}

// reachable tries, in this order: the descriptor that the name tells of; the
// path of the mapping in the inferior's root, or, where the file has no path
// any more, every descriptor of the inferior; and the mapping itself, for which
// the kernel asks for a capability.
func reachable(v *procview.View, lm *event.LinkMap) []event.Text {
	var paths []event.Text
	add := func(path string, t event.Target) {
		if isMapped(lm, t) && !slices.Contains(paths, event.Text(path)) {
			paths = append(paths, event.Text(path))
		}
	}
	dir := v.Folder(lm.PID)
	fdPath := func(fd event.FD) string { return dir + "/fd/" + strconv.Itoa(int(fd)) }
	if name := decode.ClassifyName(string(lm.Name)); name.Kind == decode.SelfFD || name.Kind == decode.PIDFD {
		add(fdPath(name.FD), v.Target(lm.PID, name.FD))
	}
	if lm.Mapped.Kind == event.Regular && !deleted(lm.Mapped.Link) {
		// The path in maps is as the inferior's root sees it.
		add(dir+"/root"+string(lm.Mapped.Link), v.Resolve(lm.PID, event.TID(lm.PID), string(lm.Mapped.Link)))
	} else if fds, err := v.Descriptors(lm.PID); err == nil {
		for _, d := range fds {
			add(fdPath(d.FD), d.Target)
		}
	}
	if lm.MappedStat != nil {
		add(fmt.Sprintf("%s/map_files/%x-%x", dir, uint64(lm.MapStart), uint64(lm.MapEnd)), *lm.MappedStat)
	}
	return paths
}

func deleted(link event.Text) bool { return strings.HasSuffix(string(link), " (deleted)") }

// isMapped says whether a file is the one that is mapped. What stat(2) says of
// the mapping counts, since the device in maps is another on some file systems.
func isMapped(lm *event.LinkMap, t event.Target) bool {
	if lm.MappedStat != nil {
		return t.Same(*lm.MappedStat)
	}
	return t.Same(*lm.Mapped)
}
