package procview_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/samples/scene"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

func TestPIDs(t *testing.T) {
	c := start(t, nil)
	pids, err := view().PIDs()
	if err != nil || !slices.IsSorted(pids) || !slices.Contains(pids, c.pid) || !slices.Contains(pids, self()) {
		t.Errorf("got %v, %v", pids, err)
	}
	if _, err := procview.New(t.TempDir() + "/missing").PIDs(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no /proc: %v", err)
	}
}

func TestProcess(t *testing.T) {
	dir := t.TempDir()
	c := start(t, nil, []string{"comm", " a) R\nb "}, []string{"chdir", dir}, []string{"thread"})
	p, err := view().Process(c.pid)
	if err != nil {
		t.Fatal(err)
	}
	exe, _ := os.Executable()
	if p.PID != c.pid || p.PPID != self() || p.Comm != " a) R\nb " || string(p.Exe) != exe || string(p.Cwd) != dir ||
		!p.UID.Is(os.Geteuid()) || !slices.Equal(p.Cmdline, []event.Text{"/proc/self/exe"}) || p.SIGINT == "" {
		t.Errorf("got %+v", p)
	}
	if want, _ := unix.Getpgid(int(c.pid)); !p.PGRP.Is(want) {
		t.Errorf("process group %+v, want %d", p.PGRP, want)
	}
	var st unix.Stat_t
	for _, ns := range []string{"mnt", "pid", "user"} {
		if err := unix.Stat("/proc/self/ns/"+ns, &st); err != nil || p.Namespaces[ns] != st.Ino {
			t.Errorf("namespace %s: %d, want %d, %v", ns, p.Namespaces[ns], st.Ino, err)
		}
	}
	tids, err := view().Threads(c.pid)
	if err != nil || !slices.Contains(tids, event.TID(c.pid)) || !slices.Contains(tids, c.tid(0)) {
		t.Errorf("threads: %v, %v", tids, err)
	}
	if tgid, err := view().TGID(c.tid(0)); err != nil || tgid != c.pid {
		t.Errorf("process of thread %d: %d, %v", c.tid(0), tgid, err)
	}
	scene.Eventually(t, "its thread sleeps", func() bool {
		state, err := view().State(c.pid, c.tid(0))
		return err == nil && state == "S"
	})
}

func TestGone(t *testing.T) {
	const nobody = 1<<31 - 1
	v := view()
	_, processErr := v.Process(nobody)
	_, threadsErr := v.Threads(nobody)
	_, tracerErr := v.TracerOf(nobody)
	_, mapsErr := v.Maps(nobody)
	_, traceesErr := v.Tracees(nobody)
	_, blockedErr := v.Blocked(nobody, nobody, nil)
	_, mapErr := v.MapFile(nobody, procview.Mapping{})
	for what, err := range map[string]error{"process": processErr, "threads": threadsErr, "tracer": tracerErr, "maps": mapsErr,
		"tracees": traceesErr, "blocked": blockedErr, "map file": mapErr} {
		if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "2147483647") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Mappings of files with hard names, against what stat(2) and the kernel's own
// link to the mapped file say.
func TestMaps(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		name    string
		deleted bool
	}{{"plain", false}, {"a\nb", false}, {" a  b ", false}, {"cr\r", false}, {"\xff\x1b[31m", false}, {`back\slash`, false}, {"gone", true},
		{"gone\n too", true}} {
		t.Run(strconv.Quote(tc.name), func(t *testing.T) {
			name := write(t, filepath.Join(dir, tc.name))
			want := identity(t, name)
			want.Kind, want.Link = event.Regular, event.Text(name)
			fd := mustOpen(t, name, unix.O_RDONLY)
			mem, err := unix.Mmap(int(fd), 0, 1, unix.PROT_READ, unix.MAP_PRIVATE)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Munmap(mem) })
			if tc.deleted {
				if err := os.Remove(name); err != nil {
					t.Fatal(err)
				}
				want.Link += " (deleted)"
			}
			maps, err := view().Maps(self())
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(maps, func(m procview.Mapping) bool { return string(m.Path) == name })
			if i < 0 {
				t.Fatalf("not in %+v", maps)
			}
			m := maps[i]
			if got := m.Target(); got.Kind != want.Kind || got.Link != want.Link || got.Ino != want.Ino || m.Deleted != tc.deleted {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if found, ok := procview.FindMapping(maps, m.End-1); !ok || found != m {
				t.Errorf("by address: %+v, %v", found, ok)
			}
			got, err := view().MapFile(self(), m)
			if err != nil || got != want {
				t.Errorf("map file: %+v, %v; want %+v", got, err, want)
			}
		})
	}
}

func TestBlocked(t *testing.T) {
	calls, err := decode.ForArch(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, nil)
	// The child waits in a read of its input, in whichever thread that is.
	find := func() (event.Blocked, bool) {
		tids, _ := view().Threads(c.pid)
		for _, tid := range tids {
			if b, err := view().Blocked(c.pid, tid, calls); err == nil && b.Syscall == "read" && b.FD.Is(0) {
				return b, true
			}
		}
		return event.Blocked{}, false
	}
	b, ok := find()
	for deadline := time.Now().Add(20 * time.Second); !ok && time.Now().Before(deadline); b, ok = find() {
		time.Sleep(time.Millisecond)
	}
	if !ok {
		t.Fatal("no thread of the child is in a read of its input")
	}
	if b.State != "S" || b.PID != c.pid || b.Target == nil || *b.Target != view().Target(c.pid, 0) || b.Target.Kind != event.Pipe ||
		len(b.Args) != 6 || b.Args[0] != 0 || b.SIGINT == "" || b.Comm == "" {
		t.Errorf("got %+v", b)
	}
	tid := event.TID(unix.Gettid())
	if b, err := view().Blocked(self(), tid, calls); err != nil || b.FD.Known && b.Target == nil {
		t.Errorf("ourselves: %+v, %v", b, err)
	}
}

