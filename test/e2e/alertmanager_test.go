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

// alertmanager is a running one. It gets its alerts from the test, as it would
// from Prometheus.
type alertmanager struct {
	*process
	t   testing.TB
	url string
}

// oneNotification is the wait that makes alerts posted together go out together:
// Alertmanager takes them up one by one.
const oneNotification = "2s"

// alertmanagerConfig says how to run one with a single receiver.
type alertmanagerConfig struct {
	address  string // "" means alertmanagerAddress
	groupBy  string
	wait     string   // for more alerts of a new group; "" means none
	interval string   // between notifications about a group, repeats included; "" means 1s
	url      string   // of the receiver; "" means that of the tcphup under test
	token    string   // "" means none
	tls      string   // tls_config, in YAML's flow style; "" means none
	webhook  string   // further keys of the receiver
	args     []string // instead of those of one without peers
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

// runAlertmanager runs the program with a configuration.
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

// alert is one as Prometheus posts it.
type alert struct {
	Labels   map[string]string `json:"labels"`
	StartsAt time.Time         `json:"startsAt,omitzero"`
	EndsAt   time.Time         `json:"endsAt,omitzero"` // in the past: it is resolved
}

// alertAbout is an alert that asks to hang up the flows to a destination.
func alertAbout(to netip.AddrPort) alert {
	return alert{StartsAt: time.Now(), Labels: map[string]string{
		"alertname": "Stale", "tcphup": "hangup", "destination": to.Addr().String(), "port": strconv.Itoa(int(to.Port())),
	}}
}

// post hands alerts over. They fire for five minutes.
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
		a.t.Fatalf("Alertmanager answered %s to %s", response.Status, body)
	}
}

// awaitFailed waits until so many notifications could not be delivered.
func (a alertmanager) awaitFailed(n float64) {
	a.t.Helper()
	const series = `alertmanager_notification_requests_failed_total{integration="webhook"}`
	nstest.Eventually(a.t, series, func() bool {
		value, _ := sampleOf(a.t, a.url, series)
		return value >= n
	})
}

// serveArmed runs tcphup as receiver and exporter until the test ends. The
// arguments are added to those that make it close what alerts name.
func serveArmed(t testing.TB, args ...string) *process {
	t.Helper()
	return serve(t, append([]string{"--alerts.token-file=" + writeFile(t, "token", token)}, args...)...)
}

// policyFile is a configuration with one policy, which may touch this host alone.
// settings are further keys of the policy. The linger is 30s unless they set it, so that
// a busy peer does not change an outcome.
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

// awaitSample waits until a series of tcphup has the value or a larger one.
func awaitSample(t testing.TB, series string, atLeast float64) {
	t.Helper()
	nstest.Eventually(t, fmt.Sprintf("%s is %v or more", series, atLeast), func() bool {
		value, ok := sample(t, series)
		return ok && value >= atLeast
	})
}

// mustSample fails the test unless the series has the value.
func mustSample(t testing.TB, series string, want float64) {
	t.Helper()
	if value, ok := sample(t, series); !ok || value != want {
		t.Errorf("%s is %v (there: %v), want %v", series, value, ok, want)
	}
}

// Series of tcphup that many tests look at.
const (
	answered200 = `tcphup_notifications_total{code="200"}`
	answered401 = `tcphup_notifications_total{code="401"}`
	answered503 = `tcphup_notifications_total{code="503"}`
	// flowsClosed counts what the policy of policyFile has shut down.
	flowsClosed = `tcphup_hangups_total{method="shutdown",outcome="closed",policy="test"}`
)

func alertsWith(result string) string { return fmt.Sprintf("tcphup_alerts_total{result=%q}", result) }
