package event

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unsafe"
)

// types has one of each type of event.
var types = []Event{new(Session), new(Syscall), new(Descriptor), new(Inferior), new(LinkMap), new(Blocked), new(Stack), new(Wait), new(Search), new(Lost), new(End)}

// record is a type of event. Its fields, by which it is written and read fast, are
// those of the struct, by their tags for encoding/json: there is no other table.
// Without fields (one of them is a map or a time) it is left to encoding/json.
type record struct {
	ptr    reflect.Type
	head   string // how its line begins
	fields object
}

var (
	recordOf    = make(map[reflect.Type]*record)
	recordNamed = make(map[string]*record)
)

func init() {
	for _, ev := range types {
		r := &record{ptr: reflect.TypeOf(ev), head: `{"type":"` + ev.Type() + `"`}
		r.fields, _ = objectOf(r.ptr.Elem())
		recordOf[r.ptr], recordNamed[ev.Type()] = r, r
	}
}

func (r *record) new() Event { return reflect.New(r.ptr.Elem()).Interface().(Event) }

// codec writes and reads the values of one type exactly as encoding/json does, but
// without its reflection and garbage. Each function gets the address of a value of
// that type. What is rare is refused, and then left to encoding/json: what was
// appended or set until then is of no use.
type codec struct {
	write func(b []byte, at unsafe.Pointer) (_ []byte, ok bool)
	read  func(p *parser, at unsafe.Pointer) (ok bool)
	zero  func(at unsafe.Pointer) bool // what omitempty and omitzero leave out
}

// field is one of a struct, or of a struct embedded there.
type field struct {
	codec
	name   string
	key    string // a comma and the name, as it is written
	offset uintptr
	omit   bool
}

type object []field

// objectOf derives the fields of a struct; ok is false where one has no codec.
func objectOf(t reflect.Type) (o object, ok bool) {
	for i := range t.NumField() {
		sf := t.Field(i)
		if sf.Anonymous {
			inner, ok := objectOf(sf.Type)
			if !ok {
				return nil, false
			}
			for _, f := range inner {
				f.offset += sf.Offset
				o = append(o, f)
			}
			continue
		}
		c, ok := codecOf(sf.Type)
		if !ok {
			return nil, false
		}
		name, options, _ := strings.Cut(sf.Tag.Get("json"), ",")
		o = append(o, field{codec: c, name: name, key: `,"` + name + `":`, offset: sf.Offset, omit: options != ""})
	}
	return o, len(o) <= 64 // see read
}

// write appends the fields, each with a comma before it.
func (o object) write(b []byte, at unsafe.Pointer) (_ []byte, ok bool) {
	for i := range o {
		f := &o[i]
		v := unsafe.Add(at, f.offset)
		if f.omit && f.zero(v) {
			continue
		}
		if b, ok = f.write(append(b, f.key...), v); !ok {
			return b, false
		}
	}
	return b, true
}

// read reads from the first name to the closing brace.
func (o object) read(p *parser, at unsafe.Pointer) bool {
	var seen uint64 // the fields that were there
	for i := -1; ; {
		next := o.next(p, i+1)
		if next < 0 {
			key, ok := p.key()
			if !ok {
				return false
			}
			if next = o.named(key); next < 0 {
				return false
			}
		}
		i = next
		if seen&(1<<i) != 0 || !o[i].read(p, unsafe.Add(at, o[i].offset)) {
			return false
		}
		seen |= 1 << i
		if more, ok := p.more('}'); !more {
			return ok
		}
	}
}

// next takes the name of a field from that one on, as we write it; -1 where it is
// another, or written otherwise.
func (o object) next(p *parser, from int) int {
	rest := p.b[p.pos:]
	for i := from; i < len(o) && len(rest) > 3; i++ {
		key := o[i].key[1:]
		if rest[1] == key[1] && rest[2] == key[2] && len(rest) > len(key) && string(rest[:len(key)]) == key {
			p.pos += len(key)
			return i
		}
	}
	return -1
}

// named gives the field of that name, -1 if there is none.
func (o object) named(name []byte) int {
	return slices.IndexFunc(o, func(f field) bool { return f.name == string(name) })
}

var codecs = map[reflect.Type]codec{
	reflect.TypeFor[Micros](): codecFor(func(b []byte, v Micros) ([]byte, bool) {
		b, _ = v.AppendText(b)
		return b, v != math.MinInt64 // which has no text
	}, (*parser).micros),
	reflect.TypeFor[Hex](): codecFor(func(b []byte, v Hex) ([]byte, bool) {
		return append(strconv.AppendUint(append(b, `"0x`...), uint64(v), 16), '"'), true
	}, (*parser).hex),
	reflect.TypeFor[Text](): codecFor(func(b []byte, v Text) ([]byte, bool) { return v.AppendJSON(b), true }, (*parser).text),
	reflect.TypeFor[[]byte](): {
		write: func(b []byte, at unsafe.Pointer) ([]byte, bool) {
			v := *(*[]byte)(at)
			return append(base64.StdEncoding.AppendEncode(append(b, '"'), v), '"'), v != nil
		},
		read: func(p *parser, at unsafe.Pointer) bool { return p.base64((*[]byte)(at)) },
		zero: func(at unsafe.Pointer) bool { return len(*(*[]byte)(at)) == 0 },
	},
}

// codecFor makes a codec of functions that know the type.
func codecFor[T comparable](write func([]byte, T) ([]byte, bool), read func(*parser, *T) bool) codec {
	return codec{
		write: func(b []byte, at unsafe.Pointer) ([]byte, bool) { return write(b, *(*T)(at)) },
		read:  func(p *parser, at unsafe.Pointer) bool { return read(p, (*T)(at)) },
		zero:  func(at unsafe.Pointer) bool { var none T; return *(*T)(at) == none },
	}
}

