package doctor

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/samples/scene"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
	"whosefd/tracer/ptrace"
)

const roleEnv = "WHOSEFD_DOCTOR_ROLE"

// TestMain lets the test binary play the other processes: it does what the
// role says, prints one line, and waits for its input to end.
func TestMain(m *testing.M) {
	role, arg, _ := strings.Cut(os.Getenv(roleEnv), " ")
	pid, _ := strconv.Atoi(arg)
	v := procview.New("/proc")
	said := ""
	switch role {
	case "":
		os.Exit(m.Run())
	case "attach": // try, and say why it failed
		err := ptrace.OnTracerThread(func() error { return ptrace.Linux{}.Seize(event.TID(pid), 0) })
		said = fmt.Sprint(ExplainAttach(v, event.PID(pid), err))
	case "trace": // seize and stay
		held := make(chan error)
		go func() {
			_ = ptrace.OnTracerThread(func() error {
				held <- ptrace.Linux{}.Seize(event.TID(pid), 0)
				select {} // ends with the process
			})
		}()
		said = fmt.Sprint(<-held)
	case "hide": // not dumpable
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
			said = err.Error()
		}
	case "doctor":
		b, err := json.Marshal(Run(v, os.Getenv))
		said = string(b)
		if err != nil {
			said = err.Error()
		}
	case "sit":
	}
	fmt.Println(said)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// other is the test binary in another role.
type other struct {
	pid  event.PID
	said string
}

// play starts the test binary in a role; it ends with the test.
func play(t *testing.T, attr *syscall.SysProcAttr, role string) other {
	t.Helper()
	cmd := exec.Command(publicBinary(t))
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.SysProcAttr = attr
	cmd.Stderr = os.Stderr
	cmd.Dir = "/"
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %v", role, err)
	}
	return other{event.PID(cmd.Process.Pid), strings.TrimSuffix(line, "\n")}
}

// publicBinary is a copy of the test binary that every user may run.
func publicBinary(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "doctor")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "doctor.test")
	if err := os.WriteFile(name, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

const nobody = 65534

func asNobody(t *testing.T) *syscall.SysProcAttr {
	t.Helper()
	scene.Require(t, "root")
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
}

func wantSaid(t *testing.T, got string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(got, p) {
			t.Errorf("got  %s\nwant %s", got, p)
		}
	}
}

