package report

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"whosefd/analyze"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// picture is what is drawn of a finding, on a terminal as in a page: the name,
// and the two processes, of which one got something by it and the other one
// means something by it. Its texts are clean.
type picture struct {
	name          string
	opened, meant side
}

// side is one of the two processes.
type side struct {
	who     string   // "resolved by gdb (pid 2158)"
	target  string   // "opened: pipe:[4798]"
	details []string // "descriptor 16"
}

// lines are the file and what is known of it.
func (s side) lines() []string { return append([]string{s.target}, s.details...) }

func newPicture(f *analyze.Finding, d *analyze.Diagnosis) picture {
	verb := "opened"
	if !f.Opened.FD.Known && f.Confidence == analyze.Possible {
		verb = "would open"
	}
	p := picture{
		name:   Clean(string(f.Name)),
		opened: side{who: "resolved by " + person(d, f.Opened.PID), target: verb + ": " + target(&f.Opened.Target)},
		meant:  side{who: "belongs to an inferior", target: "meant: not known"},
	}
	if f.Inferior != 0 {
		p.meant.who = "belongs to " + person(d, f.Inferior)
	}
	if f.Opened.FD.Known {
		p.opened.details = append(p.opened.details, fmt.Sprintf("descriptor %d", f.Opened.FD.Val))
	}
	if same := f.Opened.SameAsFD; len(same) > 0 {
		p.opened.details = append(p.opened.details, "the same as its own "+fds(same))
	}
	if in := f.Intended; in != nil {
		p.meant = side{who: "belongs to " + person(d, in.PID), target: "meant: " + target(&in.Target)}
		if in.FD.Known {
			p.meant.details = append(p.meant.details, fmt.Sprintf("descriptor %d", in.FD.Val))
		}
		if in.Reachable != "" {
			p.meant.details = append(p.meant.details, "readable now as "+Clean(string(in.Reachable)))
		}
	}
	return p
}

// Tables of descriptors in a picture.

// maxPictureRows is how many descriptors of a process a picture shows; those
// that matter come first.
const maxPictureRows = 20

// scenery is a picture with the tables of descriptors of the two processes.
type scenery struct {
	picture
	left, right fdTable
}

// fdTable is a process with its descriptors. Its texts are clean.
type fdTable struct {
	comm, role string
	pid        event.PID // 0: not known
	rows       []fdRow
	more       int // descriptors that are not shown
	// note is said below the table.
	note string
}

// fdRow is a descriptor, or a file without one.
type fdRow struct {
	fd, access, target string
	// tag says what it has to do with the finding: "opened", "meant",
	// "same file"; empty for the others.
	tag string
	// hit: the arrow of the name ends here.
	hit bool
}

// newScenery adds the tables of descriptors; of says which a process has.
func newScenery(f *analyze.Finding, d *analyze.Diagnosis, of func(event.PID) []event.Descriptor) scenery {
	s := scenery{picture: newPicture(f, d)}
	s.left = debuggerTable(f, d, of(f.Opened.PID))
	s.right = inferiorTable(f, d, of)
	return s
}

func debuggerTable(f *analyze.Finding, d *analyze.Diagnosis, listed []event.Descriptor) fdTable {
	t := fdTable{comm: comm(d, f.Opened.PID, "debugger"), role: "debugger", pid: f.Opened.PID}
	verb, _, _ := strings.Cut(newPicture(f, d).opened.target, ":")
	opened := f.Opened.Target
	seen := false
	for _, x := range listed {
		r := plainRow(x)
		switch {
		case f.Opened.FD.Is(x.FD) && x.Target.Same(opened):
			r.tag, r.hit, seen = verb, true, true
		case x.Target.Same(opened):
			r.tag = "same file"
		}
		t.rows = append(t.rows, r)
	}
	if !seen {
		r := fdRow{fd: "–", target: target(&opened), tag: verb, hit: true}
		if f.Opened.FD.Known {
			r.fd = strconv.Itoa(int(f.Opened.FD.Val))
		}
		t.rows = append(t.rows, r)
	}
	if same := f.Opened.SameAsFD; f.Opened.FD.Known && len(same) > 0 {
		all := slices.Sorted(slices.Values(append([]event.FD{f.Opened.FD.Val}, same...)))
		t.note = fmt.Sprintf("%s are one file: device %d, inode %d", list(all), opened.Dev, opened.Ino)
		if opened.Dev == 0 { // a log does not say
			t.note = fmt.Sprintf("%s are one file: inode %d", list(all), opened.Ino)
		}
	}
	t.shorten()
	return t
}

