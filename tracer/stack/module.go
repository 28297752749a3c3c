package stack

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
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
		if b, err := p.mem.bytes(lowest.Start, int(min(lowest.End-lowest.Start, 4096))); err == nil {
			m.progs, _ = parseProgs(b)
		}
	}
	if m.progs == nil && !p.mappedOnly {
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
	var h elf.Header64
	if err := binary.Read(bytes.NewReader(b), binary.LittleEndian, &h); err != nil {
		return nil, fmt.Errorf("ELF header: %w", err)
	}
	if string(h.Ident[:4]) != elf.ELFMAG || elf.Class(h.Ident[elf.EI_CLASS]) != elf.ELFCLASS64 ||
		elf.Data(h.Ident[elf.EI_DATA]) != elf.ELFDATA2LSB || elf.Machine(h.Machine) != machine {
		return nil, errors.New("ELF header: not of this architecture")
	}
	const size = 56 // of Elf64_Phdr
	if h.Phentsize != size || h.Phoff > maxHeaders || h.Phoff+uint64(h.Phnum)*size > uint64(len(b)) {
		return nil, errors.New("ELF header: program headers out of range")
	}
	progs := make([]elf.ProgHeader, h.Phnum)
	for i := range progs {
		var ph elf.Prog64
		at := h.Phoff + uint64(i)*size
		if err := binary.Read(bytes.NewReader(b[at:at+size]), binary.LittleEndian, &ph); err != nil {
			return nil, fmt.Errorf("program header: %w", err)
		}
		progs[i] = elf.ProgHeader{Type: elf.ProgType(ph.Type), Flags: elf.ProgFlag(ph.Flags), Off: ph.Off,
			Vaddr: ph.Vaddr, Paddr: ph.Paddr, Filesz: ph.Filesz, Memsz: ph.Memsz, Align: ph.Align}
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
		b, err := p.mem.bytes(mp.Start, int(min(mp.End-mp.Start, maxHeaders)))
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

// openMapped opens the very file that is mapped: by /proc/PID/map_files where
// that is permitted, else by its name if that still leads to it.
func (p *process) openMapped(mp procview.Mapping) (*os.File, error) {
	fd, err := unix.Open(filepath.Join(p.folder, "map_files", mp.Range()), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == nil {
		return p.view.OpenRegular(p.pid, fd, 0)
	}
	if mp.Deleted {
		return nil, fmt.Errorf("open deleted file mapped at %s: %w", mp.Range(), err)
	}
	fd, err = p.view.OpenInRoot(p.pid, string(mp.Path))
	if err != nil {
		return nil, err
	}
	r, err := p.view.OpenRegular(p.pid, fd, mp.Ino)
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
	mapped, err := p.mem.bytes(mp.Start, int(min(mp.End-mp.Start, 4096)))
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
