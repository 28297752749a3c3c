package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"whosefd/analyze"
)

// The page says what the program says.
func TestRulesPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/CAUSES.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(page)), " ")
	out, _, code := whosefd(t, "explain", "--rules")
	if code != exitNothing {
		t.Fatalf("exit code %d", code)
	}
	check := func(what, paragraph string) {
		t.Helper()
		if !strings.Contains(text, "### `"+what+"`") || !strings.Contains(text, paragraph) {
			t.Errorf("docs/CAUSES.md lacks %s: %s", what, paragraph)
		}
		if !strings.Contains(out, what) || !strings.Contains(out, paragraph) {
			t.Errorf("explain --rules lacks %s: %s", what, paragraph)
		}
	}
	printed, _, code := whosefd(t, "explain", "--rules", "--format", "json")
	var rules analyze.Rules
	if err := json.Unmarshal([]byte(printed), &rules); err != nil || code != exitNothing || rules.Schema != analyze.RulesSchema {
		t.Fatalf("exit code %d, %v: %s", code, err, printed)
	}
	for _, c := range rules.Causes {
		check(string(c.Rule), c.Text)
		for _, n := range strings.Split(c.Names, ", ") { // none for the rules about waits
			if n != "" && !strings.Contains(text, "`"+n+"`") {
				t.Errorf("docs/CAUSES.md lacks the name %s", n)
			}
		}
	}
	for _, e := range rules.Effects {
		check(string(e.Effect), e.Text)
	}
	if n := strings.Count(string(page), "\n### "); n != len(rules.Causes)+len(rules.Effects) {
		t.Errorf("docs/CAUSES.md has %d, the program %d and %d", n, len(rules.Causes), len(rules.Effects))
	}
	if _, stderr, code := whosefd(t, "explain", "--rules", "1"); code != exitTrouble || !strings.Contains(stderr, "--rules") {
		t.Errorf("with an argument: exit code %d, %q", code, stderr)
	}
}

// Each cause that a test brings about is in the list, and the other way round.
func TestRulesAreCauses(t *testing.T) {
	t.Parallel()
	known := map[analyze.Rule]bool{}
	for _, c := range analyze.AllRules().Causes {
		known[c.Rule] = true
	}
	for _, c := range causes {
		if !known[c.rule] {
			t.Errorf("%s is not in the list", c.rule)
		}
		delete(known, c.rule)
	}
	for _, rule := range waitRules {
		delete(known, rule)
	}
	for rule := range known {
		t.Errorf("no test brings %s about", rule)
	}
}
