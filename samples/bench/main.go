// Command bench shows what whosefd costs, as ratios to its peers, each pair
// measured in turn in one run. It prints medians, and asserts nothing: the
// machine's noise is for the reader to judge.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"whosefd/samples/scene"
)

func main() {
	whosefd := flag.String("whosefd", "bin/whosefd", "the program to measure")
	runs := flag.Int("n", 5, "runs of each command")
	flag.Parse()
	path, err := filepath.Abs(*whosefd)
	if err == nil {
		err = scene.Play(os.Stderr, func(t scene.TB) { (&bench{t: t, whosefd: path, runs: *runs, w: os.Stdout}).all() })
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	t       scene.TB
	whosefd string
	runs    int
	w       io.Writer
	dir     string
}

func (b *bench) all() {
	var err error
	if b.dir, err = os.MkdirTemp("", "whosefd-bench-"); err != nil {
		b.t.Fatalf("%v", err)
	}
	b.t.Cleanup(func() { _ = os.RemoveAll(b.dir) })
	bin := scene.Build(b.t)
	busy := filepath.Join(bin, "busy")
	record, log := filepath.Join(b.dir, "trace.jsonl"), filepath.Join(b.dir, "strace.log")
	fmt.Fprintf(b.w, "%s; %s; %s; medians of %d runs\n\n", b.version(b.whosefd), b.version("strace"), b.version("gdb"), b.runs)
	fmt.Fprintf(b.w, "%-58s %9s %9s %7s %7s\n", "what", "whosefd", "peer", "ratio", "goal")

	b.pair("80,000 calls, launched, against strace -f -y -o FILE", "0.25",
		[]string{b.whosefd, "trace", "-o", record, "--", busy}, []string{"strace", "-f", "-y", "-o", log, busy})
	b.pair("the same, --cpu off", "",
		[]string{b.whosefd, "trace", "--cpu", "off", "-o", record, "--", busy}, []string{"strace", "-f", "-y", "-o", log, busy})
	steps := []string{"gdb", "-nx", "-batch", "-ex", "break main", "-ex", "run", "-ex",
		"python\nfor i in range(3000): gdb.execute('stepi', to_string=True)\n", filepath.Join(bin, "from_file")}
	b.pair("gdb stepping 3,000 instructions, against strace -y -o FILE", "0.25",
		append([]string{b.whosefd, "trace", "-o", record, "--"}, steps...), append([]string{"strace", "-y", "-o", log}, steps...))
	b.pair("the same under guard, against untraced", "5", append([]string{b.whosefd, "guard", "--"}, steps...), steps)

	gdb := scene.Hang(b.t)
	pid := strconv.Itoa(gdb.PID)
	b.pair("explain of a hung gdb, against gdb -p PID -batch -ex bt", "0.1",
		[]string{b.whosefd, "explain", pid}, []string{"gdb", "-nx", "-p", pid, "-batch", "-ex", "bt"})

	// A recording that is long enough to be timed: the same program for longer.
	if _, err := b.time(b.whosefd, "trace", "-o", record, "--", busy, "50000"); err != nil {
		b.t.Fatalf("%v", err)
	}
	if _, err := exec.LookPath("jq"); err != nil {
		fmt.Fprintln(b.w, "(jq is not installed: recordings are not measured)")
		return
	}
	jq := []string{"jq", "-c", ".", record}
	b.pair("explain of a recording of 200,000 calls, against jq -c .", "0.1", []string{b.whosefd, "explain", record}, jq)
	b.pair("table of it, against jq -c .", "0.1", []string{b.whosefd, "table", record}, jq)
}

// version is the first line of what --version prints.
func (b *bench) version(program string) string {
	out, err := exec.Command(program, "--version").Output()
	if err != nil {
		b.t.Fatalf("%s --version: %v", program, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// pair measures two commands in turn.
func (b *bench) pair(what, goal string, ours, peers []string) {
	var our, peer []time.Duration
	for range b.runs {
		for _, c := range []struct {
			argv []string
			to   *[]time.Duration
		}{{ours, &our}, {peers, &peer}} {
			d, err := b.time(c.argv...)
			if err != nil {
				fmt.Fprintf(b.w, "%-58s %v\n", what, err)
				return
			}
			*c.to = append(*c.to, d)
		}
	}
	mine, theirs := median(our), median(peer)
	fmt.Fprintf(b.w, "%-58s %7.3f s %7.3f s %7.3f %7s\n", what, mine.Seconds(), theirs.Seconds(), mine.Seconds()/theirs.Seconds(), goal)
}

func median(ds []time.Duration) time.Duration {
	slices.SortFunc(ds, cmp.Compare[time.Duration])
	return ds[len(ds)/2]
}

// within bounds one run.
const within = 2 * time.Minute

// time runs a command without a terminal, its output thrown away, and gives
// its wall time. Exit code 1 says that there are findings.
func (b *bench) time(argv ...string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "DEBUGINFOD_URLS=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	if err != nil && cmd.ProcessState.ExitCode() != 1 {
		return 0, fmt.Errorf("%s: %w", strings.Join(argv[:2], " "), err)
	}
	return took, nil
}
