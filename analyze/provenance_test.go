package analyze

import (
	"strings"
	"testing"

	"whosefd/tracer/event"
)

func TestProvenance(t *testing.T) {
	for _, tc := range []struct {
		text string
		want bool
	}{
		{"/proc/self/fd/4", true},
		{"/proc/self/fd/44", false},
		{"xx/proc/self/fd/4", false},
	} {
		a := New()
		a.Add(gdbSession("trace"))
		for _, ev := range readName(1000, 0x1000, tc.text) {
			a.Add(ev)
		}
		a.Add(openAt(2000, "/proc/self/fd/4", 16, &ownPipe))
		from := a.state.Opens()[0].Origin
		if (from != nil) != tc.want {
			t.Errorf("%s: %+v", tc.text, from)
		}
		if from != nil && (from.PID != infPID || from.Addr != 0x1000 || from.Ago != 988) {
			t.Errorf("%s: %+v", tc.text, from)
		}
	}
}

// Reads that do not follow each other are not one text.
func TestProvenanceGap(t *testing.T) {
	a := New()
	for i, part := range []string{"/proc/self", "/fd/4\x00"} {
		c := call(event.Micros(i), "pread64")
		c.FD, c.Offset, c.Ret, c.Target, c.Data = event.Some[event.FD](14), event.Some(int64(0x1000+i*64)), event.Some[int64](8), &procMem, []byte(part)
		a.Add(c)
	}
	a.Add(openAt(2000, "/proc/self/fd/4", 16, &ownPipe))
	if from := a.state.Opens()[0].Origin; from != nil {
		t.Errorf("%+v", from)
	}
}

// Every call that brings another process's memory counts.
func TestProvenanceCalls(t *testing.T) {
	const name = "/proc/self/fd/4"
	data := []byte(name + "\x00")
	remote := func(call *event.Syscall, at int64, b []byte) *event.Syscall {
		call.OfPID, call.Offset, call.Ret, call.Data = infPID, event.Some(at), event.Some(int64(len(b))), b
		return call
	}
	seek := func(to int64, target event.Target) *event.Syscall {
		c := call(1000, "lseek")
		c.FD, c.Ret, c.Target = event.Some[event.FD](14), event.Some(to), &target
		return c
	}
	plain := func(b []byte) *event.Syscall {
		c := readFrom(1000, 14, procMem, int64(len(b)))
		c.Data = b
		return c
	}
	for _, tc := range []struct {
		name  string
		calls []event.Event
		want  bool
	}{
		{"process_vm_readv", one(remote(call(1000, "process_vm_readv"), 0x1000, data)), true},
		{"ptrace", one(remote(call(1000, "ptrace"), 0x1000, data[:8]), remote(call(1001, "ptrace"), 0x1008, data[8:])), true},
		{"of two processes", one(remote(call(1000, "ptrace"), 0x1000, data[:8]), func() event.Event {
			c := remote(call(1001, "ptrace"), 0x1008, data[8:])
			c.OfPID++
			return c
		}()), false},
		{"lseek and read", one(seek(0x1000, procMem), plain(data[:8]), plain(data[8:])), true},
		{"lseek elsewhere", one(seek(0x1000, procMem), plain(data[:8]), seek(0x2000, procMem), plain(data[8:])), false},
		{"read without a place", one(plain(data)), false},
		{"lseek in a file", one(seek(0x1000, libc), plain(data)), false},
		{"a file", one(func() event.Event {
			c := readFrom(1000, 14, libc, int64(len(data)))
			c.Data, c.Offset = data, event.Some[int64](0x1000)
			return c
		}()), false},
	} {
		a := New()
		a.Add(gdbSession("trace"))
		for _, ev := range tc.calls {
			a.Add(ev)
		}
		a.Add(openAt(2000, name, 16, &ownPipe))
		from := a.state.Opens()[0].Origin
		if (from != nil) != tc.want || from != nil && (from.PID != infPID || from.Addr != 0x1000) {
			t.Errorf("%s: %+v", tc.name, from)
		}
	}
}

// A debugger in a pid namespace of its own knows its inferior by another number.
func TestProvenanceNamespace(t *testing.T) {
	inside := procMem
	inside.Link = "/proc/7/task/7/mem"
	read := readName(1000, 0x55560300, "/proc/self/fd/4")
	for _, ev := range read {
		ev.(*event.Syscall).Target = &inside
	}
	d := analyzed(join(one(gdbSession("trace")), gdbFDs(), read,
		one(openAt(2000, "/proc/self/fd/4", 16, &ownPipe), fromMemory(), fromMemoryLib()))).Diagnosis()
	if len(d.Findings) != 1 || d.Findings[0].Intended == nil || d.Findings[0].Intended.PID != infPID {
		t.Fatalf("%+v", d.Findings)
	}
	for _, e := range d.Findings[0].Evidence {
		if e.Kind == "provenance" && !strings.Contains(string(e.Text), "from_memory (pid 2162), at 0x55560300") {
			t.Error(e.Text)
		}
	}
}
