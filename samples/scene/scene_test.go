package scene

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPlay(t *testing.T) {
	for _, test := range []struct {
		name string
		f    func(TB)
		err  string
		log  string
	}{
		{"well", func(TB) {}, "", ""},
		{"log", func(t TB) { t.Logf("a %d", 1) }, "", "a 1\n"},
		{"cleanups, last first", func(t TB) {
			t.Cleanup(func() { t.Logf("first") })
			t.Cleanup(func() { t.Logf("second") })
		}, "", "second\nfirst\n"},
		{"fatal", func(t TB) {
			t.Cleanup(func() { t.Logf("cleanup") })
			t.Fatalf("no %s", "way")
			t.Logf("not reached")
		}, "no way", "cleanup\n"},
		{"first error", func(t TB) { t.Errorf("a"); t.Errorf("b") }, "a", ""},
		{"skip", func(t TB) { t.Skipf("not here") }, "not here", ""},
		{"fatal in a cleanup", func(t TB) {
			t.Cleanup(func() { t.Logf("first") })
			t.Cleanup(func() { t.Fatalf("second") })
		}, "second", "first\n"},
		{"cleanup in a cleanup", func(t TB) {
			t.Cleanup(func() { t.Cleanup(func() { t.Logf("inner") }) })
		}, "", "inner\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log bytes.Buffer
			err := Play(&log, test.f)
			if (err == nil) != (test.err == "") || err != nil && err.Error() != test.err {
				t.Errorf("error %v, want %q", err, test.err)
			}
			if log.String() != test.log {
				t.Errorf("log %q, want %q", log.String(), test.log)
			}
		})
	}
}

func TestPlayPanics(t *testing.T) {
	cleaned := false
	defer func() {
		if r := recover(); r != "oh" || !cleaned {
			t.Errorf("recovered %v, cleaned up: %t", r, cleaned)
		}
	}()
	_ = Play(&bytes.Buffer{}, func(t TB) {
		t.Cleanup(func() { cleaned = true })
		panic("oh")
	})
}

func TestRequire(t *testing.T) {
	try := func(what string) error { return Play(&bytes.Buffer{}, func(t TB) { Require(t, what) }) }
	skipped := filepath.Join(t.TempDir(), "skipped")
	if err := os.WriteFile(skipped, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("WHOSEFD_SKIPPED", skipped)
	abilities["flying"] = func() error { return errors.New("no wings") }
	defer delete(abilities, "flying")
	for _, tc := range []struct{ what, require, want string }{
		{"sh", "", ""},
		{"no-such-program", "", "no no-such-program: "},
		{"no-such-program", "1", "WHOSEFD_REQUIRE=1, but "},
		{"flying", "", "no flying: no wings"},
		{"flying", "1", "no flying: no wings"},
	} {
		t.Setenv("WHOSEFD_REQUIRE", tc.require)
		if err := try(tc.what); (err == nil) != (tc.want == "") || err != nil && !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%+v: %v", tc, err)
		}
	}
	if b, err := os.ReadFile(skipped); err != nil || string(b) != "no-such-program\nflying\nflying\n" {
		t.Errorf("noted: %q, %v", b, err)
	}
}

func TestTranscript(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	log := newTranscript()
	fmt.Fprint(log, "one ")
	go func() {
		time.Sleep(10 * time.Millisecond)
		fmt.Fprint(log, "two ")
		fmt.Fprint(log, "two three")
		log.end()
	}()
	for i, want := range []string{"one two", " two"} {
		if text, _, err := log.await(ctx, regexp.MustCompile("two")); err != nil || text != want {
			t.Errorf("%d: %q, %v; want %q", i, text, err, want)
		}
	}
	if _, _, err := log.await(ctx, regexp.MustCompile("two")); err == nil || !strings.Contains(err.Error(), "ended") {
		t.Errorf("at the end: %v", err)
	}
	if _, match, err := log.await(ctx, regexp.MustCompile("(th)(x)?")); err != nil || !slices.Equal(match, []string{"th", "th", ""}) {
		t.Errorf("groups: %q, %v", match, err)
	}
	if got := log.String(); got != "one two two three" {
		t.Errorf("all: %q", got)
	}

	short, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, _, err := newTranscript().await(short, regexp.MustCompile("x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("too late: %v", err)
	}
}

func TestExitCode(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 3": 3, "kill -TERM $$": 143} {
		if code := Start(t, Command{Path: "sh", Args: []string{"-c", script}}).Wait(); code != want {
			t.Errorf("%s: exit code %d, want %d", script, code, want)
		}
	}
}

// TestDescriptors starts a test process with more descriptors than it should
// have; what it starts has only the standard ones.
func TestDescriptors(t *testing.T) {
	const variable = "WHOSEFD_TEST_DESCRIPTORS"
	if os.Getenv(variable) != "" {
		p := StartSample(t, "from_file", "--wait")
		p.WaitReady()
		fds, err := os.ReadDir(procPath(p.PID, "fd"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Print("has ")
		for _, fd := range fds {
			fmt.Print(fd.Name(), " ")
		}
		fmt.Println()
		return
	}
	Build(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^TestDescriptors$")
	cmd.Env = append(os.Environ(), variable+"=1")
	cmd.ExtraFiles = []*os.File{null, null, null}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "has 0 1 2 \n") {
		t.Errorf("the process %s, want 0 1 2", out)
	}
}

// TestEndFindsOrphans kills a process whose parent has ended, and which is in a
// session of its own.
func TestEndFindsOrphans(t *testing.T) {
	Require(t, "setsid")
	p := Start(t, Command{Path: "sh", Args: []string{"-c", "setsid sleep 1000 >/dev/null 2>&1 & echo started"}})
	p.Expect("started")
	p.Wait()
	if left := marked(p.mark); len(left) != 1 {
		t.Fatalf("processes %v are left, not one", left)
	}
	p.Kill()
	if left := marked(p.mark); len(left) != 0 {
		t.Errorf("processes %v are left", left)
	}
}

// TestWatchdog lets a test process be killed that has a hung gdb.
func TestWatchdog(t *testing.T) {
	const variable = "WHOSEFD_TEST_WATCHDOG"
	if os.Getenv(variable) != "" {
		s := Hang(t)
		fmt.Printf("hung %s\n", s.mark)
		time.Sleep(Patience)
		return
	}
	Require(t, "gdb", "ptrace")
	Build(t)
	// Not by Start, which would put its own mark on it.
	cmd := exec.Command(os.Args[0], "-test.run=^TestWatchdog$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := func() {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("kill the test process: %v", err)
		}
	}
	late := time.AfterFunc(Patience, kill)
	defer late.Stop()
	mark := ""
	for lines := bufio.NewScanner(out); mark == "" && lines.Scan(); {
		_, mark, _ = strings.Cut(lines.Text(), "hung ")
	}
	before := 0
	if mark != "" {
		before = len(marked(mark))
	}
	kill()
	if err := cmd.Wait(); err == nil {
		t.Error("the killed test process ended well")
	}
	if before < 2 {
		t.Fatalf("%d processes had the mark %q, not gdb and its inferior", before, mark)
	}
	deadline := time.Now().Add(Patience)
	for len(marked(mark)) != 0 {
		if time.Now().After(deadline) {
			t.Fatalf("processes %v are left", marked(mark))
		}
		time.Sleep(5 * time.Millisecond)
	}
}
