package event

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"hash/maphash"
	"math/bits"
)

// callParser reads lines of system calls, which are almost all lines of a
// recording, in one pass and almost without garbage. It is written for what
// [Writer] writes, in any order and with any white space. Where a line has
// anything else (escapes in plain strings, numbers in an unusual form, a field
// twice, null, errors) it gives up, and encoding/json decides: so what it
// accepts, and as what, is never different.
type callParser struct {
	b   []byte
	pos int

	seed maphash.Seed
	// strings are texts that occur again and again: names of calls, flags,
	// paths. A text takes the place of another with the same hash.
	strings [1 << 11]string
}

// maxShared bounds the length of a string that is kept for sharing.
const maxShared = 256

func newCallParser() *callParser { return &callParser{seed: maphash.MakeSeed()} }

// seen are the fields that an object had.
type seen uint32

// first notes field n and says whether it was not there before.
func (f *seen) first(n uint) bool {
	was := *f
	*f |= 1 << n
	return was&(1<<n) == 0
}

// parse reads a line; nil means that it is left to encoding/json.
func (p *callParser) parse(line []byte) *Syscall {
	p.b, p.pos = line, 0
	if !p.next('{') {
		return nil
	}
	// The type comes first in what is ours. This saves the attempt for others.
	if rest := line[p.pos:]; bytes.HasPrefix(rest, typeKey) && !bytes.HasPrefix(rest, typeSyscall) {
		return nil
	}
	s := new(Syscall)
	if !p.call(s) {
		return nil
	}
	p.space()
	if p.pos != len(line) {
		return nil
	}
	return s
}

var (
	typeKey     = []byte(`"type":"`)
	typeSyscall = []byte(`"type":"syscall"`)
)

// call reads the fields after the opening brace.
func (p *callParser) call(s *Syscall) bool {
	var f seen
	for {
		key, ok := p.key()
		if !ok {
			return false
		}
		switch string(key) {
		case "type":
			typ, plain := p.plain()
			ok = f.first(0) && plain && string(typ) == "syscall"
		case "t":
			ok = f.first(1) && p.micros(&s.T)
		case "pid":
			ok = f.first(2) && integer(p, &s.PID)
		case "tid":
			ok = f.first(3) && integer(p, &s.TID)
		case "name":
			ok = f.first(4) && p.str(&s.Name)
		case "dirfd":
			ok = f.first(5) && optInteger(p, &s.DirFD)
		case "fd":
			ok = f.first(6) && optInteger(p, &s.FD)
		case "newfd":
			ok = f.first(7) && optInteger(p, &s.NewFD)
		case "path":
			ok = f.first(8) && p.text(&s.Path)
		case "path_truncated":
			ok = f.first(9) && p.boolean(&s.PathTruncated)
		case "flags":
			ok = f.first(10) && p.str(&s.Flags)
		case "mode":
			ok = f.first(11) && optInteger(p, &s.Mode)
		case "count":
			ok = f.first(12) && optInteger(p, &s.Count)
		case "offset":
			ok = f.first(13) && optInteger(p, &s.Offset)
		case "of_pid":
			ok = f.first(23) && integer(p, &s.OfPID)
		case "ret":
			ok = f.first(14) && optInteger(p, &s.Ret)
		case "errno":
			ok = f.first(15) && p.str(&s.Errno)
		case "dur_us":
			ok = f.first(16) && optInteger(p, &s.DurUS)
		case "unfinished":
			ok = f.first(17) && p.boolean(&s.Unfinished)
		case "resumed":
			ok = f.first(18) && p.boolean(&s.Resumed)
		case "target":
			s.Target = new(Target)
			ok = f.first(19) && p.target(s.Target)
		case "counterpart":
			ok = f.first(20) && p.counterparts(&s.Counterpart)
		case "data":
			ok = f.first(21) && p.base64(&s.Data)
		case "rewritten":
			s.Rewritten = new(Rewrite)
			ok = f.first(22) && p.rewrite(s.Rewritten)
		default:
			ok = p.unknown(key)
		}
		if !ok {
			return false
		}
		if more, ok := p.more('}'); !more {
			return ok && f&1 != 0 // it said that it is a syscall
		}
	}
}

func (p *callParser) target(t *Target) bool {
	if !p.next('{') {
		return false
	}
	var f seen
	for {
		key, ok := p.key()
		if !ok || !p.targetField(key, t, &f) {
			return false
		}
		if more, ok := p.more('}'); !more {
			return ok
		}
	}
}

