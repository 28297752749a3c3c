package procview

import (
	"bytes"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"whosefd/tracer/event"
)

func TestParseMaps(t *testing.T) {
	const lib = "7f0000000000-7f0000001000 r--p 00002000 103:05 1026                       "
	for _, tc := range []struct {
		name, line string
		want       Mapping
	}{
		{"file", lib + "/usr/lib/x.so", Mapping{Path: "/usr/lib/x.so"}},
		{"deleted", lib + "/usr/lib/x.so (deleted)", Mapping{Path: "/usr/lib/x.so", Deleted: true}},
		{"newline", lib + `/tmp/a\012b.so`, Mapping{Path: "/tmp/a\nb.so"}},
		{"backslash", lib + `/tmp/a\x.so`, Mapping{Path: `/tmp/a\x.so`}},
		{"blanks", lib + "/tmp/ a  b .so ", Mapping{Path: "/tmp/ a  b .so "}},
		{"carriage return", lib + "/tmp/a.so\r", Mapping{Path: "/tmp/a.so\r"}},
		{"not UTF-8", lib + "/tmp/\xff\x1b[31m", Mapping{Path: "/tmp/\xff\x1b[31m"}},
		{"memfd", lib + "/memfd:lib (deleted)", Mapping{Path: "/memfd:lib", Deleted: true}},
		{"no path", strings.TrimRight(lib, " "), Mapping{}},
		{"no path, blank", lib, Mapping{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := tc.want
			want.Start, want.End, want.Offset, want.Perms = 0x7f0000000000, 0x7f0000001000, 0x2000, "r--p"
			// makedev(3) of major 0x103, minor 5
			want.Dev, want.Ino = 0x10305, 1026
			for _, end := range []string{"", "\n"} {
				got, err := ParseMaps(strings.NewReader(tc.line + end))
				if err != nil || len(got) != 1 || got[0] != want {
					t.Errorf("got %+v, %v\nwant %+v", got, err, want)
				}
			}
		})
	}
	const vsyscall = "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n"
	if m, err := ParseMaps(strings.NewReader(vsyscall)); err != nil || m[0].Path != "[vsyscall]" || m[0].Target().Kind != event.Unknown {
		t.Errorf("vsyscall: %+v, %v", m, err)
	}
	for _, bad := range []string{"x", "\n", "1-2 r--p 0 00:00", "1-2 r--p 0 0000 0", "1 r--p 0 00:00 0 x",
		"1-2 r--p 0 00:00 -1", "1-11111111111111111 r--p 0 00:00 0"} {
		if m, err := ParseMaps(strings.NewReader(bad + "\n")); err == nil {
			t.Errorf("%q: taken as %+v", bad, m)
		}
	}
	if _, err := ParseMaps(strings.NewReader(strings.Repeat("x", maxMapsLine+1))); err == nil {
		t.Error("a line without end: taken")
	}
}

func TestMappingTarget(t *testing.T) {
	for _, tc := range []struct {
		m    Mapping
		kind event.Kind
		link event.Text
	}{
		{Mapping{Path: "/x", Ino: 7}, event.Regular, "/x"},
		{Mapping{Path: "/x", Ino: 7, Deleted: true}, event.Regular, "/x (deleted)"},
		{Mapping{Path: "/memfd:x", Ino: 7, Deleted: true}, event.Memfd, "/memfd:x (deleted)"},
		{Mapping{Path: "/memfd:x", Ino: 7}, event.Regular, "/memfd:x"}, // a file of that name
		{Mapping{Path: "anon_inode:[perf_event]", Ino: 7}, event.AnonInode, "anon_inode:[perf_event]"},
		{Mapping{Path: "[stack]"}, event.Unknown, "[stack]"},
	} {
		if got := tc.m.Target(); got.Kind != tc.kind || got.Link != tc.link || got.Ino != tc.m.Ino {
			t.Errorf("%+v: %+v", tc.m, got)
		}
	}
}

func TestFindMapping(t *testing.T) {
	maps := []Mapping{{Start: 16, End: 32}, {Start: 32, End: 48}, {Start: 64, End: 80}}
	for addr, want := range map[uint64]uint64{0: 0, 15: 0, 16: 16, 31: 16, 32: 32, 47: 32, 48: 0, 63: 0, 64: 64, 79: 64, 80: 0, 1 << 63: 0} {
		m, ok := FindMapping(maps, addr)
		if m.Start != want || ok != (want != 0) {
			t.Errorf("%d: found %d, %v; want %d", addr, m.Start, ok, want)
		}
	}
}

