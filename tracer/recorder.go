package tracer

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"

	"whosefd/tracer/cpu"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/memory"
	"whosefd/tracer/procview"
	"whosefd/tracer/ptrace"
)

const (
	// maxPath is the longest name the kernel takes, with its NUL (PATH_MAX,
	// linux/limits.h).
	maxPath = 4096
	// maxData bounds how much of what was read from a process's memory is
	// kept: enough for most library names in one piece. gdb reads them 8
	// bytes at a time.
	maxData = 256
	// maxHead is how much is kept of how a file begins, in bytes: e_ident of
	// an ELF file (elf.h).
	maxHead = 16
	// maxSpans bounds in how many pieces of its own memory a debugger may want
	// them.
	maxSpans = 64
)

// recorder turns the stops of the loop into events. It runs on the tracer's
// thread, while the thread it is told about is stopped.
type recorder struct {
	view      *procview.View
	calls     *decode.Table
	start     time.Time
	debugger  event.PID
	inferiors *inferiors
	emit      func(event.Event)

	fds     *fdTable
	cpu     *cpu.Affinity
	watched map[uint64]string // numbers of the calls that fdTable.watch and others look at

	count   int64  // syscall events emitted
	restart uint64 // number of restart_syscall(2)
	ptrace  *decode.Call
	// namesOnly: only calls with names are told.
	namesOnly bool
	foreign   bool // a call of another architecture was met, and said
	// memory is the debugger's. It is opened when the first thread is seen, and
	// anew for another program, and when a file is mapped that may have to be asked
	// for. It is nil where /proc has it not: then it is read without the file.
	memory *memory.Process
	// record, if set, stands for the memory of a thread that runs on.
	record memory.Reader
	// at is when what is told now has happened; where it is not known, now.
	at     event.Opt[event.Micros]
	opened bool
	path   [maxPath]byte
	buf    []byte
}

// call is what a recorder keeps for a thread's call between entry and exit.
type call struct {
	row  *decode.Call
	args [6]uint64
	ev   event.Syscall
	// active: the call is of those that are shown. pending: it was already
	// reported as unfinished, and its end will complete that.
	active, pending bool
	// exposed is the thread whose CPU mask the call is about; 0 for none.
	exposed event.TID
	led     *rewritten // by guard
	// remote is how much of another process's memory is asked for from the
	// event's Offset on, in bytes.
	remote uint64
	// calls were entered since paced, which is a time.
	calls int
	paced event.Micros
}

func newRecorder(v *procview.View, calls *decode.Table, start time.Time, debugger event.PID, in *inferiors, emit func(event.Event)) *recorder {
	r := &recorder{view: v, calls: calls, start: start, debugger: debugger, inferiors: in, emit: emit,
		fds: newFDTable(v, debugger), watched: map[uint64]string{}}
	for _, name := range append([]string{"ptrace", "unshare", "io_uring_setup"}, cpu.Exposing...) {
		if nr, ok := calls.Number(name); ok {
			r.watched[nr] = name
		}
	}
	r.restart, _ = calls.Number("restart_syscall")
	r.ptrace, _ = decode.ByName("ptrace")
	return r
}

// now is the time of what is told.
func (r *recorder) now() event.Micros {
	return r.at.Or(event.Micros(time.Since(r.start).Microseconds()))
}

func (r *recorder) callOf(t *ptrace.Thread) *call {
	c, ok := t.Data.(*call)
	if !ok {
		c = new(call)
		t.Data = c
	}
	return c
}

// Begin implements [ptrace.Handler]: a call that was already going on is
// reported as unfinished.
func (r *recorder) Begin(t *ptrace.Thread, in *ptrace.Call) {
	c := r.callOf(t)
	*c = call{}
	c.paced = r.now()
	if !r.opened {
		r.openMemory()
	}
	if t.TID == event.TID(t.PID) {
		r.cpu.Pin(t.TID) // other threads must show that it pays
	}
	if in == nil {
		return
	}
	if r.decodeEntry(t, c, in.Nr, in.Args) {
		c.pending = true
		r.unfinished(c)
	}
}

