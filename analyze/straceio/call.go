package straceio

import (
	"bytes"
	"strings"

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

// callInfo is what is done with the calls of one name.
type callInfo struct {
	Count
	row  *decode.Call // nil: not decoded
	what what
	kept bool
}

// what says what is of interest in a call, beside its name and result.
type what uint8

const (
	counted what = iota // nothing
	shown               // an event
	makes               // no event, but new descriptors
	forks               // clone(2) and its like
	traces              // ptrace(2)
	remote              // process_vm_readv(2)
)

// maxCalls bounds the names of calls that are counted; no kernel has so many.
const maxCalls = 1024

// callTable finds what to do with a call by its name: by callHash, at the first
// free place from there on. A map costs several times as much.
type callTable struct {
	slots [2 * maxCalls]*callInfo
	used  int
}

func callHash(name []byte) uint {
	n := len(name)
	return uint(n)*37 + uint(name[0])*53 + uint(name[n/2])*101 + uint(name[n-1])*7
}

// slot is the place of a name, which is not empty: where it is, or where it is
// to be put.
func (t *callTable) slot(name []byte) **callInfo {
	for h := callHash(name); ; h++ {
		if c := &t.slots[h%uint(len(t.slots))]; *c == nil || (*c).Name == string(name) {
			return c
		}
	}
}

// info gives what to do with a call, by its name.
func (p *parser) info(name []byte) *callInfo {
	if c := *p.calls.slot(name); c != nil {
		return c
	}
	return newCallInfo(string(name))
}

func newCallInfo(name string) *callInfo {
	c := &callInfo{Count: Count{Name: name}}
	if row, ok := decode.ByName(name); ok {
		c.row, c.Name = row, row.Name // strings in one place compare faster
		switch {
		case name == "process_vm_readv":
			c.what = remote
		case row.Shown:
			c.what = shown
		case row.Class == decode.ClassMake:
			c.what = makes
		}
	}
	switch name {
	case "clone", "clone3", "fork", "vfork":
		c.what = forks
	case "ptrace":
		c.what = traces
	}
	return c
}

// keep remembers a name that has turned out to be that of a call.
func (p *parser) keep(c *callInfo) {
	if c.kept {
		return
	}
	slot := p.calls.slot([]byte(c.Name))
	if p.calls.used >= maxCalls-1 { // no kernel has so many
		slot = p.calls.slot([]byte("other"))
		if *slot != nil {
			(*slot).Calls += c.Calls
			(*slot).Errors += c.Errors
			return
		}
		c.Name = "other"
	}
	c.kept = true
	*slot = c
	p.calls.used++
}

func (c *callInfo) decoded() bool { return c.what != counted }

// add counts a call.
func (c *callInfo) add(r *result) {
	c.Calls++
	if r.failed {
		c.Errors++
	}
	if r.dur.Val > 0 {
		c.TotalUS += r.dur.Val
		c.MaxUS = max(c.MaxUS, r.dur.Val)
	}
}

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
	errno  []byte
	file   []byte // the annotation of a new descriptor
	dur    event.Opt[int64]
}

// result reads it into r, from behind the bracket that ends the arguments. Giving
// so large a value back would cost as much as reading it.
func (c *cursor) result(r *result) (ok bool) {
	*r = result{}
	const blanks = "        " // short calls are followed by many
	for len(c.b)-c.i >= len(blanks) && string(c.b[c.i:c.i+len(blanks)]) == blanks {
		c.i += len(blanks)
	}
	for c.i < len(c.b) && c.b[c.i] == ' ' {
		c.i++
	}
	if !c.at("= ") {
		return false
	}
	if c.at("?") {
		if c.at(" ") {
			r.errno = c.errno()
			r.failed = r.errno != nil
		}
	} else {
		if r.val, r.known = c.number(); !r.known {
			return false
		}
		if c.i < len(c.b) && c.b[c.i] == '<' {
			if r.file, ok = c.annotation(); !ok {
				return false
			}
		}
		if r.val == -1 && c.at(" ") {
			r.errno = c.errno()
			r.failed = r.errno != nil
		}
	}
	r.dur = lasted(c.b[c.i:])
	return true
}

