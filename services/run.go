package services

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"time"
)

const (
	// maxLookups is how many lookups run at once, and lookupGap the least time from
	// the start of one to the start of the next.
	maxLookups = 64
	lookupGap  = 5 * time.Millisecond

	// lookupTimeout bounds one lookup with all its questions.
	lookupTimeout = 10 * time.Second

	// An answer is asked for again after its lifetime, but not sooner than
	// minLifetime or a quarter of settle, whichever is shorter, nor later than
	// maxLifetime.
	minLifetime = 5 * time.Second
	maxLifetime = 5 * time.Minute

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

	// pollInterval is how often the files of the system's resolver are looked at and
	// the state file is written if it needs to be.
	pollInterval = 2 * time.Second
)

// Run looks names up until ctx ends, and then writes the state file once more.
func (w *Watcher) Run(ctx context.Context) {
	var lookups sync.WaitGroup
	defer w.save()
	defer lookups.Wait()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	next := time.NewTimer(0)
	defer next.Stop()
	w.changed() // from here on

	var last time.Time // start of a lookup
	for {
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
			if w.changed() {
				w.logger.Info("resolver settings have changed")
				w.lookEverythingUp()
			}
			w.save()
		case <-w.wake:
		case <-next.C:
		}
		now := time.Now()
		if wait := last.Add(lookupGap).Sub(now); wait > 0 {
			next.Reset(wait)
			continue
		}
		due, wait := w.take(now)
		if due != nil {
			last, wait = now, lookupGap
			lookups.Go(func() { w.look(ctx, due) })
		}
		next.Reset(wait)
	}
}

// take returns the name whose lookup is due and marks it as running, or else nil
// and for how long nothing is.
func (w *Watcher) take(now time.Time) (due *watch, wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	wait = time.Hour
	if w.running >= maxLookups {
		return nil, wait // the end of one wakes Run
	}
	for _, known := range w.watches {
		if until := known.due.Sub(now); !known.running && until < wait {
			due, wait = known, until
		}
	}
	if due == nil || wait > 0 {
		return nil, wait
	}
	due.running = true
	w.running++
	return due, 0
}

// lookEverythingUp makes every name due.
func (w *Watcher) lookEverythingUp() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for _, known := range w.watches {
		known.due, known.inARow = now, 0
	}
}

// look looks one name up and notes what came of it.
func (w *Watcher) look(ctx context.Context, known *watch) {
	w.mu.Lock()
	service := known.service
	w.mu.Unlock()
	bounded, cancel := context.WithTimeout(ctx, lookupTimeout)
	a, err := w.lookup(bounded, service)
	cancel()
	if err == nil && len(a.addrs) == 0 {
		err = errEmpty
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.wakeUp()
	known.running = false
	w.running--
	if ctx.Err() != nil {
		return // the failure is ours
	}
	now := time.Now()
	known.looked = now
	known.lookups++
	known.inARow++
	if err == nil {
		known.inARow = 0
	} else {
		known.failures++
	}
	w.logFailure(ctx, known, err)
	if events := known.history.take(now, a); len(events) > 0 {
		w.dirty = true
		w.flows.Store(nil)
		w.logEvents(ctx, known.service.Name, events)
	}
	known.due = now.Add(w.pause(known, a, err))
}

// pause returns how long to wait until the next lookup of a name.
func (w *Watcher) pause(known *watch, a answer, err error) time.Duration {
	settle := known.service.Settle
	pause := w.interval
	switch {
	case err != nil:
		pause = min(pause, firstRetry<<min(known.inARow-1, 16))
	case a.ttl >= 0:
		pause = min(max(a.ttl, min(minLifetime, settle/4)), maxLifetime)
	}
	if err == nil && known.history.unsure() {
		pause = min(pause, max(settle/lookupsPerSettle, minPause))
	}
	if known.lookups == 1 {
		// All names are looked up at once when a process starts; from then on they are
		// spread.
		return time.Duration(rand.Float64() * float64(pause))
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

// logFailure logs when lookups of a name begin to fail, fail for another reason or
// succeed again.
func (w *Watcher) logFailure(ctx context.Context, known *watch, err error) {
	switch {
	case reason(err) == reason(known.err):
	case err != nil:
		w.logger.LogAttrs(ctx, slog.LevelWarn, "cannot look up service, its addresses stay as they are",
			slog.String("service", known.service.Name), slog.Any("err", err))
	default:
		w.logger.LogAttrs(ctx, slog.LevelInfo, "service can be looked up again", slog.String("service", known.service.Name))
	}
	known.err = err
}

// reason returns what stays the same as long as lookups fail alike; "" when err is
// nil.
func reason(err error) string {
	var lookup *lookupError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &lookup):
		return lookup.reason
	default:
		return err.Error()
	}
}

// Resolve looks a name up once, as Run does, and returns the addresses that it
// has. Only an answer for both families counts.
func Resolve(ctx context.Context, s Service) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	a, err := newSystem("/etc/hosts", "/etc/resolv.conf").lookup(ctx, s)
	if err == nil && len(a.addrs) == 0 {
		err = errEmpty
	}
	if err != nil {
		return nil, err
	}
	return a.addrs, nil
}
