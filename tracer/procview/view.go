// Package procview reads what /proc says of processes: threads, descriptors
// with their identity, mappings, what a thread is blocked in, and what a name
// leads to when another process resolves it.
//
// It never opens a file of somebody else for reading or writing: names and
// descriptors are looked at with O_PATH, which neither blocks nor steals, and
// attributes are asked for without going to a server (AT_STATX_DONT_SYNC).
package procview

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// View is a /proc file system.
type View struct {
	// Mount is where it is mounted; a folder of fixtures in tests.
	Mount string
	// Asker asks what may never be answered; nil asks in this process.
	Asker *Asker

	mounts mountTable

	once sync.Once
	own  mountFacts // by [View.facts]
}

// mountFacts are what the mount itself tells; all false or 0 for fixtures.
type mountFacts struct {
	proc bool   // it is a proc file system
	dev  uint64 // its st_dev
	// ours says that the ids there are those of our own pid namespace, so that
	// they can be given to system calls.
	ours bool
}

func (v *View) facts() mountFacts {
	v.once.Do(func() {
		var fs unix.Statfs_t
		var st unix.Statx_t
		if unix.Statfs(v.Mount, &fs) != nil || fs.Type != unix.PROC_SUPER_MAGIC ||
			unix.Statx(unix.AT_FDCWD, v.Mount, statFlags, statMask, &st) != nil {
			return
		}
		self, err := os.Readlink(v.Mount + "/self")
		v.own = mountFacts{proc: true, dev: decode.Makedev(st.Dev_major, st.Dev_minor),
			ours: err == nil && self == strconv.Itoa(os.Getpid())}
	})
	return v.own
}

// New looks at the proc file system at mount.
func New(mount string) *View { return &View{Mount: strings.TrimRight(mount, "/")} }

// maxProcFile bounds how much of a file of /proc is read, bytes.
const maxProcFile = 16 << 20

// path makes the path of a file of a process.
func (v *View) path(pid int, rest string) string {
	return v.Mount + "/" + strconv.Itoa(pid) + "/" + rest
}

// read reads a whole small file of /proc.
func (v *View) read(pid int, rest string) ([]byte, error) {
	return readAt(unix.AT_FDCWD, v.path(pid, rest), nil, maxProcFile)
}

// readAt reads a file of /proc, at most limit bytes of it, into buf if it is
// large enough. It calls the kernel itself: [os.Open] costs several times as
// much as such a short read, and thousands are made in a row.
func readAt(dir int, name string, buf []byte, limit int) ([]byte, error) {
	fd, err := openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if len(buf) == 0 {
		buf = make([]byte, min(4096, limit))
	}
	n := 0
	for {
		m, err := unix.Read(fd, buf[n:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		case m <= 0:
			return buf[:n], nil
		}
		n += m
		if n == len(buf) {
			if n >= limit {
				return buf, nil
			}
			buf = append(buf, make([]byte, min(len(buf), limit-n))...)
		}
	}
}

// openat opens, and again if a signal (the Go runtime's own, say) came first.
func openat(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, noteScarce(err)
		}
	}
}

