package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"whosefd/samples/scene"
)

// pluginFile is the plug-in as the tool prints it.
func pluginFile(t *testing.T) string {
	t.Helper()
	out, stderr, code := whosefd(t, "gdb-plugin")
	if code != exitNothing {
		t.Fatalf("gdb-plugin: exit code %d: %s", code, stderr)
	}
	file := filepath.Join(t.TempDir(), "plugin.py")
	if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// plugin is gdb with the plug-in, loaded before anything is debugged, as from
// gdb's folder of init files.
var plugin = cure{
	needs: []string{"gdb", "ptrace"},
	start: func(t *testing.T, g scene.GDB) *scene.Session {
		t.Helper()
		g.Args = append([]string{"-ix", pluginFile(t)}, g.Args...)
		return scene.StartGDB(t, g)
	},
	shown: func(name string) string {
		if strings.HasPrefix(name, "/") {
			return `\S*/whosefd/\S*` + regexp.QuoteMeta(name)
		}
		return `\S*/` + regexp.QuoteMeta(filepath.Base(name))
	},
}

func TestPlugin(t *testing.T)           { plugin.ways(t) }
func TestPluginRelative(t *testing.T)   { plugin.relative(t) }
func TestPluginTranscript(t *testing.T) { plugin.transcript(t) }
func TestPluginInferiors(t *testing.T)  { plugin.inferiors(t) }
func TestPluginStory(t *testing.T)      { plugin.story(t) }

// The story of the article, without its sad part.
func (c cure) story(t *testing.T) {
	scene.Require(t, c.needs...)
	service := scene.RFaaS(t, "--wait", "--clients", "1")
	gdb := c.start(t, scene.GDB{Args: []string{"-p", strconv.Itoa(service.Executor)}})
	gdb.Expect(scene.Prompt)
	if shown := gdb.Command("break foo"); !regexp.MustCompile(`Breakpoint 1 at 0x[0-9a-f]+: file [^\n]*lib\.c, line 1\.`).MatchString(shown) {
		t.Errorf("break shows %q", shown)
	}
	gdb.Command("set var executor_wait = 0")
	gdb.Send("continue")
	gdb.Expect(stopAtFoo)
	gdb.Send("continue")
	gdb.Expect("exited normally")
	noTrouble(t, gdb)
	if code := service.Client.Wait(); code != 0 || service.Client.Out() != "foo(21) = 42\n" {
		t.Errorf("the client: exit code %d, %q %q", code, service.Client.Out(), service.Client.Err())
	}
	if code := service.Manager.Wait(); code != 0 {
		t.Errorf("the manager: exit code %d, %s", code, service.Manager.Err())
	}
}

// ours is a folder of the plug-in's.
var ours = regexp.MustCompile(`/whosefd/\d+/`)

// quiet is what changes from run to run: which threads there are just now, and
// where each of them is; how often it is said that registers are unknown.
var quiet = regexp.MustCompile(`(?m)^Warning: ` + regexp.QuoteMeta(tooWide) + `\r\n|^\[(New |Switching to )?(Thread|LWP|process)[^\n]*\n|(?s)info threads\r\n.*?\(gdb\) `)

// Where no name depends on who asks, gdb prints the same with the plug-in as
// without, and the plug-in makes no folder.
func TestPluginHealthy(t *testing.T) {
	scene.Require(t, "gdb", "ptrace", "gcc", "g++", "objcopy")
	for name, prepare := range healthySessions(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runtime := t.TempDir()
			var shown [2]string
			for i, start := range []func(*testing.T, scene.GDB) *scene.Session{
				func(t *testing.T, g scene.GDB) *scene.Session { return scene.StartGDB(t, g) }, plugin.start} {
				s := prepare(t)
				gdb := start(t, scene.GDB{Dir: s.dir, Args: s.args, Launcher: slices.Concat(s.above, s.wrap), Env: []string{"XDG_RUNTIME_DIR=" + runtime}})
				gdb.Expect(scene.Prompt)
				for n, line := range s.do {
					if s.runs && n == len(s.do)-1 {
						gdb.Send(line)
						gdb.Expect(`ready \d+`)
						eventually(t, "the program sleeps", func() bool { return strings.HasPrefix(statusLine(t, gdb.Inferior(), "State"), "S") })
						gdb.Interrupt()
						gdb.Expect(scene.Prompt)
						gdb.Command("kill")
						break
					}
					gdb.Command(line)
				}
				for _, line := range s.then {
					gdb.Command(line)
				}
				shown[i] = quiet.ReplaceAllString(numbers.ReplaceAllString(gdb.Output(), "N "), "")
				gdb.Send("quit")
				gdb.Wait()
			}
			if shown[0] != shown[1] {
				t.Errorf("without the plug-in:\n%s\nwith it:\n%s", shown[0], shown[1])
			}
			if made, err := os.ReadDir(runtime); err != nil || len(made) > 0 {
				t.Errorf("there is %v, %v", made, err)
			}
		})
	}
}

