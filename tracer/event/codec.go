package event

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
)

// MaxLine bounds a line of a recording, in bytes.
const MaxLine = 16 << 20

// Writer writes events as JSON lines. It does not buffer: give it a
// [bufio.Writer] where that matters.
type Writer struct {
	w    io.Writer
	line []byte
	buf  bytes.Buffer
	enc  *json.Encoder
}

// NewWriter writes to w.
func NewWriter(w io.Writer) *Writer {
	ew := &Writer{w: w}
	ew.enc = json.NewEncoder(&ew.buf)
	ew.enc.SetEscapeHTML(false)
	return ew
}

// Write writes one event as one line, with a single call of the underlying
// writer.
func (w *Writer) Write(ev Event) error {
	at := reflect.ValueOf(ev).UnsafePointer()
	if r := recordOf[reflect.TypeOf(ev)]; r != nil && r.fields != nil && at != nil {
		var ok bool
		if w.line, ok = r.fields.write(append(w.line[:0], r.head...), at); ok {
			w.line = append(w.line, "}\n"...)
			_, err := w.w.Write(w.line)
			return err
		}
	}
	return w.writeJSON(ev)
}

// writeJSON is Write with encoding/json: for the rare types and values.
func (w *Writer) writeJSON(ev Event) error {
	w.buf.Reset()
	w.buf.WriteString(`{"type":"` + ev.Type() + `"`)
	mark := w.buf.Len()
	if err := w.enc.Encode(ev); err != nil {
		return fmt.Errorf("encode %s event: %w", ev.Type(), err)
	}
	line := w.buf.Bytes()
	if line[mark+1] == '}' { // an event without fields
		line = append(line[:mark], "}\n"...)
	} else {
		line[mark] = ','
	}
	_, err := w.w.Write(line)
	return err
}

// Reader reads events from JSON lines.
type Reader struct {
	br   *bufio.Reader
	line int
	long []byte
	fast *parser
}

// NewReader reads from r.
func NewReader(r io.Reader) *Reader {
	return &Reader{br: bufio.NewReaderSize(r, 1<<20), fast: newParser()}
}

// ErrCut says that the last line is not complete: the recording was cut off.
var ErrCut = errors.New("the last line is cut off")

// Next gives the next event, skipping event types that it does not know and
// empty lines. At the end it returns [io.EOF]; for a last line without its end,
// an error that wraps [ErrCut]. Every other error names the line.
func (r *Reader) Next() (Event, error) {
	for {
		b, err := r.readLine()
		if err != nil {
			return nil, err
		}
		if ev := r.fast.parse(b); ev != nil {
			return ev, nil
		}
		if len(bytes.TrimSpace(b)) == 0 {
			continue
		}
		ev, err := decode(b)
		if err != nil {
			if b[len(b)-1] != '\n' {
				return nil, fmt.Errorf("line %d: %w", r.line, ErrCut)
			}
			return nil, fmt.Errorf("line %d: %w", r.line, err)
		}
		if ev != nil {
			return ev, nil
		}
	}
}

// readLine gives the next line with its newline, valid until the next call.
func (r *Reader) readLine() ([]byte, error) {
	r.line++
	b, err := r.br.ReadSlice('\n')
	if err == nil {
		return b, nil
	}
	r.long = r.long[:0]
	for errors.Is(err, bufio.ErrBufferFull) {
		r.long = append(r.long, b...)
		if len(r.long) > MaxLine {
			return nil, fmt.Errorf("line %d: longer than %d bytes", r.line, MaxLine)
		}
		b, err = r.br.ReadSlice('\n')
	}
	r.long = append(r.long, b...)
	if err != nil && (!errors.Is(err, io.EOF) || len(r.long) == 0) {
		return nil, err
	}
	return r.long, nil
}

// decode reads one line; a nil event is one of a type that is not known.
func decode(b []byte) (Event, error) {
	var head struct {
		Type *string `json:"type"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if head.Type == nil {
		return nil, errors.New(`no "type" field: not a line of a recording`)
	}
	r := recordNamed[*head.Type]
	if r == nil {
		return nil, nil
	}
	ev := r.new()
	if err := json.Unmarshal(b, ev); err != nil {
		return nil, fmt.Errorf("%s event: %w", *head.Type, err)
	}
	if s, ok := ev.(*Session); ok && s.Schema != Schema {
		return nil, fmt.Errorf("schema %q: this whosefd reads %s", s.Schema, Schema)
	}
	return ev, nil
}
