package straceio

import (
	"bytes"
	"path"
	"slices"
	"strings"

	"whosefd/tracer/event"
)

// Bounds of what is remembered. A log beyond them is read all the same: what
// does not fit is then not known.
const (
	maxProcesses = 1024
	maxThreads   = 1 << 16
	maxFDs       = 1 << 16 // of one process
	maxPending   = 1 << 16 // bytes of a call that has not ended
	maxStack     = 1 << 16 // bytes of the lines of a backtrace
	maxInferiors = 1024
)

// process is one whose calls are in the log.
type process struct {
	pid event.PID
	fds []descriptor // by number; only of descriptors that the log does not annotate
}

// descriptor is an entry of a process's table. A nil file is one of which
// nothing is known.
type descriptor struct {
	file    *file
	cloexec bool
}

func (p *process) fd(n event.FD) *file {
	if n < 0 || int(n) >= len(p.fds) {
		return nil
	}
	return p.fds[n].file
}

func (p *process) set(n event.FD, d descriptor) {
	if n < 0 || n >= maxFDs {
		return
	}
	for int(n) >= len(p.fds) {
		if d.file == nil {
			return
		}
		p.fds = append(p.fds, descriptor{})
	}
	p.fds[n] = d
}

// drop closes a range of descriptors, both ends included.
func (p *process) drop(first, last int64) {
	for n := max(0, first); n <= last && n < int64(len(p.fds)); n++ {
		p.fds[n] = descriptor{}
	}
}

// exec closes what is marked for it.
func (p *process) exec() {
	for n := range p.fds {
		if p.fds[n].cloexec {
			p.fds[n] = descriptor{}
		}
	}
}

// thread is one whose calls are in the log.
type thread struct {
	tid  event.TID
	proc *process
	// pending is the text of a call that has not ended, from its name on; open
	// says that there is one.
	pending []byte
	open    bool
	since   event.Micros
	// stack has the lines of the backtrace (-k) of the last call that has one,
	// of is that call.
	stack []byte
	of    *callInfo
	ended bool
}

// forking gives the call by which a thread is making a child that has been
// seen before the call has returned.
func (t *thread) forking() bool {
	if !t.open {
		return false
	}
	name, _, _ := bytes.Cut(t.pending, []byte("("))
	switch string(name) {
	case "clone", "clone3", "fork", "vfork":
		return true
	}
	return false
}

// thread gives the thread with an id, made on its first appearance.
func (p *parser) thread(tid event.TID) *thread {
	if p.cur != nil && p.cur.tid == tid {
		return p.cur
	}
	t := p.threads[tid]
	if t == nil || t.ended {
		if t == nil && len(p.threads) >= maxThreads {
			p.forgetThreads()
		}
		t = &thread{tid: tid, proc: p.main}
		for _, parent := range p.threads {
			if parent.forking() {
				t.proc = p.child(parent, event.PID(tid), parent.pending)
				break
			}
		}
		p.threads[tid] = t
	}
	p.cur = t
	return t
}

// forgetThreads makes room: those that have no call under way come again as
// threads of the debugger.
func (p *parser) forgetThreads() {
	for tid, t := range p.threads {
		if !t.open && t.proc == p.main || t.ended {
			delete(p.threads, tid)
		}
	}
	if len(p.threads) >= maxThreads {
		clear(p.threads)
	}
	p.cur = nil
}

// child gives the process of a new thread: that of its parent for
// CLONE_THREAD, else one of its own with a copy of the descriptors.
func (p *parser) child(parent *thread, pid event.PID, call []byte) *process {
	if bytes.Contains(call, []byte("CLONE_THREAD")) || p.processes >= maxProcesses {
		return parent.proc
	}
	p.processes++
	c := &process{pid: pid}
	c.fds = append(c.fds, parent.proc.fds...)
	return c
}

// forked notes the result of clone(2) and its like.
func (p *parser) forked(t *thread, tid event.TID, call []byte) {
	if tid <= 0 || !p.follows {
		return
	}
	c := p.threads[tid]
	same := bytes.Contains(call, []byte("CLONE_THREAD"))
	switch {
	case c == nil || c.ended:
		if len(p.threads) < maxThreads {
			p.threads[tid] = &thread{tid: tid, proc: p.child(t, event.PID(tid), call)}
		}
	case same && c.proc != t.proc:
		c.proc = t.proc
	case !same && c.proc == t.proc:
		c.proc = p.child(t, event.PID(tid), call)
	}
}

