package alerts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"tcphup/audit"
	"tcphup/hangup"
	"tcphup/sockdiag"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with a file in testdata; -update rewrites it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile("testdata/"+name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(recorded(t, name)), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func auditedResult() hangup.Result {
	r := hangup.Result{
		Flow: sockdiag.Flow{
			Local: netip.MustParseAddrPort("10.0.0.2:40000"), Remote: netip.MustParseAddrPort("10.0.0.5:5432"), Cookie: 1<<63 + 1,
			State: sockdiag.Established, Inode: 12, UID: 1000, HasInfo: true,
		},
		PID: 4711, Command: "java", Method: hangup.Shutdown, Outcome: hangup.Closed, Took: 2 * time.Millisecond,
	}
	r.Flow.TCPInfo.LastDataSent, r.Flow.TCPInfo.LastDataReceived = 313*time.Second, 312500*time.Millisecond
	r.Flow.TCPInfo.LastAckReceived = 2 * time.Second
	return r
}

// Every decision is one line of JSON with outcome and reason. Resolved and unmatched
// alerts have no record.
func TestAuditLog(t *testing.T) {
	var file bytes.Buffer
	f := newFixture(t, DefaultRules(), func(c *Config) { c.Audit = audit.New(&file) })
	f.hang.hangUp = func(context.Context, hangup.Request) (*hangup.Report, error) {
		refused := auditedResult()
		refused.Method, refused.Outcome, refused.Reason, refused.Took = hangup.None, hangup.Refused, hangup.ReasonSIGPIPE, 0
		refused.Flow.HasInfo = false
		return &hangup.Report{Results: []hangup.Result{auditedResult(), refused}}, nil
	}
	resolved := staleAlert("10.0.0.6", "")
	resolved.Status = "resolved"
	f.post(t, notify(staleAlert("10.0.0.5", "5432"), resolved, staleAlert("x\n{\"time\":\"forged\"}", ""), testAlert{}))
	f.post(t, notify(staleAlert("10.0.0.5", "5432")))
	golden(t, "audit.jsonl", file.String())

	got := httptest.NewRecorder()
	f.config.Audit.ServeHTTP(got, httptest.NewRequest(http.MethodGet, "/api/v1/hangups", nil))
	var served struct{ Records []audit.Record }
	if err := json.Unmarshal(got.Body.Bytes(), &served); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(f.config.Audit.Records(), served.Records, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" || len(served.Records) != 6 {
		t.Errorf("served %d records (-kept +served):\n%s", len(served.Records), diff)
	}
}

// Text of an alert cannot start a new line in the log or the audit, and control characters
// are escaped.
func TestLogCannotBeForged(t *testing.T) {
	const forged = "x\nlevel=ERROR msg=\"alert handled\" result=done\u009b2J\x1b[2J\u202e"
	asJSON, err := json.Marshal(forged)
	if err != nil {
		t.Fatal(err)
	}
	for _, handler := range []func(*bytes.Buffer) slog.Handler{
		func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var log, records bytes.Buffer
		f := newFixture(t, DefaultRules(), func(c *Config) { c.Audit = audit.New(&records) })
		f.log = slog.New(handler(&log))
		for _, label := range []string{"destination", "port", "alertname"} {
			a := staleAlert("10.0.0.5", "5432")
			a.Labels[label] = forged
			body := notify(a)
			for _, plain := range []string{`"16ec2eb90b5daefc"`, `"http://alertmanager.example:9093"`} {
				body = bytes.ReplaceAll(body, []byte(plain), asJSON)
			}
			f.post(t, body)
		}
		for name, tt := range map[string]struct {
			written string
			lines   int // 3 alerts and 2 flows; the audit has a begin record too
		}{"log": {log.String(), 3 + 2}, "audit": {records.String(), 3 + 2 + 1}} {
			written := tt.written
			if lines := strings.Count(written, "\n"); lines != tt.lines {
				t.Errorf("%s: %d lines for 3 alerts and 2 flows:\n%s", name, lines, written)
			}
			if strings.ContainsAny(written, "\u009b\x1b\u202e") {
				t.Errorf("%s: control characters are not escaped: %q", name, written)
			}
		}
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// A full disk does not stop actions and is logged once per minute.
func TestAuditCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := newFixture(t, DefaultRules(), func(c *Config) { c.Audit = audit.New(brokenWriter{}) })
		f.log = slog.New(slog.NewTextHandler(&log, nil))
		// The rate-limited log uses the clock of the bubble, the fixture its own.
		advance := func(d time.Duration) {
			f.advance(d)
			time.Sleep(d)
		}
		for range 3 {
			f.post(t, notify(staleAlert("10.0.0.5", "80"))).want(t, 200, map[string]int{resultDone: 1})
			advance(29 * time.Second)
			f.post(t, notify(staleAlert("10.0.0.5", "80"))).want(t, 200, map[string]int{resultCooldown: 1})
			advance(31 * time.Second)
		}
		if n := f.config.Audit.Errors(); n != 15 {
			t.Errorf("%d errors counted, want 15", n)
		}
		if n := strings.Count(log.String(), "cannot write audit record"); n != 3 {
			t.Errorf("logged %d times in 3 minutes:\n%s", n, log.String())
		}
		var file bytes.Buffer
		if old := f.config.Audit.SetWriter(&file); old != (brokenWriter{}) {
			t.Errorf("old writer: %v", old)
		}
		f.post(t, notify(staleAlert("10.0.0.7", "80")))
		if strings.Count(file.String(), "\n") != 1+2+1 {
			t.Errorf("content of the new file: %q", file.String())
		}
	})
}

// metricsText returns the receiver's metrics as text, linted.
func metricsText(t *testing.T, f *fixture) string {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(f)
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, family := range families {
		if family.GetName() == "tcphup_notification_duration_seconds" {
			// Durations vary between runs, the count does not.
			for _, m := range family.GetMetric() {
				h := m.GetHistogram()
				h.SampleSum = nil
				for _, bucket := range h.GetBucket() {
					n := h.GetSampleCount()
					bucket.CumulativeCount = &n
				}
			}
		}
		if _, err := expfmt.MetricFamilyToText(&b, family); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

func TestMetrics(t *testing.T) {
	file := writeTokens(t) + ".pause"
	f := newFixture(t, DefaultRules(), func(c *Config) { c.PauseFile = file })
	golden(t, "metrics-start.prom", metricsText(t, f))

	truncated := strings.Replace(string(notify(staleAlert("10.0.0.5", "80"), staleAlert("other", ""))),
		`"truncatedAlerts":0`, `"truncatedAlerts":12`, 1)
	f.post(t, []byte(truncated)).want(t, 200, map[string]int{resultDone: 1, resultBadDestination: 1})
	f.post(t, []byte("{}"))
	f.post(t, manyAlerts(30))
	unknown := newRequest(nil)
	unknown.Header.Del("Authorization")
	send(t, f, unknown)
	f.Pause()
	writeFile(t, file, "")
	f.post(t, notify(staleAlert("10.0.0.5", "80"))).want(t, 503, nil)
	golden(t, "metrics-later.prom", metricsText(t, f))
}
