package procview

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// localTypes are the file systems (proc_pid_mountinfo(5), field 9) that the
// kernel itself has the content of, in memory or on a device. Every other one is
// served: another program or another machine has to answer, and need not.
// overlay counts as local, although its layers can be anything.
var localTypes = map[string]bool{
	"bcachefs": true, "bdev": true, "binfmt_misc": true, "bpf": true, "btrfs": true, "cgroup": true, "cgroup2": true,
	"configfs": true, "cramfs": true, "debugfs": true, "devpts": true, "devtmpfs": true, "efivarfs": true, "erofs": true,
	"exfat": true, "ext2": true, "ext3": true, "ext4": true, "f2fs": true, "fusectl": true, "hugetlbfs": true,
	"iso9660": true, "jfs": true, "mqueue": true, "msdos": true, "nilfs2": true, "nsfs": true, "ntfs3": true,
	"overlay": true, "proc": true, "pstore": true, "ramfs": true, "reiserfs": true, "romfs": true, "rootfs": true,
	"rpc_pipefs": true, "securityfs": true, "selinuxfs": true, "squashfs": true, "sysfs": true, "tmpfs": true,
	"tracefs": true, "ubifs": true, "udf": true, "vfat": true, "xfs": true, "zfs": true,
}

// mount is a line of mountinfo.
type mount struct {
	id     uint64
	dev    uint64 // makedev(3) encoding
	fsType string
}

// maxMounts bounds how many mounts are kept of one process.
const maxMounts = 100_000

// parseMounts reads proc_pid_mountinfo(5): id, parent, major:minor, root, mount
// point, options, any number of optional fields, "-", type, and more. Blanks
// in names are escaped there. Lines that are not so are left out.
func parseMounts(b []byte) []mount {
	var mounts []mount
	for line := range bytes.Lines(b) {
		fields := bytes.Fields(line)
		dash := 6
		for dash < len(fields) && string(fields[dash]) != "-" {
			dash++
		}
		if dash+1 >= len(fields) {
			continue
		}
		id, err := strconv.ParseUint(string(fields[0]), 10, 64)
		if err != nil {
			continue
		}
		majorText, minorText, _ := bytes.Cut(fields[2], []byte{':'})
		major, err := strconv.ParseUint(string(majorText), 10, 32)
		minor, err2 := strconv.ParseUint(string(minorText), 10, 32)
		if err != nil || err2 != nil {
			continue
		}
		mounts = append(mounts, mount{id, decode.Makedev(uint32(major), uint32(minor)), string(fields[dash+1])})
		if len(mounts) == maxMounts {
			break
		}
	}
	return mounts
}

// mountTable remembers the mounts of some processes for a moment.
type mountTable struct {
	mu sync.Mutex
	of map[event.PID]processMounts // 0 is this one
}

type processMounts struct {
	read time.Time
	list []mount
}

const (
	// mountsFresh is how long a list of mounts is good: ids and devices are used
	// again.
	mountsFresh = time.Second
	maxLists    = 256
)

func (v *View) mountsOf(pid event.PID) []mount {
	m := &v.mounts
	m.mu.Lock()
	defer m.mu.Unlock()
	if got, ok := m.of[pid]; ok && time.Since(got.read) < mountsFresh {
		return got.list
	}
	var b []byte
	var err error
	if pid != 0 {
		b, err = v.read(int(pid), "mountinfo")
	} else if v.facts().ours {
		b, err = v.read(os.Getpid(), "mountinfo")
	}
	if err != nil {
		b = nil // it has ended, or may not be looked at: what is not known is taken for served
	}
	if m.of == nil || len(m.of) >= maxLists {
		m.of = map[event.PID]processMounts{}
	}
	got := processMounts{time.Now(), parseMounts(b)}
	m.of[pid] = got
	return got.list
}

// memoryDevice is the device of files that only exist in memory, memfd_create(2)
// and System V shared memory, which is not mounted anywhere. 0 is not known.
var memoryDevice = sync.OnceValue(func() uint64 {
	fd, err := unix.MemfdCreate("", unix.MFD_CLOEXEC)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if statx(fd, "", unix.AT_EMPTY_PATH, statMask, &st) != nil {
		return 0
	}
	return decode.Makedev(st.Dev_major, st.Dev_minor)
})

// served says whether pages and attributes of a file system may have to come
// from another program or machine. It is known by the id of a mount (0: not
// known) or by its device, as a process sees it; what is not known may be served.
func (v *View) served(pid event.PID, id, dev uint64) bool {
	if !v.facts().proc {
		return false // fixtures
	}
	if dev == v.facts().dev || dev == memoryDevice() && dev != 0 {
		return false
	}
	if t, ok := v.fsType(pid, id, dev); ok {
		return !localTypes[t]
	}
	return unix.Major(dev) == 0 // else a block device
}

