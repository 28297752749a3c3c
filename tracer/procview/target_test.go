package procview_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// must gives a descriptor that is closed at the end of the test.
func must(t testing.TB, fd int, err error) event.FD {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return event.FD(fd)
}

func mustOpen(t testing.TB, name string, flags int) event.FD {
	t.Helper()
	fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatalf("open %s: %v", name, err)
	}
	return must(t, fd, nil)
}

func mustPipe(t testing.TB) (r, w event.FD) {
	t.Helper()
	var p [2]int
	err := unix.Pipe2(p[:], unix.O_CLOEXEC)
	return must(t, p[0], err), must(t, p[1], nil)
}

func mkfifo(t testing.TB, name string) string {
	t.Helper()
	if err := unix.Mkfifo(name, 0o666); err != nil {
		t.Fatal(err)
	}
	return name
}

// Every kind, on descriptors of our own, against what fstat(2) and fcntl(2) say.
func TestDescriptor(t *testing.T) {
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "a\n b"))
	fifo := mkfifo(t, filepath.Join(dir, "fifo"))
	gone := write(t, filepath.Join(dir, "gone"))
	r, w := mustPipe(t)
	opened := func(name string, flags int) event.FD { return mustOpen(t, name, flags) }
	deleted := opened(gone, unix.O_RDWR)
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	made := func(fd int, err error) event.FD { return must(t, fd, err) }
	for _, tc := range []struct {
		name   string
		fd     event.FD
		kind   event.Kind
		access string
		link   string // the beginning
	}{
		{"regular", opened(file, unix.O_RDONLY), event.Regular, "r", file},
		{"write only", opened(file, unix.O_WRONLY), event.Regular, "w", file},
		{"neither reading nor writing", opened(file, 3), event.Regular, "rw", file}, // for ioctl(2): both are asked for
		{"O_PATH", opened(file, unix.O_PATH), event.Regular, "path", file},
		{"O_PATH of a FIFO", opened(fifo, unix.O_PATH), event.FIFO, "path", fifo},
		{"deleted", deleted, event.Regular, "rw", gone + " (deleted)"},
		{"O_TMPFILE", opened(dir, unix.O_TMPFILE|unix.O_RDWR), event.Regular, "rw", dir + "/#"},
		{"directory", opened(dir, unix.O_RDONLY), event.Directory, "r", dir},
		{"pipe, reading", r, event.Pipe, "r", "pipe:["},
		{"pipe, writing", w, event.Pipe, "w", "pipe:["},
		{"FIFO", opened(fifo, unix.O_RDWR|unix.O_NONBLOCK), event.FIFO, "rw", fifo},
		{"socket", made(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)), event.Socket, "rw", "socket:["},
		{"memfd", made(unix.MemfdCreate("a b", unix.MFD_CLOEXEC)), event.Memfd, "rw", "/memfd:a b (deleted)"},
		{"eventfd", made(unix.Eventfd(0, unix.EFD_CLOEXEC)), event.AnonInode, "rw", "anon_inode:[eventfd]"},
		{"epoll", made(unix.EpollCreate1(unix.EPOLL_CLOEXEC)), event.AnonInode, "rw", "anon_inode:[eventpoll]"},
		{"pidfd", made(unix.PidfdOpen(os.Getpid(), 0)), event.AnonInode, "rw", ""},
		{"terminal", opened("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY), event.TTY, "rw", "/dev/p"},
		{"null", opened("/dev/null", unix.O_RDWR), event.CharDev, "rw", "/dev/null"},
		{"procfs", opened("/proc/self/maps", unix.O_RDONLY), event.Procfs, "r", "/proc/"},
		{"procfs, folder", opened("/proc/self/task", unix.O_RDONLY), event.Procfs, "r", "/proc/"},
		{"namespace", opened("/proc/self/ns/mnt", unix.O_RDONLY), event.Unknown, "r", "mnt:["},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, err := view().Descriptor(self(), tc.fd)
			if err != nil {
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Fstat(int(tc.fd), &st); err != nil {
				t.Fatal(err)
			}
			want := event.Target{Kind: tc.kind, Link: d.Target.Link, Dev: st.Dev, Ino: st.Ino}
			if d.Target != want || d.Access != tc.access || !strings.HasPrefix(string(d.Target.Link), tc.link) {
				t.Errorf("got %+v, access %q\nwant %+v, access %q, link %q…", d.Target, d.Access, want, tc.access, tc.link)
			}
			if got := view().Target(self(), tc.fd); got != d.Target {
				t.Errorf("Target: %+v", got)
			}
			all, err := view().Descriptors(self())
			if err != nil || !slices.Contains(all, d) {
				t.Errorf("not in the table: %+v, %v", all, err)
			}
			if !slices.IsSortedFunc(all, func(a, b event.Descriptor) int { return int(a.FD - b.FD) }) {
				t.Errorf("not sorted: %+v", all)
			}
		})
	}
}

