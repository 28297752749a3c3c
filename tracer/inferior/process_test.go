package inferior_test

import (
	"bufio"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"whosefd/samples/scene"
	"whosefd/tracer/event"
	"whosefd/tracer/inferior"
	"whosefd/tracer/procview"
)

// lookVar makes this test binary say what it finds out about a process.
const lookVar = "WHOSEFD_TEST_LOOK"

type look struct {
	Error    string
	Denied   bool
	Maps     []event.LinkMap
	Inferior event.Inferior
}

func TestMain(m *testing.M) {
	if pid, err := strconv.Atoi(os.Getenv(lookVar)); err == nil {
		_ = unix.Access("/begin", unix.F_OK)
		l := lookAt(event.PID(pid))
		_ = unix.Access("/end", unix.F_OK)
		if err := json.NewEncoder(os.Stdout).Encode(l); err != nil {
			os.Exit(3)
		}
		return
	}
	os.Exit(m.Run())
}

func lookAt(pid event.PID) look {
	var l look
	v := procview.New("/proc")
	maps, err := inferior.LinkMaps(v, pid)
	if err != nil {
		l.Error, l.Denied = err.Error(), errors.Is(err, os.ErrPermission)
	}
	for i := range maps {
		inferior.Complete(v, &maps[i], event.PID(os.Getpid()))
	}
	l.Maps = maps
	l.Inferior, _ = inferior.Describe(v, pid)
	return l
}

// lookAs has another process look, of another user or under another program.
func lookAs(t *testing.T, attr *syscall.SysProcAttr, pid event.PID, via ...string) look {
	t.Helper()
	name := "/proc/self/exe" // the folder of this test is not open to every user
	if len(via) > 0 {
		var err error
		if name, err = os.Executable(); err != nil {
			t.Fatal(err)
		}
	}
	args := append(slices.Clone(via), name)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), lookVar+"="+strconv.Itoa(int(pid)))
	cmd.SysProcAttr = attr
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var l look
	if err := json.Unmarshal(out, &l); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	return l
}

// build compiles a program or library of testdata.
func build(t testing.TB, source, name string, flags ...string) string {
	t.Helper()
	scene.Require(t, "gcc")
	if slices.Contains(flags, "-m32") {
		scene.Require(t, "gcc -m32", "32-bit programs")
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // for other users
		t.Fatal(err)
	}
	out := filepath.Join(dir, name)
	args := append([]string{"-O1", "-o", out, filepath.Join("testdata", source)}, flags...)
	if b, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("gcc %q: %v\n%s", args, err, b)
	}
	return out
}

func library(t testing.TB) string {
	t.Helper()
	return build(t, "lib.c", "libtest.so", "-shared", "-fPIC")
}

// entry is what a program says of its own list.
type entry struct {
	ns       int
	addr, ld uint64
	name     string
}

// process is one that has told its list and waits.
type process struct {
	pid  event.PID
	list []entry
}

func start(t testing.TB, attr *syscall.SysProcAttr, args ...string) process {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = attr
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p := process{pid: event.PID(cmd.Process.Pid)}
	r := bufio.NewReader(stdout)
	for {
		line, err := r.ReadString('\n')
		if err != nil || strings.HasPrefix(line, "failed") {
			t.Fatalf("%q: %q, %v", args, line, err)
		}
		if line == "ready\n" {
			return p
		}
		var e entry
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if _, err := fmt.Sscanf(strings.Join(f[:3], " "), "%d %x %x", &e.ns, &e.addr, &e.ld); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		e.name = f[3]
		p.list = append(p.list, e)
	}
}

func stat(t testing.TB, name string) event.Target {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		t.Fatal(err)
	}
	return event.Target{Dev: st.Dev, Ino: st.Ino}
}

func view() *procview.View { return procview.New("/proc") }

