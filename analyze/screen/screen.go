// Package screen is the live view: a full screen of debuggers and what they wait for,
// and of the calls of a trace or a recording. It is a model as
// [charm.land/bubbletea/v2] wants one, and a pure function of the messages that it
// gets; what it shows of processes comes from who makes it, and is drawn by package
// report, which escapes it.
package screen

import (
	"fmt"
	"strings"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"

	"whosefd/analyze/report"
	"whosefd/analyze/rules"
	"whosefd/analyze/tables"
	"whosefd/analyze/words"
	"whosefd/tracer/event"
)

// Source is where the screen has it from.
type Source struct {
	// Look looks at the debuggers; it may take a while, and attaches to none. Nil for
	// a recording.
	Look func() ([]Debugger, error)
	// Follow attaches to a process and begins to trace its calls.
	Follow func(event.PID) *Record
	// FollowFirst, if set, is followed from the start.
	FollowFirst event.PID
	// Record is a recording, called Name.
	Record *Record
	Name   string

	Style report.Style // its width does not matter
	// Delay is the time from one look to the next.
	Delay time.Duration
}

// rows are the calls that are kept, each with its mark: what is suspicious about one
// may have come out later. Before them, cut older ones are not kept any more.
func (r *Record) rows() (rows []tables.CallRow, cut int64) {
	r.Lock()
	defer r.Unlock()
	rows, cut = r.Tables.Calls()
	found := r.Diagnose().Findings
	for i := range rows {
		if rows[i].Mark == (rules.Mark{}) && len(found) > 0 {
			rows[i].Mark = words.MarkOf(&rows[i].Call, found)
		}
	}
	return rows, cut
}

// Debugger is one of them at one look.
type Debugger struct {
	Row       words.PSRow
	Diagnosis *words.Diagnosis // nil where it could not be looked at
}

// Record is a trace, which goes on, or a recording. Whoever adds to it holds its lock.
type Record struct {
	sync.Mutex
	Tables   *tables.Tables
	Diagnose func() *words.Diagnosis
	// Stop ends a trace, and returns when nothing is attached any more.
	Stop func()
	// Over says that it has ended; Err why, if not as it should.
	Over bool
	Err  error
}

// Model is what is on the screen.
type Model struct {
	Source
	width, height int

	seen   []Debugger
	at     time.Time // of that
	failed error     // the last look
	looks  int       // how many were made
	paused bool

	machine *machine // the list of threads; nil for a recording
	page    *page    // of one debugger, over the list; of the recording
	pages   []*page  // below it: those that Esc leads back to

	record   *Record // the newest trace
	followed event.PID
	stopping bool
	next     event.PID // to be traced when the trace has ended

	asks   string // what is being typed is for: "/", "\", "t" or ""
	typed  string
	wanted event.PID // to be traced, if it is confirmed
	note   string
	leaves bool
}

// New makes a screen, before anything is seen.
func New(s Source) *Model {
	m := &Model{Source: s, width: 80, height: 24}
	if s.Look != nil {
		m.machine = &machine{}
	} else {
		m.record = s.Record
		m.page = m.newPage(0, s.Name)
		m.page.fill(m)
	}
	return m
}

// Found says whether the last look, or the trace, has findings.
func (m *Model) Found() bool {
	for i := range m.seen {
		if m.seen[i].Row.Rule != "" {
			return true
		}
	}
	if m.record == nil {
		return false
	}
	m.record.Lock()
	defer m.record.Unlock()
	return m.record.Diagnose().Found()
}

// Stop ends a trace that goes on, and returns when nothing is attached any more.
func (m *Model) Stop() {
	if m.machine != nil && m.record != nil {
		m.record.Stop()
	}
}

// Err is why the last look failed.
func (m *Model) Err() error { return m.failed }

// The messages.
type (
	lookMsg   struct{}
	lookedMsg struct {
		seen []Debugger
		err  error
		took time.Duration
		at   time.Time
		one  bool // asked for by a key
	}
	beatMsg    struct{} // a trace goes on
	stoppedMsg struct{}
)

// beat is how often a trace is shown anew.
const beat = 250 * time.Millisecond

// Init implements [tea.Model].
func (m *Model) Init() tea.Cmd {
	if m.Look == nil {
		return nil
	}
	cmds := []tea.Cmd{m.look(false)}
	if m.FollowFirst != 0 {
		cmds = append(cmds, m.follow(m.FollowFirst))
	}
	return tea.Batch(cmds...)
}

func (m *Model) look(one bool) tea.Cmd {
	look := m.Look
	return func() tea.Msg {
		begun := time.Now()
		seen, err := look()
		return lookedMsg{seen: seen, err: err, took: time.Since(begun), at: begun, one: one}
	}
}

