package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"whosefd/analyze"
	"whosefd/samples/scene"
)

// coreOf makes a core of from_memory with these options, after its dlopen. "--" ends them
// where others are for the core: "no-headers" leaves ELF headers out of it.
func coreOf(t *testing.T, kind string, args ...string) (program, core string) {
	t.Helper()
	program = filepath.Join(scene.Build(t), "from_memory")
	headers := !slices.Contains(args, "no-headers")
	args = slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == "no-headers" })
	p := scene.Start(t, scene.Command{Path: program, Args: append(args, "--wait"), Dir: t.TempDir()})
	p.WaitReady()
	if !headers {
		if err := os.WriteFile("/proc/"+strconv.Itoa(p.PID)+"/coredump_filter", []byte("0x23"), 0); err != nil {
			t.Fatal(err)
		}
	}
	core = filepath.Join(t.TempDir(), "core")
	scene.Core(t, p.PID, kind, core)
	return program, core
}

func lib(t *testing.T) string { return filepath.Join(scene.Build(t), "lib.so") }

// guardedCore loads a core into a guarded gdb, and gives what that says of the library.
func guardedCore(t *testing.T, program, core string, options ...string) (gdb *scene.Session, symbol string) {
	t.Helper()
	gdb = scene.StartGDB(t, scene.GDB{Launcher: slices.Concat([]string{binary(t), "guard"}, options, []string{"--"}), Args: []string{program, core}})
	gdb.Expect(scene.Prompt)
	return gdb, gdb.Command("info symbol foo")
}

// A guarded gdb does not hang on a core, whatever descriptor of its own the name means, and has
// the library's symbols if the user has the file.
func TestGuardCore(t *testing.T) {
	for _, tc := range []struct {
		kind string
		args []string
		name string
	}{
		{"kernel", nil, "/proc/self/fd/4"},
		{"gcore", nil, "/proc/self/fd/4"},
		{"kernel", []string{"--fd", "0"}, "/proc/self/fd/0"},
		{"kernel", []string{"--fd", "3", "--name", "thread-self"}, "/proc/thread-self/fd/3"},
		{"kernel", []string{"--fd", "14", "--name", "dev-fd"}, "/dev/fd/14"},
		{"kernel", []string{"--fd", "60"}, "/proc/self/fd/60"},
	} {
		t.Run(tc.kind+tc.name, func(t *testing.T) {
			program, core := coreOf(t, tc.kind, tc.args...)
			gdb, symbol := guardedCore(t, program, core, "--with", tc.name+"="+lib(t))
			if !strings.Contains(symbol, "foo in section .text of "+tc.name) {
				t.Errorf("with the library: %s\n%s", symbol, gdb.Output())
			}
			gdb, symbol = guardedCore(t, program, core)
			if !strings.Contains(symbol, `No symbol "foo"`) {
				t.Errorf("without: %s", symbol)
			}
			gdb.Send("quit")
			gdb.Wait()
			if out := gdb.Output(); !strings.Contains(out, tc.name+" was led to no file: it is a library of a core file, which no process has any more") ||
				!strings.Contains(out, "build id") {
				t.Errorf("not said at the end:\n%s", out)
			}
		})
	}
}

// What is given must be the library that the core had.
func TestGuardCoreOtherFile(t *testing.T) {
	program, core := coreOf(t, "kernel")
	gdb, symbol := guardedCore(t, program, core, "--with", "/proc/self/fd/4="+program)
	if !strings.Contains(symbol, `No symbol "foo"`) {
		t.Errorf("another library was taken: %s", symbol)
	}
	gdb.Send("quit")
	gdb.Wait()
	if out := gdb.Output(); !strings.Contains(out, "is another library") {
		t.Errorf("not said at the end:\n%s", out)
	}
	for _, bad := range []string{"/proc/self/fd/4", "=x", "x=", "/proc/self/fd/4=/nonexistent", "/proc/self/fd/4=/dev/null"} {
		if _, stderr, code := whosefd(t, "guard", "--with", bad, "--", "true"); code != 2 || !strings.Contains(stderr, "--with") {
			t.Errorf("--with %s: exit code %d, %s", bad, code, stderr)
		}
	}
}

