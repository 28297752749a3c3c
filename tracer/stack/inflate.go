package stack

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

// inflater unpacks a zlib stream (RFC 1950, RFC 1951) into memory, as far as is
// asked for, and goes on from there when more is wanted.
//
// Distributions pack debug info, and unpacking is most of the time that a
// backtrace takes. With all of input and output in memory this is twice as fast
// as compress/flate, which works on streams. The stream's checksum is not
// looked at: a damaged file costs only names.
type inflater struct {
	in   []byte
	pos  int
	hold uint64 // bits taken from in and not used yet, the next one lowest
	held uint   // how many
	n    int    // bytes of output

	begun  bool
	last   bool // the block is the last one
	block  blockKind
	stored int // bytes left in a stored block
	lit    huffman
	dist   huffman
}

type blockKind uint8

const (
	noBlock blockKind = iota // the next thing is a block's header
	storedBlock
	huffmanBlock
)

var (
	errPacked = errors.New("broken packed section")
	errCut    = errors.New("packed section is cut short")
)

func newInflater(in []byte) *inflater { return &inflater{in: in} }

// fill unpacks until n bytes are there, or somewhat more, into out, which must
// be the same at each call. It returns how many there are.
func (z *inflater) fill(out []byte, n int) (int, error) {
	if !z.begun {
		if len(z.in) < 2 || z.in[0]&15 != 8 || binary.BigEndian.Uint16(z.in)%31 != 0 || z.in[1]&0x20 != 0 {
			return 0, errPacked
		}
		z.pos, z.begun = 2, true
	}
	for z.n < n {
		var err error
		switch z.block {
		case noBlock:
			if z.last {
				return z.n, errCut
			}
			err = z.header()
		case storedBlock:
			k := copy(out[z.n:], z.in[z.pos:min(z.pos+z.stored, len(z.in))])
			if k == 0 && z.stored > 0 {
				return z.n, errCut
			}
			z.n, z.pos, z.stored = z.n+k, z.pos+k, z.stored-k
			if z.stored == 0 {
				z.block = noBlock
			}
		case huffmanBlock:
			err = z.codes(out, n)
		}
		if err != nil {
			return z.n, err
		}
	}
	return z.n, nil
}

// need makes at least k bits held, k ≤ 32.
func (z *inflater) need(k uint) error {
	for z.held < k {
		if z.pos >= len(z.in) {
			return errCut
		}
		z.hold |= uint64(z.in[z.pos]) << z.held
		z.pos++
		z.held += 8
	}
	return nil
}

func (z *inflater) take(k uint) uint {
	v := uint(z.hold & (1<<k - 1))
	z.hold >>= k
	z.held -= k
	return v
}

// header reads a block's header and tables.
func (z *inflater) header() error {
	if err := z.need(3); err != nil {
		return err
	}
	z.last = z.take(1) == 1
	switch z.take(2) {
	case 0:
		z.take(z.held & 7) // to the next byte
		if err := z.need(32); err != nil {
			return err
		}
		size, check := z.take(16), z.take(16)
		if size != ^check&0xffff {
			return errPacked
		}
		z.pos -= int(z.held / 8) // bytes that were taken too early
		z.hold, z.held = 0, 0
		z.block, z.stored = storedBlock, int(size)
		return nil
	case 1:
		var lens [288 + 30]uint8
		for i := range lens {
			switch {
			case i < 144:
				lens[i] = 8
			case i < 256:
				lens[i] = 9
			case i < 280:
				lens[i] = 7
			case i < 288:
				lens[i] = 8
			default:
				lens[i] = 5
			}
		}
		return z.tables(lens[:288], lens[288:])
	case 2:
		return z.dynamic()
	}
	return errPacked
}

// codeOrder is the order in which a dynamic block gives the lengths of the
// codes for lengths (RFC 1951, section 3.2.7).
var codeOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