func inferiorTable(f *analyze.Finding, d *analyze.Diagnosis, of func(event.PID) []event.Descriptor) fdTable {
	in := f.Intended
	if in == nil {
		t := fdTable{comm: "inferior", role: "inferior", note: "not in the evidence"}
		if len(d.Inferiors) == 1 {
			t.comm, t.pid = comm(d, d.Inferiors[0].PID, "inferior"), d.Inferiors[0].PID
			for _, x := range of(t.pid) {
				t.rows = append(t.rows, plainRow(x))
			}
		}
		t.rows = append(t.rows, fdRow{fd: "?", target: "not known", tag: "meant", hit: true})
		t.shorten()
		return t
	}
	t := fdTable{comm: comm(d, in.PID, "inferior"), role: "inferior", pid: in.PID}
	seen := false
	for _, x := range of(in.PID) {
		r := plainRow(x)
		if in.FD.Is(x.FD) {
			r.tag, r.hit, seen = "meant", true, true
		}
		t.rows = append(t.rows, r)
	}
	if !seen {
		r := fdRow{fd: "map", target: target(&in.Target), tag: "meant", hit: true}
		if in.FD.Known {
			r.fd = strconv.Itoa(int(in.FD.Val))
		}
		t.rows = append(t.rows, r)
		if n := decode.ClassifyName(string(f.Name)); !in.FD.Known && (n.Kind == decode.SelfFD || n.Kind == decode.PIDFD) {
			t.note = fmt.Sprintf("in its memory; descriptor %d is not that file now", n.FD)
		} else if !in.FD.Known {
			t.note = "in its memory"
		}
	}
	t.shorten()
	return t
}

// list joins at least two numbers as English does.
func list(fds []event.FD) string {
	words := make([]string, len(fds))
	for i, fd := range fds {
		words[i] = strconv.Itoa(int(fd))
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " and " + words[last]
}

func plainRow(x event.Descriptor) fdRow {
	return fdRow{fd: strconv.Itoa(int(x.FD)), access: Clean(x.Access), target: target(&x.Target)}
}

// comm is the name of a process alone.
func comm(d *analyze.Diagnosis, pid event.PID, unknown string) string {
	if d.Debugger != nil && d.Debugger.PID == pid && d.Debugger.Comm != "" {
		return Clean(string(d.Debugger.Comm))
	}
	for _, inf := range d.Inferiors {
		if inf.PID == pid && inf.Comm != "" {
			return Clean(string(inf.Comm))
		}
	}
	return unknown
}

// shorten leaves the rows that matter, and the first of the others.
func (t *fdTable) shorten() {
	free := maxPictureRows
	keep := make([]bool, len(t.rows))
	for _, wanted := range []func(r *fdRow) bool{
		func(r *fdRow) bool { return r.hit },
		func(r *fdRow) bool { return r.tag != "" },
		func(*fdRow) bool { return true },
	} {
		for i := range t.rows {
			if free > 0 && !keep[i] && wanted(&t.rows[i]) {
				keep[i] = true
				free--
			}
		}
	}
	kept := make([]fdRow, 0, maxPictureRows)
	for i, r := range t.rows {
		if keep[i] {
			kept = append(kept, r)
		}
	}
	t.more, t.rows = len(t.rows)-len(kept), kept
}

// moreText says how many descriptors are not shown.
func (t *fdTable) moreText() string {
	switch t.more {
	case 0:
		return ""
	case 1:
		return "and 1 more"
	}
	return fmt.Sprintf("and %d more", t.more)
}

// lines are the table for a terminal: an arrow for the row where the name
// leads, an equals sign for others of the same file.
func (t *fdTable) lines() []string {
	out := []string{"Descriptors of " + t.comm}
	for _, r := range t.rows {
		mark := " "
		switch {
		case r.hit:
			mark = ">"
		case r.tag != "":
			mark = "="
		}
		l := fmt.Sprintf("%s %3s %-4s %s", mark, r.fd, r.access, r.target)
		if r.tag != "" {
			l += "  <- " + r.tag
		}
		out = append(out, l)
	}
	for _, s := range []string{t.moreText(), t.note} {
		if s != "" {
			out = append(out, "  "+s)
		}
	}
	return out
}
