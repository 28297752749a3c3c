package cpu

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// Keep is the keeper: it reads what [Affinity.Pin] writes, and when the writer is
// gone without having said "done", puts the masks back. It runs in a process of
// its own.
func Keep(r io.Reader) {
	type owned struct {
		tid   event.TID
		start uint64
		mask  unix.CPUSet
	}
	masks := map[event.TID]owned{}
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		if sc.Text() == "done" {
			return
		}
		var o owned
		var text string
		if _, err := fmt.Sscanf(sc.Text(), "%d %d %s", &o.tid, &o.start, &text); err != nil {
			continue
		}
		b, err := hex.DecodeString(text)
		if err != nil || copy(maskBytes(&o.mask), b) != len(b) {
			continue
		}
		masks[o.tid] = o
	}
	view := procview.New("/proc")
	for _, o := range masks {
		if start, err := view.StartTime(o.tid); err == nil && start == o.start { // not another thread by now
			_ = unix.SchedSetaffinity(int(o.tid), &o.mask)
		}
	}
}

// KeeperArg is the argument that makes this program the keeper.
const KeeperArg = "__keep-affinity"

// Keeper is the keeper as a process: this program, which must call [Keep] on its
// standard input when its only argument is KeeperArg. It is started when there is
// something to keep.
type Keeper struct {
	start sync.Once
	err   error
	w     *os.File
	p     *os.Process
}

// Write implements [io.Writer]: what is written goes to [Keep].
func (k *Keeper) Write(b []byte) (int, error) {
	k.start.Do(func() {
		var r *os.File
		if r, k.w, k.err = os.Pipe(); k.err != nil {
			return
		}
		defer r.Close()
		if k.p, k.err = procview.StartSelf(KeeperArg, r); k.err != nil {
			_ = k.w.Close()
			k.err = fmt.Errorf("start the keeper of CPU masks: %w", k.err)
		}
	})
	if k.err != nil {
		return 0, k.err
	}
	return k.w.Write(b)
}

// End ends the keeper, and returns when it has done its work: none if all masks
// are back, else it puts them back first.
func (k *Keeper) End(allBack bool) (err error) {
	if k.p == nil {
		return nil
	}
	if allBack {
		_, err = io.WriteString(k.w, "done\n")
	}
	err = errors.Join(err, k.w.Close())
	_, waitErr := k.p.Wait()
	return errors.Join(err, waitErr)
}
