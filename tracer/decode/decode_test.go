package decode

import (
	"encoding/binary"
	"slices"
	"testing"
)

func table(t *testing.T, goarch string) *Table {
	t.Helper()
	tab, err := ForArch(goarch)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func TestForArch(t *testing.T) {
	if _, err := ForArch("riscv64"); err == nil {
		t.Error("riscv64 has no table, but no error")
	}
	// Numbers from arch/x86/entry/syscalls/syscall_64.tbl and asm-generic/unistd.h.
	for _, tc := range []struct {
		name         string
		amd64, arm64 int
	}{
		{"read", 0, 63}, {"open", 2, -1}, {"openat", 257, 56}, {"openat2", 437, 437}, {"newfstatat", 262, 79},
		{"dup2", 33, -1}, {"dup3", 292, 24}, {"statx", 332, 291}, {"ptrace", 101, 117}, {"faccessat2", 439, 439},
		{"listns", 470, 470}, {"futex_time64", -1, -1}, {"uprobe", 336, -1},
	} {
		for goarch, want := range map[string]int{"amd64": tc.amd64, "arm64": tc.arm64} {
			tab := table(t, goarch)
			nr, ok := tab.Number(tc.name)
			if ok != (want >= 0) || ok && nr != uint64(want) {
				t.Errorf("%s on %s: %d, %v, want %d", tc.name, goarch, nr, ok, want)
			}
			if ok && tab.Name(nr) != tc.name {
				t.Errorf("%s on %s: name of %d is %s", tc.name, goarch, nr, tab.Name(nr))
			}
			if c, known := tab.Call(nr); ok && known && c.Name != tc.name {
				t.Errorf("%s on %s: row of %s", tc.name, goarch, c.Name)
			}
		}
	}
	// arch/x86/entry/syscalls/syscall_32.tbl
	i386 := table(t, "amd64").Compat()
	for name, want := range map[string]uint64{"read": 3, "open": 5, "close": 6, "ptrace": 26, "poll": 168, "pread64": 180,
		"openat": 295, "ppoll": 309, "clock_nanosleep_time64": 407, "openat2": 437} {
		if nr, ok := i386.Number(name); !ok || nr != want || i386.Name(nr) != name {
			t.Errorf("%s of 32-bit programs: %d, %v, want %d", name, nr, ok, want)
		}
	}
	if c, ok := i386.Call(90); ok { // mmap(2) with one argument
		t.Errorf("call 90 of 32-bit programs is decoded as %s", c.Name)
	}
	if table(t, "arm64").Compat() != nil {
		t.Error("arm64 has a table of 32-bit programs, of which machine?")
	}
	tab := table(t, "amd64")
	for _, nr := range []uint64{999, 1 << 63, ^uint64(0), 400} {
		if c, ok := tab.Call(nr); ok {
			t.Errorf("call %d is %s", nr, c.Name)
		}
	}
	if got := tab.Name(999); got != "syscall_999" {
		t.Error(got)
	}
}

func TestRows(t *testing.T) {
	amd := table(t, "amd64")
	oldOnly := []string{"open", "creat", "getdents", "dup2", "stat", "lstat", "access", "readlink", "pipe", "eventfd",
		"epoll_create", "signalfd", "inotify_init"}
	for i := range rows {
		c := &rows[i]
		if got, ok := ByName(c.Name); !ok || got != c {
			t.Errorf("%s: not found by name, or there twice", c.Name)
		}
		if _, ok := amd.Number(c.Name); !ok {
			t.Errorf("%s: no number on amd64", c.Name)
		}
		if _, ok := table(t, "arm64").Number(c.Name); ok == slices.Contains(oldOnly, c.Name) {
			t.Errorf("%s: on arm64: %v", c.Name, ok)
		}
		if len(c.Args) > 6 {
			t.Errorf("%s: %d arguments", c.Name, len(c.Args))
		}
		if slices.Contains([]Change{Makes, Copies, Replaces}, c.Change) != (c.Ret == RetNewFD) {
			t.Errorf("%s: change and result do not fit", c.Name)
		}
		if (c.Change == MakesPair) != slices.Contains(c.Args, FDPair) {
			t.Errorf("%s: change and arguments do not fit", c.Name)
		}
	}
	for _, tc := range []struct {
		name                                                 string
		path, dirfd, fd, newfd, flags, count, offset, modeAt int
		exit                                                 bool
	}{
		{"openat", 1, 0, -1, -1, 2, -1, -1, 3, true},
		{"open", 0, -1, -1, -1, 1, -1, -1, 2, true},
		{"openat2", 1, 0, -1, -1, -1, -1, -1, -1, true},
		{"pread64", -1, -1, 0, -1, -1, 2, 3, -1, true},
		{"write", -1, -1, 0, -1, -1, 2, -1, -1, false},
		{"dup3", -1, -1, 0, 1, 2, -1, -1, -1, true},
		{"statx", 1, 0, -1, -1, 2, -1, -1, -1, true},
		{"faccessat2", 1, 0, -1, -1, 3, -1, -1, -1, false},
		{"faccessat", 1, 0, -1, -1, 2, -1, -1, -1, false},
		{"readlinkat", 1, 0, -1, -1, -1, 3, -1, -1, true},
		{"lseek", -1, -1, 0, -1, 2, -1, 1, -1, false},
		{"mmap", -1, -1, 4, -1, 3, 1, 5, -1, false},
		{"close", -1, -1, 0, -1, -1, -1, -1, -1, true},
	} {
		c, _ := ByName(tc.name)
		got := []int{c.PathArg(), c.DirFDArg(), c.FDArg(), c.NewFDArg(), c.FlagsArg(), c.CountArg(), c.OffsetArg(), c.ModeArg()}
		if want := []int{tc.path, tc.dirfd, tc.fd, tc.newfd, tc.flags, tc.count, tc.offset, tc.modeAt}; !slices.Equal(got, want) {
			t.Errorf("%s: path, dirfd, fd, newfd, flags, count, offset, mode at %v, want %v", tc.name, got, want)
		}
		if c.NeedsExit() != tc.exit {
			t.Errorf("%s: NeedsExit %v", tc.name, c.NeedsExit())
		}
	}
}

func TestMakesFD(t *testing.T) {
	for _, tc := range []struct {
		name string
		args [6]uint64
		want bool
	}{
		{"openat", [6]uint64{}, true},
		{"read", [6]uint64{}, false},
		{"fcntl", [6]uint64{3, 0}, true},
		{"fcntl", [6]uint64{3, 1030}, true},
		{"fcntl", [6]uint64{3, 1<<32 | 1030}, true}, // the kernel takes an unsigned int
		{"fcntl", [6]uint64{3, 3}, false},
	} {
		c, _ := ByName(tc.name)
		if got := c.MakesFD(tc.args); got != tc.want {
			t.Errorf("%s %v: %v", tc.name, tc.args, got)
		}
	}
}

func TestFlags(t *testing.T) {
	for _, tc := range []struct {
		goarch, call string
		args         [6]uint64
		want         string
	}{
		{"amd64", "openat", [6]uint64{0, 0, 0o2000000}, "O_RDONLY|O_CLOEXEC"},
		{"amd64", "openat", [6]uint64{0, 0, 0xffffffff00000001}, "O_WRONLY"}, // an int
		{"amd64", "openat", [6]uint64{0, 0, 0o200000}, "O_RDONLY|O_DIRECTORY"},
		{"arm64", "openat", [6]uint64{0, 0, 0o200000}, "O_RDONLY|O_DIRECT"},
		{"arm64", "openat", [6]uint64{0, 0, 0o40000}, "O_RDONLY|O_DIRECTORY"},
		{"arm64", "openat", [6]uint64{0, 0, 0o20040000 | 2}, "O_RDWR|O_TMPFILE"},
		{"arm64", "openat", [6]uint64{0, 0, 0o100000}, "O_RDONLY|O_NOFOLLOW"},
		{"arm64", "openat", [6]uint64{0, 0, 0o400000}, "O_RDONLY|O_LARGEFILE"},
		{"amd64", "dup3", [6]uint64{1, 2, 0o2000000}, "O_CLOEXEC"},
		{"amd64", "dup3", [6]uint64{1, 2, 0}, ""},
		{"amd64", "mmap", [6]uint64{0, 4096, 5, 0x802}, "PROT_READ|PROT_EXEC,MAP_PRIVATE|MAP_DENYWRITE"},
		{"amd64", "mmap", [6]uint64{0, 4096, 0, 0x62}, "PROT_NONE,MAP_PRIVATE|MAP_ANONYMOUS|MAP_32BIT"},
		{"arm64", "mmap", [6]uint64{0, 4096, 0x11, 0x62}, "PROT_BTI|PROT_READ,MAP_PRIVATE|MAP_ANONYMOUS|0x40"},
		{"amd64", "access", [6]uint64{0, 0}, "F_OK"},
		{"amd64", "faccessat2", [6]uint64{0, 0, 4, 0x200}, "AT_EACCESS"},
		{"amd64", "fcntl", [6]uint64{0, 1030}, "F_DUPFD_CLOEXEC"},
		{"amd64", "fcntl", [6]uint64{0, 77}, "0x4d"},
		{"amd64", "lseek", [6]uint64{0, 0, 2}, "SEEK_END"},
		{"amd64", "lseek", [6]uint64{0, 0, ^uint64(0)}, "0xffffffff"},
		{"amd64", "newfstatat", [6]uint64{}, ""},
		{"amd64", "read", [6]uint64{1, 2, 3}, ""},
		{"amd64", "close_range", [6]uint64{3, 5, 4}, "CLOSE_RANGE_CLOEXEC"},
		{"amd64", "memfd_create", [6]uint64{0, 0x23}, "MFD_CLOEXEC|MFD_ALLOW_SEALING|0x20"},
		{"amd64", "statx", [6]uint64{}, "AT_STATX_SYNC_AS_STAT"},
	} {
		c, _ := ByName(tc.call)
		if got := table(t, tc.goarch).Flags(c, tc.args); got != tc.want {
			t.Errorf("%s %s %x: %q, want %q", tc.goarch, tc.call, tc.args, got, tc.want)
		}
	}
}

func TestHasMode(t *testing.T) {
	tab := table(t, "amd64")
	for _, tc := range []struct {
		name string
		args [6]uint64
		want bool
	}{
		{"open", [6]uint64{0, 0o100}, true},
		{"open", [6]uint64{0, 0o200000}, false}, // O_DIRECTORY is a part of O_TMPFILE
		{"open", [6]uint64{0, 0o20200000}, true},
		{"creat", [6]uint64{}, true},
		{"read", [6]uint64{}, false},
	} {
		c, _ := ByName(tc.name)
		if got := tab.HasMode(c, tc.args); got != tc.want {
			t.Errorf("%s %o: %v", tc.name, tc.args, got)
		}
	}
}

func TestNames(t *testing.T) {
	for e, want := range map[int]string{0: "", -1: "", 1: "EPERM", 2: "ENOENT", 11: "EAGAIN", 41: "", 133: "EHWPOISON",
		135: "", 512: "ERESTARTSYS", 516: "ERESTART_RESTARTBLOCK", 4095: "", 1 << 40: ""} {
		if got := Errno(e); got != want {
			t.Errorf("Errno(%d) = %q, want %q", e, got, want)
		}
	}
	for n, want := range map[int]string{-1: "", 0: "", 1: "SIGHUP", 2: "SIGINT", 31: "SIGSYS", 32: "SIGRTMIN",
		34: "SIGRT_2", 64: "SIGRTMAX", 65: ""} {
		if got := Signal(n); got != want {
			t.Errorf("Signal(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestResult(t *testing.T) {
	for _, tc := range []struct {
		in, ret int64
		errno   int
	}{{0, 0, 0}, {16, 16, 0}, {-2, -1, 2}, {-4095, -1, 4095}, {-4096, -4096, 0}, {-0x7fff0000, -0x7fff0000, 0}, {-512, -1, 512}} {
		if ret, errno := Result(tc.in); ret != tc.ret || errno != tc.errno {
			t.Errorf("Result(%d) = %d, %d", tc.in, ret, errno)
		}
	}
	for e, want := range map[int]bool{4: false, 512: true, 513: true, 514: true, 515: false, 516: true} {
		if Restarts(e) != want {
			t.Errorf("Restarts(%d) = %v", e, !want)
		}
	}
	if Int32(0xffffff9c) != -100 || Int32(0xffffffffffffff9c) != -100 {
		t.Error("AT_FDCWD is not -100")
	}
}

func TestLayouts(t *testing.T) {
	// A struct stat of arm64, field by field as asm-generic/stat.h has it.
	b := binary.LittleEndian.AppendUint64(nil, 0xfd01)
	b = binary.LittleEndian.AppendUint64(b, 4798)
	b = binary.LittleEndian.AppendUint32(b, 0o100644)
	b = append(b, make([]byte, 12)...)
	b = binary.LittleEndian.AppendUint64(b, 0x8801)
	b = append(b, make([]byte, 8)...)
	b = binary.LittleEndian.AppendUint64(b, 12345)
	b = append(b, make([]byte, 128-len(b))...)
	want := Stat{Mode: 0o100644, Dev: 0xfd01, Ino: 4798, Size: 12345}
	if got, err := table(t, "arm64").Stat(b); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := table(t, "amd64").Stat(b); err == nil {
		t.Error("a struct stat of arm64 is too short for amd64")
	}
	if _, err := Statx(make([]byte, StatxSize-1)); err == nil {
		t.Error("short statx: no error")
	}
	if _, err := ParseOpenHow(make([]byte, 23)); err == nil {
		t.Error("short open_how: no error")
	}
	how := binary.LittleEndian.AppendUint64(nil, 0o2000000)
	how = binary.LittleEndian.AppendUint64(how, 0o600)
	how = binary.LittleEndian.AppendUint64(how, 8)
	if got, err := ParseOpenHow(append(how, 1, 2)); err != nil || got != (OpenHowData{0o2000000, 0o600, 8}) {
		t.Errorf("%+v, %v", got, err)
	}
	iov := binary.LittleEndian.AppendUint64(nil, 0x1000)
	iov = binary.LittleEndian.AppendUint64(iov, 10)
	iov = binary.LittleEndian.AppendUint64(iov, 0x2000)
	iov = binary.LittleEndian.AppendUint64(iov, 20)
	spans := ParseIovecs(append(iov, 1, 2, 3))
	if !slices.Equal(spans, []Span{{0x1000, 10}, {0x2000, 20}}) || Bytes(spans) != 30 {
		t.Errorf("%+v", spans)
	}
	if got := Bytes([]Span{{0, 1 << 63}, {0, 1 << 63}}); got != 1<<63-1 {
		t.Errorf("overflow: %d", got)
	}
	for _, tc := range []struct {
		major, minor uint32
		want         uint64
	}{{0, 15, 15}, {8, 1, 0x801}, {259, 0, 0x10300}, {136, 300, 0x10882c}, {0, 0x12345, 0x12300045}} {
		if got := Makedev(tc.major, tc.minor); got != tc.want {
			t.Errorf("Makedev(%d, %d) = %#x, want %#x", tc.major, tc.minor, got, tc.want)
		}
	}
}

func FuzzLayouts(f *testing.F) {
	f.Add(make([]byte, 300))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, goarch := range []string{"amd64", "arm64"} {
			if s, err := table(t, goarch).Stat(b); err == nil && len(b) < table(t, goarch).StatSize() {
				t.Errorf("%d bytes gave %+v", len(b), s)
			}
		}
		_, _ = Statx(b)
		_, _ = ParseOpenHow(b)
		if n := len(ParseIovecs(b)); n > MaxIovecs {
			t.Errorf("%d entries", n)
		}
	})
}

func BenchmarkClassifyName(b *testing.B) {
	for _, name := range []string{"/usr/lib/x86_64-linux-gnu/libc.so.6", "/proc/self/fd/4"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ClassifyName(name)
			}
		})
	}
}
