package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"whosefd/samples/scene"
)

// field is a line of proc_pid_status(5).
func field(status, name string) string {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// state is what may not change in a process, by promise: of its threads what
// proc_pid_status(5) says, of the process its descriptors.
type state struct {
	signals, cpus, rest map[string]string // by thread and line
	fds                 map[string]string // by number, the links
	terminal            string
}

var (
	signalLines = []string{"SigBlk", "SigIgn", "SigCgt"}
	cpuLines    = []string{"Cpus_allowed_list", "Mems_allowed_list"}
	restLines   = []string{"NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups", "CapEff", "CoreDumping"}
)

// look takes the state of a gdb.
func look(t scene.TB, gdb *scene.Session) state {
	s := state{signals: map[string]string{}, cpus: map[string]string{}, rest: map[string]string{}, fds: map[string]string{}, terminal: gdb.Terminal()}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", gdb.PID))
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", gdb.PID, task.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatalf("%v", err)
		}
		for to, lines := range map[*map[string]string][]string{&s.signals: signalLines, &s.cpus: cpuLines, &s.rest: restLines} {
			for _, line := range lines {
				(*to)[task.Name()+" "+line] = field(string(b), line)
			}
		}
	}
	dir := fmt.Sprintf("/proc/%d/fd", gdb.PID)
	fds, err := os.ReadDir(dir)
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, fd := range fds {
		if link, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil {
			s.fds[fd.Name()] = link
		}
	}
	return s
}

var anyNumber = regexp.MustCompile(`\d+`)

// general is a state without what differs from session to session: ids, and the
// threads by which gdb does its reading of symbols.
func (s state) general(pid int) state {
	g := state{signals: map[string]string{}, cpus: map[string]string{}, rest: map[string]string{}, fds: map[string]string{}, terminal: s.terminal}
	for from, to := range map[*map[string]string]map[string]string{&s.signals: g.signals, &s.cpus: g.cpus, &s.rest: g.rest} {
		for key, v := range *from {
			tid, line, _ := strings.Cut(key, " ")
			if tid == strconv.Itoa(pid) {
				tid = "main"
			} else {
				tid = "others"
			}
			to[tid+" "+line] = v
		}
	}
	for n, link := range s.fds {
		g.fds[n] = anyNumber.ReplaceAllString(link, "N")
	}
	return g
}

// differs says how one map is not the other, "" if it is. A thread that has
// ended, or has begun, is no difference.
func differs(was, is map[string]string, ids bool) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(was)) {
		if v, there := is[k]; there && v != was[k] || !there && ids {
			all = append(all, fmt.Sprintf("%s was %q and is %q", k, was[k], v))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(is)) {
		if _, there := was[k]; !there && ids {
			all = append(all, fmt.Sprintf("%s was not there and is %q", k, is[k]))
		}
	}
	return strings.Join(all, "; ")
}

// Promises, as the table has them.
const (
	untraced  = "gdb is untraced afterwards"
	right     = "its transcript is complete and right, to the program's end"
	givenBack = "a gdb that hangs can be given back, up to the program's end"
	cpuMasks  = "CPU masks are as they were"
	masks     = "signals blocked, ignored and caught are as they were"
	others    = "ids, capabilities and seccomp are as they were"
	stray     = "no descriptor is left in gdb, none is gone"
	terminal  = "terminal settings and foreground group are as they were"
	leftovers = "nothing of whosefd runs on"
	codes     = "whosefd ends in the way that it should, without a dump"
	honest    = "a gdb that hangs is never said to be all right"
	oneTracer = "the inferior is gdb's alone"

	toldDeadlock = "a deadlock is told, with its rule, and never said to be all right"
	calm         = "no healthy session is ever said to hang"
)

// promises are all of them, in the table's order.
var promises = []string{untraced, oneTracer, right, givenBack, cpuMasks, masks, others, terminal, stray, leftovers, codes, honest, toldDeadlock, calm}

// compare holds a state against the one before.
func (r *round) compare(was, is state) {
	r.held(cpuMasks, differs(was.cpus, is.cpus, false))
	r.held(masks, differs(was.signals, is.signals, false))
	r.held(others, differs(was.rest, is.rest, false))
	r.held(stray, differs(was.fds, is.fds, true))
	if was.terminal != is.terminal {
		r.held(terminal, fmt.Sprintf("it was %s and is %s", was.terminal, is.terminal))
	} else {
		r.held(terminal, "")
	}
}

// tracerOf is who traces a process, a thread's id; 0 for nobody, -1 if it is gone.
func tracerOf(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return -1
	}
	tracer, err := strconv.Atoi(field(string(b), "TracerPid"))
	if err != nil {
		return -1
	}
	return tracer
}

// running are the processes that run a program.
func running(exe string) (pids []int) {
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		panic(err) // only for a bad pattern
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.TrimSuffix(to, " (deleted)") == exe {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
