package stack

import (
	"debug/elf"

	"golang.org/x/sys/unix"

	"whosefd/tracer/memory"
)

// DWARF register numbers: System V ABI, AMD64 supplement, figure 3.36.
const (
	regSP   = 7
	regFP   = 6
	regRA   = 16
	regPC   = 16
	machine = elf.EM_X86_64
	// codeBits is the width of a user-space address in a return address; all
	// of it on this architecture.
	codeBits = 64
)

// FromPtrace takes registers as ptrace(2) gives them.
func FromPtrace(r *unix.PtraceRegs) Regs {
	regs := Regs{PC: r.Rip, SP: r.Rsp}
	copy(regs.DWARF[:], []uint64{r.Rax, r.Rdx, r.Rcx, r.Rbx, r.Rsi, r.Rdi, r.Rbp, r.Rsp,
		r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15, r.Rip})
	return regs
}

// guessCall finds the caller of a frame at its first instruction: a call has
// pushed the return address.
func (p *process) guessCall(up step, regs registerSet) (step, error) {
	sp := regs.val[regSP]
	ra, err := memory.Word(p.mem, sp)
	if err != nil {
		return step{}, err
	}
	if !p.executable(ra) {
		return step{}, errLost
	}
	up.regs.set(regSP, sp+8)
	up.pc = ra
	return up, nil
}

// sigreturn is not needed here: glibc has unwind information for what a
// signal handler returns to.
func (*process) sigreturn(callFrame, error, registerSet) (step, bool) { return step{}, false }
