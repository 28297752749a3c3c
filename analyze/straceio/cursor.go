package straceio

import "strings"

// cursor goes through the arguments of a call, as strace prints them. None of
// its methods moves beyond the end of the text.
type cursor struct {
	s string
	i int
	// cut says that the text ended within a string, a bracket or the like.
	cut bool
}

func (c *cursor) rest() string { return c.s[c.i:] }

// skip goes to the comma or bracket that ends the argument; false where the
// text ends before.
func (c *cursor) skip() bool {
	depth := 0
	for c.i < len(c.s) {
		switch c.s[c.i] {
		case ',':
			if depth == 0 {
				return true
			}
		case '(', '[', '{':
			depth++
		case ')', ']', '}':
			if depth == 0 {
				return true
			}
			depth--
		case '"':
			if _, ok := c.quoted(); !ok {
				return false
			}
			continue
		case '<':
			if c.annotated() {
				if _, ok := c.annotation(); !ok {
					return false
				}
				continue
			}
		case '/':
			if strings.HasPrefix(c.rest(), "/*") {
				end := strings.Index(c.rest(), "*/")
				if end < 0 {
					c.end()
					return false
				}
				c.i += end + 2
				continue
			}
		}
		c.i++
	}
	c.cut = c.cut || depth > 0
	return false
}

// end goes to the end of a text that is cut off.
func (c *cursor) end() { c.i, c.cut = len(c.s), true }

func (c *cursor) blanks() {
	for c.i < len(c.s) && c.s[c.i] == ' ' {
		c.i++
	}
}

// argName goes behind the name of an argument (strace 7, --argument-names):
// "dfd=".
func (c *cursor) argName() {
	i := c.i
	for i < len(c.s) && (c.s[i] >= 'a' && c.s[i] <= 'z' || c.s[i] == '_' || isDigit(c.s[i]) && i > c.i) {
		i++
	}
	if i > c.i && i < len(c.s) && c.s[i] == '=' {
		c.i = i + 1
	}
}

// at says whether the text goes on with s, and then goes behind it.
func (c *cursor) at(s string) bool {
	if !strings.HasPrefix(c.rest(), s) {
		return false
	}
	c.i += len(s)
	return true
}

// quoted goes behind a string in quotes and gives what is between them, as it
// was escaped.
func (c *cursor) quoted() (string, bool) {
	if c.i >= len(c.s) || c.s[c.i] != '"' {
		return "", false
	}
	start := c.i + 1
	for i := start; i < len(c.s); i++ {
		switch c.s[i] {
		case '\\':
			i++
		case '"':
			c.i = i + 1
			return c.s[start:i], true
		}
	}
	c.end()
	return c.s[start:], false
}

// annotated says that the "<" here follows a descriptor or a process, as in
// 3</dev/null> and AT_FDCWD</tmp>, and is not of a shift as in 1<<12, nor of
// "<unfinished ...>", which may stand behind a number as well.
func (c *cursor) annotated() bool {
	if c.i == 0 || strings.HasPrefix(c.rest(), "<<") || strings.HasPrefix(c.rest(), "<unfinished ") || strings.HasPrefix(c.rest(), "<detached ") {
		return false
	}
	switch p := c.s[c.i-1]; {
	case isDigit(p), p == 'D':
		return true
	case p == '/': // AT_FDCWD with -X verbose: -100 /* AT_FDCWD */</tmp>
		return c.i > 1 && c.s[c.i-2] == '*'
	}
	return false
}

// annotation goes behind what -y and -yy print about a descriptor, and gives
// it without the outer brackets: "/dev/pts/0<char 136:0>", "pipe:[4798]",
// "TCP:[127.0.0.1:1->127.0.0.1:2]"; with "(deleted)" where that follows.
func (c *cursor) annotation() (string, bool) {
	if c.i >= len(c.s) || c.s[c.i] != '<' {
		return "", false
	}
	start, depth, square := c.i+1, 1, 0
	path := strings.HasPrefix(c.s[start:], "/") // where "<", ">" and controls are escaped, and "[" means itself
	for i := start; i < len(c.s); i++ {
		switch c.s[i] {
		case '"':
			if !path {
				q := cursor{s: c.s, i: i}
				if _, ok := q.quoted(); !ok {
					c.end()
					return "", false
				}
				i = q.i - 1
			}
		case '[':
			if !path {
				square++
			}
		case ']':
			if !path && square > 0 {
				square--
			}
		case '<':
			depth++
		case '>':
			if square > 0 {
				break // an arrow between two addresses
			}
			if depth--; depth > 0 {
				break
			}
			c.i = i + 1
			if c.at("(deleted)") {
				i = c.i
			}
			return c.s[start:i], true
		}
	}
	c.end()
	return "", false
}

// number reads a decimal, octal or hexadecimal number, with a sign where there
// is one. It wraps around as the registers do: 0xffffffffffffffff is -1.
func (c *cursor) number() (int64, bool) {
	i, neg := c.i, false
	if i < len(c.s) && c.s[i] == '-' {
		neg = true
		i++
	}
	base := uint64(10)
	if strings.HasPrefix(c.s[i:], "0x") {
		base = 16
		i += 2
	} else if i+1 < len(c.s) && c.s[i] == '0' {
		base = 8
	}
	start, v := i, uint64(0)
	for ; i < len(c.s); i++ {
		d := digit(c.s[i])
		if d >= max(base, 10) { // nothing has an 8 or 9 in an octal number
			break
		}
		v = v*base + d
	}
	if i == start {
		return 0, false
	}
	c.i = i
	if neg {
		return -int64(v), true
	}
	return int64(v), true
}

// comment goes behind the names that -X verbose prints: " /* O_RDONLY */".
func (c *cursor) comment() (string, bool) {
	if !c.at(" /* ") {
		return "", false
	}
	text, _, ok := strings.Cut(c.rest(), " */")
	if !ok {
		c.end()
		return "", false
	}
	c.i += len(text) + len(" */")
	return text, true
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// digit is the value of a hexadecimal digit, 16 for another byte.
func digit(c byte) uint64 {
	switch {
	case isDigit(c):
		return uint64(c - '0')
	case c >= 'a' && c <= 'f':
		return uint64(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return uint64(c-'A') + 10
	}
	return 16
}

// unescape gives what an escaped text means: the escapes of C, octal and
// hexadecimal numbers (strace(1), -x and -xx).
func unescape(text string) []byte {
	to := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			to = append(to, text[i])
			continue
		}
		i++
		switch ch := text[i]; {
		case strings.IndexByte("ntrvf", ch) >= 0:
			to = append(to, "\n\t\r\v\f"[strings.IndexByte("ntrvf", ch)])
		case ch == 'x' && i+2 < len(text) && digit(text[i+1]) < 16 && digit(text[i+2]) < 16:
			to = append(to, byte(digit(text[i+1])<<4|digit(text[i+2])))
			i += 2
		case ch == 'x':
			to = append(to, '\\', 'x')
		case ch >= '0' && ch <= '7':
			v := ch - '0'
			for n := 0; n < 2 && i+1 < len(text) && text[i+1] >= '0' && text[i+1] <= '7'; n++ {
				i++
				v = v<<3 | (text[i] - '0')
			}
			to = append(to, v)
		default: // \\ and \"
			to = append(to, ch)
		}
	}
	return to
}
