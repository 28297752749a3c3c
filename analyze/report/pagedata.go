package report

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"whosefd/analyze/rules"
	"whosefd/analyze/tables"
	"whosefd/analyze/words"
)

// The tables of a page travel as columns of numbers. A text is its place in a
// list of texts in which each stands once: most cells of a long recording are
// repetitions. This is what page.js reads:
//
//	{"texts":["",…],"tables":[{"name":…,"rows":…,"gaps":[[row,calls],…],"focus":row,
//	  "cols":[{"name":…,"kind":…,"pick":…,"v":[…]},…]},…]}

// pageColumn is a column. Its kind says how a value is shown: "text" (its place
// in the list), "int", "us" (microseconds), "time" (microseconds as seconds);
// null is an empty cell. With pick, the page offers a choice among its values.
type pageColumn struct {
	Name   string          `json:"name"`
	Kind   string          `json:"kind"`
	Pick   string          `json:"pick,omitempty"`
	Values json.RawMessage `json:"v"`
	// filled: some row has something here.
	filled bool
}

func newColumns(cols ...pageColumn) []pageColumn {
	for i := range cols {
		cols[i].Values = append(cols[i].Values, '[')
	}
	return cols
}

func (c *pageColumn) add(n int64) {
	c.filled = c.filled || c.Kind != "text" || n != 0
	if len(c.Values) > 1 {
		c.Values = append(c.Values, ',')
	}
	c.Values = strconv.AppendInt(c.Values, n, 10)
}

func (c *pageColumn) addOpt(known bool, n int64) {
	if known {
		c.add(n)
		return
	}
	if len(c.Values) > 1 {
		c.Values = append(c.Values, ',')
	}
	c.Values = append(c.Values, "null"...)
}

// pageTable is a table with its columns.
type pageTable struct {
	Name string       `json:"name"`
	Rows int          `json:"rows"`
	Cols []pageColumn `json:"cols"`
	// Gaps are the rows before which calls were left out, and how many; Focus is
	// the row of the worst finding.
	Gaps  [][2]int64 `json:"gaps,omitempty"`
	Focus *int       `json:"focus,omitempty"`
}

// close ends the columns, and leaves out those in which no row has anything.
func (t *pageTable) close() {
	for i := range t.Cols {
		t.Cols[i].Values = append(t.Cols[i].Values, ']')
	}
	t.Cols = slices.DeleteFunc(t.Cols, func(c pageColumn) bool { return t.Rows > 0 && !c.filled })
}

// texts is the list of texts. They are clean.
type texts struct {
	place map[string]int64
	list  []string
}

func (t *texts) of(s string) int64 {
	n, ok := t.place[s]
	if !ok {
		n = int64(len(t.list))
		t.place[s], t.list = n, append(t.list, s)
	}
	return n
}

// pageData gives the tables as JSON that is fit for a script element: the
// encoder escapes <, > and &, and there are no control characters.
func pageData(c *Case, calls []*tables.ExcerptRow) ([]byte, error) {
	tx := &texts{place: map[string]int64{"": 0}, list: []string{""}}
	focus := -1
	if len(c.Diagnosis.Findings) > 0 {
		focus = opening(&c.Diagnosis.Findings[0], calls)
	}
	var data struct {
		Texts  []string    `json:"texts"`
		Tables []pageTable `json:"tables"`
	}
	data.Tables = []pageTable{callData(tx, calls, focus, !c.Excerpt.Untimed()), summaryData(tx, c.Tables.Summary()), descriptorData(tx, c)}
	data.Texts = tx.list
	b, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("encode the tables of the page: %w", err)
	}
	return b, nil
}

func callData(tx *texts, calls []*tables.ExcerptRow, focus int, timed bool) pageTable {
	t := pageTable{Name: "calls", Rows: len(calls), Cols: newColumns(
		pageColumn{Name: "#", Kind: "int"}, pageColumn{Name: "time, s", Kind: "time"}, pageColumn{Name: "thread", Kind: "int", Pick: "all threads"},
		pageColumn{Name: "call", Kind: "text", Pick: "all calls"}, pageColumn{Name: "on", Kind: "text"}, pageColumn{Name: "result", Kind: "text"},
		pageColumn{Name: "duration", Kind: "us"}, pageColumn{Name: "mark", Kind: "text", Pick: "marked or not"},
	)}
	next := int64(1)
	for i := range calls {
		r := calls[i]
		if r.Number > next {
			t.Gaps = append(t.Gaps, [2]int64{int64(i), r.Number - next})
		}
		next = r.Number + 1
		cells := callCells(&r.Call, r.Mark)
		result := strings.TrimPrefix(cells.result, "→ ")
		if s := dataText(&r.Call); s != "" {
			result += " " + s
		}
		t.Cols[0].add(r.Number)
		t.Cols[1].addOpt(timed, int64(r.Call.T))
		t.Cols[2].add(int64(r.Call.TID))
		t.Cols[3].add(tx.of(cells.call))
		t.Cols[4].add(tx.of(cells.on))
		t.Cols[5].add(tx.of(result))
		t.Cols[6].addOpt(r.Call.DurUS.Known, r.Call.DurUS.Val)
		t.Cols[7].add(tx.of(cells.mark))
	}
	if focus >= 0 {
		t.Focus = &focus
	}
	t.close()
	return t
}

