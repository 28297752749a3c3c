package rules

import (
	"slices"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// The rules of the second invariant: every wait must have somebody who can end it.
const (
	RuleSelfWait         Rule = "self-wait"         // nobody but the process itself could end it
	RuleStoppedInferior  Rule = "stopped-inferior"  // who could, the debugger keeps stopped
	RuleMutualWait       Rule = "mutual-wait"       // a circle of processes that are not stopped
	RuleInferiorDeadlock Rule = "inferior-deadlock" // the inferior waits for a thread that the debugger keeps stopped
)

// ThreadID is a thread and its process.
type ThreadID struct {
	PID event.PID `json:"pid"`
	TID event.TID `json:"tid"`
}

// WaitFor says what a wait is for. The values are part of the contract of a
// diagnosis.
type WaitFor string

// What a thread can wait for.
const (
	ForUser       WaitFor = "user"
	ForInferior   WaitFor = "inferior"
	ForChild      WaitFor = "child"
	ForThread     WaitFor = "thread" // of its own
	ForReader     WaitFor = "reader"
	ForWriter     WaitFor = "writer"
	ForPeer       WaitFor = "peer"    // the other side of a socket or terminal, on this machine
	ForNetwork    WaitFor = "network" // elsewhere
	ForFilesystem WaitFor = "filesystem"
	ForLock       WaitFor = "lock"
	ForOpen       WaitFor = "open" // of a FIFO
	ForTimer      WaitFor = "timer"
	ForSignal     WaitFor = "signal"
	ForJobControl WaitFor = "job-control" // it is stopped
	ForNobody     WaitFor = "nobody"
	ForUnknown    WaitFor = "unknown"
)

// Wait is what a thread waits for, judged.
type Wait struct {
	*event.Wait
	For WaitFor `json:"for"`
	// Meant is that of On which the wait is for; nil where that is not known.
	Meant *event.Awaited `json:"-"`
	// Stuck: it cannot end, as far as is known.
	Stuck bool `json:"stuck,omitempty"`
	// Next are the threads that could end it, of those that were looked at.
	Next []*event.Wait `json:"-"`
	// Program is what the process is, nil for no debugger. Prompt: it takes its
	// user's next command now. Background: its terminal's foreground is another
	// process group.
	Program    *decode.Debugger `json:"-"`
	Prompt     bool             `json:"prompt,omitempty"`
	Background bool             `json:"-"`
	// Server is the debugger's own, by which it waits for its Inferior.
	Server, Inferior *event.Ender `json:"-"`
	// Deaf is whom it, or its server, traces, if Ctrl-C does not stop that: as it blocks
	// SIGINT in all threads, or as Foreground, another process group, is the terminal's.
	Deaf       event.PID `json:"-"`
	Foreground int       `json:"-"`
	// AtTerminal is the one who reads from a terminal, of those who could end it and the children that they wait for.
	AtTerminal *event.Wait `json:"-"`
	// Debuginfod: the thread is in libdebuginfod, by its backtrace.
	Debuginfod bool `json:"-"`
}

// isSet says whether a call waits for one of several descriptors.
func isSet(call string) bool {
	return slices.ContainsFunc(decode.Waits(call), func(a decode.WaitArg) bool {
		return a == decode.WaitPollSet || a == decode.WaitSelectLen || a == decode.WaitEpoll
	})
}

// own says whether only the thread's own process could end this: it polls a pipe
// whose other end it has too, into which its handlers of signals write, or the only
// ones whose signals it could get are stopped by itself.
func (g *graph) own(w *event.Wait, on *event.Awaited) bool {
	return on.Outside == "" && !slices.ContainsFunc(on.Enders, func(e event.Ender) bool {
		return e.PID != w.PID && (e.How != event.HowTracee || slices.ContainsFunc(g.next(w, e), func(o *event.Wait) bool { return !stoppedBy(o, w.PID) }))
	})
}

// stoppedBy says whether a process keeps a thread stopped that it traces.
func stoppedBy(o *event.Wait, pid event.PID) bool {
	return o.State == "t" && o.Tracer != nil && o.Tracer.PID == pid
}

// program is the debugger that a process is; nil for none.
func (v *view) program(g *graph, pid event.PID) *decode.Debugger {
	if pid == v.Debugger.PID {
		return decode.DebuggerOf(&v.Debugger)
	}
	for _, w := range g.threads[pid] {
		if d := decode.DebuggerNamed(string(w.Comm)); d != nil && leader(w) == 1 {
			return d
		}
	}
	return nil
}

// assess says what a wait is for.
func (v *view) assess(g *graph, w *event.Wait) *Wait {
	j := &Wait{Wait: w, Program: v.program(g, w.PID), Next: g.after(w)}
	j.Background = w.PGRP.Known && w.TTYPGRP.Known && w.PGRP != w.TTYPGRP
	j.Stuck = blocked(w) && !g.alive[w]
	switch w.State {
	case "T", "t":
		j.For = ForJobControl
		if len(w.On) > 0 {
			j.Meant = &w.On[0]
		}
		return j
	}
	j.For = ForUnknown
	best := 0
	for i := range w.On {
		on := &w.On[i]
		what := v.waitFor(g, w, on)
		rank := 1
		switch {
		case j.Program != nil && !j.Program.Serves() && on.Op == event.AwaitRead && on.FD.Is(0):
			// At a terminal the prompt is there only in the foreground.
			what, rank = ForUser, 9
			j.Prompt = on.Target != nil && (on.Target.Kind != event.TTY || w.PGRP.Known && w.PGRP == w.TTYPGRP)
		case what == ForInferior && !g.own(w, on):
			rank = 8
		case isSet(w.Syscall) && g.own(w, on):
		case what == ForTimer, what == ForSignal:
			rank = 2
		case what == ForChild, what == ForInferior:
			rank = 3
		default:
			rank = 5
		}
		if rank > best {
			best, j.For, j.Meant = rank, what, on
		}
	}
	if j.Stuck && j.For == ForUser && j.Meant.Target != nil && j.Meant.Target.Kind == event.TTY { // who has the other side of the terminal is stuck
		j.For, j.Prompt = ForPeer, false
	}
	if best == 1 && isSet(w.Syscall) && j.For != ForInferior {
		// Its own pipes only: those into which the handlers of its signals write.
		j.For = ForSignal
		if w.TimeoutUS.Known {
			j.For = ForTimer
		}
	}
	if j.For == ForPeer {
		v.through(g, j)
	}
	if j.For == ForInferior && j.Program.Is("gdb") { // others stop it by other signals, or by none
		tracer := w.PID
		if j.Server != nil {
			tracer = j.Server.PID
		}
		if j.Deaf = g.eachTraced(tracer, func(o *event.Wait) bool { return o.BlocksInt }); j.Deaf == 0 && j.Background && j.Server == nil {
			if j.Deaf = g.eachTraced(tracer, func(o *event.Wait) bool { return o.PGRP.Known && o.PGRP != w.TTYPGRP }); j.Deaf != 0 {
				j.Foreground = w.TTYPGRP.Val
			}
		}
	}
	switch j.For {
	case ForChild, ForInferior, ForReader, ForWriter:
		j.AtTerminal = g.atTerminal(w)
	}
	j.Debuginfod = slices.ContainsFunc(v.Stacks[w.TID].Frames, func(f event.Frame) bool {
		return strings.Contains(string(f.Module), "libdebuginfod") || strings.HasPrefix(f.Function, "debuginfod_")
	})
	return j
}

// eachTraced gives a process that this one traces, if that is so of each of their threads;
// 0: it is not, or is not known.
func (g *graph) eachTraced(tracer event.PID, so func(*event.Wait) bool) (pid event.PID) {
	for _, w := range g.waits {
		switch {
		case w.Tracer == nil || w.Tracer.PID != tracer || w.State == "Z" || w.State == "X":
		case g.search == nil || g.search.Cut != "" || !so(w):
			return 0
		default:
			pid = w.PID
		}
	}
	return pid
}

// through makes the wait for a server that itself waits for the program one for the
// program.
func (v *view) through(g *graph, j *Wait) {
	for i := range j.Meant.Enders {
		e := &j.Meant.Enders[i]
		if !v.program(g, e.PID).Serves() {
			continue
		}
		for _, w := range g.threads[e.PID] {
			for k := range w.On {
				if on := &w.On[k]; w.State == "S" && v.waitFor(g, w, on) == ForInferior && !g.own(w, on) {
					j.For, j.Server, j.Inferior = ForInferior, e, &on.Enders[0]
					return
				}
			}
		}
	}
}

// waitFor says what one of the things is that a thread waits for.
func (v *view) waitFor(g *graph, w *event.Wait, on *event.Awaited) WaitFor {
	kind := event.Unknown
	if on.Target != nil {
		kind = on.Target.Kind
	}
	switch on.Op {
	case event.AwaitChild, event.AwaitVfork:
		if slices.ContainsFunc(on.Enders, func(e event.Ender) bool { return e.How == event.HowTracee }) {
			return ForInferior
		}
		return ForChild
	case event.AwaitLock, event.AwaitSem:
		return ForLock
	case event.AwaitFutex, event.AwaitThread:
		switch {
		case len(on.Enders) == 0 && on.Outside == "" && !on.Partial:
			return ForNobody
		case slices.ContainsFunc(on.Enders, func(e event.Ender) bool { return e.PID != w.PID }):
			return ForLock
		}
		return ForThread
	case event.AwaitOpen:
		return ForOpen
	case event.AwaitFile:
		return ForFilesystem
	case event.AwaitFault:
		if on.Mount != nil {
			return ForFilesystem
		}
		return ForUnknown
	case event.AwaitTimer:
		return ForTimer
	case event.AwaitSignal:
		return ForSignal
	case event.AwaitQueue, event.AwaitAccept, event.AwaitPermit:
		return ForPeer
	case event.AwaitThaw:
		return ForJobControl
	case event.AwaitRead, event.AwaitWrite, event.AwaitConnect:
	default:
		return ForUnknown
	}
	switch {
	case kind == event.Socket && on.Outside == event.OutsideHost:
		return ForNetwork
	case kind == event.Socket:
		return ForPeer
	case kind == event.TTY && on.Op == event.AwaitRead && !strings.HasSuffix(string(on.Target.Link), "ptmx") && !on.Foreign && g.alive[w]:
		return ForUser
	case kind == event.TTY:
		return ForPeer
	case kind == event.AnonInode && g.own(w, on):
		return ForThread
	case kind != event.Pipe && kind != event.FIFO && kind != event.AnonInode:
		return ForUnknown
	case on.Op == event.AwaitWrite:
		return ForReader
	}
	return ForWriter
}

// blocked says whether a thread does not run, by its state.
func blocked(w *event.Wait) bool {
	switch w.State {
	case "S", "D", "T", "t":
		return true
	}
	return false
}

// waitsOf gives what the threads wait for: those of the debugger, the first one
// first, then those who could end that. Where the search for enders is not in the
// evidence, what the calls alone tell.
func (v *view) waitsOf() (*graph, []*Wait) {
	recorded, search := v.Waits()
	if len(recorded) == 0 {
		for _, b := range v.threads {
			w := v.asWait(b)
			if call := v.Pending[b.TID]; call != nil && call.Arguments != "" {
				v.logged(w, call.Arguments)
			}
			recorded = append(recorded, w)
		}
	}
	g := newGraph(recorded, search)
	var all []*Wait
	for _, w := range recorded {
		if blocked(w) {
			all = append(all, v.assess(g, w))
		}
	}
	return g, all
}

// asWait is what a thread's call tells without its memory and without a search for
// enders: the evidence is of a log, or older than that.
func (v *view) asWait(b *event.Blocked) *event.Wait {
	w := &event.Wait{T: b.T, PID: b.PID, TID: b.TID, Comm: b.Comm, State: b.State, Wchan: b.Wchan, Syscall: b.Syscall}
	if w.State == "" && w.Syscall != "" {
		w.State = "S"
	}
	on := event.Awaited{FD: b.FD, Target: b.Target, Path: b.Path, Outside: event.OutsideUnknown}
	for _, arg := range decode.Waits(b.Syscall) {
		op, ok := map[decode.WaitArg]event.AwaitOp{
			decode.WaitRead: event.AwaitRead, decode.WaitWrite: event.AwaitWrite, decode.WaitAccept: event.AwaitAccept,
			decode.WaitConnect: event.AwaitConnect, decode.WaitFlock: event.AwaitLock, decode.WaitFile: event.AwaitFile,
			decode.WaitPath: event.AwaitFile, decode.WaitOpen: event.AwaitOpen, decode.WaitChildPID: event.AwaitChild,
			decode.WaitID: event.AwaitChild, decode.WaitFutex: event.AwaitFutex, decode.WaitSleep: event.AwaitTimer,
			decode.WaitSignal: event.AwaitSignal, decode.WaitAnySignal: event.AwaitSignal, decode.WaitMsgQueue: event.AwaitQueue,
			decode.WaitSemSet: event.AwaitSem,
		}[arg]
		if !ok {
			continue
		}
		on.Op = op
		if op == event.AwaitChild {
			for _, pid := range v.InferiorPIDs() {
				if inf := v.Inferiors[pid]; inf.TracerTID != 0 {
					on.Enders = append(on.Enders, event.Ender{PID: pid, Comm: inf.Comm, How: event.HowTracee})
				}
			}
		}
		if b.Searched > 0 {
			on.Outside, on.Partial = "", len(b.Unseen) > 0
			for _, h := range b.Holders {
				if h.Access != "r" && h.Access != "path" {
					on.Enders = append(on.Enders, event.Ender{PID: h.PID, Comm: h.Comm, FD: event.Some(h.FD), How: event.HowWriter})
				}
			}
		}
		w.On = append(w.On, on)
		break
	}
	return w
}

// stuck gives the findings of the second invariant, about the process that was
// looked at. Threads of it whose hang is explained otherwise are passed over.
func (v *view) stuck(g *graph, waits []*Wait, explained []Finding) []Finding {
	var found []Finding
	told := map[*event.Wait]bool{}
	for _, j := range waits {
		if j.PID != v.Debugger.PID || !j.Stuck || told[j.Wait] {
			continue
		}
		way := g.stuckWay(j.Wait)
		rule := g.rule(way)
		known := slices.ContainsFunc(way.threads, func(w *event.Wait) bool {
			return slices.ContainsFunc(explained, func(f Finding) bool { return f.TID == w.TID && f.Effect == Hang })
		})
		// An inferior that is stuck by itself is what it is debugged for.
		byItself := rule != RuleInferiorDeadlock && j.For == ForInferior && !slices.Contains(way.circle, j.Wait)
		if !known && !byItself {
			found = append(found, v.stuckFinding(g, j, way, rule, waits))
		}
		for _, w := range way.threads {
			told[w] = true
		}
		if leader(j.Wait) == 1 {
			break // the other threads wait for this one, one way or the other
		}
	}
	return found
}

// rule is the cause of a wait that cannot end.
func (g *graph) rule(way way) Rule {
	circle := way.circle
	if len(circle) == 0 {
		circle = way.threads[len(way.threads)-1:]
	}
	for _, w := range circle {
		for i, tracer := range circle {
			if !stoppedBy(w, tracer.PID) {
				continue
			}
			next := circle[(i+1)%len(circle)]
			if next != w && next.Tracer != nil && next.Tracer.PID == tracer.PID && next.State != "t" && g.byTracing(tracer, next) {
				return RuleInferiorDeadlock
			}
			return RuleStoppedInferior
		}
	}
	for _, w := range circle {
		if w.PID != circle[0].PID {
			return RuleMutualWait
		}
	}
	return RuleSelfWait
}

// byTracing says whether a thread waits for another as its tracer.
func (g *graph) byTracing(tracer, tracee *event.Wait) bool {
	return slices.ContainsFunc(tracer.On, func(on event.Awaited) bool {
		return slices.ContainsFunc(on.Enders, func(e event.Ender) bool { return e.PID == tracee.PID && e.How == event.HowTracee })
	})
}

func (v *view) stuckFinding(g *graph, j *Wait, way way, rule Rule, waits []*Wait) Finding {
	sure := Certain
	if g.partial(way.threads) {
		sure = Likely
	}
	f := Finding{Rule: rule, Effect: Hang, Confidence: sure, Identity: sure, TID: j.TID, Opened: Opened{PID: j.PID}}
	if j.Meant != nil && j.Meant.Target != nil {
		f.Opened.FD, f.Opened.Target = j.Meant.FD, *j.Meant.Target
		readers := v.readers(j.PID, f.Opened.Target)
		f.Reopened = f.Opened.Kind == event.Pipe && len(readers) > 1
		f.Opened.SameAsFD = slices.DeleteFunc(v.ForFile(j.PID, f.Opened.Target), func(fd event.FD) bool { return f.Opened.FD.Is(fd) })
	}
	for _, w := range way.circle {
		f.Cycle = append(f.Cycle, ThreadID{w.PID, w.TID})
	}
	for _, w := range way.threads {
		if i := slices.IndexFunc(waits, func(o *Wait) bool { return o.Wait == w }); i >= 0 {
			f.Way = append(f.Way, waits[i])
			f.Facts = append(f.Facts, Waits{waits[i]})
		}
	}
	if g.search != nil {
		f.Facts = append(f.Facts, Together{Threads: len(way.threads), Closed: len(way.circle) > 0})
	}
	if g.search != nil && len(g.search.Unseen) > 0 {
		f.Facts = append(f.Facts, NotSeen{What: NoEnders, Processes: g.search.Unseen, Excluded: sure == Certain})
	}
	v.scripted(&f)
	return f
}

// Chain is who waits for whom, from the thread that matters on: each for the first of
// those who could end its wait.
func (r *Result) Chain() (chain []*Wait) {
	if r.Main == nil || r.Turns() > 0 {
		return nil
	}
	for w := r.waitOf(r.Main.TID); w != nil && !slices.Contains(chain, w); {
		chain = append(chain, w)
		if w.Meant == nil || w.Prompt {
			break
		}
		w = r.ender(w)
	}
	return chain
}

// ender gives the first thread that could end a wait; rather one that does not wait
// itself for its fellows, as idle workers do.
func (r *Result) ender(w *Wait) (best *Wait) {
	for _, e := range w.Meant.Enders {
		for _, o := range w.Next {
			if o.PID != e.PID || e.TID != 0 && o.TID != e.TID {
				continue
			}
			one := r.waitOf(o.TID)
			if one == nil {
				one = &Wait{Wait: o} // it runs
			}
			if one.For != ForThread {
				return one
			}
			if best == nil {
				best = one
			}
		}
	}
	return best
}

// Feed is the descriptor by which the process itself could write to the pipe that it
// reads.
func (f *Finding) Feed() (event.Ender, bool) {
	if f.Rule != RuleSelfWait || len(f.Way) == 0 {
		return event.Ender{}, false
	}
	w := f.Way[0]
	if w.Meant == nil || w.Meant.Op != event.AwaitRead || f.Opened.Kind != event.Pipe {
		return event.Ender{}, false
	}
	for _, e := range w.Meant.Enders {
		if e.FD.Known {
			return e, true
		}
	}
	return event.Ender{}, false
}

// Held is the thread that its tracer keeps stopped, and who waits for it; a circle may
// begin anywhere.
func (f *Finding) Held() (held, waits *Wait, ok bool) {
	for i, w := range slices.Backward(f.Way) {
		if w.State == "t" && w.Tracer != nil {
			return w, f.Way[(i+len(f.Way)-1)%len(f.Way)], true
		}
	}
	return nil, nil, false
}

// Drain is who should read from the pipe that a thread of the finding waits to write
// to.
func (f *Finding) Drain() (event.Ender, bool) {
	for _, w := range f.Way {
		for _, on := range w.On {
			if on.Op != event.AwaitWrite || on.Target == nil || on.Target.Kind != event.Pipe && on.Target.Kind != event.FIFO {
				continue
			}
			for _, e := range on.Enders {
				if e.FD.Known {
					return e, true
				}
			}
		}
	}
	return event.Ender{}, false
}

// TakesCommands says whether the thread waits for a command on a pipe.
func (f *Finding) TakesCommands() bool {
	w := f.Way[0]
	return w.Prompt && w.Meant.Target != nil && (w.Meant.Target.Kind == event.Pipe || w.Meant.Target.Kind == event.FIFO)
}

// Connection is the number of the FUSE connection that the thread waits for.
func (f *Finding) Connection() (uint32, bool) {
	if w := f.Way[0]; w.Meant != nil && w.Meant.Mount != nil {
		return w.Meant.Mount.Connection.Val, w.Meant.Mount.Connection.Known
	}
	return 0, false
}

// Turns is how often the debugger and its inferior ran by turns in 20 ms; 0 if that is
// not how they spend their time.
func (r *Result) Turns() int64 {
	const few = 3 // a program that is started or interrupted
	if r.Main == nil {
		return 0
	}
	if w := r.Runs(r.Main.TID); w != nil && w.Turns.Val > few {
		return w.Turns.Val
	}
	return 0
}

// Runs is what is known of a thread that runs; nil for one that does not.
func (r *Result) Runs(tid event.TID) *event.Wait { return r.running[tid] }
