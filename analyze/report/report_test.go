package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"whosefd/analyze"
	"whosefd/analyze/tables"
	"whosefd/analyze/words"
	"whosefd/tracer/event"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// scenes are the recordings of package analyze's tests.
func scenes(t testing.TB) map[string][]event.Event {
	t.Helper()
	files, err := filepath.Glob("../testdata/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatal("no recordings", err)
	}
	all := map[string][]event.Event{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		r := event.NewReader(bytes.NewReader(b))
		name := strings.TrimSuffix(filepath.Base(file), ".jsonl")
		all[name] = nil
		for {
			ev, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(file, err)
			}
			all[name] = append(all[name], ev)
		}
	}
	return all
}

func analyzed(evs []event.Event) (*analyze.Analysis, *tables.Tables) {
	a := analyze.New()
	gathered := a.Tables(analyze.Filter{})
	for _, ev := range evs {
		gathered.Add(ev, a.Add(ev))
	}
	return a, gathered
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (-update rewrites it); got:\n%s", path, got)
	}
}

// harmless checks that an output has nothing that a terminal would obey.
func harmless(t testing.TB, what string, out []byte) {
	t.Helper()
	if !utf8.Valid(out) {
		t.Errorf("%s: not UTF-8: %q", what, out)
	}
	for i, r := range string(out) {
		if r != '\n' && !visible(r) {
			t.Fatalf("%s: %U at byte %d: %q", what, r, i, out[max(0, i-40):min(len(out), i+40)])
		}
	}
}

func text(t testing.TB, d *analyze.Diagnosis, st Style) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := Text(&buf, d, st); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestText(t *testing.T) {
	for name, evs := range scenes(t) {
		a, _ := analyzed(evs)
		d := a.Diagnosis()
		got := text(t, d, Style{})
		harmless(t, name, got)
		golden(t, name+".txt", got)
		if n := strings.Count(string(got), "all is well"); name == "hostile" && n == 0 {
			t.Error("the hostile text is not shown at all")
		}
		if bytes.Contains(got, []byte("\nok: all is well")) {
			t.Errorf("%s: a process wrote a line of its own", name)
		}
		for _, w := range []int{20, 40, 60, 80, 120} {
			wrapped := text(t, d, Style{Width: w})
			harmless(t, name, wrapped)
			for _, l := range strings.Split(string(wrapped), "\n") {
				// Commands, which are to be copied, and single words are not broken.
				if width(l) > w && w >= 40 && len(strings.Fields(l)) > 3 && !strings.HasPrefix(l, "  - ") && name != "hostile" {
					t.Errorf("%s: line of %d columns on a terminal of %d: %q", name, width(l), w, l)
				}
			}
		}
	}
	a, _ := analyzed(scenes(t)["hang"])
	golden(t, "hang-80.txt", text(t, a.Diagnosis(), Style{Width: 80}))
	golden(t, "hang-60.txt", text(t, a.Diagnosis(), Style{Width: 60}))
	colored := text(t, a.Diagnosis(), Style{Width: 80, Color: true})
	golden(t, "hang-color.txt", colored)
	for _, code := range []string{bold, red, yellow, green, faint, "0"} {
		colored = bytes.ReplaceAll(colored, []byte("\x1b["+code+"m"), nil)
	}
	if !bytes.Equal(colored, text(t, a.Diagnosis(), Style{Width: 80})) {
		t.Error("colors change more than colors")
	}
}

func TestJSON(t *testing.T) {
	for name, evs := range scenes(t) {
		a, _ := analyzed(evs)
		d := a.Diagnosis()
		var buf bytes.Buffer
		if err := JSON(&buf, d); err != nil {
			t.Fatal(err)
		}
		harmless(t, name, buf.Bytes())
		var plain bytes.Buffer
		enc := json.NewEncoder(&plain)
		if err := enc.Encode(d); err != nil {
			t.Fatal(err)
		}
		var x, y any
		if err := json.Unmarshal(buf.Bytes(), &x); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, buf.Bytes())
		}
		if err := json.Unmarshal(plain.Bytes(), &y); err != nil {
			t.Fatal(err)
		}
		xb, _ := json.Marshal(x)
		yb, _ := json.Marshal(y)
		if !bytes.Equal(xb, yb) {
			t.Errorf("%s: escaping changed the value", name)
		}
	}
}

