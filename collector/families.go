package collector

import (
	"slices"
	"strconv"

	dto "github.com/prometheus/client_model/go"

	"tcphup/internal/exposition"
	"tcphup/sockdiag"
)

// tcpStates are the exported states of TCP flows.
var tcpStates = [...]sockdiag.State{
	sockdiag.Established, sockdiag.SynSent, sockdiag.SynRecv, sockdiag.FinWait1, sockdiag.FinWait2,
	sockdiag.TimeWait, sockdiag.CloseWait, sockdiag.LastAck, sockdiag.Closing,
}

// mptcpStates are the exported states of MPTCP connections. They have no TIME_WAIT, but
// a connection may stay in CLOSE until the application closes it.
var mptcpStates = [...]sockdiag.State{
	sockdiag.Established, sockdiag.SynSent, sockdiag.SynRecv, sockdiag.FinWait1, sockdiag.FinWait2,
	sockdiag.Close, sockdiag.CloseWait, sockdiag.LastAck, sockdiag.Closing,
}

// Compile-time checks that the histograms fit into exposition.Metrics.
var (
	_ [exposition.MaxBuckets - len(idleBuckets)]struct{}
	_ [exposition.MaxBuckets - len(subflowBuckets)]struct{}
)

type family = exposition.Family[*result]

// newFamily returns a family of gauges.
func newFamily(name, help string, write func(*exposition.Metrics, *result)) family {
	return family{Name: "tcphup_" + name, Help: help, Type: dto.MetricType_GAUGE, Write: write}
}

// perDestination returns a family of gauges that write adds for each destination.
func perDestination(name, help string, write func(*exposition.Metrics, *series)) family {
	return newFamily(name, help, func(to *exposition.Metrics, r *result) {
		for i := range r.destinations {
			to.Common(r.destinations[i].pod)
			write(to, &r.destinations[i])
		}
	})
}

// perMPTCPDestination is perDestination for destinations with MPTCP, after a complete
// dump of it.
func perMPTCPDestination(name, help string, write func(*exposition.Metrics, *series)) family {
	return perDestination(name, help, func(to *exposition.Metrics, s *series) {
		if s.mptcp != nil {
			write(to, s)
		}
	})
}

// asHistogram turns a family of gauges into one of histograms.
func asHistogram(f family) family {
	f.Type = dto.MetricType_HISTOGRAM
	f.Help += " It is a snapshot of the present state, not a counter: do not use rate()."
	return f
}

// families returns all families, without the histograms that are not selected. Those of a
// failed source add no metrics. node selects the families of Config.Node.
func families(selected []Histogram, node bool) []family {
	d := sidecarDetail
	if node {
		d = nodeDetail
	}
	all := slices.Concat(sourceFamilies(node), tcpFamilies(d), mptcpFamilies(d))
	if node {
		all = append(all, nodeFamilies()...)
	}
	return slices.DeleteFunc(all, func(f family) bool {
		h, optional := histogramOf[f.Name]
		return optional && !slices.Contains(selected, h)
	})
}

// sourceFamilies returns the metrics about the scan itself.
func sourceFamilies(node bool) []family {
	missing := "If not, the metrics of the source are missing."
	if node {
		missing = "If not, the pods could not be found, or the metrics of the source are missing for namespaces that failed."
	}
	tcp, mptcp := exposition.Label("source", "tcp"), exposition.Label("source", "mptcp")
	return []family{
		newFamily("scrape_success",
			"Whether all sockets of the source were read. "+missing+" The source mptcp requires the source tcp.",
			func(to *exposition.Metrics, r *result) {
				to.Gauge(float64(toInt(r.mptcpOK())), mptcp)
				to.Gauge(float64(toInt(r.tcpOK())), tcp)
			}),
		newFamily("scrape_duration_seconds",
			"Duration of reading the sockets of the source.",
			func(to *exposition.Metrics, r *result) {
				to.Gauge(r.mptcp.took.Seconds(), mptcp)
				to.Gauge(r.tcp.took.Seconds(), tcp)
			}),
	}
}