// Update implements [tea.Model].
func (m *Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
		m.refill()
	case lookMsg:
		if m.paused {
			return m, m.later(0)
		}
		return m, m.look(false)
	case lookedMsg:
		m.looked(msg)
		if !msg.one {
			return m, m.later(msg.took)
		}
	case beatMsg:
		m.refill()
		if m.record != nil && !m.over() {
			return m, tea.Tick(beat, func(time.Time) tea.Msg { return beatMsg{} })
		}
	case stoppedMsg:
		m.stopping = false
		m.refill()
		if m.leaves {
			return m, tea.Quit
		}
		if m.next != 0 {
			return m, m.follow(m.next)
		}
	case tea.KeyPressMsg:
		m.note = ""
		if m.asks != "" {
			return m, m.type_(msg)
		}
		return m, m.key(msg.String())
	case tea.PasteMsg:
		if m.asks != "" {
			m.typed += report.Clean(msg.Content)
		}
	}
	return m, nil
}

// busy bounds what looking may cost: one part in so many of the time.
const busy = 10

func (m *Model) later(took time.Duration) tea.Cmd {
	return tea.Tick(max(m.Delay, busy*took), func(time.Time) tea.Msg { return lookMsg{} })
}

func (m *Model) looked(msg lookedMsg) {
	m.looks++
	if m.failed = msg.err; msg.err == nil {
		m.seen, m.at = msg.seen, msg.at
	}
	m.machine.fill(m)
	if m.page != nil {
		m.page.fill(m)
	}
}

func (m *Model) refill() {
	if m.machine != nil {
		m.machine.fill(m)
	}
	if m.page != nil {
		m.page.fill(m)
	}
}

func (m *Model) over() bool {
	m.record.Lock()
	defer m.record.Unlock()
	return m.record.Over
}

// follow begins to trace a process, and stops the trace of another.
func (m *Model) follow(pid event.PID) tea.Cmd {
	if m.stopping {
		m.next = pid
		return nil
	}
	if m.record != nil && !m.over() {
		m.stopping = true
		m.next = pid
		if pid == m.followed {
			m.next = 0
		}
		stop := m.record.Stop
		return func() tea.Msg { stop(); return stoppedMsg{} }
	}
	m.record, m.followed = m.Follow(pid), pid
	m.refill()
	return tea.Tick(beat, func(time.Time) tea.Msg { return beatMsg{} })
}

// quit ends a trace first.
func (m *Model) quit() tea.Cmd {
	if m.machine == nil || m.record == nil || m.over() {
		return tea.Quit
	}
	if m.leaves = true; m.stopping {
		return nil
	}
	m.stopping = true
	stop := m.record.Stop
	return func() tea.Msg { stop(); return stoppedMsg{} }
}

