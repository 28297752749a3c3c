package decode

import (
	"path"
	"slices"
	"strings"

	"whosefd/tracer/event"
)

// Debugger is what is known about a program that looks into other processes.
// [Debuggers] is the table of them. Everything here was seen with gdb and
// gdbserver 13.1, lldb 14 and Delve 1.27, or read in their sources.
type Debugger struct {
	Name string
	// Programs are further names of its executable, without a version or the
	// architecture that it is for.
	Programs []string
	// Server: it traces on behalf of a debugger elsewhere, and has no user.
	Server bool
	// Tracer: it uses ptrace(2), so it can be attached to a process.
	Tracer bool

	// Opens says when it opens the libraries of its inferior by their names.
	Opens Opening
	// Reads says by which calls it reads them.
	Reads Reading
	// Enters: an absolute name is opened inside the inferior's mount namespace,
	// by a copy of the debugger (gdb's nat/linux-namespaces.c; "set sysroot target:").
	Enters bool
	// Own is what it has behind its low descriptors when it reads a library, if
	// that is much the same in each session, by the last number.
	Own []OwnFD
	// Tried says of which misleading names it was seen what it makes of them.
	Tried Tried

	// Prompt says how it waits for its user's next command.
	Prompt Prompt

	// Attach is a command line that attaches it to a process, without the pid.
	Attach string
	// Sysroot is the command that makes it look for all files below a folder,
	// without the folder; "" where it has none.
	Sysroot string
	// Reload are the commands that make it read the libraries again.
	Reload []string
}

// Opening says when a debugger opens a library by its name.
type Opening int

// When a library is opened.
const (
	OpensNever     Opening = iota // its client does
	OpensAtOnce                   // as soon as it sees it in the list of its inferior
	OpensForClient                // when the debugger that it serves asks for it ("target:" in gdb)
)

// Reading says how a debugger reads a library.
type Reading int

// How a library is read.
const (
	// ReadsSequentially is by read(2), which waits for data of a pipe or a terminal.
	ReadsSequentially Reading = iota
	// ReadsAtOffset is by pread(2) or mmap(2), which a pipe and a terminal refuse (ESPIPE, ENODEV).
	ReadsAtOffset
)

// Tried is which names that mislead gdb were tried with another debugger.
type Tried int

// The names.
const (
	TriedNone        Tried = iota
	TriedDescriptors       // above the standard ones, below /proc/self/fd, not often
	TriedAll               // these and names that lead nowhere, as relative ones do
)

// Prompt is how a debugger waits for its user.
type Prompt int

// How a user is waited for.
const (
	NoPrompt    Prompt = iota // there is no user
	PollsInput                // descriptor 0 is in a set of poll(2) or select(2)
	ReadsInput                // read(2) from descriptor 0
	PollsClient               // the set has the connection to the debugger that it serves
)

// OwnFD is what a debugger has behind descriptors of its own, up to Last.
type OwnFD struct {
	Last event.FD
	Kind event.Kind // pipe, or tty for whatever its input is
	// Certain: it was so in each session; else something else may be there.
	Certain bool
}

