package straceio

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// What is written as strace's text is read as the same calls: of each recording that
// the tests have, and of calls made up at random.
func TestWriterRoundTrip(t *testing.T) {
	recordings, err := filepath.Glob("../testdata/*.jsonl")
	if err != nil || len(recordings) < 20 {
		t.Fatalf("%d recordings: %v", len(recordings), err)
	}
	calls := 0
	for _, name := range recordings {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var evs []event.Event
		for r := event.NewReader(bytes.NewReader(text)); ; {
			ev, err := r.Next()
			if err != nil {
				break // some end early, as tests of that
			}
			evs = append(evs, ev)
		}
		calls += roundTrip(t, filepath.Base(name), evs)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		calls += roundTrip(t, "random", randomCalls(rnd))
	}
	if calls < 5000 {
		t.Errorf("only %d calls were compared", calls)
	}
}

func roundTrip(t *testing.T, name string, evs []event.Event) int {
	t.Helper()
	var text bytes.Buffer
	w := NewWriter(&text)
	var want []event.Syscall
	for _, ev := range evs {
		if err := w.Write(ev); err != nil {
			t.Fatal(err)
		}
		if call, ok := ev.(*event.Syscall); ok && inLog(call) {
			want = append(want, *call)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if len(want) == 0 {
		return 0
	}
	log := text.String()
	var got []event.Syscall
	for r := NewReader(Input{Reader: strings.NewReader(log)}); ; {
		ev, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v in\n%s", name, err, log)
		}
		if call, ok := ev.(*event.Syscall); ok && inLog(call) {
			got = append(got, *call)
		}
	}
	want = joined(want)
	got = joined(got)
	if diff := cmp.Diff(telling(want), telling(got)); diff != "" {
		t.Fatalf("%s: (-written +read)\n%s\n%s", name, diff, log)
	}
	return len(want)
}

// inLog says whether a log has the call as one: mappings without a file are memory,
// and requests of ptrace(2) that read nothing are left to the summary.
func inLog(c *event.Syscall) bool {
	row, ok := decode.ByName(c.Name)
	return ok && row.Shown && !(row.Class == decode.ClassMap && c.FD.Or(-1) < 0) && !(row.Class == decode.ClassMemory && (c.Errno != "" || len(c.Data) == 0))
}

// joined makes one call of one that did not end at first, since a log has that as one.
func joined(calls []event.Syscall) (out []event.Syscall) {
	for i := range calls {
		c := calls[i]
		if c.Unfinished && slices.ContainsFunc(calls[i+1:], func(o event.Syscall) bool { return o.TID == c.TID && o.Resumed }) {
			continue
		}
		out = append(out, c)
	}
	return out
}

// telling leaves what the text of strace does not tell.
func telling(calls []event.Syscall) []event.Syscall {
	var first event.Micros
	out := make([]event.Syscall, len(calls))
	for i := range calls {
		c := calls[i]
		if i == 0 {
			first = c.T
		}
		row, _ := decode.ByName(c.Name)
		p := event.Syscall{T: c.T - first, TID: c.TID, Name: c.Name, DirFD: c.DirFD, FD: c.FD, NewFD: c.NewFD, Path: c.Path, PathTruncated: c.PathTruncated,
			Flags: c.Flags, Ret: c.Ret, Errno: c.Errno, DurUS: c.DurUS, Offset: c.Offset, OfPID: 0, Unfinished: c.Unfinished,
			FirstFD: c.FirstFD, LastFD: c.LastFD, CloseOnExec: c.CloseOnExec, Mode: c.Mode}
		if !c.Unfinished && c.Name != "process_vm_readv" && !slices.Contains(row.Args, decode.Iovec) {
			p.Count = c.Count
		}
		if c.Unfinished {
			p.Offset = event.Opt[int64]{}
			p.Arguments = ""
		}
		if c.Path == "" && c.DirFD.Known {
			p.FD = c.DirFD
		}
		if row.Class != decode.ClassMemory && c.Target != nil && c.Target.Link != "" && c.Errno == "" {
			p.Target = &event.Target{Link: c.Target.Link}
		}
		out[i] = p
	}
	return out
}

// randomCalls are calls with texts that are hard to carry.
func randomCalls(rnd *rand.Rand) []event.Event {
	texts := []event.Text{"/proc/self/fd/4", "a\"b\\c", "/tmp/<x>", "/tmp/new\nline", "/tmp/\x01" + "7", "/tmp/\xff\xfe", "/ende (deleted)", "relative name", "/ö", "/a, b) = 3", "/x <unfinished ...>"}
	links := append([]event.Text{"pipe:[42]", "socket:[7]", "anon_inode:[eventfd]", "/memfd:a b (deleted)", "/dev/pts/3"}, texts[2:6]...)
	evs := []event.Event{&event.Session{Schema: event.Schema, Start: time.Unix(1700000000, 123456000), Debugger: &event.Process{PID: 77, Comm: "gdb"}}}
	at := event.Micros(0)
	for range 30 {
		at += event.Micros(rnd.IntN(2_000_000))
		c := event.Syscall{T: at, PID: 77, TID: 77, DurUS: event.Some(int64(rnd.IntN(5000)))}
		target := &event.Target{Kind: event.Regular, Link: links[rnd.IntN(len(links))]}
		fd := event.Some(event.FD(rnd.IntN(2000)))
		switch rnd.IntN(8) {
		case 0:
			c.Name, c.Path, c.Flags, c.Ret, c.Target = "openat", texts[rnd.IntN(len(texts))], "O_RDONLY|O_CLOEXEC", event.Some(int64(fd.Val)), target
		case 1:
			c.Name, c.Path, c.Flags, c.Mode = "openat", texts[rnd.IntN(len(texts))], "O_WRONLY|O_CREAT", event.Some[uint32](0o640)
			c.Ret, c.Errno = event.Some[int64](-1), []string{"ENOENT", "EACCES", "ERESTARTSYS", "EUNATCH"}[rnd.IntN(4)]
		case 2:
			c.Name, c.FD, c.Count, c.Ret, c.Target = "read", fd, event.Some(uint64(rnd.IntN(1<<20))), event.Some(int64(rnd.IntN(4096))), target
		case 3:
			c.Name, c.FD, c.Ret, c.Target = "close", fd, event.Some[int64](0), target
		case 4:
			c.Name, c.FD, c.NewFD, c.Flags, c.Target = "dup3", fd, event.Some(event.FD(rnd.IntN(50))), "O_CLOEXEC", target
			c.Ret = event.Some(int64(c.NewFD.Val))
		case 5:
			c.Name, c.FD, c.Offset, c.Flags, c.Ret, c.Target = "lseek", fd, event.Some(int64(rnd.IntN(1000)-500)), "SEEK_CUR", event.Some[int64](500), target
		case 6:
			c.Name, c.FD, c.Count, c.Offset, c.Flags = "mmap", fd, event.Some[uint64](4096), event.Some(int64(rnd.IntN(64))*4096), "PROT_READ|PROT_EXEC,MAP_PRIVATE|MAP_DENYWRITE"
			c.Ret, c.Target = event.Some[int64](0x7f0000001000), target
		case 7:
			c.Name, c.DirFD, c.Path, c.Flags, c.Ret = "newfstatat", fd, texts[rnd.IntN(len(texts))], "AT_SYMLINK_NOFOLLOW", event.Some[int64](-1)
			c.Errno = "ENOTDIR"
		}
		evs = append(evs, &c)
	}
	return append(evs, &event.End{Reason: "exited", Exit: event.Some(0)})
}
