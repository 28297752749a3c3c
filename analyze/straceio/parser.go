package straceio

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// parser turns lines into events.
type parser struct {
	out     []event.Event
	session *event.Session
	table   *decode.Table // for the numbers that -X raw prints
	counts  counts
	files   map[string]*file

	root      *process  // of threads whose making is not in the log
	main      *process  // the debugger
	unnamed   event.TID // of lines that name no thread
	processes int
	threads   map[event.TID]*thread
	attached  map[event.TID]bool // one by one, by strace -p
	// last is the thread whose call a backtrace that follows belongs to, lastCall
	// that call; stacking says that lines of it were read.
	last     *thread
	lastCall string
	stacking bool
	core     bool // a core file is known

	scouting bool // this is the look ahead
	facts    facts

	inferiors map[event.PID]*event.Inferior
	comms     map[event.PID]event.Text

	timed  bool
	base   event.Micros // what the log calls its first time
	now    event.Micros
	days   event.Micros
	serial uint64

	at      place     // of the line that is being read
	ofFile  event.TID // that the lines of tail(1) or head(1) are of, from several files of strace -ff
	frag    *fragment // a call whose line has ended before it
	lenient bool      // an error without a name is whole
	open    bool      // the comment behind a result was not closed in its line
	calls   int64     // events of calls
	strange left      // lines that are not strace's
	cutOff  left      // calls whose end is missing
	cut     bool      // the last line ends where strace would not have stopped
	end     *event.End
	summary bool // in the table of strace -c
}

// place is where a line stands.
type place struct {
	file string // empty if there is but one
	line int
}

func (w place) String() string {
	if w.file == "" {
		return fmt.Sprintf("line %d", w.line)
	}
	return fmt.Sprintf("%s, line %d", w.file, w.line)
}

// left counts what was left out.
type left struct {
	count int64
	first place
}

func (l *left) add(n int, at place) {
	if l.count == 0 {
		l.first = at
	}
	l.count += int64(n)
}

// fragment is a line of strace's that has ended too early: a message of strace's,
// what the program writes, or what the user types, came in between; or a mail
// program has broken it.
type fragment struct {
	head  head
	body  string
	whole bool // the line has an end
	at    place
	more  []string // lines that came since and may belong to it
	then  place    // of the first of them
	n     int      // their number
}

// maxBroken bounds the pieces of a line that is put together again.
const maxBroken = 32

func newParser() *parser {
	p := &parser{
		root: &process{}, threads: map[event.TID]*thread{}, attached: map[event.TID]bool{}, counts: counts{}, files: map[string]*file{},
		inferiors: map[event.PID]*event.Inferior{}, comms: map[event.PID]event.Text{}, session: &event.Session{Debugger: &event.Process{}},
	}
	p.main = p.root
	p.table, _ = decode.ForArch("amd64")
	return p
}

func (p *parser) emit(ev event.Event) { p.out = append(p.out, ev) }

func (p *parser) call(ev *event.Syscall) {
	p.calls++
	p.emit(ev)
}

// line reads one line, without its end. whole is false for a last line that
// has none. tid is that of the file, 0 where lines tell themselves.
func (p *parser) line(line string, whole bool, tid event.TID, at place) {
	p.at = at
	shown := visible(line)
	text := unquoted(shown)
	if text == "" || p.dump(shown, text) || fence().MatchString(strings.TrimLeft(shown, " >")) {
		return
	}
	if strings.Contains(text, "Process ") || strings.Contains(text, "[wait(") || strings.Contains(text, "cleanup: ") {
		if m := message().FindStringSubmatchIndex(text); m != nil {
			if before := echoed(text[:m[0]]); before != "" {
				p.text(before, true, cmp.Or(tid, p.ofFile))
			}
			if m[2] >= 0 {
				p.message(text[m[2]:m[3]], text[m[4]:m[5]])
			}
			return
		}
	}
	if file := fileLine().FindStringSubmatch(text); file != nil {
		n, _ := strconv.ParseInt(file[1], 10, 32)
		p.ofFile = event.TID(n)
		return
	}
	p.text(strings.ReplaceAll(text, "\t", " "), whole, cmp.Or(tid, p.ofFile))
}

// several is where a line that has lost its end goes on with another call.
var several = lazy(`= (?:-?\d+|0x[0-9a-f]+|\?)(?: E[A-Z0-9]+)?(?: \([^()"]*\))?(?: <[\d.]+>)?( +)(?:\[pid +\d+\] +)?([a-z0-9_]+)\(`)

