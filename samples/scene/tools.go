package scene

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Eventually waits until something comes about; the test fails if it does not.
func Eventually(t TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in %v: %s", Patience, what)
		}
	}
}

// Run runs a program to its end and gives what it wrote, to its standard output and
// its standard error together. The test fails where the program does.
func Run(t TB, name string, args ...string) string {
	t.Helper()
	return runIn(t, "", name, args...)
}

func runIn(t TB, dir, name string, args ...string) string {
	t.Helper()
	Require(t, name)
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

// Compile writes a source file into a folder and gives the path of what the
// compiler, with its flags, makes of it: beside it, without the file's ending.
func Compile(t TB, dir, file, text string, compiler ...string) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
		t.Fatalf("%v", err)
	}
	out := strings.TrimSuffix(file, filepath.Ext(file))
	runIn(t, dir, compiler[0], append(compiler[1:len(compiler):len(compiler)], "-o", out, file)...)
	return filepath.Join(dir, out)
}

// Copy copies a program or library; everybody may run the copy. Another process
// does it: what this one has open for writing, so has any process that it starts
// at that moment, and meanwhile the kernel runs no such file (ETXTBSY).
func Copy(t TB, from, to string) {
	t.Helper()
	Run(t, "install", "-m", "755", "--", from, to)
}

// Public is a new folder that everybody can look into, with copies of files.
func Public(t TB, files ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "whosefd-public-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("%v", err)
		}
	})
	for _, file := range files {
		Copy(t, file, filepath.Join(dir, filepath.Base(file)))
	}
	return dir
}
