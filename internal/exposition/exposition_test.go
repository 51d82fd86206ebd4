package exposition

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// newEncoder returns an encoder of n gauges and n histograms for the result n.
func newEncoder() *Encoder[int] {
	label, bounds := Label("name", "value"), []float64{1, 2}
	return NewEncoder([]Family[int]{
		{Name: "test_histogram", Help: "A histogram.", Type: dto.MetricType_HISTOGRAM, Write: func(to *Metrics, n int) {
			for i := range n {
				to.Histogram(bounds, []uint32{uint32(i), 1, 2}, float64(n), label)
			}
		}},
		{Name: "test_gauge", Help: "A gauge.", Type: dto.MetricType_GAUGE, Write: func(to *Metrics, n int) {
			for range n {
				to.Count(uint32(n), label, label)
			}
		}},
	})
}

func encode(t *testing.T, e *Encoder[int], n int, names ...string) string {
	t.Helper()
	others := []*dto.MetricFamily{{Name: new("other"), Type: dto.MetricType_GAUGE.Enum(), Metric: []*dto.Metric{{Gauge: &dto.Gauge{Value: new(7.0)}}}}}
	var b bytes.Buffer
	if err := e.Encode(expfmt.NewEncoder(&b, expfmt.NewFormat(expfmt.TypeTextPlain)), names, n, others); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestEncode(t *testing.T) {
	const (
		gauge = `# HELP test_gauge A gauge.
# TYPE test_gauge gauge
test_gauge{name="value",name="value"} 1
`
		histogram = `# HELP test_histogram A histogram.
# TYPE test_histogram histogram
test_histogram_bucket{name="value",le="1"} 0
test_histogram_bucket{name="value",le="2"} 1
test_histogram_bucket{name="value",le="+Inf"} 3
test_histogram_sum{name="value"} 1
test_histogram_count{name="value"} 3
`
		other = "# TYPE other gauge\nother 7\n"
	)
	tests := []struct {
		name  string
		n     int
		names []string
		want  string
	}{
		{"all, sorted by name", 1, nil, gauge + histogram + other},
		{"families without metrics are omitted", 0, nil, other},
		{"some names", 1, []string{"test_histogram", "nothing"}, histogram},
		{"a name in others", 1, []string{"other"}, other},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := encode(t, newEncoder(), tt.n, tt.names...); got != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tt.want)
			}
		})
	}
}

// Encode reuses memory, and no content of an earlier result remains.
func TestReuse(t *testing.T) {
	e := newEncoder()
	for _, n := range []int{3 * slabChunk, 1, 0, 40, 3 * slabChunk} {
		if got, want := encode(t, e, n), encode(t, newEncoder(), n); got != want {
			t.Errorf("%d metrics with reused memory:\n%s\nwant:\n%s", n, got, want)
		}
	}
	m := e.scratch.Load()
	if m == nil {
		t.Fatal("memory is not kept after a scrape")
	}
	if len(m.gauges.chunks) != 3 || len(m.histograms.chunks) != 3 {
		t.Errorf("memory for %d gauges and %d histograms", len(m.gauges.chunks)*slabChunk, len(m.histograms.chunks)*slabChunk)
	}
	if allocations := testing.AllocsPerRun(10, func() { _ = e.Encode(discard{}, nil, 3*slabChunk, nil) }); allocations > 1 {
		t.Errorf("%v allocations for each scrape", allocations)
	}
}

type discard struct{ err error }

func (d discard) Encode(*dto.MetricFamily) error { return d.err }

func TestEncodeError(t *testing.T) {
	broken := errors.New("broken")
	e := newEncoder()
	if err := e.Encode(discard{broken}, nil, 1, nil); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if err := e.Encode(discard{broken}, []string{"other"}, 1, []*dto.MetricFamily{{Name: new("other")}}); !errors.Is(err, broken) {
		t.Errorf("others: got %v", err)
	}
	if got := encode(t, e, 1); strings.Count(got, "# TYPE") != 3 {
		t.Errorf("after an error:\n%s", got)
	}
}
