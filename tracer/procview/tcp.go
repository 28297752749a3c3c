package procview

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"whosefd/tracer/event"
)

// TCPSocket is an established connection of proc_pid_net(5), tcp and tcp6. The
// ends are an address and a port as the kernel prints them; an IPv4 address
// within IPv6 is given as IPv4.
type TCPSocket struct {
	Local, Remote string
	Inode         uint64
}

// maxTCP bounds how many connections are kept of one file.
const maxTCP = 1 << 16

// ParseTCP reads the text of /proc/PID/net/tcp or tcp6. Lines that it does not
// understand are left out.
func ParseTCP(b []byte) (sockets []TCPSocket) {
	const established = "01" // TCP_ESTABLISHED of net/tcp_states.h
	// In words of the host's byte order, of which ffff has two forms.
	mapped := [][]byte{[]byte("0000000000000000FFFF0000"), []byte("00000000000000000000FFFF")}
	end := func(field []byte) string {
		for _, prefix := range mapped {
			if rest, ok := bytes.CutPrefix(field, prefix); ok {
				return string(rest)
			}
		}
		return string(field)
	}
	for line := range bytes.Lines(b) {
		// sl local_address rem_address st tx:rx tr:tm->when retrnsmt uid timeout inode …
		fields := bytes.Fields(line)
		if len(fields) < 10 || string(fields[3]) != established {
			continue
		}
		inode, err := strconv.ParseUint(string(fields[9]), 10, 64)
		s := TCPSocket{end(fields[1]), end(fields[2]), inode}
		if err != nil || inode == 0 || !strings.Contains(s.Local, ":") || !strings.Contains(s.Remote, ":") {
			continue
		}
		sockets = append(sockets, s)
		if len(sockets) == maxTCP {
			break
		}
	}
	return sockets
}

// Peers gives the sockets of this machine that are the other ends of a
// process's TCP connections, as far as they are in its network namespace.
func (v *View) Peers(pid event.PID) ([]event.Target, error) {
	var all []TCPSocket
	for _, file := range []string{"net/tcp", "net/tcp6"} {
		b, err := v.read(int(pid), file)
		if err != nil {
			continue // no IPv6, say
		}
		all = append(all, ParseTCP(b)...)
	}
	if len(all) < 2 {
		return nil, nil
	}
	fds, err := v.Descriptors(pid)
	if err != nil {
		return nil, err
	}
	own := map[uint64]uint64{} // inode to device
	for _, fd := range fds {
		if fd.Target.Kind == event.Socket {
			own[fd.Target.Ino] = fd.Target.Dev
		}
	}
	var peers []event.Target
	for _, here := range all {
		dev, ok := own[here.Inode]
		if !ok {
			continue
		}
		for _, there := range all {
			if there.Local == here.Remote && there.Remote == here.Local {
				peers = append(peers, event.Target{Kind: event.Socket, Link: event.Text(fmt.Sprintf("socket:[%d]", there.Inode)), Dev: dev, Ino: there.Inode})
			}
		}
	}
	return peers, nil
}