// codecOf gives the codec of a type; ok is false where encoding/json has to do it.
func codecOf(t reflect.Type) (_ codec, ok bool) {
	if c, ok := codecs[t]; ok {
		return c, true
	}
	if t.Implements(reflect.TypeFor[optional]()) {
		return optCodec(t)
	}
	if ptr := reflect.PointerTo(t); ptr.Implements(reflect.TypeFor[json.Marshaler]()) || ptr.Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return codec{}, false
	}
	switch t.Kind() {
	case reflect.Bool:
		return codecFor(func(b []byte, v bool) ([]byte, bool) { return strconv.AppendBool(b, v), true }, (*parser).boolean), true
	case reflect.Int:
		return numberCodec[int](), true
	case reflect.Int32:
		return numberCodec[int32](), true
	case reflect.Int64:
		return numberCodec[int64](), true
	case reflect.Uint32:
		return numberCodec[uint32](), true
	case reflect.Uint64:
		return numberCodec[uint64](), true
	case reflect.String:
		return codecFor(appendPlain, (*parser).str), true
	case reflect.Struct:
		return structCodec(t)
	case reflect.Pointer:
		return pointerCodec(t)
	case reflect.Slice:
		return sliceCodec(t)
	}
	return codec{}, false
}

func numberCodec[T int | int32 | int64 | uint32 | uint64]() codec {
	return codecFor(func(b []byte, v T) ([]byte, bool) {
		if v < 0 {
			return strconv.AppendInt(b, int64(v), 10), true
		}
		return strconv.AppendUint(b, uint64(v), 10), true
	}, integer[T])
}

// optCodec is that of an [Opt]. One that is not known but has a value is not zero.
func optCodec(t reflect.Type) (_ codec, ok bool) {
	val, _ := t.FieldByName("Val")
	known, _ := t.FieldByName("Known")
	c, ok := codecOf(val.Type)
	return codec{
		write: func(b []byte, at unsafe.Pointer) ([]byte, bool) {
			if !*(*bool)(unsafe.Add(at, known.Offset)) {
				return append(b, "null"...), true
			}
			return c.write(b, unsafe.Add(at, val.Offset))
		},
		read: func(p *parser, at unsafe.Pointer) bool {
			*(*bool)(unsafe.Add(at, known.Offset)) = true
			return c.read(p, unsafe.Add(at, val.Offset))
		},
		zero: func(at unsafe.Pointer) bool {
			return !*(*bool)(unsafe.Add(at, known.Offset)) && c.zero(unsafe.Add(at, val.Offset))
		},
	}, ok
}

func structCodec(t reflect.Type) (_ codec, ok bool) {
	o, ok := objectOf(t)
	return codec{
		write: func(b []byte, at unsafe.Pointer) ([]byte, bool) {
			start := len(b)
			b, ok := o.write(b, at)
			if len(b) == start {
				b = append(b, '{')
			}
			b[start] = '{' // in the place of the first comma
			return append(b, '}'), ok
		},
		read: func(p *parser, at unsafe.Pointer) bool { return p.next('{') && o.read(p, at) },
		zero: func(unsafe.Pointer) bool { return false }, // for omitempty no struct is empty
	}, ok
}

func pointerCodec(t reflect.Type) (_ codec, ok bool) {
	c, ok := codecOf(t.Elem())
	return codec{
		write: func(b []byte, at unsafe.Pointer) ([]byte, bool) {
			v := *(*unsafe.Pointer)(at)
			if v == nil {
				return b, false
			}
			return c.write(b, v)
		},
		read: func(p *parser, at unsafe.Pointer) bool {
			v := reflect.New(t.Elem()).UnsafePointer()
			*(*unsafe.Pointer)(at) = v
			return c.read(p, v)
		},
		zero: func(at unsafe.Pointer) bool { return *(*unsafe.Pointer)(at) == nil },
	}, ok
}

func sliceCodec(t reflect.Type) (_ codec, ok bool) {
	c, ok := codecOf(t.Elem())
	size := t.Elem().Size()
	return codec{
		write: func(b []byte, at unsafe.Pointer) (_ []byte, ok bool) {
			v := reflect.NewAt(t, at).Elem()
			if v.IsNil() {
				return b, false
			}
			b = append(b, '[')
			for i := range v.Len() {
				if i > 0 {
					b = append(b, ',')
				}
				if b, ok = c.write(b, unsafe.Add(v.UnsafePointer(), uintptr(i)*size)); !ok {
					return b, false
				}
			}
			return append(b, ']'), true
		},
		read: func(p *parser, at unsafe.Pointer) bool {
			if !p.next('[') {
				return false
			}
			v := reflect.NewAt(t, at).Elem()
			for n := 0; ; n++ {
				v.Grow(1)
				v.SetLen(n + 1)
				if !c.read(p, unsafe.Add(v.UnsafePointer(), uintptr(n)*size)) {
					return false // also an empty list
				}
				if more, ok := p.more(']'); !more {
					return ok
				}
			}
		},
		zero: func(at unsafe.Pointer) bool { return len(*(*[]struct{})(at)) == 0 }, // whatever it is a slice of
	}, ok
}

// appendPlain appends a string that needs no escapes; it refuses others.
func appendPlain(b []byte, s string) (_ []byte, ok bool) {
	for i := range len(s) {
		if !plainByte[s[i]] {
			return b, false
		}
	}
	return append(append(append(b, '"'), s...), '"'), true
}

// plainByte has the bytes that mean themselves within a JSON string and that
// every encoder here writes as they are.
var plainByte = func() (t [256]bool) {
	for c := ' '; c < 0x7f; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()
