package collector

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// page holds the metrics of one pass in the form in which they are sent. The zero
// page is empty. Its memory serves one pass after the other, so that a scrape leaves
// next to nothing behind as garbage: whoever reads a page has it to himself and those
// he shares the pass with, until all of them have released it (see shared).
type page struct {
	families   []dto.MetricFamily // by family.place
	gauges     slab[gaugeSample]
	histograms slab[histogramSample]
	observed   []prometheus.Metric // of the Observer
}

// maxLabels is how many labels a metric has at most.
const maxLabels = 4

// gaugeSample is a gauge with all that it points to.
type gaugeSample struct {
	metric dto.Metric
	gauge  dto.Gauge
	value  float64
	labels [maxLabels]*dto.LabelPair
}

// histogramSample is a histogram with all that it points to. The bucket that has no
// upper bound is not among its buckets: whoever sends it adds that.
type histogramSample struct {
	metric     dto.Metric
	histogram  dto.Histogram
	buckets    [len(idleBuckets)]dto.Bucket
	pointers   [len(idleBuckets)]*dto.Bucket
	cumulative [len(idleBuckets)]uint64
	count      uint64
	sum        float64
	labels     [maxLabels]*dto.LabelPair
}

// reset empties the page and prepares it for these families.
func (p *page) reset(families []*family) {
	if p.families == nil {
		p.families = make([]dto.MetricFamily, len(families))
		for i, f := range families {
			out := &p.families[i]
			out.Name, out.Help, out.Type = &f.name, &f.help, f.kind.Enum()
		}
	}
	for i := range p.families {
		p.families[i].Metric = p.families[i].Metric[:0]
	}
	p.gauges.used, p.histograms.used, p.observed = 0, 0, nil
}

// gauge adds a gauge. Its labels are sorted by name.
func (p *page) gauge(f *family, value float64, labels ...*dto.LabelPair) {
	s := p.gauges.next()
	s.value = value
	s.gauge.Value, s.metric.Gauge = &s.value, &s.gauge
	s.metric.Label = s.labels[:copy(s.labels[:], labels)]
	p.add(f, &s.metric)
}

// histogram adds a histogram; counts has one element more than bounds, for what lies
// above all of them. Its labels are sorted by name.
func (p *page) histogram(f *family, bounds []float64, counts []uint32, sum float64, labels ...*dto.LabelPair) {
	s := p.histograms.next()
	s.count, s.sum = 0, sum
	for i, n := range counts {
		s.count += uint64(n)
		if i < len(bounds) {
			s.cumulative[i] = s.count
			s.buckets[i].UpperBound, s.buckets[i].CumulativeCount = &bounds[i], &s.cumulative[i]
			s.pointers[i] = &s.buckets[i]
		}
	}
	s.histogram.SampleCount, s.histogram.SampleSum, s.histogram.Bucket = &s.count, &s.sum, s.pointers[:len(bounds)]
	s.metric.Histogram = &s.histogram
	s.metric.Label = s.labels[:copy(s.labels[:], labels)]
	p.add(f, &s.metric)
}

func (p *page) add(f *family, m *dto.Metric) {
	to := &p.families[f.place]
	to.Metric = append(to.Metric, m)
}

// of returns the metrics of one family.
func (p *page) of(f *family) []*dto.Metric { return p.families[f.place].Metric }

// gather returns the families that have metrics.
func (p *page) gather() []*dto.MetricFamily {
	list := make([]*dto.MetricFamily, 0, len(p.families))
	for i := range p.families {
		if len(p.families[i].Metric) > 0 {
			list = append(list, &p.families[i])
		}
	}
	return list
}

// slab hands out values that stay where they are. What next returns is as it was when
// it was used last.
type slab[T any] struct {
	chunks [][]T // of slabChunk each
	used   int
}

const slabChunk = 64

func (s *slab[T]) next() *T {
	if s.used == len(s.chunks)*slabChunk {
		s.chunks = append(s.chunks, make([]T, slabChunk))
	}
	value := &s.chunks[s.used/slabChunk][s.used%slabChunk]
	s.used++
	return value
}
