package straceio

import (
	"slices"
	"strings"

	"whosefd/analyze/state"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Bounds of what is remembered. A log beyond them is read all the same: what
// does not fit is then not known.
const (
	maxProcesses = 1024 // that have the descriptors of their parents
	maxThreads   = 1 << 16
	maxPending   = 1 << 16 // bytes of a call that has not ended
	maxStack     = 1 << 16 // bytes of the lines of a backtrace
	maxInferiors = 1024
)

// process is one whose calls are in the log.
type process struct {
	pid event.PID
	fds state.Table[descriptor]
	// made: another process of the log has made it.
	made bool
	// traces: it looks into other processes.
	traces bool
	exe    event.Text
	argv   string
}

// descriptor is an entry of a process's table.
type descriptor struct {
	file *file // nil: nothing is known of it
	// unread: it was opened by name, and nothing has been read since.
	unread bool
}

// thread is one whose calls are in the log.
type thread struct {
	tid  event.TID
	proc *process
	// pending is the text of a call that has not ended, from its name on, and
	// since its beginning; "" where there is none.
	pending string
	since   event.Micros
	at      place
	// stack has the lines of the backtrace (-k) of the last call that has one,
	// of is the name of that call.
	stack string
	of    string
	ended bool
}

// forking says that a thread is making a child that may be seen before the call
// has returned.
func (t *thread) forking() bool {
	name, _, _ := strings.Cut(t.pending, "(")
	return makesProcess(name)
}

// thread gives the thread with an id, made on its first appearance.
func (p *parser) thread(tid event.TID) *thread {
	if t := p.threads[tid]; t != nil && !t.ended {
		return t
	}
	if len(p.threads) >= maxThreads {
		p.forgetThreads()
	}
	t := &thread{tid: tid, proc: p.root}
	switch parent := p.forker(); {
	case event.PID(tid) == p.root.pid:
	case parent != nil:
		t.proc = p.child(parent, event.PID(tid), parent.pending)
	case p.attached[tid]:
		t.proc = p.process(event.PID(tid))
	}
	p.threads[tid] = t
	return t
}

// forker is a thread that is making a child now.
func (p *parser) forker() *thread {
	if p.frag != nil {
		if name, ok := callName(p.frag.body); ok && makesProcess(name) {
			return &thread{tid: p.frag.head.tid, proc: p.thread(p.frag.head.tid).proc, pending: p.frag.body}
		}
	}
	for _, t := range p.threads {
		if t.forking() {
			return t
		}
	}
	return nil
}

// forgetThreads makes room: those that have no call under way come again as
// threads of the first process.
func (p *parser) forgetThreads() {
	for tid, t := range p.threads {
		if t.pending == "" && t.proc == p.root || t.ended {
			delete(p.threads, tid)
		}
	}
	if len(p.threads) >= maxThreads {
		clear(p.threads)
	}
}

// process makes one.
func (p *parser) process(pid event.PID) *process {
	if pid == p.main.pid {
		return p.main // which was looked for ahead
	}
	c := &process{pid: pid}
	p.processes++
	if p.scouting {
		p.facts.processes = append(p.facts.processes, c)
	}
	return c
}

// child gives the process of a new thread: that of its parent for
// CLONE_THREAD, else one of its own with a copy of the descriptors.
func (p *parser) child(parent *thread, pid event.PID, call string) *process {
	if strings.Contains(call, "CLONE_THREAD") {
		return parent.proc
	}
	c := p.process(pid)
	c.made = true
	if p.processes < maxProcesses {
		c.fds = parent.proc.fds.Copy()
	}
	return c
}

// forked notes the result of clone(2) and its like.
func (p *parser) forked(t *thread, tid event.TID, call string) {
	if tid <= 0 {
		return
	}
	p.facts.made(tid)
	c := p.threads[tid]
	same := strings.Contains(call, "CLONE_THREAD")
	switch {
	case c == nil || c.ended:
		if len(p.threads) >= maxThreads {
			p.forgetThreads()
		}
		p.threads[tid] = &thread{tid: tid, proc: p.child(t, event.PID(tid), call)}
	case same && c.proc != t.proc:
		c.proc = t.proc
	case !same && c.proc == t.proc:
		c.proc = p.child(t, event.PID(tid), call)
	}
}

// gone notes the end of a thread; one that was killed in a call is kept with that.
// A line that names no thread is then of the only one that is left: strace(1) names
// them as long as there are several.
func (p *parser) gone(t *thread) {
	if t.ended = true; t.pending == "" {
		delete(p.threads, t.tid)
	}
	var left *thread
	for _, o := range p.threads {
		if !o.ended && left != nil {
			return
		}
		if !o.ended {
			left = o
		}
	}
	if left != nil {
		p.unnamed = left.tid
	}
}

// exits notes that a process or, if it is not its last one, a thread ends by
// itself: exit_group(2), exit(2). strace -qq, and older versions without -f,
// write no other line about that.
func (p *parser) exits(t *thread, name, text string) {
	p.counts.add(name, &result{})
	all := name == "exit_group"
	if !all {
		all = !slices.ContainsFunc(p.others(t), func(o *thread) bool { return !o.ended })
	}
	if all {
		for _, o := range p.others(t) {
			o.pending = ""
			p.gone(o)
		}
		if t.proc == p.main {
			c := cursor{s: text, i: len(name) + 1}
			c.argName()
			code, ok := c.number()
			p.end = &event.End{T: p.now, Reason: "exited", Exit: event.Opt[int]{Val: int(code & 0xff), Known: ok}}
		}
	}
	p.gone(t)
}

// others are the other threads of a process.
func (p *parser) others(t *thread) (all []*thread) {
	for _, o := range p.threads {
		if o != t && o.proc == t.proc {
			all = append(all, o)
		}
	}
	return all
}

// execed notes that a thread runs another program now.
func (p *parser) execed(t *thread, name event.Text, argv string) {
	if t.proc.pid != event.PID(t.tid) && t.tid > 0 && t.tid != p.unnamed && (!p.scouting || t.tid != p.facts.first) {
		// A thread that was taken for one of the first process, since its making is
		// not in the log, is a process.
		t.proc = p.process(event.PID(t.tid))
	}
	if !p.scouting || t.proc.exe == "" || isDebugger(name) && !isDebugger(t.proc.exe) { // the first counts, but for a debugger
		t.proc.exe, t.proc.argv = name, argv
	}
	if isDebugger(name) && !isDebugger(event.Text(p.session.Debugger.Exe)) {
		p.main = t.proc
	}
	if t.proc == p.main {
		s := *p.session
		s.Debugger = describe(t.proc, s.Debugger.Cwd)
		p.tell(&s)
	}
}

// tell says what is known of the debugger, where that has changed.
func (p *parser) tell(s *event.Session) {
	was, is := p.session.Debugger, s.Debugger
	if is.PID != was.PID || is.Exe != was.Exe || is.Comm != was.Comm || !slices.Equal(is.Cmdline, was.Cmdline) {
		p.session = s
		p.emit(s)
	}
}

// describe says what an execve has told of a process.
func describe(p *process, cwd event.Text) *event.Process {
	d := &event.Process{PID: p.pid, Cwd: cwd, Exe: p.exe}
	if p.exe != "" {
		d.Comm = decode.Comm(string(p.exe))
		d.Cmdline = argv(p.argv)
	}
	return d
}

// argv reads the arguments of an execve; none where they are not shown whole.
func argv(text string) []event.Text {
	c := cursor{s: text}
	if !c.at("[") {
		return nil
	}
	var args []event.Text
	for len(args) < 256 {
		text, ok := c.quoted()
		if !ok || c.at("...") {
			return nil
		}
		args = append(args, event.Text(unescape(text)))
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
	d := decode.DebuggerNamed(string(exe))
	return d != nil && d.Tracer
}

// inferior notes that the debugger looks into a process.
func (p *parser) inferior(pid event.PID) {
	if pid <= 0 || pid == p.main.pid {
		return
	}
	if p.inferiors[pid] != nil || len(p.inferiors) >= maxInferiors {
		return
	}
	p.inferiors[pid] = &event.Inferior{T: p.now, Process: event.Process{PID: pid, Comm: p.comms[pid]}}
	p.emitInferior(pid)
}

func (p *parser) emitInferior(pid event.PID) {
	c := *p.inferiors[pid]
	p.emit(&c)
}

// called notes the name of a process, as the state file in /proc has it:
// "2162 (from_memory) t 2158".
func (p *parser) called(pid event.PID, stat string) {
	_, rest, ok := strings.Cut(stat, "(")
	end := strings.LastIndexByte(rest, ')')
	if !ok || end < 0 {
		return
	}
	comm := event.Text(rest[:end])
	if p.comms[pid] == comm {
		return
	}
	if _, known := p.comms[pid]; known || len(p.comms) < maxInferiors {
		p.comms[pid] = comm
	}
	if inf := p.inferiors[pid]; inf != nil {
		inf.T, inf.Comm = p.now, comm
		p.emitInferior(pid)
	}
}

// runs notes the program of a process: the link /proc/PID/exe.
func (p *parser) runs(pid event.PID, exe event.Text) {
	if inf := p.inferiors[pid]; inf != nil && inf.Exe != exe {
		inf.T, inf.Exe = p.now, exe
		p.emitInferior(pid)
	}
}
