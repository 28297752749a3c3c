package waits

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// socket is what the kernel says of a socket, sock_diag(7).
type socket struct {
	proto string // "unix", "tcp", "udp"
	// ino is 0 for a connection that nobody has accepted yet.
	ino       uint64
	listening bool
	// local and remote are address and port, invalid for a unix socket.
	local, remote netip.AddrPort
	name          string // of a unix socket
	peer          uint64 // inode of a unix socket's other side
	// pending are the inodes of the unix sockets that wait to be accepted.
	pending []uint64
}

// sockets are those of a network namespace.
type sockets struct {
	byIno map[uint64]*socket
	all   []*socket
}

func (t *sockets) add(s *socket) {
	t.all = append(t.all, s)
	if s.ino != 0 {
		t.byIno[s.ino] = s
	}
}

// find gives the first socket that is so; nil for none.
func (t *sockets) find(is func(*socket) bool) *socket {
	for _, s := range t.all {
		if is(s) {
			return s
		}
	}
	return nil
}

// listSockets asks the kernel for the sockets of the network namespace that a
// process is in. Where that is another one than ours and may not be entered,
// /proc/PID/net is read instead, which knows less: then the error says so.
func listSockets(v *procview.View, pid event.PID) (*sockets, error) {
	t := &sockets{byIno: map[uint64]*socket{}}
	err := t.ask(v, pid)
	if err == nil {
		return t, nil
	}
	for _, file := range []string{"tcp", "tcp6"} {
		b, err := v.Net(pid, file)
		if err != nil {
			continue
		}
		for _, s := range procview.ParseTCP(b) {
			t.add(&socket{proto: "tcp", ino: s.Inode, local: s.Local, remote: s.Remote})
		}
	}
	return t, fmt.Errorf("sockets in the network namespace of pid %d: %w", pid, err)
}

const sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY, linux/sock_diag.h

// ask sends one request for each family.
func (t *sockets) ask(v *procview.View, pid event.PID) error {
	ns, err := v.NamespaceFile(pid, "net")
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	// The library enters the namespace in a thread that it then throws away.
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{NetNS: ns})
	if err != nil {
		return err
	}
	defer conn.Close()
	var last error
	for _, q := range []struct {
		request []byte
		parse   func([]byte)
	}{
		{unixRequest(), t.parseUnix},
		{inetRequest(unix.AF_INET, unix.IPPROTO_TCP), t.parseInet("tcp")},
		{inetRequest(unix.AF_INET6, unix.IPPROTO_TCP), t.parseInet("tcp")},
		{inetRequest(unix.AF_INET, unix.IPPROTO_UDP), t.parseInet("udp")},
		{inetRequest(unix.AF_INET6, unix.IPPROTO_UDP), t.parseInet("udp")},
	} {
		msgs, err := conn.Execute(netlink.Message{
			Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump}, Data: q.request})
		if err != nil {
			last = err // a kernel without IPv6, or without that module
			continue
		}
		for _, m := range msgs {
			q.parse(m.Data)
		}
	}
	if len(t.all) == 0 {
		return last
	}
	return nil
}

// unixRequest is a struct unix_diag_req, linux/unix_diag.h.
func unixRequest() []byte {
	const name, peer, icons = 1, 4, 8 // UDIAG_SHOW_*
	b := make([]byte, 24)
	b[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(b[4:], ^uint32(0)) // all states
	binary.NativeEndian.PutUint32(b[12:], name|peer|icons)
	return b
}

// parseUnix reads a struct unix_diag_msg and its attributes.
func (t *sockets) parseUnix(b []byte) {
	const size, attrName, attrPeer, attrIcons, listen = 16, 0, 2, 3, 10 // UNIX_DIAG_*, TCP_LISTEN
	if len(b) < size {
		return
	}
	s := &socket{proto: "unix", ino: uint64(binary.NativeEndian.Uint32(b[4:])), listening: b[2] == listen}
	attrs, err := netlink.NewAttributeDecoder(b[size:])
	if err != nil {
		return
	}
	for attrs.Next() {
		switch data := attrs.Bytes(); attrs.Type() {
		case attrName:
			s.name = unixName(data)
		case attrPeer:
			if len(data) == 4 {
				s.peer = uint64(binary.NativeEndian.Uint32(data))
			}
		case attrIcons:
			for ; len(data) >= 4; data = data[4:] {
				s.pending = append(s.pending, uint64(binary.NativeEndian.Uint32(data)))
			}
		}
	}
	t.add(s)
}

// unixName is the name of a socket as unix(7) writes the abstract ones.
func unixName(b []byte) string {
	if len(b) > 0 && b[0] == 0 {
		return "@" + strings.TrimRight(string(b[1:]), "\x00")
	}
	return strings.TrimRight(string(b), "\x00")
}

// inetRequest is a struct inet_diag_req_v2, linux/inet_diag.h.
func inetRequest(family, proto byte) []byte {
	b := make([]byte, 56)
	b[0], b[1] = family, proto
	binary.NativeEndian.PutUint32(b[4:], ^uint32(0)) // all states
	return b
}

// parseInet reads a struct inet_diag_msg.
func (t *sockets) parseInet(proto string) func([]byte) {
	return func(b []byte) {
		const size, listen = 72, 10
		if len(b) < size {
			return
		}
		n := 4
		if b[0] == unix.AF_INET6 {
			n = 16
		}
		end := func(port, addr int) netip.AddrPort {
			a, _ := netip.AddrFromSlice(b[addr : addr+n])
			return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(b[port:]))
		}
		t.add(&socket{proto: proto, ino: uint64(binary.NativeEndian.Uint32(b[68:])), listening: b[1] == listen,
			local: end(4, 8), remote: end(6, 24)})
	}
}

// toItself says whether an address is one of the namespace that the socket is of: to such
// a one the kernel connects from that same address.
func (s *socket) toItself(at netip.AddrPort) bool {
	return at.Addr().IsLoopback() || at.Addr() == s.local.Addr()
}

// listener gives the socket that listens where a connection goes to; here says that the
// address is one of this namespace, where one that listens at all addresses is meant too.
func (t *sockets) listener(at netip.AddrPort, here bool) *socket {
	return t.find(func(s *socket) bool {
		return s.proto == "tcp" && s.listening && s.local.Port() == at.Port() && (s.local.Addr() == at.Addr() || here && s.local.Addr().IsUnspecified())
	})
}

// otherSide gives the other end of a connection within the namespace.
func (t *sockets) otherSide(of *socket) *socket {
	return t.find(func(s *socket) bool {
		return s.proto == of.proto && s != of && !s.listening && s.local == of.remote && s.remote == of.local
	})
}

// waitingFor gives the socket that a unix socket waits to be accepted at.
func (t *sockets) waitingFor(ino uint64) *socket {
	return t.find(func(s *socket) bool {
		for _, p := range s.pending {
			if p == ino {
				return true
			}
		}
		return false
	})
}

// sockaddr is the address in a struct sockaddr, as [socket] has them.
func sockaddr(b []byte) (name string, inet netip.AddrPort) {
	if len(b) < 2 {
		return "", netip.AddrPort{}
	}
	switch binary.NativeEndian.Uint16(b) {
	case unix.AF_UNIX:
		return unixName(b[2:]), netip.AddrPort{}
	case unix.AF_INET:
		if len(b) >= 8 {
			return "", netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:]))
		}
	case unix.AF_INET6:
		if len(b) >= 24 {
			return "", netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), binary.BigEndian.Uint16(b[2:]))
		}
	}
	return "", netip.AddrPort{}
}
