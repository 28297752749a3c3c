package report

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"

	"whosefd/analyze/rules"
	"whosefd/analyze/words"
	"whosefd/tracer/event"
)

// Text writes a diagnosis for a person: the verdict first, then who is who,
// the facts, the backtrace, the cause, and what to do.
func Text(w io.Writer, d *words.Diagnosis, st Style) error {
	return (&page{st: st}).write(w, d)
}

// CaseText is Text with the tables of descriptors in the pictures, and the calls
// around what was found.
func CaseText(w io.Writer, c *Case, st Style) error {
	return (&page{st: st, more: c}).write(w, c.Diagnosis)
}

func (p *page) write(w io.Writer, d *words.Diagnosis) error {
	p.verdict(d.Verdict, d.Summary)
	if d.Debugger != nil && d.Debugger.Plugin {
		p.line("")
		p.para("", Clean(string(d.Debugger.Comm))+" has whosefd's plug-in; \"info whosefd\" inside it shows which names that has led.")
	}
	for i := range d.Findings {
		p.finding(&d.Findings[i], i, d)
	}
	if len(d.Findings) == 0 && len(d.Chain) > 1 {
		p.head("Who waits for whom")
		p.chain(d.Chain)
	}
	p.items("Names that would lead to a wrong file", risks(d))
	for _, s := range d.Stack {
		p.stack(s, d)
	}
	p.remedies(remedies(d))
	p.items("What could not be seen", d.Missing)
	_, err := w.Write(p.buf.Bytes())
	return err
}

// Verdict writes the verdict alone, and an empty line.
func Verdict(w io.Writer, d *words.Diagnosis, st Style) error {
	p := &page{st: st}
	p.verdict(d.Verdict, d.Summary)
	p.line("")
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
	for _, l := range wrap(s, p.st.Width) {
		p.line(p.st.paint(bold, l))
	}
}

// para writes a clean text below an indent.
func (p *page) para(indent, s string) { p.hang(indent, indent, s) }

// items writes texts as a list below a head, if there are any.
func (p *page) items(head string, texts []event.Text) {
	for i, t := range texts {
		if i == 0 {
			p.head(head)
		}
		p.item("-", Clean(string(t)))
	}
}

// risks are their texts.
func risks(d *words.Diagnosis) []event.Text {
	texts := make([]event.Text, len(d.Risks))
	for i, r := range d.Risks {
		texts[i] = r.Text
	}
	return texts
}

// item writes a clean text behind a mark such as "-" or "3.".
func (p *page) item(mark, s string) {
	p.hang("  "+mark+" ", strings.Repeat(" ", width(mark)+3), s)
}

// hang writes a clean text behind what is first, and what is broken off below it, or, on
// a terminal with no room for that, behind a short indent.
func (p *page) hang(first, rest, s string) {
	const narrow, indent = 20, "    "
	if p.st.Width > 0 && p.st.Width-width(first) < narrow {
		rest = indent
		if mark := strings.TrimLeft(first, " "); mark != first {
			first = indent + mark
		} else {
			p.line(first)
			first = indent
		}
	}
	n := 0
	if p.st.Width > 0 {
		n = max(narrow, p.st.Width-width(first))
	}
	for i, l := range wrap(s, n) {
		if i == 0 {
			p.line(first + l)
		} else {
			p.line(rest + l)
		}
	}
}

// Hang writes clean lines behind what is first in each, broken at the width.
func Hang(w io.Writer, first, text string, st Style) error {
	p := &page{st: st}
	for line := range strings.SplitSeq(text, "\n") {
		p.hang(first, strings.Repeat(" ", width(first)), line)
	}
	_, err := p.buf.WriteTo(w)
	return err
}

// Prose writes clean lines, broken at the width; what is broken off stands below the
// line's first word, behind a number or time.
func Prose(w io.Writer, text string, st Style) error {
	p := &page{st: st}
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		first := line[:len(line)-len(strings.TrimLeft(line, " 0123456789.:"))]
		p.hang(first, strings.Repeat(" ", len(first)), line[len(first):])
	}
	_, err := p.buf.WriteTo(w)
	return err
}

