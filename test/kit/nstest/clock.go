package nstest

import (
	"testing"
	"time"
	"unsafe"
)

// ClockSet returns a time of time.Now as it would have been, had somebody moved the
// machine's clock by so much before: another time of day, the same monotonic reading.
// The clock itself belongs to the whole machine, and no namespace has one of its own.
func ClockSet(t testing.TB, now time.Time, by time.Duration) time.Time {
	t.Helper()
	const secondsShift = 30 // above the nanoseconds; see the comment on time.Time
	set := now
	*(*uint64)(unsafe.Pointer(&set)) += uint64(by/time.Second) << secondsShift
	// Another layout of time.Time must not pass unnoticed.
	if set.Sub(now) != 0 || set.Round(0).Sub(now.Round(0)) != by {
		t.Fatalf("set by %v, %v became %v: only times of time.Now and whole seconds can be set", by, now, set)
	}
	return set
}
