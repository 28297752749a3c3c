// Package straceio reads logs of strace(1) as events, so that somebody's log of
// a debugger is explained by the same analysis as a recording of our own.
//
// The format is what strace 4.26 to 7 write, with the options that change it:
// docs/STRACE-LOGS.md lists them. What a log does not tell is absent from the
// events. The package looks at no process and no file, and builds on every
// system.
package straceio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"whosefd/tracer/event"
)

// MaxLine bounds a line of a log, in bytes.
const MaxLine = 16 << 20

// Input is a log, or of strace -ff the file of one thread.
type Input struct {
	Reader io.Reader
	// Name is said in errors, if there are several.
	Name string
	// TID is the thread that the file is of, with -ff: it is the ending of the
	// file's name. 0: the lines tell, or there is but one thread.
	TID event.TID
}

// Reader reads events from a log. The first is a Session, the last an End if
// the log says how the debugger ended. A call that has not ended comes last,
// as unfinished.
type Reader struct {
	p     *parser
	start sync.Once
	in    []Input
	full  chan *batch
	empty chan *batch
	stop  chan struct{}
	once  sync.Once

	cur  *batch
	next int
	err  error
}

// NewReader reads one log, or the files of strace -ff together. They are read
// by another goroutine: Close ends that.
func NewReader(in ...Input) *Reader {
	return &Reader{p: newParser(), in: in, full: make(chan *batch, batches), empty: make(chan *batch, batches), stop: make(chan struct{})}
}

// batches is how many are on their way at most.
const batches = 3

// Next gives the next event; [io.EOF] at the end. Any other error says in which
// line, and what is before it counts. The event is valid until the next call of
// Next.
func (r *Reader) Next() (event.Event, error) {
	r.start.Do(func() {
		for range batches {
			r.empty <- new(batch)
		}
		go r.run()
	})
	for r.cur == nil || r.next == len(r.cur.items) {
		if r.err != nil {
			return nil, r.err
		}
		if r.cur != nil {
			if r.err = r.cur.err; r.err != nil {
				return nil, r.err
			}
			r.cur.reset()
			r.empty <- r.cur
		}
		r.cur, r.next = <-r.full, 0
	}
	ev := r.cur.items[r.next]
	r.next++
	return ev, nil
}

// Close ends the reading. The inputs are the caller's to close, after it.
func (r *Reader) Close() {
	r.once.Do(func() { close(r.stop) })
	started := true
	r.start.Do(func() { started = false })
	if !started || r.err != nil || r.cur != nil && r.cur.err != nil {
		return
	}
	for b := range r.full {
		if b.err != nil {
			r.err = b.err
			return
		}
	}
}

// Counts gives the calls that have no event, by name: those that whosefd does
// not decode. It is for after the end.
func (r *Reader) Counts() []Count {
	var all []Count
	for _, c := range r.p.calls.slots {
		if c != nil && c.Calls > 0 {
			all = append(all, c.Count)
		}
	}
	return all
}

var errStopped = errors.New("closed")

// run reads to the end.
func (r *Reader) run() {
	r.p.out = <-r.empty
	err := r.read()
	if err == nil {
		err = io.EOF
	}
	r.p.out.err = err
	r.full <- r.p.out
}

// flush hands the batch over if it is full.
func (r *Reader) flush() error {
	if !r.p.out.full() {
		return nil
	}
	select {
	case r.full <- r.p.out:
	case <-r.stop:
		return errStopped
	}
	select {
	case r.p.out = <-r.empty:
	case <-r.stop:
		r.p.out = new(batch)
		return errStopped
	}
	return nil
}

func (r *Reader) read() error {
	sources := make([]*source, len(r.in))
	peek := maxPeek
	if len(r.in) > 1 {
		peek = SniffSize
	}
	for i, in := range r.in {
		sources[i] = &source{in: in, buf: make([]byte, peek)}
		sources[i].fill(peek)
	}
	if err := r.p.prepare(sources); err != nil {
		return err
	}
	r.p.emit(r.p.session)
	var err error
	if len(sources) > 1 && r.p.mergeable {
		err = r.merge(sources)
	} else {
		for _, s := range sources {
			if err = r.readOne(s); err != nil {
				break
			}
		}
	}
	if errors.Is(err, errStopped) {
		return err
	}
	r.p.finishLog(func() { _ = r.flush() })
	return err
}

