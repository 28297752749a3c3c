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

// Kinds are all of them.
var Kinds = []Kind{Regular, Directory, Pipe, FIFO, Socket, TTY, CharDev, BlockDev, Memfd, AnonInode, Procfs, Unknown}

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
	// BuildID is that of an ELF file (NT_GNU_BUILD_ID, elf.h) in hexadecimal, where it was
	// looked for: in the names and mappings of a core, of whose files no identity is left.
	BuildID string `json:"build_id,omitempty"`
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
	PID     PID    `json:"pid,omitempty"` // 0: it is a core file
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
	// SetNS says whether it has the capabilities, in its own user namespace, that entering another
	// mount namespace takes (setns(2)).
	SetNS Opt[bool] `json:"setns,omitzero"`
	// MapFiles says whether it may open what lies in /proc/PID/map_files: it
	// takes a capability (proc_pid_map_files(5)).
	MapFiles Opt[bool] `json:"map_files,omitzero"`
	// Tracer is who traces it: of a debugger, whosefd say. An inferior has it in a
	// preflight only.
	Tracer *Tracer `json:"tracer,omitempty"`
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
	// FirstFD and LastFD bound the descriptors that close_range(2) is about, both
	// included, as it was given them: LastFD is often the largest number there is.
	FirstFD Opt[uint32] `json:"first_fd,omitzero"`
	LastFD  Opt[uint32] `json:"last_fd,omitzero"`
	// CloseOnExec is what F_SETFD of fcntl(2) sets FD_CLOEXEC to; of the calls that
	// make a descriptor, Flags tell.
	CloseOnExec Opt[bool] `json:"cloexec,omitzero"`
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

	// Arguments is the text of the arguments in a strace log, as far as they were
	// shown, of a call that has not ended and is not decoded otherwise: what poll(2),
	// futex(2), wait4(2) or a lock wait for.
	Arguments string `json:"arguments,omitempty"`

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
	// CloseOnExec is as in [Holder].
	CloseOnExec Opt[bool] `json:"cloexec,omitzero"`
}

// IsZero says whether there is no number to be written down, for "omitzero".
func (p PID) IsZero() bool { return p <= 0 }

// CorePID stands for the PID of an inferior that is a core file, where one is
// needed to tell inferiors apart. It is that of no process, and never written down.
func CorePID(id int) PID { return NoPID - PID(id) }

// Owner is the inferior that the entry is of: its PID, or [CorePID].
func (lm *LinkMap) Owner() PID { return owner(lm.PID, lm.Core) }

// Owner is the PID, or [CorePID].
func (inf *Inferior) Owner() PID {
	if inf.Core == nil {
		return inf.PID
	}
	return owner(inf.PID, inf.Core.ID)
}

func owner(pid PID, core int) PID {
	if core != 0 {
		return CorePID(core)
	}
	return pid
}

// Core is a core file that the debugger looks at in the place of a process (core(5)).
type Core struct {
	// ID is its number in the recording, from 1 on; LinkMap.Core refers to it.
	ID int `json:"id"`
	Target
	PID    PID    `json:"pid,omitempty"`    // that the process had
	Signal string `json:"signal,omitempty"` // that ended it
	Arch   string `json:"arch,omitempty"`   // GOARCH of the program
	// Missing is by how much the file is shorter than its headers say, bytes.
	Missing int64 `json:"missing,omitempty"`
}

