package collector

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
)

// waiting returns the number of callers of the running scan.
func (s *singleflight) waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return 0
	}
	return s.current.waiting
}

// isIdle reports whether no scan is running.
func (s *singleflight) isIdle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current == nil
}

func get(c *Collector, timeout string) string {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set(timeoutHeader, timeout)
	c.Handler(prometheus.NewRegistry()).ServeHTTP(w, r)
	return w.Body.String()
}

const (
	succeeded = `tcphup_scrape_success{source="tcp"} 1`
	failed    = `tcphup_scrape_success{source="tcp"} 0`
)

func TestConcurrentScrapesShareADump(t *testing.T) {
	wait, dumps := make(chan struct{}), 0
	c := newTest(t, Config{}, &fakeKernel{flows: []sockdiag.Flow{flow("10.0.0.1:40000", "10.0.0.2:80")}, wait: wait, dumps: &dumps})
	var scrapes sync.WaitGroup
	bodies := make([]string, 10)
	for i := range bodies {
		scrapes.Go(func() { bodies[i] = get(c, "10") })
	}
	nstest.Eventually(t, "ten scrapes wait for one scan", func() bool { return c.scans.waiting() == len(bodies) })
	close(wait)
	scrapes.Wait()
	if dumps != 1 {
		t.Errorf("%d dumps for %d concurrent scrapes, want 1", dumps, len(bodies))
	}
	for _, body := range bodies {
		if !strings.Contains(body, succeeded) || body != bodies[0] {
			t.Errorf("scrapes differ:\n%s\n%s", body, bodies[0])
		}
	}
	if get(c, "10"); dumps != 2 {
		t.Errorf("the next scrape did not dump again: %d dumps", dumps)
	}
}

// A scrape past its deadline reports failure. A scrape with more time gets the result
// of the same dump.
func TestDeadline(t *testing.T) {
	wait, dumps := make(chan struct{}), 0
	c := newTest(t, Config{}, &fakeKernel{flows: []sockdiag.Flow{flow("10.0.0.1:40000", "10.0.0.2:80")}, wait: wait, dumps: &dumps})
	slow := make(chan string)
	go func() { slow <- get(c, "60") }()
	nstest.Eventually(t, "the slow scrape waits", func() bool { return c.scans.waiting() == 1 })
	if body := get(c, "0.02"); !strings.Contains(body, failed) || strings.Contains(body, "tcphup_sockets{") {
		t.Errorf("after the deadline: %s", body)
	}
	close(wait)
	if body := <-slow; !strings.Contains(body, succeeded) || dumps != 1 {
		t.Errorf("after %d dumps: %s", dumps, body)
	}
}

func TestAbandonedScanEnds(t *testing.T) {
	dumps := 0
	kernel := &fakeKernel{flows: []sockdiag.Flow{flow("10.0.0.1:40000", "10.0.0.2:80")}, wait: make(chan struct{}), dumps: &dumps}
	c := newTest(t, Config{}, kernel)
	c.timeout = 10 * time.Millisecond
	for range 3 {
		if body := get(c, "nonsense"); !strings.Contains(body, failed) { // c.timeout applies
			t.Fatalf("endless dump: %s", body)
		}
	}
	nstest.Eventually(t, "the abandoned scan ends", c.scans.isIdle)
	kernel.wait = nil
	if body := get(c, "10"); !strings.Contains(body, succeeded) {
		t.Errorf("after timed-out scrapes: %s", body)
	}
}

// A caller stops waiting for the end of a canceled scan at its own deadline.
func TestStuckScan(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	var s singleflight
	stuck := func(context.Context) *result { <-release; return nil }
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		if _, err := s.do(ctx, stuck); err == nil {
			t.Error("a stuck scan has a result")
		}
		cancel()
	}
}

