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
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// View is a /proc file system.
type View struct {
	// Mount is where it is mounted; a folder of fixtures in tests.
	Mount string
}

// New looks at the proc file system at mount.
func New(mount string) *View { return &View{Mount: strings.TrimRight(mount, "/")} }

// maxProcFile bounds how much of a file of /proc is read.
const maxProcFile = 64 << 20

// path makes the path of a file of a process.
func (v *View) path(pid int, rest string) string {
	return v.Mount + "/" + strconv.Itoa(pid) + "/" + rest
}

// read reads a whole small file of /proc.
func (v *View) read(pid int, rest string) ([]byte, error) {
	f, err := os.Open(v.path(pid, rest))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxProcFile))
}

// numbers gives the entries of a folder whose names are numbers, sorted.
func numbers(dir string) ([]int, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil && len(names) == 0 {
		return nil, err
	}
	var ns []int
	for _, name := range names {
		if n, err := strconv.ParseInt(name, 10, 32); err == nil && n >= 0 {
			ns = append(ns, int(n))
		}
	}
	slices.Sort(ns)
	return ns, nil
}

// PIDs gives all processes that can be seen.
func (v *View) PIDs() ([]event.PID, error) {
	ns, err := numbers(v.Mount)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	pids := make([]event.PID, len(ns))
	for i, n := range ns {
		pids[i] = event.PID(n)
	}
	return pids, nil
}

// Threads gives the threads of a process; a wrapped [os.ErrNotExist] if it is gone.
func (v *View) Threads(pid event.PID) ([]event.TID, error) {
	ns, err := numbers(v.path(int(pid), "task"))
	if err != nil {
		return nil, fmt.Errorf("threads of pid %d: %w", pid, gone(err))
	}
	tids := make([]event.TID, len(ns))
	for i, n := range ns {
		tids[i] = event.TID(n)
	}
	return tids, nil
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
	return st.TracerPid, err
}

// TGID gives the process that a thread belongs to.
func (v *View) TGID(tid event.TID) (event.PID, error) {
	st, err := v.Status(event.PID(tid), tid)
	return st.Tgid, err
}

// Status is what proc_pid_status(5) says of a thread.
func (v *View) Status(pid event.PID, tid event.TID) (Status, error) {
	b, err := v.read(int(pid), "task/"+strconv.Itoa(int(tid))+"/status")
	if err != nil && event.TID(pid) == tid {
		b, err = v.read(int(pid), "status")
	}
	if err != nil {
		return Status{}, fmt.Errorf("status of thread %d: %w", tid, gone(err))
	}
	st, err := ParseStatus(b)
	if err != nil {
		return Status{}, fmt.Errorf("status of thread %d: %w", tid, err)
	}
	return st, nil
}

// State gives the one-letter state of a thread (proc_pid_stat(5)).
func (v *View) State(pid event.PID, tid event.TID) (string, error) {
	st, err := v.stat(pid, tid)
	return st.State, err
}

func (v *View) stat(pid event.PID, tid event.TID) (Stat, error) {
	b, err := v.read(int(pid), "task/"+strconv.Itoa(int(tid))+"/stat")
	if err != nil {
		return Stat{}, fmt.Errorf("stat of thread %d: %w", tid, gone(err))
	}
	st, err := ParseStat(b)
	if err != nil {
		return Stat{}, fmt.Errorf("stat of thread %d: %w", tid, err)
	}
	return st, nil
}

// maxCmdline bounds the command line that is kept, bytes.
const maxCmdline = 64 << 10

// Process describes a process. What this user may not see of it is absent.
func (v *View) Process(pid event.PID) (event.Process, error) {
	st, err := v.Status(pid, event.TID(pid))
	if err != nil {
		return event.Process{}, err
	}
	p := event.Process{PID: pid, PPID: st.PPid, Comm: st.Name, SIGINT: st.Signal(int(unix.SIGINT)), UID: event.Some(st.EUID)}
	if stat, err := v.stat(pid, event.TID(pid)); err == nil {
		p.PGRP = event.Some(stat.PGRP)
		if stat.TPGID > 0 {
			p.TTYPGRP = event.Some(stat.TPGID)
		}
	}
	p.Exe = v.link(pid, "exe")
	p.Cwd = v.link(pid, "cwd")
	if b, err := v.read(int(pid), "cmdline"); err == nil && len(b) > 0 {
		b = b[:min(len(b), maxCmdline)]
		for _, arg := range bytes.Split(bytes.TrimSuffix(b, []byte{0}), []byte{0}) {
			p.Cmdline = append(p.Cmdline, event.Text(arg))
		}
	}
	for _, ns := range []string{"mnt", "pid", "user"} {
		if ino, ok := namespaceInode(string(v.link(pid, "ns/"+ns))); ok {
			if p.Namespaces == nil {
				p.Namespaces = map[string]uint64{}
			}
			p.Namespaces[ns] = ino
		}
	}
	return p, nil
}

