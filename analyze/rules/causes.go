package rules

import (
	"whosefd/analyze/state"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// compared is a name that debugger and inferior resolve differently, for the
// question why.
type compared struct {
	name     *decode.Name
	debugger *event.Process
	inferior *event.Inferior // nil where nothing is known of it
	meant    meant
}

// causes are looked for in this order; the first that applies is the one. To add
// a cause, add a row here, a constant to [Rule], and its words.
var causes = []struct {
	rule    Rule
	applies func(*compared) bool
}{
	{RuleSelfFD, func(c *compared) bool {
		return c.name.Kind == decode.SelfFD || c.name.Kind == decode.PIDFD && c.name.PID == c.debugger.PID
	}},
	{RuleSelfLink, func(c *compared) bool { return c.name.Kind == decode.SelfLink }},
	{RulePIDNS, func(c *compared) bool {
		return c.ofProcess() && c.inferior != nil && c.inferior.Core == nil &&
			(c.otherNamespace("pid") || c.name.PID != c.inferior.PID && !c.sameNamespace("pid"))
	}},
	{RuleRelative, func(c *compared) bool {
		return c.name.Kind == decode.Relative &&
			(c.inferior == nil || c.inferior.Cwd == "" || c.debugger.Cwd == "" || c.inferior.Cwd != c.debugger.Cwd)
	}},
	{RuleMountNS, func(c *compared) bool { return !c.ofProcess() && (c.otherNamespace("mnt") || c.otherRoot()) }},
	{RuleReplacedFile, func(*compared) bool { return true }},
}

// cause says why debugger and inferior mean different files by a name.
func cause(s *state.State, name event.Text, m meant) Rule {
	if m.lm != nil && m.lm.Name != name && decode.MapText(string(name)) {
		return RuleReplacedFile // no path at all
	}
	n, _ := nameOf(s, name, m.lm)
	c := &compared{&n, &s.Debugger, s.Inferiors[m.pid], m}
	for _, known := range causes {
		if known.applies(c) {
			return known.rule
		}
	}
	return ""
}

// nameOf says what kind of name it is to the debugger. Where links in a library's name lead
// through /proc/self, it is the one that they make, through.
func nameOf(s *state.State, name event.Text, lm *event.LinkMap) (n decode.Name, through event.Text) {
	if lm != nil && lm.Name == name {
		for _, r := range lm.Resolves {
			if r.PID == s.Debugger.PID && r.Through != "" {
				return decode.ClassifyName(string(r.Through)), r.Through
			}
		}
	}
	return decode.ClassifyName(string(name)), ""
}

// kind is what kind of name a suspect's is to the debugger.
func (v *view) kind(s *suspect) decode.Name {
	n, _ := nameOf(v.State, s.name, s.meant.lm)
	return n
}

// ofProcess says whether the name has the number of a process.
func (c *compared) ofProcess() bool {
	return c.name.Kind == decode.PIDFD || c.name.Kind == decode.PIDPath
}

// otherRoot says that the inferior reaches by the name what it has mapped, and the
// debugger does not: they have the same mounts, and another root (chroot).
func (c *compared) otherRoot() bool {
	if c.meant.lm == nil {
		return false
	}
	t, known := resolution(c.meant.lm, c.meant.pid)
	rel, _ := c.meant.compare(t)
	return known && rel == same
}

func (c *compared) otherNamespace(kind string) bool {
	return c.inferior != nil && otherNamespace(c.debugger, &c.inferior.Process, kind)
}

func (c *compared) sameNamespace(kind string) bool {
	return c.debugger.Namespaces[kind] != 0 && c.debugger.Namespaces[kind] == c.inferior.Namespaces[kind]
}

// otherNamespace says whether two processes are known to be in different ones.
func otherNamespace(x, y *event.Process, kind string) bool {
	return x.Namespaces[kind] != 0 && y.Namespaces[kind] != 0 && x.Namespaces[kind] != y.Namespaces[kind]
}
