package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
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

// misled is a debugger that is about to open a library by its name, and the
// process whose library it is.
type misled struct {
	gdb      scene.GDB
	inferior int    // its pid, as we know it
	lib      string // the name that the inferior has loaded it by
	typed    string // what the user types, at a debugger that reads it
	// command is what gdb is told to do; "" is to attach to the inferior.
	command string
	// libraries is what gdb then says of its libraries, as a regular
	// expression; "" is not asked for.
	libraries string
}

// causes are the ways in which a name leads the debugger elsewhere.
var causes = []struct {
	rule analyze.Rule
	set  func(*testing.T, analyze.Effect) misled
}{
	{analyze.RuleSelfFD, misledBySelfFD},
	{analyze.RuleSelfLink, func(t *testing.T, e analyze.Effect) misled { return misledByDir(t, e, "/proc/self/cwd/lib.so") }},
	{analyze.RuleRelative, func(t *testing.T, e analyze.Effect) misled { return misledByDir(t, e, "./lib.so") }},
	{analyze.RuleMountNS, misledByRoot},
	{analyze.RulePIDNS, misledByPID},
	{analyze.RuleReplacedFile, misledByReplacement},
}

// seen is a diagnosis, and where it comes from.
type seen struct {
	source string
	*analyze.Diagnosis
}

// runs are the ways to look at one debugger from the start. Each gives what was
// seen, by one source or several.
var runs = []struct {
	name string
	look func(*testing.T, *misled, analyze.Effect) []seen
}{{"recorded", recordedRun}, {"strace", straceRun}}

// Each cause with each effect, with a real gdb that attaches to the process, has
// the same rule and effect from whatever source.
func TestCauses(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	for _, c := range causes {
		for _, e := range []analyze.Effect{analyze.Hang, analyze.StolenInput, analyze.WrongFile, analyze.Failed} {
			for _, r := range runs {
				t.Run(string(c.rule)+"/"+string(e)+"/"+r.name, func(t *testing.T) {
					t.Parallel()
					m := c.set(t, e)
					for _, d := range r.look(t, &m, e) {
						rule := c.rule
						if d.source == "strace" && rule == analyze.RuleMountNS {
							rule = analyze.RuleReplacedFile // a log tells of neither, only that the name leads to no library
						}
						if d.source == "strace" && e == analyze.WrongFile && (rule == analyze.RuleReplacedFile || rule == analyze.RuleRelative) {
							if len(d.Findings) != 0 { // nor whether another library is the right one
								t.Errorf("%+v", d.Findings)
							}
							continue
						}
						d.check(t, &m, rule, e)
					}
				})
			}
		}
	}
}

// check checks that the library is what was found, and nothing else is worse.
func (d *seen) check(t *testing.T, m *misled, rule analyze.Rule, effect analyze.Effect) {
	t.Helper()
	var about []string
	for i := range d.Findings {
		f := &d.Findings[i]
		about = append(about, fmt.Sprintf("%s %s %s %s", f.Name, f.Rule, f.Effect, f.Confidence))
		if string(f.Name) != m.lib {
			continue
		}
		if f.Rule != rule || f.Effect != effect {
			t.Errorf("%s: rule %s, effect %s, want %s, %s: %s", d.source, f.Rule, f.Effect, rule, effect, d.Summary)
		}
		if whose := f.Inferior; d.source == "strace" { // which does not tell what the inferior has mapped
			if int(whose) != m.inferior {
				t.Errorf("%s: the name is of %d, want of pid %d", d.source, whose, m.inferior)
			}
		} else if f.Intended == nil || int(f.Intended.PID) != m.inferior {
			t.Errorf("%s: intended is %+v, want of pid %d", d.source, f.Intended, m.inferior)
		}
		if len(evidenceOf(f, "link_map")) == 0 || f.Cause == "" || len(f.Remedies) == 0 {
			t.Errorf("%s: evidence %+v, cause %q, remedies %+v", d.source, f.Evidence, f.Cause, f.Remedies)
		}
		if d.source == "trace" || d.source == "strace" {
			if says := evidenceOf(f, "provenance"); len(says) != 1 || d.source == "trace" && !strings.Contains(says[0], "the name in entry ") {
				t.Errorf("provenance %q", says)
			}
		}
		if d.Verdict != string(effect) {
			t.Errorf("%s: verdict %s: %s", d.source, d.Verdict, d.Summary)
		}
		return
	}
	t.Errorf("%s: %s: findings %q, risks %+v", d.source, d.Summary, about, d.Risks)
}

