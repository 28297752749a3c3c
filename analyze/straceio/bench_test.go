package straceio

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"whosefd/analyze"
)

// busyLog repeats what strace -y writes of a program that opens, reads and
// closes, until there are so many lines.
type busyLog struct {
	left int // lines
	rest []byte
}

var busyLines = bytes.Repeat([]byte(`openat(AT_FDCWD</home/user/logs>, "/proc/version", O_RDONLY) = 3</proc/version>
read(3</proc/version>, "Linux version 6.18.44-fc-v657 (b"..., 64) = 64
pread64(3</proc/version>, "inux ver", 8, 1) = 8
close(3</proc/version>)                 = 0
`), 1000)

func (l *busyLog) Read(b []byte) (int, error) {
	if len(l.rest) == 0 {
		if l.left <= 0 {
			return 0, io.EOF
		}
		l.rest = busyLines
		l.left -= 4000
	}
	n := copy(b, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

// BenchmarkReader is the cost of a line.
func BenchmarkReader(b *testing.B) {
	b.ReportAllocs()
	b.SetBytes(int64(len(busyLines) / 4000))
	r := NewReader(Input{Reader: &busyLog{left: b.N}})
	for {
		if _, err := r.Next(); err != nil {
			if !errors.Is(err, io.EOF) {
				b.Fatal(err)
			}
			return
		}
	}
}

// BenchmarkTables is the cost of a line with all that table does with it.
func BenchmarkTables(b *testing.B) {
	b.ReportAllocs()
	b.SetBytes(int64(len(busyLines) / 4000))
	r := NewReader(Input{Reader: &busyLog{left: b.N}})
	an := analyze.New()
	tables := an.Tables(analyze.Filter{})
	for {
		ev, err := r.Next()
		if err != nil {
			return
		}
		tables.Add(ev, an.Add(ev))
	}
}