// loads is a program that loads its library from a memfd in one way or another.
const loadsFromMemory = `
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
int load(const char *lib, int fd) {
	int in = open(lib, O_RDONLY), memory = memfd_create("library", 0);
	struct stat st;
	char name[64];
	fstat(in, &st);
	sendfile(memory, in, 0, st.st_size);
	close(in);
	dup2(memory, fd);
	sprintf(name, "/proc/self/fd/%d", fd);
	void *handle = dlopen(name, RTLD_NOW);
	int (*foo)(int) = (int (*)(int))dlsym(handle, "foo");
	return foo(21);
}
int main(int argc, char **argv) {
	pid_t child = 0;
	for (const char *how = argv[2]; *how; how++) switch (*how) {
	case 'l': load(argv[1], 24); break;
	case 'm': load(argv[1], 25); break;
	case 'f': if ((child = fork()) != 0) { waitpid(child, 0, 0); return 0; } break;
	case 'v': if (vfork() == 0) { execl(argv[0], argv[0], argv[1], how + 1, (char *)0); _exit(1); } wait(0); return 0;
	case 'x': execl(argv[0], argv[0], argv[1], how + 1, (char *)0); return 1;
	}
	return 0;
}
`

// What processes go through: each line of the program's own way, by gdb's settings.
func TestPluginHistories(t *testing.T) {
	scene.Require(t, plugin.needs...)
	program := source(t, "loads.c", loadsFromMemory, "gcc", "-g")
	lib := filepath.Join(scene.Build(t), "lib.so")
	for _, test := range []struct {
		name, how string
		set       []string
		stops     int // in foo
	}{
		{"two libraries", "lm", nil, 2},
		{"one number for two libraries", "ll", nil, 2},
		{"parent followed", "lfm", nil, 1},
		{"child followed", "lflm", []string{"set follow-fork-mode child"}, 3},
		{"child followed, loads first", "fl", []string{"set follow-fork-mode child"}, 1},
		{"both followed", "lflm", []string{"set detach-on-fork off", "set schedule-multiple on"}, 3},
		{"exec", "lxlm", nil, 3},
		{"exec in a new inferior", "lxl", []string{"set follow-exec-mode new"}, 2},
		{"vfork", "vl", []string{"set follow-fork-mode child"}, 1},
		{"vfork, parent kept", "vl", []string{"set follow-fork-mode child", "set detach-on-fork off"}, 1},
		{"non-stop", "lm", []string{"set non-stop on"}, 2},
		{"breakpoints on the loader's functions", "lm", []string{"break dlopen if $_strlen(\"\") > 0", "break *dlopen if 0", "catch load nothing"}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			gdb := plugin.start(t, scene.GDB{Args: []string{"--args", program, lib, test.how}})
			gdb.Expect(scene.Prompt)
			for _, line := range test.set {
				gdb.Command(line)
			}
			gdb.Command("break foo")
			gdb.Send("run")
			for n := range test.stops {
				gdb.Expect(stopAtFoo)
				if shown := gdb.Command("info sharedlibrary"); strings.Contains(shown, "No  ") {
					t.Errorf("at stop %d, info sharedlibrary:\n%s", n, shown)
				}
				gdb.Send("continue")
			}
			gdb.Expect(`exited normally`)
			gdb.Expect(scene.Prompt)
			noTrouble(t, gdb)
			gdb.Send("quit")
			if code := gdb.Wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
	t.Run("checkpoint", func(t *testing.T) {
		scene.Require(t, "gdb that writes all registers")
		gdb := plugin.run(t, "from_memory", "--copies", "2")
		gdb.Expect(stopAtFoo)
		gdb.Command("checkpoint")
		gdb.Command("restart 1")
		if shown := gdb.Command("bt"); !strings.Contains(shown, "foo (x=21)") {
			t.Errorf("bt:\n%s", shown)
		}
		gdb.Command("kill")
		noTrouble(t, gdb)
	})
	// What was led stays where it leads to, also when the program is no more, and is
	// forgotten when gdb debugs another that does not need it.
	t.Run("after the end", func(t *testing.T) {
		gdb := plugin.run(t, "from_memory", "--name", "relative")
		gdb.Expect(stopAtFoo)
		gdb.Send("continue")
		gdb.Expect("exited normally")
		gdb.Expect(scene.Prompt)
		gdb.Command("sharedlibrary")
		gdb.Command("info line foo")
		gdb.Send("run")
		gdb.Expect(stopAtFoo)
		gdb.Send("continue")
		gdb.Expect("exited normally")
		gdb.Expect(scene.Prompt)
		gdb.Command("file " + filepath.Join(scene.Build(t), "from_file"))
		gdb.Command("set args")
		gdb.Send("run")
		gdb.Expect(stopAtFoo)
		if shown := gdb.Command("info sharedlibrary"); ours.MatchString(shown) {
			t.Errorf("another program: info sharedlibrary:\n%s", shown)
		}
		gdb.Command("kill")
		p := scene.StartSample(t, "from_file", "--wait")
		p.WaitReady()
		gdb.Command("delete")
		gdb.Command("file")
		gdb.Command(fmt.Sprintf("attach %d", p.PID))
		if shown := gdb.Command("info sharedlibrary"); ours.MatchString(shown) || !strings.Contains(shown, "Yes") {
			t.Errorf("info sharedlibrary:\n%s", shown)
		}
		for _, setting := range []string{"sysroot", "solib-search-path"} {
			if shown := gdb.Command("show " + setting); ours.MatchString(shown) {
				t.Errorf("show %s: %s", setting, shown)
			}
		}
		gdb.Command("detach")
	})
}

// A core does not tell which file its library was; the user may.
func TestPluginCore(t *testing.T) {
	scene.Require(t, plugin.needs...)
	bin := scene.Build(t)
	p := scene.StartSample(t, "from_memory", "--wait")
	p.WaitReady()
	core := filepath.Join(t.TempDir(), "core")
	gdb := plugin.start(t, scene.GDB{Args: []string{"-p", strconv.Itoa(p.PID)}})
	gdb.Expect(scene.Prompt)
	gdb.Command("generate-core-file " + core)
	gdb.Command("detach")
	gdb.Command("file " + filepath.Join(bin, "from_memory"))
	gdb.Send("core-file " + core)
	gdb.Expect(`whosefd: no symbols for /proc/self/fd/4 of the core[^\n]*\n`)
	gdb.Expect(scene.Prompt)
	if shown := gdb.Command("backtrace"); !strings.Contains(shown, "in main (") {
		t.Errorf("backtrace:\n%s", shown)
	}
	if shown := gdb.Command("set whosefd file /proc/self/fd/4 " + filepath.Join(bin, "from_memory")); !strings.Contains(shown, "build id") {
		t.Errorf("a wrong file: %s", shown)
	}
	if shown := gdb.Command("set whosefd file /proc/self/fd/4 " + filepath.Join(bin, "lib.so")); strings.Contains(shown, "warning") {
		t.Errorf("the right file: %s", shown)
	}
	for _, line := range []string{"info line foo", "info symbol foo"} {
		if shown := gdb.Command(line); !strings.Contains(shown, "foo") || strings.Contains(shown, "No ") {
			t.Errorf("%s: %s", line, shown)
		}
	}
}

// A gdbserver on this machine would open the names in its own process.
func TestPluginServer(t *testing.T) {
	scene.Require(t, append(plugin.needs, "gdbserver")...)
	program := filepath.Join(scene.Build(t), "from_memory")
	for name, lines := range map[string][]string{
		"launched":        {"target remote | exec gdbserver --once - " + program, "continue"},
		"attached":        {"target remote | exec gdbserver --once --attach - PID", "set var whosefd_wait = 0", "continue"},
		"extended-remote": {"target extended-remote | exec gdbserver --multi --once -", "set remote exec-file " + program, "run"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pid := ""
			if name == "attached" {
				p := scene.StartSample(t, "from_memory", "--wait")
				pid = strconv.Itoa(p.WaitReady())
			}
			gdb := plugin.start(t, scene.GDB{Args: []string{program}})
			gdb.Expect(scene.Prompt)
			gdb.Command("break foo")
			for _, line := range lines[:len(lines)-1] {
				gdb.Command(strings.ReplaceAll(line, "PID", pid))
			}
			gdb.Send(lines[len(lines)-1])
			gdb.Expect(stopAtFoo)
			goesOn(t, gdb, plugin.shown("/proc/self/fd/4"), 1)
		})
	}
}

// In a file system of its own the inferior has its own /proc too.
func TestPluginContainer(t *testing.T) {
	scene.Require(t, append(plugin.needs, "root", "mount namespaces", "pid namespaces")...)
	program := filepath.Join(scene.Build(t), "from_memory")
	p := scene.Start(t, scene.Command{Path: "unshare", Args: []string{"--mount", "--pid", "--fork", "--mount-proc", program, "--wait"}})
	p.WaitReady()
	inside := children(t, p.PID)
	if len(inside) != 1 {
		t.Fatalf("inside: %v", inside)
	}
	gdb := plugin.start(t, scene.GDB{Args: []string{"-p", strconv.Itoa(inside[0])}})
	gdb.Expect(scene.Prompt)
	gdb.Command("break foo")
	gdb.Command("set var whosefd_wait = 0")
	gdb.Send("continue")
	gdb.Expect(stopAtFoo)
	goesOn(t, gdb, plugin.shown("/proc/self/fd/4"), 1)
}

// Where nobody may open the mapped file, gdb does without it, and does not hang.
func TestPluginUnreachable(t *testing.T) {
	scene.Require(t, append(plugin.needs, "root", "ptrace by an ordinary user", "setpriv")...)
	nobody := []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}
	program := filepath.Join(scene.Build(t), "from_memory")
	if st, err := os.Stat(filepath.Dir(program)); err != nil || st.Mode()&0o005 == 0 {
		scene.Skip(t, "a folder that others may enter", err)
	}
	p := scene.Start(t, scene.Command{Path: nobody[0], Args: append(slices.Clone(nobody[1:]), program, "--after", "close", "--wait")})
	p.WaitReady()
	file := pluginFile(t)
	for dir := filepath.Dir(file); dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	runtime := t.TempDir()
	if err := errors.Join(os.Chmod(filepath.Dir(runtime), 0o755), os.Chown(runtime, 65534, 65534), os.Chmod(runtime, 0o700)); err != nil {
		t.Fatal(err)
	}
	gdb := scene.StartGDB(t, scene.GDB{Launcher: nobody, Dir: "/", Args: []string{"-ix", file, "-p", strconv.Itoa(p.PID)},
		Env: []string{"HOME=/", "XDG_RUNTIME_DIR=" + runtime, "PATH=/usr/bin:/bin"}})
	gdb.Expect(`whosefd: no symbols for /proc/self/fd/4 of process \d+: [^\n]*\n`)
	gdb.Expect(scene.Prompt)
	if shown := gdb.Command("bt"); !strings.Contains(shown, "in main (") {
		t.Errorf("bt:\n%s", shown)
	}
	if shown := gdb.Command("info whosefd"); !strings.Contains(shown, "leads to nothing") {
		t.Errorf("info whosefd: %s", shown)
	}
	gdb.Command("set whosefd file /proc/self/fd/4 " + filepath.Join(filepath.Dir(program), "lib.so"))
	if shown := gdb.Command("info line foo"); !strings.Contains(shown, "lib.c") {
		t.Errorf("info line: %s", shown)
	}
}

