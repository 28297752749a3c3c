package tables

import (
	"path"
	"slices"
	"strings"

	"whosefd/analyze/filter"
	"whosefd/analyze/rules"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Filter chooses system calls. Each part that is set must match; within a part
// one of its values. The zero Filter matches all.
type Filter struct {
	Calls []string // names
	// Paths match the name that the call was given or the target: as a part of it, or
	// as a glob (path.Match, whose * matches slashes here).
	Paths []string
	FDs   []event.FD // the descriptor worked on, asked for, or made
	TIDs  []event.TID
	// Failed keeps only calls that failed.
	Failed bool
	// Findings keeps only what has a mark.
	Findings bool
	Expr     *filter.Calls // nil matches all
	// Fold makes one row of calls that are alike but for their time, where they follow
	// each other, or a few others, as those of a loop do.
	Fold bool
	// Rows is how many calls [Tables] keeps, and how many closed descriptors, the
	// latest ones: 0 for DefaultRows; below 0 for no calls, and as many descriptors.
	Rows int
	// Each, if set, is given each call instead: the event is valid during the call.
	Each func(*event.Syscall, rules.Mark)
	// Closed is how many closed descriptors it keeps, where that is not Rows.
	Closed int
}

// Match says whether a call is chosen; mark is what package rules gave for it.
func (f *Filter) Match(ev *event.Syscall, mark rules.Mark) bool {
	return (!f.Findings || mark != rules.Mark{}) && (!f.Failed || ev.Errno != "") &&
		(len(f.Calls) == 0 || slices.Contains(f.Calls, ev.Name)) &&
		(len(f.TIDs) == 0 || slices.Contains(f.TIDs, ev.TID)) &&
		(len(f.FDs) == 0 || slices.ContainsFunc(f.FDs, func(fd event.FD) bool { return concerns(ev, fd) })) &&
		(len(f.Paths) == 0 || slices.ContainsFunc(f.Paths, func(p string) bool {
			return matches(p, string(ev.Path)) || ev.Target != nil && matches(p, string(ev.Target.Link))
		})) && f.Expr.Match(ev, mark)
}

// concerns says whether a call works on a descriptor or makes it.
func concerns(ev *event.Syscall, fd event.FD) bool {
	return ev.FD.Is(fd) || ev.DirFD.Is(fd) || ev.NewFD.Is(fd) || decode.EditOf(ev).Made.Is(fd)
}

func matches(pattern, text string) bool {
	if text == "" {
		return false
	}
	if strings.Contains(text, pattern) { // also pipe:[42], which is no pattern
		return true
	}
	ok, err := path.Match(flat(pattern), flat(text))
	return ok && err == nil
}

// flat has no slashes, which path.Match treats differently.
func flat(s string) string { return strings.ReplaceAll(s, "/", "\x00") }
