package scene

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The program's own way out of a wait, which in these tests nobody ends, and
// which a failing test must not have to sit through.
const waits = "--timeout=50"

func TestSamplesWithoutDebugger(t *testing.T) {
	const one = "foo(21) = 42\n"
	for _, test := range []struct {
		name string // of the program and its options
		want string
	}{
		{"from_file", one},
		{"from_file --relative", one},
		{"from_memory", one},
		{"from_memory --fd 0", one},
		{"from_memory --fd 1", one},
		{"from_memory --fd 2", one},
		{"from_memory --fd 3", one},
		{"from_memory --fd 4", one},
		{"from_memory --fd 5", one},
		{"from_memory --fd 9", one},
		{"from_memory --fd 60", one},
		{"from_memory --msync", one},
		{"from_memory --cure", one},
		{"from_memory --name self", one},
		{"from_memory --name thread-self", one},
		{"from_memory --name dev-fd", one},
		{"from_memory --name pid", one},
		{"from_memory --name relative", one},
		{"from_memory --name /proc/./self//fd/{fd}", one},
		{"from_memory --name /proc/{pid}/task/{tid}/fd/{fd}", one},
		{"from_memory --fd 0 --name /dev/stdin", one},
		{"from_memory --memfd-name x", one},
		{"from_memory --tmpfile", one},
		{"from_memory --after keep", one},
		{"from_memory --after close", one},
		{"from_memory --after reuse", one},
		{"from_memory --after reuse --reuse /", one},
		{"from_memory --thread", one},
		{"from_memory --thread --name thread-self", one},
		{"from_memory --threads 5", one},
		{"from_memory --copies 3", one + one + one},
		{"from_memory --copies 3 --fd 0 --after close", one + one + one},
		{"from_memory --copies 2 --fd 3 --thread --tmpfile", one + one},
	} {
		t.Run(test.name, func(t *testing.T) {
			words := strings.Fields(test.name)
			p := StartSample(t, words[0], words[1:]...)
			if code := p.Wait(); code != 0 || p.Out() != test.want || p.Err() != "" {
				t.Errorf("exit code %d, stdout %q, stderr %q; want 0, %q and nothing", code, p.Out(), p.Err(), test.want)
			}
		})
	}
}

