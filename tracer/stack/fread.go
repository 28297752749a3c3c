package stack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// Read is a read(2) that a thread waits in: its three arguments.
type Read struct {
	FD        event.FD
	Buf, Size uint64
}

// Taken is what an fread(3) has got from its descriptor before the read(2) that
// it waits in.
type Taken struct {
	Addr  uint64 // where the first byte of what it reads goes
	Bytes uint64 // how many are there already
	Of    uint64 // how many it wants in all
}

// ErrNoFread says that a read is not, or is not proved to be, one that glibc's
// fread makes to fill the buffer of its stream.
var ErrNoFread = errors.New("not a read of glibc's fread")

// ErrNotFollowed says that it is one, but that its code is not understood, so
// that it is not known what it has got before.
var ErrNotFollowed = errors.New("a read of fread, whose code is not understood")

// maxFread bounds how much an fread wants. Nobody reads more with a buffer.
const maxFread = 1 << 20

// Fread tells what the fread that a stopped thread waits in has taken already.
//
// glibc fills a stream's buffer in _IO_new_file_underflow, for _IO_file_xsgetn,
// which copies from there to the caller's memory until it has what fread wants,
// in as many rounds as that takes (libio/fileops.c). Neither function has a
// symbol, so both are known by the stream's own table of functions. Where the
// second keeps its place is not part of any interface: what it would do next is
// followed in its code, with a full buffer, up to its return. Nothing runs.
func Fread(v *procview.View, s Snapshot, r Read) (Taken, error) {
	p, err := newProcess(v, s)
	if err != nil {
		return Taken{}, err
	}
	p.mappedOnly = true
	defer p.close()
	return p.fread(s.Regs, r)
}

// freadDepth bounds how many frames there are up to the one that is looked for:
// five with glibc 2.42.
const freadDepth = 12

func (p *process) fread(start Regs, r Read) (Taken, error) {
	var first *module
	var begins []uint64 // of the functions further in
	var taken Taken
	err := ErrNoFread
	_ = p.walk(start, freadDepth, func(f callFrame, rl rule, regs *registerSet) bool {
		if first == nil {
			first = f.module
		}
		if rl.fde == nil || f.module == nil || f.module != first || f.signal {
			return false
		}
		begin := rl.fde.Begin()
		if st, ok := p.streamIn(f, regs, r, begin, begins); ok {
			taken, err = p.takenBy(f, regs, r, st)
			return false
		}
		begins = append(begins, begin)
		return true
	})
	return taken, err
}

// stream is a FILE of glibc: struct _IO_FILE (bits/types/struct_FILE.h) with the
// table of functions behind it (struct _IO_FILE_plus, libio/libioP.h). The same
// on all 64-bit architectures, and part of glibc's interface since 2.1.
type stream struct {
	addr           uint64
	bufBase        uint64
	bufEnd         uint64
	offset         int64  // in the file; -1 not known
	underflow      uint64 // functions of its table
	xsgetn         uint64
	functionsStart uint64
}

// Offsets in struct _IO_FILE, and in the table of functions (struct _IO_jump_t).
const (
	filePtr, fileEnd, fileBase     = 0x08, 0x10, 0x18 // _IO_read_*
	fileBufBase, fileBufEnd        = 0x38, 0x40
	fileNo, fileOffset, fileMode   = 0x70, 0x90, 0xc0
	fileFunctions, fileSize        = 0xd8, 0xe0
	functionUnderflow              = 4 * 8
	functionXsgetn, functionsBytes = 8 * 8, 9 * 8

	fileMagic, fileMagicMask = 0xfbad0000, 0xffff0000
	// fileNever are flags that a stream has not that is being read into its
	// buffer: _IO_NO_READS, _IO_EOF_SEEN, _IO_IN_BACKUP and _IO_CURRENTLY_PUTTING.
	fileNever = 0x0004 | 0x0010 | 0x0100 | 0x0800
)

// streamIn finds the stream whose buffer the read fills, if the frame is that of
// its xsgetn function, which has called its underflow function.
func (p *process) streamIn(f callFrame, regs *registerSet, r Read, begin uint64, begins []uint64) (stream, bool) {
	for _, reg := range calleeSaved {
		addr, ok := regs.get(reg)
		if !ok {
			continue
		}
		st, ok := p.streamAt(addr, r)
		if ok && st.xsgetn == begin && slices.Contains(begins, st.underflow) && p.fixed(f.module, st.functionsStart) {
			return st, true
		}
	}
	return stream{}, false
}

