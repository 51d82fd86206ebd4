package actuator

import (
	"github.com/prometheus/client_golang/prometheus"

	"tcphup/hangup"
)

// metrics counts the results of all actions.
type metrics struct {
	hangups   *prometheus.CounterVec
	refusals  *prometheus.CounterVec
	spared    *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	reconnect *prometheus.HistogramVec
	usable    *prometheus.GaugeVec
}

func newMetrics() *metrics {
	return &metrics{
		hangups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tcphup_hangups_total",
			Help: "Flows selected by hang-up actions, by policy, method and outcome.",
		}, []string{"policy", "method", "outcome"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tcphup_hangup_refusals_total",
			Help: "Flows rejected by a safety check, by policy and reason.",
		}, []string{"policy", "reason"}),
		spared: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tcphup_spared_flows_total",
			Help: "Flows of the destination that actions left open because they may not be stale, by policy and reason. Each action counts them again.",
		}, []string{"policy", "reason"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tcphup_hangup_duration_seconds",
			Help:    "Time from hang-up until the flow was closed, by method.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"method"}),
		reconnect: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tcphup_reconnect_seconds",
			Help:    "Time from hang-up until the application connected to the same port again, by destination address: same or other.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"to"}),
		usable: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tcphup_method_usable",
			Help: "Whether the method passed the last self-test: 1 yes, 0 no. Absent while no application process is visible.",
		}, []string{"method"}),
	}
}

// Describe implements prometheus.Collector.
func (a *Actuator) Describe(descs chan<- *prometheus.Desc) {
	for _, c := range a.metrics.all() {
		c.Describe(descs)
	}
}

// Collect implements prometheus.Collector.
func (a *Actuator) Collect(ch chan<- prometheus.Metric) {
	for _, c := range a.metrics.all() {
		c.Collect(ch)
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.hangups, m.refusals, m.spared, m.duration, m.reconnect, m.usable}
}

// AddPolicy initializes the metrics of a policy to 0, so that rate() includes the first
// event.
func (a *Actuator) AddPolicy(policy string) {
	for _, o := range hangup.Outcomes() {
		for _, m := range []hangup.Method{hangup.Shutdown, hangup.Destroy, hangup.None} {
			a.metrics.hangups.WithLabelValues(policy, string(m), string(o))
		}
	}
	for _, r := range hangup.Reasons() {
		a.metrics.refusals.WithLabelValues(policy, string(r))
	}
	for _, r := range hangup.SparedReasons() {
		a.metrics.spared.WithLabelValues(policy, string(r))
	}
	for _, m := range []hangup.Method{hangup.Shutdown, hangup.Destroy} {
		a.metrics.duration.WithLabelValues(string(m))
	}
	for _, to := range []string{toSame, toOther} {
		a.metrics.reconnect.WithLabelValues(to)
	}
}

func (m *metrics) observe(policy string, report *hangup.Report) {
	for reason, n := range report.Spared() {
		m.spared.WithLabelValues(policy, string(reason)).Add(float64(n))
	}
	for i := range report.Results {
		r := &report.Results[i]
		m.hangups.WithLabelValues(policy, string(r.Method), string(r.Outcome)).Inc()
		if r.Outcome == hangup.Refused {
			m.refusals.WithLabelValues(policy, string(r.Reason)).Inc()
		}
		if r.Outcome == hangup.Closed {
			m.duration.WithLabelValues(string(r.Method)).Observe(r.Took.Seconds())
		}
	}
}
