package ptrace

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
)

// fake is a scripted kernel: Wait hands out the script's steps in turn, and
// every request is written to the log, which a test compares as a whole.
type fake struct {
	script []step
	log    []string
	fail   map[string]error // request as in the log, to its error; used up
	panic  string           // entries of the log to panic at
	tasks  map[event.TID]event.PID
	cur    step
}

// step is one return of wait4, with what the kernel then answers.
type step struct {
	tid    event.TID
	status unix.WaitStatus
	err    error
	info   SyscallInfo
	msg    uint64
	in     *Call
	do     func() // something that happens meanwhile
}

func (f *fake) request(format string, args ...any) error {
	s := fmt.Sprintf(format, args...)
	f.log = append(f.log, s)
	if slices.Contains(strings.Split(f.panic, ", "), s) {
		panic("injected")
	}
	if err, ok := f.fail[s]; ok {
		delete(f.fail, s)
		return err
	}
	return nil
}

func (f *fake) Seize(tid event.TID, _ uintptr) error { return f.request("seize %d", tid) }
func (f *fake) Interrupt(tid event.TID) error        { return f.request("interrupt %d", tid) }
func (f *fake) SyscallInfo(tid event.TID, info *SyscallInfo) error {
	*info = f.cur.info
	if err, ok := f.fail[fmt.Sprintf("info %d", tid)]; ok {
		delete(f.fail, fmt.Sprintf("info %d", tid))
		return err
	}
	return nil
}
func (f *fake) Interrupted(tid event.TID) (*Call, error) { return f.cur.in, nil }
func (f *fake) Redo(tid event.TID) error                 { return f.request("redo %d", tid) }
func (f *fake) EventMsg(event.TID) (uint64, error)       { return f.cur.msg, nil }
func (f *fake) Resume(tid event.TID, how How, sig unix.Signal) error {
	return f.request("%s %d %d", [...]string{"syscall", "cont", "listen"}[how], tid, sig)
}
func (f *fake) Detach(tid event.TID, sig unix.Signal) error {
	return f.request("detach %d %d", tid, sig)
}

func (f *fake) Wait(_ event.TID, block bool) (event.TID, unix.WaitStatus, error) {
	if len(f.script) == 0 {
		if block {
			return 0, 0, unix.ECHILD
		}
		return 0, 0, nil
	}
	f.cur, f.script = f.script[0], f.script[1:]
	if f.cur.do != nil {
		f.cur.do()
	}
	return f.cur.tid, f.cur.status, f.cur.err
}

// told is a handler that writes what it is told into the same log.
type told struct {
	f *fake
}

func (h told) say(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	_ = h.f.request("%s", s)
}
func (h told) Begin(t *Thread, in *Call) {
	if in != nil {
		h.say("BEGIN %d in %d", t.TID, in.Nr)
	} else {
		h.say("BEGIN %d", t.TID)
	}
}
func (h told) Enter(t *Thread, _ uint32) { h.say("ENTER %d %d", t.TID, t.Call.Nr) }
func (h told) Exit(t *Thread, ret int64, failed bool) {
	h.say("EXIT %d %d=%d %v", t.TID, t.Call.Nr, ret, failed)
}
func (h told) Leave(t *Thread) { h.say("LEAVE %d", t.TID) }
func (h told) Gone(t *Thread)  { h.say("GONE %d", t.TID) }

// Wait statuses as the kernel makes them.
func exited(code int) unix.WaitStatus        { return unix.WaitStatus(code << 8) }
func killed(sig unix.Signal) unix.WaitStatus { return unix.WaitStatus(sig) }
func signal(sig unix.Signal) unix.WaitStatus { return unix.WaitStatus(int(sig)<<8 | 0x7f) }
func ev(e int, sig unix.Signal) unix.WaitStatus {
	return unix.WaitStatus(e<<16 | int(sig)<<8 | 0x7f)
}

