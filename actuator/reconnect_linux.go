package actuator

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/sockdiag"
)

// Reconnect says where an application went after its flow was hung up.
type Reconnect struct {
	// Remote is the other end of the new flow; invalid when none was seen.
	Remote netip.AddrPort
	// After is the time from the hang-up to the first sight of the new flow; when
	// none was seen, how long it was watched for.
	After time.Duration
}

const (
	toSame  = "same"
	toOther = "other"
)

// to says whether the new flow leads to the address that was hung up.
func (r *Reconnect) to(old netip.Addr) string {
	if r.Remote.Addr() == old {
		return toSame
	}
	return toOther
}

// watchInterval is how often new flows are looked for, at most. Where reading the
// table takes long, the pauses are watchPause times as long as that.
const (
	watchInterval = 10 * time.Millisecond
	watchPause    = 9
)

// watch looks for new flows of the processes, or cgroups, whose flows are hung up.
type watch struct {
	*action
	selector sockdiag.Selector
	old      map[uint64]bool // cookies of the flows before the action
	pids     []int
	stop     context.CancelFunc
	sightings
}

// sightings are what the watching goroutine has found.
type sightings struct {
	mu   sync.Mutex
	seen []sighting

	done chan struct{} // closed when it has ended; err may be read then
	err  error
}

// sighting is a new flow that has an owner among those watched.
type sighting struct {
	flow sockdiag.Flow
	pids []int
	at   time.Time
}

// startWatch notes what there is before the action and begins to watch. It returns
// nil, which is fine to finish, when there is nothing to watch.
func (x *action) startWatch(ctx context.Context, targets []*target) *watch {
	if x.WatchReconnect == 0 || x.DryRun {
		return nil
	}
	w := &watch{
		action:    x,
		selector:  sockdiag.Selector{Destinations: everywhere(), States: sockdiag.States(sockdiag.Established)},
		old:       make(map[uint64]bool),
		sightings: sightings{done: make(chan struct{})},
	}
	for _, t := range targets {
		if t.Direction != sockdiag.Outbound || t.connection != nil {
			continue
		}
		w.selector.Ports = append(w.selector.Ports, t.Flow.Remote.Port())
		for _, h := range t.holders {
			w.pids = append(w.pids, h.pid)
		}
	}
	if len(w.selector.Ports) == 0 {
		return nil
	}
	w.selector.Ports = sortCompact(w.selector.Ports)
	w.pids = sortCompact(w.pids)

	conn, err := sockdiag.Dial()
	if err != nil {
		x.logger.LogAttrs(ctx, slog.LevelWarn, "cannot watch for reconnects", slog.Any("err", err))
		return nil
	}
	before, err := w.read(ctx, conn)
	if err != nil {
		_ = conn.Close()
		x.logger.LogAttrs(ctx, slog.LevelWarn, "cannot watch for reconnects", slog.Any("err", err))
		return nil
	}
	for _, f := range before {
		w.old[f.Cookie] = true
	}
	if x.WatchLater {
		ctx = x.closed
	}
	ctx, w.stop = context.WithCancel(ctx)
	go func() {
		defer close(w.done)
		defer conn.Close()
		w.err = w.run(ctx, conn)
	}()
	return w
}

func everywhere() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
}

func sortCompact[T int | uint16 | uint32](s []T) []T {
	slices.Sort(s)
	return slices.Compact(s)
}

// read returns the established flows to the watched ports that are not old.
func (w *watch) read(ctx context.Context, conn *sockdiag.Conn) ([]sockdiag.Flow, error) {
	var flows []sockdiag.Flow
	for f, err := range conn.Flows(ctx, sockdiag.Query{States: w.selector.StateSet(), Selector: &w.selector}) {
		if err != nil {
			return nil, err
		}
		if w.selector.CoversIn(&f, sockdiag.Outbound) && !w.old[f.Cookie] {
			flows = append(flows, f)
		}
	}
	return flows, nil
}

// run notes new flows until ctx ends.
func (w *watch) run(ctx context.Context, conn *sockdiag.Conn) error {
	for {
		start := time.Now()
		flows, err := w.read(ctx, conn)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		now := time.Now()
		pids, err := w.ownersOf(ctx, flows)
		if err != nil {
			return err
		}
		for _, f := range flows {
			w.old[f.Cookie] = true
			w.add(sighting{flow: f, pids: pids[f.Inode], at: now})
		}
		sleep(ctx, max(watchInterval, watchPause*time.Since(start)))
	}
}