const statusText = "Name:\t a) b\\n\\\\ \nUmask:\t0022\nState:\tt (tracing stop)\nTgid:\t70\nNgid:\t0\nPid:\t71\nPPid:\t1\n" +
	"TracerPid:\t33\nUid:\t1000\t1001\t1002\t1003\nNStgid:\t70\t2\nNSpid:\t71\t3\nKthread:\t0\nThreads:\t4\n" +
	"SigBlk:\t0000000000000001\nSigIgn:\t0000000000000002\nSigCgt:\t0000000000000006\nCapEff:\t000001ffffffffff\n" +
	"NoNewPrivs:\t1\nSeccomp:\t2\n"

func TestParseStatus(t *testing.T) {
	got, err := ParseStatus([]byte(statusText))
	want := Status{Name: " a) b\n\\ ", State: "t", Tgid: 70, Pid: 71, PPid: 1, TracerPid: 33, UID: [4]int{1000, 1001, 1002, 1003}, GID: [4]int{-1, -1, -1, -1},
		Threads: 4, NSpid: []int{71, 3}, SigBlk: 1, SigIgn: 2, SigCgt: 6, CapEff: 0x1ffffffffff, Seccomp: 2, NoNewPrivs: true}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
	for n, want := range map[int]string{1: "blocked", 2: "ignored", 3: "caught", 4: "default", 64: "default"} {
		if s := got.Signal(n); s != want {
			t.Errorf("signal %d: %s, want %s", n, s, want)
		}
	}
	for _, bad := range []string{"", "Name:\tx\n", "\x00\xff"} {
		if _, err := ParseStatus([]byte(bad)); err == nil {
			t.Errorf("%q: taken", bad)
		}
	}
}

func TestTracedBy(t *testing.T) {
	if tracer, threads := tracedBy([]byte(statusText)); tracer != 33 || threads != 4 {
		t.Errorf("got %d, %d", tracer, threads)
	}
	if tracer, _ := tracedBy([]byte("Name:\t\\nTracerPid:\t7\nTracerPid:\t0\n")); tracer != 0 {
		t.Errorf("a name that looks like the line: %d", tracer)
	}
}

func TestParseStat(t *testing.T) {
	line := "71 (a) R (b) S 1 70 70 34816 99 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0\n"
	got, err := ParseStat([]byte(line))
	if want := (Stat{State: "S", PGRP: 70, TTY: 34816, TPGID: 99, Start: 12345}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"", "71 (x", "71 (x)", "71 (x) S 1 2 3"} {
		if _, err := ParseStat([]byte(bad)); err == nil {
			t.Errorf("%q: taken", bad)
		}
	}
}

func TestParseSyscall(t *testing.T) {
	for line, want := range map[string]Syscall{
		"0 0x10 0x55aa 0x1000 0x0 0x0 0x7fffffffffffffff 0x7ffd00000000 0x7f00\n": {0, [6]uint64{0x10, 0x55aa, 0x1000, 0, 0, 0x7fffffffffffffff}, 0x7ffd00000000, 0x7f00},
		"3 0x9 0xffc1cd98 0x10 0x0 0xf7feab80 0xffc1cdb8 0xffc1cd50 0xf7fb55e9\n": {3, [6]uint64{9, 0xffc1cd98, 0x10, 0, 0xf7feab80, 0xffc1cdb8}, 0xffc1cd50, 0xf7fb55e9},
	} {
		if got, ok := ParseSyscall([]byte(line)); !ok || got != want || got.Compat() != (want.Nr == 3) {
			t.Errorf("%q: got %+v %v", line, got, ok)
		}
	}
	for _, none := range []string{"running\n", "-1 0x7ffd 0x7f00\n", "", "-1 0x1 0x2 0x3 0x4 0x5 0x6 0x7 0x8", "0 0x1", "0 0x1 0x2 0x3 0x4 0x5 zz 0x7 0x8", "0 0x1 0x2 0x3 0x4 0x5 0x6 0x7 zz"} {
		if _, ok := ParseSyscall([]byte(none)); ok {
			t.Errorf("%q: taken as a call", none)
		}
	}
}

