package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// task is a process as the kernel's permission checks look at it.
type task struct {
	procview.Status
	pid   event.PID
	owner int // of its files below /proc; -1 if not known
}

// readTask reads the thread group leader of pid.
func readTask(v *procview.View, pid event.PID) (task, error) {
	st, err := v.Status(pid, event.TID(pid))
	return task{st, pid, v.Owner(pid)}, err
}

// yamaScope is kernel.yama.ptrace_scope, -1 without Yama
// (Documentation/admin-guide/LSM/Yama.rst).
func yamaScope(v *procview.View) int {
	text, err := v.Text("sys/kernel/yama/ptrace_scope")
	if err != nil {
		return -1
	}
	n, err := strconv.Atoi(text)
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

// fullIDMap says that all user ids of the process are those of the machine,
// user_namespaces(7): it is in the first user namespace, or one just like it.
func fullIDMap(v *procview.View, pid event.PID) bool {
	if ns := v.Namespace(pid, "user"); ns != 0 {
		return ns == firstUserNS
	}
	text, err := v.Text(strconv.Itoa(int(pid)) + "/uid_map")
	if err != nil {
		return true // a kernel without user namespaces
	}
	return strings.Join(strings.Fields(text), " ") == "0 0 4294967295"
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
	if text, err := v.Text("1/cgroup"); err == nil {
		for _, sign := range []string{"kubepods", "docker", "libpod", "containerd", "lxc"} {
			if strings.Contains(text, sign) {
				return sign
			}
		}
	}
	return ""
}

// securityLabel is the confinement of a process by AppArmor, SELinux or Smack,
// proc_pid_attr(5); "" if none confines it.
func securityLabel(v *procview.View, pid event.PID) string {
	label, err := v.Text(strconv.Itoa(int(pid)) + "/attr/current")
	if err != nil {
		return ""
	}
	label = strings.TrimRight(label, "\x00\n ")
	if strings.Contains(label, "unconfined") || label == "kernel" {
		return ""
	}
	return label
}

// hidePID is the hidepid option of the proc mount, "" if there is none
// (Documentation/filesystems/proc.rst), from the last mount at that place in
// mountinfo, proc_pid_mountinfo(5).
func hidePID(mountinfo, mount string) (option string, readable bool) {
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
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
