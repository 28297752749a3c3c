package inferior

import (
	"slices"

	"whosefd/tracer/event"
	"whosefd/tracer/procview"
	"whosefd/tracer/waits"
)

// maxGenerations bounds how far a server may be from the debugger that started
// it: there may be a shell in between, or a wrapper such as sudo.
const maxGenerations = 4

// Served gives the processes that a debugger looks at through a server, which
// does the tracing: an lldb-server that lldb has started, a gdbserver of "target
// remote | gdbserver - PROGRAM" or vgdb, or one on this machine to which the debugger
// has a TCP or unix connection. The debugger opens the libraries by itself all the same.
func Served(v *procview.View, debugger event.PID) (served []event.PID) {
	for _, server := range Servers(v, debugger) {
		served = append(served, subjects(v, server)...)
	}
	slices.Sort(served)
	return slices.Compact(served)
}

// Servers gives the servers of a debugger, whether they show it a process or not.
func Servers(v *procview.View, debugger event.PID) []event.PID {
	return append(started(v, debugger), connected(v, debugger)...)
}

// subjects gives the processes that a server shows to its debugger: those that it traces; of one
// that is an emulator itself (qemu-user), that; of vgdb, which only passes packets on, the
// valgrind that holds the other ends of its FIFOs.
func subjects(v *procview.View, server event.PID) []event.PID {
	st, err := v.Status(server, event.TID(server))
	if err != nil {
		return nil // it has ended
	}
	switch d := v.Debugger(server, st.Name); {
	case d.Is("qemu"):
		return []event.PID{server}
	case !d.Is("vgdb"):
		tracees, _ := v.Tracees(server) // none, if it has ended
		return tracees
	}
	var ends []event.Target
	fds, _ := v.Descriptors(server)
	for _, d := range fds {
		if d.Target.Kind == event.FIFO {
			ends = append(ends, d.Target)
		}
	}
	var behind []event.PID
	for _, h := range v.Holders(ends...) {
		if h.PID != server && !isServer(v, h.PID) {
			behind = append(behind, h.PID)
		}
	}
	return behind
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
	for _, h := range v.Holders(append(peers, waits.UnixPeers(v, debugger)...)...) {
		if isServer(v, h.PID) {
			servers = append(servers, h.PID)
		}
	}
	return servers
}

// isServer says whether a process is a program that traces others on behalf of a
// debugger, or runs or stands for a program that its debugger looks at.
func isServer(v *procview.View, pid event.PID) bool {
	st, err := v.Status(pid, event.TID(pid))
	if err != nil {
		return false
	}
	d := v.Debugger(pid, st.Name)
	return d.Serves() || d.Is("rr")
}
