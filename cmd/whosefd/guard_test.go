package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"whosefd/samples/scene"
	"whosefd/tracer/event"
)

// guarded starts gdb under guard, with flags of guard's.
func guarded(t *testing.T, g scene.GDB, flags ...string) *scene.Session {
	t.Helper()
	g.Launcher = slices.Concat(g.Launcher, command(t, append([]string{"guard"}, flags...)...), []string{"--"})
	return scene.StartGDB(t, g)
}

// guardedRun is scene.Debug under guard.
func guardedRun(t *testing.T, flags []string, sample string, args ...string) *scene.Session {
	t.Helper()
	return cure{start: func(t *testing.T, g scene.GDB) *scene.Session { return guarded(t, g, flags...) }}.run(t, sample, args...)
}

// cure is a way to start a gdb that the bug does not bite. Its methods are the
// tests that all of them must pass.
type cure struct {
	needs []string // as scene.Require has it
	start func(*testing.T, scene.GDB) *scene.Session
	// shown is a regular expression for what gdb then shows for a library's name.
	shown func(name string) string
}

var guard = cure{
	needs: []string{"gdb", "ptrace", "root"},
	start: func(t *testing.T, g scene.GDB) *scene.Session { t.Helper(); return guarded(t, g) },
	shown: regexp.QuoteMeta,
}

// run is scene.Debug with the cure.
func (c cure) run(t *testing.T, sample string, args ...string) *scene.Session {
	t.Helper()
	gdb := c.start(t, scene.GDB{Args: append([]string{"--args", filepath.Join(scene.Build(t), sample)}, args...)})
	gdb.Expect(scene.Prompt)
	gdb.Command("break foo")
	gdb.Send("run")
	return gdb
}

// waysToFail are those that make gdb hang, and those in which it would read a
// wrong file or none.
func waysToFail() []way {
	ws := waysToHang()
	for fd := range 61 {
		switch {
		case fd < 3, fd >= 13 && fd <= 20, fd == 60:
			name := strconv.Itoa(fd)
			ws = append(ws, way{name: "fd " + name, args: []string{"--fd", name}, lib: "/proc/self/fd/" + name, copies: 1,
				long: fd != 0 && fd != 2 && fd != 13 && fd != 15 && fd != 60})
		}
	}
	ws = append(ws, way{name: "relative", args: []string{"--name", "relative"}, lib: "./4", copies: 1},
		way{name: "relative, by a thread", args: []string{"--name", "relative", "--thread"}, lib: "./4", copies: 1, long: true},
		way{name: "attached, relative", attach: true, args: []string{"--name", "relative"}, lib: "./4", copies: 1, long: true},
		way{name: "launched, closed", args: []string{"--after", "close"}, lib: "/proc/self/fd/4", copies: 1})
	return ws
}

func TestGuard(t *testing.T) { bothEngines(t, guard.ways) }

// ways goes through each of them.
func (c cure) ways(t *testing.T) {
	t.Parallel()
	for _, w := range waysToFail() {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			if w.long && testing.Short() {
				t.Skip("a long test")
			}
			scene.Require(t, c.needs...)
			var gdb *scene.Session
			if w.attach {
				p := scene.StartSample(t, "from_memory", append(slices.Clone(w.args), "--wait")...)
				p.WaitReady()
				gdb = c.start(t, scene.GDB{Args: []string{"-p", strconv.Itoa(p.PID)}})
				gdb.Expect(scene.Prompt)
				gdb.Command("break foo")
				gdb.Command("set var whosefd_wait = 0")
				gdb.Send("continue")
			} else {
				gdb = c.run(t, "from_memory", w.args...)
			}
			gdb.Expect(stopAtFoo)
			goesOn(t, gdb, c.shown(w.lib), w.copies)
			gdb.Send("quit 7")
			if code := gdb.Wait(); code != 7 {
				t.Errorf("the exit code is %d", code)
			}
		})
	}
}

// The library's name is relative to the directory that the program has changed
// to, and gdb is in another one.
func TestGuardRelative(t *testing.T) { bothEngines(t, guard.relative) }

