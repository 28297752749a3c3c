package main

import (
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

// Two libraries were loaded by one descriptor number, one after the other, by two
// spellings of its name: each is led to its own file.
func TestGuardSecondName(t *testing.T) { bothEngines(t, testGuardSecondName) }

func testGuardSecondName(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root", "gcc")
	dir := t.TempDir()
	program := filepath.Join(dir, "two_names")
	scene.Run(t, "gcc", "-g", "-w", "-o", program, "testdata/two_names.c", "-ldl")
	for _, name := range []string{"one", "two"} {
		source := filepath.Join(dir, name+".c")
		if err := os.WriteFile(source, fmt.Appendf(nil, "int %s(int x)\n{\n\treturn x + 1;\n}\n", name), 0o600); err != nil {
			t.Fatal(err)
		}
		scene.Run(t, "gcc", "-g", "-O0", "-fPIC", "-shared", "-o", filepath.Join(dir, name+".so"), source)
	}
	link := filepath.Join(dir, "me")
	if err := os.Symlink("/proc/self", link); err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{"/proc/thread-self/fd/%d", "/dev/fd/%d", "/proc/self/fd/./%d", "/proc//self/fd/%d", "/proc/./self/fd/%d", "/dev//fd/%d",
		"//proc/self/fd/%d", "/./dev/../proc/self/fd/%d", link + "/fd/%d"} {
		for _, fd := range []string{"4", "9"} {
			t.Run(strings.ReplaceAll(form, "/", "_")+fd, func(t *testing.T) {
				gdb := guarded(t, scene.GDB{Args: []string{"--args", program, filepath.Join(dir, "one.so"), filepath.Join(dir, "two.so"), fd, form}})
				gdb.Expect(scene.Prompt)
				gdb.Command("break one")
				gdb.Command("break two")
				gdb.Send("run")
				gdb.Expect(`Breakpoint 1, one \(x=21\) at \S*one\.c:3`)
				gdb.Send("continue")
				gdb.Expect(`Breakpoint 2, two \(x=21\) at \S*two\.c:3`)
				gdb.Send("continue")
				gdb.Expect("exited normally")
				noTrouble(t, gdb)
			})
		}
	}
}

// Two inferiors have different libraries by one name: that of the one is meant which
// gdb looks at.
func TestGuardTwoInferiors(t *testing.T) { bothEngines(t, testGuardTwoInferiors) }

func testGuardTwoInferiors(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root", "gcc")
	dir := t.TempDir()
	program := filepath.Join(dir, "two_names")
	scene.Run(t, "gcc", "-g", "-w", "-o", program, "testdata/two_names.c", "-ldl")
	libs := map[string]string{}
	for _, name := range []string{"one", "two"} {
		source := filepath.Join(dir, name+".c")
		if err := os.WriteFile(source, fmt.Appendf(nil, "int one(int x)\n{\n\treturn x + 1;\n}\nint lies_in_%s = 1;\n", name), 0o600); err != nil {
			t.Fatal(err)
		}
		libs[name] = filepath.Join(dir, name+".so")
		scene.Run(t, "gcc", "-g", "-O0", "-fPIC", "-shared", "-o", libs[name], source)
	}
	gdb := guarded(t, scene.GDB{Args: []string{"--args", program, libs["one"], libs["one"], "4", "/proc/self/fd/%d"}})
	gdb.Expect(scene.Prompt)
	gdb.Command("break one")
	gdb.Send("run")
	gdb.Expect(`Breakpoint 1(\.\d)?, one \(x=21\) at \S*one\.c:3`)
	gdb.Expect(scene.Prompt)
	gdb.Command("add-inferior -exec " + program)
	gdb.Command("inferior 2")
	gdb.Command("set args " + libs["two"] + " " + libs["two"] + " 4 /proc/self/fd/%d")
	gdb.Send("run")
	gdb.Expect(`Breakpoint 1(\.\d)?, one \(x=21\) at \S*two\.c:3`)
	gdb.Expect(scene.Prompt)
	for in, source := range map[string]string{"1": "one.c", "2": "two.c"} {
		if shown := gdb.Command("inferior " + in); !strings.Contains(shown, source) {
			t.Errorf("inferior %s: %s", in, shown)
		}
	}
	noTrouble(t, gdb)
}

// A guarded gdb looks at its list of libraries again when the program has ended,
// was killed, or runs on without it.
func TestGuardAfterTheEnd(t *testing.T) { bothEngines(t, testGuardAfterTheEnd) }

func testGuardAfterTheEnd(t *testing.T) {
	t.Parallel()
	for how, commands := range map[string][]string{
		"exited":   {"run"},
		"killed":   {"break foo", "run", "kill"},
		"detached": {"break foo", "run", "detach"},
	} {
		for _, again := range []string{"set solib-search-path /tmp", "set sysroot /", "info sharedlibrary"} {
			t.Run(how+" "+again, func(t *testing.T) {
				scene.Require(t, "gdb", "ptrace", "root")
				gdb := guarded(t, scene.GDB{Args: []string{filepath.Join(scene.Build(t), "from_memory")}})
				gdb.Expect(scene.Prompt)
				gdb.Command("set confirm off")
				for _, c := range commands {
					if c == "detach" { // the program runs on, and prints when it likes, also amid a prompt
						gdb.Send(c)
						gdb.Expect(`foo\(21\) = 42`)
						gdb.Send("echo detached by now\\n")
						gdb.Expect(`detached by now\r?\n\(gdb\) `)
						continue
					}
					gdb.Command(c)
				}
				gdb.Command(again)
				if shown := gdb.Command("echo still there\\n"); !regexp.MustCompile(`still there\r?\n`).MatchString(shown) {
					t.Errorf("after %q gdb shows %q", again, shown)
				}
			})
		}
	}
}

// The command that guard starts is no debugger, but starts one.
func TestGuardChildren(t *testing.T) { bothEngines(t, testGuardChildren) }

func testGuardChildren(t *testing.T) {
	t.Parallel()
	for name, launcher := range map[string][]string{
		"timeout": {"timeout", "--foreground", "60"},
		"shell":   {"sh", "-c", `"$@"; true`, "sh"},
		"nested":  {"sh", "-c", `sh -c '"$@"; true' sh "$@"; true`, "sh"},
		"exec":    {"sh", "-c", `exec "$@"`, "sh"},
	} {
		t.Run(name, func(t *testing.T) {
			scene.Require(t, "gdb", "ptrace", "root")
			gdb := scene.StartGDB(t, scene.GDB{
				Launcher: slices.Concat(command(t, "guard"), []string{"--"}, launcher),
				Args:     []string{filepath.Join(scene.Build(t), "from_memory")},
			})
			gdb.Expect(scene.Prompt)
			gdb.Command("break foo")
			gdb.Send("run")
			gdb.Expect(stopAtFoo)
			gdb.Send("continue")
			gdb.Expect("exited normally")
			noTrouble(t, gdb)
		})
	}
}

// A debugger that may not enter its inferior's mount namespace has no file of it, whoever guards it: it is said so
// when the debugger has ended, with what helps. Its copies make the opens, so that none is seen.
func TestGuardShutOut(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace")
	pid, as := ofNobody(t, t.TempDir())
	enters := entersAs(t, as, pid)
	for _, args := range [][]string{{"-p", strconv.Itoa(pid)}, {fmt.Sprintf("/proc/%d/exe", pid), "-p", strconv.Itoa(pid)}} {
		all := slices.Concat(as, []string{binary(t), "guard", "--findings-exit", "--", "gdb", "-q", "-nx", "-batch"}, args)
		cmd := exec.Command(all[0], all[1:]...)
		cmd.Dir = "/"
		out, err := cmd.CombinedOutput()
		if enters {
			if cmd.ProcessState.ExitCode() != exitNothing || strings.Contains(string(out), "guard cannot help") {
				t.Errorf("%v, by a gdb that finds the files: %v\n%s", args, err, out)
			}
		} else if cmd.ProcessState.ExitCode() != exitFindings || !strings.Contains(string(out), fmt.Sprintf("guard cannot help with the files of pid %d: ", pid)) ||
			!strings.Contains(string(out), fmt.Sprintf("whosefd preflight %d --sysroot DIR", pid)) {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}
