package analyze

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// suspect is a possible violation of the invariant: a name, the file that the
// debugger got or would get for it, and the one that is meant.
type suspect struct {
	name   event.Text
	meant  meant
	opened event.Target
	fd     event.Opt[event.FD]
	// open is what was seen of the opening; nil in a look at a debugger that
	// had done it before.
	open *opened
	// blocked is the thread that is in a read of it now.
	blocked *event.Blocked
	from    *origin
	// proof is how sure it is that the debugger opened the name; different how
	// sure that the two files are two.
	proof, different Confidence
	// would: nothing says that the debugger has opened it.
	would bool
	// entered: it is a copy of the debugger that resolves the name, inside the
	// inferior's mount namespace.
	entered bool
	notes   []Evidence
}

// Diagnosis draws the conclusions from what was added so far. It may be called
// at any time, and again later.
func (a *Analyzer) Diagnosis() *Diagnosis {
	d := &Diagnosis{Schema: Schema, Inferiors: []Process{}, Findings: []Finding{}}
	for _, pid := range a.inferiorPIDs() {
		inf := a.inferiors[pid]
		d.Inferiors = append(d.Inferiors, Process{PID: pid, Comm: inf.Comm, Exe: inf.Exe})
	}
	threads := a.threads()
	seen, settled := a.seen(threads)
	suspects := append(seen, a.unseen(threads, seen, settled)...)
	for i := range suspects {
		s := &suspects[i]
		f := a.finding(s)
		if s.would && !a.presumed(s, f) {
			d.Risks = append(d.Risks, a.risk(s, f))
			continue
		}
		d.Findings = append(d.Findings, f)
	}
	slices.SortStableFunc(d.Findings, func(x, y Finding) int {
		return cmp.Or(y.Effect.severity()-x.Effect.severity(), y.Confidence.level()-x.Confidence.level(),
			int(x.TID)-int(y.TID), strings.Compare(string(x.Name), string(y.Name)), intendedPID(&x)-intendedPID(&y))
	})
	a.missed(d)
	a.verdict(d, threads)
	for _, tid := range a.stackOrder(d) {
		d.Stack = append(d.Stack, a.stacks[tid])
	}
	if a.debugger.PID == event.NoPID {
		d.forgetPID()
	}
	return d
}

func intendedPID(f *Finding) int {
	if f.Intended == nil {
		return 0
	}
	return int(f.Intended.PID)
}

// missed says what the evidence lacks.
func (a *Analyzer) missed(d *Diagnosis) {
	d.Missing = slices.Clone(a.missing)
	for _, pid := range a.inferiorPIDs() {
		if inf := a.inferiors[pid]; inf.LinkMapError != "" {
			d.Missing = append(d.Missing, event.Text(fmt.Sprintf("the libraries of %s: %s", a.who(pid), inf.LinkMapError)))
		}
	}
	a.unresolved(d)
	if a.dropped > 0 {
		d.Missing = append(d.Missing, event.Text(count(a.dropped, "older fact")+" did not fit into the bounded memory of the analysis"))
	}
	if n := len(d.Findings) - maxFindings; n > 0 {
		d.Findings = d.Findings[:maxFindings]
		d.Missing = append(d.Missing, event.Text("more findings: "+count(int64(n), "lesser one")))
	}
}

// maxUnresolved is how many names are told of that could not be looked up.
const maxUnresolved = 5

// unresolved says which libraries' names could not be looked up as the debugger
// does it.
func (a *Analyzer) unresolved(d *Diagnosis) {
	n, seen := 0, map[event.Text]bool{}
	for _, k := range a.mapKeys() {
		lm := a.maps[k]
		t, known := resolution(lm, a.debugger.PID)
		if _, looked := a.inDebugger(lm); !known || looked || !isLibrary(lm) || seen[lm.Name] {
			continue
		}
		seen[lm.Name] = true
		if n++; n <= maxUnresolved {
			d.Missing = append(d.Missing, event.Text(fmt.Sprintf("what %s leads to in %s: %s", lm.Name, a.short(a.debugger.PID), lookupError(t.Error))))
		}
	}
	if n > maxUnresolved {
		d.Missing = append(d.Missing, event.Text(fmt.Sprintf("the same of %s", count(int64(n-maxUnresolved), "more name"))))
	}
}

