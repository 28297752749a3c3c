package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"whosefd/analyze"
	"whosefd/analyze/report"
	"whosefd/tracer"
	"whosefd/tracer/event"
)

// target is a process that the user means: by number, by name, or not at all.
type target struct {
	pids []string // -p
}

func (t *target) flag(a *app, cmd *cobra.Command) {
	cmd.Flags().StringSliceVarP(&t.pids, "pid", "p", nil, "the debugger: its pid, or its name where that is unique")
	a.completeProcesses(cmd, "pid")
	a.completeProcesses(cmd, "")
}

var errTwoTargets = errors.New("give the process once: as an argument or with -p")

// find gives the process that is meant by -p or the arguments. Without either
// it is the one debugger on this machine that hangs.
func (t *target) find(a *app, args []string) (event.PID, error) {
	switch given := slices.Concat(t.pids, args); {
	case len(given) == 0:
		return a.theHungOne()
	case len(t.pids) > 0 && len(args) > 0:
		return 0, errTwoTargets
	case len(given) > 1:
		return 0, fmt.Errorf("%d arguments name a process: %s; this command looks at one, run it for each", len(given), strings.Join(given, ", "))
	case given[0] == "":
		return 0, errors.New("the process that is given is an empty text")
	default:
		return a.process(given[0])
	}
}

// several gives the processes where more than one is named, and none else.
func (t *target) several(a *app, args []string) ([]event.PID, error) {
	given := slices.Concat(t.pids, args)
	if len(given) < 2 {
		return nil, nil
	} else if len(t.pids) > 0 && len(args) > 0 {
		return nil, errTwoTargets
	}
	var pids []event.PID
	for _, one := range given {
		pid, err := a.process(one)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(pids, pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// consent says whose the debugger is that was found without being named, where it
// is another user's, and asks on a terminal whether to touch it.
func (t *target) consent(a *app, pid event.PID, args []string) error {
	st, err := a.view.Status(pid, event.TID(pid))
	me := os.Getuid()
	if n, err := strconv.Atoi(a.getenv("SUDO_UID")); err == nil && me == 0 {
		me = n
	}
	if len(t.pids)+len(args) > 0 || err != nil || st.UID[0] == me {
		return nil
	}
	owner := fmt.Sprintf("user %d", st.UID[0])
	if u, err := user.LookupId(strconv.Itoa(st.UID[0])); err == nil {
		owner = u.Username
	}
	a.note("%s (pid %d) belongs to %s", st.Name, pid, owner)
	if a.terminal(a.in) == 0 || a.terminal(a.err) == 0 {
		return nil
	}
	fmt.Fprint(a.err, "Go on? [y/N] ")
	answer, _ := bufio.NewReader(a.in).ReadString('\n') // an end of input is no
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return fmt.Errorf("pid %d was left alone", pid)
	}
	return nil
}

var errNotNamed = errors.New("no process is named")

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
			if _, err := a.view.PIDs(); err != nil {
				return 0, fmt.Errorf("pid %d: %w", pid, err)
			}
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
	var last, ended event.PID
	for _, pid := range pids {
		if st, err := a.view.Status(pid, event.TID(pid)); err != nil || string(st.Name) != given || pid == event.PID(os.Getpid()) {
			continue
		}
		if state, err := a.view.State(pid, a.view.Living(pid)); err == nil && state == "Z" {
			ended = pid // what is typed is not meant for it
			continue
		}
		found, last = append(found, strconv.Itoa(int(pid))), pid
	}
	switch len(found) {
	case 0:
		if ended != 0 {
			return 0, fmt.Errorf("%w %q but pid %d, which has ended", errNotNamed, given, ended)
		}
		if _, err := os.Stat(given); err == nil {
			return 0, fmt.Errorf("%w %q, which is a file: look at files and at processes in runs of their own", errNotNamed, given)
		}
		return 0, fmt.Errorf("%w %q, and there is no such file", errNotNamed, given)
	case 1:
		return last, nil
	}
	return 0, fmt.Errorf("%d processes are named %q: %s; give one of these pids", len(found), given, strings.Join(found, ", "))
}

// theHungOne finds the one debugger that hangs, whatever others wait for; if none is
// seen to, the one that is blocked in a read. It says so.
func (a *app) theHungOne() (event.PID, error) {
	rows, err := a.debuggers(nil)
	if err != nil {
		return 0, fmt.Errorf("look for debuggers: %w", err)
	}
	for _, one := range []struct {
		does string
		is   func(*analyze.PSRow) bool
	}{
		{"hangs", func(r *analyze.PSRow) bool { return r.Effect == analyze.Hang }},
		{"is blocked in a read", func(r *analyze.PSRow) bool { _, ok := tracer.BlockedInRead(a.view, r.PID); return ok }},
	} {
		var found []string
		var last event.PID
		for i := range rows {
			if r := &rows[i]; one.is(r) {
				found, last = append(found, fmt.Sprintf("%s (pid %d)", report.Clean(string(r.Comm)), r.PID)), r.PID
			}
		}
		switch {
		case len(found) == 1:
			a.note("looking at %s, the one debugger that %s", found[0], one.does)
			return last, nil
		case len(found) > 1:
			return 0, fmt.Errorf("%d debuggers are meant, each of which %s: %s; say which", len(found), one.does, strings.Join(found, ", "))
		}
	}
	if len(rows) == 0 {
		return 0, errors.New("no debugger is running here that this user may look at; give a pid")
	}
	return 0, errors.New("no debugger hangs or is blocked in a read; give a pid (whosefd ps lists the debuggers)")
}
