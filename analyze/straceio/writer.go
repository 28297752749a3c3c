package straceio

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// Writer writes calls as `strace -f -ttt -T -y -o FILE` does, for viewers and scripts
// that read such logs, and for [Reader]. What the evidence does not have stands as
// strace abbreviates it: "..." for data, NULL for an address. Where it is not known
// when the evidence began, times are those of a day (-tt) that began then; evidence
// without times gives lines without.
type Writer struct {
	w     io.Writer
	start time.Time
	line  []byte
	begin int // of the call in the line
	pid   event.PID
	held  map[event.TID]string // calls that were left unfinished, by name
	// early are lines of a log that may be one without times, with a NUL where that is to
	// stand; nil once one has a time.
	early *bytes.Buffer
}

// NewWriter writes to w. What is written is complete after Close only.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w, held: map[event.TID]string{}} }

// Write writes a call in a line; of other events only those that begin and end the
// evidence matter.
func (w *Writer) Write(ev event.Event) error {
	w.line = w.line[:0]
	switch ev := ev.(type) {
	case *event.Session:
		w.start = ev.Start
		if ev.Source == "strace" && ev.Start.IsZero() {
			w.early = &bytes.Buffer{}
		}
		if ev.Debugger != nil {
			w.pid = ev.Debugger.PID
		}
	case *event.Syscall:
		w.call(ev)
	case *event.End:
		if w.pid <= 0 {
			break
		}
		w.head(event.TID(w.pid), ev.T)
		switch {
		case ev.Signal != "":
			w.put("+++ killed by ", ev.Signal, " +++")
		case ev.Exit.Known:
			w.put("+++ exited with ", strconv.Itoa(ev.Exit.Val), " +++")
		default:
			w.line = w.line[:0]
		}
	}
	if len(w.line) == 0 {
		return nil
	}
	// Flags, names of calls and errors are plain in a good recording, and anything in a bad one.
	if rest := string(w.line[w.begin:]); strings.IndexFunc(rest, func(r rune) bool { return r < ' ' || r >= 0x7f }) >= 0 {
		w.line = append(w.line[:w.begin], bare(rest)...)
	}
	w.put("\n")
	if w.early != nil && w.early.Len() < maxEarly && bytes.IndexByte(w.line, 0) >= 0 {
		w.early.Write(w.line)
		return nil
	}
	return w.settle(w.line)
}

// maxEarly bounds the lines that are kept until one has a time, bytes.
const maxEarly = 1 << 20

// Close writes what was kept.
func (w *Writer) Close() error {
	if w.early == nil {
		return nil
	}
	_, err := w.w.Write(bytes.ReplaceAll(w.early.Bytes(), []byte{0}, nil))
	return err
}

// settle writes the lines that were kept, with times, and then more.
func (w *Writer) settle(more []byte) error {
	if w.early != nil {
		more = append(w.early.Bytes(), more...)
		more = bytes.ReplaceAll(more, []byte{0}, []byte(clockTime(0)))
		w.early = nil
	}
	_, err := w.w.Write(more)
	return err
}

// clockTime is a time of a day that began with the evidence.
func clockTime(at event.Micros) string {
	return time.Time{}.Add(time.Duration(at)*time.Microsecond).Format("15:04:05.000000") + " "
}

func (w *Writer) put(texts ...string) {
	for _, s := range texts {
		w.line = append(w.line, s...)
	}
}

// head writes what stands before a call.
func (w *Writer) head(tid event.TID, at event.Micros) {
	if tid > 0 {
		w.put(fmt.Sprintf("%-5d ", tid))
	}
	switch {
	case !w.start.IsZero():
		w.put((event.Micros(w.start.UnixMicro()) + at).String(), " ")
	case w.early != nil && at == 0:
		w.put("\x00")
	default:
		w.put(clockTime(at))
	}
	w.begin = len(w.line)
}

// The columns of a line of strace: those of the call, and where its result stands.
const resultColumn = 40

