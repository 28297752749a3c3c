package procview_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/samples/scene"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

func mkdir(t testing.TB, name string) string {
	t.Helper()
	if err := os.MkdirAll(name, 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

func symlink(t testing.TB, text, name string) string {
	t.Helper()
	if err := os.Symlink(text, name); err != nil {
		t.Fatal(err)
	}
	return name
}

// mountHere mounts in our own namespace until the end of the test.
func mountHere(t testing.TB, source, target, kind, data string) {
	t.Helper()
	scene.Require(t, "mount")
	if err := unix.Mount(source, target, kind, 0, data); err != nil {
		t.Fatalf("mount %s: %v", kind, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
}

// asNobody runs f on a thread of another user.
func asNobody(t testing.TB, f func()) {
	t.Helper()
	done := make(chan unix.Errno)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with f
		const nobody = 65534
		_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0)
		if errno == 0 {
			_, _, errno = unix.RawSyscall(unix.SYS_SETRESGID, nobody, nobody, nobody)
		}
		if errno == 0 {
			_, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody)
		}
		if errno == 0 {
			f()
		}
		done <- errno
	}()
	if errno := <-done; errno != 0 {
		t.Fatal(errno)
	}
}

// leadsTo checks that a name leads a process to a file: its identity, and
// through which link text it is known.
func leadsTo(t *testing.T, c child, tid event.TID, name string, want event.Target) {
	t.Helper()
	got := view().Resolve(c.pid, tid, name)
	if !got.Same(want) || got.Error != "" {
		t.Errorf("%q leads pid %d to %+v; want %+v", name, c.pid, got, want)
	}
}

func fails(t *testing.T, c child, name, errno string) {
	t.Helper()
	want := event.Target{Kind: event.Unknown, Error: errno}
	if got := view().Resolve(c.pid, event.TID(c.pid), name); got != want {
		t.Errorf("%.80q leads pid %d to %+v; want %s", name, c.pid, got, errno)
	}
}

// The tool must not have the bug that it looks for: the same names lead us to
// other files, and it must be the child's that are found.
func TestResolveIsNeverOurs(t *testing.T) {
	ours, theirs := t.TempDir(), t.TempDir()
	our, their := write(t, filepath.Join(ours, "f")), write(t, filepath.Join(theirs, "f"))
	const fd = 70
	mine := mustOpen(t, our, unix.O_RDONLY)
	if err := unix.Dup3(int(mine), fd, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	must(t, fd, nil)
	t.Chdir(ours)

	c := start(t, nil, []string{"chdir", theirs}, []string{"open", their, "70"}, []string{"opendir", theirs, "71"}, []string{"thread"})
	tid := c.tid(0)
	for _, name := range []string{
		"/proc/self/fd/70", "/proc/thread-self/fd/70", "/dev/fd/70", "//proc/./self//fd/70", "/proc/../proc/self/fd/70",
		"/proc/self/task/../fd/70", "/proc/self/cwd/f", "/proc/self/root" + their, "/proc/self/fd/71/f",
		"/proc/self/fd/71/../" + filepath.Base(theirs) + "/f", "f", "./f", "../" + filepath.Base(theirs) + "/f",
		"../../../../../../../../../../../../../.." + their, their, "/proc/" + strconv.Itoa(int(c.pid)) + "/fd/70",
	} {
		for _, tid := range []event.TID{event.TID(c.pid), tid} {
			leadsTo(t, c, tid, name, identity(t, their))
		}
		if got := view().Resolve(self(), event.TID(self()), name); strings.Contains(name, "self") && got.Same(identity(t, their)) &&
			!strings.Contains(name, their) {
			t.Errorf("%q leads us to the child's file", name)
		}
	}
	// What leads to ourselves must still do so.
	leadsTo(t, child{pid: self()}, event.TID(self()), "/proc/self/fd/70", identity(t, our))
	leadsTo(t, child{pid: self()}, event.TID(self()), "f", identity(t, our))

	leadsTo(t, c, tid, "/proc/self", identity(t, fmt.Sprintf("/proc/%d", c.pid)))
	leadsTo(t, c, tid, "/proc/thread-self", identity(t, fmt.Sprintf("/proc/%d/task/%d", c.pid, tid)))
	leadsTo(t, c, tid, "/proc/mounts", identity(t, fmt.Sprintf("/proc/%d/mounts", c.pid)))
	leadsTo(t, c, tid, "/proc/self/exe", identity(t, "/proc/self/exe"))
	leadsTo(t, c, tid, "/dev/stdin", view().Target(c.pid, 0))
	if view().Target(c.pid, 0).Same(view().Target(self(), 0)) {
		t.Error("the child has our stdin: the test proves nothing")
	}
}

// A thread may have a current directory of its own (CLONE_FS not set).
func TestResolveOfThread(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	f, g := write(t, filepath.Join(first, "f")), write(t, filepath.Join(second, "f"))
	c := start(t, nil, []string{"chdir", first}, []string{"elsewhere", second})
	leadsTo(t, c, event.TID(c.pid), "f", identity(t, f))
	leadsTo(t, c, c.tid(0), "f", identity(t, g))
	leadsTo(t, c, 1<<31-1, "f", identity(t, f)) // a thread that has ended: the process's
}

func TestResolveErrors(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"))
	symlink(t, "loop", filepath.Join(dir, "loop"))
	symlink(t, "missing", filepath.Join(dir, "dangling"))
	symlink(t, "f/", filepath.Join(dir, "slash"))
	symlink(t, "/", filepath.Join(dir, "top"))
	symlink(t, "f", filepath.Join(dir, "l0"))
	for i := 1; i <= 40; i++ {
		symlink(t, "l"+strconv.Itoa(i-1), filepath.Join(dir, "l"+strconv.Itoa(i)))
	}
	t.Chdir(dir)
	c := start(t, nil, []string{"chdir", dir}, []string{"open", "f", "70"})
	for name, want := range map[string]string{
		"": "ENOENT", "missing": "ENOENT", "missing/x": "ENOENT", "dangling": "ENOENT", "f/": "ENOTDIR", "f/.": "ENOTDIR",
		"f/..": "ENOTDIR", "f/x": "ENOTDIR", "slash": "ENOTDIR", "loop": "ELOOP", "l40": "ELOOP", "/proc/self/fd/9999": "ENOENT",
		"/proc/self/fd/70/": "ENOTDIR", "/proc/self/fd/70/.": "ENOTDIR", "/proc/self/fd/4.dwp": "ENOENT",
		strings.Repeat("x", 256): "ENAMETOOLONG", strings.Repeat("x/", 2048): "ENAMETOOLONG",
		"/proc/2147483647/fd/1": "ENOENT", "a\x00b": "EINVAL",
	} {
		fails(t, c, name, want)
		// The kernel, asked for ourselves, says the same.
		if name == "a\x00b" || strings.Contains(name, "fd/70") {
			continue
		}
		var st unix.Stat_t
		var errno unix.Errno
		if err := unix.Stat(name, &st); !errors.As(err, &errno) || unix.ErrnoName(errno) != want {
			t.Errorf("stat %.80q: %v; want %s", name, err, want)
		}
	}
	f := identity(t, "f")
	leadsTo(t, c, event.TID(c.pid), "l39", f) // 40 links are allowed
	leadsTo(t, c, event.TID(c.pid), strings.Repeat("./", 2040)+"f", f)
	leadsTo(t, c, event.TID(c.pid), "top"+dir+"/f", f)
	leadsTo(t, c, event.TID(c.pid), "top", identity(t, "/"))
	leadsTo(t, c, event.TID(c.pid), "/", identity(t, "/"))
	leadsTo(t, c, event.TID(c.pid), "//", identity(t, "/"))
	fails(t, child{pid: 1<<31 - 1}, "/", "ENOENT")
}

// The texts of links together may be longer than a name may be.
func TestResolveLongLinks(t *testing.T) {
	dir := t.TempDir()
	f := write(t, filepath.Join(dir, "f"))
	symlink(t, strings.Repeat("./", 2000)+"f", filepath.Join(dir, "a"))
	symlink(t, strings.Repeat("./", 2000), filepath.Join(dir, "b"))
	c := start(t, nil, []string{"chdir", dir})
	leadsTo(t, c, event.TID(c.pid), "b/"+strings.Repeat("./", 2000)+"a", identity(t, f))
}

// A FIFO without a writer, and a terminal: they are found, and not opened.
func TestResolveOpensNothing(t *testing.T) {
	dir := t.TempDir()
	fifo := mkfifo(t, filepath.Join(dir, "fifo"))
	file := write(t, filepath.Join(dir, "file"))
	symlink(t, "fifo", filepath.Join(dir, "link"))
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	must(t, watch, err)
	for _, name := range []string{fifo, file} {
		if _, err := unix.InotifyAddWatch(watch, name, unix.IN_OPEN|unix.IN_ACCESS|unix.IN_CLOSE); err != nil {
			t.Fatal(err)
		}
	}
	c := start(t, nil, []string{"chdir", dir})
	begin := time.Now()
	for name, want := range map[string]event.Kind{"fifo": event.FIFO, "link": event.FIFO, fifo: event.FIFO, "file": event.Regular,
		"/proc/self/root" + fifo: event.FIFO, "/dev/tty": event.TTY, "/dev/null": event.CharDev} {
		if got := view().Resolve(c.pid, event.TID(c.pid), name); got.Kind != want || got.Error != "" {
			t.Errorf("%q: %+v, want %s", name, got, want)
		}
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("took %s", d)
	}
	var buf [4096]byte
	if n, err := unix.Read(watch, buf[:]); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("something was opened: %d bytes of inotify events, %v", n, err)
	}
	// A writer finds no reader.
	if fd, err := unix.Open(fifo, unix.O_WRONLY|unix.O_NONBLOCK, 0); !errors.Is(err, unix.ENXIO) {
		_ = unix.Close(fd)
		t.Errorf("the FIFO has a reader: %v", err)
	}
}

func TestResolveInChroot(t *testing.T) {
	needRoot(t)
	jail := t.TempDir()
	mkdir(t, jail+"/in/deep")
	f := write(t, jail+"/in/f")
	symlink(t, "/in/f", jail+"/absolute")
	symlink(t, "../../../../in/f", jail+"/up")
	outside := t.TempDir()
	g := write(t, outside+"/g")
	c := start(t, nil, []string{"opendir", outside, "71"}, []string{"chroot", jail}, []string{"chdir", "/in/deep"})
	tid := event.TID(c.pid)
	for _, name := range []string{"/in/f", "/absolute", "/up", "../f", "../../../../../../in/f", "/../in/f", "/in/deep/../../../in/f"} {
		leadsTo(t, c, tid, name, identity(t, f))
	}
	leadsTo(t, c, tid, "/", identity(t, jail))
	leadsTo(t, c, tid, "/..", identity(t, jail))
	fails(t, c, f, "ENOENT") // our path is none there
	fails(t, c, "/proc/self/fd/71", "ENOENT")

	mkdir(t, jail+"/proc")
	mountHere(t, "proc", jail+"/proc", "proc", "")
	leadsTo(t, c, tid, "/proc/self/fd/71/g", identity(t, g))
	leadsTo(t, c, tid, "/proc/self/root/in/f", identity(t, f))
	leadsTo(t, c, tid, "/proc/thread-self/cwd/../f", identity(t, f))
	if got := view().Resolve(c.pid, tid, "/proc/self/maps"); got.Kind != event.Procfs {
		t.Errorf("another mount of /proc: %+v", got)
	}
}

func TestResolveInMountNamespace(t *testing.T) {
	scene.Require(t, "root", "unshare", "mount namespaces")
	dir := t.TempDir()
	real, other := mkdir(t, dir+"/a"), mkdir(t, dir+"/b")
	write(t, real+"/f")
	theirs := write(t, other+"/f")
	c := start(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}, []string{"private"}, []string{"bind", other, real},
		[]string{"mount", "none", other, "tmpfs"})
	leadsTo(t, c, event.TID(c.pid), real+"/f", identity(t, theirs))
	leadsTo(t, c, event.TID(c.pid), real+"/../a/f", identity(t, theirs))
	fails(t, c, other+"/f", "ENOENT") // below the tmpfs
	if identity(t, real+"/f") == identity(t, theirs) {
		t.Error("the mount is ours too: the test proves nothing")
	}
}

