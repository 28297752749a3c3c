// Command bench shows what whosefd costs, as ratios to its peers, which are
// measured in turn in one run. It prints medians, and asserts nothing: the
// machine's noise is for the reader to judge. Where a machine does other work,
// the ratio of CPU time says more than that of wall time.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"whosefd/samples/scene"
)

func main() {
	whosefd := flag.String("whosefd", "bin/whosefd", "the program to measure")
	runs := flag.Int("n", 3, "runs of each command")
	gdb := flag.String("gdb", "", "a gdb with debug info, to be explained too")
	only := flag.String("only", "", "only one part: calls, steps, explain, crowd, watch, log or memory")
	flag.Parse()
	path, err := filepath.Abs(*whosefd)
	if err == nil {
		err = scene.Play(os.Stderr, func(t scene.TB) { (&bench{t: t, whosefd: path, runs: *runs}).all(*only, *gdb) })
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) all(only, gdb string) {
	began := time.Now()
	var err error
	if b.dir, err = os.MkdirTemp("", "whosefd-bench-"); err != nil {
		b.t.Fatalf("%v", err)
	}
	b.t.Cleanup(func() { _ = os.RemoveAll(b.dir) })
	b.bin = scene.Build(b.t)
	for _, v := range [][]string{{b.whosefd, "--version"}, {"uname", "-sr"}, {"strace", "--version"}, {"perf", "--version"},
		{"bpftrace", "--version"}, {"gdb", "--version"}} {
		fmt.Println(version(v...))
	}
	b.ebpf = exec.Command(b.whosefd, "trace", "--engine", "ebpf", "-o", b.file("probe.jsonl"), "--", "true").Run() == nil
	if !b.ebpf {
		fmt.Println("--engine ebpf does not work here, not measured: see whosefd doctor")
	}
	fmt.Printf("medians of %d runs\n\n", b.runs)
	row("what", "whosefd", "peer", "ratio", "of CPU", "goal")
	for _, part := range []struct {
		name string
		run  func()
	}{
		{"calls", b.calls},
		{"steps", b.steps},
		{"explain", func() { b.explain("", "0.1"); b.explain(gdb, "") }},
		{"crowd", b.crowd},
		{"watch", b.watch},
		{"log", b.logs},
		{"memory", b.long},
	} {
		if only == "" || only == part.name {
			part.run()
		}
	}
	fmt.Printf("\nin %v\n", time.Since(began).Round(time.Second))
}

func (b *bench) file(name string) string { return filepath.Join(b.dir, name) }

// traced is the command that traces another one.
func (b *bench) traced(engine string, argv ...string) command {
	return run(append([]string{b.whosefd, "trace", "--engine", engine, "-o", b.file(engine + ".jsonl"), "--"}, argv...)...)
}

// printed has bpftrace print the calls that busy makes, with their names and results.
const printed = `
tracepoint:syscalls:sys_enter_openat /pid == cpid/ { @name[tid] = args->filename; }
tracepoint:syscalls:sys_exit_openat /pid == cpid/ { printf("%d openat(\"%s\") = %d\n", tid, str(@name[tid]), args->ret); }
tracepoint:syscalls:sys_enter_read /pid == cpid/ { @fd[tid] = args->fd; @n[tid] = args->count; }
tracepoint:syscalls:sys_exit_read /pid == cpid/ { printf("%d read(%d, %d) = %d\n", tid, @fd[tid], @n[tid], args->ret); }
tracepoint:syscalls:sys_enter_pread64 /pid == cpid/ { @fd[tid] = args->fd; @n[tid] = args->count; }
tracepoint:syscalls:sys_exit_pread64 /pid == cpid/ { printf("%d pread64(%d, %d) = %d\n", tid, @fd[tid], @n[tid], args->ret); }
tracepoint:syscalls:sys_enter_close /pid == cpid/ { @fd[tid] = args->fd; }
tracepoint:syscalls:sys_exit_close /pid == cpid/ { printf("%d close(%d) = %d\n", tid, @fd[tid], args->ret); }
`

// calls compares following a program with the peers, and with the least that a
// ptrace loop can do.
func (b *bench) calls() {
	busy, log := filepath.Join(b.bin, "busy"), b.file("strace.log")
	bpftrace := func(argv string) command {
		return run("bpftrace", "-o", b.file("bpftrace.log"), "-e", printed, "-c", argv)
	}
	subjects := []subject{
		{"ptrace", b.traced("ptrace", busy)},
		{"bareloop", run(filepath.Join(b.bin, "bareloop"), busy)},
		{"untraced", run(busy)},
		{"strace", run("strace", "-f", "-y", "-o", log, busy)},
		{"strace on one CPU", run("taskset", "-c", "0", "strace", "-f", "-y", "-o", log, busy)},
		{"perf trace", run("perf", "trace", "-o", b.file("perf.log"), busy)},
		{"bpftrace", bpftrace(busy)},
		{"bpftrace, loading", bpftrace(busy + " 0")},
	}
	if b.ebpf {
		subjects = append(subjects, subject{"ebpf", b.traced("ebpf", busy)}, subject{"loading", b.traced("ebpf", busy, "0")})
	}
	of := b.measure(subjects...)
	for _, name := range []string{"ebpf", "bpftrace"} { // what it takes to load them is told apart
		m, ok := of[name]
		load, ok2 := of[map[string]string{"ebpf": "loading", "bpftrace": "bpftrace, loading"}[name]]
		if ok && ok2 {
			of[name+", loaded"] = m.less(load)
		}
	}
	better := "strace"
	if s, ok := of["strace on one CPU"]; ok && s.wall < of["strace"].wall {
		better = "strace on one CPU"
	}
	against("80,000 calls recorded by ptrace, against a bare ptrace loop on one CPU", "1.3", of, "ptrace", "bareloop")
	against("  against strace -f -y -o FILE", "", of, "ptrace", "strace")
	against("  against the same under taskset -c 0", "", of, "ptrace", "strace on one CPU")
	against("  against the better of the two", "0.85", of, "ptrace", better)
	against("80,000 calls recorded by eBPF, loading included, against strace", "0.12", of, "ebpf", "strace")
	against("  against strace under taskset -c 0", "", of, "ebpf", "strace on one CPU")
	against("  against perf trace -o FILE", "", of, "ebpf", "perf trace")
	against("  against the program alone", "", of, "ebpf", "untraced")
	against("  without loading, against bpftrace printing the same without loading", "1", of, "ebpf, loaded", "bpftrace, loaded")
}

// steps compares a gdb that steps.
func (b *bench) steps() {
	argv := []string{"gdb", "-nx", "-batch", "-ex", "break main", "-ex", "run", "-ex",
		"python\nfor i in range(3000): gdb.execute('stepi', to_string=True)\n", filepath.Join(b.bin, "from_file")}
	guarded := func(engine string) command {
		return run(append([]string{b.whosefd, "guard", "--engine", engine, "--"}, argv...)...)
	}
	subjects := []subject{
		{"untraced", run(argv...)},
		{"bareloop", run(append([]string{filepath.Join(b.bin, "bareloop")}, argv...)...)},
		{"guard, ptrace", guarded("ptrace")},
		{"strace", run(append([]string{"strace", "-y", "-o", b.file("strace.log")}, argv...)...)},
	}
	if b.ebpf {
		subjects = append(subjects, subject{"trace", b.traced("ebpf", argv...)}, subject{"guard", guarded("ebpf")})
	}
	of := b.measure(subjects...)
	against("gdb stepping 3,000 instructions, traced by eBPF, against untraced", "1.3", of, "trace", "untraced")
	against("  guarded with eBPF, against untraced", "1.2", of, "guard", "untraced")
	against("  guarded with ptrace, against a bare ptrace loop around it", "1.15", of, "guard, ptrace", "bareloop")
	against("  (strace -y -o FILE, against untraced)", "", of, "strace", "untraced")
}

// explain compares with a second gdb that looks at a hung one. The hung gdb
// is the one on the PATH, unless another is named.
func (b *bench) explain(path, goal string) {
	what, debugger := "explain of a hung gdb", "gdb"
	var gdb *scene.Session
	switch {
	case path == "" && goal == "":
		return
	case path == "":
		gdb = scene.Hang(b.t)
	default:
		debugger = path
		what = "explain of a gdb with debug info"
		if st, err := os.Stat(path); err == nil {
			what += fmt.Sprintf(" (%d MB)", st.Size()>>20)
		}
		gdb = scene.StartGDB(b.t, scene.GDB{Path: path, Args: []string{"-ex", "break foo", "-ex", "run", filepath.Join(b.bin, "from_memory")}})
	}
	gdb.WaitBlocked(scene.Patience)
	pid := strconv.Itoa(gdb.PID)
	of := b.measure(subject{"explain", run(b.whosefd, "explain", pid)}, subject{"gdb", run(debugger, "-nx", "-p", pid, "-batch", "-ex", "bt")})
	against(what+", against gdb -p PID -batch -ex bt", goal, of, "explain", "gdb")
	var stopped []float64
	for range max(b.runs, 10) {
		out, _ := exec.Command(b.whosefd, "explain", "--format", "json", pid).Output() // exit code 1: a finding
		var d struct {
			Stack []struct {
				StoppedUS float64 `json:"stopped_us"`
			} `json:"stack"`
		}
		if err := json.Unmarshal(out, &d); err != nil || len(d.Stack) == 0 {
			row("  the time for which it is stopped", "not told", "", "", "", "")
			return
		}
		stopped = append(stopped, d.Stack[0].StoppedUS/1000)
	}
	as := func(ms float64) float64 { return ms }
	row("  the time for which it is stopped: median", fmt.Sprintf("%.2f ms", median(stopped, as)), "", "", "", "1 ms")
	gdb.Kill()
}

// crowd compares explain on a machine with 5,000 processes more, which have 10
// descriptors each, with one with 100 more.
func (b *bench) crowd() {
	gdb := scene.Hang(b.t)
	gdb.WaitBlocked(scene.Patience)
	var all []*exec.Cmd
	defer func() {
		for _, c := range all {
			_ = c.Process.Kill()
		}
		for _, c := range all {
			_ = c.Wait()
		}
		gdb.Kill()
	}()
	of := map[string]measured{}
	for _, n := range []int{100, 5000} {
		for len(all) < n {
			c := exec.Command("sleep", "600")
			c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if err := startWithPipes(c, 3); err != nil {
				fmt.Printf("(only %d processes can be started: %v)\n", len(all), err)
				return
			}
			all = append(all, c)
		}
		name := strconv.Itoa(n)
		of[name] = b.measure(subject{name, run(b.whosefd, "explain", strconv.Itoa(gdb.PID))})[name]
	}
	against("explain with 5,000 processes and 50,000 descriptors, against with 100", "5", of, "5000", "100")
	memory("  its memory", "5", of, "5000", "100")
}

// watch shows what part of a CPU watch takes with 20 debuggers at their prompts, once it
// has met them.
func (b *bench) watch() {
	for range 20 {
		gdb := scene.Debug(b.t, "from_file")
		defer gdb.Kill()
		gdb.Expect(`foo \(x=`)
	}
	const begin, long = 5 * time.Second, 30 * time.Second
	cmd := exec.Command(b.whosefd, "watch", "--for", (begin + long + time.Second).String())
	if err := cmd.Start(); err != nil {
		b.t.Fatalf("%v", err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	var used [2]time.Duration
	for i, d := range []time.Duration{begin, long} {
		time.Sleep(d)
		var err error
		if used[i], err = cpuTime(cmd.Process.Pid); err != nil {
			fmt.Printf("(watch cannot be measured: %v)\n", err)
			return
		}
	}
	part := 100 * (used[1] - used[0]).Seconds() / long.Seconds()
	row("watch beside 20 debuggers, 5 s after its start: its part of a CPU", fmt.Sprintf("%.2f %%", part), "", "", "", "0.5 %")
}

// cpuTime is what a process has used so far, proc_pid_stat(5), in steps of 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	behindComm := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var ticks [2]int // utime and stime
	for i := range ticks {
		if ticks[i], err = strconv.Atoi(behindComm[11+i]); err != nil {
			return 0, err
		}
	}
	return time.Duration(ticks[0]+ticks[1]) * 10 * time.Millisecond, nil
}

// startWithPipes starts a command that has some pipes of its own, both ends, and a file.
func startWithPipes(c *exec.Cmd, pipes int) error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	c.ExtraFiles = append(c.ExtraFiles, self)
	for range pipes {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		c.ExtraFiles = append(c.ExtraFiles, r, w)
	}
	err = c.Start()
	for _, f := range c.ExtraFiles {
		_ = f.Close() // they are the command's
	}
	return err
}

// logs shows that reading a long log of strace's takes no more memory than a short one.
func (b *bench) logs() {
	short, long := b.file("short.log"), b.file("long.log")
	if _, err := run("strace", "-y", "-o", short, filepath.Join(b.bin, "busy"), "2500")(); err != nil {
		fmt.Printf("(no log of strace's: %v)\n", err)
		return
	}
	if err := repeat(long, short, 100); err != nil {
		b.t.Fatalf("%v", err)
	}
	of := b.measure(subject{"long", run(b.whosefd, "table", long)}, subject{"short", run(b.whosefd, "table", short)})
	memory("memory of tables from an strace log of a million lines, of 10,000", "1.25", of, "long", "short")
	if m, ok := of["long"]; ok {
		row("  the time for them", seconds(m.wall), "", "", "", "")
	}
}

// repeat writes the contents of a file n times.
func repeat(to, from string, n int) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	// The last line says that the program ended.
	data = data[:bytes.LastIndexByte(data[:len(data)-1], '\n')+1]
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	for range n {
		if _, err := f.Write(data); err != nil {
			return err
		}
	}
	return f.Close()
}

