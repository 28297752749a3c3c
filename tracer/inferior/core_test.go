package inferior_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"whosefd/samples/scene"
	"whosefd/tracer/event"
	"whosefd/tracer/inferior"
	"whosefd/tracer/memory"
	"whosefd/tracer/procview"
)

// crash starts a program in a folder of its own, and gives what it said of its list, and its core file.
func crash(t *testing.T, kind string, args ...string) (process, string) {
	t.Helper()
	p := start(t, nil, append([]string{"env", "-C", t.TempDir()}, args...)...)
	core := filepath.Join(t.TempDir(), "a.core")
	scene.Core(t, int(p.pid), kind, core)
	return p, core
}

func readCore(t *testing.T, name string, program string) *inferior.Core {
	t.Helper()
	open := func(name string) *procview.Large {
		f, err := view().OpenNamed(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	var given *procview.Large
	if program != "" {
		given = open(program)
	}
	c, err := inferior.ReadCore(view(), open(name), 1, event.PID(os.Getpid()), given)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// entries is what a core's list says, as programs tell their own.
func entries(c *inferior.Core) []entry {
	var got []entry
	for _, lm := range c.LinkMaps {
		got = append(got, entry{ns: lm.Namespace, addr: uint64(lm.LoadAddr), ld: uint64(lm.Dynamic), name: string(lm.Name)})
	}
	return got
}

// buildIDOf is the build id of a file as readelf shows it.
func buildIDOf(t *testing.T, name string) string {
	t.Helper()
	scene.Require(t, "readelf")
	out, err := exec.Command("readelf", "-n", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(out), "Build ID: ")
	if !ok {
		t.Fatalf("%s has no build id: %s", name, out)
	}
	id, _, _ := strings.Cut(rest, "\n")
	return id
}

// From a core, of either kind, the same list is read that the process had.
func TestCoreLinkMaps(t *testing.T) {
	scene.Require(t, "gcc")
	lib := build(t, "lib.c", "libtest.so", "-shared", "-fPIC", "-Wl,--build-id=sha1")
	pie := build(t, "loader.c", "pie", "-pie", "-fPIE", "-Wl,--build-id")
	noPIE := build(t, "loader.c", "no-pie", "-no-pie")
	static := build(t, "loader.c", "static", "-static", "-w", "-Wl,--build-id")
	ldso := interpreter(t, pie)
	for _, tc := range []struct {
		name    string
		program []string
		mode    string
		opened  string
	}{
		{"memfd", []string{pie}, "memfd", "/proc/self/fd/40"},
		{"not PIE, closed", []string{noPIE}, "closed", "/proc/self/fd/40"},
		{"ld.so as the program", []string{ldso, pie}, "memfd", "/proc/self/fd/40"},
		{"static with dlopen", []string{static}, "path", lib},
		{"relative, by a thread", []string{pie}, "relative", "./libtest.so"},
		{"dlmopen", []string{pie}, "dlmopen", lib},
	} {
		for _, kind := range scene.CoreKinds {
			t.Run(tc.name+"/"+kind, func(t *testing.T) {
				p, core := crash(t, kind, append(slices.Clone(tc.program), tc.mode, lib, "40")...)
				c := readCore(t, core, "")
				if got := entries(c); !slices.Equal(got, p.list) || c.Inferior.LinkMapError != "" || c.Inferior.Libraries != len(got) {
					t.Fatalf("got  %+v\nwant %+v\n%+v", got, p.list, c.Inferior)
				}
				file := c.Inferior.Core
				if file.PID != p.pid || c.Inferior.PID != 0 || !file.Same(stat(t, core)) || file.Missing != 0 || file.ID != 1 ||
					kind == "kernel" && (file.Signal != "SIGSEGV" || !strings.HasPrefix(filepath.Base(tc.program[0]), string(c.Inferior.Comm))) {
					t.Errorf("%+v of %+v", file, c.Inferior)
				}
				lm := byName(t, c.LinkMaps, tc.opened)
				if lm.Mapped == nil || lm.Mapped.BuildID != buildIDOf(t, lib) || lm.Mapped.Ino != 0 || lm.Core != 1 || lm.PID != 0 {
					t.Errorf("the library: %+v, %+v", lm, lm.Mapped)
				}
				if want := event.Text("/memfd:libfunction (deleted)"); strings.HasPrefix(tc.opened, "/proc") && (lm.Mapped.Link != want || lm.Mapped.Kind != event.Memfd) {
					t.Errorf("the library: %+v", lm.Mapped)
				}
				inferior.CompleteCore(view(), &lm, event.PID(os.Getpid()))
				if len(lm.Resolves) != 1 || (tc.opened == lib) != (lm.Resolves[0].BuildID == lm.Mapped.BuildID) {
					t.Errorf("resolves: %+v", lm.Resolves)
				}
			})
		}
	}
}

// What the core lacks is said, and the program that the user gives stands in for its pages only.
func TestCoreWithout(t *testing.T) {
	scene.Require(t, "gcc", "core files")
	lib := build(t, "lib.c", "libtest.so", "-shared", "-fPIC")
	pie := build(t, "loader.c", "pie", "-pie", "-fPIE", "-Wl,--build-id=none")
	other := build(t, "plain.c", "other", "-pie", "-fPIE", "-Wl,--build-id")
	p := start(t, nil, "env", "-C", t.TempDir(), pie, "memfd", lib, "40")
	filter := "/proc/" + strconv.Itoa(int(p.pid)) + "/coredump_filter"
	if err := os.WriteFile(filter, []byte("0x23"), 0); err != nil { // no ELF headers
		t.Fatal(err)
	}
	core := filepath.Join(t.TempDir(), "core")
	scene.Core(t, int(p.pid), "kernel", core)
	if c := readCore(t, core, ""); len(c.LinkMaps) != 0 || !strings.Contains(c.Inferior.LinkMapError, memory.ErrLeftOut.Error()) {
		t.Errorf("without its headers: %+v", c)
	}
	c := readCore(t, core, pie)
	if got := entries(c); !slices.Equal(got, p.list) {
		t.Fatalf("with the program: %+v\nwant %+v\n%+v", got, p.list, c.Inferior)
	}
	if lm := byName(t, c.LinkMaps, "/proc/self/fd/40"); lm.Mapped == nil || lm.Mapped.BuildID != "" || lm.Mapped.Kind != event.Memfd {
		t.Errorf("%+v", lm.Mapped)
	}
	b, err := os.ReadFile(core)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{len(b) / 4, len(b) / 2, len(b) - 10} {
		if err := os.WriteFile(core, b[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		if c := readCore(t, core, pie); c.Inferior.Core.Missing < 10 || c.Inferior.Core.PID != p.pid {
			t.Errorf("cut off: %+v", c.Inferior.Core)
		}
	}
	if err := os.WriteFile(core, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if c := readCore(t, core, other); len(c.LinkMaps) > 1 {
		t.Errorf("with another program: %+v", c)
	}
}

// 32-bit cores have other notes.
func TestCore32(t *testing.T) {
	lib := build(t, "lib.c", "libtest.so", "-shared", "-fPIC", "-m32")
	pie := build(t, "loader.c", "pie", "-pie", "-fPIE", "-m32")
	for _, kind := range scene.CoreKinds {
		t.Run(kind, func(t *testing.T) {
			p, core := crash(t, kind, pie, "memfd", lib, "40")
			c := readCore(t, core, "")
			if got := entries(c); !slices.Equal(got, p.list) || c.Inferior.Core.Arch != "386" || c.Inferior.Core.PID != p.pid {
				t.Errorf("got  %+v\nwant %+v\n%+v", got, p.list, c.Inferior)
			}
		})
	}
}

// A core is found behind a descriptor, and where it is mapped; a program is none.
func TestCores(t *testing.T) {
	scene.Require(t, "gcc", "core files", "python3")
	lib := build(t, "lib.c", "libtest.so", "-shared", "-fPIC")
	_, core := crash(t, "kernel", build(t, "loader.c", "pie", "-pie", "-fPIE"), "path", lib, "40")
	for name, script := range map[string]string{
		"open":     "f = open(sys.argv[1], 'rb')",
		"mapped":   "f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close()",
		"argument": "pass",
	} {
		p := scene.Start(t, scene.Command{Path: "python3", Args: []string{"-c", "import sys, mmap, time\n" + script + "\nprint('ready', flush=True)\ntime.sleep(1000)", core}})
		p.Expect("ready")
		found := inferior.Cores(view(), event.PID(p.PID))
		if len(found) != 1 || !found[0].Target.Same(stat(t, core)) {
			t.Errorf("%s: %+v", name, found)
		}
		for _, f := range found {
			_ = f.Close()
		}
	}
	if found := inferior.Cores(view(), event.PID(os.Getpid())); len(found) != 0 {
		t.Errorf("of this test: %+v", found[0])
	}
}
