package straceio

import (
	"encoding/json"
	"html"
	"regexp"
	"strings"
	"sync"
)

// What people do to a log before it is read: it passes through a terminal, a
// mail program, a web page, a pager or a log collector. strace itself writes
// printable ASCII (strings and names are escaped), so all else is from there.

// lazy compiles a regular expression when it is first used: most commands read no log.
func lazy(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

var punctuation = strings.NewReplacer("“", `"`, "”", `"`, "„", `"`, "″", `"`, "…", "...", "\u00a0", " ", "\u202f", " ", "\u200b", "", "\ufeff", "", "│", "|")

var (
	entity  = lazy(`&(lt|gt|amp|quot|nbsp|#\d+);`)
	escaped = lazy(`\\([_*|()\[\]{}<>~#.!=+-])`)
	opening = lazy(`^(</?(p|br|pre|code|span|div|tt|td|li|blockquote)( [^>]*)?/?>\s*)+`)
	closing = lazy(`(\s*</?(p|br|pre|code|span|div|tt|td|li|blockquote)( [^>]*)?/?>)+$`)
	// prefix is what stands before a line where it was taken out of something else:
	// of syslog, ts or journalctl; a date in ISO 8601; of docker compose, Kubernetes,
	// grep (with the file and the line); of a comment, a list, a line number.
	prefix = lazy(`^(?:[A-Z][a-z]{2} [ \d]\d [\d:.]{8,} |\d{4}-\d\d-\d\d[T ][\d:.,]+(?:Z|[+-][\d:]{4,5})? |\S+ [^ \[\]]+(?:\[\d+\])?: |std(?:out|err) [FP] |` +
		`[\w.-]+ *\| ?|[\w./-]*[A-Za-z./-][\w./-]*[:-](?:\d+[:-])?|\d+[:.)] ?|(?://|#+|;|\*+|[=-]*>|-|\+|•|\(gdb\)) ?)`)
	// message is one of strace's in the middle of a line: the call that was being
	// written goes on in the next. strace -d says what it waits for.
	message = lazy(`(?:(?:/[\w./-]*/)?strace(?:64)?: )?(?:\[ )?Process (?:PID=)?(\d+)(?:<[^>]*>)? (attached|detached|suspended|resumed|runs in)\b[^"]*$|(?:strace: )? ?\[wait\(0x[0-9a-f]+\) = \d+\] WIF[^"]*$|cleanup: looking at pid \d+$`)
	// shell is a line by which strace was started.
	shell = lazy(`[$#%>❯] ?(?:sudo |timeout \S+ )*\S*strace(?:64)? |^(?:sudo |timeout \S+ )*\S*strace(?:64)? -`)
	fence = lazy("^(?:```|~~~|\\{(?:code|noformat|quote|%|\\{)|\\[/?(?i:code|quote)\\b|</?(?:pre|code|details|summary|br|p)\\b)")
)

// dockerLog begins the lines of docker's json-file driver.
const dockerLog = `{"log":"`

// visible gives a line as strace has written it: without colors, quotation marks
// of mail, indentation, and with the characters that a web page has replaced.
func visible(line string) string {
	line = strings.TrimRight(line, " \t\r\n")
	if strings.HasPrefix(line, dockerLog) {
		var entry struct{ Log string }
		if json.Unmarshal([]byte(line), &entry) == nil {
			line = strings.TrimRight(entry.Log, " \r\n")
		}
	}
	if strings.IndexByte(line, 0x1b) >= 0 {
		line = strings.TrimRight(uncolored(line), " ")
	}
	if strings.IndexFunc(line, func(r rune) bool { return r > 0x7e }) >= 0 {
		line = punctuation.Replace(line)
	}
	tagged := false
	if strings.HasPrefix(line, "<") {
		line, tagged = strip(opening(), line)
	}
	// In a string they would be what the program has written.
	if strings.IndexByte(line, '&') >= 0 && entity().MatchString(outside(line)) {
		line, tagged = html.UnescapeString(line), true
	}
	if tagged {
		line, _ = strip(closing(), line)
	}
	if strings.IndexByte(line, '\\') >= 0 && escaped().MatchString(outside(line)) {
		line = escaped().ReplaceAllString(line, "$1")
	}
	return line
}

func strip(re *regexp.Regexp, line string) (string, bool) {
	at := re.FindStringIndex(line)
	if at == nil {
		return line, false
	}
	return line[:at[0]] + line[at[1]:], true
}

// unquoted takes indentation and the marks of a quotation away.
func unquoted(line string) string {
	if strings.HasSuffix(line, "`") {
		line = strings.TrimRight(line, "`")
	}
	return strings.TrimLeft(line, " \t>|`")
}

// outside gives a line without what is in quotes.
func outside(line string) string {
	var out strings.Builder
	for c := (cursor{s: line}); c.i < len(line); {
		if line[c.i] == '"' {
			if _, ok := c.quoted(); !ok {
				break
			}
			continue
		}
		out.WriteByte(line[c.i])
		c.i++
	}
	return out.String()
}

// uncolored takes escape sequences out of a line: colors (CSI) and links (OSC),
// which strace 7 writes to terminals, and what a shell's prompt has.
func uncolored(line string) string {
	var out strings.Builder
	for i := 0; i < len(line); i++ {
		if line[i] != 0x1b {
			out.WriteByte(line[i])
			continue
		}
		if i++; i >= len(line) {
			break
		}
		switch line[i] {
		case '[': // up to a letter or so, ECMA-48 5.4
			for i++; i < len(line) && (line[i] < 0x40 || line[i] > 0x7e); i++ {
			}
		case ']': // up to BEL, or ESC and backslash
			for i++; i < len(line) && line[i] != 7 && line[i] != 0x1b; i++ {
			}
			if i < len(line) && line[i] == 0x1b {
				i++
			}
		case '(', ')': // a character set
			i++
		}
	}
	return out.String()
}

// maxHead bounds how far into a line a call may begin, in bytes.
const maxHead = 512

// inside looks for a call behind other text in a line, such as a prompt, or what
// another program has written without an end of line. It must be there whole.
func inside(line string) (at int, ok bool) {
	_, held := cutUnfinished(line)
	whole := held || finished(line)
	for i := range min(len(line), maxHead) {
		switch line[i] {
		case '(':
			name := line[:i]
			name = name[strings.LastIndexFunc(name, notName)+1:]
			for n := range name { // the longest that is one
				if whole && isCall(name[n:]) && (n == 0 || len(name)-n > 4) {
					return i - len(name) + n, true
				}
			}
		case '+', '-', '<':
			if i > 0 && isNotice(line[i:]) {
				return i, true
			}
		}
	}
	return 0, false
}

// isNotice says whether a line is a signal, the end of a thread, or the end of a
// call that was interrupted.
func isNotice(body string) bool {
	for _, beginning := range []string{"--- SIG", "--- stopped by", "+++ exited with ", "+++ killed by ", "+++ superseded by "} {
		if strings.HasPrefix(body, beginning) {
			return true
		}
	}
	_, _, ok := cutResumed(body)
	return ok
}

// echoed takes what a terminal shows of Ctrl-C and its like off the end.
func echoed(text string) string {
	for {
		text = strings.TrimRight(text, " ")
		n := len(text)
		if n < 2 || text[n-2] != '^' || strings.IndexByte(`CDZ\`, text[n-1]) < 0 {
			return text
		}
		text = text[:n-2]
	}
}
