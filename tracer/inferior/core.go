package inferior

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/memory"
	"whosefd/tracer/procview"
)

// Core is a core file that stands in the place of an inferior.
type Core struct {
	Inferior event.Inferior
	LinkMaps []event.LinkMap
}

// ReadCore reads which objects the process of a core file had loaded, from the file's memory.
// Of what the core leaves out, it takes only what belongs to a file with the same build id:
// the names of those files are the debugger's to resolve. program is the program's file, given by
// the user, or nil: that one, else the one that the debugger has open, counts also if the core has
// no build id to compare.
//
// A core whose list cannot be read is no error: the inferior says why. The error is
// [memory.ErrNoCore], or that of reading the file.
func ReadCore(v *procview.View, file *procview.Large, id int, debugger event.PID, program *procview.Large) (*Core, error) {
	core, err := procview.Within(readWithin, func() (*Core, error) {
		m, err := memory.OpenCore(file, file.Size)
		if err != nil {
			return nil, err
		}
		r := &coreReader{Core: m, view: v, debugger: debugger, id: id, given: program, files: map[event.Text]*procview.Large{}}
		defer r.close()
		return r.read(file), nil
	})
	if err != nil {
		return nil, fmt.Errorf("core file %s: %w", file.Target.Link, err)
	}
	return core, nil
}

// coreReader reads a core, and the files from which it takes what that leaves out.
type coreReader struct {
	*memory.Core
	view     *procview.View
	debugger event.PID
	id       int
	exe      event.Text // the program's path, as NT_FILE has it
	given    *procview.Large
	sought   bool                           // was the program, among what the debugger has open
	files    map[event.Text]*procview.Large // by path; nil where another file is there
}

func (r *coreReader) close() {
	for _, f := range r.files {
		if f != nil {
			_ = f.Close()
		}
	}
}

func (r *coreReader) read(file *procview.Large) *Core {
	c := &Core{Inferior: event.Inferior{Process: event.Process{Comm: r.Comm}, Core: &event.Core{ID: r.id, Target: file.Target,
		PID: r.PID, Signal: decode.Signal(r.Signal), Arch: r.Arch(), Missing: r.Missing}}}
	r.Fallback = r.fallback
	p := &program{mem: space{r, 0}}
	aux, word, err := parseAuxv(r.Auxv)
	if err == nil {
		p.mem.word, p.aux = word, aux
		r.Word, c.Inferior.Core.Arch = word, (&memory.Core{Machine: r.Machine, Word: word}).Arch()
		if m, ok := r.Mapping(aux[atPhdr]); ok {
			r.exe = m.Path
		}
		p.exe = func() (io.ReaderAt, func(), error) {
			f, err := r.file(r.exe)
			return f, func() {}, err
		}
		c.LinkMaps, err = p.list()
	}
	c.Inferior.Exe = r.exe
	c.Inferior.Libraries = len(c.LinkMaps)
	if err != nil {
		c.Inferior.LinkMapError = fmt.Sprintf("core file: %v", err)
		c.Inferior.Static = errors.Is(err, ErrStatic)
	}
	for i := range c.LinkMaps {
		lm := &c.LinkMaps[i]
		lm.Core = r.id
		at := []uint64{uint64(lm.Dynamic), uint64(lm.LoadAddr)}
		if lm.Namespace == 0 && lm.Index == 0 {
			at = append(at, p.aux[atPhdr])
		}
		r.fillMapped(lm, at)
	}
	return c
}

// fillMapped finds the file of an object: its path, as NT_FILE has it, and its build id.
func (r *coreReader) fillMapped(lm *event.LinkMap, at []uint64) {
	t := event.Target{Kind: event.Unknown}
	start := uint64(lm.LoadAddr)
	for _, addr := range at {
		if m, ok := r.Mapping(addr); ok {
			t = textTarget(m.Path)
			start = r.beginning(m)
			lm.MapStart, lm.MapEnd = event.Hex(m.Start), event.Hex(m.End)
			break
		}
	}
	if start != 0 {
		t.BuildID = memory.BuildID(r, start)
	}
	if lm.MapStart != 0 || t.BuildID != "" {
		lm.Mapped = &t
	}
}

// textTarget is a mapped file of which only the kernel's text is left.
func textTarget(text event.Text) event.Target {
	t := procview.Mapping{Path: text, Ino: 1}.Target()
	if name, deleted := strings.CutSuffix(string(text), " (deleted)"); deleted {
		t = procview.Mapping{Path: event.Text(name), Ino: 1, Deleted: true}.Target()
	}
	t.Ino = 0
	return t
}

// beginning is where the object begins of which a mapping is a part.
func (r *coreReader) beginning(of memory.FileMapping) uint64 {
	start := of.Start
	for _, m := range r.Files {
		if m.Path == of.Path && m.Offset == 0 && m.Start <= of.Start {
			start = m.Start // the nearest: a file can be mapped twice
		}
	}
	return start
}

// fallback gives the file of a mapping.
func (r *coreReader) fallback(m memory.FileMapping) io.ReaderAt {
	f, err := r.file(m.Path)
	if err != nil {
		return nil
	}
	return f
}

