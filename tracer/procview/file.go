package procview

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
)

// resolveFD is [View.Resolve], and holds the file with O_PATH; nil where that is not possible.
func (v *View) resolveFD(pid event.PID, tid event.TID, name string) (event.Target, *os.File, string) {
	type result struct {
		target  event.Target
		path    *os.File // closed by the garbage collector where it comes too late
		through string
	}
	look := func(cached bool) (result, error) {
		w := walk{v: v, pid: pid, tid: tid, root: -1, at: -1, cached: cached}
		defer w.close()
		t, err := w.resolve(name)
		if err != nil {
			return result{through: w.through}, err
		}
		fd := w.at
		w.at = -1
		return result{t, os.NewFile(uintptr(fd), name), w.through}, nil
	}
	r, err := look(true) // what waits for nobody needs no thread of its own
	if errors.Is(err, errNotCached) {
		r, err = Within(patience, func() (result, error) { return look(false) })
	}
	if err != nil {
		return event.Target{Kind: event.Unknown, Error: errnoName(err)}, nil, r.through
	}
	return r.target, r.path, r.through
}

// ResolveFile is [View.Resolve], and opens the file for reading if it is a
// regular one. It gives no file for any other, and where it may not be read.
func (v *View) ResolveFile(pid event.PID, tid event.TID, name string) (event.Target, *Large) {
	t, path, _ := v.resolveFD(pid, tid, name)
	if path == nil {
		return t, nil
	}
	defer path.Close()
	f, err := v.large(pid, int(path.Fd()))
	if err != nil {
		return t, nil
	}
	return t, f
}

// Large is a regular file that is read in place, however large it is, and never
// waited for longer than an answer may take.
type Large struct {
	Target event.Target
	Size   int64 // bytes

	v      *View
	f      *os.File
	remote bool
}

// OpenLarge opens a file that a link of a process's folder leads to, such as
// /proc/7/fd/3.
func (v *View) OpenLarge(pid event.PID, link string) (*Large, error) {
	fd, err := openat(unix.AT_FDCWD, link, oPath)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return v.large(pid, fd)
}

// OpenMapped opens the file behind a mapping: itself, or, where that may not be
// done, by its path, if it is still the same file.
func (v *View) OpenMapped(pid event.PID, m Mapping) (*Large, error) {
	if f, err := v.OpenLarge(pid, v.live(pid, "map_files/")+m.Range()); err == nil {
		return f, nil
	}
	if m.Deleted {
		return nil, os.ErrNotExist
	}
	f, err := v.OpenInside(pid, string(m.Path))
	if err == nil && f.Target.Ino != m.Ino {
		_ = f.Close()
		return nil, ErrOtherFile
	}
	return f, err
}

// OpenInside opens a file by its name below a process's root directory; see
// [View.OpenInRoot].
func (v *View) OpenInside(pid event.PID, name string) (*Large, error) {
	fd, err := v.OpenInRoot(pid, name)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return v.large(pid, fd)
}

// OpenNamed opens a file that the user has named to us: in our own context.
func (v *View) OpenNamed(name string) (*Large, error) {
	fd, err := openat(unix.AT_FDCWD, name, oPath)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	l, err := v.large(event.PID(os.Getpid()), fd)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return l, nil
}

var errNotRegular = errors.New("not a regular file")

func (v *View) large(pid event.PID, fd int) (*Large, error) {
	t, err := v.held(fd)
	if err != nil {
		return nil, err
	}
	if t.Kind != event.Regular && t.Kind != event.Memfd {
		return nil, errNotRegular
	}
	l := &Large{Target: t, v: v}
	l.remote, _ = v.remoteFile(pid, fd)
	var opened answer
	if l.remote {
		opened, err = v.Asker.ask(question{what: askReopen, fd: fd, dev: t.Dev})
	} else {
		opened.fd, err = reopen(fd)
	}
	if err != nil {
		return nil, err
	}
	l.f = os.NewFile(uintptr(opened.fd), string(t.Link))
	var st unix.Statx_t
	if err := statx(opened.fd, "", unix.AT_EMPTY_PATH, unix.STATX_SIZE, &st); err != nil {
		_ = l.f.Close()
		return nil, err
	}
	l.Size = int64(st.Size)
	return l, nil
}

// Close closes it; nil may be closed.
func (l *Large) Close() error {
	if l == nil {
		return nil
	}
	return l.f.Close()
}

// Local gives the file for reading in whatever way, or a copy of one that may have
// to be asked for. It closes l.
func (l *Large) Local() (*os.File, error) {
	if !l.remote {
		return l.f, nil
	}
	defer l.Close()
	// A short question first: most that do not answer do not answer this one.
	var first [1]byte
	_, err := l.ReadAt(first[:], 0)
	var content answer
	if err == nil {
		content, err = l.v.Asker.ask(question{what: askCopy, fd: int(l.f.Fd()), dev: l.Target.Dev})
	}
	if err != nil {
		return nil, fmt.Errorf("copy a file of another program's file system: %w", err)
	}
	return os.NewFile(uintptr(content.fd), "copy"), nil
}

// ReadAt implements [io.ReaderAt].
func (l *Large) ReadAt(b []byte, at int64) (int, error) {
	if !l.remote {
		return l.f.ReadAt(b, at)
	}
	n, err := l.v.ReadRemote(l.f, b, uint64(at), l.Target.Dev)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}
