// Package event is the evidence model: what the tracer saw, as values that
// stand alone, and their versioned JSON-lines codec. The analysis concludes
// nothing that is not in these events, so a live debugger, a recording from
// another machine and an strace log all end up here.
//
// What is not known is absent ([Opt] without a value, a nil pointer, an empty
// string), never a made-up value. The package uses the standard library only
// and builds on every system.
package event

import "time"

// Schema is the version of the recording format; it stands in the session line.
const Schema = "whosefd.recording/v1"

// Event is one line of a recording.
type Event interface {
	// Type is the value of the line's "type" field.
	Type() string
}

// PID is a process id (thread-group id), TID a thread id, both as /proc at the
// tracer's mount shows them. FD is a descriptor number.
type (
	PID int
	TID int
	FD  int32
)

// AtFDCWD is the directory descriptor that stands for the current directory
// (linux/fcntl.h).
const AtFDCWD FD = -100

// NoPID stands for a process that is there and whose number is not known: that
// of a strace log in which no line names it.
const NoPID PID = -1

// Kind says what sort of file a target is.
type Kind string

// The kinds. A memfd is a regular file to stat(2); only the text of its /proc
// link tells.
const (
	Regular   Kind = "regular"
	Directory Kind = "directory"
	Pipe      Kind = "pipe" // pipe(2), no name in the file system
	FIFO      Kind = "fifo" // mkfifo(3)
	Socket    Kind = "socket"
	TTY       Kind = "tty"
	CharDev   Kind = "chardev"
	BlockDev  Kind = "blockdev"
	Memfd     Kind = "memfd"
	AnonInode Kind = "anon_inode" // eventfd, epoll, …: no file type bits
	Procfs    Kind = "procfs"     // any file below /proc
	Unknown   Kind = "unknown"
)

// Target is the file that a name or a descriptor leads to, with its identity.
type Target struct {
	Kind Kind `json:"kind"`
	// Link is the text of the /proc/PID/fd link, or the path of a mapping.
	Link Text `json:"link,omitempty"`
	// Dev is st_dev as stat(2) gives it (makedev(3) encoding) and Ino is
	// st_ino. Both 0: the identity is not known. Of a pipe or socket in a strace
	// log only the inode is.
	Dev uint64 `json:"dev,omitempty"`
	Ino uint64 `json:"ino,omitempty"`
	// Serial tells files apart whose inode is not known, in a strace log without
	// -y: within one recording, the same number is the same file. 0: not known.
	Serial uint64 `json:"serial,omitempty"`
	// Error is why it could not be looked at, as an errno name: ENOENT for
	// gone, EACCES or EPERM for denied, ETIMEDOUT for a file system that did not answer.
	Error string `json:"error,omitempty"`
}

// Identified says whether something is known by which the file can be told from
// others.
func (t Target) Identified() bool { return t.Dev != 0 || t.Ino != 0 || t.Serial != 0 }

// Same says whether both are known to be one file. Never by the path.
func (t Target) Same(o Target) bool {
	switch {
	case t.Ino == 0 && t.Dev == 0 || o.Ino == 0 && o.Dev == 0:
		return t.Serial != 0 && t.Serial == o.Serial
	case t.Dev == 0 || o.Dev == 0:
		// All pipes are on one file system of the kernel's own, all sockets on
		// another, where no two have the same inode.
		return t.Ino == o.Ino && t.Kind == o.Kind && (t.Kind == Pipe || t.Kind == Socket)
	}
	return t.Dev == o.Dev && t.Ino == o.Ino
}

// Counterpart is what the same name leads to in another process (an inferior).
type Counterpart struct {
	PID PID     `json:"pid"`
	FD  Opt[FD] `json:"fd,omitzero"`
	Target
}

