package main

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"tcphup/services"
	"tcphup/test/kit/nstest"
)

// metricTables show the metrics of tcphup serve: those with the labels destination and
// port, and all others; and once more those of services.
func metricTables(t *testing.T) (perDestination, others, services string) {
	t.Helper()
	var rows [3][][]string
	families := allMetrics(t)
	for _, name := range slices.Sorted(maps.Keys(families)) {
		f := families[name]
		if !strings.HasPrefix(name, "tcphup_") {
			if !regexp.MustCompile(`^(go|process)_`).MatchString(name) {
				t.Errorf("%s is in no table and not among what docs/metrics.md says comes beside them", name)
			}
			continue
		}
		labels := labelNames(f)
		i := 1
		if slices.Contains(labels, "destination") {
			i = 0
			labels = slices.DeleteFunc(labels, func(l string) bool { return l == "destination" || l == "port" })
		}
		for j, l := range labels {
			labels[j] = code(l)
		}
		row := []string{code(name), strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp()}
		rows[i] = append(rows[i], row)
		if strings.HasPrefix(name, "tcphup_service_") {
			rows[2] = append(rows[2], row)
		}
	}
	header := []string{"metric", "type", "labels", ""}
	return markdownTable(append(header[:2:2], "more labels", ""), rows[0]), markdownTable(header, rows[1]), markdownTable(header, rows[2])
}

// labelNames returns the labels of a metric in order.
func labelNames(f *dto.MetricFamily) []string {
	seen := make(map[string]bool)
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			seen[l.GetName()] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// allMetrics returns what tcphup serve shows at /metrics when there is something to
// show of every metric that it describes.
func allMetrics(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	former := connect(t, false)
	connect(t, true)
	state := t.TempDir()
	if err := os.WriteFile(filepath.Join(state, services.StateFile), fmt.Appendf(nil, `{"version": 1, "services": [{"name": "db.internal", "changed": %[1]q,
		"addresses": [{"address": "192.0.2.1"}, {"address": %[2]q, "former": %[1]q}]}]}`, time.Now().Format(time.RFC3339), former.Addr()), 0o600); err != nil {
		t.Fatal(err)
	}
	app, commands := newApp(nil)
	if _, err := app.Parse([]string{"serve", fmt.Sprintf("--service=db.internal:%d", former.Port()), "--state.directory=" + state}); err != nil {
		t.Fatal(err)
	}
	x := &server{serve: commands["serve"].(*serve), logger: slog.New(slog.DiscardHandler), registry: prometheus.NewRegistry()}
	config, err := x.load()
	if err != nil {
		t.Fatal(err)
	}
	closeAudit, err := x.openAudit()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeAudit)
	if err := x.build(config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.actuator.Close)
	x.probe(t.Context())
	handler := x.webHandler()

	described := make(map[string]bool)
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		x.registry.Describe(descs)
		x.collector.Describe(descs)
	}()
	name := regexp.MustCompile(`fqName: "([^"]+)"`)
	for desc := range descs {
		described[name.FindStringSubmatch(desc.String())[1]] = true
	}

	var families map[string]*dto.MetricFamily
	// A dump that the kernel calls inconsistent, as it may on a busy host, shows nothing.
	nstest.Eventually(t, "all sockets are read", func() bool {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		parser := expfmt.NewTextParser(model.UTF8Validation)
		if families, err = parser.TextToMetricFamilies(answer.Body); err != nil || answer.Code != http.StatusOK {
			t.Fatalf("/metrics: %d, %v", answer.Code, err)
		}
		return !slices.ContainsFunc(families["tcphup_scrape_success"].GetMetric(), func(m *dto.Metric) bool { return m.GetGauge().GetValue() == 0 })
	})
	for _, name := range slices.Sorted(maps.Keys(described)) {
		// Of Go's runtime and of the process not every metric can be had everywhere.
		if families[name] == nil && strings.HasPrefix(name, "tcphup_") {
			t.Errorf("%s is described and was not served, so it cannot be told what it is; those of MPTCP need net.mptcp.enabled=1", name)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	return families
}

// connect makes an outbound connection on loopback and returns where it leads.
func connect(t *testing.T, multipath bool) netip.AddrPort {
	t.Helper()
	var config net.ListenConfig
	config.SetMultipathTCP(multipath)
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	var dialer net.Dialer
	dialer.SetMultipathTCP(multipath)
	conn, err := dialer.DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return listener.Addr().(*net.TCPAddr).AddrPort()
}
