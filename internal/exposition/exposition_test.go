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

// Common labels are part of the metrics that follow in the same family.
func TestCommon(t *testing.T) {
	pods := [][]*dto.LabelPair{{Label("namespace", "a"), Label("pod", "b")}, nil}
	e := NewEncoder([]Family[int]{
		{Name: "test_1_total", Help: "A counter.", Type: dto.MetricType_COUNTER, Write: func(to *Metrics, _ int) {
			to.Counter(2)
			to.Common(pods[0])
			to.Counter(3, Label("destination", "x"), Label("port", "1"))
			to.Common(pods[1])
			to.Counter(4, Label("state", "y"))
			to.Common(pods[0])
		}},
		{Name: "test_2", Help: "A gauge.", Type: dto.MetricType_GAUGE, Write: func(to *Metrics, _ int) {
			to.Gauge(5, Label("port", "1"))
			to.Common(pods[0])
			to.Gauge(6)
			to.Gauge(7, Label("aa", "1"), Label("nn", "2"), Label("state", "3"), Label("zz", "4"))
		}},
		{Name: "test_3", Help: "A histogram.", Type: dto.MetricType_HISTOGRAM, Write: func(to *Metrics, _ int) {
			to.Common(pods[0])
			to.Histogram([]float64{1}, []uint32{1, 2}, 8, Label("oo", "1"))
		}},
	})
	const want = `# HELP test_1_total A counter.
# TYPE test_1_total counter
test_1_total 2
test_1_total{destination="x",namespace="a",pod="b",port="1"} 3
test_1_total{state="y"} 4
# HELP test_2 A gauge.
# TYPE test_2 gauge
test_2{port="1"} 5
test_2{namespace="a",pod="b"} 6
test_2{aa="1",namespace="a",nn="2",pod="b",state="3",zz="4"} 7
# HELP test_3 A histogram.
# TYPE test_3 histogram
test_3_bucket{namespace="a",oo="1",pod="b",le="1"} 1
test_3_bucket{namespace="a",oo="1",pod="b",le="+Inf"} 3
test_3_sum{namespace="a",oo="1",pod="b"} 8
test_3_count{namespace="a",oo="1",pod="b"} 3
# TYPE other gauge
other 7
`
	for range 2 { // with reused memory
		if got := encode(t, e, 0); got != want {
			t.Errorf("got:\n%s\nwant:\n%s", got, want)
		}
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
