package straceio

import (
	"bytes"
	"fmt"
	"hash/maphash"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// parser turns lines into events.
type parser struct {
	shared
	out     *batch
	touched bool // the next slot has been filled in part
	session *event.Session
	table   *decode.Table // for the numbers that -X raw prints
	calls   callTable
	head    head // of the line that is being read
	args    args // of its call

	main      *process
	mainTID   event.TID // of lines that name no thread
	follows   bool      // lines name their thread
	processes int
	threads   map[event.TID]*thread
	cur       *thread
	// last is the thread whose call a backtrace that follows belongs to, lastCall
	// that call; stacking says that lines of it were read.
	last     *thread
	lastCall *callInfo
	stacking bool

	cwd          string // what the working directory was annotated as
	inferiors    map[event.PID]*event.Inferior
	lastInferior event.PID
	comms        map[event.PID]event.Text

	timed     bool
	mergeable bool         // the files of -ff, by their times
	base      event.Micros // what the log calls its first time
	now       event.Micros
	days      event.Micros
	serial    uint64
	kinds     map[event.Kind]*file // files of which only the kind is known

	emitted int64 // system calls
	strange strange
	cut     bool // the last line ends where strace would not have stopped
	end     *event.End
	summary bool // the table of strace -C has begun
}

// strange counts lines that are not strace's.
type strange struct {
	count int64
	first string // where the first one is
}

func newParser() *parser {
	p := &parser{
		threads: map[event.TID]*thread{}, inferiors: map[event.PID]*event.Inferior{},
		comms: map[event.PID]event.Text{}, kinds: map[event.Kind]*file{},
	}
	p.seed = maphash.MakeSeed()
	return p
}

// where is the place of a line.
type where struct {
	file string // empty if there is but one
	line int
}

func (w where) String() string {
	if w.file == "" {
		return fmt.Sprintf("line %d", w.line)
	}
	return fmt.Sprintf("%s, line %d", w.file, w.line)
}

// line reads one line, without its end. whole is false for a last line that
// has none. tid is that of the file, 0 where lines tell themselves.
func (p *parser) line(line []byte, whole bool, tid event.TID, at where) {
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	if p.log(line, whole, tid) {
		return
	}
	if bytes.IndexByte(line, 0x1b) >= 0 && p.log(uncolored(line), whole, tid) {
		return
	}
	if !whole {
		p.cut = true
	} else {
		p.other(line, at)
	}
}

// log reads a line of strace's; false where it is none.
func (p *parser) log(line []byte, whole bool, tid event.TID) bool {
	h := &p.head
	body := h.cut(line)
	if len(body) == 0 {
		return true
	}
	if h.clock == clockNone {
		return p.body(h, body, whole, tid)
	}
	timed, now, days := p.timed, p.now, p.days
	p.tick(h)
	ok := p.body(h, body, whole, tid)
	if !ok { // the number was no time
		p.timed, p.now, p.days = timed, now, days
	}
	return ok
}

// body reads what is behind the head of a line.
func (p *parser) body(h *head, body []byte, whole bool, tid event.TID) bool {
	if h.tid == 0 {
		if h.tid = tid; tid == 0 {
			h.tid = p.mainTID
		}
	}
	switch ch := body[0]; {
	case isName[ch]:
		return p.begin(h, body, whole)
	case ch == '<':
		return p.resume(h, body, whole)
	case ch == ' ':
		return p.indented(body)
	case ch == '-':
		p.last = nil // the backtrace behind a signal is that of no call
		return bytes.HasPrefix(body, []byte("--- "))
	case ch == '+':
		return p.gone(h, body)
	}
	return false
}

// tick sets the time.
func (p *parser) tick(h *head) {
	p.timed = true
	switch h.clock {
	case clockDelta:
		p.now += h.delta
	case clockUnix:
		p.now = h.at - p.base
	case clockDay:
		const day = 24 * 3600 * 1e6
		p.now = h.at - p.base + p.days
		if p.now < -day/2 || p.days > 0 && p.now < p.days-day/2 {
			p.days += day
			p.now += day
		}
	}
}

// isName are the bytes of a call's name. "????" is one that strace could not
// learn.
var isName = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '?'
	}
	return t
}()

