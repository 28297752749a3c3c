package straceio

import (
	"bytes"
	"encoding/binary"
	"strconv"
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
		return p.file([]byte(memName(proc.pid)))
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
	f := proc.fd(fd)
	if f == nil {
		f = &file{target: event.Target{Kind: event.Unknown}}
	}
	if f.target.Identified() {
		return f
	}
	c := *f
	c.target.Serial = p.nextSerial()
	d := descriptor{file: &c}
	if fd >= 0 && int(fd) < len(proc.fds) {
		d.cloexec = proc.fds[fd].cloexec
	}
	proc.set(fd, d)
	p.emit(&event.Descriptor{T: p.now, PID: proc.pid, FD: fd, Target: c.target})
	return &c
}

// madeNew notes descriptors that were made from nothing.
func (a *args) madeNew(r *result) {
	row := a.info.row
	switch {
	case a.pairs == 2 && row.Change == decode.MakesPair:
		kind, access := event.Socket, [2]string{"rw", "rw"}
		if strings.HasPrefix(row.Name, "pipe") {
			kind, access = event.Pipe, [2]string{"r", "w"}
		}
		t := event.Target{Kind: kind, Serial: a.p.nextSerial()}
		for i, m := range a.pair {
			if kind == event.Socket && i == 1 {
				t.Serial = a.p.nextSerial() // its peer is another socket
			}
			a.madeOne(m, t, access[i])
		}
	case row.Ret == decode.RetNewFD && r.val >= 0 && r.val < 1<<31:
		t := event.Target{Kind: event.AnonInode}
		switch {
		case strings.HasPrefix(row.Name, "socket"), strings.HasPrefix(row.Name, "accept"):
			t.Kind = event.Socket
		case strings.HasPrefix(row.Name, "memfd"):
			t.Kind = event.Memfd
		case row.Name == "mq_open", row.Name == "pidfd_getfd", row.Name == "fsmount":
			t.Kind = event.Unknown
		}
		t.Serial = a.p.nextSerial()
		a.madeOne(made{event.FD(r.val), r.file}, t, "")
	}
}

// madeOne notes one of them; t is what it is if the log does not say.
func (a *args) madeOne(m made, t event.Target, access string) {
	if m.file != nil {
		t = a.p.file(m.file).target
	} else {
		a.t.proc.set(m.fd, descriptor{file: &file{target: t}, cloexec: strings.Contains(a.ev.Flags, "CLOEXEC")})
	}
	a.p.emit(&event.Descriptor{T: a.p.now, PID: a.t.proc.pid, FD: m.fd, Access: access, Target: t, Call: a.info.row.Name})
}

// learn takes from fstat(2) what sort of file a descriptor is and, with -v,
// which one.
func (a *args) learn() {
	if !a.ev.FD.Known || a.stat == nil {
		return
	}
	st := readStat(a.stat)
	p, f := a.p, a.file
	if st.kind == "" || f != nil && f.target.Kind != event.Unknown && (st.ino == 0 || f.target.Dev != 0) {
		return
	}
	if f == nil && st.ino == 0 {
		if f = p.kinds[st.kind]; f == nil {
			f = &file{target: event.Target{Kind: st.kind}}
			p.kinds[st.kind] = f
		}
	} else {
		c := file{}
		if f != nil {
			c = *f
		}
		if c.target.Kind == event.Unknown || c.target.Kind == "" {
			c.target.Kind = st.kind
		}
		if c.text != "" {
			kindOnly := c
			p.shared.learn(&kindOnly)
		}
		if st.ino != 0 {
			c.target.Dev, c.target.Ino, c.target.Serial = st.dev, st.ino, 0
		}
		f = &c
	}
	fd := a.ev.FD.Val
	if f.text == "" {
		d := descriptor{file: f}
		if fd >= 0 && int(fd) < len(a.t.proc.fds) {
			d.cloexec = a.t.proc.fds[fd].cloexec
		}
		a.t.proc.set(fd, d)
	}
	a.ev.Target = &f.target
	p.emit(&event.Descriptor{T: p.now, PID: a.t.proc.pid, FD: fd, Target: f.target})
}

// fileStat is what strace shows of a struct stat.
type fileStat struct {
	kind     event.Kind
	dev, ino uint64
}

// readStat reads {st_mode=S_IFREG|0644, st_size=1024, …} and, with -v,
// {st_dev=makedev(0x8, 0x1), st_ino=12, st_mode=…}.
func readStat(b []byte) (st fileStat) {
	_, mode, ok := bytes.Cut(b, []byte("_mode="))
	if !ok {
		return st
	}
	fmtBits := int64(0)
	c := cursor{b: mode}
	if n, ok := c.number(); ok { // -X raw and verbose
		fmtBits = n & decode.StatTypeMask
	} else {
		name, _, _ := bytes.Cut(mode, []byte("|"))
		fmtBits = typeBits[string(bytes.TrimRight(name, "}, "))]
	}
	switch fmtBits {
	case decode.TypeRegular:
		st.kind = event.Regular
	case decode.TypeDir:
		st.kind = event.Directory
	case decode.TypeFIFO:
		st.kind = event.Pipe
	case decode.TypeSocket:
		st.kind = event.Socket
	case decode.TypeBlockDev:
		st.kind = event.BlockDev
	case decode.TypeCharDev:
		st.kind = event.CharDev
		if major, _, ok := device(b, "st_rdev="); ok && (major == 4 || major == 5 || major >= 136 && major <= 143) {
			st.kind = event.TTY
		}
	}
	if major, minor, ok := device(b, "st_dev="); ok {
		if _, rest, ok := bytes.Cut(b, []byte("st_ino=")); ok {
			c := cursor{b: rest}
			if n, ok := c.number(); ok {
				st.dev, st.ino = decode.Makedev(major, minor), uint64(n)
			}
		}
	}
	return st
}

