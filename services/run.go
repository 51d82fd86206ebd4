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
	// maxLookups is how many lookups of a family run at once, so that those of one family
	// that hang do not delay the other. lookupGap is the least time from the lookup of one
	// name to that of the next.
	maxLookups = 32
	lookupGap  = 5 * time.Millisecond

	// lookupTimeout bounds one lookup with all its questions.
	lookupTimeout = 10 * time.Second

	// After a failed lookup the next comes soon, and later with every one that fails
	// too.
	firstRetry = time.Second

	// While an address is missing there are so many lookups within settle, which is
	// enough for a name that has moved from one address to another; but none sooner
	// than minPause after the last.
	lookupsPerSettle = 25
	minPause         = 50 * time.Millisecond

	// jitter lengthens every pause by up to this part of it.
	jitter = 0.2

	// saveInterval is the time between writes of the state file.
	saveInterval = 2 * time.Second
)

// Run looks names up until ctx ends, and then writes the state file once more.
func (w *Watcher) Run(ctx context.Context) {
	var lookups sync.WaitGroup
	defer w.save()
	defer lookups.Wait()
	save := time.NewTicker(saveInterval)
	defer save.Stop()
	next := time.NewTimer(0)
	defer next.Stop()

	var last time.Time // start of a lookup
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
		due, r, wait := w.take(now)
		if due != nil {
			last, wait = now, lookupGap
			for _, f := range families {
				if r.asked[f] {
					lookups.Go(func() { w.look(ctx, due, r, f) })
				}
			}
		}
		next.Reset(wait)
	}
}

// take returns the name whose lookup is due, with a round of all families that can be
// looked up, which it marks as running; or else nil and for how long nothing is due.
func (w *Watcher) take(now time.Time) (due *watch, r *round, wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	wait = time.Hour
	var free [len(families)]bool // the end of a lookup wakes Run
	for f := range free {
		free[f] = w.running[f] < maxLookups
	}
	for _, known := range w.watches {
		if at, idle := known.due(free); idle && at.Sub(now) < wait {
			due, wait = known, at.Sub(now)
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

// look looks up one family of a name and records every result that this completes.
func (w *Watcher) look(ctx context.Context, known *watch, r *round, f family) {
	w.mu.Lock()
	service := known.service
	w.mu.Unlock()
	bounded, cancel := context.WithTimeout(ctx, lookupTimeout)
	addrs, err := w.lookup(bounded, service, f)
	cancel()

	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.wakeUp()
	w.running[f]--
	if ctx.Err() != nil {
		return // the failure is ours
	}
	r.finish(f, result{addrs, err})
	for _, f := range families {
		if of, ok := r.take(f); ok {
			w.record(ctx, known, f, of)
		}
	}
}

// record applies the result of a lookup and schedules the next. w.mu must be held.
func (w *Watcher) record(ctx context.Context, known *watch, f family, of result) {
	now := time.Now()
	known.lookedUp = now
	l := &known.lookups[f]
	l.running = false
	l.total++
	w.logFailure(ctx, known, f, of.err)
	l.err = of.err
	if of.err != nil {
		l.failures++
		l.inARow++
	} else {
		l.inARow = 0
		if events := known.history.take(now, f, of.addrs); len(events) > 0 {
			w.dirty = true
			w.flows.Store(nil)
			w.logEvents(ctx, known.service.Name, events)
		}
	}
	l.due = now.Add(pause(known, f))
}

// pause returns the time until the next lookup of a family.
func pause(known *watch, f family) time.Duration {
	l, service := &known.lookups[f], &known.service
	pause := service.Interval
	switch {
	case l.err != nil:
		pause = min(pause, firstRetry<<min(l.inARow-1, 16))
	case known.history.unsure(f):
		pause = min(pause, max(service.Settle/lookupsPerSettle, minPause))
	}
	if l.total == 1 {
		// All names are looked up at once when a process starts; from then on they are
		// spread.
		return time.Duration(known.phase * float64(pause))
	}
	return pause + time.Duration(rand.Float64()*jitter*float64(pause))
}

// logEvents says in one line what has changed, and names the first few addresses.
func (w *Watcher) logEvents(ctx context.Context, service string, events []event) {
	const few = 10
	attrs := []slog.Attr{slog.String("service", service)}
	for _, kind := range []string{came, cameBack, left} {
		var addrs []string
		count := 0
		for _, e := range events {
			if e.kind != kind {
				continue
			}
			if count++; count <= few {
				addrs = append(addrs, e.addr.String())
			}
		}
		if count > few {
			addrs = append(addrs, fmt.Sprintf("and %d more", count-few))
		}
		if count > 0 {
			attrs = append(attrs, slog.String(kind, strings.Join(addrs, " ")))
		}
	}
	w.logger.LogAttrs(ctx, slog.LevelInfo, "addresses of service have changed", attrs...)
}

// logFailure logs when lookups of a family begin to fail, fail for another reason or
// succeed again.
func (w *Watcher) logFailure(ctx context.Context, known *watch, f family, err error) {
	before := known.lookups[f].err
	attrs := []slog.Attr{slog.String("service", known.service.Name), slog.String("record", f.String())}
	switch {
	case reason(err) == reason(before):
	case err != nil:
		w.logger.LogAttrs(ctx, slog.LevelWarn, "service lookup failed, keeping previous addresses", append(attrs, slog.Any("err", err))...)
	default:
		w.logger.LogAttrs(ctx, slog.LevelInfo, "service lookup succeeded again", attrs...)
	}
}
