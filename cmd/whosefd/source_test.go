package main

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"whosefd/analyze"
	"whosefd/samples/scene"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// straced runs a program under strace and gives the log.
func straced(t *testing.T, options []string, program ...string) string {
	t.Helper()
	scene.Require(t, "strace", "ptrace")
	file := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command("strace", slices.Concat(options, []string{"-o", file}, program)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("strace %v: %v\n%s", options, err, out)
	}
	return file
}

// callsOf reads a file: what each call that is shown was, without what differs
// from run to run, and how often each call was made.
func callsOf(t *testing.T, files ...string) (calls []string, links map[string]bool, made map[string]int64) {
	t.Helper()
	a := &app{err: io.Discard, terminal: func(any) int { return 0 }}
	made, links = map[string]int64{}, map[string]bool{}
	counts, err := a.readSource(files, func(ev event.Event) {
		s, ok := ev.(*event.Syscall)
		if !ok {
			return
		}
		made[s.Name]++
		if row, _ := decode.ByName(s.Name); row == nil || s.Name == "execve" {
			return
		}
		if s.Target != nil && s.Target.Link != "" && s.Target.Kind != event.Pipe && s.Target.Kind != event.Socket { // others in each run
			links[string(s.Target.Link)] = true
		}
		if s.Name == "mmap" {
			s.Ret.Val = 0 // an address
		}
		if s.Name == "readlink" || s.Name == "readlinkat" {
			s.Data = nil
		}
		calls = append(calls, fmt.Sprintf("%s %q %v %d/%d/%d %s %d %d@%d = %d %s", s.Name, s.Path, s.PathTruncated, s.DirFD.Or(-1), s.FD.Or(-1), s.NewFD.Or(-1),
			s.Flags, s.Mode.Or(0), s.Count.Or(0), s.Offset.Or(0), s.Ret.Or(-99), s.Errno))
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range counts {
		made[c.Name] += c.Calls
	}
	return calls, links, made
}

// Whatever the options of strace, the log says the same as our own recording of
// the same program.
func TestStraceOptions(t *testing.T) {
	t.Parallel()
	scene.Require(t, "strace", "ptrace", "ls", "gcc")
	dir := t.TempDir()
	for _, name := range []string{"a", "b\tc", "ä\"<>", strings.Repeat("long", 50)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	program := []string{"ls", "-l", dir}
	record := filepath.Join(t.TempDir(), "record.jsonl")
	cmd := exec.Command(binary(t), slices.Concat([]string{"trace", "-o", record, "--"}, program)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("trace: %v\n%s", err, out)
	}
	want, wantLinks, _ := callsOf(t, record)
	if len(want) < 50 {
		t.Fatalf("only %d calls", len(want))
	}
	for _, options := range []string{"", "-y", "-yy", "-f", "-f -y -t", "-tt -T", "-ttt -r -yy", "-r", "-i -n", "-x -y", "-xx -y", "-X raw -y", "-X verbose -y -f",
		"-v -s 4096", "-s 1", "-k", "-y -Y -f", "-e read=all -y", "-C", "--absolute-timestamps=format:unix,precision:ns --syscall-times=ns"} {
		t.Run(options, func(t *testing.T) {
			file := straced(t, strings.Fields(options), program...)
			got, links, made := callsOf(t, file)
			for i := range max(len(got), len(want)) {
				if i >= len(got) || i >= len(want) || got[i] != want[i] {
					t.Fatalf("call %d of %d:\n got %s\nwant %s", i, len(want), at(got, i), at(want, i))
				}
			}
			if strings.Contains(options, "-y") {
				for link := range wantLinks {
					if !links[link] {
						t.Errorf("no call on %s", link)
					}
				}
			}
			log, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			count := map[string]int64{}
			for _, m := range regexp.MustCompile(`(?m)^(?:\d+(?:<\w+>)? +)?(?:[ \d:.(+)]+ )?(?:\[[ \d]+\] \[[\da-f]+\] )?(\w+)\(.*\) += `).FindAllStringSubmatch(string(log), -1) {
				count[m[1]]++
			}
			delete(count, "exit_group")
			delete(made, "exit_group")
			for name, n := range count {
				if made[name] != n {
					t.Errorf("%d calls of %s, the log has %d", made[name], name, n)
				}
			}
			if len(made) != len(count) {
				t.Errorf("calls %v, the log has %v", made, count)
			}
		})
	}
}

func at(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return "none"
}

// The files of strace -ff, by their prefix and one by one, compressed too.
func TestStraceThreads(t *testing.T) {
	t.Parallel()
	prefix := straced(t, []string{"-ff", "-ttt"}, "sh", "-c", "cat /dev/null; ls / >/dev/null")
	files, err := filepath.Glob(prefix + ".*")
	if err != nil || len(files) < 3 {
		t.Fatalf("%q, %v", files, err)
	}
	_, _, want := callsOf(t, files...)
	_, _, got := callsOf(t, prefix)
	if fmt.Sprint(got) != fmt.Sprint(want) || got["execve"] < 3 {
		t.Errorf("by prefix %v, one by one %v", got, want)
	}
	out, stderr, code := whosefd(t, "table", "--show", "summary", prefix)
	if code != 0 || !strings.Contains(out, "execve") {
		t.Errorf("exit code %d: %s%s", code, out, stderr)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	packed, err := os.Create(files[0] + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(packed)
	_, err = z.Write(text)
	if err = errors.Join(err, z.Close(), packed.Close(), os.Remove(files[0])); err != nil {
		t.Fatal(err)
	}
	if _, _, got := callsOf(t, prefix); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("with a compressed one %v, want %v", got, want)
	}
}

// What is no evidence is refused in one line, that says where and why.
func TestNoSource(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	log := write("log", "close(3) = 0\n")
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{write("text", "hello\nworld\n")}, "line 1: neither a recording of whosefd nor a log of strace"},
		{[]string{write("empty", "")}, "line 1: neither a recording of whosefd nor a log of strace: it is empty"},
		{[]string{write("summary", "% time     seconds  usecs/call     calls    errors syscall\n")}, "the summary of strace -c"},
		{[]string{write("binary", "\x7fELF\x00")}, "it is binary"},
		{[]string{filepath.Join(dir, "none")}, "no such file"},
		{[]string{log, write("other", "close(3) = 0\n")}, "only of strace -ff"},
		{[]string{write("a.1", "close(3) = 0\n"), write("a.2", "hello\n")}, "a.2: line 1: not a log of strace"},
	} {
		for _, command := range []string{"explain", "table"} {
			out, stderr, code := whosefd(t, append([]string{command}, tc.args...)...)
			if code != exitTrouble || out != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, tc.want) {
				t.Errorf("%s %v: exit code %d, %q, %q, want %q", command, tc.args, code, out, stderr, tc.want)
			}
		}
	}
}

// What a log that was pasted says: the verdict, whose it is, and what was left out.
func TestPastedLogs(t *testing.T) {
	t.Parallel()
	const opens = "openat(AT_FDCWD, \"/proc/self/fd/4\", O_RDONLY|O_CLOEXEC) = 16\nfstat(16, {st_mode=S_IFIFO|0600, st_size=0, ...}) = 0\n"
	for _, tc := range []struct {
		name, log     string
		code          int
		verdict, says string
		pid           event.PID
	}{
		{"interrupted by Ctrl-C", "strace: Process 100 attached\n" + opens + "read(16, ^Cstrace: Process 100 detached\n <detached ...>\n", exitFindings, "hang", "got its own pipe", 100},
		{"quoted", "> " + strings.ReplaceAll(opens, "\n", "\n> ") + "read(16,\n", exitFindings, "hang", "got its own pipe", 0},
		{"the wait alone", "strace: Process 100 attached\nread(16<pipe:[7]>, ^Cstrace: Process 100 detached\n <detached ...>\n", exitNothing, "blocked", "waits for data on descriptor 16, pipe:[7] (in read)", 100},
		{"a child runs another program", "100 pipe2([3, 4], O_CLOEXEC) = 0\n100 vfork( <unfinished ...>\n105 execve(\"/bin/sh\", [\"sh\"], 0x55d0 <unfinished ...>\n100 <... vfork resumed>) = 105\n105 <... execve resumed>) = 0\n100 " +
			strings.ReplaceAll(opens, "\nf", "\n100 f") + "100 read(16,  <unfinished ...>\n105 exit_group(0) = ?\n", exitFindings, "hang", "the debugger (pid 100) opened", 100},
		{"it has ended", "execve(\"/bin/a\", [\"a\"], 0x7ff0) = 0\nexit_group(0) = ?\n", exitNothing, "ok", "a has no inferior whose names it could have opened, and has ended.", 0},
		{"attached before", "ptrace(PTRACE_CONT, 300, NULL, 0) = 0\nwait4(300, NULL, __WALL, NULL) = 300\n", exitNothing, "ok", "opened no name", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "log")
			if err := os.WriteFile(file, []byte(tc.log), 0o600); err != nil {
				t.Fatal(err)
			}
			d, code := diagnosis(t, file)
			if code != tc.code || d.Verdict != tc.verdict || !strings.Contains(string(d.Summary), tc.says) {
				t.Errorf("exit code %d, %s: %s", code, d.Verdict, d.Summary)
			}
			if d.Debugger == nil && tc.pid != 0 || d.Debugger != nil && d.Debugger.PID != tc.pid {
				t.Errorf("debugger %+v", d.Debugger)
			}
			if len(d.Missing) > 0 {
				t.Errorf("missing %v", d.Missing)
			}
		})
	}

	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte("close(3) = 0\nhello\nopenat(AT_FDCWD, \"/etc/ld.so.ca\nclose(4) = 0\nclose(5) = 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	page := filepath.Join(t.TempDir(), "page.html")
	for _, args := range [][]string{{"explain", file}, {"table", file}, {"table", "--format", "json", file}, {"report", file, "-o", page}} {
		out, stderr, _ := whosefd(t, args...)
		if args[0] == "report" {
			b, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			out = html.UnescapeString(string(b))
		}
		for _, want := range []string{"1 line of the log is not strace's (the first: line 2)", "1 call is cut off (the first: line 3)"} {
			if !strings.Contains(out+stderr, want) {
				t.Errorf("%v does not say %q", args, want)
			}
		}
	}
}

