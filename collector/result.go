package collector

import (
	"net/netip"
	"slices"
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
	folded       []folded // of each namespace that was read
	observed     []prometheus.Metric
	idleListed   bool        // destinations have aggregate.idleTimes
	node         *nodeResult // nil without NodeConfig
}

// sourceResult is the outcome of the dump of one protocol.
type sourceResult struct {
	err  error
	took time.Duration
}

// folded is the number of folded destinations of a namespace.
type folded struct {
	pod   []*dto.LabelPair // see series
	n     int
	lower bool // n is a lower bound
}

// series is an exported destination, or a local port if destination is nil.
type series struct {
	pod               []*dto.LabelPair // labels namespace and pod; nil without NodeConfig
	destination, port *dto.LabelPair
	aggregate
}

func (r *result) tcpOK() bool { return r.tcp.err == nil }

// mptcpOK requires TCP as well: subflows are TCP sockets.
func (r *result) mptcpOK() bool { return r.tcpOK() && r.mptcp.err == nil }

// add appends the series of namespaces.
func (r *result) add(all ...*namespaceResult) {
	outbound, inbound := 0, 0
	for _, n := range all {
		outbound += n.outbound.len()
		inbound += n.inbound.len()
	}
	r.destinations, r.inbound = slices.Grow(r.destinations, outbound), slices.Grow(r.inbound, inbound)
	r.folded = slices.Grow(r.folded, len(all))
	for _, n := range all {
		r.destinations = n.outbound.appendTo(r.destinations)
		r.inbound = n.inbound.appendTo(r.inbound)
		r.folded = append(r.folded, folded{n.pod, n.outbound.folded, n.outbound.lower})
	}
}

// otherLabel is the label value of the overflow aggregate.
const otherLabel = "other"

// Labels of the overflow aggregates.
var otherDestination, noPort, otherPort = exposition.Label("destination", otherLabel), exposition.Label("port", ""), exposition.Label("port", otherLabel)

// namespaceResult is the result of a scan of one network namespace.
type namespaceResult struct {
	pod               []*dto.LabelPair // see series
	outbound, inbound selection
}

// selection has the kept destinations, or local ports, of a namespace.
type selection struct {
	kept     []series         // pinned and large ones first
	keys     []netip.AddrPort // of kept
	other    series           // the sum of the folded ones
	folded   int
	lower    bool // folded is a lower bound
	reserved *reserved
}

// result returns the result of the scan in the aggregator. After an incomplete dump of TCP
// it is nil, and after one of MPTCP the series have none. pod has the labels of the pod.
func (a *aggregator) result(tcp, mptcp sourceResult, pod []*dto.LabelPair) *namespaceResult {
	defer a.destinations.releaseIdleTimes()
	if tcp.err != nil {
		return nil
	}
	n := &namespaceResult{pod: pod}
	n.outbound = a.destinations.selected(func(d netip.AddrPort) series {
		destination, port := a.mapper.labels(d)
		return series{pod: pod, destination: exposition.Label("destination", destination), port: exposition.Label("port", port)}
	})
	n.outbound.other.pod, n.outbound.other.destination, n.outbound.other.port = pod, otherDestination, noPort
	n.inbound = a.inbound.selected(func(d netip.AddrPort) series {
		_, port := a.mapper.labels(d)
		return series{pod: pod, port: exposition.Label("port", port)}
	})
	n.inbound.other.pod, n.inbound.other.port = pod, otherPort
	if mptcp.err != nil {
		n.outbound.dropMPTCP()
	}
	return n
}

// selected returns the result of choose. label returns the series of a destination, without
// the aggregate.
func (l *destinationLimit) selected(label func(netip.AddrPort) series) selection {
	kept, rest, folded := l.choose()
	s := selection{folded: folded, lower: l.heavy.overflown(), reserved: l.reserved}
	s.kept, s.keys = make([]series, 0, len(kept)), make([]netip.AddrPort, 0, len(kept))
	for _, k := range kept {
		one := label(k.destination)
		one.aggregate = *k.aggregate
		s.kept, s.keys = append(s.kept, one), append(s.keys, k.destination)
	}
	s.other.aggregate = rest
	return s
}

func (s *selection) dropMPTCP() {
	for i := range s.kept {
		s.kept[i].mptcp = nil
	}
	s.other.mptcp = nil
}

// truncate folds all but the first n kept destinations.
func (s *selection) truncate(n int) {
	for i := n; i < len(s.kept); i++ {
		s.other.merge(&s.kept[i].aggregate)
		s.folded++
		delete(s.reserved.kept, s.keys[i])
	}
	s.kept = s.kept[:min(n, len(s.kept))]
}

// len returns the number of series that appendTo appends.
func (s *selection) len() int { return len(s.kept) + toInt(s.folded > 0) }

// appendTo appends the kept destinations, and the sum of the folded ones if there are any.
func (s *selection) appendTo(all []series) []series {
	all = append(all, s.kept...)
	if s.folded > 0 {
		all = append(all, s.other)
	}
	return all
}
