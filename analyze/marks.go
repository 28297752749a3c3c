package analyze

import (
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// markOf says what is worth a mark about an open, with what is known by then:
// the inferior's list often comes later than the open.
func (a *Analyzer) markOf(o *opened) Mark {
	name := a.names.classify(o.name)
	if name.Derived || o.rewritten || strings.Contains(o.flags, "O_DIRECTORY") {
		return Mark{}
	}
	result := o.result()
	owners := a.owners(o)
	for _, m := range owners {
		if rel, _ := m.compare(result); rel == same {
			return Mark{}
		}
	}
	for _, m := range owners {
		if rel, _ := m.compare(result); rel == different {
			return Mark{a.cause(o.name, m), a.expected(result)}
		}
	}
	if len(owners) > 0 {
		return Mark{}
	}
	found := a.withoutList(suspect{name: o.name, opened: result, open: o, from: a.from(o)}, *name)
	if len(found) == 0 {
		return Mark{}
	}
	return Mark{a.cause(o.name, found[0].meant), a.expected(result)}
}

// nameCache remembers what kind the latest names are: a debugger opens the same
// ones again and again, and each open is looked at more than once.
type nameCache [64]struct {
	text event.Text
	name decode.Name
}

// classify is [decode.ClassifyName]. The result is valid until the next call.
func (c *nameCache) classify(text event.Text) *decode.Name {
	h := len(text)
	if h > 0 {
		h += int(text[len(text)-1])*3 + int(text[len(text)/2])*7
	}
	e := &c[h%len(c)]
	if e.text != text || text == "" {
		e.text, e.name = text, decode.ClassifyName(string(text))
	}
	return &e.name
}
