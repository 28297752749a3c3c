package stack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/go-delve/delve/pkg/dwarf/frame"
	"github.com/go-delve/delve/pkg/dwarf/op"

	"whosefd/tracer/memory"
)

// callFrame is one frame of the machine's stack; inlined ones are none.
type callFrame struct {
	pc     uint64
	lookup uint64 // an address inside the call: pc-1 for a caller
	sp     uint64 // where its part of the stack begins
	end    uint64 // where it ends (the canonical frame address); 0 not known
	module *module
	signal bool
}

// registerSet are registers of one frame, by DWARF number.
type registerSet struct {
	val   [registers]uint64
	known [registers]bool
}

// unwind walks from the innermost frame outwards. With an error the frames up
// to there are right.
func (p *process) unwind(start Regs, limit int) (frames []callFrame, err error) {
	regs := registerSet{val: start.DWARF}
	for i := range regs.known {
		regs.known[i] = true
	}
	regs.val[regSP] = start.SP
	pc, exact := start.PC, true
	for len(frames) < limit {
		f := callFrame{pc: pc, lookup: pc, sp: regs.val[regSP]}
		if !exact {
			f.lookup--
		}
		f.module = p.moduleAt(f.lookup)
		r, ruleErr := p.rule(f)
		f.signal = r.signal
		var up step
		if bare, ok := p.sigreturn(f, ruleErr, regs); ok {
			up, f.signal = bare, true
		} else {
			up, err = p.caller(f, r, ruleErr, regs)
		}
		if err == nil && !up.end {
			f.end = up.regs.val[regSP]
		}
		frames = append(frames, f)
		if err != nil || up.end {
			return frames, err
		}
		// Only a signal's frame may be on another stack; the innermost one, and one
		// that a signal has interrupted, need not have used the stack.
		grows := f.end > f.sp || exact && f.end == f.sp && up.pc != pc
		if !f.signal && !grows {
			return frames, fmt.Errorf("frame at %#x: its caller's stack would be at %#x, not above %#x", pc, f.end, f.sp)
		}
		regs, pc, exact = up.regs, up.pc, f.signal
	}
	return frames, fmt.Errorf("cut after %d frames", limit)
}

// rule finds the unwind information of a frame.
func (p *process) rule(f callFrame) (rule, error) {
	if f.module == nil {
		return rule{}, errNoRule
	}
	return p.ruleAt(f.module, f.lookup)
}

// step is the frame that called another.
type step struct {
	regs registerSet
	pc   uint64
	end  bool // there is none
}

// caller finds the frame that called f.
func (p *process) caller(f callFrame, r rule, ruleErr error, regs registerSet) (step, error) {
	if ruleErr != nil {
		up, err := p.guess(f, regs)
		if err != nil {
			return step{}, fmt.Errorf("frame at %#x: %w", f.pc, ruleErr)
		}
		return up, nil
	}
	up, err := p.apply(r, f.lookup, regs)
	if err != nil {
		return step{}, fmt.Errorf("frame at %#x: %w", f.pc, err)
	}
	if up.end || up.pc == 0 {
		return step{end: true}, nil
	}
	if !p.executable(up.pc) {
		const mask = 1<<codeBits - 1
		if masked := up.pc & mask; masked != up.pc && p.executable(masked) {
			up.pc = masked
		} else {
			return step{}, fmt.Errorf("frame at %#x: return address %#x is not code", f.pc, up.pc)
		}
	}
	return up, nil
}

// apply runs the unwind information for an address.
func (p *process) apply(r rule, pc uint64, regs registerSet) (up step, err error) {
	defer recovered(&err)
	w, err := rowAt(r.fde, pc)
	if err != nil {
		return step{}, err
	}
	returnReg := r.fde.CIE.ReturnAddressRegister
	var cfa uint64
	switch w.cfa.Rule {
	case frame.RuleCFA:
		v, ok := regs.get(w.cfa.Reg)
		if !ok {
			return step{}, fmt.Errorf("register %d is not known", w.cfa.Reg)
		}
		cfa = v + uint64(w.cfa.Offset)
	case frame.RuleExpression:
		if cfa, err = p.expression(w.cfa.Expression, regs, nil); err != nil {
			return step{}, err
		}
	default:
		return step{}, errors.New("no canonical frame address")
	}

	up.regs = regs
	up.regs.set(regSP, cfa)
	var ra uint64
	raKnown := false
	if returnReg < registers {
		// Without a rule the return address is still in its register (arm64).
		ra, raKnown = regs.get(returnReg)
	}
	for i, rl := range w.regs {
		if !w.has[i] {
			continue
		}
		reg := uint64(i)
		v, known, err := p.restored(rl, reg, cfa, regs)
		if err != nil {
			if reg != returnReg {
				up.regs.known[reg] = false
				continue
			}
			return step{}, fmt.Errorf("return address: %w", err)
		}
		up.regs.val[reg], up.regs.known[reg] = v, known
		if reg == returnReg {
			ra, raKnown = v, known
		}
	}
	if !raKnown {
		return step{end: true}, nil // so do _start and clone mark the outermost frame
	}
	up.pc = ra
	if !r.signal && returnReg < registers {
		// The call has overwritten it: a caller that has not saved its own return
		// address cannot be unwound.
		up.regs.known[returnReg] = false
	}
	return up, nil
}

