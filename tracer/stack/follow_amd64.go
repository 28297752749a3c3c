package stack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"

	"golang.org/x/arch/x86/x86asm"
)

// calleeSaved are the registers that a function leaves as they were (System V
// ABI, AMD64 supplement, figure 3.4): rbx, rbp, r12 to r15.
var calleeSaved = []uint64{3, 6, 12, 13, 14, 15}

const (
	// maxFollowed bounds how many instructions are followed; some 30 are needed.
	maxFollowed = 200
	// longestInstruction of the architecture, in bytes.
	longestInstruction = 15
)

// follow finds what a function does after its call has returned something that
// is not -1, with the words of memory that are given.
func (p *process) follow(f callFrame, regs *registerSet, words map[uint64]uint64) (copied, error) {
	fl := &follower{pc: f.pc, words: maps.Clone(words), read: p.mem.read, code: func(addr uint64) bool {
		return p.executable(addr) && p.fixed(f.module, addr)
	}}
	for _, n := range calleeSaved {
		if v, ok := regs.get(n); ok {
			fl.regs[fromDWARF[n]] = number{v, true}
		}
	}
	fl.regs[rsp] = number{f.sp, true}
	fl.regs[rax] = number{0, true} // what underflow returns: a byte, or -1 at the end
	if err := fl.run(); err != nil {
		return copied{}, err
	}
	// The return address is the last word of the function's frame.
	if f.end == 0 || fl.returnedAt != f.end-8 {
		return copied{}, errors.New("it returns elsewhere")
	}
	fl.did.wrote = fl.words
	return fl.did, nil
}

// The registers as x86 numbers them, and the DWARF numbers of those.
const (
	rax, rsp, rsi, rdi, rdx = 0, 4, 6, 7, 2
	generalRegisters        = 16
)

var fromDWARF = map[uint64]int{3: 3, 6: 5, 12: 12, 13: 13, 14: 14, 15: 15}

// number is a value, if it is known.
type number struct {
	v     uint64
	known bool
}

// follower is a small part of a processor, for straight code and jumps. It
// writes to words of its own, and ends where it meets what it does not know.
type follower struct {
	pc    uint64
	regs  [generalRegisters]number
	words map[uint64]uint64 // memory that is not as read says, by aligned address
	read  func(addr uint64, buf []byte) error
	code  func(addr uint64) bool

	// The flags of the processor, if they are known.
	zero, sign, carry, overflow, flags bool

	calls      int
	did        copied
	returnedAt uint64
}

var errUnknown = errors.New("it depends on what is not known")

func (f *follower) run() error {
	for range maxFollowed {
		in, err := f.fetch()
		if err != nil {
			return err
		}
		next := f.pc + uint64(in.Len)
		if in.Op == x86asm.RET {
			return f.ret(in)
		}
		if f.pc, err = f.step(in, next); err != nil {
			return fmt.Errorf("%v at %#x: %w", in.Op, next-uint64(in.Len), err)
		}
	}
	return errors.New("it goes on too long")
}

func (f *follower) fetch() (in x86asm.Inst, err error) {
	if !f.code(f.pc) {
		return in, fmt.Errorf("%#x is not its code", f.pc)
	}
	var b [longestInstruction]byte
	if err := f.read(f.pc, b[:]); err != nil {
		return in, err
	}
	in, err = x86asm.Decode(b[:], 64)
	if err != nil {
		return in, fmt.Errorf("instruction at %#x: %w", f.pc, err)
	}
	for _, p := range in.Prefix {
		switch p &^ (x86asm.PrefixImplicit | x86asm.PrefixIgnored) {
		case x86asm.PrefixLOCK, x86asm.PrefixREP, x86asm.PrefixREPN, x86asm.PrefixFS, x86asm.PrefixGS, x86asm.PrefixAddrSize:
			if in.Op != x86asm.NOP {
				return in, fmt.Errorf("instruction at %#x: prefix %v", f.pc, p)
			}
		}
	}
	return in, nil
}

// ret ends it.
func (f *follower) ret(in x86asm.Inst) error {
	result := f.regs[rax]
	if in.Args[0] != nil || !f.regs[rsp].known || !result.known || f.calls != 1 {
		return errUnknown
	}
	f.did.result, f.returnedAt = result.v, f.regs[rsp].v
	return nil
}

