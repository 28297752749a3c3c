// Package doctor says whether the user can trace here, what stands in the way,
// and what to do about it; and why one attach failed, or should not be tried.
package doctor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/ebpf"
	"whosefd/tracer/event"
	"whosefd/tracer/memory"
	"whosefd/tracer/procview"
	"whosefd/tracer/ptrace"
)

// Check is the result of one look.
type Check struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Needed says that nothing can be traced, or only some of this user's
	// programs, while it is not OK. The others cost a part of the evidence.
	Needed bool   `json:"needed,omitempty"`
	Detail string `json:"detail"`           // one line
	Remedy string `json:"remedy,omitempty"` // one line; only where it is not OK
}

// Run makes all checks, always in the same order. It starts one small program
// and traces it for a moment. Getenv reads the environment, as [os.Getenv].
func Run(v *procview.View, getenv func(string) string) []Check {
	d := &doctor{v: v, self: event.PID(os.Getpid()), getenv: getenv, container: inContainer(v), yama: yamaScope(v)}
	me, err := readTask(v, d.self)
	if err != nil {
		return []Check{{Name: "proc", Needed: true, Detail: fmt.Sprintf("cannot read /proc: %v", err),
			Remedy: "mount proc at " + v.Mount}}
	}
	d.me = me
	d.fullMap = fullIDMap(v, d.self)
	checks := []Check{d.kernel()}
	checks = append(checks, d.probe()...)
	return append(checks,
		d.yamaCheck(),
		d.capability(),
		d.mapFiles(),
		d.programsInKernel(),
		d.seccomp(),
		d.containerCheck(),
		d.userNamespace(),
		d.hidden(),
		d.securityModule(),
		d.programs(),
		d.debuginfod(),
	)
}

type doctor struct {
	v         *procview.View
	self      event.PID
	me        task
	getenv    func(string) string
	container string
	fullMap   bool
	yama      int
}

func (d *doctor) hasCap(n int) bool { return d.me.CapEff&(1<<n) != 0 }

// release reads the version that a kernel release such as "6.1.0-18-amd64"
// starts with.
func release(s string) (major, minor int, ok bool) {
	maj, rest, ok := strings.Cut(s, ".")
	if !ok {
		return 0, 0, false
	}
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(rest)
	}
	major, err1 := strconv.Atoi(maj)
	minor, err2 := strconv.Atoi(rest[:end])
	return major, minor, err1 == nil && err2 == nil
}

func (d *doctor) kernel() Check {
	c := Check{Name: "kernel", Needed: true}
	text, err := d.v.Text("sys/kernel/osrelease")
	major, minor, ok := release(text)
	if err != nil || !ok {
		c.OK, c.Detail = true, "the kernel's version can't be read; the trial below tells"
		return c
	}
	return kernelCheck(c, text, major*1000+minor)
}

func kernelCheck(c Check, text string, version int) Check {
	switch {
	case version < 5003:
		c.Detail = fmt.Sprintf("Linux %s has no PTRACE_GET_SYSCALL_INFO (5.3)", clean(text))
		c.Remedy = "use Linux 5.3 or newer"
	case version < 6016:
		c.OK, c.Detail = true, fmt.Sprintf("Linux %s: PTRACE_SEIZE, PTRACE_GET_SYSCALL_INFO; registers are written in place of PTRACE_SET_SYSCALL_INFO (6.16)", clean(text))
	default:
		c.OK, c.Detail = true, fmt.Sprintf("Linux %s: PTRACE_SEIZE, PTRACE_GET_SYSCALL_INFO, PTRACE_SET_SYSCALL_INFO", clean(text))
	}
	return c
}

