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
	Homes []string // folders of users, wherever they are
	Words []string // what else is to be replaced, wherever it stands
}

// Redactor redacts evidence in two passes: it must have seen all of it, by Learn, before
// Event changes any.
type Redactor struct {
	secrets []secret
	given   map[string]string // what replaces a word, an argument, an address
	count   map[string]int
	names   map[string]bool // of files, as they stand in the evidence, without a slash
	homes   []string        // as known beforehand, in lower case
	memory  memory
}

// secret is a word to be replaced, in lower case.
type secret struct {
	word, by string
	whole    bool // only where no letter or digit is beside it
	placed   bool // only where the name of a user or host stands: it is a word as well
	asked    bool // by whoever redacts: wherever it stands
}

// words are names of users and hosts that are more often something else: they stand in
// names of files of every system, in names of libraries and in what is said of them. So
// do the names of all calls.
var words = strings.Fields("users nobody home lib lib32 lib64 usr bin sbin etc dev proc self thread threads task mem exe cwd tmp var run opt srv mnt media " +
	"sys boot data linux gnu debug gdb lldb rr strace whosefd localhost socket memfd anon_inode deleted inode tty pts null shm zero random full event file files " +
	"user test tests testing main core cores name names path host client server service system daemon program process debugger inferior library libraries share " +
	"shared local build builder builds work worker workspace project projects source sources src include object objects code admin backup guest public private " +
	"common default config cache state temp log logs mail news web www http https ftp ssh git svn debian ubuntu fedora centos redhat arch alpine suse " +
	"python perl ruby java julia rust node lua bash shell dash fish busybox docker podman container vscode clion emacs vim tmux screen cmake ninja maven " +
	"dl libc pthread math rand crypt crypto cpp std stdin stdout stderr text list line readline ncurses term terminal trace tracer guard repair " +
	"signal stop start end ended sleep time timer date mark bench art page table foo bar demo sample samples example plugin function memory " +
	"from_memory from_file x86 x86_64 amd64 arm arm64 aarch64 intel sh su sudo ps ls cat cp mv dd ed ip report load loader link map unix abi vm fs net ns")

// word says whether a name is one of them.
func word(name string) bool {
	calls, err := decode.ForArch("amd64")
	if err == nil {
		_, call := calls.Number(name)
		return call || slices.Contains(words, name)
	}
	return slices.Contains(words, name)
}

// systems are the first folders of names of files that no user has given.
var systems = strings.Fields("usr lib lib32 lib64 libx32 bin sbin proc sys dev etc boot nix snap")

// New gives a Redactor that knows these names.
func New(k Known) *Redactor {
	r := &Redactor{given: map[string]string{}, count: map[string]int{}, names: map[string]bool{}, memory: newMemory()}
	for _, w := range k.Words {
		r.add(secret{word: lower(w), whole: len(w) < 4, asked: true}, "user")
	}
	for _, name := range k.Users {
		r.secret("user", name, len(name) < 4)
	}
	for _, home := range k.Homes {
		home = lower(strings.TrimRight(home, "/"))
		if name := home[strings.LastIndexByte(home, '/')+1:]; name != home && name != "root" {
			r.secret("user", name, len(name) < 6)
			r.homes = append(r.homes, home)
		}
	}
	for _, name := range k.Hosts {
		r.host(name)
	}
	return r
}

// host learns the name of a host, whole, without its domain, and the domain, which says
// whose it is as well.
func (r *Redactor) host(name string) {
	short, domain, _ := strings.Cut(name, ".")
	r.secret("host", name, len(name) < 4)
	r.secret("host", short, len(short) < 4)
	if strings.Contains(domain, ".") {
		r.secret("host", domain, true)
	}
}

// secret learns the name of a user or a host; root and localhost are so on every machine.
func (r *Redactor) secret(kind, name string, whole bool) {
	if name = lower(name); name != "root" && name != "localhost" {
		r.add(secret{word: name, whole: whole, placed: len(name) < 2 || word(name)}, kind)
	}
}