// A thread that is in no call is not given one.
func TestBlockedRunning(t *testing.T) {
	calls, err := decode.ForArch(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, nil, []string{"busy"})
	b, err := view().Blocked(c.pid, c.tid(0), calls)
	for range 5000 { // it says its id before it begins
		if err != nil || b.State == "R" && b.Syscall == "" {
			break
		}
		time.Sleep(time.Millisecond)
		b, err = view().Blocked(c.pid, c.tid(0), calls)
	}
	if err != nil || b.Syscall != "" || b.FD.Known || b.Target != nil || b.Args != nil || b.State != "R" {
		t.Errorf("got %+v, %v", b, err)
	}
}

// A debugger may trace from any of its threads, and only some threads of a
// process.
func TestTracees(t *testing.T) {
	scene.Require(t, "ptrace")
	whole, part, free := start(t, nil), start(t, nil, []string{"thread"}), start(t, nil)
	debugger := start(t, nil, []string{"thread"},
		[]string{"trace", strconv.Itoa(int(whole.pid)), strconv.Itoa(int(whole.pid))},
		[]string{"trace", strconv.Itoa(int(part.pid)), part.out[0]})
	pids, err := view().Tracees(debugger.pid)
	want := []event.PID{whole.pid, part.pid}
	slices.Sort(want)
	if err != nil || !slices.Equal(pids, want) {
		t.Errorf("got %v, %v; want %v", pids, err, want)
	}
	tracer, err := view().TracerOf(whole.pid)
	if err != nil || tracer != debugger.tid(1) || tracer == event.TID(debugger.pid) {
		t.Errorf("tracer of %d: %d, %v; want thread %d of %d", whole.pid, tracer, err, debugger.tid(1), debugger.pid)
	}
	if tgid, err := view().TGID(tracer); err != nil || tgid != debugger.pid {
		t.Errorf("its process: %d, %v", tgid, err)
	}
	if tracer, err := view().TracerOf(free.pid); err != nil || tracer != 0 {
		t.Errorf("tracer of a free process: %d, %v", tracer, err)
	}
	if pids, err := view().Tracees(free.pid); err != nil || len(pids) != 0 {
		t.Errorf("who traces nobody: %v, %v", pids, err)
	}
}

// A folder of files in the place of /proc.
func TestFixture(t *testing.T) {
	root := t.TempDir()
	dir := mkdir(t, root+"/7/task/7")
	mkdir(t, root+"/7/fd")
	mkdir(t, root+"/7/fdinfo")
	mkdir(t, root+"/self")
	for name, text := range map[string]string{
		dir + "/status":        "Name:\tgdb\nPid:\t7\nTgid:\t7\nTracerPid:\t3\nUid:\t0 5 0 0\nSigCgt:\t2\n",
		dir + "/stat":          "7 (gdb) S 1 4 4 34816 9 4194560 1 0 0 0 0 0 0 0 20 0 1 0 1 0 0\n",
		root + "/7/cmdline":    "gdb\x00\x00-p\x00",
		root + "/7/maps":       "7f00-8000 r--p 0 fe:01 12 /x\n",
		root + "/7/fdinfo/3":   "flags:\t01\n",
		root + "/7/fdinfo/900": "flags:\t01\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := write(t, root+"/f")
	symlink(t, file, root+"/7/fd/3")
	symlink(t, "pipe:[4798]", root+"/7/fd/4") // leads nowhere: as if it had just been closed
	v := procview.New(root + "/")
	if v.Mount != root {
		t.Errorf("mount %q", v.Mount)
	}
	if pids, err := v.PIDs(); err != nil || !slices.Equal(pids, []event.PID{7}) {
		t.Errorf("pids %v, %v", pids, err)
	}
	p, err := v.Process(7)
	if err != nil || p.Comm != "gdb" || !p.UID.Is(5) || !p.PGRP.Is(4) || !p.TTYPGRP.Is(9) || p.SIGINT != "caught" ||
		!slices.Equal(p.Cmdline, []event.Text{"gdb", "", "-p"}) || p.Namespaces != nil {
		t.Errorf("process %+v, %v", p, err)
	}
	if tid, err := v.TracerOf(7); err != nil || tid != 3 {
		t.Errorf("tracer %d, %v", tid, err)
	}
	ds, err := v.Descriptors(7)
	want := identity(t, file)
	// The file is below the mount, but the mount is no proc file system.
	if err != nil || len(ds) != 1 || ds[0].FD != 3 || !ds[0].Target.Same(want) || ds[0].Access != "w" {
		t.Errorf("descriptors %+v, %v", ds, err)
	}
	if maps, err := v.Maps(7); err != nil || len(maps) != 1 || maps[0].Path != "/x" {
		t.Errorf("maps %+v, %v", maps, err)
	}
	if got := v.Folder(7); got != root+"/7" {
		t.Errorf("folder %q", got)
	}
}

// BenchmarkTracees is for a machine with many processes.
func BenchmarkTracees(b *testing.B) {
	pids, err := view().PIDs()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(len(pids)), "processes")
	for b.Loop() {
		if _, err := view().Tracees(self()); err != nil {
			b.Fatal(err)
		}
	}
}