// Without a build id to compare, a file is taken on the user's word only.
func TestGuardCoreForce(t *testing.T) {
	program, core := coreOf(t, "kernel", "no-headers")
	out, stderr, code := whosefd(t, "guard", "--with", "/proc/self/fd/4="+lib(t), "--force", "--", "gdb", "-nx", "-batch", program, core, "-ex", "info symbol foo")
	if !strings.Contains(out, "foo in section .text of /proc/self/fd/4") {
		t.Errorf("gdb says: %s", out)
	}
	if code != 0 || strings.Contains(stderr, "led to no file") {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
}

// hungOnCore loads a core into a gdb, and waits until that hangs.
func hungOnCore(t *testing.T, program, core string) *scene.Session {
	t.Helper()
	gdb := scene.StartGDB(t, scene.GDB{Args: []string{program, core}})
	gdb.WaitBlocked(scene.Patience)
	return gdb
}

// A gdb that hangs on a core is explained with certainty, and given back with the library's symbols,
// or without.
func TestExplainCore(t *testing.T) {
	for _, tc := range []struct {
		kind string
		args []string
		name string
	}{
		{"kernel", nil, "/proc/self/fd/4"},
		{"gcore", []string{"--fd", "3", "--name", "dev-fd"}, "/dev/fd/3"},
		{"kernel", []string{"no-headers"}, "/proc/self/fd/4"},
	} {
		t.Run(tc.kind+tc.name, func(t *testing.T) {
			program, core := coreOf(t, tc.kind, tc.args...)
			gdb := hungOnCore(t, program, core)
			pid := strconv.Itoa(gdb.PID)
			recording := filepath.Join(t.TempDir(), "look.jsonl")
			d, code := diagnosis(t, "-o", recording, pid)
			checkCoreHang(t, d, code, tc.name)
			// The name's owner is in the core, whose library nobody has: --with names it.
			if _, stderr, code := whosefd(t, "repair", pid); code != 2 || !strings.Contains(stderr, "--with FILE") {
				t.Errorf("repair: exit code %d, %s", code, stderr)
			}
			if _, stderr, code := whosefd(t, "repair", "--with", program, pid); code != 2 || !slices.Contains(tc.args, "no-headers") && !strings.Contains(stderr, "another library") {
				t.Errorf("repair with the program: exit code %d, %s", code, stderr)
			}
			fixed := startWhosefd(t, "repair", "--with", lib(t), "--force", pid)
			gdb.Expect(scene.Prompt)
			if symbol := gdb.Command("info symbol foo"); !strings.Contains(symbol, "foo in section .text of "+tc.name) {
				t.Errorf("repaired: %s", symbol)
			}
			gdb.Send("quit")
			gdb.Wait()
			if code := fixed.wait(t); code != 0 {
				t.Errorf("repair: exit code %d, %s", code, fixed.stderr.String())
			}
			out, stderr, code := whosefd(t, "explain", "--format", "json", recording)
			var of analyze.Diagnosis
			if err := json.Unmarshal([]byte(out), &of); err != nil {
				t.Fatalf("%v\n%s%s", err, out, stderr)
			}
			checkCoreHang(t, &of, code, tc.name)
		})
	}
}

func checkCoreHang(t *testing.T, d *analyze.Diagnosis, code int, name string) {
	t.Helper()
	if code != 1 || d.Verdict != "hang" || len(d.Findings) == 0 {
		t.Fatalf("exit code %d: %+v", code, d)
	}
	f := &d.Findings[0]
	if f.Rule != "self-fd" || f.Confidence != "certain" || string(f.Name) != name || f.Intended == nil || f.Intended.PID != 0 || f.Intended.Kind != "memfd" {
		t.Errorf("%+v, %+v", f, f.Intended)
	}
	if len(d.Inferiors) != 1 || d.Inferiors[0].Core == nil || d.Inferiors[0].PID != 0 || !strings.Contains(string(d.Summary), "from_memory (core file ") {
		t.Errorf("%+v: %s", d.Inferiors, d.Summary)
	}
	if !evidence(f, "link_map", "stands in entry") || !slices.ContainsFunc(f.Remedies, func(r analyze.Remedy) bool { return strings.Contains(string(r.Command), "repair --release") }) {
		t.Errorf("%+v\n%+v", f.Evidence, f.Remedies)
	}
}

// --release gives the session back without the library.
func TestReleaseCore(t *testing.T) {
	program, core := coreOf(t, "kernel")
	gdb := hungOnCore(t, program, core)
	out, stderr, code := whosefd(t, "repair", "--release", strconv.Itoa(gdb.PID))
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, out, stderr)
	}
	gdb.Expect(scene.Prompt)
	if shown := gdb.Command("info sharedlibrary"); !strings.Contains(shown, "No          /proc/self/fd/4") {
		t.Errorf("%s", shown)
	}
}

