// Package straceio reads logs of strace(1) as events, so that somebody's log of
// a debugger is explained by the same analysis as a recording of our own.
//
// The format is what strace 4.26 to 7 write, with the options that change it, and
// what becomes of it when it is copied from a terminal, a mail or a web page:
// docs/STRACE-LOGS.md lists both. What a log does not tell is absent from the
// events. The package looks at no process and no file, and builds on every
// system.
package straceio

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"

	"whosefd/tracer/event"
)

// MaxLine bounds a line of a log, in bytes.
const MaxLine = 16 << 20

// ahead is how far into a log is looked before its first event.
const ahead = 1 << 20

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
	in      []Input
	p       *parser
	sources []*source
	merged  bool // the files of -ff, by their times
	next    int  // event of p
	err     error
}

// NewReader reads one log, or the files of strace -ff together.
func NewReader(in ...Input) *Reader { return &Reader{in: in, p: newParser()} }

// Next gives the next event; [io.EOF] at the end. Any other error says in which
// line, and what is before it counts.
func (r *Reader) Next() (event.Event, error) {
	for r.next == len(r.p.out) {
		if r.err != nil {
			return nil, r.err
		}
		r.p.out, r.next = r.p.out[:0], 0
		if r.sources == nil {
			r.err = r.start()
			continue
		}
		if r.err = r.read(); r.err != nil {
			r.p.finishLog()
		}
	}
	r.next++
	return r.p.out[r.next-1], nil
}

// Counts gives the calls that have no event, by name: those that whosefd does
// not decode. It is for after the end.
func (r *Reader) Counts() []Count { return r.p.counts.all() }

// start looks at the beginnings of the files, and makes the session.
func (r *Reader) start() error {
	if len(r.in) == 0 {
		return errors.New("no log")
	}
	size := ahead
	if len(r.in) > 1 {
		size = SniffSize
	}
	scout, arch := newParser(), "amd64"
	scout.scouting = true
	for _, in := range r.in {
		s := &source{in: in, several: len(r.in) > 1, br: bufio.NewReaderSize(plain(in.Reader), size)}
		r.sources = append(r.sources, s)
		text, err := s.peek(size)
		if err != nil {
			return err
		}
		scout.facts.timed = false
		for line := range strings.Lines(text) {
			if strings.HasSuffix(line, "\n") || len(text) < size { // else there is more of it
				scout.line(s.bare(line), true, in.TID, place{})
				scout.out = scout.out[:0]
			}
		}
		if strings.Contains(text, "aarch64") {
			arch = "arm64"
		}
	}
	r.p.start(scout, arch)
	if c := scout.facts.clock; len(r.sources) > 1 && (c == clockUnix || c == clockDay) {
		r.merged = true
		for _, s := range r.sources {
			s.advance()
		}
	}
	return nil
}

// read reads one line.
func (r *Reader) read() error {
	s := r.sources[0]
	if r.merged {
		for _, o := range r.sources[1:] {
			if s.err != nil && errors.Is(s.err, io.EOF) || o.err == nil && o.time < s.time {
				s = o
			}
		}
	} else {
		for len(r.sources) > 1 && r.sources[0].done() {
			r.sources = r.sources[1:]
		}
		s = r.sources[0]
		s.advance()
	}
	if s.err != nil {
		return s.err
	}
	at := place{line: s.n}
	if s.several {
		at.file = s.in.Name
	}
	r.p.line(s.line, s.whole, s.in.TID, at)
	if r.merged {
		s.advance()
	}
	return nil
}

// source gives the lines of a file.
type source struct {
	in      Input
	several bool
	br      *bufio.Reader
	counted bool // lines begin with their numbers
	mail    bool // encoded as "quoted-printable"

	line  string
	whole bool // it has an end
	n     int  // its number
	time  event.Micros
	err   error
}

// plain reads a text that is marked as UTF-16, as Windows makes of a redirected
// output, as UTF-8.
func plain(r io.Reader) io.Reader {
	return transform.NewReader(r, unicode.BOMOverride(transform.Nop))
}

// peek gives the beginning of the file, once it has turned out to be a log. Of
// several, one may be empty: that of a thread that made no call.
func (s *source) peek(size int) (string, error) {
	b, err := s.br.Peek(size)
	if err != nil && !errors.Is(err, io.EOF) && len(b) == 0 {
		return "", s.wrap(err)
	}
	text := string(b)
	switch format, why := Sniff(b[:min(len(b), SniffSize)]); {
	case format == Strace, s.several && len(b) == 0:
	case format == Recording:
		return "", s.wrap(errors.New("not a log of strace: it looks like JSON"))
	default:
		return "", s.wrap(errors.New("not a log of strace: " + why))
	}
	s.counted = numbered(text)
	if s.mail = isMail(text); s.mail {
		text = unmailed(text)
	}
	return text, nil
}

// done says that there is no more line.
func (s *source) done() bool {
	_, err := s.br.Peek(1)
	return err != nil && errors.Is(err, io.EOF)
}

// advance reads the next line.
func (s *source) advance() {
	line, whole, err := s.read()
	for s.mail && err == nil && whole && strings.HasSuffix(strings.TrimRight(line, "\r"), "=") {
		var more string
		more, whole, err = s.read()
		line = strings.TrimSuffix(strings.TrimRight(line, "\r"), "=") + more
	}
	if s.mail {
		line = unmailed(line)
	}
	if s.line, s.whole, s.err = s.bare(line), whole, err; s.several {
		if h, _ := cutHead(s.line); h.clock != clockNone {
			s.time = h.at
		}
	}
}

// bare gives a line without its number.
func (s *source) bare(line string) string {
	if s.counted {
		return uncounted(line)
	}
	return line
}

// read gives a line without its end; whole is false for a last line without one.
func (s *source) read() (line string, whole bool, err error) {
	var b []byte
	for {
		piece, err := s.br.ReadSlice('\n')
		b = append(b, piece...)
		switch {
		case err == nil:
			s.n++
			return string(b[:len(b)-1]), true, nil
		case errors.Is(err, bufio.ErrBufferFull) && len(b) > MaxLine:
			return "", false, s.wrap(fmt.Errorf("longer than %d bytes", MaxLine))
		case errors.Is(err, bufio.ErrBufferFull):
		case !errors.Is(err, io.EOF):
			return "", false, s.wrap(err)
		case len(b) == 0:
			return "", false, io.EOF
		default:
			s.n++
			return string(b), false, nil
		}
	}
}

func (s *source) wrap(err error) error {
	if s.in.Name != "" {
		return fmt.Errorf("%s: line %d: %w", s.in.Name, s.n+1, err)
	}
	return fmt.Errorf("line %d: %w", s.n+1, err)
}
