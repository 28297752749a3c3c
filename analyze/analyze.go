// Package analyze turns evidence into a diagnosis. It is a pure function of the
// events of [whosefd/tracer/event]: it looks at no process and no file, so a live
// debugger, a recording and a log of another tool are explained by the same code,
// on every system.
//
// It is made of rooms, each of which knows only the ones before it: state reduces
// events to what is known, rules draw conclusions from that, words say them, and
// report draws them up; tables are beside rules. This package puts them together
// for the commands, which need no other one but report.
package analyze

import (
	"whosefd/analyze/filter"
	"whosefd/analyze/redact"
	"whosefd/analyze/rules"
	"whosefd/analyze/state"
	"whosefd/analyze/tables"
	"whosefd/analyze/words"
	"whosefd/tracer/event"
)

// Analysis takes evidence, event by event, and gives what follows from it. It keeps
// no reference to the events. It is not safe for concurrent use.
type Analysis struct{ state *state.State }

// New gives an Analysis that has seen these events.
func New(events ...event.Event) *Analysis {
	a := &Analysis{state.New()}
	for _, ev := range events {
		a.Add(ev)
	}
	return a
}

// Add takes the next event, and says what is worth a mark beside its row.
func (a *Analysis) Add(ev event.Event) Mark {
	a.state.Add(ev)
	if call, ok := ev.(*event.Syscall); ok {
		return rules.OfCall(a.state, call)
	}
	return Mark{}
}

// Diagnosis says what follows from the events so far. It may be called at any time,
// and again later.
func (a *Analysis) Diagnosis() *Diagnosis { return words.Diagnose(rules.Diagnose(a.state)) }

// PS gives the row of the debugger in the table of debuggers.
func (a *Analysis) PS() PSRow { return words.PS(rules.Diagnose(a.state)) }

// Preflight says what a debugger would make of the one process in the evidence.
func (a *Analysis) Preflight() *Preflight { return words.Foretell(rules.Foresee(a.state)) }

// Tables gathers tables from now on: they take each event after the Analysis, which
// has one such set.
func (a *Analysis) Tables(f Filter) *Tables { return tables.New(a.state, f) }

// Descriptors gives what is known of a process's descriptors, in order.
func (a *Analysis) Descriptors(pid event.PID) []event.Descriptor {
	var all []event.Descriptor
	for fd, d := range a.state.Descriptors(pid) {
		all = append(all, event.Descriptor{T: a.state.Last, PID: pid, FD: fd, Access: d.Access, Target: d.Target})
	}
	return all
}

// PlanRepair plans how to un-hang a debugger and to put the inferior's file behind
// the descriptor that it reads. It fails with the reason unless the identities of
// both files are proved.
func PlanRepair(d *Diagnosis, o PlanOptions) (*event.Plan, error) {
	var pid event.PID
	if d.Debugger != nil {
		pid = d.Debugger.PID
	}
	findings := make([]*rules.Finding, len(d.Findings))
	for i := range d.Findings {
		findings[i] = &d.Findings[i].Finding
	}
	p, err := rules.PlanRepair(pid, findings, o)
	if err != nil {
		return nil, err
	}
	words.SayPlan(p)
	return p, nil
}

// What the rooms have for the commands.
type (
	Mark       = rules.Mark
	Rule       = rules.Rule
	Effect     = rules.Effect
	Confidence = rules.Confidence

	PlanOptions = rules.PlanOptions
	ThreadID    = rules.ThreadID

	Diagnosis = words.Diagnosis
	Finding   = words.Finding
	Evidence  = words.Evidence
	Remedy    = words.Remedy
	Stack     = words.Stack
	Wait      = words.Wait
	PSRow     = words.PSRow
	Preflight = words.Preflight
	Rules     = words.Rules

	Notice = filter.Notice

	Redactor = redact.Redactor
	Known    = redact.Known

	Tables     = tables.Tables
	Filter     = tables.Filter
	SummaryRow = tables.SummaryRow
	Excerpt    = tables.Excerpt
)

// The constants of these types.
const (
	RuleSelfFD       = rules.RuleSelfFD
	RuleSelfLink     = rules.RuleSelfLink
	RuleRelative     = rules.RuleRelative
	RuleMountNS      = rules.RuleMountNS
	RulePIDNS        = rules.RulePIDNS
	RuleReplacedFile = rules.RuleReplacedFile

	RuleSelfWait         = rules.RuleSelfWait
	RuleStoppedInferior  = rules.RuleStoppedInferior
	RuleMutualWait       = rules.RuleMutualWait
	RuleInferiorDeadlock = rules.RuleInferiorDeadlock

	Hang        = rules.Hang
	StolenInput = rules.StolenInput
	WrongFile   = rules.WrongFile
	Failed      = rules.Failed

	Certain  = rules.Certain
	Likely   = rules.Likely
	Possible = rules.Possible

	VerdictBlocked = words.VerdictBlocked
	VerdictOK      = words.VerdictOK
	VerdictUnknown = words.VerdictUnknown
	RulesSchema    = words.RulesSchema

	DefaultRows    = tables.DefaultRows
	DefaultExcerpt = tables.DefaultExcerpt
)

// The reasons for which there is no plan.
var (
	ErrHealthy     = rules.ErrHealthy
	ErrNotProved   = rules.ErrNotProved
	ErrUnreachable = rules.ErrUnreachable
)

// AllRules gives the causes in the order in which they are looked for, and the
// effects, worst first.
func AllRules() Rules { return words.AllRules() }

// MarkOf gives the mark of a call that a finding is about: what is suspicious about
// it may have come out only later.
func MarkOf(ev event.Event, found []Finding) Mark { return words.MarkOf(ev, found) }

// NewExcerpt keeps at most so many calls for a report, of the events that it takes.
func NewExcerpt(limit int) *Excerpt { return tables.NewExcerpt(limit) }

// CallExpr reads an expression that chooses calls, for [Filter].
func CallExpr(text string) (*filter.Calls, error) { return filter.CompileCalls(text) }

// NoticeExpr reads an expression that chooses what watch tells.
func NoticeExpr(text string) (*filter.Expr[Notice], error) { return filter.CompileNotices(text) }

// CallFields and NoticeFields are the names that such expressions know.
var CallFields, NoticeFields = filter.Fields[filter.Call](), filter.Fields[Notice]()

// NewRedactor takes out of evidence, before it is analysed, whose it is.
func NewRedactor(k Known) *Redactor { return redact.New(k) }

// Quote makes a word of a POSIX shell.
func Quote(s string) string { return words.Quote(s) }
