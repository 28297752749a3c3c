package words

import (
	"fmt"
	"slices"
	"strings"

	"whosefd/analyze/rules"
	"whosefd/tracer/event"
)

// Wait is what a blocked thread waits for. As JSON its field names are a contract.
type Wait struct {
	PID     event.PID     `json:"pid"`
	TID     event.TID     `json:"tid"`
	Comm    event.Text    `json:"comm,omitempty"`
	Syscall string        `json:"syscall,omitempty"`
	For     rules.WaitFor `json:"for"`
	// SinceUS is for how long the thread has not run, microseconds.
	SinceUS event.Opt[int64] `json:"since_us,omitzero"`
	On      []On             `json:"on"`
	Enders  []Ender          `json:"enders"`
	// Stuck says that it cannot end, as far as is known.
	Stuck bool `json:"stuck,omitempty"`
	// Text says who is waited for, Ends what would end it.
	Text event.Text `json:"text"`
	Ends event.Text `json:"ends,omitempty"`
}

// On is one thing that a thread waits for.
type On struct {
	Op    event.AwaitOp       `json:"op"`
	FD    event.Opt[event.FD] `json:"fd,omitzero"`
	Kind  event.Kind          `json:"kind,omitempty"`
	Link  event.Text          `json:"link,omitempty"`
	Local event.Text          `json:"local,omitempty"`
	Peer  event.Text          `json:"peer,omitempty"`
	Path  event.Text          `json:"path,omitempty"`
	Mount *event.Mount        `json:"mount,omitempty"`
	Lock  string              `json:"lock,omitempty"`
	// Outside is who could end it that is no process here, as in a recording.
	Outside event.Outside `json:"outside,omitempty"`
}

// Ender is a process that could end a wait.
type Ender struct {
	PID  event.PID           `json:"pid"`
	TID  event.TID           `json:"tid,omitempty"` // only this thread
	Comm event.Text          `json:"comm,omitempty"`
	FD   event.Opt[event.FD] `json:"fd,omitzero"`
	How  event.EnderHow      `json:"how"`
	// State is that of the thread, or of the process's first one: "running",
	// "blocked", "stopped", "traced" or "ended"; absent where it was not looked at.
	State string `json:"state,omitempty"`
	// StoppedBy is the tracer that keeps it stopped, 0 for none.
	StoppedBy event.PID `json:"stopped_by"`
}

// waiting gives all waits in words, the main thread's first.
func (s *speaker) waiting(r *rules.Result) []Wait {
	all := []Wait{}
	for _, j := range mainFirst(r) {
		w := Wait{PID: max(j.PID, 0), TID: max(j.TID, 0), Comm: j.Comm, Syscall: j.Syscall, For: j.For, SinceUS: j.IdleUS, On: []On{}, Enders: []Ender{},
			Stuck: j.Stuck, Text: event.Text(s.whole(j)), Ends: event.Text(s.ends(j))}
		for i := range j.On {
			on := &j.On[i]
			one := On{Op: on.Op, FD: on.FD, Local: on.Local, Peer: on.Peer, Path: on.Path, Mount: on.Mount, Lock: on.Lock, Outside: on.Outside}
			if on.Target != nil {
				one.Kind, one.Link = on.Target.Kind, on.Target.Link
			}
			w.On = append(w.On, one)
			for _, e := range on.Enders {
				if slices.ContainsFunc(w.Enders, func(o Ender) bool { return o.PID == e.PID && o.TID == e.TID && o.How == e.How }) {
					continue
				}
				one := Ender{PID: e.PID, TID: e.TID, Comm: e.Comm, FD: e.FD, How: e.How}
				if next := thatIs(j, e); next != nil {
					one.State = rules.Doing[next.State]
					if next.State == "t" && next.Tracer != nil {
						one.StoppedBy = next.Tracer.PID
					}
				}
				w.Enders = append(w.Enders, one)
			}
		}
		all = append(all, w)
	}
	return all
}

func mainFirst(r *rules.Result) []*rules.Wait {
	all := slices.Clone(r.Waits)
	slices.SortStableFunc(all, func(a, b *rules.Wait) int {
		rank := func(w *rules.Wait) int {
			switch {
			case r.Main != nil && w.TID == r.Main.TID:
				return 0
			case w.PID == r.Debugger.PID:
				return 1
			}
			return 2
		}
		return rank(a) - rank(b)
	})
	return all
}

