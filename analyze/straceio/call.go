package straceio

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"time"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Count says how many calls of one name there were, of those that are counted
// and have no event. Times are in microseconds; they are known with -T only.
type Count struct {
	Name    string
	Calls   int64
	Errors  int64
	TotalUS int64
	MaxUS   int64
}

// counts are those of a log.
type counts map[string]*Count

// maxCalls bounds the names of calls that are counted; no kernel has so many.
const maxCalls = 1024

func (c counts) add(name string, r *result) {
	n := c[name]
	if n == nil {
		if len(c) >= maxCalls {
			name = "other"
		}
		if n = c[name]; n == nil {
			n = &Count{Name: strings.Clone(name)}
			c[n.Name] = n
		}
	}
	n.Calls++
	if r.failed {
		n.Errors++
	}
	if r.dur.Val > 0 {
		n.TotalUS += r.dur.Val
		n.MaxUS = max(n.MaxUS, r.dur.Val)
	}
}

func (c counts) all() []Count {
	var all []Count
	for _, n := range slices.SortedFunc(maps.Values(c), func(x, y *Count) int { return cmp.Compare(x.Name, y.Name) }) {
		all = append(all, *n)
	}
	return all
}

// callName gives the name of the call that a line begins with. "????" is one
// that strace could not learn.
func callName(body string) (string, bool) {
	i := strings.IndexByte(body, '(')
	if i <= 0 || i > 64 || strings.IndexFunc(body[:i], notName) >= 0 {
		return "", false
	}
	return body[:i], true
}

func notName(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '?')
}

// oldNames are calls of architectures, or of times, whose tables we do not have.
const oldNames = " ???? ??? _newselect _sysctl arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush cachectl get_tls getunwind old_getrlimit old_mmap old_select oldfstat oldlstat oldolduname oldselect oldstat olduname recv rtas send set_tls socketcall subpage_prot swapcontext sync_file_range2 sysmips usr26 usr32 utrap_install pciconfig_iobase pciconfig_read pciconfig_write perfctr s390_pci_mmio_read spu_create spu_run switch_endian "

// isCall says whether a system call has that name, on any architecture.
func isCall(name string) bool {
	for _, arch := range []string{"amd64", "arm64", "386"} {
		if t, err := decode.ForArch(arch); err == nil {
			if _, ok := t.Number(name); ok {
				return true
			}
		}
	}
	return strings.Contains(oldNames, " "+name+" ")
}

// makesProcess says whether a call starts a thread or a process.
func makesProcess(name string) bool {
	return name == "clone" || name == "clone3" || name == "fork" || name == "vfork"
}

// exits says whether a call ends the thread or process that makes it.
func exits(name string) bool { return name == "exit" || name == "exit_group" }

// outcome says how the reading of a call ended.
type outcome uint8

const (
	broken outcome = iota // it is not a whole call
	done
	never // "= ?": the call did not return to the program
)

// result is what stands behind the arguments: = -1 ENOENT (No such file or
// directory) <0.000012>.
type result struct {
	val    int64
	known  bool
	failed bool
	errno  string
	file   string // the annotation of a new descriptor
	dur    event.Opt[int64]
}

// result reads it from behind the bracket that ends the arguments.
func (c *cursor) result() (r result, ok bool) {
	c.blanks()
	if !c.at("=") {
		return r, false
	}
	c.blanks()
	if !c.at("?") {
		if r.val, r.known = c.number(); !r.known {
			return r, false
		}
		if strings.HasPrefix(c.rest(), "<") && !strings.HasPrefix(c.rest(), "<unfinished ") {
			if r.file, ok = c.annotation(); !ok {
				return r, false
			}
		}
	}
	if (!r.known || r.val == -1) && c.at(" ") {
		r.errno = errno(c.rest())
		r.failed = r.errno != ""
	}
	r.dur = lasted(c.rest())
	return r, true
}

