package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"whosefd/analyze"
	"whosefd/tracer"
	"whosefd/tracer/event"
	"whosefd/tracer/memory"
	"whosefd/tracer/sysroot"
)

// standIns are files of the user's choice for the libraries of a core.
type standIns struct {
	with  []string
	force bool
	// nameless: FILE alone is for each library that the debugger hangs on.
	nameless bool
}

func (s *standIns) flags(cmd *cobra.Command, usage string) {
	cmd.Flags().StringArrayVar(&s.with, "with", nil, usage)
	cmd.Flags().BoolVar(&s.force, "force", false, "take the files of --with also where the core has no build id to compare")
}

// list looks at the files.
func (s *standIns) list(a *app) (files []event.StandIn, err error) {
	if s.force && len(s.with) == 0 {
		return nil, errors.New("--force is for the files of --with, and there is none")
	}
	for _, arg := range s.with {
		name, file, ok := strings.Cut(arg, "=")
		if _, err := os.Stat(arg); s.nameless && (!ok || err == nil) {
			name, file, ok = "", arg, true
		}
		if !ok || name == "" && !s.nameless || file == "" {
			return nil, fmt.Errorf("--with %q: give NAME=FILE, with the library's name as the core has it, such as /proc/self/fd/4=./plugin.so", arg)
		}
		f, err := tracer.NewStandIn(a.view, event.Text(name), file, s.force)
		if err != nil {
			return nil, fmt.Errorf("--with: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}

// corePreflight is a preflight of a core file.
type corePreflight struct {
	core, program   string
	format, sysroot string
	files           standIns
}

// beginningOf gives the first bytes of a regular file; none where it is not one.
func beginningOf(name string) []byte {
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil
	}
	var beginning [64]byte
	n, _ := f.Read(beginning[:])
	return beginning[:n]
}

// isCore says whether an argument is the name of a core file.
func isCore(arg string) bool { return memory.IsCore(beginningOf(arg)) }

// packedCore is the error for a compressed core file, with the command that unpacks it: cores are read in
// place. It is nil for any other file; sure says that a core is meant.
func (a *app) packedCore(name string, sure bool) error {
	packed := compressionOf(beginningOf(name))
	if packed == nil {
		return nil
	}
	base := filepath.Base(name)
	switch {
	case sure:
	case packed.name == "lz4": // which is not unpacked here
		if !strings.HasPrefix(base, "core.") {
			return nil
		}
	default:
		in, err := a.openInput(name)
		if err != nil {
			return nil // said by whoever reads it
		}
		defer in.close()
		var beginning [64]byte
		if n, _ := io.ReadFull(in, beginning[:]); !memory.IsCore(beginning[:n]) {
			return nil
		}
	}
	command := fmt.Sprintf(packed.command, analyze.Quote(name), "core")
	// core.COMM.UID.BOOT.PID.TIME.zst, where systemd-coredump(8) keeps them.
	if fields := strings.Split(base, "."); strings.Contains(name, "systemd/coredump/") && len(fields) >= 6 {
		command = "coredumpctl dump " + fields[len(fields)-3] + " -o core"
	}
	return fmt.Errorf("%s: a core file that is compressed by %s, and is read in place only; unpack it first: %s", name, packed.name, command)
}

func (a *app) preflightCore(ctx context.Context, c *corePreflight) error {
	files, err := c.files.list(a)
	if err != nil {
		return err
	}
	core, err := tracer.ReadCore(a.view, c.core, c.program)
	if errors.Is(err, memory.ErrNoCore) {
		err = cmp.Or(a.packedCore(c.core, true), err)
	}
	if err != nil {
		return err
	}
	events, err := tracer.PreflightCore(a.view, tool(), core)
	if err != nil {
		return err
	}
	p := analyze.New(events...).Preflight()
	var made *sysrootMade
	if c.sysroot != "" {
		abs, folder, err := sysrootAt(ctx, c.sysroot, func(ctx context.Context, abs string) (*sysroot.Made, error) {
			return sysroot.MakeCore(ctx, a.view, abs, core, files)
		})
		if err != nil {
			return err
		}
		program := cmp.Or(c.program, string(core.Inferior.Exe), "PROGRAM")
		made = &sysrootMade{Dir: event.Text(abs), Entries: folder.Entries, Core: true,
			Command: event.Text(fmt.Sprintf("gdb -iex %s %s %s", analyze.Quote("set sysroot "+abs), analyze.Quote(program), analyze.Quote(c.core)))}
		p.Remedies = slices.DeleteFunc(p.Remedies, func(r analyze.Remedy) bool { return r.Kind == "links" })
	} else {
		for _, s := range files {
			a.say("--with %s: only --sysroot DIR makes use of it here; guard and repair take it too", s.Name)
		}
	}
	return a.showPreflight(p, made, c.format)
}
