package collector

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tcphup/sockdiag"
)

// source is where sockets come from: a *sockdiag.Conn.
type source interface {
	sockdiag.Reader
	Close() error
}

// pass reads every socket once and returns what it has found.
func (c *Collector) pass(ctx context.Context) *result {
	c.fold.begin()
	observed := func() []prometheus.Metric { return nil }
	if c.observer != nil {
		c.fold.see, observed = c.observer.Observe()
	}
	tcp, mptcp := c.read(ctx)
	c.fold.end(tcp.err == nil, tcp.err == nil && mptcp.err == nil)
	if err := errors.Join(tcp.err, mptcp.err); err != nil {
		c.logger.Log(ctx, levelOf(err), "cannot read sockets", "err", err)
	}
	r := c.result(tcp, mptcp)
	if r.tcpOK() {
		r.observed = observed()
	}
	return r
}

// levelOf returns how loud an error is to be told. That clients have gone is no fault
// of ours, and could fill the log.
func levelOf(err error) slog.Level {
	if errors.Is(err, context.Canceled) {
		return slog.LevelDebug
	}
	return slog.LevelError
}

// read asks for tcp_info of flows only: finding the listeners takes no look at
// flows, and sockets in TIME_WAIT have none to give.
func (c *Collector) read(ctx context.Context) (tcp, mptcp reading) {
	start := c.now()
	if c.conn == nil {
		conn, err := c.dial()
		if err != nil {
			return reading{err: err}, reading{}
		}
		c.conn = conn
	}
	conn := c.conn
	defer func() {
		// What has once failed may go on failing; the next pass begins with a new one.
		if tcp.err != nil || mptcp.err != nil {
			_ = conn.Close()
			c.conn = nil
		}
	}()

	table := &c.table
	table.Reset()
	err := c.readTable(ctx, conn, table)
	tcp = reading{err: err, took: c.now().Sub(start)}
	if err != nil {
		return tcp, reading{}
	}

	// Connections first: their subflows are joined to them as they come.
	start = c.now()
	err = table.ReadConnections(ctx, conn, sockdiag.States(mptcpStates[:]...))
	c.fold.addMPTCP(table, start)
	mptcp = reading{err: err, took: c.now().Sub(start)}

	start = c.now()
	tcp.err = c.readTCP(ctx, conn, table, start)
	tcp.took += c.now().Sub(start)
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

func (c *Collector) readTCP(ctx context.Context, conn source, table *sockdiag.Table, now time.Time) error {
	q := sockdiag.Query{States: sockdiag.States(tcpStates[:]...), Info: true, Ahead: true}
	for flow, err := range conn.Flows(ctx, q) {
		if err != nil {
			return err
		}
		c.fold.addTCP(&flow, table, now)
	}
	return nil
}