func TestSamplesRefuse(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(text, []byte("no library"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, want string }{
		{"from_file --lib /nowhere/lib.so", "dlopen /nowhere/lib.so: "},
		{"from_file word", "word: takes no such argument"},
		{"from_memory word", "word: takes no such argument"},
		{"from_memory --no-such-option", "unrecognized option"},
		{"from_memory --lib /nowhere/lib.so", "open /nowhere/lib.so: No such file or directory"},
		{"from_memory --lib " + empty, "has 0 bytes"},
		{"from_memory --lib " + dir, "not a regular file"},
		{"from_memory --lib " + text, "dlopen /proc/self/fd/4: "},
		{"from_memory --fd -1", "--fd -1: not a number from 0"},
		{"from_memory --fd 4x", "--fd 4x: not a number"},
		{"from_memory --copies 0", "--copies 0: not a number from 1"},
		{"from_memory --after later", "--after later: not one of keep, close, reuse"},
		{"from_memory --name fd", "--name fd: neither a form nor a path"},
		{"from_memory --after reuse --reuse /nowhere/x", "open /nowhere/x: No such file or directory"},
		{"from_memory --wait --timeout 1", "nobody ended the wait within 1 s"},
		{"rfaas_client", "--socket is missing"},
		{"rfaas_client --socket /nowhere/socket", "connect to /nowhere/socket: No such file or directory"},
		{"rfaas_client --socket /" + strings.Repeat("x", 200), "has 201 bytes, not 1 to 107"},
		{"rfaas_client --socket x --function " + strings.Repeat("f", 60), "--function: has 60 bytes, not 1 to 59"},
		{"rfaas_client --socket x 1.5", "ARGUMENT 1.5: not a number"},
		{"rfaas_manager", "--socket is missing"},
		{"rfaas_manager --socket /nowhere/socket", "bind to /nowhere/socket: No such file or directory"},
		{"rfaas_manager --socket " + filepath.Join(dir, "socket") + " --timeout 1", "time is up"},
		{"rfaas_executor", "--connection is missing"},
		{"rfaas_executor --connection 77", "receive the request: Bad file descriptor"},
	} {
		t.Run(test.name, func(t *testing.T) {
			words := strings.Fields(test.name)
			p := StartSample(t, words[0], words[1:]...)
			if code := p.Wait(); code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			if !strings.HasPrefix(p.Err(), words[0]+": ") && !strings.Contains(p.Err(), "/"+words[0]+": ") {
				t.Errorf("stderr %q does not begin with the program's name", p.Err())
			}
			if !strings.Contains(p.Err(), test.want) {
				t.Errorf("stderr %q, want %q in it", p.Err(), test.want)
			}
		})
	}
}

func TestSamplesHelp(t *testing.T) {
	for _, name := range []string{"from_file", "from_memory", "rfaas_client", "rfaas_manager", "rfaas_executor"} {
		p := StartSample(t, name, "--help")
		if code := p.Wait(); code != 0 || !strings.HasPrefix(p.Out(), "Usage: "+name+" ") {
			t.Errorf("%s --help: exit code %d, stdout %q", name, code, p.Out())
		}
	}
}

// TestFromMemoryDescriptors looks at what the options promise about descriptors.
func TestFromMemoryDescriptors(t *testing.T) {
	link := func(t *testing.T, p *Process, fd int) string {
		t.Helper()
		target, err := os.Readlink(procPath(p.PID, "fd", strconv.Itoa(fd)))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return target
	}
	const memfd = "/memfd:libfunction (deleted)"
	for _, test := range []struct {
		args string
		want map[int]string // a descriptor's link, or its beginning if it ends in *
	}{
		{"", map[int]string{3: "/*", 4: memfd, 5: ""}},
		{"--fd 3", map[int]string{3: memfd}},
		{"--fd 0", map[int]string{0: memfd, 3: "/*", 4: ""}},
		{"--fd 1", map[int]string{1: memfd, 2: "pipe:*"}},
		{"--fd 20 --copies 2", map[int]string{20: memfd, 21: memfd, 22: "", 4: ""}},
		{"--after close", map[int]string{4: ""}},
		{"--after reuse", map[int]string{4: "/dev/null"}},
		{"--memfd-name other", map[int]string{4: "/memfd:other (deleted)"}},
		{"--fd 7 --tmpfile", map[int]string{7: filepath.Clean(os.TempDir()) + "/#*"}},
	} {
		t.Run("from_memory "+test.args, func(t *testing.T) {
			p := StartSample(t, "from_memory", append(strings.Fields(test.args), "--wait", waits)...)
			if pid := p.WaitReady(); pid != p.PID {
				t.Errorf("it says that it is %d, and is %d", pid, p.PID)
			}
			for fd, want := range test.want {
				got := link(t, p, fd)
				start, isStart := strings.CutSuffix(want, "*")
				if got != want && (!isStart || !strings.HasPrefix(got, start)) {
					t.Errorf("descriptor %d is %q, want %q", fd, got, want)
				}
			}
		})
	}
}

func TestFromMemoryThreads(t *testing.T) {
	p := StartSample(t, "from_memory", "--threads", "5", "--wait", waits)
	p.WaitReady()
	threads, err := os.ReadDir(procPath(p.PID, "task"))
	if err != nil {
		t.Fatal(err)
	}
	if len(threads) != 6 {
		t.Errorf("%d threads, want 6", len(threads))
	}
}

func TestBuildElsewhere(t *testing.T) {
	Require(t, "make", "gcc")
	dir := filepath.Join(t.TempDir(), "out")
	if err := BuildDir(dir); err != nil {
		t.Fatal(err)
	}
	p := Start(t, Command{Path: filepath.Join(dir, "from_memory"), Dir: "/"})
	if code := p.Wait(); code != 0 || p.Out() != "foo(21) = 42\n" {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, p.Out(), p.Err())
	}
}

func TestRFaaS(t *testing.T) {
	s := RFaaS(t, "--clients", "3")
	if code := s.Client.Wait(); code != 0 || s.Client.Out() != "foo(21) = 42\n" {
		t.Errorf("client: exit code %d, stdout %q, stderr %q", code, s.Client.Out(), s.Client.Err())
	}
	for _, test := range []struct {
		name     string
		args     []string
		code     int
		out, err string
	}{
		{"negative", []string{"--", "-4"}, 0, "foo(-4) = -8\n", ""},
		{"no such function", []string{"--function", "bar"}, 1, "", "rfaas_client: the executor says: dlsym: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := StartSample(t, "rfaas_client", append([]string{"--socket", s.Socket}, test.args...)...)
			if code := p.Wait(); code != test.code || p.Out() != test.out || !strings.HasPrefix(p.Err(), test.err) {
				t.Errorf("exit code %d, stdout %q, stderr %q", code, p.Out(), p.Err())
			}
		})
	}
	if code := s.Manager.Wait(); code != 0 {
		t.Errorf("manager: exit code %d, stderr %q", code, s.Manager.Err())
	}
	if left := marked(s.Manager.mark); len(left) != 0 {
		t.Errorf("processes %v are left", left)
	}
	if _, err := os.Stat(s.Socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left (%v)", err)
	}
}

