package report

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"

	"whosefd/analyze/rules"
	"whosefd/analyze/tables"
	"whosefd/analyze/words"
	"whosefd/tracer/event"
)

// Names are the tables that can be written.
var Names = []string{"calls", "summary", "fds"}

// TablesJSON are the tables as JSON; those that were not asked for are absent.
type TablesJSON struct {
	Schema      string              `json:"schema"`
	Calls       []CallJSON          `json:"calls,omitzero"`
	CallsCut    int64               `json:"calls_cut,omitempty"` // older ones that were not kept
	Summary     []tables.SummaryRow `json:"summary,omitzero"`
	Descriptors []tables.FDRow      `json:"descriptors,omitzero"`
}

// CallJSON is a call as recordings have it, with its mark.
type CallJSON struct {
	event.Syscall
	Rule   rules.Rule   `json:"rule,omitempty"`
	Effect rules.Effect `json:"effect,omitempty"`
}

// Tables writes tables of a recording, by their names: all of them where none is named.
func Tables(w io.Writer, t *tables.Tables, names []string, f Format, st Style) error {
	if len(names) == 0 {
		names = Names
	}
	switch f {
	case FormatJSON:
		return JSON(w, tablesJSON(t, names))
	case FormatLines:
		out := tablesJSON(t, names)
		return errors.Join(lines(w, TableSchema, "calls", out.Calls), lines(w, TableSchema, "summary", out.Summary), lines(w, TableSchema, "descriptors", out.Descriptors))
	}
	var all []*table
	for _, name := range names {
		all = append(all, tableNamed(t, name, f))
	}
	return writeTables(w, all, f, st)
}

func tablesJSON(t *tables.Tables, names []string) TablesJSON {
	out := TablesJSON{Schema: TableSchema}
	for _, name := range names {
		switch name {
		case "calls":
			var rows []tables.CallRow
			rows, out.CallsCut = t.Calls()
			out.Calls = make([]CallJSON, len(rows))
			for i, r := range rows {
				out.Calls[i] = CallJSON{r.Call, r.Mark.Rule, r.Mark.Effect}
			}
		case "summary":
			out.Summary = t.Summary()
		default:
			out.Descriptors = t.Descriptors()
		}
	}
	return out
}