// The folder is the user's alone, and gone when gdb is, however it ended.
func TestPluginFolder(t *testing.T) {
	scene.Require(t, plugin.needs...)
	runtime := t.TempDir()
	if err := os.Chmod(runtime, 0o700); err != nil {
		t.Fatal(err)
	}
	start := func(env ...string) *scene.Session {
		gdb := plugin.start(t, scene.GDB{Args: []string{filepath.Join(scene.Build(t), "from_memory")}, Env: env})
		gdb.Expect(scene.Prompt)
		return gdb
	}
	stop := func(gdb *scene.Session) {
		gdb.Command("break foo")
		gdb.Send("run")
		gdb.Expect(stopAtFoo)
	}
	folder := filepath.Join(runtime, "whosefd")
	first := start("XDG_RUNTIME_DIR=" + runtime)
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("before it is needed: %v", err)
	}
	stop(first)
	for _, dir := range []string{folder, filepath.Join(folder, strconv.Itoa(first.PID))} {
		if st, err := os.Lstat(dir); err != nil || st.Mode() != os.ModeDir|0o700 {
			t.Errorf("%s: %v, %v", dir, st, err)
		}
	}
	second := start("XDG_RUNTIME_DIR=" + runtime)
	stop(second)
	first.Send("quit")
	first.Wait()
	if made, err := os.ReadDir(folder); err != nil || len(made) != 1 {
		t.Errorf("after the first has ended there is %v, %v", made, err)
	}
	second.Kill()
	if made, err := os.ReadDir(folder); err != nil || len(made) != 1 {
		t.Errorf("after the second was killed there is %v, %v", made, err)
	}
	third := start("XDG_RUNTIME_DIR=" + runtime)
	if made, err := os.ReadDir(folder); err != nil || len(made) != 0 {
		t.Errorf("at the next start there is %v, %v", made, err)
	}
	third.Send("quit")
	third.Wait()
	// A runtime directory that others may write to, and a trap in that for temporary files.
	trap, victim := t.TempDir(), t.TempDir()
	if err := errors.Join(os.Chmod(runtime, 0o777), os.Symlink(victim, filepath.Join(trap, fmt.Sprintf("whosefd-%d", os.Getuid())))); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 { // root has /run
		gdb := start("XDG_RUNTIME_DIR="+runtime, "TMPDIR="+trap)
		gdb.Command("info whosefd")
	}
	if made, err := os.ReadDir(victim); err != nil || len(made) != 0 {
		t.Errorf("through the link it made %v, %v", made, err)
	}
}

