package services

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The values of the label address.
const (
	labelCurrent = "current"
	labelFormer  = "former"
)

type descs struct {
	addresses, lookups, failures, changed *prometheus.Desc // Watcher
	sockets, idle                         *prometheus.Desc // Sockets
}

func newDescs() descs {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("tcphup_service_"+name, help, append([]string{"service"}, labels...), nil)
	}
	return descs{
		addresses: desc("addresses",
			"Addresses of the service by whether its name has them now or had them before.", "address"),
		lookups: desc("lookups_total",
			"Lookups of the service's name, one for each address family."),
		failures: desc("lookup_failures_total",
			"Lookups of an address family of the service's name that failed; they change nothing. A name without addresses in either family counts as failed in both."),
		changed: desc("last_change_timestamp_seconds",
			"When an address of the service last came or went, in seconds since 1970. Missing if that never happened."),
		sockets: desc("sockets",
			"Outbound TCP sockets to the service's port, subflows of MPTCP connections included, by whether the name has the address now or had it before. Sockets that this side has closed do not count.", "address"),
		idle: desc("former_idle_max_seconds",
			"Longest time without data in either direction among the sockets to former addresses of the service. Missing if there are none."),
	}
}

// Describe implements prometheus.Collector. It includes the metrics of Sockets, which a
// scrape collects.
func (w *Watcher) Describe(ch chan<- *prometheus.Desc) {
	d := &w.metrics
	for _, desc := range []*prometheus.Desc{d.addresses, d.lookups, d.failures, d.changed, d.sockets, d.idle} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector with what lookups have found. What flows
// show is in Sockets.
func (w *Watcher) Collect(ch chan<- prometheus.Metric) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := &w.metrics
	for name, known := range w.watches {
		var lookups, failures uint64
		for _, l := range known.lookups {
			lookups += l.total
			failures += l.failures
		}
		ch <- counter(d.lookups, lookups, name)
		ch <- counter(d.failures, failures, name)
		if len(known.history.addresses) == 0 {
			continue // nothing is known yet
		}
		former := 0
		for _, a := range known.history.addresses {
			if a.former {
				former++
			}
		}
		ch <- gauge(d.addresses, float64(len(known.history.addresses)-former), name, labelCurrent)
		ch <- gauge(d.addresses, float64(former), name, labelFormer)
		if changed := known.history.changed; !changed.IsZero() {
			ch <- gauge(d.changed, float64(changed.UnixNano())/float64(time.Second), name)
		}
	}
}

func gauge(desc *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
}

func counter(desc *prometheus.Desc, value uint64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), labels...)
}