// recordedRun traces gdb from before it attaches until it is at rest, and then
// looks at it as it is.
func recordedRun(t *testing.T, m *misled, effect analyze.Effect) []seen {
	t.Helper()
	trace, evidence := filepath.Join(t.TempDir(), "trace.jsonl"), filepath.Join(t.TempDir(), "evidence.jsonl")
	gdb := m.start(t)
	end := tracing(t, gdb.PID, trace)
	m.attach(t, gdb, effect)
	end()
	if effect == analyze.Hang || effect == analyze.StolenInput {
		waitInFile(t, gdb) // it begins its call again
	}
	live, _ := diagnosis(t, "-o", evidence, strconv.Itoa(gdb.PID))
	again, _ := diagnosis(t, evidence)
	traced, _ := diagnosis(t, trace)
	if m.libraries != "" {
		if got := gdb.Command("info sharedlibrary"); !regexp.MustCompile(m.libraries).MatchString(got) {
			t.Errorf("not %q:\n%s", m.libraries, got)
		}
	}
	return []seen{{"trace", traced}, {"live", live}, {"evidence", again}}
}

// straceRun has strace log what gdb does.
func straceRun(t *testing.T, m *misled, effect analyze.Effect) []seen {
	t.Helper()
	scene.Require(t, "strace")
	log := filepath.Join(t.TempDir(), "strace.log")
	gdb := m.start(t)
	strace := scene.Start(t, scene.Command{Path: "strace", Args: []string{"-y", "-o", log, "-p", strconv.Itoa(gdb.PID)}})
	strace.ExpectErr(`attached`)
	m.attach(t, gdb, effect)
	strace.Signal(syscall.SIGINT)
	strace.Wait()
	d, _ := diagnosis(t, log)
	return []seen{{"strace", d}}
}

// start starts gdb, which is not to take its time with debug info.
func (m *misled) start(t *testing.T) *scene.Session {
	t.Helper()
	g := m.gdb
	g.Args = append([]string{"-iex", "set debug-file-directory /nonexistent"}, g.Args...)
	gdb := scene.StartGDB(t, g)
	gdb.Expect(scene.Prompt)
	return gdb
}

// attach has gdb attach to the inferior, and waits until it has got what there
// is to get.
func (m *misled) attach(t *testing.T, gdb *scene.Session, effect analyze.Effect) {
	t.Helper()
	if m.command == "" {
		m.command = "attach " + strconv.Itoa(m.inferior)
	}
	if effect == "" && strings.HasPrefix(m.command, "start") {
		gdb.Command(m.command) // nothing may be typed ahead: the inferior has the terminal
		return
	}
	gdb.Send(m.command)
	if effect != analyze.Hang && effect != analyze.StolenInput {
		gdb.Send(`echo at\ rest\n`)
		gdb.Expect(`at rest\r\n[^\n]*` + scene.Prompt)
		return
	}
	waitInFile(t, gdb)
	if m.typed != "" {
		gdb.Send(m.typed)
		waitInFile(t, gdb)
	}
}