// The parameter name[] selects families.
func TestNames(t *testing.T) {
	c := newTest(t, Config{}, &fakeKernel{flows: []sockdiag.Flow{flow("10.0.0.1:40000", "10.0.0.2:80")}})
	others := prometheus.NewRegistry()
	for _, name := range []string{"one", "two"} {
		others.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: "Help."}))
	}
	w := httptest.NewRecorder()
	c.Handler(others).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics?name[]=tcphup_destinations_folded&name[]=two", nil))
	var got []string
	for line := range strings.Lines(w.Body.String()) {
		if !strings.HasPrefix(line, "#") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	if diff := cmp.Diff([]string{"tcphup_destinations_folded 0", "two 0"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Scrapes reuse the netlink connection until an error.
func TestConnectionReuse(t *testing.T) {
	kernel := &fakeKernel{flows: []sockdiag.Flow{flow("10.0.0.1:40000", "10.0.0.2:80")}}
	c := newTest(t, Config{}, kernel)
	check := func(success string, dialled, closed int) {
		t.Helper()
		if body := get(c, "10"); !strings.Contains(body, success) {
			t.Errorf("want %s:\n%s", success, body)
		}
		if kernel.dialled != dialled || kernel.closed != closed {
			t.Errorf("dialled %d times and closed %d, want %d and %d", kernel.dialled, kernel.closed, dialled, closed)
		}
	}
	for range 3 {
		check(succeeded, 1, 0)
	}
	kernel.tcpErr = sockdiag.ErrInterrupted
	check(failed, 1, 1)
	kernel.tcpErr = nil
	check(succeeded, 2, 1)
	kernel.mptcpErr = os.ErrPermission
	check(succeeded, 2, 2)
	kernel.mptcpErr, kernel.dialErr = nil, errors.ErrUnsupported
	check(failed, 3, 2)
	kernel.dialErr = nil
	check(succeeded, 4, 2)
}

// Canceled scrapes are not logged as errors; kernel errors are.
func TestCanceledScrapes(t *testing.T) {
	var log strings.Builder
	kernel := &fakeKernel{wait: make(chan struct{})}
	c := newTest(t, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, kernel)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Handler(prometheus.NewRegistry()).ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/metrics", nil))
	}()
	nstest.Eventually(t, "the scrape waits", func() bool { return c.scans.waiting() == 1 })
	cancel()
	<-done
	nstest.Eventually(t, "its scan has ended", c.scans.isIdle)
	if log.Len() > 0 {
		t.Errorf("logged: %s", log.String())
	}
	kernel.wait, kernel.tcpErr = nil, sockdiag.ErrInterrupted
	if get(c, "10"); !strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("logged: %q", log.String())
	}
}

// A failed scan expires no first-seen times.
func TestFirstSeenAfterFailures(t *testing.T) {
	f := flow("10.0.0.1:40000", "10.0.0.2:80", mptcp(1, 0, 1))
	kernel := &fakeKernel{flows: []sockdiag.Flow{f, flow("10.0.0.1:40000", "10.0.0.2:80", subflow(1, 0))}}
	c := newTest(t, Config{}, kernel)
	get(c, "10")
	first, known := c.FirstSeen(&f)
	if !known {
		t.Fatal("the connection was not recorded")
	}
	for _, fail := range []func(error){func(err error) { kernel.dialErr = err }, func(err error) { kernel.listenErr = err }, func(err error) { kernel.tcpErr = err }} {
		c.conn = nil
		fail(errors.ErrUnsupported)
		get(c, "10")
		fail(nil)
		if again, known := c.FirstSeen(&f); !known || !again.Equal(first) {
			t.Errorf("after a failure: %v, %t", again, known)
		}
	}
}

// An error of the other collectors fails the whole scrape.
func TestOthersFail(t *testing.T) {
	var log strings.Builder
	c := newTest(t, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, &fakeKernel{})
	broken := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return nil, errors.New("collected before") })
	w := httptest.NewRecorder()
	c.Handler(broken).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "collected before") {
		t.Errorf("response %d: %s", w.Code, w.Body)
	}
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "collected before") {
		t.Errorf("logged: %q", log.String())
	}
}

// disconnected is the response writer of a disconnected client.
type disconnected struct{ http.ResponseWriter }

func (disconnected) Write([]byte) (int, error) {
	return 0, &net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.ECONNRESET)}
}

// Disconnected clients are not logged as errors; encoding errors are.
func TestScrapeErrors(t *testing.T) {
	var log strings.Builder
	c := newTest(t, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, &fakeKernel{})
	request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	c.Handler(prometheus.NewRegistry()).ServeHTTP(disconnected{httptest.NewRecorder()}, request)
	if log.Len() > 0 {
		t.Errorf("disconnected client logged: %s", log.String())
	}
	nameless := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return []*dto.MetricFamily{{}}, nil })
	c.Handler(nameless).ServeHTTP(httptest.NewRecorder(), request)
	if !strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("encoding error logged as %q", log.String())
	}
}

// The protobuf and text formats have the same content.
func TestProtobuf(t *testing.T) {
	c := newTest(t, Config{}, &fakeKernel{flows: []sockdiag.Flow{flow("10.0.0.1:40000", "10.0.0.2:80", idle(3*time.Second, 0, 0))}})
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	c.Handler(prometheus.NewRegistry()).ServeHTTP(w, r)
	decoder := expfmt.NewDecoder(w.Body, expfmt.ResponseFormat(w.Header()))
	var got strings.Builder
	for {
		var f dto.MetricFamily
		err := decoder.Decode(&f)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := expfmt.MetricFamilyToText(&got, &f); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(scrape(t, c), got.String()); diff != "" {
		t.Errorf("(-text +protobuf):\n%s", diff)
	}
}

func TestScrapeTimeout(t *testing.T) {
	c := newTest(t, Config{}, &fakeKernel{})
	c.timeout = 7 * time.Second
	for header, want := range map[string]time.Duration{
		"":       7 * time.Second,
		"10":     9500 * time.Millisecond,
		"1":      750 * time.Millisecond,
		"0":      7 * time.Second,
		"-1":     7 * time.Second,
		"NaN":    7 * time.Second,
		"+Inf":   7 * time.Second,
		"1e300":  7 * time.Second,
		"ten":    7 * time.Second,
		"0.0004": 300 * time.Microsecond,
	} {
		if got := c.scrapeTimeout(header); got != want {
			t.Errorf("header %q gives %v, want %v", header, got, want)
		}
	}
}
