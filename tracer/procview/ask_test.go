package procview

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Another process gives the same answers as this one, and one that does not
// come back is left behind.
func TestAsker(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	for _, err := range []error{os.WriteFile(file, []byte("content"), 0o600), os.Symlink("file", filepath.Join(dir, "link")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	open := func(name string, flags int) int {
		fd, err := openat(unix.AT_FDCWD, name, flags|unix.O_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}
	folder, opened, link := open(dir, oPath), open(file, unix.O_RDONLY), open(filepath.Join(dir, "link"), oPath|unix.O_NOFOLLOW)
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	ino := func(fd int) uint64 {
		var st unix.Statx_t
		if err := statx(fd, "", unix.AT_EMPTY_PATH, statMask, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	asker := NewAsker()
	t.Cleanup(func() {
		if asker.conn >= 0 {
			asker.drop()
		}
	})
	for name, a := range map[string]*Asker{"here": nil, "there": asker} {
		t.Run(name, func(t *testing.T) {
			got, err := a.ask(question{what: askOpen, fd: folder, flags: oPath, name: "file"})
			if err != nil || ino(got.fd) != ino(opened) {
				t.Errorf("open: %v, %v", got, err)
			}
			got.closed()
			if got, err := a.ask(question{what: askOpen, fd: folder, flags: oPath, name: "none"}); !errors.Is(err, unix.ENOENT) || got.fd >= 0 {
				t.Errorf("open of nothing: %v, %v", got, err)
			}
			if got, err := a.ask(question{what: askReadlink, fd: link}); err != nil || string(got.data) != "file" {
				t.Errorf("link: %q, %v", got.data, err)
			}
			if got, err := a.ask(question{what: askStatfs, fd: folder}); err != nil || len(got.data) != 8 {
				t.Errorf("statfs: %v, %v", got, err)
			}
			if got, err := a.ask(question{what: askRead, fd: opened, offset: 1, size: 1 << 30}); err != nil || string(got.data) != string(content[1:]) {
				t.Errorf("read: %q, %v", got.data, err)
			}
			again, err := a.ask(question{what: askReopen, fd: open(file, oPath)})
			if err != nil {
				t.Fatal(err)
			}
			defer again.closed()
			got, err = a.ask(question{what: askCopy, fd: again.fd})
			if err != nil {
				t.Fatal(err)
			}
			f := os.NewFile(uintptr(got.fd), "copy")
			defer f.Close()
			if b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20)); err != nil || string(b) != string(content) {
				t.Errorf("copy: %q, %v", b, err)
			}
			if _, err := a.ask(question{what: 99, fd: folder}); !errors.Is(err, unix.EINVAL) {
				t.Errorf("nonsense: %v", err)
			}
		})
	}
	t.Run("killed meanwhile", func(t *testing.T) {
		if err := asker.proc.Kill(); err != nil {
			t.Fatal(err)
		}
		if got, err := asker.ask(question{what: askReadlink, fd: link}); err != nil || string(got.data) != "file" {
			t.Errorf("%q, %v", got.data, err)
		}
	})
	t.Run("no answer", func(t *testing.T) {
		waits := question{what: askOpen, fd: folder, flags: unix.O_RDONLY, name: "fifo", dev: 7}
		if _, err := asker.ask(waits); !errors.Is(err, unix.ETIMEDOUT) {
			t.Errorf("%v", err)
		}
		began := time.Now()
		if _, err := asker.ask(question{what: askReadlink, fd: link, dev: 7}); !errors.Is(err, unix.ETIMEDOUT) || time.Since(began) > askWithin {
			t.Errorf("the same file system: %v", err)
		}
		if got, err := asker.ask(question{what: askReadlink, fd: link, dev: 8}); err != nil || string(got.data) != "file" {
			t.Errorf("another one: %q, %v", got.data, err)
		}
	})
}
