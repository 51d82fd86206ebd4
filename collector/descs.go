package collector

import (
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"tcphup/sockdiag"
)

// tcpStates are the states of the TCP flows that are read and shown.
var tcpStates = [...]sockdiag.State{
	sockdiag.Established, sockdiag.SynSent, sockdiag.SynRecv, sockdiag.FinWait1, sockdiag.FinWait2,
	sockdiag.TimeWait, sockdiag.CloseWait, sockdiag.LastAck, sockdiag.Closing,
}

// mptcpStates are those of MPTCP connections. There is no TIME_WAIT for them, but
// a connection may stay in CLOSE until the application closes it too.
var mptcpStates = [...]sockdiag.State{
	sockdiag.Established, sockdiag.SynSent, sockdiag.SynRecv, sockdiag.FinWait1, sockdiag.FinWait2,
	sockdiag.Close, sockdiag.CloseWait, sockdiag.LastAck, sockdiag.Closing,
}

// family is a metric without its values: one name with the labels that it has.
type family struct {
	desc       *prometheus.Desc
	name, help string
	kind       dto.MetricType
	place      int // among all families, which are sorted by name
}

// descs are the families of the collector, with the parts that do not change from one
// scrape to the next.
type descs struct {
	fixed                     fixedLabels
	idleBounds, subflowBounds []float64
	all                       []*family // by place

	sockets, idle, silence, age, keepalive, stalled, queue *family
	connections, subflows, perConn, subflowIdle, pathless  *family
	inbound, folded, success, duration                     *family
}

func newDescs() descs {
	var all []*family
	gauge := func(name, help string, labels ...string) *family {
		name = "tcphup_" + name
		f := &family{desc: prometheus.NewDesc(name, help, labels, nil), name: name, help: help, kind: dto.MetricType_GAUGE}
		all = append(all, f)
		return f
	}
	perDestination := func(name, help string, labels ...string) *family {
		return gauge(name, help, append([]string{"destination", "port"}, labels...)...)
	}
	histogram := func(name, help string) *family {
		f := perDestination(name, help+" This is a snapshot of what is open now, not a counter: do not rate() it.")
		f.kind = dto.MetricType_HISTOGRAM
		return f
	}
	var idleBounds, subflowBounds []float64
	for _, b := range idleBuckets {
		idleBounds = append(idleBounds, b.Seconds())
	}
	for _, b := range subflowBuckets {
		subflowBounds = append(subflowBounds, float64(b))
	}
	d := descs{
		fixed:         newFixedLabels(),
		idleBounds:    idleBounds,
		subflowBounds: subflowBounds,
		sockets: perDestination("sockets",
			"TCP sockets of outbound flows, subflows of MPTCP connections among them. The state time_wait holds sockets that have ended and that no process has open any more.",
			"state"),
		idle: histogram("socket_idle_seconds",
			"Time since data last went in either direction, for outbound TCP sockets after the handshake and before TIME_WAIT. Keepalive probes are not data."),
		silence: histogram("socket_peer_silence_seconds",
			"Time since the peer last acknowledged anything, a keepalive probe included, for outbound TCP sockets after the handshake and before TIME_WAIT."),
		age: histogram("socket_age_seconds",
			"Time since this process first saw the outbound TCP socket in a scrape. It is a lower bound of the true age: sockets do not tell when they were made, and a restart begins anew."),
		keepalive: perDestination("sockets_keepalive",
			"Outbound TCP sockets in the states established and close_wait by whether their keepalive timer is running. Those whose keepalive timer cannot be seen because a retransmission or zero-window timer runs are in neither count.",
			"armed"),
		stalled: perDestination("sockets_stalled",
			"Outbound TCP sockets that wait for an answer in vain, by what the peer has left unanswered once or more: keepalive probes, retransmissions or zero-window probes. A peer that answers the latter but takes no data does not count.",
			"reason"),
		queue: perDestination("socket_queue_bytes",
			"Bytes in the queues of outbound TCP sockets: received and not yet read by the application, or written and not yet acknowledged by the peer. A SYN or FIN counts as one byte. Data that waits in an MPTCP connection, above its subflows, is not included.",
			"queue"),
		connections: perDestination("mptcp_connections",
			"Outbound MPTCP connections by state and by whether they fell back to plain TCP. Destinations without MPTCP have no series.",
			"state", "fallback"),
		subflows: perDestination("mptcp_subflows",
			"TCP sockets that are a path of an outbound MPTCP connection, by the address that the path leads to. The backup label is unknown where the kernel shows it to CAP_NET_ADMIN only.",
			"role", "backup"),
		perConn: histogram("mptcp_connection_subflows",
			"Number of subflows of each outbound MPTCP connection, by the address of the connection."),
		subflowIdle: histogram("mptcp_subflow_idle_seconds",
			"Time since data last went in either direction on a subflow of an outbound MPTCP connection, by the address that the path leads to."),
		pathless: perDestination("mptcp_connections_pathless",
			"Outbound MPTCP connections that an application holds open although their last subflow is gone."),
		inbound: gauge("inbound_sockets",
			"TCP sockets of inbound flows by local port. The label is other for the ports with the fewest sockets when there are too many.",
			"port", "state"),
		folded: gauge("destinations_folded",
			"Destinations that are counted under destination=\"other\" because there are more than may be shown. An estimate when there are several times more."),
		success: gauge("scrape_success",
			"Whether the sockets of the source could be read in full; if not, its metrics are left out. The source mptcp needs the source tcp.",
			"source"),
		duration: gauge("scrape_duration_seconds",
			"How long it took to read the sockets of the source.",
			"source"),
	}
	slices.SortFunc(all, func(a, b *family) int { return strings.Compare(a.name, b.name) })
	for i, f := range all {
		f.place = i
	}
	d.all = all
	return d
}

func (d *descs) describe(ch chan<- *prometheus.Desc) {
	for _, f := range d.all {
		ch <- f.desc
	}
}
