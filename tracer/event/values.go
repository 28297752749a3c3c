package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Opt is a value that may not be known. The zero Opt is "not known"; as JSON
// the field is then absent (omitzero).
type Opt[T comparable] struct {
	Val   T
	Known bool
}

// Some is a known value.
func Some[T comparable](v T) Opt[T] { return Opt[T]{Val: v, Known: true} }

// Or gives the value, or def where it is not known.
func (o Opt[T]) Or(def T) T {
	if o.Known {
		return o.Val
	}
	return def
}

// Is says whether the value is known and equal to v.
func (o Opt[T]) Is(v T) bool { return o.Known && o.Val == v }

func (Opt[T]) optional() {}

// optional is an Opt of any type.
type optional interface{ optional() }

// MarshalJSON writes the bare value, null where it is not known.
func (o Opt[T]) MarshalJSON() ([]byte, error) {
	if !o.Known {
		return []byte("null"), nil
	}
	if m, ok := any(o.Val).(json.Marshaler); ok {
		return m.MarshalJSON() // whether <, > and & are escaped is for the caller's encoder
	}
	return json.Marshal(o.Val)
}

// UnmarshalJSON reads a bare value or null.
func (o *Opt[T]) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*o = Opt[T]{}
		return nil
	}
	if err := json.Unmarshal(b, &o.Val); err != nil {
		return err
	}
	o.Known = true
	return nil
}

// Micros is a time in microseconds; as JSON, seconds with six decimals.
type Micros int64

// AppendText appends seconds with six decimals.
func (m Micros) AppendText(b []byte) ([]byte, error) {
	v := int64(m)
	if v < 0 {
		b = append(b, '-')
		v = -v
	}
	b = strconv.AppendInt(b, v/1e6, 10)
	f := uint32(v % 1e6)
	return append(b, '.', byte('0'+f/1e5), byte('0'+f/1e4%10), byte('0'+f/1e3%10),
		byte('0'+f/100%10), byte('0'+f/10%10), byte('0'+f%10)), nil
}

func (m Micros) String() string {
	b, _ := m.AppendText(nil)
	return string(b)
}

// MarshalJSON writes a JSON number.
func (m Micros) MarshalJSON() ([]byte, error) { return m.AppendText(nil) }

// UnmarshalJSON reads a JSON number of seconds.
func (m *Micros) UnmarshalJSON(b []byte) error {
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil {
		return fmt.Errorf("time %q: not a number of seconds", b)
	}
	if f > 1e12 || f < -1e12 {
		return fmt.Errorf("time %q: out of range", b)
	}
	if f < 0 {
		*m = Micros(f*1e6 - 0.5)
	} else {
		*m = Micros(f*1e6 + 0.5)
	}
	return nil
}

// Hex is an address or offset; as JSON, a string like "0x7f10".
type Hex uint64

func (h Hex) String() string { return "0x" + strconv.FormatUint(uint64(h), 16) }

// MarshalJSON writes a quoted hexadecimal number.
func (h Hex) MarshalJSON() ([]byte, error) { return []byte(`"` + h.String() + `"`), nil }

// UnmarshalJSON reads a quoted hexadecimal number.
func (h *Hex) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	digits, ok := strings.CutPrefix(s, "0x")
	v, err := strconv.ParseUint(digits, 16, 64)
	if !ok || err != nil {
		return fmt.Errorf("%q: not a hexadecimal number like 0x7f10", s)
	}
	*h = Hex(v)
	return nil
}

// Text is what a process wrote: any bytes. As JSON, bytes that are not UTF-8
// become the lone surrogates U+DC80 to U+DCFF, one a byte, so that nothing is
// lost; Python knows this as surrogateescape (PEP 383).
type Text string

// AppendJSON appends the text as a quoted JSON string.
func (t Text) AppendJSON(b []byte) []byte {
	const digits = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(t); {
		start := i
		for i < len(t) && plainByte[t[i]] {
			i++
		}
		b = append(b, t[start:i]...)
		if i == len(t) {
			break
		}
		c := t[i]
		if c < utf8.RuneSelf {
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c == '\n':
				b = append(b, '\\', 'n')
			case c == '\t':
				b = append(b, '\\', 't')
			default: // a control character
				b = append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(string(t[i:]))
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(b, '\\', 'u', 'd', 'c', digits[c>>4], digits[c&15])
		case unprintable(r):
			b = append(b, '\\', 'u', digits[r>>12&15], digits[r>>8&15], digits[r>>4&15], digits[r&15])
		default:
			b = append(b, t[i:i+n]...)
		}
		i += n
	}
	return append(b, '"')
}

// unprintable are C1 controls, line separators and direction marks below
// U+10000: escaped, so that a recording can be shown in a terminal.
func unprintable(r rune) bool {
	return r < 0xa0 || r == 0x61c || r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e ||
		r >= 0x2060 && r <= 0x206f || r == 0xfeff
}

// MarshalJSON implements [json.Marshaler].
func (t Text) MarshalJSON() ([]byte, error) { return t.AppendJSON(make([]byte, 0, len(t)+2)), nil }

var errNotString = errors.New("not a JSON string")

// UnmarshalJSON implements [json.Unmarshaler].
func (t *Text) UnmarshalJSON(b []byte) error {
	if len(b) < 2 || b[0] != '"' || b[len(b)-1] != '"' {
		return errNotString
	}
	b = b[1 : len(b)-1]
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); {
		if b[i] != '\\' {
			out = append(out, b[i])
			i++
			continue
		}
		if i+1 >= len(b) {
			return errNotString
		}
		switch c := b[i+1]; c {
		case '"', '\\', '/':
			out, i = append(out, c), i+2
		case 'b':
			out, i = append(out, '\b'), i+2
		case 'f':
			out, i = append(out, '\f'), i+2
		case 'n':
			out, i = append(out, '\n'), i+2
		case 'r':
			out, i = append(out, '\r'), i+2
		case 't':
			out, i = append(out, '\t'), i+2
		case 'u':
			r, err := hex4(b[i+2:])
			if err != nil {
				return err
			}
			i += 6
			if utf16.IsSurrogate(r) {
				if len(b) >= i+6 && b[i] == '\\' && b[i+1] == 'u' {
					if low, err := hex4(b[i+2:]); err == nil {
						if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
							out, i = utf8.AppendRune(out, pair), i+6
							continue
						}
					}
				}
				if r >= 0xdc80 && r <= 0xdcff {
					out = append(out, byte(r))
					continue
				}
			}
			out = utf8.AppendRune(out, r)
		default:
			return errNotString
		}
	}
	*t = Text(out)
	return nil
}

func hex4(b []byte) (rune, error) {
	if len(b) < 4 {
		return 0, errNotString
	}
	v, err := strconv.ParseUint(string(b[:4]), 16, 16)
	if err != nil {
		return 0, errNotString
	}
	return rune(v), nil
}
