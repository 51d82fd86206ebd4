package collector

import (
	"testing"
	"time"

	"tcphup/internal/nstest"
)

// A flow is as old as it is, however the clock is set meanwhile.
func TestAgesClockSet(t *testing.T) {
	var set time.Duration
	clock := func() time.Time { return nstest.ClockSet(t, time.Now(), set) }
	a := newAges(clock)
	see := func() time.Duration {
		began := clock()
		a.begin()
		age := a.see(1, began)
		a.finish()
		return age
	}
	begun := time.Now()
	see()
	nstest.Eventually(t, "the flow is known for longer than a step", func() bool { return time.Since(begun) > 2*sightingStep })
	for _, set = range []time.Duration{time.Hour, -24 * time.Hour, 0} {
		age, most := see(), time.Since(begun)
		if age < 0 || age == 0 || age > most {
			t.Errorf("clock set by %v: the flow is %v old, want at most %v", set, age, most)
		}
		if first, known := a.firstSeen(1); !known || clock().Sub(first) > time.Since(begun) || clock().Sub(first) <= 0 {
			t.Errorf("clock set by %v: first seen %v, %t", set, first, known)
		}
	}
}