// numbers gives the entries of a folder whose names are numbers, sorted.
func numbers(dir string) ([]int, error) {
	fd, err := openat(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return numbersIn(fd)
}

// numbersIn reads an open folder from its beginning. An [os.File] would ask the kernel
// five questions more, for each process of the machine.
func numbersIn(fd int) (ns []int, err error) {
	var buf [8192]byte
	var names []string
	for {
		n, err := unix.ReadDirent(fd, buf[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			slices.Sort(ns)
			return ns, err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names[:0])
		for _, name := range names {
			if n, ok := number(name); ok {
				ns = append(ns, n)
			}
		}
	}
}

// number reads an id or descriptor number: digits only, below 2^31.
func number(name string) (int, bool) {
	n, err := strconv.ParseUint(name, 10, 31)
	return int(n), err == nil
}

// PIDs gives all processes that can be seen. One at least can, by itself: where there is
// none, it is not a proc file system that was looked at.
func (v *View) PIDs() ([]event.PID, error) {
	pids, err := ids[event.PID](v.Mount, "list processes")
	if err == nil && len(pids) == 0 {
		err = fmt.Errorf("no process is to be seen at %[1]s: mount -t proc proc %[1]s", v.Mount)
	}
	return pids, err
}

// Threads gives the threads of a process; a wrapped [os.ErrNotExist] if it is gone.
func (v *View) Threads(pid event.PID) ([]event.TID, error) {
	return ids[event.TID](v.path(int(pid), "task"), fmt.Sprintf("threads of pid %d", pid))
}

func ids[T ~int](dir, what string) ([]T, error) {
	ns, err := numbers(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, gone(err))
	}
	all := make([]T, len(ns))
	for i, n := range ns {
		all[i] = T(n)
	}
	return all, nil
}

// Children gives the processes that the threads of a process have started and
// that it has not lost (proc_pid_task(5)); none on a kernel that was built
// without CONFIG_PROC_CHILDREN.
func (v *View) Children(pid event.PID) ([]event.PID, error) {
	tids, err := v.Threads(pid)
	if err != nil {
		return nil, err
	}
	var all []event.PID
	for _, tid := range tids {
		b, err := v.read(int(pid), "task/"+strconv.Itoa(int(tid))+"/children")
		if err != nil {
			continue // the thread has ended
		}
		for word := range strings.FieldsSeq(string(b)) {
			if child, ok := number(word); ok {
				all = append(all, event.PID(child))
			}
		}
	}
	slices.Sort(all)
	return all, nil
}

// gone makes ESRCH, which /proc answers for a process that ended while its
// file was open, the same as a file that is not there.
func gone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%w (%w)", os.ErrNotExist, err)
	}
	return err
}

// TracerOf gives the thread that traces a process, 0 if none.
func (v *View) TracerOf(pid event.PID) (event.TID, error) {
	st, err := v.Status(pid, event.TID(pid))
	if err == nil && st.Ended() {
		st, err = v.Status(pid, v.Living(pid))
	}
	return st.TracerPid, err
}

// TGID gives the process that a thread belongs to.
func (v *View) TGID(tid event.TID) (event.PID, error) {
	st, err := v.Status(event.PID(tid), tid)
	return st.Tgid, err
}

// Status is what proc_pid_status(5) says of a thread.
func (v *View) Status(pid event.PID, tid event.TID) (Status, error) {
	return ofThread(v, pid, tid, "status", ParseStatus)
}

// Stat is what proc_pid_stat(5) says of a thread.
func (v *View) Stat(pid event.PID, tid event.TID) (Stat, error) {
	return ofThread(v, pid, tid, "stat", ParseStat)
}

func ofThread[T any](v *View, pid event.PID, tid event.TID, file string, parse func([]byte) (T, error)) (got T, err error) {
	b, err := v.read(int(pid), "task/"+strconv.Itoa(int(tid))+"/"+file)
	if err != nil && event.TID(pid) == tid {
		b, err = v.read(int(pid), file)
	}
	if err == nil {
		got, err = parse(b)
	}
	if err != nil {
		err = fmt.Errorf("%s of thread %d: %w", file, tid, gone(err))
	}
	return got, err
}

// Owner is the user to whom the files in a process's folder belong: the effective
// one, but root where the process is not dumpable (proc(5)); -1 if not known.
func (v *View) Owner(pid event.PID) int {
	var st unix.Stat_t
	if err := unix.Lstat(v.path(int(pid), "status"), &st); err != nil {
		return -1
	}
	return int(st.Uid)
}

// Namespace is the inode of a namespace of a process, 0 if it may not be read.
func (v *View) Namespace(pid event.PID, kind string) uint64 {
	ino, _ := namespaceInode(string(v.Link(pid, "ns/"+kind)))
	return ino
}

// Text is a small file of the kernel's below the mount, without blanks around it.
func (v *View) Text(name string) (string, error) {
	b, err := readAt(unix.AT_FDCWD, v.Mount+"/"+name, nil, maxProcFile)
	return strings.TrimSpace(string(b)), err
}

// State is the one-letter state of a thread (proc_pid_stat(5)).
func (v *View) State(pid event.PID, tid event.TID) (string, error) {
	st, err := v.Stat(pid, tid)
	return st.State, err
}

// maxCmdline bounds the command line that is kept, bytes.
const maxCmdline = 64 << 10