func TestParseFdinfo(t *testing.T) {
	for flags, want := range map[string]Fdinfo{"0100000": {Access: "r"}, "0100001": {Access: "w"}, "0100002": {Access: "rw"},
		"02000000": {Access: "r", CloseOnExec: true}, "02004001": {Access: "w", CloseOnExec: true},
		"012000000": {Access: "path", CloseOnExec: true}, "010000003": {Access: "path"}, "03": {Access: "rw"}} {
		want.MountID = 14
		got, ok := ParseFdinfo([]byte("pos:\t0\nflags:\t" + flags + "\nmnt_id:\t14\n"))
		if !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", flags, got, ok, want)
		}
	}
	for _, bad := range []string{"", "pos:\t0\n", "flags:\t9\n", "flags:\n"} {
		if got, ok := ParseFdinfo([]byte(bad)); ok || !reflect.DeepEqual(got, Fdinfo{}) {
			t.Errorf("%q: taken as %+v", bad, got)
		}
	}
	// As Linux 6.18 writes them.
	for _, c := range []struct {
		text string
		want Fdinfo
	}{
		{"tty-index:\t3\n", Fdinfo{TTY: event.Some(3)}},
		{"eventfd-count:                0\neventfd-id: 9\neventfd-semaphore: 0\n", Fdinfo{EventFD: event.Some(9)}},
		{"fuse_connection:\t52\n", Fdinfo{Connection: event.Some[uint32](52)}},
		{"Pid:\t30376\nNSpid:\t30376\n", Fdinfo{Process: event.Some[event.PID](30376)}},
		{"clockid: 0\nticks: 0\nit_value: (0, 49406829)\nit_interval: (1, 0)\n", Fdinfo{Armed: true}},
		{"clockid: 0\nit_value: (0, 0)\n", Fdinfo{}},
		{"tfd:        4 events:       1f data:                4  pos:0 ino:3 sdev:1a\ntfd: 3 events: 2001 data: ffffffffffffffff  pos:7 ino:5b sdev:6\ntfd: x\n",
			Fdinfo{Epoll: []EpollEntry{{4, 0x1f, 3}, {3, 0x2001, 0x5b}}}},
		{"lock:\t1: FLOCK  ADVISORY  WRITE 30376 fe:00:9982755 0 EOF\nlock:\t1: FLOCK\n",
			Fdinfo{Locks: []Lock{{Group: 1, Kind: "FLOCK", Mode: "WRITE", PID: 30376, Ino: 9982755, Start: "0", End: "EOF"}}}},
	} {
		c.want.Access = "rw"
		got, ok := ParseFdinfo([]byte("pos:\t0\nflags:\t02\n" + c.text))
		if !ok || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %+v, %v; want %+v", c.text, got, ok, c.want)
		}
	}
}

