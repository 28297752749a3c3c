package main

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"whosefd/analyze"
	"whosefd/samples/scene"
)

// In no format is anything left of the user, the host and the arguments of a real gdb
// that hangs, and what was found is the same.
func TestRedact(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace")
	const user, host = "zacharias", "quimby-host"
	home := filepath.Join(t.TempDir(), "home", user)
	if err := os.MkdirAll(home, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"from_memory", "lib.so"} {
		scene.Copy(t, filepath.Join(scene.Build(t), name), filepath.Join(home, name))
	}
	rec := filepath.Join(t.TempDir(), "rec.jsonl")
	gdb := scene.StartGDB(t, scene.GDB{Dir: home, Env: []string{"HOME=" + home, "USER=" + user, "TOKEN=hunter2hunter2"},
		Args:     []string{"-ex", "set $token = 42777771x", "-ex", "break foo", "-ex", "run", "--args", filepath.Join(home, "from_memory")},
		Launcher: []string{binary(t), "trace", "-q", "-o", rec, "--"}})
	gdb.WaitBlocked(scene.Patience)
	planted := regexp.MustCompile(`(?i)zacharias|quimby|hunter2|42777771x`)
	clean := func(args []string, out string) {
		t.Helper()
		if m := planted.FindStringIndex(out); m != nil {
			t.Errorf("%v: %q is left: …%s…", args, out[m[0]:m[1]], out[max(0, m[0]-100):min(len(out), m[1]+100)])
		}
	}
	also := []string{"--redact", "--redact-also", user + "," + host}
	if err := syscall.Kill(gdb.Launcher, syscall.SIGTERM); err != nil { // gdb hangs on
		t.Fatal(err)
	}
	eventually(t, "the record has its end", func() bool {
		text, err := os.ReadFile(rec)
		return err == nil && bytes.Contains(text, []byte(`{"type":"end"`))
	})
	for _, args := range [][]string{
		{"explain"}, {"explain", "--format", "json"}, {"table"}, {"table", "--format", "json", "--rows", "100000"}, {"table", "--format", "csv"},
		{"table", "--format", "strace"}, {"table", "--format", "chrome"}, {"table", "--format", "jsonl"}, {"table", "--format", "markdown"},
		{"report", "--format", "html"}, {"report", "--format", "markdown"}, {"report", "--format", "text"}, {"report", "--format", "csv"}, {"report", "--format", "json"},
	} {
		args = append(args, rec)
		before, _, want := whosefd(t, args...)
		if !strings.Contains(strings.ToLower(before), user) && args[0] != "explain" {
			t.Errorf("%v: the user is not even in what is not redacted", args)
		}
		args = append(args, also...)
		out, stderr, code := whosefd(t, args...)
		if code != want {
			t.Errorf("%v: exit code %d, without --redact %d: %s", args, code, want, stderr)
		}
		clean(args, out+stderr)
	}
	// The evidence itself.
	redacted := filepath.Join(t.TempDir(), "redacted.jsonl")
	if _, stderr, code := whosefd(t, "explain", rec, "--redact", "-o", redacted, "--redact-also", user+","+host); code == exitTrouble {
		t.Fatal(stderr)
	}
	text, err := os.ReadFile(redacted)
	if err != nil {
		t.Fatal(err)
	}
	clean([]string{redacted}, string(text))
	for _, m := range regexp.MustCompile(`"data":"([^"]*)"`).FindAllSubmatch(text, -1) {
		data, err := base64.StdEncoding.DecodeString(string(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		clean([]string{redacted, "data"}, string(data))
	}
	plain, _ := diagnosis(t, rec)
	after, _ := diagnosis(t, redacted)
	if plain.Verdict != "hang" || after.Verdict != plain.Verdict || len(after.Findings) != 1 || after.Findings[0].Rule != analyze.RuleSelfFD ||
		after.Findings[0].Opened.FD != plain.Findings[0].Opened.FD || len(after.Findings[0].Evidence) != len(plain.Findings[0].Evidence) {
		t.Errorf("found\n%+v\nand redacted\n%+v", plain, after)
	}
	// What is said of the gdb that hangs on.
	pid := strconv.Itoa(gdb.PID)
	for _, args := range [][]string{{"explain", pid}, {"report", pid, "-o", "-", "--format", "markdown"}} {
		args = append(args, also...)
		out, stderr, code := whosefd(t, args...)
		if code != exitFindings {
			t.Errorf("%v: exit code %d: %s", args, code, stderr)
		}
		clean(args, out)
	}
}