// callName gives the name of the call that a line begins with.
func callName(body []byte) ([]byte, bool) {
	i := 0
	for i < len(body) && i < 64 && isName[body[i]] {
		i++
	}
	return body[:i], i > 0 && i < len(body) && body[i] == '('
}

// begin reads a line that begins with a call; false where it does not.
func (p *parser) begin(h *head, body []byte, whole bool) bool {
	name, ok := callName(body)
	if !ok {
		return false
	}
	info := p.info(name)
	text, held := cutUnfinished(body)
	var t *thread
	if held {
		t = p.thread(h.tid)
		p.hold(t, text)
	} else {
		if !info.decoded() && !finished(text) && whole {
			return false
		}
		t = p.thread(h.tid)
		t.open = false
		switch p.finish(t, info, text, nil) {
		case broken:
			if whole || !stopsThere(info, text) {
				return false
			}
			p.hold(t, bytes.TrimRight(text, " "))
		case never:
			p.hold(t, text)
		}
	}
	p.keep(info)
	if len(h.comm) > 0 && t.proc == p.main && p.session.Debugger.Comm == "" {
		p.rename(h.comm)
	}
	return true
}

// rename notes the name of the debugger.
func (p *parser) rename(comm []byte) {
	s, d := *p.session, *p.session.Debugger
	d.Comm = p.text(comm)
	s.Debugger = &d
	p.session = &s
	p.emit(&s)
}

// unfinished are the ways in which strace ends the line of a call that has not
// ended: since another thread made one; since strace let the thread go.
var unfinished = [...]string{"<unfinished ...>", "<detached ...>"}

// cutUnfinished cuts those off, also before the ") = ?" of a thread that was
// killed; false where the line ends otherwise.
func cutUnfinished(body []byte) ([]byte, bool) {
	if last := body[len(body)-1]; last != '>' && last != '?' || len(body) < 3 {
		return body, false
	}
	if !bytes.HasSuffix(body, []byte(" ...>")) && !bytes.HasSuffix(body, []byte("= ?")) {
		return body, false
	}
	for _, mark := range unfinished {
		at := bytes.LastIndex(body, []byte(mark))
		if at < 0 {
			continue
		}
		if rest := bytes.TrimLeft(body[at+len(mark):], ") ="); len(rest) == 0 || string(rest) == "?" {
			return bytes.TrimRight(body[:at], " "), true
		}
	}
	return body, false
}

// hold keeps the text of a call that has not ended.
func (p *parser) hold(t *thread, text []byte) {
	t.open, t.since = true, p.now
	t.pending = append(t.pending[:0], text[:min(len(text), maxPending)]...)
	p.last = nil
}

// resume reads a line as <... read resumed>"\177ELF", 832) = 832.
func (p *parser) resume(h *head, body []byte, whole bool) bool {
	rest, ok := bytes.CutPrefix(body, []byte("<... "))
	if !ok {
		return false
	}
	name, rest, ok := bytes.Cut(rest, []byte(" resumed>"))
	if !ok || len(name) == 0 || len(name) > 64 {
		return false
	}
	for _, ch := range name {
		if !isName[ch] {
			return false
		}
	}
	info, t := p.info(name), p.thread(h.tid)
	if !t.open || len(t.pending) <= len(name) || t.pending[len(name)] != '(' || !bytes.HasPrefix(t.pending, name) {
		// Its beginning is not in the log, so that is all that can be said.
		end, ok := ending(rest)
		if !ok {
			return false
		}
		t.open, p.last = false, nil
		info.add(&end)
		p.keep(info)
		return true
	}
	held := len(t.pending)
	t.pending = append(t.pending, rest...)
	text, again := cutUnfinished(t.pending)
	if again {
		t.pending = text
		return true
	}
	t.open = false
	switch p.finish(t, info, text, &t.since) {
	case broken:
		if whole {
			return false
		}
		t.open, t.pending = true, t.pending[:held] // cut off in its result
		p.cut = true
	case never:
		t.open = true
	}
	return true
}

