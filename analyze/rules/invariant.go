package rules

import (
	"cmp"
	"fmt"
	"strings"

	"whosefd/tracer/event"
)

// relation is how two targets compare.
type relation uint8

const (
	unsure    relation = iota // not enough is known
	same                      // one file
	different                 // two files
)

// meant is the truth that an opened file is compared with: what the inferior
// has mapped under a name or, where that is not known, what the name leads to
// in the inferior.
type meant struct {
	pid event.PID
	lm  *event.LinkMap // nil: only hint is known
	// hint is the target of the name in the inferior. It proves less: the
	// inferior may have closed or reused the descriptor since.
	hint *event.Target
}

// target is the mapped file, the identity from stat(2) preferred.
func (m meant) target() event.Target {
	switch {
	case m.lm != nil && m.lm.MappedStat != nil && m.lm.MappedStat.Identified():
		t := *m.lm.MappedStat
		if m.lm.Mapped != nil && m.lm.Mapped.Link != "" {
			t.Link = m.lm.Mapped.Link
		}
		return t
	case m.lm != nil && m.lm.Mapped != nil:
		return *m.lm.Mapped
	case m.hint != nil:
		return *m.hint
	}
	return event.Target{Kind: event.Unknown}
}

// mappable says whether a file of that kind can be mapped as a library.
func mappable(k event.Kind) bool {
	switch k {
	case event.Regular, event.Memfd, event.BlockDev, event.CharDev, event.Unknown, "":
		return true
	}
	return false
}

// compare checks the invariant: is t the file that is meant? The confidence is
// that of the answer.
func (m meant) compare(t event.Target) (relation, Confidence) {
	if m.lm == nil || m.lm.Mapped == nil && m.lm.MappedStat == nil {
		return m.compareHint(t)
	}
	if m.lm.Core != 0 {
		return m.compareCore(t)
	}
	stat, mapped := m.lm.MappedStat, m.lm.Mapped
	switch {
	case t.Error != "" && !t.Identified():
		return different, Certain // nothing is there
	case stat != nil && t.Same(*stat), mapped != nil && t.Same(*mapped):
		return same, Certain
	case !mappable(t.Kind):
		return different, Certain // whatever is mapped, it is not this
	case !t.Identified():
		return unsure, Possible
	case stat != nil && stat.Identified():
		return different, Certain
	case mapped == nil || !mapped.Identified():
		return unsure, Possible
	}
	// Only maps is known. Its device is not always that of stat(2) (btrfs,
	// overlayfs), so only inodes of one device can be told apart for sure.
	switch {
	case t.Ino == mapped.Ino:
		return unsure, Possible
	case t.Dev == mapped.Dev:
		return different, Certain
	case t.Kind == event.Memfd || mapped.Kind == event.Memfd:
		return different, Certain // in the kernel's own tmpfs, where the two agree
	case t.Link != "" && t.Link == mapped.Link:
		return unsure, Possible
	}
	return different, Likely
}

// compareCore is compare for an entry of a core: of the file that was mapped, it
// has no identity, but the build id.
func (m meant) compareCore(t event.Target) (relation, Confidence) {
	want, looked := m.lm.Mapped, false
	for _, r := range m.lm.Resolves { // its build id was looked for
		if r.Same(t) {
			t.BuildID, looked = r.BuildID, true
		}
	}
	switch {
	case t.Error != "" && !t.Identified():
		return different, Certain
	case !mappable(t.Kind):
		return different, Certain
	case want.BuildID != "" && t.BuildID != "":
		if want.BuildID == t.BuildID {
			return same, Certain
		}
		return different, Certain
	case want.BuildID != "" && looked:
		return different, Likely // it has none
	case want.Kind == event.Memfd && t.Kind == event.Regular:
		return different, Likely // as far as the core's texts go
	}
	return unsure, Possible
}

func (m meant) compareHint(t event.Target) (relation, Confidence) {
	switch {
	case m.hint == nil:
		return unsure, Possible
	case t.Same(*m.hint):
		return same, Likely
	case m.hint.Identified() && (t.Identified() || t.Error != "" || !mappable(t.Kind)):
		return different, Likely
	}
	return unsure, Possible
}

// resolution is what a name of the list leads to in process pid.
func resolution(lm *event.LinkMap, pid event.PID) (event.Target, bool) {
	for _, r := range lm.Resolves {
		if r.PID == pid {
			return r.Target, true
		}
	}
	return event.Target{}, false
}

// meantBy is what an inferior means by a name of its list.
func meantBy(lm *event.LinkMap) meant {
	m := meant{pid: lm.Owner(), lm: lm}
	if t, known := resolution(lm, m.pid); known {
		m.hint = &t
	}
	return m
}

// programIndex is the index of the program itself in an entry that stands for it.
const programIndex = -1

// program is an entry for the program itself: the text of /proc/PID/exe is the name by which a
// debugger that attaches looks for it. nil where it is not known.
func program(inf *event.Inferior) *event.LinkMap {
	if inf.ExeTarget == nil || inf.Exe == "" || inf.Core != nil {
		return nil
	}
	return &event.LinkMap{PID: inf.PID, Index: programIndex, Name: inf.Exe, Mapped: inf.ExeTarget, MappedStat: inf.ExeTarget,
		Resolves: inf.ExeResolves, Reachable: []event.Text{event.Text(fmt.Sprintf("/proc/%d/exe", cmp.Or(int(inf.LivingTID), int(inf.PID))))}}
}

// objects are the entries of all lists, and the programs themselves.
func (v *view) objects() []*event.LinkMap {
	all := v.LinkMaps()
	for _, pid := range v.InferiorPIDs() {
		if lm := program(v.Inferiors[pid]); lm != nil {
			all = append(all, lm)
		}
	}
	return all
}

// isLibrary says whether a list entry is an object with a name and a file: not
// the program itself, nor the vdso.
func isLibrary(lm *event.LinkMap) bool {
	switch {
	case lm.Name == "", strings.HasPrefix(string(lm.Name), "linux-vdso.so"), strings.HasPrefix(string(lm.Name), "linux-gate.so"):
		return false
	case lm.Mapped != nil && strings.HasPrefix(string(lm.Mapped.Link), "["):
		return false
	}
	return true
}
