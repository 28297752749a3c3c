package main

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/schollz/progressbar/v3"
	"github.com/ulikunitz/xz"

	"whosefd/analyze/report"
	"whosefd/tracer/event"
)

// input is a file that is read once, unpacked where it is compressed.
type input struct {
	io.Reader
	closers []func()
}

func (in *input) close() {
	for len(in.closers) > 0 {
		last := len(in.closers) - 1
		in.closers[last]()
		in.closers = in.closers[:last]
	}
}

// openInput opens a file to be read; "-" is standard input. What is compressed
// with gzip (RFC 1952), zstd (RFC 8878), xz or bzip2 is unpacked, whatever its name says.
// If it takes long, its progress is shown on a terminal.
func (a *app) openInput(name string) (*input, error) {
	in := &input{Reader: a.in}
	if name != "-" {
		f, err := os.Open(name)
		if errors.Is(err, os.ErrNotExist) && a.isProcess(name) {
			return nil, fmt.Errorf("%s: there is no such file; if the process is meant: whosefd explain, or whosefd trace -o FILE for a record of its calls", name)
		} else if err != nil {
			return nil, err
		}
		in.Reader = f
		in.closers = append(in.closers, func() { _ = f.Close() })
		st, err := f.Stat()
		if err == nil && st.IsDir() {
			in.close()
			return nil, fmt.Errorf("%s: is a directory", name)
		}
		if err == nil && st.Mode().IsRegular() && a.terminal(a.err) > 0 {
			p := &progress{Reader: f, to: a.err, name: name, size: st.Size(), shown: time.Now().Add(progressAfter)}
			in.Reader = p
			in.closers = append(in.closers, p.clear)
		}
	}
	if err := in.unpack(); err != nil {
		in.close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return in, nil
}

// compression is a way in which files are compressed.
type compression struct {
	name, magic string
	command     string // that unpacks the first file into the second
}

// compressions are known by how a file begins.
var compressions = []compression{
	{"gzip", "\x1f\x8b", "gzip -dc %s >%s"},
	{"bzip2", "BZh", "bzip2 -dc %s >%s"},
	{"xz", "\xfd7zXZ\x00", "xz -dc %s >%s"},
	{"zstd", "\x28\xb5\x2f\xfd", "zstd -d %s -o %s"},
	{"lz4", "\x04\x22\x4d\x18", "lz4 -d %s %s"},
}

// compressionOf tells it by the first bytes of a file; nil for none.
func compressionOf(beginning []byte) *compression {
	for i := range compressions {
		digit := len(beginning) > 3 && '1' <= beginning[3] && beginning[3] <= '9' // the block's size
		if bytes.HasPrefix(beginning, []byte(compressions[i].magic)) && (compressions[i].name != "bzip2" || digit) {
			return &compressions[i]
		}
	}
	return nil
}

// unpack looks at the first bytes for the magic number of a compression.
func (in *input) unpack() error {
	br := bufio.NewReader(in.Reader)
	in.Reader = br
	magic, err := br.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	packed := compressionOf(magic)
	if packed == nil {
		return nil
	}
	switch packed.name {
	case "gzip":
		z, err := gzip.NewReader(br)
		if err != nil {
			return fmt.Errorf("unpack gzip: %w", err)
		}
		in.Reader = z
	case "bzip2":
		in.Reader = bzip2.NewReader(br)
	case "xz":
		z, err := xz.NewReader(br)
		if err != nil {
			return fmt.Errorf("unpack xz: %w", err)
		}
		in.Reader = z
	case "zstd":
		z, err := zstd.NewReader(br, zstd.WithDecoderMaxMemory(maxWindow), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return err
		}
		in.Reader = z
		in.closers = append(in.closers, z.Close)
	default:
		return fmt.Errorf("it is compressed by %s; unpack it first: "+packed.command, packed.name, "FILE", "UNPACKED")
	}
	return nil
}

// maxWindow bounds the memory for unpacking zstd, in bytes: what zstd(1) itself
// accepts without being asked.
const maxWindow = 128 << 20

// progressAfter is how long reading may take before its progress is shown.
const progressAfter = time.Second

// progress shows how much of a file has been read.
type progress struct {
	io.Reader
	to    io.Writer
	name  string
	size  int64 // bytes
	done  int64 // bytes
	shown time.Time
	bar   *progressbar.ProgressBar
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	p.done += int64(n)
	if p.bar == nil && time.Now().After(p.shown) {
		p.bar = progressbar.NewOptions64(p.size, progressbar.OptionSetWriter(p.to), progressbar.OptionShowBytes(true),
			progressbar.OptionSetDescription("reading "+report.Clean(p.name)), progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish(), progressbar.OptionSetWidth(20))
	}
	if p.bar != nil {
		_ = p.bar.Set64(min(p.done, p.size)) // only a picture
	}
	return n, err
}

func (p *progress) clear() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}

