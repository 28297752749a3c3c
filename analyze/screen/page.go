package screen

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"

	"whosefd/analyze/report"
	"whosefd/analyze/rules"
	"whosefd/analyze/tables"
	"whosefd/analyze/words"
	"whosefd/tracer/event"
)

var tabNames = []string{"evidence", "waits", "calls", "descriptors", "summary"}

// The tabs.
const (
	tabEvidence = iota
	tabWaits
	tabCalls
	tabDescriptors
	tabSummary
)

// page is about one debugger or recording, or about one call of it.
type page struct {
	pid   event.PID // 0 of a recording
	title string
	tab   int
	panes [tabSummary + 1]pane // of each tab

	only  *tables.CallRow // it is about that
	help  bool
	shown [2][]string // a text, without and with its looks

	calls  []tables.CallRow
	number []int64 // of each call, in its trace
	at     int64   // that of the cursor's
	marked bool    // only suspicious calls
	filter string
}

func (m *Model) newPage(pid event.PID, title string) *page {
	p := &page{pid: pid, title: report.Clean(title)}
	p.panes[tabCalls].follows, p.panes[tabCalls].end = true, true
	return p
}

func (m *Model) helpPage() *page { return &page{title: "help", help: true} }

// tabs are those that it has.
func (p *page) tabs() []string {
	if p.help || p.only != nil {
		return nil
	}
	return tabNames
}

func (p *page) pane() *pane { return &p.panes[p.tab] }

// record is what is known of the calls, nil for nothing.
func (p *page) record(m *Model) *Record {
	if m.record == nil || p.pid != 0 && p.pid != m.followed {
		return nil
	}
	return m.record
}

// diagnosis is that of the debugger as it was last looked at; of a recording, its own.
func (p *page) diagnosis(m *Model) *words.Diagnosis {
	if p.pid == 0 {
		m.record.Lock()
		defer m.record.Unlock()
		return m.record.Diagnose()
	}
	if d := m.debugger(p.pid); d != nil {
		return d.Diagnosis
	}
	return nil
}

// fill makes the lines anew.
func (p *page) fill(m *Model) {
	switch {
	case p.help:
		p.lines(m, helpText)
	case p.only != nil:
		p.lines(m, func(w io.Writer, st report.Style) error {
			d := p.diagnosis(m)
			if rec := p.record(m); rec != nil && p.pid != 0 {
				rec.Lock()
				d = rec.Diagnose() // it knows of that call
				rec.Unlock()
			}
			return report.Call(w, p.only, d, st)
		})
	case p.tab == tabCalls:
		p.fillCalls(m)
	case p.tab == tabEvidence, p.tab == tabWaits:
		p.lines(m, func(w io.Writer, st report.Style) error {
			d := p.diagnosis(m)
			switch {
			case d == nil && m.debugger(p.pid) != nil:
				return report.Prose(w, report.Clean(string(m.debugger(p.pid).Row.Error)), st)
			case d == nil:
				return report.Prose(w, "It has ended.", st)
			case p.tab == tabEvidence:
				return report.Text(w, d, st)
			case d.Debugger == nil:
				return report.Prose(w, report.Clean(string(d.Summary)), st)
			}
			return report.Waits(w, []*words.Diagnosis{d}, report.FormatText, st)
		})
	default:
		p.lines(m, func(w io.Writer, st report.Style) error {
			rec := p.record(m)
			if rec == nil {
				return report.Prose(w, untraced, st)
			}
			rec.Lock()
			defer rec.Unlock()
			return report.Tables(w, rec.Tables, []string{map[int]string{tabDescriptors: "fds", tabSummary: "summary"}[p.tab]}, report.FormatTable, st)
		})
	}
}

// untraced stands in the place of calls that nobody has followed.
const untraced = "Nothing is attached. t follows its calls: each of them then stops it for a moment."

// lines takes a text as the lines of the page.
func (p *page) lines(m *Model, write func(io.Writer, report.Style) error) {
	for i, color := range []bool{false, m.Style.Color} {
		var b bytes.Buffer
		if err := write(&b, report.Style{Width: m.width - 2, Color: color}); err != nil {
			fmt.Fprintln(&b, report.Clean(err.Error()))
		}
		text := strings.TrimRight(b.String(), "\n")
		if p.tab != tabDescriptors && p.tab != tabSummary { // no table: commands are to be read to their end
			text = ansi.Hardwrap(text, m.width-2, true)
		}
		p.shown[i] = strings.Split(text, "\n")
	}
	l := p.pane()
	l.fit = nil
	l.text = func(i int) string { return p.shown[0][i] }
	l.draw = func(i int) string { return p.shown[1][i] }
	l.set(len(p.shown[0]))
}

