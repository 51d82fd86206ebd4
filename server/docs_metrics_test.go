package server

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"tcphup/services"
	"tcphup/test/kit/docs"
)

// The tables of metrics in docs match the code. `make docs` rewrites them.
func TestDocs(t *testing.T) {
	perDestination, others, services := metricTables(t)
	for _, tt := range []struct{ file, region, want string }{
		{"docs/metrics.md", "metrics-of-destinations", perDestination},
		{"docs/metrics.md", "other-metrics", others},
		{"docs/metrics.md", "metrics-of-nodes", nodeTable(t)},
		{"docs/metrics.md", "series", seriesTable(t)},
		{"docs/metrics.md", "series-of-nodes", nodeSeriesTable(t)},
		{"docs/services.md", "service-metrics", services},
	} {
		docs.Check(t, filepath.Join("..", tt.file), tt.region, tt.want)
	}
}

// metricTables returns the tables of metrics per destination, of all other metrics, and
// of service metrics, which the second table has too.
func metricTables(t *testing.T) (perDestination, others, ofServices string) {
	t.Helper()
	var rows [3][][]string
	all := describedMetrics(t, testServer(t, Options{Services: []services.Service{{Name: "db.internal", Port: 5432}}}))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		m := all[name]
		if !strings.HasPrefix(name, "tcphup_") {
			if !regexp.MustCompile(`^(go|process)_`).MatchString(name) {
				t.Errorf("%s is neither in a table nor a Go or process metric", name)
			}
			continue
		}
		i := 1
		if slices.Contains(m.labels, "destination") {
			i = 0
			m.labels = slices.DeleteFunc(slices.Clone(m.labels), func(l string) bool { return l == "destination" || l == "port" })
		}
		row := m.row(name)
		rows[i] = append(rows[i], row)
		if strings.HasPrefix(name, "tcphup_service_") {
			rows[2] = append(rows[2], row)
		}
	}
	header := []string{"metric", "type", "labels", ""}
	return docs.Table(append(header[:2:2], "more labels", ""), rows[0]), docs.Table(header, rows[1]), docs.Table(header, rows[2])
}

// nodeTable returns the table of the metrics of the collector that exist in node mode only or
// have other labels there, without those per destination.
func nodeTable(t *testing.T) string {
	t.Helper()
	all := make(map[string]metric)
	for _, f := range goldenFamilies(t, "../collector/testdata/node/*.prom") {
		m := newMetric(f)
		if isNew := strings.HasPrefix(f.GetName(), "tcphup_node_"); isNew || slices.Contains(m.labels, "pod") && !slices.Contains(m.labels, "destination") {
			all[f.GetName()] = m
		}
	}
	var rows [][]string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		rows = append(rows, all[name].row(name))
	}
	return docs.Table([]string{"metric", "type", "labels", ""}, rows)
}

// metric is the definition of a metric. Its labels are sorted.
type metric struct {
	kind, help string
	labels     []string
}

// row returns the row of a table.
func (m metric) row(name string) []string {
	var labels []string
	for _, l := range m.labels {
		labels = append(labels, docs.Code(l))
	}
	return []string{docs.Code(name), m.kind, strings.Join(labels, ", "), m.help}
}

func newMetric(f *dto.MetricFamily) metric {
	seen := make(map[string]bool)
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			seen[l.GetName()] = true
		}
	}
	return metric{strings.ToLower(f.GetType().String()), f.GetHelp(), slices.Sorted(maps.Keys(seen))}
}

// describedMetrics returns all metrics of a server by name. Metrics of the collector come
// from its golden files. For others, name, help and labels come from the descriptors, and
// the type from the values at startup. Without a value the type is gauge;
// TestPrivilegedServedMetrics verifies that.
func describedMetrics(t *testing.T, x *server) map[string]metric {
	t.Helper()
	registry := prometheus.NewRegistry()
	if err := registry.Register(ofEachDesc{x.registry}); err != nil {
		t.Fatal(err)
	}
	all := make(map[string]metric)
	for _, f := range gather(t, registry) {
		all[f.GetName()] = newMetric(f)
	}
	for _, f := range gather(t, x.registry) {
		m := all[f.GetName()]
		m.kind = newMetric(f).kind
		all[f.GetName()] = m
	}
	for _, f := range goldenFamilies(t, "../collector/testdata/*.prom") {
		all[f.GetName()] = newMetric(f)
	}
	return all
}

// goldenFamilies returns the families of all files that match the pattern.
func goldenFamilies(t *testing.T, pattern string) (all []*dto.MetricFamily) {
	t.Helper()
	golden, err := filepath.Glob(pattern)
	if err != nil || len(golden) == 0 {
		t.Fatalf("golden files %s: %q, %v", pattern, golden, err)
	}
	for _, path := range golden {
		all = append(all, readMetrics(t, path)...)
	}
	return all
}

// readMetrics returns the families of a file.
func readMetrics(t *testing.T, path string) []*dto.MetricFamily {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	return parseMetrics(t, file)
}

// parseMetrics returns the families of a text.
func parseMetrics(t *testing.T, text io.Reader) []*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(text)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(maps.Values(families))
}

func gather(t *testing.T, from prometheus.Gatherer) []*dto.MetricFamily {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// ofEachDesc collects one gauge for each descriptor of the collectors.
type ofEachDesc []interface {
	Describe(chan<- *prometheus.Desc)
}

// Describe implements prometheus.Collector. Without descriptors it is unchecked.
func (ofEachDesc) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (all ofEachDesc) Collect(ch chan<- prometheus.Metric) {
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		for _, d := range all {
			d.Describe(descs)
		}
	}()
	const maxLabels = 10
	for desc := range descs {
		metric := prometheus.NewInvalidMetric(desc, fmt.Errorf("%v has more than %d labels", desc, maxLabels))
		// A descriptor does not expose its number of labels.
		for n := range maxLabels + 1 {
			if m, err := prometheus.NewConstMetric(desc, prometheus.GaugeValue, 0, make([]string, n)...); err == nil {
				metric = m
				break
			}
		}
		ch <- metric
	}
}
