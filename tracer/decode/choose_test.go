package decode

import (
	"slices"
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	for _, tc := range []struct {
		patterns, has, hasNot []string
		err                   string
	}{
		{patterns: []string{"openat", "read"}, has: []string{"openat", "read"}, hasNot: []string{"open", "readv"}},
		{patterns: []string{"open*"}, has: []string{"open", "openat", "openat2"}, hasNot: []string{"close"}},
		{patterns: []string{"%file"}, has: []string{"openat", "readlinkat", "execve"}, hasNot: []string{"read", "close"}},
		{patterns: []string{"%desc"}, has: []string{"openat", "read", "close", "dup2"}, hasNot: []string{"execve"}},
		{patterns: []string{"!%desc"}, has: []string{"execve"}, hasNot: []string{"openat", "read"}},
		{patterns: []string{"!openat", "close"}, has: []string{"read"}, hasNot: []string{"openat", "close"}},
		{patterns: []string{"/^open"}, has: []string{"open", "openat"}, hasNot: []string{"close"}},
		{patterns: []string{"/link$|^clo"}, has: []string{"readlink", "close"}, hasNot: []string{"readlinkat", "open"}},
		{patterns: []string{"?opne", "read"}, has: []string{"read"}, hasNot: []string{"open"}},
		{patterns: []string{"!?opne"}, has: []string{"read", "open"}},
		{patterns: []string{"file"}, has: []string{"openat", "execve"}, hasNot: []string{"read"}},
		{patterns: []string{"stat"}, has: []string{"stat"}, hasNot: []string{"lstat", "statx"}},
		{patterns: []string{"%%stat"}, has: []string{"stat", "lstat", "statx"}, hasNot: []string{"read"}},
		{patterns: []string{"?opne"}, err: "no call is left"},
		{patterns: []string{"/("}, err: "missing closing )"},
		{patterns: []string{"/^x"}, err: "no call of that name"},
		{patterns: []string{"connect"}, err: "does not show this call"},
		{patterns: []string{"write"}, err: "does not show this call"},
		{patterns: []string{"network"}, err: "no class"},
		{patterns: []string{"opne"}, err: "no call of that name"},
		{patterns: []string{"read", "%network"}, err: "no class"},
		{patterns: []string{"[a"}, err: "syntax error"},
		{patterns: []string{"!%all"}, err: "no call is left"},
	} {
		names, err := Choose(tc.patterns)
		if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%q: %v", tc.patterns, err)
		}
		for _, n := range tc.has {
			if !slices.Contains(names, n) {
				t.Errorf("%q: %s is not in %q", tc.patterns, n, names)
			}
		}
		for _, n := range tc.hasNot {
			if slices.Contains(names, n) {
				t.Errorf("%q: %s is in %q", tc.patterns, n, names)
			}
		}
	}
}
