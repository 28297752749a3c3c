package inject

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
	"whosefd/tracer/procview"
	"whosefd/tracer/ptrace"
)

// wayBack is how a thread finds back to the call that it was interrupted in if
// we are gone before we could put its registers back: each call of ours is made
// where it returns to that by itself.
type wayBack struct {
	call    uint64 // the address of the instruction that makes the calls
	sp      uint64 // the stack pointer for them
	link    uint64 // the link register for them, where there is one
	restore func() error
}

// nameRoom is how much room is left above the frame for the names that calls are
// given, in bytes, so that no signal's frame is written over them.
const nameRoom = 512

// maxCode bounds how much of a library's code is looked through, in bytes.
const maxCode = 16 << 20

// area is code of the process that can be run.
type area struct {
	start uint64
	code  []byte
}

// address says where the machine code want stands in the areas.
func address(areas []area, want []byte) (uint64, bool) {
	for _, a := range areas {
		for from := 0; ; {
			i := bytes.Index(a.code[from:], want)
			if i < 0 {
				break
			}
			if at := a.start + uint64(from+i); at%codeAlign == 0 {
				return at, true
			}
			from += i + 1
		}
	}
	return 0, false
}

// prepare lays the way back; without one, t.back stays nil.
func (t *Thread) prepare() {
	ranges, err := t.m.Code(t.tid, t.instruction())
	if err != nil {
		return
	}
	var areas []area
	for _, r := range ranges {
		if r.End <= r.Start || r.End-r.Start > maxCode {
			continue
		}
		code := make([]byte, r.End-r.Start)
		if n, err := t.m.Read(t.tid, r.Start, code); err == nil {
			areas = append(areas, area{r.Start, code[:n]})
		}
	}
	at := (ptrace.SP(&t.saved) - ptrace.RedZone - nameRoom - frameRoom) &^ 63
	data, back, ok := t.frame(at, areas)
	if !ok {
		return
	}
	if back.restore, err = scratchAt(t.m, t.tid, at, data); err == nil {
		t.back = &back
	}
}

// unprepare puts the memory of the way back as it was.
func (t *Thread) unprepare() error {
	if t.back == nil {
		return nil
	}
	restore := t.back.restore
	t.back = nil
	return restore()
}

// Code implements [Machine].
func (l Linux) Code(tid event.TID, addr uint64) ([]Range, error) {
	maps, err := procview.New("/proc").Maps(event.PID(tid))
	if err != nil {
		return nil, err
	}
	var found, kernels []Range
	for _, m := range maps {
		if !strings.Contains(m.Perms, "r") || !strings.Contains(m.Perms, "x") {
			continue
		}
		switch r := (Range{m.Start, m.End}); {
		case m.Start <= addr && addr < m.End:
			found = append(found, r)
		case m.Path == "[vdso]":
			kernels = append(kernels, r)
		}
	}
	if found == nil {
		return nil, fmt.Errorf("no code of thread %d at %#x: %w", tid, addr, unix.EFAULT)
	}
	return append(found, kernels...), nil
}