// Inferior is a process that the debugger traces, or that the user named, or a
// core file that it has open. Of the process that a core is of, PID is absent, since
// there is none, and Exe is how its file was called.
type Inferior struct {
	T Micros `json:"t"`
	Process
	TracerTID TID `json:"tracer_tid,omitempty"` // TracerPid in proc_pid_status(5) is a thread id
	// LivingTID is another thread of it, where the first one has ended: a debugger attaches by its id.
	LivingTID TID `json:"living_tid,omitempty"`
	// ExeTarget is the file that Exe, the text of /proc/PID/exe, stands for, and ExeResolves says
	// what that text leads to as a name, which debuggers take it for.
	ExeTarget   *Target      `json:"exe_target,omitempty"`
	ExeResolves []Resolution `json:"exe_resolves,omitempty"`
	// Libraries is the number of link_map entries; LinkMapError is why they
	// could not be read, or why there are none ("static program").
	Libraries    int    `json:"libraries,omitempty"`
	LinkMapError string `json:"link_map_error,omitempty"`
	// Static says that it is a program without dynamic loader: there is no list.
	Static bool `json:"static,omitempty"`
	// Early: its dynamic loader has not made the list yet.
	Early bool `json:"early,omitempty"`
	// State is that of its first thread, one letter (proc_pid_stat(5)); only a
	// preflight has it.
	State string `json:"state,omitempty"`
	Core  *Core  `json:"core,omitempty"`
}

// Tracer is a process that traces another.
type Tracer struct {
	PID  PID  `json:"pid"`
	Comm Text `json:"comm,omitempty"`
}

// LinkMap is one entry of an inferior's list of loaded objects (link.h).
type LinkMap struct {
	T         Micros `json:"t"`
	PID       PID    `json:"pid,omitempty"`
	Core      int    `json:"core,omitempty"`      // Core.ID, where PID is absent
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
	// disagree about Dev (btrfs, overlayfs). In a core there are no devices and inodes:
	// Mapped has the path, as the note NT_FILE gives it, and the build id.
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
	// Through is the name below /proc/self by which it leads there, where links in it
	// make one that the name itself does not show.
	Through Text `json:"through,omitempty"`
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
	// Names are texts in the thread's memory that lead its process to Target, where it is in a
	// read and no inferior is known that has such a name, or more than one name of theirs leads there.
	Names []MemoryText `json:"names,omitempty"`
}