// waitInFile waits until gdb sleeps in an open or in a read of what is none of
// its own standard descriptors.
func waitInFile(t *testing.T, gdb *scene.Session) {
	t.Helper()
	calls, err := decode.ForArch(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	asleep := func() string {
		call := strings.Fields(procFile(t, gdb.PID, "syscall"))
		if len(call) != 9 || !strings.HasPrefix(statusLine(t, gdb.PID, "State"), "S") {
			return ""
		}
		nr, err := strconv.ParseUint(call[0], 10, 64)
		if err != nil {
			return ""
		}
		row, ok := calls.Call(nr)
		if !ok || row.Class != decode.ClassOpen && (row.Class != decode.ClassRead || len(call[1]) == 3 && call[1] <= "0x2") {
			return ""
		}
		return strings.Join(call, " ") + statusLine(t, gdb.PID, "voluntary_ctxt_switches")
	}
	before := ""
	for deadline := time.Now().Add(scene.Patience); ; time.Sleep(50 * time.Millisecond) {
		now := asleep()
		if now != "" && now == before {
			return
		}
		before = now
		if time.Now().After(deadline) {
			t.Fatalf("gdb waits for no file, it is in %s\n%s", procFile(t, gdb.PID, "syscall"), gdb.Output())
		}
	}
}

// plant puts what the debugger is to find, instead of the library, into a folder.
func plant(t *testing.T, dir string, e analyze.Effect) {
	t.Helper()
	path := filepath.Join(dir, "lib.so")
	switch e {
	case analyze.Hang: // a FIFO that nobody writes to
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	case analyze.StolenInput: // a FIFO that somebody writes to
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		w, err := os.OpenFile(path, os.O_RDWR, 0) // without O_RDWR it would wait for a reader
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = w.Close() })
		if _, err := w.WriteString("meant for somebody else\n"); err != nil {
			t.Fatal(err)
		}
	case analyze.WrongFile:
		scene.Copy(t, otherLibrary(t), path)
	}
}

// otherLibrary is a library that is not the samples'.
func otherLibrary(t *testing.T) string {
	t.Helper()
	for _, path := range sharedObjects(t) {
		if strings.Contains(path, "/libc.so") {
			return path
		}
	}
	t.Fatal("no libc in a sample's memory")
	return ""
}

// sharedObjects are the libraries that each sample has in its memory.
func sharedObjects(t *testing.T) []string {
	t.Helper()
	p := scene.StartSample(t, "from_file", "--wait-before")
	var paths []string
	for line := range strings.Lines(procFile(t, p.WaitReady(), "maps")) {
		if i := strings.IndexByte(line, '/'); i >= 0 && strings.Contains(line, ".so") {
			if path := strings.TrimSpace(line[i:]); !slices.Contains(paths, path) {
				paths = append(paths, path)
			}
		}
	}
	p.Kill()
	return paths
}

// misledBySelfFD: each process has its own descriptors.
func misledBySelfFD(t *testing.T, e analyze.Effect) misled {
	m := misled{}
	fd := 4 // of gdb's event pipe
	switch e {
	case analyze.StolenInput:
		fd, m.typed = 0, "print 1"
	case analyze.WrongFile:
		fd = 9
		m.gdb.Launcher = []string{"sh", "-c", `exec "$@" 9<"$0"`, otherLibrary(t)}
	case analyze.Failed:
		fd = 60
	}
	p := scene.StartSample(t, "from_memory", "--fd", strconv.Itoa(fd), "--wait")
	m.inferior, m.lib = p.WaitReady(), fmt.Sprintf("/proc/self/fd/%d", fd)
	return m
}

// misledByDir: the name begins at the working directory, and gdb's is another.
func misledByDir(t *testing.T, e analyze.Effect, lib string) misled {
	inside, outside := t.TempDir(), t.TempDir()
	scene.Copy(t, filepath.Join(scene.Build(t), "lib.so"), filepath.Join(inside, "lib.so"))
	plant(t, outside, e)
	p := scene.Start(t, scene.Command{Path: filepath.Join(scene.Build(t), "from_file"), Args: []string{"--lib", lib, "--wait"}, Dir: inside})
	return misled{gdb: scene.GDB{Dir: outside}, inferior: p.WaitReady(), lib: lib}
}

