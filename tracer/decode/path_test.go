package decode

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"whosefd/tracer/event"
)

func TestClassifyName(t *testing.T) {
	selfFD := func(fd event.FD) Name { return Name{Kind: SelfFD, FD: fd} }
	link := func(s string) Name { return Name{Kind: SelfLink, FD: -1, Link: s} }
	abs := Name{Kind: Absolute, FD: -1}
	for _, tc := range []struct {
		name string
		want Name
	}{
		{"", Name{Kind: Empty, FD: -1}},
		{"lib.so", Name{Kind: Relative, FD: -1}},
		{"./lib.so", Name{Kind: Relative, FD: -1}},
		{"../proc/self/fd/4", Name{Kind: Relative, FD: -1}},
		{"proc/self/fd/4", Name{Kind: Relative, FD: -1}},
		{"/", abs},
		{"//", abs},
		{"/lib/x.so", abs},
		{"/proc", abs},
		{"/proc/cpuinfo", abs},
		{"/proc/sys/kernel/yama", abs},
		{"/process/self/fd/4", abs},
		{"/dev", abs},
		{"/dev/null", abs},
		{"/dev/fd0", abs},
		{"/memfd:libfunction (deleted)", abs},

		{"/proc/self/fd/4", selfFD(4)},
		{"/proc/self/fd/0", selfFD(0)},
		{"/proc//self/./fd/4", selfFD(4)},
		{"//proc/./self//fd/4", selfFD(4)},
		{"/./proc/self/fd/4", selfFD(4)},
		{"/proc/self/fd/4/", Name{Kind: SelfFD, FD: 4, Rest: "/"}},
		{"/proc/self/fd/4/.", Name{Kind: SelfFD, FD: 4, Rest: "/"}},
		{"/proc/self/fd/4/a//b", Name{Kind: SelfFD, FD: 4, Rest: "/a/b"}},
		{"/proc/self/fd/4/../5", Name{Kind: SelfFD, FD: 4, Rest: "/../5"}},
		{"/proc/thread-self/fd/4", Name{Kind: SelfFD, FD: 4, Thread: true}},
		{"/proc/self/task/123/fd/4", Name{Kind: SelfFD, FD: 4, TID: 123}},
		{"/dev/fd/4", selfFD(4)},
		{"/dev/./fd//4", selfFD(4)},
		{"/dev/stdin", selfFD(0)},
		{"/dev/stdout", selfFD(1)},
		{"/dev/stderr", selfFD(2)},
		{"/dev/../proc/self/fd/4", selfFD(4)},
		{"/dev/fd/../exe", link("exe")},
		{"/proc/self/fd/2147483647", selfFD(2147483647)},

		{"/proc/123/fd/4", Name{Kind: PIDFD, FD: 4, PID: 123}},
		{"/proc/123/fd/4/x", Name{Kind: PIDFD, FD: 4, PID: 123, Rest: "/x"}},
		{"/proc/123/task/124/fd/4", Name{Kind: PIDFD, FD: 4, PID: 123, TID: 124}},
		{"/proc/123/task/124/mem", Name{Kind: PIDPath, FD: -1, PID: 123, TID: 124, Link: "mem"}},
		{"/proc/1/root/x", Name{Kind: PIDPath, FD: -1, PID: 1, Link: "root/x"}},
		{"/proc/123", Name{Kind: PIDPath, FD: -1, PID: 123}},
		{"/proc/123/ns/mnt", Name{Kind: PIDPath, FD: -1, PID: 123, Link: "ns/mnt"}},
		{"/proc/0123/fd/4", abs},
		{"/proc/0/fd/4", abs},

		{"/proc/self", link("")},
		{"/proc/self/", link("")},
		{"/proc/thread-self", Name{Kind: SelfLink, FD: -1, Thread: true}},
		{"/proc/self/exe", link("exe")},
		{"/proc/thread-self/cwd/lib.so", Name{Kind: SelfLink, FD: -1, Thread: true, Link: "cwd/lib.so"}},
		{"/proc/self/root/lib/x.so", link("root/lib/x.so")},
		{"/proc/self/cwd/lib.so", link("cwd/lib.so")},
		{"/proc/self/map_files/7f-80", link("map_files/7f-80")},
		{"/proc/self/fdinfo/4", link("fdinfo/4")},
		{"/proc/self/task", link("task")},
		{"/proc/self/fd/", link("fd")},
		{"/proc/self/fd", link("fd")},
		{"/dev/fd", link("fd")},
		{"/proc/mounts", link("mounts")},
		{"/proc/net/tcp", link("net/tcp")},
		{"/proc/self/fd/99999999999999", link("fd/99999999999999")},
		{"/proc/self/fd/2147483648", link("fd/2147483648")},
		{"/proc/self/fd/04", link("fd/04")},

		{"/proc/self/fd/4.dwp", Name{Kind: SelfLink, FD: 4, Link: "fd/4.dwp", Rest: ".dwp", Derived: true}},
		{"/proc/self/fd/4-gdb.py", Name{Kind: SelfLink, FD: 4, Link: "fd/4-gdb.py", Rest: "-gdb.py", Derived: true}},
		{"/proc/self/fd/proc/self/fd/4.dwp", Name{Kind: SelfLink, FD: 4, Link: "fd/proc/self/fd/4.dwp", Rest: ".dwp", Derived: true}},
		{"/proc/self/fd/.debug/4.debug", Name{Kind: SelfLink, FD: 4, Link: "fd/.debug/4.debug", Rest: ".debug", Derived: true}},
		{"/proc/self/fd/lib.debug", Name{Kind: SelfLink, FD: -1, Link: "fd/lib.debug", Derived: true}},
		{"/dev/fd/4-gdb.gdb", Name{Kind: SelfLink, FD: 4, Link: "fd/4-gdb.gdb", Rest: "-gdb.gdb", Derived: true}},
		{"/proc/123/fd/4.dwp", Name{Kind: PIDPath, FD: 4, PID: 123, Link: "fd/4.dwp", Rest: ".dwp", Derived: true}},
		{"/usr/lib/debug/proc/self/fd/4.debug", Name{Kind: Absolute, FD: 4, Rest: ".debug", Derived: true}},
		{"/usr/lib/debug//proc/123/fd/4-gdb.py", Name{Kind: Absolute, FD: 4, PID: 123, Rest: "-gdb.py", Derived: true}},
		{"/usr/lib/debug/dev/fd/4.debug", Name{Kind: Absolute, FD: 4, Rest: ".debug", Derived: true}},
		{"/sysroot/proc/self/fd/4", abs}, // may be a real link there

		{"/proc/self/../123/fd/4", Name{Kind: PIDFD, FD: 4, PID: 123}},
		{"/proc/123/../self/fd/4", selfFD(4)},
		{"/proc/thread-self/../../fd/4", selfFD(4)},
		{"/proc/self/fd/../exe", link("exe")},
		{"/../../proc/self/fd/4", selfFD(4)},
		{"/proc/../proc/self/fd/4", selfFD(4)},
		{"/proc/self/..", abs},
		{"/proc/self/cwd/../lib.so", link("cwd/../lib.so")},
		{"/lib/../proc/self/fd/4", abs}, // /lib may be a link to /usr/lib
		{"/usr/lib/../../proc/self/fd/4", abs},

		{"/proc/123/root/proc/self/fd/4", Name{Kind: SelfFD, FD: 4, Root: "/proc/123/root"}},
		{"/proc/self/root/proc/7/exe", Name{Kind: PIDPath, FD: -1, PID: 7, Link: "exe", Root: "/proc/self/root"}},
		{"/proc/123/root/proc/self/root/dev/stdin", Name{Kind: SelfFD, FD: 0, Root: "/proc/123/root/proc/self/root"}},
		{"/proc/1/root/../proc/self/fd/4", Name{Kind: PIDPath, FD: -1, PID: 1, Link: "root/../proc/self/fd/4"}},
		{"/proc/1/root/proc/../../x", Name{Kind: PIDPath, FD: -1, PID: 1, Link: "root/proc/../../x"}},
	} {
		if got := ClassifyName(tc.name); got != tc.want {
			t.Errorf("%q:\n got %+v\nwant %+v", tc.name, got, tc.want)
		}
	}
}

