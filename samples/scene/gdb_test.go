package scene

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stop is where gdb stops if it has read the file that the inferior has mapped.
const stop = `foo \(x=21\) at lib\.c:1\r\n`

// holders returns the processes that have a pipe open for writing.
func holders(t *testing.T, link string) []int {
	t.Helper()
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, path := range fds {
		if target, err := os.Readlink(path); err != nil || target != link {
			continue
		}
		info, err := os.ReadFile(strings.Replace(path, "/fd/", "/fdinfo/", 1))
		if err != nil {
			continue // closed meanwhile
		}
		flags, err := strconv.ParseUint(statusField(info, "flags"), 8, 64)
		if err != nil {
			t.Fatal(err)
		}
		if flags&3 == 0 { // O_ACCMODE, O_RDONLY: fcntl.h
			continue
		}
		pid, err := strconv.Atoi(strings.Split(path, "/")[2])
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(pids, pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// checkHang proves that gdb's read can never end, and that Ctrl-C does not help.
func checkHang(t *testing.T, s *Session, fd int) {
	t.Helper()
	read, ok, err := readIn(s.PID)
	if err != nil || !ok || read.fd != fd {
		t.Fatalf("gdb (pid %d) is not in a read of descriptor %d (%+v, %v)", s.PID, fd, read, err)
	}
	if got := holders(t, read.link); !slices.Equal(got, []int{s.PID}) {
		t.Errorf("%s is held for writing by %v, not by gdb (pid %d) alone", read.link, got, s.PID)
	}
	s.Interrupt()
	Eventually(t, "SIGINT has woken gdb, or waits for the inferior, which is stopped", func() bool {
		now, _, err := readIn(s.PID)
		return err == nil && now.switches != read.switches || pending(t, s.Inferior(), syscall.SIGINT)
	})
	if again := s.WaitBlocked(Patience); again != fd {
		t.Errorf("after Ctrl-C it reads descriptor %d, not %d", again, fd)
	}
}

// pending says whether a process has yet to take a signal (ShdPnd in proc_pid_status(5)).
func pending(t *testing.T, pid int, signal syscall.Signal) bool {
	t.Helper()
	status, err := os.ReadFile(procPath(pid, "status"))
	if err != nil {
		t.Fatal(err)
	}
	set, err := strconv.ParseUint(statusField(status, "ShdPnd"), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return set>>(signal-1)&1 != 0
}

func TestHang(t *testing.T) {
	for _, args := range []string{
		"",
		"--msync",
		"--fd 3",
		"--fd 5",
		"--fd 6",
		"--fd 7",
		"--fd 8",
		"--fd 9",
		"--name thread-self",
		"--name dev-fd",
		"--thread",
		"--threads 4",
		"--tmpfile",
		"--copies 3",
	} {
		t.Run("from_memory "+args, func(t *testing.T) {
			s := Debug(t, "from_memory", strings.Fields(args)...)
			checkHang(t, s, s.WaitBlocked(Patience))
			inferior := s.Inferior()
			if exe, err := os.Readlink(procPath(inferior, "exe")); err != nil || filepath.Base(exe) != "from_memory" {
				t.Errorf("the inferior runs %q (%v)", exe, err)
			}
		})
	}
}

func TestHangAttached(t *testing.T) {
	for _, args := range []string{
		"",
		"--fd 7",
		"--after close",
		"--after reuse",
	} {
		t.Run("from_memory "+args, func(t *testing.T) {
			s, p := HangAttached(t, strings.Fields(args)...)
			checkHang(t, s, s.WaitBlocked(Patience))
			if inferior := s.Inferior(); inferior != p.PID {
				t.Errorf("the inferior is %d, not %d", inferior, p.PID)
			}
			s.Kill()
			// The process that gdb has attached to is not gdb's, and goes on.
			if !hasMark(p.PID, p.mark) {
				t.Errorf("pid %d ended with gdb", p.PID)
			}
		})
	}
}

// TestNoHang debugs what gdb can handle, launched and to the end.
func TestNoHang(t *testing.T) {
	for _, command := range []string{"from_file", "from_memory --cure", "from_memory --cure --thread"} {
		t.Run(command, func(t *testing.T) {
			words := strings.Fields(command)
			s := Debug(t, words[0], words[1:]...)
			s.Expect(stop)
			s.Expect(Prompt)
			if shown := s.Command("continue"); !strings.Contains(shown, "foo(21) = 42\r\n") {
				t.Errorf("continue shows %q", shown)
			}
			s.Send("quit 7")
			if code := s.Wait(); code != 7 {
				t.Errorf("exit code %d, want 7", code)
			}
			if left := marked(s.mark); len(left) != 0 {
				t.Errorf("processes %v are left", left)
			}
		})
	}
}

// TestNoHangAttached lets an attached, cured program go by its variable.
func TestNoHangAttached(t *testing.T) {
	s, p := Attach(t, "--cure")
	s.Expect(Prompt)
	s.Command("break foo")
	s.Command("set var whosefd_wait = 0")
	s.Send("continue")
	s.Expect(stop)
	s.Expect(Prompt)
	s.Command("detach")
	if code := p.Wait(); code != 0 || !strings.HasSuffix(p.Out(), "foo(21) = 42\n") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, p.Out(), p.Err())
	}
}

// TestWaitBefore attaches before the library is there.
func TestWaitBefore(t *testing.T) {
	p := StartSample(t, "from_memory", "--wait-before")
	p.WaitReady()
	s := StartGDB(t, GDB{Args: []string{"-p", strconv.Itoa(p.PID)}})
	s.Expect(Prompt)
	s.Command("set var whosefd_wait = 0")
	s.Send("continue")
	checkHang(t, s, s.WaitBlocked(Patience))
}

// TestRelative is the relative name of a library: gdb runs in another folder
// than the one to which the program has changed.
func TestRelative(t *testing.T) {
	program := filepath.Join(Build(t), "from_file")
	s := StartGDB(t, GDB{Args: []string{"--args", program, "--relative"}, Dir: "/"})
	s.Expect(Prompt)
	s.Command("break foo")
	s.Send("run")
	s.Expect(`Could not load shared library symbols for \./lib\.so`)
	s.Expect(`foo\(21\) = 42`)
}

func TestHungExecutor(t *testing.T) {
	r := RFaaS(t, "--wait")
	s := StartGDB(t, GDB{Args: []string{"-p", strconv.Itoa(r.Executor)}})
	checkHang(t, s, s.WaitBlocked(Patience))
	s.Kill()
	if !hasMark(r.Executor, r.Manager.mark) {
		t.Errorf("executor %d ended with gdb", r.Executor)
	}
}

func TestCuredExecutor(t *testing.T) {
	r := RFaaS(t, "--wait", "--cure", "--clients", "1")
	s := StartGDB(t, GDB{Args: []string{"-p", strconv.Itoa(r.Executor)}})
	s.Expect(Prompt)
	s.Command("break foo")
	s.Command("set var executor_wait = 0")
	s.Send("continue")
	s.Expect(stop)
	s.Expect(Prompt)
	s.Command("detach")
	if code := r.Client.Wait(); code != 0 || r.Client.Out() != "foo(21) = 42\n" {
		t.Errorf("client: exit code %d, stdout %q, stderr %q", code, r.Client.Out(), r.Client.Err())
	}
	if code := r.Manager.Wait(); code != 0 {
		t.Errorf("manager: exit code %d, stderr %q", code, r.Manager.Err())
	}
}

// TestJobControl is Ctrl-C in the inferior, which needs a controlling terminal.
func TestJobControl(t *testing.T) {
	s := Debug(t, "from_file", "--wait")
	s.Expect(`(?m)^ready \d+\r$`)
	s.Interrupt()
	s.Expect(`received signal SIGINT`)
	s.Expect(Prompt)
	s.Command("set var whosefd_wait = 0")
	s.Send("continue")
	s.Expect(stop)
}

func TestAwaitBlockedHealthy(t *testing.T) {
	s := StartGDB(t, GDB{})
	s.Expect(Prompt)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if fd, err := s.AwaitBlocked(ctx); err == nil {
		t.Errorf("a gdb at its prompt is said to hang in a read of descriptor %d", fd)
	}
	s.Send("quit")
	s.Wait()
	if fd, err := s.AwaitBlocked(context.Background()); err == nil {
		t.Errorf("a gdb that has ended is said to hang in a read of descriptor %d", fd)
	}
}

func TestLauncher(t *testing.T) {
	program := filepath.Join(Build(t), "from_memory")
	s := StartGDB(t, GDB{
		// A shell that waits for its child, as a launcher that traces does.
		Launcher: []string{"sh", "-c", `"$@"; exit $?`, "sh"},
		Args:     []string{"--args", program},
	})
	if s.PID == s.Launcher {
		t.Errorf("gdb is said to be its launcher, %d", s.PID)
	}
	s.Expect(Prompt)
	s.Send("run")
	s.WaitBlocked(Patience)
	s.Kill()
	if left := marked(s.mark); len(left) != 0 {
		t.Errorf("processes %v are left", left)
	}
}

// TestKillEndsAll leaves nothing of a hung gdb, nor of a process that it has
// started and let go.
func TestKillEndsAll(t *testing.T) {
	s := Debug(t, "from_file", "--wait")
	s.Expect(`(?m)^ready \d+\r$`)
	s.Interrupt()
	s.Expect(`SIGINT`)
	s.Expect(Prompt)
	inferior := s.Inferior()
	s.Command("detach")
	s.Send("quit")
	s.Wait()
	if !hasMark(inferior, s.mark) {
		t.Fatalf("the inferior (pid %d) ended too early for this test", inferior)
	}
	s.Kill()
	if left := marked(s.mark); len(left) != 0 {
		t.Errorf("processes %v are left", left)
	}
}

// TestNumbers checks numbers on which gdb reads no pipe: its terminal, and
// descriptors that it does not have.
func TestNumbers(t *testing.T) {
	for _, test := range []struct {
		fd   int
		want string
	}{
		{0, `/proc/self/fd/0': not in executable format`},
		{20, `Could not load shared library symbols for /proc/self/fd/20`},
		{60, `Could not load shared library symbols for /proc/self/fd/60`},
	} {
		t.Run(fmt.Sprintf("from_memory --fd %d", test.fd), func(t *testing.T) {
			s := Debug(t, "from_memory", "--fd", strconv.Itoa(test.fd))
			s.Expect(test.want)
			s.Expect(`exited normally`)
		})
	}
}