var (
	syscallStatus = signal(unix.SIGTRAP | 0x80)
	trapStatus    = ev(unix.PTRACE_EVENT_STOP, unix.SIGTRAP)
	cloneStatus   = ev(unix.PTRACE_EVENT_CLONE, unix.SIGTRAP)
	execStatus    = ev(unix.PTRACE_EVENT_EXEC, unix.SIGTRAP)
)

func entry(tid event.TID, nr uint64) step {
	return step{tid: tid, status: syscallStatus, info: SyscallInfo{Op: OpEntry, Nr: nr}}
}
func exit(tid event.TID, ret int64) step {
	return step{tid: tid, status: syscallStatus, info: SyscallInfo{Op: OpExit, Ret: ret, Failed: ret < 0}}
}
func trap(tid event.TID) step                   { return step{tid: tid, status: trapStatus} }
func at(tid event.TID, ws unix.WaitStatus) step { return step{tid: tid, status: ws} }
func atMsg(tid event.TID, ws unix.WaitStatus, m uint64) step {
	return step{tid: tid, status: ws, msg: m}
}

func TestClassify(t *testing.T) {
	for _, tc := range []struct {
		ws   unix.WaitStatus
		want Stop
	}{
		{exited(7), Stop{Kind: Exited, Code: 7}},
		{killed(unix.SIGKILL), Stop{Kind: Killed, Signal: unix.SIGKILL}},
		{killed(unix.SIGSEGV | 0x80), Stop{Kind: Killed, Signal: unix.SIGSEGV}}, // with a core
		{syscallStatus, Stop{Kind: SyscallStop}},
		{signal(unix.SIGTRAP), Stop{Kind: SignalStop, Signal: unix.SIGTRAP}},
		{signal(unix.SIGSTOP), Stop{Kind: SignalStop, Signal: unix.SIGSTOP}},
		{signal(64), Stop{Kind: SignalStop, Signal: 64}},
		{ev(unix.PTRACE_EVENT_STOP, unix.SIGSTOP), Stop{Kind: GroupStop, Signal: unix.SIGSTOP}},
		{ev(unix.PTRACE_EVENT_STOP, unix.SIGTTOU), Stop{Kind: GroupStop, Signal: unix.SIGTTOU}},
		{trapStatus, Stop{Kind: TrapStop}},
		{cloneStatus, Stop{Kind: CloneStop}},
		{execStatus, Stop{Kind: ExecStop}},
		{ev(unix.PTRACE_EVENT_VFORK_DONE, unix.SIGTRAP), Stop{Kind: OtherStop}},
		{0xffff, Stop{Kind: OtherStop}}, // continued
	} {
		if got := Classify(tc.ws); got != tc.want {
			t.Errorf("%#x: %+v, want %+v", int(tc.ws), got, tc.want)
		}
	}
}

