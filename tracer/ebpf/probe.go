package ebpf

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// Unsupported says what keeps this machine, or this user, from watching without
// stops.
type Unsupported struct {
	Missing string // in words
	Since   string // the version of Linux that has it, "" where that does not help
	Err     error
}

func (u *Unsupported) Error() string {
	if u.Since != "" {
		return u.Missing + " (Linux " + u.Since + " has it)"
	}
	return u.Missing
}

func (u *Unsupported) Unwrap() error { return u.Err }

// machine is what is asked about the kernel and the user's rights.
type machine struct {
	pids string // a link to the PID namespace
	btf  string // the kernel's description of its own types
	// abilities are tried in this order.
	abilities []ability
}

// ability is one that the programs need, with the version of Linux that has it.
type ability struct {
	what, since string
	probe       func() error
}

var here = machine{pids: "/proc/self/ns/pid", btf: "/sys/kernel/btf/vmlinux", abilities: []ability{
	{"ring buffers for programs", "5.8", func() error { return features.HaveMapType(ebpf.RingBuf) }},
	{"storage with a task for programs", "5.11", func() error { return features.HaveMapType(ebpf.TaskStorage) }},
	// What tracing programs may call can only be told by loading one; a kprobe's may call the same.
	{"loops in programs (bpf_loop)", "5.17", func() error { return features.HaveProgramHelper(ebpf.Kprobe, asm.FnLoop) }},
}}

const (
	// firstPIDs is the inode of the machine's first PID namespace
	// (PROC_PID_INIT_INO, linux/proc_ns.h).
	firstPIDs = 0xeffffffc
	// enoughFiles that a process may open are enough for the programs, with their
	// maps and links, beside what it has open.
	enoughFiles = 64
)

// notAllowed is the word of a kernel that refuses, whatever it has.
func notAllowed(err error) error {
	return &Unsupported{Missing: "this user may not load programs into the kernel (root may, or CAP_BPF with CAP_PERFMON)", Err: err}
}

// Probe says why the programs cannot be loaded here, as an [*Unsupported], or
// nil: each ability is tried once.
func Probe() error { return here.probe() }

func (m *machine) probe() error {
	if err := m.ourPIDs(); err != nil {
		return err
	}
	if _, err := os.Stat(m.btf); err != nil {
		return &Unsupported{Missing: "the kernel does not describe its types (no " + m.btf + ": CONFIG_DEBUG_INFO_BTF)", Err: err}
	}
	for _, need := range m.abilities {
		switch err := need.probe(); {
		case err == nil:
		case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
			return notAllowed(err)
		case errors.Is(err, ebpf.ErrNotSupported):
			return &Unsupported{Missing: "the kernel has no " + need.what, Since: need.since, Err: err}
		default:
			return &Unsupported{Missing: fmt.Sprintf("whether the kernel has %s could not be found out: %v", need.what, err), Err: err}
		}
	}
	return nil
}

// ourPIDs makes sure that the numbers of processes mean the same to the programs
// as to us.
func (m *machine) ourPIDs() error {
	var st unix.Stat_t
	if err := unix.Stat(m.pids, &st); err != nil {
		return &Unsupported{Missing: fmt.Sprintf("which PID namespace this is could not be found out: %v", err), Err: err}
	}
	if st.Ino != firstPIDs {
		return &Unsupported{Missing: "process numbers here are not those of the kernel: this is a PID namespace of its own, such as a container's"}
	}
	return nil
}

// explain makes an [*Unsupported] of an error of load.
func explain(err error) error {
	// The library's own probes take EMFILE for something that the kernel lacks.
	var files unix.Rlimit
	few := unix.Getrlimit(unix.RLIMIT_NOFILE, &files) == nil && files.Cur < enoughFiles
	if errors.Is(err, unix.EMFILE) || few && !errors.Is(err, unix.EPERM) {
		return &Unsupported{Missing: "this process may not open as many files as the programs need (ulimit -Hn)", Err: err}
	}
	if missing := Probe(); missing != nil {
		return missing
	}
	var refused *ebpf.VerifierError
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES) && !errors.As(err, &refused):
		return notAllowed(err)
	case errors.As(err, &refused):
		return &Unsupported{Missing: fmt.Sprintf("the kernel refuses the programs: %v", err), Err: err}
	}
	return &Unsupported{Missing: err.Error(), Err: err}
}
