package report

import (
	"fmt"
	"io"

	"whosefd/analyze"
)

// Preflight writes what a debugger would run into, for a person.
func Preflight(w io.Writer, p *analyze.Preflight, st Style) error {
	out := &page{st: st}
	out.verdictLine(p.Verdict, string(p.Summary))
	for _, n := range p.Names {
		out.head(fmt.Sprintf("%s: %s, %s (%s)", Clean(string(n.Name)), n.Rule, n.Effect, n.Confidence))
		out.para("  ", Clean(string(n.Text)))
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
