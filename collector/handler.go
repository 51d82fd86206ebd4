package collector

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

// timeoutHeader is how Prometheus tells the deadline of a scrape, in seconds.
const timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"

// Handler returns a handler of GET /metrics that shows the sockets beside
// whatever others gathers, whose names must be different ones. A scrape
// ends a little before the deadline that its header tells, so that the answer,
// with tcphup_scrape_success 0 if it came to that, still arrives. Of the options,
// MaxRequestsInFlight has no effect; DisableCompression spares the host some CPU.
func (c *Collector) Handler(others prometheus.Gatherer, options promhttp.HandlerOpts) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), c.scrapeTimeout(r.Header.Get(timeoutHeader)))
		defer cancel()
		// A registry of its own gives each scrape a deadline of its own.
		sockets := prometheus.NewRegistry()
		sockets.MustRegister(scrape{c, func(ch chan<- prometheus.Metric) { c.collect(ctx, ch) }})
		// Unlike prometheus.Gatherers, this does not go through every metric again.
		both := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
			a, errA := others.Gather()
			b, errB := sockets.Gather()
			return append(a, b...), errors.Join(errA, errB)
		})
		promhttp.HandlerFor(both, options).ServeHTTP(w, r)
	})
}

// scrapeTimeout returns how long a scrape may take to read sockets. A header that
// makes no sense counts as none.
func (c *Collector) scrapeTimeout(header string) time.Duration {
	seconds, err := strconv.ParseFloat(header, 64)
	if err != nil || !(seconds > 0 && seconds < time.Hour.Seconds()) {
		return c.timeout
	}
	timeout := time.Duration(seconds * float64(time.Second))
	return timeout - min(timeout/4, 500*time.Millisecond)
}

// scrape is the collector of a single scrape.
type scrape struct {
	prometheus.Collector
	collect func(ch chan<- prometheus.Metric)
}

// Collect implements prometheus.Collector.
func (s scrape) Collect(ch chan<- prometheus.Metric) { s.collect(ch) }
