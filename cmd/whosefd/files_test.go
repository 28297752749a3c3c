package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"whosefd/tracer/event"
)

// A recording reads the same whether it is compressed or not, and one that was
// cut off counts as far as it goes.
func TestCompressedRecordings(t *testing.T) {
	t.Parallel()
	const calls = 200_000
	magic := map[string]string{"plain.jsonl": `{"type"`, "a.jsonl.gz": "\x1f\x8b", "a.jsonl.zst": "\x28\xb5\x2f\xfd"}
	for name, begin := range magic {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), name)
			rec, err := (&app{}).newRecorder(file)
			if err != nil {
				t.Fatal(err)
			}
			write := func(ev event.Event) {
				if err := rec.write(ev); err != nil {
					t.Fatal(err)
				}
			}
			write(&event.Session{Schema: event.Schema, Tool: "test"})
			for i := range calls {
				write(&event.Syscall{T: event.Micros(i), PID: 1, TID: 1, Name: "openat", Path: event.Text(fmt.Sprint("/a/", i*i))})
			}
			if err := rec.end(true); err != nil {
				t.Fatal(err)
			}
			if n, warned, err := readBack(t, file); err != nil || n != calls+1 || warned != "" {
				t.Errorf("%d events, %q, %v", n, warned, err)
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(data, []byte(begin)) {
				t.Errorf("begins with %q", data[:8])
			}
			// The name does not matter, and half of it is still good for something.
			other := filepath.Join(t.TempDir(), "renamed")
			if err := os.WriteFile(other, data[:len(data)*2/3], 0o600); err != nil {
				t.Fatal(err)
			}
			n, warned, err := readBack(t, other)
			if err != nil || n < calls/4 || n > calls || !strings.Contains(warned, "cut off") || strings.Count(warned, "\n") != 1 {
				t.Errorf("cut off: %d events, %q, %v", n, warned, err)
			}
			// A damaged one is not taken for a good one.
			data[len(data)/2] ^= 0xff
			data[len(data)/2+1] ^= 0xff
			if err := os.WriteFile(other, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if n, _, err := readBack(t, other); err == nil {
				t.Errorf("damaged: %d events and no error", n)
			}
		})
	}
}

// readBack counts the events of a file.
func readBack(t *testing.T, file string) (n int, warned string, err error) {
	t.Helper()
	var stderr bytes.Buffer
	a := &app{err: &stderr, terminal: func(any) int { return 0 }}
	_, err = a.readSource([]string{file}, func(event.Event) { n++ })
	return n, stderr.String(), err
}

// Progress is shown on a terminal only, and leaves nothing behind.
func TestProgress(t *testing.T) {
	t.Parallel()
	var to bytes.Buffer
	p := &progress{Reader: strings.NewReader(strings.Repeat("x", 1000)), to: &to, name: "log\x1b[31m", size: 1000}
	if _, err := p.Read(make([]byte, 430)); err != nil {
		t.Fatal(err)
	}
	shown := to.String()
	if !strings.Contains(shown, "43%") || strings.Contains(shown, "\x1b[31m") {
		t.Errorf("%q", shown)
	}
	p.clear()
	if end := to.String()[len(shown):]; strings.Trim(end[strings.LastIndex(end, "\r"):], "\r ") != "" {
		t.Errorf("left behind: %q", end)
	}
}
