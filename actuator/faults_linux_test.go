package actuator

import (
	"testing"
	"time"

	"tcphup/internal/nstest"
)

// A flow that came up after the alert is kept, and one that was there before is not,
// whatever was done to the clock since they were seen.
func TestClockSet(t *testing.T) {
	const hour = time.Hour
	now := time.Now() // the clock is right by now
	alert := now.Add(-10 * time.Minute).Round(0)
	for _, tt := range []struct {
		name string
		set  time.Duration // what the clock was off by when the flow was seen
	}{
		{"right all the time", 0},
		{"was behind", -hour},
		{"was at the epoch", -now.Sub(time.Unix(0, 0)).Truncate(time.Second)},
		{"was ahead", hour},
	} {
		for age, young := range map[time.Duration]bool{5 * time.Minute: true, 15 * time.Minute: false} {
			seen := nstest.ClockSet(t, now.Add(-age), tt.set)
			a := New(Config{FirstSeen: func(uint64) (time.Time, bool) { return seen, true }})
			x := &action{Actuator: a, Request: Request{EstablishedBefore: alert}}
			if got := x.tooYoung(&target{}); got != young {
				t.Errorf("%s: a flow of %v counts as too young: %t, want %t", tt.name, age, got, young)
			}
		}
	}
}
