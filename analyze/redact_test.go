package analyze

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"whosefd/tracer/event"
)

// From redacted evidence follows what follows from the evidence, and nothing of the names
// that were planted in it is left, nor in a piece of memory.
func TestRedactedFindings(t *testing.T) {
	const user, host = "zacharias", "Quimby-Host.example.org"
	recordings, err := filepath.Glob("testdata/*.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	planted := 0
	for _, name := range recordings {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var evs []event.Event
		for r := event.NewReader(bytes.NewReader(text)); ; {
			ev, err := r.Next()
			if err != nil {
				break // some end early, as tests of that
			}
			plant(ev, user, host)
			evs = append(evs, ev)
		}
		if all, err := json.Marshal(evs); err != nil {
			t.Fatal(err)
		} else {
			planted += strings.Count(strings.ToLower(string(all)), user)
		}
		r := NewRedactor(Known{Users: []string{user}, Hosts: []string{host}})
		for _, ev := range evs {
			r.Learn(ev)
		}
		plain, redacted := New(), New()
		var out bytes.Buffer
		w := event.NewWriter(&out)
		for _, ev := range evs {
			before, err := json.Marshal(ev)
			if err != nil {
				t.Fatal(err)
			}
			changed := r.Event(ev)
			if after, _ := json.Marshal(ev); !bytes.Equal(before, after) {
				t.Fatalf("%s: the event itself was changed:\n%s\n%s", name, before, after)
			}
			plain.Add(ev)
			redacted.Add(changed)
			if call, ok := changed.(*event.Syscall); ok {
				free(t, name, string(call.Data), user, host)
			}
			if err := w.Write(changed); err != nil {
				t.Fatal(err)
			}
		}
		d := redacted.Diagnosis()
		said, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		free(t, name, string(said)+out.String(), user, host)
		if got, want := gist(d), gist(plain.Diagnosis()); got != want {
			t.Errorf("%s: from the redacted evidence follows\n%s\nand from the other\n%s", name, got, want)
		}
	}
	if planted < 100 {
		t.Errorf("planted in %d names only", planted)
	}
}

// gist is what of a diagnosis has no names in it.
func gist(d *Diagnosis) string {
	s := d.Verdict
	for _, f := range d.Findings {
		s += fmt.Sprintf("\n%s %s %s fd %v of %d, %v", f.Rule, f.Effect, f.Confidence, f.Opened.FD, f.Opened.PID, f.Opened.SameAsFD)
		if f.Intended != nil {
			s += fmt.Sprintf(", meant %d %d:%d", f.Intended.PID, f.Intended.Dev, f.Intended.Ino)
		}
		for _, e := range f.Evidence {
			s += " " + e.Kind
		}
	}
	return fmt.Sprint(s, "\n", len(d.Risks), len(d.Waits), len(d.Missing))
}

// plant puts a user and a host into an event.
func plant(ev event.Event, user, host string) {
	switch ev := ev.(type) {
	case *event.Session:
		if p := ev.Debugger; p != nil {
			p.Cmdline = slices.Concat(p.Cmdline[:min(1, len(p.Cmdline))], []event.Text{"-ex", event.Text("target remote " + host + ":99"), event.Text("--password=secret-" + user), "hunter2hunter2"}, p.Cmdline[min(1, len(p.Cmdline)):])
			p.Cwd += event.Text("/home/" + user)
		}
	case *event.Syscall:
		if ev.Path != "" && strings.Contains(string(ev.Path), "debug") {
			ev.Path = event.Text("/home/" + user + string(ev.Path))
		}
		if ev.Target != nil && ev.Target.Kind == event.Regular {
			ev.Target.Link += event.Text("." + strings.ToUpper(user))
		}
		if ev.Arguments != "" {
			ev.Arguments += `, "` + user + `"`
		}
	case *event.Wait:
		for i := range ev.On {
			if ev.On[i].Peer != "" {
				ev.On[i].Peer = "10.77.66.55:2159"
			}
			ev.On[i].Mount = &event.Mount{Point: event.Text("/home/" + user), Source: event.Text(user + "@" + host + ":/x")}
		}
	case *event.Stack:
		for i := range ev.Frames {
			ev.Frames[i].File = "/home/" + user + "/src/x.c"
		}
	case *event.Search:
		ev.Notes = append(ev.Notes, "of "+user)
	}
}

// free fails the test where something that was planted is left.
func free(t *testing.T, name, text, user, host string) {
	t.Helper()
	low := strings.ToLower(text)
	for _, word := range []string{user, strings.ToLower(host), "quimby", "hunter2", "secret-", "10.77.66.55"} {
		if i := strings.Index(low, word); i >= 0 {
			t.Fatalf("%s: %q is left: …%q…", name, word, text[max(0, i-80):min(len(text), i+80)])
		}
	}
}

// A name that the debugger reads in pieces is redacted in each, and stays one name.
func TestRedactPieces(t *testing.T) {
	name := "/home/zacharias/plugins/lib-of-zacharias.so\x00TOKEN=abcdefgh\x00hunter2hunter2\x00libplain.so\x00"
	for _, size := range []int{1, 3, 8, 16, 200} {
		r := NewRedactor(Known{})
		evs := []event.Event{&event.LinkMap{PID: 9, Name: "libplain.so"}}
		for at := 0; at < len(name); at += size {
			evs = append(evs, &event.Syscall{PID: 7, TID: 7, Name: "pread64", Offset: event.Some(int64(0x5000 + at)), Ret: event.Some[int64](8),
				Target: &event.Target{Kind: event.Procfs, Link: "/proc/9/mem"}, Data: []byte(name[at:min(len(name), at+size)])})
		}
		for _, ev := range evs {
			r.Learn(ev)
		}
		got := ""
		for _, ev := range evs {
			if call, ok := r.Event(ev).(*event.Syscall); ok {
				got += string(call.Data)
			}
		}
		want := "/home/user00001/plugins/lib-of-user00001.so\x00TOKEN=xxxxxxxx\x00xxxxxxxxxxxxxx\x00libplain.so\x00"
		if got != want {
			t.Errorf("by %d bytes: %q, want %q", size, got, want)
		}
	}
}

func TestRedactWords(t *testing.T) {
	r := NewRedactor(Known{Users: []string{"zacharias", "al", "root", "Bob"}, Hosts: []string{"build7.corp.example"}})
	inf := func(text string) string {
		ev := &event.Inferior{Process: event.Process{Exe: event.Text(text)}}
		r.Learn(ev)
		return string(r.Event(ev).(*event.Inferior).Exe)
	}
	for in, want := range map[string]string{
		"/tmp/ZACHARIASbuild/al/also":      "/tmp/user00001build/u2/also",
		"/usr/lib/root/x":                  "/usr/lib/root/x",
		"/srv/bob.d/bobby":                 "/srv/us3.d/bobby",
		"/var/crash/build7.corp.example.1": "/var/crash/host000000000000001.1",
		"/var/crash/build7/x":              "/var/crash/hosts2/x",
		"PASSWORD=hunter2":                 "PASSWORD=value1",
		"/proc/self/fd/4":                  "/proc/self/fd/4",
	} {
		if got := inf(in); got != want && !(strings.Contains(in, "build7") && !strings.Contains(got, "build7") && len(got) == len(in)) {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
