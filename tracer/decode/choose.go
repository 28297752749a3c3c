package decode

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// classes are those of strace(1), "trace=%class", that have calls which are shown.
var classes = map[string]func(*Call) bool{
	"%all":  func(*Call) bool { return true },
	"%file": func(c *Call) bool { return slices.Contains(c.Args, Path) },
	"%desc": func(c *Call) bool {
		return c.Ret == RetNewFD || slices.ContainsFunc(c.Args, func(a Arg) bool { return a == FD || a == DirFD || a == NewFD || a == FirstFD })
	},
	"%stat": func(c *Call) bool { return c.Class == ClassStat },
}

// Choose gives the names of the calls that are meant by names, globs and classes
// of strace (%file, %desc, %stat); where the first one begins with "!", all the
// others. What means no call that is shown in a trace is an error: a slip of the
// fingers would look like a program that makes none.
func Choose(patterns []string) ([]string, error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	first, others := strings.CutPrefix(patterns[0], "!")
	patterns = append([]string{first}, patterns[1:]...)
	chosen := map[string]bool{}
	for _, p := range patterns {
		means := classes[p]
		if means == nil && strings.HasPrefix(p, "%") {
			return nil, fmt.Errorf("%q: no class of that name is decoded: there are %%file, %%desc, %%stat and %%all", p)
		}
		if means == nil {
			if _, err := path.Match(p, ""); err != nil {
				return nil, fmt.Errorf("%q: %w", p, err)
			}
			means = func(c *Call) bool { ok, _ := path.Match(p, c.Name); return ok }
		}
		found := false
		for i := range rows {
			if c := &rows[i]; c.Shown && means(c) {
				chosen[c.Name], found = true, true
			}
		}
		if !found {
			return nil, fmt.Errorf("%q: no call of that name is decoded", p)
		}
	}
	var names []string
	for i := range rows {
		if c := &rows[i]; c.Shown && chosen[c.Name] != others && !slices.Contains(names, c.Name) {
			names = append(names, c.Name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%q: no call is left", "!"+first)
	}
	return names, nil
}