// A sysroot of the user's own stays, and so does gdb with it.
func TestPluginSysroot(t *testing.T) {
	scene.Require(t, plugin.needs...)
	root := t.TempDir()
	gdb := plugin.start(t, scene.GDB{Args: []string{"-iex", "set sysroot " + root, "--args", filepath.Join(scene.Build(t), "from_memory")}})
	gdb.Expect(scene.Prompt)
	gdb.Send("run")
	gdb.Expect("exited normally")
	gdb.Expect(scene.Prompt)
	if shown := gdb.Command("show sysroot"); !strings.Contains(shown, `"`+root+`"`) {
		t.Errorf("show sysroot: %s", shown)
	}
	if shown := gdb.Command("info whosefd"); !strings.Contains(shown, "your own") {
		t.Errorf("info whosefd: %s", shown)
	}
}

func TestPluginCommands(t *testing.T) {
	scene.Require(t, plugin.needs...)
	gdb := plugin.start(t, scene.GDB{Args: []string{"--args", filepath.Join(scene.Build(t), "from_memory"), "--fd", "60"},
		Env: []string{"PATH=" + filepath.Dir(binary(t)) + ":" + os.Getenv("PATH")}})
	gdb.Expect(scene.Prompt)
	expect := func(line, pattern string) {
		t.Helper()
		if shown := gdb.Command(line); !regexp.MustCompile(pattern).MatchString(shown) {
			t.Errorf("%s shows\n%s", line, shown)
		}
	}
	expect("help whosefd", `whosefd explain -- `)
	expect("help set whosefd file", `build ids are compared`)
	expect("info whosefd", `: on\.\r\nNo name had to be led\.`)
	expect("whosefd preflight", `The program is not being run`)
	expect("set whosefd file x y", `No library`)
	gdb.Command("break foo")
	expect("set whosefd off", "")
	expect("show whosefd", `: off`)
	gdb.Send("run")
	gdb.Expect("exited normally")
	expect("set whosefd on", "")
	gdb.Send("run")
	gdb.Expect(stopAtFoo)
	expect("info whosefd", `Inferior 1 \(pid \d+\): /proc/self/fd/60 leads to /proc/\d+/fd/60 \(device \d+:\d+, inode \d+\): named to dlopen\.`)
	expect("whosefd preflight", `/proc/self/fd/60`)
	expect("whosefd explain", `gdb has whosefd's plug-in`)
	if out, _, _ := whosefd(t, "ps", "--format", "csv"); !strings.Contains(out, fmt.Sprintf("\n%d,gdb,true,", gdb.PID)) {
		t.Errorf("ps:\n%s", out)
	}
	noTraceback(t, gdb)
}