// thatIs gives the thread that stands for an ender, nil where it was not looked at.
func thatIs(j *rules.Wait, e event.Ender) *event.Wait {
	i := slices.IndexFunc(j.Next, func(w *event.Wait) bool { return w.PID == e.PID && (e.TID == 0 || w.TID == e.TID) })
	if i < 0 {
		return nil
	}
	return j.Next[i]
}

// process names one, of those that wait or could end a wait.
func process(comm event.Text, pid event.PID) string {
	switch {
	case pid <= 0:
		return string(comm)
	case comm == "":
		return fmt.Sprintf("pid %d", pid)
	}
	return fmt.Sprintf("%s (pid %d)", comm, pid)
}

// thread names a thread: by its process where it is the first one.
func thread(w *event.Wait) string {
	if event.PID(w.TID) == w.PID {
		return process(w.Comm, w.PID)
	}
	return fmt.Sprintf("thread %d of %s", w.TID, process(w.Comm, w.PID))
}

// enders names those who could end a wait.
func (s *speaker) enders(j *rules.Wait, of *event.Awaited) string {
	const shown = 3
	var names []string
	for _, e := range of.Enders {
		if len(names) == shown {
			names = append(names, count(int64(len(of.Enders)-shown), "other"))
			break
		}
		name := process(e.Comm, e.PID)
		if e.PID == j.PID {
			name = process(j.Comm, j.PID) + " itself"
			if e.TID != 0 && e.TID != j.TID {
				name = fmt.Sprintf("thread %d of its own", e.TID)
			}
		} else if e.TID != 0 && event.PID(e.TID) != e.PID {
			name = fmt.Sprintf("thread %d of %s", e.TID, name)
		}
		names = append(names, name)
	}
	return List(names)
}

// does says in two words what a thread does.
func does(w *event.Wait, from event.PID) string {
	if w == nil {
		return ""
	}
	if frozen(w) {
		return "is frozen by its cgroup"
	}
	switch w.State {
	case "R":
		return "runs"
	case "T":
		return "is stopped by job control" + inBrackets(w.StopSignal)
	case "t":
		switch {
		case w.Tracer == nil:
			return "is stopped by its tracer"
		case w.Tracer.PID == from:
			return "is kept stopped by it"
		}
		return "is kept stopped by " + process(w.Tracer.Comm, w.Tracer.PID)
	case "Z", "X":
		return "has ended"
	}
	switch {
	case w.Syscall == "nanosleep" || w.Syscall == "clock_nanosleep":
		return "sleeps"
	case w.Syscall != "":
		return "is itself in " + w.Syscall
	}
	return ""
}

// waits says what a thread waits for, without a subject; "" for nothing.
func (s *speaker) waits(j *rules.Wait) string {
	if j == nil {
		return ""
	}
	text := s.waitsFor(j)
	if j.Syscall != "" && j.For != rules.ForJobControl && !strings.Contains(text, " in "+j.Syscall) {
		in := "in " + j.Syscall
		if j.TimeoutUS.Known && !j.Prompt {
			in += ", which returns after " + lasted(event.Micros(j.TimeoutUS.Val)) + " at most"
		}
		text += inBrackets(in)
	}
	const worthSaying = 1e6
	if j.IdleUS.Val >= worthSaying && !j.Prompt {
		text += ", for " + lasted(event.Micros(j.IdleUS.Val)) + " already"
	}
	return text
}

// whole is waits, and what the one does who could end it.
func (s *speaker) whole(j *rules.Wait) string {
	text := s.waits(j)
	if j != nil && j.Meant != nil && len(j.Meant.Enders) == 1 && j.State != "t" && !j.Prompt {
		e := j.Meant.Enders[0]
		if does := does(thatIs(j, e), j.PID); does != "" && e.PID != j.PID {
			text += fmt.Sprintf("; %s %s", e.Comm, does)
		}
	}
	return text
}

