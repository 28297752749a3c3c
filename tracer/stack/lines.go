package stack

import (
	"cmp"
	"debug/dwarf"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
)

// maxDebugInfo bounds how much debug info of one file is read, bytes.
const maxDebugInfo = 1 << 30

// debugSections are those that functions and lines need.
var debugSections = []string{"aranges", "abbrev", "info", "str", "line", "ranges", // DWARF 2 to 4
	"addr", "line_str", "str_offsets", "rnglists"} // DWARF 5

// firstAdded is the index of the first that [dwarf.New] does not take.
const firstAdded = 6

// lines finds functions and lines of addresses by the file's debug info, one
// slice for each address: inlined functions innermost first, then the function
// that they are in. An address without debug info has none.
func lines(f *object, pcs []uint64) (named [][]call, err error) {
	defer recovered(&err)
	named = make([][]call, len(pcs))
	data, info, aranges, err := loadDWARF(f)
	if err != nil || data == nil {
		return named, err
	}
	order := make([]int, len(pcs))
	for i := range order {
		order[i] = i
	}
	// Neighbouring functions are mostly in one unit.
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(pcs[a], pcs[b]) })
	l := &lineFinder{data: data, reader: data.Reader(), other: data.Reader(), units: unitIndex(info, aranges, pcs)}
	for _, i := range order {
		calls, err := l.find(pcs[i])
		if err != nil && !errors.Is(err, dwarf.ErrUnknownPC) {
			return named, fmt.Errorf("debug info: %w", err)
		}
		named[i] = calls
	}
	return named, nil
}

// loadDWARF reads the sections that are needed; nil if there is no debug info.
func loadDWARF(f *object) (data *dwarf.Data, info, aranges []byte, err error) {
	var sections []*elf.Section
	total := uint64(0)
	for _, name := range debugSections {
		sec := f.Section(".debug_" + name)
		if sec == nil || sec.Type == elf.SHT_NOBITS {
			continue
		}
		if total += sec.Size; sec.Size > maxDebugInfo || total > maxDebugInfo {
			return nil, nil, nil, errors.New("debug info: too large")
		}
		sections = append(sections, sec)
	}
	// Inflating compressed sections is most of the work, so do it at once.
	contents, errs := make([][]byte, len(sections)), make([]error, len(sections))
	var group sync.WaitGroup
	for i, sec := range sections {
		group.Go(func() {
			defer recovered(&errs[i])
			contents[i], errs[i] = f.contents(sec)
		})
	}
	group.Wait()
	found := map[string][]byte{}
	for i, sec := range sections {
		if errs[i] != nil {
			return nil, nil, nil, fmt.Errorf("%s: %w", sec.Name, errs[i])
		}
		found[strings.TrimPrefix(sec.Name, ".debug_")] = contents[i]
	}
	if found["info"] == nil {
		return nil, nil, nil, nil
	}
	data, err = dwarf.New(found["abbrev"], nil, nil, found["info"], found["line"], nil, found["ranges"], found["str"])
	if err != nil {
		return nil, nil, nil, fmt.Errorf("debug info: %w", err)
	}
	for _, name := range debugSections[firstAdded:] {
		if b := found[name]; b != nil {
			if err := data.AddSection(".debug_"+name, b); err != nil {
				return nil, nil, nil, fmt.Errorf(".debug_%s: %w", name, err)
			}
		}
	}
	return data, found["info"], found["aranges"], nil
}

// unitIndex finds the units of addresses by .debug_aranges: for each address
// the offset of the unit's first entry in .debug_info.
func unitIndex(info, aranges []byte, pcs []uint64) map[uint64]dwarf.Offset {
	units := map[uint64]dwarf.Offset{}
	parseAranges(aranges, slices.Sorted(slices.Values(pcs)), func(pc, unit uint64) {
		if off, ok := firstEntry(info, unit); ok {
			units[pc] = off
		}
	})
	return units
}

