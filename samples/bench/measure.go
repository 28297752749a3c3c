package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"whosefd/samples/scene"
)

// bench measures, and prints a line for each comparison.
type bench struct {
	t       scene.TB
	whosefd string
	runs    int
	dir     string // for what the programs write
}

// measured is what one run of a command took.
type measured struct {
	wall time.Duration
	rss  int64 // the largest resident set, bytes
}

// command is something to be measured.
type command func() (measured, error)

// within bounds one run.
const within = 10 * time.Minute

// run measures a command without a terminal, its output thrown away. Exit code
// 1 says that there are findings.
func run(argv ...string) command {
	return func() (measured, error) {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		defer cancel()
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), "DEBUGINFOD_URLS=")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
		began := time.Now()
		err := cmd.Run()
		m := measured{wall: time.Since(began)}
		if err != nil && (cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 1) {
			return m, fmt.Errorf("%s: %w", strings.Join(argv[:2], " "), err)
		}
		if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			m.rss = usage.Maxrss << 10
		}
		return m, nil
	}
}

// line prints a row. Without a goal the last column stays empty.
func (b *bench) line(what, ours, peers, ratio, goal string) {
	fmt.Printf("%-62s %10s %10s %7s  %s\n", what, ours, peers, ratio, goal)
}

// pair measures two commands in turn and prints the medians of their wall time.
func (b *bench) pair(what, goal string, ours, peers command) {
	var our, peer []time.Duration
	for range b.runs {
		for _, c := range []struct {
			run command
			to  *[]time.Duration
		}{{ours, &our}, {peers, &peer}} {
			m, err := c.run()
			if err != nil {
				b.line(what, err.Error(), "", "", "")
				return
			}
			*c.to = append(*c.to, m.wall)
		}
	}
	mine, theirs := median(our), median(peer)
	b.line(what, seconds(mine), seconds(theirs), fmt.Sprintf("%.3f", mine.Seconds()/theirs.Seconds()), goal)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }

func median[T cmp.Ordered](xs []T) T {
	slices.Sort(xs)
	return xs[len(xs)/2]
}

// has says whether a peer is installed, and that it is left out if not.
func (b *bench) has(program string) bool {
	if _, err := exec.LookPath(program); err != nil {
		b.line("("+program+" is not installed: not compared)", "", "", "", "")
		return false
	}
	return true
}

// version is the first line of what a program says of itself.
func (b *bench) version(argv ...string) string {
	cmd := exec.Command(argv[0], argv[1:]...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return argv[0] + ": not here"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}
