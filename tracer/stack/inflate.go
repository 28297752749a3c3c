package stack

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zlib"
)

// inflater unpacks a zlib stream into memory, as far as is asked for, and goes
// on from there when more is wanted: the part of a section that a backtrace
// needs often lies near its beginning.
type inflater struct {
	in []byte
	r  io.Reader // nil before the first fill
	n  int       // bytes of output
}

var (
	errPacked = errors.New("broken packed section")
	errCut    = errors.New("packed section is cut short")
)

func newInflater(in []byte) *inflater { return &inflater{in: in} }

// fill unpacks until n bytes are there, into out, which must be the same at
// each call. It returns how many there are.
func (z *inflater) fill(out []byte, n int) (int, error) {
	if z.r == nil {
		r, err := zlib.NewReader(bytes.NewReader(z.in))
		if err != nil {
			return 0, fmt.Errorf("%w: %w", errPacked, err)
		}
		z.r = r
	}
	if n <= z.n {
		return z.n, nil
	}
	got, err := io.ReadFull(z.r, out[z.n:min(n, len(out))])
	z.n += got
	switch {
	case err == nil && z.n >= n:
		return z.n, nil
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return z.n, errCut
	}
	return z.n, fmt.Errorf("%w: %w", errPacked, err)
}
