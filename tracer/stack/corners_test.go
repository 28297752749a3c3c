package stack

import (
	"bytes"
	"debug/dwarf"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/samples/scene"
	"whosefd/tracer/event"
	"whosefd/tracer/memory"
	"whosefd/tracer/procview"
)

// Code without .eh_frame can still be unwound by .debug_frame, in the program
// or in its separate debug file.
func TestDebugFrame(t *testing.T) {
	for _, split := range []bool{false, true} {
		t.Run(fmt.Sprintf("split=%v", split), func(t *testing.T) {
			prog := build(t, "gcc", blockingC, "-g", "-O2", "-fno-asynchronous-unwind-tables", "-fno-exceptions")
			if split {
				run(t, "objcopy", "--only-keep-debug", prog, prog+".debug")
				run(t, "strip", prog)
				run(t, "objcopy", "--add-gnu-debuglink="+prog+".debug", prog)
			}
			pid := start(t, prog)
			got := Unwind(procview.New("/proc"), look(t, pid), Options{})
			if got.Error != "" {
				t.Errorf("error: %s", got.Error)
			}
			compare(t, got, bt(t, pid))
		})
	}
}

// Some distributions pack a symbol table into their stripped programs.
func TestMiniDebugInfo(t *testing.T) {
	prog := build(t, "gcc", blockingC, "-O2", "-Wl,--build-id=none")
	run(t, "objcopy", "-S", "--remove-section", ".comment", "--keep-symbol=alloced", "--keep-symbol=pointing", prog, prog+".mini")
	run(t, "xz", "-k", prog+".mini")
	run(t, "strip", prog)
	run(t, "objcopy", "--add-section", ".gnu_debugdata="+prog+".mini.xz", prog)
	got := Unwind(procview.New("/proc"), look(t, start(t, prog)), Options{})
	if !has(got, "alloced") || !has(got, "pointing") {
		t.Errorf("no names from .gnu_debugdata:%s", show(got))
	}
}

// A debug file is looked up where the process sees files, not where we do.
func TestDebugFileInItsRoot(t *testing.T) {
	scene.Require(t, "root")
	prog := build(t, "gcc", blockingC, "-g", "-O2", "-static", "-Wl,--build-id=0xabcdef0123")
	root := t.TempDir()
	folder := filepath.Join(root, "usr/lib/debug/.build-id/ab")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "objcopy", "--only-keep-debug", prog, filepath.Join(folder, "cdef0123.debug"))
	run(t, "strip", "-o", filepath.Join(root, "prog"), prog)

	cmd := exec.Command("/prog")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	awaitRead(t, cmd.Process.Pid)
	got := Unwind(procview.New("/proc"), look(t, event.PID(cmd.Process.Pid)), Options{})
	if !has(got, "inner") || !has(got, "main") {
		t.Errorf("no names from the debug file in its root:%s", show(got))
	}
}

const blockingGo = `package main

import "os"

type reader struct{ f *os.File }

//go:noinline
func (r *reader) leaf(b []byte) int { n, _ := r.f.Read(b); return n }

func inlined(r *reader) int { return r.leaf(make([]byte, 1)) + 1 }

//go:noinline
func outer(r *reader) int { return inlined(r) * 2 }

func main() { os.Exit(outer(&reader{os.Stdin})) }
`

// Debuggers are also written in Go, whose programs have .debug_frame only.
func TestGoProgram(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"main.go": blockingGo, "go.mod": "module blocking\ngo 1.21\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(tool(t, "go"), "build", "-o", "prog", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOTOOLCHAIN=local")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	pid := start(t, filepath.Join(dir, "prog"))
	got := Unwind(procview.New("/proc"), look(t, pid), Options{})
	if got.Error != "" {
		t.Errorf("error: %s", got.Error)
	}
	var names []string
	for _, f := range got.Frames {
		if strings.HasPrefix(f.Function, "main.") || f.Function == "runtime.goexit" {
			names = append(names, fmt.Sprintf("%s:%d", f.Function, f.Line))
		}
	}
	want := []string{"main.(*reader).leaf:8", "main.inlined:10", "main.outer:13", "main.main:15"}
	if len(names) != 5 || !slices.Equal(names[:4], want) {
		t.Errorf("got %v, want %v and runtime.goexit:%s", names, want, show(got))
	}
}