// key does what a key of top and htop does there.
func (m *Model) key(key string) tea.Cmd {
	pane := m.pane()
	switch key {
	case "ctrl+c", "f10", "Q":
		return m.quit()
	case "q":
		if len(m.pages) == 0 && (m.page == nil || m.machine == nil) {
			return m.quit()
		}
		m.back()
	case "esc", "left", "backspace":
		m.back()
	case "ctrl+z":
		if m.machine != nil && m.record != nil && !m.over() {
			m.note = "a trace goes on, whose process would stand still: t ends it"
			return nil
		}
		return tea.Suspend
	case "ctrl+l":
		return tea.ClearScreen
	case "h", "?", "f1":
		if m.page == nil || !m.page.help {
			m.open(m.helpPage())
		}
	case "up", "k", "ctrl+p":
		pane.move(-1)
	case "down", "j", "ctrl+n":
		pane.move(1)
	case "pgup", "ctrl+b":
		pane.move(-max(1, pane.height-1))
	case "pgdown", "ctrl+f":
		pane.move(max(1, pane.height-1))
	case "home", "g":
		pane.move(-pane.n)
	case "end", "G":
		pane.move(pane.n)
	case "/", "f3":
		m.asks, m.typed = "/", ""
	case `\`, "f4":
		m.asks, m.typed = `\`, ""
		if m.page != nil {
			m.typed = m.page.filter
		}
	case "n":
		m.search(1)
	case "N":
		m.search(-1)
	case "enter", "right", "f2":
		m.enter()
	case "t":
		switch pid := m.chosen(); {
		case m.Follow == nil:
			m.note = "a recording is not traced"
		case m.record != nil && pid == m.followed && !m.stopping && !m.over():
			return m.follow(pid)
		case pid != 0:
			m.asks, m.typed, m.wanted = "t", "", pid
		}
	case "H":
		if m.machine != nil && m.page == nil {
			m.machine.all = !m.machine.all
			m.machine.fill(m)
		}
	case "Z":
		if m.machine != nil {
			m.paused = !m.paused
		}
	case "space", "f5":
		if m.machine != nil {
			return m.look(true)
		}
	case "!":
		if m.page != nil {
			m.page.marked = !m.page.marked
			m.page.fill(m)
		}
	case "tab":
		m.turn(1)
	case "shift+tab":
		m.turn(-1)
	case "1", "2", "3", "4", "5":
		if m.page != nil && m.page.tabs() != nil {
			m.page.tab = int(key[0]-'1') % len(tabNames)
			m.page.fill(m)
		}
	}
	return nil
}

// type_ takes a key of what is searched for.
func (m *Model) type_(key tea.KeyPressMsg) tea.Cmd {
	switch k := key.String(); {
	case k == "ctrl+c":
		return m.quit()
	case m.asks == "t":
		if m.asks = ""; k == "y" || k == "Y" {
			return m.follow(m.wanted)
		}
	case k == "esc":
		m.asks = ""
	case k == "enter":
		if m.asks == "/" {
			if m.typed != "" {
				m.pane().wanted = m.typed
			}
			m.search(0)
		} else if m.page != nil {
			m.page.filter = m.typed
			m.page.fill(m)
		} else {
			m.machine.filter = m.typed
			m.machine.fill(m)
		}
		m.asks = ""
	case k == "backspace":
		if r := []rune(m.typed); len(r) > 0 {
			m.typed = string(r[:len(r)-1])
		}
	case k == "ctrl+u":
		m.typed = ""
	default:
		m.typed += report.Clean(key.Text)
	}
	return nil
}

func (m *Model) search(direction int) {
	if p := m.pane(); p.wanted != "" && !p.search(direction) {
		m.note = "not found: " + p.wanted
	}
}

// pane is what the arrows move in.
func (m *Model) pane() *pane {
	if m.page != nil {
		return m.page.pane()
	}
	return &m.machine.pane
}

func (m *Model) open(p *page) {
	if m.page != nil {
		m.pages = append(m.pages, m.page)
	}
	m.page = p
	p.fill(m)
}

func (m *Model) back() {
	switch n := len(m.pages); {
	case n > 0:
		m.page, m.pages = m.pages[n-1], m.pages[:n-1]
		m.page.fill(m)
	case m.machine != nil:
		m.page = nil
		m.machine.fill(m)
	}
}

// enter opens what the cursor is on.
func (m *Model) enter() {
	if m.page == nil {
		if r := m.machine.chosen(); r != nil {
			m.open(m.newPage(r.pid, r.who))
		}
	} else if p := m.page.call(m); p != nil {
		m.open(p)
	}
}

// chosen is the process that the cursor is on.
func (m *Model) chosen() event.PID {
	if m.page != nil {
		return m.page.pid
	}
	if r := m.machine.chosen(); r != nil {
		return r.pid
	}
	return 0
}

func (m *Model) turn(by int) {
	if m.page != nil && m.page.tabs() != nil {
		m.page.tab = (m.page.tab + by + len(tabNames)) % len(tabNames)
		m.page.fill(m)
	}
}

// debugger is one as it was last seen; nil if it is gone.
func (m *Model) debugger(pid event.PID) *Debugger {
	for i := range m.seen {
		if m.seen[i].Row.PID == pid {
			return &m.seen[i]
		}
	}
	return nil
}

// View implements [tea.Model].
func (m *Model) View() tea.View {
	v := tea.NewView(strings.Join(m.lines(), "\n"))
	v.AltScreen = true
	return v
}

// lines are those of the screen, as many as it is high.
func (m *Model) lines() []string {
	if m.width < 20 || m.height < 6 {
		return []string{m.Style.Line(report.LookPlain, "too small"[:min(9, m.width)], m.width)}
	}
	var title, keys string
	var body []string
	if m.page != nil {
		title, body, keys = m.page.view(m)
	} else {
		title, body, keys = m.machine.view(m)
	}
	lines := append([]string{m.Style.Line(report.LookChosen, " "+title, m.width)}, body...)
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	lines = lines[:m.height-1]
	switch {
	case m.asks == "t":
		keys = fmt.Sprintf("Attach to pid %d, and stop it for a moment at each call? [y/N]", m.wanted)
	case m.asks != "":
		keys = map[string]string{"/": "Search: ", `\`: "Only lines with: "}[m.asks] + m.typed + "_"
	case m.note != "":
		keys = m.note
	case m.stopping:
		keys = "ending the trace…"
	default:
		for i := strings.LastIndex(keys, "  "); i > 0 && report.Wide(keys) > m.width-2; i = strings.LastIndex(keys, "  ") {
			keys = keys[:i] // whole keys, the first of them
		}
	}
	bottom := report.Wrap(keys, m.width-2) // a question is to be read to its end
	bottom = bottom[max(0, len(bottom)-m.height/2):]
	lines = lines[:m.height-len(bottom)]
	for _, l := range bottom {
		lines = append(lines, m.Style.Line(report.LookFaint, " "+l, m.width-1))
	}
	return lines
}

// fitting is the first of the texts that fits in n columns, or the last.
func fitting(n int, texts ...string) string {
	for len(texts) > 1 && report.Wide(texts[0]) > n {
		texts = texts[1:]
	}
	return texts[0]
}

// trace says in the title what is followed.
func (m *Model) trace() string {
	if m.machine == nil || m.record == nil {
		return ""
	}
	m.record.Lock()
	defer m.record.Unlock()
	switch {
	case m.record.Err != nil:
		return "  trace: " + report.Clean(m.record.Err.Error())
	case m.record.Over:
		return fmt.Sprintf("  traced: %d", m.followed)
	}
	return fmt.Sprintf("  TRACES %d", m.followed)
}