func (z *inflater) dynamic() error {
	if err := z.need(14); err != nil {
		return err
	}
	nlit, ndist, ncode := int(z.take(5))+257, int(z.take(5))+1, int(z.take(4))+4
	if nlit > 286 || ndist > 30 {
		return errPacked
	}
	var order [19]uint8
	for _, i := range codeOrder[:ncode] {
		if err := z.need(3); err != nil {
			return err
		}
		order[i] = uint8(z.take(3))
	}
	if err := z.lit.build(order[:], 7, plainSymbol); err != nil {
		return err
	}
	var lens [286 + 30]uint8
	for i := 0; i < nlit+ndist; {
		// A code of 7 bits and 7 more; the end of the input may be nearer.
		if err := z.need(14); err != nil && z.held == 0 {
			return err
		}
		e := z.lit.table[z.hold&z.lit.mask]
		if e&opBad != 0 || e&0xff > uint32(z.held) {
			return errPacked
		}
		z.take(uint(e & 0xff))
		sym := uint8(e >> 16)
		if sym < 16 {
			lens[i] = sym
			i++
			continue
		}
		var prev uint8
		var extra uint
		least := 3
		switch sym {
		case 16:
			if i == 0 {
				return errPacked
			}
			prev, extra = lens[i-1], 2
		case 17:
			extra = 3
		case 18:
			extra, least = 7, 11
		}
		if z.held < extra {
			return errCut
		}
		for k := least + int(z.take(extra)); k > 0; k-- {
			if i >= nlit+ndist {
				return errPacked
			}
			lens[i] = prev
			i++
		}
	}
	return z.tables(lens[:nlit], lens[nlit:nlit+ndist])
}

func (z *inflater) tables(lit, dist []uint8) error {
	if err := z.lit.build(lit, litBits, litSymbol); err != nil {
		return err
	}
	if err := z.dist.build(dist, distBits, distSymbol); err != nil {
		return err
	}
	z.block = huffmanBlock
	return nil
}

// An entry of a code table: how many bits the code has, in bits 0–7; what it
// is, in bits 8–15; in bits 16–31 the literal, the base of a length or
// distance, or where the table for the rest of the code is.
const (
	opLiteral = 0x8000
	opEnd     = 0x4000
	opTable   = 0x2000 // of as many bits as extra says
	opBad     = 0x1000
	opExtra   = 0x0f00 // how many bits to add to the base
)

type huffman struct {
	table []uint32
	mask  uint64 // of the bits that the first look-up takes
}

func plainSymbol(s int) uint32 { return uint32(s) << 16 }

func litSymbol(s int) uint32 {
	switch {
	case s < 256:
		return opLiteral | uint32(s)<<16
	case s == 256:
		return opEnd
	case s < 265:
		return uint32(s-257+3) << 16
	case s < 285:
		extra := uint32(s-261) / 4
		return extra<<8 | (3+(4+uint32(s-265)%4)<<extra)<<16
	case s == 285:
		return 258 << 16
	}
	return opBad
}

func distSymbol(s int) uint32 {
	switch {
	case s < 4:
		return uint32(s+1) << 16
	case s < 30:
		extra := uint32(s)/2 - 1
		return extra<<8 | (1+(2+uint32(s)%2)<<extra)<<16
	}
	return opBad
}

const (
	maxCode = 15 // bits
	// How many bits the first look-up takes.
	litBits  = 11
	distBits = 9
)

// build makes the table of a canonical code (RFC 1951, section 3.2.2), given
// the length of each symbol's code. Codes longer than first bits need a second
// look-up. Codes that no symbol has are marked bad.
func (h *huffman) build(lens []uint8, first uint, symbol func(int) uint32) error {
	var count [maxCode + 1]int
	for _, n := range lens {
		count[n]++
	}
	count[0] = 0
	var next [maxCode + 2]uint32
	for n := 1; n <= maxCode; n++ {
		next[n+1] = (next[n] + uint32(count[n])) << 1
		if next[n]+uint32(count[n]) > 1<<n {
			return errPacked
		}
	}
	size := 1 << first
	if cap(h.table) < size {
		h.table = make([]uint32, size, 4*size)
	}
	h.table = h.table[:size]
	h.mask = uint64(size - 1)
	for i := range h.table {
		h.table[i] = opBad
	}
	// How many more bits the longest code has that begins so.
	var more [1 << litBits]uint8
	codes := next
	for _, n := range lens {
		if n == 0 {
			continue
		}
		if uint(n) > first {
			low := reversed(codes[n], n) & uint32(size-1)
			more[low] = max(more[low], n-uint8(first))
		}
		codes[n]++
	}
	codes = next
	for s, n := range lens {
		if n == 0 {
			continue
		}
		code := reversed(codes[n], n)
		codes[n]++
		e := symbol(s)
		if uint(n) <= first {
			e |= uint32(n)
			for i := code; i < uint32(size); i += 1 << n {
				h.table[i] = e
			}
			continue
		}
		low := code & uint32(size-1)
		k := more[low]
		at := h.table[low] >> 16
		if h.table[low]&opTable == 0 {
			at = uint32(len(h.table))
			for range 1 << k {
				h.table = append(h.table, opBad)
			}
			h.table[low] = opTable | uint32(k)<<8 | at<<16 | uint32(first)
		}
		e |= uint32(n) - uint32(first)
		for i := code >> first; i < 1<<k; i += 1 << (uint(n) - first) {
			h.table[at+i] = e
		}
	}
	return nil
}