// Process describes a process, from proc(5).
type Process struct {
	PID     PID    `json:"pid"`
	PPID    PID    `json:"ppid,omitempty"`
	Comm    Text   `json:"comm,omitempty"`
	Exe     Text   `json:"exe,omitempty"`
	Cmdline []Text `json:"cmdline,omitempty"`
	Cwd     Text   `json:"cwd,omitempty"`
	// UID is the effective user id.
	UID Opt[int] `json:"uid,omitzero"`
	// PGRP is the process group, TTYPGRP the foreground process group of its
	// terminal (tpgid in proc_pid_stat(5)); absent without a terminal.
	PGRP    Opt[int] `json:"pgrp,omitzero"`
	TTYPGRP Opt[int] `json:"tty_pgrp,omitzero"`
	// SIGINT says what Ctrl-C's signal does to it: "caught", "ignored",
	// "blocked" or "default" (SigCgt, SigIgn, SigBlk in proc_pid_status(5)).
	SIGINT string `json:"sigint,omitempty"`
	// Namespaces maps "mnt", "pid", "user" to the inode of the namespace.
	Namespaces map[string]uint64 `json:"namespaces,omitempty"`
	// MapFiles says whether it may open what lies in /proc/PID/map_files: it
	// takes a capability (proc_pid_map_files(5)).
	MapFiles Opt[bool] `json:"map_files,omitzero"`
}

// Session is the first line of a recording.
type Session struct {
	Schema string    `json:"schema"`
	Tool   string    `json:"tool"`
	Source string    `json:"source,omitempty"` // "trace", "snapshot", "preflight" or "strace"
	Start  time.Time `json:"start,omitzero"`   // what t = 0 means on the wall clock
	Kernel string    `json:"kernel,omitempty"` // uname -r
	Arch   string    `json:"arch,omitempty"`   // GOARCH of the traced program: amd64, arm64
	// Debugger is the process that is watched; of a preflight, whosefd itself,
	// in the place of a debugger that would be started where it was.
	Debugger *Process `json:"debugger,omitempty"`
}

// Syscall is one system call of the debugger. A call that has not ended has
// Unfinished and no Ret; if it ends later, a second event with Resumed follows.
type Syscall struct {
	T    Micros `json:"t"` // of the entry, since the session's start
	PID  PID    `json:"pid"`
	TID  TID    `json:"tid"`
	Name string `json:"name"`

	DirFD Opt[FD] `json:"dirfd,omitzero"` // absent where it is AT_FDCWD
	FD    Opt[FD] `json:"fd,omitzero"`    // the descriptor the call works on
	NewFD Opt[FD] `json:"newfd,omitzero"` // dup2(2), dup3(2): the number asked for
	// Path is the name as the caller gave it; PathTruncated says that only its
	// beginning could be read.
	Path          Text        `json:"path,omitempty"`
	PathTruncated bool        `json:"path_truncated,omitempty"`
	Flags         string      `json:"flags,omitempty"`
	Mode          Opt[uint32] `json:"mode,omitzero"`  // permission bits of a new file
	Count         Opt[uint64] `json:"count,omitzero"` // bytes asked for, or a mapping's length
	// Offset is where in the file; where OfPID is known or the file is a
	// process's memory, an address there.
	Offset Opt[int64] `json:"offset,omitzero"`
	// OfPID is the process whose memory the call reads: process_vm_readv(2),
	// ptrace(2).
	OfPID PID `json:"of_pid,omitempty"`

	Ret   Opt[int64] `json:"ret,omitzero"` // -1 where Errno is set
	Errno string     `json:"errno,omitempty"`
	DurUS Opt[int64] `json:"dur_us,omitzero"` // from entry to exit, microseconds

	Unfinished bool `json:"unfinished,omitempty"`
	Resumed    bool `json:"resumed,omitempty"`

	// Target is what the descriptor was at that moment: for a call that makes
	// one, the new one; for close, the one that goes.
	Target *Target `json:"target,omitempty"`
	// Counterpart is what a context-dependent Path leads to in each inferior.
	Counterpart []Counterpart `json:"counterpart,omitempty"`
	// Data is the beginning of what a read of a process's memory returned (for
	// process_vm_readv only what Offset tells the place of), the first bytes of
	// a regular file, from the first read or mapping of its beginning, or the text that readlink gave;
	// bounded.
	Data []byte `json:"data,omitempty"`
	// Rewritten says what guard led the call to instead.
	Rewritten *Rewrite `json:"rewritten,omitempty"`
}

