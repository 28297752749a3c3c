package ptrace

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
)

// Linux is the real kernel. Its methods must be called on the thread that
// seized: see [OnTracerThread].
type Linux struct{}

// linux/ptrace.h; not in x/sys for every architecture.
const (
	ptraceGetSyscallInfo = 0x420e
	ptraceGetSigmask     = 0x420a
	ntPrstatus           = 1 // linux/elf.h: the general registers
)

// ptrace makes a request whose data is a number. No request waits for anything,
// so the scheduler of the Go runtime need not know.
func ptrace(request int, tid event.TID, data uintptr) error {
	if _, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), 0, data, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// ptraceData makes a request whose data is memory of ours. It stays an
// unsafe.Pointer up to the call itself: as a uintptr it would be lost if the
// stack moved.
func ptraceData(request int, tid event.TID, addr uintptr, data unsafe.Pointer) error {
	if _, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, uintptr(data), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// Seize implements [Kernel].
func (Linux) Seize(tid event.TID, options uintptr) error {
	return ptrace(unix.PTRACE_SEIZE, tid, options)
}

// Interrupt implements [Kernel].
func (Linux) Interrupt(tid event.TID) error {
	return ptrace(unix.PTRACE_INTERRUPT, tid, 0)
}

// Wait implements [Kernel]. __WNOTHREAD keeps it from the children that other
// parts of the program started.
func (Linux) Wait(tid event.TID, block bool) (event.TID, unix.WaitStatus, error) {
	if tid != 0 || !block {
		return take(tid, block)
	}
	for {
		tid, ws, err := leave()
		if err != nil || ws.Stopped() && ws.TrapCause() != unix.PTRACE_EVENT_EXEC {
			return tid, ws, err
		}
		// The end of a thread is to be taken, and so is a stop at exec: the kernel refuses all
		// requests to a thread that has got another id and whose stop was not taken.
		switch got, ws, err := take(tid, false); {
		case errors.Is(err, unix.ECHILD), err == nil && got == 0: // an exec took its id meanwhile
		default:
			return got, ws, err
		}
	}
}

// take takes the next status change from the kernel, of any tracee if tid is 0.
func take(tid event.TID, block bool) (event.TID, unix.WaitStatus, error) {
	which := -1
	if tid != 0 {
		which = int(tid)
	}
	options := unix.WALL | unix.WNOTHREAD
	if !block {
		options |= unix.WNOHANG
	}
	var ws unix.WaitStatus
	pid, err := unix.Wait4(which, &ws, options, nil)
	return event.TID(pid), ws, err
}

// siginfo is the beginning of siginfo_t as waitid(2) fills it (asm-generic/siginfo.h).
type siginfo struct {
	signo, errno, code, _ int32
	pid, uid, status, _   int32
	_                     [96]byte
}

// Values of si_code, sigaction(2).
const (
	cldExited  = 1
	cldTrapped = 4
)

// leave waits for a thread to stop or to end, and leaves its state with the kernel. Were a
// signal-delivery-stop taken, and we were killed before the thread goes on, the kernel would let it go
// without the signal; gdb would wait for its SIGCHLD for ever.
func leave() (event.TID, unix.WaitStatus, error) {
	var info siginfo
	_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_ALL, 0, uintptr(unsafe.Pointer(&info)),
		unix.WEXITED|unix.WNOWAIT|unix.WALL|unix.WNOTHREAD, 0, 0)
	if errno != 0 {
		return 0, 0, errno
	}
	ws := unix.WaitStatus(info.status & 0x7f) // killed
	switch info.code {
	case cldExited:
		ws = unix.WaitStatus(info.status&0xff) << 8
	case cldTrapped:
		ws = unix.WaitStatus(info.status)<<8 | 0x7f
	}
	return event.TID(info.pid), ws, nil
}

// rawInfo is struct ptrace_syscall_info with the union as its entry part.
type rawInfo struct {
	op   uint8
	_    [3]uint8
	arch uint32
	ip   uint64
	sp   uint64
	nr   uint64 // at an exit: the result
	args [6]uint64
	_    [2]uint64 // the seccomp part and what later kernels add
}

