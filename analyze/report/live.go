package report

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"whosefd/analyze/rules"
	"whosefd/analyze/tables"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Row is a system call on one line, as strace's users read it: time, thread,
// call, name or descriptor, → target, result, duration, mark.
func Row(ev *event.Syscall, mark rules.Mark) string {
	c := callCells(ev, mark)
	return c.row(ev.TID)
}

// Fit is [Row] in so many columns: what is left out is not the mark.
func Fit(ev *event.Syscall, mark rules.Mark, columns int) string {
	c := callCells(ev, mark)
	return c.fit(ev, columns)
}

func (c *cells) row(tid event.TID) string {
	s := fmt.Sprintf("%12s %7d  %s", c.time, tid, c.call)
	for _, cell := range []string{c.on, c.result} {
		if cell != "" {
			s += " " + cell
		}
	}
	for _, cell := range []string{c.took, c.mark} {
		if cell != "" {
			s += "  " + cell
		}
	}
	return s
}

// fit is the row of a call in so many columns: flags and counterparts go first, then the time of what is marked, and then the middle of
// the longer of the names.
func (c *cells) fit(ev *event.Syscall, columns int) string {
	tid := ev.TID
	row := c.row(tid)
	if columns > 0 && width(row) > columns {
		brief := *ev
		brief.Flags, brief.Mode, brief.Counterpart = "", event.Opt[uint32]{}, nil
		c.on, c.result = operand(&brief), result(&brief)
		row = c.row(tid)
	}
	if c.mark != "" && width(row) > columns && columns > 0 {
		c.took = ""
		row = c.row(tid)
	}
	for columns > 0 && width(row) > columns {
		longer := &c.on
		if width(c.result) > width(c.on) {
			longer = &c.result
		}
		w := width(*longer)
		if w <= minFlex {
			return cut(row, columns)
		}
		*longer = cutMiddle(*longer, max(minFlex, w-(width(row)-columns), w/2))
		row = c.row(tid)
	}
	return row
}

// cells are the columns of a call, clean.
type cells struct {
	time, call, on, result, took, mark string
}

func callCells(ev *event.Syscall, mark rules.Mark) cells {
	c := cells{time: ev.T.String(), call: Clean(ev.Name), on: operand(ev), result: result(ev), mark: markText(mark)}
	if ev.Resumed {
		c.call += " (resumed)"
	}
	if ev.DurUS.Known {
		c.took = duration(ev.DurUS.Val)
	}
	return c
}

func markText(m rules.Mark) string {
	if m == (rules.Mark{}) {
		return ""
	}
	return fmt.Sprintf("! %s: %s", Clean(string(m.Rule)), Clean(string(m.Effect)))
}

// operand is what a call works on, with its other arguments.
func operand(ev *event.Syscall) string {
	var words []string
	add := func(s string) {
		if s != "" {
			words = append(words, s)
		}
	}
	if ev.DirFD.Known {
		add(fmt.Sprintf("%d/", ev.DirFD.Val))
	}
	if ev.Path != "" {
		path := Clean(string(ev.Path))
		if ev.PathTruncated {
			path += "…"
		}
		if ev.DirFD.Known && ev.Path[0] != '/' {
			words[len(words)-1] += path
		} else {
			add(path)
		}
	}
	row, known := decode.ByName(ev.Name)
	if ev.FD.Known && !(ev.DirFD.Known && ev.Path == "") {
		add(strconv.Itoa(int(ev.FD.Val)))
	}
	if ev.FD.Known && ev.Target != nil && !(known && makes(row, ev)) {
		add(target(ev.Target))
	}
	if ev.OfPID != 0 {
		add("pid " + strconv.Itoa(int(ev.OfPID)))
	}
	if ev.NewFD.Known {
		add(strconv.Itoa(int(ev.NewFD.Val)))
	}
	add(Clean(ev.Flags))
	if ev.Mode.Known {
		add(fmt.Sprintf("%#o", ev.Mode.Val))
	}
	if ev.Count.Known && (!known || row.Class != decode.ClassLink) {
		add(strconv.FormatUint(ev.Count.Val, 10))
	}
	if ev.Offset.Known {
		if ev.OfPID != 0 || known && row.Ret == decode.RetBytes && ev.Target != nil && ev.Target.Kind == event.Procfs {
			add(fmt.Sprintf("@%#x", uint64(ev.Offset.Val))) // an address in a process's memory
		} else {
			add(fmt.Sprintf("@%d", ev.Offset.Val))
		}
	}
	return strings.Join(words, " ")
}

// makes says whether a call makes a descriptor, or would if it succeeded.
func makes(row *decode.Call, ev *event.Syscall) bool {
	return row.Ret == decode.RetNewFD || row.Edit(ev).From.Known
}

