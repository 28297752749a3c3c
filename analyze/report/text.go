package report

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"

	"whosefd/analyze"
	"whosefd/tracer/event"
)

// Text writes a diagnosis for a person: the verdict first, then who is who,
// the facts, the backtrace, the cause, and what to do.
func Text(w io.Writer, d *analyze.Diagnosis, st Style) error {
	return (&page{st: st}).write(w, d)
}

// CaseText is Text with the tables of descriptors in the pictures, and the calls
// around what was found.
func CaseText(w io.Writer, c *Case, st Style) error {
	return (&page{st: st, more: c}).write(w, c.Diagnosis)
}

func (p *page) write(w io.Writer, d *analyze.Diagnosis) error {
	p.verdict(d)
	for i := range d.Findings {
		p.finding(&d.Findings[i], i, d)
	}
	if len(d.Risks) > 0 {
		p.head("Names that would lead to a wrong file")
		for _, r := range d.Risks {
			p.item("-", Clean(string(r.Text)))
		}
	}
	for _, s := range d.Stack {
		p.stack(s, d)
	}
	p.remedies(remedies(d))
	if len(d.Missing) > 0 {
		p.head("What could not be seen")
		for _, m := range d.Missing {
			p.item("-", Clean(string(m)))
		}
	}
	_, err := w.Write(p.buf.Bytes())
	return err
}

// page collects lines.
type page struct {
	st   Style
	more *Case // nil for the diagnosis alone
	buf  bytes.Buffer
}

func (p *page) line(s string) {
	p.buf.WriteString(strings.TrimRight(s, " "))
	p.buf.WriteByte('\n')
}

func (p *page) head(s string) {
	p.line("")
	p.line(p.st.paint(bold, s))
}

// para writes a clean text below an indent.
func (p *page) para(indent, s string) { p.hang(indent, indent, s) }

// item writes a clean text behind a mark such as "-" or "3.".
func (p *page) item(mark, s string) {
	p.hang("  "+mark+" ", strings.Repeat(" ", width(mark)+3), s)
}

func (p *page) hang(first, rest, s string) {
	n := 0
	if p.st.Width > 0 {
		n = max(20, p.st.Width-width(first))
	}
	for i, l := range wrap(s, n) {
		if i == 0 {
			p.line(first + l)
		} else {
			p.line(rest + l)
		}
	}
}

// verdictColor is the color of a verdict.
func verdictColor(verdict string) string {
	switch verdict {
	case analyze.VerdictOK, analyze.VerdictBlocked:
		return green
	case string(analyze.Hang), string(analyze.StolenInput):
		return red
	}
	return yellow
}

func (p *page) verdict(d *analyze.Diagnosis) { p.verdictLine(d.Verdict, string(d.Summary)) }

func (p *page) verdictLine(verdict, sentence string) {
	n := 0
	if p.st.Width > 0 {
		n = max(20, p.st.Width)
	}
	for i, l := range wrap(verdict+": "+Clean(sentence), n) {
		if _, rest, ok := strings.Cut(l, ":"); i == 0 && ok {
			l = p.st.paint(verdictColor(verdict), verdict+":") + rest
		}
		p.line(l)
	}
}

func (p *page) finding(f *analyze.Finding, i int, d *analyze.Diagnosis) {
	title := "Finding"
	if len(d.Findings) > 1 {
		title = fmt.Sprintf("Finding %d of %d", i+1, len(d.Findings))
	}
	p.head(fmt.Sprintf("%s: %s, %s (%s)", title, f.Rule, f.Effect, f.Confidence))
	p.line("")
	p.picture(f, d)
	p.line("")
	if p.more != nil {
		p.tables(f, d)
		p.timeline(f)
	}
	p.line("  Evidence")
	for n, e := range f.Evidence {
		p.item(strconv.Itoa(n+1)+".", Clean(string(e.Text)))
	}
	p.line("")
	p.line("  Root cause")
	p.para("  ", Clean(string(f.Cause)))
}