// MemoryText is a text in a process's memory.
type MemoryText struct {
	Addr Hex    `json:"addr"`
	In   string `json:"in"` // "stack" or "heap"
	Text Text   `json:"text"`
	// Stream is the address of the stream (FILE in stdio.h) by which the thread reads: it has the
	// descriptor and the buffer of the read. Object is a structure that has both the stream and the
	// text, and so says what was opened by that name. Both are absent where no such was found.
	Stream Hex `json:"stream,omitempty"`
	Object Hex `json:"object,omitempty"`
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

// Wait is what one thread waits for: what the arguments of its call mean, and
// who could end that. There is one for each thread of the process that was
// looked at, and of each process that is an [Ender] of another's wait, as far as
// the search went. A process without one was not looked at.
type Wait struct {
	T       Micros `json:"t"`
	PID     PID    `json:"pid"`
	TID     TID    `json:"tid"`
	Comm    Text   `json:"comm,omitempty"`
	State   string `json:"state,omitempty"` // one letter, proc_pid_stat(5)
	Wchan   string `json:"wchan,omitempty"` // kernel function it sleeps in
	Syscall string `json:"syscall,omitempty"`
	// IdleUS is for how long the thread has not run, microseconds; each wake-up,
	// also one that only checks its set again, begins it anew.
	IdleUS Opt[int64] `json:"idle_us,omitzero"`
	// TimeoutUS is after how long the call ends by itself, microseconds, from
	// its beginning; from the look on where it is given as a point of time.
	// Absent: never, or not known.
	TimeoutUS Opt[int64] `json:"timeout_us,omitzero"`
	// On is what it waits for: any of them ends the wait. Empty for a thread that
	// runs, and where it is not known.
	On []Awaited `json:"on,omitempty"`
	// Moved says that the thread has run since the look: its wait and those of
	// the others were not at one time.
	Moved bool `json:"moved,omitempty"`
	// Tracer is who traces the thread, stopped or not.
	Tracer *Tracer `json:"tracer,omitempty"`
	// StopSignal is what has stopped it, in the states T and t, where the kernel tells.
	StopSignal string `json:"stop_signal,omitempty"`
	// BlocksInt: the thread blocks SIGINT, SigBlk in proc_pid_status(5). It gets no
	// such signal then, nor does its tracer hear of one.
	BlocksInt bool `json:"blocks_int,omitempty"`
	// PGRP and TTYPGRP are as in [Process].
	PGRP    Opt[int] `json:"pgrp,omitzero"`
	TTYPGRP Opt[int] `json:"tty_pgrp,omitzero"`
	// CPUUS is the CPU time that the thread has used so far, and BusyUS how much
	// of SampledUS, the time between two looks, microseconds; only of one that runs.
	CPUUS     Opt[int64] `json:"cpu_us,omitzero"`
	BusyUS    Opt[int64] `json:"busy_us,omitzero"`
	SampledUS Opt[int64] `json:"sampled_us,omitzero"`
	// Turns is how often the thread, and those that its process traces, ran by turns
	// in 20 ms, as for single steps.
	Turns Opt[int64] `json:"turns,omitzero"`
	// Error is why its call is not known, as an errno name: EPERM without the
	// permission to trace it.
	Error string `json:"error,omitempty"`
}

// Awaited is one thing that a thread waits for.
type Awaited struct {
	// Op is what has to happen.
	Op AwaitOp `json:"op"`
	FD Opt[FD] `json:"fd,omitzero"`
	// Target is what FD is, or the file that Path leads to.
	Target *Target `json:"target,omitempty"`
	// Local and Peer are the ends of a socket: address and port, or a name in the
	// file system, with "@" for the abstract ones (unix(7)).
	Local Text `json:"local,omitempty"`
	Peer  Text `json:"peer,omitempty"`
	// Path is the name that the call was given.
	Path  Text   `json:"path,omitempty"`
	Mount *Mount `json:"mount,omitempty"` // whose file system has to answer
	// ID is what else the call names: a child, a process group (negative), a System
	// V queue or set.
	ID Opt[int64] `json:"id,omitzero"`
	// Addr is that of a futex.
	Addr Opt[Hex] `json:"addr,omitzero"`
	// Access is which end of a FIFO is opened: "r" or "w". Of the file of a thread that runs,
	// "r" says that its offset has moved.
	Access string `json:"access,omitempty"`
	// Lock is its kind: "FLOCK", "POSIX", "OFDLCK" or "LEASE" (proc_locks(5)).
	Lock string `json:"lock,omitempty"`
	// Size is that of a file that a thread reads that runs, or may read, bytes.
	Size Opt[int64] `json:"size,omitzero"`
	// Enders are the processes that could make it happen.
	Enders []Ender `json:"enders,omitempty"`
	// Foreign says that a terminal is not the one at which the user of the thread is.
	Foreign bool `json:"foreign,omitempty"`
	// Outside says who else could, that is no process here.
	Outside Outside `json:"outside,omitempty"`
	// Partial says that not all could be looked at who could be an ender.
	Partial bool `json:"partial,omitempty"`
}

// AwaitOp is what has to happen for a wait to end.
type AwaitOp string

// The operations.
const (
	AwaitRead    AwaitOp = "read"    // data, or the end of it
	AwaitWrite   AwaitOp = "write"   // room for data
	AwaitConnect AwaitOp = "connect" // the other side takes a connection
	AwaitAccept  AwaitOp = "accept"  // somebody connects
	AwaitChild   AwaitOp = "child"   // a child or tracee changes its state
	AwaitVfork   AwaitOp = "vfork"   // the child runs another program, or ends
	AwaitLock    AwaitOp = "lock"    // of a file
	AwaitFutex   AwaitOp = "futex"   // another thread wakes it
	AwaitThread  AwaitOp = "thread"  // another thread ends: pthread_join(3)
	AwaitOpen    AwaitOp = "open"    // of a FIFO: somebody opens the other end
	AwaitFile    AwaitOp = "file"    // a file system answers
	AwaitDevice  AwaitOp = "device"  // uninterruptible, in the kernel
	AwaitTimer   AwaitOp = "timer"
	AwaitSignal  AwaitOp = "signal"
	AwaitQueue   AwaitOp = "queue"  // a message, or room for one
	AwaitSem     AwaitOp = "sem"    // a System V semaphore
	AwaitRing    AwaitOp = "ring"   // io_uring(7): a request is done
	AwaitFault   AwaitOp = "fault"  // a page of a mapped file, or of swapped memory
	AwaitCont    AwaitOp = "cont"   // SIGCONT: stopped by job control
	AwaitTracer  AwaitOp = "tracer" // stopped by the tracer
	AwaitThaw    AwaitOp = "thaw"   // its cgroup, Path, is frozen
	AwaitPermit  AwaitOp = "permit" // the one who supervises its calls answers: seccomp_unotify(2)
	AwaitCPU     AwaitOp = "cpu"    // nothing: it computes, reading this file
)

// Outside is who could end a wait that is no process of this machine, or none
// that can be named.
type Outside string

// Those outside.
const (
	OutsideHost    Outside = "host"    // another machine, or another network namespace
	OutsideAnybody Outside = "anybody" // whoever opens the name, connects, or sends the signal
	OutsideDevice  Outside = "device"  // hardware: a keyboard, a disk
	OutsideTimer   Outside = "timer"
	OutsideUnknown Outside = "unknown"
)

// Ender is a process that could end a wait.
type Ender struct {
	PID  PID  `json:"pid"`
	Comm Text `json:"comm,omitempty"`
	// TID is the thread, where only that one could.
	TID TID `json:"tid,omitempty"`
	// FD is the descriptor by which it could.
	FD  Opt[FD]  `json:"fd,omitzero"`
	How EnderHow `json:"how"`
}

// EnderHow is what an ender is to the waiting thread.
type EnderHow string

// What enders are.
const (
	HowWriter   EnderHow = "writer"
	HowReader   EnderHow = "reader"
	HowPeer     EnderHow = "peer"     // has the other side of a socket
	HowListener EnderHow = "listener" // has not accepted the connection yet
	HowTerminal EnderHow = "terminal" // has the other side of a terminal
	HowOwner    EnderHow = "owner"    // of a lock
	HowThread   EnderHow = "thread"   // any other thread of the process, but for TID
	HowMapping  EnderHow = "mapping"  // has the same memory
	HowChild    EnderHow = "child"
	HowTracee   EnderHow = "tracee"
	HowTracer   EnderHow = "tracer"
	HowServer   EnderHow = "server" // of the file system
	HowLast     EnderHow = "last"   // used it last
)

// Mount is the file system that a wait depends on, from proc_pid_mountinfo(5).
type Mount struct {
	Point  Text   `json:"point,omitempty"`
	Type   string `json:"type,omitempty"`
	Source Text   `json:"source,omitempty"`
	// Connection is the number of a FUSE connection, in /sys/fs/fuse/connections.
	Connection Opt[uint32] `json:"connection,omitzero"`
}

// Search says how far the search for enders went. There is at most one in a
// recording, after the waits.
type Search struct {
	T Micros `json:"t"`
	// Searched are the processes whose descriptors were looked at; 0 if it did
	// not come to that. Unseen are those whose could not be.
	Searched int      `json:"searched,omitempty"`
	Unseen   []Unseen `json:"unseen,omitempty"`
	// Nested says that this /proc is that of a pid namespace within another:
	// processes outside are not to be seen.
	Nested bool `json:"nested,omitempty"`
	// Cut says why enders were left out that could have been looked at.
	Cut string `json:"cut,omitempty"`
	// Notes are what else could not be looked at.
	Notes []string `json:"notes,omitempty"`
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
func (*Wait) Type() string       { return "wait" }
func (*Search) Type() string     { return "search" }
func (*Lost) Type() string       { return "lost" }
func (*End) Type() string        { return "end" }
