// Command soak shows that whosefd is harmless, by doing it: it ends whosefd in
// every way there is, at random moments, while a real gdb works or hangs, and
// then looks whether gdb and its inferior run on as if they had never been
// watched. It prints what is promised, how often that was tried, and what came
// out.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"whosefd/samples/scene"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == behindArg {
		stayBehind(os.Args[2:])
		return
	}
	whosefd := flag.String("whosefd", "bin/whosefd", "the program to test")
	lasts := flag.Duration("for", 10*time.Minute, "how long to go on")
	rounds := flag.Int("rounds", 1<<30, "how many rounds at most")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "what the random choices come from")
	at := flag.Int("j", 2*runtime.NumCPU(), "how many sessions at a time")
	var only plan
	flag.StringVar(&only.command, "command", "", "only this one: trace, explain, repair or guard")
	flag.StringVar(&only.engine, "engine", "", "only this one: auto or ptrace; of trace and guard")
	flag.StringVar(&only.session, "session", "", "only this one: works, hangs, launched, led, deadlock or healthy")
	flag.StringVar(&only.ending, "ending", "", "only this one, such as SIGKILL or \"closed pipe\"; of a deadlock or a healthy session which one")
	flag.DurationVar(&only.delay, "delay", 0, "this time from the start of whosefd to its end, not a random one")
	flag.IntVar(&only.fd, "fd", 0, "this descriptor of the library, not a random one")
	flag.Parse()
	if err := run(*whosefd, *lasts, *rounds, *seed, *at, only); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		if errors.As(err, new(errWrong)) {
			os.Exit(1)
		}
		os.Exit(2)
	}
}

// errWrong is what came out.
type errWrong int

func (n errWrong) Error() string { return fmt.Sprintf("%d rounds were wrong", int(n)) }

func run(whosefd string, lasts time.Duration, rounds int, seed uint64, at int, only plan) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends us; scene's watchdog then clears up
	ctx, cancel := context.WithTimeout(ctx, lasts)
	defer cancel()
	s := &soak{tally: map[key]*outcome{}, promised: map[string]*outcome{}}
	// Beside the program, since links do not lead to another file system.
	if s.dir, err = os.MkdirTemp(filepath.Dir(whosefd), "soak-"); err != nil {
		return err
	}
	defer os.RemoveAll(s.dir)
	if s.dir, err = filepath.Abs(s.dir); err != nil {
		return err
	}
	s.whosefd = filepath.Join(s.dir, "whosefd") // stays the same if it is built anew meanwhile
	if err := os.Link(whosefd, s.whosefd); err != nil {
		return err
	}
	if err := scene.Play(io.Discard, func(t scene.TB) {
		s.samples = scene.Build(t)
		s.holder = scene.Compile(t, s.dir, "holder.c", holder, "gcc", "-g", "-O0", "-pthread")
		s.known(t)
	}); err != nil {
		return fmt.Errorf("a session that nobody watches: %w", err)
	}
	fmt.Printf("seed %d, %v, %d sessions at a time\n", seed, lasts, at)
	began := time.Now()
	var all sync.WaitGroup
	for worker := range at {
		random := rand.New(rand.NewPCG(seed, uint64(worker)))
		all.Go(func() {
			for n := worker; ctx.Err() == nil && n < rounds; n += at {
				s.play(newPlan(n, random, only))
			}
		})
	}
	all.Wait()
	if bad := s.print(time.Since(began)); bad > 0 {
		return errWrong(bad)
	}
	return nil
}

// plan is what one round does.
type plan struct {
	key
	delay time.Duration // from the start of whosefd to its end
	fd    int           // of the library, in a session that hangs
}

// key is a line of the table.
type key struct{ command, engine, session, ending string }

// again is how to have the round again.
func (p plan) again() string {
	return fmt.Sprintf("go run ./samples/soak -j 1 -rounds 1 -command %s -engine %q -session %s -ending %q -delay %v -fd %d",
		p.command, p.engine, p.session, p.ending, p.delay, p.fd)
}

var (
	sessions = map[string][]string{
		"trace":   {"works", "works", "launched", "hangs"},
		"explain": {"works", "hangs", "deadlock", "deadlock", "healthy", "healthy"},
		"repair":  {"hangs"},
		"guard":   {"works", "launched", "hangs", "led"},
	}
	// SIGKILL more often: it is what cannot be prepared for.
	endings = []string{"SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGKILL", "SIGKILL", "SIGKILL", "closed pipe",
		"full disk", "few descriptors", "no descriptors", "no memory"}
	// A launched debugger has the keyboard, and whosefd ignores its signals. Ended
	// otherwise, trace prints its tables in between.
	endingsLaunched = map[string][]string{"trace": {"SIGKILL"}, "guard": {"SIGTERM", "SIGHUP", "SIGKILL", "SIGKILL", atStop}}
	// Not those of gdb's event pipe: docs/REPAIR.md, "Limits".
	descriptors = []int{3, 4, 5, 6, 7, 9}
	// atWork is SIGKILL while gdb is attached to, where that is short.
	atWork = "SIGKILL at work"
	// atStop is SIGKILL while gdb is in a stop, perhaps between a call and its repair.
	atStop = "SIGKILL at stop"
	// most is the longest delay of a session.
	most = map[string]time.Duration{"works": 2 * time.Second, "launched": 2 * time.Second, "hangs": 400 * time.Millisecond, "led": 500 * time.Millisecond}
)

