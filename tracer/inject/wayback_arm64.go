package inject

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// The machine code that the way back leads over: the first is in the C library,
// the second in the vDSO, since handlers return to the kernel's own code there
// (arch/arm64/kernel/vdso/sigreturn.S).
var (
	syscallRet  = []byte{0x01, 0x00, 0x00, 0xd4, 0xc0, 0x03, 0x5f, 0xd6} // svc #0; ret
	rtSigreturn = []byte{0x68, 0x11, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4} // mov x8, #139; svc #0
)

// Register sets of PTRACE_GETREGSET, linux/elf.h.
const (
	ntPrfpreg = 2     // struct user_fpsimd_state of asm/ptrace.h
	ntARMGCS  = 0x410 // struct user_gcs; there only where the machine has shadow stacks
)

// Offsets in struct rt_sigframe of arch/arm64/kernel/signal.c: siginfo, which is
// not read, then struct ucontext of asm/ucontext.h, whose struct sigcontext
// (asm/sigcontext.h) ends with records.
const (
	atFlags   = 128           // uc_flags, uc_link, uc_stack
	atMask    = atFlags + 40  // uc_sigmask
	atContext = atFlags + 176 // fault_address, regs, sp, pc, pstate
	atRecords = atContext + 288
	vectors   = 32 * 16 // bytes
	fpState   = vectors + 16
	frameSize = atRecords + 16 + vectors + 8 // and 8 bytes of zeros end the records
)

// fpMagic marks struct fpsimd_context, a record of its own size.
const fpMagic, fpSize = 0x46508001, 16 + vectors

// frame makes the stack that leads back to the registers of t.saved, to be
// written at an address with at least [frameRoom] bytes, where the stack pointer is
// for the calls: what lies below it may be overwritten by a signal's frame. A
// system call made by the instruction at call returns by RET to the address in the
// link register, which is that of rt_sigreturn(2), and that puts all registers
// back, with the interrupted call about to be made again.
//
// The frame has the vector registers without their parts for SVE: a system call
// keeps no more of them (Documentation/arch/arm64/sve.rst, "System call behaviour").
func (t *Thread) frame(at uint64, areas []area) (data []byte, b wayBack, ok bool) {
	call, ok := address(areas, syscallRet)
	back, ok2 := address(areas, rtSigreturn)
	if !ok || !ok2 {
		return nil, wayBack{}, false
	}
	// RET to where no BL came from is a fault on a shadow stack.
	gcs := make([]byte, 24)
	if t.m.RegisterSet(t.tid, ntARMGCS, gcs) == nil && gcs[0]&1 != 0 {
		return nil, wayBack{}, false
	}
	mask, err := t.m.SignalMask(t.tid)
	if err != nil {
		return nil, wayBack{}, false
	}
	fp := make([]byte, fpState)
	if err := t.m.RegisterSet(t.tid, ntPrfpreg, fp); err != nil {
		return nil, wayBack{}, false
	}
	data = make([]byte, frameSize)
	words := func(at int, values ...uint64) {
		for i, v := range values {
			binary.LittleEndian.PutUint64(data[at+8*i:], v)
		}
	}
	r := &t.saved
	words(atFlags, 0, 0, 0, badStack, 0)
	words(atMask, mask)
	words(atContext+8, r.Regs[:]...)
	words(atContext+8*32, r.Sp, t.instruction(), r.Pstate)
	words(atRecords, fpMagic|fpSize<<32)
	copy(data[atRecords+8:], fp[vectors:vectors+8]) // fpsr, fpcr
	copy(data[atRecords+16:], fp[:vectors])
	return data, wayBack{call: call, sp: at, link: back}, true
}

// frameRoom is how much room a frame may need, in bytes.
const frameRoom = 64 + frameSize

// badStack are ss_flags that sigaltstack(2) refuses, so that rt_sigreturn(2)
// leaves the thread's alternate stack as it is.
const badStack = 4

// lead makes the registers of a call return by the way back: over the link register.
func lead(regs *unix.PtraceRegs, sp, link uint64) { regs.Sp, regs.Regs[30] = sp, link }

// codeAlign is what addresses of instructions are multiples of, in bytes.
const codeAlign = 4
