package analyze

import (
	"slices"
	"time"

	"whosefd/tracer/event"
)

// The processes and files of the scenes; the numbers are those of the example
// in the design.
const (
	gdbPID = 2158
	infPID = 2162
)

var (
	ownPipe  = event.Target{Kind: event.Pipe, Link: "pipe:[4798]", Dev: 15, Ino: 4798}
	memfd    = event.Target{Kind: event.Memfd, Link: "/memfd:libfunction (deleted)", Dev: 1, Ino: 1026}
	memfd2   = event.Target{Kind: event.Memfd, Link: "/memfd:second (deleted)", Dev: 1, Ino: 1027}
	terminal = event.Target{Kind: event.TTY, Link: "/dev/pts/1", Dev: 24, Ino: 4}
	libc     = event.Target{Kind: event.Regular, Link: "/usr/lib/libc.so.6", Dev: 0x801, Ino: 77}
	otherLib = event.Target{Kind: event.Regular, Link: "/usr/lib/ld.so", Dev: 0x801, Ino: 78}
	newLib   = event.Target{Kind: event.Regular, Link: "/srv/lib.so", Dev: 0x801, Ino: 501}
	procMem  = event.Target{Kind: event.Procfs, Link: "/proc/2162/task/2162/mem", Dev: 22, Ino: 5000}
	gone     = event.Target{Kind: event.Unknown, Error: "ENOENT"}
)

// scene is hand-built evidence.
type scene []event.Event

func (s scene) with(more ...event.Event) scene { return append(slices.Clone(s), more...) }

// change edits the events of a copy of the scene.
func (s scene) change(edit func(event.Event) event.Event) scene {
	out := make(scene, 0, len(s))
	for _, ev := range s {
		if ev = edit(ev); ev != nil {
			out = append(out, ev)
		}
	}
	return out
}

// replaceBlocked has other words about the thread that is blocked.
func (s scene) replaceBlocked(b *event.Blocked) scene {
	return s.change(func(ev event.Event) event.Event {
		if _, ok := ev.(*event.Blocked); ok {
			return b
		}
		return ev
	})
}

func gdbSession(source string) *event.Session {
	return &event.Session{Schema: event.Schema, Tool: "whosefd test", Source: source, Start: time.Unix(1700000000, 0).UTC(),
		Kernel: "6.18.0", Arch: "amd64", Debugger: &event.Process{PID: gdbPID, PPID: 1, Comm: "gdb", Exe: "/usr/bin/gdb",
			Cmdline: []event.Text{"gdb", "./from_memory"}, Cwd: "/home/user/work", PGRP: event.Some(gdbPID), TTYPGRP: event.Some(infPID),
			SIGINT: "caught", Namespaces: map[string]uint64{"mnt": 100, "pid": 200, "user": 300}}}
}

func fromMemory() *event.Inferior {
	return &event.Inferior{Process: event.Process{PID: infPID, PPID: gdbPID, Comm: "from_memory", Exe: "/home/user/work/from_memory",
		Cwd: "/home/user/work", PGRP: event.Some(infPID), Namespaces: map[string]uint64{"mnt": 100, "pid": 200, "user": 300}},
		TracerTID: gdbPID, Libraries: 4}
}

func fd(pid event.PID, n event.FD, access string, t event.Target) *event.Descriptor {
	return &event.Descriptor{PID: pid, FD: n, Access: access, Target: t}
}

// library is a list entry; inDebugger and inInferior are what its name leads
// to there.
func library(pid event.PID, index int, name event.Text, mapped, inDebugger, inInferior event.Target, reachable ...event.Text) *event.LinkMap {
	lm := &event.LinkMap{PID: pid, Index: index, Addr: event.Hex(0x55550000 + index*0x100), NameAddr: event.Hex(0x55560000 + index*0x100),
		Name: name, LoadAddr: event.Hex(0x7f0000000000 + index*0x100000), Dynamic: event.Hex(0x7f0000003000 + index*0x100000),
		MapStart: event.Hex(0x7f0000000000 + index*0x100000), MapEnd: event.Hex(0x7f0000001000 + index*0x100000),
		Mapped: &mapped, MappedStat: &mapped, Reachable: reachable}
	if name != "" {
		lm.Resolves = []event.Resolution{{PID: gdbPID, Target: inDebugger}, {PID: pid, Target: inInferior}}
	}
	return lm
}

