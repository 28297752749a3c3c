// Package stack makes native backtraces of a thread from a copy of its
// registers and its stack, so that the thread need not be stopped meanwhile.
//
// Frames are found by the unwind information that is mapped into the process
// itself (.eh_frame through .eh_frame_hdr), so they are right for stripped,
// deleted and memory-only files too. Names and lines come from the files.
package stack

import (
	"fmt"
	"runtime/debug"

	"whosefd/tracer/event"
	"whosefd/tracer/memory"
	"whosefd/tracer/procview"
)

// registers is how many registers have a number that unwind information of the
// supported architectures uses (amd64: 17, arm64: 33).
const registers = 34

// Regs are a thread's general registers.
type Regs struct {
	PC, SP uint64
	// DWARF holds them by the architecture's DWARF register numbers.
	DWARF [registers]uint64
}

// Snapshot is what was copied of a thread while it was stopped.
type Snapshot struct {
	PID        event.PID
	TID        event.TID
	Regs       Regs
	Stack      []byte // memory from StackStart upwards
	StackStart uint64
	StoppedUS  int64 // how long the thread was stopped, microseconds
}

// Options say what to look for.
type Options struct {
	// Names are texts to look for on the stack, and behind pointers there.
	Names []string
	// MaxFrames bounds the backtrace; 0 means 256.
	MaxFrames int
	// Debuginfod lets servers named by DEBUGINFOD_URLS be asked for debug info.
	Debuginfod bool
}

const defaultFrames = 256

// Unwind makes the backtrace, innermost frame first. What kept it from reaching
// the outermost frame is said in Error; a file without symbols, or a broken
// one, only costs its frames their names.
func Unwind(v *procview.View, s Snapshot, o Options) event.Stack {
	st := event.Stack{PID: s.PID, TID: s.TID, StoppedUS: s.StoppedUS}
	if o.MaxFrames <= 0 {
		o.MaxFrames = defaultFrames
	}
	p, err := newProcess(v, s)
	if err != nil {
		st.Error = err.Error()
		return st
	}
	p.fetch = o.Debuginfod
	defer p.close()

	// Files are mapped; one that is cut short meanwhile must not end the tool.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))

	frames, err := p.unwind(s.Regs, o.MaxFrames)
	if err != nil {
		st.Error = err.Error()
	}
	found := p.findNames(s, frames, o.Names)
	named := p.names(frames)
	for i, f := range frames {
		parts := p.describe(f, named[i])
		if len(found[i]) > 0 {
			// The stack part belongs to the real frame, which comes last.
			parts[len(parts)-1].Strings = found[i]
		}
		st.Frames = append(st.Frames, parts...)
	}
	return st
}

// process is what one backtrace knows of the process.
type process struct {
	view    *procview.View
	pid     event.PID
	fetch   bool // debug info may be fetched from servers
	maps    []procview.Mapping
	mem     *memory.Copy
	live    *memory.Process
	modules []*module
}

// newProcess reads the mappings of the process of a snapshot.
func newProcess(v *procview.View, s Snapshot) (*process, error) {
	maps, err := v.Maps(s.PID)
	if err != nil {
		return nil, fmt.Errorf("mappings of pid %d: %w", s.PID, err)
	}
	live, err := memory.Open(v, s.PID, maps)
	if err != nil {
		return nil, err
	}
	p := &process{view: v, pid: s.PID, maps: maps, live: live,
		mem: &memory.Copy{Start: s.StackStart, Data: s.Stack, Rest: live}}
	p.modules = findModules(maps)
	return p, nil
}

func (p *process) close() {
	for _, m := range p.modules {
		m.close()
	}
	_ = p.live.Close()
}

// describe makes the shown frames of one real frame: those that the compiler
// has inlined, then the frame itself.
func (p *process) describe(f callFrame, named []call) []event.Frame {
	base := event.Frame{PC: event.Hex(f.pc)}
	if m := f.module; m != nil {
		base.Module = m.path
		if m.known {
			base.Offset = event.Hex(f.pc - m.bias)
		}
	}
	if f.signal {
		base.Function = signalFrame
		return []event.Frame{base}
	}
	if len(named) == 0 {
		return []event.Frame{base}
	}
	shown := make([]event.Frame, len(named))
	for i, c := range named {
		shown[i] = base
		shown[i].Function, shown[i].File, shown[i].Line = c.function, c.file, c.line
		shown[i].Inlined = i < len(named)-1
	}
	return shown
}

// signalFrame stands for a function name where a signal interrupted the thread;
// gdb writes the same.
const signalFrame = "<signal handler called>"
