// Package gdbplugin is a plug-in for gdb with which that resolves the names of
// its inferiors in the inferiors' context, and what puts it where gdb loads it.
package gdbplugin

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

var (
	//go:embed start.py
	start string
	//go:embed whosefd.py
	body string
)

// Source is the plug-in: a script for gdb's command `source`, in Python.
func Source() string {
	// A raw string, so that the script can be read; the body has no such quotes.
	return strings.Replace(start, "@BODY@\n", body, 1)
}

// mark is how a plug-in begins, of this version or another.
var mark, _, _ = strings.Cut(start, "\n")

// askFor is how long a gdb may take to answer. It runs init files that are not ours.
const askFor = 20 * time.Second

// GDB is a gdb of this machine.
type GDB struct {
	Path    string
	Version string // "13.1"
	Python  bool   // it was built with Python
	// SystemDir and SystemFile are where it looks for init files of the whole
	// machine (`info gdb`, System-wide configuration); empty where it does not.
	SystemDir, SystemFile string
	// Loaded says that it has the plug-in when it is started as a user starts it.
	Loaded bool
}

var (
	version    = regexp.MustCompile(`(?m)^GNU gdb.*?(\d+\.\d[^\s)]*)\s*$`)
	systemDir  = regexp.MustCompile(`--with-system-gdbinit-dir=(\S+)`)
	systemFile = regexp.MustCompile(`--with-system-gdbinit=(\S+)`)
)

// Find gives the gdbs on a search path (PATH of environ(7)), each once.
func Find(path string) []string {
	var found []string
	var seen []os.FileInfo
	for _, dir := range filepath.SplitList(path) {
		entries, err := os.ReadDir(dir)
		if err != nil || !filepath.IsAbs(dir) {
			continue
		}
		for _, e := range entries {
			if e.Name() != "gdb" && e.Name() != "gdb-multiarch" && !strings.HasSuffix(e.Name(), "-gdb") {
				continue
			}
			file := filepath.Join(dir, e.Name())
			st, err := os.Stat(file)
			if err != nil || !st.Mode().IsRegular() || st.Mode()&0o111 == 0 ||
				slices.ContainsFunc(seen, func(other os.FileInfo) bool { return os.SameFile(st, other) }) {
				continue
			}
			seen = append(seen, st)
			found = append(found, file)
		}
	}
	return found
}

// Ask runs a gdb to see what it is, and whether it has the plug-in.
func Ask(ctx context.Context, path string) (*GDB, error) {
	g := &GDB{Path: path}
	about, err := run(ctx, path, "--version")
	if err != nil {
		return nil, err
	}
	m := version.FindStringSubmatch(about)
	if m == nil {
		return nil, fmt.Errorf("%s: is no gdb: %q", path, firstLine(about))
	}
	g.Version = m[1]
	config, err := run(ctx, path, "--configuration") // from gdb 7.6 on
	if err != nil {
		return nil, err
	}
	if m := systemDir.FindStringSubmatch(config); m != nil {
		g.SystemDir = m[1]
	}
	if m := systemFile.FindStringSubmatch(config); m != nil {
		g.SystemFile = m[1]
	}
	// A gdb without Python refuses the command, and its exit code is its own affair.
	says, err := run(ctx, path, "-q", "-batch", "-ex", `python print("whosefd:", hasattr(gdb, "whosefd"))`)
	g.Python = strings.Contains(says, "whosefd: ")
	g.Loaded = strings.Contains(says, "whosefd: True")
	if !g.Python && !strings.Contains(says, "not supported") {
		return nil, errors.Join(fmt.Errorf("%s: does not answer: %q", path, firstLine(says)), err)
	}
	return g, nil
}

// run runs a gdb without a terminal; what it says on both outputs is given back.
func run(ctx context.Context, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBUGINFOD_URLS=")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("run %s: %w", path, err)
	}
	return string(out), err
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