func tcpFamilies(d detail) []family {
	bounds := newBounds(d.bounds)
	durations := func(name, help string, get func(*aggregate) *histogram) family {
		return asHistogram(perDestination(name, help, func(to *exposition.Metrics, s *series) {
			bounds.write(to, get(&s.aggregate), s.destination, s.port)
		}))
	}
	states, core := stateLabels(), sockdiag.States(d.states...)
	armed := boolLabels("armed")
	receive, send := exposition.Label("queue", "receive"), exposition.Label("queue", "send")
	var reasons [sockdiag.TimerZeroWindow + 1]*dto.LabelPair
	reasons[sockdiag.TimerKeepalive] = exposition.Label("reason", "keepalive_probe")
	reasons[sockdiag.TimerRetransmit] = exposition.Label("reason", "retransmit")
	reasons[sockdiag.TimerZeroWindow] = exposition.Label("reason", "zero_window")

	return []family{
		perDestination("sockets",
			"Outbound TCP sockets by state, including subflows of MPTCP connections. Sockets in the state time_wait are closed and belong to no process. "+d.missing(d.states, "sockets"),
			func(to *exposition.Metrics, s *series) {
				for _, state := range tcpStates {
					if n := s.states[state]; n > 0 || core.Has(state) {
						to.Count(n, s.destination, s.port, states[state])
					}
				}
			}),
		durations("socket_idle_seconds",
			"Time since the last data in either direction, of outbound TCP sockets after the handshake and before TIME_WAIT. Keepalive probes are not data.",
			func(a *aggregate) *histogram { return &a.idle }),
		durations("socket_peer_silence_seconds",
			"Time since the last acknowledgment from the peer, including answers to keepalive probes, of outbound TCP sockets after the handshake and before TIME_WAIT.",
			func(a *aggregate) *histogram { return &a.silence }),
		durations("socket_age_seconds",
			"Time since this process first saw the outbound TCP socket after its handshake. It is a lower bound of the age: the kernel exports no creation time, and a restart resets it.",
			func(a *aggregate) *histogram { return &a.age }),
		perDestination("sockets_keepalive",
			"Outbound TCP sockets in the states established and close_wait by whether their keepalive timer is running. Sockets with a running retransmission or zero-window timer, which hides the keepalive timer, are in neither count.",
			func(to *exposition.Metrics, s *series) {
				to.Count(s.unarmed, armed[0], s.destination, s.port)
				to.Count(s.armed, armed[1], s.destination, s.port)
			}),
		perDestination("sockets_stalled",
			"Outbound TCP sockets with an unanswered keepalive probe, retransmission or zero-window probe. A peer that answers zero-window probes with a closed window does not count.",
			func(to *exposition.Metrics, s *series) {
				for timer, reason := range reasons {
					if reason != nil {
						to.Count(s.stalled[timer], s.destination, s.port, reason)
					}
				}
			}),
		perDestination("socket_queue_bytes",
			"Bytes in the queues of outbound TCP sockets: received and not yet read by the application, or written and not yet acknowledged by the peer. A SYN or FIN counts as one byte. Data queued in an MPTCP connection, above its subflows, is not included.",
			func(to *exposition.Metrics, s *series) {
				to.Gauge(float64(s.receive), s.destination, s.port, receive)
				to.Gauge(float64(s.send), s.destination, s.port, send)
			}),
		newFamily("inbound_sockets",
			"Inbound TCP sockets by local port and state. Above the limit of ports, the ports with the fewest sockets are summed up as port=\"other\". "+d.missing(d.states, "sockets"),
			func(to *exposition.Metrics, r *result) {
				for i := range r.inbound {
					to.Common(r.inbound[i].pod)
					for _, state := range tcpStates {
						if n := r.inbound[i].states[state]; n > 0 || core.Has(state) {
							to.Count(n, r.inbound[i].port, states[state])
						}
					}
				}
			}),
		newFamily("destinations_folded",
			"Destinations above the limit, which are summed up as destination=\"other\". It is a lower bound if there are more than nine times as many destinations as the limit.",
			func(to *exposition.Metrics, r *result) {
				for _, f := range r.folded {
					to.Common(f.pod)
					to.Gauge(float64(f.n))
				}
			}),
	}
}

func mptcpFamilies(d detail) []family {
	idleBounds := newBounds(d.bounds)
	var subflowBounds []float64
	for _, b := range subflowBuckets {
		subflowBounds = append(subflowBounds, float64(b))
	}
	states, core := stateLabels(), sockdiag.States(d.states...)
	fallbacks, backups, unknown := boolLabels("fallback"), boolLabels("backup"), exposition.Label("backup", "unknown")
	roles := [...]*dto.LabelPair{exposition.Label("role", "initial"), exposition.Label("role", "join")}

	return []family{
		perMPTCPDestination("mptcp_connections",
			"Outbound MPTCP connections by state and by whether they fell back to plain TCP. Destinations without MPTCP have no series. "+d.missing(d.connectionStates(), "connections"),
			func(to *exposition.Metrics, s *series) {
				for _, state := range mptcpStates {
					for i, fallback := range fallbacks {
						if n := s.mptcp.states[state][i]; n > 0 || core.Has(state) {
							to.Count(n, s.destination, fallback, s.port, states[state])
						}
					}
				}
			}),
		perMPTCPDestination("mptcp_subflows",
			"Subflows of outbound MPTCP connections by the destination of the subflow. The label backup is unknown where the kernel requires CAP_NET_ADMIN to read it.",
			func(to *exposition.Metrics, s *series) {
				for i, role := range roles {
					for j, backup := range backups {
						to.Count(s.mptcp.subflows[i][j], backup, s.destination, s.port, role)
					}
					if n := s.mptcp.hidden[i]; n > 0 {
						to.Count(n, unknown, s.destination, s.port, role)
					}
				}
			}),
		asHistogram(perMPTCPDestination("mptcp_connection_subflows",
			"Number of subflows of each outbound MPTCP connection, by the destination of the connection.",
			func(to *exposition.Metrics, s *series) {
				to.Histogram(subflowBounds, s.mptcp.perConn[:], float64(s.mptcp.perTotal), s.destination, s.port)
			})),
		asHistogram(perMPTCPDestination("mptcp_subflow_idle_seconds",
			"Time since the last data in either direction on a subflow of an outbound MPTCP connection, by the destination of the subflow.",
			func(to *exposition.Metrics, s *series) {
				idleBounds.write(to, &s.mptcp.idle, s.destination, s.port)
			})),
		perMPTCPDestination("mptcp_connections_pathless",
			"Outbound MPTCP connections without a subflow that an application holds open.",
			func(to *exposition.Metrics, s *series) {
				to.Count(s.mptcp.pathless, s.destination, s.port)
			}),
	}
}

// boolLabels returns the labels with the values false and true.
func boolLabels(name string) (labels [2]*dto.LabelPair) {
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
