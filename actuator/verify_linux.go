package actuator

import (
	"context"
	"errors"
	"os"
	"time"

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
	if x.Method == Shutdown {
		return
	}
	var finished []*target
	for _, t := range targets {
		if t.Outcome == Lingering && x.finish(ctx, t) {
			finished = append(finished, t)
		}
	}
	x.await(ctx, finished, time.Second)
}

// await polls until each target has ended, for at most the given time, and notes
// what it saw last.
func (x *action) await(ctx context.Context, targets []*target, limit time.Duration) {
	deadline := time.Now().Add(limit)
	for pause := 500 * time.Microsecond; ; pause = min(2*pause, 50*time.Millisecond) {
		var open []*target
		for _, t := range targets {
			outcome, err := x.see(ctx, t)
			if ctx.Err() != nil {
				// What the last look showed stands, if there was one.
				if t.Outcome == "" {
					t.Outcome, t.Detail = Lingering, "the action ended before its end was seen"
				}
				continue
			}
			t.Outcome, t.Err, t.Took = outcome, err, time.Since(t.acted)
			if outcome == HalfClosed || outcome == Lingering {
				open = append(open, t)
			}
		}
		if len(open) == 0 || ctx.Err() != nil || !time.Now().Before(deadline) {
			return
		}
		targets = open
		sleep(ctx, min(pause, time.Until(deadline)))
	}
}

// see returns what is left of a flow that was acted on.
func (x *action) see(ctx context.Context, t *target) (Outcome, error) {
	done := Closed
	if t.orphaned && t.Method == None {
		done = Gone
	}
	state, err := x.stateOf(ctx, &t.Flow)
	if err != nil {
		return Failed, err
	}
	if t.Flow.Protocol == sockdiag.MPTCP && (ended(state) || state == sockdiag.FinWait1) {
		// An MPTCP connection is over when its paths are; without one it has nothing
		// to send a FIN on and ends when the application closes it.
		for i := range t.Subflows {
			path, err := x.stateOf(ctx, &t.Subflows[i])
			switch {
			case err != nil:
				return Failed, err
			case !ended(path) && path != sockdiag.FinWait2:
				return Lingering, nil
			}
		}
		if !ended(state) {
			return HalfClosed, nil
		}
	}
	switch {
	case ended(state):
		return done, nil
	case state == sockdiag.FinWait2:
		return HalfClosed, nil
	default:
		return Lingering, nil
	}
}

// stateOf returns the present state of a flow; Close stands for one that is gone.
func (x *action) stateOf(ctx context.Context, f *sockdiag.Flow) (sockdiag.State, error) {
	now, err := x.conn.Lookup(ctx, f)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return sockdiag.Close, nil
	case err != nil:
		return 0, err
	}
	return now.State, nil
}

// finish destroys a flow whose peer does not answer, after the application has
// had its end of file. The paths of an MPTCP connection may all be taken then. It
// reports whether there is something to verify.
func (x *action) finish(ctx context.Context, t *target) bool {
	flows := []sockdiag.Flow{t.Flow}
	if t.Flow.Protocol == sockdiag.MPTCP {
		flows = t.Subflows
	}
	for i := range flows {
		err := x.destroy(ctx, x.conn, &flows[i])
		switch {
		case err == nil, errors.Is(err, os.ErrNotExist):
		case errors.Is(err, os.ErrPermission):
			t.Detail = "the peer does not answer; to finish it, " + howToDestroy + "; else the kernel does: " + x.kernelGivesUp(t)
			return false
		case errors.Is(err, errors.ErrUnsupported):
			t.Detail = "the peer does not answer; " + noDestroy + ", so the kernel finishes it: " + x.kernelGivesUp(t)
			return false
		default:
			t.Outcome, t.Err = Failed, err
			return false
		}
	}
	if t.orphaned {
		t.Method = Destroy
	}
	t.Detail = "the peer did not answer the FIN within " + x.Linger.String() + ": finished with destroy"
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
