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

// family is all metrics of one name: what is said about it, and how it comes from what
// a pass has found.
type family struct {
	desc       *prometheus.Desc
	name, help string
	kind       dto.MetricType
	write      func(to *metrics, r *result)
}

// newFamily returns a family of gauges.
func newFamily(name, help string, labels []string, write func(*metrics, *result)) family {
	name = "tcphup_" + name
	return family{desc: prometheus.NewDesc(name, help, labels, nil), name: name, help: help, kind: dto.MetricType_GAUGE, write: write}
}

// newFamilies returns every family, sorted by name. A source that could not be read
// has no families of its own.
func newFamilies() []family {
	all := slices.Concat(sourceFamilies(), tcpFamilies(), mptcpFamilies())
	slices.SortFunc(all, func(a, b family) int { return strings.Compare(a.name, b.name) })
	return all
}

// sourceFamilies are about the pass itself.
func sourceFamilies() []family {
	tcp, mptcp := label("source", "tcp"), label("source", "mptcp")
	return []family{
		newFamily("scrape_success",
			"Whether the sockets of the source could be read in full; if not, its metrics are left out. The source mptcp needs the source tcp.",
			[]string{"source"}, func(to *metrics, r *result) {
				to.gauge(float64(index(r.mptcpOK())), mptcp)
				to.gauge(float64(index(r.tcpOK())), tcp)
			}),
		newFamily("scrape_duration_seconds",
			"How long it took to read the sockets of the source.",
			[]string{"source"}, func(to *metrics, r *result) {
				to.gauge(r.mptcp.took.Seconds(), mptcp)
				to.gauge(r.tcp.took.Seconds(), tcp)
			}),
	}
}

const doNotRate = " This is a snapshot of what is open now, not a counter: do not rate() it."

// tcpFamilies come from TCP sockets.
func tcpFamilies() []family {
	perDestination := func(name, help string, write func(*metrics, *series), labels ...string) family {
		return newFamily(name, help, append([]string{"destination", "port"}, labels...), func(to *metrics, r *result) {
			for i := range r.destinations {
				write(to, &r.destinations[i])
			}
		})
	}
	bounds := seconds(idleBuckets[:])
	durations := func(name, help string, of func(*group) *histogram) family {
		f := perDestination(name, help+doNotRate, func(to *metrics, s *series) {
			h := of(&s.group)
			to.histogram(bounds, h.counts[:], h.sum.Seconds(), s.destination, s.port)
		})
		f.kind = dto.MetricType_HISTOGRAM
		return f
	}
	states := stateLabels()
	armed := truthLabels("armed")
	receive, send := label("queue", "receive"), label("queue", "send")
	var reasons [sockdiag.TimerZeroWindow + 1]*dto.LabelPair
	reasons[sockdiag.TimerKeepalive] = label("reason", "keepalive_probe")
	reasons[sockdiag.TimerRetransmit] = label("reason", "retransmit")
	reasons[sockdiag.TimerZeroWindow] = label("reason", "zero_window")

	return []family{
		perDestination("sockets",
			"TCP sockets of outbound flows, subflows of MPTCP connections among them. The state time_wait holds sockets that have ended and that no process has open any more.",
			func(to *metrics, s *series) {
				for _, state := range tcpStates {
					to.count(s.states[state], s.destination, s.port, states[state])
				}
			}, "state"),
		durations("socket_idle_seconds",
			"Time since data last went in either direction, for outbound TCP sockets after the handshake and before TIME_WAIT. Keepalive probes are not data.",
			func(g *group) *histogram { return &g.idle }),
		durations("socket_peer_silence_seconds",
			"Time since the peer last acknowledged anything, a keepalive probe included, for outbound TCP sockets after the handshake and before TIME_WAIT.",
			func(g *group) *histogram { return &g.silence }),
		durations("socket_age_seconds",
			"Time since this process first saw the outbound TCP socket in a scrape after its handshake. It is a lower bound of the true age: sockets do not tell when they were made, and a restart begins anew.",
			func(g *group) *histogram { return &g.age }),
		perDestination("sockets_keepalive",
			"Outbound TCP sockets in the states established and close_wait by whether their keepalive timer is running. Those whose keepalive timer cannot be seen because a retransmission or zero-window timer runs are in neither count.",
			func(to *metrics, s *series) {
				to.count(s.unarmed, armed[0], s.destination, s.port)
				to.count(s.armed, armed[1], s.destination, s.port)
			}, "armed"),
		perDestination("sockets_stalled",
			"Outbound TCP sockets that wait for an answer in vain, by what the peer has left unanswered once or more: keepalive probes, retransmissions or zero-window probes. A peer that answers the latter but takes no data does not count.",
			func(to *metrics, s *series) {
				for timer, reason := range reasons {
					if reason != nil {
						to.count(s.stalled[timer], s.destination, s.port, reason)
					}
				}
			}, "reason"),
		perDestination("socket_queue_bytes",
			"Bytes in the queues of outbound TCP sockets: received and not yet read by the application, or written and not yet acknowledged by the peer. A SYN or FIN counts as one byte. Data that waits in an MPTCP connection, above its subflows, is not included.",
			func(to *metrics, s *series) {
				to.gauge(float64(s.receive), s.destination, s.port, receive)
				to.gauge(float64(s.send), s.destination, s.port, send)
			}, "queue"),
		newFamily("inbound_sockets",
			"TCP sockets of inbound flows by local port. The label is other for the ports with the fewest sockets when there are too many.",
			[]string{"port", "state"}, func(to *metrics, r *result) {
				for i := range r.inbound {
					for _, state := range tcpStates {
						to.count(r.inbound[i].states[state], r.inbound[i].port, states[state])
					}
				}
			}),
		newFamily("destinations_folded",
			"Destinations that are counted under destination=\"other\" because there are more than may be shown. An estimate when there are several times more.",
			nil, func(to *metrics, r *result) {
				if r.tcpOK() {
					to.gauge(float64(r.folded))
				}
			}),
	}
}