func (p *callParser) targetField(key []byte, t *Target, f *seen) bool {
	switch string(key) {
	case "kind":
		return f.first(0) && p.str((*string)(&t.Kind))
	case "link":
		return f.first(1) && p.text(&t.Link)
	case "dev":
		return f.first(2) && integer(p, &t.Dev)
	case "ino":
		return f.first(3) && integer(p, &t.Ino)
	case "serial":
		return f.first(7) && integer(p, &t.Serial)
	case "error":
		return f.first(4) && p.str(&t.Error)
	}
	return p.unknown(key)
}

func (p *callParser) counterparts(list *[]Counterpart) bool {
	if !p.next('[') {
		return false
	}
	for {
		if !p.next('{') {
			return false // also an empty list
		}
		*list = append(*list, Counterpart{})
		c := &(*list)[len(*list)-1]
		var f seen
		for more := true; more; {
			key, ok := p.key()
			if !ok {
				return false
			}
			switch string(key) {
			case "pid":
				ok = f.first(5) && integer(p, &c.PID)
			case "fd":
				ok = f.first(6) && optInteger(p, &c.FD)
			default:
				ok = p.targetField(key, &c.Target, &f)
			}
			if !ok {
				return false
			}
			if more, ok = p.more('}'); !ok {
				return false
			}
		}
		if more, ok := p.more(']'); !more {
			return ok
		}
	}
}

func (p *callParser) rewrite(r *Rewrite) bool {
	if !p.next('{') {
		return false
	}
	var f seen
	for {
		key, ok := p.key()
		if !ok {
			return false
		}
		switch string(key) {
		case "path":
			ok = f.first(0) && p.text(&r.Path)
		case "target":
			ok = f.first(1) && p.target(&r.Target)
		default:
			ok = p.unknown(key)
		}
		if !ok {
			return false
		}
		if more, ok := p.more('}'); !more {
			return ok
		}
	}
}

// space passes over white space.
func (p *callParser) space() {
	for p.pos < len(p.b) {
		switch p.b[p.pos] {
		case ' ', '\n', '\t', '\r':
			p.pos++
		default:
			return
		}
	}
}

// next takes c, after white space.
func (p *callParser) next(c byte) bool {
	if p.pos < len(p.b) && p.b[p.pos] > ' ' { // the usual case, without a call
		if p.b[p.pos] != c {
			return false
		}
		p.pos++
		return true
	}
	p.space()
	if p.pos == len(p.b) || p.b[p.pos] != c {
		return false
	}
	p.pos++
	return true
}

// more takes a comma, or the closing bracket that ends the object or list.
func (p *callParser) more(closing byte) (more, ok bool) {
	if p.next(',') {
		return true, true
	}
	return false, p.next(closing)
}

// key takes a field's name and the colon.
func (p *callParser) key() ([]byte, bool) {
	k, ok := p.plain()
	return k, ok && p.next(':')
}

// plain takes a string that has no escapes and only ASCII, and gives the text.
func (p *callParser) plain() ([]byte, bool) {
	if !p.next('"') {
		return nil, false
	}
	return p.plainRest()
}

// plainRest is plain after the opening quote. What it refuses, it does not take.
func (p *callParser) plainRest() ([]byte, bool) {
	b := p.b[p.pos:]
	n := 0
	// Eight bytes at a time: a byte's high bit in odd is set where the byte, or
	// one before it, is a quote, a backslash, a control character or not ASCII.
	for ; n+8 <= len(b); n += 8 {
		const ones, highs = 0x0101010101010101, 0x8080808080808080
		v := binary.LittleEndian.Uint64(b[n:])
		quote, slash := v^'"'*ones, v^'\\'*ones
		odd := ((v - ' '*ones) | (quote - ones) | (slash - ones) | v) & highs
		if odd != 0 {
			n += bits.TrailingZeros64(odd) / 8
			break
		}
	}
	for ; n < len(b); n++ {
		if c := b[n]; !plainByte[c] {
			if c != '"' {
				break
			}
			p.pos += n + 1
			return b[:n], true
		}
	}
	return nil, false
}

func (p *callParser) str(s *string) bool {
	b, ok := p.plain()
	if ok {
		*s = p.share(b)
	}
	return ok
}

// text takes any string.
func (p *callParser) text(t *Text) bool {
	if !p.next('"') {
		return false
	}
	if b, ok := p.plainRest(); ok {
		*t = Text(p.share(b))
		return true
	}
	start := p.pos - 1
	for p.pos < len(p.b) {
		switch c := p.b[p.pos]; {
		case c == '"':
			p.pos++
			return t.UnmarshalJSON(p.b[start:p.pos]) == nil
		case c == '\\':
			p.pos += 2
		case c < ' ':
			return false
		default:
			p.pos++
		}
	}
	return false
}

