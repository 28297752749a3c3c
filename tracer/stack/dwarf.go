package stack

import (
	"debug/dwarf"
	"encoding/binary"
	"errors"
	"path"
	"slices"
	"strings"
)

// debugInfo is the debug info of one file, which package debug/dwarf reads. That
// trusts the sizes in a file, so they are checked before; and it wants sections
// whole, so .debug_info is cut behind the last unit that is needed.
type debugInfo struct {
	*dwarf.Data
	o      *object
	shared func() *debugInfo       // see sharedFile
	roots  map[uint64]dwarf.Offset // first entry of each unit, by the offset of its header
	units  map[dwarf.Offset]*unit  // by first entry
	work   int                     // see maxWork
}

const (
	// maxUnits and maxAbbrevs (bytes) bound what is made of them in memory.
	maxUnits   = 1 << 20
	maxAbbrevs = 16 << 20
	// maxAttrs bounds the attributes of an entry; compilers make some 20.
	maxAttrs = 256
	// maxRangeLists bounds the sections with lists of ranges, bytes.
	maxRangeLists = 64 << 20
	// maxWork bounds how many attributes, ranges and rows are looked at: a few
	// seconds' work.
	maxWork = 1 << 26
	// costly is what takes some 20 ms to unpack, bytes.
	costly = 8 << 20
)

var errDWARF = errors.New("debug info: broken, or too large")

// lines finds functions and lines of addresses by the file's debug info, one
// slice for each address: inlined functions innermost first, then the function
// that they are in. An address without debug info has none. shared opens the file
// that holds what several files have in common.
func lines(o *object, pcs []uint64, shared func() *object) [][]call {
	named := make([][]call, len(pcs))
	if o.section(".debug_info") == nil {
		return named
	}
	// Where the sections are packed, two processors unpack them in half the time.
	o.prefetch(".debug_abbrev", ".debug_str", ".debug_line_str", ".debug_rnglists", ".debug_ranges", ".debug_line")
	_ = guarded(func() error {
		units, whole := unitsByAranges(o, pcs)
		d, err := newDebugInfo(o, units, whole)
		if err != nil {
			return err
		}
		d.shared = func() *debugInfo {
			if o := shared(); o != nil {
				if other, err := newDebugInfo(o, nil, true); err == nil {
					return other
				}
			}
			return nil
		}
		for i, pc := range pcs {
			// A unit that is broken costs only its own frames their names.
			_ = guarded(func() error {
				u, err := d.unitOf(pc, units, whole)
				if err == nil {
					named[i] = u.calls(pc)
				}
				return err
			})
		}
		return nil
	})
	return named
}

// unitsByAranges gives the offsets in .debug_info of the units of addresses, as
// .debug_aranges has them (DWARF 5, section 6.1.2). whole says that other units
// have to be looked at as well.
func unitsByAranges(o *object, pcs []uint64) (units map[uint64]uint64, whole bool) {
	units = map[uint64]uint64{}
	b, _ := o.section(".debug_aranges").all()
	for len(b) >= 16 {
		n := uint64(binary.LittleEndian.Uint32(b))
		if n < 12 || n > uint64(len(b)-4) {
			break // the end, a 64-bit set, or broken
		}
		set := b[:4+n]
		b = b[4+n:]
		if binary.LittleEndian.Uint16(set[4:]) != 2 || set[10] != 8 || set[11] != 0 {
			continue
		}
		// Tuples are aligned to their own size from the set's beginning.
		for at := 16; at+16 <= len(set); at += 16 {
			begin, size := binary.LittleEndian.Uint64(set[at:]), binary.LittleEndian.Uint64(set[at+8:])
			for _, pc := range pcs {
				if pc-begin < size {
					units[pc] = uint64(binary.LittleEndian.Uint32(set[6:]))
				}
			}
		}
	}
	missing := slices.ContainsFunc(pcs, func(pc uint64) bool { _, ok := units[pc]; return !ok })
	// Start-up code mostly has no debug info. To unpack all the rest for being
	// sure of that is not worth the time.
	return units, missing && (len(units) == 0 || o.section(".debug_info").left() <= costly)
}

