package decode

import (
	"fmt"
	"path"
	"regexp"
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

// oldClasses are names of classes that strace takes without "%" too. Those that are
// names of calls as well (stat, signal) mean the calls.
var oldClasses = []string{"all", "file", "desc", "network", "net", "process", "memory"}

// meaning gives what a pattern says of a call: a name, a glob, a class, or behind "/" a
// regular expression, which like strace's matches anywhere in the name.
func meaning(pattern string) (func(*Call) bool, error) {
	if slices.Contains(oldClasses, pattern) {
		pattern = "%" + pattern
	}
	if text, ok := strings.CutPrefix(pattern, "/"); ok {
		re, err := regexp.Compile(text)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", pattern, err)
		}
		return func(c *Call) bool { return re.MatchString(c.Name) }, nil
	}
	// strace's %%stat is all that %stat is here.
	if class := classes[strings.Replace(pattern, "%%", "%", 1)]; class != nil {
		return class, nil
	} else if strings.HasPrefix(pattern, "%") {
		return nil, fmt.Errorf("%q: a trace shows no class of that name: there are %%file, %%desc, %%stat and %%all", pattern)
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, fmt.Errorf("%q: %w", pattern, err)
	}
	return func(c *Call) bool { ok, _ := path.Match(pattern, c.Name); return ok }, nil
}

// Choose gives the names of the calls that are meant by names, globs, regular
// expressions (/…) and classes of strace (%file, %desc, %stat); where the first one
// begins with "!", all the others. What means no call that is shown in a trace is an
// error, unless it begins with "?": a slip of the fingers would look like a program
// that makes none.
func Choose(given []string) ([]string, error) {
	if len(given) == 0 {
		return nil, nil
	}
	first, others := strings.CutPrefix(given[0], "!")
	patterns := append([]string{first}, given[1:]...)
	chosen := map[string]bool{}
	for _, p := range patterns {
		p, maybe := strings.CutPrefix(p, "?")
		means, err := meaning(p)
		if err != nil {
			return nil, err
		}
		found := false
		for i := range rows {
			if c := &rows[i]; c.Shown && means(c) {
				chosen[c.Name], found = true, true
			}
		}
		switch _, known := amd64().Number(p); { // which has all that others have, but for a few
		case found || maybe:
		case known:
			return nil, fmt.Errorf("%q: a trace does not show this call; it shows those that find, open and read files, such as %%file and %%desc", p)
		default:
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
		return nil, fmt.Errorf("%q: no call is left", strings.Join(given, ","))
	}
	return names, nil
}
