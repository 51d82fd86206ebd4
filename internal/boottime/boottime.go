// Package boottime reads the clock that a restart of the process, a suspend and a change of
// the wall clock do not affect.
package boottime

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Now returns the time since boot, including suspends (CLOCK_BOOTTIME).
func Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", err)) // since Linux 2.6.39
	}
	return time.Duration(ts.Nano())
}

// ID identifies the clock: times of processes with different IDs are not comparable. It
// consists of the kernel's boot id and the time namespace, which may have its own clock.
func ID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	namespace, _ := os.Readlink("/proc/self/ns/time") // Linux 5.6 with CONFIG_TIME_NS
	return strings.TrimSpace(string(id)) + " " + namespace, nil
}
