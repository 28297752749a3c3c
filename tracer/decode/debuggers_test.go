package decode

import (
	"testing"

	"whosefd/tracer/event"
)

func TestDebuggerNamed(t *testing.T) {
	for _, c := range []struct{ program, want string }{
		{"gdb", "gdb"},
		{"/usr/bin/gdb-13.1", "gdb"},
		{"/usr/libexec/gdb.minimal", "gdb"},
		{"gdb-multiarch", "gdb"},
		{"arm-none-eabi-gdb", "gdb"},
		{"/usr/lib/llvm-14/bin/lldb", "lldb"},
		{"lldb-dap-19", "lldb"},
		{"lldb-server-14.", "lldb-server"}, // as comm cuts it
		{"gdbserver", "gdbserver"},
		{"dlv", "dlv"},
		{"qemu-aarch64", "qemu"},
		{"qemu-system-x86_64", ""},
		{"gdbus", ""},
		{"gdb-add-index", ""},
		{"lldb-argdumper-14", ""},
		{"strace", ""},
		{"", ""},
	} {
		name := ""
		if d := DebuggerNamed(c.program); d != nil {
			name = d.Name
		}
		if name != c.want {
			t.Errorf("%q is %q, want %q", c.program, name, c.want)
		}
	}
}

// The name of the first thread, which a program may change, does not hide what
// the process is.
func TestDebuggerOf(t *testing.T) {
	for _, p := range []event.Process{
		{Comm: "gdb"},
		{Comm: "output reader", Exe: "/usr/bin/gdb"},
		{Comm: "python3", Exe: "/usr/local/bin/gdb (deleted)"},
		{Comm: "gdb", Exe: "/usr/bin/qemu-user-of-somebody/x"},
	} {
		if d := DebuggerOf(&p); !d.Is("gdb") {
			t.Errorf("%+v is %v, want gdb", p, d)
		}
	}
	if d := DebuggerOf(&event.Process{Comm: "gdb", Exe: "/usr/bin/lldb-server"}); !d.Serves() {
		t.Errorf("a program called gdb that is lldb-server is %v", d)
	}
	if d := DebuggerOf(&event.Process{Comm: "bash", Exe: "/usr/bin/bash"}); d != nil {
		t.Errorf("bash is %v", d)
	}
}