// Descriptor numbers behind which gdb has no pipe.
func TestExplainCoreWithoutHang(t *testing.T) {
	for fd, effect := range map[string]string{"60": "error", "15": "wrong-file"} {
		program, core := coreOf(t, "kernel", "--fd", fd)
		gdb := scene.StartGDB(t, scene.GDB{Args: []string{program, core}})
		gdb.Expect(scene.Prompt)
		d, code := diagnosis(t, strconv.Itoa(gdb.PID))
		i := slices.IndexFunc(d.Findings, func(f analyze.Finding) bool { return string(f.Name) == "/proc/self/fd/"+fd })
		if code != 1 || i < 0 || d.Findings[i].Rule != "self-fd" {
			t.Errorf("fd %s: exit code %d: %+v", fd, code, d)
			continue
		}
		// Which file is behind 15 is not the same in every version of gdb.
		if got := string(d.Findings[i].Effect); got != effect && fd != "15" {
			t.Errorf("fd %s: %s, want %s", fd, got, effect)
		}
	}
}

// Before gdb is started: which names will go wrong, and a folder with which they don't.
func TestPreflightCore(t *testing.T) {
	program, core := coreOf(t, "kernel")
	for _, args := range [][]string{{"preflight", "--core", core, program}, {"preflight", "--core", core}, {"explain", core}} {
		out, stderr, code := whosefd(t, append(args, "--format", "json")...)
		var p analyze.Preflight
		if err := json.Unmarshal([]byte(out), &p); err != nil {
			t.Fatalf("%q: %v\n%s%s", args, err, out, stderr)
		}
		if code != 1 || p.Verdict != "hang" || len(p.Names) != 1 || p.Names[0].Name != "/proc/self/fd/4" || p.Inferior.PID != 0 || p.Inferior.Core == nil ||
			p.Libraries < 2 || !strings.Contains(string(p.Summary), "core file "+core) {
			t.Errorf("%q: exit code %d: %+v", args, code, p)
		}
	}
	dir := filepath.Join(t.TempDir(), "root")
	out, stderr, code := whosefd(t, "preflight", "--core", core, "--sysroot", dir, "--with", "/proc/self/fd/4="+lib(t), program)
	if code != 1 || !strings.Contains(out, "/proc/self/fd/4 there leads to "+lib(t)) || !strings.Contains(out, "gdb -iex 'set sysroot "+dir+"' "+program+" "+core) {
		t.Fatalf("exit code %d\n%s%s", code, out, stderr)
	}
	scene.Require(t, "gdb")
	shown, err := exec.Command("gdb", "-nx", "-batch", "-iex", "set sysroot "+dir, program, core, "-ex", "info symbol foo").CombinedOutput()
	if err != nil || !strings.Contains(string(shown), "foo in section .text of ") {
		t.Errorf("gdb with the folder: %v\n%s", err, shown)
	}
	// Without the library nothing hangs either, and gdb says that it has none.
	dir += "2"
	if out, stderr, code := whosefd(t, "preflight", "--core", core, "--sysroot", dir, program); code != 1 || !strings.Contains(out, "is not right: no process has the library any more") {
		t.Fatalf("exit code %d\n%s%s", code, out, stderr)
	}
	shown, err = exec.Command("gdb", "-nx", "-batch", "-iex", "set sysroot "+dir, program, core, "-ex", "info sharedlibrary").CombinedOutput()
	if err != nil || !strings.Contains(string(shown), "No          /proc/self/fd/4") {
		t.Errorf("gdb with the folder: %v\n%s", err, shown)
	}
	for _, args := range [][]string{{"--core", program}, {"--core", "/nonexistent"}, {"--core", core, "-p", "1"}, {"--with", "a=b", "1"}} {
		if out, stderr, code := whosefd(t, append([]string{"preflight"}, args...)...); code != 2 || out != "" || stderr == "" {
			t.Errorf("preflight %q: exit code %d, %s%s", args, code, out, stderr)
		}
	}
}

