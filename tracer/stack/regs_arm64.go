package stack

import (
	"debug/elf"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"whosefd/tracer/memory"
)

// DWARF register numbers: DWARF for the Arm 64-bit Architecture, section 4.1.
const (
	regSP   = 31
	regFP   = 29
	regRA   = 30
	regPC   = 32
	machine = elf.EM_AARCH64
	// codeBits is the width of a user-space address in a return address; what
	// is above may be a pointer authentication code.
	codeBits = 48
)

// FromPtrace takes registers as ptrace(2) gives them.
func FromPtrace(r *unix.PtraceRegs) Regs {
	regs := Regs{PC: r.Pc, SP: r.Sp}
	copy(regs.DWARF[:], r.Regs[:])
	regs.DWARF[regSP] = r.Sp
	regs.DWARF[regPC] = r.Pc
	return regs
}

// guessCall finds the caller of a frame at its first instruction: a call has
// put the return address into the link register.
func (p *process) guessCall(up step, regs registerSet) (step, error) {
	ra, known := regs.get(regRA)
	if !known || !p.executable(ra) {
		return step{}, errLost
	}
	up.pc = ra
	return up, nil
}

// Offsets in struct rt_sigframe of arch/arm64/kernel/signal.c, of the registers in
// its struct sigcontext: siginfo and what of struct ucontext lies before that, and
// the address of a fault. The stack pointer and the program counter follow x30.
const sigcontextRegs = 128 + 176 + 8

// sigreturn finds the caller of the code that a signal handler returns to, which
// the kernel has in the vDSO without unwind information
// (arch/arm64/kernel/vdso/sigreturn.S): its frame has all registers.
func (p *process) sigreturn(f callFrame, ruleErr error, regs registerSet) (up step, ok bool) {
	const (
		movX8SysRtSigreturn = 0xd2801168 // mov x8, #139
		svc0                = 0xd4000001
	)
	if ruleErr == nil || f.module == nil {
		return step{}, false
	}
	if code, err := memory.Word(p.mem, f.pc); err != nil || code != svc0<<32|movX8SysRtSigreturn {
		return step{}, false
	}
	b, err := memory.Bytes(p.mem, regs.val[regSP]+sigcontextRegs, (regPC+1)*8)
	if err != nil {
		return step{}, false
	}
	for i := range uint64(regPC + 1) {
		up.regs.set(i, binary.LittleEndian.Uint64(b[i*8:]))
	}
	up.pc = up.regs.val[regPC]
	return up, true
}
