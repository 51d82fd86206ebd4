package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"tcphup/test/kit/nstest"
)

// TestPrivilegedStoredSeries checks the documented number of series of a destination in
// Prometheus: with classic histograms, with native histograms, and with the
// metric_relabel_configs of docs/metrics.md.
func TestPrivilegedStoredSeries(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		content, err := os.ReadFile("../../docs/metrics.md")
		if err != nil {
			t.Fatal(err)
		}
		find := func(pattern string) []string {
			t.Helper()
			found := regexp.MustCompile(pattern).FindStringSubmatch(string(content))
			if found == nil {
				t.Fatalf("docs/metrics.md has no %s", pattern)
			}
			return found[1:]
		}
		documented := find(`\n\| a destination \| (\d+) \| (\d+) \|\n`)
		left := find(`a destination has (\d+) series with classic`)
		relabel := find("(?s)```yaml\n(metric_relabel_configs:.*?)```")
		// From block style to the flow style of the test's scrape job.
		rules := regexp.MustCompile(`(?m)^\s*- (\{.*\})$`).FindAllString(relabel[0], -1)
		for i, r := range rules {
			rules[i] = strings.TrimPrefix(strings.TrimSpace(r), "- ")
		}

		server := startBackend(t, "127.0.0.1:0")
		dial(t, false, 1, server.addr())
		server.awaitOpen(1)
		serve(t)
		type stored struct{ name, binary, job, want string }
		tests := []stored{
			{"classic", "", "", documented[0]},
			{"relabelled", "", "metric_relabel_configs: [" + strings.Join(rules, ", ") + "]", left[0]},
		}
		if binary := prometheus3(t); binary != "" {
			tests = append(tests, stored{"native", binary, nativeHistograms, documented[1]})
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				p := prometheusConfig{binary: tt.binary, job: tt.job, targets: []string{tcphupAddress}}.start(t)
				p.mustHaveData("a scrape", "tcphup_sockets", isPositive)
				points := p.query(fmt.Sprintf(`count({destination="127.0.0.1", port="%d"})`, server.addr().Port()))
				got := ""
				for _, point := range points {
					if got != "" && point.value != got {
						t.Errorf("number of series changes: %v", points)
					}
					got = point.value
				}
				if _, err := strconv.Atoi(got); err != nil || got != tt.want {
					t.Errorf("%s series, want %s", got, tt.want)
				}
			})
		}
	})
}
