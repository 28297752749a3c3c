package straceio

import (
	"bytes"

	"whosefd/tracer/event"
)

// clock says what sort of time stands before a line.
type clock uint8

const (
	clockNone  clock = iota
	clockDay         // -t, -tt: time of day
	clockUnix        // -ttt: seconds since 1970
	clockDelta       // -r: since the line before
)

// head is what stands before the call or message of a line.
type head struct {
	tid   event.TID // 0 where there is none
	comm  []byte    // of the thread, with --decode-pids=comm
	clock clock
	// at is the time, in microseconds; delta is that of -r, also where it
	// stands beside another.
	at, delta event.Micros
}

// maxTID is PID_MAX_LIMIT of linux/threads.h, of 64-bit systems: a longer number
// before a line is a time.
const maxTID = 4 << 20

// cutHead reads what precedes a call: [pid 12], the time, [the number of the
// call], [the instruction pointer]; printleader in strace's source has the
// order. What is not understood is left in body.
func cutHead(line []byte) (h head, body []byte) {
	body = h.cut(line)
	return h, body
}

// cut is cutHead, into h.
func (h *head) cut(line []byte) (body []byte) {
	*h = head{}
	body = line
	if len(body) > 0 && (body[0] >= 'a' && body[0] <= 'z' || body[0] == '<') {
		return body // the usual line without any
	}
	if rest, ok := bytes.CutPrefix(body, []byte("[pid ")); ok {
		if n, comm, rest, ok := cutTID(bytes.TrimLeft(rest, " ")); ok {
			if rest, ok := bytes.CutPrefix(rest, []byte("]")); ok {
				h.tid, h.comm, body = n, comm, bytes.TrimLeft(rest, " ")
			}
		}
	} else if len(body) > 0 && body[0] >= '0' && body[0] <= '9' {
		if n, comm, rest, ok := cutTID(body); ok && n <= maxTID && len(rest) > 0 && rest[0] == ' ' {
			h.tid, h.comm, body = n, comm, bytes.TrimLeft(rest, " ")
		}
	}
	for len(body) > 0 {
		switch ch := body[0]; {
		case ch >= '0' && ch <= '9', ch == '(', ch == ' ':
			rest, ok := h.cutTime(body)
			if !ok {
				return body
			}
			body = rest
		case ch == '[':
			// A number, an address, or a security context; not the message
			// "[ Process PID=12 runs in 32 bit mode. ]".
			n := bytes.Index(body, []byte("] "))
			if n < 0 || bytes.HasPrefix(body, []byte("[ Process")) {
				return body
			}
			body = body[n+2:]
		default:
			return body
		}
	}
	return body
}

// cutTID reads a thread id and, with --decode-pids, what stands behind it.
func cutTID(b []byte) (tid event.TID, comm, rest []byte, ok bool) {
	i := 0
	for ; i < len(b) && i < 12 && b[i] >= '0' && b[i] <= '9'; i++ {
		tid = tid*10 + event.TID(b[i]-'0')
	}
	if i == 0 || tid <= 0 {
		return 0, nil, b, false
	}
	if i < len(b) && b[i] == '<' {
		if n := bytes.IndexByte(b[i:], '>'); n > 0 {
			comm, i = b[i+1:i+n], i+n+1
		}
	}
	return tid, comm, b[i:], true
}

// cutTime reads a time: 12:00:00, 12:00:00.123456, 1600000000.123456,
// "     0.000123" and "(+     0.000123)".
func (h *head) cutTime(b []byte) ([]byte, bool) {
	i := 0
	delta := b[0] == '('
	if delta {
		if i = 2; len(b) < 2 || b[1] != '+' {
			return b, false
		}
	}
	spaces := i
	for i < len(b) && b[i] == ' ' {
		i++
	}
	padded := i > spaces
	var parts [3]int64
	n, start := 0, i
	for {
		for ; i < len(b) && b[i] >= '0' && b[i] <= '9' && i-start < 18; i++ {
			parts[n] = parts[n]*10 + int64(b[i]-'0')
		}
		if i == start || i >= len(b) {
			return b, false
		}
		if b[i] != ':' || n == 2 {
			break
		}
		n++
		i++
		start = i
	}
	digits := i - start
	us := int64(0)
	if b[i] == '.' {
		scale := int64(100000)
		for i++; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
			us += int64(b[i]-'0') * scale
			scale /= 10
		}
	}
	if delta {
		if i >= len(b) || b[i] != ')' {
			return b, false
		}
		i++
	}
	if i >= len(b) || b[i] != ' ' {
		return b, false
	}
	at := event.Micros(parts[0]*1e6 + us)
	switch {
	case n == 2:
		h.clock, h.at = clockDay, event.Micros(((parts[0]*60+parts[1])*60+parts[2])*1e6+us)
	case n == 1 || digits > 11: // the year 5138 has 11
		return b, false
	case delta:
		h.delta = at
	case padded || digits < 8:
		h.delta = at
		if h.clock == clockNone {
			h.clock = clockDelta
		}
	default:
		h.clock, h.at = clockUnix, at
	}
	return b[i+1:], true
}