// byName gives the entry of a name in the list of a process.
func byName(t *testing.T, maps []event.LinkMap, name string) event.LinkMap {
	t.Helper()
	i := slices.IndexFunc(maps, func(lm event.LinkMap) bool { return string(lm.Name) == name })
	if i < 0 {
		t.Fatalf("%q is not in %+v", name, maps)
	}
	return maps[i]
}

func interpreter(t testing.TB, program string) string {
	t.Helper()
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b, err := io.ReadAll(p.Open())
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimRight(string(b), "\x00")
		}
	}
	t.Fatalf("%s has no interpreter", program)
	return ""
}

// isVDSO says whether a name is that of the object that the kernel gives.
func isVDSO(name event.Text) bool { return strings.HasPrefix(string(name), "linux-vdso.so") }

// Programs of every kind, and libraries loaded in every way: the list that is
// read is the one that the program itself has.
func TestLinkMaps(t *testing.T) {
	scene.Require(t, "ptrace", "gcc")
	lib := library(t)
	pie := build(t, "loader.c", "pie", "-pie", "-fPIE")
	noPIE := build(t, "loader.c", "no-pie", "-no-pie")
	sysv := build(t, "loader.c", "sysv", "-pie", "-fPIE", "-Wl,--hash-style=sysv", "-Wl,-z,now")
	static := build(t, "loader.c", "static", "-static", "-w")
	staticPIE := build(t, "loader.c", "static-pie", "-static-pie", "-fPIE", "-w")
	ldso := interpreter(t, pie)
	for _, tc := range []struct {
		name    string
		program []string
		mode    string
		opened  string // the library's name in the list
	}{
		{"PIE", []string{pie}, "path", lib},
		{"not PIE", []string{noPIE}, "path", lib},
		{"other hash table", []string{sysv}, "memfd", "/proc/self/fd/40"},
		{"static with dlopen", []string{static}, "path", lib},
		{"static PIE with dlopen", []string{staticPIE}, "path", lib},
		{"ld.so as the program", []string{ldso, pie}, "memfd", "/proc/self/fd/40"},
		{"ld.so, not PIE", []string{ldso, noPIE}, "memfd", "/proc/self/fd/40"},
		{"memfd", []string{pie}, "memfd", "/proc/self/fd/40"},
		{"closed", []string{pie}, "closed", "/proc/self/fd/40"},
		{"reused", []string{pie}, "reused", "/proc/self/fd/40"},
		{"moved", []string{pie}, "moved", "/proc/self/fd/40"},
		{"O_TMPFILE", []string{pie}, "tmpfile", "/proc/self/fd/40"},
		{"by a thread", []string{pie}, "thread", "/proc/self/fd/40"},
		{"relative", []string{pie}, "relative", "./libtest.so"},
		{"dlmopen", []string{pie}, "dlmopen", lib},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := start(t, nil, append(slices.Clone(tc.program), tc.mode, lib, "40")...)
			maps, err := inferior.LinkMaps(view(), p.pid)
			if err != nil {
				t.Fatal(err)
			}
			var got []entry
			for i, lm := range maps {
				got = append(got, entry{ns: lm.Namespace, addr: uint64(lm.LoadAddr), ld: uint64(lm.Dynamic), name: string(lm.Name)})
				if lm.PID != p.pid || lm.Addr == 0 || lm.NameAddr == 0 || i > 0 && maps[i-1].Namespace == lm.Namespace && lm.Index != maps[i-1].Index+1 {
					t.Errorf("entry %d: %+v", i, lm)
				}
				switch {
				case isVDSO(lm.Name):
					if lm.Mapped != nil {
						t.Errorf("the vdso has a file: %+v", lm)
					}
				case lm.Mapped == nil || lm.Mapped.Ino == 0 || lm.MapStart == 0 || uint64(lm.Dynamic) >= uint64(lm.MapEnd):
					t.Errorf("no mapping for %+v", lm)
				}
			}
			if !slices.Equal(got, p.list) {
				t.Errorf("got  %+v\nwant %+v", got, p.list)
			}
			if len(got) < 3 {
				t.Errorf("only %d objects", len(got))
			}
			opened := byName(t, maps, tc.opened)
			if tc.mode == "dlmopen" && (opened.Namespace != 1 || opened.Index != 0) {
				t.Errorf("namespace %d, index %d", opened.Namespace, opened.Index)
			}
			want := event.Memfd
			if !strings.HasPrefix(tc.opened, "/proc") || tc.mode == "tmpfile" {
				want = event.Regular
			}
			if opened.Mapped.Kind != want {
				t.Errorf("the library: %+v, want a %s", opened.Mapped, want)
			}
			if want == event.Regular && tc.mode != "tmpfile" && opened.Mapped.Ino != stat(t, lib).Ino {
				t.Errorf("the library is another file: %+v", opened.Mapped)
			}
			// The first is the program itself.
			program := tc.program[len(tc.program)-1]
			if maps[0].Name != "" || maps[0].Mapped == nil || maps[0].Mapped.Ino != stat(t, program).Ino {
				t.Errorf("the program: %+v", maps[0])
			}
			if os.Geteuid() == 0 && (opened.MappedStat == nil || opened.MappedStat.Error != "") {
				t.Errorf("not seen through map_files: %+v", opened.MappedStat)
			}
			inf, err := inferior.Describe(view(), p.pid)
			if err != nil || inf.LinkMapError != "" || inf.Libraries != len(maps) || inf.PID != p.pid || inf.TracerTID != 0 {
				t.Errorf("described as %+v, %v", inf, err)
			}
		})
	}
}