// Enter implements [ptrace.Handler].
func (r *recorder) Enter(t *ptrace.Thread, arch uint32) {
	c := r.callOf(t)
	if c.calls++; c.calls == cpu.PaceEvery {
		now := r.now()
		r.cpu.Pace(t.TID, c.calls, time.Duration(now-c.paced)*time.Microsecond)
		c.calls, c.paced = 0, now
	}
	if arch != nativeAudit {
		t.WantExit = false
		c.active, c.pending = false, false
		r.sayForeign(t.TID)
		return
	}
	if name, ok := r.watched[t.Call.Nr]; ok {
		r.fds.watch(t, name)
		if name == "ptrace" && !r.ptrace.ShownWith(t.Call.Args) { // a look at memory lets nobody run
			r.inferiors.forget(event.TID(int32(uint32(t.Call.Args[1])))) // of the caller itself for PTRACE_TRACEME
		}
		if slices.Contains(cpu.Exposing, name) {
			if tid := concerned(t, name); r.cpu.Free(tid) {
				c.exposed = tid
			}
		}
	}
	if c.pending && (t.Call.Nr == r.restart || t.Call.Nr == c.nr(r.calls) && t.Call.Args == c.args) {
		return // the kernel makes the interrupted call again
	}
	if row, ok := r.calls.Call(t.Call.Nr); ok && r.namesOnly && row.PathArg() < 0 && !ofUse(row) {
		t.WantExit = c.exposed != 0
		c.active, c.pending = false, false
		return
	}
	t.WantExit = r.decodeEntry(t, c, t.Call.Nr, t.Call.Args) || c.exposed != 0
}

// ofUse says whether a call without a name matters to who tells only of those with one: it
// changes descriptors, or may say whose memory the debugger reads.
func ofUse(row *decode.Call) bool {
	switch row.Class {
	case decode.ClassSeek, decode.ClassMap, decode.ClassStat:
		return false
	case decode.ClassRead:
		return row.OffsetArg() >= 0
	}
	return true
}

// concerned is the thread whose mask a call is about.
func concerned(t *ptrace.Thread, name string) event.TID {
	if tid := event.TID(int32(uint32(t.Call.Args[0]))); strings.HasPrefix(name, "sched_") && tid != 0 {
		return tid
	}
	return t.TID
}

// sayForeign says once that there are calls that cannot be decoded.
func (r *recorder) sayForeign(tid event.TID) {
	if !r.foreign {
		r.foreign = true
		r.emit(&event.Lost{T: r.now(), TID: tid, Reason: "calls of another architecture (32-bit) are not decoded"})
	}
}

func (c *call) nr(calls *decode.Table) uint64 {
	nr, _ := calls.Number(c.row.Name)
	return nr
}

