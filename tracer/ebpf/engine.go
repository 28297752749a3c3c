// Package ebpf watches system calls without stopping the process that makes
// them: programs in the kernel identify the files behind descriptors in the
// calling thread, and send one record a call. Linux 5.17 or later, with BTF, and
// the right to load tracing programs (CAP_BPF and CAP_PERFMON, or root).
package ebpf

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// What is done with a process, as calls.bpf.c has it.
const (
	record = 1
	guard  = 2
	names  = 4

	foreignSaid = 0x100
)

// signals are those that a guarded thread may be sent, the best first. By default
// a process ignores each of them: should this program end before it has seen the
// thread's stop, nothing happens.
var signals = [4]uint32{uint32(unix.SIGURG), uint32(unix.SIGWINCH), uint32(unix.SIGCHLD)}

// Engine is a set of programs in the kernel. Close removes them; so does the end
// of this process, however it comes.
type Engine struct {
	coll  *ebpf.Collection
	links []link.Link
	ring  *ringbuf.Reader
	raw   ringbuf.Record
	rec   Record
	// reads counts records; waited: the time to wait until is to be set anew.
	reads  int
	waited bool
	told   atomic.Uint64 // signals, of variable sent
}

// Sizes of the ring buffer, in bytes: for records of all calls, and of few.
const (
	RingOfAll = 16 << 20
	RingOfFew = 256 << 10
)

// Options say what is recorded.
type Options struct {
	// Wanted says which calls are seen; nil: all.
	Wanted func(*decode.Call) bool
	// Spared says which calls are left out as long as the room for records is half
	// full, so that there is some for others; nil: none.
	Spared func(*decode.Call) bool
	// Ring is the room for records in bytes, a power of two.
	Ring uint32
}

// Load puts the programs into the kernel. They watch nobody yet. Its error is an
// [*Unsupported].
func Load(calls *decode.Table, o Options) (*Engine, error) {
	if err := here.ourPIDs(); err != nil {
		return nil, err
	}
	e, err := load(calls, o)
	if err != nil {
		return nil, explain(err)
	}
	return e, nil
}

func load(calls *decode.Table, o Options) (_ *Engine, err error) {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, fmt.Errorf("read the programs: %w", err)
	}
	if err := spec.Variables["signals"].Set(signals); err != nil {
		return nil, fmt.Errorf("the guard's signals: %w", err)
	}
	if err := spec.Variables["quiet"].Set(quietRequests); err != nil {
		return nil, fmt.Errorf("the requests of ptrace(2): %w", err)
	}
	if err := spec.Variables["room"].Set(o.Ring); err != nil {
		return nil, fmt.Errorf("the room for records: %w", err)
	}
	spec.Maps["records"].MaxEntries = o.Ring
	e := &Engine{waited: true}
	if e.coll, err = ebpf.NewCollection(spec); err != nil {
		return nil, fmt.Errorf("load the programs: %w", err)
	}
	defer func() {
		if err != nil {
			_ = e.Close()
		}
	}()
	for nr, r := range rows(calls, o) {
		if err := e.coll.Maps["calls"].Put(nr, &r); err != nil {
			return nil, fmt.Errorf("table of calls: %w", err)
		}
	}
	for _, name := range []string{"enter", "leave", "ended", "started"} {
		l, err := link.AttachTracing(link.TracingOptions{Program: e.coll.Programs[name]})
		if err != nil {
			return nil, fmt.Errorf("attach %s: %w", name, err)
		}
		e.links = append(e.links, l)
	}
	if e.ring, err = ringbuf.NewReader(e.coll.Maps["records"]); err != nil {
		return nil, fmt.Errorf("ring buffer: %w", err)
	}
	return e, nil
}

// watch is struct watch of calls.bpf.c.
type watch struct {
	How     uint32
	Recent  int32
	Changes uint64
}

func (e *Engine) watch(pid event.PID, how uint32) error {
	if err := e.coll.Maps["watched"].Put(uint32(pid), &watch{How: how}); err != nil {
		return fmt.Errorf("watch pid %d: %w", pid, err)
	}
	return nil
}

