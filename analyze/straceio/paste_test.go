package straceio

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"whosefd/tracer/event"
)

// told is what a log says, in short: the debugger, how often each call was made,
// which have not ended, what was left out, how it ended.
func told(t testing.TB, in ...Input) string {
	t.Helper()
	all, counted, err := events(t, in...)
	if err != nil {
		return err.Error()
	}
	lines(t, all) // they can be written
	var out, rest []string
	calls := map[string]int64{}
	for _, c := range counted {
		calls[c.Name] = c.Calls
	}
	debugger := event.Process{}
	for _, ev := range all {
		switch ev := ev.(type) {
		case *event.Session:
			debugger = *ev.Debugger
		case *event.Syscall:
			if !ev.Unfinished {
				calls[ev.Name]++
				break
			}
			s := fmt.Sprintf("in %s", ev.Name)
			if ev.FD.Known {
				s += fmt.Sprintf("(%d)", ev.FD.Val)
			}
			if ev.TID > 0 && (event.PID(ev.TID) != debugger.PID || ev.PID != debugger.PID) {
				s += fmt.Sprintf(" by %d", ev.TID)
			}
			if ev.PID != debugger.PID {
				s += " elsewhere"
			}
			rest = append(rest, s)
		case *event.Inferior:
			rest = append(rest, fmt.Sprintf("inferior %d", ev.PID))
		case *event.Stack:
			rest = append(rest, fmt.Sprintf("%d frames", len(ev.Frames)))
		case *event.Lost:
			rest = append(rest, strings.TrimSuffix(ev.Reason, "; not used"))
		case *event.End:
			rest = append(rest, strings.TrimRight(fmt.Sprintf("%s %d %s", ev.Reason, ev.Exit.Val, ev.Signal), "0 "))
		}
	}
	if debugger.PID > 0 {
		out = append(out, strings.TrimRight(fmt.Sprintf("%d %s", debugger.PID, debugger.Comm), " "))
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(calls)) {
		names = append(names, fmt.Sprintf("%s %d", name, calls[name]))
	}
	if len(names) > 0 {
		out = append(out, strings.Join(names, ", "))
	}
	return strings.Join(append(out, rest...), "; ")
}

// hang is the log of a debugger that hangs, and hung what it says.
const (
	hang = `openat(AT_FDCWD, "/proc/self/fd/4", O_RDONLY|O_CLOEXEC) = 16
fstat(16, {st_mode=S_IFIFO|0600, st_size=0, ...}) = 0
fcntl(16, F_GETFL)                      = 0x8000 (flags O_RDONLY|O_LARGEFILE)
fstat(16, {st_mode=S_IFIFO|0600, st_size=0, ...}) = 0
read(16, `
	hung = "fcntl 1, fstat 2, openat 1; in read(16)"
)

// each puts something before and behind every line.
func each(before, behind string) string {
	var out strings.Builder
	for line := range strings.Lines(hang) {
		out.WriteString(before + strings.TrimSuffix(line, "\n") + behind + "\n")
	}
	return out.String()
}