// decodeEntry fills c with what is known at the entry of a call, and says
// whether it is one that is shown.
func (r *recorder) decodeEntry(t *ptrace.Thread, c *call, nr uint64, args [6]uint64) bool {
	row, ok := r.calls.Call(nr)
	c.pending = false
	c.active = ok && row.ShownWith(args)
	if !c.active {
		return false
	}
	c.row, c.args, c.remote = row, args, 0
	c.ev = event.Syscall{T: r.now(), PID: t.PID, TID: t.TID, Name: row.Name, Flags: r.calls.Flags(row, args)}
	ev := &c.ev
	if i := row.PathArg(); i >= 0 {
		ev.Path, ev.PathTruncated = r.readPath(t.TID, args[i])
	}
	if i := row.DirFDArg(); i >= 0 {
		if fd := event.FD(decode.Int32(args[i])); fd != event.AtFDCWD {
			ev.DirFD = event.Some(fd)
			if ev.Path == "" { // AT_EMPTY_PATH: the descriptor itself is meant
				ev.FD = ev.DirFD
			}
		}
	}
	if i := row.FDArg(); i >= 0 {
		ev.FD = event.Some(event.FD(decode.Int32(args[i])))
	}
	if i := row.NewFDArg(); i >= 0 {
		ev.NewFD = event.Some(event.FD(decode.Int32(args[i])))
	}
	if first, last := row.RangeArgs(); first >= 0 {
		ev.FirstFD, ev.LastFD = event.Some(uint32(args[first])), event.Some(uint32(args[last]))
	}
	ev.CloseOnExec = row.SetsCloseOnExec(args)
	if i := row.CountArg(); i >= 0 {
		ev.Count = event.Some(args[i])
	}
	if i := row.OffsetArg(); i >= 0 {
		ev.Offset = event.Some(int64(args[i]))
	}
	if i := row.RemoteArg(); i >= 0 {
		ev.Offset = event.Some(int64(args[i]))
	}
	if i := row.PIDArg(); i >= 0 {
		ev.OfPID = r.inferiors.processOf(event.TID(decode.Int32(args[i])))
	}
	if r.calls.HasMode(row, args) {
		ev.Mode = event.Some(uint32(args[row.ModeArg()]))
	}
	r.readMemoryArgs(t, c)
	if ev.FD.Known {
		ev.Target = r.fds.look(ev.FD.Val)
	}
	r.fds.forget(row.Edit(ev))
	return true
}

// readMemoryArgs decodes the arguments that are structures in memory.
func (r *recorder) readMemoryArgs(t *ptrace.Thread, c *call) {
	for i, kind := range c.row.Args {
		switch kind {
		case decode.OpenHow:
			if how, err := decode.ParseOpenHow(r.read(t.TID, c.args[i], decode.OpenHowSize)); err == nil {
				c.ev.Flags = r.calls.OpenFlags(how.Flags)
				if how.Mode != 0 {
					c.ev.Mode = event.Some(uint32(how.Mode))
				}
			}
		case decode.Iovec:
			n := min(c.args[i+1], decode.MaxIovecs)
			spans := decode.ParseIovecs(r.read(t.TID, c.args[i], int(n)*decode.IovecSize))
			if uint64(len(spans)) == n {
				c.ev.Count = event.Some(decode.Bytes(spans))
			}
		case decode.RemoteIovec:
			if c.args[i+1] == 0 {
				break
			}
			if spans := decode.ParseIovecs(r.read(t.TID, c.args[i], decode.IovecSize)); len(spans) == 1 {
				c.ev.Offset = event.Some(int64(spans[0].Base))
				c.remote = spans[0].Len
			}
		}
	}
}

// Exit implements [ptrace.Handler].
func (r *recorder) Exit(t *ptrace.Thread, rval int64, failed bool) {
	c := r.callOf(t)
	if c.exposed != 0 {
		r.cpu.Pin(c.exposed)
		c.exposed = 0
	}
	if !c.active {
		return
	}
	if c.ev.TID != t.TID { // execve(2) by a thread that is the leader now
		r.cpu.Renamed(c.ev.TID, t.TID)
	}
	ret, errno := decode.Result(rval)
	if decode.Restarts(int(-rval)) && failed {
		// A signal came in between; the kernel makes the call again, or ends
		// it with EINTR after the handler, without telling us which.
		ret, errno = -1, int(-rval)
	} else if !failed {
		ret, errno = rval, 0
	}
	r.fds.forget(c.row.Edit(&c.ev))
	now := r.now()
	ev := c.ev
	ev.Resumed = c.pending
	ev.DurUS = event.Some(int64(now - ev.T))
	ev.Ret, ev.Errno = event.Some(ret), decode.Errno(errno)
	if errno == 0 {
		r.atExit(t, c, &ev)
	}
	if ev.Path != "" {
		ev.Counterpart = r.inferiors.counterparts(&ev)
	}
	told := !r.namesOnly || c.pending || c.row.PathArg() >= 0
	c.active, c.pending = false, false
	r.inferiors.sawRead(&ev)
	if !told {
		return
	}
	r.send(&ev)
	r.inferiors.describe(&ev)
	opens := c.row.Class == decode.ClassOpen || c.row.Class == decode.ClassStat && ev.Errno != "" && decode.MapText(string(ev.Path))
	if opens && len(ev.Counterpart) == 0 {
		r.inferiors.describeOpened(&ev)
	}
	if c.row.Class == decode.ClassStat {
		r.inferiors.describeShutOut(&ev)
	}
}

