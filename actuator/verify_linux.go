package actuator

import (
	"cmp"
	"context"
	"errors"
	"os"
	"time"

	"tcphup/hangup"
	"tcphup/internal/text"
	"tcphup/sockdiag"
)

// verifyInterval is the shortest interval of the lookups while other flows are hung up. Flows
// that have ended are reported.
const verifyInterval = 100 * time.Millisecond

// lastLookup bounds the lookups after the end of ctx.
const lastLookup = 250 * time.Millisecond

// verify polls the flows until each has ended, for at most Linger. It then destroys
// lingering flows unless the method is shutdown. When ctx has ended, it looks up each
// flow once more: most have ended by then.
func (x *action) verify(ctx context.Context, targets []*target) {
	if ctx.Err() == nil {
		x.begin(hangup.AwaitingPeers, len(targets), time.Now().Add(x.Linger))
		x.awaitEnds(ctx, targets, x.Linger)
	}
	switch {
	case ctx.Err() != nil:
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastLookup)
		defer cancel()
		x.awaitEnds(last, targets, 0)
	case x.Method != hangup.Shutdown:
		x.destroyLingering(ctx, targets)
	}
	for _, t := range targets {
		if t.phase == phaseHungUp {
			t.Outcome, t.Detail = hangup.Lingering, "action ended before the flow was closed"
		}
		t.phase = phaseDone
	}
}

// destroyLingering destroys the lingering flows and verifies that they end.
func (x *action) destroyLingering(ctx context.Context, targets []*target) {
	var destroyed []*target
	for _, t := range targets {
		if t.Outcome == hangup.Lingering && x.destroyUnresponsive(ctx, t) {
			t.finished = "peer did not acknowledge the FIN within " + x.Linger.String() + ": finished with destroy"
			destroyed = append(destroyed, t)
		}
	}
	x.awaitEnds(ctx, destroyed, time.Second)
}

// pause waits for d and verifies the flows that were hung up before in the meantime.
func (x *action) pause(ctx context.Context, d time.Duration, hungUp []*target) {
	if d <= 0 {
		return
	}
	until := time.Now().Add(d)
	x.awaitEnds(ctx, hungUp, d)
	sleep(ctx, time.Until(until))
}

// awaitEnds polls the targets, at increasing intervals, until each has ended, for at
// most limit after the first round. An aborted lookup keeps the previous outcome.
func (x *action) awaitEnds(ctx context.Context, targets []*target, limit time.Duration) {
	var deadline time.Time
	for pause := 500 * time.Microsecond; ; pause = min(2*pause, 50*time.Millisecond) {
		var open []*target
		for _, t := range targets {
			if t.phase == phaseDone {
				continue
			}
			outcome, err := x.currentOutcome(ctx, t)
			if ctx.Err() != nil {
				continue
			}
			t.setOutcome(outcome, err)
			x.reportDone(t)
			if t.phase != phaseDone {
				open = append(open, t)
			}
		}
		if x.progress.Activity == hangup.AwaitingPeers {
			x.proceed(x.progress.Total - len(open))
		}
		if deadline.IsZero() {
			deadline = time.Now().Add(limit)
		}
		if len(open) == 0 || ctx.Err() != nil || !time.Now().Before(deadline) {
			return
		}
		targets = open
		sleep(ctx, min(pause, time.Until(deadline)))
	}
}

// setOutcome sets the outcome of a flow that was hung up. HalfClosed and Lingering are
// not final.
func (t *target) setOutcome(outcome hangup.Outcome, err error) {
	t.Outcome, t.Err, t.Took = outcome, err, time.Since(t.actedAt)
	t.phase = phaseDone
	if outcome == hangup.HalfClosed || outcome == hangup.Lingering {
		t.phase = phaseVerifying
	}
	if outcome == hangup.HalfClosed {
		t.acknowledged = cmp.Or(t.acknowledged, t.Took)
		t.Took = t.acknowledged
	}
	t.Detail = text.JoinNonEmpty("; ", t.observed(), t.note)
	if t.finished != "" && outcome != hangup.Lingering {
		t.Detail = t.finished
	}
}

// observed describes the effect of the hang-up at the last lookup. It has no times: reports
// group equal details, and Took is the time.
func (t *target) observed() string {
	switch {
	case t.Method == hangup.Destroy && t.Outcome == hangup.Closed:
		return "destroyed with an RST"
	case t.Method == hangup.None || t.Outcome == hangup.Failed:
		return ""
	case t.Outcome == hangup.HalfClosed:
		return "FIN acknowledged, the peer has not closed its side"
	case t.Outcome == hangup.Lingering:
		return "FIN not acknowledged"
	case t.state == sockdiag.TimeWait:
		return "FIN acknowledged, TIME_WAIT"
	default:
		return "connection ended"
	}
}

