package analyze

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"whosefd/tracer/event"
)

// who names a process: "gdb (pid 2158)".
func (a *Analyzer) who(pid event.PID) event.Text {
	comm := event.Text("")
	if pid == a.debugger.PID {
		comm = a.debugger.Comm
		if comm == "" {
			comm = "the debugger"
		}
	} else if inf := a.inferiors[pid]; inf != nil {
		comm = inf.Comm
	}
	switch {
	case pid == event.NoPID:
		return comm
	case comm == "":
		return event.Text(fmt.Sprintf("pid %d", pid))
	}
	return event.Text(fmt.Sprintf("%s (pid %d)", comm, pid))
}

// short names a process without its number, where that reads better.
func (a *Analyzer) short(pid event.PID) string {
	switch inf := a.inferiors[pid]; {
	case pid == a.debugger.PID && a.debugger.Comm != "":
		return string(a.debugger.Comm)
	case pid == a.debugger.PID:
		return "the debugger"
	case inf != nil && inf.Comm != "":
		return string(inf.Comm)
	}
	return "pid " + strconv.Itoa(int(pid))
}

// describe names a target: its link, else its kind.
func describe(t event.Target) string {
	switch {
	case t.Error == "ENOENT":
		return "nothing (ENOENT)"
	case t.Error != "" && t.Link == "":
		return "nothing that could be opened (" + t.Error + ")"
	case t.Link == "" && t.Ino != 0:
		return fmt.Sprintf("a %s (device %d, inode %d)", kindWord(t.Kind), t.Dev, t.Ino)
	case t.Link == "":
		return "a " + kindWord(t.Kind)
	}
	switch t.Kind {
	case event.TTY:
		return string(t.Link) + " (a terminal)"
	case event.FIFO:
		return string(t.Link) + " (a FIFO)"
	case event.Directory:
		return string(t.Link) + " (a directory)"
	case event.CharDev, event.BlockDev:
		return string(t.Link) + " (a device)"
	}
	return string(t.Link)
}

func kindWord(k event.Kind) string {
	switch k {
	case event.Regular:
		return "regular file"
	case event.TTY:
		return "terminal"
	case event.CharDev, event.BlockDev:
		return "device"
	case event.AnonInode:
		return "file without a name"
	case event.Procfs:
		return "file below /proc"
	case event.Unknown, "":
		return "file of unknown kind"
	}
	return string(k)
}

// identity is device and inode in words.
func identity(t event.Target) string {
	switch {
	case t.Serial != 0:
		return ""
	case !t.Identified():
		return "identity not known"
	case t.Dev == 0:
		return fmt.Sprintf("inode %d", t.Ino)
	}
	return fmt.Sprintf("device %d, inode %d", t.Dev, t.Ino)
}

// inBrackets sets a text off from what is before it, if there is one.
func inBrackets(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

// count is a number with its noun.
func count(n int64, noun string) string {
	switch {
	case n == 1:
		return "1 " + noun
	case strings.HasSuffix(noun, "ss"):
		return fmt.Sprintf("%d %ses", n, noun)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// list joins words as English does.
func list[T any](items []T) string {
	words := make([]string, len(items))
	for i, it := range items {
		words[i] = fmt.Sprint(it)
	}
	switch len(words) {
	case 0:
		return ""
	case 1:
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}

func plural[T any](items []T, noun string) string {
	if len(items) == 1 {
		return noun
	}
	return noun + "s"
}

// lasted is a time in words.
func lasted(m event.Micros) string {
	switch {
	case m < 1000:
		return fmt.Sprintf("%d µs", int64(m))
	case m < 1e6:
		return fmt.Sprintf("%.1f ms", float64(m)/1e3)
	}
	return fmt.Sprintf("%.1f s", float64(m)/1e6)
}

// inferiorPIDs are the inferiors, in order.
func (a *Analyzer) inferiorPIDs() []event.PID {
	pids := make([]event.PID, 0, len(a.inferiors))
	for pid := range a.inferiors {
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	return pids
}
