package procview

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Index knows who has what open: the texts of all links in /proc/PID/fd, from one
// look. It does not say of which file a name is; that is asked for when holders
// are wanted.
type Index struct {
	v *View
	// pipes and sockets are by inode: all of them are on one file system each.
	pipes, sockets map[uint64][]held
	// texts are those of devices and of files without inode of their own.
	texts map[string][]held
	named []held // all others
	// Searched counts the processes that could be looked at, Unseen are those that
	// could not. Kernel threads, which have no descriptors, and processes that end
	// meanwhile are neither. Where /proc hides processes (hidepid in proc(5)), pid
	// 1, which always exists, stands for them. Processes outside the pid namespace
	// of this /proc are never seen.
	Searched int
	Unseen   []event.Unseen
}

// held is an entry of a descriptor table; task is 0 for the process's.
type held struct {
	pid  event.PID
	task event.TID
	fd   event.FD
}

// Index looks through the descriptor tables of all processes. Threads that have
// one of their own (CLONE_FILES not set) are looked at too.
func (v *View) Index() (*Index, error) {
	pids, err := v.PIDs()
	if err != nil {
		return nil, err
	}
	ix := &Index{v: v, pipes: map[uint64][]held{}, sockets: map[uint64][]held{}, texts: map[string][]held{}}
	if v.facts().proc && !slices.Contains(pids, 1) {
		ix.Unseen = append(ix.Unseen, event.Unseen{PID: 1, Error: "EPERM"})
	}
	for _, pid := range pids {
		n, err := ix.process(pid)
		switch {
		case err == nil:
			if n > 0 || !v.noDescriptors(pid) {
				ix.Searched++
			}
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESRCH), v.noDescriptors(pid):
		default:
			ix.Unseen = append(ix.Unseen, event.Unseen{PID: pid, Comm: v.Comm(pid), Error: errnoName(err)})
		}
	}
	return ix, nil
}

// Comm is the name of a process's first thread; "" if it is gone.
func (v *View) Comm(pid event.PID) event.Text {
	b, err := v.read(int(pid), "comm")
	if err != nil {
		return ""
	}
	return event.Text(strings.TrimSuffix(string(b), "\n"))
}

// process adds all descriptor tables of a process, and counts the descriptors.
func (ix *Index) process(pid event.PID) (int, error) {
	n, err := ix.table(pid, 0)
	if err != nil {
		return 0, err
	}
	if !ix.v.manyThreads(pid) {
		return n, nil
	}
	tids, err := ix.v.Threads(pid)
	if err != nil {
		return n, nil // it ended after the look
	}
	for i, tid := range tids {
		if tid == event.TID(pid) || ix.v.sameTable(pid, tid, i) {
			continue
		}
		if m, err := ix.table(pid, tid); err == nil { // else the thread ended
			n += m
		}
	}
	return n, nil
}

// manyThreads says whether a process may have more than one thread: the number
// of links of its task folder tells (proc_task_getattr in fs/proc/base.c).
func (v *View) manyThreads(pid event.PID) bool {
	var st unix.Statx_t
	err := statx(unix.AT_FDCWD, v.path(int(pid), "task"), 0, unix.STATX_NLINK, &st)
	return err != nil || !v.facts().proc || st.Nlink > 3
}

// table adds one descriptor table. The error is also that it may not be looked
// at: some processes let their descriptors be listed, and no more.
func (ix *Index) table(pid event.PID, task event.TID) (int, error) {
	h := held{pid: pid, task: task}
	t, ns, err := ix.v.openTable(pid, h.folder())
	if err != nil {
		return 0, err
	}
	defer t.close()
	for _, n := range ns {
		text, err := readlinkat(t.dir, t.fds+strconv.Itoa(n))
		switch {
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
			return 0, err
		case err != nil && !errors.Is(err, unix.ENAMETOOLONG):
			continue // closed
		}
		h.fd = event.FD(n)
		ix.add(text, h)
	}
	return len(ns), nil
}