// Process describes a process. What this user may not see of it is absent.
func (v *View) Process(pid event.PID) (event.Process, error) {
	st, err := v.Status(pid, event.TID(pid))
	if err != nil {
		return event.Process{}, err
	}
	p := event.Process{PID: pid, PPID: st.PPid, Comm: st.Name, SIGINT: st.Signal(int(unix.SIGINT)), UID: event.Some(st.UID[1])}
	if stat, err := v.Stat(pid, event.TID(pid)); err == nil {
		p.PGRP = event.Some(stat.PGRP)
		if stat.TPGID > 0 {
			p.TTYPGRP = event.Some(stat.TPGID)
		}
	}
	p.Exe = v.Link(pid, "exe")
	p.Cwd = v.Link(pid, "cwd")
	if b := v.cmdline(pid); len(b) > 0 {
		for _, arg := range bytes.Split(bytes.TrimSuffix(b, []byte{0}), []byte{0}) {
			p.Cmdline = append(p.Cmdline, event.Text(arg))
		}
	}
	for _, ns := range []string{"mnt", "pid", "user"} {
		if ino := v.Namespace(pid, ns); ino != 0 {
			if p.Namespaces == nil {
				p.Namespaces = map[string]uint64{}
			}
			p.Namespaces[ns] = ino
		}
	}
	const enters = 1<<18 | 1<<21 // CAP_SYS_CHROOT, CAP_SYS_ADMIN (linux/capability.h)
	p.SetNS = event.Some(st.CapEff&enters == enters)
	p.MapFiles = event.Some(opensMapFiles(st.CapEff, p.Namespaces["user"]))
	return p, nil
}

// opensMapFiles says whether a process with these capabilities may open what is
// in map_files (fs/proc/base.c). They count only in the first user namespace,
// whose inode is fixed (PROC_USER_INIT_INO, linux/proc_ns.h); 0 is not known.
func opensMapFiles(capEff, userNS uint64) bool {
	const (
		capSysAdmin          = 21 // linux/capability.h
		capCheckpointRestore = 40
		firstUserNS          = 0xeffffffd
	)
	return capEff&(1<<capSysAdmin|1<<capCheckpointRestore) != 0 && (userNS == 0 || userNS == firstUserNS)
}

// cmdline reads the command line. It lies in the process's memory, which may be
// backed by a file system that does not answer.
func (v *View) cmdline(pid event.PID) []byte {
	b, _ := Within(patience, func() ([]byte, error) {
		name := v.live(pid, "cmdline")
		dev, remote := v.remoteArguments(pid)
		if !remote {
			return readAt(unix.AT_FDCWD, name, nil, maxCmdline)
		}
		fd, err := openat(unix.AT_FDCWD, name, unix.O_RDONLY|unix.O_CLOEXEC)
		if err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		got, err := v.Asker.ask(question{what: askRead, fd: fd, size: maxCmdline, dev: dev})
		return got.data, err
	})
	return b
}

// remoteArguments says whether the memory that holds the arguments is a file
// that may have to be asked for; prctl(2) can put them anywhere.
func (v *View) remoteArguments(pid event.PID) (dev uint64, remote bool) {
	if !v.facts().proc {
		return 0, false
	}
	maps, err := v.Maps(pid)
	if err != nil {
		return 0, false // it has ended, or its arguments cannot be read either
	}
	st, err := v.Stat(pid, event.TID(pid))
	if err != nil {
		return 0, false
	}
	from, to := ^uint64(0), uint64(0)
	for _, n := range st.Strings {
		if n != 0 {
			from, to = min(from, n), max(to, n)
		}
	}
	for _, m := range v.Remote(pid, maps) {
		if m.Start <= to && from < m.End {
			return m.Dev, true
		}
	}
	return 0, false
}

// Link is the text of a link of a process's folder; "" where it may not be seen.
func (v *View) Link(pid event.PID, rest string) event.Text {
	s, err := os.Readlink(v.path(int(pid), rest))
	if err != nil {
		if s, err = os.Readlink(v.live(pid, rest)); err != nil {
			return ""
		}
	}
	return event.Text(s)
}

