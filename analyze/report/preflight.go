package report

import (
	"fmt"
	"io"
	"strings"

	"whosefd/analyze"
)

// others says what was seen of debuggers beside gdb.
func others(all []analyze.Other) string {
	what := map[analyze.Effect]string{analyze.Hang: "hangs", analyze.StolenInput: "reads somebody's input",
		analyze.WrongFile: "takes a wrong file or has no symbols", analyze.Failed: "has no symbols of it"}
	var by []string
	for _, o := range all {
		by = append(by, Clean(o.Debugger)+" "+what[o.Effect])
	}
	return strings.Join(by, ", ")
}

// Preflight writes what a debugger would run into, for a person.
func Preflight(w io.Writer, p *analyze.Preflight, st Style) error {
	out := &page{st: st}
	out.verdictLine(p.Verdict, string(p.Summary))
	for _, n := range p.Names {
		out.head(fmt.Sprintf("%s: %s, %s (%s)", Clean(string(n.Name)), n.Rule, n.Effect, n.Confidence))
		out.para("  ", Clean(string(n.Text)))
		if len(n.Others) > 0 {
			out.para("  ", "Other debuggers: "+others(n.Others)+".")
		}
	}
	out.remedies(p.Remedies)
	if len(p.Notes) > 0 {
		out.head("Also")
		for _, n := range p.Notes {
			out.item("-", Clean(string(n)))
		}
	}
	if len(p.Missing) > 0 {
		out.head("What could not be seen")
		for _, m := range p.Missing {
			out.item("-", Clean(string(m)))
		}
	}
	_, err := w.Write(out.buf.Bytes())
	return err
}
