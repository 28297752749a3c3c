package waits

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/memory"
	"whosefd/tracer/procview"
)

// descriptor adds a descriptor that has to become readable or writable, and who
// could make it so.
func (d *decoding) descriptor(fd event.FD, op event.AwaitOp) {
	on := event.Awaited{Op: op, FD: event.Some(fd), Target: d.target(fd)}
	switch on.Target.Kind {
	case event.Pipe, event.FIFO:
		d.pipe(&on)
	case event.TTY:
		d.terminal(&on, fd)
	case event.Socket:
		d.socket(&on)
	case event.AnonInode:
		d.nameless(&on, fd)
	case event.CharDev:
		on.Outside = event.OutsideDevice
		switch {
		case on.Target.Link == "/dev/fuse": // users of the mount
			on.Outside = event.OutsideAnybody
		case strings.HasSuffix(string(on.Target.Link), "/ptmx"):
			d.terminal(&on, fd)
		}
	case event.Regular, event.Directory, event.Memfd, event.BlockDev, event.Procfs:
		if mount, ok := d.mqueue(fd, &on); ok {
			on.Mount = mount
			break
		}
		d.file(fd)
		return
	default:
		on.Outside = event.OutsideUnknown
	}
	d.add(on)
}

// mqueue is a POSIX message queue: a file on a file system of its own.
func (d *decoding) mqueue(fd event.FD, on *event.Awaited) (*event.Mount, bool) {
	if d.call != "mq_timedreceive" && d.call != "mq_timedsend" {
		return nil, false
	}
	on.Op = event.AwaitQueue
	d.byHolders(on, event.HowWriter, event.HowReader, func(ix *procview.Index) []event.Holder { return ix.Holders(*on.Target) })
	on.Outside = event.OutsideAnybody // it has a name
	info, err := d.v.Fdinfo(d.w.PID, fd)
	if err != nil {
		return nil, true
	}
	mount, _ := d.v.MountByID(d.w.PID, info.MountID)
	return mount, true
}

// byHolders adds those who hold the other end of a file: who may write to it for a
// read, who may read from it for a write.
func (d *decoding) byHolders(on *event.Awaited, writer, reader event.EnderHow, find func(*procview.Index) []event.Holder) {
	hs := d.holders(find)
	on.Partial = on.Partial || d.doubt(hs)
	want, how := "w", writer
	if on.Op == event.AwaitWrite || d.call == "mq_timedsend" {
		want, how = "r", reader
	}
	for _, h := range hs {
		if h.Access != "path" && strings.Contains(h.Access, want) && !hasEnder(on, h.PID) {
			on.Enders = append(on.Enders, event.Ender{PID: h.PID, Comm: h.Comm, FD: event.Some(h.FD), How: how})
		}
	}
}

// those adds the holders whose descriptor is so.
func (s *search) those(on *event.Awaited, how event.EnderHow, of []event.Holder, is func(procview.Fdinfo) bool) {
	var found []event.Holder
	for _, h := range of {
		info, err := s.v.Fdinfo(h.PID, h.FD)
		if err != nil || !is(info) {
			continue
		}
		found = append(found, h)
		if !hasEnder(on, h.PID) {
			on.Enders = append(on.Enders, event.Ender{PID: h.PID, Comm: h.Comm, FD: event.Some(h.FD), How: how})
		}
	}
	on.Partial = on.Partial || s.doubt(found)
}

func hasEnder(on *event.Awaited, pid event.PID) bool {
	return slices.ContainsFunc(on.Enders, func(e event.Ender) bool { return e.PID == pid })
}

func (d *decoding) pipe(on *event.Awaited) {
	d.byHolders(on, event.HowWriter, event.HowReader, func(ix *procview.Index) []event.Holder { return ix.Holders(*on.Target) })
	if on.Target.Kind == event.FIFO && !strings.HasSuffix(string(on.Target.Link), " (deleted)") {
		on.Outside = event.OutsideAnybody // who opens its name
	}
	if len(on.Enders) == 0 && on.Outside == "" {
		on.Outside = event.OutsideUnknown // somebody has the other end, or it would not wait
	}
}