func TestResolveInPIDNamespace(t *testing.T) {
	scene.Require(t, "root", "unshare", "pid namespaces")
	file := write(t, filepath.Join(t.TempDir(), "f"))
	own := mkdir(t, filepath.Join(t.TempDir(), "proc"))
	c := start(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}, []string{"private"},
		[]string{"mount", "proc", own, "proc"}, []string{"open", file, "70"}, []string{"thread"})
	tid := c.tid(0) // as the child knows it
	var outer event.TID
	threads, err := view().Threads(c.pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, th := range threads {
		if st, err := view().Status(c.pid, th); err == nil && st.NSpid[len(st.NSpid)-1] == int(tid) {
			outer = th
		}
	}
	want := identity(t, file)
	leader := event.TID(c.pid)
	// Its own /proc: it is process 1 there. Ours, which it sees too: it is not.
	leadsTo(t, c, leader, own+"/self/fd/70", want)
	leadsTo(t, c, leader, own+"/1/fd/70", want)
	leadsTo(t, c, outer, own+"/thread-self/fd/70", want)
	leadsTo(t, c, leader, "/proc/self/fd/70", want)
	leadsTo(t, c, leader, fmt.Sprintf("/proc/%d/fd/70", c.pid), want)
	leadsTo(t, c, leader, "/proc/1", identity(t, "/proc/1"))
	if one := view().Resolve(c.pid, leader, own+"/1"); one.Same(identity(t, "/proc/1")) || one.Kind != event.Procfs {
		t.Errorf("process 1 of its namespace: %+v", one)
	}
	fails(t, c, fmt.Sprintf("%s/%d", own, os.Getpid()), "ENOENT") // we are not in there

	// A process of ours that looks at that /proc has no id there, and what self
	// is to it, nobody can say.
	out := start(t, nil, []string{"opendir", fmt.Sprintf("/proc/%d/root%s", c.pid, own), "71"})
	fails(t, out, "/proc/self/fd/71/self/fd/70", "EXDEV")
}