func TestLoop(t *testing.T) {
	mid := &Call{Nr: 0}
	type test struct {
		name   string
		tasks  map[event.TID]event.PID // default: 10 -> 10
		script func(l *Loop) []step
		fail   map[string]error
		panic  string
		want   string // the log, one entry a "; "
		err    string
		result Result
	}
	tests := []test{
		{
			name: "attach in the middle of a call",
			script: func(*Loop) []step {
				return []step{{tid: 10, status: trapStatus, in: mid}, entry(10, 0), exit(10, 5), at(10, exited(3))}
			},
			want:   "seize 10; interrupt 10; BEGIN 10 in 0; syscall 10 0; ENTER 10 0; syscall 10 0; EXIT 10 0=5 false; syscall 10 0; GONE 10",
			result: Result{Ended: true, Code: 3},
		},
		{
			name: "an exit without its entry is nobody's",
			script: func(*Loop) []step {
				return []step{trap(10), exit(10, 5), at(10, killed(unix.SIGKILL))}
			},
			want:   "seize 10; interrupt 10; BEGIN 10; syscall 10 0; syscall 10 0; GONE 10",
			result: Result{Ended: true, Signal: unix.SIGKILL},
		},
		{
			name: "signals are passed on, group-stops listened to",
			script: func(*Loop) []step {
				return []step{trap(10), at(10, signal(unix.SIGUSR1)), at(10, signal(unix.SIGTSTP)),
					at(10, ev(unix.PTRACE_EVENT_STOP, unix.SIGTSTP)), trap(10), at(10, signal(unix.SIGCONT)), at(10, exited(0))}
			},
			want: "seize 10; interrupt 10; BEGIN 10; syscall 10 0; syscall 10 10; syscall 10 20; listen 10 0; GROUPSTOP 20; " +
				"syscall 10 0; syscall 10 18; GONE 10",
			result: Result{Ended: true},
		},
		{
			name:  "a new thread, its stop first",
			tasks: map[event.TID]event.PID{10: 10, 11: 10},
			script: func(*Loop) []step {
				return []step{trap(10), trap(11), atMsg(10, cloneStatus, 11), entry(11, 39), at(11, exited(0)), at(10, exited(0))}
			},
			want:   "seize 10; interrupt 10; BEGIN 10; syscall 10 0; BEGIN 11; syscall 11 0; syscall 10 0; ENTER 11 39; syscall 11 0; GONE 11; GONE 10",
			result: Result{Ended: true},
		},
		{
			name:  "a new thread, the event first",
			tasks: map[event.TID]event.PID{10: 10, 11: 10},
			script: func(*Loop) []step {
				return []step{trap(10), atMsg(10, cloneStatus, 11), trap(11), at(11, exited(0)), at(10, exited(0))}
			},
			want:   "seize 10; interrupt 10; BEGIN 10; syscall 10 0; syscall 10 0; BEGIN 11; syscall 11 0; GONE 11; GONE 10",
			result: Result{Ended: true},
		},
		{
			name:  "a process made by clone without SIGCHLD is let go, with its signal",
			tasks: map[event.TID]event.PID{10: 10, 11: 11, 12: 12},
			script: func(*Loop) []step {
				return []step{trap(10), atMsg(10, cloneStatus, 11), trap(11), at(12, signal(unix.SIGUSR2)), at(10, exited(0))}
			},
			want:   "seize 10; interrupt 10; BEGIN 10; syscall 10 0; syscall 10 0; detach 11 0; detach 12 12; GONE 10",
			result: Result{Ended: true},
		},
		{
			name: "exec",
			script: func(*Loop) []step {
				return []step{trap(10), entry(10, 59), atMsg(10, execStatus, 10), exit(10, 0), at(10, exited(0))}
			},
			want:   "seize 10; interrupt 10; BEGIN 10; syscall 10 0; ENTER 10 59; syscall 10 0; syscall 10 0; EXIT 10 59=0 false; syscall 10 0; GONE 10",
			result: Result{Ended: true},
		},
		{
			name:  "exec from a thread that is not the leader: the call goes on under the leader's id",
			tasks: map[event.TID]event.PID{10: 10, 11: 10},
			script: func(*Loop) []step {
				return []step{trap(10), trap(11), entry(11, 59), atMsg(10, execStatus, 11), exit(10, 0), entry(10, 12), at(10, exited(0))}
			},
			want: "seize 10; interrupt 10; BEGIN 10; syscall 10 0; BEGIN 11; syscall 11 0; ENTER 11 59; syscall 11 0; GONE 10; syscall 10 0; " +
				"EXIT 10 59=0 false; syscall 10 0; ENTER 10 12; syscall 10 0; GONE 10",
			result: Result{Ended: true},
		},
		{
			name:  "the thread dies in its stop: its end comes by wait",
			tasks: map[event.TID]event.PID{10: 10, 11: 10},
			script: func(*Loop) []step {
				return []step{trap(10), trap(11), entry(11, 1), at(11, exited(0)), at(10, killed(unix.SIGKILL))}
			},
			fail:   map[string]error{"info 11": unix.ESRCH},
			want:   "seize 10; interrupt 10; BEGIN 10; syscall 10 0; BEGIN 11; syscall 11 0; GONE 11; GONE 10",
			result: Result{Ended: true, Signal: unix.SIGKILL},
		},
		{
			name:   "ESRCH at the resume",
			script: func(*Loop) []step { return []step{trap(10), at(10, killed(unix.SIGKILL))} },
			fail:   map[string]error{"syscall 10 0": unix.ESRCH},
			want:   "seize 10; interrupt 10; BEGIN 10; syscall 10 0; GONE 10",
			result: Result{Ended: true, Signal: unix.SIGKILL},
		},
		{
			name: "told to stop: detached at the next stop, with the signal that it was about to get",
			script: func(l *Loop) []step {
				return []step{trap(10), {err: unix.EINTR, do: l.Stop}, at(10, signal(unix.SIGUSR1))}
			},
			want: "seize 10; interrupt 10; BEGIN 10; syscall 10 0; interrupt 10; LEAVE 10; detach 10 10",
		},
		{
			name: "told to stop, and the thread is just about to make a call: the call starts over",
			script: func(l *Loop) []step {
				return []step{trap(10), {err: unix.EINTR, do: l.Stop}, entry(10, 232)}
			},
			want: "seize 10; interrupt 10; BEGIN 10; syscall 10 0; interrupt 10; redo 10; LEAVE 10; detach 10 0",
		},
		{
			name:  "told to stop while a thread is being made: that one is let go too",
			tasks: map[event.TID]event.PID{10: 10, 11: 10},
			script: func(l *Loop) []step {
				return []step{trap(10), {err: unix.EINTR, do: l.Stop}, atMsg(10, cloneStatus, 11), trap(11)}
			},
			want: "seize 10; interrupt 10; BEGIN 10; syscall 10 0; interrupt 10; LEAVE 10; detach 10 0; LEAVE 11; detach 11 0",
		},
		{
			name: "told to stop in a group-stop",
			script: func(l *Loop) []step {
				return []step{trap(10), at(10, ev(unix.PTRACE_EVENT_STOP, unix.SIGSTOP)), {err: unix.EINTR, do: l.Stop},
					at(10, ev(unix.PTRACE_EVENT_STOP, unix.SIGSTOP))}
			},
			want: "seize 10; interrupt 10; BEGIN 10; syscall 10 0; listen 10 0; GROUPSTOP 19; interrupt 10; LEAVE 10; detach 10 0",
		},
		{
			name:   "a thread that never stops is given up, and said",
			script: func(l *Loop) []step { return []step{trap(10), {err: unix.EINTR, do: l.Stop}} },
			want:   "seize 10; interrupt 10; BEGIN 10; syscall 10 0; interrupt 10",
			err:    "some threads did not stop",
		},
		{
			name: "a detach that fails is said",
			script: func(l *Loop) []step {
				return []step{trap(10), {err: unix.EINTR, do: l.Stop}, trap(10)}
			},
			fail: map[string]error{"detach 10 0": unix.EIO},
			want: "seize 10; interrupt 10; BEGIN 10; syscall 10 0; interrupt 10; LEAVE 10; detach 10 0",
			err:  "detach from thread 10: input/output error",
		},
		{
			name:   "a resume that fails: the stopped thread is detached where it is",
			script: func(*Loop) []step { return []step{trap(10), at(10, signal(unix.SIGUSR1))} },
			fail:   map[string]error{"syscall 10 10": unix.EIO},
			want:   "seize 10; interrupt 10; BEGIN 10; syscall 10 0; syscall 10 10; LEAVE 10; detach 10 10",
			err:    "resume thread 10",
		},
		{
			name:   "wait fails",
			script: func(*Loop) []step { return []step{trap(10), {err: unix.EINVAL}, trap(10)} },
			want:   "seize 10; interrupt 10; BEGIN 10; syscall 10 0; interrupt 10; LEAVE 10; detach 10 0",
			err:    "wait for pid 10",
		},
		{
			name:   "a handler that panics",
			script: func(*Loop) []step { return []step{trap(10), entry(10, 2)} },
			panic:  "ENTER 10 2",
			want:   "seize 10; interrupt 10; BEGIN 10; syscall 10 0; ENTER 10 2; redo 10; LEAVE 10; detach 10 0",
			err:    "internal error: injected",
		},
		{
			name:   "attach: a handler that panics at the first stop of one of two threads",
			tasks:  map[event.TID]event.PID{10: 10, 11: 10},
			script: func(*Loop) []step { return []step{trap(11), trap(10)} },
			panic:  "BEGIN 11",
			want:   "seize 10; interrupt 10; seize 11; interrupt 11; BEGIN 11; LEAVE 11; detach 11 0; interrupt 10; LEAVE 10; detach 10 0",
			err:    "internal error: injected",
		},
		{
			name: "a handler that panics again as it is told to leave",
			script: func(l *Loop) []step {
				return []step{trap(10), {tid: 10, status: syscallStatus, info: SyscallInfo{Op: OpEntry, Nr: 2}, do: l.Stop}, trap(10)}
			},
			panic: "ENTER 10 2, LEAVE 10",
			want:  "seize 10; interrupt 10; BEGIN 10; syscall 10 0; ENTER 10 2; redo 10; LEAVE 10; detach 10 0",
			err:   "internal error: injected\ninternal error: injected",
		},
		{
			name:   "a kernel that panics",
			script: func(*Loop) []step { return []step{trap(10), entry(10, 2)} },
			panic:  "syscall 10 0",
			want:   "seize 10; interrupt 10; BEGIN 10; syscall 10 0; LEAVE 10; detach 10 0",
			err:    "internal error: injected",
		},
		{
			name:   "attach: a kernel that panics as one of two threads is let go",
			tasks:  map[event.TID]event.PID{10: 10, 11: 10},
			script: func(l *Loop) []step { return []step{{tid: 10, status: trapStatus, do: l.Stop}, trap(10), trap(11)} },
			panic:  "detach 10 0",
			want:   "seize 10; interrupt 10; seize 11; interrupt 11; BEGIN 10; syscall 10 0; interrupt 10; interrupt 11; LEAVE 10; detach 10 0; LEAVE 11; detach 11 0",
			err:    "internal error: injected",
		},
		{
			name:   "attach: a kernel that panics",
			tasks:  map[event.TID]event.PID{10: 10, 11: 10},
			script: func(*Loop) []step { return []step{trap(10)} },
			panic:  "seize 11",
			want:   "seize 10; interrupt 10; seize 11; interrupt 10; LEAVE 10; detach 10 0",
			err:    "internal error: injected",
		},
		{
			name:  "attach: a thread that is refused lets the others go",
			tasks: map[event.TID]event.PID{10: 10, 11: 10},
			script: func(*Loop) []step {
				return []step{{}, trap(10)}
			},
			fail: map[string]error{"seize 11": unix.EACCES},
			want: "seize 10; interrupt 10; seize 11; interrupt 10; LEAVE 10; detach 10 0",
			err:  "attach to thread 11 of pid 10: permission denied",
		},
		{
			name: "attach: not permitted",
			fail: map[string]error{"seize 10": unix.EPERM},
			want: "seize 10",
			err:  "operation not permitted",
		},
		{
			name:  "attach: a thread that ended meanwhile, and one that came by itself",
			tasks: map[event.TID]event.PID{10: 10, 11: 10, 12: 10},
			script: func(*Loop) []step {
				return []step{trap(12), trap(10), at(12, exited(0)), at(10, exited(0))}
			},
			fail:   map[string]error{"seize 11": unix.ESRCH, "seize 12": unix.EPERM},
			want:   "seize 10; interrupt 10; seize 11; seize 12; BEGIN 12; syscall 12 0; seize 11; interrupt 11; BEGIN 10; syscall 10 0; GONE 12; GONE 10; GONE 11",
			result: Result{Ended: true},
		},
		{
			name: "attach: gone",
			fail: map[string]error{"seize 10": unix.ESRCH},
			want: "seize 10",
			err:  "no such process",
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			f := &fake{fail: tc.fail, panic: tc.panic, tasks: tc.tasks}
			if f.tasks == nil {
				f.tasks = map[event.TID]event.PID{10: 10}
			}
			h := told{f: f}
			l := &Loop{Kernel: f, Handler: h,
				TGID: func(tid event.TID) (event.PID, error) {
					if pid, ok := f.tasks[tid]; ok {
						return pid, nil
					}
					return 0, unix.ESRCH
				},
				ListTasks: func(pid event.PID) ([]event.TID, error) {
					var tids []event.TID
					// Threads that the script starts later are not there yet.
					for tid, p := range f.tasks {
						if p == pid && (tid == 10 || strings.HasPrefix(tc.name, "attach:")) {
							tids = append(tids, tid)
						}
					}
					slices.Sort(tids)
					return tids, nil
				},
				OnGroupStop: func(sig unix.Signal) { h.say("GROUPSTOP %d", sig) },
				Sleep:       func(time.Duration) {},
			}
			if tc.script != nil {
				f.script = tc.script(l)
			}
			res, err := func() (res Result, err error) {
				if err := l.Attach(10); err != nil {
					return Result{}, err
				}
				return l.Run()
			}()
			want := strings.Split(tc.want, "; ")
			got := slices.Clone(f.log)
			if strings.Contains(tc.name, "came by itself") { // the order of a map
				slices.Sort(got[len(got)-2:])
			} else if strings.Contains(tc.name, "two threads") {
				slices.Sort(got)
				slices.Sort(want)
			}
			if !slices.Equal(got, want) {
				t.Errorf("log\n got %s\nwant %s", strings.Join(got, "; "), strings.Join(want, "; "))
			}
			switch {
			case tc.err == "" && err != nil, tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
				t.Errorf("error %v, want %q", err, tc.err)
			}
			if res != tc.result {
				t.Errorf("result %+v, want %+v", res, tc.result)
			}
		})
	}
}

