package collector

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Snapshot is what one pass has found.
type Snapshot struct {
	// Destinations are in no particular order, the sum of those that have no place of
	// their own among them.
	Destinations []Destination
	// Folded counts the destinations that are counted together as other. FoldedMore
	// reports that it is a lower bound.
	Folded     int
	FoldedMore bool
	// Inbound counts the sockets of inbound flows, without those in TIME_WAIT.
	Inbound int
}

// Destination is what a pass has found about the outbound flows to one
// destination.
type Destination struct {
	// Address and Port are the labels destination and port: an address, or a prefix
	// of them; "other" and "" for all that are counted together.
	Address, Port string
	// Sockets counts TCP sockets without those in TIME_WAIT, paths of MPTCP
	// connections among them.
	Sockets int
	// Idle counts the sockets by their idle time: up to each of IdleBuckets and
	// longer than the one before, and at last longer than all of them.
	Idle []int
	// Stalled sockets leave probes or retransmissions unanswered, of Armed ones the
	// keepalive timer runs.
	Stalled, Armed int
	// Paths are the sockets that are a path of an MPTCP connection, Connections the
	// MPTCP connections, and Pathless those of them whose last path is gone.
	Paths, Connections, Pathless int
}

// Other reports whether this is the sum of all destinations that have no place of
// their own.
func (d *Destination) Other() bool { return d.Address == otherLabel }

// IdleBuckets returns the upper bounds of Destination.Idle, the shortest first.
func IdleBuckets() []time.Duration { return slices.Clone(idleBuckets[:]) }

// Snapshot makes a pass, or shares one with the scrapes that come at the same
// time, and returns what it found. It fails when the TCP sockets could not be read
// in full.
func (c *Collector) Snapshot(ctx context.Context) (*Snapshot, error) {
	r, err := c.shared.do(ctx, c.pass)
	switch {
	case err != nil:
		return nil, err
	case !r.tcpOK():
		return nil, fmt.Errorf("read sockets: %w", r.tcp.err)
	}
	s := &Snapshot{Folded: r.folded, FoldedMore: r.foldedMore}
	for i := range r.destinations {
		s.Destinations = append(s.Destinations, r.destinations[i].snapshot(r.mptcpOK()))
	}
	for i := range r.inbound {
		s.Inbound += int(r.inbound[i].sockets())
	}
	return s, nil
}

func (s *series) snapshot(multipath bool) Destination {
	d := Destination{
		Address: s.destination.GetValue(),
		Port:    s.port.GetValue(),
		Sockets: int(s.sockets()),
		Armed:   int(s.armed),
	}
	for _, n := range s.idle.counts {
		d.Idle = append(d.Idle, int(n))
	}
	for _, n := range s.stalled {
		d.Stalled += int(n)
	}
	if m := s.multipath; multipath && m != nil {
		d.Connections, d.Pathless = int(m.connections()), int(m.pathless)
		for role := range m.subflows {
			d.Paths += int(m.subflows[role][0] + m.subflows[role][1] + m.hidden[role])
		}
	}
	return d
}