// A file system that never answers does not stop us, however often it is asked.
func TestResolveStuck(t *testing.T) {
	scene.Require(t, "root", "fuse")
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	dir := mkdir(t, filepath.Join(t.TempDir(), "fuse"))
	opts := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", dev)
	if err := unix.Mount("fuse", dir, "fuse", 0, opts); err != nil {
		_ = unix.Close(dev)
		t.Fatalf("mount fuse: %v", err)
	}
	closed := false
	end := func() { // that ends every call that waits for it
		if !closed {
			closed = true
			_ = unix.Close(dev)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	}
	t.Cleanup(end)
	c := start(t, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		fails(t, c, dir+"/x", "ETIMEDOUT")
		fails(t, c, "/proc/self/root"+dir+"/x/y", "ETIMEDOUT")
		// Other names are still found.
		leadsTo(t, c, event.TID(c.pid), "/proc/self", identity(t, fmt.Sprintf("/proc/%d", c.pid)))
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		end()
		t.Fatal("blocked by a file system that does not answer")
	}
	// A descriptor of the folder itself: looked at without asking the server.
	root, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	fd := must(t, root, err)
	looked := make(chan event.Target, 1)
	go func() { looked <- view().Target(self(), fd) }()
	select {
	case got := <-looked:
		if got.Kind != event.Directory || got.Error != "" {
			t.Errorf("descriptor of it: %+v", got)
		}
	case <-time.After(20 * time.Second):
		end()
		t.Fatal("blocked by the descriptor of such a file")
	}
}

func TestWithin(t *testing.T) {
	if got, err := procview.Within(time.Minute, func() (int, error) { return 2, nil }); got != 2 || err != nil {
		t.Errorf("in time: %d, %v", got, err)
	}
	hold := make(chan struct{})
	ended := make(chan struct{}, 1000)
	begin := time.Now()
	const many = 300
	for range many {
		got, err := procview.Within(time.Millisecond, func() (int, error) { <-hold; ended <- struct{}{}; return 2, nil })
		if got != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("late: %d, %v", got, err)
		}
	}
	if n := runtime.NumGoroutine(); n > many/2+50 {
		t.Errorf("%d goroutines hang", n)
	}
	if d := time.Since(begin); d > 20*time.Second {
		t.Errorf("took %s", d)
	}
	close(hold)
	<-ended
	// Once they have come back, looking works again.
	for deadline := time.Now().Add(20 * time.Second); ; {
		if got, _ := procview.Within(time.Second, func() (int, error) { return 2, nil }); got == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("still refuses to look")
		}
		time.Sleep(time.Millisecond)
	}
}

