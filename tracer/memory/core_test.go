package memory

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"whosefd/tracer/event"
)

// image is a file that is written field by field.
type image struct {
	b    []byte
	word int
}

func (f *image) put(at int, b []byte) {
	if need := at + len(b); need > len(f.b) {
		f.b = append(f.b, make([]byte, need-len(f.b))...)
	}
	copy(f.b[at:], b)
}

func (f *image) num(at, size int, v uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	f.put(at, b[:size])
}

// elfHeader writes an ELF header whose program headers follow it.
func (f *image) elfHeader(kind elf.Type, machine elf.Machine, phnum uint64) (phoff int) {
	class, phoff, at := elf.ELFCLASS64, 64, [3]int{32, 54, 56}
	if f.word == 4 {
		class, phoff, at = elf.ELFCLASS32, 52, [3]int{28, 42, 44}
	}
	f.put(phoff-1, []byte{0})
	f.put(0, append([]byte(elf.ELFMAG), byte(class), byte(elf.ELFDATA2LSB), 1))
	f.num(16, 2, uint64(kind))
	f.num(18, 2, uint64(machine))
	f.num(at[0], f.word, uint64(phoff))
	f.num(at[2], 2, phnum)
	return phoff
}

// prog writes the nth program header, and gives the place behind it.
func (f *image) prog(phoff, n int, kind elf.ProgType, off, vaddr, filesz, memsz uint64) int {
	if f.word == 8 {
		at := phoff + 56*n
		f.num(at, 4, uint64(kind))
		for i, v := range []uint64{off, vaddr, 0, filesz, memsz, 4} {
			f.num(at+8+8*i, 8, v)
		}
		return at + 56
	}
	at := phoff + 32*n
	for i, v := range []uint64{uint64(kind), off, vaddr, 0, filesz, memsz, 0, 4} {
		f.num(at+4*i, 4, v)
	}
	return at + 32
}

func note(name string, kind elf.NType, desc []byte) []byte {
	f := &image{}
	f.num(0, 4, uint64(len(name)+1))
	f.num(4, 4, uint64(len(desc)))
	f.num(8, 4, uint64(kind))
	f.put(12, append([]byte(name), 0))
	f.put((len(f.b)+3)&^3, desc)
	f.put((len(f.b)+3)&^3, nil)
	return f.b
}

// fakeCore is a core of a process that had two threads and two mapped files: of
// the first the core has one page of two, of the second none.
func fakeCore(machine elf.Machine, word int) *image {
	f := &image{word: word}
	phoff := f.elfHeader(elf.ET_CORE, machine, 3)
	var notes []byte
	status := func(tid, signal uint64) {
		n := &image{}
		n.num(12, 2, signal)
		n.num(map[int]int{8: 32, 4: 24}[word], 4, tid)
		n.put(100, []byte{0})
		notes = append(notes, note("CORE", elf.NT_PRSTATUS, n.b)...)
	}
	status(101, 11)
	n := &image{}
	pidAt, nameAt, size := 24, 40, 136
	if word == 4 {
		pidAt, nameAt, size = 12, 28, 124
	}
	n.num(pidAt, 4, 100)
	n.put(nameAt, []byte("prog"))
	n.put(size-1, []byte{0})
	notes = append(notes, note("CORE", elf.NT_PRPSINFO, n.b)...)
	notes = append(notes, note("LINUX", elf.NT_PRPSINFO, make([]byte, 200))...)
	notes = append(notes, note("CORE", ntAuxv, []byte("auxv....auxv...."))...)
	n = &image{}
	for i, v := range []uint64{2, 4096, 0x20000, 0x22000, 3, 0x10000, 0x12000, 0} {
		n.num(i*word, word, v)
	}
	n.put(len(n.b), []byte("/b\x00/memfd:a (deleted)\x00"))
	notes = append(notes, note("CORE", ntFile, n.b)...)
	status(102, 0)
	const loaded = 0x800
	f.prog(phoff, 0, elf.PT_NOTE, 0x200, 0, uint64(len(notes)), 0)
	f.prog(phoff, 1, elf.PT_LOAD, loaded, 0x10000, 0x1000, 0x2000)
	f.prog(phoff, 2, elf.PT_LOAD, loaded+0x1000, 0x30000, 0x1000, 0x1000)
	f.put(0x200, notes)
	f.put(loaded, bytes.Repeat([]byte{1}, 0x1000))
	f.put(loaded+0x1000, bytes.Repeat([]byte{2}, 0x1000))
	return f
}

