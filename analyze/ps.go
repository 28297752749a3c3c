package analyze

import "whosefd/tracer/event"

// PSRow is a debugger in the table of debuggers.
type PSRow struct {
	PID       event.PID  `json:"pid"`
	Comm      event.Text `json:"comm,omitempty"`
	Inferiors []Process  `json:"inferiors"`
	Threads   []PSThread `json:"threads"`
	// Mark is the worst finding, zero for none; Confidence is that of it.
	Rule       Rule       `json:"rule,omitempty"`
	Effect     Effect     `json:"effect,omitempty"`
	Confidence Confidence `json:"confidence,omitempty"`
	// Error says why it could not be looked at.
	Error event.Text `json:"error,omitempty"`
}

// PSThread is what a thread of a debugger is doing.
type PSThread struct {
	TID     event.TID           `json:"tid"`
	Comm    event.Text          `json:"comm,omitempty"`
	State   string              `json:"state,omitempty"`
	Syscall string              `json:"syscall,omitempty"`
	FD      event.Opt[event.FD] `json:"fd,omitzero"`
	Target  *event.Target       `json:"target,omitempty"`
	Waits   event.Text          `json:"waits,omitempty"`
	Rule    Rule                `json:"rule,omitempty"`
	Effect  Effect              `json:"effect,omitempty"`
}

// PS gives the row of the debugger in the evidence that was added.
func (a *Analyzer) PS() PSRow {
	d := a.Diagnosis()
	row := PSRow{PID: a.debugger.PID, Comm: a.debugger.Comm, Inferiors: d.Inferiors, Threads: []PSThread{}}
	if len(d.Findings) > 0 {
		f := &d.Findings[0]
		row.Rule, row.Effect, row.Confidence = f.Rule, f.Effect, f.Confidence
	}
	for _, b := range a.threads() {
		t := PSThread{TID: b.TID, Comm: b.Comm, State: state(b), Syscall: b.Syscall, FD: b.FD, Target: cloneTarget(b.Target)}
		for i := range d.Findings {
			if f := &d.Findings[i]; f.TID == b.TID {
				t.Rule, t.Effect = f.Rule, f.Effect
				break
			}
		}
		if t.Rule == "" && t.State == "blocked" {
			t.Waits = a.waits(b)
		}
		row.Threads = append(row.Threads, t)
	}
	return row
}
