package analyze

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"whosefd/tracer/event"
)

func kinds(p *Plan) string {
	if p == nil {
		return ""
	}
	var k []StepKind
	for _, s := range p.Steps {
		k = append(k, s.Kind)
	}
	return fmt.Sprint(k)
}

const wholeRepair = "[attach open retake replace close resume guard]"

func TestPlanRepair(t *testing.T) {
	all := scenes()
	for _, tc := range []struct {
		scene           string
		repair, release string // the steps
		refused         error
	}{
		{"hang", wholeRepair, "[attach open replace close resume detach]", nil},
		{"closed", wholeRepair, "[attach open replace close resume detach]", nil},
		{"thread", wholeRepair, "[attach open replace close resume detach]", nil},
		{"unseen", wholeRepair, "[attach open replace close resume detach]", nil}, // who else writes does not matter
		{"stolen-input", wholeRepair, "[attach open replace close resume detach]", nil},
		{"trace-hang-closing", wholeRepair, "[attach open replace close resume detach]", nil},
		{"closed-unreachable", "", "[attach open replace close resume detach]", ErrUnreachable},
		{"two-inferiors", "", "", ErrNotProved},
		{"two-names-no-stack", "", "", ErrNotProved},
		{"no-list", "", "", ErrNotProved},
		{"trace-counterpart", "", "", ErrNotProved},
		{"prompt", "", "", ErrHealthy},
		{"risk", "", "", ErrHealthy},
		{"own-read", "", "", ErrHealthy},
		{"wrong-file", "", "", ErrHealthy},
		{"error", "", "", ErrHealthy},
		{"empty", "", "", ErrHealthy},
	} {
		d := analyzed(all[tc.scene]).Diagnosis()
		p, err := PlanRepair(d)
		if kinds(p) != tc.repair || !errors.Is(err, tc.refused) {
			t.Errorf("%s: repair %s, %v", tc.scene, kinds(p), err)
		}
		p, err = PlanRelease(d)
		if kinds(p) != tc.release || (err == nil) != (tc.release != "") {
			t.Errorf("%s: release %s, %v", tc.scene, kinds(p), err)
		}
	}
}

// What we call a file is no help where the debugger calls it otherwise, or
// cannot come to it at all.
func TestPlanUsesTheDebuggersPath(t *testing.T) {
	for there, want := range map[event.Text]error{"/proc/7/fd/4": nil, "": ErrUnreachable} {
		events := scenes()["hang"]
		for _, ev := range events {
			if lm, ok := ev.(*event.LinkMap); ok && len(lm.Reachable) > 0 {
				lm.DebuggerPath = event.Some(there)
			}
		}
		plan, err := PlanRepair(analyzed(events).Diagnosis())
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", there, err, want)
		}
		if err == nil && (plan.Steps[1].Kind != StepOpen || plan.Steps[1].Path != there) {
			t.Errorf("%q: %+v", there, plan.Steps[1])
		}
	}
}

// A file that only we could open is no help: the debugger opens it.
func TestPlanAsksForTheDebuggersRights(t *testing.T) {
	for may, want := range map[event.Opt[bool]]error{event.Some(false): ErrUnreachable, event.Some(true): nil, {}: nil} {
		events := scenes()["closed"]
		session, ok := events[0].(*event.Session)
		if !ok {
			t.Fatalf("the scene begins with %T", events[0])
		}
		session.Debugger.MapFiles = may
		if _, err := PlanRepair(analyzed(events).Diagnosis()); !errors.Is(err, want) {
			t.Errorf("map_files %+v: %v, want %v", may, err, want)
		}
	}
}

func TestPlanIsData(t *testing.T) {
	p, err := PlanRepair(analyzed(hung()).Diagnosis())
	if err != nil {
		t.Fatal(err)
	}
	open, replace, guard := p.Steps[1], p.Steps[3], p.Steps[6]
	if open.Path != "/proc/2162/fd/4" || open.Flags != "O_RDONLY|O_CLOEXEC" || !open.Expect.Same(memfd) || open.TID != gdbPID {
		t.Errorf("%+v", open)
	}
	if !replace.FD.Is(16) || !replace.Replaces.Same(ownPipe) || !replace.KeepCloexec {
		t.Errorf("%+v", replace)
	}
	if guard.Name != "/proc/self/fd/4" || !guard.Expect.Same(memfd) {
		t.Errorf("%+v", guard)
	}
	for _, s := range p.Steps {
		if s.Text == "" || s.PID != gdbPID {
			t.Errorf("%+v", s)
		}
	}
	got, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "plan.json", append(got, '\n'))
}

// Two threads that hang on two libraries are repaired by one plan.
func TestPlanForTwoThreads(t *testing.T) {
	other := event.Target{Kind: event.Pipe, Link: "pipe:[5000]", Dev: 15, Ino: 5000}
	b := read16()
	b.TID, b.FD, b.Target = 2165, event.Some[event.FD](17), &other
	b.Holders = []event.Holder{{PID: gdbPID, FD: 6, Access: "w"}}
	s := hung().with(b, fd(gdbPID, 5, "r", other), fd(gdbPID, 6, "w", other), fd(gdbPID, 17, "r", other),
		library(infPID, 6, "/proc/self/fd/5", memfd2, other, memfd2, "/proc/2162/fd/5"))
	// The descriptors of the first listing are still there: no new look began.
	s = s.with(gdbFDs(fd(gdbPID, 16, "r", ownPipe))...)
	p, err := PlanRepair(analyzed(s).Diagnosis())
	if err != nil {
		t.Fatal(err)
	}
	if want := "[attach open retake replace close resume attach open retake replace close resume guard guard]"; kinds(p) != want {
		t.Errorf("%s, want %s", kinds(p), want)
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{"gdb": "gdb", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$(x)": "'$(x)'", "./a-b_c=1": "./a-b_c=1"} {
		if got := Quote(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
