// Package memory reads the memory of other processes.
//
// All readers have the one method of delve's proc.MemoryReader, so that its
// packages and ours take each other's. docs/adr/0007 says why the type itself is
// not imported.
package memory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// Reader reads memory. ReadMemory fills buf from addr on, and says how many
// bytes it has got; there is an error if those are fewer.
type Reader interface {
	ReadMemory(buf []byte, addr uint64) (n int, err error)
}

// Thread reads the memory of a living thread by process_vm_readv(2), which needs no file: for a
// tracer, which may read its tracees. It may wait for a file system that somebody else serves.
type Thread event.TID

// ReadMemory implements [Reader].
func (t Thread) ReadMemory(buf []byte, addr uint64) (int, error) {
	if len(buf) == 0 {
		return 0, nil
	}
	local := unix.Iovec{Base: &buf[0]}
	local.SetLen(len(buf))
	n, err := unix.ProcessVMReadv(int(t), []unix.Iovec{local}, []unix.RemoteIovec{{Base: uintptr(addr), Len: len(buf)}}, 0)
	if err == nil && n < len(buf) {
		err = unix.EFAULT // the next page is not there
	}
	if err != nil {
		return max(n, 0), fmt.Errorf("memory of thread %d at %#x: %w", t, addr, err)
	}
	return n, nil
}

// Process reads the memory of a process by proc_pid_mem(5). That needs no id of a
// system call, so the view may be of another pid namespace, and the memory stays
// that of the program that runs now: if the process executes another, reading ends.
type Process struct {
	view *procview.View
	pid  event.PID
	file *os.File
	// remote are the mappings whose pages another program, or another machine, may have to be asked for.
	remote []procview.Mapping
}

// Open opens a process's memory; maps are its mappings. It takes the right to trace it
// (PTRACE_MODE_ATTACH in ptrace(2)); the error wraps [os.ErrPermission] without
// it, and [os.ErrNotExist] if the process has ended. The first thread may have ended before the others.
func Open(v *procview.View, pid event.PID, maps []procview.Mapping) (*Process, error) {
	f, err := v.OpenFile(pid, "mem")
	if err != nil {
		return nil, fmt.Errorf("memory of pid %d: %w", pid, err)
	}
	return &Process{v, pid, f, v.Remote(pid, maps)}, nil
}

// Close closes it; nil may be closed.
func (p *Process) Close() error {
	if p == nil {
		return nil
	}
	return p.file.Close()
}

// ReadMemory implements [Reader]. It does not wait for a file system that does
// not answer; the error is then [unix.ETIMEDOUT].
func (p *Process) ReadMemory(buf []byte, addr uint64) (n int, err error) {
	switch dev, remote := p.remoteAt(addr, len(buf)); {
	case addr > math.MaxInt64-uint64(len(buf)):
		err = unix.EFAULT
	case remote:
		if p.present(addr, len(buf)) {
			dev = 0 // whether it answers does not matter, even if it did not before
		}
		n, err = p.view.ReadRemote(p.file, buf, addr, dev)
	default:
		n, err = p.file.ReadAt(buf, int64(addr))
	}
	if errors.Is(err, io.EOF) {
		err = unix.ESRCH // the program has ended
	}
	if err != nil {
		return n, fmt.Errorf("memory of pid %d at %#x: %w", p.pid, addr, err)
	}
	return n, nil
}

// remoteAt says whether reading there may take asking somebody, about the file system dev.
func (p *Process) remoteAt(addr uint64, n int) (dev uint64, ok bool) {
	for _, m := range p.remote {
		if addr < m.End && m.Start < addr+uint64(n) {
			return m.Dev, true
		}
	}
	return 0, false
}

// present says whether all pages there are in memory just now (proc_pid_pagemap(5)).
func (p *Process) present(addr uint64, n int) bool {
	const here = 1 << 63
	f, err := p.view.OpenFile(p.pid, "pagemap")
	if err != nil {
		return false
	}
	defer f.Close()
	size := uint64(os.Getpagesize())
	first, end := addr/size, (addr+uint64(n)+size-1)/size
	entries := make([]byte, 8*(end-first))
	if _, err := f.ReadAt(entries, int64(8*first)); err != nil {
		return false
	}
	for ; len(entries) > 0; entries = entries[8:] {
		if binary.NativeEndian.Uint64(entries)&here == 0 {
			return false
		}
	}
	return true
}

// Copy is memory that was copied, from Start on: a stack whose thread has gone on
// meanwhile. What lies elsewhere is read from Rest.
type Copy struct {
	Start uint64
	Data  []byte
	Rest  Reader
}

// ReadMemory implements [Reader].
func (c *Copy) ReadMemory(buf []byte, addr uint64) (int, error) {
	n := 0
	if off := addr - c.Start; addr >= c.Start && off < uint64(len(c.Data)) {
		n = copy(buf, c.Data[off:])
	}
	if n == len(buf) {
		return n, nil
	}
	m, err := c.Rest.ReadMemory(buf[n:], addr+uint64(n))
	return n + m, err
}

// Bytes reads n bytes.
func Bytes(r Reader, addr uint64, n int) ([]byte, error) {
	b := make([]byte, n)
	got, err := r.ReadMemory(b, addr)
	return b[:got], err
}

// Word reads 8 bytes as a number; both architectures that we know are little-endian.
func Word(r Reader, addr uint64) (uint64, error) {
	var b [8]byte
	_, err := r.ReadMemory(b[:], addr)
	return binary.LittleEndian.Uint64(b[:]), err
}

// pageSize divides the page size of every machine: a chunk that does not cross
// a multiple of it is there or not as a whole.
const pageSize = 4096

// Text appends the text that ends with a NUL at addr to buf, without the NUL.
// It reads page by page, since the page after that of the NUL need not be there.
// An error, and a text of more than limit bytes, leave what was read; ended is
// then false.
func Text(r Reader, addr uint64, buf []byte, limit int) (text []byte, ended bool, err error) {
	begin := len(buf)
	// Most are short: the first look is small.
	for want := 256; len(buf)-begin < limit; want = pageSize {
		n := len(buf)
		want = min(want, pageSize-int(addr%pageSize), limit-(n-begin))
		if cap(buf)-n < want {
			buf = append(buf, make([]byte, want)...)[:n]
		}
		got, err := r.ReadMemory(buf[n:n+want], addr)
		buf = buf[:n+got]
		if end := bytes.IndexByte(buf[n:], 0); end >= 0 {
			return buf[:n+end], true, nil
		}
		if err != nil {
			return buf, false, err
		}
		addr += uint64(got)
	}
	return buf, false, nil
}