// reversed turns a code around, since they are packed the other way.
func reversed(code uint32, n uint8) uint32 { return bits.Reverse32(code) >> (32 - n) }

// codes unpacks a block until its end or until n bytes are there.
func (z *inflater) codes(out []byte, n int) error {
	in, pos, hold, held, at := z.in, z.pos, z.hold, z.held, z.n
	lit, dist := z.lit.table, z.dist.table
	// With sizes that the compiler knows, indices need no checks.
	litFirst, distFirst := (*[1 << litBits]uint32)(lit), (*[1 << distBits]uint32)(dist)
	if n > len(out) {
		n = len(out)
	}
	var err error
	for at < n {
		// The longest step takes 48 bits: two codes of 15 and 5 and 13 more.
		if held < 48 {
			if len(in)-pos >= 8 {
				hold |= binary.LittleEndian.Uint64(in[pos:]) << held
				pos += int(63-held) >> 3
				held |= 56
			} else {
				for held < 56 && pos < len(in) {
					hold |= uint64(in[pos]) << held
					pos++
					held += 8
				}
			}
		}
		e := litFirst[hold&(1<<litBits-1)]
		if e&opTable != 0 {
			hold >>= e & 0xff
			held -= uint(e & 0xff)
			e = lit[uint64(e>>16)+hold&(1<<(e&opExtra>>8)-1)]
		}
		k := uint(e & 0xff)
		hold >>= k & 63
		held -= k
		if held > 64 {
			err = errCut // it has gone below zero
			break
		}
		if e&opLiteral != 0 {
			out[at] = byte(e >> 16)
			at++
			continue
		}
		if e&(opEnd|opBad) != 0 {
			if e&opBad != 0 {
				err = errPacked
			}
			z.block = noBlock // bytes that were taken too early stay held
			break
		}
		extra := uint(e & opExtra >> 8)
		length := int(e>>16) + int(hold&(1<<extra-1))
		hold >>= extra
		held -= extra

		d := distFirst[hold&(1<<distBits-1)]
		if d&opTable != 0 {
			hold >>= d & 0xff
			held -= uint(d & 0xff)
			d = dist[uint64(d>>16)+hold&(1<<(d&opExtra>>8)-1)]
		}
		if d&opBad != 0 {
			err = errPacked
			break
		}
		k = uint(d & 0xff)
		hold >>= k & 63
		extra = uint(d & opExtra >> 8)
		back := int(d>>16) + int(hold&(1<<extra-1))
		hold >>= extra
		held -= k + extra
		if held > 64 {
			err = errCut
			break
		}
		if back > at || length > len(out)-at {
			err = errPacked
			break
		}
		from := at - back
		switch {
		case back >= 8 && len(out)-at >= length+8:
			// Eight bytes at a time; what is too much is overwritten later.
			for end := at + length; ; {
				binary.LittleEndian.PutUint64(out[at:], binary.LittleEndian.Uint64(out[from:]))
				at, from = at+8, from+8
				if at >= end {
					at = end
					break
				}
			}
		default:
			for ; length > 0; length-- {
				out[at] = out[from]
				at, from = at+1, from+1
			}
		}
	}
	z.pos, z.hold, z.held, z.n = pos, hold, held, at
	return err
}
