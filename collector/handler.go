package collector

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

// timeoutHeader is how Prometheus tells the deadline of a scrape, in seconds.
const timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"

// bufferLen is how much of a page is sent at a time.
const bufferLen = 32 << 10

// Handler returns a handler of GET /metrics that shows the sockets beside
// whatever others gathers, whose names must be different ones. A scrape
// ends a little before the deadline that its header tells, so that the answer,
// with tcphup_scrape_success 0 if it came to that, still arrives. Of the options,
// MaxRequestsInFlight has no effect; DisableCompression spares the host some CPU.
func (c *Collector) Handler(others prometheus.Gatherer, options promhttp.HandlerOpts) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), c.scrapeTimeout(r.Header.Get(timeoutHeader)))
		defer cancel()
		buffered := buffer{w, bufio.NewWriterSize(w, bufferLen)}
		promhttp.HandlerForTransactional(gatherer(func() ([]*dto.MetricFamily, func(), error) {
			families, err := others.Gather()
			p, release := c.collect(ctx)
			observed, observedErr := gatherObserved(p.observed)
			return slices.Concat(families, p.gather(), observed), release, errors.Join(err, observedErr)
		}), options).ServeHTTP(buffered, r)
		// An error is that of a client that has gone.
		_ = buffered.Flush()
	})
}

// gatherer is a prometheus.TransactionalGatherer. A registry would look at each of
// the collector's metrics once more, which with many destinations takes longer than
// all the rest of a scrape; what it would find, tests do.
type gatherer func() (families []*dto.MetricFamily, done func(), err error)

// Gather implements prometheus.TransactionalGatherer.
func (g gatherer) Gather() ([]*dto.MetricFamily, func(), error) { return g() }

// gatherObserved returns the families of an Observer's metrics, which are few.
func gatherObserved(list []prometheus.Metric) ([]*dto.MetricFamily, error) {
	if len(list) == 0 {
		return nil, nil
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(observedMetrics(list)); err != nil {
		return nil, err
	}
	return registry.Gather()
}

// observedMetrics is a collector of metrics that are there already.
type observedMetrics []prometheus.Metric

// Describe implements prometheus.Collector.
func (observedMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (o observedMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, m := range o {
		ch <- m
	}
}

// buffer is a response that is sent in large parts.
type buffer struct {
	http.ResponseWriter
	*bufio.Writer
}

// Write implements io.Writer.
func (b buffer) Write(p []byte) (int, error) { return b.Writer.Write(p) }

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
