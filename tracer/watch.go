package tracer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/ebpf"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// WatchOptions say how the debuggers of a machine are watched.
type WatchOptions struct {
	View *procview.View
	Tool string // name and version
	// Engine is how wrong names are seen as they are opened: only [EngineEBPF] can
	// tell without attaching. Fallback, if set, is told why it is not used for
	// [EngineAuto]; then only hangs, and names that stay open, are seen.
	Engine   Engine
	Fallback func(why error)
	// After is the time for which a debugger must have rested to be looked at again.
	After time.Duration
	// For ends the watch after that time; 0 does not.
	For time.Duration
	// UID, if known, is the user whose debuggers are watched, no others.
	UID event.Opt[int]
	// Guard leads the known debuggers to the right files, each as [Guard] does.
	Guard bool
}

// Watcher is told what happens, on several goroutines.
type Watcher interface {
	// Began: a debugger was met, or has started. Ended: it is gone.
	Began(pid event.PID)
	Ended(pid event.PID)
	// Event is evidence of a debugger that runs: its session line, its calls with
	// names that depend on who resolves them, and what these led to.
	Event(pid event.PID, ev event.Event)
	// Rests: no thread of it has run for a moment, and later (still), for as long as
	// After says. It is the time for a [Snapshot], for which there is time.
	Rests(pid event.PID, still bool)
	// Failed: something of this debugger is not seen, or it is not guarded.
	Failed(pid event.PID, reason string)
}

const (
	// restsAfter is for how long a debugger has not run that is looked at first.
	restsAfter = time.Second
	// A look at all debuggers, and a search for new ones, may take one part in
	// idleShare of the time, and is made at most once in restsAfter.
	idleShare = 1000
)

// watchedDebugger is one that is watched.
type watchedDebugger struct {
	started  uint64 // its start time
	calls    *stopless
	switches uint64    // of its threads between running and not
	since    time.Time // when that was first seen
	looks    int       // at it, since then
	guarded  context.CancelFunc
}

// resting is what [Watcher.Rests] is told.
type resting struct {
	pid   event.PID
	still bool
}

type watcher struct {
	WatchOptions
	to      Watcher
	table   *decode.Table
	engine  *ebpf.Engine
	start   time.Time
	known   map[event.PID]*watchedDebugger
	resting chan resting
	guards  sync.WaitGroup
	lost    uint64
}

// Watch watches every debugger of the machine, those that start later too, until
// the context is done or the time is over, and attaches to none, unless it guards
// them.
func Watch(ctx context.Context, o WatchOptions, to Watcher) (err error) {
	defer AsError(&err)
	if o.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.For)
		defer cancel()
	}
	w := &watcher{WatchOptions: o, to: to, start: time.Now(), known: map[event.PID]*watchedDebugger{}}
	if w.table, err = decode.ForArch(Arch); err != nil {
		return err
	}
	how := TraceOptions{Engine: o.Engine}
	if w.engine, err = engineFor(&how, w.table, ebpf.Guarded); err != nil {
		return err
	}
	if how.without != nil && o.Fallback != nil {
		o.Fallback(how.without)
	}
	if w.engine != nil {
		defer func() { err = errors.Join(err, w.engine.Close()) }()
		if err := w.prepare(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer w.guards.Wait()
	defer cancel() // before the wait for the guards
	w.resting = make(chan resting, 1<<10)
	var rests sync.WaitGroup
	rests.Go(func() {
		for r := range w.resting {
			if ctx.Err() == nil {
				w.to.Rests(r.pid, r.still)
			}
		}
	})
	defer rests.Wait()
	defer close(w.resting)
	var searched, looked pace
	for ctx.Err() == nil {
		if searched.due() {
			if err := searched.run(func() error { return w.search(ctx) }); err != nil {
				return err
			}
		}
		if looked.due() {
			if err := looked.run(w.look); err != nil {
				return err
			}
		}
		if err := w.wait(ctx, min(searched.left(), looked.left())); err != nil {
			return err
		}
	}
	return nil
}

// pace says when something that costs CPU time is done again.
type pace struct{ next time.Time }

func (p *pace) due() bool           { return !time.Now().Before(p.next) }
func (p *pace) left() time.Duration { return max(0, time.Until(p.next)) }

func (p *pace) run(f func() error) error {
	runtime.LockOSThread() // what others do meanwhile is not what this costs
	defer runtime.UnlockOSThread()
	begun, used := time.Now(), cpuTime()
	err := f()
	p.next = begun.Add(max(restsAfter, idleShare*(cpuTime()-used)))
	return err
}

// cpuTime is what this thread has used.
func cpuTime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) // cannot fail
	return time.Duration(ts.Nano())
}

