package filter

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"whosefd/analyze/rules"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Call is what an expression can say of a call. Numbers that are not known are NaN.
type Call struct {
	Name       string  `expr:"call"`
	Path       string  `expr:"path"`   // the name that it was given
	Target     string  `expr:"target"` // the file that that, or the descriptor, leads to
	Kind       string  `expr:"kind"`   // of the target
	Errno      string  `expr:"errno"`
	Flags      string  `expr:"flags"`
	Ret        float64 `expr:"ret"`
	FD         float64 `expr:"fd"`    // that it works on
	NewFD      float64 `expr:"newfd"` // that it makes
	TID        float64 `expr:"tid"`
	PID        float64 `expr:"pid"`
	T          float64 `expr:"t"`     // seconds since the beginning
	Dur        float64 `expr:"dur"`   // seconds
	Count      float64 `expr:"count"` // bytes
	Offset     float64 `expr:"offset"`
	Unfinished bool    `expr:"unfinished"`
	Rule       string  `expr:"rule"`   // of the mark, "" without
	Effect     string  `expr:"effect"` // of the mark
}

// Calls chooses calls.
type Calls struct {
	expr *Expr[Call]
	row  Call
}

// CompileCalls reads an expression over the fields of [Call].
func CompileCalls(text string) (*Calls, error) {
	x, err := Compile[Call](text, known)
	if err != nil {
		return nil, err
	}
	return &Calls{expr: x}, nil
}

// Match says whether a call is chosen; nil chooses all.
func (c *Calls) Match(ev *event.Syscall, mark rules.Mark) bool {
	if c == nil {
		return true
	}
	c.row = Call{Name: ev.Name, Path: string(ev.Path), Errno: ev.Errno, Flags: ev.Flags, Ret: number(ev.Ret), FD: number(ev.FD),
		NewFD: number(ev.NewFD), TID: id(int(ev.TID)), PID: id(int(ev.PID)), T: float64(ev.T) / 1e6, Dur: number(ev.DurUS) / 1e6,
		Count: number(ev.Count), Offset: number(ev.Offset), Unfinished: ev.Unfinished, Rule: string(mark.Rule), Effect: string(mark.Effect)}
	if made := decode.EditOf(ev).Made; made.Known {
		c.row.NewFD = number(made)
	}
	if ev.Target != nil {
		c.row.Target, c.row.Kind = string(ev.Target.Link), string(ev.Target.Kind)
	}
	return c.expr.Match(&c.row)
}

// Err is as in [Expr].
func (c *Calls) Err() error {
	if c == nil {
		return nil
	}
	return c.expr.Err()
}

// Notice is what an expression can say of what watch tells.
type Notice struct {
	Notice string  `expr:"notice"` // finding, wait, led, failed, began, ended
	PID    float64 `expr:"pid"`
	Comm   string  `expr:"comm"`
	Rule   string  `expr:"rule"`
	Effect string  `expr:"effect"`
	Path   string  `expr:"path"`   // the name of a finding, or of a call that was led
	Target string  `expr:"target"` // what the debugger opened
	Call   string  `expr:"call"`   // that waits, or was led
	Waits  string  `expr:"waits"`  // what for: peer, child, lock, …
	Dur    float64 `expr:"dur"`    // seconds of a wait
	Text   string  `expr:"text"`
}

// CompileNotices reads an expression over the fields of [Notice].
func CompileNotices(text string) (*Expr[Notice], error) { return Compile[Notice](text, known) }

func number[T event.FD | int64 | uint64](v event.Opt[T]) float64 {
	if !v.Known {
		return math.NaN()
	}
	return float64(v.Val)
}

// id is a number of a process or thread, as far as it is known.
func id(n int) float64 {
	if n <= 0 {
		return math.NaN()
	}
	return float64(n)
}

// known says of the fields with known values what is none of them: a slip of the
// fingers would look like an empty result.
var known = map[string]func(string) error{
	"call": func(s string) error {
		if _, err := decode.Choose([]string{s}); err != nil || strings.ContainsAny(s, "%!*?[") {
			return fmt.Errorf(`call %q: no call of that name is decoded (of a part of one: call =~ "…")`, s)
		}
		return nil
	},
	"errno": func(s string) error {
		for e := range 4096 {
			if decode.Errno(e) == s {
				return nil
			}
		}
		return fmt.Errorf("errno %q: no error has that name", s)
	},
	"kind": oneOf("kind", event.Kinds...),
	"rule": oneOf("rule", rules.RuleSelfFD, rules.RuleSelfLink, rules.RuleRelative, rules.RuleMountNS, rules.RulePIDNS, rules.RuleReplacedFile,
		rules.RuleSelfWait, rules.RuleStoppedInferior, rules.RuleMutualWait, rules.RuleInferiorDeadlock),
	"effect": oneOf("effect", rules.Hang, rules.StolenInput, rules.WrongFile, rules.Failed),
	"notice": oneOf("notice", "began", "ended", "finding", "wait", "led", "failed"),
}

func oneOf[T ~string](field string, values ...T) func(string) error {
	return func(s string) error {
		if slices.Contains(values, T(s)) {
			return nil
		}
		return fmt.Errorf("%s %q: not one of %s", field, s, strings.Trim(fmt.Sprint(values), "[]"))
	}
}
