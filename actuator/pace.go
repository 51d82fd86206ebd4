package actuator

import (
	"context"
	"math/rand/v2"
	"time"
)

// pacer limits the rate of hang-ups, with a jitter of half an interval, so that the
// connections of a pool do not reconnect in step. The zero value does not limit.
type pacer struct {
	interval time.Duration
	next     time.Time
}

// interval returns the mean interval at a rate per second, at most an hour; 0 for rate 0.
func interval(rate float64) time.Duration {
	if rate <= 0 {
		return 0
	}
	return time.Duration(min(float64(time.Second)/rate, float64(time.Hour)))
}

// delay returns the time until the next hang-up. It is 0 below the timer resolution: the
// schedule makes up for it.
func (p *pacer) delay() time.Duration {
	if d := time.Until(p.next); d >= time.Millisecond {
		return d
	}
	return 0
}

// used schedules the next hang-up after this one.
func (p *pacer) used() {
	if p.interval > 0 {
		now := time.Now()
		if p.next.Before(now.Add(-p.interval)) {
			p.next = now
		}
		p.next = p.next.Add(p.interval/2 + rand.N(p.interval))
	}
}

// sleep returns after d, or when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