// result is what came of a call.
func result(ev *event.Syscall) string {
	row, known := decode.ByName(ev.Name)
	var s string
	switch {
	case ev.Unfinished:
		s = "… unfinished"
	case ev.Errno != "":
		s = "→ " + Clean(ev.Errno)
	case !ev.Ret.Known:
	case known && makes(row, ev):
		s = fmt.Sprintf("→ %d", ev.Ret.Val)
		if ev.Target != nil {
			s += " " + target(ev.Target)
		}
	case known && row.Class == decode.ClassLink && len(ev.Data) > 0:
		s = "→ " + Clean(string(ev.Data))
	case known && row.Ret == decode.RetAddr:
		s = fmt.Sprintf("→ %#x", uint64(ev.Ret.Val))
	case known && row.Ret == decode.RetNone && ev.Target != nil && !ev.FD.Known:
		s = "→ " + target(ev.Target)
	default:
		s = fmt.Sprintf("→ %d", ev.Ret.Val)
	}
	if r := ev.Rewritten; r != nil {
		s += " (led to " + Clean(string(r.Path)) + ")"
	}
	for _, c := range ev.Counterpart {
		if ev.Target != nil && ev.Target.Same(c.Target) || c.Link == "" && c.Error == "" && !c.Identified() {
			continue
		}
		s += fmt.Sprintf(" [pid %d: %s]", c.PID, target(&c.Target))
	}
	return s
}

// LiveWriter writes rows as they come. On a terminal each fits its width. Calls that are
// made again and again, in a loop, are counted.
type LiveWriter struct {
	w     io.Writer
	st    Style
	shown bool
	last  []repeated // the latest rows
	since event.Micros
}

// repeated is a row, and how often its call was made since.
type repeated struct {
	call  event.Syscall
	mark  rules.Mark
	at    event.Micros // of the latest
	again int
}

const (
	// repeatsAmong is among how many rows before it a call may be one that was made already.
	repeatsAmong = 16
	// repeatsWithin is how soon after it, microseconds: what is done by hand is shown.
	repeatsWithin event.Micros = 200_000
	// repeatsSaid is how long repetitions may go on until they are told, microseconds.
	repeatsSaid event.Micros = 2_000_000
)

// NewLive writes to w.
func NewLive(w io.Writer, st Style) *LiveWriter { return &LiveWriter{w: w, st: st} }

// Add writes the row of a call, in one piece, or counts it.
func (l *LiveWriter) Add(ev *event.Syscall, mark rules.Mark) error {
	for i := range l.last {
		if r := &l.last[i]; r.mark == mark && ev.T-r.at < repeatsWithin && tables.Alike(&r.call, ev) {
			if r.at, r.again = ev.T, r.again+1; ev.T-l.since > repeatsSaid {
				return l.Flush()
			}
			return nil
		}
	}
	if err := l.Flush(); err != nil {
		return err
	}
	if len(l.last) == repeatsAmong {
		l.last = l.last[1:]
	}
	r := repeated{call: *ev, mark: mark, at: ev.T}
	r.call.Target, r.call.Counterpart, r.call.Data = cloned(ev.Target), slices.Clone(ev.Counterpart), nil
	l.last, l.since = append(l.last, r), ev.T
	var head string
	if !l.shown {
		l.shown = true
		head = l.st.paint(faint, cut(fmt.Sprintf("%12s %7s  %s", "time", "thread", "call"), l.st.Width)) + "\n"
	}
	return l.write(head, Fit(ev, mark, l.st.Width), ev, mark)
}

// Flush tells of the repetitions so far.
func (l *LiveWriter) Flush() error {
	for i := range l.last {
		r := &l.last[i]
		if r.again == 0 {
			continue
		}
		c := callCells(&r.call, r.mark)
		c.time, c.took = fmt.Sprintf("%d more", r.again), ""
		if err := l.write("", c.fit(&r.call, l.st.Width), &r.call, r.mark); err != nil {
			return err
		}
		r.again, l.since = 0, r.at
	}
	return nil
}

func (l *LiveWriter) write(head, row string, ev *event.Syscall, mark rules.Mark) error {
	switch {
	case mark.Effect == rules.Hang || mark.Effect == rules.StolenInput:
		row = l.st.paint(red, row)
	case mark != rules.Mark{}:
		row = l.st.paint(yellow, row)
	case ev.Errno != "":
		row = l.st.paint(faint, row)
	}
	_, err := io.WriteString(l.w, head+row+"\n")
	return err
}

func cloned(t *event.Target) *event.Target {
	if t == nil {
		return nil
	}
	c := *t
	return &c
}
