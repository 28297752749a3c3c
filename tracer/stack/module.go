package stack

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"slices"

	"whosefd/tracer/event"
	"whosefd/tracer/memory"
	"whosefd/tracer/procview"
)

// module is one loaded ELF object.
type module struct {
	path event.Text
	maps []procview.Mapping // ascending

	headersRead bool
	known       bool   // an ELF object whose bias was found
	bias        uint64 // address in the process minus address in the file
	progs       []elf.ProgHeader

	unwind *unwindTable // nil until first used

	elfFile *object
	opened  bool
	debug   *object // its separate debug file, nil if there is none

	debugSought bool
	objects     []*object // to be closed
}

func (m *module) close() {
	for _, o := range m.objects {
		o.close()
	}
}

// vdso is the name in maps of the code that the kernel maps into each process.
const vdso = "[vdso]"

// findModules groups mappings by file; a file that is loaded twice makes two.
func findModules(maps []procview.Mapping) []*module {
	type key struct {
		dev, ino uint64
		path     event.Text
	}
	var all []*module
	current := map[key]*module{}
	for _, mp := range maps {
		if mp.Ino == 0 && mp.Path != vdso {
			continue
		}
		k := key{mp.Dev, mp.Ino, mp.Path}
		m := current[k]
		if m == nil || mp.Offset == 0 {
			path := mp.Path
			if mp.Deleted {
				path += " (deleted)"
			}
			m = &module{path: path}
			current[k] = m
			all = append(all, m)
		}
		m.maps = append(m.maps, mp)
	}
	return all
}

// moduleAt finds the module that an address belongs to.
func (p *process) moduleAt(addr uint64) *module {
	for _, m := range p.modules {
		for _, mp := range m.maps {
			if mp.Start <= addr && addr < mp.End {
				p.readHeaders(m)
				return m
			}
		}
	}
	return nil
}

// executable says whether code may be run at an address.
func (p *process) executable(addr uint64) bool {
	mp, ok := procview.FindMapping(p.maps, addr)
	return ok && len(mp.Perms) > 2 && mp.Perms[2] == 'x'
}

// maxHeaders bounds how much is read for an ELF object's program headers.
const maxHeaders = 64 << 10

// readHeaders finds the program headers and the bias: in memory, since the
// loader maps them nearly always, else in the file.
func (p *process) readHeaders(m *module) {
	if m.headersRead {
		return
	}
	m.headersRead = true
	lowest := m.maps[0]
	if lowest.Offset == 0 {
		if b, err := memory.Bytes(p.mem, lowest.Start, int(min(lowest.End-lowest.Start, 4096))); err == nil {
			m.progs, _ = parseProgs(b)
		}
	}
	if m.progs == nil {
		if f := p.open(m); f != nil {
			for _, prog := range f.Progs {
				m.progs = append(m.progs, prog.ProgHeader)
			}
		}
	}
	m.bias, m.known = loadBias(m.progs, lowest)
}

// parseProgs reads the program headers of a little-endian 64-bit ELF object
// (elf(5)) from its beginning.
func parseProgs(b []byte) ([]elf.ProgHeader, error) {
	if len(b) < 64 {
		return nil, errors.New("ELF header: too short")
	}
	b = slices.Clone(b)
	clear(b[40:48]) // e_shoff
	clear(b[60:64]) // e_shnum, e_shstrndx: the sections' headers are not mapped
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	if f.Class != elf.ELFCLASS64 || f.Data != elf.ELFDATA2LSB || f.Machine != machine {
		return nil, errors.New("ELF header: not of this architecture")
	}
	progs := make([]elf.ProgHeader, len(f.Progs))
	for i, prog := range f.Progs {
		progs[i] = prog.ProgHeader
	}
	return progs, nil
}

// loadBias compares where a mapping is with where the file says it should be.
func loadBias(progs []elf.ProgHeader, mp procview.Mapping) (uint64, bool) {
	page := uint64(os.Getpagesize())
	for _, ph := range progs {
		if ph.Type != elf.PT_LOAD {
			continue
		}
		if from := ph.Off &^ (page - 1); from <= mp.Offset && mp.Offset < max(ph.Off+ph.Filesz, from+1) {
			return mp.Start - (ph.Vaddr - ph.Off + mp.Offset), true
		}
	}
	return 0, false
}

// prog finds the first program header of a type.
func (m *module) prog(t elf.ProgType) (elf.ProgHeader, bool) {
	for _, ph := range m.progs {
		if ph.Type == t {
			return ph, true
		}
	}
	return elf.ProgHeader{}, false
}

// open opens the module's ELF file; nil if that is not possible.
func (p *process) open(m *module) *object {
	if m.opened {
		return m.elfFile
	}
	m.opened = true
	if m.maps[0].Path == vdso {
		mp := m.maps[0]
		b, err := memory.Bytes(p.mem, mp.Start, int(min(mp.End-mp.Start, maxHeaders)))
		if err != nil {
			return nil
		}
		m.elfFile, _ = newELF(b)
		return m.elfFile
	}
	r, err := p.openMapped(m.maps[0])
	if err != nil {
		return nil
	}
	m.elfFile = m.keep(r, func(*os.File, *object) bool { return true })
	return m.elfFile
}

// openMapped opens the very file that is mapped.
func (p *process) openMapped(mp procview.Mapping) (*os.File, error) {
	file, err := p.view.OpenMapped(p.pid, mp)
	if err != nil {
		return nil, err
	}
	r, err := file.Local()
	if err == nil && !p.sameStart(r, mp) {
		r.Close()
		err = procview.ErrOtherFile
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// sameStart compares a file with what is mapped of its beginning: the headers,
// and mostly the build id. The device numbers in maps and of stat(2) disagree
// on some file systems, and the inode alone proves little.
func (p *process) sameStart(r *os.File, mp procview.Mapping) bool {
	if mp.Offset != 0 || len(mp.Perms) < 2 || mp.Perms[1] == 'w' {
		return true
	}
	mapped, err := memory.Bytes(p.mem, mp.Start, int(min(mp.End-mp.Start, 4096)))
	if err != nil {
		return true
	}
	file := make([]byte, len(mapped))
	n, _ := r.ReadAt(file, 0)
	// Beyond the end of a file, the rest of its last page is zero.
	return n > 0 && bytes.Equal(mapped, file)
}

// recovered turns a panic of debug/elf or debug/dwarf, which both can meet on
// broken input, into an error.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("broken file: %v", r)
	}
}
