package actuator

import (
	"cmp"
	"context"
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

// watchInterval is how often new flows are looked for, at most. Where reading the
// table takes long, the pauses are watchPause times as long as that.
const (
	watchInterval = 10 * time.Millisecond
	watchPause    = 9
)

// watch looks for new flows of the processes, or cgroups, whose flows are hung up.
// A nil watch is fine to use and does nothing.
type watch struct {
	*action
	selector sockdiag.Selector
	old      map[uint64]bool // cookies of the flows before the action
	owners   chan []int      // takes the processes to watch, once
	pids     []int
	cgroups  []uint64                // of the flows that are hung up, the root left out
	warned   map[netip.AddrPort]bool // who was told to have reconnected to the same address
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

// newWatch prepares to watch for new flows to the ports of the targets, and begins
// to read those that are there already: until start returns, nothing may be hung up.
// It returns nil when there is nothing to watch.
func (x *action) newWatch(ctx context.Context, targets []*target) *watch {
	if x.WatchReconnect == 0 || x.DryRun {
		return nil
	}
	w := &watch{
		action:    x,
		selector:  sockdiag.Selector{Destinations: sockdiag.Everywhere(), States: sockdiag.States(sockdiag.Established)},
		old:       make(map[uint64]bool),
		warned:    make(map[netip.AddrPort]bool),
		owners:    make(chan []int),
		sightings: sightings{done: make(chan struct{})},
	}
	for _, t := range targets {
		if !t.isWatched() {
			continue
		}
		w.selector.Ports = append(w.selector.Ports, t.Flow.Remote.Port())
		if t.Flow.CgroupID > rootCgroup {
			w.cgroups = append(w.cgroups, t.Flow.CgroupID)
		}
	}
	if len(w.selector.Ports) == 0 {
		return nil
	}
	w.selector.Ports = sortCompact(w.selector.Ports)
	w.cgroups = sortCompact(w.cgroups)
	if x.WatchLater {
		ctx = x.closed
	}
	select {
	case x.watching <- struct{}{}:
	default:
		x.logger.LogAttrs(ctx, slog.LevelWarn, "not watching for reconnects: too many actions are being watched")
		return nil
	}
	ctx, w.stop = context.WithCancel(ctx)
	go func() {
		defer func() { <-x.watching }()
		defer close(w.done)
		w.err = w.run(ctx)
	}()
	return w
}

// isWatched reports whether the target's owner may be expected to reconnect.
func (t *target) isWatched() bool {
	return t.Direction == sockdiag.Outbound && t.connection == nil
}

// start is called when the owners of the targets are known, and returns when what
// was there before has been read.
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

// abandon ends a watch of an action that has come to nothing.
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

// rootCgroup is the id of the cgroup that every process is in that is in no other.
const rootCgroup = 1

// read returns the established flows to the watched ports that are not old. Each
// has a time of its own: a reading that began before a hang-up may end with the
// flow that came of it.
func (w *watch) read(ctx context.Context, conn *sockdiag.Conn) ([]sighting, error) {
	var flows []sighting
	for f, err := range conn.Flows(ctx, sockdiag.Query{States: w.selector.StateSet(), Selector: &w.selector}) {
		if err != nil {
			return nil, err
		}
		if w.selector.MatchEndpoint(&f, sockdiag.Outbound) && !w.old[f.Cookie] {
			flows = append(flows, sighting{flow: f, at: time.Now()})
		}
	}
	return flows, nil
}

// run notes new flows until ctx ends.
func (w *watch) run(ctx context.Context) error {
	conn, err := sockdiag.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	before, err := w.read(ctx, conn)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	for _, s := range before {
		w.old[s.flow.Cookie] = true
	}
	select {
	case w.pids = <-w.owners:
	case <-ctx.Done():
		return nil
	}
	for {
		start := time.Now()
		flows, err := w.read(ctx, conn)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		pids, err := w.ownersOf(ctx, flows)
		if err != nil {
			return err
		}
		for _, s := range flows {
			w.old[s.flow.Cookie] = true
			s.pids = pids[s.flow.Inode]
			// Whoever else opens flows to these ports is of no interest, nor worth memory.
			if len(s.pids) > 0 || slices.Contains(w.cgroups, s.flow.CgroupID) {
				w.add(s)
			}
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
func (w *watch) ownersOf(ctx context.Context, flows []sighting) (map[uint32][]int, error) {
	if len(flows) == 0 {
		return nil, nil
	}
	proc, err := openProc()
	if err != nil {
		return nil, err
	}
	defer unix.Close(proc)
	var inodes []uint32
	for _, s := range flows {
		inodes = append(inodes, s.flow.Inode)
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
		w.logger.LogAttrs(ctx, slog.LevelWarn, "watching for reconnects failed", slog.Any("err", w.err))
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

// succeeds reports whether the new flow stands in for the old one: the same port,
// opened after the hang-up by a process that held the old one, or in its cgroup.
func (s *sighting) succeeds(t *target) bool {
	if s.flow.Remote.Port() != t.Flow.Remote.Port() || s.at.Before(t.actedAt) {
		return false
	}
	return t.Flow.CgroupID > rootCgroup && s.flow.CgroupID == t.Flow.CgroupID ||
		slices.ContainsFunc(t.holders, func(h holder) bool { return slices.Contains(s.pids, h.pid) })
}

func (w *watch) logReconnect(ctx context.Context, t *target) {
	attrs := []slog.Attr{
		slog.String("policy", w.Policy),
		slog.String("destination", t.Flow.Remote.Addr().String()),
		slog.Int("port", int(t.Flow.Remote.Port())),
		slog.Int("pid", t.PID),
		slog.String("command", t.Command),
	}
	to := toOther
	if t.Reconnect.SameAddress(&t.Flow) {
		to = toSame
	}
	if t.Reconnect.Remote.IsValid() {
		w.metrics.reconnect.WithLabelValues(to).Observe(t.Reconnect.After.Seconds())
	}
	switch {
	case !t.Reconnect.Remote.IsValid():
		w.logger.LogAttrs(ctx, slog.LevelInfo, "no reconnect seen", append(attrs, slog.Duration("watched", t.Reconnect.After))...)
	case to == toSame:
		// Loud once; a pool would say it for each of its connections.
		level := slog.LevelWarn
		if w.warned[t.Flow.Remote] {
			level = slog.LevelDebug
		}
		w.warned[t.Flow.Remote] = true
		w.logger.LogAttrs(ctx, level, "reconnected to the address that was just hung up",
			append(attrs, slog.Duration("after", t.Reconnect.After))...)
	default:
		w.logger.LogAttrs(ctx, slog.LevelInfo, "reconnected elsewhere",
			append(attrs, slog.String("remote", t.Reconnect.Remote.String()), slog.Duration("after", t.Reconnect.After))...)
	}
}
