package collector

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"tcphup/sockdiag"
)

// Snapshot is what one pass has found, as its metrics tell it.
type Snapshot struct {
	// Destinations are in no particular order.
	Destinations []Destination
	// Folded counts the destinations that are counted together as other.
	Folded int
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
	list, err := c.shared.do(ctx, c.pass)
	if err != nil {
		return nil, err
	}
	return c.snapshot(list)
}

// snapshot reads back what the metrics say.
func (c *Collector) snapshot(list []prometheus.Metric) (*Snapshot, error) {
	type key struct{ address, port string }
	var (
		s      = new(Snapshot)
		index  = make(map[key]int)
		ended  = sockdiag.TimeWait.String()
		failed = errors.New("read sockets: incomplete; the log says why")
	)
	at := func(m *sample) *Destination {
		k := key{m.label("destination"), m.label("port")}
		i, ok := index[k]
		if !ok {
			i = len(s.Destinations)
			index[k] = i
			s.Destinations = append(s.Destinations, Destination{Address: k.address, Port: k.port, Idle: make([]int, len(idleBuckets)+1)})
		}
		return &s.Destinations[i]
	}
	for _, metric := range list {
		m, ok := metric.(*sample)
		if !ok {
			continue
		}
		n := int(m.gauge.GetValue())
		switch m.desc {
		case c.descs.success:
			if n == 0 && m.label("source") == "tcp" {
				return nil, failed
			}
		case c.descs.sockets:
			if m.label("state") != ended {
				at(m).Sockets += n
			}
		case c.descs.idle:
			decumulate(at(m).Idle, m.histogram)
		case c.descs.stalled:
			at(m).Stalled += n
		case c.descs.keepalive:
			if m.label("armed") == "true" {
				at(m).Armed += n
			}
		case c.descs.subflows:
			at(m).Paths += n
		case c.descs.connections:
			at(m).Connections += n
		case c.descs.pathless:
			at(m).Pathless += n
		case c.descs.inbound:
			if m.label("state") != ended {
				s.Inbound += n
			}
		case c.descs.folded:
			s.Folded = n
		}
	}
	return s, nil
}

// decumulate fills in what lies in each bucket and above the last.
func decumulate(counts []int, h *dto.Histogram) {
	below := 0
	for i, b := range h.GetBucket() {
		upTo := int(b.GetCumulativeCount())
		counts[i] = upTo - below
		below = upTo
	}
	counts[len(counts)-1] = int(h.GetSampleCount()) - below
}

// label returns the value of a label, "" when there is none of that name.
func (s *sample) label(name string) string {
	for _, l := range s.labels {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}
