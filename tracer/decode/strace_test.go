//go:build linux

package decode

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"whosefd/samples/scene"
)

const nowhere = "/nonexistent/"

// probes are calls on names that do not exist, with flags worth comparing.
func probes() (calls []struct {
	call string
	args [6]uint64
}) {
	add := func(call string, args ...uint64) {
		p := struct {
			call string
			args [6]uint64
		}{call: call}
		copy(p.args[:], args)
		calls = append(calls, p)
	}
	cwd := uint64(0xffffff9c)
	for _, v := range []uint64{3, 0o101, unix.O_SYNC, unix.O_SYNC | unix.O_DIRECT, unix.O_TMPFILE | 2, unix.O_TMPFILE &^ unix.O_DIRECTORY,
		unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW, 1 << 31, 0x7fffffff} {
		add("openat", cwd, 0, v)
	}
	for bit := range 26 {
		add("openat", cwd, 0, 1<<bit)
		add("newfstatat", cwd, 0, 0, 1<<bit&^0x10000) // AT_EXECVE_CHECK is newer than many an strace
	}
	for _, v := range []uint64{0, 0x2000, 0x4000, 0x6000, 0x4900, 0x1100} {
		add("statx", cwd, 0, v, 0x7ff)
	}
	for v := range uint64(16) {
		add("faccessat2", cwd, 0, v, 0)
	}
	for _, v := range []uint64{0x100, 0x200, 0x1200} {
		add("faccessat2", cwd, 0, 4, v)
	}
	return calls
}

// TestStraceChild makes the calls of probes; it does so only for TestStrace.
func TestStraceChild(t *testing.T) {
	if os.Getenv("WHOSEFD_DECODE_CHILD") == "" {
		t.Skip("runs as a child of TestStrace")
	}
	tab := table(t, runtime.GOARCH)
	for i, p := range probes() {
		nr, _ := tab.Number(p.call)
		name := append([]byte(nowhere+strconv.Itoa(i)), 0)
		a := p.args
		_, _, _ = unix.Syscall6(uintptr(nr), uintptr(a[0]), uintptr(unsafe.Pointer(&name[0])), uintptr(a[2]), uintptr(a[3]), uintptr(a[4]), uintptr(a[5]))
		runtime.KeepAlive(name)
	}
}

// The names of flags are those of strace.
func TestStrace(t *testing.T) {
	scene.Require(t, "strace", "ptrace")
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command("strace", "-f", "-o", log, "-e", "trace=openat,newfstatat,statx,faccessat2", os.Args[0], "-test.run=^TestStraceChild$")
	cmd.Env = append(os.Environ(), "WHOSEFD_DECODE_CHILD=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("strace: %v\n%s", err, out)
	}
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()

	calls, tab, seen := probes(), table(t, runtime.GOARCH), map[int]bool{}
	line := regexp.MustCompile(`(\w+)\(AT_FDCWD, "` + nowhere + `(\d+)"(?:, (.*?))?(?:\)| <unfinished \.\.\.>)(?: += -?\d+.*)?$`)
	unknown := regexp.MustCompile(` /\* .*? \*/`)
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		m := line.FindStringSubmatch(unknown.ReplaceAllString(sc.Text(), ""))
		if m == nil {
			continue
		}
		i, err := strconv.Atoi(m[2])
		if err != nil || i >= len(calls) {
			t.Fatalf("strace shows a call that was not made: %s", sc.Text())
		}
		p := calls[i]
		c, _ := ByName(p.call)
		got := strings.Split(m[3], ", ")
		for n, kind := range c.Args {
			switch kind {
			case OpenFlags, AtFlags, AtAccess, AtStatx, AccessMode, StatxMask:
				if n-2 >= len(got) {
					continue // a call that had not ended shows the first arguments only
				}
				if want := tab.Format(kind, p.args[n]); got[n-2] != want {
					t.Errorf("%s, argument %d, %#x: strace says %s, we %s", p.call, n, p.args[n], got[n-2], want)
				}
			}
		}
		seen[i] = true
	}
	if len(seen) != len(calls) {
		t.Errorf("strace shows %d of %d calls", len(seen), len(calls))
	}
}

// The tables agree with those of another library.
func TestAgainstUnix(t *testing.T) {
	for e := 1; e < 200; e++ {
		want := unix.ErrnoName(unix.Errno(e))
		// Of two names for one number x/sys has the other one. It knows EFTYPE since 0.49, for which Go 1.25 is too old.
		if got := Errno(e); got != want && got != "EOPNOTSUPP" && got != "EUCLEAN" && (got != "EFTYPE" || want != "") {
			t.Errorf("Errno(%d) = %q, x/sys says %q", e, got, want)
		}
	}
	for n := 1; n < 32; n++ {
		if got, want := Signal(n), unix.SignalName(unix.Signal(n)); got != want {
			t.Errorf("Signal(%d) = %q, x/sys says %q", n, got, want)
		}
	}
	for major := uint32(0); major < 5000; major += 77 {
		for minor := uint32(0); minor < 1<<20; minor += 7777 {
			if got, want := Makedev(major, minor), unix.Mkdev(major, minor); got != want {
				t.Fatalf("Makedev(%d, %d) = %#x, x/sys says %#x", major, minor, got, want)
			}
		}
	}
}

// What we read from the bytes of struct stat and struct statx is what this
// kernel put there.
func TestRealLayouts(t *testing.T) {
	var st unix.Stat_t
	if err := unix.Stat("/dev/null", &st); err != nil {
		t.Fatal(err)
	}
	want := Stat{Mode: st.Mode, Dev: uint64(st.Dev), Ino: st.Ino, Size: st.Size}
	tab := table(t, runtime.GOARCH)
	got, err := tab.Stat(unsafe.Slice((*byte)(unsafe.Pointer(&st)), unsafe.Sizeof(st)))
	if err != nil || got != want {
		t.Errorf("stat: %+v, %v, want %+v", got, err, want)
	}
	if int(unsafe.Sizeof(st)) != tab.StatSize() {
		t.Errorf("struct stat has %d bytes, not %d", unsafe.Sizeof(st), tab.StatSize())
	}
	var stx unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, "/dev/null", 0, unix.STATX_BASIC_STATS, &stx); err != nil {
		t.Fatal(err)
	}
	if got, err := Statx(unsafe.Slice((*byte)(unsafe.Pointer(&stx)), unsafe.Sizeof(stx))); err != nil || got != want {
		t.Errorf("statx: %+v, %v, want %+v", got, err, want)
	}
}
