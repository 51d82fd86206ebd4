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
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

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
		if err := os.WriteFile(filepath.Join(state, services.StateFile), fmt.Appendf(nil, `{"version": 1, "services": [{"name": "db.internal", "changed": %[1]q,
			"addresses": [{"address": "192.0.2.1"}, {"address": %[2]q, "former": %[1]q}]}]}`, time.Now().Format(time.RFC3339), former.Addr()), 0o600); err != nil {
			t.Fatal(err)
		}
		x := testServer(t, Options{
			Services:       []services.Service{{Name: "db.internal", Port: former.Port()}},
			StateDirectory: state,
		})
		x.runSelfTest(t.Context())
		handler := x.webRoutes().mux()
		var served map[string]*dto.MetricFamily
		// A scrape has no sockets if the kernel interrupts its dump.
		nstest.Eventually(t, "a scrape with all sockets", func() bool {
			response := httptest.NewRecorder()
			handler.ServeHTTP(response, httptest.NewRequest(http.MethodGet, "/metrics", nil))
			parser := expfmt.NewTextParser(model.UTF8Validation)
			if served, err = parser.TextToMetricFamilies(response.Body); err != nil || response.Code != http.StatusOK {
				t.Fatalf("/metrics: %d, %v", response.Code, err)
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