// outputFile is a file that only its owner can read. What was in it stays until
// something is written.
type outputFile struct {
	*os.File
	name string
	made bool // it was not there before
	used bool
}

// createOutput makes a file, or opens one to write over it. It follows no
// symbolic link and writes over nothing but a regular file.
func createOutput(name string) (*outputFile, error) {
	if err := checkOutput(name); err != nil {
		return nil, err
	}
	_, err := os.Lstat(name)
	o := &outputFile{name: name, made: errors.Is(err, os.ErrNotExist)}
	if o.File, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE|openNoFollow, 0o600); err != nil {
		return nil, err
	}
	st, err := o.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", name)
	}
	if err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

func (o *outputFile) Write(b []byte) (int, error) {
	if !o.used {
		o.used = true
		if err := o.Truncate(0); err != nil {
			return 0, err
		}
	}
	return o.File.Write(b)
}

// discard closes the file, which is then as it was before if nothing was
// written.
func (o *outputFile) discard() error {
	err := o.Close()
	if o.made && !o.used {
		err = errors.Join(err, os.Remove(o.name))
	}
	return err
}

// isStdout says that a name after -o means standard output.
func isStdout(name string) bool {
	return slices.Contains([]string{"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"}, name)
}

// checkOutput says whether replaceOutput could write a file, as far as that can be
// seen without doing it.
func checkOutput(name string) error {
	if isStdout(name) {
		return nil
	}
	switch st, err := os.Lstat(name); {
	case err == nil && st.Mode()&os.ModeSymlink != 0:
		return fmt.Errorf("%s: is a symbolic link", name)
	case err == nil && st.IsDir():
		return fmt.Errorf("%s: is a directory", name)
	case err == nil && !st.Mode().IsRegular():
		return fmt.Errorf("%s: not a regular file", name)
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return err
	}
	_, err := os.Stat(filepath.Dir(name))
	return err
}

// replaceOutput writes a file that only its owner can read, whole or not at
// all: under another name, which then takes the place of name. Like
// createOutput it follows no symbolic link and replaces nothing but a regular
// file.
func replaceOutput(name string, data []byte) (err error) {
	if err := checkOutput(name); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// recorder writes events to a file, compressed if its name ends in .gz or .zst.
type recorder struct {
	name string
	file *outputFile // nil if it goes elsewhere
	bw   *bufio.Writer
	w    *event.Writer
	pack io.Closer // ends the compression; nil without
}

// newRecorder creates the file; a nil recorder, for no name, takes events and
// keeps nothing.
func (a *app) newRecorder(name string) (*recorder, error) {
	if name == "" {
		return nil, nil
	}
	if isStdout(name) {
		return packing(name, a.out)
	}
	f, err := createOutput(name)
	if err != nil {
		return nil, err
	}
	r, err := packing(name, f)
	if err != nil {
		return nil, errors.Join(err, f.discard())
	}
	r.file = f
	return r, nil
}

// packing writes to w, compressed as the name says.
func packing(name string, w io.Writer) (*recorder, error) {
	r := &recorder{name: name}
	switch {
	case strings.HasSuffix(name, ".gz"):
		z := gzip.NewWriter(w)
		r.pack, w = z, z
	case strings.HasSuffix(name, ".xz"), strings.HasSuffix(name, ".bz2"):
		return nil, fmt.Errorf("%s: recordings are compressed as .gz or .zst", name)
	case strings.HasSuffix(name, ".zst"):
		z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		r.pack, w = z, z
	}
	r.bw = bufio.NewWriterSize(w, 1<<20)
	r.w = event.NewWriter(r.bw)
	return r, nil
}

func (r *recorder) write(ev event.Event) error {
	if r == nil {
		return nil
	}
	if err := r.w.Write(ev); err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	return nil
}

// end closes the file. If it came to nothing that is worth keeping, the file is
// as it was before.
func (r *recorder) end(keep bool) error {
	if r == nil {
		return nil
	}
	if !keep && r.file != nil {
		return r.file.discard()
	}
	return r.close()
}

func (r *recorder) close() error {
	err := r.bw.Flush()
	if r.pack != nil {
		err = errors.Join(err, r.pack.Close())
	}
	if r.file != nil {
		err = errors.Join(err, r.file.Close())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	return nil
}

// record writes events to a file, all of them or none.
func (a *app) record(name string, events []event.Event) error {
	var buf bytes.Buffer
	r, err := packing(name, &buf)
	if err != nil {
		return err
	}
	for _, ev := range events {
		if err := r.write(ev); err != nil {
			return err
		}
	}
	if err := r.close(); err != nil {
		return err
	}
	if isStdout(name) {
		_, err := a.out.Write(buf.Bytes())
		return err
	}
	return replaceOutput(name, buf.Bytes())
}
