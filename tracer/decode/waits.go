package decode

import (
	"strings"
	"sync"

	"whosefd/tracer/event"
)

// WaitArg is what an argument of a call says of what the call waits for.
type WaitArg uint8

// The kinds of arguments. Times are the longest that the call takes; -1, or no
// address, is for ever.
const (
	WaitNone       WaitArg = iota
	WaitRead               // descriptor: data
	WaitWrite              // descriptor: room for data
	WaitAccept             // listening socket: a connection
	WaitConnect            // socket: the other side's answer
	WaitSockaddr           // address of where to connect
	WaitSockLen            // its length, bytes
	WaitFlock              // descriptor: its lock, flock(2)
	WaitFcntl              // descriptor: its lock, fcntl(2), if the next one says so
	WaitFcntlCmd           // F_*
	WaitFile               // descriptor: the file system answers
	WaitDirFD              // descriptor: where the next name starts
	WaitPath               // address of a name: the file system answers
	WaitOpen               // the same, of a file to open
	WaitOpenFlags          // O_*: which end of a FIFO
	WaitPollSet            // array of struct pollfd
	WaitLen                // entries of the set before it
	WaitSelectLen          // descriptors in each of the sets that follow
	WaitReadSet            // fd_set
	WaitWriteSet           // fd_set
	WaitExceptSet          // fd_set
	WaitEpoll              // epoll descriptor
	WaitMS                 // int: milliseconds
	WaitTimespec           // address of a struct timespec, a duration
	WaitTimeval            // address of a struct timeval, a duration
	WaitClockFlags         // TIMER_ABSTIME says that the next one is a point of time
	WaitChildPID           // a child, as wait4(2) counts
	WaitIDType             // P_*: what the next one is, waitid(2)
	WaitID                 // a child, group or pidfd
	WaitVfork              // nothing: the child that was just made
	WaitFutex              // address of a futex
	WaitFutexOp            // FUTEX_*
	WaitFutexVal           // the value that it was seen to have
	WaitFutexTime          // address of a struct timespec; a duration for FUTEX_WAIT only
	WaitMsgQueue           // id of a System V queue
	WaitSemSet             // id of a System V semaphore set
	WaitSignal             // address of a set of signals
	WaitAnySignal          // nothing
	WaitSleep              // nothing: the time-out is what it waits for
	WaitRing               // io_uring descriptor
)

// Waits gives what each argument of a call says of what it waits for; none for a
// call that is not known to wait.
func Waits(call string) []WaitArg { return waits()[Native(call)] }

// Native gives the name that a call of a 32-bit program has in one of 64 bits, where its
// arguments mean the same; only times differ, see [NarrowTimes].
func Native(call string) string {
	if call == "_newselect" {
		return "select"
	}
	return strings.TrimSuffix(call, "_time64")
}

// NarrowTimes says whether the struct timespec or timeval of a 32-bit program's call has
// members of 32 bits.
func NarrowTimes(call string) bool { return !strings.HasSuffix(call, "_time64") }

// SocketCall gives the call that socketcall(2) stands for, by its number (SYS_*,
// linux/net.h); its arguments are in memory.
func SocketCall(n uint64) string {
	return map[uint64]string{3: "connect", 5: "accept", 9: "sendto", 10: "recvfrom", 11: "sendto", 12: "recvfrom", 16: "sendmsg", 17: "recvmsg",
		18: "accept4", 19: "recvmmsg", 20: "sendmmsg"}[n]
}

// IPCCall gives the call that ipc(2) stands for, by its number (linux/ipc.h), and which
// argument of it is which of that call.
func IPCCall(n uint64) (call string, args []int) {
	switch n & 0xffff {
	case 1:
		return "semop", []int{1, 4, 2}
	case 4:
		return "semtimedop", []int{1, 4, 2, 5}
	case 11:
		return "msgsnd", []int{1, 4, 2, 3}
	case 12:
		return "msgrcv", []int{1, 4, 2}
	}
	return "", nil
}

var waits = sync.OnceValue(func() map[string][]WaitArg {
	byName := map[string][]WaitArg{}
	for _, row := range waitRows {
		for call := range strings.FieldsSeq(row.calls) {
			byName[call] = row.args
		}
	}
	return byName
})