// atExit looks at what a successful call left behind.
func (r *recorder) atExit(t *ptrace.Thread, c *call, ev *event.Syscall) {
	if c.row.MakesFD(c.args) {
		ev.Target = r.fds.fresh(event.FD(ev.Ret.Val))
		// Only what could be the library of an inferior is of interest.
		r.fds.made(event.FD(ev.Ret.Val), ev.Target, c.row.Class == decode.ClassOpen && r.inferiors.any())
	}
	if len(r.fds.unread) > 0 && ev.FD.Known {
		r.keepHead(t, c, ev)
	}
	if c.row.Class == decode.ClassMap && ev.Target != nil && r.view.RemoteDevice(r.debugger, ev.Target.Dev) ||
		c.row.Change == decode.DropsOnExec {
		r.openMemory()
	}
	for i, kind := range c.row.Args {
		switch kind {
		case decode.StatBuf:
			if st, err := r.calls.Stat(r.read(t.TID, c.args[i], r.calls.StatSize())); err == nil {
				ev.Target = statTarget(ev.Target, st)
			}
		case decode.StatxBuf:
			if st, err := decode.Statx(r.read(t.TID, c.args[i], decode.StatxSize)); err == nil {
				ev.Target = statTarget(ev.Target, st)
			}
		case decode.Buf:
			if n := min(ev.Ret.Val, maxData); n > 0 && r.keepsData(c.row, ev) {
				ev.Data = bytes.Clone(r.read(t.TID, c.args[i], int(n)))
			}
		case decode.Iovec:
			n := min(ev.Ret.Val, maxData)
			if c.row.Class == decode.ClassMemory {
				n = min(n, int64(min(c.remote, maxData)))
			}
			if n > 0 && (c.row.Class == decode.ClassMemory || r.keepsData(c.row, ev)) {
				ev.Data = r.readSpans(t.TID, c.args[i], c.args[i+1], int(n))
			}
		case decode.Word:
			if b := r.read(t.TID, c.args[i], decode.WordSize); len(b) == decode.WordSize {
				ev.Data, ev.Count = bytes.Clone(b), event.Some[uint64](decode.WordSize)
			}
		}
	}
}

// keepHead keeps how a file begins, from the first call that brings it to the
// debugger's memory: by that a library is told from what is none.
func (r *recorder) keepHead(t *ptrace.Thread, c *call, ev *event.Syscall) {
	switch c.row.Class {
	case decode.ClassRead, decode.ClassMap:
	case decode.ClassSeek:
		if ev.Ret.Val != 0 {
			delete(r.fds.unread, ev.FD.Val)
		}
		return
	default:
		return
	}
	if !r.fds.unread[ev.FD.Val] {
		return
	}
	if ev.Offset.Or(0) != 0 {
		return // the beginning may come yet
	}
	delete(r.fds.unread, ev.FD.Val)
	n := int(min(uint64(ev.Ret.Val), maxHead))
	if c.row.Class == decode.ClassMap {
		n = int(min(ev.Count.Or(0), maxHead))
		ev.Data = bytes.Clone(r.read(t.TID, uint64(ev.Ret.Val), n))
		return
	}
	for i, kind := range c.row.Args {
		switch kind {
		case decode.Buf:
			ev.Data = bytes.Clone(r.read(t.TID, c.args[i], n))
		case decode.Iovec:
			ev.Data = r.readSpans(t.TID, c.args[i], c.args[i+1], n)
		}
	}
}