// The path under which the mapped file can be read, and what the name leads to
// in either process, whatever has become of the descriptor.
func TestComplete(t *testing.T) {
	scene.Require(t, "ptrace", "gcc", "root")
	pie := build(t, "loader.c", "pie", "-pie", "-fPIE")
	for _, tc := range []struct {
		mode   string
		opened string
		paths  []string // below the process's folder; map_files comes last in each
		right  bool     // the inferior still gets its file by that name
	}{
		{"memfd", "/proc/self/fd/40", []string{"/fd/40"}, true},
		{"tmpfile", "/proc/self/fd/40", []string{"/fd/40"}, true},
		{"thread", "/proc/self/fd/40", []string{"/fd/40"}, true},
		{"closed", "/proc/self/fd/40", nil, false},
		{"reused", "/proc/self/fd/40", nil, false},
		{"moved", "/proc/self/fd/40", []string{"/fd/60"}, false},
		{"path", "", []string{"/root"}, true},
		{"relative", "./libtest.so", []string{"/root"}, true},
		{"deleted", "", nil, false},
	} {
		t.Run(tc.mode, func(t *testing.T) {
			lib := library(t)
			p := start(t, nil, pie, tc.mode, lib, "40")
			maps, err := inferior.LinkMaps(view(), p.pid)
			if err != nil {
				t.Fatal(err)
			}
			name := tc.opened
			if name == "" {
				name = lib
			}
			lm := byName(t, maps, name)
			inferior.Complete(view(), &lm, event.PID(os.Getpid()))

			var want []event.Text
			dir := fmt.Sprintf("/proc/%d", p.pid)
			for _, path := range tc.paths {
				if path == "/root" {
					path += lib
				}
				want = append(want, event.Text(dir+path))
			}
			want = append(want, event.Text(fmt.Sprintf("%s/map_files/%x-%x", dir, uint64(lm.MapStart), uint64(lm.MapEnd))))
			if !slices.Equal(lm.Reachable, want) {
				t.Errorf("reachable by %q, want %q", lm.Reachable, want)
			}
			orig, err := os.ReadFile(filepath.Join(t.TempDir(), "missing"))
			if tc.mode != "deleted" {
				orig, err = os.ReadFile(lib)
			}
			for _, path := range lm.Reachable {
				b, readErr := os.ReadFile(string(path))
				if readErr != nil || err == nil && string(b) != string(orig) {
					t.Errorf("%s: %d bytes, %v", path, len(b), readErr)
				}
				if !stat(t, string(path)).Same(*lm.MappedStat) {
					t.Errorf("%s is another file", path)
				}
			}
			if len(lm.Resolves) != 2 || lm.Resolves[0].PID != event.PID(os.Getpid()) || lm.Resolves[1].PID != p.pid {
				t.Fatalf("resolves: %+v", lm.Resolves)
			}
			if lm.Resolves[1].Target.Same(*lm.MappedStat) != tc.right {
				t.Errorf("in the inferior: %+v, mapped %+v", lm.Resolves[1].Target, lm.MappedStat)
			}
			if name != lib && lm.Resolves[0].Target.Same(*lm.MappedStat) {
				t.Errorf("in the debugger: %+v: the test proves nothing", lm.Resolves[0])
			}
		})
	}
}