func open(t testing.TB, b []byte) *Core {
	t.Helper()
	c, err := OpenCore(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCore(t *testing.T) {
	for _, tc := range []struct {
		machine elf.Machine
		word    int
		arch    string
	}{{elf.EM_X86_64, 8, "amd64"}, {elf.EM_386, 4, "386"}, {elf.EM_AARCH64, 8, "arm64"}, {elf.EM_ARM, 4, "arm"}} {
		f := fakeCore(tc.machine, tc.word)
		c := open(t, f.b)
		if c.Arch() != tc.arch || c.Word != uint64(tc.word) || c.PID != 100 || c.Comm != "prog" || c.Signal != 11 ||
			len(c.Threads) != 2 || c.Threads[1] != 102 || string(c.Auxv) != "auxv....auxv...." || c.Missing != 0 {
			t.Errorf("%s: %+v", tc.arch, c)
		}
		a := FileMapping{0x10000, 0x12000, 0, "/memfd:a (deleted)"}
		b := FileMapping{0x20000, 0x22000, 0x3000, "/b"}
		if len(c.Files) != 2 || c.Files[0] != a || c.Files[1] != b {
			t.Errorf("%s: files %+v", tc.arch, c.Files)
		}
		if m, ok := c.Mapping(0x11fff); !ok || m != a {
			t.Errorf("%s: mapping %+v, %v", tc.arch, m, ok)
		}
		if _, ok := c.Mapping(0x12000); ok {
			t.Errorf("%s: a mapping behind the end of one", tc.arch)
		}
		memory := func(addr uint64, n, want int, content byte, wantErr error) {
			t.Helper()
			b := make([]byte, n)
			got, err := c.ReadMemory(b, addr)
			if got != want || !errors.Is(err, wantErr) || err != nil && wantErr == nil || got > 0 && b[got-1] != content {
				t.Errorf("%s: at %#x: %d bytes, %v, last %v", tc.arch, addr, got, err, b[max(0, got-1)])
			}
		}
		memory(0x10ff0, 16, 16, 1, nil)
		memory(0x30000, 0x1000, 0x1000, 2, nil)
		memory(0x10ff0, 32, 16, 1, ErrLeftOut)   // the page is left out
		memory(0x30ff0, 32, 16, 2, ErrLeftOut)   // behind the last segment
		memory(0x20000, 16, 0, 0, ErrLeftOut)    // between two
		memory(1<<64-8, 8, 0, 0, ErrLeftOut)     // no address at all
		memory(0x18000, 1<<16, 0, 0, ErrLeftOut) // across several
		c.Fallback = func(m FileMapping) io.ReaderAt {
			if m != b {
				return strings.NewReader(strings.Repeat("a", 0x1800))
			}
			return strings.NewReader(strings.Repeat("b", 0x5000))
		}
		memory(0x10ff0, 32, 32, 'a', nil)
		memory(0x117f0, 32, 16, 'a', ErrLeftOut) // the file is shorter
		memory(0x21ff0, 16, 16, 'b', nil)
		memory(0x21ff0, 32, 16, 'b', ErrLeftOut)
	}
}

// A core that ends early is read as far as it goes, wherever that is.
func TestCoreCutOff(t *testing.T) {
	whole := fakeCore(elf.EM_X86_64, 8).b
	for n := range len(whole) {
		if n > 0x100 && n%61 != 0 {
			continue
		}
		c, err := OpenCore(bytes.NewReader(whole[:n]), int64(n))
		switch {
		case n < 52:
			if !errors.Is(err, ErrNoCore) {
				t.Fatalf("%d bytes: %v", n, err)
			}
			continue
		case err != nil:
			if !errors.Is(err, ErrCutOff) {
				t.Fatalf("%d bytes: %v", n, err)
			}
			continue
		}
		if c.Missing != int64(len(whole)-n) {
			t.Errorf("%d bytes: %d missing", n, c.Missing)
		}
		b := make([]byte, 8)
		if _, err := c.ReadMemory(b, 0x30ff8); !errors.Is(err, ErrCutOff) {
			t.Errorf("%d bytes: read its last ones: %v", n, err)
		}
	}
	if c := open(t, whole[:0x1800]); c.PID != 100 || len(c.Files) != 2 {
		t.Errorf("%+v", c)
	}
}

// More than 65,534 mappings: their number is in the first section header.
func TestCoreManyMappings(t *testing.T) {
	const n = 70000
	f := &image{word: 8}
	phoff := f.elfHeader(elf.ET_CORE, elf.EM_X86_64, pnXNum)
	end := 0
	f.b = append(f.b, make([]byte, 56*n)...)
	for i := range n {
		end = f.prog(phoff, i, elf.PT_LOAD, 0, 0x10000+uint64(i)*0x1000, 4, 0x1000)
	}
	f.num(40, 8, uint64(end)) // e_shoff
	f.num(end+44, 4, n)       // sh_info
	f.put(end+63, []byte{0})
	b := make([]byte, 4)
	if _, err := open(t, f.b).ReadMemory(b, 0x10000+(n-1)*0x1000); err != nil || string(b) != elf.ELFMAG {
		t.Errorf("%q, %v", b, err)
	}
}

func TestNoCore(t *testing.T) {
	if _, err := OpenCore(strings.NewReader("something else that is longer than a header of an ELF file may be"), 66); !errors.Is(err, ErrNoCore) {
		t.Error(err)
	}
	f := fakeCore(elf.EM_X86_64, 8)
	f.b[elf.EI_DATA] = byte(elf.ELFDATA2MSB)
	if _, err := OpenCore(bytes.NewReader(f.b), int64(len(f.b))); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	f = fakeCore(elf.EM_X86_64, 8)
	f.num(16, 2, uint64(elf.ET_DYN))
	if _, err := OpenCore(bytes.NewReader(f.b), int64(len(f.b))); !errors.Is(err, ErrNoCore) {
		t.Error(err)
	}
}

// loaded is an object in memory.
type loaded struct {
	at uint64
	b  []byte
}

func (l loaded) ReadMemory(b []byte, addr uint64) (int, error) {
	if addr < l.at || addr-l.at >= uint64(len(l.b)) {
		return 0, ErrLeftOut
	}
	n := copy(b, l.b[addr-l.at:])
	if n < len(b) {
		return n, ErrLeftOut
	}
	return n, nil
}

func TestBuildID(t *testing.T) {
	for _, word := range []int{8, 4} {
		f := &image{word: word}
		phoff := f.elfHeader(elf.ET_DYN, elf.EM_X86_64, 3)
		f.prog(phoff, 0, elf.PT_LOAD, 0, 0x400000, 0x1000, 0x1000)
		other, id := note("GNU", 5, make([]byte, 16)), note("GNU", 3, []byte{0xab, 0xcd, 0x01})
		f.prog(phoff, 1, elf.PT_NOTE, 0x300, 0x400300, uint64(len(other)), 0)
		f.prog(phoff, 2, elf.PT_NOTE, 0x400, 0x400400, uint64(len(other)+len(id)), 0)
		f.put(0x300, other)
		f.put(0x400, append(other, id...))
		f.put(0xfff, []byte{0})
		if got := BuildID(loaded{0x7000, f.b}, 0x7000); got != "abcd01" {
			t.Errorf("loaded: %q", got)
		}
		if got := FileBuildID(bytes.NewReader(f.b)); got != "abcd01" {
			t.Errorf("file: %q", got)
		}
		if got := BuildID(loaded{0x7000, f.b[:0x420]}, 0x7000); got != "" {
			t.Errorf("of one whose note is left out: %q", got)
		}
	}
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	_ = FileBuildID(exe) // Go's test binaries need not have one
}

func FuzzCore(f *testing.F) {
	for _, word := range []int{8, 4} {
		core := fakeCore(elf.EM_X86_64, word).b
		f.Add(core)
		f.Add(core[:0x400])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := OpenCore(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		out := make([]byte, 100)
		for _, s := range c.segments {
			for _, at := range []uint64{s.start - 1, s.start, s.start + s.size - 1, s.end - 1, s.end} {
				if n, err := c.ReadMemory(out, at); n < 0 || n > len(out) || n < len(out) && err == nil {
					t.Fatalf("%d bytes at %#x, %v", n, at, err)
				}
			}
			_ = BuildID(c, s.start)
		}
		for _, m := range c.Files {
			if len(m.Path) > len(b) {
				t.Fatal("a path from nowhere")
			}
		}
		_ = FileBuildID(bytes.NewReader(b))
		_ = c.PID + event.PID(c.Signal)
	})
}
