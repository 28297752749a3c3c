package tracer

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/doctor"
	"whosefd/tracer/event"
	"whosefd/tracer/inferior"
	"whosefd/tracer/memory"
	"whosefd/tracer/procview"
	"whosefd/tracer/ptrace"
	"whosefd/tracer/stack"
	"whosefd/tracer/waits"
)

// SnapshotOptions say what a snapshot looks at.
type SnapshotOptions struct {
	View *procview.View
	Tool string // name and version, for the session line
	// Inferiors are processes that the user named, beside those that the
	// debugger traces.
	Inferiors []event.PID
	// Cores are core files that the user named, beside those that the debugger has open.
	Cores []string
	// Stacks asks for backtraces of the threads that are blocked in a read.
	Stacks bool
	// Debuginfod lets backtraces ask the debuginfod servers that the user has configured.
	Debuginfod bool
}

// Snapshot looks at a debugger without having followed it, and gives the
// evidence that there is now: the process, what each thread is doing, its
// descriptors, its inferiors with their descriptors and loaded objects, who
// else holds the pipe that a thread reads from, and backtraces. All but the
// backtraces comes from /proc and does not touch the debugger; for those it is
// stopped for a moment, and so is, where /proc has not its call, a thread that job
// control has stopped already.
//
// It fails only if the process cannot be looked at, as [os.ErrNotExist] or
// [os.ErrPermission]. What else could not be learned is said in the events.
func Snapshot(pid event.PID, o SnapshotOptions) ([]event.Event, error) {
	if err := doctor.RefuseLook(o.View, event.PID(os.Getpid()), pid); err != nil {
		return nil, err
	}
	for looks := 1; ; looks++ {
		s := &snapshot{SnapshotOptions: o, pid: pid, start: time.Now()}
		if err := s.look(looks < maxLooks); !errors.Is(err, errMoved) {
			return s.events, err
		}
	}
}

// maxLooks bounds how often a process is looked at that goes on meanwhile: some never rest.
const maxLooks = 3

// errMoved: the process has gone on from one wait to another since it was looked at first, so
// that its descriptors need not be those with which it waits now.
var errMoved = errors.New("the process went on while it was looked at")

// look gathers the evidence. It is errMoved if there is none of one moment and another look is wanted then.
func (s *snapshot) look(again bool) error {
	if err := s.session(); err != nil {
		return err
	}
	if err := s.threads(); err != nil {
		return err
	}
	if err := s.descriptors(s.pid); err != nil {
		// What it has open is what it is all about.
		return doctor.ExplainAttach(s.View, s.pid, err)
	}
	// Without that permission (Yama) neither calls nor names are to be seen, and
	// all that could be said is that nothing was found.
	if err := s.View.MayAttach(s.pid); err != nil {
		return lookedAt(doctor.ExplainAttach(s.View, s.pid, err))
	}
	names := s.related()
	if again && s.moved() {
		return errMoved
	}
	s.closer(names)
	if err := procview.Scarce(); err != nil {
		return fmt.Errorf("look at pid %d: %w", s.pid, err)
	}
	s.add(&event.End{T: s.now(), Reason: "snapshot"})
	return nil
}

// moved says whether a thread sleeps in another call than it did.
func (s *snapshot) moved() bool {
	calls, err := decode.ForArch(Arch)
	return err == nil && slices.ContainsFunc(s.blocked, func(b *event.Blocked) bool {
		now, err := s.View.Blocked(s.pid, b.TID, calls)
		return err == nil && now.State == "S" && (now.Syscall != b.Syscall || !slices.Equal(now.Args, b.Args))
	})
}

// related adds the inferiors, and who waits for whom; it gives the names that mean something else to the debugger.
func (s *snapshot) related() []string {
	names := s.inferiors()
	names = append(names, s.unexplained(names)...)
	s.waits(s.pid) // before the backtraces, for which threads are interrupted
	return names
}

// closer adds who holds the pipes that are read from and, if they are asked for, the backtraces.
func (s *snapshot) closer(names []string) {
	searched := make(chan []error, 1)
	go func() { searched <- s.holders() }() // all of /proc: takes as long as the backtraces
	if s.Stacks {
		s.stacks(names)
	}
	for _, err := range <-searched {
		s.lost(err.Error())
	}
}

