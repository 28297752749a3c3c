// Package inject makes system calls inside another process: in one of its
// threads, stopped by ptrace(2), with that thread's registers set for the call
// and put back afterwards. Nothing is written to the program's code; arguments
// that are memory lie below the thread's stack pointer for the time of the call.
package inject

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
	"whosefd/tracer/memory"
	"whosefd/tracer/ptrace"
)

// Machine is what is needed of the kernel; [Linux] is the real one.
type Machine interface {
	ptrace.Kernel
	Registers(tid event.TID) (*unix.PtraceRegs, error)
	SetRegisters(tid event.TID, regs *unix.PtraceRegs) error
	Read(tid event.TID, addr uint64, buf []byte) (int, error)
	Write(tid event.TID, addr uint64, buf []byte) error
	// RegisterSet reads a set of registers by its NT_* number (linux/elf.h).
	RegisterSet(tid event.TID, set uintptr, buf []byte) error
	// SignalMask is the set of signals that a stopped thread blocks.
	SignalMask(tid event.TID) (uint64, error)
	// Code gives the mapping that holds the instruction at addr, and behind it
	// the code that the kernel has put into the process (vdso(7)), if there is any.
	Code(tid event.TID, addr uint64) ([]Range, error)
}

// Range is a range of addresses, without its end.
type Range struct{ Start, End uint64 }

// Linux is the real [Machine].
type Linux struct{ ptrace.Linux }

// Read implements [Machine].
func (Linux) Read(tid event.TID, addr uint64, buf []byte) (int, error) {
	return memory.Thread(tid).ReadMemory(buf, addr)
}

// Write implements [Machine].
func (Linux) Write(tid event.TID, addr uint64, buf []byte) error {
	return ptrace.WriteMemory(tid, addr, buf)
}

// ErrNotInCall says that the thread was not in the system call that it was
// expected in, so that nothing was done.
var ErrNotInCall = errors.New("the thread is no longer in that call")

// Thread is a thread that is seized, stopped in the middle of a system call,
// and ready to make others. Use [Begin] and, whatever happens, End.
type Thread struct {
	m     Machine
	tid   event.TID
	saved unix.PtraceRegs // as it was stopped
	// held are signals that came while we worked. They are delivered at the end.
	held []unix.Signal
	// Changed is for how long the registers were not the thread's own.
	Changed time.Duration
	since   time.Time
	dirty   bool
	// running: a call that was made has not ended in time, and goes on.
	running bool
	behind  bool     // it is in no call that would have to be restarted
	back    *wayBack // nil without
}

// within is how long a call that cannot block may take; tests make it shorter.
var within = 2 * time.Second

// Begin takes a thread that is seized and in a stop, in the middle of the call
// want, with a signal that it was about to get, or 0. The caller keeps the duty
// to let it go.
func Begin(m Machine, tid event.TID, deliver unix.Signal, want ptrace.Call) (*Thread, error) {
	in, err := m.Interrupted(tid)
	if err != nil {
		return nil, fmt.Errorf("thread %d: %w", tid, err)
	}
	if in == nil || in.Nr != want.Nr || in.Args[0] != want.Args[0] {
		return nil, fmt.Errorf("thread %d: %w", tid, ErrNotInCall)
	}
	return begin(m, tid, deliver)
}

// Behind takes a thread that is seized and stopped right behind a system call
// that it has made, on its way back to the program. End it with [Thread.End] or
// [Thread.Again].
func Behind(m Machine, tid event.TID) (*Thread, error) {
	t, err := begin(m, tid, 0)
	if err == nil {
		t.behind = true
	}
	return t, err
}

func begin(m Machine, tid event.TID, deliver unix.Signal) (*Thread, error) {
	regs, err := m.Registers(tid)
	if err != nil {
		return nil, fmt.Errorf("registers of thread %d: %w", tid, err)
	}
	t := &Thread{m: m, tid: tid, saved: *regs}
	ins := make([]byte, len(ptrace.SyscallInstruction))
	if _, err := m.Read(tid, t.instruction(), ins); err != nil || !bytes.Equal(ins, ptrace.SyscallInstruction) {
		return nil, fmt.Errorf("thread %d: no system call instruction at %#x", tid, t.instruction())
	}
	if deliver != 0 {
		t.held = append(t.held, deliver)
	}
	t.prepare()
	return t, nil
}

