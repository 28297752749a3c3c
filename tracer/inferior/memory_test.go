package inferior

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// fake is memory from some address on; what lies outside cannot be read.
type fake struct {
	base  uint64
	b     []byte
	reads int
	// change is called before each read.
	change func(n int)
}

func (f *fake) ReadMemory(p []byte, off uint64) (int, error) {
	f.reads++
	if f.change != nil {
		f.change(f.reads)
	}
	if off > math.MaxInt64 {
		return 0, unix.EFAULT // as the kernel's own addresses
	}
	at := off - f.base
	if off < f.base || at >= uint64(len(f.b)) {
		return 0, unix.EIO
	}
	n := copy(p, f.b[at:])
	if n < len(p) {
		return n, unix.EIO
	}
	return n, nil
}

const fakeBase = 0x7f0000000000

func newFake(size int) *fake { return &fake{base: fakeBase, b: make([]byte, size)} }

// put writes words of a size at an offset.
func (f *fake) put(word, at uint64, values ...uint64) {
	for _, v := range values {
		if word == 8 {
			binary.LittleEndian.PutUint64(f.b[at:], v)
		} else {
			binary.LittleEndian.PutUint32(f.b[at:], uint32(v))
		}
		at += word
	}
}

func (f *fake) text(at uint64, s string) { copy(f.b[at:], s+"\x00") }

// A list of two entries in the first namespace and one in the second, r_debug
// at offset 0.
func twoNamespaces(base, word uint64) *fake {
	f := newFake(0x4000)
	f.base = base
	const first, second, third, nextDebug = 0x100, 0x200, 0x300, 0x80
	f.put(word, 0, 2, base+first, 0, 0, 0, base+nextDebug)
	f.put(word, nextDebug, 2, base+third, 0, 0, 0, 0)
	f.put(word, first, 0x1000, base+0x400, 0x1500, base+second)
	f.put(word, second, 0x2000, base+0x410, 0x2500, 0)
	f.put(word, third, 0x3000, base+0x440, 0x3500, 0)
	f.text(0x400, "")
	f.text(0x410, "/proc/self/fd/4")
	f.text(0x440, "a\xff\x1b[31m\n")
	return f
}

func TestLists(t *testing.T) {
	for _, word := range []uint64{8, 4} {
		const base = 0x10000
		f := twoNamespaces(base, word)
		got, err := space{f, word}.lists(base)
		want := []event.LinkMap{
			{Addr: base + 0x100, NameAddr: base + 0x400, LoadAddr: 0x1000, Dynamic: 0x1500},
			{Index: 1, Addr: base + 0x200, NameAddr: base + 0x410, Name: "/proc/self/fd/4", LoadAddr: 0x2000, Dynamic: 0x2500},
			{Namespace: 1, Addr: base + 0x300, NameAddr: base + 0x440, Name: "a\xff\x1b[31m\n", LoadAddr: 0x3000, Dynamic: 0x3500},
		}
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%d bytes: got %+v, %v\nwant %+v", word, got, err, want)
		}
		f.put(word, 0, 1) // version 1 has no r_next: what follows is something else
		if got, err := (space{f, word}).lists(base); err != nil || len(got) != 2 {
			t.Errorf("%d bytes, version 1: %d entries, %v", word, len(got), err)
		}
	}
}

func TestListsDamaged(t *testing.T) {
	const base = fakeBase
	for _, tc := range []struct {
		name    string
		damage  func(f *fake)
		entries int
		errText string
	}{
		{"not begun", func(f *fake) { f.put(8, 8, 0) }, 0, ErrEarly.Error()},
		{"to itself", func(f *fake) { f.put(8, 0x118, base+0x100) }, 1, "no end"},
		{"to the first", func(f *fake) { f.put(8, 0x218, base+0x100) }, 2, "no end"},
		{"namespaces in a circle", func(f *fake) { f.put(8, 0xa8, base) }, 3, "no end"},
		{"next namespace shares the list", func(f *fake) { f.put(8, 0x88, base+0x100) }, 2, "no end"},
		{"next is unmapped", func(f *fake) { f.put(8, 0x118, 0x10) }, 1, "link_map"},
		{"next is in the kernel", func(f *fake) { f.put(8, 0x118, 0xffffffff81000000) }, 1, "bad address"},
		{"next is the last address", func(f *fake) { f.put(8, 0x118, 1<<64-1) }, 1, "bad address"},
		{"name is unmapped", func(f *fake) { f.put(8, 0x208, 0x10) }, 3, "name in the link_map at 0x7f0000000200"},
		{"name without end", func(f *fake) {
			for i := range f.b[0x1000:] {
				f.b[0x1000+i] = 'x'
			}
			f.put(8, 0x208, base+0x1000)
		}, 3, ""},
		{"r_debug is cut", func(f *fake) { f.b = f.b[:0x20] }, 0, "r_debug"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := twoNamespaces(base, 8)
			tc.damage(f)
			got, err := space{f, 8}.lists(base)
			if len(got) != tc.entries || (err == nil) != (tc.errText == "") || err != nil && !strings.Contains(err.Error(), tc.errText) {
				t.Errorf("%d entries, %v; want %d, %q", len(got), err, tc.entries, tc.errText)
			}
			for _, lm := range got {
				if len(lm.Name) > maxName {
					t.Errorf("a name of %d bytes", len(lm.Name))
				}
			}
		})
	}
}

