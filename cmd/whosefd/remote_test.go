package main

import (
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"whosefd/samples/scene"
)

// vgdb gives the command that connects a gdb to the program that runs under valgrind.
func underValgrind(t *testing.T, args ...string) (pid int, vgdb string) {
	t.Helper()
	scene.Optional(t, "valgrind")
	program := filepath.Join(scene.Build(t), "from_memory")
	prefix := filepath.Join(t.TempDir(), "vgdb")
	p := scene.Start(t, scene.Command{Path: "valgrind",
		Args: append([]string{"-q", "--tool=none", "--vgdb=yes", "--vgdb-prefix=" + prefix, program, "--wait"}, args...)})
	p.WaitReady()
	return p.PID, "target remote | vgdb --vgdb-prefix=" + prefix + " --pid=" + strconv.Itoa(p.PID)
}

// gdb that is connected to valgrind's gdbserver: nobody traces the program for long, and vgdb only
// passes packets on. The program's list is that of its own loader, in valgrind's address space.
func TestValgrind(t *testing.T) {
	pid, target := underValgrind(t)
	out, stderr, code := whosefd(t, "preflight", strconv.Itoa(pid))
	if code != 1 || !strings.HasPrefix(out, "hang: 1 name ") {
		t.Errorf("preflight: exit code %d\n%s%s", code, out, stderr)
	}
	program := filepath.Join(scene.Build(t), "from_memory")
	gdb := scene.StartGDB(t, scene.GDB{Args: []string{program, "-ex", target}})
	gdb.WaitBlocked(scene.Patience)
	d, code := diagnosis(t, strconv.Itoa(gdb.PID))
	if code != 1 || d.Verdict != "hang" || len(d.Findings) == 0 {
		t.Fatalf("exit code %d: %+v", code, d)
	}
	f := &d.Findings[0]
	if f.Rule != "self-fd" || f.Confidence != "certain" || f.Name != "/proc/self/fd/4" || f.Intended == nil || int(f.Intended.PID) != pid || f.Intended.Kind != "memfd" {
		t.Errorf("%+v, %+v", f, f.Intended)
	}
	fixed := startWhosefd(t, "repair", strconv.Itoa(gdb.PID))
	gdb.Expect(scene.Prompt)
	if symbol := gdb.Command("info symbol foo"); !strings.Contains(symbol, "foo in section .text of /proc/self/fd/4") {
		t.Errorf("repaired: %s\n%s", symbol, fixed.stderr.String())
	}
}

func TestGuardValgrind(t *testing.T) {
	_, target := underValgrind(t)
	program := filepath.Join(scene.Build(t), "from_memory")
	gdb := scene.StartGDB(t, scene.GDB{Launcher: []string{binary(t), "guard", "--"}, Args: []string{program, "-ex", target}})
	gdb.Expect(scene.Prompt)
	if symbol := gdb.Command("info symbol foo"); !strings.Contains(symbol, "foo in section .text of /proc/self/fd/4") {
		t.Errorf("%s\n%s", symbol, gdb.Output())
	}
}

// gdb that is connected to a gdbserver by a unix socket, as inetd or socat make such a connection: the
// kernel tells who has its other end.
func TestUnixSocket(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "gdbserver", "ptrace")
	p := scene.StartSample(t, "from_memory", "--wait")
	pid := strconv.Itoa(p.WaitReady())
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		served <- func() error {
			conn, err := l.AcceptUnix()
			if err != nil {
				return err
			}
			end, err := conn.File()
			if err != nil {
				return err
			}
			server := exec.Command("gdbserver", "--once", "--attach", "-", pid)
			server.Stdin, server.Stdout = end, end
			err = server.Start()
			if err == nil {
				go func() { _ = server.Wait() }() // it ends with the connection
			}
			return errors.Join(err, end.Close(), conn.Close()) // only the server has it
		}()
	}()
	gdb := scene.StartGDB(t, scene.GDB{Args: []string{"-iex", "set sysroot /", filepath.Join(scene.Build(t), "from_memory"), "-ex", "target remote " + path}})
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	gdb.WaitBlocked(scene.Patience)
	d, code := diagnosis(t, strconv.Itoa(gdb.PID))
	if code != exitFindings || len(d.Findings) != 1 {
		t.Fatalf("exit code %d: %+v", code, d)
	}
	if f := &d.Findings[0]; f.Rule != "self-fd" || f.Confidence != "certain" || f.Intended == nil || strconv.Itoa(int(f.Intended.PID)) != pid {
		t.Errorf("%+v, %+v", f, f.Intended)
	}
	if _, stderr, code := whosefd(t, "repair", "--detach", strconv.Itoa(gdb.PID)); code != exitNothing {
		t.Errorf("repair: exit code %d, %s", code, stderr)
	}
	gdb.Expect(scene.Prompt)
}

// A hang whose name belongs to a program that cannot be looked at: what is left is the debugger's
// own memory, where the name stands.
func TestHangWithoutInferior(t *testing.T) {
	program, core := coreOf(t, "kernel")
	cut := filepath.Join(t.TempDir(), "cut")
	copyOf(t, core, cut)
	gdb := hungOnCore(t, program, cut)
	truncate(t, cut) // its list is gone
	d, code := diagnosis(t, strconv.Itoa(gdb.PID))
	if code != 1 || d.Verdict != "hang" || len(d.Findings) != 1 {
		t.Fatalf("exit code %d: %+v", code, d)
	}
	f := &d.Findings[0]
	if f.Rule != "self-fd" || f.Confidence != "certain" || f.Name != "/proc/self/fd/4" ||
		!evidence(f, "memory", "stands on the ") && !evidence(f, "memory", "was opened by that name") { // of a stream that is understood
		t.Errorf("%+v", f)
	}
	if len(d.Missing) == 0 {
		t.Error("what could not be read is not said")
	}
	if _, stderr, code := whosefd(t, "repair", "--release", strconv.Itoa(gdb.PID)); code != 0 {
		t.Errorf("release: exit code %d, %s", code, stderr)
	}
	gdb.Expect(scene.Prompt)
}
