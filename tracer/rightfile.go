package tracer

import (
	"errors"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
	"whosefd/tracer/inferior"
)

// selfLinks are the links by which a name becomes one of whoever resolves it.
var selfLinks = []string{"/proc/self", "/proc/thread-self", "/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr"}

// sawPath notes how far a thread is in resolving a name link by link, as
// realpath(3) does.
func (in *inferiors) sawPath(ev *event.Syscall) {
	name := string(ev.Path)
	switch {
	case ev.Name != "readlink" && ev.Name != "readlinkat":
		delete(in.via, ev.TID)
	case slices.Contains(selfLinks, name) && in.via[ev.TID] == "": // of /dev/fd the next is /proc/self
		in.via[ev.TID] = name
	}
}

// means says whether the debugger means the library name by the name of a call:
// it is that name, or another spelling of the same descriptor of the debugger,
// or the name made absolute from the debugger's directory. A name with the
// debugger's own pid is the library's only if it was made from /proc/self just
// now: else the debugger asks for a descriptor of its own.
func (in *inferiors) means(ev *event.Syscall, asked decode.Name, library event.Text) bool {
	if library == "" {
		return false
	}
	if ev.Path == library {
		return true
	}
	if asked.Kind == decode.Absolute && library[0] == '/' {
		return false // most names: no need to look closer
	}
	loaded := decode.ClassifyName(string(library))
	if asked.Derived || loaded.Derived || asked.Root != loaded.Root {
		return false
	}
	via := in.via[ev.TID]
	own := asked.PID == in.debugger && via != "" && strings.HasPrefix(path.Clean(string(library)), via)
	switch loaded.Kind {
	case decode.SelfFD:
		return (asked.Kind == decode.SelfFD || asked.Kind == decode.PIDFD && own) && asked.FD == loaded.FD && asked.Rest == loaded.Rest
	case decode.SelfLink:
		return (asked.Kind == decode.SelfLink || asked.Kind == decode.PIDPath && own) && asked.Link == loaded.Link
	case decode.Relative:
		if asked.Kind != decode.Absolute || path.Base(string(ev.Path)) != path.Base(string(library)) {
			return false
		}
		proc, err := in.view.Process(in.debugger)
		return err == nil && path.Clean(string(ev.Path)) == path.Join(string(proc.Cwd), string(library))
	}
	return false
}

// rightFile gives a path by which the debugger reaches the file that an
// inferior has mapped under the name of a call, where the name leads the
// debugger elsewhere because it is the debugger that resolves it. It is false
// for every name that no inferior has loaded, and for a file that was replaced:
// its name leads the inferior elsewhere just the same.
//
// A name that was an inferior's, and of which nobody knows the right file any
// more, is led to [nowhere]: the debugger's own file would be the wrong one, and
// perhaps one that it waits for without end.
func (in *inferiors) rightFile(tid event.TID, ev *event.Syscall) (name string, target event.Target, ok bool) {
	in.sawPath(ev)
	if ev.DirFD.Known && (ev.Path == "" || ev.Path[0] != '/') {
		return "", event.Target{}, false // below a directory of the debugger's choice
	}
	asked := decode.ClassifyName(string(ev.Path))
	if asked.Unmappable() {
		return "", event.Target{}, false
	}
	here := in.view.Resolve(in.debugger, tid, string(ev.Path))
	lm, several := oneOf(in.claims(ev, asked), ev.Path)
	switch {
	case several:
		return in.toNowhere(ev, "libraries that differ were loaded by it, and nothing tells which is meant")
	case lm == nil:
		return in.withoutClaim(tid, ev, asked, here)
	case here.Same(inferior.Identity(lm)) || here.Same(*lm.Mapped):
		return "", event.Target{}, false // right as it is
	}
	inferior.Complete(in.view, lm, in.debugger)
	for _, path := range inferior.DebuggerPaths(in.view, lm, in.debugger, tid) {
		if in.mayOpen(string(path)) {
			target = in.view.Resolve(in.debugger, tid, string(path))
			in.keep(lm, target)
			return string(path), target, true
		}
	}
	if path, target, ok := in.withoutClaim(tid, ev, asked, here); ok || asked.Kind != decode.SelfFD {
		return path, target, ok
	}
	return in.toNowhere(ev, "the debugger may not open the file that its inferior has mapped")
}

// claims gives the entries of the inferiors' lists that the name of a call can
// mean: those of the inferior that was read last, if it has one, else of another.
func (in *inferiors) claims(ev *event.Syscall, asked decode.Name) (all []event.LinkMap) {
	for _, pid := range in.byRecency(asked) {
		var of []event.LinkMap
		for _, lm := range in.loaded(pid, asked) {
			// Where a link ends is asked of its text, too: that it is no link must be the answer.
			text := lm.Mapped != nil && lm.Mapped.Link == ev.Path && decode.MapText(string(ev.Path)) && !strings.HasPrefix(ev.Name, "readlink")
			if lm.Mapped == nil || !text && !in.means(ev, asked, lm.Name) {
				continue
			}
			if !text && decode.ClassifyName(string(lm.Name)).Kind == decode.Absolute &&
				!in.view.Resolve(pid, event.TID(pid), string(lm.Name)).Same(inferior.Identity(&lm)) {
				continue // replaced
			}
			of = append(of, lm)
		}
		if slices.ContainsFunc(of, func(lm event.LinkMap) bool { return lm.Name == ev.Path }) {
			return of // by this very name
		}
		if all == nil {
			all = of
		}
	}
	return all
}

