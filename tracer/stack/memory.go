package stack

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"whosefd/tracer/procview"
)

// memory is a process's memory: the copied stack where that reaches, since the
// thread has gone on meanwhile, and the live memory elsewhere.
type memory struct {
	pid    int
	start  uint64 // of copied
	copied []byte
	// served has those parts of the memory that a file system may have to be
	// asked for; nil if there are none.
	served *procview.Memory
}

// read fills buf or fails.
func (m *memory) read(addr uint64, buf []byte) error {
	if len(buf) == 0 {
		return nil
	}
	if off := addr - m.start; addr >= m.start && off < uint64(len(m.copied)) {
		n := copy(buf, m.copied[off:])
		if n == len(buf) {
			return nil
		}
		addr, buf = addr+uint64(n), buf[n:]
	}
	return m.live(addr, buf)
}

func (m *memory) live(addr uint64, buf []byte) error {
	if m.served != nil && m.served.Touches(addr, len(buf)) {
		_, err := m.served.ReadAt(buf, int64(addr))
		return err
	}
	local := []unix.Iovec{{Base: &buf[0], Len: uint64(len(buf))}}
	n, err := unix.ProcessVMReadv(m.pid, local, []unix.RemoteIovec{{Base: uintptr(addr), Len: len(buf)}}, 0)
	if err == nil && n < len(buf) {
		err = unix.EFAULT
	}
	if err != nil {
		return fmt.Errorf("read memory of pid %d at %#x: %w", m.pid, addr, err)
	}
	return nil
}

// bytes reads n bytes.
func (m *memory) bytes(addr uint64, n int) ([]byte, error) {
	buf := make([]byte, n)
	return buf, m.read(addr, buf)
}

func (m *memory) word(addr uint64) (uint64, error) {
	var b [8]byte
	err := m.read(addr, b[:])
	return binary.LittleEndian.Uint64(b[:]), err
}

// maxIovecs is the kernel's UIO_MAXIOV: how many ranges one process_vm_readv takes.
const maxIovecs = 1024

// gather reads size bytes at each of many addresses, into one slice of
// size*len(addrs) bytes. What cannot be read stays zero.
func (m *memory) gather(addrs []uint64, size int) []byte {
	data := make([]byte, size*len(addrs))
	if m.served != nil {
		for i, a := range addrs {
			part := data[i*size : (i+1)*size]
			if m.live(a, part) != nil {
				clear(part)
			}
		}
		return data
	}
	remote := make([]unix.RemoteIovec, 0, min(len(addrs), maxIovecs))
	for i := 0; i < len(addrs); {
		remote = remote[:0]
		for _, a := range addrs[i:min(i+maxIovecs, len(addrs))] {
			remote = append(remote, unix.RemoteIovec{Base: uintptr(a), Len: size})
		}
		part := data[i*size : (i+len(remote))*size]
		local := []unix.Iovec{{Base: unsafe.SliceData(part), Len: uint64(len(part))}}
		n, err := unix.ProcessVMReadv(m.pid, local, remote, 0)
		if err != nil {
			n = 0
		}
		if n == len(part) {
			i += len(remote)
			continue
		}
		// A partial transfer ends at the first range that cannot be read whole.
		done := n / size
		if rest := n % size; rest != 0 {
			clear(part[done*size : n])
		}
		i += done + 1
	}
	return data
}
