package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"whosefd/analyze"
	"whosefd/analyze/report"
	"whosefd/analyze/straceio"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// filterFlags choose calls.
type filterFlags struct {
	calls, paths []string
	fds, tids    []int
	findings     bool
	failed       bool
	expr         string
}

// choosingCalls are the flags that choose calls, and choosing those that choose
// descriptors too.
var (
	choosingCalls = []string{"call", "tid", "failed", "filter"}
	choosing      = append([]string{"path", "fd", "findings"}, choosingCalls...)
)

func (f *filterFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.calls, "call", "e", nil, "only these `calls`: names, patterns (open*, /regexp), classes (%file, %desc, %stat), with commas between; !… all others")
	completeList(cmd, "call", func() []string {
		names, _ := decode.Choose([]string{"%all"}) // means some
		return append([]string{"%file", "%desc", "%stat"}, names...)
	})
	cmd.Flags().StringSliceVarP(&f.paths, "path", "P", nil, "only calls whose name or target holds this text, or matches this pattern (*.so*)")
	cmd.Flags().IntSliceVar(&f.fds, "fd", nil, "only calls on these descriptors")
	cmd.Flags().IntSliceVar(&f.tids, "tid", nil, "only calls of these threads")
	cmd.Flags().BoolVarP(&f.failed, "failed", "Z", false, "only calls that failed")
	cmd.Flags().BoolVar(&f.findings, "findings", false, "only suspicious calls")
	f.exprFlag(cmd)
}

// exprFlag adds --filter, with which all of the others can be said.
func (f *filterFlags) exprFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.expr, "filter", "", `only calls for which this is true: 'call == "openat" && path =~ "^/proc/" && errno != "" && dur > 1ms'; with && || ! == < in, =~ (a regular expression), and of `+
		strings.Join(analyze.CallFields, ", "))
}

func (f *filterFlags) filter() (out analyze.Filter, err error) {
	out = analyze.Filter{Paths: f.paths, Findings: f.findings, Failed: f.failed}
	if out.Calls, err = chosenCalls(f.calls); err != nil {
		return out, err
	}
	if f.expr != "" {
		if out.Expr, err = analyze.CallExpr(f.expr); err != nil {
			return out, fmt.Errorf("--filter: %w", err)
		}
	}
	for _, fd := range f.fds {
		if fd < 0 || fd > math.MaxInt32 {
			return out, fmt.Errorf("--fd %d: not a descriptor", fd)
		}
		out.FDs = append(out.FDs, event.FD(fd))
	}
	for _, tid := range f.tids {
		if tid <= 0 || tid > math.MaxInt32 {
			return out, fmt.Errorf("--tid %d: not a thread id", tid)
		}
		out.TIDs = append(out.TIDs, event.TID(tid))
	}
	return out, nil
}

// chosenCalls are the calls that --call means, or strace's -e, whose trace= may
// stand before them.
func chosenCalls(given []string) ([]string, error) {
	var patterns []string
	for _, g := range given {
		what, rest, found := strings.Cut(g, "=")
		switch {
		case !found:
			patterns = append(patterns, strings.Split(g, ",")...)
		case what == "trace" || what == "t":
			patterns = append(patterns, strings.Split(rest, ",")...)
		case !slices.Contains(straceAnyway, what) && !slices.Contains(straceAnyway, g):
			return nil, fmt.Errorf("--call %q: %w", g, qualifierError(what))
		}
	}
	names, err := decode.Choose(patterns)
	if err != nil {
		return nil, fmt.Errorf("--call %w", err)
	}
	return names, nil
}

// sayIfNone says that a filter let nothing through, which an empty table does not,
// or that it could not be applied.
func (a *app) sayIfNone(t *analyze.Tables, f *analyze.Filter) {
	if err := f.Expr.Err(); err != nil {
		a.say("--filter: some calls were left out, since it has no value there: %v", err)
	}
	if chosen, of := t.Chosen(); chosen == 0 && of > 0 {
		a.say("none of the %d calls is one that was asked for", of)
	}
}

