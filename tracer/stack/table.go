package stack

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/go-delve/delve/pkg/dwarf/frame"

	"whosefd/tracer/memory"
)

// unwindTable finds the unwind information of addresses of one module. All
// addresses in it are those in the process.
type unwindTable struct {
	index searchTable
	// rest has the entries, ascending, that an index does not lead to. It is read
	// when the first address is not in the index.
	rest     []*frame.FrameDescriptionEntry
	restRead bool
}

// rule is the unwind information of one range of addresses.
type rule struct {
	fde    *frame.FrameDescriptionEntry
	signal bool // the frame is a signal trampoline
}

var errNoRule = errors.New("no unwind information")

const (
	maxTable = 64 << 20 // bytes of .eh_frame_hdr or .eh_frame
	maxEntry = 1 << 20  // bytes of one entry of .eh_frame
)

// ruleAt finds the unwind information for a PC of the module.
func (p *process) ruleAt(m *module, pc uint64) (r rule, err error) {
	defer recovered(&err)
	if m.unwind == nil {
		m.unwind = p.loadTable(m)
	}
	t := m.unwind
	if at, ok := t.index.find(pc); ok {
		if r, err = p.readRule(at, pc); !errors.Is(err, errNoRule) {
			return r, err
		}
	}
	if !t.restRead {
		t.restRead = true
		err = guarded(func() (err error) { t.rest, err = p.restOf(m); return err })
		if err != nil {
			return rule{}, err
		}
	}
	return ruleIn(t.rest, pc)
}

// ruleIn finds the entry for an address among ascending ones.
func ruleIn(all []*frame.FrameDescriptionEntry, pc uint64) (rule, error) {
	i, found := slices.BinarySearchFunc(all, pc, func(e *frame.FrameDescriptionEntry, pc uint64) int {
		return cmp.Compare(e.Begin(), pc)
	})
	if !found {
		i--
	}
	if i < 0 || !all[i].Cover(pc) {
		return rule{}, errNoRule
	}
	return newRule(all[i]), nil
}

// loadTable reads the index, if there is one.
func (p *process) loadTable(m *module) *unwindTable {
	t := &unwindTable{}
	if ph, ok := m.prog(elf.PT_GNU_EH_FRAME); ok && m.known && ph.Memsz <= maxTable {
		addr := m.bias + ph.Vaddr
		if b, err := memory.Bytes(p.mem, addr, int(ph.Memsz)); err == nil {
			t.index, _ = parseSearchTable(b, addr)
		}
	}
	return t
}

// restOf reads from the file of a module the .eh_frame that has no index, and
// .debug_frame, which code that was built without .eh_frame may have, there or
// in its separate debug file.
func (p *process) restOf(m *module) ([]*frame.FrameDescriptionEntry, error) {
	f := p.open(m)
	if f == nil || !m.known {
		return nil, nil
	}
	var all []*frame.FrameDescriptionEntry
	if sec := f.Section(".eh_frame"); sec != nil && m.unwind.index.pairs == nil {
		var err error
		if all, err = parseTable(f, sec.Name, 0, m.bias+sec.Addr); err != nil {
			return nil, err
		}
	}
	if f.section(".debug_frame") == nil {
		f = p.debugObject(m, f)
	}
	if f != nil {
		debug, _ := parseTable(f, ".debug_frame", m.bias, 0) // if it is broken, the other counts
		all = append(all, debug...)
	}
	slices.SortFunc(all, func(a, b *frame.FrameDescriptionEntry) int { return cmp.Compare(a.Begin(), b.Begin()) })
	return all, nil
}

// parseTable parses a whole section, whose addresses are relative to the file's
// base or, for .eh_frame, to at, where the section is.
func parseTable(f *object, section string, base, at uint64) ([]*frame.FrameDescriptionEntry, error) {
	data, err := f.section(section).all()
	if err == nil && (len(data) == 0 || len(data) > maxTable) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", section, err)
	}
	all, err := frame.Parse(data, binary.LittleEndian, base, 8, at)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", section, err)
	}
	return all, nil
}

// searchTable is the binary search table of .eh_frame_hdr (Linux Standard Base,
// "Exception Frames"): pairs of first address and address of the entry, both as
// signed 32-bit distances from the section's beginning.
type searchTable struct {
	base  uint64 // where the section is
	pairs []byte
}

// Pointer encodings (DW_EH_PE_*) of the only form that linkers make.
const (
	encOmit       = 0xff
	encDataSdata4 = 0x3b
)

