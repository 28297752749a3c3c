package stack

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/ianlancetaylor/demangle"
)

// call is what is known of one shown frame.
type call struct {
	function, file string
	line           int
	plain          bool // the function's name lacks scope and parameters
}

// names finds function names and lines, one slice for each frame: the functions
// that the compiler has inlined, then the frame's own.
func (p *process) names(frames []callFrame) [][]call {
	named := make([][]call, len(frames))
	of := map[*module][]int{}
	for i, f := range frames {
		if f.module != nil && f.module.known && !f.signal {
			of[f.module] = append(of[f.module], i)
		}
	}
	for m, is := range of {
		pcs := make([]uint64, len(is))
		for j, i := range is {
			pcs[j] = frames[i].lookup - m.bias
		}
		// A broken file costs only its own frames their names.
		_ = guarded(func() error {
			for j, calls := range p.namesIn(m, pcs) {
				named[is[j]] = calls
			}
			return nil
		})
	}
	return named
}

// namesIn finds the names of addresses of one module's file.
func (p *process) namesIn(m *module, pcs []uint64) [][]call {
	named := make([][]call, len(pcs))
	main := p.open(m)
	if main == nil {
		return named
	}
	debug := main
	if main.section(".debug_info") == nil {
		debug = p.debugObject(m, main)
	}
	if debug != nil {
		named = lines(debug, pcs, func() *object { return p.sharedFile(m, debug) })
	}
	var want []uint64
	for i, pc := range pcs {
		if n := len(named[i]); n == 0 || named[i][n-1].function == "" || named[i][n-1].plain {
			want = append(want, pc)
		}
	}
	slices.Sort(want)
	if len(want) == 0 {
		return named
	}
	symbols := newSymbolSearch(slices.Compact(want))
	symbols.scan(main, ".symtab")
	if debug != nil && debug != main {
		symbols.scan(debug, ".symtab")
	}
	symbols.scan(main, ".dynsym")
	if !symbols.complete() {
		if mini := miniDebugInfo(main); mini != nil {
			symbols.scan(mini, ".symtab")
		}
	}
	for i, pc := range pcs {
		name := symbols.name(pc)
		switch n := len(named[i]); {
		case name == "":
		case n == 0:
			named[i] = []call{{function: name}}
		case named[i][n-1].function == "" || symbols.mangled(pc):
			named[i][n-1].function = name
		}
	}
	return named
}

// symbolSearch finds the symbols of a few addresses in one pass over a table,
// without sorting it or reading its names.
type symbolSearch struct {
	pcs  []uint64 // ascending
	best []symbol
}

type symbol struct {
	found bool
	sized bool
	value uint64
	rank  int
	name  string
	cpp   bool // the name was mangled
}

func newSymbolSearch(pcs []uint64) *symbolSearch {
	return &symbolSearch{pcs: pcs, best: make([]symbol, len(pcs))}
}

func (s *symbolSearch) complete() bool {
	return !slices.ContainsFunc(s.best, func(b symbol) bool { return !b.found })
}

func (s *symbolSearch) name(pc uint64) string {
	if i, ok := slices.BinarySearch(s.pcs, pc); ok && s.best[i].found {
		return s.best[i].name
	}
	return ""
}

// mangled says whether the symbol's name has more than a plain one.
func (s *symbolSearch) mangled(pc uint64) bool {
	i, ok := slices.BinarySearch(s.pcs, pc)
	return ok && s.best[i].cpp
}

const (
	symbolSize = 24 // of Elf64_Sym, elf(5)
	maxSymName = 16 << 10
)

// scan looks through one symbol table of a file for the addresses that have no
// symbol yet.
func (s *symbolSearch) scan(f *object, section string) {
	sec := f.Section(section)
	if sec == nil || s.complete() || int(sec.Link) >= len(f.Sections) {
		return
	}
	data, err := f.section(section).all()
	if err != nil {
		return
	}
	names, err := f.newSection(f.Sections[sec.Link]).all()
	if err != nil {
		return
	}
	fresh := make([]bool, len(s.pcs))
	for i, b := range s.best {
		fresh[i] = !b.found
	}
	low, high := s.pcs[0], s.pcs[len(s.pcs)-1]
	for ; len(data) >= symbolSize; data = data[symbolSize:] {
		value := binary.LittleEndian.Uint64(data[8:])
		size := binary.LittleEndian.Uint64(data[16:])
		if value > high || size != 0 && value+size <= low {
			continue
		}
		info, shndx := data[4], elf.SectionIndex(binary.LittleEndian.Uint16(data[6:]))
		kind := elf.ST_TYPE(info)
		if shndx == elf.SHN_UNDEF || shndx == elf.SHN_ABS ||
			kind != elf.STT_FUNC && kind != elf.STT_GNU_IFUNC && kind != elf.STT_NOTYPE {
			continue
		}
		if size == 0 && !sameSection(f, shndx, value) {
			continue
		}
		first, _ := slices.BinarySearch(s.pcs, value)
		for i := first; i < len(s.pcs); i++ {
			if size != 0 && s.pcs[i]-value >= size {
				break
			}
			if !fresh[i] || size == 0 && !inSection(f, shndx, s.pcs[i]) {
				continue
			}
			s.offer(i, value, size != 0, info, names, binary.LittleEndian.Uint32(data))
		}
	}
}

// sameSection says whether a symbol without a size marks code of its section.
func sameSection(f *object, i elf.SectionIndex, value uint64) bool {
	return int(i) < len(f.Sections) && f.Sections[i].Flags&elf.SHF_EXECINSTR != 0 && inSection(f, i, value)
}

func inSection(f *object, i elf.SectionIndex, addr uint64) bool {
	return int(i) < len(f.Sections) && addr-f.Sections[i].Addr < f.Sections[i].Size
}

// offer takes a symbol if it fits better: one with a size before one without,
// then the nearer, a function before a label, and of several names of one
// function the one with fewer underscores in front, then a global one.
func (s *symbolSearch) offer(i int, value uint64, sized bool, info byte, names []byte, at uint32) {
	b := &s.best[i]
	if b.found && (b.sized && !sized || b.sized == sized && b.value > value) {
		return
	}
	name := symbolName(names, at)
	if name == "" || name[0] == '$' { // $x and $d mark code and data on arm64
		return
	}
	rank := 0
	if elf.ST_TYPE(info) == elf.STT_NOTYPE {
		rank += 100
	}
	rank += 2 * (len(name) - len(strings.TrimLeft(name, "_")))
	if elf.ST_BIND(info) == elf.STB_LOCAL {
		rank++
	}
	if strings.HasPrefix(name, "_Z") {
		rank -= 2
	}
	if b.found && b.sized == sized && b.value == value && b.rank <= rank {
		return
	}
	shown := demangled(name)
	*b = symbol{found: true, sized: sized, value: value, rank: rank, name: shown, cpp: shown != name}
}

// symbolName cuts a name from a table of NUL-terminated ones.
func symbolName(names []byte, at uint32) string {
	if uint64(at) >= uint64(len(names)) {
		return ""
	}
	names = names[at:]
	end := bytes.IndexByte(names[:min(len(names), maxSymName)], 0)
	return string(names[:max(end, 0)])
}

// demangled gives a C++, Rust or D name as it is in the source.
func demangled(name string) string {
	return demangle.Filter(name)
}