// errno reads the name of an error; nil where there is none.
func (c *cursor) errno() []byte {
	start := c.i
	for c.i < len(c.b) && (c.b[c.i] >= 'A' && c.b[c.i] <= 'Z' || c.b[c.i] >= '0' && c.b[c.i] <= '9' || c.b[c.i] == '_') {
		c.i++
	}
	if name := c.b[start:c.i]; len(name) > 1 && name[0] == 'E' {
		return name
	}
	return nil
}

// lasted reads the time at the end of a line (-T): <0.000012>.
func lasted(b []byte) (us event.Opt[int64]) {
	n := len(b)
	if n < 3 || b[n-1] != '>' {
		return us
	}
	i := n - 2
	for i >= 0 && n-i < 32 && (b[i] >= '0' && b[i] <= '9' || b[i] == '.') {
		i--
	}
	if i < 0 || b[i] != '<' || i == n-2 {
		return us
	}
	val, scale := int64(0), int64(0)
	for _, ch := range b[i+1 : n-1] {
		switch {
		case ch == '.':
			if scale > 0 {
				return us
			}
			scale = 100000
		case scale > 0 || ch == '0' && val == 0 && scale < 0:
			val += int64(ch-'0') * scale
			if scale /= 10; scale == 0 {
				return event.Some(val) // finer than a microsecond: --syscall-times=ns
			}
		default:
			if val = val*10 + int64(ch-'0')*1e6; val > 1e17 {
				return us
			}
		}
	}
	return event.Some(val)
}

// ending reads the result at the end of a call whose arguments are of no
// interest.
func ending(text []byte) (r result, ok bool) {
	for i := len(text) - 2; i > 0; i-- {
		if text[i] != '=' || text[i+1] != ' ' {
			continue
		}
		j := i - 1
		for j > 0 && text[j] == ' ' {
			j--
		}
		if text[j] != ')' || j == i-1 {
			continue
		}
		c := cursor{b: text, i: i}
		ok = c.result(&r)
		return r, ok
	}
	return r, false
}

func finished(text []byte) bool {
	_, ok := ending(text)
	return ok
}

// finish reads the whole text of a call. since is not nil for one that was
// interrupted by lines of others: it says when it began.
func (p *parser) finish(t *thread, info *callInfo, text []byte, since *event.Micros) outcome {
	p.last, p.lastCall, p.stacking = t, info, false
	if info.what == counted {
		r, ok := ending(text)
		if !ok {
			return broken
		}
		if !r.known && !r.failed {
			return never
		}
		info.add(&r)
		return done
	}
	ev := p.slot()
	ev.T, ev.PID, ev.TID, ev.Name = p.now, t.proc.pid, t.tid, info.Name
	a := &p.args
	a.reset(p, t, info, ev, text)
	if info.row == nil {
		a.skipAll()
	} else {
		a.read()
	}
	if a.i >= len(text) || text[a.i] != ')' {
		return broken
	}
	a.i++
	r := &a.res
	if !a.result(r) {
		return broken
	}
	if !r.known && !r.failed {
		return never
	}
	if r.known {
		ev.Ret = event.Some(r.val)
	}
	if r.failed {
		ev.Ret, ev.Errno = event.Some[int64](-1), p.string(r.errno)
	}
	ev.DurUS = r.dur
	if since != nil {
		ev.T = *since
		if !ev.DurUS.Known && p.timed {
			ev.DurUS = event.Some(int64(p.now - *since))
			r.dur = ev.DurUS
		}
	}
	a.after(r)
	return done
}

// skipAll goes to the end of the arguments.
func (a *args) skipAll() {
	for a.next() {
	}
}