// What is suspicious comes out only at the end of a log: table --findings shows the
// calls all the same, also of what can be read once only.
func TestFindingsOfLog(t *testing.T) {
	const log = "openat(AT_FDCWD, \"/etc/passwd\", O_RDONLY) = 3\nopenat(AT_FDCWD, \"/proc/self/fd/4\", O_RDONLY|O_CLOEXEC) = 16\nfstat(16, {st_mode=S_IFIFO|0600, st_size=0, ...}) = 0\nread(16, "
	dir := t.TempDir()
	file, fifo, healthy := filepath.Join(dir, "log"), filepath.Join(dir, "fifo"), filepath.Join(dir, "healthy")
	for name, text := range map[string]string{file: log, healthy: "openat(AT_FDCWD, \"/etc/passwd\", O_RDONLY) = 3\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() { _ = os.WriteFile(fifo, []byte(log), 0o600) }()
	for name, want := range map[string]string{file: "openat read", fifo: "openat read", healthy: ""} {
		out, stderr, code := whosefd(t, "table", "--findings", "--format", "json", name)
		var got struct{ Calls []struct{ Name, Rule string } }
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatalf("%v: %s", err, stderr)
		}
		var names []string
		for _, c := range got.Calls {
			if names = append(names, c.Name); c.Rule != "self-fd" {
				t.Errorf("%s: %+v", name, c)
			}
		}
		if all := strings.Join(names, " "); all != want || (code == exitFindings) != (want != "") {
			t.Errorf("%s: exit code %d, %q, want %q", name, code, all, want)
		}
	}
}