const deepC = `
#include <unistd.h>
__attribute__((noinline)) int down(int n) {
	char c;
	if (n == 0) return read(0, &c, 1);
	int r = down(n - 1);
	__asm__ volatile("");
	return r + n;
}
int main(void) { return down(50000); }
`

func TestDeepRecursion(t *testing.T) {
	s := look(t, start(t, build(t, "gcc", deepC, "-O1")))
	for _, limit := range []int{0, 60000} {
		began := time.Now()
		got := Unwind(procview.New("/proc"), s, Options{MaxFrames: limit})
		switch {
		case limit == 0 && (len(got.Frames) != defaultFrames || !strings.Contains(got.Error, "cut")):
			t.Errorf("%d frames, %q", len(got.Frames), got.Error)
		case limit != 0 && (got.Error != "" || len(got.Frames) < 50000):
			t.Errorf("%d frames, %q", len(got.Frames), got.Error)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("took %v", took)
		}
	}
}

// A debug file that is cut short while we read it must not end us: reading
// beyond the end of a mapped file is SIGBUS.
func TestFileCutShort(t *testing.T) {
	prog := build(t, "gcc", blockingC, "-g", "-O2")
	r, err := os.Open(prog)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	o, err := openELF(r)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	if err := os.Truncate(prog, 0); err != nil {
		t.Fatal(err)
	}
	err = guarded(func() error {
		lines(o, []uint64{0x1100}, func() *object { return nil })
		newSymbolSearch([]uint64{0x1100}).scan(o, ".symtab")
		return nil
	})
	if err == nil {
		t.Error("no error from a file that is gone")
	}
}

// A file with the module's name that is another one gives no names: they would
// be wrong.
func TestWrongDebugFile(t *testing.T) {
	other := build(t, "gcc", deepC, "-g", "-O2")
	prog := build(t, "gcc", blockingC, "-g", "-O2")
	run(t, "objcopy", "--only-keep-debug", prog, prog+".debug")
	run(t, "strip", prog)
	run(t, "objcopy", "--add-gnu-debuglink="+prog+".debug", prog)
	run(t, "objcopy", "--only-keep-debug", other, prog+".debug")
	got := Unwind(procview.New("/proc"), look(t, start(t, prog)), Options{})
	if has(got, "down") || has(got, "main") {
		t.Errorf("names of another program:%s", show(got))
	}
}

const manyUnitsA = `
#include <map>
#include <string>
#include <vector>
#include <algorithm>
namespace one { struct Base { virtual ~Base() {} virtual int f(int) = 0; };
template <class T> struct Of : Base { std::map<T, std::string> m; std::vector<T> v;
	int f(int n) override { for (int i = 0; i < n; i++) { m[T(i)] = "x"; v.push_back(T(i)); }
	std::sort(v.begin(), v.end(), [](T a, T b) { return b < a; }); return int(m.size() + v.size()); } };
}
int useA(int n) { one::Of<int> a; one::Of<long> b; one::Base *p = n & 1 ? (one::Base *)&a : &b; return p->f(n); }
int other(int);
int main(int argc, char **) { try { return useA(argc) + other(argc); } catch (...) { return 1; } }
`

const manyUnitsB = `
#include <string>
#include <list>
#include <numeric>
static int helper(const std::string &s) { return s.find('x') != std::string::npos ? int(s.size()) : -1; }
int other(int n) { std::list<std::string> l; for (int i = 0; i < n; i++) l.push_back(std::string(i, 'x'));
	return std::accumulate(l.begin(), l.end(), 0, [](int s, const std::string &t) { return s + helper(t); }); }
`