// writeTables writes several, with an empty line between.
func writeTables(w io.Writer, all []*table, f Format, st Style) error {
	// Drawing takes longer than reading a short recording: it is done side by side.
	drawn, errs := make([]bytes.Buffer, len(all)), make([]error, len(all))
	var group sync.WaitGroup
	for i, tbl := range all {
		group.Go(func() { errs[i] = tbl.write(&drawn[i], f, st) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for i := range drawn {
		if i > 0 {
			if _, err := io.WriteString(w, "\n"); err != nil {
				return err
			}
		}
		if _, err := drawn[i].WriteTo(w); err != nil {
			return err
		}
	}
	return nil
}

func tableNamed(t *tables.Tables, name string, f Format) *table {
	switch {
	case name == "calls" && f == FormatCSV:
		rows, _ := t.Calls()
		return callsCSV(rows, t.Untimed())
	case name == "summary" && f == FormatCSV:
		return summaryCSV(t.Summary())
	case f == FormatCSV:
		return descriptorsCSV(t.Descriptors(), t.Untimed())
	case name == "calls":
		rows, cut := t.Calls()
		tbl := callTable(rows, t.Untimed())
		if cut > 0 {
			kept := int64(0)
			for _, r := range rows {
				kept += r.Count
			}
			tbl.notes = append(tbl.notes, fmt.Sprintf("%d earlier calls are not shown: the last %d are kept.", cut, kept))
		}
		return tbl
	case name == "summary":
		return summaryTable(t)
	}
	return descriptorsTable(t.Descriptors(), t.Untimed())
}

func callTable(rows []tables.CallRow, untimed bool) *table {
	t := &table{title: "Calls", cols: []column{
		{name: "time", right: true, spare: 2}, {name: "thread", right: true, spare: 4}, {name: "call", flex: true}, {name: "on", flex: true},
		{name: "result", flex: true, spare: 1}, {name: "duration", right: true, spare: 3}, {name: "mark", text: true},
	}}
	for i := range rows {
		c := callCells(&rows[i].Call, rows[i].Mark)
		if untimed {
			c.time = ""
		}
		if n := rows[i].Count; n > 1 {
			c.call += fmt.Sprintf(" ×%d", n)
		}
		t.add(c.mark != "", c.time, thread(rows[i].Call.TID), c.call, c.on, c.result, c.took, c.mark)
	}
	return t
}

// CaseCSV writes the tables of a report as CSV: those named, or all. Its calls are those
// of the excerpt.
func CaseCSV(w io.Writer, c *Case, names []string) error {
	if len(names) == 0 {
		names = Names
	}
	var all []*table
	for _, name := range names {
		if name != "calls" {
			all = append(all, tableNamed(c.Tables, name, FormatCSV))
			continue
		}
		var rows []tables.CallRow
		for _, r := range c.Excerpt.Calls() {
			rows = append(rows, r.CallRow)
		}
		all = append(all, callsCSV(rows, c.Tables.Untimed()))
	}
	return writeTables(w, all, FormatCSV, Style{})
}

func summaryTable(t *tables.Tables) *table {
	tbl := &table{title: "Summary by call", cols: []column{
		{name: "call", flex: true}, {name: "calls", right: true}, {name: "errors", right: true}, {name: "unfinished", right: true, spare: 1},
		{name: "total", right: true}, {name: "max", right: true, spare: 2},
	}}
	for _, r := range t.Summary() {
		tbl.add(false, Clean(r.Name), num(r.Calls), blankZero(r.Errors), blankZero(r.Unfinished), blankTime(r.TotalUS), blankTime(r.MaxUS))
	}
	return tbl
}

// Overview writes what somebody wants to see at the end of a trace: the verdict and
// what was found, the descriptors that are suspicious or still open, the summary,
// and how much more there is.
func Overview(w io.Writer, d *words.Diagnosis, t *tables.Tables, more string, st Style) error {
	if err := Text(w, d, st); err != nil {
		return err
	}
	all := t.Descriptors()
	rows := slices.DeleteFunc(slices.Clone(all), func(r tables.FDRow) bool {
		open := r.Count == 0 && !r.Closed.Known && !r.Gone && !t.Ended()
		return r.Rule == "" && !open
	})
	if len(rows) > 0 {
		tbl := descriptorsTable(rows, t.Untimed())
		tbl.title = "Descriptors that are suspicious or open"
		if err := writeAfterLine(w, tbl, st); err != nil {
			return err
		}
	}
	if summary := summaryTable(t); len(summary.rows) > 0 {
		if err := writeAfterLine(w, summary, st); err != nil {
			return err
		}
	}
	calls, _ := t.Chosen()
	return Prose(w, fmt.Sprintf("Seen: %d calls, %d descriptors. %s", calls, count(all), more), st)
}

// writeAfterLine writes a table behind an empty line.
func writeAfterLine(w io.Writer, t *table, st Style) error {
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	return t.write(w, FormatTable, st)
}

// count is how many descriptors rows stand for.
func count(rows []tables.FDRow) (n int64) {
	for _, r := range rows {
		n += max(1, r.Count)
	}
	return n
}

// folded makes one row of closed descriptors that differ in their time only; alike
// is how many a row stands for.
func folded(rows []tables.FDRow) (out []tables.FDRow, alike []int) {
	type key struct {
		pid        event.PID
		fd         event.FD
		target     string
		call, name string
		mark       rules.Mark
		whose      tables.Whose
	}
	at := map[key]int{}
	for _, r := range rows {
		k := key{r.PID, r.FD, target(&r.Target), r.Call, string(r.Name), rules.Mark{Rule: r.Rule, Effect: r.Effect}, r.Whose}
		i, again := at[k]
		if !again || !r.Closed.Known || r.Count > 0 || !out[i].Closed.Known {
			at[k] = len(out)
			out, alike = append(out, r), append(alike, 1)
			continue
		}
		alike[i]++
		out[i].Closed = r.Closed
		out[i].Reads += r.Reads
		out[i].Bytes += r.Bytes
		out[i].ReadUS += r.ReadUS
	}
	return out, alike
}

// descriptorsTable folds rows that are alike.
func descriptorsTable(rows []tables.FDRow, untimed bool) *table {
	rows, alike := folded(rows)
	// Where all is one process's own, that says nothing.
	several := slices.ContainsFunc(rows, func(r tables.FDRow) bool { return r.Whose == tables.WhoseInferior || r.Whose == tables.WhoseBoth })
	tbl := &table{title: "Descriptors", cols: []column{
		{name: "fd", right: true}, {name: "target", flex: true}, {name: "made by", spare: 8}, {name: "name", flex: true, spare: 1},
		{name: "opened", right: true, spare: 6}, {name: "closed", right: true, spare: 7}, {name: "reads", right: true, spare: 5},
		{name: "bytes", right: true, spare: 4}, {name: "read time", right: true, spare: 3}, {name: "whose", spare: 2}, {name: "mark", text: true},
	}}
	for i := range rows {
		r := &rows[i]
		took := blankTime(r.ReadUS)
		if r.Waiting {
			took = strings.TrimSpace(took + " …")
		}
		if r.Count > 0 {
			tbl.add(false, "", fmt.Sprintf("%d older descriptors", r.Count), "", "", "", "", blankZero(r.Reads), blankZero(r.Bytes), took, "", "")
			continue
		}
		mark := markText(rules.Mark{Rule: r.Rule, Effect: r.Effect})
		made, owner := Clean(r.Call), ""
		if several {
			owner = string(r.Whose)
		}
		if alike[i] > 1 {
			made = strings.TrimSpace(fmt.Sprintf("%s ×%d", made, alike[i]))
		}
		tbl.add(mark != "", strconv.Itoa(int(r.FD)), target(&r.Target), made, Clean(string(r.Name)), opened(r, untimed), closed(r, untimed),
			blankZero(r.Reads), blankZero(r.Bytes), took, owner, mark)
	}
	return tbl
}

func opened(r *tables.FDRow, untimed bool) string {
	switch {
	case r.Opened.Known && untimed:
		return "yes"
	case r.Opened.Known:
		return r.Opened.Val.String()
	case r.Unseen:
		return "unseen"
	}
	return "before"
}

func closed(r *tables.FDRow, untimed bool) string {
	switch {
	case r.Closed.Known && untimed:
		return "yes"
	case r.Closed.Known:
		return r.Closed.Val.String()
	case r.Gone:
		return "unseen"
	}
	return ""
}

func num(n int64) string { return strconv.FormatInt(n, 10) }

// thread is a thread id; blank where a log does not tell it.
func thread(tid event.TID) string {
	if tid <= 0 {
		return ""
	}
	return strconv.Itoa(int(tid))
}

// blankTime is a sum of times; blank where none was measured.
func blankTime(us int64) string {
	if us == 0 {
		return ""
	}
	return duration(us)
}

func blankZero(n int64) string {
	if n == 0 {
		return ""
	}
	return num(n)
}
