package actuator

import (
	"context"
	"math/rand/v2"
	"time"

	"tcphup/sockdiag"
)

// pacer spreads actions over time: on average one an interval, each somewhere
// between half and one and a half of it, so that a pool does not reconnect in
// step. The zero pacer never waits.
type pacer struct {
	interval time.Duration
	next     time.Time
}

// interval returns the mean pause at a rate a second; a rate of 0 has none.
func interval(rate float64) time.Duration {
	if rate <= 0 {
		return 0
	}
	return time.Duration(min(float64(time.Second)/rate, float64(time.Hour)))
}

// delay is how long to wait before the next action. Waits too short for a timer are
// left out; the schedule catches up.
func (p *pacer) delay() time.Duration {
	if d := time.Until(p.next); d >= time.Millisecond {
		return d
	}
	return 0
}

// used says that an action has been taken.
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

// isBusy reports whether hanging the flow up now would cut an exchange: bytes
// are queued or unacknowledged, data went less than DrainQuiet ago, or the side
// that asks has asked last, so that the answer is still owed. A flow whose peer
// is not answering has nothing to wait for.
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