// args reads the arguments of a call into an event.
type args struct {
	cursor
	p    *parser
	t    *thread
	info *callInfo
	ev   *event.Syscall

	res     result
	file    *file // of FD
	data    []byte
	dataAll bool // data is all that there was, and not its beginning
	isData  bool
	prot    []byte
	stat    []byte // the struct stat that was returned
	pair    [2]made
	pairs   int
	last    int64  // close_range(2)
	program []byte // execve(2): its arguments
	first   int64
}

// reset makes it ready for another call. Only what is looked at without having
// been set is cleared: this is done for each line.
func (a *args) reset(p *parser, t *thread, info *callInfo, ev *event.Syscall, text []byte) {
	a.b, a.i, a.cut = text, len(info.Name)+1, false
	a.p, a.t, a.info, a.ev = p, t, info, ev
	a.file, a.isData, a.prot, a.stat, a.pairs = nil, false, nil, nil, 0
	a.program, a.first, a.last = nil, 0, 0
}

// made is a new descriptor.
type made struct {
	fd   event.FD
	file []byte
}

// read goes through the arguments up to the bracket that ends them, or to
// where the text ends.
func (a *args) read() {
	row := a.info.row
	flags := row.FlagsArg()
	for i, kind := range row.Args {
		if a.i >= len(a.b) || a.b[a.i] == ')' {
			return
		}
		a.argName()
		if i == flags {
			a.flags(kind)
		} else {
			a.arg(kind)
		}
		if !a.next() {
			return
		}
	}
	a.skipAll()
}

// arg reads one argument.
func (a *args) arg(kind decode.Arg) {
	ev := a.ev
	switch kind {
	case decode.FD, decode.MapFD:
		if fd, f, ok := a.fd(); ok {
			ev.FD, a.file = event.Some(fd), f
			if f != nil {
				ev.Target = &f.target
			}
		}
	case decode.DirFD:
		if fd, f, ok := a.fd(); ok && fd != event.AtFDCWD {
			ev.DirFD, a.file = event.Some(fd), f
		}
	case decode.NewFD:
		if fd, _, ok := a.fd(); ok {
			ev.NewFD = event.Some(fd)
		}
	case decode.Path:
		a.path()
	case decode.Count, decode.BufSize:
		if n, ok := a.number(); ok {
			ev.Count = event.Some(uint64(n))
		}
	case decode.Offset:
		if n, ok := a.number(); ok {
			ev.Offset = event.Some(n)
		}
	case decode.Mode:
		if n, ok := a.number(); ok {
			ev.Mode = event.Some(uint32(n))
		}
	case decode.Prot:
		a.prot = a.token()
	case decode.Buf:
		a.buf()
	case decode.StatBuf, decode.StatxBuf:
		start := a.i
		if a.at("{") {
			n := bytes.IndexByte(a.b[a.i:], '}')
			if n >= 0 && bytes.IndexByte(a.b[a.i:a.i+n], '{') < 0 {
				a.i += n + 1
			} else { // with -v there are structures in it
				a.i = start
				a.skip()
			}
			a.stat = a.b[start:a.i]
		}
	case decode.OpenHow:
		a.openHow()
	case decode.FDPair:
		a.fdPair()
	case decode.FirstFD:
		a.first, _ = a.number()
	case decode.LastFD:
		a.last, _ = a.number()
	case decode.Argv:
		a.program = a.token()
	case decode.CmdArg:
		if tok := a.token(); bytes.Contains(tok, []byte("FD_CLOEXEC")) {
			a.prot = tok
		}
	}
}

// fd reads a descriptor and what it is.
func (a *args) fd() (event.FD, *file, bool) {
	if a.at("AT_FDCWD") {
		if !a.again(a.p.cwd) {
			if text, ok := a.cursor.annotation(); ok {
				a.p.cwd = a.p.string(text)
			}
		}
		return event.AtFDCWD, nil, true
	}
	n, ok := a.number()
	if !ok || n < -100 || n >= 1<<31 {
		return 0, nil, false
	}
	if a.i < len(a.b) {
		switch a.b[a.i] {
		case '<':
			if f := a.p.shared.last; f != nil && n >= 0 && a.again(f.text) { // as of most calls in a row
				return event.FD(n), f, true
			}
			text, ok := a.annotation()
			if !ok {
				return 0, nil, false
			}
			if n < 0 {
				return event.FD(n), nil, true
			}
			return event.FD(n), a.p.file(text), true
		case ' ':
			a.comment()
			a.annotation()
		}
	}
	return event.FD(n), a.t.proc.fd(event.FD(n)), true
}

