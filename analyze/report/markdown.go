package report

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"

	"whosefd/analyze/words"
	"whosefd/tracer/event"
)

// Markdown writes a bug report that can be pasted into a tracker. Whatever a
// process wrote is in it as code, so that no tracker takes it for markup, a
// link, a mention or the number of an issue; where it is plain text, as in
// Bugzilla, it reads as well.
func Markdown(w io.Writer, c *Case) error {
	m := &markdown{c: c}
	d := c.Diagnosis
	m.line("**Verdict: %s.** %s", mdText(Clean(d.Verdict)), mdText(Clean(string(d.Summary))))
	m.environment()
	m.steps()
	for i := range d.Findings {
		m.finding(i)
	}
	if len(d.Findings) == 0 && len(d.Chain) > 1 {
		p := &page{}
		p.chain(d.Chain)
		m.head("Who waits for whom")
		m.code(unindent(p.buf.String()))
	}
	m.items("Names that would lead to a wrong file", risks(d))
	for i := range d.Stack {
		p := &page{}
		p.stack(d.Stack[i], d)
		title, rest, _ := strings.Cut(strings.TrimLeft(p.buf.String(), "\n"), "\n")
		m.head(title)
		m.code(unindent(rest))
	}
	if s := c.noStack(); s != "" {
		m.head("Backtrace")
		m.line("%s", mdText(s))
	}
	if rs := remedies(d); len(rs) > 0 {
		m.head("What helps")
		for _, r := range rs {
			if r.Command != "" {
				m.code(Clean(string(r.Command)))
			}
			m.line("%s\n", mdText(Clean(string(r.Text))))
		}
	}
	m.items("What could not be seen", d.Missing)
	m.line("")
	m.line("Written by %s. Files are compared by device and inode, never by name.", mdText(Clean(c.Tool)))
	_, err := w.Write(m.buf.Bytes())
	return err
}

type markdown struct {
	c   *Case
	buf bytes.Buffer
}

func (m *markdown) line(format string, args ...any) {
	m.buf.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), " ") + "\n")
}

// items writes texts as a list below a head, if there are any.
func (m *markdown) items(head string, texts []event.Text) {
	for i, t := range texts {
		if i == 0 {
			m.head(head)
		}
		m.line("- %s", mdText(Clean(string(t))))
	}
}

// head begins a section.
func (m *markdown) head(s string) { m.line("\n### %s\n", mdText(s)) }

// code writes a block of clean lines. Its fence is longer than any run of
// backticks in it (CommonMark 0.31, fenced code blocks).
func (m *markdown) code(s string) {
	fence := strings.Repeat("`", max(3, longestRun(s)+1))
	m.line("%stext\n%s\n%s", fence, strings.Trim(s, "\n"), fence)
}

// longestRun is the length of the longest run of backticks.
func longestRun(s string) int {
	longest, run := 0, 0
	for _, r := range s {
		if run++; r != '`' {
			run = 0
		}
		longest = max(longest, run)
	}
	return longest
}

// unindent takes the two blanks away that lines of text begin with.
func unindent(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], "  ")
	}
	return strings.Join(lines, "\n")
}

// plainWord is a word that means nothing to any flavor of markdown, with its
// punctuation: letters and digits, not at risk to become a list, a link or a
// reference.
var plainWord = lazy(`^[("]*[\pL\pN]+(?:['’-][\pL\pN]+)*(?:\([\pL]?\))?[)"]*[.,;:!?]?[)"]*$`)

// listMark is a word that begins a list at the start of a line.
var listMark = lazy(`^[0-9]+[.)]$`)

