package decode

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"whosefd/tracer/event"
)

// NameKind says on what the target of a name depends besides the file system.
type NameKind uint8

// The kinds of names.
const (
	Empty    NameKind = iota // "": nothing, or the directory descriptor itself (AT_EMPTY_PATH)
	Absolute                 // the same for every process with this root and mount namespace
	Relative                 // on the current directory, or on a directory descriptor
	SelfFD                   // a descriptor of whoever resolves it: /proc/self/fd/N, /dev/fd/N, /dev/stdin, …
	SelfLink                 // anything else of whoever resolves it: /proc/self/exe, /proc/mounts, …
	PIDFD                    // /proc/<number>/fd/N: what the number means depends on the pid namespace
	PIDPath                  // anything else below /proc/<number>
)

var nameKinds = [...]string{"empty", "absolute", "relative", "self-fd", "self-link", "pid-fd", "pid-path"}

func (k NameKind) String() string {
	if int(k) < len(nameKinds) {
		return nameKinds[k]
	}
	return "NameKind(" + strconv.Itoa(int(k)) + ")"
}

// Name is what the text of a name says about its target.
type Name struct {
	Kind NameKind
	// FD is the descriptor of SelfFD and PIDFD, or the one that a Derived name
	// is made from; -1 without one.
	FD event.FD
	// PID is the process of PIDFD and PIDPath; 0 without one.
	PID event.PID
	// TID is the thread of /proc/…/task/TID/…; 0 without one.
	TID event.TID
	// Thread says that it is the resolving thread's: /proc/thread-self.
	Thread bool
	// Link is what follows the process for SelfLink and PIDPath, normalised:
	// "exe", "cwd/lib.so", "map_files/7f-80", "" for the directory itself.
	Link string
	// Rest is what follows the descriptor: of SelfFD and PIDFD a path below it,
	// with its slash (or only the slash); of a Derived name the suffix, ".dwp".
	Rest string
	// Derived says that a debugger made the name out of that of a descriptor:
	// /proc/self/fd/4.dwp, /usr/lib/debug/proc/self/fd/4.debug. Nothing ever
	// is there, and that is no finding.
	Derived bool
	// Root is the beginning of a name that goes through the root link of a
	// process to another context-dependent name: of
	// /proc/123/root/proc/self/fd/4 it is "/proc/123/root", and the other
	// fields are those of /proc/self/fd/4, since self is always the resolver.
	Root string
}

// Dependent says that the target depends on which process resolves the name,
// even if both have the same root, mounts and pid namespace.
func (n Name) Dependent() bool {
	return n.Kind == Relative || n.Kind == SelfFD || n.Kind == SelfLink
}

// Unmappable says that the name is that of a file that proc(5) makes up when it
// is read. No process can map such a file, so it is nobody's library.
func (n Name) Unmappable() bool {
	return (n.Kind == PIDPath || n.Kind == SelfLink) && n.Root == "" && slices.Contains(processFiles, n.Link)
}

// processFiles are such files in /proc/PID and /proc/PID/task/TID.
var processFiles = []string{"auxv", "cmdline", "comm", "environ", "maps", "mem", "smaps", "stat", "statm", "status"}

// node is what we know about a component of a path.
type node uint8

const (
	opaque  node = iota // could be a symbolic link to anywhere
	root                // /
	dev                 // /dev
	proc                // /proc
	self                // /proc/self
	process             // /proc/<number>
	task                // …/task
	thread              // …/task/<number>
	fdDir               // …/fd
	fdLink              // …/fd/<number>: leads anywhere
	procDir             // a directory below the process: ns, fdinfo, …
	rootDir             // …/root: leads to a root directory
)

// canClimb says that ".." behind it leads to the component before it.
func (n node) canClimb() bool { return n != opaque && n != fdLink && n != rootDir }

// processDirs are directories in /proc/PID and /proc/PID/task/TID, proc(5).
var processDirs = []string{"attr", "fdinfo", "map_files", "net", "ns"}

type step struct {
	node node
	text string
}

// ClassifyName says what kind of name it is, from its text alone: it looks at
// no file. "//" and "/./" count as "/".
//
// ".." is taken to mean the component before only where that is sure: below
// the directories of proc(5), behind /proc/self (a link into /proc), behind
// /proc, /dev and the root. Behind anything else, which may be a symbolic link
// to anywhere, as /lib is on many systems, what follows is not looked at.
// Numbers are read as the kernel reads them: /proc/self/fd/04 is not
// descriptor 4, nor is a number beyond the largest int.
func ClassifyName(name string) Name { return classify(name, 0) }

// maxRoots bounds how many root links behind each other are followed.
const maxRoots = 8

func classify(name string, depth int) Name {
	switch {
	case name == "":
		return Name{Kind: Empty, FD: -1}
	case name[0] != '/':
		return Name{Kind: Relative, FD: -1}
	case !strings.Contains(name, "/proc") && !strings.Contains(name, "/dev"):
		return Name{Kind: Absolute, FD: -1}
	}

	var space [16]step
	path := append(space[:0], step{root, ""})
	rest := name
	for rest != "" {
		var comp string
		comp, rest, _ = strings.Cut(rest, "/")
		if comp == "" || comp == "." {
			continue
		}
		last := path[len(path)-1].node
		if comp == ".." && last.canClimb() {
			if last == root && depth > 0 {
				break // above the root of another process: unknown
			}
			path = path[:max(1, len(path)-1)]
			continue
		}
		if last == rootDir && depth < maxRoots {
			if inner := classify("/"+comp+"/"+rest, depth+1); inner.Kind != Absolute {
				inner.Root = render(path) + inner.Root
				return inner
			}
		}
		path = enter(path, last, comp)
	}
	n := describe(path)
	if n.Kind == SelfFD || n.Kind == PIDFD {
		if n.Rest == "" && (strings.HasSuffix(name, "/") || strings.HasSuffix(name, "/.")) {
			n.Rest = "/"
		}
		return n
	}
	if n.Kind == Absolute {
		n.embedded(render(path), depth)
	}
	return n
}

