package ebpf

import (
	_ "embed"

	"golang.org/x/sys/unix"
)

// object is bpf/calls.bpf.c, compiled for this architecture by `make generate`.
//
//go:embed bpf/calls.amd64.o
var object []byte

// quietHere are the architecture's own requests of ptrace(2) that let nobody run.
var quietHere = []int{unix.PTRACE_GETREGS, unix.PTRACE_SETREGS, unix.PTRACE_GETFPREGS, unix.PTRACE_SETFPREGS, unix.PTRACE_GETFPXREGS, unix.PTRACE_SETFPXREGS}