func (r *Redactor) add(s secret, kind string) {
	if strings.Trim(s.word, "0123456789.") == "" || slices.ContainsFunc(r.secrets, func(x secret) bool { return x.word == s.word }) {
		return
	}
	r.count[kind]++
	number := strconv.Itoa(r.count[kind])
	number = number[max(0, len(number)-len(s.word)):]
	room := len(s.word) - len(number)
	by := kind[:min(room, len(kind))]
	s.by = by + strings.Repeat("0", room-len(by)) + number
	r.secrets = append(r.secrets, s)
	slices.SortStableFunc(r.secrets, func(x, y secret) int { return len(y.word) - len(x.word) })
}

// maxNames bounds the names that are remembered.
const maxNames = 1 << 16

// homes are where users have folders by their names.
var homes = regexp.MustCompile(`(?:/(?:home|Users|media)/|^~)([^/\x00-\x20"'<>:;,)\x7f]+)`)

// servers are hosts in the source of a mount: host:/path, user@host:/path, //host/share.
var servers = regexp.MustCompile(`^(?://)?(?:([^@/:]+)@)?([A-Za-z0-9][^/:@\[\]]*)[:/]`)

// emails are user@host.domain.
var emails = regexp.MustCompile(`([A-Za-z0-9._+-]+)@((?:[A-Za-z0-9-]+\.)+([A-Za-z]{2,}))`)

// units end names that have an "@" too: those of systemd, and libraries.
var units = strings.Fields("service socket mount automount slice scope target timer path device swap so")

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
	if strings.ContainsAny(s, "/~") {
		for _, m := range homes.FindAllStringSubmatch(s, -1) {
			r.secret("user", m[1], len(m[1]) < 6)
		}
	}
	if strings.Contains(s, "@") {
		for _, m := range emails.FindAllStringSubmatch(s, -1) {
			if !slices.Contains(units, m[3]) {
				r.secret("user", m[1], len(m[1]) < 6)
				r.host(m[2])
			}
		}
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
	case "Reason", "LinkMapError", "Cut", "Notes": // words of ours, with names in them
		if !strings.ContainsAny(s, " /") {
			return s // a word of ours alone
		}
		return r.words(s)
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
			whole := x.whole || !x.asked && len(x.word) < 6 && ofSystem(low[:i])
			if whole && !(edge(low, i-1) && edge(low, from)) || x.placed && !r.stands(low, i, from) {
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

func edge(s string, i int) bool { return i < 0 || i >= len(s) || !alnum(s[i]) }

// begun gives the part of a name of a file that a text ends with.
func begun(s string) string { return s[strings.LastIndexAny(s, " \t\n\"'=:,()<>")+1:] }

// ofSystem says whether what comes after this is of a name of a file that no user has given.
func ofSystem(before string) bool {
	first, _, under := strings.Cut(strings.TrimPrefix(begun(before), "/"), "/")
	return under && slices.Contains(systems, first) || strings.HasPrefix(begun(before), "lib")
}

// stands says whether the name of a user or host stands there, and not a word: behind
// the folder of all homes, beside an "@", as a folder among folders of users, behind an
// option of one letter, before the path of a mount.
func (r *Redactor) stands(s string, from, to int) bool {
	before, after := s[:from], s[to:]
	if !edge(s, from-1) || !edge(s, to) || strings.HasPrefix(after, "_") || strings.HasSuffix(before, "_") {
		return false
	}
	if len(after) > 1 && after[0] == '@' && (alnum(after[1]) || after[1] == 0) { // 0: a name that was replaced
		return true
	}
	if after != "" && !strings.ContainsRune("/ \t\n\"'=:,()<>", rune(after[0])) {
		return false
	}
	path := begun(before)
	for _, folder := range []string{"/home/", "/users/", "/media/", "/crontabs/", "/mail/"} {
		if strings.HasSuffix(path, folder) {
			return true
		}
	}
	switch {
	case path == "~", len(path) > 1 && strings.HasSuffix(path, "@"), slices.Contains(r.homes, path+s[from:to]):
		return true
	case len(before) == 2 && before[0] == '-':
		return after == ""
	case before == "" && strings.HasPrefix(after, ":/"), before == "//":
		return true
	}
	return strings.HasPrefix(path, "/") && strings.HasSuffix(path, "/") && len(path) > 1 && !ofSystem(path)
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
