// Package sysroot makes a folder in which plain gdb finds the files that another
// process sees.
package sysroot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/inferior"
	"whosefd/tracer/procview"
)

// Made is a folder that shows the file system as a process sees it.
type Made struct {
	// Entries are the files that have a place of their own in it, since their names
	// lead no longer to them, and those for which there is none.
	Entries []Entry
	// Relative says that there are relative names too: gdb does not put the folder
	// before those, and finds them from the process's directory.
	Relative bool
}

// Entry is a file in a sysroot that is not where its name leads.
type Entry struct {
	Name event.Text `json:"name"`
	// To is where the link in the sysroot leads; empty for a copy.
	To     event.Text `json:"to,omitempty"`
	Copied bool       `json:"copied,omitempty"`
	// Error is why a debugger would not find the right file there.
	Error string `json:"error,omitempty"`
}

const (
	// maxEntries bounds the links, folders and files of a sysroot.
	maxEntries = 200_000
	// maxCopied bounds the copies in a sysroot, all together, bytes.
	maxCopied = 4 << 30
	// maxDepth bounds the folders on the way to a name: each one is walked again
	// for the next.
	maxDepth = 128
)

// Make makes a folder for gdb's `set sysroot`, which gdb puts before each
// library's name: what it then opens is the file that the process has mapped.
// All in it are symbolic links to what is really there. A library to which no
// path leads any more is copied, for which map_files must be readable
// (proc_pid_map_files(5)). Each name is tried, and the file that it leads to
// compared with the mapped one.
//
// dir must not be there, or be an empty folder; it is a folder of the user's alone
// (0700) afterwards. It is made under another name beside it, and renamed when it
// is complete: of one that fails, or is interrupted by ctx, nothing stays. maps are
// the objects that the process has loaded.
func Make(ctx context.Context, v *procview.View, dir string, pid event.PID, maps []event.LinkMap) (*Made, error) {
	proc, err := v.Process(pid)
	if err != nil {
		return nil, fmt.Errorf("look at pid %d: %w", pid, err)
	}
	self, err := v.Process(event.PID(os.Getpid()))
	if err != nil {
		return nil, fmt.Errorf("look at this process: %w", err)
	}
	b := &builder{ctx: ctx, view: v, pid: pid, self: self.PID, apart: self.Namespaces["mnt"] != proc.Namespaces["mnt"]}
	return b.make(dir, func() error { return b.ofProcess(&proc, maps) })
}

// make makes the folder under another name first.
func (b *builder) make(dir string, fill func() error) (*Made, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := mayBecome(dir); err != nil {
		return nil, err
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), ".whosefd-sysroot-*") // 0700
	if err != nil {
		return nil, err
	}
	b.dir, b.folders, b.taken, b.copies = temp, map[string]bool{}, map[string]bool{}, map[string]event.Target{}
	if err = b.build(fill); err == nil {
		err = b.ctx.Err()
	}
	if err == nil { // os.Rename would not replace an empty folder
		if e := unix.Rename(temp, dir); e != nil {
			err = &os.LinkError{Op: "rename", Old: temp, New: dir, Err: e}
		}
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(temp)) // which follows no links
	}
	return &b.made, nil
}

// mayBecome says why dir cannot become a sysroot, as far as that can be seen.
// The rename decides.
func mayBecome(dir string) error {
	st, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode()&fs.ModeSymlink != 0:
		return fmt.Errorf("%s: is a symbolic link, not a directory", dir)
	case !st.IsDir():
		return fmt.Errorf("%s: not a directory", dir)
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Readdirnames(1); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", dir, cmp.Or(err, errors.New("not empty")))
	}
	return nil
}

