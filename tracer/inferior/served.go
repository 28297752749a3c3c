package inferior

import (
	"slices"
	"strings"

	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// maxGenerations bounds how far a server may be from the debugger that started
// it: there may be a shell in between, or a wrapper such as sudo.
const maxGenerations = 4

// Served gives the processes that a debugger looks at through a server, which
// does the tracing: an lldb-server that lldb has started, a gdbserver of "target
// remote | gdbserver - PROGRAM", or one on this machine to which the debugger
// has a TCP connection. The debugger opens the libraries by itself all the same.
func Served(v *procview.View, debugger event.PID) (served []event.PID) {
	for _, server := range append(started(v, debugger), connected(v, debugger)...) {
		tracees, _ := v.Tracees(server) // none, if it has ended
		served = append(served, tracees...)
	}
	slices.Sort(served)
	return slices.Compact(served)
}

// started gives the servers among a debugger's descendants.
func started(v *procview.View, debugger event.PID) (servers []event.PID) {
	family := []event.PID{debugger}
	for range maxGenerations {
		var next []event.PID
		for _, pid := range family {
			children, _ := v.Children(pid) // none, if it has ended
			next = append(next, children...)
		}
		servers = append(servers, slices.DeleteFunc(slices.Clone(next), func(pid event.PID) bool { return !isServer(v, pid) })...)
		family = next
	}
	return servers
}

// connected gives the servers at the other ends of a debugger's connections.
func connected(v *procview.View, debugger event.PID) (servers []event.PID) {
	peers, _ := v.Peers(debugger) // none, if it may not be looked at
	for _, peer := range peers {
		holders, _, _, err := v.Holders(peer)
		if err != nil {
			continue
		}
		for _, h := range holders {
			if isServer(v, h.PID) {
				servers = append(servers, h.PID)
			}
		}
	}
	return servers
}

// isServer says whether a process, by its comm (proc_pid_comm(5), 15 bytes), is
// a program that traces others on behalf of a debugger. Debian has
// lldb-server-14.0.6.
func isServer(v *procview.View, pid event.PID) bool {
	st, err := v.Status(pid, event.TID(pid))
	return err == nil && (strings.HasPrefix(string(st.Name), "lldb-server") || strings.HasPrefix(string(st.Name), "gdbserver"))
}
