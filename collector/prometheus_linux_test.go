package collector

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tcphup/test/kit/nstest"
)

// tool returns the path of an installed program.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: %s is part of the Debian package prometheus", err, name)
	}
	return path
}

// promtool accepts the metrics of a real exporter.
func TestPrivilegedPromtool(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		shell(t, "ip addr add 10.0.0.2 dev lo")
		start(t, "load 100 3")
		connect(t, "10.0.0.2", true) // for the MPTCP metrics
		body := scrapeURL(t, start(t, "serve 0")[0].output)
		has := func(t *testing.T, families ...string) {
			t.Helper()
			for _, family := range families {
				if !strings.Contains(string(body), "# TYPE tcphup_"+family+" ") {
					t.Errorf("tcphup_%s is missing", family)
				}
			}
		}
		has(t, "sockets", "socket_idle_seconds", "socket_peer_silence_seconds", "socket_age_seconds", "sockets_keepalive", "sockets_stalled",
			"socket_queue_bytes", "inbound_sockets", "destinations_folded", "scrape_success", "scrape_duration_seconds")
		t.Run("mptcp", func(t *testing.T) {
			nstest.NeedMPTCP(t)
			has(t, "mptcp_connections", "mptcp_subflows", "mptcp_connection_subflows", "mptcp_subflow_idle_seconds", "mptcp_connections_pathless")
		})
		check := exec.CommandContext(t.Context(), tool(t, "promtool"), "check", "metrics")
		check.Stdin = strings.NewReader(string(body))
		if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("promtool check metrics: %v\n%s", err, out)
		}
	})
}

// A real Prometheus scrapes while connections come and go.
func TestPrivilegedPrometheus(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const (
			targets         = 10
			maxDestinations = 50
		)
		start(t, "load 1000 50", "churn 20 3000")
		address := start(t, fmt.Sprintf("serve %d", maxDestinations))[0].output
		dir := t.TempDir()
		config := filepath.Join(dir, "prometheus.yml")
		// The timeout equals the interval. Prometheus spreads the first scrapes of its targets
		// over an interval; all targets are the same exporter.
		content := []byte("global: {scrape_interval: 20s, scrape_timeout: 20s}\nscrape_configs:\n- job_name: tcphup\n  static_configs:\n")
		for i := range targets {
			content = fmt.Appendf(content, "  - {targets: [%q], labels: {target: \"%d\"}}\n", address, i)
		}
		if err := os.WriteFile(config, content, 0o600); err != nil {
			t.Fatal(err)
		}
		const listen = "127.0.0.1:19090"
		prometheus := exec.CommandContext(t.Context(), tool(t, "prometheus"), "--config.file="+config,
			"--storage.tsdb.path="+dir, "--web.listen-address="+listen, "--log.level=warn")
		prometheus.Stderr = os.Stderr
		prometheus.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := prometheus.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = prometheus.Process.Kill()
			_ = prometheus.Wait()
		})

		query := func(expression string) (value float64, ok bool) {
			response, err := http.Get("http://" + listen + "/api/v1/query?query=" + url.QueryEscape(expression))
			if err != nil {
				return 0, false // not listening yet
			}
			defer func() { _ = response.Body.Close() }()
			var answer struct {
				Data struct{ Result []struct{ Value [2]any } }
			}
			if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || len(answer.Data.Result) == 0 {
				return 0, false
			}
			_, err = fmt.Sscan(answer.Data.Result[0].Value[1].(string), &value)
			return value, err == nil
		}
		for n := range targets {
			nstest.Eventually(t, "Prometheus scrapes again", func() bool {
				done, ok := query("count(up)")
				return ok && done > float64(n)
			})
		}
		for expression, want := range map[string]float64{
			`min(min_over_time(up[5m]))`:                                  1,
			`min(min_over_time(tcphup_scrape_success[5m]))`:               1,
			`max(max_over_time(tcphup_destinations_folded[5m])) > bool 0`: 1, // the limit applies
		} {
			if got, ok := query(expression); !ok || got != want {
				t.Errorf("%s is %v, %t, want %v", expression, got, ok, want)
			}
		}
		if n, ok := query(`max(count by (target) (count by (target, destination, port) (tcphup_sockets)))`); !ok || n > maxDestinations+1 {
			t.Errorf("%v destinations, %t, want at most %d and other", n, ok, maxDestinations)
		}
		if n, ok := query(`histogram_quantile(0.9, sum by (le) (tcphup_socket_idle_seconds_bucket))`); !ok || !(n > 0) {
			t.Errorf("quantile is %v, %t", n, ok)
		}
	})
}
