package scene

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// Require skips the test unless all that it needs is there:
//
//   - what a machine may be unable to do, by its name in abilities. It is tried
//     once, and where it fails the test is skipped, in CI too.
//   - "root", user 0, and "ptrace", the permission to trace a process that this
//     one has started. Without them nearly nothing could be tested, so with
//     WHOSEFD_REQUIRE=1 in the environment the test fails instead.
//   - anything else is a program on the PATH, which a package provides, or
//     "gcc -m32", a compiler with a C library of 32 bits. The same holds for them.
//
// Each skip is noted in the file that WHOSEFD_SKIPPED names: .ci/test counts them.
func Require(t TB, what ...string) {
	t.Helper()
	for _, w := range what {
		if try, ok := abilities[w]; ok {
			if err := try(); err != nil {
				Skip(t, w, err)
			}
			continue
		}
		if err := lacks(w); err != nil {
			if os.Getenv("WHOSEFD_REQUIRE") == "1" {
				t.Fatalf("WHOSEFD_REQUIRE=1, but %v", err)
			}
			Skip(t, w, err)
		}
	}
}

// Optional skips the test where a program is missing that is too big, or in too
// few distributions, to be asked for, in CI either.
func Optional(t TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		Skip(t, program, err)
	}
}

// Skip skips the test for want of something, and notes that.
func Skip(t TB, lacking string, why error) {
	t.Helper()
	if name := os.Getenv("WHOSEFD_SKIPPED"); name != "" {
		f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = fmt.Fprintln(f, lacking)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatalf("note that the test is skipped: %v", err)
		}
	}
	t.Skipf("no %s: %v", lacking, why)
}

// abilities are what the kernel, or the container around it, may not have or not
// permit. Each is tried by doing it.
var abilities = map[string]func() error{
	"32-bit programs": func() error { _, err := try32(); return err },
	"fuse":            sync.OnceValue(tryFUSE),
	"mount":           tryScript("", `dir=$(mktemp -d) && { mount -t tmpfs none "$dir" && umount "$dir"; code=$?; rmdir "$dir"; exit $code; }`),
	// In a chroot whose root is no mount point, unshare(1) can't keep its mounts private.
	"mount namespaces": tryScript("unshare --mount", "mount -t tmpfs none /tmp"),
	"pid namespaces":   tryScript("unshare --mount --pid --fork --mount-proc", `test "$$" = 1`),
	"user namespaces":  tryScript(nobody+" unshare --user --map-root-user --mount", "mount -t tmpfs none /tmp"),
	"rootless containers": tryScript(nobody+" unshare --user --map-root-user --mount --pid --fork --mount-proc --uts --ipc --net",
		`test "$$" = 1`),
	"network namespaces": tryScript("unshare --net", "ip link add v0 type veth peer name v1"),
	// Of processors that are younger than it, gdb may not know them all (XSAVE with AMX, gdb 13).
	"gdb that writes all registers": tryScript("", `case $(uname -m) in x86_64) r='$xmm0.uint128' ;; *) r='$x1' ;; esac
		gdb -nx -batch -ex starti -ex "print $r = 1" expr </dev/null 2>&1 | grep -q ' = 1$'`),
	"a choice of pids": tryScript("unshare --mount --pid --fork", "echo 100 >/proc/sys/kernel/ns_last_pid"),
	"overlayfs": tryScript("unshare --mount", `mount -t tmpfs none /tmp && cd /tmp && mkdir lower upper work merged &&
		mount -t overlay none -o lowerdir=lower,upperdir=upper,workdir=work merged`),
	"btrfs": tryScript("unshare --mount", `mount -t tmpfs none /tmp && cd /tmp && mkdir mount && truncate -s 120M image &&
		mkfs.btrfs -q image && mount -o loop image mount`),
	// proc_sys_kernel(5): core_pattern may lead them elsewhere.
	"core files":                   tryScript("", `dir=$(mktemp -d) && cd "$dir" && { (ulimit -c unlimited; kill -SEGV $(sh -c 'echo $PPID')); ls core*; code=$?; rm -r "$dir"; exit $code; }`),
	"map_files":                    tryScript("", `set -- /proc/$$/map_files/* && true <"$1"`),
	"ptrace by an ordinary user":   tryScript(nobody, `sleep 100 & true </proc/$!/mem; code=$?; kill $!; exit $code`),
	"restrictions by Yama (1, 2)":  tryScript("", `grep -qx '[12]' /proc/sys/kernel/yama/ptrace_scope`),
	"kernel threads that are seen": tryScript("", `grep -qx kthreadd /proc/2/comm`),
	"amd64": func() error {
		if runtime.GOARCH != "amd64" {
			return errors.New(runtime.GOARCH)
		}
		return nil
	},
	"a second CPU": func() error {
		if runtime.NumCPU() < 2 {
			return errors.New("there is one")
		}
		return nil
	},
}

const nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups"

// tryScript runs a shell script, behind a launcher, once. Its programs are
// required by themselves.
func tryScript(launcher, script string) func() error {
	return sync.OnceValue(func() error {
		cmd := exec.Command("sh", "-c", launcher+` sh -c "$0"`, script)
		cmd.Dir = "/"
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s sh -c '%s': %w: %s", launcher, script, err, out)
		}
		return nil
	})
}

func lacks(what string) error {
	switch what {
	case "ptrace":
		return tryPtrace()
	case "root":
		if uid := os.Geteuid(); uid != 0 {
			return fmt.Errorf("this needs root, and runs as user %d", uid)
		}
		return nil
	case "gcc -m32":
		err, _ := try32()
		return err
	default:
		_, err := exec.LookPath(what)
		return err
	}
}

// tryPtrace attaches to a child and detaches again. A container's seccomp
// filter, or Yama's kernel.yama.ptrace_scope of 2 or 3, can forbid it.
var tryPtrace = sync.OnceValue(func() (err error) {
	// All calls on a tracee must come from the thread that attached.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("try ptrace: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("try ptrace: %w", err)
	}
	defer func() {
		in.Close()
		// Killed, since it may be stopped: where the attach met the end of its
		// exec, both SIGSTOP and SIGTRAP were pending, and the second one comes
		// after the detach. How it ends says nothing here.
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if err := syscall.PtraceAttach(cmd.Process.Pid); err != nil {
		return fmt.Errorf("ptrace is not permitted: attach to a child: %w", err)
	}
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(cmd.Process.Pid, &status, syscall.WALL, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("try ptrace: wait for the child's stop: %w", err)
		}
		break
	}
	if err := syscall.PtraceDetach(cmd.Process.Pid); err != nil {
		return fmt.Errorf("try ptrace: detach from a child: %w", err)
	}
	return nil
})