// instruction is the address of the one that made the interrupted call.
func (t *Thread) instruction() uint64 { return ptrace.PC(&t.saved) - ptrace.SyscallBehind }

// Call makes a system call in the thread and gives its result; an error of the
// call itself is an [unix.Errno].
func (t *Thread) Call(nr uint64, args ...uint64) (int64, error) {
	if t.running {
		return 0, fmt.Errorf("thread %d: %w", t.tid, ptrace.ErrNoStop)
	}
	regs := t.saved
	var six [6]uint64
	copy(six[:], args)
	ip := t.instruction()
	if t.back != nil {
		ip = t.back.call
		lead(&regs, t.back.sp, t.back.link)
	}
	ptrace.SetCall(&regs, ip, nr, six)
	if !t.dirty {
		t.dirty, t.since = true, time.Now()
	}
	if err := t.m.SetRegisters(t.tid, &regs); err != nil {
		return 0, fmt.Errorf("set registers of thread %d: %w", t.tid, err)
	}
	// To the entry, and to the exit.
	for _, want := range []ptrace.Op{ptrace.OpEntry, ptrace.OpExit} {
		if err := t.to(want); err != nil {
			return 0, err
		}
	}
	after, err := t.m.Registers(t.tid)
	if err != nil {
		return 0, fmt.Errorf("result of a call in thread %d: %w", t.tid, err)
	}
	if ret := ptrace.ReturnValue(after); ret < 0 && ret >= -4095 {
		return -1, unix.Errno(-ret)
	} else {
		return ret, nil
	}
}

// CallPath makes a system call with a name among its arguments; place is the
// index of that argument.
func (t *Thread) CallPath(nr uint64, path string, place int, args ...uint64) (int64, error) {
	sp := ptrace.SP(&t.saved)
	if t.back != nil && len(path) >= nameRoom-16 {
		sp = t.back.sp
	}
	addr, restore, err := Scratch(t.m, t.tid, sp, append([]byte(path), 0))
	if err != nil {
		return 0, err
	}
	args[place] = addr
	ret, err := t.Call(nr, args...)
	return ret, errors.Join(err, restore())
}

// Scratch writes data below a thread's stack pointer and its red zone, and
// gives its address and what puts the memory back.
func Scratch(m Machine, tid event.TID, sp uint64, data []byte) (addr uint64, restore func() error, err error) {
	addr = (sp - ptrace.RedZone - uint64(len(data))) &^ 15
	restore, err = scratchAt(m, tid, addr, data)
	return addr, restore, err
}

// scratchAt is Scratch at an address.
func scratchAt(m Machine, tid event.TID, addr uint64, data []byte) (restore func() error, err error) {
	old := make([]byte, len(data))
	if n, err := m.Read(tid, addr, old); err != nil || n != len(old) {
		return nil, fmt.Errorf("no room below the stack of thread %d", tid)
	}
	if err := m.Write(tid, addr, data); err != nil {
		return nil, fmt.Errorf("write below the stack of thread %d: %w", tid, err)
	}
	return func() error {
		if err := m.Write(tid, addr, old); err != nil {
			return fmt.Errorf("restore memory below the stack of thread %d: %w", tid, err)
		}
		return nil
	}, nil
}

// to runs the thread to the entry or the exit of a system call. Signals that
// come up are held back.
func (t *Thread) to(want ptrace.Op) error {
	if err := t.m.Resume(t.tid, ptrace.ToSyscall, 0); err != nil {
		return fmt.Errorf("resume thread %d: %w", t.tid, err)
	}
	for {
		s, err := ptrace.AwaitStop(t.m, t.tid, within)
		if err != nil {
			t.running = errors.Is(err, ptrace.ErrNoStop)
			return err
		}
		switch s.Kind {
		case ptrace.SyscallStop:
			var info ptrace.SyscallInfo
			if err := t.m.SyscallInfo(t.tid, &info); err != nil {
				return fmt.Errorf("system call of thread %d: %w", t.tid, err)
			}
			if info.Op == want {
				return nil
			}
		case ptrace.SignalStop:
			t.held = append(t.held, s.Signal)
		}
		if err := t.m.Resume(t.tid, ptrace.ToSyscall, 0); err != nil {
			return fmt.Errorf("resume thread %d: %w", t.tid, err)
		}
	}
}

