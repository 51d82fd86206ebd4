package collector

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"tcphup/sockdiag"
)

// metrics collects const metrics. There are some twenty for each destination, so
// they share what labels they can.
type metrics struct {
	descs *descs
	list  []prometheus.Metric
}

// label returns a label, which may be part of many metrics.
func label(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }

// fixedLabels are the labels whose values are a closed set.
type fixedLabels struct {
	states   [sockdiag.MaxState + 1]*dto.LabelPair
	armed    [2]*dto.LabelPair // false and true, as all pairs here
	fallback [2]*dto.LabelPair
	backup   [2]*dto.LabelPair
	unknown  *dto.LabelPair // of backup
	roles    [2]*dto.LabelPair
	reasons  [sockdiag.TimerZeroWindow + 1]*dto.LabelPair
	receive  *dto.LabelPair
	send     *dto.LabelPair
}

func newFixedLabels() fixedLabels {
	var l fixedLabels
	for state := range l.states {
		l.states[state] = label("state", sockdiag.State(state).String())
	}
	for i := range 2 {
		truth := strconv.FormatBool(i == 1)
		l.armed[i], l.fallback[i], l.backup[i] = label("armed", truth), label("fallback", truth), label("backup", truth)
	}
	l.unknown = label("backup", "unknown")
	l.roles = [...]*dto.LabelPair{label("role", "initial"), label("role", "join")}
	l.reasons[sockdiag.TimerKeepalive] = label("reason", "keepalive_probe")
	l.reasons[sockdiag.TimerRetransmit] = label("reason", "retransmit")
	l.reasons[sockdiag.TimerZeroWindow] = label("reason", "zero_window")
	l.receive, l.send = label("queue", "receive"), label("queue", "send")
	return l
}

// source adds what is said of a source whether it could be read or not.
func (m *metrics) source(name string, success bool, took time.Duration) {
	source := label("source", name)
	m.gauge(m.descs.success, uint32(index(success)), source)
	m.list = append(m.list, newSample(m.descs.duration, took.Seconds(), source))
}

// tcp adds the metrics of one destination that come from its TCP sockets.
func (m *metrics) tcp(g *group, destination, port *dto.LabelPair) {
	d, fixed := m.descs, &m.descs.fixed
	for _, state := range tcpStates {
		m.gauge(d.sockets, g.states[state], destination, port, fixed.states[state])
	}
	m.durations(d.idle, &g.idle, destination, port)
	m.durations(d.silence, &g.silence, destination, port)
	m.durations(d.age, &g.age, destination, port)
	m.gauge(d.keepalive, g.unarmed, fixed.armed[0], destination, port)
	m.gauge(d.keepalive, g.armed, fixed.armed[1], destination, port)
	for timer, reason := range fixed.reasons {
		if reason != nil {
			m.gauge(d.stalled, g.stalled[timer], destination, port, reason)
		}
	}
	m.list = append(m.list,
		newSample(d.queue, float64(g.receive), destination, port, fixed.receive),
		newSample(d.queue, float64(g.send), destination, port, fixed.send))
}

// mptcp adds those that come from its MPTCP connections and subflows.
func (m *metrics) mptcp(g *multipathGroup, destination, port *dto.LabelPair) {
	d, fixed := m.descs, &m.descs.fixed
	for _, state := range mptcpStates {
		for i, fallback := range fixed.fallback {
			m.gauge(d.connections, g.states[state][i], destination, fallback, port, fixed.states[state])
		}
	}
	for i, role := range fixed.roles {
		for j, backup := range fixed.backup {
			m.gauge(d.subflows, g.subflows[i][j], backup, destination, port, role)
		}
		if n := g.hidden[i]; n > 0 {
			m.gauge(d.subflows, n, fixed.unknown, destination, port, role)
		}
	}
	m.histogram(d.perConn, d.subflowBounds, g.perConn[:], float64(g.perTotal), destination, port)
	m.durations(d.subflowIdle, &g.idle, destination, port)
	m.gauge(d.pathless, g.pathless, destination, port)
}

// inboundPort adds the metrics of one local port.
func (m *metrics) inboundPort(g *group, port *dto.LabelPair) {
	for _, state := range tcpStates {
		m.gauge(m.descs.inbound, g.states[state], port, m.descs.fixed.states[state])
	}
}

func (m *metrics) gauge(desc *prometheus.Desc, value uint32, labels ...*dto.LabelPair) {
	m.list = append(m.list, newSample(desc, float64(value), labels...))
}

func (m *metrics) durations(desc *prometheus.Desc, h *histogram, labels ...*dto.LabelPair) {
	m.histogram(desc, m.descs.idleBounds, h.counts[:], h.sum.Seconds(), labels...)
}

// histogram adds a histogram; counts has one element more than bounds, for what
// lies above all of them.
func (m *metrics) histogram(desc *prometheus.Desc, bounds []float64, counts []uint32, sum float64, labels ...*dto.LabelPair) {
	var (
		buckets    = make([]dto.Bucket, len(bounds))
		cumulative = make([]uint64, len(counts))
		total      uint64
		out        = &dto.Histogram{SampleSum: &sum, Bucket: make([]*dto.Bucket, len(bounds))}
	)
	for i, n := range counts {
		total += uint64(n)
		cumulative[i] = total
		if i < len(bounds) {
			buckets[i].UpperBound, buckets[i].CumulativeCount = &bounds[i], &cumulative[i]
			out.Bucket[i] = &buckets[i]
		}
	}
	out.SampleCount = &total
	m.list = append(m.list, &sample{desc: desc, labels: labels, histogram: out})
}

// sample is a const metric that is made of ready parts. Its labels are sorted by
// name.
type sample struct {
	desc      *prometheus.Desc
	labels    []*dto.LabelPair
	gauge     *dto.Gauge // or else
	histogram *dto.Histogram
}

func newSample(desc *prometheus.Desc, value float64, labels ...*dto.LabelPair) *sample {
	return &sample{desc: desc, labels: labels, gauge: &dto.Gauge{Value: &value}}
}

// Desc implements prometheus.Metric.
func (s *sample) Desc() *prometheus.Desc { return s.desc }

// Write implements prometheus.Metric.
func (s *sample) Write(out *dto.Metric) error {
	out.Label, out.Gauge, out.Histogram = s.labels, s.gauge, s.histogram
	return nil
}
