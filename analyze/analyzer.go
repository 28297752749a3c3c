package analyze

import (
	"fmt"
	"slices"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Bounds of what an Analyzer remembers, so that a recording of any length
// needs the same memory. What falls out is counted and said.
const (
	maxProcesses   = 1024
	maxThreads     = 4096
	maxLinkMaps    = 1 << 14
	maxDescriptors = 1 << 16 // all processes together
	maxPlainOpens  = 2048    // names that mean the same to everybody, or are of no interest so far
	maxKeenOpens   = 1024    // names that depend on who resolves them
	maxStacks      = 64
	maxMissing     = 32
	maxFindings    = 256
)

// Mark is what to show beside the row of an event. The zero Mark is nothing.
type Mark struct {
	Rule   Rule
	Effect Effect // what it leads to, as far as that is known by then
}

// Analyzer takes evidence, event by event, and draws the conclusions. It keeps
// no reference to the events. It is not safe for concurrent use.
type Analyzer struct {
	debugger  event.Process
	preflight bool // the debugger is one that could be
	inferiors map[event.PID]*event.Inferior
	maps      map[mapKey]*event.LinkMap
	byName    map[event.Text][]*event.LinkMap
	fds       fdTables[descriptor]
	free      []*descriptor // places to be used again
	blocked   map[event.TID]*event.Blocked
	pending   map[event.TID]*event.Syscall // the call that a thread has not come back from
	stacks    map[event.TID]Stack
	plain     openLog
	keen      openLog
	memory    memoryReads
	listing   bool // the debugger's descriptors that come next replace the table
	last      event.Micros
	ended     bool
	killed    string // the signal that ended it
	source    string // of the evidence, as in Session
	watched   bool   // there was a call or a look at the debugger
	missing   []event.Text
	dropped   int64 // facts that were not kept for lack of room
	names     nameCache
}

// mapKey is an entry of a link_map. The loader may free an entry and make
// another one at the same address: the later one counts.
type mapKey struct {
	pid  event.PID
	addr event.Hex
}

// descriptor is an entry of a process's table. By is the open that made it,
// nil where that was not seen.
type descriptor struct {
	target event.Target
	access string
	by     *opened
}

// New gives an Analyzer that has seen nothing.
func New() *Analyzer {
	return &Analyzer{
		inferiors: map[event.PID]*event.Inferior{},
		maps:      map[mapKey]*event.LinkMap{},
		byName:    map[event.Text][]*event.LinkMap{},
		blocked:   map[event.TID]*event.Blocked{},
		pending:   map[event.TID]*event.Syscall{},
		stacks:    map[event.TID]Stack{},
		plain:     openLog{limit: maxPlainOpens},
		keen:      openLog{limit: maxKeenOpens},
	}
}

// Add takes the next event, and says what is worth a mark beside its row.
func (a *Analyzer) Add(ev event.Event) Mark {
	switch ev := ev.(type) {
	case *event.Session:
		a.source = ev.Source
		if ev.Debugger != nil {
			a.debugger = cloneProcess(*ev.Debugger)
		}
		a.preflight = ev.Source == "preflight"
	case *event.Syscall:
		a.last = max(a.last, ev.T)
		return a.syscall(ev)
	case *event.Descriptor:
		if ev.PID == a.debugger.PID && a.listing {
			a.listing = false
			a.relist(ev.PID)
		}
		d := a.setFD(ev.PID, ev.FD, ev.Target)
		if d != nil && (ev.Access != "" || d.access == "?") {
			d.access = ev.Access
		}
		if d != nil && d.by != nil {
			d.by.learn(ev.Target)
		}
	case *event.Inferior:
		if _, known := a.inferiors[ev.PID]; !known && len(a.inferiors) >= maxProcesses {
			a.dropped++
			break
		}
		c := *ev
		c.Process = cloneProcess(ev.Process)
		a.inferiors[ev.PID] = &c
	case *event.LinkMap:
		a.linkMap(ev)
	case *event.Blocked:
		if a.debugger.PID == 0 {
			a.debugger.PID = ev.PID
		}
		if _, known := a.blocked[ev.TID]; !known && len(a.blocked) >= maxThreads {
			a.dropped++
			break
		}
		a.blocked[ev.TID] = cloneBlocked(ev)
		a.listing = a.listing || ev.PID == a.debugger.PID
	case *event.Stack:
		if _, known := a.stacks[ev.TID]; known || len(a.stacks) < maxStacks {
			a.stacks[ev.TID] = Stack{TID: ev.TID, Frames: slices.Clone(ev.Frames), Call: ev.Call, Error: ev.Error, StoppedUS: ev.StoppedUS}
		} else {
			a.dropped++
		}
	case *event.Lost:
		a.lost(ev)
	case *event.End:
		a.last = max(a.last, ev.T)
		a.ended = ev.Exit.Known || ev.Signal != ""
		a.killed = ev.Signal
	}
	return Mark{}
}

func (a *Analyzer) lost(ev *event.Lost) {
	if len(a.missing) >= maxMissing {
		a.dropped++
		return
	}
	text := event.Text(ev.Reason)
	if ev.Count > 0 {
		text = event.Text(fmt.Sprintf("%s lost: %s", count(ev.Count, "event"), ev.Reason))
	}
	if !slices.Contains(a.missing, text) {
		a.missing = append(a.missing, text)
	}
}

func (a *Analyzer) linkMap(ev *event.LinkMap) {
	key := mapKey{ev.PID, ev.Addr}
	old, known := a.maps[key]
	if !known && len(a.maps) >= maxLinkMaps {
		a.dropped++
		return
	}
	lm := *ev
	lm.Mapped, lm.MappedStat = cloneTarget(ev.Mapped), cloneTarget(ev.MappedStat)
	lm.Reachable, lm.Resolves = slices.Clone(ev.Reachable), slices.Clone(ev.Resolves)
	a.maps[key] = &lm
	if known {
		a.byName[old.Name] = slices.DeleteFunc(a.byName[old.Name], func(o *event.LinkMap) bool { return o == old })
		if len(a.byName[old.Name]) == 0 {
			delete(a.byName, old.Name)
		}
	}
	a.byName[lm.Name] = append(a.byName[lm.Name], &lm)
}

// relist empties a process's table before a new listing of it, but remembers
// which open made each descriptor.
func (a *Analyzer) relist(pid event.PID) {
	for fd, d := range a.fds.all(pid) {
		if d.by != nil {
			d.access = "?"
		} else {
			a.dropFD(pid, fd)
		}
	}
}

// setFD says what a descriptor is now. The open that made it is remembered as
// long as it is the same file. It gives nil where there is no room.
func (a *Analyzer) setFD(pid event.PID, fd event.FD, t event.Target) *descriptor {
	d := a.fds.get(pid, fd)
	if d == nil {
		if a.fds.count >= maxDescriptors || len(a.fds.of) >= maxProcesses && a.fds.of[pid] == nil {
			a.dropped++
			return nil
		}
		if n := len(a.free); n > 0 {
			d, a.free = a.free[n-1], a.free[:n-1]
		} else {
			d = new(descriptor)
		}
		a.fds.set(pid, fd, d)
	} else if d.by != nil && t.Identified() && d.target.Identified() && !t.Same(d.target) {
		d.by.live--
		d.by, d.access = nil, ""
	}
	d.target = t
	return d
}

func (a *Analyzer) dropFD(pid event.PID, fd event.FD) {
	d := a.fds.get(pid, fd)
	if d == nil {
		return
	}
	if d.by != nil {
		d.by.live--
	}
	a.fds.set(pid, fd, nil)
	*d = descriptor{}
	a.free = append(a.free, d)
}

// descriptors gives the numbers of a process's descriptors for one file, in
// order.
func (a *Analyzer) descriptors(pid event.PID, of event.Target) []event.FD {
	var same []event.FD
	for fd, d := range a.fds.all(pid) {
		if d.access != "?" && d.target.Same(of) {
			same = append(same, fd)
		}
	}
	slices.Sort(same)
	return same
}

func (a *Analyzer) syscall(ev *event.Syscall) Mark {
	if a.debugger.PID == 0 {
		a.debugger.PID = ev.PID
	}
	delete(a.blocked, ev.TID) // it went on since
	if ev.Unfinished {
		if len(a.pending) < maxThreads {
			c := *ev
			c.Target, c.Data = cloneTarget(ev.Target), nil
			c.Counterpart = slices.Clone(ev.Counterpart)
			a.pending[ev.TID] = &c
		} else {
			a.dropped++
		}
	} else if len(a.pending) > 0 {
		delete(a.pending, ev.TID)
	}
	if ev.PID != a.debugger.PID {
		return Mark{} // a child, in a log of strace -f
	}
	a.watched = true
	row, ok := decode.ByName(ev.Name)
	if !ok || row.Class == decode.ClassMemory {
		if len(ev.Data) > 0 && ev.Offset.Known {
			a.memory.add(ev)
		}
		return Mark{}
	}
	switch row.Class {
	case decode.ClassOpen:
		return a.open(ev)
	case decode.ClassRead:
		return a.read(ev)
	case decode.ClassSeek:
		a.memory.add(ev)
		if d := a.fds.get(ev.PID, ev.FD.Val); d != nil && d.by != nil && ev.Ret.Val != 0 {
			d.by.moved = true
		}
	case decode.ClassMap:
		if d := a.fds.get(ev.PID, ev.FD.Val); ev.FD.Known && d != nil && d.by != nil && ev.Errno == "" && !ev.Unfinished {
			d.by.mapped = true
			d.by.begins(ev)
		}
	case decode.ClassClose:
		if ev.FD.Known && !ev.Unfinished && ev.Errno != "EBADF" {
			a.dropFD(ev.PID, ev.FD.Val)
		}
	case decode.ClassDup:
		a.dup(ev)
	case decode.ClassExec:
		if ev.Ret.Is(0) {
			a.closeOnExec(ev.PID)
		}
	}
	return Mark{}
}

func (a *Analyzer) dup(ev *event.Syscall) {
	if ev.Unfinished || ev.Errno != "" || !ev.Ret.Known || !ev.FD.Known ||
		ev.Name == "fcntl" && !strings.HasPrefix(ev.Flags, "F_DUPFD") {
		return
	}
	from, to := a.fds.get(ev.PID, ev.FD.Val), event.FD(ev.Ret.Val)
	if to == ev.FD.Val || to < 0 {
		return
	}
	a.dropFD(ev.PID, to)
	switch {
	case from != nil:
		if d := a.setFD(ev.PID, to, from.target); d != nil {
			d.access, d.by = from.access, from.by
			if d.by != nil {
				d.by.live++
			}
		}
	case ev.Target != nil:
		a.setFD(ev.PID, to, *ev.Target)
	}
}

func (a *Analyzer) open(ev *event.Syscall) Mark {
	if ev.Path == "" || ev.PathTruncated || ev.DirFD.Known && ev.Path[0] != '/' {
		// Not a name that could be compared with a library's.
		if ev.Ret.Known && ev.Errno == "" && ev.Target != nil {
			a.dropFD(ev.PID, event.FD(ev.Ret.Val))
			a.setFD(ev.PID, event.FD(ev.Ret.Val), *ev.Target)
		}
		return Mark{}
	}
	key := openKey{name: ev.Path, errno: ev.Errno}
	if ev.Unfinished {
		key.errno = unfinished
	} else if ev.Target != nil {
		key.dev, key.ino, key.serial = ev.Target.Dev, ev.Target.Ino, ev.Target.Serial
	}
	name := a.names.classify(ev.Path)
	log := &a.plain
	if name.Kind == decode.SelfFD || name.Kind == decode.PIDFD || name.Kind == decode.SelfLink || differs(ev) {
		log = &a.keen
	}
	o, evicted := log.note(key)
	if evicted {
		a.dropped++
	}
	if o.count == 0 {
		o.first = ev.T
	}
	o.count++
	o.last, o.pid, o.tid, o.call, o.flags = ev.T, ev.PID, ev.TID, ev.Name, ev.Flags
	o.rewritten = ev.Rewritten != nil
	if len(ev.Counterpart) > 0 {
		o.counterparts = slices.Clone(ev.Counterpart)
	}
	if p := a.memory.find(ev); p != nil {
		o.from = p
	}
	if ev.Target != nil {
		o.target = *ev.Target
	}
	if ev.Ret.Known && ev.Errno == "" && !ev.Unfinished {
		fd := event.FD(ev.Ret.Val)
		o.fd = event.Some(fd)
		a.dropFD(ev.PID, fd)
		if ev.Target != nil {
			if d := a.setFD(ev.PID, fd, *ev.Target); d != nil {
				d.by, d.access = o, access(ev.Flags)
				o.live++
			}
		}
	}
	o.mark = a.markOf(o)
	return o.mark
}

// differs says whether a counterpart is known to be another file.
func differs(ev *event.Syscall) bool {
	return slices.ContainsFunc(ev.Counterpart, func(c event.Counterpart) bool {
		return c.Identified() && (ev.Target == nil || !ev.Target.Same(c.Target))
	})
}

// access is what a descriptor made with these flags can be used for, as
// [event.Descriptor] has it.
func access(flags string) string {
	first, rest, _ := strings.Cut(flags, "|")
	switch {
	case strings.Contains("|"+rest+"|", "|O_PATH|"), first == "O_PATH":
		return "path"
	case first == "O_RDONLY":
		return "r"
	case first == "O_WRONLY":
		return "w"
	case first == "O_RDWR":
		return "rw"
	}
	return ""
}

func (a *Analyzer) read(ev *event.Syscall) Mark {
	if !ev.FD.Known {
		return Mark{}
	}
	d := a.fds.get(ev.PID, ev.FD.Val)
	if ev.Target != nil && ev.Target.Identified() && (d == nil || !d.target.Same(*ev.Target)) {
		d = a.setFD(ev.PID, ev.FD.Val, *ev.Target)
	}
	a.memory.add(ev)
	if d == nil || d.by == nil {
		return Mark{}
	}
	o := d.by
	switch {
	case ev.Unfinished:
	case ev.Errno != "":
		o.readErrno = ev.Errno
	default:
		o.reads++
		o.bytes += max(0, ev.Ret.Val)
		o.begins(ev)
	}
	if o.mark == (Mark{}) {
		return Mark{}
	}
	if ev.Unfinished || o.mark.Effect == StolenInput && ev.Ret.Val > 0 {
		return o.mark
	}
	return Mark{}
}

// unfinished stands for the errno of an open that has not come back.
const unfinished = "(unfinished)"

// openKey is what makes two opens one: the name and what it led to.
type openKey struct {
	name             event.Text
	dev, ino, serial uint64
	errno            string
}

// opened is what came of the opens of one name that led to one target.
type opened struct {
	openKey
	target       event.Target
	call, flags  string
	pid          event.PID
	tid          event.TID
	fd           event.Opt[event.FD] // of the last one
	live         int                 // descriptors in the table that it made
	count        int64
	first, last  event.Micros
	reads, bytes int64
	readErrno    string // of the last read that failed
	head         head
	moved        bool // lseek(2) has led elsewhere than to the beginning
	mapped       bool
	rewritten    bool
	counterparts []event.Counterpart
	from         *origin
	mark         Mark
}

// head is how a file begins, as far as the debugger has read it.
type head uint8

const (
	headUnknown head = iota
	headELF
	headOther // no debugger takes it for a library
)

// begins notes how the file begins, where a call has brought that.
func (o *opened) begins(ev *event.Syscall) {
	const magic = "\x7fELF" // ELFMAG, elf.h
	first := ev.Offset.Is(0) || !ev.Offset.Known && o.reads == 1 && !o.moved
	switch {
	case o.head != headUnknown || !first:
	case strings.HasPrefix(string(ev.Data), magic):
		o.head = headELF
	case len(ev.Data) >= len(magic):
		o.head = headOther
	}
}

// openLog remembers the latest opens.
type openLog struct {
	limit int
	byKey map[openKey]*opened
	queue []*opened // a ring, oldest at next
	next  int
}

// note gives the record of an open, a new one if need be; evicted says that an
// older one had to go.
func (l *openLog) note(key openKey) (o *opened, evicted bool) {
	if o := l.byKey[key]; o != nil {
		return o, false
	}
	o = &opened{openKey: key}
	if l.byKey == nil {
		l.byKey = make(map[openKey]*opened)
	}
	if len(l.queue) < l.limit {
		l.queue = append(l.queue, o)
	} else {
		// One that is still open may yet be read: spare it, if the next ones
		// are not.
		for range 16 {
			if l.queue[l.next].live == 0 {
				break
			}
			l.next = (l.next + 1) % l.limit
		}
		delete(l.byKey, l.queue[l.next].openKey)
		l.queue[l.next] = o
		l.next = (l.next + 1) % l.limit
		evicted = true
	}
	l.byKey[key] = o
	return o, evicted
}

// opens gives the remembered opens, oldest first.
func (a *Analyzer) opens() []*opened {
	all := make([]*opened, 0, len(a.keen.byKey)+len(a.plain.byKey))
	for _, l := range []*openLog{&a.keen, &a.plain} {
		for _, o := range l.byKey {
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(x, y *opened) int {
		return cmpChain(int64(x.first-y.first), int64(strings.Compare(string(x.name), string(y.name))),
			int64(strings.Compare(x.errno, y.errno)), int64(x.ino)-int64(y.ino))
	})
	return all
}

func cmpChain(diffs ...int64) int {
	for _, d := range diffs {
		if d < 0 {
			return -1
		}
		if d > 0 {
			return 1
		}
	}
	return 0
}

func cloneTarget(t *event.Target) *event.Target {
	if t == nil {
		return nil
	}
	c := *t
	return &c
}

func cloneProcess(p event.Process) event.Process {
	p.Cmdline = slices.Clone(p.Cmdline)
	return p
}

func cloneBlocked(b *event.Blocked) *event.Blocked {
	c := *b
	c.Args, c.Holders, c.Unseen = slices.Clone(b.Args), slices.Clone(b.Holders), slices.Clone(b.Unseen)
	c.Target = cloneTarget(b.Target)
	return &c
}
