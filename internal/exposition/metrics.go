package exposition

import dto "github.com/prometheus/client_model/go"

// Limits of a metric.
const (
	MaxLabels  = 6  // with the labels of Common
	MaxBuckets = 11 // without the +Inf bucket
)

// Metrics collects the metrics of one family. The zero value is ready to use.
type Metrics struct {
	family     dto.MetricFamily
	common     []*dto.LabelPair
	gauges     slab[gauge]
	counters   slab[counter]
	histograms slab[histogram]
}

// gauge is a gauge with the memory that it points to.
type gauge struct {
	metric dto.Metric
	gauge  dto.Gauge
	value  float64
	labels [MaxLabels]*dto.LabelPair
}

// counter is a counter with the memory that it points to.
type counter struct {
	metric  dto.Metric
	counter dto.Counter
	value   float64
	labels  [MaxLabels]*dto.LabelPair
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
	m.common = nil
	m.gauges.used, m.counters.used, m.histograms.used = 0, 0, 0
}

// Common sets labels, sorted by name, that the next metrics of the family have in addition.
// It replaces the labels of an earlier call.
func (m *Metrics) Common(labels []*dto.LabelPair) { m.common = labels }

// merged writes the labels and the common ones to into, sorted by name, and returns them.
func (m *Metrics) merged(into *[MaxLabels]*dto.LabelPair, labels []*dto.LabelPair) []*dto.LabelPair {
	n, common := 0, m.common
	for _, l := range labels {
		for len(common) > 0 && common[0].GetName() < l.GetName() {
			into[n], common = common[0], common[1:]
			n++
		}
		into[n] = l
		n++
	}
	return into[:n+copy(into[n:], common)]
}

// Gauge adds a gauge with labels sorted by name, at most MaxLabels with the common ones.
func (m *Metrics) Gauge(value float64, labels ...*dto.LabelPair) {
	g := m.gauges.next()
	g.value = value
	g.gauge.Value, g.metric.Gauge = &g.value, &g.gauge
	g.metric.Label = m.merged(&g.labels, labels)
	m.family.Metric = append(m.family.Metric, &g.metric)
}

// Count adds a gauge with an integer value.
func (m *Metrics) Count(n uint32, labels ...*dto.LabelPair) { m.Gauge(float64(n), labels...) }

// Counter adds a counter with labels as Gauge has them.
func (m *Metrics) Counter(value float64, labels ...*dto.LabelPair) {
	c := m.counters.next()
	c.value = value
	c.counter.Value, c.metric.Counter = &c.value, &c.counter
	c.metric.Label = m.merged(&c.labels, labels)
	m.family.Metric = append(m.family.Metric, &c.metric)
}

// Histogram adds a histogram with at most MaxBuckets bounds and labels as Gauge has them. The
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
	h.metric.Label = m.merged(&h.labels, labels)
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
