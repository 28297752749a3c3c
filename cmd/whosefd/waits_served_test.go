package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"whosefd/analyze"
	"whosefd/samples/scene"
)

// fuseServer serves one file, "file", in the folder that is its argument, by the protocol
// of linux/fuse.h. Its descriptor of /dev/fuse is the second one.
const fuseServer = `
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
static const char content[] = "content\n";
static void attributes(struct fuse_attr *a, int node)
{
	memset(a, 0, sizeof *a);
	a->ino = node;
	a->nlink = 1;
	a->mode = node == 1 ? S_IFDIR | 0755 : S_IFREG | 0644;
	a->size = sizeof content - 1;
}
int main(int argc, char **argv)
{
	char options[99];
	static char in[1 << 17];
	struct fuse_in_header *question = (void *)in;
	int dev = open("/dev/fuse", O_RDWR);
	if (argc > 2) dev = dup2(dev, 77);
	snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", dev);
	if (mount("served", argv[1], "fuse.served", MS_NOSUID | MS_NODEV, options)) { perror("mount"); return 1; }
	puts("mounted"); fflush(stdout);
	for (;;) {
		union { struct fuse_init_out init; struct fuse_entry_out entry; struct fuse_attr_out attr; struct fuse_open_out open; char text[99]; } out = {0};
		struct fuse_out_header head = {0};
		size_t n = 0;
		if (read(dev, in, sizeof in) < 0) { if (errno == EINTR) continue; puts("ended"); return 0; }
		head.unique = question->unique;
		switch (question->opcode) {
		case FUSE_INIT: out.init.major = 7; out.init.minor = 31; out.init.max_write = 4096; n = sizeof out.init; break;
		case FUSE_LOOKUP:
			if (strcmp(in + sizeof *question, "file")) { head.error = -ENOENT; break; }
			out.entry.nodeid = 2; attributes(&out.entry.attr, 2); n = sizeof out.entry; break;
		case FUSE_GETATTR: attributes(&out.attr.attr, question->nodeid); n = sizeof out.attr; break;
		case FUSE_OPEN: n = sizeof out.open; break;
		case FUSE_READ: strcpy(out.text, content); n = sizeof content - 1; break;
		case FUSE_RELEASE: case FUSE_FLUSH: break;
		case FUSE_FORGET: case FUSE_BATCH_FORGET: case FUSE_INTERRUPT: continue;
		default: head.error = -ENOSYS;
		}
		head.len = sizeof head + n;
		struct iovec parts[] = {{&head, sizeof head}, {&out, n}};
		writev(dev, parts, 2);
	}
}`

// gdb wants a file of the file system that its stopped inferior serves.
func TestServedByInferior(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace", "root", "fuse", "mount")
	server := cProgram(t, fuseServer)
	wants := func(t *testing.T, gdb *scene.Session, server int, file, kind string) {
		t.Helper()
		gdb.Send("symbol-file " + file)
		d := deadlock(t, analyze.RuleStoppedInferior, gdb.PID, server)
		if w := d.Waits[0]; w.For != "filesystem" || !strings.Contains(string(w.Text), "fuse.served") || !strings.Contains(string(d.Stack[0].Error), "not stopped") {
			t.Errorf("for %q: %s; stack: %+v", w.For, w.Text, d.Stack)
		}
		if !strings.HasPrefix(statusLine(t, gdb.PID, "State"), "S") { // D once it has been interrupted
			t.Errorf("gdb is in state %s", statusLine(t, gdb.PID, "State"))
		}
		remedy(t, d, kind)
	}
	t.Run("attached, kill", func(t *testing.T) {
		t.Parallel()
		dir := scene.FUSEFolder(t)
		p := scene.Start(t, scene.Command{Path: server, Args: []string{dir}})
		p.Expect("mounted")
		gdb := scene.StartGDB(t, scene.GDB{Args: []string{"-p", strconv.Itoa(p.PID)}})
		gdb.Expect(scene.Prompt)
		wants(t, gdb, p.PID, filepath.Join(dir, "file"), "kill")
		eventually(t, "the server answers", func() bool {
			b, err := os.ReadFile(filepath.Join(dir, "file"))
			return err == nil && string(b) == "content\n"
		})
	})
	t.Run("launched, abort", func(t *testing.T) {
		t.Parallel()
		dir := scene.FUSEFolder(t)
		gdb := scene.StartGDB(t, scene.GDB{Args: []string{"--args", server, dir, "77"}})
		gdb.Expect(scene.Prompt)
		gdb.Send("run")
		gdb.Expect("mounted")
		inferior := gdb.Inferior()
		eventually(t, "it serves", func() bool { return strings.HasPrefix(statusLine(t, inferior, "State"), "S") })
		gdb.Interrupt()
		gdb.Expect(scene.Prompt)
		const connections = "/sys/fs/fuse/connections" // which the remedy mounts if need be
		if mounts, err := os.ReadFile("/proc/self/mounts"); err == nil && !strings.Contains(string(mounts), connections) {
			t.Cleanup(func() { _ = syscall.Unmount(connections, 0) })
		}
		wants(t, gdb, inferior, filepath.Join(dir, "file"), "abort")
		gdb.Expect(scene.Prompt)
		gdb.Send("continue")
		gdb.Expect("ended")
		gdb.Expect("exited normally")
	})
}

// TestDebuginfod has a server that takes the connection and never answers.
func TestDebuginfod(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace")
	if !strings.Contains(scene.Run(t, "gdb", "-batch", "-ex", "show configuration"), "--with-debuginfod") {
		scene.Skip(t, "debuginfod in gdb", os.ErrNotExist)
	}
	server := scene.Start(t, scene.Command{Path: "python3", Args: []string{"-c", `
import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen()
print("port", s.getsockname()[1], flush=True)
kept = []
while True: kept.append(s.accept())`}})
	port := server.Expect(`port (\d+)`)[1]
	dir := t.TempDir()
	prog := scene.Compile(t, dir, "prog.c", pauses, "gcc", "-Wl,--build-id", "-s")
	gdb := scene.StartGDB(t, scene.GDB{Args: []string{"-iex", "set debuginfod enabled on", prog},
		Env: []string{"DEBUGINFOD_URLS=http://127.0.0.1:" + port + "/", "DEBUGINFOD_TIMEOUT=600", "DEBUGINFOD_CACHE_PATH=" + filepath.Join(dir, "cache")}})
	var d *analyze.Diagnosis
	eventually(t, "the wait", func() bool {
		var code int
		if d, code = diagnosis(t, strconv.Itoa(gdb.PID)); code != 0 {
			t.Fatalf("exit code %d: %s", code, d.Summary)
		}
		return d.Verdict == "blocked" && len(d.Waits) > 0 && d.Waits[0].For == "peer"
	})
	for _, want := range []string{"debuginfod", "127.0.0.1:" + port, "pid " + strconv.Itoa(server.PID), "DEBUGINFOD_TIMEOUT", "set debuginfod enabled off"} {
		if !strings.Contains(string(d.Summary), want) {
			t.Errorf("%q is not said: %s", want, d.Summary)
		}
	}
	// What is said to end it.
	gdb.Interrupt()
	gdb.Expect(scene.Prompt)
}
