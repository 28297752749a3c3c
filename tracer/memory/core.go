package memory

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
)

const (
	maxSegments  = 1 << 20   // program headers of a core; vm.max_map_count is 65530 by default
	maxNotes     = 1 << 17   // notes; each thread has some
	maxNote      = 16 << 20  // bytes of a note that is looked at; core_file_note_size_limit is at most that
	maxFiles     = 1 << 20   // lines of NT_FILE
	maxBuildID   = 64        // bytes; SHA-1 has 20
	maxHeaders   = 256       // program headers of an object
	maxNoteParts = 4         // PT_NOTE headers; the kernel writes one
	maxIDNotes   = 64 << 10  // bytes of an object's notes among which its build id is looked for
	pnXNum       = 0xffff    // PN_XNUM, linux/elf.h: the number is in the first section header
	untilKernel  = 1<<63 - 1 // file offsets are signed
)

// Errors of a core file.
var (
	// ErrNoCore is a file that is no core file.
	ErrNoCore = errors.New("not a core file")
	// ErrLeftOut is memory that is not in the core: /proc/PID/coredump_filter left it
	// out (core(5)), as it does with the text of libraries, or it was not mapped.
	ErrLeftOut = errors.New("not in the core")
	// ErrCutOff is memory that is missing since the file ends early: the disk was
	// full, or RLIMIT_CORE small.
	ErrCutOff = errors.New("the core file is cut off before it")
)

// FileMapping is a part of a file that the process had mapped, as the note NT_FILE
// has it. The path is the kernel's text for it, as in proc_pid_maps(5).
type FileMapping struct {
	Start, End uint64
	Offset     uint64 // in the file, bytes
	Path       event.Text
}

// Core is what a core file holds of a process that has ended (core(5), elf(5)). It
// implements delve's proc.MemoryReader. Only little-endian machines are read.
type Core struct {
	Machine elf.Machine
	Word    uint64    // the size of a pointer, bytes: 8 or 4
	PID     event.PID // that it had; 0 where no note tells
	Comm    event.Text
	Signal  int // that ended it; 0 for a snapshot of a process that went on
	Threads []event.TID
	Auxv    []byte        // proc_pid_auxv(5)
	Files   []FileMapping // by address
	// Size is what the file should have, bytes; Missing how much of that it lacks.
	Size, Missing int64
	// Fallback gives a file in which memory is looked for that the core leaves out,
	// nil for none.
	Fallback func(FileMapping) io.ReaderAt

	r        io.ReaderAt
	length   int64     // of the file, bytes
	segments []segment // by address, none overlaps another
}

// segment is a PT_LOAD: memory from start on, of which the file holds the
// first size bytes at offset. It ends at end.
type segment struct {
	start, end   uint64
	offset, size uint64
}

// IsCore says whether a file begins as a core file does: with an ELF header of
// the type ET_CORE.
func IsCore(beginning []byte) bool {
	return len(beginning) >= 18 && string(beginning[:4]) == elf.ELFMAG && beginning[elf.EI_DATA] == byte(elf.ELFDATA2LSB) &&
		elf.Type(binary.LittleEndian.Uint16(beginning[16:])) == elf.ET_CORE
}

// OpenCore reads the headers and notes of a core file of size bytes. What it
// does not hold is no error.
func OpenCore(r io.ReaderAt, size int64) (*Core, error) {
	var head [64]byte
	if n, err := r.ReadAt(head[:], 0); err != nil && (!errors.Is(err, io.EOF) || n < 52) {
		if errors.Is(err, io.EOF) {
			return nil, ErrNoCore
		}
		return nil, fmt.Errorf("read the core's header: %w", err)
	}
	switch {
	case string(head[:4]) == elf.ELFMAG && head[elf.EI_DATA] == byte(elf.ELFDATA2MSB):
		return nil, fmt.Errorf("a core of a big-endian machine: %w", errors.ErrUnsupported)
	case !IsCore(head[:]):
		return nil, ErrNoCore
	}
	c := &Core{r: r, length: size, Machine: elf.Machine(binary.LittleEndian.Uint16(head[18:])), Word: 8}
	if head[elf.EI_CLASS] == byte(elf.ELFCLASS32) {
		c.Word = 4
	}
	progs, err := c.headers(head[:])
	if err != nil {
		return nil, err
	}
	for _, p := range progs {
		end := int64(min(p.Off+p.Filesz, untilKernel))
		c.Size = max(c.Size, end)
		if p.Type == uint32(elf.PT_LOAD) && p.Vaddr+p.Memsz > p.Vaddr {
			c.segments = append(c.segments, segment{p.Vaddr, p.Vaddr + max(p.Memsz, p.Filesz), p.Off, p.Filesz})
		}
	}
	c.Missing = max(0, c.Size-size)
	slices.SortStableFunc(c.segments, func(x, y segment) int { return cmp.Compare(x.start, y.start) })
	end := uint64(0) // of a broken file, the first of two that overlap counts
	c.segments = slices.DeleteFunc(c.segments, func(s segment) bool {
		overlaps := s.start < end
		end = max(end, s.end)
		return overlaps
	})
	parts := 0
	for _, p := range progs {
		if p.Type == uint32(elf.PT_NOTE) && parts < maxNoteParts {
			parts++
			if err := c.notes(p.Off, p.Filesz); err != nil {
				return nil, err
			}
		}
	}
	slices.SortStableFunc(c.Files, func(x, y FileMapping) int { return cmp.Compare(x.Start, y.Start) })
	return c, nil
}

