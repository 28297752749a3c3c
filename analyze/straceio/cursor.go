package straceio

import "bytes"

// cursor goes through the arguments of a call, as strace prints them. None of
// its methods moves beyond the end of the text.
type cursor struct {
	b []byte
	i int
	// cut says that the text ended within a string, a bracket or the like.
	cut bool
}

// stops are the bytes that mean something to skip.
var stops = [256]bool{',': true, '(': true, ')': true, '[': true, ']': true, '{': true, '}': true, '"': true, '<': true, '/': true}

// skip goes to the comma or bracket that ends the argument; false where the
// text ends before.
func (c *cursor) skip() bool {
	depth := 0
	for c.i < len(c.b) {
		ch := c.b[c.i]
		if !stops[ch] {
			c.i++
			continue
		}
		switch ch {
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
			if c.i+1 < len(c.b) && c.b[c.i+1] == '*' {
				end := bytes.Index(c.b[c.i+2:], []byte("*/"))
				if end < 0 {
					c.end()
					return false
				}
				c.i += end + 4
				continue
			}
		}
		c.i++
	}
	c.cut = c.cut || depth > 0
	return false
}

// end goes to the end of a text that is cut off.
func (c *cursor) end() { c.i, c.cut = len(c.b), true }

// next goes behind the comma that ends the argument; false at the end of the
// arguments, or of the text.
func (c *cursor) next() bool {
	if c.i >= len(c.b) || c.b[c.i] != ',' {
		if !c.skip() || c.b[c.i] != ',' {
			return false
		}
	}
	c.i++
	for c.i < len(c.b) && c.b[c.i] == ' ' {
		c.i++
	}
	return true
}

// argName goes behind the name of an argument (strace 7, --argument-names):
// "dfd=".
func (c *cursor) argName() {
	i := c.i
	for i < len(c.b) && (c.b[i] >= 'a' && c.b[i] <= 'z' || c.b[i] == '_' || c.b[i] >= '0' && c.b[i] <= '9' && i > c.i) {
		i++
	}
	if i > c.i && i < len(c.b) && c.b[i] == '=' {
		c.i = i + 1
	}
}

// at says whether the text goes on with s, and then goes behind it.
func (c *cursor) at(s string) bool {
	if len(c.b)-c.i < len(s) || string(c.b[c.i:c.i+len(s)]) != s {
		return false
	}
	c.i += len(s)
	return true
}

// quoted goes behind a string in quotes and gives what is between them, as it
// was escaped.
func (c *cursor) quoted() ([]byte, bool) {
	if c.i >= len(c.b) || c.b[c.i] != '"' {
		return nil, false
	}
	start := c.i + 1
	for i := start; ; i++ {
		n := bytes.IndexByte(c.b[i:], '"')
		if n < 0 {
			c.end()
			return c.b[start:], false
		}
		i += n
		slashes := 0
		for i-slashes > start && c.b[i-slashes-1] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			c.i = i + 1
			return c.b[start:i], true
		}
	}
}

// ellipsis goes behind the dots that follow a string that was not shown whole.
func (c *cursor) ellipsis() bool { return c.at("...") }

// annotated says that the "<" here follows a descriptor or a process, as in
// 3</dev/null> and AT_FDCWD</tmp>, and is not of a shift as in 1<<12.
func (c *cursor) annotated() bool {
	if c.i == 0 || c.i+1 < len(c.b) && c.b[c.i+1] == '<' {
		return false
	}
	switch p := c.b[c.i-1]; {
	case p >= '0' && p <= '9', p == 'D':
		return true
	case p == '/': // AT_FDCWD with -X verbose: -100 /* AT_FDCWD */</tmp>
		return c.i > 1 && c.b[c.i-2] == '*'
	}
	return false
}