// builder makes one. Names in it are the process's own, with a
// slash at the beginning; nothing is written but through root, so no name and no
// link leads out of it.
type builder struct {
	ctx       context.Context
	view      *procview.View
	pid, self event.PID
	apart     bool // the process is in another mount namespace than we
	ended     bool // the process has ended: nothing is its own
	dir       string
	root      *os.Root
	made      Made
	count     int
	folders   map[string]bool         // names that are real folders in it
	copied    int64                   // bytes
	taken     map[string]bool         // names that have a place of their own
	copies    map[string]event.Target // of those, what was copied
}

// build shows the root directory, and fills in the rest.
func (b *builder) build(fill func() error) (err error) {
	if b.root, err = os.OpenRoot(b.dir); err != nil {
		return err
	}
	defer b.root.Close()
	source, names, err := b.contents("/")
	if err != nil {
		return err
	}
	if err := b.fill(".", source, names); err != nil {
		return err
	}
	if b.ended {
		for _, name := range []string{"/proc", "/dev", "/dev/fd"} {
			if err := b.expand(name); err != nil {
				return err
			}
		}
	}
	return fill()
}

func (b *builder) ofProcess(proc *event.Process, maps []event.LinkMap) error {
	if err := b.aliases(); err != nil {
		return err
	}
	if err := b.numbers(maps); err != nil {
		return err
	}
	b.program(string(proc.Exe))
	if err := b.libraries(maps); err != nil {
		return err
	}
	return b.texts(maps)
}

// texts gives the libraries without a path a second name, by what the kernel shows of them in
// /proc/PID/maps: symbolizers look for that (perf report --symfs). Where it could mean two files,
// or is the name of another, there is none; and no folder is made for it.
func (b *builder) texts(maps []event.LinkMap) error {
	shown := map[string]*event.LinkMap{}
	for i := range maps {
		lm := &maps[i]
		if lm.Mapped == nil || !decode.MapText(string(lm.Mapped.Link)) {
			continue
		}
		text := path.Clean(string(lm.Mapped.Link))
		if other, ok := shown[text]; ok && (other == nil || !inferior.Identity(other).Same(inferior.Identity(lm))) {
			lm = nil
		}
		shown[text] = lm
	}
	for text, lm := range shown {
		folder := path.Dir(text)
		if lm == nil || folder != "/" && !b.folders[folder] || !strings.HasPrefix(string(lm.Name), "/") || !b.finds(lm) || b.here(b.dir+text).Error == "" {
			continue
		}
		to := strings.Repeat("../", strings.Count(text, "/")-1) + strings.TrimLeft(string(lm.Name), "/")
		if err := b.put(text, to); err != nil {
			return err
		}
	}
	return nil
}

// libraries sees to it that all libraries are found.
func (b *builder) libraries(maps []event.LinkMap) error {
	for i := range maps {
		if err := b.library(&maps[i]); err != nil {
			return err
		}
	}
	return b.again(maps)
}

// aliases are the names that stand for whoever asks: here they are the process's.
func (b *builder) aliases() error {
	own := b.view.Folder(b.pid)
	for _, a := range []struct{ name, to string }{
		{"/proc/self", own}, {"/proc/thread-self", own + "/task/" + strconv.Itoa(int(b.pid))}, {"/dev/fd", own + "/fd"},
		{"/dev/stdin", own + "/fd/0"}, {"/dev/stdout", own + "/fd/1"}, {"/dev/stderr", own + "/fd/2"},
	} {
		if err := b.put(a.name, a.to); err != nil {
			return err
		}
	}
	return nil
}

