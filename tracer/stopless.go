package tracer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/tracer/cpu"
	"whosefd/tracer/decode"
	"whosefd/tracer/doctor"
	"whosefd/tracer/ebpf"
	"whosefd/tracer/event"
	"whosefd/tracer/ptrace"
)

// pollEvery bounds how long a record may lie in the ring buffer: the programs
// wake us only for what is urgent.
const pollEvery = 20 * time.Millisecond

// stopless makes events of the records that programs in the kernel send, without
// a stop of the traced threads. It is the recorder of the ptrace engine, which is
// told of each call when that has ended, with the record in the place of the
// thread's memory and of its descriptors.
type stopless struct {
	*recorder
	engine *ebpf.Engine
	boot   uint64 // CLOCK_MONOTONIC at the session's start, ns
	rec    *ebpf.Record
	pieces []ebpf.Piece // of its memory
	// threads that were seen, and the link texts of open files by their address
	// in the kernel.
	threads map[event.TID]*ptrace.Thread
	links   map[uint64]string
	lost    uint64
	spared  uint64
}

const (
	// maxLinks bounds the link texts that are kept, and maxThreads the threads,
	// of which nobody says that they have ended; what was forgotten is asked of
	// /proc, while it is there.
	maxLinks   = 1 << 15
	maxThreads = 1 << 12
)

func newStopless(r *recorder, engine *ebpf.Engine) *stopless {
	s := &stopless{recorder: r, engine: engine, threads: map[event.TID]*ptrace.Thread{}, links: map[uint64]string{}}
	s.boot = monotonic() - uint64(time.Since(r.start))
	r.fds.ask = s.target
	r.fds.off = true // each record says what its descriptors are
	r.inferiors.unwatched = true
	return s
}

// engineFor loads the programs, if that is what the options ask for; nil: ptrace
// is the engine. Wanted says which calls must be seen.
func engineFor(o *TraceOptions, calls *decode.Table, wanted func(*decode.Call) bool) (*ebpf.Engine, error) {
	if o.Engine == EnginePtrace || o.engine != nil {
		return o.engine, nil
	}
	if o.Engine == EngineAuto && o.CPU.Known {
		return nil, nil // a matter of that engine only
	}
	load := ebpf.Options{Wanted: wanted, Spared: o.spares, Ring: ebpf.RingOfAll}
	if wanted != nil {
		load.Ring = ebpf.RingOfFew
	}
	engine, err := ebpf.Load(calls, load)
	switch {
	case err == nil:
		return engine, nil
	case o.Engine != EngineAuto:
		return nil, fmt.Errorf("watch without stops: %w", err)
	}
	o.without = err
	return nil, nil
}

// traceStopless is [Trace] by programs in the kernel.
func traceStopless(ctx context.Context, o TraceOptions, calls *decode.Table, engine *ebpf.Engine) (out Outcome, err error) {
	defer AsError(&err)
	var stop atomic.Bool // by the context, the time, or who takes the events
	t := &session{o: o, start: time.Now(), stop: func() { stop.Store(true) }}
	pid, child := o.PID, (*launched)(nil)
	if pid == 0 {
		if child, err = launch(o.Path, o.Argv, o.Env); err != nil {
			return out, doctor.ExplainLaunch(o.View, err)
		}
		pid = child.pid
	} else if err := doctor.Refuse(o.View, event.PID(os.Getpid()), pid); err != nil {
		return out, err
	} else if now, unknown := o.View.StartTime(event.TID(pid)); o.Started != 0 && unknown == nil && now != o.Started {
		return out, fmt.Errorf("watch pid %d: %w: the process that had this number has ended, and another one has it now", pid, unix.ESRCH)
	}
	out.PID = pid
	in := newInferiors(o.View, pid, o.Inferiors, t.now, t.emit)
	rec := newRecorder(o.View, calls, t.start, pid, in, t.emit)
	defer rec.close()
	rec.cpu = cpu.New(o.View, pid, o.CPU, nil) // threads run where they like
	s := newStopless(rec, engine)

	defer context.AfterFunc(ctx, t.stop)()
	if o.For > 0 {
		defer time.AfterFunc(o.For, t.stop).Stop()
	}
	t.opening(pid)
	for _, beginning := range dependentNames {
		if err := engine.AddName(0, beginning); err != nil {
			return out, err
		}
	}
	if err := engine.Watch(pid); err != nil {
		return out, err
	}
	if child == nil {
		s.beginning()
	} else if err := child.run(); err != nil {
		return out, err
	}
	if o.Attached != nil {
		o.Attached()
	}
	for !stop.Load() && !out.Ended {
		var idle bool
		if out.Result, idle, err = s.next(); err != nil {
			break
		}
		if idle && child != nil {
			out.Ended = child.poll(unix.WNOHANG, stopToo)
		}
		if out.Ended {
			s.drain()
		}
	}
	if child != nil && out.Ended {
		out.Result = child.result()
	}
	if !out.Ended {
		engine.Unwatch(pid)
		s.drain()
		s.ending()
	}
	s.tellLost()
	t.closing(ctx, pid, out.Result, rec.count, err)
	return out, errors.Join(t.emitErr, err)
}

