// Package exposition encodes the metrics of a scrape family by family, with memory reused
// between scrapes.
//
// promhttp with a registry gathers all families of a scrape first. It copies and checks each
// metric and allocates several kilobytes for each destination. Only reading the sockets
// costs more. Here a family exists only while it is encoded, and a metric takes some hundred
// bytes of a slab. Tests check the consistency of the families.
package exposition

import (
	"slices"
	"strings"
	"sync/atomic"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// Family describes the metrics of one name. Write adds them to Metrics from the result of a
// scrape. A family without metrics is omitted.
type Family[R any] struct {
	Name, Help string
	Type       dto.MetricType
	Write      func(to *Metrics, from R)
}

// Encoder encodes families from results of type R. Its methods may be called
// concurrently.
type Encoder[R any] struct {
	families []Family[R]
	scratch  atomic.Pointer[Metrics] // reusable memory; nil while in use
}

// NewEncoder returns an Encoder for families. It sorts them by name.
func NewEncoder[R any](families []Family[R]) *Encoder[R] {
	families = slices.Clone(families)
	slices.SortFunc(families, func(a, b Family[R]) int { return strings.Compare(a.Name, b.Name) })
	return &Encoder[R]{families: families}
}

// Encode writes the families of a result, then others. A non-empty names restricts both to
// these names.
func (e *Encoder[R]) Encode(to expfmt.Encoder, names []string, from R, others []*dto.MetricFamily) error {
	wanted := func(name string) bool { return len(names) == 0 || slices.Contains(names, name) }
	m := e.scratch.Swap(nil)
	if m == nil {
		m = new(Metrics)
	}
	defer e.scratch.Store(m)
	for i := range e.families {
		f := &e.families[i]
		if !wanted(f.Name) {
			continue
		}
		m.reset(&f.Name, &f.Help, &f.Type)
		if f.Write(m, from); len(m.family.GetMetric()) == 0 {
			continue
		}
		if err := to.Encode(&m.family); err != nil {
			return err
		}
	}
	for _, f := range others {
		if !wanted(f.GetName()) {
			continue
		}
		if err := to.Encode(f); err != nil {
			return err
		}
	}
	return nil
}
