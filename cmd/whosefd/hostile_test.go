package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"whosefd/analyze"
	"whosefd/samples/scene"
	"whosefd/tracer/procview"
)

// hostile is what a name may hold and no output may: a title for the terminal, a
// color that the tool does not use, C1 and direction controls, HTML, JSON,
// markdown, a formula, a shell's substitutions, bytes that are not UTF-8, and
// lines that look like the tool's own.
const hostile = "=1+1|\x1b]0;owned\a\x1b[35m<b>&amp;\u009b31m\u202e\u2066\u200b\u3164\xff\xfe\t\r\nok: all is well\n'\"\\`id`$(id)];[x](y)#1 @root *"

// ownColors are the escape sequences that the tool writes itself.
var ownColors = strings.NewReplacer("\x1b[0m", "", "\x1b[1m", "", "\x1b[1;31m", "", "\x1b[33m", "", "\x1b[32m", "", "\x1b[2m", "")

// checkHarmless fails the test if an output is not fit for a terminal, or not what
// its format says.
func checkHarmless(t *testing.T, args []string, out, stderr string) {
	t.Helper()
	harmless(t, args, ownColors.Replace(out+stderr))
	for line := range strings.Lines(out + stderr) {
		if strings.HasPrefix(line, "ok: all is well") {
			t.Errorf("%q: a process wrote a line of its own", args)
		}
	}
	format := ""
	if i := slices.Index(args, "--format"); i >= 0 {
		format = args[i+1]
	}
	switch format {
	case "json":
		if out != "" && !json.Valid([]byte(out)) {
			t.Errorf("%q: not JSON:\n%s", args, out)
		}
	case "csv":
		for part := range strings.SplitSeq(out, "\n\n") {
			rows, err := csv.NewReader(strings.NewReader(part)).ReadAll()
			if err != nil {
				t.Errorf("%q: %v", args, err)
			}
			for _, cell := range slices.Concat(rows...) {
				if cell != "" && strings.ContainsRune("=+@", rune(cell[0])) {
					t.Errorf("%q: a formula: %q", args, cell)
				}
			}
		}
	case "markdown":
		if args[0] == "report" {
			break // what a process wrote is code there; the tests of package report read it as a browser does
		}
		if strings.Contains(out, "<b>") || strings.Contains(out, "@root") || regexp.MustCompile(`[^\\]\]\(`).MatchString(out) {
			t.Errorf("%q: markup in\n%s", args, out)
		}
	}
}

