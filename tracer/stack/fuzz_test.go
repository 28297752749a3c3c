package stack

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"slices"
	"testing"

	"github.com/go-delve/delve/pkg/dwarf/frame"
	"github.com/go-delve/delve/pkg/dwarf/leb128"

	"whosefd/tracer/memory"
	"whosefd/tracer/procview"
)

// The index must find for each of its entries what a whole parse finds.
func TestIndexAgreesWithWholeTable(t *testing.T) {
	pid := start(t, build(t, "gcc", blockingC, "-O2"))
	v := procview.New("/proc")
	maps, err := v.Maps(pid)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{view: v, pid: pid, maps: maps, mem: &memory.Copy{Rest: memory.Thread(pid)}, modules: findModules(maps)}
	defer p.close()
	compared := 0
	for _, m := range p.modules {
		p.readHeaders(m)
		if !m.known {
			continue
		}
		m.unwind = &unwindTable{}
		all, err := p.restOf(m) // without an index
		if err != nil {
			t.Fatalf("%s: %v", m.path, err)
		}
		table := p.loadTable(m)
		if len(all) > 0 && table.index.pairs == nil {
			t.Errorf("%s: has no index", m.path)
		}
		for _, want := range all {
			for _, pc := range []uint64{want.Begin(), want.End() - 1} {
				at, ok := table.index.find(pc)
				if !ok {
					t.Fatalf("%s: %#x is not in the index", m.path, pc)
				}
				got, err := p.readRule(at, pc)
				if err != nil {
					t.Fatalf("%s: %#x: %v", m.path, pc, err)
				}
				if got.fde.Begin() != want.Begin() || got.fde.End() != want.End() {
					t.Fatalf("%s: %#x: %#x-%#x, want %#x-%#x", m.path, pc, got.fde.Begin(), got.fde.End(), want.Begin(), want.End())
				}
				compared++
			}
		}
	}
	if compared < 1000 {
		t.Errorf("only %d addresses compared", compared)
	}
}

// ownSections gives a real .eh_frame_hdr and .eh_frame with their addresses.
func ownSections(f testing.TB) (hdr, frames []byte, hdrAddr, frameAddr uint64) {
	e, err := elf.Open(build(f, "gcc", blockingC, "-O2"))
	if err != nil {
		f.Fatal(err)
	}
	defer e.Close()
	for _, s := range []struct {
		name string
		data *[]byte
		addr *uint64
	}{{".eh_frame_hdr", &hdr, &hdrAddr}, {".eh_frame", &frames, &frameAddr}} {
		sec := e.Section(s.name)
		if *s.data, err = sec.Data(); err != nil {
			f.Fatal(err)
		}
		*s.addr = sec.Addr
	}
	return hdr, frames, hdrAddr, frameAddr
}

func FuzzSearchTable(f *testing.F) {
	hdr, _, addr, _ := ownSections(f)
	f.Add(hdr, addr, addr+100)
	f.Add([]byte{1, 0x1b, 3, 0x3b, 0, 0, 0, 0, 255, 255, 255, 255}, uint64(0), uint64(1))
	f.Fuzz(func(t *testing.T, b []byte, addr, pc uint64) {
		table, err := parseSearchTable(b, addr)
		if err != nil {
			return
		}
		if entry, ok := table.find(pc); ok {
			for i := range len(table.pairs) / 8 {
				if _, e := table.at(i); e == entry {
					return
				}
			}
			t.Errorf("entry %#x is not in the table", entry)
		}
	})
}

