package procview

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
)

// Asker puts questions to file systems that may never answer, in a process of
// its own. A thread that waits for a FUSE server cannot be killed, and a process
// does not end while one of its threads waits so: nobody who waits for us would
// get us back. The other process is left alone with its question when it takes
// too long, and nobody waits for it.
//
// A nil Asker asks in this process.
type Asker struct {
	mu     sync.Mutex
	conn   int // -1 if there is no process
	proc   *os.Process
	silent map[uint64]time.Time // devices that did not answer, and when they are asked again
	lost   int                  // processes that did not come back
}

// AskerArg is the argument that makes this program the one that asks: it must
// then call [AnswerAsker], and nothing else.
const AskerArg = "__ask"

// NewAsker gives an Asker that starts this program with [AskerArg], when there
// is something to ask.
func NewAsker() *Asker { return &Asker{conn: -1, silent: map[uint64]time.Time{}} }

const (
	askWithin  = 300 * time.Millisecond // for one question
	copyWithin = 3 * time.Second        // for a whole file
	// maxWaits is how often that is waited for a process that gets no CPU.
	maxWaits = 10
	// quiet is for how long a file system that did not answer is not asked again.
	quiet = 10 * time.Second
	// maxLost bounds the processes that are left waiting.
	maxLost = 16
	// maxAnswer is how much memory one question can be about, bytes.
	maxAnswer = 64 << 10
	// maxCopy is the largest file that is copied, bytes.
	maxCopy = 512 << 20
)

// The questions.
const (
	askOpen     = iota + 1 // openat2 of a name below a directory
	askReadlink            // the text of a link
	askStatfs              // the type of a file system
	askReopen              // the file, for reading
	askCopy                // an open file's content, as a memfd
	askRead                // pread
)

// question is what is asked, of a descriptor.
type question struct {
	what    byte
	fd      int
	flags   uint64 // of open
	resolve uint64 // of open
	offset  uint64
	size    uint32
	name    string
	dev     uint64 // whose file system it is about; not sent
}

const questionSize = 1 + 8 + 8 + 8 + 4

// answer is what came back; fd is -1 without one.
type answer struct {
	data []byte
	fd   int
}

var errSilent = fmt.Errorf("the file system does not answer: %w", unix.ETIMEDOUT)

