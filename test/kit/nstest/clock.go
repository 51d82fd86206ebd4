package nstest

import (
	"testing"
	"time"
	"unsafe"
)

// ClockSet returns a result of time.Now as after a step of the system clock: another wall
// time, the same monotonic reading. Tests use it because no namespace isolates the wall
// clock.
func ClockSet(t testing.TB, now time.Time, by time.Duration) time.Time {
	t.Helper()
	const secondsShift = 30 // seconds are above 30 bits of nanoseconds; see time.Time
	set := now
	*(*uint64)(unsafe.Pointer(&set)) += uint64(by/time.Second) << secondsShift
	// Detect another layout of time.Time.
	if set.Sub(now) != 0 || set.Round(0).Sub(now.Round(0)) != by {
		t.Fatalf("set %v by %v: got %v; needs a result of time.Now and whole seconds", now, by, set)
	}
	return set
}
