package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"whosefd/analyze"
	"whosefd/samples/scene"
)

// source is a program to be built for a test.
func source(t *testing.T, name, text string, compiler ...string) string {
	t.Helper()
	return scene.Compile(t, t.TempDir(), name, text, compiler...)
}

// threaded prints nothing: it would come in the middle of what gdb says of the threads' ends.
const threaded = `
#include <chrono>
#include <thread>
#include <vector>
void work(int n) { std::this_thread::sleep_for(std::chrono::milliseconds(n)); }
int main() {
	std::vector<std::thread> all;
	for (int i = 0; i < 8; i++) all.emplace_back(work, 20 * i);
	for (auto &t : all) t.join();
}
`

const loads = `
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/wait.h>
int reached(int n) { return n; }
int main(int argc, char **argv) {
	for (int i = 1; i < argc; i++) {
		void *h = dlopen(argv[i], RTLD_NOW);
		if (!h) { fprintf(stderr, "%s\n", dlerror()); return 1; }
		if (i % 2 == 0) dlclose(h);
	}
	pid_t child = argc % 2 ? fork() : vfork();
	if (child == 0) { execl("/bin/true", "true", (char *)0); _exit(1); }
	waitpid(child, 0, 0);
	return reached(0);
}
`

const goroutines = `package main

import (
	"fmt"
	"sync"
)

func main() {
	var wg sync.WaitGroup
	for range 50 {
		wg.Add(1)
		go func() { defer wg.Done(); fmt.Print() }()
	}
	wg.Wait()
}
`

// session is one in which all is as it should be.
type session struct {
	dir   string
	args  []string
	do    []string // commands, until the debugger is looked at
	runs  bool     // the last of them does not end
	then  []string
	above []string // what starts all
	wrap  []string // between whosefd and gdb
}

