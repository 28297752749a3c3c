package decode

import (
	"cmp"
	"slices"
	"strconv"
)

// flag is one name of a set: it is shown where v&mask == val, and takes mask
// out of what is left.
type flag struct {
	mask, val uint64
	name      string
}

// flagSet is a set of flags in the order in which they are shown. A flag that
// is made of others stands before them.
type flagSet struct {
	flags []flag
	zero  string // what 0 is called; "" shows as "0"
}

// bit is a flag of its own.
func bit(v uint64, name string) flag { return flag{v, v, name} }

// bits are flags of one bit each, from the lowest of them on.
func bits(lowest uint64, names ...string) (flags []flag) {
	for i, name := range names {
		flags = append(flags, bit(lowest<<i, name))
	}
	return flags
}

// format shows v as names joined by "|", what has no name in hexadecimal.
func (s flagSet) format(v uint64) string {
	var space [96]byte
	b, rest := space[:0], v
	for _, f := range s.flags {
		// Where a composite flag has taken its parts, they are not shown again.
		if v&f.mask != f.val || f.val != 0 && rest&f.mask != f.val {
			continue
		}
		if len(b) > 0 {
			b = append(b, '|')
		}
		b = append(b, f.name...)
		rest &^= f.mask
	}
	switch {
	case rest != 0 && len(b) > 0:
		b = append(b, '|')
		fallthrough
	case rest != 0:
		b = strconv.AppendUint(append(b, "0x"...), rest, 16)
	case len(b) == 0:
		return cmp.Or(s.zero, "0")
	}
	return string(b)
}

// O_* of asm-generic/fcntl.h that are the same on amd64 and arm64.
const (
	oCreat      = 0o100
	oDsync      = 0o10000
	oSync       = 0o4000000 | oDsync
	oTmpfileBit = 0o20000000
)

// openFlags makes the set of open(2) flags of an architecture from the four
// that differ.
func openFlags(directory, nofollow, direct, largefile uint64) flagSet {
	return flagSet{flags: slices.Concat(
		[]flag{{3, 0, "O_RDONLY"}, {3, 1, "O_WRONLY"}, {3, 2, "O_RDWR"}, {3, 3, "O_ACCMODE"}}, // the last: only ioctl(2)
		bits(oCreat, "O_CREAT", "O_EXCL", "O_NOCTTY", "O_TRUNC", "O_APPEND", "O_NONBLOCK"),
		[]flag{
			bit(oSync, "O_SYNC"), bit(oDsync, "O_DSYNC"), bit(0o4000000, "__O_SYNC"),
			bit(direct, "O_DIRECT"), bit(largefile, "O_LARGEFILE"), bit(nofollow, "O_NOFOLLOW"),
			bit(0o1000000, "O_NOATIME"), bit(0o2000000, "O_CLOEXEC"), bit(0o10000000, "O_PATH"),
			bit(oTmpfileBit|directory, "O_TMPFILE"), bit(directory, "O_DIRECTORY"), bit(oTmpfileBit, "__O_TMPFILE"),
			bit(0o20000, "FASYNC"),
		})}
}

