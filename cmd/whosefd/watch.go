package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"whosefd/analyze"
	"whosefd/analyze/report"
	"whosefd/tracer"
	"whosefd/tracer/event"
)

// noticeSchema is that of a line of watch's output file.
const noticeSchema = "whosefd.watch/v1"

// notice is one thing that watch says.
type notice struct {
	Schema string     `json:"schema"`
	Time   time.Time  `json:"time"`
	Kind   string     `json:"kind"` // began, ended, finding, wait, led, failed
	PID    event.PID  `json:"pid,omitempty"`
	Comm   event.Text `json:"comm,omitempty"`
	Text   event.Text `json:"text,omitempty"`

	Finding *analyze.Finding `json:"finding,omitempty"`
	Wait    *analyze.Wait    `json:"wait,omitempty"`
	Call    *event.Syscall   `json:"call,omitempty"` // that was led
}

// row is what --filter can say of a notice.
func (n *notice) row() analyze.Notice {
	r := analyze.Notice{Notice: n.Kind, PID: float64(n.PID), Comm: string(n.Comm), Text: string(n.Text), Dur: math.NaN()}
	if f := n.Finding; f != nil {
		r.Rule, r.Effect, r.Path, r.Target = string(f.Rule), string(f.Effect), string(f.Name), string(f.Opened.Link)
	}
	if w := n.Wait; w != nil {
		r.Call, r.Waits = w.Syscall, string(w.For)
		if w.SinceUS.Known {
			r.Dur = float64(w.SinceUS.Val) / 1e6
		}
	}
	if c := n.Call; c != nil {
		r.Call, r.Path = c.Name, string(c.Path)
	}
	return r
}

// watch is the command, and who takes what the tracer sees.
type watch struct {
	a       *app
	o       tracer.WatchOptions
	file    *json.Encoder // nil without -o
	text    io.Writer
	hooked  io.Writer   // what the command of --exec prints
	hook    chan notice // nil without --exec
	verbose bool
	chosen  func(*analyze.Notice) bool
	mu      sync.Mutex // of all that follows
	seen    map[event.PID]*watchedOne
	found   bool
	failure error // of a write
	stop    context.CancelFunc
}

// watchedOne is what is known of one debugger.
type watchedOne struct {
	comm event.Text
	an   *analyze.Analysis
	said map[string]bool
	// calm: when it began to rest it waited for its user, and had nothing to be told.
	calm bool
}

