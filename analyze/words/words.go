// Package words says what package rules concluded: sentences, remedies, and the
// results as JSON, whose field names are a contract. Nothing is concluded here,
// and there is no other place with sentences about findings.
//
// A sentence about a fact is in facts.go, one about a cause or an effect in
// causes.go, what to do in remedies.go.
package words

import (
	"fmt"
	"strconv"
	"strings"

	"whosefd/analyze/rules"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// speaker knows what the processes are called.
type speaker struct{ rules.Parties }

// who names a process: "gdb (pid 2158)".
func (s *speaker) who(pid event.PID) string {
	if pid == s.Debugger.PID {
		return process(event.Text(s.debugger()), pid)
	}
	p := Process{PID: pid}
	if inf := s.Inferiors[pid]; inf != nil {
		p.Comm, p.Core = inf.Comm, inf.Core
	}
	return p.Name()
}

// debugger is what the debugger is called. Its first thread may have another name
// than the program.
func (s *speaker) debugger() string {
	switch d := decode.DebuggerOf(&s.Debugger); {
	case d != nil && decode.DebuggerNamed(string(s.Debugger.Comm)) == nil:
		return d.Name
	case s.Debugger.Comm == "":
		return "the debugger"
	}
	return string(s.Debugger.Comm)
}

// short names a process without its number, where that reads better.
func (s *speaker) short(pid event.PID) string {
	switch inf := s.Inferiors[pid]; {
	case pid == s.Debugger.PID:
		return s.debugger()
	case inf != nil && inf.Comm != "":
		return string(inf.Comm)
	case inf != nil && inf.Core != nil:
		return "the program"
	}
	return "pid " + strconv.Itoa(int(pid))
}

// threadOf names a thread of the debugger, as the beginning of a sentence.
func (s *speaker) threadOf(tid event.TID) string {
	if tid <= 0 {
		return capital(s.who(s.Debugger.PID))
	}
	return fmt.Sprintf("Thread %d of %s", tid, s.who(s.Debugger.PID))
}

// actor names a thread of the debugger and the time at which it did something,
// as the beginning of a sentence.
func (s *speaker) actor(t event.Micros, tid event.TID) string {
	who := s.debugger()
	if tid > 0 {
		who = fmt.Sprintf("thread %d of %s", tid, who)
	}
	if s.Untimed {
		return capital(who)
	}
	return fmt.Sprintf("At %s s %s", t, who)
}

// before says how long before something was, as the end of a sentence.
func (s *speaker) before(ago event.Micros) string {
	if s.Untimed {
		return ", before it opened it"
	}
	return ", " + lasted(ago) + " before it opened it"
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
	what := map[event.Kind]string{event.TTY: "a terminal", event.FIFO: "a FIFO", event.Directory: "a directory",
		event.CharDev: "a device", event.BlockDev: "a device"}[t.Kind]
	return string(t.Link) + inBrackets(what)
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
	case !t.Identified() && t.BuildID != "":
		return "build id " + t.BuildID
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

// capital begins a sentence with a name: that of a program stays as it is.
func capital(s string) string {
	for _, word := range []string{"thread ", "the ", "which "} {
		if strings.HasPrefix(s, word) {
			return strings.ToUpper(s[:1]) + s[1:]
		}
	}
	return s
}

// sentences begins each sentence with a capital.
func sentences(text string) string {
	parts := strings.SplitAfter(text, ". ")
	for i := range parts {
		parts[i] = capital(parts[i])
	}
	return strings.Join(parts, "")
}

// count is a number with its noun.
func count(n int64, noun string) string {
	switch {
	case n == 1:
		return "1 " + noun
	case strings.HasSuffix(noun, "ss"):
		return fmt.Sprintf("%d %ses", n, noun)
	case strings.HasSuffix(noun, "ry"):
		return fmt.Sprintf("%d %sies", n, strings.TrimSuffix(noun, "y"))
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// List joins words as English does.
func List[T any](items []T) string {
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

// numbered are numbers behind their noun: "descriptors 3 and 4".
func numbered[T any](noun string, items []T) string {
	if len(items) != 1 {
		noun += "s"
	}
	return noun + " " + List(items)
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

// Quote makes a word of a POSIX shell.
func Quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./=:,+@%", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// CommandLine quotes the words of a command line.
func CommandLine(args []event.Text) string {
	words := make([]string, len(args))
	for i, w := range args {
		words[i] = Quote(string(w))
	}
	return strings.Join(words, " ")
}
