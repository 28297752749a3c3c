package stack

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime/debug"

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
		return &section{have: raw}
	}
	// Elf64_Chdr: type, reserved, size, alignment (elf(5)).
	const header = 24
	if len(raw) < header || sec.Size > maxSection || sec.Size/maxRatio > uint64(len(raw)) {
		return nil
	}
	s := &section{size: sec.Size}
	if elf.CompressionType(binary.LittleEndian.Uint32(raw)) == elf.COMPRESS_ZLIB {
		s.packed = newInflater(raw[header:])
	} else {
		s.whole = sec.Data
	}
	return s
}

// section is the content of a section, unpacked as far as it was asked for.
type section struct {
	have   []byte
	buf    []byte                 // where it is unpacked to; have is its beginning
	size   uint64                 // when unpacked
	packed *inflater              // until all is unpacked
	whole  func() ([]byte, error) // unpacks in one step
	err    error
	ready  chan struct{} // closed when a prefetch is done; nil if there was none
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
	if s.packed == nil && s.whole == nil {
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
	switch {
	case s.err != nil || uint64(len(s.have)) >= n:
	case s.whole != nil:
		s.have, s.err = s.whole()
		s.whole = nil
	case s.packed != nil:
		if s.buf == nil {
			s.buf = make([]byte, s.size)
		}
		var got int
		got, s.err = s.packed.fill(s.buf, int(min(n, s.size)))
		s.have = s.buf[:got]
		if s.err != nil || uint64(got) == s.size {
			s.packed = nil
		}
	}
}

// prefetch unpacks sections in the background, one after the other.
func (o *object) prefetch(names ...string) {
	var todo []*section
	for _, name := range names {
		if s := o.section(name); s != nil && s.ready == nil && (s.packed != nil || s.whole != nil) {
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
