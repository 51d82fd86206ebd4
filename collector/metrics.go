package collector

import (
	"strconv"
	"time"

	dto "github.com/prometheus/client_model/go"

	"tcphup/sockdiag"
)

// metrics holds the metrics of one family in the form in which they are encoded. Its
// memory, some hundred bytes for each metric, is used again for the next family: all
// families of a scrape at once would take several kilobytes for each destination.
type metrics struct {
	family     dto.MetricFamily
	gauges     slab[gauge]
	histograms slab[histogramMetric]
}

// maxLabels is how many labels a metric has at most.
const maxLabels = 4

// gauge is a gauge with all that it points to.
type gauge struct {
	metric dto.Metric
	gauge  dto.Gauge
	value  float64
	labels [maxLabels]*dto.LabelPair
}

// histogramMetric is a histogram with all that it points to. The bucket that has no
// upper bound is not among its buckets: whoever encodes it adds that.
type histogramMetric struct {
	metric     dto.Metric
	histogram  dto.Histogram
	buckets    [len(idleBuckets)]dto.Bucket
	pointers   [len(idleBuckets)]*dto.Bucket
	cumulative [len(idleBuckets)]uint64
	count      uint64
	sum        float64
	labels     [maxLabels]*dto.LabelPair
}

// of returns the metrics of a family, which may be none, until it is called again.
func (m *metrics) of(f *family, r *result) *dto.MetricFamily {
	m.family.Name, m.family.Help, m.family.Type = &f.name, &f.help, &f.kind
	m.family.Metric = m.family.Metric[:0]
	m.gauges.used, m.histograms.used = 0, 0
	f.write(m, r)
	return &m.family
}

// gauge adds a gauge. Its labels are sorted by name.
func (m *metrics) gauge(value float64, labels ...*dto.LabelPair) {
	g := m.gauges.next()
	g.value = value
	g.gauge.Value, g.metric.Gauge = &g.value, &g.gauge
	g.metric.Label = g.labels[:copy(g.labels[:], labels)]
	m.family.Metric = append(m.family.Metric, &g.metric)
}

func (m *metrics) count(n uint32, labels ...*dto.LabelPair) { m.gauge(float64(n), labels...) }

// histogram adds a histogram; counts has one element more than bounds, for what lies
// above all of them. Its labels are sorted by name.
func (m *metrics) histogram(bounds []float64, counts []uint32, sum float64, labels ...*dto.LabelPair) {
	h := m.histograms.next()
	h.count, h.sum = 0, sum
	for i, n := range counts {
		h.count += uint64(n)
		if i < len(bounds) {
			h.cumulative[i] = h.count
			h.buckets[i].UpperBound, h.buckets[i].CumulativeCount = &bounds[i], &h.cumulative[i]
			h.pointers[i] = &h.buckets[i]
		}
	}
	h.histogram.SampleCount, h.histogram.SampleSum, h.histogram.Bucket = &h.count, &h.sum, h.pointers[:len(bounds)]
	h.metric.Histogram = &h.histogram
	h.metric.Label = h.labels[:copy(h.labels[:], labels)]
	m.family.Metric = append(m.family.Metric, &h.metric)
}

// slab hands out values that stay where they are, used of them so far. What next
// returns is as it was left when it was used last.
type slab[T any] struct {
	chunks [][]T // of slabChunk each
	used   int
}

const slabChunk = 32

func (s *slab[T]) next() *T {
	if s.used == len(s.chunks)*slabChunk {
		s.chunks = append(s.chunks, make([]T, slabChunk))
	}
	value := &s.chunks[s.used/slabChunk][s.used%slabChunk]
	s.used++
	return value
}

// label returns a label, which may be part of many metrics.
func label(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }

// truthLabels are those for false and for true.
func truthLabels(name string) (labels [2]*dto.LabelPair) {
	for i := range labels {
		labels[i] = label(name, strconv.FormatBool(i == 1))
	}
	return labels
}

func stateLabels() (labels [sockdiag.MaxState + 1]*dto.LabelPair) {
	for state := range labels {
		labels[state] = label("state", sockdiag.State(state).String())
	}
	return labels
}

func seconds(durations []time.Duration) []float64 {
	var all []float64
	for _, d := range durations {
		all = append(all, d.Seconds())
	}
	return all
}
