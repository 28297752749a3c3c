package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"runtime/debug"

	"github.com/spf13/cobra"

	"whosefd/analyze"
	"whosefd/analyze/report"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// filterFlags choose calls.
type filterFlags struct {
	calls, paths []string
	fds, tids    []int
	findings     bool
}

func (f *filterFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&f.calls, "call", nil, "only these system calls")
	cmd.Flags().StringSliceVar(&f.paths, "path", nil, "only calls whose name or target holds this text, or matches this pattern")
	cmd.Flags().IntSliceVar(&f.fds, "fd", nil, "only calls on these descriptors")
	cmd.Flags().IntSliceVar(&f.tids, "tid", nil, "only calls of these threads")
	cmd.Flags().BoolVar(&f.findings, "findings", false, "only suspicious calls")
}

func (f *filterFlags) filter() (analyze.Filter, error) {
	out := analyze.Filter{Calls: f.calls, Paths: f.paths, Findings: f.findings}
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
	return out, knownCalls(f.calls)
}

func (a *app) table() *cobra.Command {
	var (
		fl     filterFlags
		format string
		which  []string
		rows   int
	)
	cmd := &cobra.Command{
		Use:   "table FILE…",
		Short: "Print the tables of a recording or a log of strace: calls, summary by call, descriptors",
		Long: `Prints tables of a recording made with -o, or of a log of strace; of strace -ff
give the prefix, or all files. Calls that whosefd does not decode are in the
summary only.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := fl.filter()
			if err != nil {
				return err
			}
			if rows < 1 || rows > maxRows {
				return fmt.Errorf("--rows %d: not from 1 to %d", rows, maxRows)
			}
			filter.Rows = rows
			shown, err := tableNames(which)
			if err != nil {
				return err
			}
			// Little is kept: collecting garbage less often costs some 3 MB, and saves
			// a twentieth of the time.
			defer debug.SetGCPercent(debug.SetGCPercent(300))
			an, tables := analyze.New(), analyze.NewTables(filter)
			counts, err := a.readSource(args, func(ev event.Event) { tables.Add(ev, an.Add(ev)) })
			if err != nil {
				return err
			}
			addCounts(tables, counts)
			return a.showTables(tables, shown, report.Format(format))
		},
	}
	fl.flags(cmd)
	cmd.Flags().IntVar(&rows, "rows", analyze.DefaultRows, "show at most this many calls, and as many closed descriptors, the latest")
	formatFlag(cmd, &format, "table", "text", "json", "markdown", "csv")
	cmd.Flags().StringSliceVar(&which, "show", nil, "which tables: calls, summary, fds (default: all)")
	complete(cmd, "show", "calls", "summary", "fds")
	return cmd
}

// maxRows bounds the memory that a table may need.
const maxRows = 10_000_000

// oneTable are the tables that can be asked for.
var oneTable = map[string]func(io.Writer, *analyze.Tables, report.Format, report.Style) error{
	"calls": report.Calls, "summary": report.Summary, "fds": report.Descriptors,
}

// tableNames checks the names of tables; none means all.
func tableNames(which []string) ([]string, error) {
	for _, name := range which {
		if oneTable[name] == nil {
			return nil, fmt.Errorf("--show %q: not one of calls, summary, fds", name)
		}
	}
	return which, nil
}

func (a *app) showTables(t *analyze.Tables, which []string, f report.Format) error {
	if len(which) == 0 {
		return report.Tables(a.out, t, f, a.style(a.out))
	}
	if len(which) > 1 && f != report.FormatTable && f != report.FormatText && f != report.FormatMarkdown {
		return errors.New("--show: one table at a time in this format, or all")
	}
	for i, name := range which {
		if i > 0 {
			if _, err := fmt.Fprintln(a.out); err != nil {
				return err
			}
		}
		if err := oneTable[name](a.out, t, f, a.style(a.out)); err != nil {
			return err
		}
	}
	return nil
}

// knownCalls refuses the name of a call that is never shown: a slip of the
// fingers would give an empty table.
func knownCalls(names []string) error {
	for _, name := range names {
		if row, ok := decode.ByName(name); !ok || !row.Shown {
			return fmt.Errorf("--call %q: no call of that name is decoded", name)
		}
	}
	return nil
}