// lookupError says in words why a name could not be looked up.
func lookupError(errno string) string {
	switch errno {
	case "ETIMEDOUT":
		return "the file system does not answer (ETIMEDOUT)"
	case "EACCES", "EPERM":
		return "this user may not look there (" + errno + ")"
	case "EXDEV":
		return "/proc there belongs to another pid namespace (EXDEV)"
	}
	return errno
}

// stackOrder puts the thread with the worst finding first.
func (a *Analyzer) stackOrder(d *Diagnosis) []event.TID {
	tids := make([]event.TID, 0, len(a.stacks))
	for tid := range a.stacks {
		tids = append(tids, tid)
	}
	slices.SortFunc(tids, func(x, y event.TID) int {
		first := func(t event.TID) int {
			if d.Debugger != nil && d.Debugger.TID == t {
				return 0
			}
			return 1
		}
		return cmp.Or(first(x)-first(y), cmp.Compare(x, y))
	})
	return tids
}

// threads gives what the debugger's threads are doing, in order; from calls
// that have not ended where nobody looked.
func (a *Analyzer) threads() []*event.Blocked {
	var all []*event.Blocked
	again := map[event.TID]bool{}
	for tid, b := range a.blocked {
		// The end of a trace interrupts a call, and the thread begins it again
		// by itself: a look at that moment finds it running.
		if again[tid] = b.Syscall == "" && a.pending[tid] != nil; again[tid] {
			continue
		}
		if a.debugger.PID == 0 || b.PID == a.debugger.PID {
			all = append(all, b)
		}
	}
	for tid, ev := range a.pending {
		if a.blocked[tid] != nil && !again[tid] || a.ended && a.killed == "" {
			continue
		}
		b := &event.Blocked{T: ev.T, PID: ev.PID, TID: tid, Syscall: ev.Name, FD: ev.FD, Target: ev.Target, Path: ev.Path}
		if b.Target == nil && b.FD.Known {
			if d := a.fds.get(ev.PID, b.FD.Val); d != nil {
				b.Target = cloneTarget(&d.target)
			}
		}
		all = append(all, b)
	}
	slices.SortFunc(all, func(x, y *event.Blocked) int { return cmp.Compare(x.TID, y.TID) })
	return all
}

// nameOf is a key of what has been settled: a name of an inferior.
type nameOf struct {
	pid  event.PID
	name event.Text
}

// seen gives the suspects among the opens that were seen, and which names of
// which inferiors are settled by them.
func (a *Analyzer) seen(threads []*event.Blocked) ([]suspect, map[nameOf]bool) {
	var found []suspect
	settled := map[nameOf]bool{}
	for _, o := range a.opens() {
		reader := a.readerOf(o, threads)
		if o.errno == unfinished && reader == nil {
			continue // it has come back since
		}
		s, ok := a.judge(o, settled)
		if !ok {
			continue
		}
		for i := range s {
			s[i].blocked = reader
		}
		found = append(found, s...)
	}
	// Searching along a path: it found the right file in the end.
	found = slices.DeleteFunc(found, func(s suspect) bool {
		return s.blocked == nil && s.open.bytes == 0 && !s.open.mapped && a.openedLater(s)
	})
	return found, settled
}

// readerOf gives the thread that is in a read of what an open made, or still in
// the open.
func (a *Analyzer) readerOf(o *opened, threads []*event.Blocked) *event.Blocked {
	for _, b := range threads {
		if o.errno == unfinished && isOpen(b.Syscall) && b.TID == o.tid && (b.Path == "" || b.Path == o.name) {
			return b
		}
		if !b.FD.Known || !isRead(b.Syscall) {
			continue
		}
		if d := a.fds.get(b.PID, b.FD.Val); d != nil && d.by == o && (b.Target == nil || !b.Target.Identified() || b.Target.Same(o.target)) {
			return b
		}
	}
	return nil
}

// openedLater says whether the debugger got hold of the file that is meant
// after a failed or useless open.
func (a *Analyzer) openedLater(s suspect) bool {
	for _, o := range a.opens() {
		if o.last >= s.open.first && o.errno == "" {
			if rel, _ := s.meant.compare(o.target); rel == same {
				return true
			}
		}
	}
	return a.holds(s.meant)
}

