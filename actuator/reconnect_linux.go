package actuator

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

const (
	toSame  = "same"
	toOther = "other"
)

// watchInterval is the minimum interval between dumps. The pause after a dump is at
// least watchPause times its duration, which bounds the CPU time.
const (
	watchInterval = 10 * time.Millisecond
	watchPause    = 9
)

// watch polls for new flows of the processes and cgroups whose flows are hung up.
// A nil watch does nothing.
type watch struct {
	*action
	selector sockdiag.Selector
	old      map[flowID]bool // known flows
	owners   chan []int      // receives the processes to watch, once
	pids     []int
	in       []*watchedNamespace     // of the targets, without those that have ended
	cgroups  []uint64                // of the targets, without the root cgroup
	warned   map[netip.AddrPort]bool // destinations with a logged warning
	stop     context.CancelFunc
	openedFlows
}

// flowID identifies a flow. A socket that is connected again keeps its cookie.
type flowID struct {
	netns, cookie uint64
	local, remote netip.AddrPort
}

func idOf(f *sockdiag.Flow) flowID { return flowID{f.Netns, f.Cookie, f.Local, f.Remote} }

// openedFlows collects the new flows that the goroutine of a watch finds.
type openedFlows struct {
	mu    sync.Mutex
	flows []openedFlow

	done chan struct{} // closed at the end of the goroutine; err is valid then
	err  error
}

// openedFlow is a new flow of a watched process or cgroup.
type openedFlow struct {
	flow sockdiag.Flow
	pids []int
	at   time.Time
}

// newWatch starts a watch for new flows to the ports of the targets. The first dump is of
// the existing flows: the caller must not hang up a flow before start returns. It returns
// nil without outbound targets, and after a warning when maxWatches are running. The watch
// may outlive ctx.
func (x *action) newWatch(ctx context.Context, targets []*target) *watch {
	if x.WatchReconnect == 0 || x.DryRun {
		return nil
	}
	w := &watch{
		action:      x,
		selector:    sockdiag.Selector{Destinations: sockdiag.Everywhere(), States: sockdiag.States(sockdiag.Established)},
		old:         make(map[flowID]bool),
		warned:      make(map[netip.AddrPort]bool),
		owners:      make(chan []int),
		openedFlows: openedFlows{done: make(chan struct{})},
	}
	var ports []uint16
	watched := make(map[*namespace]bool)
	for _, t := range targets {
		if !t.isWatched() {
			continue
		}
		ports = append(ports, t.Flow.Remote.Port())
		if !watched[t.in] {
			watched[t.in] = true
			w.in = append(w.in, &watchedNamespace{Namespace: t.in.Namespace})
		}
		if t.Flow.CgroupID > rootCgroup {
			w.cgroups = append(w.cgroups, t.Flow.CgroupID)
		}
	}
	if len(ports) == 0 {
		return nil
	}
	w.selector.Ports = sockdiag.Ports(sortCompact(ports)...)
	w.cgroups = sortCompact(w.cgroups)
	select {
	case x.watching <- struct{}{}:
	default:
		x.logger.LogAttrs(ctx, slog.LevelWarn, "skipping reconnect watch, limit reached", slog.String("policy", x.Policy), slog.Int("limit", maxWatches))
		return nil
	}
	ctx, w.stop = context.WithCancel(x.closed)
	go func() {
		defer func() { <-x.watching }()
		defer close(w.done)
		w.err = w.run(ctx)
	}()
	return w
}

// isWatched reports whether the target's owner is expected to reconnect: it opened the
// flow, and would notice the hang-up.
func (t *target) isWatched() bool {
	return t.Direction == sockdiag.Outbound && t.connection == nil
}

// start sets the processes to watch and waits for the dump of the existing flows.
func (w *watch) start(targets []*target) {
	if w == nil {
		return
	}
	var pids []int
	for _, t := range targets {
		for _, h := range t.holders {
			pids = append(pids, h.pid)
		}
	}
	select {
	case w.owners <- sortCompact(pids):
	case <-w.done:
	}
}

