package collector

import (
	"slices"
	"strconv"
	"time"

	dto "github.com/prometheus/client_model/go"

	"tcphup/internal/exposition"
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

// The longest histogram and the most labels fit the memory of a metric.
var (
	_ [exposition.MaxBuckets - len(idleBuckets)]struct{}
	_ [exposition.MaxBuckets - len(subflowBuckets)]struct{}
)

type family = exposition.Family[*result]

// newFamily returns a family of gauges.
func newFamily(name, help string, write func(*exposition.Metrics, *result)) family {
	return family{Name: "tcphup_" + name, Help: help, Type: dto.MetricType_GAUGE, Write: write}
}

// families returns every family. A source that could not be read has none of its own.
func families() []family {
	return slices.Concat(sourceFamilies(), tcpFamilies(), mptcpFamilies())
}

// sourceFamilies are about the pass itself.
func sourceFamilies() []family {
	tcp, mptcp := exposition.Label("source", "tcp"), exposition.Label("source", "mptcp")
	return []family{
		newFamily("scrape_success",
			"Whether the sockets of the source could be read in full; if not, its metrics are left out. The source mptcp needs the source tcp.",
			func(to *exposition.Metrics, r *result) {
				to.Gauge(float64(index(r.mptcpOK())), mptcp)
				to.Gauge(float64(index(r.tcpOK())), tcp)
			}),
		newFamily("scrape_duration_seconds",
			"How long it took to read the sockets of the source.",
			func(to *exposition.Metrics, r *result) {
				to.Gauge(r.mptcp.took.Seconds(), mptcp)
				to.Gauge(r.tcp.took.Seconds(), tcp)
			}),
	}
}

const doNotRate = " This is a snapshot of what is open now, not a counter: do not rate() it."

// tcpFamilies come from TCP sockets.
func tcpFamilies() []family {
	perDestination := func(name, help string, write func(*exposition.Metrics, *series)) family {
		return newFamily(name, help, func(to *exposition.Metrics, r *result) {
			for i := range r.destinations {
				write(to, &r.destinations[i])
			}
		})
	}
	bounds := seconds(idleBuckets[:])
	durations := func(name, help string, of func(*group) *histogram) family {
		f := perDestination(name, help+doNotRate, func(to *exposition.Metrics, s *series) {
			h := of(&s.group)
			to.Histogram(bounds, h.counts[:], h.sum.Seconds(), s.destination, s.port)
		})
		f.Type = dto.MetricType_HISTOGRAM
		return f
	}
	states := stateLabels()
	armed := truthLabels("armed")
	receive, send := exposition.Label("queue", "receive"), exposition.Label("queue", "send")
	var reasons [sockdiag.TimerZeroWindow + 1]*dto.LabelPair
	reasons[sockdiag.TimerKeepalive] = exposition.Label("reason", "keepalive_probe")
	reasons[sockdiag.TimerRetransmit] = exposition.Label("reason", "retransmit")
	reasons[sockdiag.TimerZeroWindow] = exposition.Label("reason", "zero_window")

	return []family{
		perDestination("sockets",
			"TCP sockets of outbound flows, subflows of MPTCP connections among them. The state time_wait holds sockets that have ended and that no process has open any more.",
			func(to *exposition.Metrics, s *series) {
				for _, state := range tcpStates {
					to.Count(s.states[state], s.destination, s.port, states[state])
				}
			}),
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
			func(to *exposition.Metrics, s *series) {
				to.Count(s.unarmed, armed[0], s.destination, s.port)
				to.Count(s.armed, armed[1], s.destination, s.port)
			}),
		perDestination("sockets_stalled",
			"Outbound TCP sockets that wait for an answer in vain, by what the peer has left unanswered once or more: keepalive probes, retransmissions or zero-window probes. A peer that answers the latter but takes no data does not count.",
			func(to *exposition.Metrics, s *series) {
				for timer, reason := range reasons {
					if reason != nil {
						to.Count(s.stalled[timer], s.destination, s.port, reason)
					}
				}
			}),
		perDestination("socket_queue_bytes",
			"Bytes in the queues of outbound TCP sockets: received and not yet read by the application, or written and not yet acknowledged by the peer. A SYN or FIN counts as one byte. Data that waits in an MPTCP connection, above its subflows, is not included.",
			func(to *exposition.Metrics, s *series) {
				to.Gauge(float64(s.receive), s.destination, s.port, receive)
				to.Gauge(float64(s.send), s.destination, s.port, send)
			}),
		newFamily("inbound_sockets",
			"TCP sockets of inbound flows by local port. The label is other for the ports with the fewest sockets when there are too many.",
			func(to *exposition.Metrics, r *result) {
				for i := range r.inbound {
					for _, state := range tcpStates {
						to.Count(r.inbound[i].states[state], r.inbound[i].port, states[state])
					}
				}
			}),
		newFamily("destinations_folded",
			"Destinations that are counted under destination=\"other\" because there are more than may be shown. A lower bound when there are more than nine times as many.",
			func(to *exposition.Metrics, r *result) {
				if r.tcpOK() {
					to.Gauge(float64(r.folded))
				}
			}),
	}
}

