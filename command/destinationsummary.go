package command

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"tcphup/sockdiag"
)

// destinationSummary aggregates the outbound flows to one destination, or the inbound
// flows at one local address, in one network namespace.
type destinationSummary struct {
	summaryKey
	sockets   int             // TCP sockets, including subflows of MPTCP connections
	closing   int             // sockets that the local side has closed already
	stalled   int             // sockets with an unanswered probe or retransmission
	keepalive int             // sockets with a running keepalive timer
	subflows  int             // sockets that are subflows of MPTCP connections
	pathless  int             // MPTCP connections without subflows
	idle      []time.Duration // known idle times, sorted by summaries.sorted
}

// idleAt returns a quantile of the idle times: 0.5 is the median, 1 the maximum. It
// returns false if no idle time is known.
func (d *destinationSummary) idleAt(quantile float64) (time.Duration, bool) {
	if len(d.idle) == 0 {
		return 0, false
	}
	return d.idle[int(quantile*float64(len(d.idle)-1))], true
}

func (d *destinationSummary) add(f *listedFlow) {
	if f.Protocol == sockdiag.MPTCP {
		d.pathless++
		return
	}
	d.sockets++
	if idle, known := f.Idle(); known {
		d.idle = append(d.idle, idle)
	}
	if f.ClosedHere() {
		d.closing++
	}
	if f.Stalled() {
		d.stalled++
	}
	// The kernel also uses this timer for other timeouts, such as FIN_WAIT2.
	if f.Timer == sockdiag.TimerKeepalive && (f.State == sockdiag.Established || f.State == sockdiag.CloseWait) {
		d.keepalive++
	}
	if f.subflow {
		d.subflows++
	}
}

// summaries aggregates flows by destination.
type summaries map[summaryKey]*destinationSummary

type summaryKey struct {
	netns     string
	direction sockdiag.Direction
	address   netip.AddrPort
}

func (all summaries) add(f *listedFlow) {
	key := summaryKey{f.netns, f.direction, f.service()}
	d := all[key]
	if d == nil {
		d = &destinationSummary{summaryKey: key}
		all[key] = d
	}
	d.add(f)
}

// sorted returns the destinations in an order: by their longest idle time, their number of
// sockets or their address. Equal ones have the longest idle first.
func (all summaries) sorted(by string) []*destinationSummary {
	list := slices.Collect(maps.Values(all))
	for _, d := range list {
		slices.Sort(d.idle)
	}
	slices.SortFunc(list, func(a, b *destinationSummary) int {
		first := 0
		switch by {
		case sortSockets:
			first = cmp.Compare(b.sockets, a.sockets)
		case sortDestination:
			first = cmp.Or(a.address.Compare(b.address), cmp.Compare(a.direction, b.direction))
		}
		return cmp.Or(first,
			cmp.Compare(idleOrder(b.idleAt(1)), idleOrder(a.idleAt(1))),
			cmp.Compare(b.sockets, a.sockets),
			cmp.Compare(a.direction, b.direction),
			a.address.Compare(b.address),
			cmp.Compare(a.netns, b.netns),
		)
	})
	return list
}

// sortFlows sorts the flows by their idle time, the number of sockets of their destination,
// their destination or their owner. Equal ones have the longest idle first.
func (s *snapshot) sortFlows(by string) {
	sockets := make(map[summaryKey]int)
	for _, d := range s.destinations {
		sockets[d.summaryKey] = d.sockets
	}
	key := func(f *listedFlow) summaryKey { return summaryKey{f.netns, f.direction, f.service()} }
	slices.SortFunc(s.flows, func(a, b *listedFlow) int {
		first := 0
		switch by {
		case sortSockets:
			first = cmp.Or(cmp.Compare(sockets[key(b)], sockets[key(a)]), a.service().Compare(b.service()))
		case sortDestination:
			first = a.service().Compare(b.service())
		case sortOwner:
			first = s.compareOwners(a, b)
		}
		return cmp.Or(first, cmp.Compare(idleOrder(b.Idle()), idleOrder(a.Idle())), a.Remote.Compare(b.Remote), a.Local.Compare(b.Local))
	})
}

// compareOwners compares commands, then process ids. Flows without an owner come last.
func (s *snapshot) compareOwners(a, b *listedFlow) int {
	ownerA, knownA := s.owners.ByInode[a.Inode]
	ownerB, knownB := s.owners.ByInode[b.Inode]
	switch {
	case knownA && knownB:
		return cmp.Or(cmp.Compare(ownerA.Command, ownerB.Command), cmp.Compare(ownerA.PID, ownerB.PID))
	case knownA:
		return -1
	case knownB:
		return 1
	default:
		return 0
	}
}

// idleOrder returns a sort key that is below every idle time if the time is unknown.
func idleOrder(idle time.Duration, known bool) time.Duration {
	if !known {
		return -1
	}
	return idle
}
