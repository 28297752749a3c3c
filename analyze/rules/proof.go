package rules

import "whosefd/tracer/event"

// Proof is the kind of a fact that speaks for a finding.
type Proof string

// The kinds of proof. Each has a type of fact below, which says what was compared.
const (
	ProofBlocked   Proof = "blocked"      // the thread is in the call now
	ProofOpened    Proof = "opened"       // the call that opened the name was seen
	ProofRead      Proof = "read"         // and what came of it
	ProofSameFile  Proof = "same-file"    // the descriptor's file, by identity, and the debugger's others for it
	ProofNotOpened Proof = "not-opened"   // nothing shows that the name was opened
	ProofNoneOpen  Proof = "none-open"    // nothing of the inferior is open in the debugger
	ProofHolders   Proof = "pipe-holders" // who could write to the pipe
	ProofOrigin    Proof = "provenance"   // where in the inferior's memory the debugger read the name
	ProofLinkMap   Proof = "link_map"     // the entry of the inferior's list of libraries that has it
	ProofMapText   Proof = "map-text"     // the name is what the kernel shows of a mapping
	ProofCore      Proof = "core"         // the debugger reads a core file
	ProofProgram   Proof = "program"      // the name is what the kernel tells of the program
	ProofResolves  Proof = "resolves"     // what the name leads to, here and there
	ProofIntended  Proof = "intended"     // the file that the inferior has mapped for it
	ProofSignals   Proof = "signals"      // why Ctrl-C is of no use
	ProofStack     Proof = "stack"        // the name is on the thread's stack
	ProofScript    Proof = "script"       // it is a script, run by the debugger, that reads or opens
	ProofShutOut   Proof = "shut-out"     // the debugger may not enter the mount namespace
	ProofMemory    Proof = "memory"       // the name stands elsewhere in the debugger's memory
	ProofAmbiguous Proof = "ambiguous"    // what else it could be
	ProofWaits     Proof = "waits"        // what a thread waits for, and who could end it
	ProofTogether  Proof = "at-once"      // that the waits were at one moment
	ProofNotSeen   Proof = "not-seen"     // what the evidence does not have
)

// Fact is a fact that speaks for a finding, or against its certainty. As JSON its
// fields are what words have been made of.
type Fact interface{ Proof() Proof }

