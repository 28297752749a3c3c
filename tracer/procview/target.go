package procview

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// statFlags keep statx(2) from asking a server and from mounting something.
const statFlags = unix.AT_STATX_DONT_SYNC | unix.AT_NO_AUTOMOUNT

const statMask = unix.STATX_TYPE | unix.STATX_INO

// Target gives what a descriptor leads to at this moment.
func (v *View) Target(pid event.PID, fd event.FD) event.Target {
	return v.at(v.path(int(pid), "fd/"+strconv.Itoa(int(fd))), "")
}

// at identifies what a magic link of /proc leads to. Following such a link
// looks nothing up, so it does not block. Without a text, the link's is taken.
func (v *View) at(link string, text event.Text) event.Target {
	if text == "" {
		s, err := os.Readlink(link)
		if err != nil {
			return event.Target{Kind: event.Unknown, Error: errnoName(err)}
		}
		text = event.Text(s)
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, link, statFlags, statMask, &st); err != nil {
		return event.Target{Kind: v.kindByText(string(text)), Link: text, Error: errnoName(err)}
	}
	return v.target(string(text), &st)
}

// errnoName is the name of the errno in err.
func errnoName(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		if name := decode.Errno(int(errno)); name != "" {
			return name
		}
	}
	return "EIO"
}

func (v *View) target(link string, st *unix.Statx_t) event.Target {
	t := event.Target{Link: event.Text(link), Ino: st.Ino, Dev: decode.Makedev(st.Dev_major, st.Dev_minor)}
	t.Kind = v.kind(link, uint32(st.Mode), st.Rdev_major)
	return t
}

// kind says what sort of file it is, by its mode, and by the text of its link
// where the mode does not tell.
func (v *View) kind(link string, mode, rdevMajor uint32) event.Kind {
	switch mode & unix.S_IFMT {
	case unix.S_IFIFO:
		if strings.HasPrefix(link, "pipe:[") {
			return event.Pipe
		}
		return event.FIFO
	case unix.S_IFSOCK:
		return event.Socket
	case unix.S_IFBLK:
		return event.BlockDev
	case unix.S_IFCHR:
		// tty_io.c: /dev/tty, consoles and serial lines, and ptys.
		if rdevMajor == 4 || rdevMajor == 5 || rdevMajor >= 136 && rdevMajor <= 143 || strings.HasPrefix(link, "/dev/tty") {
			return event.TTY
		}
		return event.CharDev
	}
	if k := v.kindByText(link); k != event.Unknown {
		return k
	}
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return event.Directory
	case unix.S_IFREG:
		return event.Regular
	}
	return event.Unknown
}

func (v *View) kindByText(link string) event.Kind {
	switch {
	case strings.HasPrefix(link, "/memfd:"):
		return event.Memfd
	case strings.HasPrefix(link, "anon_inode:"), strings.HasPrefix(link, "pidfd:"):
		return event.AnonInode
	case strings.HasPrefix(link, "pipe:["):
		return event.Pipe
	case strings.HasPrefix(link, "socket:["):
		return event.Socket
	case strings.HasPrefix(link, v.Mount+"/"):
		return event.Procfs
	}
	return event.Unknown
}

// Descriptor gives one entry of a descriptor table; a wrapped [os.ErrNotExist]
// if it is not open.
func (v *View) Descriptor(pid event.PID, fd event.FD) (event.Descriptor, error) {
	d := event.Descriptor{PID: pid, FD: fd, Target: v.Target(pid, fd)}
	if d.Target.Error != "" && !d.Target.Identified() && d.Target.Link == "" {
		return d, fmt.Errorf("fd %d of pid %d: %w", fd, pid, unix.Errno(decode.ErrnoNumber(d.Target.Error)))
	}
	d.Access = v.access(int(pid), "fdinfo/", fd)
	return d, nil
}

