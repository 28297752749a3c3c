package filter

import (
	"strings"
	"testing"

	"whosefd/analyze/rules"
	"whosefd/tracer/event"
)

func TestCalls(t *testing.T) {
	calls := map[string]*event.Syscall{
		"slow": {T: 2e6, PID: 7, TID: 8, Name: "openat", Path: "/proc/self/fd/4", Ret: event.Some[int64](16), DurUS: event.Some[int64](1500),
			Target: &event.Target{Kind: event.Pipe, Link: "pipe:[42]"}},
		"failed": {PID: 7, TID: 7, Name: "openat", Path: "/home/me/it's \"x\".so", Errno: "ENOENT", Ret: event.Some[int64](-1), DurUS: event.Some[int64](3)},
		"open":   {PID: 7, TID: 7, Name: "read", FD: event.Some[event.FD](16), Count: event.Some[uint64](4096), Unfinished: true},
	}
	marks := map[string]rules.Mark{"slow": {Rule: rules.RuleSelfFD, Effect: rules.Hang}}
	for _, tc := range []struct{ expr, want string }{
		{`call == "openat" && path =~ "/proc/" && errno == "" && dur > 1ms`, "slow"},
		{`path=~"^/proc/self/fd/[0-9]+$"`, "slow"},
		{`path !~ "/proc/"`, "failed open"},
		{`dur < 1ms`, "failed"},
		{`dur > 1.4ms and dur < 0.0016`, "slow"},
		{`not (dur < 1ms)`, "open slow"},
		{`fd == 16`, "open"}, {`fd != 16`, "failed slow"}, {`newfd in [3, 16]`, "slow"},
		{`tid == 8 || unfinished`, "open slow"},
		{`errno in ["ENOENT", "EACCES"]`, "failed"},
		{`path contains 'it\'s "x"'`, "failed"},
		{"path endsWith `x\".so`", "failed"},
		{`kind == "pipe" && target startsWith "pipe:"`, "slow"},
		{`rule == "self-fd"`, "slow"}, {`effect != ""`, "slow"},
		{`path == "=~ 1ms"`, ""}, {`ret == 0x10`, "slow"}, {`t >= 2s`, "slow"}, {`t >= 1m`, ""}, {`true`, "failed open slow"},
	} {
		c, err := CompileCalls(tc.expr)
		if err != nil {
			t.Errorf("%s: %v", tc.expr, err)
			continue
		}
		var got []string
		for _, name := range []string{"failed", "open", "slow"} {
			if c.Match(calls[name], marks[name]) {
				got = append(got, name)
			}
		}
		if s := strings.Join(got, " "); s != tc.want || c.Err() != nil {
			t.Errorf("%s: chose %q, want %q; %v", tc.expr, s, tc.want, c.Err())
		}
	}
}

// Each slip is told, and where; none is an empty result.
func TestSlips(t *testing.T) {
	for _, tc := range []struct{ expr, want string }{
		{`pth == "x"`, "unknown name pth at character 1; the fields are call, path, target"},
		{`dur > 1ms && pth == "x"`, "at character 14"},
		{`path =~ "x" && pth == ""`, "at character 16"},
		{`path =~ "("`, "missing closing )"},
		{`call > 3`, "mismatched types string and int"},
		{`fd == "3"`, "mismatched types number and string"},
		{`path`, "expected bool, but got string"},
		{`call == "opnat"`, `call "opnat": no call of that name`},
		{`call == "open*"`, `=~`},
		{`call in ["read", "raed"]`, `call "raed"`},
		{`"ENOENTT" == errno`, "no error has that name"},
		{`kind == "fiffo"`, "not one of regular directory pipe fifo"},
		{`rule != "selffd"`, "not one of self-fd"},
		{`call = "read"`, "at character 6"},
		{`dur > 5x`, "bad number"},
		{`call == "read`, "at character"}, {`path == 'a\`, "at character"}, {``, "unexpected token"}, {`len(path) > 3`, "unknown name len"},
	} {
		if _, err := CompileCalls(tc.expr); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.expr, err, tc.want)
		}
	}
}

// What has no value for some call is told, and does not choose it.
func TestNoValue(t *testing.T) {
	c, err := CompileCalls(`path =~ errno`)
	if err != nil {
		t.Fatal(err)
	}
	if c.Match(&event.Syscall{Path: "x", Errno: "("}, rules.Mark{}) || c.Err() == nil {
		t.Errorf("chosen, or no error: %v", c.Err())
	}
}

func FuzzCompile(f *testing.F) {
	f.Add(`call == "openat" && path =~ "^/proc/" && dur > 1ms`)
	f.Add(`'\`)
	f.Add("`")
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := CompileCalls(text); err == nil {
			c.Match(&event.Syscall{Name: "read"}, rules.Mark{})
		}
	})
}
