package stack

import (
	"path"
	"slices"
	"strings"
)

// lineTable is a unit's table of lines (DWARF 5, section 6.2). Package
// debug/dwarf reads these too, but believes the counts in a broken one, and
// running out of memory cannot be recovered from.
type lineTable struct {
	u       unit // with the table's own sizes of addresses and offsets
	r       reader
	version int
	dirs    []value
	files   []lineFile

	minStep, opsPerStep uint64
	startStmt           bool
	lineBase            int64
	lineRange           uint64
	opcodeBase          int
	operands            []byte // of each standard opcode, from 1
}

type lineFile struct {
	name value
	dir  uint64
}

// lineRow is a row: the source of the instructions from addr on.
type lineRow struct {
	addr uint64
	file uint64
	line int64
	stmt bool // begins a statement
	end  bool // of a sequence of addresses
}

// lineTable reads the header of the unit's table; nil if it has none.
func (u *unit) lineTable() (*lineTable, error) {
	if u.root.lineTable.form == 0 {
		return nil, nil
	}
	at := min(u.root.lineTable.n, bound)
	sec := u.info.o.section(".debug_line")
	b, err := sec.upTo(at + 12)
	if err != nil {
		return nil, err
	}
	t := &lineTable{u: *u}
	t.r = reader{u: &t.u, b: b, at: at}
	r := &t.r
	size := uint64(r.u32())
	t.u.is64 = size == 0xffffffff
	if t.u.is64 {
		size = r.u64()
	}
	if r.failed || size > bound {
		return nil, errDWARF
	}
	end := r.at + size
	if b, err = sec.upTo(end); err != nil {
		return nil, err
	}
	if end > uint64(len(b)) {
		return nil, errDWARF
	}
	r.b = b[:end]
	if t.header(); r.failed {
		return nil, errDWARF
	}
	return t, nil
}

func (t *lineTable) header() {
	r := &t.r
	t.version = int(r.u16())
	if t.version >= 5 {
		t.u.addrSize = int(r.u8())
		r.u8() // size of segment selectors
	}
	program := min(r.offset(), bound)
	program += r.at
	t.minStep, t.opsPerStep = uint64(r.u8()), 1
	if t.version >= 4 {
		t.opsPerStep = uint64(r.u8())
	}
	t.startStmt = r.u8() != 0
	t.lineBase = int64(int8(r.u8()))
	t.lineRange = uint64(r.u8())
	t.opcodeBase = int(r.u8())
	t.operands = r.take(uint64(max(t.opcodeBase-1, 0)))
	if t.version < 2 || t.version > 5 || t.opsPerStep == 0 || t.lineRange == 0 || t.opcodeBase == 0 ||
		t.u.addrSize != 4 && t.u.addrSize != 8 {
		r.failed = true
		return
	}
	if t.version >= 5 {
		for _, e := range t.entries() {
			t.dirs = append(t.dirs, e.name)
		}
		t.files = t.entries()
	} else {
		t.oldEntries()
	}
	if program < r.at || program > uint64(len(r.b)) {
		r.failed = true
	}
	r.at = program
}

// entries reads a list of folders or files as of DWARF 5: what each entry has,
// then the entries.
func (t *lineTable) entries() []lineFile {
	const (
		path      = 1 // DW_LNCT_path
		directory = 2 // DW_LNCT_directory_index
	)
	type field struct {
		what uint64
		form form
	}
	r := &t.r
	fields := make([]field, r.u8())
	for i := range fields {
		fields[i] = field{r.uleb(), form(r.uleb())}
	}
	n := r.uleb()
	// Each entry takes a byte at least.
	if n > uint64(len(r.b))-min(r.at, uint64(len(r.b))) || len(fields) == 0 && n > 0 {
		r.failed = true
	}
	var list []lineFile
	for ; n > 0 && !r.failed; n-- {
		var e lineFile
		for _, f := range fields {
			v := r.value(attrForm{form: f.form})
			switch f.what {
			case path:
				e.name = v
			case directory:
				e.dir = v.n
			}
		}
		list = append(list, e)
	}
	return list
}

// oldEntries reads folders and files as of DWARF 2 to 4.
func (t *lineTable) oldEntries() {
	r := &t.r
	for {
		name := r.text()
		if len(name) == 0 {
			break
		}
		t.dirs = append(t.dirs, value{form: formString, text: name})
	}
	for {
		name := r.text()
		if len(name) == 0 {
			return
		}
		t.addFile(name)
	}
}

func (t *lineTable) addFile(name []byte) {
	f := lineFile{name: value{form: formString, text: name}, dir: t.r.uleb()}
	t.r.uleb() // time of change
	t.r.uleb() // length
	t.files = append(t.files, f)
}

