package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"whosefd/analyze"
	"whosefd/analyze/report"
	"whosefd/tracer"
	"whosefd/tracer/cpu"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// follow is what trace and guard have in common: whom to follow, and where the
// record goes.
type follow struct {
	target
	output       string
	cpu          string
	inferiors    []string
	engine       string
	findingsExit bool
}

func (f *follow) flags(a *app, cmd *cobra.Command) {
	f.flag(a, cmd)
	cmd.Args = f.args(a)
	cmd.Flags().StringVarP(&f.output, "output", "o", "", "record to this file, as JSON lines; - is standard output")
	cmd.Flags().StringSliceVar(&f.inferiors, "inferior", nil, "a process that the debugger looks at, where it is not its tracer")
	cmd.Flags().BoolVar(&f.findingsExit, "findings-exit", false, "of a launched command: exit with 0 or 1 for findings, not with its own code")
	cmd.Flags().StringVar(&f.cpu, "cpu", "auto", "auto: keep busy threads on one CPU meanwhile, which is faster; N: on this one; off: leave them where they are")
	complete(cmd, "cpu", "auto", "off")
	cmd.Flags().StringVar(&f.engine, "engine", "auto", "how calls are seen: ptrace stops the debugger at each; ebpf does not, but needs root; auto: ebpf where that works")
	complete(cmd, "engine", "auto", "ptrace", "ebpf")
	cmd.Flags().SetInterspersed(false)
}

var engines = map[string]tracer.Engine{"auto": tracer.EngineAuto, "ptrace": tracer.EnginePtrace, "ebpf": tracer.EngineEBPF}

// options fills in whom to follow. The arguments behind "--" are a command;
// one before it is a process.
func (f *follow) options(a *app, cmd *cobra.Command) (o tracer.TraceOptions, err error) {
	o = tracer.TraceOptions{View: a.view, Tool: tool(), Fallback: func(why error) {
		a.say("slower, with a stop at each call (--engine ptrace): %v", why)
	}}
	var ok bool
	if o.Engine, ok = engines[f.engine]; !ok {
		return o, fmt.Errorf("--engine %q: not auto, ptrace, or ebpf", f.engine)
	}
	if n, err := strconv.ParseUint(f.cpu, 10, 16); err == nil {
		o.CPU = event.Some(int(n))
	} else if f.cpu != "auto" && f.cpu != "off" {
		return o, fmt.Errorf("--cpu %q: not auto, off, or the number of a CPU", f.cpu)
	}
	if o.CPU.Known && o.Engine == tracer.EngineEBPF {
		return o, fmt.Errorf("--cpu %s means nothing with --engine ebpf, which lets threads run where they like", f.cpu)
	}
	if o.Inferiors, err = a.subjectsOf(f.inferiors); err != nil {
		return o, err
	}
	o.Env = os.Environ()
	args := cmd.Flags().Args() // what fewer came of: see [follow.args]
	dash, command := cmd.ArgsLenAtDash(), args
	if dash == 0 && len(args) == 0 {
		return o, errors.New("no command behind --")
	}
	if dash != 0 {
		if command = nil; len(args) > 0 && (!a.isProcess(args[0]) || len(args) > 1 && !isNumber(args[0])) {
			if _, err := exec.LookPath(args[0]); err == nil {
				command = args
			}
		}
	}
	if len(command) == 0 {
		o.Env = nil
		if o.PID, err = f.find(a, args); err == nil {
			o.Started, _ = a.view.StartTime(event.TID(o.PID)) // the attach will tell
		}
		return o, err
	}
	if len(f.pids) > 0 {
		return o, errors.New("give a process or a command, not both")
	}
	o.Argv = command
	if o.Path, err = exec.LookPath(command[0]); err != nil {
		return o, fmt.Errorf("run %s: %w", command[0], errors.Unwrap(err))
	}
	return o, nil
}

// args lets flags of ours follow the number or name of a process: behind that of a
// command they are the command's own.
func (f *follow) args(a *app) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < 2 || cmd.ArgsLenAtDash() == 0 || !a.isProcess(args[0]) {
			return nil
		}
		flag, long := strings.CutPrefix(args[1], "--")
		if flag, _, _ = strings.Cut(flag, "="); !isNumber(args[0]) && (!long || cmd.Flags().Lookup(flag) == nil) {
			return nil
		}
		cmd.Flags().SetInterspersed(true)
		return cmd.Flags().Parse(args)
	}
}