// stopsThere says whether a line that is cut off ends as strace leaves it while
// a call has not ended: behind an argument.
func stopsThere(info *callInfo, text []byte) bool {
	reads := info.row != nil && info.row.Class == decode.ClassRead
	c := cursor{b: text, i: len(info.Name) + 1}
	for args := 0; c.i < len(text); args++ {
		// What was read follows only when the call has ended. Newer versions have
		// no comma behind the descriptor.
		if reads && args == 1 && len(bytes.TrimLeft(text[c.i:], " ")) > 0 {
			return false
		}
		if c.skip() {
			if text[c.i] != ',' {
				return false // the result follows: the call had ended
			}
			c.i++
		}
	}
	return !c.cut
}

// gone reads a line as +++ exited with 0 +++.
func (p *parser) gone(h *head, body []byte) bool {
	rest, ok := bytes.CutPrefix(body, []byte("+++ "))
	if !ok {
		return false
	}
	t := p.thread(h.tid)
	p.last = nil
	leader := t.proc == p.main && (t.tid == p.mainTID || event.PID(t.tid) == p.main.pid)
	if code, ok := bytes.CutPrefix(rest, []byte("exited with ")); ok {
		t.open = false
		c := cursor{b: code}
		if n, ok := c.number(); ok && leader {
			p.end = &event.End{T: p.now, Reason: "exited", Exit: event.Some(int(n))}
		}
	} else if sig, ok := bytes.CutPrefix(rest, []byte("killed by ")); ok {
		t.open = t.open && t.proc == p.main
		if leader {
			name, _, _ := bytes.Cut(sig, []byte(" "))
			p.end = &event.End{T: p.now, Reason: "killed", Signal: string(name)}
		}
	} else {
		t.open = false // superseded by execve in another thread
	}
	if t.ended = true; !t.open {
		delete(p.threads, t.tid)
	}
	p.cur = nil
	return true
}

// indented reads a line of a backtrace (-k) or of a dump (-e read=).
func (p *parser) indented(body []byte) bool {
	rest := bytes.TrimLeft(body, " ")
	switch {
	case bytes.HasPrefix(rest, []byte("> ")):
		if t := p.last; t != nil {
			if !p.stacking {
				t.stack, t.of, p.stacking = t.stack[:0], p.lastCall, true
			}
			if len(t.stack)+len(rest) < maxStack {
				t.stack = append(append(t.stack, rest[2:]...), '\n')
			}
		}
		return true
	case bytes.HasPrefix(rest, []byte("| ")), bytes.HasPrefix(rest, []byte("* ")):
		return true
	}
	return false
}

// other takes a line that is neither call nor signal: a message of strace's, or
// something that is not from it.
func (p *parser) other(line []byte, at where) {
	if p.summary || isMessage(line) {
		return
	}
	if bytes.HasPrefix(line, []byte("% time ")) {
		p.summary = true
		return
	}
	if p.strange.count == 0 {
		p.strange.first = at.String()
	}
	p.strange.count++
}

// isMessage says whether a line is a message of strace's.
func isMessage(line []byte) bool {
	return bytes.HasPrefix(line, []byte("strace: ")) || bytes.HasPrefix(line, []byte("[ Process PID=")) ||
		bytes.HasPrefix(line, []byte("Process ")) && (bytes.Contains(line, []byte(" attached")) || bytes.Contains(line, []byte(" detached")))
}

// uncolored takes escape sequences out of a line: colors (CSI) and links (OSC),
// which strace 7 writes to terminals.
func uncolored(line []byte) []byte {
	out := make([]byte, 0, len(line))
	for i := 0; i < len(line); i++ {
		if line[i] != 0x1b {
			out = append(out, line[i])
			continue
		}
		if i++; i >= len(line) {
			break
		}
		switch line[i] {
		case '[': // up to a letter or so, ECMA-48 5.4
			for i++; i < len(line) && (line[i] < 0x40 || line[i] > 0x7e); i++ {
			}
		case ']': // up to BEL, or ESC and backslash
			for i++; i < len(line) && line[i] != 7 && line[i] != 0x1b; i++ {
			}
			if i < len(line) && line[i] == 0x1b {
				i++
			}
		}
	}
	return out
}
