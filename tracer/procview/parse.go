package procview

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strconv"
	"strings"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Status is what we use of proc_pid_status(5).
type Status struct {
	Name      event.Text
	State     string // one letter
	Tgid      event.PID
	Pid       event.TID
	PPid      event.PID
	TracerPid event.TID
	// UID and GID are the real, effective, saved and file system ids; -1 where not known.
	UID, GID [4]int
	Threads  int
	// NSpid are its ids in each pid namespace it is in, the outermost first.
	NSpid []int
	// SigBlk, SigIgn and SigCgt are masks, bit 0 for signal 1.
	SigBlk, SigIgn, SigCgt uint64
	CapPrm, CapEff         uint64
	Seccomp                int // 0 off, 1 strict, 2 filter
	NoNewPrivs             bool
	// Kthread: it is the kernel's own, and has neither memory nor descriptors.
	// Before Linux 6.7, where that is not said, it is told by the first, which a
	// process that is just ending has not either.
	Kthread bool
	// Switches counts how often it was taken from a CPU, by its own will or not: as
	// long as the number is the same and it sleeps, it has not run.
	Switches uint64
}

// Ended says whether the thread has ended: it has not been collected yet, or just is.
func (s *Status) Ended() bool { return ended(s.State) }

func ended(state string) bool { return state == "Z" || state == "X" }

func credentials(text string) [4]int {
	all, fields := [4]int{-1, -1, -1, -1}, strings.Fields(text)
	for i := range min(len(all), len(fields)) {
		if n, err := strconv.Atoi(fields[i]); err == nil {
			all[i] = n
		}
	}
	return all
}

// Signal says what a signal does to the thread: "caught", "ignored",
// "blocked" or "default".
func (s Status) Signal(n int) string {
	bit := uint64(1) << (n - 1)
	switch {
	case s.SigBlk&bit != 0:
		return "blocked"
	case s.SigIgn&bit != 0:
		return "ignored"
	case s.SigCgt&bit != 0:
		return "caught"
	}
	return "default"
}

var errStatus = errors.New("not a status file: no Pid line")

// ParseStatus reads a status file. Lines that it does not know are passed over.
func ParseStatus(b []byte) (Status, error) {
	s := Status{UID: credentials(""), GID: credentials("")}
	seen, hasMemory, kthreadKnown := false, false, false
	for line := range strings.Lines(string(b)) {
		key, val, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		if !ok {
			continue
		}
		raw := strings.TrimPrefix(val, "\t")
		val = strings.Trim(val, " \t")
		num := func() int { n, _ := strconv.ParseInt(val, 10, 32); return int(n) }
		mask := func() uint64 { n, _ := strconv.ParseUint(val, 16, 64); return n }
		switch key {
		case "Name":
			s.Name = unescapeComm(raw) // it may begin or end with blanks
		case "State":
			s.State, _, _ = strings.Cut(val, " ")
		case "Tgid":
			s.Tgid = event.PID(num())
		case "Pid":
			s.Pid, seen = event.TID(num()), true
		case "PPid":
			s.PPid = event.PID(num())
		case "TracerPid":
			s.TracerPid = event.TID(num())
		case "Uid":
			s.UID = credentials(val)
		case "Gid":
			s.GID = credentials(val)
		case "VmSize":
			hasMemory = true
		case "Threads":
			s.Threads = num()
		case "NSpid":
			for _, f := range strings.Fields(val) {
				n, _ := strconv.ParseInt(f, 10, 32)
				s.NSpid = append(s.NSpid, int(n))
			}
		case "SigBlk":
			s.SigBlk = mask()
		case "SigIgn":
			s.SigIgn = mask()
		case "SigCgt":
			s.SigCgt = mask()
		case "CapPrm":
			s.CapPrm = mask()
		case "CapEff":
			s.CapEff = mask()
		case "Seccomp":
			s.Seccomp = num()
		case "NoNewPrivs":
			s.NoNewPrivs = num() == 1
		case "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches":
			n, _ := strconv.ParseUint(val, 10, 64)
			s.Switches += n
		case "Kthread":
			s.Kthread, kthreadKnown = num() == 1, true
		}
	}
	if !kthreadKnown {
		s.Kthread = !hasMemory && !s.Ended() && s.State != ""
	}
	if !seen {
		return Status{}, errStatus
	}
	return s, nil
}

