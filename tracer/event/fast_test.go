package event

import (
	"bytes"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
	"unsafe"
)

// random makes values that are mostly usual and sometimes at an edge.
type random struct{ *rand.Rand }

func (r random) one(n int) bool { return r.IntN(n) == 0 }

func (r random) uint() uint64 { return r.Uint64() >> r.IntN(64) }

func (r random) int() int64 {
	if r.one(8) {
		return []int64{0, -1, math.MinInt64, math.MaxInt64, math.MinInt32, math.MaxInt32, 1 << 32, 1 << 53}[r.IntN(8)]
	}
	v := int64(r.uint() >> 1)
	if r.one(3) {
		v = -v
	}
	return v
}

var textParts = []string{"/proc/self/fd/", "4", "/usr/lib/a.so", "O_RDONLY", "|", "ENOENT", "\"", "\\", "\n", "\t", "\b", "\f",
	"\r", "\x00", "\x1b[31m", "\x7f", "\xff", "\xed\xb0\x80", "\u00e9", "\u0085", "\u202e", "\u2028", "\ufffd", "\U0001F600", "<&>", " "}

func (r random) string() string {
	if r.one(2) {
		return []string{"", "openat", "read", "O_RDONLY|O_CLOEXEC", "pipe", "regular"}[r.IntN(6)]
	}
	var s strings.Builder
	// The first parts are plain: most strings are.
	parts := textParts[:6]
	if r.one(4) {
		parts = textParts
	}
	for range r.IntN(5) {
		s.WriteString(parts[r.IntN(len(parts))])
	}
	if r.one(50) {
		s.WriteString(strings.Repeat("x", maxShared))
	}
	return s.String()
}

// fill sets a value of any type that events have. So a new field or type is tested
// like the others, without a line here.
func (r random) fill(v reflect.Value) {
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(r.int()&math.MaxInt32, 0).UTC()))
		return
	case optional:
		switch {
		case r.one(20): // a value that is not known: written as null
			r.fill(v.FieldByName("Val"))
		case r.one(2):
			r.fill(v.FieldByName("Val"))
			v.FieldByName("Known").SetBool(true)
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			r.fill(v.Field(i))
		}
	case reflect.Pointer:
		if r.one(2) {
			v.Set(reflect.New(v.Type().Elem()))
			r.fill(v.Elem())
		}
	case reflect.Slice:
		if r.one(8) {
			v.Set(reflect.MakeSlice(v.Type(), 0, 0)) // empty, and not nil
		}
		for range max(0, r.IntN(6)-3) {
			e := reflect.New(v.Type().Elem()).Elem()
			r.fill(e)
			v.Set(reflect.Append(v, e))
		}
	case reflect.Map:
		if r.one(2) {
			v.Set(reflect.ValueOf(map[string]uint64{"mnt": r.uint()}))
		}
	case reflect.String:
		v.SetString(r.string())
	case reflect.Bool:
		v.SetBool(r.one(5))
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint(r.uint())
	default:
		v.SetInt(r.int())
	}
}

// event is a random one of the type.
func (r random) event(of *record) Event {
	ev := of.new()
	r.fill(reflect.ValueOf(ev).Elem())
	if s, ok := ev.(*Session); ok {
		s.Schema = Schema
	}
	return ev
}

func (r random) syscall() *Syscall { return r.event(recordNamed["syscall"]).(*Syscall) }

// encodesFast says whether an event is not left to encoding/json.
func encodesFast(ev Event) bool {
	r := recordOf[reflect.TypeOf(ev)]
	_, ok := r.fields.write(nil, reflect.ValueOf(ev).UnsafePointer())
	return ok && r.fields != nil
}