// Rewrite is what guard put in the place of a name.
type Rewrite struct {
	Path   Text   `json:"path"`
	Target Target `json:"target"`
}

// Descriptor is one entry of a process's descriptor table.
type Descriptor struct {
	T      Micros `json:"t"`
	PID    PID    `json:"pid"`
	FD     FD     `json:"fd"`
	Access string `json:"access,omitempty"` // "r", "w", "rw" or "path" (O_PATH), from fdinfo
	Target Target `json:"target"`
	// Call is the call that has just made it, where that has no event of its own.
	Call string `json:"call,omitempty"`
}

// Inferior is a process that the debugger traces, or that the user named.
type Inferior struct {
	T Micros `json:"t"`
	Process
	TracerTID TID `json:"tracer_tid,omitempty"` // TracerPid in proc_pid_status(5) is a thread id
	// Libraries is the number of link_map entries; LinkMapError is why they
	// could not be read, or why there are none ("static program").
	Libraries    int    `json:"libraries,omitempty"`
	LinkMapError string `json:"link_map_error,omitempty"`
	// Static says that it is a program without dynamic loader: there is no list.
	Static bool `json:"static,omitempty"`
	// State is that of its first thread, one letter (proc_pid_stat(5)), and Tracer
	// the process whose thread TracerTID is; only a preflight has them.
	State  string  `json:"state,omitempty"`
	Tracer *Tracer `json:"tracer,omitempty"`
}

// Tracer is a process that traces another.
type Tracer struct {
	PID  PID  `json:"pid"`
	Comm Text `json:"comm,omitempty"`
}

// LinkMap is one entry of an inferior's list of loaded objects (link.h).
type LinkMap struct {
	T         Micros `json:"t"`
	PID       PID    `json:"pid"`
	Namespace int    `json:"namespace,omitempty"` // dlmopen(3); 0 is LM_ID_BASE
	Index     int    `json:"index"`
	Addr      Hex    `json:"addr"`      // of the struct link_map
	NameAddr  Hex    `json:"name_addr"` // l_name
	Name      Text   `json:"name,omitempty"`
	LoadAddr  Hex    `json:"l_addr"`
	Dynamic   Hex    `json:"l_ld"`
	// MapStart and MapEnd bound the line of /proc/PID/maps that holds the
	// object; Mapped is the file that the line names, Dev and Ino as maps has
	// them. MappedStat is the same file as stat(2) sees it through
	// /proc/PID/map_files; absent where that is not permitted. The two may
	// disagree about Dev (btrfs, overlayfs).
	MapStart   Hex     `json:"map_start,omitempty"`
	MapEnd     Hex     `json:"map_end,omitempty"`
	Mapped     *Target `json:"mapped,omitempty"`
	MappedStat *Target `json:"mapped_stat,omitempty"`
	// Reachable lists paths under which the mapped file can be opened now by
	// a process in the tracer's context, each checked by identity; best first.
	Reachable []Text `json:"reachable,omitempty"`
	// DebuggerPath is the path under which the debugger itself can open it,
	// where that is not the first of Reachable: in another pid namespace the
	// inferior has another number. Empty: there is none.
	DebuggerPath Opt[Text] `json:"debugger_path,omitzero"`
	// Resolves says what Name leads to in the debugger and in the inferior.
	Resolves []Resolution `json:"resolves,omitempty"`
}

// Resolution is what a name leads to when process PID resolves it.
type Resolution struct {
	PID PID `json:"pid"`
	Target
}

// Blocked is what a thread of the debugger is doing in the kernel.
type Blocked struct {
	T       Micros `json:"t"`
	PID     PID    `json:"pid"`
	TID     TID    `json:"tid"`
	Comm    Text   `json:"comm,omitempty"`
	State   string `json:"state,omitempty"` // one letter, proc_pid_stat(5)
	Wchan   string `json:"wchan,omitempty"` // kernel function it sleeps in
	Syscall string `json:"syscall,omitempty"`
	Args    []Hex  `json:"args,omitempty"` // the six arguments, proc_pid_syscall(5)
	// Arch is that of the call where it is not the machine's: "386" for a 32-bit
	// program on amd64.
	Arch   string  `json:"arch,omitempty"`
	FD     Opt[FD] `json:"fd,omitzero"`
	Target *Target `json:"target,omitempty"`
	// Path is the name that an open waits for, as it was given; absent where
	// it starts at a descriptor, or could not be read.
	Path Text `json:"path,omitempty"`
	// SIGINT is as in [Process], for this thread.
	SIGINT string `json:"sigint,omitempty"`
	// Holders are all descriptors, of all processes, that lead to Target, if
	// it is a pipe or FIFO. Unseen are the processes that could not be looked
	// at, Searched counts those that could.
	Holders  []Holder `json:"holders,omitempty"`
	Unseen   []Unseen `json:"unseen,omitempty"`
	Searched int      `json:"searched,omitempty"`
}