func isNumber(arg string) bool {
	_, err := strconv.Atoi(arg)
	return err == nil
}

// isProcess says that an argument is the number of a process, or the name of some.
func (a *app) isProcess(arg string) bool {
	_, err := a.process(arg)
	return !errors.Is(err, errNotNamed)
}

// outcome is the exit code for how a trace ended.
func (f *follow) outcome(o *tracer.TraceOptions, out tracer.Outcome, sig os.Signal, d *analyze.Diagnosis) error {
	if o.PID != 0 || f.findingsExit {
		if len(d.Findings) == 0 {
			if err := procview.Scarce(); err != nil {
				return err // "nothing found" would say too much
			}
		}
		return findingsExit(d)
	}
	if s, ok := sig.(syscall.Signal); ok && !out.Ended {
		return exit{code: 128 + int(s)} // the command runs on without us
	}
	if out.Signal != 0 {
		return exit{code: 128 + int(out.Signal), signal: out.Signal}
	}
	if out.Code != 0 {
		return exit{code: out.Code}
	}
	return nil
}

// keeper sets what gives the CPU masks back if we are killed, unless masks
// are to be left alone. The function that it gives ends it, and is told how the
// trace ended.
func (f *follow) keeper(o *tracer.TraceOptions) func(error) {
	if f.cpu == "off" {
		return func(error) {}
	}
	k := &cpu.Keeper{} // if it cannot be started: slower, and all right
	o.Keeper = k
	return func(err error) { _ = k.End(err == nil) }
}