// Whatever processes are called, nothing raw reaches a terminal, on standard
// output or standard error, in any format.
func TestHostileProcesses(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root", "sh")
	bin := scene.Build(t)
	dir := filepath.Join(t.TempDir(), strings.ReplaceAll(hostile, "/", ""))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "=\x1b[35m\u202e\n|<b>") // a comm has 15 bytes
	scene.Copy(t, filepath.Join(bin, "from_memory"), program)
	lib := filepath.Join(dir, "lib.so")
	scene.Copy(t, filepath.Join(bin, "lib.so"), lib)
	real, err := exec.LookPath("gdb")
	if err != nil {
		t.Fatal(err)
	}
	debugger := filepath.Join(dir, "@g\x1b[35m\xff\n\u202eb<i>")
	if err := os.Symlink(real, debugger); err != nil {
		t.Fatal(err)
	}
	memfd := strings.NewReplacer("/", "", "\x00", "").Replace(hostile)
	p := scene.Start(t, scene.Command{Path: program, Args: []string{"--lib", lib, "--memfd-name", memfd, "--wait"}, Dir: dir})
	inferior := p.WaitReady()
	gdb := scene.StartGDB(t, scene.GDB{Path: debugger, Dir: dir, Args: []string{"-ex", "echo " + hostile, "-p", strconv.Itoa(inferior)}})
	gdb.WaitBlocked(scene.Patience)
	if comm := procFile(t, gdb.PID, "comm"); !strings.Contains(comm, "\x1b") {
		t.Fatalf("the debugger is called %q", comm)
	}
	pid, rec := strconv.Itoa(gdb.PID), filepath.Join(dir, "rec\x1b[35m")
	run := func(args ...string) (string, string) {
		t.Helper()
		out, stderr, _ := whosefd(t, args...)
		checkHarmless(t, args, out, stderr)
		return out, stderr
	}
	run("explain", "-o", rec, pid)
	for _, source := range []string{pid, rec} {
		shown, _ := run("explain", source)
		if !strings.Contains(shown, "all is well") || !strings.Contains(shown, `\x1b[35m`) {
			t.Errorf("the hostile text is not shown:\n%s", shown)
		}
		run("explain", "--color", "always", source)
		run("explain", "--format", "json", source)
	}
	for _, format := range []string{"html", "markdown", "text", "csv"} {
		run("report", "--format", format, rec)
	}
	for _, format := range []string{"table", "text", "json", "jsonl", "markdown", "csv"} {
		run("ps", "--format", format)
		run("table", "--format", format, rec)
		run("preflight", "--format", format, strconv.Itoa(inferior))
	}
	run("table", "--format", "strace", rec)
	run("table", "--format", "chrome", rec)
	for _, args := range [][]string{{"repair", "--dry-run", pid}, {"repair", "--dry-run", "--format", "json", pid},

		{"trace", "--for", "100ms", "-p", pid}, {"trace", "--color", "always", "--", "sh", "-c", `cat "$0" >/dev/null`, lib}, {"trace", "--", program, "--lib", lib},
		// Errors that name what they were given, or what a process is called.
		{"explain", hostile}, {"explain", filepath.Join(dir, "none")}, {"table", hostile}, {"explain", "--" + hostile}, {hostile},
		{"explain", "--format", hostile, "1"}, {"trace", "-o", dir, "--", "true"}, {"trace", "--", filepath.Join(dir, "none")}, {"trace", "--call", hostile, "-p", pid},
		{"trace", "-p", strconv.Itoa(inferior)}, {"guard", "-p", strconv.Itoa(inferior)}, {"man", filepath.Join(dir, "none")}, {"help", hostile},
		{"preflight", "--sysroot", rec, strconv.Itoa(inferior)}, {"report", "-o", filepath.Join(dir, "none", "x"), rec}} {
		run(args...)
	}
	for _, args := range [][]string{{"__complete", "explain", hostile}, {"__complete", hostile, ""}, {"__complete", "table", "--format", hostile}} {
		out, stderr, _ := whosefd(t, args...)
		harmless(t, args, out+stderr)
	}
	asUser(t, checkHarmless, pid)
	remediesAreWords(t, pid)
	// Last, since it changes something.
	r := startWhosefd(t, "repair", pid)
	eventually(t, "repaired", func() bool { return strings.Contains(r.stdout.String(), "Staying as a guard") })
	if err := r.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	r.wait(t)
	checkHarmless(t, r.Args[1:], r.stdout.String(), r.stderr.String())
}

// asUser looks at root's processes as somebody else, who is told why that
// does not work.
func asUser(t *testing.T, check func(t *testing.T, args []string, out, stderr string), pid string) {
	t.Helper()
	for _, args := range [][]string{{"explain", pid}, {"trace", "-p", pid}, {"guard", "-p", pid}, {"ps"}, {"doctor", "--format", "json"}} {
		out, stderr, code := asNobody(t, args...)
		check(t, args, out, stderr)
		if args[0] != "ps" && args[0] != "doctor" && (code != exitTrouble || !strings.Contains(stderr, "belongs to root")) {
			t.Errorf("%q as nobody: exit code %d, %s", args, code, stderr)
		}
	}
}