// Holder is a descriptor by which a process holds a file open.
type Holder struct {
	PID    PID    `json:"pid"`
	Comm   Text   `json:"comm,omitempty"`
	FD     FD     `json:"fd"`
	Access string `json:"access,omitempty"` // as in Descriptor
	// CloseOnExec says that the descriptor goes when the process runs another
	// program (FD_CLOEXEC in fcntl(2)): so it came after that one began to run.
	CloseOnExec Opt[bool] `json:"cloexec,omitzero"`
}

// Unseen is a process whose descriptors could not be read.
type Unseen struct {
	PID   PID    `json:"pid"`
	Comm  Text   `json:"comm,omitempty"`
	Error string `json:"error"`
	// Older says that it was started before the debugger.
	Older bool `json:"older,omitempty"`
}

// Stack is the native backtrace of one thread, innermost frame first.
type Stack struct {
	T      Micros  `json:"t"`
	PID    PID     `json:"pid"`
	TID    TID     `json:"tid"`
	Frames []Frame `json:"frames"`
	// Call is the call in which it was taken, where that is not the one that the
	// thread is in: strace -k shows a backtrace when a call has ended.
	Call string `json:"call,omitempty"`
	// Error is why the unwinding ended before the outermost frame.
	Error string `json:"error,omitempty"`
	// StoppedUS is for how long the thread was stopped for it, in microseconds.
	StoppedUS int64 `json:"stopped_us,omitempty"`
}

// Frame is one frame of a backtrace. Function, File and Line are absent where
// the module has no symbols or no debug info.
type Frame struct {
	PC       Hex    `json:"pc,omitempty"`     // absent in a strace log
	Module   Text   `json:"module,omitempty"` // path in maps
	Offset   Hex    `json:"offset,omitempty"` // PC as an address within the module's ELF file
	Function string `json:"function,omitempty"`
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Inlined  bool   `json:"inlined,omitempty"` // of the next frame, by the compiler
	// Strings are the suspicious names found on this frame's part of the stack.
	Strings []FrameString `json:"strings,omitempty"`
}

// FrameString is a string that a frame's part of the stack holds or points to.
type FrameString struct {
	Slot Hex  `json:"slot"` // where on the stack: the text itself, or a pointer to it
	Addr Hex  `json:"addr"` // where the text is
	Text Text `json:"text"`
}

// Lost says that events are missing from here on backwards.
type Lost struct {
	T      Micros `json:"t"`
	TID    TID    `json:"tid,omitempty"`
	Count  int64  `json:"count,omitempty"` // absent: not known how many
	Reason string `json:"reason"`
}

// End is the last line of a complete recording.
type End struct {
	T      Micros   `json:"t"`
	Reason string   `json:"reason"` // "exited", "killed", "interrupted", "duration", "snapshot"
	Exit   Opt[int] `json:"exit,omitzero"`
	Signal string   `json:"signal,omitempty"`
	Calls  int64    `json:"calls,omitempty"` // syscall events written
}

func (*Session) Type() string    { return "session" }
func (*Syscall) Type() string    { return "syscall" }
func (*Descriptor) Type() string { return "fd" }
func (*Inferior) Type() string   { return "inferior" }
func (*LinkMap) Type() string    { return "link_map" }
func (*Blocked) Type() string    { return "blocked" }
func (*Stack) Type() string      { return "stack" }
func (*Lost) Type() string       { return "lost" }
func (*End) Type() string        { return "end" }