func (s *speaker) waitsFor(j *rules.Wait) string {
	on := j.Meant
	if on == nil {
		on = &event.Awaited{}
	}
	where := ""
	if on.FD.Known && on.Target != nil {
		where = fmt.Sprintf("descriptor %d, %s", on.FD.Val, describe(*on.Target))
	}
	say := fmt.Sprintf
	others := s.enders(j, on)
	switch j.For {
	case rules.ForUser:
		return s.forUser(j, where, others)
	case rules.ForInferior:
		switch {
		case j.Server != nil:
			return say("waits for its inferior, %s, by %s%s, and is not at its prompt", process(j.Inferior.Comm, j.Inferior.PID),
				process(j.Server.Comm, j.Server.PID), that(string(on.Peer), " at %s"))
		case others == "":
			return "waits for its inferior"
		case j.Program == nil || j.Program.Serves():
			return "waits for its inferior, " + others
		}
		return say("waits for its inferior, %s, and is not at its prompt", others)
	case rules.ForChild:
		return s.forChild(on, others)
	case rules.ForThread:
		switch {
		case on.Op == event.AwaitThread:
			return say("waits for the end of %s", others)
		case on.ID.Known:
			return say("waits for a lock held by %s", others)
		case runsCommand(j):
			return "waits for a thread of its own that carries out a command, and is not at its prompt"
		}
		return "waits for another thread of its own" + that(where, ", on %s")
	case rules.ForReader:
		if others == "" {
			others = "somebody"
		}
		return say("waits for %s to read from the other end of %s, which is full", others, where)
	case rules.ForWriter:
		if others == "" {
			return "waits for data on " + where
		}
		if !slices.ContainsFunc(on.Enders, func(e event.Ender) bool { return e.PID != j.PID }) {
			others = "only " + others
		}
		return say("waits for data on %s, which %s can write", where, others)
	case rules.ForPeer, rules.ForNetwork:
		return s.forPeer(j, on, where, others)
	case rules.ForFilesystem:
		return s.forFilesystem(on, where, others)
	case rules.ForLock:
		return s.forLock(on, where, others)
	case rules.ForOpen:
		end := map[string]string{"r": "writing", "w": "reading"}[on.Access]
		if end == "" || on.Target == nil {
			return say("waits for %s to be opened", on.Path)
		}
		return say("waits in the open of %s, a FIFO that nobody has open for %s", on.Path, end)
	case rules.ForTimer:
		if j.Program != nil && !j.Program.Serves() {
			return "sleeps, and is not at its prompt"
		}
		return "sleeps"
	case rules.ForSignal:
		return "waits for a signal"
	case rules.ForJobControl:
		if frozen(j.Wait) {
			return "is frozen by its cgroup" + that(string(on.Path), ", %s")
		}
		if j.State == "T" {
			return "is stopped by job control" + inBrackets(j.StopSignal)
		}
		return say("is kept stopped by its tracer%s", that(others, ", %s"))
	case rules.ForNobody:
		if on.ID.Known {
			return say("waits for a lock that thread %d held, which has ended", on.ID.Val)
		}
		return "waits for another thread to wake it, and has none"
	}
	switch {
	case on.Op == event.AwaitFault:
		return "waits for a page of its memory"
	case on.Op == event.AwaitRing:
		return say("waits for requests of io_uring (%s)", where)
	case where != "":
		return "is blocked on " + where
	case on.Path != "":
		return say("is blocked on %s", on.Path)
	case j.Error != "":
		return "may not be looked at" + inBrackets(j.Error)
	case len(j.On) == 0 && j.Syscall != "":
		return "is in " + j.Syscall + "; what it waits for there is not in the evidence"
	case j.Wchan != "":
		return say("is blocked in the kernel's %s", j.Wchan)
	}
	return "is blocked"
}

// that puts a text into a phrase, if there is one.
func that(text, phrase string) string {
	if text == "" {
		return ""
	}
	return fmt.Sprintf(phrase, text)
}

func (s *speaker) forUser(j *rules.Wait, where, others string) string {
	kind := event.Unknown
	if j.Meant.Target != nil {
		kind = j.Meant.Target.Kind
	}
	switch {
	case j.Prompt && kind == event.TTY:
		return "waits for its user, at its prompt"
	case j.Prompt:
		return fmt.Sprintf("waits for its next command, on %s%s", where, that(others, ", from %s"))
	case j.Program != nil && j.Background:
		return fmt.Sprintf("waits for input from %s, whose foreground another process group has", where)
	}
	return "waits for its user's input on " + where
}

