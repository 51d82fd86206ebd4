package netns

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// ErrInterrupted reports that a signal ended Reexec.
var ErrInterrupted = errors.New("interrupted")

// Reexec starts this program again in the namespaces of CloneAttributes and waits for its
// exit. Argument 0 is name, the other arguments are the same. SIGINT, SIGTERM or the exit of
// this process kill the child and its children.
func Reexec(name string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = name
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = CloneAttributes()
	// Ctrl-C must reach only this process, which then kills the child.
	cmd.SysProcAttr.Setpgid = true
	err := cmd.Run()
	if ctx.Err() != nil {
		return ErrInterrupted
	}
	return err
}