// verdictColor is the color of a verdict.
func verdictColor(verdict string) string {
	switch verdict {
	case words.VerdictOK, words.VerdictBlocked:
		return green
	case string(rules.Hang), string(rules.StolenInput):
		return red
	}
	return yellow
}

func (p *page) verdict(verdict string, sentence event.Text) {
	n := 0
	if p.st.Width > 0 {
		n = max(20, p.st.Width)
	}
	for i, l := range wrap(verdict+": "+Clean(string(sentence)), n) {
		if _, rest, ok := strings.Cut(l, ":"); i == 0 && ok {
			l = p.st.paint(verdictColor(verdict), verdict+":") + rest
		}
		p.line(l)
	}
}

func (p *page) finding(f *words.Finding, i int, d *words.Diagnosis) {
	title := "Finding"
	if len(d.Findings) > 1 {
		title = fmt.Sprintf("Finding %d of %d", i+1, len(d.Findings))
	}
	p.head(fmt.Sprintf("%s: %s, %s (%s)", title, f.Rule, f.Effect, f.Confidence))
	p.line("")
	p.picture(f, d)
	p.line("")
	if p.more != nil && len(f.Chain) == 0 {
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
func person(d *words.Diagnosis, pid event.PID) string {
	comm := event.Text("")
	if d.Debugger != nil && d.Debugger.PID == pid {
		if comm = d.Debugger.Comm; pid == 0 && comm == "" {
			return "the debugger"
		}
	}
	for _, inf := range d.Inferiors {
		if inf.Core != nil && event.CorePID(inf.Core.ID) == pid {
			return Clean(inf.Name())
		}
		if inf.Core == nil && inf.PID == pid {
			comm = inf.Comm
		}
	}
	if pid == 0 && comm == "" {
		return "an inferior"
	}
	return Clean((&words.Process{PID: pid, Comm: comm}).Name())
}

// picture shows the name between the two processes, with an arrow to what was
// opened and one to what was meant.
func (p *page) picture(f *words.Finding, d *words.Diagnosis) {
	if len(f.Chain) > 0 {
		p.chain(f.Chain)
		return
	}
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
func (p *page) tables(f *words.Finding, d *words.Diagnosis) {
	s := newDiagram(f, d, p.more.Descriptors)
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
func (p *page) timeline(f *words.Finding) {
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
		p.line("  " + cutMiddle(pad(x, span)+y, p.st.Width-2))
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

func (p *page) stack(s words.Stack, d *words.Diagnosis) {
	p.head(stackTitle(&s, d))
	suspicious := map[event.Text]bool{}
	for _, f := range d.Findings {
		suspicious[f.Name] = true
	}
	for i := 0; i < len(s.Frames); i++ {
		f := s.Frames[i]
		if n := unknownFrames(s.Frames[i:]); n > 3 {
			p.para("  ", fmt.Sprintf("#%d–#%d ?? () from %s (%d frames)", i, i+n-1, Clean(string(f.Module)), n))
			i += n - 1
			continue
		}
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

// unknownFrames is how many frames at the beginning tell nothing but their module.
func unknownFrames(frames []event.Frame) int {
	for i, f := range frames {
		if f.Function != "" || f.File != "" || f.Module == "" || f.Module != frames[0].Module || len(f.Strings) > 0 {
			return i
		}
	}
	return len(frames)
}

func stackTitle(s *words.Stack, d *words.Diagnosis) string {
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
func (p *page) remedies(all []words.Remedy) {
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
func remedies(d *words.Diagnosis) []words.Remedy {
	seen := map[words.Remedy]bool{}
	var all []words.Remedy
	for _, f := range d.Findings {
		for _, r := range f.Remedies {
			key := words.Remedy{Kind: r.Kind, Command: r.Command}
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
