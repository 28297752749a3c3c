package straceio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"whosefd/tracer/event"
)

// events reads a log.
func events(t testing.TB, in ...Input) ([]event.Event, []Count, error) {
	t.Helper()
	r := NewReader(in...)
	var all []event.Event
	for {
		ev, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all, r.Counts(), nil
		}
		if err != nil {
			return all, nil, err
		}
		all = append(all, ev)
	}
}

// lines are the events as in a recording.
func lines(t testing.TB, all []event.Event) []string {
	t.Helper()
	var out []string
	for _, ev := range all {
		var b bytes.Buffer
		if err := event.NewWriter(&b).Write(ev); err != nil {
			t.Fatal(err)
		}
		out = append(out, strings.TrimSuffix(b.String(), "\n"))
	}
	return out
}

func log(text string) Input { return Input{Reader: strings.NewReader(text)} }

const session = `{"type":"session","schema":"whosefd.recording/v1","tool":"strace","source":"strace","debugger":{"pid":`

// Lines as strace 4.26 to 7 write them, and what they say.
func TestLines(t *testing.T) {
	for _, tc := range []struct {
		name string
		log  string
		want []string // the events behind the session
	}{
		{"plain", "12    openat(AT_FDCWD, \"/etc/passwd\", O_RDONLY|O_CLOEXEC) = 3\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"openat","path":"/etc/passwd","flags":"O_RDONLY|O_CLOEXEC","ret":3}`}},
		{"old open", "12    open(\"/etc/ld.so.cache\", O_RDONLY|O_CREAT, 0644) = -1 ENOENT (No such file or directory)\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"open","path":"/etc/ld.so.cache","flags":"O_RDONLY|O_CREAT","mode":420,"ret":-1,"errno":"ENOENT"}`}},
		{"-y", "12 openat(AT_FDCWD</home/u>, \"x\", O_RDONLY) = 3</home/u/x>\n12 read(3</home/u/x>, \"\\177ELF\"..., 832) = 832\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"openat","path":"x","flags":"O_RDONLY","ret":3,"target":{"kind":"unknown","link":"/home/u/x"}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":3,"count":832,"ret":832,"target":{"kind":"unknown","link":"/home/u/x"},"data":"f0VMRg=="}`}},
		{"-y, fstat before the first read", "12 openat(AT_FDCWD, \"/x\", O_RDONLY) = 3</x>\n12 fstat(3</x>, {st_dev=makedev(0x8, 0x1), st_ino=12, st_mode=S_IFREG|0600}) = 0\n12 read(3</x>, \"#!/bin\", 99) = 6\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"openat","path":"/x","flags":"O_RDONLY","ret":3,"target":{"kind":"unknown","link":"/x"}}`,
				`{"type":"fd","t":0.000000,"pid":12,"fd":3,"target":{"kind":"regular","link":"/x","dev":2049,"ino":12}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"fstat","fd":3,"ret":0,"target":{"kind":"regular","link":"/x","dev":2049,"ino":12}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":3,"count":99,"ret":6,"target":{"kind":"regular","link":"/x","dev":2049,"ino":12},"data":"IyEvYmlu"}`}},
		{"a pipe", "12 read(16<pipe:[4798]>, \"x\", 1) = 1 <0.000012>\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":16,"count":1,"ret":1,"dur_us":12,"target":{"kind":"pipe","link":"pipe:[4798]","ino":4798}}`}},
		{"sockets", "12 read(5<socket:[77]>, \"\", 9) = 0\n12 read(6<TCP:[127.0.0.1:80->127.0.0.1:6]>, \"\", 9) = 0\n12 read(7<UNIX-STREAM:[28->29,\"/run/a>b\"]>, \"\", 9) = 0\n12 read(8<TCPv6:[[::1]:22->[::1]:5]>, \"\", 9) = 0\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":5,"count":9,"ret":0,"target":{"kind":"socket","link":"socket:[77]","ino":77}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":6,"count":9,"ret":0,"target":{"kind":"socket","link":"TCP:[127.0.0.1:80->127.0.0.1:6]"}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":7,"count":9,"ret":0,"target":{"kind":"socket","link":"UNIX-STREAM:[28->29,\"/run/a>b\"]","ino":28}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":8,"count":9,"ret":0,"target":{"kind":"socket","link":"TCPv6:[[::1]:22->[::1]:5]"}}`}},
		{"devices", "12 read(0</dev/pts/0<char 136:0>>, \"q\", 1) = 1\n12 read(1</dev/null<char 1:3>>, \"\", 1) = 0\n12 read(2</dev/sda<block 8:0>>, \"\", 1) = 0\n12 read(3</dev/tty1>, \"\", 1) = 0\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":0,"count":1,"ret":1,"target":{"kind":"tty","link":"/dev/pts/0"}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":1,"count":1,"ret":0,"target":{"kind":"chardev","link":"/dev/null"}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":2,"count":1,"ret":0,"target":{"kind":"blockdev","link":"/dev/sda"}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":3,"count":1,"ret":0,"target":{"kind":"tty","link":"/dev/tty1"}}`}},
		{"deleted", "12 close(3</memfd:lib>(deleted)) = 0\n12 close(4</dev/pts/1<char 136:1>>(deleted)) = 0\n12 close(5</tmp/x\\74y\\76 (deleted)>) = 0\n12 close(6<anon_inode:[eventpoll]>) = 0\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"close","fd":3,"ret":0,"target":{"kind":"memfd","link":"/memfd:lib (deleted)"}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"close","fd":4,"ret":0,"target":{"kind":"tty","link":"/dev/pts/1 (deleted)"}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"close","fd":5,"ret":0,"target":{"kind":"unknown","link":"/tmp/x<y> (deleted)"}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"close","fd":6,"ret":0,"target":{"kind":"anon_inode","link":"anon_inode:[eventpoll]"}}`}},
		{"hexadecimal", "12 openat(AT_FDCWD<\\x2f>, \"\\x2f\\x61\\x22\", O_RDONLY) = 3<\\x70\\x69\\x70\\x65\\x3a\\x5b\\x37\\x5d>\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"openat","path":"/a\"","flags":"O_RDONLY","ret":3,"target":{"kind":"pipe","link":"pipe:[7]","ino":7}}`}},
		{"octal and cut names", "12 access(\"/a\\tb\\303\\244\\0011\\\\\\\"\", R_OK|X_OK) = 0\n12 access(\"/very/lo\"..., F_OK) = 0\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"access","path":"/a\tb` + "ä" + `\u00011\\\"","flags":"R_OK|X_OK","ret":0}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"access","path":"/very/lo","path_truncated":true,"flags":"F_OK","ret":0}`}},
		{"numbers as they are: -X raw", "12 openat(-100, \"/x\", 0x80000) = 3\n12 fcntl(3, 0x406, 0xa) = 10\n12 lseek(3, -8, 0x2) = 100\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"openat","path":"/x","flags":"O_RDONLY|O_CLOEXEC","ret":3}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"fcntl","fd":3,"flags":"F_DUPFD_CLOEXEC","ret":10}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"lseek","fd":3,"flags":"SEEK_END","offset":-8,"ret":100}`}},
		{"both: -X verbose", "12 openat(-100 /* AT_FDCWD */</home>, \"/x\", 0x80000 /* O_RDONLY|O_CLOEXEC */) = 3</x>\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"openat","path":"/x","flags":"O_RDONLY|O_CLOEXEC","ret":3,"target":{"kind":"unknown","link":"/x"}}`}},
		{"names of arguments", "12 openat(dfd=AT_FDCWD, filename=\"/x\", flags=O_RDONLY) = 3\n12 read(fd=3, buf=\"abc\", count=3) = 3\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"openat","path":"/x","flags":"O_RDONLY","ret":3}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":3,"count":3,"ret":3}`}},
		{"-n -i", "12 [ 257] [00007f8e0fa3e2d7] openat(AT_FDCWD, \"/x\", O_RDONLY) = 3\n12 [   3] [????????????????] close(3) = 0\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"openat","path":"/x","flags":"O_RDONLY","ret":3}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"close","fd":3,"ret":0}`}},
		{"security contexts", "12 [unconfined_u:unconfined_r:unconfined_t:s0] close(3) = 0\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"close","fd":3,"ret":0}`}},
		{"-r", "12         0.000000 close(3) = 0\n12         0.000250 close(4) = 0\n12         1.5 close(5) = 0\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"close","fd":3,"ret":0}`,
				`{"type":"syscall","t":0.000250,"pid":12,"tid":12,"name":"close","fd":4,"ret":0}`,
				`{"type":"syscall","t":1.500250,"pid":12,"tid":12,"name":"close","fd":5,"ret":0}`}},
		{"-t over midnight", "12 23:59:59 close(3) = 0\n12 00:00:01 close(4) = 0\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"close","fd":3,"ret":0}`,
				`{"type":"syscall","t":2.000000,"pid":12,"tid":12,"name":"close","fd":4,"ret":0}`}},
		{"-tt -r", "12 10:00:00.000001 (+     0.000000) close(3) = 0\n12 10:00:00.000004 (+     0.000003) close(4) = 0\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"close","fd":3,"ret":0}`,
				`{"type":"syscall","t":0.000003,"pid":12,"tid":12,"name":"close","fd":4,"ret":0}`}},
		{"-T in nanoseconds", "12 10:00:00.000001999 close(3) = 0 <0.000012345>\n12 10:00:01.000001999 close(4) = 0 <1.0>\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"close","fd":3,"ret":0,"dur_us":12}`,
				`{"type":"syscall","t":1.000000,"pid":12,"tid":12,"name":"close","fd":4,"ret":0,"dur_us":1000000}`}},
		{"interrupted by another thread", "12 10:00:00 read(3<pipe:[7]>,  <unfinished ...>\n13 10:00:01 close(4) = 0\n12 10:00:02 <... read resumed>\"a\", 1) = 1\n12 10:00:03 close(3) = 0\n",
			[]string{`{"type":"syscall","t":1.000000,"pid":12,"tid":13,"name":"close","fd":4,"ret":0}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":3,"count":1,"ret":1,"dur_us":2000000,"target":{"kind":"pipe","link":"pipe:[7]","ino":7}}`,
				`{"type":"syscall","t":3.000000,"pid":12,"tid":12,"name":"close","fd":3,"ret":0}`}},
		{"resumed, as older versions have it", "12 read(3,  <unfinished ...>\n13 close(4) = 0\n12 <... read resumed> \"a\", 1) = 1\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":13,"name":"close","fd":4,"ret":0}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":3,"count":1,"ret":1}`}},
		{"interrupted by a signal", "12 read(16<pipe:[7]>, 0x7ffd, 4096) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)\n12 --- SIGINT {si_signo=SIGINT, si_code=SI_KERNEL} ---\n12 rt_sigreturn({mask=[]}) = 0\n12 read(16<pipe:[7]>, ",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":16,"count":4096,"ret":-1,"errno":"ERESTARTSYS","target":{"kind":"pipe","link":"pipe:[7]","ino":7}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":16,"unfinished":true,"target":{"kind":"pipe","link":"pipe:[7]","ino":7}}`}},
		{"killed in a call", "12 read(16<pipe:[7]>,  <unfinished ...>) = ?\n12 +++ killed by SIGKILL (core dumped) +++\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":16,"unfinished":true,"target":{"kind":"pipe","link":"pipe:[7]","ino":7}}`,
				`{"type":"end","t":0.000000,"reason":"killed","signal":"SIGKILL","calls":1}`}},
		{"let go in a call", "12 read(16<pipe:[7]>,  <detached ...>\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":16,"unfinished":true,"target":{"kind":"pipe","link":"pipe:[7]","ino":7}}`}},
		{"reads, as newer versions have it", "12 read(16<pipe:[7]>", []string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":16,"unfinished":true,"target":{"kind":"pipe","link":"pipe:[7]","ino":7}}`}},
		{"reads, as newer versions have it, no link", "12 read(16", []string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":16,"unfinished":true}`}},
		{"reads from a file with a comma", "12 read(16</a,b>", []string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":16,"unfinished":true,"target":{"kind":"unknown","link":"/a,b"}}`}},
		{"unfinished, as newer versions have it", "12 read(16<pipe:[7]> <unfinished ...>\n", []string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":16,"unfinished":true,"target":{"kind":"pipe","link":"pipe:[7]","ino":7}}`}},
		{"cut off in what was read", "12 close(3) = 0\n12 read(16<pipe:[7]>, \"ab", []string{
			`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"close","fd":3,"ret":0}`,
			`{"type":"lost","t":0.000000,"reason":"the last line of the log is cut off; not used"}`}},
		{"what calls wait for", "12 poll([{fd=0</dev/pts/0>, events=POLLIN}, {fd=5, events=POLLIN}], 2, -1 <unfinished ...>\n13 wait4(20,  <unfinished ...>\n14 fcntl(3</x>, F_SETLKW, {l_type=F_WRLCK, l_whence=SEEK_SET, l_start=0, l_len=0} <unfinished ...>\n15 futex(0x7f00, FUTEX_WAIT_PRIVATE, 2, NULL) = ?\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"poll","arguments":"[{fd=0</dev/pts/0>, events=POLLIN}, {fd=5, events=POLLIN}], 2, -1","unfinished":true}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":13,"name":"wait4","arguments":"20","unfinished":true}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":14,"name":"fcntl","fd":3,"flags":"F_SETLKW","arguments":"3</x>, F_SETLKW, {l_type=F_WRLCK, l_whence=SEEK_SET, l_start=0, l_len=0}","unfinished":true,"target":{"kind":"unknown","link":"/x"}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":15,"name":"futex","arguments":"0x7f00, FUTEX_WAIT_PRIVATE, 2, NULL","unfinished":true}`}},
		{"exited", "12 exit_group(3) = ?\n12 +++ exited with 3 +++\n",
			[]string{`{"type":"end","t":0.000000,"reason":"exited","exit":3}`}},
		{"open that waits", "12 openat(AT_FDCWD, \"/fifo\", O_RDONLY",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"openat","path":"/fifo","flags":"O_RDONLY","unfinished":true}`}},
		{"cut off in a name", "12 close(3) = 0\n12 openat(AT_FDCWD, \"/fi",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"close","fd":3,"ret":0}`,
				`{"type":"lost","t":0.000000,"reason":"the last line of the log is cut off; not used"}`}},
		{"cut off in a result", "12 close(3) = 0\n12 openat(AT_FDCWD, \"/x\", O_RDONLY) ",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"close","fd":3,"ret":0}`,
				`{"type":"lost","t":0.000000,"reason":"the last line of the log is cut off; not used"}`}},
		{"lines of others between", "12 close(3) = 0\nBreakpoint 1, main () at x.c:3\nfoo(1) is not a call\n\n12 close(4) = 0\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"close","fd":3,"ret":0}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"close","fd":4,"ret":0}`,
				`{"type":"lost","t":0.000000,"reason":"2 lines of the log are not strace's (the first: line 2); not used"}`}},
		{"colors", "\x1b[93mclose\x1b[0m(\x1b[95m3\x1b[0m\x1b[95m)\x1b[0m = \x1b[92m0\x1b[0m\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":-1,"tid":-1,"name":"close","fd":3,"ret":0}`}},
		{"messages and summaries", "12 close(3) = 0\nstrace: Process 13 attached\n[ Process PID=12 runs in 32 bit mode. ]\n > /lib/libc.so.6(close+0x1) [0x1]\n | 00000  68 69  hi |\n% time     seconds  usecs/call     calls    errors syscall\n------ ----------- ----------- --------- --------- ----------------\n100.00    0.000001           0         1           total\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"close","fd":3,"ret":0}`}},
		{"memory by ptrace", "12 ptrace(PTRACE_PEEKTEXT, 20, 0x5555, [0x65732f636f72702f]) = 0\n12 ptrace(PTRACE_CONT, 20, NULL, 0) = 0\n",
			[]string{`{"type":"inferior","t":0.000000,"pid":20}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"ptrace","flags":"PTRACE_PEEKTEXT","count":8,"offset":21845,"ret":0,"target":{"kind":"procfs","link":"/proc/20/mem"},"data":"L3Byb2Mvc2U="}`}},
		{"memory by process_vm_readv", "12 process_vm_readv(20, [{iov_base=\"/proc/se\", iov_len=8}], 1, [{iov_base=0x5555, iov_len=8}], 1, 0) = 8\n",
			[]string{`{"type":"inferior","t":0.000000,"pid":20}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"process_vm_readv","count":8,"offset":21845,"ret":8,"target":{"kind":"procfs","link":"/proc/20/mem"},"data":"L3Byb2Mvc2U="}`}},
		{"openat2, statx", "12 openat2(AT_FDCWD, \"/x\", {flags=O_RDONLY|O_CLOEXEC, resolve=RESOLVE_NO_XDEV}, 24) = 3\n12 statx(3, \"\", AT_STATX_SYNC_AS_STAT|AT_EMPTY_PATH, STATX_ALL, {stx_mask=STATX_ALL, stx_mode=S_IFREG|0644, stx_size=1}) = 0\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"openat2","path":"/x","flags":"O_RDONLY|O_CLOEXEC","ret":3}`,
				`{"type":"fd","t":0.000000,"pid":12,"fd":3,"target":{"kind":"regular"}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"statx","dirfd":3,"fd":3,"flags":"AT_STATX_SYNC_AS_STAT|AT_EMPTY_PATH","ret":0,"target":{"kind":"regular"}}`}},
		{"which file it is: -v", "12 fstat(3</x>, {st_dev=makedev(0x8, 0x1), st_ino=77, st_mode=S_IFREG|0644, st_nlink=1}) = 0\n",
			[]string{`{"type":"fd","t":0.000000,"pid":12,"fd":3,"target":{"kind":"regular","link":"/x","dev":2049,"ino":77}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"fstat","fd":3,"ret":0,"target":{"kind":"regular","link":"/x","dev":2049,"ino":77}}`}},
		{"a pipe, without -y, opened again", "12 pipe2([3, 4], O_CLOEXEC) = 0\n12 openat(AT_FDCWD, \"/proc/self/fd/4\", O_RDONLY) = 5\n12 dup(5) = 6\n12 read(6, ",
			[]string{`{"type":"fd","t":0.000000,"pid":12,"fd":3,"access":"r","target":{"kind":"pipe","serial":1},"call":"pipe2"}`,
				`{"type":"fd","t":0.000000,"pid":12,"fd":4,"access":"w","target":{"kind":"pipe","serial":1},"call":"pipe2"}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"openat","path":"/proc/self/fd/4","flags":"O_RDONLY","ret":5,"target":{"kind":"pipe","serial":1}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"dup","fd":5,"ret":6,"target":{"kind":"pipe","serial":1}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":6,"unfinished":true,"target":{"kind":"pipe","serial":1}}`}},
		{"closed, and closed on exec, without -y", "12 pipe2([3, 4], 0) = 0\n12 pipe2([5, 6], O_CLOEXEC) = 0\n12 close(3) = 0\n12 execve(\"/bin/x\", [\"x\"], 0x1 /* 2 vars */) = 0\n12 dup(3) = 7\n12 dup(4) = 8\n12 dup(5) = 9\n",
			[]string{`{"type":"fd","t":0.000000,"pid":12,"fd":3,"access":"r","target":{"kind":"pipe","serial":1},"call":"pipe2"}`,
				`{"type":"fd","t":0.000000,"pid":12,"fd":4,"access":"w","target":{"kind":"pipe","serial":1},"call":"pipe2"}`,
				`{"type":"fd","t":0.000000,"pid":12,"fd":5,"access":"r","target":{"kind":"pipe","serial":2},"call":"pipe2"}`,
				`{"type":"fd","t":0.000000,"pid":12,"fd":6,"access":"w","target":{"kind":"pipe","serial":2},"call":"pipe2"}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"close","fd":3,"ret":0,"target":{"kind":"pipe","serial":1}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"execve","path":"/bin/x","ret":0}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"dup","fd":3,"ret":7}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"dup","fd":4,"ret":8,"target":{"kind":"pipe","serial":1}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"dup","fd":5,"ret":9}`}},
		{"a thread, and a child with files of its own", "12 pipe2([3, 4], 0) = 0\n12 clone(child_stack=0x7f, flags=CLONE_VM|CLONE_FILES|CLONE_THREAD, parent_tid=[13]) = 13\n12 clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD <unfinished ...>\n14 close(3) = 0\n12 <... clone resumed>, child_tidptr=0x7f) = 14\n13 dup(3) = 5\n",
			[]string{`{"type":"fd","t":0.000000,"pid":12,"fd":3,"access":"r","target":{"kind":"pipe","serial":1},"call":"pipe2"}`,
				`{"type":"fd","t":0.000000,"pid":12,"fd":4,"access":"w","target":{"kind":"pipe","serial":1},"call":"pipe2"}`,
				`{"type":"syscall","t":0.000000,"pid":14,"tid":14,"name":"close","fd":3,"ret":0,"target":{"kind":"pipe","serial":1}}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":13,"name":"dup","fd":3,"ret":5,"target":{"kind":"pipe","serial":1}}`}},
		{"a name of the inferior", "12 pread64(9</proc/20/task/20/mem>, \"abc\", 3, 4096) = 3\n12 read(5</proc/20/task/20/stat>, \"20 (my (prog)) t 12 20 6\"..., 1024) = 300\n12 readlink(\"/proc/20/exe\", \"/bin/prog\", 4095) = 9\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"pread64","fd":9,"count":3,"offset":4096,"ret":3,"target":{"kind":"procfs","link":"/proc/20/task/20/mem"},"data":"YWJj"}`,
				`{"type":"inferior","t":0.000000,"pid":20}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":5,"count":1024,"ret":300,"target":{"kind":"procfs","link":"/proc/20/task/20/stat"}}`,
				`{"type":"inferior","t":0.000000,"pid":20,"comm":"my (prog)"}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"readlink","path":"/proc/20/exe","count":4095,"ret":9,"data":"L2Jpbi9wcm9n"}`,
				`{"type":"inferior","t":0.000000,"pid":20,"comm":"my (prog)","exe":"/bin/prog"}`}},
		{"mmap", "12 mmap(NULL, 8192, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f00\n12 mmap(0x1000, 4096, PROT_READ|PROT_EXEC, MAP_PRIVATE, 3, 0x2000) = 0x7f00\n12 mmap(NULL, 4096, 0x1, 0x2, 3, 0) = 0x7f00\n",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"mmap","fd":3,"flags":"PROT_READ|PROT_EXEC,MAP_PRIVATE","count":4096,"offset":8192,"ret":32512}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"mmap","fd":3,"flags":"PROT_READ,MAP_PRIVATE","count":4096,"offset":0,"ret":32512}`}},
		{"a backtrace", "12 openat(AT_FDCWD, \"/x\", O_RDONLY) = 3\n > /lib/libc.so.6(__open64+0x4d) [0xf82ed]\n > /usr/bin/gdb(main+0x10) [0x1234] gdb.c:25\n > /usr/bin/gdb(far+0x999999) [0x12]\n12 read(3, ",
			[]string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"openat","path":"/x","flags":"O_RDONLY","ret":3}`,
				`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"read","fd":3,"unfinished":true}`,
				`{"type":"stack","t":0.000000,"pid":12,"tid":12,"frames":[{"module":"/lib/libc.so.6","offset":"0xf82ed","function":"__open64"},{"module":"/usr/bin/gdb","offset":"0x1234","function":"main","file":"gdb.c","line":25},{"module":"/usr/bin/gdb","offset":"0x12"}],"call":"openat"}`}},
		{"windows line ends", "12 close(3) = 0\r\n", []string{`{"type":"syscall","t":0.000000,"pid":12,"tid":12,"name":"close","fd":3,"ret":0}`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			all, _, err := events(t, log(tc.log))
			if err != nil {
				t.Fatal(err)
			}
			if got := lines(t, all)[1:]; !slices.Equal(got, tc.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
			}
		})
	}
}

