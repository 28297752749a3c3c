package main

import (
	"errors"
	"io"
	"os"
	"os/user"
	"strconv"

	"github.com/spf13/cobra"

	"whosefd/analyze"
	"whosefd/analyze/straceio"
	"whosefd/tracer/event"
)

// redactFlags say whether names are taken out of evidence before it is looked at.
type redactFlags struct {
	on   bool
	also []string
}

func (f *redactFlags) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.on, "redact", false, "replace the names of users, homes and hosts, arguments of commands, and what was read; what was found stays")
	cmd.Flags().StringSliceVar(&f.also, "redact-also", nil, "replace these words too; implies --redact")
}

// redactor gives one that knows this machine, and nil without --redact.
func (f *redactFlags) redactor(a *app) *analyze.Redactor {
	if !f.on && len(f.also) == 0 {
		return nil
	}
	k := analyze.Known{Words: f.also, Users: []string{a.getenv("USER"), a.getenv("LOGNAME"), a.getenv("SUDO_USER")}, Homes: []string{a.getenv("HOME")}}
	know := func(u *user.User, err error) {
		if err == nil {
			k.Users, k.Homes = append(k.Users, u.Username), append(k.Homes, u.HomeDir)
		}
	}
	know(user.Current())
	if host, err := os.Hostname(); err == nil {
		k.Hosts = append(k.Hosts, host)
	}
	for _, n := range []string{a.getenv("SUDO_UID"), strconv.Itoa(os.Getuid())} {
		know(user.LookupId(n))
	}
	return analyze.NewRedactor(k)
}

// events redacts those that are all there.
func (f *redactFlags) events(a *app, evs []event.Event) []event.Event {
	r := f.redactor(a)
	if r == nil {
		return evs
	}
	for _, ev := range evs {
		r.Learn(ev)
	}
	out := make([]event.Event, len(evs))
	for i, ev := range evs {
		out[i] = r.Event(ev)
	}
	return out
}

// evidenceFile is evidence in files, which can be read more than once.
type evidenceFile struct {
	a      *app
	names  []string
	kept   *os.File // what can be read once only
	redact *analyze.Redactor
}

// files opens evidence, to be read twice if need be. What is to be redacted is read here
// for the first time.
func (a *app) files(names []string, rf *redactFlags, twice bool) (*evidenceFile, error) {
	s := &evidenceFile{a: a, names: names}
	redact := rf.redactor(a)
	st, err := os.Stat(names[0])
	pipe := err == nil && !st.Mode().IsRegular() && !st.IsDir()
	if (redact != nil || twice) && len(names) == 1 && (names[0] == "-" || pipe) {
		if s.kept, err = os.CreateTemp("", "whosefd-*"); err != nil {
			return nil, err
		}
		if err = errors.Join(os.Remove(s.kept.Name()), a.copyInput(s.kept, names[0])); err != nil {
			return nil, err
		}
		s.names = []string{"-"}
	}
	if redact != nil {
		if _, err := s.read(redact.Learn); err != nil {
			return nil, err
		}
	}
	s.redact = redact
	return s, nil
}

// read is [app.readSource] of it.
func (s *evidenceFile) read(each func(event.Event)) ([]straceio.Count, error) {
	if s.kept != nil {
		if _, err := s.kept.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		s.a.in = s.kept
	}
	if s.redact == nil {
		return s.a.readSource(s.names, each)
	}
	return s.a.readSource(s.names, func(ev event.Event) { each(s.redact.Event(ev)) })
}

// copyInput writes an input to a file.
func (a *app) copyInput(to *os.File, name string) error {
	from := a.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		from = f
	}
	_, err := io.Copy(to, from)
	return err
}
