package collector

import (
	"net/netip"
	"time"

	"tcphup/sockdiag"
)

// fold adds up the flows of one pass. It keeps no flow, only their groups, the number
// of subflows of each MPTCP connection, and the ages.
type fold struct {
	folder       folder
	destinations *contract
	inbound      *contract    // by local port; their address is the zero netip.Addr
	connections  []connection // parallel to sockdiag.Table.Connections
	tcp, mptcp   *ages
	see          func(*sockdiag.Flow) // an Observer's; nil: nobody looks on
	seen         sockdiag.Flow        // what it is shown
}

func newFold(folder folder, limit int, pinned func(netip.AddrPort) bool, now func() time.Time) *fold {
	return &fold{
		folder:       folder,
		destinations: newContract(limit, pinned),
		inbound:      newContract(limit, func(netip.AddrPort) bool { return false }),
		tcp:          newAges(now),
		mptcp:        newAges(now),
	}
}

// begin prepares for the flows of another pass.
func (f *fold) begin() {
	f.destinations.reset()
	f.inbound.reset()
	f.tcp.begin()
	f.mptcp.begin()
}

// end says which protocols the pass has seen every flow of.
func (f *fold) end(tcp, mptcp bool) {
	defer func() {
		clear(f.connections) // they refer to the Table
		f.connections = f.connections[:0]
	}()
	if tcp {
		f.tcp.finish()
	}
	if mptcp {
		f.mptcp.finish()
	}
	if !tcp || !mptcp {
		return
	}
	for i := range f.connections {
		// One in CLOSE is over and has no paths to be counted.
		if c := &f.connections[i]; c.group >= 0 && c.flow.State != sockdiag.Close {
			f.destinations.groups[c.group].paths().addPaths(c)
		}
	}
}

// addMPTCP counts the MPTCP connections of a table. It comes before the TCP flows, some
// of which are their subflows.
func (f *fold) addMPTCP(table *sockdiag.Table, now time.Time) {
	for i := range table.Connections() {
		flow := &table.Connections()[i]
		f.connections = append(f.connections, connection{flow: flow, group: f.addConnection(flow, table.Direction(flow), now)})
	}
}

// addConnection counts an MPTCP connection and returns its group.
func (f *fold) addConnection(flow *sockdiag.Flow, direction sockdiag.Direction, now time.Time) int32 {
	if direction == sockdiag.Inbound {
		return inbound
	}
	d, ok := f.folder.destination(flow.Remote)
	if !ok {
		return excluded
	}
	i := f.destinations.group(d)
	f.destinations.groups[i].paths().states[min(flow.State, sockdiag.MaxState)][index(flow.MPTCPInfo.Fallback())]++
	if !sockdiag.Handshake.Has(flow.State) {
		f.mptcp.see(flow, now)
	}
	return i
}

// addTCP counts a TCP flow. A subflow has the direction of its connection.
func (f *fold) addTCP(flow *sockdiag.Flow, table *sockdiag.Table, now time.Time) {
	var of *connection
	direction := sockdiag.Outbound
	if i, ok := table.Connection(flow); !ok {
		direction = table.OwnDirection(flow)
	} else if of = &f.connections[i]; of.group == inbound {
		direction = sockdiag.Inbound
	}
	if of != nil && flow.State != sockdiag.TimeWait {
		of.paths++
	}
	if direction == sockdiag.Inbound {
		i := f.inbound.group(netip.AddrPortFrom(netip.Addr{}, flow.Local.Port()))
		f.inbound.groups[i].states[min(flow.State, sockdiag.MaxState)]++
		return
	}
	remote := flow.Remote
	if of != nil && of.group >= 0 && table.OwnDirection(flow) == sockdiag.Inbound {
		// The peer has added this path and has some port there.
		remote = netip.AddrPortFrom(remote.Addr(), of.flow.Remote.Port())
	}
	if f.see != nil && flow.State != sockdiag.TimeWait && (of == nil || !closingStates.Has(of.flow.State)) {
		// A flow that is shown to a function nobody here knows would be allocated anew
		// each time; this one is not.
		f.seen = *flow
		f.seen.Remote = remote
		f.see(&f.seen)
	}
	d, ok := f.folder.destination(remote)
	if !ok {
		return
	}
	i := f.destinations.group(d) // may move the groups
	g := &f.destinations.groups[i]
	g.add(flow)
	if flow.State == sockdiag.TimeWait {
		return
	}
	if !sockdiag.Handshake.Has(flow.State) {
		g.age.observe(f.tcp.see(flow, now))
	}
	if of != nil || flow.IsSubflow {
		g.paths().addSubflow(flow, of)
	}
}
