package sysroot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
	"whosefd/tracer/inferior"
	"whosefd/tracer/memory"
	"whosefd/tracer/procview"
)

// MakeCore makes a folder as [Make] does, for a core file: it shows the file
// system as we see it, with the user's files in the places of the libraries that are left
// nowhere. What a name would lead to in a process that has ended is not there.
func MakeCore(ctx context.Context, v *procview.View, dir string, core *inferior.Core, files []event.StandIn) (*Made, error) {
	self, err := v.Process(event.PID(os.Getpid()))
	if err != nil {
		return nil, fmt.Errorf("look at this process: %w", err)
	}
	b := &builder{ctx: ctx, view: v, pid: self.PID, self: self.PID, ended: true}
	return b.make(dir, func() error { return b.ofCore(core, files) })
}

func (b *builder) ofCore(core *inferior.Core, files []event.StandIn) error {
	for i := range core.LinkMaps {
		lm := &core.LinkMaps[i]
		if lm.Name == "" || lm.Mapped == nil || strings.HasPrefix(string(lm.Mapped.Link), "[") || strings.HasPrefix(string(lm.Name), "linux-") {
			continue // the program itself, or the vdso
		}
		e := Entry{Name: lm.Name}
		switch found, err := b.coreLibrary(lm, files, &e); {
		case errors.Is(err, errFull), errors.Is(err, context.Canceled), errors.Is(err, unix.ENOSPC):
			return err
		case err != nil:
			e.Error = err.Error()
		case found:
			continue
		}
		b.made.Entries = append(b.made.Entries, e)
	}
	return nil
}

// coreLibrary sees to it that a library of a core is found by its name; found says that it is
// without a place of its own.
func (b *builder) coreLibrary(lm *event.LinkMap, files []event.StandIn, e *Entry) (found bool, err error) {
	name := string(lm.Name)
	if !strings.HasPrefix(name, "/") {
		return false, errors.New("a relative name is not looked for in this folder")
	}
	if leavesRoot(name) {
		return false, errLeaves
	}
	clean := path.Clean(name)
	refused := errors.New("no process has the library any more: --with " + name + "=FILE gives it" + idInBrackets(lm.Mapped.BuildID))
	for i := range files {
		f := &files[i]
		if f.Name != lm.Name {
			continue
		}
		if refused = f.Serves(lm.Mapped.BuildID); refused != nil {
			continue
		}
		if err := b.straighten(name); err != nil {
			return false, err
		}
		if err := b.put(clean, string(f.Path)); err != nil {
			return false, err
		}
		if !b.here(b.dir + name).Same(f.File) {
			return false, errLeaves
		}
		e.To = f.Path
		return false, nil
	}
	t, f := b.view.ResolveFile(b.self, event.TID(b.self), b.dir+name)
	id := ""
	if f != nil {
		id = memory.FileBuildID(f)
		_ = f.Close()
	}
	switch {
	case id != "" && id == lm.Mapped.BuildID:
		return true, nil
	case id != "" && lm.Mapped.BuildID != "":
		return false, fmt.Errorf("another file is there: it has the build id %s, and the core says %s", id, lm.Mapped.BuildID)
	case t.Error == "" && lm.Mapped.BuildID == "" && f != nil:
		return false, errors.New("the core does not hold its build id, so that nothing tells whether it is the same file")
	}
	return false, refused
}

func idInBrackets(buildID string) string {
	if buildID == "" {
		return ""
	}
	return " (build id " + buildID + ")"
}

// ofProcess says whether a name is below what each process sees as its own.
func ofProcess(name string) bool {
	return slices.ContainsFunc([]string{"/proc", "/dev/fd"}, func(top string) bool { return name == top || strings.HasPrefix(name, top+"/") })
}
