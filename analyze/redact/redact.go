// Package redact takes out of evidence what says whose it is: names of users and hosts,
// addresses of hosts, arguments of commands, and what stood in memory and files that is
// no name of a file. What is the same stays the same and is replaced by the same, and
// identities (numbers of processes, descriptors, devices, inodes) stay, so that the same
// follows from what is left. Names of files stay but for the names in them.
//
// A name is replaced by one of the same length: pieces of it that a debugger read out of
// memory are still pieces of it.
package redact

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Known is what is known of the machine and its users beforehand. Homes of users below
// /home and the like are found in the evidence.
type Known struct {
	Users []string
	Hosts []string
}

// Redactor redacts evidence in two passes: it must have seen all of it, by Learn, before
// Event changes any.
type Redactor struct {
	secrets []secret
	given   map[string]string // what replaces a word, an argument, an address
	count   map[string]int
	names   map[string]bool // of files, as they stand in the evidence, without a slash
	memory  memory
}

// secret is a word to be replaced, in lower case.
type secret struct {
	word, by string
	whole    bool // only where no letter or digit is beside it
}

// plain are names that say nothing, or that stand in the names of every system.
var plain = strings.Fields("root user users nobody home lib lib64 usr bin sbin etc dev proc self thread task fd mem exe cwd tmp var run opt srv mnt media " +
	"sys boot data linux gnu debug gdb lldb strace whosefd localhost pipe socket memfd anon_inode deleted inode tty pts null shm")

// New gives a Redactor that knows these names.
func New(k Known) *Redactor {
	r := &Redactor{given: map[string]string{}, count: map[string]int{}, names: map[string]bool{}, memory: newMemory()}
	for _, name := range k.Users {
		r.secret("user", name, len(name) < 4)
	}
	for _, name := range k.Hosts {
		r.host(name)
	}
	return r
}

// host learns the name of a host, whole and without its domain.
func (r *Redactor) host(name string) {
	r.secret("host", name, len(name) < 4)
	short, _, _ := strings.Cut(name, ".")
	r.secret("host", short, len(short) < 4)
}

// secret learns a word.
func (r *Redactor) secret(kind, word string, whole bool) {
	word = lower(word)
	if len(word) < 2 || slices.Contains(plain, word) || strings.Trim(word, "0123456789.") == "" ||
		slices.ContainsFunc(r.secrets, func(s secret) bool { return s.word == word }) {
		return
	}
	r.count[kind]++
	number := strconv.Itoa(r.count[kind])
	number = number[max(0, len(number)-len(word)):]
	room := len(word) - len(number)
	by := kind[:min(room, len(kind))]
	by += strings.Repeat("0", room-len(by)) + number
	r.secrets = append(r.secrets, secret{word, by, whole})
	slices.SortStableFunc(r.secrets, func(x, y secret) int { return len(y.word) - len(x.word) })
}

// maxNames bounds the names that are remembered.
const maxNames = 1 << 16

// homes are where users have folders by their names.
var homes = regexp.MustCompile(`/(?:home|Users|media)/([^/\x00-\x20"'<>:;,)\x7f]+)`)

// servers are hosts in the source of a mount: host:/path, user@host:/path, //host/share.
var servers = regexp.MustCompile(`^(?://)?(?:([^@/:]+)@)?([A-Za-z0-9][^/:@\[\]]*)[:/]`)

// Learn takes an event into account.
func (r *Redactor) Learn(ev event.Event) {
	walk(reflect.ValueOf(ev), "", func(field string, v reflect.Value) {
		s := v.String()
		r.homesIn(s)
		if v.Type() == textType && len(s) >= minRun && len(r.names) < maxNames && !strings.Contains(s, "/") && field != "Cmdline" {
			r.names[s] = true
		}
	})
	switch ev := ev.(type) {
	case *event.Syscall:
		r.memory.learn(ev)
	case *event.Wait:
		for _, on := range ev.On {
			if on.Mount == nil {
				continue
			}
			if m := servers.FindStringSubmatch(string(on.Mount.Source)); m != nil && strings.ContainsAny(string(on.Mount.Source), ":@") || m != nil && strings.HasPrefix(string(on.Mount.Source), "//") {
				r.secret("user", m[1], len(m[1]) < 6)
				r.host(m[2])
			}
		}
	}
}

func (r *Redactor) homesIn(s string) {
	if !strings.Contains(s, "/") {
		return
	}
	for _, m := range homes.FindAllStringSubmatch(s, -1) {
		r.secret("user", m[1], len(m[1]) < 6)
	}
}

// Event gives a copy of an event, redacted.
func (r *Redactor) Event(ev event.Event) event.Event {
	if !r.memory.settled {
		r.memory.settle(r)
	}
	c := copyOf(reflect.ValueOf(ev)).Interface().(event.Event)
	if call, ok := c.(*event.Syscall); ok {
		r.data(call)
	}
	walk(reflect.ValueOf(c), "", func(field string, v reflect.Value) { v.SetString(r.field(field, v.String())) })
	return c
}

// field redacts a text by the field that it stands in.
func (r *Redactor) field(field, s string) string {
	switch field {
	case "Cmdline":
		return r.argument(s)
	case "Cmdline 0": // the program
		return r.text(s)
	case "Local", "Peer":
		return r.text(r.addresses(s))
	case "Arguments":
		return quoted.ReplaceAllString(s, `"..."`)
	case "Link":
		if strings.HasPrefix(s, "TCP") || strings.HasPrefix(s, "UDP") {
			s = r.addresses(s)
		}
	}
	return r.text(s)
}