// monotonic is CLOCK_MONOTONIC, ns (clock_gettime(2)).
func monotonic() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail
	return uint64(ts.Nano())
}

// since gives the session's time of a time of the kernel's, ns.
func (s *stopless) since(ns uint64) event.Opt[event.Micros] {
	return event.Some(event.Micros(max(0, int64(ns-s.boot)) / 1000))
}

// thread gives what is kept of a thread.
func (s *stopless) thread(pid event.PID, tid event.TID) *ptrace.Thread {
	t := s.threads[tid]
	if t == nil {
		if len(s.threads) >= maxThreads {
			clear(s.threads)
		}
		t = &ptrace.Thread{PID: pid, TID: tid}
		s.threads[tid] = t
	}
	return t
}

// next takes a record; idle says that none came in time.
func (s *stopless) next() (res ptrace.Result, idle bool, err error) {
	rec, err := s.engine.Read(pollEvery)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.tellLost()
		return res, true, nil
	}
	if err != nil {
		return res, false, fmt.Errorf("read the kernel's records: %w", err)
	}
	if rec.Flags&ebpf.Exit != 0 {
		ws := unix.WaitStatus(rec.Ret)
		res.Ended, res.Code = true, ws.ExitStatus()
		if ws.Signaled() {
			res.Code, res.Signal = 0, ws.Signal()
		}
		return res, false, nil
	}
	s.take(rec)
	return res, false, nil
}

// drain takes the records of what has happened up to now.
func (s *stopless) drain() {
	for now, at := monotonic(), uint64(0); at < now; {
		rec, err := s.engine.Read(0)
		if err != nil {
			return
		}
		at = rec.Entry + uint64(rec.Duration)
		if rec.Flags&(ebpf.Exit|ebpf.Exec) == 0 {
			s.take(rec)
		}
	}
}

// take makes the event of a call that has ended.
func (s *stopless) take(rec *ebpf.Record) {
	t := s.thread(rec.PID, rec.TID)
	s.rec = rec
	s.record, s.at = (*recordMemory)(s), s.since(rec.Entry)
	s.inferiors.traces = rec.Tracees
	defer func() {
		s.rec, s.record, s.at, s.inferiors.traces = nil, nil, event.Opt[event.Micros]{}, nil
	}()
	t.Call = ptrace.Call{Nr: uint64(rec.Nr), Args: rec.Args}
	if rec.Flags&ebpf.Foreign != 0 {
		s.sayForeign(t.TID)
		return
	}
	row, ok := s.calls.Call(uint64(rec.Nr))
	if !ok {
		return
	}
	s.pieces = rec.Pieces(row, s.pieces[:0])
	if !row.ShownWith(rec.Args) { // a ptrace(2) call that brings an inferior
		s.inferiors.searchAgain()
		return
	}
	c := s.callOf(t)
	if !c.pending || c.row != row {
		s.decodeEntry(t, c, uint64(rec.Nr), rec.Args)
		c.pending = rec.Flags&ebpf.EntryUnseen != 0
	}
	s.at = s.since(rec.Entry + uint64(rec.Duration))
	s.Exit(t, rec.Ret, rec.Ret < 0 && rec.Ret >= -4095)
}

// target says what a descriptor of the call is whose record is taken; of others,
// what it is now.
func (s *stopless) target(fd event.FD) event.Target {
	if s.rec != nil {
		made := s.rec.Ret >= 0 && event.FD(s.rec.Ret) == fd
		switch {
		case made && s.rec.Made.Addr != 0:
			return s.file(fd, &s.rec.Made)
		case s.rec.Of.Addr != 0:
			return s.file(fd, &s.rec.Of)
		case s.rec.Flags&ebpf.EntryUnseen == 0:
			return event.Target{Kind: event.Unknown, Error: "ENOENT"} // there was nothing
		}
	}
	return s.view.Target(s.debugger, fd)
}

// file describes an open file by what the kernel's record says of it.
func (s *stopless) file(fd event.FD, f *ebpf.File) event.Target {
	switch {
	case f.Known:
		f.Link = s.links[f.Addr]
	case f.Link != "" && !f.Cut:
		if len(s.links) >= maxLinks {
			clear(s.links)
		}
		s.links[f.Addr] = f.Link
	}
	if f.Link == "" || f.Cut || f.DeviceDiffers() {
		// The kernel's record does not tell it all. /proc does, as long as the
		// number means the same file.
		if now := s.view.Target(s.debugger, fd); now.Ino == f.Ino && (f.Link == "" || f.Cut || string(now.Link) == f.Link) {
			s.links[f.Addr] = string(now.Link)
			return now
		}
	}
	t := event.Target{Link: event.Text(f.Link), Dev: f.Dev, Ino: f.Ino}
	t.Kind = s.view.Kind(f.Link, f.Dev, f.Mode, uint32(unix.Major(f.Rdev)))
	if f.DeviceDiffers() {
		t.Dev, t.Ino, t.Error = 0, 0, "ENOENT" // gone before stat(2) could be asked
	}
	return t
}