// fillCalls takes those of the record that are asked for.
func (p *page) fillCalls(m *Model) {
	rec := p.record(m)
	if rec == nil {
		p.lines(m, func(w io.Writer, st report.Style) error { return report.Prose(w, untraced, st) })
		return
	}
	l := p.pane()
	if l.cursor < len(p.number) {
		p.at = p.number[l.cursor]
	}
	all, cut := rec.rows()
	p.calls, p.number = all[:0:0], p.number[:0]
	for i := range all {
		r := &all[i]
		if p.marked && r.Mark == (rules.Mark{}) ||
			p.filter != "" && !strings.Contains(strings.ToLower(report.Row(&r.Call, r.Mark)), strings.ToLower(p.filter)) {
			continue
		}
		p.calls, p.number = append(p.calls, *r), append(p.number, cut+int64(i))
	}
	l.draw = nil
	l.fit = func(i, columns int) string { return report.Fit(&p.calls[i].Call, p.calls[i].Mark, columns) }
	l.text = func(i int) string { return report.Row(&p.calls[i].Call, p.calls[i].Mark) }
	l.look = func(i int) report.Look {
		if p.calls[i].Call.Errno != "" && p.calls[i].Mark == (rules.Mark{}) {
			return report.LookFaint
		}
		return report.LookOf(p.calls[i].Mark)
	}
	if !l.end { // the cursor stays on its call, at its place of the screen
		at, _ := slices.BinarySearch(p.number, p.at)
		l.cursor, l.top = at, at-(l.cursor-l.top)
	}
	l.set(len(p.calls))
}

// call is a page about the call that the cursor is on.
func (p *page) call(m *Model) *page {
	at := p.pane().cursor
	if p.tabs() == nil || p.tab != tabCalls || p.record(m) == nil || at >= len(p.calls) {
		return nil
	}
	row := p.calls[at]
	return &page{pid: p.pid, title: p.title, only: &row}
}

func (p *page) view(m *Model) (title string, lines []string, keys string) {
	leave := "q back"
	if m.machine == nil && len(m.pages) == 0 {
		leave = "q quit"
	}
	title, keys = p.title, leave+"  ? help  / search"
	if p.pid != 0 {
		title += m.trace()
	}
	room := m.height - 2
	if p.tabs() != nil {
		room--
		var tabs, numbers []string
		for i, name := range p.tabs() {
			name = fmt.Sprintf("%d %s", i+1, name)
			number := name[:1]
			if i == p.tab {
				name = "[" + name + "]"
				number = name
			}
			tabs, numbers = append(tabs, name), append(numbers, number)
		}
		head := ""
		if p.tab == tabCalls && (p.marked || p.filter != "") {
			head += "  only:"
			if p.marked {
				head += " suspicious"
			}
			head += " " + p.filter
		}
		if l := p.pane(); l.n > room {
			head += fmt.Sprintf("  %d/%d", l.cursor+1, l.n)
		}
		lines = append(lines, m.Style.Line(report.LookHead, " "+fitting(m.width-1, strings.Join(tabs, "  ")+head, strings.Join(numbers, " ")+head, numbers[p.tab]+head), m.width))
		keys = leave + "  ? help  Tab next  / search"
		if p.tab == tabCalls {
			keys += "  Enter call  ! marked  \\ filter"
		}
		if m.Follow != nil {
			keys += "  t trace"
		}
	}
	return title, append(lines, p.pane().view(m.Style, m.width, room)...), keys
}

// helpText says what the keys do.
func helpText(w io.Writer, st report.Style) error {
	return report.Prose(w, `Keys, as in top and htop where they have them:

Up, Down, PgUp, PgDn, Home, End   move (also j, k, g, G)
Enter           open what the cursor is on: the evidence of a thread, a call
Esc             back
Tab, 1 to 5     evidence, waits, calls, descriptors, summary
t               attach to this debugger and follow its calls; again: end that
                (nothing is attached otherwise, and nothing is stopped)
!               of the calls, only the suspicious
/ n N           search; the next; the one before
\               only lines that have a text; an empty one shows all again
H               threads of a debugger that do the same: folded, or each
Z               pause, and go on
Space           look now
Ctrl-L          draw the screen anew
q               back; quit
Ctrl-C, F10     quit, from everywhere

A red line is a hang, or input that goes to the wrong reader; a yellow one
another finding. ">" is the cursor.
`, st)
}
