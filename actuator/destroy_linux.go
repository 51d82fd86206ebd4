package actuator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// destroyFlow hangs a flow up by SOCK_DESTROY. When shutdown was refused before, reason
// and detail have the cause, and are reported if destroying is refused too.
func (x *action) destroyFlow(ctx context.Context, t *target, now *sockdiag.Flow, reason hangup.Reason, detail string) {
	// A path is for destroySubflow alone, which checks whether another one remains.
	if now.Protocol == sockdiag.MPTCP || isLivePath(now) && t.connection == nil {
		const last = "destroying its subflows would leave the application connected to nothing"
		if reason == "" {
			x.refuse(t, hangup.ReasonLastSubflow, last)
		} else {
			x.refuse(t, reason, detail+"; "+last)
		}
		return
	}
	if reason != "" {
		t.Detail = "shutdown refused: " + detail
	}
	if now.Inode == 0 && isClosing(now.State) && !destroysOrphans() {
		x.refuse(t, hangup.ReasonPermission, "before Linux 6.11 SOCK_DESTROY would leave an orphan without a timer; the kernel ends it by net.ipv4.tcp_orphan_retries")
		return
	}
	t.Method = hangup.Destroy
	err := x.destroyOrProbe(ctx, now)
	switch {
	case err == nil && x.DryRun:
		t.end(hangup.Destroy, hangup.Planned)
	case err == nil:
		t.phase = phaseHungUp
	case errors.Is(err, os.ErrNotExist), errors.Is(err, errors.ErrUnsupported) && x.isGone(ctx, t):
		t.end(hangup.Destroy, hangup.Gone)
	case ctx.Err() != nil && !x.DryRun:
		// The kernel may have done it, or not: the last lookup shows which.
		t.unconfirmed, t.phase = true, phaseHungUp
	case errors.Is(err, os.ErrPermission), errors.Is(err, errors.ErrUnsupported):
		missing := howToDestroy
		if errors.Is(err, errors.ErrUnsupported) {
			missing = noDestroy
		}
		if reason == "" {
			reason = hangup.ReasonPermission
		}
		x.refuse(t, reason, strings.TrimPrefix(detail+"; destroy refused: "+missing, "; "))
	default:
		x.fail(ctx, t, hangup.Destroy, err)
	}
}

// isGone reports whether the flow has ended. A kernel may say that it cannot destroy
// one that has just become TIME_WAIT.
func (x *action) isGone(ctx context.Context, t *target) bool {
	state, err := x.stateOf(ctx, &t.Flow)
	return err == nil && hasEnded(state)
}

// destroyOrProbe destroys the flow, or in a dry run a connection of our own.
func (x *action) destroyOrProbe(ctx context.Context, now *sockdiag.Flow) error {
	if !x.DryRun {
		return x.destroy(ctx, x.conn, now)
	}
	if x.destroyUsable == nil {
		err := x.probeDestroy(ctx)
		x.destroyUsable = &err
	}
	return *x.destroyUsable
}

// destroySubflow destroys one subflow of an MPTCP connection that keeps another.
func (x *action) destroySubflow(ctx context.Context, t *target, now *sockdiag.Flow) {
	x.paths.Lock()
	defer x.paths.Unlock()
	// Paths that have joined since are not counted: at worst too few are.
	others := 0
	for i := range t.siblings {
		if t.siblings[i].Cookie == t.Flow.Cookie {
			continue
		}
		state, err := x.stateOf(ctx, &t.siblings[i])
		if err != nil {
			x.fail(ctx, t, hangup.None, err)
			return
		}
		if state == sockdiag.Established {
			others++
		}
	}
	if others == 0 {
		x.refuse(t, hangup.ReasonLastSubflow, "no other established path of the connection remains")
		return
	}
	t.Detail = fmt.Sprintf("the connection keeps %d established path(s)", others)
	x.destroyFlow(ctx, t, now, "", "")
}