// waitRows are calls that wait for the same, and their arguments, from the manual
// pages, section 2.
var waitRows = []struct {
	calls string
	args  []WaitArg
}{
	{"poll", []WaitArg{WaitPollSet, WaitLen, WaitMS}},
	{"ppoll", []WaitArg{WaitPollSet, WaitLen, WaitTimespec}},
	{"select", []WaitArg{WaitSelectLen, WaitReadSet, WaitWriteSet, WaitExceptSet, WaitTimeval}},
	{"pselect6", []WaitArg{WaitSelectLen, WaitReadSet, WaitWriteSet, WaitExceptSet, WaitTimespec}},
	{"epoll_wait epoll_pwait", []WaitArg{WaitEpoll, WaitNone, WaitNone, WaitMS}},
	{"epoll_pwait2", []WaitArg{WaitEpoll, WaitNone, WaitNone, WaitTimespec}},

	{"read pread64 readv preadv preadv2 recv recvfrom recvmsg", []WaitArg{WaitRead}},
	{"recvmmsg", []WaitArg{WaitRead, WaitNone, WaitNone, WaitNone, WaitTimespec}},
	{"write pwrite64 writev pwritev pwritev2 send sendto sendmsg sendmmsg vmsplice", []WaitArg{WaitWrite}},
	{"sendfile sendfile64", []WaitArg{WaitWrite, WaitRead}},
	{"splice", []WaitArg{WaitRead, WaitNone, WaitWrite}},
	{"tee", []WaitArg{WaitRead, WaitWrite}},
	{"copy_file_range", []WaitArg{WaitFile, WaitNone, WaitFile}},
	{"accept accept4", []WaitArg{WaitAccept}},
	{"connect", []WaitArg{WaitConnect, WaitSockaddr, WaitSockLen}},
	{"mq_timedreceive", []WaitArg{WaitRead, WaitNone, WaitNone, WaitNone, WaitFutexTime}},
	{"mq_timedsend", []WaitArg{WaitWrite, WaitNone, WaitNone, WaitNone, WaitFutexTime}},
	{"io_uring_enter", []WaitArg{WaitRing}},

	{"flock", []WaitArg{WaitFlock}},
	{"fcntl fcntl64", []WaitArg{WaitFcntl, WaitFcntlCmd}},
	{"fsync fdatasync sync_file_range syncfs close ftruncate ftruncate64 fallocate getdents getdents64 fstat fstat64 fstatfs fstatfs64 lseek _llseek ioctl", []WaitArg{WaitFile}},

	{"open", []WaitArg{WaitOpen, WaitOpenFlags}},
	{"openat", []WaitArg{WaitDirFD, WaitOpen, WaitOpenFlags}},
	{"openat2", []WaitArg{WaitDirFD, WaitOpen}},
	{"creat", []WaitArg{WaitOpen}},
	{"execve stat stat64 lstat lstat64 statfs statfs64 access readlink chdir chmod chown truncate truncate64 mkdir rmdir unlink rename umount2 getxattr lgetxattr",
		[]WaitArg{WaitPath}},
	{"execveat newfstatat fstatat64 statx faccessat faccessat2 readlinkat mkdirat unlinkat fchmodat fchownat utimensat renameat renameat2",
		[]WaitArg{WaitDirFD, WaitPath}},

	{"wait4 waitpid", []WaitArg{WaitChildPID}},
	{"waitid", []WaitArg{WaitIDType, WaitID}},
	{"vfork clone clone3", []WaitArg{WaitVfork}},

	{"futex", []WaitArg{WaitFutex, WaitFutexOp, WaitFutexVal, WaitFutexTime}},
	{"futex_wait", []WaitArg{WaitFutex, WaitFutexVal, WaitNone, WaitNone, WaitFutexTime}},

	{"nanosleep", []WaitArg{WaitTimespec, WaitSleep}},
	{"clock_nanosleep", []WaitArg{WaitSleep, WaitClockFlags, WaitTimespec}},
	// The rest of a time-out, where [Restarted] does not know better.
	{"restart_syscall", []WaitArg{WaitSleep}},

	{"msgrcv msgsnd", []WaitArg{WaitMsgQueue}},
	{"semop", []WaitArg{WaitSemSet}},
	{"semtimedop", []WaitArg{WaitSemSet, WaitNone, WaitNone, WaitTimespec}},

	{"rt_sigtimedwait", []WaitArg{WaitSignal, WaitNone, WaitTimespec}},
	{"rt_sigsuspend sigsuspend pause", []WaitArg{WaitAnySignal}},
}

// Kept says what keeps a thread that sleeps in this function of the kernel
// (proc_pid_wchan(5)), whatever call it is in; "" for nothing of the kind. (A compiler
// adds an ending to some.)
func Kept(wchan string) event.AwaitOp {
	for _, known := range []struct {
		prefix string
		op     event.AwaitOp
	}{
		{"do_freezer_trap", event.AwaitThaw}, // cgroup v2: kernel/cgroup/freezer.c, kernel/signal.c
		{"__refrigerator", event.AwaitThaw},  // cgroup v1, and a machine that goes to sleep: kernel/freezer.c
		{"seccomp_do_user_notification", event.AwaitPermit},
	} {
		if strings.HasPrefix(wchan, known.prefix) {
			return known.op
		}
	}
	return ""
}

// Restarted gives the call that a thread in restart_syscall(2) is in: after an
// interruption the kernel goes on with it under that name, with the arguments
// as they were. What it sleeps in (proc_pid_wchan(5)) tells; "" if it does not.
func Restarted(wchan string) string {
	for _, known := range []struct{ prefix, call string }{
		{"poll_schedule", "poll"}, {"do_poll", "poll"}, {"do_sys_poll", "poll"}, {"futex", "futex"},
	} {
		if strings.HasPrefix(wchan, known.prefix) {
			return known.call
		}
	}
	return ""
}
