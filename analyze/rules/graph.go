package rules

import (
	"slices"

	"whosefd/tracer/event"
)

// graph is who waits for whom: the second invariant is checked on it. Its nodes are
// threads. What is not in the evidence may end a wait; so what is called stuck
// here is so for what is known.
type graph struct {
	waits   []*event.Wait // in the order in which they were reached
	search  *event.Search
	threads map[event.PID][]*event.Wait
	alive   map[*event.Wait]bool
}

func newGraph(waits []*event.Wait, search *event.Search) *graph {
	g := &graph{waits: waits, search: search, threads: map[event.PID][]*event.Wait{}, alive: map[*event.Wait]bool{}}
	for _, w := range waits {
		g.threads[w.PID] = append(g.threads[w.PID], w)
	}
	// The least fixed point: a wait can end if an ender can move.
	for again := true; again; {
		again = false
		for _, w := range waits {
			if !g.alive[w] && g.canMove(w) {
				g.alive[w], again = true, true
			}
		}
	}
	return g
}

// canMove says whether a thread runs, or its wait can end, as far as is known so far.
func (g *graph) canMove(w *event.Wait) bool {
	switch {
	case Doing[w.State] == "ended":
		return false
	case !blocked(w): // it runs, or nobody looked
		return true
	case w.Moved, w.Error != "", w.TimeoutUS.Known, len(w.On) == 0:
		return true
	}
	if isSet(w.Syscall) || tracerOnly(w) {
		if !slices.ContainsFunc(w.On, func(on event.Awaited) bool { return !g.own(w, &on) }) {
			return true // a signal from anybody wakes it
		}
	}
	return slices.ContainsFunc(w.On, func(on event.Awaited) bool {
		return on.Outside != "" || on.Partial && len(on.Enders) == 0 ||
			slices.ContainsFunc(on.Enders, func(e event.Ender) bool { return g.endable(w, e) })
	})
}

// endable says whether an ender can move.
func (g *graph) endable(w *event.Wait, e event.Ender) bool {
	if len(g.threads[e.PID]) == 0 {
		return true // it was not looked at
	}
	next := g.next(w, e)
	return e.TID != 0 && len(next) == 0 || slices.ContainsFunc(next, func(o *event.Wait) bool { return g.alive[o] })
}

// next are the threads that an ender stands for. A thread does not end its own
// wait, unless it is named: the owner of a lock that it waits for.
func (g *graph) next(w *event.Wait, e event.Ender) []*event.Wait {
	var all []*event.Wait
	for _, o := range g.threads[e.PID] {
		switch {
		case e.TID != 0 && o.TID == e.TID, e.TID == 0 && o != w && o.State != "Z" && o.State != "X":
			all = append(all, o)
		}
	}
	if len(all) == 0 && e.PID == w.PID && e.TID == 0 {
		all = []*event.Wait{w} // it is alone
	}
	// A tracer does not wait for those that it keeps stopped, if there are others.
	if e.How == event.HowTracee {
		if run := slices.DeleteFunc(slices.Clone(all), func(o *event.Wait) bool { return stoppedBy(o, w.PID) }); len(run) > 0 {
			all = run
		}
	}
	// The first thread stands for its process.
	slices.SortStableFunc(all, func(a, b *event.Wait) int { return leader(b) - leader(a) })
	return all
}

// tracerOnly says whether a thread waits for its tracees, or for a signal from them.
func tracerOnly(w *event.Wait) bool {
	return !slices.ContainsFunc(w.On, func(on event.Awaited) bool {
		return on.Op != event.AwaitChild || slices.ContainsFunc(on.Enders, func(e event.Ender) bool { return e.How != event.HowTracee })
	})
}

// atTerminal gives the one who reads from a terminal, of those who could end a wait and of the children that
// these wait for.
func (g *graph) atTerminal(w *event.Wait) *event.Wait {
	seen := []*event.Wait{w}
	for i := 0; i < len(seen); i++ {
		for _, on := range seen[i].On {
			switch {
			case on.Op == event.AwaitChild || i == 0:
				for _, e := range on.Enders {
					for _, o := range g.next(seen[i], e) {
						if o.State == "S" && !slices.Contains(seen, o) {
							seen = append(seen, o)
						}
					}
				}
			case on.Op == event.AwaitRead && on.Target != nil && on.Target.Kind == event.TTY:
				return seen[i]
			}
		}
	}
	return nil
}

func leader(w *event.Wait) int {
	if event.PID(w.TID) == w.PID {
		return 1
	}
	return 0
}

// after are the threads that could end a wait, what is nearest to the point first.
func (g *graph) after(w *event.Wait) []*event.Wait {
	var all []*event.Wait
	others := slices.DeleteFunc(slices.Clone(w.On), func(on event.Awaited) bool { return g.own(w, &on) })
	if len(others) == 0 || !isSet(w.Syscall) {
		others = w.On
	}
	for _, on := range others {
		for _, e := range on.Enders {
			for _, o := range g.next(w, e) {
				if !slices.Contains(all, o) {
					all = append(all, o)
				}
			}
		}
	}
	return all
}

// way is how a stuck wait leads to where it closes, or where nobody is left: the
// threads in that order, and from which of them on they are a circle.
type way struct {
	threads []*event.Wait
	circle  []*event.Wait // empty: it ends with a wait that nobody can end
}

// stuckWay follows the enders of a stuck wait. Of several circles that with the
// thread itself is meant, then the shortest.
func (g *graph) stuckWay(from *event.Wait) way {
	// Breadth first, with who led where.
	by := map[*event.Wait]*event.Wait{from: nil}
	path := func(to *event.Wait) (p []*event.Wait) {
		for at := to; at != nil; at = by[at] {
			p = append(p, at)
		}
		slices.Reverse(p)
		return p
	}
	var dead, back *event.Wait
	var target *event.Wait
	for queue := []*event.Wait{from}; len(queue) > 0; queue = queue[1:] {
		w := queue[0]
		next := g.after(w)
		if len(next) == 0 && dead == nil {
			dead = w
		}
		for _, o := range next {
			if o == from {
				p := path(w)
				return way{p, p}
			}
			if _, seen := by[o]; !seen {
				by[o] = w
				queue = append(queue, o)
			} else if p := path(w); back == nil && slices.Contains(p, o) {
				back, target = w, o
			}
		}
	}
	switch {
	case back != nil:
		p := path(back)
		return way{p, p[slices.Index(p, target):]}
	case dead != nil:
		return way{threads: path(dead)}
	}
	return way{threads: []*event.Wait{from}}
}

// partial says whether somebody could not be looked at who could end one of these.
func (g *graph) partial(threads []*event.Wait) bool {
	return g.search != nil && g.search.Nested || slices.ContainsFunc(threads, func(w *event.Wait) bool {
		return slices.ContainsFunc(w.On, func(on event.Awaited) bool { return on.Partial })
	})
}
