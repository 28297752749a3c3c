package procview

import (
	"errors"
	"fmt"
	"os"
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
	name := "fd/" + strconv.Itoa(int(fd))
	t, err := v.at(unix.AT_FDCWD, v.path(int(pid), name)) // the error is in t too
	if err != nil {
		if tid := v.Living(pid); tid != event.TID(pid) {
			t, _ = v.at(unix.AT_FDCWD, v.path(int(tid), name))
		}
	}
	return t
}

// at identifies what a magic link of /proc leads to. Following such a link
// looks no name up, so it does not block, and asks no server. The file is held
// with O_PATH meanwhile: a descriptor that is replaced just then gives one file
// or the other, never the text of one and the identity of the other.
//
// With an error, which is a [unix.Errno], nothing is known but Error and
// perhaps the text.
func (v *View) at(dir int, name string) (event.Target, error) {
	fd, err := openat(dir, name, oPath)
	switch {
	case err == nil:
		defer unix.Close(fd)
		return v.held(fd)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE): // that is our lack
		return v.loose(dir, name)
	}
	t := event.Target{Kind: event.Unknown, Error: errnoName(err)}
	if !errors.Is(err, unix.ENOENT) {
		if text, err := readlinkat(dir, name); err == nil {
			t.Kind, t.Link = kindByText(text), event.Text(text)
		}
	}
	return t, err
}

// held identifies a file that we hold with O_PATH.
func (v *View) held(fd int) (event.Target, error) {
	var st unix.Statx_t
	if err := statx(fd, "", unix.AT_EMPTY_PATH, statMask, &st); err != nil {
		return event.Target{Kind: event.Unknown, Error: errnoName(err)}, err
	}
	text, err := readlinkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd))
	if err != nil && !errors.Is(err, unix.ENAMETOOLONG) { // longer than a page: the identity is what counts
		return event.Target{Kind: event.Unknown, Error: errnoName(err)}, err
	}
	return v.target(text, &st), nil
}

// loose is at without a descriptor, text and identity one after the other.
func (v *View) loose(dir int, name string) (event.Target, error) {
	text, err := readlinkat(dir, name)
	var st unix.Statx_t
	if err == nil {
		err = statx(dir, name, 0, statMask, &st)
	}
	if err != nil {
		return event.Target{Kind: kindByText(text), Link: event.Text(text), Error: errnoName(err)}, err
	}
	return v.target(text, &st), nil
}

// statx is statx(2) without asking a server, and again after a signal.
func statx(dir int, name string, flags, mask int, st *unix.Statx_t) error {
	for {
		err := unix.Statx(dir, name, statFlags|flags, mask, st)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// readlinkat gives the text of a link; with an empty name, of the link that dir
// is (O_PATH|O_NOFOLLOW).
func readlinkat(dir int, name string) (string, error) {
	var buf [maxName]byte
	n, err := unix.Readlinkat(dir, name, buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:max(n, 0)]), nil
}

// errnoName is the name of the errno in err.
func errnoName(err error) string {
	var errno unix.Errno
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "ETIMEDOUT"
	}
	if errors.As(err, &errno) {
		if name := decode.Errno(int(errno)); name != "" {
			return name
		}
	}
	return "EIO"
}

func (v *View) target(link string, st *unix.Statx_t) event.Target {
	t := event.Target{Link: event.Text(link), Ino: st.Ino, Dev: decode.Makedev(st.Dev_major, st.Dev_minor)}
	t.Kind = v.Kind(link, t.Dev, uint32(st.Mode), st.Rdev_major)
	return t
}

// Kind says what sort of file it is, by its mode, and by the text of its link
// where the mode does not tell.
func (v *View) Kind(link string, dev uint64, mode, rdevMajor uint32) event.Kind {
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
		if decode.IsTerminal(rdevMajor) || strings.HasPrefix(link, "/dev/tty") || strings.HasPrefix(link, "/dev/pts/") {
			return event.TTY
		}
		return event.CharDev
	}
	if k := kindByText(link); k != event.Unknown {
		return k
	}
	if v.facts().proc && dev == v.facts().dev || strings.HasPrefix(link, v.Mount+"/") {
		return event.Procfs
	}
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return event.Directory
	case unix.S_IFREG:
		if !strings.HasPrefix(link, "/") && strings.Contains(link, ":[") {
			return event.Unknown // a namespace, "mnt:[4026531841]": it cannot be read
		}
		return event.Regular
	}
	return event.Unknown
}

// kindByText is what the text of a link or mapping alone tells.
func kindByText(link string) event.Kind {
	switch {
	case strings.HasPrefix(link, "/memfd:") && strings.HasSuffix(link, " (deleted)"):
		return event.Memfd // a memfd is always deleted; a file /memfd:x may exist
	case strings.HasPrefix(link, "anon_inode:"), strings.HasPrefix(link, "pidfd:"):
		return event.AnonInode
	case strings.HasPrefix(link, "pipe:["):
		return event.Pipe
	case strings.HasPrefix(link, "socket:["):
		return event.Socket
	}
	return event.Unknown
}

