package decode

import (
	"encoding/binary"
	"fmt"

	"whosefd/tracer/event"
)

// Stat is what we use of struct stat and struct statx.
type Stat struct {
	Mode uint32 // file type and permissions, inode(7)
	Dev  uint64 // makedev(3) encoding, as event.Target has it
	Ino  uint64
	Size int64 // bytes
}

// The sizes of the structures, bytes. StatSize is the larger of the two.
const (
	StatSize     = 144
	StatxSize    = 256
	IovecSize    = 16
	OpenHowSize  = 24       // OPEN_HOW_SIZE_VER0, linux/openat2.h
	StatTypeMask = 0o170000 // S_IFMT
)

// The file types of [Stat.Mode], linux/stat.h.
const (
	TypeFIFO     = 0o010000
	TypeCharDev  = 0o020000
	TypeDir      = 0o040000
	TypeBlockDev = 0o060000
	TypeRegular  = 0o100000
	TypeSocket   = 0o140000
)

// Kinds has the kind of file for each of these. It tells neither pipes from FIFOs, nor
// terminals from other devices.
var Kinds = map[uint32]event.Kind{
	TypeFIFO: event.FIFO, TypeCharDev: event.CharDev, TypeDir: event.Directory,
	TypeBlockDev: event.BlockDev, TypeRegular: event.Regular, TypeSocket: event.Socket,
}

// IsTerminal says whether a character device is one, by its major number
// (Documentation/admin-guide/devices.txt): 4 and 5 are terminals and serial
// lines, 136 to 143 the other side of pseudo-terminals.
func IsTerminal(major uint32) bool { return major == 4 || major == 5 || major >= 136 && major <= 143 }

// Makedev puts the two halves of a device number together as makedev(3) of
// glibc does; for the numbers that Linux gives out it equals st_dev.
func Makedev(major, minor uint32) uint64 {
	ma, mi := uint64(major), uint64(minor)
	return ma&0xfffff000<<32 | ma&0xfff<<8 | mi&0xffffff00<<12 | mi&0xff
}

// statLayout has the offsets of the fields of struct stat.
type statLayout struct{ size, mode, fileSize int }

var (
	statAMD64 = statLayout{size: 144, mode: 24, fileSize: 48} // arch/x86/include/uapi/asm/stat.h
	statARM64 = statLayout{size: 128, mode: 16, fileSize: 48} // asm-generic/stat.h
)

// StatSize is the size of the architecture's struct stat, bytes.
func (t *Table) StatSize() int { return t.stat.size }

// Stat reads a struct stat.
func (t *Table) Stat(b []byte) (Stat, error) {
	l := t.stat
	if len(b) < l.size {
		return Stat{}, fmt.Errorf("struct stat of %s: %d bytes of %d", t.goarch, len(b), l.size)
	}
	return Stat{
		Dev:  binary.LittleEndian.Uint64(b),
		Ino:  binary.LittleEndian.Uint64(b[8:]),
		Mode: binary.LittleEndian.Uint32(b[l.mode:]),
		Size: int64(binary.LittleEndian.Uint64(b[l.fileSize:])),
	}, nil
}

// Statx reads a struct statx (linux/stat.h), which is the same everywhere.
func Statx(b []byte) (Stat, error) {
	if len(b) < StatxSize {
		return Stat{}, fmt.Errorf("struct statx: %d bytes of %d", len(b), StatxSize)
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	return Stat{
		Mode: uint32(binary.LittleEndian.Uint16(b[28:])),
		Ino:  binary.LittleEndian.Uint64(b[32:]),
		Size: int64(binary.LittleEndian.Uint64(b[40:])),
		Dev:  Makedev(u32(136), u32(140)),
	}, nil
}

// OpenHowData is struct open_how (linux/openat2.h).
type OpenHowData struct{ Flags, Mode, Resolve uint64 }

// ParseOpenHow reads a struct open_how.
func ParseOpenHow(b []byte) (OpenHowData, error) {
	if len(b) < OpenHowSize {
		return OpenHowData{}, fmt.Errorf("struct open_how: %d bytes of %d", len(b), OpenHowSize)
	}
	return OpenHowData{
		Flags:   binary.LittleEndian.Uint64(b),
		Mode:    binary.LittleEndian.Uint64(b[8:]),
		Resolve: binary.LittleEndian.Uint64(b[16:]),
	}, nil
}

// Span is an entry of an array of struct iovec (linux/uio.h).
type Span struct {
	Base uint64 // address
	Len  uint64 // bytes
}

// MaxIovecs is the most entries that a call takes (UIO_MAXIOV, linux/uio.h).
const MaxIovecs = 1024

// ParseIovecs reads an array of struct iovec, at most [MaxIovecs]; a last
// entry that is not whole is left out.
func ParseIovecs(b []byte) []Span {
	n := min(len(b)/IovecSize, MaxIovecs)
	spans := make([]Span, n)
	for i := range spans {
		spans[i].Base = binary.LittleEndian.Uint64(b[i*IovecSize:])
		spans[i].Len = binary.LittleEndian.Uint64(b[i*IovecSize+8:])
	}
	return spans
}

// Bytes is how much the spans hold together; a sum that does not fit is the
// greatest int64, which no call can move.
func Bytes(spans []Span) uint64 {
	const most = 1<<63 - 1
	var sum uint64
	for _, s := range spans {
		if s.Len > most-sum {
			return most
		}
		sum += s.Len
	}
	return sum
}
