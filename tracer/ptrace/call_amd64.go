package ptrace

import (
	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
)

// interruptedCall says which call a stopped thread is in the middle of, from
// its registers: orig_rax has the number, rax one of the kernel's restart codes
// (linux/errno.h), which the kernel acts on when the thread goes on. With
// hidden, regs was changed and must be written back.
func interruptedCall(_ event.TID, regs *unix.PtraceRegs) (call *Call, hidden bool) {
	if int64(regs.Orig_rax) < 0 {
		return nil, false
	}
	const restartSys, restartNoHand, restartBlock = 512, 514, 516
	switch code := -int64(regs.Rax); {
	case code == restartBlock && regs.Orig_rax == unix.SYS_POLL && int32(regs.Rdx) < 0:
		// It would go on as restart_syscall(2), which exists to count a
		// time-out; without one, the call itself can be made again.
		regs.Rax, hidden = negative(restartNoHand), true
	case code >= restartSys && code <= restartNoHand, code == restartBlock:
	case code == int64(unix.EINTR) && alwaysEINTR[regs.Orig_rax]:
		regs.Rax, hidden = negative(restartNoHand), true
	default:
		return nil, false
	}
	return &Call{Nr: regs.Orig_rax, Args: [6]uint64{regs.Rdi, regs.Rsi, regs.Rdx, regs.R10, regs.R8, regs.R9}}, hidden
}

// startOver makes the registers of a thread at the entry of a call those of one
// that is about to run the instruction again, and whose call is skipped; false
// for a call that restarts by itself, as itself.
func startOver(regs *unix.PtraceRegs) bool {
	if !alwaysEINTR[regs.Orig_rax] && !restartsAsAnother[regs.Orig_rax] {
		return false
	}
	regs.Rax = regs.Orig_rax
	regs.Orig_rax = negative(1)
	regs.Rip -= uint64(len(SyscallInstruction))
	return true
}

// negative is what a register holds for -v.
func negative(v uint64) uint64 { return ^v + 1 }

// alwaysEINTR are the calls that end with EINTR even if no handler ran:
// signal(7), "Interruption of system calls and library functions by stop signals".
var alwaysEINTR = map[uint64]bool{
	unix.SYS_EPOLL_WAIT: true, unix.SYS_EPOLL_PWAIT: true, unix.SYS_EPOLL_PWAIT2: true,
	unix.SYS_SEMOP: true, unix.SYS_SEMTIMEDOP: true, unix.SYS_IO_GETEVENTS: true, unix.SYS_RT_SIGTIMEDWAIT: true,
}

// restartsAsAnother are the calls that go on as restart_syscall(2), which does not show
// what is waited for.
var restartsAsAnother = map[uint64]bool{
	unix.SYS_POLL: true, unix.SYS_NANOSLEEP: true, unix.SYS_CLOCK_NANOSLEEP: true, unix.SYS_FUTEX: true,
}

// SetCall makes the registers those of a system call that is about to be made
// by the instruction at ip.
func SetCall(regs *unix.PtraceRegs, ip, nr uint64, args [6]uint64) {
	regs.Rip, regs.Rax = ip, nr
	regs.Orig_rax = ^uint64(0) // in no call: the kernel must not restart one
	for i, v := range args {
		SetArg(regs, i, v)
	}
}

// SetArg sets the argument i, from 0, of a system call.
func SetArg(regs *unix.PtraceRegs, i int, v uint64) {
	*[...]*uint64{&regs.Rdi, &regs.Rsi, &regs.Rdx, &regs.R10, &regs.R8, &regs.R9}[i] = v
}

// ReturnValue is what a system call has returned.
func ReturnValue(regs *unix.PtraceRegs) int64 { return int64(regs.Rax) }

// PC is the program counter.
func PC(regs *unix.PtraceRegs) uint64 { return regs.Rip }

// SP is the stack pointer.
func SP(regs *unix.PtraceRegs) uint64 { return regs.Rsp }

// RedZone is what lies below the stack pointer and may be in use (System V
// ABI, AMD64 supplement, 3.2.2), in bytes.
const RedZone = 128

// SyscallInstruction is the instruction that makes a system call, SYSCALL; one
// that was interrupted lies SyscallBehind bytes before the program counter.
var SyscallInstruction = []byte{0x0f, 0x05}

// SyscallBehind says where an interrupted thread's instruction is.
const SyscallBehind = 2