// Our reader must give what package debug/dwarf gives, at every address of
// programs whose debug info was made in several ways.
func TestLikeDebugDWARF(t *testing.T) {
	for _, flags := range [][]string{
		{"-g", "-O2"}, {"-g", "-O0"}, {"-gdwarf-4", "-O2"}, {"-gdwarf-3", "-O2"}, {"-gdwarf-2", "-O2"},
		{"-g", "-gdwarf64", "-O2"}, {"-g", "-gz", "-O2"}, {"-g", "-O2", "-flto"}, {"-g", "-O2", "-ffunction-sections"},
		{"-gdwarf-4", "-fdebug-types-section", "-O2"}, {"-gdwarf-5", "-fdebug-types-section", "-O2"},
		{"-g", "-O2", "noaranges"},
	} {
		t.Run(strings.Join(flags, " "), func(t *testing.T) {
			dir := t.TempDir()
			drop := slices.Contains(flags, "noaranges")
			args := slices.DeleteFunc(slices.Clone(flags), func(s string) bool { return s == "noaranges" })
			for name, text := range map[string]string{"a.cc": manyUnitsA, "b.cc": manyUnitsB} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			prog := filepath.Join(dir, "prog")
			cmd := exec.Command(tool(t, "g++"), append(args, "-o", prog, "a.cc", "b.cc")...)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("g++: %v\n%s", err, out)
			}
			if drop {
				run(t, "objcopy", "--remove-section", ".debug_aranges", prog)
			}
			likeDebugDWARF(t, prog)
		})
	}
}

