package analyze

import (
	"strings"

	"whosefd/tracer/decode"
)

// markOf says what is worth a mark about an open, with what is known by then:
// the inferior's list often comes later than the open.
func (a *Analyzer) markOf(o *opened) Mark {
	name := decode.ClassifyName(string(o.name))
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
			return Mark{a.cause(o.name, m), expected(result)}
		}
	}
	if len(owners) > 0 {
		return Mark{}
	}
	found := a.withoutList(suspect{name: o.name, opened: result, open: o, from: o.from}, name)
	if len(found) == 0 {
		return Mark{}
	}
	return Mark{a.cause(o.name, found[0].meant), expected(result)}
}