var typeBits = map[string]int64{
	"S_IFREG": decode.TypeRegular, "S_IFDIR": decode.TypeDir, "S_IFIFO": decode.TypeFIFO, "S_IFSOCK": decode.TypeSocket,
	"S_IFBLK": decode.TypeBlockDev, "S_IFCHR": decode.TypeCharDev,
}

// device reads st_dev=makedev(0x8, 0x1).
func device(b []byte, field string) (major, minor uint32, ok bool) {
	_, rest, ok := bytes.Cut(b, []byte(field+"makedev("))
	if !ok {
		return 0, 0, false
	}
	c := cursor{b: rest}
	x, ok1 := c.number()
	ok2 := c.at(", ")
	y, ok3 := c.number()
	return uint32(x), uint32(y), ok1 && ok2 && ok3
}

// memName is the name of a process's memory.
func memName(pid event.PID) string { return "/proc/" + strconv.Itoa(int(pid)) + "/mem" }

// memory takes what ptrace(2) and process_vm_readv(2) have read from another
// process. It becomes a read of that process's memory, at the address as its
// offset.
func (a *args) memory(r *result) {
	var from remoteRead
	ok := r.known && !r.failed
	if ok && a.info.what == traces {
		from, ok = peeked(a.b)
		if from.follows && a.t.proc == a.p.main {
			a.p.inferior(from.pid)
		}
	} else if ok {
		from, ok = readRemotely(a.b)
		ok = ok && r.val > 0
	}
	if !ok {
		a.info.add(r)
		return
	}
	ev, p := a.ev, a.p
	*ev = event.Syscall{T: ev.T, PID: ev.PID, TID: ev.TID, Name: ev.Name, Ret: ev.Ret, DurUS: ev.DurUS, Flags: from.request}
	ev.Target = &p.file([]byte(memName(from.pid))).target
	ev.Offset = event.Some(from.addr)
	if from.word {
		ev.Data = binary.LittleEndian.AppendUint64(p.arena(8), from.value)[:8]
		ev.Count = event.Some[uint64](8)
	} else {
		ev.Data = p.data(from.text[:min(len(from.text), 4*maxData)])
		ev.Count = event.Some(uint64(r.val))
	}
	if a.t.proc == p.main {
		p.inferior(from.pid)
	}
	p.commit(ev)
}

// remoteRead is a look into the memory of another process.
type remoteRead struct {
	pid     event.PID
	addr    int64
	text    []byte // escaped
	value   uint64
	word    bool // it is in value
	request string
	// follows says that the request makes a process the caller's tracee.
	follows bool
}

// peeked reads ptrace(PTRACE_PEEKTEXT, 2162, 0x5555, [0x65732f636f72702f]).
func peeked(b []byte) (from remoteRead, ok bool) {
	c := cursor{b: b}
	c.at("ptrace(")
	c.argName()
	op := c.token()
	if n := bytes.IndexByte(op, ' '); n > 0 {
		op = op[:n] // -X verbose
	}
	if !c.next() {
		return from, false
	}
	c.argName()
	n, ok := c.number()
	if !ok || n <= 0 || n > maxTID {
		return from, false
	}
	from.pid = event.PID(n)
	switch string(op) { // include/uapi/linux/ptrace.h
	case "PTRACE_ATTACH", "PTRACE_SEIZE", "0x10", "0x4206":
		from.follows = true
		return from, false
	case "PTRACE_PEEKTEXT", "0x1":
		from.request = "PTRACE_PEEKTEXT"
	case "PTRACE_PEEKDATA", "0x2":
		from.request = "PTRACE_PEEKDATA"
	default:
		return from, false
	}
	if !c.next() {
		return from, false
	}
	c.argName()
	if from.addr, ok = c.number(); !ok || !c.next() {
		return from, false
	}
	c.argName()
	if !c.at("[") {
		return from, false
	}
	v, ok := c.number()
	from.value, from.word = uint64(v), true
	return from, ok
}

// readRemotely reads process_vm_readv(2162, [{iov_base="…", iov_len=8}], 1,
// [{iov_base=0x5555, iov_len=8}], 1, 0): the first piece of it.
func readRemotely(b []byte) (from remoteRead, ok bool) {
	c := cursor{b: b}
	c.at("process_vm_readv(")
	c.argName()
	n, ok := c.number()
	if !ok || n <= 0 || n > maxTID || !c.next() {
		return from, false
	}
	from.pid = event.PID(n)
	c.argName()
	if !c.at("[{iov_base=") {
		return from, false
	}
	if from.text, ok = c.quoted(); !ok {
		return from, false
	}
	c.ellipsis()
	// The rest of the entry, the other ones and their number.
	at := bytes.Index(b[c.i:], []byte("[{iov_base="))
	if at < 0 {
		return from, false
	}
	c.i += at
	c.at("[{iov_base=")
	from.addr, ok = c.number()
	return from, ok
}