// abandon stops the watch of a failed action.
func (w *watch) abandon() {
	if w != nil {
		w.stop()
		<-w.done
	}
}

func sortCompact[T cmp.Ordered](s []T) []T {
	slices.Sort(s)
	return slices.Compact(s)
}

// rootCgroup is the id of the root cgroup.
const rootCgroup = 1

// read dumps the new established flows to the watched ports, and removes the namespaces that
// have ended. Each flow has its own time: a dump that began before a hang-up may include the
// flow that replaces it.
func (w *watch) read(ctx context.Context) ([]openedFlow, error) {
	var flows []openedFlow
	var failed error
	w.in = slices.DeleteFunc(w.in, func(in *watchedNamespace) bool {
		err := in.dump(w.blocked, func(conn *sockdiag.Conn) error {
			for f, err := range conn.Flows(ctx, sockdiag.Query{States: w.selector.StateSet(), Selector: &w.selector}) {
				if err != nil {
					return err
				}
				if w.selector.MatchEndpoint(&f, sockdiag.Outbound) && !w.old[idOf(&f)] {
					flows = append(flows, openedFlow{flow: f, at: time.Now()})
				}
			}
			return nil
		})
		ended := errors.Is(err, errEnded)
		if !ended {
			failed = errors.Join(failed, err)
		}
		return ended
	})
	return flows, failed
}

