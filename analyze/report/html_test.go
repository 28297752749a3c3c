package report

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"whosefd/analyze"
	"whosefd/analyze/rules"
	"whosefd/analyze/tables"
	"whosefd/tracer/event"
)

func caseOf(a *analyze.Analysis, gathered *tables.Tables, e *tables.Excerpt) *Case {
	return &Case{Diagnosis: a.Diagnosis(), Excerpt: e, Tables: gathered, Descriptors: a.Descriptors, Tool: "whosefd test"}
}

func caseWith(limit int, evs []event.Event) *Case {
	a := analyze.New()
	gathered, e := a.Tables(analyze.Filter{}), analyze.NewExcerpt(limit)
	for _, ev := range evs {
		mark := a.Add(ev)
		gathered.Add(ev, mark)
		e.Add(ev, mark)
	}
	return caseOf(a, gathered, e)
}

// attacks are texts that a process may have for a name.
var attacks = []string{
	`</script><script>alert(1)</script>`, `<img src=x onerror=alert(1)>`, `"><svg onload=alert(1)>`, `</style></title><b>`, `<!--<script>`,
	`{{.Summary}}`, `javascript:alert(1)`, `'-alert(1)-'`, "a\u202eb\u2066c\u200bd\ufeff", "x\x1b[31my\x00z\x7f\u009b", "\xff\xfe", "line\nline\r\n# head\n- item",
	"```\n### out\n", "``` `` ` ~~~", "|a|b|", "@everyone #1 !2 GH-3 http://example.org www.example.org [x](javascript:y) ![](z) <https://a.b>",
	"**b** __u__ ~~s~~ $x$ &lt; &#64; \\", "=1+1", "+1", "@SUM(A1)", "-1+1", "\t=1", "    indented", "1. one", "> quote", "- item", "---",
}

// attacked is a scene in which each text of a process is an attack.
func attacked(attack string) []event.Event {
	x := event.Text(attack)
	pipe := event.Target{Kind: event.Pipe, Link: x, Dev: 15, Ino: 4798}
	memfd := event.Target{Kind: event.Memfd, Link: x + "2", Dev: 1, Ino: 1026}
	name := event.Text("/proc/self/fd/4")
	proc := event.Process{PID: 2158, Comm: x, Exe: x, Cmdline: []event.Text{x, x}, Cwd: x}
	inf := proc
	inf.PID = 2162
	return []event.Event{
		&event.Session{Schema: event.Schema, Tool: attack, Source: "trace", Kernel: attack, Arch: attack, Debugger: &proc},
		&event.Syscall{T: 100, PID: 2158, TID: 2158, Name: attack, Path: x, Flags: attack},
		&event.Syscall{T: 150, PID: 2158, TID: 2158, Name: "pread64", FD: event.Some[event.FD](14), Offset: event.Some[int64](0x5000), Ret: event.Some[int64](8), Data: []byte(attack)},
		&event.Syscall{T: 200, PID: 2158, TID: 2158, Name: "openat", Path: name, Flags: "O_RDONLY", Ret: event.Some[int64](16), Target: &pipe,
			Counterpart: []event.Counterpart{{PID: 2162, Target: memfd}}},
		&event.Syscall{T: 250, PID: 2158, TID: 2158, Name: "openat", Path: x, Ret: event.Some[int64](17), Target: &memfd},
		&event.Syscall{T: 300, PID: 2158, TID: 2158, Name: "read", FD: event.Some[event.FD](16), Target: &pipe, Unfinished: true},
		&event.Inferior{Process: inf, TracerTID: 2158, Libraries: 1},
		&event.LinkMap{PID: 2162, Index: 1, Addr: 0x4000, NameAddr: 0x5000, Name: name, LoadAddr: 0x7000, MapStart: 0x7000, MapEnd: 0x8000, Mapped: &memfd,
			Reachable: []event.Text{x}, Resolves: []event.Resolution{{PID: 2158, Target: pipe}, {PID: 2162, Target: memfd}}},
		&event.Blocked{PID: 2158, TID: 2158, Comm: x, State: "S", Wchan: attack, Syscall: "read", FD: event.Some[event.FD](16), Target: &pipe,
			Holders: []event.Holder{{PID: 2158, Comm: x, FD: 4, Access: "w"}}, Unseen: []event.Unseen{{PID: 1, Comm: x, Error: attack}}},
		&event.Descriptor{PID: 2158, FD: 4, Access: attack, Target: pipe},
		&event.Descriptor{PID: 2158, FD: 16, Access: "r", Target: pipe},
		&event.Descriptor{PID: 2162, FD: 4, Access: "rw", Target: memfd},
		&event.Descriptor{PID: 2162, FD: 5, Access: "rw", Target: pipe},
		&event.Stack{PID: 2158, TID: 2158, Error: attack, Frames: []event.Frame{{PC: 1, Module: x, Function: attack, File: attack, Line: 1,
			Strings: []event.FrameString{{Slot: 1, Addr: 2, Text: x}}}}},
		&event.Lost{Reason: attack, Count: 3},
		&event.End{T: 400, Reason: attack},
	}
}