// mptcpFamilies come from MPTCP connections and their subflows. Destinations without
// have no series.
func mptcpFamilies() []family {
	perDestination := func(name, help string, write func(to *metrics, g *multipathGroup, destination, port *dto.LabelPair), labels ...string) family {
		return newFamily(name, help, append([]string{"destination", "port"}, labels...), func(to *metrics, r *result) {
			if !r.mptcpOK() {
				return
			}
			for i := range r.destinations {
				if s := &r.destinations[i]; s.multipath != nil {
					write(to, s.multipath, s.destination, s.port)
				}
			}
		})
	}
	histogram := func(name, help string, write func(to *metrics, g *multipathGroup, destination, port *dto.LabelPair)) family {
		f := perDestination(name, help+doNotRate, write)
		f.kind = dto.MetricType_HISTOGRAM
		return f
	}
	idleBounds := seconds(idleBuckets[:])
	var subflowBounds []float64
	for _, b := range subflowBuckets {
		subflowBounds = append(subflowBounds, float64(b))
	}
	states := stateLabels()
	fallbacks, backups, unknown := truthLabels("fallback"), truthLabels("backup"), label("backup", "unknown")
	roles := [...]*dto.LabelPair{label("role", "initial"), label("role", "join")}

	return []family{
		perDestination("mptcp_connections",
			"Outbound MPTCP connections by state and by whether they fell back to plain TCP. Destinations without MPTCP have no series.",
			func(to *metrics, g *multipathGroup, destination, port *dto.LabelPair) {
				for _, state := range mptcpStates {
					for i, fallback := range fallbacks {
						to.count(g.states[state][i], destination, fallback, port, states[state])
					}
				}
			}, "state", "fallback"),
		perDestination("mptcp_subflows",
			"TCP sockets that are a path of an outbound MPTCP connection, by the address that the path leads to. The backup label is unknown where the kernel shows it to CAP_NET_ADMIN only.",
			func(to *metrics, g *multipathGroup, destination, port *dto.LabelPair) {
				for i, role := range roles {
					for j, backup := range backups {
						to.count(g.subflows[i][j], backup, destination, port, role)
					}
					if n := g.hidden[i]; n > 0 {
						to.count(n, unknown, destination, port, role)
					}
				}
			}, "role", "backup"),
		histogram("mptcp_connection_subflows",
			"Number of subflows of each outbound MPTCP connection, by the address of the connection.",
			func(to *metrics, g *multipathGroup, destination, port *dto.LabelPair) {
				to.histogram(subflowBounds, g.perConn[:], float64(g.perTotal), destination, port)
			}),
		histogram("mptcp_subflow_idle_seconds",
			"Time since data last went in either direction on a subflow of an outbound MPTCP connection, by the address that the path leads to.",
			func(to *metrics, g *multipathGroup, destination, port *dto.LabelPair) {
				to.histogram(idleBounds, g.idle.counts[:], g.idle.sum.Seconds(), destination, port)
			}),
		perDestination("mptcp_connections_pathless",
			"Outbound MPTCP connections that an application holds open although their last subflow is gone.",
			func(to *metrics, g *multipathGroup, destination, port *dto.LabelPair) {
				to.count(g.pathless, destination, port)
			}),
	}
}
