package tracer

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"whosefd/samples/scene"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// program is one that is told what to load.
type program struct {
	pid  event.PID
	to   io.Writer
	from *bufio.Reader
	libs []loaded // that it has now, and had
}

type loaded struct {
	name  string
	index int
	ino   uint64
	gone  bool
}

func (p *program) ask(t *testing.T, format string, args ...any) string {
	t.Helper()
	if _, err := fmt.Fprintf(p.to, format+"\n", args...); err != nil {
		t.Fatal(err)
	}
	answer, err := p.from.ReadString('\n')
	if err != nil {
		t.Fatalf(format+": %v", append(args, err)...)
	}
	return strings.TrimSpace(answer)
}

// load loads a library from a new memfd on a descriptor, by a name.
func (p *program) load(t *testing.T, fd int, apart bool, name string) {
	t.Helper()
	n := 0
	if apart {
		n = 1
	}
	var l loaded
	// By a name that it has loaded already, dlopen(3) gives the library of that name again, whatever
	// the name leads to by now.
	if _, err := fmt.Sscanf(p.ask(t, "load %d %d %s", fd, n, name), "loaded %d %d", &l.index, &l.ino); err == nil {
		l.name = name
		p.libs = append(p.libs, l)
	}
}

// startProgram starts it; fork gives its child.
func startProgram(t *testing.T, file, lib string) (p *program, fork func() *program) {
	t.Helper()
	cmd := exec.Command(file, lib)
	pipes := make([]*os.File, 8)
	for i := 0; i < len(pipes); i += 2 {
		var err error
		if pipes[i], pipes[i+1], err = os.Pipe(); err != nil {
			t.Fatal(err)
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.ExtraFiles = pipes[0], pipes[3], []*os.File{pipes[4], pipes[7]}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{0, 3, 4, 7} {
		_ = pipes[i].Close()
	}
	t.Cleanup(func() {
		for _, i := range []int{1, 5, 2, 6} { // both end when nobody can tell them any more
			_ = pipes[i].Close()
		}
		_ = cmd.Wait()
	})
	p = &program{pid: event.PID(cmd.Process.Pid), to: pipes[1], from: bufio.NewReader(pipes[2])}
	return p, func() *program {
		child := &program{to: pipes[5], from: bufio.NewReader(pipes[6]), libs: slices.Clone(p.libs)}
		if _, err := fmt.Sscanf(p.ask(t, "fork"), "forked %d", &child.pid); err != nil {
			t.Fatal(err)
		}
		return child
	}
}

// spellings are names of a descriptor of a process.
func spellings(pid event.PID, fd int) (all []string) {
	for _, form := range []string{"/proc/self/fd/%d", "/proc/thread-self/fd/%d", "/dev/fd/%d", "/proc/self/fd/./%d", "/proc//self/fd/%d",
		"/dev/../proc/self/fd/%d", "//proc/self/./fd/%d"} {
		all = append(all, fmt.Sprintf(form, fd))
	}
	return append(all, fmt.Sprintf("/proc/%d/fd/%d", pid, fd), fmt.Sprintf("/proc/self/task/%d/fd/%d", pid, fd), fmt.Sprintf("/proc/%d/task/%[1]d/fd/%d", pid, fd))
}

// meaning is the same for all spellings of one descriptor of whoever resolves them.
func meaning(name string) string {
	name = path.Clean(name)
	if rest, ok := strings.CutPrefix(name, "/dev/fd/"); ok {
		return "/proc/self/fd/" + rest
	}
	if rest, ok := strings.CutPrefix(name, "/proc/thread-self/"); ok {
		return "/proc/self/" + rest
	}
	if strings.HasPrefix(name, "/proc/self/task/") {
		return "/proc/self/fd/" + path.Base(name)
	}
	return name
}

// Whatever programs have loaded from descriptors, closed, used again, unloaded and loaded anew, in several
// namespaces of their loaders, before and after a fork: a name leads a guarded debugger to a file that has
// been mapped for that very name, or, if nobody has loaded that, for another spelling of it; where one file
// only can be meant, to that; and to none where nothing tells which.
func TestNamesOfAnyHistory(t *testing.T) {
	scene.Require(t, "gcc", "root") // map_files
	dir := t.TempDir()
	source, err := os.ReadFile("testdata/history.c")
	if err != nil {
		t.Fatal(err)
	}
	file := scene.Compile(t, dir, "history.c", string(source), "gcc", "-w")
	lib := scene.Compile(t, dir, "lib.c", "int foo(int x) { return x; }\n", "gcc", "-shared", "-fPIC")
	if err := os.Rename(lib, filepath.Join(dir, "lib.so")); err != nil {
		t.Fatal(err)
	}
	histories := uint64(4) // more of them found nothing more
	if testing.Short() {
		histories = 2
	}
	for seed := range histories {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			aHistory(t, rand.New(rand.NewPCG(seed, 0)), file, filepath.Join(dir, "lib.so"))
		})
	}
}