// numbers adds the processes that names tell of, and the process itself with its
// threads: in its pid namespace those may have other numbers than here, and
// threads are not in the list of /proc.
func (b *builder) numbers(maps []event.LinkMap) error {
	source, err := b.source("/proc")
	if err != nil {
		return nil // it has no /proc
	}
	wanted := map[string]bool{}
	for i := range maps {
		if rest, ok := strings.CutPrefix(path.Clean(string(maps[i].Name)), "/proc/"); ok {
			first, _, _ := strings.Cut(rest, "/")
			wanted[first] = true
		}
	}
	st, err := b.view.Status(b.pid, event.TID(b.pid))
	if err == nil {
		for _, id := range st.NSpid {
			// Which of its numbers this /proc shows is seen by what is there.
			name := "/proc/" + strconv.Itoa(id)
			if !b.same(name, "/proc/self") {
				continue
			}
			wanted[strconv.Itoa(id)] = true
			tids, _ := b.names(path.Join(source, strconv.Itoa(id), "task")) // none, if it ends now
			for _, tid := range tids {
				wanted[tid] = true
			}
		}
	}
	for name := range wanted {
		if !isNumber(name) {
			continue
		}
		if err := b.put("/proc/"+name, path.Join(source, name)); err != nil {
			return err
		}
	}
	return nil
}

// same says whether two names lead the process to one file.
func (b *builder) same(x, y string) bool {
	return b.view.Resolve(b.pid, event.TID(b.pid), x).Same(b.view.Resolve(b.pid, event.TID(b.pid), y))
}

// program sees to it that the program's own file is found: gdb asks for it by the
// text of /proc/PID/exe, which is not its name to the process after chroot(2),
// and for a deleted file no name at all.
func (b *builder) program(exe string) {
	link := b.view.Folder(b.pid) + "/exe"
	want := b.here(link)
	if !strings.HasPrefix(exe, "/") || want.Error != "" || b.here(b.dir+exe).Same(want) {
		return
	}
	e := Entry{Name: event.Text(exe), To: event.Text(link)}
	if err := b.put(exe, link); err != nil {
		e = Entry{Name: event.Text(exe), Error: err.Error()}
	}
	b.taken[path.Clean(exe)] = true
	b.made.Entries = append(b.made.Entries, e)
}

// library sees to it that a library is found by its name.
func (b *builder) library(lm *event.LinkMap) error {
	if err := b.ctx.Err(); err != nil {
		return err
	}
	name := string(lm.Name)
	if name == "" || lm.Mapped == nil || strings.HasPrefix(string(lm.Mapped.Link), "[") {
		return nil // the program itself, or the vdso
	}
	if name[0] != '/' {
		b.relative(lm)
		return nil
	}
	if b.finds(lm) {
		return nil
	}
	e := Entry{Name: lm.Name}
	err := b.place(lm, &e)
	if errors.Is(err, errFull) || errors.Is(err, context.Canceled) || errors.Is(err, unix.ENOSPC) {
		return err
	}
	if err != nil {
		e = Entry{Name: lm.Name, Error: err.Error()}
	}
	b.made.Entries = append(b.made.Entries, e)
	return nil
}

// relative is for a name that gdb opens from its working directory.
func (b *builder) relative(lm *event.LinkMap) {
	if isOf(lm, b.view.Resolve(b.pid, event.TID(b.pid), string(lm.Name))) {
		b.made.Relative = true
		return
	}
	b.made.Entries = append(b.made.Entries, Entry{Name: lm.Name,
		Error: "a relative name is not looked for in this folder, and from the program's directory it does not lead to the library now"})
}

// again tries all names once more: a place that was made for one may be in the
// way of another.
func (b *builder) again(maps []event.LinkMap) error {
	failed := map[event.Text]bool{}
	for _, e := range b.made.Entries {
		failed[e.Name] = e.Error != ""
	}
	for i := range maps {
		if err := b.ctx.Err(); err != nil {
			return err
		}
		lm := &maps[i]
		if lm.Mapped == nil || !strings.HasPrefix(string(lm.Name), "/") || failed[lm.Name] || strings.HasPrefix(string(lm.Mapped.Link), "[") || b.finds(lm) {
			continue
		}
		failed[lm.Name] = true
		b.made.Entries = slices.DeleteFunc(b.made.Entries, func(e Entry) bool { return e.Name == lm.Name })
		b.made.Entries = append(b.made.Entries, Entry{Name: lm.Name, Error: "another file is in its place"})
	}
	return nil
}