// terminal is one side of a pseudo terminal (pty(7)), whose other side is meant, or
// a console or serial line.
func (d *decoding) terminal(on *event.Awaited, fd event.FD) {
	info, err := d.v.Fdinfo(d.w.PID, fd)
	if err == nil && info.TTY.Known { // the master
		d.slaves(on, info.TTY.Val)
		return
	}
	n, ok := d.ptsNumber(on.Target)
	const stderr = 2
	own, has := d.controllingPTS()
	on.Foreign = fd > stderr && on.Target.Link != "/dev/tty" && !(ok && has && n == own)
	if !ok {
		on.Outside = event.OutsideDevice
		return
	}
	hs := d.holders(func(ix *procview.Index) []event.Holder {
		return append(ix.Named("/dev/ptmx"), ix.Named("/dev/pts/ptmx")...)
	})
	// Of several instances of devpts there may be several masters with that number:
	// each could be it.
	d.those(on, event.HowTerminal, hs, func(info procview.Fdinfo) bool { return info.TTY.Is(n) })
	if len(on.Enders) == 0 {
		on.Outside = event.OutsideUnknown
	}
}

// ptsNumber is N of /dev/pts/N; of /dev/tty, that of the process's terminal.
func (d *decoding) ptsNumber(t *event.Target) (int, bool) {
	if rest, ok := strings.CutPrefix(string(t.Link), "/dev/pts/"); ok {
		n, err := strconv.Atoi(strings.TrimSuffix(rest, " (deleted)"))
		return n, err == nil
	}
	if t.Link != "/dev/tty" {
		return 0, false
	}
	return d.controllingPTS()
}

// controllingPTS is N of the /dev/pts/N that is the terminal of the process.
func (d *decoding) controllingPTS() (int, bool) {
	const firstPTS, lastPTS = 136, 143 // UNIX98_PTY_SLAVE_MAJOR, linux/major.h
	dev := uint64(d.w.stat.TTY)
	major := int(dev >> 8 & 0xfff)
	minor := int(dev&0xff | dev>>12&0xfff00)
	return (major-firstPTS)<<20 | minor, major >= firstPTS && major <= lastPTS
}

// slaves are those who have a terminal open whose master is waited for.
func (d *decoding) slaves(on *event.Awaited, n int) {
	d.byHolders(on, event.HowTerminal, event.HowTerminal, func(ix *procview.Index) []event.Holder {
		return ix.Named("/dev/pts/" + strconv.Itoa(n))
	})
	for _, h := range d.holders(func(ix *procview.Index) []event.Holder { return ix.Named("/dev/tty") }) {
		if stat, err := d.v.Stat(h.PID, event.TID(h.PID)); err == nil && stat.TTY&0xff == n&0xff && !hasEnder(on, h.PID) {
			on.Enders = append(on.Enders, event.Ender{PID: h.PID, Comm: h.Comm, FD: event.Some(h.FD), How: event.HowTerminal})
		}
	}
	if len(on.Enders) == 0 {
		on.Outside = event.OutsideAnybody // nobody has it open: who opens its name
	}
}

// nameless is an eventfd, timerfd and the like.
func (d *decoding) nameless(on *event.Awaited, fd event.FD) {
	info, err := d.v.Fdinfo(d.w.PID, fd)
	if err != nil {
		on.Outside = event.OutsideUnknown
		return
	}
	switch link := string(on.Target.Link); {
	case info.EventFD.Known:
		hs := d.holders(func(ix *procview.Index) []event.Holder { return ix.Named(link) })
		d.those(on, event.HowWriter, hs, func(other procview.Fdinfo) bool { return other.EventFD == info.EventFD })
	case info.Process.Known && info.Process.Val > 0:
		pid := info.Process.Val
		on.Op, on.ID = event.AwaitChild, event.Some(int64(pid))
		on.Enders = []event.Ender{{PID: pid, Comm: d.comm(pid), How: event.HowChild}}
	case link == "anon_inode:[timerfd]":
		if on.Op = event.AwaitTimer; info.Armed {
			on.Outside = event.OutsideTimer
		} else {
			on.Enders = []event.Ender{{PID: d.w.PID, Comm: d.comm(d.w.PID), FD: event.Some(fd), How: event.HowWriter}}
		}
	case link == "anon_inode:[signalfd]":
		on.Op, on.Outside = event.AwaitSignal, event.OutsideAnybody
		if enders := d.children(func(event.PID) bool { return true }); len(enders) > 0 {
			on.Enders = enders
		}
	case link == "anon_inode:inotify", link == "anon_inode:[fanotify]":
		on.Outside = event.OutsideAnybody
	default:
		on.Outside = event.OutsideUnknown
	}
}