// The facts. A PID is that of an inferior, or [event.CorePID], which is not written down;
// 0 where it is not known.
type (
	// Blocked is a thread that is in a call, on a descriptor or, of an open, on a
	// name.
	Blocked struct {
		TID     event.TID           `json:"tid,omitempty"`
		Syscall string              `json:"syscall"`
		FD      event.Opt[event.FD] `json:"fd,omitzero"`
		Name    event.Text          `json:"name,omitempty"`
		Wchan   string              `json:"wchan,omitempty"`
		Killed  string              `json:"killed,omitempty"` // it was in it when this signal ended it
	}
	// OpenedName is an open that was seen, the last one of Times.
	OpenedName struct {
		T          event.Micros        `json:"t"`
		TID        event.TID           `json:"tid,omitempty"`
		Syscall    string              `json:"syscall"`
		Name       event.Text          `json:"name"`
		Times      int64               `json:"times"`
		FD         event.Opt[event.FD] `json:"fd,omitzero"`
		File       event.Target        `json:"file"`
		Errno      string              `json:"errno,omitempty"`
		Unfinished bool                `json:"unfinished,omitempty"`
	}
	// WasRead is what the debugger did with the file.
	WasRead struct {
		Bytes  int64  `json:"bytes"`
		Calls  int64  `json:"calls"`
		NotELF bool   `json:"not_elf,omitempty"` // it does not begin as a library does
		Mapped bool   `json:"mapped,omitempty"`
		Errno  string `json:"errno,omitempty"` // of the last read that failed
	}
	// SameFile is the file of a descriptor, and the debugger's others for it.
	SameFile struct {
		FD     event.FD     `json:"fd"`
		File   event.Target `json:"file"`
		Others []event.FD   `json:"others,omitempty"`
	}
	// NoneOpen says that the debugger has neither the program of an inferior open nor any of so many libraries.
	NoneOpen struct {
		PID       event.PID `json:"pid,omitzero"`
		Libraries int       `json:"libraries"`
	}
	// NotOpened says that the debugger is presumed to have opened the name.
	NotOpened struct{}
	// Holders are who could write to a pipe: the debugger itself by Own, and others.
	Holders struct {
		Own      []event.FD     `json:"own,omitempty"`
		Others   []event.Holder `json:"others,omitempty"`
		Looked   bool           `json:"looked"`             // at other processes too
		Searched int            `json:"searched,omitempty"` // how many
		Complete bool           `json:"complete"`           // nobody who was not looked at can be one
	}
	// Origin is a read of the name out of an inferior's memory. Index is its place
	// in the list of libraries, where the name lies in an entry of it. Of Size
	// bytes of the name Known are in the evidence.
	Origin struct {
		PID   event.PID      `json:"pid,omitzero"`
		Addr  event.Hex      `json:"addr"`
		Index event.Opt[int] `json:"index,omitzero"`
		AgoUS event.Micros   `json:"before,omitempty"`
		Known int            `json:"known"`
		Size  int            `json:"size"`
	}
	// LinkMap is an entry of an inferior's list of libraries. WasRead: the list is
	// not known, but the debugger was seen to read this entry; it has no Index.
	LinkMap struct {
		PID      event.PID      `json:"pid,omitzero"`
		Name     event.Text     `json:"name"`
		Index    event.Opt[int] `json:"index,omitzero"`
		Addr     event.Hex      `json:"addr"`
		LoadAddr event.Hex      `json:"l_addr"`
		WasRead  bool           `json:"was_read,omitempty"`
	}
	// MapText is the text of a line of /proc/PID/maps, of a library that is called Name.
	MapText struct {
		PID   event.PID  `json:"pid,omitzero"`
		Text  event.Text `json:"text"`
		Name  event.Text `json:"name,omitempty"`
		Start event.Hex  `json:"map_start,omitempty"`
	}
	// CoreRead is a core file that the debugger has opened, and nothing else that could have names for it.
	CoreRead struct {
		PID  event.PID    `json:"pid,omitzero"`
		File event.Target `json:"file"`
	}
	// Program is the text of /proc/PID/exe, which debuggers take for the program's path.
	Program struct {
		PID  event.PID  `json:"pid,omitzero"`
		Name event.Text `json:"name"`
	}
	// Resolves is what the name leads to in the debugger and in the inferior.
	Resolves struct {
		PID      event.PID    `json:"pid,omitzero"`
		Debugger event.Target `json:"debugger"`
		Inferior event.Target `json:"inferior"`
		// LeaderEnded: the inferior's first thread has ended, whose descriptors /proc/self shows: none.
		LeaderEnded bool `json:"leader_ended,omitempty"`
	}
	// Mapped is the file that the inferior has mapped. ClosedFD is the descriptor
	// that its name means, where that is no longer the file; Reused: it is another.
	Mapped struct {
		PID       event.PID           `json:"pid,omitzero"`
		File      event.Target        `json:"file"`
		Start     event.Hex           `json:"map_start,omitempty"`
		End       event.Hex           `json:"map_end,omitempty"`
		ClosedFD  event.Opt[event.FD] `json:"closed_fd,omitzero"`
		Reused    bool                `json:"reused,omitempty"`
		Reachable event.Text          `json:"reachable,omitempty"`
	}
	// Signals is what SIGINT does. Foreground is whose process group has the
	// terminal, if that is not the debugger's.
	Signals struct {
		Opens      bool      `json:"opens,omitempty"` // the call is an open, else a read
		Foreground event.PID `json:"foreground,omitempty"`
		SIGINT     string    `json:"sigint,omitempty"` // as in event.Process
	}
	// InMemory is a place of the debugger's memory where the name stands.
	InMemory struct {
		TID  event.TID  `json:"tid"`
		Name event.Text `json:"name"`
		In   string     `json:"in"` // "stack" or "heap"
		Addr event.Hex  `json:"addr"`
		// Stream and Object are as in [event.MemoryText].
		Stream event.Hex `json:"stream,omitempty"`
		Object event.Hex `json:"object,omitempty"`
	}
	// ShutOut: the debugger may not enter the mount namespace of an inferior, which concerns
	// so many names more.
	ShutOut struct {
		PID  event.PID `json:"pid,omitzero"`
		More int       `json:"more,omitempty"`
	}
	// OnStack is a name that frames of a thread hold.
	OnStack struct {
		TID    event.TID   `json:"tid"`
		Name   event.Text  `json:"name"`
		Frames []HeldFrame `json:"frames"`
	}
	// Scripted: the calls of a script, run by the debugger, stand between the debugger's own frames and
	// the call that reads or opens: in the frames First to Last.
	Scripted struct {
		TID      event.TID  `json:"tid,omitempty"`
		Language string     `json:"language"`
		Module   event.Text `json:"module,omitempty"`
		First    int        `json:"first"`
		Last     int        `json:"last"`
	}
	// Ambiguous is what else the thread may be reading; Others is empty where only
	// the cause is not sure.
	Ambiguous struct {
		Others []NameOf `json:"others,omitempty"`
	}
	// Waits is one of the waits that lead to a circle, or to nobody.
	Waits struct{ *Wait }
	// Together says that none of so many threads ran between two looks. Closed: they
	// are a circle, or lead to one.
	Together struct {
		Threads int  `json:"threads"`
		Closed  bool `json:"closed,omitempty"`
	}
	// NotSeen is what the evidence does not have.
	NotSeen struct {
		What What `json:"what"`
		// Processes could not be looked at. Excluded: but none of them can hold the
		// pipe, since the debugger made it for itself and is younger.
		Processes []event.Unseen `json:"processes,omitempty"`
		Excluded  bool           `json:"excluded,omitempty"`
	}
)

