package procview

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
)

// Fdinfo reads what proc_pid_fdinfo(5) says of a descriptor.
func (v *View) Fdinfo(pid event.PID, fd event.FD) (Fdinfo, error) {
	b, err := v.read(int(pid), "fdinfo/"+strconv.Itoa(int(fd)))
	if err != nil {
		return Fdinfo{}, fmt.Errorf("fdinfo of fd %d of pid %d: %w", fd, pid, gone(err))
	}
	info, ok := ParseFdinfo(b)
	if !ok {
		return info, fmt.Errorf("fdinfo of fd %d of pid %d: no line of flags", fd, pid)
	}
	return info, nil
}

// Locks gives the locks of files that processes of this pid namespace hold or
// wait for.
func (v *View) Locks() ([]Lock, error) {
	b, err := readAt(unix.AT_FDCWD, v.Mount+"/locks", nil, maxProcFile)
	if err != nil {
		return nil, fmt.Errorf("locks: %w", err)
	}
	return ParseLocks(b), nil
}

// NamespaceFile opens one of a process's namespaces, for setns(2).
func (v *View) NamespaceFile(pid event.PID, kind string) (int, error) {
	fd, err := openat(unix.AT_FDCWD, v.path(int(pid), "ns/"+kind), unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("%s namespace of pid %d: %w", kind, pid, gone(err))
	}
	return fd, nil
}

// Nested says whether this /proc is that of a pid namespace within another, so
// that there may be processes that it does not show. The first one has a fixed
// inode (PROC_PID_INIT_INO, linux/proc_ns.h).
func (v *View) Nested() bool {
	const first = 0xeffffffc
	ino := v.Namespace(1, "pid")
	return v.facts().proc && ino != 0 && ino != first
}

// Net reads a file of /proc/PID/net.
func (v *View) Net(pid event.PID, name string) ([]byte, error) { return v.read(int(pid), "net/"+name) }

// Ours says whether the ids of this /proc are those of our own pid namespace.
func (v *View) Ours() bool { return v.facts().ours }

// MessageQueue is who used a System V queue last; 0 for nobody yet.
type MessageQueue struct{ LastSender, LastReceiver event.PID }

// MessageQueue finds a queue by its id in /proc/sysvipc/msg, which is that of our
// own IPC namespace; false if the process is in another.
func (v *View) MessageQueue(pid event.PID, id int) (q MessageQueue, ok bool) {
	if !v.facts().ours || v.Namespace(pid, "ipc") != v.Namespace(event.PID(os.Getpid()), "ipc") {
		return q, false
	}
	b, err := readAt(unix.AT_FDCWD, v.Mount+"/sysvipc/msg", nil, maxProcFile)
	if err != nil {
		return q, false
	}
	for line := range bytes.Lines(b) { // key msqid perms cbytes qnum lspid lrpid …
		f := bytes.Fields(line)
		if len(f) < 7 || string(f[1]) != strconv.Itoa(id) {
			continue
		}
		sender, _ := number(string(f[5]))
		receiver, _ := number(string(f[6]))
		return MessageQueue{event.PID(sender), event.PID(receiver)}, true
	}
	return q, false
}

// Sharing gives the processes that have mapped the file of a mapping; partial says
// that some could not be looked at.
func (v *View) Sharing(m Mapping) (pids []event.PID, partial bool) {
	all, err := v.PIDs()
	if err != nil {
		return nil, true
	}
	for _, pid := range all {
		maps, err := v.Maps(pid)
		switch {
		case err == nil:
			if slices.ContainsFunc(maps, func(o Mapping) bool { return o.Ino == m.Ino && o.Dev == m.Dev }) {
				pids = append(pids, pid)
			}
		case !errors.Is(err, os.ErrNotExist) && !v.noDescriptors(pid):
			partial = true
		}
	}
	return pids, partial
}

// OpenFile is a regular file that a process has open.
type OpenFile struct {
	Target event.Target
	Size   int64 // bytes
	Pos    int64 // the offset, which moves when it is read
}

// OpenFiles gives the regular files that a process has open, by descriptor.
func (v *View) OpenFiles(pid event.PID) map[event.FD]OpenFile {
	fds, _ := v.Descriptors(pid) // none, if it may not be looked at
	files := map[event.FD]OpenFile{}
	for _, d := range fds {
		var st unix.Statx_t
		if d.Target.Kind != event.Regular || statx(unix.AT_FDCWD, v.path(int(pid), "fd/"+strconv.Itoa(int(d.FD))), 0, unix.STATX_SIZE, &st) != nil {
			continue
		}
		if info, err := v.Fdinfo(pid, d.FD); err == nil {
			files[d.FD] = OpenFile{Target: d.Target, Size: int64(st.Size), Pos: info.Pos}
		}
	}
	return files
}
