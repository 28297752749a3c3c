package redact_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"whosefd/analyze/redact"
	"whosefd/tracer/event"
)

// redacted is what becomes of the name of a file.
func redacted(k redact.Known, names ...string) string {
	r := redact.New(k)
	var evs []event.Event
	for _, name := range names {
		evs = append(evs, &event.Syscall{Name: "openat", Path: event.Text(name)})
	}
	for _, ev := range evs {
		r.Learn(ev)
	}
	var out []string
	for _, ev := range evs {
		out = append(out, string(r.Event(ev).(*event.Syscall).Path))
	}
	return strings.Join(out, "\n")
}

// The name of a user or host that is a word as well is taken out where it is a name, and
// stays where it is a word.
func TestNamesThatAreWords(t *testing.T) {
	for _, name := range []string{"test", "read", "user", "bin", "lib", "gdb", "pipe", "main", "data", "python"} {
		known := redact.Known{Users: []string{name}, Hosts: []string{name}, Homes: []string{"/srv/people/" + name}}
		for _, private := range []string{"/home/NAME", "/home/NAME/x.so", "/usr/lib/debug/home/NAME/x.debug", "/var/home/NAME/x", "/srv/people/NAME/x", "/run/media/NAME/disk",
			"/tmp/NAME/x", "~NAME/x", "NAME@box.corp.example", "/tmp/of-anna@NAME", "/x/ssh-NAME@box:22", "/var/mail/NAME", "/media/NAME/x"} {
			private = strings.ReplaceAll(private, "NAME", name)
			if out := redacted(known, private); strings.Contains(strings.TrimPrefix(out, "/usr/lib/"), name) {
				t.Errorf("the name %s is left of %s: %s", name, private, out)
			}
		}
		for _, public := range []string{"/usr/lib/NAME/libNAME.so.1", "libNAME-2.so", "/usr/bin/NAME", "NAME", "NAME:[4711]", "/proc/self/fd/4", "/usr/lib/x86_64-linux-gnu/gdb/latestNAMEer.so",
			"/etc/NAME.conf", "/dev/NAME", "/usr/lib/systemd/getty@NAME.service"} {
			public = strings.ReplaceAll(public, "NAME", name)
			if out := redacted(known, public); out != public {
				t.Errorf("of the name %s, %s became %s", name, public, out)
			}
		}
	}
}

// One that is only a name goes wherever it stands, and so do those of other users that
// the evidence has.
func TestNamesThatAreNames(t *testing.T) {
	known := redact.Known{Users: []string{"anna"}, Hosts: []string{"quimby.corp.example"}}
	for _, name := range []string{"/tmp/anna.log", "/srv/annas/x", "/tmp/quimby:1", "/x/quimby.corp.example/y", "/x/other.corp.example/y", "/usr/share/anna/x", "/home/bertram/x",
		"/tmp/bertram-1", "/x/cc@mail.brandnew.example", "/tmp/brandnew.example"} {
		out := redacted(known, name, "/home/bertram/y", "cc@mail.brandnew.example")
		for _, secret := range []string{"anna", "quimby", "corp.example", "bertram", "brandnew"} {
			if strings.Contains(out, secret) {
				t.Errorf("%s is left of %s: %s", secret, name, out)
			}
		}
	}
	if out := redacted(known, "/usr/lib/libsusannab.so"); out != "/usr/lib/libsusannab.so" {
		t.Error("a library is called", out)
	}
	if out := redacted(redact.Known{Words: []string{"test"}}, "/usr/lib/latest"); strings.Contains(out, "test") {
		t.Error("a word that somebody has asked for is left of", out)
	}
}

// What whosefd says itself, and what the kernel calls things, stays as it is, whatever
// users and hosts are called.
func TestNamesDoNotSpoilEvidence(t *testing.T) {
	files, err := filepath.Glob("../testdata/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	names := strings.Fields("test read user bin lib gdb pipe main root ended snapshot exited snap look kill memory openat clone")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		read := func(k redact.Known) (all []event.Event) {
			r := redact.New(k)
			for pass := range 2 {
				for in := event.NewReader(bytes.NewReader(text)); ; {
					ev, err := in.Next()
					if err != nil {
						break
					}
					if pass == 0 {
						r.Learn(ev)
					} else {
						all = append(all, r.Event(ev))
					}
				}
			}
			return all
		}
		want := read(redact.Known{})
		for i, ev := range read(redact.Known{Users: names, Hosts: names}) {
			for _, same := range []func(event.Event) any{kinds, said} {
				if a, b := same(ev), same(want[i]); !reflect.DeepEqual(a, b) {
					t.Errorf("%s: %v became %v", file, b, a)
				}
			}
		}
	}
}

// said are the sentences of ours in an event.
func said(ev event.Event) any {
	switch ev := ev.(type) {
	case *event.End:
		return ev.Reason
	case *event.Lost:
		return ev.Reason
	case *event.Search:
		return append(ev.Notes, ev.Cut)
	}
	return nil
}

// kinds are the names that a kernel or a distribution has given.
func kinds(ev event.Event) any {
	text, err := json.Marshal(ev)
	if err != nil {
		return err
	}
	var all []string
	for _, s := range strings.Split(string(text), `"`) {
		if strings.HasPrefix(s, "pipe:[") || strings.HasPrefix(s, "/usr/lib") || strings.HasPrefix(s, "lib") || strings.HasPrefix(s, "/proc/") || s == "gdb" {
			all = append(all, s)
		}
	}
	return all
}
