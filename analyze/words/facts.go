package words

import (
	"fmt"
	"strings"

	"whosefd/analyze/rules"
	"whosefd/tracer/event"
)

// Evidence is one fact, as a plain sentence and as data. The kinds are those of
// [rules.Proof].
type Evidence struct {
	Kind string     `json:"kind"`
	Text event.Text `json:"text"`
	Fact any        `json:"fact,omitempty"`
}

// evidence says the facts of a finding.
func (s *speaker) evidence(f *rules.Finding) []Evidence {
	all := []Evidence{}
	for _, fact := range f.Facts {
		all = append(all, Evidence{string(fact.Proof()), event.Text(s.fact(fact)), fact})
	}
	return all
}

// fact says a fact as a sentence.
func (s *speaker) fact(fact rules.Fact) string {
	say := fmt.Sprintf
	me := s.debugger()
	switch f := fact.(type) {
	case rules.Blocked:
		return s.blocked(f)
	case rules.OpenedName:
		return s.opened(f)
	case rules.WasRead:
		return s.wasRead(f)
	case rules.SameFile:
		file := describe(f.File) + inBrackets(identity(f.File))
		if len(f.Others) == 0 {
			return say("Descriptor %d is %s.", f.FD, file)
		}
		return say("Descriptor %d is %s, the same file%s as %s's own %s.", f.FD, describe(f.File), inBrackets(identity(f.File)), me, numbered("descriptor", f.Others))
	case rules.NotOpened:
		return say("No descriptor of %s shows that it opened this name. It is what %s does with each program and library that it sees, so it is to be presumed.", me, me)
	case rules.NoneOpen:
		return say("%s has open neither this program nor any of %s that it has mapped: a debugger that had found the program would have found these.",
			capital(s.who(s.Debugger.PID)), theLibraries(f.Libraries))
	case rules.Holders:
		return s.holders(f)
	case rules.Origin:
		return s.origin(f)
	case rules.LinkMap:
		whom := s.inferior(f.PID)
		if f.WasRead {
			return say("Before that it read the entry of the list of libraries (link_map) of %s at %s, which points to this name, for an object loaded at %s: it belongs to that process.",
				whom, f.Addr, f.LoadAddr)
		}
		belongs := "belongs"
		if s.isCore(f.PID) {
			belongs = "belonged"
		}
		return say("The name %s stands in entry %d of the list of libraries (link_map) of %s, at %s, for an object loaded at %s: it %s to that process.",
			f.Name, f.Index.Val, s.who(f.PID), f.Addr, f.LoadAddr, belongs)
	case rules.CoreRead:
		return say("%s has opened %s, which is a core file by its header, and looks into no process: nothing else could have given it such a name.", capital(me), describe(f.File))
	case rules.MapText:
		return say("%s is what the kernel shows in /proc/%d/maps, at %s, of a file that %s has mapped and that has no path (any more). The program itself calls it %s.",
			f.Text, f.PID, f.Start, s.who(f.PID), f.Name)
	case rules.Program:
		return say("%s is what the kernel says of the program of %s (/proc/%d/exe). A debugger that attaches takes it for the path of the program.", f.Name, s.who(f.PID), f.PID)
	case rules.Resolves:
		why := ""
		if f.LeaderEnded {
			why = " any more: its first thread has ended, and /proc/self shows the descriptors of that one"
		}
		return say("In %s the name leads to %s; in %s to %s%s.", me, describe(f.Debugger), s.who(f.PID), describe(f.Inferior), why)
	case rules.Mapped:
		return s.mapped(f)
	case rules.Signals:
		return s.signals(f)
	case rules.OnStack:
		names := make([]string, 0, len(f.Frames))
		for _, frame := range f.Frames[:min(len(f.Frames), 6)] {
			names = append(names, fmt.Sprintf("#%d%s", frame.Frame, inBrackets(frame.Function)))
		}
		noun := "frames"
		if len(f.Frames) == 1 {
			noun = "frame"
		}
		return say("On the stack of thread %d the text %s is held by %s %s.", f.TID, f.Name, noun, List(names))
	case rules.Scripted:
		return say("It is not %s itself that does so when it looks for symbols, but a %s script that it runs: the frames #%d to #%d of thread %d, between the call and %[1]s's own, are of %[2]s's interpreter%[6]s.",
			me, f.Language, f.First, f.Last, f.TID, inBrackets(string(f.Module)))
	case rules.ShutOut:
		more := ""
		if f.More > 0 {
			more = " The same holds for " + count(int64(f.More), "more name") + "."
		}
		return say("%s opens each file inside the mount namespace of %s, which takes CAP_SYS_ADMIN in its own user namespace (setns(2)): it has not got that.%s", capital(me), s.who(f.PID), more)
	case rules.InMemory:
		if f.Stream != 0 {
			return say("The read is that of the stream (FILE) at %s, which has this descriptor and the read's buffer; the structure of %s at %s has that stream and, at %s, the name %s: "+
				"what it reads was opened by that name.", f.Stream, s.who(s.Debugger.PID), f.Object, f.Addr, f.Name)
		}
		return say("The text %s stands on the %s of %s, at %s, and leads it to that very file.", f.Name, f.In, s.who(s.Debugger.PID), f.Addr)
	case rules.Ambiguous:
		if len(f.Others) == 0 {
			return "Whether the file was replaced, or the inferior has another root directory or other mounts than the debugger, is not in the evidence."
		}
		names := make([]string, len(f.Others))
		for i, o := range f.Others {
			names[i] = fmt.Sprintf("%s of %s", o.Name, s.who(o.PID))
		}
		return say("It could as well be %s: that leads %s to the same file.", List(names), me)
	case rules.Waits:
		return capital(thread(f.Wait.Wait)) + " " + s.waits(f.Wait) + "."
	case rules.Together:
		return s.together(f)
	case rules.NotSeen:
		return s.notSeen(f)
	}
	return ""
}

