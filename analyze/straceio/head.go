package straceio

import (
	"strings"

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
	comm  string    // of the thread, with --decode-pids=comm
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
func cutHead(line string) (h head, body string) {
	body = line
	for body != "" {
		rest, ok := "", false
		switch ch := body[0]; {
		case strings.HasPrefix(body, "[pid "):
			if rest, ok = h.cutTID(strings.TrimLeft(body[len("[pid "):], " ")); ok {
				rest, ok = strings.CutPrefix(rest, "]")
			}
		case isDigit(ch) && h.tid == 0:
			if rest, ok = h.cutTID(body); !ok {
				rest, ok = h.cutTime(body)
			}
		case isDigit(ch), ch == '(':
			rest, ok = h.cutTime(body)
		case ch == '[' && !strings.HasPrefix(body, "[ Process"):
			// A number, an address, or a security context; not the message
			// "[ Process PID=12 runs in 32 bit mode. ]".
			_, rest, ok = strings.Cut(body, "] ")
		}
		if !ok {
			break
		}
		body = strings.TrimLeft(rest, " ")
	}
	return h, body
}

// cutTID reads a thread id and, with --decode-pids, what stands behind it.
func (h *head) cutTID(s string) (rest string, ok bool) {
	end := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	n := pidOf(s[:max(0, end)])
	if n == 0 {
		return s, false
	}
	comm := ""
	if rest = s[end:]; rest[0] == '<' {
		if comm, rest, ok = strings.Cut(rest[1:], ">"); !ok {
			return s, false
		}
	}
	if rest == "" || rest[0] != ' ' && rest[0] != ']' {
		return s, false // of a time, or of something else
	}
	h.tid, h.comm = event.TID(n), comm
	return rest, true
}

// cutTime reads a time: 12:00:00, 12:00:00.123456, 1600000000.123456, 0.000123
// and "(+     0.000123)".
func (h *head) cutTime(s string) (string, bool) {
	c := cursor{s: s}
	relative := c.at("(+")
	if relative {
		c.blanks()
	}
	var parts []event.Micros
	start := 0
	for {
		start = c.i
		v, ok := c.seconds()
		if !ok || len(parts) == 3 {
			return s, false
		}
		parts = append(parts, v)
		if !c.at(":") {
			break
		}
	}
	digits := strings.IndexFunc(s[start:], func(r rune) bool { return r < '0' || r > '9' })
	if relative && !c.at(")") || !c.at(" ") {
		return s, false
	}
	switch at := parts[0]; {
	case len(parts) == 3:
		h.clock, h.at = clockDay, (parts[0]*60+parts[1])*60+parts[2]
	case len(parts) == 2 || digits > 11: // the year 5138 has 11
		return s, false
	case relative:
		h.delta = at
	case digits < 8:
		h.delta = at
		if h.clock == clockNone {
			h.clock = clockDelta
		}
	default:
		h.clock, h.at = clockUnix, at
	}
	return c.rest(), true
}
