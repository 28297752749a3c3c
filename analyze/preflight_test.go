package analyze

import (
	"strings"
	"testing"

	"whosefd/tracer/event"
)

// before is a process that no debugger looks at yet, with libraries by these names.
func before(maps ...*event.LinkMap) []event.Event {
	session := gdbSession("preflight")
	session.Debugger.Comm = "whosefd"
	inf := fromMemory()
	inf.TracerTID, inf.Libraries = 0, len(maps)
	events := []event.Event{session, inf}
	for _, lm := range maps {
		events = append(events, lm)
	}
	return events
}

func TestPreflight(t *testing.T) {
	named := func(name event.Text, index int) *event.LinkMap {
		lm := library(infPID, index, name, memfd, libc, memfd)
		return lm
	}
	for fd, want := range map[string]string{
		"0": "stolen-input likely", "2": "stolen-input likely", "3": "hang likely", "12": "hang likely", "13": "hang possible",
		"14": "wrong-file possible", "16": "wrong-file possible", "17": "error likely", "1000": "error likely",
	} {
		p := analyzed(before(named(event.Text("/proc/self/fd/"+fd), 4))).Preflight()
		if len(p.Names) != 1 || string(p.Names[0].Effect)+" "+string(p.Names[0].Confidence) != want || p.Names[0].Rule != RuleSelfFD {
			t.Errorf("descriptor %s: %+v, want %s", fd, p.Names, want)
		}
		if p.Verdict != strings.Fields(want)[0] || !p.Found() {
			t.Errorf("descriptor %s: verdict %s", fd, p.Verdict)
		}
	}
	// The worst comes first, and each remedy once.
	p := analyzed(before(named("/proc/self/fd/40", 1), named("/proc/self/fd/5", 2), named("/proc/self/fd/1", 3))).Preflight()
	var order []string
	for _, n := range p.Names {
		order = append(order, string(n.Effect))
	}
	if strings.Join(order, " ") != "hang stolen-input error" || p.Verdict != "hang" {
		t.Errorf("%v, verdict %s", order, p.Verdict)
	}
	kinds := map[string]int{}
	for _, r := range p.Remedies {
		kinds[r.Kind]++
	}
	if kinds["guard"] != 1 || kinds["gdb-plugin"] != 1 || kinds["links"] != 1 || kinds["program"] != 1 || kinds["repair"]+kinds["release"] != 0 {
		t.Errorf("remedies: %+v", p.Remedies)
	}
}

// gdb enters another mount namespace by itself: that is no finding.
func TestPreflightMounts(t *testing.T) {
	events := before(library(infPID, 2, "/lib/x86_64-linux-gnu/libc.so.6", libc, otherLib, libc))
	for _, ev := range events {
		if inf, ok := ev.(*event.Inferior); ok {
			inf.Namespaces = map[string]uint64{"mnt": 101, "pid": 200, "user": 300}
		}
	}
	p := analyzed(events).Preflight()
	if p.Found() || p.Verdict != VerdictOK || len(p.Notes) != 1 || !strings.Contains(string(p.Notes[0]), "mount namespace") {
		t.Errorf("%+v", p)
	}
}

func TestPreflightWithoutEvidence(t *testing.T) {
	if p := New().Preflight(); p.Found() || p.Verdict != VerdictOK || p.Summary == "" {
		t.Errorf("%+v", p)
	}
}

// foretold is the analysis of a process in other namespaces than ours, or of
// another user of whosefd.
func foretold(t *testing.T, namespaces map[string]uint64, uid int, maps ...*event.LinkMap) *Preflight {
	t.Helper()
	events := before(maps...)
	for _, ev := range events {
		switch ev := ev.(type) {
		case *event.Inferior:
			if namespaces != nil {
				ev.Namespaces = namespaces
			}
			ev.Cwd = "/elsewhere"
		case *event.Session:
			ev.Debugger.UID, ev.Debugger.MapFiles = event.Some(uid), event.Some(uid == 0)
		}
	}
	return analyzed(events).Preflight()
}

