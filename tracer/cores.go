package tracer

import (
	"fmt"
	"path/filepath"
	"slices"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/inferior"
	"whosefd/tracer/memory"
	"whosefd/tracer/procview"
)

// NewStandIn looks at a file of the user's choice for a library of a core: one that is named to us.
func NewStandIn(v *procview.View, name event.Text, file string, force bool) (event.StandIn, error) {
	path, err := filepath.Abs(file)
	if err != nil {
		return event.StandIn{}, err
	}
	f, err := v.OpenNamed(path)
	if err != nil {
		return event.StandIn{}, err
	}
	defer f.Close()
	s := event.StandIn{Name: name, Path: event.Text(path), Force: force, File: f.Target}
	s.File.BuildID = memory.FileBuildID(f)
	return s, nil
}

// cores are the core files that a followed debugger looks at. They are looked for
// when it asks for a name that could be of one.
type cores struct {
	view     *procview.View
	debugger event.PID
	standIns []event.StandIn
	read     []*inferior.Core
	told     map[int]bool
	// complained are the names of which it was said why they lead to nothing.
	complained map[event.Text]bool
	nowhere    func(name event.Text, why error) // may be nil
}

// look reads the cores that the debugger has open now; one of which the list could not be
// read it reads again, since that may take the program, which the debugger opens too.
func (c *cores) look() {
	for _, f := range inferior.Cores(c.view, c.debugger) {
		i := slices.IndexFunc(c.read, func(core *inferior.Core) bool { return core.Inferior.Core.Same(f.Target) })
		switch {
		case i < 0:
			if core, err := inferior.ReadCore(c.view, f, len(c.read)+1, c.debugger, nil); err == nil {
				c.read = append(c.read, core)
			}
		case c.read[i].Inferior.LinkMapError != "":
			if core, err := inferior.ReadCore(c.view, f, i+1, c.debugger, nil); err == nil {
				c.read[i] = core
			}
		}
		_ = f.Close()
	}
}

// entries gives the entries of cores that a name can be.
func (c *cores) entries(is func(library event.Text) bool) (of []*inferior.Core, found []*event.LinkMap) {
	c.look()
	for _, core := range c.read {
		for i := range core.LinkMaps {
			if lm := &core.LinkMaps[i]; lm.Name != "" && is(lm.Name) {
				of, found = append(of, core), append(found, lm)
			}
		}
	}
	return of, found
}

// tell emits a core with its libraries, once.
func (in *inferiors) tellCore(core *inferior.Core) {
	if in.cores.told[core.Inferior.Core.ID] {
		return
	}
	in.cores.told[core.Inferior.Core.ID] = true
	inf := core.Inferior
	inf.T = in.now()
	in.emit(&inf)
	for _, lm := range core.LinkMaps {
		inferior.CompleteCore(in.view, &lm, in.debugger)
		lm.T = in.now()
		in.emit(&lm)
	}
}

// describeOfCore emits the cores of which the debugger has just opened a name.
func (in *inferiors) describeOfCore(ev *event.Syscall) {
	if n := decode.ClassifyName(string(ev.Path)); n.Kind != decode.SelfFD && n.Kind != decode.SelfLink && n.Kind != decode.Relative {
		return
	}
	of, _ := in.cores.entries(func(library event.Text) bool { return library == ev.Path })
	for _, core := range of {
		in.tellCore(core)
	}
	if len(in.cores.read) > 0 || !in.unwatched || in.late[in.debugger] {
		return
	}
	if state, err := in.view.State(in.debugger, in.view.Living(in.debugger)); err != nil || state == "Z" || state == "X" {
		in.late[in.debugger] = true
		in.emit(&event.Lost{T: in.now(), Reason: fmt.Sprintf("pid %d had ended before it was looked at: whether it read a core file, and which names are of that, was not seen "+
			"(--engine ptrace sees it)", in.debugger)})
	}
}

// nowhere is a path at which there is never anything (no process has the number 0).
const nowhere = "/proc/0"

// ofCore gives a path for a name of a core: that of the file that the user chose for
// it, or one that leads nowhere, since nothing but a wrong file would be opened.
func (in *inferiors) ofCore(tid event.TID, ev *event.Syscall, asked decode.Name) (path string, target event.Target, ok bool) {
	chosen := slices.ContainsFunc(in.cores.standIns, func(s event.StandIn) bool { return s.Name == ev.Path })
	if !chosen && asked.Kind != decode.SelfFD && asked.Kind != decode.SelfLink && asked.Kind != decode.PIDFD {
		return "", event.Target{}, false
	}
	of, entries := in.cores.entries(func(library event.Text) bool { return in.means(ev, asked, library) })
	if len(entries) == 0 {
		return "", event.Target{}, false
	}
	var why error
	for i, lm := range entries {
		in.tellCore(of[i])
		for _, s := range in.cores.standIns {
			if s.Name != "" && s.Name != lm.Name {
				continue
			}
			if why = s.Serves(buildID(lm)); why != nil {
				continue
			}
			if t := in.view.Resolve(in.debugger, tid, string(s.Path)); t.Same(s.File) {
				return string(s.Path), t, true
			}
			why = fmt.Errorf("%s leads the debugger to another file than this process", s.Path)
		}
		// The name may happen to lead to that very library.
		if _, f := in.view.ResolveFile(in.debugger, tid, string(ev.Path)); f != nil {
			id := memory.FileBuildID(f)
			_ = f.Close()
			if id != "" && id == buildID(lm) {
				return "", event.Target{}, false
			}
		}
	}
	if !in.cores.complained[ev.Path] && in.cores.nowhere != nil {
		in.cores.complained[ev.Path] = true
		if why == nil {
			id := ""
			if id = buildID(entries[0]); id != "" {
				id = " (build id " + id + ")"
			}
			why = fmt.Errorf("it is a library of a core file, which no process has any more: --with %s=FILE gives it%s", entries[0].Name, id)
		}
		in.cores.nowhere(ev.Path, why)
	}
	return nowhere, event.Target{Kind: event.Unknown, Error: "ENOENT"}, true
}

// buildID is that of the library that a core had, "" where it does not hold it.
func buildID(lm *event.LinkMap) string {
	if lm.Mapped == nil {
		return ""
	}
	return lm.Mapped.BuildID
}
