package decode

import "strconv"

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

// append shows v as names joined by "|", what has no name in hexadecimal.
func (s flagSet) append(b []byte, v uint64) []byte {
	start, rest := len(b), v
	for _, f := range s.flags {
		// Where a composite flag has taken its parts, they are not shown again.
		if v&f.mask != f.val || f.val != 0 && rest&f.mask != f.val {
			continue
		}
		if len(b) > start {
			b = append(b, '|')
		}
		b = append(b, f.name...)
		rest &^= f.mask
	}
	if rest != 0 {
		if len(b) > start {
			b = append(b, '|')
		}
		b = append(b, "0x"...)
		b = strconv.AppendUint(b, rest, 16)
	}
	if len(b) == start {
		if s.zero == "" {
			return append(b, '0')
		}
		return append(b, s.zero...)
	}
	return b
}

func (s flagSet) format(v uint64) string {
	var buf [96]byte
	return string(s.append(buf[:0], v))
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
	return flagSet{flags: []flag{
		{3, 0, "O_RDONLY"},
		{3, 1, "O_WRONLY"},
		{3, 2, "O_RDWR"},
		{3, 3, "O_ACCMODE"}, // neither reading nor writing: only ioctl(2)
		bit(oCreat, "O_CREAT"),
		bit(0o200, "O_EXCL"),
		bit(0o400, "O_NOCTTY"),
		bit(0o1000, "O_TRUNC"),
		bit(0o2000, "O_APPEND"),
		bit(0o4000, "O_NONBLOCK"),
		bit(oSync, "O_SYNC"),
		bit(oDsync, "O_DSYNC"),
		bit(0o4000000, "__O_SYNC"),
		bit(direct, "O_DIRECT"),
		bit(largefile, "O_LARGEFILE"),
		bit(nofollow, "O_NOFOLLOW"),
		bit(0o1000000, "O_NOATIME"),
		bit(0o2000000, "O_CLOEXEC"),
		bit(0o10000000, "O_PATH"),
		bit(oTmpfileBit|directory, "O_TMPFILE"),
		bit(directory, "O_DIRECTORY"),
		bit(oTmpfileBit, "__O_TMPFILE"),
		bit(0o20000, "FASYNC"),
	}}
}

