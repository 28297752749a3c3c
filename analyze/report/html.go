package report

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"strings"
	"sync"
	"time"

	"whosefd/analyze/tables"
	"whosefd/analyze/words"
	"whosefd/tracer/event"
)

// Case is all that a report is made of.
type Case struct {
	Diagnosis *words.Diagnosis
	Excerpt   *tables.Excerpt
	Tables    *tables.Tables
	// Descriptors says what is known of a process's descriptors.
	Descriptors func(event.PID) []event.Descriptor
	// Tool is who writes the report.
	Tool string
}

// The parts of a page. They have no texts of others in them.
var (
	//go:embed page/page.html
	pageHTML string
	//go:embed page/page.css
	pageCSS string
	//go:embed page/page.js
	pageJS string
)

// pageTemplate is parsed when it is first used, as regular expressions are, so
// that commands without it start sooner.
var pageTemplate = sync.OnceValue(func() *template.Template { return template.Must(template.New("page").Parse(pageHTML)) })

// maxPictures is how many findings of a page have a picture and a timeline: the
// worst ones.
const maxPictures = 16

// htmlPage is what the template gets. All its texts are clean; the template
// escapes them for where they stand.
type htmlPage struct {
	Policy    string
	CSS       template.CSS
	JS        template.JS
	Data      template.JS
	Title     string
	Verdict   string
	Summary   string
	Facts     []fact
	Chain     []htmlLink // who waits for whom, without a finding
	Findings  []htmlFinding
	Risks     []string
	Remedies  []htmlRemedy
	Stacks    []htmlStack
	Missing   []string
	Calls     string // how many there are, and how many are shown
	Excerpted string // what was left out
	HasCalls  bool
	NoCalls   string
	NoStack   string
	Versions  []fact
	Tool      string
}

// fact is a line of a list of facts.
type fact struct{ Name, Value string }

type htmlFinding struct {
	ID, Title, Rule, Effect, Confidence, Name string
	Chain                                     []htmlLink
	Pictures                                  []template.HTML
	Facts                                     []fact
	Evidence                                  []string
	Cause                                     string
	Timeline                                  []htmlMoment
	NoTimeline                                string
	Open                                      bool
}

type htmlLink struct{ Who, Does, Class string }

func htmlChain(links []words.Link) []htmlLink {
	var chain []htmlLink
	for _, l := range links {
		h := htmlLink{Who: Clean(string(l.Who)), Does: Clean(string(l.Does))}
		if l.Circle {
			h.Class = "circle"
		}
		chain = append(chain, h)
	}
	return chain
}

type htmlMoment struct {
	Skipped                                  int64
	Number                                   int64
	Since, Time, TID, Call, On, Result, Took string
	Role, Mark                               string
	Class                                    string
}

type htmlRemedy struct{ Command, Text string }

type htmlStack struct {
	Title, Error string
	Frames       []htmlFrame
}

type htmlFrame struct {
	Text  string
	Holds []string
}

// HTML writes the report as one page that needs nothing else. No text of a
// process is in it but cleaned, and escaped for its place; the policy of the
// page allows its own style and script, and nothing else.
func HTML(w io.Writer, c *Case) error {
	calls := c.Excerpt.Calls()
	data, err := pageData(c, calls)
	if err != nil {
		return err
	}
	d := c.Diagnosis
	p := &htmlPage{
		Policy: fmt.Sprintf("default-src 'none'; style-src '%s'; script-src '%s'; base-uri 'none'; form-action 'none'", sourceHash(pageCSS), sourceHash(pageJS)),
		CSS:    template.CSS(pageCSS), JS: template.JS(pageJS), Data: template.JS(data),
		Title:   "whosefd: " + Clean(d.Verdict),
		Verdict: Clean(d.Verdict), Summary: Clean(string(d.Summary)),
		Facts: c.facts(), Versions: c.versions(), Tool: Clean(c.Tool),
		HasCalls: len(calls) > 0, NoCalls: c.noCalls(), Excerpted: c.leftOut(len(calls)),
		NoStack: c.noStack(), Missing: clean(d.Missing),
	}
	if d.Debugger != nil && d.Debugger.Comm != "" {
		p.Title += ": " + Clean(string(d.Debugger.Comm))
	}
	for i := range d.Findings {
		p.Findings = append(p.Findings, c.htmlFinding(i, calls))
	}
	if len(d.Findings) == 0 && len(d.Chain) > 1 {
		p.Chain = htmlChain(d.Chain)
	}
	p.Risks = clean(risks(d))
	for _, r := range remedies(d) {
		p.Remedies = append(p.Remedies, htmlRemedy{Clean(string(r.Command)), Clean(string(r.Text))})
	}
	for _, s := range d.Stack {
		p.Stacks = append(p.Stacks, c.htmlStack(&s))
	}
	if err := pageTemplate().Execute(w, p); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}

