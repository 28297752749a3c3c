package scene

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// markName is the variable that marks each process of a scene and, since it is
// inherited, whatever that process starts: a debugger's inferiors, a manager's
// executors, also when their parent has gone.
const markName = "WHOSEFD_SCENE"

var (
	marks     atomic.Uint64
	thisScene = sync.OnceValues(func() (string, error) {
		random := make([]byte, 16)
		if _, err := rand.Read(random); err != nil {
			return "", fmt.Errorf("make a mark: %w", err)
		}
		if err := keepDescriptors(); err != nil {
			return "", err
		}
		prefix := markName + "=" + hex.EncodeToString(random) + "."
		return prefix, startWatchdog(prefix)
	})
)

// keepDescriptors lets no child inherit a descriptor that this process was given
// by chance, by a shell or a make: it would shift the numbers of gdb's own, on
// which it depends what gdb does. What Go opens is close-on-exec anyway.
func keepDescriptors() error {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("keep inherited descriptors from children: %w", err)
	}
	for _, entry := range fds {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			return fmt.Errorf("keep inherited descriptors from children: %w", err)
		}
		if fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}

// newMark returns an environment variable (NAME=VALUE) that no process has yet.
func newMark() (string, error) {
	prefix, err := thisScene()
	if err != nil {
		return "", err
	}
	return prefix + strconv.FormatUint(marks.Add(1), 10) + ".", nil
}

// watchdog's standard input is a pipe from this process, so it reads its end when
// this process has ended, however it ended. It then kills what is left.
const watchdog = `read -r _
for round in 1 2 3; do
	for file in $(grep -alFs -e "$1" /proc/[0-9]*/environ); do
		pid=${file%/environ}
		kill -KILL "${pid#/proc/}"
	done
done`

func startWatchdog(prefix string) error {
	cmd := exec.Command("sh", "-c", watchdog, "sh", prefix)
	cmd.Env = without(os.Environ(), markName)
	cmd.Dir = "/"
	// In a session of its own, so that a Ctrl-C that ends this process leaves
	// the watchdog to its work.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if _, err := cmd.StdinPipe(); err != nil {
		return fmt.Errorf("start the watchdog: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the watchdog: %w", err)
	}
	// Waited for not for its end, which this process does not see, but so that
	// cmd and with it the pipe stay referenced: the collector would close it.
	go func() { _ = cmd.Wait() }()
	return nil
}

// marked returns the processes that carry a mark, sorted.
func marked(mark string) []int {
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		panic(err) // only for a bad pattern
	}
	var pids []int
	for _, file := range files {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil || !hasMark(pid, mark) {
			continue
		}
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	return pids
}

// hasMark is false for a process that is gone, is a zombie, or belongs to
// somebody else: none of those is one that a scene has to end.
func hasMark(pid int, mark string) bool {
	env, err := os.ReadFile(procPath(pid, "environ"))
	if err != nil {
		return false
	}
	for variable := range bytes.SplitSeq(env, []byte{0}) {
		// With the final dot, no mark is the beginning of another one.
		if bytes.HasPrefix(variable, []byte(mark)) {
			return true
		}
	}
	return false
}

// killMarked kills the processes that carry a mark until none is left.
func killMarked(mark string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		pids := marked(mark)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v outlive SIGKILL", pids)
		}
		for _, pid := range pids {
			// The handle (a pidfd) first, then the mark again: it cannot be
			// another process with the same number that is killed.
			process, err := os.FindProcess(pid)
			if err != nil {
				continue
			}
			if hasMark(pid, mark) {
				// Fails only if it has ended by itself.
				_ = process.Kill()
			}
			_ = process.Release()
		}
		time.Sleep(5 * time.Millisecond)
	}
}
