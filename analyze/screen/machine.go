package screen

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"whosefd/analyze/report"
	"whosefd/analyze/rules"
	"whosefd/analyze/tables"
	"whosefd/analyze/words"
	"whosefd/tracer/event"
)

// machine is the list of all threads of all debuggers, the suspicious first.
type machine struct {
	pane
	rows   []thread
	calls  []tables.CallRow // of the trace
	all    bool             // threads that wait for the same, each on a line of its own
	filter string
}

// thread is a line: a thread, and how many others of its debugger wait for the same.
type thread struct {
	pid   event.PID
	tid   event.TID
	who   string // the debugger
	name  string
	since string
	what  string
	ends  string
	mark  rules.Mark
	alike int
	first bool // of its debugger
	infs  string
}

// ordinary is what a debugger waits for when all is well.
var ordinary = map[rules.WaitFor]bool{"user": true, "inferior": true, "child": true, "thread": true, "timer": true, "signal": true}

// fill makes the lines of what was seen.
func (l *machine) fill(m *Model) {
	was := l.chosen()
	l.rows = l.rows[:0]
	seen := slices.Clone(m.seen)
	slices.SortStableFunc(seen, func(a, b Debugger) int {
		return cmp.Or(rank(&a)-rank(&b), cmp.Compare(a.Row.PID, b.Row.PID))
	})
	for i := range seen {
		l.add(&seen[i])
	}
	if l.filter != "" {
		l.rows = slices.DeleteFunc(l.rows, func(t thread) bool {
			return !strings.Contains(strings.ToLower(t.who+" "+t.infs+" "+t.line()), strings.ToLower(l.filter))
		})
	}
	l.text = func(i int) string { return l.rows[i].line() }
	l.look = func(i int) report.Look {
		if l.rows[i].mark == (rules.Mark{}) && !l.rows[i].first {
			return report.LookFaint
		}
		return report.LookOf(l.rows[i].mark)
	}
	if was != nil { // the cursor stays on its thread
		pid, tid := was.pid, was.tid
		if i := slices.IndexFunc(l.rows, func(t thread) bool { return t.pid == pid && t.tid == tid }); i >= 0 {
			l.cursor = i
		}
	}
	l.set(len(l.rows))
	l.calls = nil
	if m.record != nil {
		l.calls, _ = m.record.rows()
	}
}

// rank puts the suspicious first, then who waits for something out of the ordinary.
func rank(d *Debugger) int {
	switch {
	case d.Row.Effect == rules.Hang:
		return 0
	case d.Row.Rule != "":
		return 1
	case d.Diagnosis == nil:
		return 3
	}
	for i := range d.Diagnosis.Waits {
		if w := &d.Diagnosis.Waits[i]; w.PID == d.Row.PID && !ordinary[w.For] {
			return 2
		}
	}
	return 4
}

