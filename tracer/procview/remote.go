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
// remote: another program or another machine has to answer, and need not.
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
	id            uint64
	dev           uint64 // makedev(3) encoding
	fsType        string
	point, source string
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
		m := mount{id: id, dev: decode.Makedev(uint32(major), uint32(minor)), fsType: string(fields[dash+1]), point: unoctal(fields[4])}
		if dash+2 < len(fields) {
			m.source = unoctal(fields[dash+2])
		}
		mounts = append(mounts, m)
		if len(mounts) == maxMounts {
			break
		}
	}
	return mounts
}

// unoctal undoes the escapes of mountinfo: blanks, tabs, newlines and
// backslashes are \ and three octal digits.
func unoctal(b []byte) string {
	if !bytes.ContainsRune(b, '\\') {
		return string(b)
	}
	var out []byte
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+3 < len(b) {
			if n, err := strconv.ParseUint(string(b[i+1:i+4]), 8, 8); err == nil {
				out = append(out, byte(n))
				i += 3
				continue
			}
		}
		out = append(out, b[i])
	}
	return string(out)
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
		b = nil // it has ended, or may not be looked at: what is not known is taken for remote
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

// remote says whether pages and attributes of a file system may have to come
// from another program or machine. It is known by the id of a mount (0: not
// known) or by its device, as a process sees it; what is not known may be remote.
func (v *View) remote(pid event.PID, id, dev uint64) bool {
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

// RemoteDevice says whether the pages of files on a device, as a process sees
// it, may have to come from another program or machine.
func (v *View) RemoteDevice(pid event.PID, dev uint64) bool { return v.remote(pid, 0, dev) }

// Remote gives those of a process's mappings whose pages may have to come from
// another program or machine: touching one of them can take for ever.
func (v *View) Remote(pid event.PID, maps []Mapping) []Mapping {
	var remote []Mapping
	last, lastRemote := uint64(0), false
	for _, m := range maps {
		if m.Ino == 0 || m.Path == "" || m.Path[0] != '/' {
			continue // no file, or one without a name
		}
		if m.Dev != last {
			last, lastRemote = m.Dev, v.remote(pid, 0, m.Dev)
		}
		if lastRemote {
			remote = append(remote, m)
		}
	}
	return remote
}

// remoteAnywhere says whether a process sees a file system that is remote.
func (v *View) remoteAnywhere(pid event.PID) bool {
	mounts := v.mountsOf(pid)
	return len(mounts) == 0 || slices.ContainsFunc(mounts, func(m mount) bool { return !localTypes[m.fsType] })
}

// remoteFile is remote for an open file.
func (v *View) remoteFile(pid event.PID, fd int) (remote bool, dev uint64) {
	var st unix.Statx_t
	if statx(fd, "", unix.AT_EMPTY_PATH, statMask|unix.STATX_MNT_ID, &st) != nil {
		return true, 0
	}
	dev = decode.Makedev(st.Dev_major, st.Dev_minor)
	id := st.Mnt_id
	if st.Mask&unix.STATX_MNT_ID == 0 { // before Linux 5.8
		id = 0
	}
	return v.remote(pid, id, dev), dev
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

// openCached opens a name below a directory, with O_PATH, where the kernel need not ask
// a file system for it.
func openCached(dir int, name string, flags int) (int, error) {
	fd, err := openHow(dir, name, uint64(flags), resolveCached)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPERM):
		return -1, errNotCached // or a kernel before 5.12, or a sandbox
	}
	return fd, err
}

// lookup opens a name below a directory, with O_PATH. What the kernel has to ask
// somebody for is not waited for.
func (v *View) lookup(pid event.PID, dir int, name string, flags int) (int, error) {
	if fd, err := openCached(dir, name, flags); !errors.Is(err, errNotCached) {
		return fd, err
	}
	remote, dev := v.remoteFile(pid, dir)
	if !remote {
		return openat(dir, name, flags)
	}
	got, err := v.Asker.ask(question{what: askOpen, fd: dir, flags: uint64(flags), name: name, dev: dev})
	return got.fd, err
}

// text gives the text of a link that is open (O_PATH|O_NOFOLLOW).
func (v *View) text(pid event.PID, link int) (string, error) {
	remote, dev := v.remoteFile(pid, link)
	if !remote {
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
	root, err := openat(unix.AT_FDCWD, v.live(pid, "root"), oPath|unix.O_DIRECTORY)
	if err != nil {
		return -1, fmt.Errorf("root of pid %d: %w", pid, gone(err))
	}
	defer unix.Close(root)
	name = strings.TrimLeft(name, "/")
	const within = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	fd, err := openHow(root, name, oPath, within|resolveCached)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINVAL) {
		if v.remoteAnywhere(pid) {
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

// ErrOtherFile says that a name leads to another file than it did.
var ErrOtherFile = errors.New("another file has its name now")

// OpenFile opens a file of a process's folder, one of the kernel's own, for reading.
func (v *View) OpenFile(pid event.PID, name string) (*os.File, error) {
	f, err := os.Open(v.live(pid, name))
	if err != nil {
		return nil, gone(noteScarce(err))
	}
	return f, nil
}

// ReadRemote reads an open file, such as a process's memory, at an offset, where
// that may take an answer by the file system dev. It does not wait for
// one that does not answer; the error is then [unix.ETIMEDOUT].
func (v *View) ReadRemote(f *os.File, b []byte, at, dev uint64) (n int, err error) {
	for n < len(b) {
		got, err := v.Asker.ask(question{what: askRead, fd: int(f.Fd()), offset: at + uint64(n),
			size: uint32(min(len(b)-n, maxAnswer)), dev: dev})
		if err == nil && len(got.data) == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return n, err
		}
		n += copy(b[n:], got.data)
	}
	return n, nil
}
