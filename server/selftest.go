package server

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"tcphup/actuator"
	"tcphup/hangup"
)

const (
	// selfTestInterval is the time between self-tests while a method is usable.
	selfTestInterval = 5 * time.Minute
	// selfTestRetry is the time until the first repeat while none is.
	selfTestRetry = time.Second
	// selfTestTimeout bounds one self-test.
	selfTestTimeout = 10 * time.Second
)

// selfTest is the state of the repeated self-test.
type selfTest struct {
	last atomic.Pointer[[]actuator.Check]
	// requested has room for one request.
	requested chan struct{}
}

// results returns the checks of the last self-test; nil before the first one.
func (s *selfTest) results() []actuator.Check {
	if checks := s.last.Load(); checks != nil {
		return *checks
	}
	return nil
}

// request makes repeatSelfTest run the self-test now.
func (s *selfTest) request() {
	select {
	case s.requested <- struct{}{}:
	default: // already requested
	}
}

// backoff returns the times between self-tests. The zero value is ready to use.
type backoff struct{ delay time.Duration }

// next returns the time until the next self-test. It doubles until a method is usable.
func (b *backoff) next(usable bool) time.Duration {
	if usable {
		b.delay = 0
		return selfTestInterval
	}
	b.delay = min(max(2*b.delay, selfTestRetry), selfTestInterval)
	return b.delay
}

// methodUsable reports whether an application process was tried and a method is usable.
func methodUsable(checks []actuator.Check) bool {
	usable := false
	for _, c := range checks {
		if c.Pending {
			return false
		}
		usable = usable || c.Usable && (c.Name == string(hangup.Shutdown) || c.Name == string(hangup.Destroy))
	}
	return usable
}

// repeatSelfTest repeats the self-test until ctx ends: with back-off until a method is usable,
// then every selfTestInterval, and when it is requested. A pure exporter needs no method and
// tests only on request.
func (x *server) repeatSelfTest(ctx context.Context) {
	var delays backoff
	for {
		var due <-chan time.Time
		if x.options.AlertsAddress != "" {
			delay := delays.next(methodUsable(x.selfTest.results()))
			x.logger.Debug("next self-test", "after", delay)
			due = time.After(delay)
		}
		select {
		case <-ctx.Done():
			return
		case <-x.selfTest.requested:
		case <-due:
		}
		x.runSelfTest(ctx)
	}
}

// runSelfTest runs the self-test and logs each result that differs from the last one. Failed
// checks are not fatal. They are warnings only with an alert receiver.
func (x *server) runSelfTest(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, selfTestTimeout)
	defer cancel()
	checks := x.probe(limited)
	if ctx.Err() != nil {
		return
	}
	previous := x.selfTest.results()
	x.selfTest.last.Store(&checks)
	for _, c := range checks {
		i := slices.IndexFunc(previous, func(p actuator.Check) bool { return p.Name == c.Name })
		if i >= 0 && previous[i].Usable == c.Usable && previous[i].Pending == c.Pending {
			continue
		}
		level := slog.LevelDebug
		switch {
		case x.options.AlertsAddress == "":
		case c.Pending, c.Usable && i >= 0:
			level = slog.LevelInfo
		case !c.Usable:
			level = slog.LevelWarn
		}
		x.logger.LogAttrs(ctx, level, "self-test", slog.String("check", c.Name), slog.Bool("usable", c.Usable),
			slog.String("detail", c.Detail), slog.String("fix", c.Fix))
	}
}

// probe runs the self-test, in node mode in the namespace of a pod and for its processes.
func (x *server) probe(ctx context.Context) []actuator.Check {
	if !x.options.Node.Enabled {
		return x.actuator.Probe(ctx, hangup.Namespace{})
	}
	in, err := x.podToTest()
	if err != nil {
		return []actuator.Check{{
			Name: "processes", Pending: errors.Is(err, errNoPod), Detail: err.Error(),
			Fix: "the self-test is repeated until a pod runs",
		}}
	}
	return x.actuator.Probe(ctx, in)
}