func (l *machine) add(d *Debugger) {
	r := &d.Row
	who := fmt.Sprintf("%s (pid %d)", report.Clean(string(r.Comm)), r.PID)
	infs := make([]string, len(r.Inferiors))
	for i := range r.Inferiors {
		infs[i] = report.Clean(r.Inferiors[i].Name())
	}
	base := thread{pid: r.PID, who: who, infs: strings.Join(infs, ", ")}
	if d.Diagnosis == nil {
		base.name, base.what, base.first = "?", report.Clean(string(r.Error)), true
		base.tid = event.TID(r.PID)
		l.rows = append(l.rows, base)
		return
	}
	var rows []thread
	for i := range r.Threads {
		t := &r.Threads[i]
		row := base
		row.tid, row.name, row.mark = t.TID, report.Clean(string(t.Comm)), rules.Mark{Rule: t.Rule, Effect: t.Effect}
		row.what = report.Clean(cmp.Or(string(t.Waits), strings.TrimSpace(t.State+" "+t.Syscall)))
		for k := range d.Diagnosis.Waits {
			if w := &d.Diagnosis.Waits[k]; w.PID == r.PID && w.TID == t.TID {
				row.since, row.ends = since(w), report.Clean(string(w.Ends))
				if t.Waits == "" {
					row.what = report.Clean(string(w.Text))
				}
			}
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		base.tid, base.name = event.TID(r.PID), report.Clean(string(r.Comm))
		rows = append(rows, base)
	}
	// A finding that no thread is stuck on stands in the debugger's first line.
	if r.Rule != "" && !slices.ContainsFunc(rows, func(t thread) bool { return t.mark.Rule != "" }) {
		rows[0].mark = rules.Mark{Rule: r.Rule, Effect: r.Effect}
	}
	slices.SortStableFunc(rows, func(a, b thread) int {
		return cmp.Or(order(a.mark.Rule == "", b.mark.Rule == ""), order(a.tid != event.TID(a.pid), b.tid != event.TID(b.pid)))
	})
	rows[0].first = true
	at := map[string]int{}
	for _, row := range rows {
		if i, again := at[row.name+row.what]; again && !l.all && row.mark == (rules.Mark{}) {
			l.rows[i].alike++
			continue
		}
		at[row.name+row.what] = len(l.rows)
		l.rows = append(l.rows, row)
	}
}

// order puts false before true.
func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// since is for how long a thread has waited, as top has times.
func since(w *words.Wait) string {
	us, known := w.SinceUS.Val, w.SinceUS.Known
	switch d := time.Duration(us) * time.Microsecond; {
	case !known:
		return ""
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d:%02dm", int(d.Minutes()), int(d.Seconds())%60)
	default:
		return fmt.Sprintf("%d:%02dh", int(d.Hours()), int(d.Minutes())%60)
	}
}

var columns = []int{-7, 15, -7}

func (t *thread) line() string {
	name := t.name
	if !t.first {
		name = "  " + name
	}
	if t.alike > 0 {
		name += fmt.Sprintf(" +%d", t.alike)
	}
	what := t.what
	if mark := report.MarkText(t.mark); mark != "" {
		what = strings.TrimSpace(mark + "  " + what)
	}
	return report.Columns([]string{strconv.Itoa(int(t.tid)), name, t.since, what}, columns)
}

func (l *machine) chosen() *thread {
	if l.cursor >= len(l.rows) {
		return nil
	}
	t := l.rows[l.cursor]
	return &t
}

func (l *machine) view(m *Model) (title string, lines []string, keys string) {
	hangs := 0
	for i := range m.seen {
		if m.seen[i].Row.Effect == rules.Hang {
			hangs++
		}
	}
	title, brief := fmt.Sprintf("whosefd top  %s  debuggers: %d  hang: %d", m.at.Format("15:04:05"), len(m.seen), hangs), fmt.Sprintf("hang: %d of %d", hangs, len(m.seen))
	if m.looks == 0 {
		title, brief = "whosefd top  looking…", "looking…"
	}
	more := ""
	if m.paused {
		more += "  PAUSED"
	}
	if l.filter != "" {
		more += "  only: " + l.filter
	}
	more += m.trace()
	if m.failed != nil {
		more += "  " + report.Clean(m.failed.Error())
	}
	title = fitting(m.width-1, title+more, brief+more)
	st := m.Style
	what := "WHAT IT DOES"
	if n := len(l.rows); n > l.pane.height && l.pane.height > 0 {
		what += fmt.Sprintf("  %d/%d", l.pane.cursor+1, n)
	}
	lines = append(lines, st.Line(report.LookHead, report.Columns([]string{" THREAD", " NAME", "FOR", what}, []int{-8, 15, -7}), m.width))
	detail := l.detail(m)
	room := m.height - 3 - len(detail)
	calls := 0
	if m.record != nil {
		calls = max(0, min(room-min(len(l.rows), room/2)-1, room*2/3))
	}
	if len(m.seen) == 0 && m.looks > 0 {
		lines = append(lines, "", st.Line(report.LookPlain, "  No debugger is running here that this user may look at.", m.width))
		lines = append(lines, make([]string, max(0, room-calls-3))...)
	} else {
		shown := l.pane.view(st, m.width, max(1, room-calls-order(calls > 0, false)))
		lines = append(lines, shown...)
		lines = append(lines, make([]string, max(0, room-calls-order(calls > 0, false)-len(shown)))...)
	}
	if calls > 0 {
		lines = append(lines, st.Line(report.LookHead, fmt.Sprintf("     SECONDS  THREAD  NEWEST CALLS of pid %d, the suspicious first", m.followed), m.width))
		for _, r := range newest(l.calls, calls) {
			lines = append(lines, " "+st.Line(report.LookOf(r.Mark), report.Fit(&r.Call, r.Mark, m.width-1), m.width-1))
		}
	}
	lines = append(lines, make([]string, max(0, m.height-2-len(detail)-len(lines)))...)
	lines = append(lines, detail...)
	return title, lines, "q quit  ? help  Enter evidence  t trace  / search  H threads  Z pause"
}

// newest are the last calls, before them those with a mark, as many as there is room for.
func newest(calls []tables.CallRow, room int) []tables.CallRow {
	var out []tables.CallRow
	for i := len(calls) - 1; i >= 0 && len(out) < room/2; i-- {
		if calls[i].Mark != (rules.Mark{}) {
			out = append(out, calls[i])
		}
	}
	for i := len(calls) - 1; i >= 0 && len(out) < room; i-- {
		if calls[i].Mark == (rules.Mark{}) {
			out = append(out, calls[i])
		}
	}
	return out
}

// detail says all of the thread that the cursor is on, which a line has no room for.
func (l *machine) detail(m *Model) []string {
	t := l.chosen()
	if t == nil || m.height < 14 {
		return nil
	}
	text := fmt.Sprintf("%s: %s", t.who, t.what)
	if t.tid != event.TID(t.pid) {
		text = fmt.Sprintf("thread %d of %s", t.tid, text)
	}
	if t.infs != "" {
		text += ". Inferiors: " + t.infs
	}
	if t.ends != "" {
		text += ". " + t.ends
	}
	lines := report.Wrap(text, m.width-2)
	if n := max(3, m.height/5); len(lines) > n {
		lines = lines[:n]
	}
	for i := range lines {
		lines[i] = m.Style.Line(report.LookPlain, " "+lines[i], m.width)
	}
	return append([]string{""}, lines...)
}
