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
	case code >= restartSys && code <= restartNoHand, code == restartBlock:
	case code == int64(unix.EINTR) && alwaysEINTR[regs.Orig_rax]:
		regs.Rax = ^uint64(restartNoHand) + 1
		hidden = true
	default:
		return nil, false
	}
	return &Call{Nr: regs.Orig_rax, Args: [6]uint64{regs.Rdi, regs.Rsi, regs.Rdx, regs.R10, regs.R8, regs.R9}}, hidden
}

// alwaysEINTR are the calls that end with EINTR even if no handler ran:
// signal(7), "Interruption of system calls and library functions by stop signals".
var alwaysEINTR = map[uint64]bool{
	unix.SYS_EPOLL_WAIT: true, unix.SYS_EPOLL_PWAIT: true, unix.SYS_EPOLL_PWAIT2: true,
	unix.SYS_SEMOP: true, unix.SYS_SEMTIMEDOP: true, unix.SYS_IO_GETEVENTS: true, unix.SYS_RT_SIGTIMEDWAIT: true,
}