// The elements of a page, and their attributes.
var (
	tag     = regexp.MustCompile(`<!?(/?[a-zA-Z][a-zA-Z0-9]*)((?:\s+[^\s=>/]+(?:="[^"]*")?)*)\s*/?>`)
	attr    = regexp.MustCompile(`\s+([^\s=>/]+)(?:="([^"]*)")?`)
	element = strings.Fields(`DOCTYPE html head meta title style body header p b nav a button main section h1 h2 h3 span dl div dt dd details summary
		figure figcaption code ol ul li table thead tbody tr th td noscript script svg desc rect text line g path`)
	attribute = strings.Fields(`html lang charset http-equiv content name class id href type hidden tabindex role aria-label aria-labelledby scope title colspan
		open start data-label viewBox x y x1 y1 x2 y2 width height rx d text-anchor`)
)

// checkPage checks that a page is made of what the template has, and nothing
// else: whatever a process wrote is text.
func checkPage(t testing.TB, c *Case) string {
	t.Helper()
	var buf bytes.Buffer
	if err := HTML(&buf, c); err != nil {
		t.Fatal(err)
	}
	page := buf.String()
	harmless(t, "page", buf.Bytes())
	rest := page
	part := func(begin, end string) string {
		_, after, ok := strings.Cut(rest, begin)
		inner, _, ok2 := strings.Cut(after, end)
		if !ok || !ok2 {
			t.Fatalf("no %s", begin)
		}
		rest = strings.Replace(rest, begin+inner+end, "", 1)
		return inner
	}
	style, script := part("<style>", "</style>"), part("<script>", "</script>")
	data := part(`<script type="application/json" id="data">`, "</script>")
	policy := html.UnescapeString(regexp.MustCompile(`http-equiv="Content-Security-Policy" content="([^"]*)"`).FindString(page))
	for directive, text := range map[string]string{"style-src": style, "script-src": script} {
		sum := sha256.Sum256([]byte(text))
		if want := directive + " 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "';"; !strings.Contains(policy, want) || !strings.Contains(policy, "default-src 'none';") {
			t.Errorf("the policy %s has no %s", policy, want)
		}
	}
	if strings.ContainsAny(data, "<>&") {
		t.Errorf("markup in the data: %.200s", data)
	}
	checkData(t, data, c)
	for _, m := range tag.FindAllStringSubmatch(rest, -1) {
		if !slices.Contains(element, strings.TrimPrefix(m[1], "/")) {
			t.Errorf("element %s", m[0])
		}
		for _, a := range attr.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(attribute, a[1]) || a[1] == "href" && !strings.HasPrefix(a[2], "#") {
				t.Errorf("attribute %s in %s", a[0], m[0])
			}
		}
	}
	if text := tag.ReplaceAllString(rest, ""); strings.ContainsAny(text, "<") {
		at := strings.IndexByte(text, '<')
		t.Errorf("an open angle bracket in the text: %.100q", text[max(0, at-20):])
	}
	return rest
}

// checkData checks what the page's script relies on.
func checkData(t testing.TB, data string, c *Case) {
	t.Helper()
	var d struct {
		Texts  []string
		Tables []struct {
			Name  string
			Rows  int
			Focus *int
			Gaps  [][2]int64
			Cols  []struct {
				Name, Kind string
				V          []*int64
			}
		}
	}
	if err := json.Unmarshal([]byte(data), &d); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, s := range d.Texts {
		if seen[s] || Clean(s) != s {
			t.Errorf("text %q: twice, or not clean", s)
		}
		seen[s] = true
	}
	rows := 0
	for _, table := range d.Tables {
		for _, col := range table.Cols {
			if len(col.V) != table.Rows {
				t.Errorf("%s, %s: %d values in %d rows", table.Name, col.Name, len(col.V), table.Rows)
			}
			for _, v := range col.V {
				if col.Kind == "text" && (v == nil || *v < 0 || *v >= int64(len(d.Texts))) {
					t.Fatalf("%s, %s: no such text", table.Name, col.Name)
				}
			}
		}
		if table.Focus != nil && (*table.Focus < 0 || *table.Focus >= table.Rows) {
			t.Errorf("%s: focus on row %d of %d", table.Name, *table.Focus, table.Rows)
		}
		if table.Name == "calls" {
			rows = table.Rows
			for _, g := range table.Gaps {
				rows += int(g[1])
			}
		}
	}
	if int64(rows) != c.Excerpt.Total && len(c.Excerpt.Calls()) > 0 {
		t.Errorf("rows and gaps are %d calls of %d", rows, c.Excerpt.Total)
	}
}