// settled waits until a log does not grow any more.
func settled(t *testing.T, file string) {
	t.Helper()
	size := int64(-1)
	eventually(t, "the log ends", func() bool {
		st, err := os.Stat(file)
		if err != nil {
			return false
		}
		same := st.Size() == size
		size = st.Size()
		time.Sleep(50 * time.Millisecond)
		return same
	})
}

// logHang checks what the log of a hung gdb gives.
func logHang(t *testing.T, gdb, inferior int, fd int, args ...string) *analyze.Finding {
	t.Helper()
	d, code := diagnosis(t, args...)
	if code != exitFindings || d.Verdict != "hang" || len(d.Findings) != 1 {
		t.Fatalf("exit code %d, %s: %s (%v)", code, d.Verdict, d.Summary, d.Missing)
	}
	f := &d.Findings[0]
	if f.Rule != analyze.RuleSelfFD || f.Effect != analyze.Hang || f.Name != "/proc/self/fd/4" || f.Confidence != analyze.Likely {
		t.Errorf("finding %s %s %q %s", f.Rule, f.Effect, f.Name, f.Confidence)
	}
	if !f.Opened.FD.Is(event.FD(fd)) || f.Opened.Kind != event.Pipe {
		t.Errorf("opened %+v, gdb hangs in descriptor %d", f.Opened, fd)
	}
	if f.Opened.PID != 0 && int(f.Opened.PID) != gdb {
		t.Errorf("opened by %d, gdb is %d", f.Opened.PID, gdb)
	}
	if int(f.Inferior) != inferior {
		t.Errorf("the name of %d, the inferior is %d", f.Inferior, inferior)
	}
	if !evidence(f, "provenance", "out of the memory of") || !evidence(f, "blocked", "read on descriptor") {
		t.Errorf("evidence %+v", f.Evidence)
	}
	if len(d.Missing) > 0 {
		t.Errorf("missing %v", d.Missing)
	}
	return f
}