// Debuggers are those that are known, by name.
var Debuggers = []Debugger{
	{
		Name: "gdb", Programs: []string{"gdb-multiarch", "gdb-minimal", "gdb.minimal", "gdb-headless"}, Tracer: true,
		Opens: OpensAtOnce, Reads: ReadsSequentially, Enters: true, Prompt: PollsInput,
		// On a terminal. A descriptor that it inherits shifts those from 3 on by one.
		Own:    []OwnFD{{2, event.TTY, true}, {12, event.Pipe, true}, {13, event.Pipe, false}, {16, event.Regular, false}},
		Attach: "gdb -p", Sysroot: "set sysroot", Reload: []string{"nosharedlibrary", "sharedlibrary"},
	},
	{
		Name: "gdbserver", Server: true, Tracer: true, Opens: OpensForClient, Reads: ReadsAtOffset, Enters: true, Prompt: PollsClient,
		Own: []OwnFD{{2, event.TTY, true}, {8, event.Regular, false}}, Tried: TriedAll,
	},
	{
		Name: "lldb", Programs: []string{"lldb-dap", "lldb-vscode", "lldb-mi"}, Tracer: true,
		Opens: OpensAtOnce, Reads: ReadsAtOffset, Prompt: ReadsInput, Tried: TriedAll, Attach: "lldb -p",
	},
	{Name: "lldb-server", Server: true, Tracer: true, Opens: OpensNever, Prompt: PollsClient},
	{Name: "dlv", Programs: []string{"dlv-dap"}, Tracer: true, Opens: OpensAtOnce, Reads: ReadsAtOffset, Prompt: ReadsInput, Tried: TriedDescriptors, Attach: "dlv attach"},
	{Name: "rr", Tracer: true, Opens: OpensNever},
	// The stubs below run the program themselves, and trace nobody.
	{Name: "vgdb", Server: true, Opens: OpensNever, Prompt: PollsClient},
	{Name: "qemu", Server: true, Opens: OpensNever, Prompt: PollsClient},
}

// PluginMark is how the link of a descriptor begins by which a gdb shows that it has
// whosefd's plug-in: a memfd of that name (memfd_create(2)).
const PluginMark = "/memfd:whosefd-gdb-plugin"

// DebuggerOf gives the debugger that a process is; nil if it is none that is
// known. The executable counts: a thread, the first one too, may have any name.
func DebuggerOf(p *event.Process) *Debugger {
	if d := DebuggerNamed(strings.TrimSuffix(string(p.Exe), " (deleted)")); d != nil {
		return d
	}
	return DebuggerNamed(string(p.Comm))
}

// Comm is the comm of a process after it has begun to run a program (proc_pid_comm(5)).
func Comm(program string) event.Text {
	const longest = 15 // TASK_COMM_LEN of linux/sched.h, less the NUL
	base := path.Base(program)
	return event.Text(base[:min(len(base), longest)])
}

// DebuggerNamed gives the debugger of an executable, by its path or last part, or of a comm
// (proc_pid_comm(5), at most 15 bytes). The name may end in a version, and begin
// with the architecture that it is for: lldb-server-14.0.6, arm-none-eabi-gdb,
// qemu-aarch64.
func DebuggerNamed(program string) *Debugger {
	name := strings.TrimRight(path.Base(program), "-.0123456789")
	for i := range Debuggers {
		if d := &Debuggers[i]; name == d.Name || slices.Contains(d.Programs, name) {
			return d
		}
	}
	switch {
	case strings.HasSuffix(name, "-gdb"):
		return DebuggerNamed("gdb")
	case strings.HasPrefix(name, "qemu-") && !strings.HasPrefix(name, "qemu-system-"):
		return DebuggerNamed("qemu")
	}
	return nil
}

// ScriptOf says which language's interpreter a frame of a backtrace is in, by its module and
// function; "" for none. gdb runs scripts in Python and Guile, lldb in Python and Lua.
func ScriptOf(module, function string) string {
	base := path.Base(module)
	for _, known := range []struct{ library, function, language string }{
		{"libpython", "_PyEval_", "Python"}, {"libguile", "scm_c_eval", "Guile"}, {"liblua", "luaV_execute", "Lua"},
	} {
		if strings.HasPrefix(base, known.library) || strings.HasPrefix(function, known.function) {
			return known.language
		}
	}
	return ""
}

// Is says whether d is a debugger of that name; a nil d is none.
func (d *Debugger) Is(name string) bool { return d != nil && d.Name == name }

// TakesCommands says whether d has a prompt for its user; a nil d has not.
func (d *Debugger) TakesCommands() bool {
	return d != nil && (d.Prompt == PollsInput || d.Prompt == ReadsInput)
}

// Serves says whether d works on behalf of another debugger; a nil d does not.
func (d *Debugger) Serves() bool { return d != nil && d.Server }
