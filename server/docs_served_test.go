package server

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"

	"tcphup/collector"
	"tcphup/services"
	"tcphup/test/kit/nstest"
)

// The server serves the metrics that TestDocs documents, if each has a value.
func TestPrivilegedServedMetrics(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		_, err := os.Stat("/proc/sys/net/mptcp/enabled")
		mptcp := err == nil
		former := connect(t, false)
		if mptcp {
			connect(t, true)
		}
		state := t.TempDir()
		writeServiceState(t, state, former.Addr())
		x := testServer(t, Options{
			Services:       []services.Service{{Name: "db.internal", Port: former.Port()}},
			StateDirectory: state,
			Collector:      collector.Config{Histograms: Histograms()},
		})
		x.runSelfTest(t.Context())
		var served map[string]*dto.MetricFamily
		// A scrape has no sockets if the kernel interrupts its dump.
		nstest.Eventually(t, "a scrape with all sockets", func() bool {
			served = make(map[string]*dto.MetricFamily)
			for _, f := range scrape(t, x) {
				served[f.GetName()] = f
			}
			return !slices.ContainsFunc(served["tcphup_scrape_success"].GetMetric(), func(m *dto.Metric) bool { return m.GetGauge().GetValue() == 0 })
		})
		described := describedMetrics(t, x)
		for _, name := range slices.Sorted(maps.Keys(described)) {
			f := served[name]
			switch {
			case !strings.HasPrefix(name, "tcphup_"), // some Go and process metrics depend on the platform
				strings.HasPrefix(name, "tcphup_mptcp_") && !mptcp:
			case f == nil:
				t.Errorf("%s is documented but not served", name)
			default:
				if diff := cmp.Diff(described[name], newMetric(f), cmp.AllowUnexported(metric{})); diff != "" {
					t.Errorf("%s (-documented +served):\n%s", name, diff)
				}
			}
		}
		for name := range served {
			if _, ok := described[name]; !ok {
				t.Errorf("%s is served but not documented", name)
			}
		}
	})
}

// writeServiceState writes the state of the service db.internal with a former address.
func writeServiceState(t *testing.T, directory string, former netip.Addr) {
	t.Helper()
	state := fmt.Appendf(nil, `{"version": 1, "services": [{"name": "db.internal", "changed": %[1]q,
		"addresses": [{"address": "192.0.2.1"}, {"address": %[2]q, "former": %[1]q}]}]}`, time.Now().Format(time.RFC3339), former)
	if err := os.WriteFile(filepath.Join(directory, services.StateFile), state, 0o600); err != nil {
		t.Fatal(err)
	}
}

// scrape returns the families of GET /metrics.
func scrape(t *testing.T, x *server) []*dto.MetricFamily {
	t.Helper()
	response := httptest.NewRecorder()
	x.webRoutes().mux().ServeHTTP(response, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if response.Code != http.StatusOK {
		t.Fatalf("/metrics: %d", response.Code)
	}
	return parseMetrics(t, response.Body)
}

// connect opens an outbound connection on loopback and returns its destination.
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