func (v *View) link(pid event.PID, rest string) event.Text {
	s, err := os.Readlink(v.path(int(pid), rest))
	if err != nil {
		return ""
	}
	return event.Text(s)
}

// namespaceInode reads "mnt:[4026531841]".
func namespaceInode(link string) (uint64, bool) {
	_, rest, ok := strings.Cut(link, ":[")
	n, err := strconv.ParseUint(strings.TrimSuffix(rest, "]"), 10, 64)
	return n, ok && err == nil
}

// Maps gives the mappings of a process.
func (v *View) Maps(pid event.PID) ([]Mapping, error) {
	f, err := os.Open(v.path(int(pid), "maps"))
	if err != nil {
		return nil, fmt.Errorf("mappings of pid %d: %w", pid, gone(err))
	}
	defer f.Close()
	maps, err := ParseMaps(f)
	if err != nil {
		return nil, fmt.Errorf("mappings of pid %d: %w", pid, gone(err))
	}
	return maps, nil
}

// MapFile gives the file behind a mapping as stat(2) sees it, even if it has no
// name any more. The kernel asks for CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE
// (proc_pid_map_files(5)); without, the error wraps [os.ErrPermission].
func (v *View) MapFile(pid event.PID, m Mapping) (event.Target, error) {
	t := v.at(v.path(int(pid), "map_files/")+m.Range(), event.Text(m.Path))
	if t.Error != "" {
		return t, fmt.Errorf("mapped file of pid %d at %s: %w", pid, m.Range(), unix.Errno(decode.ErrnoNumber(t.Error)))
	}
	return t, nil
}

// Blocked says what a thread is doing in the kernel. A thread that runs has no
// Syscall. Without the permission to trace the process (PTRACE_MODE_ATTACH)
// the call stays unknown, and the state is what is left.
func (v *View) Blocked(pid event.PID, tid event.TID, calls *decode.Table) (event.Blocked, error) {
	st, err := v.Status(pid, tid)
	if err != nil {
		return event.Blocked{}, err
	}
	b := event.Blocked{PID: pid, TID: tid, Comm: st.Name, SIGINT: st.Signal(int(unix.SIGINT))}
	if stat, err := v.stat(pid, tid); err == nil {
		b.State = stat.State
	}
	task := "task/" + strconv.Itoa(int(tid)) + "/"
	if w, err := v.read(int(pid), task+"wchan"); err == nil {
		if s := strings.TrimSpace(string(w)); s != "0" {
			b.Wchan = s
		}
	}
	line, err := v.read(int(pid), task+"syscall")
	if err != nil {
		return b, nil
	}
	nr, args, ok := ParseSyscall(line)
	if !ok {
		return b, nil
	}
	b.Syscall = calls.Name(nr)
	b.Args = make([]event.Hex, len(args))
	for i, a := range args {
		b.Args[i] = event.Hex(a)
	}
	if row, ok := calls.Call(nr); ok && row.FDArg() >= 0 {
		fd := event.FD(decode.Int32(args[row.FDArg()]))
		target := v.Target(pid, fd)
		b.FD, b.Target = event.Some(fd), &target
	}
	return b, nil
}

// Tracees gives the processes that any thread of the debugger traces, by
// TracerPid, which is a thread id.
func (v *View) Tracees(debugger event.PID) ([]event.PID, error) {
	own, err := v.Threads(debugger)
	if err != nil {
		return nil, err
	}
	pids, err := v.PIDs()
	if err != nil {
		return nil, err
	}
	traced := func(pid event.PID, tid event.TID) bool {
		st, err := v.Status(pid, tid)
		return err == nil && st.TracerPid != 0 && slices.Contains(own, st.TracerPid)
	}
	var found []event.PID
	for _, pid := range pids {
		if pid == debugger {
			continue
		}
		st, err := v.Status(pid, event.TID(pid))
		if err != nil {
			continue
		}
		hit := slices.Contains(own, st.TracerPid)
		// A debugger may trace only some of the threads.
		if !hit && st.Threads > 1 {
			tids, _ := v.Threads(pid)
			hit = slices.ContainsFunc(tids, func(tid event.TID) bool { return traced(pid, tid) })
		}
		if hit {
			found = append(found, pid)
		}
	}
	return found, nil
}

// Folder is the path of a process's folder, for the errors of others.
func (v *View) Folder(pid event.PID) string {
	return filepath.Join(v.Mount, strconv.Itoa(int(pid)))
}