func TestPage(t *testing.T) {
	for name, evs := range scenes(t) {
		t.Run(name, func(t *testing.T) {
			c := caseWith(100, evs)
			page := checkPage(t, c)
			for _, want := range []string{`<section class="verdict v-` + c.Diagnosis.Verdict, `id="tables"`, `id="evidence"`} {
				if !strings.Contains(page, want) {
					t.Errorf("no %s", want)
				}
			}
			pictures := 0 // of names; a wait has a chain instead
			for _, f := range c.Diagnosis.Findings {
				if f.Name != "" {
					pictures++
				} else if !strings.Contains(page, `<li class="circle">`) {
					t.Error("no circle")
				}
			}
			if n := strings.Count(page, `<svg class="picture wide"`); n != pictures || strings.Count(page, `<svg class="picture slim"`) != n {
				t.Errorf("%d pictures of %d", n, pictures)
			}
			if n := strings.Count(page, `class="arrow opened"`); n != 2*pictures {
				t.Errorf("%d arrows", n)
			}
		})
	}
}

// The picture of the page and that on a terminal say the same.
func TestPagePicture(t *testing.T) {
	all := scenes(t)
	page := checkPage(t, caseWith(100, all["hang"]))
	for _, want := range []string{
		"/proc/self/fd/4 is resolved by gdb (pid 2158); opened: pipe:[4798], descriptor 16, the same as its own descriptors 3, 4. " +
			"It belongs to from_memory (pid 2162); meant: /memfd:libfunction (deleted), descriptor 4",
		">3, 4 and 16 are one file: device 15, inode 4798<", ">same file<", ">debugger, pid 2158<", ">inferior, pid 2162<",
		"A look at a running debugger has no calls in it.", "Backtrace of thread 2158 of gdb", "whosefd repair 2158",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q", want)
		}
	}
	for scene, want := range map[string]string{
		"closed": "in its memory; descriptor 4 is not that file now", "error": "ENOENT", "no-list": "not in the evidence",
	} {
		if page := checkPage(t, caseWith(100, all[scene])); !strings.Contains(page, want) {
			t.Errorf("%s: no %q", scene, want)
		}
	}
}

func TestTimeline(t *testing.T) {
	c := caseWith(100, scenes(t)["trace-hang"])
	got := map[string]int{}
	moments := timeline(&c.Diagnosis.Findings[0], c.Excerpt.Calls(), false)
	for _, m := range moments {
		got[m.role]++
		if m.role == "opens it" && m.since != "0" || m.role == "hangs here" && !strings.HasPrefix(m.since, "+") || m.role == "reads the name" && !strings.HasPrefix(m.since, "−") {
			t.Errorf("%s at %s", m.role, m.since)
		}
	}
	if got["opens it"] != 1 || got["hangs here"] != 1 || got["reads the name"] == 0 {
		t.Errorf("%v", got)
	}
	// So does a read that a signal ended.
	interrupted := c.Excerpt.Calls()
	end := &interrupted[len(interrupted)-1].Call
	end.Unfinished, end.Errno, end.Ret = false, "ERESTARTSYS", event.Some[int64](-1)
	if moments = timeline(&c.Diagnosis.Findings[0], interrupted, false); moments[len(moments)-1].role != "hangs here" {
		t.Errorf("%+v", moments)
	}
	// A name that was read in pieces, among other reads, long before.
	f := &analyze.Finding{}
	f.Name, f.Opened = "/proc/self/fd/4", rules.Opened{PID: 1, Target: event.Target{Dev: 1, Ino: 2}}
	read := func(s string) *tables.ExcerptRow {
		return &tables.ExcerptRow{CallRow: tables.CallRow{Call: event.Syscall{PID: 1, Name: "pread64", Offset: event.Some[int64](1), Ret: event.Some[int64](8), Data: []byte(s)}}}
	}
	var rows []*tables.ExcerptRow
	for _, s := range []string{"/lib/libc", "/proc/se", "x", "lf/fd/4\x00"} {
		rows = append(rows, read(s))
	}
	for range 40 {
		rows = append(rows, read("\x01\x02"))
	}
	open := &tables.ExcerptRow{CallRow: tables.CallRow{Call: event.Syscall{PID: 1, Name: "openat", Path: f.Name, Ret: event.Some[int64](5), Target: &f.Opened.Target}}}
	rows = append(rows, open)
	for i, r := range rows {
		r.Number = int64(i + 1)
	}
	var numbers []int64
	total := int64(0)
	for _, m := range timeline(f, rows, false) {
		total += 1 + m.skipped
		if m.role == "reads the name" {
			numbers = append(numbers, m.number)
		}
	}
	if !slices.Equal(numbers, []int64{2, 4}) || total != int64(len(rows)) {
		t.Errorf("name read in calls %v, %d calls in all of %d", numbers, total, len(rows))
	}
	// Half of a name is chance.
	if got := timeline(f, append([]*tables.ExcerptRow{read("lf/fd/4\x00")}, open), false); got[0].role != "" {
		t.Errorf("%+v", got[0])
	}
	// A log without times has none in its report.
	got2 := timeline(f, rows, true)
	for i, m := range got2 {
		if want := sinceCalls(m.number - int64(len(rows))); m.since != want || m.time != "" || i == len(got2)-2 && m.since != "−1 call" {
			t.Errorf("call %d: %q %q", m.number, m.since, m.time)
		}
	}
	if got := timeline(f, rows[:len(rows)-1], false); got != nil {
		t.Errorf("a timeline without the opening: %+v", got)
	}
}

