package procview

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
)

const (
	maxLinks = 40 // MAXSYMLINKS, linux/namei.h
	maxName  = 4096
	// resolveWithin bounds a walk, since a file system may not answer.
	resolveWithin = 500 * time.Millisecond
	// procRootIno is the inode of the root of every proc file system
	// (PROC_ROOT_INO, linux/proc_ns.h).
	procRootIno = 1
)

// Resolve says what a name leads to when a thread of a process resolves it:
// from that thread's root or current directory, and with self and thread-self
// of /proc as that thread. The walk goes component by component, since any link
// on the way may lead to self. The final link is followed, but nothing is
// opened: O_PATH only.
//
// The result has Error set where the name leads nowhere (ENOENT), or cannot be
// followed: EACCES for us, ELOOP, ETIMEDOUT for a file system that did not
// answer, EXDEV where /proc there is of another pid namespace than the
// process's and self means something that is not known.
func (v *View) Resolve(pid event.PID, tid event.TID, name string) event.Target {
	result := make(chan event.Target, 1)
	go func() {
		w := walk{v: v, pid: pid, tid: tid, root: -1, at: -1}
		defer w.close()
		t, err := w.resolve(name)
		if err != nil {
			t = event.Target{Kind: event.Unknown, Error: errnoName(err)}
		}
		result <- t
	}()
	timeout := time.NewTimer(resolveWithin)
	defer timeout.Stop()
	select {
	case t := <-result:
		return t
	case <-timeout.C:
		return event.Target{Kind: event.Unknown, Error: "ETIMEDOUT"}
	}
}

// walk follows a name. Descriptors are O_PATH, ours, and never -1 while it runs.
type walk struct {
	v    *View
	pid  event.PID
	tid  event.TID
	root int // the process's root
	at   int // where we are
}

func (w *walk) close() {
	for _, fd := range []int{w.root, w.at} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// step replaces where we are.
func (w *walk) step(fd int) {
	if w.at >= 0 {
		_ = unix.Close(w.at)
	}
	w.at = fd
}

const oPath = unix.O_PATH | unix.O_CLOEXEC

func (w *walk) toRoot() error {
	fd, err := unix.Dup(w.root)
	if err != nil {
		return err
	}
	unix.CloseOnExec(fd)
	w.step(fd)
	return nil
}

func (w *walk) resolve(name string) (event.Target, error) {
	if name == "" {
		return event.Target{}, unix.ENOENT
	}
	task := "task/" + strconv.Itoa(int(w.tid)) + "/"
	var err error
	if w.root, err = w.own(task + "root"); err != nil {
		return event.Target{}, err
	}
	if name[0] != '/' {
		if w.at, err = w.own(task + "cwd"); err != nil {
			return event.Target{}, err
		}
	}
	if err := w.follow(name); err != nil {
		return event.Target{}, err
	}
	var st unix.Statx_t
	if err := unix.Statx(w.at, "", statFlags|unix.AT_EMPTY_PATH, statMask, &st); err != nil {
		return event.Target{}, err
	}
	link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(w.at))
	if err != nil {
		return event.Target{}, err
	}
	return w.v.target(link, &st), nil
}

// own opens a link of the process's own folder.
func (w *walk) own(rest string) (int, error) {
	fd, err := unix.Open(w.v.path(int(w.pid), rest), oPath|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) { // the thread is gone: the process's
		_, rest, _ = strings.Cut(strings.TrimPrefix(rest, "task/"), "/")
		fd, err = unix.Open(w.v.path(int(w.pid), rest), oPath|unix.O_DIRECTORY, 0)
	}
	return fd, err
}

// follow walks a name to its end.
func (w *walk) follow(name string) error {
	links := 0
	rest := name
	for {
		if len(rest) >= maxName {
			return unix.ENAMETOOLONG
		}
		if strings.HasPrefix(rest, "/") {
			if err := w.toRoot(); err != nil {
				return err
			}
			rest = strings.TrimLeft(rest, "/")
		}
		if rest == "" {
			return nil
		}
		part, after, more := strings.Cut(rest, "/")
		after = strings.TrimLeft(after, "/")
		text, err := w.component(part, more)
		if err != nil {
			return err
		}
		if text != "" {
			if links++; links > maxLinks {
				return unix.ELOOP
			}
			if more { // keeps the slash: what follows must be a directory
				after = "/" + after
				text = strings.TrimRight(text, "/")
				if text == "" {
					rest = after
					continue
				}
			}
			rest = text + after
			continue
		}
		rest = after
		if rest == "" {
			return nil
		}
	}
}