// run collects new flows until ctx ends, or the last namespace.
func (w *watch) run(ctx context.Context) error {
	for _, in := range w.in {
		defer in.close()
	}
	before, err := w.read(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	for _, f := range before {
		w.old[idOf(&f.flow)] = true
	}
	select {
	case w.pids = <-w.owners:
	case <-ctx.Done():
		return nil
	}
	for {
		start := time.Now()
		flows, err := w.read(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if len(w.in) == 0 {
			return nil
		}
		pids, err := w.ownersOf(ctx, flows)
		if err != nil {
			return err
		}
		for _, f := range flows {
			w.old[idOf(&f.flow)] = true
			f.pids = pids[f.flow.Inode]
			// Flows of other processes are not kept.
			if len(f.pids) > 0 || slices.Contains(w.cgroups, f.flow.CgroupID) {
				w.add(f)
			}
		}
		sleep(ctx, max(watchInterval, watchPause*time.Since(start)))
	}
}

func (o *openedFlows) add(f openedFlow) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flows = append(o.flows, f)
}

// take removes and returns the first new flow that replaces the target.
func (o *openedFlows) take(t *target) (openedFlow, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := slices.IndexFunc(o.flows, func(f openedFlow) bool { return f.replaces(t) })
	if i < 0 {
		return openedFlow{}, false
	}
	found := o.flows[i]
	o.flows = slices.Delete(o.flows, i, i+1)
	return found, true
}

// ownersOf returns the watched processes that own the flows, by inode.
func (w *watch) ownersOf(ctx context.Context, flows []openedFlow) (map[uint32][]int, error) {
	if len(flows) == 0 {
		return nil, nil
	}
	proc, err := openProc()
	if err != nil {
		return nil, err
	}
	defer unix.Close(proc)
	var inodes []uint32
	for _, f := range flows {
		inodes = append(inodes, f.flow.Inode)
	}
	found, err := scanProcesses(ctx, proc, nearby(w.pids...), sortCompact(inodes), false)
	if err != nil {
		return nil, err
	}
	pids := make(map[uint32][]int)
	for inode, holders := range found.byInode {
		for _, h := range holders {
			pids[inode] = append(pids[inode], h.pid)
		}
	}
	return pids, nil
}

// end watches for the reconnects of the flows that were hung up, in the background. It sets
// AwaitReconnects of the report.
func (w *watch) end(acted []*target, report *hangup.Report) {
	if w == nil {
		return
	}
	// The caller owns the results from here on.
	own := make([]*target, len(acted))
	for i, t := range acted {
		clone := *t
		own[i] = &clone
	}
	ctx, stop := context.WithCancel(w.closed)
	finished := make(chan struct{})
	w.watches.Go(func() {
		defer stop()
		defer close(finished)
		w.finish(ctx, own)
	})
	report.AwaitReconnects = func(waiting context.Context) error {
		select {
		case <-finished:
		case <-waiting.Done():
			stop()
			<-finished
		}
		for _, t := range own {
			report.Results[t.position].Reconnect = t.Reconnect
		}
		return w.err
	}
}

// finish waits until each flow that was hung up is replaced, for at most WatchReconnect
// after the last hang-up. It sets Reconnect of the results and logs them.
func (w *watch) finish(ctx context.Context, acted []*target) {
	var until time.Time
	var waiting []*target
	for _, t := range acted {
		if t.isWatched() && !t.orphaned {
			waiting = append(waiting, t)
			until = t.actedAt.Add(w.WatchReconnect)
		}
	}
	for {
		waiting = slices.DeleteFunc(waiting, func(t *target) bool {
			found, ok := w.take(t)
			if ok {
				t.Reconnect = &hangup.Reconnect{Remote: found.flow.Remote, After: found.at.Sub(t.actedAt)}
				w.logReconnect(ctx, t)
			}
			return ok
		})
		if len(waiting) == 0 || ctx.Err() != nil || w.hasEnded() || !time.Now().Before(until) {
			break
		}
		sleep(ctx, watchInterval)
	}
	w.stop()
	<-w.done
	if w.err != nil {
		w.logger.LogAttrs(ctx, slog.LevelWarn, "reconnect watch failed", slog.String("policy", w.Policy), slog.Any("err", w.err))
		return
	}
	for _, t := range waiting {
		t.Reconnect = &hangup.Reconnect{After: time.Since(t.actedAt)}
		w.logReconnect(ctx, t)
	}
}

func (w *watch) hasEnded() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// replaces reports whether a holder of the old flow, or a process in its cgroup, opened
// the new one to the same port after the hang-up, in the same network namespace.
func (o *openedFlow) replaces(t *target) bool {
	if o.flow.Netns != t.Flow.Netns || o.flow.Remote.Port() != t.Flow.Remote.Port() || o.at.Before(t.actedAt) {
		return false
	}
	return t.Flow.CgroupID > rootCgroup && o.flow.CgroupID == t.Flow.CgroupID ||
		slices.ContainsFunc(t.holders, func(h holder) bool { return slices.Contains(o.pids, h.pid) })
}

func (w *watch) logReconnect(ctx context.Context, t *target) {
	attrs := []slog.Attr{
		slog.String("policy", w.Policy),
		slog.String("destination", t.Flow.Remote.Addr().String()),
		slog.Int("port", int(t.Flow.Remote.Port())),
		slog.Int("pid", t.PID),
		slog.String("command", t.Command),
	}
	remote, after := t.Reconnect.Remote, t.Reconnect.After
	if !remote.IsValid() {
		w.logger.LogAttrs(ctx, slog.LevelInfo, "no reconnect seen", append(attrs, slog.Duration("watched", after))...)
		return
	}
	if w.Reconnected != nil {
		w.Reconnected(&t.Result)
	}
	attrs = append(attrs, slog.String("remote", remote.String()), slog.Duration("after", after))
	if !t.Reconnect.SameAddress(&t.Flow) {
		w.metrics.reconnect.WithLabelValues(toOther).Observe(after.Seconds())
		w.logger.LogAttrs(ctx, slog.LevelInfo, "reconnected to another address", attrs...)
		return
	}
	w.metrics.reconnect.WithLabelValues(toSame).Observe(after.Seconds())
	// One warning per destination: a pool reconnects many times.
	level := slog.LevelWarn
	if w.warned[t.Flow.Remote] {
		level = slog.LevelDebug
	}
	w.warned[t.Flow.Remote] = true
	w.logger.LogAttrs(ctx, level, "reconnected to the same address", attrs...)
}