// probe traces a child of ours as the tracer would a debugger.
func (d *doctor) probe() []Check {
	trace := Check{Name: "ptrace", Needed: true}
	mem := Check{Name: "memory", Needed: true}
	kcmp := Check{Name: "kcmp"}

	child := exec.Command("cat") // which waits for its input
	in, err := child.StdinPipe()
	if err == nil {
		defer in.Close()
		err = child.Start()
	}
	if err != nil {
		for _, c := range []*Check{&trace, &mem, &kcmp} {
			c.Detail, c.Remedy = "not tried: "+err.Error(), "install coreutils, so that there is a program to try it on"
		}
		return []Check{trace, mem, kcmp}
	}
	defer func() {
		_ = child.Process.Kill() // it may have ended with its input
		_ = child.Wait()         // "signal: killed" is what we want
	}()

	pid := event.PID(child.Process.Pid)
	tid := event.TID(pid)
	var info ptrace.SyscallInfo
	var infoErr, memErr error
	err = ptrace.OnTracerThread(func() error {
		_, err := ptrace.Peek(ptrace.Linux{}, tid, 5*time.Second, func() error {
			if infoErr = (ptrace.Linux{}).SyscallInfo(tid, &info); infoErr == nil {
				_, memErr = memory.Word(memory.Thread(tid), info.SP)
			}
			return nil
		})
		return err
	})
	switch {
	case err != nil:
		why := explainAttach(d.v, d.self, pid, err)
		trace.Detail, trace.Remedy = fmt.Sprintf("a child of whosefd could not be traced: %v", why.Cause), why.Remedy
		if why.Reason != "" {
			trace.Detail += ": " + why.Reason
		}
	case infoErr != nil:
		trace.Detail = fmt.Sprintf("PTRACE_GET_SYSCALL_INFO: %v", infoErr)
		trace.Remedy = "use Linux 5.3 or newer, and no sandbox that plays its own kernel"
	default:
		trace.OK, trace.Detail = true, "a child of whosefd was seized, stopped, looked at and let go"
	}
	switch {
	case err != nil || infoErr != nil:
		mem.Detail, mem.Remedy = "not tried, since tracing does not work", trace.Remedy
	case memErr != nil:
		mem.Detail = fmt.Sprintf("process_vm_readv: %v", memErr)
		mem.Remedy = containerRemedy
	default:
		mem.OK, mem.Detail = true, "process_vm_readv reads a child's memory"
	}
	// KCMP_FILE, linux/kcmp.h: is descriptor 0 of both the same open file?
	_, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(d.self), uintptr(pid), 0, 0, 0, 0)
	switch errno {
	case 0, unix.EBADF:
		kcmp.OK, kcmp.Detail = true, "kcmp tells a duplicated descriptor from one that was opened again"
	case unix.ENOSYS:
		kcmp.Detail = "this kernel has no kcmp (CONFIG_KCMP): duplicates can't be told from files that were opened again"
		kcmp.Remedy = "none is needed: findings rest on device and inode"
	default:
		kcmp.Detail, kcmp.Remedy = fmt.Sprintf("kcmp: %v", errno), containerRemedy
	}
	return []Check{trace, mem, kcmp}
}

func (d *doctor) yamaCheck() Check {
	return yamaCheck(d.yama, d.hasCap(unix.CAP_SYS_PTRACE), d.elevate())
}

func yamaCheck(scope int, privileged bool, elevate string) Check {
	c := Check{Name: "yama", Needed: true, OK: true}
	switch {
	case scope < 0:
		c.Detail = "Yama is not enabled: no limit beyond user and capabilities"
	case scope == 0:
		c.Detail = "kernel.yama.ptrace_scope = 0: a user's own programs may be traced"
	case scope >= 3:
		c.OK = false
		c.Detail = fmt.Sprintf("kernel.yama.ptrace_scope = %d: nobody may trace", scope)
		c.Remedy = "only a restart of the machine takes that back"
	case privileged:
		c.Detail = fmt.Sprintf("kernel.yama.ptrace_scope = %d does not limit whosefd, which has CAP_SYS_PTRACE", scope)
	case scope == 1:
		c.OK = false
		c.Detail = "kernel.yama.ptrace_scope = 1: only programs that whosefd launches may be traced (guard -- …, trace -- …), no running debugger"
		c.Remedy = "sudo sysctl kernel.yama.ptrace_scope=0, or " + elevate
	default:
		c.OK = false
		c.Detail = "kernel.yama.ptrace_scope = 2: only with CAP_SYS_PTRACE"
		c.Remedy = elevate
	}
	return c
}