// step does one instruction and gives where the next is.
func (f *follower) step(in x86asm.Inst, next uint64) (uint64, error) {
	switch in.Op {
	case x86asm.NOP:
		return next, nil
	case x86asm.MOV, x86asm.LEA, x86asm.ADD, x86asm.SUB, x86asm.CMP, x86asm.TEST, x86asm.AND, x86asm.OR, x86asm.XOR:
		return next, f.compute(in, next)
	case x86asm.PUSH, x86asm.POP:
		return next, f.stack(in)
	case x86asm.LEAVE:
		f.regs[rsp] = f.regs[5]
		return next, f.stack(x86asm.Inst{Op: x86asm.POP, Args: x86asm.Args{x86asm.RBP}})
	case x86asm.CALL:
		return next, f.call()
	case x86asm.JMP:
		if to, ok := in.Args[0].(x86asm.Rel); ok {
			return next + uint64(int64(to)), nil
		}
	default:
		if to, ok := in.Args[0].(x86asm.Rel); ok {
			taken, err := f.jumps(in.Op)
			if taken {
				next += uint64(int64(to))
			}
			return next, err
		}
	}
	return 0, errors.New("it is not known here")
}

// call is the one that copies: memcpy(3) or mempcpy(3).
func (f *follower) call() error {
	to, from, n := f.regs[rdi], f.regs[rsi], f.regs[rdx]
	if f.calls++; f.calls > 1 || !to.known || !from.known || !n.known {
		return errUnknown
	}
	f.did.to, f.did.from, f.did.bytes = to.v, from.v, n.v
	for _, r := range []int{rax, 1, rdx, rsi, rdi, 8, 9, 10, 11} {
		f.regs[r] = number{}
	}
	f.flags = false
	return nil
}

// jumps says whether a conditional jump is made.
func (f *follower) jumps(op x86asm.Op) (bool, error) {
	if !f.flags {
		return false, errUnknown
	}
	switch op {
	case x86asm.JE:
		return f.zero, nil
	case x86asm.JNE:
		return !f.zero, nil
	case x86asm.JB:
		return f.carry, nil
	case x86asm.JAE:
		return !f.carry, nil
	case x86asm.JBE:
		return f.carry || f.zero, nil
	case x86asm.JA:
		return !f.carry && !f.zero, nil
	case x86asm.JS:
		return f.sign, nil
	case x86asm.JNS:
		return !f.sign, nil
	case x86asm.JL:
		return f.sign != f.overflow, nil
	case x86asm.JGE:
		return f.sign == f.overflow, nil
	case x86asm.JLE:
		return f.zero || f.sign != f.overflow, nil
	case x86asm.JG:
		return !f.zero && f.sign == f.overflow, nil
	}
	return false, errors.New("it is not known here")
}

// stack does a push or a pop of a whole register.
func (f *follower) stack(in x86asm.Inst) error {
	reg, _ := in.Args[0].(x86asm.Reg)
	n, size, ok := general(reg)
	if !ok || size != 8 || !f.regs[rsp].known {
		return errUnknown
	}
	sp := f.regs[rsp].v
	if in.Op == x86asm.PUSH {
		f.regs[rsp].v -= 8
		return f.store(sp-8, 8, f.regs[n])
	}
	v, err := f.load(sp, 8)
	if err != nil {
		return err
	}
	f.regs[rsp].v += 8
	f.regs[n] = v
	return nil
}

// compute does an instruction with two operands.
func (f *follower) compute(in x86asm.Inst, next uint64) error {
	size, err := width(in)
	if err != nil {
		return err
	}
	if in.Op == x86asm.LEA {
		mem, ok := in.Args[1].(x86asm.Mem)
		if !ok || size != 8 {
			return errUnknown
		}
		addr, err := f.address(mem, next)
		if errors.Is(err, errUnknown) {
			return f.put(in.Args[0], size, number{}, next)
		}
		return errors.Join(err, f.put(in.Args[0], size, number{addr, true}, next))
	}
	b, err := f.get(in.Args[1], size, next)
	if err != nil {
		return err
	}
	if in.Op == x86asm.MOV {
		return f.put(in.Args[0], size, b, next)
	}
	a, err := f.get(in.Args[0], size, next)
	if err != nil {
		return err
	}
	if in.Op == x86asm.XOR && in.Args[0] == in.Args[1] {
		a, b = number{0, true}, number{0, true} // however it was, it is 0
	}
	result := f.arithmetic(in.Op, a, b, size)
	if in.Op == x86asm.CMP || in.Op == x86asm.TEST {
		return nil
	}
	return f.put(in.Args[0], size, result, next)
}