func (s *speaker) forChild(on *event.Awaited, others string) string {
	what := "a child or a signal"
	switch {
	case others != "" && on.Op == event.AwaitVfork:
		return fmt.Sprintf("waits for %s, its child, to run another program or to end (vfork)", others)
	case others != "":
		what = others
		if len(on.Enders) == 1 {
			what += ", a process that it has started"
		}
	case on.ID.Known && on.ID.Val > 0:
		what = fmt.Sprintf("pid %d", on.ID.Val)
	}
	if len(s.Inferiors) > 0 && others != "" {
		what += ", and not for its inferior"
	}
	return "waits for " + what
}

func (s *speaker) forPeer(j *rules.Wait, on *event.Awaited, where, others string) string {
	what := "an answer"
	switch {
	case on.Op == event.AwaitAccept:
		return "waits for a connection" + that(string(on.Local), " at %s")
	case on.Op == event.AwaitPermit:
		return "waits for the one who supervises its calls (seccomp)" + that(others, ", probably %s")
	case on.Op == event.AwaitQueue:
		return "waits for a message" + that(others, ", which %s sent the last time")
	case j.Debuginfod:
		what = "a debuginfod server"
	case j.Meant.Target != nil && j.Meant.Target.Kind == event.TTY && on.Op == event.AwaitWrite:
		return fmt.Sprintf("waits for its output to be taken by the other side of a terminal, %s%s", where, that(others, ", held by %s"))
	case j.Meant.Target != nil && j.Meant.Target.Kind == event.TTY:
		return fmt.Sprintf("waits for the other side of a terminal, %s%s", where, that(others, ", held by %s"))
	case slices.ContainsFunc(on.Enders, func(e event.Ender) bool { return e.How == event.HowListener }):
		what = "its connection to be accepted"
	case on.Op == event.AwaitWrite:
		what = "its data to be taken"
	case on.Op == event.AwaitConnect:
		what = "a connection"
	}
	text := "waits for " + what + that(string(on.Peer), " at %s")
	if on.Peer == "" {
		text += that(where, " on %s")
	}
	if j.For == rules.ForNetwork {
		return text + ", which is not on this machine, or behind address translation"
	}
	if len(on.Enders) == 1 && on.Enders[0].PID != j.PID {
		e := on.Enders[0]
		return text + fmt.Sprintf(" (%s, pid %d)", e.Comm, e.PID)
	}
	return text + that(others, ", held by %s")
}

func (s *speaker) forFilesystem(on *event.Awaited, where, others string) string {
	what := string(on.Path)
	if what == "" {
		what = where
	}
	if m := on.Mount; m != nil {
		what += fmt.Sprintf(", on %s (%s", m.Point, m.Type)
		if on.Outside == event.OutsideHost && m.Source != "" {
			what += " of " + string(m.Source)
		}
		what += ")"
	}
	return fmt.Sprintf("waits for the file system of %s%s", what, that(others, ", which %s serves"))
}

func (s *speaker) forLock(on *event.Awaited, where, others string) string {
	switch {
	case on.Op == event.AwaitSem:
		return fmt.Sprintf("waits for semaphore set %d%s", on.ID.Val, that(others, ", which %s used last"))
	case on.Op == event.AwaitFutex && on.ID.Known:
		return fmt.Sprintf("waits for a lock in memory that it shares, held by %s", others)
	case on.Op == event.AwaitFutex:
		return "waits to be woken by a process that has the same memory" + that(others, ": %s")
	}
	if on.Path != "" {
		where = string(on.Path)
	}
	kind := map[string]string{"FLOCK": "a lock (flock)", "POSIX": "a lock (fcntl)", "OFDLCK": "a lock (OFD)", "LEASE": "the end of a lease"}[on.Lock]
	return fmt.Sprintf("waits for %s of %s%s", kind, where, that(others, ", held by %s"))
}

