package report

import (
	"fmt"
	"io"

	"whosefd/analyze/words"
	"whosefd/tracer/event"
)

// chain draws who waits for whom, each above the one that it waits for; a bar on the
// left joins those that wait for each other.
//
//	.-> gdb (pid 2158)
//	|     waits until somebody reads from descriptor 1 …
//	|   prog (pid 2150)
//	|     is kept stopped by its tracer, gdb (pid 2158)
//	'-- and so on, in a circle
func (p *page) chain(links []words.Link) {
	for i, l := range links {
		first, rest := "    ", "    "
		if l.Circle {
			first, rest = "|   ", "|   "
			if i == 0 || !links[i-1].Circle {
				first = ".-> "
			}
		}
		p.hang("  "+first, "  "+rest+"  ", Clean(string(l.Who)))
		p.hang("  "+rest+"  ", "  "+rest+"  ", Clean(string(l.Does)))
	}
	if n := len(links); n > 0 && links[n-1].Circle {
		end := "'-- and so on, in a circle"
		if n == 1 || !links[n-2].Circle {
			end = "'-- itself"
		}
		p.line("  " + p.st.paint(bold, end))
	}
}

// WaitsSchema is the version of the list of waits as JSON.
const WaitsSchema = "whosefd.waits/v1"

// WaitsJSON is the list of waits as JSON.
type WaitsJSON struct {
	Schema    string    `json:"schema"`
	Processes []WaitsOf `json:"processes"`
}

// WaitsOf are those of a process, and of those that it waits for.
type WaitsOf struct {
	PID     event.PID    `json:"pid"`
	Verdict string       `json:"verdict"`
	Summary event.Text   `json:"summary"`
	Waits   []words.Wait `json:"waits"`
}

// Waits writes what processes wait for, and who could end that: as text or, as JSON,
// the same that is in their diagnoses.
func Waits(w io.Writer, all []*words.Diagnosis, f Format, st Style) error {
	if f == FormatJSON || f == FormatLines {
		list := WaitsJSON{Schema: WaitsSchema, Processes: []WaitsOf{}}
		for _, d := range all {
			list.Processes = append(list.Processes, WaitsOf{d.Debugger.PID, d.Verdict, d.Summary, d.Waits})
		}
		if f == FormatLines {
			return lines(w, WaitsSchema, "processes", list.Processes)
		}
		return JSON(w, list)
	}
	p := &page{st: st}
	for i, d := range all {
		if i > 0 {
			p.line("")
		}
		p.verdict(d.Verdict, d.Summary)
		chain := d.Chain
		if len(d.Findings) > 0 && len(d.Findings[0].Chain) > 0 {
			chain = d.Findings[0].Chain
		}
		p.chain(chain)
		p.head("All that wait")
		for _, wait := range d.Waits {
			p.item("-", Clean(fmt.Sprintf("%s (pid %d, thread %d) %s", wait.Comm, wait.PID, wait.TID, wait.Text)))
		}
	}
	_, err := w.Write(p.buf.Bytes())
	return err
}