// firstEntry gives where the entries of a 32-bit unit begin (DWARF 5, section 7.5.1).
func firstEntry(info []byte, unit uint64) (dwarf.Offset, bool) {
	if unit > uint64(len(info)) || len(info[unit:]) < 12 {
		return 0, false
	}
	header := info[unit:]
	if binary.LittleEndian.Uint32(header) >= 0xfffffff0 {
		return 0, false
	}
	switch version := binary.LittleEndian.Uint16(header[4:]); {
	case version >= 2 && version <= 4:
		return dwarf.Offset(unit + 11), true
	case version == 5 && header[6] == 1: // DW_UT_compile
		return dwarf.Offset(unit + 12), true
	}
	return 0, false
}

// parseAranges calls found with each of the ascending pcs that .debug_aranges
// (DWARF 5, section 6.1.2) has, and its unit's offset in .debug_info.
func parseAranges(b []byte, pcs []uint64, found func(pc, unit uint64)) {
	for len(b) >= 12 {
		n := uint64(binary.LittleEndian.Uint32(b))
		if n < 8 || n > uint64(len(b)-4) {
			return // the end, a 64-bit set, or broken
		}
		set := b[:4+n]
		b = b[4+n:]
		if binary.LittleEndian.Uint16(set[4:]) != 2 || set[10] != 8 || set[11] != 0 {
			continue
		}
		unit := uint64(binary.LittleEndian.Uint32(set[6:]))
		// Tuples are aligned to their own size from the set's beginning.
		for at := 16; at+16 <= len(set); at += 16 {
			begin := binary.LittleEndian.Uint64(set[at:])
			size := binary.LittleEndian.Uint64(set[at+8:])
			i, _ := slices.BinarySearch(pcs, begin)
			for ; i < len(pcs) && pcs[i]-begin < size; i++ {
				found(pcs[i], unit)
			}
		}
	}
}

// lineFinder looks addresses up in one file's debug info.
type lineFinder struct {
	data   *dwarf.Data
	reader *dwarf.Reader
	other  *dwarf.Reader // for entries that others refer to
	units  map[uint64]dwarf.Offset
}

func (l *lineFinder) find(pc uint64) ([]call, error) {
	unit, err := l.unit(pc)
	if err != nil {
		return nil, err
	}
	chain, err := l.functions(pc)
	if err != nil {
		return nil, err
	}
	table, err := l.data.LineReader(unit)
	if err != nil {
		return nil, err
	}
	var here call
	var files []*dwarf.LineFile
	if table != nil {
		files = table.Files()
		entry, err := lineAt(table, pc)
		if err != nil {
			return nil, err
		}
		if entry.Line > 0 {
			here.file, here.line = fileName(unit, entry.File), entry.Line
		}
	}
	if len(chain) == 0 {
		if here.file == "" {
			return nil, nil
		}
		return []call{here}, nil // assembler: lines but no functions
	}
	calls := make([]call, 0, len(chain))
	for _, e := range slices.Backward(chain) {
		here.function, here.plain = l.name(e)
		here.plain = here.plain && isCPP(unit)
		calls = append(calls, here)
		here = call{}
		if at, ok := e.Val(dwarf.AttrCallFile).(int64); ok && at >= 0 && at < int64(len(files)) {
			here.file = fileName(unit, files[at])
		}
		if line, ok := e.Val(dwarf.AttrCallLine).(int64); ok && here.file != "" {
			here.line = int(line)
		}
	}
	return calls, nil
}

// lineAt finds the line of an address; the zero entry if it has none. The
// table's sequences need not ascend, as [dwarf.LineReader.SeekPC] assumes.
func lineAt(table *dwarf.LineReader, pc uint64) (found dwarf.LineEntry, err error) {
	var before, entry dwarf.LineEntry
	started := false // within a sequence
	for {
		switch err := table.Next(&entry); {
		case errors.Is(err, io.EOF):
			return dwarf.LineEntry{}, nil
		case err != nil:
			return dwarf.LineEntry{}, err
		}
		if started && before.Address <= pc && pc < entry.Address {
			return before, nil
		}
		before, started = entry, !entry.EndSequence
	}
}

