package exposition

import dto "github.com/prometheus/client_model/go"

// Limits of a metric.
const (
	MaxLabels  = 4
	MaxBuckets = 11 // without the +Inf bucket
)

// Metrics collects the metrics of one family. The zero value is ready to use.
type Metrics struct {
	family     dto.MetricFamily
	gauges     slab[gauge]
	histograms slab[histogram]
}

// gauge is a gauge with the memory that it points to.
type gauge struct {
	metric dto.Metric
	gauge  dto.Gauge
	value  float64
	labels [MaxLabels]*dto.LabelPair
}

// histogram is a histogram with the memory that it points to. The encoder adds the +Inf
// bucket.
type histogram struct {
	metric     dto.Metric
	histogram  dto.Histogram
	buckets    [MaxBuckets]dto.Bucket
	pointers   [MaxBuckets]*dto.Bucket
	cumulative [MaxBuckets]uint64
	count      uint64
	sum        float64
	labels     [MaxLabels]*dto.LabelPair
}

// reset removes all metrics and sets the family.
func (m *Metrics) reset(name, help *string, kind *dto.MetricType) {
	m.family.Name, m.family.Help, m.family.Type = name, help, kind
	m.family.Metric = m.family.Metric[:0]
	m.gauges.used, m.histograms.used = 0, 0
}

// Gauge adds a gauge with at most MaxLabels labels, sorted by name.
func (m *Metrics) Gauge(value float64, labels ...*dto.LabelPair) {
	g := m.gauges.next()
	g.value = value
	g.gauge.Value, g.metric.Gauge = &g.value, &g.gauge
	g.metric.Label = g.labels[:copy(g.labels[:], labels)]
	m.family.Metric = append(m.family.Metric, &g.metric)
}

// Count adds a gauge with an integer value.
func (m *Metrics) Count(n uint32, labels ...*dto.LabelPair) { m.Gauge(float64(n), labels...) }

// Histogram adds a histogram with at most MaxBuckets bounds and labels sorted by name. The
// last element of counts, one more than bounds has, is the +Inf bucket.
func (m *Metrics) Histogram(bounds []float64, counts []uint32, sum float64, labels ...*dto.LabelPair) {
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

// Label returns a label. Metrics may share it.
func Label(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }

// slab allocates values with stable addresses. A value from next keeps the content of its
// last use.
type slab[T any] struct {
	chunks [][]T // slabChunk values each
	used   int   // values since the last reset
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