// errno gives the name of an error that a text begins with.
func errno(text string) string {
	end := strings.IndexFunc(text, func(r rune) bool { return (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' })
	if end < 0 {
		end = len(text)
	}
	if end < 2 || text[0] != 'E' {
		return ""
	}
	return strings.Clone(text[:end])
}

// lasted reads the time at the end of a line (-T): <0.000012>.
func lasted(text string) (us event.Opt[int64]) {
	i := strings.LastIndexByte(text, '<')
	if i < 0 {
		return us
	}
	c := cursor{s: text[i+1:]}
	micros, ok := c.seconds()
	if ok && c.rest() == ">" {
		return event.Some(int64(micros))
	}
	return us
}

// seconds reads 12, 12.5 or 12.000001999, down to microseconds.
func (c *cursor) seconds() (event.Micros, bool) {
	digits := len(c.rest()) - len(strings.TrimLeft(c.rest(), "0123456789."))
	d, err := time.ParseDuration(c.rest()[:digits] + "s")
	if err != nil {
		return 0, false
	}
	c.i += digits
	return event.Micros(d.Microseconds()), true
}

// ending reads the result at the end of a call whose arguments are of no
// interest.
func ending(text string) (r result, ok bool) {
	for i := len(text); !ok; {
		if i = strings.LastIndexByte(text[:i], '='); i < 0 {
			break
		}
		if before := strings.TrimRight(text[:i], " "); strings.HasSuffix(before, ")") && len(before) < i {
			c := cursor{s: text, i: i}
			r, ok = c.result()
		}
	}
	return r, ok
}

func finished(text string) bool {
	_, ok := ending(text)
	return ok
}

// finish reads the whole text of a call. since is known for one that was
// interrupted by lines of others: it says when it began. Nothing has changed if
// it is broken.
func (p *parser) finish(t *thread, name, text string, since event.Opt[event.Micros]) outcome {
	a := p.arguments(t, name, text)
	var r result
	ok := false
	if a.row == nil && name != "ptrace" {
		r, ok = ending(text)
	} else if a.rest != "" {
		c := cursor{s: a.rest, i: 1}
		r, ok = c.result()
	}
	switch {
	case !ok, r.known && r.val == -1 && !r.failed && strings.HasSuffix(text, "= -1") && !p.lenient: // the error stands in the next line
		return broken
	case !r.known && !r.failed:
		return never
	}
	a.read()
	ev := a.ev
	if r.known {
		ev.Ret = event.Some(r.val)
	}
	if r.failed {
		ev.Ret, ev.Errno = event.Some[int64](-1), r.errno
	}
	ev.DurUS = r.dur
	if since.Known {
		ev.T = since.Val
		if !ev.DurUS.Known && p.timed {
			ev.DurUS = event.Some(int64(p.now - since.Val))
			if a.row != nil && (a.row.Shown || a.row.Class == decode.ClassMake) || makesProcess(name) {
				r.dur = ev.DurUS
			}
		}
	}
	a.after(&r)
	return done
}

// args are the arguments of a call, to be read into an event.
type args struct {
	p    *parser
	t    *thread
	row  *decode.Call // nil: not decoded
	ev   *event.Syscall
	list []string
	rest string // from the bracket behind the arguments on; "" where the text ends before
	cut  bool   // the text ends within a string, a bracket or the like

	file *file // of FD
	data event.Opt[string]
	all  bool   // data is all that there was, and not its beginning
	prot string // of mmap(2)
	stat string // the struct stat that was returned
	pair []made
	argv string
}

// made is a new descriptor.
type made struct {
	fd   event.FD
	file string
}

// arguments takes the text of a call apart.
func (p *parser) arguments(t *thread, name, text string) *args {
	a := &args{p: p, t: t, ev: &event.Syscall{T: p.now, PID: t.proc.pid, TID: t.tid, Name: strings.Clone(name)}}
	if a.row, _ = decode.ByName(name); a.row != nil {
		a.ev.Name = a.row.Name // one text for all
	}
	a.list, a.rest, a.cut = split(text[len(name)+1:])
	return a
}

// split cuts a text at the commas between arguments, up to the bracket that ends them.
// Their names (strace 7, --argument-names) are left out.
func split(text string) (list []string, rest string, cut bool) {
	for c := (cursor{s: text}); ; c.i++ {
		c.blanks()
		c.argName()
		start := c.i
		more := c.skip()
		list = append(list, text[start:c.i])
		switch {
		case !more:
			return list, "", c.cut
		case text[c.i] != ',':
			return list, text[c.i:], false
		}
	}
}

// read reads the arguments.
func (a *args) read() {
	if a.row == nil {
		return
	}
	flags := a.row.FlagsArg()
	for i, kind := range a.row.Args[:min(len(a.row.Args), len(a.list))] {
		if i == flags {
			a.flags(kind, a.list[i])
		} else {
			a.arg(kind, a.list[i])
		}
	}
}

// arg reads one argument.
func (a *args) arg(kind decode.Arg, text string) {
	ev, c := a.ev, cursor{s: text}
	switch kind {
	case decode.FD, decode.MapFD:
		if fd, f, ok := a.fd(text); ok {
			ev.FD = event.Some(fd)
			a.is(f)
		}
	case decode.DirFD:
		if fd, f, ok := a.fd(text); ok && fd != event.AtFDCWD {
			ev.DirFD, a.file = event.Some(fd), f
		}
	case decode.NewFD:
		if fd, _, ok := a.fd(text); ok {
			ev.NewFD = event.Some(fd)
		}
	case decode.Path:
		if name, ok := c.quoted(); ok { // else NULL, or an address that could not be read
			ev.Path = event.Text(unescape(name))
			ev.PathTruncated = c.at("...")
		}
	case decode.Buf:
		if data, ok := c.quoted(); ok {
			a.data, a.all = event.Some(data), !c.at("...")
		}
	case decode.Count, decode.BufSize:
		if n, ok := c.number(); ok {
			ev.Count = event.Some(uint64(n))
		}
	case decode.Offset:
		if n, ok := c.number(); ok {
			ev.Offset = event.Some(n)
		}
	case decode.Mode:
		if n, ok := c.number(); ok {
			ev.Mode = event.Some(uint32(n))
		}
	case decode.FirstFD:
		if n, ok := c.number(); ok {
			ev.FirstFD = event.Some(uint32(n))
		}
	case decode.LastFD:
		if n, ok := c.number(); ok {
			ev.LastFD = event.Some(uint32(n))
		}
	case decode.Prot:
		a.prot = text
	case decode.StatBuf, decode.StatxBuf:
		a.stat = text
	case decode.Argv:
		a.argv = text
	case decode.OpenHow: // {flags=O_RDONLY|O_CLOEXEC, mode=0644, resolve=…}
		if how, _, _ := split(strings.TrimPrefix(text, "{")); strings.HasPrefix(text, "{flags=") {
			a.flags(decode.OpenFlags, how[0])
			if strings.Contains(text, ", mode=") {
				a.arg(decode.Mode, how[1])
			}
		}
	case decode.FDPair: // [3, 4]
		pair, _, _ := split(strings.TrimPrefix(text, "["))
		for _, fd := range pair {
			c := cursor{s: fd}
			if n, ok := c.number(); ok && n >= 0 && n < 1<<31 && len(a.pair) < 2 {
				m := made{fd: event.FD(n)}
				m.file, _ = c.annotation()
				a.pair = append(a.pair, m)
			}
		}
	case decode.CmdArg:
		if ev.Flags == "F_SETFD" {
			ev.CloseOnExec = event.Some(strings.Contains(text, "FD_CLOEXEC") || strings.HasPrefix(text, "0x1") || text == "1")
		}
	}
}

// is notes the file that the call works on.
func (a *args) is(f *file) {
	a.file, a.ev.Target = f, nil
	if f != nil {
		a.ev.Target = &f.target
	}
}

// fd reads a descriptor and what it is.
func (a *args) fd(text string) (event.FD, *file, bool) {
	c := cursor{s: text}
	if c.at("AT_FDCWD") {
		if cwd, ok := c.annotation(); ok {
			a.p.facts.cwd = cmp.Or(a.p.facts.cwd, cwd)
		}
		return event.AtFDCWD, nil, true
	}
	n, ok := c.number()
	if !ok || n < -100 || n >= 1<<31 {
		return 0, nil, false
	}
	d, _ := a.t.proc.fds.Get(event.FD(n))
	switch annotation, ok := c.annotation(); {
	case !ok:
		return event.FD(n), d.file, !c.cut
	case n < 0:
		return event.FD(n), nil, true
	case d.file != nil && d.file.text == annotation: // of which fstat(2) may have told more
		return event.FD(n), d.file, true
	default:
		return event.FD(n), a.p.file(annotation), true
	}
}

// flags reads the argument that stands in the column of flags.
func (a *args) flags(kind decode.Arg, text string) {
	text = strings.TrimPrefix(text, "|") // statx with -X raw leaves out a 0
	if text != "" && isDigit(text[0]) {
		text = a.p.named(kind, text)
	}
	if text != "0" {
		a.ev.Flags = strings.Clone(text)
	}
	if kind == decode.MapFlags {
		if a.prot != "" && isDigit(a.prot[0]) {
			a.prot = a.p.named(decode.Prot, a.prot)
		}
		a.ev.Flags = a.prot + "," + a.ev.Flags // as decode.Table.Flags does
	}
}

// named gives the names of flags that are shown as numbers (-X raw), perhaps
// with their names behind them (-X verbose): "0 /* A */|0x900 /* B|C */".
func (p *parser) named(kind decode.Arg, text string) string {
	c, v := cursor{s: text}, uint64(0)
	var names []string
	all := true
	for {
		n, ok := c.number()
		if !ok {
			return text
		}
		v |= uint64(n)
		name, ok := c.comment()
		names = append(names, name)
		all = all && ok && !strings.Contains(name, "???")
		if !c.at("|") {
			break
		}
	}
	switch {
	case c.i < len(text):
		return text
	case all:
		return strings.Join(names, "|")
	}
	return p.table.Format(kind, v)
}

// after draws the consequences of a call that has ended, and gives it on.
func (a *args) after(r *result) {
	p, ev, row := a.p, a.ev, a.row
	ok := r.known && !r.failed
	p.notice(a, r)
	switch {
	case ev.Name == "ptrace" || ev.Name == "process_vm_readv":
		if !ok || !a.memory() {
			p.counts.add(ev.Name, r)
		}
		return
	case row == nil:
		p.counts.add(ev.Name, r)
		if ok && makesProcess(ev.Name) {
			p.forked(a.t, event.TID(r.val), strings.Join(a.list, ","))
		}
		return
	case !row.Shown, row.Class == decode.ClassMap && (!ev.FD.Known || ev.FD.Val < 0): // memory without a file
		p.counts.add(ev.Name, r)
		if ok && row.Class == decode.ClassMake {
			a.makes(r)
		}
		return
	}
	if ev.Path == "" && ev.DirFD.Known && row.PathArg() >= 0 { // AT_EMPTY_PATH: the descriptor itself is meant
		ev.FD = ev.DirFD
		a.is(a.file)
	}
	if !ok {
		p.call(ev)
		return
	}
	a.edit(r)
	switch {
	case row.Class == decode.ClassStat:
		a.learn()
	case a.data.Known:
		a.keepData()
	}
	p.call(ev)
	switch {
	case row.Class == decode.ClassExec:
		p.execed(a.t, ev.Path, a.argv)
	case a.t.proc == p.main:
		a.about()
	}
}

// edit does to the descriptor table what the call has done.
func (a *args) edit(r *result) {
	ev, p := a.ev, a.p
	// An annotation of the result tells what the new descriptor is; else the name
	// or the descriptor that it was made from.
	f := a.file
	edit := decode.EditOf(ev)
	if edit.Made.Known {
		switch {
		case r.file != "":
			f = p.file(r.file)
		case !edit.From.Known:
			f = p.byName(a.t.proc, ev)
		}
		a.is(f)
	}
	a.t.proc.fds.Apply(edit, func(descriptor, bool) (descriptor, bool) {
		return descriptor{f, a.row.Class == decode.ClassOpen}, true
	}, nil)
}

// about notes what the debugger has learned of an inferior.
func (a *args) about() {
	p, f := a.p, a.file
	switch {
	case f != nil && f.mem != 0 && (a.row.Class == decode.ClassRead || a.row.Class == decode.ClassOpen):
		p.inferior(f.mem)
	case f != nil && f.stat != 0 && a.data.Known:
		p.called(f.stat, string(unescape(a.data.Val)))
	case a.row.Class == decode.ClassLink && a.data.Known && a.all:
		if n := decode.ClassifyName(string(a.ev.Path)); n.Kind == decode.PIDPath && n.Link == "exe" {
			p.runs(n.PID, event.Text(a.ev.Data))
		}
	}
}

const (
	maxData  = 4096 // how much of what was read from a process's memory is kept, in bytes
	maxMagic = 18   // how much of the beginning of a file: to the end of e_type in an ELF header (elf.h)
)

// keepData keeps what was read from a process's memory, how a file begins, or
// the text of a link.
func (a *args) keepData() {
	limit := maxData
	if a.row.Class != decode.ClassLink {
		d, _ := a.t.proc.fds.Get(a.ev.FD.Val)
		switch {
		case a.file == nil:
			return
		case a.file.mem != 0:
		case d.unread && d.file == a.file && a.file.stat == 0:
			limit, d.unread = maxMagic, false
			a.t.proc.fds.Set(a.ev.FD.Val, d, event.Opt[bool]{})
			defer func() { a.isCore(a.ev.Data) }()
		default:
			return
		}
	}
	a.ev.Data = head4(a.data.Val, limit)
}

// isCore notes that the debugger has begun to read a core file, as its header says: what it then opens by
// name may be the core's. The list of libraries is not in a log, which shows the beginning of each read.
func (a *args) isCore(head []byte) {
	const etCore = 4 // ET_CORE, elf.h
	if len(head) < maxMagic || string(head[:4]) != "\x7fELF" || head[16] != etCore || head[17] != 0 || a.t.proc != a.p.main || a.p.core {
		return
	}
	a.p.core = true
	a.p.emit(&event.Inferior{T: a.p.now, Core: &event.Core{ID: 1, Target: a.file.target}, LinkMapError: "a log of strace does not show it"})
}

// head4 gives what an escaped text means, up to a limit. An escape is of four
// bytes at most.
func head4(text string, limit int) []byte {
	data := unescape(text[:min(len(text), 4*limit)])
	return data[:min(len(data), limit)]
}

// memory takes what ptrace(2) and process_vm_readv(2) have read from another
// process: it becomes a read of that process's memory, at the address as its
// offset. It gives false for other requests.
func (a *args) memory() bool {
	list, request := a.list, ""
	if a.ev.Name == "ptrace" {
		request, _, _ = strings.Cut(list[0], " ") // -X verbose
		list = list[1:]
	}
	if len(list) < 2 || pidOf(list[0]) == 0 || request == "0" { // PTRACE_TRACEME
		return false
	}
	// Whoever asks for anything, or reads from there, is its tracer.
	pid := pidOf(list[0])
	if a.t.proc == a.p.main {
		a.p.inferior(pid)
	}
	ev := &event.Syscall{T: a.ev.T, PID: a.ev.PID, TID: a.ev.TID, Name: a.ev.Name, Ret: a.ev.Ret, DurUS: a.ev.DurUS}
	addr, ok := cursor{}, false
	switch request { // include/uapi/linux/ptrace.h
	case "": // 2162, [{iov_base="…", iov_len=8}], 1, [{iov_base=0x5555, iov_len=8}], 1, 0: the first piece of it
		const entry = "[{iov_base="
		text := cursor{s: strings.TrimPrefix(list[1], entry)}
		data, quoted := text.quoted()
		if len(list) < 4 || !quoted || a.ev.Ret.Val <= 0 {
			return false
		}
		addr = cursor{s: strings.TrimPrefix(list[3], entry)}
		ev.Data, ev.Count, ok = head4(data, maxData), event.Some(uint64(a.ev.Ret.Val)), true
	case "PTRACE_PEEKTEXT", "0x1", "PTRACE_PEEKDATA", "0x2": // 2162, 0x5555, [0x65732f636f72702f]
		if ev.Flags = "PTRACE_PEEKTEXT"; strings.HasSuffix(request, "DATA") || request == "0x2" {
			ev.Flags = "PTRACE_PEEKDATA"
		}
		if len(list) > 2 {
			var value int64
			word := cursor{s: strings.TrimPrefix(list[2], "[")}
			value, ok = word.number()
			addr = cursor{s: list[1]}
			ev.Data, ev.Count = binary.LittleEndian.AppendUint64(nil, uint64(value)), event.Some[uint64](8)
		}
	}
	at, known := addr.number()
	if !ok || !known {
		return false
	}
	ev.Offset, ev.Target = event.Some(at), &a.p.file(memName(pid)).target
	a.p.call(ev)
	return true
}
