// Package inferior finds the processes that a debugger traces, and reads from
// their memory which objects the dynamic loader has loaded in them, under which
// names, and which mapped file each one is.
package inferior

import (
	"errors"
	"fmt"
	"time"

	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

const (
	maxObjects    = 20000 // link_map entries, of all namespaces together
	maxNamespaces = 64    // glibc has 16 (DL_NNS)
	maxName       = 4096  // PATH_MAX
	maxTries      = 3     // for a list that changes while it is read

	// readWithin bounds the reading of a list: a page of foreign memory may come
	// from a file system, or from a userfaultfd(2), that never answers.
	readWithin = 2 * time.Second
)

// Errors that say why a process has no list of loaded objects.
var (
	// ErrStatic is a program without dynamic loader.
	ErrStatic = errors.New("static program: it has no list of loaded objects")
	// ErrEarly is a program whose dynamic loader has not made the list yet.
	ErrEarly = errors.New("the dynamic loader has not run yet")
	// ErrNoProgram is a kernel thread, or a process that is ending.
	ErrNoProgram = errors.New("it has no program: a kernel thread, or it is ending")
)

// LinkMaps gives the objects that the dynamic loader of a process has loaded,
// in the order of its lists, each with the file that is mapped for it. The
// process is not stopped. Of a list that is damaged, or keeps changing, it gives
// the beginning; [Describe] says so.
//
// Objects in the namespaces of dlmopen(3) are found where the loader lists them
// for debuggers: glibc from 2.35 on. Without that, they are left out.
//
// The error is [ErrStatic], [ErrEarly], [ErrNoProgram] or that of reading the
// process: [os.ErrPermission] (it takes the right to trace it, PTRACE_MODE_ATTACH
// in ptrace(2)), [os.ErrNotExist], or [os.ErrDeadlineExceeded].
func LinkMaps(v *procview.View, pid event.PID) ([]event.LinkMap, error) {
	entries, headers, err := list(v, pid)
	if err != nil && len(entries) == 0 {
		return nil, err
	}
	maps, err := v.Maps(pid)
	if err != nil {
		return nil, err
	}
	for i := range entries {
		lm := &entries[i]
		lm.PID = pid
		at := []uint64{uint64(lm.Dynamic), uint64(lm.LoadAddr)}
		if lm.Namespace == 0 && lm.Index == 0 {
			at = append(at, headers) // a static program has neither
		}
		fillMapped(v, maps, lm, at)
	}
	return entries, nil
}

// Entries gives the objects as [LinkMaps] does, without the files that are mapped.
func Entries(v *procview.View, pid event.PID) ([]event.LinkMap, error) {
	entries, _, err := list(v, pid)
	return entries, err
}

// list reads the lists from memory, and where the program headers of the
// program are. With an error, the lists are not complete.
func list(v *procview.View, pid event.PID) (entries []event.LinkMap, headers uint64, err error) {
	r, err := procview.Within(readWithin, func() (r struct {
		entries []event.LinkMap
		headers uint64
	}, err error) {
		p, err := open(v, pid)
		if err != nil {
			return r, err
		}
		defer p.close()
		r.headers = p.aux[atPhdr]
		r.entries, err = p.list()
		return r, err
	})
	if err != nil {
		err = fmt.Errorf("loaded objects of pid %d: %w", pid, err)
	}
	return r.entries, r.headers, err
}

// list reads the lists again if they were broken: the process may run.
func (p *program) list() ([]event.LinkMap, error) {
	debug, err := p.rDebug()
	if err != nil {
		return nil, err
	}
	var best []event.LinkMap
	for range maxTries {
		var entries []event.LinkMap
		if entries, err = p.mem.lists(debug); err == nil {
			return entries, nil
		}
		if len(entries) > len(best) {
			best = entries
		}
	}
	return best, err
}

// lists reads the lists that start at struct r_debug (link.h): r_version,
// r_map, r_brk, r_state, r_ldbase, and from version 2 on r_next, which is the
// one of the next namespace. It gives what it has got and the error that ended
// it, or the first that left an entry without its name. Lists may be damaged or
// changing: each entry is taken once.
func (m space) lists(debug uint64) (out []event.LinkMap, err error) {
	var nameErr error
	seen := map[uint64]bool{}
	for ns := 0; debug != 0; ns++ {
		if seen[debug] || ns >= maxNamespaces {
			return out, fmt.Errorf("r_debug at %#x: the list of namespaces has no end", debug)
		}
		seen[debug] = true
		head, err := m.words(debug, 5)
		if err != nil {
			return out, fmt.Errorf("r_debug: %w", err)
		}
		if ns == 0 && head[1] == 0 {
			return out, ErrEarly
		}
		index := 0
		for addr := head[1]; addr != 0; index++ {
			if seen[addr] || len(out) >= maxObjects {
				return out, fmt.Errorf("link_map at %#x: the list has no end", addr)
			}
			seen[addr] = true
			w, err := m.words(addr, 4) // l_addr, l_name, l_ld, l_next
			if err != nil {
				return out, fmt.Errorf("link_map: %w", err)
			}
			lm := event.LinkMap{Namespace: ns, Index: index, Addr: event.Hex(addr),
				LoadAddr: event.Hex(w[0]), NameAddr: event.Hex(w[1]), Dynamic: event.Hex(w[2])}
			if w[1] != 0 {
				if lm.Name, err = m.text(w[1]); err != nil && nameErr == nil {
					nameErr = fmt.Errorf("name in the link_map at %#x: %w", addr, err)
				}
			}
			out = append(out, lm)
			addr = w[3]
		}
		if uint32(head[0]) < 2 {
			break
		}
		next, err := m.words(debug+5*m.word, 1)
		if err != nil {
			return out, fmt.Errorf("r_debug: %w", err)
		}
		debug = next[0]
	}
	return out, nameErr
}

// fillMapped finds the line of maps that holds an object, by the first of some
// addresses that lies in a file: l_ld, which lies within the object also where
// l_addr is 0 (programs that are not PIE), else l_addr.
func fillMapped(v *procview.View, maps []procview.Mapping, lm *event.LinkMap, at []uint64) {
	for _, addr := range at {
		m, ok := procview.FindMapping(maps, addr)
		if !ok || m.Ino == 0 {
			continue
		}
		lm.MapStart, lm.MapEnd = event.Hex(m.Start), event.Hex(m.End)
		target := m.Target()
		lm.Mapped = &target
		if st, err := v.MapFile(lm.PID, m); err == nil {
			lm.MappedStat = &st
		}
		return
	}
}
