package stack

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/go-delve/delve/pkg/dwarf/frame"
	"github.com/go-delve/delve/pkg/dwarf/leb128"
)

// negateRAState toggles whether the return address is signed
// (DW_CFA_AARCH64_negate_ra_state); the same number as the obsolete
// DW_CFA_GNU_window_save of SPARC.
const negateRAState = 0x2d

// instruction is one call frame instruction (DWARF 5, section 6.4.2).
type instruction struct {
	op   byte   // with the operand in the low bits removed
	reg  uint64 // of the instructions that have one
	text []byte // whole
}

var errProgram = errors.New("call frame instructions: out of range")

// next splits the first instruction off.
func next(b []byte) (in instruction, rest []byte, err error) {
	op := b[0]
	at := 1
	uleb := func() (v uint64) {
		for shift := uint(0); at < len(b); shift += 7 {
			c := b[at]
			at++
			if shift < 64 {
				v |= uint64(c&0x7f) << shift
			}
			if c&0x80 == 0 {
				return v
			}
		}
		err = errProgram
		return 0
	}
	skip := func(n uint64) {
		if n > uint64(len(b)-at) {
			err = errProgram
			return
		}
		at += int(n)
	}
	in.op = op
	if high := op & 0xc0; high != 0 {
		in.op = high
		in.reg = uint64(op & 0x3f)
		if high == frame.DW_CFA_offset {
			uleb()
		}
	} else {
		switch op {
		case frame.DW_CFA_nop, frame.DW_CFA_remember_state, frame.DW_CFA_restore_state, negateRAState:
		case frame.DW_CFA_set_loc:
			skip(8)
		case frame.DW_CFA_advance_loc1:
			skip(1)
		case frame.DW_CFA_advance_loc2:
			skip(2)
		case frame.DW_CFA_advance_loc4:
			skip(4)
		case frame.DW_CFA_restore_extended, frame.DW_CFA_undefined, frame.DW_CFA_same_value:
			in.reg = uleb()
		case frame.DW_CFA_def_cfa_register, frame.DW_CFA_def_cfa_offset, frame.DW_CFA_def_cfa_offset_sf,
			frame.DW_CFA_GNU_args_size:
			uleb()
		case frame.DW_CFA_offset_extended, frame.DW_CFA_register, frame.DW_CFA_offset_extended_sf,
			frame.DW_CFA_val_offset, frame.DW_CFA_val_offset_sf:
			in.reg = uleb()
			uleb()
		case frame.DW_CFA_def_cfa, frame.DW_CFA_def_cfa_sf:
			uleb()
			uleb()
		case frame.DW_CFA_def_cfa_expression:
			skip(uleb())
		case frame.DW_CFA_expression, frame.DW_CFA_val_expression:
			in.reg = uleb()
			skip(uleb())
		default:
			return in, nil, fmt.Errorf("call frame instruction %#x: unknown", op)
		}
	}
	in.text = b[:at]
	return in, b[at:], err
}

// maxRegister bounds register numbers; those above are of no use for unwinding.
const maxRegister = 1 << 16

// normalise checks a program, since delve's interpreter panics at the end of a
// cut one, and rewrites what that gets wrong: "restore" of a register that the
// CIE has no rule for makes it undefined there, a value offset is not scaled,
// and negate_ra_state is unknown.
func normalise(cie *frame.CommonInformationEntry, program []byte) ([]byte, error) {
	initial := map[uint64][]byte{}
	for b := cie.InitialInstructions; len(b) > 0; {
		in, rest, err := next(b)
		if err != nil {
			return nil, err
		}
		switch in.op {
		case frame.DW_CFA_set_loc, negateRAState, frame.DW_CFA_remember_state, frame.DW_CFA_restore_state:
			return nil, fmt.Errorf("call frame instruction %#x in a common entry", in.op)
		case frame.DW_CFA_offset, frame.DW_CFA_offset_extended, frame.DW_CFA_offset_extended_sf, frame.DW_CFA_undefined,
			frame.DW_CFA_same_value, frame.DW_CFA_register, frame.DW_CFA_expression, frame.DW_CFA_val_expression,
			frame.DW_CFA_val_offset_sf:
			initial[in.reg] = in.text
		}
		b = rest
	}
	out := make([]byte, 0, len(program)+16)
	depth := 0
	for b := program; len(b) > 0; {
		in, rest, err := next(b)
		if err != nil {
			return nil, err
		}
		if in.reg > maxRegister {
			return nil, errProgram
		}
		switch in.op {
		case frame.DW_CFA_set_loc:
			// Its operand is encoded as the CIE says; compilers do not make it.
			return nil, errors.New("call frame instruction set_loc is not supported")
		case frame.DW_CFA_remember_state:
			depth++
			out = append(out, in.text...)
		case frame.DW_CFA_restore_state:
			if depth--; depth < 0 {
				return nil, errProgram
			}
			out = append(out, in.text...)
		case frame.DW_CFA_restore, frame.DW_CFA_restore_extended:
			if text, ok := initial[in.reg]; ok {
				out = append(out, text...)
				break
			}
			out = leb(append(out, frame.DW_CFA_same_value), in.reg)
		case frame.DW_CFA_val_offset:
			operands := bytes.NewBuffer(in.text[1:])
			leb128.DecodeUnsigned(operands)
			factored, _ := leb128.DecodeUnsigned(operands)
			out = leb(append(out, frame.DW_CFA_val_offset_sf), in.reg)
			var b bytes.Buffer
			leb128.EncodeSigned(&b, int64(factored))
			out = append(out, b.Bytes()...)
		case negateRAState:
			// Signed return addresses are told by their upper bits instead.
		default:
			out = append(out, in.text...)
		}
		b = rest
	}
	return out, nil
}

// leb appends an unsigned LEB128 number.
func leb(b []byte, v uint64) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}
