package report

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"whosefd/analyze/rules"
	"whosefd/analyze/words"
)

// PS writes the table of debuggers, a row for each thread that is not idle
// like another one of the same debugger.
func PS(w io.Writer, rows []words.PSRow, f Format, st Style) error {
	switch f {
	case FormatJSON:
		return list(w, rows, func(row words.PSRow) PSRowJSON { return PSRowJSON{PSSchema, row} })
	case FormatLines:
		return lines(w, PSSchema, "debuggers", rows)
	case FormatCSV:
		return psCSV(rows).csv(w)
	}
	tbl := &table{cols: []column{
		{name: "pid", right: true}, {name: "debugger", flex: true}, {name: "inferiors", text: true, spare: 2}, {name: "thread", right: true, spare: 3},
		{name: "blocked in", spare: 4}, {name: "on", text: true, spare: 1}, {name: "mark", text: true},
	}}
	for i := range rows {
		psRows(tbl, &rows[i])
	}
	if len(rows) == 0 {
		tbl.notes = append(tbl.notes, "No debugger is running that this user may look at.")
	}
	return tbl.write(w, f, st)
}

// inferiorsText names those of a debugger.
func inferiorsText(r *words.PSRow) string {
	inferiors := make([]string, len(r.Inferiors))
	for i, inf := range r.Inferiors {
		inferiors[i] = fmt.Sprintf("%d %s", inf.PID, Clean(string(inf.Comm)))
		if inf.Core != nil {
			inferiors[i] = Clean("core " + string(inf.Core.Link))
		}
	}
	return strings.Join(inferiors, ", ")
}

func psRows(tbl *table, r *words.PSRow) {
	pid, comm, infs := strconv.Itoa(int(r.PID)), Clean(string(r.Comm)), inferiorsText(r)
	if r.Plugin {
		comm += " (plug-in)"
	}
	if r.Error != "" {
		tbl.add(true, pid, comm, infs, "", "", "", Clean(string(r.Error)))
		return
	}
	mark := func(rule rules.Rule, effect rules.Effect) string {
		return markText(rules.Mark{Rule: rule, Effect: effect})
	}
	// A finding that no thread is stuck on stands in the debugger's first row.
	own := mark(r.Rule, r.Effect)
	for i := range r.Threads {
		if r.Threads[i].Rule != "" {
			own = ""
		}
	}
	type activity struct{ call, on, mark string }
	alike := map[activity]int{}
	var order []activity
	first := map[activity]int{}
	for i := range r.Threads {
		t := &r.Threads[i]
		a := activity{call: Clean(t.Syscall), mark: mark(t.Rule, t.Effect)}
		if t.State != "blocked" {
			a.call = strings.TrimSpace(t.State + " " + a.call)
		}
		if t.Waits != "" {
			a.on = Clean(string(t.Waits))
		} else if t.FD.Known {
			a.on = strings.TrimSpace(fmt.Sprintf("%d %s", t.FD.Val, target(t.Target)))
		}
		if alike[a] == 0 {
			order = append(order, a)
			first[a] = i
		}
		alike[a]++
	}
	if len(order) == 0 {
		tbl.add(own != "", pid, comm, infs, "", "", "", own)
	}
	for n, a := range order {
		thread := strconv.Itoa(int(r.Threads[first[a]].TID))
		if alike[a] > 1 {
			thread += fmt.Sprintf(" +%d", alike[a]-1)
		}
		m := a.mark
		if n == 0 && m == "" {
			m = own
		}
		if n > 0 {
			pid, comm, infs = "", "", ""
		}
		tbl.add(m != "", pid, comm, infs, thread, a.call, a.on, m)
	}
}
