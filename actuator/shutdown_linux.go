package actuator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/internal/text"
	"tcphup/sockdiag"
)

// ownersFresh is how long the owners from a /proc scan are valid: a process that SIGPIPE
// kills may inherit the socket later. It doubles after each round without progress,
// because a lookup may take longer on a large host.
const ownersFresh = 250 * time.Millisecond

// shutDown hangs up a flow by shutdown(2), in this order:
//
//  1. search the owners again when the last search is stale, and once when a
//     descriptor no longer refers to the flow;
//  2. check every holder's SIGPIPE disposition, duplicate the socket and verify the
//     identity of the duplicate;
//  3. look the flow up again and shut it down (shutDownAcquired).
//
// With method auto, a flow that cannot be shut down safely is destroyed.
func (x *action) shutDown(ctx context.Context, t *target, now *sockdiag.Flow, draining bool) {
	if !x.canShutDown(ctx, t) {
		return
	}
	if !x.ownersAreFresh(t) {
		t.phase = phaseOwnerLost
		return
	}
	fd, reason, err := x.acquire(t)
	switch {
	case err == nil:
		duplicate := &acquired{fd: fd}
		defer duplicate.release()
		t.phase = phaseAcquired
		x.shutDownAcquired(ctx, t, now, duplicate, draining)
	case reason == hangup.ReasonIdentity && !t.searchedAgain:
		// The owner exited or moved its descriptors after the scan; another process or
		// descriptor may still refer to the flow.
		t.searchedAgain = true
		t.phase = phaseOwnerLost
	case reason == "":
		t.Detail = ""
		t.failUnlessDone(ctx, hangup.None, err)
	case x.Method == hangup.Auto && (reason == hangup.ReasonSIGPIPE || reason == hangup.ReasonPermission) && !errors.Is(err, errPrefork):
		x.destroyFlow(ctx, t, now, reason, err.Error())
	default:
		t.refuse(reason, err.Error())
	}
}

// shutSocket is what the duplicate of a socket showed around shutdown(2).
type shutSocket struct {
	unread        uint32
	before, after socketAddresses
	reused        bool  // between the last lookup and shutdown(2)
	err           error // of the last system call
}

// shutDownAcquired shuts down the duplicate of a flow's socket. Since the last lookup the
// application may have connected the socket elsewhere, or begun a request. A lookup by
// addresses and cookie therefore comes directly before shutdown(2). getpeername(2) is no
// evidence of identity, because BPF programs rewrite its result.
//
// A socket whose addresses have changed since is not shut down. If the application disconnects
// the socket after that, its next connection may be shut down, and the flow is Failed. That
// includes ENOTCONN: shutdown(2) sets both shutdown flags of a disconnected socket, and the next
// connection starts with them.
func (x *action) shutDownAcquired(ctx context.Context, t *target, now *sockdiag.Flow, duplicate *acquired, draining bool) {
	t.Method, t.Detail = hangup.Shutdown, ""
	if !x.ownersMatch(ctx, t, now) {
		return
	}
	if x.DryRun {
		t.Detail = "owner is accessible"
		t.end(hangup.Shutdown, hangup.Planned)
		return
	}
	var socket shutSocket
	err := duplicate.call(x.blocked, t.in, func(fd int) {
		if socket.unread, socket.err = unreadMPTCP(fd, now); socket.err == nil {
			socket.before = readAddresses(fd)
		}
	})
	if err == nil {
		err = socket.err
	}
	if err != nil {
		t.fail(hangup.None, err)
		return
	}
	confirmed, err := x.confirm(ctx, t.in.conn, &t.Flow)
	switch {
	case ctx.Err() != nil:
		t.notProcessed()
		return
	case errors.Is(err, os.ErrNotExist), err == nil && hasEnded(confirmed.State):
		t.Detail = ""
		t.end(hangup.None, hangup.Gone)
		return
	case err != nil:
		t.fail(hangup.None, err)
		return
	}
	if now.Protocol == sockdiag.MPTCP {
		confirmed.ReceiveQueue = socket.unread
	}
	if x.mustWait(t, &confirmed, draining) {
		t.phase = phaseBusy
		return
	}
	if lost := x.lostEvidence(t, &confirmed); lost != "" {
		t.refuse(hangup.ReasonEvidence, lost)
		return
	}
	if blocked := duplicate.call(x.blocked, t.in, func(fd int) {
		// The thread may have waited for a processor since the lookup.
		if socket.reused = socket.before.differ(readAddresses(fd)); socket.reused {
			return
		}
		socket.err = x.shutdown(fd)
		socket.after = readAddresses(fd)
	}); blocked != nil {
		t.fail(hangup.Shutdown, blocked)
		return
	}
	x.afterShutdown(ctx, t, &confirmed, &socket, duplicate)
}

