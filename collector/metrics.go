package collector

import (
	"strconv"
	"time"

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

// descs are the descriptors of every metric of the collector.
type descs struct {
	sockets, idle, silence, age, keepalive, stalled, queue *prometheus.Desc
	connections, subflows, perConn, subflowIdle, pathless  *prometheus.Desc
	inbound, folded, success, duration                     *prometheus.Desc
}

const doNotRate = " This is a snapshot of what is open now, not a counter: do not rate() it."

func newDescs() descs {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("tcphup_"+name, help, labels, nil)
	}
	perDestination := func(name, help string, labels ...string) *prometheus.Desc {
		return desc(name, help, append([]string{"destination", "port"}, labels...)...)
	}
	return descs{
		sockets: perDestination("sockets",
			"TCP sockets of outbound flows, subflows of MPTCP connections among them. The state time_wait holds sockets that have ended and that no process has open any more.",
			"state"),
		idle: perDestination("socket_idle_seconds",
			"Time since data last went in either direction, for outbound TCP sockets after the handshake and before TIME_WAIT. Keepalive probes are not data."+doNotRate),
		silence: perDestination("socket_peer_silence_seconds",
			"Time since the peer last acknowledged anything, a keepalive probe included, for outbound TCP sockets after the handshake and before TIME_WAIT."+doNotRate),
		age: perDestination("socket_age_seconds",
			"Time since this process first saw the outbound TCP socket in a scrape. It is a lower bound of the true age: sockets do not tell when they were made, and a restart begins anew."+doNotRate),
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
		perConn: perDestination("mptcp_connection_subflows",
			"Number of subflows of each outbound MPTCP connection, by the address of the connection."+doNotRate),
		subflowIdle: perDestination("mptcp_subflow_idle_seconds",
			"Time since data last went in either direction on a subflow of an outbound MPTCP connection, by the address that the path leads to."+doNotRate),
		pathless: perDestination("mptcp_connections_pathless",
			"Outbound MPTCP connections that an application holds open although their last subflow is gone."),
		inbound: desc("inbound_sockets",
			"TCP sockets of inbound flows by local port. The label is other for the ports with the fewest sockets when there are too many.",
			"port", "state"),
		folded: desc("destinations_folded",
			"Destinations that are counted under destination=\"other\" because there are more than may be shown. An estimate when there are several times more."),
		success: desc("scrape_success",
			"Whether the sockets of the source could be read in full; if not, its metrics are left out. The source mptcp needs the source tcp.",
			"source"),
		duration: desc("scrape_duration_seconds",
			"How long it took to read the sockets of the source.",
			"source"),
	}
}

func (d *descs) describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		d.sockets, d.idle, d.silence, d.age, d.keepalive, d.stalled, d.queue,
		d.connections, d.subflows, d.perConn, d.subflowIdle, d.pathless,
		d.inbound, d.folded, d.success, d.duration,
	} {
		ch <- desc
	}
}

// metrics collects const metrics.
type metrics struct {
	descs *descs
	list  []prometheus.Metric
}

func (m *metrics) gauge(desc *prometheus.Desc, value float64, labels ...string) {
	m.list = append(m.list, prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...))
}

func (m *metrics) source(name string, success bool, took time.Duration) {
	m.gauge(m.descs.success, float64(index(success)), name)
	m.gauge(m.descs.duration, took.Seconds(), name)
}

