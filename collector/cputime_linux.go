package collector

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// threadTime returns the processor time of the calling thread (CLOCK_THREAD_CPUTIME_ID). The
// kernel dumps sockets on the thread that receives them.
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(fmt.Sprintf("read CLOCK_THREAD_CPUTIME_ID: %v", err)) // since Linux 2.6.12
	}
	return time.Duration(ts.Nano())
}
