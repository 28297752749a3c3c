package straceio

import (
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// nextSerial numbers a file whose inode is not in the log.
func (p *parser) nextSerial() uint64 {
	p.serial++
	return p.serial
}

// byName says what a successful open of a name has led to, where the log does
// not annotate descriptors; nil where that cannot be told.
func (p *parser) byName(proc *process, ev *event.Syscall) *file {
	if ev.Path == "" || ev.PathTruncated || ev.Path[0] != '/' {
		return nil
	}
	name := string(ev.Path)
	n := decode.ClassifyName(name)
	switch {
	case n.Root != "" || n.Derived:
	case n.Rest == "" && (n.Kind == decode.SelfFD || n.Kind == decode.PIDFD && n.PID == proc.pid):
		return p.ownFile(proc, n.FD)
	case n.Kind == decode.PIDPath:
		f := &file{target: event.Target{Kind: event.Procfs, Link: ev.Path}}
		if f.mem, f.stat = procFile(name); f.mem != 0 || f.stat != 0 {
			return f
		}
	case n.Kind == decode.SelfLink && n.Link == "mem" && proc.pid > 0:
		return p.file(memName(proc.pid))
	case n.Kind == decode.Absolute:
		if kind := kindOf(name, ""); kind != event.Unknown {
			return &file{target: event.Target{Kind: kind, Link: ev.Path}}
		}
	}
	return nil
}

// ownFile is the file of a descriptor of the process itself, which it opens a
// second time: whatever it is, the two are one file from now on.
func (p *parser) ownFile(proc *process, fd event.FD) *file {
	d, _ := proc.fds.Get(fd)
	f := file{target: event.Target{Kind: event.Unknown}}
	if d.file != nil {
		f = *d.file
	}
	if !f.target.Identified() {
		f.target.Serial = p.nextSerial()
		d.file = &f
		proc.fds.Set(fd, d, event.Opt[bool]{})
		p.emit(&event.Descriptor{T: p.now, PID: proc.pid, FD: fd, Target: f.target})
	}
	return &f
}

// makes notes descriptors that a call has made from nothing.
func (a *args) makes(r *result) {
	row := a.row
	kind := event.AnonInode
	switch {
	case strings.HasPrefix(row.Name, "pipe"):
		kind = event.Pipe
	case strings.HasPrefix(row.Name, "socket"), strings.HasPrefix(row.Name, "accept"):
		kind = event.Socket
	case strings.HasPrefix(row.Name, "memfd"):
		kind = event.Memfd
	case row.Name == "mq_open", row.Name == "pidfd_getfd", row.Name == "fsmount":
		kind = event.Unknown
	}
	switch {
	case len(a.pair) == 2 && row.Change == decode.MakesPair:
		t, access := event.Target{Kind: kind, Serial: a.p.nextSerial()}, [2]string{"rw", "rw"}
		if kind == event.Pipe {
			access = [2]string{"r", "w"}
		}
		for i, m := range a.pair {
			if kind != event.Pipe && i == 1 {
				t.Serial = a.p.nextSerial() // its peer is another socket
			}
			a.makeOne(m, t, access[i])
		}
	case row.Ret == decode.RetNewFD && r.val >= 0 && r.val < 1<<31:
		a.makeOne(made{event.FD(r.val), r.file}, event.Target{Kind: kind, Serial: a.p.nextSerial()}, "")
	}
}

// makeOne notes one of them; t is what it is if the log does not say.
func (a *args) makeOne(m made, t event.Target, access string) {
	f := &file{target: t}
	if m.file != "" {
		f = a.p.file(m.file)
	}
	cloexec := strings.Contains(a.ev.Flags, "CLOEXEC")
	a.t.proc.fds.Set(m.fd, descriptor{file: f}, event.Some(cloexec))
	a.p.emit(&event.Descriptor{T: a.p.now, PID: a.t.proc.pid, FD: m.fd, Access: access, Target: f.target, Call: a.row.Name})
}

// learn takes from fstat(2) what sort of file a descriptor is and, with -v,
// which one.
func (a *args) learn() {
	if !a.ev.FD.Known || a.stat == "" {
		return
	}
	st := readStat(a.stat)
	f := file{target: event.Target{Kind: event.Unknown}}
	if a.file != nil {
		f = *a.file
	}
	if st.kind == "" || f.target.Kind != event.Unknown && (st.ino == 0 || f.target.Dev == st.dev && f.target.Ino == st.ino) {
		return
	}
	if f.target.Kind == event.Unknown {
		f.target.Kind = st.kind
	}
	if f.text != "" {
		kindOnly := f // the next file of that name may be another one
		a.p.learned(&kindOnly)
	}
	if st.ino != 0 {
		f.target.Dev, f.target.Ino, f.target.Serial = st.dev, st.ino, 0
	}
	fd := a.ev.FD.Val
	d, _ := a.t.proc.fds.Get(fd)
	d.file = &f
	a.t.proc.fds.Set(fd, d, event.Opt[bool]{})
	a.is(&f)
	a.p.emit(&event.Descriptor{T: a.p.now, PID: a.t.proc.pid, FD: fd, Target: f.target})
}
