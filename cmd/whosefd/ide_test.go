package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"whosefd/samples/scene"
)

// cured are the ways in which a front end gets a gdb that does not hang: a command,
// and the arguments before its own.
func cured(t *testing.T) map[string][]string {
	plugin := filepath.Join(t.TempDir(), "whosefd.py")
	source, stderr, code := whosefd(t, "gdb-plugin")
	if code != 0 {
		t.Fatal(stderr)
	}
	if err := os.WriteFile(plugin, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	return map[string][]string{"wrapper": {wrapper(t), "-nx"}, "plug-in": {"gdb", "-nx", "-iex", "source " + plugin}}
}

// frontEnd is the other end of a debugger's pipes.
type frontEnd struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	got  chan string // lines
	said strings.Builder
}

func startFrontEnd(t *testing.T, command ...string) *frontEnd {
	t.Helper()
	f := &frontEnd{cmd: exec.Command(command[0], command[1:]...), got: make(chan string, 1<<16)}
	f.cmd.Env = scene.Environ(t)
	f.cmd.Stderr = os.Stderr
	var err error
	if f.in, err = f.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			f.got <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		_ = f.in.Close()
		_ = f.cmd.Process.Kill()
		<-read
		_ = f.cmd.Wait()
	})
	return f
}

// expect waits for an answer that matches.
func (f *frontEnd) expect(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	late := time.After(scene.Patience)
	for {
		select {
		case text := <-f.got:
			f.said.WriteString(text + "\n")
			if re.MatchString(text) {
				return text
			}
		case <-late:
			t.Fatalf("no %s in\n%s", pattern, f.said.String())
		}
	}
}

// What VS Code's cpptools, and others that speak MI, send for a launch that stops in a
// library from memory, looks at the stack and its variables, and goes on.
func TestMIFrontEnd(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace")
	program := filepath.Join(scene.Build(t), "from_memory")
	for name, command := range cured(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startFrontEnd(t, append(command, "--interpreter=mi")...)
			f.expect(t, `^\(gdb\)`)
			for i, c := range []struct{ send, answer string }{
				{"-gdb-set mi-async on", `\^done`},
				{"-enable-pretty-printing", `\^done`},
				{`-interpreter-exec console "set pagination off"`, `\^done`},
				{"-gdb-version", `\^done`},
				{"-gdb-set auto-solib-add on", `\^done`},
				{"-environment-cd " + filepath.Dir(program), `\^done`},
				{"-file-exec-and-symbols " + program, `\^done`},
				{"-exec-arguments --fd 5", `\^done`},
				{`-interpreter-exec console "show architecture"`, `\^done`},
				{"-break-insert -f foo", `\^done,bkpt=.*pending`},
				{"-exec-run", `\^running`},
				{"", `^\*stopped,reason="breakpoint-hit".*func="foo".*file="lib\.c"`},
				{"-thread-info", `\^done,threads=`},
				{"-stack-list-frames 0 1000", `\^done,stack=\[frame={level="0",.*func="foo",.*line="1"`},
				{"-stack-list-variables --simple-values", `\^done,variables=\[{name="x",arg="1",type="int",value="21"}`},
				{"-var-create - * x", `\^done,name="var1".*value="21"`},
				{`-data-evaluate-expression "x*2"`, `\^done,value="42"`},
				{"-exec-continue", `\^running`},
				{"", `^\*stopped,reason="exited-normally"`},
				{"-gdb-exit", `\^exit`},
			} {
				token := ""
				if c.send != "" {
					token = strconv.Itoa(1001 + i)
					if _, err := io.WriteString(f.in, token+c.send+"\n"); err != nil {
						t.Fatal(err, f.said.String())
					}
					token = "^" + token
				}
				f.expect(t, token+c.answer)
			}
			eventually(t, "gdb has ended", func() bool {
				b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", f.cmd.Process.Pid))
				return err != nil || strings.Contains(string(b), ") Z ")
			})
		})
	}
}

// An IDE that ends the process it has started, by a signal, leaves nothing, whatever gdb
// waits for: its pipes, or a terminal that stays.
func TestKilledOnATerminal(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace")
	program := filepath.Join(scene.Build(t), "from_memory")
	gdb := scene.StartGDB(t, scene.GDB{Path: wrapper(t), Args: []string{"--args", program, "--cure", "--wait", "--timeout", "60"}})
	gdb.Expect(scene.Prompt)
	gdb.Send("run")
	ready := regexp.MustCompile(`ready (\d+)`).FindStringSubmatch(gdb.Expect(`ready (\d+)`))
	inferior, _ := strconv.Atoi(ready[1])
	guard, _ := strconv.Atoi(statusLine(t, gdb.Launcher, "TracerPid"))
	if err := syscall.Kill(gdb.Launcher, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{guard, inferior} {
		eventually(t, fmt.Sprintf("pid %d has ended", pid), func() bool {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return pid > 0 && (err != nil || strings.Contains(string(b), ") Z "))
		})
	}
}
