package collector

import (
	"bufio"
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// timeoutHeader is how Prometheus tells the deadline of a scrape, in seconds.
const timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"

// bufferLen is how much of an answer is sent at a time.
const bufferLen = 32 << 10

// Handler returns a handler of GET /metrics that shows the sockets beside
// whatever others gathers, whose names must be different ones. A scrape
// ends a little before the deadline that its header tells, so that the answer,
// with tcphup_scrape_success 0 if it came to that, still arrives. The parameter name[],
// which may be repeated, asks for families of these names only. When others cannot
// be gathered the answer is 500. It is never compressed, which would take more of the
// host's time than reading its sockets.
func (c *Collector) Handler(others prometheus.Gatherer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), c.scrapeTimeout(r.Header.Get(timeoutHeader)))
		defer cancel()
		found := c.collect(ctx)
		rest, err := gatherWith(others, found.observed)
		if err != nil {
			c.logger.Error("cannot gather metrics", "err", err)
			http.Error(w, "cannot gather metrics: "+err.Error(), http.StatusInternalServerError)
			return
		}
		format := expfmt.NegotiateAccept(r.Header, expfmt.DefaultAcceptedFormats()...)
		w.Header().Set("Content-Type", string(format))
		w.Header().Set("Vary", "Accept")
		buffer := bufio.NewWriterSize(w, bufferLen)
		err = c.encoder.Encode(expfmt.NewEncoder(buffer, format), r.URL.Query()["name[]"], found, rest)
		switch sendErr := buffer.Flush(); {
		case sendErr != nil:
			// A client that has gone, or was too slow, is no fault of ours and could fill the log.
			c.logger.Debug("cannot send metrics", "err", sendErr)
		case err != nil:
			c.logger.Error("cannot encode metrics", "err", err)
		}
	})
}

// gatherWith gathers from others and an Observer's metrics.
func gatherWith(others prometheus.Gatherer, observed observedMetrics) ([]*dto.MetricFamily, error) {
	if len(observed) == 0 {
		return others.Gather()
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(observed); err != nil {
		return nil, err
	}
	return prometheus.Gatherers{others, registry}.Gather()
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