func evidence(f *analyze.Finding, kind, text string) bool {
	return slices.ContainsFunc(f.Evidence, func(e analyze.Evidence) bool { return e.Kind == kind && strings.Contains(string(e.Text), text) })
}

// A real gdb that hangs under strace: the log is cut off in the middle of the
// read.
func TestExplainStraceLog(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		options string
		pipe    bool // the log has the pipe's inode
		entry   bool // and all of the link_map entry
	}{
		{options: "-y", pipe: true, entry: true},
		{options: "", entry: true},
		{options: "-yy -ttt -T -s 8", pipe: true},
		{options: "-s 4"},
	} {
		t.Run(tc.options, func(t *testing.T) {
			t.Parallel()
			scene.Require(t, "strace", "gdb", "ptrace", "root")
			file := filepath.Join(t.TempDir(), "log")
			gdb := scene.StartGDB(t, scene.GDB{Launcher: append([]string{"strace", "-o", file}, strings.Fields(tc.options)...),
				Args: []string{"--args", filepath.Join(scene.Build(t), "from_memory")}})
			gdb.Expect(scene.Prompt)
			gdb.Command("break foo")
			gdb.Send("run")
			fd := gdb.WaitBlocked(scene.Patience)
			inferior := gdb.Inferior()
			settled(t, file)
			f := logHang(t, gdb.PID, inferior, fd, file)
			if f.Opened.PID == 0 || !slices.Contains(f.Opened.SameAsFD, 4) || !evidence(f, "pipe-holders", "gdb itself holds a write end of this pipe (descriptor 4)") {
				t.Errorf("opened %+v, evidence %+v", f.Opened, f.Evidence)
			}
			if got := evidence(f, "link_map", "which points to this name"); got != tc.entry {
				t.Errorf("link_map %v, want %v: %+v", got, tc.entry, f.Evidence)
			}
			if tc.pipe {
				link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", gdb.PID, fd))
				if err != nil || string(f.Opened.Link) != link || !strings.Contains(link, strconv.FormatUint(f.Opened.Ino, 10)) {
					t.Errorf("opened %+v, the pipe is %s (%v)", f.Opened, link, err)
				}
			}
			// Text, which must not fail, and says what to do on the machine.
			out, _, _ := whosefd(t, "explain", file)
			if !strings.Contains(out, fmt.Sprintf("whosefd explain %d", gdb.PID)) {
				t.Errorf("%s", out)
			}
			if tc.options != "-y" {
				return
			}
			// Killed, as people do: the log then says so, and still shows why.
			if err := exec.Command("kill", "-9", strconv.Itoa(gdb.PID)).Run(); err != nil {
				t.Fatal(err)
			}
			gdb.Wait()
			f = logHang(t, gdb.PID, inferior, fd, file)
			if !evidence(f, "blocked", "when it was killed by SIGKILL") {
				t.Errorf("evidence %+v", f.Evidence)
			}
		})
	}
}

// strace attached to a running gdb, before it hangs: with -f, since then the
// inferior is not strace's tracee.
func TestExplainStraceLogAttached(t *testing.T) {
	t.Parallel()
	for _, options := range []string{"-y", "-f -tt"} {
		t.Run(options, func(t *testing.T) {
			t.Parallel()
			scene.Require(t, "strace", "gdb", "ptrace", "root")
			file := filepath.Join(t.TempDir(), "log")
			gdb := scene.StartGDB(t, scene.GDB{Args: []string{"--args", filepath.Join(scene.Build(t), "from_memory")}})
			gdb.Expect(scene.Prompt)
			gdb.Command("break foo")
			gdb.Command("starti")
			strace := scene.Start(t, scene.Command{Path: "strace", Args: slices.Concat(strings.Fields(options), []string{"-o", file, "-p", strconv.Itoa(gdb.PID)})})
			strace.ExpectErr("attached")
			gdb.Send("continue")
			fd := gdb.WaitBlocked(scene.Patience)
			settled(t, file)
			if options == "-y" {
				logHang(t, gdb.PID, gdb.Inferior(), fd, file)
				return
			}
			// Without -y, what gdb had open before is not in the log: neither its
			// pipe nor whose memory it reads. What it opened and waits in is.
			d, _ := diagnosis(t, file)
			if d.Verdict != "hang" || len(d.Findings) != 1 || d.Findings[0].Confidence != analyze.Possible {
				t.Errorf("%s, findings %+v", d.Verdict, d.Findings)
			}
			if d.Debugger == nil || int(d.Debugger.PID) != gdb.PID || d.Debugger.State != "blocked" || !d.Debugger.FD.Is(event.FD(fd)) {
				b, err := json.Marshal(d)
				t.Errorf("%s %v", b, err)
			}
		})
	}
}