func TestPageAttacks(t *testing.T) {
	for _, attack := range attacks {
		t.Run(fmt.Sprintf("%q", attack), func(t *testing.T) {
			c := caseWith(100, attacked(attack))
			if len(c.Diagnosis.Findings) == 0 || len(c.Diagnosis.Stack) == 0 || len(c.Diagnosis.Missing) == 0 {
				t.Fatalf("the scene is not what it should be: %+v", c.Diagnosis)
			}
			checkPage(t, c)
			checkMarkdown(t, c)
			var out bytes.Buffer
			if err := CaseText(&out, c, Style{}); err != nil {
				t.Fatal(err)
			}
			harmless(t, "text", out.Bytes())
			checkCSV(t, c)
		})
	}
}

// What a long recording makes is bounded, and says what was left out.
func TestPageSize(t *testing.T) {
	evs := []event.Event{&event.Session{Schema: event.Schema, Source: "trace", Debugger: &event.Process{PID: 1, Comm: "gdb"}}}
	for i := range 50_000 {
		evs = append(evs, &event.Syscall{T: event.Micros(i), PID: 1, TID: 1, Name: "read", FD: event.Some[event.FD](3), Ret: event.Some[int64](int64(i % 7)),
			Target: &event.Target{Kind: event.Regular, Link: event.Text(strings.Repeat("x", 50+i%3)), Ino: 5}})
	}
	var buf bytes.Buffer
	c := caseWith(2000, evs)
	if err := HTML(&buf, c); err != nil {
		t.Fatal(err)
	}
	if page := buf.String(); len(page) > 150_000 || !strings.Contains(page, "2000 of 50000 calls are shown") || !strings.Contains(page, "48000 were left out") {
		t.Errorf("%d bytes", len(page))
	}
	checkPage(t, c)
	if page := checkPage(t, caseWith(0, evs[:10])); !strings.Contains(page, "None of the 9 calls was to be kept.") || !strings.Contains(page, `id="t-descriptors"`) {
		t.Error("without calls: not said")
	}
}

// What must not be in a report outside of code: anything that a tracker makes
// something of.
var (
	structure = regexp.MustCompile(`^(### |- |[0-9]+\. )?(\*\*[^*` + "`" + `]+\*\*)?`)
	inert     = regexp.MustCompile(`^[\pL\pN .,;:!?()"'’–-]*$`)
)

// checkMarkdown checks that all that is not code is plain words in the
// structure of the report.
func checkMarkdown(t testing.TB, c *Case) string {
	t.Helper()
	var buf bytes.Buffer
	if err := Markdown(&buf, c); err != nil {
		t.Fatal(err)
	}
	harmless(t, "markdown", buf.Bytes())
	fence := ""
	for _, line := range strings.Split(buf.String(), "\n") {
		if fence != "" {
			if strings.HasPrefix(strings.TrimLeft(line, " "), fence) {
				if line != fence {
					t.Errorf("a fence of %d is closed by %q", len(fence), line)
				}
				fence = ""
			}
			continue
		}
		if strings.HasPrefix(line, "```") {
			if fence = strings.TrimSuffix(line, "text"); fence == line {
				t.Errorf("a fence %q", line)
			}
			continue
		}
		plain := line
		for {
			begin := strings.IndexByte(plain, '`')
			if begin < 0 {
				break
			}
			n := longestRun(plain[begin : begin+len(plain[begin:])-len(strings.TrimLeft(plain[begin:], "`"))])
			end := closing(plain[begin+n:], n)
			if end < 0 {
				t.Errorf("code that does not end in %q", line)
				break
			}
			plain = plain[:begin] + "x" + plain[begin+n+end+n:]
		}
		plain = plain[len(structure.FindString(plain)):]
		if !inert.MatchString(plain) || strings.Contains(plain, "://") || strings.Contains(plain, "www.") {
			t.Errorf("not inert: %q (%q)", plain, line)
		}
		if strings.HasPrefix(plain, "    ") && plain == line {
			t.Errorf("indented code: %q", line)
		}
	}
	if fence != "" {
		t.Errorf("a fence %q that is not closed", fence)
	}
	return buf.String()
}