// file gives the name of a file by its number the way gdb writes it: as the
// compiler was given it, so not joined with the folder that it ran in. It is
// empty if there is no such file.
func (t *lineTable) file(n uint64) string {
	if t.version < 5 {
		n-- // they are counted from 1
	}
	if n >= uint64(len(t.files)) {
		return ""
	}
	u, f := &t.u, t.files[n]
	name := u.text(f.name)
	if name == "" {
		return ""
	}
	if dir := t.dir(f.dir); dir != "" && !path.IsAbs(name) {
		name = strings.TrimRight(dir, "/") + "/" + name
	}
	if !path.IsAbs(u.compDir) {
		return name
	}
	whole := path.Clean(name)
	if !path.IsAbs(name) {
		whole = path.Join(u.compDir, name)
	}
	if u.name != "" && (whole == path.Clean(u.name) || whole == path.Join(u.compDir, u.name)) {
		return u.name
	}
	return strings.TrimPrefix(name, strings.TrimRight(u.compDir, "/")+"/")
}

func (t *lineTable) dir(n uint64) string {
	if t.version < 5 {
		if n == 0 {
			return t.u.compDir
		}
		n--
	}
	if n >= uint64(len(t.dirs)) {
		return ""
	}
	return t.u.text(t.dirs[n])
}

// rows finds the rows for ascending addresses; one without a line where there
// is none.
func (t *lineTable) rows(pcs []uint64) []lineRow {
	found := make([]lineRow, len(pcs))
	var before lineRow
	started := false // within a sequence
	t.run(func(row lineRow) {
		if started && before.addr < row.addr && pcs[0] < row.addr {
			for i, _ := slices.BinarySearch(pcs, before.addr); i < len(pcs) && pcs[i] < row.addr; i++ {
				found[i] = before
			}
		}
		// Of several rows for one address the last counts, but one that begins a
		// statement counts more, and one without a line not at all. So gdb takes
		// them.
		same := started && before.addr == row.addr
		if row.end || row.line != 0 && (!same || row.stmt || !before.stmt) {
			before = row
			started = !row.end
		}
	})
	return found
}

// Opcodes of the line number program (DWARF 5, tables 7.25 and 7.26).
const (
	lnsExtended            = 0
	lnsCopy                = 1
	lnsAdvancePC           = 2
	lnsAdvanceLine         = 3
	lnsSetFile             = 4
	lnsNegateStmt          = 6
	lnsConstAddPC          = 8
	lnsFixedAdvancePC      = 9
	lneEndSequence    byte = 1
	lneSetAddress     byte = 2
	lneDefineFile     byte = 3
)

// run runs the program and gives its rows.
func (t *lineTable) run(emit func(lineRow)) {
	start := lineRow{file: 1, line: 1, stmt: t.startStmt}
	row, opIndex := start, uint64(0)
	advance := func(n uint64) {
		if t.opsPerStep == 1 {
			row.addr += n * t.minStep
			return
		}
		row.addr += (opIndex + n) / t.opsPerStep * t.minStep
		opIndex = (opIndex + n) % t.opsPerStep
	}
	r := &t.r
	for r.at < uint64(len(r.b)) && !r.failed {
		op := int(r.u8())
		if op >= t.opcodeBase {
			adjusted := uint64(op - t.opcodeBase)
			advance(adjusted / t.lineRange)
			row.line += t.lineBase + int64(adjusted%t.lineRange)
			emit(row)
			continue
		}
		switch op {
		case lnsExtended:
			n := r.uleb()
			body := reader{u: r.u, b: r.take(n)}
			if r.failed || n == 0 {
				continue
			}
			switch body.u8() {
			case lneEndSequence:
				row.end = true
				emit(row)
				row, opIndex = start, 0
			case lneSetAddress:
				if n == 5 {
					row.addr = uint64(body.u32())
				} else {
					row.addr = body.u64()
				}
				opIndex = 0
			case lneDefineFile:
				f := lineFile{name: value{form: formString, text: body.text()}, dir: body.uleb()}
				t.files = append(t.files, f)
			}
		case lnsCopy:
			emit(row)
		case lnsAdvancePC:
			advance(r.uleb())
		case lnsAdvanceLine:
			row.line += r.sleb()
		case lnsSetFile:
			row.file = r.uleb()
		case lnsNegateStmt:
			row.stmt = !row.stmt
		case lnsConstAddPC:
			advance(uint64(255-t.opcodeBase) / t.lineRange)
		case lnsFixedAdvancePC:
			row.addr += uint64(r.u16())
			opIndex = 0
		default:
			// Columns and marks, and what is not known: operands are LEB128.
			for range t.operands[op-1] {
				r.uleb()
			}
		}
	}
}
