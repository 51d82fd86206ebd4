package actuator

import (
	"context"
	"math/rand/v2"
	"time"

	"tcphup/sockdiag"
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

// isBusy reports whether a hang-up would interrupt an exchange: bytes are queued or
// unacknowledged, data was transferred within DrainQuiet, or a response is missing. A
// stalled flow is not busy.
func (x *action) isBusy(t *target, now *sockdiag.Flow) bool {
	if now.Stalled() {
		return false
	}
	unread := now.ReceiveQueue
	if now.State == sockdiag.CloseWait && unread > 0 && now.Protocol == sockdiag.TCP {
		unread-- // the peer's FIN
	}
	if now.SendQueue > 0 || unread > 0 || now.TCPInfo.Unacked > 0 {
		return true
	}
	if idle, known := now.Idle(); known && idle < x.DrainQuiet {
		return true
	}
	sent, received := now.TCPInfo.LastDataSent, now.TCPInfo.LastDataReceived
	if now.HasMPTCPInfo {
		sent, received = now.MPTCPInfo.LastDataSent, now.MPTCPInfo.LastDataReceived
	}
	if t.Direction == sockdiag.Inbound {
		return received < sent
	}
	return sent < received
}
