package actuator

import (
	"context"
	"errors"
	"os"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// lastLook is how long an action whose time is over may look what it has done.
const lastLook = 250 * time.Millisecond

// verify looks the flows up again until each has ended or Linger is over. What
// lingers then is finished with destroy, unless shutdown alone was asked for.
//
// When ctx has ended there is one look all the same, which takes microseconds for a
// flow: most flows of an action that was paused or ran out of time ended long ago.
func (x *action) verify(ctx context.Context, targets []*target) {
	if ctx.Err() == nil {
		x.await(ctx, targets, x.Linger)
	}
	if ctx.Err() != nil {
		look, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastLook)
		defer cancel()
		x.await(look, targets, 0)
		return
	}
	if x.Method == hangup.Shutdown {
		return
	}
	var finished []*target
	for _, t := range targets {
		if t.Outcome == hangup.Lingering && x.finish(ctx, t) {
			finished = append(finished, t)
		}
	}
	x.await(ctx, finished, time.Second)
	for _, t := range finished {
		if t.Outcome != hangup.Lingering {
			t.Detail = "the peer did not answer the FIN within " + x.Linger.String() + ": finished with destroy"
		}
	}
}

// passTime waits for the next action, and meanwhile sees those end that were taken
// before.
func (x *action) passTime(ctx context.Context, d time.Duration, acted []*target) {
	if d <= 0 {
		return
	}
	until := time.Now().Add(d)
	x.await(ctx, acted, d)
	sleep(ctx, time.Until(until))
}

// await polls until each target has ended, for at most the given time from the first
// look, and notes what it saw last.
func (x *action) await(ctx context.Context, targets []*target, limit time.Duration) {
	var deadline time.Time
	for pause := 500 * time.Microsecond; ; pause = min(2*pause, 50*time.Millisecond) {
		var open []*target
		for _, t := range targets {
			if !t.isOpen() {
				continue
			}
			outcome, err := x.see(ctx, t)
			if ctx.Err() != nil {
				// What the last look showed stands, if there was one.
				if t.Outcome == "" {
					t.Outcome, t.Detail = hangup.Lingering, "the action ended before its end was seen"
				}
				continue
			}
			t.Outcome, t.Err, t.Took = outcome, err, time.Since(t.acted)
			if t.isOpen() {
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

// isOpen reports whether the target has been acted on and not been seen to end.
func (t *target) isOpen() bool {
	return t.Outcome == "" || t.Outcome == hangup.HalfClosed || t.Outcome == hangup.Lingering
}

// see returns what is left of a flow that was acted on.
func (x *action) see(ctx context.Context, t *target) (hangup.Outcome, error) {
	now, err := x.look(ctx, &t.Flow)
	if err != nil {
		return hangup.Failed, err
	}
	// What was on its way at the start arrives whether or not the peer reads. The first
	// look may come late: other flows were to be acted on, or there was no CPU.
	if t.looked.IsZero() {
		t.looked = time.Now()
	}
	if time.Since(t.looked) <= x.Linger/4 {
		t.queuedFirst = now.SendQueue
	}
	t.queuedLast = now.SendQueue
	if isNewLife(t, &now) {
		now.State = sockdiag.Close // what was chosen is over
	}
	if t.Flow.Protocol == sockdiag.MPTCP && (hasEnded(now.State) || now.State == sockdiag.FinWait1) {
		// An MPTCP connection is over when its paths are; without one it has nothing
		// to send a FIN on and ends when the application closes it.
		for i := range t.Subflows {
			path, err := x.stateOf(ctx, &t.Subflows[i])
			switch {
			case err != nil:
				return hangup.Failed, err
			case !hasEnded(path) && path != sockdiag.FinWait2:
				return hangup.Lingering, nil
			}
		}
		if !hasEnded(now.State) {
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

// isNewLife reports whether a socket that was acted on is not on its way out: its
// application has used it again, for a listener or another connection, which are not
// what was chosen. It keeps its cookie then (connect(2), AF_UNSPEC).
func isNewLife(t *target, now *sockdiag.Flow) bool {
	return t.Flow.Protocol == sockdiag.TCP && !t.unconfirmed &&
		!hasEnded(now.State) && !isClosing(now.State) && now.State != sockdiag.SynRecv
}

// look returns a flow as it is now; one that is gone is in state Close.
func (x *action) look(ctx context.Context, f *sockdiag.Flow) (sockdiag.Flow, error) {
	now, err := x.conn.Lookup(ctx, f)
	if errors.Is(err, os.ErrNotExist) {
		return sockdiag.Flow{State: sockdiag.Close}, nil
	}
	return now, err
}

// stateOf is look for callers who need no more than the state.
func (x *action) stateOf(ctx context.Context, f *sockdiag.Flow) (sockdiag.State, error) {
	now, err := x.look(ctx, f)
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
			t.Outcome, t.Err = hangup.Failed, err
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
		now, err := x.look(ctx, &flows[i])
		if err == nil && isNewLife(t, &now) {
			t.Outcome, t.Err = x.see(ctx, t)
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
			t.Outcome, t.Err = hangup.Failed, err
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
