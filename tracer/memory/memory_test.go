package memory_test

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
	"whosefd/tracer/memory"
	"whosefd/tracer/procview"
)

// fake is memory with nothing around it.
type fake struct {
	base uint64
	data []byte
}

func (f fake) ReadMemory(b []byte, addr uint64) (int, error) {
	if addr < f.base || addr-f.base >= uint64(len(f.data)) {
		return 0, unix.EFAULT
	}
	if n := copy(b, f.data[addr-f.base:]); n < len(b) {
		return n, unix.EFAULT
	}
	return len(b), nil
}

func TestText(t *testing.T) {
	long := strings.Repeat("x", 9000)
	for _, c := range []struct {
		name  string
		base  uint64
		data  string
		limit int
		want  string
		ended bool
		err   error
	}{
		{"short", 0x1000, "/a\x00b", 100, "/a", true, nil},
		{"empty", 0x1000, "\x00", 100, "", true, nil},
		{"ends with its page", 0x1ffc, "/ab\x00", 100, "/ab", true, nil},
		{"over pages", 0x1ff0, long + "\x00", 10000, long, true, nil},
		{"cut at the limit", 0x1000, long, 4096, long[:4096], false, nil},
		{"its end is not there", 0x1000, "abc", 100, "abc", false, unix.EFAULT},
		{"not there", 0x1000, "", 100, "", false, unix.EFAULT},
	} {
		got, ended, err := memory.Text(fake{c.base, []byte(c.data)}, c.base, nil, c.limit)
		if string(got) != c.want || ended != c.ended || !errors.Is(err, c.err) {
			t.Errorf("%s: %d bytes, ended %v, %v; want %d, %v, %v", c.name, len(got), ended, err, len(c.want), c.ended, c.err)
		}
	}
}

func TestCopy(t *testing.T) {
	live := fake{0x1000, []byte("abcdefgh")}
	c := &memory.Copy{Start: 0x1002, Data: []byte("XY"), Rest: live}
	for _, test := range []struct {
		addr uint64
		n    int
		want string
	}{{0x1002, 2, "XY"}, {0x1003, 3, "Yef"}, {0x1000, 2, "ab"}, {0x1004, 4, "efgh"}, {0x1006, 4, "gh"}} {
		got, err := memory.Bytes(c, test.addr, test.n)
		if string(got) != test.want || (err == nil) != (len(got) == test.n) {
			t.Errorf("%d bytes at %#x: %q, %v; want %q", test.n, test.addr, got, err, test.want)
		}
	}
}

// The readers of a living process give what is there, say how much that was
// where a page is missing, and refuse addresses that no process has.
func TestLiving(t *testing.T) {
	pid := sleeper(t)
	v := procview.New("/proc")
	maps, err := v.Maps(pid)
	if err != nil {
		t.Fatal(err)
	}
	p, err := memory.Open(v, pid, maps)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	first := maps[0] // the program's ELF header
	var end uint64   // of mappings without a gap
	for end = first.End; ; {
		m, ok := procview.FindMapping(maps, end)
		if !ok || m.Perms[0] != 'r' {
			break
		}
		end = m.End
	}
	for name, r := range map[string]memory.Reader{"process": p, "thread": memory.Thread(pid)} {
		if b, err := memory.Bytes(r, first.Start, 4); err != nil || string(b) != "\x7fELF" {
			t.Errorf("%s: header %q, %v", name, b, err)
		}
		if b, err := memory.Bytes(r, end-5, 10); err == nil || len(b) != 5 {
			t.Errorf("%s: over the end: %d bytes, %v; want 5 and an error", name, len(b), err)
		}
		for _, addr := range []uint64{0, 1 << 63, ^uint64(0) - 3} {
			if b, err := memory.Bytes(r, addr, 8); err == nil || len(b) != 0 {
				t.Errorf("%s: at %#x: %d bytes, %v; want an error", name, addr, len(b), err)
			}
		}
	}
}

// sleeper starts a program that waits for its input.
func sleeper(t *testing.T) event.PID {
	t.Helper()
	cmd := exec.Command("cat")
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
		_ = in.Close()
		_ = cmd.Wait()
	})
	// Once it has echoed, it is the program that was meant.
	if _, err := in.Write([]byte{'x'}); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return event.PID(cmd.Process.Pid)
}

// A process that has ended, and one that never was, are errors.
func TestGone(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if _, err := memory.Open(procview.New("/proc"), event.PID(cmd.Process.Pid), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want not exist", err)
	}
}

const endLeader = "WHOSEFD_TEST_END_LEADER"

// As a child of [TestLeaderEnded], this program ends its first thread, and goes
// on in another until its input ends.
func init() {
	if os.Getenv(endLeader) == "" {
		return
	}
	runtime.LockOSThread() // init runs on the first thread
	go func() {
		_, _ = unix.Read(0, make([]byte, 1))
		os.Exit(0)
	}()
	_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
}

func TestLeaderEnded(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), endLeader+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	v, pid := procview.New("/proc"), event.PID(cmd.Process.Pid)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if state, err := v.State(pid, event.TID(pid)); err == nil && state == "Z" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("its first thread does not end")
		}
	}
	maps, err := v.Maps(pid)
	if err != nil || len(maps) == 0 {
		t.Fatalf("%d mappings, %v", len(maps), err)
	}
	p, err := memory.Open(v, pid, maps)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if b, err := memory.Bytes(p, maps[0].Start, 4); err != nil || string(b) != "\x7fELF" {
		t.Errorf("header %q, %v", b, err)
	}
}