// A list that never comes to an end, without any circle in it.
func TestListsBounded(t *testing.T) {
	const step = 64
	f := newFake((maxObjects + 100) * step)
	f.put(8, 0, 1, fakeBase+step)
	for i := uint64(1); i < maxObjects+99; i++ {
		f.put(8, i*step, 0, 0, 0, fakeBase+(i+1)*step)
	}
	got, err := space{f, 8}.lists(fakeBase)
	if len(got) != maxObjects || err == nil {
		t.Errorf("%d entries, %v", len(got), err)
	}
}

// A list that is being changed is read again; what was longest counts if it
// never gets whole.
func TestListWhileItChanges(t *testing.T) {
	prog := func() (*program, *fake) {
		f := twoNamespaces(fakeBase, 8)
		// Program headers and a dynamic section, so that it is found.
		f.put(4, 0x1000, 6, 4) // PT_PHDR
		f.put(8, 0x1010, 0x1000)
		f.put(4, 0x1038, 2, 4) // PT_DYNAMIC
		f.put(8, 0x1048, 0x2000)
		f.put(8, 0x2000, 21, fakeBase, 0, 0) // DT_DEBUG
		return &program{mem: space{f, 8}, aux: auxiliary{atPhdr: fakeBase + 0x1000, atPhnum: 2, atPhent: 56}}, f
	}
	p, f := prog()
	whole, err := p.list()
	if err != nil || len(whole) != 3 {
		t.Fatalf("at rest: %+v, %v", whole, err)
	}
	f.reads = 0
	broken := uint64(0x10)
	f.change = func(n int) {
		if n == 10 { // it comes right during the second try
			broken = fakeBase + 0x200
		}
		f.put(8, 0x118, broken)
	}
	if got, err := p.list(); err != nil || len(got) != 3 {
		t.Errorf("for a moment: %+v, %v", got, err)
	}
	broken = 0x10
	f.change = func(int) { f.put(8, 0x118, broken) }
	if got, err := p.list(); err == nil || len(got) != 1 {
		t.Errorf("for good: %+v, %v", got, err)
	}
}

func TestText(t *testing.T) {
	f := newFake(3 * 4096)
	for i := range f.b {
		f.b[i] = 'x'
	}
	m := space{f, 8}
	const end = fakeBase + 3*4096
	f.b[len(f.b)-1] = 0
	for _, tc := range []struct {
		addr uint64
		want int // length; -1 for an error
	}{{end - 1, 0}, {end - 2, 1}, {end - 4096, 4095}, {end - 4097, 4096}, {end - 4098, 4096}, {fakeBase, 4096}, {end, -1}, {1 << 63, -1}} {
		s, err := m.text(tc.addr)
		if tc.want < 0 && err == nil || tc.want >= 0 && (err != nil || len(s) != tc.want) {
			t.Errorf("%#x: %d bytes, %v; want %d", tc.addr, len(s), err, tc.want)
		}
	}
	f.b[len(f.b)-1] = 'x' // the end of the mapping, and no NUL
	if s, err := m.text(end - 10); err == nil {
		t.Errorf("%q", s)
	}
}

func TestParseAuxv(t *testing.T) {
	f := newFake(4096)
	f.put(8, 0, 33, 0x7ffd, atPhdr, 0x40, atPhent, 56, atPhnum, 13, atBase, 0x7f00, 0, 0, atEntry, 1)
	aux, word, err := parseAuxv(f.b)
	if err != nil || word != 8 || aux[atPhdr] != 0x40 || aux[atBase] != 0x7f00 || aux[atEntry] != 0 {
		t.Errorf("64-bit: %v, %d, %v", aux, word, err)
	}
	f = newFake(4096)
	f.put(4, 0, 33, 0xf7f0, atPhdr, 0x40, atPhent, 32, atPhnum, 9, atBase, 0xf7f1, atEntry, 0x1000, 0, 0)
	aux, word, err = parseAuxv(f.b)
	if err != nil || word != 4 || aux[atPhdr] != 0x40 || aux[atEntry] != 0x1000 {
		t.Errorf("32-bit: %v, %d, %v", aux, word, err)
	}
	for _, bad := range [][]byte{nil, {1}, make([]byte, 64), []byte(strings.Repeat("\xff", 64))} {
		if aux, _, err := parseAuxv(bad); err == nil {
			t.Errorf("%q: %v", bad, aux)
		}
	}
}

