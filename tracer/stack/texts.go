package stack

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

const (
	maxNameLength = 4096     // PATH_MAX
	maxGathered   = 16 << 20 // bytes read from behind pointers
	maxTexts      = 16       // for one frame
	maxLastFrame  = 64 << 10 // of stack that is taken for the outermost frame's
)

// findNames looks in each frame's part of the copied stack for the names, as
// NUL-terminated text and behind pointers.
func (p *process) findNames(s Snapshot, frames []callFrame, names []string) [][]event.FrameString {
	found := make([][]event.FrameString, len(frames))
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "" || len(n) > maxNameLength })
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 || len(frames) == 0 {
		return found
	}
	pointers := p.namesBehind(s, frames, names)
	for i := range frames {
		from, to := stackPart(s, frames, i)
		part := s.Stack[from:to]
		for _, name := range names {
			// The NUL may lie beyond the part.
			text := append([]byte(name), 0)
			for at := 0; ; {
				n := bytes.Index(s.Stack[from+at:min(to+len(name), len(s.Stack))], text)
				if n < 0 || at+n >= len(part) {
					break
				}
				at += n
				addr := event.Hex(s.StackStart + uint64(from+at))
				found[i] = append(found[i], event.FrameString{Slot: addr, Addr: addr, Text: event.Text(name)})
				at++
			}
		}
		for off := alignUp(from, s.StackStart); off+8 <= to; off += 8 {
			ptr := binary.LittleEndian.Uint64(s.Stack[off:])
			if name, ok := pointers[ptr]; ok {
				found[i] = append(found[i], event.FrameString{
					Slot: event.Hex(s.StackStart + uint64(off)), Addr: event.Hex(ptr), Text: event.Text(name)})
			}
		}
		slices.SortFunc(found[i], func(a, b event.FrameString) int { return int(int64(a.Slot - b.Slot)) })
		if len(found[i]) > maxTexts {
			found[i] = found[i][:maxTexts]
		}
	}
	return found
}

// alignUp gives the first offset from off on whose address is a multiple of 8.
func alignUp(off int, start uint64) int {
	return off + int(-(start+uint64(off))&7)
}

// stackPart gives which bytes of the copy belong to a frame.
func stackPart(s Snapshot, frames []callFrame, i int) (from, to int) {
	f := frames[i]
	begin, end := f.sp, f.end
	if i == 0 {
		begin = min(begin, s.StackStart) // with the red zone
	}
	if end == 0 {
		end = f.sp + maxLastFrame
	}
	limit := s.StackStart + uint64(len(s.Stack))
	begin, end = max(begin, s.StackStart), min(end, limit)
	if begin >= end {
		return 0, 0
	}
	return int(begin - s.StackStart), int(end - s.StackStart)
}

// namesBehind finds the pointers on the stack that lead to one of the names.
func (p *process) namesBehind(s Snapshot, frames []callFrame, names []string) map[uint64]string {
	size := 0
	for _, n := range names {
		size = max(size, len(n)+1)
	}
	found := map[uint64]string{}
	seen := map[uint64]bool{}
	var in procview.Mapping // neighbours often point into the same one
	b := make([]byte, size)
	for i := range frames {
		from, to := stackPart(s, frames, i)
		for off := alignUp(from, s.StackStart); off+8 <= to; off += 8 {
			ptr := binary.LittleEndian.Uint64(s.Stack[off:])
			if ptr < 4096 || seen[ptr] || len(seen) > maxGathered/size {
				continue
			}
			if ptr < in.Start || ptr >= in.End {
				m, ok := procview.FindMapping(p.maps, ptr)
				if !ok {
					continue
				}
				in = m
			}
			if !strings.HasPrefix(in.Perms, "r") {
				continue
			}
			seen[ptr] = true
			n, _ := p.mem.ReadMemory(b[:min(in.End-ptr, uint64(size))], ptr) // less than asked for may be enough
			for _, name := range names {
				if n > len(name) && b[len(name)] == 0 && string(b[:len(name)]) == name {
					found[ptr] = name
				}
			}
		}
	}
	return found
}
