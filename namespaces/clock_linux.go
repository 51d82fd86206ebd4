package namespaces

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// bootClock converts times since boot (CLOCK_BOOTTIME) to wall-clock times. The same time since
// boot has the same result until the wall clock is set. The zero value is ready to use.
type bootClock struct {
	boot time.Time // zero before the first call
}

// minStep is the smallest change of the wall clock that bootClock follows.
const minStep = 50 * time.Millisecond

// origin returns the wall-clock time of the boot. Slewing of the wall clock affects
// CLOCK_BOOTTIME as well.
func (c *bootClock) origin() (time.Time, error) {
	boot, uncertainty, err := readBoot()
	if err != nil {
		return time.Time{}, err
	}
	if step := boot.Sub(c.boot).Abs(); c.boot.IsZero() || step > minStep+uncertainty {
		c.boot = boot
	}
	return c.boot, nil
}

// readBoot returns the wall-clock time of the boot. Its error is below uncertainty.
func readBoot() (boot time.Time, uncertainty time.Duration, err error) {
	const wanted, attempts = time.Millisecond, 5
	for i := range attempts {
		before, err := sinceBoot()
		if err != nil {
			return time.Time{}, 0, err
		}
		now := time.Now().Round(0)
		after, err := sinceBoot()
		if err != nil {
			return time.Time{}, 0, err
		}
		if took := after - before; i == 0 || took < uncertainty {
			boot, uncertainty = now.Add(-after), took
		}
		if uncertainty < wanted {
			break
		}
	}
	return boot, uncertainty, nil
}

func sinceBoot() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("read CLOCK_BOOTTIME: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}