// ends says what would end a wait, and what can be done.
func (s *speaker) ends(j *rules.Wait) string {
	if j == nil || j.Stuck && j.For != rules.ForInferior {
		return ""
	}
	on := j.Meant
	if on == nil {
		on = &event.Awaited{}
	}
	only := event.Ender{}
	var next *event.Wait
	for _, e := range on.Enders {
		if only.PID == 0 || only.PID == j.PID && e.PID != j.PID { // another process rather than itself
			only, next = e, thatIs(j, e)
		}
	}
	say := fmt.Sprintf
	interrupt := "" // programs without a prompt have their own ideas of it
	switch {
	case !j.Program.TakesCommands():
	case j.TTYPGRP.Known || !j.PGRP.Known: // a log does not tell
		interrupt = "Ctrl-C"
	case j.Program.Is("gdb"): // without a terminal, as a front end starts it
		interrupt = say("kill -INT %d", j.PID)
	}
	switch {
	case next != nil && frozen(next):
		return thaw
	case next != nil && next.State == "T":
		return say("When %s goes on: fg in its shell, or kill -CONT %d.", process(next.Comm, next.PID), next.PID)
	case j.Debuginfod:
		return "When the server answers, or at DEBUGINFOD_TIMEOUT (90 s without progress), and then again for the next file. " +
			"To do without: Ctrl-C, set debuginfod enabled off; or start with DEBUGINFOD_URLS= in the environment, or with DEBUGINFOD_TIMEOUT=5."
	}
	switch j.For {
	case rules.ForUser:
		switch {
		case j.Prompt:
			return ""
		case j.Background:
			return "fg in its shell."
		}
		return "Input."
	case rules.ForInferior:
		switch {
		case next != nil && next.State == "D": // TASK_UNINTERRUPTIBLE: it takes no signal and no stop
			return say("When %s gets what it waits for itself: until then it cannot be stopped, and Ctrl-C does not help.", process(next.Comm, next.PID))
		case j.AtTerminal != nil && j.Deaf == 0:
			return "The program waits for input at the terminal." + that(interrupt, " Or %s, which stops it.")
		}
		stops := that(interrupt, "; %s stops it")
		switch {
		case j.Deaf == 0 || interrupt == "":
		case j.Foreground != 0:
			stops = say(". Ctrl-C does not stop it, as the terminal's foreground is another process group, %d: kill -INT %d does", j.Foreground, j.Deaf)
		default:
			stops = say(". It blocks SIGINT, so %s does not stop it: kill -STOP %d does, and then \"signal 0\" lets it go on", interrupt, j.Deaf)
		}
		switch {
		case j.AtTerminal != nil:
			return "The program waits for input at the terminal" + stops + "."
		case j.Stuck && stops != "":
			return "Nothing that the program does, as nobody can end its own wait" + stops + "."
		case j.Stuck:
			return ""
		}
		return "When the program stops or ends" + stops + "."
	case rules.ForThread:
		if runsCommand(j) && len(s.Inferiors) > 0 {
			return "The end of that command; if the program runs by it, Ctrl-C stops that."
		}
	case rules.ForChild:
		if j.AtTerminal != nil {
			who := "It"
			if j.AtTerminal.PID != only.PID { // a shell's command, say
				who = process(j.AtTerminal.Comm, j.AtTerminal.PID)
			}
			return say("%s waits for input at the terminal. Or Ctrl-C, or kill %d.", who, j.AtTerminal.PID)
		}
		if only.PID > 0 {
			return say("The end of that process: Ctrl-C reaches it at the same terminal; else kill %d.", only.PID)
		}
	case rules.ForPeer:
		if on.Op == event.AwaitAccept {
			return "A client that connects."
		}
		if on.Op == event.AwaitWrite && on.Target != nil && on.Target.Kind == event.TTY {
			return "Ctrl-Q at that terminal, if Ctrl-S has stopped its output; else when the other side reads again."
		}
		if j.Program != nil && j.Program.Is("gdb") {
			return "An answer" + that(map[bool]string{true: "the end of that process"}[only.PID > 0], ", %s") +
				", or, of a remote target, gdb's remotetimeout." + that(interrupt, " %s interrupts it, a second one gives up waiting.")
		}
		if only.PID > 0 {
			return say("When %s does its part, or ends.", process(only.Comm, only.PID))
		}
	case rules.ForNetwork:
		return "An answer from there, or the end of the connection."
	case rules.ForOpen:
		if on.Access == "w" {
			return say("When somebody opens it to read: for example cat %s shows what comes.", Quote(string(on.Path)))
		}
		return say("When somebody opens it: for example : > %s ends it as an empty file does.", Quote(string(on.Path)))
	case rules.ForLock, rules.ForReader, rules.ForWriter:
		if on.Target != nil && strings.Contains(string(on.Target.Link), "notify") { // inotify(7), fanotify(7)
			return "A change of a file or folder that it watches."
		}
		if j.AtTerminal != nil {
			return say("%s waits for input at the terminal.", process(j.AtTerminal.Comm, j.AtTerminal.PID))
		}
		if only.PID > 0 && only.PID != j.PID {
			return say("When %s does its part, or ends.", process(only.Comm, only.PID))
		}
	case rules.ForFilesystem:
		return "When its server answers."
	case rules.ForJobControl:
		if frozen(j.Wait) {
			return thaw
		}
		if j.State == "T" {
			if j.StopSignal == "SIGTTIN" || j.StopSignal == "SIGTTOU" {
				return say("It is in the background and has touched its terminal: fg in its shell.")
			}
			if j.Background { // the shell has been told which signal, and the kernel has forgotten it
				return say("fg in its shell. In the background kill -CONT %d is not enough: it is stopped again as soon as it touches its terminal.", j.PID)
			}
			return say("fg in its shell, or kill -CONT %d.", j.PID)
		}
		return "When its tracer lets it go on."
	}
	if j.TimeoutUS.Known {
		return say("The call returns by itself, after %s at most.", lasted(event.Micros(j.TimeoutUS.Val)))
	}
	return ""
}

