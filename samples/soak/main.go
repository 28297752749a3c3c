// Command soak shows that whosefd is harmless, by doing it: it ends whosefd in
// every way there is, at random moments, while a real gdb works or hangs, and
// then looks whether gdb and its inferior run on as if they had never been
// watched. It prints how often it tried and what came out.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"whosefd/samples/scene"
)

func main() {
	whosefd := flag.String("whosefd", "bin/whosefd", "the program to test")
	lasts := flag.Duration("for", 10*time.Minute, "how long to go on")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "what the random moments come from")
	at := flag.Int("j", 2, "how many sessions at a time")
	only := flag.String("only", "", "only this command: trace, explain, repair or guard")
	ending := flag.String("ending", "", "only this ending, such as SIGKILL")
	flag.Parse()
	path, err := filepath.Abs(*whosefd)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *lasts)
	defer cancel()
	if *ending != "" {
		endings = []string{*ending}
	}
	s := &soak{whosefd: path, tally: map[row]*outcome{}}
	if err := scene.Play(io.Discard, func(t scene.TB) { s.samples = scene.Build(t); s.known(t) }); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(2)
	}
	fmt.Printf("seed %d, %v, %d sessions at a time\n", *seed, *lasts, *at)
	var all sync.WaitGroup
	for worker := range *at {
		random := rand.New(rand.NewPCG(*seed, uint64(worker)))
		all.Go(func() {
			for n := worker; ctx.Err() == nil; n += *at {
				s.round(s.plan(n, random, *only))
			}
		})
	}
	all.Wait()
	if s.print() {
		os.Exit(1)
	}
}

// row is a line of the table.
type row struct{ command, session, ending string }

type outcome struct {
	runs int
	// again counts sessions that hung afterwards as they would have without
	// whosefd, and were given back by another repair.
	again int
	bad   []string
}

type soak struct {
	whosefd, samples string
	expected         string // the transcript of a session that nobody watched

	mu    sync.Mutex
	tally map[row]*outcome
}

// endings are the ways in which whosefd ends.
var endings = []string{"SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGKILL", "SIGKILL", "SIGKILL", "closed pipe", "full disk", "no descriptors"}

// plan is what one round does.
type plan struct {
	row
	delay time.Duration // from the start of whosefd to its end
	fd    int           // of the library, in a session that hangs
}

func (s *soak) plan(n int, random *rand.Rand, only string) plan {
	commands := []string{"trace", "explain", "repair", "guard"}
	if only != "" {
		commands = []string{only}
	}
	p := plan{row: row{command: commands[n%len(commands)], ending: endings[random.IntN(len(endings))], session: "works"}}
	if p.command == "repair" || random.IntN(2) == 0 {
		p.session = "hangs"
	}
	if p.ending == "full disk" && (p.command == "repair" || os.Geteuid() != 0) {
		p.ending = "SIGKILL" // it writes no file, or there is no disk to fill
	}
	most := 1500 * time.Millisecond
	if p.command == "explain" {
		most = 60 * time.Millisecond
	} else if p.session == "hangs" {
		most = 400 * time.Millisecond
	}
	p.delay = time.Duration(random.Int64N(int64(most)))
	// Not those of gdb's event pipe: docs/REPAIR.md, "Limits".
	p.fd = []int{3, 4, 5, 6, 7, 9}[random.IntN(6)]
	return p
}

// known makes the transcript that every watched session must have.
func (s *soak) known(t scene.TB) {
	gdb := s.start(t)
	s.works(gdb)
	s.expected = plain(gdb.Output())
}

func (s *soak) round(p plan) {
	again := false
	err := scene.Play(io.Discard, func(t scene.TB) {
		if p.session == "works" {
			s.working(t, p)
		} else {
			again = s.hanging(t, p)
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.tally[p.row]
	if o == nil {
		o = &outcome{}
		s.tally[p.row] = o
	}
	o.runs++
	if again {
		o.again++
	}
	if err != nil {
		o.bad = append(o.bad, fmt.Sprintf("after %v, descriptor %d: %v", p.delay, p.fd, err))
	}
}

// print prints the table and says whether anything was wrong.
func (s *soak) print() (bad bool) {
	rows := make([]row, 0, len(s.tally))
	for r := range s.tally {
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(x, y row) int {
		return cmp.Or(cmp.Compare(x.command, y.command), cmp.Compare(x.session, y.session), cmp.Compare(x.ending, y.ending))
	})
	fmt.Printf("\n%-9s %-8s %-15s %6s %6s %6s\n", "command", "gdb", "ended by", "runs", "again", "wrong")
	total := outcome{}
	for _, r := range rows {
		o := s.tally[r]
		fmt.Printf("%-9s %-8s %-15s %6d %6d %6d\n", r.command, r.session, r.ending, o.runs, o.again, len(o.bad))
		total.runs += o.runs
		total.again += o.again
		for _, b := range o.bad {
			total.bad = append(total.bad, fmt.Sprintf("%s, gdb %s, %s, %s", r.command, r.session, r.ending, b))
		}
	}
	fmt.Printf("%-9s %-8s %-15s %6d %6d %6d\n", "all", "", "", total.runs, total.again, len(total.bad))
	for _, b := range total.bad {
		fmt.Println("\nwrong:", b)
	}
	return len(total.bad) > 0
}
