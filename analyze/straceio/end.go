package straceio

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"whosefd/tracer/event"
)

// finishLog gives what is known at the end: the calls that have not ended, what
// was left out, and how it ended.
func (p *parser) finishLog() {
	p.giveUp()
	open := make([]*thread, 0, len(p.threads))
	for _, t := range p.threads {
		if t.pending != "" {
			open = append(open, t)
		}
	}
	slices.SortFunc(open, func(x, y *thread) int { return cmp.Or(cmp.Compare(x.since, y.since), cmp.Compare(x.tid, y.tid)) })
	for _, t := range open {
		p.unfinished(t)
	}
	p.lost(p.strange, "line of the log is", "lines of the log are", "not strace's")
	p.lost(p.cutOff, "call is", "calls are", "cut off")
	if p.cut {
		p.emit(&event.Lost{T: p.now, Reason: "the last line of the log is cut off; not used"})
	}
	if p.end != nil {
		p.end.Calls = p.calls
		p.emit(p.end)
	}
}

// lost says what was left out.
func (p *parser) lost(l left, one, many, why string) {
	if l.count == 1 {
		many = one
	}
	if l.count > 0 {
		p.emit(&event.Lost{T: p.now, Reason: fmt.Sprintf("%d %s %s (the first: %s); not used", l.count, many, why, l.first)})
	}
}

// unfinished gives a call that has not ended.
func (p *parser) unfinished(t *thread) {
	name, ok := callName(t.pending)
	if !ok {
		return
	}
	a := p.arguments(t, name, t.pending)
	a.ev.T, a.ev.Unfinished = t.since, true
	a.read()
	if a.row == nil || !a.row.Shown || name == "fcntl" {
		text := strings.TrimSuffix(t.pending[len(name)+1:], a.rest)
		a.ev.Arguments = strings.ToValidUTF8(strings.TrimRight(text[:min(len(text), maxData)], ", "), "?")
	}
	p.call(a.ev)
	if t.stack == "" || t.proc != p.main {
		return
	}
	s := &event.Stack{T: p.now, PID: t.proc.pid, TID: t.tid}
	for line := range strings.Lines(t.stack) {
		line = strings.TrimSpace(line)
		if f, ok := frame(line); ok {
			s.Frames = append(s.Frames, f)
		} else {
			s.Error = strings.ToValidUTF8(line, "?")
		}
	}
	if t.of != name {
		s.Call = t.of
	}
	if len(s.Frames) > 0 {
		p.emit(s)
	}
}

// maxFunction is how far into a function a frame can be, in bytes. strace gives
// the name of the symbol before it, however far that is: in a program without
// symbols, of some function that has nothing to do with it.
const maxFunction = 1 << 14

// frame reads /usr/lib/libc.so.6(__read+0xd) [0xf82ed] and, with -kk, the source
// line behind it.
func frame(line string) (f event.Frame, ok bool) {
	at := strings.LastIndex(line, " [0x")
	if at < 0 {
		return f, false
	}
	offset, rest, ok := strings.Cut(line[at+4:], "]")
	n, err := strconv.ParseUint(offset, 16, 64)
	if !ok || err != nil {
		return f, false
	}
	f.Offset = event.Hex(n)
	module, function, _ := strings.Cut(line[:at], "(")
	if module == "" || module[0] != '/' && module[0] != '[' {
		return f, false // "unexpected_backtracing_error [0x7f00]"
	}
	f.Module = event.Text(unescape(module))
	if end := strings.LastIndexByte(function, ')'); end > 0 {
		function = function[:end]
		if plus := strings.LastIndex(function, "+0x"); plus >= 0 {
			c := cursor{s: function, i: plus + 1}
			if into, ok := c.number(); !ok || into > maxFunction {
				return f, true
			}
			function = function[:plus]
		}
		f.Function = strings.ToValidUTF8(function, "?")
	}
	source := strings.TrimSpace(rest)
	if colon := strings.LastIndexByte(source, ':'); colon > 0 {
		if n, err := strconv.Atoi(source[colon+1:]); err == nil {
			f.File, f.Line = strings.ToValidUTF8(source[:colon], "?"), n
		}
	}
	return f, true
}
