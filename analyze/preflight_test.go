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
	if kinds["guard"] != 1 || kinds["links"] != 1 || kinds["program"] != 1 || kinds["repair"]+kinds["release"] != 0 {
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
