package tracer

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/memory"
	"whosefd/tracer/procview"
)

const (
	// maxHeap bounds how much of a heap is searched for names, from its end, bytes.
	maxHeap = 128 << 20
	// maxTexts bounds how many different names are looked up, maxTold how many
	// places of the right ones are told.
	maxTexts = 256
	maxTold  = 4
	// maxDeep is how much of a thread's stack is searched for pointers to what it reads by, bytes.
	maxDeep = 64 << 10
	// structure is how much of one is looked at: glibc's FILE has 216 bytes, and BFD's bfd has its
	// name and its stream at the very beginning.
	structure = 256
)

// beginnings are those of all names that depend on who resolves them and can lead
// to an open file (proc(5), /dev/fd).
var beginnings = [][]byte{[]byte("/proc/"), []byte("/dev/fd/"), []byte("/dev/std")}

// names looks for the name by which a thread came to the file that it reads: the text that
// belongs to the stream by which it reads, else, where no inferior is known that has such a name
// (anywhere), any text on the thread's stack or the heap that leads the debugger to that very file.
// A thread that waits in a read changes neither.
func (s *snapshot) names(b *event.Blocked, anywhere bool) []event.MemoryText {
	maps, err := s.View.Maps(s.pid)
	if err != nil {
		return nil
	}
	mem, err := memory.Open(s.View, s.pid, maps)
	if err != nil {
		return nil
	}
	defer mem.Close()
	f := finder{mem: mem, maps: maps, leads: map[string]bool{}, to: func(name string) bool {
		n := decode.ClassifyName(name)
		if n.Derived || n.Kind == decode.SelfFD && b.FD.Is(n.FD) || n.Kind == decode.PIDFD && n.PID != s.pid || n.Kind == decode.Absolute {
			return false
		}
		return s.View.Resolve(s.pid, b.TID, name).Same(*b.Target)
	}}
	call, ok := s.View.Syscall(s.pid, b.TID)
	m, mapped := procview.FindMapping(maps, call.SP)
	if ok && mapped {
		f.ofStream(b, call.SP, m)
	}
	if !anywhere || len(f.found) > 0 {
		return f.found
	}
	if ok && mapped {
		f.search("stack", call.SP, m.End)
	}
	for _, m := range maps {
		if m.Path == "[heap]" && len(f.found) < maxTold {
			f.search("heap", max(m.Start, m.End-min(m.End, maxHeap)), m.End)
		}
	}
	return f.found
}

// finder looks through memory for texts that lead to a file.
type finder struct {
	mem   memory.Reader
	maps  []procview.Mapping
	to    func(name string) bool
	leads map[string]bool
	found []event.MemoryText
}

// search looks through a part of memory, piece by piece: each has the longest name's
// length in common with the next.
func (f *finder) search(where string, start, end uint64) {
	const piece = 1 << 20
	buf := make([]byte, piece+maxPath)
	for at := start; at < end && len(f.found) < maxTold; at += piece {
		n, _ := f.mem.ReadMemory(buf[:min(uint64(len(buf)), end-at)], at)
		for _, beginning := range beginnings {
			for i := 0; i < min(n, piece); {
				next := bytes.Index(buf[i:n], beginning)
				if next < 0 || i+next >= piece {
					break
				}
				i += next
				first := i
				for first > 0 && buf[first-1] == '/' {
					first--
				}
				f.text(where, at+uint64(first), buf[first:n])
				i += len(beginning)
			}
		}
	}
}

// text looks at what begins as a name does.
func (f *finder) text(where string, addr uint64, b []byte) {
	end := bytes.IndexByte(b, 0)
	if end < 0 || end > maxPath || len(f.found) >= maxTold {
		return
	}
	if name := string(b[:end]); f.leadsThere(name) {
		f.found = append(f.found, event.MemoryText{Addr: event.Hex(addr), Text: event.Text(name), In: where})
	}
}

// leadsThere asks once of each name, and of no more than are worth it.
func (f *finder) leadsThere(name string) bool {
	leads, known := f.leads[name]
	if !known && len(f.leads) < maxTexts {
		leads = f.to(name)
		f.leads[name] = leads
	}
	return leads
}

// ofStream finds the name of what a thread reads by way of the read itself: the stack has a pointer
// to the stream, which is known by the descriptor and the buffer of the call, and one to a structure
// that has both the stream and a name. Two names found so prove nothing.
func (f *finder) ofStream(b *event.Blocked, sp uint64, stack procview.Mapping) {
	if b.Syscall != "read" || !b.FD.Known || len(b.Args) < 2 {
		return
	}
	deep, _ := memory.Bytes(f.mem, sp, int(min(stack.End-sp, maxDeep)))
	structures := map[uint64][]uint64{} // by address, what lies there
	for _, at := range words(deep) {
		m, ok := procview.FindMapping(f.maps, at)
		if _, seen := structures[at]; seen || !ok || m.Start == stack.Start || at%8 != 0 || !strings.HasPrefix(m.Perms, "rw") {
			continue
		}
		lies, _ := memory.Bytes(f.mem, at, int(min(m.End-at, structure)))
		structures[at] = words(lies)
	}
	var found []event.MemoryText
	for stream, has := range structures {
		number := func(w uint64) bool { return uint32(w) == uint32(b.FD.Val) || uint32(w>>32) == uint32(b.FD.Val) }
		if !slices.Contains(has, uint64(b.Args[1])) || !slices.ContainsFunc(has, number) {
			continue
		}
		for object, has := range structures {
			if object == stream || !slices.Contains(has, stream) {
				continue
			}
			for _, at := range has {
				text, ended, _ := memory.Text(f.mem, at, nil, maxPath)
				if at >= pageZero && ended && len(text) > 0 && f.leadsThere(string(text)) {
					found = append(found, event.MemoryText{Addr: event.Hex(at), Text: event.Text(text), In: "heap",
						Stream: event.Hex(stream), Object: event.Hex(object)})
				}
			}
		}
	}
	if len(found) > 0 && !slices.ContainsFunc(found, func(t event.MemoryText) bool { return t.Text != found[0].Text }) {
		slices.SortFunc(found, func(x, y event.MemoryText) int { return cmp.Compare(x.Object, y.Object) })
		f.found = found[:1]
	}
}

// pageZero: nothing is mapped below (vm.mmap_min_addr).
const pageZero = 4096

// words are the pointers that memory holds, if it does.
func words(b []byte) []uint64 {
	all := make([]uint64, len(b)/8)
	for i := range all {
		all[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return all
}
