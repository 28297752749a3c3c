package report

import (
	"encoding/csv"
	"io"
	"strconv"
	"strings"

	"whosefd/analyze/tables"
	"whosefd/analyze/words"
	"whosefd/tracer/event"
)

// CSV is for spreadsheets and programs: each value stands in a column of its own, numbers
// are plain, those of a time have their unit in the column's name, and a row stands for
// one thing. What is not known is an empty cell.

// columns makes those of a table of values.
func columns(names ...string) []column {
	cols := make([]column, len(names))
	for i, name := range names {
		cols[i].name = name
	}
	return cols
}

var callColumns = columns("time_s", "pid", "thread", "call", "path", "fd", "target", "on", "ret", "errno", "result", "state", "duration_us", "rule", "effect")

// callCSV is the row of a call: what the table shows, and what of it is a value.
func callCSV(row *tables.CallRow, untimed bool) []string {
	ev, mark := &row.Call, row.Mark
	c := callCells(ev, mark)
	if untimed {
		c.time = ""
	}
	state := ""
	if ev.Unfinished {
		state = "unfinished"
	} else if ev.Resumed {
		state = "resumed"
	}
	for _, sign := range []string{"… unfinished", "→"} { // which are columns here
		c.result = strings.TrimSpace(strings.TrimPrefix(c.result, sign))
	}
	return []string{c.time, thread(event.TID(ev.PID)), thread(ev.TID), Clean(ev.Name), Clean(string(ev.Path)), known(ev.FD), target(ev.Target), c.on,
		known(ev.Ret), Clean(ev.Errno), c.result, state, known(ev.DurUS), Clean(string(mark.Rule)), Clean(string(mark.Effect))}
}

func callsCSV(rows []tables.CallRow, untimed bool) *table {
	t := &table{cols: callColumns}
	for i := range rows {
		t.add(false, callCSV(&rows[i], untimed)...)
	}
	return t
}

func summaryCSV(rows []tables.SummaryRow) *table {
	t := &table{cols: columns("call", "calls", "errors", "unfinished", "total_us", "max_us")}
	for _, r := range rows {
		t.add(false, Clean(r.Name), num(r.Calls), num(r.Errors), num(r.Unfinished), blankZero(r.TotalUS), blankZero(r.MaxUS))
	}
	return t
}

// descriptorsCSV has a row for each descriptor, and one for the closed ones that were too
// many: how many a row stands for is in its last column.
func descriptorsCSV(rows []tables.FDRow, untimed bool) *table {
	t := &table{cols: columns("pid", "fd", "target", "made_by", "name", "opened", "opened_s", "closed", "closed_s", "reads", "bytes", "read_us", "waiting",
		"whose", "rule", "effect", "descriptors")}
	at := func(what string, when event.Opt[event.Micros]) (string, string) {
		switch {
		case when.Known && untimed:
			return "seen", ""
		case when.Known:
			return "seen", when.Val.String()
		}
		return what, ""
	}
	for i := range rows {
		r := &rows[i]
		pid, fd, before, gone := thread(event.TID(r.PID)), strconv.Itoa(int(r.FD)), "before", ""
		if r.Unseen {
			before = "unseen"
		}
		if r.Gone {
			gone = "unseen"
		}
		if r.Count > 0 {
			pid, fd, before, gone = "", "", "", ""
		}
		opened, openedAt := at(before, r.Opened)
		closed, closedAt := at(gone, r.Closed)
		t.add(false, pid, fd, target(&r.Target), Clean(r.Call), Clean(string(r.Name)), opened, openedAt, closed, closedAt,
			num(r.Reads), num(r.Bytes), blankZero(r.ReadUS), strconv.FormatBool(r.Waiting), string(r.Whose), string(r.Rule), string(r.Effect), num(max(1, r.Count)))
	}
	return t
}

// psCSV has a row for each thread, with its debugger; one for a debugger of which no
// thread is known.
func psCSV(rows []words.PSRow) *table {
	t := &table{cols: columns("pid", "debugger", "plugin", "inferiors", "debugger_rule", "debugger_effect", "thread", "thread_name", "state", "call", "fd", "target",
		"waits", "rule", "effect", "error")}
	for i := range rows {
		r := &rows[i]
		threads, plugin := r.Threads, strconv.FormatBool(r.Plugin)
		if r.Error != "" {
			plugin = ""
		}
		if len(threads) == 0 {
			threads = []words.PSThread{{}}
		}
		for j := range threads {
			th := &threads[j]
			t.add(false, strconv.Itoa(int(r.PID)), Clean(string(r.Comm)), plugin, inferiorsText(r), string(r.Rule), string(r.Effect),
				thread(th.TID), Clean(string(th.Comm)), th.State, Clean(th.Syscall), known(th.FD), target(th.Target),
				Clean(string(th.Waits)), string(th.Rule), string(th.Effect), Clean(string(r.Error)))
		}
	}
	return t
}

// known is a number; blank where it is not known.
func known[T ~int32 | ~int64](n event.Opt[T]) string {
	if !n.Known {
		return ""
	}
	return num(int64(n.Val))
}

// csv writes RFC 4180, with all columns.
func (t *table) csv(w io.Writer) error {
	cw := csv.NewWriter(w)
	for _, row := range append([][]string{names(t.cols)}, t.rows...) {
		if err := writeRow(cw, row); err != nil {
			return err
		}
	}
	cw.Flush()
	return cw.Error()
}

func names(cols []column) []string {
	all := make([]string, len(cols))
	for i, c := range cols {
		all[i] = c.name
	}
	return all
}

func writeRow(cw *csv.Writer, row []string) error {
	safe := make([]string, len(row))
	for i, s := range row {
		safe[i] = formulaSafe(s)
	}
	return cw.Write(safe)
}

// formulaSafe keeps a spreadsheet from running a text as a formula: an
// apostrophe before it makes it a text there. What some spreadsheets skip before
// a formula (blanks, tabs, line ends) or take for its signs (their wide forms)
// is no way around it. Plain numbers are left alone.
func formulaSafe(s string) string {
	begin := strings.TrimLeft(s, " \t\r\n")
	switch {
	case begin == "", strings.IndexAny(begin, "=+-@＝＋－＠") != 0 && !strings.ContainsAny(s[:1], "\t\r\n"):
		return s
	case s[0] == '-' && s != "-" && strings.Trim(s[1:], "0123456789.") == "":
		return s
	}
	return "'" + s
}