// sourceHash is how a content security policy names an inline element (CSP
// level 3, hash-source).
func sourceHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

func clean[T ~string](texts []T) []string {
	out := make([]string, len(texts))
	for i, t := range texts {
		out[i] = Clean(string(t))
	}
	return out
}

// facts say who is who, and what is the matter.
func (c *Case) facts() []fact {
	d := c.Diagnosis
	var fs []fact
	add := func(name, value string) {
		if value != "" {
			fs = append(fs, fact{name, value})
		}
	}
	if g := d.Debugger; g != nil {
		who := person(d, g.PID)
		if g.Exe != "" {
			who += ", " + Clean(string(g.Exe))
		}
		add("Debugger", who)
		add("State", debuggerState(g))
	}
	for i, inf := range d.Inferiors {
		if i == 8 {
			add("", fmt.Sprintf("and %d more", len(d.Inferiors)-i))
			break
		}
		who := Clean(inf.Name())
		if inf.Exe != "" {
			who += ", " + Clean(string(inf.Exe))
		}
		add("Inferior", who)
	}
	return fs
}

func debuggerState(g *words.Debugger) string {
	s := Clean(g.State)
	if g.State == "blocked" && g.Syscall != "" {
		s = "blocked in " + Clean(g.Syscall)
		if g.FD.Known {
			s += fmt.Sprintf(" on descriptor %d", g.FD.Val)
		}
	}
	if g.Waits != "" {
		s += "; " + Clean(string(g.Waits))
	}
	return s
}

// versions say what ran where, as far as the evidence has it.
func (c *Case) versions() []fact {
	s := &c.Excerpt.Session
	var fs []fact
	add := func(name, value string) {
		if value != "" {
			fs = append(fs, fact{name, Clean(value)})
		}
	}
	if s.Kernel != "" {
		add("Kernel", "Linux "+s.Kernel)
	}
	add("Architecture", s.Arch)
	if p := s.Debugger; p != nil {
		add("Debugger", string(p.Exe))
		add("Command line", words.CommandLine(p.Cmdline))
	}
	for i, p := range c.Excerpt.Inferiors() {
		if i == 8 {
			break
		}
		add("Inferior", string(p.Exe))
		add("Command line", words.CommandLine(p.Cmdline))
	}
	if !s.Start.IsZero() {
		add("Observed", s.Start.UTC().Format(time.RFC3339))
	}
	evidence := s.Source
	if s.Source == "trace" && c.Excerpt.End != nil {
		evidence += fmt.Sprintf(", %s s, ended: %s", c.Excerpt.End.T, c.Excerpt.End.Reason)
	}
	add("Evidence", evidence)
	add("Recorded by", s.Tool)
	return fs
}