// mptcpFamilies come from MPTCP connections and their subflows. Destinations without
// have no series.
func mptcpFamilies() []family {
	perDestination := func(name, help string, write func(to *exposition.Metrics, g *multipathGroup, destination, port *dto.LabelPair)) family {
		return newFamily(name, help, func(to *exposition.Metrics, r *result) {
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
	histogram := func(name, help string, write func(to *exposition.Metrics, g *multipathGroup, destination, port *dto.LabelPair)) family {
		f := perDestination(name, help+doNotRate, write)
		f.Type = dto.MetricType_HISTOGRAM
		return f
	}
	idleBounds := seconds(idleBuckets[:])
	var subflowBounds []float64
	for _, b := range subflowBuckets {
		subflowBounds = append(subflowBounds, float64(b))
	}
	states := stateLabels()
	fallbacks, backups, unknown := truthLabels("fallback"), truthLabels("backup"), exposition.Label("backup", "unknown")
	roles := [...]*dto.LabelPair{exposition.Label("role", "initial"), exposition.Label("role", "join")}

	return []family{
		perDestination("mptcp_connections",
			"Outbound MPTCP connections by state and by whether they fell back to plain TCP. Destinations without MPTCP have no series.",
			func(to *exposition.Metrics, g *multipathGroup, destination, port *dto.LabelPair) {
				for _, state := range mptcpStates {
					for i, fallback := range fallbacks {
						to.Count(g.states[state][i], destination, fallback, port, states[state])
					}
				}
			}),
		perDestination("mptcp_subflows",
			"TCP sockets that are a path of an outbound MPTCP connection, by the address that the path leads to. The backup label is unknown where the kernel shows it to CAP_NET_ADMIN only.",
			func(to *exposition.Metrics, g *multipathGroup, destination, port *dto.LabelPair) {
				for i, role := range roles {
					for j, backup := range backups {
						to.Count(g.subflows[i][j], backup, destination, port, role)
					}
					if n := g.hidden[i]; n > 0 {
						to.Count(n, unknown, destination, port, role)
					}
				}
			}),
		histogram("mptcp_connection_subflows",
			"Number of subflows of each outbound MPTCP connection, by the address of the connection.",
			func(to *exposition.Metrics, g *multipathGroup, destination, port *dto.LabelPair) {
				to.Histogram(subflowBounds, g.perConn[:], float64(g.perTotal), destination, port)
			}),
		histogram("mptcp_subflow_idle_seconds",
			"Time since data last went in either direction on a subflow of an outbound MPTCP connection, by the address that the path leads to.",
			func(to *exposition.Metrics, g *multipathGroup, destination, port *dto.LabelPair) {
				to.Histogram(idleBounds, g.idle.counts[:], g.idle.sum.Seconds(), destination, port)
			}),
		perDestination("mptcp_connections_pathless",
			"Outbound MPTCP connections that an application holds open although their last subflow is gone.",
			func(to *exposition.Metrics, g *multipathGroup, destination, port *dto.LabelPair) {
				to.Count(g.pathless, destination, port)
			}),
	}
}

// truthLabels are those for false and for true.
func truthLabels(name string) (labels [2]*dto.LabelPair) {
	for i := range labels {
		labels[i] = exposition.Label(name, strconv.FormatBool(i == 1))
	}
	return labels
}

func stateLabels() (labels [sockdiag.MaxState + 1]*dto.LabelPair) {
	for state := range labels {
		labels[state] = exposition.Label("state", sockdiag.State(state).String())
	}
	return labels
}

func seconds(durations []time.Duration) []float64 {
	var all []float64
	for _, d := range durations {
		all = append(all, d.Seconds())
	}
	return all
}
