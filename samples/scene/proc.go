package scene

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

func procPath(pid int, parts ...string) string {
	return filepath.Join(append([]string{"/proc", strconv.Itoa(pid)}, parts...)...)
}

// readNumber is the number of read(2), in the first field of /proc/PID/syscall.
var readNumber = map[string]string{"amd64": "0", "arm64": "63"}

// sleepingRead is a thread in a read that sleeps. Two that are equal some time
// apart are one and the same read: the thread has not run in between.
type sleepingRead struct {
	fd       int
	link     string // of the descriptor, as in pipe:[123]
	call     string // the line of /proc/PID/syscall
	switches string // voluntary and involuntary, from /proc/PID/status
}

// readIn tells whether the main thread of a process sleeps in a read, by
// proc_pid_syscall(5), which needs the permission to trace it.
func readIn(pid int) (read sleepingRead, ok bool, err error) {
	number, known := readNumber[runtime.GOARCH]
	if !known {
		return read, false, fmt.Errorf("the number of read(2) on %s is not known", runtime.GOARCH)
	}
	call, err := os.ReadFile(procPath(pid, "syscall"))
	if err != nil {
		return read, false, err
	}
	// "running" while it runs, "-1 SP PC" where it is blocked outside of a call,
	// else the number, six arguments, SP and PC, all in hex but the number.
	fields := strings.Fields(string(call))
	if len(fields) != 9 || fields[0] != number {
		return read, false, nil
	}
	fd, err := strconv.ParseUint(fields[1], 0, 64)
	if err != nil {
		return read, false, fmt.Errorf("%s: %w", procPath(pid, "syscall"), err)
	}
	status, err := os.ReadFile(procPath(pid, "status"))
	if err != nil {
		return read, false, err
	}
	if !strings.HasPrefix(statusField(status, "State"), "S") {
		return read, false, nil
	}
	read = sleepingRead{
		fd:   int(int32(fd)), // the kernel looks at 32 bits only
		call: string(call),
		switches: statusField(status, "voluntary_ctxt_switches") + " " +
			statusField(status, "nonvoluntary_ctxt_switches"),
	}
	if read.link, err = os.Readlink(procPath(pid, "fd", strconv.Itoa(read.fd))); err != nil {
		return read, false, err
	}
	return read, true, nil
}

// statusField is the value of a field of /proc/PID/status, "" if it is not there.
func statusField(status []byte, name string) string {
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, name+":"); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// tracees returns the processes that some thread of the tracer traces.
func tracees(tracer int) ([]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, file := range files {
		status, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		// A thread's number: look it up among the tracer's threads.
		tid := statusField(status, "TracerPid")
		if tid == "" || tid == "0" {
			continue
		}
		if _, err := os.Stat(procPath(tracer, "task", tid)); err != nil {
			continue
		}
		pid, err := strconv.Atoi(statusField(status, "Pid"))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}
