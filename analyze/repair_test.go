package analyze

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"whosefd/tracer/event"
)

func kinds(p *event.Plan) string {
	if p == nil {
		return ""
	}
	var k []event.StepKind
	for _, s := range p.Steps {
		k = append(k, s.Kind)
	}
	return fmt.Sprint(k)
}

const wholeRepair = "[attach open unblock flags keep replace close close resume guard]"

func TestPlanRepair(t *testing.T) {
	all := scenes()
	for _, tc := range []struct {
		scene           string
		repair, release string // the steps
		refused         error
	}{
		{"hang", wholeRepair, "[attach open unblock flags keep replace close close resume detach]", nil},
		{"closed", wholeRepair, "[attach open unblock flags keep replace close close resume detach]", nil},
		{"thread", wholeRepair, "[attach open unblock flags keep replace close close resume detach]", nil},
		{"unseen", wholeRepair, "[attach open unblock flags keep replace close close resume detach]", nil}, // who else writes does not matter
		{"stolen-input", wholeRepair, "[attach open unblock flags keep replace close close resume detach]", nil},
		{"trace-hang-closing", wholeRepair, "[attach open unblock flags keep replace close close resume detach]", nil},
		{"closed-unreachable", "", "[attach open unblock flags keep replace close close resume detach]", ErrUnreachable},
		{"two-inferiors", "", "[attach open unblock flags keep replace close close resume detach]", ErrNotProved},
		{"two-names-no-stack", "", "[attach open unblock flags keep replace close close resume detach]", ErrNotProved},
		{"two-names-stream", wholeRepair, "[attach open unblock flags keep replace close close resume detach]", nil},
		{"no-list", "", "[attach open unblock flags keep replace close close resume detach]", ErrNotProved},
		{"trace-counterpart", "", "", ErrNotProved},
		{"prompt", "", "", ErrHealthy},
		{"risk", "", "", ErrHealthy},
		{"own-read", "", "", ErrHealthy},
		{"wrong-file", "", "", ErrHealthy},
		{"error", "", "", ErrHealthy},
		{"empty", "", "", ErrHealthy},
	} {
		d := analyzed(all[tc.scene]).Diagnosis()
		p, err := PlanRepair(d, PlanOptions{})
		if kinds(p) != tc.repair || !errors.Is(err, tc.refused) {
			t.Errorf("%s: repair %s, %v", tc.scene, kinds(p), err)
		}
		p, err = PlanRepair(d, PlanOptions{Release: true})
		if kinds(p) != tc.release || (err == nil) != (tc.release != "") {
			t.Errorf("%s: release %s, %v", tc.scene, kinds(p), err)
		}
	}
}

// Where several libraries could be it, the user may say which.
func TestPlanForTheLibraryThatIsChosen(t *testing.T) {
	for _, tc := range []struct {
		scene   string
		o       PlanOptions
		path    event.Text // that is opened
		refused string
	}{
		{"two-names-no-stack", PlanOptions{}, "", "/proc/self/fd/3, /proc/self/fd/4; --library"},
		{"two-names-no-stack", PlanOptions{Library: "/proc/self/fd/3"}, "/proc/2162/fd/3", ""},
		{"two-names-no-stack", PlanOptions{Library: "/proc/self/fd/4"}, "/proc/2162/fd/4", ""},
		{"two-names-no-stack", PlanOptions{Library: "/proc/self/fd/5"}, "", "no read that is going on can be of /proc/self/fd/5"},
		{"two-inferiors", PlanOptions{Library: "/proc/self/fd/4"}, "", "--inferior"},
		{"two-inferiors", PlanOptions{Library: "/proc/self/fd/4", Inferiors: []event.PID{2170}}, "/proc/2170/fd/4", ""},
		{"prompt", PlanOptions{Library: "/proc/self/fd/4"}, "", "no read"},
	} {
		p, err := PlanRepair(analyzed(scenes()[tc.scene]).Diagnosis(), tc.o)
		if tc.refused != "" {
			if err == nil || !strings.Contains(err.Error(), tc.refused) {
				t.Errorf("%s, %+v: %v", tc.scene, tc.o, err)
			}
			continue
		}
		if err != nil || kinds(p) != wholeRepair || p.Steps[1].Path != tc.path || p.Steps[9].Path != tc.path {
			t.Errorf("%s, %+v: %s, %v", tc.scene, tc.o, kinds(p), err)
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
		plan, err := PlanRepair(analyzed(events).Diagnosis(), PlanOptions{})
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", there, err, want)
		}
		if err == nil && (plan.Steps[1].Kind != event.StepOpen || plan.Steps[1].Path != there) {
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
		if _, err := PlanRepair(analyzed(events).Diagnosis(), PlanOptions{}); !errors.Is(err, want) {
			t.Errorf("map_files %+v: %v, want %v", may, err, want)
		}
	}
}

func TestPlanIsData(t *testing.T) {
	p, err := PlanRepair(analyzed(hung()).Diagnosis(), PlanOptions{})
	if err != nil {
		t.Fatal(err)
	}
	open, replace, guard := p.Steps[1], p.Steps[5], p.Steps[9]
	if open.Path != "/proc/2162/fd/4" || open.Flags != "O_RDONLY|O_CLOEXEC|O_NOCTTY|O_NONBLOCK" || !open.Expect.Same(memfd) || open.TID != gdbPID {
		t.Errorf("%+v", open)
	}
	if !replace.FD.Is(16) || !replace.Replaces.Same(ownPipe) {
		t.Errorf("%+v", replace)
	}
	if guard.Name != "/proc/self/fd/4" || !guard.Expect.Same(memfd) {
		t.Errorf("%+v", guard)
	}
	results := map[event.Text]bool{}
	for _, s := range p.Steps {
		for _, call := range []*event.PlannedCall{s.Call, s.UndoCall} {
			if call == nil {
				continue
			}
			results[call.Result.Arg()] = true
			for _, arg := range call.Args {
				if arg[0] == '$' && !results[arg] {
					t.Errorf("%s: %s is not known yet", call, arg)
				}
			}
		}
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
	p, err := PlanRepair(analyzed(s).Diagnosis(), PlanOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if want := "[attach open unblock flags keep replace close close resume attach open unblock flags keep replace close close resume guard guard]"; kinds(p) != want {
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