func (w *Writer) call(ev *event.Syscall) {
	row, ok := decode.ByName(ev.Name)
	if !ok {
		row = &decode.Call{Name: ev.Name}
	}
	before := w.held[ev.TID]
	delete(w.held, ev.TID)
	shown, out := arguments(row, ev)
	if resumes := ev.Resumed && before == ev.Name; resumes {
		w.head(ev.TID, ev.T+event.Micros(ev.DurUS.Or(0)))
		w.put("<... ", ev.Name, " resumed>", strings.Join(shown[out:], ", "))
	} else {
		w.head(ev.TID, ev.T)
		w.put(ev.Name, "(")
		if ev.Unfinished {
			w.put(strings.Join(shown[:out], ", "))
			if out < len(shown) {
				w.put(", ")
			}
			w.put(cmp.Or(ev.Arguments, ""), " <unfinished ...>")
			if len(w.held) < maxThreads {
				w.held[ev.TID] = ev.Name
			}
			return
		}
		w.put(strings.Join(shown, ", "))
	}
	w.put(")")
	for len(w.line) < resultColumn-1 {
		w.put(" ")
	}
	w.put(" = ", resultText(row, ev))
	if ev.DurUS.Known {
		w.put(" <", event.Micros(ev.DurUS.Val).String(), ">")
	}
}

// resultText is what stands behind the "=".
func resultText(row *decode.Call, ev *event.Syscall) string {
	switch {
	case ev.Errno != "":
		text := cmp.Or(messages[ev.Errno], ev.Errno)
		if decode.RestartsNamed(ev.Errno) { // the program does not see it
			return "? " + ev.Errno + " (" + text + ")"
		}
		return "-1 " + ev.Errno + " (" + text + ")"
	case !ev.Ret.Known:
		return "?"
	case row.Ret == decode.RetAddr:
		return "0x" + strconv.FormatUint(uint64(ev.Ret.Val), 16)
	case decode.EditOf(ev).Made.Is(event.FD(ev.Ret.Val)) && ev.Ret.Val >= 0:
		return annotated(event.FD(ev.Ret.Val), ev.Target)
	}
	return strconv.FormatInt(ev.Ret.Val, 10)
}

// arguments gives what stands between the brackets, and how many of them the kernel
// has got when the call begins: strace shows the others when it ends.
func arguments(row *decode.Call, ev *event.Syscall) (shown []string, out int) {
	out = -1
	for i, kind := range row.Args {
		text, later := "", false
		if i == row.FlagsArg() {
			text = cmp.Or(ev.Flags, "0")
			if kind == decode.MapFlags {
				_, text, _ = strings.Cut(text, ",")
			}
		} else {
			text, later = argument(row, kind, ev)
		}
		if text == "" {
			continue
		}
		if later && out < 0 {
			out = len(shown)
		}
		shown = append(shown, text)
	}
	if out < 0 {
		out = len(shown)
	}
	return shown, out
}

