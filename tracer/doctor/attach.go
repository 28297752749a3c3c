package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// AttachError says why a process was not attached to, and what to do.
type AttachError struct {
	Op     string // what was attempted; "" is to attach
	PID    event.PID
	Comm   event.Text // as the process has it: not cleaned
	Reason string     // "" where only the cause is known
	Remedy string     // "" where there is none
	Cause  error      // what the kernel said, or [ErrRefused]
}

func (e *AttachError) Error() string {
	var b strings.Builder
	b.WriteString(cmp.Or(e.Op, "attach to") + " ")
	if e.Comm != "" {
		fmt.Fprintf(&b, "%s (pid %d)", clean(string(e.Comm)), e.PID)
	} else {
		fmt.Fprintf(&b, "pid %d", e.PID)
	}
	// Of a wrapped errno only its own text: what was attempted stands before it.
	if errno := unix.Errno(0); errors.As(e.Cause, &errno) && e.Reason != "" {
		b.WriteString(": " + errno.Error())
	} else if e.Cause != nil {
		b.WriteString(": " + e.Cause.Error())
	}
	if e.Reason != "" {
		b.WriteString(": " + e.Reason)
	}
	if e.Remedy != "" {
		b.WriteString("; " + e.Remedy)
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *AttachError) Unwrap() error { return e.Cause }

// ErrRefused is the cause of an attach that was not even tried.
var ErrRefused = errors.New("refused")

// clean is foreign text that is safe in a message.
func clean(s string) string {
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

// ExplainAttach turns the error of a failed attach to pid into one that says
// why, as far as /proc tells, and what to do. It wraps cause; nil stays nil.
func ExplainAttach(v *procview.View, pid event.PID, cause error) error {
	if cause == nil {
		return nil
	}
	return explainAttach(v, event.PID(os.Getpid()), pid, cause)
}

func explainAttach(v *procview.View, self, pid event.PID, cause error) *AttachError {
	e := &AttachError{PID: pid, Cause: cause}
	w, err := lookAround(v, self, pid)
	if err != nil {
		if notThere(err) {
			e.Reason, e.Remedy = gone(v, self)
		}
		return e
	}
	e.Comm = w.target.Name
	switch {
	case errors.Is(cause, unix.EPERM), errors.Is(cause, unix.EACCES):
		if !w.nothing(e) {
			e.Reason, e.Remedy = w.whyNotPermitted()
		}
	case errors.Is(cause, unix.ESRCH):
		e.Reason = "it ended meanwhile"
		if w.target.State == "Z" {
			e.Reason = w.zombie()
		}
	case errors.Is(cause, unix.EIO), errors.Is(cause, unix.ENOSYS):
		e.Reason = "this kernel, or the sandbox that plays one, has no PTRACE_SEIZE"
		e.Remedy = "use Linux 5.3 or newer"
	case errors.Is(cause, unix.EBUSY):
		if w.target.TracerPid != 0 {
			e.Reason, e.Remedy = w.traced()
		}
	}
	return e
}

// ExplainLaunch turns the error of a failed start of a program that is to be
// traced from its beginning into one that says what Yama has against that, if it
// has. Every other error stays as it is, nil too.
func ExplainLaunch(v *procview.View, cause error) error {
	if !errors.Is(cause, unix.EPERM) {
		return cause
	}
	me, err := readTask(v, event.PID(os.Getpid()))
	if err != nil {
		return cause
	}
	return explainLaunch(&world{me: me, yama: yamaScope(v), container: inContainer(v)}, cause)
}

// explainLaunch follows yama_ptrace_traceme in security/yama/yama_lsm.c, which
// has nothing against a child that asks to be traced where the scope is 1.
func explainLaunch(w *world, cause error) error {
	if w.yama < 2 {
		return cause
	}
	reason, remedy := w.yamaRefuses()
	if reason == "" {
		return cause
	}
	return fmt.Errorf("%w: %s; %s", cause, reason, remedy)
}

// yamaRefuses says why Yama lets us trace nobody, or only programs that we
// launch; "" if it does not mind.
func (w *world) yamaRefuses() (reason, remedy string) {
	hasCap := w.me.CapEff&(1<<unix.CAP_SYS_PTRACE) != 0
	switch {
	case w.yama >= 3:
		return "Yama forbids all tracing (kernel.yama.ptrace_scope = 3)",
			"only a restart of the machine takes that back: a recording made elsewhere can be explained here"
	case hasCap:
	case w.yama == 1:
		return "Yama lets a process be traced only by its parents (kernel.yama.ptrace_scope = 1)",
			w.elevate() + "; or sudo sysctl kernel.yama.ptrace_scope=0; or launch the debugger with 'whosefd guard -- …' or 'whosefd trace -- …'"
	case w.yama == 2:
		return "Yama lets only those trace who have CAP_SYS_PTRACE (kernel.yama.ptrace_scope = 2)", w.elevate()
	}
	return "", ""
}

// gone explains a pid that does not exist.
func gone(v *procview.View, self event.PID) (reason, remedy string) {
	remedy = "'whosefd ps' lists the debuggers"
	if me, err := readTask(v, self); err == nil && len(me.NSpid) > 0 && inContainer(v) != "" {
		return "there is no such process in this container", "pids count as seen from inside it; " + remedy
	}
	return "there is no such process, or no longer", remedy
}

// Refuse says why whosefd, which is process self, must not attach to pid: an
// [AttachError] with [ErrRefused] or ESRCH as its cause, nil if it may try.
// Two processes that trace each other cannot even be killed, so a debugger
// that traces us, one of our parents, or a tracer of theirs is left alone.
func Refuse(v *procview.View, self, pid event.PID) error {
	e := &AttachError{PID: pid, Cause: ErrRefused}
	w, err := lookAround(v, self, pid)
	if err != nil {
		if notThere(err) {
			e.Cause = unix.ESRCH
			e.Reason, e.Remedy = gone(v, self)
			return e
		}
		return nil // it can't be looked at; the attach will tell
	}
	e.Comm = w.target.Name
	switch t := &w.target; {
	case t.Tgid != 0 && t.Tgid != pid && t.Tgid != self:
		e.Reason = fmt.Sprintf("%d is a thread of process %d", pid, t.Tgid)
		e.Remedy = fmt.Sprintf("name the process: -p %d", t.Tgid)
	case w.nothing(e):
	case t.TracerPid != 0:
		e.Reason, e.Remedy = w.traced()
	default:
		victim := tracesUs(v, self, pid)
		if victim == 0 {
			return nil
		}
		e.Reason = fmt.Sprintf("it traces pid %d, a parent of whosefd", victim)
		if victim == self {
			e.Reason = "it traces whosefd"
		}
		e.Reason += "; two processes that trace each other cannot be killed"
		e.Remedy = "run whosefd from a shell that is not being debugged"
	}
	return e
}

// RefuseLook says why there is nothing to be seen of a process, or nothing that
// means anything: an [AttachError] with [ErrRefused], nil if there may be.
func RefuseLook(v *procview.View, self, pid event.PID) error {
	w, err := lookAround(v, self, pid)
	if err != nil {
		return nil // looking will tell
	}
	if tids, err := v.Threads(pid); err == nil && len(tids) > 1 && w.target.Ended() {
		return nil // only its first thread has ended
	}
	e := &AttachError{PID: pid, Comm: w.target.Name, Cause: ErrRefused}
	if !w.nothing(e) {
		return nil
	}
	return e
}

// nothing says whether the target is one of which there is nothing to be seen,
// and why in e.
func (w *world) nothing(e *AttachError) bool {
	switch t := &w.target; {
	case t.Tgid == w.me.Tgid && t.Tgid != 0:
		e.Reason = "that is whosefd itself"
	case t.Ended():
		e.Reason = w.zombie()
	case t.Kthread:
		e.Reason = "it is a kernel thread"
	default:
		return false
	}
	return true
}

// tracesUs looks for pid among the tracers of self and its parents, and the
// tracers of those. It gives the one of self and its parents that is so traced; 0 for none.
func tracesUs(v *procview.View, self, pid event.PID) event.PID {
	seen := map[event.PID]bool{}
	var traced func(event.PID) bool
	traced = func(by event.PID) bool {
		return slices.ContainsFunc(tracers(v, by), func(tracer event.PID) bool {
			if tracer == pid {
				return true
			}
			again := seen[tracer]
			seen[tracer] = true
			return !again && traced(tracer)
		})
	}
	family := map[event.PID]bool{}
	for p := self; p > 0 && !family[p]; {
		if traced(p) {
			return p
		}
		family[p] = true
		t, err := readTask(v, p)
		if err != nil {
			return 0
		}
		p = t.PPid
	}
	return 0
}

// tracers are the processes that trace any thread of pid.
func tracers(v *procview.View, pid event.PID) []event.PID {
	threads, err := v.Threads(pid)
	if err != nil {
		threads = []event.TID{event.TID(pid)}
	}
	var found []event.PID
	for _, tid := range threads {
		t, err := v.Status(pid, tid)
		if err != nil || t.TracerPid == 0 {
			continue
		}
		// TracerPid names a thread of the tracer.
		tracer := event.PID(t.TracerPid)
		if tgid, err := v.TGID(t.TracerPid); err == nil && tgid != 0 {
			tracer = tgid
		}
		found = append(found, tracer)
	}
	return found
}

// world is what decides whether self may trace target.
type world struct {
	me, target task
	tracer     *task  // of the target; nil without one, or if it can't be read
	parent     *task  // of the target
	yama       int    // kernel.yama.ptrace_scope; -1 without Yama
	myNS       uint64 // inodes of the user namespaces; 0 if not known
	targetNS   uint64
	initialNS  bool   // ours is the first user namespace: its uid_map is the identity
	container  string // what kind of container we are in; "" for none
	label      string // of a Linux security module that confines us; "" for none
}

func lookAround(v *procview.View, self, pid event.PID) (*world, error) {
	target, err := readTask(v, pid)
	if err != nil {
		return nil, err
	}
	me, err := readTask(v, self)
	if err != nil {
		return nil, fmt.Errorf("read status of process %d: %w", self, err)
	}
	w := &world{me: me, target: target, yama: yamaScope(v), container: inContainer(v), label: securityLabel(v, self)}
	if target.TracerPid != 0 {
		if tgid, err := v.TGID(target.TracerPid); err == nil {
			if t, err := readTask(v, tgid); err == nil {
				w.tracer = &t
			}
		}
	}
	if p, err := readTask(v, target.PPid); err == nil {
		w.parent = &p
	}
	w.myNS, w.targetNS = v.Namespace(self, "user"), v.Namespace(pid, "user")
	w.initialNS = fullIDMap(v, self)
	return w, nil
}

func (w *world) zombie() string {
	if w.target.State == "Z" && w.parent != nil {
		return fmt.Sprintf("it has ended, and its parent %s (pid %d) has not collected it yet (a zombie)", clean(string(w.parent.Name)), w.parent.pid)
	}
	return "it has ended"
}

func (w *world) traced() (reason, remedy string) {
	if w.tracer == nil {
		return fmt.Sprintf("it is already traced by thread %d", w.target.TracerPid), "end that tracer first: a process has at most one"
	}
	if w.tracer.pid == w.me.pid {
		return "this whosefd traces it already", ""
	}
	return fmt.Sprintf("it is already traced by %s (pid %d)", clean(string(w.tracer.Name)), w.tracer.pid),
		"detach or end that one first: a process has at most one tracer"
}

// whyNotPermitted goes through the kernel's checks in its order: ptrace_attach
// and __ptrace_may_access in kernel/ptrace.c, cap_ptrace_access_check in
// security/commoncap.c, yama_ptrace_access_check in security/yama/yama_lsm.c.
func (w *world) whyNotPermitted() (reason, remedy string) {
	me, t := &w.me, &w.target
	if t.TracerPid != 0 {
		return w.traced()
	}
	hasCap := me.CapEff&(1<<unix.CAP_SYS_PTRACE) != 0
	otherNS := w.myNS != 0 && w.targetNS != w.myNS && !w.initialNS
	if !hasCap || otherNS {
		if reason := w.otherOwner(); reason != "" {
			if hasCap {
				return reason + ", in another user namespace, where CAP_SYS_PTRACE of this one does not count",
					"run whosefd outside of this container or user namespace, as root"
			}
			return reason, w.elevate()
		}
		if t.owner >= 0 && t.owner != t.UID[1] {
			return "the kernel keeps it from being looked into: it is a program with set-user-ID or file capabilities, " +
				"its file can't be read, or it asked for that with prctl(PR_SET_DUMPABLE)", w.elevate()
		}
		if more := t.CapPrm &^ me.CapPrm; more != 0 {
			return "it has capabilities that whosefd has not: " + capNames(more), w.elevate()
		}
	}
	if !hasCap || otherNS || w.yama >= 3 {
		if reason, remedy := w.yamaRefuses(); reason != "" {
			return reason, remedy
		}
	}
	if me.Seccomp == 2 {
		return "users and capabilities fit, but whosefd runs under a seccomp filter, as in a container or sandbox, which probably refuses ptrace",
			containerRemedy
	}
	if w.label != "" {
		return "users and capabilities fit, but a security module confines whosefd (" + clean(w.label) + ")",
			"allow ptrace in its policy; its log (dmesg, audit) names the rule"
	}
	return "users, capabilities and Yama all fit: a security module, or the sandbox that whosefd runs in, refuses ptrace",
		"see dmesg and the audit log, and run 'whosefd doctor'"
}

const containerRemedy = "run the container with --cap-add=SYS_PTRACE (and, with an old engine, --security-opt seccomp=unconfined)"

// otherOwner says whose the target is if its ids are not ours; "" if they are.
// The kernel compares all three of its user and group ids with our real ones.
func (w *world) otherOwner() string {
	me, t := &w.me, &w.target
	for i := range 3 {
		if t.UID[i] != me.UID[0] {
			if t.UID[0] == me.UID[0] {
				return fmt.Sprintf("pid %d is yours, but runs a set-user-ID program as %s", t.pid, userName(t.UID[1]))
			}
			return fmt.Sprintf("pid %d belongs to %s", t.pid, userName(t.UID[1]))
		}
	}
	for i := range 3 {
		if t.GID[i] != me.GID[0] {
			return fmt.Sprintf("pid %d runs with another group id (%d)", t.pid, t.GID[i])
		}
	}
	return ""
}

// elevate is how we get CAP_SYS_PTRACE.
func (w *world) elevate() string {
	switch {
	case w.me.UID[1] == 0 && w.container != "":
		return "give the container the capability: --cap-add=SYS_PTRACE"
	case w.me.UID[1] == 0:
		return "root here lacks CAP_SYS_PTRACE: run whosefd where it is not taken away"
	case w.me.NoNewPrivs:
		return "run as root, from a shell without no_new_privs: sudo does not work in this one"
	}
	return "run with sudo"
}

// userName is the name of a user, or "uid 1000" without one.
func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil && u.Username != "" {
		return clean(u.Username)
	}
	return "uid " + strconv.Itoa(uid)
}

// capabilities are the CAP_* of linux/capability.h by number, without prefix.
var capabilities = [...]string{"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
	"SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"}

// capNames names at most three of a set of capabilities.
func capNames(set uint64) string {
	var names []string
	for rest := set; rest != 0; rest &= rest - 1 {
		if len(names) == 3 {
			return strings.Join(names, ", ") + fmt.Sprintf(" and %d more", bits.OnesCount64(rest))
		}
		n := bits.TrailingZeros64(rest)
		if n < len(capabilities) {
			names = append(names, "CAP_"+capabilities[n])
		} else {
			names = append(names, fmt.Sprintf("capability %d", n))
		}
	}
	return strings.Join(names, ", ")
}
