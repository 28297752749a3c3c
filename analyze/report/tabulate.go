package report

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"whosefd/analyze"
	"whosefd/tracer/event"
)

// Tables writes all tables of a recording: the calls, the summary by call, and
// the descriptors.
func Tables(w io.Writer, t *analyze.Tables, f Format, st Style) error {
	if f == FormatJSON {
		return JSON(w, jsonTables(t))
	}
	// Drawing takes longer than reading a short recording: it is done side by side.
	all := []*table{callsTable(t), summaryTable(t), descriptorsTable(t)}
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

// tablesJSON are the tables as JSON.
type tablesJSON struct {
	Calls       []callJSON           `json:"calls"`
	CallsCut    int64                `json:"calls_cut,omitempty"` // older ones that were not kept
	Summary     []analyze.SummaryRow `json:"summary"`
	Descriptors []analyze.FDRow      `json:"descriptors"`
}

// callJSON is a call as recordings have it, with its mark.
type callJSON struct {
	event.Syscall
	Rule   analyze.Rule   `json:"rule,omitempty"`
	Effect analyze.Effect `json:"effect,omitempty"`
}

func jsonTables(t *analyze.Tables) tablesJSON {
	rows, cut := t.Calls()
	out := tablesJSON{Calls: make([]callJSON, len(rows)), CallsCut: cut, Summary: t.Summary(), Descriptors: t.Descriptors()}
	for i, r := range rows {
		out.Calls[i] = callJSON{r.Call, r.Mark.Rule, r.Mark.Effect}
	}
	return out
}

// Calls writes the table of the calls, the latest that were kept.
func Calls(w io.Writer, t *analyze.Tables, f Format, st Style) error {
	if f == FormatJSON {
		return JSON(w, jsonTables(t).Calls)
	}
	return callsTable(t).write(w, f, st)
}

func callsTable(t *analyze.Tables) *table {
	rows, cut := t.Calls()
	tbl := callTable()
	for i := range rows {
		addCall(tbl, &rows[i], t.Untimed())
	}
	if cut > 0 {
		tbl.notes = append(tbl.notes, fmt.Sprintf("%d earlier calls are not shown: the last %d are kept.", cut, len(rows)))
	}
	return tbl
}

func callTable() *table {
	return &table{title: "Calls", cols: []column{
		{name: "time", right: true}, {name: "thread", right: true, spare: 2}, {name: "call", flex: true}, {name: "on", flex: true},
		{name: "result", flex: true}, {name: "duration", right: true, spare: 1}, {name: "mark"},
	}}
}

func addCall(t *table, r *analyze.CallRow, untimed bool) {
	c := callCells(&r.Call, r.Mark)
	if untimed {
		c.time = ""
	}
	t.add(c.mark != "", c.time, thread(r.Call.TID), c.call, c.on, c.result, c.took, c.mark)
}

// CaseCSV writes the tables of a report as CSV: "calls", "summary", "fds", or
// all of them, with an empty line between, for "".
func CaseCSV(w io.Writer, c *Case, which string) error {
	calls := callTable()
	for _, r := range c.Excerpt.Calls() {
		addCall(calls, &r.CallRow, c.Tables.Untimed())
	}
	if which == "calls" {
		return calls.csv(w)
	}
	if which == "" {
		if err := calls.csv(w); err != nil {
			return err
		}
	}
	for _, t := range []struct {
		name  string
		write func(io.Writer, *analyze.Tables, Format, Style) error
	}{{"summary", Summary}, {"fds", Descriptors}} {
		if which != "" && which != t.name {
			continue
		}
		if which == "" {
			if _, err := io.WriteString(w, "\n"); err != nil {
				return err
			}
		}
		if err := t.write(w, c.Tables, FormatCSV, Style{}); err != nil {
			return err
		}
	}
	return nil
}

// Summary writes the summary by call.
func Summary(w io.Writer, t *analyze.Tables, f Format, st Style) error {
	if f == FormatJSON {
		return JSON(w, t.Summary())
	}
	return summaryTable(t).write(w, f, st)
}

func summaryTable(t *analyze.Tables) *table {
	tbl := &table{title: "Summary by call", cols: []column{
		{name: "call"}, {name: "calls", right: true}, {name: "errors", right: true}, {name: "unfinished", right: true},
		{name: "total", right: true}, {name: "max", right: true},
	}}
	for _, r := range t.Summary() {
		tbl.add(false, Clean(r.Name), num(r.Calls), blankZero(r.Errors), blankZero(r.Unfinished), blankTime(r.TotalUS), blankTime(r.MaxUS))
	}
	return tbl
}

// Descriptors writes the table by descriptor.
func Descriptors(w io.Writer, t *analyze.Tables, f Format, st Style) error {
	if f == FormatJSON {
		return JSON(w, t.Descriptors())
	}
	return descriptorsTable(t).write(w, f, st)
}

func descriptorsTable(t *analyze.Tables) *table {
	rows := t.Descriptors()
	tbl := &table{title: "Descriptors", cols: []column{
		{name: "fd", right: true}, {name: "target", flex: true}, {name: "made by", spare: 6}, {name: "name", flex: true},
		{name: "opened", right: true, spare: 4}, {name: "closed", right: true, spare: 5}, {name: "reads", right: true, spare: 3},
		{name: "bytes", right: true, spare: 2}, {name: "read time", right: true, spare: 1}, {name: "whose"}, {name: "mark"},
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
		mark := markText(analyze.Mark{Rule: r.Rule, Effect: r.Effect})
		tbl.add(mark != "", strconv.Itoa(int(r.FD)), target(r.Target), Clean(r.Call), Clean(string(r.Name)), opened(r, t.Untimed()), closed(r, t.Untimed()),
			blankZero(r.Reads), blankZero(r.Bytes), took, whose(r.Whose), mark)
	}
	return tbl
}

func opened(r *analyze.FDRow, untimed bool) string {
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

func closed(r *analyze.FDRow, untimed bool) string {
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

func whose(o analyze.Whose) string {
	switch o {
	case analyze.WhoseDebugger:
		return "debugger"
	case analyze.WhoseInferior:
		return "inferior"
	case analyze.WhoseBoth:
		return "both"
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
