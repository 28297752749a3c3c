package tracer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
	"whosefd/tracer/inferior"
	"whosefd/tracer/procview"
)

// SysrootEntry is a library in a sysroot whose name leads not even the process
// itself to it any more.
type SysrootEntry struct {
	Name event.Text `json:"name"`
	// To is where the link in the sysroot leads; empty for a copy.
	To     event.Text `json:"to,omitempty"`
	Copied bool       `json:"copied,omitempty"`
	// Error is why there is none; then a debugger would find nothing there.
	Error string `json:"error,omitempty"`
}

// Sysroot makes a folder that shows the file system as a process sees it: with
// `set sysroot` gdb puts it before each library's name, and finds the file that
// the process has mapped. All in it are symbolic links to what is really there;
// a library whose descriptor is closed is copied, for which map_files must be
// readable (proc_pid_map_files(5)).
//
// The folder is made, or must be empty. If that fails, nothing stays of it.
// Entries are the libraries whose names lead the process itself to another file.
func Sysroot(v *procview.View, dir string, pid event.PID) (entries []SysrootEntry, err error) {
	maps, err := inferior.LinkMaps(v, pid)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	// A link in its place is not followed: O_NOFOLLOW.
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	if _, err := f.Readdirnames(1); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("not empty")
		}
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	b := &sysroot{view: v, pid: pid, dir: dir}
	defer func() {
		if err != nil {
			b.undo()
		}
	}()
	if err := b.fill(dir, "/", b.places(maps)); err != nil {
		return nil, err
	}
	return b.entries, nil
}

// places are those in which the sysroot differs from the process's root: where
// its name for whoever asks stands for the process, and libraries whose names
// do not even lead the process itself to the file that it has mapped.
func (b *sysroot) places(maps []event.LinkMap) *place {
	tree := &place{}
	for name, to := range b.aliases() {
		tree.at(name).to = to
	}
	for i := range maps {
		lm := &maps[i]
		name := string(lm.Name)
		if lm.Mapped == nil || !strings.HasPrefix(name, "/") {
			continue
		}
		inferior.Complete(b.view, lm, 0)
		want := inferior.Identity(lm)
		if !slices.ContainsFunc(lm.Resolves, func(r event.Resolution) bool { return r.Same(want) || r.Same(*lm.Mapped) }) {
			tree.at(name).lm = lm
		}
	}
	return tree
}

// aliases are the names that stand for whoever asks, and what they are for the
// process.
func (b *sysroot) aliases() map[string]string {
	own := b.view.Folder(b.pid)
	return map[string]string{
		"/proc/self": own, "/proc/thread-self": own + "/task/" + strconv.Itoa(int(b.pid)),
		"/dev/fd": own + "/fd", "/dev/stdin": own + "/fd/0", "/dev/stdout": own + "/fd/1", "/dev/stderr": own + "/fd/2",
	}
}

// place is a node of the tree of names that need a place of their own: a link to
// to, the file of lm, or a folder on the way to such.
type place struct {
	below map[string]*place
	to    string
	lm    *event.LinkMap
}

// at gives the place of a name in the tree. ".." cannot leave it.
func (p *place) at(name string) *place {
	for comp := range strings.SplitSeq(strings.Trim(path.Clean("/"+name), "/"), "/") {
		if p.below == nil {
			p.below = map[string]*place{}
		}
		if p.below[comp] == nil {
			p.below[comp] = &place{}
		}
		p = p.below[comp]
	}
	return p
}

type sysroot struct {
	view    *procview.View
	pid     event.PID
	dir     string
	entries []SysrootEntry
	made    []string // to be removed again, the last first
}

// fill makes what is to be in a folder that stands for path real: a link for
// each entry that is there, and the places of the tree.
func (b *sysroot) fill(dir, real string, at *place) error {
	source := b.source(real)
	entries, err := os.ReadDir(source)
	if err != nil && len(at.below) == 0 {
		return fmt.Errorf("list %s: %w", source, err)
	}
	for _, e := range entries {
		if at.below[e.Name()] != nil {
			continue
		}
		if err := b.link(path.Join(source, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	for name, p := range at.below {
		to := filepath.Join(dir, name)
		switch {
		case p.lm != nil:
			err = b.put(to, p.lm)
		case p.to != "" && p.below == nil:
			err = b.link(p.to, to)
		default:
			if err = os.Mkdir(to, 0o700); err == nil {
				b.made = append(b.made, to)
				err = b.fill(to, path.Join(real, name), p)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// source is the folder that a name means to the process.
func (b *sysroot) source(name string) string {
	for alias, to := range b.aliases() {
		if rest, ok := strings.CutPrefix(name, alias); ok && (rest == "" || rest[0] == '/') {
			return to + rest
		}
	}
	if b.sameRoot() {
		return name
	}
	return b.view.Folder(b.pid) + "/root" + name
}

// sameRoot says whether the process has our own root directory and mounts.
func (b *sysroot) sameRoot() bool {
	self := event.PID(os.Getpid())
	ours, err := b.view.Process(self)
	theirs, err2 := b.view.Process(b.pid)
	root := b.view.Resolve(self, event.TID(self), "/")
	return err == nil && err2 == nil && ours.Namespaces["mnt"] == theirs.Namespaces["mnt"] &&
		root.Same(b.view.Resolve(b.pid, event.TID(b.pid), "/"))
}

func (b *sysroot) link(to, at string) error {
	if err := os.Symlink(to, at); err != nil {
		return err
	}
	b.made = append(b.made, at)
	return nil
}

// put makes the file of a library reachable: by a path that leads to the very
// file, or by a copy.
func (b *sysroot) put(at string, lm *event.LinkMap) error {
	e := SysrootEntry{Name: lm.Name}
	defer func() { b.entries = append(b.entries, e) }()
	for _, to := range lm.Reachable {
		// map_files takes a capability that the debugger need not have.
		if !strings.Contains(string(to), "/map_files/") {
			e.To = to
			return b.link(string(to), at)
		}
	}
	if err := b.copy(at, lm); err != nil {
		e.Error = err.Error()
		return nil
	}
	e.Copied = true
	return nil
}

// maxLibrary bounds a copy, bytes.
const maxLibrary = 4 << 30

// copy copies the mapped file, whatever its name leads to now.
func (b *sysroot) copy(at string, lm *event.LinkMap) error {
	from := fmt.Sprintf("%s/map_files/%x-%x", b.view.Folder(b.pid), uint64(lm.MapStart), uint64(lm.MapEnd))
	in, err := inferior.OpenRegular(b.view, b.pid, from)
	if err != nil {
		return fmt.Errorf("its descriptor is closed, and the mapped file cannot be read: %w (as root it can)", err)
	}
	defer in.Close()
	out, err := os.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	b.made = append(b.made, at)
	_, err = io.Copy(out, io.LimitReader(in, maxLibrary))
	return errors.Join(err, out.Close())
}

// undo removes what was made. The folder itself stays if it was there before
// and cannot be removed.
func (b *sysroot) undo() {
	for _, at := range slices.Backward(b.made) {
		_ = os.Remove(at)
	}
	_ = os.Remove(b.dir)
}
