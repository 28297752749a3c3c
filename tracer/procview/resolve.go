package procview

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
)

const (
	maxLinks = 40 // MAXSYMLINKS, linux/namei.h
	maxName  = 4096
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
	t, _ := v.ResolveThrough(pid, tid, name)
	return t
}

// ResolveThrough is [View.Resolve], and gives the name below /proc/self or
// /proc/thread-self, if the way goes through one: the last.
func (v *View) ResolveThrough(pid event.PID, tid event.TID, name string) (t event.Target, through string) {
	t, path, through := v.resolveFD(pid, tid, name)
	if path != nil {
		_ = path.Close()
	}
	return t, through
}

// walk follows a name. Descriptors are O_PATH, ours, and never -1 while it runs.
type walk struct {
	v    *View
	pid  event.PID
	tid  event.TID
	root int // the process's root
	at   int // where we are
	// through is the last name on the way that was one of whoever resolves it.
	through string
	// cached lets it go only where the kernel need not ask a file system.
	cached bool
}

// errNotCached ends a walk that would have to ask a file system.
var errNotCached = errors.New("not in the kernel's caches")

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
	fd, err := unix.FcntlInt(uintptr(w.root), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	w.step(fd)
	return nil
}

func (w *walk) resolve(name string) (event.Target, error) {
	switch {
	case name == "":
		return event.Target{}, unix.ENOENT
	case len(name) >= maxName: // with the NUL that ends it
		return event.Target{}, unix.ENAMETOOLONG
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
	t, err := w.v.held(w.at)
	// A /proc that is mounted elsewhere, where it looks like one.
	if (t.Kind == event.Regular || t.Kind == event.Directory) && strings.Contains(string(t.Link)+"/", "/proc/") && w.v.isProcfs(w.pid, w.at) {
		t.Kind = event.Procfs
	}
	return t, err
}

// own opens a link of the process's own folder.
func (w *walk) own(rest string) (int, error) {
	fd, err := openat(unix.AT_FDCWD, w.v.path(int(w.pid), rest), oPath|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) { // the thread is gone: the process's
		_, rest, _ = strings.Cut(strings.TrimPrefix(rest, "task/"), "/")
		fd, err = openat(unix.AT_FDCWD, w.v.path(int(w.pid), rest), oPath|unix.O_DIRECTORY)
	}
	if errors.Is(err, unix.ENOENT) { // its first thread has ended
		fd, err = openat(unix.AT_FDCWD, w.v.live(w.pid, rest), oPath|unix.O_DIRECTORY)
	}
	return fd, err
}

// follow walks a name to its end. The length of what is left needs no limit of
// its own: the name and the text of each link have one.
func (w *walk) follow(rest string) error {
	links := 0
	for {
		if strings.HasPrefix(rest, "/") {
			if err := w.toRoot(); err != nil {
				return err
			}
			rest = strings.TrimLeft(rest, "/")
		}
		if rest == "" {
			return nil
		}
		part, after, slash := strings.Cut(rest, "/")
		after = strings.TrimLeft(after, "/")
		link, text, err := w.component(part, slash)
		if err != nil {
			return err
		}
		if link && text != "" && (part == "self" || part == "thread-self") && isProcRoot(w.at) {
			w.through = "/proc/" + part + "/" + after
		}
		if link {
			if links++; links > maxLinks {
				return unix.ELOOP
			}
		}
		switch {
		case text == "":
			rest = after
		case slash: // kept: what the link leads to must be a directory
			rest = text + "/" + after
		default:
			rest = text
		}
	}
}

// component goes one step. For a link that must be followed by its text it
// gives that text, and stays; for every other it goes where it leads. link
// says that it was either sort of link.
func (w *walk) component(part string, mustBeDir bool) (link bool, text string, err error) {
	if part == ".." && w.atRoot() {
		part = "."
	}
	fd, err := w.lookup(part)
	if err != nil {
		return false, "", err
	}
	var st unix.Statx_t
	if err := statx(fd, "", unix.AT_EMPTY_PATH, statMask, &st); err != nil {
		_ = unix.Close(fd)
		return false, "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if mustBeDir && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			_ = unix.Close(fd)
			return false, "", unix.ENOTDIR
		}
		w.step(fd)
		return false, "", nil
	}
	defer unix.Close(fd)
	if w.v.isProcfs(w.pid, w.at) {
		if !isProcRoot(w.at) {
			return true, "", w.jump(part, mustBeDir)
		}
		if part == "self" || part == "thread-self" {
			text, err = w.self(part)
			return true, text, err
		}
	}
	text, err = w.text(fd)
	if err == nil && text == "" {
		err = unix.ENOENT
	}
	return true, text, err
}

