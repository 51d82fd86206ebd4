package actuator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/internal/text"
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

// shutDownAcquired shuts down the duplicate of a flow's socket. Since the last lookup the
// application may have connected the socket elsewhere, or begun a request. A lookup by
// addresses and cookie therefore comes directly before shutdown(2). getpeername(2) is no
// evidence of identity, because BPF programs rewrite its result.
//
// A socket whose addresses have changed since is not shut down. If the application disconnects
// the socket after that, its next connection may be shut down, and the flow is Failed. That includes ENOTCONN: shutdown(2) sets both shutdown
// flags of a disconnected socket, and the next connection starts with them.
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
	var socket struct {
		unread        uint32
		before, after socketAddresses
		reused        bool // between the last lookup and shutdown(2)
		err           error
	}
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
		x.destroyFlow(ctx, t, &confirmed, "", "")
	default:
		t.fail(hangup.Shutdown, err)
	}
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
