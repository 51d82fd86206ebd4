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

// act takes the targets one after the other and returns those whose end is to be
// verified. Busy ones are waited for until the drain deadline.
func (x *action) act(ctx context.Context, targets []*target) []*target {
	var acted []*target
	pace := pacer{interval: interval(x.Rate)}
	drained := time.Now()
	if !x.DryRun {
		drained = drained.Add(x.DrainDeadline)
	}
	for len(targets) > 0 {
		var busy, lost []*target
		for _, t := range targets {
			x.passTime(ctx, pace.delay(), acted)
			x.beforeAct(&t.Result)
			now, ok := x.lookAgain(ctx, t)
			if !ok {
				continue
			}
			draining := time.Now().Before(drained)
			if draining && x.isBusy(t, &now) {
				busy = append(busy, t)
				continue
			}
			start := time.Now()
			switch x.one(ctx, t, &now, draining) {
			case stepActed:
				t.acted = start
				pace.used()
				acted = append(acted, t)
			case stepBusy:
				busy = append(busy, t)
			case stepLost:
				lost = append(lost, t)
			case stepDecided:
			}
		}
		if len(lost) < len(targets) {
			x.lostRounds = 0
		} else {
			x.lostRounds++
		}
		targets = slices.Concat(x.seekOwners(ctx, lost), busy)
		if len(busy) > 0 {
			sleep(ctx, min(max(x.DrainQuiet/8, time.Millisecond), 50*time.Millisecond))
		}
	}
	return acted
}