func (d *decoding) socket(on *event.Awaited) {
	t := d.socketsOf(d.w.PID)
	sk := t.byIno[on.Target.Ino]
	if sk == nil { // made in another network namespace, and inherited or sent
		for other := range d.otherSockets(t) {
			if sk = other.byIno[on.Target.Ino]; sk != nil {
				t = other
				break
			}
		}
	}
	if sk == nil {
		on.Outside = event.OutsideUnknown // netlink, a packet socket, or a namespace that may not be entered
		return
	}
	if sk.proto == "unix" {
		d.unixSocket(on, t, sk)
		return
	}
	if sk.local.IsValid() {
		on.Local = event.Text(sk.local.String())
	}
	switch {
	case on.Op == event.AwaitAccept || sk.listening:
		on.Op, on.Outside = event.AwaitAccept, event.OutsideAnybody
		return
	case !sk.remote.IsValid() || sk.remote.Port() == 0:
		on.Outside = event.OutsideAnybody // whoever sends to it
		return
	}
	on.Peer = event.Text(sk.remote.String())
	d.remote(on, t, sk)
}

// remote is the other side of a connection: in this namespace, not accepted yet, in
// another namespace of this machine, or elsewhere.
func (d *decoding) remote(on *event.Awaited, t *sockets, sk *socket) {
	if d.near(on, t, t.otherSide(sk), sk) {
		return
	}
	if !sk.remote.Addr().IsLoopback() {
		// Without address translation both sides have the same pair of addresses. Where
		// several networks have the same addresses it may be in several namespaces.
		for other := range d.otherSockets(t) {
			if far := other.otherSide(sk); far != nil && d.near(on, other, far, sk) && len(on.Enders) > 0 {
				on.Outside = ""
			}
		}
	}
	if len(on.Enders) == 0 {
		on.Outside = event.OutsideHost
	}
}

// near adds who has the other side of a connection, or who could accept it; false if that
// is not in this namespace.
func (d *decoding) near(on *event.Awaited, t *sockets, other, sk *socket) bool {
	if other != nil && other.ino != 0 {
		d.socketHolders(on, other, event.HowPeer)
		return true
	}
	// The other half of a connection that nobody has accepted yet belongs to no process.
	l := t.listener(sk.remote, other != nil || sk.toItself(sk.remote))
	if sk.proto != "tcp" || l == nil {
		return false
	}
	d.socketHolders(on, l, event.HowListener)
	return true
}

func (d *decoding) socketHolders(on *event.Awaited, sk *socket, how event.EnderHow) {
	hs := d.holders(func(ix *procview.Index) []event.Holder {
		return ix.Holders(event.Target{Kind: event.Socket, Ino: sk.ino})
	})
	on.Partial = on.Partial || d.doubt(hs)
	for _, h := range hs {
		if !hasEnder(on, h.PID) {
			on.Enders = append(on.Enders, event.Ender{PID: h.PID, Comm: h.Comm, FD: event.Some(h.FD), How: how})
		}
	}
	if len(on.Enders) == 0 {
		on.Outside = event.OutsideUnknown // in a message that is under way (SCM_RIGHTS), or in the kernel
	}
}

func (d *decoding) unixSocket(on *event.Awaited, t *sockets, sk *socket) {
	on.Local = event.Text(sk.name)
	switch {
	case on.Op == event.AwaitAccept || sk.listening:
		on.Op, on.Outside = event.AwaitAccept, event.OutsideAnybody
	case sk.peer != 0:
		if other := t.byIno[sk.peer]; other != nil {
			on.Peer = event.Text(other.name)
		}
		d.socketHolders(on, &socket{ino: sk.peer}, event.HowPeer)
	default:
		if l := t.waitingFor(sk.ino); l != nil {
			on.Peer = event.Text(l.name)
			d.socketHolders(on, l, event.HowListener)
			return
		}
		on.Outside = event.OutsideAnybody // whoever sends to its name
		if sk.name == "" {
			on.Outside = event.OutsideUnknown
		}
	}
}

