package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"whosefd/samples/scene"
	"whosefd/tracer/event"
)

// recorded is the recording of a hang.
const recorded = "../../analyze/testdata/trace-hang.jsonl"

// entries are the names in a folder.
func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// Whatever goes wrong leaves no file behind.
func TestReportUsage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	outside := t.TempDir()
	target, link, fifo, garbage := filepath.Join(outside, "target"), filepath.Join(outside, "link"), filepath.Join(outside, "fifo"), filepath.Join(outside, "garbage")
	for file, text := range map[string]string{target: "mine", garbage: "hello\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out.html")
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{garbage, "-o", out}, "line 1"},
		{[]string{filepath.Join(dir, "none"), "-o", out}, "no such file"},
		{[]string{"0", "-o", out}, "not a process id"},
		{[]string{recorded, recorded, "-o", out}, "several files"},
		{[]string{"1", "2", "-o", out}, "arg"},
		{[]string{recorded, "-o", out, "--format", "pdf"}, "not one of"},
		{[]string{recorded, "-o", out, "--calls", "-1"}, "below zero"},
		{[]string{recorded, "-o", out, "--show", "calls"}, "--format csv"},
		{[]string{recorded, "-o", out, "--format", "csv", "--show", "nothing"}, "not one of"},
		{[]string{recorded, "-o", dir}, "directory"},
		{[]string{recorded, "-o", filepath.Join(dir, "no", "file")}, "no such file"},
		{[]string{recorded, "-o", link}, "symbolic link"},
		{[]string{recorded, "-o", fifo}, "not a regular file"},
		{[]string{recorded, "-o", "/dev/null"}, "not a regular file"},
	} {
		stdout, stderr, code := whosefd(t, append([]string{"report"}, tc.args...)...)
		if code != exitTrouble || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, tc.want) {
			t.Errorf("%q: exit code %d, stdout %.100q, stderr %q; want %q", tc.args, code, stdout, stderr, tc.want)
		}
		if left := entries(t, dir); len(left) != 0 {
			t.Fatalf("%q: left behind %v", tc.args, left)
		}
	}
	if b, err := os.ReadFile(target); err != nil || string(b) != "mine" {
		t.Errorf("the link's target was written to: %q, %v", b, err)
	}
	if got := len(entries(t, outside)); got != 4 {
		t.Errorf("%d files beside the link", got)
	}
}

// On a terminal a page is refused.
func TestReportOnTerminal(t *testing.T) {
	t.Parallel()
	var out, stderr bytes.Buffer
	a := &app{out: &out, err: &stderr, getenv: func(string) string { return "" }, terminal: func(any) int { return 80 }}
	if code := a.run(t.Context(), []string{"report", recorded}); code != exitTrouble || out.Len() != 0 || !strings.Contains(stderr.String(), "-o FILE") {
		t.Errorf("exit code %d, %q, %q", code, out.String(), stderr.String())
	}
	if code := a.run(t.Context(), []string{"report", "--json", recorded}); code != exitFindings || !json.Valid(out.Bytes()) {
		t.Errorf("exit code %d, %q", code, out.String())
	}
	out.Reset()
	if code := a.run(t.Context(), []string{"report", "--format", "text", recorded}); code != exitFindings || !strings.Contains(out.String(), "Descriptors of gdb") {
		t.Errorf("exit code %d, %q", code, out.String())
	}
}

func TestReportFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, want := range map[string]string{
		"a.html": "<!DOCTYPE html>", "b.md": "**Verdict: hang.**", "c.csv": "time_s,pid,thread,call,", "d.txt": "hang: gdb", "e": "<!DOCTYPE html>", "f.MARKDOWN": "**Verdict",
	} {
		out := filepath.Join(dir, name)
		if err := os.WriteFile(out, bytes.Repeat([]byte("old"), 1<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		stdout, stderr, code := whosefd(t, "report", recorded, "-o", out)
		b, err := os.ReadFile(out)
		if code != exitFindings || stdout != "" || stderr != "" && name != "c.csv" || err != nil || !strings.HasPrefix(string(b), want) || bytes.Contains(b, []byte("oldold")) {
			t.Errorf("%s: exit code %d, %q, %q, %v, begins with %.40q", name, code, stdout, stderr, err, b)
		}
		if st, err := os.Stat(out); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, st.Mode(), err)
		}
	}
	if got := entries(t, dir); len(got) != 6 {
		t.Errorf("left behind: %v", got)
	}
	// --format counts more than the name; without -o it goes to standard output.
	stdout, _, _ := whosefd(t, "report", recorded, "--format", "csv", "--show", "summary")
	if !strings.HasPrefix(stdout, "call,calls,errors") {
		t.Errorf("%.100q", stdout)
	}
	if stdout, _, code := whosefd(t, "report", "../../analyze/testdata/prompt.jsonl"); code != exitNothing || !strings.Contains(stdout, `class="verdict v-blocked"`) {
		t.Errorf("exit code %d, %.100q", code, stdout)
	}
	cmd := exec.Command(binary(t), "report", "-", "--format", "markdown")
	in, err := os.Open(recorded)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cmd.Stdin = in
	if b, _ := cmd.Output(); !bytes.HasPrefix(b, []byte("**Verdict: hang.**")) {
		t.Errorf("from standard input: %.100q", b)
	}
}

// A file is written whole or not at all.
func TestReplaceOutput(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := filepath.Join(dir, "x")
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if err := replaceOutput(name, []byte("good")); err != nil {
		t.Fatal(err)
	}
	small := syscall.Rlimit{Cur: 1000, Max: before.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small); err != nil { // then write(2) fails with EFBIG
		t.Fatal(err)
	}
	err := replaceOutput(name, make([]byte, 5000))
	if e := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); e != nil {
		t.Fatal(e)
	}
	if err == nil {
		t.Error("a file that could not be written, and no error")
	}
	if b, err := os.ReadFile(name); err != nil || string(b) != "good" || len(entries(t, dir)) != 1 {
		t.Errorf("%q, %v, %v", b, err, entries(t, dir))
	}
}

