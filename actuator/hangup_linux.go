package actuator

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// hangUpAll hangs up the targets one by one, at the request's rate, and returns the
// targets to verify. It retries deferred targets in rounds: busy ones until the drain
// deadline, the others after another search for their owners.
func (x *action) hangUpAll(ctx context.Context, targets []*target) []*target {
	var hungUp []*target
	pace := pacer{interval: interval(x.Rate)}
	verified, verifying, drained := time.Now(), time.Duration(0), time.Now()
	if !x.DryRun {
		drained = drained.Add(x.DrainDeadline)
	}
	var paced time.Time
	if pace.interval > 0 && !x.DryRun {
		paced = time.Now().Add(time.Duration(len(targets)-1) * pace.interval)
	}
	x.begin(hangup.HangingUp, len(targets), paced)
	tried := 0
	for len(targets) > 0 {
		for _, t := range targets {
			x.pause(ctx, pace.delay(), hungUp)
			x.tryTarget(ctx, t, drained)
			x.reportDone(t)
			if t.phase != phaseBusy && t.phase != phaseOwnerLost {
				tried++
				x.proceed(tried)
			}
			if t.phase == phaseHungUp {
				pace.used()
				hungUp = append(hungUp, t)
			}
			// Lookups of many lingering flows take a tenth of the time at most.
			if begun := time.Now(); begun.Sub(verified) >= max(verifyInterval, 10*verifying) {
				x.awaitEnds(ctx, hungUp, 0)
				verified = time.Now()
				verifying = verified.Sub(begun)
			}
		}
		busy, lost := inPhase(targets, phaseBusy), inPhase(targets, phaseOwnerLost)
		if len(lost) < len(targets) {
			x.lostRounds = 0
		} else {
			x.lostRounds++
		}
		targets = slices.Concat(x.searchOwners(ctx, lost), busy)
		if len(busy) > 0 {
			x.progress.Activity, x.progress.Until = hangup.Draining, drained
			x.proceed(tried)
			sleep(ctx, min(max(cmp.Or(x.DrainQuiet/8, messagePause/8), time.Millisecond), 50*time.Millisecond))
		}
	}
	return hungUp
}

// tryTarget hangs up, rejects or defers a target. Busy flows are deferred until drained,
// and messages are awaited.
func (x *action) tryTarget(ctx context.Context, t *target, drained time.Time) {
	t.phase = phasePlanned
	now, ok := x.recheck(ctx, t)
	if !ok {
		return
	}
	t.actedAt = time.Now()
	draining := t.actedAt.Before(drained)
	if x.mustWait(t, &now, draining) {
		t.phase = phaseBusy
		return
	}
	x.hangUpOne(ctx, t, &now, draining)
	if t.phase == phaseHungUp {
		t.note = t.Detail
	}
}

// recheck looks up the flow again and returns its current values, and whether it may
// be hung up. It rejects a listener, a flow that matches the never list by a subflow
// that joined late, a flow whose address another service has got since, and a flow without
// the evidence.
func (x *action) recheck(ctx context.Context, t *target) (sockdiag.Flow, bool) {
	now, err := x.lookup(ctx, t.in.conn, &t.Flow)
	switch {
	case ctx.Err() != nil:
		t.notProcessed()
		return now, false
	case errors.Is(err, os.ErrNotExist), err == nil && hasEnded(now.State):
		t.end(hangup.None, hangup.Gone)
		return now, false
	case err != nil:
		t.fail(hangup.None, err)
		return now, false
	case now.State == sockdiag.Listen:
		t.refuse(hangup.ReasonListener, "socket is a listener")
		return now, false
	case t.hidden:
		t.refuse(hangup.ReasonPermission, "MPTCP connection of the subflow is unknown: "+sockdiag.ErrNoMPTCPDiag.Error())
		return now, false
	}
	if now.Protocol == sockdiag.MPTCP {
		subflows, err := t.in.refreshSubflows(ctx, &now, t.Subflows)
		if err != nil {
			t.failUnlessDone(ctx, hangup.None, err)
			return now, false
		}
		t.Subflows = subflows
		switch {
		case x.denied(t):
			t.refuse(hangup.ReasonDenied, onNeverList)
			return now, false
		case excludes(&x.Selector, &now, subflows):
			t.refuse(hangup.ReasonDenied, "a new subflow leads to an excluded address")
			return now, false
		}
	}
	if reports(x.Shared, t) {
		t.refuse(hangup.ReasonShared, otherService)
		return now, false
	}
	if lost := x.lostEvidence(t, &now); lost != "" {
		t.refuse(hangup.ReasonEvidence, lost)
		return now, false
	}
	return now, true
}

