package screen

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/mattn/go-runewidth"

	"whosefd/analyze"
	"whosefd/analyze/report"
	"whosefd/analyze/rules"
	"whosefd/tracer/event"
)

// scene is a recording of package analyze's tests.
func scene(t testing.TB, name string) *Record {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../testdata", name+".jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	an := analyze.New()
	rec := &Record{Tables: an.Tables(analyze.Filter{}), Diagnose: an.Diagnosis, Over: true}
	for r := event.NewReader(bytes.NewReader(b)); ; {
		ev, err := r.Next()
		if errors.Is(err, io.EOF) {
			return rec
		}
		if err != nil {
			t.Fatal(err)
		}
		rec.Tables.Add(ev, an.Add(ev))
	}
}

// seen are debuggers, one for each recording.
func seen(t testing.TB, names ...string) (all []Debugger) {
	t.Helper()
	for i, name := range names {
		b, err := os.ReadFile(filepath.Join("../testdata", name+".jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		an := analyze.New()
		for r := event.NewReader(bytes.NewReader(b)); ; {
			ev, err := r.Next()
			if err != nil {
				break
			}
			an.Add(ev)
		}
		d := Debugger{Row: an.PS(), Diagnosis: an.Diagnosis()}
		if i > 0 { // the recordings have the same pids
			d.Row.PID += event.PID(1000 * i)
			for k := range d.Row.Threads {
				d.Row.Threads[k].TID += event.TID(1000 * i)
			}
			for k := range d.Diagnosis.Waits {
				d.Diagnosis.Waits[k].PID += event.PID(1000 * i)
				d.Diagnosis.Waits[k].TID += event.TID(1000 * i)
			}
		}
		all = append(all, d)
	}
	return all
}

// press sends keys, by their names, and gives what was asked for by the last.
func press(m *Model, keys ...string) (cmd tea.Cmd) {
	special := map[string]rune{"enter": tea.KeyEnter, "esc": tea.KeyEscape, "up": tea.KeyUp, "down": tea.KeyDown, "pgup": tea.KeyPgUp,
		"pgdown": tea.KeyPgDown, "home": tea.KeyHome, "end": tea.KeyEnd, "tab": tea.KeyTab, "backspace": tea.KeyBackspace, "f10": tea.KeyF10}
	for _, k := range keys {
		key := tea.KeyPressMsg{Code: special[k]}
		switch {
		case k == "ctrl+c":
			key = tea.KeyPressMsg{Code: 'c', Mod: tea.ModCtrl}
		case k == "ctrl+z":
			key = tea.KeyPressMsg{Code: 'z', Mod: tea.ModCtrl}
		case key.Code == 0:
			key = tea.KeyPressMsg{Code: []rune(k)[0], Text: k}
		}
		_, cmd = m.Update(key)
	}
	return cmd
}

func show(m *Model) string { return strings.Join(m.lines(), "\n") }

// fits fails unless the screen is full and no line is too long.
func fits(t *testing.T, m *Model) {
	t.Helper()
	lines := strings.Split(m.View().Content, "\n")
	if len(lines) != m.height && m.width >= 20 && m.height >= 6 {
		t.Errorf("%d lines of %d\n%s", len(lines), m.height, show(m))
	}
	wide := &runewidth.Condition{StrictEmojiNeutral: true}
	for _, l := range lines {
		if n := wide.StringWidth(l); n > m.width {
			t.Errorf("%d columns of %d: %q", n, m.width, l)
		}
		if strings.ContainsFunc(l, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			t.Errorf("not clean: %q", l)
		}
	}
}

func machineOf(t *testing.T, names ...string) *Model {
	t.Helper()
	all := seen(t, names...)
	m := New(Source{Look: func() ([]Debugger, error) { return all, nil }, Delay: time.Second,
		Follow: func(event.PID) *Record { t.Fatal("attached"); return nil }})
	m.Update(m.look(false)())
	return m
}

func TestSuspiciousFirst(t *testing.T) {
	m := machineOf(t, "prompt", "waiting-inferior", "hang")
	lines := m.lines()
	if !strings.Contains(lines[0], "debuggers: 3  hang: 1") || !strings.Contains(lines[2], "4158") || !strings.Contains(lines[2], "! self-fd: hang") {
		t.Errorf("the hang is not first:\n%s", show(m))
	}
	if !m.Found() || m.Err() != nil {
		t.Error("found", m.Found(), m.Err())
	}
	prompt := machineOf(t, "prompt")
	if want := string(prompt.seen[0].Row.Threads[0].Waits); !strings.Contains(show(prompt), want) || prompt.Found() {
		t.Errorf("no %q:\n%s", want, show(prompt))
	}
}

func TestEvidenceOfARow(t *testing.T) {
	m := machineOf(t, "prompt", "hang")
	press(m, "enter")
	if s := show(m); !strings.Contains(s, "[1 evidence]") || !strings.Contains(s, "hang: gdb (pid 2158) opened /proc/self/fd/4") {
		t.Errorf("no evidence:\n%s", s)
	}
	press(m, "3")
	if s := show(m); !strings.Contains(s, "Nothing is attached") {
		t.Errorf("calls of nobody:\n%s", s)
	}
	press(m, "esc")
	if s := show(m); !strings.Contains(s, "WHAT IT DOES") {
		t.Errorf("not back:\n%s", s)
	}
	if cmd := press(m, "q"); cmd == nil || cmd() != tea.Quit() {
		t.Error("q does not quit")
	}
}

func TestCursorStaysOnItsThread(t *testing.T) {
	m := machineOf(t, "prompt", "waiting-inferior")
	press(m, "end")
	was := *m.machine.chosen()
	all := append(seen(t, "prompt", "waiting-inferior"), func() Debugger { d := seen(t, "prompt", "prompt", "hang")[2]; return d }())
	m.Update(lookedMsg{seen: all})
	if is := m.machine.chosen(); is.tid != was.tid || is.pid != was.pid {
		t.Errorf("the cursor went from %d to %d", was.tid, is.tid)
	}
}

// Nothing is attached unless it is asked for and confirmed; whoever quits is let go
// when the trace has ended.
func TestFollow(t *testing.T) {
	all := seen(t, "hang")
	stopped := 0
	var rec *Record
	var followed event.PID
	m := New(Source{Look: func() ([]Debugger, error) { return all, nil }, Follow: func(pid event.PID) *Record {
		followed, rec = pid, scene(t, "trace-hang")
		rec.Over = false
		rec.Stop = func() { stopped++; rec.Over = true }
		return rec
	}})
	m.Update(m.look(false)())
	press(m, "t")
	if s := show(m); rec != nil || !strings.Contains(s, "Attach to pid 2158") {
		t.Fatalf("not asked:\n%s", s)
	}
	press(m, "n")
	press(m, "t", "esc")
	if rec != nil {
		t.Fatal("attached without a yes")
	}
	press(m, "t", "y")
	if rec == nil || followed != 2158 {
		t.Fatal("not attached", followed)
	}
	if s := show(m); !strings.Contains(s, "TRACES 2158") || !strings.Contains(s, "read 16 pipe:[4798]") || !strings.Contains(s, "! self-fd: hang") {
		t.Errorf("no calls:\n%s", s)
	}
	if cmd := press(m, "ctrl+z"); cmd != nil {
		t.Error("suspends with a traced process")
	}
	stop := press(m, "t")
	first := rec
	press(m, "t", "y") // before the trace has ended
	if rec != first || stop == nil {
		t.Fatal("two traces at once")
	}
	if m.Update(stop()); stopped != 1 || rec == first {
		t.Fatal("not traced again", stopped)
	}
	stopped = 0
	quit := press(m, "ctrl+c")
	if stopped != 0 || quit == nil {
		t.Fatal("the trace", stopped)
	}
	if _, cmd := m.Update(quit()); stopped != 1 || cmd == nil || cmd() != tea.Quit() {
		t.Error("not quit after the trace", stopped)
	}
}

func TestRecordingIsScrolled(t *testing.T) {
	m := New(Source{Record: scene(t, "trace-wrong-file"), Name: "gdb\x1b]0;x\a.jsonl"})
	fits(t, m)
	press(m, "3")
	n := m.page.pane().n
	if n == 0 || m.page.pane().cursor != n-1 {
		t.Fatalf("%d calls, not at the end", n)
	}
	press(m, "!")
	if s := show(m); m.page.pane().n == 0 || m.page.pane().n >= n && !strings.Contains(s, "only: suspicious") {
		t.Errorf("%d of %d\n%s", m.page.pane().n, n, s)
	}
	press(m, "enter")
	if s := show(m); !strings.Contains(s, "mark") || !strings.Contains(s, "leads to") {
		t.Errorf("no call:\n%s", s)
	}
	press(m, "esc", "!", `\`, "z", "z", "enter")
	if m.page.pane().n != 0 {
		t.Errorf("%d calls with zz", m.page.pane().n)
	}
	press(m, `\`, "backspace", "backspace", "enter")
	if m.page.pane().n != n {
		t.Errorf("%d calls of %d", m.page.pane().n, n)
	}
	press(m, "1", "/", "Q", "Q", "enter")
	if s := show(m); !strings.Contains(s, "not found: QQ") {
		t.Errorf("found:\n%s", s)
	}
	if cmd := press(m, "t"); cmd != nil || !strings.Contains(show(m), "not traced") {
		t.Error("traces a recording")
	}
}

func TestWithoutDebuggers(t *testing.T) {
	m := machineOf(t)
	fits(t, m)
	press(m, "enter", "down", "up", "n", "H", "/", "x", "enter")
	if s := show(m); !strings.Contains(s, "No debugger is running") {
		t.Error(s)
	}
	m.Update(lookedMsg{err: errors.New("no \x1b[31mproc")})
	fits(t, m)
	if m.Err() == nil || !strings.Contains(show(m), `no \x1b[31mproc`) {
		t.Error(show(m))
	}
}

// Whatever is pressed and whatever the size, the screen is full, no line is too long,
// and nothing of a process or file reaches it as it is.
func TestAnyKeys(t *testing.T) {
	all := seen(t, "hostile", "hang", "prompt", "thread", "stolen-input")
	all = append(all, Debugger{})
	all[5].Row.PID, all[5].Row.Error = 77, "permission\x1b[2Jdenied"
	keys := []string{"up", "down", "pgup", "pgdown", "home", "end", "enter", "esc", "tab", "1", "2", "3", "4", "5", "!", "H", "Z", "?", "/", `\`, "n", "N",
		"e", "\u202e", "backspace", "t", "y", "q", " "}
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		var m *Model
		if seed%3 == 0 {
			m = New(Source{Record: scene(t, "hostile"), Name: "a\nb"})
		} else {
			m = New(Source{Look: func() ([]Debugger, error) { return all, nil }, Follow: func(event.PID) *Record {
				rec := scene(t, "hostile")
				rec.Stop = func() { rec.Over = true }
				return rec
			}})
			m.Update(m.look(false)())
		}
		var did []string
		for range 150 {
			if r.IntN(8) == 0 {
				m.Update(tea.WindowSizeMsg{Width: 1 + r.IntN(150), Height: 1 + r.IntN(50)})
			}
			if r.IntN(10) == 0 && m.Look != nil {
				m.Update(lookedMsg{seen: all[r.IntN(len(all)):]})
			}
			k := keys[r.IntN(len(keys))]
			did = append(did, k)
			press(m, k)
			fits(t, m)
			if t.Failed() {
				t.Fatalf("seed %d, after %q at %d×%d:\n%s", seed, did, m.width, m.height, show(m))
			}
		}
	}
}

func TestColors(t *testing.T) {
	m := machineOf(t, "hang", "prompt")
	if strings.Contains(m.View().Content, "\x1b") {
		t.Error("colors that were not asked for")
	}
	m.Style = report.Style{Color: true}
	if s := m.View().Content; !strings.Contains(s, "\x1b[7m") {
		t.Errorf("no colors: %q", s)
	}
	if !m.View().AltScreen {
		t.Error("leaves the screen behind")
	}
}

func ExampleModel() {
	m := New(Source{Look: func() ([]Debugger, error) { return nil, nil }})
	m.Update(lookedMsg{})
	fmt.Println(strings.TrimSpace(m.lines()[3]))
	// Output: No debugger is running here that this user may look at.
}

// The last page of calls is full; the cursor follows the newest from the end on, wherever it came there from.
func TestLastPage(t *testing.T) {
	rec := scene(t, "trace-wrong-file")
	m := New(Source{Record: rec, Name: "x"})
	press(m, "3")
	room := m.page.pane
	m.Update(tea.WindowSizeMsg{Width: 80, Height: 8})
	calls := func() (lines int) {
		for _, l := range m.lines()[2:7] {
			if strings.TrimSpace(l) != "" {
				lines++
			}
		}
		return lines
	}
	more := func() {
		for range 3 {
			ev := &event.Syscall{T: 9e6, PID: 2158, TID: 2158, Name: "close", FD: event.Some[event.FD](9), Ret: event.Some[int64](0)}
			rec.Tables.Add(ev, rules.Mark{})
		}
		m.refill()
	}
	more()
	for _, c := range []struct {
		keys    []string
		follows bool
	}{{nil, true}, {[]string{"home"}, false}, {[]string{"end"}, true}, {[]string{"up"}, false}, {[]string{"end", "up", "down"}, true}, {[]string{"pgup"}, false},
		{[]string{"end", "pgup", "pgdown"}, true}} {
		press(m, c.keys...)
		if calls() != 5 {
			t.Errorf("after %q the page is not full:\n%s", c.keys, show(m))
		}
		was := room().cursor
		more()
		if at := room().cursor; c.follows != (at == room().n-1) || !c.follows && at != was {
			t.Errorf("after %q at %d of %d", c.keys, at, room().n)
		}
		if !c.follows {
			continue
		}
		if !strings.Contains(m.lines()[1], fmt.Sprintf("%d/%d", room().n, room().n)) {
			t.Errorf("no position:\n%s", show(m))
		}
	}
}

// At 30 columns titles, tabs, keys and questions are shortened or broken, and say what matters.
func TestNarrowScreen(t *testing.T) {
	m := New(Source{Record: scene(t, "trace-wrong-file"), Name: "x"})
	m.Update(tea.WindowSizeMsg{Width: 30, Height: 7})
	press(m, "3", "home")
	if l := m.lines(); !strings.Contains(l[1], fmt.Sprintf("1 2 [3 calls] 4 5  1/%d", m.page.pane().n)) || strings.TrimSpace(l[6]) != "q quit  ? help  Tab next" {
		t.Errorf("tabs, position or keys are cut:\n%s", show(m))
	}
	live := machineOf(t, "hang", "prompt")
	live.Update(tea.WindowSizeMsg{Width: 30, Height: 8})
	if l := live.lines(); !strings.Contains(l[0], "hang: 1 of 2") || strings.Contains(l[7], "…") || !strings.Contains(l[7], "q quit  ? help") {
		t.Errorf("title or keys are cut:\n%s", show(live))
	}
	press(live, "t")
	if s := strings.Join(strings.Fields(show(live)), " "); !strings.Contains(s, "Attach to pid 2158, and stop it for a moment at each call? [y/N]") {
		t.Errorf("the question is cut:\n%s", show(live))
	}
	fits(t, live)
}

// Who reads a call keeps it, at its place, though older ones are dropped and others left out.
func TestCallStaysAsOthersAreDropped(t *testing.T) {
	an := analyze.New()
	rec := &Record{Tables: an.Tables(analyze.Filter{Rows: 40}), Diagnose: an.Diagnosis, Over: true}
	n := 0
	more := func(calls int) {
		for range calls {
			ev := &event.Syscall{T: event.Micros(n), PID: 7, TID: 7, Name: "openat", Path: event.Text(fmt.Sprintf("/file%d.", n)), Errno: "ENOENT"}
			rec.Tables.Add(ev, map[bool]rules.Mark{true: {Rule: rules.RuleSelfFD, Effect: rules.WrongFile}}[n%3 == 0])
			n++
		}
	}
	more(60)
	m := New(Source{Record: rec, Name: "x"})
	press(m, "3")
	m.Update(tea.WindowSizeMsg{Width: 80, Height: 8})
	press(m, "home")
	show(m)
	press(m, "pgdown", "pgdown", "up")
	line := func() int {
		for i, l := range m.lines() {
			if strings.HasPrefix(l, ">") && strings.Contains(l, "/file27.") {
				return i
			}
		}
		return -1
	}
	was := line()
	if was < 0 {
		t.Fatal(show(m))
	}
	more(2)
	if m.refill(); line() != was {
		t.Errorf("not in line %d after more calls:\n%s", was, show(m))
	}
	press(m, "!")
	press(m, "!")
	if line() < 0 {
		t.Errorf("lost by leaving out others:\n%s", show(m))
	}
	more(10)
	if m.refill(); !strings.Contains(m.lines()[2], ">") || !strings.Contains(m.lines()[2], "/file32.") || m.page.pane().cursor != 0 {
		t.Errorf("not on the oldest of those that are kept:\n%s", show(m))
	}
}

// On a small screen a call's mark, the way back and what is to be read stay.
func TestSmallScreen(t *testing.T) {
	m := New(Source{Record: scene(t, "trace-wrong-file"), Name: "x"})
	m.Update(tea.WindowSizeMsg{Width: 78, Height: 12})
	press(m, "3", "!")
	if s := show(m); !strings.Contains(s, "! ") || !strings.Contains(s, ": wrong-file") || !strings.Contains(s, " q quit  ? help") {
		t.Errorf("no mark, or no keys:\n%s", s)
	}
	live := machineOf(t, "hang")
	live.Update(tea.WindowSizeMsg{Width: 30, Height: 12})
	press(live, "enter", "3")
	if s := strings.Join(strings.Fields(show(live)), " "); !strings.Contains(s, "stops it for a moment.") || !strings.Contains(s, "q back ? help") {
		t.Errorf("not to its end:\n%s", show(live))
	}
	press(live, "?", "end")
	if s := strings.Join(strings.Fields(show(live)), " "); !strings.Contains(s, `">" is the cursor.`) {
		t.Errorf("not to its end:\n%s", show(live))
	}
	live.Update(tea.WindowSizeMsg{Width: 30, Height: 200})
	press(live, "q", "1")
	if s := strings.ReplaceAll(strings.ReplaceAll(show(live), "\n", ""), " ", ""); !strings.Contains(s, "whosefdrepair2158") {
		t.Errorf("the remedy is cut:\n%s", show(live))
	}
}
