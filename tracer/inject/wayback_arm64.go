package inject

import "golang.org/x/sys/unix"

const frameRoom = 0

// frame is not made on arm64, where a call does not return by the stack.
func (t *Thread) frame(uint64, []byte, uint64) ([]byte, uint64, uint64, bool) {
	return nil, 0, 0, false
}

func setStack(regs *unix.PtraceRegs, sp uint64) { regs.Sp = sp }