func likeDebugDWARF(t *testing.T, prog string) {
	r, err := os.Open(prog)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	o, err := openELF(r)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	data, err := o.DWARF()
	if err != nil {
		t.Fatal(err)
	}
	text := o.Section(".text")
	var pcs []uint64
	for pc := text.Addr; pc < text.Addr+text.Size; pc += 41 {
		pcs = append(pcs, pc)
	}
	got := lines(o, pcs, func() *object { return nil })
	ref := newReference(t, data)
	inlined, wrong := 0, 0
	for i, pc := range pcs {
		want := ref.chain(pc)
		var have []string
		for _, c := range slices.Backward(got[i]) {
			have = append(have, c.function)
		}
		inlined += max(len(want)-1, 0)
		if len(want) == 0 && len(have) == 1 && have[0] == "" {
			have = nil // lines without a function
		}
		if !slices.Equal(have, want) {
			if wrong++; wrong < 5 {
				t.Errorf("%#x: got %q, want %q", pc, have, want)
			}
		}
		if line := ref.line(pc); len(got[i]) > 0 && got[i][0].line != 0 && !slices.Contains(line, got[i][0].line) {
			if wrong++; wrong < 5 {
				t.Errorf("%#x: line %d, want one of %v", pc, got[i][0].line, line)
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d addresses differ", wrong, len(pcs))
	}
	if !strings.Contains(t.Name(), "O0") && inlined < 10 {
		t.Errorf("only %d inlined calls: the test tests too little", inlined)
	}
}

// reference answers by reading everything with package debug/dwarf.
type reference struct {
	functions []span
	rows      []rowSpan
}

type span struct {
	low, high uint64
	depth     int
	name      string
}

type rowSpan struct {
	low, high uint64
	lines     []int
}

func newReference(t *testing.T, data *dwarf.Data) *reference {
	ref := &reference{}
	r := data.Reader()
	seen := map[span]bool{}
	depth := 0
	for {
		e, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if e == nil {
			break
		}
		if e.Tag == 0 {
			depth--
			continue
		}
		switch e.Tag {
		case dwarf.TagCompileUnit:
			ref.addRows(t, data, e)
		case dwarf.TagSubprogram, dwarf.TagInlinedSubroutine:
			ranges, err := data.Ranges(e)
			if err != nil {
				t.Fatal(err)
			}
			for _, rg := range ranges {
				// Several units may have the same function; the linker keeps one.
				s := span{rg[0], rg[1], depth, referenceName(data, e)}
				if !seen[s] {
					ref.functions = append(ref.functions, s)
				}
				seen[s] = true
			}
		}
		if e.Children {
			depth++
		}
	}
	return ref
}

func referenceName(data *dwarf.Data, e *dwarf.Entry) string {
	plain := ""
	for e != nil {
		if s, ok := e.Val(dwarf.AttrName).(string); ok && plain == "" {
			plain = s
		}
		for _, a := range []dwarf.Attr{dwarf.AttrLinkageName, 0x2007} {
			if s, ok := e.Val(a).(string); ok && demangled(s) != s {
				return demangled(s)
			}
		}
		off, ok := e.Val(dwarf.AttrAbstractOrigin).(dwarf.Offset)
		if !ok {
			if off, ok = e.Val(dwarf.AttrSpecification).(dwarf.Offset); !ok {
				break
			}
		}
		r := data.Reader()
		r.Seek(off)
		e, _ = r.Next()
	}
	return plain
}

func (ref *reference) addRows(t *testing.T, data *dwarf.Data, cu *dwarf.Entry) {
	lr, err := data.LineReader(cu)
	if err != nil {
		t.Fatal(err)
	}
	if lr == nil {
		return
	}
	var rows []dwarf.LineEntry
	for {
		var e dwarf.LineEntry
		if err := lr.Next(&e); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, e)
	}
	for i := 0; i+1 < len(rows); i++ {
		if rows[i].EndSequence || rows[i+1].Address == rows[i].Address {
			continue
		}
		s := rowSpan{low: rows[i].Address, high: rows[i+1].Address}
		for j := i; j >= 0 && rows[j].Address == rows[i].Address && !rows[j].EndSequence; j-- {
			s.lines = append(s.lines, rows[j].Line)
		}
		ref.rows = append(ref.rows, s)
	}
}

func (ref *reference) chain(pc uint64) (names []string) {
	var in []span
	for _, s := range ref.functions {
		if s.low <= pc && pc < s.high {
			in = append(in, s)
		}
	}
	slices.SortStableFunc(in, func(a, b span) int { return a.depth - b.depth })
	for _, s := range in {
		names = append(names, s.name)
	}
	return names
}

func (ref *reference) line(pc uint64) (all []int) {
	for _, s := range ref.rows {
		if s.low <= pc && pc < s.high {
			all = append(all, s.lines...)
		}
	}
	return all
}

// Package debug/dwarf makes room for what a file says, so a count in it must not
// be larger than what follows.
func TestDebugInfoThatSaysTooMuch(t *testing.T) {
	r, err := os.Open(build(t, "gcc", "int main(void) { return 0; }", "-gdwarf-5"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	o, err := openELF(r)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	d, err := newDebugInfo(o, nil, true)
	if err != nil || !d.soundLines(0) {
		t.Fatalf("a good file: %v", err)
	}
	sound := o.section(".debug_line")
	// The number of folders comes behind their format, of one string.
	at := bytes.Index(sound.have, []byte{1, 1, 0x1f}) + 3
	lying := slices.Concat(sound.have[:at], binary.AppendUvarint(nil, 1<<38), sound.have[at:])
	o.sections[".debug_line"] = &section{have: lying}
	if d.soundLines(0) {
		t.Error("lines: more folders than bytes")
	}
	o.sections[".debug_line"] = sound

	// Each of many units has abbreviations that end where those of all others do.
	abbrevs := append(bytes.Repeat([]byte{1, 0x11, 0, 0, 0}, 1<<15), 0)
	var info []byte
	for i := range 1 << 15 {
		info = append(info, 8, 0, 0, 0, 5, 0, 1, 8)
		info = binary.LittleEndian.AppendUint32(info, uint32(5*i))
	}
	o.sections[".debug_info"], o.sections[".debug_abbrev"] = &section{have: info}, &section{have: abbrevs}
	if _, err := newDebugInfo(o, nil, true); !errors.Is(err, errDWARF) {
		t.Errorf("abbreviations many times over: %v", err)
	}
}

// Whatever is unpacked in steps must be what is unpacked at once.
func TestSectionInSteps(t *testing.T) {
	prog := build(t, "g++", manyUnitsA+"\nint other(int n) { return n; }", "-g", "-gz", "-O1")
	f, err := elf.Open(prog)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := os.ReadFile(prog)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".debug_info", ".debug_line", ".debug_str", ".debug_abbrev"} {
		want, err := f.Section(name).Data()
		if err != nil {
			t.Fatal(err)
		}
		o, err := newELF(b)
		if err != nil {
			t.Fatal(err)
		}
		s := o.section(name)
		if s.open == nil {
			t.Fatalf("%s is not packed", name)
		}
		for n := 1; ; n += 1 + n/3 {
			got, err := s.upTo(uint64(n))
			if err != nil {
				t.Fatal(err)
			}
			if len(got) < min(n, len(want)) || !bytes.Equal(got, want[:len(got)]) {
				t.Fatalf("%s: wrong up to %d of %d", name, n, len(want))
			}
			if n > len(want) {
				break
			}
		}
	}
}

// Where /proc/PID/map_files may not be opened, the name leads to the file, but
// only if that is still the one that is mapped.
func TestOpenedByName(t *testing.T) {
	prog := build(t, "gcc", blockingC, "-g", "-O2")
	pid := start(t, prog)
	maps, err := procview.New("/proc").Maps(pid)
	if err != nil {
		t.Fatal(err)
	}
	mp := maps[0]
	if string(mp.Path) != prog {
		t.Fatalf("first mapping is %+v", mp)
	}
	text, err := os.ReadFile(prog)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		root func(t *testing.T) string
		want bool
	}{
		{"itself", func(*testing.T) string { return "/" }, true},
		{"a copy", func(t *testing.T) string { return place(t, prog, text) }, false},
		{"nothing", func(t *testing.T) string { return t.TempDir() }, false},
		{"a FIFO", func(t *testing.T) string {
			root := place(t, prog, nil)
			if err := os.Remove(root + prog); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mkfifo(root+prog, 0o600); err != nil {
				t.Fatal(err)
			}
			return root
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := procview.New(t.TempDir()) // a /proc/PID without map_files
			folder := v.Folder(pid)
			if err := os.Mkdir(folder, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(test.root(t), filepath.Join(folder, "root")); err != nil {
				t.Fatal(err)
			}
			p := &process{view: v, pid: pid, maps: maps, mem: &memory.Copy{Rest: memory.Thread(pid)}}
			r, err := p.openMapped(mp)
			if (err == nil) != test.want {
				t.Errorf("error %v, want a file: %v", err, test.want)
			}
			if err == nil {
				r.Close()
			}
		})
	}
	t.Run("other content", func(t *testing.T) {
		r, err := os.Open("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if p := (&process{mem: &memory.Copy{Rest: memory.Thread(pid)}}); p.sameStart(r, mp) {
			t.Error("taken for the mapped file")
		}
	})
}

// place puts a file under a name into a root of its own.
func place(t *testing.T, name string, text []byte) (root string) {
	root = t.TempDir()
	if err := os.MkdirAll(filepath.Dir(root+name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+name, text, 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestModestXZ(t *testing.T) {
	xzTool := tool(t, "xz")
	for _, test := range []struct {
		dict string
		want bool
	}{{"1MiB", true}, {"64MiB", true}, {"96MiB", false}} {
		cmd := exec.Command(xzTool, "--lzma2=preset=0,dict="+test.dict)
		cmd.Stdin = strings.NewReader("some text")
		b, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, got := blockXZ(b); got != test.want {
			t.Errorf("dictionary of %s: %v", test.dict, got)
		}
	}
	for n := range 40 {
		blockXZ(bytes.Repeat([]byte{0xff}, n)) // does not panic
	}
}

// Servers are asked only where both the user's settings and the caller say so.
func TestDebuginfod(t *testing.T) {
	prog := build(t, "gcc", blockingC, "-g", "-O2", "-Wl,--build-id=0xfedcba9876")
	run(t, "objcopy", "--only-keep-debug", prog, prog+".debug")
	run(t, "strip", prog)
	dir := t.TempDir()
	asked := filepath.Join(dir, "asked")
	script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >> %s\ncase $2 in fedcba9876) echo %s ;; *) exit 1 ;; esac\n", asked, prog+".debug")
	if err := os.WriteFile(filepath.Join(dir, "debuginfod-find"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	s := look(t, start(t, prog))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for _, test := range []struct {
		urls string
		on   bool
		want bool
	}{{"", true, false}, {"https://debuginfod.invalid", false, false}, {"https://debuginfod.invalid", true, true}} {
		t.Setenv("DEBUGINFOD_URLS", test.urls)
		os.Remove(asked)
		got := Unwind(procview.New("/proc"), s, Options{Debuginfod: test.on})
		if has(got, "inner") != test.want {
			t.Errorf("%+v: names: %v%s", test, !test.want, show(got))
		}
		if _, err := os.Stat(asked); (err == nil) != test.want {
			t.Errorf("%+v: asked: %v", test, err == nil)
		}
	}
}