func FuzzRule(f *testing.F) {
	_, frames, _, addr := ownSections(f)
	var cie []byte
	for at := 0; at+8 <= len(frames); {
		n := int(binary.LittleEndian.Uint32(frames[at:])) + 4
		if n == 4 {
			break
		}
		entry := frames[at : at+n]
		if binary.LittleEndian.Uint32(entry[4:]) == 0 {
			cie = entry
		} else {
			begin := addr + uint64(at) + 8 + uint64(int64(int32(binary.LittleEndian.Uint32(entry[8:]))))
			f.Add(cie, entry, addr+uint64(at), begin+1)
		}
		at += n
	}
	mem := make([]byte, 4096)
	f.Fuzz(func(t *testing.T, cie, fde []byte, at, pc uint64) {
		cie = slices.Clone(cie)
		r, err := parseRule(cie, fde, at, pc)
		if err != nil {
			return
		}
		regs := registerSet{}
		for i := range regs.val {
			regs.val[i], regs.known[i] = 0x7000, true
		}
		p := &process{pid: -1, mem: &memory.Copy{Start: 0x7000, Data: mem, Rest: memory.Thread(-1)}}
		if up, err := p.apply(r, pc, regs); err == nil && up.end && up.pc != 0 {
			t.Errorf("an end with a caller: %+v", up)
		}
	})
}

func FuzzHeaders(f *testing.F) {
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:4096])
	f.Fuzz(func(t *testing.T, b []byte) {
		progs, err := parseProgs(b)
		if err == nil && len(progs)*56 > len(b) {
			t.Errorf("%d program headers out of %d bytes", len(progs), len(b))
		}
		loadBias(progs, procview.Mapping{Start: 0x1000, End: 0x2000})
	})
}

func FuzzNotes(f *testing.F) {
	f.Add([]byte("\x04\x00\x00\x00\x14\x00\x00\x00\x03\x00\x00\x00GNU\x0001234567890123456789"))
	f.Add([]byte("prog.debug\x00\x00\x12\x34\x56\x78"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id := parseBuildID(b); len(id) > len(b) {
			t.Error("build id longer than its note")
		}
		if name, _, ok := parseDebugLink(b); ok && name == "" {
			t.Error("debug link without a name")
		}
	})
}

// Signed numbers as package debug/dwarf's and delve's readers have them.
func TestSLEB(t *testing.T) {
	for _, n := range []int64{0, 1, -1, 63, 64, -64, -65, 1 << 40, -1 << 40} {
		var b bytes.Buffer
		leb128.EncodeSigned(&b, n)
		r := reader{b: b.Bytes()}
		if got := r.sleb(); got != n || r.failed || int(r.at) != len(r.b) {
			t.Errorf("%d: read as %d", n, got)
		}
	}
}

// Delve's interpreter gives the same rows wherever "restore" does not come in
// between, which it understands otherwise.
func TestRowsLikeDelve(t *testing.T) {
	r, err := os.Open(tool(t, "gdb"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	o, err := openELF(r)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	all, err := parseTable(o, ".eh_frame", 0, o.Section(".eh_frame").Addr)
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for _, fde := range all {
		for pc := fde.Begin(); pc < fde.End(); pc += 1 + (fde.End()-fde.Begin())/5 {
			got, err := rowAt(fde, pc)
			if err != nil {
				t.Fatalf("%#x: %v", pc, err)
			}
			want, err := fde.EstablishFrame(pc)
			if err != nil {
				t.Fatalf("%#x: delve: %v", pc, err)
			}
			if got.cfa.Rule != want.CFA.Rule || !bytes.Equal(got.cfa.Expression, want.CFA.Expression) ||
				got.cfa.Rule == frame.RuleCFA && (got.cfa.Reg != want.CFA.Reg || got.cfa.Offset != want.CFA.Offset) {
				t.Fatalf("%#x: address %+v, want %+v", pc, got.cfa, want.CFA)
			}
			for reg, rule := range want.Regs {
				if rule.Rule != frame.RuleUndefined && (reg >= registers || !got.has[reg] || got.regs[reg].Rule != rule.Rule || got.regs[reg].Offset != rule.Offset) {
					t.Fatalf("%#x: register %d %+v, want %+v", pc, reg, got.regs[reg], rule)
				}
			}
			rows++
		}
	}
	if rows < 1000 {
		t.Errorf("only %d rows", rows)
	}
}
