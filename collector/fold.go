package collector

import (
	"net/netip"
	"time"

	"tcphup/sockdiag"
)

// fold adds up the flows of one pass. It keeps no flow, only their groups, what
// the join of subflows needs of each MPTCP connection, and the ages.
type fold struct {
	folder       folder
	destinations *contract
	inbound      *contract // by local port; their address is the zero netip.Addr
	join         join
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
	f.join.reset()
	f.tcp.begin()
	f.mptcp.begin()
}

// end says which protocols the pass has seen every flow of.
func (f *fold) end(tcp, mptcp bool) {
	if tcp {
		f.tcp.finish()
	}
	if mptcp {
		f.mptcp.finish()
	}
	if !tcp || !mptcp {
		return
	}
	for i := range f.join.connections {
		// One in CLOSE is over and has no paths to be counted.
		if c := &f.join.connections[i]; c.group >= 0 && !c.over {
			f.destinations.groups[c.group].paths().addPaths(c)
		}
	}
}

// addMPTCP counts an MPTCP connection. All of them come before the TCP flows,
// some of which are their subflows.
func (f *fold) addMPTCP(flow *sockdiag.Flow, direction sockdiag.Direction, now time.Time) {
	if direction == sockdiag.Inbound {
		f.join.add(flow, inbound)
		return
	}
	d, ok := f.folder.destination(flow.Remote)
	if !ok {
		f.join.add(flow, excluded)
		return
	}
	i := f.destinations.group(d)
	f.join.add(flow, i)
	f.destinations.groups[i].paths().states[min(flow.State, sockdiag.MaxState)][index(flow.MPTCPInfo.Fallback())]++
	if !sockdiag.Handshake.Has(flow.State) {
		f.mptcp.see(flow, now)
	}
}

// addTCP counts a TCP flow. A subflow has the direction of its connection.
func (f *fold) addTCP(flow *sockdiag.Flow, listeners *sockdiag.Listeners, now time.Time) {
	of := f.join.find(flow)
	direction := sockdiag.Outbound
	switch {
	case of == nil:
		direction = listeners.Direction(flow)
	case of.group == inbound:
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
	if of != nil && of.group >= 0 && listeners.Direction(flow) == sockdiag.Inbound {
		// The peer has added this path and has some port there.
		remote = netip.AddrPortFrom(remote.Addr(), of.remote.Port())
	}
	if f.see != nil && flow.State != sockdiag.TimeWait && (of == nil || !of.closing) {
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
