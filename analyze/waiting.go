package analyze

import (
	"fmt"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// state is a word for the state letter of proc_pid_stat(5).
func state(b *event.Blocked) string {
	switch b.State {
	case "S", "D", "I":
		return "blocked"
	case "R":
		return "running"
	case "T":
		return "stopped"
	case "t":
		return "traced"
	case "Z", "X":
		return "ended"
	case "":
		if b.Syscall != "" {
			return "blocked"
		}
	}
	return ""
}

// isRead says whether a thread waits for data from a descriptor.
func isRead(call string) bool {
	row, ok := decode.ByName(call)
	return ok && row.Class == decode.ClassRead
}

// isOpen says whether a thread waits for an open.
func isOpen(call string) bool {
	row, ok := decode.ByName(call)
	return ok && row.Class == decode.ClassOpen
}

// isServer says whether a program is one that a debugger elsewhere talks to.
func isServer(comm event.Text) bool {
	return strings.HasPrefix(string(comm), "gdbserver") || strings.HasPrefix(string(comm), "lldb-server")
}

// waits says what a blocked thread waits for, where that is normal.
func (a *Analyzer) waits(b *event.Blocked) event.Text {
	who := a.who(a.debugger.PID)
	via := func(what string) event.Text { return event.Text(fmt.Sprintf("%s (in %s)", what, b.Syscall)) }
	user, server := "its user", isServer(a.debugger.Comm)
	if server {
		user = "the debugger that it serves"
	}
	inferior := "its inferior"
	if len(a.inferiors) > 1 {
		inferior = "one of its inferiors"
	}
	switch b.Syscall {
	case "poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "epoll_pwait2":
		switch fg, known := a.foreground(); {
		case len(a.inferiors) == 0:
			return via("waits for " + user)
		case known && fg == a.debugger.PID && !server:
			return via("waits for its user, at its prompt")
		case known && fg != a.debugger.PID:
			return via("waits for " + string(a.who(fg)) + ", its inferior, which has the terminal")
		}
		return via("waits for " + user + " or for " + inferior)
	case "wait4", "waitid", "waitpid", "rt_sigsuspend", "sigsuspend", "rt_sigtimedwait":
		if len(a.inferiors) == 0 {
			return via("waits for a child or a signal")
		}
		return via("waits for " + inferior)
	case "accept", "accept4":
		return via("waits for a connection")
	case "futex", "futex_wait", "futex_waitv":
		return via("waits for another thread of its own")
	case "nanosleep", "clock_nanosleep":
		return via("sleeps")
	case "restart_syscall":
		// restart_syscall(2) counts the rest of a time-out, of poll or a sleep,
		// after an interruption; which call it was is not to be seen.
		return via("waits, at most until a time-out")
	}
	if b.Target != nil && b.FD.Known {
		what := fmt.Sprintf("on descriptor %d, %s", b.FD.Val, describe(*b.Target))
		switch {
		case isRead(b.Syscall) && b.Target.Kind == event.TTY:
			return via("waits for its user's input " + what)
		case isRead(b.Syscall):
			w := a.writers(b)
			switch {
			case len(w.others) > 0:
				return via(fmt.Sprintf("waits for data %s, which %s (pid %d) can write", what, w.others[0].Comm, w.others[0].PID))
			case len(w.own) > 0:
				return via(fmt.Sprintf("waits for data %s, which only %s itself can write; no name of an inferior is known to lead there", what, who))
			}
			return via("waits for data " + what)
		}
		return via("is blocked " + what)
	}
	if b.Path != "" {
		return via(fmt.Sprintf("waits for %s to be opened", b.Path))
	}
	if b.Syscall != "" {
		return event.Text("is in " + b.Syscall)
	}
	return ""
}

// foreground gives the process, the debugger or an inferior, in whose process
// group the debugger's terminal has its foreground.
func (a *Analyzer) foreground() (event.PID, bool) {
	if !a.debugger.TTYPGRP.Known {
		return 0, false
	}
	fg := a.debugger.TTYPGRP.Val
	for _, pid := range a.inferiorPIDs() {
		if inf := a.inferiors[pid]; inf.PGRP.Is(fg) && !a.debugger.PGRP.Is(fg) {
			return pid, true
		}
	}
	if a.debugger.PGRP.Is(fg) {
		return a.debugger.PID, true
	}
	return 0, false
}

// signals says why Ctrl-C does not end a hanging read; "" where the evidence
// does not tell.
func (a *Analyzer) signals(b *event.Blocked) event.Text {
	var parts []string
	what := "read"
	if isOpen(b.Syscall) {
		what = "open"
	}
	who := string(a.who(a.debugger.PID))
	if fg, known := a.foreground(); known && fg != a.debugger.PID {
		parts = append(parts, fmt.Sprintf("the terminal's foreground process group is that of %s: Ctrl-C sends SIGINT there, and not to %s", a.who(fg), who))
	}
	sigint := b.SIGINT
	if sigint == "" {
		sigint = a.debugger.SIGINT
	}
	switch sigint {
	case "caught":
		catches := who + " catches SIGINT"
		if len(parts) > 0 {
			catches = "sent to it directly it would not help either, since " + who + " catches it"
		}
		parts = append(parts, catches+": its handler runs, and then the kernel starts the same "+what+" again")
	case "ignored":
		parts = append(parts, who+" ignores SIGINT")
	case "blocked":
		parts = append(parts, "the thread has SIGINT blocked")
	}
	if len(parts) == 0 {
		return ""
	}
	return event.Text("Why Ctrl-C does not help: " + strings.Join(parts, "; ") + ".")
}