func (s *sightings) add(one sighting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, one)
}

// take returns the first new flow that stands in for the target's, once.
func (s *sightings) take(t *target) (sighting, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.seen, func(one sighting) bool { return one.succeeds(t) })
	if i < 0 {
		return sighting{}, false
	}
	found := s.seen[i]
	s.seen = slices.Delete(s.seen, i, i+1)
	return found, true
}

// ownersOf looks through the watched processes alone.
func (w *watch) ownersOf(ctx context.Context, flows []sockdiag.Flow) (map[uint32][]int, error) {
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
		inodes = append(inodes, f.Inode)
	}
	found, err := lookThrough(ctx, proc, w.pids, sortCompact(inodes))
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

// end finishes the watch, now or later.
func (w *watch) end(ctx context.Context, acted []*target) {
	if w == nil {
		return
	}
	if !w.WatchLater {
		w.finish(ctx, acted)
		return
	}
	// The results are the caller's from here on, so the watch has its own.
	own := make([]*target, len(acted))
	for i, t := range acted {
		clone := *t
		own[i] = &clone
	}
	w.watches.Go(func() { w.finish(w.closed, own) })
}

// finish waits until each flow that was hung up has a successor or
// WatchReconnect is over, and notes what was seen.
func (w *watch) finish(ctx context.Context, acted []*target) {
	var until time.Time
	var waiting []*target
	for _, t := range acted {
		if t.Direction == sockdiag.Outbound && t.connection == nil && !t.orphaned {
			waiting = append(waiting, t)
			until = t.acted.Add(w.WatchReconnect)
		}
	}
	for {
		waiting = slices.DeleteFunc(waiting, func(t *target) bool {
			found, ok := w.take(t)
			if ok {
				t.Reconnect = &Reconnect{Remote: found.flow.Remote, After: found.at.Sub(t.acted)}
				w.tell(ctx, t)
			}
			return ok
		})
		if len(waiting) == 0 || ctx.Err() != nil || !time.Now().Before(until) {
			break
		}
		sleep(ctx, watchInterval)
	}
	w.stop()
	<-w.done
	if w.err != nil {
		w.logger.LogAttrs(ctx, slog.LevelWarn, "watching for reconnects failed", slog.Any("err", w.err))
		return
	}
	for _, t := range waiting {
		t.Reconnect = &Reconnect{After: time.Since(t.acted)}
		w.tell(ctx, t)
	}
}

// succeeds reports whether the new flow stands in for the old one: the same port,
// opened after the hang-up by a process that held the old one, or in its cgroup.
func (s *sighting) succeeds(t *target) bool {
	if s.flow.Remote.Port() != t.Flow.Remote.Port() || s.at.Before(t.acted) {
		return false
	}
	const rootCgroup = 1
	return t.Flow.CgroupID > rootCgroup && s.flow.CgroupID == t.Flow.CgroupID ||
		slices.ContainsFunc(t.holders, func(h holder) bool { return slices.Contains(s.pids, h.pid) })
}

func (w *watch) tell(ctx context.Context, t *target) {
	attrs := []slog.Attr{
		slog.String("policy", w.Policy),
		slog.String("destination", t.Flow.Remote.Addr().String()),
		slog.Int("port", int(t.Flow.Remote.Port())),
		slog.Int("pid", t.PID),
		slog.String("command", t.Command),
	}
	to := t.Reconnect.to(t.Flow.Remote.Addr())
	if t.Reconnect.Remote.IsValid() {
		w.metrics.reconnect.WithLabelValues(to).Observe(t.Reconnect.After.Seconds())
	}
	switch {
	case !t.Reconnect.Remote.IsValid():
		w.logger.LogAttrs(ctx, slog.LevelInfo, "no reconnect seen", append(attrs, slog.Duration("watched", t.Reconnect.After))...)
	case to == toSame:
		w.logger.LogAttrs(ctx, slog.LevelWarn, "reconnected to the address that was just hung up",
			append(attrs, slog.Duration("after", t.Reconnect.After))...)
	default:
		w.logger.LogAttrs(ctx, slog.LevelInfo, "reconnected elsewhere",
			append(attrs, slog.String("remote", t.Reconnect.Remote.String()), slog.Duration("after", t.Reconnect.After))...)
	}
}