// Watch begins to record the calls of all threads of a process.
func (e *Engine) Watch(pid event.PID) error { return e.watch(pid, record) }

// Guard makes a thread of a process stop behind each call whose name may lead an
// inferior elsewhere: as [Engine.AddName] says, a descriptor of some process, or
// any name at all as long as [Engine.Looked] has not been told of the latest
// change. The process must be traced by then (PTRACE_SEIZE). With recorded its
// other calls are recorded as well.
func (e *Engine) Guard(pid event.PID, recorded bool) error {
	how := uint32(guard)
	if recorded {
		how |= record
	}
	return e.watch(pid, how)
}

// Looked says that, up to these [Summons.Changes], all names are added by which the
// libraries of a guarded process's inferiors may be meant.
func (e *Engine) Looked(pid event.PID, changes uint64) error {
	if err := e.coll.Maps["looked"].Put(uint32(pid), changes); err != nil {
		return fmt.Errorf("names of pid %d: %w", pid, err)
	}
	return nil
}

// WatchNames records, of a process, only the calls whose name begins as
// [Engine.AddName] says for pid 0, and the ptrace(2) calls that may bring it an
// inferior.
func (e *Engine) WatchNames(pid event.PID) error { return e.watch(pid, names) }

// WatchProgram does as [Engine.WatchNames] does with each process that runs a
// program of this name (comm, proc_pid_comm(5)), from the program's start on: a
// record with [Exec] says so.
func (e *Engine) WatchProgram(comm string) error {
	var key [16]byte
	copy(key[:15], comm)
	if err := e.coll.Maps["programs"].Put(&key, uint32(names)); err != nil {
		return fmt.Errorf("watch programs called %s: %w", comm, err)
	}
	return nil
}

// nameKey is struct name_key of calls.bpf.c.
type nameKey struct {
	Bits uint32
	PID  uint32
	Text [248]byte
}

func keyOf(pid event.PID, beginning string) nameKey {
	k := nameKey{PID: uint32(pid)}
	n := copy(k.Text[:], beginning)
	k.Bits = uint32(8 * (4 + n))
	return k
}

// What is said of names.
const (
	nameCounts = 1
	nameIsFree = 2
)

// AddName adds a beginning of names at which a guarded process is made to stop; with
// a NUL at its end it is a whole name. Of a long one the first 248 bytes count.
func (e *Engine) AddName(pid event.PID, beginning string) error {
	return e.addName(pid, beginning, nameCounts)
}

// FreeName adds a beginning of names at which it is not made to stop, whatever a
// shorter one says.
func (e *Engine) FreeName(pid event.PID, beginning string) error {
	return e.addName(pid, beginning, nameIsFree)
}

func (e *Engine) addName(pid event.PID, beginning string, how uint8) error {
	k := keyOf(pid, beginning)
	if err := e.coll.Maps["names"].Put(&k, how); err != nil {
		return fmt.Errorf("name %q of pid %d: %w", beginning, pid, err)
	}
	return nil
}

// RemoveName undoes [Engine.AddName] and [Engine.FreeName].
func (e *Engine) RemoveName(pid event.PID, beginning string) {
	k := keyOf(pid, beginning)
	_ = e.coll.Maps["names"].Delete(&k)
}

// Summons is the call behind which a guarded thread was made to stop.
type Summons struct {
	Nr     uint32
	Signal uint32
	Ret    int64  // as the kernel returns it
	Entry  uint64 // CLOCK_MONOTONIC, ns
	Dur    uint64 // from entry to exit, ns
	Args   [6]uint64
	// Changes counts what may have changed whom the process debugs (from bit
	// [Brought] on), or lets a process run that it debugs.
	Changes uint64
	Others  uint32 // calls with names of this thread, but for readlink(2)
	// Recent is the thread or process whose memory the process has read last, or
	// that its last ptrace(2) call was about; 0 if there was none.
	Recent int32
}