// annotation goes behind what -y and -yy print about a descriptor, and gives
// it without the outer brackets: "/dev/pts/0<char 136:0>", "pipe:[4798]",
// "TCP:[127.0.0.1:1->127.0.0.1:2]"; with "(deleted)" where that follows.
func (c *cursor) annotation() ([]byte, bool) {
	if c.i >= len(c.b) || c.b[c.i] != '<' {
		return nil, false
	}
	start, depth, square := c.i+1, 1, 0
	path := start < len(c.b) && c.b[start] == '/' // where "<", ">" and controls are escaped, and "[" means itself
	if path {                                     // most are, of a file that is not a device
		if n := bytes.IndexByte(c.b[start:], '>'); n >= 0 && bytes.IndexByte(c.b[start:start+n], '<') < 0 {
			return c.endAnnotation(start, start+n)
		}
	}
	for i := start; i < len(c.b); i++ {
		switch c.b[i] {
		case '"':
			if !path {
				q := cursor{b: c.b, i: i}
				if _, ok := q.quoted(); !ok {
					c.end()
					return nil, false
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
			return c.endAnnotation(start, i)
		}
	}
	c.end()
	return nil, false
}

// again says whether the annotation here is this one, which was read before, and
// then goes behind it. What an annotation begins with decides where it ends.
func (c *cursor) again(text string) bool {
	end := c.i + 1 + len(text)
	if end >= len(c.b) || c.b[c.i] != '<' || c.b[end] != '>' || string(c.b[c.i+1:end]) != text {
		return false
	}
	if rest := c.b[end+1:]; len(rest) > 0 && rest[0] == '(' {
		return false // of a deleted file, or it has ended with "(deleted)" itself
	}
	c.i = end + 1
	return true
}

// endAnnotation goes behind one that ends at a bracket.
func (c *cursor) endAnnotation(start, bracket int) ([]byte, bool) {
	c.i = bracket + 1
	if c.at("(deleted)") {
		bracket = c.i
	}
	return c.b[start:bracket], true
}

// number reads a decimal, octal or hexadecimal number, with a sign where there
// is one.
func (c *cursor) number() (int64, bool) {
	i, neg := c.i, false
	if i < len(c.b) && c.b[i] == '-' {
		neg = true
		i++
	}
	start, v := i, uint64(0)
	switch {
	case i+2 < len(c.b) && c.b[i] == '0' && c.b[i+1] == 'x':
		for i += 2; i < len(c.b); i++ {
			d := hexDigit[c.b[i]]
			if d < 0 {
				break
			}
			v = v<<4 | uint64(d)
		}
		if i == start+2 {
			return 0, false
		}
	default:
		base := uint64(10)
		if i+1 < len(c.b) && c.b[i] == '0' {
			base = 8
		}
		for ; i < len(c.b) && c.b[i] >= '0' && c.b[i] <= '9'; i++ {
			v = v*base + uint64(c.b[i]-'0')
		}
		if i == start {
			return 0, false
		}
	}
	c.i = i
	if neg {
		return -int64(v), true
	}
	return int64(v), true
}

// comment goes behind the names that -X verbose prints: " /* O_RDONLY */".
func (c *cursor) comment() ([]byte, bool) {
	if !c.at(" /* ") {
		return nil, false
	}
	end := bytes.Index(c.b[c.i:], []byte(" */"))
	if end < 0 {
		c.end()
		return nil, false
	}
	text := c.b[c.i : c.i+end]
	c.i += end + 3
	return text, true
}

// token gives the rest of the argument as it stands.
func (c *cursor) token() []byte {
	start := c.i
	c.skip()
	return c.b[start:c.i]
}

var hexDigit = func() (t [256]int8) {
	for i := range t {
		switch {
		case i >= '0' && i <= '9':
			t[i] = int8(i - '0')
		case i >= 'a' && i <= 'f':
			t[i] = int8(i - 'a' + 10)
		case i >= 'A' && i <= 'F':
			t[i] = int8(i - 'A' + 10)
		default:
			t[i] = -1
		}
	}
	return t
}()

// unescape appends what an escaped text means: the escapes of C, octal and
// hexadecimal numbers (strace(1), -x and -xx).
func unescape(to, text []byte) []byte {
	for {
		n := bytes.IndexByte(text, '\\')
		if n < 0 {
			return append(to, text...)
		}
		to = append(to, text[:n]...)
		if text = text[n+1:]; len(text) == 0 {
			return append(to, '\\')
		}
		ch := text[0]
		text = text[1:]
		switch ch {
		case 'n':
			to = append(to, '\n')
		case 't':
			to = append(to, '\t')
		case 'r':
			to = append(to, '\r')
		case 'v':
			to = append(to, '\v')
		case 'f':
			to = append(to, '\f')
		case 'x':
			if len(text) >= 2 && hexDigit[text[0]] >= 0 && hexDigit[text[1]] >= 0 {
				to = append(to, byte(hexDigit[text[0]])<<4|byte(hexDigit[text[1]]))
				text = text[2:]
				break
			}
			to = append(to, '\\', 'x')
		case '0', '1', '2', '3', '4', '5', '6', '7':
			v := ch - '0'
			for i := 0; i < 2 && len(text) > 0 && text[0] >= '0' && text[0] <= '7'; i++ {
				v = v<<3 | (text[0] - '0')
				text = text[1:]
			}
			to = append(to, v)
		default: // \\ and \"
			to = append(to, ch)
		}
	}
}