// ordinary are the entries that every program has.
func ordinary(pid event.PID) []event.Event {
	vdso := library(pid, 1, "linux-vdso.so.1", event.Target{Kind: event.Unknown, Link: "[vdso]"}, gone, gone)
	vdso.MappedStat = nil
	return []event.Event{
		library(pid, 0, "", event.Target{Kind: event.Regular, Link: "/home/user/work/from_memory", Dev: 0x801, Ino: 9}, gone, gone),
		vdso,
		library(pid, 2, "/lib/x86_64-linux-gnu/libc.so.6", libc, libc, libc),
	}
}

func read16() *event.Blocked {
	return &event.Blocked{PID: gdbPID, TID: gdbPID, Comm: "gdb", State: "S", Wchan: "anon_pipe_read", Syscall: "read",
		Args: []event.Hex{16, 0x55d0, 4096, 0, 0, 0}, FD: event.Some[event.FD](16), Target: &ownPipe, SIGINT: "caught",
		Holders: []event.Holder{{PID: gdbPID, Comm: "gdb", FD: 3, Access: "r"}, {PID: gdbPID, Comm: "gdb", FD: 4, Access: "w"},
			{PID: gdbPID, Comm: "gdb", FD: 16, Access: "r"}}, Searched: 87}
}

func gdbStack(tid event.TID, names ...event.Text) *event.Stack {
	s := &event.Stack{PID: gdbPID, TID: tid, StoppedUS: 900, Frames: []event.Frame{
		{PC: 0x7f69046c3cb6, Module: "/usr/lib/libc.so.6", Offset: 0xf8cb6, Function: "read", File: "../sysdeps/unix/sysv/linux/read.c", Line: 26},
		{PC: 0x564e4f0c7224, Module: "/usr/bin/gdb", Offset: 0x2c7224, Function: "cache_bread_1", File: "cache.c", Line: 319, Inlined: true},
		{PC: 0x564e4f0c833e, Module: "/usr/bin/gdb", Offset: 0x2c833e},
	}}
	for i, n := range names {
		s.Frames[2].Strings = append(s.Frames[2].Strings, event.FrameString{Slot: event.Hex(0x7ffc6e69b6f0 + i*8), Addr: 0x564e51949e30, Text: n})
	}
	return s
}

func gdbFDs(last ...event.Event) []event.Event {
	return append([]event.Event{
		fd(gdbPID, 0, "rw", terminal), fd(gdbPID, 1, "rw", terminal), fd(gdbPID, 2, "rw", terminal),
		fd(gdbPID, 3, "r", ownPipe), fd(gdbPID, 4, "w", ownPipe), fd(gdbPID, 14, "rw", procMem), fd(gdbPID, 15, "r", otherLib),
	}, last...)
}

func infFDs() []event.Event {
	return []event.Event{fd(infPID, 0, "rw", terminal), fd(infPID, 1, "rw", terminal), fd(infPID, 2, "rw", terminal), fd(infPID, 4, "rw", memfd)}
}

// fromMemoryLib is the library of the article.
func fromMemoryLib() *event.LinkMap {
	return library(infPID, 3, "/proc/self/fd/4", memfd, ownPipe, memfd, "/proc/2162/fd/4", "/proc/2162/map_files/7f0000300000-7f0000301000")
}

func join(parts ...[]event.Event) scene {
	return append(slices.Concat(parts...), &event.End{T: 5000, Reason: "snapshot"})
}

func one(ev ...event.Event) []event.Event { return ev }

// hung is the article's hang, as a snapshot sees it.
func hung() scene {
	return join(one(gdbSession("snapshot"), read16()), gdbFDs(fd(gdbPID, 16, "r", ownPipe)), one(fromMemory()), infFDs(), ordinary(infPID),
		one(fromMemoryLib(), gdbStack(gdbPID, "/proc/self/fd/4")))
}

// named is a hang without any inferior, of which the debugger's own memory tells a name.
func named(name event.Text) scene {
	b := read16()
	b.Names = []event.MemoryText{{Addr: 0x564e51949e30, In: "heap", Text: name}}
	return join(one(gdbSession("snapshot"), b), gdbFDs(fd(gdbPID, 16, "r", ownPipe)))
}

func poll(call string) *event.Blocked {
	return &event.Blocked{PID: gdbPID, TID: gdbPID, Comm: "gdb", State: "S", Wchan: "poll_schedule_timeout", Syscall: call, SIGINT: "caught"}
}

// atPrompt is a gdb that waits for its user, with the libraries given.
func atPrompt(libs ...event.Event) scene {
	ses := gdbSession("snapshot")
	ses.Debugger.TTYPGRP = event.Some(gdbPID)
	return join(one(ses, poll("poll")), gdbFDs(), one(fromMemory()), infFDs(), ordinary(infPID), libs, prompted())
}