// headers reads the program headers.
func (c *Core) headers(head []byte) ([]elf.Prog64, error) {
	le := binary.LittleEndian
	at, count, sections := le.Uint64(head[32:]), uint64(le.Uint16(head[56:])), le.Uint64(head[40:])
	size, infoAt := uint64(56), uint64(44)
	if c.Word == 4 {
		at, count, sections = uint64(le.Uint32(head[28:])), uint64(le.Uint16(head[44:])), uint64(le.Uint32(head[32:]))
		size, infoAt = 32, 28
	}
	if count == pnXNum && sections != 0 { // the real number is sh_info of section 0
		b, err := c.file(sections+infoAt, 4)
		if err != nil {
			return nil, fmt.Errorf("the number of the core's program headers: %w", err)
		}
		count = uint64(le.Uint32(b))
	}
	if count > maxSegments {
		return nil, fmt.Errorf("a core with %d program headers: more than %d are not read", count, maxSegments)
	}
	b, err := c.file(at, int(count*size))
	if err != nil {
		return nil, fmt.Errorf("the core's program headers: %w", err)
	}
	progs := make([]elf.Prog64, 0, count)
	for ; uint64(len(b)) >= size; b = b[size:] {
		progs = append(progs, header(b, c.Word))
	}
	return progs, nil
}

// header reads a program header of either class.
func header(b []byte, word uint64) elf.Prog64 {
	le := binary.LittleEndian
	if word == 8 {
		return elf.Prog64{Type: le.Uint32(b), Flags: le.Uint32(b[4:]), Off: le.Uint64(b[8:]), Vaddr: le.Uint64(b[16:]),
			Filesz: le.Uint64(b[32:]), Memsz: le.Uint64(b[40:]), Align: le.Uint64(b[48:])}
	}
	half := func(at int) uint64 { return uint64(le.Uint32(b[at:])) }
	return elf.Prog64{Type: le.Uint32(b), Off: half(4), Vaddr: half(8), Filesz: half(16), Memsz: half(20), Flags: le.Uint32(b[24:]), Align: half(28)}
}

// file reads from the file itself.
func (c *Core) file(at uint64, n int) ([]byte, error) {
	if length := uint64(c.length); at > length || uint64(n) > length-at {
		return nil, ErrCutOff
	}
	b := make([]byte, n)
	got, err := c.r.ReadAt(b, int64(at))
	if got == n {
		return b, nil
	}
	if errors.Is(err, io.EOF) {
		err = ErrCutOff
	}
	return nil, err
}

// Types of notes (linux/elf.h) beside those of package elf.
const (
	ntAuxv    elf.NType = 6
	ntFile    elf.NType = 0x46494c45 // "FILE"
	ntSiginfo elf.NType = 0x53494749 // "SIGI"
)

// notes reads the notes that are needed; of those that do not fit into the file,
// none.
func (c *Core) notes(at, size uint64) error {
	const head = 12
	align := func(n uint64) uint64 { return (n + 3) &^ 3 }
	for range maxNotes {
		if size < head {
			return nil
		}
		b, err := c.file(at, head)
		if err != nil {
			return fmt.Errorf("the core's notes: %w", err)
		}
		le := binary.LittleEndian
		nameSize, descSize := uint64(le.Uint32(b)), uint64(le.Uint32(b[4:]))
		kind := elf.NType(le.Uint32(b[8:]))
		all := head + align(nameSize) + align(descSize)
		if size < head+align(nameSize)+descSize {
			return nil
		}
		switch kind {
		case elf.NT_PRSTATUS, elf.NT_PRPSINFO, ntAuxv, ntFile, ntSiginfo:
			if nameSize > 8 || descSize > maxNote {
				break
			}
			b, err := c.file(at+head, int(align(nameSize)+descSize))
			if err != nil {
				return fmt.Errorf("a note of the core: %w", err)
			}
			if string(bytes.TrimRight(b[:nameSize], "\x00")) == "CORE" {
				c.note(kind, b[align(nameSize):])
			}
		}
		at, size = at+all, size-min(size, all)
	}
	return nil
}

