package inferior

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
	"whosefd/tracer/memory"
	"whosefd/tracer/procview"
)

const (
	maxHeaders = 256       // program headers
	maxDynamic = 4096      // entries of a dynamic section
	maxChain   = 100000    // symbols of one hash chain
	maxAuxv    = 64 << 10  // bytes
	maxSymbols = 256 << 20 // symbol table and strings of a static program, bytes
)

// space is an address space. Numbers are little-endian, as both
// architectures that we know are.
type space struct {
	memory.Reader
	word uint64 // the size of a pointer there, bytes: 8 or 4
}

func (m space) bytes(addr uint64, n int) ([]byte, error) {
	return memory.Bytes(m, m.wrap(addr), n)
}

// wrap is what is left of a sum of addresses: a pointer's worth.
func (m space) wrap(addr uint64) uint64 {
	if m.word == 4 {
		return addr & (1<<32 - 1)
	}
	return addr
}

// words reads numbers of the size of a pointer.
func (m space) words(addr uint64, n int) ([]uint64, error) {
	b, err := m.bytes(addr, n*int(m.word))
	if err != nil {
		return nil, err
	}
	return memory.Split(b, m.word), nil
}

// halves reads 32-bit numbers.
func (m space) halves(addr uint64, n int) ([]uint64, error) {
	b, err := m.bytes(addr, 4*n)
	if err != nil {
		return nil, err
	}
	return memory.Split(b, 4), nil
}

// text reads a NUL-terminated string, of which it gives at most maxName bytes.
func (m space) text(addr uint64) (event.Text, error) {
	b, _, err := memory.Text(m, addr, nil, maxName)
	if err != nil {
		return "", err
	}
	return event.Text(b), nil
}

// program is the program that a process runs.
type program struct {
	mem space
	aux auxiliary
	// exe opens its file; done closes that.
	exe  func() (f io.ReaderAt, done func(), err error)
	file *memory.Process // nil for a fake memory
	// emulates: its debugger sees the program that it runs, not itself.
	emulates bool
	// objects are where files are mapped from their beginning on.
	objects []uint64
}

// open opens a process's memory by /proc/PID/mem. That needs no system call by
// number, so the view may be of another pid namespace, and the memory stays that
// of the program that runs now: if the process starts another, reading ends.
func open(v *procview.View, pid event.PID) (*program, error) {
	b, err := readAuxv(v, pid)
	if err == nil && len(b) == 0 || errors.Is(err, unix.ESRCH) {
		return nil, ErrNoProgram // which of the two depends on the kernel's version
	}
	if errors.Is(err, os.ErrPermission) && !hasProgram(v, pid) {
		return nil, ErrNoProgram // what it has let go of, only root may look for
	}
	if err != nil {
		return nil, fmt.Errorf("auxiliary vector: %w", err)
	}
	aux, word, err := parseAuxv(b)
	if err != nil {
		return nil, err
	}
	maps, err := v.Maps(pid)
	if err != nil {
		return nil, err
	}
	f, err := memory.Open(v, pid, maps)
	if err != nil {
		return nil, err
	}
	exe := func() (io.ReaderAt, func(), error) {
		f, err := v.OpenLarge(pid, path.Join(v.Folder(pid), "exe"))
		return f, func() { _ = f.Close() }, err
	}
	p := &program{mem: space{f, word}, aux: aux, exe: exe, file: f}
	if st, err := v.Status(pid, event.TID(pid)); err == nil {
		p.emulates = v.Debugger(pid, st.Name).Is("qemu")
	}
	for _, m := range maps {
		if m.Offset == 0 && m.Ino != 0 {
			p.objects = append(p.objects, m.Start)
		}
	}
	return p, nil
}

func hasProgram(v *procview.View, pid event.PID) bool {
	st, err := v.Status(pid, event.TID(pid))
	return err != nil || !st.Ended() && !st.Kthread
}

func (p *program) close() {
	_ = p.file.Close()
}

// auxiliary is the auxiliary vector (getauxval(3)).
type auxiliary map[uint64]uint64

// Keys of the auxiliary vector (linux/auxvec.h).
const (
	atPhdr  = 3
	atPhent = 4
	atPhnum = 5
	atBase  = 7
	atEntry = 9
)

func readAuxv(v *procview.View, pid event.PID) ([]byte, error) {
	f, err := v.OpenFile(pid, "auxv")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxAuxv))
}

var errAuxv = errors.New("the auxiliary vector has no program headers")

