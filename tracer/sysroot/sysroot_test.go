package sysroot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"whosefd/samples/scene"
	"whosefd/tracer/event"
	"whosefd/tracer/inferior"
	"whosefd/tracer/procview"
)

// after is a context that is cancelled when it has been asked so often.
type after struct {
	context.Context
	left int
}

func (a *after) Err() error {
	if a.left--; a.left < 0 {
		return context.Canceled
	}
	return nil
}

// Wherever it is interrupted, nothing stays; what was there before does.
func TestSysrootInterrupted(t *testing.T) {
	scene.Require(t, "ptrace")
	v := procview.New("/proc")
	p := scene.StartSample(t, "from_memory", "--after", "close", "--wait")
	p.WaitReady()
	parent := t.TempDir()
	empty := filepath.Join(parent, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		made, err := Make(&after{t.Context(), n}, v, empty, event.PID(p.PID), loaded(t, v, event.PID(p.PID)))
		if err == nil {
			if n < 5 || len(made.Entries) != 1 {
				t.Errorf("%d interruptions, %+v", n, made)
			}
			break
		}
		if !errors.Is(err, context.Canceled) || made != nil || n > 10_000 {
			t.Fatalf("%d: %v, %+v", n, err, made)
		}
		entries, err := os.ReadDir(parent)
		if err != nil || len(entries) != 1 {
			t.Fatalf("%d: %v, %v", n, entries, err)
		}
		if inside, err := os.ReadDir(empty); err != nil || len(inside) != 0 {
			t.Fatalf("%d: %v, %v", n, inside, err)
		}
	}
	if st, err := os.Stat(empty); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st, err)
	}
}

// Names that a process makes up stay below the folder, whatever is in the way.
func TestSysrootNames(t *testing.T) {
	scene.Require(t, "ptrace")
	p := scene.StartSample(t, "from_memory", "--wait")
	p.WaitReady()
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"/", "//", "/.", "/..", "/../x", "/a/../../x", "/proc", "/proc/self", "/proc/self/fd", "/proc/self/fd/..", "/dev/fd/../../x",
		victim, victim + "/x", outside + "/../" + filepath.Base(outside) + "/victim", "/a\nb/c", "/\xff\x1b[31m", "/" + strings.Repeat("a/", 120) + "b", "/" + strings.Repeat("a/", 1500) + "b",
		"/" + strings.Repeat("x", 300), "/" + strings.Repeat("../", 1000) + "etc/passwd", "/lib/../../../" + outside + "/new", "/proc/1/root/x",
	} {
		t.Run(fmt.Sprintf("%.40q", name), func(t *testing.T) {
			parent := t.TempDir()
			b, done := emptySysroot(t, event.PID(p.PID), filepath.Join(parent, "sysroot"))
			defer done()
			lm := &event.LinkMap{PID: event.PID(p.PID), Name: event.Text(name), Mapped: &event.Target{Kind: event.Regular, Link: "/gone", Dev: 1, Ino: 999_999_999}}
			if err := b.library(lm); err != nil {
				t.Fatal(err)
			}
			// No such file is mapped: nothing can be right.
			if len(b.made.Entries) != 1 || b.made.Entries[0].Error == "" {
				t.Errorf("%+v", b.made.Entries)
			}
			// And a link that is asked for is made inside, or not at all.
			if strings.Count(name, "/") <= maxDepth {
				_ = b.put(name, "/dev/null")
			}
			if entries, err := os.ReadDir(parent); err != nil || len(entries) != 1 {
				t.Errorf("%v, %v", entries, err)
			}
			if got, err := os.ReadFile(victim); err != nil || string(got) != "precious" {
				t.Fatalf("%q, %v", got, err)
			}
			if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
				t.Errorf("%v, %v", entries, err)
			}
		})
	}
}

// emptySysroot is one that has only the top and the aliases.
func emptySysroot(t *testing.T, pid event.PID, dir string) (*builder, func()) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	b := &builder{ctx: t.Context(), view: procview.New("/proc"), pid: pid, self: event.PID(os.Getpid()), dir: dir, root: root,
		folders: map[string]bool{}, taken: map[string]bool{}, copies: map[string]event.Target{}}
	source, names, err := b.contents("/")
	if err := errors.Join(err, b.fill(".", source, names), b.aliases()); err != nil {
		t.Fatal(err)
	}
	return b, func() { _ = root.Close() }
}

// A name for two libraries, and a name below that of another, are told.
func TestSysrootConflicts(t *testing.T) {
	scene.Require(t, "ptrace", "root")
	v := procview.New("/proc")
	p := scene.StartSample(t, "from_memory", "--fd", "30", "--copies", "2", "--wait")
	p.WaitReady()
	maps, err := inferior.LinkMaps(v, event.PID(p.PID))
	if err != nil {
		t.Fatal(err)
	}
	ours := maps[len(maps)-2:]
	for _, names := range [][2]event.Text{{"/gone/lib.so", "/gone/lib.so"}, {"/gone/lib.so", "/gone/lib.so/x"}, {"/gone/x/lib.so", "/gone/x"}} {
		b, done := emptySysroot(t, event.PID(p.PID), filepath.Join(t.TempDir(), "sysroot"))
		pair := []event.LinkMap{ours[0], ours[1]}
		for i := range pair {
			pair[i].Name = names[i]
		}
		if err := b.libraries(pair); err != nil {
			t.Fatal(err)
		}
		wrong := 0
		for _, e := range b.made.Entries {
			if e.Error != "" {
				wrong++
			}
		}
		if wrong == 0 {
			t.Errorf("%q: %+v", names, b.made.Entries)
		}
		// What is not told to be wrong is right.
		for i := range pair {
			told := false
			for _, e := range b.made.Entries {
				told = told || e.Name == pair[i].Name && e.Error != ""
			}
			if !told && !isOf(&pair[i], b.here(b.dir+string(pair[i].Name))) {
				t.Errorf("%q leads to another file, and nobody says so: %+v", pair[i].Name, b.made.Entries)
			}
		}
		done()
	}
}

// A file system that is full ends it, with nothing left.
func TestSysrootFull(t *testing.T) {
	scene.Require(t, "ptrace", "root", "unshare", "mount namespaces")
	const part = "WHOSEFD_TEST_SYSROOT_FULL"
	if dir := os.Getenv(part); dir != "" {
		var pid event.PID
		if _, err := fmt.Sscan(os.Getenv(part+"_PID"), &pid); err != nil {
			t.Fatal(err)
		}
		v := procview.New("/proc")
		_, err := Make(t.Context(), v, dir+"/sysroot", pid, loaded(t, v, pid))
		if err == nil || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("%v", err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
			t.Errorf("%v, %v", entries, err)
		}
		return
	}
	p := scene.StartSample(t, "from_memory", "--after", "close", "--wait")
	p.WaitReady()
	for _, limit := range []string{"nr_inodes=6", "nr_inodes=60", "size=4k"} {
		dir := t.TempDir()
		cmd := exec.Command("unshare", "--mount", "sh", "-c", `mount -t tmpfs -o `+limit+` none "$0" && exec "$@"`, dir, os.Args[0], "-test.run=^TestSysrootFull$")
		cmd.Env = append(os.Environ(), part+"="+dir, fmt.Sprintf("%s_PID=%d", part, p.PID))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", limit, err, out)
		}
	}
}

// loaded gives what a process has loaded.
func loaded(t *testing.T, v *procview.View, pid event.PID) []event.LinkMap {
	t.Helper()
	maps, err := inferior.LinkMaps(v, pid)
	if err != nil {
		t.Fatal(err)
	}
	return maps
}
