package report

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"whosefd/analyze/rules"
	"whosefd/analyze/words"
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

func newPicture(f *words.Finding, d *words.Diagnosis) picture {
	verb := "opened"
	if !f.Opened.FD.Known && f.Confidence == rules.Possible {
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
		p.opened.details = append(p.opened.details, "the same as its own "+numbered("descriptor", same))
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

// diagram is a picture with the tables of descriptors of the two processes.
type diagram struct {
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

// newDiagram adds the tables of descriptors; of says which a process has.
func newDiagram(f *words.Finding, d *words.Diagnosis, of func(event.PID) []event.Descriptor) diagram {
	p := newPicture(f, d)
	verb, _, _ := strings.Cut(p.opened.target, ":")
	return diagram{p, debuggerTable(f, d, of(f.Opened.PID), verb), inferiorTable(f, d, of)}
}

func debuggerTable(f *words.Finding, d *words.Diagnosis, listed []event.Descriptor, verb string) fdTable {
	t := fdTable{comm: comm(d, f.Opened.PID, "debugger"), role: "debugger", pid: f.Opened.PID}
	opened := f.Opened.Target
	t.fill(listed, fdRow{fd: number(f.Opened.FD, "–"), target: target(&opened), tag: verb}, func(x *event.Descriptor, r *fdRow) {
		switch {
		case f.Opened.FD.Is(x.FD) && x.Target.Same(opened):
			r.tag, r.hit = verb, true
		case x.Target.Same(opened):
			r.tag = "same file"
		}
	})
	if same := f.Opened.SameAsFD; f.Opened.FD.Known && len(same) > 0 {
		all := slices.Sorted(slices.Values(append([]event.FD{f.Opened.FD.Val}, same...)))
		t.note = fmt.Sprintf("%s are one file: device %d, inode %d", words.List(all), opened.Dev, opened.Ino)
		if opened.Dev == 0 { // a log does not say
			t.note = fmt.Sprintf("%s are one file: inode %d", words.List(all), opened.Ino)
		}
	}
	return t
}

func inferiorTable(f *words.Finding, d *words.Diagnosis, of func(event.PID) []event.Descriptor) fdTable {
	t := fdTable{comm: "inferior", role: "inferior", note: "not in the evidence"}
	in := f.Intended
	if in == nil {
		if len(d.Inferiors) == 1 {
			t.pid = d.Inferiors[0].PID
			t.comm = comm(d, t.pid, t.comm)
		}
		t.fill(of(t.pid), fdRow{fd: "?", target: "not known", tag: "meant"}, nil)
		return t
	}
	t = fdTable{comm: comm(d, in.PID, "inferior"), role: "inferior", pid: in.PID}
	if in.PID < event.NoPID {
		t.role, t.pid = "core file", 0
	}
	t.fill(of(in.PID), fdRow{fd: number(in.FD, "map"), target: target(&in.Target), tag: "meant"}, func(x *event.Descriptor, r *fdRow) {
		if in.FD.Is(x.FD) {
			r.tag, r.hit = "meant", true
		}
	})
	if !in.FD.Known {
		t.note = "in its memory"
		if n := decode.ClassifyName(string(f.Name)); n.Kind == decode.SelfFD || n.Kind == decode.PIDFD {
			t.note = fmt.Sprintf("in its memory; descriptor %d is not that file now", n.FD)
		}
		if in.PID < event.NoPID {
			t.note = "it had it in its memory"
		}
	}
	return t
}

// fill takes the descriptors that a process has, as note has them; where none is
// hit, the file that must be there comes last.
func (t *fdTable) fill(listed []event.Descriptor, must fdRow, note func(*event.Descriptor, *fdRow)) {
	must.hit = true
	for _, x := range listed {
		r := fdRow{fd: strconv.Itoa(int(x.FD)), access: Clean(x.Access), target: target(&x.Target)}
		if note != nil {
			note(&x, &r)
		}
		t.rows = append(t.rows, r)
	}
	if !slices.ContainsFunc(t.rows, func(r fdRow) bool { return r.hit }) {
		t.rows = append(t.rows, must)
	}
	t.shorten()
}

// number is that of a descriptor, or what stands for one that is not known.
func number(fd event.Opt[event.FD], unknown string) string {
	if !fd.Known {
		return unknown
	}
	return strconv.Itoa(int(fd.Val))
}

// numbered are numbers behind their noun: "descriptors 3, 4".
func numbered(noun string, fds []event.FD) string {
	if len(fds) > 1 {
		noun += "s"
	}
	return noun + " " + strings.Trim(strings.ReplaceAll(fmt.Sprint(fds), " ", ", "), "[]")
}

// comm is the name of a process alone.
func comm(d *words.Diagnosis, pid event.PID, unknown string) string {
	if d.Debugger != nil && d.Debugger.PID == pid && d.Debugger.Comm != "" {
		return Clean(string(d.Debugger.Comm))
	}
	for _, inf := range d.Inferiors {
		if (inf.Core == nil && inf.PID == pid || inf.Core != nil && event.CorePID(inf.Core.ID) == pid) && inf.Comm != "" {
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
