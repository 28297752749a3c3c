package procview

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"whosefd/tracer/event"
)

// TCPSocket is an established connection of proc_pid_net(5), tcp and tcp6. An IPv4
// address within IPv6 is given as IPv4.
type TCPSocket struct {
	Local, Remote netip.AddrPort
	Inode         uint64
}

// maxTCP bounds how many connections are kept of one file.
const maxTCP = 1 << 16

// ParseTCP reads the text of /proc/PID/net/tcp or tcp6. Lines that it does not
// understand are left out.
func ParseTCP(b []byte) (sockets []TCPSocket) {
	const established = "01" // TCP_ESTABLISHED of net/tcp_states.h
	for line := range strings.Lines(string(b)) {
		// sl local_address rem_address st tx:rx tr:tm->when retrnsmt uid timeout inode …
		fields := strings.Fields(line)
		if len(fields) < 10 || fields[3] != established || len(sockets) == maxTCP {
			continue
		}
		inode, _ := strconv.ParseUint(fields[9], 10, 64)
		local, remote := endOf(fields[1]), endOf(fields[2])
		if inode != 0 && local.IsValid() && remote.IsValid() {
			sockets = append(sockets, TCPSocket{local, remote, inode})
		}
	}
	return sockets
}

// endOf reads "0100007F:1F90": words in the host's byte order, and the port.
func endOf(s string) netip.AddrPort {
	addr, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(addr)
	p, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil || len(b)%4 != 0 {
		return netip.AddrPort{}
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(p))
}

// Peers gives the sockets of this machine that are the other ends of a
// process's TCP connections, as far as they are in its network namespace.
func (v *View) Peers(pid event.PID) ([]event.Target, error) {
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
	if len(own) == 0 {
		return nil, nil // the kernel goes through all of its hash table for the lists
	}
	var all []TCPSocket
	for _, file := range []string{"net/tcp", "net/tcp6"} {
		b, err := v.read(int(pid), file)
		if err != nil {
			continue // no IPv6, say
		}
		all = append(all, ParseTCP(b)...)
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
