package waits

import (
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// call says what a thread waits for that is blocked in a call; tids are the
// threads of its process.
func (s *search) call(w *looked, b *event.Blocked, tids []event.TID) {
	if s.kept(w, decode.Kept(b.Wchan)) {
		return
	}
	if b.Args == nil {
		if s.v.MayAttach(w.PID) != nil {
			w.Error = "EPERM"
			return
		}
		s.fault(w)
		return
	}
	name := b.Syscall
	if name == "restart_syscall" {
		if was := decode.Restarted(b.Wchan); was != "" {
			name, w.Syscall = was, was
		}
	}
	d := decoding{search: s, w: w, tids: tids, call: name}
	for i, arg := range b.Args {
		d.args[i] = uint64(arg)
	}
	if b.Arch != "" {
		d.compat()
	}
	row := decode.Waits(d.call)
	for i, kind := range row {
		d.argument(kind, i)
	}
	if d.sets {
		if len(w.On) == 0 { // of no descriptor
			if w.TimeoutUS.Known {
				d.add(event.Awaited{Op: event.AwaitTimer, Outside: event.OutsideTimer})
			} else {
				d.add(event.Awaited{Op: event.AwaitSignal, Outside: event.OutsideAnybody})
			}
		}
		d.byChildren()
	}
	// Whoever waits for others does so that a signal can wake it, but for these. In state
	// D it is on its way out of the call, or is kept by the kernel for something else.
	if w.State == "D" && !slices.ContainsFunc(w.On, func(on event.Awaited) bool {
		return on.Op == event.AwaitFile || on.Op == event.AwaitOpen || on.Op == event.AwaitVfork
	}) {
		w.On = nil
	}
	if len(w.On) == 0 {
		op := event.Awaited{Op: event.AwaitDevice, Outside: event.OutsideUnknown}
		if w.State == "D" {
			op.Outside = event.OutsideDevice
		}
		w.On = append(w.On, op)
	}
}

// kept says who could let a thread go on that the kernel keeps, whatever its call, and
// whether it does.
func (s *search) kept(w *looked, op event.AwaitOp) bool {
	on := event.Awaited{Op: op, Outside: event.OutsideAnybody}
	switch {
	case op == event.AwaitThaw || op == "" && w.State == "D": // a frozen thread may stay in what it slept in
		path, frozen := s.v.Freezer(w.PID)
		if op == "" && !frozen {
			return false
		}
		on.Op, on.Path = event.AwaitThaw, path
	case op == event.AwaitPermit:
		// Each filter has a listener of its own, and nothing says which one is whose.
		hs := s.holders(func(ix *procview.Index) []event.Holder { return ix.Named("anon_inode:seccomp notify") })
		for _, h := range hs {
			if !hasEnder(&on, h.PID) {
				on.Enders = append(on.Enders, event.Ender{PID: h.PID, Comm: h.Comm, FD: event.Some(h.FD), How: event.HowPeer})
			}
		}
		on.Partial = len(hs) != 1 || s.doubt(hs)
	default:
		return false
	}
	w.On = []event.Awaited{on}
	return true
}

// decoding is what is known of a call while its arguments are looked at.
type decoding struct {
	*search
	w    *looked
	tids []event.TID
	call string
	args [6]uint64

	bits32   bool  // it is a 32-bit program's
	narrow   bool  // with times of 32 bits
	at       int   // descriptor where a name starts
	absolute bool  // the time-out is a point of time,
	clock    int32 // of this clock
	nfds     int
	sets     bool  // it waits for one of several descriptors
	ids      []int // the thread's NSpid; nil: not read yet
}

// maxSet bounds how many entries of a set are looked at.
const maxSet = 1024

// compat makes a call of a 32-bit program the one that it is in 64 bits. Some stand behind
// the number of another, with their arguments in memory.
func (d *decoding) compat() {
	d.bits32, d.narrow = true, decode.NarrowTimes(d.call)
	call := decode.Native(d.call)
	switch call {
	case "socketcall":
		call = decode.SocketCall(d.args[0])
		b := d.mem.read(d.w.PID, d.args[1], 4*4)
		if b == nil {
			return
		}
		for i := range 4 {
			d.args[i] = uint64(binary.NativeEndian.Uint32(b[4*i:]))
		}
	case "ipc":
		from, args := d.args, []int(nil)
		call, args = decode.IPCCall(from[0])
		for i, arg := range args {
			d.args[i] = from[arg]
		}
	}
	if call != "" {
		d.call, d.w.Syscall = call, call
	}
}

func (d *decoding) fd(i int) event.FD { return event.FD(decode.Int32(d.args[i])) }

func (d *decoding) argument(kind decode.WaitArg, i int) {
	if i >= len(d.args) {
		return
	}
	switch kind {
	case decode.WaitRead:
		d.descriptor(d.fd(i), event.AwaitRead)
	case decode.WaitWrite:
		d.descriptor(d.fd(i), event.AwaitWrite)
	case decode.WaitAccept:
		d.descriptor(d.fd(i), event.AwaitAccept)
	case decode.WaitConnect:
		d.descriptor(d.fd(i), event.AwaitConnect)
	case decode.WaitSockaddr:
		d.connects(i)
	case decode.WaitFlock:
		d.lock(d.fd(i), "FLOCK")
	case decode.WaitFcntl:
		d.fcntl(i)
	case decode.WaitFile:
		d.file(d.fd(i))
	case decode.WaitDirFD:
		d.at = int(d.fd(i))
	case decode.WaitPath:
		d.path(i, event.AwaitFile, 0)
	case decode.WaitOpen:
		flags := d.args[i+1]
		if d.call == "openat2" { // struct open_how begins with them
			if b := d.mem.read(d.w.PID, d.args[i+1], 8); b != nil {
				flags = binary.NativeEndian.Uint64(b)
			}
		}
		d.path(i, event.AwaitOpen, flags)
	case decode.WaitPollSet:
		d.pollSet(i)
	case decode.WaitSelectLen:
		d.sets, d.nfds = true, int(decode.Int32(d.args[i]))
	case decode.WaitReadSet, decode.WaitExceptSet:
		d.selectSet(i, event.AwaitRead)
	case decode.WaitWriteSet:
		d.selectSet(i, event.AwaitWrite)
	case decode.WaitEpoll:
		d.sets = true
		d.epoll(d.fd(i), 0)
	case decode.WaitMS:
		if ms := decode.Int32(d.args[i]); ms >= 0 {
			d.w.TimeoutUS = event.Some(int64(ms) * 1000)
		}
	case decode.WaitTimespec:
		d.timeout(i, 1000, d.absolute, d.clock)
	case decode.WaitTimeval:
		d.timeout(i, 1, false, 0)
	case decode.WaitClockFlags:
		const timerAbstime = 1
		d.absolute, d.clock = d.args[i]&timerAbstime != 0, decode.Int32(d.args[i-1])
	case decode.WaitSleep:
		d.add(event.Awaited{Op: event.AwaitTimer, Outside: event.OutsideTimer})
	case decode.WaitChildPID:
		d.child(int64(decode.Int32(d.args[i])))
	case decode.WaitIDType:
		d.waitid(i)
	case decode.WaitVfork:
		d.vfork()
	case decode.WaitFutex:
		d.futex(i)
	case decode.WaitFutexTime:
		d.futexTime(i)
	case decode.WaitMsgQueue:
		d.queue(i)
	case decode.WaitSemSet:
		d.semaphore(i)
	case decode.WaitSignal, decode.WaitAnySignal:
		d.signal()
	case decode.WaitRing:
		fd := d.fd(i)
		d.add(event.Awaited{Op: event.AwaitRing, FD: event.Some(fd), Target: d.target(fd), Outside: event.OutsideUnknown})
	}
}

func (d *decoding) add(on event.Awaited) { d.w.On = append(d.w.On, on) }

func (d *decoding) target(fd event.FD) *event.Target {
	t := d.v.Target(d.w.PID, fd)
	return &t
}

// timeout reads a struct timespec (unit 1000 ns) or timeval (unit 1 µs).
func (d *decoding) timeout(i int, unit int64, absolute bool, clock int32) {
	size := 16
	if d.narrow {
		size = 8
	}
	b := d.mem.read(d.w.PID, d.args[i], size)
	if b == nil {
		return
	}
	var seconds, rest int64
	if d.narrow {
		seconds, rest = int64(int32(binary.NativeEndian.Uint32(b))), int64(int32(binary.NativeEndian.Uint32(b[4:])))
	} else {
		seconds, rest = int64(binary.NativeEndian.Uint64(b)), int64(binary.NativeEndian.Uint64(b[8:]))
	}
	us := seconds*1e6 + rest/unit
	if absolute {
		switch clock {
		case unix.CLOCK_REALTIME, unix.CLOCK_MONOTONIC, unix.CLOCK_BOOTTIME, unix.CLOCK_TAI:
		default:
			return // a process's own
		}
		var now unix.Timespec
		if unix.ClockGettime(clock, &now) != nil {
			return
		}
		us -= now.Nano() / 1000
	}
	d.w.TimeoutUS = event.Some(max(us, 0))
}

// pollSet reads an array of struct pollfd: int fd, short events, short revents.
func (d *decoding) pollSet(i int) {
	const size = 8
	d.sets = true
	n := int(min(d.args[i+1], maxSet+1))
	b := d.mem.read(d.w.PID, d.args[i], n*size)
	if b == nil && n > 0 || n > maxSet {
		d.add(event.Awaited{Op: event.AwaitRead, Outside: event.OutsideUnknown})
	}
	for ; len(b) >= size; b = b[size:] {
		if fd := event.FD(binary.NativeEndian.Uint32(b)); fd >= 0 {
			d.events(fd, uint32(binary.NativeEndian.Uint16(b[4:])), 0)
		}
	}
}

// events are those of poll(2) and epoll(7), which have the same numbers.
func (d *decoding) events(fd event.FD, events uint32, depth int) {
	const in, pri, out, rdhup = 1, 2, 4, 0x2000
	if events&out != 0 {
		d.descriptor(fd, event.AwaitWrite)
	}
	if events&(in|pri|rdhup) == 0 && events&out != 0 {
		return
	}
	if t := d.target(fd); t.Kind == event.AnonInode && t.Link == "anon_inode:[eventpoll]" {
		d.epoll(fd, depth+1)
		return
	}
	d.descriptor(fd, event.AwaitRead)
}

func (d *decoding) selectSet(i int, op event.AwaitOp) {
	if d.args[i] == 0 || d.nfds <= 0 {
		return
	}
	n := min(d.nfds, maxSet)
	b := d.mem.read(d.w.PID, d.args[i], (n+7)/8)
	if b == nil || n < d.nfds {
		d.add(event.Awaited{Op: op, Outside: event.OutsideUnknown})
	}
	for fd := range n {
		if fd/8 < len(b) && b[fd/8]&(1<<(fd%8)) != 0 { // longs, little endian
			d.descriptor(event.FD(fd), op)
		}
	}
}

// epoll takes what an epoll descriptor waits for from its fdinfo. An entry may
// be of a file whose descriptor has been closed or used again meanwhile.
func (d *decoding) epoll(fd event.FD, depth int) {
	const maxNested = 5 // EP_MAX_NESTS, fs/eventpoll.c
	info, err := d.v.Fdinfo(d.w.PID, fd)
	if err != nil || depth > maxNested || len(info.Epoll) > maxSet {
		d.add(event.Awaited{Op: event.AwaitRead, FD: event.Some(fd), Outside: event.OutsideUnknown})
		return
	}
	for _, e := range info.Epoll {
		if t := d.target(e.FD); t.Ino != e.Ino {
			d.add(event.Awaited{Op: event.AwaitRead, Outside: event.OutsideUnknown})
			continue
		}
		d.events(e.FD, e.Events, depth)
	}
}

// byChildren adds the children and tracees, whose SIGCHLD ends a call that waits
// for several descriptors if it is caught: its handler writes to one of them, or
// the call ends with EINTR.
func (d *decoding) byChildren() {
	status, err := d.v.Status(d.w.PID, d.w.TID)
	if err != nil || status.Signal(int(unix.SIGCHLD)) != "caught" {
		return
	}
	d.anyChild()
}

// anyChild adds the tracees and the other children, of which any may change its state.
func (d *decoding) anyChild() (any bool) {
	enders := d.children(func(event.PID) bool { return true })
	for _, how := range []event.EnderHow{event.HowTracee, event.HowChild} {
		these := slices.DeleteFunc(slices.Clone(enders), func(e event.Ender) bool { return e.How != how })
		if len(these) > 0 {
			d.add(event.Awaited{Op: event.AwaitChild, Enders: these})
		}
	}
	return len(enders) > 0
}

// children gives the children and tracees that are meant.
func (d *decoding) children(meant func(event.PID) bool) []event.Ender {
	var enders []event.Ender
	tracees := d.traceesOf(d.w.PID)
	children, _ := d.v.Children(d.w.PID)
	for _, pid := range children {
		if meant(pid) && !slices.Contains(tracees, pid) {
			enders = append(enders, event.Ender{PID: pid, Comm: d.comm(pid), How: event.HowChild})
		}
	}
	for _, pid := range tracees {
		if meant(pid) {
			enders = append(enders, event.Ender{PID: pid, Comm: d.comm(pid), How: event.HowTracee})
		}
	}
	return enders
}

// child is the first argument of wait4(2): a process, a group (negative), any
// (-1), or any of the own group (0).
func (d *decoding) child(id int64) {
	on := event.Awaited{Op: event.AwaitChild}
	group := 0
	switch {
	case id > 0:
		on.ID = event.Some(id)
		if e, ok := d.thread(event.TID(id)); ok {
			on.Enders = append(on.Enders, e)
			d.add(on)
			return
		}
		on.Outside = event.OutsideUnknown // of another pid namespace, say
		d.add(on)
		return
	case id < -1:
		on.ID, group = event.Some(id), int(-id)
	case id == 0:
		group = d.w.PGRP.Val
	}
	on.Enders = d.children(func(pid event.PID) bool {
		if group == 0 {
			return true
		}
		stat, err := d.v.Stat(pid, event.TID(pid))
		return err == nil && stat.PGRP == group
	})
	d.add(on)
}

// thread gives a child or a thread that is traced, by the number by which the
// waiting thread knows it.
func (d *decoding) thread(id event.TID) (event.Ender, bool) {
	all := d.children(func(event.PID) bool { return true })
	for _, e := range all {
		if d.numbered(e.PID, event.TID(e.PID), id) {
			return e, true
		}
	}
	for _, e := range all {
		tids, _ := d.v.Threads(e.PID)
		for _, tid := range tids {
			if d.numbered(e.PID, tid, id) {
				e.TID = tid
				return e, true
			}
		}
	}
	return event.Ender{}, false
}

// numbered says whether a thread has that number in the pid namespace of the
// waiting one.
func (d *decoding) numbered(pid event.PID, tid, id event.TID) bool {
	if tid == id {
		return true
	}
	if d.ids == nil {
		status, _ := d.v.Status(d.w.PID, d.w.TID) // none, if it has ended
		d.ids = append([]int{}, status.NSpid...)
	}
	level := len(d.ids) - 1
	if level <= 0 {
		return false // it is in our own
	}
	status, err := d.v.Status(pid, tid)
	return err == nil && level < len(status.NSpid) && status.NSpid[level] == int(id)
}

func (d *decoding) waitid(i int) {
	const all, pid, group, pidfd = 0, 1, 2, 3 // P_*, linux/wait.h
	switch id := int64(decode.Int32(d.args[i+1])); d.args[i] {
	case all:
		d.child(-1)
	case pid:
		d.child(id)
	case group:
		d.child(-id)
	case pidfd:
		d.descriptor(event.FD(id), event.AwaitRead)
	}
}

// vfork is a parent that is kept until its newest child has its own memory.
func (d *decoding) vfork() {
	if d.w.State != "D" {
		return
	}
	var newest event.PID
	var started uint64
	children, _ := d.v.Children(d.w.PID)
	for _, pid := range children {
		if at, err := d.v.StartTime(event.TID(pid)); err == nil && at >= started {
			newest, started = pid, at
		}
	}
	on := event.Awaited{Op: event.AwaitVfork}
	if newest == 0 {
		on.Outside = event.OutsideUnknown
	} else {
		on.Enders = []event.Ender{{PID: newest, Comm: d.comm(newest), How: event.HowChild}}
	}
	d.add(on)
}

// signal is a thread that waits for one. If it has children whose SIGCHLD it
// takes, these are meant.
func (d *decoding) signal() {
	status, err := d.v.Status(d.w.PID, d.w.TID)
	how := status.Signal(int(unix.SIGCHLD))
	if err == nil && (how == "caught" || how == "blocked" && d.call == "rt_sigtimedwait") {
		if d.anyChild() {
			return
		}
	}
	d.add(event.Awaited{Op: event.AwaitSignal, Outside: event.OutsideAnybody})
}

// fault is a thread that sleeps outside a call: for a page of a file. If its process
// has mapped files of one served file system only, that one has to answer.
func (s *search) fault(w *looked) {
	on := event.Awaited{Op: event.AwaitFault, Outside: event.OutsideUnknown}
	if w.State == "D" {
		on.Outside = event.OutsideDevice
	}
	if maps, err := s.v.Maps(w.PID); err == nil && w.State == "D" {
		served := s.v.Remote(w.PID, maps)
		if len(served) > 0 && !slices.ContainsFunc(served, func(m procMapping) bool { return m.Dev != served[0].Dev }) {
			if mount := s.v.MountOfMapping(w.PID, served[0]); mount != nil && strings.Contains(w.Wchan, "fuse") || w.Wchan == "request_wait_answer" {
				on.Path = served[0].Path
				s.server(&on, mount)
			}
		}
	}
	w.On = append(w.On, on)
}

// queue is a System V message queue, msgop(2).
func (d *decoding) queue(i int) {
	id := decode.Int32(d.args[i])
	on := event.Awaited{Op: event.AwaitQueue, ID: event.Some(int64(id)), Outside: event.OutsideAnybody}
	if q, ok := d.v.MessageQueue(d.w.PID, int(id)); ok {
		last := q.LastSender
		if d.call == "msgsnd" {
			last = q.LastReceiver
		}
		on.Enders = d.last(last)
	}
	d.add(on)
}

// semaphore is a System V semaphore set, semop(2): struct sembuf begins with the
// number of the semaphore.
func (d *decoding) semaphore(i int) {
	id := decode.Int32(d.args[i])
	on := event.Awaited{Op: event.AwaitSem, ID: event.Some(int64(id)), Outside: event.OutsideAnybody}
	if b := d.mem.read(d.w.PID, d.args[i+1], 2); b != nil && d.v.Ours() && d.v.Namespace(d.w.PID, "ipc") == d.v.Namespace(event.PID(os.Getpid()), "ipc") {
		const getPID = 11 // GETPID, linux/sem.h
		pid, _, errno := unix.Syscall6(unix.SYS_SEMCTL, uintptr(id), uintptr(binary.NativeEndian.Uint16(b)), getPID, 0, 0, 0)
		if errno == 0 {
			on.Enders = d.last(event.PID(pid))
		}
	}
	d.add(on)
}

// last is who used something last, if that is somebody else who is still there.
func (d *decoding) last(pid event.PID) []event.Ender {
	if pid <= 0 || pid == d.w.PID || d.comm(pid) == "" {
		return nil
	}
	return []event.Ender{{PID: pid, Comm: d.comm(pid), How: event.HowLast}}
}

// futexTime is the longest time that a futex is waited for: a duration for
// FUTEX_WAIT only (futex(2)), and of mq_timedreceive(3) a point of time.
func (d *decoding) futexTime(i int) {
	const wait, clockRealtime = 0, 256
	absolute, clock := true, int32(unix.CLOCK_REALTIME)
	if d.call == "futex" {
		absolute = futexCommand(d.args[1]) != wait
		if d.args[1]&clockRealtime == 0 {
			clock = unix.CLOCK_MONOTONIC
		}
	}
	d.timeout(i, int64(time.Microsecond), absolute, clock)
}
