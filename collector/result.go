package collector

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"tcphup/internal/exposition"
)

// result is the outcome of a scan. It is immutable and may be shared by concurrent
// scrapes.
type result struct {
	tcp, mptcp   sourceResult
	destinations []series // including other
	inbound      []series // by local port, including other
	folded       int      // number of folded destinations
	foldedMore   bool     // folded is a lower bound
	observed     []prometheus.Metric
	idleListed   bool // destinations have aggregate.idleTimes
}

// sourceResult is the outcome of the dump of one protocol.
type sourceResult struct {
	err  error
	took time.Duration
}

// series is an exported destination, or a local port if destination is nil.
type series struct {
	destination, port *dto.LabelPair
	aggregate
}

func (r *result) tcpOK() bool { return r.tcp.err == nil }

// mptcpOK requires TCP as well: subflows are TCP sockets.
func (r *result) mptcpOK() bool { return r.tcpOK() && r.mptcp.err == nil }

// otherLabel is the label value of the overflow aggregate.
const otherLabel = "other"

// newResult returns the result of the scan in the aggregator. After an incomplete dump
// of TCP it has no destinations.
func (c *Collector) newResult(tcp, mptcp sourceResult) *result {
	defer c.aggregator.destinations.releaseIdleTimes()
	r := &result{tcp: tcp, mptcp: mptcp, idleListed: c.aggregator.listIdle}
	if !r.tcpOK() {
		return r
	}
	kept, rest, folded := c.aggregator.destinations.choose()
	for _, k := range kept {
		destination, port := c.aggregator.mapper.labels(k.destination)
		r.destinations = append(r.destinations, series{exposition.Label("destination", destination), exposition.Label("port", port), *k.aggregate})
	}
	if folded > 0 {
		r.destinations = append(r.destinations, series{exposition.Label("destination", otherLabel), exposition.Label("port", ""), rest})
	}
	r.folded, r.foldedMore = folded, c.aggregator.destinations.heavy.overflown()

	kept, rest, folded = c.aggregator.inbound.choose()
	for _, k := range kept {
		_, port := c.aggregator.mapper.labels(k.destination)
		r.inbound = append(r.inbound, series{nil, exposition.Label("port", port), *k.aggregate})
	}
	if folded > 0 {
		r.inbound = append(r.inbound, series{nil, exposition.Label("port", otherLabel), rest})
	}
	return r
}
