package collector

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// sharedScan returns the result of a scan, which concurrent callers share. It fails when ctx ends.
func (c *Collector) sharedScan(ctx context.Context) (*result, error) {
	left := c.timeout
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	return c.scans.doUntil(ctx, time.Now().Add(left), func(ctx context.Context) *result {
		listIdle := c.snapshots.Load() > 0
		if c.node != nil {
			c.node.reader.aggregator.listIdle = listIdle
			return c.scanNode(ctx)
		}
		c.aggregator.listIdle = listIdle
		return c.scan(ctx)
	})
}

// scan reads every socket once and returns the aggregated result.
func (c *Collector) scan(ctx context.Context) *result {
	observed := func() []prometheus.Metric { return nil }
	if c.observer != nil {
		c.aggregator.observe, observed = c.observer.Observe()
	}
	c.table.Reset()
	tcp, mptcp := c.read(ctx, 0, c.own, &c.table)
	if err := errors.Join(tcp.err, mptcp.err); err != nil {
		c.logger.Log(ctx, errorLevel(err), "cannot read sockets", "err", err)
	}
	r := &result{tcp: tcp, mptcp: mptcp, idleListed: c.aggregator.listIdle}
	if one := c.aggregator.result(tcp, mptcp, nil); one != nil {
		r.add(one)
		r.observed = observed()
	}
	return r
}

// errorLevel returns the level at which an error is logged. Disconnected clients cancel
// scans; at a higher level they could fill the log.
func errorLevel(err error) slog.Level {
	if errors.Is(err, context.Canceled) {
		return slog.LevelDebug
	}
	return slog.LevelError
}