// The file at the path may have become another one since it was loaded.
func TestCompleteReplaced(t *testing.T) {
	scene.Require(t, "ptrace", "gcc", "root")
	lib, other := library(t), library(t)
	p := start(t, nil, build(t, "loader.c", "pie", "-pie", "-fPIE"), "path", lib)
	if err := os.Rename(other, lib); err != nil {
		t.Fatal(err)
	}
	maps, err := inferior.LinkMaps(view(), p.pid)
	if err != nil {
		t.Fatal(err)
	}
	lm := byName(t, maps, lib)
	inferior.Complete(view(), &lm, 0)
	if len(lm.Reachable) != 1 || !strings.Contains(string(lm.Reachable[0]), "/map_files/") {
		t.Errorf("reachable by %q", lm.Reachable)
	}
	if len(lm.Resolves) != 1 || lm.Resolves[0].PID != p.pid || lm.Resolves[0].Same(*lm.MappedStat) || lm.Resolves[0].Ino != stat(t, lib).Ino {
		t.Errorf("resolves: %+v, mapped %+v", lm.Resolves, lm.MappedStat)
	}
}

// The program and the vdso have no name that anybody could resolve.
func TestCompleteNameless(t *testing.T) {
	scene.Require(t, "ptrace", "gcc")
	p := start(t, nil, build(t, "loader.c", "pie", "-pie", "-fPIE"), "path", library(t))
	maps, err := inferior.LinkMaps(view(), p.pid)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, lm := range maps {
		if lm.Name != "" && !isVDSO(lm.Name) {
			continue
		}
		seen++
		inferior.Complete(view(), &lm, event.PID(os.Getpid()))
		if lm.Resolves != nil || lm.Reachable != nil {
			t.Errorf("completed: %+v", lm)
		}
	}
	if seen == 0 {
		t.Error("none seen")
	}
}