// runsCommand says whether a thread is the first of an lldb, which reads commands, and has
// others carry them out.
func runsCommand(j *rules.Wait) bool {
	return j.Program != nil && j.Program.Is("lldb") && event.PID(j.TID) == j.PID && !j.Stuck
}

// frozen says whether a thread's cgroup is frozen.
func frozen(w *event.Wait) bool { return len(w.On) == 1 && w.On[0].Op == event.AwaitThaw }

const thaw = "When that is thawed: docker unpause, podman unpause, systemctl thaw; else 0 in its cgroup.freeze (of cgroup v1: THAWED in its freezer.state)."

// Link is a thread in a chain of those that wait for the next.
type Link struct {
	Who, Does event.Text
	// Circle: it is one of those that wait for each other.
	Circle bool
}

// chain puts threads that wait for the next one into words; the last circle ones are
// a circle.
func (s *speaker) chain(threads []*rules.Wait, circle int) []Link {
	var links []Link
	for i, w := range threads {
		l := Link{Who: event.Text(thread(w.Wait)), Does: event.Text(s.waits(w)), Circle: i >= len(threads)-circle}
		if w.State == "R" {
			l.Does = "runs"
			if w.SampledUS.Val > 0 {
				l.Does = event.Text(fmt.Sprintf("runs (%d %% of a CPU)", min(100, 100*w.BusyUS.Val/w.SampledUS.Val)))
			}
		}
		links = append(links, l)
	}
	return links
}

// whyStuck is the cause of a wait that cannot end.
func (s *speaker) whyStuck(f *rules.Finding) string {
	first, last := f.Way[0], f.Way[len(f.Way)-1]
	say := fmt.Sprintf
	if held, waits, ok := f.Held(); ok {
		switch f.Rule {
		case rules.RuleStoppedInferior:
			return say("%s is kept stopped by %s, which debugs it. It could go on only if %s let it, and %s waits for it, directly or through others.",
				thread(held.Wait), process(held.Tracer.Comm, held.Tracer.PID), held.Tracer.Comm, held.Tracer.Comm)
		case rules.RuleInferiorDeadlock:
			return say("Of the threads of %s only some may run, as in a call of a function or with scheduler-locking. %s waits for %s, and that one is kept stopped by %s, which waits for the first.",
				process(waits.Comm, waits.PID), thread(waits.Wait), thread(held.Wait), process(held.Tracer.Comm, held.Tracer.PID))
		}
	}
	switch f.Rule {
	case rules.RuleMutualWait:
		if len(f.Cycle) == 0 {
			return say("%s waits, through others, for %s, which nobody can wake.", thread(first.Wait), thread(last.Wait))
		}
		return "Each of these processes waits for the next one, and the last for the first. None of them is stopped, and none has a time-out."
	}
	if len(f.Way) == 1 {
		return say("Only %s itself could end this, and it waits.", thread(first.Wait))
	}
	return say("All that could end this is in %s itself, and waits.", process(last.Comm, last.PID))
}

