package straceio

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"whosefd/tracer/event"
)

// finishLog gives what is known at the end: the calls that have not ended, what
// was lost, and how it ended. full hands a full batch over.
func (p *parser) finishLog(full func()) {
	open := make([]*thread, 0, len(p.threads))
	for _, t := range p.threads {
		if t.open {
			open = append(open, t)
		}
	}
	slices.SortFunc(open, func(x, y *thread) int { return cmp.Or(cmp.Compare(x.since, y.since), cmp.Compare(x.tid, y.tid)) })
	for _, t := range open {
		p.unfinished(t)
		full()
	}
	if p.strange.count > 0 {
		lines := "lines of the log are"
		if p.strange.count == 1 {
			lines = "line of the log is"
		}
		p.emit(&event.Lost{T: p.now, Reason: fmt.Sprintf("%d %s not strace's (the first: %s); not used", p.strange.count, lines, p.strange.first)})
	}
	if p.cut {
		p.emit(&event.Lost{T: p.now, Reason: "the last line of the log is cut off; not used"})
	}
	if p.end != nil {
		p.end.Calls = p.emitted
		p.emit(p.end)
	}
}

// unfinished gives a call that has not ended.
func (p *parser) unfinished(t *thread) {
	name, ok := callName(t.pending)
	if !ok {
		return
	}
	info := p.info(name)
	ev := p.slot()
	ev.T, ev.PID, ev.TID, ev.Name, ev.Unfinished = t.since, t.proc.pid, t.tid, info.Name, true
	if info.row != nil {
		a := args{cursor: cursor{b: t.pending, i: len(name) + 1}, p: p, t: t, info: info, ev: ev}
		a.read()
	}
	p.commit(ev)
	if len(t.stack) == 0 || t.proc != p.main {
		return
	}
	s := &event.Stack{T: p.now, PID: t.proc.pid, TID: t.tid}
	for line := range bytes.Lines(t.stack) {
		if f, ok := frame(bytes.TrimSpace(line)); ok {
			s.Frames = append(s.Frames, f)
		} else {
			s.Error = string(bytes.ToValidUTF8(bytes.TrimSpace(line), []byte("?")))
		}
	}
	if t.of != nil && t.of.Name != info.Name {
		s.Call = t.of.Name
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
func frame(b []byte) (f event.Frame, ok bool) {
	at := bytes.LastIndex(b, []byte(" [0x"))
	if at < 0 {
		return f, false
	}
	offset, rest, ok := bytes.Cut(b[at+4:], []byte("]"))
	n, err := strconv.ParseUint(string(offset), 16, 64)
	if !ok || err != nil {
		return f, false
	}
	f.Offset = event.Hex(n)
	module, function, _ := bytes.Cut(b[:at], []byte("("))
	if len(module) == 0 || module[0] != '/' && module[0] != '[' {
		return f, false // "unexpected_backtracing_error [0x7f00]"
	}
	f.Module = event.Text(unescape(nil, module))
	if end := bytes.LastIndexByte(function, ')'); end > 0 {
		function = function[:end]
		if plus := bytes.LastIndex(function, []byte("+0x")); plus >= 0 {
			c := cursor{b: function, i: plus + 1}
			if into, ok := c.number(); !ok || into > maxFunction {
				return f, true
			}
			function = function[:plus]
		}
		f.Function = string(bytes.ToValidUTF8(function, []byte("?")))
	}
	if source := bytes.TrimSpace(rest); len(source) > 0 {
		if colon := bytes.LastIndexByte(source, ':'); colon > 0 {
			if n, err := strconv.Atoi(string(source[colon+1:])); err == nil {
				f.File, f.Line = string(bytes.ToValidUTF8(source[:colon], []byte("?"))), n
			}
		}
	}
	return f, true
}
