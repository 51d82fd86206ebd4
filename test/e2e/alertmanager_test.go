package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"tcphup/test/kit/nstest"
)

// alertmanager is a running Alertmanager. The test posts alerts to it in place of
// Prometheus.
type alertmanager struct {
	*process
	t   testing.TB
	url string
}

// oneNotification is a group_wait long enough for alerts of one POST to end up in one
// notification: Alertmanager inserts them one by one.
const oneNotification = "2s"

// alertmanagerConfig configures an Alertmanager with a single receiver.
type alertmanagerConfig struct {
	address  string // "" means alertmanagerAddress
	groupBy  string
	wait     string   // group_wait; "" means 0s
	interval string   // group_interval and repeat_interval; "" means 1s
	url      string   // receiver; "" means the tcphup under test
	token    string   // bearer token; "" means none
	tls      string   // tls_config in YAML flow style; "" means none
	webhook  string   // additional keys of webhook_configs
	args     []string // nil disables clustering
}

func startAlertmanager(t testing.TB, c alertmanagerConfig) alertmanager {
	t.Helper()
	http := "http_config: {"
	if c.token != "" {
		http += fmt.Sprintf("authorization: {credentials_file: %q}, ", writeFile(t, "token", c.token))
	}
	if c.tls != "" {
		http += "tls_config: " + c.tls
	}
	if c.url == "" {
		c.url = "http://" + receiverAddress + "/alerts"
	}
	if c.wait == "" {
		c.wait = "0s"
	}
	if c.interval == "" {
		c.interval = "1s"
	}
	if c.address == "" {
		c.address = alertmanagerAddress
	}
	if c.args == nil {
		c.args = []string{"--cluster.listen-address="}
	}
	config := fmt.Sprintf(`
route: {receiver: tcphup, group_by: [%s], group_wait: %s, group_interval: %s, repeat_interval: %[3]s}
receivers:
  - name: tcphup
    webhook_configs:
      - url: %s
        %s}
        %s
`, c.groupBy, c.wait, c.interval, c.url, http, c.webhook)
	return runAlertmanager(t, need(t, "prometheus-alertmanager", "prometheus-alertmanager"), c.address, config, c.args...)
}

// runAlertmanager starts the binary with a configuration and waits until it is ready.
func runAlertmanager(t testing.TB, binary, address, config string, args ...string) alertmanager {
	t.Helper()
	a := alertmanager{t: t, url: "http://" + address}
	a.process = startProcess(t, binary, append([]string{
		"--config.file=" + writeFile(t, "alertmanager.yml", config), "--storage.path=" + t.TempDir(),
		"--web.listen-address=" + address, "--web.external-url=" + a.url, "--log.level=warn",
	}, args...)...)
	awaitPage(t, a.url+"/-/ready")
	return a
}

// alert is an alert in the format of Alertmanager's API, as posted by Prometheus.
type alert struct {
	Labels   map[string]string `json:"labels"`
	StartsAt time.Time         `json:"startsAt,omitzero"`
	EndsAt   time.Time         `json:"endsAt,omitzero"` // in the past: resolved
}

// alertAbout returns an alert that hangs up the flows to a destination.
func alertAbout(to netip.AddrPort) alert {
	return alert{StartsAt: time.Now(), Labels: map[string]string{
		"alertname": "Stale", "tcphup": "hangup", "destination": to.Addr().String(), "port": strconv.Itoa(int(to.Port())),
	}}
}

// post posts alerts in one request. Without EndsAt they fire for five minutes.
func (a alertmanager) post(alerts ...alert) {
	a.t.Helper()
	body, err := json.Marshal(alerts)
	if err != nil {
		a.t.Fatal(err)
	}
	response, err := http.Post(a.url+"/api/v2/alerts", "application/json", bytes.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		a.t.Fatalf("post %s to Alertmanager: %s", body, response.Status)
	}
}

// awaitFailed waits for n failed notification requests.
func (a alertmanager) awaitFailed(n float64) {
	a.t.Helper()
	const series = `alertmanager_notification_requests_failed_total{integration="webhook"}`
	nstest.Eventually(a.t, series, func() bool {
		value, _ := sampleOf(a.t, a.url, series)
		return value >= n
	})
}

// serveArmed runs tcphup as receiver and exporter until the test ends, with a token: it
// hangs up connections for alerts. args are additional arguments.
func serveArmed(t testing.TB, args ...string) *process {
	t.Helper()
	return serve(t, append([]string{"--alerts.token-file=" + writeFile(t, "token", token)}, args...)...)
}

// policyFile writes a configuration with one policy, limited to loopback destinations.
// settings are additional keys of the policy. The default linger of 30s keeps outcomes
// stable on a busy machine.
func policyFile(t testing.TB, settings string) string {
	t.Helper()
	return writeFile(t, "tcphup.yml", policyText(settings))
}

func policyText(settings string) string {
	if !strings.Contains(settings, "linger:") {
		settings = "    linger: 30s\n" + settings
	}
	return `
policies:
  - name: test
    match: ['tcphup="hangup"']
    allow: [127.0.0.0/8]
` + settings + "\n"
}

// awaitSample waits until a series of tcphup has at least this value.
func awaitSample(t testing.TB, series string, atLeast float64) {
	t.Helper()
	nstest.Eventually(t, fmt.Sprintf("%s is %v or more", series, atLeast), func() bool {
		value, ok := sample(t, series)
		return ok && value >= atLeast
	})
}

// mustSample checks the value of a series.
func mustSample(t testing.TB, series string, want float64) {
	t.Helper()
	if value, ok := sample(t, series); !ok || value != want {
		t.Errorf("%s is %v (found: %v), want %v", series, value, ok, want)
	}
}

// Series of tcphup that many tests read.
const (
	answered200 = `tcphup_notifications_total{code="200"}`
	answered401 = `tcphup_notifications_total{code="401"}`
	answered503 = `tcphup_notifications_total{code="503"}`
	// flowsClosed counts flows closed by the policy of policyFile.
	flowsClosed = `tcphup_hangups_total{method="shutdown",outcome="closed",policy="test"}`
)

func alertsWith(result string) string { return fmt.Sprintf("tcphup_alerts_total{result=%q}", result) }
