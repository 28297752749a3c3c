package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"whosefd/analyze/rules"
	"whosefd/analyze/tables"
	"whosefd/tracer/event"
)

// CallStream writes the table of calls as they come, however many there are, in a format
// for programs: CSV, JSON, or JSON lines. The other tables follow at its end. What Tables
// writes of the same calls is the same.
type CallStream struct {
	w io.Writer
	f Format
	t *tables.Tables
	n int64
	// early are calls of a log before one has a time: it may have none at all.
	early []tables.CallRow
	rows  *csv.Writer
	err   error
}

// maxEarly bounds how many calls wait for that.
const maxEarly = 1000

// NewCallStream writes to w; its calls are those that t's filter gives Each.
func NewCallStream(w io.Writer, f Format, t *tables.Tables) *CallStream {
	s := &CallStream{w: w, f: f, t: t}
	switch f {
	case FormatCSV:
		s.rows = csv.NewWriter(w)
		s.err = writeRow(s.rows, names(callColumns))
	case FormatJSON:
		_, s.err = fmt.Fprintf(w, "{\n  \"schema\": %q,\n  \"calls\": [", TableSchema)
	}
	return s
}

// Add writes the next call, with its mark.
func (s *CallStream) Add(ev *event.Syscall, mark rules.Mark) {
	row := tables.CallRow{Call: *ev, Mark: mark, Count: 1}
	row.Call.Data = nil
	if s.rows != nil && s.t.Untimed() && len(s.early) < maxEarly {
		s.early = append(s.early, row.Clone())
		return
	}
	s.flush()
	s.write(&row)
}

// flush writes the calls that waited.
func (s *CallStream) flush() {
	for i := range s.early {
		s.write(&s.early[i])
	}
	s.early = nil
}

func (s *CallStream) write(row *tables.CallRow) {
	if s.err != nil {
		return
	}
	s.n++
	switch c := []CallJSON{{row.Call, row.Mark.Rule, row.Mark.Effect}}; {
	case s.rows != nil:
		s.err = writeRow(s.rows, callCSV(row, s.t.Untimed()))
	case s.f == FormatLines:
		s.err = lines(s.w, TableSchema, "calls", c)
	default:
		s.err = s.element(&c[0])
	}
}

// element writes a call as an element of the list.
func (s *CallStream) element(c *CallJSON) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("    ", "  ")
	if err := enc.Encode(c); err != nil {
		return fmt.Errorf("encode JSON: %w", err)
	}
	between := ","
	if s.n == 1 {
		between = ""
	}
	_, err := fmt.Fprintf(s.w, "%s\n    %s", between, escapeJSON(bytes.TrimSpace(buf.Bytes())))
	return err
}

// End writes those of the other tables that are named.
func (s *CallStream) End(which []string) error {
	s.flush()
	if s.rows != nil {
		s.rows.Flush()
	}
	if s.err != nil {
		return s.err
	}
	which = slices.DeleteFunc(slices.Clone(which), func(name string) bool { return name == "calls" })
	if s.f != FormatJSON && len(which) == 0 {
		return nil
	}
	switch s.f {
	case FormatCSV:
		if _, err := io.WriteString(s.w, "\n"); err != nil {
			return err
		}
	case FormatJSON:
		return s.endObject(which)
	}
	return Tables(s.w, s.t, which, s.f, Style{})
}

// endObject ends the list, and takes the rest of an object from one without calls.
func (s *CallStream) endObject(which []string) error {
	var rest bytes.Buffer
	if err := JSON(&rest, tablesJSON(s.t, which)); err != nil {
		return err
	}
	end := "]"
	if s.n > 0 {
		end = "\n  ]"
	}
	begin := fmt.Sprintf("{\n  \"schema\": %q", TableSchema)
	_, err := fmt.Fprintf(s.w, "%s%s", end, bytes.TrimPrefix(rest.Bytes(), []byte(begin)))
	return err
}
