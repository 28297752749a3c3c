package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"whosefd/analyze/rules"
	"whosefd/tracer/event"
)

// Chrome writes calls and waits in the Trace Event Format, as a JSON object, which
// Perfetto and chrome://tracing open: each thread is a row, each call a slice ("X"), one
// that has not ended a slice without end ("B"), a finding's mark its color.
// What is written is complete after Close only.
type Chrome struct {
	w       io.Writer
	wrote   bool
	err     error
	pending map[event.TID]*traceEvent // calls that have not ended
	open    []event.TID               // of which, in order
	named   map[event.PID]bool
}

// traceEvent is one event of the format: times are in microseconds.
type traceEvent struct {
	Name  string         `json:"name"`
	Cat   string         `json:"cat,omitempty"`
	Phase string         `json:"ph"`
	TS    int64          `json:"ts"`
	Dur   *int64         `json:"dur,omitempty"`
	PID   event.PID      `json:"pid"`
	TID   event.TID      `json:"tid"`
	Scope string         `json:"s,omitempty"` // of an instant: "g" is global
	Color string         `json:"cname,omitempty"`
	Args  map[string]any `json:"args,omitempty"`
}

// NewChrome writes to w.
func NewChrome(w io.Writer) *Chrome {
	return &Chrome{w: w, pending: map[event.TID]*traceEvent{}, named: map[event.PID]bool{}}
}

// Add writes the next event, with the mark of a call.
func (c *Chrome) Add(ev event.Event, mark rules.Mark) error {
	switch ev := ev.(type) {
	case *event.Session:
		if ev.Debugger != nil {
			c.process(ev.Debugger, "debugger")
		}
	case *event.Inferior:
		if ev.Core == nil {
			c.process(&ev.Process, "inferior")
		}
	case *event.Syscall:
		c.call(ev, mark)
	case *event.Wait:
		c.wait(ev)
	case *event.Lost:
		c.put(&traceEvent{Name: "lost: " + Clean(ev.Reason), Phase: "I", TS: int64(ev.T), Scope: "g", TID: ev.TID})
	}
	return c.err
}

// Close writes the calls that have not ended, and the end of the file.
func (c *Chrome) Close() error {
	for _, tid := range c.open {
		if e := c.pending[tid]; e != nil {
			c.put(e)
			delete(c.pending, tid)
		}
	}
	if !c.wrote && c.err == nil {
		_, c.err = io.WriteString(c.w, `{"displayTimeUnit":"ms","traceEvents":[`)
	}
	if c.err == nil {
		_, c.err = io.WriteString(c.w, "\n]}\n")
	}
	return c.err
}

func (c *Chrome) put(e *traceEvent) {
	if c.err != nil {
		return
	}
	b, err := json.Marshal(e)
	head := ",\n"
	if !c.wrote {
		head = `{"displayTimeUnit":"ms","traceEvents":[` + "\n"
	}
	c.wrote = true
	if err == nil {
		_, err = c.w.Write(append([]byte(head), escapeJSON(b)...))
	}
	c.err = err
}

// process names a row of rows.
func (c *Chrome) process(p *event.Process, role string) {
	if c.named[p.PID] || p.PID <= 0 {
		return
	}
	c.named[p.PID] = true
	name := strings.TrimSpace(Clean(string(p.Comm)) + " (" + role + ")")
	c.put(&traceEvent{Name: "process_name", Phase: "M", PID: p.PID, TID: event.TID(p.PID), Args: map[string]any{"name": name}})
}

func (c *Chrome) call(ev *event.Syscall, mark rules.Mark) {
	cells := callCells(ev, mark)
	e := &traceEvent{Name: Clean(ev.Name), Cat: "call", Phase: "X", TS: int64(ev.T), PID: max(0, ev.PID), TID: max(0, ev.TID), Args: map[string]any{}}
	for name, text := range map[string]string{"on": cells.on, "result": strings.TrimPrefix(cells.result, "→ "), "mark": cells.mark} {
		if text != "" {
			e.Args[name] = text
		}
	}
	switch {
	case mark.Effect == rules.Hang || mark.Effect == rules.StolenInput:
		e.Color, e.Cat = "terrible", "call,suspicious"
	case mark != (rules.Mark{}):
		e.Color, e.Cat = "bad", "call,suspicious"
	case ev.Errno != "":
		e.Cat = "call,failed"
	}
	if before := c.pending[ev.TID]; before != nil && (ev.Unfinished || !ev.Resumed || before.Name != e.Name) {
		// Its end is not in the evidence, and came before this.
		dur := max(0, int64(ev.T)-before.TS)
		before.Phase, before.Dur, before.Args["result"] = "X", &dur, "its end was not seen"
		c.put(before)
	}
	if ev.Unfinished {
		e.Phase = "B"
		if c.pending[ev.TID] == nil {
			c.open = append(c.open, ev.TID)
		}
		c.pending[ev.TID] = e
		return
	}
	delete(c.pending, ev.TID)
	dur := ev.DurUS.Or(0)
	e.Dur = &dur
	c.put(e)
}

// wait writes what a thread waits for: within its call, if that was seen to begin.
func (c *Chrome) wait(ev *event.Wait) {
	since := ev.T - event.Micros(ev.IdleUS.Or(0))
	if e := c.pending[ev.TID]; e != nil {
		since = max(since, event.Micros(e.TS))
		c.put(e)
		delete(c.pending, ev.TID)
	}
	dur := int64(max(0, ev.T-since))
	e := &traceEvent{Name: "waits in " + Clean(ev.Syscall), Cat: "wait", Phase: "X", TS: int64(since), Dur: &dur, PID: max(0, ev.PID), TID: max(0, ev.TID), Args: map[string]any{}}
	if ev.Syscall == "" {
		e.Name = "waits"
	}
	for i, on := range ev.On {
		var who []string
		for _, ender := range on.Enders {
			who = append(who, Clean(fmt.Sprintf("%s (pid %d): %s", ender.Comm, ender.PID, ender.How)))
		}
		what := string(on.Op)
		if on.FD.Known {
			what += fmt.Sprintf(" of descriptor %d", on.FD.Val)
		}
		if s := target(on.Target); s != "" {
			what += ", " + s
		}
		if len(who) > 0 {
			what += "; could be ended by " + strings.Join(who, ", ")
		}
		e.Args[fmt.Sprintf("for %d", i+1)] = what
	}
	c.put(e)
}