// misledByReplacement: another file has got the name since.
func misledByReplacement(t *testing.T, e analyze.Effect) misled {
	dir := t.TempDir()
	lib := filepath.Join(dir, "lib.so")
	scene.Copy(t, filepath.Join(scene.Build(t), "lib.so"), lib)
	p := scene.StartSample(t, "from_file", "--lib", lib, "--wait")
	m := misled{inferior: p.WaitReady(), lib: lib}
	if err := os.Remove(lib); err != nil {
		t.Fatal(err)
	}
	plant(t, dir, e)
	return m
}

// misledByRoot: the process lives below another root directory.
func misledByRoot(t *testing.T, e analyze.Effect) misled {
	root, outside := newRoot(t), t.TempDir()
	lib := filepath.Join(outside, "lib.so")
	if err := os.MkdirAll(filepath.Join(root, outside), 0o755); err != nil {
		t.Fatal(err)
	}
	scene.Copy(t, filepath.Join(scene.Build(t), "lib.so"), filepath.Join(root, lib))
	plant(t, outside, e)
	p := scene.Start(t, scene.Command{Path: "chroot", Args: []string{root, "/from_file", "--lib", lib, "--wait"}})
	return misled{inferior: p.WaitReady(), lib: lib}
}

// misledByPID: the process is in another pid namespace, and its number there is
// that of an innocent one here. Both it and gdb are in a mount namespace of
// their own, where its /proc is mounted below its root.
func misledByPID(t *testing.T, e analyze.Effect) misled {
	scene.Require(t, "unshare", "nsenter", "pid namespaces", "a choice of pids")
	outside := t.TempDir()
	plant(t, outside, e)
	innocent := scene.Start(t, scene.Command{Path: filepath.Join(scene.Build(t), "paces"), Dir: outside})
	lib := fmt.Sprintf("/proc/%d/cwd/lib.so", innocent.PID)
	root := newRoot(t)
	scene.Copy(t, filepath.Join(scene.Build(t), "lib.so"), filepath.Join(root, "lib.so"))
	if err := os.Mkdir(filepath.Join(root, "proc"), 0o755); err != nil {
		t.Fatal(err)
	}
	const script = `mount -t proc proc "$1/proc" && echo $(($2 - 1)) >/proc/sys/kernel/ns_last_pid && { chroot "$1" /from_file --lib "$3" --wait & wait; }`
	p := scene.Start(t, scene.Command{Path: "unshare", Args: []string{"--mount", "--pid", "--fork", "sh", "-c", script, "sh",
		root, strconv.Itoa(innocent.PID), lib}})
	if inside := p.WaitReady(); inside != innocent.PID {
		t.Fatalf("in its namespace the process is %d, not %d", inside, innocent.PID)
	}
	m := misled{inferior: descendant(t, p.PID, "from_file"), lib: lib}
	m.gdb.Launcher = []string{"nsenter", "--mount=" + fmt.Sprintf("/proc/%d/ns/mnt", m.inferior)}
	return m
}

// newRoot makes a root directory in which from_file runs.
func newRoot(t *testing.T) string {
	t.Helper()
	root, program := t.TempDir(), filepath.Join(scene.Build(t), "from_file")
	add := func(from, inside string) {
		to := filepath.Join(root, inside)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(to); err == nil {
			return
		}
		if os.Link(from, to) != nil { // of another file system
			scene.Copy(t, from, to)
		}
	}
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b, err := io.ReadAll(p.Open())
			if err != nil {
				t.Fatal(err)
			}
			name := strings.TrimRight(string(b), "\x00")
			real, err := filepath.EvalSymlinks(name)
			if err != nil {
				t.Fatal(err)
			}
			add(real, name)
		}
	}
	add(program, "from_file")
	for _, path := range sharedObjects(t) {
		add(path, path)
	}
	return root
}

// descendant finds the process of this name that a process, or one that it has
// started, has started.
func descendant(t *testing.T, pid int, comm string) int {
	t.Helper()
	for _, child := range strings.Fields(procFile(t, pid, fmt.Sprintf("task/%d/children", pid))) {
		n, err := strconv.Atoi(child)
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(procFile(t, n, "comm")) == comm {
			return n
		}
		if n = descendant(t, n, comm); n != 0 {
			return n
		}
	}
	return 0
}

