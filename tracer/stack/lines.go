package stack

import "slices"

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
	rows := make([]lineRow, len(pcs))
	table, err := u.lineTable()
	if err == nil && table != nil { // else functions without lines
		rows = table.rows(pcs)
	}
	at := func(file uint64, line int64) (c call) {
		if table == nil || line <= 0 {
			return call{}
		}
		if c.file = table.file(file); c.file != "" {
			c.line = int(min(line, 1<<31-1))
		}
		return c
	}
	for i, chain := range chains {
		here := at(rows[i].file, rows[i].line)
		if len(chain) == 0 && here.line != 0 {
			all[i] = []call{here} // assembler: lines but no functions
		}
		for _, d := range slices.Backward(chain) {
			here.function, here.plain = u.function(&d)
			here.plain = here.plain && u.isCPP()
			all[i] = append(all[i], here)
			here = call{}
			if d.callFile.form != 0 {
				here = at(d.callFile.n, int64(d.callLine.n))
			}
		}
	}
	return all
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