// enter appends component comp to path, the last component of which is at.
func enter(path []step, at node, comp string) []step {
	next := opaque
	switch at {
	case root:
		switch comp {
		case "proc":
			next = proc
		case "dev":
			next = dev
		}
	case dev: // links into /proc/self/fd, which every system has
		fds := append(path[:1], step{proc, "proc"}, step{self, "self"}, step{fdDir, "fd"})
		switch comp {
		case "fd":
			return fds
		case "stdin":
			return append(fds, step{fdLink, "0"})
		case "stdout":
			return append(fds, step{fdLink, "1"})
		case "stderr":
			return append(fds, step{fdLink, "2"})
		}
	case proc:
		switch {
		case comp == "self":
			next = self
		case comp == "thread-self": // a link to self/task/TID
			return append(path, step{self, "self"}, step{task, "task"}, step{thread, ""})
		case comp == "mounts" || comp == "net": // links to self/mounts, self/net
			return enter(append(path, step{self, "self"}), self, comp)
		case number(comp) > 0:
			next = process
		}
	case self, process, thread:
		switch {
		case comp == "fd":
			next = fdDir
		case comp == "root":
			next = rootDir
		case comp == "task" && at != thread:
			next = task
		case slices.Contains(processDirs, comp):
			next = procDir
		}
	case task:
		if number(comp) > 0 {
			next = thread
		}
	case fdDir:
		if number(comp) >= 0 {
			next = fdLink
		}
	}
	return append(path, step{next, comp})
}

// describe tells the kind of a name whose components are known.
func describe(path []step) Name {
	n := Name{Kind: Absolute, FD: -1}
	for i, s := range path {
		switch s.node {
		case self:
			n.Kind = SelfLink
		case process:
			n.Kind, n.PID = PIDPath, event.PID(number(s.text))
		case thread:
			if s.text == "" {
				n.Thread = true
			} else {
				n.TID = event.TID(number(s.text))
			}
			n.Link = ""
			continue
		case fdLink:
			n.FD, n.Link = event.FD(number(s.text)), ""
			n.Rest = render(append([]step{{root, ""}}, path[i+1:]...))
			if n.Rest == "/" {
				n.Rest = ""
			}
			if n.Kind == SelfLink {
				n.Kind = SelfFD
			} else {
				n.Kind = PIDFD
			}
			return n
		case root, dev, proc:
		default:
			if i > 0 && path[i-1].node == fdDir {
				n.derive(strings.TrimPrefix(render(path[i-1:]), "fd/"))
			}
			if n.Kind != Absolute {
				n.Link = join(n.Link, s.text)
			}
		}
	}
	return n
}

// derive reads what follows "fd/" where that is no number.
func (n *Name) derive(below string) {
	digits := 0
	file := below[strings.LastIndexByte(below, '/')+1:]
	for digits < len(file) && file[digits] >= '0' && file[digits] <= '9' {
		digits++
	}
	if digits == len(file) && len(file) == len(below) {
		return // a number that no descriptor can have
	}
	n.Derived = true
	if fd := number(file[:digits]); fd >= 0 && digits < len(file) {
		n.FD, n.Rest = event.FD(fd), file[digits:]
	}
}

// embedded looks for a derived name in the middle of an absolute one, where
// debuggers put it: below /usr/lib/debug and the like.
func (n *Name) embedded(name string, depth int) {
	if depth > 0 {
		return
	}
	for _, start := range [...]string{"/proc/", "/dev/fd/"} {
		at := strings.LastIndex(name, start)
		if at <= 0 {
			continue
		}
		if inner := classify(name[at:], 1); inner.Derived {
			n.Derived, n.FD, n.PID, n.TID, n.Rest = true, inner.FD, inner.PID, inner.TID, inner.Rest
			return
		}
	}
}

// render is the path as text; without its slash where it does not start at
// the root.
func render(path []step) string {
	var b strings.Builder
	for i, s := range path {
		switch {
		case s.node == root && len(path) == 1:
			return "/"
		case s.node == root:
			continue
		case s.node == thread && s.text == "":
			// self/task/TID stands for thread-self; its TID is not known.
			text := strings.TrimSuffix(b.String(), "self/task") + "thread-self"
			b.Reset()
			b.WriteString(text)
			continue
		case i > 0:
			b.WriteByte('/')
		}
		b.WriteString(s.text)
	}
	return b.String()
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// number reads a component as name_to_int in the kernel's fs/proc/util.c does:
// decimal digits without a leading zero, at most the largest int; -1 for none.
func number(s string) int64 {
	if s == "" || len(s) > 10 || len(s) > 1 && s[0] == '0' {
		return -1
	}
	var v int64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return -1
		}
		v = v*10 + int64(s[i]-'0')
	}
	if v > math.MaxInt32 {
		return -1
	}
	return v
}

// MapText says whether a name is what the kernel shows of a mapped file that has none, or had one that was
// deleted (proc_pid_maps(5)): "/memfd:plugin (deleted)". Symbolizers take it for a path.
func MapText(name string) bool {
	return strings.HasPrefix(name, "/") && strings.HasSuffix(name, " (deleted)")
}