// contained runs a program in a mount and a pid namespace of its own, with its
// own /proc, and waits until it is ready.
func contained(t *testing.T, setUp string, program ...string) (inferior int) {
	t.Helper()
	scene.Require(t, "unshare", "pid namespaces")
	return unshared(t, []string{"--mount", "--pid", "--fork"}, "mount -t proc proc /proc && "+setUp, program)
}

// mounted runs a program in a mount namespace of its own.
func mounted(t *testing.T, setUp string, program ...string) (inferior int) {
	t.Helper()
	scene.Require(t, "unshare", "mount namespaces")
	return unshared(t, []string{"--mount"}, setUp, program)
}

func unshared(t *testing.T, how []string, setUp string, program []string) int {
	t.Helper()
	const script = `eval "$1" && shift && { "$@" & wait; }`
	p := scene.Start(t, scene.Command{Path: "unshare", Args: slices.Concat(how, []string{"sh", "-c", script, "sh", setUp}, program)})
	p.WaitReady()
	return descendant(t, p.PID, filepath.Base(program[0]))
}

// inside is a launcher that enters the mount namespace of a process.
func inside(pid int) []string {
	return []string{"nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", pid)}
}

// Nothing is found where gdb gets the right file, though names, numbers or
// devices look as if it did not.
func TestCausesHealthy(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	lib, fromFile, fromMemory := filepath.Join(scene.Build(t), "lib.so"), filepath.Join(scene.Build(t), "from_file"), filepath.Join(scene.Build(t), "from_memory")
	for _, tc := range []struct {
		name      string
		libraries string
		set       func(t *testing.T, dir string) misled
	}{
		{"a file that only the inferior's mounts have", `Yes +target:/.*/lib\.so`, func(t *testing.T, dir string) misled {
			return misled{inferior: contained(t, "mount -t tmpfs none "+dir+" && cp "+lib+" "+dir, fromFile, "--lib", dir+"/lib.so", "--wait")}
		}},
		{"a number in the inferior's pid namespace", `Yes +target:/proc/\d+/fd/4`, func(t *testing.T, dir string) misled {
			return misled{inferior: contained(t, ":", fromMemory, "--cure", "--wait")}
		}},
		{"the working directory", `Yes +\./lib\.so`, func(t *testing.T, dir string) misled {
			scene.Copy(t, lib, dir+"/lib.so")
			p := scene.Start(t, scene.Command{Path: fromFile, Args: []string{"--lib", "./lib.so", "--wait"}, Dir: dir})
			return misled{inferior: p.WaitReady(), gdb: scene.GDB{Dir: dir}}
		}},
		{"a hard link", `Yes +/.*/lib\.so`, func(t *testing.T, dir string) misled {
			scene.Copy(t, lib, dir+"/lib.so")
			p := scene.StartSample(t, "from_file", "--lib", dir+"/lib.so", "--wait")
			m := misled{inferior: p.WaitReady()}
			if err := errors.Join(os.Rename(dir+"/lib.so", dir+"/old.so"), os.Link(dir+"/old.so", dir+"/lib.so")); err != nil {
				t.Fatal(err)
			}
			return m
		}},
		{"gdb in namespaces of its own", "", func(t *testing.T, dir string) misled {
			scene.Require(t, "unshare", "pid namespaces")
			return misled{gdb: scene.GDB{Launcher: []string{"unshare", "--mount", "--pid", "--fork", "--mount-proc"},
				Args: []string{"--args", fromFile}}, command: "start"}
		}},
		{"overlayfs", `Yes +/.*/merged/lib\.so`, func(t *testing.T, dir string) misled {
			scene.Require(t, "overlayfs")
			inferior := mounted(t, overlay(dir, lib), fromFile, "--lib", dir+"/merged/lib.so", "--wait")
			return misled{inferior: inferior, gdb: scene.GDB{Launcher: inside(inferior)}}
		}},
		{"overlayfs, written to meanwhile", `Yes +/.*/merged/lib\.so`, func(t *testing.T, dir string) misled {
			scene.Require(t, "overlayfs")
			inferior := mounted(t, overlay(dir, lib), fromFile, "--lib", dir+"/merged/lib.so", "--wait")
			if err := os.Chmod(fmt.Sprintf("/proc/%d/root%s/merged/lib.so", inferior, dir), 0o700); err != nil { // copied up
				t.Fatal(err)
			}
			return misled{inferior: inferior, gdb: scene.GDB{Launcher: inside(inferior)}}
		}},
		{"btrfs", `Yes +/.*/mount/lib\.so`, func(t *testing.T, dir string) misled {
			scene.Require(t, "btrfs")
			inferior := mounted(t, btrfs(dir, lib), fromFile, "--lib", dir+"/mount/lib.so", "--wait")
			return misled{inferior: inferior, gdb: scene.GDB{Launcher: inside(inferior)}}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := tc.set(t, t.TempDir())
			m.libraries = tc.libraries
			for _, d := range recordedRun(t, &m, "") {
				if len(d.Findings) != 0 || len(d.Risks) != 0 {
					t.Errorf("%s: %s: %+v, risks %+v", d.source, d.Summary, d.Findings, d.Risks)
				}
			}
		})
	}
}