// A real gdb that hangs: live, and from its recording.
func TestReportHang(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace")
	dir := t.TempDir()
	rec := filepath.Join(dir, "rec.jsonl")
	gdb := scene.StartGDB(t, scene.GDB{
		Launcher: []string{binary(t), "trace", "-o", rec, "--"},
		Args:     []string{"--args", filepath.Join(scene.Build(t), "from_memory")},
	})
	gdb.Expect(scene.Prompt)
	gdb.Command("break foo")
	gdb.Send("run")
	fd := gdb.WaitBlocked(scene.Patience)
	inferior := gdb.Inferior()
	if err := syscall.Kill(gdb.Launcher, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	gdb.Wait() // for the trace: the record is whole then, and gdb hangs on
	untraced(t, gdb.PID)
	opened := fmt.Sprintf(`pipe:\[\d+\], descriptor %d, the same as its own`, fd)
	meant := fmt.Sprintf(`belongs to from_memory \(pid %d\)`, inferior)
	for _, tc := range []struct {
		what string
		want []string
	}{
		{strconv.Itoa(gdb.PID), []string{opened, meant, `#0`, `whosefd repair ` + strconv.Itoa(gdb.PID), `has no calls in it`, `__libc_read|read \(\)|\?\? \(\)`}},
		{rec, []string{opened, meant, `<td class="what">hangs here</td>`, `<td class="what">opens it</td>`, `<td class="what">reads the name</td>`, `lf/fd/4`}},
	} {
		out := filepath.Join(dir, "out.html")
		stdout, stderr, code := whosefd(t, "report", tc.what, "-o", out)
		page, err := os.ReadFile(out)
		if code != exitFindings || err != nil || stdout != "" || stderr != "" {
			t.Fatalf("%s: exit code %d, %v, %q, %q", tc.what, code, err, stdout, stderr)
		}
		for _, want := range tc.want {
			if !regexp.MustCompile(want).Match(page) {
				t.Errorf("%s: no %s", tc.what, want)
			}
		}
	}
	untraced(t, gdb.PID)
}

// chromium renders a file and gives the document as it is then, and what was
// logged. The test is skipped where there is none.
func chromium(t *testing.T, file string) (dom, log string) {
	t.Helper()
	scene.Optional(t, "chromium")
	ctx, cancel := context.WithTimeout(t.Context(), scene.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--user-data-dir="+t.TempDir(),
		"--dump-dom", "file://"+file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("chromium: %v\n%s", err, stderr.String())
	}
	return out.String(), stderr.String()
}

// In a real browser the page's own policy lets its script make the tables, and
// nothing else happens, whatever the processes are called.
func TestReportInChromium(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rec, out := filepath.Join(dir, "rec.jsonl"), filepath.Join(dir, "out.html")
	f, err := os.Create(rec)
	if err != nil {
		t.Fatal(err)
	}
	w := event.NewWriter(f)
	attack := event.Text(`</script><script>document.title="owned"</script><img src=x onerror='document.title="owned"'>`)
	pipe := event.Target{Kind: event.Pipe, Link: attack, Dev: 15, Ino: 4798}
	events := []event.Event{&event.Session{Schema: event.Schema, Tool: "test", Source: "trace", Debugger: &event.Process{PID: 1, Comm: attack, Exe: attack}}}
	for i := range 2000 {
		events = append(events, &event.Syscall{T: event.Micros(i * 10), PID: 1, TID: 1, Name: "openat", Path: event.Text(fmt.Sprintf("/lib/%d%s", i, attack)),
			Ret: event.Some[int64](-1), Errno: "ENOENT", DurUS: event.Some(int64(2000 - i))})
	}
	events = append(events, &event.Syscall{T: 30000, PID: 1, TID: 1, Name: "openat", Path: "/proc/self/fd/4", Ret: event.Some[int64](5), Target: &pipe,
		Counterpart: []event.Counterpart{{PID: 2, Target: event.Target{Kind: event.Memfd, Link: "/memfd:x", Dev: 1, Ino: 7}}}},
		&event.Syscall{T: 30010, PID: 1, TID: 1, Name: "read", FD: event.Some[event.FD](5), Target: &pipe, Unfinished: true})
	for _, ev := range events {
		if err := w.Write(ev); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := whosefd(t, "report", rec, "-o", out); code != exitFindings {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	dom, log := chromium(t, out)
	if strings.Contains(log, "Security Policy") || strings.Contains(log, "Uncaught") || strings.Contains(log, "Refused") {
		t.Errorf("the browser complains:\n%s", log)
	}
	if !strings.Contains(dom, "2\u2009002 rows") || strings.Contains(dom, "<title>owned") || strings.Contains(dom, "<img") || strings.Count(dom, "<script") != 2 {
		t.Errorf("the page is not what it should be: %.2000s", dom)
	}

	// Filter and sort, by a script that the policy would not let in.
	page, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	page = regexp.MustCompile(`<meta http-equiv[^>]*>`).ReplaceAll(page, nil)
	page = bytes.Replace(page, []byte("</body>"), []byte(`<script>
		const at = (s) => document.querySelector("#t-calls " + s), said = [];
		const first = () => at("tbody tr").textContent;
		const sort = (n) => { document.querySelectorAll("#t-calls th button")[n].click(); said.push(document.querySelectorAll("#t-calls th")[n].getAttribute("aria-sort") + " " + first()); };
		const filter = (s) => { at("input").value = s; at("input").dispatchEvent(new Event("input")); said.push(at(".status").textContent); };
		filter("/LIB/77 enoent"); filter("nothing like it"); filter("");
		sort(1); sort(1); sort(1);
		[...document.querySelectorAll("#t-calls button")].find((b) => b.textContent === "Show the finding").click();
		said.push(at(".focus").textContent);
		document.body.append(Object.assign(document.createElement("pre"), {id: "said", textContent: said.join("\n")}));
	</script></body>`), 1)
	if err := os.WriteFile(out, page, 0o600); err != nil {
		t.Fatal(err)
	}
	dom, _ = chromium(t, out)
	_, said, _ := strings.Cut(dom, `<pre id="said">`)
	lines := strings.Split(said, "\n")
	want := []string{`^11 of 2.002 rows$`, `^0 of 2.002 rows$`, `^2.002 rows$`, `^descending 20020\.030010`, `^ascending 10\.000000`, `^none 10\.000000`, `^20010\.030000.*openat/proc/self/fd/4`}
	if len(lines) < len(want) {
		t.Fatalf("%q", said)
	}
	for i, w := range want {
		if !regexp.MustCompile(w).MatchString(lines[i]) {
			t.Errorf("%q, want %s", lines[i], w)
		}
	}
}
