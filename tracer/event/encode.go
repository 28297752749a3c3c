package event

import (
	"encoding/base64"
	"math"
	"strconv"
)

// appendSyscall appends the fields of s as a JSON object does, without the
// opening brace, exactly as encoding/json writes them. Almost every line of a
// recording is a system call, and this writes it without reflection or garbage.
// ok is false for the rare value that is left to encoding/json: what was
// appended is then of no use.
func appendSyscall(b []byte, s *Syscall) (_ []byte, ok bool) {
	if s.T == math.MinInt64 {
		return b, false // has no text
	}
	b = append(b, `"t":`...)
	b, _ = s.T.AppendText(b)
	b = appendInt(b, `,"pid":`, int64(s.PID))
	b = appendInt(b, `,"tid":`, int64(s.TID))
	if b, ok = appendPlain(b, `,"name":`, s.Name); !ok {
		return b, false
	}
	b = appendOptInt(b, `,"dirfd":`, s.DirFD)
	b = appendOptInt(b, `,"fd":`, s.FD)
	b = appendOptInt(b, `,"newfd":`, s.NewFD)
	if s.Path != "" {
		b = s.Path.AppendJSON(append(b, `,"path":`...))
	}
	if s.PathTruncated {
		b = append(b, `,"path_truncated":true`...)
	}
	if s.Flags != "" {
		if b, ok = appendPlain(b, `,"flags":`, s.Flags); !ok {
			return b, false
		}
	}
	b = appendOptUint(b, `,"mode":`, s.Mode)
	b = appendOptUint(b, `,"count":`, s.Count)
	b = appendOptInt(b, `,"offset":`, s.Offset)
	if s.OfPID != 0 {
		b = appendInt(b, `,"of_pid":`, int64(s.OfPID))
	}
	b = appendOptInt(b, `,"ret":`, s.Ret)
	if s.Errno != "" {
		if b, ok = appendPlain(b, `,"errno":`, s.Errno); !ok {
			return b, false
		}
	}
	b = appendOptInt(b, `,"dur_us":`, s.DurUS)
	if s.Unfinished {
		b = append(b, `,"unfinished":true`...)
	}
	if s.Resumed {
		b = append(b, `,"resumed":true`...)
	}
	if s.Target != nil {
		if b, ok = appendTarget(append(b, `,"target":{`...), s.Target); !ok {
			return b, false
		}
	}
	if len(s.Counterpart) > 0 {
		b = append(b, `,"counterpart":[`...)
		for i := range s.Counterpart {
			c := &s.Counterpart[i]
			if i > 0 {
				b = append(b, ',')
			}
			b = appendInt(b, `{"pid":`, int64(c.PID))
			b = append(appendOptInt(b, `,"fd":`, c.FD), ',')
			if b, ok = appendTarget(b, &c.Target); !ok {
				return b, false
			}
		}
		b = append(b, ']')
	}
	if len(s.Data) > 0 {
		b = append(b, `,"data":"`...)
		b = append(base64.StdEncoding.AppendEncode(b, s.Data), '"')
	}
	if s.Rewritten != nil {
		b = s.Rewritten.Path.AppendJSON(append(b, `,"rewritten":{"path":`...))
		if b, ok = appendTarget(append(b, `,"target":{`...), &s.Rewritten.Target); !ok {
			return b, false
		}
		b = append(b, '}')
	}
	return append(b, '}'), true
}

// appendTarget appends the fields of t and the closing brace.
func appendTarget(b []byte, t *Target) (_ []byte, ok bool) {
	if b, ok = appendPlain(b, `"kind":`, string(t.Kind)); !ok {
		return b, false
	}
	if t.Link != "" {
		b = t.Link.AppendJSON(append(b, `,"link":`...))
	}
	if t.Dev != 0 {
		b = strconv.AppendUint(append(b, `,"dev":`...), t.Dev, 10)
	}
	if t.Ino != 0 {
		b = strconv.AppendUint(append(b, `,"ino":`...), t.Ino, 10)
	}
	if t.Serial != 0 {
		b = strconv.AppendUint(append(b, `,"serial":`...), t.Serial, 10)
	}
	if t.Error != "" {
		if b, ok = appendPlain(b, `,"error":`, t.Error); !ok {
			return b, false
		}
	}
	return append(b, '}'), true
}

// appendPlain appends a string that needs no escapes; it refuses others.
func appendPlain(b []byte, key, s string) (_ []byte, ok bool) {
	for i := range len(s) {
		if !plainByte[s[i]] {
			return b, false
		}
	}
	b = append(append(b, key...), '"')
	return append(append(b, s...), '"'), true
}

// plainByte has the bytes that mean themselves within a JSON string and that
// every encoder here writes as they are.
var plainByte = func() (t [256]bool) {
	for c := ' '; c < 0x7f; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

func appendInt(b []byte, key string, v int64) []byte {
	return strconv.AppendInt(append(b, key...), v, 10)
}

// appendOptInt and appendOptUint omit the zero Opt as omitzero does: one that
// is not known but has a value is written as null.
func appendOptInt[T FD | int64](b []byte, key string, o Opt[T]) []byte {
	if o.Known {
		return strconv.AppendInt(append(b, key...), int64(o.Val), 10)
	}
	return appendNull(b, key, o.Val != 0)
}

func appendOptUint[T uint32 | uint64](b []byte, key string, o Opt[T]) []byte {
	if o.Known {
		return strconv.AppendUint(append(b, key...), uint64(o.Val), 10)
	}
	return appendNull(b, key, o.Val != 0)
}

func appendNull(b []byte, key string, set bool) []byte {
	if !set {
		return b
	}
	return append(append(b, key...), "null"...)
}