// namespaceInode reads "mnt:[4026531841]".
func namespaceInode(link string) (uint64, bool) {
	_, rest, ok := strings.Cut(link, ":[")
	n, err := strconv.ParseUint(strings.TrimSuffix(rest, "]"), 10, 64)
	return n, ok && err == nil
}

// Living gives a thread of a process that has memory and descriptors: the first one
// or, where that has ended, another one. What lies in a thread's folder is that of the process.
func (v *View) Living(pid event.PID) event.TID {
	if st, err := v.Stat(pid, event.TID(pid)); err != nil || !ended(st.State) {
		return event.TID(pid)
	}
	tids, _ := v.Threads(pid) // none, if all have ended
	for _, tid := range tids {
		if st, err := v.Stat(pid, tid); err == nil && !ended(st.State) {
			return tid
		}
	}
	return event.TID(pid)
}

// live is the path of a file of a process that tells of its memory, its descriptors
// or where it is.
func (v *View) live(pid event.PID, rest string) string { return v.path(int(v.Living(pid)), rest) }

// Exe gives the file of the program that a process runs.
func (v *View) Exe(pid event.PID) (event.Target, error) {
	t, err := v.at(unix.AT_FDCWD, v.live(pid, "exe"))
	if err != nil {
		return t, fmt.Errorf("program of pid %d: %w", pid, err)
	}
	return t, nil
}

// Maps gives the mappings of a process. The list is locked while the process
// changes it, which can take as long as a file system likes: then the error is
// [os.ErrDeadlineExceeded].
func (v *View) Maps(pid event.PID) ([]Mapping, error) {
	maps, err := Within(mapsWithin, func() ([]Mapping, error) {
		f, err := v.OpenFile(pid, "maps")
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return ParseMaps(f)
	})
	if err != nil {
		return nil, fmt.Errorf("mappings of pid %d: %w", pid, gone(err))
	}
	return maps, nil
}

// mapsWithin is far more than reading some 100,000 mappings takes.
const mapsWithin = 3 * time.Second

// MapFile gives the file behind a mapping as stat(2) sees it, even if it has no
// name any more. The kernel asks for CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE
// (proc_pid_map_files(5)); without, the error wraps [os.ErrPermission].
func (v *View) MapFile(pid event.PID, m Mapping) (event.Target, error) {
	t, err := v.at(unix.AT_FDCWD, v.live(pid, "map_files/")+m.Range())
	if err != nil {
		return t, fmt.Errorf("mapped file of pid %d at %s: %w", pid, m.Range(), err)
	}
	return t, nil
}

// Blocked says what a thread is doing in the kernel. A thread that runs has no
// Syscall; one that is found running is looked at again for some milliseconds.
// Without the permission to trace the process (PTRACE_MODE_ATTACH)
// the call stays unknown, and the state is what is left. calls are those of the
// machine; a 32-bit program has its own.
func (v *View) Blocked(pid event.PID, tid event.TID, calls *decode.Table) (event.Blocked, error) {
	st, err := v.Status(pid, tid)
	if err != nil {
		return event.Blocked{}, err
	}
	b := event.Blocked{PID: pid, TID: tid, Comm: st.Name, SIGINT: st.Signal(int(unix.SIGINT))}
	task := "task/" + strconv.Itoa(int(tid)) + "/"
	line, err := v.settled(pid, task+"syscall")
	// Read after it, so that they tell of the same moment.
	if stat, err := v.Stat(pid, tid); err == nil {
		b.State = stat.State
	}
	b.Wchan = v.Wchan(pid, tid)
	if err != nil {
		return b, nil
	}
	call, ok := ParseSyscall(line)
	if !ok {
		return b, nil
	}
	if call.Compat() {
		b.Arch = "32-bit"
		if calls = calls.Compat(); calls != nil {
			b.Arch = calls.Arch()
		}
	}
	v.InCall(&b, call.Nr, call.Args, calls)
	return b, nil
}

// Wchan is the function of the kernel that a thread sleeps in (proc_pid_wchan(5)), "" if
// it does not or where that is not told.
func (v *View) Wchan(pid event.PID, tid event.TID) string {
	w, err := v.read(int(pid), "task/"+strconv.Itoa(int(tid))+"/wchan")
	if s := strings.TrimSpace(string(w)); err == nil && s != "0" {
		return s
	}
	return ""
}

