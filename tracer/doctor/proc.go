package doctor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// task is what the kernel's permission checks look at, from
// proc_pid_status(5): more of the ids and capabilities than [procview.Status]
// has. Ids are real, effective, saved, file system.
type task struct {
	pid, tgid, ppid event.PID
	tracer          event.TID // TracerPid; 0 without
	comm            string
	state           byte // a letter; 0 if not known
	uid, gid        [4]int
	capPrm, capEff  uint64
	seccomp         int // 0 off, 1 strict, 2 filter
	noNewPrivs      bool
	nspid           []int // the pid in each pid namespace, from the outermost
	kthread         bool
	// owner is the user to whom the files in /proc/PID belong: the effective
	// one, but root where the process is not dumpable, proc(5). -1 if not known.
	owner int
}

// maxFile bounds the files that are read whole, bytes. The largest is
// mountinfo, on machines with many containers.
const maxFile = 4 << 20

func readFile(parts ...string) ([]byte, error) {
	// No file of /proc blocks, but a fixture could hold anything.
	f, err := os.OpenFile(filepath.Join(parts...), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// readTask reads the thread group leader of pid.
func readTask(v *procview.View, pid event.PID) (task, error) {
	return readStatus(filepath.Join(v.Mount, strconv.Itoa(int(pid))), pid)
}

// readThread reads one thread of pid.
func readThread(v *procview.View, pid event.PID, tid event.TID) (task, error) {
	return readStatus(filepath.Join(v.Mount, strconv.Itoa(int(pid)), "task", strconv.Itoa(int(tid))), event.PID(tid))
}

func readStatus(dir string, pid event.PID) (task, error) {
	b, err := readFile(dir, "status")
	if err != nil {
		return task{}, fmt.Errorf("status of process %d: %w", pid, err)
	}
	t := parseStatus(b)
	t.pid = pid
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(dir, "status"), &st); err == nil {
		t.owner = int(st.Uid)
	}
	return t, nil
}

// parseStatus reads proc_pid_status(5). What is missing or odd stays zero.
func parseStatus(b []byte) task {
	unknown := [4]int{-1, -1, -1, -1}
	t := task{owner: -1, uid: unknown, gid: unknown}
	hasMemory, kthreadKnown := false, false
	for line := range bytes.Lines(b) {
		key, val, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), ":")
		val = strings.TrimPrefix(val, "\t")
		num := func() int {
			n, err := strconv.Atoi(strings.TrimSpace(val))
			if err != nil || n < 0 {
				return 0
			}
			return n
		}
		switch key {
		case "Name":
			t.comm = unescape(val)
		case "State":
			if val != "" {
				t.state = val[0]
			}
		case "Tgid":
			t.tgid = event.PID(num())
		case "PPid":
			t.ppid = event.PID(num())
		case "TracerPid":
			t.tracer = event.TID(num())
		case "Uid":
			t.uid = ids(val)
		case "Gid":
			t.gid = ids(val)
		case "CapPrm":
			t.capPrm = hexSet(val)
		case "CapEff":
			t.capEff = hexSet(val)
		case "Seccomp":
			t.seccomp = num()
		case "NoNewPrivs":
			t.noNewPrivs = num() == 1
		case "NSpid":
			for f := range strings.FieldsSeq(val) {
				if n, err := strconv.Atoi(f); err == nil {
					t.nspid = append(t.nspid, n)
				}
			}
		case "Kthread": // since Linux 6.7
			t.kthread, kthreadKnown = num() == 1, true
		case "VmSize":
			hasMemory = true
		}
	}
	if !kthreadKnown {
		// A thread without memory that has not ended is the kernel's.
		t.kthread = !hasMemory && t.state != 'Z' && t.state != 'X' && t.state != 0
	}
	return t
}

