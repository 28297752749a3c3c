package tables

import (
	"maps"
	"slices"

	"whosefd/analyze/rules"
	"whosefd/analyze/state"
	"whosefd/tracer/event"
)

// Bounds of an [Excerpt].
const (
	// DefaultExcerpt is how many calls an excerpt keeps, unless told otherwise.
	DefaultExcerpt = 100_000
	// aroundCalls is how many calls before and behind one of interest belong
	// to it.
	aroundCalls = 1000
	// maxSpans bounds the runs of calls of interest that wait for the calls.
	maxSpans = 4096
)

// Excerpt keeps what a report shows of the evidence as it stands: who was
// watched and where, and calls. Of a recording with more calls than its limit
// it keeps the first, the last, and those around the ones of interest. It
// keeps no reference to the events.
type Excerpt struct {
	Session   event.Session // zero where there was none
	End       *event.End    // nil where the recording has no end
	Total     int64         // calls seen
	Filter    Filter        // calls that it lets through are kept
	inferiors map[event.PID]event.Process

	timed  bool  // some call has a time
	chosen int64 // calls that the filter let through

	limit int
	kept  []*ExcerptRow // of the older calls
	// first and near are how many more of the first calls, and of those near to
	// one of interest, may be kept when they are old.
	first, near int
	// recent is a ring: count of them from head on. It may fill the limit.
	recent      []*ExcerptRow
	head, count int
	spans       []span
}

// ExcerptRow is a call, and which one of the recording it was, from 1.
type ExcerptRow struct {
	CallRow
	Number int64
}

// span is a run of calls around one of interest, both ends included.
type span struct{ from, to int64 }

// NewExcerpt keeps at most limit calls; below zero counts as zero.
func NewExcerpt(limit int) *Excerpt {
	limit = max(0, limit)
	return &Excerpt{limit: limit, first: limit / 10, near: limit * 4 / 10, inferiors: map[event.PID]event.Process{}}
}

// Add takes the next event, with the mark that package rules gave for it.
func (e *Excerpt) Add(ev event.Event, mark rules.Mark) {
	switch ev := ev.(type) {
	case *event.Session:
		e.Session = *ev
		if ev.Debugger != nil {
			p := state.CloneProcess(*ev.Debugger)
			p.Namespaces = maps.Clone(p.Namespaces)
			e.Session.Debugger = &p
		}
	case *event.Inferior:
		if _, known := e.inferiors[ev.PID]; known || len(e.inferiors) < state.MaxProcesses {
			e.inferiors[ev.PID] = state.CloneProcess(ev.Process)
		}
	case *event.Syscall:
		e.call(ev, mark)
	case *event.End:
		c := *ev
		e.End = &c
	}
}

func (e *Excerpt) call(ev *event.Syscall, mark rules.Mark) {
	e.Total++
	e.timed = e.timed || ev.T != 0
	if !e.Filter.Match(ev, mark) {
		return
	}
	if e.chosen++; e.limit == 0 {
		return
	}
	// A context-dependent name may turn out to belong to a finding, when the
	// inferior's side is known.
	if mark != (rules.Mark{}) || ev.Path != "" && state.ContextDependent(ev) {
		e.interest(e.Total)
	}
	row := &ExcerptRow{CallRow{Call: *ev, Mark: mark, Count: 1}, e.Total}
	c := &row.Call
	c.Target, c.Counterpart, c.Data = state.CloneTarget(ev.Target), slices.Clone(ev.Counterpart), slices.Clone(ev.Data)
	if ev.Rewritten != nil {
		r := *ev.Rewritten
		c.Rewritten = &r
	}
	for len(e.kept)+e.count >= e.limit {
		e.retire()
	}
	if len(e.recent) < e.limit && e.head == 0 && e.count == len(e.recent) {
		e.recent = append(e.recent, row)
	} else {
		e.recent[(e.head+e.count)%len(e.recent)] = row
	}
	e.count++
}

// retire takes the oldest of the recent calls out, and keeps it if it is one of
// the first, or near to one of interest: those were all seen by then.
func (e *Excerpt) retire() {
	row := e.recent[e.head]
	e.recent[e.head] = nil
	e.head, e.count = (e.head+1)%len(e.recent), e.count-1
	for len(e.spans) > 0 && e.spans[0].to < row.Number {
		e.spans = e.spans[1:]
	}
	switch {
	case e.first > 0:
		e.first--
	case e.near > 0 && len(e.spans) > 0 && e.spans[0].from <= row.Number:
		e.near--
	default:
		return
	}
	e.kept = append(e.kept, row)
}

// interest notes that the calls around number n are to be kept.
func (e *Excerpt) interest(n int64) {
	around := int64(min(aroundCalls, e.limit/20))
	s := span{n - around, n + around}
	if last := len(e.spans) - 1; last >= 0 && (e.spans[last].to >= s.from-1 || last >= maxSpans) {
		e.spans[last].to = s.to
		return
	}
	e.spans = append(e.spans, s)
}

// Calls gives the calls that were kept, in the order of the recording.
func (e *Excerpt) Calls() []*ExcerptRow {
	rows := append(make([]*ExcerptRow, 0, len(e.kept)+e.count), e.kept...)
	for i := range e.count {
		rows = append(rows, e.recent[(e.head+i)%len(e.recent)])
	}
	return rows
}

// Chosen says how many of the calls the filter let through.
func (e *Excerpt) Chosen() int64 { return e.chosen }

// Untimed says that the evidence is a log that does not say when its calls were
// made.
func (e *Excerpt) Untimed() bool { return e.Session.Source == "strace" && !e.timed }

// Inferiors gives the inferiors, in the order of their numbers.
func (e *Excerpt) Inferiors() []event.Process {
	all := slices.Collect(maps.Values(e.inferiors))
	slices.SortFunc(all, func(x, y event.Process) int { return int(x.PID - y.PID) })
	return all
}
