package straceio

import (
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
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

// others are tools whose output looks like strace's, by lines that strace does not
// write, or is taken for it.
var others = []struct {
	name string
	line func() *regexp.Regexp
}{
	{"truss of FreeBSD", lazy(`\) *\t*[ \t]= -?\d+ \(0x[0-9a-f]+\)$|[ \t]ERR#\d+ '`)},
	{"truss of Solaris", lazy(`[ \t]Err#\d+ E[A-Z]+`)},
	{"dtruss of macOS", lazy(`\)\t+ = -?\w+ (?:-?\d+|Err#\d+)$|^SYSCALL\(args\)`)},
	{"kdump (ktrace)", lazy(`^\d+(?:/\d+)? +\S+ +(?:CALL|RET|NAMI|GIO|PSIG|STRU) `)},
	{"ltrace", lazy(`^(?:\[pid \d+\] |\d+ )?(?:[\d.:]+ )?(?:SYS_\w+|\w+@(?:SYS|[\w.+-]+)|[\w.+-]+->\w+|__libc_start_main|malloc|calloc|realloc|free|str(?:n?cmp|n?casecmp|len|n?cpy|n?cat|r?chr|n?dup|str|tok|tol|toul)|mem(?:cpy|set|move|cmp|chr)|f?printf|f?puts|fopen(?:64)?|fclose|getenv|setlocale|dlopen|dlsym)\(|^\+\+\+ exited \(status \d+\) \+\+\+`)},
	{"perf trace", lazy(`^(?:\d+\.\d+|\?) +\( *(?:\d+\.\d+ ms)? *\): `)},
	{"qemu -strace", lazy(`\) = -1 errno=\d+ \(|^\d+ \w+\([^ "]*(?:,(?:"[^"]*"|[^ ",]+))+\) = (?:0x)?[0-9a-f]+$`)},
	{"gVisor's log", lazy(`strace\.go:\d+\]|^\[ *\d+: *\d+\] \S+ [EX] \w+\(`)},
	{"valgrind --trace-syscalls", lazy(`^SYSCALL\[\d+,\d+\]`)},
	{"the audit system", lazy(`^(?:node=\S+ )?type=[A-Z_]+ msg=audit\(`)},
	{"sysdig", lazy(`^\d+ \d\d:\d\d:\d\d\.\d+ \d+ \S+ \(\d+(?:[.:]\d+)?\) [<>] `)},
	{"ftrace", lazy(`\bsys_(?:enter|exit)(?:_\w+)?: |\bsys_\w+(?:\(\w+: | -> 0x)`)},
	{"bpftrace or bcc", lazy(`^(?:TIME\S* +)?(?:UID +)?PID +COMM +FD +ERR `)},
	{"uftrace", lazy(`^[\d.]+ +[munp]?s +\[ *\d+\] \|`)},
	{"strace of Cygwin", lazy(`^\d+ +\d+ \[\w+\] \S+ \d+ `)},
	{"NtTrace", lazy(`^(?:\[ *\d+\] )?(?:Nt|Zw)[A-Z]\w+\(.*\) => `)},
	{"gdb's catch syscall", lazy(`^Catchpoint \d+ \((?:call to|returned from) syscall`)},
}

// Sniff says what a file is, by its beginning; for an unknown one, why it is no
// log of strace.
func Sniff(beginning []byte) (Format, string) {
	decoded, _, err := transform.Bytes(unicode.BOMOverride(transform.Nop), beginning)
	if err != nil {
		return Unknown, "it is no text"
	}
	text := string(decoded)
	switch trimmed := strings.TrimLeft(text, " \t\r\n"); {
	case trimmed == "":
		return Unknown, "it is empty"
	case trimmed[0] == '{' && !fence().MatchString(trimmed) && !strings.HasPrefix(trimmed, dockerLog):
		return Recording, ""
	case strings.IndexByte(text, 0) >= 0:
		return Unknown, "it is binary"
	}
	counted := numbered(text)
	if isMail(text) {
		text = unmailed(text)
	}
	p := newParser()
	p.scouting = true
	summary, failed := false, ""
	foreign := make([]int64, len(others))
	for line := range strings.Lines(text) {
		whole := strings.HasSuffix(line, "\n")
		if counted {
			line = uncounted(line)
		}
		p.line(line, whole, 0, place{})
		p.out = p.out[:0]
		if line = unquoted(visible(line)); line == "" {
			continue
		}
		for i := range others {
			if others[i].line().MatchString(line) {
				foreign[i]++
			}
		}
		summary = summary || strings.HasPrefix(line, "% time ")
		if strings.HasPrefix(line, "strace: ") && strings.Contains(line, "ptrace(") {
			failed = line
		}
	}
	p.giveUp()
	calls := p.facts.lines
	for i, n := range foreign {
		if n > 0 && 2*n >= calls {
			return Unknown, "it is output of " + others[i].name + ", which is not read"
		}
	}
	switch lines := p.strange.count + p.cutOff.count; {
	// A program's own output, or the text of a mail, may be around the lines.
	case calls > 0 && (calls >= lines/8 || p.facts.best >= 3):
		return Strace, ""
	case summary:
		return Unknown, "it is the summary of strace -c, which has no calls"
	case failed != "":
		return Unknown, "strace has traced nothing there (" + failed + ")"
	case p.facts.attached != 0:
		return Unknown, "strace was attached, and has seen no system call"
	}
	return Unknown, "these are no system calls as strace prints them"
}

// numbered says whether lines begin with their numbers, as cat -n and less -N show
// them: from 1 on, or to the right. Threads have numbers in a row as well.
func numbered(text string) bool {
	last, lines := 0, 0
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		digits := lineNumber().FindStringSubmatch(line)
		if digits == nil {
			return false
		}
		n, _ := strconv.Atoi(digits[1])
		if lines > 0 && n != last+1 || lines == 0 && n != 1 && line[0] != ' ' && !strings.HasSuffix(digits[0], "\t") {
			return false
		}
		last = n
		if lines++; lines == 64 {
			break
		}
	}
	return lines > 2
}

// uncounted takes the number of a line away.
func uncounted(line string) string { return line[len(lineNumber().FindString(line)):] }

var (
	lineNumber = lazy(`^ *(\d+)[:.)|]? ?\t?`)
	encoded    = lazy(`=[0-9A-F]{2}`)
)

// isMail says whether a text is encoded as mails are ("quoted-printable", RFC 2045).
func isMail(text string) bool {
	return strings.Contains(text, ") =3D ") || strings.Contains(text, " =3D ")
}

// unmailed undoes that.
func unmailed(text string) string {
	text = strings.ReplaceAll(strings.ReplaceAll(text, "=\r\n", ""), "=\n", "")
	return encoded().ReplaceAllStringFunc(text, func(s string) string { return string([]byte{byte(digit(s[1])<<4 | digit(s[2]))}) })
}
