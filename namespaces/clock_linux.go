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
func (c *bootClock) origin() time.Time {
	boot, uncertainty := readBoot()
	if step := boot.Sub(c.boot).Abs(); c.boot.IsZero() || step > minStep+uncertainty {
		c.boot = boot
	}
	return c.boot
}

// readBoot returns the wall-clock time of the boot. Its error is below uncertainty.
func readBoot() (boot time.Time, uncertainty time.Duration) {
	const wanted, attempts = time.Millisecond, 5
	for i := range attempts {
		before := sinceBoot()
		now := time.Now().Round(0)
		after := sinceBoot()
		if took := after - before; i == 0 || took < uncertainty {
			boot, uncertainty = now.Add(-after), took
		}
		if uncertainty < wanted {
			break
		}
	}
	return boot, uncertainty
}

func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", err)) // since Linux 2.6.39
	}
	return time.Duration(ts.Nano())
}
