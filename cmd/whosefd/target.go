package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"whosefd/analyze/report"
	"whosefd/tracer"
	"whosefd/tracer/event"
)

// target is a process that the user means: by number, by name, or not at all.
type target struct {
	pid string // -p
}

func (t *target) flag(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&t.pid, "pid", "p", "", "the debugger: its pid, or its name where that is unique")
}

var errTwoTargets = errors.New("give the process once: as an argument or with -p")

// find gives the process that is meant by -p or the arguments. Without either
// it is the one debugger on this machine that is blocked in a read.
func (t *target) find(a *app, args []string) (event.PID, error) {
	given := t.pid
	if len(args) > 0 {
		if given != "" {
			return 0, errTwoTargets
		}
		if given = args[0]; given == "" {
			return 0, errors.New("the process that is given is an empty text")
		}
	}
	if given == "" {
		return a.theHungOne()
	}
	return a.process(given)
}

// process looks a process up by its number or its name.
func (a *app) process(given string) (event.PID, error) {
	if n, err := strconv.ParseInt(given, 10, 32); err == nil {
		if n <= 0 {
			return 0, fmt.Errorf("pid %s: not a process id", given)
		}
		pid := event.PID(n)
		if tgid, err := a.view.TGID(event.TID(pid)); err == nil {
			return tgid, nil // a thread id means its process
		} else if errors.Is(err, os.ErrNotExist) {
			return 0, fmt.Errorf("pid %d: no such process", pid)
		}
		return pid, nil
	}
	if strings.TrimLeft(given, "0123456789") == "" {
		return 0, fmt.Errorf("pid %s: not a process id", given)
	}
	pids, err := a.view.PIDs()
	if err != nil {
		return 0, fmt.Errorf("look for a process named %q: %w", given, err)
	}
	var found []string
	var last event.PID
	for _, pid := range pids {
		st, err := a.view.Status(pid, event.TID(pid))
		if err == nil && string(st.Name) == given && pid != event.PID(os.Getpid()) {
			found, last = append(found, strconv.Itoa(int(pid))), pid
		}
	}
	switch len(found) {
	case 0:
		return 0, fmt.Errorf("no process is named %q", given)
	case 1:
		return last, nil
	}
	return 0, fmt.Errorf("%d processes are named %q: %s; give one of these pids", len(found), given, strings.Join(found, ", "))
}

// theHungOne finds the one debugger that is blocked in a read, and says so.
func (a *app) theHungOne() (event.PID, error) {
	debuggers, err := tracer.Debuggers(a.view)
	if err != nil {
		return 0, fmt.Errorf("look for debuggers: %w", err)
	}
	var hung []event.Blocked
	var names []string
	for _, pid := range debuggers {
		if b, ok := tracer.BlockedInRead(a.view, pid); ok {
			hung = append(hung, b)
			names = append(names, fmt.Sprintf("%s (pid %d)", report.Clean(string(b.Comm)), pid))
		}
	}
	switch {
	case len(hung) == 1:
		fmt.Fprintf(a.err, "whosefd: looking at %s, the one debugger that is blocked in a read\n", names[0])
		return hung[0].PID, nil
	case len(hung) > 1:
		return 0, fmt.Errorf("%d debuggers are blocked in a read: %s; say which", len(hung), strings.Join(names, ", "))
	case len(debuggers) == 0:
		return 0, errors.New("no debugger is running here that this user may look at; give a pid")
	}
	return 0, errors.New("no debugger is blocked in a read; give a pid (whosefd ps lists the debuggers)")
}
