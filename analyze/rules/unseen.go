package rules

import (
	"slices"
	"strings"

	"whosefd/analyze/state"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// misleading gives the library names of inferiors that lead the debugger to another
// file than the one meant, and of which no open that was seen has decided.
func (v *view) misleading(done settled) []suspect {
	var names []suspect
	for _, lm := range v.objects() {
		if !isLibrary(lm) || done[NameOf{lm.Owner(), lm.Name}] || decode.ClassifyName(string(lm.Name)).Derived {
			continue
		}
		t, known := v.inDebugger(lm)
		if !known {
			continue
		}
		m := meantBy(lm)
		if v.shutOut(lm) {
			names = append(names, suspect{name: lm.Name, meant: m, opened: event.Target{Kind: event.Unknown, Error: "EPERM"}, different: Certain, entered: true})
			continue
		}
		if rel, sure := m.compare(t); rel == different {
			names = append(names, suspect{name: lm.Name, meant: m, opened: t, different: sure})
		}
	}
	return names
}

// readWrongly gives the suspects among the threads that are in a read or an open
// now, of a name whose opening was not seen. A read of what was seen opened is
// explained.
func (v *view) readWrongly(names, seen []suspect) []suspect {
	var found []suspect
	for _, b := range v.threads {
		var here []suspect
		for _, s := range names {
			if proof, ok := v.reads(b, s); ok {
				s.blocked, s.fd, s.proof = b, b.FD, proof
				here = append(here, s)
			}
		}
		here = v.disambiguate(v.notRead(v.onStack(b.TID, ofStream(b, here))))
		if len(here) == 0 && !slices.ContainsFunc(seen, func(s suspect) bool { return s.blocked == b }) {
			here = v.stackOnly(b)
		}
		found = append(found, here...)
	}
	return found
}

// heldWrongly gives what is left of the names: those of which the debugger has the
// wrong file open, and those that nothing shows it to have opened.
func (v *view) heldWrongly(names, reading []suspect) []suspect {
	var found []suspect
	reached := map[event.PID]bool{} // in another way, as by "set sysroot": it has a file of theirs open
	for _, s := range names {
		reached[s.meant.pid] = reached[s.meant.pid] || s.shutOut() && s.meant.lm.Index != programIndex && v.hasOpened(s.meant)
	}
	for _, s := range names {
		if s.shutOut() && reached[s.meant.pid] {
			continue
		}
		if v.holds(s.meant) || slices.ContainsFunc(reading, func(r suspect) bool { return r.name == s.name && r.meant.pid == s.meant.pid }) {
			continue
		}
		if fd, ok := v.holdsWrong(s); ok {
			s.proof, s.fd = Likely, event.Some(fd)
		} else if !s.entered && v.byEntering(&s) {
			continue
		} else {
			s.hypothetical, s.proof = true, Possible
			if n := v.noneOpen(s); n > 0 {
				s.proof, s.notes = Likely, append(s.notes, NoneOpen{s.meant.pid, n})
			}
		}
		found = append(found, s)
	}
	return oneShutOut(found)
}

// noneOpen is for the name of an inferior's program: it counts the libraries of the inferior if the
// debugger reads files by way of descriptors, and has neither the program nor any of these open. A gdb that had
// found the program would have found its list of libraries.
func (v *view) noneOpen(s suspect) (libraries int) {
	inf, d := v.Inferiors[s.meant.pid], decode.DebuggerOf(&v.Debugger)
	if s.meant.lm.Index != programIndex || inf == nil || inf.TracerTID == 0 || d == nil || d.Opens != decode.OpensAtOnce || d.Reads != decode.ReadsSequentially {
		return 0
	}
	path := strings.TrimSuffix(string(s.name), " (deleted)")
	if s.opened.Error == "" || slices.ContainsFunc(v.Debugger.Cmdline, func(arg event.Text) bool {
		return strings.HasSuffix(path, "/"+string(arg[strings.LastIndexByte(string(arg), '/')+1:]))
	}) {
		return 0 // its user has named the program
	}
	for _, lm := range v.LinkMaps() {
		if lm.Owner() != s.meant.pid || !isLibrary(lm) {
			continue
		}
		if v.holds(meantBy(lm)) {
			return 0
		}
		libraries++
	}
	return libraries
}

// shutOut says whether the debugger opens a name inside the mount namespace of its inferior,
// and may not enter that: then it finds no file at all, whatever the name.
func (v *view) shutOut(lm *event.LinkMap) bool {
	inf, d := v.Inferiors[lm.Owner()], decode.DebuggerOf(&v.Debugger)
	return inf != nil && d != nil && d.Enters && otherNamespace(&v.Debugger, &inf.Process, "mnt") && !v.mayEnter() &&
		decode.ClassifyName(string(lm.Name)).Kind != decode.Relative
}

// shutOut says that the debugger may not enter the mount namespace in which it opens the name.
func (s *suspect) shutOut() bool { return s.entered && s.opened.Error == "EPERM" }

// oneShutOut leaves one of the names of an inferior that the debugger is shut out of, with
// the number of the others: they have one cause.
func oneShutOut(found []suspect) []suspect {
	first, more := map[event.PID]int{}, map[event.PID]int{}
	var kept []suspect
	for _, s := range found {
		if s.shutOut() {
			if _, known := first[s.meant.pid]; known {
				more[s.meant.pid]++
				continue
			}
			first[s.meant.pid] = len(kept)
		}
		kept = append(kept, s)
	}
	for pid, i := range first {
		kept[i].notes = append(kept[i].notes, ShutOut{pid, more[pid]})
	}
	return kept
}

// hasOpened says whether the debugger has the meant file open, or was seen to open it.
func (v *view) hasOpened(m meant) bool {
	return v.holds(m) || slices.ContainsFunc(v.allOpens(), func(o *state.Open) bool {
		rel, _ := m.compare(o.Target)
		return o.Errno == "" && rel == same
	})
}

// byEntering is for a debugger that opens names inside the mount namespace of
// its inferior: a copy of itself enters it, and sends the descriptors back. It says
// whether the name leads to the right file that way, and corrects what it leads
// to. Names that start at the working directory are not opened so.
func (v *view) byEntering(s *suspect) bool {
	inf, d := v.Inferiors[s.meant.pid], decode.DebuggerOf(&v.Debugger)
	if inf == nil || d == nil || !d.Enters || !otherNamespace(&v.Debugger, &inf.Process, "mnt") {
		return false
	}
	switch n := v.kind(s); n.Kind {
	case decode.Relative:
		return false
	case decode.SelfFD, decode.SelfLink:
		// The copy has gdb's descriptors; but the /proc there does not show it
		// if that is of another pid namespace: then there is no self.
		if otherNamespace(&v.Debugger, &inf.Process, "pid") {
			s.opened = event.Target{Kind: event.Unknown, Error: "ENOENT"}
		}
		s.entered = true
		return false
	}
	return true
}

// inDebugger is what a library's name leads to in the debugger; false where
// that could not be learned.
func (v *view) inDebugger(lm *event.LinkMap) (event.Target, bool) {
	if t, known := resolution(lm, v.Debugger.PID); known {
		return t, tells(t) // if we could not look, that says nothing about the debugger
	}
	n := decode.ClassifyName(string(lm.Name))
	if n.Kind != decode.SelfFD || n.Rest != "" || !v.TableKnown(v.Debugger.PID) {
		return event.Target{}, false
	}
	if d := v.Descriptor(v.Debugger.PID, n.FD); d != nil {
		return d.Target, true
	}
	return event.Target{Kind: event.Unknown, Error: "ENOENT"}, true
}

// tells says whether a resolution says what the name leads to, be it nothing.
func tells(t event.Target) bool {
	switch t.Error {
	case "", "ENOENT", "ENOTDIR", "ELOOP", "ENXIO", "ENODEV", "ENAMETOOLONG":
		return true
	}
	return false
}

// reads says whether a thread is in a read of what the debugger opened by the
// name of s, or in its open, and how sure that is.
func (v *view) reads(b *event.Blocked, s suspect) (Confidence, bool) {
	if isOpen(b.Syscall) && b.Path == s.name {
		return Certain, true // not yet
	}
	if !isRead(b.Syscall) || b.Target == nil || !b.FD.Known || !b.Target.Same(s.opened) {
		return "", false
	}
	if n := v.kind(&s); n.Kind == decode.SelfFD && n.FD == b.FD.Val {
		return "", false // the descriptor that the name means, not one made by opening it
	}
	named := v.frames(b.TID, s.name) != nil
	switch {
	// pipe(2) makes one reading descriptor; a second one was opened by name.
	case b.Target.Kind == event.Pipe && len(v.readers(b.PID, *b.Target)) >= 2:
		return Certain, true
	case b.Target.Kind == event.Pipe:
		return Likely, named
	case b.Target.Kind == event.TTY && b.FD.Val <= 2: // the debugger's own input
		return "", false
	case b.Target.Kind == event.Socket, b.Target.Kind == event.AnonInode: // cannot be opened by name
		return "", false
	case named:
		return Certain, true
	}
	return Likely, true
}

// frames gives the frames of a thread's stack that hold a name; nil for none.
func (v *view) frames(tid event.TID, name event.Text) []int {
	var at []int
	for i, f := range v.Stacks[tid].Frames {
		if slices.ContainsFunc(f.Strings, func(s event.FrameString) bool { return s.Text == name }) {
			at = append(at, i)
		}
	}
	return at
}

// onStack narrows several suspects of one read down to those whose name is on
// the thread's stack, if any is.
func (v *view) onStack(tid event.TID, s []suspect) []suspect {
	named := slices.DeleteFunc(slices.Clone(s), func(s suspect) bool { return v.frames(tid, s.name) == nil })
	if len(named) > 0 {
		return named
	}
	return s
}

// ofStream narrows several suspects of one read down to that whose name belongs to the
// stream by which the thread reads.
func ofStream(b *event.Blocked, s []suspect) []suspect {
	if len(s) < 2 || len(b.Names) == 0 || b.Names[0].Stream == 0 {
		return s
	}
	proved := slices.DeleteFunc(slices.Clone(s), func(s suspect) bool { return s.name != b.Names[0].Text })
	if len(proved) == 0 {
		return s // it was opened by way of another name: a sysroot's
	}
	for i := range proved {
		proved[i].notes = append(proved[i].notes, inMemory(b, b.Names[0]))
	}
	return proved
}

func inMemory(b *event.Blocked, t event.MemoryText) InMemory {
	return InMemory{b.TID, t.Text, t.In, t.Addr, t.Stream, t.Object}
}

// notRead narrows several suspects of one read down to those whose right file the
// debugger does not have: it reads each library once, and what a repair has put into
// the place of the wrong file it keeps open.
func (v *view) notRead(s []suspect) []suspect {
	left := slices.DeleteFunc(slices.Clone(s), func(s suspect) bool { return v.holds(s.meant) })
	if len(left) > 0 {
		return left
	}
	return s
}

// stackOnly is for a read that hangs where the inferior's list could not be
// read: the name on the stack or elsewhere in the debugger's memory, and the pipe's
// writers, are what is left.
func (v *view) stackOnly(b *event.Blocked) []suspect {
	if !isRead(b.Syscall) || b.Target == nil || !b.FD.Known {
		return nil
	}
	if len(b.Names) > 0 {
		if v.givenByUser(b.Names[0].Text) || len(v.Inferiors) == 0 && len(v.writers(b).others) > 0 {
			return nil // its own name, or nobody's: somebody can write there
		}
		return []suspect{v.byText(b)}
	}
	if !v.ownPipe(*b.Target) {
		return nil
	}
	for _, f := range v.Stacks[b.TID].Frames {
		for _, str := range f.Strings {
			n := decode.ClassifyName(string(str.Text))
			if n.Kind != decode.SelfFD || n.Derived || n.FD == b.FD.Val || v.givenByUser(str.Text) {
				continue
			}
			own := v.Descriptor(b.PID, n.FD)
			if own == nil || !own.Target.Same(*b.Target) {
				continue
			}
			s := suspect{name: str.Text, opened: *b.Target, fd: b.FD, blocked: b, proof: Likely, different: Likely}
			if pids := v.InferiorPIDs(); len(pids) == 1 {
				s.meant.pid = pids[0]
			}
			return []suspect{s}
		}
	}
	return nil
}

// givenByUser says whether a name stands on the debugger's command line: gdb -x /dev/fd/63, as shells
// make it of <(…), or -ex "source /dev/fd/63". Then it is its own name, unless an inferior has it too.
func (v *view) givenByUser(name event.Text) bool {
	return slices.ContainsFunc(v.Debugger.Cmdline, func(arg event.Text) bool {
		before, after, found := strings.Cut(string(arg), string(name))
		return found && (before == "" || !nameByte(before[len(before)-1])) && (after == "" || !nameByte(after[0]))
	})
}

// nameByte says whether a byte before or after a name is a part of it.
func nameByte(b byte) bool {
	return b == '/' || b == '.' || b == '-' || b == '_' || '0' <= b && b <= '9' || 'a' <= b|0x20 && b|0x20 <= 'z'
}

// byText is for a read of a file to which a text in the debugger's memory leads.
func (v *view) byText(b *event.Blocked) suspect {
	s := suspect{name: b.Names[0].Text, opened: *b.Target, fd: b.FD, blocked: b, proof: Likely, different: Likely}
	if v.ownPipe(*b.Target) && len(v.readers(b.PID, *b.Target)) >= 2 {
		s.proof, s.different = Certain, Certain // such a pipe was opened by a name, and it is nobody's library
	}
	if pids := v.InferiorPIDs(); len(pids) == 1 && !v.ListKnown(pids[0]) {
		s.meant.pid = pids[0]
	}
	for _, n := range b.Names {
		s.notes = append(s.notes, inMemory(b, n))
	}
	return s
}

// readers are the descriptors of a process by which it can read a file.
func (v *view) readers(pid event.PID, of event.Target) []event.FD {
	return slices.DeleteFunc(v.ForFile(pid, of), func(fd event.FD) bool {
		access := v.Descriptor(pid, fd).Access
		return access == "w" || access == "path"
	})
}

// holdsWrong gives a descriptor by which the debugger has the wrong file open,
// beside the one that the name itself means. Of a pipe it has one without
// having opened any name; a file that would hang it is not only held.
func (v *view) holdsWrong(s suspect) (event.FD, bool) {
	n := v.kind(&s)
	fds := v.readers(v.Debugger.PID, s.opened)
	switch effect := expectedIn(decode.DebuggerOf(&v.Debugger), s.opened); {
	case effect == WrongFile:
	case effect == Failed && s.opened.Kind == event.Pipe && len(fds) >= 2:
		slices.Reverse(fds) // the one that was opened came later than the pipe
	default:
		return 0, false
	}
	for _, fd := range fds {
		if fd != n.FD {
			return fd, true
		}
	}
	return 0, false
}

// presumed says whether a name that leads to the wrong file counts as a finding,
// though nothing shows that the debugger has opened it: if debuggers of its sort do
// so as soon as they see the library, and if what they then suffer leaves no trace.
// A hang would show.
func (v *view) presumed(s *suspect, effect Effect) bool {
	if effect != WrongFile && effect != Failed {
		return false
	}
	inf := v.Inferiors[s.meant.pid]
	if inf != nil && inf.TracerTID == 0 && inf.Core == nil {
		return false // named by the user, not debugged
	}
	d := decode.DebuggerOf(&v.Debugger)
	if d == nil || d.Opens == decode.OpensNever {
		return false
	}
	// Of one that a gdbserver traces, gdb lets that open them, unless it is
	// told otherwise (set sysroot).
	return !d.Enters || inf == nil || inf.Core != nil || event.PID(inf.TracerTID) == v.Debugger.PID
}

// isRead says whether a thread waits for data from a descriptor.
func isRead(call string) bool {
	row, ok := decode.ByName(call)
	return ok && row.Class == decode.ClassRead
}

// isOpen says whether a thread waits for an open.
func isOpen(call string) bool {
	row, ok := decode.ByName(call)
	return ok && row.Class == decode.ClassOpen
}
