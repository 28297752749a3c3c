package report

import (
	"fmt"
	"io"
	"strings"

	"whosefd/analyze/rules"
	"whosefd/analyze/words"
)

// others says what was seen of debuggers beside gdb.
func others(all []rules.Other) string {
	what := map[rules.Effect]string{rules.Hang: "hangs", rules.StolenInput: "reads somebody's input",
		rules.WrongFile: "takes a wrong file or has no symbols", rules.Failed: "has no symbols of it"}
	var by []string
	for _, o := range all {
		by = append(by, Clean(o.Debugger)+" "+what[o.Effect])
	}
	return strings.Join(by, ", ")
}

// Prospects writes the names that would lead to a wrong file as a table.
func Prospects(w io.Writer, p *words.Preflight, f Format, st Style) error {
	if f == FormatLines {
		return lines(w, p.Schema, "names", p.Names)
	}
	tbl := &table{cols: []column{{name: "name", flex: true}, {name: "rule"}, {name: "effect"}, {name: "confidence"}, {name: "text", text: true}}}
	for _, n := range p.Names {
		tbl.add(true, Clean(string(n.Name)), string(n.Rule), string(n.Effect), string(n.Confidence), Clean(string(n.Text)))
	}
	return tbl.write(w, f, st)
}

// Preflight writes what a debugger would run into, for a person.
func Preflight(w io.Writer, p *words.Preflight, st Style) error {
	out := &page{st: st}
	out.verdict(p.Verdict, p.Summary)
	for _, n := range p.Names {
		out.head(fmt.Sprintf("%s: %s, %s (%s)", Clean(string(n.Name)), n.Rule, n.Effect, n.Confidence))
		out.para("  ", Clean(string(n.Text)))
		if len(n.Others) > 0 {
			out.para("  ", "Other debuggers: "+others(n.Others)+".")
		}
	}
	out.remedies(p.Remedies)
	out.items("Also", p.Notes)
	out.items("What could not be seen", p.Missing)
	_, err := w.Write(out.buf.Bytes())
	return err
}
