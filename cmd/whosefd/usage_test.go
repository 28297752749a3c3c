package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unicode"
	"unicode/utf8"

	"whosefd/analyze/report"
	"whosefd/samples/scene"
	"whosefd/tracer/procview"
)

// wrongUse is an input that is wrong, and what the message about it has.
type wrongUse struct {
	args []string
	want string
}

// across makes the same mistake with each of several commands, which are put
// before it.
func across(want string, args []string, commands ...string) (all []wrongUse) {
	for _, c := range commands {
		all = append(all, wrongUse{append(strings.Fields(c), args...), want})
	}
	return all
}

// Whatever is wrong with the arguments, a process or a file gets one line on
// standard error and exit code 2; nothing else is written, and no file.
func TestUsage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good", `{"type":"session","schema":"whosefd.recording/v1","tool":"test"}`+"\n"+`{"type":"end","reason":"x"}`+"\n")
	mine, noDir := write("mine", "mine"), filepath.Join(dir, "no", "file")
	folder, full, link, fifo, loop := filepath.Join(dir, "folder"), filepath.Join(dir, "full"), filepath.Join(dir, "link"), filepath.Join(dir, "fifo"), filepath.Join(dir, "loop")
	for _, err := range []error{os.Mkdir(folder, 0o700), os.Mkdir(full, 0o700), os.WriteFile(filepath.Join(full, "x"), nil, 0o600),
		os.Symlink(mine, link), os.Symlink("loop", loop), syscall.Mkfifo(fifo, 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	sleeper, zombie := sleeping(t), sleeping(t)
	if err := syscall.Kill(zombie, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a zombie", func() bool { return strings.HasPrefix(statusLine(t, zombie, "State"), "Z") })
	alive, self := strconv.Itoa(sleeper), strconv.Itoa(os.Getpid())

	var cases []wrongUse
	add := func(more ...wrongUse) { cases = append(cases, more...) }
	process := []string{"explain", "report", "repair", "repair --dry-run", "trace", "guard", "preflight", "explain -p", "trace -p", "guard -p", "explain " + alive + " --inferior"}
	for given, want := range map[string]string{
		"0": "not a process id", "2147483648": "not a process id", "99999999999999999999": "not a process id", "4194305": "no such process",
		strconv.Itoa(gone.Process.Pid): "no such process", "nobody-is-called-so": "no process is named", " 1": "no process is named", "1.5": "no process is named",
		"": "empty",
	} {
		add(across(want, []string{given}, process...)...)
	}
	add(across("not a process id", []string{"-1"}, "explain -p", "trace -p", "guard -p")...)
	add(across("has ended", []string{strconv.Itoa(zombie)}, "explain", "report", "repair", "trace", "guard")...)
	if _, err := os.Stat("/proc/2"); err == nil && os.Getpid() != 2 && statusLine(t, 2, "PPid") == "0" {
		add(across("kernel thread", []string{"2"}, "explain", "report", "repair", "trace", "guard", "preflight")...)
	}
	add(across("once", []string{"-p", "1", "2"}, "explain", "report", "repair", "trace", "guard", "preflight")...)
	add(across("unknown flag", []string{"--nonsense"}, "explain", "report", "table", "repair", "trace", "guard", "preflight", "ps", "doctor", "man", "help", "")...)
	add(across("not one of", []string{"--format", "yaml"}, "explain 1", "report 1", "table x", "repair 1", "preflight 1", "ps", "doctor")...)
	add(across("not one of", []string{"--color", "pink"}, "explain 1", "table x", "trace -p 1", "ps", "doctor", "man x")...)
	add(across("empty", []string{"--color="}, "explain", "table x", "trace", "ps", "doctor")...)
	add(across("unknown command", []string{"x"}, "", "doctor", "completion bash")...)
	add(across("no command", []string{"nothing"}, "help", "help trace")...)

	for given, want := range map[string]string{
		write("garbage", "hello\nworld\n"): "line 1", write("empty", ""): "empty", write("later", `{"type":"session","schema":"whosefd.recording/v9"}`+"\n"): "v9",
		write("other", `{"type":"end","reason":"x"}`+"\n"): "session", write("binary", "\x00\x01\xff\xfe"+strings.Repeat("\x00", 5000)): "line 1",
		write("esc", "\x1b]0;owned\a\n"): "line 1", write("wide", strings.Repeat("a", 17<<20)): "line 1", write("gzip", "\x1f\x8b\x08garbage"): "unpack gzip",
		write("zstd", "\x28\xb5\x2f\xfdgarbage"): "dictionary", write("badline", `{"type":"session","schema":"whosefd.recording/v1"}`+"\n{\"type\":\"syscall\",\"t\":\"x\"}\n{}\n"): "line 2",
		folder + "/": "directory", filepath.Join(dir, "none"): "no such file", filepath.Join(good, "x"): "not a directory", loop: "symbolic links",
	} {
		add(across(want, []string{given}, "explain", "table", "report")...)
	}
	add(across("running debugger", []string{good, "--inferior", "1"}, "explain", "report")...)
	add(across("running debugger", []string{good, "--debuginfod"}, "explain", "report")...)
	add(across("running debugger", []string{good, "-o", noDir + "/../../x"}, "explain")...)

	outputs := []string{"explain " + alive, "report " + alive, "report " + good, "repair " + alive, "trace --for 10ms -p " + alive, "trace -- true", "guard -p " + alive, "guard -- true"}
	for given, want := range map[string]string{
		"": "empty", folder: "directory", folder + "/": "directory", link: "symbolic link", fifo: "regular file", loop: "symbolic link",
		noDir: "no such file", "/dev/full": "regular file", filepath.Join(mine, "x"): "not a directory",
	} {
		cs := outputs
		for _, c := range cs {
			args := strings.Fields(c)
			add(wrongUse{slices.Concat(args[:1], []string{"-o", given}, args[1:]), want})
		}
	}
	// A record that comes to nothing leaves the file that was there.
	for _, c := range []string{"trace -p " + strconv.Itoa(zombie), "guard -p " + strconv.Itoa(zombie), "explain " + strconv.Itoa(zombie), "trace -- /dev/null", "trace --cpu 65535 -p " + alive} {
		for _, name := range []string{mine, filepath.Join(dir, "new")} {
			args := strings.Fields(c)
			add(wrongUse{slices.Concat(args[:1], []string{"-o", name}, args[1:]), ""})
		}
	}
	for _, one := range []struct{ args, want string }{
		{"explain 1 2 --json", "arg"}, {"explain 1 99999999", "no such process"}, {"table", "empty"}, {"man", "arg"}, {"man a b", "arg"}, {"preflight", "which process"}, {"repair 1 2", "arg"}, {"preflight 1 2", "arg"},
		{"man " + noDir, "no such file"}, {"man " + mine, "not a directory"},
		{"table --show all " + good, "not one of"},
		{"table --call opne " + good, "no call of that name"}, {"table --call= " + good, "empty"}, {"table --fd x " + good, "invalid"},
		{"table --fd -1 " + good, "not a descriptor"}, {"table --fd 4294967296 " + good, "not a descriptor"}, {"table --tid 0 " + good, "not a thread"},
		{"table --tid -7 " + good, "not a thread"}, {"table --path= " + good, "empty"}, {"table " + good + " " + good, "several files"},
		{"report --calls -1 " + good, "below zero"}, {"report --calls x " + good, "invalid"}, {"report --show calls " + good, "csv"},
		{"trace --", "no command"}, {"trace -- no-such-program-here", "not found"}, {"trace -- " + folder, "directory"}, {"trace -- " + mine, "permission denied"},
		{"guard -- " + noDir, "no such file"}, {"trace -p " + self + " -- true", "not both"}, {"trace 1 2", "arguments"},
		{"trace -p " + self + " --for soon", "invalid"}, {"trace -p " + self + " --for -1s", "--for"}, {"trace -p " + self + " --for 0", "--for"},
		{"trace --cpu x -p " + alive, "--cpu"}, {"trace --cpu -1 -p " + alive, "--cpu"}, {"trace --cpu 65535 -p " + alive, "CPU 65535"},
		{"preflight --sysroot " + mine + " " + self, "not a directory"}, {"preflight --sysroot " + full + " " + self, "not empty"},
		{"preflight --sysroot " + noDir + " " + self, "no such file"}, {"preflight --sysroot= " + self, "empty"},
		{"explain --debuginfod=x 1", "invalid"},
		// A flag that would be ignored.
		{"explain --rules -o " + filepath.Join(dir, "rules"), "--output means nothing with --rules"}, {"explain --rules --redact", "--rules"}, {"explain --rules -p 1", "--rules"},
		{"repair --dry-run " + alive + " -o " + filepath.Join(dir, "dry"), "--output means nothing with --dry-run"}, {"repair --release " + alive + " --with " + mine, "--release"},
		{"repair --force " + alive, "of --with"}, {"guard --force -- true", "of --with"}, {"guard --findings-exit -p " + alive, "launched command"},
		{"preflight --format csv " + alive + " --sysroot " + filepath.Join(dir, "sysroot"), "--sysroot is told of as text or json"},
		{"preflight --format jsonl --core x --sysroot " + filepath.Join(dir, "sysroot"), "--sysroot is told of as text or json"},
		{"table --all --show calls " + good, "[show all]"}, {"trace --all --show calls -- true", "[show all]"}, {"trace -c --live -- true", "[live summary-only]"},
		{"trace --engine ebpf --cpu 0 -- true", "--cpu 0 means nothing"},
		{"report --format json --calls 5 " + good, "--calls means nothing"}, {"report --json --fd 4 " + good, "--fd means nothing"}, {"report " + alive + " --failed", "--failed is for a recording"},
	} {
		add(wrongUse{strings.Fields(one.args), one.want})
	}
	before := listing(t, dir)
	for _, tc := range cases {
		out, stderr, code := whosefd(t, tc.args...)
		if code != exitTrouble || out != "" || strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "whosefd: ") || !strings.Contains(stderr, tc.want) {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q; want %q", tc.args, code, out, stderr, tc.want)
		}
		harmless(t, tc.args, out+stderr)
	}
	if after := listing(t, dir); after != before {
		t.Errorf("files were changed: before\n%s\nafter\n%s", before, after)
	}
}

// sleeping starts a process that does nothing.
func sleeping(t *testing.T) (pid int) {
	t.Helper()
	cmd := exec.Command("sleep", "300")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

// listing is all there is in a folder, with a checksum of its content.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %v", path, info.Mode())
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %v %x", info.ModTime(), sha256.Sum256(content))
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// harmless fails the test if a text has anything but visible runes and line
// ends.
func harmless(t *testing.T, what any, text string) {
	t.Helper()
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && n == 1 || r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("%q: %q is in what it writes: …%q…", what, text[i:i+n], text[max(0, i-40):min(len(text), i+40)])
			return
		}
		i += n
	}
}

