// Command tcphup gracefully closes stale TCP connections, so that applications reconnect
// to the current address of a service, and exports metrics about them to Prometheus.
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
	exitDone       = 0 // success, including no match
	exitIncomplete = 1 // a connection failed, lingers, was refused or left undecided, or another error
	exitUsage      = 2 // usage error; nothing was changed
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
