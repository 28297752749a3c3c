package gdbplugin

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"whosefd/samples/scene"
	"whosefd/tracer/decode"
)

// Both files are Python, apart and as one.
func TestCompiles(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		scene.Skip(t, "python3", err)
	}
	if strings.Contains(body, "'''") {
		t.Error("whosefd.py has ''' in it, by which its string in the plug-in would end")
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"start.py": start, "whosefd.py": body, "plugin.py": Source()} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(python, "-W", "error", "-m", "py_compile", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// By this descriptor the analysis knows a gdb that has it.
func TestMark(t *testing.T) {
	if name := strings.TrimPrefix(decode.PluginMark, "/memfd:"); !strings.Contains(Source(), "os.memfd_create('"+name+"')") {
		t.Errorf("it makes no memfd %s", name)
	}
}

// What Install makes, Uninstall takes away, and the rest stays as it was.
func TestPlace(t *testing.T) {
	for _, test := range []struct{ name, before, after string }{
		{"no init file", "", "source FILE\n"},
		{"an init file", "set confirm off\n", "set confirm off\nsource FILE\n"},
		{"without a newline at its end", "set confirm off", "set confirm off\nsource FILE\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			home := t.TempDir()
			init := filepath.Join(home, ".gdbinit")
			if test.before != "" {
				if err := os.WriteFile(filepath.Join(home, "dotfile"), []byte(test.before), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink("dotfile", init); err != nil {
					t.Fatal(err)
				}
			}
			p, err := UserPlace(func(name string) string { return map[string]string{"HOME": home}[name] })
			if err != nil {
				t.Fatal(err)
			}
			if p.There() || p.Current() {
				t.Error("it is there before")
			}
			for range 2 { // a second time changes nothing
				if err := p.Install(); err != nil {
					t.Fatal(err)
				}
				if b, err := os.ReadFile(p.File); err != nil || string(b) != Source() || !p.There() || !p.Current() {
					t.Errorf("the plug-in: %q, %v", b, err)
				}
				if b, err := os.ReadFile(init); err != nil || string(b) != strings.ReplaceAll(test.after, "FILE", p.File) {
					t.Errorf("the init file: %q, %v", b, err)
				}
			}
			there, err := p.Uninstall()
			if err != nil || !there {
				t.Errorf("uninstall: %v, %v", there, err)
			}
			b, err := os.ReadFile(init)
			if test.before == "" && !os.IsNotExist(err) || test.before != "" && strings.TrimSuffix(string(b), "\n") != strings.TrimSuffix(test.before, "\n") {
				t.Errorf("the init file afterwards: %q, %v", b, err)
			}
			if test.before != "" {
				if st, err := os.Lstat(init); err != nil || st.Mode()&os.ModeSymlink == 0 {
					t.Errorf("the link is none any more: %v, %v", st, err)
				}
				if st, err := os.Stat(init); err != nil || st.Mode().Perm() != 0o600 {
					t.Errorf("the mode: %v, %v", st, err)
				}
			}
			if _, err := os.Stat(filepath.Dir(p.File)); !os.IsNotExist(err) {
				t.Errorf("its folder: %v", err)
			}
			if there, err := p.Uninstall(); there || err != nil {
				t.Errorf("uninstall again: %v, %v", there, err)
			}
		})
	}
}

// The folder of a gdb that starts is there and locked, whatever another gdb does that
// sweeps at the same moment, or ends as the last one.
func TestFolderOfOurOwn(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		scene.Skip(t, "python3", err)
	}
	file := filepath.Join(t.TempDir(), "whosefd.py")
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ after, other string }{
		"nobody":                    {"mkdir", "None"},
		"it has locked it":          {"mkdir", "left.append(plugin['lock'](path))"},
		"it has removed it":         {"mkdir", "plugin['sweep'](os.path.dirname(path))"},
		"it has made it anew":       {"open", "os.rename(path, path + '-gone'), real['mkdir'](path)"},
		"it has removed the parent": {"mkdir", "shutil.rmtree(os.path.dirname(path))"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(python, "-c", `
import os, shutil, sys
from unittest import mock
sys.modules['gdb'] = mock.MagicMock(Breakpoint=object)
plugin = {'__name__': 'whosefd'}
exec(open(sys.argv[1]).read(), plugin)
left, real = [], {name: getattr(os, name) for name in ('mkdir', 'open')}

def once(path, *arguments):
    result = real[sys.argv[2]](path, *arguments)
    if os.path.basename(path) == str(os.getpid()):
        setattr(os, sys.argv[2], real[sys.argv[2]])
        eval(sys.argv[3])
    return result

setattr(os, sys.argv[2], once)
place = plugin['make_place']()
assert place and os.path.isdir(place), place
assert getattr(os, sys.argv[2]) != once, 'nobody came'
assert plugin['place_lock'] is not None and plugin['lock'](place) is None, 'it is not locked'
`, file, c.after, c.other)
			cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+filepath.Dir(file))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// What is not ours is not replaced, and not removed.
func TestPlaceOfAnother(t *testing.T) {
	dir := t.TempDir()
	p, err := SystemPlace(&GDB{SystemDir: dir, SystemFile: "/etc/gdb/gdbinit"})
	if err != nil || p.Init != "" {
		t.Fatalf("%+v, %v", p, err)
	}
	if err := os.WriteFile(p.File, []byte("print('mine')\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Install(); err == nil {
		t.Error("it was replaced")
	}
	if _, err := p.Uninstall(); err == nil {
		t.Error("it was removed")
	}
	if err := os.WriteFile(p.File, []byte(mark+"\n# another version\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !p.There() || p.Current() {
		t.Error("another version is taken for this one, or for none")
	}
	if err := p.Install(); err != nil || !p.Current() {
		t.Errorf("another version is not replaced: %v", err)
	}
	if _, err := p.Uninstall(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("gdb's own folder: %v", err)
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"gdb": 0o755, "gdb-multiarch": 0o755, "arm-none-eabi-gdb": 0o644, "gdbserver": 0o755, "mgdb": 0o755} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("gdb", filepath.Join(dir, "rust-gdb")); err != nil {
		t.Fatal(err)
	}
	got := Find(dir + ":relative::" + dir)
	if want := []string{filepath.Join(dir, "gdb"), filepath.Join(dir, "gdb-multiarch")}; !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}
