package namespaces

import (
	"testing"
	"time"
)

// The result changes if the wall clock is set, and not because clocks are read one after the
// other.
func TestBootClock(t *testing.T) {
	var c bootClock
	first := c.origin()
	if diff := time.Since(first.Add(sinceBoot())).Abs(); diff > 10*time.Second {
		t.Errorf("now is %v off", diff)
	}
	for _, tt := range []struct {
		step time.Duration
		kept bool
	}{{0, true}, {minStep / 2, true}, {-minStep / 2, true}, {time.Hour, false}, {-time.Hour, false}} {
		former := first.Add(tt.step)
		c.boot = former
		if got := c.origin(); got.Equal(former) != tt.kept {
			t.Errorf("clock set by %v: got %v", tt.step, got)
		}
	}
}
