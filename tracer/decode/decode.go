// Package decode says what the system calls that we look at mean: which
// argument is a descriptor, a name or a flag set, what the result is, and what
// the call does to the descriptor table. It also has the names of flags,
// errors and signals, the layouts of the few structures that carry identities,
// and the classifier of names such as /proc/self/fd/4.
//
// Everything is data for a named architecture, so a recording or a process of
// amd64 decodes on arm64 and the other way round. The package makes no system
// call and builds on every system.
package decode

import (
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/elastic/go-seccomp-bpf/arch"
)

// Arg is what one argument of a system call means.
type Arg uint8

// The kinds of arguments. "Out" ones point to memory that the kernel has
// filled only when the call has returned.
const (
	None         Arg = iota // there, but of no interest
	Int                     // a plain number
	FD                      // the descriptor that the call works on
	DirFD                   // where a relative Path starts; AT_FDCWD: at the current directory
	NewFD                   // the descriptor number asked for: dup2(2), dup3(2)
	MapFD                   // mmap(2): the file, or -1
	Path                    // address of a name, ended by NUL
	OpenFlags               // O_*, with an access mode
	FileFlags               // O_* without access mode: pipe2(2), dup3(2)
	Mode                    // permission bits of a new file
	AccessMode              // R_OK|W_OK|X_OK
	AtFlags                 // AT_*
	AtAccess                // AT_*, where 0x200 is AT_EACCESS
	AtStatx                 // AT_* with the synchronisation type of statx(2)
	StatxMask               // STATX_*
	Count                   // bytes asked for, or the length of a mapping
	Offset                  // file offset, bytes
	OffsetHigh              // the upper half of Offset; 0 in effect on 64-bit machines
	Whence                  // SEEK_*
	Buf                     // out: the bytes read, or the text of a link
	InBuf                   // the bytes to write
	BufSize                 // room in Buf, bytes: readlink(2)
	StatBuf                 // out: struct stat
	StatxBuf                // out: struct statx
	Iovec                   // array of struct iovec
	IovCnt                  // its length, entries
	RemoteIovec             // array of struct iovec with addresses of another process
	RemoteIovCnt            // its length, entries
	RWFlags                 // RWF_*
	Addr                    // an address
	Prot                    // PROT_*
	MapFlags                // MAP_*
	OpenHow                 // struct open_how
	Size                    // size of the structure before it, bytes
	Cmd                     // fcntl(2): F_*
	CmdArg                  // fcntl(2): what it is depends on Cmd
	FDPair                  // out: two ints, the new descriptors
	PID                     // a process id in the caller's pid namespace
	Argv                    // execve(2): array of strings
	Envp                    // execve(2): array of strings
	MemfdName               // address of the name of a memfd: not a path
	MemfdFlags              // MFD_*
	FirstFD                 // close_range(2)
	LastFD                  // close_range(2)
	CloseFlags              // CLOSE_RANGE_*
	PtraceCmd               // PTRACE_*
	RemoteAddr              // an address in another process's memory
	Word                    // out: a word, as the kernel's PTRACE_PEEKDATA writes it
)

// Ret is what the result of a system call means.
type Ret uint8

// The kinds of results. Each is an error where it is negative: see [Result].
const (
	RetNone   Ret = iota // 0
	RetInt               // a number
	RetNewFD             // a descriptor
	RetBytes             // a number of bytes
	RetOffset            // a file offset
	RetAddr              // an address
)

// Class groups calls that do the same thing.
type Class uint8

// The classes.
const (
	ClassOther  Class = iota
	ClassOpen         // makes a descriptor from a name
	ClassRead         // moves data from a descriptor
	ClassWrite        // moves data to a descriptor
	ClassClose        // drops descriptors
	ClassDup          // makes a descriptor from a descriptor
	ClassStat         // attributes, by name or by descriptor
	ClassAccess       // permissions, by name
	ClassLink         // text of a link
	ClassSeek         // offset of a descriptor
	ClassMap          // maps a file
	ClassExec         // runs a program
	ClassChdir        // changes what relative names mean
	ClassMemory       // reads the memory of another process
	ClassMake         // makes a descriptor from nothing, or receives one
)

// Call is one system call.
type Call struct {
	Name string
	Args []Arg
	Ret  Ret

	Class  Class
	Change Change
	// Shown says that it belongs in a trace; the others are decoded only
	// because they change what descriptors or names mean.
	Shown bool

	path, dirFD, fd, newFD, flags, count, offset, mode, pid, remote, word, first, last int8
	exit                                                                               bool
}

// PathArg is the index of the argument that holds the name, -1 without one.
func (c *Call) PathArg() int { return int(c.path) }

// DirFDArg is the index of the descriptor where a relative name starts, -1
// without one: then it starts at the current directory.
func (c *Call) DirFDArg() int { return int(c.dirFD) }