func summaryData(tx *texts, rows []tables.SummaryRow) pageTable {
	t := pageTable{Name: "summary", Rows: len(rows), Cols: newColumns(
		pageColumn{Name: "call", Kind: "text"}, pageColumn{Name: "calls", Kind: "int"}, pageColumn{Name: "errors", Kind: "int"},
		pageColumn{Name: "unfinished", Kind: "int"}, pageColumn{Name: "total", Kind: "us"}, pageColumn{Name: "max", Kind: "us"},
	)}
	for _, r := range rows {
		t.Cols[0].add(tx.of(Clean(r.Name)))
		t.Cols[1].add(r.Calls)
		t.Cols[2].addOpt(r.Errors != 0, r.Errors)
		t.Cols[3].addOpt(r.Unfinished != 0, r.Unfinished)
		t.Cols[4].add(r.TotalUS)
		t.Cols[5].add(r.MaxUS)
	}
	t.close()
	return t
}

func descriptorData(tx *texts, c *Case) pageTable {
	rows, timed := c.Tables.Descriptors(), !c.Excerpt.Untimed()
	t := pageTable{Name: "descriptors", Rows: len(rows), Cols: newColumns(
		pageColumn{Name: "fd", Kind: "int"}, pageColumn{Name: "target", Kind: "text"}, pageColumn{Name: "made by", Kind: "text"},
		pageColumn{Name: "name", Kind: "text"}, pageColumn{Name: "opened, s", Kind: "time"}, pageColumn{Name: "closed, s", Kind: "time"},
		pageColumn{Name: "reads", Kind: "int"}, pageColumn{Name: "bytes", Kind: "int"}, pageColumn{Name: "read time", Kind: "us"},
		pageColumn{Name: "whose", Kind: "text", Pick: "whoever's"}, pageColumn{Name: "note", Kind: "text"},
	)}
	for i := range rows {
		r := &rows[i]
		name := target(&r.Target)
		if r.Count > 0 {
			name = fmt.Sprintf("%d older descriptors", r.Count)
		}
		t.Cols[0].addOpt(r.Count == 0, int64(r.FD))
		t.Cols[1].add(tx.of(name))
		t.Cols[2].add(tx.of(Clean(r.Call)))
		t.Cols[3].add(tx.of(Clean(string(r.Name))))
		t.Cols[4].addOpt(timed && r.Opened.Known, int64(r.Opened.Val))
		t.Cols[5].addOpt(timed && r.Closed.Known, int64(r.Closed.Val))
		t.Cols[6].addOpt(r.Reads != 0, r.Reads)
		t.Cols[7].addOpt(r.Bytes != 0, r.Bytes)
		t.Cols[8].addOpt(r.ReadUS > 0, r.ReadUS)
		t.Cols[9].add(tx.of(string(r.Whose)))
		t.Cols[10].add(tx.of(descriptorNote(r, c)))
	}
	t.close()
	return t
}

// descriptorNote says of a descriptor what its other cells do not.
func descriptorNote(r *tables.FDRow, c *Case) string {
	var words []string
	if m := markText(rules.Mark{Rule: r.Rule, Effect: r.Effect}); m != "" {
		words = append(words, m)
	} else if s := foundNote(r, c.Diagnosis); s != "" {
		words = append(words, s)
	}
	if r.Waiting {
		words = append(words, "a read of it has not ended")
	}
	if r.Gone {
		words = append(words, "closed unseen")
	}
	if r.Unseen {
		words = append(words, "made unseen")
	} else if c.Excerpt.Total > 0 && !r.Opened.Known && r.Call == "" && r.Count == 0 {
		words = append(words, "there before")
	}
	return strings.Join(words, "; ")
}

// foundNote says that an open descriptor is the file of a finding.
func foundNote(r *tables.FDRow, d *words.Diagnosis) string {
	if !r.Known() || r.Closed.Known || r.Gone {
		return ""
	}
	for i := range d.Findings {
		f := &d.Findings[i]
		if r.PID != f.Opened.PID || !r.Target.Same(f.Opened.Target) {
			continue
		}
		if f.Opened.FD.Is(r.FD) {
			return markText(rules.Mark{Rule: f.Rule, Effect: f.Effect})
		}
		if f.Opened.FD.Known {
			return fmt.Sprintf("same file as %d", f.Opened.FD.Val)
		}
	}
	return ""
}
