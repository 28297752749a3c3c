package stack

import (
	"errors"
	"fmt"

	"github.com/go-delve/delve/pkg/dwarf/frame"
)

// row says how the registers of a caller are found: a row of the table that
// call frame instructions describe (DWARF 5, section 6.4.1).
type row struct {
	cfa  frame.DWRule
	regs [registers]frame.DWRule
	has  [registers]bool // which have a rule
}

func (r *row) set(reg uint64, rule frame.Rule, offset int64) {
	if reg < registers { // else a vector register or the like
		r.regs[reg], r.has[reg] = frame.DWRule{Rule: rule, Offset: offset}, true
	}
}

const (
	// negateRAState toggles whether the return address is signed
	// (DW_CFA_AARCH64_negate_ra_state); signed ones are told by their upper bits
	// instead. The same number is the obsolete DW_CFA_GNU_window_save of SPARC.
	negateRAState = 0x2d
	// maxRemembered bounds the rows that are remembered; compilers make one or two.
	maxRemembered = 64
)

var errProgram = errors.New("call frame instructions: out of range")

// rowAt runs the instructions of an entry up to an address. Delve's interpreter
// panics at the end of a cut program, makes a register undefined where "restore"
// finds no rule for it in the CIE, and does not scale value offsets.
func rowAt(fde *frame.FrameDescriptionEntry, pc uint64) (row, error) {
	in := interpreter{cie: fde.CIE, loc: fde.Begin(), pc: pc}
	if err := in.run(fde.CIE.InitialInstructions); err != nil {
		return row{}, err
	}
	in.initial = in.row
	err := in.run(fde.Instructions)
	return in.row, err
}

// interpreter runs call frame instructions (DWARF 5, section 6.4.2).
type interpreter struct {
	cie          *frame.CommonInformationEntry
	loc, pc      uint64
	row, initial row
	remembered   []row
}

// run ends when the row is that of in.pc.
func (in *interpreter) run(program []byte) error {
	r := reader{b: program}
	factored := func() int64 { return int64(r.uleb()) * in.cie.DataAlignmentFactor }
	signed := func() int64 { return r.sleb() * in.cie.DataAlignmentFactor }
	restore := func(reg uint64) {
		if reg < registers {
			in.row.regs[reg], in.row.has[reg] = in.initial.regs[reg], in.initial.has[reg]
		}
	}
	expression := func(reg uint64, rule frame.Rule) {
		text := r.take(r.uleb())
		if in.row.set(reg, rule, 0); reg < registers {
			in.row.regs[reg].Expression = text
		}
	}
	for r.at < uint64(len(program)) {
		op := r.u8()
		low, advance := uint64(op&0x3f), uint64(0)
		switch op & 0xc0 {
		case frame.DW_CFA_advance_loc:
			op, advance = frame.DW_CFA_nop, low
		case frame.DW_CFA_offset:
			in.row.set(low, frame.RuleOffset, factored())
			continue
		case frame.DW_CFA_restore:
			restore(low)
			continue
		}
		switch op {
		case frame.DW_CFA_nop, negateRAState:
		case frame.DW_CFA_advance_loc1:
			advance = uint64(r.u8())
		case frame.DW_CFA_advance_loc2:
			advance = uint64(r.u16())
		case frame.DW_CFA_advance_loc4:
			advance = uint64(r.u32())
		case frame.DW_CFA_offset_extended:
			in.row.set(r.uleb(), frame.RuleOffset, factored())
		case frame.DW_CFA_offset_extended_sf:
			in.row.set(r.uleb(), frame.RuleOffset, signed())
		case frame.DW_CFA_val_offset:
			in.row.set(r.uleb(), frame.RuleValOffset, factored())
		case frame.DW_CFA_val_offset_sf:
			in.row.set(r.uleb(), frame.RuleValOffset, signed())
		case frame.DW_CFA_restore_extended:
			restore(r.uleb())
		case frame.DW_CFA_undefined:
			in.row.set(r.uleb(), frame.RuleUndefined, 0)
		case frame.DW_CFA_same_value:
			in.row.set(r.uleb(), frame.RuleSameVal, 0)
		case frame.DW_CFA_register:
			reg, from := r.uleb(), r.uleb()
			if in.row.set(reg, frame.RuleRegister, 0); reg < registers {
				in.row.regs[reg].Reg = from
			}
		case frame.DW_CFA_expression:
			expression(r.uleb(), frame.RuleExpression)
		case frame.DW_CFA_val_expression:
			expression(r.uleb(), frame.RuleValExpression)
		case frame.DW_CFA_remember_state:
			if len(in.remembered) == maxRemembered {
				return errProgram
			}
			in.remembered = append(in.remembered, in.row)
		case frame.DW_CFA_restore_state:
			last := len(in.remembered) - 1
			if last < 0 {
				return errProgram
			}
			in.row, in.remembered = in.remembered[last], in.remembered[:last]
		case frame.DW_CFA_def_cfa:
			in.row.cfa = frame.DWRule{Rule: frame.RuleCFA, Reg: r.uleb(), Offset: int64(r.uleb())}
		case frame.DW_CFA_def_cfa_sf:
			in.row.cfa = frame.DWRule{Rule: frame.RuleCFA, Reg: r.uleb(), Offset: signed()}
		case frame.DW_CFA_def_cfa_register:
			in.row.cfa.Reg = r.uleb()
		case frame.DW_CFA_def_cfa_offset:
			in.row.cfa.Offset = int64(r.uleb())
		case frame.DW_CFA_def_cfa_offset_sf:
			in.row.cfa.Offset = signed()
		case frame.DW_CFA_def_cfa_expression:
			in.row.cfa = frame.DWRule{Rule: frame.RuleExpression, Expression: r.take(r.uleb())}
		case frame.DW_CFA_GNU_args_size:
			r.uleb()
		default: // set_loc among them, whose operand is encoded as the CIE says; compilers do not make it
			return fmt.Errorf("call frame instruction %#x: unknown", op)
		}
		if r.failed {
			return errProgram
		}
		if in.loc += advance * in.cie.CodeAlignmentFactor; in.loc > in.pc {
			return nil
		}
	}
	return nil
}