// lazy compiles a regular expression when it is first used.
func lazy(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// mdText makes a clean text inert, word by word: whatever is not plainly a word
// becomes code.
func mdText(s string) string {
	words := strings.Split(s, " ")
	for i, w := range words {
		if w == "" || plainWord().MatchString(w) && !(i == 0 && listMark().MatchString(w)) && !strings.Contains(w, "www.") {
			continue
		}
		// Punctuation behind it, and brackets around it, need not be code.
		core := strings.TrimRight(w, ".,;:")
		tail := w[len(core):]
		lead := ""
		if rest, ok := strings.CutPrefix(core, "("); ok && !strings.Contains(rest, "(") {
			lead, core = "(", rest
			if rest, ok := strings.CutSuffix(core, ")"); ok && !strings.Contains(rest, ")") {
				core, tail = rest, ")"+tail
			}
		} else if rest, ok := strings.CutSuffix(core, ")"); ok && !strings.ContainsAny(rest, "()") {
			core, tail = rest, ")"+tail
		}
		words[i] = lead + mdCode(core) + tail
	}
	return strings.Join(words, " ")
}

// mdCode is a text as inline code, within a fence that it does not hold.
func mdCode(s string) string {
	if s == "" {
		return ""
	}
	fence := strings.Repeat("`", longestRun(s)+1)
	if s[0] == '`' || s[len(s)-1] == '`' {
		s = " " + s + " "
	}
	return fence + s + fence
}

func (m *markdown) environment() {
	m.head("Environment")
	for _, f := range m.c.versions() {
		m.line("- %s: %s", f.Name, mdCode(f.Value))
	}
	m.line("- Debugger version: not in the evidence (please add what `--version` of the debugger says)")
}

func (m *markdown) steps() {
	m.head("Steps to reproduce")
	d, e := m.c.Diagnosis, m.c.Excerpt
	n := 0
	step := func(format string, args ...any) {
		n++
		m.line("%d. %s", n, fmt.Sprintf(format, args...))
	}
	for _, f := range d.Findings[:min(len(d.Findings), 1)] {
		owner := "A program"
		if f.Intended != nil {
			owner = mdText(person(d, f.Intended.PID))
		}
		step("%s loads a library by the name %s.", owner, mdCode(Clean(string(f.Name))))
	}
	if p := e.Session.Debugger; p != nil && len(p.Cmdline) > 0 {
		where := ""
		if p.Cwd != "" {
			where = ", in the directory " + mdCode(Clean(string(p.Cwd)))
		}
		step("The debugger is started as %s%s.", mdCode(Clean(words.CommandLine(p.Cmdline))), where)
	} else {
		step("A debugger looks at that program. How it was started is not in the evidence.")
	}
	step("What was typed into the debugger is not in the evidence (please add it).")
	if len(d.Findings) > 0 {
		step("%s", mdText(Clean(string(d.Summary))))
	}
}

func (m *markdown) finding(i int) {
	d := m.c.Diagnosis
	f := &d.Findings[i]
	title := "Finding"
	if len(d.Findings) > 1 {
		title = fmt.Sprintf("Finding %d of %d", i+1, len(d.Findings))
	}
	m.head(fmt.Sprintf("%s: %s, %s (%s)", title, Clean(string(f.Rule)), Clean(string(f.Effect)), Clean(string(f.Confidence))))
	p := &page{more: m.c}
	p.picture(f, d)
	if i < maxPictures && len(f.Chain) == 0 {
		p.line("")
		p.tables(f, d)
	}
	m.code(unindent(p.buf.String()))
	m.line("\n**Root cause.** %s", mdText(Clean(string(f.Cause))))
	m.line("\n**Evidence**\n")
	for n, e := range f.Evidence {
		m.line("%d. %s", n+1, mdText(Clean(string(e.Text))))
	}
	if i >= maxPictures || len(f.Chain) > 0 {
		return
	}
	if lines := timelineText(timeline(f, m.c.Excerpt.Calls(), m.c.Excerpt.Untimed())); len(lines) > 0 {
		m.line("\n**The calls around it**, counted from the opening on\n")
		m.code(strings.Join(lines, "\n"))
	}
}