// fixed says whether an address is in a part of a module that nobody writes to,
// as glibc's tables of functions are.
func (p *process) fixed(m *module, addr uint64) bool {
	mp, ok := procview.FindMapping(p.maps, addr)
	return ok && p.moduleAt(addr) == m && mp.Perms[:2] == "r-"
}

// streamAt reads a stream, if there is one that is in that read.
func (p *process) streamAt(addr uint64, r Read) (stream, bool) {
	mp, ok := procview.FindMapping(p.maps, addr)
	if !ok || addr%8 != 0 || len(mp.Perms) < 2 || mp.Perms[:2] != "rw" {
		return stream{}, false
	}
	b, err := p.mem.bytes(addr, fileSize)
	if err != nil {
		return stream{}, false
	}
	word := func(at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }
	flags := binary.LittleEndian.Uint32(b)
	buf := word(fileBufBase)
	st := stream{addr: addr, bufBase: buf, bufEnd: word(fileBufEnd), offset: int64(word(fileOffset)), functionsStart: word(fileFunctions)}
	if flags&fileMagicMask != fileMagic || flags&fileNever != 0 || int32(binary.LittleEndian.Uint32(b[fileMode:])) > 0 ||
		event.FD(int32(binary.LittleEndian.Uint32(b[fileNo:]))) != r.FD || buf == 0 || buf != r.Buf || st.bufEnd-buf != r.Size ||
		word(filePtr) != buf || word(fileEnd) != buf || word(fileBase) != buf {
		return stream{}, false
	}
	if b, err = p.mem.bytes(st.functionsStart, functionsBytes); err != nil {
		return stream{}, false
	}
	st.underflow, st.xsgetn = word(functionUnderflow), word(functionXsgetn)
	return st, true
}

// takenBy tells where the frame of a stream's xsgetn function stands.
func (p *process) takenBy(f callFrame, regs *registerSet, r Read, st stream) (Taken, error) {
	full := map[uint64]uint64{st.addr + fileEnd: st.bufEnd}
	c, err := p.follow(f, regs, full)
	if err != nil {
		return Taken{}, fmt.Errorf("%w: %w", ErrNotFollowed, err)
	}
	// It must copy from the buffer's beginning, move the stream on by what it has
	// copied, and say that it has all.
	if c.from != st.bufBase || c.bytes == 0 || c.bytes > r.Size || c.result < c.bytes || c.result > maxFread ||
		c.wrote[st.addr+filePtr] != st.bufBase+c.bytes {
		return Taken{}, ErrNotFollowed
	}
	t := Taken{Addr: c.to - (c.result - c.bytes), Bytes: c.result - c.bytes, Of: c.result}
	if t.Bytes == 0 {
		return t, nil
	}
	return t, p.checkTaken(t, r, st)
}

// checkTaken sees that the memory is the program's own to write to, and that what
// is there has come through the stream's buffer since the file was opened.
func (p *process) checkTaken(t Taken, r Read, st stream) error {
	mp, ok := procview.FindMapping(p.maps, t.Addr)
	if !ok || len(mp.Perms) < 4 || mp.Perms[:2] != "rw" || mp.Perms[3] != 'p' || mp.End-t.Addr < t.Of {
		return fmt.Errorf("%w: it reads to %#x, which is not the program's own memory", ErrNotFollowed, t.Addr)
	}
	for _, other := range [][2]uint64{{st.addr, st.addr + fileSize}, {st.bufBase, st.bufEnd}} {
		if t.Addr < other[1] && other[0] < t.Addr+t.Of {
			return fmt.Errorf("%w: it reads into its own stream", ErrNotFollowed)
		}
	}
	if st.offset != -1 && st.offset != int64(t.Bytes) {
		return fmt.Errorf("%w: it has read from there before", ErrNotFollowed)
	}
	got, err := p.mem.bytes(t.Addr, int(t.Bytes))
	if err != nil {
		return err
	}
	buffer, err := p.mem.bytes(st.bufBase, int(min(t.Bytes, r.Size)))
	if err != nil {
		return err
	}
	// The last of them are those that came last into the buffer.
	for n := 1; n <= len(buffer); n++ {
		if bytes.HasSuffix(got, buffer[:n]) {
			return nil
		}
	}
	return fmt.Errorf("%w: what it has got is not in its buffer", ErrNotFollowed)
}

// copied is what a function does next, up to its return: it copies once, and
// returns a number.
type copied struct {
	from, to, bytes uint64
	result          uint64
	wrote           map[uint64]uint64 // words in memory
}
