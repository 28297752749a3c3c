package decode

// The arguments are from the kernel's prototypes, include/linux/syscalls.h;
// what the calls do, from section 2 of the manual. A call that an architecture
// does not have (open, stat, dup2, … on arm64) has no number in its table.
var rows = []Call{
	{Name: "open", Args: []Arg{Path, OpenFlags, Mode}, Ret: RetNewFD, Class: ClassOpen, Change: Makes, Shown: true},
	{Name: "openat", Args: []Arg{DirFD, Path, OpenFlags, Mode}, Ret: RetNewFD, Class: ClassOpen, Change: Makes, Shown: true},
	{Name: "openat2", Args: []Arg{DirFD, Path, OpenHow, Size}, Ret: RetNewFD, Class: ClassOpen, Change: Makes, Shown: true},
	{Name: "creat", Args: []Arg{Path, Mode}, Ret: RetNewFD, Class: ClassOpen, Change: Makes, Shown: true},
	{Name: "open_by_handle_at", Args: []Arg{DirFD, Addr, OpenFlags}, Ret: RetNewFD, Class: ClassOpen, Change: Makes},
	{Name: "open_tree", Args: []Arg{DirFD, Path, Int}, Ret: RetNewFD, Class: ClassOpen, Change: Makes},
	{Name: "open_tree_attr", Args: []Arg{DirFD, Path, Int, Addr, Size}, Ret: RetNewFD, Class: ClassOpen, Change: Makes},
	{Name: "fspick", Args: []Arg{DirFD, Path, Int}, Ret: RetNewFD, Class: ClassOpen, Change: Makes},
	{Name: "mq_open", Args: []Arg{Addr, OpenFlags, Mode, Addr}, Ret: RetNewFD, Class: ClassMake, Change: Makes},

	{Name: "read", Args: []Arg{FD, Buf, Count}, Ret: RetBytes, Class: ClassRead, Shown: true},
	{Name: "pread64", Args: []Arg{FD, Buf, Count, Offset}, Ret: RetBytes, Class: ClassRead, Shown: true},
	{Name: "readv", Args: []Arg{FD, Iovec, IovCnt}, Ret: RetBytes, Class: ClassRead, Shown: true},
	{Name: "preadv", Args: []Arg{FD, Iovec, IovCnt, Offset, OffsetHigh}, Ret: RetBytes, Class: ClassRead, Shown: true},
	{Name: "preadv2", Args: []Arg{FD, Iovec, IovCnt, Offset, OffsetHigh, RWFlags}, Ret: RetBytes, Class: ClassRead, Shown: true},
	{Name: "getdents", Args: []Arg{FD, Buf, Count}, Ret: RetBytes, Class: ClassRead},
	{Name: "getdents64", Args: []Arg{FD, Buf, Count}, Ret: RetBytes, Class: ClassRead},

	{Name: "write", Args: []Arg{FD, InBuf, Count}, Ret: RetBytes, Class: ClassWrite},
	{Name: "pwrite64", Args: []Arg{FD, InBuf, Count, Offset}, Ret: RetBytes, Class: ClassWrite},
	{Name: "writev", Args: []Arg{FD, Iovec, IovCnt}, Ret: RetBytes, Class: ClassWrite},
	{Name: "pwritev", Args: []Arg{FD, Iovec, IovCnt, Offset, OffsetHigh}, Ret: RetBytes, Class: ClassWrite},
	{Name: "pwritev2", Args: []Arg{FD, Iovec, IovCnt, Offset, OffsetHigh, RWFlags}, Ret: RetBytes, Class: ClassWrite},

	{Name: "close", Args: []Arg{FD}, Class: ClassClose, Change: Drops, Shown: true},
	{Name: "close_range", Args: []Arg{FirstFD, LastFD, CloseFlags}, Class: ClassClose, Change: DropsRange, Shown: true},

	{Name: "dup", Args: []Arg{FD}, Ret: RetNewFD, Class: ClassDup, Change: Copies, Shown: true},
	{Name: "dup2", Args: []Arg{FD, NewFD}, Ret: RetNewFD, Class: ClassDup, Change: Replaces, Shown: true},
	{Name: "dup3", Args: []Arg{FD, NewFD, FileFlags}, Ret: RetNewFD, Class: ClassDup, Change: Replaces, Shown: true},
	{Name: "fcntl", Args: []Arg{FD, Cmd, CmdArg}, Ret: RetInt, Class: ClassDup, Change: ByCommand, Shown: true},

	{Name: "stat", Args: []Arg{Path, StatBuf}, Class: ClassStat, Shown: true},
	{Name: "lstat", Args: []Arg{Path, StatBuf}, Class: ClassStat, Shown: true},
	{Name: "fstat", Args: []Arg{FD, StatBuf}, Class: ClassStat, Shown: true},
	{Name: "newfstatat", Args: []Arg{DirFD, Path, StatBuf, AtFlags}, Class: ClassStat, Shown: true},
	{Name: "statx", Args: []Arg{DirFD, Path, AtStatx, StatxMask, StatxBuf}, Class: ClassStat, Shown: true},
	{Name: "statfs", Args: []Arg{Path, Addr}, Class: ClassStat},
	{Name: "fstatfs", Args: []Arg{FD, Addr}, Class: ClassStat},

	{Name: "access", Args: []Arg{Path, AccessMode}, Class: ClassAccess, Shown: true},
	{Name: "faccessat", Args: []Arg{DirFD, Path, AccessMode}, Class: ClassAccess, Shown: true},
	{Name: "faccessat2", Args: []Arg{DirFD, Path, AccessMode, AtAccess}, Class: ClassAccess, Shown: true},

	{Name: "readlink", Args: []Arg{Path, Buf, BufSize}, Ret: RetBytes, Class: ClassLink, Shown: true},
	{Name: "readlinkat", Args: []Arg{DirFD, Path, Buf, BufSize}, Ret: RetBytes, Class: ClassLink, Shown: true},

	{Name: "lseek", Args: []Arg{FD, Offset, Whence}, Ret: RetOffset, Class: ClassSeek, Shown: true},
	{Name: "mmap", Args: []Arg{Addr, Count, Prot, MapFlags, MapFD, Offset}, Ret: RetAddr, Class: ClassMap, Shown: true},

	{Name: "execve", Args: []Arg{Path, Argv, Envp}, Class: ClassExec, Change: DropsOnExec, Shown: true},
	{Name: "execveat", Args: []Arg{DirFD, Path, Argv, Envp, AtFlags}, Class: ClassExec, Change: DropsOnExec, Shown: true},

	{Name: "chdir", Args: []Arg{Path}, Class: ClassChdir},
	{Name: "fchdir", Args: []Arg{FD}, Class: ClassChdir},
	{Name: "chroot", Args: []Arg{Path}, Class: ClassChdir},
	{Name: "pivot_root", Args: []Arg{Path, Addr}, Class: ClassChdir},
	{Name: "setns", Args: []Arg{FD, Int}, Class: ClassChdir},
	{Name: "unshare", Args: []Arg{Int}, Class: ClassChdir},

	{Name: "process_vm_readv", Args: []Arg{PID, Iovec, IovCnt, RemoteIovec, RemoteIovCnt, Int}, Ret: RetBytes, Class: ClassMemory, Shown: true},
	// The kernel's own call writes the word to memory and returns 0, unlike the C library's.
	{Name: "ptrace", Args: []Arg{PtraceCmd, PID, RemoteAddr, Word}, Ret: RetInt, Class: ClassMemory, Shown: true},

	{Name: "pipe", Args: []Arg{FDPair}, Class: ClassMake, Change: MakesPair},
	{Name: "pipe2", Args: []Arg{FDPair, FileFlags}, Class: ClassMake, Change: MakesPair},
	{Name: "socketpair", Args: []Arg{Int, Int, Int, FDPair}, Class: ClassMake, Change: MakesPair},
	{Name: "memfd_create", Args: []Arg{MemfdName, MemfdFlags}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "memfd_secret", Args: []Arg{Int}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "socket", Args: []Arg{Int, Int, Int}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "accept", Args: []Arg{FD, Addr, Addr}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "accept4", Args: []Arg{FD, Addr, Addr, Int}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "eventfd", Args: []Arg{Int}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "eventfd2", Args: []Arg{Int, FileFlags}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "epoll_create", Args: []Arg{Int}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "epoll_create1", Args: []Arg{FileFlags}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	// With a descriptor, signalfd changes it and returns it; -1 asks for a new one.
	{Name: "signalfd", Args: []Arg{Int, Addr, Size}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "signalfd4", Args: []Arg{Int, Addr, Size, FileFlags}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "timerfd_create", Args: []Arg{Int, FileFlags}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "inotify_init", Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "inotify_init1", Args: []Arg{FileFlags}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "fanotify_init", Args: []Arg{Int, OpenFlags}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "pidfd_open", Args: []Arg{PID, FileFlags}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "pidfd_getfd", Args: []Arg{FD, Int, Int}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "userfaultfd", Args: []Arg{FileFlags}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "perf_event_open", Args: []Arg{Addr, PID, Int, Int, Int}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "io_uring_setup", Args: []Arg{Int, Addr}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "fsopen", Args: []Arg{Addr, Int}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "fsmount", Args: []Arg{FD, Int, Int}, Ret: RetNewFD, Class: ClassMake, Change: Makes},
	{Name: "landlock_create_ruleset", Args: []Arg{Addr, Size, Int}, Ret: RetInt, Class: ClassMake, Change: MayMake},
	{Name: "bpf", Args: []Arg{Int, Addr, Size}, Ret: RetInt, Class: ClassMake, Change: MayMake},
	{Name: "seccomp", Args: []Arg{Int, Int, Addr}, Ret: RetInt, Class: ClassMake, Change: MayMake},
	// SCM_RIGHTS messages bring descriptors, unix(7).
	{Name: "recvmsg", Args: []Arg{FD, Addr, Int}, Ret: RetBytes, Class: ClassMake, Change: MayMake},
	{Name: "recvmmsg", Args: []Arg{FD, Addr, Int, Int, Addr}, Ret: RetInt, Class: ClassMake, Change: MayMake},
}
