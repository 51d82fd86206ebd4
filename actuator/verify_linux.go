package actuator

import (
	"context"
	"errors"
	"os"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// lastLookup bounds the lookups of an action whose time is over.
const lastLookup = 250 * time.Millisecond

// verify looks the flows up again until each has ended or Linger is over. A flow that
// lingers then is destroyed, unless shutdown alone was asked for.
//
// When ctx has ended there is one lookup all the same, which takes microseconds for a
// flow: most flows of an action that was paused or ran out of time ended long ago.
func (x *action) verify(ctx context.Context, targets []*target) {
	if ctx.Err() == nil {
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
			t.Outcome, t.Detail = hangup.Lingering, "the action ended before its end was seen"
		}
		t.phase = phaseDone
	}
}

// destroyLingering destroys the flows that linger, and verifies that they end.
func (x *action) destroyLingering(ctx context.Context, targets []*target) {
	var destroyed []*target
	for _, t := range targets {
		if t.Outcome == hangup.Lingering && x.finish(ctx, t) {
			destroyed = append(destroyed, t)
		}
	}
	x.awaitEnds(ctx, destroyed, time.Second)
	for _, t := range destroyed {
		if t.Outcome != hangup.Lingering {
			t.Detail = "the peer did not answer the FIN within " + x.Linger.String() + ": finished with destroy"
		}
	}
}

// pause waits before the next flow is hung up, and meanwhile verifies those that were
// hung up before.
func (x *action) pause(ctx context.Context, d time.Duration, hungUp []*target) {
	if d <= 0 {
		return
	}
	until := time.Now().Add(d)
	x.awaitEnds(ctx, hungUp, d)
	sleep(ctx, time.Until(until))
}

// awaitEnds looks the targets up, ever less often, until each has ended, for at most
// the given time from the end of the first round of lookups. A lookup that the end of
// ctx cuts short changes nothing: the result of the one before stands.
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
			if t.phase != phaseDone {
				open = append(open, t)
			}
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

// setOutcome notes what a lookup has shown of a flow that was hung up. A flow that is
// half closed or lingers may still end.
func (t *target) setOutcome(outcome hangup.Outcome, err error) {
	t.Outcome, t.Err, t.Took = outcome, err, time.Since(t.actedAt)
	t.phase = phaseDone
	if outcome == hangup.HalfClosed || outcome == hangup.Lingering {
		t.phase = phaseVerifying
	}
}

// currentOutcome looks a flow up that was hung up, and returns its outcome if it stays
// as it is.
func (x *action) currentOutcome(ctx context.Context, t *target) (hangup.Outcome, error) {
	now, err := x.lookUp(ctx, &t.Flow)
	if err != nil {
		return hangup.Failed, err
	}
	t.noteQueue(&now, x.Linger)
	if isNewLife(t, &now) {
		now.State = sockdiag.Close // what was chosen is over
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

// noteQueue notes how much the peer has still to take. Data that was in flight at the
// start arrives whether or not the peer reads, so the comparison begins after a quarter
// of linger. The first lookup may come late: other flows were to be hung up, or there
// was no CPU.
func (t *target) noteQueue(now *sockdiag.Flow, linger time.Duration) {
	if t.firstLookup.IsZero() {
		t.firstLookup = time.Now()
	}
	if time.Since(t.firstLookup) <= linger/4 {
		t.queuedFirst = now.SendQueue
	}
	t.queuedLast = now.SendQueue
}

// hasOpenSubflow reports whether a subflow of an MPTCP connection has neither ended
// nor been shut down with the peer's acknowledgement. The connection is over when all
// have: without a subflow it has nothing to send a FIN on, and ends when the
// application closes it.
func (x *action) hasOpenSubflow(ctx context.Context, t *target) (bool, error) {
	for i := range t.Subflows {
		state, err := x.stateOf(ctx, &t.Subflows[i])
		if err != nil {
			return false, err
		}
		if !hasEnded(state) && state != sockdiag.FinWait2 {
			return true, nil
		}
	}
	return false, nil
}

// isNewLife reports whether a socket that was acted on is not on its way out: its
// application has used it again, for a listener or another connection, which are not
// what was chosen. It keeps its cookie then (connect(2), AF_UNSPEC).
func isNewLife(t *target, now *sockdiag.Flow) bool {
	return t.Flow.Protocol == sockdiag.TCP && !t.unconfirmed &&
		!hasEnded(now.State) && !isClosing(now.State) && now.State != sockdiag.SynRecv
}

// lookUp returns a flow as it is now; a flow that is gone is in state Close.
func (x *action) lookUp(ctx context.Context, f *sockdiag.Flow) (sockdiag.Flow, error) {
	now, err := x.conn.Lookup(ctx, f)
	if errors.Is(err, os.ErrNotExist) {
		return sockdiag.Flow{State: sockdiag.Close}, nil
	}
	return now, err
}

// stateOf returns the state of a flow as lookUp does.
func (x *action) stateOf(ctx context.Context, f *sockdiag.Flow) (sockdiag.State, error) {
	now, err := x.lookUp(ctx, f)
	return now.State, err
}

// finish destroys a flow whose peer does not answer, after the application has
// had its end of file. The paths of an MPTCP connection, those included that have
// joined meanwhile, may all be taken then. It reports whether there is something to
// verify.
func (x *action) finish(ctx context.Context, t *target) bool {
	if t.queuedLast < t.queuedFirst {
		t.Detail = "the peer is still taking what is queued, and gets the FIN behind it"
		return false
	}
	if t.Method == hangup.Destroy {
		return false // that has been tried
	}
	flows := []sockdiag.Flow{t.Flow}
	if t.Flow.Protocol == sockdiag.MPTCP {
		paths, err := readPaths(ctx, x.conn, &t.Flow)
		if err != nil {
			t.setOutcome(hangup.Failed, err)
			return false
		}
		t.Subflows, flows = paths, paths
	}
	for i := range flows {
		if flows[i].Inode == 0 && !destroysOrphans() {
			t.Detail = "the peer does not answer; before Linux 6.11 SOCK_DESTROY would leave an orphan without a timer, so the kernel finishes it: " + x.kernelGivesUp(t)
			return false
		}
		// The kernel does not compare states: it would destroy a new life as well.
		now, err := x.lookUp(ctx, &flows[i])
		if err == nil && isNewLife(t, &now) {
			t.setOutcome(x.currentOutcome(ctx, t))
			return false
		}
		if err == nil && !hasEnded(now.State) {
			err = x.destroy(ctx, x.conn, &flows[i])
		}
		switch {
		case err == nil, errors.Is(err, os.ErrNotExist):
		case errors.Is(err, os.ErrPermission):
			t.Detail = "the peer does not answer; to finish it, " + howToDestroy + "; else the kernel does: " + x.kernelGivesUp(t)
			return false
		case errors.Is(err, errors.ErrUnsupported):
			t.Detail = "the peer does not answer; " + noDestroy + ", so the kernel finishes it: " + x.kernelGivesUp(t)
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

// kernelGivesUp says when the kernel ends a flow whose peer is silent.
func (x *action) kernelGivesUp(t *target) string {
	switch {
	case t.Flow.Protocol == sockdiag.MPTCP:
		return "net.mptcp.close_timeout after the application has closed it"
	case t.orphaned:
		return "net.ipv4.tcp_orphan_retries"
	default:
		return "TCP_USER_TIMEOUT, " + x.Linger.String() + " from the FIN"
	}
}