// readOne reads one file to its end.
func (r *Reader) readOne(s *source) error {
	p := r.p
	for {
		line, whole, err := s.line()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		p.line(line, whole, s.in.TID, where{s.name(r), s.n})
		if err := r.flush(); err != nil {
			return err
		}
	}
}

// merge reads files of strace -ff in the order of the times in them.
func (r *Reader) merge(sources []*source) error {
	p := r.p
	ahead := make([]struct {
		line  []byte
		whole bool
		at    event.Micros
	}, len(sources))
	advance := func(i int) error {
		line, whole, err := sources[i].line()
		if err != nil {
			ahead[i].line = nil
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		ahead[i].line, ahead[i].whole = line, whole
		if h, _ := cutHead(line); h.clock != clockNone {
			ahead[i].at = h.at
		}
		return nil
	}
	for i := range sources {
		if err := advance(i); err != nil {
			return err
		}
	}
	for {
		first := -1
		for i := range ahead {
			if ahead[i].line != nil && (first < 0 || ahead[i].at < ahead[first].at) {
				first = i
			}
		}
		if first < 0 {
			return nil
		}
		s := sources[first]
		p.line(ahead[first].line, ahead[first].whole, s.in.TID, where{s.name(r), s.n})
		if err := r.flush(); err != nil {
			return err
		}
		if err := advance(first); err != nil {
			return err
		}
	}
}

// source gives the lines of a file.
type source struct {
	in         Input
	buf        []byte
	start, end int
	scanned    int // bytes behind start that hold no end of a line
	n          int // lines given
	err        error
}

func (s *source) name(r *Reader) string {
	if len(r.in) == 1 {
		return ""
	}
	return s.in.Name
}

// fill reads until there are n bytes, or the end or an error has come.
func (s *source) fill(n int) {
	for s.err == nil && s.end-s.start < n && s.end < len(s.buf) {
		m, err := s.in.Reader.Read(s.buf[s.end:])
		s.end += m
		s.err = err
	}
}

// line gives the next line, without its end, valid until the next call; whole
// is false for a last line without an end.
func (s *source) line() (line []byte, whole bool, err error) {
	for {
		if n := bytes.IndexByte(s.buf[s.start+s.scanned:s.end], '\n'); n >= 0 {
			n += s.scanned
			line = s.buf[s.start : s.start+n]
			s.start += n + 1
			s.scanned = 0
			s.n++
			return line, true, nil
		}
		s.scanned = s.end - s.start
		if s.err != nil {
			if s.scanned == 0 || !errors.Is(s.err, io.EOF) {
				if errors.Is(s.err, io.EOF) {
					return nil, false, io.EOF
				}
				return nil, false, s.wrap(s.err)
			}
			line = s.buf[s.start:s.end]
			s.start, s.scanned = s.end, 0
			s.n++
			return line, false, nil
		}
		if s.scanned > MaxLine {
			return nil, false, s.wrap(fmt.Errorf("longer than %d bytes", MaxLine))
		}
		if s.start > 0 {
			copy(s.buf, s.buf[s.start:s.end])
			s.end -= s.start
			s.start = 0
		} else if s.end == len(s.buf) {
			s.buf = append(s.buf, make([]byte, len(s.buf))...)
		}
		m, err := s.in.Reader.Read(s.buf[s.end:])
		s.end += m
		s.err = err
	}
}

func (s *source) wrap(err error) error {
	if s.in.Name != "" {
		return fmt.Errorf("%s: line %d: %w", s.in.Name, s.n+1, err)
	}
	return fmt.Errorf("line %d: %w", s.n+1, err)
}
