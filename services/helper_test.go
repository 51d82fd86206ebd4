package services

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tcphup/sockdiag"
)

// fakeResolver is a resolver for synctest bubbles. A response has the addresses of both
// families.
type fakeResolver struct {
	mu      sync.Mutex
	answer  func(service string) ([]netip.Addr, error)
	lookups []time.Time
}

func (n *fakeResolver) lookup(_ context.Context, s Service, f family) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lookups = append(n.lookups, time.Now())
	addrs, err := n.answer(s.Name)
	return ofFamily(f, addrs, err)
}

// ofFamily returns the part of a response for one family.
func ofFamily(f family, addrs []netip.Addr, err error) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, a := range addrs {
		if familyOf(a) == f {
			out = append(out, a)
		}
	}
	if err == nil && len(out) == 0 {
		err = fail(notFound, "no such host")
	}
	return out, err
}

func (n *fakeResolver) set(answer func(service string) ([]netip.Addr, error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answer = answer
}

// fixedAnswer returns a constant response.
func fixedAnswer(t testing.TB, text string) func(string) ([]netip.Addr, error) {
	a := addrs(t, text)
	return func(string) ([]netip.Addr, error) { return a, nil }
}

// lookupFunc is the type of Watcher.lookup.
type lookupFunc = func(context.Context, Service, family) ([]netip.Addr, error)

// start runs a Watcher until the test ends.
func start(t *testing.T, c Config, lookup lookupFunc) *Watcher {
	t.Helper()
	w, stop := run(t, c, lookup)
	t.Cleanup(stop)
	return w
}

// run is like start and returns a function that stops the Watcher.
func run(t *testing.T, c Config, lookup lookupFunc) (w *Watcher, stop func()) {
	t.Helper()
	w, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	w.lookup, w.boottime = lookup, func() time.Duration { return sinceEpoch(time.Now()) }
	w.load() // again, with that clock
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx)
	}()
	return w, func() {
		cancel()
		<-done
	}
}

// wantAddresses checks the current and former addresses of a name.
func wantAddresses(t *testing.T, w *Watcher, name, current, former string) {
	t.Helper()
	var c, f []netip.Addr
	w.mu.Lock()
	if known := w.watches[canonical(name)]; known != nil {
		c, f = known.history.list()
	}
	w.mu.Unlock()
	if texts(c) != current || texts(f) != former {
		t.Fatalf("%s: current %q, former %q; want %q and %q", name, texts(c), texts(f), current, former)
	}
}

func oneService(settle time.Duration) Config {
	return Config{Services: []Service{{Name: "db.internal", Port: 5432, Settle: settle}}}
}

// gather returns the metrics of the Watcher and of a scan of the flows, by series.
func gather(t *testing.T, w *Watcher, flows ...sockdiag.Flow) map[string]float64 {
	t.Helper()
	return gatherFrom(t, w, scanCollector{w, flows})
}

// gatherFrom returns the metrics of the collectors, by series.
func gatherFrom(t *testing.T, list ...prometheus.Collector) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	for _, c := range list {
		if err := registry.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			series[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return series
}

// metric returns the sum over all series of a metric.
func metric(t *testing.T, w *Watcher, name string) (sum float64) {
	t.Helper()
	for series, value := range gather(t, w) {
		if strings.HasPrefix(series, name+"{") {
			sum += value
		}
	}
	return sum
}

// scanCollector collects the metrics of a scan of flows.
type scanCollector struct {
	watcher *Watcher
	flows   []sockdiag.Flow
}

func (p scanCollector) Describe(chan<- *prometheus.Desc) {}

func (p scanCollector) Collect(ch chan<- prometheus.Metric) {
	see, done := p.watcher.Observe()
	for i := range p.flows {
		see(&p.flows[i])
	}
	for _, m := range done() {
		ch <- m
	}
}
