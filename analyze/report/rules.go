package report

import (
	"io"

	"whosefd/analyze/words"
)

// Rules writes the causes and effects that a finding can have, as text.
func Rules(w io.Writer, r words.Rules, st Style) error {
	p := &page{st: st}
	p.line(st.paint(bold, "Causes: why the debugger's file is not the one that its inferior has mapped"))
	for _, c := range r.Causes {
		p.head("  " + string(c.Rule))
		if c.Names != "" { // a rule about names
			p.para("    ", "Such as "+c.Names+".")
		}
		p.para("    ", c.Text)
	}
	p.head("Effects: what the debugger suffers, worst first")
	for _, e := range r.Effects {
		p.head("  " + string(e.Effect))
		p.para("    ", e.Text)
	}
	_, err := w.Write(p.buf.Bytes())
	return err
}