func TestRealAttachFailures(t *testing.T) {
	t.Run("other user", func(t *testing.T) {
		nobody := asNobody(t)
		victim := play(t, nil, "sit")
		said := play(t, nobody, fmt.Sprint("attach ", victim.pid)).said
		wantSaid(t, said, fmt.Sprintf("attach to doctor.test (pid %d): operation not permitted: pid %[1]d belongs to root; run with sudo", victim.pid))
	})
	t.Run("not dumpable", func(t *testing.T) {
		victim := play(t, asNobody(t), "hide")
		said := play(t, asNobody(t), fmt.Sprint("attach ", victim.pid)).said
		wantSaid(t, said, "operation not permitted: the kernel keeps it from being looked into")
	})
	t.Run("more capabilities", func(t *testing.T) {
		attr := asNobody(t)
		attr.AmbientCaps = []uintptr{unix.CAP_NET_RAW}
		victim := play(t, attr, "sit")
		said := play(t, asNobody(t), fmt.Sprint("attach ", victim.pid)).said
		wantSaid(t, said, "it has capabilities that whosefd has not: CAP_NET_RAW")
	})
	t.Run("already traced", func(t *testing.T) {
		scene.Require(t, "ptrace")
		victim := play(t, nil, "sit")
		tracer := play(t, nil, fmt.Sprint("trace ", victim.pid))
		if tracer.said != "<nil>" {
			t.Fatalf("can't trace: %s", tracer.said)
		}
		want := fmt.Sprintf("it is already traced by doctor.test (pid %d)", tracer.pid)
		wantSaid(t, play(t, nil, fmt.Sprint("attach ", victim.pid)).said, want)
		err := Refuse(procview.New("/proc"), event.PID(os.Getpid()), victim.pid)
		if !errors.Is(err, ErrRefused) {
			t.Fatalf("not refused: %v", err)
		}
		wantSaid(t, err.Error(), want)
		// The other way round: the victim must not attach to its tracer.
		err = Refuse(procview.New("/proc"), victim.pid, tracer.pid)
		if !errors.Is(err, ErrRefused) {
			t.Fatalf("not refused: %v", err)
		}
		wantSaid(t, err.Error(), "it traces whosefd")
	})
	t.Run("parent traced", func(t *testing.T) {
		scene.Require(t, "ptrace")
		cmd := exec.Command("sh", "-c", "sleep 60 & echo $!; wait")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var child int
		if _, err := fmt.Fscan(out, &child); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = unix.Kill(child, unix.SIGKILL)
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		tracer := play(t, nil, fmt.Sprint("trace ", cmd.Process.Pid))
		if tracer.said != "<nil>" {
			t.Fatalf("can't trace: %s", tracer.said)
		}
		err = Refuse(procview.New("/proc"), event.PID(child), tracer.pid)
		if !errors.Is(err, ErrRefused) {
			t.Fatalf("not refused: %v", err)
		}
		wantSaid(t, err.Error(), fmt.Sprintf("it traces pid %d, a parent of whosefd", cmd.Process.Pid))
	})
	t.Run("zombie", func(t *testing.T) {
		cmd := exec.Command(publicBinary(t))
		cmd.Env = append(os.Environ(), roleEnv+"=sit")
		if err := cmd.Start(); err != nil { // its input is /dev/null: it ends at once
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Wait() })
		pid, v := event.PID(cmd.Process.Pid), procview.New("/proc")
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if got, err := readTask(v, pid); err != nil || time.Now().After(deadline) {
				t.Fatalf("no zombie: %+v, %v", got, err)
			} else if got.State == "Z" {
				break
			}
		}
		want := fmt.Sprintf("its parent doctor.test (pid %d) has not collected it yet", os.Getpid())
		err := ptrace.OnTracerThread(func() error { return ptrace.Linux{}.Seize(event.TID(pid), 0) })
		if err == nil {
			t.Fatal("seized a zombie")
		}
		wantSaid(t, ExplainAttach(v, pid, err).Error(), want)
		wantSaid(t, Refuse(v, event.PID(os.Getpid()), pid).Error(), want)
	})
	t.Run("gone", func(t *testing.T) {
		const pid = 1 << 22 // PID_MAX_LIMIT: no process ever has it
		err := ptrace.OnTracerThread(func() error { return ptrace.Linux{}.Seize(pid, 0) })
		if !errors.Is(err, unix.ESRCH) {
			t.Fatal(err)
		}
		wantSaid(t, ExplainAttach(procview.New("/proc"), pid, err).Error(), "pid 4194304: no such process: there is no such process")
	})
	t.Run("kernel thread", func(t *testing.T) {
		scene.Require(t, "kernel threads that are seen")
		const pid = 2 // kthreadd
		err := ptrace.OnTracerThread(func() error { return ptrace.Linux{}.Seize(pid, 0) })
		if err == nil {
			t.Fatal("seized a kernel thread")
		}
		wantSaid(t, ExplainAttach(procview.New("/proc"), pid, err).Error(), "attach to kthreadd (pid 2): operation not permitted: it is a kernel thread")
	})
	t.Run("fine", func(t *testing.T) {
		if err := Refuse(procview.New("/proc"), event.PID(os.Getpid()), play(t, nil, "sit").pid); err != nil {
			t.Error(err)
		}
	})
}

func byName(t *testing.T, checks []Check) map[string]Check {
	t.Helper()
	m := make(map[string]Check)
	for _, c := range checks {
		if _, twice := m[c.Name]; twice || c.Name == "" || c.Detail == "" {
			t.Errorf("check %+v", c)
		}
		if c.OK == (c.Remedy != "") {
			t.Errorf("%s: OK is %v, remedy %q", c.Name, c.OK, c.Remedy)
		}
		if strings.ContainsAny(c.Detail+c.Remedy, "\n\x1b") {
			t.Errorf("%s: more than a line: %q %q", c.Name, c.Detail, c.Remedy)
		}
		m[c.Name] = c
	}
	return m
}