// file gives the file that was mapped under a path, if it is still that one.
func (r *coreReader) file(name event.Text) (io.ReaderAt, error) {
	if name == r.exe {
		id := r.buildID(name)
		if r.given == nil && id == "" && !r.sought {
			r.sought = true
			r.files[""] = r.opened()
			r.given = r.files[""]
		}
		switch {
		case r.given == nil:
		case id != "" && id != memory.FileBuildID(r.given) || id == "" && !r.mayBe(r.given):
			return nil, procview.ErrOtherFile
		default:
			return r.given, nil
		}
	}
	f, known := r.files[name]
	if !known {
		r.files[name] = nil // so that looking for its build id does not come here again
		if id := r.buildID(name); id != "" && strings.HasPrefix(string(name), "/") {
			_, f = r.view.ResolveFile(r.debugger, event.TID(r.debugger), string(name))
			if f != nil && memory.FileBuildID(f) != id {
				_ = f.Close()
				f = nil
			}
		}
		r.files[name] = f
	}
	if f == nil {
		return nil, procview.ErrOtherFile
	}
	return f, nil
}

// opened gives the file that the debugger has open for the program: from that it has the program's
// headers where the core does not hold them, and so its list of libraries.
func (r *coreReader) opened() *procview.Large {
	fds, _ := r.view.Descriptors(r.debugger)
	for _, d := range fds {
		if d.Target.Kind != event.Regular && d.Target.Kind != event.Memfd || d.Access == "path" {
			continue
		}
		f, err := r.view.OpenLarge(r.debugger, fmt.Sprintf("%s/fd/%d", r.view.Folder(r.debugger), d.FD))
		if err != nil {
			continue
		}
		if r.mayBe(f) {
			return f
		}
		_ = f.Close()
	}
	return nil
}

// mayBe says whether a file can be the program: what the kernel told it of
// itself, its entry point and the number of its program headers, is so there.
func (r *coreReader) mayBe(f io.ReaderAt) (may bool) {
	aux, _, err := parseAuxv(r.Auxv)
	head := make([]byte, 64)
	if n, _ := f.ReadAt(head, 0); err != nil || n < len(head) || string(head[:4]) != elf.ELFMAG {
		return false
	}
	const page = 4096
	le := binary.LittleEndian
	kind := elf.Type(le.Uint16(head[16:]))
	entry, headers := le.Uint64(head[24:]), le.Uint16(head[56:])
	if head[elf.EI_CLASS] == byte(elf.ELFCLASS32) {
		entry, headers = uint64(le.Uint32(head[24:])), le.Uint16(head[44:])
	}
	return (kind == elf.ET_EXEC || kind == elf.ET_DYN) && entry%page == aux[atEntry]%page && uint64(headers) == aux[atPhnum]
}

// buildID is that of the object that was mapped under a path, as the core has it.
func (r *coreReader) buildID(name event.Text) string {
	for _, m := range r.Files {
		if m.Path == name && m.Offset == 0 {
			if id := memory.BuildID(r.held(), m.Start); id != "" {
				return id
			}
		}
	}
	return ""
}

// held is the core's memory without anything from files.
func (r *coreReader) held() *memory.Core {
	c := *r.Core
	c.Fallback = nil
	return &c
}

// CompleteCore fills in what a name of a core leads to in the debugger, with the
// build id of what is there.
func CompleteCore(v *procview.View, lm *event.LinkMap, debugger event.PID) {
	if lm.Name == "" || lm.Mapped == nil {
		return
	}
	t, f := v.ResolveFile(debugger, event.TID(debugger), string(lm.Name))
	if f != nil {
		t.BuildID = memory.FileBuildID(f)
		_ = f.Close()
	}
	lm.Resolves = []event.Resolution{{PID: debugger, Target: t}}
}

// maxCores bounds the cores of one debugger that are looked at.
const maxCores = 16

// Cores opens the core files that a debugger looks at: those behind its
// descriptors; those that it has mapped, as lldb does; and where there are none, those that its
// command line names, as a debugger with very many libraries closes files for a while.
func Cores(v *procview.View, debugger event.PID) (cores []*procview.Large) {
	add := func(f *procview.Large, err error) {
		switch {
		case err != nil:
		case len(cores) == maxCores, !isCore(f), slices.ContainsFunc(cores, func(o *procview.Large) bool { return o.Target.Same(f.Target) }):
			_ = f.Close()
		default:
			cores = append(cores, f)
		}
	}
	fds, _ := v.Descriptors(debugger) // none, where that is not permitted
	for _, d := range fds {
		if (d.Target.Kind == event.Regular || d.Target.Kind == event.Memfd) && d.Access != "path" {
			add(v.OpenLarge(debugger, fmt.Sprintf("%s/fd/%d", v.Folder(debugger), d.FD)))
		}
	}
	maps, _ := v.Maps(debugger)
	parts := map[event.Text]int{}
	for _, m := range maps {
		parts[m.Path]++
	}
	for _, m := range maps { // a program or library is mapped in several parts
		if m.Ino != 0 && m.Offset == 0 && parts[m.Path] == 1 && strings.HasPrefix(string(m.Path), "/") && !m.Deleted {
			add(v.OpenMapped(debugger, m))
		}
	}
	if len(cores) > 0 {
		return cores
	}
	proc, err := v.Process(debugger)
	if err != nil {
		return nil
	}
	for _, arg := range proc.Cmdline[min(1, len(proc.Cmdline)):] {
		if name := strings.TrimPrefix(strings.TrimPrefix(string(arg), "--core="), "-core="); !strings.HasPrefix(name, "-") {
			if _, f := v.ResolveFile(debugger, event.TID(debugger), name); f != nil {
				add(f, nil)
			}
		}
	}
	return cores
}

func isCore(f io.ReaderAt) bool {
	var b [elf.EI_NIDENT + 2]byte
	n, err := f.ReadAt(b[:], 0)
	return (err == nil || errors.Is(err, io.EOF)) && memory.IsCore(b[:n])
}