// ErrStuck says that a call of ours has not ended and cannot be broken off, as
// one to a file system that does not answer (state D). The thread goes back to
// its own call by itself when that ends.
var ErrStuck = errors.New("a call that was made in the thread does not end: a file system does not answer; when it does, the thread goes back to its own call")

// stop breaks off a call that has not ended in time. A thread that would not
// find back by itself is waited for, as long as that takes: it must not go on
// with registers that are not its own.
func (t *Thread) stop() error {
	for tries := 0; t.running; tries++ {
		if tries > 0 && t.back != nil {
			return fmt.Errorf("thread %d: %w", t.tid, ErrStuck)
		}
		if err := t.m.Interrupt(t.tid); err != nil {
			return fmt.Errorf("interrupt thread %d: %w", t.tid, err)
		}
		s, err := ptrace.AwaitStop(t.m, t.tid, within)
		if errors.Is(err, ptrace.ErrNoStop) {
			continue
		}
		if err != nil {
			return err
		}
		if s.Kind == ptrace.SignalStop {
			t.held = append(t.held, s.Signal)
		}
		t.running = false
	}
	return nil
}

// End gives the thread its registers back and brings it to a stop from which
// the kernel restarts the interrupted call by its own rules: that happens only
// on the way out of a signal or interrupt, so the thread is interrupted again.
// Signals that came meanwhile are sent again. The thread is then to be resumed
// or detached without a signal.
func (t *Thread) End() error {
	if !t.dirty {
		return errors.Join(t.unprepare(), t.release())
	}
	if err := t.stop(); err != nil {
		return err
	}
	if t.behind {
		return t.put(&t.saved)
	}
	// The interrupt first: if we are gone right after the registers are back,
	// its mark still makes the kernel restart the call.
	if err := t.m.Interrupt(t.tid); err != nil {
		return fmt.Errorf("interrupt thread %d: %w", t.tid, err)
	}
	if err := t.m.SetRegisters(t.tid, &t.saved); err != nil {
		return fmt.Errorf("restore registers of thread %d: %w", t.tid, err)
	}
	t.dirty = false
	t.Changed += time.Since(t.since)
	if err := t.unprepare(); err != nil {
		return err
	}
	if err := t.m.Resume(t.tid, ptrace.ToSyscall, 0); err != nil {
		return fmt.Errorf("resume thread %d: %w", t.tid, err)
	}
	for {
		s, err := ptrace.AwaitStop(t.m, t.tid, within)
		if err != nil {
			return err
		}
		if s.Kind == ptrace.SignalStop {
			t.held = append(t.held, s.Signal)
		}
		if s.Kind != ptrace.SyscallStop {
			return t.release()
		}
		if err := t.m.Resume(t.tid, ptrace.ToSyscall, 0); err != nil {
			return fmt.Errorf("resume thread %d: %w", t.tid, err)
		}
	}
}

// Again lets a thread that was taken by [Behind] make a system call with the
// instruction behind which it stands, in the place of the one that it has made.
// It has not made it yet when Again returns.
func (t *Thread) Again(nr uint64, args [6]uint64) error {
	if err := t.stop(); err != nil {
		return err
	}
	regs := t.saved
	ptrace.SetCall(&regs, t.instruction(), nr, args)
	return t.put(&regs)
}

// put ends the work with these registers.
func (t *Thread) put(regs *unix.PtraceRegs) error {
	if err := t.m.SetRegisters(t.tid, regs); err != nil {
		return fmt.Errorf("restore registers of thread %d: %w", t.tid, err)
	}
	if t.dirty {
		t.Changed += time.Since(t.since)
	}
	t.dirty = false
	return errors.Join(t.unprepare(), t.release())
}

// release sends the held signals again while the thread is stopped. Only the
// signal that a thread is about to get can be passed on by ptrace(2), and the
// thread has long left that stop. The sender's details (siginfo) are lost.
func (t *Thread) release() error {
	var errs []error
	for _, sig := range t.held {
		if _, _, errno := unix.Syscall(unix.SYS_TKILL, uintptr(t.tid), uintptr(sig), 0); errno != 0 {
			errs = append(errs, fmt.Errorf("send %v again to thread %d: %w", sig, t.tid, errno))
		}
	}
	t.held = nil
	return errors.Join(errs...)
}
