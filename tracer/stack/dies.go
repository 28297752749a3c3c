package stack

import (
	"bytes"
	"debug/dwarf"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// debugInfo reads the DWARF entries of one file. Package debug/dwarf wants all
// sections whole and reads every unit's abbreviations at once; a debugger's
// debug info can be 100 MB, of which a backtrace needs a few units. Here only
// those are read, and of a packed section only what lies before them.
type debugInfo struct {
	o       *object
	abbrevs map[uint64]abbrevTable
	units   map[uint64]*unit // by offset
	starts  []uint64         // of the units found so far, ascending
	walked  uint64           // where the next unit after those begins
	alt     func() *debugInfo
	altInfo *debugInfo
	altDone bool
	ranges  int // how many ranges were looked at
}

// maxRanges bounds how many ranges of addresses are looked at in one file, since
// many entries of a broken one could have the same long list: a second's work.
const maxRanges = 1 << 27

var (
	errDWARF = errors.New("debug info: broken")
	// errNoUnit is not an error of the file.
	errNoUnit = errors.New("debug info: no unit")
)

// newDebugInfo gives nil if a file has no debug info.
func newDebugInfo(o *object, alt func() *debugInfo) *debugInfo {
	if o.section(".debug_info") == nil || o.section(".debug_abbrev") == nil {
		return nil
	}
	return &debugInfo{o: o, abbrevs: map[uint64]abbrevTable{}, units: map[uint64]*unit{}, alt: alt}
}

// unit is a unit of .debug_info (DWARF 5, section 7.5.1).
type unit struct {
	info     *debugInfo
	off      uint64 // of the header in .debug_info
	first    uint64 // of the first entry
	end      uint64
	data     []byte // .debug_info up to end
	version  int
	is64     bool
	addrSize int
	abbrevs  abbrevTable

	root                            die
	name, compDir                   string
	low                             uint64
	strBase, addrBase, rnglistsBase uint64
}

// bound says how far an offset or length may go; those beyond are broken, and
// sums of a few of these do not overflow.
const bound = 1 << 40

// unitAt reads the header and the first entry of the unit at an offset.
func (d *debugInfo) unitAt(off uint64) (*unit, error) {
	if u, ok := d.units[off]; ok {
		return u, nil
	}
	u, err := d.header(off)
	if err != nil {
		return nil, err
	}
	var abbrevOff uint64
	r := u.reader(u.first)
	// The header again, for what header has skipped.
	r.at = off + 4
	if u.is64 {
		r.at += 8
	}
	r.u16()
	kind := byte(utCompile)
	if u.version >= 5 {
		kind = r.u8()
		u.addrSize = int(r.u8())
		abbrevOff = r.offset()
	} else {
		abbrevOff = r.offset()
		u.addrSize = int(r.u8())
	}
	switch kind {
	case utSkeleton, utSplitCompile:
		r.skip(8)
	case utType, utSplitType:
		r.skip(8)
		r.offset()
	}
	if r.failed || u.addrSize != 8 && u.addrSize != 4 {
		return nil, errDWARF
	}
	u.first = r.at
	if u.abbrevs, err = d.abbrevTable(abbrevOff); err != nil {
		return nil, err
	}
	if _, ok := r.entry(&u.root); !ok {
		return nil, errDWARF
	}
	u.setBases()
	d.units[off] = u
	return u, nil
}

// Unit types (DWARF 5, table 7.2).
const (
	utCompile      = 0x01
	utType         = 0x02
	utSkeleton     = 0x04
	utSplitCompile = 0x05
	utSplitType    = 0x06
)

// header reads where a unit ends, and its version.
func (d *debugInfo) header(off uint64) (*unit, error) {
	sec := d.o.section(".debug_info")
	b, err := sec.upTo(off + 32)
	if err != nil {
		return nil, fmt.Errorf(".debug_info: %w", err)
	}
	if off >= uint64(len(b)) {
		return nil, errNoUnit
	}
	u := &unit{info: d, off: off}
	r := reader{u: u, b: b, at: off}
	size := uint64(r.u32())
	if size == 0xffffffff {
		u.is64 = true
		size = r.u64()
	}
	u.end = r.at + min(size, bound)
	u.version = int(r.u16())
	u.first = r.at
	if r.failed || size > bound || size < 7 {
		return nil, errDWARF
	}
	if u.data, err = sec.upTo(u.end); err != nil {
		return nil, fmt.Errorf(".debug_info: %w", err)
	}
	if u.end > uint64(len(u.data)) || u.version < 2 || u.version > 5 {
		return nil, errDWARF
	}
	u.data = u.data[:u.end]
	return u, nil
}

// setBases takes from the first entry what others depend on.
func (u *unit) setBases() {
	root := &u.root
	u.strBase, u.addrBase, u.rnglistsBase = root.strBase, root.addrBase, root.rnglistsBase
	u.low, _ = u.address(root.low)
	u.name = u.text(root.name)
	u.compDir = u.text(root.compDir)
}

func (u *unit) reader(at uint64) reader { return reader{u: u, b: u.data, at: at} }

// unitOf finds the unit that an offset in .debug_info is in.
func (d *debugInfo) unitOf(off uint64) (*unit, error) {
	for d.walked <= off {
		if _, err := d.walk(); err != nil {
			return nil, err
		}
	}
	i, found := slices.BinarySearch(d.starts, off)
	if !found {
		i--
	}
	if i < 0 {
		return nil, errNoUnit
	}
	return d.unitAt(d.starts[i])
}

// walk steps over one more unit and gives its offset.
func (d *debugInfo) walk() (uint64, error) {
	at := d.walked
	u, err := d.header(at)
	if err != nil {
		return 0, err
	}
	d.starts = append(d.starts, at)
	d.walked = u.end
	return at, nil
}

// unitsOf finds the units of ascending addresses: through .debug_aranges, then
// by the ranges of those units that it does not have.
func (d *debugInfo) unitsOf(pcs []uint64) map[uint64]*unit {
	found := map[uint64]*unit{}
	listed := map[uint64]bool{}
	if b, err := d.o.section(".debug_aranges").all(); err == nil {
		parseAranges(b, pcs, func(off uint64) { listed[off] = true }, func(pc, off uint64) {
			if u, err := d.unitAt(off); err == nil && found[pc] == nil {
				found[pc] = u
			}
		})
	}
	missing := slices.DeleteFunc(slices.Clone(pcs), func(pc uint64) bool { return found[pc] != nil })
	// Start-up code mostly has no debug info. To unpack all the rest for being
	// sure of that is not worth the time.
	if len(missing) == 0 || len(listed) > 0 && d.o.section(".debug_info").left() > costly {
		return found
	}
	for {
		off, err := d.walk()
		if err != nil {
			return found
		}
		if listed[off] {
			continue
		}
		u, err := d.unitAt(off)
		if err != nil || u.root.tag != dwarf.TagCompileUnit && u.root.tag != tagSkeletonUnit {
			continue
		}
		for _, pc := range missing {
			if found[pc] == nil && u.covers(&u.root, pc) {
				found[pc] = u
			}
		}
	}
}

// costly is what takes some 20 ms to unpack, bytes.
const costly = 8 << 20

const tagSkeletonUnit = 0x4a

// parseAranges goes through .debug_aranges (DWARF 5, section 6.1.2): listed is
// called with each unit's offset in .debug_info, found with each of the
// ascending pcs and its unit.
func parseAranges(b []byte, pcs []uint64, listed func(unit uint64), found func(pc, unit uint64)) {
	for len(b) >= 16 {
		n := uint64(binary.LittleEndian.Uint32(b))
		if n < 12 || n > uint64(len(b)-4) {
			return // the end, a 64-bit set, or broken
		}
		set := b[:4+n]
		b = b[4+n:]
		if binary.LittleEndian.Uint16(set[4:]) != 2 || set[10] != 8 || set[11] != 0 {
			continue
		}
		unit := uint64(binary.LittleEndian.Uint32(set[6:]))
		any := false
		// Tuples are aligned to their own size from the set's beginning.
		for at := 16; at+16 <= len(set); at += 16 {
			begin := binary.LittleEndian.Uint64(set[at:])
			size := binary.LittleEndian.Uint64(set[at+8:])
			any = any || size != 0
			i, _ := slices.BinarySearch(pcs, begin)
			for ; i < len(pcs) && pcs[i]-begin < size; i++ {
				found(pcs[i], unit)
			}
		}
		if any {
			listed(unit)
		}
	}
}

// abbrevTable is what the codes of a unit's entries mean (DWARF 5, section
// 7.5.3). Compilers number them from 1.
type abbrevTable struct {
	dense  []abbrev
	sparse map[uint64]abbrev
}

type abbrev struct {
	tag      dwarf.Tag
	children bool
	fixed    int // size of all attributes, if that does not depend on the entry; else -1
	attrs    []attrForm
}

type attrForm struct {
	attr  dwarf.Attr
	form  form
	value int64 // of an implicit constant
}

func (t abbrevTable) get(code uint64) (*abbrev, bool) {
	if code-1 < uint64(len(t.dense)) {
		return &t.dense[code-1], true
	}
	a, ok := t.sparse[code]
	return &a, ok
}

func (d *debugInfo) abbrevTable(off uint64) (abbrevTable, error) {
	if t, ok := d.abbrevs[off]; ok {
		return t, nil
	}
	b, err := d.o.section(".debug_abbrev").all()
	if err != nil {
		return abbrevTable{}, fmt.Errorf(".debug_abbrev: %w", err)
	}
	t, err := parseAbbrevs(b, off)
	if err == nil {
		d.abbrevs[off] = t
	}
	return t, err
}

func parseAbbrevs(b []byte, off uint64) (abbrevTable, error) {
	r := reader{b: b, at: off}
	var t abbrevTable
	for {
		code := r.uleb()
		if r.failed {
			return abbrevTable{}, errDWARF
		}
		if code == 0 {
			return t, nil
		}
		a := abbrev{tag: dwarf.Tag(r.uleb()), children: r.u8() != 0}
		for {
			f := attrForm{attr: dwarf.Attr(r.uleb()), form: form(r.uleb())}
			if f.form == formImplicitConst {
				f.value = r.sleb()
			}
			if r.failed {
				return abbrevTable{}, errDWARF
			}
			if f.attr == 0 && f.form == 0 {
				break
			}
			size := f.form.size()
			if size < 0 || a.fixed < 0 {
				a.fixed = -1
			} else {
				a.fixed += size
			}
			a.attrs = append(a.attrs, f)
		}
		if code == uint64(len(t.dense))+1 {
			t.dense = append(t.dense, a)
			continue
		}
		if t.sparse == nil {
			t.sparse = map[uint64]abbrev{}
		}
		t.sparse[code] = a
	}
}

// form is how an attribute is written (DWARF 5, table 7.6, and GNU's).
type form uint32

const (
	formAddr          form = 0x01
	formBlock2        form = 0x03
	formBlock4        form = 0x04
	formData2         form = 0x05
	formData4         form = 0x06
	formData8         form = 0x07
	formString        form = 0x08
	formBlock         form = 0x09
	formBlock1        form = 0x0a
	formData1         form = 0x0b
	formFlag          form = 0x0c
	formSdata         form = 0x0d
	formStrp          form = 0x0e
	formUdata         form = 0x0f
	formRefAddr       form = 0x10
	formRef1          form = 0x11
	formRef2          form = 0x12
	formRef4          form = 0x13
	formRef8          form = 0x14
	formRefUdata      form = 0x15
	formIndirect      form = 0x16
	formSecOffset     form = 0x17
	formExprloc       form = 0x18
	formFlagPresent   form = 0x19
	formStrx          form = 0x1a
	formAddrx         form = 0x1b
	formRefSup4       form = 0x1c
	formStrpSup       form = 0x1d
	formData16        form = 0x1e
	formLineStrp      form = 0x1f
	formRefSig8       form = 0x20
	formImplicitConst form = 0x21
	formLoclistx      form = 0x22
	formRnglistx      form = 0x23
	formRefSup8       form = 0x24
	formStrx1         form = 0x25
	formStrx2         form = 0x26
	formStrx3         form = 0x27
	formStrx4         form = 0x28
	formAddrx1        form = 0x29
	formAddrx2        form = 0x2a
	formAddrx3        form = 0x2b
	formAddrx4        form = 0x2c
	formGNUAddrIndex  form = 0x1f01
	formGNUStrIndex   form = 0x1f02
	formGNURefAlt     form = 0x1f20
	formGNUStrpAlt    form = 0x1f21
)

// size is how many bytes every value of a form has; -1 if that differs, also
// between units.
func (f form) size() int {
	switch f {
	case formFlagPresent, formImplicitConst:
		return 0
	case formData1, formRef1, formFlag, formStrx1, formAddrx1:
		return 1
	case formData2, formRef2, formStrx2, formAddrx2:
		return 2
	case formStrx3, formAddrx3:
		return 3
	case formData4, formRef4, formRefSup4, formStrx4, formAddrx4:
		return 4
	case formData8, formRef8, formRefSig8, formRefSup8:
		return 8
	case formData16:
		return 16
	}
	return -1
}

// value is an attribute's value; form 0 means that there is none.
type value struct {
	form form
	n    uint64 // number, address, offset, or index, unresolved
	text []byte // of formString
}

// die is what is needed of an entry.
type die struct {
	off      uint64
	tag      dwarf.Tag
	children bool

	name, linkage, compDir value
	low, high, ranges      value
	origin, specification  value
	callFile, callLine     value
	lineTable, language    value
	sibling                value

	strBase, addrBase, rnglistsBase uint64
}

// reader reads numbers and attributes. After it has failed it gives zeros.
type reader struct {
	u      *unit
	b      []byte
	at     uint64
	failed bool
}

func (r *reader) take(n uint64) []byte {
	if r.failed || r.at > uint64(len(r.b)) || n > uint64(len(r.b))-r.at {
		r.failed = true
		return nil
	}
	b := r.b[r.at : r.at+n]
	r.at += n
	return b
}

func (r *reader) skip(n uint64) { r.take(n) }

func (r *reader) u8() byte {
	if r.at >= uint64(len(r.b)) {
		r.failed = true
		return 0
	}
	c := r.b[r.at]
	r.at++
	return c
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (r *reader) uleb() (v uint64) {
	for shift := uint(0); ; shift += 7 {
		c := r.u8()
		if shift < 64 {
			v |= uint64(c&0x7f) << shift
		}
		if c&0x80 == 0 {
			return v
		}
	}
}

func (r *reader) sleb() (v int64) {
	for shift := uint(0); ; {
		c := r.u8()
		if shift < 64 {
			v |= int64(c&0x7f) << shift
		}
		shift += 7
		if c&0x80 == 0 {
			if shift < 64 && c&0x40 != 0 {
				v |= -1 << shift
			}
			return v
		}
	}
}

// offset reads an offset into a section.
func (r *reader) offset() uint64 {
	if r.u.is64 {
		return r.u64()
	}
	return uint64(r.u32())
}

func (r *reader) addr() uint64 {
	if r.u.addrSize == 4 {
		return uint64(r.u32())
	}
	return r.u64()
}

func (r *reader) text() []byte {
	if r.at >= uint64(len(r.b)) {
		r.failed = true
		return nil
	}
	n := bytes.IndexByte(r.b[r.at:], 0)
	if n < 0 {
		r.failed = true
		return nil
	}
	b := r.b[r.at : r.at+uint64(n)]
	r.at += uint64(n) + 1
	return b
}

// value reads an attribute.
func (r *reader) value(f attrForm) value {
	v := value{form: f.form}
	switch f.form {
	case formFlagPresent:
		v.n = 1
	case formImplicitConst:
		v.n = uint64(f.value)
	case formData1, formRef1, formFlag, formStrx1, formAddrx1:
		v.n = uint64(r.u8())
	case formData2, formRef2, formStrx2, formAddrx2:
		v.n = uint64(r.u16())
	case formStrx3, formAddrx3:
		v.n = uint64(r.u16()) | uint64(r.u8())<<16
	case formData4, formRef4, formRefSup4, formStrx4, formAddrx4:
		v.n = uint64(r.u32())
	case formData8, formRef8, formRefSig8, formRefSup8:
		v.n = r.u64()
	case formData16:
		r.skip(16)
	case formUdata, formRefUdata, formStrx, formAddrx, formLoclistx, formRnglistx, formGNUAddrIndex, formGNUStrIndex:
		v.n = r.uleb()
	case formSdata:
		v.n = uint64(r.sleb())
	case formAddr:
		v.n = r.addr()
	case formRefAddr:
		if r.u.version == 2 {
			v.n = r.addr()
		} else {
			v.n = r.offset()
		}
	case formStrp, formSecOffset, formStrpSup, formLineStrp, formGNURefAlt, formGNUStrpAlt:
		v.n = r.offset()
	case formString:
		v.text = r.text()
	case formBlock1:
		r.skip(uint64(r.u8()))
	case formBlock2:
		r.skip(uint64(r.u16()))
	case formBlock4:
		r.skip(uint64(r.u32()))
	case formBlock, formExprloc:
		r.skip(r.uleb())
	case formIndirect:
		next := form(r.uleb())
		if next == formIndirect || next == formImplicitConst {
			r.failed = true
			return v
		}
		return r.value(attrForm{form: next})
	default:
		r.failed = true
	}
	return v
}

// DW_AT_GNU_addr_base, of DWARF 4 with the debug info in a file of its own.
const attrGNUAddrBase dwarf.Attr = 0x2133

// DW_AT_MIPS_linkage_name, before DWARF 4.
const attrMIPSLinkageName dwarf.Attr = 0x2007

// entry reads the next entry. With tag 0 it is the end of a list of children.
func (r *reader) entry(d *die) (*abbrev, bool) {
	*d = die{off: r.at}
	code := r.uleb()
	if r.failed {
		return nil, false
	}
	if code == 0 {
		return nil, true
	}
	a, ok := r.u.abbrevs.get(code)
	if !ok {
		r.failed = true
		return nil, false
	}
	d.tag, d.children = a.tag, a.children
	for _, f := range a.attrs {
		v := r.value(f)
		switch f.attr {
		case dwarf.AttrName:
			d.name = v
		case dwarf.AttrLinkageName, attrMIPSLinkageName:
			d.linkage = v
		case dwarf.AttrCompDir:
			d.compDir = v
		case dwarf.AttrLowpc:
			d.low = v
		case dwarf.AttrHighpc:
			d.high = v
		case dwarf.AttrRanges:
			d.ranges = v
		case dwarf.AttrAbstractOrigin:
			d.origin = v
		case dwarf.AttrSpecification:
			d.specification = v
		case dwarf.AttrCallFile:
			d.callFile = v
		case dwarf.AttrCallLine:
			d.callLine = v
		case dwarf.AttrStmtList:
			d.lineTable = v
		case dwarf.AttrLanguage:
			d.language = v
		case dwarf.AttrSibling:
			d.sibling = v
		case dwarf.AttrStrOffsetsBase:
			d.strBase = v.n
		case dwarf.AttrAddrBase, attrGNUAddrBase:
			d.addrBase = v.n
		case dwarf.AttrRnglistsBase:
			d.rnglistsBase = v.n
		}
	}
	return a, !r.failed
}

// skipChildren goes past the children of an entry that has just been read.
func (r *reader) skipChildren(d *die) {
	if !d.children {
		return
	}
	if to, ok := r.u.local(d.sibling); ok && to > r.at && to <= uint64(len(r.b)) {
		r.at = to
		return
	}
	for depth := 1; depth > 0; {
		code := r.uleb()
		if r.failed {
			return
		}
		if code == 0 {
			depth--
			continue
		}
		a, ok := r.u.abbrevs.get(code)
		if !ok {
			r.failed = true
			return
		}
		if a.fixed >= 0 {
			r.skip(uint64(a.fixed))
		} else {
			for _, f := range a.attrs {
				r.value(f)
			}
		}
		if a.children {
			depth++
		}
	}
}

// local gives the offset that a reference within the unit leads to.
func (u *unit) local(v value) (uint64, bool) {
	switch v.form {
	case formRef1, formRef2, formRef4, formRef8, formRefUdata:
		return u.off + min(v.n, bound), true
	}
	return 0, false
}

// follow reads the entry that a reference leads to.
func (u *unit) follow(v value, d *die) (*unit, bool) {
	to, ok := u.local(v)
	if ok && to < u.end {
		r := u.reader(to)
		_, ok = r.entry(d)
		return u, ok
	}
	info := u.info
	switch v.form {
	case formRefAddr:
		to = v.n
	case formRefSup4, formRefSup8, formGNURefAlt:
		if info = info.other(); info == nil {
			return nil, false
		}
		to = v.n
	default:
		return nil, false // a type unit's signature: of no use here
	}
	other, err := info.unitOf(to)
	if err != nil || to < other.first {
		return nil, false
	}
	r := other.reader(to)
	_, ok = r.entry(d)
	return other, ok
}

// other is the file that several share part of their debug info in (dwz); nil
// if there is none.
func (d *debugInfo) other() *debugInfo {
	if !d.altDone && d.alt != nil {
		d.altInfo = d.alt()
	}
	d.altDone = true
	return d.altInfo
}

// text gives a string attribute.
func (u *unit) text(v value) string {
	section, off := ".debug_str", v.n
	info := u.info
	switch v.form {
	case formString:
		return string(v.text)
	case formStrp:
	case formLineStrp:
		section = ".debug_line_str"
	case formStrpSup, formGNUStrpAlt:
		if info = info.other(); info == nil {
			return ""
		}
	case formStrx, formStrx1, formStrx2, formStrx3, formStrx4, formGNUStrIndex:
		size := uint64(4)
		if u.is64 {
			size = 8
		}
		at := u.strBase + min(v.n, bound)*size
		b, err := info.o.section(".debug_str_offsets").upTo(at + size)
		if err != nil {
			return ""
		}
		r := reader{u: u, b: b, at: at}
		if off = r.offset(); r.failed {
			return ""
		}
	default:
		return ""
	}
	b, err := info.o.section(section).all()
	if err != nil {
		return ""
	}
	r := reader{b: b, at: off}
	return string(r.text())
}

// address gives an address attribute.
func (u *unit) address(v value) (uint64, bool) {
	switch v.form {
	case formAddr:
		return v.n, true
	case formAddrx, formAddrx1, formAddrx2, formAddrx3, formAddrx4, formGNUAddrIndex:
		return u.indexed(v.n)
	}
	return 0, false
}

// indexed gives an address by its number in .debug_addr.
func (u *unit) indexed(i uint64) (uint64, bool) {
	at := u.addrBase + min(i, bound)*uint64(u.addrSize)
	b, err := u.info.o.section(".debug_addr").upTo(at + 8)
	if err != nil {
		return 0, false
	}
	r := reader{u: u, b: b, at: at}
	a := r.addr()
	return a, !r.failed
}

// covers says whether an address is in the ranges of an entry (DWARF 5, section 2.17).
func (u *unit) covers(d *die, pc uint64) bool {
	if d.ranges.form != 0 {
		return u.inRanges(d.ranges, pc)
	}
	low, ok := u.address(d.low)
	if !ok || pc < low {
		return false
	}
	if high, ok := u.address(d.high); ok {
		return pc < high
	}
	return d.high.form != 0 && pc-low < d.high.n
}

func (u *unit) inRanges(v value, pc uint64) bool {
	if u.version < 5 {
		return u.inRangesV4(v.n, pc)
	}
	at := v.n
	b, err := u.info.o.section(".debug_rnglists").all()
	if err != nil {
		return false
	}
	r := reader{u: u, b: b, at: at}
	if v.form == formRnglistx {
		size := uint64(4)
		if u.is64 {
			size = 8
		}
		r.at = u.rnglistsBase + min(v.n, bound)*size
		r.at = u.rnglistsBase + min(r.offset(), bound)
	}
	base := u.low
	for ; !r.failed && u.info.ranges < maxRanges; u.info.ranges++ {
		var begin, end uint64
		ok := true
		switch r.u8() { // DWARF 5, table 7.30
		case 0x00: // end of list
			return false
		case 0x01: // base addressx
			base, _ = u.indexed(r.uleb())
			continue
		case 0x02: // startx endx
			begin, ok = u.indexed(r.uleb())
			end, _ = u.indexed(r.uleb())
		case 0x03: // startx length
			begin, ok = u.indexed(r.uleb())
			end = begin + r.uleb()
		case 0x04: // offset pair
			begin = base + r.uleb()
			end = base + r.uleb()
		case 0x05: // base address
			base = r.addr()
			continue
		case 0x06: // start end
			begin, end = r.addr(), r.addr()
		case 0x07: // start length
			begin = r.addr()
			end = begin + r.uleb()
		default:
			return false
		}
		if ok && !r.failed && begin <= pc && pc < end {
			return true
		}
	}
	return false
}

// inRangesV4 looks into .debug_ranges (DWARF 4, section 2.17.3).
func (u *unit) inRangesV4(at, pc uint64) bool {
	b, err := u.info.o.section(".debug_ranges").all()
	if err != nil {
		return false
	}
	r := reader{u: u, b: b, at: at}
	base, escape := u.low, ^uint64(0)
	if u.addrSize == 4 {
		escape = 0xffffffff
	}
	for ; u.info.ranges < maxRanges; u.info.ranges++ {
		begin, end := r.addr(), r.addr()
		switch {
		case r.failed || begin == 0 && end == 0:
			return false
		case begin == escape:
			base = end
		case base+begin <= pc && pc < base+end:
			return true
		}
	}
	return false
}

// functions finds for each of ascending addresses in the unit the function that
// it is in, and those inlined there, outermost first.
func (u *unit) functions(pcs []uint64) [][]die {
	chains := make([][]die, len(pcs))
	u.search(pcs, chains, false)
	var missing []uint64
	for i, chain := range chains {
		if len(chain) == 0 {
			missing = append(missing, pcs[i])
		}
	}
	if len(missing) == 0 {
		return chains
	}
	// Functions of a local class are entries below another function.
	more := make([][]die, len(missing))
	u.search(missing, more, true)
	for i, chain := range chains {
		if len(chain) == 0 {
			chains[i], more = more[0], more[1:]
		}
	}
	return chains
}

// search fills in chains; with all, it looks below every entry.
func (u *unit) search(pcs []uint64, chains [][]die, all bool) {
	r := u.reader(u.first)
	var d die
	if _, ok := r.entry(&d); ok && d.children {
		u.descend(&r, pcs, chains, all, 0)
	}
}

// maxNesting bounds how deep entries may be nested.
const maxNesting = 200

// descend goes through a list of children.
func (u *unit) descend(r *reader, pcs []uint64, chains [][]die, all bool, depth int) {
	if depth > maxNesting {
		r.failed = true
		return
	}
	var d die
	for {
		if _, ok := r.entry(&d); !ok || d.tag == 0 {
			return
		}
		in := all
		switch d.tag {
		case dwarf.TagNamespace, dwarf.TagModule:
			in = true
		case dwarf.TagSubprogram, dwarf.TagInlinedSubroutine, dwarf.TagLexDwarfBlock:
			// A block without addresses only wraps what is in it.
			in = in || d.tag == dwarf.TagLexDwarfBlock && d.low.form == 0 && d.ranges.form == 0
			for i, pc := range pcs {
				if !u.covers(&d, pc) {
					continue
				}
				in = true
				switch d.tag {
				case dwarf.TagSubprogram:
					chains[i] = append(chains[i][:0], d)
				case dwarf.TagInlinedSubroutine:
					if len(chains[i]) < maxNesting {
						chains[i] = append(chains[i], d)
					}
				}
			}
		}
		if in && d.children {
			u.descend(r, pcs, chains, all, depth+1)
		} else {
			r.skipChildren(&d)
		}
		if r.failed {
			return
		}
	}
}