// unexplained looks for the names of what threads read that not just one name of an inferior leads to, and
// gives them.
func (s *snapshot) unexplained(known []string) (found []string) {
	for _, b := range s.blocked {
		if !inRead(b) || b.Target.Kind == event.Regular || b.Target.Kind == event.TTY && b.FD.Val <= 2 {
			continue
		}
		leads := map[string]bool{}
		for _, name := range known {
			if !leads[name] && s.View.Resolve(s.pid, b.TID, name).Same(*b.Target) {
				leads[name] = true
			}
		}
		if len(leads) == 1 {
			continue
		}
		b.Names = s.names(b, len(leads) == 0)
		for _, n := range b.Names {
			if !slices.Contains(found, string(n.Text)) {
				found = append(found, string(n.Text))
			}
		}
	}
	return found
}

// waitsForPipe says whether a thread may wait for ever.
func (s *snapshot) waitsForPipe() bool {
	return slices.ContainsFunc(s.blocked, func(b *event.Blocked) bool {
		return inRead(b) && (b.Target.Kind == event.Pipe || b.Target.Kind == event.FIFO)
	})
}

type snapshot struct {
	SnapshotOptions
	pid     event.PID
	start   time.Time
	events  []event.Event
	blocked []*event.Blocked
	index   func() (*procview.Index, error)
	tracing procview.Tracing // nil: not looked for
}

func (s *snapshot) now() event.Micros { return event.Micros(time.Since(s.start).Microseconds()) }

func (s *snapshot) add(ev event.Event) { s.events = append(s.events, ev) }

func (s *snapshot) session() error {
	proc, err := s.View.Process(s.pid)
	if err != nil {
		return fmt.Errorf("look at pid %d: %w", s.pid, err)
	}
	if tid, err := s.View.TracerOf(s.pid); err == nil {
		proc.Tracer = tracerOf(s.View, tid)
	}
	s.add(newSession(s.Tool, "snapshot", s.start, &proc))
	return nil
}

// newSession makes the first line of a recording.
func newSession(tool, source string, start time.Time, debugger *event.Process) *event.Session {
	var uts unix.Utsname
	kernel := ""
	if unix.Uname(&uts) == nil {
		kernel = unix.ByteSliceToString(uts.Release[:])
	}
	return &event.Session{Schema: event.Schema, Tool: tool, Source: source, Start: start.UTC(),
		Kernel: kernel, Arch: Arch, Debugger: debugger}
}

func (s *snapshot) threads() error {
	tids, err := s.View.Threads(s.pid)
	if err != nil {
		return fmt.Errorf("threads of pid %d: %w", s.pid, err)
	}
	calls, err := decode.ForArch(Arch)
	if err != nil {
		return err
	}
	for _, tid := range tids {
		b, err := s.View.Blocked(s.pid, tid, calls)
		if err != nil {
			if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
				continue // it ended
			}
			return fmt.Errorf("thread %d of pid %d: %w", tid, s.pid, err)
		}
		s.suspended(&b, calls)
		b.Path = s.awaited(&b, calls)
		b.T = s.now()
		s.blocked = append(s.blocked, &b)
		s.add(&b)
	}
	if len(s.blocked) == 0 {
		return fmt.Errorf("threads of pid %d: %w", s.pid, unix.ESRCH)
	}
	return nil
}

// suspended finds the call of a thread that job control has stopped where
// proc_pid_syscall(5) has none: on arm64 a call counts as about to be made again
// from the stop on. The registers tell.
func (s *snapshot) suspended(b *event.Blocked, calls *decode.Table) {
	if b.State != "T" || b.Args != nil {
		return
	}
	var in *ptrace.Call
	err := ptrace.OnTracerThread(func() error {
		k := ptrace.Linux{}
		_, err := ptrace.Peek(k, b.TID, stopWithin, func() (err error) {
			in, err = k.Interrupted(b.TID)
			return err
		})
		return err
	})
	if err == nil && in != nil {
		s.View.InCall(b, in.Nr, in.Args, calls)
	}
}