// overlay is a script that mounts an overlay of two file systems, with the
// library in the lower one: stat(2) and the memory maps then have different
// device numbers.
func overlay(dir, lib string) string {
	return fmt.Sprintf(`cd %s && mkdir lower upper merged && cp %s lower && mount -t tmpfs none upper && mkdir upper/data upper/work &&
		mount -t overlay none -o lowerdir=lower,upperdir=upper/data,workdir=upper/work merged`, dir, lib)
}

// btrfs is a script that mounts a btrfs with the library in it: there too the
// device numbers differ.
func btrfs(dir, lib string) string {
	return fmt.Sprintf(`cd %s && mkdir mount && truncate -s 120M image && mkfs.btrfs -q image >/dev/null && mount -o loop image mount && cp %s mount`, dir, lib)
}

// What differs on such file systems is found as anywhere else.
func TestCausesOverlay(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root", "overlayfs")
	dir := t.TempDir()
	name := dir + "/merged/lib.so"
	inferior := mounted(t, overlay(dir, filepath.Join(scene.Build(t), "lib.so")), filepath.Join(scene.Build(t), "from_file"), "--lib", name, "--wait")
	merged := fmt.Sprintf("/proc/%d/root%s/merged/", inferior, dir)
	scene.Copy(t, otherLibrary(t), merged+"new.so")
	if err := os.Rename(merged+"new.so", merged+"lib.so"); err != nil {
		t.Fatal(err)
	}
	m := misled{inferior: inferior, lib: name, gdb: scene.GDB{Launcher: inside(inferior)}}
	for _, d := range recordedRun(t, &m, analyze.WrongFile) {
		d.check(t, &m, analyze.RuleReplacedFile, analyze.WrongFile)
	}
}

// A debugger and its inferior in namespaces of their own have other numbers than
// we know them by.
func TestCausesContainedDebugger(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root", "unshare", "pid namespaces")
	m := misled{lib: "/proc/self/fd/4", command: "run", gdb: scene.GDB{
		Launcher: []string{"unshare", "--mount", "--pid", "--fork", "--mount-proc"},
		Args:     []string{"--args", filepath.Join(scene.Build(t), "from_memory")}}}
	all := recordedRun(t, &m, analyze.Hang)
	if len(all[0].Inferiors) != 1 {
		t.Fatalf("inferiors %+v", all[0].Inferiors)
	}
	m.inferior = int(all[0].Inferiors[0].PID)
	for _, d := range all {
		d.check(t, &m, analyze.RuleSelfFD, analyze.Hang)
	}
}

