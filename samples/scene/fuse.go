package scene

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// FUSE is a mounted file system that this process serves, until it is told to
// hang: then every question to it is taken and never answered, as by a network
// file system whose server is gone. Whoever asks cannot even be killed.
type FUSE struct {
	Dir string

	names   []string // of the files in Dir; file i is node i+2
	paths   []string // where their content is
	dev     *os.File
	hanging atomic.Bool
	// asked are the questions since it hangs, by opcode and process.
	mu    sync.Mutex
	asked []string
	done  chan struct{}
}

// MountFUSE mounts copies of files below a new folder, under their base names.
// A program that is there, or works there, must be started through another one
// (see [FUSE.Command]).
func MountFUSE(t TB, files ...string) *FUSE {
	t.Helper()
	dir := FUSEFolder(t)
	f := &FUSE{Dir: dir, done: make(chan struct{})}
	for _, path := range files {
		f.names, f.paths = append(f.names, filepath.Base(path)), append(f.paths, path)
	}
	fd, err := mountFUSE(dir)
	if err != nil {
		t.Fatalf("%v", err)
	}
	f.dev = os.NewFile(uintptr(fd), "/dev/fuse") // only now: before, polling it is an error
	go f.serve()
	t.Cleanup(f.Close)
	return f
}

// FUSEFolder is a new folder for a file system that another process serves. What is
// mounted there at the end is unmounted.
func FUSEFolder(t TB) string {
	t.Helper()
	Require(t, "root", "fuse")
	removeDead()
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", fusePrefix, os.Getpid()))
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
		if err := os.Remove(dir); err != nil {
			t.Errorf("%v", err)
		}
	})
	return dir
}

// fusePrefix begins the names of the folders; the server's pid follows.
const fusePrefix = "whosefd-fuse-"

// removeDead removes what servers have left that were killed: where nobody
// serves, every look at the folder is an error.
func removeDead() {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), fusePrefix+"*"))
	if err != nil {
		panic(err) // only for a bad pattern
	}
	for _, dir := range dirs {
		text, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), fusePrefix), "-")
		if pid, err := strconv.Atoi(text); err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = syscall.Unmount(dir, syscall.MNT_DETACH) // it may not be one any more
			_ = os.Remove(dir)
		}
	}
}

// Path is that of a file there.
func (f *FUSE) Path(name string) string { return filepath.Join(f.Dir, name) }

// Command starts a program with the folder as its working directory, through a
// shell: while this process itself starts one, its threads may have to wait for
// each other, and one of them is the server.
func (f *FUSE) Command(path string, args ...string) Command {
	return Command{Path: "sh", Args: append(f.launcher()[1:], append([]string{path}, args...)...)}
}

// launcher is a command that runs the one behind it in the folder.
func (f *FUSE) launcher() []string { return []string{"sh", "-c", `cd "$0" && exec "$@"`, f.Dir} }

// StartGDB is [StartGDB] with the folder as the working directory.
func (f *FUSE) StartGDB(t TB, g GDB) *Session {
	g.Launcher = append(f.launcher(), g.Launcher...)
	return StartGDB(t, g)
}

// Hang makes it answer no more.
func (f *FUSE) Hang() { f.hanging.Store(true) }

// Close ends the connection: whoever waits gets an error, and everything there
// is an error from now on. Whoever waits must be released before it can be
// killed.
func (f *FUSE) Close() {
	_ = f.dev.Close() // it is closed already
	<-f.done
}

// Asked gives the questions that it left without an answer: "LOOKUP by 123".
func (f *FUSE) Asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

// Opcodes (linux/fuse.h).
const (
	fuseLookup      = 1
	fuseForget      = 2
	fuseGetattr     = 3
	fuseReadlink    = 5
	fuseOpen        = 14
	fuseRead        = 15
	fuseStatfs      = 17
	fuseRelease     = 18
	fuseFlush       = 25
	fuseInit        = 26
	fuseOpendir     = 27
	fuseReaddir     = 28
	fuseReleasedir  = 29
	fuseInterrupt   = 36
	fuseBatchForget = 42
)

var fuseNames = map[uint32]string{fuseLookup: "LOOKUP", fuseGetattr: "GETATTR", fuseReadlink: "READLINK", fuseOpen: "OPEN",
	fuseRead: "READ", fuseStatfs: "STATFS", fuseRelease: "RELEASE", fuseFlush: "FLUSH", fuseOpendir: "OPENDIR",
	fuseReaddir: "READDIR", fuseReleasedir: "RELEASEDIR"}

const (
	fuseInHeader  = 40     // struct fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid, …
	fuseOutHeader = 16     // struct fuse_out_header: len, error, unique
	fuseKeepCache = 1 << 1 // FOPEN_KEEP_CACHE
	fuseLink      = "link"
)