var (
	// asm-generic/fcntl.h
	openAMD64 = openFlags(0o200000, 0o400000, 0o40000, 0o100000)
	// arch/arm64/include/uapi/asm/fcntl.h
	openARM64 = openFlags(0o40000, 0o100000, 0o200000, 0o400000)

	// asm-generic/mman-common.h
	prot = flagSet{zero: "PROT_NONE", flags: slices.Concat(
		bits(1, "PROT_READ", "PROT_WRITE", "PROT_EXEC", "PROT_SEM"),
		bits(0x01000000, "PROT_GROWSDOWN", "PROT_GROWSUP"))}
	// arch/arm64/include/uapi/asm/mman.h
	protARM64 = flagSet{zero: "PROT_NONE", flags: append(bits(0x10, "PROT_BTI", "PROT_MTE"), prot.flags...)}

	// linux/mman.h, asm-generic/mman-common.h, asm-generic/mman.h; the size of
	// huge pages in bits 26 to 31 shows in hexadecimal
	mmapGeneric = flagSet{flags: slices.Concat(
		[]flag{{0xf, 1, "MAP_SHARED"}, {0xf, 2, "MAP_PRIVATE"}, {0xf, 3, "MAP_SHARED_VALIDATE"}, {0xf, 8, "MAP_DROPPABLE"}},
		bits(0x10, "MAP_FIXED", "MAP_ANONYMOUS"),
		bits(0x100, "MAP_GROWSDOWN"),
		bits(0x800, "MAP_DENYWRITE", "MAP_EXECUTABLE", "MAP_LOCKED", "MAP_NORESERVE", "MAP_POPULATE", "MAP_NONBLOCK",
			"MAP_STACK", "MAP_HUGETLB", "MAP_SYNC", "MAP_FIXED_NOREPLACE"))}
	// arch/x86/include/uapi/asm/mman.h
	mmapAMD64 = flagSet{flags: slices.Concat(mmapGeneric.flags, bits(0x40, "MAP_32BIT", "MAP_ABOVE4G"))}
)

// sets are the flags that are the same on every architecture.
var sets = map[Arg]flagSet{
	// unistd.h
	AccessMode: {zero: "F_OK", flags: []flag{bit(4, "R_OK"), bit(2, "W_OK"), bit(1, "X_OK")}},
	// linux/fcntl.h
	AtFlags: {flags: append(
		bits(0x100, "AT_SYMLINK_NOFOLLOW", "AT_REMOVEDIR", "AT_SYMLINK_FOLLOW", "AT_NO_AUTOMOUNT", "AT_EMPTY_PATH"),
		bits(0x8000, "AT_RECURSIVE", "AT_EXECVE_CHECK")...)},
	AtAccess: {flags: append(bits(0x100, "AT_SYMLINK_NOFOLLOW", "AT_EACCESS"), bit(0x1000, "AT_EMPTY_PATH"))},
	// linux/fcntl.h, AT_STATX_SYNC_TYPE
	AtStatx: {flags: slices.Concat(
		[]flag{{0x6000, 0, "AT_STATX_SYNC_AS_STAT"}},
		bits(0x2000, "AT_STATX_FORCE_SYNC", "AT_STATX_DONT_SYNC"),
		bits(0x100, "AT_SYMLINK_NOFOLLOW"),
		bits(0x400, "AT_SYMLINK_FOLLOW", "AT_NO_AUTOMOUNT", "AT_EMPTY_PATH"))},
	// linux/stat.h
	StatxMask: {flags: append([]flag{bit(0xfff, "STATX_ALL"), bit(0x7ff, "STATX_BASIC_STATS")},
		bits(1, "STATX_TYPE", "STATX_MODE", "STATX_NLINK", "STATX_UID", "STATX_GID", "STATX_ATIME", "STATX_MTIME", "STATX_CTIME",
			"STATX_INO", "STATX_SIZE", "STATX_BLOCKS", "STATX_BTIME", "STATX_MNT_ID", "STATX_DIOALIGN", "STATX_MNT_ID_UNIQUE",
			"STATX_SUBVOL", "STATX_WRITE_ATOMIC", "STATX_DIO_READ_ALIGN")...)},
	// linux/memfd.h; huge page sizes as for mmap
	MemfdFlags: {flags: bits(1, "MFD_CLOEXEC", "MFD_ALLOW_SEALING", "MFD_HUGETLB", "MFD_NOEXEC_SEAL", "MFD_EXEC")},
	// linux/close_range.h
	CloseFlags: {flags: bits(2, "CLOSE_RANGE_UNSHARE", "CLOSE_RANGE_CLOEXEC")},
	// linux/fs.h
	RWFlags: {flags: bits(1, "RWF_HIPRI", "RWF_DSYNC", "RWF_SYNC", "RWF_NOWAIT", "RWF_APPEND", "RWF_NOAPPEND", "RWF_ATOMIC", "RWF_DONTCACHE")},
}

const (
	fDupFD        = 0
	fSetFD        = 2
	fDupFDCloexec = 1030
)

