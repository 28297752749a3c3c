package tracer

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// hungThread makes the calls of a plan on a descriptor table of its own. The
// call of number failAt fails.
type hungThread struct {
	table  map[uint64]string // what descriptors mean; "+x" is close-on-exec
	names  map[uint64]string // of system calls
	log    []string
	failAt int
}

func newHungThread(t *testing.T, calls *decode.Table) *hungThread {
	t.Helper()
	h := &hungThread{table: map[uint64]string{0: "tty", 1: "tty", 2: "tty", 16: "pipe+x"}, names: map[uint64]string{}, failAt: -1}
	for _, name := range []string{"openat", "fcntl", "dup3", "close"} {
		nr, ok := calls.Number(name)
		if !ok {
			t.Fatalf("no number of %s", name)
		}
		h.names[nr] = name
	}
	return h
}

func (h *hungThread) free() (fd uint64) {
	for ; h.table[fd] != ""; fd++ {
	}
	return fd
}

func (h *hungThread) CallPath(nr uint64, path string, place int, args ...uint64) (int64, error) {
	return h.call(nr, path, args)
}

func (h *hungThread) Call(nr uint64, args ...uint64) (int64, error) { return h.call(nr, "", args) }

func (h *hungThread) call(nr uint64, path string, args []uint64) (int64, error) {
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = fmt.Sprint(int64(a))
	}
	name := h.names[nr]
	if path != "" {
		words[1] = path
	}
	h.log = append(h.log, name+"("+strings.Join(words, ", ")+")")
	if len(h.log)-1 == h.failAt {
		return -1, unix.EMFILE
	}
	cloexec := func(what string, flag bool) string {
		what = strings.TrimSuffix(what, "+x")
		if flag {
			what += "+x"
		}
		return what
	}
	switch {
	case name == "openat":
		fd := h.free()
		h.table[fd] = cloexec(path, args[2]&unix.O_CLOEXEC != 0)
		return int64(fd), nil
	case h.table[args[0]] == "":
		return -1, unix.EBADF
	case name == "fcntl" && args[1] == unix.F_GETFD && strings.HasSuffix(h.table[args[0]], "+x"):
		return unix.FD_CLOEXEC, nil
	case name == "fcntl" && args[1] == unix.F_DUPFD_CLOEXEC:
		fd := h.free()
		h.table[fd] = cloexec(h.table[args[0]], true)
		return int64(fd), nil
	case name == "dup3":
		h.table[args[1]] = cloexec(h.table[args[0]], args[2] == unix.O_CLOEXEC)
		return int64(args[1]), nil
	case name == "close":
		delete(h.table, args[0])
	}
	return 0, nil
}

// plannedSteps are such as analyze plans.
func plannedSteps() []event.Step {
	call := func(result event.Result, name string, args ...event.Text) *event.PlannedCall {
		return &event.PlannedCall{Name: name, Args: args, Result: result}
	}
	return []event.Step{
		{Kind: event.StepAttach, TID: 7, FD: event.Some[event.FD](16)},
		{Kind: event.StepOpen, TID: 7, Expect: &event.Target{Kind: event.Memfd, Dev: 1, Ino: 2},
			Call: call(event.ResultOpened, "openat", "AT_FDCWD", "/proc/9/fd/4", "O_RDONLY|O_CLOEXEC|O_NOCTTY|O_NONBLOCK"), UndoCall: call("", "close", "$opened")},
		{Kind: event.StepUnblock, TID: 7, Call: call("", "fcntl", "$opened", "F_SETFL", "0")},
		{Kind: event.StepFlags, TID: 7, Call: call(event.ResultCloexec, "fcntl", "16", "F_GETFD")},
		{Kind: event.StepKeep, TID: 7, Call: call(event.ResultKept, "fcntl", "16", "F_DUPFD_CLOEXEC", "0"), UndoCall: call("", "close", "$kept")},
		{Kind: event.StepReplace, TID: 7, Call: call("", "dup3", "$opened", "16", "$cloexec"), UndoCall: call("", "dup3", "$kept", "16", "$cloexec")},
		{Kind: event.StepClose, TID: 7, Call: call("", "close", "$opened")},
		{Kind: event.StepClose, TID: 7, Call: call("", "close", "$kept")},
		{Kind: event.StepResume, TID: 7},
		{Kind: event.StepGuard},
	}
}