func (v *View) access(pid int, dir string, fd event.FD) string {
	b, err := v.read(pid, dir+strconv.Itoa(int(fd)))
	if err != nil {
		return ""
	}
	access, _ := ParseFdinfo(b)
	return access
}

// Descriptors gives the descriptor table of a process, sorted. One that goes
// away meanwhile is left out.
func (v *View) Descriptors(pid event.PID) ([]event.Descriptor, error) {
	ns, err := numbers(v.path(int(pid), "fd"))
	if err != nil {
		return nil, fmt.Errorf("descriptors of pid %d: %w", pid, gone(err))
	}
	ds := make([]event.Descriptor, 0, len(ns))
	for _, n := range ns {
		if d, err := v.Descriptor(pid, event.FD(n)); err == nil {
			ds = append(ds, d)
		}
	}
	return ds, nil
}

// Holders searches all processes for descriptors of a pipe or FIFO. Unseen are
// those that this user may not look at; kernel threads and what ends meanwhile
// are not among them. Threads that have a descriptor table of their own
// (CLONE_FILES not set) are looked at too.
func (v *View) Holders(of event.Target) (holders []event.Holder, unseen []event.Unseen, searched int, err error) {
	if !of.Identified() {
		return nil, nil, 0, errors.New("holders of a file without identity")
	}
	pids, err := v.PIDs()
	if err != nil {
		return nil, nil, 0, err
	}
	for _, pid := range pids {
		found, err := v.holding(pid, of)
		if err == nil {
			holders = append(holders, found...)
			searched++
			continue
		}
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		st, statusErr := v.Status(pid, event.TID(pid))
		if statusErr != nil || st.Kthread || st.PPid == 2 || pid == 2 || st.State == "Z" {
			continue
		}
		unseen = append(unseen, event.Unseen{PID: pid, Comm: st.Name, Error: errnoName(err)})
	}
	return holders, unseen, searched, nil
}

func (v *View) holding(pid event.PID, of event.Target) ([]event.Holder, error) {
	tids, err := v.Threads(pid)
	if err != nil {
		return nil, err
	}
	found, err := v.holdingIn(pid, "", of)
	if err != nil {
		return nil, err
	}
	for _, tid := range tids {
		if tid == event.TID(pid) || sameTable(pid, tid) {
			continue
		}
		more, err := v.holdingIn(pid, "task/"+strconv.Itoa(int(tid))+"/", of)
		if err != nil {
			continue // the thread ended
		}
		for _, h := range more {
			if !slices.Contains(found, h) {
				found = append(found, h)
			}
		}
	}
	return found, nil
}

// sameTable says whether a thread shares its process's descriptor table
// (kcmp(2), KCMP_FILES). Where that may not be asked, it is taken to: nearly
// all do.
func sameTable(pid event.PID, tid event.TID) bool {
	const kcmpFiles = 2 // linux/kcmp.h
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(pid), uintptr(tid), kcmpFiles, 0, 0, 0)
	return errno != 0 || r == 0
}

func (v *View) holdingIn(pid event.PID, task string, of event.Target) ([]event.Holder, error) {
	ns, err := numbers(v.path(int(pid), task+"fd"))
	if err != nil {
		return nil, err
	}
	var found []event.Holder
	for _, n := range ns {
		link := v.path(int(pid), task+"fd/"+strconv.Itoa(n))
		// The text of a pipe's link has its inode: a cheap look first.
		text, err := os.Readlink(link)
		if err != nil || of.Kind == event.Pipe && text != string(of.Link) && of.Link != "" {
			continue
		}
		if !v.at(link, event.Text(text)).Same(of) {
			continue
		}
		h := event.Holder{PID: pid, FD: event.FD(n), Access: v.access(int(pid), task+"fdinfo/", event.FD(n))}
		if st, err := v.Status(pid, event.TID(pid)); err == nil {
			h.Comm = st.Name
		}
		found = append(found, h)
	}
	return found, nil
}
