package stack

import (
	"debug/elf"

	"golang.org/x/sys/unix"
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
