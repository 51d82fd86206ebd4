package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// hogDescriptors is below 20,000, a common hard limit.
	hogDescriptors = 15_000
	hogUser        = 65534
)

// hogs returns the number of processes with many descriptors; few in a short run.
func (s *soak) hogs() int {
	if s.duration < time.Minute {
		return 2
	}
	return 10
}

// startHogs starts processes of another user whose descriptors a search for owners must read:
// SIGPIPE would kill them.
func (s *soak) startHogs(ctx context.Context) error {
	for range s.hogs() {
		ready := make(chan struct{})
		user := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: hogUser, Gid: hogUser}}
		if _, err := s.startAs(user, "/proc/self/exe", hogName, func([]byte) { close(ready) }); err != nil {
			return err
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// hog opens descriptors and keeps them until EOF on standard input.
func hog(options) error {
	for range hogDescriptors {
		if _, err := unix.Dup(int(os.Stdin.Fd())); err != nil {
			return fmt.Errorf("open descriptors: %w", err)
		}
	}
	// os/signal cannot set the default disposition of SIGPIPE. This is struct sigaction of the
	// kernel: a handler of 0 is SIG_DFL.
	var action [4]uint64
	const signals = 8 // bytes of its signal set
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGPIPE), uintptr(unsafe.Pointer(&action)), 0, signals, 0, 0); errno != 0 {
		return fmt.Errorf("reset SIGPIPE: %w", errno)
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}