// Every call that the tool makes for a name of somebody else, as the kernel
// sees it: no foreign name from our root or directory, and nothing but O_PATH
// outside /proc.
func TestResolveCalls(t *testing.T) {
	scene.Require(t, "ptrace", "strace")
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "file"))
	mkfifo(t, filepath.Join(dir, "fifo"))
	symlink(t, "/proc/self/fd/70", filepath.Join(dir, "link"))
	c := start(t, nil, []string{"chdir", dir}, []string{"open", file, "70"})
	log := filepath.Join(t.TempDir(), "log")
	names := []string{"/proc/self/fd/70", "/dev/fd/70", "fifo", "file", "link", file, "/proc/thread-self/fd/70", "/proc/self/exe"}
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal(err)
	}
	looker := startVia(t, []string{strace, "-f", "-qq", "-e", "trace=%file,%desc", "-o", log}, nil,
		append([]string{"resolve", strconv.Itoa(int(c.pid))}, names...))
	for i, got := range looker.out {
		if !strings.HasSuffix(got, ":") {
			t.Errorf("%s: %s", names[i], got)
		}
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
	absolute := regexp.MustCompile(`(?:AT_FDCWD, |\()"(/[^"]*|[^/"][^"]*)"`)
	real := regexp.MustCompile(`openat2?\((\d+|AT_FDCWD), "([^"]*)", (?:\{flags=)?([^,} ]*)`)
	mounts := regexp.MustCompile(`^/proc/\d+/mountinfo$`) // our own
	proc := fmt.Sprintf("/proc/%d/", c.pid)
	seen := 0
	for _, line := range strings.Split(calls, "\n") {
		if m := absolute.FindStringSubmatch(line); m != nil {
			seen++
			name := m[1]
			if !strings.HasPrefix(name, proc) && name != "/proc" && name != "/proc/self" && !mounts.MatchString(name) && !strings.HasPrefix(name, "/proc/self/fd/") {
				t.Errorf("looked up in our own context: %s", line)
			}
			// /proc/self/fd/N is for the text of our own O_PATH descriptor.
			if strings.HasPrefix(name, "/proc/self/fd/") && !strings.Contains(line, "readlink") {
				t.Errorf("followed in our own context: %s", line)
			}
		}
		if m := real.FindStringSubmatch(line); m != nil && !strings.Contains(m[3], "O_PATH") &&
			!mounts.MatchString(m[2]) && !strings.HasSuffix(m[2], "/status") && !strings.HasSuffix(m[2], "/stat") {
			t.Errorf("opened for more than O_PATH: %s", line)
		}
	}
	if seen < len(names) {
		t.Errorf("only %d calls seen", seen)
	}
}