// closing finds a run of exactly n backticks.
func closing(s string, n int) int {
	for i := 0; i < len(s); {
		if s[i] != '`' {
			i++
			continue
		}
		run := len(s[i:]) - len(strings.TrimLeft(s[i:], "`"))
		if run == n {
			return i
		}
		i += run
	}
	return -1
}

func TestMarkdown(t *testing.T) {
	all := scenes(t)
	for name, evs := range all {
		t.Run(name, func(t *testing.T) { checkMarkdown(t, caseWith(100, evs)) })
	}
	got := checkMarkdown(t, caseWith(100, all["hang"]))
	for _, want := range []string{
		"**Verdict: hang.** gdb (pid 2158) opened `/proc/self/fd/4`, a name that belongs to", "### Environment\n", "- Debugger: `/usr/bin/gdb`", "### Steps to reproduce\n",
		"### Finding: self-fd, hang (certain)\n", "**Root cause.**", "**Evidence**", "### Backtrace of thread 2158 of gdb", "\nwhosefd repair 2158\n```", "Debugger version: not in the evidence",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestMarkdownText(t *testing.T) {
	for in, want := range map[string]string{
		"":                            "",
		"plain words, don't touch.":   "plain words, don't touch.",
		"gdb (pid 12) read 4 bytes.":  "gdb (pid 12) read 4 bytes.",
		"see /proc/self/fd/4, there":  "see `/proc/self/fd/4`, there",
		"frames #10, #11 and #12.":    "frames `#10`, `#11` and `#12`.",
		"(link_map) of x":             "(`link_map`) of x",
		"@user":                       "`@user`",
		"a `b` c":                     "a `` `b` `` c",
		"1. x":                        "`1`. x",
		"- x":                         "`-` x",
		"www.example.org":             "`www.example.org`",
		"see http://a.b/c.":           "see `http://a.b/c`.",
		"<b>":                         "`<b>`",
		"dlopen(\"/proc/x\") instead": "`dlopen(\"/proc/x\")` instead",
	} {
		if got := mdText(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// checkCSV checks that no cell is a formula.
func checkCSV(t testing.TB, c *Case) {
	t.Helper()
	for _, which := range []string{"calls", "summary", "fds"} {
		var buf bytes.Buffer
		if err := CaseCSV(&buf, c, []string{which}); err != nil {
			t.Fatal(err)
		}
		harmless(t, which, buf.Bytes())
		r := csv.NewReader(&buf)
		for n := 0; ; n++ {
			cells, err := r.Read()
			if errors.Is(err, io.EOF) {
				if n < 2 {
					t.Errorf("%s: no rows", which)
				}
				break
			}
			if err != nil {
				t.Fatal(which, err)
			}
			for _, cell := range cells {
				if s := strings.TrimLeft(cell, " \t\r\n"); s != "" && strings.ContainsAny(s[:1], "=+-@") {
					t.Errorf("%s: a formula %q", which, cell)
				}
			}
		}
	}
}

func TestCutFront(t *testing.T) {
	for _, tc := range []struct {
		in   string
		n    int
		want string
	}{
		{"/usr/lib/x.so", 20, "/usr/lib/x.so"}, {"/usr/lib/x.so", 6, "…/x.so"}, {"/usr/lib/library.so", 15, "…/library.so"}, {"/a/verylongname.so", 10, "…ngname.so"}, {"pipe:[123456]", 8, "pipe:[1…"}, {"/漢漢漢漢", 5, "…漢漢"}, {"/a", 0, "/a"}, {"", 3, ""},
	} {
		if got := cutFront(tc.in, tc.n); got != tc.want {
			t.Errorf("cutFront(%q, %d) = %q, want %q", tc.in, tc.n, got, tc.want)
		}
	}
}