// share gives b as a string, the one from before where it can.
func (p *callParser) share(b []byte) string {
	if len(b) > maxShared {
		return string(b)
	}
	s := &p.strings[maphash.Bytes(p.seed, b)%uint64(len(p.strings))]
	if *s != string(b) {
		*s = string(b)
	}
	return *s
}

// digits takes a number without sign, fraction or exponent; at most 19 digits,
// so that it fits. What follows it is looked at by the caller.
func (p *callParser) digits() (v uint64, ok bool) {
	start := p.pos
	for p.pos < len(p.b) && p.pos-start < 20 {
		d := p.b[p.pos] - '0'
		if d > 9 {
			break
		}
		v = v*10 + uint64(d)
		p.pos++
	}
	n := p.pos - start
	return v, n == 1 || n > 1 && n < 20 && p.b[start] != '0'
}

// sign takes a minus.
func (p *callParser) sign() (minus bool) {
	p.space()
	if p.pos < len(p.b) && p.b[p.pos] == '-' {
		p.pos++
		return true
	}
	return false
}

// integer takes a whole number that fits the type.
func integer[T ~int | ~int32 | ~int64 | ~uint32 | ~uint64](p *callParser, v *T) bool {
	minus := p.sign()
	u, ok := p.digits()
	if minus {
		*v = T(-u)
		return ok && *v <= 0 && int64(*v) == -int64(u) && int64(u) >= 0 && ^T(0) < 0
	}
	*v = T(u)
	return ok && *v >= 0 && uint64(*v) == u
}

func optInteger[T FD | int64 | uint32 | uint64](p *callParser, o *Opt[T]) bool {
	o.Known = true
	return integer(p, &o.Val)
}

// micros takes seconds with exactly six decimals. Up to maxMicros the result
// is what [Micros.UnmarshalJSON] makes of it through a float64.
func (p *callParser) micros(m *Micros) bool {
	const maxMicros = 1e14 // three years
	minus := p.sign()
	sec, ok := p.digits()
	if !ok || sec >= maxMicros/1e6 || p.pos == len(p.b) || p.b[p.pos] != '.' {
		return false
	}
	p.pos++
	v, end := sec, p.pos+6
	if end > len(p.b) {
		return false
	}
	for ; p.pos < end; p.pos++ {
		d := p.b[p.pos] - '0'
		if d > 9 {
			return false
		}
		v = v*10 + uint64(d)
	}
	*m = Micros(v)
	if minus {
		*m = -*m
	}
	return true
}

func (p *callParser) boolean(v *bool) bool {
	p.space()
	*v = p.word("true")
	return *v || p.word("false")
}

// word takes a literal.
func (p *callParser) word(w string) bool {
	if len(p.b)-p.pos < len(w) || string(p.b[p.pos:p.pos+len(w)]) != w {
		return false
	}
	p.pos += len(w)
	return true
}

func (p *callParser) base64(data *[]byte) bool {
	b, ok := p.plain()
	if !ok {
		return false
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(b)))
	n, err := base64.StdEncoding.Decode(out, b)
	*data = out[:n]
	return err == nil
}

// maxNesting bounds how deep a value of an unknown field may go.
const maxNesting = 16

// unknown passes over the value of a field that is not ours. encoding/json
// takes "Path" for path: names that could be such a case are not for us.
func (p *callParser) unknown(key []byte) bool {
	for _, c := range key {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return p.skip(maxNesting)
}

// skip passes over a value.
func (p *callParser) skip(depth int) bool {
	p.space()
	if p.pos == len(p.b) || depth == 0 {
		return false
	}
	switch p.b[p.pos] {
	case '"':
		var t Text
		return p.text(&t)
	case '{':
		return p.skipList(depth, '}')
	case '[':
		return p.skipList(depth, ']')
	case 't':
		return p.word("true")
	case 'f':
		return p.word("false")
	case 'n':
		return p.word("null")
	}
	return p.skipNumber()
}

func (p *callParser) skipList(depth int, closing byte) bool {
	p.pos++
	if p.next(closing) {
		return true
	}
	for {
		if closing == '}' {
			if _, ok := p.key(); !ok {
				return false
			}
		}
		if !p.skip(depth - 1) {
			return false
		}
		if more, ok := p.more(closing); !more {
			return ok
		}
	}
}

// skipNumber passes over a number without exponent, of at most 19 digits
// before the point.
func (p *callParser) skipNumber() bool {
	p.sign()
	if _, ok := p.digits(); !ok {
		return false
	}
	if p.pos == len(p.b) || p.b[p.pos] != '.' {
		return true
	}
	p.pos++
	start := p.pos
	for p.pos < len(p.b) && p.b[p.pos]-'0' <= 9 {
		p.pos++
	}
	return p.pos > start
}
