package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
)

// pages are what is shown in a pager, if it is long.
type pages struct {
	bytes.Buffer
	to io.Writer
}

// paged shows what is longer than the terminal is high in PAGER, as git does; in
// less, where that is not set. What goes elsewhere than to a terminal goes as it is.
func (a *app) paged(show func(io.Writer) error) error {
	height := 0
	if a.height != nil && !a.noPager && a.getenv("TERM") != "dumb" {
		height = a.height(a.out)
	}
	if height == 0 {
		return show(a.out)
	}
	p := &pages{to: a.out}
	if err := show(p); err != nil {
		return err
	}
	command := a.getenv("PAGER")
	if command == "" {
		command = "less"
	}
	if bytes.Count(p.Bytes(), []byte("\n")) < height || command == "cat" {
		_, err := p.WriteTo(a.out)
		return err
	}
	pager := exec.Command("sh", "-c", command)
	pager.Stdin, pager.Stdout, pager.Stderr = bytes.NewReader(p.Bytes()), a.out, a.err
	pager.Env = os.Environ()
	if a.getenv("LESS") == "" {
		pager.Env = append(pager.Env, "LESS=FRX") // colors, and nothing left behind
	}
	err := pager.Run()
	var ended *exec.ExitError
	if err == nil || errors.As(err, &ended) && ended.ExitCode() < 126 {
		return nil // closed before it has shown all, perhaps
	}
	_, err = p.WriteTo(a.out) // sh has no such program
	return err
}