// apart takes the first call of a line that has several.
func apart(body string) (first, rest string) {
	at := strings.Index(body, " = ")
	if name, ok := callName(body); ok && at > 0 && len(body) < maxPending && strings.IndexByte(body[at:], '(') > 0 {
		for _, at := range several().FindAllStringSubmatchIndex(body, -1) {
			if first := body[:at[2]]; isCall(body[at[4]:at[5]]) {
				if _, behind, _ := split(first[len(name)+1:]); behind != "" { // it was not in a string
					return first, body[at[3]:]
				}
			}
		}
	}
	return body, ""
}

// text reads what strace has written in a line.
func (p *parser) text(text string, whole bool, tid event.TID) {
	h, body := cutHead(text)
	if !p.begins(body) {
		if p.goesOn(text) {
			return
		}
		if h, body = p.behind(text); body == "" {
			if !whole {
				p.cut = true
			} else {
				p.other(text)
			}
			return
		}
	}
	body, rest := apart(body)
	if rest != "" {
		defer p.text(rest, whole, tid)
	}
	p.giveUp()
	if h.tid == 0 {
		if h.tid = tid; tid == 0 {
			h.tid = p.unnamed
		}
	}
	if p.scouting && h.tid != p.unnamed {
		p.facts.named(p, h.tid, body)
	}
	p.tick(&h)
	if p.statement(&h, body) {
		p.facts.read(body)
	} else {
		p.frag = &fragment{head: h, body: body, whole: whole, at: p.at}
	}
}

// begins says whether a line begins as one of strace's. Of names that we do not
// know, only a whole call counts.
func (p *parser) begins(body string) bool {
	name, ok := callName(body)
	if !ok {
		return isNotice(body)
	}
	if isCall(name) {
		return true
	}
	return finished(body) && (p.frag == nil || !p.joins(body))
}

// behind looks for a line of strace's behind something else.
func (p *parser) behind(text string) (head, string) {
	for rest := text; ; {
		cut := prefix().FindString(rest)
		if cut == "" {
			break
		}
		rest = strings.TrimLeft(rest[len(cut):], " \t")
		if h, body := cutHead(rest); p.begins(body) {
			if name := strings.TrimRight(cut, ":-"); h.tid == 0 && len(name) < len(cut) { // grep has named a file of strace -ff
				if dot := strings.LastIndexByte(name, '.'); dot > 0 {
					n, _ := strconv.Atoi(name[dot+1:])
					h.tid = event.TID(max(0, n))
				}
			}
			return h, body
		}
	}
	if i, ok := inside(text); ok {
		before := strings.TrimRight(text[:i], " ")
		h, _ := cutHead(text[max(0, strings.LastIndex(before, "[pid")):])
		return h, text[i:]
	}
	return head{}, ""
}

