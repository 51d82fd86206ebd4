package collector

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

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
	return s.current.users
}

func get(c *Collector, timeout string) string {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set(timeoutHeader, timeout)
	c.Handler(prometheus.NewRegistry(), promhttp.HandlerOpts{}).ServeHTTP(w, r)
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
	stuck := func(context.Context, *page) { <-release }
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		if _, _, err := s.do(ctx, stuck); err == nil {
			t.Error("a pass that is stuck has a result")
		}
		cancel()
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
