package procview_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"whosefd/samples/scene"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// scriptVar makes this test binary a child that does what the script says, says
// "ready" with what the steps printed, and waits for the end of its input.
const scriptVar = "WHOSEFD_TEST_SCRIPT"

func init() {
	if _, ok := os.LookupEnv(scriptVar); ok {
		runtime.LockOSThread() // the first thread stays main's
	}
}

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == procview.AskerArg {
		procview.AnswerAsker()
		return
	}
	script, ok := os.LookupEnv(scriptVar)
	if !ok {
		os.Exit(m.Run())
	}
	out, err := perform(script)
	if err != nil {
		fmt.Println("failed", err)
		os.Exit(3)
	}
	fmt.Println("ready", out)
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test closes it, or dies
}

func perform(script string) (string, error) {
	var steps [][]string
	if err := json.Unmarshal([]byte(script), &steps); err != nil {
		return "", err
	}
	var out []string
	for _, s := range steps {
		text, err := step(s[0], s[1:])
		if err != nil {
			return "", fmt.Errorf("%q: %w", s, err)
		}
		if text != "" {
			out = append(out, text)
		}
	}
	return strings.Join(out, " "), nil
}

// step is one line of a script. The numbers that descriptors go to are above
// those that the Go runtime uses.
func step(what string, args []string) (string, error) {
	num := func(i int) int { n, _ := strconv.Atoi(args[i]); return n }
	place := func(fd int, err error, to int) error {
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Dup3(fd, to, 0)
	}
	switch what {
	case "open": // NAME FD: without blocking, so that it also opens FIFOs
		fd, err := unix.Open(args[0], unix.O_RDWR|unix.O_NONBLOCK, 0)
		return "", place(fd, err, num(1))
	case "opendir": // NAME FD
		fd, err := unix.Open(args[0], unix.O_RDONLY|unix.O_DIRECTORY, 0)
		return "", place(fd, err, num(1))
	case "chdir":
		return "", unix.Chdir(args[0])
	case "chroot":
		return "", unix.Chroot(args[0])
	case "mount": // SOURCE TARGET TYPE
		return "", unix.Mount(args[0], args[1], args[2], 0, "")
	case "bind": // SOURCE TARGET
		return "", unix.Mount(args[0], args[1], "", unix.MS_BIND, "")
	case "private": // keeps our mounts to this namespace
		return "", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	case "thread": // a thread of its own; prints its id
		return onThread(func() error { return nil })
	case "busy": // a thread that never waits; prints its id
		ch := make(chan int)
		go func() {
			runtime.LockOSThread()
			ch <- unix.Gettid()
			for n := uint64(1); n != 0; n += 2 { // odd: never 0
			}
		}()
		return strconv.Itoa(<-ch), nil
	case "unshared": // NAME FD: opened in a thread with its own descriptor table
		return onThread(func() error {
			if err := unix.Unshare(unix.CLONE_FILES); err != nil {
				return err
			}
			fd, err := unix.Open(args[0], unix.O_RDWR|unix.O_NONBLOCK, 0)
			return place(fd, err, num(1))
		})
	case "elsewhere": // NAME: a thread with its own current directory
		return onThread(func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			return unix.Chdir(args[0])
		})
	case "trace": // PID TID: traces one thread, from a thread that is not the first
		return onThread(func() error {
			if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(num(1)), 0, 0, 0, 0); errno != 0 {
				return errno
			}
			return nil
		})
	case "comm":
		return "", os.WriteFile("/proc/self/comm", []byte(args[0]), 0)
	case "resolve": // PID NAME…: marks the beginning for who watches our calls
		_ = unix.Access("/begin", unix.F_OK)
		v := procview.New("/proc")
		var errs []string
		for _, name := range args[1:] {
			t := v.Resolve(event.PID(num(0)), event.TID(num(0)), name)
			errs = append(errs, string(t.Kind)+":"+t.Error)
		}
		_ = unix.Access("/end", unix.F_OK)
		return strings.Join(errs, " "), nil
	case "look": // PID DEV INO: what a user may see of a process
		dev, _ := strconv.ParseUint(args[1], 10, 64)
		ino, _ := strconv.ParseUint(args[2], 10, 64)
		b, err := json.Marshal(lookAs(event.PID(num(0)), event.Target{Kind: event.FIFO, Dev: dev, Ino: ino}))
		return string(b), err
	}
	return "", errors.New("no such step")
}

// onThread runs f in a thread that then stays for good.
func onThread(f func() error) (string, error) {
	type result struct {
		tid int
		err error
	}
	ch := make(chan result)
	go func() {
		runtime.LockOSThread()
		err := f()
		ch <- result{unix.Gettid(), err}
		select {}
	}()
	go func() { // else "all goroutines are asleep" while main is in a read
		select {}
	}()
	r := <-ch
	return strconv.Itoa(r.tid), r.err
}

// child is a process that has performed a script.
type child struct {
	pid event.PID
	out []string // what its steps printed
}

func (c child) tid(i int) event.TID {
	n, _ := strconv.Atoi(c.out[i])
	return event.TID(n)
}

// start starts a child and waits until it is ready.
func start(t testing.TB, attr *syscall.SysProcAttr, steps ...[]string) child {
	t.Helper()
	return startVia(t, nil, attr, steps...)
}

func startVia(t testing.TB, via []string, attr *syscall.SysProcAttr, steps ...[]string) child {
	t.Helper()
	script, err := json.Marshal(steps)
	if err != nil {
		t.Fatal(err)
	}
	args := append(via, "/proc/self/exe") // its folder is not open to every user
	if len(via) > 0 {
		if args[len(args)-1], err = os.Executable(); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), scriptVar+"="+string(script))
	cmd.SysProcAttr = attr
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	fields := strings.Fields(line)
	if err != nil || fields[0] != "ready" {
		t.Fatalf("child: %q, %v", line, err)
	}
	return child{event.PID(cmd.Process.Pid), fields[1:]}
}

func needRoot(t testing.TB) {
	t.Helper()
	scene.Require(t, "root")
}

// view is the real /proc.
func view() *procview.View { return procview.New("/proc") }

// identity is what stat(2) says of a name, in our own context.
func identity(t testing.TB, name string) event.Target {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		t.Fatalf("stat %s: %v", name, err)
	}
	return event.Target{Dev: st.Dev, Ino: st.Ino}
}

func write(t testing.TB, name string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(name), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func self() event.PID { return event.PID(os.Getpid()) }