func (d *doctor) elevate() string {
	w := world{me: d.me, container: d.container}
	return w.elevate()
}

// setcap is the command that gives whosefd a capability for good.
func setcap(caps string) string {
	exe, err := os.Executable()
	if err != nil {
		exe = "whosefd"
	}
	return fmt.Sprintf("setcap %s=ep %s", caps, clean(exe))
}

func (d *doctor) capability() Check {
	c := Check{Name: "cap_sys_ptrace"}
	if d.hasCap(unix.CAP_SYS_PTRACE) {
		c.OK, c.Detail = true, "programs of all users may be traced, and the descriptors of all processes seen"
		return c
	}
	c.Detail = fmt.Sprintf("not held by %s: only this user's programs may be traced, and who else holds a pipe may stay unknown", userName(d.me.UID[1]))
	c.Remedy = d.elevate()
	if d.me.UID[1] != 0 && !d.me.NoNewPrivs {
		c.Remedy += ", or once: sudo " + setcap("cap_sys_ptrace")
	}
	return c
}

// mapFiles follows a link of our own map_files, for which the kernel asks the
// same capability as for another process's (proc_map_files_get_link).
func (d *doctor) mapFiles() Check {
	c := Check{Name: "map_files"}
	maps, err := d.v.Maps(d.self)
	if i := slices.IndexFunc(maps, func(m procview.Mapping) bool { return m.Ino != 0 }); i >= 0 {
		_, err = d.v.MapFile(d.self, maps[i])
	}
	if err == nil {
		c.OK, c.Detail = true, "the very file of a mapping can be looked at, even if it is deleted or its descriptor closed"
		return c
	}
	c.Detail = fmt.Sprintf("/proc/PID/map_files can't be followed (%v): a library whose descriptor was closed is known by the device and inode in maps only", plainError(err))
	switch {
	case !d.fullMap:
		c.Remedy = "run on the host, outside of this user namespace, with CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN"
	case d.container != "":
		c.Remedy = "run the container with --cap-add=CHECKPOINT_RESTORE (or SYS_ADMIN)"
	case d.me.UID[1] == 0:
		c.Remedy = "root here lacks CAP_CHECKPOINT_RESTORE: run whosefd where it is not taken away"
	case d.me.NoNewPrivs:
		c.Remedy = d.elevate()
	default:
		c.Remedy = "run with sudo, or once: sudo " + setcap("cap_sys_ptrace,cap_checkpoint_restore")
	}
	return c
}

// programsInKernel says whether trace and guard can see calls by eBPF.
// programsInKernel loads them: that a kernel has all that they need does not say that it takes them.
func (d *doctor) programsInKernel() Check {
	err := func() error {
		calls, err := decode.ForArch(runtime.GOARCH)
		if err != nil {
			return err
		}
		engine, err := ebpf.Load(calls, ebpf.Options{Ring: ebpf.RingOfFew})
		if err != nil {
			return err
		}
		return engine.Close()
	}()
	if err == nil {
		return Check{Name: "ebpf", OK: true, Detail: "trace and guard can see calls without a stop at each (--engine ebpf)"}
	}
	c := Check{Name: "ebpf", Detail: "trace and guard can only stop the debugger at each call: " + clean(err.Error())}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		c.Remedy = d.elevate()
	}
	return c
}

// plainError is the errno of an error without the path before it.
func plainError(err error) error {
	if errno := unix.Errno(0); errors.As(err, &errno) {
		return errno
	}
	return err
}

func (d *doctor) seccomp() Check {
	c := Check{Name: "seccomp", OK: true, Detail: "no seccomp filter"}
	if d.me.Seccomp != 0 {
		// A filter alone is no harm: the trial tells whether it lets ptrace pass.
		c.Detail = "a seccomp filter applies to whosefd, as in a container or sandbox; if the trial above failed, it may be why: " + containerRemedy
	}
	if d.me.NoNewPrivs {
		c.Detail += "; no_new_privs is set: sudo and file capabilities have no effect here"
	}
	return c
}

