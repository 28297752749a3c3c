package rules

import (
	"slices"

	"whosefd/analyze/state"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// expected is the effect that opening a file of this sort would have, before
// anything has happened.
func expected(t event.Target) Effect {
	if t.Error != "" {
		return Failed
	}
	switch t.Kind {
	case event.Pipe, event.FIFO:
		return Hang
	case event.TTY:
		return StolenInput
	case event.Regular, event.Memfd, event.BlockDev:
		return WrongFile
	}
	// Sockets and the files behind anonymous inodes cannot be opened by a name
	// below /proc (ENXIO); directories and /proc files can, but are no library.
	return Failed
}

// expectedIn is what opening a file of this sort would do to this debugger. Some
// read libraries with pread(2), which a pipe and a terminal refuse (ESPIPE): there
// they do not hang, but have no symbols.
func expectedIn(d *decode.Debugger, t event.Target) Effect {
	effect := expected(t)
	if (effect == Hang && t.Kind == event.Pipe || effect == StolenInput) && d != nil && d.Reads == decode.ReadsAtOffset {
		return Failed
	}
	return effect
}

// effect says what the debugger suffers, from what happened.
func (v *view) effect(s *suspect) (Effect, Confidence) {
	o := s.open
	if s.blocked != nil {
		effect, sure := v.effectOfRead(s)
		if o == nil || o.Bytes == 0 {
			return effect, sure
		}
		// It has got some already, from somebody else unless the pipe is its own.
		if effect == StolenInput || effect == Hang && !v.ownPipe(s.opened) && !v.writers(s.blocked).searched {
			return StolenInput, Certain
		}
		return effect, sure
	}
	if o == nil {
		if s.fd.Known || s.proof != Possible {
			return expectedIn(decode.DebuggerOf(&v.Debugger), s.opened), Likely
		}
		return expectedIn(decode.DebuggerOf(&v.Debugger), s.opened), Possible
	}
	readable := expected(s.opened) == WrongFile
	switch {
	case o.Errno == state.Unfinished:
		return Hang, Likely // an open that waits: a FIFO without writer
	case o.Errno != "":
		return Failed, Certain
	case o.Bytes > 0 && (expected(s.opened) == Hang || s.opened.Kind == event.TTY || s.opened.Kind == event.Socket):
		return StolenInput, Certain
	case readable && o.Head == state.HeadOther:
		return Failed, Certain // "not in executable format"
	case readable && (o.Bytes > 0 || o.Mapped):
		return WrongFile, Certain
	case o.Reads > 0 && o.Bytes == 0 && o.ReadErrno == "":
		return Failed, Certain // there is nothing in it
	case o.ReadErrno != "":
		return Failed, Certain
	case readable:
		return WrongFile, Likely // open, but not read so far
	}
	return Failed, Likely
}

// effectOfRead is the effect where a thread is in a read of the wrong file now.
func (v *view) effectOfRead(s *suspect) (Effect, Confidence) {
	if isOpen(s.blocked.Syscall) {
		// Nobody has this FIFO open for writing, or it is a device that is not
		// ready: that can change, but nobody is known who would change it.
		return Hang, Likely
	}
	switch s.opened.Kind {
	case event.TTY:
		return StolenInput, Certain
	case event.Regular, event.Memfd, event.BlockDev, event.Directory, event.Procfs:
		return WrongFile, Likely // such a read ends
	case event.Pipe, event.FIFO:
	default:
		return Hang, Likely
	}
	w := v.writers(s.blocked)
	switch {
	case !w.searched:
		return Hang, Likely
	case len(w.others) > 0:
		return StolenInput, Likely
	case len(w.own) == 0:
		return Hang, Possible // a pipe without writers ends: the evidence is not of one moment
	case w.doubt:
		return Hang, Likely
	}
	return Hang, Certain
}

// writers are who could end a read from a pipe.
type writers struct {
	searched bool
	own      []event.FD     // of the debugger
	others   []event.Holder // of anybody else
	// made: the debugger made the pipe itself, after its program had begun to
	// run, so that a process that is older cannot have inherited it.
	made bool
	// doubt: a process that could not be looked at could be one.
	doubt bool
}

func (v *view) writers(b *event.Blocked) writers {
	w := writers{searched: len(b.Holders) > 0 || b.Searched > 0, made: b.Target != nil && b.Target.Kind == event.Pipe}
	for _, h := range b.Holders {
		switch {
		case h.Access == "r" || h.Access == "path":
		case h.PID == v.Debugger.PID:
			// Where the access is not known, the debugger's own reader is none.
			if h.Access != "" || !b.FD.Is(h.FD) {
				w.own = append(w.own, h.FD)
				w.made = w.made && h.CloseOnExec.Is(true)
			}
		default:
			w.others = append(w.others, h)
		}
	}
	slices.Sort(w.own)
	w.doubt = slices.ContainsFunc(b.Unseen, func(u event.Unseen) bool { return !w.made || !u.Older })
	return w
}

// ownWriters are the descriptors by which the debugger itself can write to the
// pipe that a thread reads, where nobody has looked for all holders.
func (v *view) ownWriters(b *event.Blocked) []event.FD {
	if b.Target == nil {
		return nil
	}
	return slices.DeleteFunc(v.ForFile(b.PID, *b.Target), func(fd event.FD) bool {
		access := v.Descriptor(b.PID, fd).Access
		return access != "w" && access != "rw"
	})
}

// ownPipe says whether a target is a pipe that the debugger has by descriptors that
// it got without opening a name.
func (v *view) ownPipe(t event.Target) bool {
	if t.Kind != event.Pipe && t.Kind != event.FIFO {
		return false
	}
	for _, d := range v.Descriptors(v.Debugger.PID) {
		if d.Open == nil && d.Target.Same(t) {
			return true
		}
	}
	return false
}