// SyscallInfo implements [Kernel] with PTRACE_GET_SYSCALL_INFO (Linux 5.3).
func (Linux) SyscallInfo(tid event.TID, info *SyscallInfo) error {
	var raw rawInfo
	if err := ptraceData(ptraceGetSyscallInfo, tid, unsafe.Sizeof(raw), unsafe.Pointer(&raw)); err != nil {
		return err
	}
	info.Op, info.Arch, info.IP, info.SP = Op(raw.op), raw.arch, raw.ip, raw.sp
	switch info.Op {
	case OpEntry:
		info.Nr, info.Args = raw.nr, raw.args
	case OpExit:
		info.Ret = int64(raw.nr)
		info.Failed = uint8(raw.args[0]) != 0 // is_error follows the result
	}
	return nil
}

// ErrCompat says that a thread runs a 32-bit program, whose registers are others.
var ErrCompat = errors.New("it runs a 32-bit program")

// Registers reads the general registers of a stopped thread; [ErrCompat] where it
// has others.
func (Linux) Registers(tid event.TID) (*unix.PtraceRegs, error) {
	regs := new(unix.PtraceRegs)
	n, err := registerSet(unix.PTRACE_GETREGSET, tid, ntPrstatus, asBytes(regs))
	if err == nil && n != len(asBytes(regs)) {
		return nil, ErrCompat
	}
	return regs, err
}

// SetRegisters writes the general registers of a stopped thread.
func (Linux) SetRegisters(tid event.TID, regs *unix.PtraceRegs) error {
	_, err := registerSet(unix.PTRACE_SETREGSET, tid, ntPrstatus, asBytes(regs))
	return err
}

// RegisterSet reads a set of registers of a stopped thread by its NT_* number
// (linux/elf.h); buf must have room for all of it, or gets the beginning.
func (Linux) RegisterSet(tid event.TID, set uintptr, buf []byte) error {
	_, err := registerSet(unix.PTRACE_GETREGSET, tid, set, buf)
	return err
}

// registerSet reads or writes a set of registers, and says how many bytes it has.
func registerSet(request int, tid event.TID, set uintptr, buf []byte) (int, error) {
	iov := unix.Iovec{Base: &buf[0]}
	iov.SetLen(len(buf))
	err := ptraceData(request, tid, set, unsafe.Pointer(&iov))
	runtime.KeepAlive(buf)
	return int(iov.Len), err
}

func asBytes(regs *unix.PtraceRegs) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(regs)), unsafe.Sizeof(*regs))
}

// SignalMask is the set of signals that a stopped thread blocks.
func (Linux) SignalMask(tid event.TID) (uint64, error) {
	var mask uint64
	err := ptraceData(ptraceGetSigmask, tid, unsafe.Sizeof(mask), unsafe.Pointer(&mask))
	return mask, err
}

// Interrupted implements [Kernel]. A call that returns EINTR to its caller
// whatever the reason (epoll_wait(2) and others, signal(7)) is turned into one
// that restarts unless a handler runs, so that our interrupt is not seen.
func (k Linux) Interrupted(tid event.TID) (*Call, error) {
	regs, err := k.Registers(tid)
	if errors.Is(err, ErrCompat) {
		return nil, nil // which call it is in is not known
	}
	if err != nil {
		return nil, err
	}
	call, hidden := interruptedCall(tid, regs)
	if hidden {
		if err := k.SetRegisters(tid, regs); err != nil {
			return nil, err
		}
	}
	return call, nil
}

// Redo implements [Kernel]. The kernel forgets an interrupt when the thread is
// detached, but the call would still find its mark (TIF_SIGPENDING), which is
// only wiped on the way back to the program.
func (k Linux) Redo(tid event.TID) error {
	regs, err := k.Registers(tid)
	if errors.Is(err, ErrCompat) {
		return nil
	}
	if err != nil || !startOver(regs) {
		return err
	}
	return k.SetRegisters(tid, regs)
}