// awaited reads the name that a thread waits to open, a FIFO's say. It is "" for
// every other call, for a name that starts at a descriptor, and if the thread
// has gone on meanwhile.
func (s *snapshot) awaited(b *event.Blocked, calls *decode.Table) event.Text {
	row, ok := decode.ByName(b.Syscall)
	if !ok || row.Class != decode.ClassOpen || row.PathArg() < 0 || len(b.Args) <= row.PathArg() || b.State == "R" {
		return ""
	}
	maps, err := s.View.Maps(s.pid)
	if err != nil {
		return ""
	}
	mem, err := memory.Open(s.View, s.pid, maps)
	if err != nil {
		return ""
	}
	defer mem.Close()
	path, ended, _ := memory.Text(mem, uint64(b.Args[row.PathArg()]), nil, maxPath)
	if len(path) == 0 || !ended {
		return ""
	}
	if i := row.DirFDArg(); i >= 0 && path[0] != '/' && event.FD(decode.Int32(uint64(b.Args[i]))) != event.AtFDCWD {
		return ""
	}
	again, err := s.View.Blocked(b.PID, b.TID, calls)
	if err != nil || again.Syscall != b.Syscall || !slices.Equal(again.Args, b.Args) {
		return ""
	}
	return event.Text(path)
}

// descriptors adds the table of a process; if it cannot be read, that is said
// in the evidence too.
func (s *snapshot) descriptors(pid event.PID) error {
	fds, err := s.View.Descriptors(pid)
	if err != nil {
		s.lost(err.Error())
		return err
	}
	for i := range fds {
		fds[i].T = s.now()
		s.add(&fds[i])
	}
	return nil
}

func (s *snapshot) lost(reason string) { s.add(&event.Lost{T: s.now(), Reason: reason}) }

// tracees finds whom the debugger traces.
func (s *snapshot) tracees() (found []event.Inferior, err error) {
	if s.tracing, err = s.View.Tracing(); err != nil {
		return nil, err
	}
	return inferior.Find(s.View, s.pid, s.tracing)
}

// inferiors adds them with their descriptors and loaded objects, and gives the
// names among those that mean something else to the debugger.
func (s *snapshot) inferiors() (suspicious []string) {
	found, err := s.tracees()
	if err != nil {
		s.lost(fmt.Sprintf("inferiors of pid %d: %v", s.pid, err))
	}
	for _, pid := range s.Inferiors {
		if slices.ContainsFunc(found, func(inf event.Inferior) bool { return inf.PID == pid }) {
			continue
		}
		inf, err := inferior.Describe(s.View, pid)
		if err != nil {
			s.lost(fmt.Sprintf("inferior: %v", err))
			continue
		}
		found = append(found, inf)
	}
	add := func(lm *event.LinkMap) {
		if leadsElsewhere(lm) {
			suspicious = append(suspicious, string(lm.Name))
		}
	}
	for i := range found {
		maps, _ := inferior.LinkMaps(s.View, found[i].PID) // Describe has said why there are none
		before := len(s.events)
		if s.inferior(&found[i], maps); s.ending(found[i].PID) {
			// Its names lead nowhere any more.
			found[i].LinkMapError, found[i].ExeResolves = "the process has ended", nil
			s.events = append(s.events[:before], &found[i])
			continue
		}
		for j := range maps {
			add(&maps[j])
		}
	}
	cores := s.cores()
	if len(cores) > 0 {
		s.buildIDs()
	}
	for _, c := range cores {
		s.core(c)
		for j := range c.LinkMaps {
			add(&c.LinkMaps[j])
		}
	}
	return suspicious
}

// ending says whether a process is being killed: its first thread has ended, and the
// others follow.
func (s *snapshot) ending(pid event.PID) bool {
	const within = 50 * time.Millisecond
	for deadline := time.Now().Add(within); ; time.Sleep(time.Millisecond) {
		switch tid := s.View.Living(pid); {
		case tid != event.TID(pid) && time.Now().Before(deadline):
		case tid != event.TID(pid):
			return false
		default:
			state, err := s.View.State(pid, tid)
			return err != nil || state == "Z" || state == "X"
		}
	}
}

// cores reads the core files that the debugger has open, and those that the user named.
func (s *snapshot) cores() (cores []*inferior.Core) {
	files := inferior.Cores(s.View, s.pid)
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	for _, name := range s.Cores {
		f, err := s.View.OpenNamed(name)
		switch {
		case err != nil:
			s.lost(fmt.Sprintf("core file: %v", err))
		case slices.ContainsFunc(files, func(o *procview.Large) bool { return o.Target.Same(f.Target) }):
			_ = f.Close()
		default:
			files = append(files, f)
		}
	}
	for i, f := range files {
		c, err := inferior.ReadCore(s.View, f, i+1, s.pid, nil)
		if err != nil {
			s.lost(err.Error())
			continue
		}
		cores = append(cores, c)
	}
	return cores
}