// prepare tells the programs what is watched: names that depend on who resolves
// them, of programs that are known as debuggers.
func (w *watcher) prepare() error {
	for _, beginning := range dependentNames {
		if err := w.engine.AddName(0, beginning); err != nil {
			return err
		}
	}
	for _, d := range decode.Debuggers {
		if !d.Tracer {
			continue
		}
		for _, name := range append([]string{d.Name}, d.Programs...) {
			if err := w.engine.WatchProgram(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// wait takes the records that come, for so long.
func (w *watcher) wait(ctx context.Context, long time.Duration) error {
	if w.engine == nil {
		select {
		case <-ctx.Done():
		case <-time.After(long):
		}
		return nil
	}
	defer context.AfterFunc(ctx, w.engine.Wake)()
	for end := time.Now().Add(long); ctx.Err() == nil; {
		rec, err := w.engine.Read(time.Until(end))
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ebpf.ErrWoken) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the kernel's records: %w", err)
		}
		w.take(ctx, rec)
	}
	return nil
}

func (w *watcher) take(ctx context.Context, rec *ebpf.Record) {
	d := w.known[rec.PID]
	switch {
	case rec.Flags&ebpf.Exec != 0:
		if d == nil {
			w.began(ctx, rec.PID)
		}
	case rec.Flags&ebpf.Exit != 0:
		w.ended(rec.PID)
	case d != nil && d.calls != nil:
		d.calls.take(rec)
	}
}

// search looks for debuggers that no record has told of.
func (w *watcher) search(ctx context.Context) error {
	pids, err := Debuggers(w.View)
	if err != nil {
		return fmt.Errorf("look for debuggers: %w", err)
	}
	for _, pid := range pids {
		if w.known[pid] == nil && pid != event.PID(os.Getpid()) {
			w.began(ctx, pid)
		}
	}
	return nil
}

func (w *watcher) began(ctx context.Context, pid event.PID) {
	d := &watchedDebugger{since: time.Now()}
	var err error
	if d.started, err = w.View.StartTime(event.TID(pid)); err != nil {
		return // it has ended
	}
	if st, err := w.View.Status(pid, event.TID(pid)); err != nil || w.UID.Known && !w.UID.Is(int(st.UID[0])) {
		if w.engine != nil {
			w.engine.Unwatch(pid)
		}
		return
	}
	w.known[pid] = d
	w.to.Began(pid)
	if w.Guard && w.View.Debugger(pid, w.View.Comm(pid)) != nil {
		w.guard(ctx, pid, d)
		return
	}
	if w.engine == nil {
		return
	}
	t := &session{o: TraceOptions{View: w.View, Tool: w.Tool, Emit: func(ev event.Event) error {
		w.to.Event(pid, ev)
		return nil
	}}, start: w.start}
	in := newInferiors(w.View, pid, nil, t.now, t.emit)
	d.calls = newStopless(newRecorder(w.View, w.table, w.start, pid, in, t.emit), w.engine)
	t.opening(pid)
	if err := w.engine.WatchNames(pid); err != nil {
		w.to.Failed(pid, err.Error())
	}
}

func (w *watcher) guard(ctx context.Context, pid event.PID, d *watchedDebugger) {
	ctx, d.guarded = context.WithCancel(ctx)
	o := GuardOptions{TraceOptions: TraceOptions{View: w.View, Tool: w.Tool, PID: pid, Started: d.started, Engine: w.Engine, engine: w.engine,
		Emit: func(ev event.Event) error {
			w.to.Event(pid, ev)
			return nil
		}}, Failed: func(reason string) { w.to.Failed(pid, reason) }}
	if w.engine == nil {
		o.Engine = EnginePtrace
	}
	w.guards.Go(func() {
		if _, err := Guard(ctx, o); err != nil {
			w.to.Failed(pid, "not guarded: "+err.Error())
		}
	})
}

func (w *watcher) ended(pid event.PID) {
	d := w.known[pid]
	if d == nil {
		return
	}
	delete(w.known, pid)
	if d.guarded != nil {
		d.guarded()
	}
	if w.engine != nil {
		w.engine.Unwatch(pid)
	}
	w.to.Ended(pid)
}

// look finds out which debuggers have not run, and which have ended.
func (w *watcher) look() error {
	for pid, d := range maps.Clone(w.known) {
		if started, err := w.View.StartTime(event.TID(pid)); err != nil || started != d.started {
			w.ended(pid)
			continue
		}
		now := w.switches(pid)
		if now != d.switches {
			d.switches, d.since, d.looks = now, time.Now(), 0
			continue
		}
		rested := time.Since(d.since)
		if d.looks == 0 && rested >= restsAfter || d.looks == 1 && rested >= w.After {
			select {
			case w.resting <- resting{pid, d.looks > 0}:
				d.looks++
				if rested >= w.After {
					d.looks = 2
				}
			default: // later
			}
		}
	}
	if w.engine == nil {
		return nil
	}
	n, _, err := w.engine.Lost()
	if err == nil && n > w.lost {
		w.to.Failed(0, fmt.Sprintf("%d calls were lost: the kernel's buffer was full", n-w.lost))
		w.lost = n
	}
	return nil
}

// switches counts how often the threads of a process have begun and ended to run.
func (w *watcher) switches(pid event.PID) (n uint64) {
	tids, err := w.View.Threads(pid)
	if err != nil {
		return 0
	}
	for _, tid := range tids {
		if st, err := w.View.Status(pid, tid); err == nil {
			n += st.Switches
		}
	}
	return n
}