// stuckSummary is the summary of a wait that cannot end.
func (s *speaker) stuckSummary(f *rules.Finding, others int) string {
	first := f.Way[0]
	text := thread(first.Wait) + " " + s.waits(first)
	end := map[rules.Rule]string{
		rules.RuleSelfWait:         "Nobody else can end that",
		rules.RuleStoppedInferior:  "That is a deadlock: who could end it is stopped by the debugger itself",
		rules.RuleMutualWait:       "That is a deadlock: a circle of processes that wait for each other",
		rules.RuleInferiorDeadlock: "That is a deadlock: the program waits for a thread that the debugger keeps stopped",
	}[f.Rule]
	if f.Confidence != rules.Certain {
		end += ", as far as could be seen"
	}
	return capital(text) + ". " + end + "." + moreFindings(others)
}

func (s *speaker) together(f rules.Together) string {
	if f.Threads == 1 {
		return "The thread has not run between two looks, and the call has no time-out."
	}
	return fmt.Sprintf("None of these %d threads has run between two looks, so that all waited at one moment; none of the calls has a time-out.", f.Threads)
}

// calm is the summary of a wait that is no finding.
func (s *speaker) calm(r *rules.Result, who string) string {
	j := r.Main.Wait
	text := who + " " + s.whole(j)
	checked := s.checked(r)
	if checked != "" && j.Prompt {
		return text + "; " + checked
	}
	text += "."
	if ends := s.ends(j); ends != "" {
		text += " What ends it: " + ends
	}
	if checked != "" {
		text += " " + capital(checked)
	}
	return text
}

// checked says which names were found to be right, and that others were not; "" where there was
// nothing to check.
func (s *speaker) checked(r *rules.Result) string {
	c := r.Checked
	var right []string
	if c.Libraries > 0 {
		right = append(right, count(int64(c.Libraries), "library"))
	}
	switch {
	case c.Programs == 1:
		right = append(right, "the program")
	case c.Programs > 1:
		right = append(right, count(int64(c.Programs), "program"))
	}
	text := ""
	if len(right) == 1 && c.Libraries+c.Programs == 1 {
		text = "the name of " + right[0] + " leads it to the right file"
	} else if len(right) > 0 {
		text = "the names of " + List(right) + " lead it to the right files"
	}
	var not []string
	if n := len(r.Risks); n > 0 {
		not = append(not, count(int64(n), "name")+" would lead it to a wrong one")
	}
	if c.Unsure > 0 {
		not = append(not, count(int64(c.Unsure), "name")+" could not be checked")
	}
	if c.Unlisted > 0 {
		not = append(not, "which libraries there are could not be read")
	}
	switch {
	case text == "" && len(not) == 0:
		return ""
	case text == "":
		return List(not) + "."
	case len(not) > 0:
		return text + "; " + List(not) + "."
	}
	return text + "."
}

// computes says how much a thread runs that does not wait.
func (s *speaker) computes(r *rules.Result) string {
	w := r.Runs(r.Main.TID)
	if w == nil || !w.SampledUS.Known {
		return ""
	}
	text := fmt.Sprintf("computes (%d %% of a CPU, %s of CPU time so far)", min(100, 100*w.BusyUS.Val/max(w.SampledUS.Val, 1)), lasted(event.Micros(w.CPUUS.Val)))
	for _, on := range w.On {
		switch {
		case on.Op != event.AwaitCPU || on.Target == nil:
		case on.Access == "r":
			text += fmt.Sprintf("; it reads %s (%s)", on.Target.Link, size(on.Size.Val))
		default:
			text += fmt.Sprintf("; if it reads a file, then most likely %s (%s), the largest that it has open", on.Target.Link, size(on.Size.Val))
		}
	}
	return text
}

// turns says that a debugger lets its inferior run in small steps.
func (s *speaker) turns(n int64) string {
	return fmt.Sprintf("lets its inferior run in small steps (%d in 20 ms), as for the condition of a breakpoint, a watchpoint without hardware, or the end of a long loop; "+
		"Ctrl-C stops that", n)
}

// size is a number of bytes in words.
func size(n int64) string {
	switch {
	case n < 1<<10:
		return count(n, "byte")
	case n < 1<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}