// finds says whether gdb would find the mapped file by its name in the sysroot,
// or a copy of it.
func (b *builder) finds(lm *event.LinkMap) bool {
	if t, ok := b.copies[path.Clean(string(lm.Name))]; ok {
		return isOf(lm, t)
	}
	return isOf(lm, b.here(b.dir+string(lm.Name)))
}

// here is what a debugger beside us gets by a name. Nothing is opened, and
// nobody waited for.
func (b *builder) here(name string) event.Target {
	return b.view.Resolve(b.self, event.TID(b.self), name)
}

// isOf says whether t is the mapped file. Where stat(2) may not ask the mapping,
// the device can be another one (btrfs, overlayfs), and the inode has to do.
func isOf(lm *event.LinkMap, t event.Target) bool {
	return t.Same(inferior.Identity(lm)) || t.Same(*lm.Mapped) ||
		lm.MappedStat == nil && t.Kind == event.Regular && lm.Mapped.Kind != event.Memfd && t.Ino != 0 && t.Ino == lm.Mapped.Ino
}

// place makes a place for a library: a link to a path that leads to the very
// file, or a copy.
func (b *builder) place(lm *event.LinkMap, e *Entry) error {
	name := path.Clean(string(lm.Name))
	if name == "/" {
		return errors.New("this is no name of a file")
	}
	switch {
	case leavesRoot(string(lm.Name)):
		return errLeaves
	case strings.Count(string(lm.Name), "/") > maxDepth:
		return fmt.Errorf("more than %d folders deep", maxDepth)
	}
	if b.taken[name] {
		return errors.New("another file has the same name")
	}
	b.taken[name] = true
	if err := b.straighten(string(lm.Name)); err != nil {
		return err
	}
	inferior.Complete(b.view, lm, 0)
	for _, to := range lm.Reachable {
		// map_files takes a capability that the debugger need not have.
		if strings.Contains(string(to), "/map_files/") || !isOf(lm, b.here(string(to))) {
			continue
		}
		if err := b.put(name, string(to)); err != nil {
			return err
		}
		if !isOf(lm, b.here(b.dir+string(lm.Name))) {
			return errLeaves
		}
		e.To = to
		return nil
	}
	if err := b.copy(name, lm); err != nil {
		return err
	}
	if !b.here(b.dir + string(lm.Name)).Same(b.here(b.dir + name)) {
		return errLeaves
	}
	e.Copied, b.copies[name] = true, inferior.Identity(lm)
	return nil
}

var errLeaves = errors.New("by its \"..\" gdb would leave the folder")

// leavesRoot says whether a name goes up from the root directory. There ".." is
// the root itself; with the folder before it, it is not.
func leavesRoot(name string) bool {
	depth := 0
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}

// copy copies the mapped file, whatever its name leads to now.
func (b *builder) copy(name string, lm *event.LinkMap) (err error) {
	in, err := b.view.OpenLarge(b.pid, fmt.Sprintf("%s/map_files/%x-%x", b.view.Folder(b.pid), uint64(lm.MapStart), uint64(lm.MapEnd)))
	if err != nil {
		hint := ""
		if errors.Is(err, fs.ErrPermission) {
			hint = "; root may"
		}
		return fmt.Errorf("no path leads to the mapped file any more, and it cannot be copied: %w%s", err, hint)
	}
	defer in.Close()
	if b.copied += in.Size; b.copied > maxCopied {
		return fmt.Errorf("the copies would take more than %d GiB", maxCopied>>30)
	}
	at, err := b.clear(name)
	if err != nil {
		return err
	}
	out, err := b.root.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(out, &interruptible{b.ctx, io.NewSectionReader(in, 0, in.Size)})
	if err == nil && n != in.Size {
		err = errors.New("the file became shorter while it was copied")
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return errors.Join(err, b.root.Remove(at))
	}
	return nil
}

// interruptible is a reader that ends with its context.
type interruptible struct {
	ctx context.Context
	io.Reader
}

func (r *interruptible) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