func (c cure) relative(t *testing.T) {
	t.Parallel()
	scene.Require(t, c.needs...)
	program := filepath.Join(scene.Build(t), "from_file")
	decoy := t.TempDir()
	for _, dir := range []string{"/", decoy} {
		if err := os.WriteFile(filepath.Join(decoy, "lib.so"), []byte("not a library\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		gdb := c.start(t, scene.GDB{Args: []string{"--args", program, "--relative"}, Dir: dir})
		gdb.Expect(scene.Prompt)
		gdb.Command("break foo")
		gdb.Send("run")
		gdb.Expect(stopAtFoo)
		if shown := gdb.Command("info sharedlibrary"); !regexp.MustCompile(`Yes +[^\r\n]*lib\.so\r`).MatchString(shown) {
			t.Errorf("in %s: info sharedlibrary:\n%s", dir, shown)
		}
		if shown := gdb.Command("pwd"); !strings.Contains(shown, "Working directory "+dir+".") {
			t.Errorf("in %s: pwd shows %s", dir, shown)
		}
		gdb.Send("continue")
		gdb.Expect("exited normally")
		noTrouble(t, gdb)
	}
}

// A file that was replaced on disk is what its absolute name means, for
// everybody: gdb is left to say that it does not match.
func TestGuardReplaced(t *testing.T) { bothEngines(t, testGuardReplaced) }

func testGuardReplaced(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	lib, path := filepath.Join(scene.Build(t), "lib.so"), filepath.Join(t.TempDir(), "lib.so")
	scene.Copy(t, lib, path)
	p := scene.StartSample(t, "from_file", "--lib", path, "--wait")
	p.WaitReady()
	scene.Copy(t, lib, path) // install(1) removes what is there, and makes another file
	record := filepath.Join(t.TempDir(), "record.jsonl")
	gdb := guarded(t, scene.GDB{Args: []string{"-p", strconv.Itoa(p.PID)}}, "-o", record)
	gdb.Expect(scene.Prompt)
	gdb.Send("quit")
	gdb.Wait()
	if calls := rewrites(t, record); len(calls) != 0 {
		t.Errorf("%d calls were led elsewhere, such as %+v", len(calls), calls[0])
	}
}

// rewrites are the calls of a recording that were led elsewhere.
func rewrites(t *testing.T, file string) []*event.Syscall {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var calls []*event.Syscall
	for r := event.NewReader(f); ; {
		ev, err := r.Next()
		if err == io.EOF {
			return calls
		}
		if err != nil {
			t.Fatal(err)
		}
		if call, ok := ev.(*event.Syscall); ok && call.Rewritten != nil {
			calls = append(calls, call)
		}
	}
}

// What is led elsewhere is recorded and, if asked for, shown; nothing else is.
func TestGuardRecord(t *testing.T) { bothEngines(t, testGuardRecord) }

func testGuardRecord(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	file := filepath.Join(t.TempDir(), "guard.jsonl")
	gdb := guardedRun(t, []string{"-o", file, "--verbose"}, "from_memory")
	gdb.Expect(stopAtFoo)
	inferior := gdb.Inferior()
	gdb.Send("continue")
	gdb.Expect("exited normally")
	gdb.Expect(scene.Prompt)
	gdb.Send("quit")
	gdb.Wait()
	calls := rewrites(t, file)
	opened := false
	for _, c := range calls {
		// realpath(3) of the name ends in the second.
		if c.Path != "/proc/self/fd/4" && c.Path != event.Text(fmt.Sprintf("/proc/%d/fd/4", gdb.PID)) || c.Rewritten.Path != event.Text(fmt.Sprintf("/proc/%d/fd/4", inferior)) ||
			c.Rewritten.Target.Kind != event.Memfd || c.Errno != "" {
			t.Errorf("%s %q was led to %+v: %s", c.Name, c.Path, c.Rewritten, c.Errno)
		}
		if c.Name == "openat" {
			opened = true
			if c.Target == nil || !c.Target.Same(c.Rewritten.Target) {
				t.Errorf("it reached %+v, not %+v", c.Target, c.Rewritten.Target)
			}
		}
	}
	if !opened {
		t.Errorf("no open among the %d calls", len(calls))
	}
	if n := strings.Count(gdb.Output(), "(led to /proc/"); n != len(calls) {
		t.Errorf("%d of %d calls are shown:\n%s", n, len(calls), gdb.Output())
	}
	if out, stderr, code := whosefd(t, "explain", file); code != exitNothing {
		t.Errorf("the record of a guarded gdb explains as %d: %s%s", code, out, stderr)
	}
}

// numbers are what differs from run to run, with the blanks by which columns make up for their length.
var numbers = regexp.MustCompile(`(0x[0-9a-f]+|\d+) *`)

// gdb's terminal under guard shows what it shows without.
func TestGuardTranscript(t *testing.T) { bothEngines(t, guard.transcript) }

func (c cure) transcript(t *testing.T) {
	t.Parallel()
	scene.Require(t, c.needs...)
	program := filepath.Join(scene.Build(t), "from_memory")
	session := func(gdb *scene.Session) string {
		gdb.Expect(scene.Prompt)
		gdb.Command("break foo")
		gdb.Send("run")
		gdb.Expect(stopAtFoo)
		gdb.Command("bt")
		gdb.Command("shell echo hello")
		gdb.Command("info inferiors")
		gdb.Command("continue")
		gdb.Send("quit 3")
		if code := gdb.Wait(); code != 3 {
			t.Errorf("exit code %d", code)
		}
		return numbers.ReplaceAllString(gdb.Output(), "N ")
	}
	g := scene.GDB{Args: []string{"--args", program, "--cure"}}
	plain, under := session(scene.StartGDB(t, g)), session(c.start(t, g))
	if plain != under {
		t.Errorf("gdb shows\n%s\nand so\n%s", plain, under)
	}
	// With the bug, only the name differs.
	hit := session(c.start(t, scene.GDB{Args: []string{"--args", program}}))
	if strings.ReplaceAll(hit, " \r\n", "\r\n") != strings.ReplaceAll(strings.ReplaceAll(plain, " --cure", ""), " \r\n", "\r\n") {
		t.Errorf("gdb shows\n%s\nand so, with the bug\n%s", plain, hit)
	}
}

// One gdb, one session: run again, two inferiors with one name for two files,
// attach and detach, a fork and an exec followed.
func TestGuardInferiors(t *testing.T) { bothEngines(t, guard.inferiors) }

func (c cure) inferiors(t *testing.T) {
	t.Parallel()
	scene.Require(t, c.needs...)
	program := filepath.Join(scene.Build(t), "from_memory")
	gdb := c.run(t, "from_memory")
	hasLibrary := regexp.MustCompile(`Yes +` + c.shown("/proc/self/fd/4") + `\r`)
	gdb.Expect(stopAtFoo)
	t.Run("run again", func(t *testing.T) {
		gdb.Send("run")
		gdb.Expect(stopAtFoo)
	})
	t.Run("two", func(t *testing.T) {
		gdb.Command("add-inferior -exec " + program)
		gdb.Command("inferior 2")
		gdb.Send("run")
		gdb.Expect(stopAtFoo)
		for _, n := range []string{"1", "2"} {
			if shown := gdb.Command("inferior " + n); !strings.Contains(shown, "foo (x=21)") {
				t.Errorf("inferior %s shows\n%s", n, shown)
			}
			if shown := gdb.Command("info sharedlibrary"); !hasLibrary.MatchString(shown) {
				t.Errorf("inferior %s has\n%s", n, shown)
			}
		}
		gdb.Send("continue")
		gdb.Expect("exited normally")
		gdb.Expect(scene.Prompt)
		gdb.Command("inferior 1")
		gdb.Command("remove-inferiors 2")
		gdb.Send("continue")
		gdb.Expect("exited normally")
		gdb.Expect(scene.Prompt)
	})
	t.Run("attach and detach", func(t *testing.T) {
		p := scene.StartSample(t, "from_memory", "--wait")
		p.WaitReady()
		// gdb may be at its prompt before it has attached: that is no sign.
		attach := func() {
			gdb.Send(fmt.Sprintf("attach %d", p.PID))
			gdb.Send("info sharedlibrary")
			gdb.Expect(hasLibrary.String())
			gdb.Expect(scene.Prompt)
		}
		for range 2 {
			attach()
			gdb.Command("detach")
		}
		attach()
		gdb.Command("set var whosefd_wait = 0")
		gdb.Send("continue")
		gdb.Expect(stopAtFoo)
		gdb.Command("detach")
		if code := p.Wait(); code != 0 || !strings.Contains(p.Out(), "foo(21) = 42") {
			t.Errorf("the process: exit code %d, %q %q", code, p.Out(), p.Err())
		}
	})
	t.Run("follow", func(t *testing.T) {
		gdb.Command("set follow-fork-mode child")
		gdb.Command("file /bin/sh")
		gdb.Command("set args -c '" + program + "; true'")
		gdb.Send("run")
		gdb.Expect(stopAtFoo)
		gdb.Send("continue")
		gdb.Expect("exited normally")
		gdb.Expect(scene.Prompt)
	})
	noTrouble(t, gdb)
	gdb.Send("quit")
	if code := gdb.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// Ctrl-C reaches the inferior, and guard does not end by it.
func TestGuardInterrupt(t *testing.T) { bothEngines(t, testGuardInterrupt) }

func testGuardInterrupt(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	gdb := guardedRun(t, nil, "from_memory", "--wait")
	gdb.Expect(`ready \d+`)
	gdb.Interrupt()
	gdb.Expect(`received signal SIGINT`)
	gdb.Expect(scene.Prompt)
	gdb.Interrupt()
	gdb.Expect(`Quit`)
	gdb.Expect(scene.Prompt)
	if statusLine(t, gdb.PID, "TracerPid") == "0" {
		t.Error("Ctrl-C has ended the guard")
	}
	gdb.Command("set var whosefd_wait = 0")
	gdb.Send("continue")
	gdb.Expect(stopAtFoo)
	goesOn(t, gdb, "/proc/self/fd/4", 1)
}

// Ctrl-Z gives the terminal back to the shell, and fg to gdb.
func TestGuardJobControl(t *testing.T) { bothEngines(t, testGuardJobControl) }

func testGuardJobControl(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root", "bash")
	gdb := scene.StartGDB(t, scene.GDB{
		Launcher: []string{"bash", "--norc", "--noprofile", "-i", "-c", strings.Join(command(t, "guard"), " ") + ` -- "$@"; for n in 1 2; do echo "the shell has $?"; sleep 1; fg; done; echo "ended $?"`, "bash"},
		Args:     []string{filepath.Join(scene.Build(t), "from_memory")},
	})
	gdb.Expect(scene.Prompt)
	gdb.Command("break foo")
	gdb.Command("print 0") // what an empty line repeats
	for range 2 {
		gdb.Send("\x1a")
		gdb.Expect(`the shell has 1\d\d`)
		if state := statusLine(t, gdb.PID, "State"); !strings.HasPrefix(state, "t") && !strings.HasPrefix(state, "T") {
			t.Errorf("gdb is in state %s", state)
		}
		gdb.Expect(`guard (--engine \w+ )?-- `)
		gdb.Send("print 6 * 7")
		gdb.Expect(`\$\d+ = 42`)
		gdb.Expect(scene.Prompt)
	}
	gdb.Send("run")
	gdb.Expect(stopAtFoo)
	goesOn(t, gdb, "/proc/self/fd/4", 1)
	gdb.Send("quit 7")
	gdb.Expect(`ended 7`)
}

// behind starts a command under a shell that stays, as a user's shell does.
var behind = []string{"sh", "-c", `"$@"; echo "the shell has $?"; while :; do sleep 1; done`, "sh"}

// However guard is ended, gdb runs on and answers.
func TestGuardEnds(t *testing.T) { bothEngines(t, testGuardEnds) }

func testGuardEnds(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run("launched, "+sig.String(), func(t *testing.T) {
			gdb := guarded(t, scene.GDB{Launcher: behind, Args: []string{"--args", filepath.Join(scene.Build(t), "from_memory"), "--wait"}})
			gdb.Expect(scene.Prompt)
			gdb.Command("break foo")
			gdb.Send("run")
			gdb.Expect(`ready \d+`)
			gdb.Interrupt()
			gdb.Expect(scene.Prompt)
			tracer, err := strconv.Atoi(statusLine(t, gdb.PID, "TracerPid"))
			if err != nil || tracer == 0 {
				t.Fatalf("tracer %d: %v", tracer, err)
			}
			if err := syscall.Kill(tracer, sig); err != nil {
				t.Fatal(err)
			}
			gdb.Expect(`the shell has ` + strconv.Itoa(128+int(sig)))
			untraced(t, gdb.PID)
			if shown := gdb.Command("print whosefd_wait"); !strings.Contains(shown, "= 1") {
				t.Errorf("print shows %q", shown)
			}
			if shown := gdb.Command("info symbol foo"); !strings.Contains(shown, "foo in section") {
				t.Errorf("info symbol shows %q", shown)
			}
		})
	}
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		t.Run("joined, "+sig.String(), func(t *testing.T) {
			gdb := scene.Debug(t, "from_memory", "--cure")
			gdb.Expect(stopAtFoo)
			call, fds, signals := "", table(t, gdb.PID), signalState(t, gdb.PID)
			still := 0
			eventually(t, "gdb waits for its user", func() bool {
				last := call
				if call = procFile(t, gdb.PID, "syscall"); call != last || call == "running\n" {
					still = 0
				}
				still++
				return still == 200 // 1 s: it has nothing more to do
			})
			r := startWhosefd(t, "guard", "-p", strconv.Itoa(gdb.PID))
			eventually(t, "it guards", func() bool { return strings.Contains(r.stderr.String(), "until it ends or Ctrl-C") })
			if err := r.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			code := r.wait(t)
			if sig != syscall.SIGKILL && (code != exitNothing || !strings.Contains(r.stderr.String(), "no call had to be led elsewhere")) {
				t.Errorf("exit code %d: %s", code, r.stderr.String())
			}
			untraced(t, gdb.PID)
			if now := table(t, gdb.PID); !maps.Equal(now, fds) {
				t.Errorf("descriptors %v, were %v", now, fds)
			}
			if now := signalState(t, gdb.PID); now != signals {
				t.Errorf("signals %s, were %s", now, signals)
			}
			if sig != syscall.SIGKILL {
				eventually(t, "the same call", func() bool { return procFile(t, gdb.PID, "syscall") == call })
			}
			if shown := gdb.Command("print x * 2"); !strings.Contains(shown, "= 42") {
				t.Errorf("print shows %q", shown)
			}
		})
	}
}

// gdb joined at its prompt is guarded from then on. Its own descriptors stay its
// own, also where a number is the one of the library's name.
func TestGuardJoined(t *testing.T) { bothEngines(t, testGuardJoined) }

func testGuardJoined(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	gdb := scene.StartGDB(t, scene.GDB{Args: []string{filepath.Join(scene.Build(t), "from_memory")}})
	gdb.Expect(scene.Prompt)
	gdb.Command("break foo")
	r := startWhosefd(t, "guard", "-p", strconv.Itoa(gdb.PID))
	eventually(t, "it guards", func() bool { return strings.Contains(r.stderr.String(), "until it ends or Ctrl-C") })
	gdb.Send("run")
	gdb.Expect(stopAtFoo)
	for _, name := range []string{fmt.Sprintf("/proc/%d/fd/4", gdb.PID), "/proc/self/fd/5"} {
		link, err := os.Readlink(strings.Replace(name, "self", strconv.Itoa(gdb.PID), 1))
		if err != nil {
			t.Fatal(err)
		}
		if shown := gdb.Command(`python import os; print(os.readlink("` + name + `"))`); !strings.Contains(shown, link+"\r\n") {
			t.Errorf("gdb is told that %s is %s, not %s", name, shown, link)
		}
	}
	goesOn(t, gdb, "/proc/self/fd/4", 1)
	gdb.Send("quit")
	gdb.Wait()
	if code := r.wait(t); code != exitNothing {
		t.Errorf("exit code %d: %s", code, r.stderr.String())
	}
}

// The inferior has a file system of its own, in which the library's name means
// another file. gdb knows about that itself; guard must not come between.
func TestGuardNamespace(t *testing.T) { bothEngines(t, testGuardNamespace) }

func testGuardNamespace(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root", "unshare", "mount namespaces")
	if testing.Short() {
		t.Skip("a long test")
	}
	bin, dir := scene.Build(t), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "lib.so"), []byte("not a library\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := scene.Start(t, scene.Command{Path: "unshare", Args: []string{"-m", "sh", "-c",
		`mount -t tmpfs tmpfs "$1" && cp "$0/lib.so" "$1" && exec "$0/from_file" --lib "$1/lib.so" --wait`, bin, dir}})
	p.WaitReady()
	gdb := guarded(t, scene.GDB{Args: []string{"-p", strconv.Itoa(p.PID)}})
	gdb.Expect(scene.Prompt)
	gdb.Command("break foo")
	gdb.Command("set var whosefd_wait = 0")
	gdb.Send("continue")
	gdb.Expect(stopAtFoo)
	gdb.Send("continue")
	gdb.Expect("exited normally")
	// Told to look in its own file system, gdb would find the wrong file.
	p = scene.Start(t, scene.Command{Path: "unshare", Args: []string{"-m", "sh", "-c",
		`mount -t tmpfs tmpfs "$1" && cp "$0/lib.so" "$1" && exec "$0/from_file" --lib "$1/lib.so" --wait`, bin, dir}})
	p.WaitReady()
	gdb = guarded(t, scene.GDB{Args: []string{"-iex", "set sysroot", "-p", strconv.Itoa(p.PID)}})
	gdb.Expect(scene.Prompt)
	gdb.Command("break foo")
	gdb.Command("set var whosefd_wait = 0")
	gdb.Send("continue")
	gdb.Expect(stopAtFoo)
	noTrouble(t, gdb)
}

