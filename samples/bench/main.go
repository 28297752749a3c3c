// Command bench shows what whosefd costs, as ratios to its peers, each pair
// measured in turn in one run. It prints medians, and asserts nothing: the
// machine's noise is for the reader to judge.
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

	"whosefd/samples/scene"
)

func main() {
	whosefd := flag.String("whosefd", "bin/whosefd", "the program to measure")
	runs := flag.Int("n", 5, "runs of each command")
	gdb := flag.String("gdb", "", "a gdb with debug info, to be explained too")
	only := flag.String("only", "", "only one part: trace, explain, recording, log or memory")
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
	var err error
	if b.dir, err = os.MkdirTemp("", "whosefd-bench-"); err != nil {
		b.t.Fatalf("%v", err)
	}
	b.t.Cleanup(func() { _ = os.RemoveAll(b.dir) })
	for _, v := range [][]string{{b.whosefd, "--version"}, {"strace", "--version"}, {"gdb", "--version"}, {"jq", "--version"}, {"mawk", "-W", "version"}} {
		fmt.Println(b.version(v...))
	}
	fmt.Printf("medians of %d runs\n\n", b.runs)
	b.line("what", "whosefd", "peer", "ratio", "goal")
	bin := scene.Build(b.t)
	parts := []struct {
		name string
		run  func()
	}{
		{"trace", func() { b.tracing(bin) }},
		{"explain", func() { b.explaining("", "0.1"); b.explaining(gdb, "0.5") }},
		{"recording", func() { b.reading(bin) }},
		{"log", func() { b.logs(bin) }},
		{"memory", func() { b.memory(bin) }},
	}
	for _, p := range parts {
		if only == "" || only == p.name {
			p.run()
		}
	}
}

func (b *bench) file(name string) string { return filepath.Join(b.dir, name) }

// tracing compares following a program with strace, and with the least that a
// ptrace loop can do.
func (b *bench) tracing(bin string) {
	busy := filepath.Join(bin, "busy")
	record, log := b.file("trace.jsonl"), b.file("strace.log")
	launched := run(b.whosefd, "trace", "-o", record, "--", busy)
	strace := run("strace", "-f", "-y", "-o", log, busy)
	b.pair("80,000 calls, launched, against strace -f -y -o FILE", "0.25", launched, strace)
	attached := func(tracer ...string) command {
		return func() (measured, error) {
			cmd := exec.Command(busy, "20000", "attach")
			if err := cmd.Start(); err != nil {
				return measured{}, err
			}
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			return run(append(tracer, "-p", strconv.Itoa(cmd.Process.Pid))...)()
		}
	}
	b.pair("the same, attached with -p", "0.25", attached(b.whosefd, "trace", "-o", record), attached("strace", "-f", "-y", "-o", log))
	b.pair("the same, launched, --cpu off", "", run(b.whosefd, "trace", "--cpu", "off", "-o", record, "--", busy), strace)
	b.pair("80,000 calls, against a bare ptrace loop on one CPU", "1.5", launched, run(filepath.Join(bin, "bareloop"), busy))
	steps := []string{"gdb", "-nx", "-batch", "-ex", "break main", "-ex", "run", "-ex",
		"python\nfor i in range(3000): gdb.execute('stepi', to_string=True)\n", filepath.Join(bin, "from_file")}
	b.pair("gdb stepping 3,000 instructions, against strace -y -o FILE", "0.25",
		run(append([]string{b.whosefd, "trace", "-o", record, "--"}, steps...)...), run(append([]string{"strace", "-y", "-o", log}, steps...)...))
	b.pair("the same under guard, against untraced", "5", run(append([]string{b.whosefd, "guard", "--"}, steps...)...), run(steps...))
	b.pair("(a bare ptrace loop around it, against untraced)", "",
		run(append([]string{filepath.Join(bin, "bareloop")}, steps...)...), run(steps...))
}