var (
	quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"?`)
	option = regexp.MustCompile(`^--?[A-Za-z][A-Za-z-]*$`)
	// assigned is VAR=value, and --option=value.
	assigned = regexp.MustCompile(`^(-{0,2}[A-Za-z_][A-Za-z0-9_-]*=)(.+)$`)
	ipv4     = regexp.MustCompile(`\b\d{1,3}(?:\.\d{1,3}){3}\b`)
	ipv6     = regexp.MustCompile(`\[[0-9a-fA-F:]*:[0-9a-fA-F:.]*(?:%[a-z0-9]+)?\]`)
)

// argument redacts an argument of a command: options, numbers and names of files say
// what the command is, and stay.
func (r *Redactor) argument(s string) string {
	switch m := assigned.FindStringSubmatch(s); {
	case strings.Contains(s, " "): // a command within it, such as that of -ex
		words := strings.Split(s, " ")
		for i := range words {
			words[i] = r.argument(words[i])
		}
		return strings.Join(words, " ")
	case m != nil:
		return m[1] + r.argument(m[2])
	case option.MatchString(s), strings.Trim(s, "0123456789") == "":
		return r.text(s)
	case strings.HasPrefix(s, "/"), strings.HasPrefix(s, "./"), strings.HasPrefix(s, "../"):
		return r.text(s)
	}
	return r.instead("arg", s)
}

// instead gives the numbered word that stands for a text.
func (r *Redactor) instead(kind, s string) string {
	by := r.given[kind+" "+s]
	if by == "" {
		r.count[kind]++
		by = kind + strconv.Itoa(r.count[kind])
		r.given[kind+" "+s] = by
	}
	return by
}

// addresses redacts those of hosts, into those kept for documentation (RFC 5737, RFC
// 3849); that of this host and "any" stay.
func (r *Redactor) addresses(s string) string {
	number := func(a string) int {
		n, _ := strconv.Atoi(strings.TrimPrefix(r.instead("ip", a), "ip"))
		return n
	}
	s = ipv4.ReplaceAllStringFunc(s, func(a string) string {
		if strings.HasPrefix(a, "127.") || a == "0.0.0.0" {
			return a
		}
		n := number(a)
		return fmt.Sprintf("%s.%d", []string{"192.0.2", "198.51.100", "203.0.113"}[n/256%3], n%256)
	})
	return ipv6.ReplaceAllStringFunc(s, func(a string) string {
		if a == "[::1]" || a == "[::]" {
			return a
		}
		return fmt.Sprintf("[2001:db8::%x]", number(a))
	})
}

// text redacts a name of a file or another text.
func (r *Redactor) text(s string) string {
	if m := assigned.FindStringSubmatch(s); m != nil && !strings.HasPrefix(s, "-") {
		return m[1] + r.instead("value", m[2])
	}
	return r.words(s)
}

// words replaces the secrets in a text, which keeps its length.
func (r *Redactor) words(s string) string {
	low := lower(s)
	var out []byte
	for _, x := range r.secrets {
		for from := 0; ; {
			i := strings.Index(low[from:], x.word)
			if i < 0 {
				break
			}
			i += from
			from = i + len(x.word)
			if x.whole && (i > 0 && alnum(low[i-1]) || from < len(low) && alnum(low[from])) {
				continue
			}
			if out == nil {
				out = []byte(s)
			}
			copy(out[i:], x.by)
			low = low[:i] + strings.Repeat("\x00", len(x.word)) + low[from:] // not twice
		}
	}
	if out == nil {
		return s
	}
	return string(out)
}

func alnum(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' }

// lower is ASCII only: a text keeps its length.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

var (
	textType = reflect.TypeFor[event.Text]()
	timeType = reflect.TypeFor[time.Time]()
)

// free are the fields of type string that hold more than words of ours.
var free = []string{"File", "Reason", "LinkMapError", "Cut", "Notes", "Kernel", "Arguments"}

// walk visits each text of a value, with the field that it is in.
func walk(v reflect.Value, field string, visit func(string, reflect.Value)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			walk(v.Elem(), field, visit)
		}
	case reflect.Struct:
		if v.Type() == timeType {
			return
		}
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			if name == "Val" { // of what may not be known
				name = field
			}
			walk(v.Field(i), name, visit)
		}
	case reflect.Slice:
		for i := range v.Len() {
			name := field
			if field == "Cmdline" && i == 0 {
				name = "Cmdline 0"
			}
			walk(v.Index(i), name, visit)
		}
	case reflect.String:
		if v.Type() == textType || slices.Contains(free, field) {
			visit(field, v)
		}
	}
}

// copyOf copies what a pointer leads to, as deep as walk goes.
func copyOf(v reflect.Value) reflect.Value {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return v
		}
		c := reflect.New(v.Type().Elem())
		c.Elem().Set(copyOf(v.Elem()))
		return c
	case reflect.Struct:
		c := reflect.New(v.Type()).Elem()
		c.Set(v)
		if v.Type() == timeType {
			return c
		}
		for i := range v.NumField() {
			if f := c.Field(i); f.CanSet() {
				f.Set(copyOf(v.Field(i)))
			}
		}
		return c
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		c := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		for i := range v.Len() {
			c.Index(i).Set(copyOf(v.Index(i)))
		}
		return c
	}
	return v
}

// data redacts what a call has read.
func (r *Redactor) data(call *event.Syscall) {
	place, at, isMemory := r.memory.place(call)
	r.memory.follow(call)
	row, ok := decode.ByName(call.Name)
	switch {
	case len(call.Data) == 0:
	case ok && row.Class == decode.ClassLink:
		call.Data = []byte(r.text(string(call.Data)))
	case isMemory && r.memory.full:
		call.Data = nil
	case isMemory:
		r.memory.redact(place, at, call.Data)
	default: // how a file begins: what sort of file it is, and no more
		clear(call.Data[min(4, len(call.Data)):])
	}
}
