package netns

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// ErrInterrupted says that a signal has ended what RunAgain had started.
var ErrInterrupted = errors.New("interrupted")

// RunAgain starts this program once more, under the given name (its argument 0) and
// with the same arguments, in namespaces as Own has them, and waits for its end. An
// interrupt or a SIGTERM, or the end of this process however it comes, ends that one
// and all that it has started. It takes root.
func RunAgain(name string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = name
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = Own()
	// Ctrl-C is for this process alone, and does not make the others end one by one.
	cmd.SysProcAttr.Setpgid = true
	err := cmd.Run()
	if ctx.Err() != nil {
		return ErrInterrupted
	}
	return err
}