// FDArg is the index of the descriptor that the call works on, -1 without one.
// For mmap(2) it is the file's, and the argument may be -1.
func (c *Call) FDArg() int { return int(c.fd) }

// NewFDArg is the index of the descriptor number asked for, -1 without one.
func (c *Call) NewFDArg() int { return int(c.newFD) }

// FlagsArg is the index of the argument that [Table.Format] shows as the
// call's flags (of open(2): O_*, of access(2): the mode, of lseek(2): whence,
// of fcntl(2): the command), -1 without one.
func (c *Call) FlagsArg() int { return int(c.flags) }

// CountArg is the index of the byte count, -1 without one.
func (c *Call) CountArg() int { return int(c.count) }

// OffsetArg is the index of the file offset, -1 without one.
func (c *Call) OffsetArg() int { return int(c.offset) }

// ModeArg is the index of the permission bits of a new file, -1 without them.
func (c *Call) ModeArg() int { return int(c.mode) }

// ShownWith says whether a call with these arguments belongs in a trace: mmap(2)
// does with a file, ptrace(2) where it reads memory. A debugger makes very many
// other calls of both.
func (c *Call) ShownWith(args [6]uint64) bool {
	switch {
	case !c.Shown:
		return false
	case c.Class == ClassMap:
		return Int32(args[c.fd]) >= 0
	case c.word >= 0:
		return args[c.flags] == peekText || args[c.flags] == peekData
	}
	return true
}

// RemoteArg is the index of an address in the memory of another process, -1
// without one.
func (c *Call) RemoteArg() int { return int(c.remote) }

// PIDArg is the index of a process id, -1 without one.
func (c *Call) PIDArg() int { return int(c.pid) }

// NeedsExit says that the thread must be looked at when the call has returned,
// beyond its result: a new descriptor, or memory that the kernel filled.
func (c *Call) NeedsExit() bool { return c.exit }

// HasMode says that the call's Mode argument counts: open(2) ignores it unless
// it may make a file.
func (t *Table) HasMode(c *Call, args [6]uint64) bool {
	if c.mode < 0 {
		return false
	}
	if i := slices.Index(c.Args, OpenFlags); i >= 0 {
		return args[i]&(oCreat|oTmpfileBit) != 0
	}
	return true
}

func (c *Call) index() {
	at := func(kinds ...Arg) int8 {
		for _, k := range kinds {
			if i := slices.Index(c.Args, k); i >= 0 {
				return int8(i)
			}
		}
		return -1
	}
	c.path, c.dirFD, c.fd = at(Path), at(DirFD), at(FD, MapFD)
	c.newFD, c.count, c.offset, c.mode = at(NewFD), at(Count, BufSize), at(Offset), at(Mode)
	c.flags = at(OpenFlags, AtFlags, AtAccess, AtStatx, AccessMode, Whence, Cmd, MapFlags, FileFlags, MemfdFlags, CloseFlags, RWFlags, PtraceCmd)
	c.pid, c.remote, c.word, c.first, c.last = at(PID), at(RemoteAddr), at(Word), at(FirstFD), at(LastFD)
	c.exit = c.Change != Keeps || at(Buf, StatBuf, StatxBuf, FDPair, RemoteIovec, Word) >= 0
}

// Table decodes the calls of one architecture.
type Table struct {
	goarch string
	calls  []*Call  // by number; nil where we do not decode
	names  []string // by number; "" where there is none
	nums   map[string]uint64
	open   flagSet
	mmap   flagSet
	prot   flagSet
	stat   statLayout
}

// ForArch gives the table of an architecture by its Go name, "amd64" or "arm64",
// or "386" for 32-bit programs on the first.
func ForArch(goarch string) (*Table, error) {
	switch goarch {
	case "386":
		return i386(), nil
	case "amd64":
		return amd64(), nil
	case "arm64":
		return arm64(), nil
	}
	return nil, fmt.Errorf("no table of system calls for architecture %q: amd64 and arm64 are known", goarch)
}

// Compat is the table of 32-bit programs on the same machine; nil where it is not
// known.
func (t *Table) Compat() *Table {
	if t.goarch == "amd64" {
		return i386()
	}
	return nil
}

// Arch is the Go name of the architecture.
func (t *Table) Arch() string { return t.goarch }

// Call gives the row of a call by its number; false for one that we do not
// decode.
func (t *Table) Call(nr uint64) (*Call, bool) {
	if nr >= uint64(len(t.calls)) || t.calls[nr] == nil {
		return nil, false
	}
	return t.calls[nr], true
}

// Name is the name of any call, "syscall_999" for a number that has none.
func (t *Table) Name(nr uint64) string {
	if nr < uint64(len(t.names)) && t.names[nr] != "" {
		return t.names[nr]
	}
	return "syscall_" + strconv.FormatUint(nr, 10)
}