func (d *doctor) containerCheck() Check {
	c := Check{Name: "container", OK: true, Detail: "not in a container"}
	ns := d.v.Namespace(d.self, "pid")
	switch inner := ns != 0 && ns != firstPIDNS; {
	case inner && d.container != "":
		c.Detail = fmt.Sprintf("in a container (%s): only its processes can be seen, and holders of a pipe outside of it can't", d.container)
	case inner:
		c.Detail = "in a pid namespace of its own: only its processes can be seen"
	case d.container != "":
		c.Detail = fmt.Sprintf("in a container (%s) that shares the machine's pid namespace", d.container)
	}
	return c
}

func (d *doctor) userNamespace() Check {
	c := Check{Name: "user_namespace", OK: true, Detail: "the machine's own"}
	if !d.fullMap {
		c.OK = false
		c.Detail = "whosefd is in a user namespace: its capabilities count only for the processes in it"
		c.Remedy = "to trace a program outside of it, run whosefd outside"
	}
	return c
}

func (d *doctor) hidden() Check {
	c := Check{Name: "hidepid", OK: true}
	text, err := d.v.Text(strconv.Itoa(int(d.self)) + "/mountinfo")
	if err != nil {
		c.Detail = fmt.Sprintf("the mount options of %s can't be read: %v", d.v.Mount, plainError(err))
		return c
	}
	option, found := hidePID(text, d.v.Mount)
	switch {
	case !found:
		c.Detail = d.v.Mount + " is not a mount of proc of its own; its options are not known"
	case option == "":
		c.Detail = "the processes of all users can be seen"
	case d.hasCap(unix.CAP_SYS_PTRACE):
		c.Detail = fmt.Sprintf("hidepid=%s does not limit whosefd, which has CAP_SYS_PTRACE", clean(option))
	default:
		c.OK = false
		c.Detail = fmt.Sprintf("%s is mounted with hidepid=%s: processes of other users, perhaps holders of a pipe, can't be seen", d.v.Mount, clean(option))
		c.Remedy = d.elevate() + ", or mount -o remount,hidepid=0 " + d.v.Mount
	}
	return c
}

func (d *doctor) securityModule() Check {
	c := Check{Name: "security_module", OK: true, Detail: "none confines whosefd"}
	if label := securityLabel(d.v, d.self); label != "" {
		c.Detail = "whosefd is confined as " + clean(label) + "; if an attach fails for no other reason, see dmesg and the audit log"
	}
	// A boolean of the SELinux policy; the file has its value and the pending one.
	if b, err := os.ReadFile("/sys/fs/selinux/booleans/deny_ptrace"); err == nil && strings.HasPrefix(string(b), "1") {
		c.OK, c.Needed = false, true
		c.Detail = "SELinux forbids tracing (deny_ptrace is on)"
		c.Remedy = "setsebool deny_ptrace off"
	}
	return c
}

// programs are told about, for they are what there is to explain.
func (d *doctor) programs() Check {
	var found []string
	look := func(name string) {
		if path, err := exec.LookPath(name); err == nil {
			found = append(found, clean(path))
		}
	}
	for _, known := range decode.Debuggers {
		look(known.Name)
	}
	look("strace")
	c := Check{Name: "programs", OK: true, Detail: "no debugger in PATH"}
	if len(found) > 0 {
		c.Detail = strings.Join(found, ", ")
	}
	c.Detail += " (" + runtime.GOOS + "/" + runtime.GOARCH + ")"
	return c
}

func (d *doctor) debuginfod() Check {
	c := Check{Name: "debuginfod", OK: true, Detail: "DEBUGINFOD_URLS is not set: function names come from what is installed"}
	if urls := strings.Fields(d.getenv("DEBUGINFOD_URLS")); len(urls) > 0 {
		c.Detail = "debug info may be fetched from " + clean(strings.Join(urls, " "))
	}
	return c
}
