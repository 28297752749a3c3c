package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"whosefd/samples/scene"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// What users of strace, gdb, lsof and perf type without reading a manual means what
// they mean, or is answered by a sentence that says what does.
func TestHabits(t *testing.T) {
	t.Parallel()
	scene.Require(t, "ptrace")
	dir := t.TempDir()
	pid := strconv.Itoa(sleeping(t))
	for name, text := range map[string]string{
		"rec": `{"type":"session","schema":"whosefd.recording/v1","tool":"test","debugger":{"pid":9,"comm":"gdb"}}
{"type":"syscall","t":0.1,"pid":9,"tid":9,"name":"openat","path":"/usr/lib/libc.so.6","ret":3,"new_fd":3}
{"type":"syscall","t":0.2,"pid":9,"tid":9,"name":"read","fd":3,"ret":10,"target":{"kind":"pipe","link":"pipe:[42]","dev":1,"ino":42}}
{"type":"end","reason":"exited"}
`,
		"core.txt": "no core\n",
		"closes": `{"type":"session","schema":"whosefd.recording/v1","tool":"test","debugger":{"pid":9,"comm":"gdb"}}
{"type":"syscall","t":0.1,"pid":9,"tid":9,"name":"openat","path":"/a","ret":3,"new_fd":3}
{"type":"syscall","t":0.2,"pid":9,"tid":9,"name":"close","fd":3,"ret":0}
{"type":"syscall","t":0.3,"pid":9,"tid":9,"name":"openat","path":"/b","ret":4,"new_fd":4}
{"type":"syscall","t":0.4,"pid":9,"tid":9,"name":"close","fd":4,"ret":0}
{"type":"syscall","t":0.5,"pid":9,"tid":9,"name":"openat","path":"/c","ret":4,"new_fd":4}
{"type":"syscall","t":0.6,"pid":9,"tid":9,"name":"close","fd":4,"ret":0}
{"type":"end","reason":"exited"}
`,
		"strace.log": `9 openat(AT_FDCWD, "/a", O_RDONLY) = 3
9 getuid() = 0
9 getuid() = 0
9 close(3) = 0
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		typed          string // by the shell, in a folder of its own
		code           int
		out, err       string // what is on standard output and standard error
		notOut, notErr string
	}{
		{typed: "whosefd $PID", out: "sleep"},
		{typed: "whosefd -p $PID", out: "sleep"},
		{typed: "whosefd -p$PID --json", out: `"verdict"`},
		{typed: "whosefd --json ./rec", out: `"verdict"`},
		{typed: "whosefd -V", out: "whosefd version"},
		{typed: "whosefd version", out: "whosefd version"},
		{typed: "whosefd ps $PID", out: "sleep"},
		{typed: "whosefd ps --all-waits $PID", out: "All that wait"},
		{typed: "whosefd ps --all-waits $PID --format jsonl", out: `{"schema":"whosefd.waits/v1","table":"processes","pid":`},
		{typed: "whosefd ps --all-waits $PID --format csv", code: 2, err: "not one of text, json, jsonl"},
		{typed: "whosefd ps --all-waits $PID --format table", code: 2, err: "not one of text, json, jsonl"},
		{typed: "whosefd ps -p 99999999", code: 2, err: "no such process"},

		{typed: "whosefd watch -o - --for 100ms >&2; test ! -e ./-"},
		{typed: `seq 1500 | sed 's/.*/9 close(&) = 0/' >many.log; for f in csv json jsonl; do whosefd table --format $f --show calls many.log | grep -c close; done | uniq`, out: "1500\n", notOut: "\n1"},
		{typed: `for f in csv json jsonl; do for l in rec closes strace.log; do whosefd table --format $f ./$l >a; whosefd table --rows 99 --format $f ./$l | cmp - a || exit 7; done; done`},
		{typed: "whosefd table --format csv --rows 1 --show calls ./rec", out: "read", notOut: "openat", err: "only the latest 1 of 2 calls: --rows 2"},
		{typed: "whosefd table --format csv --show summary --rows 1 ./rec", out: "openat", notErr: "latest"},
		{typed: "whosefd report --format csv --calls 1 --show calls ./rec", out: "read", err: "only 1 of 2 calls: --calls 2 gives all of them"},
		{typed: "whosefd table --format jsonl --rows 1 --show fds ./closes", out: `"count":2`, err: "only the latest 1 of 3 closed descriptors, the others as a sum: --rows 3"},
		{typed: "whosefd table --format csv --rows 1 --show fds --fd 4 ./closes", out: "\n,,,,,,,,,0,0,,false,,,,1\n", err: "only the latest 1 of 2 closed descriptors"},
		{typed: "whosefd report --format csv --calls 1 --show fds ./closes", out: "/c,", notOut: "/a,", err: "only the latest 1 of 3 closed descriptors, the others as a sum: --calls 3"},
		{typed: "whosefd report --format csv --show fds ./closes", out: "/a,", notErr: "only"},
		{typed: "whosefd table --format strace ./strace.log", notOut: "getuid", err: "2 calls are left out, which are only counted (getuid)"},
		{typed: "whosefd table --format strace --rows 1 ./rec", code: 2, err: "always of all calls"},
		{typed: "whosefd table --format chrome --show fds ./rec", code: 2, err: "always of all calls"},

		{typed: "whosefd trace true", err: "openat"},
		{typed: "whosefd trace sh -c 'exit 7'", code: 7},
		{typed: "whosefd trace $PID --for 50ms"},
		{typed: "whosefd trace -p $PID --for 50ms"},
		{typed: "sleep 60 & a=$!; sleep 60 & b=$!; whosefd trace -p $a,$b --for 50ms; code=$?; whosefd explain $a $b; kill $a $b; exit $code", out: "thread"},
		{typed: "whosefd trace -p $PID -p 99999999 --for 50ms", code: 2, err: "no such process"},
		{typed: "whosefd trace -p $PID -p 1 -o x.jsonl", code: 2, err: "a recording is of one process"},
		{typed: "whosefd explain -p $PID,1 --json", code: 2, err: "run it for each"},
		{typed: "whosefd trace --for 1s --for 2s true", code: 2, err: "given as"},
		{typed: "whosefd trace no-such-command-here", code: 2, err: "no process is named"},
		{typed: "whosefd explain nosuch.jsonl", code: 2, err: "no such file"},

		{typed: "whosefd trace -f -yy -tt -T -s 200 -e openat true", err: "processes that it starts are not"},
		{typed: "whosefd trace -q -f -e trace=openat,close true", err: "close", notErr: "mmap"},
		{typed: "whosefd trace -q --follow-forks --trace=openat,close --absolute-timestamps=unix,us --syscall-times -v --decode-fds=all --string-limit=99 true", err: "close", notErr: "mmap"},
		{typed: "whosefd trace --attach=$PID --for 50ms --summary-only"},
		{typed: "whosefd trace -q --failed-only --trace-path=/no/such cat /no/such", code: 1, err: "ENOENT", notErr: "→ 3"},
		{typed: "whosefd trace -q -e signal=none -e quiet=attach,exit -e decode-fds=path,socket -e '/^open' true", err: "openat", notErr: "close"},
		{typed: "whosefd trace -q -e '?opne,openat' true", err: "openat", notErr: "close"},
		{typed: "whosefd trace -q -e trace=file true", err: "openat", notErr: "close"},
		{typed: "whosefd trace -e signal=SIGSEGV true", code: 2, err: "strace's -e signal= is not needed or not there: signals are not shown"},
		{typed: "whosefd trace -e inject=openat:error=ENOENT true", code: 2, err: "changes nothing in what it traces"},
		{typed: "whosefd trace -e status=failed true", code: 2, err: "use -Z"},
		{typed: "whosefd trace -e nosuch=1 true", code: 2, err: "has no counterpart"},
		{typed: "whosefd trace -e connect true", code: 2, err: "does not show this call"},
		{typed: "whosefd trace --stack-traces true", code: 2, err: "use explain, which has a backtrace"},
		{typed: "whosefd trace --successful-only true", code: 2, err: "--filter"},
		{typed: "whosefd trace -e trace=%network true", code: 2, err: "no class"},
		{typed: "whosefd trace -u nobody true", code: 2, err: "sudo -u"},
		{typed: "whosefd trace -E XYZ=abc sh -c 'echo $XYZ'", out: "abc"},
		{typed: "XYZ=abc whosefd trace -E XYZ sh -c 'echo .$XYZ.'", out: ".."},
		{typed: "whosefd trace -c cat /dev/null", err: "total", notErr: "/dev/null O_RDONLY"},
		{typed: "whosefd trace -o - -- true", out: `{"type":"session"`, err: "total"},
		{typed: "whosefd trace -o /dev/stdout true | head -1", out: `{"type":"session"`},
		{typed: "whosefd trace -o x.xz true", code: 2, err: ".gz or .zst"},
		{typed: "whosefd explain -o - $PID", out: `{"type":"session"`, err: "sleep"},

		{typed: "whosefd table --call 'open*' --show calls rec", out: "openat", notOut: " read "},
		{typed: "whosefd table -e %file --show calls rec", out: "openat", notOut: " read "},
		{typed: "whosefd table --path '*.so*' --show calls rec", out: "libc.so.6", notOut: " read "},
		{typed: "whosefd table -P 'pipe:[42]' --show calls rec", out: "read", notOut: "openat"},
		{typed: "whosefd trace -q -Z -e openat cat /no/such", code: 1, err: "ENOENT", notErr: "→ 3"},
		{typed: "whosefd table --tid 77 rec", err: "none of the 2 calls"},
		{typed: `whosefd table --show calls --filter 'call == "openat" && path =~ "[.]so"' rec`, out: "libc.so.6", notOut: " read "},
		{typed: `whosefd table --filter 'dur > 1ms' rec`, err: "none of the 2 calls"},
		{typed: `whosefd table --filter 'call == "raed"' rec`, code: 2, err: "no call of that name"},
		{typed: `whosefd trace -q --filter 'errno != "" && path =~ "/no/such"' cat /no/such`, code: 1, err: "ENOENT", notErr: "→ 3"},
		{typed: `whosefd trace -q --filter 'pth =~ "x"' true`, code: 2, err: "unknown name pth at character 1; the fields are call, path"},
		{typed: `whosefd report rec -o - --format csv --filter 'kind == "pipe"'`, out: ",read,", notOut: ",openat,/usr/lib/libc.so.6 "},
		{typed: `whosefd report rec -o - --filter 'kind == "tty"'`, out: "None of the 2 calls is", err: "none of the 2 calls"},
		{typed: `whosefd watch --filter 'rule == "self-fd" and waited > 1m'`, code: 2, err: "unknown name waited at character 23; the fields are notice"},
		{typed: "whosefd table rec --format csv", out: "call,calls,errors,unfinished,total_us,max_us", err: "--show calls, summary or fds gives one"},
		{typed: "whosefd report rec --format csv --show summary", out: "total_us", notErr: "several"},
		{typed: "whosefd ps $PID --format csv", out: ",sleep,false,"},
		{typed: "whosefd table < rec", out: "openat"},
		{typed: "whosefd explain < rec", out: "gdb"},
		{typed: "bzip2 rec -c | whosefd table -", out: "openat"},
		{typed: "xz rec -c > r.xz; whosefd table r.xz", out: "openat"},
		{typed: "whosefd table --format csv --show calls rec >/dev/full", code: 2, err: "whosefd: write /dev/stdout: no space left on device\n"},
		{typed: "whosefd table --json rec", out: `"calls"`},
		{typed: "whosefd table --json --format csv rec", code: 2, err: "one of them"},
		{typed: "whosefd table rec --format strace | grep -c 'openat(AT_FDCWD, \"/usr/lib/libc.so.6\", 0) = 3$'", out: "1"},
		{typed: "whosefd table rec --format strace | whosefd table - --show calls", out: "libc.so.6"},
		{typed: "whosefd table rec --format jsonl | head -1", out: `{"schema":"whosefd.table/v1","table":"calls","t":0.1`},
		{typed: "whosefd table rec --format chrome", out: `"traceEvents"`},
		{typed: "whosefd doctor --format csv | head -1", out: "state,check,detail,do"},
		{typed: "whosefd report rec -o - --format text", out: "gdb"},
		{typed: "whosefd report rec -o r.json; cat r.json", out: `"verdict"`},
		{typed: "whosefd report rec -o r.pdf", code: 2, err: "no report ends in .pdf"},
		{typed: "whosefd trace -o q.jsonl sh -c 'for i in 1 2 3 4 5; do : <$0; done' rec; whosefd table q.jsonl --show fds | grep /rec", out: "openat ×5", err: "ok: sh"},
		{typed: "whosefd trace true | cat; whosefd trace true 2>&1 | tail -n 1", out: "Seen: ", err: "ok: true"},
		{typed: "whosefd trace -q --all true 2>&1 | grep -c '^Calls\\|^Summary\\|^Descriptors'", out: "3"},

		{typed: "printf '#!/bin/sh\nexec cat rec' >s.sh; chmod +x s.sh; whosefd trace ./s.sh", out: "openat", err: "ok: cat"},
		{typed: "whosefd explain $PID .", code: 2, err: `no process is named ".", which is a file`},
		{typed: "whosefd explain $PID ./rec", code: 2, err: `no process is named "./rec", which is a file`},
		{typed: "whosefd explain ./rec $PID", code: 2, err: " is a process, not a file"},
		{typed: "whosefd table $PID", code: 2, err: "there is no such file; if the process is meant"},
		{typed: "whosefd explain --json $PID >d.json; whosefd table d.json", code: 2, err: "a result of whosefd (whosefd.diagnosis)"},
		{typed: "whosefd ps --json $PID >p.json; whosefd explain ./p.json", code: 2, err: "a result of whosefd (whosefd.ps)"},
		{typed: "whosefd table rec --format jsonl | whosefd table", code: 2, err: "a result of whosefd (whosefd.table)"},
		{typed: "whosefd trace $PID --for 0.05"},
		{typed: "whosefd trace $PID --for 5x", code: 2, err: "unknown unit"},
		{typed: "whosefd strace ls", code: 2, err: "did you mean trace?"},
		{typed: "whosefd record ls", code: 2, err: " trace?"},
		{typed: "whosefd bt", code: 2, err: "did you mean explain"},
		{typed: "whosefd -c ls", code: 2, err: "whosefd trace -c ls"},
		{typed: "whosefd -e open ls", code: 2, err: "whosefd trace -e open ls"},

		{typed: "whosefd man explain", code: 2, err: "whosefd help explain"},
		{typed: "FORCE_COLOR=1 whosefd explain $PID", out: "\x1b["},
		{typed: "NO_COLOR=1 FORCE_COLOR=1 whosefd explain $PID", out: "sleep", notOut: "\x1b["},
	} {
		cmd := exec.Command("sh", "-c", tc.typed)
		cmd.Dir = dir
		cmd.Env = append(slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasSuffix(strings.SplitN(e, "=", 2)[0], "_COLOR") }),
			"PID="+pid, "PATH="+filepath.Dir(binary(t))+":"+os.Getenv("PATH"))
		var out, errOut strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &errOut
		_ = cmd.Run() // the exit code is looked at
		if code := cmd.ProcessState.ExitCode(); code != tc.code || !strings.Contains(out.String(), tc.out) || !strings.Contains(errOut.String(), tc.err) ||
			tc.notOut != "" && strings.Contains(out.String(), tc.notOut) || tc.notErr != "" && strings.Contains(errOut.String(), tc.notErr) {
			t.Errorf("%s: exit code %d\n%s%s", tc.typed, code, out.String(), errOut.String())
		}
	}
}

// A debugger that nobody may look at is not one with which nothing is wrong.
func TestPSAsNobody(t *testing.T) {
	t.Parallel()
	if out, stderr, code := asNobody(t, "ps", "1"); code != exitTrouble {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
}

// Each command has a manual page, which has all that those of others have.
func TestManualPages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, stderr, code := whosefd(t, "man", dir); code != 0 {
		t.Fatal(stderr)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(pages) < 10 {
		t.Fatal(pages, err)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		for _, section := range []string{"NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES", "EXIT STATUS", "ENVIRONMENT", "FILES", "SEE ALSO"} {
			if err != nil || !strings.Contains(string(text), "\n.SH "+section+"\n") {
				t.Errorf("%s: no %s (%v)", filepath.Base(page), section, err)
			}
		}
		if i := strings.IndexFunc(string(text), func(r rune) bool { return r >= 0x80 }); i >= 0 {
			t.Errorf("%s: not ASCII: %q", filepath.Base(page), text[i:min(i+20, len(text))])
		}
	}
	if _, err := exec.LookPath("man"); err != nil {
		return
	}
	shown := exec.Command("man", "--warnings", "-l", filepath.Join(dir, "whosefd-trace.1"))
	shown.Env = append(os.Environ(), "MANWIDTH=80", "LC_ALL=C.UTF-8", "MANPAGER=cat", "PAGER=cat")
	if out, err := shown.CombinedOutput(); err != nil || !strings.Contains(string(out), "COMMAND ARGS…") || strings.Contains(string(out), "warning:") {
		t.Errorf("%v\n%s", err, out)
	}
}

// What the examples show can be typed.
func TestExamples(t *testing.T) {
	t.Parallel()
	shown := regexp.MustCompile(`(?m)(?:^ *|\| )(?:sudo )?whosefd ([^|\n]*)`)
	for name, text := range examples {
		all := shown.FindAllStringSubmatch(text, -1)
		if len(all) == 0 {
			t.Errorf("%s: no example", name)
		}
		for _, m := range all {
			line, _, _ := strings.Cut(m[1], "   ") // a remark
			root := (&app{getenv: os.Getenv, view: procview.New("/proc")}).root()
			cmd, rest, err := root.Find(strings.Fields(line))
			if err != nil || cmd == root || name != root.Name() && cmd.Name() != name {
				t.Errorf("%s: %q: %v", name, m[0], err)
				continue
			}
			if err := cmd.ParseFlags(rest); err != nil && !cmd.DisableFlagParsing {
				t.Errorf("%s: %q: %v", name, m[0], err)
			}
		}
	}
}

// The debugger of another user, which nobody named, is not touched unless somebody
// says so.
func TestConsent(t *testing.T) {
	t.Parallel()
	scene.Require(t, "root")
	cmd := exec.Command("sleep", "300")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	theirs, mine := event.PID(cmd.Process.Pid), event.PID(sleeping(t))
	for _, tc := range []struct {
		pid      event.PID
		args     []string
		answer   string
		terminal int
		says     string
		fails    bool
	}{
		{pid: theirs, answer: "y\n", terminal: 80, says: "[y/N]"},
		{pid: theirs, answer: "\n", terminal: 80, says: "belongs to", fails: true},
		{pid: theirs, terminal: 80, says: "[y/N]", fails: true},
		{pid: theirs, says: "belongs to"},
		{pid: theirs, args: []string{"sleep"}, terminal: 80},
		{pid: mine, terminal: 80},
	} {
		var errOut strings.Builder
		a := &app{in: strings.NewReader(tc.answer), err: &errOut, getenv: func(string) string { return "" }, view: procview.New("/proc"),
			terminal: func(any) int { return tc.terminal }}
		err := (&target{}).consent(a, tc.pid, tc.args)
		if (err != nil) != tc.fails || !strings.Contains(errOut.String(), tc.says) || tc.says == "" && errOut.Len() > 0 {
			t.Errorf("%+v: %v, %q", tc, err, errOut.String())
		}
	}
}

// What is longer than the terminal is high is shown in PAGER, unless there is none.
func TestPager(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		height  int
		env     map[string]string
		noPager bool
		want    string
	}{
		{height: 3, env: map[string]string{"PAGER": "tr a-z A-Z"}, want: "A\nB\nC\n"},
		{height: 4, env: map[string]string{"PAGER": "tr a-z A-Z"}, want: "a\nb\nc\n"}, // it fits
		{height: 0, env: map[string]string{"PAGER": "tr a-z A-Z"}, want: "a\nb\nc\n"}, // no terminal
		{height: 3, env: map[string]string{"PAGER": "tr a-z A-Z"}, noPager: true, want: "a\nb\nc\n"},
		{height: 3, env: map[string]string{"PAGER": "no-such-pager"}, want: "a\nb\nc\n"},
		{height: 3, env: map[string]string{"PAGER": "tr a-z A-Z", "TERM": "dumb"}, want: "a\nb\nc\n"},
	} {
		var out strings.Builder
		a := &app{out: &out, err: io.Discard, noPager: tc.noPager, getenv: func(k string) string { return tc.env[k] }, height: func(any) int { return tc.height }}
		err := a.paged(func(w io.Writer) error { _, err := io.WriteString(w, "a\nb\nc\n"); return err })
		if err != nil || out.String() != tc.want {
			t.Errorf("%+v: %v, %q", tc, err, out.String())
		}
	}
}

// The shell is offered calls, classes and processes.
func TestCompletion(t *testing.T) {
	t.Parallel()
	for typed, want := range map[string]string{
		"trace -e open": "openat", "table --call !readl": "!readlink", "trace -e %f": "%file", "table --call openat,prea": "openat,pread64",
		"table --show calls,s": "calls,summary", "trace --engine e": "ebpf", "top --col": "--color",
	} {
		out, stderr, code := whosefd(t, append([]string{"__complete"}, strings.Fields(typed)...)...)
		offered := strings.FieldsFunc(out, func(r rune) bool { return r == '\n' || r == '\t' })
		if code != 0 || !slices.Contains(offered, want) {
			t.Errorf("%s: %d, %q %s", typed, code, out, stderr)
		}
	}
	scene.Require(t, "gdb", "ptrace")
	gdb := strconv.Itoa(scene.Hang(t).PID)
	for _, args := range [][]string{{"explain", ""}, {"top", "-p", gdb}, {"repair", gdb[:1]}} {
		if out, _, _ := whosefd(t, append([]string{"__complete"}, args...)...); !strings.Contains(out, gdb+"\tgdb\n") {
			t.Errorf("%q: %q", args, out)
		}
	}
}
