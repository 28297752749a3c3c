package analyze

import (
	"slices"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// relation is how two targets compare.
type relation uint8

const (
	unsure    relation = iota // not enough is known
	same                      // one file
	different                 // two files
)

// meant is the truth that an opened file is compared with: what the inferior
// has mapped under a name or, where that is not known, what the name leads to
// in the inferior.
type meant struct {
	pid event.PID
	lm  *event.LinkMap // nil: only hint is known
	// hint is the target of the name in the inferior. It proves less: the
	// inferior may have closed or reused the descriptor since.
	hint *event.Target
}

// target is the mapped file, the identity from stat(2) preferred.
func (m meant) target() event.Target {
	switch {
	case m.lm != nil && m.lm.MappedStat != nil && m.lm.MappedStat.Identified():
		t := *m.lm.MappedStat
		if m.lm.Mapped != nil && m.lm.Mapped.Link != "" {
			t.Link = m.lm.Mapped.Link
		}
		return t
	case m.lm != nil && m.lm.Mapped != nil:
		return *m.lm.Mapped
	case m.hint != nil:
		return *m.hint
	}
	return event.Target{Kind: event.Unknown}
}

// mappable says whether a file of that kind can be mapped as a library.
func mappable(k event.Kind) bool {
	switch k {
	case event.Regular, event.Memfd, event.BlockDev, event.CharDev, event.Unknown, "":
		return true
	}
	return false
}

// compare checks the invariant: is t the file that is meant? The confidence is
// that of the answer.
func (m meant) compare(t event.Target) (relation, Confidence) {
	if m.lm == nil || m.lm.Mapped == nil && m.lm.MappedStat == nil {
		return m.compareHint(t)
	}
	stat, mapped := m.lm.MappedStat, m.lm.Mapped
	switch {
	case t.Error != "" && !t.Identified():
		return different, Certain // nothing is there
	case stat != nil && t.Same(*stat), mapped != nil && t.Same(*mapped):
		return same, Certain
	case !mappable(t.Kind):
		return different, Certain // whatever is mapped, it is not this
	case !t.Identified():
		return unsure, Possible
	case stat != nil && stat.Identified():
		return different, Certain
	case mapped == nil || !mapped.Identified():
		return unsure, Possible
	}
	// Only maps is known. Its device is not always that of stat(2) (btrfs,
	// overlayfs), so only inodes of one device can be told apart for sure.
	switch {
	case t.Ino == mapped.Ino:
		return unsure, Possible
	case t.Dev == mapped.Dev:
		return different, Certain
	case t.Kind == event.Memfd || mapped.Kind == event.Memfd:
		return different, Certain // in the kernel's own tmpfs, where the two agree
	case t.Link != "" && t.Link == mapped.Link:
		return unsure, Possible
	}
	return different, Likely
}

func (m meant) compareHint(t event.Target) (relation, Confidence) {
	switch {
	case m.hint == nil:
		return unsure, Possible
	case t.Same(*m.hint):
		return same, Likely
	case m.hint.Identified() && (t.Identified() || t.Error != "" || !mappable(t.Kind)):
		return different, Likely
	}
	return unsure, Possible
}

// cause says why debugger and inferior mean different files by a name.
func (a *Analyzer) cause(name event.Text, m meant) Rule {
	n := decode.ClassifyName(string(name))
	inf := a.inferiors[m.pid]
	switch n.Kind {
	case decode.SelfFD:
		return RuleSelfFD
	case decode.SelfLink:
		return RuleSelfLink
	case decode.PIDFD, decode.PIDPath:
		switch {
		case n.PID == a.debugger.PID && n.Kind == decode.PIDFD:
			return RuleSelfFD
		case inf != nil && otherNamespace(a.debugger, inf.Process, "pid"):
			return RulePIDNS
		case inf != nil && n.PID != inf.PID && !sameNamespace(a.debugger, inf.Process, "pid"):
			return RulePIDNS
		}
		return RuleReplacedFile
	case decode.Relative:
		if inf == nil || inf.Cwd == "" || a.debugger.Cwd == "" || inf.Cwd != a.debugger.Cwd {
			return RuleRelative
		}
	}
	if inf != nil && otherNamespace(a.debugger, inf.Process, "mnt") {
		return RuleMountNS
	}
	// The same mounts, but another root (chroot): then the inferior reaches by
	// this name what it has mapped, and the debugger does not.
	if m.lm != nil {
		if t, known := resolution(m.lm, m.pid); known {
			if rel, _ := m.compare(t); rel == same {
				return RuleMountNS
			}
		}
	}
	return RuleReplacedFile
}

func otherNamespace(x, y event.Process, kind string) bool {
	return x.Namespaces[kind] != 0 && y.Namespaces[kind] != 0 && x.Namespaces[kind] != y.Namespaces[kind]
}

func sameNamespace(x, y event.Process, kind string) bool {
	return x.Namespaces[kind] != 0 && x.Namespaces[kind] == y.Namespaces[kind]
}

// resolution is what a name of the list leads to in process pid.
func resolution(lm *event.LinkMap, pid event.PID) (event.Target, bool) {
	for _, r := range lm.Resolves {
		if r.PID == pid {
			return r.Target, true
		}
	}
	return event.Target{}, false
}

// isLibrary says whether a list entry is an object with a name and a file: not
// the program itself, nor the vdso.
func isLibrary(lm *event.LinkMap) bool {
	switch {
	case lm.Name == "", strings.HasPrefix(string(lm.Name), "linux-vdso.so"), strings.HasPrefix(string(lm.Name), "linux-gate.so"):
		return false
	case lm.Mapped != nil && strings.HasPrefix(string(lm.Mapped.Link), "["):
		return false
	}
	return true
}

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

// expected is what opening a file of this sort would do to this debugger. lldb
// and dlv read libraries with pread(2), which a pipe and a terminal refuse
// (ESPIPE): there they do not hang, but have no symbols.
func (a *Analyzer) expected(t event.Target) Effect {
	effect := expected(t)
	if effect == Hang && t.Kind == event.Pipe || effect == StolenInput {
		for _, known := range []string{"lldb", "dlv"} {
			if strings.HasPrefix(string(a.debugger.Comm), known) {
				return Failed
			}
		}
	}
	return effect
}

// effect says what the debugger suffers, from what happened.
func (a *Analyzer) effect(s *suspect) (Effect, Confidence) {
	o := s.open
	if s.blocked != nil {
		effect, sure := a.effectOfRead(s)
		if o == nil || o.bytes == 0 {
			return effect, sure
		}
		// It has got some already, from somebody else unless the pipe is its own.
		if effect == StolenInput || effect == Hang && !a.ownPipe(s.opened) && !a.writers(s.blocked).searched {
			return StolenInput, Certain
		}
		return effect, sure
	}
	switch {
	case o == nil && s.fd.Known:
		return a.expected(s.opened), Likely
	case o == nil:
		return a.expected(s.opened), Possible
	}
	switch {
	case o.errno == unfinished:
		return Hang, Likely // an open that waits: a FIFO without writer
	case o.errno != "":
		return Failed, Certain
	case o.bytes > 0 && (expected(s.opened) == Hang || s.opened.Kind == event.TTY || s.opened.Kind == event.Socket):
		return StolenInput, Certain
	case expected(s.opened) == WrongFile && o.head == headOther:
		return Failed, Certain // "not in executable format"
	case expected(s.opened) == WrongFile && (o.bytes > 0 || o.mapped):
		return WrongFile, Certain
	case o.reads > 0 && o.bytes == 0 && o.readErrno == "":
		return Failed, Certain // there is nothing in it
	case o.readErrno != "":
		return Failed, Certain
	case expected(s.opened) == WrongFile:
		return WrongFile, Likely // open, but not read so far
	}
	return Failed, Likely
}

// effectOfRead is the effect where a thread is in a read of the wrong file now.
func (a *Analyzer) effectOfRead(s *suspect) (Effect, Confidence) {
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
	w := a.writers(s.blocked)
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

func (a *Analyzer) writers(b *event.Blocked) writers {
	w := writers{searched: len(b.Holders) > 0 || b.Searched > 0, made: b.Target != nil && b.Target.Kind == event.Pipe}
	for _, h := range b.Holders {
		switch {
		case h.Access == "r" || h.Access == "path":
		case h.PID == a.debugger.PID:
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