// TestRFaaSRequests sends what no client of ours would.
func TestRFaaSRequests(t *testing.T) {
	s := RFaaS(t)
	s.Client.Wait()
	lib, err := os.ReadFile(filepath.Join(Build(t), "lib.so"))
	if err != nil {
		t.Fatal(err)
	}
	// As in rfaas_protocol.h.
	request := func(magic string, size uint64, function string) []byte {
		b := make([]byte, 80)
		copy(b, magic)
		binary.NativeEndian.PutUint64(b[8:], size)
		binary.NativeEndian.PutUint32(b[16:], 21)
		copy(b[20:], function)
		return b
	}
	const magic = "rFaaSrq1"
	good := append(request(magic, uint64(len(lib)), "foo"), lib...)
	for _, test := range []struct {
		name string
		sent []byte
		want string // the error, "" for the result
	}{
		{"good", good, ""},
		{"nothing", nil, "receive the request: No data available"},
		{"short request", good[:50], "receive the request: No data available"},
		{"short library", good[:len(good)-1], "receive the library: No data available"},
		{"other protocol", request("GET / HT", 1, "foo"), "the request: not of this protocol"},
		{"no size", request(magic, 0, "foo"), "the library's size: out of bounds"},
		{"large size", request(magic, 1<<26+1, "foo"), "the library's size: out of bounds"},
		{"huge size", request(magic, 1<<63, "foo"), "the library's size: out of bounds"},
		{"no name", request(magic, 1, ""), "the function's name: empty or without an end"},
		{"endless name", request(magic, 1, strings.Repeat("f", 60)), "the function's name: empty or without an end"},
		{"no library", append(request(magic, 4, "foo"), "text"...), "dlopen: /proc/self/fd/4: file too short"},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn, err := net.Dial("unix", s.Socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(Patience)); err != nil {
				t.Fatal(err)
			}
			// In small parts, so that the executor's reads are short ones.
			for i := 0; i < len(test.sent); i += 1000 {
				if _, err := conn.Write(test.sent[i:min(i+1000, len(test.sent))]); err != nil {
					t.Fatal(err)
				}
			}
			if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			reply, err := io.ReadAll(conn)
			if err != nil || len(reply) != 256 || string(reply[:8]) != "rFaaSrp1" {
				t.Fatalf("reply %q, error %v", reply, err)
			}
			failed := binary.NativeEndian.Uint32(reply[8:])
			result := binary.NativeEndian.Uint32(reply[12:])
			message, _, _ := strings.Cut(string(reply[16:]), "\x00")
			if test.want == "" && (failed != 0 || result != 42) || test.want != "" && failed != 1 || message != test.want {
				t.Errorf("failed %d, result %d, message %q; want %q", failed, result, message, test.want)
			}
		})
	}
	s.Manager.Signal(syscall.SIGTERM)
	if code := s.Manager.Wait(); code != 0 {
		t.Errorf("manager: exit code %d, stderr %q", code, s.Manager.Err())
	}
}

// TestRFaaSManagerEnds ends a manager whose executor waits.
func TestRFaaSManagerEnds(t *testing.T) {
	for _, test := range []struct {
		name   string
		signal syscall.Signal
		code   int
	}{
		{"by itself", syscall.SIGTERM, 0},
		{"killed", syscall.SIGKILL, 128 + int(syscall.SIGKILL)},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := RFaaS(t, "--wait")
			s.Manager.Signal(test.signal)
			if code := s.Manager.Wait(); code != test.code {
				t.Errorf("manager: exit code %d, want %d", code, test.code)
			}
			if code := s.Client.Wait(); code != 1 || s.Client.Err() != "rfaas_client: the executor ended without a reply\n" {
				t.Errorf("client: exit code %d, stdout %q, stderr %q", code, s.Client.Out(), s.Client.Err())
			}
			// A killed manager's executor is killed by the kernel, but reaped by
			// somebody else.
			deadline := time.Now().Add(Patience)
			for len(marked(s.Manager.mark)) != 0 {
				if time.Now().After(deadline) {
					t.Fatalf("processes %v are left", marked(s.Manager.mark))
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
}

// TestRFaaSStaleSocket starts a manager where a killed one has left its socket.
func TestRFaaSStaleSocket(t *testing.T) {
	first := RFaaS(t)
	first.Client.Wait()
	busy := StartSample(t, "rfaas_manager", "--socket", first.Socket)
	if code := busy.Wait(); code != 1 || !strings.Contains(busy.Err(), "Address already in use") {
		t.Errorf("a second manager on the socket: exit code %d, stderr %q", code, busy.Err())
	}
	first.Manager.Kill()
	second := StartSample(t, "rfaas_manager", "--socket", first.Socket, "--clients", "1")
	second.WaitReady()
	client := StartSample(t, "rfaas_client", "--socket", first.Socket)
	if code := client.Wait(); code != 0 {
		t.Errorf("client: exit code %d, stderr %q", code, client.Err())
	}
	if code := second.Wait(); code != 0 {
		t.Errorf("manager: exit code %d, stderr %q", code, second.Err())
	}
}
