package procview

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
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
	RUID      int
	EUID      int
	Threads   int
	// NSpid are its ids in each pid namespace it is in, the outermost first.
	NSpid []int
	// SigBlk, SigIgn and SigCgt are masks, bit 0 for signal 1.
	SigBlk, SigIgn, SigCgt uint64
	CapEff                 uint64
	Seccomp                int // 0 off, 1 strict, 2 filter
	NoNewPrivs             bool
	Kthread                bool
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
	var s Status
	seen := false
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
			if f := strings.Fields(val); len(f) >= 2 {
				s.RUID, _ = strconv.Atoi(f[0])
				s.EUID, _ = strconv.Atoi(f[1])
			}
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
		case "CapEff":
			s.CapEff = mask()
		case "Seccomp":
			s.Seccomp = num()
		case "NoNewPrivs":
			s.NoNewPrivs = num() == 1
		case "Kthread":
			s.Kthread = num() == 1
		}
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
		n, _ := number(digits)
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
	State string
	PGRP  int
	TPGID int    // foreground group of its terminal; -1 without one
	Flags uint64 // PF_… (linux/sched.h)
	Start uint64 // start time since boot, clock ticks
}

// ParseStat reads a stat file. The second field is the name in parentheses,
// which may hold any bytes, so the fields are counted from the last one.
func ParseStat(b []byte) (Stat, error) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return Stat{}, errors.New("not a stat file: no name in parentheses")
	}
	f := strings.Fields(string(b[i+1:])) // f[0] is field 3
	if len(f) < 20 {
		return Stat{}, fmt.Errorf("not a stat file: %d fields", len(f)+2)
	}
	s := Stat{State: f[0]}
	s.PGRP, _ = strconv.Atoi(f[2])
	s.TPGID, _ = strconv.Atoi(f[5])
	s.Flags, _ = strconv.ParseUint(f[6], 10, 64)
	s.Start, _ = strconv.ParseUint(f[19], 10, 64)
	return s, nil
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

// Fdinfo is what we use of proc_pid_fdinfo(5).
type Fdinfo struct {
	Access      string // "r", "w", "rw" or "path" (O_PATH)
	CloseOnExec bool
}

// ParseFdinfo reads the flags line, which is octal.
func ParseFdinfo(b []byte) (info Fdinfo, ok bool) {
	for line := range strings.Lines(string(b)) {
		val, found := strings.CutPrefix(line, "flags:")
		if !found {
			continue
		}
		flags, err := strconv.ParseUint(strings.TrimSpace(val), 8, 64)
		if err != nil {
			return Fdinfo{}, false
		}
		const oPath, oCloexec = 0o10000000, 0o2000000
		info = Fdinfo{Access: "rw", CloseOnExec: flags&oCloexec != 0}
		switch {
		case flags&oPath != 0:
			info.Access = "path"
		case flags&3 == 0:
			info.Access = "r"
		case flags&3 == 1:
			info.Access = "w"
		}
		return info, true
	}
	return Fdinfo{}, false
}

// KernelThread says whether it is one (PF_KTHREAD): it has no descriptors.
func (s Stat) KernelThread() bool { return s.Flags&0x00200000 != 0 }

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
