package inject

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/samples/scene"
	"whosefd/tracer/event"
	"whosefd/tracer/ptrace"
)

// dying is a kernel that ends its thread at a request, as SIGKILL does: nothing
// is put back.
type dying struct {
	Linux
	left *int
}

func (d dying) step() {
	if *d.left--; *d.left < 0 {
		panic("killed")
	}
}

func (d dying) Resume(tid event.TID, how ptrace.How, sig unix.Signal) error {
	d.step()
	err := d.Linux.Resume(tid, how, sig)
	d.step()
	return err
}

func (d dying) Interrupt(tid event.TID) error {
	d.step()
	return d.Linux.Interrupt(tid)
}

func (d dying) SetRegisters(tid event.TID, regs *unix.PtraceRegs) error {
	d.step()
	return d.Linux.SetRegisters(tid, regs)
}

func (d dying) Write(tid event.TID, addr uint64, buf []byte) error {
	d.step()
	return d.Linux.Write(tid, addr, buf)
}

func (d dying) SyscallInfo(tid event.TID, info *ptrace.SyscallInfo) error {
	d.step()
	return d.Linux.SyscallInfo(tid, info)
}

// Wherever we end in the middle of calls, the thread goes back to its own, with
// its own registers and signals.
func TestKilledInside(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("right"), 0o600); err != nil {
		t.Fatal(err)
	}
	for step := 0; ; step++ {
		left := step
		m := dying{left: &left}
		p := start(t)
		err := ptrace.OnTracerThread(func() error {
			tid := event.TID(p.Process.Pid)
			if err := errors.Join(m.Linux.Seize(tid, ptrace.Options), m.Linux.Interrupt(tid)); err != nil {
				return err
			}
			stop, err := ptrace.AwaitStop(m.Linux, tid, within)
			if err != nil {
				return err
			}
			th, err := Begin(m, tid, stop.Signal, ptrace.Call{Nr: unix.SYS_READ, Args: [6]uint64{uint64(p.fd)}})
			if err != nil {
				return err
			}
			at := int64(-100)
			fd, err := th.CallPath(unix.SYS_OPENAT, file, 1, uint64(at), 0, unix.O_RDONLY|unix.O_CLOEXEC)
			if err != nil {
				return fmt.Errorf("openat: %w", err)
			}
			if _, err := th.Call(unix.SYS_CLOSE, uint64(fd)); err != nil {
				return fmt.Errorf("close: %w", err)
			}
			return errors.Join(th.End(), m.Detach(tid, 0))
		})
		if err != nil && !strings.Contains(err.Error(), "killed") {
			t.Fatalf("step %d: %v", step, err)
		}
		if err := unix.Kill(p.Process.Pid, unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		if got, want := p.late(t), "n=4 errno=0 got=10 buf=late"; got != want {
			t.Errorf("step %d: got %q, want %q", step, got, want)
		}
		if err == nil {
			if step < 20 {
				t.Errorf("all was done in %d steps", step)
			}
			return
		}
	}
}

// A call that a file system never answers, and that nothing can break off, is
// left alone after a while. When it ends, the thread goes back to its own.
func TestCallThatSticks(t *testing.T) {
	scene.Require(t, "root", "fuse")
	before := within
	within = 200 * time.Millisecond
	defer func() { within = before }()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("right"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := scene.MountFUSE(t, file)
	p := start(t)
	t.Cleanup(files.Close)
	files.Hang()
	err := ptrace.OnTracerThread(func() error {
		var m Linux
		tid := event.TID(p.Process.Pid)
		if err := errors.Join(m.Seize(tid, ptrace.Options), m.Interrupt(tid)); err != nil {
			return err
		}
		stop, err := ptrace.AwaitStop(m, tid, time.Second)
		if err != nil {
			return err
		}
		th, err := Begin(m, tid, stop.Signal, ptrace.Call{Nr: unix.SYS_READ, Args: [6]uint64{uint64(p.fd)}})
		if err != nil {
			return err
		}
		at := int64(-100)
		_, err = th.CallPath(unix.SYS_OPENAT, files.Path("file"), 1, uint64(at), 0, unix.O_RDONLY|unix.O_CLOEXEC)
		return errors.Join(err, th.End())
	})
	if !errors.Is(err, ErrStuck) {
		t.Errorf("error %v, want ErrStuck", err)
	}
	files.Close()
	if got, want := p.late(t), "n=4 errno=0 got=0 buf=late"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Code is found in whichever area has it, at an address that an instruction can have.
func TestAddress(t *testing.T) {
	want := []byte{1, 2, 3, 4}
	areas := []area{{0x1000, []byte{1, 2, 3, 1, 2, 3}}, {0x2000, nil}, {0x3000, []byte{9, 1, 2, 3, 4, 9, 9, 9, 1, 2, 3, 4, 9}}}
	first := uint64(0x3001)
	if codeAlign == 4 {
		first = 0x3008
	}
	if at, ok := address(areas, want); !ok || at != first {
		t.Errorf("found at %#x, %v; want %#x", at, ok, first)
	}
	if at, ok := address(areas, []byte{4, 3}); ok {
		t.Errorf("found at %#x what is not there", at)
	}
}