// HeldFrame is a frame of a backtrace, by its number.
type HeldFrame struct {
	Frame    int    `json:"frame"`
	Function string `json:"function,omitempty"`
}

// NameOf is a library's name, and whose it is.
type NameOf struct {
	PID  event.PID  `json:"pid,omitzero"`
	Name event.Text `json:"name"`
}

// What is something that the evidence does not have.
type What string

// What is missing.
const (
	NoHolders   What = "holders"   // who else holds the pipe
	NoProcesses What = "processes" // the descriptors of some processes
	NoEnders    What = "enders"    // the descriptors of some processes that could end a wait
	NoIntended  What = "intended"  // what the inferior means by the name
	NoDevice    What = "device"    // the mapped file as stat(2) has it: devices cannot be compared
)

func (Blocked) Proof() Proof    { return ProofBlocked }
func (OpenedName) Proof() Proof { return ProofOpened }
func (WasRead) Proof() Proof    { return ProofRead }
func (SameFile) Proof() Proof   { return ProofSameFile }
func (NotOpened) Proof() Proof  { return ProofNotOpened }
func (NoneOpen) Proof() Proof   { return ProofNoneOpen }
func (Holders) Proof() Proof    { return ProofHolders }
func (Origin) Proof() Proof     { return ProofOrigin }
func (LinkMap) Proof() Proof    { return ProofLinkMap }
func (MapText) Proof() Proof    { return ProofMapText }
func (CoreRead) Proof() Proof   { return ProofCore }
func (Program) Proof() Proof    { return ProofProgram }
func (Resolves) Proof() Proof   { return ProofResolves }
func (Mapped) Proof() Proof     { return ProofIntended }
func (Signals) Proof() Proof    { return ProofSignals }
func (OnStack) Proof() Proof    { return ProofStack }
func (Scripted) Proof() Proof   { return ProofScript }
func (ShutOut) Proof() Proof    { return ProofShutOut }
func (InMemory) Proof() Proof   { return ProofMemory }
func (Ambiguous) Proof() Proof  { return ProofAmbiguous }
func (Waits) Proof() Proof      { return ProofWaits }
func (Together) Proof() Proof   { return ProofTogether }
func (NotSeen) Proof() Proof    { return ProofNotSeen }