// prompted is a gdb that polls its terminal, in the foreground.
func prompted() []event.Event {
	return one(&event.Wait{PID: gdbPID, TID: gdbPID, Comm: "gdb", State: "S", Syscall: "poll", PGRP: event.Some(gdbPID), TTYPGRP: event.Some(gdbPID),
		On: []event.Awaited{
			{Op: event.AwaitRead, FD: event.Some[event.FD](3), Target: &ownPipe, Enders: []event.Ender{{PID: gdbPID, Comm: "gdb", FD: event.Some[event.FD](4), How: event.HowWriter}}},
			{Op: event.AwaitRead, FD: event.Some[event.FD](0), Target: &terminal, Enders: []event.Ender{{PID: 900, Comm: "sshd", FD: event.Some[event.FD](9), How: event.HowTerminal}}},
			{Op: event.AwaitChild, Enders: []event.Ender{{PID: infPID, Comm: "from_memory", How: event.HowTracee}}},
		}},
		&event.Wait{PID: 900, TID: 900, Comm: "sshd", State: "S", Syscall: "poll", On: []event.Awaited{
			{Op: event.AwaitRead, FD: event.Some[event.FD](4), Target: &event.Target{Kind: event.Socket, Link: "socket:[77]", Dev: 8, Ino: 77}, Peer: "192.0.2.7:50122", Outside: event.OutsideHost}}},
		&event.Search{Searched: 87})
}

func call(t event.Micros, name string) *event.Syscall {
	return &event.Syscall{T: t, PID: gdbPID, TID: gdbPID, Name: name}
}

func openAt(t event.Micros, path event.Text, ret int64, target *event.Target) *event.Syscall {
	c := call(t, "openat")
	c.Path, c.Flags, c.Ret, c.DurUS, c.Target = path, "O_RDONLY|O_CLOEXEC", event.Some(ret), event.Some[int64](15), target
	return c
}

// symbolizes is a tool that looks for what /proc/PID/maps shows, in vain.
func symbolizes(text event.Text) *event.Syscall {
	c := call(1204511, "newfstatat")
	c.Path = text
	return failed(c, "ENOENT")
}

func failed(c *event.Syscall, errno string) *event.Syscall {
	c.Ret, c.Errno, c.Target = event.Some[int64](-1), errno, nil
	return c
}

func means(c *event.Syscall, pid event.PID, n event.FD, t event.Target) *event.Syscall {
	c.Counterpart = append(c.Counterpart, event.Counterpart{PID: pid, FD: event.Some(n), Target: t})
	return c
}

func readFrom(t event.Micros, n event.FD, target event.Target, ret int64) *event.Syscall {
	c := call(t, "read")
	c.FD, c.Count, c.Target = event.Some(n), event.Some[uint64](4096), &target
	if ret == stuck {
		c.Unfinished = true
	} else {
		c.Ret, c.DurUS = event.Some(ret), event.Some[int64](7)
	}
	return c
}

const stuck = -1000

// readName is how gdb reads a name: 8 bytes at a time.
func readName(t event.Micros, addr int64, name string) []event.Event {
	var evs []event.Event
	for b := append([]byte(name), 0); len(b) > 0; t += 10 {
		n := min(8, len(b))
		c := call(t, "pread64")
		c.FD, c.Count, c.Offset, c.Ret, c.DurUS = event.Some[event.FD](14), event.Some[uint64](8), event.Some(addr), event.Some(int64(n)), event.Some[int64](2)
		c.Target, c.Data = &procMem, b[:n]
		evs, b, addr = append(evs, c), b[n:], addr+int64(n)
	}
	return evs
}

// traced is a trace of the hang, from before the open to the end, without a
// look at the processes.
func traced(open *event.Syscall, more ...event.Event) scene {
	return join(one(gdbSession("trace")), gdbFDs(), readName(1204000, 0x55560300, string(open.Path)), one(open), more)
}

// fifo is a FIFO of a library's name, in the debugger's directory.
var fifo = event.Target{Kind: event.FIFO, Link: "/home/user/work/lib.so", Dev: 0x801, Ino: 600}

// awaiting is a debugger that waits for an open.
func awaiting(name event.Text) *event.Blocked {
	return &event.Blocked{PID: gdbPID, TID: gdbPID, Comm: "gdb", State: "S", Wchan: "wait_for_partner", Syscall: "openat", Path: name, SIGINT: "caught"}
}

