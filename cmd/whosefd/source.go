package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"whosefd/analyze"
	"whosefd/analyze/straceio"
	"whosefd/tracer/event"
)

// ourOutput is how JSON of ours begins; what is recorded is the one with events.
var ourOutput = regexp.MustCompile(`^[\s\[]*\{\s*(?:"type":\s*"session",\s*)?"schema":\s*"whosefd\.(\w+)/v`)

// isSource says whether an argument names files to be read rather than a
// process; "-" is standard input.
func isSource(arg string) bool {
	return arg == "-" || isFile(arg) || strings.TrimLeft(arg, "0123456789") != "" && len(threadFiles(arg)) > 0
}

// inputs gives the files that a command is to read, and whether there are any,
// rather than a process to look at: those in its arguments, or a file on standard
// input. A pipe there may be anybody's, and is read where "-" says so.
func (a *app) inputs(t *target, args []string) ([]string, bool) {
	if len(t.pids) > 0 {
		return nil, false
	}
	if len(args) == 0 {
		f, ok := a.in.(*os.File)
		if !ok {
			return nil, false
		}
		st, err := f.Stat()
		return []string{"-"}, err == nil && st.Mode().IsRegular()
	}
	return args, isSource(args[0])
}

// threadFiles gives the files of strace -ff by their prefix, in the order of
// the threads.
func threadFiles(prefix string) []string {
	dir, base := filepath.Split(prefix)
	entries, err := os.ReadDir(filepath.Join(".", dir))
	if filepath.IsAbs(dir) {
		entries, err = os.ReadDir(dir)
	}
	if err != nil || base == "" {
		return nil
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), base+".") && threadOf(e.Name()[len(base):]) != 0 {
			names = append(names, dir+e.Name())
		}
	}
	slices.SortFunc(names, func(x, y string) int { return int(threadOf(x)) - int(threadOf(y)) })
	return names
}

// threadOf is the thread that the name of a file of strace -ff ends with: LOG.12,
// also LOG.12.gz; 0 where it has none.
func threadOf(name string) event.TID {
	if ext := filepath.Ext(name); slices.Contains([]string{".gz", ".zst", ".xz", ".bz2"}, ext) {
		name = strings.TrimSuffix(name, ext)
	}
	n, err := strconv.ParseInt(name[strings.LastIndexByte(name, '.')+1:], 10, 32)
	if err != nil || n <= 0 || !strings.Contains(name, ".") {
		return 0
	}
	return event.TID(n)
}

// readSource gives each event of a recording or of a log of strace; for a log,
// also how often there were calls that have no event. One that was cut off is
// used as far as it goes, and that is said. An event is valid during the call.
func (a *app) readSource(names []string, each func(event.Event)) ([]straceio.Count, error) {
	if len(names) == 1 && names[0] != "-" {
		if _, err := os.Stat(names[0]); errors.Is(err, os.ErrNotExist) {
			if files := threadFiles(names[0]); len(files) > 0 {
				return a.readThreads(files, each)
			}
		}
	}
	if len(names) > 1 {
		return a.readThreads(names, each)
	}
	name := names[0]
	f, err := a.openInput(name)
	if err != nil {
		return nil, err
	}
	defer f.close()
	br := bufio.NewReaderSize(f, straceio.SniffSize)
	beginning, err := br.Peek(straceio.SniffSize)
	if len(beginning) == 0 && err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if m := ourOutput.FindSubmatch(beginning); m != nil && string(m[1]) != "recording" {
		return nil, fmt.Errorf("%s: it is a result of whosefd (whosefd.%s), with no events to look at: those are in what -o records", name, m[1])
	}
	switch format, why := straceio.Sniff(beginning); format {
	case straceio.Recording:
		return nil, a.readRecording(name, f, br, each)
	case straceio.Unknown:
		return nil, fmt.Errorf("%s: line 1: neither a recording of whosefd nor a log of strace: %s", name, why)
	}
	return a.readLog(name, []*input{f}, each, straceio.Input{Reader: br})
}

// readThreads reads the files of strace -ff.
func (a *app) readThreads(names []string, each func(event.Event)) ([]straceio.Count, error) {
	var files []*input
	var in []straceio.Input
	defer func() {
		for _, f := range files {
			f.close()
		}
	}()
	for _, name := range names {
		if !isFile(name) && a.isProcess(name) {
			return nil, fmt.Errorf("%s is a process, not a file: look at files and at processes in runs of their own", name)
		}
	}
	for _, name := range names {
		tid := threadOf(filepath.Base(name))
		if tid == 0 {
			return nil, fmt.Errorf("%s: several files are read only of strace -ff, whose names end in the number of a thread", name)
		}
		f, err := a.openInput(name)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
		in = append(in, straceio.Input{Reader: f, Name: name, TID: tid})
	}
	return a.readLog("", files, each, in...)
}

// readLog reads a log of strace.
func (a *app) readLog(name string, files []*input, each func(event.Event), in ...straceio.Input) ([]straceio.Count, error) {
	r := straceio.NewReader(in...)
	n := 0
	for ; ; n++ {
		ev, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return r.Counts(), nil
		case n > 0 && errors.Is(err, io.ErrUnexpectedEOF):
			for _, f := range files {
				f.close()
			}
			a.sayCut(name, errors.New("the compressed data is cut off"))
			return r.Counts(), nil
		case err != nil && name != "":
			return nil, fmt.Errorf("%s: %w", name, err)
		case err != nil:
			return nil, err
		}
		each(ev)
	}
}

// readRecording reads a recording.
func (a *app) readRecording(name string, f *input, from io.Reader, each func(event.Event)) error {
	// Each event is garbage once it was looked at, and little else is kept:
	// collecting it less often costs a few megabytes.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	n := 0
	for ev, err := range event.Ahead(event.NewReader(from).Next) {
		switch {
		case errors.Is(err, io.EOF) && n > 0:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%s: empty: not a recording", name)
		case n > 0 && (errors.Is(err, event.ErrCut) || errors.Is(err, io.ErrUnexpectedEOF)):
			f.close() // its progress bar makes room
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = errors.New("the compressed data is cut off")
			}
			a.sayCut(name, err)
			return nil
		case err != nil:
			return fmt.Errorf("%s: %w", name, err)
		}
		if _, ok := ev.(*event.Session); n == 0 && !ok {
			return fmt.Errorf("%s: line 1: not a recording: it begins with a %s line, not with a session line", name, ev.Type())
		}
		each(ev)
		n++
	}
	return nil
}

// sayCut says that a file ends early, and is used all the same.
func (a *app) sayCut(name string, why error) {
	if name != "" {
		name += ": "
	}
	a.say("%s%v; what is before it counts", name, why)
}

// addCounts adds the calls of a log that have no event to the tables.
func addCounts(tables *analyze.Tables, counts []straceio.Count) {
	for _, c := range counts {
		tables.AddCounted(analyze.SummaryRow{Name: c.Name, Calls: c.Calls, Errors: c.Errors, TotalUS: c.TotalUS, MaxUS: c.MaxUS})
	}
}
