package stack

import (
	"debug/dwarf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// lines finds functions and lines of addresses by the file's debug info, one
// slice for each address: inlined functions innermost first, then the function
// that they are in. An address without debug info has none. alt opens the file
// that holds what several files share.
func lines(o *object, pcs []uint64, alt func() *object) [][]call {
	named := make([][]call, len(pcs))
	d := newDebugInfo(o, func() *debugInfo {
		if shared := alt(); shared != nil {
			return newDebugInfo(shared, nil)
		}
		return nil
	})
	if d == nil {
		return named
	}
	// Where the sections are packed, two processors unpack them in half the time.
	o.prefetch(".debug_abbrev", ".debug_str", ".debug_line_str", ".debug_rnglists", ".debug_ranges", ".debug_line")

	sorted := slices.Compact(slices.Sorted(slices.Values(pcs)))
	in := map[*unit][]uint64{}
	for pc, u := range d.unitsOf(sorted) {
		in[u] = append(in[u], pc)
	}
	found := map[uint64][]call{}
	for u, pcs := range in {
		slices.Sort(pcs)
		// A unit that is broken costs only its own frames their names.
		_ = guarded(func() error {
			for i, calls := range u.calls(pcs) {
				found[pcs[i]] = calls
			}
			return nil
		})
	}
	for i, pc := range pcs {
		named[i] = found[pc]
	}
	return named
}

// calls names ascending addresses of the unit.
func (u *unit) calls(pcs []uint64) [][]call {
	all := make([][]call, len(pcs))
	chains := u.functions(pcs)
	rows, files, err := u.rows(pcs)
	if err != nil { // functions without lines, then
		rows = make([]dwarf.LineEntry, len(pcs))
	}
	for i, chain := range chains {
		here := call{file: u.fileName(rows[i].File), line: rows[i].Line}
		if here.file == "" || here.line == 0 {
			here = call{}
		}
		if len(chain) == 0 {
			if here.line != 0 {
				all[i] = []call{here} // assembler: lines but no functions
			}
			continue
		}
		for _, d := range slices.Backward(chain) {
			here.function, here.plain = u.function(&d)
			here.plain = here.plain && u.isCPP()
			all[i] = append(all[i], here)
			here = call{}
			if n := d.callFile.n; d.callFile.form != 0 && n < uint64(len(files)) {
				here.file = u.fileName(files[n])
			}
			if here.file != "" {
				here.line = int(min(d.callLine.n, 1<<31-1))
			}
		}
	}
	return all
}

// rows finds the rows of the line table for ascending addresses; without a line
// where there is none. It also gives the table's files.
func (u *unit) rows(pcs []uint64) ([]dwarf.LineEntry, []*dwarf.LineFile, error) {
	found := make([]dwarf.LineEntry, len(pcs))
	table, err := u.lineReader()
	if err != nil || table == nil || len(pcs) == 0 {
		return found, nil, err
	}
	var before, entry dwarf.LineEntry
	started := false // within a sequence
	for {
		switch err := table.Next(&entry); {
		case errors.Is(err, io.EOF):
			return found, table.Files(), nil
		case err != nil:
			return found, table.Files(), fmt.Errorf(".debug_line: %w", err)
		}
		if started && before.Address < entry.Address && pcs[0] < entry.Address {
			for i, _ := slices.BinarySearch(pcs, before.Address); i < len(pcs) && pcs[i] < entry.Address; i++ {
				found[i] = before
			}
		}
		// Of several rows for one address the last counts, but one that begins a
		// statement counts more; so gdb takes them.
		same := started && before.Address == entry.Address && before.File == entry.File
		if !same || entry.IsStmt || !before.IsStmt || entry.EndSequence {
			before = entry
		}
		started = !entry.EndSequence
	}
}

// lineReader reads the unit's line table; nil if it has none.
func (u *unit) lineReader() (*dwarf.LineReader, error) {
	if u.root.lineTable.form == 0 {
		return nil, nil
	}
	at := min(u.root.lineTable.n, bound)
	sec := u.info.o.section(".debug_line")
	b, err := sec.upTo(at + 12)
	if err != nil {
		return nil, err
	}
	r := reader{b: b, at: at}
	size := uint64(r.u32())
	if size == 0xffffffff {
		size = r.u64()
	}
	if r.failed {
		return nil, errDWARF
	}
	if b, err = sec.upTo(r.at + min(size, bound)); err != nil {
		return nil, err
	}
	// Package dwarf wants a unit to read its table: here is a small one.
	stub := make([]byte, 12)
	binary.LittleEndian.PutUint32(stub, 8)
	binary.LittleEndian.PutUint16(stub[4:], 4)
	stub[10] = byte(u.addrSize)
	str, err := u.info.o.section(".debug_str").all()
	if err != nil {
		return nil, err
	}
	data, err := dwarf.New([]byte{0}, nil, nil, stub, b, nil, nil, str)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{".debug_line_str", ".debug_str_offsets"} {
		if b, err := u.info.o.section(name).all(); err == nil && b != nil {
			if err := data.AddSection(name, b); err != nil {
				return nil, err
			}
		}
	}
	return data.LineReader(&dwarf.Entry{Offset: 11, Tag: dwarf.TagCompileUnit, Field: []dwarf.Field{
		{Attr: dwarf.AttrStmtList, Val: int64(at), Class: dwarf.ClassLinePtr},
		{Attr: dwarf.AttrCompDir, Val: u.compDir, Class: dwarf.ClassString}}})
}

// isCPP says whether the unit is C++ (DW_LANG_C_plus_plus and its later versions).
func (u *unit) isCPP() bool {
	return slices.Contains([]uint64{0x04, 0x1a, 0x21, 0x2b, 0x3a}, u.root.language.n)
}

// maxReferences bounds how many entries a name is looked for in.
const maxReferences = 8

// function gives a function's name: as in the source for C++, with parameters; the
// plain one for C, and where C++ has nothing else. It is often in another entry
// that the function refers to.
func (u *unit) function(d *die) (name string, plain bool) {
	here := *d
	for range maxReferences {
		if name == "" {
			name = u.text(here.name)
		}
		if s := u.text(here.linkage); s != "" {
			if shown := demangled(s); shown != s {
				return shown, false
			}
		}
		ref := here.origin
		if ref.form == 0 {
			ref = here.specification
		}
		if ref.form == 0 {
			break
		}
		next, ok := u.follow(ref, &here)
		if !ok {
			break
		}
		u = next
	}
	return name, true
}

// fileName gives a file's name the way gdb writes it: as the compiler was given
// it, so not joined with the folder that it ran in.
func (u *unit) fileName(f *dwarf.LineFile) string {
	if f == nil {
		return ""
	}
	if u.name != "" && (f.Name == u.name || path.Clean(f.Name) == path.Join(u.compDir, u.name)) {
		return u.name
	}
	if u.compDir != "" {
		if rel, ok := strings.CutPrefix(f.Name, strings.TrimRight(u.compDir, "/")+"/"); ok {
			return rel
		}
	}
	return f.Name
}
