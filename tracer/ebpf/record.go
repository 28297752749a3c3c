package ebpf

import (
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
	"time"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Flags of a [Record], as calls.bpf.c has them.
const (
	EntryUnseen = 1 << iota // the call was going on already when the watching began
	Foreign                 // a call of another architecture: 32-bit
	PathCut                 // the end of the name could not be read
	Signalled               // the thread was sent the guard's signal
	ofKnown                 // where Of lies was said by an earlier record
	DataMissing             // the memory was not there
	Unstoppable             // the thread blocks all of the guard's signals
	ofCut                   // the path is longer than what came
	madeCut                 //
	ofDeleted               //
	madeDeleted             //
	Exit                    // no call: the process has ended, Ret is its wait status, wait(2)
	Exec                    // no call: the process runs a program of [Engine.WatchProgram]
)

// Record is what the kernel saw of one system call.
type Record struct {
	Entry    uint64        // CLOCK_MONOTONIC at the entry, ns
	Duration time.Duration // from entry to exit
	PID      event.PID
	TID      event.TID
	Nr       uint32
	Flags    uint32
	Ret      int64 // as the kernel returns it: -4095 to -1 are errors
	Args     [6]uint64
	Path     []byte // with its NUL
	HasPath  bool
	Spans    []byte // array of struct iovec, cut
	Data     []byte
	// Tracees are the processes that the thread traces, of a call with a name.
	Tracees []event.PID
	// RemoteBase and RemoteLen are the first span in the other process's memory.
	RemoteBase, RemoteLen uint64
	// Of is the file behind the descriptor that the call works on, Made the one
	// behind the descriptor that it has made.
	Of, Made File
}

// File is an open file as the kernel identifies it.
type File struct {
	// Addr is that of the kernel's struct file, 0 for none: the same as long as
	// the file is open.
	Addr      uint64
	Ino       uint64
	Dev, Rdev uint64 // as st_dev of stat(2)
	Mode      uint32 // st_mode
	Magic     uint32 // f_type of statfs(2)
	Deleted   bool
	Known     bool   // Link was sent with an earlier record
	Link      string // the text of its link in /proc/PID/fd; "" if the kernel's record does not tell
	Cut       bool   // Link is not the whole
}

const (
	fileSize   = 32
	headerSize = 8*4 + 8 + 6*8 + 2*fileSize + 16 + lensSize // up to tail
	lensSize   = 16 + 4*maxTracees
	maxTracees = 4
)

var errShort = errors.New("record of the kernel is shorter than it says")

// parse reads a record from the ring buffer into r; its slices are only valid as
// long as raw is.
func (r *Record) parse(raw []byte) error {
	if len(raw) < headerSize {
		return errShort
	}
	u64 := func(at int) uint64 { return binary.NativeEndian.Uint64(raw[at:]) }
	u32 := func(at int) uint32 { return binary.NativeEndian.Uint32(raw[at:]) }
	*r = Record{Entry: u64(0), Duration: time.Duration(u64(8)), PID: event.PID(u32(16)), TID: event.TID(u32(20)),
		Nr: u32(24), Flags: u32(28), Ret: int64(u64(32))}
	for i := range r.Args {
		r.Args[i] = u64(40 + 8*i)
	}
	for i := range maxTracees {
		if pid := u32(headerSize - 4*maxTracees + 4*i); pid != 0 {
			r.Tracees = append(r.Tracees, event.PID(pid))
		}
	}
	const files = 40 + 48
	r.Of, r.Made = parseFile(raw[files:]), parseFile(raw[files+fileSize:])
	tail := raw[headerSize:]
	take := func(i int) []byte {
		n := int(binary.NativeEndian.Uint16(raw[headerSize-lensSize+2*i:]))
		n = min(n, len(tail))
		part := tail[:n]
		tail = tail[n:]
		return part
	}
	path, vec, data, of, made := take(0), take(1), take(2), take(3), take(4)
	r.Path, r.HasPath = path, len(path) > 0
	r.Spans, r.Data = vec, data
	r.RemoteBase, r.RemoteLen = u64(files+2*fileSize), u64(files+2*fileSize+8)
	r.Of.Known = r.Flags&ofKnown != 0
	r.Of.describe(of, r.Flags&ofCut != 0, r.Flags&ofDeleted != 0)
	r.Made.describe(made, r.Flags&madeCut != 0, r.Flags&madeDeleted != 0)
	return nil
}

func parseFile(raw []byte) File {
	f := File{Addr: binary.NativeEndian.Uint64(raw), Ino: binary.NativeEndian.Uint64(raw[8:]),
		Dev: device(binary.NativeEndian.Uint32(raw[16:])), Rdev: device(binary.NativeEndian.Uint32(raw[20:])),
		Mode: binary.NativeEndian.Uint32(raw[24:]), Magic: binary.NativeEndian.Uint32(raw[28:])}
	if f.Addr == 0 {
		return File{}
	}
	return f
}

// device turns the kernel's own number (MKDEV in linux/kdev_t.h) into that of
// stat(2).
func device(dev uint32) uint64 { return decode.Makedev(dev>>20, dev&(1<<20-1)) }

// The file systems where the device of stat(2) is not that of the kernel's
// super_block (linux/magic.h).
const (
	overlayFS = 0x794c7630
	btrFS     = 0x9123683e
)

// DeviceDiffers says that Dev, and perhaps Ino, are not what stat(2) would say.
func (f *File) DeviceDiffers() bool { return f.Magic == overlayFS || f.Magic == btrFS }

// Piece is a part of the calling thread's memory.
type Piece struct {
	Addr uint64
	Data []byte
}

// Pieces gives the memory that came with a record of a call with this row: what
// its arguments point to, as far as it is of interest. It is appended to all.
func (r *Record) Pieces(row *decode.Call, all []Piece) []Piece {
	add := func(addr uint64, data []byte) {
		if len(data) > 0 {
			all = append(all, Piece{addr, data})
		}
	}
	if i := row.PathArg(); i >= 0 && r.HasPath {
		add(r.Args[i], r.Path)
	}
	for i, kind := range row.Args {
		switch kind {
		case decode.Iovec:
			add(r.Args[i], r.Spans)
			rest := r.Data
			for _, s := range decode.ParseIovecs(r.Spans) {
				n := min(s.Len, uint64(len(rest)))
				add(s.Base, rest[:n])
				rest = rest[n:]
			}
		case decode.RemoteIovec:
			add(r.Args[i], binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(nil, r.RemoteBase), r.RemoteLen))
		case decode.Buf, decode.StatBuf, decode.StatxBuf, decode.OpenHow, decode.Word:
			add(r.Args[i], r.Data)
		}
	}
	if row.Class == decode.ClassMap {
		add(uint64(r.Ret), r.Data)
	}
	return all
}

