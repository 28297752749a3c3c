package straceio

import (
	"bytes"
	"hash/crc32"
	"hash/maphash"
	"strconv"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// shared keeps texts that come again and again, and what annotations mean, so
// that a line makes no garbage. It is bounded: an entry takes the place of
// another with the same hash.
type shared struct {
	seed    maphash.Seed
	strings [1 << 12]string
	files   [1 << 11]*file
	last    *file // the latest of files
	scratch []byte
}

// maxShared bounds the length of a text that is kept for sharing, in bytes.
const maxShared = 512

// file is what is known of the file behind a descriptor. It is never changed
// once it was made: events that are still on their way refer to its target.
type file struct {
	text   string // the annotation
	target event.Target
	// mem and stat are the process of whose memory or state it is: /proc/N/mem,
	// /proc/N/task/N/stat.
	mem, stat event.PID
	// unread: it was opened by name, and nothing has been read since.
	unread bool
}

func (s *shared) string(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if len(b) > maxShared {
		return string(b)
	}
	slot := &s.strings[maphash.Bytes(s.seed, b)%uint64(len(s.strings))]
	if *slot != string(b) {
		*slot = string(b)
	}
	return *slot
}

// text gives what an escaped text means.
func (s *shared) text(b []byte) event.Text {
	if bytes.IndexByte(b, '\\') >= 0 {
		s.scratch = unescape(s.scratch[:0], b)
		b = s.scratch
	}
	return event.Text(s.string(b))
}

// file gives the file that an annotation names.
func (s *shared) file(annotation []byte) *file {
	if s.last != nil && s.last.text == string(annotation) {
		return s.last // as of most calls in a row
	}
	slot := s.slot(annotation)
	if *slot == nil || (*slot).text != string(annotation) {
		*slot = newFile(string(annotation))
	}
	s.last = *slot
	return s.last
}

// learn keeps what was learned about the file of an annotation.
func (s *shared) learn(f *file) {
	*s.slot([]byte(f.text)) = f
	s.last = f
}

// slot is the place of an annotation's file. An entry that gives its place up
// takes with it what was learned of the file, so the hash is the same in every
// run: a log must read the same each time.
func (s *shared) slot(annotation []byte) **file {
	return &s.files[crc32.Checksum(annotation, castagnoli)%uint32(len(s.files))]
}

// castagnoli is the polynomial that CPUs have an instruction for.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// newFile says what an annotation tells: the text of the link in /proc/PID/fd
// as strace -y prints it, or the address of a socket, or with the numbers of a
// device behind it (-yy).
func newFile(annotation string) *file {
	f := &file{text: annotation}
	text, deleted := strings.CutSuffix(annotation, ">(deleted)")
	device := ""
	if strings.HasPrefix(text, "/") || strings.HasPrefix(text, `\x2f`) {
		if at := strings.LastIndexByte(text, '<'); at >= 0 {
			text, device = text[:at], strings.TrimSuffix(text[at+1:], ">")
		}
	}
	if strings.IndexByte(text, '\\') >= 0 {
		text = string(unescape(nil, []byte(text)))
	}
	f.target = event.Target{Kind: kindOf(text, device), Link: event.Text(text)}
	if deleted {
		f.target.Link += " (deleted)"
	}
	switch f.target.Kind {
	case event.Pipe, event.Socket:
		f.target.Ino = inode(text)
	case event.Procfs:
		f.mem, f.stat = procFile(text)
	}
	return f
}

// procFile says of which process a name is the memory or the state.
func procFile(name string) (mem, stat event.PID) {
	n := decode.ClassifyName(name)
	if n.Kind != decode.PIDPath || n.Root != "" {
		return 0, 0
	}
	switch n.Link {
	case "mem":
		return n.PID, 0
	case "stat":
		return 0, n.PID
	}
	return 0, 0
}

// kindOf is the kind of a file by the text of its link. Of most files with a
// name it does not tell.
func kindOf(link, device string) event.Kind {
	under := func(dirs ...string) bool {
		for _, d := range dirs {
			if strings.HasPrefix(link, d) {
				return true
			}
		}
		return false
	}
	switch {
	case under("pipe:["):
		return event.Pipe
	case under("socket:["):
		return event.Socket
	case under("anon_inode:"):
		return event.AnonInode
	case under("/memfd:"):
		return event.Memfd
	case strings.HasPrefix(device, "block "):
		return event.BlockDev
	case strings.HasPrefix(device, "char "):
		// Documentation/admin-guide/devices.txt: 4 and 5 are terminals and
		// serial lines, 136 to 143 the other side of pseudo-terminals.
		major, _, _ := strings.Cut(device[len("char "):], ":")
		if n, err := strconv.Atoi(major); err == nil && (n == 4 || n == 5 || n >= 136 && n <= 143) {
			return event.TTY
		}
		return event.CharDev
	case under("/dev/pts/", "/dev/tty", "/dev/console"):
		return event.TTY
	case link == "/dev/null", link == "/dev/zero", link == "/dev/full", link == "/dev/random", link == "/dev/urandom":
		return event.CharDev
	case under("/proc/"):
		return event.Procfs
	case socketName(link):
		return event.Socket
	}
	return event.Unknown
}

// socketName says whether -yy shows a socket: by protocol and addresses, as
// TCP:[…], UNIX-STREAM:[…] or NETLINK:[…].
func socketName(s string) bool {
	proto, _, ok := strings.Cut(s, ":[")
	return ok && proto != "" && proto[0] >= 'A' && proto[0] <= 'Z' && strings.HasSuffix(s, "]") && !strings.ContainsAny(proto, "/ ")
}

// inode is the number in the brackets: pipe:[4798], UNIX-STREAM:[28457->28461].
// It is 0 where there are addresses instead.
func inode(s string) uint64 {
	_, s, _ = strings.Cut(s, ":[")
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	if i == 0 || i == len(s) || s[i] != ']' && s[i] != ',' && !strings.HasPrefix(s[i:], "->") {
		return 0
	}
	n, err := strconv.ParseUint(s[:i], 10, 64)
	if err != nil {
		return 0
	}
	return n
}