// EventMsg implements [Kernel].
func (Linux) EventMsg(tid event.TID) (uint64, error) {
	var msg uint64
	err := ptraceData(unix.PTRACE_GETEVENTMSG, tid, 0, unsafe.Pointer(&msg))
	return msg, err
}

// Resume implements [Kernel].
func (Linux) Resume(tid event.TID, how How, sig unix.Signal) error {
	request := unix.PTRACE_SYSCALL
	switch how {
	case Freely:
		request = unix.PTRACE_CONT
	case Listen:
		request, sig = unix.PTRACE_LISTEN, 0
	}
	return ptrace(request, tid, uintptr(sig))
}

// Detach implements [Kernel].
func (Linux) Detach(tid event.TID, sig unix.Signal) error {
	return ptrace(unix.PTRACE_DETACH, tid, uintptr(sig))
}

// OnTracerThread runs f on a thread of its own that ends with it, so that the
// kernel lets go of every tracee that f left behind: whatever f does, nothing
// stays attached. A panic of f becomes an error.
func OnTracerThread(f func() error) error {
	// The Go runtime has a handler for SIGCHLD, which would run at every stop, on
	// whichever thread sleeps: another CPU is woken up for it each time. Only the
	// end of a child sends it from now on. If that fails we are slower, no more.
	_ = changeFlags(unix.SIGCHLD, saNoCldStop, 0)
	done := make(chan error, 1)
	go onOwnThread(f, done)
	return <-done
}

func onOwnThread(f func() error, done chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		// The main thread does not end with its goroutine. While this
		// goroutine holds it, the next one gets another.
		inner := make(chan error, 1)
		go onOwnThread(f, inner)
		done <- <-inner
		runtime.UnlockOSThread()
		return
	}
	done <- func() (err error) {
		defer AsError(&err)
		return f()
	}()
}

// wakeSignal interrupts a blocking wait. A real-time signal that Go's runtime
// handles but gives no meaning; its handler is set to not restart calls.
const wakeSignal = unix.Signal(50)

// Waker ends a blocking Wait of one thread from another goroutine.
type Waker struct {
	tid  int
	done atomic.Bool
}

// NewWaker is for the calling thread, which must be locked.
func NewWaker() (*Waker, error) {
	if err := changeFlags(wakeSignal, 0, saRestart); err != nil {
		return nil, fmt.Errorf("prepare the wake-up signal: %w", err)
	}
	return &Waker{tid: unix.Gettid()}, nil
}

// Wake sends the signal until Done is called, since one that arrives just
// before the wait begins is lost.
func (w *Waker) Wake() {
	pid := os.Getpid()
	for pause := 50 * time.Microsecond; !w.done.Load(); pause = min(2*pause, 20*time.Millisecond) {
		if unix.Tgkill(pid, w.tid, wakeSignal) != nil {
			return
		}
		time.Sleep(pause)
	}
}

// Done says that the thread has noticed and needs no more signals.
func (w *Waker) Done() { w.done.Store(true) }

// sigaction is the kernel's struct of sigaction(2) on amd64 and arm64.
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

// Flags of sigaction(2): asm-generic/signal-defs.h.
const (
	saNoCldStop = 0x00000001
	saRestart   = 0x10000000
)

// changeFlags sets and clears flags of a handler that the Go runtime installed.
func changeFlags(sig unix.Signal, set, clear uint64) error {
	var act sigaction
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), 0, uintptr(unsafe.Pointer(&act)), 8, 0, 0); errno != 0 {
		return errno
	}
	if act.handler <= 1 {
		return fmt.Errorf("signal %d has no handler", sig)
	}
	act.flags = act.flags&^clear | set
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// WriteMemory writes all of buf to a process's memory at addr.
func WriteMemory(tid event.TID, addr uint64, buf []byte) error {
	if len(buf) == 0 {
		return nil
	}
	local := unix.Iovec{Base: &buf[0]}
	local.SetLen(len(buf))
	remote := unix.RemoteIovec{Base: uintptr(addr), Len: len(buf)}
	n, err := unix.ProcessVMWritev(int(tid), []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0)
	if err == nil && n != len(buf) {
		err = unix.EFAULT
	}
	return err
}