// noTraceback fails the test if an exception of the plug-in's has reached the user.
func noTraceback(t *testing.T, gdb *scene.Session) {
	t.Helper()
	if shown := gdb.Output(); strings.Contains(shown, "Python Exception") || strings.Contains(shown, "Traceback") {
		t.Errorf("gdb shows\n%s", shown)
	}
}

const inLibrary = `
#include <dlfcn.h>
struct result { int a; long b; char text[32]; };
struct result load(const char *name) {
	struct result r = {1, 2, "text"};
	int local = 7;
	void *handle = dlopen(name, RTLD_NOW);
	local = 8;
	int (*foo)(int) = (int (*)(int))dlsym(handle, "foo");
	r.a = foo(21) + local;
	return r;
}
`

const callsLibrary = `
#define _GNU_SOURCE
#include <fcntl.h>
#include <unistd.h>
struct result { int a; long b; char text[32]; };
struct result load(const char *name);
int main(int argc, char **argv) {
	dup2(open(argv[1], O_RDONLY), 4);
	struct result r = load("/proc/self/fd/4");
	return r.a != 50;
}
`

// gdb holds on to symbols of libraries while it calls a function, finishes one or
// watches a variable. The libraries are read again only when it has let go of them.
func TestPluginInTheMiddle(t *testing.T) {
	scene.Require(t, plugin.needs...)
	lib := filepath.Join(scene.Build(t), "lib.so")
	library := source(t, "library.c", inLibrary, "gcc", "-g", "-shared", "-fPIC")
	program := source(t, "program.c", callsLibrary, "gcc", "-g", "-Wl,--no-as-needed", library)
	for name, line := range map[string]string{
		"finish": "finish",
		"call":   `print load("/proc/self/fd/4")`,
		"watch":  "continue",
		"next":   "next",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "call" {
				scene.Require(t, "gdb that writes all registers")
			}
			gdb := plugin.start(t, scene.GDB{Args: []string{"--args", program, lib}})
			gdb.Expect(scene.Prompt)
			if name == "call" {
				gdb.Command("break program.c:9")
			} else {
				gdb.Command("break load")
			}
			gdb.Command("run")
			gdb.Command("break foo")
			switch name {
			case "next":
				gdb.Command("next")
				gdb.Command("next")
			case "watch":
				gdb.Command("watch local")
				gdb.Command("continue")
			}
			gdb.Command(line)
			if !strings.Contains(gdb.Output(), "whosefd: stopped: ") {
				t.Errorf("it has not stopped:\n%s", gdb.Output())
			}
			gdb.Send("continue")
			gdb.Expect(stopAtFoo)
			gdb.Command("kill")
			gdb.Send("quit")
			if code := gdb.Wait(); code != 0 {
				t.Errorf("exit code %d\n%s", code, gdb.Output())
			}
		})
	}
}

