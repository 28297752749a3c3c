package tracer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/inject"
	"whosefd/tracer/ptrace"
	"whosefd/tracer/stack"
)

// Stuck is a thread of a debugger that waits for data from a wrong descriptor,
// and what is to be put behind that descriptor.
type Stuck struct {
	TID event.TID
	// FD is the descriptor that it reads from, by whatever call.
	FD event.FD
	// Wrong is what the descriptor leads to now, and Path, opened in the
	// debugger, must lead to Right; else nothing is done. A Right that is not
	// identified only has to be of its kind: /dev/null, to release the read.
	Wrong event.Target
	Path  string
	Right event.Target
	// Retake: bytes that the thread has taken from the wrong file, in the fread(3)
	// that waits, are to be replaced by those of the right one.
	Retake bool

	// Done says that the descriptor was replaced; Err why not.
	Done bool
	Err  error
	// Taken is how many bytes were replaced so. Untold says that there is such an
	// fread, and why it is not known what it has taken.
	Taken  uint64
	Untold error
	// Changed is for how long the thread's registers were not its own.
	Changed time.Duration

	replaced bool // the descriptor leads to the right file, however it goes on
}

// repair replaces the descriptor; the thread was just stopped, and goes on by
// the loop.
func (s *Stuck) repair(g *guard, t *ptrace.Thread, in *ptrace.Call) {
	s.Err = s.replace(g, t, in)
	s.Done = s.Err == nil
}

func (s *Stuck) replace(g *guard, t *ptrace.Thread, in *ptrace.Call) (err error) {
	if in == nil {
		return fmt.Errorf("thread %d: %w", t.TID, inject.ErrNotInCall)
	}
	row, ok := g.calls.Call(in.Nr)
	if !ok || row.Class != decode.ClassRead || event.FD(decode.Int32(in.Args[0])) != s.FD {
		return fmt.Errorf("thread %d: %w", t.TID, inject.ErrNotInCall)
	}
	if now := g.view.Target(t.PID, s.FD); !now.Same(s.Wrong) {
		return fmt.Errorf("fd %d of pid %d is no longer %s", s.FD, t.PID, s.Wrong.Link)
	}
	taken := s.taken(g, t, in)
	th, err := inject.Begin(g.m, t.TID, t.Deliver, *in)
	if err != nil {
		return err
	}
	t.Deliver = 0
	defer func() {
		err = errors.Join(err, th.End())
		s.Changed = th.Changed
	}()
	return s.inside(g, t, th, taken)
}

// taken tells what the fread that waits has taken from the wrong file. All zero
// if there is no such thing, or if it is not proved.
func (s *Stuck) taken(g *guard, t *ptrace.Thread, in *ptrace.Call) stack.Taken {
	if read, _ := g.calls.Number("read"); !s.Retake || in.Nr != read {
		return stack.Taken{}
	}
	regs, err := g.m.Registers(t.TID)
	if err != nil {
		return stack.Taken{}
	}
	got, err := stack.Fread(g.view, stack.Snapshot{PID: t.PID, TID: t.TID, Regs: stack.FromPtrace(regs)},
		stack.Read{FD: s.FD, Buf: in.Args[1], Size: in.Args[2]})
	if errors.Is(err, stack.ErrNotFollowed) {
		s.Untold = err
	}
	if err != nil {
		return stack.Taken{}
	}
	return got
}