// A file whose path is longer than a page has no link text, but an identity.
func TestDescriptorWithoutText(t *testing.T) {
	at := int(mustOpen(t, t.TempDir(), unix.O_PATH))
	part := strings.Repeat("d", 250)
	for range 20 {
		if err := unix.Mkdirat(at, part, 0o700); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Openat(at, part, unix.O_PATH|unix.O_CLOEXEC, 0)
		at = int(must(t, fd, err))
	}
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		t.Fatal(err)
	}
	want := event.Target{Kind: event.Directory, Dev: st.Dev, Ino: st.Ino}
	if d, err := view().Descriptor(self(), event.FD(at)); err != nil || d.Target != want || d.Access != "path" {
		t.Errorf("got %+v, %v; want %+v", d, err, want)
	}
	// Nor is that in the way of following a name.
	if got := view().Resolve(self(), event.TID(self()), "/proc/self/fd/"+strconv.Itoa(at)); got != want {
		t.Errorf("resolved: %+v, want %+v", got, want)
	}
}

func TestDescriptorErrors(t *testing.T) {
	const closed = 9999
	if d, err := view().Descriptor(self(), closed); !errors.Is(err, os.ErrNotExist) || d.Target.Error != "ENOENT" {
		t.Errorf("closed: %+v, %v", d, err)
	}
	if got := view().Target(self(), closed); got.Error != "ENOENT" || got.Identified() {
		t.Errorf("closed: %+v", got)
	}
	const nobody = 1<<31 - 1
	if _, err := view().Descriptors(nobody); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "pid 2147483647") {
		t.Errorf("no process: %v", err)
	}
	if got := view().Target(nobody, 0); got.Error != "ENOENT" {
		t.Errorf("no process: %+v", got)
	}
}

// A descriptor that is replaced all the time is never given the text of one
// file and the identity of another.
func TestTargetWhileReplaced(t *testing.T) {
	r, _ := mustPipe(t)
	file := mustOpen(t, write(t, filepath.Join(t.TempDir(), "f")), unix.O_RDONLY)
	spot, err := unix.Dup(int(r))
	must(t, spot, err)
	pipe, regular := view().Target(self(), r), view().Target(self(), file)

	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Dup3(int(file), spot, unix.O_CLOEXEC)
				_ = unix.Dup3(int(r), spot, unix.O_CLOEXEC)
			}
		}
	}()
	mixed := 0
	for range 2000 {
		if got := view().Target(self(), event.FD(spot)); got != pipe && got != regular {
			mixed++
		}
	}
	close(stop)
	<-stopped
	if mixed != 0 {
		t.Errorf("%d of 2000 looks mixed two files", mixed)
	}
}