// isCore says whether an inferior is a core file.
func (s *speaker) isCore(pid event.PID) bool {
	return s.Inferiors[pid] != nil && s.Inferiors[pid].Core != nil
}

// inferior names an inferior that may not be known.
func (s *speaker) inferior(pid event.PID) string {
	if pid == 0 {
		return "the inferior"
	}
	return s.who(pid)
}

func (s *speaker) blocked(f rules.Blocked) string {
	where := ""
	if f.Wchan != "" && f.Wchan != "0" {
		where = fmt.Sprintf(", in the kernel's %s", f.Wchan)
	}
	is := "is blocked"
	if f.Killed != "" {
		is, where = "was blocked", ", when it was killed by "+f.Killed
	}
	on := fmt.Sprintf("on descriptor %d", f.FD.Val)
	if f.Name != "" {
		on = fmt.Sprintf("of %s", f.Name)
	}
	return fmt.Sprintf("%s %s in %s %s%s.", s.threadOf(f.TID), is, f.Syscall, on, where)
}

func (s *speaker) opened(f rules.OpenedName) string {
	called := fmt.Sprintf("%s called %s of %s", s.actor(f.T, f.TID), f.Syscall, f.Name)
	if f.Unfinished {
		return called + ", which has not returned."
	}
	if f.Times > 1 {
		called += fmt.Sprintf(", %d times", f.Times)
	}
	if f.Errno != "" {
		return called + ", which failed with " + f.Errno + "."
	}
	return fmt.Sprintf("%s, and got descriptor %d, %s%s.", called, f.FD.Val, describe(f.File), inBrackets(identity(f.File)))
}

func (s *speaker) wasRead(f rules.WasRead) string {
	me := capital(s.debugger())
	switch {
	case f.Bytes > 0:
		begins := ""
		if f.NotELF {
			begins = " It does not begin as a library does (ELF)."
		}
		return fmt.Sprintf("%s then read %s from it in %s.%s", me, count(f.Bytes, "byte"), count(f.Calls, "call"), begins)
	case f.Calls > 0:
		return me + " then read from it, and got no byte."
	case f.Errno != "":
		return "Reading from it failed with " + f.Errno + "."
	}
	return me + " then mapped it into its memory."
}

