package waits

import (
	"fmt"

	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// UnixPeers gives the sockets at the other ends of a process's unix connections; none where the kernel
// does not tell (sock_diag(7)).
func UnixPeers(v *procview.View, pid event.PID) (peers []event.Target) {
	fds, _ := v.Descriptors(pid) // none, if it has ended
	var all *sockets
	for _, fd := range fds {
		if fd.Target.Kind != event.Socket {
			continue
		}
		if all == nil {
			all, _ = listSockets(v, pid) // what could be read
		}
		if s := all.byIno[fd.Target.Ino]; s != nil && s.proto == "unix" && s.peer != 0 {
			peers = append(peers, event.Target{Kind: event.Socket, Link: event.Text(fmt.Sprintf("socket:[%d]", s.peer)), Dev: fd.Target.Dev, Ino: s.peer})
		}
	}
	return peers
}