// currentOutcome looks up a flow that was hung up and returns the outcome of its state.
func (x *action) currentOutcome(ctx context.Context, t *target) (hangup.Outcome, error) {
	now, err := t.in.currentFlow(ctx, &t.Flow)
	if err != nil {
		return hangup.Failed, err
	}
	t.noteQueue(&now, x.Linger)
	t.state = now.State
	if isReused(t, &now) {
		now.State = sockdiag.Close // the selected flow has ended
	}
	if t.Flow.Protocol == sockdiag.MPTCP && (hasEnded(now.State) || now.State == sockdiag.FinWait1) {
		open, err := x.hasOpenSubflow(ctx, t)
		switch {
		case err != nil:
			return hangup.Failed, err
		case open:
			return hangup.Lingering, nil
		case !hasEnded(now.State):
			return hangup.HalfClosed, nil
		}
	}
	switch {
	case hasEnded(now.State) && t.orphaned && t.Method == hangup.None:
		return hangup.Gone, nil
	case hasEnded(now.State):
		return hangup.Closed, nil
	case now.State == sockdiag.FinWait2:
		return hangup.HalfClosed, nil
	default:
		return hangup.Lingering, nil
	}
}

// noteQueue records the send queue. Its comparison begins at a quarter of linger: data in
// flight is acknowledged whether or not the peer reads. The time counts from the first
// lookup, which other hang-ups or a lack of CPU may delay.
func (t *target) noteQueue(now *sockdiag.Flow, linger time.Duration) {
	if t.firstLookup.IsZero() {
		t.firstLookup = time.Now()
	}
	if time.Since(t.firstLookup) <= linger/4 {
		t.queuedFirst = now.SendQueue
	}
	t.queuedLast = now.SendQueue
}

// hasOpenSubflow reports whether a subflow of an MPTCP connection is open and its FIN
// unacknowledged. A connection without such a subflow cannot send a FIN, and ends when
// the application closes it.
func (x *action) hasOpenSubflow(ctx context.Context, t *target) (bool, error) {
	for i := range t.Subflows {
		state, err := t.in.stateOf(ctx, &t.Subflows[i])
		if err != nil {
			return false, err
		}
		if !hasEnded(state) && state != sockdiag.FinWait2 {
			return true, nil
		}
	}
	return false, nil
}

// isReused reports whether the application used the socket again after the hang-up, for a
// listener or another connection. The cookie remains the same (connect(2), AF_UNSPEC).
func isReused(t *target, now *sockdiag.Flow) bool {
	return t.Flow.Protocol == sockdiag.TCP && !t.unconfirmed &&
		!hasEnded(now.State) && !isClosing(now.State) && now.State != sockdiag.SynRecv
}

// destroyUnresponsive destroys a lingering flow whose peer does not respond; of an MPTCP
// connection, all current subflows. The application has read EOF by then. It reports
// whether the flow is to be verified.
func (x *action) destroyUnresponsive(ctx context.Context, t *target) bool {
	if t.queuedLast < t.queuedFirst {
		t.Detail = "peer is still reading queued data; the FIN follows"
		return false
	}
	if t.Method == hangup.Destroy {
		return false // already destroyed
	}
	flows := []sockdiag.Flow{t.Flow}
	if t.Flow.Protocol == sockdiag.MPTCP {
		subflows, err := t.in.subflows.of(ctx, &t.Flow, 0)
		if err != nil {
			t.setOutcome(hangup.Failed, err)
			return false
		}
		t.Subflows, flows = subflows, subflows
	}
	for i := range flows {
		if flows[i].Inode == 0 && !destroysOrphans() {
			t.Detail = "peer does not respond; before Linux 6.11 SOCK_DESTROY stops the timers of an orphan, so the kernel closes it after " + x.kernelTimeout(t)
			return false
		}
		// SOCK_DESTROY does not compare states: it would close a reused socket.
		now, err := t.in.currentFlow(ctx, &flows[i])
		if err == nil && isReused(t, &now) {
			t.setOutcome(x.currentOutcome(ctx, t))
			return false
		}
		if err == nil && !hasEnded(now.State) {
			err = x.destroyCompared(ctx, t, &flows[i])
		}
		switch {
		case err == nil, errors.Is(err, os.ErrNotExist):
		case errors.Is(err, os.ErrPermission):
			t.Detail = "peer does not respond; the kernel closes the flow after " + x.kernelTimeout(t) + "; to destroy it now, " + howToDestroy
			return false
		case errors.Is(err, errors.ErrUnsupported):
			t.Detail = "peer does not respond; " + noDestroy + ", so the kernel closes the flow after " + x.kernelTimeout(t)
			return false
		default:
			t.setOutcome(hangup.Failed, err)
			return false
		}
	}
	if t.orphaned {
		t.Method = hangup.Destroy
	}
	return true
}

// kernelTimeout describes the timeout after which the kernel closes a flow.
func (x *action) kernelTimeout(t *target) string {
	switch {
	case t.Flow.Protocol == sockdiag.MPTCP:
		return "net.mptcp.close_timeout, from the application's close"
	case t.orphaned:
		return "net.ipv4.tcp_orphan_retries"
	default:
		return "TCP_USER_TIMEOUT, " + x.Linger.String() + " from the FIN"
	}
}