// buildIDs adds them to the debugger's descriptors: nothing else tells whether it has the
// library of a core open.
func (s *snapshot) buildIDs() {
	for _, ev := range s.events {
		d, ok := ev.(*event.Descriptor)
		if !ok || d.PID != s.pid || d.Target.Kind != event.Regular || d.Access == "path" {
			continue
		}
		if f, err := s.View.OpenLarge(s.pid, fmt.Sprintf("%s/fd/%d", s.View.Folder(s.pid), d.FD)); err == nil {
			d.Target.BuildID = memory.FileBuildID(f)
			_ = f.Close()
		}
	}
}

// core adds a core file with the loaded objects of its process.
func (s *snapshot) core(c *inferior.Core) {
	c.Inferior.T = s.now()
	s.add(&c.Inferior)
	for i := range c.LinkMaps {
		lm := &c.LinkMaps[i]
		inferior.CompleteCore(s.View, lm, s.pid)
		lm.T = s.now()
		s.add(lm)
	}
}

// waits adds what each thread of a process waits for, and who could end that.
func (s *snapshot) waits(pid event.PID) {
	calls, err := decode.ForArch(Arch)
	if err != nil {
		s.lost(err.Error())
		return
	}
	s.events = append(s.events, waits.Search(s.View, []event.PID{pid}, waits.Options{Calls: calls, Start: s.start,
		Index: s.allHeld, Tracing: s.tracing})...)
}

// allHeld gives who has what open on this machine, from one look.
func (s *snapshot) allHeld() (*procview.Index, error) {
	if s.index == nil {
		s.index = sync.OnceValues(s.View.Index)
	}
	return s.index()
}

// inferior adds a process with its descriptors and its loaded objects.
func (s *snapshot) inferior(inf *event.Inferior, maps []event.LinkMap) {
	inf.T = s.now()
	inferior.CompleteProgram(s.View, inf, s.pid)
	s.add(inf)
	_ = s.descriptors(inf.PID) // what is missing is in the evidence
	for i := range maps {
		lm := &maps[i]
		inferior.Complete(s.View, lm, s.pid)
		lm.T = s.now()
		s.add(lm)
	}
}

// leadsElsewhere says whether a name does not lead the debugger, nor could lead
// another, to the file that is mapped.
func leadsElsewhere(lm *event.LinkMap) bool {
	if decode.ClassifyName(string(lm.Name)).Dependent() {
		return true
	}
	if len(lm.Resolves) == 0 {
		return false
	}
	there := lm.Resolves[0].Target
	if lm.Core != 0 {
		return there.BuildID != lm.Mapped.BuildID && lm.Mapped.BuildID != ""
	}
	return !there.Same(inferior.Identity(lm)) && !there.Same(*lm.Mapped)
}

// inRead says whether a thread waits for data from a descriptor.
func inRead(b *event.Blocked) bool {
	row, ok := decode.ByName(b.Syscall)
	return ok && row.Class == decode.ClassRead && b.Target != nil
}

// holders finds, for each thread that reads from a pipe, who could write to it,
// and gives what went wrong.
func (s *snapshot) holders() (errs []error) {
	for _, b := range s.blocked {
		if !inRead(b) || b.Target.Kind != event.Pipe && b.Target.Kind != event.FIFO {
			continue
		}
		ix, err := s.allHeld()
		if err != nil {
			errs = append(errs, fmt.Errorf("who holds %s: %w", b.Target.Link, err))
			continue
		}
		b.Holders, b.Searched, b.Unseen = ix.Holders(*b.Target), ix.Searched, slices.Clone(ix.Unseen)
		for i := range b.Unseen {
			b.Unseen[i].Older = s.older(b.Unseen[i].PID)
		}
	}
	return errs
}

// older says whether a process is known to have been started before the debugger.
func (s *snapshot) older(pid event.PID) bool {
	theirs, err := s.View.StartTime(event.TID(pid))
	ours, err2 := s.View.StartTime(event.TID(s.pid))
	return err == nil && err2 == nil && theirs < ours
}