// note reads one note; one that is too short counts as not there.
func (c *Core) note(kind elf.NType, desc []byte) {
	le := binary.LittleEndian
	switch kind {
	case elf.NT_PRSTATUS: // struct elf_prstatus, linux/elfcore.h
		pidAt := 32
		if c.Word == 4 {
			pidAt = 24
		}
		if len(desc) < pidAt+4 {
			return
		}
		tid := event.TID(int32(le.Uint32(desc[pidAt:])))
		if len(c.Threads) == 0 { // the one that the signal reached
			c.Signal = int(int16(le.Uint16(desc[12:])))
			c.PID = cmp.Or(c.PID, event.PID(tid))
		}
		c.Threads = append(c.Threads, tid)
	case elf.NT_PRPSINFO: // struct elf_prpsinfo
		var pidAt, nameAt int
		switch len(desc) {
		case 136:
			pidAt, nameAt = 24, 40
		case 128: // of a 32-bit program
			pidAt, nameAt = 16, 32
		case 124: // the same with 16-bit user ids
			pidAt, nameAt = 12, 28
		default:
			return
		}
		c.PID = event.PID(int32(le.Uint32(desc[pidAt:])))
		name, _, _ := bytes.Cut(desc[nameAt:nameAt+16], []byte{0})
		c.Comm = event.Text(name)
	case ntAuxv:
		c.Auxv = desc
	case ntFile:
		c.mapped(desc)
	case ntSiginfo: // siginfo_t
		if len(desc) >= 4 && c.Signal == 0 {
			c.Signal = int(int32(le.Uint32(desc)))
		}
	}
}

// mapped reads NT_FILE: the number of entries, the size of a page, for each entry
// start, end and offset in pages, then the paths, each with a NUL (fs/binfmt_elf.c). gdb writes the
// core of a 32-bit program as one of a 64-bit machine, but for this note.
func (c *Core) mapped(desc []byte) {
	for _, word := range []uint64{c.Word, 12 - c.Word} {
		ws := Split(desc, word)
		if len(ws) < 2 || ws[0] > maxFiles || uint64(len(ws)) < 2+3*ws[0] {
			continue
		}
		n, page := ws[0], ws[1]
		texts := bytes.Split(desc[(2+3*n)*word:], []byte{0})
		if uint64(len(texts)) <= n { // the last one is what follows the last NUL
			continue
		}
		for i := range n {
			m := ws[2+3*i:]
			c.Files = append(c.Files, FileMapping{Start: m[0], End: m[1], Offset: m[2] * page, Path: event.Text(texts[i])})
		}
		return
	}
}

// Mapping gives the line of NT_FILE that holds an address.
func (c *Core) Mapping(addr uint64) (FileMapping, bool) {
	i := sort.Search(len(c.Files), func(i int) bool { return c.Files[i].End > addr })
	if i < len(c.Files) && addr >= c.Files[i].Start {
		return c.Files[i], true
	}
	return FileMapping{}, false
}

// ReadMemory implements delve's proc.MemoryReader. The error wraps [ErrLeftOut] or
// [ErrCutOff] where the core does not hold all of it.
func (c *Core) ReadMemory(b []byte, addr uint64) (n int, err error) {
	for n < len(b) {
		m, err := c.readPiece(b[n:], addr+uint64(n))
		n += m
		if err != nil {
			return n, fmt.Errorf("core memory at %#x: %w", addr+uint64(n), err)
		}
	}
	return n, nil
}

// readPiece reads from one segment, or from between two.
func (c *Core) readPiece(b []byte, addr uint64) (int, error) {
	i := sort.Search(len(c.segments), func(i int) bool { return c.segments[i].end > addr })
	if i == len(c.segments) {
		return c.readFallback(b, addr)
	}
	s := c.segments[i]
	if addr < s.start {
		return c.readFallback(b[:min(uint64(len(b)), s.start-addr)], addr)
	}
	at := addr - s.start
	if at >= s.size {
		return c.readFallback(b[:min(uint64(len(b)), s.end-addr)], addr)
	}
	b = b[:min(uint64(len(b)), s.size-at)]
	if s.offset+at > untilKernel {
		return 0, ErrCutOff
	}
	n, err := c.r.ReadAt(b, int64(s.offset+at))
	switch {
	case n == len(b):
		return n, nil
	case errors.Is(err, io.EOF):
		err = ErrCutOff
	}
	return n, err
}

// readFallback reads what the core leaves out from the file that was mapped there.
func (c *Core) readFallback(b []byte, addr uint64) (int, error) {
	m, ok := c.Mapping(addr)
	if !ok || c.Fallback == nil {
		return 0, ErrLeftOut
	}
	r := c.Fallback(m)
	if r == nil {
		return 0, ErrLeftOut
	}
	b = b[:min(uint64(len(b)), m.End-addr)]
	n, err := r.ReadAt(b, int64(min(m.Offset+addr-m.Start, untilKernel)))
	if n == len(b) {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = ErrLeftOut
	}
	return n, err
}

