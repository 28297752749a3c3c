package screen

import (
	"strings"

	"whosefd/analyze/report"
)

// pane is a list of lines with a cursor, of which a part is seen.
type pane struct {
	n      int // lines
	cursor int
	top    int // the first that is seen
	height int // how many are
	// follows: the cursor stays at the end as lines come, as long as it is there (end).
	follows, end bool
	wanted       string // by the last search

	text func(i int) string // a line without colors
	// fit gives a line in so many columns; nil: its beginning.
	fit func(i, columns int) string
	// draw gives a line with its colors; nil: it is text, in the look of look.
	draw func(i int) string // such a text has no cursor, and scrolls
	look func(i int) report.Look
}

// set gives the pane its lines anew.
func (p *pane) set(n int) {
	p.n = n
	if p.end {
		p.cursor = n - 1
	}
	p.move(0)
}

func (p *pane) move(by int) {
	if p.draw != nil {
		p.top = max(0, min(p.top+by, p.n-p.height))
		p.cursor = p.top
		return
	}
	p.cursor = max(0, min(p.cursor+by, p.n-1))
	if by != 0 {
		p.end = p.follows && p.cursor == p.n-1
	}
	p.top = max(0, min(max(p.top, p.cursor-p.height+1), p.cursor, p.n-p.height)) // the last page is full
}

// search goes to the next line, or the one before, that has what is wanted; with 0
// it may be this one.
func (p *pane) search(direction int) bool {
	step, wanted := direction, strings.ToLower(p.wanted)
	if step == 0 {
		step = 1
	}
	for k := range p.n {
		i := p.cursor + step*k
		if direction != 0 {
			i += step
		}
		if i = (i%p.n + p.n) % p.n; strings.Contains(strings.ToLower(p.text(i)), wanted) {
			p.move(i - p.cursor)
			p.cursor = i // of a text that cannot scroll so far, too
			return true
		}
	}
	return false
}

// view gives the lines that are seen. The cursor's has a mark, which is there without
// color too.
func (p *pane) view(st report.Style, width, height int) []string {
	p.height = height
	p.move(0)
	var lines []string
	for i := p.top; i < min(p.n, p.top+height); i++ {
		text := p.text(i)
		if p.fit != nil {
			text = p.fit(i, width-1)
		}
		switch {
		case p.draw == nil && i == p.cursor:
			lines = append(lines, st.Line(report.Chosen(p.look(i)), ">"+text, width))
		case p.draw != nil && report.Wide(text) < width:
			lines = append(lines, " "+p.draw(i))
		case p.draw != nil:
			lines = append(lines, " "+st.Line(report.LookPlain, text, width-1))
		default:
			lines = append(lines, " "+st.Line(p.look(i), text, width-1))
		}
	}
	return lines
}