func (a *app) watch() *cobra.Command {
	w := &watch{a: a, seen: map[event.PID]*watchedOne{}}
	var output, hook, engine, who, expr string
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Watch every debugger of this machine, without attaching to any",
		Long: `Watches every debugger of this machine, as it starts, until Ctrl-C or --for, and
attaches to none. It prints each name that a debugger resolves wrongly, each hang
as it begins, and each wait for something other than its user and its inferior
that lasts longer than --after.

Names are seen as they are opened where the kernel allows programs of ours
(whosefd doctor says so, check "ebpf"); else those that a debugger has open, once
it rests.

With --guard each debugger is joined, and its calls are led to the inferior's
files, as guard does.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for flag, d := range map[string]time.Duration{"for": w.o.For, "after": w.o.After} {
				if cmd.Flags().Changed(flag) && d <= 0 {
					return fmt.Errorf("--%s %v: not a time to wait", flag, d)
				}
			}
			w.chosen = func(*analyze.Notice) bool { return true }
			if expr != "" {
				x, err := analyze.NoticeExpr(expr)
				if err != nil {
					return fmt.Errorf("--filter: %w", err)
				}
				w.chosen = func(n *analyze.Notice) bool { return x.Match(n) || x.Err() != nil } // rather too much than nothing
			}
			var ok bool
			if w.o.Engine, ok = engines[engine]; !ok {
				return fmt.Errorf("--engine %q: not auto, ptrace, or ebpf", engine)
			}
			if who != "" {
				u, err := user.Lookup(who)
				if err != nil {
					u, err = user.LookupId(who)
				}
				uid, notNumber := strconv.Atoi(who)
				if err == nil {
					uid, notNumber = strconv.Atoi(u.Uid)
				}
				if notNumber != nil {
					return fmt.Errorf("--user %q: there is no such user", who)
				}
				w.o.UID = event.Some(uid)
			}
			return w.run(cmd.Context(), output, hook)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write what is said to this file too, as JSON lines; - is standard output, in place of the text")
	cmd.Flags().StringVar(&hook, "exec", "", "run this shell command for each finding and wait, with the JSON line on its input")
	cmd.Flags().StringVar(&expr, "filter", "", `tell only that for which this is true: 'rule == "self-fd" && comm == "gdb" || dur > 1m'; with && || ! == < in, =~ (a regular expression), and of `+
		strings.Join(analyze.NoticeFields, ", "))
	cmd.Flags().DurationVar(&w.o.For, "for", 0, "end after this time, such as 8h")
	cmd.Flags().DurationVar(&w.o.After, "after", 10*time.Second, "say what a debugger waits for once it has waited so long")
	cmd.Flags().BoolVarP(&w.verbose, "verbose", "v", false, "print also which debuggers start and end")
	cmd.Flags().BoolVar(&w.o.Guard, "guard", false, "guard them all")
	cmd.Flags().StringVarP(&who, "user", "u", "", "only debuggers of this user, a name or a number")
	cmd.Flags().StringVar(&engine, "engine", "auto", "how names are seen as they are opened: ebpf; ptrace: not, only what stays open")
	complete(cmd, "engine", "auto", "ptrace", "ebpf")
	return cmd
}

func (w *watch) run(ctx context.Context, output, hook string) (err error) {
	w.o.View, w.o.Tool, w.text, w.hooked = w.a.view, tool(), w.a.out, w.a.out
	w.o.Fallback = func(why error) {
		w.a.say("names are not seen as they are opened, only those that stay open: %v", why)
	}
	switch {
	case isStdout(output):
		w.file, w.text, w.hooked = json.NewEncoder(w.a.out), io.Discard, w.a.err
	case output != "":
		f, openErr := os.OpenFile(output, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if openErr != nil {
			return fmt.Errorf("write what is said: %w", openErr)
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		w.file = json.NewEncoder(f)
	}
	ctx, w.stop = context.WithCancel(ctx)
	defer w.stop()
	ctx, signalled := untilSignal(ctx, false)
	if hook != "" {
		w.hook = make(chan notice, 64)
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.runHooks(ctx, hook)
		}()
		defer func() { close(w.hook); <-done }()
	}
	err = tracer.Watch(ctx, w.o, w)
	signalled()
	if err = errors.Join(err, w.failure); err != nil {
		return err
	}
	if w.found {
		return exit{code: exitFindings}
	}
	return nil
}

// hookWithin is for how long a command of --exec may run.
const hookWithin = time.Minute

// runHooks runs the command for one notice after the other.
func (w *watch) runHooks(ctx context.Context, command string) {
	for n := range w.hook {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hookWithin)
		cmd := exec.CommandContext(ctx, "sh", "-c", command)
		cmd.Env = append(os.Environ(), "WHOSEFD_KIND="+n.Kind, "WHOSEFD_PID="+strconv.Itoa(int(n.PID)))
		cmd.Stdout, cmd.Stderr = w.hooked, w.a.err
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			_ = json.NewEncoder(in).Encode(n) // it need not read
			_ = in.Close()
			err = cmd.Wait()
		}
		cancel()
		if err != nil {
			w.a.say("--exec: %v", err)
		}
	}
}

// say tells a notice to everybody.
func (w *watch) say(n notice) {
	n.Schema, n.Time = noticeSchema, time.Now()
	if one := w.seen[n.PID]; one != nil {
		n.Comm = one.comm
	}
	if row := n.row(); !w.chosen(&row) {
		return
	}
	who := "pid " + strconv.Itoa(int(n.PID))
	if n.Comm != "" {
		who = fmt.Sprintf("%s (pid %d)", n.Comm, n.PID)
	}
	if n.PID == 0 {
		who = "watch"
	}
	w.found = w.found || n.Kind == "finding"
	var err error
	if w.verbose || n.Kind != "began" && n.Kind != "ended" {
		text := string(n.Text)
		if !strings.HasPrefix(text, who+" ") { // else it says whom it is about
			text = who + ": " + text
		}
		line := fmt.Sprintf("%s  %s", n.Time.Format("15:04:05"), report.Clean(text))
		err = report.Prose(w.text, line, w.a.style(w.text))
	}
	if w.file != nil {
		err = errors.Join(err, w.file.Encode(n))
	}
	if err != nil && w.failure == nil {
		w.failure = err
		w.stop()
	}
	if w.hook != nil && (n.Kind == "finding" || n.Kind == "wait") {
		select {
		case w.hook <- n:
		default:
			w.a.say("--exec: the command is too slow; it was not run for this")
		}
	}
}

// Began implements [tracer.Watcher].
func (w *watch) Began(pid event.PID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[pid] = &watchedOne{comm: w.a.view.Comm(pid), an: analyze.New(), said: map[string]bool{}}
	w.say(notice{Kind: "began", PID: pid, Text: "is watched"})
}

// Ended implements [tracer.Watcher].
func (w *watch) Ended(pid event.PID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.say(notice{Kind: "ended", PID: pid, Text: "has ended"})
	delete(w.seen, pid)
}

// Failed implements [tracer.Watcher].
func (w *watch) Failed(pid event.PID, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.say(notice{Kind: "failed", PID: pid, Text: event.Text(reason)})
}

// Event implements [tracer.Watcher].
func (w *watch) Event(pid event.PID, ev event.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	one := w.seen[pid]
	if one == nil {
		return // it has ended
	}
	mark := one.an.Add(ev)
	if call, ok := ev.(*event.Syscall); ok && call.Rewritten != nil {
		w.say(notice{Kind: "led", PID: pid, Call: call, Text: event.Text(fmt.Sprintf("%s of %s was led to %s", call.Name, call.Path, call.Rewritten.Path))})
		return
	}
	if mark.Rule != "" && !w.o.Guard {
		w.findings(pid, one, one.an.Diagnosis())
	}
}

// findings says those that are new.
func (w *watch) findings(pid event.PID, one *watchedOne, d *analyze.Diagnosis) {
	for i := range d.Findings {
		f := &d.Findings[i]
		key := fmt.Sprintf("%s %s %s", f.Rule, f.Effect, f.Name)
		if one.said[key] {
			continue
		}
		one.said[key] = true
		text := f.Cause
		if i == 0 {
			text = d.Summary
		}
		w.say(notice{Kind: "finding", PID: pid, Finding: f, Text: text})
	}
}

// Rests implements [tracer.Watcher].
func (w *watch) Rests(pid event.PID, still bool) {
	if w.isCalm(pid, still) {
		return
	}
	d, err := w.a.diagnose(pid, subjects{}, false)
	w.mu.Lock()
	defer w.mu.Unlock()
	one := w.seen[pid]
	if one == nil {
		return // it has ended
	}
	one.calm = false
	if err != nil {
		if !one.said["failed"] {
			one.said["failed"] = true
			w.say(notice{Kind: "failed", PID: pid, Text: event.Text(err.Error())})
		}
		return
	}
	w.findings(pid, one, d)
	var user, other bool
	for i := range d.Waits {
		wait := &d.Waits[i]
		user = user || wait.PID == pid && wait.For == "user"
		other = other || wait.PID == pid && wait.For != "user" && wait.For != "thread"
		if wait.PID != pid || wait.Stuck && len(d.Findings) > 0 || normal[string(wait.For)] || wait.SinceUS.Or(0) < w.o.After.Microseconds() {
			continue
		}
		key := fmt.Sprintf("wait %d %s %s", wait.TID, wait.Syscall, wait.Text)
		if !one.said[key] {
			one.said[key] = true
			w.say(notice{Kind: "wait", PID: pid, Wait: wait, Text: wait.Text})
		}
	}
	one.calm = user && !other && len(d.Findings) == 0
}

// isCalm says whether a debugger still rests as it did when that was looked into, which
// nobody but its user changes.
func (w *watch) isCalm(pid event.PID, still bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	one := w.seen[pid]
	return one == nil || still && one.calm
}

// normal are what a debugger waits for when all is well.
var normal = map[string]bool{"user": true, "inferior": true, "child": true, "thread": true, "timer": true, "signal": true, "job-control": true}
