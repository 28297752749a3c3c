package gdbplugin

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Place is where the plug-in lies, and how a gdb gets to know of it.
type Place struct {
	File string // the plug-in
	// Init is an init file of gdb's that gets a line which loads the plug-in; empty
	// where gdb loads every file of the folder.
	Init string
}

// SystemPlace is the place for every user of a gdb.
func SystemPlace(g *GDB) (Place, error) {
	switch {
	case g.SystemDir != "":
		return Place{File: filepath.Join(g.SystemDir, "whosefd.py")}, nil
	case g.SystemFile != "":
		return Place{File: "/usr/local/share/whosefd/gdb-plugin.py", Init: g.SystemFile}, nil
	}
	return Place{}, fmt.Errorf("%s (gdb %s) was built without init files for the whole machine; install it for a user with --user", g.Path, g.Version)
}

// UserPlace is the place for a user, by the variables of his environment.
func UserPlace(getenv func(string) string) (Place, error) {
	home := getenv("HOME")
	if !filepath.IsAbs(home) {
		return Place{}, errors.New("install for a user: HOME is not set")
	}
	or := func(variable, otherwise string) string {
		if dir := getenv(variable); filepath.IsAbs(dir) {
			return dir
		}
		return filepath.Join(home, otherwise)
	}
	p := Place{File: filepath.Join(or("XDG_DATA_HOME", ".local/share"), "whosefd", "gdb-plugin.py")}
	// From version 11 on gdb takes the first of these that is there, older ones know the second only.
	p.Init = filepath.Join(or("XDG_CONFIG_HOME", ".config"), "gdb", "gdbinit")
	if _, err := os.Stat(p.Init); err != nil {
		p.Init = filepath.Join(home, ".gdbinit")
	}
	return p, nil
}

// line is what an init file gets.
func (p Place) line() string { return "source " + p.File }

// Install puts the plug-in into its place, or a newer one into the place of an
// older. It replaces nothing that is not ours.
func (p Place) Install() error {
	if _, err := p.installed(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p.File), 0o755); err != nil {
		return err
	}
	if err := write(p.File, []byte(Source()), 0o644); err != nil {
		return err
	}
	if p.Init == "" {
		return nil
	}
	lines, err := p.lines()
	if err != nil || slices.Contains(lines, p.line()) {
		return err
	}
	// At the end: what a gdb without Python says of it keeps nothing else from being read.
	text := strings.Join(lines, "\n")
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return write(p.Init, []byte(text+p.line()+"\n"), 0o644)
}

// Uninstall takes the plug-in away, and what Install made for it. It says whether
// there was something to take away.
func (p Place) Uninstall() (bool, error) {
	there, err := p.installed()
	if err != nil {
		return false, err
	}
	if there {
		if err := os.Remove(p.File); err != nil {
			return false, err
		}
		if dir := filepath.Dir(p.File); filepath.Base(dir) == "whosefd" {
			_ = os.Remove(dir) // made by us; it fails, as it should, where there is something else in it
		}
	}
	if p.Init == "" {
		return there, nil
	}
	lines, err := p.lines()
	if err != nil {
		return there, err
	}
	kept := slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return line == p.line() })
	switch {
	case len(kept) == len(lines):
		return there, nil
	case strings.Join(kept, "") == "":
		return true, os.Remove(p.Init)
	}
	return true, write(p.Init, []byte(strings.Join(kept, "\n")), 0o644)
}

// installed says whether the plug-in is in its place, this one or another version;
// an error is something else that is there.
func (p Place) installed() (bool, error) {
	b, err := os.ReadFile(p.File)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case !bytes.HasPrefix(b, []byte(mark+"\n")):
		return false, fmt.Errorf("%s: is there, and is not whosefd's", p.File)
	}
	return true, nil
}

// There says whether the plug-in is in its place, this one or another version.
func (p Place) There() bool {
	there, err := p.installed()
	return there && err == nil
}

// Current says whether the plug-in in its place is this one.
func (p Place) Current() bool {
	b, err := os.ReadFile(p.File)
	return err == nil && string(b) == Source()
}

// lines are those of the init file, the last one empty if the file ends with its newline.
func (p Place) lines() ([]string, error) {
	b, err := os.ReadFile(p.Init)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if len(b) == 0 {
		return nil, nil
	}
	return strings.Split(string(b), "\n"), nil
}

// write replaces a file's content in one step, so that no gdb reads a half. A
// symbolic link stays one, and the file keeps its mode.
func write(path string, content []byte, mode fs.FileMode) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if st, err := os.Stat(path); err == nil {
		mode = st.Mode().Perm()
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".whosefd-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