// path reads a name.
func (a *args) path() {
	text, ok := a.quoted()
	if !ok {
		return // NULL, or an address that could not be read
	}
	a.ev.Path = a.p.text(text)
	a.ev.PathTruncated = a.ellipsis()
}

// buf reads what a call has returned in memory.
func (a *args) buf() {
	if a.info.row.Class != decode.ClassLink && (a.file == nil || a.file.mem == 0 && a.file.stat == 0 && !a.file.unread) {
		return
	}
	if a.data, a.isData = a.quoted(); a.isData {
		a.dataAll = !a.ellipsis()
	}
}

// flags reads the argument that stands in the column of flags.
func (a *args) flags(kind decode.Arg) {
	text := bytes.TrimPrefix(a.token(), []byte("|")) // statx with -X raw leaves out a 0
	if len(text) > 0 && text[0] >= '0' && text[0] <= '9' {
		text = a.p.named(kind, text)
	}
	if string(text) != "0" {
		a.ev.Flags = a.p.string(text)
	}
	if kind == decode.MapFlags {
		a.ev.Flags = a.p.mapFlags(a.prot, a.ev.Flags)
	}
}

// named gives the names of flags that are shown as numbers (-X raw), perhaps
// with their names behind them (-X verbose): "0 /* A */|0x900 /* B|C */".
func (p *parser) named(kind decode.Arg, text []byte) []byte {
	c, v := cursor{b: text}, uint64(0)
	names := p.scratch[:0]
	for {
		n, ok := c.number()
		if !ok {
			return text
		}
		v |= uint64(n)
		if name, ok := c.comment(); ok && names != nil && !bytes.Contains(name, []byte("???")) {
			if len(names) > 0 {
				names = append(names, '|')
			}
			names = append(names, name...)
		} else {
			names = nil // ours are as good
		}
		if !c.at("|") {
			break
		}
	}
	if c.i < len(text) {
		return text
	}
	if p.scratch = names; len(names) > 0 {
		return names
	}
	return []byte(p.table.Format(kind, v))
}

// mapFlags joins the two sets of flags of mmap(2), as [decode.Table.Flags] does.
func (p *parser) mapFlags(prot []byte, flags string) string {
	if len(prot) > 0 && prot[0] >= '0' && prot[0] <= '9' {
		prot = bytes.Clone(p.named(decode.Prot, prot))
	}
	p.scratch = append(append(append(p.scratch[:0], prot...), ','), flags...)
	return p.string(p.scratch)
}

// openHow reads {flags=O_RDONLY|O_CLOEXEC, mode=0644, resolve=…}.
func (a *args) openHow() {
	how := cursor{b: a.token()}
	if !how.at("{flags=") {
		return
	}
	in := args{cursor: how, p: a.p, t: a.t, info: a.info, ev: a.ev}
	in.flags(decode.OpenFlags)
	if in.next() && in.at("mode=") {
		in.arg(decode.Mode)
	}
}

// fdPair reads [3, 4].
func (a *args) fdPair() {
	if !a.at("[") {
		return
	}
	for a.pairs < 2 {
		n, ok := a.number()
		if !ok || n < 0 || n >= 1<<31 {
			return
		}
		m := made{fd: event.FD(n)}
		if a.i < len(a.b) && a.b[a.i] == '<' {
			m.file, _ = a.annotation()
		}
		a.pair[a.pairs] = m
		a.pairs++
		a.at(", ")
	}
	a.at("]")
}

