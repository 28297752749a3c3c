package stack

import (
	"bytes"
	"compress/zlib"
	"debug/elf"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ulikunitz/xz"
)

// smallELF makes programs with debug info that fuzzing can start from; none if
// there is no compiler.
func smallELF(f *testing.F) (files [][]byte) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		return nil
	}
	dir := f.TempDir()
	const source = `static inline int sq(int x) { return x * x; } int f(int a) { return sq(a) + 1; } void _start(void) { f(3); }`
	if err := os.WriteFile(filepath.Join(dir, "a.c"), []byte(source), 0o644); err != nil {
		f.Fatal(err)
	}
	for _, flags := range [][]string{{"-g"}, {"-gdwarf-4"}, {"-g", "-gz"}, {"-g", "-gdwarf64"}} {
		cmd := exec.Command(gcc, append(flags, "-O2", "-nostdlib", "-static", "-o", "a", "a.c")...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			f.Fatalf("gcc: %v\n%s", err, out)
		}
		b, err := os.ReadFile(filepath.Join(dir, "a"))
		if err != nil {
			f.Fatal(err)
		}
		files = append(files, b)
	}
	return files
}

// textOf gives a few addresses of code.
func textOf(o *object) []uint64 {
	sec := o.Section(".text")
	if sec == nil {
		return []uint64{0, 0x1000, 0x401000}
	}
	return []uint64{sec.Addr, sec.Addr + 1, sec.Addr + sec.Size/2, sec.Addr + sec.Size - 1}
}

func FuzzELF(f *testing.F) {
	for _, b := range smallELF(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := newELF(b)
		if err != nil {
			return
		}
		defer o.close()
		pcs := textOf(o)
		if named := lines(o, pcs, func() *object { return nil }); len(named) != len(pcs) {
			t.Errorf("%d answers for %d addresses", len(named), len(pcs))
		}
		s := newSymbolSearch(slices.Compact(slices.Sorted(slices.Values(pcs))))
		s.scan(o, ".symtab")
		s.scan(o, ".dynsym")
		buildID(o)
		debugLink(o)
	})
}

var fuzzedSections = [...]string{".debug_info", ".debug_abbrev", ".debug_str", ".debug_line", ".debug_rnglists", ".debug_aranges"}

// The sections by themselves, since fuzzing rarely gets past the ELF headers.
func FuzzDebugInfo(f *testing.F) {
	for _, b := range smallELF(f) {
		o, err := newELF(b)
		if err != nil {
			f.Fatal(err)
		}
		var parts [len(fuzzedSections)][]byte
		for i, name := range fuzzedSections {
			if parts[i], err = o.section(name).all(); err != nil {
				f.Fatal(err)
			}
		}
		f.Add(textOf(o)[0], parts[0], parts[1], parts[2], parts[3], parts[4], parts[5])
	}
	f.Fuzz(func(t *testing.T, pc uint64, info, abbrev, str, line, ranges, aranges []byte) {
		o := &object{File: &elf.File{}, sections: map[string]*section{}}
		for i, b := range [][]byte{info, abbrev, str, line, ranges, aranges} {
			o.sections[fuzzedSections[i]] = &section{have: b}
		}
		o.sections[".debug_ranges"] = &section{have: ranges}
		pcs := []uint64{pc, pc + 1, pc + 8}
		if named := lines(o, pcs, func() *object { return nil }); len(named) != len(pcs) {
			t.Errorf("%d answers for %d addresses", len(named), len(pcs))
		}
	})
}

// Symbols that are packed into a file: only so much memory is taken as they are
// allowed to need, and what xz packs is unpacked.
func FuzzMiniDebugInfo(f *testing.F) {
	files := smallELF(f)
	for _, b := range append(files, nil, bytes.Repeat([]byte("abcabd"), 1000)) {
		var packed bytes.Buffer
		w, err := xz.NewWriter(&packed)
		if err != nil {
			f.Fatal(err)
		}
		if _, err := w.Write(b); err != nil {
			f.Fatal(err)
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		if got, err := unpackXZ(packed.Bytes()); err != nil || !bytes.Equal(got, b) {
			if len(b) > 0 { // nothing has no block
				f.Fatalf("%d bytes, unpacked %d: %v", len(b), len(got), err)
			}
		}
		f.Add(packed.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o := &object{File: &elf.File{}, sections: map[string]*section{".gnu_debugdata": {have: b}}}
		if mini := miniDebugInfo(o); mini != nil {
			buildID(mini)
			mini.close()
		}
	})
}

// Where compress/zlib can unpack, so must we, and to the same.
func FuzzInflate(f *testing.F) {
	texts := [][]byte{nil, []byte("a"), bytes.Repeat([]byte("abcabcabd"), 3000), bytes.Repeat([]byte{0}, 70000)}
	if b, err := os.ReadFile("elffile.go"); err == nil {
		texts = append(texts, b)
	}
	for i, text := range texts {
		for _, level := range []int{0, 1, 6, 9, zlib.HuffmanOnly} {
			var b bytes.Buffer
			w, err := zlib.NewWriterLevel(&b, level)
			if err != nil {
				f.Fatal(err)
			}
			if _, err := w.Write(text); err != nil {
				f.Fatal(err)
			}
			if err := w.Close(); err != nil {
				f.Fatal(err)
			}
			f.Add(b.Bytes(), uint16(i*100))
		}
	}
	f.Fuzz(func(t *testing.T, packed []byte, step uint16) {
		const most = 1 << 20
		var want []byte
		r, err := zlib.NewReader(bytes.NewReader(packed))
		if err == nil {
			want, err = io.ReadAll(io.LimitReader(r, most+1))
		}
		valid := err == nil && len(want) <= most
		out := make([]byte, most)
		if valid {
			out = out[:len(want)]
		}
		z := packedSection(packed, uint64(len(out)))
		for n := 0; n < len(out); {
			got, err := z.upTo(uint64(n) + 1 + uint64(step))
			if err != nil {
				if valid {
					t.Fatalf("at %d of %d: %v", len(got), len(want), err)
				}
				return
			}
			if len(got) <= n || len(got) > len(out) {
				t.Fatalf("from %d to %d of %d", n, len(got), len(out))
			}
			n = len(got)
		}
		if len(out) > 0 {
			out, _ = z.all()
		}
		if valid && !bytes.Equal(out, want) {
			t.Fatal("unpacked to something else")
		}
	})
}