// person names a process of the diagnosis.
func person(d *analyze.Diagnosis, pid event.PID) string {
	comm := event.Text("")
	if d.Debugger != nil && d.Debugger.PID == pid {
		if comm = d.Debugger.Comm; pid == 0 && comm == "" {
			return "the debugger"
		}
	}
	for _, inf := range d.Inferiors {
		if inf.PID == pid {
			comm = inf.Comm
		}
	}
	switch {
	case pid == 0 && comm == "":
		return "an inferior"
	case pid == 0:
		return Clean(string(comm))
	case comm == "":
		return fmt.Sprintf("pid %d", pid)
	}
	return fmt.Sprintf("%s (pid %d)", Clean(string(comm)), pid)
}

// picture shows the name between the two processes, with an arrow to what was
// opened and one to what was meant.
func (p *page) picture(f *analyze.Finding, d *analyze.Diagnosis) {
	pic := newPicture(f, d)
	name := pic.name
	left, got := []string{pic.opened.who}, pic.opened.lines()
	right, meant := []string{pic.meant.who}, pic.meant.lines()
	const gap = 4
	wl, wr := widest(left, got), widest(right, meant)
	if p.st.Width > 0 && 4+wl+gap+wr > p.st.Width {
		p.para("  ", name)
		for i, side := range [][]string{append(left, got...), append(right, meant...)} {
			first, rest := "  |-- ", "  |     "
			if i == 1 {
				first, rest = "  `-- ", "        "
			}
			for _, l := range side {
				p.hang(first, rest, l)
				first = rest
			}
		}
		return
	}
	// The name above, its two arrows starting where the columns do.
	span := wl + gap
	stem := "  " + pad("  |", span) + "  |"
	p.line("  " + pad("", max(0, (span+4-width(name))/2)) + p.st.paint(bold, name))
	p.line("  " + "  +" + strings.Repeat("-", span-1) + "+")
	p.line(stem)
	p.columns(left, right, span)
	p.line(stem)
	p.line("  " + pad("  v", span) + "  v")
	p.columns(got, meant, span)
}

// tables shows the descriptors of the two processes, below the picture.
func (p *page) tables(f *analyze.Finding, d *analyze.Diagnosis) {
	s := newScenery(f, d, p.more.Descriptors)
	left, right := s.left.lines(), s.right.lines()
	if wl := widest(left); p.st.Width == 0 || 2+wl+4+widest(right) <= p.st.Width {
		p.columns(left, right, wl+4)
	} else {
		p.columns(left, nil, 0)
		p.line("")
		p.columns(right, nil, 0)
	}
	p.line("")
}

// timeline shows the calls around the opening of the file.
func (p *page) timeline(f *analyze.Finding) {
	lines := timelineText(timeline(f, p.more.Excerpt.Calls(), p.more.Excerpt.Untimed()))
	if len(lines) == 0 {
		return
	}
	p.line("  The calls around it, counted from the opening on")
	for _, l := range lines {
		if p.st.Width > 0 {
			l = cut(l, p.st.Width-2)
		}
		p.line("  " + l)
	}
	p.line("")
}

func (p *page) columns(l, r []string, span int) {
	for i := range max(len(l), len(r)) {
		var x, y string
		if i < len(l) {
			x = l[i]
		}
		if i < len(r) {
			y = r[i]
		}
		p.line("  " + pad(x, span) + y)
	}
}

func widest(blocks ...[]string) int {
	n := 0
	for _, b := range blocks {
		for _, l := range b {
			n = max(n, width(l))
		}
	}
	return n
}

// fds names descriptors: "descriptor 3", "descriptors 3, 4".
func fds(list []event.FD) string {
	words := make([]string, len(list))
	for i, fd := range list {
		words[i] = strconv.Itoa(int(fd))
	}
	if len(list) == 1 {
		return "descriptor " + words[0]
	}
	return "descriptors " + strings.Join(words, ", ")
}

// target names a file: its link, else what is known of it.
func target(t *event.Target) string {
	switch {
	case t == nil:
		return ""
	case t.Link != "":
		return Clean(string(t.Link))
	case t.Error != "":
		return "nothing (" + Clean(t.Error) + ")"
	case t.Dev != 0 || t.Ino != 0:
		return fmt.Sprintf("%s, device %d, inode %d", Clean(string(t.Kind)), t.Dev, t.Ino)
	}
	return Clean(string(t.Kind))
}