var (
	// asm-generic/fcntl.h
	openAMD64 = openFlags(0o200000, 0o400000, 0o40000, 0o100000)
	// arch/arm64/include/uapi/asm/fcntl.h
	openARM64 = openFlags(0o40000, 0o100000, 0o200000, 0o400000)

	// unistd.h
	accessModes = flagSet{zero: "F_OK", flags: []flag{bit(4, "R_OK"), bit(2, "W_OK"), bit(1, "X_OK")}}

	// linux/fcntl.h
	atFlags = flagSet{flags: []flag{
		bit(0x100, "AT_SYMLINK_NOFOLLOW"),
		bit(0x200, "AT_REMOVEDIR"),
		bit(0x400, "AT_SYMLINK_FOLLOW"),
		bit(0x800, "AT_NO_AUTOMOUNT"),
		bit(0x1000, "AT_EMPTY_PATH"),
		bit(0x8000, "AT_RECURSIVE"),
		bit(0x10000, "AT_EXECVE_CHECK"),
	}}
	atAccess = flagSet{flags: []flag{
		bit(0x100, "AT_SYMLINK_NOFOLLOW"),
		bit(0x200, "AT_EACCESS"),
		bit(0x1000, "AT_EMPTY_PATH"),
	}}
	// linux/fcntl.h, AT_STATX_SYNC_TYPE
	atStatx = flagSet{flags: []flag{
		{0x6000, 0, "AT_STATX_SYNC_AS_STAT"},
		bit(0x2000, "AT_STATX_FORCE_SYNC"),
		bit(0x4000, "AT_STATX_DONT_SYNC"),
		bit(0x100, "AT_SYMLINK_NOFOLLOW"),
		bit(0x400, "AT_SYMLINK_FOLLOW"),
		bit(0x800, "AT_NO_AUTOMOUNT"),
		bit(0x1000, "AT_EMPTY_PATH"),
	}}

	// linux/stat.h
	statxMask = flagSet{flags: []flag{
		bit(0xfff, "STATX_ALL"),
		bit(0x7ff, "STATX_BASIC_STATS"),
		bit(0x1, "STATX_TYPE"),
		bit(0x2, "STATX_MODE"),
		bit(0x4, "STATX_NLINK"),
		bit(0x8, "STATX_UID"),
		bit(0x10, "STATX_GID"),
		bit(0x20, "STATX_ATIME"),
		bit(0x40, "STATX_MTIME"),
		bit(0x80, "STATX_CTIME"),
		bit(0x100, "STATX_INO"),
		bit(0x200, "STATX_SIZE"),
		bit(0x400, "STATX_BLOCKS"),
		bit(0x800, "STATX_BTIME"),
		bit(0x1000, "STATX_MNT_ID"),
		bit(0x2000, "STATX_DIOALIGN"),
		bit(0x4000, "STATX_MNT_ID_UNIQUE"),
		bit(0x8000, "STATX_SUBVOL"),
		bit(0x10000, "STATX_WRITE_ATOMIC"),
		bit(0x20000, "STATX_DIO_READ_ALIGN"),
	}}

	// asm-generic/mman-common.h
	prot = flagSet{zero: "PROT_NONE", flags: []flag{
		bit(1, "PROT_READ"),
		bit(2, "PROT_WRITE"),
		bit(4, "PROT_EXEC"),
		bit(8, "PROT_SEM"),
		bit(0x01000000, "PROT_GROWSDOWN"),
		bit(0x02000000, "PROT_GROWSUP"),
	}}
	// arch/arm64/include/uapi/asm/mman.h
	protARM64 = flagSet{zero: "PROT_NONE", flags: append([]flag{
		bit(0x10, "PROT_BTI"),
		bit(0x20, "PROT_MTE"),
	}, prot.flags...)}

	// linux/mman.h, asm-generic/mman-common.h, asm-generic/mman.h; the size of
	// huge pages in bits 26 to 31 shows in hexadecimal
	mmapGeneric = flagSet{flags: []flag{
		{0xf, 1, "MAP_SHARED"},
		{0xf, 2, "MAP_PRIVATE"},
		{0xf, 3, "MAP_SHARED_VALIDATE"},
		{0xf, 8, "MAP_DROPPABLE"},
		bit(0x10, "MAP_FIXED"),
		bit(0x20, "MAP_ANONYMOUS"),
		bit(0x100, "MAP_GROWSDOWN"),
		bit(0x800, "MAP_DENYWRITE"),
		bit(0x1000, "MAP_EXECUTABLE"),
		bit(0x2000, "MAP_LOCKED"),
		bit(0x4000, "MAP_NORESERVE"),
		bit(0x8000, "MAP_POPULATE"),
		bit(0x10000, "MAP_NONBLOCK"),
		bit(0x20000, "MAP_STACK"),
		bit(0x40000, "MAP_HUGETLB"),
		bit(0x80000, "MAP_SYNC"),
		bit(0x100000, "MAP_FIXED_NOREPLACE"),
	}}
	// arch/x86/include/uapi/asm/mman.h
	mmapAMD64 = flagSet{flags: append(mmapGeneric.flags[:len(mmapGeneric.flags):len(mmapGeneric.flags)],
		bit(0x40, "MAP_32BIT"), bit(0x80, "MAP_ABOVE4G"))}

	// linux/openat2.h
	resolve = flagSet{flags: []flag{
		bit(0x01, "RESOLVE_NO_XDEV"),
		bit(0x02, "RESOLVE_NO_MAGICLINKS"),
		bit(0x04, "RESOLVE_NO_SYMLINKS"),
		bit(0x08, "RESOLVE_BENEATH"),
		bit(0x10, "RESOLVE_IN_ROOT"),
		bit(0x20, "RESOLVE_CACHED"),
	}}

	// linux/memfd.h; huge page sizes as for mmap
	memfd = flagSet{flags: []flag{
		bit(0x1, "MFD_CLOEXEC"),
		bit(0x2, "MFD_ALLOW_SEALING"),
		bit(0x4, "MFD_HUGETLB"),
		bit(0x8, "MFD_NOEXEC_SEAL"),
		bit(0x10, "MFD_EXEC"),
	}}

	// linux/close_range.h
	closeRange = flagSet{flags: []flag{bit(2, "CLOSE_RANGE_UNSHARE"), bit(4, "CLOSE_RANGE_CLOEXEC")}}

	// linux/fs.h
	rwFlags = flagSet{flags: []flag{
		bit(0x01, "RWF_HIPRI"),
		bit(0x02, "RWF_DSYNC"),
		bit(0x04, "RWF_SYNC"),
		bit(0x08, "RWF_NOWAIT"),
		bit(0x10, "RWF_APPEND"),
		bit(0x20, "RWF_NOAPPEND"),
		bit(0x40, "RWF_ATOMIC"),
		bit(0x80, "RWF_DONTCACHE"),
	}}
)

// whences are the SEEK_* of linux/fs.h.
var whences = [...]string{"SEEK_SET", "SEEK_CUR", "SEEK_END", "SEEK_DATA", "SEEK_HOLE"}

const (
	fDupFD        = 0
	fDupFDCloexec = 1030
)

