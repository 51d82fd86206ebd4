// Package actuator gracefully closes TCP and Multipath TCP connections. It selects flows,
// finds their owners, hangs up each flow, and verifies the result in the kernel.
package actuator

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// Config configures an Actuator. The zero value is ready to use.
type Config struct {
	// Logger receives reconnect events when Request.WatchReconnect is set, and errors after
	// which another flow may be affected; nil discards them.
	Logger *slog.Logger
	// FirstSeen returns the time of the first dump with the established flow, and false
	// for an unknown flow; Request.EstablishedBefore needs it. Times need a monotonic
	// clock reading (package time), which clock changes do not affect.
	FirstSeen func(*sockdiag.Flow) (time.Time, bool)
	// EstablishedAfter returns a time before the flow was established, and false if there is
	// none. It distinguishes flows younger than Request.EstablishedBefore from flows of
	// unknown age.
	EstablishedAfter func(*sockdiag.Flow) (time.Time, bool)
}

// Actuator hangs up flows of the network namespace in which it runs, or of the namespaces of
// a request. It is safe for concurrent use.
type Actuator struct {
	logger    *slog.Logger
	firstSeen func(*sockdiag.Flow) (time.Time, bool)
	after     func(*sockdiag.Flow) (time.Time, bool)
	metrics   *metrics
	blocked   *sockdiag.BlockedCalls

	// readTable reads listeners and MPTCP connections; tests omit the latter.
	readTable func(ctx context.Context, conn *sockdiag.Conn) (*sockdiag.Table, error)
	// lookup runs before each hang-up; tests change the flow in it.
	lookup func(ctx context.Context, conn *sockdiag.Conn, flow *sockdiag.Flow) (sockdiag.Flow, error)
	// confirm is the lookup directly before shutdown(2); tests reuse the socket in it.
	confirm func(ctx context.Context, conn *sockdiag.Conn, flow *sockdiag.Flow) (sockdiag.Flow, error)
	// shutdown is shutdown(2) with SHUT_RDWR; tests reuse the socket in it, or omit it.
	shutdown func(fd int) error
	// destroy is SOCK_DESTROY; tests replace it to fail.
	destroy func(ctx context.Context, conn *sockdiag.Conn, flow *sockdiag.Flow) error
	// setUserTimeout runs after shutdown(2); tests wait in it for the application's EOF.
	setUserTimeout func(fd int, linger time.Duration) error

	// mptcpWithoutEOF is set when the last shutdown of an MPTCP test connection gave no EOF.
	mptcpWithoutEOF atomic.Bool

	// subflowMu makes the check for another subflow and the destroy atomic: two actions
	// could otherwise destroy the last two subflows of a connection.
	subflowMu sync.Mutex

	// watches may outlive their action; close ends them.
	watches sync.WaitGroup
	// watching is a semaphore of maxWatches.
	watching chan struct{}
	closed   context.Context //nolint:containedctx // lifetime of the Actuator
	close    context.CancelFunc
}

// maxWatches limits concurrent reconnect watches: each polls the socket table.
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
		after:     c.EstablishedAfter,
		metrics:   newMetrics(),
		blocked:   &sockdiag.BlockedCalls{Limit: blockedAfter},
		readTable: func(ctx context.Context, conn *sockdiag.Conn) (*sockdiag.Table, error) {
			return sockdiag.ReadTable(ctx, conn)
		},
		lookup:   lookUp,
		confirm:  lookUp,
		shutdown: func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) },
		destroy: func(ctx context.Context, conn *sockdiag.Conn, flow *sockdiag.Flow) error {
			return conn.Destroy(ctx, flow)
		},
		setUserTimeout: setUserTimeout,
	}
}

func lookUp(ctx context.Context, conn *sockdiag.Conn, flow *sockdiag.Flow) (sockdiag.Flow, error) {
	return conn.Lookup(ctx, flow)
}

// Close stops the reconnect watches and waits for them.
func (a *Actuator) Close() {
	a.close()
	a.watches.Wait()
}

// HangUp hangs up every flow that matches the request and passes the safety checks.
// Failures of single flows are in the report; after an error no flow was touched.
// When ctx ends, flows that were not processed are Planned, and the others are looked
// up once more.
func (a *Actuator) HangUp(ctx context.Context, request hangup.Request) (*hangup.Report, error) {
	request, err := request.WithDefaults()
	if err != nil {
		return nil, fmt.Errorf("hang up: %w", err)
	}
	x := &action{Actuator: a, Request: request}
	defer x.closeNamespaces()
	report, err := x.run(ctx)
	if err != nil {
		return nil, hangUpError(err)
	}
	a.metrics.observe(request.Policy, report)
	return report, nil
}

func hangUpError(err error) error {
	if hint := exhaustedHint(err); hint != "" {
		return fmt.Errorf("hang up: %w: %s", err, hint)
	}
	return fmt.Errorf("hang up: %w", err)
}

// action is the state of one HangUp call.
type action struct {
	*Actuator
	hangup.Request
	// open are the namespaces with targets.
	open []*namespace
	// lostRounds counts consecutive rounds that deferred every flow for its owners.
	lostRounds int
	processes  processCache
	// progress is the argument of the last call of Progress.
	progress hangup.Progress
}