// ask puts a question.
func (a *Asker) ask(q question) (answer, error) {
	if a == nil {
		return q.answer()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Now().Before(a.silent[q.dev]) || a.lost >= maxLost {
		return answer{fd: -1}, errSilent
	}
	for try := 0; ; try++ {
		got, err := a.put(q)
		switch {
		case err == nil || !errors.Is(err, errBroken):
			return got, err
		case try > 0:
			return got, unix.EIO
		}
	}
}

// errBroken says that the other process is not there, or no more.
var errBroken = errors.New("the asking process has ended")

func (a *Asker) put(q question) (answer, error) {
	none := answer{fd: -1}
	if a.conn < 0 {
		if err := a.start(); err != nil {
			return none, err
		}
	}
	b := append([]byte{q.what}, make([]byte, questionSize-1)...)
	binary.NativeEndian.PutUint64(b[1:], q.flags)
	binary.NativeEndian.PutUint64(b[9:], q.resolve)
	binary.NativeEndian.PutUint64(b[17:], q.offset)
	binary.NativeEndian.PutUint32(b[25:], q.size)
	if err := unix.Sendmsg(a.conn, append(b, q.name...), unix.UnixRights(q.fd), nil, unix.MSG_NOSIGNAL); err != nil {
		a.drop()
		return none, errBroken
	}
	within := askWithin
	if q.what == askCopy {
		within = copyWithin
	}
	if !a.answers(within) {
		a.silent[q.dev] = time.Now().Add(quiet)
		a.lost++
		a.drop()
		return none, errSilent
	}
	data, fd, err := receive(a.conn, 4+maxAnswer)
	if err != nil || len(data) < 4 {
		a.drop()
		return answer{fd: fd}.closed(), errBroken
	}
	if errno := unix.Errno(binary.NativeEndian.Uint32(data)); errno != 0 {
		return answer{fd: fd}.closed(), errno
	}
	return answer{data[4:], fd}, nil
}

// answers waits for the answer. A process that could run and has no CPU waits for
// no file system, as on a busy machine just after its start: it gets more time.
func (a *Asker) answers(within time.Duration) bool {
	for range maxWaits {
		if readable(a.conn, within) {
			return true
		}
		if !runs(event.PID(a.proc.Pid)) {
			break
		}
	}
	return readable(a.conn, 0) // what came since
}

// runs tells whether a thread of a child of ours could run.
func runs(pid event.PID) bool {
	view := New("/proc")
	tids, _ := view.Threads(pid) // none, if it has ended
	return slices.ContainsFunc(tids, func(tid event.TID) bool {
		state, err := view.State(pid, tid)
		return err == nil && state == "R"
	})
}

func (an answer) closed() answer {
	if an.fd >= 0 {
		_ = unix.Close(an.fd)
	}
	return answer{fd: -1}
}

// readable waits for data.
func readable(fd int, within time.Duration) bool {
	for deadline := time.Now().Add(within); ; {
		left := max(time.Until(deadline), 0)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// receive takes a message and the descriptor that came with it, -1 if none did.
func receive(conn, size int) (data []byte, fd int, err error) {
	data, rights := make([]byte, size), make([]byte, unix.CmsgSpace(4))
	for {
		n, m, _, _, err := unix.Recvmsg(conn, data, rights, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return nil, -1, unix.EPIPE
		}
		fd = -1
		msgs, err := unix.ParseSocketControlMessage(rights[:m])
		if err == nil && len(msgs) > 0 {
			if fds, err := unix.ParseUnixRights(&msgs[0]); err == nil && len(fds) > 0 {
				fd = fds[0]
			}
		}
		return data[:n], fd, nil
	}
}

// start starts the other process. It has nothing of ours but a socket: what we
// have open must be closed when we end.
func (a *Asker) start() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	theirs := os.NewFile(uintptr(pair[1]), "socket")
	defer theirs.Close()
	p, err := StartSelf(AskerArg, theirs)
	if err != nil {
		_ = unix.Close(pair[0])
		return err
	}
	a.conn, a.proc = pair[0], p
	return nil
}

// StartSelf starts this program with an argument, in a session of its own, so that
// no key on a terminal reaches it, and with nothing of ours but stdin.
func StartSelf(arg string, stdin *os.File) (p *os.Process, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	// From a thread that traces nobody: the child would be one that it waits for.
	done := make(chan struct{})
	go func() {
		defer close(done)
		p, err = os.StartProcess("/proc/self/exe", []string{"whosefd", arg}, &os.ProcAttr{
			Dir: "/", Env: []string{}, Files: []*os.File{stdin, null, null}, Sys: &unix.SysProcAttr{Setsid: true}})
	}()
	<-done
	return p, err
}

// drop lets go of the other process. It may be stuck, so that killing it does
// nothing until it gets its answer.
func (a *Asker) drop() {
	_ = unix.Close(a.conn)
	_ = a.proc.Kill()
	go func(p *os.Process) { _, _ = p.Wait() }(a.proc)
	a.conn, a.proc = -1, nil
}

// AnswerAsker is the other process: it answers what comes from its standard
// input, a socket, until that is closed.
func AnswerAsker() {
	for {
		b, fd, err := receive(0, questionSize+maxName)
		if err != nil {
			return
		}
		var got answer
		var errno unix.Errno
		if len(b) < questionSize || fd < 0 {
			errno = unix.EINVAL
		} else {
			q := question{what: b[0], fd: fd, flags: binary.NativeEndian.Uint64(b[1:]), resolve: binary.NativeEndian.Uint64(b[9:]),
				offset: binary.NativeEndian.Uint64(b[17:]), size: binary.NativeEndian.Uint32(b[25:]), name: string(b[questionSize:])}
			if got, err = q.answer(); err != nil && !errors.As(err, &errno) {
				errno = unix.EIO
			}
		}
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		var rights []byte
		if errno == 0 && got.fd >= 0 {
			rights = unix.UnixRights(got.fd)
		}
		out := binary.NativeEndian.AppendUint32(nil, uint32(errno))
		err = unix.Sendmsg(0, append(out, got.data...), rights, nil, unix.MSG_NOSIGNAL)
		got.closed()
		if err != nil {
			return
		}
	}
}

// answer asks the file system.
func (q question) answer() (answer, error) {
	none := answer{fd: -1}
	switch q.what {
	case askOpen:
		fd, err := openHow(q.fd, q.name, q.flags, q.resolve)
		return answer{fd: fd}, err
	case askReadlink:
		text, err := readlinkat(q.fd, "")
		return answer{data: []byte(text), fd: -1}, err
	case askStatfs:
		var fs unix.Statfs_t
		if err := unix.Fstatfs(q.fd, &fs); err != nil {
			return none, err
		}
		return answer{data: binary.NativeEndian.AppendUint64(nil, uint64(fs.Type)), fd: -1}, nil
	case askReopen:
		fd, err := reopen(q.fd)
		return answer{fd: fd}, err
	case askCopy:
		fd, err := copyFile(q.fd)
		return answer{fd: fd}, err
	case askRead:
		b := make([]byte, min(q.size, maxAnswer))
		n, err := unix.Pread(q.fd, b, int64(q.offset))
		return answer{data: b[:max(n, 0)], fd: -1}, err
	}
	return none, unix.EINVAL
}

// openHow is openat2(2), and openat(2) where nothing is asked of the way.
func openHow(dir int, name string, flags, resolve uint64) (int, error) {
	if resolve == 0 {
		return openat(dir, name, int(flags))
	}
	for {
		fd, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: flags, Resolve: resolve})
		if !errors.Is(err, unix.EINTR) {
			return fd, noteScarce(err)
		}
	}
}

// reopen opens for reading what an O_PATH descriptor stands for, which must be a
// regular file. O_NONBLOCK: somebody may have a lease on it (fcntl(2)).
func reopen(fd int) (int, error) {
	return openat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC)
}

// copyFile makes a memfd with the content of an open file, from where it stands.
func copyFile(in int) (int, error) {
	out, err := unix.MemfdCreate("whosefd-copy", unix.MFD_CLOEXEC)
	if err != nil {
		return -1, err
	}
	for copied := 0; copied <= maxCopy; {
		n, err := unix.Sendfile(out, in, nil, 1<<20)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			_ = unix.Close(out)
			return -1, err
		case n == 0:
			return out, nil
		}
		copied += max(n, 0)
	}
	_ = unix.Close(out)
	return -1, unix.EFBIG
}