func aHistory(t *testing.T, r *rand.Rand, file, lib string) {
	first, fork := startProgram(t, file, lib)
	all := []*program{first}
	fds := []int{5, 9, 13}
	now := event.Micros(0)
	in := newInferiors(procview.New("/proc"), event.PID(os.Getpid()), []event.PID{first.pid}, func() event.Micros { now += 2 * lookAgain; return now }, func(event.Event) {})
	defer in.close()
	in.unwatched = true
	namespaces := 0
	ever := map[string][]uint64{} // files by meaning
	var log []string
	for range 12 {
		p, fd := all[r.IntN(len(all))], fds[r.IntN(len(fds))]
		names := spellings(p.pid, fd)
		switch what := r.IntN(8); {
		case what == 0 && len(all) == 1:
			child := fork()
			all = append(all, child)
			in.named = append(in.named, child.pid)
			log = append(log, fmt.Sprintf("fork %d", child.pid))
		case what == 1:
			p.ask(t, "close %d", fd)
			log = append(log, fmt.Sprintf("%d: close %d", p.pid, fd))
		case what == 2 && len(p.libs) > 0:
			if l := &p.libs[r.IntN(len(p.libs))]; !l.gone {
				l.gone = true
				p.ask(t, "unload %d", l.index)
				log = append(log, fmt.Sprintf("%d: unload %s", p.pid, l.name))
			}
		default:
			apart := what == 3 && namespaces < 6
			if apart {
				namespaces++
			}
			name := names[r.IntN(len(names))]
			p.load(t, fd, apart, name)
			log = append(log, fmt.Sprintf("%d: load %s on %d, apart %v: %v", p.pid, name, fd, apart, p.libs))
		}
		for _, p := range all {
			for _, l := range p.libs {
				if m := meaning(l.name); !slices.Contains(ever[m], l.ino) {
					ever[m] = append(ever[m], l.ino)
				}
			}
		}
		in.recent = all[r.IntN(len(all))].pid
		for _, p := range all {
			for _, fd := range fds {
				for _, name := range spellings(p.pid, fd) {
					if wrong := judge(in, all, ever, name); wrong != "" {
						t.Fatalf("%s: %s; recent is %d\n%s", name, wrong, in.recent, strings.Join(log, "\n"))
					}
				}
			}
		}
	}
}

// judge asks where a name leads, and says what is wrong with that.
func judge(in *inferiors, all []*program, ever map[string][]uint64, name string) string {
	self := event.PID(os.Getpid())
	to, target, led := in.rightFile(event.TID(self), &event.Syscall{PID: self, TID: event.TID(self), Name: "openat", Path: event.Text(name), Flags: "O_RDONLY"})
	toFile := led && to != nowhere
	// The inferior whose memory was read last comes first.
	order := slices.Clone(all)
	slices.SortStableFunc(order, func(x, y *program) int {
		switch in.recent {
		case x.pid:
			return -1
		case y.pid:
			return 1
		}
		return 0
	})
	for _, p := range order {
		var exact []uint64
		for _, l := range p.libs {
			if !l.gone && l.name == name && !slices.Contains(exact, l.ino) {
				exact = append(exact, l.ino)
			}
		}
		switch {
		case len(exact) == 0:
		case len(exact) > 1 && toFile:
			return fmt.Sprintf("led to inode %d (%s), of several that are meant by it: %v", target.Ino, to, exact)
		case len(exact) > 1:
			return ""
		case toFile && target.Ino != exact[0]:
			return fmt.Sprintf("led to inode %d (%s), and %d is mapped for it", target.Ino, to, exact[0])
		case !toFile && in.view.Resolve(self, event.TID(self), name).Ino != exact[0]:
			return fmt.Sprintf("led %v to %q, and inode %d is mapped for it", led, to, exact[0])
		default:
			return ""
		}
	}
	if toFile && !slices.Contains(ever[meaning(name)], target.Ino) {
		return fmt.Sprintf("led to inode %d (%s), which nobody has ever loaded by it: %v", target.Ino, to, ever[meaning(name)])
	}
	return ""
}
