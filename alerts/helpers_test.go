package alerts

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tcphup/hangup"
)

const (
	testToken  = "0123456789abcdef0123456789abcdef"
	otherToken = "fedcba9876543210fedcba9876543210"
)

// testNow is a few minutes after startsAt of the recorded alerts.
var testNow = time.Date(2026, 11, 22, 7, 20, 0, 0, time.UTC)

// fakeHangUpper records requests.
type fakeHangUpper struct {
	hangUp func(ctx context.Context, a hangup.Request) (*hangup.Report, error)

	mu      sync.Mutex
	actions []hangup.Request
}

func (f *fakeHangUpper) HangUp(ctx context.Context, a hangup.Request) (*hangup.Report, error) {
	f.mu.Lock()
	f.actions = append(f.actions, a)
	f.mu.Unlock()
	report, err := outcome(hangup.Closed, 2), error(nil)
	switch {
	case f.hangUp != nil:
		report, err = f.hangUp(ctx, a)
	case a.DryRun:
		report = plannedFlows(a)
	}
	if err != nil {
		return nil, err
	}
	if n := len(report.Results) - report.Count(hangup.Refused); n > 0 && !a.DryRun && a.Begin != nil {
		a.Begin(n)
	}
	for i := range report.Results {
		if a.Done != nil {
			a.Done(&report.Results[i])
		}
	}
	return report, nil
}

// seen returns the requests as "policy prefix... port... [shadow]".
func (f *fakeHangUpper) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := []string{}
	for _, a := range f.actions {
		var b strings.Builder
		b.WriteString(a.Policy)
		for _, d := range a.Selector.Destinations {
			b.WriteString(" " + d.String())
		}
		for _, p := range a.Selector.Ports {
			b.WriteString(" " + p.String())
		}
		if a.DryRun {
			b.WriteString(" shadow")
		}
		seen = append(seen, b.String())
	}
	return seen
}

// outcome returns a report of n flows with this outcome.
func outcome(o hangup.Outcome, n int) *hangup.Report {
	r := &hangup.Report{Results: make([]hangup.Result, n)}
	for i := range r.Results {
		r.Results[i].Outcome = o
	}
	return r
}

// plannedFlows returns a report of two planned flows to each destination of the request.
func plannedFlows(a hangup.Request) *hangup.Report {
	r := outcome(hangup.Planned, 2*len(a.Selector.Destinations))
	for i := range r.Results {
		port := uint16(80)
		if len(a.Selector.Ports) > 0 {
			port = a.Selector.Ports[0].First
		}
		r.Results[i].Flow.Remote = netip.AddrPortFrom(a.Selector.Destinations[i/2].Addr(), port)
	}
	return r
}

// hung returns seen without dry runs.
func (f *fakeHangUpper) hung() []string {
	return slices.DeleteFunc(f.seen(), func(s string) bool { return strings.HasSuffix(s, " shadow") })
}

// unfinished returns a report of closed flows and of flows left by a timeout.
func unfinished(closed, left int) *hangup.Report {
	return &hangup.Report{Results: append(outcome(hangup.Closed, closed).Results, outcome(hangup.Planned, left).Results...)}
}

// fixture is a receiver with its fakes.
type fixture struct {
	*Receiver
	hang *fakeHangUpper

	mu  sync.Mutex
	now time.Time
}

func (f *fixture) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fixture) advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
}

// newFixture returns a receiver that requires testToken; change modifies its
// configuration.
func newFixture(t *testing.T, rules Rules, change func(*Config)) *fixture {
	t.Helper()
	f := &fixture{hang: new(fakeHangUpper), now: testNow}
	config := Config{TokenFile: writeTokens(t, testToken), Now: f.clock}
	if change != nil {
		change(&config)
	}
	r, err := NewReceiver(config, rules, f.hang, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("NewReceiver: %v", err)
	}
	f.Receiver = r
	return f
}

func writeTokens(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens")
	writeFile(t, path, strings.Join(lines, "\n")+"\n")
	return path
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func recorded(t testing.TB, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// testAlert is an alert of a notification; notify sets valid values for empty fields.
type testAlert struct {
	Status      string            `json:"status"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    string            `json:"startsAt"`
	EndsAt      string            `json:"endsAt"`
	Fingerprint string            `json:"fingerprint"`
}

// staleAlert returns an alert that matches the policy Labelled.
func staleAlert(destination, port string) testAlert {
	return testAlert{Labels: map[string]string{
		"alertname": "Stale", "tcphup": "hangup", "destination": destination, "port": port,
	}}
}

func notify(alerts ...testAlert) []byte {
	for i := range alerts {
		a := &alerts[i]
		if a.Status == "" {
			a.Status = "firing"
		}
		if a.StartsAt == "" {
			a.StartsAt = testNow.Add(-time.Minute).Format(time.RFC3339Nano)
		}
		a.EndsAt, a.Fingerprint = "0001-01-01T00:00:00Z", "16ec2eb90b5daefc"
	}
	body, err := json.Marshal(map[string]any{
		"version": "4", "status": "firing", "receiver": "tcphup", "alerts": alerts,
		"externalURL": "http://alertmanager.example:9093", "groupKey": "{}", "truncatedAlerts": 0,
	})
	if err != nil {
		panic(err)
	}
	return body
}

func newRequest(body []byte) *http.Request {
	req := httptest.NewRequest(http.MethodPost, "/alerts", bytes.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+testToken)
	return req
}

// reply is a response as the client receives it.
type reply struct {
	code     int
	response response
	text     string
	header   http.Header
}

func send(t testing.TB, h http.Handler, req *http.Request) reply {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	text, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	got := reply{code: w.Code, text: string(text), header: w.Result().Header}
	if err := json.Unmarshal(text, &got.response); err != nil {
		t.Fatalf("response is not JSON: %v\n%s", err, text)
	}
	return got
}

func (f *fixture) post(t testing.TB, body []byte) reply {
	t.Helper()
	return send(t, f, newRequest(body))
}
