package tracer

import (
	"syscall"
	"testing"
	"time"

	"whosefd/samples/scene"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// What a process has open and what it waits for are of one moment: one that went on
// to the next wait in between is looked at again.
func TestSnapshotMoved(t *testing.T) {
	p := scene.Start(t, scene.Command{Path: "python3", Args: []string{"-c", `
import os, signal
first, second = os.pipe(), os.pipe()
signal.signal(signal.SIGUSR1, lambda *_: os.write(first[1], b"x"))
print("ready", flush=True)
os.read(first[0], 1)
os.read(second[0], 1)`}})
	p.Expect("ready")
	s := &snapshot{SnapshotOptions: SnapshotOptions{View: procview.New("/proc"), Tool: "test"}, pid: event.PID(p.PID), start: time.Now()}
	scene.Eventually(t, "it waits for the first pipe", func() bool {
		s.blocked = nil
		return s.threads() == nil && s.blocked[0].Syscall == "read" && s.waitsForPipe()
	})
	if s.moved() {
		t.Error("it waits still")
	}
	if err := syscall.Kill(p.PID, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	scene.Eventually(t, "it is seen to have gone on", s.moved)
}
