package rules

import (
	"slices"
	"strings"

	"whosefd/analyze/state"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// finding makes the finding of a suspect: cause, effect, and the facts.
func (v *view) finding(s *suspect) Finding {
	effect, sure := v.effect(s)
	f := Finding{
		Rule: cause(v.State, s.name, s.meant), Effect: effect, Name: s.name,
		Identity:     weakest(s.proof, s.different),
		Confidence:   weakest(s.proof, s.different, sure),
		Opened:       v.openedFile(s),
		Intended:     v.intendedFile(s),
		Owner:        s.meant.pid,
		Hypothetical: s.hypothetical,
		Entered:      s.entered,
		OwnPipe:      v.ownPipe(s.opened),
		Program:      s.meant.lm != nil && s.meant.lm.Index == programIndex,
		MapText:      decode.MapText(string(s.name)) && (s.meant.lm == nil || s.meant.lm.Name != s.name),
	}
	if s.blocked != nil {
		f.TID, f.Arch = s.blocked.TID, s.blocked.Arch
		f.Endless = effect == Hang && sure == Certain
		f.Reopened = f.OwnPipe && len(v.readers(v.Debugger.PID, s.opened)) >= 2
	}
	_, f.Through = nameOf(v.State, s.name, s.meant.lm)
	if f.Intended == nil && s.meant.pid > 0 {
		f.Inferior = s.meant.pid
	}
	f.Facts = slices.Concat(v.factsOfOpening(s, &f), v.factsOfPipe(s), v.factsOfOrigin(s), v.factsOfIntent(s, &f), v.factsOfThread(s), s.notes)
	v.scripted(&f)
	return f
}

func (v *view) openedFile(s *suspect) Opened {
	o := Opened{PID: v.Debugger.PID, FD: s.fd, Target: s.opened}
	for _, fd := range v.ForFile(v.Debugger.PID, s.opened) {
		if !s.fd.Is(fd) {
			o.SameAsFD = append(o.SameAsFD, fd)
		}
	}
	return o
}

// intendedFile is nil where the inferior's side is not known.
func (v *view) intendedFile(s *suspect) *Intended {
	if s.meant.pid == 0 || s.meant.lm == nil && s.meant.hint == nil {
		return nil
	}
	in := &Intended{PID: s.meant.pid, Target: s.meant.target()}
	if n := v.kind(s); n.Kind == decode.SelfFD || n.Kind == decode.PIDFD {
		there := s.meant.hint
		if d := v.Descriptor(s.meant.pid, n.FD); d != nil && (there == nil || there.Error != "") { // or its first thread has ended
			there = &d.Target
		}
		if there != nil {
			if rel, _ := s.meant.compare(*there); rel == same {
				in.FD = event.Some(n.FD)
				if s.meant.hint != nil && in.Link == "" {
					in.Link = there.Link
				}
				if s.meant.hint != nil && there.Kind == event.Memfd {
					in.Kind = event.Memfd
				}
			}
		}
	}
	if s.meant.lm != nil && len(s.meant.lm.Reachable) > 0 {
		in.Reachable, in.DebuggerPath = s.meant.lm.Reachable[0], s.meant.lm.DebuggerPath
		in.Denied = strings.Contains(string(in.Path()), "/map_files/") && v.Debugger.MapFiles.Is(false)
	}
	return in
}

// factsOfOpening are how the debugger came to the file, and what it did with it.
func (v *view) factsOfOpening(s *suspect, f *Finding) (facts []Fact) {
	if b := s.blocked; b != nil {
		fact := Blocked{TID: b.TID, Syscall: b.Syscall, FD: b.FD, Wchan: b.Wchan, Killed: v.Killed}
		if isOpen(b.Syscall) {
			fact.Name = s.name
		}
		facts = append(facts, fact)
	}
	if o := s.open; o != nil {
		fact := OpenedName{T: o.Last, TID: o.TID, Syscall: o.Call, Name: s.name, Times: o.Count, File: s.opened}
		switch o.Errno {
		case "":
			fact.FD = o.FD
		case state.Unfinished:
			fact.Unfinished = true
		default:
			fact.Errno = o.Errno
		}
		facts = append(facts, fact)
		if o.Errno == "" && (o.Bytes > 0 || o.Reads > 0 || o.ReadErrno != "" || o.Mapped) {
			facts = append(facts, WasRead{Bytes: o.Bytes, Calls: o.Reads, NotELF: o.Head == state.HeadOther, Mapped: o.Mapped, Errno: o.ReadErrno})
		}
	}
	if s.fd.Known && (len(f.Opened.SameAsFD) > 0 || s.open == nil) {
		facts = append(facts, SameFile{FD: s.fd.Val, File: s.opened, Others: f.Opened.SameAsFD})
	}
	if s.hypothetical {
		facts = append(facts, NotOpened{})
	}
	return facts
}

// factsOfPipe are who could end a read from a pipe.
func (v *view) factsOfPipe(s *suspect) (facts []Fact) {
	b := s.blocked
	if b == nil || !isRead(b.Syscall) || s.opened.Kind != event.Pipe && s.opened.Kind != event.FIFO {
		return nil
	}
	w := v.writers(b)
	if !w.searched {
		if own := v.ownWriters(b); len(own) > 0 {
			facts = append(facts, Holders{Own: own})
		}
		return append(facts, NotSeen{What: NoHolders})
	}
	facts = append(facts, Holders{Own: w.own, Others: w.others, Looked: true, Searched: b.Searched, Complete: !w.doubt})
	if len(b.Unseen) > 0 {
		facts = append(facts, NotSeen{What: NoProcesses, Processes: b.Unseen, Excluded: !w.doubt})
	}
	return facts
}

// factsOfOrigin are whose name it is.
func (v *view) factsOfOrigin(s *suspect) (facts []Fact) {
	lm := s.meant.lm
	if o := s.origin; o != nil {
		fact := Origin{PID: o.PID, Addr: o.Addr, AgoUS: o.Ago, Known: o.Known, Size: o.Size}
		if lm != nil && lm.Owner() == o.PID && lm.NameAddr == o.Addr {
			fact.Index = event.Some(lm.Index)
		}
		facts = append(facts, fact)
		if lm == nil && o.Entry != 0 {
			facts = append(facts, LinkMap{PID: o.PID, Name: s.name, Addr: o.Entry, LoadAddr: o.Loaded, WasRead: true})
		}
	}
	if inf := v.Inferiors[s.meant.pid]; lm == nil && inf != nil && inf.Core != nil {
		facts = append(facts, CoreRead{inf.Owner(), inf.Core.Target})
	}
	if lm != nil && lm.Index == programIndex {
		return append(facts, Program{lm.Owner(), lm.Name})
	}
	if lm != nil && lm.Name != s.name && decode.MapText(string(s.name)) {
		return append(facts, MapText{PID: lm.Owner(), Text: s.name, Name: lm.Name, Start: lm.MapStart})
	}
	if lm != nil {
		facts = append(facts, LinkMap{PID: lm.Owner(), Name: lm.Name, Index: event.Some(lm.Index), Addr: lm.Addr, LoadAddr: lm.LoadAddr})
	}
	return facts
}

// factsOfIntent are what the inferior means by the name.
func (v *view) factsOfIntent(s *suspect, f *Finding) (facts []Fact) {
	in, lm, hint := f.Intended, s.meant.lm, s.meant.hint
	if in == nil {
		return []Fact{NotSeen{What: NoIntended}}
	}
	if hint != nil && !f.MapText {
		inf := v.Inferiors[in.PID]
		facts = append(facts, Resolves{PID: in.PID, Debugger: s.opened, Inferior: *hint,
			LeaderEnded: inf != nil && inf.LivingTID != 0 && hint.Error == "ENOENT"})
	}
	if lm == nil {
		return facts
	}
	fact := Mapped{PID: in.PID, File: in.Target, Start: lm.MapStart, End: lm.MapEnd, Reachable: in.Reachable}
	if n := v.kind(s); (n.Kind == decode.SelfFD || n.Kind == decode.PIDFD) && !in.FD.Known && hint != nil {
		fact.ClosedFD, fact.Reused = event.Some(n.FD), hint.Error == ""
	}
	facts = append(facts, fact)
	if s.different != Certain {
		facts = append(facts, NotSeen{What: NoDevice})
	}
	return facts
}

// factsOfThread are why the blocked thread cannot be interrupted, and what is on
// its stack.
func (v *view) factsOfThread(s *suspect) (facts []Fact) {
	b := s.blocked
	if b == nil {
		return nil
	}
	fact := Signals{Opens: isOpen(b.Syscall), SIGINT: b.SIGINT}
	if fg, known := v.Foreground(); known && fg != v.Debugger.PID {
		fact.Foreground = fg
	}
	if fact.SIGINT == "" {
		fact.SIGINT = v.Debugger.SIGINT
	}
	switch fact.SIGINT {
	case "caught", "ignored", "blocked":
		facts = append(facts, fact)
	default:
		if fact.Foreground != 0 {
			facts = append(facts, fact)
		}
	}
	if at := v.frames(b.TID, s.name); len(at) > 0 {
		held := OnStack{TID: b.TID, Name: s.name}
		for _, i := range at {
			held.Frames = append(held.Frames, HeldFrame{i, v.Stacks[b.TID].Frames[i].Function})
		}
		facts = append(facts, held)
	}
	return facts
}

// scripted adds that it is a script that reads or opens, by the backtrace: the innermost frame
// outside of the C library is its interpreter's.
func (v *view) scripted(f *Finding) {
	var by Scripted
frames:
	for i, frame := range v.Stacks[f.TID].Frames {
		language := decode.ScriptOf(string(frame.Module), frame.Function)
		switch {
		case language != "" && (by.Language == "" || language == by.Language):
			if by.Language == "" {
				by = Scripted{TID: f.TID, Language: language, Module: frame.Module, First: i}
			}
			by.Last = i
		case by.Language == "" && ofLibC(string(frame.Module)):
		default:
			break frames
		}
	}
	if by.Language != "" {
		f.Script = by.Language
		f.Facts = append(f.Facts, by)
	}
}

// ofLibC says whether a module is the C library, or the kernel's.
func ofLibC(module string) bool {
	base := module[strings.LastIndexByte(module, '/')+1:]
	return strings.HasPrefix(base, "libc.") || strings.HasPrefix(base, "libc-") || strings.HasPrefix(base, "libpthread") ||
		strings.HasPrefix(base, "ld-") || strings.HasPrefix(base, "[")
}
