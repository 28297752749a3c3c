package inject

import (
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
	restore func() error
}

// nameRoom is how much room is left above the frame for the names that calls are
// given, in bytes, so that no signal's frame is written over them.
const nameRoom = 512

// maxCode bounds how much of a library's code is looked through, in bytes.
const maxCode = 16 << 20

// prepare lays the way back; without one, t.back stays nil.
func (t *Thread) prepare() {
	start, end, err := t.m.Code(t.tid, t.instruction())
	if err != nil || end <= start || end-start > maxCode || frameRoom == 0 {
		return
	}
	code := make([]byte, end-start)
	n, err := t.m.Read(t.tid, start, code)
	if err != nil {
		return
	}
	at := (ptrace.SP(&t.saved) - ptrace.RedZone - nameRoom - frameRoom) &^ 63
	data, call, sp, ok := t.frame(at, code[:n], start)
	if !ok {
		return
	}
	if restore, err := scratchAt(t.m, t.tid, at, data); err == nil {
		t.back = &wayBack{call: call, sp: sp, restore: restore}
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
func (l Linux) Code(tid event.TID, addr uint64) (start, end uint64, err error) {
	maps, err := procview.New("/proc").Maps(event.PID(tid))
	if err != nil {
		return 0, 0, err
	}
	for _, m := range maps {
		if m.Start <= addr && addr < m.End && strings.Contains(m.Perms, "r") && strings.Contains(m.Perms, "x") {
			return m.Start, m.End, nil
		}
	}
	return 0, 0, fmt.Errorf("no code of thread %d at %#x: %w", tid, addr, unix.EFAULT)
}
