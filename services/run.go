package services

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

const (
	// maxLookups limits the concurrent lookups of each family, so that hanging lookups in
	// one family do not delay the other. lookupGap is the minimum time between the lookups
	// of two names.
	maxLookups = 32
	lookupGap  = 5 * time.Millisecond

	// lookupTimeout bounds one lookup with all its queries.
	lookupTimeout = 10 * time.Second

	// firstRetry is the pause after the first failed lookup; it doubles up to Interval.
	firstRetry = time.Second

	// lookupsPerSettle is the number of lookups within Settle while an address is missing,
	// enough for a name that changed from one address to another. minPause is the minimum
	// time between them.
	lookupsPerSettle = 25
	minPause         = 50 * time.Millisecond

	// jitter is the maximum random extension of a pause, as a fraction.
	jitter = 0.2

	// saveInterval is the time between writes of the state file.
	saveInterval = 2 * time.Second
)

// Run looks up names until ctx ends, and then writes the state file.
func (w *Watcher) Run(ctx context.Context) {
	var lookups sync.WaitGroup
	defer func() {
		w.mu.Lock()
		w.dirty = true // times of lookups
		w.mu.Unlock()
		w.save()
	}()
	defer lookups.Wait()
	save := time.NewTicker(saveInterval)
	defer save.Stop()
	next := time.NewTimer(0)
	defer next.Stop()

	var last time.Time // start of the last lookup
	for {
		select {
		case <-ctx.Done():
			return
		case <-save.C:
			w.save()
		case <-w.wake:
		case <-next.C:
		}
		now := time.Now()
		if wait := last.Add(lookupGap).Sub(now); wait > 0 {
			next.Reset(wait)
			continue
		}
		due, r, wait := w.next(now)
		if due != nil {
			last, wait = now, lookupGap
			for _, f := range families {
				if r.asked[f] {
					lookups.Go(func() { w.lookUp(ctx, due, r, f) })
				}
			}
		}
		next.Reset(wait)
	}
}

// next returns the name whose lookup is due, with a round of its idle families, which it
// marks as running. Without a due lookup it returns nil and the time until the next.
func (w *Watcher) next(now time.Time) (due *watch, r *round, wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	wait = time.Hour
	var free [len(families)]bool // when a lookup ends, it wakes Run
	for f := range free {
		free[f] = w.running[f] < maxLookups
	}
	for _, entry := range w.watches {
		if at, idle := entry.due(free); idle && at.Sub(now) < wait {
			due, wait = entry, at.Sub(now)
		}
	}
	if due == nil || wait > 0 {
		return nil, nil, wait
	}
	r = &round{}
	for f := range due.lookups {
		if l := &due.lookups[f]; free[f] && !l.running {
			l.running, r.asked[f] = true, true
			w.running[f]++
		}
	}
	return due, r, 0
}

// lookUp looks up one family of a name and records the results that are now complete.
func (w *Watcher) lookUp(ctx context.Context, entry *watch, r *round, f family) {
	w.mu.Lock()
	service := entry.service
	w.mu.Unlock()
	bounded, cancel := context.WithTimeout(ctx, lookupTimeout)
	asked := w.boottime()
	addrs, err := w.lookup(bounded, service, f)
	cancel()

	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.wakeUp()
	w.running[f]--
	if ctx.Err() != nil || w.watches[canonical(service.Name)] != entry {
		return // canceled, not failed; or no longer watched with this resolver
	}
	r.finish(f, result{addrs, err, asked})
	for _, f := range families {
		if of, ok := r.take(f); ok {
			w.record(ctx, entry, f, of)
		}
	}
}

// record applies the result of a lookup and schedules the next. w.mu must be held.
func (w *Watcher) record(ctx context.Context, entry *watch, f family, of result) {
	now := time.Now()
	entry.lookedUp = now
	l := &entry.lookups[f]
	l.running = false
	l.total++
	w.logFailure(ctx, entry, f, of.err)
	l.err = of.err
	pending := entry.history.pending(f)
	if of.err != nil {
		l.failures++
		l.consecutive++
	} else {
		l.consecutive = 0
		if events := entry.history.update(now, of.asked, f, of.addrs); len(events) > 0 {
			w.dirty = true
			w.flows.Store(nil)
			w.logEvents(ctx, entry.service.Name, events)
		}
	}
	changed := entry.history.pending(f) != pending
	if l.total == 1 || changed {
		w.flows.Store(nil) // see flowIndex.share
	}
	w.dirty = w.dirty || changed // the state has the missing addresses
	l.due = now.Add(pause(entry, f))
}

// pause returns the time until the next lookup of a family.
func pause(entry *watch, f family) time.Duration {
	l, service := &entry.lookups[f], &entry.service
	pause := service.Interval
	switch {
	case l.err != nil:
		pause = min(pause, firstRetry<<min(l.consecutive-1, 16))
	case entry.history.pending(f):
		pause = min(pause, max(service.Settle/lookupsPerSettle, minPause))
	}
	if l.total == 1 {
		// The first lookups of all names start together, the later ones are spread.
		return time.Duration(entry.phase * float64(pause))
	}
	return pause + time.Duration(rand.Float64()*jitter*float64(pause))
}

// logEvents logs address changes in one line, with the first few addresses of each kind.
func (w *Watcher) logEvents(ctx context.Context, service string, events []event) {
	const few = 10
	attrs := []slog.Attr{slog.String("service", service)}
	for _, kind := range []string{added, returned, removed} {
		var addrs []string
		for _, e := range events {
			if e.kind == kind {
				addrs = append(addrs, e.addr.String())
			}
		}
		if more := len(addrs) - few; more > 0 {
			addrs = append(addrs[:few], fmt.Sprintf("and %d more", more))
		}
		if len(addrs) > 0 {
			attrs = append(attrs, slog.String(kind, strings.Join(addrs, " ")))
		}
	}
	w.logger.LogAttrs(ctx, slog.LevelInfo, "service addresses changed", attrs...)
}

// logFailure logs when lookups in a family start to fail, fail for another reason or
// succeed again.
func (w *Watcher) logFailure(ctx context.Context, entry *watch, f family, err error) {
	before := entry.lookups[f].err
	attrs := []slog.Attr{slog.String("service", entry.service.Name), slog.String("record", f.String())}
	switch {
	case reason(err) == reason(before):
	case err != nil:
		w.logger.LogAttrs(ctx, slog.LevelWarn, "service lookup failed, keeping previous addresses", append(attrs, slog.Any("err", err))...)
	default:
		w.logger.LogAttrs(ctx, slog.LevelInfo, "service lookup recovered", attrs...)
	}
}