func awaitedOpen(name event.Text) *event.Syscall {
	c := call(1205000, "openat")
	c.Path, c.Flags, c.Unfinished = name, "O_RDONLY|O_CLOEXEC", true
	return c
}

func cameBack(name event.Text, t event.Target) *event.Syscall {
	c := openAt(1205000, name, 16, &t)
	c.Resumed = true
	return c
}

// readEntry is a read of a struct link_map that points to a name at 0x55560300.
func readEntry() []event.Event {
	c := call(1203000, "process_vm_readv")
	c.OfPID, c.Offset, c.Ret = infPID, event.Some[int64](0x55550300), event.Some[int64](16)
	c.Data = []byte{0, 0, 0x30, 0, 0, 0x7f, 0, 0, 0, 3, 0x56, 0x55, 0, 0, 0, 0}
	return one(c)
}

// scenes are the test cases, by name.
func scenes() map[string]scene {
	closedFD := func(inInferior event.Target, reachable ...event.Text) scene {
		return hung().change(func(ev event.Event) event.Event {
			switch ev := ev.(type) {
			case *event.LinkMap:
				if ev.Name == "/proc/self/fd/4" {
					return library(infPID, 3, ev.Name, memfd, ownPipe, inInferior, reachable...)
				}
			case *event.Descriptor:
				if ev.PID == infPID && ev.FD == 4 {
					if inInferior.Error != "" {
						return nil
					}
					return fd(infPID, 4, "r", inInferior)
				}
			}
			return ev
		})
	}
	perf := gdbSession("trace")
	perf.Debugger.Comm, perf.Debugger.Exe, perf.Debugger.Cmdline = "perf", "/usr/bin/perf", []event.Text{"perf", "report"}
	second := fromMemory()
	second.PID, second.Comm, second.PGRP = 2170, "executor", event.Some(2170)
	worker := read16()
	worker.TID, worker.Comm = 2165, "gdb worker"
	futex := func(tid event.TID) *event.Blocked {
		return &event.Blocked{PID: gdbPID, TID: tid, Comm: "gdb worker", State: "S", Syscall: "futex"}
	}
	ttyRead := read16()
	ttyRead.Target, ttyRead.Wchan, ttyRead.Holders, ttyRead.Searched = &terminal, "wait_woken", nil, 0
	unseen := read16()
	unseen.Unseen = []event.Unseen{{PID: 1, Comm: "systemd", Error: "EACCES"}, {PID: 412, Comm: "sshd", Error: "EACCES"}}
	older, inherited := read16(), read16()
	for i := range older.Holders {
		older.Holders[i].CloseOnExec = event.Some(true)
		inherited.Holders[i].CloseOnExec = event.Some(false)
	}
	older.Unseen = []event.Unseen{{PID: 1, Comm: "systemd", Error: "EACCES", Older: true}}
	inherited.Unseen = older.Unseen
	otherWriter := read16()
	otherWriter.Holders = append(otherWriter.Holders, event.Holder{PID: 3000, Comm: "feeder", FD: 7, Access: "w"})
	btrfsMapped, btrfsFile := libc, libc
	btrfsMapped.Dev, btrfsFile.Dev = 31, 47
	btrfs := library(infPID, 3, "/srv/lib.so", btrfsMapped, btrfsFile, btrfsFile)
	btrfs.MappedStat = nil
	overlay := library(infPID, 4, "/srv/other.so", event.Target{Kind: event.Regular, Link: "/srv/other.so", Dev: 31, Ino: 5}, otherLib, otherLib)
	overlay.MappedStat, overlay.Resolves[0].Link, overlay.Resolves[1].Link = nil, "/srv/other.so", "/srv/other.so"
	waiting := gdbSession("snapshot")
	container := fromMemory()
	container.Namespaces = map[string]uint64{"mnt": 101, "pid": 201, "user": 300}
	nested := fromMemory()
	nested.Namespaces = map[string]uint64{"mnt": 100, "pid": 201, "user": 300}
	elsewhere := fromMemory()
	elsewhere.Cwd = "/srv"
	server := gdbSession("snapshot")
	server.Debugger.Comm, server.Debugger.Exe, server.Debugger.TTYPGRP = "gdbserver", "/usr/bin/gdbserver", event.Opt[int]{}
	inFIFO := library(infPID, 3, "./lib.so", libc, fifo, libc, "/proc/2162/root/srv/lib.so")
	noList := fromMemory()
	noList.Libraries, noList.LinkMapError = 0, "auxv: EACCES"

	return map[string]scene{
		"hang": hung(),
		"attached": hung().change(func(ev event.Event) event.Event {
			if inf, ok := ev.(*event.Inferior); ok {
				c := *inf
				c.PPID, c.PGRP = 900, event.Some(900)
				return &c
			}
			if s, ok := ev.(*event.Session); ok {
				c, d := *s, *s.Debugger
				d.Cmdline, d.TTYPGRP = []event.Text{"gdb", "-p", "2162"}, event.Some(gdbPID)
				c.Debugger = &d
				return &c
			}
			return ev
		}),
		"closed":             closedFD(gone, "/proc/2162/map_files/7f0000300000-7f0000301000"),
		"closed-unreachable": closedFD(gone),
		"reused":             closedFD(libc, "/proc/2162/map_files/7f0000300000-7f0000301000"),
		"thread": hung().change(func(ev event.Event) event.Event {
			switch ev := ev.(type) {
			case *event.Blocked:
				return worker
			case *event.Stack:
				return gdbStack(2165, "/proc/self/fd/4")
			case *event.Session:
				return ev
			}
			return ev
		}).with(futex(gdbPID), futex(2166)),
		"other-inferior-without": hung().with(second, fd(2170, 0, "r", terminal),
			library(2170, 2, "/lib/x86_64-linux-gnu/libc.so.6", libc, libc, libc)),
		"two-inferiors": hung().with(second, fd(2170, 4, "rw", memfd2),
			library(2170, 3, "/proc/self/fd/4", memfd2, ownPipe, memfd2, "/proc/2170/fd/4")),
		"two-names": hung().with(library(infPID, 5, "/proc/self/fd/3", memfd2, ownPipe, memfd2, "/proc/2162/fd/3")),
		"two-names-no-stack": hung().with(library(infPID, 5, "/proc/self/fd/3", memfd2, ownPipe, memfd2, "/proc/2162/fd/3")).
			change(func(ev event.Event) event.Event {
				if _, ok := ev.(*event.Stack); ok {
					return nil
				}
				return ev
			}),
		"two-names-stream": hung().with(library(infPID, 5, "/proc/self/fd/3", memfd2, ownPipe, memfd2, "/proc/2162/fd/3")).
			change(func(ev event.Event) event.Event {
				if b, ok := ev.(*event.Blocked); ok {
					b.Names = []event.MemoryText{{Addr: 0x564e51949e30, In: "heap", Text: "/proc/self/fd/3", Stream: 0x564e51a00000, Object: 0x564e51a80000}}
				}
				return ev
			}),
		"script": hung().change(func(ev event.Event) event.Event {
			if st, ok := ev.(*event.Stack); ok {
				python := event.Frame{PC: 0x7f6905000000, Module: "/usr/lib/libpython3.11.so.1.0", Offset: 0x100000}
				st.Frames = []event.Frame{st.Frames[0], python, python, st.Frames[2]}
			}
			return ev
		}),
		"script-below": hung().change(func(ev event.Event) event.Event { // gdb.execute("run")
			if st, ok := ev.(*event.Stack); ok {
				st.Frames = append(st.Frames, event.Frame{PC: 0x7f6905000000, Function: "_PyEval_EvalFrameDefault"}, st.Frames[2])
			}
			return ev
		}),
		"name-of-nobody": named("/proc/self/fd/4"),
		"name-of-its-user": named("/dev/fd/4").change(func(ev event.Event) event.Event {
			if ev, ok := ev.(*event.Session); ok {
				ev.Debugger.Cmdline = []event.Text{"gdb", "-ex", "source /dev/fd/4"}
			}
			return ev
		}),
		"name-of-another-writer": named("/dev/fd/4").change(func(ev event.Event) event.Event {
			if b, ok := ev.(*event.Blocked); ok {
				b.Holders = append(b.Holders, event.Holder{PID: 77, Comm: "sh", FD: 1, Access: "w"})
			}
			return ev
		}),
		"prompt":           atPrompt(),
		"waiting-inferior": join(one(waiting, poll("wait4")), gdbFDs(), one(fromMemory()), infFDs(), ordinary(infPID)),
		"running-inferior": join(one(waiting, poll("ppoll")), gdbFDs(), one(fromMemory()), infFDs(), ordinary(infPID)),
		"gdbserver-accept": join(one(server, poll("accept4")), one(fd(gdbPID, 3, "rw", event.Target{Kind: event.Socket, Link: "socket:[9]", Dev: 8, Ino: 9}))),
		"cured":            atPrompt(library(infPID, 3, "/proc/2162/fd/4", memfd, memfd, memfd, "/proc/2162/fd/4")),
		"repaired":         atPrompt(fromMemoryLib(), fd(gdbPID, 16, "r", memfd)),
		"risk":             atPrompt(fromMemoryLib()),
		"own-read": join(one(gdbSession("snapshot"), func() *event.Blocked {
			b := read16()
			b.FD, b.Holders = event.Some[event.FD](3), b.Holders[:2]
			return b
		}()), gdbFDs(), one(fromMemory()), infFDs(), ordinary(infPID), one(fromMemoryLib())),
		"wrong-file": atPrompt(library(infPID, 3, "/proc/self/fd/15", memfd, otherLib, memfd, "/proc/2162/fd/15"), fd(infPID, 15, "rw", memfd)).
			with(fd(gdbPID, 17, "r", otherLib)),
		"wrong-file-presumed": atPrompt(library(infPID, 3, "/proc/self/fd/15", memfd, otherLib, memfd, "/proc/2162/fd/15")),
		"error":               atPrompt(library(infPID, 3, "/proc/self/fd/20", memfd, gone, memfd, "/proc/2162/fd/20")),
		"error-procfs":        atPrompt(library(infPID, 3, "/proc/self/fd/14", memfd, procMem, memfd, "/proc/2162/fd/14")),
		"stolen-input": hung().change(func(ev event.Event) event.Event {
			switch ev := ev.(type) {
			case *event.Blocked:
				return ttyRead
			case *event.Descriptor:
				if ev.FD == 16 {
					return fd(gdbPID, 16, "r", terminal)
				}
			case *event.LinkMap:
				if ev.Name == "/proc/self/fd/4" {
					return library(infPID, 3, "/proc/self/fd/0", memfd, terminal, memfd, "/proc/2162/fd/0")
				}
			case *event.Stack:
				return gdbStack(gdbPID, "/proc/self/fd/0")
			}
			return ev
		}),
		"stolen-pipe":      hung().replaceBlocked(otherWriter),
		"unseen-older":     hung().replaceBlocked(older),
		"unseen-inherited": hung().replaceBlocked(inherited),
		"unseen":           hung().replaceBlocked(unseen),
		"no-list": hung().change(func(ev event.Event) event.Event {
			switch ev.(type) {
			case *event.LinkMap:
				return nil
			case *event.Inferior:
				return noList
			}
			return ev
		}),
		"btrfs": atPrompt(btrfs, overlay),
		"relative": atPrompt(library(infPID, 3, "./lib.so", libc, gone, libc, "/proc/2162/cwd/lib.so")).change(func(ev event.Event) event.Event {
			if _, ok := ev.(*event.Inferior); ok {
				return elsewhere
			}
			return ev
		}),
		"mount-namespace": atPrompt(library(infPID, 3, "/app/lib.so", libc, otherLib, libc, "/proc/2162/root/app/lib.so")).change(func(ev event.Event) event.Event {
			if _, ok := ev.(*event.Inferior); ok {
				return container
			}
			return ev
		}).with(fd(gdbPID, 18, "r", otherLib)),
		"open-hang":       join(one(gdbSession("snapshot"), awaiting("./lib.so")), gdbFDs(), one(elsewhere), infFDs(), one(inFIFO)),
		"open-trace":      join(one(gdbSession("trace")), gdbFDs(), readName(1204000, 0x55560300, "./lib.so"), one(awaitedOpen("./lib.so"), elsewhere, inFIFO)),
		"open-came-back":  join(one(gdbSession("trace")), gdbFDs(), one(awaitedOpen("./lib.so"), cameBack("./lib.so", libc), elsewhere, inFIFO)),
		"entry-error":     join(one(gdbSession("strace")), readEntry(), readName(1204000, 0x55560300, "/srv/lib.so"), one(failed(openAt(1205000, "/srv/lib.so", 0, nil), "ENOENT"))),
		"entry-fifo":      join(one(gdbSession("strace")), readEntry(), readName(1204000, 0x55560300, "/srv/lib.so"), one(openAt(1205000, "/srv/lib.so", 16, &fifo), readFrom(1206000, 16, fifo, stuck))),
		"entry-right":     join(one(gdbSession("strace")), readEntry(), readName(1204000, 0x55560300, "/srv/lib.so"), one(openAt(1205000, "/srv/lib.so", 16, &newLib))),
		"entry-elsewhere": join(one(gdbSession("strace")), readEntry(), readName(1204000, 0x55560300, "/srv/lib.so"), one(failed(openAt(1205000, "/srv/lib.so", 0, nil), "ENOENT"), openAt(1206000, "/opt/sysroot/lib.so", 16, &newLib))),
		"container": atPrompt(library(infPID, 3, "/proc/7/fd/4", memfd, gone, memfd, "/proc/2162/fd/4"),
			library(infPID, 4, "/app/lib.so", libc, gone, libc, "/proc/2162/root/app/lib.so")).change(func(ev event.Event) event.Event {
			if _, ok := ev.(*event.Inferior); ok {
				return container
			}
			return ev
		}),
		"container-self": atPrompt(fromMemoryLib()).change(func(ev event.Event) event.Event {
			if _, ok := ev.(*event.Inferior); ok {
				return container
			}
			return ev
		}),
		"pid-namespace": atPrompt(library(infPID, 3, "/proc/7/fd/4", memfd, gone, memfd, "/proc/2162/fd/4")).change(func(ev event.Event) event.Event {
			if _, ok := ev.(*event.Inferior); ok {
				return nested
			}
			return ev
		}),
		"replaced-file": atPrompt(library(infPID, 3, "/srv/lib.so", event.Target{Kind: event.Regular, Link: "/srv/lib.so (deleted)", Dev: 0x801, Ino: 500},
			newLib, newLib)),
		"self-link": atPrompt(library(infPID, 3, "/proc/self/cwd/lib.so", libc, gone, libc)),

		"trace-hang": traced(means(openAt(1204511, "/proc/self/fd/4", 16, &ownPipe), infPID, 4, memfd), fromMemory(), fromMemoryLib(),
			readFrom(1204581, 16, ownPipe, stuck)),
		"trace-hang-closing": traced(means(openAt(1204511, "/proc/self/fd/4", 16, &ownPipe), infPID, 4, memfd), fromMemory(), fromMemoryLib(),
			readFrom(1204581, 16, ownPipe, stuck)).with(slices.Concat(one(read16()), gdbFDs(fd(gdbPID, 16, "r", ownPipe)), one(fromMemory()), infFDs(), ordinary(infPID), one(fromMemoryLib(), gdbStack(gdbPID, "/proc/self/fd/4")))...),
		"trace-counterpart": join(one(gdbSession("trace")), gdbFDs(), one(
			means(openAt(1204511, "/proc/self/fd/4", 16, &ownPipe), infPID, 4, memfd), readFrom(1204581, 16, ownPipe, stuck))),
		"trace-alone": traced(openAt(1204511, "/proc/self/fd/4", 16, &ownPipe), readFrom(1204581, 16, ownPipe, stuck)),
		"trace-error": traced(failed(means(openAt(1204511, "/proc/self/fd/20", -1, nil), infPID, 20, memfd), "ENOENT"), fromMemory(),
			library(infPID, 3, "/proc/self/fd/20", memfd, gone, memfd, "/proc/2162/fd/20")),
		"log-core": join(one(gdbSession("strace")), gdbFDs(), one(&event.Inferior{Core: &event.Core{ID: 1, Target: event.Target{Kind: event.Regular, Link: "/tmp/core"}},
			LinkMapError: "a log of strace does not show it"}), one(openAt(1204511, "/proc/self/fd/4", 16, &ownPipe), readFrom(1204581, 16, ownPipe, stuck))),
		"trace-map-text":       join(one(perf), one(symbolizes("/memfd:libfunction (deleted)")), one(fromMemory()), one(fromMemoryLib())),
		"trace-map-text-alone": join(one(perf), one(symbolizes("/memfd:libfunction (deleted)"), symbolizes("/tmp/lib.so (deleted)"))),
		"trace-wrong-file": traced(means(openAt(1204511, "/proc/self/fd/15", 16, &otherLib), infPID, 15, memfd), fromMemory(),
			library(infPID, 3, "/proc/self/fd/15", memfd, otherLib, memfd, "/proc/2162/fd/15"), readFrom(1204581, 16, otherLib, 4096)),
		"trace-stolen-input": traced(means(openAt(1204511, "/proc/self/fd/0", 16, &terminal), infPID, 0, memfd), fromMemory(),
			library(infPID, 3, "/proc/self/fd/0", memfd, terminal, memfd, "/proc/2162/fd/0"), readFrom(1204581, 16, terminal, 5)),
		"trace-derived": traced(failed(means(openAt(1204511, "/proc/self/fd/4.dwp", -1, nil), infPID, 4, memfd), "ENOENT"),
			failed(means(openAt(1204600, "/proc/self/fd/4-gdb.py", -1, nil), infPID, 4, memfd), "ENOENT"),
			failed(means(openAt(1204700, "/proc/self/fd/proc/self/fd/4.dwp", -1, nil), infPID, 4, memfd), "ENOENT")),
		"trace-own-self": join(one(gdbSession("trace")), gdbFDs(), one(
			means(openAt(100, "/proc/self/exe", 5, &otherLib), infPID, 0, libc),
			means(openAt(200, "/proc/self/maps", 6, &procMem), infPID, 0, event.Target{Kind: event.Procfs, Dev: 22, Ino: 1}),
			failed(means(openAt(300, "/proc/self/fd/99", -1, nil), infPID, 99, event.Target{Kind: event.Unknown, Error: "ENOENT"}), "ENOENT"))),
		"trace-guarded": traced(func() *event.Syscall {
			c := means(openAt(1204511, "/proc/self/fd/4", 16, &memfd), infPID, 4, memfd)
			c.Rewritten = &event.Rewrite{Path: "/proc/2162/fd/4", Target: memfd}
			return c
		}(), fromMemory(), fromMemoryLib(), readFrom(1204581, 16, memfd, 4096)),
		"trace-searched": traced(failed(means(openAt(1204511, "./lib.so", -1, nil), infPID, -1, libc), "ENOENT"), fromMemory(),
			library(infPID, 3, "./lib.so", libc, gone, libc), openAt(1204600, "/home/user/work/lib.so", 16, &libc), readFrom(1204700, 16, libc, 4096)),
		"empty": {},
		"hostile": hung().change(func(ev event.Event) event.Event {
			return defile(ev)
		}),
	}
}

