package analyze

import (
	"fmt"
	"slices"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// A strace log tells less than a recording: perhaps no times, no process
// number, no inodes. This is what is said and done about that.

// untimed says that the evidence is a log without times.
func (a *Analyzer) untimed() bool { return a.source == "strace" && a.last == 0 }

// before says how long before something was, as the end of a sentence.
func (a *Analyzer) before(ago event.Micros) string {
	if a.untimed() {
		return ", before it opened it"
	}
	return ", " + lasted(ago) + " before it opened it"
}

// threadOf names a thread of the debugger, as the beginning of a sentence.
func (a *Analyzer) threadOf(tid event.TID) string {
	if tid <= 0 {
		return capital(string(a.who(a.debugger.PID)))
	}
	return fmt.Sprintf("Thread %d of %s", tid, a.who(a.debugger.PID))
}

// actor names a thread of the debugger and the time at which it did something,
// as the beginning of a sentence.
func (a *Analyzer) actor(t event.Micros, tid event.TID) string {
	who := a.short(a.debugger.PID)
	if tid > 0 {
		who = fmt.Sprintf("thread %d of %s", tid, who)
	}
	if a.untimed() {
		return capital(who)
	}
	return fmt.Sprintf("At %s s %s", t, who)
}

// capital begins a sentence with a name: that of a program stays as it is.
func capital(s string) string {
	for _, word := range []string{"thread ", "the "} {
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

// ownWriters are the descriptors by which the debugger itself can write to the
// pipe that a thread reads, where nobody has looked for all holders.
func (a *Analyzer) ownWriters(b *event.Blocked) []event.FD {
	if b.Target == nil {
		return nil
	}
	var own []event.FD
	for _, fd := range a.descriptors(b.PID, *b.Target) {
		if acc := a.fds.get(b.PID, fd).access; acc == "w" || acc == "rw" {
			own = append(own, fd)
		}
	}
	slices.Sort(own)
	return own
}

// mayBeRight says whether an open of a name that was read from the inferior's
// memory may have led to the file that is meant, where nothing is known of the
// inferior: a relative name if both are in one directory, a name below
// /proc/<its number> always.
func (a *Analyzer) mayBeRight(o *opened, name *decode.Name) bool {
	switch name.Kind {
	case decode.Relative:
		return o.gotLibrary() || o.errno != "" && a.foundElsewhere(o)
	case decode.PIDFD, decode.PIDPath:
		return o.gotLibrary() && name.PID == o.from.pid
	}
	return false
}

// gotLibrary says whether what was opened can be a library, as far as was seen.
func (o *opened) gotLibrary() bool {
	return o.errno == "" && mappable(o.target.Kind) && o.head != headOther && (o.reads == 0 || o.bytes > 0)
}

// closeOnExec drops the descriptors that an execve closes, as far as it is
// known which they are.
func (a *Analyzer) closeOnExec(pid event.PID) {
	var gone []event.FD
	for fd, d := range a.fds.all(pid) {
		if d.by != nil && strings.Contains(d.by.flags, "O_CLOEXEC") {
			gone = append(gone, fd)
		}
	}
	for _, fd := range gone {
		a.dropFD(pid, fd)
	}
}

// learn takes what a later look at a descriptor has told of the file, where the
// open did not: its kind, and which one it is.
func (o *opened) learn(t event.Target) {
	if o.target.Kind == event.Unknown || o.target.Kind == "" {
		o.target.Kind = t.Kind
	}
	if !o.target.Identified() {
		o.target.Dev, o.target.Ino, o.target.Serial = t.Dev, t.Ino, t.Serial
	}
}

// forgetPID leaves out the number of a debugger that a log does not name.
func (d *Diagnosis) forgetPID() {
	if d.Debugger != nil {
		d.Debugger.PID, d.Debugger.TID = 0, 0
	}
	for i := range d.Findings {
		d.Findings[i].Opened.PID, d.Findings[i].TID = 0, 0
	}
	for i := range d.Risks {
		d.Risks[i].Opened.PID = 0
	}
	for i := range d.Stack {
		d.Stack[i].TID = max(0, d.Stack[i].TID)
	}
}