// unescape undoes what the kernel does to the name in status: newline and
// backslash only.
func unescape(s string) string {
	return strings.NewReplacer(`\\`, `\`, `\n`, "\n").Replace(s)
}

// ids reads four ids; -1 for one that is missing.
func ids(val string) [4]int {
	out, fields := [4]int{-1, -1, -1, -1}, strings.Fields(val)
	for i := range min(len(out), len(fields)) {
		if n, err := strconv.Atoi(fields[i]); err == nil {
			out[i] = n
		}
	}
	return out
}

func hexSet(val string) uint64 {
	n, err := strconv.ParseUint(strings.TrimSpace(val), 16, 64)
	if err != nil {
		return 0
	}
	return n
}

// yamaScope is kernel.yama.ptrace_scope, -1 without Yama
// (Documentation/admin-guide/LSM/Yama.rst).
func yamaScope(v *procview.View) int {
	b, err := readFile(v.Mount, "sys/kernel/yama/ptrace_scope")
	if err != nil {
		return -1
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return -1
	}
	return n
}

// The inodes of the first namespaces, include/linux/proc_ns.h.
const (
	firstUserNS = 0xEFFFFFFD
	firstPIDNS  = 0xEFFFFFFC
)

// namespaceOf is the inode of a namespace of a process, 0 if it may not be read.
func namespaceOf(v *procview.View, pid event.PID, kind string) uint64 {
	text, err := os.Readlink(filepath.Join(v.Mount, strconv.Itoa(int(pid)), "ns", kind))
	if err != nil {
		return 0
	}
	text, ok := strings.CutPrefix(text, kind+":[")
	if !ok {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func userNamespace(v *procview.View, pid event.PID) uint64 { return namespaceOf(v, pid, "user") }

// fullIDMap says that all user ids of the process are those of the machine,
// user_namespaces(7): it is in the first user namespace, or one just like it.
func fullIDMap(v *procview.View, pid event.PID) bool {
	if ns := userNamespace(v, pid); ns != 0 {
		return ns == firstUserNS
	}
	b, err := readFile(v.Mount, strconv.Itoa(int(pid)), "uid_map")
	if err != nil {
		return true // a kernel without user namespaces
	}
	return strings.Join(strings.Fields(string(b)), " ") == "0 0 4294967295"
}

// containerMarks are files that container engines leave in the root directory.
var containerMarks = []struct{ file, engine string }{
	{".dockerenv", "docker"},
	{"run/.containerenv", "podman"},
	{"run/systemd/container", "systemd-nspawn or another known to systemd"},
}

// inContainer names the kind of container that we are in, by the marks that
// engines leave beside /proc and by the control group of process 1; "" if
// there is no sign of one.
func inContainer(v *procview.View) string {
	for _, m := range containerMarks {
		if _, err := os.Lstat(filepath.Join(filepath.Dir(v.Mount), m.file)); err == nil {
			return m.engine
		}
	}
	if b, err := readFile(v.Mount, "1/cgroup"); err == nil {
		for _, sign := range []string{"kubepods", "docker", "libpod", "containerd", "lxc"} {
			if bytes.Contains(b, []byte(sign)) {
				return sign
			}
		}
	}
	return ""
}

// securityLabel is the confinement of a process by AppArmor, SELinux or Smack,
// proc_pid_attr(5); "" if none confines it.
func securityLabel(v *procview.View, pid event.PID) string {
	b, err := readFile(v.Mount, strconv.Itoa(int(pid)), "attr/current")
	if err != nil {
		return ""
	}
	label := strings.TrimRight(string(b), "\x00\n ")
	if strings.Contains(label, "unconfined") || label == "kernel" {
		return ""
	}
	return label
}

// hidePID is the hidepid option of the proc mount, "" if there is none
// (Documentation/filesystems/proc.rst), from the last mount at that place in
// mountinfo, proc_pid_mountinfo(5).
func hidePID(mountinfo []byte, mount string) (option string, readable bool) {
	for line := range bytes.Lines(mountinfo) {
		before, after, ok := strings.Cut(string(line), " - ")
		f, super := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(super) < 1 || f[4] != mount || super[0] != "proc" {
			continue
		}
		option, readable = "", true
		for _, opts := range [...]string{f[5], super[len(super)-1]} {
			for o := range strings.SplitSeq(opts, ",") {
				if val, ok := strings.CutPrefix(o, "hidepid="); ok && val != "0" && val != "off" {
					option = val
				}
			}
		}
	}
	return option, readable
}

// notThere says that err is about a process that has gone.
func notThere(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
}