// rDebug in a 32-bit program, by the entry in its dynamic section and by its
// dynamic loader's symbol.
func TestRDebug32(t *testing.T) {
	const base = 0x10000
	f := twoNamespaces(base, 4)
	f.put(4, 0x1000, 6, 0x34, 0x1000) // PT_PHDR, offset, vaddr
	f.put(4, 0x1020, 2, 0, 0x2000)    // PT_DYNAMIC
	f.put(4, 0x2000, 21, base, 0, 0)  // DT_DEBUG
	p := &program{mem: space{f, 4}, aux: auxiliary{atPhdr: base + 0x1000, atPhnum: 2, atPhent: 32}}
	if got, err := p.list(); err != nil || len(got) != 3 {
		t.Errorf("by DT_DEBUG: %+v, %v", got, err)
	}
	// No DT_DEBUG; the loader at 0x3000 has _r_debug, found by DT_HASH.
	f.put(4, 0x2000, 0, 0)
	const ld = 0x3000
	f.text(ld, "\x7fELF")
	f.put(4, ld+28, 0x40)                                                // e_phoff
	f.put(4, ld+44, 2)                                                   // e_phnum
	f.put(4, ld+0x40, 1, 0, 0)                                           // PT_LOAD
	f.put(4, ld+0x60, 2, 0, 0x100)                                       // PT_DYNAMIC
	f.put(4, ld+0x100, 6, 0x200, 5, 0x300, 4, 0x400, 0, 0)               // DT_SYMTAB, DT_STRTAB, DT_HASH
	f.put(4, ld+0x210, 1, uint64(1<<32+base-(base+ld))&0xffffffff, 0, 0) // st_name, st_value
	f.b[ld+0x210+14] = 5                                                 // st_shndx
	f.text(ld+0x301, "_r_debug")
	f.put(4, ld+0x400, 1, 2, 1, 0, 0) // one bucket, two chains
	p.aux[atBase] = base + ld
	// st_value is relative to the loader; the sum wraps as a 32-bit number.
	p.mem.word = 4
	img, err := p.loader()
	if err != nil || img.bias != base+ld {
		t.Fatalf("loader: %+v, %v", img, err)
	}
	addr, ok := img.rDebugSymbol()
	if !ok || addr != base {
		t.Errorf("by symbol: %#x, %v", addr, ok)
	}
	if got, err := p.list(); err != nil || len(got) != 3 {
		t.Errorf("by symbol: %+v, %v", got, err)
	}
	f.put(4, ld+0x400, 0, 0) // no bucket
	if _, err := p.list(); !errors.Is(err, errNoDebug) {
		t.Errorf("without either: %v", err)
	}
}

func TestHashes(t *testing.T) {
	// From the definitions in the System V ABI and in binutils.
	if h := sysvHash("printf"); h != 0x077905a6 {
		t.Errorf("sysv: %#x", h)
	}
	if h := gnuHash("printf"); h != 0x156b2bb8 {
		t.Errorf("gnu: %#x", h)
	}
}

func TestStaticSymbolBroken(t *testing.T) {
	dir := t.TempDir()
	good, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"empty": {}, "text": []byte("#!/bin/sh\n"), "cut": good[:200], "header only": good[:64]} {
		file := dir + "/" + name
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		p := &program{mem: space{newFake(8), 8}, aux: auxiliary{}, exe: named(file)}
		if addr, err := p.staticSymbol(0); !errors.Is(err, ErrStatic) {
			t.Errorf("%s: %#x, %v", name, addr, err)
		}
	}
	fifo := dir + "/fifo"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	p := &program{mem: space{newFake(8), 8}, aux: auxiliary{}, exe: named(fifo)}
	if addr, err := p.staticSymbol(0); !errors.Is(err, ErrStatic) { // and does not block
		t.Errorf("FIFO: %#x, %v", addr, err)
	}
}

