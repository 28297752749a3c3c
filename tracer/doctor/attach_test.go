package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// proc is a fixture of /proc in which process 10 is whosefd and 1 its parent.
type proc struct {
	t     *testing.T
	mount string
}

func newProc(t *testing.T) *proc {
	p := &proc{t, filepath.Join(t.TempDir(), "proc")}
	p.task(1, "init", nil)
	p.task(10, "whosefd", ours())
	p.write("10/uid_map", "         0          0 4294967295\n")
	return p
}

func (p *proc) view() *procview.View { return procview.New(p.mount) }

func (p *proc) write(name, text string) {
	p.t.Helper()
	name = filepath.Join(p.mount, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

func (p *proc) link(name, to string) {
	p.t.Helper()
	name = filepath.Join(p.mount, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Symlink(to, name); err != nil {
		p.t.Fatal(err)
	}
}

// task writes the status of a process of one thread, of root unless fields say
// otherwise.
func (p *proc) task(pid int, name string, fields map[string]string) {
	p.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "Name:\t%s\n", name)
	for _, f := range [][2]string{{"State", "S (sleeping)"}, {"Tgid", fmt.Sprint(pid)}, {"Pid", fmt.Sprint(pid)}, {"PPid", "1"},
		{"TracerPid", "0"}, {"Uid", "0\t0\t0\t0"}, {"Gid", "0\t0\t0\t0"}, {"NSpid", fmt.Sprint(pid)}, {"Kthread", "0"},
		{"VmSize", "    4000 kB"}, {"CapPrm", "0000000000000000"}, {"CapEff", "0000000000000000"}, {"NoNewPrivs", "0"}, {"Seccomp", "0"}} {
		if v, ok := fields[f[0]]; ok {
			f[1] = v
		}
		if f[1] != "" {
			fmt.Fprintf(&b, "%s:\t%s\n", f[0], f[1])
		}
	}
	p.write(fmt.Sprintf("%d/status", pid), b.String())
	p.write(fmt.Sprintf("%d/task/%d/status", pid, pid), b.String())
}

// id is whosefd's user and group in the fixtures: ours, so that the files of
// the fixture belong to it, unless we are root.
var id, mine = func() (id, mine string) {
	id = "1000"
	if os.Getuid() != 0 {
		id = fmt.Sprint(os.Getuid())
	}
	return id, strings.Join([]string{id, id, id, id}, "\t")
}()

// ours are the fields of a process of whosefd's own user.
func ours(more ...string) map[string]string {
	m := map[string]string{"Uid": mine, "Gid": mine}
	for i := 0; i < len(more); i += 2 {
		m[more[i]] = more[i+1]
	}
	return m
}

// A program that Yama does not let us trace from its start is not started.
func TestExplainLaunch(t *testing.T) {
	for _, test := range []struct {
		scope int
		cap   bool
		cause error
		want  string
	}{
		{-1, false, unix.EPERM, "operation not permitted"},
		{1, false, unix.EPERM, "operation not permitted"},
		{2, false, unix.EPERM, "operation not permitted: Yama lets only those trace who have CAP_SYS_PTRACE (kernel.yama.ptrace_scope = 2); run with sudo"},
		{2, true, unix.EPERM, "operation not permitted"},
		{3, true, unix.EPERM, "operation not permitted: Yama forbids all tracing (kernel.yama.ptrace_scope = 3); only a restart of the machine takes that back: a recording made elsewhere can be explained here"},
	} {
		w := &world{yama: test.scope, me: task{Status: procview.Status{UID: [4]int{1000, 1000, 1000, 1000}}}}
		if test.cap {
			w.me.CapEff = 1 << unix.CAP_SYS_PTRACE
		}
		if err := explainLaunch(w, test.cause); err.Error() != test.want || !errors.Is(err, test.cause) {
			t.Errorf("scope %d, capability %v: %q, want %q", test.scope, test.cap, err, test.want)
		}
	}
	if err := ExplainLaunch(procview.New("/proc"), unix.ENOENT); err != unix.ENOENT {
		t.Errorf("another error: %v", err)
	}
}

func TestExplainAttach(t *testing.T) {
	for _, tc := range []struct {
		name  string
		make  func(p *proc)
		cause error
		want  string // what follows "attach to "; a leading and a trailing … leave out the rest
	}{
		{"other user", func(p *proc) { p.task(20, "gdb", nil) }, unix.EPERM,
			"gdb (pid 20): operation not permitted: pid 20 belongs to root; run with sudo"},
		{"other user, no_new_privs", func(p *proc) {
			p.task(20, "gdb", nil)
			p.task(10, "whosefd", ours("NoNewPrivs", "1"))
		}, unix.EPERM, "…belongs to root; run as root, from a shell without no_new_privs…"},
		{"unknown user", func(p *proc) { p.task(20, "gdb", map[string]string{"Uid": "3999999\t3999999\t3999999\t3999999"}) }, unix.EPERM,
			"…pid 20 belongs to uid 3999999; run with sudo"},
		{"root without the capability, in a container", func(p *proc) {
			p.task(10, "whosefd", nil)
			p.task(20, "gdb", ours())
			p.write("../.dockerenv", "")
		}, unix.EPERM, "…belongs to …; give the container the capability: --cap-add=SYS_PTRACE"},
		{"set-user-ID program", func(p *proc) { p.task(20, "sudo", ours("Uid", id+"\t0\t0\t0")) }, unix.EPERM,
			"…pid 20 is yours, but runs a set-user-ID program as root; run with sudo"},
		{"other group", func(p *proc) { p.task(20, "x", ours("Gid", id+"\t5\t5\t5")) }, unix.EPERM, "…runs with another group id (5); …"},
		{"more capabilities", func(p *proc) { p.task(20, "ping", ours("CapPrm", "0000000000003000")) }, unix.EPERM,
			"…it has capabilities that whosefd has not: CAP_NET_ADMIN, CAP_NET_RAW; run with sudo"},
		{"Yama 1", func(p *proc) {
			p.task(20, "gdb", ours())
			p.write("sys/kernel/yama/ptrace_scope", "1\n")
		}, unix.EPERM, "…Yama lets a process be traced only by its parents (kernel.yama.ptrace_scope = 1); run with sudo; or sudo sysctl kernel.yama.ptrace_scope=0; …"},
		{"Yama 2", func(p *proc) {
			p.task(20, "gdb", ours())
			p.write("sys/kernel/yama/ptrace_scope", "2\n")
		}, unix.EPERM, "…Yama lets only those trace who have CAP_SYS_PTRACE (kernel.yama.ptrace_scope = 2); run with sudo"},
		{"Yama 3, with the capability", func(p *proc) {
			p.task(10, "whosefd", map[string]string{"CapEff": "0000000000080000", "CapPrm": "0000000000080000"})
			p.task(20, "gdb", ours())
			p.write("sys/kernel/yama/ptrace_scope", "3\n")
		}, unix.EPERM, "…Yama forbids all tracing…"},
		{"Yama 2 does not stop the capability", func(p *proc) {
			p.task(10, "whosefd", map[string]string{"CapEff": "0000000000080000", "CapPrm": "0000000000080000", "Seccomp": "2"})
			p.task(20, "gdb", ours())
			p.write("sys/kernel/yama/ptrace_scope", "2\n")
		}, unix.EPERM, "…seccomp filter…; run the container with --cap-add=SYS_PTRACE…"},
		{"other user namespace", func(p *proc) {
			p.task(10, "whosefd", map[string]string{"CapEff": "000001ffffffffff", "CapPrm": "000001ffffffffff"})
			p.task(20, "gdb", ours())
			p.link("10/ns/user", "user:[4026532000]")
			p.link("20/ns/user", "user:[4026531837]")
		}, unix.EPERM, "…in another user namespace, where CAP_SYS_PTRACE of this one does not count; run whosefd outside of this container…"},
		{"a user namespace below ours is no reason", func(p *proc) {
			p.task(10, "whosefd", map[string]string{"CapEff": "000001ffffffffff", "CapPrm": "000001ffffffffff", "Seccomp": "2"})
			p.task(20, "gdb", ours())
			p.link("10/ns/user", "user:[4026531837]")
			p.link("20/ns/user", "user:[4026532000]")
		}, unix.EPERM, "…under a seccomp filter…"},
		{"seccomp", func(p *proc) {
			p.task(10, "whosefd", ours("Seccomp", "2"))
			p.task(20, "gdb", ours())
		}, unix.EPERM, "…under a seccomp filter…"},
		{"security module", func(p *proc) {
			p.task(20, "gdb", ours())
			p.write("10/attr/current", "snap.x (enforce)\n")
		}, unix.EACCES, "gdb (pid 20): permission denied: …(snap.x (enforce)); …"},
		{"no reason to be seen", func(p *proc) {
			p.task(20, "gdb", ours())
			p.write("10/attr/current", "unconfined\n")
		}, unix.EPERM, "…users, capabilities and Yama all fit…"},
		{"kernel thread", func(p *proc) { p.task(20, "kworker/0:1", map[string]string{"Kthread": "1", "VmSize": ""}) }, unix.EPERM,
			"kworker/0:1 (pid 20): operation not permitted: it is a kernel thread…"},
		{"kernel thread of an old kernel", func(p *proc) {
			p.write("20/status", "Name:\tkthreadd\nState:\tS (sleeping)\nTgid:\t20\nPid:\t20\nUid:\t0\t0\t0\t0\n")
		}, unix.EPERM, "…it is a kernel thread…"},
		{"zombie", func(p *proc) {
			p.task(19, "shell", ours())
			p.task(20, "gdb", ours("State", "Z (zombie)", "VmSize", "", "PPid", "19"))
		}, unix.EPERM, "…it has ended, and its parent shell (pid 19) has not collected it yet (a zombie)"},
		{"already traced", func(p *proc) {
			p.task(19, "strace", ours())
			p.task(20, "gdb", ours("TracerPid", "19"))
		}, unix.EPERM, "gdb (pid 20): operation not permitted: it is already traced by strace (pid 19); detach or end that one first…"},
		{"ourselves", func(p *proc) { p.task(20, "gdb", ours("Tgid", "10")) }, unix.EPERM, "…that is whosefd itself"},
		{"gone", func(*proc) {}, unix.ESRCH, "pid 20: no such process: there is no such process, or no longer; 'whosefd ps' lists the debuggers"},
		{"gone, container", func(p *proc) { p.write("1/cgroup", "0::/kubepods/pod1\n") }, unix.ESRCH,
			"…there is no such process in this container; pids count as seen from inside it…"},
		{"went meanwhile", func(p *proc) { p.task(20, "gdb", ours()) }, unix.ESRCH, "gdb (pid 20): no such process: it ended meanwhile"},
		{"no ptrace", func(p *proc) { p.task(20, "gdb", ours()) }, unix.ENOSYS, "…no PTRACE_SEIZE; use Linux 5.3 or newer"},
		{"something else", func(p *proc) { p.task(20, "gdb", ours()) }, errors.New("odd"), "gdb (pid 20): seize thread 20: odd"},
		{"hostile name", func(p *proc) { p.task(20, "a\x1b[31m\\nb", nil) }, unix.EPERM, `a\x1b[31m\nb (pid 20): operation not permitted: …`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProc(t)
			tc.make(p)
			chown(t, p)
			cause := fmt.Errorf("seize thread 20: %w", tc.cause)
			err := explainAttach(p.view(), 10, 20, cause)
			if !errors.Is(err, tc.cause) {
				t.Errorf("%v does not wrap its cause", err)
			}
			want := "attach to " + tc.want
			if !like(err.Error(), strings.Replace(want, "attach to …", "…", 1)) {
				t.Errorf("\n got %s\nwant %s", err, want)
			}
		})
	}
	if err := ExplainAttach(newProc(t).view(), 20, nil); err != nil {
		t.Errorf("no cause, but %v", err)
	}
}

// chown gives each status file to the effective user in it, as the kernel
// does. Without the right to, they are whosefd's, which is enough.
func chown(t *testing.T, p *proc) {
	t.Helper()
	if os.Getuid() != 0 {
		return
	}
	for _, pid := range []int{1, 10, 19, 20} {
		task, err := readTask(p.view(), event.PID(pid))
		if err != nil {
			continue
		}
		if err := os.Chown(filepath.Join(p.mount, fmt.Sprint(pid), "status"), task.UID[1], -1); err != nil {
			t.Fatal(err)
		}
	}
}

// like compares with a pattern in which … stands for anything.
func like(got, pattern string) bool {
	parts := strings.Split(pattern, "…")
	for i, part := range parts {
		switch {
		case i == 0:
			if !strings.HasPrefix(got, part) {
				return false
			}
			got = got[len(part):]
		case i == len(parts)-1:
			return strings.HasSuffix(got, part)
		default:
			at := strings.Index(got, part)
			if at < 0 {
				return false
			}
			got = got[at+len(part):]
		}
	}
	return got == ""
}

func TestNotDumpable(t *testing.T) {
	same := [4]int{1000, 1000, 1000, 1000}
	w := world{yama: -1, me: task{procview.Status{Tgid: 10, UID: same, GID: same}, 10, 1000},
		target: task{procview.Status{Tgid: 20, State: "S", UID: same, GID: same}, 20, 0}}
	if reason, remedy := w.whyNotPermitted(); !strings.Contains(reason, "PR_SET_DUMPABLE") || remedy != "run with sudo" {
		t.Errorf("%s; %s", reason, remedy)
	}
}

func TestRefuse(t *testing.T) {
	for _, tc := range []struct {
		name string
		make func(p *proc)
		pid  event.PID
		want string // "" for none
	}{
		{"fine", func(p *proc) { p.task(20, "gdb", ours()) }, 20, ""},
		{"other user: the attach will tell", func(p *proc) { p.task(20, "gdb", nil) }, 20, ""},
		{"ourselves", func(*proc) {}, 10, "…refused: that is whosefd itself"},
		{"gone", func(*proc) {}, 20, "…no such process…"},
		{"thread", func(p *proc) { p.task(21, "gdb", ours("Tgid", "20")) }, 21, "…21 is a thread of process 20; name the process: -p 20"},
		{"zombie", func(p *proc) { p.task(20, "gdb", ours("State", "Z (zombie)")) }, 20, "…parent init (pid 1)…"},
		{"kernel thread", func(p *proc) { p.task(20, "kthreadd", map[string]string{"Kthread": "1"}) }, 20, "…kernel thread"},
		{"traced", func(p *proc) {
			p.task(19, "strace", nil)
			p.task(20, "gdb", ours("TracerPid", "19"))
		}, 20, "attach to gdb (pid 20): refused: it is already traced by strace (pid 19)…"},
		{"traced by a thread", func(p *proc) {
			p.task(18, "dlv", nil)
			p.task(19, "dlv", map[string]string{"Tgid": "18"})
			p.task(20, "gdb", ours("TracerPid", "19"))
		}, 20, "…already traced by dlv (pid 18)…"},
		{"traces us", func(p *proc) {
			p.task(20, "gdb", ours())
			p.task(10, "whosefd", ours("TracerPid", "20"))
		}, 20, "…it traces whosefd; two processes that trace each other cannot be killed; run whosefd from a shell…"},
		{"one of its threads traces us", func(p *proc) {
			p.task(20, "dlv", ours())
			p.task(22, "dlv", ours("Tgid", "20"))
			p.task(10, "whosefd", ours("TracerPid", "22"))
		}, 20, "…it traces whosefd…"},
		{"traces a thread of our parent", func(p *proc) {
			p.task(20, "gdb", ours())
			p.task(9, "bash", ours())
			p.write("9/task/11/status", "Name:\tbash\nTgid:\t9\nPid:\t11\nTracerPid:\t20\n")
			p.task(10, "whosefd", ours("PPid", "9"))
		}, 20, "…it traces pid 9, a parent of whosefd…"},
		{"traces our tracer", func(p *proc) {
			p.task(20, "gdb", ours())
			p.task(19, "strace", ours("TracerPid", "20"))
			p.task(10, "whosefd", ours("TracerPid", "19"))
		}, 20, "…it traces whosefd…"},
		{"others trace in a circle", func(p *proc) {
			p.task(20, "gdb", ours())
			p.task(18, "a", ours("TracerPid", "19"))
			p.task(19, "b", ours("TracerPid", "18"))
			p.task(10, "whosefd", ours("TracerPid", "19"))
		}, 20, ""},
		{"a parent that is its own parent", func(p *proc) {
			p.task(20, "gdb", ours())
			p.task(9, "odd", ours("PPid", "9"))
			p.task(10, "whosefd", ours("PPid", "9"))
		}, 20, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProc(t)
			tc.make(p)
			err := Refuse(p.view(), 10, tc.pid)
			if err == nil {
				if tc.want != "" {
					t.Errorf("not refused, want %s", tc.want)
				}
				return
			}
			if tc.want == "" || !like(err.Error(), tc.want) {
				t.Errorf("\n got %s\nwant %q", err, tc.want)
			}
			if !errors.Is(err, ErrRefused) && !errors.Is(err, unix.ESRCH) {
				t.Errorf("cause of %v", err)
			}
		})
	}
}

func TestHidePID(t *testing.T) {
	for _, tc := range []struct {
		in, want string
		found    bool
	}{
		{"22 27 0:21 / /proc rw,relatime - proc proc rw\n", "", true},
		{"22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw,hidepid=2\n", "2", true},
		{"22 27 0:21 / /proc rw - proc proc rw,gid=5,hidepid=invisible", "invisible", true},
		{"22 27 0:21 / /proc rw - proc proc rw,hidepid=off\n", "", true},
		{"22 27 0:21 / /proc rw - proc proc rw,hidepid=2\n23 22 0:21 / /proc rw - proc proc rw\n", "", true},
		{"22 27 0:21 / /x/proc rw - proc proc rw,hidepid=2\n", "", false},
		{"22 27 0:21 /\n\n - proc\n", "", false},
		{"22 27 0:21 / /proc rw - proc\n", "", true},
	} {
		if got, found := hidePID(tc.in, "/proc"); got != tc.want || found != tc.found {
			t.Errorf("%q: %q, %v", tc.in, got, found)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("22 27 0:21 / /proc rw - proc proc rw,hidepid=2\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		hidePID(string(b), "/proc")
		release(string(b))
	})
}