// The file systems of the kernel's own whose links have no path (linux/magic.h).
const (
	pipeFS = 0x50495045
	sockFS = 0x534f434b
	anonFS = 0x09041934
	nsFS   = 0x6e736673
	pidFS  = 0x50494446
)

// describe makes the text of the link from the names up to the root, each ended
// by NUL, as d_path in fs/d_path.c does.
func (f *File) describe(names []byte, cut, deleted bool) {
	if f.Addr == 0 || f.Known {
		return
	}
	first, _, _ := strings.Cut(string(names), "\x00")
	switch f.Magic {
	case pipeFS:
		f.Link = "pipe:[" + utoa(f.Ino) + "]"
		return
	case sockFS:
		f.Link = "socket:[" + utoa(f.Ino) + "]"
		return
	case anonFS:
		f.Link = "anon_inode:" + first
		return
	case pidFS:
		f.Link = "anon_inode:[pidfd]"
		return
	case nsFS:
		if first != "" {
			f.Link = first + ":[" + utoa(f.Ino) + "]"
		}
		return
	}
	parts := strings.Split(strings.TrimSuffix(string(names), "\x00"), "\x00")
	var b strings.Builder
	for i := len(parts) - 1; i >= 0; i-- {
		b.WriteByte('/')
		b.WriteString(parts[i])
	}
	f.Link, f.Cut, f.Deleted = b.String(), cut, deleted
	if deleted || strings.HasPrefix(f.Link, "/memfd:") && len(parts) == 1 {
		f.Link += " (deleted)"
	}
}

func utoa(n uint64) string { return strconv.FormatUint(n, 10) }