// Syscall is the call that a thread sleeps in at this moment; false for one that runs.
// Unlike [View.Blocked] it does not wait until that is settled.
func (v *View) Syscall(pid event.PID, tid event.TID) (Syscall, bool) {
	line, err := v.read(int(pid), "task/"+strconv.Itoa(int(tid))+"/syscall")
	if err != nil {
		return Syscall{}, false
	}
	return ParseSyscall(line)
}

// InCall says that a thread is in a call, with these arguments. Without a table
// only the arguments are known.
func (v *View) InCall(b *event.Blocked, nr uint64, args [6]uint64, calls *decode.Table) {
	b.Args = make([]event.Hex, len(args))
	for i, a := range args {
		b.Args[i] = event.Hex(a)
	}
	if calls == nil {
		return
	}
	b.Syscall = calls.Name(nr)
	if row, ok := calls.Call(nr); ok && row.FDArg() >= 0 {
		fd := event.FD(decode.Int32(args[row.FDArg()]))
		target := v.Target(b.PID, fd)
		b.FD, b.Target = event.Some(fd), &target
	}
}

// MayAttach says whether we may attach to a process, as EPERM where not, without
// doing so: proc_pid_syscall(5) asks for the same permission.
func (v *View) MayAttach(pid event.PID) error {
	_, err := v.read(int(pid), "syscall")
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("pid %d: %w", pid, err)
	}
	return nil
}

// settled reads what call a thread is in. A call that was interrupted, by the
// end of a trace say, is begun again by the thread itself, and until it has got
// the CPU for that, which may be the one that we are on, it counts as running.
func (v *View) settled(pid event.PID, file string) ([]byte, error) {
	const first, last = 100 * time.Microsecond, 4 * time.Millisecond // 6.3 ms in all
	for wait := first; ; wait *= 2 {
		line, err := v.read(int(pid), file)
		if err != nil || wait > last || !bytes.HasPrefix(line, []byte("running")) {
			return line, err
		}
		time.Sleep(wait)
	}
}

// Debugger says which debugger a process is, whose first thread has this name;
// nil if it is none that is known.
func (v *View) Debugger(pid event.PID, comm event.Text) *decode.Debugger {
	return decode.DebuggerOf(&event.Process{Exe: v.Link(pid, "exe"), Comm: comm})
}

// Tracees gives the processes that any thread of the debugger traces.
func (v *View) Tracees(debugger event.PID) ([]event.PID, error) {
	own, err := v.Threads(debugger)
	if err != nil {
		return nil, err
	}
	all, err := v.Tracing()
	if err != nil {
		return nil, err
	}
	return all.By(own), nil
}

// Tracing has the processes of which a thread traces any, by its id: TracerPid of
// proc_pid_status(5).
type Tracing map[event.TID][]event.PID

// By gives those that any of these threads traces.
func (t Tracing) By(tracers []event.TID) (pids []event.PID) {
	for _, tid := range tracers {
		pids = append(pids, t[tid]...)
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// Tracing looks at every process.
func (v *View) Tracing() (Tracing, error) {
	pids, err := v.PIDs()
	if err != nil {
		return nil, err
	}
	all := Tracing{}
	buf := make([]byte, 4096)
	look := func(pid event.PID, path string) (threads int) {
		b, err := readAt(unix.AT_FDCWD, path, buf, maxProcFile)
		if err != nil {
			return 0 // it has ended
		}
		tracer, threads := tracedBy(b)
		if tracer != 0 && !slices.Contains(all[tracer], pid) {
			all[tracer] = append(all[tracer], pid)
		}
		return threads
	}
	for _, pid := range pids {
		if look(pid, v.path(int(pid), "status")) <= 1 {
			continue
		}
		// A debugger may trace only some of the threads.
		tids, _ := v.Threads(pid) // none, if it has ended
		for _, tid := range tids {
			look(pid, v.path(int(pid), "task/"+strconv.Itoa(int(tid))+"/status"))
		}
	}
	return all, nil
}

// Folder is the path of a process's folder: that of a living thread of it, by its
// own number, which /proc has and does not list.
func (v *View) Folder(pid event.PID) string {
	return filepath.Join(v.Mount, strconv.Itoa(int(v.Living(pid))))
}