func FuzzParseAuxv(f *testing.F) {
	fk := newFake(64)
	fk.put(8, 0, atPhdr, 0x40, atPhent, 56, atPhnum, 13)
	f.Add(fk.b)
	f.Fuzz(func(t *testing.T, b []byte) {
		aux, word, err := parseAuxv(b)
		if err == nil && (word != 8 && word != 4 || aux[atPhnum] > maxHeaders) {
			t.Fatalf("%v, %d", aux, word)
		}
	})
}

// FuzzList reads a whole program, from its headers to its lists, out of any
// memory: no panic, no endless reading.
func FuzzList(f *testing.F) {
	// Small, since the fuzzer takes a minute to shrink each large input.
	byTag, byLoader := newFake(0x1c0), newFake(0x1c0)
	for _, m := range []*fake{byTag, byLoader} {
		m.put(8, 0, 1, fakeBase+0x30)
		m.put(8, 0x30, 0x1000, fakeBase+0x50, 0x1500, 0)
		m.text(0x50, "/proc/self/fd/4")
		m.put(4, 0x60, 6, 4) // PT_PHDR
		m.put(8, 0x70, 0x60)
		m.put(4, 0x98, 2, 4) // PT_DYNAMIC
		m.put(8, 0xa8, 0xd0)
	}
	byTag.put(8, 0xd0, 21, fakeBase) // DT_DEBUG
	byLoader.put(8, 0xd0, 0, 0)      // none; a loader at 0xe0 with DT_HASH
	byLoader.text(0xe0, "\x7fELF")
	byLoader.put(8, 0xe0+32, 0x40)                       // e_phoff
	byLoader.put(4, 0xe0+56, 1)                          // e_phnum
	byLoader.put(4, 0x120, 2)                            // PT_DYNAMIC
	byLoader.put(8, 0x130, 0x60)                         // at 0x140
	byLoader.put(8, 0x140, 6, 0x90, 5, 0xb0, 4, 0xc0, 0) // DT_SYMTAB, DT_STRTAB, DT_HASH
	byLoader.put(4, 0x188, 1)                            // st_name
	byLoader.text(0x191, "_r_debug")
	byLoader.put(4, 0x1a0, 1, 2, 1, 0, 0) // one bucket, two chains
	f.Add(byTag.b, uint64(0x60), uint64(1), uint64(0), true)
	f.Add(byLoader.b, uint64(0x60), uint64(1), uint64(0xe0), true)
	f.Add(byLoader.b, uint64(0x60), uint64(1), uint64(0), false)
	f.Fuzz(func(t *testing.T, b []byte, phdr, phnum, base uint64, wide bool) {
		if len(b) > 1<<12 {
			return
		}
		mem := &fake{base: fakeBase, b: b}
		word := uint64(8)
		if !wide {
			word, mem.base = 4, 0x10000
		}
		aux := auxiliary{atPhdr: mem.base + phdr, atPhnum: 1 + phnum%maxHeaders, atPhent: headerSize(word)}
		if base != 0 {
			aux[atBase] = mem.base + base
		}
		p := &program{mem: space{mem, word}, aux: aux, exe: noFile}
		entries, _ := p.list()
		if len(entries) > maxObjects {
			t.Fatalf("%d entries", len(entries))
		}
		for _, lm := range entries {
			if len(lm.Name) > maxName {
				t.Fatalf("a name of %d bytes", len(lm.Name))
			}
		}
		if mem.reads > maxTries*(4*maxObjects+2*maxDynamic+4*maxChain) {
			t.Fatalf("%d reads", mem.reads)
		}
	})
}

func named(name string) func() (io.ReaderAt, func(), error) {
	return func() (io.ReaderAt, func(), error) {
		f, err := procview.New("/proc").OpenLarge(event.PID(os.Getpid()), name)
		return f, func() { _ = f.Close() }, err
	}
}

func noFile() (io.ReaderAt, func(), error) { return nil, nil, os.ErrNotExist }

// BenchmarkLists is for an inferior with very many libraries.
func BenchmarkLists(b *testing.B) {
	const n, step = 5000, 256
	f := newFake((n + 2) * step)
	f.put(8, 0, 1, fakeBase+step)
	for i := uint64(1); i <= n; i++ {
		next := uint64(fakeBase + (i+1)*step)
		if i == n {
			next = 0
		}
		f.put(8, i*step, rand.Uint64()>>20, fakeBase+i*step+64, 0, next)
		f.text(i*step+64, fmt.Sprintf("/usr/lib/x86_64-linux-gnu/lib%d.so", i))
	}
	for b.Loop() {
		if got, err := (space{f, 8}).lists(fakeBase); err != nil || len(got) != n {
			b.Fatal(len(got), err)
		}
	}
}
