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

	"tcphup/internal/nstest"
	"tcphup/sockdiag"
)

// waiting returns how many scrapes wait for the pass that is under way.
func (s *shared) waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return 0
	}
	return s.current.waiting
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
	nstest.Eventually(t, "ten scrapes wait for one pass", func() bool { return c.shared.waiting() == len(bodies) })
	close(wait)
	scrapes.Wait()
	if dumps != 1 {
		t.Errorf("%d dumps for %d scrapes at once, want 1", dumps, len(bodies))
	}
	for _, body := range bodies {
		if !strings.Contains(body, succeeded) || body != bodies[0] {
			t.Errorf("scrapes differ:\n%s\n%s", body, bodies[0])
		}
	}
	if get(c, "10"); dumps != 2 {
		t.Errorf("the next scrape has not read anew: %d dumps", dumps)
	}
}

// A scrape that runs out of time ends with an answer that says so; one that can
// wait gets its data from the very same dump; the next one starts anew.
func TestDeadline(t *testing.T) {
	wait, dumps := make(chan struct{}), 0
	c := newTest(t, Config{}, &fakeKernel{flows: []sockdiag.Flow{flow("10.0.0.1:40000", "10.0.0.2:80")}, wait: wait, dumps: &dumps})
	patient := make(chan string)
	go func() { patient <- get(c, "60") }()
	nstest.Eventually(t, "the patient scrape has begun", func() bool { return c.shared.waiting() == 1 })
	if body := get(c, "0.02"); !strings.Contains(body, failed) || strings.Contains(body, "tcphup_sockets{") {
		t.Errorf("after the deadline: %s", body)
	}
	close(wait)
	if body := <-patient; !strings.Contains(body, succeeded) || dumps != 1 {
		t.Errorf("after %d dumps: %s", dumps, body)
	}
}

func TestAbandonedPassEnds(t *testing.T) {
	dumps := 0
	kernel := &fakeKernel{flows: []sockdiag.Flow{flow("10.0.0.1:40000", "10.0.0.2:80")}, wait: make(chan struct{}), dumps: &dumps}
	c := newTest(t, Config{Timeout: 10 * time.Millisecond}, kernel)
	for range 3 {
		if body := get(c, "nonsense"); !strings.Contains(body, failed) { // Config.Timeout holds
			t.Fatalf("a dump without end: %s", body)
		}
	}
	nstest.Eventually(t, "the pass that nobody waits for ends", func() bool {
		c.shared.mu.Lock()
		defer c.shared.mu.Unlock()
		return c.shared.current == nil
	})
	kernel.wait = nil
	if body := get(c, "10"); !strings.Contains(body, succeeded) {
		t.Errorf("after scrapes that ran out of time: %s", body)
	}
}

// The wait for the end of a pass that was given up has a deadline too.
func TestStuckPass(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	var s shared
	stuck := func(context.Context) *result { <-release; return nil }
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		if _, err := s.do(ctx, stuck); err == nil {
			t.Error("a pass that is stuck has a result")
		}
		cancel()
	}
}

// What the other collectors cannot tell is no reason to show half a page.
func TestOthersFail(t *testing.T) {
	var log strings.Builder
	c := newTest(t, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, &fakeKernel{})
	broken := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return nil, errors.New("collected before") })
	w := httptest.NewRecorder()
	c.Handler(broken).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "collected before") {
		t.Errorf("answer %d: %s", w.Code, w.Body)
	}
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "collected before") {
		t.Errorf("logged: %q", log.String())
	}
}

// gone is a client that has closed its connection.
type gone struct{ http.ResponseWriter }

func (gone) Write([]byte) (int, error) {
	return 0, &net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.ECONNRESET)}
}

// A scraper that leaves in the middle does not fill the log; what is our fault does.
func TestScrapeErrors(t *testing.T) {
	var log strings.Builder
	c := newTest(t, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, &fakeKernel{})
	request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	c.Handler(prometheus.NewRegistry()).ServeHTTP(gone{httptest.NewRecorder()}, request)
	if log.Len() > 0 {
		t.Errorf("a scraper that left is logged: %s", log.String())
	}
	nameless := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return []*dto.MetricFamily{{}}, nil })
	c.Handler(nameless).ServeHTTP(httptest.NewRecorder(), request)
	if !strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("a family that cannot be encoded is logged as %q", log.String())
	}
}

// Those who ask for the binary form get it, with the same in it.
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
	if diff := cmp.Diff(served(t, c), got.String()); diff != "" {
		t.Errorf("as text and as protobuf (-text +protobuf):\n%s", diff)
	}
}

func TestScrapeTimeout(t *testing.T) {
	c := newTest(t, Config{Timeout: 7 * time.Second}, &fakeKernel{})
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
