// Package inferior finds the processes that a debugger traces, and reads from
// their memory which objects the dynamic loader has loaded in them, under which
// names, and which mapped file each one is.
package inferior

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

const (
	maxObjects    = 20000 // link_map entries, of all namespaces together
	maxNamespaces = 64    // glibc has 16 (DL_NNS)
	maxName       = 4096  // PATH_MAX
	maxHeaders    = 256   // program headers
	maxDynamic    = 4096  // entries of a dynamic section
)

// Errors that say why a process has no list of loaded objects.
var (
	// ErrStatic is a program without dynamic loader.
	ErrStatic = errors.New("static program: it has no list of loaded objects")
	// ErrEarly is a program whose dynamic loader has not made the list yet.
	ErrEarly = errors.New("the dynamic loader has not run yet")
	// Err32Bit is a program of another word size than we read.
	Err32Bit = errors.New("32-bit programs are not read")
)

// memory reads a process's memory in words of 8 bytes, little-endian, as both
// architectures that we know are.
type memory struct{ io.ReaderAt }

func (m memory) bytes(addr uint64, n int) ([]byte, error) {
	b := make([]byte, n)
	if addr > 1<<63-1 {
		return nil, fmt.Errorf("address %#x: %w", addr, unix.EFAULT)
	}
	if _, err := m.ReadAt(b, int64(addr)); err != nil {
		return nil, fmt.Errorf("read %d bytes at %#x: %w", n, addr, err)
	}
	return b, nil
}