func (ix *Index) add(text string, h held) {
	if ino, ok := bracketed(text, "pipe:["); ok {
		ix.pipes[ino] = append(ix.pipes[ino], h)
	} else if ino, ok := bracketed(text, "socket:["); ok {
		ix.sockets[ino] = append(ix.sockets[ino], h)
	} else if strings.HasPrefix(text, "/dev/") || strings.HasPrefix(text, "anon_inode:") {
		ix.texts[text] = append(ix.texts[text], h)
	} else {
		ix.named = append(ix.named, h)
	}
}

func bracketed(text, prefix string) (uint64, bool) {
	if !strings.HasPrefix(text, prefix) {
		return 0, false
	}
	ino, err := strconv.ParseUint(strings.TrimSuffix(text[len(prefix):], "]"), 10, 64)
	return ino, err == nil
}

func (h held) folder() string {
	if h.task == 0 {
		return ""
	}
	return "task/" + strconv.Itoa(int(h.task)) + "/"
}

// Holders are the descriptors that lead to a file, of all processes.
func (ix *Index) Holders(of event.Target) []event.Holder {
	switch {
	case !of.Identified():
		return nil
	case of.Kind == event.Pipe:
		return ix.holders(ix.pipes[of.Ino])
	case of.Kind == event.Socket:
		return ix.holders(ix.sockets[of.Ino])
	}
	leads := func(h held) bool {
		var st unix.Statx_t
		return statx(unix.AT_FDCWD, ix.v.path(int(h.pid), h.folder()+"fd/"+strconv.Itoa(int(h.fd))), 0, statMask, &st) == nil &&
			event.Target{Dev: decode.Makedev(st.Dev_major, st.Dev_minor), Ino: st.Ino}.Same(of)
	}
	var found []held
	add := func(some []held) {
		for _, h := range some {
			if leads(h) {
				found = append(found, h)
			}
		}
	}
	for text, hs := range ix.texts {
		if (of.Kind == event.AnonInode) == strings.HasPrefix(text, "anon_inode:") {
			add(hs)
		}
	}
	if of.Kind != event.AnonInode {
		add(ix.named)
	}
	return ix.holders(found)
}

// Named are the descriptors of a device or of a file without inode of its own,
// by the text of their links: "/dev/ptmx", "anon_inode:[eventfd]".
func (ix *Index) Named(text string) []event.Holder { return ix.holders(ix.texts[text]) }

func (ix *Index) holders(of []held) []event.Holder {
	var hs []event.Holder
	var comm event.Text
	last := event.PID(0)
	of = slices.Clone(of)
	slices.SortFunc(of, func(a, b held) int {
		if a.pid != b.pid {
			return int(a.pid - b.pid)
		}
		return int(a.fd - b.fd)
	})
	for _, h := range of {
		if h.pid != last {
			last, comm = h.pid, ix.v.Comm(h.pid)
		}
		fds := h.folder()
		t := table{v: ix.v, dir: unix.AT_FDCWD, fds: ix.v.path(int(h.pid), fds+"fd/"), infos: ix.v.path(int(h.pid), fds+"fdinfo/")}
		one := event.Holder{PID: h.pid, Comm: comm, FD: h.fd, Access: t.access(int(h.fd))}
		if info, ok := t.info(int(h.fd)); ok {
			one.CloseOnExec = event.Some(info.CloseOnExec)
		}
		if !slices.Contains(hs, one) { // of a thread with a copy of the table
			hs = append(hs, one)
		}
	}
	return hs
}

// Holders are the descriptors that lead to one of some files, of all processes that
// can be looked at; [Index] says which cannot.
func (v *View) Holders(of ...event.Target) (holders []event.Holder) {
	if len(of) == 0 {
		return nil
	}
	ix, err := v.Index()
	if err != nil {
		return nil
	}
	for _, t := range of {
		holders = append(holders, ix.Holders(t)...)
	}
	return holders
}