// explaining compares with a second gdb that looks at a hung one. The hung gdb
// is the one on the PATH, unless another is named.
func (b *bench) explaining(path, goal string) {
	what := "explain of a hung gdb"
	debugger := "gdb"
	var gdb *scene.Session
	if path == "" {
		if goal != "0.1" {
			return
		}
		gdb = scene.Hang(b.t)
	} else {
		debugger = path
		what = "explain of a gdb with debug info"
		if st, err := os.Stat(path); err == nil {
			what += fmt.Sprintf(" (%d MB)", st.Size()>>20)
		}
		gdb = scene.StartGDB(b.t, scene.GDB{Path: path, Args: []string{"-ex", "break foo", "-ex", "run", filepath.Join(scene.Build(b.t), "from_memory")}})
	}
	gdb.WaitBlocked(scene.Patience)
	pid := strconv.Itoa(gdb.PID)
	b.pair(what+", against gdb -p PID -batch -ex bt", goal, run(b.whosefd, "explain", pid), run(debugger, "-nx", "-p", pid, "-batch", "-ex", "bt"))
	var stopped []float64
	for range max(b.runs, 10) {
		out, _ := exec.Command(b.whosefd, "explain", "--format", "json", pid).Output() // exit code 1: a finding
		var d struct {
			Stack []struct {
				StoppedUS float64 `json:"stopped_us"`
			} `json:"stack"`
		}
		if err := json.Unmarshal(out, &d); err != nil || len(d.Stack) == 0 {
			b.line("the time for which it is stopped", "not told", "", "", "")
			return
		}
		stopped = append(stopped, d.Stack[0].StoppedUS/1000)
	}
	middle := median(stopped)
	b.line("the time for which it is stopped: median, largest", fmt.Sprintf("%.2f ms", middle), fmt.Sprintf("%.2f ms", stopped[len(stopped)-1]), "", "5 ms")
	gdb.Kill()
}

// reading compares reading a recording of a million calls with jq.
func (b *bench) reading(bin string) {
	if !b.has("jq") {
		return
	}
	record := b.file("long.jsonl")
	if _, err := run(b.whosefd, "trace", "-o", record, "--", filepath.Join(bin, "busy"), "250000")(); err != nil {
		b.t.Fatalf("%v", err)
	}
	jq := run("jq", "-c", ".", record)
	b.pair("explain of a recording of a million calls, against jq -c .", "0.1", run(b.whosefd, "explain", record), jq)
	b.pair("table of it, against jq -c .", "0.1", run(b.whosefd, "table", record), jq)
}

// logs compares reading a log of strace's with mawk, which only counts.
func (b *bench) logs(bin string) {
	if !b.has("mawk") {
		return
	}
	short, long := b.file("short.log"), b.file("long.log")
	if _, err := run("strace", "-y", "-o", short, filepath.Join(bin, "busy"), "2500")(); err != nil {
		b.t.Fatalf("%v", err)
	}
	if err := repeat(long, short, 100); err != nil {
		b.t.Fatalf("%v", err)
	}
	table := run(b.whosefd, "table", long)
	b.pair("table of an strace log of a million lines, against mawk", "2", table,
		run("mawk", "-F(", "{n[$1]++} END {for (k in n) print k, n[k]}", long))
	b.sizes("memory of it, against that of a log of 10,000 lines", "", table, run(b.whosefd, "table", short))
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

// memory shows that a long trace needs no more of it than a short one, and
// loses nothing.
func (b *bench) memory(bin string) {
	record := b.file("memory.jsonl")
	trace := func(rounds string) command {
		return run(b.whosefd, "trace", "-o", record, "--", filepath.Join(bin, "busy"), rounds)
	}
	const long = 1_250_000
	b.sizes("memory after 5 million calls, against after 100,000", "1.1", trace(strconv.Itoa(long)), trace("25000"))
	if _, err := trace(strconv.Itoa(long))(); err != nil {
		b.t.Fatalf("%v", err)
	}
	calls, lost, err := count(record)
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	b.line("events lost in 5 million", strconv.Itoa(4*long-calls+lost), "", "", "0")
}

// sizes prints the memory that two commands need at most.
func (b *bench) sizes(what, goal string, ours, peers command) {
	first, err := ours()
	second, err2 := peers()
	if err != nil || err2 != nil {
		b.line(what, fmt.Sprint(err, err2), "", "", "")
		return
	}
	b.line(what, mib(first.rss), mib(second.rss), fmt.Sprintf("%.3f", float64(first.rss)/float64(second.rss)), goal)
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// count gives the calls that busy makes over and over, and the gaps.
func count(record string) (calls, lost int, err error) {
	f, err := os.Open(record)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	opened := ""
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
			lost++
		case strings.Contains(line, `"name":"openat","path":"/proc/version"`):
			opened = "yes"
			calls++
		case opened != "" && (strings.Contains(line, `"name":"read"`) || strings.Contains(line, `"name":"pread64"`) || strings.Contains(line, `"name":"close"`)):
			calls++
		}
	}
}
