package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"whosefd/analyze/words"
)

// The versions of what is written as JSON and as JSON lines.
const (
	TableSchema  = "whosefd.table/v1"
	PSSchema     = "whosefd.ps/v1"
	DoctorSchema = "whosefd.doctor/v1"
)

// lines writes rows as JSON, one a line, each with the schema and the table that it is of.
func lines[T any](w io.Writer, schema, table string, rows []T) error {
	for i := range rows {
		row, err := json.Marshal(&rows[i])
		if err != nil {
			return fmt.Errorf("encode JSON: %w", err)
		}
		line := fmt.Appendf(nil, `{"schema":%q,"table":%q,`, schema, table)
		line = append(append(line, escapeJSON(row[1:])...), '\n')
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
	return nil
}

// PSRowJSON is an element of the list of debuggers as JSON.
type PSRowJSON struct {
	Schema string `json:"schema"`
	words.PSRow
}

// Check is one of doctor's, which has what it means.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Needed bool   `json:"needed,omitempty"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"`
}

// CheckJSON is an element of the list of checks as JSON.
type CheckJSON struct {
	Schema string `json:"schema"`
	Check
}

// list writes rows as a JSON list, which it is even where there is none: who reads it
// goes through its elements.
func list[T, R any](w io.Writer, rows []T, element func(T) R) error {
	all := make([]R, len(rows))
	for i, row := range rows {
		all[i] = element(row)
	}
	return JSON(w, all)
}

// Checks writes doctor's checks.
func Checks(w io.Writer, checks []Check, f Format, st Style) error {
	switch f {
	case FormatJSON:
		return list(w, checks, func(c Check) CheckJSON { return CheckJSON{DoctorSchema, c} })
	case FormatLines:
		return lines(w, DoctorSchema, "checks", checks)
	case FormatText:
		return checksText(w, checks, st)
	}
	tbl := &table{cols: []column{{name: "state"}, {name: "check"}, {name: "detail", text: true}, {name: "do", text: true}}}
	for _, c := range checks {
		tbl.add(!c.OK && c.Needed, c.state(), Clean(c.Name), Clean(c.Detail), Clean(c.Remedy))
	}
	return tbl.write(w, f, st)
}

func checksText(w io.Writer, checks []Check, st Style) error {
	p := &page{st: st}
	rest := strings.Repeat(" ", 22)
	for _, c := range checks {
		p.hang(fmt.Sprintf("%-4s  %-15s ", c.state(), Clean(c.Name)), rest, Clean(c.Detail))
		if c.Remedy != "" {
			p.hang(rest+"do: ", rest+"    ", Clean(c.Remedy))
		}
	}
	_, err := p.buf.WriteTo(w)
	return err
}

func (c *Check) state() string {
	switch {
	case c.OK:
		return "ok"
	case c.Needed:
		return "FAIL"
	}
	return "less"
}