// arithmetic computes, and sets the flags.
func (f *follower) arithmetic(op x86asm.Op, a, b number, size int) number {
	if f.flags = a.known && b.known; !f.flags {
		return number{}
	}
	x, y, top := low(a.v, size), low(b.v, size), uint64(1)<<(8*size-1)
	var r uint64
	f.carry, f.overflow = false, false
	switch op {
	case x86asm.ADD:
		r = low(x+y, size)
		f.carry, f.overflow = r < x, (x^r)&(y^r)&top != 0
	case x86asm.SUB, x86asm.CMP:
		r = low(x-y, size)
		f.carry, f.overflow = x < y, (x^y)&(x^r)&top != 0
	case x86asm.AND, x86asm.TEST:
		r = x & y
	case x86asm.OR:
		r = x | y
	case x86asm.XOR:
		r = x ^ y
	}
	f.zero, f.sign = r == 0, r&top != 0
	return number{r, true}
}

// general gives the number of a general register, and its size in bytes.
func general(reg x86asm.Reg) (n, size int, ok bool) {
	switch {
	case reg >= x86asm.RAX && reg <= x86asm.R15:
		return int(reg - x86asm.RAX), 8, true
	case reg >= x86asm.EAX && reg <= x86asm.R15L:
		return int(reg - x86asm.EAX), 4, true
	}
	return 0, 0, false
}

// width is how many bytes the operands of an instruction have.
func width(in x86asm.Inst) (size int, err error) {
	for _, a := range in.Args[:2] {
		reg, ok := a.(x86asm.Reg)
		if !ok {
			continue
		}
		_, n, ok := general(reg)
		if !ok || size != 0 && n != size {
			return 0, errors.New("a register that is not known here")
		}
		size = n
	}
	switch {
	case size != 0:
		return size, nil
	case in.MemBytes == 1 || in.MemBytes == 4 || in.MemBytes == 8:
		return in.MemBytes, nil
	}
	return 0, errors.New("a width that is not known here")
}

// low keeps the lower bytes.
func low(v uint64, size int) uint64 { return v & (^uint64(0) >> (64 - 8*size)) }

func (f *follower) get(arg x86asm.Arg, size int, next uint64) (number, error) {
	switch a := arg.(type) {
	case x86asm.Reg:
		if i, _, ok := general(a); ok {
			return number{low(f.regs[i].v, size), f.regs[i].known}, nil
		}
	case x86asm.Imm:
		return number{low(uint64(int64(a)), size), true}, nil
	case x86asm.Mem:
		addr, err := f.address(a, next)
		if err != nil {
			return number{}, err
		}
		return f.load(addr, size)
	}
	return number{}, errUnknown
}

func (f *follower) put(arg x86asm.Arg, size int, v number, next uint64) error {
	switch a := arg.(type) {
	case x86asm.Reg:
		if i, _, ok := general(a); ok {
			f.regs[i] = number{low(v.v, size), v.known} // half a register takes the other half with it
			return nil
		}
	case x86asm.Mem:
		addr, err := f.address(a, next)
		if err != nil {
			return err
		}
		return f.store(addr, size, v)
	}
	return errUnknown
}

func (f *follower) address(m x86asm.Mem, next uint64) (uint64, error) {
	addr := uint64(m.Disp)
	for _, part := range []struct {
		reg   x86asm.Reg
		scale uint64
	}{{m.Base, 1}, {m.Index, uint64(m.Scale)}} {
		i, size, ok := general(part.reg)
		switch {
		case part.reg == 0:
		case part.reg == x86asm.RIP:
			addr += next
		case !ok || size != 8:
			return 0, errors.New("an address that is not known here")
		case !f.regs[i].known:
			return 0, errUnknown
		default:
			addr += f.regs[i].v * part.scale
		}
	}
	return addr, nil
}

// load reads memory, which no other has changed since the thread was stopped.
func (f *follower) load(addr uint64, size int) (number, error) {
	word, ok := f.words[addr&^7]
	if !ok {
		var b [8]byte
		if err := f.read(addr&^7, b[:]); err != nil {
			return number{}, err
		}
		word = binary.LittleEndian.Uint64(b[:])
	}
	at := addr & 7
	if at+uint64(size) > 8 {
		return number{}, errUnknown
	}
	return number{low(word>>(8*at), size), true}, nil
}

// store writes a whole word for itself; what is not known may not be written.
func (f *follower) store(addr uint64, size int, v number) error {
	if size != 8 || addr%8 != 0 || !v.known {
		return errUnknown
	}
	f.words[addr] = v.v
	return nil
}