// pasted are logs as people paste them, and what they say. Most kinds were seen in
// public issues and mails.
func pasted() []struct{ name, log, want string } {
	n := 0
	counted := func(format string) string { // with the number of the line
		var out strings.Builder
		for line := range strings.Lines(hang) {
			n++
			fmt.Fprintf(&out, format, n, strings.TrimSuffix(line, "\n"))
		}
		return out.String()
	}
	return []struct{ name, log, want string }{
		// strace's own messages
		{"Ctrl-C", "strace: Process 100 attached\n" + hang + "^Cstrace: Process 100 detached\n <detached ...>\n", "100; " + hung},
		{"Ctrl-C, strace 4", "Process 100 attached\n" + hang + "^CProcess 100 detached\n <detached ...>\n", "100; " + hung},
		{"Ctrl-C, older", "Process 100 attached - interrupt to quit\n" + hang + "^C <unfinished ...>\nProcess 100 detached\n", "100; " + hung},
		{"Ctrl-C in a line of its own", hang + "\n^C\nstrace: Process 100 detached\n <detached ...>\n", hung},
		{"Ctrl-C and a prompt", hang + "^C\n[user@host ~]$ \n", hung + "; 1 line of the log is not strace's (the first: line 6)"},
		{"Ctrl-C of several", "strace: Process 100 attached with 2 threads\n[pid   101] futex(0x7f00, FUTEX_WAIT, 2, NULL <unfinished ...>\n[pid   100] read(16, ^Cstrace: Process 100 detached\n <detached ...>\nstrace: Process 101 detached\n",
			"100; in read(16); in futex by 101"},
		{"Ctrl-C, another is let go first", "strace: Process 100 attached with 2 threads\n[pid   100] close(3) = 0\n[pid   100] read(16, ^Cstrace: Process 101 detached\nstrace: Process 100 detached\n <detached ...>\n", "100; close 1; in read(16)"},
		{"SIGTERM to strace", "read(16, strace: Process 100 detached\n <detached ...>\n", "in read(16)"},
		{"newer, without a comma", "close(3) = 0\nread(16 <detached ...>\n", "close 1; in read(16)"},
		{"debug output of strace -d", "close(3) = 0\nread(5, ^Ccleanup: looking at pid 7716\n<unfinished ...>\n", "close 1; in read(5)"},
		{"debug output inside", "brk(0x78f000 [wait(0x057f) = 23] WIFSTOPPED,sig=SIGTRAP\n)                           = 0x78f000\n [wait(0x057f) = 23] WIFSTOPPED,sig=SIGTRAP\nclose(3) = 0\n", "brk 1, close 1"},
		{"a thread attached before the arguments", "close(3) = 0\nclone(Process 4281 attached\nchild_stack=0, flags=CLONE_CHILD_CLEARTID|SIGCHLD, child_tidptr=0x7f2b) = 4281\n", "clone 1, close 1"},
		{"waiting for the parent", "vfork(Process 1819 attached (waiting for parent)\nProcess 1819 resumed (parent 1818 ready)\n)                                 = 1819\n[pid  1819] execve(\"/bin/sh\", [\"sh\"], [/* 26 vars */]) = 0\n[pid  1818] read(16, ", "1818; execve 1, vfork 1; in read(16)"},
		{"suspended", "[pid 31989] wait4(31990, Process 31989 suspended\n <unfinished ...>\n[pid 31990] close(3) = 0\n[pid 31989] <... wait4 resumed> [{WIFEXITED(s)}], 0, NULL) = 31990\n", "31989; close 1, wait4 1"},
		{"in a list of signals", "[pid  5187] rt_sigsuspend([]Process 5192 attached\n~ <unfinished ...>\n[pid  5187] <... rt_sigsuspend resumed>) = ? ERESTARTNOHAND (To be restarted if no handler)\n", "5187; rt_sigsuspend 1"},
		{"32 bits", "close(3) = 0\n[ Process PID=12 runs in 32 bit mode. ]\nstrace: [ Process PID=12 runs in 64 bit mode. ]\nclose(4) = 0\n", "close 2"},
		{"warnings", "/usr/bin/strace: WARNING: proper structure decoding for this personality is not supported\nclose(4) = 0\n", "close 1"},
		{"two that were attached", "strace: Process 100 attached\nstrace: Process 200 attached\n[pid   200] close(4) = 0\n[pid   100] read(16, ", "100; close 1; in read(16)"},
		{"a summary behind", "close(4) = 0\n% time     seconds  usecs/call     calls    errors syscall\n------ ----------- ----------- --------- --------- ----------------\n 66.67    0.000020          10         2           write\n------ ----------- ----------- --------- --------- ----------------\n100.00    0.000030                     3           total\nhello\n",
			"close 1; 1 line of the log is not strace's (the first: line 7)"},

		// what the program writes, what is typed
		{"output inside", "write(1, \"one\\n\", 4one\n)                    = 4\nwrite(1, \"two\", 3two)                      = 3\nwrite(1, \"\\n\", 1\n)                       = 1\n", "write 3"},
		{"output of several lines inside", "write(1, \"a\\nb\\n\\nc\\n\", 7a\nb\n\nc\n)          = 7\nclose(3) = 0\n", "close 1, write 1"},
		{"output with quotes inside", "[pid 7] write(2, \"it's \\\"x\\\"\\n\", 9it's \"x\"\n)   = 9\n[pid 7] close(3) = 0\n", "7; close 1, write 1"},
		{"output of a child inside", "wait4(-1, total 5\ndrwxr-xr-x 2 root root 4096 (x)\n" + strings.Repeat("-rw-r--r-- 1 u u 0 f\n", 100) + "[{WIFEXITED(s) && WEXITSTATUS(s) == 0}], 0, NULL) = 105\nclose(3) = 0\nclose(4) = 0\n", "close 2, wait4 1"},
		{"echo of what is typed", "read(0, hello\n\"hello\\n\", 1024)                 = 6\nread(0, say \"hi\n\"say \\\"hi\\n\", 1024) = 8\nclose(3) = 0\n", "close 1, read 2"},
		{"echo of what is typed, not read yet", "close(3) = 0\nread(0, hel", "close 1; in read(0)"},
		{"echo of Ctrl-C", "read(0, ^C0x7ffd1c30, 1024)             = ? ERESTARTSYS (To be restarted if SA_RESTART is set)\n--- SIGINT {si_signo=SIGINT, si_code=SI_KERNEL} ---\n+++ killed by SIGINT +++\n", "read 1; killed 0 SIGINT"},
		{"a prompt of the debugger before", "close(3) = 0\n(gdb) read(0, \"q\\n\", 1024) = 2\n", "close 1, read 1"},
		{"other output before", "close(3) = 0\nReading symbols...done. openat(AT_FDCWD, \"/x\", O_RDONLY) = 4\nHello worldexit_group(0) = ?\nbye+++ exited with 0 +++\n", "close 1, exit_group 1, openat 1; exited"},
		{"calls that sound like functions", "memfd_create(\"x\", MFD_CLOEXEC) = 3\nmembarrier(MEMBARRIER_CMD_QUERY, 0) = 0x1ff\n", "membarrier 1, memfd_create 1"},
		{"functions that are none", "close(3) = 0\nclose(4) = 0\nclose(5) = 0\ndlopen(\"/x\") = 0x5555\nsee foo(3) for more = less\n", "close 3, dlopen 1; 1 line of the log is not strace's (the first: line 5)"},

		// mail, web pages, pagers
		{"indented", each("    ", ""), hung},
		{"indented by a tab", each("\t", ""), hung},
		{"quoted", each("> ", ""), hung},
		{"quoted twice", each("> > ", ""), hung},
		{"quoted, nested", each(">>> ", ""), hung},
		{"in a table", each("| ", ""), hung},
		{"indented, a clone in two lines", "    clone(child_stack=NULL, flags=SIGCHLDstrace: Process 105 attached\n    , child_tidptr=0x7f00) = 105\n    close(3) = 0\n", "clone 1, close 1"},
		{"broken by a mail program", "> openat(AT_FDCWD,\n> \"/proc/self/fd/4\", O_RDONLY|O_CLOEXEC) = 16\n> openat(AT_FDCWD, \"/sys\", O_RDWR) = -1\n> EACCES (Permission denied)\n> access(\"/x\", R_OK)      = -1 ENOENT (No such file or\n> directory)\n> close(3)               =\n> 0\n> read(16,\n", "access 1, close 1, openat 2; in read(16)"},
		{"broken by a terminal", "[pid 10927] poll([{fd=17, events=POLLIN}, {fd=16, events=POLLIN}], 2, -1<unfini\nshed ...>\n[pid 10925] poll([{fd=4, events=POLLIN}, {fd=6, events=PO\nLLIN}], 2, 0) = 0 (Timeout)\n[pid 10925] openat(AT_FDCWD, \"/proc/se\nlf/fd/4\", O_RDONLY) = 16\n", "10925; openat 1, poll 1; in poll by 10927"},
		{"broken in a signal", "close(3) = 0\n--- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED,\nsi_pid=5} ---\nclose(4) = 0\n", "close 2"},
		{"quoted-printable", "openat(AT_FDCWD, \"/proc/self/fd/4\", O_RDONLY|O_CLOEXE=\nC) =3D 16\nfstat(16, {st_mode=3DS_IFIFO|0600, st_size=3D0, ...}) =3D 0\nread(16, <unfinished =\n...>\n", "fstat 1, openat 1; in read(16)"},
		{"a fence of markdown", "Here is what it does:\n```console\n" + hang + "\n```\n", hung + "; 1 line of the log is not strace's (the first: line 1)"},
		{"a fence and a command", "```\n$ sudo strace -p 100\nstrace: Process 100 attached\n" + hang + "^Cstrace: Process 100 detached\n <detached ...>\n```\n", "100; " + hung},
		{"code in line", each("`", "`"), hung},
		{"escapes of markdown", strings.NewReplacer("_", `\_`, "|", `\|`, "(", `\(`, ")", `\)`).Replace(hang), hung},
		{"lines apart", strings.ReplaceAll(hang, "\n", "\n\n"), hung},
		{"entities of HTML", strings.NewReplacer("<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace(hang + "<unfinished ...>\n"), hung},
		{"tags of HTML", "<pre>" + strings.ReplaceAll(hang, "\n", "<br>\n") + "&lt;unfinished ...&gt;<br>\n</pre>\n", hung},
		{"quoted on a web page", "<span class=\"quotelev1\">&gt; close(3) = 0\n</span><br>\n<span class=\"quotelev1\">&gt; read(16, &lt;unfinished ...&gt;\n</span><br>\n", "close 1; in read(16)"},
		{"quotation marks of a word processor", strings.NewReplacer(`"/`, "“/", `4"`, "4”", "...", "…", "= ", "=\u00a0").Replace(hang), hung},
		{"Windows", strings.ReplaceAll(hang, "\n", "\r\n"), hung},
		{"Windows, broken", "read(16, ^Cstrace: Process 1 detached\r\n <detached ...>\r\n", "in read(16)"},
		{"a mark of the byte order", "\ufeff" + hang, hung},
		{"UTF-16", string(utf16le(hang)), hung},
		{"colors of a prompt", "\x1b]0;user@host: ~\x07\x1b[01;32muser@host\x1b[00m:\x1b[01;34m~\x1b[00m$ strace -p 5\n" + hang, hung},
		{"cat -n", counted("%6d\t%s\n"), hung},
		{"less -N", counted("%7d %s\n"), hung},
		{"grep -n", each("strace.log:17:", ""), hung},
		{"grep of strace -ff", "log.12:close(3) = 0\nlog.13-close(4) = 0\nlog.12:read(16, \n", "12; close 2; in read(16)"},
		{"tail of strace -ff", "==> log.12 <==\nclose(3) = 0\nread(16, \n\n==> log.13 <==\nclose(4) = 0\n+++ exited with 0 +++\n", "12; close 2; in read(16)"},
		{"journalctl", each("Nov 26 01:14:21 host gdb.sh[55]: ", ""), hung},
		{"docker compose", each("debug_1  | ", ""), hung},
		{"kubectl logs --timestamps", each("2026-11-26T01:14:21.123456789Z ", ""), hung},
		{"Kubernetes", each("2026-11-26T01:14:21.123456789Z stderr F ", ""), hung},
		{"short-iso of journalctl", each("2026-11-26T01:14:21+0000 host strace[55]: ", ""), hung},
		{"ts", each("Nov 26 01:14:21 ", ""), hung},
		{"json-file of docker", "{\"log\":\"close(3) = 0\\n\",\"stream\":\"stderr\"}\n{\"log\":\"openat(AT_FDCWD, \\\"/x\\\", O_RDONLY) = 3\\n\",\"stream\":\"stderr\"}\n", "close 1, openat 1"},
		{"arrows", each("--> ", ""), hung},
		{"Jira", "{noformat}\n" + hang + "\n{noformat}\n", hung},
		{"a forum", "[code]\n" + hang + "\n[/code]\n", hung},
		{"remarks behind", strings.TrimSpace(hang) + "      <--- it hangs here, for ever\n", hung},
		{"remarks behind the mark", hang + "<unfinished ...>    <== here\n", hung},
		{"a word at the end", hang + "\n\nNothing more comes.\n", hung + "; 1 line of the log is not strace's (the first: line 7)"},
		{"lines in a row", "openat(AT_FDCWD, \"/x\", O_RDONLY) = 3 write(1, \"a(1) = 3 close(3) = 0\", 5) = 5 access(\"/y\", R_OK) = -1 ENOENT (No such file or directory) close(3) = 0 read(16, \n", "access 1, close 1, openat 1, write 1; in read(16)"},
		{"tabs for blanks", strings.NewReplacer(" ", "\t").Replace(hang), hung},
		{"no blanks", "close(3) =0\nclose(4)=-1 EBADF (Bad file descriptor)\n", "close 2"},
		{"a comment", each("// ", ""), hung},
		{"a list", each("* ", ""), hung},
		{"parts left out", "openat(AT_FDCWD, \"/x\", O_RDONLY) = 3\n...\n[snip]\nread(16, ", "openat 1; in read(16); 2 lines of the log are not strace's (the first: line 2)"},
		{"lines cut by a pager", "openat(AT_FDCWD, \"/etc/ld.so.ca\nopenat(AT_FDCWD, \"/lib/libc.so\nclose(3)  = 0\nread(16, \n", "close 1; in read(16); 2 calls are cut off (the first: line 1)"},
		{"a result is missing", "openat(AT_FDCWD, \"/dev/kfd\", O_RDWR\nwrite(1, \"x\", 1) = 1\nclose(3) = 0\n", "close 1, write 1; 1 call is cut off (the first: line 1)"},
		{"prose that is no command", "strace says this:\n{\"a\": 1}\n$ strace -p 3\n" + hang, hung + "; 2 lines of the log are not strace's (the first: line 1)"},
		{"prose around", strings.Repeat("This is what I have found out about it so far.\n", 60) + hang + "\n" + strings.Repeat("Has anybody seen this?\n", 30), hung + "; 90 lines of the log are not strace's (the first: line 1)"},
		{"frames, quoted", ">  openat(AT_FDCWD, \"/x\", O_RDONLY) = 3\n>   > /lib/libc.so.6(__open64+0x4d) [0xf82ed]\n>   > /usr/bin/gdb(main+0x10) [0x1234]\n>  read(3, \n", "openat 1; in read(3); 2 frames"},

		// who it is
		{"a child runs another program", "100   vfork( <unfinished ...>\n105   execve(\"/bin/sh\", [\"sh\"], 0x55d0 <unfinished ...>\n100   <... vfork resumed>)              = 105\n105   <... execve resumed>)             = 0\n100   read(16,  <unfinished ...>\n105   exit_group(0)                     = ?\n", "100; execve 1, exit_group 1, vfork 1; in read(16)"},
		{"a shell starts the debugger", "9 execve(\"/bin/sh\", [\"sh\"], 0x1) = 0\n9 clone(child_stack=NULL, flags=SIGCHLD) = 10\n10 execve(\"/usr/bin/gdb\", [\"gdb\"], 0x1) = 0\n9 wait4(-1,  <unfinished ...>\n10 read(16, ", "10 gdb; clone 1, execve 2; in wait4 by 9 elsewhere; in read(16)"},
		{"one that traces another", "9 clone(child_stack=NULL, flags=SIGCHLD) = 10\n9 wait4(-1,  <unfinished ...>\n10 ptrace(PTRACE_GETREGS, 300, NULL, 0x7ff0) = 0\n10 read(16, ", "10; clone 1, ptrace 1; inferior 300; in wait4 by 9 elsewhere; in read(16)"},
		{"attached before", "ptrace(PTRACE_GETREGS, 300, NULL, 0x7ff0) = 0\nptrace(PTRACE_CONT, 300, NULL, 0)       = 0\nwait4(300, [{WIFSTOPPED(s) && WSTOPSIG(s) == SIGTRAP}], __WALL, NULL) = 300\n", "ptrace 2, wait4 1; inferior 300"},
		{"the last one needs no number", "execve(\"/bin/sh\", [\"sh\"], 0x7ff0) = 0\nclone(child_stack=NULL, flags=SIGCHLDstrace: Process 105 attached\n, child_tidptr=0x7f00) = 105\n[pid   100] wait4(-1,  <unfinished ...>\n[pid   105] exit_group(0)               = ?\n[pid   105] +++ exited with 0 +++\n<... wait4 resumed>[{WIFEXITED(s)}], 0, NULL) = 105\nread(3, ", "100 sh; clone 1, execve 1, exit_group 1, wait4 1; in read(3)"},

		// how it ended
		{"exit without a line, -qq", "execve(\"/bin/a\", [\"a\"], 0x7ff0) = 0\nexit_group(3)                           = ?\n", "execve 1, exit_group 1; exited 3"},
		{"exit, cut off", "close(3) = 0\nexit_group(3", "close 1, exit_group 1; exited 3"},
		{"exit while others wait", "12 close(3) = 0\n13 futex(0x7f, FUTEX_WAIT <unfinished ...>\n12 exit_group(0) = ?\n", "12; close 1, exit_group 1; exited"},
		{"killed", "12 read(16, <unfinished ...>) = ?\n12 +++ killed by SIGKILL +++\n", "12; in read(16); killed 0 SIGKILL"},
		{"killed, without a line about it", "12 read(16, <unfinished ...>) = ?\n", "12; in read(16); killed"},
		{"resumed, and killed", "12 read(16,  <unfinished ...>\n12 <... read resumed> <unfinished ...>) = ?\n12 +++ killed by SIGKILL +++\n", "12; in read(16); killed 0 SIGKILL"},
		{"a thread ends", "pipe2([3, 4], O_CLOEXEC) = 0\nclone3({flags=CLONE_VM|CLONE_THREAD, exit_signal=0}strace: Process 101 attached\n => {parent_tid=[101]}, 88) = 101\n[pid   101] exit(0)                     = ?\n[pid   101] +++ exited with 0 +++\nread(16,", "clone3 1, exit 1, pipe2 1; in read(16)"},
		{"interrupted calls", "restart_syscall(<... resuming interrupted nanosleep ...>) = 0\nrestart_syscall(<... resuming interrupted read ...> <detached ...>\n", "restart_syscall 1; in restart_syscall"},
		{"a call that is not known", "close(3) = 0\n???( <detached ...>\n", "close 1; in ???"},

		// times
		{"epoch, indented", "    1700000000.100000 openat(AT_FDCWD, \"/a\", O_RDONLY) = 3\n    1700000000.200000 close(3) = 0\n", "close 1, openat 1"},
		{"time before the number", "12:00:00.000001 [pid 12] close(3) = 0\n12:00:01.000001 [pid 13] close(4) = 0\n", "12; close 2"},
		{"a number and its name", "[pid  2664<gdb>] 12:00:00.5 read(16<pipe:[7]>,  <unfinished ...>\n12<gdb> 1700000000.5 close(4) = 0\n", "12 gdb; close 1; in read(16) by 2664"},
	}
}

func TestPasted(t *testing.T) {
	for _, tc := range pasted() {
		t.Run(tc.name, func(t *testing.T) {
			if got := told(t, log(tc.log)); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func utf16le(s string) []byte {
	b := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return b
}

// What is no log of strace is refused by its name.
func TestForeign(t *testing.T) {
	for _, tc := range []struct{ log, want string }{
		{"mmap(0x0,656,PROT_READ|PROT_WRITE,MAP_ANON,-1,0x0) = 34365190144 (0x800533000)\nopen(\"/a\",O_RDONLY,0666)\t\t ERR#2 'No such file or directory'\nclose(3)\t\t\t\t = 0 (0x0)\nexit(0x0)\n", "truss of FreeBSD"},
		{" 2021: write(26803,\"C\",1)\t\t\t = 1 (0x1)\n 2021: read(26802,\"C\",1)\t\t\t = 1 (0x1)\n", "truss of FreeBSD"},
		{"open(\"/var/ld/ld.config\", O_RDONLY)             Err#2 ENOENT\nclose(3)                                        = 0\n", "truss of Solaris"},
		{"SYSCALL(args) \t\t = return\nopen(\"/dev/dtracehelper\\0\", 0x2, 0xFFFFFFFFEFBFF940)\t\t = 3 0\nclose(0x3)\t\t = 0 0\n", "dtruss of macOS"},
		{"open(\"/a\", 0, 037777402000 <unfinished ...>\nSYS_openat(0xffffff9c, 0x7ffc, 0, 0)             = 3\n<... open resumed> )                             = 3\nmalloc(135167 <unfinished ...>\n", "ltrace"},
		{"openat@SYS(AT_FDCWD, \"/a\", 0x80000, 00)   = 3\nread@SYS(3, \"\", 5)      = 0\n", "ltrace"},
		{"[pid 12] malloc(32)    = 0x5555\n[pid 12] close(3) = 0\n[pid 12] +++ exited (status 0) +++\n", "ltrace"},
		{"     0.000 ( 0.003 ms): ls/1234 openat(dfd: CWD, filename: \"/etc/ld.so.cache\", flags: RDONLY|CLOEXEC) = 3\n     0.010 ( 0.001 ms): ls/1234 close(fd: 3) = 0\n", "perf trace"},
		{"12345 openat(AT_FDCWD,\"/etc/ld.so.preload\",O_RDONLY) = -1 errno=2 (No such file or directory)\n12345 openat(AT_FDCWD,\"/etc/ld.so.cache\",O_RDONLY|O_CLOEXEC) = 3\n", "qemu -strace"},
		{"I1126 01:14:21.000000       1 strace.go:570] [   1:   1] python E openat(AT_FDCWD /, 0x7f00 /etc/ld.so.cache, O_RDONLY|O_CLOEXEC, 0o0)\n", "gVisor's log"},
		{"SYSCALL[1234,1](257) sys_openat ( -100, 0x4023, 524288 ) --> [async] ... \n", "valgrind --trace-syscalls"},
		{"type=SYSCALL msg=audit(1364481363.243:24287): arch=c000003e syscall=2 success=no exit=-13\n", "the audit system"},
		{"  1234 ls       CALL  openat(AT_FDCWD,0x7ff,0<O_RDONLY>)\n  1234 ls       RET   openat 3\n", "kdump (ktrace)"},
		{"10 01:14:21.1 0 ls (123) > openat\n", "sysdig"},
		{"PID    COMM               FD ERR PATH\n12     gdb                 3   0 /x\n", "bpftrace or bcc"},
		{"Catchpoint 1 (call to syscall openat), 0x7f in open () from /lib/libc.so.6\n", "gdb's catch syscall"},
	} {
		_, why := Sniff([]byte(tc.log))
		if want := "it is output of " + tc.want + ", which is not read"; why != want {
			t.Errorf("%.40q: %q, want %q", tc.log, why, want)
		}
		if got := told(t, log(tc.log)); !strings.Contains(got, "not a log of strace: it is output of "+tc.want) {
			t.Errorf("%.40q: %s", tc.log, got)
		}
	}
	for _, tc := range []struct{ log, want string }{
		{"$ strace -c -p 100\nstrace: Process 100 attached\n^Cstrace: Process 100 detached\n% time     seconds  usecs/call     calls    errors syscall\n------ ----------- ----------- --------- --------- ----------------\n 66.67    0.000020          10         2           write\n", "summary of strace -c"},
		{"strace: Process 100 attached\n^Cstrace: Process 100 detached\n <detached ...>\n", "strace was attached, and has seen no system call"},
		{"$ strace -p 100\nstrace: attach: ptrace(PTRACE_SEIZE, 100): Operation not permitted\n", "strace has traced nothing there (strace: attach: ptrace(PTRACE_SEIZE, 100): Operation not permitted)"},
	} {
		if _, why := Sniff([]byte(tc.log)); !strings.Contains(why, tc.want) {
			t.Errorf("%.40q: %q, want %q", tc.log, why, tc.want)
		}
	}
}