// lostEvidence explains why the flow no longer meets the selector's evidence, or has no
// selected state any more. It returns "" for a flow that still does.
func (x *action) lostEvidence(t *target, now *sockdiag.Flow) string {
	matches := x.Selector.MatchEvidence(now)
	if now.Protocol == sockdiag.MPTCP {
		matches = connectionMatches(&x.Selector, now, t.Subflows)
	}
	switch {
	case !x.Selector.StateSet().Has(now.State):
		return "flow became " + now.State.String() + " after it was selected"
	case !matches:
		return "flow became active after it was selected"
	default:
		return ""
	}
}

func hasEnded(s sockdiag.State) bool { return s == sockdiag.TimeWait || s == sockdiag.Close }

// hangUpOne selects the method and hangs up a flow; a dry run only selects it. While
// draining, it defers a busy flow. For a flow of a pod it compares the holders first, whatever
// the method, and each method compares them again directly before the hang-up.
func (x *action) hangUpOne(ctx context.Context, t *target, now *sockdiag.Flow, draining bool) {
	if now.Inode != 0 && now.Inode != t.Flow.Inode {
		// A process accepted the connection after it was selected.
		t.Flow.Inode = now.Inode
		t.phase = phaseOwnerLost
		return
	}
	switch {
	case t.ownersAt.IsZero():
		t.phase = phaseOwnerLost
	case slices.ContainsFunc(t.holders, func(h holder) bool { return h.pid == os.Getpid() }):
		t.refuse(hangup.ReasonSelf, "socket belongs to tcphup")
	case t.pod() != nil && !x.ownersMatch(ctx, t, now):
	case t.connection != nil:
		x.destroySubflow(ctx, t, now)
	case now.Inode == 0 && !isClosing(now.State):
		const unaccepted = "connection is not accepted yet"
		if x.Method == hangup.Shutdown {
			t.refuse(hangup.ReasonPermission, unaccepted)
			return
		}
		t.Detail = unaccepted
		x.destroyFlow(ctx, t, now, "", "")
	case (now.Inode == 0 || now.ShutDown) && x.Method != hangup.Destroy:
		if x.ownersMatch(ctx, t, now) {
			x.awaitOrphan(t)
		}
	case x.Method == hangup.Destroy:
		if x.DryRun {
			t.Detail = "requested method is destroy"
		}
		x.destroyFlow(ctx, t, now, "", "")
	default:
		x.shutDown(ctx, t, now, draining)
	}
}

// awaitOrphan only verifies a flow that its application closed or an earlier action
// shut down. Its FIN is queued, and Linger applies as to other flows.
func (x *action) awaitOrphan(t *target) {
	t.orphaned = true
	t.Detail = "already closed on this side"
	if x.DryRun {
		t.end(hangup.None, hangup.Planned)
		return
	}
	t.Method, t.phase = hangup.None, phaseHungUp
}

// searchOwners scans /proc once for the current owners of the flows and returns the
// flows to retry: all, or none after an error.
func (x *action) searchOwners(ctx context.Context, lost []*target) []*target {
	if len(lost) == 0 {
		return nil
	}
	if _, err := x.findOwners(ctx, lost); err != nil {
		for _, t := range lost {
			t.failUnlessDone(ctx, hangup.None, err)
		}
		return nil
	}
	return lost
}