// Arch is the name of the machine as Go has it (GOARCH), or as elf.h has it.
func (c *Core) Arch() string {
	switch {
	case c.Machine == elf.EM_X86_64 && c.Word == 8:
		return "amd64"
	case c.Machine == elf.EM_386, c.Machine == elf.EM_X86_64:
		return "386"
	case c.Machine == elf.EM_AARCH64:
		return "arm64"
	case c.Machine == elf.EM_ARM:
		return "arm"
	}
	return c.Machine.String()
}

// Split gives the little-endian numbers of word bytes that b holds.
func Split(b []byte, word uint64) []uint64 {
	ws := make([]uint64, uint64(len(b))/word)
	for i := range ws {
		if word == 8 {
			ws[i] = binary.LittleEndian.Uint64(b[8*i:])
		} else {
			ws[i] = uint64(binary.LittleEndian.Uint32(b[4*i:]))
		}
	}
	return ws
}

// BuildID gives the build id of the ELF object that is loaded at an address, in
// hexadecimal; "" where it has none, or it cannot be read. Program headers and note
// are in the first page of nearly every object, which a core holds (bit 4 of
// coredump_filter, core(5)).
func BuildID(m Reader, start uint64) string {
	return buildID(func(b []byte, at uint64) error {
		_, err := m.ReadMemory(b, start+at)
		return err
	}, func(p elf.Prog64, first uint64) uint64 { return p.Vaddr - first })
}

// FileBuildID is [BuildID] of an ELF file.
func FileBuildID(r io.ReaderAt) string {
	return buildID(func(b []byte, at uint64) error {
		if at > untilKernel-uint64(len(b)) {
			return unix.EFAULT
		}
		n, err := r.ReadAt(b, int64(at))
		if n == len(b) {
			return nil
		}
		return err
	}, func(p elf.Prog64, _ uint64) uint64 { return p.Off })
}

// buildID looks through the notes of an object; place says where a segment is from
// the object's beginning, of which the address is first before relocation.
func buildID(read func(b []byte, at uint64) error, place func(p elf.Prog64, first uint64) uint64) string {
	var head [64]byte
	if read(head[:], 0) != nil || string(head[:4]) != elf.ELFMAG || head[elf.EI_DATA] != byte(elf.ELFDATA2LSB) {
		return ""
	}
	le := binary.LittleEndian
	word, at, count, size := uint64(8), le.Uint64(head[32:]), uint64(le.Uint16(head[56:])), uint64(56)
	if head[elf.EI_CLASS] == byte(elf.ELFCLASS32) {
		word, at, count, size = 4, uint64(le.Uint32(head[28:])), uint64(le.Uint16(head[44:])), 32
	}
	b := make([]byte, min(count, maxHeaders)*size)
	if read(b, at) != nil {
		return ""
	}
	var first uint64
	var notes []elf.Prog64
	for ; uint64(len(b)) >= size; b = b[size:] {
		switch p := header(b, word); elf.ProgType(p.Type) {
		case elf.PT_LOAD:
			if p.Off == 0 {
				first = p.Vaddr
			}
		case elf.PT_NOTE:
			notes = append(notes, p)
		}
	}
	for _, p := range notes {
		if id := buildIDIn(read, place(p, first), min(p.Filesz, maxIDNotes), p.Align); id != "" {
			return id
		}
	}
	return ""
}

// buildIDIn looks for NT_GNU_BUILD_ID among notes.
func buildIDIn(read func(b []byte, at uint64) error, at, size, align uint64) string {
	const head, ntGNUBuildID = 12, 3 // elf.h
	if align != 8 {                  // .note.gnu.property has 8
		align = 4
	}
	up := func(n uint64) uint64 { return (n + align - 1) &^ (align - 1) }
	for size >= head {
		var b [head]byte
		if read(b[:], at) != nil {
			return ""
		}
		le := binary.LittleEndian
		name, desc, kind := uint64(le.Uint32(b[:])), uint64(le.Uint32(b[4:])), le.Uint32(b[8:])
		if kind == ntGNUBuildID && name == 4 && desc > 0 && desc <= maxBuildID {
			b := make([]byte, up(head+name)-head+desc)
			if read(b, at+head) != nil {
				return ""
			}
			if string(b[:4]) == "GNU\x00" {
				return fmt.Sprintf("%x", b[uint64(len(b))-desc:])
			}
		}
		all := up(up(head+name) + desc)
		if all > size {
			return ""
		}
		at, size = at+all, size-all
	}
	return ""
}
