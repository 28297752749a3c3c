package report

import (
	"bytes"
	"encoding/json"
	"testing"

	"whosefd/analyze"
	"whosefd/tracer/event"
)

// The events are what the Trace Event Format asks for: each has the fields of its phase,
// and the slices of a thread lie within or behind each other, as viewers need them.
func TestChrome(t *testing.T) {
	slices, open, waits := 0, 0, 0
	for name, evs := range scenes(t) {
		var buf bytes.Buffer
		a, c := analyze.New(), NewChrome(&buf)
		calls := 0
		for _, ev := range evs {
			if err := c.Add(ev, a.Add(ev)); err != nil {
				t.Fatal(err)
			}
			if call, ok := ev.(*event.Syscall); ok && !call.Resumed {
				calls++
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		harmless(t, name, buf.Bytes())
		var trace struct {
			Unit   string `json:"displayTimeUnit"`
			Events []struct {
				Name, Cat, Ph, S string
				TS, Dur          *int64
				PID, TID         *int
				Args             map[string]any
			} `json:"traceEvents"`
		}
		if err := json.Unmarshal(buf.Bytes(), &trace); err != nil || trace.Unit != "ms" || trace.Events == nil {
			t.Fatalf("%s: %v\n%s", name, err, buf.String())
		}
		ends := map[int][]int64{} // of the slices that are open, by thread
		last := map[int]int64{}
		got := 0
		for _, e := range trace.Events {
			if e.Name == "" || e.TS == nil || e.PID == nil || e.TID == nil || *e.PID < 0 || *e.TID < 0 {
				t.Fatalf("%s: %+v lacks something", name, e)
			}
			switch tid := *e.TID; e.Ph {
			case "M":
				if e.Args["name"] == "" {
					t.Errorf("%s: %+v has no name", name, e)
				}
			case "X":
				if e.Dur == nil || *e.Dur < 0 {
					t.Fatalf("%s: %+v has no duration", name, e)
				}
				if *e.TS >= last[tid] { // else it lies within one that has no end
					last[tid] = *e.TS + *e.Dur
				} else if len(ends[tid]) == 0 {
					t.Errorf("%s: %+v overlaps the slice before it", name, e)
				}
				if slices++; e.Cat == "wait" {
					waits++
				} else {
					got++
				}
			case "B":
				open++
				got++
				ends[tid] = append(ends[tid], *e.TS)
			case "I":
				if e.S == "" {
					t.Errorf("%s: %+v has no scope", name, e)
				}
			default:
				t.Errorf("%s: phase %q", name, e.Ph)
			}
		}
		if got != calls {
			t.Errorf("%s: %d calls, want %d", name, got, calls)
		}
		if name == "trace-hang" {
			golden(t, "chrome.json", buf.Bytes())
		}
	}
	if slices < 50 || open < 3 || waits < 3 {
		t.Errorf("%d slices, %d without end, %d waits: not enough to say anything", slices, open, waits)
	}
}

// A call whose end is not in the evidence lasts until the next of its thread at most: it
// is not left out.
func TestChromeEndNotSeen(t *testing.T) {
	var buf bytes.Buffer
	c := NewChrome(&buf)
	for _, ev := range []event.Event{
		&event.Syscall{T: 100, PID: 7, TID: 7, Name: "read", Unfinished: true},
		&event.Syscall{T: 200, PID: 7, TID: 7, Name: "read", Unfinished: true},
		&event.Syscall{T: 350, PID: 7, TID: 7, Name: "close"},
		&event.Syscall{T: 400, PID: 7, TID: 7, Name: "read", Unfinished: true},
		&event.Syscall{T: 400, PID: 7, TID: 7, Name: "read", Resumed: true, DurUS: event.Some[int64](9)},
	} {
		if err := c.Add(ev, analyze.Mark{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	want := `{"displayTimeUnit":"ms","traceEvents":[
{"name":"read","cat":"call","ph":"X","ts":100,"dur":100,"pid":7,"tid":7,"args":{"result":"its end was not seen"}},
{"name":"read","cat":"call","ph":"X","ts":200,"dur":150,"pid":7,"tid":7,"args":{"result":"its end was not seen"}},
{"name":"close","cat":"call","ph":"X","ts":350,"dur":0,"pid":7,"tid":7},
{"name":"read","cat":"call","ph":"X","ts":400,"dur":9,"pid":7,"tid":7}
]}
`
	if buf.String() != want {
		t.Errorf("got\n%s", buf.String())
	}
}