// parseAuxv reads pairs of words up to the one with key 0 (AT_NULL). Which size
// words have, the size of a program header tells (elf(5)).
func parseAuxv(b []byte) (aux auxiliary, word uint64, err error) {
	for _, word := range []uint64{8, 4} {
		aux := auxiliary{}
		for ws := memory.Split(b, word); len(ws) >= 2 && ws[0] != 0; ws = ws[2:] {
			aux[ws[0]] = ws[1]
		}
		if aux[atPhent] == headerSize(word) && aux[atPhdr] != 0 && aux[atPhnum] != 0 && aux[atPhnum] <= maxHeaders {
			return aux, word, nil
		}
	}
	return nil, 0, errAuxv
}

// headerSize is that of a program header.
func headerSize(word uint64) uint64 {
	if word == 8 {
		return 56
	}
	return 32
}

// segments is what we use of program headers.
type segments struct {
	phdr, dynamic, first      uint64 // addresses before relocation; first is of the file's beginning
	hasPhdr, hasDyn, hasFirst bool
	interp                    bool
}

func (m space) segments(addr uint64, n int) (segments, error) {
	size := headerSize(m.word)
	b, err := m.bytes(addr, n*int(size))
	if err != nil {
		return segments{}, fmt.Errorf("program headers: %w", err)
	}
	var s segments
	for ; uint64(len(b)) >= size; b = b[size:] {
		var offset, vaddr uint64
		if m.word == 8 {
			offset, vaddr = binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:])
		} else {
			offset, vaddr = uint64(binary.LittleEndian.Uint32(b[4:])), uint64(binary.LittleEndian.Uint32(b[8:]))
		}
		switch elf.ProgType(binary.LittleEndian.Uint32(b)) {
		case elf.PT_PHDR:
			s.phdr, s.hasPhdr = vaddr, true
		case elf.PT_DYNAMIC:
			s.dynamic, s.hasDyn = vaddr, true
		case elf.PT_INTERP:
			s.interp = true
		case elf.PT_LOAD:
			if offset == 0 && !s.hasFirst {
				s.first, s.hasFirst = vaddr, true
			}
		}
	}
	return s, nil
}

// image is an ELF file in memory.
type image struct {
	space
	segments
	bias uint64 // what is added to the addresses in it
}

// program gives the image that the kernel started.
func (p *program) image() (image, error) {
	at := p.aux[atPhdr]
	s, err := p.mem.segments(at, int(p.aux[atPhnum]))
	if err != nil {
		return image{}, err
	}
	img := image{space: p.mem, segments: s}
	switch {
	case s.hasPhdr:
		img.bias = at - s.phdr
	case s.hasFirst:
		// The headers stand right behind the ELF header, at the beginning of
		// the file: so it is in the dynamic loader itself.
		const page = 4096
		if start := at &^ (page - 1); p.mem.isELF(start) {
			img.bias = start - s.first
		}
	}
	return img, nil
}

// loader gives the image of the dynamic loader that the kernel has mapped.
func (p *program) loader() (image, error) { return p.mapped(p.aux[atBase]) }

// mapped gives the image of an ELF file that is mapped from an address on.
func (p *program) mapped(base uint64) (image, error) {
	if !p.mem.isELF(base) {
		return image{}, fmt.Errorf("no ELF header at %#x", base)
	}
	offAt, numAt := uint64(32), uint64(56) // e_phoff, e_phnum
	if p.mem.word == 4 {
		offAt, numAt = 28, 44
	}
	off, err := p.mem.words(base+offAt, 1)
	if err != nil {
		return image{}, err
	}
	num, err := p.mem.bytes(base+numAt, 2)
	if err != nil {
		return image{}, err
	}
	n := min(int(binary.LittleEndian.Uint16(num)), maxHeaders)
	s, err := p.mem.segments(base+off[0], n)
	if err != nil {
		return image{}, err
	}
	return image{space: p.mem, segments: s, bias: base - s.first}, nil
}

func (m space) isELF(addr uint64) bool {
	b, err := m.bytes(addr, len(elf.ELFMAG))
	return err == nil && string(b) == elf.ELFMAG
}

