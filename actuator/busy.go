package actuator

import (
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// mustWait reports whether the hang-up of a flow has to wait: while draining for a busy
// flow, and at most ReceiveWait for the end of a message.
func (x *action) mustWait(t *target, now *sockdiag.Flow, draining bool) bool {
	if draining && x.isBusy(t, now) {
		return true
	}
	if x.DryRun || x.Method == hangup.Destroy || t.connection != nil {
		return false
	}
	if t.interrupts = t.message(now); t.interrupts == "" {
		return false
	}
	if t.waitUntil.IsZero() {
		t.waitUntil = time.Now().Add(x.ReceiveWait)
	}
	return time.Now().Before(t.waitUntil)
}

// messagePause is the time without data after which a message counts as complete.
const messagePause = 250 * time.Millisecond

// message describes the message that a FIN would truncate, or returns "": data that the
// application receives, or sends on an inbound flow. A peer that has sent its FIN sends no
// more data, and a stalled flow does not proceed.
func (t *target) message(now *sockdiag.Flow) string {
	e := t.exchange(now)
	switch {
	case now.State != sockdiag.Established || now.Stalled():
		return ""
	case t.Direction == sockdiag.Inbound:
		if now.SendQueue > 0 || e.known && e.hasSent && e.sent < messagePause {
			return "data was being sent"
		}
		return ""
	case e.known && e.hasReceived && e.received < messagePause:
		return "data was arriving"
	case now.ReceiveQueue > 0:
		return "received data was unread"
	default:
		return ""
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
	e := t.exchange(now)
	return e.known && (min(e.sent, e.received) < x.DrainQuiet || e.owesResponse(t.Direction, x.DrainAnswer))
}

// exchange has the times since data was last sent and received and since the last
// acknowledgement arrived.
type exchange struct {
	known                 bool
	sent, received, acked time.Duration
	// hasSent and hasReceived are false before the first byte, where the kernel counts
	// bytes: the time is then that of the handshake.
	hasSent, hasReceived bool
}

// exchange returns the times of a flow. Before Linux 6.10, those of an MPTCP connection are
// the shortest of its subflows.
func (t *target) exchange(now *sockdiag.Flow) exchange {
	flows := []sockdiag.Flow{*now}
	if now.Protocol == sockdiag.MPTCP && !now.MPTCPInfo.HasTimes {
		flows = t.Subflows
	}
	var e exchange
	for i := range flows {
		sent, received, acked, known := flows[i].LastTimes()
		if !known {
			continue
		}
		if !e.known {
			e.sent, e.received, e.acked = sent, received, acked
		}
		e.known, e.sent, e.received, e.acked = true, min(e.sent, sent), min(e.received, received), min(e.acked, acked)
		info := &flows[i].TCPInfo
		e.hasSent = e.hasSent || !info.HasBytes || info.BytesSent > 0
		e.hasReceived = e.hasReceived || !info.HasBytes || info.BytesReceived > 0
	}
	return e
}

// Bounds of the delay after which a peer acknowledges data that it does not respond to
// (TCP_DELACK_MIN and TCP_DELACK_MAX of Linux, with a margin for jiffies).
const minDelayedACK, maxDelayedACK = 30 * time.Millisecond, 250 * time.Millisecond

// owesResponse reports whether a response is missing: to the last data sent, on an inbound
// flow to the last data received. The kernel counts in jiffies, so a request that directly
// follows a response, or the handshake, has the same time. It is unanswered if there was
// never a response, or if a delayed acknowledgement came for it; otherwise the times do not
// show it, and a response may be missing until answer has passed.
func (e exchange) owesResponse(d sockdiag.Direction, answer time.Duration) bool {
	request, response, requested, responded := e.sent, e.received, e.hasSent, e.hasReceived
	if d == sockdiag.Inbound {
		request, response, requested, responded = response, request, responded, requested
	}
	delay := e.sent - e.acked
	switch {
	case !requested:
		return false
	case request != response:
		return request < response
	case !responded, d == sockdiag.Outbound && minDelayedACK <= delay && delay <= maxDelayedACK:
		return true
	default:
		return request < answer
	}
}
