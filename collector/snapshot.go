package collector

import (
	"context"
	"errors"
	"slices"
	"time"

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
	p, release, err := c.shared.do(ctx, c.pass)
	if err != nil {
		return nil, err
	}
	defer release()
	return c.snapshot(p)
}

// snapshot reads back what the metrics say.
func (c *Collector) snapshot(p *page) (*Snapshot, error) {
	for _, m := range p.of(c.descs.success) {
		if labelOf(m, "source") == "tcp" && m.GetGauge().GetValue() == 0 {
			return nil, errors.New("read sockets: incomplete; the log says why")
		}
	}
	type key struct{ address, port string }
	var (
		s     = new(Snapshot)
		index = make(map[key]int)
		ended = sockdiag.TimeWait.String()
	)
	at := func(m *dto.Metric) *Destination {
		k := key{labelOf(m, "destination"), labelOf(m, "port")}
		i, ok := index[k]
		if !ok {
			i = len(s.Destinations)
			index[k] = i
			s.Destinations = append(s.Destinations, Destination{Address: k.address, Port: k.port, Idle: make([]int, len(idleBuckets)+1)})
		}
		return &s.Destinations[i]
	}
	each := func(f *family, add func(m *dto.Metric, n int)) {
		for _, m := range p.of(f) {
			add(m, int(m.GetGauge().GetValue()))
		}
	}
	d := &c.descs
	each(d.sockets, func(m *dto.Metric, n int) {
		if labelOf(m, "state") != ended {
			at(m).Sockets += n
		}
	})
	each(d.idle, func(m *dto.Metric, _ int) { decumulate(at(m).Idle, m.GetHistogram()) })
	each(d.stalled, func(m *dto.Metric, n int) { at(m).Stalled += n })
	each(d.keepalive, func(m *dto.Metric, n int) {
		if labelOf(m, "armed") == "true" {
			at(m).Armed += n
		}
	})
	each(d.subflows, func(m *dto.Metric, n int) { at(m).Paths += n })
	each(d.connections, func(m *dto.Metric, n int) { at(m).Connections += n })
	each(d.pathless, func(m *dto.Metric, n int) { at(m).Pathless += n })
	each(d.inbound, func(m *dto.Metric, n int) {
		if labelOf(m, "state") != ended {
			s.Inbound += n
		}
	})
	each(d.folded, func(_ *dto.Metric, n int) { s.Folded = n })
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

// labelOf returns the value of a label, "" when there is none of that name.
func labelOf(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}