// unit positions the reader behind the first entry of an address's unit.
func (l *lineFinder) unit(pc uint64) (*dwarf.Entry, error) {
	if off, ok := l.units[pc]; ok {
		l.reader.Seek(off)
		if e, err := l.reader.Next(); err == nil && e != nil && e.Tag == dwarf.TagCompileUnit {
			return e, nil
		}
		l.reader = l.data.Reader()
	}
	return l.reader.SeekPC(pc)
}

// functions gives the function that an address is in, and those inlined there,
// outermost first.
func (l *lineFinder) functions(pc uint64) (chain []*dwarf.Entry, err error) {
	depth, within := 1, 0
	for depth > within {
		e, err := l.reader.Next()
		if err != nil {
			return nil, err
		}
		if e == nil {
			break
		}
		if e.Tag == 0 {
			depth--
			continue
		}
		descend := false
		switch e.Tag {
		case dwarf.TagSubprogram, dwarf.TagInlinedSubroutine, dwarf.TagLexDwarfBlock:
			if descend, err = l.contains(e, pc); err != nil {
				return nil, err
			}
			if !descend {
				break
			}
			within = depth // what comes after its children is of no interest
			if e.Tag == dwarf.TagSubprogram {
				chain = chain[:0]
			}
			if e.Tag != dwarf.TagLexDwarfBlock {
				chain = append(chain, e)
			}
			if !e.Children {
				return chain, nil
			}
		case dwarf.TagNamespace, dwarf.TagModule:
			descend = true
		}
		switch {
		case !e.Children:
		case descend:
			depth++
		default:
			l.reader.SkipChildren()
		}
	}
	return chain, nil
}

func (l *lineFinder) contains(e *dwarf.Entry, pc uint64) (bool, error) {
	ranges, err := l.data.Ranges(e)
	if err != nil {
		return false, err
	}
	for _, r := range ranges {
		if r[0] <= pc && pc < r[1] {
			return true, nil
		}
	}
	return false, nil
}

// isCPP says whether a unit is C++ (DW_LANG_C_plus_plus and its later versions).
func isCPP(unit *dwarf.Entry) bool {
	lang, _ := unit.Val(dwarf.AttrLanguage).(int64)
	return slices.Contains([]int64{0x04, 0x1a, 0x21, 0x2b, 0x3a}, lang)
}

// maxReferences bounds how many entries a name is looked for in.
const maxReferences = 8

// name gives a function's name: as in the source for C++, with parameters; the
// plain one for C, and where C++ has nothing else. It is often in another entry
// that the function refers to.
func (l *lineFinder) name(e *dwarf.Entry) (name string, plain bool) {
	for range maxReferences {
		if s, ok := e.Val(dwarf.AttrName).(string); ok && name == "" {
			name = s
		}
		if s, ok := e.Val(dwarf.AttrLinkageName).(string); ok {
			if d := demangled(s); d != s {
				return d, false
			}
		}
		ref, ok := e.Val(dwarf.AttrAbstractOrigin).(dwarf.Offset)
		if !ok {
			if ref, ok = e.Val(dwarf.AttrSpecification).(dwarf.Offset); !ok {
				break
			}
		}
		l.other.Seek(ref)
		next, err := l.other.Next()
		if err != nil || next == nil {
			break
		}
		e = next
	}
	return name, true
}

// fileName gives a file's name the way gdb writes it: as the compiler was given
// it, so not joined with the folder that it ran in.
func fileName(unit *dwarf.Entry, f *dwarf.LineFile) string {
	if f == nil {
		return ""
	}
	name, _ := unit.Val(dwarf.AttrName).(string)
	dir, _ := unit.Val(dwarf.AttrCompDir).(string)
	if name != "" && (f.Name == name || path.Clean(f.Name) == path.Join(dir, name)) {
		return name
	}
	if dir != "" {
		if rel, ok := strings.CutPrefix(f.Name, strings.TrimRight(dir, "/")+"/"); ok {
			return rel
		}
	}
	return f.Name
}
