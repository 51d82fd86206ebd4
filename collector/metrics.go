package collector

import (
	"strconv"
	"time"

	dto "github.com/prometheus/client_model/go"

	"tcphup/sockdiag"
)

// metrics writes the metrics of a pass to a page. There are some twenty for each
// destination, so they share what labels they can.
type metrics struct {
	*page
	descs *descs
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
	m.gauge(m.descs.success, float64(index(success)), source)
	m.gauge(m.descs.duration, took.Seconds(), source)
}

// tcp adds the metrics of one destination that come from its TCP sockets.
func (m *metrics) tcp(g *group, destination, port *dto.LabelPair) {
	d, fixed := m.descs, &m.descs.fixed
	for _, state := range tcpStates {
		m.count(d.sockets, g.states[state], destination, port, fixed.states[state])
	}
	m.durations(d.idle, &g.idle, destination, port)
	m.durations(d.silence, &g.silence, destination, port)
	m.durations(d.age, &g.age, destination, port)
	m.count(d.keepalive, g.unarmed, fixed.armed[0], destination, port)
	m.count(d.keepalive, g.armed, fixed.armed[1], destination, port)
	for timer, reason := range fixed.reasons {
		if reason != nil {
			m.count(d.stalled, g.stalled[timer], destination, port, reason)
		}
	}
	m.gauge(d.queue, float64(g.receive), destination, port, fixed.receive)
	m.gauge(d.queue, float64(g.send), destination, port, fixed.send)
}

// mptcp adds those that come from its MPTCP connections and subflows.
func (m *metrics) mptcp(g *multipathGroup, destination, port *dto.LabelPair) {
	d, fixed := m.descs, &m.descs.fixed
	for _, state := range mptcpStates {
		for i, fallback := range fixed.fallback {
			m.count(d.connections, g.states[state][i], destination, fallback, port, fixed.states[state])
		}
	}
	for i, role := range fixed.roles {
		for j, backup := range fixed.backup {
			m.count(d.subflows, g.subflows[i][j], backup, destination, port, role)
		}
		if n := g.hidden[i]; n > 0 {
			m.count(d.subflows, n, fixed.unknown, destination, port, role)
		}
	}
	m.histogram(d.perConn, d.subflowBounds, g.perConn[:], float64(g.perTotal), destination, port)
	m.durations(d.subflowIdle, &g.idle, destination, port)
	m.count(d.pathless, g.pathless, destination, port)
}

// inboundPort adds the metrics of one local port.
func (m *metrics) inboundPort(g *group, port *dto.LabelPair) {
	for _, state := range tcpStates {
		m.count(m.descs.inbound, g.states[state], port, m.descs.fixed.states[state])
	}
}

func (m *metrics) count(f *family, n uint32, labels ...*dto.LabelPair) {
	m.gauge(f, float64(n), labels...)
}

func (m *metrics) durations(f *family, h *histogram, labels ...*dto.LabelPair) {
	m.histogram(f, m.descs.idleBounds, h.counts[:], h.sum.Seconds(), labels...)
}