func (a *app) table() *cobra.Command {
	var (
		fl     filterFlags
		rf     redactFlags
		format string
		sf     showFlags
		rows   int
	)
	cmd := &cobra.Command{
		Use:   "table [FILE…]",
		Short: "Print the tables of a recording or a log of strace: calls, summary by call, descriptors",
		Long: `Prints tables of a recording made with -o, or of a log of strace; of strace -ff
give the prefix, or all files. Calls that whosefd does not decode are in the
summary only. Without a FILE, standard input is read.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && a.terminal(a.in) > 0 {
				return errors.New("which file? Give a recording or a log of strace, as an argument or on standard input")
			} else if len(args) == 0 {
				args = []string{"-"}
			}
			filter, err := fl.filter()
			if err != nil {
				return err
			}
			if rows < 1 || rows > maxRows {
				return fmt.Errorf("--rows %d: not from 1 to %d", rows, maxRows)
			}
			filter.Rows, filter.Fold = rows, slices.Contains([]string{"table", "text", "markdown"}, format)
			shown, err := sf.names()
			if err != nil {
				return err
			}
			if format == "strace" || format == "chrome" {
				if err := without(cmd, "means nothing with --format "+format+", which is always of all calls; --filter chooses some", "rows", "show", "all"); err != nil {
					return err
				}
			}
			var calls *callWriter
			if !filter.Fold && !cmd.Flags().Changed("rows") && (len(shown) == 0 || slices.Contains(shown, "calls")) {
				filter.Each = func(call *event.Syscall, mark analyze.Mark) { calls.add(call, mark) }
			}
			// Little is kept: collecting garbage less often costs some 3 MB, and saves
			// a twentieth of the time.
			defer debug.SetGCPercent(debug.SetGCPercent(300))
			an := analyze.New()
			tables := an.Tables(filter)
			if filter.Each != nil {
				calls = newCallWriter(a.out, format, tables, shown)
			}
			var found []analyze.Finding
			from, err := a.files(args, &rf, fl.findings)
			if err != nil {
				return err
			}
			if fl.findings { // what is suspicious about a call may come out only later
				first := analyze.New()
				if _, err := from.read(func(ev event.Event) { first.Add(ev) }); err != nil {
					return err
				}
				found = first.Diagnosis().Findings
			}
			var lost []string
			counts, err := from.read(func(ev event.Event) {
				mark := an.Add(ev)
				if mark == (analyze.Mark{}) {
					mark = analyze.MarkOf(ev, found)
				}
				tables.Add(ev, mark)
				if _, ok := ev.(*event.Syscall); calls != nil && !ok {
					calls.add(ev, mark)
				}
				if l, ok := ev.(*event.Lost); ok && len(lost) < maxLost && !slices.Contains(lost, l.Reason) {
					lost = append(lost, l.Reason)
				}
			})
			if err != nil {
				return err
			}
			addCounts(tables, counts)
			a.sayIfNone(tables, &filter)
			err = a.paged(func(w io.Writer) error {
				if calls != nil {
					return calls.end()
				}
				if len(shown) == 0 && report.Format(format) == report.FormatTable && a.terminal(a.out) > 0 {
					if err := report.Verdict(w, an.Diagnosis(), a.style(w)); err != nil {
						return err
					}
				}
				return report.Tables(w, tables, shown, report.Format(format), a.style(w))
			})
			a.noteTables(format, shown)
			for _, reason := range lost {
				a.say("%s", reason)
			}
			if format == "strace" || format == "chrome" {
				a.sayUncounted(counts)
			} else if !filter.Fold { // a program's input: the text says it itself
				_, cut := tables.Calls()
				a.sayLeftOut("the latest %d of %d calls", "rows", shown, "calls", int64(rows), cut)
				closed, merged := tables.Closed()
				a.sayLeftOut("the latest %d of %d closed descriptors, the others as a sum", "rows", shown, "fds", closed, merged)
			}
			if err == nil && len(found) > 0 {
				return exit{code: exitFindings}
			}
			return err
		},
	}
	fl.flags(cmd)
	cmd.Flags().IntVar(&rows, "rows", analyze.DefaultRows, "show at most this many calls, and as many closed descriptors, the latest; csv, json and jsonl have all calls without it")
	formatFlag(cmd, &format, "table", "text", "json", "jsonl", "markdown", "csv", "strace", "chrome")
	cmd.Flags().Lookup("format").Usage += "; strace is the text that strace -f -ttt -T -y writes, chrome a trace for Perfetto and chrome://tracing, both of all calls"
	sf.flags(cmd, "all")
	rf.flags(cmd)
	return cmd
}

// callWriter writes calls as they come, however many they are.
type callWriter struct {
	add func(event.Event, analyze.Mark)
	end func() error
}

// newCallWriter is for the formats of other tools, and those of tables for programs: then
// the tables that are shown beside the calls, all if none is named, follow at the end.
func newCallWriter(to io.Writer, format string, tables *analyze.Tables, shown []string) *callWriter {
	w := bufio.NewWriterSize(to, 1<<16)
	var err error // the first is the one
	var add func(event.Event, analyze.Mark) error
	var end func() error
	switch format {
	case "strace":
		s := straceio.NewWriter(w)
		add, end = func(ev event.Event, _ analyze.Mark) error { return s.Write(ev) }, s.Close
	case "chrome":
		c := report.NewChrome(w)
		add, end = c.Add, c.Close
	default:
		s := report.NewCallStream(w, report.Format(format), tables)
		add = func(ev event.Event, mark analyze.Mark) error {
			if call, ok := ev.(*event.Syscall); ok {
				s.Add(call, mark)
			}
			return nil
		}
		if len(shown) == 0 {
			shown = report.Names
		}
		end = func() error { return s.End(shown) }
	}
	return &callWriter{
		add: func(ev event.Event, mark analyze.Mark) {
			if err == nil {
				err = add(ev, mark)
			}
		},
		end: func() error {
			if err == nil {
				err = end()
			}
			return errors.Join(err, w.Flush())
		},
	}
}

// maxLost bounds the reasons that are told why the tables are not complete.
const maxLost = 32

// maxRows bounds the memory that a table may need.
const maxRows = 10_000_000

// showFlags choose tables.
type showFlags struct {
	which []string
	all   bool
}

func (s *showFlags) flags(cmd *cobra.Command, otherwise string) {
	cmd.Flags().StringSliceVar(&s.which, "show", nil, "which tables: "+strings.Join(report.Names, ", ")+" (default: "+otherwise+")")
	cmd.Flags().BoolVar(&s.all, "all", false, "show all tables")
	cmd.MarkFlagsMutuallyExclusive("show", "all")
	completeList(cmd, "show", func() []string { return report.Names })
}

func (s *showFlags) names() ([]string, error) {
	if s.all {
		return report.Names, nil
	}
	return tableNames(s.which)
}

// sayLeftOut says what a format for programs leaves out of a table, if that is shown, and
// which flag gives all of it.
func (a *app) sayLeftOut(what, flag string, shown []string, table string, rows, cut int64) {
	if cut == 0 || len(shown) > 0 && !slices.Contains(shown, table) {
		return
	}
	gives := "all of them"
	if rows+cut > maxRows {
		gives = "the most that there can be"
	}
	a.say("only "+what+": --%s %d gives %s", rows, rows+cut, flag, min(rows+cut, maxRows), gives)
}

// sayUncounted says which calls of a log a format of another tool leaves out: of those
// that are not decoded only their number is known.
func (a *app) sayUncounted(counts []straceio.Count) {
	var calls int64
	var names []string
	for _, c := range counts {
		calls += c.Calls
		names = append(names, c.Name)
	}
	if calls > 0 {
		a.say("%d calls are left out, which are only counted (%s): --show summary, in another format, has their numbers", calls, strings.Join(names, ", "))
	}
}

// noteTables says what would surprise a program that reads CSV.
func (a *app) noteTables(format string, names []string) {
	if format == "csv" && len(names) != 1 {
		a.note("these are several tables, each with a head of its own, and an empty line between; --show calls, summary or fds gives one")
	}
}

// tableNames checks the names of tables; none means all.
func tableNames(which []string) ([]string, error) {
	for _, name := range which {
		if !slices.Contains(report.Names, name) {
			return nil, fmt.Errorf("--show %q: not one of %s", name, strings.Join(report.Names, ", "))
		}
	}
	return which, nil
}