// parseSearchTable reads .eh_frame_hdr, which is at addr.
func parseSearchTable(b []byte, addr uint64) (searchTable, error) {
	if len(b) < 4 || b[0] != 1 {
		return searchTable{}, errors.New(".eh_frame_hdr: unknown version")
	}
	ptr, err := encodedSize(b[1])
	if err != nil {
		return searchTable{}, err
	}
	if b[3] != encDataSdata4 {
		return searchTable{}, fmt.Errorf(".eh_frame_hdr: table encoding %#x", b[3])
	}
	countSize, err := encodedSize(b[2])
	if err != nil || countSize < 4 {
		return searchTable{}, fmt.Errorf(".eh_frame_hdr: count encoding %#x", b[2])
	}
	at := 4 + ptr
	if len(b) < at+countSize {
		return searchTable{}, errors.New(".eh_frame_hdr: too short")
	}
	count := uint64(binary.LittleEndian.Uint32(b[at:]))
	pairs := b[at+countSize:]
	if count > uint64(len(pairs)/8) {
		return searchTable{}, errors.New(".eh_frame_hdr: table too long")
	}
	return searchTable{base: addr, pairs: pairs[:count*8]}, nil
}

// encodedSize is how long a pointer of an encoding is, bytes.
func encodedSize(enc byte) (int, error) {
	if enc == encOmit {
		return 0, nil
	}
	switch enc & 0x0f {
	case 0x02, 0x0a:
		return 2, nil
	case 0x03, 0x0b:
		return 4, nil
	case 0x00, 0x04, 0x0c:
		return 8, nil
	}
	return 0, fmt.Errorf(".eh_frame_hdr: pointer encoding %#x", enc)
}

func (t searchTable) at(i int) (begin, entry uint64) {
	b := t.pairs[i*8 : i*8+8]
	begin = t.base + uint64(int64(int32(binary.LittleEndian.Uint32(b))))
	entry = t.base + uint64(int64(int32(binary.LittleEndian.Uint32(b[4:]))))
	return begin, entry
}

// find gives the address of the last entry that begins at or before pc.
func (t searchTable) find(pc uint64) (entry uint64, ok bool) {
	i := sort.Search(len(t.pairs)/8, func(i int) bool { begin, _ := t.at(i); return begin > pc })
	if i == 0 {
		return 0, false
	}
	_, entry = t.at(i - 1)
	return entry, true
}

// readRule reads one entry and the common entry (CIE) that it refers to from
// the process, and checks that it is for pc.
func (p *process) readRule(at, pc uint64) (rule, error) {
	fde, err := p.readEntry(at)
	if err != nil {
		return rule{}, err
	}
	cie, err := p.readEntry(at + 4 - uint64(binary.LittleEndian.Uint32(fde[4:])))
	if err != nil {
		return rule{}, err
	}
	return parseRule(cie, fde, at, pc)
}

// readEntry reads an entry of .eh_frame with its length word.
func (p *process) readEntry(at uint64) ([]byte, error) {
	// Most entries are this short, which saves a second read.
	var short [64]byte
	got, err := p.mem.ReadMemory(short[:], at)
	if got < 8 {
		return nil, err
	}
	n := uint64(binary.LittleEndian.Uint32(short[:])) + 4
	if n < 8 || n > maxEntry {
		return nil, fmt.Errorf("unwind entry at %#x: length %d", at, n)
	}
	if n <= uint64(got) {
		return short[:n], nil
	}
	return memory.Bytes(p.mem, at, int(n))
}

// parseRule parses an entry at address at, given with its CIE.
func parseRule(cie, fde []byte, at, pc uint64) (r rule, err error) {
	defer recovered(&err)
	if len(cie) < 12 || len(fde) < 8 || binary.LittleEndian.Uint32(cie[4:]) != 0 {
		return rule{}, errors.New("unwind entry without a common entry")
	}
	// Delve parses sections, so make one of the two; addresses in the FDE are
	// relative to where it is.
	sec := slices.Concat(cie, fde)
	binary.LittleEndian.PutUint32(sec[len(cie)+4:], uint32(len(cie)+4))
	// The letters B and G (arm64: other key for return addresses, memory
	// tagging) have no data and are unknown to delve; S has none and is ignored.
	for i := 9; i < len(cie) && sec[i] != 0; i++ {
		if sec[i] == 'B' || sec[i] == 'G' {
			sec[i] = 'S'
		}
	}
	entries, err := frame.Parse(sec, binary.LittleEndian, 0, 8, at-uint64(len(cie)))
	if err != nil {
		return rule{}, fmt.Errorf("unwind entry at %#x: %w", at, err)
	}
	if len(entries) != 1 || !entries[0].Cover(pc) {
		return rule{}, errNoRule
	}
	// The letters as they were.
	letters, _, _ := bytes.Cut(cie[9:], []byte{0})
	return rule{fde: entries[0], signal: bytes.IndexByte(letters, 'S') >= 0}, nil
}

func newRule(fde *frame.FrameDescriptionEntry) rule {
	return rule{fde: fde, signal: strings.Contains(fde.CIE.Augmentation, "S")}
}
