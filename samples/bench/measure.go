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
	bin     string // the sample programs
	ebpf    bool   // that engine works here
}

// measured is what one run of a command took, or the medians of some.
type measured struct {
	wall time.Duration
	cpu  time.Duration // of it and of those that it has waited for
	rss  int64         // the largest resident set, bytes
}

// less gives what a part of the work did not take.
func (m measured) less(part measured) measured {
	return measured{wall: m.wall - part.wall, cpu: m.cpu - part.cpu, rss: m.rss}
}

// command is something to be measured.
type command func() (measured, error)

// within bounds one run.
const within = 3 * time.Minute

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
			return m, fmt.Errorf("%s: %w", strings.Join(argv[:min(2, len(argv))], " "), err)
		}
		m.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			m.rss = usage.Maxrss << 10
		}
		return m, nil
	}
}

// subject is a command with a name of its own.
type subject struct {
	name string
	run  command
}

// measure runs commands in turn and gives the medians of each; without those that
// fail, which it says.
func (b *bench) measure(subjects ...subject) map[string]measured {
	each := map[string][]measured{}
	for range b.runs {
		subjects = slices.DeleteFunc(subjects, func(s subject) bool {
			m, err := s.run()
			if err != nil {
				fmt.Printf("(%s cannot be measured: %v)\n", s.name, err)
				delete(each, s.name)
				return true
			}
			each[s.name] = append(each[s.name], m)
			return false
		})
	}
	medians := map[string]measured{}
	for name, all := range each {
		medians[name] = measured{
			wall: median(all, func(m measured) time.Duration { return m.wall }),
			cpu:  median(all, func(m measured) time.Duration { return m.cpu }),
			rss:  median(all, func(m measured) int64 { return m.rss }),
		}
	}
	return medians
}

// median is that of a property.
func median[M any, T cmp.Ordered](all []M, of func(M) T) T {
	var xs []T
	for _, m := range all {
		xs = append(xs, of(m))
	}
	slices.Sort(xs)
	return xs[len(xs)/2]
}

// row prints a comparison; without a goal the last column stays empty.
func row(what, ours, peers, ratio, cpu, goal string) {
	fmt.Printf("%-66s %10s %10s %7s %7s  %s\n", what, ours, peers, ratio, cpu, goal)
}

// against prints the ratio of the time of two commands, if both were measured.
func against(what, goal string, of map[string]measured, ours, peers string) {
	mine, ok := of[ours]
	theirs, ok2 := of[peers]
	if ok && ok2 {
		times(what, goal, mine, theirs)
	}
}

func times(what, goal string, ours, peers measured) {
	row(what, seconds(ours.wall), seconds(peers.wall), ratio(ours.wall, peers.wall), ratio(ours.cpu, peers.cpu), goal)
}

// memory prints the ratio of the memory that two commands need.
func memory(what, goal string, of map[string]measured, ours, peers string) {
	mine, ok := of[ours]
	theirs, ok2 := of[peers]
	if ok && ok2 {
		row(what, mib(mine.rss), mib(theirs.rss), ratio(mine.rss, theirs.rss), "", goal)
	}
}

func ratio[T ~int64](a, b T) string {
	if b <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", float64(a)/float64(b))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }
func mib(n int64) string             { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// version is the first line of what a program says of itself.
func version(argv ...string) string {
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil && len(out) == 0 {
		return argv[0] + ": not here, not compared"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}