func TestParseLocks(t *testing.T) {
	const text = "1: FLOCK  ADVISORY  WRITE 953 fe:00:9977901 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 7215 fe:00:9977901 0 EOF\n" +
		"2: OFDLCK ADVISORY  READ -1 00:1b:12 10 19\n3: POSIX\n4: -> \nno lock\n"
	want := []Lock{{1, false, "FLOCK", "WRITE", 953, 9977901, "0", "EOF"}, {1, true, "FLOCK", "WRITE", 7215, 9977901, "0", "EOF"},
		{2, false, "OFDLCK", "READ", -1, 12, "10", "19"}}
	if got := ParseLocks([]byte(text)); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestKindByText(t *testing.T) {
	for link, want := range map[string]event.Kind{
		"/memfd:x (deleted)": event.Memfd, "/memfd:x": event.Unknown, "/tmp/memfd:x (deleted)": event.Unknown,
		"pipe:[4]": event.Pipe, "/pipe:[4]": event.Unknown, "socket:[4]": event.Socket, "": event.Unknown,
		"anon_inode:[eventfd]": event.AnonInode, "anon_inode:inotify": event.AnonInode, "pidfd:[7]": event.AnonInode,
	} {
		if got := kindByText(link); got != want {
			t.Errorf("%q: %s, want %s", link, got, want)
		}
	}
}

func TestNumber(t *testing.T) {
	for text, want := range map[string]int{"0": 0, "7": 7, "2147483647": 2147483647, "2147483648": -1, "": -1, "-1": -1,
		"+1": -1, "self": -1, "1x": -1, "99999999999": -1} {
		n, ok := number(text)
		if ok != (want >= 0) || ok && n != want {
			t.Errorf("%q: %d, %v", text, n, ok)
		}
	}
}

func FuzzParseMaps(f *testing.F) {
	f.Add([]byte("7f00-8000 r--p 00002000 fe:05 1026    /a\\012b (deleted)\n"))
	f.Add([]byte("0-1 ---p 0 00:00 0\n1-2 ---p 0 00:00 0 [stack]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		maps, err := ParseMaps(bytes.NewReader(b))
		if err != nil {
			return
		}
		if len(maps) > bytes.Count(b, []byte("\n"))+1 {
			t.Fatalf("%d mappings of %q", len(maps), b)
		}
		for _, m := range maps {
			if strings.Contains(m.Range(), " ") || m.Target().Ino != m.Ino {
				t.Fatalf("%+v", m)
			}
			_, _ = FindMapping(maps, m.Start)
		}
	})
}

func TestParseMounts(t *testing.T) {
	const text = "22 28 0:21 / /proc rw,nosuid shared:13 - proc proc rw\n" +
		"36 35 8:1 /mnt1 /mnt\\0402 rw,noatime master:1 propagate_from:2 - ext4 /dev/root rw,errors=continue\n" +
		"40 35 0:55 / /x rw - fuse.sshfs me@there:/ rw\n" +
		"no mount\n41 35 0:x / /y rw - tmpfs tmpfs rw\n42 35 0:1 / /y rw -\n"
	want := []mount{{22, 21, "proc", "/proc", "proc"}, {36, 8<<8 | 1, "ext4", "/mnt 2", "/dev/root"}, {40, 55, "fuse.sshfs", "/x", "me@there:/"}}
	if got := parseMounts([]byte(text)); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func FuzzParseMounts(f *testing.F) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(parseMounts(b)); n > 1+bytes.Count(b, []byte("\n")) {
			t.Errorf("%d mounts", n)
		}
	})
}

func FuzzParseStatus(f *testing.F) {
	f.Add([]byte(statusText))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseStatus(b)
		if err == nil {
			_ = s.Signal(2)
		}
		_, _ = tracedBy(b)
	})
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("71 (a) R (b) S 1 70 70 34816 99 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseStat(b); err == nil && s.State == "" {
			t.Fatalf("%q: no state", b)
		}
	})
}

func FuzzParseSyscall(f *testing.F) {
	f.Add([]byte("0 0x10 0x55aa 0x1000 0x0 0x0 0x7fffffffffffffff 0x7ffd 0x7f00\n"))
	f.Add([]byte("-1 0x7ffd 0x7f00\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, ok := ParseSyscall(b); !ok && s != (Syscall{}) {
			t.Fatalf("%q: %+v", b, s)
		}
	})
}

func FuzzParseFdinfo(f *testing.F) {
	f.Add([]byte("pos:\t0\nflags:\t0100002\nmnt_id:\t14\n"))
	f.Add([]byte("flags:\t02\ntfd: 4 events: 1f data: 4  pos:0 ino:3 sdev:1a\nlock:\t1: -> FLOCK  ADVISORY  WRITE 3 fe:00:9 0 EOF\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		info, ok := ParseFdinfo(b)
		access := info.Access
		if ok != (access == "r" || access == "w" || access == "rw" || access == "path") {
			t.Fatalf("%q: %q, %v", b, access, ok)
		}
		if len(info.Epoll)+len(info.Locks) > 1+bytes.Count(b, []byte("\n")) {
			t.Errorf("%q: %+v", b, info)
		}
		_ = ParseLocks(b)
		_, _ = execStart(b)
	})
}

func TestOpensMapFiles(t *testing.T) {
	for _, tc := range []struct {
		caps, userNS uint64
		want         bool
	}{
		{0, 0xeffffffd, false},
		{1 << 19, 0xeffffffd, false}, // CAP_SYS_PTRACE is not enough
		{1 << 21, 0xeffffffd, true},
		{1 << 40, 0xeffffffd, true},
		{1 << 21, 0, true},
		{1<<41 - 1, 4026532321, false}, // root of a user namespace
	} {
		if got := opensMapFiles(tc.caps, tc.userNS); got != tc.want {
			t.Errorf("capabilities %#x in user namespace %d: %v", tc.caps, tc.userNS, got)
		}
	}
}
