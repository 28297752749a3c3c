package straceio

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strconv"
	"time"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// maxPeek is how far into a log is looked ahead for what the session should
// say: which process it is, and which program. The process's number comes with
// the first calls of a program, or when gdb starts its inferior.
const maxPeek = 1 << 20

// hints is what was found ahead.
type hints struct {
	clock  clock
	at     event.Micros // the first time
	pid    event.PID    // of the lines that name no thread, or of the first thread
	first  event.TID    // the lowest thread that is named, and was not made by another
	calls  int
	made   []event.TID // by clone(2) and its like
	exe    event.Text
	args   []byte
	execBy event.TID
	cwd    []byte
	arm    bool
}

// prepare looks at the beginnings of the files, and makes the session.
func (p *parser) prepare(sources []*source) error {
	if len(sources) == 0 {
		return errors.New("no log")
	}
	var best *hints
	all := make([]hints, len(sources))
	for i, s := range sources {
		if err := s.check(len(sources) > 1); err != nil {
			return err
		}
		h := &all[i]
		p.look(h, s)
		if best == nil || isDebugger(h.exe) && !isDebugger(best.exe) || h.exe != "" && best.exe == "" {
			best = h
		}
		if h.clock != clockNone && (p.base == 0 || h.at < p.base) {
			p.base = h.at
		}
	}
	p.follows = best.first != 0 || len(sources) > 1
	d := &event.Process{PID: best.pid}
	switch {
	case best.execBy != 0:
		d.PID = event.PID(best.execBy)
	case d.PID == 0:
		d.PID = event.PID(best.first)
	}
	if d.PID == 0 {
		d.PID = event.NoPID
	}
	if best.exe != "" {
		describe(d, best.exe, best.args)
	}
	d.Cwd = p.text(best.cwd)
	p.session = &event.Session{Schema: event.Schema, Tool: "strace", Source: "strace", Debugger: d}
	arch := "amd64"
	if best.arm {
		arch = "arm64"
	}
	p.table, _ = decode.ForArch(arch)
	if best.clock == clockUnix {
		p.session.Start = time.UnixMicro(int64(p.base)).UTC()
	}
	p.mergeable = best.clock == clockUnix || best.clock == clockDay
	p.main = &process{pid: d.PID}
	p.mainTID = event.TID(d.PID)
	p.processes = 1
	return nil
}

// check says what is wrong with a file that is no log. Of several, one may be
// empty: that of a thread that made no call.
func (s *source) check(several bool) error {
	beginning := s.buf[s.start:min(s.end, s.start+SniffSize)]
	format, why := Sniff(beginning)
	switch {
	case format == Strace, several && len(beginning) == 0 && errors.Is(s.err, io.EOF):
		return nil
	case s.err != nil && !errors.Is(s.err, io.EOF):
		return s.wrap(s.err)
	case format == Recording:
		why = "it looks like JSON"
	}
	return s.wrap(errors.New("not a log of strace: " + why))
}

// maxMade bounds the threads that are remembered while looking ahead.
const maxMade = 256

// look gathers hints from the beginning of a file.
func (p *parser) look(h *hints, s *source) {
	text := s.buf[s.start:s.end]
	h.arm = bytes.Contains(text, []byte("aarch64"))
	last := event.TID(0)
	for line := range bytes.Lines(text) {
		line = bytes.TrimRight(line, "\r\n")
		if bytes.IndexByte(line, 0x1b) >= 0 {
			line = uncolored(line)
		}
		head, body := cutHead(line)
		if head.clock != clockNone && h.clock == clockNone {
			h.clock, h.at = head.clock, head.at
		}
		tid := head.tid
		if s.in.TID != 0 {
			tid = s.in.TID
		}
		// The lines of a program that had threads already can begin with any of
		// them. Threads come later than their process, and so have higher numbers,
		// but for the rare time when these start again.
		if tid != 0 && tid != last && (h.first == 0 || tid < h.first) && !slices.Contains(h.made, tid) {
			h.first = tid
		}
		last = tid
		if name, ok := callName(body); ok {
			h.calls++
			p.lookAt(h, tid, string(name), body)
		} else {
			h.message(body)
		}
	}
}

// message reads "strace: Process 12 attached".
func (h *hints) message(body []byte) {
	_, rest, ok := bytes.Cut(body, []byte("Process "))
	if !ok || !bytes.Contains(rest, []byte(" attached")) {
		return
	}
	if tid, _, _, ok := cutTID(rest); ok {
		switch {
		case h.calls == 0 && h.pid == 0:
			h.pid = event.PID(tid)
		case len(h.made) < maxMade:
			h.made = append(h.made, tid)
		}
	}
}

// lookAt takes hints from a call.
func (p *parser) lookAt(h *hints, tid event.TID, name string, body []byte) {
	if h.cwd == nil {
		if _, cwd, ok := bytes.Cut(body, []byte("AT_FDCWD<")); ok {
			if cwd, _, ok = bytes.Cut(cwd, []byte(">")); ok {
				h.cwd = cwd
			}
		}
	}
	ours := tid == 0 || tid == h.first
	switch name {
	case "execve":
		h.execve(p, tid, body)
	case "clone", "clone3", "fork", "vfork":
		if r, ok := ending(body); ok && r.known && r.val > 0 && len(h.made) < maxMade {
			h.made = append(h.made, event.TID(r.val))
		}
	case "set_tid_address", "gettid":
		// The number of the thread: of a program's first one, that of its process.
		if r, ok := ending(body); ok && r.known && ours && h.pid == 0 && len(h.made) == 0 {
			h.pid = event.PID(r.val)
		}
	case "getpid":
		if r, ok := ending(body); ok && r.known && ours && r.val > 0 {
			h.pid = event.PID(r.val)
		}
	case "open", "openat":
		if h.pid != 0 || !ours {
			return
		}
		// "/proc/self/mem", … = 13</proc/2158/mem>
		if _, rest, ok := bytes.Cut(body, []byte(`"/proc/self/`)); ok {
			if _, pid, ok := bytes.Cut(rest, []byte("</proc/")); ok {
				c := cursor{b: pid}
				if n, ok := c.number(); ok && n > 0 && n <= maxTID {
					h.pid = event.PID(n)
				}
			}
		}
	case "read":
		if h.pid == 0 && tid == 0 {
			h.parent(body)
		}
	}
}

// execve reads the program of the first execve, or of the first debugger.
func (h *hints) execve(p *parser, tid event.TID, body []byte) {
	if h.exe != "" && isDebugger(h.exe) {
		return
	}
	c := cursor{b: body, i: len("execve(")}
	c.argName()
	exe, ok := c.quoted()
	if !ok || !c.next() {
		return
	}
	name := p.text(exe)
	if h.exe != "" && !isDebugger(name) {
		return
	}
	if r, ok := ending(body); ok && r.failed {
		return
	}
	c.argName()
	h.exe, h.execBy, h.args = name, tid, bytes.Clone(c.token())
}

// parent reads the parent of a child that this process has made, from what it
// read of /proc/2162/stat: "2162 (from_memory) t 2158 …".
func (h *hints) parent(body []byte) {
	for _, child := range h.made {
		_, rest, ok := bytes.Cut(body, []byte(`"`+strconv.Itoa(int(child))+" ("))
		if !ok {
			continue
		}
		if _, rest, ok = bytes.Cut(rest, []byte(") ")); ok && len(rest) > 2 {
			c := cursor{b: rest, i: 2}
			if n, ok := c.number(); ok && n > 0 && n <= maxTID && c.at(" ") {
				h.pid = event.PID(n)
			}
		}
	}
}