// afterShutdown sets the outcome of a flow, or its phase, after shutdown(2).
func (x *action) afterShutdown(ctx context.Context, t *target, confirmed *sockdiag.Flow, socket *shutSocket, duplicate *acquired) {
	switch err := socket.err; {
	case socket.reused:
		t.end(hangup.None, hangup.Gone)
	case (err == nil || errors.Is(err, unix.ENOTCONN)) && socket.before.differ(socket.after):
		t.fail(hangup.Shutdown, x.disconnected(t, socket.after))
	case err == nil:
		t.phase, t.Detail = phaseHungUp, text.JoinNonEmpty("; ", t.interrupts, t.scan.incomplete())
		var timeoutErr error
		blocked := duplicate.call(x.blocked, t.in, func(fd int) { timeoutErr = x.setUserTimeout(fd, x.Linger) })
		if blocked != nil {
			t.Detail = text.JoinNonEmpty("; ", t.Detail, blocked.Error())
		} else if timeoutErr != nil {
			t.Detail = text.JoinNonEmpty("; ", t.Detail, timeoutErr.Error())
		}
	case errors.Is(err, unix.ENOTCONN):
		t.end(hangup.Shutdown, hangup.Gone)
	case errors.Is(err, unix.EBUSY) && x.Method == hangup.Auto:
		// Linux 5.10, while a thread waits in connect(2).
		t.Detail = "shutdown(2) returned EBUSY"
		x.destroyFlow(ctx, t, confirmed, "", "")
	default:
		t.fail(hangup.Shutdown, err)
	}
}

// acquire returns a verified duplicate of the flow's socket. After an error, reason
// names the safety check that rejected the flow; it is "" when a system call failed.
func (x *action) acquire(t *target) (fd int, reason hangup.Reason, err error) {
	if len(t.holders) == 0 {
		return -1, hangup.ReasonPermission, errors.New(x.access(t).noHolder())
	}
	if err := x.checkSIGPIPE(t.holders); errors.Is(err, errSIGPIPE) {
		return -1, hangup.ReasonSIGPIPE, err
	} else if err != nil {
		return -1, "", err
	}
	var errs []error
	for _, h := range t.holders {
		fd, err := duplicate(h, &t.Flow)
		if err == nil {
			return fd, "", nil
		}
		errs = append(errs, err)
	}
	err = errors.Join(errs...)
	switch {
	case hangup.IsExhausted(err):
		return -1, "", err // another holder may be accessible
	case errors.Is(err, errListener):
		return -1, hangup.ReasonListener, err
	case errors.Is(err, os.ErrPermission):
		return -1, hangup.ReasonPermission, fmt.Errorf("%w: %s", err, x.access(t).howToAttach())
	case errors.Is(err, errNoThreadPidfd):
		return -1, hangup.ReasonPermission, err
	case errors.Is(err, unix.ENOSYS):
		return -1, hangup.ReasonPermission, fmt.Errorf("%w: pidfd_getfd needs Linux 5.6 and a seccomp profile that allows it", err)
	case errors.Is(err, errIdentity), errors.Is(err, unix.ESRCH), errors.Is(err, unix.EBADF):
		return -1, hangup.ReasonIdentity, err
	default:
		return -1, "", err
	}
}