// lookup opens the next component.
func (w *walk) lookup(part string) (int, error) {
	if w.cached {
		return openCached(w.at, part, oPath|unix.O_NOFOLLOW)
	}
	return w.v.lookup(w.pid, w.at, part, oPath|unix.O_NOFOLLOW)
}

// text is that of a link that is open.
func (w *walk) text(link int) (string, error) {
	if !w.cached {
		return w.v.text(w.pid, link)
	}
	if remote, _ := w.v.remoteFile(w.pid, link); remote {
		return "", errNotCached
	}
	return readlinkat(link, "")
}

// jump follows a magic link: it leads to an open file or directory of a
// process, and the text is only a description.
func (w *walk) jump(part string, mustBeDir bool) error {
	flags := oPath
	if mustBeDir {
		flags |= unix.O_DIRECTORY
	}
	fd, err := openat(w.at, part, flags)
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

// idsHere finds the process's ids in the proc file system where we are. NSpid
// has its ids in the pid namespace of our own view and in those below; which of
// them this /proc shows is found by looking there. EXDEV where it is none of them: a /proc of
// another branch of namespaces, or of one above ours.
func (w *walk) idsHere() (pid, tid int, err error) {
	leader, err := w.v.Status(w.pid, event.TID(w.pid))
	if err != nil {
		return 0, 0, unix.ESRCH
	}
	thread, err := w.v.Status(w.pid, w.tid)
	if err != nil || len(thread.NSpid) != len(leader.NSpid) {
		return 0, 0, unix.ESRCH
	}
	for i := range leader.NSpid {
		if w.isHere(leader.NSpid[i:]) {
			return leader.NSpid[i], thread.NSpid[i], nil
		}
	}
	return 0, 0, unix.EXDEV
}

// isHere says whether the proc file system where we are shows the process
// under the first of these ids: the process there must have the very same ids
// from there on inwards, and the same pid namespace. The innermost id and the
// namespace are one process only.
func (w *walk) isHere(ids []int) bool {
	dir := strconv.Itoa(ids[0]) + "/"
	b, err := readAt(w.at, dir+"status", nil, maxProcFile)
	if err != nil {
		return false
	}
	there, err := ParseStatus(b)
	if err != nil || !slices.Equal(there.NSpid, ids) {
		return false
	}
	ns, err := readlinkat(w.at, dir+"ns/pid")
	return err == nil && ns != "" && event.Text(ns) == w.v.Link(w.pid, "ns/pid")
}

// atRoot says whether we are at the process's root, above which ".." does not go.
func (w *walk) atRoot() bool {
	var a, b unix.Statx_t
	const mask = statMask | unix.STATX_MNT_ID // 0 before Linux 5.8
	if statx(w.at, "", unix.AT_EMPTY_PATH, mask, &a) != nil || statx(w.root, "", unix.AT_EMPTY_PATH, mask, &b) != nil {
		return false
	}
	return a.Ino == b.Ino && a.Dev_major == b.Dev_major && a.Dev_minor == b.Dev_minor && a.Mnt_id == b.Mnt_id
}

func isProcRoot(fd int) bool {
	var st unix.Statx_t
	return statx(fd, "", unix.AT_EMPTY_PATH, statMask, &st) == nil && st.Ino == procRootIno
}
