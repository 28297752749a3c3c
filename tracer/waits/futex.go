package waits

import (
	"encoding/binary"
	"slices"

	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

type procMapping = procview.Mapping

// From linux/futex.h.
const (
	futexPrivate   = 128
	futexLockPI    = 6
	futexLockPI2   = 13
	futexWaiters   = 0x80000000
	futexTIDMask   = 0x3fffffff
	futexContended = 2 // what glibc's lowlevellock writes before it waits
)

func futexCommand(op uint64) uint64 { return op & 0x7f }

// futex says who could wake a thread that waits for a futex. If it is a mutex of
// glibc (sysdeps/nptl/bits/struct_mutex.h) whose owner is written in it, or the
// id of a thread that is joined, it is that thread; else any other one that has the
// same memory.
func (d *decoding) futex(i int) {
	addr := d.args[i]
	on := event.Awaited{Op: event.AwaitFutex, Addr: event.Some(event.Hex(addr))}
	private, pi, val := d.args[1]&futexPrivate != 0, false, uint32(d.args[2])
	switch d.call {
	case "futex":
		pi = futexCommand(d.args[1]) == futexLockPI || futexCommand(d.args[1]) == futexLockPI2
	case "futex_wait": // futex_wait(addr, val, mask, flags, timeout, clock)
		private, val = d.args[3]&futexPrivate != 0, uint32(d.args[1])
	}
	owner := event.TID(0)
	// Lock, count, owner, users, kind.
	switch b := d.mem.read(d.w.PID, addr, 20); {
	case b == nil:
	case pi:
		owner = event.TID(binary.NativeEndian.Uint32(b) & futexTIDMask)
	case val == futexContended && plausibleMutex(b, d.bits32):
		owner = event.TID(binary.NativeEndian.Uint32(b[8:]))
	case val&futexWaiters != 0: // robust
		owner = event.TID(val & futexTIDMask)
	case !private && val == binary.NativeEndian.Uint32(b) && d.own(event.TID(val)) != 0:
		// pthread_join(3) waits for the kernel to clear the thread's id
		// (set_tid_address(2)), always as if for a shared futex.
		on.Op, owner = event.AwaitThread, event.TID(val)
	}
	if owner != 0 {
		on.ID = event.Some(int64(owner))
		switch tid := d.own(owner); {
		case tid != 0:
			on.Enders = []event.Ender{{PID: d.w.PID, Comm: d.comm(d.w.PID), TID: tid, How: event.HowOwner}}
		case !private:
			if tgid, err := d.v.TGID(owner); err == nil {
				on.Enders = []event.Ender{{PID: tgid, Comm: d.comm(tgid), TID: owner, How: event.HowOwner}}
			}
		}
		if len(on.Enders) > 0 || private && d.v.Ours() { // else it is gone, and nobody unlocks it
			d.add(on)
			return
		}
	}
	if len(d.tids) > 1 {
		on.Enders = append(on.Enders, event.Ender{PID: d.w.PID, Comm: d.comm(d.w.PID), How: event.HowThread})
	}
	if !private {
		d.sharers(&on, addr)
	}
	d.add(on)
}

// plausibleMutex says whether what follows the lock word looks like a
// pthread_mutex_t that is in use: an owner, who uses it, and a known kind. Other locks
// of glibc use the same values of the word.
func plausibleMutex(b []byte, bits32 bool) bool {
	const maxTID, maxUsers, kinds = 1 << 22, 1 << 20, 0x1ff // PID_MAX_LIMIT; PTHREAD_MUTEX_*
	owner, users, kind := binary.NativeEndian.Uint32(b[8:]), binary.NativeEndian.Uint32(b[12:]), binary.NativeEndian.Uint32(b[16:])
	if bits32 { // __PTHREAD_MUTEX_NUSERS_AFTER_KIND
		users, kind = kind, users
	}
	return owner > 0 && owner <= maxTID && users > 0 && users < maxUsers && kind&^kinds == 0
}

// own gives the thread of the same process that has a number in its own pid
// namespace; 0 for none.
func (d *decoding) own(number event.TID) event.TID {
	if number <= 0 {
		return 0
	}
	if slices.Contains(d.tids, number) {
		return number
	}
	for _, tid := range d.tids {
		if d.numbered(d.w.PID, tid, number) {
			return tid
		}
	}
	return 0
}

// sharers adds the other processes that have mapped the memory of a futex.
func (d *decoding) sharers(on *event.Awaited, addr uint64) {
	maps, err := d.v.Maps(d.w.PID)
	if err != nil {
		on.Partial = true
		return
	}
	m, ok := procview.FindMapping(maps, addr)
	if !ok || m.Ino == 0 || len(m.Perms) < 4 || m.Perms[3] != 's' {
		return
	}
	t := m.Target()
	on.Target = &t
	pids, partial := d.v.Sharing(m)
	on.Partial = on.Partial || partial
	for _, pid := range pids {
		if pid != d.w.PID {
			on.Enders = append(on.Enders, event.Ender{PID: pid, Comm: d.comm(pid), How: event.HowMapping})
		}
	}
}

// fcntl waits for a lock with F_SETLKW and F_OFD_SETLKW only.
func (d *decoding) fcntl(i int) {
	const setLKW, setLKW64, ofdSetLKW = 7, 14, 38 // asm-generic/fcntl.h
	switch cmd := d.args[i+1]; {
	case cmd == setLKW || cmd == setLKW64 && d.call == "fcntl64":
		d.lock(d.fd(i), "POSIX")
	case cmd == ofdSetLKW:
		d.lock(d.fd(i), "OFDLCK")
	default:
		d.file(d.fd(i))
	}
}

// lock is a lock of a file. /proc/locks has its waiters beside it; of those
// that belong to an open file (flock(2), OFD), all who have that file open hold it.
func (d *decoding) lock(fd event.FD, kind string) {
	on := event.Awaited{Op: event.AwaitLock, FD: event.Some(fd), Target: d.target(fd), Lock: kind}
	if d.locks == nil {
		locks, err := d.v.Locks()
		if err != nil {
			d.note(err)
		}
		d.locks = append([]procview.Lock{}, locks...)
	}
	var held []procview.Lock
	for _, waiting := range d.locks {
		if waiting.Waits && waiting.Kind == kind && (waiting.PID == d.w.PID || waiting.PID <= 0) && waiting.Ino == on.Target.Ino {
			for _, l := range d.locks {
				if l.Group == waiting.Group && !l.Waits {
					held = append(held, l)
				}
			}
			break
		}
	}
	d.owners(&on, held, kind)
	if len(on.Enders) == 0 { // a file system that keeps its locks elsewhere, or another pid namespace
		on.Outside, on.Partial = event.OutsideUnknown, true
		if info, err := d.v.Fdinfo(d.w.PID, fd); err == nil {
			on.Mount, _ = d.v.MountByID(d.w.PID, info.MountID)
		}
	}
	d.add(on)
}

// owners adds who holds a lock.
func (d *decoding) owners(on *event.Awaited, held []procview.Lock, kind string) {
	for _, l := range held {
		if kind == "POSIX" && l.PID > 0 {
			on.Enders = append(on.Enders, event.Ender{PID: l.PID, Comm: d.comm(l.PID), How: event.HowOwner})
		}
	}
	if kind == "POSIX" || len(held) == 0 {
		return
	}
	hs := d.holders(func(ix *procview.Index) []event.Holder { return ix.Holders(*on.Target) })
	d.those(on, event.HowOwner, hs, func(info procview.Fdinfo) bool {
		return slices.ContainsFunc(info.Locks, func(l procview.Lock) bool { return l.Kind == kind })
	})
	if len(on.Enders) > 0 {
		return
	}
	for _, l := range held {
		if l.PID > 0 {
			on.Enders = append(on.Enders, event.Ender{PID: l.PID, Comm: d.comm(l.PID), How: event.HowOwner})
		}
	}
}

// lease is an open(2) that waits for somebody to give a lease up, fcntl(2).
func (d *decoding) lease(on *event.Awaited) {
	on.Op, on.Lock = event.AwaitLock, "LEASE"
	locks, err := d.v.Locks()
	if err != nil {
		d.note(err)
	}
	for _, l := range locks {
		if (l.Kind == "LEASE" || l.Kind == "DELEG") && l.Ino == on.Target.Ino && l.PID > 0 {
			on.Enders = append(on.Enders, event.Ender{PID: l.PID, Comm: d.comm(l.PID), How: event.HowOwner})
		}
	}
	on.Outside = event.OutsideTimer // /proc/sys/fs/lease-break-time
}
