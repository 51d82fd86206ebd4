package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"tcphup/sockdiag"
)

// source is a *sockdiag.Conn.
type source interface {
	sockdiag.Reader
	Close() error
}

// scan reads every socket once and returns the aggregated result.
func (c *Collector) scan(ctx context.Context) *result {
	c.aggregator.begin()
	c.aggregator.listIdle = c.snapshots.Load() > 0
	observed := func() []prometheus.Metric { return nil }
	if c.observer != nil {
		c.aggregator.observe, observed = c.observer.Observe()
	}
	tcp, mptcp := c.readSockets(ctx)
	c.aggregator.end(tcp.err == nil, tcp.err == nil && mptcp.err == nil)
	if err := errors.Join(tcp.err, mptcp.err); err != nil {
		c.logger.Log(ctx, errorLevel(err), "cannot read sockets", "err", err)
	}
	r := c.newResult(tcp, mptcp)
	if r.tcpOK() {
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

// readSockets dumps both protocols into the aggregator. It requests tcp_info and
// mptcp_info for flows only: the listener dump does not visit flows, and sockets in
// TIME_WAIT have no tcp_info.
func (c *Collector) readSockets(ctx context.Context) (tcp, mptcp sourceResult) {
	start := c.now()
	if c.conn == nil {
		conn, err := c.dial()
		if err != nil {
			return sourceResult{err: err}, sourceResult{}
		}
		c.conn = conn
	}
	conn := c.conn
	defer func() {
		// A failed connection may keep failing; the next scan dials again.
		if tcp.err != nil || mptcp.err != nil {
			_ = conn.Close()
			c.conn = nil
		}
	}()

	table := &c.table
	table.Reset()
	err := c.readTable(ctx, conn, table)
	tcp = sourceResult{err: err, took: c.now().Sub(start)}
	if err != nil {
		return tcp, sourceResult{}
	}

	// Connections first: readTCP attributes their subflows.
	start = c.now()
	if c.mptcpInUse() {
		err = table.ReadConnections(ctx, conn, sockdiag.States(mptcpStates[:]...))
	}
	c.aggregator.addMPTCP(table)
	mptcp = sourceResult{err: err, took: c.now().Sub(start)}

	start = c.now()
	var lacksMPTCPDiag bool
	lacksMPTCPDiag, tcp.err = c.readTCP(ctx, conn, table)
	tcp.took += c.now().Sub(start)
	if lacksMPTCPDiag {
		mptcp.err = fmt.Errorf("read MPTCP connections: %w", sockdiag.ErrNoMPTCPDiag)
	}
	return tcp, mptcp
}

// readTable reads the listeners and ephemeral ports of the namespace.
func (c *Collector) readTable(ctx context.Context, conn source, table *sockdiag.Table) error {
	if err := table.ReadListeners(ctx, conn); err != nil {
		return err
	}
	var err error
	table.Ephemeral, err = c.ephemeralPorts()
	return err
}

// readTCP dumps TCP and reports whether a subflow shows that mptcp_diag is missing.
func (c *Collector) readTCP(ctx context.Context, conn source, table *sockdiag.Table) (lacksMPTCPDiag bool, err error) {
	q := sockdiag.Query{States: sockdiag.States(tcpStates[:]...), Info: true, Ahead: true}
	for flow, err := range conn.Flows(ctx, q) {
		if err != nil {
			return lacksMPTCPDiag, err
		}
		lacksMPTCPDiag = lacksMPTCPDiag || table.LacksMPTCPDiag(&flow)
		c.aggregator.addTCP(&flow, table)
	}
	return lacksMPTCPDiag, nil
}
