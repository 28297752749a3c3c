package stack

import (
	"bufio"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zlib"
)

// object is an ELF object and where it is read from.
type object struct {
	*elf.File
	from io.ReaderAt
}

// newELF reads an ELF object's headers.
func newELF(r io.ReaderAt) (o *object, err error) {
	defer recovered(&err)
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, err
	}
	if f.Class != elf.ELFCLASS64 || f.Data != elf.ELFDATA2LSB {
		return nil, errors.New("not a little-endian 64-bit ELF object")
	}
	return &object{File: f, from: r}, nil
}

// contents reads a section, inflated if it is compressed (elf(5), Chdr). That
// takes half the time of [elf.Section.Data].
func (o *object) contents(sec *elf.Section) ([]byte, error) {
	const header = 24 // of Elf64_Chdr: type, reserved, size, alignment
	if sec.Flags&elf.SHF_COMPRESSED == 0 || sec.FileSize < header || sec.FileSize > maxDebugInfo {
		return sec.Data()
	}
	var head [header]byte
	if _, err := o.from.ReadAt(head[:], int64(sec.Offset)); err != nil {
		return nil, fmt.Errorf("inflate: %w", err)
	}
	if elf.CompressionType(binary.LittleEndian.Uint32(head[:])) != elf.COMPRESS_ZLIB {
		return sec.Data()
	}
	size := binary.LittleEndian.Uint64(head[8:])
	r, err := zlib.NewReader(bufio.NewReaderSize(
		io.NewSectionReader(o.from, int64(sec.Offset)+header, int64(sec.FileSize)-header), 64<<10))
	if err != nil {
		return nil, fmt.Errorf("inflate: %w", err)
	}
	defer r.Close()
	// The size is what the file claims; deflate packs no more than 1032 to 1.
	if size > maxDebugInfo || size > 1032*sec.FileSize {
		return nil, fmt.Errorf("inflate: %d bytes to %d", sec.FileSize, size)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("inflate: %w", err)
	}
	return b, nil
}
