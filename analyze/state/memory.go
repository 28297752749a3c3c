package state

import (
	"bytes"
	"encoding/binary"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Origin says where in an inferior's memory a debugger read a name before it
// used it.
type Origin struct {
	PID  event.PID
	Addr event.Hex
	Ago  event.Micros // between the read of its last byte and the open
	// Entry is the address of a struct link_map that was read too and points to
	// the name, Loaded its l_addr; 0 where none was seen.
	Entry, Loaded event.Hex
	// Known of Size bytes of the name are in the evidence and are right; the
	// others are not in it (a strace log with a small -s).
	Known, Size int
}

// memoryReads keeps what was lately read out of other processes' memory. gdb
// reads a name 8 bytes at a time, so reads that follow each other become one
// piece.
type memoryReads struct {
	pieces [32]piece
	next   int
	// seek is where the last lseek(2) in a process's memory has led to, for
	// the reads that follow.
	seek struct {
		pid  event.PID
		fd   event.FD
		addr event.Opt[uint64]
	}
}

type piece struct {
	pid  event.PID
	addr uint64
	data []byte
	// gaps are the parts of data that were read, but are not in the evidence.
	gaps []gap
	t    event.Micros
}

// gap is a range of data, its end not included.
type gap struct{ from, to int }

// maxPiece bounds a piece: no name is longer than PATH_MAX (linux/limits.h).
const maxPiece = 4096

// add takes a call that brings data, or one that says where the next will be
// from.
func (m *memoryReads) add(ev *event.Syscall) {
	seeks := ev.Name == "lseek" && ev.Errno == "" && ev.Ret.Known
	if len(ev.Data) == 0 && !seeks {
		return // most calls
	}
	pid, ok := m.readsOf(ev)
	if !ok {
		return
	}
	addr := uint64(ev.Offset.Val)
	switch here := ev.PID == m.seek.pid && ev.FD.Is(m.seek.fd); {
	case seeks:
		m.seek.pid, m.seek.fd, m.seek.addr = ev.PID, ev.FD.Val, event.Some(uint64(ev.Ret.Val))
		return
	case ev.Offset.Known:
	case !here || !m.seek.addr.Known:
		return // nobody knows from where
	default:
		addr = m.seek.addr.Val
		m.seek.addr.Val += uint64(ev.Ret.Val)
	}
	t := ev.T + event.Micros(ev.DurUS.Or(0))
	size := len(ev.Data)
	if ev.Ret.Val > int64(size) && ev.Ret.Val <= maxPiece && ev.Name != "ptrace" {
		size = int(ev.Ret.Val)
	}
	p := &m.pieces[(m.next+len(m.pieces)-1)%len(m.pieces)]
	if p.pid != pid || p.addr+uint64(len(p.data)) != addr || len(p.data)+size > maxPiece {
		p = &m.pieces[m.next]
		m.next = (m.next + 1) % len(m.pieces)
		p.pid, p.addr, p.data, p.gaps = pid, addr, p.data[:0], p.gaps[:0]
	}
	p.t = t
	p.data = append(p.data, ev.Data[:min(len(ev.Data), maxPiece)]...)
	if missing := size - len(ev.Data); missing > 0 {
		p.gaps = append(p.gaps, gap{len(p.data), len(p.data) + missing})
		p.data = append(p.data, make([]byte, missing)...)
	}
}

// readsOf says which process's memory a call reads: the one that it names
// (process_vm_readv(2), ptrace(2)), or the one whose /proc/PID/mem it is about.
func (m *memoryReads) readsOf(ev *event.Syscall) (event.PID, bool) {
	if ev.OfPID != 0 {
		return ev.OfPID, true
	}
	if ev.Target == nil {
		return 0, false
	}
	name := decode.ClassifyName(string(ev.Target.Link))
	return name.PID, name.Kind == decode.PIDPath && strings.HasSuffix(name.Link, "mem")
}

// find looks for the name of an open in what was read before, latest first.
func (m *memoryReads) find(ev *event.Syscall) *Origin {
	if len(m.pieces[(m.next+len(m.pieces)-1)%len(m.pieces)].data) == 0 {
		return nil // it has read none
	}
	text := append([]byte(ev.Path), 0)
	for i := range m.pieces {
		p := &m.pieces[(m.next+2*len(m.pieces)-1-i)%len(m.pieces)]
		at, known := p.find(text)
		if at < 0 {
			continue
		}
		o := &Origin{PID: p.pid, Addr: event.Hex(p.addr + uint64(at)), Ago: max(0, ev.T-p.t), Known: known, Size: len(text)}
		m.entry(o)
		return o
	}
	return nil
}

// find gives where a text is, and how many of its bytes are in the evidence; -1
// where it is not.
func (p *piece) find(text []byte) (at, known int) {
	if len(p.gaps) == 0 {
		at := bytes.Index(p.data, text)
		// The whole string must be it, not the end of a longer one.
		if at < 0 || at > 0 && p.data[at-1] != 0 {
			return -1, 0
		}
		return at, len(text)
	}
	for at := 0; at+len(text) <= len(p.data); at++ {
		if beyond := p.beyond(at, len(text)); beyond > at {
			at = beyond - 1
			continue
		}
		// Half of it must be there: fewer bytes could be anything.
		if known := p.matches(at, text); 2*known >= len(text) && (at == 0 || p.data[at-1] == 0) {
			return at, known
		}
	}
	return -1, 0
}

// beyond is the next place at which a text of this size would not lie wholly in
// a gap.
func (p *piece) beyond(at, size int) int {
	for _, g := range p.gaps {
		if at >= g.from && at+size <= g.to {
			return g.to - size + 1
		}
	}
	return at
}

// matches counts the bytes of a text that are at a place, outside of the gaps;
// 0 where another one is.
func (p *piece) matches(at int, text []byte) int {
	known := 0
	for i, ch := range text {
		switch {
		case p.missing(at + i):
		case p.data[at+i] == ch:
			known++
		default:
			return 0
		}
	}
	return known
}

func (p *piece) missing(i int) bool {
	if p.data[i] != 0 {
		return false
	}
	for _, g := range p.gaps {
		if i >= g.from && i < g.to {
			return true
		}
	}
	return false
}

// entry looks for the struct link_map (link.h) that points to the name: l_addr,
// l_name, …, as 64-bit little-endian addresses.
func (m *memoryReads) entry(o *Origin) {
	for i := range m.pieces {
		p := &m.pieces[(m.next+2*len(m.pieces)-1-i)%len(m.pieces)]
		if p.pid != o.PID {
			continue
		}
		for at := 8; at+8 <= len(p.data); at += 8 {
			if binary.LittleEndian.Uint64(p.data[at:]) == uint64(o.Addr) {
				o.Entry = event.Hex(p.addr + uint64(at) - 8)
				o.Loaded = event.Hex(binary.LittleEndian.Uint64(p.data[at-8:]))
				return
			}
		}
	}
}

// OriginOf says where the name of an open was read; nil where that was not seen. A
// debugger in another pid namespace than ours gives its own numbers: then the
// list entry whose name lies at that address tells which inferior it is, and if
// none does, the PID is 0.
func (s *State) OriginOf(o *Open) *Origin {
	if o.Origin == nil || s.Inferiors[o.Origin.PID] != nil || len(s.Inferiors) == 0 {
		return o.Origin
	}
	settled := *o.Origin
	settled.PID = 0
	for _, lm := range s.byName[o.Name] {
		if lm.NameAddr == settled.Addr {
			settled.PID = lm.Owner()
		}
	}
	return &settled
}