// tracedBy reads two lines of a status file only: TracerPid and Threads. The
// Name line before them cannot look like one: a newline is escaped there.
func tracedBy(status []byte) (tracer event.TID, threads int) {
	line := func(key string) int {
		_, rest, ok := bytes.Cut(status, []byte("\n"+key+":\t"))
		if !ok {
			return 0
		}
		digits, _, _ := bytes.Cut(rest, []byte("\n"))
		n, _ := number(string(digits))
		return n
	}
	return event.TID(line("TracerPid")), line("Threads")
}

// unescapeComm undoes the escapes of the Name line: \n and \\ (fs/proc/array.c).
func unescapeComm(s string) event.Text {
	if !strings.Contains(s, `\`) {
		return event.Text(s)
	}
	return event.Text(strings.NewReplacer(`\\`, `\`, `\n`, "\n").Replace(s))
}

// Stat is what we use of proc_pid_stat(5).
type Stat struct {
	State   string
	PGRP    int
	TTY     int    // device of its terminal, as the kernel packs it (new_encode_dev); 0 without one
	TPGID   int    // foreground group of its terminal; -1 without one
	Start   uint64 // start time since boot, clock ticks
	LastCPU int    // the processor that it ran on last
	// Strings are the addresses where arguments and environment begin and end; 0 without
	// permission.
	Strings [4]uint64
	Code    int // exit_code; see [View.StopCode]
}

// ParseStat reads a stat file. The second field is the name in parentheses,
// which may hold any bytes, so the fields are counted from the last one.
func ParseStat(b []byte) (s Stat, err error) {
	i := bytes.LastIndexByte(b, ')')
	fields := strings.Fields(string(b[i+1:])) // the first one is field 3
	if i < 0 || len(fields) < 20 {
		return s, fmt.Errorf("not a stat file: %d fields", len(fields)+2)
	}
	field := func(n int) uint64 { // as numbered in the manual page; 0 for one that older kernels lack
		if n -= 3; n >= len(fields) {
			return 0
		}
		v, _ := strconv.ParseInt(fields[n], 10, 64)
		return uint64(v)
	}
	return Stat{State: fields[0], PGRP: int(field(5)), TTY: int(field(7)), TPGID: int(field(8)), Start: field(22), LastCPU: int(field(39)),
		Strings: [4]uint64{field(48), field(49), field(50), field(51)}, Code: int(field(52))}, nil
}

// Syscall is a call that a thread is blocked in, proc_pid_syscall(5).
type Syscall struct {
	Nr     uint64
	Args   [6]uint64
	SP, PC uint64 // stack pointer and program counter
}

// Compat says that a 32-bit program makes the call: all that it has lies below 4
// GiB, where no stack of a 64-bit program is.
func (s *Syscall) Compat() bool { return s.SP>>32 == 0 && s.PC>>32 == 0 }

// ParseSyscall reads it. It is false for a thread that runs or is blocked
// elsewhere.
func ParseSyscall(b []byte) (s Syscall, ok bool) {
	f := strings.Fields(string(b))
	if len(f) < 9 {
		return Syscall{}, false
	}
	nr, err := strconv.ParseUint(f[0], 10, 32)
	if err != nil {
		return Syscall{}, false
	}
	s.Nr = nr
	for i, to := range []*uint64{&s.Args[0], &s.Args[1], &s.Args[2], &s.Args[3], &s.Args[4], &s.Args[5], &s.SP, &s.PC} {
		if *to, err = strconv.ParseUint(strings.TrimPrefix(f[i+1], "0x"), 16, 64); err != nil {
			return Syscall{}, false
		}
	}
	return s, true
}

// Fdinfo is what we use of proc_pid_fdinfo(5). What is only there for some
// files is absent for others.
type Fdinfo struct {
	Access      string // "r", "w", "rw" or "path" (O_PATH)
	CloseOnExec bool
	Pos         int64                // the offset in the file
	MountID     uint64               // in mountinfo
	TTY         event.Opt[int]       // of a terminal's master: N of /dev/pts/N
	EventFD     event.Opt[int]       // which eventfd it is
	Connection  event.Opt[uint32]    // of a FUSE server
	Process     event.Opt[event.PID] // of a pidfd
	Epoll       []EpollEntry
	// Armed says that a timerfd's timer runs.
	Armed bool
	Locks []Lock
}

// EpollEntry is what an epoll descriptor waits for. FD is the number that the
// file had when it was added.
type EpollEntry struct {
	FD     event.FD
	Events uint32 // EPOLL*
	Ino    uint64
}

// ParseFdinfo reads it; it is false without the line of flags.
func ParseFdinfo(b []byte) (info Fdinfo, ok bool) {
	for line := range strings.Lines(string(b)) {
		key, val, _ := strings.Cut(line, ":")
		val = strings.TrimSpace(val)
		number := func() int { n, _ := strconv.ParseInt(val, 10, 32); return int(n) }
		switch strings.TrimSpace(key) {
		case "flags": // octal
			flags, err := strconv.ParseUint(val, 8, 64)
			if err != nil {
				return Fdinfo{}, false
			}
			const oPath, oCloexec = 0o10000000, 0o2000000
			ok = true
			info.Access, info.CloseOnExec = "rw", flags&oCloexec != 0
			switch {
			case flags&oPath != 0:
				info.Access = "path"
			case flags&3 == 0:
				info.Access = "r"
			case flags&3 == 1:
				info.Access = "w"
			}
		case "pos":
			info.Pos, _ = strconv.ParseInt(val, 10, 64)
		case "mnt_id":
			info.MountID, _ = strconv.ParseUint(val, 10, 64)
		case "tty-index":
			info.TTY = event.Some(number())
		case "eventfd-id":
			info.EventFD = event.Some(number())
		case "fuse_connection":
			info.Connection = event.Some(uint32(number()))
		case "Pid":
			info.Process = event.Some(event.PID(number()))
		case "it_value":
			info.Armed = val != "(0, 0)"
		case "tfd":
			var e EpollEntry
			var fd int32
			var data uint64
			var pos int64
			if n, _ := fmt.Sscanf(val, "%d events: %x data: %x pos:%d ino:%x", &fd, &e.Events, &data, &pos, &e.Ino); n == 5 {
				e.FD = event.FD(fd)
				info.Epoll = append(info.Epoll, e)
			}
		case "lock":
			if l, ok := parseLock(val); ok {
				info.Locks = append(info.Locks, l)
			}
		}
	}
	if !ok {
		return Fdinfo{}, false
	}
	return info, true
}

// Lock is a line of proc_locks(5).
type Lock struct {
	// Group is the same for a lock and for those who wait for it.
	Group int
	Waits bool
	Kind  string // FLOCK, POSIX, OFDLCK, LEASE, DELEG
	Mode  string // READ, WRITE
	// PID is who asked for it; -1 for OFDLCK, 0 for a process of another pid namespace.
	PID        event.PID
	Ino        uint64
	Start, End string // bytes; "EOF" for all that follow
}

// ParseLocks reads /proc/locks. Lines that it does not understand are left out.
func ParseLocks(b []byte) []Lock {
	var all []Lock
	for line := range strings.Lines(string(b)) {
		if l, ok := parseLock(line); ok {
			all = append(all, l)
		}
	}
	return all
}

func parseLock(line string) (l Lock, ok bool) {
	f := strings.Fields(line) // 1: -> FLOCK ADVISORY WRITE 30376 fe:00:9982755 0 EOF
	if len(f) > 1 && f[1] == "->" {
		l.Waits = true
		f = slices.Delete(f, 1, 2)
	}
	if len(f) < 8 {
		return l, false
	}
	group, err := strconv.Atoi(strings.TrimSuffix(f[0], ":"))
	pid, err2 := strconv.Atoi(f[4])
	ino, err3 := strconv.ParseUint(f[5][strings.LastIndexByte(f[5], ':')+1:], 10, 64)
	l.Group, l.Kind, l.Mode, l.PID, l.Ino, l.Start, l.End = group, f[1], f[3], event.PID(pid), ino, f[6], f[7]
	return l, err == nil && err2 == nil && err3 == nil
}

// Mapping is a line of proc_pid_maps(5).
type Mapping struct {
	Start, End uint64 // addresses; End is behind the last byte
	Offset     uint64 // in the file, bytes
	Perms      string
	Dev, Ino   uint64 // makedev(3) encoding; 0 without a file
	Path       event.Text
	Deleted    bool // the path ended in " (deleted)", which is cut off
}

// Range is the name of the mapping in /proc/PID/map_files.
func (m Mapping) Range() string {
	return strconv.FormatUint(m.Start, 16) + "-" + strconv.FormatUint(m.End, 16)
}

// Target is the file that the line names, with the identity that it gives.
func (m Mapping) Target() event.Target {
	t := event.Target{Kind: event.Regular, Link: m.Path, Dev: m.Dev, Ino: m.Ino}
	if m.Deleted {
		t.Link += " (deleted)"
	}
	switch kind := kindByText(string(t.Link)); {
	case m.Ino == 0:
		t.Kind = event.Unknown
	case kind != event.Unknown:
		t.Kind = kind
	}
	return t
}

// FindMapping gives the mapping that holds an address. The mappings are in
// order of their addresses, as the kernel lists them.
func FindMapping(maps []Mapping, addr uint64) (Mapping, bool) {
	i := sort.Search(len(maps), func(i int) bool { return maps[i].End > addr })
	if i < len(maps) && addr >= maps[i].Start {
		return maps[i], true
	}
	return Mapping{}, false
}

// maxMapsLine is more than a path with every byte escaped needs.
const maxMapsLine = 64 << 10

// ParseMaps reads a maps file. A newline in a path is \012 there; other bytes
// stand as they are, a backslash too, so that the escape is not unique.
func ParseMaps(r io.Reader) ([]Mapping, error) {
	var maps []Mapping
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4096), maxMapsLine)
	sc.Split(scanNewlines)
	for n := 1; sc.Scan(); n++ {
		m, err := parseMapping(sc.Text())
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		maps = append(maps, m)
	}
	return maps, sc.Err()
}

// scanNewlines is [bufio.ScanLines], but a carriage return at the end of a path
// belongs to the path.
func scanNewlines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

func parseMapping(line string) (Mapping, error) {
	var m Mapping
	var field [5]string
	rest := line
	for i := range field {
		var ok bool
		if field[i], rest, ok = strings.Cut(strings.TrimLeft(rest, " "), " "); !ok && i < 4 {
			return m, fmt.Errorf("%q: not a line of maps", line)
		}
	}
	start, end, _ := strings.Cut(field[0], "-")
	major, minor, _ := strings.Cut(field[3], ":")
	var ma, mi uint64
	m.Perms = field[1]
	for _, f := range []struct {
		text string
		base int
		bits int
		to   *uint64
	}{{start, 16, 64, &m.Start}, {end, 16, 64, &m.End}, {field[2], 16, 64, &m.Offset},
		{major, 16, 32, &ma}, {minor, 16, 32, &mi}, {field[4], 10, 64, &m.Ino}} {
		v, err := strconv.ParseUint(f.text, f.base, f.bits)
		if err != nil {
			return m, fmt.Errorf("%q: not a line of maps", line)
		}
		*f.to = v
	}
	m.Dev = decode.Makedev(uint32(ma), uint32(mi))
	path := strings.TrimLeft(rest, " ")
	path, m.Deleted = strings.CutSuffix(path, " (deleted)")
	m.Path = event.Text(strings.ReplaceAll(path, `\012`, "\n"))
	return m, nil
}