// A hung gdb is repaired and then guarded.
func TestGuardHung(t *testing.T) { bothEngines(t, testGuardHung) }

func testGuardHung(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root")
	gdb := scene.Hang(t, "--copies", "3")
	r := startWhosefd(t, "guard", "-v", "-p", strconv.Itoa(gdb.PID))
	gdb.Expect(stopAtFoo)
	goesOn(t, gdb, "/proc/self/fd/4", 3)
	gdb.Send("run")
	gdb.Expect(stopAtFoo)
	gdb.Send("kill")
	gdb.Send("quit")
	gdb.Wait()
	if code := r.wait(t); code != exitNothing || !regexp.MustCompile(`\d+ calls were led`).MatchString(r.stderr.String()) || !strings.Contains(r.stderr.String(), "/proc/self/fd/5") {
		t.Errorf("exit code %d: %s", code, r.stderr.String())
	}
}

// gdbserver opens the names in its own process; gdb asks it to.
func TestGuardServer(t *testing.T) { bothEngines(t, testGuardServer) }

func testGuardServer(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "gdbserver", "ptrace", "root")
	program := filepath.Join(scene.Build(t), "from_memory")
	gdb := scene.StartGDB(t, scene.GDB{Args: []string{program}})
	gdb.Expect(scene.Prompt)
	gdb.Command("break foo")
	gdb.Command("target remote | exec " + strings.Join(command(t, "guard"), " ") + " -- gdbserver --once - " + program)
	gdb.Send("continue")
	gdb.Expect(stopAtFoo)
	if shown := gdb.Command("info sharedlibrary"); !regexp.MustCompile(`Yes +[^\r\n]*/proc/self/fd/4\r`).MatchString(shown) {
		t.Errorf("info sharedlibrary:\n%s", shown)
	}
	gdb.Send("continue")
	gdb.Expect("exited normally")
	noTrouble(t, gdb)
}

