package straceio

import (
	"strconv"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// file is what is known of the file behind a descriptor. It is never changed
// once it was made: events refer to its target.
type file struct {
	text   string // the annotation; empty without -y
	target event.Target
	// mem and stat are the process of whose memory or state it is: /proc/N/mem,
	// /proc/N/task/N/stat.
	mem, stat event.PID
}

// maxFiles bounds the annotations that are remembered.
const maxFiles = 1 << 12

// file gives the file that an annotation names. What fstat(2) has told of it is
// remembered, as long as there are not too many.
func (p *parser) file(annotation string) *file {
	f := p.files[annotation]
	if f == nil {
		f = newFile(strings.Clone(annotation))
		p.learned(f)
	}
	return f
}

func (p *parser) learned(f *file) {
	if len(p.files) >= maxFiles {
		clear(p.files)
	}
	p.files[f.text] = f
}

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
	text = string(unescape(text))
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

// memName is the name of a process's memory.
func memName(pid event.PID) string { return "/proc/" + strconv.Itoa(int(pid)) + "/mem" }

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
		major, _, _ := strings.Cut(device[len("char "):], ":")
		if n, err := strconv.ParseUint(major, 10, 32); err == nil && decode.IsTerminal(uint32(n)) {
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
	end := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if end <= 0 || s[end] != ']' && s[end] != ',' && !strings.HasPrefix(s[end:], "->") {
		return 0
	}
	n, err := strconv.ParseUint(s[:end], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// fileStat is what strace shows of a struct stat.
type fileStat struct {
	kind     event.Kind
	dev, ino uint64
}

var typeNames = map[string]uint32{
	"S_IFREG": decode.TypeRegular, "S_IFDIR": decode.TypeDir, "S_IFIFO": decode.TypeFIFO, "S_IFSOCK": decode.TypeSocket,
	"S_IFBLK": decode.TypeBlockDev, "S_IFCHR": decode.TypeCharDev,
}

// readStat reads {st_mode=S_IFREG|0644, st_size=1024, …} and, with -v,
// {st_dev=makedev(0x8, 0x1), st_ino=12, st_mode=…}.
func readStat(s string) (st fileStat) {
	_, mode, ok := strings.Cut(s, "_mode=")
	if !ok {
		return st
	}
	c := cursor{s: mode}
	bits, ok := c.number() // -X raw and verbose
	kind := uint32(bits) & decode.StatTypeMask
	if !ok {
		name, _, _ := strings.Cut(mode, "|")
		kind = typeNames[strings.TrimRight(name, "}, ")]
	}
	switch st.kind = decode.Kinds[kind]; st.kind {
	case event.FIFO:
		st.kind = event.Pipe
	case event.CharDev:
		if major, _, ok := device(s, "st_rdev="); ok && decode.IsTerminal(major) {
			st.kind = event.TTY
		}
	}
	if major, minor, ok := device(s, "st_dev="); ok {
		if _, rest, ok := strings.Cut(s, "st_ino="); ok {
			c := cursor{s: rest}
			if n, ok := c.number(); ok {
				st.dev, st.ino = decode.Makedev(major, minor), uint64(n)
			}
		}
	}
	return st
}

// device reads st_dev=makedev(0x8, 0x1).
func device(s, field string) (major, minor uint32, ok bool) {
	_, rest, ok := strings.Cut(s, field+"makedev(")
	if !ok {
		return 0, 0, false
	}
	c := cursor{s: rest}
	x, ok1 := c.number()
	ok2 := c.at(", ")
	y, ok3 := c.number()
	return uint32(x), uint32(y), ok1 && ok2 && ok3
}
