package event

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// loopCalls are the calls of a program that opens, reads and closes in a loop,
// as the tracer records them, with one name that another process resolves.
func loopCalls() []Event {
	file := Target{Kind: Regular, Link: "/usr/lib/debug/.build-id/4f/0c1b2a3d.debug", Dev: 2049, Ino: 1315874}
	pipe := Target{Kind: Pipe, Link: "pipe:[4798]", Dev: 15, Ino: 4798}
	call := func(name string, s Syscall) *Syscall {
		s.PID, s.TID, s.Name, s.DurUS = 2158, 2158, name, Some[int64](15)
		return &s
	}
	return []Event{
		call("openat", Syscall{T: 1204511, Path: file.Link, Flags: "O_RDONLY|O_CLOEXEC", Ret: Some[int64](16), Target: &file}),
		call("read", Syscall{T: 1204538, FD: Some[FD](16), Count: Some[uint64](832), Ret: Some[int64](832), Target: &file}),
		call("pread64", Syscall{T: 1204561, FD: Some[FD](16), Count: Some[uint64](784), Offset: Some[int64](64), Ret: Some[int64](784), Target: &file}),
		call("close", Syscall{T: 1204590, FD: Some[FD](16), Ret: Some[int64](0), Target: &file}),
		call("openat", Syscall{T: 1204611, Path: "/etc/debuginfod/none", Flags: "O_RDONLY", Ret: Some[int64](-1), Errno: "ENOENT"}),
		call("openat", Syscall{T: 1204650, Path: "/proc/self/fd/4", Flags: "O_RDONLY|O_CLOEXEC", Ret: Some[int64](16), Target: &pipe,
			Counterpart: []Counterpart{{PID: 2162, FD: Some[FD](4), Target: Target{Kind: Memfd, Link: "/memfd:jit (deleted)", Dev: 1, Ino: 1026}}}}),
	}
}

func BenchmarkWrite(b *testing.B) {
	evs := loopCalls()
	var n countWriter
	w := NewWriter(&n)
	b.ReportAllocs()
	for i := range b.N {
		if err := w.Write(evs[i%len(evs)]); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(n) / int64(b.N))
}

type countWriter int64

func (n *countWriter) Write(p []byte) (int, error) { *n += countWriter(len(p)); return len(p), nil }

func BenchmarkRead(b *testing.B) {
	const events = 6000
	var rec bytes.Buffer
	w := NewWriter(&rec)
	evs := loopCalls()
	for i := range events {
		s := *evs[i%len(evs)].(*Syscall)
		s.T += Micros(i * 37)
		if err := w.Write(&s); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(rec.Len()))
	b.ReportAllocs()
	for b.Loop() {
		r := NewReader(bytes.NewReader(rec.Bytes()))
		n := 0
		for {
			_, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != events {
			b.Fatalf("read %d events, want %d", n, events)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/events, "ns/event")
}