// argument is one of them; "" is one that strace leaves out. later says that it is
// shown when the call has ended.
func argument(row *decode.Call, kind decode.Arg, ev *event.Syscall) (text string, later bool) {
	switch kind {
	case decode.FD, decode.MapFD:
		of := ev.Target
		if decode.EditOf(ev).Made.Known && kind == decode.FD {
			of = nil // the target is that of the new one
		}
		return annotated(ev.FD.Or(-1), of), false
	case decode.DirFD:
		switch {
		case ev.DirFD.Known && ev.Path == "": // AT_EMPTY_PATH: the descriptor itself is meant
			return annotated(ev.DirFD.Val, ev.Target), false
		case ev.DirFD.Known:
			return strconv.Itoa(int(ev.DirFD.Val)), false
		}
		return "AT_FDCWD", false
	case decode.NewFD:
		return strconv.Itoa(int(ev.NewFD.Or(-1))), false
	case decode.Path:
		if ev.PathTruncated {
			return quote(string(ev.Path)) + "...", false
		}
		return quote(string(ev.Path)), false
	case decode.Mode:
		if ev.Mode.Known {
			return fmt.Sprintf("%#o", ev.Mode.Val), false
		}
		return "", false
	case decode.Count, decode.BufSize:
		return strconv.FormatUint(ev.Count.Or(0), 10), kind == decode.BufSize || row.Ret == decode.RetBytes
	case decode.Offset:
		if row.Class == decode.ClassMap {
			return strings.TrimSuffix(fmt.Sprintf("%#x", uint64(ev.Offset.Or(0))), "x0"), false
		}
		return strconv.FormatInt(ev.Offset.Or(0), 10), row.Ret == decode.RetBytes
	case decode.Prot:
		prot, _, _ := strings.Cut(ev.Flags, ",")
		return cmp.Or(prot, "PROT_NONE"), false
	case decode.Buf:
		return data(ev, row.Class == decode.ClassLink), true
	case decode.Iovec:
		return fmt.Sprintf("[{iov_base=%s, iov_len=%d}]", data(ev, false), length(ev)), true
	case decode.RemoteIovec:
		return fmt.Sprintf("[{iov_base=%#x, iov_len=%d}]", uint64(ev.Offset.Or(0)), length(ev)), true
	case decode.IovCnt, decode.RemoteIovCnt:
		return "1", true
	case decode.StatBuf, decode.StatxBuf:
		return stat(ev, kind == decode.StatxBuf), true
	case decode.Argv:
		return "[...]", false
	case decode.OpenHow:
		how := "{flags=" + cmp.Or(ev.Flags, "O_RDONLY")
		if ev.Mode.Known {
			how += fmt.Sprintf(", mode=%#o", ev.Mode.Val)
		}
		return how + "}", false
	case decode.Size:
		return "24", false // sizeof(struct open_how), the only structure with a size that is shown
	case decode.FirstFD:
		return strconv.FormatUint(uint64(ev.FirstFD.Or(0)), 10), false
	case decode.LastFD:
		return strconv.FormatUint(uint64(ev.LastFD.Or(0)), 10), false
	case decode.CmdArg:
		switch {
		case ev.Flags == "F_SETFD" && ev.CloseOnExec.Or(false):
			return "FD_CLOEXEC", false
		case strings.HasPrefix(ev.Flags, "F_GET"):
			return "", false
		}
		return "0", false
	case decode.PID:
		return strconv.Itoa(int(ev.OfPID)), false
	case decode.RemoteAddr:
		return fmt.Sprintf("%#x", uint64(ev.Offset.Or(0))), false
	case decode.Word:
		if len(ev.Data) < 8 {
			return "NULL", true
		}
		return fmt.Sprintf("[%#x]", binary.LittleEndian.Uint64(ev.Data)), true
	case decode.Addr, decode.Envp:
		return "NULL", false
	case decode.OffsetHigh:
		return "", false // strace shows one offset
	}
	return "0", row.Ret == decode.RetBytes
}

// annotated is a descriptor with what it leads to.
func annotated(fd event.FD, t *event.Target) string {
	text := strconv.Itoa(int(fd))
	if t == nil || t.Link == "" {
		return text
	}
	link, gone := strings.CutSuffix(string(t.Link), " (deleted)")
	link = escape(link, "<>")
	if gone && t.Link[0] == '/' {
		return text + "<" + link + ">(deleted)"
	}
	return text + "<" + link + ">"
}

// length is how much was asked for, or else how much there was.
func length(ev *event.Syscall) uint64 { return ev.Count.Or(uint64(max(0, ev.Ret.Or(0)))) }

// data is what was read, as far as it is known.
func data(ev *event.Syscall, whole bool) string {
	if ev.Errno != "" || len(ev.Data) == 0 {
		return `""...`
	}
	if whole && int64(len(ev.Data)) == ev.Ret.Or(0) {
		return quote(string(ev.Data))
	}
	return quote(string(ev.Data)) + "..."
}