func (v *View) fsType(pid event.PID, id, dev uint64) (string, bool) {
	for _, who := range []event.PID{0, pid} {
		for _, m := range v.mountsOf(who) {
			// The device of some files on btrfs is that of no mount.
			if m.dev == dev || id != 0 && m.id == id {
				return m.fsType, true
			}
		}
	}
	return "", false
}

// ServedDevice says whether the pages of files on a device, as a process sees
// it, may have to come from another program or machine.
func (v *View) ServedDevice(pid event.PID, dev uint64) bool { return v.served(pid, 0, dev) }

// Served gives those of a process's mappings whose pages may have to come from
// another program or machine: touching one of them can take for ever.
func (v *View) Served(pid event.PID, maps []Mapping) []Mapping {
	var served []Mapping
	last, lastServed := uint64(0), false
	for _, m := range maps {
		if m.Ino == 0 || m.Path == "" || m.Path[0] != '/' {
			continue // no file, or one without a name
		}
		if m.Dev != last {
			last, lastServed = m.Dev, v.served(pid, 0, m.Dev)
		}
		if lastServed {
			served = append(served, m)
		}
	}
	return served
}

// servedAnywhere says whether a process sees a file system that is served.
func (v *View) servedAnywhere(pid event.PID) bool {
	mounts := v.mountsOf(pid)
	return len(mounts) == 0 || slices.ContainsFunc(mounts, func(m mount) bool { return !localTypes[m.fsType] })
}

// servedFile is served for an open file.
func (v *View) servedFile(pid event.PID, fd int) (served bool, dev uint64) {
	var st unix.Statx_t
	if statx(fd, "", unix.AT_EMPTY_PATH, statMask|unix.STATX_MNT_ID, &st) != nil {
		return true, 0
	}
	dev = decode.Makedev(st.Dev_major, st.Dev_minor)
	id := st.Mnt_id
	if st.Mask&unix.STATX_MNT_ID == 0 { // before Linux 5.8
		id = 0
	}
	return v.served(pid, id, dev), dev
}

// isProcfs says whether an open file is on a proc file system.
func (v *View) isProcfs(pid event.PID, fd int) bool {
	var st unix.Statx_t
	if statx(fd, "", unix.AT_EMPTY_PATH, statMask|unix.STATX_MNT_ID, &st) != nil || st.Dev_major != 0 {
		return false // it is not on a block device
	}
	dev := decode.Makedev(st.Dev_major, st.Dev_minor)
	if v.facts().proc && dev == v.facts().dev {
		return true
	}
	if t, ok := v.fsType(pid, st.Mnt_id, dev); ok {
		return t == "proc"
	}
	got, err := v.Asker.ask(question{what: askStatfs, fd: fd, dev: dev})
	return err == nil && len(got.data) == 8 && binary.NativeEndian.Uint64(got.data) == unix.PROC_SUPER_MAGIC
}

// resolveCached lets openat2(2) succeed only by what is in the kernel's caches
// (RESOLVE_CACHED in linux/openat2.h, from Linux 5.12 on).
const resolveCached = 0x20

// lookup opens a name below a directory, with O_PATH. What the kernel has to ask
// somebody for is not waited for.
func (v *View) lookup(pid event.PID, dir int, name string, flags int) (int, error) {
	fd, err := openHow(dir, name, uint64(flags), resolveCached)
	switch {
	case err == nil:
		return fd, nil
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPERM):
		// Not in the cache; or a kernel before 5.12, or a sandbox.
	default:
		return -1, err
	}
	served, dev := v.servedFile(pid, dir)
	if !served {
		return openat(dir, name, flags)
	}
	got, err := v.Asker.ask(question{what: askOpen, fd: dir, flags: uint64(flags), name: name, dev: dev})
	return got.fd, err
}

// text gives the text of a link that is open (O_PATH|O_NOFOLLOW).
func (v *View) text(pid event.PID, link int) (string, error) {
	served, dev := v.servedFile(pid, link)
	if !served {
		return readlinkat(link, "")
	}
	got, err := v.Asker.ask(question{what: askReadlink, fd: link, dev: dev})
	return string(got.data), err
}

// anyFile stands for all file systems in the list of those that do not answer.
const anyFile = ^uint64(0)