// oneOf picks the entry that a name means: one by that very name, else one by
// another spelling of it. Several that have different files mapped exclude each
// other.
func oneOf(claims []event.LinkMap, name event.Text) (lm *event.LinkMap, several bool) {
	same := func(exact bool) (lm *event.LinkMap, several bool) {
		for i := range claims {
			c := &claims[i]
			switch {
			case exact && c.Name != name:
			case lm == nil:
				lm = c
			case !inferior.Identity(lm).Same(inferior.Identity(c)):
				return nil, true
			}
		}
		return lm, false
	}
	if lm, several = same(true); lm == nil && !several {
		return same(false)
	}
	return lm, several
}

// keptFile is a file that a name was led to, held open (O_PATH) for the time when
// no inferior has it any more: a debugger looks at the libraries of a program that
// has ended, too.
type keptFile struct {
	name   event.Text // the library's
	target event.Target
	fd     int
}

// maxKept bounds the files that are kept.
const maxKept = 64

// keep holds a file.
func (in *inferiors) keep(lm *event.LinkMap, target event.Target) {
	if len(lm.Reachable) == 0 || slices.ContainsFunc(in.kept, func(k keptFile) bool { return k.name == lm.Name && k.target.Same(target) }) {
		return
	}
	fd, err := unix.Open(string(lm.Reachable[0]), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return // then the name will lead nowhere
	}
	if len(in.kept) == maxKept {
		_ = unix.Close(in.kept[0].fd)
		in.kept = in.kept[1:]
	}
	in.kept = append(in.kept, keptFile{lm.Name, target, fd})
}

// close lets go of the files that are held.
func (in *inferiors) close() {
	for _, k := range in.kept {
		_ = unix.Close(k.fd)
	}
	in.kept = nil
}

// withoutClaim gives a path for a name that no inferior has loaded now, or whose file
// it does not let the debugger reach: that of the file to which it was led before.
func (in *inferiors) withoutClaim(tid event.TID, ev *event.Syscall, asked decode.Name, here event.Target) (string, event.Target, bool) {
	if path, target, ok := in.ofCore(tid, ev, asked); ok {
		return path, target, ok
	}
	for _, k := range slices.Backward(in.kept) {
		if !in.means(ev, asked, k.name) || asked.Kind == decode.Absolute {
			continue
		}
		if here.Same(k.target) {
			return "", event.Target{}, false
		}
		for _, pid := range in.ownNumbers() {
			path := "/proc/" + strconv.Itoa(pid) + "/fd/" + strconv.Itoa(k.fd)
			if t := in.view.Resolve(in.debugger, tid, path); t.Same(k.target) {
				return path, t, true
			}
		}
		return in.toNowhere(ev, "the program that had loaded it has it no more")
	}
	// To ask what a name of its own leads to is no harm: only a read of it would hang.
	if strings.HasPrefix(ev.Name, "open") && asked.Kind == decode.SelfFD && here.Kind == event.Pipe && in.onlyWriter(here) {
		return in.toNowhere(ev, "it leads to a pipe that only the debugger itself could write to")
	}
	return "", event.Target{}, false
}

// ownNumbers are this process's ids, in each pid namespace that it is in.
func (in *inferiors) ownNumbers() []int {
	own := os.Getpid()
	if st, err := in.view.Status(event.PID(own), event.TID(own)); err == nil && len(st.NSpid) > 0 {
		return st.NSpid
	}
	return []int{own}
}

// onlyWriter says whether nobody but the debugger holds the write end of a pipe: a
// read of it would have no end.
func (in *inferiors) onlyWriter(pipe event.Target) bool {
	holders := in.view.Holders(pipe) // none, if that cannot be searched
	writes := func(h event.Holder) bool { return h.Access != "r" && h.Access != "path" }
	return slices.ContainsFunc(holders, func(h event.Holder) bool { return writes(h) && h.PID == in.debugger }) &&
		!slices.ContainsFunc(holders, func(h event.Holder) bool { return writes(h) && h.PID != in.debugger })
}

// toNowhere makes a call fail with ENOENT, and says once for each name why.
func (in *inferiors) toNowhere(ev *event.Syscall, why string) (string, event.Target, bool) {
	if !in.cores.complained[ev.Path] && in.cores.nowhere != nil {
		in.cores.complained[ev.Path] = true
		in.cores.nowhere(ev.Path, errors.New(why))
	}
	return nowhere, event.Target{Kind: event.Unknown, Error: "ENOENT"}, true
}

// mayOpen says whether the debugger itself, and not only we, may open a path by
// which an inferior's file is reached.
func (in *inferiors) mayOpen(path string) bool {
	if !strings.Contains(path, "/map_files/") {
		return true // it traces the inferior, and so may open its descriptors
	}
	proc, err := in.view.Process(in.debugger)
	return err == nil && proc.MapFiles.Is(true)
}