// connects adds to the last descriptor where connect(2) goes to.
func (d *decoding) connects(i int) {
	n := min(d.args[i+1], 128) // sizeof(struct sockaddr_storage)
	name, inet := sockaddr(d.mem.read(d.w.PID, d.args[i], int(n)))
	if len(d.w.On) == 0 {
		return
	}
	on := &d.w.On[len(d.w.On)-1]
	if on.Op != event.AwaitConnect || len(on.Enders) > 0 {
		return
	}
	t := d.socketsOf(d.w.PID)
	switch {
	case inet.IsValid():
		on.Peer = event.Text(inet.String())
		sk := t.byIno[on.Target.Ino]
		if l := t.listener(inet, sk != nil && sk.toItself(inet)); l != nil {
			on.Outside = ""
			d.socketHolders(on, l, event.HowListener)
		} else {
			on.Outside = event.OutsideHost
		}
	case name != "":
		on.Peer = event.Text(name)
		if l := t.find(func(s *socket) bool { return s.proto == "unix" && s.listening && s.name == name }); l != nil {
			on.Outside = ""
			d.socketHolders(on, l, event.HowListener)
		}
	}
}

// file is a descriptor whose file system has to answer.
func (d *decoding) file(fd event.FD) {
	on := event.Awaited{Op: event.AwaitFile, FD: event.Some(fd), Target: d.target(fd)}
	if on.Target.Kind == event.TTY && d.call == "ioctl" { // tcdrain(3): until all is written
		d.descriptor(fd, event.AwaitWrite)
		return
	}
	var mount *event.Mount
	served := false
	if info, err := d.v.Fdinfo(d.w.PID, fd); err == nil {
		mount, served = d.v.MountByID(d.w.PID, info.MountID)
	}
	d.answers(&on, mount, served)
}

// path is a name whose file system has to answer, or that is opened.
func (d *decoding) path(i int, op event.AwaitOp, flags uint64) {
	name, ok := d.text(d.args[i])
	if !ok {
		return
	}
	on := event.Awaited{Op: event.AwaitFile, Path: event.Text(name)}
	full := name
	if !strings.HasPrefix(name, "/") {
		from := "cwd"
		if d.at >= 0 && decode.Waits(d.call)[0] == decode.WaitDirFD {
			from = "fd/" + strconv.Itoa(d.at)
		}
		full = path.Join(string(d.v.Link(d.w.PID, from)), name)
	}
	mount, served := d.v.MountOfName(d.w.PID, d.w.TID, full)
	if op == event.AwaitOpen && !served {
		t := d.v.Resolve(d.w.PID, d.w.TID, full)
		on.Target = &t
		switch {
		case t.Kind == event.FIFO:
			on.Op, on.Outside = event.AwaitOpen, event.OutsideAnybody
			on.Access = "r"
			if flags&unix.O_ACCMODE == unix.O_WRONLY {
				on.Access = "w"
			}
			d.add(on)
			return
		case t.Kind == event.TTY: // a line that is not there yet
			on.Op, on.Outside = event.AwaitOpen, event.OutsideDevice
			d.add(on)
			return
		case strings.Contains(d.w.Wchan, "lease"):
			d.lease(&on)
			d.add(on)
			return
		}
	}
	d.answers(&on, mount, served)
}

// answers adds what a file system has to answer.
func (d *decoding) answers(on *event.Awaited, mount *event.Mount, served bool) {
	switch {
	case served:
		d.server(on, mount)
	case d.w.State == "D":
		on.Mount, on.Outside = mount, event.OutsideDevice
	default:
		on.Mount, on.Outside = mount, event.OutsideUnknown
	}
	d.add(*on)
}

// server says who answers for a file system: for FUSE who has its connection open,
// for the others a host.
func (s *search) server(on *event.Awaited, mount *event.Mount) {
	on.Mount = mount
	if mount == nil || !mount.Connection.Known {
		on.Outside = event.OutsideHost
		return
	}
	on.Outside = ""
	hs := s.holders(func(ix *procview.Index) []event.Holder { return ix.Named("/dev/fuse") })
	// An older kernel does not tell: then any of them may be the server.
	s.those(on, event.HowServer, hs, func(info procview.Fdinfo) bool {
		on.Partial = on.Partial || !info.Connection.Known
		return !info.Connection.Known || info.Connection == mount.Connection
	})
	if len(on.Enders) == 0 {
		on.Outside = event.OutsideUnknown
	}
}

// text reads a name, which ends with a NUL.
func (d *decoding) text(addr uint64) (string, bool) {
	const longest = 4096 // PATH_MAX, linux/limits.h
	b, ended, _ := memory.Text(d.mem.of(d.w.PID), addr, nil, longest)
	return string(b), ended
}