// spares says which calls are the first to be left out where there are too many: those
// that nobody has asked for, and of which no finding comes.
func (o *TraceOptions) spares(c *decode.Call) bool {
	switch c.Class {
	case decode.ClassStat, decode.ClassAccess, decode.ClassSeek, decode.ClassMap:
		return !slices.Contains(o.Asked, c.Name)
	case decode.ClassRead:
		return len(o.Asked) > 0 && !slices.Contains(o.Asked, c.Name)
	}
	return false
}

// tellLost says how many records there was no room for.
func (s *stopless) tellLost() {
	lost, spared, err := s.engine.Lost()
	if err != nil {
		return
	}
	if lost > s.lost {
		s.emit(&event.Lost{T: s.now(), Count: int64(lost - s.lost), Reason: "the kernel's buffer was full"})
	}
	if spared > s.spared {
		s.emit(&event.Lost{T: s.now(), Count: int64(spared - s.spared), Reason: "calls that nobody asked for were left out, as the kernel's buffer was filling up"})
	}
	s.lost, s.spared = lost, spared
}

// beginning tells of the calls that threads are in the middle of.
func (s *stopless) beginning() {
	s.inTheMiddle(func(t *ptrace.Thread, in *ptrace.Call) { s.Begin(t, in) })
}

// ending tells of the calls that have not come back.
func (s *stopless) ending() {
	s.inTheMiddle(func(t *ptrace.Thread, in *ptrace.Call) {
		if c := s.callOf(t); c.active && c.pending {
			return // said at the beginning
		}
		s.Begin(t, in)
	})
}

func (s *stopless) inTheMiddle(tell func(*ptrace.Thread, *ptrace.Call)) {
	tids, err := s.view.Threads(s.debugger)
	if err != nil {
		return // it has ended
	}
	for _, tid := range tids {
		b, err := s.view.Blocked(s.debugger, tid, s.calls)
		if err != nil || b.Syscall == "" || len(b.Args) < 6 || b.Arch != "" {
			continue
		}
		nr, ok := s.calls.Number(b.Syscall)
		if !ok {
			continue
		}
		call := ptrace.Call{Nr: nr}
		for i := range call.Args {
			call.Args[i] = uint64(b.Args[i])
		}
		tell(s.thread(s.debugger, tid), &call)
	}
}

// recordMemory is the part of a thread's memory that came with a record.
type recordMemory stopless

// ReadMemory implements [memory.Reader].
func (m *recordMemory) ReadMemory(buf []byte, addr uint64) (int, error) {
	for _, piece := range m.pieces {
		if addr >= piece.Addr && addr < piece.Addr+uint64(len(piece.Data)) {
			return copy(buf, piece.Data[addr-piece.Addr:]), nil
		}
	}
	return 0, unix.EFAULT
}

// launched is a program of ours that is watched from its first instruction on. It
// is used on the thread that has launched it, the only one that waits for it: a
// wait elsewhere would take the stops of a backtrace for those of job control.
type launched struct {
	pid   event.PID
	ended bool
	ws    unix.WaitStatus
}

// launch starts a program, which stops after its exec.
func launch(path string, argv, env []string) (*launched, error) {
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{Env: env, Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Ptrace: true}})
	if err != nil {
		return nil, &os.PathError{Op: "run", Path: path, Err: err}
	}
	c := &launched{pid: event.PID(pid)}
	if _, err := unix.Wait4(pid, &c.ws, unix.WALL, nil); err != nil || !c.ws.Stopped() {
		return nil, fmt.Errorf("run %s: wait for the exec: status %#x, %w", path, int(c.ws), err)
	}
	return c, nil
}

// run lets it go.
func (c *launched) run() error {
	if err := (ptrace.Linux{}).Detach(event.TID(c.pid), 0); err != nil {
		return fmt.Errorf("let pid %d go after its exec: %w", c.pid, err)
	}
	return nil
}

// poll says whether it has ended; stopped is called when job control has stopped it.
func (c *launched) poll(options int, stopped func(unix.Signal)) bool {
	for !c.ended {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(int(c.pid), &ws, unix.WUNTRACED|unix.WNOTHREAD|options, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || pid == 0:
			return false
		case ws.Stopped():
			stopped(ws.StopSignal())
		default:
			c.ws, c.ended = ws, true
		}
	}
	return true
}

// result waits for its end.
func (c *launched) result() ptrace.Result {
	c.poll(0, func(unix.Signal) {})
	r := ptrace.Result{Ended: true, Code: c.ws.ExitStatus()}
	if c.ws.Signaled() {
		r.Code, r.Signal = 0, c.ws.Signal()
	}
	return r
}