// healthySessions are all that we know of.
func healthySessions(t *testing.T) map[string]func(*testing.T) session {
	bin := scene.Build(t)
	lib := filepath.Join(bin, "lib.so")
	contained := []string{"unshare", "--mount", "--pid", "--fork", "--mount-proc"}
	return map[string]func(*testing.T) session{
		"threaded C++": func(t *testing.T) session {
			return session{args: []string{source(t, "threads.cc", threaded, "g++", "-g", "-pthread")},
				do: []string{"break work", "run", "info threads"}, then: []string{"delete", "continue"}}
		},
		"Python": func(t *testing.T) session {
			scene.Require(t, "python3")
			program := "import ctypes, json, threading, time; threading.Thread(target=time.sleep, args=(0.1,)).start(); ctypes.CDLL(None).getppid()"
			return session{args: []string{"--args", "python3", "-c", program}, do: []string{"break getppid", "run"}, then: []string{"continue"}}
		},
		"Go": func(t *testing.T) session {
			return session{args: []string{source(t, "main.go", goroutines, "go", "build")},
				do: []string{"break main.main", "run", "info threads"}, then: []string{"delete", "continue"}}
		},
		"attached": func(t *testing.T) session {
			p := scene.StartSample(t, "from_file", "--wait")
			p.WaitReady()
			return session{args: []string{"-p", strconv.Itoa(p.PID)}, do: []string{"info sharedlibrary"}, then: []string{"detach"}}
		},
		"a core": func(t *testing.T) session {
			p := scene.StartSample(t, "from_file", "--wait")
			p.WaitReady()
			core := filepath.Join(t.TempDir(), "core")
			gdb := scene.StartGDB(t, scene.GDB{Args: []string{"-p", strconv.Itoa(p.PID)}})
			gdb.Expect(scene.Prompt)
			gdb.Command("generate-core-file " + core)
			gdb.Kill()
			return session{args: []string{filepath.Join(bin, "from_file"), core}, do: []string{"info sharedlibrary", "backtrace"}}
		},
		"separate debug file": func(t *testing.T) session {
			program := source(t, "loads.c", loads, "gcc", "-g")
			scene.Run(t, "objcopy", "--only-keep-debug", program, program+".debug")
			scene.Run(t, "strip", "-g", program)
			scene.Run(t, "objcopy", "--add-gnu-debuglink="+program+".debug", program)
			return session{args: []string{"--args", program, lib}, do: []string{"break reached", "run"}, then: []string{"continue"}}
		},
		"libraries by many names": func(t *testing.T) session {
			dir := filepath.Dir(source(t, "loads.c", loads, "gcc", "-g"))
			link := filepath.Join(dir, "link.so")
			if err := os.Symlink(lib, link); err != nil {
				t.Fatal(err)
			}
			scene.Copy(t, lib, filepath.Join(dir, "here.so"))
			return session{dir: dir, args: []string{"--args", "./loads", link, lib, "./here.so", "libm.so.6", "libm.so.6"},
				do: []string{"break reached", "run", "info sharedlibrary"}, then: []string{"continue"}}
		},
		"another folder": func(t *testing.T) session {
			return session{dir: "/", args: []string{"--args", filepath.Join(bin, "from_file")}, do: []string{"break foo", "run"}, then: []string{"continue"}}
		},
		"two inferiors": func(t *testing.T) session {
			return session{args: []string{filepath.Join(bin, "from_file")}, do: []string{"break foo", "run", "add-inferior -exec " + filepath.Join(bin, "from_file"),
				"inferior 2", "run", "info inferiors"}, then: []string{"kill inferiors 1 2"}}
		},
		"followed children": func(t *testing.T) session {
			program := source(t, "loads.c", loads, "gcc", "-g")
			return session{args: []string{"--args", program, lib}, do: []string{"set detach-on-fork off", "set follow-exec-mode new", "catch exec",
				"set follow-fork-mode child", "run", "info inferiors"}, then: []string{"kill"}}
		},
		"a container of its own": func(t *testing.T) session {
			scene.Require(t, "root", "unshare", "pid namespaces")
			// A session of its own too: its process group must have a number there.
			return session{above: append(contained, "setsid", "--ctty"), args: []string{"--args", filepath.Join(bin, "from_file")},
				do: []string{"break foo", "run", "info sharedlibrary"}, then: []string{"continue"}}
		},
		"attached into a container": func(t *testing.T) session {
			scene.Require(t, "root", "unshare", "pid namespaces")
			p := scene.Start(t, scene.Command{Path: contained[0], Args: append(contained[1:], filepath.Join(bin, "from_file"), "--wait")})
			p.WaitReady()
			inside := children(t, p.PID)
			if len(inside) != 1 {
				t.Fatalf("inside: %v", inside)
			}
			return session{args: []string{"-p", strconv.Itoa(inside[0])}, do: []string{"info sharedlibrary"}, then: []string{"detach"}}
		},
		"found by $ORIGIN": func(t *testing.T) session {
			dir := t.TempDir()
			scene.Copy(t, lib, filepath.Join(dir, "libhere.so"))
			program := source(t, "linked.c", "int foo(int);\nint main(void) { return foo(0); }\n",
				"gcc", "-g", "-Wl,-rpath,$ORIGIN", "-L"+dir, "-Wl,--no-as-needed", "-l:libhere.so")
			scene.Copy(t, program, filepath.Join(dir, "linked"))
			return session{dir: "/", args: []string{filepath.Join(dir, "linked")}, do: []string{"break foo", "run"}, then: []string{"continue"}}
		},
		"running": func(t *testing.T) session {
			return session{args: []string{"--args", filepath.Join(bin, "from_file"), "--wait"}, do: []string{"run"}, runs: true}
		},
		"through a gdbserver": func(t *testing.T) session {
			scene.Require(t, "gdbserver")
			return session{do: []string{"set sysroot /", "target remote | gdbserver --once - " + filepath.Join(bin, "from_file"), "break foo", "continue", "info sharedlibrary"}, then: []string{"continue"}}
		},
		"vfork": func(t *testing.T) session {
			program := source(t, "loads.c", loads, "gcc", "-g")
			return session{args: []string{"--args", program, lib, lib, lib}, do: []string{"catch vfork", "run", "delete", "catch exec", "set follow-fork-mode child", "continue"},
				then: []string{"kill"}}
		},
		"namespaces of its own": func(t *testing.T) session {
			scene.Require(t, "root", "unshare", "mount namespaces")
			return session{wrap: []string{"unshare", "-m"}, args: []string{"--args", filepath.Join(bin, "from_file")},
				do: []string{"break foo", "run"}, then: []string{"continue"}}
		},
		"the prompt": func(t *testing.T) session { return session{do: []string{"show version"}} },
	}
}