// tcp adds the metrics of one destination that come from its TCP sockets.
func (m *metrics) tcp(g *group, destination, port string) {
	d := m.descs
	for _, state := range tcpStates {
		m.gauge(d.sockets, float64(g.states[state]), destination, port, state.String())
	}
	m.durations(d.idle, &g.idle, destination, port)
	m.durations(d.silence, &g.silence, destination, port)
	m.durations(d.age, &g.age, destination, port)
	m.gauge(d.keepalive, float64(g.armed), destination, port, "true")
	m.gauge(d.keepalive, float64(g.unarmed), destination, port, "false")
	m.gauge(d.stalled, float64(g.stalled[sockdiag.TimerKeepalive]), destination, port, "keepalive_probe")
	m.gauge(d.stalled, float64(g.stalled[sockdiag.TimerRetransmit]), destination, port, "retransmit")
	m.gauge(d.stalled, float64(g.stalled[sockdiag.TimerZeroWindow]), destination, port, "zero_window")
	m.gauge(d.queue, float64(g.receive), destination, port, "receive")
	m.gauge(d.queue, float64(g.send), destination, port, "send")
}

// mptcp adds those that come from its MPTCP connections and subflows.
func (m *metrics) mptcp(g *multipathGroup, destination, port string) {
	d := m.descs
	for _, state := range mptcpStates {
		for fallback, n := range g.states[state] {
			m.gauge(d.connections, float64(n), destination, port, state.String(), strconv.FormatBool(fallback == 1))
		}
	}
	for role, name := range [...]string{"initial", "join"} {
		for backup, n := range g.subflows[role] {
			m.gauge(d.subflows, float64(n), destination, port, name, strconv.FormatBool(backup == 1))
		}
		if n := g.hidden[role]; n > 0 {
			m.gauge(d.subflows, float64(n), destination, port, name, "unknown")
		}
	}
	bounds := make([]float64, len(subflowBuckets))
	for i, bound := range subflowBuckets {
		bounds[i] = float64(bound)
	}
	m.histogram(d.perConn, bounds, g.perConn[:], float64(g.perTotal), destination, port)
	m.durations(d.subflowIdle, &g.idle, destination, port)
	m.gauge(d.pathless, float64(g.pathless), destination, port)
}

// inboundPort adds the metrics of one local port.
func (m *metrics) inboundPort(g *group, port string) {
	for _, state := range tcpStates {
		m.gauge(m.descs.inbound, float64(g.states[state]), port, state.String())
	}
}

func (m *metrics) durations(desc *prometheus.Desc, h *histogram, labels ...string) {
	m.histogram(desc, idleBounds[:], h.counts[:], h.sum.Seconds(), labels...)
}

// idleBounds are idleBuckets in seconds.
var idleBounds = func() (bounds [len(idleBuckets)]float64) {
	for i, b := range idleBuckets {
		bounds[i] = b.Seconds()
	}
	return bounds
}()

// histogram adds a histogram; counts has one element more than bounds, for what
// lies above all of them.
func (m *metrics) histogram(desc *prometheus.Desc, bounds []float64, counts []uint32, sum float64, labels ...string) {
	m.list = append(m.list, &snapshotHistogram{
		desc:   desc,
		labels: prometheus.MakeLabelPairs(desc, labels),
		bounds: bounds,
		counts: counts,
		sum:    sum,
	})
}

// snapshotHistogram is a const histogram that needs no map for its buckets.
type snapshotHistogram struct {
	desc   *prometheus.Desc
	labels []*dto.LabelPair
	bounds []float64
	counts []uint32
	sum    float64
}

func (h *snapshotHistogram) Desc() *prometheus.Desc { return h.desc }

func (h *snapshotHistogram) Write(out *dto.Metric) error {
	buckets := make([]dto.Bucket, len(h.bounds))
	cumulative := make([]uint64, len(h.bounds)+1)
	pointers := make([]*dto.Bucket, len(h.bounds))
	var total uint64
	for i, n := range h.counts {
		total += uint64(n)
		cumulative[i] = total
		if i < len(h.bounds) {
			buckets[i].CumulativeCount = &cumulative[i]
			buckets[i].UpperBound = &h.bounds[i]
			pointers[i] = &buckets[i]
		}
	}
	out.Label = h.labels
	out.Histogram = &dto.Histogram{SampleCount: &total, SampleSum: &h.sum, Bucket: pointers}
	return nil
}