// The field names are a contract.
func TestJSONContract(t *testing.T) {
	a, _ := analyzed(scenes(t)["hang"])
	var buf bytes.Buffer
	if err := JSON(&buf, a.Diagnosis()); err != nil {
		t.Fatal(err)
	}
	var d struct {
		Schema, Verdict, Summary string
		Debugger                 struct {
			PID, TID   int
			Comm, Exe  string
			State      string
			Syscall    string
			FD         *int
			Unexpected any
		}
		Inferiors []map[string]any
		Findings  []struct {
			Rule, Effect, Confidence, Name string
			Opened, Intended               map[string]any
			Evidence, Remedies             []map[string]any
		}
		Stack []struct {
			TID    int
			Frames []map[string]any
		}
	}
	if err := json.Unmarshal(buf.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	if d.Schema != "whosefd.diagnosis/v1" || d.Verdict != "hang" || d.Debugger.State != "blocked" || d.Debugger.Syscall != "read" ||
		d.Debugger.FD == nil || *d.Debugger.FD != 16 || d.Debugger.PID != 2158 || d.Debugger.TID != 2158 || d.Debugger.Exe != "/usr/bin/gdb" {
		t.Errorf("%+v", d.Debugger)
	}
	f := d.Findings[0]
	for field, want := range map[string]any{"pid": 2158., "fd": 16., "kind": "pipe", "link": "pipe:[4798]", "dev": 15., "ino": 4798.} {
		if f.Opened[field] != want {
			t.Errorf("opened.%s = %v, want %v", field, f.Opened[field], want)
		}
	}
	if same, _ := json.Marshal(f.Opened["same_as_fd"]); string(same) != "[3,4]" {
		t.Errorf("opened.same_as_fd = %s", same)
	}
	for field, want := range map[string]any{"pid": 2162., "fd": 4., "kind": "memfd", "link": "/memfd:libfunction (deleted)", "dev": 1., "ino": 1026.,
		"reachable": "/proc/2162/fd/4"} {
		if f.Intended[field] != want {
			t.Errorf("intended.%s = %v, want %v", field, f.Intended[field], want)
		}
	}
	if f.Remedies[0]["kind"] != "repair" || f.Remedies[0]["command"] != "whosefd repair 2158" {
		t.Errorf("%v", f.Remedies[0])
	}
	if fr := d.Stack[0].Frames[0]; d.Stack[0].TID != 2158 || fr["pc"] != "0x7f69046c3cb6" || fr["offset"] != "0xf8cb6" || fr["line"] != 26. {
		t.Errorf("%v", fr)
	}
}

func TestTables(t *testing.T) {
	all := scenes(t)
	for name, evs := range all {
		_, tables := analyzed(evs)
		for _, f := range []Format{FormatTable, FormatText, FormatMarkdown, FormatCSV, FormatJSON, FormatLines} {
			var buf bytes.Buffer
			if err := Tables(&buf, tables, nil, f, Style{}); err != nil {
				t.Fatalf("%s as %s: %v", name, f, err)
			}
			harmless(t, name+" as "+string(f), buf.Bytes())
			if name == "trace-hang-closing" {
				golden(t, "tables."+string(f), buf.Bytes())
			}
			if f == FormatTable || f == FormatText {
				for _, w := range []int{40, 80, 100, 140} {
					buf.Reset()
					if err := Tables(&buf, tables, nil, f, Style{Width: w}); err != nil {
						t.Fatal(err)
					}
					for _, l := range strings.Split(buf.String(), "\n") {
						if width(l) > w {
							t.Errorf("%s as %s: %d columns on a terminal of %d: %s", name, f, width(l), w, l)
						}
					}
				}
			}
		}
	}
	_, tables := analyzed(all["hang"])
	if err := Tables(io.Discard, tables, nil, "html", Style{}); err == nil {
		t.Error("html is no format for tables, but no error")
	}
}

func TestPS(t *testing.T) {
	all := scenes(t)
	var rows []words.PSRow
	for _, name := range []string{"hang", "thread", "prompt", "waiting-inferior", "error", "hostile"} {
		a, _ := analyzed(all[name])
		rows = append(rows, a.PS())
	}
	rows = append(rows, words.PSRow{PID: 77, Comm: "gdb", Error: "operation not permitted"})
	for _, f := range []Format{FormatTable, FormatText, FormatMarkdown, FormatCSV, FormatJSON} {
		var buf bytes.Buffer
		if err := PS(&buf, rows, f, Style{}); err != nil {
			t.Fatal(err)
		}
		harmless(t, string(f), buf.Bytes())
		golden(t, "ps."+string(f), buf.Bytes())
	}
	// A row fits the terminal, and what was found is broken, not cut.
	rows[0].PID = 4194304
	rows[0].Error = "a reason of several words, for which the place behind all other columns is far too narrow"
	for _, w := range []int{120, 80, 40} {
		var buf bytes.Buffer
		if err := PS(&buf, rows, FormatTable, Style{Width: w}); err != nil {
			t.Fatal(err)
		}
		for _, l := range strings.Split(buf.String(), "\n") {
			if width(l) > w {
				t.Errorf("%d columns on a terminal of %d: %s", width(l), w, l)
			}
		}
		for _, word := range strings.Fields(string(rows[0].Error) + " 4194304 gdb") {
			if !strings.Contains(buf.String(), " "+word+" ") {
				t.Errorf("%d columns: no %q in\n%s", w, word, buf.String())
			}
		}
	}
	var buf bytes.Buffer
	if err := PS(&buf, nil, FormatTable, Style{}); err != nil || !strings.Contains(buf.String(), "No debugger") {
		t.Errorf("%v %q", err, buf.String())
	}
}

// A program that reads CSV finds as many cells in each row as in the head, and in a column
// that names a unit or a count nothing but plain numbers.
func TestCSVNumbers(t *testing.T) {
	numbers := regexp.MustCompile(`^(time_s|opened_s|closed_s|.*_us|pid|thread|fd|ret|calls|errors|unfinished|reads|bytes|descriptors)$`)
	plain := regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?$`)
	filled := map[string]bool{}
	for name, events := range scenes(t) {
		a, tables := analyzed(events)
		var all bytes.Buffer
		if err := errors.Join(Tables(&all, tables, nil, FormatCSV, Style{}), func() error { all.WriteString("\n"); return nil }(),
			PS(&all, []words.PSRow{a.PS()}, FormatCSV, Style{})); err != nil {
			t.Fatal(err)
		}
		for part := range strings.SplitSeq(all.String(), "\n\n") {
			rows, err := csv.NewReader(strings.NewReader(part)).ReadAll()
			if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, part)
			}
			for _, row := range rows[1:] {
				for i, cell := range row {
					if head := rows[0][i]; numbers.MatchString(head) && cell != "" {
						filled[head] = true
						if !plain.MatchString(cell) {
							t.Errorf("%s: %s is %q", name, head, cell)
						}
					}
				}
			}
		}
	}
	for _, head := range []string{"time_s", "duration_us", "total_us", "read_us", "opened_s", "errors", "descriptors", "thread"} {
		if !filled[head] {
			t.Errorf("no row has %s", head)
		}
	}
}

func TestLive(t *testing.T) {
	all := scenes(t)
	for _, st := range []Style{{}, {Width: 80}} {
		var buf bytes.Buffer
		for _, name := range []string{"trace-hang", "trace-error", "trace-guarded", "trace-own-self"} {
			a, l := analyze.New(), NewLive(&buf, st)
			for _, ev := range all[name] {
				if c, ok := ev.(*event.Syscall); ok {
					if err := l.Add(c, a.Add(ev)); err != nil {
						t.Fatal(err)
					}
				} else {
					a.Add(ev)
				}
			}
		}
		for _, l := range strings.Split(buf.String(), "\n") {
			if st.Width > 0 && width(l) > st.Width {
				t.Errorf("%d columns: %s", width(l), l)
			}
			if st.Width == 0 && strings.HasSuffix(l, "…") {
				t.Errorf("cut in a pipe: %s", l)
			}
		}
		golden(t, map[int]string{0: "live.txt", 80: "live-80.txt"}[st.Width], buf.Bytes())
	}
}

func TestRow(t *testing.T) {
	pipe := event.Target{Kind: event.Pipe, Link: "pipe:[4798]", Dev: 15, Ino: 4798}
	some := func(n int64) event.Opt[int64] { return event.Some(n) }
	for _, tc := range []struct {
		ev   event.Syscall
		want string
	}{
		{event.Syscall{Name: "openat", Path: "/proc/self/fd/4", Flags: "O_RDONLY|O_CLOEXEC", Ret: some(16), Target: &pipe},
			"openat /proc/self/fd/4 O_RDONLY|O_CLOEXEC → 16 pipe:[4798]"},
		{event.Syscall{Name: "read", FD: event.Some[event.FD](16), Target: &pipe, Unfinished: true}, "read 16 pipe:[4798] … unfinished"},
		{event.Syscall{Name: "openat", DirFD: event.Some[event.FD](5), Path: "lib.so", Flags: "O_RDONLY", Ret: some(-1), Errno: "ENOENT"},
			"openat 5/lib.so O_RDONLY → ENOENT"},
		{event.Syscall{Name: "newfstatat", DirFD: event.Some[event.FD](16), FD: event.Some[event.FD](16), Flags: "AT_EMPTY_PATH", Ret: some(0), Target: &pipe},
			"newfstatat 16/ pipe:[4798] AT_EMPTY_PATH → 0"},
		{event.Syscall{Name: "readlink", Path: "/proc/self/exe", Count: event.Some[uint64](4096), Ret: some(7), Data: []byte("/bin/\x1bx")},
			`readlink /proc/self/exe → /bin/\x1bx`},
		{event.Syscall{Name: "dup3", FD: event.Some[event.FD](5), NewFD: event.Some[event.FD](16), Flags: "O_CLOEXEC", Ret: some(16), Target: &pipe},
			"dup3 5 16 O_CLOEXEC → 16 pipe:[4798]"},
		{event.Syscall{Name: "lseek", FD: event.Some[event.FD](16), Target: &pipe, Flags: "SEEK_SET", Offset: some(0), Ret: some(-1), Errno: "ESPIPE"},
			"lseek 16 pipe:[4798] SEEK_SET @0 → ESPIPE"},
		{event.Syscall{Name: "mmap", FD: event.Some[event.FD](5), Target: &pipe, Ret: some(0x7f0000000000)}, "mmap 5 pipe:[4798] → 0x7f0000000000"},
		{event.Syscall{Name: "read", Resumed: true, FD: event.Some[event.FD](16), Target: &pipe, Ret: some(0), DurUS: some(2500000)},
			"read (resumed) 16 pipe:[4798] → 0  2.500 s"},
	} {
		tc.ev.T, tc.ev.TID = 1204511, 2158
		if got := Row(&tc.ev, analyze.Mark{}); got != "    1.204511    2158  "+tc.want {
			t.Errorf("got  %q\nwant %q", got, tc.want)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "plain text": "plain text", "é漢 ☃": "é漢 ☃",
		"a\x1b[31m": `a\x1b[31m`, "a\nb\tc\r": `a\nb\tc\x0d`, "\x00\x7f": `\x00\x7f`,
		"\xff\xfe": `\xff\xfe`, "\u009b": `\u009b`, "\u202e": `\u202e`, "\u2066x\u2069": `\u2066x\u2069`, "\u200b": `\u200b`,
		"\u2028": `\u2028`, "\u00a0": `\u00a0`, "\U000e0041": `\U000e0041`, "\xc3": `\xc3`, "\ufffd": `\ufffd`,
		"\u115f\u3164\u2800": `\u115f\u3164\u2800`, "a\u034fb": `a\u034fb`, "❤\ufe0f": `❤\ufe0f`,
		"e\u0301": "e\u0301", "\u0301e": `\u0301e`, "a\u0301\u0302\u0303\u0304\u0305\u0306": "a\u0301\u0302\u0303\u0304" + `\u0305` + "\u0306",
		"\U0001d167": `\U0001d167`,
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
		if again := Clean(want); again != want {
			t.Errorf("cleaning %q again gives %q", want, again)
		}
	}
}

func TestFormulaSafe(t *testing.T) {
	for in, want := range map[string]string{"=1+1": "'=1+1", "@x": "'@x", "+1": "'+1", "-x": "'-x", "-": "'-", "-1": "-1", "-1.5": "-1.5", "a=b": "a=b", "": "",
		"\t=1": "'\t=1", "\rx": "'\rx", " =1": "' =1", " x": " x", "\n@": "'\n@", "＝1": "'＝1", "−385 µs": "−385 µs", "é": "é", " ": " "} {
		if got := formulaSafe(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("/proc/self/fd/4\x1b[31m\u202e\xff\u009b\U000e0041")
	f.Fuzz(func(t *testing.T, in string) {
		out := Clean(in)
		harmless(t, "Clean", []byte(out))
		if strings.Contains(out, "\n") {
			t.Errorf("%q has a line end", out)
		}
		if Clean(out) != out {
			t.Errorf("%q changes when cleaned again", out)
		}
		for _, l := range wrap(out, 10) {
			if cut(l, 5) != l && width(cut(l, 5)) > 5 {
				t.Errorf("cut(%q, 5) is %q", l, cut(l, 5))
			}
		}
	})
}

// FuzzReports renders whatever a recording holds.
func FuzzReports(f *testing.F) {
	files, err := filepath.Glob("../testdata/*.jsonl")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		a := analyze.New()
		tables, excerpt := a.Tables(analyze.Filter{}), analyze.NewExcerpt(50)
		var out bytes.Buffer
		live := NewLive(&out, Style{Width: 70})
		r := event.NewReader(bytes.NewReader(in))
		for {
			ev, err := r.Next()
			if err != nil {
				break
			}
			mark := a.Add(ev)
			tables.Add(ev, mark)
			excerpt.Add(ev, mark)
			if c, ok := ev.(*event.Syscall); ok {
				if err := live.Add(c, mark); err != nil {
					t.Fatal(err)
				}
			}
		}
		d := a.Diagnosis()
		for _, st := range []Style{{}, {Width: 40}} {
			if err := Text(&out, d, st); err != nil {
				t.Fatal(err)
			}
			for _, format := range []Format{FormatTable, FormatText, FormatMarkdown, FormatCSV, FormatJSON, FormatLines} {
				if err := Tables(&out, tables, nil, format, st); err != nil {
					t.Fatal(err)
				}
				if err := PS(&out, []words.PSRow{a.PS()}, format, st); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := JSON(&out, d); err != nil {
			t.Fatal(err)
		}
		c := caseOf(a, tables, excerpt)
		if err := CaseText(&out, c, Style{Width: 60}); err != nil {
			t.Fatal(err)
		}
		if err := CaseCSV(&out, c, nil); err != nil {
			t.Fatal(err)
		}
		harmless(t, "output", out.Bytes())
		checkPage(t, c)
		checkMarkdown(t, c)
	})
}

// A loop of thousands of calls is a few rows; what is done by hand, later, is shown again.
func TestLiveFolds(t *testing.T) {
	var out bytes.Buffer
	l := NewLive(&out, Style{})
	add := func(at event.Micros, name string, fd event.FD) {
		t.Helper()
		if err := l.Add(&event.Syscall{T: at, PID: 7, TID: 7, Name: name, FD: event.Some(fd), Ret: event.Some[int64](0)}, analyze.Mark{}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range event.Micros(5000) {
		add(i*100, "read", 3)
		add(i*100+50, "close", 3)
	}
	add(600_000, "close", 9)
	add(5_000_000, "close", 9)
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	want := `        time  thread  call
    0.000000       7  read 3 → 0
    0.000050       7  close 3 → 0
   4999 more       7  read 3 → 0
   4999 more       7  close 3 → 0
    0.600000       7  close 9 → 0
    5.000000       7  close 9 → 0
`
	if out.String() != want {
		t.Errorf("got\n%s", out.String())
	}
}