func (s *speaker) holders(f rules.Holders) string {
	me := s.debugger()
	own := fmt.Sprintf("%s itself holds a write end of this pipe (%s)", me, numbered("descriptor", f.Own))
	searched := ""
	if f.Searched > 0 {
		searched = fmt.Sprintf(" The descriptors of %s were looked at.", count(int64(f.Searched), "process"))
	}
	switch {
	case !f.Looked:
		return capital(own) + "."
	case len(f.Others) > 0:
		names := make([]string, 0, len(f.Others))
		for _, h := range f.Others[:min(len(f.Others), 8)] {
			names = append(names, fmt.Sprintf("%s (pid %d, descriptor %d)", h.Comm, h.PID, h.FD))
		}
		return fmt.Sprintf("This pipe can be written to by %s: what %s reads is meant for somebody else.%s", List(names), me, searched)
	case len(f.Own) == 0:
		return "Nobody holds a write end of this pipe." + searched
	case f.Complete:
		return fmt.Sprintf("Only %s: nobody else can write to it or close it, so the read can never end.%s", own, searched)
	}
	return fmt.Sprintf("Of the processes that could be looked at, only %s.%s", own, searched)
}

func (s *speaker) origin(f rules.Origin) string {
	where, shown := "", ""
	if f.Index.Known {
		where = fmt.Sprintf(", the name in entry %d of its list of libraries", f.Index.Val)
	}
	if f.Known != f.Size {
		shown = fmt.Sprintf(" (of its %d bytes the log shows %d)", f.Size, f.Known)
	}
	return fmt.Sprintf("%s read this name out of the memory of %s, at %s%s%s%s.", capital(s.debugger()), s.inferior(f.PID), f.Addr, where, shown, s.before(f.AgoUS))
}

func (s *speaker) mapped(f rules.Mapped) string {
	at := ""
	if f.Start != 0 {
		at = fmt.Sprintf(" at %s-%s", f.Start, strings.TrimPrefix(f.End.String(), "0x"))
	}
	closed := ""
	if f.ClosedFD.Known {
		again := ""
		if f.Reused {
			again = " and its number used again"
		}
		closed = fmt.Sprintf(" Its descriptor %d is no longer that file: it was closed%s.", f.ClosedFD.Val, again)
	}
	if s.isCore(f.PID) {
		return fmt.Sprintf("What %s had mapped%s for it was %s (%s). The process has ended: if no other one has that file, it is gone.",
			s.who(f.PID), at, describe(f.File), identity(f.File))
	}
	reach := " No path is known by which it can be opened now; for a file without a descriptor that takes root (map_files)."
	if f.Reachable != "" {
		reach = fmt.Sprintf(" The same file can be opened now as %s.", f.Reachable)
	}
	return fmt.Sprintf("What %s has mapped%s for it is %s (%s).%s%s", s.who(f.PID), at, describe(f.File), identity(f.File), closed, reach)
}

// signals says why Ctrl-C does not end a hanging read.
func (s *speaker) signals(f rules.Signals) string {
	var parts []string
	what := "read"
	if f.Opens {
		what = "open"
	}
	who := s.who(s.Debugger.PID)
	if f.Foreground != 0 {
		parts = append(parts, fmt.Sprintf("the terminal's foreground process group is that of %s: Ctrl-C sends SIGINT there, and not to %s", s.who(f.Foreground), who))
	}
	switch f.SIGINT {
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
	return "Why Ctrl-C does not help: " + strings.Join(parts, "; ") + "."
}

func (s *speaker) notSeen(f rules.NotSeen) string {
	switch f.What {
	case rules.NoHolders:
		return "Who else holds this pipe open is not in the evidence."
	case rules.NoIntended:
		return "What the inferior means by this name is not in the evidence."
	case rules.NoDevice:
		return "Device numbers of memory maps and of files do not always agree, and only the maps could be read: that the two files differ is not proved."
	}
	names := make([]string, 0, 8)
	for _, u := range f.Processes[:min(len(f.Processes), 5)] {
		names = append(names, fmt.Sprintf("%s (pid %d: %s)", u.Comm, u.PID, u.Error))
	}
	if more := len(f.Processes) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	end := "One of these could hold the pipe; run as root to be certain."
	switch {
	case f.What == rules.NoEnders && f.Excluded:
		end = "But they are older than what is waited for here: they can have neither made nor inherited it."
	case f.What == rules.NoEnders:
		end = "One of these could end it; run as root to be certain."
	case f.Excluded:
		end = fmt.Sprintf("But %s made the pipe for itself (its descriptors are close-on-exec) and is younger than these: they cannot have inherited it.", s.debugger())
	}
	return fmt.Sprintf("Not looked at, since this user may not: %s. %s", List(names), end)
}

func theLibraries(n int) string {
	if n == 1 {
		return "the one library"
	}
	return fmt.Sprintf("the %d libraries", n)
}