// after draws the consequences of a call that has ended, and gives it on.
func (a *args) after(r *result) {
	p, ev, row := a.p, a.ev, a.info.row
	if a.info.what == traces || a.info.what == remote {
		a.memory(r)
		return
	}
	if a.info.what == forks {
		a.info.add(r)
		if r.known && !r.failed {
			p.forked(a.t, event.TID(r.val), a.b)
		}
		return
	}
	if a.info.what == makes {
		a.info.add(r)
		if r.known && !r.failed {
			a.madeNew(r)
		}
		return
	}
	if row.Class == decode.ClassMap && (!ev.FD.Known || ev.FD.Val < 0) {
		a.info.add(r) // memory without a file
		return
	}
	if ev.Path == "" && ev.DirFD.Known && row.PathArg() >= 0 { // AT_EMPTY_PATH: the descriptor itself is meant
		ev.FD = ev.DirFD
		if a.file != nil {
			ev.Target = &a.file.target
		}
	}
	if r.failed || !r.known {
		p.commit(ev)
		return
	}
	switch {
	case row.Ret == decode.RetNewFD, ev.Name == "fcntl" && strings.HasPrefix(ev.Flags, "F_DUPFD"):
		a.opened(r)
	case row.Class == decode.ClassClose:
		if ev.FD.Known {
			a.t.proc.drop(int64(ev.FD.Val), int64(ev.FD.Val))
		} else {
			a.t.proc.drop(a.first, min(a.last, maxFDs))
		}
	case row.Class == decode.ClassStat:
		a.learn()
	case ev.Name == "fcntl" && ev.Flags == "F_SETFD":
		if d := ev.FD.Val; d >= 0 && int(d) < len(a.t.proc.fds) {
			a.t.proc.fds[d].cloexec = a.prot != nil
		}
	case a.isData:
		a.keepData()
	}
	p.commit(ev)
	switch {
	case row.Class == decode.ClassExec:
		p.execed(a.t, ev.Path, a.program)
	case a.t.proc != p.main:
	case a.file != nil && a.file.mem != 0 && row.Class == decode.ClassRead:
		p.inferior(a.file.mem)
	case a.file != nil && a.file.stat != 0 && a.isData:
		p.called(a.file.stat, unescape(nil, a.data))
	case row.Class == decode.ClassLink:
		if n := decode.ClassifyName(string(ev.Path)); n.Kind == decode.PIDPath && n.Link == "exe" && a.isData && a.dataAll {
			p.runs(n.PID, event.Text(ev.Data))
		}
	}
}

// maxData bounds how much of what was read from a process's memory is kept, in
// bytes.
const maxData = 4096

// maxHead is how much is kept of how a file begins, in bytes.
const maxHead = 16

// keepData keeps what was read from a process's memory, how a file begins, or
// the text of a link.
func (a *args) keepData() {
	switch {
	case a.info.row.Class == decode.ClassLink, a.file.mem != 0:
	case a.file.unread && a.file.stat == 0:
		a.file.unread = false
		head := a.p.data(a.data[:min(len(a.data), 4*maxHead)])
		a.ev.Data = head[:min(len(head), maxHead)]
		return
	default:
		return
	}
	a.ev.Data = a.p.data(a.data[:min(len(a.data), 4*maxData)])
}

// opened notes the new descriptor that a call has made.
func (a *args) opened(r *result) {
	ev, p := a.ev, a.p
	fd := event.FD(r.val)
	if r.file != nil {
		f := p.file(r.file)
		if ev.Target = &f.target; f.mem != 0 && a.t.proc == p.main {
			p.inferior(f.mem)
		}
		f.unread = a.info.row.Class == decode.ClassOpen
		return
	}
	f := a.file
	if a.info.row.Class == decode.ClassOpen {
		if f = p.byName(a.t.proc, ev); f != nil {
			f.unread = true
		}
		if f != nil && f.mem != 0 && a.t.proc == p.main {
			p.inferior(f.mem)
		}
	}
	if ev.Target = nil; f != nil {
		ev.Target = &f.target
	}
	a.t.proc.set(fd, descriptor{file: f, cloexec: strings.Contains(ev.Flags, "CLOEXEC")})
}
