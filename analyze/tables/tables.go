// Package tables makes tables from evidence: the calls, their summary by name, the
// descriptors, and the excerpt that a report shows. What it knows of descriptors
// is the state's.
package tables

import (
	"cmp"
	"slices"
	"strings"

	"whosefd/analyze/rules"
	"whosefd/analyze/state"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

const (
	// DefaultRows is how many calls and closed descriptors are kept, the latest
	// ones, unless the filter says otherwise.
	DefaultRows = 1000
	// maxCallNames bounds the summary; no kernel has so many calls.
	maxCallNames = 1024
)

// CallRow is a row of the table of calls. Where Count is above 1 it stands for that many
// calls: the time is that of the first, the duration their sum.
type CallRow struct {
	Call  event.Syscall
	Mark  rules.Mark
	Count int64
}

// foldWithin is among how many rows before it one may be alike.
const foldWithin = 16

// Alike says whether two calls differ in nothing but their times. One that has not ended
// is like no other.
func Alike(x, y *event.Syscall) bool {
	return x.Name == y.Name && x.TID == y.TID && x.PID == y.PID && x.Path == y.Path && x.FD == y.FD && x.DirFD == y.DirFD && x.NewFD == y.NewFD &&
		x.FirstFD == y.FirstFD && x.LastFD == y.LastFD && x.Ret == y.Ret && x.Errno == y.Errno && x.Flags == y.Flags && x.Mode == y.Mode &&
		x.Count == y.Count && x.Offset == y.Offset && x.OfPID == y.OfPID && x.Resumed == y.Resumed && !x.Unfinished && !y.Unfinished &&
		x.Rewritten == nil && y.Rewritten == nil && sameTarget(x.Target, y.Target) && slices.Equal(x.Counterpart, y.Counterpart)
}

func sameTarget(x, y *event.Target) bool {
	return x == y || x != nil && y != nil && *x == *y
}

// SummaryRow is a row of the summary by call. Times are in microseconds.
type SummaryRow struct {
	Name       string `json:"name"`
	Calls      int64  `json:"calls"`
	Errors     int64  `json:"errors"`
	Unfinished int64  `json:"unfinished,omitempty"`
	TotalUS    int64  `json:"total_us"`
	MaxUS      int64  `json:"max_us"`
}

// Whose says to whom the file of a descriptor belongs.
type Whose string

// The owners.
const (
	WhoseUnknown  Whose = ""
	WhoseDebugger Whose = "debugger" // the debugger's own
	WhoseInferior Whose = "inferior" // a file of the inferior, that the debugger opened
	WhoseBoth     Whose = "both"     // both have it, and the debugger had it from the start
)

// FDRow is a row of the table by descriptor. Where Count is above 1 it stands for that
// many closed ones, and has only their sums.
type FDRow struct {
	state.Descriptor
	Count int64 `json:"count,omitempty"`
	// Waiting: a read of it has not ended.
	Waiting bool         `json:"waiting,omitempty"`
	Whose   Whose        `json:"whose,omitempty"`
	Rule    rules.Rule   `json:"rule,omitempty"`
	Effect  rules.Effect `json:"effect,omitempty"`
}

// Tables gathers tables from evidence, in bounded memory.
type Tables struct {
	state  *state.State
	filter Filter

	calls []CallRow // a ring when full, oldest at next
	next  int
	cut   int64

	seen, chosen int64

	summary  map[string]*SummaryRow
	counted  map[event.TID]string // calls that have not ended, by name, and are in the summary
	unsummed int64                // calls beyond maxCallNames

	closed    []*state.Descriptor
	maxClosed int                // how many are kept one by one
	older     FDRow              // the sum of closed ones that were merged
	marks     map[key]rules.Mark // of open descriptors
	ended     map[*state.Descriptor]rules.Mark
}

type key struct {
	pid event.PID
	fd  event.FD
}

// New gathers what the filter lets through, beside a state that takes the same
// events. The table by descriptor still knows of each open and close.
func New(s *state.State, f Filter) *Tables {
	maxClosed := cmp.Or(f.Closed, max(f.Rows, 0), DefaultRows)
	if f.Rows == 0 {
		f.Rows = DefaultRows
	}
	f.Rows = max(f.Rows, 0)
	t := &Tables{state: s, filter: f, maxClosed: maxClosed, summary: map[string]*SummaryRow{}, counted: map[event.TID]string{},
		marks: map[key]rules.Mark{}, ended: map[*state.Descriptor]rules.Mark{}}
	s.OnClose = t.onClose
	return t
}

// Add takes the next event, which the state has taken, with its mark.
func (t *Tables) Add(e event.Event, mark rules.Mark) {
	ev, ok := e.(*event.Syscall)
	if !ok {
		return
	}
	before, counted := t.counted[ev.TID]
	completes := counted && state.Completes(before, ev)
	if counted {
		delete(t.counted, ev.TID)
	}
	chosen := t.filter.Match(ev, mark)
	t.seen++
	if chosen {
		t.chosen++
	}
	if chosen || completes {
		t.count(ev, completes)
		t.keep(ev, mark)
	}
	if ev.Unfinished && chosen && len(t.counted) < state.MaxThreads {
		t.counted[ev.TID] = ev.Name
	}
	if edit := decode.EditOf(ev); edit.Made.Known {
		if edit.From.Known && mark == (rules.Mark{}) {
			mark = t.marks[key{ev.PID, edit.From.Val}]
		}
		if mark != (rules.Mark{}) {
			t.marks[key{ev.PID, edit.Made.Val}] = mark
		}
	}
}

// count adds a call to the summary; completes says that it is the end of one
// that was counted already.
func (t *Tables) count(ev *event.Syscall, completes bool) {
	row := t.row(ev.Name)
	if row == nil {
		t.unsummed++
		return
	}
	if completes {
		row.Unfinished--
	} else {
		row.Calls++
	}
	if ev.Unfinished {
		row.Unfinished++
		return
	}
	if ev.Errno != "" {
		row.Errors++
	}
	if us := ev.DurUS.Or(0); us > 0 {
		row.TotalUS += us
		row.MaxUS = max(row.MaxUS, us)
	}
}

// row gives that of a call in the summary; nil where there is no room.
func (t *Tables) row(name string) *SummaryRow {
	row := t.summary[name]
	if row == nil && len(t.summary) < maxCallNames {
		row = &SummaryRow{Name: name}
		t.summary[name] = row
	}
	return row
}

// AddCounted adds calls to the summary of which nothing but their number is
// known. A filter does not choose them.
func (t *Tables) AddCounted(c SummaryRow) {
	if f := &t.filter; f.Findings || f.Failed || f.Expr != nil || len(f.Calls)+len(f.Paths)+len(f.FDs)+len(f.TIDs) > 0 {
		return
	}
	row := t.row(c.Name)
	if row == nil {
		t.unsummed += c.Calls
		return
	}
	row.Calls += c.Calls
	row.Errors += c.Errors
	row.TotalUS += c.TotalUS
	row.MaxUS = max(row.MaxUS, c.MaxUS)
}

func (t *Tables) keep(ev *event.Syscall, mark rules.Mark) {
	if t.filter.Each != nil {
		t.filter.Each(ev, mark)
		return
	}
	if t.fold(ev, mark) {
		return
	}
	i := t.next
	switch {
	case t.filter.Rows == 0:
		t.cut++
		return
	case len(t.calls) < t.filter.Rows:
		i = len(t.calls)
		t.calls = append(t.calls, CallRow{})
	default:
		t.next = (t.next + 1) % len(t.calls)
		t.cut += t.calls[i].Count
	}
	t.calls[i] = CallRow{Call: *ev, Mark: mark, Count: 1}.Clone()
}

// Clone copies what belongs to the event, which is valid for a moment only; bytes that
// were read are left out.
func (r CallRow) Clone() CallRow {
	r.Call.Target, r.Call.Counterpart, r.Call.Data = state.CloneTarget(r.Call.Target), slices.Clone(r.Call.Counterpart), nil
	return r
}

// fold counts a call to a row that is alike, if there is one among the last.
func (t *Tables) fold(ev *event.Syscall, mark rules.Mark) bool {
	if !t.filter.Fold {
		return false
	}
	for n := range min(foldWithin, len(t.calls)) {
		row := &t.calls[(t.next-1-n+2*len(t.calls))%len(t.calls)]
		if row.Mark == mark && Alike(&row.Call, ev) {
			row.Count++
			if ev.DurUS.Known {
				row.Call.DurUS = event.Some(row.Call.DurUS.Or(0) + ev.DurUS.Val)
			}
			return true
		}
	}
	return false
}

// Chosen says how many calls the filter let through, and of how many.
func (t *Tables) Chosen() (chosen, of int64) { return t.chosen, t.seen }

// Ended says that the process has ended, and has no descriptor open.
func (t *Tables) Ended() bool { return t.state.Ended }

// Untimed says that the evidence is a log without times.
func (t *Tables) Untimed() bool { return t.state.Untimed() }

// Calls gives the rows of the calls, oldest first, and how many older ones
// were cut off.
func (t *Tables) Calls() (rows []CallRow, cut int64) {
	return slices.Concat(t.calls[t.next:], t.calls[:t.next]), t.cut
}

// Closed is how many closed descriptors have a row of their own, and how many older
// ones were merged.
func (t *Tables) Closed() (kept, merged int64) {
	t.mergeOlder()
	return int64(len(t.closed)), t.older.Count
}

// Summary gives the calls by name, the longest total first.
func (t *Tables) Summary() []SummaryRow {
	rows := make([]SummaryRow, 0, len(t.summary))
	for _, r := range t.summary {
		rows = append(rows, *r)
	}
	slices.SortFunc(rows, func(x, y SummaryRow) int {
		return cmp.Or(cmp.Compare(y.TotalUS, x.TotalUS), cmp.Compare(y.Calls, x.Calls), strings.Compare(x.Name, y.Name))
	})
	if t.unsummed > 0 {
		rows = append(rows, SummaryRow{Name: "other", Calls: t.unsummed})
	}
	return rows
}

// onClose keeps the descriptors that the filter lets through.
func (t *Tables) onClose(d *state.Descriptor) {
	mark := t.marks[key{d.PID, d.FD}]
	delete(t.marks, key{d.PID, d.FD})
	if row := t.fdRow(d, mark); !t.has(d) || !t.shows(&row) {
		return
	}
	if mark != (rules.Mark{}) {
		t.ended[d] = mark
	}
	if t.closed = append(t.closed, d); len(t.closed) >= 2*t.maxClosed {
		t.mergeOlder()
	}
}

// has says whether a descriptor belongs in the table: not those that an inferior
// was found to have.
func (t *Tables) has(d *state.Descriptor) bool { return d.Used || d.PID == t.state.Debugger.PID }

// mergeOlder keeps as many closed descriptors as there may be: the marked ones,
// if they are not too many, and the latest. The others become a sum.
func (t *Tables) mergeOlder() {
	over, marked := len(t.closed)-t.maxClosed, 0
	if over <= 0 {
		return
	}
	kept := t.closed[:0]
	for _, d := range t.closed {
		_, spared := t.ended[d]
		if spared = spared && marked < t.maxClosed/2; over > 0 && !spared {
			over--
			delete(t.ended, d)
			t.older.Count++
			t.older.Reads += d.Reads
			t.older.Bytes += d.Bytes
			t.older.ReadUS += d.ReadUS
			continue
		}
		if spared {
			marked++
		}
		kept = append(kept, d)
	}
	clear(t.closed[len(kept):])
	t.closed = kept
}

// Descriptors gives the table by descriptor: those that the filter lets
// through, in the order of number and time; last, in one row, closed ones that
// were too many to keep.
func (t *Tables) Descriptors() []FDRow {
	waiting := map[key]event.Micros{}
	for _, ev := range t.state.Pending {
		if row, ok := decode.ByName(ev.Name); ok && row.Class == decode.ClassRead && ev.FD.Known && !t.state.Ended {
			waiting[key{ev.PID, ev.FD.Val}] = ev.T
		}
	}
	rows := []FDRow{}
	add := func(r FDRow) {
		if t.shows(&r) {
			rows = append(rows, r)
		}
	}
	t.mergeOlder()
	for _, d := range t.closed {
		add(t.fdRow(d, t.ended[d]))
	}
	for d := range t.state.AllDescriptors() {
		if !t.has(d) {
			continue
		}
		row := t.fdRow(d, t.marks[key{d.PID, d.FD}])
		if since, ok := waiting[key{d.PID, d.FD}]; ok {
			row.Waiting = true
			row.ReadUS += int64(max(0, t.state.Last-since))
		}
		row.Gone = d.Stale() && !row.Waiting
		add(row)
	}
	slices.SortStableFunc(rows, func(x, y FDRow) int {
		return cmp.Or(cmp.Compare(x.PID, y.PID), cmp.Compare(x.FD, y.FD), cmp.Compare(since(&x), since(&y)))
	})
	older := t.older // which the filter let through
	older.FD = -1
	if t.shows(&FDRow{Descriptor: state.Descriptor{FD: -1}}) { // nothing is chosen
		older.Count += t.state.Refused
	}
	if older.Count > 0 {
		rows = append(rows, older)
	}
	return rows
}

func (t *Tables) fdRow(d *state.Descriptor, mark rules.Mark) FDRow {
	r := FDRow{Descriptor: *d, Rule: mark.Rule, Effect: mark.Effect}
	switch {
	case !d.Target.Identified():
	case !t.state.Foreign(d.Target):
		r.Whose = WhoseDebugger
	case d.Call == "":
		r.Whose = WhoseBoth
	default:
		r.Whose = WhoseInferior
	}
	return r
}

// since orders descriptors with one number.
func since(r *FDRow) event.Micros {
	if r.Unseen {
		return r.Since
	}
	return r.Opened.Or(-1)
}

// shows says whether the filter lets a descriptor through.
func (t *Tables) shows(r *FDRow) bool {
	f := &t.filter
	if f.Findings && r.Rule == "" || len(f.FDs) > 0 && !slices.Contains(f.FDs, r.FD) {
		return false
	}
	return len(f.Paths) == 0 || slices.ContainsFunc(f.Paths, func(p string) bool {
		return matches(p, string(r.Name)) || matches(p, string(r.Target.Link))
	})
}
