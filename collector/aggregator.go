package collector

import (
	"net/netip"
	"time"

	"tcphup/sockdiag"
)

// aggregator adds up the flows of one scan of a network namespace. It buffers no flow, only the
// aggregates and the number of subflows of each MPTCP connection.
type aggregator struct {
	mapper       destinationMapper
	destinations *destinationLimit
	inbound      *destinationLimit    // by local port, with a zero netip.Addr
	connections  []connection         // parallel to sockdiag.Table.Connections
	state        *namespaceState      // of the namespace
	observe      func(*sockdiag.Flow) // of an Observer; may be nil
	observed     sockdiag.Flow        // argument of observe
	listIdle     bool                 // collect aggregate.idleTimes in this scan
}

// namespaceState is the state of a network namespace between scans.
type namespaceState struct {
	outbound, inbound *reserved
	tcp, mptcp        *firstSeenTable // by protocol
}

func newNamespaceState(limit int, now func() time.Duration) *namespaceState {
	return &namespaceState{
		outbound: newReserved(limit), inbound: newReserved(limit),
		tcp: newFirstSeenTable(now), mptcp: newFirstSeenTable(now),
	}
}

// firstSeen returns the table for the protocol of a flow.
func (s *namespaceState) firstSeen(f *sockdiag.Flow) *firstSeenTable {
	if f.Protocol == sockdiag.MPTCP {
		return s.mptcp
	}
	return s.tcp
}

func newAggregator(mapper destinationMapper, limit int, pinned func(netip.AddrPort) bool) *aggregator {
	return &aggregator{
		mapper:       mapper,
		destinations: newDestinationLimit(limit, pinned),
		inbound:      newDestinationLimit(limit, func(netip.AddrPort) bool { return false }),
	}
}

// begin resets the aggregator for a scan of the namespace with the state.
func (a *aggregator) begin(s *namespaceState) {
	a.state = s
	a.destinations.resetFor(s.outbound)
	a.inbound.resetFor(s.inbound)
	s.tcp.beginScan()
	s.mptcp.beginScan()
}

// end finishes a scan. The arguments report for which protocols it was complete.
func (a *aggregator) end(tcp, mptcp bool) {
	defer func() {
		clear(a.connections) // release the pointers into the Table
		a.connections = a.connections[:0]
	}()
	if tcp {
		a.state.tcp.finishScan()
	}
	if mptcp {
		a.state.mptcp.finishScan()
	}
	if !tcp || !mptcp {
		return
	}
	for i := range a.connections {
		// A connection in CLOSE has ended and has no subflows.
		if c := &a.connections[i]; c.aggregate >= 0 && c.flow.State != sockdiag.Close {
			a.destinations.aggregates[c.aggregate].mptcpPart().addConnection(c)
		}
	}
}

// addMPTCP counts the MPTCP connections of a table. It must precede addTCP, which
// attributes subflows to them.
func (a *aggregator) addMPTCP(table *sockdiag.Table) {
	for i := range table.Connections() {
		flow := &table.Connections()[i]
		a.connections = append(a.connections, connection{flow: flow, aggregate: a.addConnection(flow, table.Direction(flow))})
	}
}

// addConnection counts an MPTCP connection and returns the index of its aggregate,
// inbound or excluded.
func (a *aggregator) addConnection(flow *sockdiag.Flow, direction sockdiag.Direction) int32 {
	if direction == sockdiag.Inbound {
		return inbound
	}
	d, ok := a.mapper.destination(flow.Remote)
	if !ok {
		return excluded
	}
	i := a.destinations.aggregate(d)
	a.destinations.aggregates[i].mptcpPart().states[min(flow.State, sockdiag.MaxState)][toInt(flow.MPTCPInfo.Fallback())]++
	if !sockdiag.Handshake.Has(flow.State) {
		a.state.mptcp.observe(flow)
	}
	return i
}

// addTCP counts a TCP flow. A subflow has the direction of its connection.
func (a *aggregator) addTCP(flow *sockdiag.Flow, table *sockdiag.Table) {
	var parent *connection
	direction := sockdiag.Outbound
	if i, ok := table.Connection(flow); !ok {
		direction = table.OwnDirection(flow)
	} else if parent = &a.connections[i]; parent.aggregate == inbound {
		direction = sockdiag.Inbound
	}
	if parent != nil && flow.State != sockdiag.TimeWait {
		parent.subflows++
	}
	if direction == sockdiag.Inbound {
		i := a.inbound.aggregate(netip.AddrPortFrom(netip.Addr{}, flow.Local.Port()))
		a.inbound.aggregates[i].states[min(flow.State, sockdiag.MaxState)]++
		return
	}
	remote := flow.Remote
	if parent != nil && parent.aggregate >= 0 && table.OwnDirection(flow) == sockdiag.Inbound {
		// The peer has opened this subflow from an ephemeral port.
		remote = netip.AddrPortFrom(remote.Addr(), parent.flow.Remote.Port())
	}
	if a.observe != nil && flow.State != sockdiag.TimeWait && (parent == nil || !closingStates.Has(parent.flow.State)) {
		// The argument of an unknown function escapes; a field avoids an allocation per flow.
		a.observed = *flow
		a.observed.Remote = remote
		a.observe(&a.observed)
	}
	d, ok := a.mapper.destination(remote)
	if !ok {
		return
	}
	i := a.destinations.aggregate(d) // may reallocate aggregates
	sum := &a.destinations.aggregates[i]
	sum.add(flow)
	if idle, known := flow.Idle(); a.listIdle && known && flow.State != sockdiag.TimeWait {
		sum.idleTimes = append(sum.idleTimes, idle)
	}
	if flow.State == sockdiag.TimeWait {
		return
	}
	if !sockdiag.Handshake.Has(flow.State) {
		sum.age.observe(a.state.tcp.observe(flow))
	}
	if parent != nil || flow.IsSubflow {
		sum.mptcpPart().addSubflow(flow, parent)
	}
}