// A front end talks to gdb by MI, and sees no breakpoint that it has not set.
func TestPluginMI(t *testing.T) {
	scene.Require(t, plugin.needs...)
	gdb := plugin.start(t, scene.GDB{Args: []string{"--interpreter=mi2"}})
	prompt := `\(gdb\) \r?\n$`
	gdb.Expect(prompt)
	send := func(line, answer string) {
		t.Helper()
		gdb.Send(line)
		gdb.Expect(answer)
	}
	send("-gdb-set mi-async on", `\^done`)
	send("-file-exec-and-symbols "+filepath.Join(scene.Build(t), "from_memory"), `\^done`)
	send("-break-insert -f foo", `\^done,bkpt=\{number="1"`)
	for range 2 {
		send("-exec-run", `\*stopped,reason="breakpoint-hit",disp="keep",bkptno="1",[^\n]*func="foo",args=\[\{name="x",value="21"\}\]`)
		send("-stack-list-frames", `\^done,stack=\[frame=\{level="0",[^\n]*func="foo"[^\n]*func="main"`)
		send("-stack-list-variables --simple-values", `\^done,variables=\[\{name="x"`)
		send("-break-list", `\^done,BreakpointTable=\{nr_rows="1"`)
	}
	send("-exec-continue", `\*stopped,reason="exited-normally"`)
	send("-gdb-exit", `\^exit`)
	gdb.Wait()
	if shown := gdb.Output(); regexp.MustCompile(`number="-|=breakpoint-(created|modified),bkpt=\{number="[^1]`).MatchString(shown) {
		t.Errorf("MI says\n%s", shown)
	}
	noTraceback(t, gdb)
}