// remediesAreWords gives each command that is proposed to a shell, and sees
// that it is the words that were meant, and that nothing is run by it.
func remediesAreWords(t *testing.T, pid string) {
	t.Helper()
	out, _, _ := whosefd(t, "explain", "--format", "json", pid)
	var d analyze.Diagnosis
	if err := json.Unmarshal([]byte(out), &d); err != nil || len(d.Findings) == 0 {
		t.Fatalf("%v\n%s", err, out)
	}
	words := func(command string) []string {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "sh", "-c", `printf '%s\0' `+command)
		cmd.Env = []string{"PATH=" + t.TempDir()} // whatever it runs is not found, and says so
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		b, err := cmd.Output()
		if err != nil || stderr.Len() > 0 {
			t.Errorf("%q: %v, %s", command, err, stderr.String())
		}
		return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	}
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	cmdline := strings.Split(strings.TrimSuffix(procFile(t, n, "cmdline"), "\x00"), "\x00")
	guards := 0
	for _, r := range d.Findings[0].Remedies {
		if r.Command == "" {
			continue
		}
		got := words(string(r.Command))
		if r.Kind == "guard" {
			guards++
			if want := append([]string{"whosefd", "guard", "--"}, cmdline...); !slices.Equal(got, want) {
				t.Errorf("%s is %q, want %q", r.Command, got, want)
			}
		}
	}
	if guards != 1 {
		t.Errorf("%d commands for guard: %+v", guards, d.Findings[0].Remedies)
	}
	// As shown to a person, some characters are escaped; it must be words of
	// the same number all the same.
	text, _, _ := whosefd(t, "explain", pid)
	for line := range strings.Lines(text) {
		if command, ok := strings.CutPrefix(line, "  - whosefd guard"); ok {
			if got := words(strings.TrimSpace(command)); len(got) != len(cmdline)+1 {
				t.Errorf("%q is %d words", command, len(got))
			}
		}
	}
}

// Whatever a recording holds, nothing raw reaches a terminal.
func TestHostileRecording(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../analyze/testdata/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatal("no recordings", err)
	}
	dir := t.TempDir()
	kept := map[string]bool{"type": true, "schema": true, "start": true, "arch": true, "addr": true, "pc": true, "kind": true, "name": true,
		"source": true, "state": true, "access": true, "sigint": true, "syscall": true, "errno": true}
	var poison func(v any, all bool) any
	poison = func(v any, all bool) any {
		switch v := v.(type) {
		case string:
			if number := regexp.MustCompile(`^(0x[0-9a-f]+|[A-Za-z0-9+/]+=*)$`); number.MatchString(v) {
				return v
			}
			return v + strings.ToValidUTF8(hostile, "")
		case []any:
			for i := range v {
				v[i] = poison(v[i], all)
			}
		case map[string]any:
			for k := range v {
				if _, isText := v[k].(string); !isText || all && k != "type" && k != "schema" || !kept[k] {
					v[k] = poison(v[k], all)
				}
			}
		}
		return v
	}
	for _, file := range files {
		if strings.HasSuffix(file, "/empty.jsonl") {
			continue
		}
		for _, all := range []bool{false, true} {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			for line := range bytes.Lines(b) {
				var v any
				if err := json.Unmarshal(line, &v); err != nil {
					t.Fatal(err)
				}
				enc, err := json.Marshal(poison(v, all))
				if err != nil {
					t.Fatal(err)
				}
				out.Write(append(enc, '\n'))
			}
			poisoned := filepath.Join(dir, fmt.Sprintf("%s-%v", filepath.Base(file), all))
			if err := os.WriteFile(poisoned, out.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"explain"}, {"explain", "--color", "always"}, {"explain", "--format", "json"},
				{"table", "--format", "table"}, {"table", "--format", "text"}, {"table", "--format", "json"}, {"table", "--format", "markdown"}, {"table", "--format", "csv", "-q"},
				{"table", "--format", "jsonl"}, {"table", "--format", "strace"}, {"table", "--format", "chrome"},
				{"report", "--format", "html"}, {"report", "--format", "markdown"}, {"report", "--format", "text"}, {"report", "--format", "csv", "-q"}} {
				args = append(slices.Clone(args), poisoned)
				stdout, stderr := inProcess(t, args)
				checkHarmless(t, args, stdout, stderr)
				if !all && strings.HasPrefix(stderr, "whosefd: ") {
					t.Errorf("%q: %s", args, stderr)
				}
			}
		}
	}
}

// inProcess runs the tool without starting a process: for commands that only
// read files.
func inProcess(t *testing.T, args []string) (stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	a := &app{in: strings.NewReader(""), out: &out, err: &errOut, getenv: func(string) string { return "" },
		view: procview.New("/proc"), terminal: func(any) int { return 0 }}
	a.run(t.Context(), args)
	return out.String(), errOut.String()
}