func TestTraceCommand(t *testing.T) { bothEngines(t, testTraceCommand) }

func testTraceCommand(t *testing.T) {
	t.Parallel()
	scene.Require(t, "ptrace")
	t.Run("exit code, and whose output is whose", func(t *testing.T) {
		out, stderr, code := whosefd(t, "trace", "--", "sh", "-c", "echo mine; cat /dev/null; exit 7")
		if code != 7 || out != "mine\n" || !strings.Contains(stderr, "openat") {
			t.Errorf("exit code %d, %q, %q", code, out, stderr)
		}
	})
	t.Run("killed", func(t *testing.T) {
		r := startWhosefd(t, "trace", "--", "sh", "-c", "kill -USR1 $$")
		r.wait(t)
		if ws, ok := r.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGUSR1 {
			t.Errorf("ended by %v", r.ProcessState)
		}
	})
	t.Run("findings exit", func(t *testing.T) {
		if _, stderr, code := whosefd(t, "trace", "--findings-exit", "--", "sh", "-c", "exit 7"); code != exitNothing {
			t.Errorf("exit code %d\n%s", code, stderr)
		}
	})
	t.Run("with -o only the summary is printed", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "rec")
		_, stderr, code := whosefd(t, "trace", "-o", file, "--", "cat", "/dev/null")
		if code != 0 || strings.Contains(stderr, "/dev/null O_RDONLY") && !strings.Contains(stderr, "Descriptors") {
			t.Errorf("exit code %d, %q", code, stderr)
		}
		out, _, code := whosefd(t, "table", "--format", "json", file)
		if code != 0 || !json.Valid([]byte(out)) || !strings.Contains(out, `"/dev/null"`) {
			t.Errorf("exit code %d, %s", code, out)
		}
	})
}

