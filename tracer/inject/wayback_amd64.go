package inject

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// The machine code in the C library that the way back leads over.
var (
	syscallRet  = []byte{0x0f, 0x05, 0xc3}                                             // syscall; ret
	rtSigreturn = []byte{0x48, 0xc7, 0xc0, unix.SYS_RT_SIGRETURN, 0, 0, 0, 0x0f, 0x05} // mov $15,%rax; syscall: what every handler returns to
)

// Register sets of PTRACE_GETREGSET, linux/elf.h.
const (
	ntPrfpreg  = 2     // the x87 and SSE registers, as FXSAVE has them
	ntX86Shstk = 0x204 // there only where the thread has a shadow stack
)

// Sizes in struct rt_sigframe of arch/x86/include/asm/sigframe.h: the address
// that is returned to, then struct ucontext (asm-generic/ucontext.h) with struct
// sigcontext_64 (asm/sigcontext.h); siginfo behind it is not read.
const (
	frameSize  = 8 + 304
	fxSize     = 512 // FXSAVE
	fxSoftware = 464 // of these, the kernel's own: zeros say that nothing follows
)

// frame makes the stack that leads back to the registers of t.saved, to be
// written at an address with at least [frameRoom] bytes, where the stack pointer is
// for the calls: what lies below it may be overwritten by a signal's frame. A system call made by
// the instruction at call, with the stack pointer at sp, returns by RET to
// rt_sigreturn(2), and that puts all registers back, with the interrupted call
// about to be made again.
func (t *Thread) frame(at uint64, areas []area) (data []byte, b wayBack, ok bool) {
	gadget, ok := address(areas, syscallRet)
	back, ok2 := address(areas, rtSigreturn)
	if !ok || !ok2 {
		return nil, wayBack{}, false
	}
	// RET to where no CALL came from is a fault on a shadow stack.
	if t.m.RegisterSet(t.tid, ntX86Shstk, make([]byte, 8)) == nil {
		return nil, wayBack{}, false
	}
	mask, err := t.m.SignalMask(t.tid)
	if err != nil {
		return nil, wayBack{}, false
	}
	fx := make([]byte, fxSize)
	if err := t.m.RegisterSet(t.tid, ntPrfpreg, fx); err != nil {
		return nil, wayBack{}, false
	}
	clear(fx[fxSoftware:])
	fxAt := (at + frameSize + 63) &^ 63 // FXRSTOR wants 16, the kernel 64
	r := &t.saved
	words := []uint64{
		back,
		0, 0, // uc_flags, uc_link
		0, badStack, 0, // uc_stack
		r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15, r.Rdi, r.Rsi, r.Rbp, r.Rbx, r.Rdx,
		r.Orig_rax, r.Rcx, r.Rsp, t.instruction(), r.Eflags, r.Cs&0xffff | r.Ss<<48,
		0, 0, 0, 0, // err, trapno, oldmask, cr2
		fxAt, 0, 0, 0, 0, 0, 0, 0, 0,
		mask,
	}
	for _, w := range words {
		data = binary.LittleEndian.AppendUint64(data, w)
	}
	data = append(data, make([]byte, fxAt-at-frameSize)...)
	data = append(data, fx...)
	return data, wayBack{call: gadget, sp: at}, true
}

// frameRoom is how much room a frame may need, in bytes.
const frameRoom = 64 + fxSize + frameSize

// badStack are ss_flags that sigaltstack(2) refuses, so that rt_sigreturn(2)
// leaves the thread's alternate stack as it is.
const badStack = 4

// lead makes the registers of a call return by the way back: over the stack.
func lead(regs *unix.PtraceRegs, sp, _ uint64) { regs.Rsp = sp }

// codeAlign is what addresses of instructions are multiples of, in bytes.
const codeAlign = 1