// long shows that a long trace needs no more memory than a short one, and what it
// loses.
func (b *bench) long() {
	engine := "ptrace"
	if b.ebpf {
		engine = "ebpf"
	}
	const rounds = 1_250_000
	of := map[string]measured{}
	for _, n := range []int{25_000, rounds} { // the long one last: its calls are counted
		m, err := b.traced(engine, filepath.Join(b.bin, "busy"), strconv.Itoa(n))()
		if err != nil {
			fmt.Printf("(a long trace: %v)\n", err)
			return
		}
		of[strconv.Itoa(n)] = m
	}
	memory("memory of a trace ("+engine+") of 5 million calls, of 100,000", "1.1, 64 MiB", of, strconv.Itoa(rounds), "25000")
	calls, lost, err := count(b.file(engine + ".jsonl"))
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	row("  calls that are not in the record, and how many of them it says are lost", strconv.Itoa(4*rounds-calls), strconv.Itoa(lost), "", "", "0, or all")
}

// count gives the calls that busy makes over and over, and those said to be lost.
func count(record string) (calls, lost int, err error) {
	f, err := os.Open(record)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	begun := false // busy's own calls, after those of its start
	for {
		line, err := r.ReadString('\n')
		if err == io.EOF {
			return calls, lost, nil
		}
		if err != nil {
			return 0, 0, err
		}
		switch {
		case strings.HasPrefix(line, `{"type":"lost"`):
			var l struct{ Count int }
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				return 0, 0, err
			}
			lost += l.Count
		case strings.Contains(line, `"name":"openat","path":"/proc/version"`):
			begun = true
			calls++
		case begun && (strings.Contains(line, `"name":"read"`) || strings.Contains(line, `"name":"pread64"`) || strings.Contains(line, `"name":"close"`)):
			calls++
		}
	}
}