func TestRun(t *testing.T) {
	env := func(k string) string {
		return map[string]string{"DEBUGINFOD_URLS": "https://a.example/ https://b.example/"}[k]
	}
	checks := byName(t, Run(procview.New("/proc"), env))
	for name, c := range checks {
		t.Logf("%-16s %-5v %s | %s", name, c.OK, c.Detail, c.Remedy)
	}
	wantSaid(t, checks["debuginfod"].Detail, "https://a.example/ https://b.example/")

	// What ptrace says here must be what strace finds.
	scene.Require(t, "strace")
	if err := exec.Command("strace", "-o", os.DevNull, "-e", "trace=none", "strace", "-V").Run(); (err == nil) != checks["ptrace"].OK {
		t.Errorf("strace: %v, but %+v", err, checks["ptrace"])
	}
}

func TestRunAsNobody(t *testing.T) {
	scene.Require(t, "setpriv", "ptrace by an ordinary user")
	said := play(t, asNobody(t), "doctor").said
	var list []Check
	if err := json.Unmarshal([]byte(said), &list); err != nil {
		t.Fatalf("%s: %v", said, err)
	}
	checks := byName(t, list)
	for name, want := range map[string]bool{"ptrace": true, "memory": true, "cap_sys_ptrace": false, "map_files": false} {
		c, ok := checks[name]
		if !ok || c.OK != want {
			t.Errorf("%s: %+v, want OK %v", name, c, want)
		}
	}
	wantSaid(t, checks["cap_sys_ptrace"].Remedy, "run with sudo", "setcap cap_sys_ptrace=ep")
}

// A proc that can't be read is said, and nothing else tried.
func TestRunWithoutProc(t *testing.T) {
	checks := Run(procview.New(filepath.Join(t.TempDir(), "proc")), os.Getenv)
	if len(checks) != 1 || checks[0].OK || !checks[0].Needed {
		t.Errorf("%+v", checks)
	}
}

func TestYamaCheck(t *testing.T) {
	for _, tc := range []struct {
		scope      int
		privileged bool
		ok         bool
		remedy     string
	}{
		{-1, false, true, ""}, {0, false, true, ""},
		{1, false, false, "sudo sysctl kernel.yama.ptrace_scope=0, or run with sudo"}, {1, true, true, ""},
		{2, false, false, "run with sudo"}, {2, true, true, ""},
		{3, true, false, "only a restart of the machine takes that back"},
	} {
		c := yamaCheck(tc.scope, tc.privileged, "run with sudo")
		if c.OK != tc.ok || c.Remedy != tc.remedy {
			t.Errorf("scope %d, privileged %v: %+v", tc.scope, tc.privileged, c)
		}
	}
}

func TestKernelCheck(t *testing.T) {
	for _, tc := range []struct {
		release string
		parsed  bool
		ok      bool
		want    string
	}{
		{"3.3.8", true, false, "5.3"}, {"5.2.0-1-amd64", true, false, "5.3"}, {"5.3", true, true, "6.16"},
		{"6.15.0-rc1+", true, true, "in place of"}, {"6.16.1", true, true, "PTRACE_SET_SYSCALL_INFO"}, {"7.0.0", true, true, "PTRACE_SET_SYSCALL_INFO"},
		{"", false, false, ""}, {"6", false, false, ""}, {"x.y", false, false, ""},
	} {
		major, minor, parsed := release(tc.release)
		if parsed != tc.parsed {
			t.Errorf("%q: %d %d %v", tc.release, major, minor, parsed)
		}
		if !parsed {
			continue
		}
		if c := kernelCheck(Check{}, tc.release, major*1000+minor); c.OK != tc.ok || !strings.Contains(c.Detail, tc.want) || c.OK == (c.Remedy != "") {
			t.Errorf("%q: %+v", tc.release, c)
		}
	}
}
