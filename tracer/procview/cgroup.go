package procview

import (
	"bytes"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
)

// Freezer is the path of the cgroup by which a process can be frozen (cgroups(7)): that
// of the freezer of cgroup v1, where there is one, else that of v2; "" if that is not
// told. And whether it is frozen, it or one above, as far as cgroups are mounted here.
func (v *View) Freezer(pid event.PID) (path event.Text, frozen bool) {
	b, err := v.read(int(pid), "cgroup")
	if err != nil {
		return "", false
	}
	v1 := false
	for line := range strings.Lines(string(b)) { // hierarchy:controllers:path
		part := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		switch {
		case len(part) < 3 || v1:
		case slices.Contains(strings.Split(part[1], ","), "freezer"):
			path, v1 = event.Text(part[2]), true
		case part[0] == "0" && part[1] == "":
			path = event.Text(part[2])
		}
	}
	for _, m := range v.mountsOf(0) {
		var state []byte
		switch {
		case v1 && m.fsType == "cgroup":
			state, _ = readAt(unix.AT_FDCWD, m.point+string(path)+"/freezer.state", nil, maxProcFile)
			frozen = frozen || bytes.HasPrefix(state, []byte("FR")) // FROZEN, FREEZING
		case !v1 && m.fsType == "cgroup2":
			state, _ = readAt(unix.AT_FDCWD, m.point+string(path)+"/cgroup.events", nil, maxProcFile)
			frozen = frozen || bytes.Contains(state, []byte("frozen 1"))
		}
	}
	return path, frozen
}