// stacks adds backtraces of the threads in a read; if there are none, of the
// first thread.
func (s *snapshot) stacks(names []string) {
	which := slices.DeleteFunc(slices.Clone(s.blocked), func(b *event.Blocked) bool { return !inRead(b) })
	if len(which) == 0 {
		which = s.blocked[:1]
	}
	for _, b := range which {
		st, err := s.stack(b.TID, names)
		if err != nil {
			st = event.Stack{PID: s.pid, TID: b.TID, Error: err.Error()}
		}
		st.T = s.now()
		s.add(&st)
	}
}

// errPartlyDone: what a stopped thread has moved to or from a pipe or socket in a longer call is
// the result of that, which ends by the stop (pipe(7), signal(7)).
var errPartlyDone = errors.New("not stopped: a call that has moved a part of its bytes would end by that")

// errAsksServer: a FUSE server is told of an interrupt, and may end the call by it; and from then on
// the caller waits in state D.
var errAsksServer = errors.New("not stopped: its call may end by that, since the server of the file system that it waits for is told")

// spoilt says why a thread that sleeps at this moment would notice a stop. One that runs
// may be on its way into such a call; nothing tells.
func (s *snapshot) spoilt(tid event.TID) error {
	if s.View.Wchan(s.pid, tid) == "request_wait_answer" { // fs/fuse/dev.c
		return errAsksServer
	}
	now, ok := s.View.Syscall(s.pid, tid)
	calls, err := decode.ForArch(Arch)
	switch {
	case !ok || err != nil:
		return nil
	case now.Compat(): // stopped for nothing, and an EINTR of its call could not be hidden
		return ptrace.ErrCompat
	}
	partly := false
	switch call := calls.Name(now.Nr); call {
	case "recvfrom":
		partly = now.Args[3]&unix.MSG_WAITALL != 0
	case "recvmsg":
		partly = now.Args[2]&unix.MSG_WAITALL != 0
	case "recvmmsg":
		partly = true
	default:
		partly = slices.Contains(decode.Waits(call), decode.WaitWrite)
	}
	if partly {
		return errPartlyDone
	}
	return nil
}

const (
	// maxStack bounds how much of a stack is copied while the thread is
	// stopped; gdb's is some 20 kB deep when it hangs.
	maxStack = 1 << 20
	// stopWithin is how long a thread may take to stop.
	stopWithin = 500 * time.Millisecond
)

// stack copies registers and stack of a stopped thread, lets it go, and unwinds
// from the copy.
func (s *snapshot) stack(tid event.TID, names []string) (event.Stack, error) {
	snap := stack.Snapshot{PID: s.pid, TID: tid}
	maps, err := s.View.Maps(s.pid)
	if err != nil {
		return event.Stack{}, fmt.Errorf("stack of thread %d: %w", tid, err)
	}
	err = ptrace.OnTracerThread(func() error {
		if err := s.spoilt(tid); err != nil { // right before the stop: it may not have slept when it was looked at
			return err
		}
		k := ptrace.Linux{}
		stopped, err := ptrace.Peek(k, tid, stopWithin, func() error {
			regs, err := k.Registers(tid)
			if err != nil {
				return fmt.Errorf("registers of thread %d: %w", tid, err)
			}
			snap.Regs = stack.FromPtrace(regs)
			snap.StackStart, snap.Stack = s.copyStack(tid, maps, snap.Regs.SP)
			return nil
		})
		snap.StoppedUS = stopped.Microseconds()
		return err
	})
	if errors.Is(err, errPartlyDone) || errors.Is(err, errAsksServer) || errors.Is(err, ptrace.ErrCompat) {
		return event.Stack{}, err
	}
	if err != nil {
		return event.Stack{}, doctor.ExplainAttach(s.View, s.pid, err)
	}
	return stack.Unwind(s.View, snap, stack.Options{Names: names, Debuginfod: s.Debuginfod}), nil
}

// copyStack copies from below the stack pointer to the end of the mapping that
// holds it.
func (s *snapshot) copyStack(tid event.TID, maps []procview.Mapping, sp uint64) (start uint64, data []byte) {
	m, ok := procview.FindMapping(maps, sp)
	if !ok || len(s.View.Remote(s.pid, []procview.Mapping{m})) > 0 { // a stack in a file that may have to be asked for
		return sp, nil
	}
	start = max(sp-ptrace.RedZone, m.Start)
	data = make([]byte, min(m.End-start, maxStack))
	n, _ := memory.Thread(tid).ReadMemory(data, start)
	return start, data[:n]
}