// rDebug finds struct r_debug (link.h). The loader writes its address into the
// DT_DEBUG entry of the program. Where there is none, its own symbol tells: the
// program was linked so, or the loader was started as a program
// (ld.so ./program), or it is part of a static program that calls dlopen(3).
func (p *program) rDebug() (uint64, error) {
	if p.emulates {
		return p.guest()
	}
	main, err := p.image()
	if err != nil {
		return 0, err
	}
	hasDebug := false
	if main.hasDyn {
		dyn, err := main.dynamicTags()
		if err != nil {
			return 0, err
		}
		var addr uint64
		if addr, hasDebug = dyn[elf.DT_DEBUG]; addr != 0 {
			return addr, nil
		}
	}
	if p.aux[atBase] != 0 {
		loader, err := p.loader()
		if err == nil {
			if addr, ok := loader.rDebugSymbol(); ok {
				return p.begun(addr)
			}
		}
		switch {
		case hasDebug:
			return 0, ErrEarly
		case err != nil:
			return 0, fmt.Errorf("dynamic loader: %w", err)
		}
		return 0, errNoDebug
	}
	if main.hasDyn && !main.interp {
		if addr, ok := main.rDebugSymbol(); ok {
			return p.begun(addr)
		}
	}
	addr, err := p.staticSymbol(main.bias)
	if err == nil {
		if addr, err = p.begun(addr); err != nil {
			err = ErrStatic // it could load objects, and has not
		}
	}
	if errors.Is(err, ErrStatic) {
		return p.guest()
	}
	return addr, err
}

// guest finds the list of a program that another program runs in its own address space: valgrind
// and qemu-user map it as the kernel would, and the program's own dynamic loader runs. It is not
// found where its addresses are others than ours (qemu's guest base). [ErrStatic]: there is none.
func (p *program) guest() (uint64, error) {
	found := false
	for _, start := range p.objects {
		if !p.mem.isELF(start) {
			continue
		}
		img, err := p.mapped(start)
		if err != nil || !img.interp || !img.hasDyn || p.aux[atPhdr]-start < maxHeaders*headerSize(8) {
			continue
		}
		found = true
		if dyn, err := img.dynamicTags(); err == nil && dyn[elf.DT_DEBUG] != 0 {
			if addr, err := p.begun(dyn[elf.DT_DEBUG]); err == nil {
				return addr, nil
			}
		}
	}
	if found {
		return 0, errGuest
	}
	return 0, ErrStatic
}

var errGuest = errors.New("it runs another program, as an emulator does, whose list of loaded objects was not found")

var errNoDebug = errors.New("neither the program (DT_DEBUG) nor its dynamic loader (_r_debug) tells where the list is")

// begun says whether there is a list at struct r_debug yet.
func (p *program) begun(debug uint64) (uint64, error) {
	w, err := p.mem.words(debug, 2)
	if err != nil {
		return 0, fmt.Errorf("r_debug: %w", err)
	}
	if w[1] == 0 {
		return 0, ErrEarly
	}
	return debug, nil
}

// dynamicTags reads the dynamic section; of a tag that stands there more than
// once it gives the first.
func (img image) dynamicTags() (map[elf.DynTag]uint64, error) {
	tags := map[elf.DynTag]uint64{}
	addr := img.bias + img.dynamic
	for range maxDynamic {
		w, err := img.words(addr, 2)
		if err != nil {
			return nil, fmt.Errorf("dynamic section: %w", err)
		}
		tag := elf.DynTag(w[0])
		if tag == elf.DT_NULL {
			break
		}
		if _, ok := tags[tag]; !ok {
			tags[tag] = w[1]
		}
		addr += 2 * img.word
	}
	return tags, nil
}

// rDebugSymbol finds struct r_debug by the symbol that a dynamic loader
// exports: glibc's is the struct, musl's a pointer to it.
func (img image) rDebugSymbol() (uint64, bool) {
	if !img.hasDyn {
		return 0, false
	}
	tags, err := img.dynamicTags()
	if err != nil {
		return 0, false
	}
	if addr, ok := img.symbol(tags, "_r_debug"); ok {
		return addr, true
	}
	addr, ok := img.symbol(tags, "_dl_debug_addr")
	if !ok {
		return 0, false
	}
	w, err := img.words(addr, 1)
	if err != nil || w[0] == 0 {
		return 0, false
	}
	return w[0], true
}

