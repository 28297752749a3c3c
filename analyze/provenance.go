package analyze

import (
	"bytes"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// origin says where in an inferior's memory a debugger read a name before it
// used it.
type origin struct {
	pid  event.PID
	addr event.Hex
	ago  event.Micros // between the read of its last byte and the open
}

// memoryReads keeps what was lately read out of other processes' memory. gdb
// reads a name 8 bytes at a time, so reads that follow each other become one
// piece.
type memoryReads struct {
	pieces [32]piece
	next   int
	names  nameCache // of the files read
}

type piece struct {
	pid  event.PID
	addr uint64
	data []byte
	t    event.Micros
}

// maxPiece bounds a piece: no name is longer than PATH_MAX (linux/limits.h).
const maxPiece = 4096

func (m *memoryReads) add(ev *event.Syscall) {
	if ev.Target == nil {
		return
	}
	name := m.names.classify(ev.Target.Link)
	if name.Kind != decode.PIDPath || !strings.HasSuffix(name.Link, "mem") {
		return
	}
	addr, t := uint64(ev.Offset.Val), ev.T+event.Micros(ev.DurUS.Or(0))
	last := &m.pieces[(m.next+len(m.pieces)-1)%len(m.pieces)]
	if last.pid == name.PID && last.addr+uint64(len(last.data)) == addr && len(last.data)+len(ev.Data) <= maxPiece {
		last.data, last.t = append(last.data, ev.Data...), t
		return
	}
	p := &m.pieces[m.next]
	m.next = (m.next + 1) % len(m.pieces)
	p.pid, p.addr, p.t = name.PID, addr, t
	p.data = append(p.data[:0], ev.Data[:min(len(ev.Data), maxPiece)]...)
}

// find looks for the name of an open in what was read before, latest first.
func (m *memoryReads) find(ev *event.Syscall) *origin {
	text := append([]byte(ev.Path), 0)
	for i := range m.pieces {
		p := &m.pieces[(m.next+2*len(m.pieces)-1-i)%len(m.pieces)]
		at := bytes.Index(p.data, text)
		// The whole string must be it, not the end of a longer one.
		if at < 0 || at > 0 && p.data[at-1] != 0 {
			continue
		}
		return &origin{pid: p.pid, addr: event.Hex(p.addr + uint64(at)), ago: max(0, ev.T-p.t)}
	}
	return nil
}
