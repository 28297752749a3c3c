package procview

import (
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
)

// MountByID gives the file system of a mount, by its id (mnt_id in fdinfo), as a
// process sees it; nil where it is not known. served says that another program
// or machine has to answer for it.
func (v *View) MountByID(pid event.PID, id uint64) (m *event.Mount, served bool) {
	for _, known := range v.mountsOf(pid) {
		if known.id == id {
			return known.event()
		}
	}
	return nil, false
}

// MountOfMapping gives the file system of a mapped file.
func (v *View) MountOfMapping(pid event.PID, file Mapping) *event.Mount {
	for _, known := range v.mountsOf(pid) {
		if known.dev == file.Dev {
			m, _ := known.event()
			return m
		}
	}
	return nil
}

func (m mount) event() (*event.Mount, bool) {
	e := &event.Mount{Point: event.Text(m.point), Type: m.fsType, Source: event.Text(m.source)}
	if m.fsType == "fuse" || m.fsType == "fuseblk" || strings.HasPrefix(m.fsType, "fuse.") {
		// fs/fuse/control.c: the folder of a connection is its minor device number.
		e.Connection = event.Some(unix.Minor(m.dev))
	}
	return e, !localTypes[m.fsType]
}

// MountOfName gives the file system that has to answer when a thread looks up an
// absolute name, as far as that can be said without asking it: by the mount
// points that the name goes through, else by how far the kernel's caches lead
// (links may go elsewhere). nil: not known.
func (v *View) MountOfName(pid event.PID, tid event.TID, name string) (m *event.Mount, served bool) {
	name = path.Clean(name)
	longest := mount{}
	for _, known := range v.mountsOf(pid) {
		if len(known.point) >= len(longest.point) && (name == known.point || strings.HasPrefix(name, strings.TrimSuffix(known.point, "/")+"/")) {
			longest = known // of several on one point the last one is on top
		}
	}
	if longest.point != "" {
		if m, served = longest.event(); served {
			return m, true
		}
	}
	root, err := openat(unix.AT_FDCWD, v.path(int(pid), held{task: tid}.folder()+"root"), oPath|unix.O_DIRECTORY)
	if err != nil {
		return m, served
	}
	defer unix.Close(root)
	for at := name; at != "/" && at != "."; at = path.Dir(at) {
		fd, err := openHow(root, strings.TrimLeft(at, "/"), oPath, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS|resolveCached)
		if err != nil {
			continue
		}
		var st unix.Statx_t
		err = statx(fd, "", unix.AT_EMPTY_PATH, statMask|unix.STATX_MNT_ID, &st)
		_ = unix.Close(fd)
		if err != nil || st.Mask&unix.STATX_MNT_ID == 0 {
			break
		}
		if reached, served := v.MountByID(pid, st.Mnt_id); reached != nil {
			return reached, served
		}
		break
	}
	return m, served
}