func newPlan(n int, random *rand.Rand, only plan) plan {
	commands := []string{"trace", "explain", "repair", "guard", "explain", "repair", "guard"}
	p := plan{key: key{command: cmp.Or(only.command, commands[n%len(commands)])}}
	p.session = cmp.Or(only.session, pick(random, sessions[p.command]))
	if p.command == "trace" || p.command == "guard" {
		p.engine = cmp.Or(only.engine, pick(random, []string{"auto", "ptrace"}))
	}
	switch p.session {
	case "launched":
		p.ending = pick(random, endingsLaunched[p.command])
	case "deadlock":
		p.ending = pick(random, slices.Sorted(maps.Keys(deadlocks)))
	case "healthy":
		p.ending = pick(random, slices.Sorted(maps.Keys(healthy)))
	default:
		switch p.ending = pick(random, endings); {
		case p.session == "hangs" && random.IntN(4) == 0:
			p.ending = atWork
		case p.session == "led" && random.IntN(3) == 0:
			p.ending = atStop
		}
	}
	p.ending = cmp.Or(only.ending, p.ending)
	if p.ending == "full disk" && os.Geteuid() != 0 {
		p.ending = "SIGKILL" // there is no disk to fill
	}
	p.fd = cmp.Or(only.fd, descriptors[random.IntN(len(descriptors))])
	longest := cmp.Or(most[p.session], 1)
	if p.command == "explain" {
		longest = 100 * time.Millisecond
	}
	if p.ending == atWork {
		longest = 3 * time.Millisecond // from the attach
	}
	p.delay = cmp.Or(only.delay, time.Duration(random.Int64N(int64(longest))))
	return p
}

func pick(random *rand.Rand, from []string) string { return from[random.IntN(len(from))] }

type soak struct {
	whosefd, samples, dir string
	holder                string // a program, of which see there
	// expected is what a session had that nobody watched.
	expected struct {
		transcript string
		state      state
	}

	mu       sync.Mutex
	tally    map[key]*outcome
	promised map[string]*outcome
	bad      []string
}

type outcome struct {
	runs, again, spare, wrong int
	ends                      map[string]int
}

// round is one session and one end of whosefd.
type round struct {
	plan
	s *soak
	t scene.TB

	mu    sync.Mutex
	wrong []string
	ends  string // how whosefd ended: its exit code or signal
	// again: gdb hung once more afterwards, as it would have without whosefd, and
	// was given back by another repair. spare: a descriptor of the library stayed open.
	again, spare bool
}

// held notes that a promise was looked at; wrong is "" if it was kept.
func (r *round) held(promise, wrong string) {
	r.s.mu.Lock()
	o := r.s.promised[promise]
	if o == nil {
		o = &outcome{}
		r.s.promised[promise] = o
	}
	o.runs++
	if wrong != "" {
		o.wrong++
	}
	r.s.mu.Unlock()
	if wrong != "" {
		r.mu.Lock()
		r.wrong = append(r.wrong, promise+": "+wrong)
		r.mu.Unlock()
	}
}

func (s *soak) play(p plan) {
	r := &round{plan: p, s: s}
	if err := scene.Play(io.Discard, func(t scene.TB) {
		r.t = t
		map[string]func(){"works": r.working, "launched": r.launched, "hangs": r.hanging, "led": r.led,
			"deadlock": r.deadlocked, "healthy": r.healthily}[p.session]()
	}); err != nil {
		r.held(right, err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.tally[p.key]
	if o == nil {
		o = &outcome{ends: map[string]int{}}
		s.tally[p.key] = o
	}
	o.runs++
	o.ends[r.ends]++
	if r.again {
		o.again++
	}
	if r.spare {
		o.spare++
	}
	if len(r.wrong) > 0 {
		o.wrong++
		s.bad = append(s.bad, fmt.Sprintf("%s\n  %s\n", p.again(), strings.Join(r.wrong, "\n  ")))
	}
}

// print prints the tables and what was wrong, and says how many rounds that were.
func (s *soak) print(took time.Duration) int {
	rows := slices.SortedFunc(maps.Keys(s.tally), func(x, y key) int {
		return cmp.Or(cmp.Compare(x.command, y.command), cmp.Compare(x.engine, y.engine), cmp.Compare(x.session, y.session), cmp.Compare(x.ending, y.ending))
	})
	fmt.Printf("\n%-9s %-7s %-9s %-16s %5s %6s %6s %6s  %s\n", "command", "engine", "gdb", "ended by", "runs", "again", "spare", "wrong", "how whosefd ended")
	var all outcome
	for _, k := range rows {
		o := s.tally[k]
		var ends []string
		for _, e := range slices.Sorted(maps.Keys(o.ends)) {
			if e != "" {
				ends = append(ends, fmt.Sprintf("%s: %d", e, o.ends[e]))
			}
		}
		fmt.Printf("%-9s %-7s %-9s %-16s %5d %6d %6d %6d  %s\n", k.command, k.engine, k.session, k.ending, o.runs, o.again, o.spare, o.wrong, strings.Join(ends, ", "))
		all.runs, all.again, all.spare, all.wrong = all.runs+o.runs, all.again+o.again, all.spare+o.spare, all.wrong+o.wrong
	}
	fmt.Printf("%-9s %-7s %-9s %-16s %5d %6d %6d %6d  in %v\n", "all", "", "", "", all.runs, all.again, all.spare, all.wrong, took.Round(time.Second))
	fmt.Printf("\n%-64s %6s %6s\n", "promise", "runs", "broken")
	for _, p := range promises {
		if o := s.promised[p]; o != nil {
			fmt.Printf("%-64s %6d %6d\n", p, o.runs, o.wrong)
		}
	}
	for _, b := range s.bad {
		fmt.Println("\nwrong:", b)
	}
	return all.wrong
}