func (f *FUSE) serve() {
	defer close(f.done)
	buf := make([]byte, 256<<10)
	for {
		n, err := f.dev.Read(buf)
		if errors.Is(err, syscall.EINTR) || errors.Is(err, syscall.ENOENT) {
			continue // the question was taken back
		}
		if err != nil || n < fuseInHeader {
			return
		}
		in := buf[:n]
		opcode := binary.NativeEndian.Uint32(in[4:])
		if opcode == fuseForget || opcode == fuseBatchForget || opcode == fuseInterrupt {
			continue // these have no answer
		}
		if f.hanging.Load() {
			name := fuseNames[opcode]
			if name == "" {
				name = fmt.Sprint("opcode ", opcode)
			}
			f.mu.Lock()
			f.asked = append(f.asked, fmt.Sprintf("%s by %d", name, binary.NativeEndian.Uint32(in[32:])))
			f.mu.Unlock()
			continue
		}
		answer, errno := f.answer(opcode, binary.NativeEndian.Uint64(in[16:]), in[fuseInHeader:])
		out := binary.NativeEndian.AppendUint32(nil, uint32(fuseOutHeader+len(answer)))
		out = binary.NativeEndian.AppendUint32(out, uint32(-int32(errno)))
		out = append(out, in[8:16]...)
		if _, err := f.dev.Write(append(out, answer...)); err != nil && !errors.Is(err, syscall.ENOENT) {
			return
		}
	}
}

// answer says what a question deserves. Nothing may be cached but pages that
// were read: the kernel asks again each time.
func (f *FUSE) answer(opcode uint32, node uint64, arg []byte) ([]byte, syscall.Errno) {
	le := binary.NativeEndian
	switch opcode {
	case fuseInit: // struct fuse_init_out: major, minor, max_readahead, flags, max_background, …, max_write
		b := make([]byte, 64)
		le.PutUint32(b, 7)
		le.PutUint32(b[4:], 31)
		le.PutUint32(b[20:], 128<<10)
		return b, 0
	case fuseLookup:
		name := string(bytes.TrimRight(arg, "\x00"))
		node := uint64(slices.Index(f.names, name) + 2)
		if name == fuseLink {
			node = uint64(len(f.names) + 2)
		}
		if node < 2 || node == 1 {
			return nil, syscall.ENOENT
		}
		b := make([]byte, 40) // struct fuse_entry_out: nodeid, generation, how long it is valid
		le.PutUint64(b, node)
		return append(b, f.attr(node)...), 0
	case fuseGetattr:
		return append(make([]byte, 16), f.attr(node)...), 0
	case fuseReadlink:
		return []byte(f.names[0]), 0
	case fuseOpen, fuseOpendir:
		b := make([]byte, 16) // struct fuse_open_out: handle, flags
		le.PutUint32(b[8:], fuseKeepCache)
		return b, 0
	case fuseRead:
		offset, size := le.Uint64(arg[8:]), le.Uint32(arg[16:])
		file, err := os.Open(f.paths[node-2])
		if err != nil {
			return nil, syscall.EIO
		}
		defer file.Close()
		b := make([]byte, size)
		n, _ := file.ReadAt(b, int64(offset))
		return b[:n], 0
	case fuseReaddir, fuseRelease, fuseReleasedir, fuseFlush:
		return nil, 0
	case fuseStatfs:
		return make([]byte, 80), 0
	}
	return nil, syscall.ENOSYS
}

// attr is struct fuse_attr.
func (f *FUSE) attr(node uint64) []byte {
	mode, size := uint32(syscall.S_IFDIR|0o755), uint64(0)
	switch i := int(node) - 2; {
	case i == len(f.paths):
		mode, size = syscall.S_IFLNK|0o777, uint64(len(f.names[0]))
	case i >= 0:
		mode = syscall.S_IFREG | 0o755
		if st, err := os.Stat(f.paths[i]); err == nil {
			size = uint64(st.Size())
		}
	}
	b := make([]byte, 88)
	binary.NativeEndian.PutUint64(b, node)
	binary.NativeEndian.PutUint64(b[8:], size)
	binary.NativeEndian.PutUint64(b[16:], (size+511)/512)
	binary.NativeEndian.PutUint32(b[60:], mode)
	binary.NativeEndian.PutUint32(b[64:], 1)
	binary.NativeEndian.PutUint32(b[80:], 4096)
	return b
}

// mountFUSE mounts a file system for the server that has the descriptor.
func mountFUSE(dir string) (fd int, err error) {
	fd, err = syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd)
	if err := syscall.Mount("whosefd-test", dir, "fuse", syscall.MS_NOSUID|syscall.MS_NODEV, options); err != nil {
		_ = syscall.Close(fd)
		return -1, fmt.Errorf("mount a FUSE file system: %w", err)
	}
	return fd, nil
}

// tryFUSE mounts one and unmounts it.
func tryFUSE() error {
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", fusePrefix, os.Getpid()))
	if err != nil {
		return err
	}
	fd, err := mountFUSE(dir)
	if err == nil {
		err = errors.Join(syscall.Close(fd), syscall.Unmount(dir, syscall.MNT_DETACH))
	}
	return errors.Join(err, os.Remove(dir))
}
