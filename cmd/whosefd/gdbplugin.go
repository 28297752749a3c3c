package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"whosefd/analyze/report"
	"whosefd/tracer/gdbplugin"
)

func (a *app) gdbPlugin() *cobra.Command {
	var install, uninstall, status, user, system bool
	cmd := &cobra.Command{
		Use:   "gdb-plugin",
		Short: "The plug-in with which gdb resolves its inferiors' names in their context",
		Long: `Prints a plug-in for gdb, which gdb loads by its command "source". A gdb that has it
opens the file that the inferior has mapped where it would have opened, by a name
such as /proc/self/fd/4, a file of its own. It needs no privileges, and shows and
changes nothing where no such name occurs.

--install puts it where gdb loads it each time that it starts: for the whole machine
(--system, for root the default) in the folder that the first gdb on the PATH was
built to look in; for a user (--user) by a line in ~/.config/gdb/gdbinit or ~/.gdbinit.
--uninstall takes it away. --status runs each gdb on the PATH and says which have it;
exit code 1 says that one has not.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case status:
				return a.pluginStatus(cmd.Context())
			case install, uninstall:
				p, err := a.pluginPlace(cmd.Context(), system || !user && os.Getuid() == 0)
				if err != nil {
					return err
				}
				if uninstall {
					return a.pluginUninstall(p)
				}
				return a.pluginInstall(p)
			case user || system:
				return errors.New("--user and --system go with --install or --uninstall")
			}
			_, err := io.WriteString(a.out, gdbplugin.Source())
			return err
		},
	}
	cmd.Flags().BoolVar(&install, "install", false, "put it where gdb loads it")
	cmd.Flags().BoolVar(&uninstall, "uninstall", false, "take it away")
	cmd.Flags().BoolVar(&status, "status", false, "say which gdbs have it, by running them")
	cmd.Flags().BoolVar(&user, "user", false, "for this user")
	cmd.Flags().BoolVar(&system, "system", false, "for every user of this machine")
	cmd.MarkFlagsMutuallyExclusive("install", "uninstall", "status")
	cmd.MarkFlagsMutuallyExclusive("user", "system", "status")
	return cmd
}

func (a *app) pluginPlace(ctx context.Context, system bool) (gdbplugin.Place, error) {
	if !system {
		return gdbplugin.UserPlace(a.getenv)
	}
	gdbs := gdbplugin.Find(a.getenv("PATH"))
	if len(gdbs) == 0 {
		return gdbplugin.Place{}, errNoGDB
	}
	g, err := gdbplugin.Ask(ctx, gdbs[0])
	if err != nil {
		return gdbplugin.Place{}, err
	}
	return gdbplugin.SystemPlace(g)
}

var errNoGDB = errors.New("there is no gdb on the PATH")

func (a *app) pluginInstall(p gdbplugin.Place) error {
	if err := p.Install(); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	a.say("installed %s", p.File)
	if p.Init != "" {
		a.say("%s has a line that loads it", p.Init)
	}
	return nil
}

func (a *app) pluginUninstall(p gdbplugin.Place) error {
	there, err := p.Uninstall()
	if err != nil {
		return fmt.Errorf("uninstall: %w", err)
	}
	if there {
		a.say("removed %s", p.File)
	} else {
		a.say("%s: is not there", p.File)
	}
	return nil
}

// pluginStatus runs each gdb. What could not be asked counts for more than what
// lacks the plug-in.
func (a *app) pluginStatus(ctx context.Context) error {
	gdbs := gdbplugin.Find(a.getenv("PATH"))
	if len(gdbs) == 0 {
		return errNoGDB
	}
	user, userErr := gdbplugin.UserPlace(a.getenv)
	code := exitNothing
	for _, path := range gdbs {
		g, err := gdbplugin.Ask(ctx, path)
		if err != nil {
			a.say("%v", err)
			code = exitTrouble
			continue
		}
		says := "has the plug-in"
		system, err := gdbplugin.SystemPlace(g)
		switch {
		case !g.Python:
			says = "was built without Python, and cannot have the plug-in"
		case !g.Loaded:
			says = "does not have the plug-in"
		case err == nil && system.There():
			says += from(system)
		case userErr == nil && user.There():
			says += from(user)
		}
		if !g.Loaded {
			code = max(code, exitFindings)
		}
		line := report.Clean(fmt.Sprintf("%s (gdb %s) %s", g.Path, g.Version, says))
		if err := report.Prose(a.out, line, a.style(a.out)); err != nil {
			return err
		}
	}
	if code != exitNothing {
		return exit{code: code}
	}
	return nil
}

// from says where a plug-in came from.
func from(p gdbplugin.Place) string {
	if p.Current() {
		return " from " + p.File
	}
	return " of another version of whosefd, from " + p.File
}
