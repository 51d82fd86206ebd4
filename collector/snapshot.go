package collector

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Snapshot is the result of one scan.
type Snapshot struct {
	// Destinations are unordered and include the sum of the folded ones.
	Destinations []Destination
	// Folded is the number of destinations that are summed up as other. It is a lower
	// bound if FoldedMore is set.
	Folded     int
	FoldedMore bool
	// Inbound is the number of sockets of inbound flows, without TIME_WAIT.
	Inbound int
	// Node counts the namespaces of the node; nil without Config.Node. Destinations, Folded and
	// Inbound are about those that were read.
	Node *NodeCounts
}

// Destination holds the counts of the outbound flows to one destination.
type Destination struct {
	// Namespace and Pod are the labels namespace and pod; empty without Config.Node.
	Namespace, Pod string
	// Address and Port are the labels destination and port: an address or prefix, and a
	// port number. The sum of the folded destinations has "other" and "".
	Address, Port string
	// Sockets is the number of TCP sockets, MPTCP subflows included and TIME_WAIT
	// excluded.
	Sockets int
	// Idle counts the sockets by idle time, one element per bucket of IdleBuckets and a
	// last one above all of them. Counts are not cumulative.
	Idle []int
	// MedianIdle and LongestIdle are of the sockets with a known idle time; 0 without one. Of
	// an even number of sockets, the median is the lower one of the middle.
	MedianIdle, LongestIdle time.Duration
	// Stalled is the number of sockets with unanswered probes or retransmissions. Armed is
	// the number of sockets with a running keepalive timer.
	Stalled, Armed int
	// Subflows is the number of sockets that belong to an MPTCP connection. Connections is
	// the number of MPTCP connections, and Pathless how many of them lost their last
	// subflow.
	Subflows, Connections, Pathless int
}

// Other reports whether d is the sum of the folded destinations.
func (d *Destination) Other() bool { return d.Address == otherLabel }

// IdleBuckets returns the upper bounds of Destination.Idle in ascending order. The
// caller owns the slice.
func IdleBuckets() []time.Duration { return slices.Clone(idleBuckets[:]) }

// Snapshot scans the sockets and returns the result. It shares a running scan with
// concurrent scrapes, unless that scan lists no idle times. It fails if the dump of TCP
// sockets is incomplete; after an incomplete dump of MPTCP the MPTCP counts are 0. With
// Config.Node it fails only if NodeConfig.Find fails; see Snapshot.Node.
func (c *Collector) Snapshot(ctx context.Context) (*Snapshot, error) {
	r, err := c.listingScan(ctx)
	switch {
	case err != nil:
		return nil, err
	case !r.tcpOK() && !r.found():
		return nil, fmt.Errorf("read sockets: %w", r.tcp.err)
	}
	s := new(Snapshot)
	if r.found() {
		counts := r.node.counts
		s.Node = &counts
	}
	for _, f := range r.folded {
		s.Folded += f.n
		s.FoldedMore = s.FoldedMore || f.lower
	}
	for i := range r.destinations {
		s.Destinations = append(s.Destinations, r.destinations[i].snapshot())
	}
	for i := range r.inbound {
		s.Inbound += int(r.inbound[i].sockets())
	}
	return s, nil
}

// listingScan returns the result of a scan that lists the idle times, for exact quantiles.
// The scans of scrapes do not: their memory does not depend on the number of sockets.
func (c *Collector) listingScan(ctx context.Context) (*result, error) {
	c.snapshots.Add(1)
	defer c.snapshots.Add(-1)
	for {
		r, err := c.sharedScan(ctx)
		if err != nil || r.idleListed {
			return r, err
		}
	}
}

func (s *series) snapshot() Destination {
	d := Destination{
		Address: s.destination.GetValue(),
		Port:    s.port.GetValue(),
		Sockets: int(s.sockets()),
		Armed:   int(s.armed),
	}
	if s.pod != nil {
		d.Namespace, d.Pod = s.pod[0].GetValue(), s.pod[1].GetValue()
	}
	for _, n := range s.idle.counts {
		d.Idle = append(d.Idle, int(n))
	}
	if times := slices.Sorted(slices.Values(s.idleTimes)); len(times) > 0 {
		d.MedianIdle, d.LongestIdle = times[(len(times)-1)/2], times[len(times)-1]
	}
	for _, n := range s.stalled {
		d.Stalled += int(n)
	}
	if m := s.mptcp; m != nil {
		d.Connections, d.Pathless = int(m.connections()), int(m.pathless)
		for role := range m.subflows {
			d.Subflows += int(m.subflows[role][0] + m.subflows[role][1] + m.hidden[role])
		}
	}
	return d
}
