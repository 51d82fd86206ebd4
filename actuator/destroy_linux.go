package actuator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// destroyFlow hangs up a flow by SOCK_DESTROY. If shutdown was refused before, reason and
// detail are its cause; a refused destroy reports both. The kernel needs
// CONFIG_INET_DIAG_DESTROY, and the process CAP_NET_ADMIN.
func (x *action) destroyFlow(ctx context.Context, t *target, now *sockdiag.Flow, reason hangup.Reason, detail string) {
	// Only destroySubflow may destroy a subflow: it checks that another one remains.
	if now.Protocol == sockdiag.MPTCP || isActiveSubflow(now) && t.connection == nil {
		const last = "destroying all subflows would not notify the application"
		if reason == "" {
			t.refuse(hangup.ReasonLastSubflow, last)
		} else {
			t.refuse(reason, detail+"; "+last)
		}
		return
	}
	if reason != "" {
		t.Detail = "shutdown refused: " + detail
	}
	if now.Inode == 0 && isClosing(now.State) && !destroysOrphans() {
		t.refuse(hangup.ReasonPermission, "before Linux 6.11 SOCK_DESTROY stops the timers of an orphan; the kernel closes it after net.ipv4.tcp_orphan_retries")
		return
	}
	if !x.ownersMatch(ctx, t, now) {
		return
	}
	t.Method = hangup.Destroy
	err := x.destroyOrProbe(ctx, t, now)
	switch {
	case err == nil && x.DryRun:
		t.end(hangup.Destroy, hangup.Planned)
	case err == nil:
		t.phase = phaseHungUp
	case errors.Is(err, os.ErrNotExist), errors.Is(err, errors.ErrUnsupported) && x.isGone(ctx, t):
		t.end(hangup.Destroy, hangup.Gone)
	case ctx.Err() != nil && !x.DryRun:
		// The request was sent but not acknowledged: the last lookup returns the result.
		t.unconfirmed, t.phase = true, phaseHungUp
	case errors.Is(err, os.ErrPermission), errors.Is(err, errors.ErrUnsupported):
		missing := howToDestroy
		if errors.Is(err, errors.ErrUnsupported) {
			missing = noDestroy
		}
		t.refuse(cmp.Or(reason, hangup.ReasonPermission), strings.TrimPrefix(detail+"; destroy refused: "+missing, "; "))
	default:
		t.failUnlessDone(ctx, hangup.Destroy, err)
	}
}

// isGone reports whether the flow has ended. The kernel may return EOPNOTSUPP for a flow
// that has just become TIME_WAIT.
func (x *action) isGone(ctx context.Context, t *target) bool {
	state, err := t.in.stateOf(ctx, &t.Flow)
	return err == nil && hasEnded(state)
}

// destroyOrProbe destroys the flow; a dry run destroys a loopback connection of tcphup
// instead, once per action and namespace.
func (x *action) destroyOrProbe(ctx context.Context, t *target, now *sockdiag.Flow) error {
	if !x.DryRun {
		return x.destroyCompared(ctx, t, now)
	}
	if t.in.destroyUsable == nil {
		err := x.probeDestroy(ctx, t.in.Namespace)
		t.in.destroyUsable = &err
	}
	return *t.in.destroyUsable
}

// destroyCompared destroys the flow. The kernel finds its socket before it locks it: if the
// application disconnects the socket in between, its next connection is destroyed. Where a
// holder is accessible, a duplicate of the socket shows that, and destroyCompared returns an
// error.
func (x *action) destroyCompared(ctx context.Context, t *target, now *sockdiag.Flow) error {
	for _, h := range t.holders {
		fd, err := duplicate(h, now)
		if err != nil {
			continue
		}
		socket := &acquired{fd: fd}
		defer socket.release()
		before, err := x.readAddresses(socket, t)
		if err != nil {
			return err
		}
		if err := x.destroy(ctx, t.in.conn, now); err != nil {
			return err
		}
		after, err := x.readAddresses(socket, t)
		if err == nil && before.differ(after) {
			err = x.disconnected(t, after)
		}
		return err
	}
	return x.destroy(ctx, t.in.conn, now)
}

// readAddresses is readAddresses within acquired.call.
func (x *action) readAddresses(socket *acquired, t *target) (socketAddresses, error) {
	var read socketAddresses
	if err := socket.call(x.blocked, t.in, func(fd int) { read = readAddresses(fd) }); err != nil {
		return socketAddresses{}, err
	}
	return read, nil
}

// disconnected logs and returns the error for a socket that its application disconnected
// after the last lookup.
func (x *action) disconnected(t *target, now socketAddresses) error {
	x.logger.Error("another connection of the socket may be closed", "cookie", t.Flow.Cookie, "destination", t.Flow.Remote, "local", now.local, "remote", now.remote)
	return fmt.Errorf("application disconnected the socket after the last lookup: its next connection may be closed (socket is now %s)", now)
}

// destroySubflow destroys a subflow if another subflow of its connection is established.
func (x *action) destroySubflow(ctx context.Context, t *target, now *sockdiag.Flow) {
	x.subflowMu.Lock()
	defer x.subflowMu.Unlock()
	// Subflows that joined after the dump are not counted, which errs on the safe side.
	others := 0
	for i := range t.siblings {
		if t.siblings[i].Cookie == t.Flow.Cookie {
			continue
		}
		state, err := t.in.stateOf(ctx, &t.siblings[i])
		if err != nil {
			t.failUnlessDone(ctx, hangup.None, err)
			return
		}
		if state == sockdiag.Established {
			others++
		}
	}
	if others == 0 {
		t.refuse(hangup.ReasonLastSubflow, "connection has no other established subflow")
		return
	}
	t.Detail = fmt.Sprintf("other established subflows: %d", others)
	x.destroyFlow(ctx, t, now, "", "")
}

// destroysOrphans reports whether SOCK_DESTROY closes a socket that no process holds.
// Before Linux 6.11 it purges the queue and stops the timers: the socket remains in
// FIN_WAIT1. The fix is commit "tcp: fix forever orphan socket caused by tcp_abort".
func destroysOrphans() bool { return kernelAtLeast6(11) }