// In another mount namespace gdb opens names by a copy of itself that has
// entered it. Where the pid namespace is another too, that copy has no self.
func TestCausesContainedSelf(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	m := misled{lib: "/proc/self/fd/4", libraries: `No +/proc/self/fd/4`, inferior: contained(t, ":", filepath.Join(scene.Build(t), "from_memory"), "--wait")}
	for _, d := range recordedRun(t, &m, analyze.Failed) {
		if len(d.Findings) != 1 || d.Findings[0].Rule != analyze.RuleSelfFD || d.Findings[0].Effect != analyze.Failed || len(d.Risks) != 0 {
			t.Errorf("%s: %s: %+v, risks %+v", d.source, d.Summary, d.Findings, d.Risks)
		}
	}
}

// A file that is no library is told by how it begins, which only who has seen it
// read can know.
func TestCausesNoLibrary(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	for name, content := range map[string]string{"text": "#!/bin/sh\necho a script\n", "empty": ""} {
		for _, r := range runs {
			t.Run(name+"/"+r.name, func(t *testing.T) {
				t.Parallel()
				m := misledByDir(t, analyze.Failed, "./lib.so")
				if err := os.WriteFile(filepath.Join(m.gdb.Dir, "lib.so"), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
				for _, d := range r.look(t, &m, analyze.Failed) {
					if d.source == "trace" || d.source == "strace" {
						d.check(t, &m, analyze.RuleRelative, analyze.Failed)
					} else {
						d.check(t, &m, analyze.RuleRelative, analyze.WrongFile)
					}
				}
			})
		}
	}
}

// What a trace has seen counts, though gdb and the inferior have gone.
func TestCausesToTheEnd(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	for _, c := range causes {
		t.Run(string(c.rule), func(t *testing.T) {
			t.Parallel()
			m := c.set(t, analyze.WrongFile)
			file := filepath.Join(t.TempDir(), "trace.jsonl")
			gdb := m.start(t)
			r := startWhosefd(t, "trace", "--engine", "ptrace", "-p", strconv.Itoa(gdb.PID), "-o", file)
			eventually(t, "the trace has begun", func() bool { return tracerThread(t, r, gdb.PID) != 0 })
			m.attach(t, gdb, analyze.WrongFile)
			gdb.Send("kill")
			gdb.Expect(`killed`)
			gdb.Send("quit")
			if code := r.wait(t); code != exitFindings {
				t.Errorf("trace: exit code %d\n%s%s", code, r.stdout.String(), r.stderr.String())
			}
			d, _ := diagnosis(t, file)
			from := seen{"trace", d}
			from.check(t, &m, c.rule, analyze.WrongFile)
		})
	}
}

// A library's name may be a link to that of a descriptor: the cause is the same.
func TestLinkToADescriptor(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace")
	link := filepath.Join(t.TempDir(), "plugin.so")
	if err := os.Symlink("/dev/fd/4", link); err != nil {
		t.Fatal(err)
	}
	p := scene.StartSample(t, "from_memory", "--fd", "4", "--name", link, "--wait")
	p.WaitReady()
	gdb := scene.StartGDB(t, scene.GDB{Args: []string{"-p", strconv.Itoa(p.PID)}})
	gdb.WaitBlocked(scene.Patience)
	record := filepath.Join(t.TempDir(), "gdb.jsonl")
	whosefd(t, "trace", "--for", "100ms", "-o", record, strconv.Itoa(gdb.PID))
	for _, from := range []string{strconv.Itoa(gdb.PID), record} {
		d, code := diagnosis(t, from)
		if code != exitFindings || len(d.Findings) != 1 || d.Findings[0].Rule != "self-fd" || d.Findings[0].Effect != "hang" ||
			string(d.Findings[0].Name) != link || !strings.Contains(string(d.Findings[0].Cause), "(by its links: /proc/self/fd/4)") {
			t.Errorf("%s: %+v", from, d)
		}
	}
}

// What a script of gdb's opens is not blamed on gdb, which has its symbols: by the backtrace.
func TestScriptOpens(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	p := scene.StartSample(t, "from_memory", "--fd", "9", "--wait")
	p.WaitReady()
	folder := filepath.Join(t.TempDir(), "sysroot")
	if out, stderr, code := whosefd(t, "preflight", strconv.Itoa(p.PID), "--sysroot", folder); code != exitFindings {
		t.Fatalf("exit code %d: %s%s", code, out, stderr)
	}
	gdb := scene.StartGDB(t, scene.GDB{Args: []string{"-iex", "set sysroot " + folder, "-p", strconv.Itoa(p.PID)}})
	gdb.Expect(scene.Prompt)
	if shown := gdb.Command("python print(6 * 7)"); strings.Contains(shown, "not supported") {
		t.Skip("this gdb has no Python")
	}
	gdb.Send("python open('/proc/self/fd/9','rb').read()")
	gdb.WaitBlocked(scene.Patience)
	record := filepath.Join(t.TempDir(), "gdb.jsonl")
	_, stderr, _ := whosefd(t, "trace", "--for", "100ms", "-o", record, strconv.Itoa(gdb.PID))
	for _, from := range []string{strconv.Itoa(gdb.PID), record} {
		d, code := diagnosis(t, from)
		if code != exitFindings || len(d.Findings) != 1 || d.Findings[0].Name != "/proc/self/fd/9" || !strings.HasPrefix(string(d.Summary), "a Python script in gdb (pid ") ||
			!slices.ContainsFunc(d.Findings[0].Evidence, func(e analyze.Evidence) bool { return e.Kind == "script" }) {
			t.Errorf("%s: %+v\n%s", from, d, stderr)
		}
	}
}

// Tools such as perf take what /proc/PID/maps shows of a file without a path for a path: it is an
// inferior's name like any other.
func TestTextOfAMapping(t *testing.T) { bothEngines(t, testTextOfAMapping) }

func testTextOfAMapping(t *testing.T) {
	t.Parallel()
	scene.Require(t, "ptrace", "root")
	const text = "/memfd:plugin (deleted)"
	p := scene.StartSample(t, "from_memory", "--fd", "7", "--memfd-name", "plugin", "--wait")
	pid := strconv.Itoa(p.WaitReady())
	record := filepath.Join(t.TempDir(), "look.jsonl")
	for _, tool := range []string{"stat", "cat"} {
		whosefd(t, "trace", "--inferior", pid, "-o", record, "--", tool, text)
		d, code := diagnosis(t, record)
		if code != exitFindings || len(d.Findings) != 1 || d.Findings[0].Rule != "replaced-file" || d.Findings[0].Confidence != "certain" ||
			d.Findings[0].Intended == nil || d.Findings[0].Intended.Reachable != event.Text("/proc/"+pid+"/fd/7") ||
			!slices.ContainsFunc(d.Findings[0].Remedies, func(r analyze.Remedy) bool {
				return strings.HasPrefix(string(r.Command), "whosefd guard --inferior "+pid+" -- "+tool)
			}) {
			t.Errorf("%s: exit code %d: %+v", tool, code, d)
		}
	}
	library, err := os.ReadFile("/proc/" + pid + "/fd/7")
	if err != nil {
		t.Fatal(err)
	}
	if out, stderr, code := whosefd(t, "guard", "--inferior", pid, "--", "cat", text); code != 0 || out != string(library) {
		t.Errorf("guarded: exit code %d, %d bytes, %s", code, len(out), stderr)
	}
	if out, stderr, code := whosefd(t, "guard", "--inferior", pid, "--", "cat", "/memfd:other (deleted)"); code != 1 {
		t.Errorf("another: exit code %d, %d bytes, %s", code, len(out), stderr)
	}
	folder := filepath.Join(t.TempDir(), "folder")
	if _, stderr, code := whosefd(t, "preflight", pid, "--sysroot", folder); code != exitFindings {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	if b, err := os.ReadFile(folder + text); err != nil || string(b) != string(library) {
		t.Errorf("in the folder: %v", err)
	}
}
