package analyze

import (
	"cmp"
	"slices"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Bounds of the tables.
const (
	// DefaultRows is how many calls and closed descriptors are kept, the latest
	// ones, unless the filter says otherwise.
	DefaultRows = 1000
	// maxCallNames bounds the summary; no kernel has so many calls.
	maxCallNames = 1024
	// maxFiles bounds the inferiors' files that are known.
	maxFiles = 1 << 14
	// maxOpenFDs bounds the descriptors that are open at one time.
	maxOpenFDs = 1 << 16
)

// CallRow is a row of the table of calls.
type CallRow struct {
	Call event.Syscall
	Mark Mark
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

// FDRow is a row of the table by descriptor: one descriptor from its opening
// to its closing. Where Count is above 1 the row stands for that many, and has
// only their sums.
type FDRow struct {
	PID    event.PID     `json:"pid,omitempty"`
	FD     event.FD      `json:"fd"`
	Count  int64         `json:"count,omitempty"`
	Target *event.Target `json:"target,omitempty"`
	// Call and Name are the call that made it and the name it was given; empty
	// where it was there before.
	Call   string                  `json:"call,omitempty"`
	Name   event.Text              `json:"name,omitempty"`
	Opened event.Opt[event.Micros] `json:"opened,omitzero"`
	Closed event.Opt[event.Micros] `json:"closed,omitzero"`
	// Unseen: it was made after the evidence begins, by a call that is not in it.
	Unseen bool `json:"unseen,omitempty"`
	// Gone: it is closed, and when is not known.
	Gone   bool  `json:"gone,omitempty"`
	Reads  int64 `json:"reads"`
	Bytes  int64 `json:"bytes"` // read
	ReadUS int64 `json:"read_us"`
	// Waiting: a read of it has not ended.
	Waiting bool   `json:"waiting,omitempty"`
	Whose   Whose  `json:"whose,omitempty"`
	Rule    Rule   `json:"rule,omitempty"`
	Effect  Effect `json:"effect,omitempty"`

	seen event.Micros // of an unseen one: it was there then at the latest
}

// since is for the order of descriptors with one number.
func (r *FDRow) since() event.Micros {
	if r.Unseen {
		return r.seen
	}
	return r.Opened.Or(-1)
}

// fdRow is a row whose place may be used for another one, with its Target.
type fdRow struct {
	FDRow
	file event.Target
}

func (r *fdRow) setTarget(f *event.Target) {
	if r.Target = nil; f != nil {
		r.file = *f
		r.Target = &r.file
	}
}

// Tables gathers tables from evidence, in bounded memory.
type Tables struct {
	filter Filter

	calls   []CallRow      // a ring when full, oldest at next
	targets []event.Target // of calls, at the same index
	next    int
	cut     int64
	summary map[string]*SummaryRow
	pending map[event.TID]waiting

	open        fdTables[fdRow]
	closed      []*fdRow
	maxClosed   int // how many are kept one by one
	free        []*fdRow
	older       FDRow // the sum of closed ones that were merged
	debugger    event.PID
	theirs      map[ident]bool // files of inferiors
	last        event.Micros
	log         bool // of strace
	ended       bool
	unsummed    int64 // calls beyond maxCallNames
	untracked   int64 // descriptors beyond maxOpenFDs
	lookStarted bool
	begun       beginning
	listed      map[fdKey]bool
}

// beginning is how far a trace is with the descriptors that were there before.
type beginning int

const (
	unlisted beginning = iota
	listing
	complete // whatever else appears was made later
)

type fdKey struct {
	pid event.PID
	fd  event.FD
}

type ident struct{ dev, ino uint64 }

// waiting is a call that has not ended.
type waiting struct {
	since event.Micros
	pid   event.PID
	name  string
	fd    event.Opt[event.FD]
	row   bool // it passed the filter
}

// NewTables gathers what the filter lets through. The table by descriptor
// still knows of each open and close.
func NewTables(f Filter) *Tables {
	closed := f.Rows
	if f.Rows == 0 {
		f.Rows = DefaultRows
	}
	if closed <= 0 {
		closed = DefaultRows
	}
	f.Rows = max(f.Rows, 0)
	return &Tables{
		filter: f, maxClosed: closed, summary: map[string]*SummaryRow{}, pending: map[event.TID]waiting{},
		theirs: map[ident]bool{},
	}
}

// Add takes the next event, with the mark that [Analyzer.Add] gave for it.
func (t *Tables) Add(ev event.Event, mark Mark) {
	switch ev := ev.(type) {
	case *event.Session:
		if ev.Debugger != nil {
			t.debugger = ev.Debugger.PID
		}
		t.log = ev.Source == "strace"
	case *event.Syscall:
		t.syscall(ev, mark)
	case *event.Descriptor:
		t.descriptor(ev)
	case *event.LinkMap:
		for _, m := range []*event.Target{ev.Mapped, ev.MappedStat} {
			if m != nil {
				t.their(*m)
			}
		}
	case *event.Blocked:
		t.lookStarted = t.lookStarted || ev.PID == t.debugger
	case *event.End:
		t.last = max(t.last, ev.T)
		t.ended = ev.Exit.Known || ev.Signal != ""
	}
}

// their remembers a file of an inferior.
func (t *Tables) their(f event.Target) {
	if f.Identified() && len(t.theirs) < maxFiles {
		t.theirs[ident{f.Dev, f.Ino}] = true
	}
}

func (t *Tables) descriptor(ev *event.Descriptor) {
	if t.debugger == 0 {
		t.debugger = ev.PID // descriptors of the debugger come before those of others
	}
	if ev.PID != t.debugger {
		t.their(ev.Target)
		return
	}
	if t.lookStarted {
		// A new listing: what it does not have was closed unseen.
		t.lookStarted, t.listed = false, map[fdKey]bool{}
	}
	if t.begun == unlisted && !t.log {
		t.begun = listing
	}
	key := fdKey{ev.PID, ev.FD}
	if t.listed != nil {
		t.listed[key] = true
	}
	row := t.open.get(key.pid, key.fd)
	if row != nil && (row.Target == nil || row.Target.Same(ev.Target) || !ev.Target.Identified()) {
		row.setTarget(&ev.Target)
		return
	}
	if row != nil {
		t.close(key, event.Opt[event.Micros]{})
	}
	row = t.start(key, FDRow{Target: &ev.Target, Call: ev.Call})
	if row != nil && ev.Call != "" {
		row.Opened = event.Some(ev.T)
	}
}

// start begins a row; nil where there is no room.
func (t *Tables) start(key fdKey, row FDRow) *fdRow {
	if t.open.count >= maxOpenFDs {
		t.untracked++
		return nil
	}
	var r *fdRow
	if n := len(t.free); n > 0 {
		r, t.free = t.free[n-1], t.free[:n-1]
	} else {
		r = new(fdRow)
	}
	r.FDRow = row
	r.PID, r.FD = key.pid, key.fd
	if r.Call == "" && t.begun == complete {
		r.Unseen, r.seen = true, t.last
	}
	r.setTarget(row.Target)
	t.open.set(key.pid, key.fd, r)
	return r
}

func (t *Tables) close(key fdKey, at event.Opt[event.Micros]) {
	row := t.open.get(key.pid, key.fd)
	if row == nil {
		return
	}
	t.open.set(key.pid, key.fd, nil)
	row.Closed, row.Gone = at, !at.Known
	if !t.shows(&row.FDRow) {
		t.free = append(t.free, row)
		return
	}
	if t.closed = append(t.closed, row); len(t.closed) >= 2*t.maxClosed {
		t.mergeOlder()
	}
}

// mergeOlder keeps as many closed descriptors as there may be: the marked ones,
// if they are not too many, and the latest. The others become a sum.
func (t *Tables) mergeOlder() {
	over, marked := len(t.closed)-t.maxClosed, 0
	if over <= 0 {
		return
	}
	kept := t.closed[:0]
	for _, r := range t.closed {
		spared := r.Rule != "" && marked < t.maxClosed/2
		if over > 0 && !spared {
			over--
			t.older.Count++
			t.older.Reads += r.Reads
			t.older.Bytes += r.Bytes
			t.older.ReadUS += r.ReadUS
			t.free = append(t.free, r)
			continue
		}
		if spared {
			marked++
		}
		kept = append(kept, r)
	}
	t.closed = kept
}

// endOf is when a call ended. A log may tell how long calls took (strace -T)
// and not when they were.
func (t *Tables) endOf(ev *event.Syscall) event.Micros {
	if t.log && ev.T == 0 {
		return 0
	}
	return ev.T + event.Micros(ev.DurUS.Or(0))
}

func (t *Tables) syscall(ev *event.Syscall, mark Mark) {
	if t.debugger == 0 {
		t.debugger = ev.PID
	}
	t.last = max(t.last, t.endOf(ev))
	if t.begun == listing {
		t.begun = complete
	}
	for _, c := range ev.Counterpart {
		t.their(c.Target)
	}
	before, wasWaiting := t.pending[ev.TID]
	completes := wasWaiting && !ev.Unfinished && ev.Resumed && before.name == ev.Name
	if wasWaiting {
		delete(t.pending, ev.TID)
	}
	chosen := t.filter.Match(ev, mark)
	if ev.Unfinished && len(t.pending) < maxThreads {
		t.pending[ev.TID] = waiting{since: ev.T, pid: ev.PID, name: ev.Name, fd: ev.FD, row: chosen}
	}
	if chosen || completes && before.row {
		t.count(ev, completes && before.row)
		t.keep(ev, mark)
	}
	t.follow(ev, mark, completes)
}

// count adds a call to the summary; completes says that it is the end of one
// that was counted already.
func (t *Tables) count(ev *event.Syscall, completes bool) {
	row := t.summary[ev.Name]
	if row == nil {
		if len(t.summary) >= maxCallNames {
			t.unsummed++
			return
		}
		row = &SummaryRow{Name: ev.Name}
		t.summary[ev.Name] = row
	}
	switch {
	case completes:
		row.Unfinished--
	default:
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

// AddCounted adds calls to the summary of which nothing but their number is
// known. A filter does not choose them.
func (t *Tables) AddCounted(c SummaryRow) {
	if f := &t.filter; f.Findings || len(f.Calls)+len(f.Paths)+len(f.FDs)+len(f.TIDs) > 0 {
		return
	}
	row := t.summary[c.Name]
	if row == nil {
		if len(t.summary) >= maxCallNames {
			t.unsummed += c.Calls
			return
		}
		row = &SummaryRow{Name: c.Name}
		t.summary[c.Name] = row
	}
	row.Calls += c.Calls
	row.Errors += c.Errors
	row.TotalUS += c.TotalUS
	row.MaxUS = max(row.MaxUS, c.MaxUS)
}

func (t *Tables) keep(ev *event.Syscall, mark Mark) {
	i := t.next
	switch {
	case t.filter.Rows == 0:
		t.cut++
		return
	case len(t.calls) < t.filter.Rows:
		i = len(t.calls)
		t.calls = append(t.calls, CallRow{})
		t.targets = append(t.targets, event.Target{})
	default:
		t.next = (t.next + 1) % len(t.calls)
		t.cut++
	}
	row := &t.calls[i]
	row.Call, row.Mark = *ev, mark
	row.Call.Counterpart, row.Call.Data = slices.Clone(ev.Counterpart), nil
	if ev.Target != nil {
		t.targets[i] = *ev.Target
	}
}

// makesFD says whether a call's result is a new descriptor.
func makesFD(ev *event.Syscall, row *decode.Call) bool {
	if ev.Unfinished || ev.Errno != "" || !ev.Ret.Known || ev.Ret.Val < 0 {
		return false
	}
	return row.Ret == decode.RetNewFD || ev.Name == "fcntl" && strings.HasPrefix(ev.Flags, "F_DUPFD")
}

// follow keeps the table by descriptor.
func (t *Tables) follow(ev *event.Syscall, mark Mark, completes bool) {
	row, ok := decode.ByName(ev.Name)
	if !ok {
		return
	}
	now := event.Some(t.endOf(ev))
	if makesFD(ev, row) {
		key := fdKey{ev.PID, event.FD(ev.Ret.Val)}
		if row.Class == decode.ClassDup && ev.FD.Is(key.fd) {
			return // dup2 of a descriptor onto itself
		}
		t.close(key, now)
		r := t.start(key, FDRow{Call: ev.Name, Name: ev.Path, Target: ev.Target, Opened: now, Rule: mark.Rule, Effect: mark.Effect})
		if from := t.open.get(ev.PID, ev.FD.Val); r != nil && ev.FD.Known && from != nil {
			if r.Name == "" {
				r.Name = from.Name
			}
			if r.Target == nil {
				r.setTarget(from.Target)
			}
			if r.Rule == "" {
				r.Rule, r.Effect = from.Rule, from.Effect
			}
		}
		return
	}
	if !ev.FD.Known {
		return
	}
	key := fdKey{ev.PID, ev.FD.Val}
	switch row.Class {
	case decode.ClassClose:
		if !ev.Unfinished && ev.Errno != "EBADF" {
			if t.open.get(key.pid, key.fd) == nil {
				t.start(key, FDRow{Target: ev.Target})
			}
			t.close(key, now)
		}
	case decode.ClassRead:
		t.read(ev, key, completes)
	}
}

func (t *Tables) read(ev *event.Syscall, key fdKey, completes bool) {
	r := t.open.get(key.pid, key.fd)
	if r != nil && r.Target != nil && ev.Target != nil && ev.Target.Identified() && r.Target.Identified() && !r.Target.Same(*ev.Target) {
		t.close(key, event.Opt[event.Micros]{}) // it became another file unseen
		r = nil
	}
	if r == nil {
		if r = t.start(key, FDRow{Target: ev.Target}); r == nil {
			return
		}
	} else if r.Target == nil {
		r.setTarget(ev.Target)
	}
	if !completes {
		r.Reads++
	}
	if ev.Errno == "" && !ev.Unfinished {
		r.Bytes += max(0, ev.Ret.Val)
	}
	r.ReadUS += max(0, ev.DurUS.Or(0))
}

// Untimed says that the evidence is a log without times.
func (t *Tables) Untimed() bool { return t.log && t.last == 0 }

// Calls gives the rows of the calls, oldest first, and how many older ones
// were cut off.
func (t *Tables) Calls() (rows []CallRow, cut int64) {
	rows = slices.Grow(rows, len(t.calls))
	rows = append(rows, t.calls[t.next:]...)
	rows = append(rows, t.calls[:t.next]...)
	for i := range rows {
		if rows[i].Call.Target != nil {
			target := t.targets[(t.next+i)%len(rows)] // a copy: its place will be another call's
			rows[i].Call.Target = &target
		}
	}
	return rows, t.cut
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

// Descriptors gives the table by descriptor: those that the filter lets
// through, in the order of number and time; last, in one row, closed ones that
// were too many to keep.
func (t *Tables) Descriptors() []FDRow {
	waiting := map[fdKey]event.Micros{}
	for _, w := range t.pending {
		if row, ok := decode.ByName(w.name); ok && row.Class == decode.ClassRead && w.fd.Known && !t.ended {
			waiting[fdKey{w.pid, w.fd.Val}] = w.since
		}
	}
	rows := make([]FDRow, 0, t.open.count+len(t.closed))
	add := func(r FDRow) {
		r.Whose = t.whose(&r)
		if t.shows(&r) {
			r.Target = cloneTarget(r.Target) // its place will be another row's
			rows = append(rows, r)
		}
	}
	t.mergeOlder()
	for _, r := range t.closed {
		add(r.FDRow)
	}
	for pid := range t.open.of {
		for fd, r := range t.open.all(pid) {
			row, key := r.FDRow, fdKey{pid, fd}
			if since, ok := waiting[key]; ok {
				row.Waiting = true
				row.ReadUS += int64(max(0, t.last-since))
			}
			if t.listed != nil && !t.listed[key] && !row.Waiting {
				row.Gone = true
			}
			add(row)
		}
	}
	slices.SortStableFunc(rows, func(x, y FDRow) int {
		return cmp.Or(cmp.Compare(x.PID, y.PID), cmp.Compare(x.FD, y.FD), cmp.Compare(x.since(), y.since()))
	})
	older := t.older
	older.Count += t.untracked
	if older.Count > 0 && t.shows(&older) {
		older.FD = -1
		rows = append(rows, older)
	}
	return rows
}

// shows says whether the filter lets a descriptor through.
func (t *Tables) shows(r *FDRow) bool {
	f := &t.filter
	if f.Findings && r.Rule == "" || len(f.FDs) > 0 && !slices.Contains(f.FDs, r.FD) {
		return false
	}
	return len(f.Paths) == 0 || slices.ContainsFunc(f.Paths, func(p string) bool {
		return matches(p, string(r.Name)) || r.Target != nil && matches(p, string(r.Target.Link))
	})
}

func (t *Tables) whose(r *FDRow) Whose {
	switch {
	case r.Target == nil || !r.Target.Identified():
		return WhoseUnknown
	case !t.theirs[ident{r.Target.Dev, r.Target.Ino}]:
		return WhoseDebugger
	case r.Call == "":
		return WhoseBoth
	}
	return WhoseInferior
}
