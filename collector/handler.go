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

// timeoutHeader is the request header with the scrape timeout of Prometheus, in seconds.
const timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"

// bufferLen is the size of the response buffer in bytes.
const bufferLen = 32 << 10

// Handler returns a handler for GET /metrics that serves the sockets and the families of
// others, whose names must differ. A scrape ends shortly before the timeout in its
// header, so that a response with tcphup_scrape_success 0 still arrives in time. The
// repeatable parameter name[] selects families by name. The response is 500 if others
// fails. It is never compressed: compression takes more CPU time than reading the
// sockets.
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
			// Disconnected and slow clients could fill the log.
			c.logger.Debug("cannot send metrics", "err", sendErr)
		case err != nil:
			c.logger.Error("cannot encode metrics", "err", err)
		}
	})
}

// gatherWith returns the families of others and of the observed metrics.
func gatherWith(others prometheus.Gatherer, observed []prometheus.Metric) ([]*dto.MetricFamily, error) {
	if len(observed) == 0 {
		return others.Gather()
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(prometheus.CollectorFunc(func(ch chan<- prometheus.Metric) {
		for _, m := range observed {
			ch <- m
		}
	})); err != nil {
		return nil, err
	}
	return prometheus.Gatherers{others, registry}.Gather()
}

// scrapeTimeout returns the time limit for reading the sockets.
func (c *Collector) scrapeTimeout(header string) time.Duration {
	seconds, err := strconv.ParseFloat(header, 64)
	if err != nil || !(seconds > 0 && seconds < time.Hour.Seconds()) {
		return c.timeout
	}
	timeout := time.Duration(seconds * float64(time.Second))
	return timeout - min(timeout/4, 500*time.Millisecond)
}