// Brought is the first bit of [Summons.Changes] that counts changes of whom the
// process debugs.
const Brought = 32

// Summoned says why a thread was sent a signal by the programs, once; false where
// it was not. It costs a system call only while some signal has not been told of.
func (e *Engine) Summoned(tid event.TID) (s Summons, ok bool) {
	var sent uint64
	if err := e.coll.Variables["sent"].Get(&sent); err == nil && sent == e.told.Load() {
		return s, false
	}
	if err := e.coll.Maps["summoned"].LookupAndDelete(uint32(tid), &s); err != nil {
		return s, false
	}
	e.told.Add(1)
	return s, true
}

// Lead says that the calls of a thread are the guard's own for a while: they
// neither make it stop nor are they recorded.
func (e *Engine) Lead(tid event.TID) error {
	if err := e.coll.Maps["led"].Put(uint32(tid), uint8(1)); err != nil {
		return fmt.Errorf("calls of thread %d: %w", tid, err)
	}
	return nil
}

// Led ends what [Engine.Lead] began.
func (e *Engine) Led(tid event.TID) { _ = e.coll.Maps["led"].Delete(uint32(tid)) }

// Foreign says whether a watched process has made calls of another architecture.
func (e *Engine) Foreign(pid event.PID) bool {
	var w watch
	return e.coll.Maps["watched"].Lookup(uint32(pid), &w) == nil && w.How&foreignSaid != 0
}

// Unstoppable counts the calls at which no signal could be sent: the threads block
// or handle all of them.
func (e *Engine) Unstoppable() uint64 { n, _ := e.sum(countUnstoppable); return n }

// Unwatch ends what [Engine.Watch] began.
func (e *Engine) Unwatch(pid event.PID) {
	_ = e.coll.Maps["watched"].Delete(uint32(pid))
	_ = e.coll.Maps["looked"].Delete(uint32(pid))
}

// Read gives the next record, which is valid until the next Read; an error that
// wraps [os.ErrDeadlineExceeded] if none came for that long.
func (e *Engine) Read(wait time.Duration) (*Record, error) {
	// With enough records there is no need to look at the clock for each of them.
	if e.reads++; wait == 0 || e.waited || e.reads%64 == 0 {
		e.ring.SetDeadline(time.Now().Add(wait))
		e.waited = false
	}
	if err := e.ring.ReadInto(&e.raw); err != nil {
		e.waited = true
		return nil, err
	}
	return &e.rec, e.rec.parse(e.raw.RawSample)
}

// The numbers of the counters, as calls.bpf.c has them.
const (
	countLost = iota
	countNoStorage
	countUnstoppable
	countSpared
)

// Lost counts the records that there was no room for, and those that were left out
// by [Options.Spared].
func (e *Engine) Lost() (lost, spared uint64, err error) {
	for _, c := range []struct {
		which uint32
		to    *uint64
	}{{countLost, &lost}, {countNoStorage, &lost}, {countSpared, &spared}} {
		n, err := e.sum(c.which)
		if err != nil {
			return 0, 0, err
		}
		*c.to += n
	}
	return lost, spared, nil
}

func (e *Engine) sum(which uint32) (n uint64, err error) {
	var each []uint64 // of each CPU
	err = e.coll.Maps["counts"].Lookup(which, &each)
	for _, c := range each {
		n += c
	}
	return n, err
}

// Close removes the programs from the kernel.
func (e *Engine) Close() error {
	var errs []error
	for _, l := range e.links {
		errs = append(errs, l.Close())
	}
	if e.ring != nil {
		errs = append(errs, e.ring.Close())
	}
	if e.coll != nil {
		e.coll.Close()
	}
	return errors.Join(errs...)
}

// Wake ends a Read of another goroutine with [ErrWoken].
func (e *Engine) Wake() { _ = e.ring.Flush() }

// ErrWoken is what Read wraps behind [Engine.Wake].
var ErrWoken = ringbuf.ErrFlushed