// OpenInRoot opens a name as it is below a process's root directory, with O_PATH,
// following no magic links. It does not wait for anybody.
func (v *View) OpenInRoot(pid event.PID, name string) (int, error) {
	root, err := openat(unix.AT_FDCWD, v.path(int(pid), "root"), oPath|unix.O_DIRECTORY)
	if err != nil {
		return -1, fmt.Errorf("root of pid %d: %w", pid, gone(err))
	}
	defer unix.Close(root)
	name = strings.TrimLeft(name, "/")
	const within = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	fd, err := openHow(root, name, oPath, within|resolveCached)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINVAL) {
		if v.servedAnywhere(pid) {
			var got answer
			got, err = v.Asker.ask(question{what: askOpen, fd: root, flags: oPath, resolve: within, name: name, dev: anyFile})
			fd = got.fd
		} else {
			fd, err = openHow(root, name, oPath, within)
		}
	}
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // before Linux 5.6, or a sandbox
		fd, err = v.lookup(pid, root, name, oPath)
	}
	if err != nil {
		return -1, fmt.Errorf("look up %q as pid %d: %w", name, pid, err)
	}
	return fd, nil
}

// OpenRegular opens for reading what an O_PATH descriptor stands for, if it is a
// regular file, and of inode ino unless that is 0; it closes the descriptor.
// Anything else could block, or lose somebody's data. Of a file that may have
// to be asked for it gives a copy.
func (v *View) OpenRegular(pid event.PID, fd int, ino uint64) (*os.File, error) {
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := statx(fd, "", unix.AT_EMPTY_PATH, statMask, &st); err != nil {
		return nil, fmt.Errorf("statx: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("not a regular file")
	}
	if ino != 0 && st.Ino != ino {
		return nil, ErrOtherFile
	}
	if served, dev := v.servedFile(pid, fd); served {
		return v.copied(fd, dev)
	}
	got, err := reopen(fd)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(got), "file"), nil
}

// copied gives a copy of a served file. The first questions are short ones:
// most that do not answer do not answer these.
func (v *View) copied(fd int, dev uint64) (*os.File, error) {
	opened, err := v.Asker.ask(question{what: askReopen, fd: fd, dev: dev})
	if err == nil {
		defer opened.closed()
		_, err = v.Asker.ask(question{what: askRead, fd: opened.fd, size: 1, dev: dev})
	}
	var content answer
	if err == nil {
		content, err = v.Asker.ask(question{what: askCopy, fd: opened.fd, dev: dev})
	}
	if err != nil {
		return nil, fmt.Errorf("copy a file of another program's file system: %w", err)
	}
	return os.NewFile(uintptr(content.fd), "copy"), nil
}

// ErrOtherFile says that a name leads to another file than it did.
var ErrOtherFile = errors.New("another file has its name now")

// Memory is a process's memory, by /proc/PID/mem.
type Memory struct {
	v      *View
	f      *os.File
	served []Mapping
}

// OpenMemory opens a process's memory. That takes the right to trace it
// (PTRACE_MODE_ATTACH in ptrace(2)). The memory stays that of the program that runs now: if the
// process starts another, reading ends.
func (v *View) OpenMemory(pid event.PID, maps []Mapping) (*Memory, error) {
	f, err := os.Open(v.path(int(pid), "mem"))
	if err != nil {
		return nil, fmt.Errorf("memory of pid %d: %w", pid, gone(noteScarce(err)))
	}
	return &Memory{v, f, v.Served(pid, maps)}, nil
}

// Close closes it.
func (m *Memory) Close() error { return m.f.Close() }

// Touches says whether reading there may take asking somebody.
func (m *Memory) Touches(addr uint64, n int) bool {
	_, touches := m.touched(addr, n)
	return touches
}

func (m *Memory) touched(addr uint64, n int) (dev uint64, ok bool) {
	for _, s := range m.served {
		if addr < s.End && s.Start < addr+uint64(n) {
			return s.Dev, true
		}
	}
	return 0, false
}

// ReadAt implements [io.ReaderAt]. It does not wait for a file whose file system
// does not answer; the error is then [unix.ETIMEDOUT].
func (m *Memory) ReadAt(b []byte, at int64) (int, error) {
	dev, touches := m.touched(uint64(at), len(b))
	if !touches {
		return m.f.ReadAt(b, at)
	}
	for n := 0; n < len(b); {
		got, err := m.v.Asker.ask(question{what: askRead, fd: int(m.f.Fd()), offset: uint64(at) + uint64(n),
			size: uint32(min(len(b)-n, maxAnswer)), dev: dev})
		if err == nil && len(got.data) == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return n, err
		}
		n += copy(b[n:], got.data)
	}
	return len(b), nil
}
