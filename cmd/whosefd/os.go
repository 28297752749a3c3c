package main

import (
	"os"
	"syscall"
	"time"
	"unsafe"
)

// openNoFollow refuses a symbolic link, and does not wait for the reader of a FIFO.
const openNoFollow = syscall.O_NOFOLLOW | syscall.O_NONBLOCK | syscall.O_CLOEXEC

// dieBy ends this process by a signal, without a core file of ours, so that a
// shell sees how the launched program ended. The Go runtime has handlers for
// all signals and gives none of them back, so the kernel is asked itself.
func dieBy(sig syscall.Signal) {
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	var byDefault struct { // struct sigaction of the kernel: SIG_DFL, no flags
		handler, flags, restorer uintptr
		mask                     uint64
	}
	// A signal whose action cannot be set, SIGKILL, has that action already.
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
	if syscall.Kill(os.Getpid(), sig) == nil {
		time.Sleep(100 * time.Millisecond)
	}
}
