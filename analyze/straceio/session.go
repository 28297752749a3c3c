package straceio

import (
	"strconv"
	"strings"
	"time"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// facts are what the beginning of a log tells, so that its first event can: which
// process is the debugger, and since when it is traced. The number of a process
// comes with the first calls of its program, or when gdb starts its inferior.
type facts struct {
	clock     clock
	at        event.Micros // the first time
	timed     bool         // this file has had one
	cwd       string
	attached  event.TID // the first that strace was told to attach to
	first     event.TID // the lowest that is named, and was not made by another
	pid       event.PID // of the lines that name no thread, as calls tell it
	children  map[event.TID]bool
	processes []*process // beside the first
	lines     int64      // that strace has certainly written
	run, best int64      // so many in a row
}

// read counts a line that has turned out to be strace's.
func (f *facts) read(body string) {
	if name, ok := callName(body); !ok || isCall(name) {
		f.lines++
		f.run++
		f.best = max(f.best, f.run)
	}
}

// time takes the first time of a file.
func (f *facts) time(h *head) {
	if h.clock == clockNone || f.timed {
		return
	}
	f.timed = true
	if f.clock == clockNone || h.clock == f.clock && h.at < f.at {
		f.clock, f.at = h.clock, h.at
	}
}

// named notes that a line names its thread. The lines of a program that had threads
// already can begin with any of them. Threads come later than their process, and
// so have higher numbers, but for the rare time when these start again. While one
// is being made, a new number is that one's, unless it has been seen in a call.
func (f *facts) named(p *parser, tid event.TID, body string) {
	if f.children[tid] || f.first != 0 && f.first <= tid {
		return
	}
	if _, _, resumed := cutResumed(body); resumed || p.forker() == nil {
		f.first = tid
	}
}

// made notes that another thread has made one.
func (f *facts) made(tid event.TID) {
	if f.children == nil {
		f.children = map[event.TID]bool{}
	}
	if len(f.children) < maxThreads {
		f.children[tid] = true
	}
}

// notice takes facts from a call.
func (p *parser) notice(a *args, r *result) {
	f, proc := &p.facts, a.t.proc
	ok := r.known && !r.failed
	switch {
	case !p.scouting || !ok:
		return
	case a.ev.Name == "ptrace" && len(a.list) > 1, a.ev.Name == "process_vm_readv",
		a.file != nil && a.file.mem != 0 && a.file.mem != proc.pid && a.row.Class == decode.ClassRead:
		proc.traces = true
	}
	if a.t.tid != 0 || proc != p.root || f.pid != 0 && a.ev.Name != "getpid" {
		return
	}
	switch a.ev.Name {
	case "set_tid_address", "gettid":
		// The number of the thread: of a program's first one, that of its process.
		if len(f.children) == 0 {
			f.pid = event.PID(r.val)
		}
	case "getpid":
		f.pid = event.PID(max(0, r.val))
	case "open", "openat": // "/proc/self/mem", … = 13</proc/2158/mem>
		if rest, ok := strings.CutPrefix(r.file, "/proc/"); ok && strings.HasPrefix(string(a.ev.Path), "/proc/self/") {
			number, _, _ := strings.Cut(rest, "/")
			f.pid = pidOf(number)
		}
	case "read": // of the child's state: "2162 (from_memory) t 2158 …"
		number, rest, ok := strings.Cut(a.data.Val, " (")
		if ok && f.children[event.TID(pidOf(number))] {
			if _, rest, ok = strings.Cut(rest, ") "); ok && len(rest) > 2 {
				parent, _, _ := strings.Cut(rest[2:], " ")
				f.pid = pidOf(parent)
			}
		}
	}
}

func pidOf(number string) event.PID {
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil || n > maxTID {
		return 0
	}
	return event.PID(n)
}

// begin makes the session from what was found ahead.
func (p *parser) start(ahead *parser, arch string) {
	f, first := &ahead.facts, ahead.root
	debugger := first
	rank := func(c *process) int {
		switch {
		case isDebugger(c.exe):
			return 2
		case c.traces:
			return 1
		}
		return 0
	}
	for _, c := range f.processes {
		if rank(c) > rank(debugger) {
			debugger = c
		}
	}
	switch {
	case f.attached != 0:
		first.pid = event.PID(f.attached)
	case f.first != 0:
		first.pid = event.PID(f.first)
	case f.pid != 0:
		first.pid = f.pid
	default:
		first.pid = event.NoPID
	}
	p.root.pid, p.unnamed = first.pid, event.TID(first.pid)
	if debugger != first {
		p.main = &process{pid: debugger.pid}
	}
	p.base = f.at
	p.table, _ = decode.ForArch(arch)
	p.session = &event.Session{Schema: event.Schema, Tool: "strace", Source: "strace", Debugger: describe(debugger, event.Text(unescape(f.cwd)))}
	if f.clock == clockUnix {
		p.session.Start = time.UnixMicro(int64(f.at)).UTC()
	}
	p.emit(p.session)
}
