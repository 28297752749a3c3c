package redact

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// memory is what a debugger has read of the memory of others, often 8 bytes at a
// time, so that a name stands in several pieces.
type memory struct {
	pieces  []piece
	size    int
	full    bool // too much: then no piece is given on
	settled bool
	// by is what replaces a byte at an address; where there was another one at another
	// time, that stays.
	by map[cell]byte
	// next is where the next read of a descriptor begins, that does not say where.
	next map[string]uint64
}

type piece struct {
	place string // whose memory
	at    uint64
	data  []byte
}

type cell struct {
	place string
	at    uint64
	was   byte
}

const (
	maxMemory = 64 << 20 // bytes of pieces that are kept
	// minRun is how long a run of printable bytes is a text: shorter ones are parts of
	// numbers and addresses, which have 6 bytes at most.
	minRun = 7
	maxRun = 4096
)

func newMemory() memory { return memory{by: map[cell]byte{}, next: map[string]uint64{}} }

// place says of whose memory a call has read, and where.
func (m *memory) place(call *event.Syscall) (place string, at uint64, ok bool) {
	row, known := decode.ByName(call.Name)
	switch {
	case !known:
		return "", 0, false
	case row.Class == decode.ClassMemory && call.OfPID != 0:
		place = fmt.Sprint(call.OfPID)
	case call.Target != nil && call.Target.Kind == event.Procfs && (row.Class == decode.ClassRead || row.Class == decode.ClassMemory):
		place = string(call.Target.Link)
	default:
		return "", 0, false
	}
	if call.Offset.Known {
		return place, uint64(call.Offset.Val), true
	}
	return place, m.next[place], true
}

// follow keeps track of where the next read begins that does not say where.
func (m *memory) follow(call *event.Syscall) {
	row, ok := decode.ByName(call.Name)
	if !ok || call.Target == nil || call.Errno != "" || !call.Ret.Known {
		return
	}
	place := string(call.Target.Link)
	switch {
	case row.Class == decode.ClassSeek:
		m.next[place] = uint64(call.Ret.Val)
	case row.Class == decode.ClassRead && !call.Offset.Known && call.Target.Kind == event.Procfs:
		m.next[place] += uint64(call.Ret.Val)
	}
}

func (m *memory) learn(call *event.Syscall) {
	defer m.follow(call)
	place, at, ok := m.place(call)
	if !ok || len(call.Data) == 0 {
		return
	}
	if m.size += len(call.Data) + 48; m.size > maxMemory {
		m.full, m.pieces = true, nil
		return
	}
	m.pieces = append(m.pieces, piece{place, at, bytes.Clone(call.Data)})
}

// image is the memory of one process as far as it was read.
type image map[uint64]byte

// run gives the printable text around an address.
func (im image) run(at uint64) (text []byte, from uint64) {
	from = at
	for n := 0; n < maxRun && printable(im, from-1); n++ {
		from--
	}
	for to := from; printable(im, to) && to-from < maxRun; to++ {
		text = append(text, im[to])
	}
	return text, from
}

func printable(im image, at uint64) bool {
	c, ok := im[at]
	return ok && c >= ' ' && c < 0x7f
}

// settle finds what is to be replaced, now that all is known.
func (m *memory) settle(r *Redactor) {
	m.settled = true
	last := m.images(nil)
	for _, p := range m.pieces {
		last[p.place].runs(p, func(text []byte, _ uint64) { r.homesIn(string(text)) })
	}
	m.images(func(im image, p piece) { // as it was when each was read
		im.runs(p, func(text []byte, from uint64) { m.replace(p.place, from, text, []byte(r.words(string(text)))) })
	})
	for _, p := range m.pieces {
		last[p.place].runs(p, func(text []byte, from uint64) { m.replace(p.place, from, text, r.payload(text)) })
	}
	m.pieces = nil
	clear(m.next)
}

// images puts the pieces together, and visits each with what was read until then.
func (m *memory) images(each func(image, piece)) map[string]image {
	all := map[string]image{}
	for _, p := range m.pieces {
		im := all[p.place]
		if im == nil {
			im = image{}
			all[p.place] = im
		}
		for i, c := range p.data {
			im[p.at+uint64(i)] = c
		}
		if each != nil {
			each(im, p)
		}
	}
	return all
}

// runs visits the printable texts that a piece has a part of.
func (im image) runs(p piece, visit func(text []byte, from uint64)) {
	for at := p.at; at < p.at+uint64(len(p.data)); {
		if !printable(im, at) {
			at++
			continue
		}
		text, from := im.run(at)
		visit(text, from)
		at = max(at, from) + 1
		for at < from+uint64(len(text)) {
			at++
		}
	}
}

func (m *memory) replace(place string, from uint64, was, by []byte) {
	for i := range was {
		if was[i] != by[i] {
			c := cell{place, from + uint64(i), was[i]}
			if _, done := m.by[c]; !done {
				m.by[c] = by[i]
			}
		}
	}
}

// payload gives what a text in memory becomes that is no name of a file: x's, and so
// for the value of a variable of the environment, or of an option.
func (r *Redactor) payload(text []byte) []byte {
	s := string(text)
	hidden := func(from int) []byte {
		return append(slices.Clone(text[:from]), bytes.Repeat([]byte("x"), len(text)-from)...)
	}
	switch eq := assigned.FindStringSubmatchIndex(s); {
	case len(text) < minRun, r.names[s]:
		return text
	case eq != nil:
		return hidden(eq[3])
	case !strings.Contains(s, "/"):
		return hidden(0)
	}
	return text
}

// redact changes a piece.
func (m *memory) redact(place string, at uint64, data []byte) {
	for i, c := range data {
		if by, ok := m.by[cell{place, at + uint64(i), c}]; ok {
			data[i] = by
		}
	}
}