// nastyWord is for texts that are never more than a name of a function or an
// error: those are UTF-8 in recordings.
const nastyWord = "\x1b[31m\u202e\u009b1m\r\nok: all is well\x07<script>|`_*\u200b\U000e0041"

const nasty = "\x1b[31m\u202e\xff\u009b1m\r\nok: all is well\x07<script>|`_*\u200b\U000e0041"

// defile puts a hostile text into every text of a scene that a process can
// choose.
func defile(ev event.Event) event.Event {
	bad := func(t event.Text) event.Text { return t + nasty }
	badTarget := func(t *event.Target) *event.Target {
		if t == nil {
			return nil
		}
		c := *t
		c.Link = bad(c.Link)
		return &c
	}
	switch ev := ev.(type) {
	case *event.Session:
		c, d := *ev, *ev.Debugger
		d.Comm, d.Exe, d.Cwd, d.Cmdline = bad(d.Comm), bad(d.Exe), bad(d.Cwd), []event.Text{bad("gdb")}
		c.Debugger = &d
		return &c
	case *event.Inferior:
		c := *ev
		c.Comm, c.Exe, c.Cwd, c.LinkMapError = bad(c.Comm), bad(c.Exe), bad(c.Cwd), "no"+nastyWord
		return &c
	case *event.Descriptor:
		c := *ev
		c.Target = *badTarget(&c.Target)
		return &c
	case *event.LinkMap:
		c := *ev
		if c.Name == "/proc/self/fd/4" {
			c.Name = "/proc/self/fd/4/" + nasty
		}
		c.Mapped, c.MappedStat = badTarget(c.Mapped), badTarget(c.MappedStat)
		c.Reachable = slices.Clone(c.Reachable)
		for i := range c.Reachable {
			c.Reachable[i] = bad(c.Reachable[i])
		}
		return &c
	case *event.Blocked:
		c := *ev
		c.Comm, c.Wchan, c.Target = bad(c.Comm), c.Wchan+nastyWord, badTarget(c.Target)
		c.Holders = slices.Clone(c.Holders)
		for i := range c.Holders {
			c.Holders[i].Comm = bad(c.Holders[i].Comm)
		}
		c.Unseen = []event.Unseen{{PID: 1, Comm: bad("init"), Error: "EACCES" + nastyWord}}
		return &c
	case *event.Stack:
		c := *ev
		c.Error, c.Frames = "stopped"+nastyWord, slices.Clone(c.Frames)
		for i := range c.Frames {
			f := &c.Frames[i]
			f.Function, f.File, f.Module = f.Function+nastyWord, f.File+nastyWord, bad(f.Module)
			f.Strings = []event.FrameString{{Text: "/proc/self/fd/4/" + nasty}}
		}
		return &c
	case *event.Syscall:
		c := *ev
		c.Path, c.Flags, c.Target = bad(c.Path), c.Flags+nastyWord, badTarget(c.Target)
		return &c
	}
	return ev
}

func analyzed(s scene) *Analysis {
	a := New()
	for _, ev := range s {
		a.Add(ev)
	}
	return a
}

func sceneNames() []string {
	var names []string
	for n := range scenes() {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
