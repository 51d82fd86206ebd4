package collector

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"tcphup/internal/exposition"
)

// result is what a pass has found. It does not change any more, and several scrapes
// may read it.
type result struct {
	tcp, mptcp   reading
	destinations []series // without those that are folded, but for their sum
	inbound      []series // by local port, as above
	folded       int      // destinations
	foldedMore   bool     // folded is a lower bound
	observed     []prometheus.Metric
}

// reading says how it went to read the sockets of one protocol.
type reading struct {
	err  error
	took time.Duration
}

// series is a destination that is shown, or with destination nil a local port.
type series struct {
	destination, port *dto.LabelPair
	group
}

func (r *result) tcpOK() bool { return r.tcp.err == nil }

// mptcpOK also needs what is known of TCP: subflows are TCP sockets.
func (r *result) mptcpOK() bool { return r.tcpOK() && r.mptcp.err == nil }

// otherLabel stands for whatever is not shown under a name of its own.
const otherLabel = "other"

// result returns what a pass has found. Of TCP that could not be read in full nothing
// is told.
func (c *Collector) result(tcp, mptcp reading) *result {
	r := &result{tcp: tcp, mptcp: mptcp}
	if !r.tcpOK() {
		return r
	}
	kept, rest, folded := c.fold.destinations.choose()
	for _, k := range kept {
		destination, port := c.fold.folder.labels(k.destination)
		r.destinations = append(r.destinations, series{exposition.Label("destination", destination), exposition.Label("port", port), *k.group})
	}
	if folded > 0 {
		r.destinations = append(r.destinations, series{exposition.Label("destination", otherLabel), exposition.Label("port", ""), rest})
	}
	r.folded, r.foldedMore = folded, c.fold.destinations.rest.overflown()

	kept, rest, folded = c.fold.inbound.choose()
	for _, k := range kept {
		_, port := c.fold.folder.labels(k.destination)
		r.inbound = append(r.inbound, series{nil, exposition.Label("port", port), *k.group})
	}
	if folded > 0 {
		r.inbound = append(r.inbound, series{nil, exposition.Label("port", otherLabel), rest})
	}
	return r
}
