package ptrace

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
)

// interruptedCall says which call a stopped thread is in the middle of. On
// arm64 the kernel has moved the program counter back to the SVC instruction
// by the time of the stop (arch/arm64/kernel/signal.c), and x0 to x5 hold the
// arguments, x8 the number.
func interruptedCall(tid event.TID, regs *unix.PtraceRegs) (call *Call, hidden bool) {
	const svc0 = 0xd4000001
	var ins [4]byte
	if n, err := ReadMemory(tid, regs.Pc, ins[:]); err != nil || n != len(ins) || binary.LittleEndian.Uint32(ins[:]) != svc0 {
		return nil, false
	}
	return &Call{Nr: regs.Regs[8], Args: [6]uint64(regs.Regs[:6])}, false
}