// dap talks to gdb by the Debug Adapter Protocol, in its framing: a header with
// the length, an empty line, JSON.
const dap = `
import json, os, subprocess, sys
gdb = subprocess.Popen(sys.argv[1:3] + ['-nx', '-i=dap', '-ix', sys.argv[3]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
number = 0
def send(command, **arguments):
    global number
    number += 1
    text = json.dumps({'seq': number, 'type': 'request', 'command': command, 'arguments': arguments}).encode()
    gdb.stdin.write(b'Content-Length: %d\r\n\r\n' % len(text) + text)
    gdb.stdin.flush()
def until(kind, name):
    while True:
        length = 0
        for line in iter(gdb.stdout.readline, b'\r\n'):
            if not line:
                sys.exit('gdb has ended')
            length = int(line.split(b':')[1])
        message = json.loads(gdb.stdout.read(length))
        print(json.dumps(message))
        if message['type'] == kind and message.get('command', message.get('event')) == name:
            return message
send('initialize', clientID='test', adapterID='gdb')
until('response', 'initialize')
if len(sys.argv) > 5:
    send('attach', program=sys.argv[4], pid=int(sys.argv[5]))
else:
    send('launch', program=sys.argv[4])
until('event', 'initialized')
send('setFunctionBreakpoints', breakpoints=[{'name': 'foo'}])
until('response', 'setFunctionBreakpoints')
send('configurationDone')
if len(sys.argv) > 5:
    until('event', 'stopped')
    send('evaluate', expression='set var whosefd_wait = 0', context='repl')
    until('response', 'evaluate')
    send('continue', threadId=1)
until('event', 'stopped')
send('stackTrace', threadId=1)
frame = until('response', 'stackTrace')['body']['stackFrames'][0]
print('FRAME', frame['name'], frame['line'])
send('continue', threadId=1)
until('event', 'exited')
send('disconnect')
until('response', 'disconnect')
`