func (a *app) trace() *cobra.Command {
	var (
		f    follow
		fl   filterFlags
		sf   showFlags
		live bool
		last time.Duration

		env         []string
		summaryOnly bool
	)
	cmd := &cobra.Command{
		Use:   "trace [PID | NAME | [--] COMMAND ARGS…]",
		Short: "Log a debugger's file system calls, with what each descriptor really is",
		Long: `Follows the file system calls of a process, all its threads, until it ends,
Ctrl-C, or --for. It prints the calls as they happen, then the verdict, what is
suspicious or still open, and the summary; --show and --all give whole tables.
With -o the record goes to a file, and the calls are not printed.

Processes that the debugger starts are not followed: they stay its own to trace.
What is said about a launched command goes to standard error, and its exit code
is passed on.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := fl.filter()
			if err != nil {
				return err
			}
			filter.Fold = true
			pids, err := f.several(a, nil)
			if err != nil {
				return err
			} else if len(pids) > 1 && f.output != "" {
				return errors.New("-o: a recording is of one process: trace each by itself, or leave -o out")
			} else if len(pids) > 1 {
				f.pids = []string{strconv.Itoa(int(pids[0]))}
			}
			o, err := f.options(a, cmd)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("for") && last <= 0 {
				return fmt.Errorf("--for %v: not a time to wait", last)
			}
			o.For, o.Asked = last, filter.Calls
			if o.PID == 0 {
				o.Env = withEnv(o.Env, env)
			} else if len(env) > 0 {
				return errors.New("-E is for a launched command")
			}
			a.noteHabits(cmd)
			shown, err := sf.names()
			if err != nil {
				return err
			}
			w := a.out
			if o.PID == 0 || isStdout(f.output) {
				w = a.err
			}
			v := &traceView{a: a, filter: filter, w: w, live: live || f.output == "" && !summaryOnly, shown: shown, rows: report.NewLive(w, a.style(w))}
			os := []tracer.TraceOptions{o}
			for _, pid := range pids[min(1, len(pids)):] {
				o.PID = pid
				o.Started, _ = a.view.StartTime(event.TID(pid))
				os = append(os, o)
			}
			return a.runTrace(cmd.Context(), &f, os, v)
		},
	}
	f.flags(a, cmd)
	fl.flags(cmd)
	sf.flags(cmd, "what is suspicious or open, and the summary")
	a.straceHabits(cmd)
	cmd.Flags().StringArrayVarP(&env, "env", "E", nil, "`VAR=VALUE`: of a launched command, add this to its environment; VAR: take it out")
	cmd.Flags().BoolVarP(&summaryOnly, "summary-only", "c", false, "print no calls, only the summary and what was found")
	cmd.Flags().BoolVar(&live, "live", false, "print the calls as they happen, with -o too")
	cmd.MarkFlagsMutuallyExclusive("live", "summary-only")
	cmd.Flags().DurationVar(&last, "for", 0, "end the trace after this time, such as 5s")
	return cmd
}

// withEnv changes an environment as strace -E does.
func withEnv(environ, changes []string) []string {
	for _, c := range changes {
		name, _, set := strings.Cut(c, "=")
		environ = slices.DeleteFunc(environ, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		if set {
			environ = append(environ, c)
		}
	}
	return environ
}

// traceView is what is shown of a trace.
type traceView struct {
	a      *app
	filter analyze.Filter
	w      io.Writer
	live   bool
	shown  []string
	mu     sync.Mutex // of rows, where several are followed
	rows   *report.LiveWriter
}

// followed is what is known of one process that is traced.
type followed struct {
	o        tracer.TraceOptions
	an       *analyze.Analysis
	tables   *analyze.Tables
	attached bool
	out      tracer.Outcome
	err      error
}

// follow prepares to follow a process.
func (v *traceView) follow(o tracer.TraceOptions, rec *recorder) *followed {
	t := &followed{o: o, an: analyze.New()}
	t.tables = t.an.Tables(v.filter)
	t.o.Emit = func(ev event.Event) error {
		mark := t.an.Add(ev)
		t.tables.Add(ev, mark)
		if call, ok := ev.(*event.Syscall); ok && v.live && v.filter.Match(call, mark) {
			v.mu.Lock()
			err := v.rows.Add(call, mark)
			v.mu.Unlock()
			if err != nil {
				return fmt.Errorf("print: %w", err)
			}
		}
		return rec.write(ev)
	}
	t.o.Attached = func() { t.attached = true }
	return t
}

// runTrace follows processes, side by side where there are several.
func (a *app) runTrace(ctx context.Context, f *follow, os []tracer.TraceOptions, v *traceView) error {
	rec, err := a.newRecorder(f.output)
	if err != nil {
		return err
	}
	ctx, signalled := untilSignal(ctx, os[0].PID == 0)
	all := make([]*followed, len(os))
	var group sync.WaitGroup
	for i, o := range os {
		t := v.follow(o, rec)
		all[i] = t
		done := f.keeper(&t.o)
		group.Go(func() {
			func() {
				defer tracer.AsError(&t.err)
				t.out, t.err = tracer.Trace(ctx, t.o)
			}()
			done(t.err)
		})
	}
	group.Wait()
	sig := signalled()
	attached := false
	for _, t := range all {
		attached = attached || t.attached
		if len(all) == 1 {
			err = t.err
		}
	}
	if err = errors.Join(err, v.rows.Flush(), rec.end(attached)); err != nil {
		return err
	}
	code := exitNothing
	var diagnoses []*analyze.Diagnosis
	for _, t := range all {
		if t.err != nil {
			a.say("%v", t.err)
			code = exitTrouble
			continue
		}
		a.sayIfNone(t.tables, &v.filter)
		d := t.an.Diagnosis()
		diagnoses = append(diagnoses, d)
		if err := v.end(f, d, t.tables); err != nil {
			return err
		}
	}
	if len(all) > 1 {
		return worst(code, diagnoses)
	}
	return f.outcome(&all[0].o, all[0].out, sig, diagnoses[0])
}

// end shows what came of it.
func (v *traceView) end(f *follow, d *analyze.Diagnosis, tables *analyze.Tables) error {
	style := v.a.style(v.w)
	if _, err := fmt.Fprintln(v.w); err != nil {
		return err
	}
	if len(v.shown) > 0 {
		return errors.Join(report.Text(v.w, d, style), report.Tables(v.w, tables, v.shown, report.FormatTable, style))
	}
	more := "More: --show calls,summary,fds, or --all."
	if f.output != "" && !isStdout(f.output) {
		more = "More: whosefd table " + report.Clean(f.output)
	}
	return report.Overview(v.w, d, tables, more, style)
}
