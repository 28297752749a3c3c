package ebpf

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// What each older kernel, or a user without the right, lacks is said.
func TestProbe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "none")
	ok := func() error { return nil }
	answers := func(errs ...error) []ability {
		all := []ability{{"ring buffers for programs", "5.8", ok}, {"storage with a task for programs", "5.11", ok}, {"loops in programs (bpf_loop)", "5.17", ok}}
		for i, err := range errs {
			all[i].probe = func() error { return err }
		}
		return all
	}
	same := "/proc/self/ns/pid"
	var st unix.Stat_t
	if err := unix.Stat(same, &st); err != nil {
		t.Fatal(err)
	}
	if st.Ino != firstPIDs {
		same = ""
	}
	for _, c := range []struct {
		name string
		m    machine
		says string // "" for nothing
	}{
		{"all there", machine{pids: same, btf: "/", abilities: answers()}, ""},
		{"no types", machine{pids: same, btf: file, abilities: answers()}, "CONFIG_DEBUG_INFO_BTF"},
		{"5.4", machine{pids: same, btf: "/", abilities: answers(ebpf.ErrNotSupported, ebpf.ErrNotSupported, ebpf.ErrNotSupported)}, "no ring buffers for programs (Linux 5.8 has it)"},
		{"5.10", machine{pids: same, btf: "/", abilities: answers(nil, ebpf.ErrNotSupported, ebpf.ErrNotSupported)}, "no storage with a task for programs (Linux 5.11 has it)"},
		{"5.15", machine{pids: same, btf: "/", abilities: answers(nil, nil, ebpf.ErrNotSupported)}, "no loops in programs (bpf_loop) (Linux 5.17 has it)"},
		{"not allowed", machine{pids: same, btf: "/", abilities: answers(unix.EPERM)}, "CAP_BPF with CAP_PERFMON"},
		{"kept back", machine{pids: same, btf: "/", abilities: answers(nil, unix.EACCES)}, "CAP_BPF with CAP_PERFMON"},
		{"another error", machine{pids: same, btf: "/", abilities: answers(errors.New("broken"))}, "could not be found out: broken"},
		{"a container", machine{pids: "/proc/self/ns/mnt", btf: "/", abilities: answers()}, "a PID namespace of its own"},
		{"no /proc", machine{pids: file, btf: "/", abilities: answers()}, "could not be found out"},
	} {
		if c.m.pids == "" {
			continue // here it is always a container
		}
		err := c.m.probe()
		var u *Unsupported
		if c.says == "" && err == nil || errors.As(err, &u) && c.says != "" && strings.Contains(err.Error(), c.says) {
			continue
		}
		t.Errorf("%s: %v", c.name, err)
	}
}
