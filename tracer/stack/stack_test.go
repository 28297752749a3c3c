package stack

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/samples/scene"
	"whosefd/tracer/event"
	"whosefd/tracer/memory"
	"whosefd/tracer/procview"
	"whosefd/tracer/ptrace"
)

func tool(t testing.TB, name string) string {
	t.Helper()
	scene.Require(t, name)
	p, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(tool(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// start runs a program until it is blocked in a read of its standard input.
func start(t testing.TB, name string, args ...string) event.PID {
	t.Helper()
	cmd := exec.Command(name, args...)
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
	return event.PID(cmd.Process.Pid)
}

func awaitRead(t testing.TB, pid int) {
	t.Helper()
	scene.Require(t, "ptrace")
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
		if errors.Is(err, os.ErrPermission) {
			t.Fatal(err)
		}
		nr, _, _ := strings.Cut(string(b), " ")
		if n, err := strconv.Atoi(nr); err == nil && (n == unix.SYS_READ || n == unix.SYS_PPOLL) {
			return
		}
		if runtime.GOARCH == "amd64" && nr == "7" { // poll, which arm64 does not have
			return
		}
	}
	t.Fatalf("pid %d does not wait for input", pid)
}

// look takes a snapshot of a process's main thread.
func look(t testing.TB, pid event.PID) Snapshot {
	t.Helper()
	v := procview.New("/proc")
	maps, err := v.Maps(pid)
	if err != nil {
		t.Fatal(err)
	}
	tid := event.TID(pid)
	s := Snapshot{PID: pid, TID: tid}
	err = ptrace.OnTracerThread(func() error {
		k := ptrace.Linux{}
		took, err := ptrace.Peek(k, tid, time.Second, func() error {
			r, err := k.Registers(tid)
			if err != nil {
				return err
			}
			s.Regs = FromPtrace(r)
			m, ok := procview.FindMapping(maps, s.Regs.SP)
			if !ok {
				return errors.New("no stack")
			}
			s.StackStart = max(s.Regs.SP-128, m.Start)
			s.Stack = make([]byte, m.End-s.StackStart)
			_, err = memory.Thread(tid).ReadMemory(s.Stack, s.StackStart)
			return err
		})
		s.StoppedUS = took.Microseconds()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// line is a frame of gdb's bt; file and line are empty where it has none.
type line struct{ pc, function, where string }

// [PAC] marks a return address that was signed.
var btLine = regexp.MustCompile(`^#\d+ +(?:(0x[0-9a-f]+) (?:\[PAC\] )?in )?(.*?) \(.*\)(?: (?:at|from) (\S+))?$`)

// bt asks gdb.
func bt(t testing.TB, pid event.PID) []line {
	t.Helper()
	out := run(t, "gdb", "-nx", "-p", strconv.Itoa(int(pid)), "-batch", "-ex", "set width 0", "-ex", "set print address on",
		"-ex", "set print frame-arguments none", "-ex", "set print asm-demangle on",
		"-ex", "set backtrace past-main on", "-ex", "set backtrace past-entry on", "-ex", "bt")
	var lines []line
	for sc := bufio.NewScanner(strings.NewReader(out)); sc.Scan(); {
		s := sc.Text()
		if strings.Contains(s, "<signal handler called>") {
			lines = append(lines, line{function: signalFrame})
			continue
		}
		if m := btLine.FindStringSubmatch(s); m != nil {
			lines = append(lines, line{m[1], m[2], m[3]})
		}
	}
	if len(lines) == 0 {
		t.Fatalf("gdb has no backtrace:\n%s", out)
	}
	return lines
}

// base gives a function's own name, without scope, parameters and template
// arguments, which gdb and the demangler write in different ways.
func base(s string) string {
	if s == signalFrame || !strings.ContainsAny(s, ":<(") {
		return s
	}
	s = strings.ReplaceAll(s, "(anonymous namespace)::", "")
	s = strings.ReplaceAll(s, "operator()", "operator!")
	var b strings.Builder
	depth := 0
	for i, c := range s {
		switch {
		case c == '<' || c == '{' || c == '(' && depth > 0:
			depth++
		case c == '>' || c == '}' || c == ')' && depth > 0:
			depth--
		case depth > 0:
		case c == '(' && i > 0:
			s = b.String()
			return s[strings.LastIndex(s, ":")+1:]
		default:
			b.WriteRune(c)
		}
	}
	s = b.String()
	return s[strings.LastIndex(s, ":")+1:]
}

const blockingC = `
#include <unistd.h>
#include <alloca.h>
#include <string.h>
#include <stdlib.h>
static const char *volatile keep;
static char *heap;
__attribute__((noinline)) int leaf(int n) { char c; int r = read(0, &c, 1); return r + n; }
static inline __attribute__((always_inline)) int inner(int n) { return leaf(n + 1) * 3; }
static inline __attribute__((always_inline)) int outer(int n) { return inner(n * 2) + 7; }
__attribute__((noinline)) int alloced(int n) {
	char *p = alloca(n * 100);
	memset(p, n, n * 100);
	strcpy(p + 3, "/proc/self/fd/4");
	keep = p;
	return outer(n) + p[n];
}
__attribute__((noinline)) int pointing(int n) {
	char *volatile own = heap;
	return alloced(n) + own[0];
}
int main(int argc, char **argv) {
	heap = malloc(64);
	strcpy(heap, "/proc/self/fd/7");
	return pointing(argc + 4) + 1;
}
`

const blockingCPP = `
#include <unistd.h>
#include <string>
#include <vector>
#include <algorithm>
namespace deep { namespace er {
template <typename T> struct Thing {
	T value;
	__attribute__((noinline)) virtual T get(const std::string &s, int n) { char c; return read(0, &c, 1) + s.size() + n + value; }
	virtual ~Thing() {}
};
}}
namespace { struct Hidden { int operator()(int a) const; }; 
__attribute__((noinline)) int Hidden::operator()(int a) const {
	deep::er::Thing<long> t; t.value = a;
	deep::er::Thing<long> *volatile p = &t;
	return p->get("abc", a) + 1;
} }
int main(int argc, char **) {
	std::vector<int> v(argc, 1);
	int sum = 0;
	std::for_each(v.begin(), v.end(), [&](int x) { sum += Hidden()(x); });
	return sum;
}
`

const blockingSignal = `
#include <signal.h>
#include <unistd.h>
#include <stdlib.h>
static void handler(int n) { char c; read(0, &c, 1); _exit(n); }
__attribute__((noinline)) int crash(int *p) { return *p + 1; }
int main(int argc, char **argv) {
	stack_t alt = { .ss_sp = malloc(65536), .ss_size = 65536 };
	struct sigaction a = { .sa_handler = handler, .sa_flags = SA_ONSTACK };
	sigaltstack(&alt, 0);
	sigaction(SIGSEGV, &a, 0);
	return crash((int *)(long)(argc - 1)) + 1;
}
`

// build compiles a source in a folder of its own and gives the program.
func build(t testing.TB, compiler, source string, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	src := "prog.c"
	if compiler == "g++" {
		src = "prog.cc"
	}
	if err := os.WriteFile(filepath.Join(dir, src), []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool(t, compiler), append(flags, "-Wno-unused-result", "-o", "prog", src)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", compiler, err, out)
	}
	return filepath.Join(dir, "prog")
}

// Every frame must be what gdb says: address, function, file and line.
func TestLikeGDB(t *testing.T) {
	split := func(link bool) func(t *testing.T, prog string) {
		return func(t *testing.T, prog string) {
			run(t, "objcopy", "--only-keep-debug", prog, prog+".debug")
			run(t, "strip", prog)
			if link {
				run(t, "objcopy", "--add-gnu-debuglink="+prog+".debug", prog)
			}
		}
	}
	signed := "-g" // the compiler's default
	if runtime.GOARCH == "arm64" {
		signed = "-mbranch-protection=standard"
	}
	for _, test := range []struct {
		name, compiler, source string
		flags                  []string
		prepare                func(t *testing.T, prog string)
		want                   string // a function that must be named
	}{
		{name: "debug info", compiler: "gcc", source: blockingC, flags: []string{"-g", "-O0"}, want: "alloced"},
		{name: "optimised", compiler: "gcc", source: blockingC, flags: []string{"-g", "-O2"}, want: "inner"},
		{name: "signed return addresses", compiler: "gcc", source: blockingC, flags: []string{"-g", "-O1", signed}, want: "outer"},
		{name: "DWARF 4", compiler: "gcc", source: blockingC, flags: []string{"-gdwarf-4", "-O2"}, want: "outer"},
		{name: "DWARF 3, no index", compiler: "gcc", source: blockingC, flags: []string{"-gdwarf-3", "-gno-pubnames", "-O1"}, want: "outer"},
		{name: "compressed", compiler: "gcc", source: blockingC, flags: []string{"-g", "-gz", "-O2"}, want: "outer"},
		{name: "symbols only", compiler: "gcc", source: blockingC, flags: []string{"-O2"}, want: "alloced"},
		{name: "fixed address", compiler: "gcc", source: blockingC, flags: []string{"-O2", "-g", "-no-pie"}, want: "outer"},
		{name: "no .eh_frame_hdr", compiler: "gcc", source: blockingC, flags: []string{"-O2", "-g", "-Wl,--no-eh-frame-hdr"}, want: "outer"},
		{name: "static", compiler: "gcc", source: blockingC, flags: []string{"-O2", "-g", "-static"}, want: "outer"},
		{name: "stripped", compiler: "gcc", source: blockingC, flags: []string{"-O2", "-g"}, prepare: func(t *testing.T, p string) { run(t, "strip", p) }},
		{name: "debug link", compiler: "gcc", source: blockingC, flags: []string{"-O2", "-g"}, prepare: split(true), want: "inner"},
		{name: "debug link without build id", compiler: "gcc", source: blockingC, flags: []string{"-O2", "-g", "-Wl,--build-id=none"}, prepare: split(true), want: "inner"},
		{name: "C++", compiler: "g++", source: blockingCPP, flags: []string{"-g", "-O0"}, want: "deep::er::Thing<long>::get(std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> > const&, int)"},
		{name: "C++ optimised", compiler: "g++", source: blockingCPP, flags: []string{"-g", "-O2"}, want: "deep::er::Thing<long>::get(std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> > const&, int)"},
		{name: "C++ symbols only", compiler: "g++", source: blockingCPP, flags: []string{"-O2"}, want: "deep::er::Thing<long>::get(std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> > const&, int)"},
		{name: "signal", compiler: "gcc", source: blockingSignal, flags: []string{"-g", "-O1"}, want: "crash"},
	} {
		t.Run(test.name, func(t *testing.T) {
			tool(t, "gdb")
			prog := build(t, test.compiler, test.source, test.flags...)
			if test.prepare != nil {
				test.prepare(t, prog)
			}
			pid := start(t, prog)
			got := Unwind(procview.New("/proc"), look(t, pid), Options{})
			if got.Error != "" {
				t.Errorf("error: %s", got.Error)
			}
			compare(t, got, bt(t, pid))
			if test.want != "" && !has(got, test.want) {
				t.Errorf("no frame of %s in %s", test.want, show(got))
			}
		})
	}
}

func has(st event.Stack, function string) bool {
	for _, f := range st.Frames {
		if f.Function == function {
			return true
		}
	}
	return false
}

func show(st event.Stack) string {
	var b bytes.Buffer
	for i, f := range st.Frames {
		fmt.Fprintf(&b, "\n#%d %s %s+%s %s at %s:%d inlined=%v %v", i, f.PC, f.Module, f.Offset, f.Function, f.File, f.Line, f.Inlined, f.Strings)
	}
	return b.String()
}

func compare(t *testing.T, got event.Stack, want []line) {
	t.Helper()
	if len(got.Frames) != len(want) {
		t.Errorf("%d frames, gdb has %d:%s\n%v", len(got.Frames), len(want), show(got), want)
		return
	}
	for i, f := range got.Frames {
		w := want[i]
		if w.pc != "" {
			if pc, _ := strconv.ParseUint(w.pc, 0, 64); pc != uint64(f.PC) {
				t.Errorf("frame %d: PC %s, gdb has %s", i, f.PC, w.pc)
			}
		}
		// Several names of one function are all right.
		alias := strings.TrimLeft(base(f.Function), "_") == strings.TrimLeft(strings.TrimPrefix(base(w.function), "__GI_"), "_") ||
			strings.HasSuffix(w.function, "libc_read") && f.Function == "read"
		if w.function == "??" && f.Function != "" || w.function != "??" && !alias {
			t.Errorf("frame %d: function %q, gdb has %q", i, f.Function, w.function)
		}
		if file, line, ok := strings.Cut(w.where, ":"); ok && (f.File != file || strconv.Itoa(f.Line) != line) {
			t.Errorf("frame %d: at %s:%d, gdb has %s", i, f.File, f.Line, w.where)
		}
	}
}

// gdbAtPrompt is a gdb without a terminal. It is not one of a scene, which waits for
// its programs: that would take the stops from look, in the same process.
func gdbAtPrompt(t testing.TB) event.PID {
	t.Helper()
	cmd := exec.Command(tool(t, "gdb"), "-nx", "-q")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
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
	if said, err := bufio.NewReader(out).ReadString(')'); said != "(gdb)" {
		t.Fatalf("gdb says %q, %v", said, err)
	}
	awaitRead(t, cmd.Process.Pid)
	return event.PID(cmd.Process.Pid)
}

// A debugger at its prompt, or hung, is what this package is for.
func TestGDBItself(t *testing.T) {
	pid := gdbAtPrompt(t)
	got := Unwind(procview.New("/proc"), look(t, pid), Options{})
	if got.Error != "" {
		t.Errorf("error: %s", got.Error)
	}
	compare(t, got, bt(t, pid))
	for i, f := range got.Frames {
		if f.Module == "" || f.Offset == 0 {
			t.Errorf("frame %d: no module: %+v", i, f)
		}
	}
}

func TestNamesOnStack(t *testing.T) {
	prog := build(t, "gcc", blockingC, "-g", "-O0")
	pid := start(t, prog)
	got := Unwind(procview.New("/proc"), look(t, pid),
		Options{Names: []string{"/proc/self/fd/4", "/proc/self/fd/7", "/proc/self/fd", ""}})
	direct, behind := false, false
	for _, f := range got.Frames {
		for _, s := range f.Strings {
			switch {
			case s.Text == "/proc/self/fd/4" && s.Slot == s.Addr && f.Function == "alloced":
				direct = true
			case s.Text == "/proc/self/fd/7" && s.Slot != s.Addr && f.Function == "pointing":
				behind = true
			case s.Text == "/proc/self/fd":
				t.Errorf("%+v: only the beginning of a name", s)
			}
		}
	}
	if !direct || !behind {
		t.Errorf("text in the frame: %v, behind a pointer: %v%s", direct, behind, show(got))
	}
}

func TestMaxFrames(t *testing.T) {
	prog := build(t, "gcc", blockingC, "-O0")
	got := Unwind(procview.New("/proc"), look(t, start(t, prog)), Options{MaxFrames: 3})
	if len(got.Frames) != 3 || !strings.Contains(got.Error, "3 frames") {
		t.Errorf("%d frames, error %q", len(got.Frames), got.Error)
	}
}

// The file is gone, and another one has its name.
func TestReplacedFile(t *testing.T) {
	prog := build(t, "gcc", blockingC, "-O2", "-g")
	pid := start(t, prog)
	if err := os.Remove(prog); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(prog, []byte("\x7fELF and no more"), 0o755); err != nil {
		t.Fatal(err)
	}
	got := Unwind(procview.New("/proc"), look(t, pid), Options{})
	if got.Error != "" || len(got.Frames) < 6 {
		t.Errorf("error %q%s", got.Error, show(got))
	}
	if _, err := os.ReadDir(fmt.Sprintf("/proc/%d/map_files", pid)); err == nil && os.Geteuid() == 0 && !has(got, "alloced") {
		t.Errorf("no names from the mapped file%s", show(got))
	}
}

// A wrong stack must end the walk, with an error and what was found before.
func TestWrongStack(t *testing.T) {
	prog := build(t, "gcc", blockingC, "-O2")
	pid := start(t, prog)
	for _, fill := range []byte{0xff, 0x41, 0x01} {
		s := look(t, pid)
		for i := range s.Stack {
			s.Stack[i] = fill
		}
		got := Unwind(procview.New("/proc"), s, Options{Names: []string{"A"}})
		if len(got.Frames) != 1 || got.Error == "" {
			t.Errorf("stack of %#x: error %q%s", fill, got.Error, show(got))
		}
	}
	s := look(t, pid)
	s.Regs.PC = 0
	if got := Unwind(procview.New("/proc"), s, Options{}); len(got.Frames) == 0 {
		t.Errorf("PC 0: %+v", got)
	}
}

func TestNoProcess(t *testing.T) {
	got := Unwind(procview.New(t.TempDir()), Snapshot{PID: 1, TID: 1}, Options{})
	if got.Error == "" || len(got.Frames) != 0 {
		t.Errorf("%+v", got)
	}
}

// BenchmarkUnwind is a whole backtrace of a gdb at its prompt, nothing cached.
func BenchmarkUnwind(b *testing.B) {
	pid := gdbAtPrompt(b)
	s := look(b, pid)
	v := procview.New("/proc")
	for b.Loop() {
		if st := Unwind(v, s, Options{Names: []string{"/proc/self/fd/4"}}); st.Error != "" {
			b.Fatal(st.Error)
		}
	}
}

func BenchmarkUnwindDebugInfo(b *testing.B) {
	s := look(b, start(b, build(b, "g++", blockingCPP, "-g", "-O2")))
	v := procview.New("/proc")
	for b.Loop() {
		if st := Unwind(v, s, Options{}); st.Error != "" {
			b.Fatal(st.Error)
		}
	}
}