// tick sets the time.
func (p *parser) tick(h *head) {
	p.timed = p.timed || h.clock != clockNone
	if p.scouting {
		p.facts.time(h)
	}
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

// statement reads what is behind the head of a line; false where it is not whole.
// Nothing has changed then.
func (p *parser) statement(h *head, body string) bool {
	if _, ok := callName(body); ok {
		return p.begin(h, body)
	}
	switch body[0] {
	case '<':
		return p.resume(h, body)
	case '-':
		p.last = nil // the backtrace behind a signal is that of no call
		return strings.HasSuffix(body, "---")
	case '+':
		if !strings.HasSuffix(body, "+++") {
			return false
		}
		p.ended(h, body)
	}
	return true
}

// begin reads a line that begins with a call.
func (p *parser) begin(h *head, body string) bool {
	name, _ := callName(body)
	text, held := cutUnfinished(body)
	t := p.thread(h.tid)
	was := t.pending
	if held {
		p.missing(t)
		p.hold(t, name, text)
		p.vanished(t, body)
	} else {
		t.pending = ""
		switch p.finish(t, name, body, event.Opt[event.Micros]{}) {
		case broken:
			t.pending = was
			return false
		case never:
			p.hold(t, name, body)
		}
		if was != "" {
			p.cutOff.add(1, t.at)
		}
		p.last, p.lastCall, p.stacking = t, name, false
		p.open = strings.Count(body, "(") > strings.Count(body, ")") && strings.LastIndexByte(body, '(') > strings.LastIndex(body, "= ")
	}
	if h.comm != "" && t.proc == p.main && p.session.Debugger.Comm == "" {
		s, d := *p.session, *p.session.Debugger
		d.Comm = event.Text(unescape(h.comm))
		s.Debugger = &d
		p.tell(&s)
	}
	return true
}

// missing counts the call that a thread has begun, and whose end is not in the log.
func (p *parser) missing(t *thread) {
	if t.pending != "" {
		p.cutOff.add(1, t.at)
	}
}

// unfinished are the ways in which strace ends the line of a call that has not
// ended: since another thread made one; since strace let the thread go.
var unfinished = [...]string{"<unfinished ...>", "<detached ...>"}

// cutUnfinished cuts those off, also before the ") = ?" of a thread that was
// killed; false where the line ends otherwise.
func cutUnfinished(body string) (string, bool) {
	for _, mark := range unfinished {
		if at := strings.LastIndex(body, mark); at >= 0 {
			if rest := strings.TrimLeft(body[at+len(mark):], ") ="); rest == "" || rest == "?" {
				return echoed(body[:at]), true
			}
		}
	}
	return body, false
}

// hold keeps the text of a call that has not ended.
func (p *parser) hold(t *thread, name, text string) {
	p.last = nil
	t.pending = ""
	if exits(name) {
		p.exits(t, name, text)
		return
	}
	t.pending, t.since, t.at = strings.Clone(text[:min(len(text), maxPending)]), p.now, p.at
}

// vanished takes "<unfinished ...>) = ?", which strace writes of a thread that was
// killed in a call. By what, another line may say.
func (p *parser) vanished(t *thread, body string) {
	if p.leads(t.tid) && strings.HasSuffix(body, "= ?") && p.end == nil {
		p.end = &event.End{T: p.now, Reason: "killed"}
	}
}

// leads says that a thread is the first one of the debugger.
func (p *parser) leads(tid event.TID) bool {
	return event.PID(tid) == p.main.pid || p.main == p.root && tid == p.unnamed
}

// cutResumed reads <... read resumed>.
func cutResumed(body string) (name, rest string, ok bool) {
	if rest, ok = strings.CutPrefix(body, "<... "); !ok {
		return "", "", false
	}
	name, rest, ok = strings.Cut(rest, " resumed>")
	return name, rest, ok && name != "" && len(name) <= 64 && strings.IndexFunc(name, notName) < 0
}

// resume reads a line as <... read resumed>"\177ELF", 832) = 832.
func (p *parser) resume(h *head, body string) bool {
	name, rest, ok := cutResumed(body)
	if !ok {
		return false
	}
	t := p.thread(h.tid)
	if !strings.HasPrefix(t.pending, name+"(") {
		// Its beginning is not in the log, so that is all that can be said.
		end, ok := ending(rest)
		if !ok {
			if _, held := cutUnfinished(rest); !held {
				return false
			}
			return true
		}
		p.missing(t)
		t.pending, p.last = "", nil
		if exits(name) {
			p.gone(t)
		} else if end.known || end.failed {
			p.counts.add(name, &end)
		}
		return true
	}
	held := t.pending
	text, again := cutUnfinished(held + rest)
	if again {
		t.pending = text
		p.vanished(t, rest)
		return true
	}
	t.pending = ""
	switch p.finish(t, name, text, event.Some(t.since)) {
	case broken:
		t.pending = held
		return false
	case never:
		t.pending = held
		p.hold(t, name, held)
	}
	p.last, p.lastCall, p.stacking = t, name, false
	return true
}

// goesOn says whether a line that does not begin as one of strace's belongs to
// the one that has ended too early, and then reads the two, if that is all.
func (p *parser) goesOn(text string) bool {
	f := p.frag
	if f == nil {
		if p.open { // directory)
			p.open = false
			return strings.HasSuffix(text, ")") || strings.HasSuffix(text, ">")
		}
		return false
	}
	if p.joins(text) {
		p.frag = nil
		now := p.at
		for _, body := range f.joined(text) {
			p.at = f.at
			if p.statement(&f.head, body) {
				p.at = now
				p.facts.read(body)
				return true
			}
		}
		p.at, p.frag = now, f
	}
	if f.n++; f.n == 1 {
		f.then = p.at
	}
	if f.n <= maxBroken {
		f.more = append(f.more, text)
	}
	return true
}

// joins says whether a line can be the end of one that has ended too early.
func (p *parser) joins(text string) bool {
	return len(p.frag.body) < maxPending && (p.frag.n < 4 || strings.Contains(text, "= ") || strings.HasSuffix(text, "...>"))
}

// joined gives what the whole line can be: the pieces one behind the other, as a
// terminal breaks them; with a blank between, as a mail program does; or all but
// what came in between.
func (f *fragment) joined(text string) []string {
	pieces := append([]string{f.body}, append(f.more, text)...)
	all := []string{strings.Join(pieces, ""), strings.Join(pieces, " ")}
	last := ""
	if name, ok := callName(f.body); ok {
		if list, rest, _ := split(f.body[len(name)+1:]); rest == "" {
			last = list[len(list)-1]
		}
	}
	return append(all, f.body+text, strings.TrimSuffix(f.body, last)+text)
}

// giveUp takes a call whose end has not come as one that has not ended.
func (p *parser) giveUp() {
	f := p.frag
	if f == nil {
		return
	}
	p.frag = nil
	p.strange.add(f.n, f.then)
	if p.lenient = true; p.statement(&f.head, f.body) {
		p.lenient = false
		return
	}
	p.lenient = false
	name, ok := callName(f.body)
	text := echoed(f.body)
	switch {
	case ok && stopsThere(name, text):
	case f.whole:
		p.cutOff.add(1, f.at)
		return
	default:
		p.cut = true
		return
	}
	now := p.at
	p.at = f.at
	t := p.thread(f.head.tid)
	p.missing(t)
	p.hold(t, name, text)
	p.facts.read(text)
	p.at = now
}

// stopsThere says whether a line that is cut off ends as strace leaves it while
// a call has not ended: behind an argument.
func stopsThere(name, text string) bool {
	list, rest, cut := split(text[len(name)+1:])
	if cut || rest != "" { // the result follows: the call had ended
		return false
	}
	// What was read follows only when the call has ended; before, only what the
	// user types. Newer versions have no comma behind the descriptor.
	row, _ := decode.ByName(name)
	return row == nil || row.Class != decode.ClassRead || len(list) < 2 || list[1] == "" || strings.IndexByte(`"0[{N`, list[1][0]) < 0
}

// ended reads a line as +++ exited with 0 +++.
func (p *parser) ended(h *head, body string) {
	p.last = nil
	rest, pending := strings.TrimPrefix(body, "+++ "), ""
	t := p.threads[h.tid]
	if code, ok := strings.CutPrefix(rest, "exited with "); ok {
		c := cursor{s: code}
		if n, ok := c.number(); ok && p.leads(h.tid) {
			p.end = &event.End{T: p.now, Reason: "exited", Exit: event.Some(int(n))}
		}
	} else if sig, ok := strings.CutPrefix(rest, "killed by "); ok {
		if t != nil && t.proc == p.main {
			pending = t.pending // what it was in
		}
		if p.leads(h.tid) {
			name, _, _ := strings.Cut(sig, " ")
			p.end = &event.End{T: p.now, Reason: "killed", Signal: strings.Clone(name)}
		}
	} // else superseded by execve in another thread
	if t != nil {
		t.pending = pending
		p.gone(t)
	}
}

// message takes "Process 12 attached" and its like: of a process that strace was
// told to trace before there was a call, later of one that a call has made.
func (p *parser) message(number, what string) {
	n, _ := strconv.Atoi(number)
	if tid := event.TID(n); what == "attached" && n > 0 && n <= maxTID {
		if p.calls == 0 && len(p.counts) == 0 && p.frag == nil {
			if len(p.attached) < maxThreads {
				p.attached[tid] = true
			}
			if p.facts.attached == 0 {
				p.facts.attached = tid
			}
		} else {
			p.thread(tid)
			p.facts.made(tid)
		}
	}
}

var (
	frameLine = lazy(`^(?:\S.* \[0x[0-9a-f]+\](?: \S+:\d+)?|unexpected_backtracing_error.*)$`)
	dumpLine  = lazy(`^(?:[0-9a-f]{5,}  ?(?:[0-9a-f]{2} )+|\* \d+ bytes in buffer \d+$)`)
)

// dump reads a line of a backtrace (-k) or of a dump (-e read=): text is what is
// shown, less the mark that it begins with.
func (p *parser) dump(shown, text string) bool {
	switch {
	case len(shown) == len(text):
		return false
	case frameLine().MatchString(text):
		if t := p.last; t != nil {
			if !p.stacking {
				t.stack, t.of, p.stacking = "", p.lastCall, true
			}
			if len(t.stack)+len(text) < maxStack {
				t.stack += text + "\n"
			}
		}
		return true
	}
	return dumpLine().MatchString(text)
}

var (
	fileLine    = lazy(`^==> .*\.(\d+) <==$`)
	summaryLine = lazy(`^(?:-{4,} -{4,}|[\d.]+ +[\d.]+ )`)
	messageLine = lazy(`^(?:\S*strace(?:64)?: |\[ Process PID=|PANIC: |System call usage summary)`)
)

// other takes a line that is neither call nor signal: a message of strace's, or
// something that is not from it.
func (p *parser) other(text string) {
	switch {
	case strings.HasPrefix(text, "% time "):
		p.summary = true
		return
	case p.summary && summaryLine().MatchString(text):
		p.summary = !strings.HasSuffix(text, " total")
		return
	}
	p.summary = false
	if !messageLine().MatchString(text) && !shell().MatchString(text) && echoed(text) != "" && !isDetached(text) {
		p.strange.add(1, p.at)
		p.facts.run = 0
	}
}

// isDetached says that a line is the end of a call of which there is no beginning:
// strace lets a thread go that it has not seen in any.
func isDetached(text string) bool {
	rest, held := cutUnfinished(text)
	return held && rest == ""
}
