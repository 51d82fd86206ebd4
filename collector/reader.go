package collector

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"tcphup/sockdiag"
)

// source is a *sockdiag.Conn.
type source interface {
	sockdiag.Reader
	Close() error
}

// reader reads the sockets of one network namespace after another into its aggregator.
type reader struct {
	aggregator *aggregator
	conn       source // nil if not connected
	ahead      bool   // sockdiag.Query.Ahead
	// oneDump reads the listeners and the flows with one dump, and the ephemeral ports only
	// if a direction depends on them.
	oneDump bool

	dial           func(netns uint64) (source, error)
	ephemeralPorts func() (sockdiag.PortRange, error)
	mptcpInUse     func() bool
	now            func() time.Time
	progress       *atomic.Uint64 // counts flows, in node mode; else nil
}

// errLateListener disables reader.oneDump.
var errLateListener = errors.New("read sockets: listener follows other sockets in the dump")

// read reads every socket of the calling thread's network namespace once. state is that of
// the namespace, table is empty, and netns is Flow.Netns of its flows.
func (x *reader) read(ctx context.Context, netns uint64, state *namespaceState, table *sockdiag.Table) (tcp, mptcp sourceResult) {
	x.aggregator.begin(state)
	tcp, mptcp = x.readSockets(ctx, netns, table)
	x.aggregator.end(tcp.err == nil, tcp.err == nil && mptcp.err == nil)
	return tcp, mptcp
}

// readSockets dumps both protocols into the aggregator. It requests tcp_info and
// mptcp_info for flows only: the listener dump does not visit flows, and sockets in
// TIME_WAIT have no tcp_info.
func (x *reader) readSockets(ctx context.Context, netns uint64, table *sockdiag.Table) (tcp, mptcp sourceResult) {
	start := x.now()
	if x.conn == nil {
		conn, err := x.dial(netns)
		if err != nil {
			return sourceResult{err: err}, sourceResult{}
		}
		x.conn = conn
	}
	defer func() {
		// A failed connection may keep failing; the next scan dials again.
		if tcp.err != nil || mptcp.err != nil {
			x.close()
		}
	}()

	hasMPTCP := x.mptcpInUse()
	oneDump := x.oneDump && !hasMPTCP
	var err error
	if !oneDump {
		err = x.readTable(ctx, x.conn, table)
	}
	tcp = sourceResult{err: err, took: x.now().Sub(start)}
	if err != nil {
		return tcp, sourceResult{}
	}

	// Connections first: readTCP attributes their subflows.
	start = x.now()
	if hasMPTCP {
		err = table.ReadConnections(ctx, x.conn, sockdiag.States(mptcpStates[:]...))
	}
	x.aggregator.addMPTCP(table)
	mptcp = sourceResult{err: err, took: x.now().Sub(start)}

	start = x.now()
	var lacksMPTCPDiag bool
	if oneDump {
		tcp.err = x.readListenersAndTCP(ctx, table)
	} else {
		lacksMPTCPDiag, tcp.err = x.readTCP(ctx, table)
	}
	tcp.took += x.now().Sub(start)
	if lacksMPTCPDiag {
		mptcp.err = fmt.Errorf("read MPTCP connections: %w", sockdiag.ErrNoMPTCPDiag)
	}
	return tcp, mptcp
}

// proceed shows the scan of a node that the reader is not blocked.
func (x *reader) proceed() {
	if x.progress != nil {
		x.progress.Add(1)
	}
}

// close closes the connection.
func (x *reader) close() {
	if x.conn != nil {
		_ = x.conn.Close()
		x.conn = nil
	}
}

// readTable reads the listeners and ephemeral ports of the namespace.
func (x *reader) readTable(ctx context.Context, conn source, table *sockdiag.Table) error {
	if err := table.ReadListeners(ctx, conn); err != nil {
		return err
	}
	var err error
	table.Ephemeral, err = x.ephemeralPorts()
	return err
}

// readTCP dumps TCP and reports whether a subflow shows that mptcp_diag is missing.
func (x *reader) readTCP(ctx context.Context, table *sockdiag.Table) (lacksMPTCPDiag bool, err error) {
	q := sockdiag.Query{States: sockdiag.States(tcpStates[:]...), Info: true, Ahead: x.ahead}
	for flow, err := range x.conn.Flows(ctx, q) {
		if err != nil {
			return lacksMPTCPDiag, err
		}
		x.proceed()
		lacksMPTCPDiag = lacksMPTCPDiag || table.LacksMPTCPDiag(&flow)
		x.aggregator.addTCP(&flow, table)
	}
	return lacksMPTCPDiag, nil
}

// readListenersAndTCP is readTCP and readTable in one dump, for a namespace without MPTCP
// sockets. The kernel dumps listeners before other sockets.
func (x *reader) readListenersAndTCP(ctx context.Context, table *sockdiag.Table) error {
	q := sockdiag.Query{States: sockdiag.States(tcpStates[:]...) | sockdiag.States(sockdiag.Listen), Info: true}
	flows, hasPorts := false, false
	for flow, err := range x.conn.Flows(ctx, q) {
		x.proceed()
		switch {
		case err != nil:
			return err
		case flow.State == sockdiag.Listen && flows:
			x.oneDump = false
			return errLateListener
		case flow.State == sockdiag.Listen:
			table.AddListener(&flow)
			continue
		}
		flows = true
		if !hasPorts && table.NeedsEphemeral(&flow) {
			if table.Ephemeral, err = x.ephemeralPorts(); err != nil {
				return err
			}
			hasPorts = true
		}
		x.aggregator.addTCP(&flow, table)
	}
	return nil
}
