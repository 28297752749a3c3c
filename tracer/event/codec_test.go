package event

import (
	"bytes"
	"encoding/json"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// examples has one event of each type, with texts that are hard to carry.
func examples() []Event {
	pipe := Target{Kind: Pipe, Link: "pipe:[4798]", Dev: 15, Ino: 4798}
	return []Event{
		&Session{Schema: Schema, Tool: "whosefd 1", Start: time.Unix(1700000000, 0).UTC(), Arch: "amd64",
			Debugger: &Process{PID: 2158, Comm: "gdb", UID: Some(0), Cmdline: []Text{"gdb", "a\xffb", ""}}},
		&Syscall{T: 1204511, PID: 2158, TID: 2158, Name: "openat", Path: "/proc/self/fd/4",
			Flags: "O_RDONLY|O_CLOEXEC", Ret: Some[int64](16), DurUS: Some[int64](15), Target: &pipe,
			Counterpart: []Counterpart{{PID: 2162, FD: Some[FD](4), Target: Target{Kind: Memfd, Dev: 1, Ino: 1026}}}},
		&Syscall{T: 3, PID: 1, TID: 1, Name: "open", Path: "\x1b[31m\xfe\u202e\u00e9\U0001F600\"\\\n", Ret: Some[int64](-1), Errno: "ENOENT"},
		&Descriptor{PID: 1, FD: 0, Access: "rw", Target: Target{Kind: TTY, Link: "/dev/pts/1", Dev: 24, Ino: 4}},
		&Inferior{Process: Process{PID: 7, Comm: "x", Tracer: &Tracer{PID: 3, Comm: "g\xff"}}, TracerTID: 3, Static: true, State: "t"},
		&LinkMap{PID: 7, Addr: 0x7fff00000000, Name: "/proc/self/fd/4", Mapped: &pipe, Reachable: []Text{"/proc/7/fd/4"},
			Resolves: []Resolution{{PID: 1, Target: Target{Kind: Unknown, Error: "ENOENT"}}}},
		&Inferior{Process: Process{Comm: "prog", Exe: "/memfd:p (deleted)"}, Core: &Core{ID: 1, PID: 7, Signal: "SIGSEGV", Arch: "386",
			Missing: 4096, Target: Target{Kind: Regular, Link: "/tmp/core\n", Dev: 1, Ino: 2}}},
		&LinkMap{Core: 1, Addr: 0x7fff00000000, Name: "/proc/self/fd/4", Mapped: &Target{Kind: Memfd, Link: "/memfd:p (deleted)", BuildID: "ab01"}},
		&Blocked{PID: 1, TID: 2, Syscall: "read", FD: Some[FD](0), Args: []Hex{0, 1}, Holders: []Holder{{PID: 1, FD: 3}}},
		&Stack{PID: 1, TID: 2, Frames: []Frame{{PC: 1, Function: "f<T>"}}},
		&Lost{Reason: "x"},
		&End{Reason: "exited", Exit: Some(0)},
	}
}

func TestRoundTrip(t *testing.T) {
	var buf bytes.Buffer
	w := NewWriter(&buf)
	for _, ev := range examples() {
		if err := w.Write(ev); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range buf.Bytes() {
		if c < 0x20 && c != '\n' || c == 0x7f {
			t.Fatalf("raw control byte %#x in %q", c, buf.String())
		}
	}
	if !utf8.Valid(buf.Bytes()) || strings.Contains(buf.String(), "\u202e") {
		t.Fatalf("not clean text: %q", buf.String())
	}
	r := NewReader(&buf)
	for i, want := range examples() {
		got, err := r.Next()
		if err != nil {
			t.Fatalf("event %d: %v", i, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("event %d:\n got %+v\nwant %+v", i, got, want)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("at the end: %v, want io.EOF", err)
	}
}

// Of a core there is no process id to be written, and yet each core is an inferior of its own.
func TestCoreOwners(t *testing.T) {
	inf := Inferior{Core: &Core{ID: 2, PID: 7}}
	if lm := (LinkMap{Core: 2}); lm.Owner() != inf.Owner() || lm.Owner() == (&LinkMap{Core: 1}).Owner() || lm.Owner() >= NoPID {
		t.Errorf("owners %d and %d", lm.Owner(), inf.Owner())
	}
	if lm := (LinkMap{PID: 7}); lm.Owner() != 7 {
		t.Errorf("owner %d of a process's entry", lm.Owner())
	}
	var buf bytes.Buffer
	if err := NewWriter(&buf).Write(&inf); err != nil || strings.Contains(buf.String(), `"pid":0`) {
		t.Errorf("%s, %v", buf.String(), err)
	}
}

// The line is a contract: these are the fields of the design's example.
func TestSyscallLine(t *testing.T) {
	var buf bytes.Buffer
	if err := NewWriter(&buf).Write(examples()[1]); err != nil {
		t.Fatal(err)
	}
	const want = `{"type":"syscall","t":1.204511,"pid":2158,"tid":2158,"name":"openat","path":"/proc/self/fd/4",` +
		`"flags":"O_RDONLY|O_CLOEXEC","ret":16,"dur_us":15,` +
		`"target":{"kind":"pipe","link":"pipe:[4798]","dev":15,"ino":4798},` +
		`"counterpart":[{"pid":2162,"fd":4,"kind":"memfd","dev":1,"ino":1026}]}` + "\n"
	if buf.String() != want {
		t.Errorf("got  %s\nwant %s", buf.String(), want)
	}
}

func TestReaderErrors(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"\n{\"type\":\"lost\",\"reason\":\"x\"}\nhello\n", "line 3: not a JSON object"},
		{"{}\n", `line 1: no "type" field`},
		{"[1]\n", "line 1: not a JSON object"},
		{`{"type":"syscall","t":"x"}` + "\n", "line 1: syscall event"},
		{`{"type":"session","schema":"whosefd.recording/v9"}` + "\n", "line 1: schema"},
		{`{"type":"sysc`, "cut off"},
	} {
		r := NewReader(strings.NewReader(tc.in))
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v, want %q", tc.in, err, tc.want)
		}
	}
}

func TestReaderSkipsWhatItDoesNotKnow(t *testing.T) {
	r := NewReader(strings.NewReader(`{"type":"future","x":1}` + "\n" + `{"type":"end","reason":"killed"}`))
	if ev, err := r.Next(); err != nil || ev.Type() != "end" {
		t.Errorf("got %v, %v", ev, err)
	}
}

func FuzzReader(f *testing.F) {
	var buf bytes.Buffer
	w := NewWriter(&buf)
	for _, ev := range examples() {
		if err := w.Write(ev); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(buf.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		r := NewReader(bytes.NewReader(in))
		for {
			ev, err := r.Next()
			if err != nil {
				return
			}
			// What was read can be written, and then reads as the same.
			var out bytes.Buffer
			if err := NewWriter(&out).Write(ev); err != nil {
				t.Fatalf("cannot write %+v: %v", ev, err)
			}
			again, err := NewReader(&out).Next()
			if err != nil {
				t.Fatalf("cannot read %q: %v", out.String(), err)
			}
			if !bytes.Equal(mustJSON(t, ev), mustJSON(t, again)) {
				t.Fatalf("%+v became %+v", ev, again)
			}
		}
	})
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