// The requests of ptrace(2) that read memory (linux/ptrace.h): the same on
// every architecture.
const (
	peekText = 1
	peekData = 2
)

// WordSize is how much one of them reads, in bytes, on a 64-bit machine.
const WordSize = 8

// constants are the arguments that have one of several values.
var constants = map[Arg]map[uint64]string{
	// linux/fs.h
	Whence: {0: "SEEK_SET", 1: "SEEK_CUR", 2: "SEEK_END", 3: "SEEK_DATA", 4: "SEEK_HOLE"},
	// asm-generic/fcntl.h, and from 1024 on linux/fcntl.h
	Cmd: {
		fDupFD: "F_DUPFD", 1: "F_GETFD", fSetFD: "F_SETFD", 3: "F_GETFL", 4: "F_SETFL",
		5: "F_GETLK", 6: "F_SETLK", 7: "F_SETLKW", 8: "F_SETOWN", 9: "F_GETOWN",
		10: "F_SETSIG", 11: "F_GETSIG", 15: "F_SETOWN_EX", 16: "F_GETOWN_EX", 17: "F_GETOWNER_UIDS",
		36: "F_OFD_GETLK", 37: "F_OFD_SETLK", 38: "F_OFD_SETLKW",
		1024: "F_SETLEASE", 1025: "F_GETLEASE", 1026: "F_NOTIFY", 1027: "F_DUPFD_QUERY", 1028: "F_CREATED_QUERY",
		1029: "F_CANCELLK", fDupFDCloexec: "F_DUPFD_CLOEXEC", 1031: "F_SETPIPE_SZ", 1032: "F_GETPIPE_SZ",
		1033: "F_ADD_SEALS", 1034: "F_GET_SEALS", 1035: "F_GET_RW_HINT", 1036: "F_SET_RW_HINT",
		1037: "F_GET_FILE_RW_HINT", 1038: "F_SET_FILE_RW_HINT", 1039: "F_GETDELEG", 1040: "F_SETDELEG",
	},
	PtraceCmd: {peekText: "PTRACE_PEEKTEXT", peekData: "PTRACE_PEEKDATA"},
}

// OpenFlags shows the flags of open(2): "O_RDONLY|O_CLOEXEC".
func (t *Table) OpenFlags(v uint64) string { return t.open.format(v) }

// fileFlags shows O_* flags that go without an access mode: pipe2(2), dup3(2).
func (t *Table) fileFlags(v uint64) string {
	if v&3 != 0 {
		return t.open.format(v)
	}
	return flagSet{flags: t.open.flags[4:]}.format(v)
}

// Format shows an argument that is a set of flags or a constant by its names.
// It is "" for any other kind: numbers and addresses go into fields of their
// own. Only as many bits count as the kernel looks at: mostly the lower 32.
func (t *Table) Format(kind Arg, v uint64) string {
	if kind != MapFlags && kind != Prot && kind != PtraceCmd {
		v = uint64(uint32(v))
	}
	switch kind {
	case OpenFlags:
		return t.open.format(v)
	case FileFlags:
		return t.fileFlags(v)
	case MapFlags:
		return t.mmap.format(v)
	case Prot:
		return t.prot.format(v)
	}
	if set, ok := sets[kind]; ok {
		return set.format(v)
	}
	names, ok := constants[kind]
	if name := names[v]; !ok || name != "" {
		return name
	}
	return "0x" + strconv.FormatUint(v, 16)
}

// Flags shows what stands in the flags column of a trace: the argument at
// [Call.FlagsArg]; for openat2(2), which has its flags in memory, use
// [OpenHowData.Flags] with [Table.OpenFlags]. It is "" for a call without flags
// and for flags of 0 that have no name of their own.
func (t *Table) Flags(c *Call, args [6]uint64) string {
	if c.flags < 0 {
		return ""
	}
	kind, v := c.Args[c.flags], args[c.flags]
	if kind == MapFlags { // what a mapping is for takes both
		return t.Format(Prot, args[2]) + "," + t.Format(MapFlags, v)
	}
	if s := t.Format(kind, v); s != "0" {
		return s
	}
	return ""
}
