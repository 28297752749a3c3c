package state

import (
	"iter"
	"maps"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Descriptor is one descriptor of a process, from its making to its closing. As JSON
// its field names are those of the table by descriptor.
type Descriptor struct {
	PID event.PID `json:"pid,omitempty"`
	FD  event.FD  `json:"fd"`
	// Target has no kind where nothing is known of the file.
	Target event.Target `json:"target,omitzero"`
	Access string       `json:"-"` // as in [event.Descriptor]
	// Open is the open that made it, or made the one that it is a duplicate of;
	// nil where that was not seen.
	Open *Open `json:"-"`
	// Call and Name are the call that made it and the name that was opened; empty
	// where it was there before.
	Call   string                  `json:"call,omitempty"`
	Name   event.Text              `json:"name,omitempty"`
	Opened event.Opt[event.Micros] `json:"opened,omitzero"`
	Closed event.Opt[event.Micros] `json:"closed,omitzero"`
	// Unseen: it was made after the evidence begins, by a call that is not in it,
	// at Since at the latest.
	Unseen bool         `json:"unseen,omitempty"`
	Since  event.Micros `json:"-"`
	// Gone: it is closed, and when is not known.
	Gone bool `json:"gone,omitempty"`
	// Used: a call of its process has made or used it.
	Used bool `json:"-"`
	// Reads, Bytes and ReadUS sum up what was read; the time is in microseconds.
	Reads  int64 `json:"reads"`
	Bytes  int64 `json:"bytes"`
	ReadUS int64 `json:"read_us"`

	// stale: a new listing of the process's descriptors has begun, and it has not
	// come up there.
	stale bool
}

// Known says whether anything is known of its file.
func (d *Descriptor) Known() bool { return d.Target != event.Target{} }

// Stale says that the latest listing of the process's descriptors did not have it.
func (d *Descriptor) Stale() bool { return d.stale }

// tableFor gives the table of a process, made if need be; nil where there is no
// room for more.
func (s *State) tableFor(pid event.PID) *Table[*Descriptor] {
	if t := s.tables[pid]; t != nil {
		return t
	}
	if len(s.tables) >= MaxProcesses {
		maps.DeleteFunc(s.tables, func(_ event.PID, t *Table[*Descriptor]) bool { return t.Len() == 0 })
	}
	if len(s.tables) >= MaxProcesses {
		s.Dropped++
		return nil
	}
	t := new(Table[*Descriptor])
	s.tables[pid] = t
	return t
}

// TableKnown says whether any descriptor of a process is known.
func (s *State) TableKnown(pid event.PID) bool {
	return s.tables[pid] != nil && s.tables[pid].Len() > 0
}

// Descriptor gives a descriptor that a process has; nil where that is not known.
func (s *State) Descriptor(pid event.PID, fd event.FD) *Descriptor {
	t := s.tables[pid]
	if t == nil {
		return nil
	}
	if d, ok := t.Get(fd); ok && !(d.stale && d.Open == nil) {
		return d
	}
	return nil
}

// Descriptors goes through those of a process that are known to be open, in order.
func (s *State) Descriptors(pid event.PID) iter.Seq2[event.FD, *Descriptor] {
	return func(yield func(event.FD, *Descriptor) bool) {
		t := s.tables[pid]
		if t == nil {
			return
		}
		for fd, d := range t.All() {
			if !d.stale && !yield(fd, d) {
				return
			}
		}
	}
}

// AllDescriptors gives those of all processes that are not known to be closed;
// the tables show them.
func (s *State) AllDescriptors() iter.Seq[*Descriptor] {
	return func(yield func(*Descriptor) bool) {
		for _, t := range s.tables {
			for _, d := range t.All() {
				if !yield(d) {
					return
				}
			}
		}
	}
}

// ForFile gives the numbers of a process's descriptors for one file, in order.
func (s *State) ForFile(pid event.PID, file event.Target) []event.FD {
	var same []event.FD
	for fd, d := range s.Descriptors(pid) {
		if d.Target.Same(file) {
			same = append(same, fd)
		}
	}
	return same
}

// Foreign says whether a file is known to be one of an inferior.
func (s *State) Foreign(file event.Target) bool { return s.foreign[fileID{file.Dev, file.Ino}] }

func (s *State) noteForeign(file *event.Target) {
	if file.Identified() && len(s.foreign) < maxFiles {
		s.foreign[fileID{file.Dev, file.Ino}] = true
	}
}

// add gives a new descriptor, which the caller puts into the table; nil where there
// is no room.
func (s *State) add(pid event.PID, fd event.FD, d Descriptor) *Descriptor {
	if s.open >= maxDescriptors {
		s.Dropped++
		s.Refused++
		return nil
	}
	d.PID, d.FD = pid, fd
	if d.Call == "" && s.listing == complete {
		d.Unseen, d.Since = true, s.Last
	}
	if d.Open != nil {
		d.Open.Live++
	}
	s.open++
	return &d
}

// closed says that a descriptor, which is out of its table, was closed; the time
// is absent where that was not seen.
func (s *State) closed(d *Descriptor, at event.Opt[event.Micros]) {
	d.Closed, d.Gone = at, !at.Known
	if d.Open != nil {
		d.Open.Live--
	}
	s.open--
	if s.OnClose != nil {
		s.OnClose(d)
	}
}

// edit does to the table of a process what a call has done. Opened is the open that
// the call is.
func (s *State) edit(ev *event.Syscall, opened *Open) {
	e := decode.EditOf(ev)
	if e == (decode.Edit{}) {
		return
	}
	t := s.tableFor(ev.PID)
	if t == nil {
		return
	}
	now := event.Some(s.EndOf(ev))
	if fd := e.Close.First; e.Close.End == fd+1 {
		if _, known := t.Get(fd); !known { // it was there before, and never seen
			if d := s.add(ev.PID, fd, Descriptor{Target: targetOf(ev), Used: true}); d != nil {
				t.Set(fd, d, event.Opt[bool]{})
			}
		}
	}
	t.Apply(e, func(from *Descriptor, copied bool) (*Descriptor, bool) {
		d := Descriptor{Target: targetOf(ev), Call: ev.Name, Name: ev.Path, Opened: now, Used: true, Open: opened, Access: access(ev.Flags)}
		if copied {
			d.Name, d.Access, d.Open = from.Name, from.Access, from.Open
			if from.Known() {
				d.Target = from.Target
			}
		}
		made := s.add(ev.PID, e.Made.Val, d)
		return made, made != nil
	}, func(_ event.FD, d *Descriptor) { s.closed(d, now) })
}

func targetOf(ev *event.Syscall) event.Target {
	if ev.Target == nil {
		return event.Target{}
	}
	return *ev.Target
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

// is says what a descriptor is now. If it is known to have become another file
// unseen, the old one is gone.
func (s *State) is(pid event.PID, fd event.FD, file event.Target, cloexec event.Opt[bool], as Descriptor) *Descriptor {
	t := s.tableFor(pid)
	if t == nil {
		return nil
	}
	d, known := t.Get(fd)
	switch {
	case !known:
	case d.Target.Same(file), !file.Identified(), !d.Target.Identified():
		d.Target = file
		t.Set(fd, d, cloexec)
		return d
	default:
		t.Drop(fd)
		s.closed(d, event.Opt[event.Micros]{})
	}
	as.Target = file
	if d = s.add(pid, fd, as); d != nil {
		t.Set(fd, d, cloexec)
	}
	return d
}

// listed takes an entry of a listing.
func (s *State) listed(ev *event.Descriptor) {
	if s.Debugger.PID == 0 {
		s.Debugger.PID = ev.PID // descriptors of the debugger come before those of others
	}
	if ev.PID != s.Debugger.PID {
		s.noteForeign(&ev.Target)
	} else {
		if s.relist {
			s.relist = false
			if t := s.tables[ev.PID]; t != nil {
				for _, d := range t.All() {
					d.stale = true
				}
			}
		}
		if s.listing == unlisted && s.Source != "strace" {
			s.listing = going
		}
	}
	as := Descriptor{Call: ev.Call}
	if ev.Call != "" {
		as.Opened = event.Some(ev.T)
	}
	d := s.is(ev.PID, ev.FD, ev.Target, ev.CloseOnExec, as)
	if d == nil {
		return
	}
	if ev.Access != "" || d.stale {
		d.Access = ev.Access
	}
	d.stale = false
	if d.Open != nil {
		d.Open.learn(ev.Target)
	}
}

// use notes what a call that works on a descriptor tells of it.
func (s *State) use(ev *event.Syscall, row *decode.Call, completes bool) {
	fd := ev.FD.Val
	switch row.Class {
	case decode.ClassRead:
		d := s.Descriptor(ev.PID, fd)
		if d == nil || ev.Target != nil && ev.Target.Identified() && !d.Target.Same(*ev.Target) || !d.Known() && ev.Target != nil {
			d = s.is(ev.PID, fd, targetOf(ev), event.Opt[bool]{}, Descriptor{})
		}
		if d != nil {
			d.Used, d.stale = true, false
			d.read(ev, completes)
		}
	case decode.ClassSeek:
		if d := s.Descriptor(ev.PID, fd); d != nil && d.Open != nil && ev.Ret.Val != 0 {
			d.Open.moved = true
		}
	case decode.ClassMap:
		if d := s.Descriptor(ev.PID, fd); d != nil && d.Open != nil && ev.Errno == "" && !ev.Unfinished {
			d.Open.Mapped = true
			d.Open.begins(ev)
		}
	}
}

func (d *Descriptor) read(ev *event.Syscall, completes bool) {
	if !completes {
		d.Reads++
	}
	d.ReadUS += max(0, ev.DurUS.Or(0))
	got := ev.Errno == "" && !ev.Unfinished
	if got {
		d.Bytes += max(0, ev.Ret.Val)
	}
	switch o := d.Open; {
	case o == nil || ev.Unfinished:
	case !got:
		o.ReadErrno = ev.Errno
	default:
		o.Reads++
		o.Bytes += max(0, ev.Ret.Val)
		o.begins(ev)
	}
}
