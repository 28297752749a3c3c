package report

import (
	"fmt"
	"io"
	"strconv"

	"whosefd/analyze/rules"
	"whosefd/analyze/tables"
	"whosefd/analyze/words"
	"whosefd/tracer/event"
)

// What a full screen shows is drawn here, a line at a time.

// Look is how a line looks (ECMA-48 SGR); "" is plain.
type Look string

// The looks.
const (
	LookPlain  Look = ""
	LookHead   Look = bold
	LookBad    Look = red
	LookWarn   Look = yellow
	LookGood   Look = green
	LookFaint  Look = faint
	LookChosen Look = "7"
)

// Chosen is a look with the cursor on it.
func Chosen(l Look) Look {
	if l == LookPlain || l == LookFaint {
		return LookChosen
	}
	return l + ";" + LookChosen
}

// LookOf is that of something with a mark, a finding's.
func LookOf(m rules.Mark) Look {
	switch {
	case m == (rules.Mark{}):
		return LookPlain
	case m.Effect == rules.Hang, m.Effect == rules.StolenInput:
		return LookBad
	}
	return LookWarn
}

// MarkText is a mark as the tables have it.
func MarkText(m rules.Mark) string { return markText(m) }

// Line is a clean text over n columns, cut or filled.
func (st Style) Line(look Look, s string, n int) string {
	return st.paint(string(look), pad(cut(s, n), n))
}

// Columns puts clean texts beside each other, each in its width; the last is as wide
// as it is. A width below 0 sets its text to the right.
func Columns(texts []string, widths []int) string {
	var s string
	for i, text := range texts {
		switch {
		case i == len(widths):
			return s + text
		case widths[i] < 0:
			text = cut(text, -widths[i])
			s += pad("", -widths[i]-width(text)) + text + " "
		default:
			s += pad(cut(text, widths[i]), widths[i]) + " "
		}
	}
	return s
}

// Wide is the number of columns of a clean text.
func Wide(s string) int { return width(s) }

// Wrap breaks a clean text into lines of n columns.
func Wrap(s string, n int) []string { return wrap(s, n) }

// Call writes all that is known of one call, and what was found about it.
func Call(w io.Writer, r *tables.CallRow, d *words.Diagnosis, st Style) error {
	p := &page{st: st}
	ev := &r.Call
	p.line(st.paint(bold, Clean(ev.Name)))
	say := func(label, value string) {
		if value != "" {
			p.hang(fmt.Sprintf("  %-12s ", label), fmt.Sprintf("  %-12s ", ""), value)
		}
	}
	c := callCells(ev, r.Mark)
	say("time", c.time)
	say("thread", fmt.Sprintf("%d of pid %d", ev.TID, ev.PID))
	say("name", Clean(string(ev.Path)))
	if ev.FD.Known {
		say("descriptor", strconv.Itoa(int(ev.FD.Val)))
	}
	say("on", c.on)
	say("result", c.result)
	say("duration", c.took)
	if t := ev.Target; t != nil {
		say("leads to", targetInFull(t))
	}
	for i := range ev.Counterpart {
		cp := &ev.Counterpart[i]
		say(fmt.Sprintf("in pid %d", cp.PID), targetInFull(&cp.Target))
	}
	say("mark", c.mark)
	for i := range d.Findings {
		if f := &d.Findings[i]; r.Mark.Rule == f.Rule && (ev.Path == f.Name || ev.Path == "" && f.Opened.FD.Known && ev.FD == f.Opened.FD) {
			p.finding(f, i, d)
		}
	}
	_, err := w.Write(p.buf.Bytes())
	return err
}

// targetInFull is a target with its identity.
func targetInFull(t *event.Target) string {
	s := target(t)
	if t.Identified() {
		s += fmt.Sprintf(" (%s, device %d, inode %d)", t.Kind, t.Dev, t.Ino)
	}
	return s
}