// Number is the number of a call by its name; false where the architecture
// has no such call.
func (t *Table) Number(name string) (uint64, bool) {
	nr, ok := t.nums[name]
	return nr, ok
}

// ByName gives the row of a call by its name, whatever the architecture; false
// for one that we do not decode.
func ByName(name string) (*Call, bool) {
	c, ok := byName[name]
	return c, ok
}

var (
	byName = index(rows)
	// A process mostly needs one of these.
	amd64 = sync.OnceValue(func() *Table { return newTable("amd64", arch.X86_64) })
	arm64 = sync.OnceValue(func() *Table { return newTable("arm64", arch.AARCH64) })
	i386  = sync.OnceValue(func() *Table { return newTable("386", arch.I386) })
)

func index(rows []Call) map[string]*Call {
	m := make(map[string]*Call, len(rows))
	for i := range rows {
		rows[i].index()
		m[rows[i].Name] = &rows[i]
	}
	return m
}

// newest are calls that the library does not have yet;
// from 424 on a call has the same number on every architecture that we know
// (scripts/syscall.tbl, arch/x86/entry/syscalls/syscall_64.tbl).
var newest = map[int]string{468: "file_getattr", 469: "file_setattr", 470: "listns", 471: "rseq_slice_yield"}

func newTable(goarch string, info *arch.Info) *Table {
	all := make(map[int]string, len(info.SyscallNumbers)+len(newest))
	for nr, name := range newest {
		all[nr] = name
	}
	last := 0
	for nr, name := range info.SyscallNumbers {
		// 403 to 423 are the calls with a 64-bit time of 32-bit machines; the
		// library lists them for arm64 too, where they do not exist.
		if nr < 403 || nr > 423 || goarch == "386" {
			all[nr] = name
		}
	}
	switch goarch {
	case "amd64":
		all[336] = "uprobe" // newer than the library
	case "arm64":
		all[79] = "newfstatat" // which the library calls fstatat
	}
	for nr := range all {
		last = max(last, nr)
	}
	t := &Table{
		goarch: goarch,
		calls:  make([]*Call, last+1),
		names:  make([]string, last+1),
		nums:   make(map[string]uint64, len(all)),
	}
	for nr, name := range all {
		t.names[nr] = name
		t.nums[name] = uint64(nr)
		t.calls[nr] = byName[name]
	}
	switch goarch {
	case "386":
		t.calls[t.nums["mmap"]] = nil // one argument: a pointer to the others (mmap(2))
		t.open, t.mmap, t.prot = openAMD64, mmapAMD64, prot
	case "amd64":
		t.open, t.mmap, t.prot, t.stat = openAMD64, mmapAMD64, prot, statAMD64
	case "arm64":
		t.open, t.mmap, t.prot, t.stat = openARM64, mmapGeneric, protARM64, statARM64
	}
	return t
}

// Int32 is an argument that the kernel takes as an int, such as a descriptor:
// the upper half of the register does not count.
func Int32(arg uint64) int32 { return int32(uint32(arg)) }

// Result splits the value that a system call left in the result register:
// errno is the positive error number and ret then -1; else errno is 0. Errors
// are -4095 to -1 (MAX_ERRNO in linux/err.h): an address above that is none.
func Result(rval int64) (ret int64, errno int) {
	if rval < 0 && rval >= -4095 {
		return -1, int(-rval)
	}
	return rval, 0
}

// Restarts says that the kernel will make the call again by itself, so that
// the program never sees this error (linux/errno.h; [Errno] has their names).
func Restarts(errno int) bool {
	switch errno {
	case 512, 513, 514, 516:
		return true
	}
	return false
}

// RestartsNamed is [Restarts] by the error's name.
func RestartsNamed(errno string) bool {
	switch errno {
	case "ERESTARTSYS", "ERESTARTNOINTR", "ERESTARTNOHAND", "ERESTART_RESTARTBLOCK":
		return true
	}
	return false
}

// Errno is the name of an error number, such as "ENOENT" for 2; "" for 0 and
// for a number without a name.
func Errno(e int) string {
	if e > 0 && e < len(errnoNames) {
		return errnoNames[e]
	}
	return ""
}

// Signal is the name of a signal, such as "SIGINT" for 2. Real-time signals
// are counted from the kernel's SIGRTMIN, 32, as strace has them: "SIGRT_2".
// It is "" for what is no signal.
func Signal(n int) string {
	switch {
	case n > 0 && n < len(signalNames):
		return signalNames[n]
	case n == 32:
		return "SIGRTMIN"
	case n > 32 && n < 64:
		return "SIGRT_" + strconv.Itoa(n-32)
	case n == 64:
		return "SIGRTMAX"
	}
	return ""
}
