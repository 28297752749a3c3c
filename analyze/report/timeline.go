package report

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"whosefd/analyze/tables"
	"whosefd/analyze/words"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// How many calls a timeline shows around the one that opened the wrong file,
// and how many it looks through for those that belong to it.
const (
	timelineBefore = 14
	timelineAfter  = 8
	timelineSearch = 400
)

// moment is a call of a timeline. Its texts are clean.
type moment struct {
	number int64 // of the call in the recording
	cells
	tid   string
	since string // before or after the opening, such as "−216 µs"
	// role says what the call has to do with the finding: "reads the name",
	// "opens it", "reads it", "hangs here"; empty for the others.
	role string
	// skipped are the calls between this one and the one before it that are
	// not shown.
	skipped int64
}

// timeline gives the calls around the one by which the file of a finding was
// opened; none if that call is not among the rows. Without times it says how
// many calls lie between.
func timeline(f *words.Finding, rows []*tables.ExcerptRow, untimed bool) []moment {
	at := opening(f, rows)
	if at < 0 {
		return nil
	}
	roles := map[int]string{at: "opens it"}
	first := namesRead(f, rows, at, roles)
	last := readsOf(rows, at, roles)
	from := max(0, min(at-timelineBefore, first-2))
	to := min(len(rows), at+timelineAfter+1)
	show := make([]int, 0, to-from+1)
	for i := from; i < to; i++ {
		if i < at-timelineBefore && i > first+2 && roles[i] == "" {
			continue // between the reading of the name and the opening
		}
		show = append(show, i)
	}
	if last >= to {
		show = append(show, last)
	}
	opened := rows[at].Call.T
	var out []moment
	for i, n := range show {
		r := rows[n]
		m := moment{number: r.Number, cells: callCells(&r.Call, r.Mark), tid: strconv.Itoa(int(r.Call.TID)), role: roles[n], since: since(r.Call.T - opened)}
		if s := dataText(&r.Call); s != "" {
			m.result += " " + s
		}
		if untimed {
			m.time, m.since = "", sinceCalls(r.Number-rows[at].Number)
		}
		if i > 0 {
			m.skipped = r.Number - rows[show[i-1]].Number - 1
		}
		out = append(out, m)
	}
	return out
}

// opening finds the call that opened the file of a finding: the last one by
// that name that led to that file, or failed as it did.
func opening(f *words.Finding, rows []*tables.ExcerptRow) int {
	for i := len(rows) - 1; i >= 0; i-- {
		c := &rows[i].Call
		if c.Path != f.Name || c.PID != f.Opened.PID {
			continue
		}
		row, ok := decode.ByName(c.Name)
		if !ok || row.Class != decode.ClassOpen {
			continue
		}
		if c.Target != nil && c.Target.Same(f.Opened.Target) || c.Errno != "" && c.Errno == f.Opened.Error {
			return i
		}
	}
	return -1
}

// namesRead finds the calls before the opening by which the debugger read the
// name out of the inferior's memory, often 8 bytes at a time, and gives the
// first of them.
func namesRead(f *words.Finding, rows []*tables.ExcerptRow, at int, roles map[int]string) (first int) {
	first = at
	rest := []byte(f.Name)
	ends := true // the piece that holds the name's end, and the NUL behind it, comes first
	for i := at - 1; i >= 0 && i > at-timelineSearch && len(rest) > 0; i-- {
		c := &rows[i].Call
		if len(c.Data) == 0 || !c.Offset.Known || c.Errno != "" {
			continue
		}
		if whole := bytes.Index(c.Data, append([]byte(f.Name), 0)); whole >= 0 {
			roles[i] = "reads the name"
			return i
		}
		piece := c.Data
		if ends {
			var closed bool
			if piece, _, closed = bytes.Cut(piece, []byte{0}); !closed || len(piece) == 0 {
				continue
			}
		}
		if !bytes.HasSuffix(rest, piece) {
			continue
		}
		rest, ends, first = rest[:len(rest)-len(piece)], false, i
		roles[i] = "reads the name"
	}
	if len(rest) > 0 { // not the whole of it: chance
		for i := range roles {
			if i != at {
				delete(roles, i)
			}
		}
		return at
	}
	return first
}

// readsOf finds the reads of the file that was opened, up to its closing, and
// gives the last call of interest.
func readsOf(rows []*tables.ExcerptRow, at int, roles map[int]string) (last int) {
	last = at
	open := &rows[at].Call
	if !open.Ret.Known || open.Errno != "" {
		return last
	}
	fd := event.FD(open.Ret.Val)
	for i := at + 1; i < len(rows); i++ {
		c := &rows[i].Call
		if c.PID != open.PID || !c.FD.Is(fd) {
			continue
		}
		row, ok := decode.ByName(c.Name)
		switch {
		case !ok:
		case row.Class == decode.ClassClose:
			return last
		case row.Class == decode.ClassRead && c.Unfinished:
			roles[i], last = "hangs here", i
			return last
		case row.Class == decode.ClassRead && decode.RestartsNamed(c.Errno): // a signal ended it
			roles[i], last = "hangs here", i
		case row.Class == decode.ClassRead && i < at+timelineSearch:
			if last == at {
				last = i
			}
			roles[i] = "reads it"
		}
	}
	return last
}

// since is a time relative to the opening.
func since(t event.Micros) string {
	switch {
	case t < 0:
		return "−" + duration(int64(-t))
	case t > 0:
		return "+" + duration(int64(t))
	}
	return "0"
}

// sinceCalls is how many calls a call was made before or after the opening.
func sinceCalls(n int64) string {
	switch {
	case n == -1 || n == 1:
		return strings.Replace(fmt.Sprintf("%+d call", n), "-", "−", 1)
	case n != 0:
		return strings.Replace(fmt.Sprintf("%+d calls", n), "-", "−", 1)
	}
	return "0"
}

// dataText shows what a read of a process's memory returned, if it is text.
func dataText(c *event.Syscall) string {
	if row, ok := decode.ByName(c.Name); !ok || row.Class == decode.ClassLink || len(c.Data) == 0 {
		return ""
	}
	text, _, _ := bytes.Cut(c.Data, []byte{0})
	if len(text) < 2 || len(text) > 256 || strings.IndexFunc(string(text), func(r rune) bool { return r < 0x20 || r > 0x7e }) >= 0 {
		return ""
	}
	return fmt.Sprintf("%q", text)
}

// timelineText is a timeline as lines of text.
func timelineText(moments []moment) []string {
	var lines []string
	for _, m := range moments {
		if m.skipped > 0 {
			lines = append(lines, fmt.Sprintf("%12s  %-14s  %d other calls", "", "", m.skipped))
		}
		l := fmt.Sprintf("%12s  %-14s  %s", m.since, m.role, m.call)
		for _, s := range []string{m.on, m.result} {
			if s != "" {
				l += " " + s
			}
		}
		lines = append(lines, l)
	}
	return lines
}
