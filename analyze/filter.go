package analyze

import (
	"path"
	"slices"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Filter chooses system calls. Each part that is set must match; within a part
// one of its values. The zero Filter matches all.
type Filter struct {
	Calls []string // names
	// Paths match the name that the call was given or the target, as a glob
	// (path.Match) where they have one of *?[, else as a part of it.
	Paths []string
	FDs   []event.FD // the descriptor worked on, asked for, or made
	TIDs  []event.TID
	// Findings keeps only what has a mark.
	Findings bool
	// Rows is how many calls [Tables] keeps, and how many closed descriptors, the
	// latest ones: 0 for DefaultRows; below 0 for no calls, and as many descriptors.
	Rows int
}

// Match says whether a call is chosen; mark is what [Analyzer.Add] gave for it.
func (f *Filter) Match(ev *event.Syscall, mark Mark) bool {
	return (!f.Findings || mark != Mark{}) &&
		(len(f.Calls) == 0 || slices.Contains(f.Calls, ev.Name)) &&
		(len(f.TIDs) == 0 || slices.Contains(f.TIDs, ev.TID)) &&
		(len(f.FDs) == 0 || slices.ContainsFunc(f.FDs, func(fd event.FD) bool { return concerns(ev, fd) })) &&
		(len(f.Paths) == 0 || slices.ContainsFunc(f.Paths, func(p string) bool {
			return matches(p, string(ev.Path)) || ev.Target != nil && matches(p, string(ev.Target.Link))
		}))
}

// concerns says whether a call works on a descriptor or makes it.
func concerns(ev *event.Syscall, fd event.FD) bool {
	row, ok := decode.ByName(ev.Name)
	return ev.FD.Is(fd) || ev.DirFD.Is(fd) || ev.NewFD.Is(fd) || ok && makesFD(ev, row) && ev.Ret.Is(int64(fd))
}

func matches(pattern, text string) bool {
	if text == "" {
		return false
	}
	if strings.ContainsAny(pattern, "*?[") {
		if ok, err := path.Match(pattern, text); err == nil {
			return ok
		}
	}
	return strings.Contains(text, pattern)
}