func TestPeek(t *testing.T) {
	for _, tc := range []struct {
		name   string
		script []step
		fail   map[string]error
		look   error
		want   string
		err    error
	}{
		{name: "a blocked thread", script: []step{trap(10)}, want: "seize 10; interrupt 10; LOOK; detach 10 0"},
		{name: "a signal on its way", script: []step{at(10, signal(unix.SIGINT))}, want: "seize 10; interrupt 10; LOOK; detach 10 2"},
		{name: "an error of the look", script: []step{trap(10)}, look: unix.EFAULT, err: unix.EFAULT,
			want: "seize 10; interrupt 10; LOOK; detach 10 0"},
		{name: "it ends", script: []step{at(10, exited(0))}, err: unix.ESRCH, want: "seize 10; interrupt 10"},
		{name: "it does not stop", err: ErrNoStop, want: "seize 10; interrupt 10"},
		{name: "not permitted", fail: map[string]error{"seize 10": unix.EPERM}, err: unix.EPERM, want: "seize 10"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &fake{script: tc.script, fail: tc.fail}
			_, err := Peek(f, 10, time.Millisecond, func() error { f.log = append(f.log, "LOOK"); return tc.look })
			if got := strings.Join(f.log, "; "); got != tc.want {
				t.Errorf("log\n got %s\nwant %s", got, tc.want)
			}
			if !errors.Is(err, tc.err) {
				t.Errorf("error %v, want %v", err, tc.err)
			}
		})
	}
}
