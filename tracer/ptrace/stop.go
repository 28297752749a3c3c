package ptrace

import (
	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
)

// StopKind says why wait4(2) returned for a tracee, and so how it must go on.
type StopKind uint8

const (
	// Exited: the thread ended with a code; it is gone.
	Exited StopKind = iota + 1
	// Killed: the thread was ended by a signal; it is gone.
	Killed
	// SyscallStop: at the entry or exit of a system call. Resume.
	SyscallStop
	// SignalStop: a signal is about to be delivered. Resume with that signal.
	SignalStop
	// GroupStop: the whole process was stopped by a signal. Listen, so that
	// it stays stopped and SIGCONT still works.
	GroupStop
	// TrapStop: the answer to an interrupt, the first stop of a new thread, or
	// the end of a group-stop. Resume.
	TrapStop
	// CloneStop: the thread has made a new one; its id is the event message. Resume.
	CloneStop
	// ExecStop: the process runs a new program; the event message is the
	// thread's former id. Resume.
	ExecStop
	// OtherStop: an event that was not asked for. Resume.
	OtherStop
)

var stopNames = map[StopKind]string{Exited: "exited", Killed: "killed", SyscallStop: "syscall-stop",
	SignalStop: "signal-delivery-stop", GroupStop: "group-stop", TrapStop: "interrupt-stop",
	CloneStop: "clone-event", ExecStop: "exec-event", OtherStop: "other event"}

func (k StopKind) String() string { return stopNames[k] }

// Stop is a wait status, classified.
type Stop struct {
	Kind StopKind
	Code int // Exited: the exit code
	// Signal is what ended the thread (Killed), what is to be delivered
	// (SignalStop) or what stopped the process (GroupStop).
	Signal unix.Signal
}

// Classify reads a wait status of a seized tracee with PTRACE_O_TRACESYSGOOD.
// The ptrace event is in the third byte: ptrace(2), "Stopped states". A
// group-stop of a seized tracee is PTRACE_EVENT_STOP with the stopping signal;
// without a look at the event it passes for a signal.
func Classify(ws unix.WaitStatus) Stop {
	switch {
	case ws.Exited():
		return Stop{Kind: Exited, Code: ws.ExitStatus()}
	case ws.Signaled():
		return Stop{Kind: Killed, Signal: ws.Signal()}
	case !ws.Stopped():
		return Stop{Kind: OtherStop}
	}
	sig := ws.StopSignal()
	switch int(ws) >> 16 {
	case 0:
		if sig == unix.SIGTRAP|0x80 {
			return Stop{Kind: SyscallStop}
		}
		return Stop{Kind: SignalStop, Signal: sig}
	case unix.PTRACE_EVENT_STOP:
		switch sig {
		case unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
			return Stop{Kind: GroupStop, Signal: sig}
		}
		return Stop{Kind: TrapStop}
	case unix.PTRACE_EVENT_CLONE:
		return Stop{Kind: CloneStop}
	case unix.PTRACE_EVENT_EXEC:
		return Stop{Kind: ExecStop}
	}
	return Stop{Kind: OtherStop}
}

// Op is what PTRACE_GET_SYSCALL_INFO says a stop is (linux/ptrace.h).
type Op uint8

const (
	OpNone  Op = 0
	OpEntry Op = 1
	OpExit  Op = 2
)

// SyscallInfo is struct ptrace_syscall_info of linux/ptrace.h, for entry and
// exit. Nr and Args are set at the entry; Ret at the exit, where a negative
// errno means failure.
type SyscallInfo struct {
	Op   Op
	Arch uint32 // AUDIT_ARCH_*, linux/audit.h
	IP   uint64
	SP   uint64
	Nr   uint64
	Args [6]uint64
	Ret  int64
	// Failed says that Ret is an errno, by the kernel's word.
	Failed bool
}

// Call is a system call with its arguments as the registers held them.
type Call struct {
	Nr   uint64
	Args [6]uint64
}

// How says how a stopped tracee goes on.
type How uint8

const (
	// ToSyscall runs it to its next system call entry or exit (PTRACE_SYSCALL).
	ToSyscall How = iota
	// Freely runs it without syscall stops (PTRACE_CONT).
	Freely
	// Listen leaves it in its group-stop but lets it report the end of that (PTRACE_LISTEN).
	Listen
)

// Kernel is the part of ptrace(2) and wait(2) that the loop needs; tests put a
// scripted one in its place. All calls come from one locked thread. A tracee
// that is gone, or was killed in its stop, answers ESRCH.
type Kernel interface {
	// Seize attaches to a thread without stopping it, with the PTRACE_O_* options.
	Seize(tid event.TID, options uintptr) error
	// Interrupt makes a seized thread stop soon.
	Interrupt(tid event.TID) error
	// Wait gives the next status change of a tracee, or of any tracee of this
	// thread if tid is 0. With block false it returns thread id 0 if there is
	// none. EINTR says that a signal woke it; ECHILD that there is no tracee.
	// With block, and for any, a stop is told of again as long as the thread is not
	// let go.
	Wait(tid event.TID, block bool) (event.TID, unix.WaitStatus, error)
	// SyscallInfo fills info for a thread in a syscall stop.
	SyscallInfo(tid event.TID, info *SyscallInfo) error
	// Interrupted gives the call that a stopped thread was in when an
	// interrupt reached it, and that will go on by itself; nil if it was in none.
	Interrupted(tid event.TID) (*Call, error)
	// Redo makes a thread at the entry of a system call start that call over
	// once it is let go, if the call would see an interrupt that was on its
	// way as EINTR. Only right before a detach.
	Redo(tid event.TID) error
	// EventMsg is the value that goes with a clone or exec event.
	EventMsg(tid event.TID) (uint64, error)
	// Resume lets a stopped thread go on, delivering sig unless it is 0.
	Resume(tid event.TID, how How, sig unix.Signal) error
	// Detach lets a stopped thread go on untraced, delivering sig unless it is 0.
	Detach(tid event.TID, sig unix.Signal) error
}
