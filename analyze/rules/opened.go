package rules

import (
	"cmp"
	"slices"
	"strings"

	"whosefd/analyze/state"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// view is a state, with what the rules ask of it again and again.
type view struct {
	*state.State
	threads []*event.Blocked
	opens   []*state.Open // see allOpens
}

func look(s *state.State) *view { return &view{State: s, threads: s.Threads()} }

func (v *view) allOpens() []*state.Open {
	if v.opens == nil {
		v.opens = v.Opens()
	}
	return v.opens
}

// suspect is a possible violation of the invariant: a name, the file that the
// debugger got or would get for it, and the one that is meant.
type suspect struct {
	name   event.Text
	meant  meant
	opened event.Target
	fd     event.Opt[event.FD]
	// open is what was seen of the opening; nil in a look at a debugger that
	// had done it before.
	open *state.Open
	// blocked is the thread that is in a read of it now.
	blocked *event.Blocked
	origin  *state.Origin
	// proof is how sure it is that the debugger opened the name; different how
	// sure that the two files are two.
	proof, different Confidence
	// hypothetical: nothing says that the debugger has opened it.
	hypothetical bool
	// entered: it is a copy of the debugger that resolves the name, inside the
	// inferior's mount namespace.
	entered bool
	notes   []Fact
}

// settled are names of inferiors of which an open has decided.
type settled map[NameOf]bool

// openedWrongly gives the suspects among the opens that were seen, and which names
// of which inferiors are settled by them.
func (v *view) openedWrongly() ([]suspect, settled) {
	var found []suspect
	done := settled{}
	for _, o := range v.allOpens() {
		reader := v.readerOf(o)
		if o.Errno == state.Unfinished && reader == nil {
			continue // it has come back since
		}
		for _, s := range v.judge(o, done) {
			s.blocked = reader
			found = append(found, s)
		}
	}
	// Searching along a path: it found the right file in the end.
	found = slices.DeleteFunc(found, func(s suspect) bool {
		return s.blocked == nil && s.open.Bytes == 0 && !s.open.Mapped && v.openedLater(s)
	})
	return found, done
}

// judge compares an open with what each inferior means by the name.
func (v *view) judge(o *state.Open, done settled) []suspect {
	name := decode.ClassifyName(string(o.Name))
	if name.Derived || strings.Contains(o.Flags, "O_DIRECTORY") {
		return nil
	}
	base := suspect{name: o.Name, opened: o.Result(), open: o, origin: v.OriginOf(o), proof: Certain}
	if o.FD.Known && o.Live > 0 {
		base.fd = o.FD
	}
	var found []suspect
	right := false
	for _, m := range v.owners(o) {
		done[NameOf{m.pid, o.Name}] = true
		s := base
		if o.Errno == state.Unfinished && !s.opened.Identified() {
			// Where the name leads is known, if not by this call.
			if t, known := v.inDebugger(m.lm); known {
				s.opened = t
			}
		}
		rel, sure := m.compare(s.opened)
		switch rel {
		case same:
			right = true
		case different:
			s.meant, s.different = m, sure
			found = append(found, s)
		}
	}
	if right || o.Rewritten {
		return nil // it was opened for that one
	}
	if len(found) == 0 && !slices.ContainsFunc(v.InferiorPIDs(), func(pid event.PID) bool { return done[NameOf{pid, o.Name}] }) {
		found = v.withoutList(base, name)
	}
	return v.disambiguate(found)
}

// owners are the inferiors whose list of libraries holds the name of an open:
// the one from whose memory the name was read, else those that were there at
// that moment, else any.
func (v *view) owners(o *state.Open) []meant {
	var all []meant
	for _, lm := range v.Named(o.Name) {
		if isLibrary(lm) {
			all = append(all, meantBy(lm))
		}
	}
	if decode.MapText(string(o.Name)) { // no name, but a text of the kernel's
		for _, inf := range v.Inferiors {
			if lm := program(inf); lm != nil && lm.Name == o.Name {
				all = append(all, meantBy(lm))
			}
		}
		for _, lm := range v.LinkMaps() {
			if len(all) == 0 && lm.Mapped != nil && lm.Mapped.Link == o.Name && v.byMapText() {
				all = append(all, meantBy(lm))
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	narrow := func(ok func(event.PID) bool) {
		if slices.ContainsFunc(all, func(m meant) bool { return ok(m.pid) }) {
			all = slices.DeleteFunc(all, func(m meant) bool { return !ok(m.pid) })
		}
	}
	narrow(func(pid event.PID) bool {
		return slices.ContainsFunc(o.Counterpart, func(c event.Counterpart) bool { return c.PID == pid })
	})
	if origin := v.OriginOf(o); origin != nil {
		narrow(func(pid event.PID) bool { return pid == origin.PID })
	}
	slices.SortFunc(all, func(x, y meant) int {
		return cmp.Or(cmp.Compare(x.pid, y.pid), x.lm.Namespace-y.lm.Namespace, x.lm.Index-y.lm.Index)
	})
	return all
}

// withoutList judges an open whose name stands in no list of libraries that is
// known: by the counterpart, and by whether the name was read from the
// inferior's memory.
func (v *view) withoutList(base suspect, name decode.Name) []suspect {
	o := base.open
	if strings.HasPrefix(string(o.Name), "/memfd:") && decode.MapText(string(o.Name)) && o.Errno != "" && v.byMapText() {
		base.different = Likely // whosever it is: it is no path
		return []suspect{base}
	}
	if !name.Dependent() && name.Kind != decode.PIDFD && name.Kind != decode.PIDPath {
		return v.ofEntry(base)
	}
	var found []suspect
	for _, c := range o.Counterpart {
		if base.origin != nil && base.origin.PID != 0 && base.origin.PID != c.PID {
			continue
		}
		// A debugger has uses of its own for such names. What makes one
		// suspicious is that it was read from the inferior, or that it is a
		// descriptor of the inferior that can hold a library, unless the
		// inferior's list is known not to have it.
		if base.origin == nil && (name.Kind != decode.SelfFD || v.ListKnown(c.PID) || !holdsLibrary(c.Target)) {
			continue
		}
		s := base
		s.meant = meant{pid: c.PID, hint: &c.Target}
		rel, sure := s.meant.compare(base.opened)
		if rel != different {
			continue
		}
		s.different = sure
		if base.origin == nil {
			s.different = Possible
			if v.ownPipe(s.opened) {
				s.different = Likely
			}
		}
		found = append(found, s)
	}
	if len(found) > 0 || len(o.Counterpart) > 0 {
		return found
	}
	// The inferior's side is not known at all.
	s := base
	s.different = Possible
	own := name.Kind == decode.SelfFD && v.ownPipe(s.opened)
	if own && base.origin == nil && len(v.Inferiors) == 1 && !v.givenByUser(o.Name) {
		for pid, inf := range v.Inferiors {
			if inf.Core != nil && !v.ListKnown(pid) {
				s.meant.pid, s.different = pid, Likely // nobody else has names for it
			}
		}
	}
	switch {
	case base.origin != nil && v.mayBeRight(o, &name):
		return nil
	case base.origin != nil:
		s.meant.pid = base.origin.PID
		s.different = Likely
		if name.Kind == decode.Relative {
			s.different = Possible
		}
	case !own || o.Errno != "" || o.Live == 0 || v.givenByUser(o.Name):
		return nil
	}
	return []suspect{s}
}

// ofEntry judges an open of a name that means the same to everybody, as far as
// its text tells. The list of libraries is not known, but the debugger was seen
// to read an entry of it that points to the name, and what it got for it is no
// file that the inferior could have mapped.
func (v *view) ofEntry(s suspect) []suspect {
	o := s.open
	switch {
	case s.origin == nil || s.origin.Entry == 0 || v.ListKnown(s.origin.PID):
		return nil
	case o.Errno != "" && o.Errno != state.Unfinished:
		if v.foundElsewhere(o) {
			return nil
		}
	case gotLibrary(o):
		return nil
	}
	s.meant.pid, s.different = s.origin.PID, Likely
	s.notes = append(s.notes, Ambiguous{})
	return []suspect{s}
}

// byMapText says whether the debugger has nothing but what /proc/PID/maps shows to look for libraries by:
// one that reads the lists of its inferiors tries the mappings of a core beside that.
func (v *view) byMapText() bool {
	d := decode.DebuggerOf(&v.Debugger)
	return d == nil || d.Opens == decode.OpensNever
}

// mayBeRight says whether an open of a name that was read from the inferior's
// memory may have led to the file that is meant, where nothing is known of the
// inferior: a relative name if both are in one directory, a name below
// /proc/<its number> always.
func (v *view) mayBeRight(o *state.Open, name *decode.Name) bool {
	switch name.Kind {
	case decode.Relative:
		return gotLibrary(o) || o.Errno != "" && v.foundElsewhere(o)
	case decode.PIDFD, decode.PIDPath:
		return gotLibrary(o) && name.PID == o.Origin.PID
	}
	return false
}

// gotLibrary says whether what was opened can be a library, as far as was seen.
func gotLibrary(o *state.Open) bool {
	return o.Errno == "" && mappable(o.Target.Kind) && o.Head != state.HeadOther && (o.Reads == 0 || o.Bytes > 0)
}

// holdsLibrary says whether a target can be a library.
func holdsLibrary(t event.Target) bool { return t.Kind == event.Memfd || t.Kind == event.Regular }

// foundElsewhere says whether the debugger opened a file of the same name in
// another folder after it had failed: it searches along a path.
func (v *view) foundElsewhere(failed *state.Open) bool {
	base := func(name event.Text) event.Text { return name[strings.LastIndexByte(string(name), '/')+1:] }
	return slices.ContainsFunc(v.allOpens(), func(o *state.Open) bool {
		return o.Errno == "" && o.Last >= failed.First && base(o.Name) == base(failed.Name)
	})
}

// openedLater says whether the debugger got hold of the file that is meant
// after a failed or useless open.
func (v *view) openedLater(s suspect) bool {
	return v.holds(s.meant) || slices.ContainsFunc(v.allOpens(), func(o *state.Open) bool {
		rel, _ := s.meant.compare(o.Target)
		return o.Last >= s.open.First && o.Errno == "" && rel == same
	})
}

// holds says whether the debugger has the meant file open.
func (v *view) holds(m meant) bool {
	for _, d := range v.Descriptors(v.Debugger.PID) {
		if rel, _ := m.compare(d.Target); rel == same {
			return true
		}
	}
	return false
}

// readerOf gives the thread that is in a read of what an open made, or still in
// the open.
func (v *view) readerOf(o *state.Open) *event.Blocked {
	for _, b := range v.threads {
		if o.Errno == state.Unfinished && isOpen(b.Syscall) && b.TID == o.TID && (b.Path == "" || b.Path == o.Name) {
			return b
		}
		if !b.FD.Known || !isRead(b.Syscall) {
			continue
		}
		if d := v.Descriptor(b.PID, b.FD.Val); d != nil && d.Open == o && (b.Target == nil || !b.Target.Identified() || b.Target.Same(o.Target)) {
			return b
		}
	}
	return nil
}

// disambiguate lowers the confidence of suspects that exclude each other: one
// opening, and several inferiors that mean different files by its name.
func (v *view) disambiguate(found []suspect) []suspect {
	var distinct []suspect
	for _, s := range found {
		if !slices.ContainsFunc(distinct, func(d suspect) bool {
			return d.name == s.name && d.meant.target().Same(s.meant.target())
		}) {
			distinct = append(distinct, s)
		}
	}
	if len(distinct) < 2 {
		return distinct
	}
	for i := range distinct {
		s := &distinct[i]
		s.proof = weakest(s.proof, Likely)
		var others []NameOf
		for j, o := range distinct {
			if j != i {
				others = append(others, NameOf{o.meant.pid, o.name})
			}
		}
		s.notes = append(s.notes, Ambiguous{others})
	}
	return distinct
}

// OfCall says what is worth a mark about a call that the state has just taken,
// with what is known by then: the inferior's list often comes later than the open.
func OfCall(s *state.State, ev *event.Syscall) Mark {
	row, ok := decode.ByName(ev.Name)
	if !ok || ev.PID != s.Debugger.PID {
		return Mark{}
	}
	switch row.Class {
	case decode.ClassOpen:
		if o := s.LatestOpen(ev); o != nil && ev.Path != "" {
			return ofOpen(s, o)
		}
	case decode.ClassRead:
		if !ev.FD.Known || !ev.Unfinished && (ev.Ret.Val <= 0 || ev.Target == nil || ev.Target.Kind != event.TTY) {
			return Mark{}
		}
		if d := s.Descriptor(ev.PID, ev.FD.Val); d != nil && d.Open != nil {
			if m := ofOpen(s, d.Open); ev.Unfinished || m.Effect == StolenInput {
				return m
			}
		}
	}
	return Mark{}
}

func ofOpen(s *state.State, o *state.Open) Mark {
	name := decode.ClassifyName(string(o.Name))
	if name.Derived || o.Rewritten || strings.Contains(o.Flags, "O_DIRECTORY") {
		return Mark{}
	}
	v := &view{State: s}
	result := o.Result()
	var wrong []meant
	owners := v.owners(o)
	for _, m := range owners {
		switch rel, _ := m.compare(result); rel {
		case same:
			return Mark{}
		case different:
			wrong = append(wrong, m)
		}
	}
	if len(owners) == 0 {
		for _, found := range v.withoutList(suspect{name: o.Name, opened: result, open: o, origin: s.OriginOf(o)}, name) {
			wrong = append(wrong, found.meant)
		}
	}
	if len(wrong) == 0 {
		return Mark{}
	}
	return Mark{cause(s, o.Name, wrong[0]), expectedIn(decode.DebuggerOf(&s.Debugger), result)}
}