// Each way to end a trace leaves the process as it was.
func TestTraceEnds(t *testing.T) { bothEngines(t, testTraceEnds) }

func testTraceEnds(t *testing.T) {
	t.Parallel()
	scene.Require(t, "ptrace")
	sleeper := func(t *testing.T) *exec.Cmd {
		t.Helper()
		cmd := exec.Command("cat")
		in, err := cmd.StdinPipe() // which nobody writes to
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() })
		eventually(t, "it reads", func() bool {
			return strings.HasPrefix(procFile(t, cmd.Process.Pid, "wchan"), "pipe_read") || strings.HasPrefix(procFile(t, cmd.Process.Pid, "wchan"), "anon_pipe_read")
		})
		return cmd
	}
	for name, sig := range map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "QUIT": syscall.SIGQUIT, "KILL": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			cmd := sleeper(t)
			r := startWhosefd(t, "trace", "-p", strconv.Itoa(cmd.Process.Pid))
			eventually(t, "traced", func() bool { return strings.Contains(r.stdout.String(), "unfinished") })
			if err := r.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if code := r.wait(t); sig != syscall.SIGKILL && code != 0 {
				t.Errorf("exit code %d: %s", code, r.stderr.String())
			}
			untraced(t, cmd.Process.Pid)
			eventually(t, "asleep", func() bool { return strings.HasPrefix(statusLine(t, cmd.Process.Pid, "State"), "S") })
		})
	}
	t.Run("--for", func(t *testing.T) {
		cmd := sleeper(t)
		if _, stderr, code := whosefd(t, "trace", "--for", "50ms", "-p", strconv.Itoa(cmd.Process.Pid)); code != 0 {
			t.Errorf("exit code %d: %s", code, stderr)
		}
		untraced(t, cmd.Process.Pid)
	})
	t.Run("a full disk", func(t *testing.T) {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer full.Close()
		busy := exec.Command("sh", "-c", "while :; do cat /dev/null; : </dev/null; done")
		if err := busy.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = busy.Process.Kill(); _ = busy.Wait() }()
		cmd := exec.Command(binary(t), append(command(t, "trace")[1:], "-p", strconv.Itoa(busy.Process.Pid))...)
		cmd.Stdout = full
		out, _ := cmd.StderrPipe()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 300)
		n, _ := out.Read(b)
		_ = cmd.Wait()
		if cmd.ProcessState.ExitCode() != exitTrouble || !strings.Contains(string(b[:n]), "no space left") {
			t.Errorf("exit code %d, %q", cmd.ProcessState.ExitCode(), b[:n])
		}
		untraced(t, busy.Process.Pid)
	})
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	scene.Require(t, "ptrace")
	out, _, code := whosefd(t, "doctor", "--format", "json")
	var list []report.CheckJSON
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != exitNothing || len(list) < 8 || list[0].Schema != report.DoctorSchema {
		t.Errorf("exit code %d, %v\n%s", code, err, out)
	}
}