// component goes one step. For a link that must be followed by its text it
// gives that text, and stays; for every other it goes where it leads.
func (w *walk) component(part string, mustBeDir bool) (text string, err error) {
	switch part {
	case ".", "":
		return "", nil
	case "..":
		if w.atRoot() {
			return "", nil
		}
	}
	fd, err := unix.Openat(w.at, part, oPath|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	var st unix.Statx_t
	if err := unix.Statx(fd, "", statFlags|unix.AT_EMPTY_PATH, statMask, &st); err != nil {
		_ = unix.Close(fd)
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if mustBeDir && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			_ = unix.Close(fd)
			return "", unix.ENOTDIR
		}
		w.step(fd)
		return "", nil
	}
	defer unix.Close(fd)
	if isProcfs(w.at) {
		if !isProcRoot(w.at) {
			return "", w.jump(part)
		}
		if part == "self" || part == "thread-self" {
			return w.self(part)
		}
	}
	return readlink(fd)
}

// jump follows a magic link: it leads to an open file or directory of a
// process, and the text is only a description.
func (w *walk) jump(part string) error {
	fd, err := unix.Openat(w.at, part, oPath, 0)
	if err != nil {
		return err
	}
	w.step(fd)
	return nil
}

// self is what these links of /proc say to the process. The ids are those of
// the pid namespace that this /proc belongs to.
func (w *walk) self(part string) (string, error) {
	pid, tid, err := w.idsHere()
	if err != nil {
		return "", err
	}
	if part == "self" {
		return strconv.Itoa(pid), nil
	}
	return strconv.Itoa(pid) + "/task/" + strconv.Itoa(tid), nil
}

// idsHere finds the process in the proc file system where we are: by our own
// ids for it if that is the same one as ours, else by those in the process's
// own pid namespace (NSpid). Each guess is proved: both folders must show the
// same process, by its start time and its root.
func (w *walk) idsHere() (pid, tid int, err error) {
	status, err := w.v.Status(w.pid, w.tid)
	if err != nil {
		return 0, 0, unix.ESRCH
	}
	leader, err := w.v.Status(w.pid, event.TID(w.pid))
	if err != nil {
		return 0, 0, unix.ESRCH
	}
	for i := len(leader.NSpid) - 1; i >= 0; i-- {
		if w.isHere(leader.NSpid[i]) && i < len(status.NSpid) {
			return leader.NSpid[i], status.NSpid[i], nil
		}
	}
	if len(leader.NSpid) == 0 && w.isHere(int(w.pid)) { // a kernel without NSpid
		return int(w.pid), int(w.tid), nil
	}
	return 0, 0, unix.EXDEV
}

// isHere says whether the folder of that number, in the proc file system where
// we are, is the process: same start time, which is unique to the tick, and
// the same pid namespace link.
func (w *walk) isHere(pid int) bool {
	dir := "/proc/self/fd/" + strconv.Itoa(w.at) + "/" + strconv.Itoa(pid)
	b, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return false
	}
	there, err := ParseStat(b)
	if err != nil {
		return false
	}
	here, err := w.v.stat(w.pid, event.TID(w.pid))
	if err != nil || here.Start != there.Start {
		return false
	}
	ns, err := os.Readlink(dir + "/ns/pid")
	return err == nil && event.Text(ns) == w.v.link(w.pid, "ns/pid")
}

// atRoot says whether we are at the process's root, above which ".." does not go.
func (w *walk) atRoot() bool {
	var a, b unix.Statx_t
	const mask = statMask | unix.STATX_MNT_ID
	if unix.Statx(w.at, "", statFlags|unix.AT_EMPTY_PATH, mask, &a) != nil ||
		unix.Statx(w.root, "", statFlags|unix.AT_EMPTY_PATH, mask, &b) != nil {
		return false
	}
	return a.Ino == b.Ino && a.Dev_major == b.Dev_major && a.Dev_minor == b.Dev_minor && a.Mnt_id == b.Mnt_id
}

func isProcfs(fd int) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.PROC_SUPER_MAGIC
}

func isProcRoot(fd int) bool {
	var st unix.Statx_t
	return unix.Statx(fd, "", statFlags|unix.AT_EMPTY_PATH, statMask, &st) == nil && st.Ino == procRootIno
}

// readlink reads the text of a link that is open with O_PATH|O_NOFOLLOW.
func readlink(fd int) (string, error) {
	buf := make([]byte, maxName)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	if n == 0 {
		return "", unix.ENOENT
	}
	return string(buf[:n]), nil
}