func carriedOut(t *testing.T, h *hungThread, calls *decode.Table, is event.Target) error {
	t.Helper()
	threads := threadRepairs(&event.Plan{PID: 7, Steps: plannedSteps()})
	if len(threads) != 1 || threads[0].TID != 7 || threads[0].FD != 16 || len(threads[0].steps) != 9 {
		t.Fatalf("%+v", threads)
	}
	c := &plannedCalls{caller: h, pid: 7, calls: calls, target: func(event.FD) event.Target { return is }, results: map[event.Result]int64{}}
	return c.all(threads[0].steps)
}

// The calls that are made are those of the plan.
func TestPlannedCalls(t *testing.T) {
	calls, err := decode.ForArch(Arch)
	if err != nil {
		t.Fatal(err)
	}
	right := event.Target{Kind: event.Memfd, Dev: 1, Ino: 2}
	h := newHungThread(t, calls)
	if err := carriedOut(t, h, calls, right); err != nil {
		t.Error(err)
	}
	want := []string{
		fmt.Sprintf("openat(-100, /proc/9/fd/4, %d)", unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK),
		fmt.Sprintf("fcntl(3, %d, 0)", unix.F_SETFL),
		fmt.Sprintf("fcntl(16, %d)", unix.F_GETFD),
		fmt.Sprintf("fcntl(16, %d, 0)", unix.F_DUPFD_CLOEXEC),
		fmt.Sprintf("dup3(3, 16, %d)", unix.O_CLOEXEC),
		"close(3)",
		"close(4)",
	}
	if !slices.Equal(h.log, want) {
		t.Errorf("calls %q, want %q", h.log, want)
	}
	if now := map[uint64]string{0: "tty", 1: "tty", 2: "tty", 16: "/proc/9/fd/4+x"}; !maps.Equal(h.table, now) {
		t.Errorf("descriptors %v, want %v", h.table, now)
	}
}

// Wherever it fails, the descriptors are as they were.
func TestPlanIsUndone(t *testing.T) {
	calls, err := decode.ForArch(Arch)
	if err != nil {
		t.Fatal(err)
	}
	right := event.Target{Kind: event.Memfd, Dev: 1, Ino: 2}
	for failAt := range 7 {
		h := newHungThread(t, calls)
		h.failAt = failAt
		before := maps.Clone(h.table)
		err := carriedOut(t, h, calls, right)
		if !errors.Is(err, unix.EMFILE) || !maps.Equal(h.table, before) {
			t.Errorf("call %d fails: %v, descriptors %v, were %v; calls %q", failAt, err, h.table, before, h.log)
		}
	}
	h := newHungThread(t, calls)
	before := maps.Clone(h.table)
	if err := carriedOut(t, h, calls, event.Target{Kind: event.Memfd, Dev: 1, Ino: 3}); err == nil || !maps.Equal(h.table, before) {
		t.Errorf("another file: %v, descriptors %v, were %v", err, h.table, before)
	}
	// What cannot be undone is said.
	h = newHungThread(t, calls)
	h.failAt = 6
	steps := plannedSteps()
	steps[5].UndoCall.Args[1] = "many"
	c := &plannedCalls{caller: h, calls: calls, target: func(event.FD) event.Target { return right }, results: map[event.Result]int64{}}
	if err := c.all(steps); err == nil || !strings.Contains(err.Error(), `undo: dup3($kept, many, $cloexec)`) {
		t.Errorf("error %v", err)
	}
}