// inside makes the calls in the debugger: open the right file, see that it is
// the right file, read from it what was taken from the wrong one, put it on the
// number of the wrong one, close the spare.
func (s *Stuck) inside(g *guard, t *ptrace.Thread, th *inject.Thread, taken stack.Taken) (err error) {
	call := func(name string) uint64 { nr, _ := g.calls.Number(name); return nr }
	cwd := int64(event.AtFDCWD)
	got, err := th.CallPath(call("openat"), s.Path, 1, uint64(cwd), 0, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK)
	if err != nil {
		return fmt.Errorf("open %s in pid %d: %w", s.Path, t.PID, err)
	}
	defer func() { _, _ = th.Call(call("close"), uint64(got)) }()
	opened := g.view.Target(t.PID, event.FD(got))
	if s.Right.Identified() && !opened.Same(s.Right) || opened.Kind != s.Right.Kind {
		return fmt.Errorf("%s in pid %d is not the file that was meant", s.Path, t.PID)
	}
	flags, err := th.Call(call("fcntl"), uint64(s.FD), unix.F_GETFD)
	if err != nil {
		return fmt.Errorf("flags of fd %d of pid %d: %w", s.FD, t.PID, err)
	}
	cloexec := uint64(0)
	if flags&unix.FD_CLOEXEC != 0 {
		cloexec = unix.O_CLOEXEC
	}
	// O_NONBLOCK kept the open from blocking if the path was not what it
	// should be; regular files ignore it, but the debugger asked for none.
	if _, err := th.Call(call("fcntl"), uint64(got), unix.F_SETFL, 0); err != nil {
		return fmt.Errorf("flags of %s in pid %d: %w", s.Path, t.PID, err)
	}
	restore, err := s.retake(g, t, th, uint64(got), taken)
	if err != nil {
		return err
	}
	defer func() {
		if !s.replaced {
			err = errors.Join(err, restore())
		}
	}()
	if _, err := th.Call(call("dup3"), uint64(got), uint64(s.FD), cloexec); err != nil {
		return fmt.Errorf("replace fd %d of pid %d: %w", s.FD, t.PID, err)
	}
	s.replaced = true
	return nil
}

// retake lets the thread read the right file's first bytes to where it has put
// those of the wrong one, and moves the file on behind them; restore puts back
// what was there. A file that is too short for that is left at its beginning.
func (s *Stuck) retake(g *guard, t *ptrace.Thread, th *inject.Thread, fd uint64, taken stack.Taken) (restore func() error, err error) {
	restore = func() error { return nil }
	if taken.Bytes == 0 {
		return restore, nil
	}
	old := make([]byte, taken.Bytes)
	if n, err := g.m.Read(t.TID, taken.Addr, old); err != nil || n != len(old) {
		return nil, fmt.Errorf("read memory of thread %d at %#x: %w", t.TID, taken.Addr, err)
	}
	restore = func() error {
		s.Taken = 0
		if err := g.m.Write(t.TID, taken.Addr, old); err != nil {
			return fmt.Errorf("restore memory of thread %d at %#x: %w", t.TID, taken.Addr, err)
		}
		return nil
	}
	call := func(name string) uint64 { nr, _ := g.calls.Number(name); return nr }
	n, err := th.Call(call("pread64"), fd, taken.Addr, taken.Bytes, 0)
	if err == nil && uint64(n) == taken.Bytes {
		n, err = th.Call(call("lseek"), fd, taken.Bytes, unix.SEEK_SET)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the first %d bytes of %s in pid %d: %w", taken.Bytes, s.Path, t.PID, err), restore())
	}
	if uint64(n) != taken.Bytes {
		return restore, restore()
	}
	s.Taken = taken.Bytes
	return restore, nil
}

// GuardOptions say what is guarded, and what is repaired first.
type GuardOptions struct {
	TraceOptions
	// Stuck are the threads to be repaired.
	Stuck []*Stuck
	// Repaired is called on the tracer's thread when all of Stuck were seen.
	Repaired func()
	// Stay keeps guarding after the repair; else all threads are let go.
	Stay bool
	// Failed, if set, is told why a call was not led to the right file. It is
	// called on the tracer's thread.
	Failed func(reason string)
}

// Guard follows a debugger as [Trace] does, after repairing the threads that
// are stuck, and leads every call with a name that belongs to an inferior to
// the inferior's file.
func Guard(ctx context.Context, o GuardOptions) (Outcome, error) {
	var out Outcome
	err := ptrace.OnTracerThread(func() (err error) {
		out, err = watch(ctx, o.TraceOptions, &o)
		return err
	})
	return out, err
}