func (r *registerSet) get(n uint64) (uint64, bool) {
	if n >= registers {
		return 0, false
	}
	return r.val[n], r.known[n]
}

func (r *registerSet) set(n, v uint64) { r.val[n], r.known[n] = v, true }

// restored computes a register of the caller (DWARF 5, section 6.4.1).
func (p *process) restored(r frame.DWRule, reg, cfa uint64, regs registerSet) (v uint64, known bool, err error) {
	switch r.Rule {
	case frame.RuleUndefined:
		return 0, false, nil
	case frame.RuleSameVal:
		v, known = regs.get(reg)
		return v, known, nil
	case frame.RuleOffset:
		v, err = memory.Word(p.mem, cfa+uint64(r.Offset))
	case frame.RuleValOffset:
		v = cfa + uint64(r.Offset)
	case frame.RuleRegister:
		v, known = regs.get(r.Reg)
		return v, known, nil
	case frame.RuleExpression:
		if v, err = p.expression(r.Expression, regs, &cfa); err == nil {
			v, err = memory.Word(p.mem, v)
		}
	case frame.RuleValExpression:
		v, err = p.expression(r.Expression, regs, &cfa)
	default:
		err = fmt.Errorf("rule %d of register %d", r.Rule, reg)
	}
	return v, err == nil, err
}

// expression evaluates a DWARF expression; that of a register starts with the
// canonical frame address on the stack.
func (p *process) expression(program []byte, regs registerSet, cfa *uint64) (uint64, error) {
	// Delve makes room for whatever length this one gives. It names no address,
	// and so is of no use here. Looked for in operands too, since an expression
	// can jump there; those of unwind information are multiples of 8.
	if bytes.IndexByte(program, byte(op.DW_OP_implicit_value)) >= 0 {
		return 0, errors.New("expression: an implicit value is no address")
	}
	if cfa != nil {
		const addr = byte(op.DW_OP_addr)
		program = append(binary.LittleEndian.AppendUint64([]byte{addr}, *cfa), program...)
	}
	list := make([]*op.DwarfRegister, registers)
	for i := range list {
		if regs.known[i] {
			list[i] = op.DwarfRegisterFromUint64(regs.val[i])
		}
	}
	set := op.NewDwarfRegisters(0, list, binary.LittleEndian, regPC, regSP, regFP, regRA)
	v, pieces, err := op.ExecuteStackProgram(*set, program, 8, func(b []byte, addr uint64) (int, error) {
		return p.mem.ReadMemory(b, addr)
	})
	if err == nil && pieces != nil {
		err = errors.New("not a value")
	}
	if err != nil {
		return 0, fmt.Errorf("expression: %w", err)
	}
	return uint64(v), nil
}

// errLost says that guessing found no caller.
var errLost = errors.New("no frame pointer")

// guess finds the caller of a frame without unwind information: by the return
// address, if the frame is not in code (a call through a bad pointer has just
// been made), else by the frame pointer, if it leads up the stack to code.
func (p *process) guess(f callFrame, regs registerSet) (step, error) {
	up := step{regs: regs}
	if !p.executable(f.pc) {
		return p.guessCall(up, regs)
	}
	fp, ok := regs.get(regFP)
	if !ok || fp < f.sp || fp%8 != 0 || fp-f.sp > 1<<20 {
		return step{}, errLost
	}
	saved, err := memory.Word(p.mem, fp)
	if err != nil {
		return step{}, err
	}
	ra, err := memory.Word(p.mem, fp+8)
	if err != nil {
		return step{}, err
	}
	if !p.executable(ra) {
		return step{}, errLost
	}
	up.regs.set(regFP, saved)
	up.regs.set(regSP, fp+16)
	up.pc = ra
	return up, nil
}
