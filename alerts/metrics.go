package alerts

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// responseCodes are the values of the label code of tcphup_notifications_total.
var responseCodes = []int{
	http.StatusOK, http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden,
	http.StatusMethodNotAllowed, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType,
	http.StatusServiceUnavailable,
}

type metrics struct {
	notifications *prometheus.CounterVec
	alerts        *prometheus.CounterVec
	truncated     prometheus.Counter
	duration      prometheus.Histogram

	trips, paused, breakers, shadow, auditErrors *prometheus.Desc
}

func newMetrics() *metrics {
	m := &metrics{
		notifications: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tcphup_notifications_total",
			Help: "Notifications received from Alertmanager, by HTTP status code of the response.",
		}, []string{"code"}),
		alerts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tcphup_alerts_total",
			Help: "Alerts in accepted notifications, by result.",
		}, []string{"result"}),
		truncated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tcphup_alerts_truncated_total",
			Help: "Alerts that Alertmanager omitted from notifications because of max_alerts.",
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "tcphup_notification_duration_seconds",
			Help:    "Time from the arrival of an authenticated notification to the response.",
			Buckets: []float64{0.001, 0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10},
		}),
		trips: prometheus.NewDesc("tcphup_breaker_trips_total",
			"Circuit breaker openings because a policy exceeded its limit of actions or destinations.", nil, nil),
		paused: prometheus.NewDesc("tcphup_paused",
			"Whether alert actions are paused, by request or by the pause file.", []string{"by"}, nil),
		breakers: prometheus.NewDesc("tcphup_breakers_open",
			"Open circuit breakers of the policy, which refuse its alerts.", []string{"policy"}, nil),
		shadow: prometheus.NewDesc("tcphup_policy_shadow",
			"Whether the policy is in shadow mode (plans and reports, closes nothing), by configuration, without credentials, or without namespaces in node mode.",
			[]string{"policy"}, nil),
		auditErrors: prometheus.NewDesc("tcphup_audit_write_errors_total",
			"Audit records that could not be written to the audit log file.", nil, nil),
	}
	for _, code := range responseCodes {
		m.notifications.WithLabelValues(strconv.Itoa(code))
	}
	for _, result := range allResults {
		m.alerts.WithLabelValues(result)
	}
	return m
}

// Describe implements prometheus.Collector.
func (r *Receiver) Describe(ch chan<- *prometheus.Desc) {
	m := r.metrics
	for _, c := range []prometheus.Collector{m.notifications, m.alerts, m.truncated, m.duration} {
		c.Describe(ch)
	}
	for _, d := range []*prometheus.Desc{m.trips, m.paused, m.breakers, m.shadow, m.auditErrors} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (r *Receiver) Collect(ch chan<- prometheus.Metric) {
	m := r.metrics
	for _, c := range []prometheus.Collector{m.notifications, m.alerts, m.truncated, m.duration} {
		c.Collect(ch)
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	gauge(m.paused, number(r.pause.byRequest()), "request")
	gauge(m.paused, number(r.pause.byFile()), "file")
	for _, p := range r.Status().Policies {
		gauge(m.breakers, float64(p.OpenBreakers), p.Name)
		gauge(m.shadow, number(p.Shadow), p.Name)
	}
	counter := func(d *prometheus.Desc, value uint64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value))
	}
	counter(m.trips, r.limiter.trips.Load())
	counter(m.auditErrors, r.config.Audit.Errors())
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