// Out of descriptors, it looks without taking one.
func TestTargetOutOfDescriptors(t *testing.T) {
	r, _ := mustPipe(t)
	want := view().Target(self(), r)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	v := view()
	v.Target(self(), r)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	got := v.Target(self(), r)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestHolders(t *testing.T) {
	fifo := mkfifo(t, filepath.Join(t.TempDir(), "fifo"))
	r, w := mustPipe(t)
	if _, err := unix.FcntlInt(uintptr(w), unix.F_SETFD, 0); err != nil { // the child inherits it
		t.Fatal(err)
	}
	end := mustOpen(t, fifo, unix.O_RDONLY|unix.O_NONBLOCK)
	c := start(t, nil, []string{"comm", "h o\nlder"}, []string{"open", fifo, "70"}, []string{"unshared", fifo, "77"})
	const comm = "h o\nlder"

	ix, err := view().Index()
	if err != nil {
		t.Fatal(err)
	}
	holders := ix.Holders(view().Target(self(), r))
	own, _ := view().Process(self())
	want := []event.Holder{{PID: self(), Comm: own.Comm, FD: r, Access: "r", CloseOnExec: event.Some(true)},
		{PID: self(), Comm: own.Comm, FD: w, Access: "w", CloseOnExec: event.Some(false)}}
	for _, h := range want {
		if !slices.Contains(holders, h) {
			t.Errorf("pipe: %+v is not in %+v", h, holders)
		}
	}
	if !slices.ContainsFunc(holders, func(h event.Holder) bool { return h.PID == c.pid && h.Access == "w" && h.Comm == comm }) {
		t.Errorf("pipe: the child's end is not in %+v", holders)
	}
	if slices.ContainsFunc(holders, func(h event.Holder) bool { return h.PID == c.pid && h.Access == "r" }) {
		t.Errorf("pipe: the child has no end for reading: %+v", holders)
	}
	if ix.Searched < 2 {
		t.Errorf("searched %d", ix.Searched)
	}

	holders = ix.Holders(view().Target(self(), end))
	want = []event.Holder{{PID: self(), Comm: own.Comm, FD: end, Access: "r", CloseOnExec: event.Some(true)},
		{PID: c.pid, Comm: comm, FD: 70, Access: "rw", CloseOnExec: event.Some(false)},
		{PID: c.pid, Comm: comm, FD: 77, Access: "rw", CloseOnExec: event.Some(false)}} // of a thread with its own table
	slices.SortFunc(holders, func(a, b event.Holder) int { return slices.Index(want, a) - slices.Index(want, b) })
	if !slices.Equal(holders, want) {
		t.Errorf("FIFO: got %+v\nwant %+v", holders, want)
	}

	if none := ix.Holders(event.Target{Kind: event.Pipe}); len(none) > 0 {
		t.Errorf("holders of nothing: %+v", none)
	}
}

// seen is what a user may learn of a process.
type seen struct {
	Descriptors, Maps, Process, Threads, MapFile string // errors
	Target, Resolved                             event.Target
	Holders                                      []event.Holder
	Unseen                                       []event.Unseen
	Searched                                     int
	Blocked                                      event.Blocked
}

func lookAs(pid event.PID, fifo event.Target) seen {
	text := func(err error) string {
		if err == nil {
			return ""
		}
		if !errors.Is(err, os.ErrPermission) {
			return "not a permission error: " + err.Error()
		}
		return "denied"
	}
	var s seen
	v := view()
	_, err := v.Descriptors(pid)
	s.Descriptors = text(err)
	_, err = v.Maps(pid)
	s.Maps = text(err)
	_, err = v.Process(pid)
	s.Process = text(err)
	_, err = v.Threads(pid)
	s.Threads = text(err)
	maps, _ := v.Maps(self())
	_, err = v.MapFile(self(), maps[0])
	s.MapFile = text(err)
	s.Target = v.Target(pid, 70)
	s.Resolved = v.Resolve(pid, event.TID(pid), "/proc/self/fd/70")
	if ix, err := v.Index(); err == nil {
		s.Holders, s.Unseen, s.Searched = ix.Holders(fifo), ix.Unseen, ix.Searched
	}
	calls, _ := decode.ForArch(runtime.GOARCH)
	s.Blocked, _ = v.Blocked(pid, event.TID(pid), calls)
	return s
}

// What an ordinary user sees of root's processes: each refusal is said, and is
// no empty answer.
func TestOtherUser(t *testing.T) {
	needRoot(t)
	fifo := mkfifo(t, filepath.Join(t.TempDir(), "fifo"))
	roots := start(t, nil, []string{"open", fifo, "70"})
	of := identity(t, fifo)
	other := start(t, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 61234, Gid: 61234}},
		[]string{"look", strconv.Itoa(int(roots.pid)), strconv.FormatUint(of.Dev, 10), strconv.FormatUint(of.Ino, 10)})
	var s seen
	if err := json.Unmarshal([]byte(strings.Join(other.out, " ")), &s); err != nil {
		t.Fatal(err)
	}
	denied := event.Target{Kind: event.Unknown, Error: "EACCES"}
	if s.Descriptors != "denied" || s.Maps != "denied" || s.MapFile != "denied" {
		t.Errorf("descriptors: %q, maps: %q, map_files: %q", s.Descriptors, s.Maps, s.MapFile)
	}
	if s.Process != "" || s.Threads != "" {
		t.Errorf("process: %q, threads: %q", s.Process, s.Threads)
	}
	if s.Target != denied || s.Resolved != denied {
		t.Errorf("target: %+v, resolved: %+v", s.Target, s.Resolved)
	}
	if len(s.Holders) != 0 || s.Searched != 1 { // itself: nobody else has that user id
		t.Errorf("holders: %+v, searched %d", s.Holders, s.Searched)
	}
	i := slices.IndexFunc(s.Unseen, func(u event.Unseen) bool { return u.PID == roots.pid })
	if i < 0 || s.Unseen[i].Error != "EACCES" || s.Unseen[i].Comm == "" {
		t.Errorf("unseen: %+v", s.Unseen)
	}
	for _, u := range s.Unseen {
		if st, err := view().Status(u.PID, event.TID(u.PID)); err == nil && st.Kthread {
			t.Errorf("kernel thread %d is unseen", u.PID)
		}
	}
	if s.Blocked.State != "S" || s.Blocked.Syscall != "" || s.Blocked.Target != nil {
		t.Errorf("blocked: %+v", s.Blocked)
	}
}