func (x *action) run(ctx context.Context) (*hangup.Report, error) {
	p, err := x.selectTargets(ctx)
	if err != nil {
		return nil, err
	}
	report := &hangup.Report{NamespaceErrors: p.unread}
	if err := x.selectByOwner(ctx, p, report); err != nil {
		return nil, err
	}
	report.Covered, report.LeftAlone, report.Closing = len(p.targets)+len(p.lacking), len(p.leftAlone), len(p.closing)
	report.Unselected = map[hangup.Reason]int{hangup.ReasonEvidence: len(p.lacking)}
	own := slices.DeleteFunc(p.targets, func(t *target) bool { return reports(x.Other, t) })
	targets := slices.DeleteFunc(own, x.isYounger)
	report.Others, report.Younger = len(p.targets)-len(own), len(own)-len(targets)
	sortTargets(targets)

	allowed := x.refuseDenied(targets)
	if detail := x.overBudget(len(allowed), report.Covered); detail != "" {
		for _, t := range allowed {
			t.refuse(hangup.ReasonBudget, detail)
		}
		allowed = nil
	}
	var watch *watch
	var hungUp []*target
	if len(allowed) > 0 {
		watch = x.newWatch(ctx, allowed)
		start := time.Now()
		x.begin(hangup.FindingOwners, 0, time.Time{})
		found, err := x.findOwners(ctx, allowed)
		watch.start(allowed)
		if err != nil {
			watch.abandon()
			return nil, err
		}
		report.OwnersTook = time.Since(start)
		countProcesses(report, found)
		if x.Begin != nil && !x.DryRun {
			x.Begin(len(allowed))
		}
		hungUp = x.hangUpAll(ctx, allowed)
		x.verify(ctx, hungUp)
	}
	for i, t := range targets {
		x.reportDone(t)
		t.position = i
		report.Results = append(report.Results, t.Result)
	}
	watch.end(hungUp, report)
	return report, nil
}

// reportDone calls Done once for a flow with a final outcome.
func (x *action) reportDone(t *target) {
	if t.phase != phaseDone || t.reported {
		return
	}
	t.reported = true
	if x.Done != nil {
		x.Done(&t.Result)
	}
}

// isYounger reports whether a flow is younger than EstablishedBefore. It refuses a flow of
// unknown age.
func (x *action) isYounger(t *target) bool {
	if x.EstablishedBefore.IsZero() || t.phase == phaseDone {
		return false
	}
	// Ages are compared, not times: the wall clock may have been set since.
	now := time.Now()
	limit := now.Sub(x.EstablishedBefore)
	age := func(from func(*sockdiag.Flow) (time.Time, bool)) (time.Duration, bool) {
		if from == nil {
			return 0, false
		}
		at, known := from(&t.Flow)
		return now.Sub(at), known
	}
	if least, known := age(x.firstSeen); known && least >= limit {
		return false
	}
	if most, known := age(x.after); known && most <= limit {
		return true
	}
	t.refuse(hangup.ReasonTooYoung, "age is unknown: no scrape has seen the flow, or only the first one after the start")
	return false
}

// refuseDenied refuses the flows on the never list and those that may belong to another
// service. It returns the others.
func (x *action) refuseDenied(targets []*target) []*target {
	allowed := make([]*target, 0, len(targets))
	for _, t := range inPhase(targets, phasePlanned) {
		if x.denied(t) {
			t.refuse(hangup.ReasonDenied, onNeverList)
			continue
		}
		if reports(x.Shared, t) {
			t.refuse(hangup.ReasonShared, otherService)
			continue
		}
		allowed = append(allowed, t)
	}
	return allowed
}

const (
	onNeverList  = "destination is on the never list"
	otherService = "a service has the address now, and the flow may belong to it"
)

// reports whether the predicate, which may be nil, is true for the flow or a subflow of it.
func reports(predicate func(*sockdiag.Flow) bool, t *target) bool {
	return predicate != nil && (predicate(&t.Flow) ||
		slices.ContainsFunc(t.Subflows, func(f sockdiag.Flow) bool { return predicate(&f) }))
}

// denied reports whether the flow, or a subflow of it, is on the never list.
func (x *action) denied(t *target) bool {
	return slices.ContainsFunc(x.Never, func(never sockdiag.Selector) bool {
		return never.MatchEndpoint(&t.Flow, t.Direction) ||
			slices.ContainsFunc(t.Subflows, func(f sockdiag.Flow) bool { return never.MatchEndpoint(&f, t.Direction) })
	})
}

// overBudget returns the limit that n flows exceed, or "". Covered counts the flows
// that match with or without evidence.
func (x *action) overBudget(n, covered int) string {
	switch {
	case x.MaxFlows > 0 && n > x.MaxFlows:
		return fmt.Sprintf("%d connections match, limit is %d (--max-flows; limits.flows in a policy)", n, x.MaxFlows)
	case x.MaxFraction > 0 && float64(n) > x.MaxFraction*float64(covered):
		return fmt.Sprintf("%d of %d connections match, limit is a fraction of %g (limits.fraction in a policy)", n, covered, x.MaxFraction)
	default:
		return ""
	}
}

// findOwners scans /proc once for the owners of all targets.
func (x *action) findOwners(ctx context.Context, targets []*target) (*owners, error) {
	flows := make([]sockdiag.Flow, len(targets))
	for i, t := range targets {
		flows[i] = t.Flow
	}
	found, err := findOwners(ctx, flows, nearLimit, slices.ContainsFunc(targets, x.restrictsOwners), inodesOfNamespaces(targets))
	if err != nil {
		return nil, fmt.Errorf("find owners: %w", err)
	}
	for _, t := range targets {
		holders := found.byInode[t.Flow.Inode]
		t.holders, t.ownersAt, t.PID, t.Command = holders, time.Now(), 0, ""
		t.scan = found
		if _, deferred := slices.BinarySearch(found.deferred, t.Flow.Inode); deferred {
			t.ownersAt = time.Time{}
		}
		if len(holders) > 0 {
			t.PID = holders[0].pid
			t.Command = x.processes.get(t.PID).command
		}
	}
	return found, nil
}
