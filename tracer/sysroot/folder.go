package sysroot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
)

// put makes a link at a name.
func (b *builder) put(name, to string) error {
	at, err := b.clear(name)
	if err != nil {
		return err
	}
	return b.link(to, at)
}

// clear makes room at a name, with real folders on the way to it, and gives its
// path in root. The name is taken as it is written: ".." leads no higher than "/".
func (b *builder) clear(name string) (at string, err error) {
	name = path.Clean("/" + name)
	parts := strings.Split(name[1:], "/")
	for i := range parts[:len(parts)-1] {
		if err := b.expand("/" + strings.Join(parts[:i+1], "/")); err != nil {
			return "", err
		}
	}
	at = name[1:]
	switch st, err := b.root.Lstat(at); {
	case errors.Is(err, fs.ErrNotExist):
		return at, nil
	case err != nil:
		return "", err
	case st.Mode()&fs.ModeSymlink == 0:
		return "", fmt.Errorf("%s: taken by another name", name)
	}
	return at, b.root.Remove(at)
}

// straighten makes real folders of all that a name with ".." in it goes through:
// from behind a link, ".." leads out of the folder.
func (b *builder) straighten(name string) error {
	if !strings.Contains(name, "..") {
		return nil
	}
	at := "/"
	parts := strings.Split(name, "/")
	for _, part := range parts[:len(parts)-1] {
		if at = path.Join(at, part); at == "/" {
			continue
		}
		if err := b.expand(at); err != nil {
			return err
		}
	}
	return nil
}

// expand makes a link to a folder a real folder, with links to what is in it.
func (b *builder) expand(name string) error {
	if b.folders[name] {
		return b.ctx.Err()
	}
	at := name[1:]
	st, err := b.root.Lstat(at)
	switch {
	case err == nil && st.Mode()&fs.ModeSymlink == 0:
		return fmt.Errorf("%s: not a directory", name)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	// What it is to be filled with comes first: if that cannot be listed, the link stays.
	source, names, listErr := b.contents(name)
	if listErr != nil {
		return listErr
	}
	if err == nil {
		if err := b.root.Remove(at); err != nil {
			return err
		}
	}
	if err := b.another(); err != nil {
		return err
	}
	if err := b.root.Mkdir(at, 0o700); err != nil {
		return err
	}
	b.folders[name] = true
	return b.fill(at, source, names)
}

// contents gives what is in the folder that a name means to the process, and a
// path by which we reach it. Of what is no folder, or not there any more, there
// is nothing.
func (b *builder) contents(name string) (source string, names []string, err error) {
	if b.ended && ofProcess(name) {
		return "", nil, nil
	}
	source, err = b.source(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return "", nil, nil
	}
	if err == nil {
		names, err = b.names(source)
	}
	if err != nil {
		return "", nil, fmt.Errorf("list %s of pid %d: %w", name, b.pid, err)
	}
	if name == "/proc" { // hundreds that come and go
		names = slices.DeleteFunc(names, isNumber)
	}
	return source, names, nil
}

// fill makes links in a folder.
func (b *builder) fill(at, source string, names []string) error {
	for _, n := range names {
		if err := b.link(path.Join(source, n), path.Join(at, n)); err != nil {
			return err
		}
	}
	return nil
}

// source gives a path by which we reach the folder that a name means to the
// process.
func (b *builder) source(name string) (string, error) {
	t := b.view.Resolve(b.pid, event.TID(b.pid), name)
	if t.Error != "" {
		return "", errnoOf(t.Error)
	}
	root := b.view.Folder(b.pid) + "/root"
	paths := []string{root + string(t.Link)}
	if !b.apart {
		paths = []string{string(t.Link), root + string(t.Link)}
	}
	// The kernel's text has the process's root before it where we see that.
	if top := b.view.Resolve(b.pid, event.TID(b.pid), "/"); top.Link != "" && top.Link != "/" {
		if inside, ok := strings.CutPrefix(string(t.Link), string(top.Link)); ok {
			paths = append(paths, root+inside)
		}
	}
	for _, p := range paths {
		if strings.HasPrefix(p, "/") && b.here(p).Same(t) {
			if b.view.RemoteDevice(b.pid, t.Dev) {
				return "", errors.New("a file system that may not answer is not listed")
			}
			return p, nil
		}
	}
	return "", errors.New("no path leads there")
}

func errnoOf(name string) error {
	for _, e := range []unix.Errno{unix.ENOENT, unix.ENOTDIR, unix.EACCES, unix.EPERM, unix.ELOOP, unix.ETIMEDOUT, unix.ESRCH} {
		if unix.ErrnoName(e) == name {
			return e
		}
	}
	return errors.New(name)
}

// names gives what is in a folder, in order.
func (b *builder) names(folder string) ([]string, error) {
	f, err := os.OpenFile(folder, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(maxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	slices.Sort(names)
	return names, b.ctx.Err()
}

func (b *builder) link(to, at string) error {
	if err := b.another(); err != nil {
		return err
	}
	return b.root.Symlink(to, at)
}

var errFull = fmt.Errorf("more than %d links", maxEntries)

// another counts what is made.
func (b *builder) another() error {
	if b.count++; b.count > maxEntries {
		return errFull
	}
	return nil
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
