package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"tcphup/test/kit/nstest"
)

// nativeHistograms are the settings of a scrape job for that.
const nativeHistograms = "scrape_native_histograms: true, convert_classic_histograms_to_nhcb: true"

// prometheus is a running Prometheus.
type prometheus struct {
	t       *testing.T
	url     string
	started time.Time
}

// prometheusConfig configures a Prometheus with the scrape job tcphup.
type prometheusConfig struct {
	binary  string // "" means Debian's
	address string // "" means prometheusAddress
	rules   string // content of the rule file
	job     string // more settings of the job, in YAML flow style
	labels  string // of the targets, in YAML flow style
	targets []string
}

// start starts Prometheus and waits until it is ready.
func (c prometheusConfig) start(t *testing.T) prometheus {
	t.Helper()
	if c.address == "" {
		c.address = prometheusAddress
	}
	if c.binary == "" {
		c.binary = need(t, "prometheus", "prometheus")
	}
	job := fmt.Sprintf("job_name: tcphup, static_configs: [{targets: [%s], labels: {%s}}]", strings.Join(c.targets, ", "), c.labels)
	if c.job != "" {
		job += ", " + c.job
	}
	config := writeFile(t, "prometheus.yml", fmt.Sprintf(`
global: {scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 250ms}
rule_files: [%q]
scrape_configs: [{%s}]
alerting: {alertmanagers: [{static_configs: [{targets: [%q]}]}]}
`, writeFile(t, "rules.yml", c.rules), job, alertmanagerAddress))
	p := prometheus{t: t, url: "http://" + c.address, started: time.Now()}
	startProcess(t, c.binary, "--config.file="+config, "--storage.tsdb.path="+t.TempDir(),
		"--web.listen-address="+c.address, "--log.level=warn")
	awaitPage(t, p.url+"/-/ready")
	return p
}

// startPrometheus starts Prometheus with these targets and an alert on the query.
func startPrometheus(t *testing.T, query string, targets ...string) {
	t.Helper()
	rules := fmt.Sprintf(`
groups:
  - name: tcphup
    rules:
      - alert: StaleSockets
        expr: %s
        labels: {tcphup: hangup}
`, query)
	prometheusConfig{rules: rules, targets: targets}.start(t)
}

// prometheus3 returns the path of a Prometheus that stores classic histograms as native ones,
// or "" without one.
func prometheus3(t *testing.T) string {
	t.Helper()
	path := os.Getenv("TCPHUP_PROMETHEUS3")
	if path == "" {
		t.Log("native histograms are left out: make prometheus3 has them")
	}
	return path
}

// point is a sample or a native histogram of a query result.
type point struct {
	labels map[string]string
	value  string // "" for a histogram
}

// query returns the points of a PromQL query from the start of Prometheus until now.
func (p prometheus) query(expr string) []point {
	p.t.Helper()
	now := time.Now()
	values := url.Values{
		"query": {expr}, "step": {"0.5"},
		"start": {fmt.Sprintf("%.3f", float64(p.started.UnixMilli())/1000)}, "end": {fmt.Sprintf("%.3f", float64(now.UnixMilli())/1000)},
	}
	page, err := get(p.t, p.url+"/api/v1/query_range?"+values.Encode())
	if err != nil {
		p.t.Fatalf("query %s: %v\n%s", expr, err, page)
	}
	var response struct {
		Data struct {
			Result []struct {
				Metric     map[string]string
				Values     [][2]any
				Histograms [][2]any
			}
		}
	}
	if err := json.Unmarshal([]byte(page), &response); err != nil {
		p.t.Fatal(err)
	}
	var points []point
	for _, r := range response.Data.Result {
		for _, v := range r.Values {
			points = append(points, point{r.Metric, fmt.Sprint(v[1])})
		}
		for range r.Histograms {
			points = append(points, point{r.Metric, ""})
		}
	}
	return points
}

// mustHaveData waits until a query has a point that matches.
func (p prometheus) mustHaveData(what, expr string, matches func(point) bool) {
	p.t.Helper()
	nstest.Eventually(p.t, what+" has data: "+expr, func() bool {
		for _, point := range p.query(expr) {
			if matches(point) {
				return true
			}
		}
		return false
	})
}

// isNumber matches any point but NaN.
func isNumber(p point) bool { return p.value != "NaN" }

// isPositive matches a number above 0.
func isPositive(p point) bool { return isNumber(p) && p.value != "0" && p.value != "" }