// stat is the identity in a struct stat, as -v shows it, and the type of the file.
func stat(ev *event.Syscall, x bool) string {
	t := ev.Target
	if ev.Errno != "" || t == nil || !ev.Ret.Known {
		return "NULL"
	}
	major, minor := t.Dev>>8&0xfff, t.Dev&0xff|t.Dev>>12&0xfff00 // makedev(3)
	var parts []string
	prefix := "st"
	if x {
		prefix = "stx"
	}
	if t.Ino != 0 && !x {
		parts = append(parts, fmt.Sprintf("st_dev=makedev(%#x, %#x), st_ino=%d", major, minor, t.Ino))
	} else if t.Ino != 0 {
		parts = append(parts, fmt.Sprintf("stx_ino=%d", t.Ino))
	}
	if mode := types[t.Kind]; mode != "" {
		parts = append(parts, prefix+"_mode="+mode)
	}
	if t.Ino != 0 && x {
		parts = append(parts, fmt.Sprintf("stx_dev_major=%#x, stx_dev_minor=%#x", major, minor))
	}
	return "{" + strings.Join(append(parts, "..."), ", ") + "}"
}

// types are those of inode(7), without the permissions, which are not in the evidence.
var types = map[event.Kind]string{event.Regular: "S_IFREG", event.Memfd: "S_IFREG", event.Directory: "S_IFDIR", event.Pipe: "S_IFIFO",
	event.FIFO: "S_IFIFO", event.Socket: "S_IFSOCK", event.TTY: "S_IFCHR", event.CharDev: "S_IFCHR", event.BlockDev: "S_IFBLK"}

func quote(s string) string { return `"` + escape(s, "") + `"` }

// escape writes a text as strace does: octal for what is not printable ASCII, and for
// the given bytes.
func escape(s, also string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"', c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case strings.IndexByte("\n\t\r\v\f", c) >= 0:
			b.WriteByte('\\')
			b.WriteByte("ntrvf"[strings.IndexByte("\n\t\r\v\f", c)])
		case c < ' ', c >= 0x7f, strings.IndexByte(also, c) >= 0:
			if i+1 < len(s) && isDigit(s[i+1]) {
				fmt.Fprintf(&b, `\%03o`, c)
			} else {
				fmt.Fprintf(&b, `\%o`, c)
			}
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// bare is a text without quotation marks.
func bare(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f {
			fmt.Fprintf(&b, `\%03o`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// messages are what strerror(3) says of the errors that calls on files end with.
var messages = map[string]string{
	"EPERM": "Operation not permitted", "ENOENT": "No such file or directory", "ESRCH": "No such process", "EINTR": "Interrupted system call",
	"EIO": "Input/output error", "ENXIO": "No such device or address", "EBADF": "Bad file descriptor", "EAGAIN": "Resource temporarily unavailable",
	"EACCES": "Permission denied", "EFAULT": "Bad address", "EBUSY": "Device or resource busy", "EEXIST": "File exists", "ENODEV": "No such device",
	"ENOTDIR": "Not a directory", "EISDIR": "Is a directory", "EINVAL": "Invalid argument", "EMFILE": "Too many open files",
	"ENOTTY": "Inappropriate ioctl for device", "ETXTBSY": "Text file busy", "ENOSPC": "No space left on device", "ESPIPE": "Illegal seek",
	"EROFS": "Read-only file system", "EPIPE": "Broken pipe", "ELOOP": "Too many levels of symbolic links", "ENAMETOOLONG": "File name too long",
	"ENOSYS": "Function not implemented", "EOVERFLOW": "Value too large for defined data type",
	"ERESTARTSYS": "To be restarted if SA_RESTART is set", "ERESTARTNOINTR": "To be restarted",
	"ERESTARTNOHAND": "To be restarted if no handler", "ERESTART_RESTARTBLOCK": "Interrupted by signal",
}
