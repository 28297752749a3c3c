package straceio

import (
	"bytes"

	"whosefd/tracer/decode"
)

// Format is what sort of file something is.
type Format uint8

// The formats.
const (
	Unknown   Format = iota
	Recording        // JSON lines of our own: for event.Reader
	Strace           // a log of strace
)

// SniffSize is how much of a file's beginning Sniff should be given, in bytes;
// less only if the file is shorter.
const SniffSize = 64 << 10

// Sniff says what a file is, by its beginning; for an unknown one, why it is no
// log of strace.
func Sniff(beginning []byte) (Format, string) {
	text := bytes.TrimPrefix(beginning, []byte("\xef\xbb\xbf"))
	switch trimmed := bytes.TrimLeft(text, " \t\r\n"); {
	case len(trimmed) == 0:
		return Unknown, "it is empty"
	case trimmed[0] == '{':
		return Recording, ""
	case bytes.HasPrefix(trimmed, []byte("% time ")):
		return Unknown, "it is the summary of strace -c, which has no calls"
	case bytes.IndexByte(text, 0) >= 0:
		return Unknown, "it is binary"
	}
	calls, lines := 0, 0
	for line := range bytes.Lines(text) {
		whole := bytes.HasSuffix(line, []byte("\n"))
		line = bytes.TrimRight(line, "\r\n")
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		lines++
		if isLog(line, whole) {
			calls++
		}
	}
	// A program's own output may be between the lines.
	if calls == 0 || calls < lines/8 {
		return Unknown, "these are no system calls as strace prints them"
	}
	return Strace, ""
}

// isLog says whether a line is one of strace's. One that is not whole may end
// anywhere.
func isLog(line []byte, whole bool) bool {
	if bytes.IndexByte(line, 0x1b) >= 0 {
		line = uncolored(line)
	}
	_, body := cutHead(line)
	for _, beginning := range []string{"--- SIG", "--- stopped", "+++ exited", "+++ killed", "+++ superseded", "<... ", " > /"} {
		if bytes.HasPrefix(body, []byte(beginning)) {
			return true
		}
	}
	name, ok := callName(body)
	if !ok || !isCall(string(name)) {
		return false
	}
	_, held := cutUnfinished(body)
	return held || !whole || finished(body)
}

// isCall says whether a system call has that name, on any architecture that we
// know or in the 32-bit world.
func isCall(name string) bool {
	if _, ok := decode.ByName(name); ok {
		return true
	}
	for _, arch := range []string{"amd64", "arm64"} {
		if t, err := decode.ForArch(arch); err == nil {
			if _, ok := t.Number(name); ok {
				return true
			}
		}
	}
	switch name {
	case "stat64", "lstat64", "fstat64", "fstatat64", "mmap2", "old_mmap", "fcntl64", "_llseek", "time", "waitpid", "????", "???":
		return true
	}
	return false
}