func TestPreflightForetells(t *testing.T) {
	same := map[string]uint64(nil)
	mounts := map[string]uint64{"mnt": 101, "pid": 200, "user": 300}
	both := map[string]uint64{"mnt": 101, "pid": 201, "user": 300}
	fifo := event.Target{Kind: event.FIFO, Link: "/srv/fifo", Dev: 0x801, Ino: 700}
	silent, denied := event.Target{Kind: event.Unknown, Error: "ETIMEDOUT"}, event.Target{Kind: event.Unknown, Error: "EACCES"}
	lib := func(name event.Text, here, there event.Target) *event.LinkMap {
		return library(infPID, 3, name, libc, here, there)
	}
	for name, tc := range map[string]struct {
		namespaces map[string]uint64
		uid        int
		lm         *event.LinkMap
		want       string // rule, effect and confidence of the one name; else the verdict
		remedies   string // kinds
	}{
		"right":                     {same, 0, lib("/lib/a.so", libc, libc), "ok", ""},
		"chroot":                    {same, 0, lib("/lib/a.so", otherLib, libc), "mount-namespace wrong-file likely", "guard links"},
		"chroot, nothing there":     {same, 0, lib("/lib/a.so", gone, libc), "mount-namespace error certain", "guard links"},
		"deleted":                   {same, 0, lib("/lib/a.so", gone, gone), "replaced-file error certain", "links restart"},
		"a FIFO in its place":       {same, 0, lib("/lib/a.so", fifo, fifo), "replaced-file hang likely", "links restart"},
		"mounts":                    {mounts, 0, lib("/lib/a.so", gone, libc), "ok", ""},
		"mounts, deleted inside":    {mounts, 0, lib("/lib/a.so", libc, gone), "replaced-file error certain", "links restart"},
		"mounts, no right to enter": {mounts, 1000, lib("/lib/a.so", libc, libc), "mount-namespace error likely", "links"},
		"mounts, relative":          {mounts, 1000, lib("./a.so", libc, libc), "ok", ""},
		"container, self":           {both, 0, lib("/proc/self/fd/4", memfd, libc), "self-fd error likely", "links program"},
		"container, its number":     {both, 0, lib("/proc/1/fd/4", gone, libc), "ok", ""},
		"pid namespace, its number": {map[string]uint64{"mnt": 100, "pid": 201, "user": 300}, 0, lib("/proc/1/fd/4", gone, libc), "pid-namespace error certain", "links namespace"},
		"relative":                  {same, 0, lib("./a.so", gone, libc), "relative-path error certain", "gdb-plugin guard chdir program"},
		"relative, gone elsewhere":  {same, 0, lib("./a.so", gone, gone), "relative-path error certain", "gdb-plugin guard program"},
		"does not answer":           {same, 0, lib("/lib/a.so", silent, silent), "unknown", ""},
		"may not be looked up":      {same, 0, lib("/lib/a.so", denied, denied), "unknown", ""},
		"does not answer inside":    {mounts, 0, lib("/lib/a.so", gone, silent), "unknown", ""},
		"derived":                   {same, 0, lib("/proc/self/fd/4.dwp", gone, gone), "ok", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := foretold(t, tc.namespaces, tc.uid, tc.lm)
			got := p.Verdict
			if len(p.Names) == 1 {
				n := p.Names[0]
				got = string(n.Rule) + " " + string(n.Effect) + " " + string(n.Confidence)
				if n.Text == "" || p.Verdict != string(n.Effect) {
					t.Errorf("%+v", p)
				}
			}
			var kinds []string
			for _, r := range p.Remedies {
				kinds = append(kinds, r.Kind)
			}
			if got != tc.want || strings.Join(kinds, " ") != tc.remedies || p.Summary == "" {
				t.Errorf("%s, remedies %v, want %s, %s: %s", got, kinds, tc.want, tc.remedies, p.Summary)
			}
			if p.Verdict == VerdictUnknown && (p.Found() || len(p.Missing) != 1) {
				t.Errorf("%+v", p)
			}
		})
	}
}

// What is said of other debuggers is what was seen with them.
func TestPreflightOthers(t *testing.T) {
	for name, want := range map[event.Text]string{
		"/proc/self/fd/0": "gdbserver error, lldb error", "/proc/self/fd/4": "gdbserver wrong-file, lldb error, dlv error",
		"/proc/self/fd/20": "gdbserver error, lldb error, dlv error", "/lib/a.so": "gdbserver error, lldb error",
	} {
		p := foretold(t, nil, 0, library(infPID, 3, name, libc, gone, gone))
		var got []string
		for _, o := range p.Names[0].Others {
			got = append(got, o.Debugger+" "+string(o.Effect))
			if o.Effect == Hang {
				t.Errorf("%s: none but gdb was seen to hang: %+v", name, o)
			}
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s: %v, want %s", name, got, want)
		}
	}
}

// The state that the process is in decides what can be done.
func TestPreflightState(t *testing.T) {
	for name, tc := range map[string]struct {
		set        func(*event.Inferior)
		note, kind string // of the first remedy
	}{
		"traced":                 {func(inf *event.Inferior) { inf.TracerTID, inf.Tracer = 9, &event.Tracer{PID: 8, Comm: "gdb"} }, "gdb (pid 8) traces it already", "explain"},
		"traced by nobody known": {func(inf *event.Inferior) { inf.TracerTID = 9 }, "Thread 9 traces it already", "program"},
		"stopped":                {func(inf *event.Inferior) { inf.State = "T" }, "It is stopped", "gdb-plugin"},
		"list not complete":      {func(inf *event.Inferior) { inf.LinkMapError = "the list has no end" }, "", "gdb-plugin"},
	} {
		events := before(library(infPID, 3, "/proc/self/fd/4", memfd, libc, memfd))
		tc.set(events[1].(*event.Inferior))
		p := analyzed(events).Preflight()
		if tc.note != "" && (len(p.Notes) != 1 || !strings.Contains(string(p.Notes[0]), tc.note)) || len(p.Remedies) == 0 || p.Remedies[0].Kind != tc.kind {
			t.Errorf("%s: notes %q, remedies %+v", name, p.Notes, p.Remedies)
		}
		if name == "list not complete" && len(p.Missing) != 1 {
			t.Errorf("%s: missing %q", name, p.Missing)
		}
	}
	events := before()
	inf := events[1].(*event.Inferior)
	inf.Static, inf.LinkMapError = true, "static program"
	if p := analyzed(events).Preflight(); p.Verdict != VerdictUnknown || len(p.Missing) != 1 || !strings.Contains(string(p.Summary), "static program") {
		t.Errorf("%+v", p)
	}
	inf.Static = false
	if p := analyzed(events).Preflight(); p.Verdict != VerdictUnknown || len(p.Missing) != 1 {
		t.Errorf("%+v", p)
	}
}
