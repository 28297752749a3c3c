package ptrace

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
	"whosefd/tracer/memory"
)

// interruptedCall says which call a stopped thread is in the middle of. On
// arm64 the kernel has moved the program counter back to the SVC instruction
// by the time of the stop (do_signal in arch/arm64/kernel/signal.c), and x0 to x5
// hold the arguments, x8 the number.
//
// Not so for the calls that end with EINTR even if no handler ran (epoll_wait(2)
// and others, signal(7)): x0 has the EINTR, and the first argument cannot be had
// any more, since the kernel shows nobody its copy of it (orig_x0). The program
// sees that EINTR, as it does under any other tracer.
func interruptedCall(tid event.TID, regs *unix.PtraceRegs) (call *Call, hidden bool) {
	const svc0 = 0xd4000001
	var ins [4]byte
	if _, err := memory.Thread(tid).ReadMemory(ins[:], regs.Pc); err != nil || binary.LittleEndian.Uint32(ins[:]) != svc0 {
		return nil, false
	}
	return &Call{Nr: regs.Regs[8], Args: [6]uint64(regs.Regs[:6])}, false
}

// SetCall makes the registers those of a system call that is about to be made
// by the instruction at ip.
func SetCall(regs *unix.PtraceRegs, ip, nr uint64, args [6]uint64) {
	regs.Pc, regs.Regs[8] = ip, nr
	copy(regs.Regs[:], args[:])
}

// SetArg sets the argument i, from 0, of a system call.
func SetArg(regs *unix.PtraceRegs, i int, v uint64) { regs.Regs[i] = v }

// ReturnValue is what a system call has returned.
func ReturnValue(regs *unix.PtraceRegs) int64 { return int64(regs.Regs[0]) }

// PC is the program counter.
func PC(regs *unix.PtraceRegs) uint64 { return regs.Pc }

// SP is the stack pointer.
func SP(regs *unix.PtraceRegs) uint64 { return regs.Sp }

// RedZone is what lies below the stack pointer and may be in use: nothing, in
// the procedure call standard of arm64; some platforms' compilers take 128 bytes.
const RedZone = 128

// SyscallInstruction is the instruction that makes a system call, SVC #0; one
// that was interrupted lies SyscallBehind bytes before the program counter.
var SyscallInstruction = []byte{0x01, 0x00, 0x00, 0xd4}

// SyscallBehind says where an interrupted thread's instruction is.
const SyscallBehind = 0

// startOver is not needed here: see interruptedCall, which hides no EINTR.
func startOver(*unix.PtraceRegs) bool { return false }
