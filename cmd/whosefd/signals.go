package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// untilSignal gives a context that ends with the first signal that asks us to,
// and what that signal was. A launched program keeps the keyboard: Ctrl-C,
// Ctrl-\ and Ctrl-Z are for it, and it is up to it what they do. Signals are
// caught rather than ignored, since the program would inherit that.
func untilSignal(ctx context.Context, launched bool) (context.Context, func() os.Signal) {
	ctx, cancel := context.WithCancel(ctx)
	ends := make(chan os.Signal, 4)
	signal.Notify(ends, syscall.SIGTERM, syscall.SIGHUP)
	ignored := make(chan os.Signal, 1)
	signal.Notify(ignored, syscall.SIGPIPE) // a closed pipe is an error of the write
	if launched {
		signal.Notify(ignored, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU)
	} else {
		signal.Notify(ends, syscall.SIGINT, syscall.SIGQUIT)
	}
	got := make(chan os.Signal, 1)
	go func() {
		select {
		case sig := <-ends:
			got <- sig
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() os.Signal {
		signal.Stop(ends)
		cancel()
		select {
		case sig := <-got:
			return sig
		default:
			return nil
		}
	}
}