// What the classifier says must be what this kernel does.
func TestClassifyNameAgainstKernel(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc of Linux")
	}
	file := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	n := int(f.Fd())
	num := strconv.Itoa(n)
	for _, name := range []string{
		"/proc/self/fd/" + num, "/proc//self/./fd/" + num, "/proc/self/fd/" + num + "/", "/proc/thread-self/fd/" + num,
		"/dev/fd/" + num, "/proc/self/fd/0" + num, "/proc/self/fd/../fd/" + num, "/proc/thread-self/../../fd/" + num,
		"/proc/self/../self/fd/" + num, "/dev/fd/../fd/" + num, "/dev/../proc/self/fd/" + num,
		"/proc/self/root/proc/self/fd/" + num, "/proc/self/fd/" + num + ".dwp", "/../proc/self/fd/" + num,
	} {
		got := ClassifyName(name)
		runtime.LockOSThread()
		fi, err := os.Stat(name)
		runtime.UnlockOSThread()
		leads := err == nil && os.SameFile(fi, want)
		says := got.Kind == SelfFD && got.FD == event.FD(n) && got.Rest == ""
		if leads != says {
			t.Errorf("%q: classified as %+v, but stat gives %v, same file: %v", name, got, err, leads)
		}
	}
}

func FuzzClassifyName(f *testing.F) {
	for _, s := range []string{"/proc/self/fd/4", "/proc/1/root/proc/self/fd/4.dwp", "/dev/fd/../../x", "/proc/thread-self/../1/fd/0/", "/a/proc//self/fd/7-gdb.py"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		n := ClassifyName(name)
		switch n.Kind {
		case SelfFD, PIDFD:
			if n.FD < 0 {
				t.Errorf("%q: no descriptor: %+v", name, n)
			}
		case Empty:
			if name != "" {
				t.Errorf("%q is empty", name)
			}
		case Relative:
			if name[0] == '/' {
				t.Errorf("%q is relative", name)
			}
		}
		if (n.Kind == PIDFD || n.Kind == PIDPath) != (n.PID > 0) && !n.Derived {
			t.Errorf("%q: %+v", name, n)
		}
		// Slashes and dots that mean nothing change nothing.
		if again := ClassifyName(strings.ReplaceAll(name, "/", "/.//")); again.Kind != n.Kind || again.FD != n.FD || again.PID != n.PID || again.Link != n.Link || again.Derived != n.Derived {
			t.Errorf("%q: %+v, with more slashes %+v", name, n, again)
		}
	})
}

func TestUnmappable(t *testing.T) {
	for name, want := range map[string]bool{
		"/proc/123/task/124/stat": true, "/proc/123/maps": true, "/proc/self/status": true, "/proc/thread-self/mem": true,
		"/proc/123/exe": false, "/proc/123/cwd": false, "/proc/123/cwd/maps": false, "/proc/123/root/lib/stat": false,
		"/proc/123/fd/4": false, "/proc/123/map_files/1-2": false, "/lib/stat": false, "stat": false, "": false,
		"/proc/123/root/proc/123/stat": false,
	} {
		if got := ClassifyName(name).Unmappable(); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}