// execed notes that a thread runs another program now.
func (p *parser) execed(t *thread, name event.Text, args []byte) {
	if t.proc.pid != event.PID(t.tid) && t.tid > 0 && p.follows {
		// A thread that was taken for one of the debugger, since its making is
		// not in the log, is a process.
		t.proc = p.child(t, event.PID(t.tid), nil)
	}
	t.proc.exec()
	if t.proc != p.main {
		if isDebugger(name) && !isDebugger(event.Text(p.session.Debugger.Exe)) {
			p.main = t.proc
		} else {
			return
		}
	}
	was, is := p.session.Debugger, &event.Process{PID: t.proc.pid, Cwd: p.session.Debugger.Cwd}
	describe(is, name, args)
	if is.PID == was.PID && is.Exe == was.Exe && slices.Equal(is.Cmdline, was.Cmdline) {
		return // looking ahead has told it already
	}
	s := *p.session
	s.Debugger = is
	p.session = &s
	p.emit(&s)
}

// describe fills in what an execve tells of a process.
func describe(to *event.Process, name event.Text, args []byte) {
	to.Exe = name
	comm := path.Base(string(name))
	to.Comm = event.Text(comm[:min(len(comm), 15)]) // TASK_COMM_LEN of linux/sched.h, less the NUL
	to.Cmdline = argv(args)
}

// argv reads the arguments of an execve; none where they are not shown whole.
func argv(b []byte) []event.Text {
	c := cursor{b: b}
	if !c.at("[") {
		return nil
	}
	var args []event.Text
	for len(args) < 256 {
		text, ok := c.quoted()
		if !ok || c.ellipsis() {
			return nil
		}
		args = append(args, event.Text(unescape(nil, text)))
		if !c.at(", ") {
			if c.at("]") {
				return args
			}
			break
		}
	}
	return nil
}

// isDebugger says whether a program is a debugger, by its name.
func isDebugger(exe event.Text) bool {
	name := path.Base(string(exe))
	for _, known := range []string{"gdb", "lldb", "dlv"} {
		if strings.HasPrefix(name, known) || strings.HasSuffix(name, "-"+known) {
			return true
		}
	}
	return false
}

// inferior notes that the debugger looks into a process.
func (p *parser) inferior(pid event.PID) {
	if pid == p.lastInferior || pid <= 0 || pid == p.main.pid {
		return
	}
	p.lastInferior = pid
	if p.inferiors[pid] != nil || len(p.inferiors) >= maxInferiors {
		return
	}
	inf := &event.Inferior{T: p.now, Process: event.Process{PID: pid, Comm: p.comms[pid]}}
	p.inferiors[pid] = inf
	p.emitInferior(inf)
}

func (p *parser) emitInferior(inf *event.Inferior) {
	c := *inf
	p.emit(&c)
}

// called notes the name of a process, as the state file in /proc has it:
// "2162 (from_memory) t 2158".
func (p *parser) called(pid event.PID, stat []byte) {
	_, rest, ok := bytes.Cut(stat, []byte("("))
	end := bytes.LastIndexByte(rest, ')')
	if !ok || end < 0 {
		return
	}
	comm := string(rest[:end])
	if string(p.comms[pid]) == comm {
		return
	}
	if _, known := p.comms[pid]; known || len(p.comms) < maxInferiors {
		p.comms[pid] = event.Text(comm)
	}
	if inf := p.inferiors[pid]; inf != nil {
		inf.T, inf.Comm = p.now, event.Text(comm)
		p.emitInferior(inf)
	}
}

// runs notes the program of a process: the link /proc/PID/exe.
func (p *parser) runs(pid event.PID, exe event.Text) {
	if inf := p.inferiors[pid]; inf != nil && inf.Exe != exe {
		inf.T, inf.Exe = p.now, exe
		p.emitInferior(inf)
	}
}