// keepsData says whether what a call brought is evidence: the text of a link,
// and what was read from a process's memory, where names come from.
func (r *recorder) keepsData(row *decode.Call, ev *event.Syscall) bool {
	if row.Class == decode.ClassLink {
		return true
	}
	return ev.Target != nil && ev.Target.Kind == event.Procfs && bytes.HasSuffix([]byte(ev.Target.Link), []byte("/mem"))
}

// statTarget is what stat(2) said of a file. The kernel's word about the file
// that the call reached is better than a look of ours at its name.
func statTarget(known *event.Target, st decode.Stat) *event.Target {
	t := event.Target{Kind: cmp.Or(decode.Kinds[st.Mode&decode.StatTypeMask], event.Unknown), Dev: st.Dev, Ino: st.Ino}
	if known != nil && known.Same(t) { // a descriptor's link tells more than its mode
		return known
	}
	if known != nil && !known.Identified() {
		t.Link = known.Link // of a file that was gone before it could be asked for more
	}
	return &t
}

// Leave implements [ptrace.Handler]: a call that is still going on is reported
// as unfinished.
func (r *recorder) Leave(t *ptrace.Thread) {
	r.cpu.Free(t.TID)
	r.Gone(t)
}

// Gone implements [ptrace.Handler].
func (r *recorder) Gone(t *ptrace.Thread) {
	r.cpu.Gone(t.TID)
	if c := r.callOf(t); c.active && !c.pending {
		r.unfinished(c)
		c.active = false
	}
}

func (r *recorder) unfinished(c *call) {
	ev := c.ev
	ev.Unfinished = true
	if ev.Path != "" {
		ev.Counterpart = r.inferiors.counterparts(&ev)
	}
	r.send(&ev)
}

func (r *recorder) send(ev *event.Syscall) {
	r.count++
	r.emit(ev)
}

// read gives up to n bytes of a thread's memory, valid until the next read;
// fewer where they are not there.
func (r *recorder) read(tid event.TID, addr uint64, n int) []byte {
	if cap(r.buf) < n {
		r.buf = make([]byte, n)
	}
	got, _ := r.memoryOf(tid).ReadMemory(r.buf[:n], addr)
	return r.buf[:got]
}

// readSpans gives the first n bytes that a thread's memory holds in an array of
// struct iovec; fewer where they are not there.
func (r *recorder) readSpans(tid event.TID, array, entries uint64, n int) []byte {
	// A call that has moved n bytes may have done so into as many spans.
	spans := decode.ParseIovecs(r.read(tid, array, int(min(entries, uint64(n), maxSpans))*decode.IovecSize))
	data := make([]byte, 0, n)
	for _, s := range spans {
		want := int(min(s.Len, uint64(n-len(data))))
		got := r.read(tid, s.Base, want)
		data = append(data, got...)
		if len(got) < want || len(data) == n {
			break
		}
	}
	return data
}

// memoryOf gives a thread's memory. It does not wait for a file system that does
// not answer, where that is possible: the thread is stopped meanwhile, and so are we.
func (r *recorder) memoryOf(tid event.TID) memory.Reader {
	if r.record != nil {
		return r.record
	}
	if r.memory != nil {
		return r.memory
	}
	return memory.Thread(tid)
}

func (r *recorder) openMemory() {
	r.close()
	r.opened = true
	if maps, err := r.view.Maps(r.debugger); err == nil {
		r.memory, _ = memory.Open(r.view, r.debugger, maps) // nil if it cannot be
	}
}

func (r *recorder) close() {
	_ = r.memory.Close()
	r.memory = nil
}

// readPath reads a NUL-terminated name; truncated says that its end could not be
// read or that it is longer than the kernel takes.
func (r *recorder) readPath(tid event.TID, addr uint64) (path event.Text, truncated bool) {
	b, ended, _ := memory.Text(r.memoryOf(tid), addr, r.path[:0], maxPath)
	return event.Text(b), !ended && len(b) > 0
}
