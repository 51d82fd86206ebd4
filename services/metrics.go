package services

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Values of the label address.
const (
	labelCurrent = "current"
	labelFormer  = "former"
)

type descs struct {
	addresses, lookups, failures, changed *prometheus.Desc // Collect
	sockets, idle                         *prometheus.Desc // Observe
	podSockets, podIdle                   *prometheus.Desc // ObservePods
}

func newDescs() descs {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("tcphup_service_"+name, help, append([]string{"service"}, labels...), nil)
	}
	const (
		sockets = "Outbound TCP sockets to the service's port at current and former addresses, including MPTCP subflows, without sockets closed locally. Former excludes sockets that may belong to another service which has the address now."
		idle    = "Longest time without data in either direction of the sockets to former addresses of the service. Missing without such sockets."
	)
	podLabels := []string{"namespace", "pod", "service"}
	return descs{
		addresses: desc("addresses",
			"Addresses of the service: current, or former if lookups no longer return them.", "address"),
		lookups: desc("lookups_total",
			"Lookups of the service's name, counted per address family."),
		failures: desc("lookup_failures_total",
			"Failed lookups of the service's name, counted per address family; addresses stay unchanged. A name without any address counts as failed in both families."),
		changed: desc("last_change_timestamp_seconds",
			"Unix timestamp of the last change of the service's addresses. Missing without a change."),
		sockets:    desc("sockets", sockets, "address"),
		idle:       desc("former_idle_max_seconds", idle),
		podSockets: prometheus.NewDesc("tcphup_service_sockets", sockets, append(slices.Clone(podLabels), "address"), nil),
		podIdle:    prometheus.NewDesc("tcphup_service_former_idle_max_seconds", idle, podLabels, nil),
	}
}

// Describe implements prometheus.Collector, including the metrics of Observe. The metrics of
// ObservePods have the same names and more labels.
func (w *Watcher) Describe(ch chan<- *prometheus.Desc) {
	d := &w.metrics
	for _, desc := range []*prometheus.Desc{d.addresses, d.lookups, d.failures, d.changed, d.sockets, d.idle} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector with the metrics of lookups. Observe has those
// of flows.
func (w *Watcher) Collect(ch chan<- prometheus.Metric) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := &w.metrics
	for name, entry := range w.watches {
		var lookups, failures uint64
		for _, l := range entry.lookups {
			lookups += l.total
			failures += l.failures
		}
		ch <- counter(d.lookups, lookups, name)
		ch <- counter(d.failures, failures, name)
		if len(entry.history.addresses) == 0 {
			continue // no successful lookup yet
		}
		current, former := entry.history.list()
		ch <- gauge(d.addresses, float64(len(current)), name, labelCurrent)
		ch <- gauge(d.addresses, float64(len(former)), name, labelFormer)
		if changed := entry.history.changed; !changed.IsZero() {
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
