package rules

import (
	"strconv"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// logged says what a call in a log of strace waits for, by the text of its arguments:
// "[{fd=16<TCP:[127.0.0.1:51822->127.0.0.1:8002]>, events=POLLIN}], 1, -1". Who could end it is
// not in a log, but for a child, which has a number.
func (v *view) logged(w *event.Wait, text string) {
	for _, arg := range decode.Waits(w.Syscall) {
		switch arg {
		case decode.WaitPollSet:
			w.On = nil
			set, rest, _ := cutList(text)
			for _, entry := range strings.SplitAfter(set, "}") {
				_, fd, ok := strings.Cut(entry, "fd=")
				if !ok {
					continue
				}
				on, after := loggedFD(fd)
				on.Op = event.AwaitRead
				if strings.Contains(after, "POLLOUT") && !strings.Contains(after, "POLLIN") {
					on.Op = event.AwaitWrite
				}
				w.On = append(w.On, on)
			}
			fields := strings.Split(rest, ",")
			if ms, err := strconv.ParseInt(strings.TrimSpace(fields[len(fields)-1]), 10, 64); err == nil && ms >= 0 && len(fields) > 2 {
				w.TimeoutUS = event.Some(ms * 1000)
			}
			return
		case decode.WaitReadSet, decode.WaitWriteSet:
			set, rest, ok := cutList(text)
			if !ok {
				return
			}
			for text = rest; set != ""; {
				var on event.Awaited
				on, set = loggedFD(strings.TrimLeft(set, " "))
				if on.Op = event.AwaitRead; arg == decode.WaitWriteSet {
					on.Op = event.AwaitWrite
				}
				if !on.FD.Known {
					break
				}
				w.On = append(w.On, on)
			}
		case decode.WaitChildPID:
			id, _, _ := strings.Cut(text, ",")
			if n, err := strconv.ParseInt(strings.TrimSpace(id), 10, 32); err == nil && n > 0 {
				on := event.Awaited{Op: event.AwaitChild, ID: event.Some(n), Outside: event.OutsideUnknown}
				e := event.Ender{PID: event.PID(n), How: event.HowChild}
				if inf := v.Inferiors[e.PID]; inf != nil {
					e.Comm, e.How = inf.Comm, event.HowTracee
				}
				on.Enders = []event.Ender{e}
				w.On = []event.Awaited{on}
			}
			return
		case decode.WaitFlock, decode.WaitFcntl:
			if arg == decode.WaitFcntl && !strings.Contains(text, "SETLKW") {
				return
			}
			on, _ := loggedFD(text)
			on.Op, on.Lock = event.AwaitLock, "FLOCK"
			switch {
			case strings.Contains(text, "F_OFD_SETLKW"):
				on.Lock = "OFDLCK"
			case arg == decode.WaitFcntl:
				on.Lock = "POSIX"
			}
			w.On = []event.Awaited{on}
			return
		case decode.WaitAccept, decode.WaitConnect, decode.WaitRead, decode.WaitWrite:
			on, _ := loggedFD(text)
			if len(w.On) == 1 && on.FD.Known {
				on.Op = w.On[0].Op
				w.On = []event.Awaited{on}
			}
			return
		}
	}
}

// cutList cuts a text at the first list in brackets. Brackets and commas within <…> are
// part of what a descriptor is.
func cutList(text string) (list, rest string, ok bool) {
	start := strings.IndexByte(text, '[')
	if start < 0 {
		return "", text, false
	}
	depth := 0
	for i := start; i < len(text); i++ {
		switch text[i] {
		case '[':
			depth++
		case ']':
			if depth--; depth == 0 {
				return text[start+1 : i], text[i+1:], true
			}
		}
	}
	return text[start+1:], "", true // cut off
}

// loggedFD reads a descriptor with what it is, as far as strace shows it (-y, -yy).
func loggedFD(text string) (on event.Awaited, rest string) {
	on.Outside = event.OutsideUnknown
	n := 0
	for n < len(text) && text[n] >= '0' && text[n] <= '9' {
		n++
	}
	fd, err := strconv.ParseInt(text[:n], 10, 32)
	if err != nil {
		return on, text
	}
	on.FD = event.Some(event.FD(fd))
	rest = text[n:]
	if !strings.HasPrefix(rest, "<") {
		return on, rest
	}
	depth, end := 0, len(rest)
	for i := range len(rest) {
		switch {
		case rest[i] == '<':
			depth++
		case rest[i] == '>' && i > 0 && rest[i-1] != '-':
			depth--
		}
		if depth == 0 {
			end = i
			break
		}
	}
	link := strings.TrimPrefix(rest[:end], "<")
	rest = rest[min(end+1, len(rest)):]
	on.Target = &event.Target{Kind: event.Regular, Link: event.Text(link)}
	switch {
	case strings.HasPrefix(link, "pipe:["):
		on.Target.Kind = event.Pipe
	case strings.HasPrefix(link, "/dev/pts/"), strings.HasPrefix(link, "/dev/tty"):
		on.Target.Kind = event.TTY
		name, _, _ := strings.Cut(link, "<")
		on.Target.Link = event.Text(name)
	case strings.HasPrefix(link, "anon_inode:"):
		on.Target.Kind = event.AnonInode
	case strings.HasPrefix(link, "socket:["):
		on.Target.Kind = event.Socket
	default:
		proto, ends, ok := strings.Cut(link, ":[")
		if !ok || strings.Contains(proto, "/") {
			break
		}
		on.Target.Kind = event.Socket
		if local, peer, ok := strings.Cut(strings.TrimSuffix(ends, "]"), "->"); ok && proto != "UNIX" && proto != "UNIX-STREAM" {
			on.Local, on.Peer = event.Text(local), event.Text(peer)
			if !strings.HasPrefix(peer, "127.") && !strings.HasPrefix(peer, "[::1]") {
				on.Outside = event.OutsideHost
			}
		}
	}
	return on, rest
}
