package scene

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

// Build builds the samples, once in each test process, and returns the folder
// that holds them. It skips where make or gcc is missing.
func Build(t TB) string {
	t.Helper()
	Require(t, "make", "gcc")
	dir, err := buildOnce()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return dir
}

var buildOnce = sync.OnceValues(func() (string, error) {
	samples, err := Folder()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(samples, "bin")
	return dir, BuildDir(dir)
})

// Build32 is Build for a 32-bit machine; it skips where this one does not run its programs.
func Build32(t TB) string {
	t.Helper()
	Require(t, "make", "gcc -m32", "32-bit programs")
	dir := filepath.Join(Build(t), "m32")
	if err := BuildDir(dir, "CC=gcc -m32"); err != nil {
		t.Fatalf("%v", err)
	}
	return dir
}

// try32 compiles a program of 32 bits and runs it.
var try32 = sync.OnceValues(func() (compile, run error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("%s has no compiler for them", runtime.GOARCH)
	}
	dir, err := os.MkdirTemp("", "whosefd-m32-")
	if err != nil {
		return err, nil
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "a")
	cmd := exec.Command("gcc", "-m32", "-x", "c", "-o", program, "-")
	cmd.Stdin = strings.NewReader("#include <stdio.h>\nint main(void) { return puts(\"\") < 0; }\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("gcc -m32: %w\n%s", err, out), nil
	}
	return nil, exec.Command(program).Run()
})

// BuildDir builds the samples in dir, with variables of make's. Any number of processes may do so at the
// same time: one builds, the others wait and find the work done.
func BuildDir(dir string, vars ...string) error {
	samples, err := Folder()
	if err != nil {
		return err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("build the samples: %w", err)
	}
	// The lock is on the folder itself, so that no lock file lies about.
	lock, err := os.Open(samples)
	if err != nil {
		return fmt.Errorf("build the samples: %w", err)
	}
	defer lock.Close()
	if err := flock(lock); err != nil {
		return fmt.Errorf("lock %s: %w", samples, err)
	}
	cmd := exec.Command("make", append([]string{"-s", "-C", samples, "OUT=" + dir}, vars...)...)
	// A make that runs the tests must not hand its flags, its variables or its
	// job server to this one.
	cmd.Env = without(os.Environ(), "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

func flock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// Folder returns the folder of the samples' sources: that of the module around
// the working directory, else the one that this package was compiled from.
func Folder() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the samples: %w", err)
	}
	for {
		samples := filepath.Join(dir, "samples")
		if isFile(filepath.Join(dir, "go.mod")) && isFile(filepath.Join(samples, "from_memory.c")) {
			return samples, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			break
		}
		dir = parent
	}
	if _, file, _, ok := runtime.Caller(0); ok {
		samples := filepath.Dir(filepath.Dir(file))
		if isFile(filepath.Join(samples, "from_memory.c")) {
			return samples, nil
		}
	}
	return "", fmt.Errorf("find the samples: %w: no module with samples/from_memory.c around the working directory", fs.ErrNotExist)
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// without returns env without the variables of these names.
func without(env []string, names ...string) []string {
	var kept []string
	for _, variable := range env {
		name, _, _ := strings.Cut(variable, "=")
		drop := false
		for _, n := range names {
			drop = drop || n == name
		}
		if !drop {
			kept = append(kept, variable)
		}
	}
	return kept
}