// The fast encoder writes byte for byte what encoding/json writes, and fails
// where that fails. The fast parser reads it as the same.
func TestFastPathIsJSON(t *testing.T) {
	for _, ev := range types {
		t.Run(ev.Type(), func(t *testing.T) {
			var fast, slow bytes.Buffer
			fw, sw := NewWriter(&fast), NewWriter(&slow)
			p := newParser()
			var encoded, parsed int
			const events = 2000
			for seed := range uint64(events) {
				ev := random{rand.New(rand.NewPCG(seed, 1))}.event(recordNamed[ev.Type()])
				fast.Reset()
				slow.Reset()
				ferr, serr := fw.Write(ev), sw.writeJSON(ev)
				if (ferr == nil) != (serr == nil) || ferr != nil && ferr.Error() != serr.Error() {
					t.Fatalf("%+v: %v, with encoding/json %v", ev, ferr, serr)
				}
				if !bytes.Equal(fast.Bytes(), slow.Bytes()) {
					t.Fatalf("%+v:\n got %swant %s", ev, fast.Bytes(), slow.Bytes())
				}
				if serr != nil {
					continue
				}
				if encodesFast(ev) {
					encoded++
				}
				if sameAsJSON(t, p, fast.Bytes()) {
					parsed++
				}
			}
			t.Logf("of %d events, %d encoded and %d parsed fast", events, encoded, parsed)
			// The rest has strings that no kernel gives, or numbers at an edge.
			if s := ev.Type(); s != "session" && s != "inferior" && (encoded < events/4 || parsed < events/20) {
				t.Errorf("of %d events, only %d were encoded and %d parsed fast", events, encoded, parsed)
			}
		})
	}
}

