package ebpf

import (
	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
)

// What a row tells the programs, as calls.bpf.c has it (struct call_row).
const (
	outNone = iota
	outBuf
	outStruct
	outIovec
	outMapping
	inStruct

	ifAlways = 0
	ifFD     = 1
	ifValue  = 2

	makesFD      = 1
	dropsFD      = 2
	namesFile    = 4
	isLink       = 8
	isPtrace     = 16
	makesIfValue = 32
	relates      = 64
	spared       = 128

	recordWhose = 2

	flagsArg       = 1
	flagsBehindArg = 2

	maxCalls = 512
)

// noRequest fills the places behind the values of a condition.
const noRequest = 1<<32 - 1

// row is struct call_row.
type row struct {
	Path, FD, Out, Remote int8
	Kind, Condition       uint8
	ConditionArg, Flags   uint8
	Record                uint8
	DirFD                 int8
	Size                  uint16
	Values                [6]uint32
}

// ptraceRequests are the requests of ptrace(2) that are seen (linux/ptrace.h):
// reads of memory, which are recorded, and those by which a debugger gets an
// inferior that it had not before.
var ptraceRequests = [6]uint32{unix.PTRACE_PEEKTEXT, unix.PTRACE_PEEKDATA,
	unix.PTRACE_ATTACH, unix.PTRACE_SEIZE, unix.PTRACE_SETOPTIONS, unix.PTRACE_GETEVENTMSG}

// rowOf says in numbers what a call's arguments mean.
func rowOf(t *decode.Table, c *decode.Call) row {
	r := row{Path: int8(c.PathArg()), FD: int8(c.FDArg()), DirFD: int8(c.DirFDArg()), Out: -1, Remote: -1, Record: 1}
	for i, kind := range c.Args {
		switch kind {
		case decode.Buf:
			r.Kind, r.Out = outBuf, int8(i)
		case decode.Iovec:
			r.Kind, r.Out = outIovec, int8(i)
		case decode.RemoteIovec:
			r.Remote = int8(i)
		case decode.StatBuf:
			r.Kind, r.Out, r.Size = outStruct, int8(i), uint16(t.StatSize())
		case decode.StatxBuf:
			r.Kind, r.Out, r.Size = outStruct, int8(i), decode.StatxSize
		case decode.OpenHow:
			r.Kind, r.Out, r.Size = inStruct, int8(i), decode.OpenHowSize
		case decode.Word:
			r.Kind, r.Out, r.Size = outStruct, int8(i), decode.WordSize
		}
	}
	switch c.Class {
	case decode.ClassMap:
		r.Condition, r.Kind, r.Out = ifFD, outMapping, 0
	case decode.ClassDup:
		if c.Ret != decode.RetNewFD { // fcntl(2)
			r.Condition, r.ConditionArg = ifValue, 1
			r.Flags |= makesIfValue | makesFD
			r.Values = [6]uint32{unix.F_DUPFD, unix.F_DUPFD_CLOEXEC, noRequest, noRequest, noRequest, noRequest}
		}
	case decode.ClassMemory:
		if c.Name == "ptrace" {
			r.Condition, r.ConditionArg, r.Values = ifValue, 0, ptraceRequests
			r.Flags |= isPtrace
		}
	case decode.ClassLink:
		r.Flags |= isLink | namesFile
	case decode.ClassOpen, decode.ClassStat, decode.ClassAccess:
		r.Flags |= namesFile
	}
	if c.Change == decode.Drops {
		r.Flags |= dropsFD
	}
	if c.Ret == decode.RetNewFD {
		r.Flags |= makesFD
	}
	return r
}

// Guarded says whether a call is one that a guard has to see.
func Guarded(c *decode.Call) bool { return readsOther(c) || guarded(c) }

// readsOther says whether a call may read another process's memory: of that a guard
// only has to know whose it was.
func readsOther(c *decode.Call) bool {
	return c.Class == decode.ClassRead && c.OffsetArg() >= 0 || c.Class == decode.ClassMemory && c.Name != "ptrace"
}

func guarded(c *decode.Call) bool {
	switch c.Class {
	case decode.ClassOpen, decode.ClassStat, decode.ClassAccess, decode.ClassLink:
		return c.PathArg() >= 0
	}
	return c.Name == "ptrace"
}

// relating are the calls after which a process may have a child or a peer that it had
// not (perhaps an inferior, or a server), or finds files by other names than before; with
// where they say that they make a thread.
var relating = map[string]uint8{"clone": flagsArg, "clone3": flagsBehindArg, "fork": 0, "vfork": 0, "connect": 0,
	"chdir": 0, "fchdir": 0, "chroot": 0, "pivot_root": 0, "setns": 0, "unshare": 0}

// quietRequests are the requests of ptrace(2) that let nobody run and bring no
// inferior, as sets of bits: those from 0 on, and those from PTRACE_SETOPTIONS on.
var quietRequests = [2]uint64{
	bits(unix.PTRACE_PEEKTEXT, unix.PTRACE_PEEKDATA, unix.PTRACE_PEEKUSR, unix.PTRACE_POKETEXT, unix.PTRACE_POKEDATA, unix.PTRACE_POKEUSR) | bits(quietHere...),
	bits(unix.PTRACE_GETSIGINFO-unix.PTRACE_SETOPTIONS, unix.PTRACE_SETSIGINFO-unix.PTRACE_SETOPTIONS,
		unix.PTRACE_GETREGSET-unix.PTRACE_SETOPTIONS, unix.PTRACE_SETREGSET-unix.PTRACE_SETOPTIONS,
		unix.PTRACE_GET_SYSCALL_INFO-unix.PTRACE_SETOPTIONS),
}

func bits(numbers ...int) (set uint64) {
	for _, n := range numbers {
		set |= 1 << n
	}
	return set
}

// rows gives the table of an architecture's calls for the programs.
func rows(t *decode.Table, o Options) map[uint32]row {
	all := map[uint32]row{}
	for nr := range uint32(maxCalls) {
		if c, ok := t.Call(uint64(nr)); ok && c.Shown && (o.Wanted == nil || o.Wanted(c)) {
			r := rowOf(t, c)
			if o.Wanted != nil && !guarded(c) {
				r.Record = recordWhose
			}
			if o.Spared != nil && o.Spared(c) {
				r.Flags |= spared
			}
			all[nr] = r
		}
	}
	for name, flags := range relating {
		if nr, ok := t.Number(name); ok {
			all[uint32(nr)] = row{Path: -1, FD: -1, Out: -1, Remote: -1, DirFD: -1, Flags: relates, ConditionArg: flags} // none of them is shown
		}
	}
	return all
}
