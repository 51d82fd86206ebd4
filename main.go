// Command tcphup hangs up stale TCP connections in order, so that applications
// reconnect to where a service is now, and tells Prometheus which ones are stale.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"tcphup/command"
)

// Exit codes.
const (
	exitDone       = 0 // done, also when nothing matched
	exitIncomplete = 1 // some flow failed, lingers or was refused
	exitUsage      = 2 // nothing was touched
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command.Run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, command.ErrIncomplete) {
		fmt.Fprintf(os.Stderr, "tcphup: %v\n", err)
	}
	os.Exit(exitCode(err))
}

// exitCode returns the exit code for the result of a command.
func exitCode(err error) int {
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, command.ErrUsage):
		return exitUsage
	default:
		return exitIncomplete
	}
}
