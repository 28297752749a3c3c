package stack

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/klauspost/compress/zlib"
	"golang.org/x/sys/unix"
)

// object is an ELF object, mapped so that of a large one only the pages that
// are looked at are read.
//
// Somebody may cut the file short meanwhile; touching it then is a fault. So
// code that does must run under guarded.
type object struct {
	*elf.File
	name     string // of a debug file, as the process sees it
	data     []byte // whole
	mapped   bool
	sections map[string]*section
}

// maxFile bounds the files that are looked at, bytes. They are not read whole.
const maxFile = 16 << 30

// openELF maps an ELF file. The file may be closed afterwards.
func openELF(r *os.File) (*object, error) {
	st, err := r.Stat()
	if err != nil {
		return nil, fmt.Errorf("ELF file: %w", err)
	}
	if st.Size() < 64 || st.Size() > maxFile {
		return nil, fmt.Errorf("ELF file of %d bytes", st.Size())
	}
	data, err := unix.Mmap(int(r.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("map ELF file: %w", err)
	}
	o, err := newELF(data)
	if err != nil {
		unix.Munmap(data)
		return nil, err
	}
	o.mapped = true
	return o, nil
}

// newELF reads an ELF object's headers.
func newELF(data []byte) (o *object, err error) {
	var e *elf.File
	err = guarded(func() error {
		e, err = elf.NewFile(bytes.NewReader(data))
		return err
	})
	if err != nil {
		return nil, err
	}
	if e.Class != elf.ELFCLASS64 || e.Data != elf.ELFDATA2LSB {
		return nil, errors.New("not a little-endian 64-bit ELF object")
	}
	return &object{File: e, data: data, sections: map[string]*section{}}, nil
}

// close gives the mapping back; nothing that was cut from it may be used then.
func (o *object) close() {
	for _, s := range o.sections {
		s.wait()
	}
	if o.mapped {
		unix.Munmap(o.data)
		o.data, o.mapped = nil, false
	}
}

const (
	// maxSection bounds the unpacked size of a section, bytes.
	maxSection = 2 << 30
	// maxRatio is how many times smaller a section can be when packed; deflate
	// reaches 1032.
	maxRatio = 1100
)

// section gives a section's content; nil if the file does not have it.
func (o *object) section(name string) *section {
	if s, ok := o.sections[name]; ok {
		return s
	}
	s := o.newSection(o.Section(name))
	o.sections[name] = s
	return s
}

func (o *object) newSection(sec *elf.Section) *section {
	if sec == nil || sec.Type == elf.SHT_NOBITS || sec.Offset > uint64(len(o.data)) ||
		sec.FileSize > uint64(len(o.data))-sec.Offset {
		return nil
	}
	raw := o.data[sec.Offset : sec.Offset+sec.FileSize]
	if sec.Flags&elf.SHF_COMPRESSED == 0 {
		return &section{have: raw, size: uint64(len(raw))}
	}
	// Elf64_Chdr: type, reserved, size, alignment (elf(5)).
	const header = 24
	if len(raw) < header || sec.Size > maxSection || sec.Size/maxRatio > uint64(len(raw)) {
		return nil
	}
	if elf.CompressionType(binary.LittleEndian.Uint32(raw)) == elf.COMPRESS_ZLIB {
		return packedSection(raw[header:], sec.Size)
	}
	return &section{size: sec.Size, open: func() (io.Reader, error) { return sec.Open(), nil }}
}

// packedSection is one packed by zlib. Of package compress/zlib the library used
// here needs half the time.
func packedSection(packed []byte, size uint64) *section {
	return &section{size: size, open: func() (io.Reader, error) { return zlib.NewReader(bytes.NewReader(packed)) }}
}

// section is the content of a section, unpacked as far as it was asked for: what
// a backtrace needs of a large one often lies near its beginning.
type section struct {
	have  []byte
	size  uint64                    // when unpacked
	open  func() (io.Reader, error) // of what is packed, else nil
	r     io.Reader                 // from the end of have on
	buf   []byte                    // whose beginning is have
	err   error
	ready chan struct{} // closed when a prefetch is done; nil if there was none
}

// upTo gives the content as far as n bytes at least, or all of it if that is less.
func (s *section) upTo(n uint64) ([]byte, error) {
	if s == nil {
		return nil, nil
	}
	s.wait()
	s.unpack(n)
	return s.have, s.err
}

// left is how many bytes are not unpacked yet.
func (s *section) left() uint64 {
	s.wait()
	if s.open == nil {
		return 0
	}
	return s.size - uint64(len(s.have))
}

// all gives the whole content.
func (s *section) all() ([]byte, error) { return s.upTo(maxSection) }

func (s *section) wait() {
	if s != nil && s.ready != nil {
		<-s.ready
	}
}

func (s *section) unpack(n uint64) {
	n = min(n, s.size)
	if s.err != nil || uint64(len(s.have)) >= n {
		return
	}
	if s.r == nil {
		s.buf = make([]byte, s.size)
		if s.r, s.err = s.open(); s.err != nil {
			return
		}
	}
	got, err := io.ReadFull(s.r, s.buf[len(s.have):n])
	s.have = s.buf[:len(s.have)+got]
	if err != nil {
		s.err = fmt.Errorf("packed section: %w", err)
	}
}

// prefetch unpacks sections in the background, one after the other.
func (o *object) prefetch(names ...string) {
	var todo []*section
	for _, name := range names {
		if s := o.section(name); s != nil && s.ready == nil && s.open != nil {
			s.ready = make(chan struct{})
			todo = append(todo, s)
		}
	}
	if len(todo) == 0 {
		return
	}
	go func() {
		for _, s := range todo {
			s.err = guarded(func() error { s.unpack(s.size); return s.err })
			close(s.ready)
		}
	}()
}

// guarded runs code that parses files of others: a panic of debug/elf or
// debug/dwarf on a broken one, or a fault on one that was cut short, becomes an
// error.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // of this goroutine
	defer recovered(&err)
	return f()
}
