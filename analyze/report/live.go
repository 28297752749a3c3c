package report

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"whosefd/analyze"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Row is a system call on one line, as strace's users read it: time, thread,
// call, name or descriptor, → target, result, duration, mark.
func Row(ev *event.Syscall, mark analyze.Mark) string {
	cells := callCells(ev, mark)
	s := fmt.Sprintf("%12s %7d  %s", cells.time, ev.TID, cells.call)
	if cells.on != "" {
		s += " " + cells.on
	}
	if cells.result != "" {
		s += " " + cells.result
	}
	if cells.took != "" {
		s += "  " + cells.took
	}
	if cells.mark != "" {
		s += "  " + cells.mark
	}
	return s
}

// cells are the columns of a call, clean.
type cells struct {
	time, call, on, result, took, mark string
}

func callCells(ev *event.Syscall, mark analyze.Mark) cells {
	c := cells{time: ev.T.String(), call: Clean(ev.Name), on: operand(ev), result: result(ev), mark: markText(mark)}
	if ev.Resumed {
		c.call += " (resumed)"
	}
	if ev.DurUS.Known {
		c.took = duration(ev.DurUS.Val)
	}
	return c
}

func markText(m analyze.Mark) string {
	if m == (analyze.Mark{}) {
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
	if ev.FD.Known && ev.Target != nil && !(known && makesFD(row, ev)) {
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

func makesFD(row *decode.Call, ev *event.Syscall) bool {
	return row.Ret == decode.RetNewFD || ev.Name == "fcntl" && strings.HasPrefix(ev.Flags, "F_DUPFD")
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
	case known && makesFD(row, ev):
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

// LiveWriter writes rows as they come. On a terminal each fits its width.
type LiveWriter struct {
	w     io.Writer
	st    Style
	shown bool
}

// NewLive writes to w.
func NewLive(w io.Writer, st Style) *LiveWriter { return &LiveWriter{w: w, st: st} }

// Add writes the row of a call, in one piece.
func (l *LiveWriter) Add(ev *event.Syscall, mark analyze.Mark) error {
	var head string
	if !l.shown {
		l.shown = true
		head = l.st.paint(faint, cut(fmt.Sprintf("%12s %7s  %s", "time", "thread", "call"), l.st.Width)) + "\n"
	}
	row := Row(ev, mark)
	if l.st.Width > 0 && width(row) > l.st.Width {
		// The mark matters more than the end of a long name.
		if m := markText(mark); m != "" && width(m)+24 < l.st.Width {
			row = cut(strings.TrimSuffix(row, "  "+m), l.st.Width-width(m)-2) + "  " + m
		} else {
			row = cut(row, l.st.Width)
		}
	}
	switch {
	case mark.Effect == analyze.Hang || mark.Effect == analyze.StolenInput:
		row = l.st.paint(red, row)
	case mark != analyze.Mark{}:
		row = l.st.paint(yellow, row)
	case ev.Errno != "":
		row = l.st.paint(faint, row)
	}
	_, err := io.WriteString(l.w, head+row+"\n")
	return err
}
