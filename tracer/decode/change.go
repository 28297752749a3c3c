package decode

import (
	"math"
	"strings"

	"whosefd/tracer/event"
)

// Change is the column of [Call] that says what a successful call does to the
// descriptor table of its process. This list, the rows that refer to it, and
// [Call.Edit], which puts it to a call's arguments and result, are all that is
// said about that: tables that are kept while calls go by apply the [Edit].
type Change uint8

// The changes. No call gives a number that is in use a new meaning otherwise.
const (
	Keeps       Change = iota
	Makes              // the result is a new descriptor, for a file of its own
	MakesPair          // two new ones, at FDPair
	MayMake            // new ones may have come, and the result does not say which
	Copies             // the result is a new descriptor, for the file of FD
	Replaces           // the number NewFD now means the file of FD
	Drops              // FD is closed, even where close(2) reports an error other than EBADF
	DropsRange         // FirstFD to LastFD are closed or, with CLOSE_RANGE_CLOEXEC, marked close-on-exec
	DropsOnExec        // all that are marked close-on-exec are closed
	ByCommand          // fcntl(2): F_DUPFD and F_DUPFD_CLOEXEC copy, F_SETFD marks, others keep
)

// Edit is what one call is known to do to a descriptor table. The zero Edit does
// nothing. Of [MakesPair] and [MayMake] the call's event does not have the numbers:
// whoever needs them looks, and sends an [event.Descriptor].
type Edit struct {
	// Close are closed; Mark have their close-on-exec flag set to CloseOnExec.
	Close, Mark Range
	// Made is a new descriptor, which has the flag CloseOnExec. Whatever had its
	// number is closed. It means the file of From, or where that is absent, one
	// that the call itself found or made.
	Made, From event.Opt[event.FD]
	// CloseOnExec is absent where the call's decoded arguments do not tell it.
	CloseOnExec event.Opt[bool]
	// Exec: those that are marked close-on-exec are closed.
	Exec bool
}

// Range is a range of descriptors; End is not in it. The zero Range is empty.
type Range struct{ First, End event.FD }

// Has says whether a descriptor is in the range.
func (r Range) Has(fd event.FD) bool { return fd >= r.First && fd < r.End }

func only(fd event.FD) Range { return Range{fd, fd + 1} }

// between gives the range of close_range(2). The kernel has no descriptors beyond
// math.MaxInt32.
func between(first, last uint32) Range {
	return Range{event.FD(min(first, math.MaxInt32)), event.FD(min(uint64(last)+1, math.MaxInt32))}
}

// EditOf gives what a call has done to the table of its process: nothing as long
// as it has not returned, or if it failed.
func EditOf(ev *event.Syscall) Edit {
	row, ok := ByName(ev.Name)
	switch {
	case !ok || row.Change == Keeps || ev.Unfinished:
		return Edit{}
	case ev.Errno != "" && (row.Change != Drops || ev.Errno == "EBADF"):
		return Edit{}
	}
	return row.Edit(ev)
}

// Edit gives what a call does to the table of its process if it succeeds. The
// number that the kernel chooses for a new descriptor is known when the call has
// returned; the rest, before.
func (c *Call) Edit(ev *event.Syscall) Edit {
	var made event.Opt[event.FD]
	if ev.Ret.Known && ev.Ret.Val >= 0 && ev.Ret.Val <= math.MaxInt32 {
		made = event.Some(event.FD(ev.Ret.Val))
	}
	cloexec := event.Opt[bool]{Val: strings.Contains(ev.Flags, "CLOEXEC"), Known: c.flags >= 0 || c.Class == ClassOpen || c.Class == ClassDup}
	if !cloexec.Known {
		cloexec.Val = false
	}
	switch c.Change {
	case Makes:
		return Edit{Made: made, CloseOnExec: cloexec}
	case Copies:
		return Edit{Made: made, From: ev.FD, CloseOnExec: cloexec}
	case Replaces:
		if ev.NewFD.Known {
			made = ev.NewFD
		}
		if made == ev.FD {
			return Edit{} // dup2(2) of a descriptor onto itself
		}
		return Edit{Made: made, From: ev.FD, CloseOnExec: cloexec}
	case Drops:
		if ev.FD.Known {
			return Edit{Close: only(ev.FD.Val)}
		}
	case DropsRange:
		r := between(ev.FirstFD.Val, ev.LastFD.Val)
		switch {
		case !ev.FirstFD.Known || !ev.LastFD.Known: // a recording or log may lack them
		case cloexec.Val:
			return Edit{Mark: r, CloseOnExec: cloexec}
		default:
			return Edit{Close: r}
		}
	case DropsOnExec:
		return Edit{Exec: true}
	case ByCommand:
		switch {
		case strings.HasPrefix(ev.Flags, "F_DUPFD") && ev.Flags != "F_DUPFD_QUERY":
			return Edit{Made: made, From: ev.FD, CloseOnExec: cloexec}
		case ev.Flags == "F_SETFD" && ev.FD.Known && ev.CloseOnExec.Known:
			return Edit{Mark: only(ev.FD.Val), CloseOnExec: ev.CloseOnExec}
		}
	}
	return Edit{}
}

// MakesFD says that the result of the call, if it is no error, is a new
// descriptor. args are its arguments: fcntl(2) makes one only for some.
func (c *Call) MakesFD(args [6]uint64) bool {
	switch c.Change {
	case Makes, Copies, Replaces:
		return true
	case ByCommand:
		cmd := uint32(args[c.flags])
		return cmd == fDupFD || cmd == fDupFDCloexec
	}
	return false
}

// RangeArgs are the indexes of the first and the last descriptor that the call
// closes, -1 without them.
func (c *Call) RangeArgs() (first, last int) { return int(c.first), int(c.last) }

// SetsCloseOnExec gives what a call sets the close-on-exec flag of its descriptor
// to: fcntl(2) with F_SETFD (FD_CLOEXEC is 1, linux/fcntl.h).
func (c *Call) SetsCloseOnExec(args [6]uint64) event.Opt[bool] {
	if c.Change != ByCommand || uint32(args[c.flags]) != fSetFD {
		return event.Opt[bool]{}
	}
	return event.Some(args[c.flags+1]&1 != 0)
}