// sameAsJSON fails where the fast parser reads a line that encoding/json does
// not, or as something else; it says whether the fast parser did read it.
func sameAsJSON(t *testing.T, p *parser, line []byte) bool {
	t.Helper()
	got := p.parse(line)
	if got == nil {
		return false
	}
	want, err := decode(line)
	if err != nil {
		t.Fatalf("%q: read as %+v, with encoding/json %v", line, got, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%q:\n got %#v\nwant %#v", line, got, want)
	}
	return true
}

// Lines of our own, damaged and rearranged in many ways.
func TestFastParserOfDamagedLines(t *testing.T) {
	tokens := []string{`"type":"syscall",`, `"Type":"x",`, `"type":null,`, `"pid":1,`, `"PID":2,`, `"x_1":`, `null`, `true`, `{`, `}`, `[`, `]`, `,`, `:`, `"`,
		`\`, `\u0041`, `\udc80`, `\q`, ` `, "\t", "\r", "\n", "\x00", "\xff", "\u00e9", `-`, `0`, `1`, `9`, `.`, `.5`, `e3`, `1.000001`, `99999999999999999999`,
		`"data":"AAA",`, `"data":"AA==",`, `"counterpart":[],`, `"counterpart":[{}],`, `"target":{},`, `"target":null,`,
		`"z":{"a":[1,2.5,"q\n",{}]},`, `"z":[[]],`, `"z":-0.0,`, `"z":01,`, `"ſ":1,`, `"":1,`, `"rewritten":{"path":"x"},`}
	p := newParser()
	var lines [][]byte
	var buf bytes.Buffer
	w := NewWriter(&buf)
	for _, ev := range append(loopCalls(), examples()...) {
		buf.Reset()
		if err := w.Write(ev); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, bytes.Clone(buf.Bytes()))
	}
	parsed := 0
	const lineCount = 60000
	for seed := range uint64(lineCount) {
		r := rand.New(rand.NewPCG(seed, 2))
		line := bytes.Clone(lines[r.IntN(len(lines))])
		for range 1 + r.IntN(3) {
			i := r.IntN(len(line))
			if r.IntN(2) == 0 { // where a field may begin
				if c := bytes.IndexAny(line[i:], ",{[:"); c >= 0 {
					i += c + 1
				}
			}
			j := i
			if r.IntN(2) == 0 {
				j = min(len(line), i+r.IntN(4))
			}
			line = append(append(bytes.Clone(line[:i]), tokens[r.IntN(len(tokens))]...), line[j:]...)
		}
		if sameAsJSON(t, p, line) {
			parsed++
		}
	}
	t.Logf("%d of %d lines parsed fast", parsed, lineCount)
	if parsed < lineCount/50 {
		t.Errorf("only %d of %d lines were parsed fast", parsed, lineCount)
	}
}

func TestFastParser(t *testing.T) {
	p := newParser()
	for _, tc := range []struct {
		in   string
		fast bool
	}{
		{`{"type":"syscall"}`, true},
		{" { \"type\" : \"syscall\" ,\t\"t\" : 1.000001 , \"target\" : { \"ino\" : 3 , \"kind\":\"pipe\"} } \r\n", true},
		{`{"type":"syscall","new_field":{"a":[1,-2.5,"x\n\u0041",{"type":"y"},[],{}],"b":null},"z":true,"y":false,"name":"open"}`, false},
		{`{"type":"syscall","path":"a\udc80\ud83d\ude00\"\u00e9é"}`, true},
		{"{\"type\":\"syscall\",\"path\":\"\xff\"}", true},
		{`{"type":"syscall","ret":-0,"fd":-100,"offset":-999999999999999999,"target":{"ino":9999999999999999999}}`, true},
		{`{"type":"syscall","t":-12.000000,"data":"AAEC","counterpart":[{"pid":1},{"fd":2,"kind":"memfd","dev":1}]}`, true},
		{`{"type":"syscall","rewritten":{"path":"x","target":{"kind":"pipe"}}}`, true},
		{`{"type":"syscall","type":"syscall"}`, false},
		{`{"type":"syscall","Path":"x"}`, false},
		{`{"type":"syscall","pid":1,"pid":2}`, false},
		{`{"type":"syscall","target":{"kind":"a","kind":"b"}}`, false},
		{`{"type":"syscall","ret":null}`, false},
		{`{"type":"syscall","t":1}`, false},
		{`{"type":"syscall","t":1e3}`, false},
		{`{"type":"syscall","t":100000000.000000}`, false},
		{`{"type":"syscall","fd":2147483648}`, false},
		{`{"type":"syscall","count":-1}`, false},
		{`{"type":"syscall","count":-0}`, false},
		{`{"type":"syscall","count":01}`, false},
		{`{"type":"syscall","ret":18446744073709551615}`, false},
		{`{"type":"syscall","target":{"ino":18446744073709551615}}`, false},
		{`{"type":"syscall","name":"\u0041"}`, false},
		{"{\"type\":\"syscall\",\"name\":\"\xff\"}", false},
		{`{"type":"syscall"} x`, false},
		{`{"type":"syscall",}`, false},
		{`{"type":"syscall"`, false},
		{`{"type":"syscall","path":"x\`, false},
		{`{"type":"syscall","t":1.0`, false},
		{`{"type":"stack","frames":[{"pc":"0x7F","function":"f","line":3},{"strings":[{"slot":"0x1"}]}]}`, true},
		{`{"type":"lost","t":1.000001,"reason":"x"}`, true},
		{`{"type":"stack","frames":[]}`, false},
		{`{"type":"stack","frames":[{"pc":"0x"}]}`, false},
		{`{"type":"stack","frames":[{"pc":"0x-1"}]}`, false},
		{`{"type":"inferior","pid":1}`, false},
		{`{"type":"never","pid":1}`, false},
		{`{"t":1.000001,"type":"lost"}`, false},
		{`{"pid":1}`, false},
		{`{}`, false},
		{``, false},
		{"\n", false},
	} {
		if fast := sameAsJSON(t, p, []byte(tc.in)); fast != tc.fast {
			t.Errorf("%q: parsed fast %v, want %v", tc.in, fast, tc.fast)
		}
	}
}

// The times from t through a float64 and the fast parser's are the same up to
// the limit.
func TestFastMicros(t *testing.T) {
	p := newParser()
	r := random{rand.New(rand.NewPCG(1, 3))}
	for range 200000 {
		v := Micros(r.Int64N(1e14) >> r.IntN(48))
		if r.one(3) {
			v = -v
		}
		text, _ := v.AppendText(nil)
		var fast, slow Micros
		p.b, p.pos = text, 0
		if err := slow.UnmarshalJSON(text); err != nil || !p.micros(&fast) || fast != slow || fast != v {
			t.Fatalf("%s: %d, with encoding/json %d (%v)", text, fast, slow, err)
		}
	}
}

// An event stays what it was when more are read, whatever is shared; equal
// texts do share memory.
func TestEventsOutliveTheReader(t *testing.T) {
	var rec bytes.Buffer
	var want []Event
	w := NewWriter(&rec)
	for seed := range uint64(5000) {
		s := random{rand.New(rand.NewPCG(seed, 4))}.syscall()
		if err := w.Write(s); err != nil {
			continue
		}
		ev, err := decode(rec.Bytes()[bytes.LastIndexByte(rec.Bytes()[:rec.Len()-1], '\n')+1:])
		if err != nil {
			rec.Truncate(bytes.LastIndexByte(rec.Bytes()[:rec.Len()-1], '\n') + 1) // a time that cannot be read
			continue
		}
		want = append(want, ev)
	}
	r := NewReader(&rec)
	var got []Event
	for {
		ev, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, ev)
	}
	if len(want) < 4000 || !reflect.DeepEqual(got, want) {
		t.Fatalf("%d events read are not the %d written", len(got), len(want))
	}
	a, _ := NewReader(strings.NewReader(`{"type":"syscall","name":"openat","flags":"openat"}`)).Next()
	if s := a.(*Syscall); unsafe.StringData(s.Name) != unsafe.StringData(s.Flags) {
		t.Error("equal strings do not share memory")
	}
}

// Writing makes no garbage; an event that is read is one allocation, and its
// target another.
func TestAllocations(t *testing.T) {
	evs := loopCalls()
	w := NewWriter(io.Discard)
	if n := testing.AllocsPerRun(100, func() {
		for _, ev := range evs {
			if err := w.Write(ev); err != nil {
				t.Fatal(err)
			}
		}
	}); n != 0 {
		t.Errorf("writing %d events: %v allocations", len(evs), n)
	}
	var line bytes.Buffer
	if err := NewWriter(&line).Write(evs[0]); err != nil {
		t.Fatal(err)
	}
	p := newParser()
	if n := testing.AllocsPerRun(100, func() { p.parse(line.Bytes()) }); n > 2 {
		t.Errorf("reading an event with its target: %v allocations", n)
	}
}

func FuzzFastParser(f *testing.F) {
	var buf bytes.Buffer
	w := NewWriter(&buf)
	for _, ev := range append(loopCalls(), examples()...) {
		buf.Reset()
		if err := w.Write(ev); err != nil {
			f.Fatal(err)
		}
		f.Add(bytes.Clone(buf.Bytes()))
	}
	p := newParser()
	f.Fuzz(func(t *testing.T, line []byte) { sameAsJSON(t, p, line) })
}

func FuzzWriter(f *testing.F) {
	f.Add(uint64(1), "openat", "/proc/self/fd/4", []byte("x"))
	f.Fuzz(func(t *testing.T, seed uint64, plain, text string, data []byte) {
		r := random{rand.New(rand.NewPCG(seed, 5))}
		s := r.event(recordOf[reflect.TypeOf(types[seed%uint64(len(types))])])
		if s, ok := s.(*Syscall); ok {
			s.Name, s.Path, s.Data = plain, Text(text), data
		}
		var fast, slow bytes.Buffer
		ferr, serr := NewWriter(&fast).Write(s), NewWriter(&slow).writeJSON(s)
		if (ferr == nil) != (serr == nil) || !bytes.Equal(fast.Bytes(), slow.Bytes()) {
			t.Fatalf("%+v:\n got %s%v\nwant %s%v", s, fast.Bytes(), ferr, slow.Bytes(), serr)
		}
	})
}