// Killed at any moment of gdb's start, guard leaves a gdb that is alive, though
// it may hang as it would have without; repair then gives it back.
func TestGuardKilled(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a long test")
	}
	scene.Require(t, "gdb", "ptrace", "root")
	for round := range 8 {
		gdb := guarded(t, scene.GDB{Launcher: behind, Args: []string{"--args", filepath.Join(scene.Build(t), "from_memory")}})
		gdb.Expect(scene.Prompt)
		gdb.Command("break foo")
		tracer, err := strconv.Atoi(statusLine(t, gdb.PID, "TracerPid"))
		if err != nil || tracer == 0 {
			t.Fatalf("tracer %d: %v", tracer, err)
		}
		gdb.Send("run")
		time.Sleep(time.Duration(round) * 30 * time.Millisecond)
		if err := syscall.Kill(tracer, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		untraced(t, gdb.PID)
		// The shell may write into the middle of gdb's line.
		shell := regexp.MustCompile(`Killed\r?\n|the shell has \d+\r?\n`)
		reached := func() bool {
			return regexp.MustCompile(`foo \(x=21\) at [^\n]*lib\.c:1`).MatchString(shell.ReplaceAllString(gdb.Output(), ""))
		}
		for deadline := time.Now().Add(scene.Patience); !reached(); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("round %d:\n%s", round, gdb.Output())
			}
			// It may also be in the middle of a read of its own, which soon ends.
			out, stderr, code := whosefd(t, "repair", "--detach", strconv.Itoa(gdb.PID))
			if code != exitNothing && !strings.Contains(stderr, "no name of an inferior explains the read") {
				t.Fatalf("round %d: repair: exit code %d: %s%s", round, code, out, stderr)
			}
		}
		gdb.Kill()
	}
}