// Descriptor gives one entry of a descriptor table; a wrapped [os.ErrNotExist]
// if it is not open.
func (v *View) Descriptor(pid event.PID, fd event.FD) (event.Descriptor, error) {
	t := table{v: v, dir: unix.AT_FDCWD, fds: v.path(int(pid), "fd/"), infos: v.path(int(pid), "fdinfo/")}
	d, err := t.descriptor(pid, int(fd))
	if tid := v.Living(pid); err != nil && tid != event.TID(pid) {
		t.fds, t.infos = v.path(int(tid), "fd/"), v.path(int(tid), "fdinfo/")
		d, err = t.descriptor(pid, int(fd))
	}
	if err != nil {
		return d, fmt.Errorf("fd %d of pid %d: %w", fd, pid, gone(err))
	}
	return d, nil
}

// Descriptors gives the descriptor table of a process, sorted. One that goes
// away meanwhile is left out.
func (v *View) Descriptors(pid event.PID) ([]event.Descriptor, error) {
	t, ns, err := v.open(pid, "")
	if err != nil {
		return nil, fmt.Errorf("descriptors of pid %d: %w", pid, gone(err))
	}
	defer t.close()
	ds := make([]event.Descriptor, 0, len(ns))
	for _, n := range ns {
		if d, err := t.descriptor(pid, n); err == nil {
			ds = append(ds, d)
		}
	}
	return ds, nil
}

// table is a descriptor table. Its folder is held open, so that each look is a
// short way for the kernel, and so that it stays that process's even if the
// number is given to another one.
type table struct {
	v          *View
	dir        int    // the folder of the process's or thread's descriptors
	fds, infos string // from there, with the slash
	buf        [1024]byte
}

// open opens the descriptor table of a process, or of a thread ("task/7/"), and
// lists it. A first thread that has ended has an empty one.
func (v *View) open(pid event.PID, task string) (*table, []int, error) {
	t, ns, err := v.openTable(pid, task)
	if task == "" && len(ns) == 0 {
		if tid := v.Living(pid); tid != event.TID(pid) {
			if t != nil {
				t.close()
			}
			return v.openTable(event.PID(tid), "")
		}
	}
	return t, ns, err
}

func (v *View) openTable(pid event.PID, task string) (*table, []int, error) {
	dir, err := openat(unix.AT_FDCWD, v.path(int(pid), task+"fd"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return nil, nil, err
	}
	t := &table{v: v, dir: dir, infos: "../fdinfo/"}
	ns, err := numbersIn(dir)
	if err != nil {
		t.close()
		return nil, nil, err
	}
	return t, ns, nil
}

func (t *table) close() { _ = unix.Close(t.dir) }

// descriptor looks at one entry. One that could be looked at in part only has
// its Error set; the error is for one of which nothing is known.
func (t *table) descriptor(pid event.PID, fd int) (event.Descriptor, error) {
	target, err := t.v.at(t.dir, t.fds+strconv.Itoa(fd))
	d := event.Descriptor{PID: pid, FD: event.FD(fd), Target: target}
	if err != nil && target.Link == "" || errors.Is(err, unix.ENOENT) {
		return d, err
	}
	d.Access = t.access(fd)
	return d, nil
}

// access is how a descriptor may be used. The permission bits of the link say
// so too (proc_pid_fd(5)), for a quarter of the cost of reading fdinfo; none are
// set for O_PATH, and for the access mode 3 of open(2).
func (t *table) access(fd int) string {
	if t.v.facts().proc {
		var st unix.Statx_t
		if statx(t.dir, t.fds+strconv.Itoa(fd), unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MODE, &st) != nil {
			return ""
		}
		switch st.Mode & (unix.S_IRUSR | unix.S_IWUSR) {
		case unix.S_IRUSR:
			return "r"
		case unix.S_IWUSR:
			return "w"
		case unix.S_IRUSR | unix.S_IWUSR:
			return "rw"
		}
	}
	info, _ := t.info(fd)
	return info.Access
}

// info reads the fdinfo of a descriptor.
func (t *table) info(fd int) (info Fdinfo, ok bool) {
	b, err := readAt(t.dir, t.infos+strconv.Itoa(fd), t.buf[:], len(t.buf))
	if err != nil {
		return Fdinfo{}, false
	}
	return ParseFdinfo(b)
}

// noDescriptors says whether it is a kernel thread, has ended, or is about to.
func (v *View) noDescriptors(pid event.PID) bool {
	st, err := v.Status(pid, event.TID(pid))
	if err != nil || st.Kthread {
		return true
	}
	if !st.Ended() {
		return false
	}
	tids, err := v.Threads(pid) // the first thread may have ended before others
	return err != nil || len(tids) <= 1
}

// maxTables bounds how many threads' tables of a process are read where kcmp(2)
// cannot tell whether they are one.
const maxTables = 64

// sameTable says whether a thread, the ith of its process, shares its
// descriptor table with the first one (kcmp(2), KCMP_FILES). Where that cannot
// be asked, some are looked at as if not; nearly all do share it.
func (v *View) sameTable(pid event.PID, tid event.TID, i int) bool {
	const kcmpFiles = 2 // linux/kcmp.h
	if !v.facts().ours {
		return i > maxTables
	}
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(pid), uintptr(tid), kcmpFiles, 0, 0, 0)
	if errno != 0 {
		return i > maxTables
	}
	return r == 0
}