// A library that is another one on this machine than it was for the core, under a plain name.
func TestPreflightCoreOtherVersion(t *testing.T) {
	scene.Require(t, "gcc")
	dir := t.TempDir()
	compile := func(source, name string, flags ...string) string {
		out := filepath.Join(dir, name)
		if err := os.WriteFile(out+".c", []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
		if b, err := exec.Command("gcc", append([]string{"-o", out, out + ".c", "-Wl,--build-id"}, flags...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, b)
		}
		return out
	}
	old := compile("int f(void) { return 1; }", "libf.so", "-shared", "-fPIC")
	program := compile(`#include <stdio.h>
#include <unistd.h>
int f(void);
int main(void) { printf("ready %d\n", (int)getpid() + 0 * f()); fflush(stdout); for (;;) pause(); }`, "prog", old)
	p := scene.Start(t, scene.Command{Path: program, Dir: t.TempDir()})
	p.WaitReady()
	core := filepath.Join(dir, "core")
	scene.Core(t, p.PID, "kernel", core)
	if out, stderr, code := whosefd(t, "preflight", "--core", core, program); code != 0 {
		t.Errorf("unchanged: exit code %d\n%s%s", code, out, stderr)
	}
	if err := os.Rename(old, old+".old"); err != nil {
		t.Fatal(err)
	}
	compile("int f(void) { return 2; }", "libf.so", "-shared", "-fPIC")
	out, stderr, code := whosefd(t, "preflight", "--core", core, program)
	if code != 1 || !strings.Contains(out, "replaced-file, wrong-file") {
		t.Errorf("replaced: exit code %d\n%s%s", code, out, stderr)
	}
	shown, gstderr, code := whosefd(t, "guard", "--with", old+"="+old+".old", "--", "gdb", "-nx", "-batch", program, core, "-ex", "disassemble f")
	if code != 0 || !strings.Contains(shown, "$0x1,%eax") && !strings.Contains(shown, "#0x1") {
		t.Errorf("guarded, with the old one: exit code %d\n%s%s", code, shown, gstderr)
	}
}

func copyOf(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// truncate cuts a core off behind its notes.
func truncate(t *testing.T, core string) {
	t.Helper()
	if err := os.Truncate(core, 16<<10); err != nil {
		t.Fatal(err)
	}
}

// A compressed core is named, with the command that unpacks it; a log that is compressed is read.
func TestCompressedCore(t *testing.T) {
	t.Parallel()
	header := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 57)...)
	header[16], header[18], header[20] = 4, 62, 1 // ET_CORE, EM_X86_64, EV_CURRENT
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	packed := func(b []byte) []byte {
		var buf bytes.Buffer
		z := gzip.NewWriter(&buf)
		if _, err := z.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	lz4 := []byte("\x04\x22\x4d\x18 and so on")
	plain := write("a core.gz", packed(header))
	for _, tc := range []struct {
		args []string
		says string
	}{
		{[]string{"explain", plain}, "gzip -dc '" + plain + "' >core"},
		{[]string{"preflight", "--core", plain}, "gzip -dc '" + plain + "' >core"},
		{[]string{"explain", write("systemd/coredump/core.prog.0.a1b2.4711.1700000000.gz", packed(header))}, "coredumpctl dump 4711 -o core"},
		{[]string{"explain", write("core.prog.lz4", lz4)}, "lz4 -d " + dir + "/core.prog.lz4 core"},
		{[]string{"preflight", "--core", write("other.lz4", lz4)}, "lz4 -d "},
		{[]string{"explain", write("log.lz4", lz4)}, "unpack it first: lz4 -d FILE UNPACKED"},
		{[]string{"preflight", "--core", write("text", []byte("nothing"))}, "not a core file"},
	} {
		out, stderr, code := whosefd(t, tc.args...)
		if code != exitTrouble || out != "" || !strings.Contains(stderr, tc.says) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: exit code %d: %q %q", tc.args, code, out, stderr)
		}
	}
	log := write("core.log.gz", packed([]byte("openat(AT_FDCWD, \"/etc/passwd\", O_RDONLY) = 3\nclose(3) = 0\n")))
	if out, stderr, code := whosefd(t, "explain", log); code != exitNothing || !strings.HasPrefix(out, "ok: ") {
		t.Errorf("exit code %d: %q %q", code, out, stderr)
	}
}
