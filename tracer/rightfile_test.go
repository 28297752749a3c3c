package tracer

import (
	"math/rand/v2"
	"testing"

	"whosefd/tracer/event"
)

// Whatever an inferior has loaded by the spellings of one name, a name is led to
// the file of the entry that bears it, and never to one that another could be.
func TestOneOf(t *testing.T) {
	names := []event.Text{"/proc/self/fd/4", "/proc/thread-self/fd/4", "/dev/fd/4", "/proc/self/fd/./4"}
	for range 10000 {
		claims := make([]event.LinkMap, rand.IntN(5))
		for i := range claims {
			claims[i] = event.LinkMap{Name: names[rand.IntN(len(names))], Mapped: &event.Target{Kind: event.Memfd, Dev: 1, Ino: uint64(1 + rand.IntN(3))}}
		}
		asked := names[rand.IntN(len(names))]
		exact, all := map[uint64]bool{}, map[uint64]bool{}
		for _, c := range claims {
			all[c.Mapped.Ino] = true
			if c.Name == asked {
				exact[c.Mapped.Ino] = true
			}
		}
		could := exact
		if len(exact) == 0 {
			could = all
		}
		lm, several := oneOf(claims, asked)
		switch {
		case several != (len(could) > 1), (lm != nil) != (len(could) == 1):
			t.Fatalf("%v of %v: %v, several %v", asked, claims, lm, several)
		case lm != nil && !could[lm.Mapped.Ino]:
			t.Fatalf("%v of %v is led to inode %d", asked, claims, lm.Mapped.Ino)
		}
	}
}
