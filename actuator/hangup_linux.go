package actuator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// hangUpAll hangs the targets up one after the other and returns those whose end is
// to be verified. In rounds, it comes back to the targets that were put off: busy ones
// until the drain deadline, and those whose owners have to be searched again.
func (x *action) hangUpAll(ctx context.Context, targets []*target) []*target {
	var hungUp []*target
	pace := pacer{interval: interval(x.Rate)}
	drained := time.Now()
	if !x.DryRun {
		drained = drained.Add(x.DrainDeadline)
	}
	for len(targets) > 0 {
		for _, t := range targets {
			x.pause(ctx, pace.delay(), hungUp)
			x.takeTurn(ctx, t, drained)
			if t.phase == phaseHungUp {
				pace.used()
				hungUp = append(hungUp, t)
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
			sleep(ctx, min(max(x.DrainQuiet/8, time.Millisecond), 50*time.Millisecond))
		}
	}
	return hungUp
}

// takeTurn brings a target as far as it gets now: done, hung up, or put off. Flows are
// put off as busy before drained.
func (x *action) takeTurn(ctx context.Context, t *target, drained time.Time) {
	t.phase = phasePlanned
	now, ok := x.recheck(ctx, t)
	if !ok {
		return
	}
	t.actedAt = time.Now()
	draining := t.actedAt.Before(drained)
	if draining && x.isBusy(t, &now) {
		t.phase = phaseBusy
		return
	}
	x.hangUpOne(ctx, t, &now, draining)
}

// recheck looks the flow up again and ends its way when it has ended, has become a
// listener, is denied by a path that has joined, or has come to life since it was
// chosen. It returns the flow as it is now, and whether it may be hung up.
func (x *action) recheck(ctx context.Context, t *target) (sockdiag.Flow, bool) {
	now, err := x.lookup(ctx, x.conn, &t.Flow)
	switch {
	case ctx.Err() != nil:
		x.notReached(t)
		return now, false
	case errors.Is(err, os.ErrNotExist), err == nil && hasEnded(now.State):
		t.end(hangup.None, hangup.Gone)
		return now, false
	case err != nil:
		t.Err = err
		t.end(hangup.None, hangup.Failed)
		return now, false
	case now.State == sockdiag.Listen:
		x.refuse(t, hangup.ReasonListener, "the socket accepts connections")
		return now, false
	}
	if now.Protocol == sockdiag.MPTCP {
		paths, err := refreshPaths(ctx, x.conn, &now, t.Subflows)
		if err != nil {
			x.fail(ctx, t, hangup.None, err)
			return now, false
		}
		t.Subflows = paths
		if x.denied(t) {
			x.refuse(t, hangup.ReasonDenied, deniedByRule)
			return now, false
		}
	}
	if !x.showsEvidence(t, &now) {
		x.refuse(t, hangup.ReasonEvidence, cameToLife)
		return now, false
	}
	return now, true
}

// notReached is the outcome of a flow whose turn did not come.
func (x *action) notReached(t *target) {
	t.Detail = "the action ended before its turn came"
	t.end(hangup.None, hangup.Planned)
}

// fail is the outcome of a flow on which an error occurred before anything was done
// to it: Failed, unless the error is the end of the action.
func (x *action) fail(ctx context.Context, t *target, method hangup.Method, err error) {
	if ctx.Err() != nil {
		x.notReached(t)
		return
	}
	t.Err = err
	t.end(method, hangup.Failed)
}

const cameToLife = "it has come to life since it was chosen"

// showsEvidence reports whether a chosen flow still shows the selector's evidence.
func (x *action) showsEvidence(t *target, now *sockdiag.Flow) bool {
	if now.Protocol == sockdiag.MPTCP {
		return connectionShows(&x.Selector, now, t.Subflows)
	}
	return x.Selector.MatchEvidence(now)
}

func hasEnded(s sockdiag.State) bool { return s == sockdiag.TimeWait || s == sockdiag.Close }

// hangUpOne hangs a flow up by the method that is right for it, or in a dry run finds
// out which one that is. While draining it puts off a flow that has become busy.
func (x *action) hangUpOne(ctx context.Context, t *target, now *sockdiag.Flow, draining bool) {
	if now.Inode != 0 && now.Inode != t.Flow.Inode {
		// A process has accepted it since it was chosen.
		t.Flow.Inode = now.Inode
		t.phase = phaseOwnerLost
		return
	}
	switch {
	case slices.ContainsFunc(t.holders, func(h holder) bool { return h.pid == os.Getpid() }):
		x.refuse(t, hangup.ReasonSelf, "the socket is tcphup's own")
	case t.connection != nil:
		x.destroySubflow(ctx, t, now)
	case now.Inode == 0 && !isClosing(now.State):
		const waits = "no process has accepted it yet"
		if x.Method == hangup.Shutdown {
			x.refuse(t, hangup.ReasonPermission, waits)
			return
		}
		t.Detail = waits
		x.destroyFlow(ctx, t, now, "", "")
	case (now.Inode == 0 || now.ShutDown) && x.Method != hangup.Destroy:
		x.awaitOrphan(t)
	case x.Method == hangup.Destroy:
		t.Detail = "destroy was asked for"
		x.destroyFlow(ctx, t, now, "", "")
	default:
		x.shutDown(ctx, t, now, draining)
	}
}

// awaitOrphan leaves a flow to be verified that its application has closed, or an
// earlier action has shut down: the FIN is on its way. It has the same time to end as
// one that we hang up.
func (x *action) awaitOrphan(t *target) {
	t.orphaned = true
	t.Detail = "it has been closed on this side already"
	if x.DryRun {
		t.end(hangup.None, hangup.Planned)
		return
	}
	t.Method, t.phase = hangup.None, phaseHungUp
}

// ownersFresh is for how long a pass over /proc tells who holds a flow. A process that
// got hold of it since then may be one that SIGPIPE kills. It is twice as long after each
// round that has brought nothing: on a large host a look at a flow may take longer.
const ownersFresh = 250 * time.Millisecond

// shutDown hangs a flow up by shutdown(2), in this order:
//
//  1. the owners are searched again unless they are fresh, and once when a descriptor
//     does not lead to the flow any more;
//  2. every holder's SIGPIPE disposition is checked, then a duplicate of the socket is
//     made and its identity verified;
//  3. the flow is read again, from the duplicate, as in shutDownAcquired.
//
// A flow that cannot be shut down safely is destroyed, where the method is auto.
func (x *action) shutDown(ctx context.Context, t *target, now *sockdiag.Flow, draining bool) {
	if time.Since(t.ownersAt) > ownersFresh<<min(x.lostRounds, 10) {
		t.phase = phaseOwnerLost
		return
	}
	fd, reason, err := x.acquire(t)
	switch {
	case err == nil:
		defer release(fd)
		t.phase = phaseAcquired
		x.shutDownAcquired(t, now, fd, draining)
	case reason == hangup.ReasonIdentity && !t.searchedAgain:
		// The owner has let go of it since the pass: it may have ended or moved its
		// descriptors while another process, or number, still leads to the flow.
		t.searchedAgain = true
		t.phase = phaseOwnerLost
	case reason == "":
		t.Detail = ""
		x.fail(ctx, t, hangup.None, err)
	case x.Method == hangup.Auto && (reason == hangup.ReasonSIGPIPE || reason == hangup.ReasonPermission):
		x.destroyFlow(ctx, t, now, reason, err.Error())
	default:
		x.refuse(t, reason, err.Error())
	}
}

// shutDownAcquired shuts down the duplicate of a flow's socket. Finding the socket
// took its time and a request may have begun meanwhile, so the flow is read once more;
// only shutdown(2) itself comes after that.
func (x *action) shutDownAcquired(t *target, now *sockdiag.Flow, fd int, draining bool) {
	t.Method, t.Detail = hangup.Shutdown, "the owner can be reached"
	if x.DryRun {
		t.end(hangup.Shutdown, hangup.Planned)
		return
	}
	if err := refresh(fd, now); err != nil {
		t.Err = err
		t.end(hangup.None, hangup.Failed)
		return
	}
	if draining && x.isBusy(t, now) {
		t.phase = phaseBusy
		return
	}
	if !x.showsEvidence(t, now) {
		x.refuse(t, hangup.ReasonEvidence, cameToLife)
		return
	}
	err := unix.Shutdown(fd, unix.SHUT_RDWR)
	switch {
	case err == nil:
		t.phase = phaseHungUp
		if err := x.giveUpAfter(fd, x.Linger); err != nil {
			t.Detail += "; " + err.Error()
		}
	case errors.Is(err, unix.ENOTCONN):
		t.end(hangup.Shutdown, hangup.Gone)
	default:
		t.Err = err
		t.end(hangup.Shutdown, hangup.Failed)
	}
}

// searchOwners makes another pass over /proc, one for all flows whose owners are not,
// or no longer, those that were found, and returns the flows that have another turn.
func (x *action) searchOwners(ctx context.Context, lost []*target) []*target {
	if len(lost) == 0 {
		return nil
	}
	inodes := make([]uint32, len(lost))
	for i, t := range lost {
		inodes[i] = t.Flow.Inode
	}
	found, err := findOwners(ctx, sortCompact(inodes), nil)
	if err != nil {
		for _, t := range lost {
			x.fail(ctx, t, hangup.None, fmt.Errorf("find owners: %w", err))
		}
		return nil
	}
	for _, t := range lost {
		x.setHolders(t, found.byInode[t.Flow.Inode])
	}
	return lost
}

// acquire returns a verified duplicate of the flow's socket, or why there is none.
// The reason is "" for a fault that is no guard's.
func (x *action) acquire(t *target) (fd int, reason hangup.Reason, err error) {
	if len(t.holders) == 0 {
		return -1, hangup.ReasonPermission, errors.New("no process that holds it can be seen: " + howToSee)
	}
	for _, h := range t.holders {
		switch p := x.known.process(h.pid); {
		case p.err != nil:
			return -1, "", fmt.Errorf("see what SIGPIPE does: %w", p.err)
		case p.sigpipeKills:
			return -1, hangup.ReasonSIGPIPE, fmt.Errorf("process %d (%s) neither ignores nor catches SIGPIPE: its next write would kill it", h.pid, p.command)
		}
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
	case errors.Is(err, errListener):
		return -1, hangup.ReasonListener, err
	case errors.Is(err, os.ErrPermission):
		return -1, hangup.ReasonPermission, fmt.Errorf("%w: %s", err, howToAttach)
	case errors.Is(err, unix.ENOSYS):
		return -1, hangup.ReasonPermission, fmt.Errorf("%w: pidfd_getfd needs Linux 5.6 and a seccomp profile that allows it", err)
	case errors.Is(err, errIdentity), errors.Is(err, unix.ESRCH), errors.Is(err, unix.EBADF):
		return -1, hangup.ReasonIdentity, err
	default:
		return -1, "", err
	}
}

const (
	howToSee = "run as its uid and gid with CAP_SYS_PTRACE allowed, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, " +
		"in its pid namespace (Kubernetes: shareProcessNamespace)"
	howToAttach  = "grant CAP_SYS_PTRACE, a seccomp profile that allows pidfd_getfd, and kernel.yama.ptrace_scope 0 or 1 with the capability"
	howToDestroy = "grant CAP_NET_ADMIN"
	noDestroy    = "this kernel is built without CONFIG_INET_DIAG_DESTROY"
)