// Where /proc hides the processes of others, a search is not complete.
func TestHoldersHidden(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	mount := mkdir(t, filepath.Join(dir, "proc"))
	mountHere(t, "proc", mount, "proc", "hidepid=2")
	unseen := func() ([]event.Unseen, error) {
		ix, err := procview.New(mount).Index()
		if err != nil {
			return nil, err
		}
		return ix.Unseen, nil
	}
	got, err := unseen()
	// In a container, even root may not look at every process.
	_, denied := os.Readlink("/proc/1/fd/0")
	if err != nil || slices.ContainsFunc(got, func(u event.Unseen) bool { return u.PID == 1 }) != errors.Is(denied, os.ErrPermission) {
		t.Errorf("root sees all: %+v, %v", got, err)
	}
	asNobody(t, func() {
		got, err = unseen()
	})
	if want := (event.Unseen{PID: 1, Error: "EPERM"}); err != nil || !slices.Contains(got, want) {
		t.Errorf("unseen: %+v, %v; want %+v", got, err, want)
	}
}

// BenchmarkDescriptors is for a debugger with very many descriptors.
func BenchmarkDescriptors(b *testing.B) {
	n := uint64(50_000)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		b.Fatal(err)
	}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n + 100, Max: max(old.Max, n+100)}) != nil {
		n = old.Max - 100 // what this machine allows
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: old.Max, Max: old.Max}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n), "descriptors")
	name := write(b, filepath.Join(b.TempDir(), "f"))
	for range n {
		mustOpen(b, name, unix.O_RDONLY)
	}
	b.ReportAllocs()
	for b.Loop() {
		ds, err := view().Descriptors(self())
		if err != nil || uint64(len(ds)) < n {
			b.Fatal(len(ds), err)
		}
	}
}
