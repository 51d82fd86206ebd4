// Package actuator hangs up TCP and Multipath TCP connections in order: it plans
// (which flows, held by whom), acts on one flow after the other, and verifies in
// the kernel's table what became of each.
package actuator

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// Config is what an Actuator needs. The zero value is of use.
type Config struct {
	// Logger is told where applications reconnect to, if that is watched; what
	// became of the flows is in the report. nil means none.
	Logger *slog.Logger
	// FirstSeen tells when a flow was first seen after its handshake; nil means that it
	// is not known of any. Request.EstablishedBefore relies on it. The times should
	// have a monotonic reading (see package time): a clock that is set later on moves
	// those that have none.
	FirstSeen func(*sockdiag.Flow) (time.Time, bool)
}

// Actuator hangs up the flows of the network namespace it was made in. It is
// safe for concurrent use.
type Actuator struct {
	logger    *slog.Logger
	firstSeen func(*sockdiag.Flow) (time.Time, bool)
	metrics   *metrics

	// lookup looks a flow up when its turn has come; tests make things change there.
	lookup func(ctx context.Context, conn *sockdiag.Conn, flow *sockdiag.Flow) (sockdiag.Flow, error)
	// confirm looks a flow up directly before shutdown(2); tests change the socket there.
	confirm func(ctx context.Context, conn *sockdiag.Conn, flow *sockdiag.Flow) (sockdiag.Flow, error)
	// shutdown is shutdown(2) with SHUT_RDWR; tests change the socket there.
	shutdown func(fd int) error
	// destroy destroys a flow; tests put a kernel without the feature.
	destroy func(ctx context.Context, conn *sockdiag.Conn, flow *sockdiag.Flow) error
	// giveUpAfter sets how long the peer has to acknowledge the FIN; tests wait there
	// for the application's EOF.
	giveUpAfter func(fd int, linger time.Duration) error

	// paths is held from the look whether another path of an MPTCP connection remains
	// until one has been destroyed: two actions could take the two last ones.
	paths sync.Mutex

	// watches go on after their action has returned; close ends them.
	watches sync.WaitGroup
	// watching has an element for each watch that goes on.
	watching chan struct{}
	closed   context.Context //nolint:containedctx // the life of the Actuator itself
	close    context.CancelFunc
}

// maxWatches bounds how many actions are watched for reconnects at a time: each
// reads the table again and again.
const maxWatches = 4

// New returns an Actuator.
func New(c Config) *Actuator {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	closed, cancel := context.WithCancel(context.Background())
	return &Actuator{
		closed:    closed,
		watching:  make(chan struct{}, maxWatches),
		close:     cancel,
		logger:    c.Logger,
		firstSeen: c.FirstSeen,
		metrics:   newMetrics(),
		lookup:    lookUp,
		confirm:   lookUp,
		shutdown:  func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) },
		destroy: func(ctx context.Context, conn *sockdiag.Conn, flow *sockdiag.Flow) error {
			return conn.Destroy(ctx, flow)
		},
		giveUpAfter: giveUpAfter,
	}
}

func lookUp(ctx context.Context, conn *sockdiag.Conn, flow *sockdiag.Flow) (sockdiag.Flow, error) {
	return conn.Lookup(ctx, flow)
}

// Close ends what actions have left running (see Request.WatchLater) and waits for
// it.
func (a *Actuator) Close() {
	a.close()
	a.watches.Wait()
}

// HangUp brings the namespace to the state that no flow matches the request, as
// far as its guards allow. The error is about the action as a whole, nothing has
// been closed then; what befell single flows is in the report. When ctx ends,
// the flows that were not reached are reported as Planned, and those that were
// are verified no longer.
func (a *Actuator) HangUp(ctx context.Context, request hangup.Request) (*hangup.Report, error) {
	request, err := request.WithDefaults()
	if err != nil {
		return nil, fmt.Errorf("hang up: %w", err)
	}
	conn, err := sockdiag.Dial()
	if err != nil {
		return nil, fmt.Errorf("hang up: %w", err)
	}
	defer conn.Close()

	x := &action{Actuator: a, Request: request, conn: conn}
	report, err := x.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("hang up: %w", err)
	}
	a.metrics.observe(request.Policy, report)
	return report, nil
}

// action is one HangUp on its way.
type action struct {
	*Actuator
	hangup.Request
	conn *sockdiag.Conn
	// lostRounds counts the rounds in a row in which every flow's owners were to be
	// sought anew.
	lostRounds int
	// known are the owners that have been looked at.
	known processes
	// destroyUsable is the answer of the probe, which is asked for once.
	destroyUsable *error
}