// newDebugInfo reads .debug_info as far as the units are, or the whole.
func newDebugInfo(o *object, units map[uint64]uint64, whole bool) (*debugInfo, error) {
	var last uint64
	for _, at := range units {
		last = max(last, at)
	}
	abbrev, err := o.section(".debug_abbrev").all()
	if err != nil {
		return nil, err
	}
	d := &debugInfo{o: o, roots: map[uint64]dwarf.Offset{}, units: map[dwarf.Offset]*unit{}}
	info, err := d.headers(abbrev, last, whole)
	if err != nil {
		return nil, err
	}
	rest := map[string][]byte{}
	for _, name := range []string{".debug_line", ".debug_ranges", ".debug_str",
		".debug_addr", ".debug_line_str", ".debug_rnglists", ".debug_str_offsets"} {
		if rest[name], err = o.section(name).all(); err != nil {
			return nil, err
		}
	}
	if len(rest[".debug_ranges"]) > maxRangeLists || len(rest[".debug_rnglists"]) > maxRangeLists {
		return nil, errDWARF
	}
	d.Data, err = dwarf.New(abbrev, nil, nil, info, rest[".debug_line"], nil, rest[".debug_ranges"], rest[".debug_str"])
	if err != nil {
		return nil, err
	}
	for _, name := range []string{".debug_addr", ".debug_line_str", ".debug_rnglists", ".debug_str_offsets"} {
		if err := d.AddSection(name, rest[name]); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// headers gives .debug_info up to the end of the unit at last, or the whole, if the
// sizes in the headers of its units (DWARF 5, section 7.5.1) are sensible.
func (d *debugInfo) headers(abbrev []byte, last uint64, whole bool) ([]byte, error) {
	sec := d.o.section(".debug_info")
	tables := map[uint64]bool{}
	abbrevs := 0
	for next := uint64(0); ; {
		b, err := sec.upTo(next + 32)
		if err != nil {
			return nil, err
		}
		at := next
		if at >= uint64(len(b)) || at > last && !whole {
			return b[:at], nil
		}
		r := reader{b: b, at: at}
		size, is64 := r.length()
		next = r.at + size
		kind, version := byte(0), r.u16()
		if version >= 5 {
			kind = r.u8()
			r.u8() // size of addresses
		}
		table := r.offset(is64)
		if version < 5 {
			r.u8() // size of addresses
		}
		if kind == 0x04 || kind == 0x05 { // DW_UT_skeleton, DW_UT_split_compile
			r.u64()
		}
		d.roots[at] = dwarf.Offset(r.at)
		if b, err = sec.upTo(next); err != nil {
			return nil, err
		}
		if r.failed || next > uint64(len(b)) || len(d.roots) > maxUnits || table > uint64(len(abbrev)) {
			return nil, errDWARF
		}
		if !tables[table] {
			tables[table] = true
			if abbrevs += abbrevsSize(abbrev[table:]); abbrevs > maxAbbrevs {
				return nil, errDWARF
			}
		}
	}
}

// abbrevsSize is how long a table of abbreviations is, bytes (DWARF 5, section
// 7.5.3); more than maxAbbrevs if it is broken.
func abbrevsSize(b []byte) int {
	const implicitConst = 0x21 // DW_FORM_implicit_const
	r := reader{b: b}
	for r.uleb() != 0 {
		r.uleb() // tag
		r.u8()   // children
		for n := 0; ; n++ {
			attr, form := r.uleb(), r.uleb()
			if form == implicitConst {
				r.uleb()
			}
			if attr == 0 && form == 0 {
				break
			}
			if n > maxAttrs {
				return maxAbbrevs + 1
			}
		}
	}
	if r.failed {
		return maxAbbrevs + 1
	}
	return int(r.at)
}

// unit is a unit of .debug_info with its table of lines.
type unit struct {
	d       *debugInfo
	root    *dwarf.Entry
	compDir string
	rows    *dwarf.LineReader // nil if there is none
	files   []*dwarf.LineFile
}

// unitOf finds the unit of an address.
func (d *debugInfo) unitOf(pc uint64, units map[uint64]uint64, whole bool) (*unit, error) {
	r := d.Reader()
	var root *dwarf.Entry
	err := dwarf.ErrUnknownPC
	if at, ok := units[pc]; ok {
		r.Seek(d.roots[at])
		root, err = r.Next()
	} else if whole {
		root, err = r.SeekPC(pc)
	}
	if err != nil || root == nil {
		return nil, errors.Join(err, errDWARF)
	}
	u := d.units[root.Offset]
	if u != nil {
		return u, nil
	}
	u = &unit{d: d, root: root}
	d.units[root.Offset] = u
	u.compDir, _ = root.Val(dwarf.AttrCompDir).(string)
	if at, ok := root.Val(dwarf.AttrStmtList).(int64); ok && d.soundLines(uint64(at)) {
		// Without it there are functions without lines.
		if u.rows, err = d.LineReader(root); err == nil && u.rows != nil {
			u.files = u.rows.Files()
		}
	}
	return u, nil
}

// soundLines checks the counts in the header of a table of lines (DWARF 5,
// section 6.2.4), since package debug/dwarf makes room for what they say.
func (d *debugInfo) soundLines(at uint64) bool {
	b, err := d.o.section(".debug_line").all()
	if err != nil {
		return false
	}
	r := reader{b: b, at: at}
	_, is64 := r.length()
	if r.u16() < 5 {
		return !r.failed // has no counts
	}
	r.u16() // sizes of addresses and segment selectors
	r.offset(is64)
	r.take(5)
	r.take(uint64(max(r.u8(), 1)) - 1) // operands of each opcode
	for range 2 {                      // folders, files
		forms := make([]uint64, r.u8())
		for i := range forms {
			r.uleb()
			forms[i] = r.uleb()
		}
		n := r.uleb()
		if n > uint64(len(b)) || len(forms) == 0 && n > 0 {
			return false
		}
		for ; n > 0 && !r.failed; n-- {
			for _, form := range forms {
				r.skipForm(form, is64)
			}
		}
	}
	return !r.failed
}

// calls names an address of the unit.
func (u *unit) calls(pc uint64) (all []call) {
	chain := u.functions(pc, false)
	if len(chain) == 0 {
		// Functions of a local class are entries below another function.
		chain = u.functions(pc, true)
	}
	here := u.line(pc)
	if len(chain) == 0 && here.line != 0 {
		return []call{here} // assembler: lines but no functions
	}
	for _, e := range slices.Backward(chain) {
		here.function, here.plain = u.d.function(e)
		here.plain = here.plain && u.isCPP()
		all = append(all, here)
		file, _ := e.Val(dwarf.AttrCallFile).(int64)
		line, _ := e.Val(dwarf.AttrCallLine).(int64)
		here = u.source(file, line)
	}
	return all
}

// isCPP says whether the unit is C++ (DW_LANG_C_plus_plus and its later versions).
func (u *unit) isCPP() bool {
	language, _ := u.root.Val(dwarf.AttrLanguage).(int64)
	return slices.Contains([]int64{0x04, 0x1a, 0x21, 0x2b, 0x3a}, language)
}

// functions finds the function that an address is in, and those inlined there,
// outermost first. With all it looks below every entry.
func (u *unit) functions(pc uint64, all bool) (chain []*dwarf.Entry) {
	if !u.root.Children {
		return nil
	}
	r := u.d.Reader()
	r.Seek(u.root.Offset)
	if _, err := r.Next(); err != nil {
		return nil
	}
	for depth, skip := 1, 0; depth > 0; { // skip: the depth from which on entries do not count
		e, err := r.Next()
		if err != nil || e == nil || u.d.work > maxWork {
			return chain
		}
		u.d.work += 1 + len(e.Field)
		if e.Tag == 0 {
			if depth--; depth < skip {
				skip = 0
			}
			continue
		}
		if skip == 0 {
			in := all
			switch e.Tag {
			case dwarf.TagNamespace, dwarf.TagModule:
				in = true
			case dwarf.TagSubprogram, dwarf.TagInlinedSubroutine, dwarf.TagLexDwarfBlock:
				has := e.AttrField(dwarf.AttrLowpc) != nil || e.AttrField(dwarf.AttrRanges) != nil
				switch {
				case has && u.d.covers(e, pc):
					in = true
					if e.Tag == dwarf.TagSubprogram {
						chain = chain[:0]
					}
					if e.Tag != dwarf.TagLexDwarfBlock {
						chain = append(chain, e)
					}
				case !has && e.Tag == dwarf.TagLexDwarfBlock:
					in = true // it only wraps what is in it
				}
			}
			if e.Children && !in {
				skip = depth + 1
			}
		}
		if !e.Children {
			continue
		}
		// Not SkipChildren, whose recursion has no bound.
		if next, ok := e.Val(dwarf.AttrSibling).(dwarf.Offset); ok && skip != 0 && next > e.Offset {
			r.Seek(next)
			if depth+1 == skip {
				skip = 0
			}
			continue
		}
		depth++
	}
	return chain
}

// covers says whether an address is in the ranges of an entry.
func (d *debugInfo) covers(e *dwarf.Entry, pc uint64) bool {
	ranges, err := d.Ranges(e)
	d.work += len(ranges)
	return err == nil && slices.ContainsFunc(ranges, func(r [2]uint64) bool { return r[0] <= pc && pc < r[1] })
}

// maxReferences bounds how many entries a name is looked for in.
const maxReferences = 8

// function gives a function's name: as in the source for C++, with parameters; the
// plain one for C, and where C++ has nothing else. It is often in another entry
// that the function refers to.
func (d *debugInfo) function(e *dwarf.Entry) (name string, plain bool) {
	const mipsLinkageName dwarf.Attr = 0x2007 // before DWARF 4
	for range maxReferences {
		if name == "" {
			name = d.text(e, dwarf.AttrName)
		}
		for _, attr := range []dwarf.Attr{dwarf.AttrLinkageName, mipsLinkageName} {
			if s := d.text(e, attr); s != "" {
				if shown := demangled(s); shown != s {
					return shown, false
				}
			}
		}
		ref := e.AttrField(dwarf.AttrAbstractOrigin)
		if ref == nil {
			ref = e.AttrField(dwarf.AttrSpecification)
		}
		if ref == nil {
			break
		}
		at, ok := ref.Val.(dwarf.Offset)
		if other, alt := ref.Val.(int64); alt && ref.Class == dwarf.ClassReferenceAlt {
			if d = d.other(); d == nil {
				break
			}
			at, ok = dwarf.Offset(other), true
		}
		if !ok {
			break
		}
		r := d.Reader()
		r.Seek(at)
		next, err := r.Next()
		if err != nil || next == nil {
			break
		}
		e = next
	}
	return name, true
}

// text gives a string attribute.
func (d *debugInfo) text(e *dwarf.Entry, attr dwarf.Attr) string {
	f := e.AttrField(attr)
	if f == nil {
		return ""
	}
	if at, ok := f.Val.(int64); ok && f.Class == dwarf.ClassStringAlt {
		if d = d.other(); d == nil {
			return ""
		}
		b, _ := d.o.section(".debug_str").all()
		return symbolName(b, uint32(at))
	}
	s, _ := f.Val.(string)
	return s
}

// other is the file that several share part of their debug info in (dwz); nil
// if there is none.
func (d *debugInfo) other() *debugInfo {
	if d.shared == nil {
		return nil
	}
	other := d.shared()
	d.shared = func() *debugInfo { return other }
	return other
}

// line finds the source of the instruction at an address.
func (u *unit) line(pc uint64) call {
	if u.rows == nil {
		return call{}
	}
	u.rows.Reset()
	var found, before, row dwarf.LineEntry
	started := false // within a sequence
	for u.rows.Next(&row) == nil && u.d.work < maxWork {
		u.d.work++
		if started && before.Address <= pc && pc < row.Address {
			found = before
		}
		// Of several rows for one address the last counts, but one that begins a
		// statement counts more, and one without a line not at all. So gdb takes
		// them.
		same := started && before.Address == row.Address
		if row.EndSequence || row.Line != 0 && (!same || row.IsStmt || !before.IsStmt) {
			before, started = row, !row.EndSequence
		}
	}
	if found.File == nil {
		return call{}
	}
	return u.place(found.File, int64(found.Line))
}

// source is a line of a file by its number in the unit.
func (u *unit) source(file, line int64) call {
	if file < 0 || file >= int64(len(u.files)) || u.files[file] == nil {
		return call{}
	}
	return u.place(u.files[file], line)
}

func (u *unit) place(f *dwarf.LineFile, line int64) call {
	if line <= 0 || f.Name == "" {
		return call{}
	}
	return call{file: u.fileName(f.Name), line: int(min(line, 1<<31-1))}
}

// fileName writes a file's name as gdb does: as the compiler was given it, so
// not joined with the folder that it ran in.
func (u *unit) fileName(name string) string {
	if !path.IsAbs(u.compDir) {
		return name
	}
	whole := path.Clean(name)
	if !path.IsAbs(name) {
		whole = path.Join(u.compDir, name)
	}
	own, _ := u.root.Val(dwarf.AttrName).(string)
	if own != "" && (whole == path.Clean(own) || whole == path.Join(u.compDir, own)) {
		return own
	}
	return strings.TrimPrefix(name, strings.TrimRight(u.compDir, "/")+"/")
}

// reader reads little-endian numbers. After it has failed it gives zeros.
type reader struct {
	b      []byte
	at     uint64
	failed bool
}

func (r *reader) take(n uint64) []byte {
	if r.failed || r.at > uint64(len(r.b)) || n > uint64(len(r.b))-r.at {
		r.failed = true
		return make([]byte, 8)
	}
	r.at += n
	return r.b[r.at-n : r.at]
}

func (r *reader) u8() byte    { return r.take(1)[0] }
func (r *reader) u16() uint16 { return binary.LittleEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }

func (r *reader) uleb() uint64 {
	if r.failed || r.at > uint64(len(r.b)) {
		r.failed = true
		return 0
	}
	v, n := binary.Uvarint(r.b[r.at:])
	if n <= 0 {
		r.failed = true
		return 0
	}
	r.at += uint64(n)
	return v
}

func (r *reader) sleb() int64 {
	begin := r.at
	v := r.uleb()
	// The highest bit of what there is is the sign.
	if bits := 7 * (r.at - begin); bits < 64 && v>>(max(bits, 1)-1)&1 != 0 {
		v |= ^uint64(0) << bits
	}
	return int64(v)
}

// length reads the length of what follows (DWARF 5, section 7.4), at most 1 TiB.
func (r *reader) length() (n uint64, is64 bool) {
	n = uint64(r.u32())
	if is64 = n == 0xffffffff; is64 {
		n = r.u64()
	}
	if n > 1<<40 {
		r.failed = true
		n = 0
	}
	return n, is64
}

func (r *reader) offset(is64 bool) uint64 {
	if is64 {
		return r.u64()
	}
	return uint64(r.u32())
}

// skipForm goes past a value in the header of a table of lines, of one of the
// forms that compilers use there (DWARF 5, section 7.5.6).
func (r *reader) skipForm(form uint64, is64 bool) {
	switch form {
	case 0x08: // string
		if end := slices.Index(r.b[min(r.at, uint64(len(r.b))):], 0); end >= 0 {
			r.at += uint64(end) + 1
		} else {
			r.failed = true
		}
	case 0x0e, 0x1f: // strp, line_strp
		r.offset(is64)
	case 0x0b: // data1
		r.take(1)
	case 0x05: // data2
		r.take(2)
	case 0x06: // data4
		r.take(4)
	case 0x07: // data8
		r.take(8)
	case 0x1e: // data16
		r.take(16)
	case 0x09: // block
		r.take(r.uleb())
	case 0x0f: // udata
		r.uleb()
	default:
		r.failed = true
	}
}
