package ebpf

import _ "embed"

// object is bpf/calls.bpf.c, compiled for this architecture by `make generate`.
//
//go:embed bpf/calls.arm64.o
var object []byte

// quietHere are the architecture's own requests of ptrace(2) that let nobody run.
var quietHere = []int{}
