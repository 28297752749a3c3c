package scene

import (
	"context"
	"fmt"
	"regexp"
	"sync"
)

// transcript keeps what a process writes and lets others wait for a part of it.
type transcript struct {
	mu      sync.Mutex
	text    []byte
	read    int           // how much of it somebody has waited for
	changed chan struct{} // closed at the next change
	ended   bool
}

func newTranscript() *transcript { return &transcript{changed: make(chan struct{})} }

func (t *transcript) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	t.notify()
	return len(b), nil
}

// end says that nothing more will come.
func (t *transcript) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.ended = true
		t.notify()
	}
}

func (t *transcript) notify() {
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

// await waits until what was not waited for yet matches. It returns the text up
// to the end of the match, which then counts as read, and the match with its
// groups. On an error nothing counts as read.
func (t *transcript) await(ctx context.Context, pattern *regexp.Regexp) (text string, match []string, err error) {
	for {
		t.mu.Lock()
		rest := t.text[t.read:]
		if at := pattern.FindSubmatchIndex(rest); at != nil {
			for i := 0; i < len(at); i += 2 {
				group := ""
				if at[i] >= 0 {
					group = string(rest[at[i]:at[i+1]])
				}
				match = append(match, group)
			}
			text = string(rest[:at[1]])
			t.read += at[1]
			t.mu.Unlock()
			return text, match, nil
		}
		ended, changed := t.ended, t.changed
		t.mu.Unlock()
		if ended {
			return "", nil, fmt.Errorf("the output ended without %q", pattern)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", nil, fmt.Errorf("no %q in the output: %w", pattern, ctx.Err())
		}
	}
}