// symbol looks up a defined dynamic symbol, by the hash table of either kind
// (elf(5); the GNU one is described in binutils' bfd/elflink.c).
func (img image) symbol(tags map[elf.DynTag]uint64, name string) (uint64, bool) {
	// glibc relocates these addresses in place, musl does not.
	at := func(tag elf.DynTag) uint64 {
		if addr := tags[tag]; addr != 0 && addr < img.bias { // not yet
			return addr + img.bias
		}
		return tags[tag]
	}
	symtab, strtab := at(elf.DT_SYMTAB), at(elf.DT_STRTAB)
	if symtab == 0 || strtab == 0 {
		return 0, false
	}
	is := func(i uint64) (addr uint64, ok bool) {
		size, valueAt, shndxAt := uint64(24), 8, 6
		if img.word == 4 {
			size, valueAt, shndxAt = 16, 4, 14
		}
		b, err := img.bytes(symtab+i*size, int(size))
		if err != nil || binary.LittleEndian.Uint16(b[shndxAt:]) == uint16(elf.SHN_UNDEF) {
			return 0, false
		}
		// The name and its NUL: no longer text is read.
		got, err := img.bytes(strtab+uint64(binary.LittleEndian.Uint32(b)), len(name)+1)
		if err != nil || string(got) != name+"\x00" {
			return 0, false
		}
		return img.wrap(img.bias + memory.Split(b[valueAt:], img.word)[0]), true
	}
	if table := at(elf.DT_GNU_HASH); table != 0 {
		return img.byGNUHash(table, gnuHash(name), is)
	}
	if table := at(elf.DT_HASH); table != 0 {
		return img.byHash(table, sysvHash(name), is)
	}
	return 0, false
}

func (img image) byGNUHash(table uint64, hash uint32, is func(uint64) (uint64, bool)) (uint64, bool) {
	head, err := img.halves(table, 4) // buckets, first symbol, bloom words, bloom shift
	if err != nil || head[0] == 0 {
		return 0, false
	}
	buckets := table + 16 + head[2]*img.word
	chains := buckets + 4*head[0]
	first, err := img.halves(buckets+4*(uint64(hash)%head[0]), 1)
	if err != nil || first[0] < head[1] {
		return 0, false
	}
	for i := first[0]; i < first[0]+maxChain; i++ {
		h, err := img.halves(chains+4*(i-head[1]), 1)
		if err != nil {
			return 0, false
		}
		if uint32(h[0])|1 == hash|1 {
			if addr, ok := is(i); ok {
				return addr, true
			}
		}
		if h[0]&1 != 0 { // the last of its chain
			break
		}
	}
	return 0, false
}

func (img image) byHash(table uint64, hash uint32, is func(uint64) (uint64, bool)) (uint64, bool) {
	head, err := img.halves(table, 2) // buckets, chains
	if err != nil || head[0] == 0 {
		return 0, false
	}
	chains := table + 8 + 4*head[0]
	next := table + 8 + 4*(uint64(hash)%head[0])
	for range maxChain {
		i, err := img.halves(next, 1)
		if err != nil || i[0] == 0 || i[0] >= head[1] {
			return 0, false
		}
		if addr, ok := is(i[0]); ok {
			return addr, true
		}
		next = chains + 4*i[0]
	}
	return 0, false
}

func gnuHash(name string) uint32 {
	h := uint32(5381)
	for _, c := range []byte(name) {
		h = 33*h + uint32(c)
	}
	return h
}

func sysvHash(name string) uint32 {
	h := uint32(0)
	for _, c := range []byte(name) {
		h = h<<4 + uint32(c)
		h ^= h & 0xf0000000 >> 24
		h &= 0x0fffffff
	}
	return h
}

// staticSymbol finds the list of a static program by its symbol _r_debug. The
// C library fills it when such a program calls dlopen(3). Without symbols, or
// if the file cannot be read, it is [ErrStatic].
func (p *program) staticSymbol(bias uint64) (addr uint64, err error) {
	defer func() {
		if recover() != nil { // debug/elf on a broken file
			addr, err = 0, ErrStatic
		}
	}()
	f, done, err := p.exe()
	if err != nil {
		return 0, ErrStatic
	}
	defer done()
	e, err := elf.NewFile(f)
	if err != nil {
		return 0, ErrStatic
	}
	if entry := p.aux[atEntry]; entry != 0 {
		bias = entry - e.Entry // which is an address before relocation
	}
	for _, s := range e.Sections {
		if s.Type == elf.SHT_SYMTAB && (s.FileSize > maxSymbols ||
			int(s.Link) < len(e.Sections) && e.Sections[s.Link].FileSize > maxSymbols) {
			return 0, ErrStatic
		}
	}
	syms, err := e.Symbols()
	if err != nil {
		return 0, ErrStatic
	}
	for _, sym := range syms {
		if sym.Name == "_r_debug" && sym.Section != elf.SHN_UNDEF {
			return sym.Value + bias, nil
		}
	}
	return 0, ErrStatic
}
