package ptrace

import (
	"testing"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
)

// crowd is a kernel with many busy threads: each makes a call as soon as it may,
// and a wait gives the first in the list that has stopped.
type crowd struct {
	fake
	threads []event.TID
	inCall  map[event.TID]bool
	running map[event.TID]bool // until the next wait
	left    int                // waits until all of them end
}

func (c *crowd) Wait(event.TID, bool) (event.TID, unix.WaitStatus, error) {
	if c.left--; c.left <= 0 {
		return 0, 0, unix.ECHILD
	}
	for _, tid := range c.threads {
		if !c.running[tid] {
			c.running[tid] = true // not twice
			return tid, syscallStatus, nil
		}
	}
	return 0, 0, nil
}

func (c *crowd) SyscallInfo(tid event.TID, info *SyscallInfo) error {
	*info = SyscallInfo{Op: OpEntry}
	if c.inCall[tid] {
		info.Op = OpExit
	}
	c.inCall[tid] = !c.inCall[tid]
	return nil
}

func (c *crowd) Resume(tid event.TID, _ How, _ unix.Signal) error {
	c.running[tid] = false // it stops again at once
	return nil
}

func (c *crowd) Interrupted(event.TID) (*Call, error) { return nil, nil }

// counts is a handler that counts each thread's calls.
type counts map[event.TID]int

func (counts) Begin(*Thread, *Call)              {}
func (n counts) Enter(t *Thread, _ uint32)       { n[t.TID]++ }
func (n counts) Exit(t *Thread, _ int64, _ bool) {}
func (counts) Leave(*Thread)                     {}
func (counts) Gone(*Thread)                      {}

// Every thread gets its turn, however busy those are that the kernel has first
// in its list.
func TestNoThreadStarves(t *testing.T) {
	c := &crowd{inCall: map[event.TID]bool{}, running: map[event.TID]bool{}, left: 20000}
	for tid := event.TID(10); tid < 50; tid++ {
		c.threads = append(c.threads, tid)
	}
	calls := counts{}
	l := &Loop{Kernel: c, Handler: calls, TGID: func(event.TID) (event.PID, error) { return 10, nil },
		ListTasks: func(event.PID) ([]event.TID, error) { return c.threads, nil }}
	if err := l.Attach(10); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Run(); err != nil {
		t.Fatal(err)
	}
	for _, tid := range c.threads {
		if calls[tid] < 50 {
			t.Errorf("thread %d made %d calls, the first %d", tid, calls[tid], calls[10])
		}
	}
}