// fcntlCmds are the commands of asm-generic/fcntl.h, and from 1024 on those of
// linux/fcntl.h.
var fcntlCmds = map[uint32]string{
	fDupFD: "F_DUPFD", 1: "F_GETFD", 2: "F_SETFD", 3: "F_GETFL", 4: "F_SETFL",
	5: "F_GETLK", 6: "F_SETLK", 7: "F_SETLKW", 8: "F_SETOWN", 9: "F_GETOWN",
	10: "F_SETSIG", 11: "F_GETSIG", 15: "F_SETOWN_EX", 16: "F_GETOWN_EX", 17: "F_GETOWNER_UIDS",
	36: "F_OFD_GETLK", 37: "F_OFD_SETLK", 38: "F_OFD_SETLKW",
	1024: "F_SETLEASE", 1025: "F_GETLEASE", 1026: "F_NOTIFY", 1027: "F_DUPFD_QUERY", 1028: "F_CREATED_QUERY",
	1029: "F_CANCELLK", fDupFDCloexec: "F_DUPFD_CLOEXEC", 1031: "F_SETPIPE_SZ", 1032: "F_GETPIPE_SZ",
	1033: "F_ADD_SEALS", 1034: "F_GET_SEALS", 1035: "F_GET_RW_HINT", 1036: "F_SET_RW_HINT",
	1037: "F_GET_FILE_RW_HINT", 1038: "F_SET_FILE_RW_HINT", 1039: "F_GETDELEG", 1040: "F_SETDELEG",
}

// OpenFlags shows the flags of open(2): "O_RDONLY|O_CLOEXEC".
func (t *Table) OpenFlags(v uint64) string { return t.open.format(v) }

// FileFlags shows O_* flags that go without an access mode: pipe2(2), dup3(2).
func (t *Table) FileFlags(v uint64) string {
	if v == 0 {
		return "0"
	}
	if v&3 != 0 {
		return t.open.format(v)
	}
	return flagSet{flags: t.open.flags[4:]}.format(v)
}

// MapFlags shows the flags of mmap(2).
func (t *Table) MapFlags(v uint64) string { return t.mmap.format(v) }

// ProtString shows the protection of mmap(2).
func (t *Table) ProtString(v uint64) string { return t.prot.format(v) }

// AtFlagsString shows the AT_* flags of newfstatat(2) and others.
func AtFlagsString(v uint64) string { return atFlags.format(v) }

// AtStatxString shows the flags of statx(2).
func AtStatxString(v uint64) string { return atStatx.format(v) }

// AtAccessString shows the flags of faccessat2(2).
func AtAccessString(v uint64) string { return atAccess.format(v) }

// AccessModes shows the mode of access(2).
func AccessModes(v uint64) string { return accessModes.format(v) }

// StatxMaskString shows the mask of statx(2).
func StatxMaskString(v uint64) string { return statxMask.format(v) }

// ResolveString shows the resolve field of openat2(2).
func ResolveString(v uint64) string { return resolve.format(v) }

// WhenceString shows the whence of lseek(2).
func WhenceString(v uint64) string {
	if v := uint32(v); int(v) < len(whences) {
		return whences[v]
	}
	return hex(uint64(uint32(v)))
}

// FcntlCmd shows the command of fcntl(2).
func FcntlCmd(v uint64) string {
	if s, ok := fcntlCmds[uint32(v)]; ok {
		return s
	}
	return hex(uint64(uint32(v)))
}

// The requests of ptrace(2) that read memory (linux/ptrace.h): the same on
// every architecture.
const (
	peekText = 1
	peekData = 2
)

// WordSize is how much one of them reads, in bytes, on a 64-bit machine.
const WordSize = 8

func ptraceCmd(v uint64) string {
	switch v {
	case peekText:
		return "PTRACE_PEEKTEXT"
	case peekData:
		return "PTRACE_PEEKDATA"
	}
	return hex(v)
}

func hex(v uint64) string { return "0x" + strconv.FormatUint(v, 16) }

// Format shows an argument that is a set of flags or a constant by its names.
// It is "" for any other kind: numbers and addresses go into fields of their
// own. Only as many bits count as the kernel looks at: mostly the lower 32.
func (t *Table) Format(kind Arg, v uint64) string {
	low := uint64(uint32(v))
	switch kind {
	case OpenFlags:
		return t.OpenFlags(low)
	case FileFlags:
		return t.FileFlags(low)
	case MapFlags:
		return t.MapFlags(v)
	case Prot:
		return t.ProtString(v)
	case AtFlags:
		return AtFlagsString(low)
	case AtAccess:
		return AtAccessString(low)
	case AtStatx:
		return AtStatxString(low)
	case AccessMode:
		return AccessModes(low)
	case StatxMask:
		return StatxMaskString(low)
	case Whence:
		return WhenceString(low)
	case Cmd:
		return FcntlCmd(low)
	case MemfdFlags:
		return memfd.format(low)
	case CloseFlags:
		return closeRange.format(low)
	case RWFlags:
		return rwFlags.format(low)
	case PtraceCmd:
		return ptraceCmd(v)
	}
	return ""
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
