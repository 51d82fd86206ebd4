package command

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"tcphup/sockdiag"
)

// destinationSummary is what the flows to one destination, or those that were
// accepted at one local address, have in common.
type destinationSummary struct {
	direction sockdiag.Direction
	address   netip.AddrPort
	sockets   int // TCP sockets, paths of MPTCP connections among them
	stalled   int
	armed     int             // keepalive timer is running
	paths     int             // sockets that are a path of an MPTCP connection
	pathless  int             // MPTCP connections without a path
	idle      []time.Duration // of the sockets that tell, the shortest first
}

// idleAt returns the idle time that the fraction of the sockets does not exceed:
// 0.5 asks for the median, 1 for the longest. It reports false when none tells.
func (d *destinationSummary) idleAt(fraction float64) (time.Duration, bool) {
	if len(d.idle) == 0 {
		return 0, false
	}
	return d.idle[int(fraction*float64(len(d.idle)-1))], true
}

func (d *destinationSummary) add(s *seen) {
	if s.Protocol == sockdiag.MPTCP {
		d.pathless++
		return
	}
	d.sockets++
	if idle, known := s.Idle(); known {
		d.idle = append(d.idle, idle)
	}
	if s.Stalled() {
		d.stalled++
	}
	// In other states the keepalive timer does the work of another one.
	if s.Timer == sockdiag.TimerKeepalive && (s.State == sockdiag.Established || s.State == sockdiag.CloseWait) {
		d.armed++
	}
	if s.path {
		d.paths++
	}
}

// summaries adds up flows by destination.
type summaries map[summaryKey]*destinationSummary

type summaryKey struct {
	direction sockdiag.Direction
	address   netip.AddrPort
}

func (all summaries) add(s *seen) {
	key := summaryKey{s.direction, s.service()}
	d := all[key]
	if d == nil {
		d = &destinationSummary{direction: key.direction, address: key.address}
		all[key] = d
	}
	d.add(s)
}

// sorted returns the destinations, that with the oldest idle flow first.
func (all summaries) sorted() []*destinationSummary {
	list := make([]*destinationSummary, 0, len(all))
	for _, d := range all {
		slices.Sort(d.idle)
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b *destinationSummary) int {
		return cmp.Or(
			compareIdle(a.idleAt(1))(b.idleAt(1)),
			cmp.Compare(b.sockets, a.sockets),
			cmp.Compare(a.direction, b.direction),
			a.address.Compare(b.address),
		)
	})
	return list
}

// sortFlows puts the oldest idle flow first.
func sortFlows(flows []*seen) {
	slices.SortFunc(flows, func(a, b *seen) int {
		return cmp.Or(compareIdle(a.Idle())(b.Idle()), a.Remote.Compare(b.Remote), a.Local.Compare(b.Local))
	})
}

// compareIdle orders the longer time first and what is not known last.
func compareIdle(a time.Duration, aKnown bool) func(b time.Duration, bKnown bool) int {
	return func(b time.Duration, bKnown bool) int {
		switch {
		case aKnown && bKnown:
			return cmp.Compare(b, a)
		case aKnown:
			return -1
		case bKnown:
			return 1
		default:
			return 0
		}
	}
}