func (x *action) run(ctx context.Context) (*hangup.Report, error) {
	p := &planner{conn: x.conn, selector: &x.Selector, path: x.MPTCP == hangup.Path}
	if err := p.plan(ctx); err != nil {
		return nil, err
	}
	report := &hangup.Report{Covered: p.covered, LeftAlone: p.leftAlone}
	targets := slices.DeleteFunc(p.targets, x.tooYoung)
	sortTargets(targets)

	allowed := x.refuseDenied(targets)
	if detail := x.overBudget(len(allowed), p.covered); detail != "" {
		for _, t := range allowed {
			x.refuse(t, hangup.ReasonBudget, detail)
		}
		allowed = nil
	}
	if len(allowed) > 0 {
		watch := x.newWatch(ctx, allowed)
		err := x.findOwners(ctx, allowed, report)
		watch.start(allowed)
		if err != nil {
			watch.abandon()
			return nil, err
		}
		hungUp := x.hangUpAll(ctx, allowed)
		x.verify(ctx, hungUp)
		watch.end(ctx, hungUp)
	}
	for _, t := range targets {
		report.Results = append(report.Results, t.Result)
	}
	return report, nil
}

// tooYoung reports whether a flow is not known to have been there at
// EstablishedBefore.
func (x *action) tooYoung(t *target) bool {
	if x.EstablishedBefore.IsZero() {
		return false
	}
	if x.firstSeen == nil {
		return true
	}
	seen, known := x.firstSeen(&t.Flow)
	// Ages are compared, not times: the clock may have been set since the flow was
	// seen, and by the old one it would seem older or younger than it is.
	now := time.Now()
	return !known || now.Sub(seen) < now.Sub(x.EstablishedBefore)
}

// refuseDenied refuses the flows that a never rule covers and returns the rest.
func (x *action) refuseDenied(targets []*target) []*target {
	allowed := make([]*target, 0, len(targets))
	for _, t := range targets {
		if x.denied(t) {
			x.refuse(t, hangup.ReasonDenied, deniedByRule)
			continue
		}
		allowed = append(allowed, t)
	}
	return allowed
}

const deniedByRule = "a never rule covers this destination"

// denied reports whether a never rule covers a flow; of an MPTCP connection, any path.
func (x *action) denied(t *target) bool {
	return slices.ContainsFunc(x.Never, func(never sockdiag.Selector) bool {
		return never.MatchEndpoint(&t.Flow, t.Direction) ||
			slices.ContainsFunc(t.Subflows, func(f sockdiag.Flow) bool { return never.MatchEndpoint(&f, t.Direction) })
	})
}

// overBudget returns "" when n flows may be hung up, else why not.
func (x *action) overBudget(n, covered int) string {
	switch {
	case x.MaxFlows > 0 && n > x.MaxFlows:
		return fmt.Sprintf("%d flows match, at most %d may be hung up at once", n, x.MaxFlows)
	case x.MaxFraction > 0 && float64(n) > x.MaxFraction*float64(covered):
		return fmt.Sprintf("%d of %d flows match, at most the fraction %g may be hung up at once", n, covered, x.MaxFraction)
	default:
		return ""
	}
}

// findOwners makes the one pass over /proc.
func (x *action) findOwners(ctx context.Context, targets []*target, report *hangup.Report) error {
	var inodes []uint32
	var cgroups []uint64
	for _, t := range targets {
		if t.Flow.Inode != 0 {
			inodes = append(inodes, t.Flow.Inode)
			cgroups = append(cgroups, t.Flow.CgroupID)
		}
	}
	slices.Sort(inodes)
	slices.Sort(cgroups)
	start := time.Now()
	found, err := findOwners(ctx, slices.Compact(inodes), slices.Compact(cgroups))
	if err != nil {
		return fmt.Errorf("find owners: %w", err)
	}
	report.OwnersTook = time.Since(start)
	report.Processes, report.Unreadable = found.processes, found.unreadable
	for _, t := range targets {
		x.setHolders(t, found.byInode[t.Flow.Inode])
	}
	return nil
}

func (x *action) setHolders(t *target, holders []holder) {
	t.holders, t.ownersAt, t.PID, t.Command = holders, time.Now(), 0, ""
	if len(holders) > 0 {
		t.PID = holders[0].pid
		t.Command = x.known.process(t.PID).command
	}
}

func (x *action) refuse(t *target, reason hangup.Reason, detail string) {
	t.Reason, t.Detail = reason, detail
	t.end(hangup.None, hangup.Refused)
}