// holds says whether the debugger has the meant file open.
func (a *Analyzer) holds(m meant) bool {
	for _, d := range a.fds.all(a.debugger.PID) {
		if d.access == "?" {
			continue
		}
		if rel, _ := m.compare(d.target); rel == same {
			return true
		}
	}
	return false
}

// result is what an open led to, as a target.
func (o *opened) result() event.Target {
	if o.errno == "" || o.errno == unfinished {
		return o.target
	}
	return event.Target{Kind: event.Unknown, Error: o.errno}
}

// judge compares an open with what each inferior means by the name.
func (a *Analyzer) judge(o *opened, settled map[nameOf]bool) ([]suspect, bool) {
	name := decode.ClassifyName(string(o.name))
	if name.Derived || strings.Contains(o.flags, "O_DIRECTORY") {
		return nil, false
	}
	result := o.result()
	base := suspect{name: o.name, opened: result, open: o, from: a.from(o), proof: Certain}
	if o.fd.Known && o.live > 0 {
		base.fd = o.fd
	}
	var found []suspect
	right := false
	for _, m := range a.owners(o) {
		settled[nameOf{m.pid, o.name}] = true
		s := base
		if o.errno == unfinished && !result.Identified() {
			// Where the name leads is known, if not by this call.
			if t, known := a.inDebugger(m.lm); known {
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
	if right || o.rewritten {
		return nil, false // it was opened for that one
	}
	if len(found) == 0 && len(settledBy(o, settled, a.inferiorPIDs())) == 0 {
		found = a.withoutList(base, name)
	}
	return a.disambiguate(found), len(found) > 0
}

func settledBy(o *opened, settled map[nameOf]bool, pids []event.PID) []event.PID {
	return slices.DeleteFunc(slices.Clone(pids), func(pid event.PID) bool { return !settled[nameOf{pid, o.name}] })
}

// owners are the inferiors whose list of libraries holds the name of an open:
// the one from whose memory the name was read, else those that were there at
// that moment, else any.
func (a *Analyzer) owners(o *opened) []meant {
	var all []meant
	for _, lm := range a.byName[o.name] {
		if isLibrary(lm) {
			all = append(all, a.meantBy(lm))
		}
	}
	narrow := func(ok func(event.PID) bool) {
		if slices.ContainsFunc(all, func(m meant) bool { return ok(m.pid) }) {
			all = slices.DeleteFunc(all, func(m meant) bool { return !ok(m.pid) })
		}
	}
	narrow(func(pid event.PID) bool {
		return slices.ContainsFunc(o.counterparts, func(c event.Counterpart) bool { return c.PID == pid })
	})
	if from := a.from(o); from != nil {
		narrow(func(pid event.PID) bool { return pid == from.pid })
	}
	slices.SortFunc(all, func(x, y meant) int {
		return cmp.Or(cmp.Compare(x.pid, y.pid), x.lm.Namespace-y.lm.Namespace, x.lm.Index-y.lm.Index)
	})
	return all
}

func (a *Analyzer) meantBy(lm *event.LinkMap) meant {
	m := meant{pid: lm.PID, lm: lm}
	if t, known := resolution(lm, lm.PID); known {
		m.hint = &t
	}
	return m
}

// withoutList judges an open whose name stands in no list of libraries that is
// known: by the counterpart, and by whether the name was read from the
// inferior's memory.
func (a *Analyzer) withoutList(base suspect, name decode.Name) []suspect {
	if !name.Dependent() && name.Kind != decode.PIDFD && name.Kind != decode.PIDPath {
		return a.ofEntry(base)
	}
	o := base.open
	var found []suspect
	for _, c := range o.counterparts {
		if base.from != nil && base.from.pid != 0 && base.from.pid != c.PID {
			continue
		}
		// A debugger has uses of its own for such names. What makes one
		// suspicious is that it was read from the inferior, or that it is a
		// descriptor of the inferior that can hold a library, unless the
		// inferior's list is known not to have it.
		if base.from == nil && (name.Kind != decode.SelfFD || a.listKnown(c.PID) || !holdsLibrary(c.Target)) {
			continue
		}
		m := meant{pid: c.PID, hint: &c.Target}
		rel, sure := m.compare(base.opened)
		if rel != different {
			continue
		}
		s := base
		s.meant, s.different = m, sure
		if base.from == nil {
			s.different = Possible
			if a.ownPipe(s.opened) {
				s.different = Likely
			}
		}
		found = append(found, s)
	}
	if len(found) > 0 || len(o.counterparts) > 0 {
		return found
	}
	// The inferior's side is not known at all.
	s := base
	s.different = Possible
	own := name.Kind == decode.SelfFD && (a.ownPipe(s.opened) || o.errno != "")
	switch {
	case base.from != nil && a.mayBeRight(o, &name):
		return nil
	case base.from != nil:
		s.meant.pid = base.from.pid
		s.different = Likely
		if name.Kind == decode.Relative {
			s.different = Possible
		}
	case !own || o.errno != "" || o.live == 0:
		return nil
	}
	return []suspect{s}
}

// ofEntry judges an open of a name that means the same to everybody, as far as
// its text tells. The list of libraries is not known, but the debugger was seen
// to read an entry of it that points to the name, and what it got for it is no
// file that the inferior could have mapped.
func (a *Analyzer) ofEntry(s suspect) []suspect {
	o := s.open
	switch {
	case s.from == nil || s.from.entry == 0 || a.listKnown(s.from.pid):
		return nil
	case o.errno != "" && o.errno != unfinished:
		if a.foundElsewhere(o) {
			return nil
		}
	case o.gotLibrary():
		return nil
	}
	s.meant.pid, s.different = s.from.pid, Likely
	s.notes = append(s.notes, Evidence{"ambiguous",
		"Whether the file was replaced, or the inferior has another root directory or other mounts than the debugger, is not in the evidence."})
	return []suspect{s}
}

// foundElsewhere says whether the debugger opened a file of the same name in
// another folder after it had failed: it searches along a path.
func (a *Analyzer) foundElsewhere(failed *opened) bool {
	base := failed.name[strings.LastIndexByte(string(failed.name), '/')+1:]
	return slices.ContainsFunc(a.opens(), func(o *opened) bool {
		return o.errno == "" && o.last >= failed.first && o.name[strings.LastIndexByte(string(o.name), '/')+1:] == base
	})
}

// holdsLibrary says whether a target can be a library.
func holdsLibrary(t event.Target) bool {
	return t.Kind == event.Memfd || t.Kind == event.Regular
}

// listKnown says whether the inferior's libraries are known.
func (a *Analyzer) listKnown(pid event.PID) bool {
	if inf := a.inferiors[pid]; inf == nil || inf.LinkMapError != "" || inf.Libraries == 0 {
		return false
	}
	for _, lm := range a.maps {
		if lm.PID == pid {
			return true
		}
	}
	return false
}

// ownPipe says whether a target is a pipe that the debugger has by other
// descriptors too.
func (a *Analyzer) ownPipe(t event.Target) bool {
	if t.Kind != event.Pipe && t.Kind != event.FIFO {
		return false
	}
	for _, d := range a.fds.all(a.debugger.PID) {
		if d.by == nil && d.target.Same(t) {
			return true
		}
	}
	return false
}

// disambiguate lowers the confidence of suspects that exclude each other: one
// opening, and several inferiors that mean different files by its name.
func (a *Analyzer) disambiguate(found []suspect) []suspect {
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
		var others []string
		for j, o := range distinct {
			if j != i {
				others = append(others, fmt.Sprintf("%s of %s", o.name, a.who(o.meant.pid)))
			}
		}
		s.notes = append(s.notes, Evidence{"ambiguous", event.Text(fmt.Sprintf(
			"It could as well be %s: that leads %s to the same file.", list(others), a.short(a.debugger.PID)))})
	}
	return distinct
}

// unseen gives the suspects among the inferiors' library names whose opening
// was not seen, by what the debugger has open now. A read of what was seen
// opened is explained.
func (a *Analyzer) unseen(threads []*event.Blocked, seen []suspect, settled map[nameOf]bool) []suspect {
	var names, would []suspect
	for _, key := range a.mapKeys() {
		lm := a.maps[key]
		if !isLibrary(lm) || settled[nameOf{lm.PID, lm.Name}] || decode.ClassifyName(string(lm.Name)).Derived {
			continue
		}
		m := a.meantBy(lm)
		t, known := a.inDebugger(lm)
		if !known {
			continue
		}
		if rel, sure := m.compare(t); rel == different {
			names = append(names, suspect{name: lm.Name, meant: m, opened: t, different: sure})
		}
	}
	taken := map[nameOf]bool{}
	var found []suspect
	for _, b := range threads {
		var here []suspect
		for _, s := range names {
			if proof, ok := a.reads(b, s); ok {
				s.blocked, s.fd, s.proof = b, b.FD, proof
				here = append(here, s)
			}
		}
		here = a.disambiguate(a.onStack(b.TID, here))
		for _, s := range here {
			taken[nameOf{s.meant.pid, s.name}] = true
		}
		if len(here) == 0 && !slices.ContainsFunc(seen, func(s suspect) bool { return s.blocked == b }) {
			here = a.stackOnly(b)
		}
		found = append(found, here...)
	}
	for _, s := range names {
		if taken[nameOf{s.meant.pid, s.name}] || a.holds(s.meant) {
			continue
		}
		if fd, ok := a.holdsWrong(s); ok {
			s.proof, s.fd = Likely, event.Some(fd)
		} else if a.byEntering(&s) {
			continue
		} else {
			s.would, s.proof = true, Possible
		}
		would = append(would, s)
	}
	return append(found, would...)
}

// byEntering is for a debugger that opens names inside the mount namespace of
// its inferior, as gdb and gdbserver do ("set sysroot target:", which is the
// default): a copy of itself enters it, and sends the descriptors back. It says
// whether the name leads to the right file that way, and corrects what it leads
// to. Names that start at the working directory are not opened so.
func (a *Analyzer) byEntering(s *suspect) bool {
	inf := a.inferiors[s.meant.pid]
	if inf == nil || !strings.HasPrefix(string(a.debugger.Comm), "gdb") || !otherNamespace(a.debugger, inf.Process, "mnt") {
		return false
	}
	switch n := decode.ClassifyName(string(s.name)); n.Kind {
	case decode.Relative:
		return false
	case decode.SelfFD, decode.SelfLink:
		// The copy has gdb's descriptors; but the /proc there does not show it
		// if that is of another pid namespace: then there is no self.
		if otherNamespace(a.debugger, inf.Process, "pid") {
			s.opened = event.Target{Kind: event.Unknown, Error: "ENOENT"}
		}
		s.entered = true
		return false
	}
	return true
}

func (a *Analyzer) mapKeys() []mapKey {
	keys := make([]mapKey, 0, len(a.maps))
	for k := range a.maps {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(x, y mapKey) int {
		l, m := a.maps[x], a.maps[y]
		return cmp.Or(cmp.Compare(l.PID, m.PID), l.Namespace-m.Namespace, l.Index-m.Index, cmp.Compare(l.Addr, m.Addr))
	})
	return keys
}

// inDebugger is what a library's name leads to in the debugger; false where
// that could not be learned.
func (a *Analyzer) inDebugger(lm *event.LinkMap) (event.Target, bool) {
	t, known := resolution(lm, a.debugger.PID)
	if !known {
		n := decode.ClassifyName(string(lm.Name))
		table := a.fds.table(a.debugger.PID)
		if n.Kind != decode.SelfFD || n.Rest != "" || table == nil || table.count == 0 {
			return event.Target{}, false
		}
		if d := a.fds.get(a.debugger.PID, n.FD); d != nil {
			return d.target, true
		}
		return event.Target{Kind: event.Unknown, Error: "ENOENT"}, true
	}
	return t, tells(t) // if we could not look, that says nothing about the debugger
}

// reads says whether a thread is in a read of what the debugger opened by the
// name of s, or in its open, and how sure that is.
func (a *Analyzer) reads(b *event.Blocked, s suspect) (Confidence, bool) {
	if isOpen(b.Syscall) && b.Path == s.name {
		return Certain, true // not yet
	}
	if !isRead(b.Syscall) || b.Target == nil || !b.FD.Known || !b.Target.Same(s.opened) {
		return "", false
	}
	if n := decode.ClassifyName(string(s.name)); n.Kind == decode.SelfFD && n.FD == b.FD.Val {
		return "", false // the descriptor that the name means, not one made by opening it
	}
	named := a.frames(b.TID, s.name) != nil
	lift := func(without, with Confidence) (Confidence, bool) {
		if named {
			return with, true
		}
		return without, without != ""
	}
	switch b.Target.Kind {
	case event.Pipe:
		// pipe(2) makes one reading descriptor; a second one was opened by name.
		if len(a.readers(b.PID, *b.Target)) >= 2 {
			return Certain, true
		}
		return lift("", Likely)
	case event.TTY:
		if b.FD.Val <= 2 {
			return "", false // the debugger's own input
		}
		return lift(Likely, Certain)
	case event.Socket, event.AnonInode:
		return "", false // cannot be opened by name
	}
	return lift(Likely, Certain)
}

// frames gives the frames of a thread's stack that hold a name; nil for none.
func (a *Analyzer) frames(tid event.TID, name event.Text) []int {
	var at []int
	for i, f := range a.stacks[tid].Frames {
		if slices.ContainsFunc(f.Strings, func(s event.FrameString) bool { return s.Text == name }) {
			at = append(at, i)
		}
	}
	return at
}

// onStack narrows several suspects of one read down to those whose name is on
// the thread's stack, if any is.
func (a *Analyzer) onStack(tid event.TID, s []suspect) []suspect {
	named := slices.DeleteFunc(slices.Clone(s), func(s suspect) bool { return a.frames(tid, s.name) == nil })
	if len(named) > 0 {
		return named
	}
	return s
}

// stackOnly is for a read that hangs where the inferior's list could not be
// read: the name on the stack, and the pipe's writers, are what is left.
func (a *Analyzer) stackOnly(b *event.Blocked) []suspect {
	if !isRead(b.Syscall) || b.Target == nil || !b.FD.Known || !a.ownPipe(*b.Target) {
		return nil
	}
	for _, f := range a.stacks[b.TID].Frames {
		for _, str := range f.Strings {
			n := decode.ClassifyName(string(str.Text))
			if n.Kind != decode.SelfFD || n.Derived || n.FD == b.FD.Val {
				continue
			}
			own := a.fds.get(b.PID, n.FD)
			if own == nil || !own.target.Same(*b.Target) {
				continue
			}
			s := suspect{name: str.Text, opened: *b.Target, fd: b.FD, blocked: b, proof: Likely, different: Likely}
			if pids := a.inferiorPIDs(); len(pids) == 1 {
				s.meant.pid = pids[0]
			}
			return []suspect{s}
		}
	}
	return nil
}

// readers are the descriptors of a process by which it can read a file.
func (a *Analyzer) readers(pid event.PID, of event.Target) []event.FD {
	return slices.DeleteFunc(a.descriptors(pid, of), func(fd event.FD) bool {
		access := a.fds.get(pid, fd).access
		return access == "w" || access == "path"
	})
}

// holdsWrong gives a descriptor by which the debugger has the wrong file open,
// beside the one that the name itself means. Of a pipe it has one without
// having opened any name; a file that would hang it is not only held.
func (a *Analyzer) holdsWrong(s suspect) (event.FD, bool) {
	n := decode.ClassifyName(string(s.name))
	fds := a.readers(a.debugger.PID, s.opened)
	switch effect := a.expected(s.opened); {
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

// presumed says whether a name that would lead to the wrong file counts as a
// finding, though nothing shows that the debugger has opened it: if debuggers
// of its sort do so as soon as they see the library, and if what they then
// suffer leaves no trace. A hang would show.
func (a *Analyzer) presumed(s *suspect, f Finding) bool {
	if f.Effect != WrongFile && f.Effect != Failed {
		return false
	}
	inf := a.inferiors[s.meant.pid]
	if inf != nil && inf.TracerTID == 0 {
		return false // named by the user, not debugged
	}
	comm := string(a.debugger.Comm)
	switch {
	case strings.HasPrefix(comm, "lldb-server"):
		return false // lldb opens them itself
	case strings.HasPrefix(comm, "gdb"):
		// Of one that a gdbserver traces, gdb lets that open them, unless it is
		// told otherwise (set sysroot).
		return inf == nil || event.PID(inf.TracerTID) == a.debugger.PID
	}
	return strings.HasPrefix(comm, "lldb") || strings.HasPrefix(comm, "dlv")
}