// A session in which all is as it should be: nothing is flagged, neither in the
// debugger as it stands, nor in a recording of all that it did.
func TestHealthySessions(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "gcc", "g++", "objcopy")
	for name, prepare := range healthySessions(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := prepare(t)
			record := filepath.Join(t.TempDir(), "record")
			gdb := scene.StartGDB(t, scene.GDB{Dir: s.dir, Args: s.args,
				Launcher: slices.Concat(s.above, behind, []string{binary(t), "trace", "-o", record, "--"}, s.wrap)})
			gdb.Expect(scene.Prompt)
			for i, line := range s.do {
				if s.runs && i == len(s.do)-1 {
					gdb.Send(line)
					gdb.Expect(`ready \d+`)
					break
				}
				gdb.Command(line)
			}
			tracer, err := strconv.Atoi(statusLine(t, gdb.PID, "TracerPid"))
			if err == nil && tracer == 0 { // without stops: who has launched it
				tracer, err = strconv.Atoi(statusLine(t, gdb.PID, "PPid"))
			}
			if err != nil || tracer == 0 {
				t.Fatalf("tracer %d, %v", tracer, err)
			}
			if err := syscall.Kill(tracer, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			untraced(t, gdb.PID)
			eventually(t, "the recording is whole", func() bool {
				b, err := os.ReadFile(record)
				return err == nil && strings.Contains(string(b), `{"type":"end"`) && strings.Count(string(b), `"name":"openat"`) > 50
			})
			healthy(t, gdb, strconv.Itoa(gdb.PID))
			healthy(t, gdb, record)
			unmarked(t, gdb.PID)
			if s.runs {
				return
			}
			for _, line := range s.then {
				gdb.Send(line)
			}
			gdb.Send("quit")
		})
	}
}

// healthy fails the test if explain has anything to say.
func healthy(t *testing.T, gdb *scene.Session, of string) {
	t.Helper()
	d, code := diagnosis(t, of)
	if code != exitNothing || len(d.Findings) > 0 || len(d.Risks) > 0 || d.Verdict != analyze.VerdictBlocked && d.Verdict != analyze.VerdictOK {
		b, err := json.MarshalIndent(d, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		t.Errorf("explain %s: exit code %d\n%s\n%s", filepath.Base(of), code, b, gdb.Output())
	}
	if out, stderr, _ := whosefd(t, "table", "--findings", "--show", "calls", "--format", "csv", of); of != strconv.Itoa(gdb.PID) && strings.Count(out, "\n") > 1 {
		t.Errorf("marked calls:\n%s%s", out, stderr)
	}
}

// unmarked fails the test if ps marks a debugger.
func unmarked(t *testing.T, pid int) {
	t.Helper()
	out, stderr, _ := whosefd(t, "ps", "--format", "json")
	var rows []analyze.PSRow
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		t.Fatalf("ps: %v\n%s%s", err, out, stderr)
	}
	i := slices.IndexFunc(rows, func(row analyze.PSRow) bool { return int(row.PID) == pid })
	if i < 0 || rows[i].Effect != "" || rows[i].Error != "" {
		t.Errorf("ps of pid %d: %s", pid, out)
	}
}

// lldb is healthy too, and so is its server.
func TestHealthyLLDB(t *testing.T) {
	t.Parallel()
	optional(t, "lldb")
	p := scene.StartSample(t, "from_file", "--wait")
	pid := p.WaitReady()
	debugger := scene.Start(t, scene.Command{Path: "lldb", Args: []string{"--no-lldbinit", "--batch", "-p", strconv.Itoa(pid),
		"-o", "image list", "-o", "platform shell echo looked; exec sleep 600"}})
	debugger.Expect("lib.so")
	eventually(t, "lldb has listed", func() bool {
		return slices.ContainsFunc(children(t, debugger.PID), func(child int) bool { return strings.HasPrefix(procFile(t, child, "comm"), "lldb-server") })
	})
	server := tracerOf(t, pid)
	for _, of := range []int{debugger.PID, server} {
		d, code := diagnosis(t, strconv.Itoa(of))
		if code != exitNothing || len(d.Findings) > 0 || len(d.Risks) > 0 || len(d.Inferiors) != 1 || int(d.Inferiors[0].PID) != pid {
			t.Errorf("explain %d: exit code %d: %+v", of, code, d)
		}
		unmarked(t, of)
	}
}