// lookAgain asks the kernel for the flow as it is at this moment, so that nothing
// is done to one that has ended or come to life since it was chosen.
func (x *action) lookAgain(ctx context.Context, t *target) (sockdiag.Flow, bool) {
	now, err := x.conn.Lookup(ctx, &t.Flow)
	switch {
	case ctx.Err() != nil:
		x.notReached(t)
		return now, false
	case errors.Is(err, os.ErrNotExist), err == nil && hasEnded(now.State):
		t.Method, t.Outcome = hangup.None, hangup.Gone
		return now, false
	case err != nil:
		t.Method, t.Outcome, t.Err = hangup.None, hangup.Failed, err
		return now, false
	case now.State == sockdiag.Listen:
		x.refuse(t, hangup.ReasonListener, "the socket accepts connections")
		return now, false
	}
	if now.Protocol == sockdiag.MPTCP {
		paths, err := refreshPaths(ctx, x.conn, &now, t.Subflows)
		if err != nil {
			t.Method = hangup.None
			x.fail(ctx, t, err)
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
	t.Method, t.Outcome, t.Detail = hangup.None, hangup.Planned, "the action ended before its turn came"
}

// fail is the outcome of a flow to which an error has happened before anything was
// done to it.
func (x *action) fail(ctx context.Context, t *target, err error) {
	if ctx.Err() != nil {
		x.notReached(t)
		return
	}
	t.Outcome, t.Err = hangup.Failed, err
}

const cameToLife = "it has come to life since it was chosen"

// showsEvidence is the selector's word on a flow that was chosen before.
func (x *action) showsEvidence(t *target, now *sockdiag.Flow) bool {
	if now.Protocol == sockdiag.MPTCP {
		return connectionShows(&x.Selector, now, t.Subflows)
	}
	return x.Selector.HasEvidence(now)
}

func hasEnded(s sockdiag.State) bool { return s == sockdiag.TimeWait || s == sockdiag.Close }

// step is how far one look at a flow has brought it.
type step int

const (
	stepDecided step = iota // its outcome is known
	stepActed               // its end is to be verified
	stepBusy                // it is to be looked at again later
	stepLost                // so it is, when its owners have been sought once more
)

// one acts on a flow, or in a dry run finds out what it would do. While draining it
// leaves a flow that has become busy for later.
func (x *action) one(ctx context.Context, t *target, now *sockdiag.Flow, draining bool) step {
	if now.Inode != 0 && now.Inode != t.Flow.Inode {
		// A process has accepted it since it was chosen.
		t.Flow.Inode = now.Inode
		return stepLost
	}
	switch {
	case slices.ContainsFunc(t.holders, func(h holder) bool { return h.pid == os.Getpid() }):
		x.refuse(t, hangup.ReasonSelf, "the socket is tcphup's own")
		return stepDecided
	case t.connection != nil:
		return x.onePath(ctx, t, now)
	case now.Inode == 0 && !isClosing(now.State):
		const waits = "no process has accepted it yet"
		if x.Method == hangup.Shutdown {
			x.refuse(t, hangup.ReasonPermission, waits)
			return stepDecided
		}
		t.Detail = waits
		return x.oneDestroy(ctx, t, now, "", "")
	case (now.Inode == 0 || now.ShutDown) && x.Method != hangup.Destroy:
		return x.orphan(t)
	case x.Method == hangup.Destroy:
		t.Detail = "destroy was asked for"
		return x.oneDestroy(ctx, t, now, "", "")
	default:
		return x.oneShutdown(ctx, t, now, draining)
	}
}

// orphan is a flow that its application has closed, or an earlier action has shut
// down: the FIN is on its way. It has the same time to end as one that we hang up.
func (x *action) orphan(t *target) step {
	t.Method, t.orphaned = hangup.None, true
	t.Detail = "it has been closed on this side already"
	if x.DryRun {
		t.Outcome = hangup.Planned
		return stepDecided
	}
	return stepActed
}

// ownersFresh is for how long a pass over /proc tells who holds a flow. A process that
// got hold of it since then may be one that SIGPIPE kills. It is twice as long after each
// round that has brought nothing: on a large host a look at a flow may take longer.
const ownersFresh = 250 * time.Millisecond

func (x *action) oneShutdown(ctx context.Context, t *target, now *sockdiag.Flow, draining bool) step {
	if time.Since(t.ownersAt) > ownersFresh<<min(x.lostRounds, 10) {
		return stepLost
	}
	fd, reason, err := x.acquire(t)
	if reason == hangup.ReasonIdentity && !t.sought {
		// The owner has let go of it since the pass: it may have ended or moved its
		// descriptors while another process, or number, still leads to the flow.
		t.sought = true
		return stepLost
	}
	if err == nil {
		defer release(fd)
		t.Method, t.Detail = hangup.Shutdown, "the owner can be reached"
		if x.DryRun {
			t.Outcome = hangup.Planned
			return stepDecided
		}
		// Finding the socket took its time; a request may have begun meanwhile. Only
		// the shutdown itself comes between this look and the end.
		if err := refresh(fd, now); err != nil {
			t.Method, t.Outcome, t.Err = hangup.None, hangup.Failed, err
			return stepDecided
		}
		if draining && x.isBusy(t, now) {
			return stepBusy
		}
		if !x.showsEvidence(t, now) {
			x.refuse(t, hangup.ReasonEvidence, cameToLife)
			return stepDecided
		}
		err = unix.Shutdown(fd, unix.SHUT_RDWR)
		switch {
		case err == nil:
			if err := giveUpAfter(fd, x.Linger); err != nil {
				t.Detail += "; " + err.Error()
			}
			return stepActed
		case errors.Is(err, unix.ENOTCONN):
			t.Outcome = hangup.Gone
		default:
			t.Outcome, t.Err = hangup.Failed, err
		}
		return stepDecided
	}

	t.Detail = err.Error()
	switch reason {
	case hangup.ReasonSIGPIPE, hangup.ReasonPermission:
		if x.Method == hangup.Auto {
			return x.oneDestroy(ctx, t, now, reason, t.Detail)
		}
		x.refuse(t, reason, t.Detail)
	case hangup.ReasonIdentity, hangup.ReasonListener:
		x.refuse(t, reason, t.Detail)
	default:
		t.Method, t.Detail = hangup.None, ""
		x.fail(ctx, t, err)
	}
	return stepDecided
}

// seekOwners makes another pass over /proc, one for all flows whose owners are not,
// or no longer, those that were found, and returns the flows that have a second turn.
func (x *action) seekOwners(ctx context.Context, lost []*target) []*target {
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
			t.Method = hangup.None
			x.fail(ctx, t, fmt.Errorf("find owners: %w", err))
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