// In a chroot: the path that maps shows us is not the one that is valid there.
func TestCompleteInChroot(t *testing.T) {
	scene.Require(t, "ptrace", "gcc", "root")
	pie, lib := build(t, "loader.c", "pie", "-pie", "-fPIE"), library(t)
	jail := t.TempDir()
	ldso := interpreter(t, pie)
	probe := start(t, nil, pie, "path", lib)
	for _, e := range append(probe.list, entry{name: pie}, entry{name: lib}) {
		if !strings.HasPrefix(e.name, "/") {
			continue
		}
		b, err := os.ReadFile(e.name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(jail+e.name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(jail+e.name, b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(jail + ldso); err != nil {
		t.Fatal(err)
	}
	p := start(t, &syscall.SysProcAttr{Chroot: jail}, pie, "path", lib)
	maps, err := inferior.LinkMaps(view(), p.pid)
	if err != nil {
		t.Fatal(err)
	}
	lm := byName(t, maps, lib)
	inferior.Complete(view(), &lm, event.PID(os.Getpid()))
	if want := event.Text(fmt.Sprintf("/proc/%d/root%s", p.pid, lib)); len(lm.Reachable) == 0 || lm.Reachable[0] != want {
		t.Errorf("reachable by %q, want %q first", lm.Reachable, want)
	}
	// The debugger, outside, finds a file of the same name: another one.
	if !lm.Resolves[0].Same(stat(t, lib)) || lm.Resolves[0].Same(*lm.MappedStat) || !lm.Resolves[1].Same(*lm.MappedStat) {
		t.Errorf("resolves %+v, mapped %+v", lm.Resolves, lm.MappedStat)
	}
}

// Through a /proc of another pid namespace: there the program is process 1, and
// with us that is somebody else.
func TestLinkMapsInPIDNamespace(t *testing.T) {
	scene.Require(t, "ptrace", "gcc", "root", "unshare", "pid namespaces")
	pie, lib := build(t, "loader.c", "pie", "-pie", "-fPIE"), library(t)
	p := start(t, nil, "unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", pie, "memfd", lib, "40")
	v := procview.New(fmt.Sprintf("/proc/%d/root/proc", p.pid))
	maps, err := inferior.LinkMaps(v, 1)
	if err != nil || len(maps) != len(p.list) {
		t.Fatalf("%+v, %v; want %+v", maps, err, p.list)
	}
	lm := byName(t, maps, "/proc/self/fd/40")
	inferior.Complete(v, &lm, 0)
	if want := event.Text(v.Mount + "/1/fd/40"); len(lm.Reachable) == 0 || lm.Reachable[0] != want ||
		lm.Mapped.Kind != event.Memfd || !lm.Resolves[0].Same(*lm.MappedStat) {
		t.Errorf("got %+v, mapped %+v, want %s", lm, lm.Mapped, want)
	}
	if !stat(t, string(lm.Reachable[0])).Same(*lm.MappedStat) {
		t.Errorf("%s is another file", lm.Reachable[0])
	}
}

func TestNoList(t *testing.T) {
	scene.Require(t, "ptrace", "gcc")
	zombie := exec.Command("true")
	if err := zombie.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = zombie.Wait() })
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, zombie.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		pid  event.PID
		want error
	}{
		{"static", start(t, nil, build(t, "plain.c", "static", "-static", "-s")).pid, inferior.ErrStatic},
		{"static, not begun", stopped(t, build(t, "plain.c", "static", "-static")), inferior.ErrStatic},
		{"not begun", stopped(t, build(t, "loader.c", "pie", "-pie", "-fPIE")), inferior.ErrEarly},
		{"not begun, not PIE", stopped(t, build(t, "loader.c", "no-pie", "-no-pie")), inferior.ErrEarly},
		{"not begun, ld.so", stopped(t, interpreter(t, build(t, "loader.c", "pie", "-pie", "-fPIE"))), inferior.ErrEarly},
		{"zombie", event.PID(zombie.Process.Pid), inferior.ErrNoProgram},
		{"gone", 1<<31 - 1, os.ErrNotExist},
	} {
		t.Run(tc.name, func(t *testing.T) {
			maps, err := inferior.LinkMaps(view(), tc.pid)
			if !errors.Is(err, tc.want) || len(maps) != 0 || !strings.Contains(err.Error(), strconv.Itoa(int(tc.pid))) {
				t.Errorf("got %+v, %v; want %v", maps, err, tc.want)
			}
			inf, err := inferior.Describe(view(), tc.pid)
			if tc.name == "gone" {
				if !errors.Is(err, os.ErrNotExist) {
					t.Errorf("described: %+v, %v", inf, err)
				}
			} else if err != nil || !strings.Contains(inf.LinkMapError, tc.want.Error()) || inf.Libraries != 0 {
				t.Errorf("described: %+v, %v", inf, err)
			}
		})
	}
}

// A static program with symbols or DT_DEBUG: glibc keeps a list in it too, of the program
// itself, or has none; a library is never in it.
func TestStatic(t *testing.T) {
	scene.Require(t, "ptrace", "gcc")
	for name, flags := range map[string][]string{"static": {"-static"}, "static-pie": {"-static-pie", "-fPIE"},
		"stripped-pie": {"-static-pie", "-fPIE", "-s"}} {
		program := build(t, "plain.c", name, flags...)
		maps, err := inferior.LinkMaps(view(), start(t, nil, program).pid)
		if errors.Is(err, inferior.ErrStatic) {
			continue
		}
		if err != nil || maps[0].Name != "" || maps[0].Mapped == nil || maps[0].Mapped.Ino != stat(t, program).Ino {
			t.Errorf("%s: %+v, %v", name, maps, err)
		}
		for _, lm := range maps[1:] {
			if !isVDSO(lm.Name) {
				t.Errorf("%s: %+v", name, lm)
			}
		}
	}
}

// stopped starts a program that we trace, and that stands at its very first
// instruction.
func stopped(t *testing.T, program string) event.PID {
	t.Helper()
	pids, ends := make(chan int), make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // whoever traces must wait for it too
		defer runtime.UnlockOSThread()
		cmd := exec.Command(program, "none")
		cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
		if err := cmd.Start(); err != nil {
			t.Errorf("start %s: %v", program, err)
			close(pids)
			return
		}
		var ws unix.WaitStatus
		if _, err := unix.Wait4(cmd.Process.Pid, &ws, 0, nil); err != nil || !ws.Stopped() {
			t.Errorf("wait for %s: %#x, %v", program, ws, err)
		}
		pids <- cmd.Process.Pid
		<-ends
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	pid, ok := <-pids
	if !ok {
		t.FailNow()
	}
	t.Cleanup(func() { close(ends); <-done })
	return event.PID(pid)
}

func TestFind(t *testing.T) {
	scene.Require(t, "ptrace", "gcc")
	free := start(t, nil, build(t, "loader.c", "pie", "-pie", "-fPIE"), "none")
	pid := stopped(t, build(t, "plain.c", "static", "-static"))
	find := func(pid event.PID) ([]event.Inferior, error) {
		all, err := view().Tracing()
		if err != nil {
			t.Fatal(err)
		}
		return inferior.Find(view(), pid, all)
	}
	found, err := find(event.PID(os.Getpid()))
	if err != nil || len(found) != 1 || found[0].PID != pid || found[0].TracerTID == 0 || found[0].LinkMapError == "" ||
		found[0].Comm != "static" || found[0].PPID != event.PID(os.Getpid()) {
		t.Errorf("got %+v, %v", found, err)
	}
	if tgid, err := view().TGID(found[0].TracerTID); err != nil || tgid != event.PID(os.Getpid()) {
		t.Errorf("traced by %d of %d, %v", found[0].TracerTID, tgid, err)
	}
	if found, err := find(free.pid); err != nil || len(found) != 0 {
		t.Errorf("who traces nobody: %+v, %v", found, err)
	}
	if _, err := find(1<<31 - 1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nobody: %v", err)
	}
}

// An ordinary user may look at processes of that user, with all but map_files,
// and is told of every other that it is not permitted.
// TestDescribeWhileItExecs has a process that runs one program after the other.
func TestDescribeWhileItExecs(t *testing.T) {
	dir := t.TempDir()
	one := scene.Compile(t, dir, "one.c", `
#include <unistd.h>
int main(int argc, char **argv) { execl(argv[1], argv[1], argv[0], (char *)0); return 1; }`, "gcc", "-w")
	other := filepath.Join(dir, "other")
	scene.Copy(t, one, other)
	p := scene.Start(t, scene.Command{Path: one, Args: []string{other}})
	told := 0
	for range 300 {
		inf, err := inferior.Describe(procview.New("/proc"), event.PID(p.PID))
		if err != nil {
			t.Fatal(err)
		}
		if inf.ExeTarget == nil {
			continue
		}
		if told++; inf.ExeTarget.Link != inf.Exe {
			t.Fatalf("%s is said to be %+v", inf.Exe, inf.ExeTarget)
		}
	}
	if told == 0 {
		t.Error("it is never told")
	}
}

func TestOrdinaryUser(t *testing.T) {
	scene.Require(t, "ptrace", "gcc", "root", "setpriv", "ptrace by an ordinary user")
	nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	pie, lib := build(t, "loader.c", "pie", "-pie", "-fPIE"), library(t)

	l := lookAs(t, nobody, start(t, nobody, pie, "memfd", lib, "40").pid)
	if l.Error != "" {
		t.Fatal(l.Error)
	}
	lm := byName(t, l.Maps, "/proc/self/fd/40")
	if lm.MappedStat != nil || lm.Mapped == nil || lm.Mapped.Kind != event.Memfd ||
		len(lm.Reachable) != 1 || !strings.HasSuffix(string(lm.Reachable[0]), "/fd/40") {
		t.Errorf("own process: %+v, mapped %+v", lm, lm.Mapped)
	}
	if l.Inferior.LinkMapError != "" || l.Inferior.Libraries != len(l.Maps) {
		t.Errorf("own process: %+v", l.Inferior)
	}

	l = lookAs(t, nobody, start(t, nil, pie, "memfd", lib, "40").pid)
	if !l.Denied || len(l.Maps) != 0 || !strings.Contains(l.Inferior.LinkMapError, "permission denied") {
		t.Errorf("root's process: %q, %+v", l.Error, l.Inferior)
	}
}

// The calls that are made for an inferior's names, as the kernel sees them: none
// of the names is looked up from our own root or directory.
func TestCalls(t *testing.T) {
	scene.Require(t, "ptrace", "gcc", "strace")
	lib := library(t)
	p := start(t, nil, build(t, "loader.c", "static", "-static", "-w"), "path", lib) // its file is read for symbols
	q := start(t, nil, build(t, "loader.c", "pie", "-pie", "-fPIE"), "memfd", lib, "40")
	for _, pid := range []event.PID{p.pid, q.pid} {
		log := filepath.Join(t.TempDir(), "log")
		l := lookAs(t, nil, pid, "strace", "-f", "-qq", "-e", "trace=%file", "-o", log)
		if l.Error != "" || len(l.Maps) < 3 {
			t.Fatalf("%+v", l)
		}
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		_, calls, ok1 := strings.Cut(string(b), `"/begin"`)
		calls, _, ok2 := strings.Cut(calls, `"/end"`)
		if !ok1 || !ok2 {
			t.Fatal("no marks in the log of strace")
		}
		inf := fmt.Sprintf("/proc/%d/", pid)
		seen, real := 0, 0
		for _, line := range strings.Split(calls, "\n") {
			_, name, ok := strings.Cut(line, `"`)
			name, _, _ = strings.Cut(name, `"`)
			if !ok || name == "" || strings.Contains(line, "resumed>") {
				continue
			}
			seen++
			switch {
			case name == "/proc": // the view itself
			case strings.Contains(line, "AT_FDCWD") && !strings.HasPrefix(name, "/proc/") ||
				!strings.Contains(line, "AT_FDCWD") && strings.Contains(line, `("`) && !strings.HasPrefix(name, "/proc/"):
				t.Errorf("looked up in our own context: %s", line)
			case strings.HasPrefix(name, "/proc/self/fd/") && strings.Contains(line, "open"):
				real++ // a file that was first found to be a regular one
			case strings.HasPrefix(name, "/proc/self/") && !strings.Contains(line, "readlink"):
				t.Errorf("our own self: %s", line)
			case strings.Contains(line, "open") && strings.HasPrefix(name, inf) && strings.Contains(name, "/fd/") && !strings.Contains(line, "O_PATH"):
				t.Errorf("opened for more than O_PATH: %s", line)
			}
		}
		if seen < 10 || real > 2 {
			t.Errorf("%d calls seen, %d files opened", seen, real)
		}
	}
}