// Help and errors fit a terminal of 80 columns.
func TestHelpFits(t *testing.T) {
	t.Parallel()
	cases := [][]string{{"--help"}, {"ps", "--format", strings.Repeat("any format ", 9)}}
	for _, c := range (&app{getenv: os.Getenv, view: procview.New("/proc")}).root().Commands() {
		cases = append(cases, []string{"help", c.Name()})
	}
	for _, args := range cases {
		o := startOnTerminal(t, nil, args...)
		o.ends(t)
		o.shows(t, "whosefd")
		for line := range strings.SplitSeq(o.out.String(), "\n") {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\r")); n > 80 {
				t.Errorf("%q: %d columns: %s", args, n, line)
			}
		}
	}
}

// Of a command that is nearly one, the right name is said.
func TestMistyped(t *testing.T) {
	t.Parallel()
	for typed, want := range map[string]string{
		"exlpain": `whosefd: unknown command "exlpain" for "whosefd"; did you mean explain?` + "\n",
		"xyzzy":   `whosefd: unknown command "xyzzy" for "whosefd"` + "\n",
	} {
		if out, stderr, code := whosefd(t, typed); code != exitTrouble || out != "" || stderr != want {
			t.Errorf("%s: exit code %d, %q%q", typed, code, out, stderr)
		}
	}
}
