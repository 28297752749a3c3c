package state

import (
	"cmp"
	"slices"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Open is what came of the debugger's opens of one name that led to one file.
type Open struct {
	openKey
	Target      event.Target
	Call        string
	Flags       string
	PID         event.PID
	TID         event.TID
	FD          event.Opt[event.FD] // of the last one
	Live        int                 // descriptors that are open and come from it
	Count       int64
	First       event.Micros
	Last        event.Micros
	Reads       int64
	Bytes       int64
	ReadErrno   string // of the last read that failed
	Head        Head
	Mapped      bool
	Rewritten   bool // guard led it to another file
	Counterpart []event.Counterpart
	// Origin says where the name was read before; nil where that was not seen.
	Origin *Origin

	moved bool // lseek(2) has led elsewhere than to the beginning
}

// openKey is what makes two opens one: the name and what it led to.
type openKey struct {
	Name event.Text
	// Errno is [Unfinished] for one that has not come back.
	Errno            string
	dev, ino, serial uint64
}

func keyOf(ev *event.Syscall) openKey {
	key := openKey{Name: ev.Path, Errno: ev.Errno}
	if ev.Unfinished {
		key.Errno = Unfinished
	} else if ev.Target != nil {
		key.dev, key.ino, key.serial = ev.Target.Dev, ev.Target.Ino, ev.Target.Serial
	}
	return key
}

// Unfinished stands for the errno of an open that has not come back.
const Unfinished = "(unfinished)"

// Result is what it led to, as a target.
func (o *Open) Result() event.Target {
	if o.Errno == "" || o.Errno == Unfinished {
		return o.Target
	}
	return event.Target{Kind: event.Unknown, Error: o.Errno}
}

// Head is how a file begins, as far as the debugger has read it.
type Head uint8

// The beginnings.
const (
	HeadUnknown Head = iota
	HeadELF
	HeadOther // no debugger takes it for a library
)

// noteOpen remembers an open of a name that could be compared with a library's;
// nil if it is none, or its descriptor is of no use.
func (s *State) noteOpen(ev *event.Syscall) *Open {
	if ev.Path == "" || ev.PathTruncated || ev.DirFD.Known && ev.Path[0] != '/' {
		return nil
	}
	log := &s.other
	if ContextDependent(ev) {
		log = &s.dependent
	}
	o, evicted := log.note(keyOf(ev))
	if evicted {
		s.Dropped++
	}
	if o.Count == 0 {
		o.First = ev.T
	}
	o.Count++
	o.Last, o.PID, o.TID, o.Call, o.Flags = ev.T, ev.PID, ev.TID, ev.Name, ev.Flags
	o.Rewritten = ev.Rewritten != nil
	if len(ev.Counterpart) > 0 {
		o.Counterpart = slices.Clone(ev.Counterpart)
	}
	if from := s.memory.find(ev); from != nil {
		o.Origin = from
	}
	if ev.Target != nil {
		o.Target = *ev.Target
	}
	if ev.Ret.Known && ev.Errno == "" && !ev.Unfinished {
		o.FD = event.Some(event.FD(ev.Ret.Val))
	}
	if ev.Target == nil {
		return nil
	}
	return o
}

// LatestOpen gives the record of the open that a call is; nil where there is none.
func (s *State) LatestOpen(ev *event.Syscall) *Open {
	key := keyOf(ev)
	if o := s.dependent.byKey[key]; o != nil {
		return o
	}
	return s.other.byKey[key]
}

// ContextDependent says whether the target of a call's name depends on who
// resolves it, by the name or since an inferior is known to get another file.
func ContextDependent(ev *event.Syscall) bool {
	switch decode.ClassifyName(string(ev.Path)).Kind {
	case decode.SelfFD, decode.PIDFD, decode.SelfLink:
		return true
	}
	return slices.ContainsFunc(ev.Counterpart, func(c event.Counterpart) bool {
		return c.Identified() && (ev.Target == nil || !ev.Target.Same(c.Target))
	})
}

// begins notes how the file begins, where a call has brought that.
func (o *Open) begins(ev *event.Syscall) {
	const magic = "\x7fELF" // ELFMAG, elf.h
	first := ev.Offset.Is(0) || !ev.Offset.Known && o.Reads == 1 && !o.moved
	switch {
	case o.Head != HeadUnknown || !first:
	case strings.HasPrefix(string(ev.Data), magic):
		o.Head = HeadELF
	case len(ev.Data) >= len(magic):
		o.Head = HeadOther
	}
}

// learn takes what a later look at a descriptor has told of the file, where the
// open did not: its kind, and which one it is.
func (o *Open) learn(t event.Target) {
	if o.Target.Kind == event.Unknown || o.Target.Kind == "" {
		o.Target.Kind = t.Kind
	}
	if !o.Target.Identified() {
		o.Target.Dev, o.Target.Ino, o.Target.Serial = t.Dev, t.Ino, t.Serial
	}
}

// openLog remembers the latest opens.
type openLog struct {
	limit int
	byKey map[openKey]*Open
	queue []*Open // a ring, oldest at next
	next  int
}

// note gives the record of an open, a new one if need be; evicted says that an
// older one had to go.
func (l *openLog) note(key openKey) (o *Open, evicted bool) {
	if o := l.byKey[key]; o != nil {
		return o, false
	}
	o = &Open{openKey: key}
	if l.byKey == nil {
		l.byKey = make(map[openKey]*Open)
	}
	if len(l.queue) < l.limit {
		l.queue = append(l.queue, o)
	} else {
		// One that is still open may yet be read: spare it, if the next ones
		// are not.
		for range 16 {
			if l.queue[l.next].Live == 0 {
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

// Opens gives the remembered opens, oldest first.
func (s *State) Opens() []*Open {
	all := make([]*Open, 0, len(s.dependent.byKey)+len(s.other.byKey))
	for _, l := range []*openLog{&s.dependent, &s.other} {
		for _, o := range l.byKey {
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(x, y *Open) int {
		return cmp.Or(cmp.Compare(x.First, y.First), cmp.Compare(x.Name, y.Name), cmp.Compare(x.Errno, y.Errno), cmp.Compare(x.ino, y.ino))
	})
	return all
}