func (m memory) words(addr uint64, n int) ([]uint64, error) {
	b, err := m.bytes(addr, 8*n)
	if err != nil {
		return nil, err
	}
	ws := make([]uint64, n)
	for i := range ws {
		ws[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return ws, nil
}

// text reads a NUL-terminated string, no chunk of it across a page.
func (m memory) text(addr uint64) (event.Text, error) {
	const page = 4096
	var out []byte
	for n := 64; len(out) < maxName; n = page {
		chunk := min(uint64(n), page-addr%page)
		b, err := m.bytes(addr, int(chunk))
		if err != nil {
			return "", err
		}
		if end := bytes.IndexByte(b, 0); end >= 0 {
			return event.Text(append(out, b[:end]...)), nil
		}
		out = append(out, b...)
		addr += chunk
	}
	return event.Text(out[:maxName]), nil
}

// processMemory is the memory of a process, by process_vm_readv(2).
type processMemory event.PID

// ReadAt implements [io.ReaderAt].
func (p processMemory) ReadAt(b []byte, off int64) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	local := unix.Iovec{Base: &b[0]}
	local.SetLen(len(b))
	remote := unix.RemoteIovec{Base: uintptr(off), Len: len(b)}
	n, err := unix.ProcessVMReadv(int(p), []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0)
	if err == nil && n < len(b) {
		err = unix.EFAULT
	}
	return max(n, 0), err
}

// LinkMaps gives the objects that the dynamic loader of a process has loaded,
// in the order of its lists, each with the file that is mapped for it. The
// process is not stopped; a list that changes meanwhile ends early.
//
// The error is [ErrStatic], [ErrEarly], [Err32Bit] or that of reading the
// process, [os.ErrPermission] or [os.ErrNotExist] among them.
func LinkMaps(v *procview.View, pid event.PID) ([]event.LinkMap, error) {
	auxv, err := readAuxv(v, pid)
	if err != nil {
		return nil, err
	}
	mem := memory{processMemory(pid)}
	debug, err := rDebug(mem, auxv)
	if errors.Is(err, ErrStatic) {
		// A static program may have opened objects all the same.
		debug, err = staticRDebug(v, pid, auxv)
	}
	if err != nil {
		return nil, fmt.Errorf("loaded objects of pid %d: %w", pid, err)
	}
	entries, err := walk(mem, debug)
	if err != nil && len(entries) == 0 {
		return nil, fmt.Errorf("loaded objects of pid %d: %w", pid, err)
	}
	maps, err := v.Maps(pid)
	if err != nil {
		return nil, err
	}
	for i := range entries {
		entries[i].PID = pid
		fillMapped(v, maps, &entries[i])
	}
	return entries, nil
}

// auxiliary is the auxiliary vector (getauxval(3)).
type auxiliary map[uint64]uint64

// Keys of the auxiliary vector (linux/auxvec.h).
const (
	atPhdr  = 3
	atPhent = 4
	atPhnum = 5
	atEntry = 9
)

func readAuxv(v *procview.View, pid event.PID) (auxiliary, error) {
	f, err := os.Open(path.Join(v.Folder(pid), "auxv"))
	if err != nil {
		return nil, fmt.Errorf("auxiliary vector of pid %d: %w", pid, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("auxiliary vector of pid %d: %w", pid, err)
	}
	return parseAuxv(b), nil
}

// parseAuxv reads pairs of 8-byte words up to the one with key 0 (AT_NULL).
func parseAuxv(b []byte) auxiliary {
	aux := auxiliary{}
	for ; len(b) >= 16; b = b[16:] {
		key := binary.LittleEndian.Uint64(b)
		if key == 0 {
			break
		}
		aux[key] = binary.LittleEndian.Uint64(b[8:])
	}
	return aux
}

// phdr size of a 64-bit program header (elf(5)).
const phdrSize = 56

// rDebug finds struct r_debug (link.h): the program headers, the dynamic
// section, DT_DEBUG.
func rDebug(mem memory, aux auxiliary) (uint64, error) {
	if aux[atPhdr] == 0 || aux[atPhnum] == 0 || aux[atPhnum] > maxHeaders {
		return 0, errors.New("no program headers in the auxiliary vector")
	}
	if aux[atPhent] != phdrSize {
		return 0, Err32Bit
	}
	b, err := mem.bytes(aux[atPhdr], int(aux[atPhnum])*phdrSize)
	if err != nil {
		return 0, err
	}
	var bias, dynamic uint64
	for ; len(b) >= phdrSize; b = b[phdrSize:] {
		vaddr := binary.LittleEndian.Uint64(b[16:])
		switch elf.ProgType(binary.LittleEndian.Uint32(b)) {
		case elf.PT_PHDR:
			bias = aux[atPhdr] - vaddr
		case elf.PT_DYNAMIC:
			dynamic = vaddr
		}
	}
	if dynamic == 0 {
		return 0, ErrStatic
	}
	debug, err := dynamicEntry(mem, dynamic+bias, elf.DT_DEBUG)
	if err != nil {
		return 0, err
	}
	switch {
	case debug == nil:
		return 0, ErrStatic // a static PIE: dynamic section, no loader
	case *debug == 0:
		return 0, ErrEarly
	}
	return *debug, nil
}

// dynamicEntry looks a tag up in a dynamic section; nil if it is not there.
func dynamicEntry(mem memory, addr uint64, tag elf.DynTag) (*uint64, error) {
	for range maxDynamic {
		w, err := mem.words(addr, 2)
		if err != nil {
			return nil, fmt.Errorf("dynamic section: %w", err)
		}
		switch elf.DynTag(w[0]) {
		case elf.DT_NULL:
			return nil, nil
		case tag:
			return &w[1], nil
		}
		addr += 16
	}
	return nil, nil
}

// staticRDebug finds the list of a static program by its symbol _r_debug. The
// C library fills it when such a program calls dlopen(3).
func staticRDebug(v *procview.View, pid event.PID, aux auxiliary) (addr uint64, err error) {
	defer func() {
		if recover() != nil { // debug/elf on a broken file
			addr, err = 0, ErrStatic
		}
	}()
	f, err := openRegular(path.Join(v.Folder(pid), "exe"))
	if err != nil {
		return 0, ErrStatic
	}
	defer f.Close()
	e, err := elf.NewFile(f)
	if err != nil {
		return 0, ErrStatic
	}
	syms, err := e.Symbols()
	if err != nil {
		return 0, ErrStatic
	}
	for _, sym := range syms {
		if sym.Name == "_r_debug" && sym.Size >= 40 {
			addr := sym.Value + aux[atEntry] - e.Entry // e.Entry before relocation
			w, err := memory{processMemory(pid)}.words(addr, 2)
			if err != nil || w[1] == 0 {
				return 0, ErrStatic
			}
			return addr, nil
		}
	}
	return 0, ErrStatic
}

// openRegular opens a file only if it is a regular one.
func openRegular(name string) (*os.File, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, unix.EINVAL
	}
	return os.Open("/proc/self/fd/" + strconv.Itoa(fd))
}

// walk reads the lists that start at struct r_debug: r_version, r_map, r_brk,
// r_state, r_ldbase, and from version 2 on r_next, the list of the next
// namespace of dlmopen(3) (glibc 2.35). It gives what it has got and the error
// that ended it. Lists may be damaged or changing: each entry is taken once.
func walk(mem memory, debug uint64) ([]event.LinkMap, error) {
	var out []event.LinkMap
	seen := map[uint64]bool{}
	for ns := 0; debug != 0 && ns < maxNamespaces && !seen[debug]; ns++ {
		seen[debug] = true
		head, err := mem.words(debug, 5)
		if err != nil {
			return out, fmt.Errorf("r_debug: %w", err)
		}
		if ns == 0 && head[1] == 0 {
			return out, ErrEarly
		}
		index := 0
		for addr := head[1]; addr != 0; index++ {
			if seen[addr] || len(out) >= maxObjects {
				return out, fmt.Errorf("link_map at %#x: the list has no end", addr)
			}
			seen[addr] = true
			w, err := mem.words(addr, 4) // l_addr, l_name, l_ld, l_next
			if err != nil {
				return out, fmt.Errorf("link_map: %w", err)
			}
			lm := event.LinkMap{Namespace: ns, Index: index, Addr: event.Hex(addr),
				LoadAddr: event.Hex(w[0]), NameAddr: event.Hex(w[1]), Dynamic: event.Hex(w[2])}
			if w[1] != 0 {
				if lm.Name, err = mem.text(w[1]); err != nil {
					return out, fmt.Errorf("name in the link_map at %#x: %w", addr, err)
				}
			}
			out = append(out, lm)
			addr = w[3]
		}
		if uint32(head[0]) < 2 {
			break
		}
		next, err := mem.words(debug+40, 1)
		if err != nil {
			return out, fmt.Errorf("r_debug: %w", err)
		}
		debug = next[0]
	}
	return out, nil
}

// fillMapped finds the line of maps that holds an object: by l_ld, which lies
// within the object also where l_addr is 0 (programs that are not PIE), else
// by l_addr.
func fillMapped(v *procview.View, maps []procview.Mapping, lm *event.LinkMap) {
	m, ok := procview.FindMapping(maps, uint64(lm.Dynamic))
	if !ok || m.Ino == 0 {
		m, ok = procview.FindMapping(maps, uint64(lm.LoadAddr))
	}
	if !ok || m.Ino == 0 {
		return
	}
	lm.MapStart, lm.MapEnd = event.Hex(m.Start), event.Hex(m.End)
	target := m.Target()
	lm.Mapped = &target
	if st, err := v.MapFile(lm.PID, m); err == nil {
		lm.MappedStat = &st
	}
}