func (c *Case) htmlFinding(i int, calls []*tables.ExcerptRow) htmlFinding {
	d := c.Diagnosis
	f := &d.Findings[i]
	h := htmlFinding{
		ID: fmt.Sprintf("finding-%d", i+1), Title: "Finding", Rule: Clean(string(f.Rule)), Effect: Clean(string(f.Effect)),
		Confidence: Clean(string(f.Confidence)), Name: Clean(string(f.Name)), Cause: Clean(string(f.Cause)), Open: i < 3,
	}
	if len(d.Findings) > 1 {
		h.Title = fmt.Sprintf("Finding %d of %d", i+1, len(d.Findings))
	}
	for _, e := range f.Evidence {
		h.Evidence = append(h.Evidence, Clean(string(e.Text)))
	}
	if len(f.Chain) > 0 {
		h.Chain = htmlChain(f.Chain)
		h.NoTimeline = "The calls before it do not matter for a wait."
		return h
	}
	pic := newPicture(f, d)
	for _, s := range []side{pic.opened, pic.meant} {
		verb, file, _ := strings.Cut(s.target, ": ")
		h.Facts = append(h.Facts, fact{verb, strings.Join(append([]string{file}, s.details...), "; ")})
	}
	if i >= maxPictures {
		h.NoTimeline = fmt.Sprintf("Pictures and timelines are shown for the first %d findings.", maxPictures)
		return h
	}
	s := newDiagram(f, d, c.Descriptors)
	h.Pictures = []template.HTML{s.svg(wideSheet, h.ID+"-w"), s.svg(slimSheet, h.ID+"-s")}
	for _, m := range timeline(f, calls, c.Excerpt.Untimed()) {
		class := map[string]string{"reads the name": "name", "opens it": "open", "reads it": "read", "hangs here": "hang"}[m.role]
		h.Timeline = append(h.Timeline, htmlMoment{m.skipped, m.number, m.since, m.time, m.tid, m.call, m.on, m.result, m.took, m.role, m.mark, class})
	}
	if len(h.Timeline) == 0 {
		h.NoTimeline = c.noCalls()
		if h.NoTimeline == "" {
			h.NoTimeline = "The call that opened this file is not among the calls that were kept."
		}
	}
	return h
}

func (c *Case) htmlStack(s *words.Stack) htmlStack {
	h := htmlStack{Title: stackTitle(s, c.Diagnosis), Error: Clean(s.Error)}
	for _, f := range s.Frames {
		hf := htmlFrame{Text: frame(&f)}
		for _, str := range f.Strings {
			hf.Holds = append(hf.Holds, holds(&str))
		}
		h.Frames = append(h.Frames, hf)
	}
	return h
}

// noCalls says why there are no calls, and how to get them.
func (c *Case) noCalls() string {
	switch {
	case len(c.Excerpt.Calls()) > 0:
		return ""
	case c.Excerpt.Total > 0 && c.Excerpt.Chosen() == 0:
		return fmt.Sprintf("None of the %d calls is one that was asked for.", c.Excerpt.Total)
	case c.Excerpt.Total > 0:
		return fmt.Sprintf("None of the %d calls was to be kept.", c.Excerpt.Total)
	case c.Excerpt.Session.Source == "snapshot":
		return "A look at a running debugger has no calls in it. To have them, record the debugger from its start (whosefd trace -o FILE -- gdb …) and report on that file."
	}
	return "The evidence has no calls."
}

// noStack says why there is no backtrace, and how to get one.
func (c *Case) noStack() string {
	if len(c.Diagnosis.Stack) > 0 {
		return ""
	}
	return "The evidence has no backtrace. whosefd report PID takes one while the debugger runs."
}

// leftOut says how many calls are not shown.
func (c *Case) leftOut(shown int) string {
	if chosen := c.Excerpt.Chosen(); chosen < c.Excerpt.Total && chosen == int64(shown) {
		return fmt.Sprintf("%d of %d calls are shown: those that were asked for.", shown, c.Excerpt.Total)
	}
	if left := c.Excerpt.Total - int64(shown); left > 0 {
		return fmt.Sprintf("%d of %d calls are shown: the first, the last, and those around what is suspicious. %d were left out; whosefd table shows them.",
			shown, c.Excerpt.Total, left)
	}
	return ""
}