func (p *page) stack(s analyze.Stack, d *analyze.Diagnosis) {
	p.head(stackTitle(&s, d))
	suspicious := map[event.Text]bool{}
	for _, f := range d.Findings {
		suspicious[f.Name] = true
	}
	for i, f := range s.Frames {
		number := pad(fmt.Sprintf("#%d", i), 4)
		p.hang("  "+number, "          ", frame(&f))
		for _, str := range f.Strings {
			text := holds(&str)
			if suspicious[str.Text] && p.st.Width == 0 {
				text = p.st.paint(yellow, text)
			}
			p.hang("        ^ ", "          ", text)
		}
	}
	if s.Error != "" {
		p.para("  ", "The backtrace ends here: "+Clean(s.Error))
	}
}

func stackTitle(s *analyze.Stack, d *analyze.Diagnosis) string {
	who := "the debugger"
	if d.Debugger != nil && d.Debugger.Comm != "" {
		who = Clean(string(d.Debugger.Comm))
	}
	stopped := ""
	if s.StoppedUS > 0 {
		stopped = fmt.Sprintf(" (stopped for %s to read it)", duration(s.StoppedUS))
	}
	if s.Call != "" {
		stopped = fmt.Sprintf(", in the call before the present one, %s", Clean(s.Call))
	}
	if s.TID > 0 {
		who = fmt.Sprintf("thread %d of %s", s.TID, who)
	}
	return fmt.Sprintf("Backtrace of %s%s", who, stopped)
}

// holds says which name a frame has on its part of the stack.
func holds(s *event.FrameString) string {
	return fmt.Sprintf("holds %s (at %s, on the stack at %s)", Clean(string(s.Text)), s.Addr, s.Slot)
}

// frame is a frame as gdb shows it: 0x… in function () at file:line, or from
// module+offset.
func frame(f *event.Frame) string {
	s := ""
	if f.PC != 0 { // a strace log does not tell it
		s = f.PC.String() + " in "
	}
	if f.Function != "" {
		s += Clean(f.Function)
		if !strings.HasSuffix(f.Function, ")") {
			s += " ()"
		}
	} else {
		s += "?? ()"
	}
	if f.Inlined {
		s += " (inlined)"
	}
	switch {
	case f.File != "" && f.Line > 0:
		s += fmt.Sprintf(" at %s:%d", Clean(f.File), f.Line)
	case f.File != "":
		s += " at " + Clean(f.File)
	case f.Module != "":
		s += " from " + Clean(string(f.Module))
		if f.Offset != 0 {
			s += "+" + f.Offset.String()
		}
	}
	return s
}

// remedies writes what can be done, commands alone on their lines.
func (p *page) remedies(all []analyze.Remedy) {
	for i, r := range all {
		if i == 0 {
			p.head("What to do")
		}
		if r.Command == "" {
			p.item("-", Clean(string(r.Text)))
			continue
		}
		// Not wrapped: it is to be copied.
		p.line("  - " + p.st.paint(bold, Clean(string(r.Command))))
		p.para("    ", Clean(string(r.Text)))
	}
}

// remedies gives what can be done about all findings, each remedy once.
func remedies(d *analyze.Diagnosis) []analyze.Remedy {
	seen := map[analyze.Remedy]bool{}
	var all []analyze.Remedy
	for _, f := range d.Findings {
		for _, r := range f.Remedies {
			key := analyze.Remedy{Kind: r.Kind, Command: r.Command}
			if r.Command == "" {
				key.Text = r.Text
			}
			if !seen[key] {
				seen[key] = true
				all = append(all, r)
			}
		}
	}
	return all
}

// duration is a time in microseconds in words.
func duration(us int64) string {
	switch {
	case us < 1000:
		return fmt.Sprintf("%d µs", us)
	case us < 1e6:
		return fmt.Sprintf("%.1f ms", float64(us)/1e3)
	}
	return fmt.Sprintf("%.3f s", float64(us)/1e6)
}
