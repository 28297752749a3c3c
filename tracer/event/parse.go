package event

import (
	"encoding/base64"
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"reflect"
	"strconv"
)

// parser reads lines of events in one pass and almost without garbage. It is
// written for what [Writer] writes: the type first, then the fields in any order and
// with any white space. Where a line has anything else (escapes in plain strings,
// numbers in an unusual form, a field that is not ours or there twice, null, errors)
// it gives up, and encoding/json decides: so what it accepts, and as what, is never different.
type parser struct {
	b   []byte
	pos int

	seed maphash.Seed
	// strings are texts that occur again and again: names of calls, flags,
	// paths. A text takes the place of another with the same hash.
	strings [1 << 11]string
}

// maxShared bounds the length of a string that is kept for sharing.
const maxShared = 256

func newParser() *parser { return &parser{seed: maphash.MakeSeed()} }

// parse reads a line; nil means that it is left to encoding/json.
func (p *parser) parse(line []byte) Event {
	p.b, p.pos = line, 0
	if !p.next('{') {
		return nil
	}
	if key, ok := p.key(); !ok || string(key) != typeKey {
		return nil
	}
	typ, _ := p.plain()
	r := recordNamed[string(typ)]
	if r == nil || r.fields == nil {
		return nil
	}
	v := reflect.New(r.ptr.Elem())
	if more, ok := p.more('}'); !ok || more && !r.fields.read(p, v.UnsafePointer()) {
		return nil
	}
	p.space()
	if p.pos != len(line) {
		return nil
	}
	return v.Interface().(Event)
}

const typeKey = "type"

// space passes over white space.
func (p *parser) space() {
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
func (p *parser) next(c byte) bool {
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
func (p *parser) more(closing byte) (more, ok bool) {
	if p.next(',') {
		return true, true
	}
	return false, p.next(closing)
}

// key takes a field's name and the colon.
func (p *parser) key() ([]byte, bool) {
	k, ok := p.plain()
	return k, ok && p.next(':')
}

// plain takes a string that has no escapes and only ASCII, and gives the text.
func (p *parser) plain() ([]byte, bool) {
	if !p.next('"') {
		return nil, false
	}
	return p.plainRest()
}

// plainRest is plain after the opening quote. What it refuses, it does not take.
func (p *parser) plainRest() ([]byte, bool) {
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

func (p *parser) str(s *string) bool {
	b, ok := p.plain()
	if ok {
		*s = p.share(b)
	}
	return ok
}

// text takes any string.
func (p *parser) text(t *Text) bool {
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

// hex takes a quoted number like 0x7f10.
func (p *parser) hex(h *Hex) bool {
	b, ok := p.plain()
	if !ok || len(b) < 3 || b[0] != '0' || b[1] != 'x' {
		return false
	}
	v, err := strconv.ParseUint(string(b[2:]), 16, 64)
	*h = Hex(v)
	return err == nil
}

// share gives b as a string, the one from before where it can.
func (p *parser) share(b []byte) string {
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
func (p *parser) digits() (v uint64, ok bool) {
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
func (p *parser) sign() (minus bool) {
	p.space()
	if p.pos < len(p.b) && p.b[p.pos] == '-' {
		p.pos++
		return true
	}
	return false
}

// integer takes a whole number that fits the type.
func integer[T int | int32 | int64 | uint32 | uint64](p *parser, v *T) bool {
	minus := p.sign()
	u, ok := p.digits()
	if minus {
		*v = T(-u)
		return ok && *v <= 0 && int64(*v) == -int64(u) && int64(u) >= 0 && ^T(0) < 0
	}
	*v = T(u)
	return ok && *v >= 0 && uint64(*v) == u
}

// micros takes seconds with exactly six decimals. Up to maxMicros the result
// is what [Micros.UnmarshalJSON] makes of it through a float64.
func (p *parser) micros(m *Micros) bool {
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

func (p *parser) boolean(v *bool) bool {
	p.space()
	*v = p.word("true")
	return *v || p.word("false")
}

// word takes a literal.
func (p *parser) word(w string) bool {
	if len(p.b)-p.pos < len(w) || string(p.b[p.pos:p.pos+len(w)]) != w {
		return false
	}
	p.pos += len(w)
	return true
}

func (p *parser) base64(data *[]byte) bool {
	b, ok := p.plain()
	if !ok {
		return false
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(b)))
	n, err := base64.StdEncoding.Decode(out, b)
	*data = out[:n]
	return err == nil
}