func TestPluginDAP(t *testing.T) {
	scene.Require(t, append(plugin.needs, "python3")...)
	if out, err := exec.Command("gdb", "-nx", "-batch", "-ex", "python import gdb.dap").CombinedOutput(); err != nil || len(out) > 0 {
		t.Skipf("this gdb has no Debug Adapter Protocol: %v: %s", err, out)
	}
	program := filepath.Join(scene.Build(t), "from_memory")
	for _, by := range []string{"plug-in", "plug-in attach", "wrapper", "wrapper attach"} {
		t.Run(by, func(t *testing.T) {
			args := []string{"-c", dap, "gdb", "-q", pluginFile(t), program}
			if strings.HasPrefix(by, "wrapper") {
				args[2], args[4] = wrapper(t), os.DevNull
			}
			if strings.HasSuffix(by, "attach") {
				p := scene.StartSample(t, "from_memory", "--wait")
				args = append(args, strconv.Itoa(p.WaitReady()))
			}
			client := scene.Start(t, scene.Command{Path: "python3", Args: args})
			if code := client.Wait(); code != 0 {
				t.Errorf("exit code %d: %s%s", code, client.Out(), client.Err())
			}
			if out := client.Out(); !strings.Contains(out, "FRAME foo 1") || strings.Contains(out, `"id": -`) {
				t.Errorf("it says\n%s", out)
			}
		})
	}
}

// Installed for a user, it is in each gdb that he starts; gone, in none.
func TestPluginInstall(t *testing.T) {
	scene.Require(t, "gdb")
	home := t.TempDir()
	run := func(args ...string) (string, int) {
		cmd := exec.Command(binary(t), append([]string{"gdb-plugin"}, args...)...)
		// No wrapper of gdb that looks for something at home.
		cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME=", "XDG_DATA_HOME=", "PATH=/usr/local/bin:/usr/bin:/bin")
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	for _, step := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--status"}, exitFindings, `\(gdb \d+\.\S+\) does not have the plug-in\n`},
		{[]string{"--install", "--user"}, exitNothing, `installed ` + home},
		{[]string{"--status"}, exitNothing, `\(gdb \d+\.\S+\) has the plug-in from ` + home},
		{[]string{"--uninstall", "--user"}, exitNothing, `removed ` + home},
		{[]string{"--status"}, exitFindings, `does not have`},
		{[]string{"--install", "--status"}, exitTrouble, `none of the others can be`},
		{[]string{"--user"}, exitTrouble, `go with`},
	} {
		if out, code := run(step.args...); code != step.code || !regexp.MustCompile(step.says).MatchString(out) {
			t.Errorf("%v: exit code %d: %s", step.args, code, out)
		}
	}
}