// What the session says of the process.
func TestSession(t *testing.T) {
	const exec = "execve(\"/usr/bin/gdb\", [\"gdb\", \"-nx\", \"./a\\tb\"], 0x7ffd /* 9 vars */) = 0\n"
	for _, tc := range []struct{ name, log, want string }{
		{"by set_tid_address", exec + "set_tid_address(0x7f) = 77\n", session + `77,"comm":"gdb","exe":"/usr/bin/gdb","cmdline":["gdb","-nx","./a\tb"]}}`},
		{"arguments cut", "9 execve(\"/usr/bin/gdb\", [\"gdb\", \"a long na\"...], 0x7ffd /* 9 vars */) = 0\n", session + `9,"comm":"gdb","exe":"/usr/bin/gdb"}}`},
		{"a debugger started by a script", "9 execve(\"/bin/sh\", [\"sh\"], 0x1) = 0\n9 clone(child_stack=NULL, flags=SIGCHLD) = 10\n10 execve(\"/usr/bin/gdb\", [\"gdb\"], 0x1) = 0\n",
			session + `10,"comm":"gdb","exe":"/usr/bin/gdb","cmdline":["gdb"]}}`},
		{"attached", "strace: Process 77 attached\nclose(3) = 0\n", session + `77}}`},
		{"by its own memory", "openat(AT_FDCWD</w>, \"/proc/self/mem\", O_RDWR) = 3</proc/78/mem>\n", session + `78,"cwd":"/w"}}`},
		{"by its child", "clone(child_stack=NULL, flags=SIGCHLD) = 80\nread(5, \"80 (a.out) t 79 80 6\"..., 1024) = 300\n", session + `79}}`},
		{"not told", "close(3) = 0\n", session + `-1}}`},
		{"the other threads are named", "clone(child_stack=0x7f, flags=CLONE_VM|CLONE_THREAD, parent_tid=[78]) = 78\nstrace: Process 78 attached\n[pid 78] close(3) = 0\n[pid    77] close(4) = 0\n", session + `77}}`},
		{"with its name", "[pid 77<gdb>] close(3) = 0\n", session + `77}}`},
		{"seconds since 1970", "12 1600000000.000005 close(3) = 0\n", `{"type":"session","schema":"whosefd.recording/v1","tool":"strace","source":"strace","start":"2020-09-13T12:26:40.000005Z","debugger":{"pid":12}}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			all, _, err := events(t, log(tc.log))
			if err != nil {
				t.Fatal(err)
			}
			if got := lines(t, all)[0]; got != tc.want {
				t.Errorf("got\n%s\nwant\n%s", got, tc.want)
			}
		})
	}
}

// A later program of the same process, and a name that comes with a line, are
// told by another session.
func TestLaterProgram(t *testing.T) {
	all, _, err := events(t, log("9 execve(\"/bin/sh\", [\"sh\"], 0x1) = 0\n"+strings.Repeat("9 brk(NULL) = 0x1\n", 80000)+"9 execve(\"/opt/gdb\", [\"gdb\"], 0x1) = 0\n"))
	if err != nil {
		t.Fatal(err)
	}
	if last, ok := all[len(all)-1].(*event.Session); !ok || last.Debugger.Exe != "/opt/gdb" || last.Debugger.PID != 9 {
		t.Errorf("%+v", all[len(all)-1])
	}
	all, _, err = events(t, log("[pid 77<gdb>] close(3) = 0\n"))
	if err != nil {
		t.Fatal(err)
	}
	if last, ok := all[len(all)-1].(*event.Session); !ok || last.Debugger.Comm != "gdb" {
		t.Errorf("%+v", all[len(all)-1])
	}
}

// Calls without events are counted.
func TestCounts(t *testing.T) {
	_, counts, err := events(t, log("12 brk(NULL) = 0x1000 <0.000003>\n12 brk(NULL) = -1 ENOMEM (Cannot allocate memory) <0.000009>\n12 write(1</tmp/a) = b>, \"x\\\") = -1 E\", 1) = 1\n"+
		"12 mmap(NULL, 8192, PROT_READ, MAP_ANONYMOUS, -1, 0) = 0x7f00\n12 poll([{fd=3, events=POLLIN}], 1, -1 <unfinished ...>\n13 futex(0x7f, FUTEX_WAIT) = 0\n12 <... poll resumed>) = 1 ([{fd=3, revents=POLLIN}])\n"+
		"14 <... wait4 resumed>NULL, 0, NULL) = -1 ECHILD (No child processes)\n12 pipe2([3, 4], 0) = 0\n12 new_call_of_2040(1) = 0\n"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Count{}
	for _, c := range counts {
		got[c.Name] = c
	}
	want := []Count{{Name: "brk", Calls: 2, Errors: 1, TotalUS: 12, MaxUS: 9}, {Name: "write", Calls: 1}, {Name: "mmap", Calls: 1}, {Name: "poll", Calls: 1},
		{Name: "futex", Calls: 1}, {Name: "wait4", Calls: 1, Errors: 1}, {Name: "pipe2", Calls: 1}, {Name: "new_call_of_2040", Calls: 1}}
	for _, w := range want {
		if got[w.Name] != w {
			t.Errorf("%+v, want %+v", got[w.Name], w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%v", got)
	}
}

// The files of strace -ff are put in order by their times; without times one
// comes after the other.
func TestThreadFiles(t *testing.T) {
	main := "10:00:00.1 execve(\"/usr/bin/gdb\", [\"gdb\"], 0x1) = 0\n10:00:00.2 clone(child_stack=0x1, flags=CLONE_VM|CLONE_THREAD) = 13\n10:00:00.4 close(4) = 0\n10:00:00.6 read(5, "
	other := "10:00:00.3 close(3) = 0\n10:00:00.5 close(5) = 0\n10:00:00.7 +++ exited with 0 +++\n"
	order := func(main, other string) (got []string) {
		all, _, err := events(t, Input{Reader: strings.NewReader(other), Name: "l.13", TID: 13}, Input{Reader: strings.NewReader(main), Name: "l.12", TID: 12})
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range all {
			if c, ok := ev.(*event.Syscall); ok {
				got = append(got, strings.TrimSpace(c.Name+" "+event.Hex(c.TID).String()+" "+event.Hex(c.PID).String()))
			}
		}
		return got
	}
	if got, want := order(main, other), []string{"execve 0xc 0xc", "close 0xd 0xc", "close 0xc 0xc", "close 0xd 0xc", "read 0xc 0xc"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	strip := func(s string) string {
		var b strings.Builder
		for line := range strings.Lines(s) {
			b.WriteString(line[len("10:00:00.1 "):])
		}
		return b.String()
	}
	if got, want := order(strip(main), strip(other)), []string{"close 0xd 0xc", "close 0xd 0xc", "execve 0xc 0xc", "close 0xc 0xc", "read 0xc 0xc"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if _, _, err := events(t, Input{Reader: strings.NewReader("nothing\n"), Name: "l.13", TID: 13}, Input{Reader: strings.NewReader(main), Name: "l.12", TID: 12}); err == nil || !strings.Contains(err.Error(), "l.13: line 1") {
		t.Errorf("%v", err)
	}
}

func TestSniff(t *testing.T) {
	for _, tc := range []struct {
		text string
		want Format
	}{
		{`{"type":"session","schema":"whosefd.recording/v1"}`, Recording},
		{"\n {", Recording},
		{"execve(\"/bin/ls\", [\"ls\"], 0x7ffd) = 0\n", Strace},
		{"read(16<pipe:[1]>, ", Strace},
		{"[pid  3] +++ exited with 0 +++\n", Strace},
		{"3 10:00:00.1 <... futex resumed>) = 0\n", Strace},
		{"GNU gdb (Debian) 13\nReading symbols\nclose(3) = 0\n(gdb) run\n", Strace},
		{"", Unknown},
		{"\n\n", Unknown},
		{"hello\n", Unknown},
		{"% time     seconds  usecs/call     calls    errors syscall\n", Unknown},
		{"\x7fELF\x02\x01\x01\x00\x00close(3) = 0\n", Unknown},
		{"int main(void)\n{\n\tint fd = open(\"x\", 0);\n\tread(fd, b, 1);\n\tclose(fd);\n}\n", Unknown},
		{"malloc(32) = 0x5555\nfree(0x5555) = <void>\n", Unknown},
		{strings.Repeat("some other text\n", 100) + "close(3) = 0\n", Unknown},
	} {
		if got, why := Sniff([]byte(tc.text)); got != tc.want || got == Unknown && why == "" {
			t.Errorf("%.40q: %d (%s), want %d", tc.text, got, why, tc.want)
		}
	}
}

func TestErrors(t *testing.T) {
	boom := errors.New("boom")
	for _, tc := range []struct {
		name string
		in   io.Reader
		want string
	}{
		{"garbage", strings.NewReader("hello\n"), "line 1: not a log of strace"},
		{"empty", strings.NewReader(""), "line 1: not a log of strace: it is empty"},
		{"recording", strings.NewReader("{}"), "line 1: not a log of strace"},
		{"reading fails at once", iotest.ErrReader(boom), "line 1: boom"},
		{"reading fails later", io.MultiReader(strings.NewReader("close(3) = 0\nclose(4) = 0\n"), iotest.ErrReader(boom)), "line 3: boom"},
		{"a line without end", io.MultiReader(strings.NewReader("close(3) = 0\n"), endless{}), "line 2: longer than"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, _, err := events(t, Input{Reader: tc.in}); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
	if _, _, err := events(t); err == nil {
		t.Error("no input: no error")
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

// What is read does not depend on how it comes.
func TestPieces(t *testing.T) {
	text := strings.Repeat("12 openat(AT_FDCWD, \"/proc/self/fd/4\", O_RDONLY) = 3</x>\n12 brk(NULL) = 0x1\n13 read(3</x>, \"abc\"..., 832) = 832\n", 20000) + "12 read(3</x>, "
	whole, _, err := events(t, log(text))
	if err != nil {
		t.Fatal(err)
	}
	pieces, _, err := events(t, Input{Reader: iotest.OneByteReader(strings.NewReader(text))})
	if err != nil || !slices.Equal(lines(t, whole), lines(t, pieces)) {
		t.Errorf("%d events in one piece, %d byte by byte (%v)", len(whole), len(pieces), err)
	}
	if len(whole) != 40002 {
		t.Errorf("%d events", len(whole))
	}
}

// What was learned of a file is forgotten where too many others come, and the
// same ones each time: two readings of a log are equal.
func TestRepeatable(t *testing.T) {
	var text strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&text, "openat(AT_FDCWD, \"/f%d\", O_RDONLY) = 3</f%[1]d>\nnewfstatat(3</f%[1]d>, \"\", {st_mode=S_IFREG|0644, st_size=9, ...}, AT_EMPTY_PATH) = 0\n", i)
	}
	for i := range 3000 {
		fmt.Fprintf(&text, "openat(AT_FDCWD, \"/f%d\", O_RDONLY) = 3</f%[1]d>\n", i)
	}
	first, _, err := events(t, log(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := events(t, log(text.String()))
	if err != nil || !slices.Equal(lines(t, first), lines(t, again)) {
		t.Errorf("the same log was read in two ways (%v)", err)
	}
}

// A log of any length needs the same memory.
func TestMemory(t *testing.T) {
	r := NewReader(Input{Reader: &busyLog{left: 1 << 40}})
	var peak [2]uint64
	for n := range 1_000_000 {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		if n%50_000 == 0 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			late := n / 500_000
			peak[late] = max(peak[late], m.HeapAlloc)
		}
	}
	if peak[1] > peak[0]+peak[0]/10+1<<20 {
		t.Errorf("%d bytes are in use in the first half of a million lines, %d in the second", peak[0], peak[1])
	}
}

// FuzzReader: no log makes it panic, and all that it gives can be written.
func FuzzReader(f *testing.F) {
	f.Add([]byte("12 10:00:00.1 [ 257] [00007f8e0fa3e2d7] openat(AT_FDCWD</w>, \"/proc/self/fd/4\", O_RDONLY) = 16<pipe:[4798]> <0.000012>\n12 read(16<pipe:[4798]>, "), byte(0))
	f.Add([]byte("execve(\"/usr/bin/gdb\", [\"gdb\"], 0x1 /* 9 vars */) = 0\npipe2([3, 4], O_CLOEXEC) = 0\nclone(flags=CLONE_THREAD) = 7\n[pid 7] fstat(3, {st_dev=makedev(0x8, 0x1), st_ino=7, st_mode=S_IFIFO|0600}) = 0\n > /x(y+0x1) [0x1]\n"), byte(2))
	f.Add([]byte("ptrace(PTRACE_PEEKTEXT, 20, 0x5555, [0x65]) = 0\nprocess_vm_readv(20, [{iov_base=\"/p\", iov_len=8}], 1, [{iov_base=0x5555, iov_len=8}], 1, 0) = 8\n--- SIGINT {} ---\n+++ killed by SIGKILL +++\n"), byte(1))
	for _, tc := range pasted() {
		f.Add([]byte(tc.log), byte(0))
	}
	f.Fuzz(func(t *testing.T, text []byte, files byte) {
		in := []Input{{Reader: bytes.NewReader(text)}}
		if n := int(files % 4); n > 1 {
			in = in[:0]
			for i := range n {
				in = append(in, Input{Reader: bytes.NewReader(text[i*len(text)/n : (i+1)*len(text)/n]), Name: "f", TID: event.TID(i + 1)})
			}
		}
		all, _, err := events(t, in...)
		if err != nil && len(all) == 0 {
			return
		}
		if len(all) == 0 || all[0].Type() != "session" {
			t.Fatalf("%d events without a session", len(all))
		}
		lines(t, all)
	})
}

// A debugger that reads a core file has one for its inferior: its header says so.
func TestCoreInLog(t *testing.T) {
	const log = `100 execve("/usr/bin/gdb", ["gdb", "a.out", "core"], 0x7ff /* 5 vars */) = 0
100 openat(AT_FDCWD</tmp>, "/tmp/%[1]s", O_RDONLY|O_CLOEXEC) = 13</tmp/%[1]s>
100 read(13</tmp/%[1]s>, "\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\%[2]d\0>\0\1\0\0\0\0\0\0\0\0\0\0\0"..., 4096) = 4096
100 read(13</tmp/%[1]s>, "\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\%[2]d\0>\0\1\0\0\0\0\0\0\0\0\0\0\0"..., 4096) = 4096
`
	for kind, want := range map[int]int{2: 0, 3: 0, 4: 1} { // ET_EXEC, ET_DYN, ET_CORE
		all, _, err := events(t, Input{Reader: strings.NewReader(fmt.Sprintf(log, "file", kind))})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, ev := range all {
			if inf, ok := ev.(*event.Inferior); ok && inf.Core != nil && inf.Core.Link == "/tmp/file" {
				n++
			}
		}
		if n != want {
			t.Errorf("type %d: %d cores, want %d", kind, n, want)
		}
	}
}
